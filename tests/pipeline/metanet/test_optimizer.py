from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.config.synthesis import MetaNetShape
from pipeline.metanet.network import MetaNet
from pipeline.metanet.optimizer import CLIP, WEIGHT_DECAY, metanet_optimizer, update


@pytest.fixture
def metanet() -> MetaNet:
    torch.manual_seed(0)
    return MetaNet(perspectives=4, features=6, shape=MetaNetShape(width=8, heads=2))


def test_only_matrices_of_metanet_decay(metanet: MetaNet) -> None:
    by_id = {id(parameter): name for name, parameter in metanet.named_parameters()}
    groups = {group["weight_decay"]: {by_id[id(item)] for item in group["params"]} for group in _groups(metanet)}
    assert set(groups) == {WEIGHT_DECAY, 0.0}
    assert "perspective" in groups[0.0]
    assert {"align.weight", "synergy.in_proj_weight", "synergy.out_proj.weight", "heads.3.3.weight"} <= groups[WEIGHT_DECAY]
    assert all(metanet.get_parameter(name).ndim == 2 for name in groups[WEIGHT_DECAY])
    assert all(metanet.get_parameter(name).ndim == 1 for name in groups[0.0] - {"perspective"})
    assert groups[0.0] | groups[WEIGHT_DECAY] == set(by_id.values())


def _groups(metanet: MetaNet) -> list[dict[str, list[Tensor]]]:
    return metanet_optimizer(metanet, 1e-3).param_groups


@pytest.mark.parametrize("norm", [1e-3, 0.5, 40.0])
def test_an_update_is_clipped_to_its_norm(metanet: MetaNet, norm: float) -> None:
    before = [parameter.detach().clone() for parameter in metanet.parameters()]
    random = torch.Generator().manual_seed(1)
    for parameter in metanet.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random)
    whole = torch.nn.utils.get_total_norm([parameter.grad for parameter in metanet.parameters() if parameter.grad is not None])
    for parameter in metanet.parameters():
        assert parameter.grad is not None
        parameter.grad *= norm / whole
    # With plain descent at rate 1, the change of the weights is the gradient.
    update(metanet, torch.optim.SGD(metanet.parameters(), lr=1.0))
    moved = torch.nn.utils.get_total_norm([old - new.detach() for old, new in zip(before, metanet.parameters(), strict=True)])
    assert float(moved) == pytest.approx(min(norm, CLIP), rel=1e-3)
    assert all(parameter.grad is None for parameter in metanet.parameters())

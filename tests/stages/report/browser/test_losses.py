"""Losses are those of the question's own row of the inertia state, also where training left questions out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from pipeline.training.training_set import held_out
from stages.report.browser.losses import Losses
from storage.store import open_store

NAMES = ("a", "b", "c")
MASK_NK = torch.tensor([[1, 1, 1], [0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]).bool()


@pytest.mark.parametrize("perspectives", [None, ["a", "b"]])
@pytest.mark.parametrize("share", [0.0, 0.35])
def test_each_question_finds_its_own_row(perspectives: list[str] | None, share: float, tmp_path: Path) -> None:
    out_N = held_out(len(MASK_NK), share, 3)
    wanted_K = torch.tensor([perspectives is None or name in perspectives for name in NAMES])
    index_N = ((MASK_NK & wanted_K).any(-1) & ~out_N).nonzero()[:, 0]  # as `training_subset` does
    last_NK = torch.arange(len(MASK_NK))[index_N, None] * 10.0 + torch.arange(3)
    state = {"last_NK": last_NK, "visits_NK": torch.ones_like(last_NK) + (index_N[:, None] % 2)}
    settings = {"perspectives": perspectives, "hold_out": share}
    store = open_store(str(tmp_path))
    with store.draft("training", "0" * 16) as draft:
        draft.write_bytes("inertia.safetensors", save(state))
        training = store.commit(draft, {"summary": {}, "config": {"training": settings, "seed": 3}})
    losses = Losses(training, NAMES, len(MASK_NK))
    for n, mask_K in enumerate(MASK_NK):
        kept = [name for name, there in zip(NAMES, mask_K.tolist(), strict=True) if there]
        out, found = losses.next_question(kept, wanted=n != 2)
        assert out == bool(out_N[n])
        if n == 2 or n not in index_N:
            assert found == {}
            continue
        assert list(found) == (perspectives or list(NAMES))
        for name, one in found.items():
            assert one == ((10.0 * n + NAMES.index(name), 1) if n % 2 else (None, 0))

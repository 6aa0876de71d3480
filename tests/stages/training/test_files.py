"""Training set files: they hold exactly the rationales of the synthesis artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.run import RunConfig
from pipeline.model_thoughts import ThoughtForm
from pipeline.prompt_rendering import prompt_tokens
from pipeline.training.training_set import answer_row, context_row, make_row
from stages.synthesis.measurement import feature_table, rationale_table
from stages.synthesis.selection import Kept
from stages.training import stage as training
from stages.training.files import are_written, open_training_set, write_training_files
from storage.artifact import Artifact, Draft
from tests.support.artifacts import write_artifact
from tests.support.runs import tree_of
from tests.support.synthetic_artifacts import PERSPECTIVES, question, rationale

MASK = torch.rand(9, len(PERSPECTIVES), generator=torch.Generator().manual_seed(1)) > 0.4
MASK[:, 0] = True
FEATURES = torch.rand(*MASK.shape, 6)
LOSSES = torch.rand(*MASK.shape)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Artifact:
    """Nine questions in shards of two, each with different rationales missing."""

    def kept(n: int, k: int) -> Kept:
        prompt, text = question(n).text, rationale(n, k)
        row = make_row(tiny_tokenizer, tiny_tokenizer(prompt)["input_ids"], text, str(n), 500, "")
        return Kept(question(n).id, PERSPECTIVES[k], row, prompt, text, str(n))

    def write(draft: Draft) -> dict[str, Any]:
        for first in range(0, len(MASK), 2):
            places = [(n, k) for n, k in MASK.nonzero().tolist() if first <= n < first + 2]
            n, k = ([place[axis] for place in places] for axis in (0, 1))
            rows = [kept(*place) for place in places]
            draft.write_shard("features", feature_table(rows, FEATURES[n, k]))
            draft.write_shard("rationales", rationale_table(rows, LOSSES[n, k]))
        return {"kept_questions": len(MASK)}

    return write_artifact(tmp_path_factory.mktemp("files"), "synthesis", write)


@pytest.fixture
def config(tiny_model: Path) -> training.Config:
    return training.config_of(RunConfig.model_validate(tree_of(tiny_model)))


@pytest.mark.parametrize("left", ["nothing", "half"])
def test_every_row_place_feature_and_loss_is_read_back(
    tmp_path: Path, artifact: Artifact, config: training.Config, tiny_tokenizer: Any, left: str
) -> None:
    if left == "half":
        (tmp_path / "derived").mkdir()
        (tmp_path / "derived" / "tokens.i32").write_bytes(b"half of a file")
        (tmp_path / "derived" / ".features.f32.1.tmp").write_bytes(b"left by a kill")
    assert not are_written(tmp_path)
    write_training_files(config, artifact, tiny_tokenizer, tmp_path)
    assert are_written(tmp_path)
    assert not list((tmp_path / "derived").glob(".*"))

    data = open_training_set(tmp_path, pad=0)
    assert len(data) == len(MASK)
    assert torch.equal(data.mask_NK, MASK)
    assert torch.equal(data.base_losses_NK, LOSSES * MASK)
    assert torch.equal(data.features_NKF, FEATURES * MASK[..., None])
    for n, k in MASK.nonzero().tolist():
        prompt = prompt_tokens(tiny_tokenizer, question(n).text, None)
        for make, found in ((make_row, data.row(n, k)), (context_row, data.context(n, k))):
            assert found == make(tiny_tokenizer, prompt, rationale(n, k), str(n), 512, "")


def test_the_answer_task_has_a_row_for_every_question(
    tmp_path: Path, artifact: Artifact, tiny_model: Path, tiny_tokenizer: Any
) -> None:
    tree = tree_of(tiny_model)
    tree["prompts"] = {"answer": "{{ prompt }} At once:"}
    tree["training"] |= {"answer_weight": 0.5}
    config = training.config_of(RunConfig.model_validate(tree))
    write_training_files(config, artifact, tiny_tokenizer, tmp_path)
    data = open_training_set(tmp_path, pad=0)
    for n in range(len(MASK)):
        prompt = prompt_tokens(tiny_tokenizer, f"{question(n).text} At once:", None)
        assert data.answer(n) == answer_row(tiny_tokenizer, prompt, str(n), 512, "", ThoughtForm())

"""Exported datasets: the rationales of synthesis in every format, read by `datasets`, with the weights of the trained MetaNet."""

from __future__ import annotations

import copy
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.config.models import LocalModel, Turns
from pipeline.errors import ConfigError
from pipeline.model_folders import load_tokenizer
from pipeline.prompt_rendering import prompt_tokens, rationale_tokens
from stages.dataset_export import _COMMON, FORMATS, Format, _texts, export_data, schema_of
from stages.shared.metanet_weights import weigher
from storage.artifact import Artifact
from storage.atomic import read_parquet
from storage.store import Store, open_store
from tests.support.kill_campaign import STAGES
from tests.support.runs import REPOSITORY

STUDENT = LocalModel(path=REPOSITORY / "pipeline/miniature/models/student", chat=False)


@pytest.fixture(scope="module")
def store(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    copy = tmp_path_factory.mktemp("root") / "artifacts"
    shutil.copytree(undisturbed, copy)
    return open_store(str(copy))


def _stages(store: Store, without: str = "") -> dict[str, str]:
    return {stage: store.fingerprints(stage)[0] for stage in STAGES if stage != without}


def _synthesis(store: Store) -> Artifact:
    return store.open("synthesis", _stages(store)["synthesis"])


def test_a_dataset_has_every_kept_rationale_as_it_was_trained_on(store: Store, tmp_path: Path) -> None:
    from datasets import load_dataset

    count = export_data(store, "run", _stages(store), "prompt-completion", tmp_path / "out", licence="apache-2.0")
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")).to_list()
    kept = _synthesis(store).table("rationales").to_pylist()
    assert count == len(rows) == len(kept)
    tokenizer = load_tokenizer(STUDENT)
    for row, made in zip(rows, kept, strict=True):
        assert (row["prompt"], row["completion"]) == (made["prompt"], made["rationale"])
        assert {name: row[name] for name in ("question_id", "perspective", "answer")} == {
            name: made[name] for name in ("question_id", "perspective", "answer")
        }
        assert len(rationale_tokens(tokenizer, row["completion"])) == made["tokens"]


def test_weights_of_a_question_sum_to_one_and_some_rationales_are_left_out(store: Store, tmp_path: Path) -> None:
    export_data(store, "run", _stages(store), "prompt-completion", tmp_path / "out")
    sums: dict[str, float] = defaultdict(float)
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    for row in rows:
        sums[row["question_id"]] += row["weight"]
    assert list(sums.values()) == pytest.approx([1.0] * len(sums), abs=1e-5)
    assert 0 < sum(row["weight"] == 0 for row in rows) < len(rows)


def _weights(store: Store, changes: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Rows of the exported dataset as if the training had had other settings."""
    training = store.open("training", _stages(store)["training"])
    settings = copy.deepcopy(training.manifest["config"])
    for section, change in changes.items():
        settings["training"][section] = {**settings["training"][section], **change} if isinstance(change, dict) else change
    changed = Artifact(training.folder, {**training.manifest, "config": settings}, None)
    weighed = weigher(_synthesis(store), changed, training.path("metanet.safetensors"))
    rows = _synthesis(store).table("rationales").to_pylist()
    assert weighed is not None
    losses = {(row["question_id"], row["perspective"]): row["base_loss"] for row in rows}
    shares = {}
    for features in _synthesis(store).files("features"):
        shares |= weighed(read_parquet(features), losses)
    return [{**row, "weight": shares[row["question_id"], row["perspective"]].weight} for row in rows]


def test_fixed_weights_prefer_what_the_base_finds_likely(store: Store, tmp_path: Path) -> None:
    by_question: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in _weights(store, {"mixture": {"weights": "static"}}, tmp_path):
        by_question[row["question_id"]].append(row)
    for rows in by_question.values():
        likely = sorted(rows, key=lambda row: row["base_loss"])
        assert [row["weight"] for row in likely] == sorted((row["weight"] for row in rows), reverse=True)
        assert sum(row["weight"] for row in rows) == pytest.approx(1.0, abs=1e-5)


def test_a_training_on_some_perspectives_gives_the_others_no_weight(store: Store, tmp_path: Path) -> None:
    rows = _weights(store, {"perspectives": ["formal", "planning"]}, tmp_path)
    assert {row["perspective"] for row in rows if row["weight"] > 0} == {"formal", "planning"}


def test_a_step_of_another_trainer_takes_the_exported_rows_as_they_are(store: Store, tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    export_data(store, "run", _stages(store), "prompt-completion", tmp_path / "out")
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")).select(range(8))
    tokenizer = load_tokenizer(STUDENT)
    settings = SFTConfig(
        output_dir=str(tmp_path / "trl"), max_steps=1, per_device_train_batch_size=8, learning_rate=1e-3, max_length=None,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(STUDENT.path), args=settings, train_dataset=rows, processing_class=tokenizer
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert any(not torch.equal(before[name], value) for name, value in trainer.model.state_dict().items())
    for mine, theirs in zip(rows, trainer.train_dataset, strict=True):
        tokens = [*prompt_tokens(tokenizer, mine["prompt"], None), *rationale_tokens(tokenizer, mine["completion"])]
        assert theirs["input_ids"] == tokens


def test_without_a_training_weights_are_unknown(store: Store, tmp_path: Path) -> None:
    export_data(store, "run", _stages(store, without="training"), "prompt-completion", tmp_path / "out")
    assert pq.read_table(tmp_path / "out" / "train.parquet")["weight"].null_count > 0


def test_json_lines_have_the_rows_of_parquet(store: Store, tmp_path: Path) -> None:
    for name, lines in (("parquet", False), ("lines", True)):
        export_data(store, "run", _stages(store), "prompt-completion", tmp_path / name, lines=lines)
    told = [json.loads(line) for line in (tmp_path / "lines" / "train.jsonl").read_text().splitlines()]
    rows = pq.read_table(tmp_path / "parquet" / "train.parquet").to_pylist()
    assert [{**row, "weight": None} for row in told] == [{**row, "weight": None} for row in rows]
    assert [row["weight"] for row in told] == pytest.approx([row["weight"] for row in rows])


def test_card_and_description_name_the_file_and_no_path_of_this_machine(store: Store, tmp_path: Path) -> None:
    export_data(store, "my run", _stages(store), "prompt-completion", tmp_path / "out", licence="apache-2.0")
    card = (tmp_path / "out" / "README.md").read_text()
    assert [part in card for part in ("license: apache-2.0", "data_files: train.parquet", "# my run", "miniature dial")] == [
        True
    ] * 4
    assert str(REPOSITORY) not in card
    info = json.loads((tmp_path / "out" / "dataset_info.json").read_text())["mind"]
    assert info == {"file_name": "train.parquet", "columns": {"prompt": "prompt", "response": "completion"}}


def _said(form: Format, row: dict[str, Any]) -> list[str]:
    """System turn, prompt and rationale of a row, whatever its format."""
    match form:
        case "messages":
            return [turn["content"] for turn in row["messages"]]
        case "prompt-completion":
            return [turn["content"] for turn in row["prompt"] + row["completion"]]
        case "sharegpt":
            return [row["system"], *(turn["value"] for turn in row["conversations"])]
        case "alpaca":
            return [row["system"], row["instruction"] + row["input"], row["output"]]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_has_the_turns_of_a_chat_student(form: Format) -> None:
    row = _texts(form, "2 + 2?", "It is 4.", Turns(system="Be brief."))
    assert _said(form, row) == ["Be brief.", "2 + 2?", "It is 4."]
    common = dict.fromkeys((name for name, _ in _COMMON), None)
    assert pa.Table.from_pylist([{**row, **common}], schema=schema_of(form, True)).to_pylist() == [{**row, **common}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"form": "messages"}, "--format messages: the student reads plain text .* use prompt-completion"),
        ({"form": "csv"}, "--format 'csv': unknown; use one of messages, prompt-completion, sharegpt, alpaca"),
        ({"licence": "MIT\nx: y"}, "--licence .* expected an identifier"),
        ({"without": "synthesis"}, "has no synthesis artifact"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_leaves_no_folder(
    store: Store, tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    form, stages = changes.get("form", "prompt-completion"), _stages(store, changes.get("without", ""))
    with pytest.raises(ConfigError, match=said):
        export_data(store, "run", stages, form, tmp_path / "out", licence=changes.get("licence"))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_kept(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already exists; give a new folder"):
        export_data(store, "run", _stages(store), "prompt-completion", tmp_path)
    assert list(tmp_path.iterdir()) == []

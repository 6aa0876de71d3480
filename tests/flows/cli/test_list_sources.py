"""`mind sources`: the table and its JSON form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli.list_sources import sources
from pipeline.questions.named_benchmarks import entries
from tests.support.runs import write_config


def printed(capsys: pytest.CaptureFixture[str], config: Path | None = None) -> list[dict[str, Any]]:
    sources(config, True)
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_every_benchmark_is_listed_with_licence_splits_and_restrictions(capsys: pytest.CaptureFixture[str]) -> None:
    found = {row["name"]: row for row in printed(capsys)}
    assert list(found) == list(entries())
    assert found["gsm8k"]["splits"] == "train, test"
    assert (found["gsm8k"]["licence"], found["gsm8k"]["evaluation only"]) == ("MIT", "")
    assert found["bbh"]["evaluation only"] == "yes"
    assert len(found["agieval"]["hub"].splitlines()) == len(found["agieval"]["tasks"]) == 5
    sources(None, False)
    table = capsys.readouterr().out
    assert all(name in table for name in entries())


def test_a_run_is_shown_with_its_local_copies_and_missing_ones(
    tmp_path: Path, run_tree: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data" / "gsm8k").mkdir(parents=True)
    run_tree["questions"]["folder"] = "data"
    run_tree["questions"]["train"] = [{"kind": "named", "name": name, "split": "train"} for name in ("gsm8k", "aqua")]
    found = printed(capsys, write_config(tmp_path, run_tree))
    assert [row["read from"] for row in found[:3]] == [
        str(tmp_path / "data/gsm8k"),
        f"{tmp_path / 'data/aqua'} (not found)",
        "dial",
    ]
    del run_tree["questions"]["folder"]
    assert (
        printed(capsys, write_config(tmp_path, run_tree))[0]["read from"]
        == f"openai/gsm8k@{entries()['gsm8k'].source['revision']}"
    )

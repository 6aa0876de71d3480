"""Comparison of arms: figures follow from the answers, and arms with different items are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest

from stages.experiments.comparison import Finished, compare, write
from storage.errors import ArtifactError
from storage.store import open_store
from tests.support.finished_runs import ARMS, ITEMS, finished_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Finished]:
    return finished_runs(tmp_path_factory.mktemp("science"))


def _row(found: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = (row for row in found["arms"] if row["arm"] == name)
    return dict(row)


def test_means_changes_and_costs_follow_from_the_answers(runs: list[Finished]) -> None:
    found = compare(runs, "mind")
    assert found["items"] == {"id": 60, "ood": 60}
    assert found["base"]["id"] == pytest.approx(10 / 60)
    weak = _row(found, "weak")
    assert weak["id"]["mean"] == pytest.approx(0.5)
    assert weak["id"]["against"]["change"] == pytest.approx(-20 / 60)
    assert weak["id"]["against"]["high"] < 0
    assert weak["id"]["against"]["p_holm"] < 0.01
    assert weak["ood"]["against"]["p_holm"] == 1
    assert weak["id"]["interval"]["gain"] == pytest.approx(20 / 60)
    assert (weak["steps"], weak["tokens"], weak["kept"]) == (9, 100, 4)
    assert _row(found, "mind")["id"]["against"] is None


def test_differences_between_seeds_alone_are_not_significant(runs: list[Finished]) -> None:
    luck = _row(compare(runs, "mind"), "luck")["id"]
    assert luck["against"]["change"] == pytest.approx(0)
    assert luck["against"]["low"] < 0 < luck["against"]["high"]
    assert luck["spread"] == pytest.approx(np.std([48 / 60, 52 / 60], ddof=1))
    assert luck["against"]["detectable"] > 0


def test_claims_compare_with_the_best_baseline_and_forgetting_with_the_base(runs: list[Finished]) -> None:
    found = compare(runs, "mind")
    said = found["claims"]
    assert (said["id"]["best"], said["ood"]["best"]) == ("luck", "weak")
    assert said["id"]["margin"] == pytest.approx(0)
    assert said["id"]["low"] < 0 < said["id"]["high"]
    assert said["forgetting"] == {"mind": pytest.approx(10 / 60 - 50 / 60)}
    assert compare(runs, "luck")["claims"] is None


def test_claims_average_over_the_specialists(runs: list[Finished]) -> None:
    single = [run._replace(arm=run.arm._replace(name="single-formal")) for run in runs if run.arm.name == "weak"]
    said = compare([*runs, *single], "mind")["claims"]
    assert said["singles"] == {"id": pytest.approx(0.5), "ood": pytest.approx(50 / 60)}
    assert said["forgetting"]["specialists' mean"] == said["forgetting"]["single-formal"] == pytest.approx(-40 / 60)


def test_accuracies_are_reported_per_evaluation_set(runs: list[Finished]) -> None:
    found = compare(runs, "mind")
    assert found["sets"] == {group: [f"{group}-{number}" for number in range(3)] for group in ("id", "ood")}
    assert _row(found, "weak")["sets"]["id-1"] == pytest.approx(10 / 20)
    assert found["base"]["sets"]["ood-0"] == pytest.approx(4 / 20)


def test_all_runs_are_written_to_tables_page_and_plot(runs: list[Finished], tmp_path: Path) -> None:
    found = write(runs, "mind", tmp_path)
    assert orjson.loads((tmp_path / "arms.json").read_bytes())["arms"][0]["arm"] == found["arms"][0]["arm"]
    assert pq.read_table(tmp_path / "items.parquet").num_rows == len(runs) * len(ITEMS)
    assert pq.read_table(tmp_path / "runs.parquet").num_rows == len(runs)
    page = (tmp_path / "science.html").read_text()
    for name, arm in ARMS.items():
        assert name in page
        assert arm.says in page
    assert (tmp_path / "arms.png").read_bytes().startswith(b"\x89PNG")


def test_an_arm_with_different_items_is_refused(runs: list[Finished], tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with store.draft("evaluation", "f" * 16) as draft:
        draft.write_shard("items", runs[0].evaluation.table("items").slice(1))
        other = store.commit(draft, {"summary": runs[0].evaluation.summary, "timing": {}})
    with pytest.raises(ArtifactError, match="answered different items"):
        compare([*runs, runs[0]._replace(seed=2, evaluation=other)], "mind")


def test_a_reference_arm_without_a_run_is_refused(runs: list[Finished]) -> None:
    with pytest.raises(ArtifactError, match="no finished run of the arm 'uniform'"):
        compare(runs, "uniform")

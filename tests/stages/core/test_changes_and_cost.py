"""What a plan is compared with: related artifacts only; costs with other models, engines or adapters are unknown."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.config.run import load_config
from pipeline.generation.servers.spending import Usage, ledger_file, raise_to
from stages.core.changes_and_cost import Explained, explain
from stages.core.paid_tokens import journal_file
from stages.core.plan import plan
from stages.core.summaries import SamplingSummary
from storage.catalogue import record_run
from storage.store import open_store
from tests.support.kill_campaign import CONFIG, STAGES, overrides

MANY = (
    "training.learning_rate=1e-3", "training.metanet_rate=5e-4", "training.hold_out=0.2", "training.mixture.beta=0.1",
    "training.mixture.min_kept=3", "training.weight_decay=0.1", "training.steps=13",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the name `earlier`."""
    copy = tmp_path_factory.mktemp("root") / "artifacts"
    shutil.copytree(undisturbed, copy)
    store = open_store(str(copy))
    record_run(store.backend, "earlier", {stage: store.fingerprints(stage)[0] for stage in STAGES}, {}, "done")
    return copy


def explained(root: Path, *changes: str) -> dict[str, Explained]:
    run = load_config(CONFIG, (*overrides(root, "http://127.0.0.1:9/v1"), *changes))
    return {item.stage: item for item in explain(run, plan(run))}


@pytest.mark.parametrize("name", ["earlier", "new"])
def test_a_run_is_compared_with_one_that_differs_in_a_few_fields(root: Path, name: str) -> None:
    found = explained(root, f"name={name}", "training.steps=24")
    assert found["synthesis"].state == "cached"
    assert [change.field for change in found["training"].changes] == ["config.training.steps"]
    assert found["training"].expected is not None
    assert found["evaluation"].expected is not None


def test_a_new_run_is_not_compared_with_an_unrelated_one(root: Path) -> None:
    found = explained(root, "name=new", *MANY)["training"]
    assert (found.state, found.against, found.changes, found.expected) == ("run", None, [], None)


def test_a_run_is_always_compared_with_earlier_ones_of_its_name(root: Path) -> None:
    assert len(explained(root, "name=earlier", *MANY)["training"].changes) >= len(MANY)


def test_the_time_of_a_training_with_adapters_is_unknown_and_so_is_that_of_later_stages(root: Path) -> None:
    found = explained(root, "name=earlier", "training.lora={rank: 4}")
    assert all(change.field.startswith("config.training.lora") for change in found["training"].changes)
    assert [found[stage].expected for stage in ("training", "evaluation", "report")] == [None] * 3


PRICES = "sampling.engine.prices={currency: USD, input: 2.0, output: 10.0}"


def test_a_plan_states_what_a_server_is_expected_to_cost_at_the_prices_of_now(root: Path) -> None:
    (digest,) = open_store(str(root)).fingerprints("sampling")
    spent = SamplingSummary.of(open_store(str(root)).open("sampling", digest)).spent
    assert spent is not None
    assert (spent["teacher"].requests, spent["teacher"].cost) == (24 * 8, None)
    found = explained(root, "name=earlier", "sampling.samples=2", PRICES)
    twice = 2 * (spent["teacher"].input_tokens * 2.0 + spent["teacher"].output_tokens * 10.0) / 1e6
    assert found["sampling"].expected is not None
    assert found["sampling"].expected.cost == {"USD": pytest.approx(twice)}
    assert {stage: item.paid for stage, item in found.items()} == {stage: {} for stage in STAGES}


def test_a_plan_states_what_an_unfinished_stage_has_paid(root: Path) -> None:
    changes = ("name=earlier", "sampling.samples=3", PRICES)
    item = explained(root, *changes)["sampling"]
    scratch = open_store(str(root)).folder("sampling", item.fingerprint).with_suffix(".scratch")
    raise_to(ledger_file(journal_file(scratch, "teacher")), Usage(5, 1_000_000, 0, 1_000_000))
    found = explained(root, *changes)["sampling"]
    assert (found.state, found.paid) == ("resume", {"USD": pytest.approx(12.0)})


def test_the_report_states_what_servers_were_asked_for(root: Path) -> None:
    (page,) = root.glob("report/*/report.html")
    table = page.read_text().partition('<table id="spent">')[2].partition("</table>")[0]
    assert [mark in table for mark in ("<td>sampling</td>", ">teacher</td>", "<td>192</td>", "<td>–</td>")] == [True] * 4

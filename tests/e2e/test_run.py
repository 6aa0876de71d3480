"""The main run: one command with all real parts; a second run finds everything cached."""

from __future__ import annotations

import html
import re
import resource

import pytest

from stages.core.plan import ORDER
from stages.report.browser.browse import policy
from storage.backend import LocalBackend
from storage.catalogue import read_pointer, read_runs
from storage.store import Store
from storage.verify import verify
from tests.support.end_to_end import Run, mind, overrides

pytestmark = pytest.mark.e2e


def test_the_output_has_accuracies_token_ledger_times_and_report(finished: Run) -> None:
    for words in (
        "base",
        "student",
        "teacher",
        "ID",
        "OOD",
        "sampled",
        "right",
        "kept",
        "trained",
        "seconds",
        "miniature models",
    ):
        assert words in finished.output
    report = re.search(r"Report: (\S+report\.html)", finished.output)
    assert report is not None
    assert (finished.artifact("report") / "report.html").samefile(report[1])


def test_a_second_run_is_cached_within_20_cpu_seconds(finished: Run) -> None:
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = mind("run", "configs/miniature.yaml", *overrides(finished.root))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 20
    for stage in ORDER:
        assert re.search(rf"^{stage}\s+cached", answer.stdout, re.MULTILINE), answer.stdout


def test_every_artifact_matches_its_manifest(finished: Run) -> None:
    for stage in ORDER:
        manifest = finished.manifest(stage)
        assert verify(Store(finished.root), stage, manifest["fingerprint"]) == []
        assert manifest["provenance"]["packages"]["torch"]


def test_every_question_is_sampled_in_every_perspective_with_own_seeds(finished: Run) -> None:
    samples = finished.rows("sampling", "samples")
    keys = [(row["question_id"], row["perspective"], row["sample_index"]) for row in samples]
    assert len(set(keys)) == len(keys)
    assert len({(question, perspective) for question, perspective, _ in keys}) == 48 * 8
    assert len({row["seed"] for row in samples}) > 0.999 * len(samples)
    assert all(row["cumulative_logprob"] < 0 and row["completion_tokens"] > 0 for row in samples)
    again = {key[:2] for key in keys if key[2] == 1}
    assert again == {key[:2] for key, row in zip(keys, samples, strict=True) if key[2] == 0 and row["outcome"] != "correct"}


def test_every_step_is_logged_once(finished: Run) -> None:
    steps = finished.rows("training", "steps")
    assert [row["step"] for row in steps] == list(range(24))
    for row in steps:
        assert sum(row["alpha_K"]) == pytest.approx(1, abs=1e-5)
        assert row["kept"] >= 2
        assert 1 <= row["effective_number"] <= 8
        assert row["tokens_per_second"] > 0
        assert row["gradient_norm"] > 0


def test_the_student_loads_in_transformers_and_differs_from_its_base(finished: Run) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished.artifact("training") / "student"
    student = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained("pipeline/miniature/models/student")
    moved = [not torch.equal(a, b) for a, b in zip(student.parameters(), base.parameters(), strict=True)]
    assert all(moved)
    assert len(AutoTokenizer.from_pretrained(folder)) <= student.config.vocab_size


def test_base_teacher_and_student_answered_the_same_items(finished: Run) -> None:
    references, own = finished.rows("references", "items"), finished.rows("evaluation", "items")
    by_model = {
        model: {row["question_id"] for row in [*references, *own] if row["model"] == model}
        for model in ("base", "teacher", "student")
    }
    assert (len(references), len(own)) == (2 * 96, 96)
    assert by_model["base"] == by_model["teacher"] == by_model["student"]


def test_the_report_is_one_self_contained_page(finished: Run) -> None:
    page = (finished.artifact("report") / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert page.count("<script") == 2  # the samples as data, and the one script that the page's policy allows
    assert f'content="{html.escape(policy())}"'.replace("&#x27;", "&#39;") in page
    for words in ("Accuracy by set", "Weight of each perspective over steps", "Token ledger", "McNemar", "truncated"):
        assert words in page
    assert "From what the student was made" in page
    images = list(finished.artifact("report").glob("*.png"))
    assert len(images) == page.count("data:image/png;base64,") == 7


def test_the_run_is_in_the_catalogue(finished: Run) -> None:
    (run,) = read_runs(LocalBackend(finished.root)).runs
    assert run["status"] == "done"
    assert run["stages"] == {stage: finished.manifest(stage)["fingerprint"] for stage in ORDER}
    latest = read_pointer(LocalBackend(finished.root), "latest")
    assert latest is not None
    assert latest["run"] == "miniature"

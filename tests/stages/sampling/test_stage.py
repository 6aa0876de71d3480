from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pipeline.config.run import RunConfig
from pipeline.errors import EngineError, QuestionError
from pipeline.text_digests import seed_of
from stages.core.progress import Progress
from stages.core.summaries import SamplingSummary
from stages.sampling import stage as sampling
from storage.artifact import Artifact, Draft
from storage.mirror import DERIVED
from tests.support.artifacts import write_artifact
from tests.support.fake_batches import Provider, provide
from tests.support.fake_teacher import Asked, Fault, reply, serve
from tests.support.questions.tables import training_table
from tests.support.runs import tree_of
from tests.support.synthetic_artifacts import question

names = st.text(max_size=20)


@given(st.tuples(st.integers(), names, names, st.integers(0, 99)))
def test_a_seed_has_31_bits(parts: tuple[int | str, ...]) -> None:
    assert 0 <= seed_of(*parts) < 2**31


def test_every_part_of_a_sample_changes_its_seed() -> None:
    parts = (0, "q", "formal", 0)
    assert (
        len(
            {
                seed_of(*parts),
                seed_of(1, *parts[1:]),
                seed_of(0, "r", "formal", 0),
                seed_of(0, "q", "plan", 0),
                seed_of(*parts[:3], 1),
            }
        )
        == 5
    )


def test_a_seed_is_the_same_on_every_machine() -> None:
    assert seed_of(0, "q", "formal", 0) == 976521057


QUESTIONS = 7


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    def write(draft: Draft) -> dict[str, Any]:
        for first in range(0, QUESTIONS, 3):
            draft.write_shard("questions", training_table([question(n) for n in range(first, min(first + 3, QUESTIONS))]))
        return {"train": QUESTIONS}

    return write_artifact(tmp_path_factory.mktemp("questions"), "questions", write)


def sampled(
    root: Path,
    model: Path,
    read: Artifact,
    per_shard: int,
    more: dict[str, Any] | None = None,
    kept: Artifact | None = None,
    **engine: Any,
) -> Artifact:
    """The stage's artifact with a random teacher; the first shard of `kept` is already committed, as after a kill."""
    tree = tree_of(model) | {"only_perspectives": ["formal", "planning"]}
    tree["sampling"] = {
        "engine": {"kind": "transformers", "dtype": "float32", **engine}, "max_tokens": 2, "tries": 2, "questions_per_shard": per_shard,
        **(more or {}),
    }  # fmt: skip
    config = sampling.config_of(RunConfig.model_validate(tree))

    def write(draft: Draft) -> dict[str, Any]:
        if kept is not None:
            draft.write_shard("samples", kept.table("samples").slice(0, 3 * 2 * 2))
        return sampling.run(config, {"questions": read}, draft, Progress(root / "progress", "sampling"))

    root.mkdir(exist_ok=True)
    return write_artifact(root, "sampling", write)


def test_resume_samples_only_what_is_missing_at_any_shard_size(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    whole = sampled(tmp_path / "whole", tiny_model, questions, 3)
    rows = whole.table("samples").to_pylist()
    assert len(rows) == QUESTIONS * 2 * 2
    assert len(whole.files("samples")) == 3
    resumed = sampled(tmp_path / "resumed", tiny_model, questions, 2, kept=whole)
    assert len(resumed.files("samples")) == 3
    texts = [
        [{name: row[name] for name in ("question_id", "perspective", "sample_index", "seed", "text")} for row in found]
        for found in (rows, resumed.table("samples").to_pylist())
    ]
    assert texts[0] == texts[1]
    summaries = [{**artifact.summary, "tokens_per_second": 0} for artifact in (whole, resumed)]
    assert summaries[0] == summaries[1]


def test_an_overlong_question_is_refused_before_the_teacher_is_loaded(
    tmp_path: Path, tiny_model: Path, questions: Artifact
) -> None:
    with pytest.raises(QuestionError, match="exceeds the context of 16"):
        sampled(tmp_path / "long", tiny_model, questions, 3, max_context=16)
    assert not list(tmp_path.glob("long/sampling/*.partial/samples-*"))


def test_a_question_over_the_student_max_length_is_refused_up_front(
    tmp_path: Path, tiny_model: Path, questions: Artifact
) -> None:
    tree = tree_of(tiny_model) | {"training": {"max_length": 9}}
    tree["sampling"] = {"engine": {"kind": "openai", "base_url": "http://127.0.0.1:1", "served_model": "nobody"}}
    config = sampling.config_of(RunConfig.model_validate(tree))

    def write(draft: Draft) -> dict[str, Any]:
        return sampling.run(config, {"questions": questions}, draft, Progress(tmp_path / "progress", "sampling"))

    said = r"the longest of 7 that are too long, has \d+ student tokens, which leaves no room for a rationale within training.max_length 9;"
    with pytest.raises(QuestionError, match=said):
        write_artifact(tmp_path, "sampling", write)


def test_a_question_over_the_judge_context_is_refused_up_front(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    judge = {"model": {"path": str(tiny_model), "chat": False}, "max_tokens": 8}
    judge["engine"] = {"kind": "transformers", "dtype": "float32", "max_context": 40}
    with pytest.raises(
        QuestionError, match=r"its judge prompt, the longest of 7 .* context of 40; raise engine.max_context to"
    ):
        sampled(tmp_path / "judged", tiny_model, questions, 3, {"judge": judge})


def from_server(root: Path, model: Path, read: Artifact, url: str | list[str]) -> Artifact:
    return sampled(root, model, read, 7, kind="openai", base_url=url, served_model="simulated", connections=2)


def test_no_request_of_an_unfinished_shard_is_paid_twice(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    paid: Counter[tuple[str, int]] = Counter()

    def write(prompt: str, seed: int) -> str:
        paid[prompt, seed] += 1
        return f"{seed} The answer is \\boxed{{{seed % 10}}}."

    def gone(asked: Asked) -> Fault | None:
        return Fault(404) if sum(paid.values()) >= 9 and asked else None

    with serve(write) as url:
        whole = from_server(tmp_path / "whole", tiny_model, questions, url)
    wanted = paid.copy()
    paid.clear()
    with serve(write, gone) as url, pytest.raises(EngineError, match="404"):
        from_server(tmp_path / "killed", tiny_model, questions, url)
    first = paid.copy()
    assert 9 <= sum(first.values()) <= 10
    scratch = next((tmp_path / "killed").glob("sampling/*.scratch"))
    assert not list((tmp_path / "killed").glob("sampling/*.partial/samples-*"))
    (tmp_path / "resumed" / "sampling").mkdir(parents=True)
    scratch.rename(tmp_path / "resumed" / "sampling" / scratch.name)
    with serve(write) as url:
        resumed = from_server(tmp_path / "resumed", tiny_model, questions, url)
    assert resumed.table("samples") == whole.table("samples")
    assert paid == wanted, "each request once, in both processes together"
    assert not list((tmp_path / "resumed").glob(f"sampling/*.scratch/{DERIVED}/*"))


def test_batches_that_are_left_and_fetched_give_the_rows_of_the_ordinary_engine(
    tmp_path: Path, tiny_model: Path, questions: Artifact
) -> None:
    def write(prompt: str, seed: int) -> str:
        return f"The answer is \\boxed{{{seed % 10}}}."

    server: dict[str, Any] = {"kind": "openai", "served_model": "simulated"}
    with serve(write) as url:
        whole = sampled(tmp_path / "whole", tiny_model, questions, 4, base_url=url, **server)
    provider, ended = Provider(write=write), 0
    with provide(provider) as url:
        while True:
            try:
                found = sampled(
                    tmp_path / "batches", tiny_model, questions, 4, base_url=url, batches=True, batch_hours=0, **server
                )
                break
            except EngineError as error:
                assert (error.exit_code, "run again to fetch" in str(error)) == (1, True)
                ended += 1
                assert ended < 50
    assert found.table("samples") == whole.table("samples")
    assert set(provider.paid.values()) == {1}
    assert ended >= 2, "the samples of the first try, and those of the second"
    assert not list((tmp_path / "batches").glob(f"sampling/*.scratch/{DERIVED}/*"))


def test_two_servers_give_the_artifact_of_one(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    asked: list[set[str]] = [set(), set()]

    def writer(number: int) -> Callable[[str, int], str]:
        def write(prompt: str, seed: int) -> str:
            asked[number].add(prompt)
            time.sleep(0.02)
            return f"{seed} The answer is \\boxed{{{seed % 10}}}."

        return write

    with serve(writer(0)) as one, serve(writer(1)) as other:
        alone = from_server(tmp_path / "alone", tiny_model, questions, one)
        asked[0].clear()
        both = from_server(tmp_path / "both", tiny_model, questions, [one, other])
    assert all(asked)
    assert both.table("samples") == alone.table("samples")


def test_the_summary_says_what_the_server_was_paid_for(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    """Also what an earlier process paid, and what another machine did, as far as its shards say."""
    server: dict[str, Any] = {"kind": "openai", "served_model": "simulated"}
    prices = {"currency": "EUR", "input": 2.0, "output": 8.0}
    with serve(lambda prompt, seed: "I do not know.") as url:
        whole = sampled(tmp_path / "whole", tiny_model, questions, 3, base_url=url, prices=prices, **server)
        resumed = sampled(tmp_path / "resumed", tiny_model, questions, 3, kept=whole, base_url=url, prices=prices, **server)
        free = sampled(tmp_path / "free", tiny_model, questions, 3, base_url=url, **server)
    rows = whole.table("samples").to_pylist()
    tokens = sum(row["completion_tokens"] for row in rows)
    counts = {
        "requests": len(rows),
        "input_tokens": 10 * len(rows),
        "cached_tokens": 0,
        "output_tokens": tokens,
        "unanswered": 0,
    }
    cost = (10 * len(rows) * 2.0 + tokens * 8.0) / 1e6
    assert (
        whole.summary["spent"]
        == resumed.summary["spent"]
        == {"teacher": {**counts, "cost": pytest.approx(cost), "currency": "EUR"}}
    )
    assert free.summary["spent"] == {"teacher": counts}
    assert SamplingSummary.of(whole).spent


def test_truncated_samples_in_a_loop_are_counted_apart(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    def write(prompt: str, seed: int) -> str:
        return "I am not sure. Let me think again about it. " * 40 if seed % 2 else "First, the numbers are these: "

    def cut(asked: Asked) -> Fault | None:
        if not asked:
            return None
        said = reply(write(asked["prompt"], asked["seed"]))
        said["choices"][0]["finish_reason"] = "length"
        return Fault(body=json.dumps(said).encode())

    with serve(fault=cut) as url:
        found = sampled(tmp_path / "x", tiny_model, questions, 3, kind="openai", base_url=url, served_model="simulated")
    rows = found.table("samples").to_pylist()
    for name in ("formal", "planning"):
        mine = [row for row in rows if row["perspective"] == name]
        assert found.summary["outcomes"][name]["truncated"] == len(mine)
        assert found.summary["looping"][name] == sum(row["seed"] % 2 for row in mine)
        assert 0 < found.summary["looping"][name] < len(mine)


def test_an_empty_answer_is_unparsed_and_retried_with_another_seed(
    tmp_path: Path, tiny_model: Path, questions: Artifact
) -> None:
    with serve(lambda prompt, seed: "") as url:
        rows = from_server(tmp_path / "empty", tiny_model, questions, url).table("samples").to_pylist()
    assert {(row["outcome"], row["text"]) for row in rows} == {("unparsed", "")}
    assert len(rows) == QUESTIONS * 2 * 2
    assert len({row["seed"] for row in rows}) == len(rows)


SAID = {0: "It is right.\nCORRECT", 1: "<think>WRONG?</think>\n**Wrong.**", 2: "Hard to say."}
"""The judge's reply by question number."""


def judged(root: Path, model: Path, read: Artifact, url: str, **judge: Any) -> Artifact:
    server = {"kind": "openai", "base_url": url, "served_model": "simulated", "connections": 2}
    asked = {"model": {"served": True, "chat": False}, "engine": server, **judge}
    return sampled(root, model, read, 7, {"judge": asked}, **server)


def test_the_judge_grades_only_samples_that_rules_cannot_read(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    def write(prompt: str, seed: int) -> str:
        number = int(prompt.split("Item ")[1].split(":")[0])
        if "Right answer:" in prompt:
            return SAID[number]
        return "Whoever thinks knows." if number in SAID else f"So it is. The answer is \\boxed{{{number % 10}}}."

    with serve(write) as url:
        found = judged(tmp_path / "judged", tiny_model, questions, url)
    rows = found.table("samples").to_pylist()
    by_number: dict[int, set[tuple[Any, ...]]] = {}
    for row in rows:
        by_number.setdefault(int(row["question_id"][-8:]), set()).add((row["outcome"], row["rule"], row["judged"]))
    assert by_number[0] == {("correct", "judge", SAID[0])}
    assert by_number[1] == {("wrong", "judge", SAID[1])}
    assert by_number[2] == {("unparsed", None, SAID[2])}, "what is no verdict is neither right nor wrong"
    assert all({judged for _, _, judged in by_number[number]} == {None} for number in range(3, QUESTIONS))
    # Correct at the first try: two perspectives. Never correct: two tries for each.
    assert found.summary["judged"] == {"correct": 2, "wrong": 4, "unreadable": 4}


def long_winded(prompt: str, seed: int) -> str:
    """A teacher without answers: item 0 is too long for the judge, item 1 is empty after thoughts, item 2 has long thoughts."""
    number = int(prompt.split("Item ")[1].split(":")[0])
    return {0: "Well, " * 400, 1: "I wonder.</think>\n", 2: f"{'Hm, ' * 400}</think>Who knows."}.get(number, "Who knows.")


def test_a_local_judge_skips_overlong_samples_and_sees_no_thoughts(
    tmp_path: Path, tiny_model: Path, questions: Artifact
) -> None:
    judge = {"model": {"path": str(tiny_model), "chat": False}, "max_tokens": 2}
    judge["engine"] = {"kind": "transformers", "dtype": "float32", "max_context": 600}
    with serve(long_winded) as url:
        served = {"kind": "openai", "base_url": url, "served_model": "simulated", "connections": 2}
        found = sampled(tmp_path / "long", tiny_model, questions, 7, {"judge": judge}, **served)
    rows = found.table("samples").to_pylist()
    verdicts = {int(row["question_id"][-8:]): row["verdict"] for row in rows}
    assert verdicts == {0: "too_long", 1: None} | dict.fromkeys(range(2, QUESTIONS), "unreadable")
    assert {row["outcome"] for row in rows} == {"unparsed"}
    assert found.summary["judged"] == {"too_long": 4, "unreadable": 20}, "two tries of two perspectives each"


def test_a_served_judge_skips_overlong_samples(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    def full(asked: Asked) -> Fault | None:
        said = b"This model's maximum context length is 512 tokens. However, your request has more."
        long = asked and "Right answer:" in asked["prompt"] and len(asked["prompt"]) > 2000
        return Fault(400, body=b'{"error": {"message": "%s", "code": 400}}' % said) if long else None

    with serve(lambda prompt, seed: "CORRECT" if "Right answer:" in prompt else long_winded(prompt, seed), full) as url:
        found = judged(tmp_path / "served", tiny_model, questions, url)
    assert found.summary["judged"] == {"too_long": 4, "correct": 10}


def test_without_a_judge_samples_have_no_judged_column(tmp_path: Path, tiny_model: Path, questions: Artifact) -> None:
    with serve(lambda prompt, seed: "") as url:
        found = from_server(tmp_path / "plain", tiny_model, questions, url)
    assert "judged" not in found.table("samples").column_names
    assert "judged" not in found.summary

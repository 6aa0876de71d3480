"""Likelihoods and worked examples in the stages `references` and `evaluation`, on random models."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError, QuestionError
from pipeline.questions.question import Question
from stages.core.progress import Progress
from stages.core.summaries import EvaluationSummary
from stages.evaluation import stage as evaluation
from stages.questions import stage as questions
from stages.references import stage as references
from stages.report.other_measures import certain_losses, other_findings, titles
from stages.shared import answering, likelihoods
from storage.artifact import Artifact, Draft
from tests.support.artifacts import write_artifact
from tests.support.fake_teacher import serve
from tests.support.runs import tree_of

CHOICES = ("a dial", "9", "the second wheel", "9 marks")
SETS = {
    "picks": [Question(f"p{n}", f"Which of them is number {n}?", "ABCD"[n % 4], "choice", CHOICES) for n in range(5)],
    "doubts": [Question(f"d{n}", f"Is {n} even?", "no" if n % 2 else "yes", "boolean") for n in range(4)],
    "sums": [Question(f"s{n}", f"What is {n}+1?", str(n + 1), "number") for n in range(3)],
}
TRAIN = [
    *(Question(f"tp{n}", f"Which is {n}?", "B", "choice", CHOICES) for n in range(3)),
    *(Question(f"td{n}", f"Is it {n}?", "no", "boolean", rationale="It is not.") for n in range(3)),
    Question("ts", "What is 9+1?", "10", "number"),
]
FEW = 2


def written(root: Path, sets: Sequence[str] = tuple(SETS), train: Sequence[Question] = TRAIN) -> Artifact:
    """Questions of three answer types; `picks` is in distribution."""
    tagged = [questions._Tagged(item, "id" if name == "picks" else "ood", name, "test") for name in sets for item in SETS[name]]
    tagged += [questions._Tagged(item, "train", "train", "train") for item in train]

    def write(draft: Draft) -> dict[str, Any]:
        draft.write_shard("questions", questions._table(tagged))
        return {"train": len(train), "evaluation": {name: len(SETS[name]) for name in sets}}

    root.mkdir(exist_ok=True)
    return write_artifact(root, "questions", write)


def run_of(model: Path, per_shard: int = 4, **changes: Any) -> RunConfig:
    how = {"engine": {"kind": "transformers", "dtype": "float32", "max_context": changes.pop("max_context", 2048)}}
    settings = {"likelihood": True, "examples": FEW, "max_tokens": 2, **changes.pop("evaluation", {})}
    return RunConfig.model_validate(
        tree_of(model) | {"evaluation": {**how, **settings, "items_per_shard": per_shard}} | changes
    )


def referred(root: Path, run: RunConfig, read: Artifact, kept: dict[str, tuple[Artifact, int]] | None = None) -> Artifact:
    """The stage's artifact; the first rows of some tables are already committed, as after a kill."""

    def write(draft: Draft) -> Any:
        for prefix, (artifact, rows) in (kept or {}).items():
            draft.write_shard(prefix, artifact.table(prefix).slice(0, rows))
        return references.run(references.config_of(run), {"questions": read}, draft, Progress(root / "progress", "references"))

    root.mkdir(exist_ok=True)
    return write_artifact(root, "references", write)


@pytest.fixture(scope="module")
def whole(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    root = tmp_path_factory.mktemp("whole")
    read = written(root)
    return read, referred(root, run_of(tiny_model), read)


def test_base_and_teacher_score_every_choice_and_boolean_once_per_round(whole: tuple[Artifact, Artifact]) -> None:
    wanted = [(model, item.id) for model in ("base", "teacher") for name in ("picks", "doubts") for item in SETS[name]]
    tables = [whole[1].table(prefix).to_pylist() for prefix in ("likelihoods", "likelihoods_few_shot")]
    for rows in tables:
        assert [(row["model"], row["question_id"]) for row in rows] == wanted
        for row in rows:
            size = len(CHOICES) if row["set"] == "picks" else 2
            assert {len(row[name]) for name in ("sum_K", "tokens_K", "characters_K", "unconditional_K")} == {size}
            assert row["sum"] == (max(range(size), key=row["sum_K"].__getitem__) == row["gold"])
    for plain, few in zip(*tables, strict=True):
        assert plain["unconditional_K"] == pytest.approx(few["unconditional_K"], abs=1e-5)
        assert plain["sum_K"] != pytest.approx(few["sum_K"], abs=1e-3), "examples change the prompt"


def test_the_summary_has_every_measure_beside_the_greedy_answers(whole: tuple[Artifact, Artifact]) -> None:
    made = whole[1]
    further = made.summary["further"]
    norms = ["sum", "per_token", "per_character", "unconditional"]
    assert list(further) == [*norms, "few_shot", *(f"few_shot_{norm}" for norm in norms)]
    rows = made.table("likelihoods").to_pylist()
    for norm in norms:
        right = sum(row[norm] for row in rows if (row["model"], row["set"]) == ("base", "picks"))
        cell = further[norm]["accuracy"]["base"]["set:picks"]
        assert (cell["items"], cell["correct"], cell["unparsed"]) == (5, right, 0)
        assert further[norm]["accuracy"]["base"]["group:ood"]["items"] == 4, "sums have no choices"
    assert further["few_shot"]["accuracy"]["base"]["group:ood"]["items"] == 7


def test_a_resumed_run_equals_an_uninterrupted_one_at_any_shard_size(
    tmp_path: Path, tiny_model: Path, whole: tuple[Artifact, Artifact]
) -> None:
    read, made = whole
    kept = {"items": (made, 14), "few_shot": (made, 5), "likelihoods": (made, 11), "likelihoods_few_shot": (made, 2)}
    resumed = referred(tmp_path / "resumed", run_of(tiny_model, 3), read, kept)
    for prefix in kept:
        order = [[(row["model"], row["question_id"]) for row in one.table(prefix).to_pylist()] for one in (made, resumed)]
        assert sorted(order[0]) == sorted(order[1])
        rows = [{(row["model"], row["question_id"]): row for row in one.table(prefix).to_pylist()} for one in (made, resumed)]
        assert rows[0] == rows[1], prefix
    assert resumed.summary["further"] == made.summary["further"]


def test_examples_are_training_questions_of_the_sets_type_for_every_item(
    whole: tuple[Artifact, Artifact], tiny_model: Path
) -> None:
    run = run_of(tiny_model)
    asking = answering.evaluation_task(whole[0], run.prompts, run.evaluation)
    types = {name: [item.answer_type for item in found] for name, found in asking.examples.items()}
    assert (types["picks"], types["doubts"]) == (["choice"] * FEW, ["boolean"] * FEW)
    assert types["sums"][0] == "number", "there is one; the others are of any type"
    known = {item.id for item in TRAIN}
    assert all(len(found) == FEW and {item.id for item in found} <= known for found in asking.examples.values())
    for item in likelihoods._items(asking):
        context = likelihoods.likelihood_context(asking, item, True)
        assert context.endswith(likelihoods.likelihood_context(asking, item, False))
        ends = " 9\n\n" if item.set == "picks" else " no\n\n"
        assert context.count(ends) == FEW, "an example shows its answer's text"


def test_a_twin_of_the_base_neither_gains_nor_forgets(
    tmp_path: Path, tiny_model: Path, whole: tuple[Artifact, Artifact]
) -> None:
    def train(draft: Draft) -> dict[str, Any]:
        shutil.copytree(tiny_model, draft.path("student"))
        return {}

    inputs = {"questions": whole[0], "references": whole[1], "training": write_artifact(tmp_path, "training", train)}
    config = evaluation.config_of(run_of(tiny_model))
    made = write_artifact(
        tmp_path,
        "evaluation",
        lambda draft: evaluation.run(config, inputs, draft, Progress(tmp_path / "progress", "evaluation")),
    )
    assert {row["model"] for row in made.table("likelihoods_few_shot").to_pylist()} == {"student"}
    summary = EvaluationSummary.of(made)
    assert summary.further is not None
    for name, found in summary.further.items():
        assert list(found.accuracy) == ["base", "teacher", "student"]
        assert {change.change for change in found.student_against_base.values()} == {0.0}
        assert found.forgetting == ({"doubts": 0.0, "sums": 0.0} if name == "few_shot" else {"doubts": 0.0})
    assert list(titles(summary)) == list(summary.further)
    assert not any(certain_losses(summary).values())
    words = " ".join(other_findings(summary))
    assert "Measured by log-likelihood per character, the student is not distinguishable from its base in distribution" in words
    assert "Measured with examples, generated, the student is not distinguishable from its base out of distribution" in words
    assert "no likelihoods" not in words


def test_a_served_teacher_is_left_out_of_the_likelihoods_only(tmp_path: Path, tiny_model: Path) -> None:
    with serve(lambda prompt, seed: f"The answer is \\boxed{{{len(prompt)}}}.") as url:
        engine = {"kind": "openai", "base_url": url, "served_model": "simulated"}
        run = run_of(tiny_model, teacher={"served": True, "chat": False}, sampling={"engine": engine})
        made = referred(tmp_path / "made", run, written(tmp_path))
    assert {row["model"] for row in made.table("likelihoods").to_pylist()} == {"base"}
    assert {row["model"] for row in made.table("few_shot").to_pylist()} == {"base", "teacher"}
    assert list(made.summary["further"]["sum"]["accuracy"]) == ["base"]
    said = ("sums", "teacher")
    lengths = [
        {row["question_id"]: int(row["answer"]) for row in made.table(name).to_pylist() if (row["set"], row["model"]) == said}
        for name in ("items", "few_shot")
    ]
    assert all(lengths[1][name] > lengths[0][name] for name in lengths[0]), "the examples were sent"


@pytest.mark.parametrize(
    ("sets", "changes", "error", "words"),
    [
        (["sums"], {}, QuestionError, r"evaluation.likelihood: no question of the test sets has choices .*; set it to false, or add a set"),
        (["picks"], {"evaluation": {"examples": 8}}, QuestionError, "8 worked examples are wanted, but there are only 7 training"),
        (
            ["picks", "sums"], {"max_context": 400, "evaluation": {"likelihood": False, "examples": 4}}, QuestionError,
            r"question 'p\d': its prompt with 4 examples \(evaluation.examples\), the longest of .* tokens; .* context of 400; raise",
        ),
        (
            ["picks"], {"max_context": 220, "prompts": {"question": "{{ question }}", "likelihood": "{{ question * 9 }}"}},
            QuestionError, r"question 'p\d': its likelihood prompt .* have \d+ tokens, .* of 220; raise engine.max_context to \d+",
        ),
        (["picks"], {"prompts": {"likelihood": "{{ perspective }}"}}, ConfigError, "prompts: template .* it may use choices, question"),
        (["picks"], {"prompts": {"likelihood": " "}}, ConfigError, "prompts.likelihood: is empty"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_a_model_is_loaded(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, sets: list[str], changes: dict[str, Any],
    error: type[Exception], words: str,
) -> None:  # fmt: skip
    def loaded(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(answering, "open_engine", loaded)
    monkeypatch.setattr(likelihoods, "load_causal_model", loaded)
    monkeypatch.setattr("stages.shared.student_check.load_causal_model", loaded)
    with pytest.raises(error, match=words) as said:
        referred(tmp_path / "made", run_of(tiny_model, **changes), written(tmp_path, sets))
    assert "\n" not in str(said.value)


def test_on_a_cpu_likelihoods_do_not_have_the_engines_precision(
    tmp_path: Path, tiny_model: Path, whole: tuple[Artifact, Artifact]
) -> None:
    run = run_of(tiny_model)
    coarse = run.evaluation.engine.model_copy(update={"dtype": "bfloat16"})
    changed = run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"engine": coarse})})
    made = referred(tmp_path / "coarse", changed, whole[0])
    assert made.table("likelihoods").to_pylist() == whole[1].table("likelihoods").to_pylist()

"""Latent analysis on a small experiment: figures of every model, controls beside every claim, missing students named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flows.cli.experiments import _print_states
from pipeline.config.run import RunConfig
from pipeline.errors import NothingSurvives
from pipeline.metanet.network import preferences
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.prompt_rendering import pad_token
from pipeline.student.batch import TokenRow
from pipeline.student.hidden_states import span_states
from pipeline.training.training_set import TrainingSet, held_out, questions_of_step, training_subset
from stages.core.plan import plan
from stages.core.process import store_of
from stages.experiments.latent.analysis import choose_rows, open_runs
from stages.experiments.latent.figures import Last, clusters, compared, together
from stages.experiments.latent.findings import _clusters, findings
from stages.experiments.latent.metanet import assistant
from stages.experiments.latent.page import TEMPLATE
from stages.experiments.latent.reading import _compared, read
from stages.experiments.latent.rows import Rows, Sets, choose_questions, names_of, read_sets, trained_on
from stages.shared.mapped_tables import by_question
from stages.shared.pages import render
from tests.support.experiment import NAMES, QUESTIONS, TASKS, Experiment, commit_experiment, metanet, question
from tests.support.runs import REPOSITORY

MODELS = ["base", "mind", "uniform", *(f"single-{name}" for name in NAMES)]
CONTROLS = ["text", "base", "moved", "dealt"]


def mind(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", "bench", "latent", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Experiment:
    return commit_experiment(tmp_path_factory.mktemp("experiment"), tiny_model)


class Analysed(NamedTuple):
    """The command's JSON output, its output folder and its page."""

    found: dict[str, Any]
    folder: Path
    page: str


@pytest.fixture(scope="module")
def analysed(experiment: Experiment) -> Analysed:
    answer = mind(str(experiment.config), "--questions", "20", "--json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    folder = experiment.config.parent / "artifacts" / "science" / "small-dev"
    return Analysed(json.loads(answer.stdout), folder, (folder / "latent.html").read_text())


def _numbers(value: Any) -> list[Any]:
    """All leaves of a nested value."""
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _numbers(item)]
    return [leaf for item in value for leaf in _numbers(item)] if isinstance(value, list) else [value]


def test_every_model_has_all_figures(analysed: Analysed) -> None:
    assert [row["model"] for row in analysed.found["models"]] == MODELS
    assert analysed.found["rows"]["questions"] == 20
    for row in analysed.found["models"]:
        assert {"ari", "nmi", "active_components", "silhouette", "probe", "effective_rank"} <= row["clusters"].keys()
        assert len(row["cka_by_layer"]) == 3
        assert None not in _numbers([row["clusters"], row["cka_by_layer"], row["answer"]]), row["model"]
    base, *others = analysed.found["models"]
    assert base["cka_by_layer"] == pytest.approx([1, 1, 1])
    assert all(row["cka_by_layer"][-1] < 0.99 for row in others)


def test_controls_are_listed_beside_the_specialists(analysed: Analysed) -> None:
    assert [row["name"] for row in analysed.found["clusters"]] == [*CONTROLS, "specialists"]
    table = analysed.page.split('<table id="clusters">')[1].split("</table>")[0]
    for row in analysed.found["clusters"]:
        assert row["says"].replace("'", "&#39;") in table
    every = analysed.page.split('<table id="models">')[1].split("</table>")[0]
    assert every.index("the text alone") < every.index("<td>base</td>") < every.index("<td>mind</td>")


def test_untrained_students_give_no_evidence(analysed: Analysed) -> None:
    """All students are the base plus noise, and every style has its own words."""
    for row in analysed.found["clusters"]:
        assert row["probe"]["accuracy"] > 0.9, row["name"]
    assert "NO evidence of what they learned" in analysed.page


def test_the_page_states_that_the_models_were_trained_on_these_questions(analysed: Analysed) -> None:
    rows = analysed.found["rows"]
    assert not rows["unseen"]
    assert rows["trained"]["base"] == 0
    assert rows["trained"]["mind"] == 20
    assert "no held-out split" in analysed.page
    assert "which were trained on" in analysed.page


def test_the_page_is_complete_and_shows_no_missing_values(analysed: Analysed) -> None:
    plots = {"states", "cka", "alpha-mind"}
    assert {path.name for path in analysed.folder.glob("latent-*.png")} == {f"latent-{name}.png" for name in plots}
    assert analysed.page.count("data:image/png;base64,") == len(plots)
    for name in plots:
        assert (analysed.folder / f"latent-{name}.png").read_bytes().startswith(b"\x89PNG")
    _is_whole(analysed.page)


def _is_whole(page: str) -> None:
    words = page.split("</style>")[1]
    for wrong in ("None", "nan", "inf", "Undefined", "{{", "{%"):
        assert f">{wrong}" not in words, wrong
        assert f" {wrong}<" not in words, wrong
    assert "http" not in words


def _without_numbers(value: Any) -> Any:
    """The same figures, with None for every float."""
    if isinstance(value, dict):
        return {key: _without_numbers(item) for key, item in value.items()}
    return None if isinstance(value, float) else value


def test_missing_figures_become_dashes_and_unseen_questions_are_stated(analysed: Analysed) -> None:
    found = json.loads(json.dumps(analysed.found))
    found["rows"]["unseen"] = True
    for row in found["models"]:
        row["prompt"], row["answer"] = _without_numbers(row["prompt"]), _without_numbers(row["answer"])
        row["prompt"]["likeliest"] = row["prompt"]["task"] = None
        row["answer"]["whole"]["probe"] = row["answer"]["cut"]["probe"] = None
    for item in found["assistants"]:
        item["preferences"]["p"], item["audit"] = None, _without_numbers(item["audit"])
        item["preferences"]["tasks"] = item["preferences"]["tasks"][:1]
    said = findings(found)
    images = dict.fromkeys(("states", "cka", "alpha-mind"), "")
    page = render(TEMPLATE, found={**found, "findings": said}, images=images).decode()
    _is_whole(page)
    assert "None was trained on these questions" in page
    assert "No model was trained on the 20 questions" in said[0]
    assert any("All questions have one task" in line for line in said)


def test_the_printed_table_has_every_model_and_control(analysed: Analysed, capsys: pytest.CaptureFixture[str]) -> None:
    _print_states(analysed.found)
    lines = capsys.readouterr().out.splitlines()
    for name in [*MODELS, *(row["says"] for row in analysed.found["clusters"])]:
        assert any(line.startswith(name) for line in lines), name


def test_preferences_by_task_match_the_trained_metanet(experiment: Experiment, analysed: Analysed) -> None:
    made = open_runs(experiment.runs)["mind"]
    ids, features_QKF, mask_QK = by_question(made.synthesis.table("features"), NAMES)
    with torch.no_grad():
        weights_QK = preferences(metanet(1)(features_QKF, mask_QK)[0], 1.0)
    even = torch.tensor([number for number, name in enumerate(ids) if int(name[-1]) % 2 == 0])
    rows = {row["task"]: row for row in analysed.found["assistants"][0]["preferences"]["tasks"]}
    assert rows.keys() == set(TASKS)
    assert list(rows["even"]["after"].values()) == pytest.approx(weights_QK[even].mean(0).tolist(), abs=1e-6)
    assert sum(rows["odd"]["before"].values()) == pytest.approx(1, abs=0.05)


def test_arms_without_a_student_are_refused_with_the_training_command(experiment: Experiment, tmp_path: Path) -> None:
    moved = tmp_path / "experiment"
    shutil.copytree(experiment.config.parent, moved)
    shutil.rmtree(moved / "artifacts" / "science", ignore_errors=True)
    for name in ("uniform", "single-formal"):
        shutil.rmtree(moved / "artifacts" / "training" / plan(experiment.runs[name])["training"].fingerprint)
    answer = mind(str(moved / "run.yaml"), "--set", "training.port=29871")
    assert answer.returncode == 2, answer.stderr
    (line,) = answer.stderr.splitlines()
    assert line.startswith(
        "mind: latent: 2 of 5 arms have no trained student with seed 0: single-formal, uniform; train them with: "
    )
    assert line.endswith("--set training.port=29871 --arms single-formal,uniform --seeds 1 --use dev")
    assert not (moved / "artifacts" / "science").exists()


def test_another_seed_has_other_students(experiment: Experiment) -> None:
    answer = mind(str(experiment.config), "--seed", "1")
    assert answer.returncode == 2
    assert "5 of 5 arms have no trained student with seed 1" in answer.stderr
    assert "--seeds 2" in answer.stderr


@pytest.mark.parametrize("arm", ["mind", "uniform", "single-planning"])
@pytest.mark.parametrize(("steps", "hold_out"), [(1, 0.0), (2, 0.0), (7, 0.0), (7, 0.2)])
def test_trained_on_matches_the_questions_of_the_training_steps(
    experiment: Experiment, arm: str, steps: int, hold_out: float
) -> None:
    """Reference: restricts the training set as training does; its features hold the question numbers."""
    run = experiment.runs[arm]
    run = run.model_copy(update={"training": run.training.model_copy(update={"steps": steps, "hold_out": hold_out})})
    sets = read_sets(open_runs(experiment.runs)[arm].synthesis)
    numbers_NKF = torch.arange(QUESTIONS)[:, None, None].expand(-1, len(NAMES), 1)
    addresses_NK25 = torch.zeros(QUESTIONS, len(NAMES), 2, 5, dtype=torch.int64)
    whole = TrainingSet(
        torch.zeros(0), addresses_NK25, numbers_NKF, torch.from_numpy(sets.mask_NK), torch.zeros(QUESTIONS, 3), 0
    )
    wanted = run.training.perspectives
    wanted_K = torch.tensor([wanted is None or name in wanted for name in NAMES])
    data = training_subset(whole, wanted_K, held_out(QUESTIONS, hold_out, run.seed), 1)
    per_step = run.training.questions_per_step
    taken = [questions_of_step(step, len(data), per_step, run.seed) for step in range(steps)]
    expected = {sets.ids[int(data.features_NKF[place][0, 0])] for place in torch.cat(taken)}
    assert trained_on(run, sets) == expected


def test_unseen_questions_are_used_if_there_are_enough(tmp_path: Path, tiny_model: Path) -> None:
    few = commit_experiment(tmp_path, tiny_model, steps=1, questions_per_step=2, questions_per_micro_batch=2)
    made = open_runs(few.runs)
    sets = {name: read_sets(item.synthesis) for name, item in made.items()}
    trained = set[str]().union(*(trained_on(item.run, sets[name]) for name, item in made.items()))
    new = QUESTIONS - len(trained)
    chosen = choose_rows(made, new, 0)
    assert chosen.choice.unseen
    assert trained.isdisjoint(chosen.rows.ids)
    assert set(chosen.trained.values()) == {0}
    more = choose_rows(made, new + 1, 0)
    assert not more.choice.unseen
    assert more.choice.unseen_there_are == new


def test_questions_with_all_perspectives_are_preferred(experiment: Experiment) -> None:
    sets = read_sets(open_runs(experiment.runs)["mind"].synthesis)
    lacking = question(QUESTIONS - 1).id
    for seed in range(5):
        assert lacking not in choose_questions(sets, set(sets.ids), QUESTIONS - 1, seed).ids
    assert lacking in choose_questions(sets, set(sets.ids), QUESTIONS, 0).ids
    assert (
        choose_questions(sets, set(sets.ids), 10, 0)
        == choose_questions(sets, set(sets.ids), 10, 0)
        != choose_questions(sets, set(sets.ids), 10, 1)
    )


def test_too_few_questions_are_refused() -> None:
    with pytest.raises(NothingSurvives, match="kept 3 questions, expected at least 10"):
        choose_questions(Sets(["a", "b", "c"], np.ones((3, 2), bool), np.ones((3, 2))), set(), 100, 0)


@pytest.fixture(scope="module")
def rows(experiment: Experiment) -> Rows:
    return choose_rows(open_runs(experiment.runs), 20, 0).rows


def test_states_are_taken_at_the_documented_positions(experiment: Experiment, rows: Rows) -> None:
    run = experiment.runs["mind"]
    pad = pad_token(load_tokenizer(run.student))
    found = read(run.student, run, rows, pad)
    student = load_causal_model(run.student, torch.float32).eval()
    for name, items in (("whole", rows.rationales), ("cut", rows.contexts)):
        spans = [(row.answer[0] - 1, row.answer[1] - 1) for row in items]
        wanted = span_states(student, items, spans, pad, torch.device("cpu"), 4)[:, -1].numpy()
        assert found.answers[name].states_BD == pytest.approx(wanted, abs=1e-5)
    for prompt, state_D in zip(rows.prompts, found.prompt_QD, strict=True):
        with torch.no_grad():
            wanted_D = student.model(input_ids=torch.tensor([prompt.tokens])).last_hidden_state[0, -1].numpy()
        assert state_D == pytest.approx(wanted_D, abs=1e-5)
    assert [len(row.tokens) for row in rows.prompts] == [
        rows.rationales[int(np.argmax(rows.question_B == number))].start for number in range(len(rows.ids))
    ]


def _answer(*tokens: int) -> TokenRow:
    return TokenRow([9, *tokens], 1, (1, 1 + len(tokens)))


def _sure(*tokens: int) -> torch.Tensor:
    return torch.log_softmax(200.0 * torch.nn.functional.one_hot(torch.tensor(tokens), 8).float(), -1)


def test_answers_are_compared_only_if_their_tokens_are_equal() -> None:
    alike = [_answer(1, 2), _answer(1, 2)]
    assert _compared(alike, [_sure(1, 2), _sure(1, 2)]) == pytest.approx((0, 1), abs=1e-6)
    assert _compared(alike, [_sure(1, 2), _sure(3, 4)]) == pytest.approx((np.log(2), 0), abs=1e-6)
    assert _compared(alike, [_sure(1, 2), _sure(1, 4)]) == pytest.approx((np.log(2) / 2, 0), abs=1e-6)
    assert np.isnan(_compared([_answer(1, 2), _answer(3)], [_sure(1, 2), _sure(3)])).all()


def test_the_audit_finds_scores_that_follow_the_loss(experiment: Experiment, rows: Rows) -> None:
    made = open_runs(experiment.runs)["mind"]
    ids, features_QKF, mask_QK = by_question(made.synthesis.table("features"), NAMES)
    with torch.no_grad():
        scores_QK = metanet(1)(features_QKF, mask_QK)[0].numpy()
    place_B = np.array([ids.index(name) for name in rows.ids])[rows.question_B]
    loss_B = -scores_QK[place_B, rows.perspective_B]
    audit = assistant(made, rows, loss_B, np.random.default_rng(0).normal(size=len(loss_B)), 0)["audit"]
    assert audit["score and low loss"]["across_perspectives"]["value"] == pytest.approx(1)
    assert audit["score and low loss"]["across_questions"]["value"] == pytest.approx(1)
    assert abs(audit["score and low loss of the base"]["across_questions"]["value"]) < 0.6


Q, K, D = 40, 4, 24


def _planted(rng: np.random.Generator, text_differs: bool) -> tuple[Rows, NDArray[np.floating], list[Last]]:
    """Texts with or without styles; base states from the text alone; specialists are the base shifted by a constant."""
    question_B, perspective_B = np.repeat(np.arange(Q), K), np.tile(np.arange(K), Q)
    rationales = [
        TokenRow([0, *(rng.integers(2, 8, 6) + (10 * k if text_differs else 0)).tolist()], 1, (5, 6)) for k in perspective_B
    ]
    rows = Rows([str(n) for n in range(Q)], list("abcd"), [], rationales, rationales, question_B, perspective_B, np.ones(Q * K))
    places_KD = rng.normal(size=(K, D)) * 4 * text_differs
    base_BD = places_KD[perspective_B] + rng.normal(size=(Q * K, D))
    specialists = [Last(base_BD + 4 * rng.normal(size=D), np.zeros((Q, D))) for _ in range(K)]
    return rows, base_BD, specialists


def test_for_equal_texts_specialists_cluster_no_better_than_a_shifted_base() -> None:
    rows, base_BD, specialists = _planted(np.random.default_rng(0), text_differs=False)
    found = compared(together(Last(base_BD, np.zeros((Q, D))), specialists, rows, 0), rows, 0)
    assert found["specialists"]["ari"] > 0.9
    assert found["moved"]["ari"] > 0.9
    assert max(found[name]["ari"] for name in ("text", "base", "dealt")) < 0.1
    assert found["dealt"]["by_reader"]["ari"] > 0.9
    assert "no better than the base shifted by a constant" in _clusters(found)[0]


def test_for_distinct_texts_and_equal_readers_states_cluster_by_text() -> None:
    rows, base_BD, _ = _planted(np.random.default_rng(0), text_differs=True)
    same = [Last(base_BD + 1e-3, np.zeros((Q, D))) for _ in range(K)]
    found = compared(together(Last(base_BD, np.zeros((Q, D))), same, rows, 0), rows, 0)
    assert min(found[name]["ari"] for name in (*CONTROLS, "specialists")) > 0.9
    assert found["dealt"]["by_reader"]["ari"] < 0.1
    assert "NO evidence" in _clusters(found)[0]


def test_cluster_figures_are_keyed_by_perspective_name() -> None:
    rows, base_BD, _ = _planted(np.random.default_rng(1), text_differs=True)
    found = clusters(base_BD, rows.perspective_B, rows.question_B, rows.names, 0)
    assert list(found["silhouette_by_perspective"]) == rows.names
    assert found["effective_rank"]["error"] > 0


@pytest.mark.parametrize(
    ("text", "base", "moved", "mine", "words"),
    [
        (1.0, 0.3, 0.3, 1.0, "NO evidence"),
        (0.2, 0.95, 0.3, 1.0, "NO evidence"),
        (0.5, 0.5, 0.95, 1.0, "no better than the base shifted"),
        (0.5, 0.5, 0.6, 0.9, "better than every control"),
        (0.0, 0.0, 0.0, 0.1, "do not cluster by perspective"),
    ],
)
def test_a_claim_needs_the_specialists_to_beat_every_control(
    text: float, base: float, moved: float, mine: float, words: str
) -> None:
    def row(ari: float) -> dict[str, Any]:
        return {"ari": ari, "ari_range": [ari - 0.05, ari + 0.05], "probe": {"accuracy": 0.97}, "by_reader": {"ari": 0.1}}

    found = {"text": row(text), "base": row(base), "moved": row(moved), "specialists": row(mine), "dealt": row(0.1)}
    assert words in _clusters(found)[0]


def test_the_store_and_perspective_names_come_from_the_run(experiment: Experiment) -> None:
    run: RunConfig = experiment.runs["single-formal"]
    assert names_of(run) == NAMES
    assert store_of(run).root == experiment.config.parent / "artifacts"

"""Fingerprints: equal configurations match on any machine, runtime fields never count, identity fields always do."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError
from pipeline.questions.question import Question
from pipeline.questions.sources import FileSource, HubSource
from stages.core.plan import ORDER, plan, stage_module
from tests.support.runs import REPOSITORY, tree_of, write_config

Tree = dict[str, Any]
Place = tuple[str | int, ...]


def _fingerprints(path: Path) -> dict[str, str]:
    return {name: planned.fingerprint for name, planned in plan(load_config(path)).items()}


def _full(model: Path) -> Tree:
    """A run with every field written out; chat and a rendezvous address are set so that no field is refused."""
    return json.loads(RunConfig.model_validate(_chat(model)).model_dump_json())  # type: ignore[no-any-return]


def _chat(model: Path) -> Tree:
    tree = tree_of(model)
    meeting = {"address": "127.0.0.1", "port": 29500}
    chatty = {name: {**tree[name], "chat": True} for name in ("teacher", "student")}
    return {**tree, **chatty, "training": {**tree["training"], **meeting}}


def _leaves(value: Any, place: Place = (), role: str = "", annotation: Any = None) -> Iterator[tuple[Place, str, Any]]:
    """(place, role, annotation) of every field that is not itself a section."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            mine = field.json_schema_extra["role"]  # type: ignore[index, call-overload]
            yield from _leaves(getattr(value, name), (*place, name), str(mine), field.annotation)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _leaves(item, (*place, number), role, annotation)
    else:
        yield place, role, annotation


def _others(value: Any, annotation: Any) -> list[Any]:
    """Candidate values for a field, the most similar first."""
    options = [option for option in get_args(annotation) if isinstance(option, str | int)]
    nested = [option for part in get_args(annotation) for option in get_args(part) if isinstance(option, str)]
    if options or nested:
        return [option for option in [*options, *nested] if option != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [other for other in (value * 2, value / 2, value + 1, value + 0.25) if other != value]
    return [
        f"{value or 'x'}x",
        "OTHER_API_KEY",
        {"seed": None},
        7,
        0.5,
        ["formal", "planning"],
        "http://127.0.0.1:8000/v1",
        {"system": "Be brief."},
        {"currency": "USD", "input": 1, "output": 4},
        {"rank": 4},
        {"count": 2},
        {"every": 5},
        {"mode": "offline"},
        {"experiment": "other"},
        True,
        {
            "model": {"served": True},
            "engine": {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1", "served_model": "judge"},
        },
    ]


def _changed(tree: Tree, place: Place, value: Any) -> Tree:
    tree = copy.deepcopy(tree)
    inside: Any = tree
    for part in place[:-1]:
        inside = inside[part]
    inside[place[-1]] = value
    return tree


def _value(tree: Tree, place: Place) -> Any:
    inside: Any = tree
    for part in place:
        inside = inside[part]
    return inside


LEAVES = list(_leaves(RunConfig.model_validate(tree_of(Path("model")))))
LOCATIONS = {("teacher", "path"), ("student", "path"), ("perspectives",)}
"""Paths: their content counts, which the tests below check."""
ELSEWHERE = {
    ("synthesis", "encoder"),
    ("sampling", "rationales"),
    ("synthesis", "teacher_top_k"),
    ("training", "soft_targets"),
    ("training", "on_policy"),
}
"""Sections with their own tests, below, in `tests/stages/sampling/test_match_imported_rationales.py`,
`tests/stages/synthesis/test_soft_targets.py` and `tests/stages/training/test_own_texts.py`."""


ONLY_OF_A_SERVER = ("batches", "spending_limit")
"""Fields of an engine that are refused where no server answers; with a test below."""


def _names(role: str) -> list[Any]:
    return [
        pytest.param(place, annotation, id=".".join(map(str, place)))
        for place, mine, annotation in LEAVES
        if mine == role and place not in LOCATIONS
        if place[-1] != "kind" or place[-2] == "engine" or place[-2] == "inertia"
        if place not in ELSEWHERE and place[-1] not in ONLY_OF_A_SERVER
    ]


def _write_other(folder: Path, tree: Tree, place: Place, annotation: Any) -> Path:
    for value in _others(_value(tree, place), annotation):
        path = write_config(folder, _changed(tree, place, value), "changed.yaml")
        try:
            load_config(path)
        except ConfigError:
            continue
        return path
    raise AssertionError(f"no other value of {place} was found to be valid")


def _after(stages: set[str]) -> set[str]:
    """`stages` and every stage that depends on one of them."""
    for name in ORDER:
        if stages.intersection(stage_module(name).INPUTS):
            stages = stages | {name}
    return stages


@pytest.mark.parametrize(("place", "annotation"), _names("runtime"))
def test_a_runtime_field_makes_no_stage_stale(tmp_path: Path, tiny_model: Path, place: Place, annotation: Any) -> None:
    tree = _full(tiny_model)
    changed = _write_other(tmp_path, tree, place, annotation)
    assert _fingerprints(changed) == _fingerprints(write_config(tmp_path, tree))


def test_how_a_server_is_asked_and_paid_makes_no_stage_stale(tmp_path: Path, tiny_model: Path) -> None:
    tree = {**_full(tiny_model), "teacher": {"served": True}}
    asked = {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1", "served_model": "large"}
    paid = {"batches": True, "batch_hours": 2, "prices": {"currency": "USD", "input": 1, "output": 4}, "spending_limit": 5}
    plain, other = ({**tree, "sampling": {**tree["sampling"], "engine": engine}} for engine in (asked, {**asked, **paid}))
    assert _fingerprints(write_config(tmp_path, plain)) == _fingerprints(write_config(tmp_path, other, "other.yaml"))


@pytest.mark.parametrize(("place", "annotation"), _names("identity"))
def test_an_identity_field_makes_its_stage_and_later_ones_stale(
    tmp_path: Path, tiny_model: Path, place: Place, annotation: Any
) -> None:
    tree = _full(tiny_model)
    if place == ("sampling", "reasoning_effort"):  # refused without a server
        tree["sampling"]["engine"] |= {"kind": "openai", "base_url": "http://127.0.0.1:8000/v1", "served_model": "model"}
    if place == ("training", "dev"):  # refused without a dev set
        sets = tree["questions"]["evaluation"]
        sets.append({**sets[0], "name": "dev", "use": "dev"})
    changed = _fingerprints(_write_other(tmp_path, tree, place, annotation))
    plain = _fingerprints(write_config(tmp_path, tree))
    again = {name for name in ORDER if changed[name] != plain[name]}
    assert again, "nothing that a run makes depends on this field"
    assert again == _after(again)
    if place[0] in ORDER:
        assert str(place[0]) in again


@pytest.mark.parametrize(
    ("place", "value", "first"),
    [
        (("questions", "train", 0, "count"), 13, "questions"),
        (("sampling", "temperature"), 0.5, "sampling"),
        (("synthesis", "warm_up_epochs"), 4, "synthesis"),
        (("training", "learning_rate"), 2e-5, "training"),
        (("training", "consistency", "weight"), 0.2, "training"),
        (("evaluation", "max_tokens"), 99, "references"),
        (("evaluation", "use"), "dev", "references"),
        (("evaluation", "likelihood"), True, "references"),
        (("evaluation", "examples"), 2, "references"),
        (("prompts", "likelihood"), "{{ question }}\n{{ choices }}\nAnswer:", "references"),
    ],
)
def test_stages_that_do_not_depend_on_the_changed_one_stay_valid(
    tmp_path: Path, tiny_model: Path, place: Place, value: Any, first: str
) -> None:
    plain = _fingerprints(write_config(tmp_path, _full(tiny_model)))
    changed = _fingerprints(write_config(tmp_path, _changed(_full(tiny_model), place, value)))
    assert {name for name in ORDER if plain[name] != changed[name]} == _after({first})


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("seed",), 1),
        (("only_perspectives",), ["formal", "planning"]),
        (("prompts", "perspective"), "{{ question }} {{ instruction }}"),
        (("prompts", "answer"), "{{ prompt }} At once."),
        (("sampling", "tries"), 3),
        (("synthesis", "keep_easy"), 1.0),
        (("objective", "temperature"), 2.0),
        (("training", "mixture", "weights"), "uniform"),
    ],
)
def test_settings_of_the_student_or_comparison_keep_the_references(
    tmp_path: Path, tiny_model: Path, place: Place, value: Any
) -> None:
    tree = _full(tiny_model)
    changed = _fingerprints(write_config(tmp_path, _changed(tree, place, value)))
    plain = _fingerprints(write_config(tmp_path, tree))
    assert changed["references"] == plain["references"]
    assert changed["evaluation"] != plain["evaluation"]


@given(st.randoms())
def test_the_order_of_keys_does_not_matter(tmp_path: Path, tiny_model: Path, random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = list(value)
            random.shuffle(keys)
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    tree = tree_of(tiny_model)
    assert _fingerprints(write_config(tmp_path, shuffled(tree))) == _fingerprints(write_config(tmp_path, tree))


def test_defaults_written_out_change_nothing(tmp_path: Path, tiny_model: Path) -> None:
    assert _fingerprints(write_config(tmp_path, _chat(tiny_model))) == _fingerprints(write_config(tmp_path, _full(tiny_model)))


@pytest.mark.parametrize("off", [{"likelihood": False}, {"examples": 0}])
def test_a_measure_that_is_switched_off_changes_nothing(tmp_path: Path, tiny_model: Path, off: Tree) -> None:
    tree = _full(tiny_model)
    without = _fingerprints(write_config(tmp_path, _changed(tree, ("evaluation",), {**tree["evaluation"], **off})))
    assert without == _fingerprints(write_config(tmp_path, tree))


def test_fingerprints_do_not_depend_on_paths(tmp_path: Path, tiny_model: Path) -> None:
    question = Question("q1", "What is 3+4?", "7", "number")
    found = []
    for place in ("here", "far/away"):
        base = tmp_path / place
        shutil.copytree(tiny_model, base / "model")
        for folder in (base / "data", base / "set"):
            folder.mkdir()
            (folder / "train.jsonl").write_text(json.dumps(vars(question)) + "\n")
        shutil.copy(REPOSITORY / "pipeline/perspectives/eight.yaml", base / "mine.yaml")
        tree = tree_of(Path("model"))
        tree |= {"root": f"{place}/artifacts", "perspectives": "mine.yaml"}
        tree["questions"]["train"] = [{"kind": "file", "path": "data/train.jsonl"}, {"kind": "hub", "folder": "set"}]
        found.append(_fingerprints(write_config(base, tree)))
    assert found[0] == found[1]


@pytest.mark.parametrize("what", ["model", "data", "perspectives"])
def test_the_content_of_a_path_counts(tmp_path: Path, tiny_model: Path, what: str) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    data = tmp_path / "train.jsonl"
    data.write_text(json.dumps({"id": "q1", "question": "What is 3+4?", "answer": "7"}) + "\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("version: 1\nperspectives: [{name: plain, description: d, instruction: Say it.}]")
    tree = tree_of(tmp_path / "model") | {"perspectives": "mine.yaml"}
    tree["questions"]["train"] = [{"kind": "file", "path": "train.jsonl"}]
    before = _fingerprints(write_config(tmp_path, tree))
    path = {"model": tmp_path / "model" / "config.json", "data": data, "perspectives": mine}[what]
    path.write_text(path.read_text().replace("Say it.", "Say it twice.") + "\n")
    after = _fingerprints(write_config(tmp_path, tree))
    first = {"model": {"references", "sampling"}, "data": {"questions"}, "perspectives": {"sampling"}}[what]
    assert {name for name in ORDER if before[name] != after[name]} == _after(first)


@pytest.mark.parametrize(
    ("template", "again"),
    [("{{ perspective }}: {{ question }}", set()), ("{{ question }} {{ instruction }}", {"sampling"})],
)
def test_an_instruction_missing_from_the_prompt_makes_nothing_stale(
    tmp_path: Path, tiny_model: Path, template: str, again: set[str]
) -> None:
    tree = tree_of(tiny_model) | {"perspectives": "mine.yaml", "prompts": {"perspective": template}}
    found = []
    for instruction in ("Say it.", "Say it twice."):
        mine = {"version": 1, "perspectives": [{"name": "plain", "description": "d", "instruction": instruction}]}
        write_config(tmp_path, mine, "mine.yaml")
        found.append(_fingerprints(write_config(tmp_path, tree)))
    assert {name for name in ORDER if found[0][name] != found[1][name]} == _after(again)


@pytest.mark.parametrize(("rule", "again"), [("report", {"report"}), ("require", {"synthesis"})])
def test_changing_a_form_never_repeats_sampling(tmp_path: Path, tiny_model: Path, rule: str, again: set[str]) -> None:
    tree = tree_of(tiny_model) | {"perspectives": "mine.yaml", "synthesis": {"form": rule}}
    found = []
    for pattern in ("^Plan", "^My plan"):
        plain = {"name": "plain", "description": "d", "instruction": "i", "form": {"all": [pattern]}}
        write_config(tmp_path, {"version": 1, "perspectives": [plain]}, "mine.yaml")
        found.append(_fingerprints(write_config(tmp_path, tree)))
    assert {name for name in ORDER if found[0][name] != found[1][name]} == _after(again)


def test_only_paths_and_their_kinds_are_excluded_above() -> None:
    tested = {tuple(item.values[0]) for role in ("runtime", "identity") for item in _names(role)}
    left = {place for place, _, _ in LEAVES} - tested
    kinds = {place for place in left if place[-1] == "kind"}
    assert {place for place in left - kinds if place[-1] not in ONLY_OF_A_SERVER} == LOCATIONS | ELSEWHERE
    assert all(FileSource.model_fields[name].json_schema_extra == {"role": "runtime"} for name in ("path",))
    assert HubSource.model_fields["folder"].json_schema_extra == {"role": "runtime"}

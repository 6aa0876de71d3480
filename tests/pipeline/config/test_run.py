from __future__ import annotations

import copy
import json
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.models import HubModel
from pipeline.config.presets import leaves, preset_tree
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError
from pipeline.grading.grade import ANSWER_TYPES
from pipeline.perspectives.perspective import Perspective
from pipeline.schema.fields import identity_fields
from tests.support.runs import REPOSITORY, write_config

Tree = dict[str, Any]
RUN_CONFIGS = sorted(path for path in (REPOSITORY / "configs").glob("*.yaml") if "build" not in path.name)
REVISION = "0123456789abcdef0123456789abcdef01234567"


def _refusal(folder: Path, tree: Tree, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load_config(write_config(folder, tree), overrides)
    message = str(raised.value)
    assert message.startswith((f"{folder / 'run.yaml'}: ", "--set ")), "the message must name its file"
    assert "\n" not in message
    return message


def _with(tree: Tree, place: str, value: object) -> Tree:
    changed = copy.deepcopy(tree)
    inside: Any = changed
    *parents, last = place.split(".")
    for part in parents:
        inside = inside[int(part)] if isinstance(inside, list) else inside.setdefault(part, {})
    inside[last] = value
    return changed


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda path: path.name)
def test_every_shipped_run_configuration_loads(path: Path) -> None:
    assert load_config(path).name


@pytest.mark.parametrize(
    ("place", "near"),
    [
        ("sed", "seed"),
        ("trainning", "training"),
        ("training.learningrate", "learning_rate"),
        ("training.mixture.epsilom", "epsilon"),
        ("synthesis.metanet.heds", "heads"),
        ("synthesis.engine.max_contxt", "max_context"),
        ("teacher.revison", "revision"),
        ("questions.train.0.familly", "family"),
        ("questions.train.1.limt", "limit"),
        ("questions.train.1.columns.anwser", "answer"),
        ("questions.evaluation.0.gruop", "group"),
        ("questions.evaluation.0.source.splitt", "split"),
    ],
)
def test_an_unknown_key_suggests_the_closest_known_key(tmp_path: Path, run_tree: Tree, place: str, near: str) -> None:
    run_tree["questions"]["train"].append({"kind": "file", "path": "more.jsonl", "columns": {}})
    message = _refusal(tmp_path, _with(run_tree, place, 1))
    assert f"{place.rsplit('.', 1)[-1]}: unknown key; did you mean {near!r}?" in message


def test_an_unknown_key_without_a_close_match_is_to_be_removed(tmp_path: Path, run_tree: Tree) -> None:
    assert "training.zzz: unknown key; remove it" in _refusal(tmp_path, _with(run_tree, "training.zzz", 1))


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("training.steps", "many", "training.steps: input should be a valid integer"),
        ("training.steps", 0, "training.steps: input should be greater than or equal to 1, not 0"),
        ("training.inertia.kind", "slow", "training.inertia.kind: input should be 'optimizer', 'ema' or 'none', not 'slow'"),
        ("name", "a/b", "name: string should match pattern"),
        ("questions.train", [], "questions.train: "),
        ("questions.train.0.kind", "web", "questions.train.0: "),
        ("questions.train.0.split", "all", "split: input should be 'train', 'dev' or 'test', not 'all'"),
        ("synthesis.metanet", {"width": 10, "heads": 4}, "synthesis.metanet: width 10 must be a multiple of heads 4"),
        (
            "training.questions_per_step",
            12,
            "questions_per_step 12 must be a multiple of ranks x questions_per_micro_batch = 8",
        ),
        ("sampling.engine", {"kind": "openai"}, "sampling.engine: the openai engine needs base_url"),
        ("teacher", {"name": "some/model"}, "a hub model needs its revision"),
        ("teacher", {"name": "some/model", "revision": "main"}, "teacher.revision: string should match pattern"),
        ("teacher", {}, "teacher: give one of path"),
        ("questions.train.0", {"kind": "hub", "name": "some/set"}, "a hub data set needs a revision"),
        ("questions.train.0", {"kind": "hub"}, "give either name and revision"),
    ],
)
def test_an_invalid_value_is_refused_with_its_field(
    tmp_path: Path, run_tree: Tree, place: str, value: object, said: str
) -> None:
    last = place.rsplit(".", 1)[-1]
    tree = copy.deepcopy(run_tree)
    if last.isdigit():
        tree["questions"]["train"][int(last)] = value
    else:
        tree = _with(tree, place, value)
    message = _refusal(tmp_path, tree)
    assert said in message
    assert message.endswith("correct this field")


def test_a_missing_field_is_named(tmp_path: Path, run_tree: Tree) -> None:
    del run_tree["questions"]["train"][0]["family"]
    assert "family: missing; add it" in _refusal(tmp_path, run_tree)


def test_two_evaluation_sets_with_one_name_are_refused(tmp_path: Path, run_tree: Tree) -> None:
    run_tree["questions"]["evaluation"] *= 2
    assert "two evaluation sets are called 'dial'" in _refusal(tmp_path, run_tree)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path}/none.yaml: no such file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("content", "said"), [(b"a: [1\nb: }", "line 2 not valid YAML"), (b"\xff\xfe\x00", "not valid YAML"), (b"- a", "mapping")]
)
def test_a_file_that_is_not_a_yaml_mapping_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_config(tmp_path / "bad.yaml")


def test_set_overrides_one_field_with_a_yaml_value(tmp_path: Path, run_tree: Tree) -> None:
    overrides = ("training.learning_rate=3.0e-4", "seed=7", "sampling.engine={kind: transformers, batch: 2}")
    run = load_config(write_config(tmp_path, run_tree), overrides)
    assert (run.training.learning_rate, run.seed, run.sampling.engine.batch) == (3e-4, 7, 2)
    assert run.training.max_length == 512


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("name.first=x", "name is not a section"),
        ("seed=[1", "not valid YAML"),
        ("training.stepz=3", "did you mean 'steps'"),
    ],
)
def test_a_bad_override_is_refused(tmp_path: Path, run_tree: Tree, override: str, said: str) -> None:
    assert said in _refusal(tmp_path, run_tree, override)


PRESET = preset_tree("paper")


def _field(run: RunConfig, name: str) -> Any:
    return reduce(getattr, name.split("."), run)


def test_a_preset_gives_every_key_that_the_run_does_not_give(tmp_path: Path, run_tree: Tree) -> None:
    plain, paper = (load_config(write_config(tmp_path, tree)) for tree in (run_tree, {**run_tree, "preset": "paper"}))
    assert paper.preset == "paper"
    for name, value in leaves(PRESET).items():
        assert _field(paper, name) == value
    differing = {name for name in leaves(PRESET) if _field(plain, name) != _field(paper, name)}
    assert {
        "objective.target", "objective.direction", "synthesis.metanet.alignment", "training.mixture.selection",
        "training.mixture.epsilon", "training.mixture.min_effective", "training.consistency.answer_context",
    } <= differing  # fmt: skip
    changes = [f"{name}={json.dumps(_field(paper, name))}" for name in differing]
    assert load_config(write_config(tmp_path, run_tree), tuple(changes)) == paper.model_copy(update={"preset": None})


@pytest.mark.parametrize("name", leaves(PRESET))
def test_a_key_of_the_run_or_of_set_replaces_the_preset_s(tmp_path: Path, run_tree: Tree, name: str) -> None:
    plain = _field(load_config(write_config(tmp_path, run_tree)), name)
    other = {"training.metanet_rate": 1e-6}.get(name, plain)
    given = load_config(write_config(tmp_path, _with({**run_tree, "preset": "paper"}, name, other)))
    said = load_config(write_config(tmp_path, {**run_tree, "preset": "paper"}), (f"{name}={json.dumps(other)}",))
    assert given == said
    assert _field(said, name) == other
    assert all(_field(said, rest) == value for rest, value in leaves(PRESET).items() if rest != name)


def test_a_preset_written_out_is_the_same_run(tmp_path: Path, run_tree: Tree) -> None:
    run = load_config(write_config(tmp_path, run_tree), ("preset=paper", "training.mixture.epsilon=0.2"))
    assert load_config(write_config(tmp_path, json.loads(run.model_dump_json()))) == run


def test_an_unknown_preset_is_refused(tmp_path: Path, run_tree: Tree) -> None:
    assert "preset: input should be 'paper'" in _refusal(tmp_path, {**run_tree, "preset": "papr"})


def test_an_override_does_not_change_other_uses_of_a_yaml_anchor(tmp_path: Path, run_tree: Tree) -> None:
    text = yaml.safe_dump(run_tree) + (
        "sampling: {engine: &shared {kind: vllm, max_context: 512}}\nevaluation: {engine: *shared}\nsynthesis: {engine: *shared}\n"
    )
    (tmp_path / "run.yaml").write_text(text)
    run = load_config(tmp_path / "run.yaml", ("sampling.engine.max_context=99",))
    assert (run.sampling.engine.max_context, run.evaluation.engine.max_context) == (99, 512)


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, run_tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    run_tree |= {"root": "../results", "perspectives": "mine.yaml", "teacher": {"path": "models/teacher"}}
    run_tree["questions"]["train"] = [{"kind": "file", "path": "data/train.jsonl"}]
    path = write_config(tmp_path / "configs", run_tree)
    monkeypatch.chdir("/")
    run = load_config(path)
    assert run.root == str(tmp_path / "results")
    assert run.perspectives == tmp_path / "configs/mine.yaml"
    assert run.teacher.path == tmp_path / "configs/models/teacher"
    assert run.questions.train[0].path == tmp_path / "configs/data/train.jsonl"  # type: ignore[union-attr]
    assert run.student.path == Path(run_tree["student"]["path"])


def _reachable(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        inside = [_reachable(field.annotation) for field in annotation.model_fields.values()]
        return {annotation}.union(*inside)
    return set().union(*(_reachable(argument) for argument in get_args(annotation)))


def test_every_field_says_whether_it_is_identity_or_runtime() -> None:
    models = _reachable(RunConfig) | {Perspective}
    assert len(models) > 15
    for model in models:
        for name, field in model.model_fields.items():
            extra = field.json_schema_extra
            assert isinstance(extra, dict), f"{model.__name__}.{name}"
            assert extra["role"] in ("identity", "runtime"), f"{model.__name__}.{name}"


def test_the_configuration_is_immutable_at_every_depth(tmp_path: Path, run_tree: Tree) -> None:
    run = load_config(write_config(tmp_path, run_tree))
    for section in (run, run.training, run.training.mixture, run.questions.train[0]):
        with pytest.raises(ValidationError, match="frozen"):
            section.seed = 1  # type: ignore[union-attr, misc]


def test_identity_excludes_runtime_fields_at_every_depth(tmp_path: Path, run_tree: Tree) -> None:
    fields = identity_fields(load_config(write_config(tmp_path, run_tree)))
    assert {"name", "root"}.isdisjoint(fields)
    assert {"zero_stage", "ranks", "port"}.isdisjoint(fields["training"])
    assert "batch" not in fields["sampling"]["engine"]
    assert fields["questions"]["train"][0]["count"] == 12


def test_an_unset_field_is_not_part_of_the_identity(tmp_path: Path, run_tree: Tree) -> None:
    config = load_config(write_config(tmp_path, run_tree))
    assert config.training.perspectives is None
    assert "perspectives" not in identity_fields(config.training)
    assert "teacher" in identity_fields(config)
    assert identity_fields(config)["teacher"] == {"chat": False}


def test_the_location_of_a_pinned_hub_model_is_its_name() -> None:
    assert HubModel(name="some/model", revision=REVISION).location == "some/model"


def _panel(folder: Path, tree: Tree, content: Tree) -> Tree:
    """A run that takes its questions from a panel file in another folder."""
    write_config(folder / "panels", content, "panel.yaml")
    return {**tree, "questions": {"panel": "panels/panel.yaml"}}


def test_a_panel_fills_in_the_lists_that_a_run_omits(tmp_path: Path, run_tree: Tree) -> None:
    own = run_tree["questions"]
    panel = {"train": [{"kind": "file", "path": "mine.jsonl"}], "evaluation": own["evaluation"]}
    tree = _panel(tmp_path, run_tree, panel)
    found = load_config(write_config(tmp_path, tree)).questions
    assert [source.path for source in found.train] == [tmp_path / "panels" / "mine.jsonl"]  # type: ignore[union-attr]
    assert [item.name for item in found.evaluation] == [item["name"] for item in own["evaluation"]]
    tree["questions"]["train"] = own["train"]
    assert load_config(write_config(tmp_path, tree)) == load_config(write_config(tmp_path, run_tree, "plain.yaml"))


def test_an_evaluation_panel_needs_training_sources_in_the_run(tmp_path: Path, run_tree: Tree) -> None:
    tree = _panel(tmp_path, run_tree, {"evaluation": run_tree["questions"]["evaluation"]})
    assert "questions.train: missing; add it" in _refusal(tmp_path, tree)


def test_an_error_in_a_panel_names_the_panel_file(tmp_path: Path, run_tree: Tree) -> None:
    tree = _panel(tmp_path, run_tree, {"evaluations": []})
    with pytest.raises(ConfigError, match=r"panel\.yaml: evaluations: unknown key; did you mean 'evaluation'\?"):
        load_config(write_config(tmp_path, tree))
    tree["questions"]["panel"] = "panels/other.yaml"
    with pytest.raises(ConfigError, match=r"other\.yaml: no such file; correct questions.panel"):
        load_config(write_config(tmp_path, tree))


@pytest.mark.parametrize(
    ("panel", "train"),
    [
        pytest.param(
            "paper.yaml", [], marks=pytest.mark.skipif("math" not in ANSWER_TYPES, reason="grading does not know mathematics")
        ),
        ("bbh.yaml", [{"kind": "named", "name": "bbh", "despite_evaluation_only": True}]),
    ],
)
def test_every_shipped_panel_loads(tmp_path: Path, run_tree: Tree, panel: str, train: list[Tree]) -> None:
    tree = {**run_tree, "questions": {"panel": str(REPOSITORY / "configs" / "panels" / panel)}}
    if train:
        tree["questions"]["train"] = train
    assert {item.group for item in load_config(write_config(tmp_path, tree)).questions.evaluation} == {"id", "ood"}


def test_a_recorded_configuration_may_list_keys_of_other_model_kinds_as_null(run_tree: dict[str, Any]) -> None:
    """Runs recorded before the kinds were told apart have every key; a single stage of theirs can still be run."""
    others = {"name": None, "revision": None, "served": None, "imported": None, "turns": None}
    recorded = {**run_tree, "teacher": {**run_tree["teacher"], **others}, "student": {**run_tree["student"], **others}}
    assert RunConfig.model_validate(recorded) == RunConfig.model_validate(run_tree)


def test_a_key_of_another_model_kind_is_rejected_by_name(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    message = _refusal(tmp_path, _with(run_tree, "teacher.revision", REVISION))
    assert "teacher.revision: does not go with the other keys of its section; remove it" in message


def test_two_kinds_of_model_at_once_are_rejected(tmp_path: Path, run_tree: dict[str, Any]) -> None:
    assert "teacher: give one of path" in _refusal(tmp_path, _with(run_tree, "teacher.name", "some/model"))


def test_the_example_in_the_readme_loads(tmp_path: Path) -> None:
    example = (REPOSITORY / "README.md").read_text().partition("```yaml\n")[2].partition("```")[0]
    (tmp_path / "mine.yaml").write_text(example)
    assert load_config(tmp_path / "mine.yaml").questions.train[0].kind == "file"

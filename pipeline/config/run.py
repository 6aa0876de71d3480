"""The whole run: its sections, the rules between sections, and loading it from a YAML file.

Every field is *identity* or *runtime* (`pipeline/schema/fields.py`). Relative paths are relative to the YAML file. `--set a.b=c`
overrides one field with a YAML value. Runs of different models share their questions, so these may lie in a file of their own:
`questions: {panel: panels/paper.yaml}`. The panel's lists are copied in; a list that the run gives itself replaces the panel's. `preset`
copies in the keys of a file `pipeline/config/preset-NAME.yaml` in the same way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from pipeline.config.engines import EngineConfig
from pipeline.config.evaluation import Evaluation
from pipeline.config.models import ImportedModel, ServedModel, TeacherField, WeightsField
from pipeline.config.presets import with_preset
from pipeline.config.prompts import Prompts
from pipeline.config.questions import Panel, Questions
from pipeline.config.sampling import Sampling
from pipeline.config.soft_targets import check_scores_tokens
from pipeline.config.synthesis import Objective, Synthesis
from pipeline.config.tracking import Tracking
from pipeline.config.training import Training
from pipeline.errors import ConfigError
from pipeline.schema.fields import FilePath, Frozen, Location, RunName, identity, runtime
from pipeline.schema.yaml_and_overrides import checked, override, read


class RunConfig(Frozen):
    """One distillation run."""

    name: RunName = runtime()
    """Name of the run in the catalogue (`mind status`)."""
    preset: Literal["paper"] | None = runtime(None)
    """Take the keys that this file does not give from a preset: `paper` is the method as its authors state it (docs/method.md)."""
    root: Location = runtime("artifacts", validate_default=True)
    """Artifact root: a local folder, or a URL such as s3://bucket/prefix."""
    workspace: FilePath | None = runtime(None)
    """Remote roots only: fast local folder for files in work; the user's cache folder if left out."""
    seed: int = identity(0, ge=0, lt=2**31)
    """Seed of everything random."""
    perspectives: FilePath | None = runtime(None)
    """YAML file of perspectives; the eight shipped ones if left out. Its content enters the fingerprint."""
    only_perspectives: tuple[str, ...] | None = identity(None, min_length=1)
    """Use only these perspectives of the file."""
    perspective_copies: int = identity(1, ge=1)
    """Copies of each perspective: several samples of one perspective in place of several perspectives (an ablation)."""
    objective: Objective = identity(Objective())
    """MetaNet's objective."""
    teacher: TeacherField = identity()
    """The model that writes rationales."""
    student: WeightsField = identity()
    """The model that is trained."""
    prompts: Prompts = identity(Prompts())
    """Prompt templates."""
    questions: Questions = identity()
    """Training and evaluation questions."""
    sampling: Sampling = identity(Sampling())
    """Sampling of the teacher."""
    synthesis: Synthesis = identity(Synthesis())
    """Selection, features, and MetaNet's warm-up."""
    training: Training = identity(Training())
    """Joint training."""
    evaluation: Evaluation = identity(Evaluation())
    """Evaluation."""
    tracking: Tracking = runtime(Tracking())
    """Experiment trackers."""

    @model_validator(mode="after")
    def _one_server_one_model(self) -> RunConfig:
        for name, engine in (("synthesis", self.synthesis.engine), ("evaluation", self.evaluation.engine)):
            if not engine.in_process:
                raise ValueError(f"{name}.engine: a server answers as one model, but here several are asked; use vllm")
        return self

    @model_validator(mode="after")
    def _someone_writes_rationales(self) -> RunConfig:
        if isinstance(self.teacher, ServedModel) and self.sampling.engine.in_process:
            raise ValueError("teacher.served: no server answers; set sampling.engine to kind openai with its base_url")
        if isinstance(self.teacher, ImportedModel) and self.sampling.rationales is None:
            raise ValueError("teacher.imported: there are no rationales; set sampling.rationales with its path and columns")
        return self

    def teacher_engine(self) -> EngineConfig:
        """The engine that runs the teacher on evaluation items: its server, or the evaluation's engine with the sampling's GPUs."""
        answering, sampled = self.evaluation.engine, self.sampling.engine
        if isinstance(self.teacher, ServedModel):
            return sampled
        if answering.kind != "vllm" or sampled.kind != "vllm":
            return answering
        cards = ("tensor_parallel", "replicas", "gpu_memory_utilization", "kv_cache_gib", "max_sequences")
        return answering.model_copy(update={name: getattr(sampled, name) for name in cards})

    @model_validator(mode="after")
    def _perspectives_of_one_source(self) -> RunConfig:
        own = self.perspectives or self.only_perspectives or self.perspective_copies > 1
        if own and self.sampling.rationales is not None and self.sampling.rationales.perspectives() is not None:
            raise ValueError(
                "sampling.rationales says what perspectives there are (names, or unlabelled and places); remove perspectives, "
                "only_perspectives and perspective_copies"
            )
        return self

    @model_validator(mode="after")
    def _soft_targets_have_a_source(self) -> RunConfig:
        if self.synthesis.teacher_top_k is None:
            if self.training.soft_targets is not None:
                raise ValueError("training.soft_targets: there are none; set synthesis.teacher_top_k, for example to 32")
            return self
        if isinstance(self.teacher, ImportedModel):
            raise ValueError(
                "synthesis.teacher_top_k: an imported teacher cannot be asked for its distributions; give the teacher's path or hub name, "
                "or leave teacher_top_k out"
            )
        check_scores_tokens(self.sampling.engine, "synthesis.teacher_top_k: sampling.engine")
        return self

    @model_validator(mode="after")
    def _on_policy_has_a_teacher(self) -> RunConfig:
        policy = self.training.on_policy
        if policy is None:
            return self
        if isinstance(self.teacher, ImportedModel):
            raise ValueError("training.on_policy: an imported teacher cannot score; give the teacher's path or hub name")
        if isinstance(self.teacher, ServedModel) and policy.engine.in_process:
            raise ValueError(
                "training.on_policy.engine: the teacher is served; set kind openai with its base_url and served_model"
            )
        return self

    @model_validator(mode="after")
    def _dev_scores_are_of_dev_sets(self) -> RunConfig:
        dev = self.training.dev
        if dev is None:
            return self
        known = [item.name for item in self.questions.evaluation if item.use == "dev"]
        if not known:
            raise ValueError("training.dev: no set under questions.evaluation has use: dev; add one, or leave training.dev out")
        unknown = next((name for name in dev.sets or () if name not in known), None)
        if unknown is not None:
            raise ValueError(f"training.dev.sets: {unknown!r} is no set with use: dev; those are {', '.join(known)}")
        if "all" in known:
            raise ValueError("training.dev: a set is called 'all', as all of them together are; give it another name")
        metrics = [*(dev.sets or known), "all"]
        if dev.keep_best is not None and dev.keep_best not in metrics:
            raise ValueError(f"training.dev.keep_best: {dev.keep_best!r} is not answered; use one of {', '.join(metrics)}")
        return self

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> RunConfig:
        if not any(item.use == self.evaluation.use for item in self.questions.evaluation):
            raise ValueError(f"evaluation.use is {self.evaluation.use!r} and no set under questions.evaluation has that use")
        return self


def _with_panel(tree: dict[str, Any], base: Path) -> dict[str, Any]:
    """The tree with its panel's lists, except lists that the tree gives itself."""
    questions = tree.get("questions")
    if not isinstance(questions, dict) or "panel" not in questions:
        return tree
    named = str(questions["panel"])
    if "\0" in named:
        raise ConfigError("questions.panel: has a NUL character, which no path may have; correct it")
    path = (base / named).resolve()
    shared = read(path, "correct questions.panel")
    panel = checked(Panel, shared, str(path), path.parent)
    lists = {name: value for name in Panel.model_fields if (value := getattr(panel, name)) is not None}
    return {**tree, "questions": {**lists, **{key: value for key, value in questions.items() if key != "panel"}}}


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read, override and check a run's configuration.

    Raises:
        ConfigError: one line with file, field, what was expected and the remedy.
    """
    tree = read(path, "give the path of a run's YAML file")
    for assignment in overrides:
        override(tree, assignment)
    base = path.parent.resolve()
    return checked(RunConfig, _with_panel(with_preset(tree), base), str(path), base)

"""The whole run as frozen models. Every field says whether it is *identity* or *runtime*.

Identity fields decide what is computed; they enter the fingerprints of the artifacts. Runtime fields decide where and
how fast (devices, batch per device, folders, ports); changing one runs nothing again. Locations are always runtime: what
lies at a path enters a fingerprint by its content, a hub name by its pinned revision.

Relative paths in a file are relative to that file. `--set a.b=c` overrides one field with a YAML value.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator
from pydantic.functional_validators import AfterValidator

from pipeline.errors import ConfigError


def identity(default: Any = ..., **limits: Any) -> Any:
    """A field that decides what is computed."""
    return Field(default, json_schema_extra={"role": "identity"}, **limits)


def runtime(default: Any = ..., **limits: Any) -> Any:
    """A field that decides where or how fast, never what."""
    return Field(default, json_schema_extra={"role": "runtime"}, **limits)


def _resolve(path: Path, info: ValidationInfo) -> Path:
    base = (info.context or {}).get("base")
    return path if base is None or path.is_absolute() else (Path(base) / path).resolve()


FilePath = Annotated[Path, AfterValidator(_resolve)]
"""A path; relative ones are resolved against the config file's folder while it is loaded."""


def _locate(location: str, info: ValidationInfo) -> str:
    return location if "://" in location else str(_resolve(Path(location), info))


Location = Annotated[str, AfterValidator(_locate)]
"""A local folder, or a URL such as s3://bucket/prefix."""


class Frozen(BaseModel):
    """Base of every configuration model: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSource(Frozen):
    """A transformers folder, or a hub model at a pinned revision."""

    path: FilePath | None = runtime(None)
    name: str | None = identity(None)
    revision: str | None = identity(None, pattern=r"^[0-9a-f]{40}$")

    @model_validator(mode="after")
    def _one_source(self) -> ModelSource:
        if (self.path is None) == (self.name is None):
            raise ValueError("give either path (a local folder) or name and revision (a hub model)")
        if self.name is not None and self.revision is None:
            raise ValueError("a hub model needs its revision, 40 hex digits, so that the run can be repeated")
        return self

    @property
    def location(self) -> str:
        """What `from_pretrained` takes."""
        return str(self.path) if self.path is not None else str(self.name)


class Columns(Frozen):
    """Which columns of a source hold what; `None` where it has no such column.

    Without an id column rows are numbered. `answer_pattern` is a regular expression whose one group is the answer.
    """

    id: str | None = identity("id")
    question: str = identity("question")
    answer: str = identity("answer")
    answer_pattern: str | None = identity(None)
    answer_type: str | None = identity("answer_type")
    choices: str | None = identity("choices")
    rationale: str | None = identity("rationale")
    task: str | None = identity("task")

    @model_validator(mode="after")
    def _one_group(self) -> Columns:
        try:
            groups = re.compile(self.answer_pattern or "()").groups
        except re.error as error:
            raise ValueError(f"answer_pattern is not a regular expression ({error})") from error
        if groups != 1:
            raise ValueError(f"answer_pattern has {groups} groups; it needs one, around the answer")
        return self


AnswerType = Literal["number", "choice", "boolean", "date", "math", "text"]


class MiniatureSource(Frozen):
    """Procedural questions of one family; `split` is decided by a hash of each question's text."""

    kind: Literal["miniature"] = identity("miniature")
    family: str = identity()
    split: Literal["train", "dev", "test"] = identity()
    count: int = identity(ge=1)
    seed: int = identity(0)


class FileSource(Frozen):
    """A local Parquet or JSONL file."""

    kind: Literal["file"] = identity("file")
    path: FilePath = runtime()
    columns: Columns = identity(Columns())
    answer_type: AnswerType | None = identity(None)
    limit: int | None = identity(None, ge=1)


class HubSource(Frozen):
    """A data set through `datasets`: by hub name and pinned revision, or a local folder of the same layout."""

    kind: Literal["hub"] = identity("hub")
    name: str | None = identity(None)
    revision: str | None = identity(None, pattern=r"^[0-9a-f]{40}$")
    folder: FilePath | None = runtime(None)
    subset: str | None = identity(None)
    split: str = identity("train")
    columns: Columns = identity(Columns())
    answer_type: AnswerType | None = identity(None)
    limit: int | None = identity(None, ge=1)

    @model_validator(mode="after")
    def _pinned(self) -> HubSource:
        if (self.name is None) == (self.folder is None):
            raise ValueError("give either name and revision (a hub data set) or folder (a local one)")
        if self.name is not None and self.revision is None:
            raise ValueError("a hub data set needs its revision, so that the run can be repeated")
        return self

    @property
    def location(self) -> str:
        """What `load_dataset` takes."""
        return str(self.folder) if self.folder is not None else str(self.name)


Source = Annotated[MiniatureSource | FileSource | HubSource, Field(discriminator="kind")]


class EvaluationSet(Frozen):
    """One named set of questions that is only ever evaluated: `dev` sets for choices, `test` sets for results."""

    name: str = identity(pattern=r"^[A-Za-z0-9_.-]+$")
    group: Literal["id", "ood"] = identity()
    use: Literal["dev", "test"] = identity("test")
    source: Source = identity()


class Questions(Frozen):
    """What is distilled and what is evaluated."""

    train: tuple[Source, ...] = identity(min_length=1)
    evaluation: tuple[EvaluationSet, ...] = identity(min_length=1)

    @model_validator(mode="after")
    def _distinct_names(self) -> Questions:
        names = [item.name for item in self.evaluation]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two evaluation sets are called {name!r}; give each its own name")
        return self


class Prompts(Frozen):
    """Jinja templates (sandboxed). `question` is what the student sees; `perspective` is what the teacher sees.

    `answer` is `question` rendered, in words that ask for the answer at once: the second task of `training.answer_weight`. With `chat`
    the rendered text becomes the user's turn of the model's own chat template.
    """

    question: str = identity("{{ question }}\n\nReason step by step. End with the sentence: The answer is \\boxed{ANSWER}.")
    perspective: str = identity("{{ question }}\n\n{{ instruction }}\nEnd with the sentence: The answer is \\boxed{ANSWER}.")
    answer: str = identity("{{ prompt }}\n\nGive the answer alone, without reasoning.")
    chat: bool = identity(True)

    def of_rationales(self) -> Prompts:
        """Those that stages before training use: with another second task they would make the same again."""
        return self.model_copy(update={"answer": Prompts().answer})


class Engine(Frozen):
    """What generates text: vLLM in process, an OpenAI-compatible server, or plain transformers."""

    kind: Literal["vllm", "openai", "transformers"] = identity("vllm")
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = identity("auto")
    max_context: int = identity(2048, ge=16)
    base_url: str | None = runtime(None, pattern=r"^https?://[^@\s]+$")
    served_model: str | None = identity(None)
    key_variable: str = runtime("OPENAI_API_KEY")
    connections: int = runtime(32, ge=1)
    tensor_parallel: int = runtime(1, ge=1)
    gpu_memory_utilization: float = runtime(0.9, gt=0, le=1)
    kv_cache_gib: float = runtime(1.0, gt=0)
    max_sequences: int = runtime(256, ge=1)
    batch: int = runtime(64, ge=1)

    @model_validator(mode="after")
    def _server_address(self) -> Engine:
        if self.kind == "openai" and (self.base_url is None or self.served_model is None):
            raise ValueError("the openai engine needs base_url, for example http://127.0.0.1:8000/v1, and served_model")
        return self


class Sampling(Frozen):
    """How the teacher is sampled. `tries` > `samples` draws again while no rationale of a perspective is right."""

    engine: Engine = identity(Engine())
    samples: int = identity(1, ge=1)
    tries: int = identity(4, ge=1)
    temperature: float = identity(0.7, ge=0)
    top_p: float = identity(0.95, gt=0, le=1)
    max_tokens: int = identity(1024, ge=1)
    questions_per_shard: int = runtime(64, ge=1)


class MetaNetShape(Frozen):
    """The teaching assistant: model width, attention heads across perspectives (0: no attention)."""

    width: int = identity(256, ge=8)
    heads: int = identity(4, ge=0)

    @model_validator(mode="after")
    def _divisible(self) -> MetaNetShape:
        if self.heads and self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class Objective(Frozen):
    """L_meta, in the warm-up and in joint training: τ, direction of the divergence, target; see `pipeline/inertia.py`.

    `hardest` is the share of a rationale's tokens, those with the largest loss, that L_real is the mean of; see `pipeline/objective.py`.
    """

    hardest: float = identity(1.0, gt=0, le=1)
    temperature: float = identity(1.0, gt=0)
    direction: Literal["prediction_first", "target_first"] = identity("target_first")
    target: Literal["z", "raw"] = identity("z")


class Synthesis(Frozen):
    """Selection of rationales, features and MetaNet's warm-up."""

    engine: Engine = identity(Engine())
    attempts: int = identity(4, ge=1)
    attempt_temperature: float = identity(0.7, ge=0)
    max_tokens: int = identity(1024, ge=1)
    keep_easy: float = identity(0.5, ge=0, le=1)
    easy_above: float = identity(0.5, ge=0, le=1)
    min_perspectives: int = identity(3, ge=1)
    duplicate_jaccard: float = identity(0.6, gt=0, le=1)
    thoughts: Literal["drop", "keep"] = identity("drop")
    """Whether what a thinking teacher writes before `</think>` is part of the rationale."""
    encoder: ModelSource | None = identity(None)
    encoder_context: int = identity(512, ge=8)
    metanet: MetaNetShape = identity(MetaNetShape())
    warm_up_epochs: int = identity(3, ge=0)
    warm_up_rate: float = identity(1e-3, gt=0)
    batch_questions: int = identity(32, ge=1)
    forward_rows: int = runtime(32, ge=1)


class Inertia(Frozen):
    """How slowly targets follow the loss. `optimizer` is the paper's lag, `ema` the explicit filter, `none` the last loss."""

    kind: Literal["optimizer", "ema", "none"] = identity("ema")
    gamma: float = identity(0.7, ge=0, lt=1)
    gamma_perspective: float = identity(0.99, ge=0, lt=1)
    prior_visits: float = identity(2.0, ge=0)


class Mixture(Frozen):
    """Selection and weights, from scores that are MetaNet's, or the losses' own.

    `table` scores by the filtered losses without a network, `static` by the base student's, `uniform` not at all. `order` turns the
    scores round, or deals them out at random among a question's rationales. `draw` takes so many of the kept ones at random.
    """

    weights: Literal["metanet", "table", "static", "uniform"] = identity("metanet")
    order: Literal["scored", "inverted", "shuffled"] = identity("scored")
    beta: float = identity(0.3, ge=0, le=1)
    temperature: float = identity(1.0, gt=0)
    epsilon: float = identity(0.1, ge=0, le=1)
    min_kept: int = identity(2, ge=1)
    min_effective: float = identity(1.5, ge=1)
    draw: int | None = identity(None, ge=1)


class Consistency(Frozen):
    """The term L_cons: its weight λ, how it measures, and how much of a rationale the answer is conditioned on."""

    weight: float = identity(0.1, ge=0)
    divergence: Literal["jensen_shannon", "symmetric_kl"] = identity("jensen_shannon")
    answer_context: Literal["full", "before_conclusion"] = identity("before_conclusion")


class Training(Frozen):
    """Joint training of student and MetaNet under DeepSpeed ZeRO."""

    steps: int = identity(300, ge=1)
    questions_per_step: int = identity(8, ge=1)
    learning_rate: float = identity(1e-5, gt=0)
    warm_up: float = identity(0.03, ge=0, lt=1)
    final_rate: float = identity(0.1, ge=0, le=1)
    weight_decay: float = identity(0.0, ge=0)
    clip: float = identity(1.0, gt=0)
    precision: Literal["fp32", "bf16"] = identity("bf16")
    max_length: int = identity(2048, ge=8)
    metanet_rate: float = identity(5e-6, gt=0)
    metanet_accumulation: int = identity(4, ge=1)
    probe_every: int = identity(4, ge=1)
    inertia: Inertia = identity(Inertia())
    mixture: Mixture = identity(Mixture())
    consistency: Consistency = identity(Consistency())
    perspectives: tuple[str, ...] | None = identity(None, min_length=1)
    """Train on these alone, of those that synthesis kept."""
    answer_weight: float = identity(0.0, ge=0, lt=1)
    """The share of the loss that goes to a second task: the answer at once, behind the prompt `prompts.answer`."""
    zero_stage: Literal[0, 1, 2, 3] = runtime(2)
    ranks: int = runtime(1, ge=1)
    questions_per_micro_batch: int = runtime(4, ge=1)
    checkpoint_every: int = runtime(50, ge=1)
    gradient_checkpointing: bool = runtime(False)
    shared_prefix: bool = runtime(False)
    """Compute what a question's rows have in common once. Dense masks: for short rows, or few of them at a time."""
    threads_per_rank: int = runtime(1, ge=1)
    port: int | None = runtime(None, ge=1, le=65535)
    """Rendezvous port on loopback; None chooses a free one."""

    @model_validator(mode="after")
    def _lags(self) -> Training:
        if self.inertia.kind == "optimizer" and self.metanet_rate >= self.learning_rate:
            raise ValueError("with inertia.kind optimizer, metanet_rate must be below learning_rate: that lag is the inertia")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> Training:
        share = self.ranks * self.questions_per_micro_batch
        if self.questions_per_step % share:
            raise ValueError(
                f"questions_per_step {self.questions_per_step} must be a multiple of "
                f"ranks x questions_per_micro_batch = {share}"
            )
        return self


class Evaluation(Frozen):
    """Greedy evaluation of base, teacher and student on every set of one use."""

    use: Literal["dev", "test"] = identity("test")
    engine: Engine = identity(Engine())
    max_tokens: int = identity(1024, ge=1)
    bootstrap: int = identity(10_000, ge=100)
    items_per_shard: int = runtime(256, ge=1)


class RunConfig(Frozen):
    """One distillation run."""

    name: str = runtime(pattern=r"^[A-Za-z0-9_.-]+$")
    root: Location = runtime("artifacts", validate_default=True)
    workspace: FilePath | None = runtime(None)
    """Where the files of a remote root are worked on; a fast local disk. None: under the user's cache folder."""
    seed: int = identity(0, ge=0, lt=2**31)
    perspectives: FilePath | None = runtime(None)
    only_perspectives: tuple[str, ...] | None = identity(None, min_length=1)
    perspective_copies: int = identity(1, ge=1)
    """How often each perspective is there: several samples of one take the places of several perspectives."""
    objective: Objective = identity(Objective())
    teacher: ModelSource = identity()
    student: ModelSource = identity()
    prompts: Prompts = identity(Prompts())
    questions: Questions = identity()
    sampling: Sampling = identity(Sampling())
    synthesis: Synthesis = identity(Synthesis())
    training: Training = identity(Training())
    evaluation: Evaluation = identity(Evaluation())

    @model_validator(mode="after")
    def _one_server_one_model(self) -> RunConfig:
        for name, engine in (("synthesis", self.synthesis.engine), ("evaluation", self.evaluation.engine)):
            if engine.kind == "openai":
                raise ValueError(f"{name}.engine: a server answers as one model, but here several are asked; use vllm")
        return self

    @model_validator(mode="after")
    def _something_to_evaluate(self) -> RunConfig:
        if not any(item.use == self.evaluation.use for item in self.questions.evaluation):
            raise ValueError(f"evaluation.use is {self.evaluation.use!r} and no set under questions.evaluation has that use")
        return self


def identity_fields(value: Any) -> Any:
    """`value` as plain data with runtime fields left out, models all the way down."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        return {
            name: identity_fields(getattr(value, name))
            for name, field in fields.items()
            if (field.json_schema_extra or {}).get("role") == "identity"  # type: ignore[union-attr]
        }
    if isinstance(value, list | tuple):
        return [identity_fields(item) for item in value]
    if isinstance(value, dict):
        return {key: identity_fields(item) for key, item in value.items()}
    return value


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that an error's location points into."""
    model: Any = RunConfig
    for part in location:
        if isinstance(part, int):
            continue
        tagged = [option for option in _models(model) if _tag(option) == part]
        if tagged:
            model = tagged[0]
            continue
        fields = [option.model_fields[part].annotation for option in _models(model) if part in option.model_fields]
        if not fields:
            return []
        model = fields[0]
    return sorted({name for option in _models(model) for name in option.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _tag(model: type[BaseModel]) -> str | None:
    kind = model.model_fields.get("kind")
    return kind.default if kind is not None and isinstance(kind.default, str) else None


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    location = first["loc"]
    field = ".".join(str(part) for part in location) or "the file"
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _known_keys(location[:-1]), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it; the README lists the keys"
        return f"{where}: {field}: unknown key; {hint}"
    if first["type"] == "missing":
        return f"{where}: {field}: missing; add it"
    message = re.sub(r"^Value error, ", "", first["msg"])
    given = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
    return f"{where}: {field}: {message[:1].lower() + message[1:]}{given}; correct this field"


def _override(tree: dict[str, Any], assignment: str) -> None:
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {assignment}: expected KEY=VALUE, for example training.steps=100")
    *parents, last = key.split(".")
    for parent in parents:
        child = tree.get(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {assignment}: {parent} is not a section; name a field inside one")
        # A YAML anchor is one object in several places; the override is meant for this place only.
        tree[parent] = tree = dict(child)
    try:
        tree[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not YAML; quote it") from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice; YAML would take the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read, override and check a run's configuration.

    Raises:
        ConfigError: one line with file, field, what was expected and the remedy.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a run's YAML file")
    try:
        tree = yaml.load(path.read_text(), _Loader)  # noqa: S506 - a safe loader, stricter than yaml.safe_load
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = f" line {error.problem_mark.line + 1}" if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else ""
        problem = f" ({error.problem})" if isinstance(error, yaml.MarkedYAMLError) and error.problem else ""
        raise ConfigError(f"{path}:{line} not valid YAML{problem}; correct it") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections; see configs/ for examples")
    for assignment in overrides:
        _override(tree, assignment)
    try:
        return RunConfig.model_validate(tree, context={"base": path.parent.resolve()})
    except ValidationError as error:
        raise ConfigError(_explain(error, str(path))) from error

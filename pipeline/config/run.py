"""The whole run as frozen models. Every field says whether it is *identity* or *runtime*; see `pipeline/schema/fields.py`.

Relative paths in a file are relative to that file. `--set a.b=c` overrides one field with a YAML value. What runs of different models
have in common are the questions, so that part alone may lie in a file of its own: `questions: {panel: panels/paper.yaml}`. Its lists
are copied in, and a list that the run gives itself replaces the panel's; nothing is merged inside lists, which nobody could foresee.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import model_validator

from pipeline.schema.yaml_file import checked, override, read
from pipeline.schema.fields import FilePath, Frozen, Location, identity, runtime
from pipeline.config.rationales import GivenRationales
from pipeline.questions.named import NamedSource, Source, evaluation_only


class Turns(Frozen):
    """What a chat with a model has beside the user's turn: a system turn, and arguments of the model's own chat template."""

    system: str | None = identity(None, min_length=1)
    template: dict[str, bool | int | str] | None = identity(None)
    """For example `{enable_thinking: false}`."""


class ModelSource(Frozen):
    """A transformers folder, or a hub model at a pinned revision; and how one chats with it.

    A teacher may also be `served`: it is what answers at `sampling.engine`, and its weights are not here. Or `imported`: nobody is
    there to be asked, and its rationales are `sampling.rationales`.
    """

    path: FilePath | None = runtime(None)
    name: str | None = identity(None)
    revision: str | None = identity(None, pattern=r"^[0-9a-f]{40}$")
    served: Literal[True] | None = identity(None)
    imported: Literal[True] | None = identity(None)
    chat: bool = identity(True)
    """Whether a prompt is the user's turn of the model's own chat template; a base model reads it as it is."""
    turns: Turns | None = identity(None)

    @model_validator(mode="after")
    def _one_source(self) -> ModelSource:
        if sum(given is not None for given in (self.path, self.name, self.served, self.imported)) != 1:
            raise ValueError(
                "give one of path (a local folder), name and revision (a hub model), or for a teacher served: true or imported: true"
            )
        if self.name is not None and self.revision is None:
            raise ValueError("a hub model needs its revision, 40 hex digits, so that the run can be repeated")
        if self.turns is not None and not self.chat:
            raise ValueError("turns: there are none with chat false; put the words into the templates of prompts")
        return self

    @property
    def dialogue(self) -> Turns | None:
        """What stands around a prompt; None where it is read as it is."""
        return (self.turns or Turns()) if self.chat else None

    def moved(self, path: Path) -> ModelSource:
        """Other weights that one chats with in the same way: what became of a student."""
        return ModelSource(path=path, chat=self.chat, turns=self.turns)

    @property
    def location(self) -> str:
        """What `from_pretrained` takes."""
        if self.path is not None:
            return str(self.path)
        return "a server" if self.served else "rationales that were given" if self.imported else str(self.name)


class EvaluationSet(Frozen):
    """One named set of questions that is only ever evaluated: `dev` sets for choices, `test` sets for results."""

    name: str = identity(pattern=r"^[A-Za-z0-9_.-]+$")
    group: Literal["id", "ood"] = identity()
    use: Literal["dev", "test"] = identity("test")
    source: Source = identity()


class Panel(Frozen):
    """What several runs share of `questions`: a file that `questions.panel` names."""

    train: tuple[Source, ...] | None = identity(None, min_length=1)
    evaluation: tuple[EvaluationSet, ...] | None = identity(None, min_length=1)


class Questions(Frozen):
    """What is distilled and what is evaluated.

    `panel: FILE` stands for the `train` and `evaluation` of that file, unless they are given here; paths in it are relative to it. It is
    filled in while a configuration is loaded. Named sets without a folder of their own are read from the folder of their name inside
    `folder`, if that is given, and not from the hub.
    """

    folder: FilePath | None = runtime(None)
    train: tuple[Source, ...] = identity(min_length=1)
    evaluation: tuple[EvaluationSet, ...] = identity(min_length=1)
    shared_words: int | None = identity(None, ge=5)
    """Leave out training questions that have so many words in a row in common with an evaluated one; 13 is usual."""
    near_duplicates: float | None = identity(None, ge=0.1, le=1)
    """Leave out training questions that are so similar to an earlier one; 0.8 is usual. See `pipeline/questions/near_duplicates.py`."""

    @model_validator(mode="after")
    def _distinct_names(self) -> Questions:
        names = [item.name for item in self.evaluation]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two evaluation sets are called {name!r}; give each its own name")
        return self

    @model_validator(mode="after")
    def _trained_on_by_consent(self) -> Questions:
        for number, source in enumerate(self.train):
            agreed = isinstance(source, NamedSource) and source.despite_evaluation_only
            reason = evaluation_only(source)
            if reason is not None and not agreed:
                raise ValueError(
                    f"train.{number} is for evaluation only: {reason}; train on something else or, with kind: named, "
                    "set despite_evaluation_only: true and say so with the results"
                )
        return self

    def sources(self) -> tuple[list[Source], list[Source]]:
        """Those that are trained on and those that are evaluated, with the folders that they are read from."""
        return [self._placed(source) for source in self.train], [self._placed(item.source) for item in self.evaluation]

    def _placed(self, source: Source) -> Source:
        if self.folder is None or not isinstance(source, NamedSource) or source.folder is not None:
            return source
        return source.model_copy(update={"folder": self.folder / source.name})


class Prompts(Frozen):
    """Jinja templates (sandboxed). `question` is what the student sees; `perspective` is what the teacher sees.

    `answer` is `question` rendered, in words that ask for the answer at once: the second task of `training.answer_weight`.
    """

    question: str = identity("{{ question }}\n\nReason step by step. End with the sentence: The answer is \\boxed{ANSWER}.")
    perspective: str = identity("{{ question }}\n\n{{ instruction }}\nEnd with the sentence: The answer is \\boxed{ANSWER}.")
    answer: str = identity("{{ prompt }}\n\nGive the answer alone, without reasoning.")

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
    answers_as: str | None = identity(None)
    """The model that a server's answers name, where it is not `served_model`: gpt-4o-2024-08-06 for gpt-4o."""
    key_variable: str = runtime("OPENAI_API_KEY")
    connections: int = runtime(32, ge=1)
    request_seconds: float = runtime(600, gt=0)
    """How long a server may take for one answer."""
    retry_seconds: float = runtime(1800, ge=0)
    """For how long one request to a server is made again while it fails for a reason that may pass."""
    stall_seconds: float = runtime(900, gt=0)
    """After how long without a single step of vLLM the stage gives up."""
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


class Judge(Frozen):
    """A model that says whether an answer is right that rules could not read; see `pipeline/judge.py`."""

    model: ModelSource = identity()
    engine: Engine = identity(Engine())
    max_tokens: int = identity(512, ge=1)
    prompt: str = identity(
        "Here are a question, its right answer, and somebody's solution.\n\nQuestion:\n{{ question }}\n\nRight answer:\n{{ answer }}\n\n"
        "Solution:\n{{ text }}\n\nDoes the solution come to the right answer? Judge the final answer alone, not the way to it. "
        "A solution that states no final answer, or several, is wrong. End with a line that has one word: CORRECT or WRONG."
    )

    @model_validator(mode="after")
    def _is_somewhere(self) -> Judge:
        if self.model.served and self.engine.kind != "openai":
            raise ValueError("model.served: no server answers; set engine to kind openai with its base_url")
        if self.model.imported:
            raise ValueError("model.imported: a judge has to be asked; give path, name and revision, or served")
        return self


class Sampling(Frozen):
    """How the teacher is sampled. `tries` > `samples` draws again while no rationale of a perspective is right.

    With `rationales` nobody is sampled and the rest means nothing: they are there already.
    """

    rationales: GivenRationales | None = identity(None)
    engine: Engine = identity(Engine())
    samples: int = identity(1, ge=1)
    tries: int = identity(4, ge=1)
    temperature: float = identity(0.7, ge=0)
    top_p: float = identity(0.95, gt=0, le=1)
    max_tokens: int = identity(1024, ge=1)
    judge: Judge | None = identity(None)
    """Who is asked about samples whose answer rules cannot read."""
    questions_per_shard: int = runtime(64, ge=1)

    @model_validator(mode="after")
    def _the_judge_is_asked(self) -> Sampling:
        if self.judge is not None and self.rationales is not None:
            raise ValueError("judge: is not asked about rationales that are there already; remove judge, or rationales")
        return self

    @model_validator(mode="after")
    def _the_judge_has_room(self) -> Sampling:
        if self.judge is not None and self.judge.engine.max_context <= (least := self.max_tokens + self.judge.max_tokens):
            raise ValueError(
                f"judge.engine.max_context: {self.judge.engine.max_context} holds no sample of max_tokens {self.max_tokens} with its "
                f"question and a verdict of {self.judge.max_tokens}; raise it well over {least}"
            )
        return self


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
    """L_meta, in the warm-up and in joint training: τ, direction of the divergence, target; see `pipeline/metanet/inertia.py`.

    `hardest` is the share of a rationale's tokens, those with the largest loss, that L_real is the mean of; see `pipeline/student/objective.py`.
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
    max_questions: int | None = identity(None, ge=1)
    """Keep so many questions at most: of those that pass every other rule, which ones is decided by their ids and the seed."""
    duplicate_jaccard: float = identity(0.6, gt=0, le=1)
    thoughts: Literal["drop", "keep"] = identity("drop")
    """Whether what a thinking teacher writes before `</think>` is part of the rationale."""
    form: Literal["report", "require"] = identity("report")
    """Whether a right sample without the form that its perspective asks for is only counted, or not taken."""
    majority: Literal["require"] | None = identity(None)
    """Whether to leave out questions to which most samples give one other answer than the right one, which may then be wrong itself."""
    encoder: ModelSource | None = identity(None)
    encoder_context: int = identity(512, ge=8)
    metanet: MetaNetShape = identity(MetaNetShape())
    warm_up_epochs: int = identity(3, ge=0)
    warm_up_rate: float = identity(1e-3, gt=0)
    batch_questions: int = identity(32, ge=1)
    forward_rows: int = runtime(32, ge=1)


class Inertia(Frozen):
    """How slowly targets follow the loss. `optimizer` is the paper's lag, `ema` the explicit filter, `none` the last loss."""

    kind: Literal["optimizer", "ema", "none"] = identity("optimizer")
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


class Lora(Frozen):
    """Low-rank adapters that learn in the student's place; `targets` are names of layers, all linear ones if left out."""

    rank: int = identity(16, ge=1)
    alpha: int = identity(32, ge=1)
    targets: tuple[str, ...] | None = identity(None, min_length=1)


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
    hold_out: float = identity(0.0, ge=0, lt=1)
    """The share of synthesis's questions that training never sees: what MetaNet prefers can be checked on them."""
    answer_weight: float = identity(0.0, ge=0, lt=1)
    """The share of the loss that goes to a second task: the answer at once, behind the prompt `prompts.answer`."""
    lora: Lora | None = identity(None)
    """Train adapters alone; the student that comes out is whole all the same."""
    zero_stage: Literal[0, 1, 2, 3] = runtime(2)
    offload: Literal["none", "optimizer", "all"] = runtime("none")
    """Keep the optimiser's state, or with ZeRO-3 the parameters too, in the memory of the host."""
    ranks: int = runtime(1, ge=1)
    """On all hosts together."""
    hosts: int = runtime(1, ge=1)
    """Machines that share the root's folder; on all but the first one `mind join` has to be called."""
    address: str | None = runtime(None, pattern=r"^[A-Za-z0-9.:_-]+$")
    """The first host's, as the others reach it. With one host nothing listens but loopback."""
    questions_per_micro_batch: int = runtime(4, ge=1)
    checkpoint_every: int = runtime(50, ge=1)
    gradient_checkpointing: bool = runtime(False)
    packing: Literal["none", "rows", "flex"] = runtime("rows")
    """Compute what a question's rows have in common once: attention row by row, or FlexAttention, which learns on a GPU alone."""
    threads_per_rank: int = runtime(1, ge=1)
    port: int | None = runtime(None, ge=1, le=65535)
    """Rendezvous port on loopback; None chooses a free one."""

    @model_validator(mode="after")
    def _lags(self) -> Training:
        if self.inertia.kind == "optimizer" and self.metanet_rate >= self.learning_rate:
            raise ValueError("with inertia.kind optimizer, metanet_rate must be below learning_rate: that lag is the inertia")
        return self

    @model_validator(mode="after")
    def _hosts_find_each_other(self) -> Training:
        if self.ranks % self.hosts:
            raise ValueError(f"ranks {self.ranks}, those of all hosts, must be a multiple of hosts {self.hosts}")
        if self.hosts > 1 and (self.address is None or self.port is None):
            raise ValueError(f"hosts {self.hosts} meet at the first one's address and port; set both")
        return self

    @model_validator(mode="after")
    def _offloads_what_is_partitioned(self) -> Training:
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(f"offload {self.offload} needs zero_stage {least} or more, not {self.zero_stage}")
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


class Draws(Frozen):
    """Answers that are drawn beside the greedy one, for pass@1 with its spread, pass@k and the majority's answer."""

    count: int = identity(8, ge=2, le=1024)
    temperature: float = identity(0.7, gt=0)
    top_p: float = identity(1.0, gt=0, le=1)


class Evaluation(Frozen):
    """Evaluation of base, teacher and student on every set of one use: greedy, and with `draws` also sampled."""

    use: Literal["dev", "test"] = identity("test")
    engine: Engine = identity(Engine())
    max_tokens: int = identity(1024, ge=1)
    bootstrap: int = identity(10_000, ge=100)
    draws: Draws | None = identity(None)
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
    def _a_server_serves_the_teacher_alone(self) -> RunConfig:
        for name, model in (("student", self.student), ("synthesis.encoder", self.synthesis.encoder)):
            if model is not None and (model.served or model.imported):
                raise ValueError(f"{name}: its weights are needed here; give path, or name and revision")
        if self.teacher.served and self.sampling.engine.kind != "openai":
            raise ValueError("teacher.served: no server answers; set sampling.engine to kind openai with its base_url")
        if self.teacher.imported and self.sampling.rationales is None:
            raise ValueError("teacher.imported: there are no rationales; set sampling.rationales with its path and columns")
        return self

    def teacher_engine(self) -> Engine:
        """By what the teacher answers evaluation items: its server, or the evaluation's engine on the cards that it is sampled on."""
        answering, sampled = self.evaluation.engine, self.sampling.engine
        if self.teacher.served:
            return sampled
        if answering.kind != "vllm" or sampled.kind != "vllm":
            return answering
        cards = ("tensor_parallel", "gpu_memory_utilization", "kv_cache_gib", "max_sequences")
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
    def _something_to_evaluate(self) -> RunConfig:
        if not any(item.use == self.evaluation.use for item in self.questions.evaluation):
            raise ValueError(f"evaluation.use is {self.evaluation.use!r} and no set under questions.evaluation has that use")
        return self


def _with_panel(tree: dict[str, Any], base: Path) -> dict[str, Any]:
    """The tree with the lists of its panel, if it names one, where it does not give them itself."""
    questions = tree.get("questions")
    if not isinstance(questions, dict) or "panel" not in questions:
        return tree
    path = (base / str(questions["panel"])).resolve()
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
    return checked(RunConfig, _with_panel(tree, base), str(path), base)

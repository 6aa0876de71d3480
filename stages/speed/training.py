"""Training speed: packed against padded rows, MIND's step against a uniform step, DeepSpeed against plain PyTorch, and TRL.

A side takes a few steps with all eight rationales of its questions; its rate is in *useful* tokens (those that carry loss) per second.
MIND's own step trains on fewer rationales, so it is compared in steps per second. One of the few steps is a probe, as with the default of
one in four.

Axes: Q questions of a step, N questions of the set, K perspectives, F features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.config.models import LocalModel
from pipeline.config.prompts import Prompts
from pipeline.config.synthesis import MetaNetShape, Objective, Synthesis
from pipeline.config.training import Consistency, Mixture, Training
from pipeline.metanet.inertia import observe
from pipeline.metanet.warm_up import warm_up
from pipeline.model_folders import load_causal_model
from pipeline.perspectives.perspective import load_perspectives
from pipeline.student.attention import ROWS
from pipeline.student.token_losses import StudentLosses
from pipeline.training.micro_batch import assemble
from pipeline.training.step import TrainingState, choose, metanet_step, train_step
from pipeline.training.student_engine import StudentEngine
from pipeline.training.training_set import TrainingSet, questions_of_step
from stages.speed.timing import Once, Ratio, clock, rates, ratio
from stages.speed.workload import SMALL, Lengths, make_set, make_student
from stages.training.launcher import only_rank_environment
from stages.training.rank import join, start_engine, start_training_state
from stages.training.stage_config import Config

CASES: Final = {"1:1": Lengths(96, 96), "1:3": Lengths(64, 192)}
"""Mean lengths, by the ratio of a prompt's tokens to a rationale's."""
QUESTIONS: Final = 2
"""Questions per step."""
STEPS: Final = 4
"""Steps of MIND per repeat; one of them probes."""
UNIFORM_STEPS: Final = 2
"""Steps per repeat of sides whose steps are all alike."""
WIDTH: Final = 64
"""MetaNet's width."""

_UNIFORM: Final[dict[str, Any]] = {
    "mixture": Mixture(weights="uniform", beta=0), "consistency": Consistency(weight=0), "packing": "rows",
}  # fmt: skip
SIDES: Final[dict[str, dict[str, Any]]] = {
    "packed": _UNIFORM,
    "padded": {**_UNIFORM, "packing": "none"},
    "packed, L_cons": {**_UNIFORM, "consistency": Consistency()},
    "padded, L_cons": {**_UNIFORM, "consistency": Consistency(), "packing": "none"},
    "mind": {"mixture": Mixture(beta=0.5), "packing": "rows"},
}
FLEX: Final = "packed, flex"


def sides_here() -> dict[str, dict[str, Any]]:
    """The sides that can run here, with FlexAttention on a GPU."""
    return SIDES | ({FLEX: {**_UNIFORM, "packing": "flex"}} if torch.cuda.is_available() else {})


class PlainEngine:
    """The engine interface that the trainer uses, in plain PyTorch, to measure the cost of DeepSpeed."""

    def __init__(self, model: StudentLosses, clip: float) -> None:
        self.module: Any = model
        self.clip = clip
        self.device = next(model.parameters()).device
        self.optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def __call__(self, *inputs: Any) -> Any:
        return self.module(*inputs)

    def backward(self, loss: Tensor, scale_wrt_gas: bool) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_global_grad_norm(self) -> None:
        return None


def _plain(config: Config, device: torch.device) -> PlainEngine:
    student = load_causal_model(config.student, torch.float32, ROWS).train()
    return PlainEngine(StudentLosses(student.to(device)), config.training.clip)


def config_of(student: Path, fields: Mapping[str, Any]) -> Config:
    """A training whose MetaNet fits the sets of `workload.make_set`; `fields` are those of `Training`."""
    usual: dict[str, Any] = {
        "questions_per_step": QUESTIONS, "questions_per_micro_batch": QUESTIONS, "precision": "fp32", "zero_stage": 0,
        "learning_rate": 1e-4, "metanet_rate": 1e-5,
    }  # fmt: skip
    training = Training.model_validate(usual | dict(fields))
    return Config(
        student=LocalModel(path=student, chat=False), perspectives=load_perspectives(None), prompts=Prompts(), training=training,
        objective=Objective(), metanet=MetaNetShape(width=WIDTH), seed=0,
    )  # fmt: skip


class Trained(NamedTuple):
    """A training side: its learners, and the mean number of rationales kept in each step."""

    state: TrainingState
    kept: list[float]

    def once(self, unit: str, steps: int) -> Once:
        """A side's work: some steps, counted in useful tokens or in steps."""

        def work() -> float:
            done = 0.0
            for step in range(steps):
                log = train_step(self.state, step)
                self.kept.append(log["kept"])
                done += log["tokens"] if unit == "tokens" else 1
            return done

        return work


def join_alone(training: Training) -> None:
    """Make this process the only rank of a process group."""
    os.environ.update(only_rank_environment(training, 0))
    join(training)


def _trained(config: Config, data: TrainingSet, engine: StudentEngine) -> Trained:
    state = start_training_state(config, data, engine, None)
    if config.training.mixture.weights == "metanet":
        settings = Synthesis(metanet=MetaNetShape(width=WIDTH), warm_up_epochs=60, warm_up_rate=3e-3)
        found = warm_up(settings, config.objective, data.features_NKF, data.base_losses_NK, data.mask_NK, 0, lambda loss: None)
        state.metanet.load_state_dict(found.metanet.state_dict())
        torch.set_num_threads(config.training.threads_per_rank)  # the warm-up sets it to one
    return Trained(state, [])


def sides_of(folder: Path, lengths: Lengths, threads: int) -> dict[str, Trained]:
    """All of our own sides, each with its own student, in this process."""
    student = folder / "student"
    if not student.is_dir():
        make_student(student, SMALL)
    data = make_set(QUESTIONS * STEPS, 8, lengths, SMALL.vocabulary)
    found = {}
    for name, fields in sides_here().items():
        config = config_of(student, {**fields, "threads_per_rank": threads})
        join_alone(config.training)
        engine, config = start_engine(config, data)
        found[name] = _trained(config, data, engine)
    config = config_of(student, {**SIDES["packed"], "threads_per_rank": threads})
    found["plain"] = _trained(config, data, _plain(config, found["packed"].state.engine.device))
    return found


def shares(side: Trained, repeats: int) -> dict[str, float]:
    """Parts of MIND's step as shares of its time: MetaNet with inertia, and assembling rows into lines."""
    state, took = side.state, {"step": 0.0, "metanet": 0.0, "assembly": 0.0}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = clock()
        yield
        took[name] += clock() - began

    for step in range(STEPS * repeats):
        index_Q = questions_of_step(step, len(state.data), QUESTIONS, 0)
        losses_QK, mask_QK = state.data.base_losses_NK[index_Q], state.data.mask_NK[index_Q]
        with timed("step"):
            train_step(state, step)
        with timed("metanet"):
            weights = choose(state, index_Q, step)
            observe(state.inertia, state.config.inertia, index_Q, losses_QK, mask_QK)
            metanet_step(state, index_Q, step)
        with timed("assembly"):
            assemble(state.data, state.config, index_Q, weights.kept_QK, range(QUESTIONS))
    return {name: seconds / took["step"] for name, seconds in took.items() if name != "step"}


class Measured(NamedTuple):
    """Results at one ratio of lengths: ratios by name, mean number of rationales that MIND kept, and shares of its step."""

    ratios: dict[str, Ratio]
    kept: float
    shares: dict[str, float]


def measure(folder: Path, lengths: Lengths, repeats: int, threads: int, say: Callable[[str], None]) -> Measured:
    """All comparisons at one ratio of lengths, with TRL if installed."""
    from stages.speed.trl import trl_sides

    ours = sides_of(folder, lengths, threads)
    others = trl_sides(folder, ours["packed"].state.data, QUESTIONS, UNIFORM_STEPS)
    uniform = {name: side.once("tokens", UNIFORM_STEPS) for name, side in ours.items() if name != "mind"}
    useful = rates({**uniform, **others}, repeats, say)
    steps = rates({name: ours[name].once("steps", STEPS) for name in ("mind", "packed")}, repeats, say)
    ratios = {
        "packed / padded": ratio(useful["packed"], useful["padded"]),
        "with L_cons, packed / padded": ratio(useful["packed, L_cons"], useful["padded, L_cons"]),
        "DeepSpeed / plain PyTorch": ratio(useful["packed"], useful["plain"]),
        **({"packed, flex / padded": ratio(useful[FLEX], useful["padded"])} if FLEX in useful else {}),
        **{f"packed / {name}": ratio(useful["packed"], useful[name]) for name in others},
        # A ratio of times: above one, MIND's step takes longer.
        "MIND's step / uniform step, in time": ratio(steps["packed"], steps["mind"]),
    }
    kept = ours["mind"].kept
    return Measured(ratios, sum(kept) / len(kept), shares(ours["mind"], repeats))

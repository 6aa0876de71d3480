"""Training speed: the product's own step under DeepSpeed, bfloat16 weights with fp32 copies, in every packing.

For a shape and a packing one engine takes all steps, uniform and with MIND's objective, at both ratios of lengths, on the same questions.
Then come the step that MIND itself takes (it selects and probes), faster kernels as options, and TRL's trainer. Rates are useful tokens
(those that carry loss) per second. MFU is the arithmetic that the step needs, each shared token once, over the card's peak.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any, Final

import torch

from pipeline.config.training import Consistency, Mixture, Training
from pipeline.student.token_losses import DTYPES
from pipeline.training.micro_batch import MicroBatch, assemble
from pipeline.training.step import TrainingState, choose, metanet_step, train_step
from pipeline.training.training_set import questions_of_step
from scripts.gpu.part import Options, attempt, options, report, wait
from scripts.gpu.students import ATTENTION, NOWHERE, SHAPES, Shape, operations, peak_of, set_of, student_of
from scripts.gpu.trl import trl_seconds
from stages.speed.training import config_of, join_alone
from stages.training.rank import engine_of, start_training_state

RATIOS: Final = ((1, 1), (1, 3))
OBJECTIVES: Final[dict[str, dict[str, Any]]] = {
    "uniform": {"mixture": Mixture(weights="uniform", beta=0), "consistency": Consistency(weight=0)},
    "L_cons": {"mixture": Mixture(weights="uniform", beta=0), "consistency": Consistency()},
    "mind": {"mixture": Mixture()},
}
"""`L_cons`: MIND's objective on all eight rationales; `mind`: on those that MetaNet keeps, with probes."""
KERNELS: Final = ("liger", "compiled")
WARM: Final = 3
"""Warm-up steps. FlexAttention is compiled in the first, again for any length in the second, and once more for a single line."""
MOST: Final = 8
"""Measured steps."""


def config(given: Options, shape: Shape, packing: str, objective: str) -> Any:
    """The training's configuration; without a GPU in fp32."""
    fields = {
        **OBJECTIVES[objective], "packing": packing, "questions_per_step": shape.questions, "zero_stage": 1,
        "questions_per_micro_batch": shape.questions, "precision": "bf16" if given.cuda else "fp32",
    }  # fmt: skip
    return config_of(NOWHERE, fields)


def state_of(given: Options, shape: Shape, packing: str, kernels: str = "") -> TrainingState:
    """A student in DeepSpeed's engine and a MetaNet, with a set at the first ratio."""
    torch.compiler.reset()  # after eight compilations for other shapes, torch would stop compiling FlexAttention
    settings = config(given, shape, packing, "uniform")
    join_alone(settings.training)
    student = student_of(shape, ATTENTION[packing], given.device, DTYPES[settings.training.precision])
    if kernels == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2

        apply_liger_kernel_to_qwen2(cross_entropy=False, fused_linear_cross_entropy=False, model=student)
    if kernels == "compiled":
        for layer in student.base_model.layers:
            for part in (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm):
                part.compile(dynamic=True)
    data = set_of(shape, RATIOS[0], shape.questions * (WARM + MOST))
    return start_training_state(settings, data, engine_of(settings.training, student, 0), None)


def micro_batch(state: TrainingState, training: Training, step: int) -> MicroBatch:
    """A step's micro-batch in another configuration."""
    index_Q = questions_of_step(step, len(state.data), training.questions_per_step, state.seed)
    return assemble(state.data, training, index_Q, state.data.mask_NK[index_Q], range(training.questions_per_step))


def measure(given: Options, state: TrainingState, until: float) -> list[dict[str, Any]]:
    """The steps' logs with their seconds, without warm-up; fewer steps if time runs out."""
    logs: list[dict[str, Any]] = []
    for step in range(WARM + (2 if given.tiny else MOST)):
        wait(given.device)
        began = time.perf_counter()
        log = train_step(state, step)
        wait(given.device)
        logs.append({**log, "seconds": time.perf_counter() - began})
        if len(logs) > WARM and given.left() < until:
            break
    return logs[WARM:]


def host_ms(state: TrainingState) -> dict[str, float]:
    """Milliseconds of the host's own work in a step: to assemble its rows, and MetaNet's."""
    index_Q = questions_of_step(0, len(state.data), state.config.questions_per_step, state.seed)
    began = time.perf_counter()
    weights = choose(state, index_Q, 0)
    metanet_step(state, index_Q, 0)
    middle = time.perf_counter()
    assemble(state.data, state.config, index_Q, weights.kept_QK, range(state.config.questions_per_step))
    return {"metanet_ms": 1000 * (middle - began), "assembly_ms": 1000 * (time.perf_counter() - middle)}


def _cases(given: Options, name: str, packing: str, kernels: str = "") -> Iterator[tuple[str, dict[str, float]]]:
    """Measure a packing of a shape in every ratio and objective; yields a case's name and figures."""
    shape, peak = SHAPES[name], peak_of(given.device)
    state = state_of(given, shape, packing, kernels)
    for ratio in RATIOS[-1:] if kernels else RATIOS:
        state.data = set_of(shape, ratio, shape.questions * (WARM + MOST))
        for objective in ("L_cons",) if kernels else OBJECTIVES:
            case = f"{name} {':'.join(map(str, ratio))} {objective}"
            with attempt(f"{case} {packing} {kernels}".strip()):
                if given.cuda:
                    torch.cuda.reset_peak_memory_stats()
                state.config = config(given, shape, packing, objective).training
                logs = measure(given, state, until=5)
                seconds = statistics.median(log["seconds"] for log in logs)
                figures = {"ms": 1000 * seconds, "tokens_s": round(sum(log["tokens"] for log in logs) / len(logs) / seconds)}
                if objective != "mind":
                    training = config(given, shape, "rows", objective).training
                    needed = statistics.mean(
                        operations(micro_batch(state, training, s).batch, shape) for s in range(WARM, WARM + 3)
                    )
                    figures |= {"tflops": needed / seconds / 1e12, **({"mfu": needed / seconds / peak} if peak else {})}
                if given.cuda:
                    figures["gib"] = torch.cuda.max_memory_allocated() / 2**30
                yield case, {**figures, **host_ms(state)}


GOALS: Final = {"x_padded": 2.0, "mfu": 0.45}


def _goal(objective: str, packing: str, figures: dict[str, float]) -> bool | None:
    """Whether the case meets its goals; None for those without."""
    if packing == "none":
        return None
    wanted = {"mfu": GOALS["mfu"], **({"x_padded": GOALS["x_padded"]} if objective == "L_cons" else {})}
    reached = [figures[name] >= least for name, least in wanted.items() if name in figures]
    return all(reached) if reached else None


def main() -> None:
    """Measure the shapes; `--more` may name one."""
    given = options()
    for name in given.shapes:
        padded: dict[str, float] = {}
        forms = [
            ("none", ""),
            ("rows", ""),
            *([("flex", "")] if given.cuda else []),
            *(("rows", item) for item in KERNELS if given.cuda),
        ]
        for packing, kernels in forms:
            with attempt(f"{name} {packing} {kernels}".strip()):
                if given.left() < 10:
                    raise TimeoutError("no time left; raise --minutes")
                for case, figures in _cases(given, name, packing, kernels):
                    if packing == "none":
                        padded[case] = figures["ms"]
                    ratio = {"x_padded": padded[case] / figures["ms"]} if case in padded else {}
                    good = _goal(case.split()[-1], packing, {**figures, **ratio}) if given.cuda else None
                    report(f"{case} {packing} {kernels}".strip(), good, **figures, **ratio)
        for lines in (False, True):
            case = f"{name} 1:3 uniform TRL {'packed' if lines else 'padded'}"
            with attempt(case):
                if given.left() < 10:
                    raise TimeoutError("no time left; raise --minutes")
                report(case, None, **trl_seconds(given, SHAPES[name], RATIOS[-1], lines))


if __name__ == "__main__":
    main()

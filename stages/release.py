"""A student as others take it: its folder with a model card, which vLLM and transformers load at once.

The card says what is in the artifacts and nothing else: who taught, on which questions, what was kept, and how the student did beside
base and teacher, bad news included. No path of this machine is in it. Template: `stages/card.md`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from pipeline.doctor import DISTRIBUTION
from pipeline.errors import ConfigError, StageFailed
from stages.origin import Origin, origins
from stages.page import write_out
from storage.lineage import ancestors
from storage.store import Store

CARD: Final = "card.md"
_GROUPS: Final = {"id": "in distribution", "ood": "out of distribution"}


def _model_name(source: Mapping[str, Any]) -> str:
    if source.get("imported"):
        return "rationales that were there already"
    return str(source["name"]) if source.get("name") else Path(source["path"]).name


def _rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The card's table: groups, then sets."""
    accuracy = summary["accuracy"]
    places = [(f"group:{group}", f"all {title}") for group, title in _GROUPS.items() if f"group:{group}" in accuracy["student"]]
    places += [(f"set:{name}", f"{name} ({_GROUPS[group]})") for group, name in summary["sets"]]
    return [
        {"title": title, "cells": {model: cells[place] for model, cells in accuracy.items()}, "items": accuracy["student"][place]["items"]}
        for place, title in places
    ]  # fmt: skip


def _source(origin: Origin) -> str:
    """Where questions are from, without the folders of this machine."""
    location, separator, rest = origin.location.partition(", split")
    return f"{Path(location).name if location.startswith('/') else location}{separator}{rest}"


def _version() -> str:
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return ""


def card(store: Store, name: str, stages: Mapping[str, str], licence: str | None) -> bytes:
    """The model card of a run's student.

    Raises:
        ArtifactMissing: an artifact that the student was made from is gone.
    """
    line = ancestors(store, "training", stages["training"])
    mine = {manifest["stage"]: manifest for manifest in line.values()}
    evaluated = "evaluation" in stages and store.exists("evaluation", stages["evaluation"])
    summary = store.manifest("evaluation", stages["evaluation"])["summary"] if evaluated else None
    config, sampling = mine["training"]["config"], mine["sampling"]["config"]
    served = sampling["sampling"]["engine"]["served_model"]
    questions = [_source(origin) for origin in origins(mine["questions"]) if origin.role == "train"]
    return write_out(
        CARD,
        name=name,
        version=_version(),
        licence=licence,
        base=_model_name(config["student"]),
        base_on_hub=config["student"].get("name"),
        teacher=served or _model_name(sampling["teacher"]),
        prompts=config["prompts"],
        questions=questions,
        kept=mine["synthesis"]["summary"]["kept"],
        training=config["training"],
        lora=config["training"].get("lora"),
        evaluated=evaluated,
        worse=[f"{name} ({lost * 100:.1f} points)" for name, lost in summary["forgetting"].items() if lost > 0]
        if summary
        else [],
        rows=_rows(summary) if summary else [],
        artifacts=[*line, *([f"evaluation/{stages['evaluation']}"] if evaluated else [])],
    )


def release(store: Store, name: str, stages: Mapping[str, str], licence: str | None, folder: Path) -> None:
    """Write the student with its card into a new folder, whole or not at all.

    Raises:
        ConfigError: the folder is there already.
        ArtifactMissing: the student, or something that it was made from, is not there.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: is there already; give a new folder")
    student = store.open("training", stages["training"]).path("student")
    text = card(store, name, stages, licence)
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(student, aside)
    (aside / "README.md").write_bytes(text)
    aside.rename(folder)


def push(folder: Path, repository: str) -> str:
    """Send a released folder to a hub repository, a private one if it has to be made; returns its address.

    Raises:
        StageFailed: the hub refuses or does not answer; the folder stays.
    """
    from httpx2 import HTTPError  # what huggingface_hub speaks through, and raises where there is no network
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        hub.create_repo(repository, private=True, exist_ok=True)
        return str(hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="A student distilled with MIND"))
    except (HTTPError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise StageFailed(
            f"{repository}: cannot be pushed ({reason}); {folder} is whole: check the network and HF_TOKEN, and push it again"
        ) from error

"""Lists the sources of an artifact's external inputs: question files, models and templates, which its fingerprint knows by content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from storage.documents import Manifest
from storage.errors import ArtifactError


class Origin(NamedTuple):
    """An external input: its role, its location at that time, and the digest of its content if known."""

    role: str
    location: str
    digest: str | None


def _model(source: Mapping[str, Any]) -> str:
    return str(source["path"]) if source.get("path") else f"{source['name']}@{source['revision']}"


def _server(engine: Mapping[str, Any]) -> str:
    given = engine["base_url"]
    return f"{engine['served_model']} at {given if isinstance(given, str) else ', '.join(given)}"


def _questions(source: Mapping[str, Any], folder: str | None) -> str:
    if source["kind"] == "miniature":
        return f"miniature {source['family']}, {source['split']}, {source['count']} questions, seed {source['seed']}"
    if source["kind"] == "named":
        hubs = dict.fromkeys(f"{part['name']}@{part['revision']}" for part in source["parts"].values())
        copy = source["folder"] or (folder and f"{folder}/{source['name']}")
        return f"{copy or ', '.join(hubs)}, {source['name']}, split {source['split']}"
    place = source.get("path") or source.get("folder") or f"{source['name']}@{source['revision']}"
    return f"{place}" + (f", split {source['split']}" if source["kind"] == "hub" else "")


def _evaluated(config: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    train = [("train", source) for source in config["questions"]["train"]]
    return train + [(f"{item['group']} {item['name']}", item["source"]) for item in config["questions"]["evaluation"]]


def origins(manifest: Manifest) -> list[Origin]:
    """The external inputs of one artifact.

    Raises:
        ArtifactError: the manifest's configuration is not that of its stage.
    """
    try:
        return list(_origins(manifest))
    except (KeyError, TypeError, AttributeError) as error:
        name = f"{manifest['stage']}/{manifest['fingerprint']}"
        raise ArtifactError(
            f"{name}: its manifest's config is incomplete ({error}); import it again, or run its stage again"
        ) from error


def _origins(manifest: Manifest) -> Iterator[Origin]:
    config, digests = manifest["config"], manifest["identity"].get("outside", {})
    if manifest["stage"] == "questions":
        for number, (role, source) in enumerate(_evaluated(config)):
            yield Origin(role, _questions(source, config["questions"].get("folder")), digests.get(f"source {number}"))
        return
    sampling = config.get("sampling", {})
    judge = sampling.get("judge") or {}
    for role, engine in (
        ("teacher", config.get("teacher_engine") or sampling.get("engine", {})),
        ("judge", judge.get("engine", {})),
    ):
        if engine.get("kind") == "openai":
            yield Origin(role, _server(engine), None)
    for role, digest in digests.items():
        if role == "rationales":
            yield Origin(role, config["sampling"]["rationales"]["path"], digest)
            continue
        source = judge["model"] if role == "judge" else config.get(role) or config.get("synthesis", {}).get(role)
        if source and source.get("served"):
            continue  # the server is listed above; the content of its model is unknown
        yield Origin(role, _model(source) if source else "shipped with MIND", digest)

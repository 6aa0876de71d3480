"""The command `mind sources`: lists the named benchmarks, and the sources that a run reads its questions from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.formatting import DATA, AsJson, print_json, print_table, reported
from pipeline.config.run import load_config
from pipeline.questions.named_benchmarks import Benchmark, NamedSource, Source, entries, evaluation_only
from pipeline.questions.sources import FileSource, HubSource, MiniatureSource

app = typer.Typer()
SourceRow = dict[str, Any]
_WIDE = ("why", "about", "citation", "tasks")
"""Columns that are too wide for a table; shown in JSON only."""


@app.command(rich_help_panel=DATA)
def sources(
    config: Annotated[Path | None, typer.Argument(help="a run's YAML file, to list the sources that it reads")] = None,
    as_json: AsJson = False,
) -> None:
    """List the named benchmarks, or the sources that a run reads."""
    with reported():
        rows = [_known(name, entry) for name, entry in entries().items()] if config is None else _read_by(config)
        if as_json:
            print_json(rows)
        else:
            columns = [name for name in rows[0] if name not in _WIDE]
            print_table(columns, ([row[name] for name in columns] for row in rows))


def _known(name: str, entry: Benchmark) -> SourceRow:
    fields = [{**entry.source, **own} for own in entry.tasks.values()] or [entry.source]
    hubs = [f"{one['name']}@{one['revision'][:12]}" for one in fields]
    return {
        "name": name,
        "splits": ", ".join(entry.splits),
        "answers": ", ".join(dict.fromkeys(one["answer_type"] for one in fields)),
        "licence": entry.licence,
        "evaluation only": "yes" if entry.evaluation_only else "",
        "hub": "\n".join(dict.fromkeys(hubs)),
        "why": entry.evaluation_only or "",
        "about": entry.about,
        "citation": entry.citation,
        "tasks": list(entry.tasks),
    }


def _read_by(path: Path) -> list[SourceRow]:
    questions = load_config(path).questions
    train, evaluation = questions.sources()
    sets = [("train", source) for source in train]
    sets += [(item.name, source) for item, source in zip(questions.evaluation, evaluation, strict=True)]
    return [{"set": name, **_place(source)} for name, source in sets]


def _place(source: Source) -> SourceRow:
    entry = entries().get(source.name) if isinstance(source, NamedSource) else None
    return {
        "source": source.name if isinstance(source, NamedSource) else source.kind,
        "split": getattr(source, "split", ""),
        "licence": entry.licence if entry else "",
        "evaluation only": "yes" if evaluation_only(source) else "",
        "read from": _from(source),
    }


def _from(source: Source) -> str:
    match source:
        case MiniatureSource():
            return source.family
        case FileSource(path=local) | HubSource(folder=Path() as local) | NamedSource(folder=Path() as local):
            return str(local) if local.exists() else f"{local} (not found)"
    parts = source.parts.values() if isinstance(source, NamedSource) else [source]
    return "\n".join(dict.fromkeys(f"{part.name}@{part.revision}" for part in parts))

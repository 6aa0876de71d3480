"""Writes a run's kept rationales as a dataset that trainers read: one row per rationale, in a usual format, with its weight.

The folder has `train.parquet` or `train.jsonl`, a card (template: `stages/dataset_card.md`), and `dataset_info.json`, by which
LLaMA-Factory finds the columns. Texts are those that the student was trained on. All rationales are right; wrong ones are not kept.

A weight is α of the method at the end of training (by the trained MetaNet, or by the baseline's rule), and 0 where the question's selection
leaves the rationale out, or the training its perspective; weights of a question sum to 1. It is null without a training, and for ablations
whose weights are random or come from a table of losses.

Shards are read and written one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.models import Turns
from pipeline.errors import ConfigError, shown
from pipeline.prompt_rendering import messages
from stages.core.provenance import origins
from stages.release import check_licence, source_of, title_of
from stages.shared.metanet_weights import weigher
from stages.shared.pages import render_text
from storage.artifact import Artifact
from storage.atomic import new_folder, read_parquet
from storage.documents import Manifest
from storage.lineage import ancestors
from storage.store import Store

Format = Literal["messages", "prompt-completion", "sharegpt", "alpaca"]
"""How a row holds its texts: as TRL's two types, as ShareGPT, or as Alpaca."""
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

CARD: Final = Path(__file__).with_name("dataset_card.md")
_INFO: Final[Mapping[Format, Mapping[str, Any]]] = {
    "messages": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"},
    },
    "sharegpt": {"formatting": "sharegpt", "columns": {"messages": "conversations", "system": "system"}},
    "alpaca": {"columns": {"prompt": "instruction", "query": "input", "response": "output", "system": "system"}},
    "prompt-completion": {"columns": {"prompt": "prompt", "response": "completion"}},
}  # fmt: skip
"""LLaMA-Factory's description of each format."""
_TURN: Final = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_COMMON: Final = [
    ("question_id", pa.string()),
    ("perspective", pa.string()),
    ("answer", pa.string()),
    ("weight", pa.float32()),
]
Row = dict[str, Any]


def _texts(form: Format, prompt: str, rationale: str, turns: Turns | None) -> Row:
    """The columns of a format."""
    if turns is None:
        return {"prompt": prompt, "completion": rationale}
    asked, said = messages(prompt, turns), [{"role": "assistant", "content": rationale}]
    match form:
        case "messages":
            return {"messages": [*asked, *said]}
        case "prompt-completion":
            return {"prompt": asked, "completion": said}
        case "sharegpt":
            spoken = [{"from": "human", "value": prompt}, {"from": "gpt", "value": rationale}]
            return {"conversations": spoken, "system": turns.system or ""}
        case "alpaca":
            return {"instruction": prompt, "input": "", "output": rationale, "system": turns.system or ""}


def schema_of(form: Format, chat: bool) -> pa.Schema:
    """The columns of a format with their types."""
    spoken = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    text, turn = pa.string(), _TURN if chat else pa.string()
    fields: Mapping[Format, list[tuple[str, pa.DataType]]] = {
        "messages": [("messages", _TURN)],
        "prompt-completion": [("prompt", turn), ("completion", turn)],
        "sharegpt": [("conversations", spoken), ("system", text)],
        "alpaca": [(name, text) for name in ("instruction", "input", "output", "system")],
    }
    return pa.schema([*fields[form], *_COMMON])


def _tables(synthesis: Artifact, training: Artifact | None, form: Format, turns: Turns | None) -> Iterator[list[Row]]:
    weighed = None if training is None else weigher(synthesis, training, training.path("metanet.safetensors"))
    for texts, features in zip(synthesis.files("rationales"), synthesis.files("features"), strict=True):
        rows = read_parquet(texts).to_pylist()
        losses = {(row["question_id"], row["perspective"]): row["base_loss"] for row in rows}
        weights = weighed(read_parquet(features), losses) if weighed is not None and rows else {}
        yield [
            {
                **_texts(form, row["prompt"], row["rationale"], turns),
                **{name: row[name] for name in ("question_id", "perspective", "answer")},
                "weight": weights[row["question_id"], row["perspective"]].weight if weights else None,
            }
            for row in rows
        ]


def _write(folder: Path, tables: Iterator[list[Row]], schema: pa.Schema, lines: bool) -> int:
    """Write all rows; returns their number."""
    count = 0
    if lines:
        with (folder / "train.jsonl").open("wb") as file:
            for rows in tables:
                file.writelines(orjson.dumps(row) + b"\n" for row in rows)
                count += len(rows)
        return count
    with pq.ParquetWriter(folder / "train.parquet", schema, compression="zstd") as writer:
        for rows in tables:
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


def _card(name: str, line: Mapping[str, Manifest], form: Format, lines: bool, rows: int, licence: str | None) -> bytes:
    mine = {manifest["stage"]: manifest for manifest in line.values()}
    sampling, questions = mine["sampling"]["config"], mine["questions"]
    imported = sampling["sampling"]["rationales"] is not None
    asked = [origin for origin in origins(questions) if origin.role == "train"]
    return render_text(
        CARD,
        name=name,
        licence=licence,
        form=form,
        file=f"train.{'jsonl' if lines else 'parquet'}",
        rows=rows,
        size=next(label for most, label in _SIZES if rows < most),
        teacher=None if imported else sampling["sampling"]["engine"]["served_model"] or title_of(sampling["teacher"]),
        sources=[source_of(*item) for item in zip(asked, questions["config"]["questions"]["train"], strict=True)],
        questions=questions["summary"],
        sampling=mine["sampling"]["summary"],
        synthesis=mine["synthesis"]["summary"],
        artifacts=list(line),
    )


_SIZES: Final = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**99, "n>10M"),
)
"""The hub's words for sizes of datasets."""


def export_data(
    store: Store, name: str, stages: Mapping[str, str], form: str, folder: Path, lines: bool = False, licence: str | None = None
) -> int:
    """Write the dataset of a run into a new folder, atomically; returns the number of rows. `lines`: JSON lines in place of Parquet.

    Raises:
        ConfigError: the folder exists, the licence is no identifier, the run has no synthesis, or `form` does not fit its student.
        ArtifactMissing: an artifact no longer exists.
    """
    check_licence(licence)
    chosen = next((known for known in FORMATS if known == form), None)
    if chosen is None:
        raise ConfigError(f"--format {shown(form)!r}: unknown; use one of {', '.join(FORMATS)}")
    if folder.exists():
        raise ConfigError(f"{folder}: already exists; give a new folder")
    if "synthesis" not in stages:
        raise ConfigError(
            f"{name}: has no synthesis artifact, so no kept rationales; give another run, `mind status` lists them"
        )
    synthesis = store.open("synthesis", stages["synthesis"])
    trained = stages.get("training")
    training = store.open("training", trained) if trained is not None and store.exists("training", trained) else None
    student = synthesis.manifest["config"]["student"]
    turns = Turns.model_validate(student.get("turns") or {}) if student["chat"] else None
    if turns is None and chosen != "prompt-completion":
        raise ConfigError(
            f"--format {form}: the student reads plain text (chat: false), and this format has turns of a chat; use prompt-completion"
        )
    with new_folder(folder) as aside:
        rows = _write(aside, _tables(synthesis, training, chosen, turns), schema_of(chosen, turns is not None), lines)
        line = ancestors(store, "synthesis", synthesis.fingerprint)
        (aside / "README.md").write_bytes(_card(name, line, chosen, lines, rows, licence))
        info = {"mind": {"file_name": f"train.{'jsonl' if lines else 'parquet'}", **_INFO[chosen]}}
        (aside / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n")
    return rows

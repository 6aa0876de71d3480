"""What can be said of a model folder without loading it: is it whole, does its tokenizer fit, what is its content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from pipeline.config import ModelSource
from pipeline.errors import ModelError

_CONTENT: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def check_model(model: ModelSource, role: str) -> None:
    """Refuse a folder that could not be loaded. Hub models are checked when they are fetched.

    Raises:
        ModelError: which file is missing or does not fit, and what to do.
    """
    if model.path is None:
        return
    folder = model.path
    if not folder.is_dir():
        raise ModelError(f"{role}: {folder}: no such model folder; correct {role}.path")
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ModelError(f"{role}: {folder}: has no {name}; give a transformers folder with a fast tokenizer")
    if not list(folder.glob("*.safetensors")):
        hint = " (its .bin files are pickles and are not read; convert them)" if list(folder.glob("*.bin")) else ""
        raise ModelError(f"{role}: {folder}: has no weights, *.safetensors{hint}; give a folder with weights")
    try:
        rows = int(json.loads((folder / "config.json").read_text())["vocab_size"])
    except (ValueError, KeyError) as error:
        raise ModelError(f"{role}: {folder}/config.json: has no vocab_size; give a causal language model") from error
    try:
        words = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(with_added_tokens=True)
    except Exception as error:
        raise ModelError(
            f"{role}: {folder}/tokenizer.json: cannot be read; give a transformers folder that is whole"
        ) from error
    if words > rows:
        raise ModelError(
            f"{role}: {folder}: tokenizer has {words} tokens, the model's vocabulary {rows}; "
            "use the tokenizer that belongs to these weights"
        )


def model_content(model: ModelSource) -> str:
    """What a model is: a digest of its files, or its pinned hub revision. Independent of where it lies."""
    if model.path is None:
        return f"{model.name}@{model.revision}"
    digest = hashlib.sha256()
    names = [name for name in _CONTENT if (model.path / name).is_file()]
    for path in [*(model.path / name for name in names), *sorted(model.path.glob("*.safetensors"))]:
        with path.open("rb") as stream:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def context_length(folder: Path) -> int | None:
    """The longest sequence a local model's configuration allows, where it says."""
    value = json.loads((folder / "config.json").read_text()).get("max_position_embeddings")
    return int(value) if value is not None else None

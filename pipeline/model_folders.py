"""Validates and fingerprints model folders without loading them, and loads models safely (safetensors only, no remote code)."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from pipeline.config.models import HubModel, LocalModel, Teacher, Weights
from pipeline.errors import ModelError

_MEMORY: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mind" / "digests.sqlite"
_LARGE_BYTES: Final = 256 * 2**20
_CONTENT: Final = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def check_model(model: Teacher, role: str) -> None:
    """Rejects a folder that cannot be loaded. Hub models are checked when they are downloaded.

    Raises:
        ModelError: the missing or mismatched file, and the remedy.
    """
    if not isinstance(model, LocalModel):
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
    index = folder / "model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    for shard in sorted(shards):
        if not (folder / shard).is_file():
            raise ModelError(f"{role}: {folder}: has no {shard}, which its index lists; download the folder again")
    try:
        settings = json.loads((folder / "config.json").read_text())
        rows = int(settings["vocab_size"] if "vocab_size" in settings else settings["text_config"]["vocab_size"])
    except (ValueError, KeyError) as error:
        raise ModelError(f"{role}: {folder}/config.json: has no vocab_size; give a causal language model") from error
    try:
        words = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(with_added_tokens=True)
    except Exception as error:
        raise ModelError(f"{role}: {folder}/tokenizer.json: cannot be read; give a complete transformers folder") from error
    if words > rows:
        raise ModelError(
            f"{role}: {folder}: tokenizer has {words} tokens, the model's vocabulary {rows}; "
            "use the tokenizer that belongs to these weights"
        )


def special_tokens(model: Teacher) -> frozenset[str]:
    """Special tokens of more than one character of a local model's tokenizer; empty for a model that is not here yet."""
    if not isinstance(model, LocalModel):
        return frozenset()
    added = json.loads((model.path / "tokenizer.json").read_text()).get("added_tokens") or ()
    return frozenset(token["content"] for token in added if token.get("special") and len(token["content"]) > 1)


@lru_cache(maxsize=1024)
def _file_digest(path: Path, size: int, modified: int) -> bytes:
    """SHA-256 of a file, recomputed only if its size or modification time changes; cached across processes for large files."""
    if size < _LARGE_BYTES:
        return _hashed(path)
    _MEMORY.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(_MEMORY, timeout=60)) as memory, memory:
        memory.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INT, modified INT, digest BLOB)")
        query = "SELECT digest FROM digests WHERE path = ? AND size = ? AND modified = ?"
        found = memory.execute(query, (str(path.resolve()), size, modified)).fetchone()
        if found is not None:
            return bytes(found[0])
    digest = _hashed(path)
    with closing(sqlite3.connect(_MEMORY, timeout=60)) as memory, memory:
        memory.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", (str(path.resolve()), size, modified, digest))
    return digest


def _hashed(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def model_content(model: Teacher) -> str:
    """The identity of a model: a digest of its files, or its pinned hub revision. Independent of the folder's location.

    Raises:
        ModelError: no such model folder.
    """
    if isinstance(model, HubModel):
        return f"{model.name}@{model.revision}"
    if not isinstance(model, LocalModel):
        return "served"
    if not model.path.is_dir():
        raise ModelError(f"{model.path}: no such model folder; correct the path")
    digest = hashlib.sha256()
    names = [name for name in _CONTENT if (model.path / name).is_file()]
    for path in [*(model.path / name for name in names), *sorted(model.path.glob("*.safetensors"))]:
        status = path.stat()
        digest.update(path.name.encode() + b"\0" + _file_digest(path, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


def load_tokenizer(model: Weights) -> Any:
    """The tokenizer of a model; code in a model folder is never executed."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model.location, revision=model.revision, trust_remote_code=False)


def load_causal_model(model: Weights, dtype: Any, attention: str | None = None) -> Any:
    """The causal language model, from safetensors; code in a model folder is never executed.

    `attention` is one of transformers' implementations; by default transformers chooses.
    """
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        model.location, revision=model.revision, dtype=dtype, use_safetensors=True, trust_remote_code=False,
        attn_implementation=attention,
    )  # fmt: skip


def check_weights(folder: Path) -> str | None:
    """Why a student folder cannot be loaded, or None: compares names and shapes of its weights with its configuration.

    Reads no weights and allocates no memory for them.
    """
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    wanted = {name: list(value.shape) for name, value in network.state_dict().items()}
    if network.config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
    found: dict[str, list[int]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            found |= {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no mapping
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            return f"weight {name}: has shape {found.get(name)}, but the configuration expects {wanted.get(name)}"
    return None


def context_length(folder: Path) -> int | None:
    """The maximum sequence length in a local model's configuration; None if not stated."""
    value = json.loads((folder / "config.json").read_text()).get("max_position_embeddings")
    return int(value) if value is not None else None

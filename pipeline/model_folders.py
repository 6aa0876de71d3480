"""Validates and fingerprints model folders without loading them, and loads models safely (safetensors only, no remote code)."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sqlite3
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from pipeline.config.models import HubModel, LocalModel, Teacher, Weights
from pipeline.errors import ModelError


def _memory() -> Path | None:
    """The file with the digests of large files; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mind" / "digests.sqlite"
    except RuntimeError:
        return None


_MEMORY: Final = _memory()
_LARGE_BYTES: Final = 256 * 2**20
_LARGEST_JSON_BYTES: Final = 256 * 2**20
"""Largest JSON file of a model folder that is read; the largest known tokenizer.json has 34 MB."""
ADAPTER: Final = "adapter"
"""Folder inside a LoRA student's folder with the adapters alone, in peft's form; the student's own weights have them merged."""
_GENERATION: Final = "generation_config.json"
_NEUTRAL: Final = {"repetition_penalty": 1.0, "top_k": -1}
"""Values that mean the same as none, like 0."""
DECODING: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Settings of sampling that generation_config.json and the `sampling` section have in common."""
_PLAIN_SETTINGS: Final = frozenset(
    {
        "_from_model_config", "bos_token_id", "do_sample", "eos_token_id", "max_length", "pad_token_id", "repetition_penalty",
        "temperature", "top_k", "top_p", "transformers_version",
    }
)  # fmt: skip
"""Generation settings that transformers loads whatever their values are; other ones it may refuse."""
_STOPS: Final = (
    '{{\n  "do_sample": false,\n  "eos_token_id": {},\n  "pad_token_id": 0,\n  "transformers_version": "5.19.0"\n}}\n'
)
"""How the tokens at which a model stops enter its identity: as the file of the miniature models, whose identity is recorded."""
_CONTENT: Final = (
    "config.json",
    _GENERATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def settings_of(file: Path) -> dict[str, Any]:
    """The object in a JSON file of a model folder.

    Raises:
        ModelError: no such file, too large, or no JSON object.
    """
    try:
        size = file.stat().st_size
        found = json.loads(file.read_bytes()) if size <= _LARGEST_JSON_BYTES else size
    except (OSError, ValueError, RecursionError) as error:
        why = "nested too deep" if isinstance(error, RecursionError) else str(error).splitlines()[0][:200]
        raise ModelError(f"{file}: cannot be read ({why}); download the folder again") from error
    if isinstance(found, dict):
        return found
    has = (
        f"is larger than {_LARGEST_JSON_BYTES >> 20} MiB"
        if found is size
        else f"has no JSON object, but {type(found).__name__}"
    )
    raise ModelError(f"{file}: {has}; give a complete transformers folder")


def text_settings(folder: Path) -> dict[str, Any]:
    """The settings of a folder's language model, which are nested in a model with further parts, for example for images."""
    settings = settings_of(folder / "config.json")
    nested = settings.get("text_config")
    return {**settings, **nested} if isinstance(nested, dict) else settings


def check_model(model: Teacher, role: str) -> None:
    """Rejects a folder that cannot be loaded. Hub models are checked when they are downloaded.

    Raises:
        ModelError: the missing or mismatched file, and the remedy.
    """
    if not isinstance(model, LocalModel):
        return
    if not model.path.is_dir():
        raise ModelError(f"{role}: {model.path}: no such model folder; correct {role}.path")
    try:
        _check_folder(model)
    except ModelError as error:
        raise ModelError(f"{role}: {error}") from error


def _check_folder(model: LocalModel) -> None:
    folder = model.path
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: has no {name}; give a transformers folder with a fast tokenizer")
    if not list(folder.glob("*.safetensors")):
        hint = " (its .bin files are pickles and are not read; convert them)" if list(folder.glob("*.bin")) else ""
        raise ModelError(f"{folder}: has no weights, *.safetensors{hint}; give a folder with weights")
    index = folder / "model.safetensors.index.json"
    shards = settings_of(index).get("weight_map") if index.is_file() else {}
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise ModelError(f"{index}: its weight_map is no map from weights to files; download the folder again")
    for shard in sorted(set(shards.values())):
        if not (folder / shard).is_file():
            raise ModelError(f"{folder}: has no {shard}, which its index lists; download the folder again")
    rows = text_settings(folder).get("vocab_size")
    if not isinstance(rows, int):
        raise ModelError(f"{folder}/config.json: has no vocab_size; give a causal language model")
    settings_of(folder / "tokenizer.json")
    try:
        words = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size(with_added_tokens=True)
    except Exception as error:
        raise ModelError(f"{folder}/tokenizer.json: cannot be read; give a complete transformers folder") from error
    if words > rows:
        raise ModelError(
            f"{folder}: tokenizer has {words} tokens, the model's vocabulary {rows}; use the tokenizer that belongs to these weights"
        )
    file = folder / "tokenizer_config.json"
    if file.is_file() and settings_of(file).get("auto_map") is not None:
        load_tokenizer(model)  # takes seconds, and is the only way to know whether it needs its own code
    _check_generation(folder)


def _check_generation(folder: Path) -> None:
    """Rejects generation settings with which the model cannot be loaded; contradictory ones are none (`export_student.py`)."""
    file = folder / _GENERATION
    if not file.is_file():
        return
    settings = settings_of(file)
    ends = settings.get("eos_token_id")
    if not all(type(end) is int for end in (ends if isinstance(ends, list) else [] if ends is None else [ends])):
        raise ModelError(f"{file}: eos_token_id is {str(ends)[:60]}, expected numbers of tokens; correct it")
    if settings.keys() <= _PLAIN_SETTINGS:
        return
    from transformers import GenerationConfig  # takes seconds

    try:
        GenerationConfig.from_dict(settings)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise ModelError(f"{file}: {said}; correct it, or remove this setting, since MIND gives its own") from error


def recommended_decoding(model: LocalModel) -> dict[str, float]:
    """What a model's folder recommends for sampling it, by the names of `DECODING`; empty if it says nothing, or greedy."""
    file = model.path / _GENERATION
    settings = settings_of(file) if file.is_file() else {}
    if settings.get("do_sample") is False:
        return {}
    numbers = {name: settings[name] for name in DECODING if type(settings.get(name)) in (int, float)}
    return {
        name: value for name, value in numbers.items() if math.isfinite(value) and _NEUTRAL.get(name) != value and value > 0
    }


def special_tokens(model: Teacher) -> frozenset[str]:
    """Special tokens of more than one character of a local model's tokenizer; empty for a model that is not here yet."""
    if not isinstance(model, LocalModel):
        return frozenset()
    added = settings_of(model.path / "tokenizer.json").get("added_tokens") or ()
    return frozenset(token["content"] for token in added if token.get("special") and len(token["content"]) > 1)


@lru_cache(maxsize=1024)
def _file_digest(path: Path, size: int, modified: int) -> bytes:
    """SHA-256 of a file, recomputed only if its size or modification time changes; cached across processes for large files."""
    if size < _LARGE_BYTES:
        return _hashed(path)
    key = (str(path.resolve()), size, modified)
    with suppress(OSError, sqlite3.Error):  # a cache that cannot be used only costs time
        if (found := _remembered(key)) is not None:
            return found
    digest = _hashed(path)
    with suppress(OSError, sqlite3.Error):
        _remember(key, digest)
    return digest


def _remembered(key: tuple[str, int, int]) -> bytes | None:
    if _MEMORY is None:
        return None
    _MEMORY.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(_MEMORY, timeout=60)) as memory, memory:
        memory.execute("CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INT, modified INT, digest BLOB)")
        found = memory.execute("SELECT digest FROM digests WHERE path = ? AND size = ? AND modified = ?", key).fetchone()
        return None if found is None else bytes(found[0])


def _remember(key: tuple[str, int, int], digest: bytes) -> None:
    if _MEMORY is None:
        return
    with closing(sqlite3.connect(_MEMORY, timeout=60)) as memory, memory:
        memory.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", (*key, digest))


def _hashed(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def model_content(model: Teacher) -> str:
    """The identity of a model: a digest of its files, or its pinned hub revision. Independent of the folder's location.

    Of the generation settings, only the tokens at which the model stops count: MIND gives all others itself. So a folder whose other
    settings were mended is the same model.

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
        stops = path.name == _GENERATION
        found = _stops_digest(path) if stops else _file_digest(path, status.st_size, status.st_mtime_ns)
        digest.update(path.name.encode() + b"\0" + found)
    return digest.hexdigest()


def _stops_digest(file: Path) -> bytes:
    stated = settings_of(file).get("eos_token_id")
    ends = sorted(set(stated)) if isinstance(stated, list) else stated
    one = ends[0] if isinstance(ends, list) and len(ends) == 1 else ends
    return hashlib.sha256(_STOPS.format(json.dumps(one)).encode()).digest()


def load_tokenizer(model: Weights) -> Any:
    """The tokenizer of a model; code in a model folder is never executed.

    Raises:
        ModelError: it needs code of its own, or its files are damaged.
        OSError: a hub model is not available.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model.location, revision=model.revision, trust_remote_code=False)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        said = " ".join(str(error).split())[:200]
        if "custom code" in said:
            why = "it needs code of its own (auto_map), and code in a model folder is never run"
            raise ModelError(
                f"{model.location}: its tokenizer cannot be loaded: {why}; use a model with a fast tokenizer"
            ) from error
        raise ModelError(f"{model.location}: its tokenizer cannot be loaded ({said}); correct tokenizer_config.json") from error


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
    if not (folder / "config.json").is_file():  # transformers would ask the hub
        return "has no config.json"
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # transformers itself maps the names in files to those of its layers; on this device nothing is read.
        network, found = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map="meta",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # noqa: BLE001 - a folder from elsewhere: transformers raises anything for one that is no model
        return f"cannot be loaded ({' '.join(str(error).split())[:200] or type(error).__name__})"
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
    for name, has, wanted in sorted(found["mismatched_keys"]):
        return f"weight {name}: has shape {list(has)}, but the configuration expects {list(wanted)}"
    for name in sorted(found["missing_keys"]):
        return f"weight {name}: has shape None, but the configuration expects {list(network.state_dict()[name].shape)}"
    for name in sorted(found["unexpected_keys"]):
        return f"weight {name}: is in the folder, but not in the model that its configuration describes"
    return None


def context_length(folder: Path) -> int | None:
    """The maximum sequence length in a local model's configuration; None if not stated."""
    value = text_settings(folder).get("max_position_embeddings")
    return value if isinstance(value, int) else None

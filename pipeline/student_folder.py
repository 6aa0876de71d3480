"""Rejects a student that cannot be trained, before any model loads: its files, its type, and how its turns end.

Training appends the tokenizer's end-of-sequence token to every rationale, and a chat template writes a mark of its own after an assistant's
turn. If the two differ, the student is taught another end than the one it was made with, and than the one that its earlier turns show. The
template is therefore asked: an assistant's turn is rendered, and the token after the answer is compared.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import TemplateError

from pipeline.config.models import LocalModel, Turns, Weights
from pipeline.errors import ModelError
from pipeline.model_folders import check_model, load_tokenizer, settings_of
from pipeline.prompt_rendering import messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAID: Final = "forty-two"
_QUANTISED_FILES: Final = ("quantize_config.json", "quant_config.json")
"""In these, GPTQ and AWQ describe the weights if config.json does not."""
_TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def check_student(model: Weights) -> str:
    """Rejects a folder that cannot be trained; hub models are checked when they are downloaded (`check_end_of_turn`).

    Returns a warning, or nothing: see `check_end_of_turn`.

    Raises:
        ModelError: the file and what is wrong with it, and the remedy.
    """
    check_model(model, "student")
    if not isinstance(model, LocalModel):
        return ""
    file = model.path / "config.json"
    settings = settings_of(file)
    refuse_quantised(settings, str(file))
    for name in _QUANTISED_FILES:
        if (model.path / name).is_file():
            refuse_quantised({"quantization_config": settings_of(model.path / name)}, str(model.path / name))
    found = settings.get("model_type")
    if found not in (known := causal_types()):
        unknown = f"model_type {found!r} is not a causal language model of the installed transformers ({len(known)} are)"
        raise ModelError(f"student: {file}: {unknown}; use a decoder-only model, code in a model folder is never run")
    if model.dialogue is None:
        return ""
    files = [model.path / name for name in _TOKENIZER_FILES if (model.path / name).is_file()]
    return _checked_end(model.model_dump_json(), tuple((file.name, file.stat().st_mtime_ns) for file in files))


def refuse_quantised(settings: Mapping[str, Any], where: str) -> None:
    """Rejects a model whose weights are quantised, by the settings in its config.json.

    Raises:
        ModelError: the method of quantisation.
    """
    nested = settings.get("text_config")
    for part in (settings, nested if isinstance(nested, Mapping) else {}):
        for name in ("quantization_config", "compression_config"):
            if (found := part.get(name)) is not None:
                method = found.get("quant_method") or found.get("quantization_method") if isinstance(found, Mapping) else None
                raise ModelError(
                    f"student: {where}: its weights are quantised ({str(method or name)[:40]}), so that they cannot be trained; "
                    "give the model in its original precision"
                )


@lru_cache(maxsize=16)
def _checked_end(model: str, files: tuple[tuple[str, int], ...]) -> str:
    """`check_end_of_turn` of a local model, once per state of its files, because several stages ask and loading takes a second."""
    student = LocalModel.model_validate_json(model)
    return check_end_of_turn(load_tokenizer(student), student)


def end_of_turn(tokenizer: PreTrainedTokenizerBase, turns: Turns) -> str | None:
    """The token that the chat template writes after an assistant's answer.

    None if it cannot be told: there is no template, it takes no assistant's turn, or none of the vocabulary's added tokens follows.
    """
    if not tokenizer.chat_template:
        return None
    arguments: dict[str, Any] = dict(turns.template or {})
    spoken = [*messages("?", turns), {"role": "assistant", "content": _SAID}]
    try:
        text = str(tokenizer.apply_chat_template(spoken, tokenize=False, add_generation_prompt=False, **arguments))
    except (TemplateError, TypeError):
        return None
    _, answer, after = text.rpartition(_SAID)
    marks = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    found = [mark for mark in marks if mark in after] if answer else []
    return min(found, key=lambda mark: (after.index(mark), -len(mark)), default=None)


def _stops_at(model: Weights) -> set[int]:
    """The tokens at which engines end an answer of the model: those of its generation_config.json."""
    from transformers import GenerationConfig

    try:
        stated = GenerationConfig.from_pretrained(model.location, revision=model.revision).eos_token_id
    except OSError:
        return set()
    return set(stated) if isinstance(stated, list) else {stated} - {None}


def check_end_of_turn(tokenizer: PreTrainedTokenizerBase, model: Weights) -> str:
    """Compares the token that training appends to every rationale with the one that ends an assistant's turn.

    Returns a warning if the template's end cannot be told, or if the two differ and the model itself stops at either, as Gemma's do;
    otherwise nothing.

    Raises:
        ModelError: they differ.
    """
    if model.dialogue is None or not tokenizer.chat_template:
        return ""
    appended, found = tokenizer.eos_token, end_of_turn(tokenizer, model.dialogue)
    if found is None:
        return (
            f"its chat template shows no token after an assistant's answer, so that {appended!r}, which training appends, "
            "cannot be compared with it"
        )
    if found == appended:
        return ""
    if {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(found)} <= _stops_at(model):
        return (
            f"its chat template ends an assistant's turn with {found!r}; training appends {appended!r}, at which it also stops"
        )
    file = model.path / "tokenizer_config.json" if isinstance(model, LocalModel) else None
    where = (
        f"set eos_token to {found!r} in {file}"
        if file
        else f"download it, and set eos_token to {found!r} in tokenizer_config.json"
    )
    raise ModelError(
        f"student: {model.location}: its chat template ends an assistant's turn with {found!r}, but eos_token, which training appends "
        f"to every rationale, is {appended!r}, so that the student would unlearn its own end; {where}"
    )


@lru_cache(maxsize=1)
def causal_types() -> frozenset[str]:
    """Model types with a causal language model, from the source of the installed transformers, whose import would take seconds."""
    spec = find_spec("transformers")
    assert spec is not None and spec.origin is not None
    source = ast.parse((Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py").read_text())
    for statement in source.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES":
            assert isinstance(statement.value, ast.Call)
            return frozenset(name for name, _ in ast.literal_eval(statement.value.args[0]))
    raise ModelError("transformers: lists its causal language models elsewhere than MIND expects; install the locked version")

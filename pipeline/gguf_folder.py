"""Writes a transformers folder from a GGUF file, so that a model which is only published for llama.cpp can be a student or teacher.

transformers reads the configuration and restores full-precision weights. Such a model still counts as quantised and cannot be saved, so
that mark is removed. A byte-level tokenizer is built here from the words, merges and special tokens of the file, because transformers
takes the way in which a text is split before byte pair encoding from the architecture, although the file names it
(`tokenizer.ggml.pre`): SmolLM2, for example, splits numbers into digits. SentencePiece tokenizers are transformers' own. The folder is then
read back and probed before it gets its name: it must be a causal language model, its tokens must decode to their texts, and its loss must
be a number.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, Final, NamedTuple

from pipeline.config.models import LocalModel
from pipeline.errors import ModelError
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.student_folder import check_student

_WORDS: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS: Final = {"gpt-2": None, "smollm": None, "llama-bpe": _WORDS % r"\p{N}{1,3}", "qwen2": _WORDS % r"\p{N}"}
"""How texts are split before byte pair encoding, by the name in the file; None: as GPT-2 does, for `smollm` after single digits."""
_CONTROL: Final = 3
_OWN: Final = 4
"""Types of tokens in the file: control tokens, and tokens that the model's authors added as text."""
PROBES: Final = (
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "It's 1234567 + 89 = 1,234,656;\n\n  x² ≤ 3.5 — naïve, 日本語, 🙂\t end",
)
"""Texts that must survive tokenisation; the loss of the first is reported."""


class Written(NamedTuple):
    """A folder's model: type, number of parameters, and its mean loss on the first probe beside that of a uniform guess, in nats."""

    model_type: str
    parameters: int
    loss: float
    chance: float


def _fields(file: Path) -> dict[str, Any]:
    """The file's metadata.

    Raises:
        ModelError: it is missing, truncated or no GGUF file, or package gguf is missing.
    """
    if not file.is_file():
        raise ModelError(f"{file}: no such file; give a GGUF file")
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ModelError("import-gguf: package gguf is not installed; run: pip install gguf") from error
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelError(f"{file}: is no GGUF file; give a file that begins with the letters GGUF")
    try:
        reader = GGUFReader(file)
        last = max((tensor.data_offset + tensor.n_bytes for tensor in reader.tensors), default=0)
        complete = bool(reader.tensors) and last <= file.stat().st_size
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # the reader checks nothing, so a damaged file fails anywhere
        raise ModelError(f"{file}: is damaged or truncated ({type(error).__name__}); fetch it again") from error
    if not complete:
        raise ModelError(f"{file}: is truncated, its weights end beyond the file; fetch it again")
    return fields


def _check(file: Path, fields: dict[str, Any]) -> None:
    """Refuse what cannot become a right folder, before any weight is read."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known, found = sorted(GGUF_SUPPORTED_ARCHITECTURES), fields.get("general.architecture")
    if found not in known:
        raise ModelError(f"{file}: architecture {found!r} is not read by transformers; use one of {', '.join(known)}")
    kind, split = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2")
    wanted = ("tokens", "token_type", "eos_token_id", *(("merges",) if kind == "gpt2" else ()))
    missing = [name for name in wanted if f"tokenizer.ggml.{name}" not in fields]
    if missing:
        raise ModelError(f"{file}: lacks tokenizer.ggml.{missing[0]}; use another file, or the model's original folder")
    if kind not in ("gpt2", "llama") or (kind == "gpt2" and split not in SPLITS):
        raise ModelError(
            f"{file}: its tokenizer ({kind}, split as {split!r}) is not described completely by the file; use a file with one of "
            f"{', '.join(SPLITS)}, or the model's original folder"
        )


def _byte_level(fields: dict[str, Any]) -> Any:
    """A byte-level BPE tokenizer, from words, merges and the name of the split."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    split = fields.get("tokenizer.ggml.pre", "gpt-2")
    core = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, merges, ignore_merges=split == "llama-bpe"))
    pattern = SPLITS[split]
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if split == "smollm" else []
    if pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pattern), "isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None))
    core.pre_tokenizer = pre_tokenizers.Sequence(steps)
    core.decoder = decoders.ByteLevel()
    added = [(word, kind) for word, kind in zip(words, kinds, strict=True) if kind in (_CONTROL, _OWN)]
    core.add_tokens([AddedToken(word, special=kind == _CONTROL, normalized=False) for word, kind in added])
    named = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    found = {short: fields.get(f"tokenizer.ggml.{name}_token_id") for name, short in named.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False,
        **{f"{short}_token": words[n] for short, n in found.items() if n is not None},
    )  # fmt: skip


def _tokenizer(file: Path, fields: dict[str, Any]) -> Any:
    """The tokenizer as the file describes it."""
    from tokenizers import processors
    from transformers import AutoTokenizer

    kind = fields["tokenizer.ggml.model"]
    if kind == "gpt2":
        tokenizer = _byte_level(fields)
    else:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    begins = bool(fields.get("tokenizer.ggml.add_bos_token", kind == "llama")) and tokenizer.bos_token is not None
    if begins != (tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]):
        first = f"{tokenizer.bos_token} $A" if begins else "$A"
        special = [(tokenizer.bos_token, tokenizer.bos_token_id)] if begins else []
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=first, special_tokens=special)
    tokenizer.chat_template = fields.get("tokenizer.chat_template")
    return tokenizer


def _write(file: Path, fields: dict[str, Any], out: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder = file.parent
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32, trust_remote_code=False)
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(getattr(torch, dtype))
    tokenizer = _tokenizer(file, fields)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, value in ids.items():
        setattr(model.config, name, value)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for path in out.iterdir():
        path.chmod(0o644)  # safetensors writes files that only their owner can read


def _probe(folder: Path) -> Written:
    """Read the folder back as a stage does.

    Raises:
        ModelError: it cannot be used, and why.
    """
    import torch

    model = LocalModel(path=folder, chat=False)
    check_student(model)
    tokenizer, network = load_tokenizer(model), load_causal_model(model, torch.float32).eval()
    for text in PROBES:
        again = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
        if again.strip() != text:
            raise ModelError(
                f"{folder.name}: its tokens decode to {again[:60]!r} instead of {text[:60]!r}; use the model's own folder"
            )
    tokens = torch.tensor([tokenizer(PROBES[0])["input_ids"]])
    with torch.no_grad():
        loss = float(network(input_ids=tokens, labels=tokens).loss)
    if not math.isfinite(loss):
        raise ModelError(f"{folder.name}: its loss is {loss}, so its weights were not read; use another file")
    parameters = sum(value.numel() for value in network.parameters())
    return Written(network.config.model_type, parameters, loss, math.log(network.config.vocab_size))


def write_folder(file: Path, out: Path, dtype: str = "float32") -> Written:
    """Write the model of a GGUF file into the new folder `out`; nothing is left behind if it cannot be used.

    Raises:
        ModelError: the file or `out` cannot be used; says what is wrong and what to do.
    """
    if out.exists():
        raise ModelError(f"{out}: exists already; give a new folder")
    fields = _fields(file)
    _check(file, fields)
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        _write(file, fields, aside, dtype)
        found = _probe(aside)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return found

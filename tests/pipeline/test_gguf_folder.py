"""A GGUF file becomes a folder with the same logits and tokens; one that cannot is refused, and nothing is left behind."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipeline.config.models import LocalModel
from pipeline.errors import ModelError
from pipeline.gguf_folder import write_folder
from pipeline.model_folders import load_causal_model, load_tokenizer
from tests.support.commands import assert_refused, mind
from tests.support.gguf_files import write_gguf
from tests.support.models import CHAT, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"), bos_token="<begin>", chat_template=CHAT)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(shape).eval()


def test_a_written_folder_has_the_logits_tokens_and_template_of_the_model(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    found = write_folder(write_gguf(tmp_path / "model.gguf", model, tokenizer), tmp_path / "out")
    folder = LocalModel(path=tmp_path / "out")
    again, words = load_causal_model(folder, torch.float32), load_tokenizer(folder)
    tokens = torch.arange(40)[None] + 5
    with torch.no_grad():
        assert torch.allclose(again(tokens).logits, model(tokens).logits, atol=1e-5)
    text = "Turn it +5, -3 <end> of 1234."
    assert words(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert words.chat_template == CHAT
    assert (words.eos_token, words.pad_token, words.bos_token) == ("<end>", "<pad>", "<begin>")
    assert found.parameters == sum(value.numel() for value in model.parameters())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.gguf", "out"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in (tmp_path / "out").iterdir())


def test_numbers_are_split_as_the_file_says(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    write_folder(write_gguf(tmp_path / "model.gguf", model, tokenizer, "smollm"), tmp_path / "digits")
    write_folder(write_gguf(tmp_path / "again.gguf", model, tokenizer, "qwen2"), tmp_path / "qwen")
    for name in ("digits", "qwen"):
        words = AutoTokenizer.from_pretrained(tmp_path / name)
        pieces = [piece for piece, _ in words.backend_tokenizer.pre_tokenizer.pre_tokenize_str("it's 1207")]
        assert pieces == (["it", "'s", "Ġ", "1", "2", "0", "7"])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("missing", "no such file; give a GGUF file"),
        ("no GGUF", "is no GGUF file"),
        ("truncated", "is damaged or truncated|is truncated"),
        ("architecture", "architecture 'rwkv9' is not read by transformers; use one of"),
        ("tokenizer", r"its tokenizer \(gpt2, split as 'own'\) is not described completely"),
        ("exists", "exists already; give a new folder"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, model: Any, tokenizer: Any, damage: str, said: str) -> None:
    file, out = tmp_path / "model.gguf", tmp_path / "out"
    changes = {"architecture": "rwkv9"} if damage == "architecture" else {}
    write_gguf(file, model, tokenizer, "own" if damage == "tokenizer" else "gpt-2", **changes)
    if damage == "missing":
        file.unlink()
    elif damage == "no GGUF":
        file.write_bytes(b"PK\x03\x04")
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-5000])
    elif damage == "exists":
        out.mkdir()
    with pytest.raises(ModelError, match=said):
        write_folder(file, out)
    assert {path.name for path in tmp_path.iterdir()} <= {"model.gguf", "out"}
    assert not out.exists() or not list(out.iterdir())


def test_the_command_reports_the_model_and_refuses_with_one_line(tmp_path: Path, model: Any, tokenizer: Any) -> None:
    file = write_gguf(tmp_path / "model.gguf", model, tokenizer)
    ran = mind("import-gguf", str(file), str(tmp_path / "out"))
    assert (ran.returncode, "llama, " in ran.stdout, "nats per token" in ran.stdout) == (0, True, True)
    assert_refused(
        mind("import-gguf", str(file), str(tmp_path / "out")), f"{tmp_path / 'out'}: exists already; give a new folder"
    )

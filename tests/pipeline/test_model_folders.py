from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from pipeline import model_folders as models
from pipeline.config.models import HubModel, LocalModel
from pipeline.errors import ModelError
from pipeline.model_folders import check_model, context_length, model_content
from tests.bench.host_memory import own_memory

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def _refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as raised:
        check_model(LocalModel(path=folder), "teacher")
    assert str(raised.value).startswith(f"teacher: {folder}")
    return str(raised.value)


def test_a_complete_folder_passes(folder: Path) -> None:
    check_model(LocalModel(path=folder), "teacher")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "no such model folder; correct teacher.path" in _refusal(tmp_path / "none")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_without_one_of_its_files_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"has no {name}" in _refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_folder_with_a_damaged_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("{")
    assert name in _refusal(folder)


UNUSABLE = {
    "null": ("null", "has no JSON object, but NoneType"),
    "a list": ("[1]", "has no JSON object, but list"),
    "nested 50,000 deep": ("[" * 50_000 + "]" * 50_000, "nested too deep"),
    "an integer of 5,000 digits": (f'{{"a": {"9" * 5000}}}', "cannot be read"),
    "half a file": ("{", "cannot be read"),
}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize(("text", "said"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_file_without_a_plain_json_object_is_refused_in_a_line(folder: Path, name: str, text: str, said: str) -> None:
    (folder / name).write_text(text)
    message = _refusal(folder)
    assert f"{folder / name}: " in message
    assert said in message
    assert "\n" not in message
    assert len(message) < 500


def test_the_settings_of_a_nested_language_model_are_read(folder: Path) -> None:
    file = folder / "config.json"
    settings = json.loads(file.read_text())
    nested = {name: settings.pop(name) for name in ("vocab_size", "max_position_embeddings")}
    file.write_text(json.dumps({**settings, "text_config": nested}))
    check_model(LocalModel(path=folder), "teacher")
    assert context_length(folder) == nested["max_position_embeddings"]
    file.write_text(json.dumps({**settings, "text_config": None}))
    assert "has no vocab_size" in _refusal(folder)


@pytest.mark.parametrize("stated", [["own.Tokenizer", None], "own.Tokenizer"])
def test_a_tokenizer_that_needs_its_own_code_is_refused_and_the_code_is_not_run(folder: Path, stated: object) -> None:
    ran = folder / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Tokenizer: pass\n")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": stated}}
    file.write_text(json.dumps(settings))
    check_model(LocalModel(path=folder), "teacher")  # its class is one of transformers
    file.write_text(json.dumps({**settings, "tokenizer_class": "Tokenizer"}))
    message = _refusal(folder)
    assert "code in a model folder is never run" in message
    assert "\n" not in message
    assert not ran.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"eos_token_id": "2"}, "eos_token_id is 2, expected numbers of tokens"),
        ({"eos_token_id": [[2]]}, "expected numbers of tokens"),
        ({"cache_implementation": "of my own"}, "Invalid `cache_implementation`"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be greater than 0"),
    ],
)
def test_generation_settings_with_which_a_model_does_not_load_are_refused(
    folder: Path, settings: dict[str, object], said: str
) -> None:
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert said in _refusal(folder)


def test_only_the_end_tokens_of_the_generation_settings_are_part_of_a_models_identity(folder: Path) -> None:
    file, model = folder / "generation_config.json", LocalModel(path=folder)
    found = []
    for settings in (
        {"eos_token_id": 2, "do_sample": False, "temperature": 0.6},
        {"eos_token_id": [2], "do_sample": True, "temperature": 0.6, "transformers_version": "5.0.0"},
        {"eos_token_id": 2},
        {"eos_token_id": [2, 1]},
        {"eos_token_id": [1, 2], "top_p": 0.5},
        {},
    ):
        file.write_text(json.dumps(settings))
        check_model(model, "student")
        found.append(model_content(model))
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4]
    assert len(set(found)) == 3


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    message = _refusal(folder)
    assert "has no weights" in message
    assert "pickles" not in message


def test_pickled_weights_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "its .bin files are pickles and are not read; convert them" in _refusal(folder)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] - 1}))
    assert "use the tokenizer that belongs to these weights" in _refusal(folder)


def test_content_does_not_depend_on_the_path_or_the_card(folder: Path, tiny_model: Path) -> None:
    (folder / "README.md").write_text("a card is not content")
    assert model_content(LocalModel(path=folder)) == model_content(LocalModel(path=tiny_model))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_content_changes_with_any_byte_of_a_model_file(folder: Path, tiny_model: Path, name: str) -> None:
    with (folder / name).open("ab") as stream:
        stream.write(b" ")
    assert model_content(LocalModel(path=folder)) != model_content(LocalModel(path=tiny_model))


def test_the_content_of_a_hub_model_is_its_pinned_revision() -> None:
    model = HubModel(name="some/model", revision=REVISION)
    check_model(model, "teacher")
    assert model_content(model) == f"some/model@{REVISION}"


def test_the_context_length_is_read_from_the_configuration(folder: Path) -> None:
    assert context_length(folder) == 8192
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    assert context_length(folder) is None


def test_the_digest_of_a_large_file_is_cached_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_MEMORY", tmp_path / "cache" / "digests.sqlite")
    monkeypatch.setattr(models, "_LARGE_BYTES", 4)
    read: list[Path] = []
    original = models._hashed
    monkeypatch.setattr(models, "_hashed", lambda path: read.append(path) or original(path))
    file = tmp_path / "weights"

    def digest() -> bytes:
        models._file_digest.cache_clear()  # as in another process
        status = file.stat()
        return models._file_digest(file, status.st_size, status.st_mtime_ns)

    file.write_bytes(b"12345")
    assert digest() == digest() == hashlib.sha256(b"12345").digest()
    assert len(read) == 1
    file.write_bytes(b"123456")
    assert digest() == hashlib.sha256(b"123456").digest()
    assert len(read) == 2


@pytest.mark.parametrize("place", ["a file/digests.sqlite", "damaged.sqlite", None])
def test_a_cache_that_cannot_be_used_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str | None
) -> None:
    (tmp_path / "a file").write_text("")
    (tmp_path / "damaged.sqlite").write_bytes(b"no database" * 1000)
    monkeypatch.setattr(models, "_MEMORY", None if place is None else tmp_path / place)
    monkeypatch.setattr(models, "_LARGE_BYTES", 4)
    file = tmp_path / "weights"
    file.write_bytes(b"12345")
    assert models._file_digest(file, 5, 1) == hashlib.sha256(b"12345").digest()


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)
    assert models._memory() is None


def test_weights_that_do_not_fit_the_configuration_are_named(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    assert models.check_weights(folder) is None
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**weights, name: weights[name][:-1].contiguous()}, file, {"format": "pt"})
    assert f"weight {name}: has shape [47, 32], but the configuration expects [48, 32]" in str(models.check_weights(folder))
    del weights[name]
    save_file(weights, file, {"format": "pt"})
    assert f"weight {name}: has shape None" in str(models.check_weights(folder))


def test_a_student_in_the_precision_of_its_file_is_mapped_and_not_copied(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    shape = LlamaConfig(vocab_size=32000, hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4)
    AutoModelForCausalLM.from_config(shape, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = LocalModel(path=tmp_path, chat=False)
    models.load_causal_model(model, torch.bfloat16)  # imports what a first load imports
    before = own_memory()
    student = models.load_causal_model(model, torch.bfloat16)
    weights = sum(value.numel() * value.element_size() for value in student.parameters())
    assert weights > 60 << 20
    assert own_memory() - before < weights / 4, "so that the ranks of a host, under ZeRO-3 too, share one copy"


@pytest.mark.parametrize("content", [None, "{}", "null", '{"model_type": "x"}', '{"model_type": "llama", "hidden_size": -1}'])
def test_a_folder_that_is_no_model_has_a_problem(folder: Path, content: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    config = folder / "config.json"
    config.unlink() if content is None else config.write_text(content)
    assert str(models.check_weights(folder)).startswith("has no config.json" if content is None else "cannot be loaded (")
    assert "Loading weights" not in capfd.readouterr().err

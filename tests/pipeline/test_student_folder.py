"""A student that cannot be trained is refused before it loads: its type, and the end of its turns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config.models import LocalModel, Turns
from pipeline.errors import ModelError
from pipeline.model_folders import check_model, load_tokenizer
from pipeline.student_folder import causal_types, check_student, end_of_turn
from tests.support.models import CHAT, build_tokenizer

CHATML = (
    "{% for m in messages %}<begin>{{ m.role }}\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<begin>assistant\n{% endif %}"
)


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def _with_end(folder: Path, template: str, eos_token: str) -> LocalModel:
    build_tokenizer(folder, chat_template=template)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": eos_token}))
    return LocalModel(path=folder)


def test_every_causal_language_model_of_transformers_is_known_without_importing_it() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) == causal_types()


@pytest.mark.parametrize("model_type", ["t5", "someones_own", None])
def test_a_student_that_is_no_causal_language_model_is_refused_before_anything_runs(
    folder: Path, model_type: str | None
) -> None:
    check_student(LocalModel(path=folder))
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": model_type}))
    with pytest.raises(ModelError) as raised:
        check_student(LocalModel(path=folder))
    assert str(raised.value).startswith(f"student: {file}: model_type {model_type!r} is not a causal language model")


QUANTISED = {
    "GPTQ": ("config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
    "bitsandbytes": (
        "config.json",
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "bitsandbytes",
    ),
    "nested": ("config.json", {"text_config": {"vocab_size": 9999, "quantization_config": {"quant_method": "awq"}}}, "awq"),
    "without a method": ("config.json", {"quantization_config": {}}, "quantization_config"),
    "GPTQ's own file": ("quantize_config.json", {"bits": 4}, "quantization_config"),
}


@pytest.mark.parametrize(("name", "settings", "method"), QUANTISED.values(), ids=QUANTISED)
def test_a_quantised_student_is_refused_by_its_method(
    folder: Path, name: str, settings: dict[str, object], method: str
) -> None:
    file = folder / name
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | settings))
    check_model(LocalModel(path=folder), "teacher")
    with pytest.raises(ModelError, match=rf"student: .*{name}: its weights are quantised \({method}\), .*original precision"):
        check_student(LocalModel(path=folder))


def test_the_end_token_of_the_template_is_accepted(folder: Path) -> None:
    assert check_student(_with_end(folder, CHATML, "<end>")) == ""


def test_another_end_token_than_the_templates_is_refused_with_token_and_file(folder: Path) -> None:
    with pytest.raises(ModelError) as raised:
        check_student(_with_end(folder, CHATML, "<pad>"))
    said = str(raised.value)
    assert "ends an assistant's turn with '<end>'" in said
    assert "is '<pad>'" in said
    assert said.endswith(f"set eos_token to '<end>' in {folder / 'tokenizer_config.json'}")


def test_another_end_token_at_which_the_model_stops_too_is_a_warning(folder: Path) -> None:
    student = _with_end(folder, CHATML, "<pad>")
    tokenizer = load_tokenizer(student)
    both = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<end>")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": both}))
    assert (
        check_student(student)
        == "its chat template ends an assistant's turn with '<end>'; training appends '<pad>', at which it also stops"
    )


def test_a_mended_end_token_is_accepted_at_once(folder: Path) -> None:
    with pytest.raises(ModelError):
        check_student(_with_end(folder, CHATML, "<pad>"))
    assert check_student(_with_end(folder, CHATML, "<end>")) == ""


def test_a_plain_student_has_no_turns_to_compare(folder: Path) -> None:
    model = _with_end(folder, CHATML, "<pad>")
    assert check_student(model.model_copy(update={"chat": False})) == ""


@pytest.mark.parametrize("template", [CHAT, "{% if messages[-1].role != 'user' %}{{ raise_exception('no') }}{% endif %}[ai]"])
def test_a_template_whose_end_cannot_be_told_is_a_warning(folder: Path, template: str) -> None:
    model = _with_end(folder, template, "<end>")
    assert "cannot be compared" in check_student(model)


@pytest.mark.parametrize(
    ("tail", "found"),
    [("<end>", "<end>"), (" \n<end><pad>", "<end>"), ("<pad>\n<end>", "<pad>"), ("", None), ("\nUser:", None)],
)
def test_the_first_added_token_after_the_answer_ends_the_turn(folder: Path, tail: str, found: str | None) -> None:
    model = _with_end(folder, "{% for m in messages %}<begin>{{ m.content }}" + tail + "{% endfor %}", "<end>")
    assert end_of_turn(load_tokenizer(model), Turns()) == found

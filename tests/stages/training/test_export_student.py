"""The exported student keeps its base's generation settings, also those that transformers refuses to save."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.models import LocalModel
from pipeline.model_folders import load_causal_model
from stages.training.export_student import save

SETTINGS: dict[str, dict[str, Any]] = {
    "greedy with a temperature": {"do_sample": False, "temperature": 0.6, "top_p": 0.9},
    "one beam with a length penalty": {"num_beams": 1, "length_penalty": 2.0},
    "two end tokens": {"eos_token_id": [1, 2]},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_k": 20, "repetition_penalty": 1.05},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_generation_settings_are_exported_as_they_were_loaded(
    tmp_path: Path, tiny_model: Path, settings: dict[str, Any]
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "generation_config.json").write_text(json.dumps(settings))
    student = load_causal_model(LocalModel(path=base), torch.float32)
    save(student, tmp_path / "student", state_dict=student.state_dict())
    written = json.loads((tmp_path / "student" / "generation_config.json").read_text())
    default = student.generation_config.to_dict() | settings
    assert {name: written.get(name, default[name]) for name in settings} == settings
    again = load_causal_model(LocalModel(path=tmp_path / "student"), torch.float32)
    assert again.generation_config.to_diff_dict() == student.generation_config.to_diff_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())


def test_valid_generation_settings_are_written_as_transformers_writes_them(tmp_path: Path, tiny_model: Path) -> None:
    student = load_causal_model(LocalModel(path=tiny_model), torch.float32)
    save(student, tmp_path / "ours")
    student.save_pretrained(tmp_path / "theirs")
    names = {path.name for path in (tmp_path / "theirs").iterdir()}
    assert names == {path.name for path in (tmp_path / "ours").iterdir()}
    for name in names:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()

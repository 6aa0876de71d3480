"""Exports the trained student as a transformers folder: gathered under ZeRO-3, with LoRA adapters merged into its layers and beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pipeline.model_folders import ADAPTER, load_tokenizer
from pipeline.student.lora import adapted_base, merged, save_adapter
from pipeline.training.step import TrainingState
from stages.training.stage_config import Config


def save(model: Any, folder: Path, **settings: Any) -> None:
    """`save_pretrained` with the model's generation settings as they were loaded.

    transformers loads contradictory settings, such as greedy decoding with a temperature, with a warning, but refuses to save them. The
    base is distributed with them, and other programs read them, so its student has the same ones.
    """
    stated = model.generation_config
    if stated is None:
        model.save_pretrained(folder, safe_serialization=True, **settings)
        return
    model.generation_config = type(stated)()
    try:
        model.save_pretrained(folder, safe_serialization=True, **settings)
    finally:
        model.generation_config = stated
    stated.to_json_file(folder / "generation_config.json", keys_to_pop=["compile_config"])


def export(state: TrainingState, config: Config, folder: Path) -> None:
    """Save the student and its tokenizer as a transformers folder, written aside and renamed."""
    engine: Any = state.engine
    # Under ZeRO-3 no rank has the whole student; this private method is the only gather that DeepSpeed offers without a file.
    gathered = config.training.zero_stage == 3
    states = engine._zero3_consolidated_16bit_state_dict() if gathered else engine.module.state_dict()
    if state.rank:
        return
    aside = folder.with_name("student.aside")
    shutil.rmtree(aside, ignore_errors=True)
    student, lora = engine.module.student, config.training.lora
    weights = {name.removeprefix("student."): value for name, value in states.items()}
    if lora is not None:
        adapted = adapted_base(config.student, lora, weights)
        save_adapter(adapted, config.student, aside / ADAPTER)
        save(merged(adapted), aside)
    else:
        if student.config.tie_word_embeddings:
            weights = {name: value for name, value in weights.items() if not name.startswith("lm_head.")}
        save(student, aside, state_dict=weights)
    # A used tokenizer stores its call settings, and a resumed process may not have used it: a fresh one always saves the same files.
    load_tokenizer(config.student).save_pretrained(aside)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)

"""TRL's SFTTrainer on the same rows, as people run it: a row per rationale, padded, or packed into rows of the longest length.

It is no dependency; without it these comparisons are left out. Gradient checkpointing, which it does by default, is off, for ours is too.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

from pipeline.training_set import TrainingSet, questions_of_step
from stages.speed.sides import Once, clock


def trl_sides(folder: Path, data: TrainingSet, questions: int, steps: int) -> dict[str, Once]:
    """TRL padded and packed, with the same rationales in a step; empty where it is not installed."""
    if importlib.util.find_spec("trl") is None:
        return {}
    return {
        "TRL, padding": _side(folder, data, questions, steps, packing=False),
        "TRL, packing": _side(folder, data, questions, steps, packing=True),
    }


def _rows(data: TrainingSet, questions: int, steps: int) -> list[dict[str, list[int]]]:
    """Every rationale of every step's questions, in the order in which the steps take them."""
    index = [int(n) for step in range(steps) for n in questions_of_step(step, len(data), questions, 0)]
    rows = [data.row(n, k) for n in index for k in range(data.mask_NK.shape[1])]
    return [{"input_ids": row.tokens, "completion_mask": [0] * row.start + [1] * (len(row.tokens) - row.start)} for row in rows]


def _side(folder: Path, data: TrainingSet, questions: int, steps: int, packing: bool) -> Once:
    import datasets
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    transformers.logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)
    rows = _rows(data, questions, steps)
    longest, useful = max(len(row["input_ids"]) for row in rows), sum(sum(row["completion_mask"]) for row in rows)
    settings = SFTConfig(
        output_dir=str(folder / f"trl-{packing}"), per_device_train_batch_size=questions * data.mask_NK.shape[1], packing=packing,
        max_length=longest, num_train_epochs=1, use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False,
        report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, completion_only_loss=True, learning_rate=1e-4,
    )  # fmt: skip
    timer = _timer()
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "student", dtype=torch.float32), args=settings,
        train_dataset=datasets.Dataset.from_list(rows), callbacks=[timer],
        processing_class=AutoTokenizer.from_pretrained(_TOKENIZER),
    )  # fmt: skip

    def once() -> float:
        began = clock()
        trainer.train()
        # Its trainer starts anew each time, which a long training would not: only the steps themselves count.
        whole = clock() - began
        return float(useful * whole / timer.seconds)

    return once


_TOKENIZER = Path(__file__).parents[2] / "pipeline" / "miniature" / "models" / "student"


def _timer() -> Any:
    from transformers import TrainerCallback

    class Timer(TrainerCallback):  # type: ignore[misc]
        """The time from the first step's beginning to the last one's end."""

        seconds = 0.0
        began = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = self.began or clock()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds = clock() - self.began

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = 0.0

    return Timer()

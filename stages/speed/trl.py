"""Times TRL's SFTTrainer on the same rows in its usual configurations: one padded row per rationale, or several rows packed into a line.

TRL is not a dependency; without it, these comparisons are skipped. Its default gradient checkpointing is off, as ours is. TRL passes packed
rows on without padding, all lines of a batch as one. FlashAttention, which computes no pairs between different rows, does not support fp32;
transformers then separates rows by a dense mask over all token pairs of a batch. A batch is therefore one line here, and a step accumulates
as many lines as hold a step's rows.

Axes: N questions of the set, K perspectives.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any, Final

from pipeline.training.training_set import TrainingSet, questions_of_step
from stages.speed.lines import lines_of
from stages.speed.timing import Once, clock

PACKING: Final = "TRL, packing with dense masks"


def trl_sides(folder: Path, data: TrainingSet, questions: int, steps: int) -> dict[str, Once]:
    """TRL with padding and with packing, with the same rationales per step; empty if it is not installed."""
    if importlib.util.find_spec("trl") is None:
        return {}
    return {
        "TRL, padding": _side(folder, data, questions, steps, packing=False),
        PACKING: _side(folder, data, questions, steps, packing=True),
    }


def _rows(data: TrainingSet, questions: int, steps: int) -> list[dict[str, list[int]]]:
    """Every rationale of every step's questions, in the order of the steps."""
    index = [int(n) for step in range(steps) for n in questions_of_step(step, len(data), questions, 0)]
    rows = [data.row(n, k) for n in index for k in range(data.mask_NK.shape[1])]
    return [{"input_ids": row.tokens, "completion_mask": [0] * row.start + [1] * (len(row.tokens) - row.start)} for row in rows]


def trainer_of(folder: Path, data: TrainingSet, questions: int, steps: int, packing: bool) -> Any:
    """TRL's trainer on all steps' rows, with the student in `folder`."""
    import datasets
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    transformers.logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)
    rows, rows_a_step = _rows(data, questions, steps), questions * data.mask_NK.shape[1]
    lengths = [len(row["input_ids"]) for row in rows]
    lines = lines_of(lengths, rows_a_step)
    settings = SFTConfig(
        output_dir=str(folder / f"trl-{packing}"), packing=packing, max_length=lines.length if packing else max(lengths),
        per_device_train_batch_size=1 if packing else rows_a_step, gradient_accumulation_steps=lines.a_step if packing else 1,
        num_train_epochs=1, use_cpu=not torch.cuda.is_available(), bf16=False, gradient_checkpointing=False, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, completion_only_loss=True, learning_rate=1e-4,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "student", dtype=torch.float32), args=settings,
        train_dataset=datasets.Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(_TOKENIZER),
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)  # it would print into the output of `--json`
    return trainer


def _side(folder: Path, data: TrainingSet, questions: int, steps: int, packing: bool) -> Once:
    useful = sum(sum(row["completion_mask"]) for row in _rows(data, questions, steps))
    trainer, timer = trainer_of(folder, data, questions, steps, packing), _timer()
    trainer.add_callback(timer)

    def once() -> float:
        began = clock()
        trainer.train()
        # TRL's trainer has a start-up cost per call that a long training would not have: only the steps are timed.
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

"""TRL's SFTTrainer on the rows of our steps: one padded row per rationale, or several rows packed into a line.

With FlashAttention, a batch is as many lines as hold a step's rows. Without it, transformers separates rows by a dense mask over all token
pairs of a batch; a batch is then one line, and a step accumulates several. TRL steps its bfloat16 weights without fp32 copies.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from typing import Any, Final

import torch
from transformers import PrinterCallback, TrainerCallback

from pipeline.training.training_set import questions_of_step
from scripts.gpu.part import Options, wait
from scripts.gpu.students import PERSPECTIVES, Shape, set_of, student_of
from stages.speed.lines import lines_of

STEPS: Final = 8
WARM: Final = 2


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step, without collation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        wait(self.device)
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        wait(self.device)
        self.seconds.append(time.perf_counter() - self._began)


def trl_seconds(given: Options, shape: Shape, ratio: tuple[int, int], packing: bool) -> dict[str, Any]:
    """Milliseconds for one of our uniform steps' rows, tokens per second, and the kind of attention.

    Raises:
        ModuleNotFoundError: TRL is not installed.
    """
    import datasets
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    data = set_of(shape, ratio, shape.questions * STEPS)
    index = [int(n) for step in range(STEPS) for n in questions_of_step(step, len(data), shape.questions, 0)]
    rows = [data.row(n, k) for n in index for k in range(PERSPECTIVES)]
    rows_a_step = shape.questions * PERSPECTIVES
    lines = lines_of([len(row.tokens) for row in rows], rows_a_step)
    flash = given.cuda and importlib.util.find_spec("flash_attn") is not None
    at_once = rows_a_step if not packing else lines.a_step if flash else 1
    settings = SFTConfig(
        output_dir=str(given.folder / f"trl-{packing}"), packing=packing,
        max_length=lines.length if packing else max(len(row.tokens) for row in rows), per_device_train_batch_size=at_once,
        gradient_accumulation_steps=lines.a_step // at_once if packing else 1, num_train_epochs=1, use_cpu=not given.cuda,
        bf16=given.cuda, gradient_checkpointing=False, report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        completion_only_loss=True,
    )  # fmt: skip
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1})), pad_token="a", eos_token="b"
    )
    clock = _Clock(given.device)
    if given.cuda:
        torch.cuda.reset_peak_memory_stats()
    trainer = SFTTrainer(
        model=student_of(
            shape, "flash_attention_2" if flash else "sdpa", given.device, torch.bfloat16 if given.cuda else torch.float32
        ),
        args=settings,
        train_dataset=datasets.Dataset.from_list(
            [
                {"input_ids": row.tokens, "completion_mask": [0] * row.start + [1] * (len(row.tokens) - row.start)}
                for row in rows
            ]
        ),
        callbacks=[clock],
        processing_class=words,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    # With packing there may be fewer steps than ours; on average they hold as many rows.
    step = statistics.median(clock.seconds[WARM:] or clock.seconds) * len(clock.seconds) / STEPS
    useful = sum(len(row.tokens) - row.start for row in rows) / STEPS
    memory = {"gib": torch.cuda.max_memory_allocated() / 2**30} if given.cuda else {}
    attention = "FlashAttention" if flash else "dense mask" if packing else "causal"
    return {"ms": 1000 * step, "tokens_s": round(useful / step), **memory, "attention": attention}

"""Times TRL's SFTTrainer on the rows of `gpu_bench.py`, if installed: one padded row per rationale, or several rows packed into a line.

With FlashAttention, a batch is as many lines as hold a step's rows. Without it, transformers separates rows by a dense mask over all token
pairs of a batch; a batch is then one line, and a step accumulates several.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from typing import Any, Final

import torch
from gpu_work import Shape, Work, config_of
from transformers import Qwen2ForCausalLM, TrainerCallback

from stages.speed.lines import lines_of

FORMS: Final = ("TRL, padding", "TRL, packing")


def is_there() -> bool:
    """Whether TRL is installed."""
    return importlib.util.find_spec("trl") is not None


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of every step, without collation, which is not timed for our forms either."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def _now(self) -> float:
        torch.cuda.synchronize() if torch.cuda.is_available() else None
        return time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self._began = self._now()

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        self.seconds.append(self._now() - self._began)


def _settings(folder: str, works: list[Work], packing: bool, flash: bool) -> Any:
    from trl import SFTConfig

    cuda, rows_a_step = torch.cuda.is_available(), len(works[0].rows)
    lengths = [len(row.tokens) for work in works for row in work.rows]
    lines = lines_of(lengths, rows_a_step)
    at_once = rows_a_step if not packing else lines.a_step if flash else 1
    return SFTConfig(
        output_dir=folder, packing=packing, max_length=lines.length if packing else max(lengths),
        per_device_train_batch_size=at_once, gradient_accumulation_steps=lines.a_step // at_once if packing else 1,
        num_train_epochs=1, use_cpu=not cuda, bf16=cuda, gradient_checkpointing=False, max_grad_norm=0.0, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, completion_only_loss=True,
    )  # fmt: skip


def trl_seconds(works: list[Work], shape: Shape, packing: bool, warm: int) -> tuple[float, str]:
    """Median seconds for one of our steps' rows, after `warm` steps, and the kind of attention."""
    import datasets
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, PrinterCallback
    from trl import SFTTrainer

    rows = [
        {"input_ids": row.tokens, "completion_mask": [0] * row.start + [1] * (len(row.tokens) - row.start)}
        for work in works
        for row in work.rows
    ]
    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1})), pad_token="a", eos_token="b"
    )
    cuda = torch.cuda.is_available()
    flash = cuda and importlib.util.find_spec("flash_attn") is not None
    config, clock = config_of(shape), _Clock()
    config._attn_implementation = "flash_attention_2" if flash else "sdpa"
    with tempfile.TemporaryDirectory(prefix="gpu-bench-") as folder:
        trainer = SFTTrainer(
            model=Qwen2ForCausalLM(config).to(torch.bfloat16 if cuda else torch.float32),
            args=_settings(folder, works, packing, flash),
            train_dataset=datasets.Dataset.from_list(rows),
            callbacks=[clock],
            processing_class=words,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    # On average TRL's steps hold as many rows as ours; with packing there may be fewer steps.
    step = statistics.median(clock.seconds[warm:] or clock.seconds)
    attention = "FlashAttention" if flash else "dense mask" if packing else "causal"
    return step * len(clock.seconds) / len(works), attention

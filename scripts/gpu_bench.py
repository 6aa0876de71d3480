"""Training speed on one GPU, in one call, on a machine that has nothing but torch and transformers: `python scripts/gpu_bench.py`.

A student of Qwen2.5's shape with random weights takes steps on random questions with eight rationales each, in bfloat16: rows padded,
packed with attention row by row, packed with FlexAttention; and TRL's trainer where it is installed. The objective and the packing
are the product's own (`pipeline/`); the optimiser is plain AdamW. Printed are loss tokens a second, how many times the padded form that is,
and the share of the card's peak that the arithmetic of the model itself comes to (MFU): what a form computes twice does not count.

With `--shape tiny` it runs on a CPU in seconds, without FlexAttention, which cannot learn there.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.attention import ROWS
from pipeline.objective import rationale_losses
from pipeline.packing import packed
from pipeline.rows import Batch, Row, batch, rationale_spans
from pipeline.student import StudentLosses, losses_of

PERSPECTIVES: Final = 8
PEAK: Final = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Floating point operations a second in bfloat16 without sparsity, from the makers' sheets."""
ATTENTION: Final = {"padded": "sdpa", "rows": ROWS, "flex": "flex_attention"}


class Shape(NamedTuple):
    """Of a student."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    groups: int
    vocabulary: int


SHAPES: Final = {
    "0.5b": Shape(896, 4864, 24, 14, 2, 151_936),
    "1.5b": Shape(1536, 8960, 28, 12, 2, 151_936),
    "tiny": Shape(64, 128, 2, 4, 2, 512),
}


class Work(NamedTuple):
    """A step's rows: those of one question have the same number."""

    rows: list[Row]
    questions: list[int]


def make_work(questions: int, prompt: int, rationale: int, vocabulary: int, seed: int) -> Work:
    """Random tokens; lengths spread by a quarter round their means."""
    draw = random.Random(seed)

    def text(mean: int) -> list[int]:
        return draw.choices(range(vocabulary), k=round(mean * draw.uniform(0.75, 1.25)))

    prompts = [text(prompt) for _ in range(questions)]
    rows = [
        Row([*mine, *text(rationale)], len(mine), (len(mine), len(mine) + 1)) for mine in prompts for _ in range(PERSPECTIVES)
    ]
    return Work(rows, [number for number in range(questions) for _ in range(PERSPECTIVES)])


def operations(work: Work, shape: Shape, body: int) -> float:
    """Of one step, forward and backward: every token of a shared prefix once, logits at loss positions, every pair that attends once."""
    prefixes = {number: row.start for row, number in zip(work.rows, work.questions, strict=True)}
    tails = [(row.start, len(row.tokens) - row.start) for row in work.rows]
    tokens, useful = sum(prefixes.values()) + sum(tail for _, tail in tails), sum(tail for _, tail in tails)
    pairs = sum(start**2 / 2 for start in prefixes.values()) + sum(tail * start + tail**2 / 2 for start, tail in tails)
    return 6 * body * tokens + 6 * shape.hidden * shape.vocabulary * useful + 12 * shape.layers * shape.hidden * pairs


def config_of(shape: Shape) -> Qwen2Config:
    """As transformers has it."""
    return Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.intermediate, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.groups, tie_word_embeddings=True,
    )  # fmt: skip


def steps(form: str, shape: Shape, device: torch.device) -> Callable[[Work], None]:
    """A student and its optimiser in one form; what comes back takes a step."""
    torch.manual_seed(0)
    config = config_of(shape)
    config._attn_implementation = ATTENTION[form]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    student = Qwen2ForCausalLM(config).to(device, dtype).train()
    model = StudentLosses(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=device.type == "cuda")

    def step(work: Work) -> None:
        spans = rationale_spans(work.rows)
        item: Batch = batch(work.rows, spans, 0) if form == "padded" else packed(work.rows, spans, work.questions, 0)
        tokens_P, _ = losses_of(model, item, torch.zeros(0, dtype=torch.long), device)
        loss = rationale_losses(tokens_P, item.row_P.to(device), len(work.rows)).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def trl_seconds(works: list[Work], shape: Shape, folder: Path, packing: bool) -> float:
    """Median seconds of a step of TRL's trainer on the same rows, a row per rationale."""
    import datasets
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"input_ids": row.tokens, "completion_mask": [0] * row.start + [1] * (len(row.tokens) - row.start)}
        for work in works
        for row in work.rows
    ]
    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
            torch.cuda.synchronize() if torch.cuda.is_available() else None
            marks.append(time.perf_counter())

    words = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1})), pad_token="a", eos_token="b"
    )
    cuda = torch.cuda.is_available()
    student = Qwen2ForCausalLM(config_of(shape)).to(torch.bfloat16 if cuda else torch.float32)
    settings = SFTConfig(
        output_dir=str(folder), per_device_train_batch_size=len(works[0].rows), packing=packing, num_train_epochs=1,
        max_length=max(len(row["input_ids"]) for row in rows), use_cpu=not cuda, bf16=cuda, gradient_checkpointing=False, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, completion_only_loss=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=student,
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        callbacks=[Clock()],
        processing_class=words,
    )
    trainer.train()
    # Packed, it takes fewer steps: what counts is the time of all rows.
    whole = (marks[-1] - marks[0]) / (len(marks) - 1) * len(marks)
    return whole / len(works)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step by form, in alternating repeats, and what follows from them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = SHAPES[arguments.shape]
    works = [
        make_work(arguments.questions, arguments.prompt, arguments.rationale, shape.vocabulary, seed)
        for seed in range(arguments.repeats + 2)
    ]
    forms = ["padded", "rows", *(["flex"] if device.type == "cuda" else [])]
    takes = {form: steps(form, shape, device) for form in forms}
    seconds: dict[str, list[float]] = {form: [] for form in forms}
    for number, work in enumerate(works):
        for form in forms:
            _wait()
            began = time.perf_counter()
            takes[form](work)
            _wait()
            if number >= 2:
                seconds[form].append(time.perf_counter() - began)
    found = {form: statistics.median(values) for form, values in seconds.items()}
    if arguments.trl:
        takes.clear()
        for packing in (False, True):
            name = "TRL, packing" if packing else "TRL, padding"
            found[name] = trl_seconds(works[2:], shape, Path(arguments.folder), packing)
    return _said(found, works[2:], shape, device)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _said(found: dict[str, float], works: list[Work], shape: Shape, device: torch.device) -> dict[str, Any]:
    useful = statistics.mean(sum(len(row.tokens) - row.start for row in work.rows) for work in works)
    head = shape.hidden // shape.heads
    body = shape.layers * (
        2 * shape.hidden * shape.hidden + 2 * shape.hidden * shape.groups * head + 3 * shape.hidden * shape.intermediate
    )
    needed = statistics.mean(operations(work, shape, body) for work in works)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    peak = next((value for name, value in PEAK.items() if name in card), None)
    return {
        "device": card, "torch": torch.__version__, "useful_tokens_a_step": round(useful),
        "forms": {
            form: {
                "seconds": round(taken, 4), "tokens_a_second": round(useful / taken), "times_padded": round(found["padded"] / taken, 3),
                "mfu": None if peak is None else round(needed / taken / peak, 4),
            }
            for form, taken in found.items()
        },
    }  # fmt: skip


def main() -> None:
    """The command line; prints JSON."""
    parser = argparse.ArgumentParser(description="Training speed on one GPU.")
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--questions", type=int, default=4, help="in a step, each with eight rationales")
    parser.add_argument("--prompt", type=int, default=256, help="mean tokens")
    parser.add_argument("--rationale", type=int, default=256, help="mean tokens")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--trl", action="store_true", help="TRL's trainer too, where it is installed")
    parser.add_argument("--folder", default="/tmp/gpu-bench", help="where TRL's trainer may write")
    print(json.dumps(measure(parser.parse_args()), indent=2))


if __name__ == "__main__":
    main()

"""Measures training speed on one GPU, on a machine with only torch and transformers: `python scripts/gpu_bench.py`.

Students of Qwen2.5's shapes take steps on questions with eight rationales each, in bfloat16, in several forms: padded rows, packed rows
with attention row by row, packed rows with FlexAttention, and TRL's trainer if it is installed. The objective and the packing are the
product's own (`pipeline/`); the optimiser is plain AdamW. The forms run one after the other, each alone on the GPU and on the same rows; a
form that fails is reported.

For each form, as soon as it is measured, the script prints: loss tokens per second, the speed-up over the padded form, the model FLOPs
utilisation (MFU: the model's own arithmetic as a share of the GPU's peak; recomputation does not count), memory, and the host's
milliseconds to build a batch, which are not part of the step time. At the end it prints a table, and all results as one line of JSON.

With `--shapes tiny` it runs on a CPU in seconds, without FlexAttention, which cannot train there.

Axes: P wanted positions.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from transformers import Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gpu_trl
from gpu_work import SHAPES, Shape, Work, batch_of, config_of, make_work, operations

from pipeline.student.attention import ROWS
from pipeline.student.objective import rationale_losses
from pipeline.student.token_losses import StudentLosses, losses_of

PEAK: Final = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
"""Peak bfloat16 FLOP/s without sparsity, from the vendors' data sheets."""
ATTENTION: Final = {"padded": "sdpa", "rows": ROWS, "flex": "flex_attention"}
WARM: Final = 3
"""Warm-up steps: FlexAttention is compiled in the first, and again when lengths change."""


def ours(form: str, works: list[Work], shape: Shape, device: torch.device, until: float) -> dict[str, Any]:
    """Median seconds of a step, and milliseconds to build its batch; stops early at the time limit."""
    torch.manual_seed(0)
    config = config_of(shape)
    config._attn_implementation = ATTENTION[form]
    student = Qwen2ForCausalLM(config).to(device, torch.bfloat16 if device.type == "cuda" else torch.float32).train()
    model = StudentLosses(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=device.type == "cuda")
    seconds: list[float] = []
    host: list[float] = []
    for number, work in enumerate(works):
        began = time.perf_counter()
        item = batch_of(form, work)
        host.append(time.perf_counter() - began)
        _wait()
        began = time.perf_counter()
        tokens_P, _ = losses_of(model, item, torch.zeros(0, dtype=torch.long), device)
        rationale_losses(tokens_P, item.row_P.to(device), len(work.rows)).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        _wait()
        if number >= WARM:
            seconds.append(time.perf_counter() - began)
        if seconds and time.monotonic() > until:
            break
    return {"seconds": statistics.median(seconds), "steps": len(seconds), "host_ms": 1000 * statistics.median(host)}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _timed(form: str, works: list[Work], shape: Shape, device: torch.device, until: float) -> dict[str, Any]:
    """Measure one form, alone on the GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        torch.compiler.reset()  # after a few recompilations for other shapes, torch would stop compiling FlexAttention
    if form in gpu_trl.FORMS:
        if not gpu_trl.is_there():
            return {"error": "TRL is not installed"}
        seconds, attention = gpu_trl.trl_seconds(works, shape, form == gpu_trl.FORMS[1], WARM)
        found: dict[str, Any] = {"seconds": seconds, "attention": attention}
    else:
        found = ours(form, works, shape, device, until)
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def timed(form: str, works: list[Work], shape: Shape, device: torch.device, until: float) -> dict[str, Any]:
    """The measurements of a form, or the reason why there are none."""
    if time.monotonic() > until:
        return {"error": "no time left; raise --minutes"}
    try:
        return _timed(form, works, shape, device, until)
    except Exception as error:  # noqa: BLE001 - any failure (memory, compiler, library) must not stop the other forms
        said = str(error).strip().splitlines() or [""]
        return {"error": f"{type(error).__name__}: {said[0][:300]}"}


def rates(found: dict[str, Any], works: list[Work], shape: Shape, peak: float | None, padded: float | None) -> dict[str, Any]:
    """The measurements with the rates derived from a step's seconds."""
    if "error" in found:
        return found
    useful, needed = (
        statistics.mean(values) for values in zip(*((w.useful, operations(w, shape)) for w in works), strict=True)
    )
    seconds = found["seconds"]
    return {
        **{name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()},
        "tokens_a_second": round(useful / seconds),
        "times_padded": None if padded is None else round(padded / seconds, 3),
        "mfu": None if peak is None else round(needed / seconds / peak, 4),
    }


def measure(arguments: argparse.Namespace, device: torch.device, peak: float | None) -> Iterator[dict[str, Any]]:
    """Yield a row for each shape, ratio of lengths and form."""
    until = time.monotonic() + 60 * arguments.minutes
    for name in arguments.shapes:
        for ratio in arguments.ratios:
            prompt, rationale = (round(arguments.tokens * part / sum(ratio)) for part in ratio)
            shape = SHAPES[name]
            works = [
                make_work(arguments.questions, prompt, rationale, shape.vocabulary, seed)
                for seed in range(arguments.repeats + WARM)
            ]
            padded = None
            for form in arguments.forms:
                found = timed(form, works, shape, device, until)
                padded = found.get("seconds", padded) if form == "padded" else padded
                yield {
                    "shape": name,
                    "ratio": ":".join(map(str, ratio)),
                    "form": form,
                    **rates(found, works, shape, peak, padded),
                }


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The rows as a table, for people."""
    yield f"{'shape':6}{'ratio':7}{'form':14}{'tokens/s':>10}{'x padded':>10}{'MFU':>8}{'ms a step':>11}{'host ms':>9}{'GiB':>7}"
    for row in rows:
        begin = f"{row['shape']:6}{row['ratio']:7}{row['form']:14}"
        if "error" in row:
            yield f"{begin} {row['error'][:80]}"
            continue
        parts = ((row["times_padded"], 10, ".2f"), (row["mfu"], 8, ".3f"), (1000 * row["seconds"], 11, ".1f"),
                 (row.get("host_ms"), 9, ".1f"), (row.get("peak_gib"), 7, ".1f"))  # fmt: skip
        yield f"{begin}{row['tokens_a_second']:>10,}" + "".join(
            f"{'–' if value is None else format(value, form):>{width}}" for value, width, form in parts
        )


def ratio_of(text: str) -> tuple[int, int]:
    """Parse a ratio of a prompt's tokens to a rationale's."""
    prompt, rationale = map(int, text.split(":"))
    return prompt, rationale


def main() -> None:
    """Entry point of the command line."""
    cuda = torch.cuda.is_available()
    forms = [form for form in ATTENTION if cuda or form != "flex"] + (list(gpu_trl.FORMS) if gpu_trl.is_there() else [])
    parser = argparse.ArgumentParser(description="Training speed on one GPU.")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.5b", "1.5b"])
    parser.add_argument(
        "--ratios",
        nargs="+",
        type=ratio_of,
        default=[(1, 1), (1, 3)],
        metavar="1:3",
        help="ratios of a prompt's tokens to a rationale's",
    )
    parser.add_argument(
        "--forms",
        nargs="+",
        choices=[*ATTENTION, *gpu_trl.FORMS],
        default=forms,
        help="forms to measure; default: all that can run here",
    )
    parser.add_argument("--questions", type=int, default=4, help="questions per step, each with eight rationales")
    parser.add_argument("--tokens", type=int, default=512, help="average tokens of a prompt with one rationale")
    parser.add_argument("--repeats", type=int, default=10, help="measured steps")
    parser.add_argument("--minutes", type=float, default=8, help="time after which no further form is started")
    rows = []
    card = torch.cuda.get_device_name() if cuda else "CPU"
    peak = next((value for name, value in PEAK.items() if name in card), None)
    for row in measure(parser.parse_args(), torch.device("cuda" if cuda else "cpu"), peak):
        print(json.dumps(row), flush=True)
        rows.append(row)
    print("", *table(rows), "", sep="\n")
    print(json.dumps({"device": card, "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()

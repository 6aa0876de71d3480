"""How a stage's memory grows with the number of rows: `python -m tests.bench.growth`.

Every stage runs as the real thing, plan, lease and commit included, in a fresh process for each size, on inputs written as artifacts of
the stages before it. Only generation is simulated: an engine that answers at once, and once the real client of an OpenAI-compatible
server with a server on loopback; the student is a Llama of one layer.

Measured is private memory: the largest sum of `RssAnon` (/proc/PID/status) over the stage's process and all it started, looked at fifty
times a second. Pages of mapped files are left out: they are the page cache's, which gives them back when the room is needed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

STAGES = ("questions", "references", "sampling, openai", "sampling", "synthesis", "training", "evaluation")
SIZES = (1_000, 10_000, 100_000, 1_000_000)
PATIENCE = 720.0
MIB = 2**20


class Measured(NamedTuple):
    peak: int
    seconds: float


def _anonymous(process: psutil.Process) -> int:
    """Bytes of private memory of a process and all it started."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            parent = Path(f"/proc/{member.ppid()}/cmdline").read_bytes()
            if Path(f"/proc/{member.pid}/cmdline").read_bytes() == parent:
                continue  # forked and about to become another program: until then its memory is its parent's
            lines = Path(f"/proc/{member.pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    return total


def _child(action: str, config: Path, stage: str, rows: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.bench.growth", action, str(config), stage, str(rows)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _watched(process: subprocess.Popen[bytes]) -> Measured:
    began, peak = time.monotonic(), 0
    family = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, _anonymous(family))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"growth: the stage ended with code {process.returncode}")
    return Measured(peak, time.monotonic() - began)


def tiny_model(folder: Path) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.bench.world import FEATURES
    from tests.conftest import build_tokenizer

    tokenizer = build_tokenizer(folder)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=FEATURES, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


def measure(label: str, rows: int, model: Path, server: str) -> Measured:
    """One stage on `rows` rows, in a folder of its own."""
    from tests.bench.world import tree

    stage = label.partition(",")[0]
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        root = Path(folder)
        config = root / "run.yaml"
        config.write_text(yaml.safe_dump(tree(model, root, stage, rows, server if "openai" in label else None)))
        if _child("make", config, stage, rows).wait():
            raise SystemExit("growth: the inputs could not be made")
        return _watched(_child("run", config, stage, rows))


def _report(found: dict[str, dict[int, Measured | None]], sizes: list[int]) -> Iterator[str]:
    """The table: peak and seconds by size, and the slope between the two largest."""
    yield f"{'private MiB / seconds':24}" + "".join(f"{size:>20,}" for size in sizes) + f"{'bytes per row':>20}"
    for label, cells in found.items():
        texts = [
            f"{'skipped' if cell is None else f'{cell.peak / MIB:,.0f} / {cell.seconds:,.0f}':>20}" for cell in cells.values()
        ]
        there = [(size, cell) for size, cell in cells.items() if cell is not None][-2:]
        slope = "–"
        if len(there) == 2 and there[0][0] >= 100_000:
            slope = f"{(there[1][1].peak - there[0][1].peak) / (there[1][0] - there[0][0]):,.0f}"
        yield f"{label:24}" + "".join(texts) + f"{slope:>20}"
    yield f"skipped: would have taken more than {PATIENCE / 60:.0f} minutes"


def _expected(cells: dict[int, Measured | None], size: int) -> float:
    """Seconds that a size will take, from those measured: a start, and so much per row."""
    known = [(rows, cell.seconds) for rows, cell in cells.items() if cell is not None]
    if len(known) < 2:
        return 0.0
    if len(known) < len(cells):
        return PATIENCE
    (less, before), (more, after) = known[-2:]
    return after + (after - before) / (more - less) * (size - more)


def bench(labels: list[str], sizes: list[int]) -> None:
    """Measure and print, a line as soon as it is known."""
    # Imported here, not above: the processes that are measured start from this file too.
    from tests.bench.world import answer
    from tests.faults.teacher import serve

    found: dict[str, dict[int, Measured | None]] = {}
    with tempfile.TemporaryDirectory(prefix="growth-model-") as folder, serve(answer) as server:
        model = tiny_model(Path(folder))
        for label in labels:
            cells = found.setdefault(label, {})
            for size in sizes:
                cells[size] = measure(label, size, model, server) if _expected(cells, size) < PATIENCE else None
                print(label, size, cells[size], file=sys.stderr, flush=True)
    print("\n".join(_report(found, sizes)), flush=True)


def _act(action: str, config: Path, stage: str, rows: int) -> None:
    from pipeline.config import load_config
    from tests.bench import world

    run = load_config(config)
    if action == "make":
        world.make_inputs(run, stage, rows)
        return
    from stages import answering, attempts, process, sampling

    for module in (answering, attempts, *([] if run.sampling.engine.kind == "openai" else [sampling])):
        module.open_engine = world.open_instant  # type: ignore[attr-defined, assignment]
    process.run_stage(run, stage)


def main() -> None:
    if sys.argv[1:2] and sys.argv[1] in ("make", "run"):
        action, config, stage, rows = sys.argv[1:]
        _act(action, Path(config), stage, int(rows))
        return
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    arguments = parser.parse_args()
    bench(arguments.stages, arguments.sizes)


if __name__ == "__main__":
    main()

"""Benchmark of growth: memory and time of stages by rows, perspectives and ranks (`python -m tests.bench.growth`).

Every stage runs for real, including plan, lease and commit, in a fresh process per size, on inputs written as artifacts of
the stages before it. Only generation is simulated: an engine that answers at once, and once the real client of an OpenAI-compatible
server with a server on loopback; the student is a Llama of one layer.

Memory is private memory: the largest sum of `RssAnon` (/proc/PID/status) over the stage's process and its children, sampled fifty
times a second. Pages of mapped files are excluded: they belong to the page cache, which releases them on demand. Seconds are
CPU seconds over all cores, which other work on the machine hardly affects.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

STAGES = ("questions", "references", "sampling, openai", "sampling", "synthesis", "training", "evaluation")
SIZES = (100, 1_000, 10_000, 100_000)
PERSPECTIVES = (1, 2, 4, 8, 16)
OF_PERSPECTIVES = ("sampling", "synthesis", "training")
"""Stages whose work grows with the number of perspectives."""
QUESTIONS = 2_000
"""Number of questions when the number of perspectives varies."""
PATIENCE = 720.0
MIB = 2**20


class Measured(NamedTuple):
    """Peak bytes, wall seconds and CPU seconds."""

    peak: int
    seconds: float
    processor: float


Cells = dict[int, Measured | None]
"""By size; None if a run would have taken too long."""


def _anonymous(process: psutil.Process) -> int:
    """Bytes of private memory of a process and its children."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            parent = Path(f"/proc/{member.ppid()}/cmdline").read_bytes()
            if Path(f"/proc/{member.pid}/cmdline").read_bytes() == parent:
                continue  # forked but not yet exec'd: its memory still counts as the parent's
            lines = Path(f"/proc/{member.pid}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
    return total


def _child(action: str, config: Path, stage: str, rows: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.bench.growth", action, str(config), stage, str(rows)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _watched(process: subprocess.Popen[bytes]) -> Measured:
    began, before, peak = time.monotonic(), _processor(), 0
    family = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            peak = max(peak, _anonymous(family))
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    if process.wait():
        raise SystemExit(f"growth: the stage ended with code {process.returncode}")
    return Measured(peak, time.monotonic() - began, _processor() - before)


def _processor() -> float:
    """CPU seconds of ended child processes, including their own children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tiny_model(folder: Path) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.support.models import build_tokenizer
    from tests.support.synthetic_artifacts import FEATURES

    tokenizer = build_tokenizer(folder)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=FEATURES, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


def measure(label: str, rows: int, model: Path, server: str, perspectives: int = 8) -> Measured:
    """Measures one stage on `rows` rows in a temporary folder."""
    from tests.support.synthetic_artifacts import tree

    stage = label.partition(",")[0]
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        root = Path(folder)
        config = root / "run.yaml"
        run = tree(model, root, stage, rows, server if "openai" in label else None, perspectives)
        config.write_text(yaml.safe_dump(run))
        if _child("make", config, stage, rows).wait():
            raise SystemExit("growth: the inputs could not be made")
        return _watched(_child("run", config, stage, rows))


def rates_by_rank(ranks: Sequence[int]) -> Iterator[tuple[int, float]]:
    """Training tokens per second of a compute-bound student, by number of ranks with one thread each."""
    from pipeline.config.run import RunConfig
    from stages.core.plan import plan
    from stages.core.process import store_of
    from stages.speed.workload import SMALL, make_student
    from tests.support.models import build_tokenizer
    from tests.support.synthetic_artifacts import tree

    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        model = make_student(Path(folder) / "model", SMALL)
        build_tokenizer(model)
        for many in ranks:
            root = Path(folder) / str(many)
            root.mkdir()
            run = tree(model, root, "training", 8_000, None, 8)
            run["training"] |= {"steps": 60, "questions_per_micro_batch": 4, "ranks": many, "threads_per_rank": 1}
            config = root / "run.yaml"
            config.write_text(yaml.safe_dump(run))
            for action in ("make", "run"):
                if _child(action, config, "training", 8_000).wait():
                    raise SystemExit("growth: training ended badly")
            planned = plan(loaded := RunConfig.model_validate(run))["training"]
            yield many, store_of(loaded).open("training", planned.fingerprint).summary["tokens_per_second"]


def power(cells: Cells) -> float | None:
    """Exponent of CPU time by size between the two largest sizes, after subtracting the time of the smallest as start-up."""
    known = [(size, cell.processor) for size, cell in cells.items() if cell is not None]
    if len(known) < 3:
        return None
    (_, start), (less, before), (more, after) = known[0], *known[-2:]
    if before <= start or after <= start:
        return None
    return math.log((after - start) / (before - start)) / math.log(more / less)


def _report(found: dict[str, Cells], sizes: list[int], unit: str) -> Iterator[str]:
    """A table: peak and seconds by size, slope between the two largest sizes, and exponent."""
    head = "".join(f"{size:>16,}" for size in sizes)
    yield f"{f'private MiB / seconds by {unit}':36}{head}{'bytes per row':>16}{'power':>8}"
    for label, cells in found.items():
        texts = [
            f"{'skipped' if cell is None else f'{cell.peak / MIB:,.0f} / {cell.processor:,.0f}':>16}" for cell in cells.values()
        ]
        there = [(size, cell) for size, cell in cells.items() if cell is not None][-2:]
        slope = "–"
        if len(there) == 2 and there[0][0] >= 10_000:
            slope = f"{(there[1][1].peak - there[0][1].peak) / (there[1][0] - there[0][0]):,.0f}"
        grows = power(cells)
        yield f"{label:36}" + "".join(texts) + f"{slope:>16}" + f"{'–' if grows is None else f'{grows:.2f}':>8}"
    yield f"skipped: would have taken more than {PATIENCE / 60:.0f} minutes"


def _draw(curves: dict[str, dict[str, Cells]], path: Path) -> None:
    """Plots CPU seconds and memory on logarithmic axes, one line per stage and one column per unit."""
    from matplotlib.figure import Figure

    from pipeline.analysis.report_plots import OKABE_ITO

    figure = Figure(figsize=(4.6 * len(curves), 6.4), layout="constrained")
    axes = figure.subplots(2, len(curves), squeeze=False)
    for column, (unit, found) in enumerate(curves.items()):
        for label, cells in found.items():
            there = {size: cell for size, cell in cells.items() if cell is not None}
            for row, values in enumerate(
                ([cell.processor for cell in there.values()], [cell.peak / MIB for cell in there.values()])
            ):
                axes[row, column].loglog(
                    list(there), values, "o-", color=OKABE_ITO[STAGES.index(label)], label=label, markersize=4
                )
        for row, title in enumerate(("seconds of the processor", "private MiB")):
            axes[row, column].set(xlabel=unit, ylabel=title)
            axes[row, column].yaxis.set_major_formatter("{x:g}")
            axes[row, column].yaxis.set_minor_formatter("{x:g}")
            axes[row, column].grid(True, which="major", color="#e4e7ec")
        axes[0, column].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=120)


def _expected(cells: dict[int, Measured | None], size: int) -> float:
    """Predicted seconds of a size, by linear extrapolation of the measured ones."""
    known = [(rows, cell.seconds) for rows, cell in cells.items() if cell is not None]
    if len(known) < 2:
        return 0.0
    if len(known) < len(cells):
        return PATIENCE
    (less, before), (more, after) = known[-2:]
    return after + (after - before) / (more - less) * (size - more)


def bench(labels: list[str], sizes: list[int], perspectives: list[int], ranks: list[int], plot: Path | None) -> None:
    """Measures all cells and prints the tables; each cell goes to stderr at once."""
    # Imported here because the measured processes also import this file.
    from tests.support.fake_teacher import serve
    from tests.support.synthetic_artifacts import answer

    by_rows: dict[str, Cells] = {}
    by_perspectives: dict[str, Cells] = {}
    with tempfile.TemporaryDirectory(prefix="growth-model-") as folder, serve(answer) as server:
        model = tiny_model(Path(folder))
        for label in labels:
            cells = by_rows.setdefault(label, {})
            for size in sizes:
                cells[size] = measure(label, size, model, server) if _expected(cells, size) < PATIENCE else None
                print(label, f"{size} rows", cells[size], file=sys.stderr, flush=True)
        for label in labels if perspectives else ():
            if label not in OF_PERSPECTIVES:
                continue
            cells = by_perspectives.setdefault(label, {})
            for many in perspectives:
                cells[many] = measure(label, QUESTIONS * many, model, server, many)
                print(label, f"{many} perspectives", cells[many], file=sys.stderr, flush=True)
    print("\n".join(_report(by_rows, sizes, "rows")), flush=True)
    if by_perspectives:
        print("\n".join(_report(by_perspectives, perspectives, f"perspectives of {QUESTIONS:,} questions")), flush=True)
    for many, rate in rates_by_rank(ranks):
        print(f"training with {many} ranks of one thread: {rate:,.0f} tokens/s", flush=True)
    if plot is not None:
        _draw({"rows": by_rows, f"perspectives, {QUESTIONS:,} questions": by_perspectives}, plot)


def _act(action: str, config: Path, stage: str, rows: int) -> None:
    from pipeline.config.run import load_config
    from tests.support import synthetic_artifacts as world

    run = load_config(config)
    if action == "make":
        world.make_inputs(run, stage, rows)
        return
    from stages.core import process
    from stages.sampling import stage as sampling
    from stages.shared import answering
    from stages.synthesis import attempts

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
    parser.add_argument("--perspectives", nargs="*", type=int, default=list(PERSPECTIVES))
    parser.add_argument("--ranks", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    bench(arguments.stages, arguments.sizes, arguments.perspectives, arguments.ranks, arguments.plot)


if __name__ == "__main__":
    main()

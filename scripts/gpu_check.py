"""Checks and measures MIND on a GPU in one call: `python scripts/gpu_check.py`, on a machine with only torch and transformers.

What else the stages need is carried there in `gpu-wheels/`, which `scripts/gpu_wheels.sh` collects; it is installed into a temporary
folder. Each part (`scripts/gpu/`) runs in its own process with a time limit; a part that fails costs no other. Promises are checked side by
side first; what is timed runs alone afterwards. Rows go to `OUT/results.jsonl` and to the terminal as they come, other output to
`OUT/log.txt`, and at the end all rows to `OUT/table.txt`.

Exit codes: 0 all promises and goals kept, 1 some not, 2 bad input. `--device cpu --shapes tiny` tests the path without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

HOME: Final = Path(__file__).resolve().parents[1]
WHEELS: Final = HOME / "gpu-wheels"


class Part(NamedTuple):
    """A part's module, its own argument, its time limit in seconds, and whether it must run alone because it is timed."""

    module: str
    more: str
    seconds: float
    alone: bool


PARTS: Final = {
    "machine": Part("machine", "", 60, True),
    "miniature-fp32": Part("miniature", "fp32", 220, False),
    "miniature-bf16": Part("miniature", "bf16", 220, False),
    "packing": Part("packing", "", 120, False),
    "zero": Part("zero", "", 150, False),
    "memory": Part("memory", "", 30, True),
    "profile": Part("profiling", "", 80, True),
    "teacher": Part("teacher", "", 75, True),
    "long": Part("long", "", 75, True),
    "speed": Part("speed", "", 300, True),
}
"""In the order of their start; without a GPU only the limit of the whole check holds."""


@dataclass
class Check:
    """A check under way. `site` holds the installed wheels; `until` is its end on the monotonic clock."""

    device: str
    shapes: list[str]
    out: Path
    site: str | None
    until: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def write(check: Check, part: str, line: str) -> None:
    """Take a line of a part's output: a row of results, or log."""
    row = row_of(line)
    with check.lock:
        if row is None:
            with (check.out / "log.txt").open("a") as file:
                file.write(f"{part}: {line.rstrip()}\n")
            return
        check.rows.append({"part": part, **row})
        with (check.out / "results.jsonl").open("a") as file:
            file.write(json.dumps(check.rows[-1]) + "\n")
        print(line_of(check.rows[-1]), flush=True)


def fail(check: Check, part: str, case: str, error: str) -> None:
    """Write a row about a part that has none of its own."""
    write(check, part, json.dumps({"case": case, "good": False, "figures": {"error": error}}))


def row_of(line: str) -> dict[str, Any] | None:
    """A part's row, or None for a line of log."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "case" in row else None


def line_of(row: dict[str, Any]) -> str:
    """A row for people."""
    mark = {True: "ok", False: "NO", None: ""}[row["good"]]
    figures = "  ".join(f"{name} {value}" for name, value in row["figures"].items() if value is not None)
    return f"{row['part']:15}{mark:4}{row['case']:40} {figures}"


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a part with everything that it started, in whatever session."""
    with suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()


def run(check: Check, name: str) -> None:
    """Run a part until it ends or its time is up."""
    part, left = PARTS[name], check.until - time.monotonic()
    seconds = min(part.seconds, left) if check.device == "cuda" else left
    if seconds < 5:
        fail(check, name, "not started", "no time left; raise --minutes")
        return
    began, last = time.monotonic(), "no output"
    with tempfile.TemporaryDirectory(prefix=f"gpu-check-{name}-", ignore_cleanup_errors=True) as folder:
        command = [
            sys.executable, "-m", f"scripts.gpu.{part.module}", "--device", check.device, "--shapes", *check.shapes,
            "--seconds", f"{seconds:.0f}", "--folder", folder, "--more", part.more,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(HOME), check.site)))}
        process = subprocess.Popen(
            command, cwd=HOME, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        timer = threading.Timer(seconds, kill, (process,))
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            write(check, name, line)
            last = line.strip() or last
        code = process.wait()
        timer.cancel()
    if code:
        up = time.monotonic() - began >= seconds
        fail(check, name, "ended", f"its {seconds:.0f} seconds are up" if up else f"exit code {code}: {last[:200]}")
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def install(folder: str) -> str | None:
    """Install the carried wheels into a folder; returns it, or None without wheels.

    Raises:
        SystemExit: with code 2, if they do not fit this Python.
    """
    wheels = sorted(map(str, WHEELS.glob("*.whl")))
    if not wheels:
        return None
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile", "--target", folder]
    done = subprocess.run([*command, *wheels], capture_output=True, text=True, check=False)
    if done.returncode:
        refuse(f"{WHEELS}: cannot be installed: {done.stderr.strip()}; run scripts/gpu_wheels.sh for this Python")
    return folder


def refuse(message: str) -> None:
    """End with one line on standard error."""
    print(f"gpu_check: {message}", file=sys.stderr)
    raise SystemExit(2)


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Checks and measures MIND on a GPU.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=("0.5b", "1.5b", "tiny"), default=["0.5b", "1.5b"])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--minutes", type=float, default=8, help="time after which nothing goes on")
    parser.add_argument("--out", type=Path, default=HOME / "gpu-check", help="folder of the results")
    parser.add_argument("--no-wheels", action="store_true", help="use what is installed")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Entry point of the command line; returns the exit code."""
    arguments = arguments_of(given)
    if arguments.device == "cuda":
        if importlib.util.find_spec("torch") is None:
            refuse("torch is not installed for this Python; use the one that has it")
        import torch

        if not torch.cuda.is_available():
            refuse(f"no GPU usable by torch {torch.__version__}; use --device cpu --shapes tiny to test the path")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in ("results.jsonl", "log.txt", "table.txt"):
        (arguments.out / name).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-check-site-") as folder:
        site = None if arguments.no_wheels else install(folder)
        check = Check(arguments.device, arguments.shapes, arguments.out, site, time.monotonic() + 60 * arguments.minutes)
        wanted = [name for name in PARTS if name in arguments.only]
        together = [name for name in wanted if not PARTS[name].alone]
        if "machine" in wanted:
            run(check, "machine")
        with ThreadPoolExecutor(max(1, len(together)) if arguments.device == "cuda" else 1) as pool:
            list(pool.map(lambda name: run(check, name), together))
        for name in wanted:
            if PARTS[name].alone and name != "machine":
                run(check, name)
    table = "\n".join(map(line_of, check.rows))
    (arguments.out / "table.txt").write_text(table + "\n")
    missed = sum(row["good"] is False for row in check.rows)
    print(f"\n{table}\n\n{len(check.rows)} rows, {missed} not as promised; {arguments.out}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Checks and measures MIND on a GPU in one call: `python scripts/gpu_check.py`, on a machine with only torch and transformers.

What else the stages need is carried there in `gpu-wheels/`, which `scripts/gpu_wheels.sh` collects; it is installed into a folder of its
own. Each part runs in its own process with a time limit; a part that fails costs no other. Promises are checked side by side first;
what is timed runs alone afterwards. Results go to `<out>/results.jsonl` as they come, and at the end to a table.

Exit codes: 0 all promises and goals kept, 1 some not, 2 bad input. `--device cpu --shapes tiny` tests the path without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

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
    "miniature-fp32": Part("miniature", "fp32", 290, False),
    "miniature-bf16": Part("miniature", "bf16", 290, False),
    "packing": Part("packing", "", 120, False),
    "zero": Part("zero", "", 150, False),
    "memory": Part("memory", "", 30, True),
    "profile": Part("profiling", "", 80, True),
    "speed": Part("speed", "", 300, True),
}
"""In the order of their start; `speed` gets the time that is left."""


class Check:
    """A running check: writes rows as they come, from several threads."""

    def __init__(self, arguments: argparse.Namespace, site: Path | None) -> None:
        self.device, self.shapes, self.out = arguments.device, arguments.shapes, arguments.out
        self.until = time.monotonic() + 60 * arguments.minutes
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, filter(None, (HOME, site)))),
            "DS_BUILD_OPS": "0",
        }
        self.rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def write(self, part: str, row: dict[str, Any]) -> None:
        """Append a row to the results, and show it."""
        with self._lock:
            self.rows.append({"part": part, **row})
            with (self.out / "results.jsonl").open("a") as file:
                file.write(json.dumps(self.rows[-1]) + "\n")
            print(line_of(self.rows[-1]), flush=True)

    def run(self, name: str) -> None:
        """Run a part until it ends or its time is up."""
        part = PARTS[name]
        seconds = min(part.seconds, self.until - time.monotonic())
        if seconds < 5:
            self.write(name, {"case": "not started", "good": False, "figures": {"error": "no time left; raise --minutes"}})
            return
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"gpu-check-{name}-") as folder, (self.out / f"{name}.log").open("w+") as log:
            command = [
                sys.executable, "-m", f"scripts.gpu.{part.module}", "--device", self.device, "--shapes", *self.shapes,
                "--seconds", str(seconds), "--folder", folder, "--more", part.more,
            ]  # fmt: skip
            process = subprocess.Popen(
                command, cwd=HOME, env=self.environment, stdout=subprocess.PIPE, stderr=log,
                text=True, start_new_session=True,
            )  # fmt: skip
            timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
            timer.start()
            assert process.stdout is not None
            for line in process.stdout:
                row = row_of(line)
                if row is None:
                    log.write(line)
                    log.flush()
                else:
                    self.write(name, row)
            code = process.wait()
            timer.cancel()
            if code:
                log.flush()
                log.seek(0)
                last = ([*filter(None, map(str.strip, log))] or ["no output"])[-1]
                said = f"its {seconds:.0f} seconds are up" if code == -signal.SIGKILL else f"exit code {code}: {last[:200]}"
                self.write(name, {"case": "ended", "good": False, "figures": {"error": said}})
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


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
    return f"{row['part']:15}{mark:4}{row['case']:42}{figures}"


def install(out: Path) -> Path | None:
    """Install the carried wheels, if there are any, into a folder; returns it."""
    wheels = sorted(map(str, WHEELS.glob("*.whl")))
    if not wheels:
        return None
    site = out / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--target",
        str(site),
        *wheels,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(
            f"gpu_check: {WHEELS}: cannot be installed: {done.stderr.strip()}; run scripts/gpu_wheels.sh for this Python",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return site


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
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "results.jsonl").unlink(missing_ok=True)
    check = Check(arguments, None if arguments.no_wheels else install(arguments.out))
    wanted = [name for name in PARTS if name in arguments.only]
    first = [name for name in wanted if name == "machine"]
    together = [name for name in wanted if not PARTS[name].alone]
    for name in first:
        check.run(name)
    with ThreadPoolExecutor(len(together) if arguments.device == "cuda" and together else 1) as pool:
        list(pool.map(check.run, together))
    for name in wanted:
        if PARTS[name].alone and name not in first:
            check.run(name)
    table = "\n".join(map(line_of, check.rows))
    (arguments.out / "table.txt").write_text(table + "\n")
    missed = sum(row["good"] is False for row in check.rows)
    print(f"\n{table}\n\n{len(check.rows)} rows, {missed} not as promised; {arguments.out}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Benchmark of Prefect: `make bench-prefect`. A real server and real workers; a small run of all stages, medians over repeats.

- from requesting a run to the start of its first stage (the worker polls every two seconds here, every ten by default);
- a stage in a flow, from the start of its task to the start of the next, against `python -m stages.NAME`, alternating;
- cancel and kill -9 during training: time until the last process is gone and until the state changes;
- a night without changes;
- server requests and log lines of a whole run, without the workers' polling.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Final

from tests.support.fake_teacher import serve
from tests.support.kill_campaign import STAGES, write_stage_config
from tests.support.prefect.jobs import Job, fill_job, start_training
from tests.support.prefect.server import Prefect, deployed, eventually, processes_with
from tests.support.runs import REPOSITORY

REQUEST: Final = re.compile(r'"(GET|POST|PUT|PATCH|DELETE) (/api/\S*)')
LOOKING: Final = "/api/work_pools/"


class Bench:
    """A server with all deployments, a finished run to copy from, and a new job per measurement."""

    def __init__(self, prefect: Prefect, folder: Path, teacher: str) -> None:
        self.prefect, self.folder, self.teacher = prefect, folder, teacher
        self._numbers = count()
        self.finished = self.job()
        self.direct(self.finished)

    def job(self, *without: str) -> Job:
        """A new job: empty, or with all stages finished except `without`."""
        name = f"bench-{next(self._numbers)}"
        job = Job(self.folder / name, self.teacher, name)
        job.root.mkdir()
        return fill_job(job, self.finished.root, without) if without else job

    def direct(self, job: Job) -> dict[str, float]:
        """Seconds of every stage, each run as a process without Prefect."""
        config = write_stage_config(job.config)
        seconds = {}
        for stage in STAGES:
            began = time.monotonic()
            command = [sys.executable, "-m", f"stages.{stage}", "--config", str(config)]
            subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
            seconds[stage] = time.monotonic() - began
        return seconds

    def in_flow(self) -> tuple[float, dict[str, float], int, int]:
        """Seconds to the first stage, seconds per stage, requests and log lines."""
        job, before, asked = self.job(), len(self._requests()), time.time()
        run = self.prefect.start("distill/full", job.parameters)
        polls = 0
        while self.prefect.run(run)["state"]["type"] not in ("COMPLETED", "FAILED", "CRASHED"):
            polls += 1
            time.sleep(2)
        state = self.prefect.run(run)["state"]
        assert state["type"] == "COMPLETED", state
        requests = len(self._requests()) - before - polls - 4  # subtracts the benchmark's own requests: find, start and poll
        tasks = self.prefect.tasks(run)
        starts = [_at(task["start_time"]) for task in tasks]
        ends = [*starts[1:], _at(tasks[-1]["end_time"])]
        seconds = {stage: end - start for stage, start, end in zip(STAGES, starts, ends, strict=True)}
        lines = sum(len(message.splitlines()) for message in self.prefect.logs(run))
        return starts[0] - asked, seconds, requests, lines

    def _requests(self) -> list[str]:
        found = REQUEST.findall((self.prefect.home / "server.log").read_text())
        return [path for _, path in found if not path.startswith(LOOKING)]

    def interrupted(self, interrupt: Callable[[str], Any]) -> tuple[float, float]:
        """Seconds until the last training process is gone, and until the run has its final state."""
        job = self.job("training")
        run = start_training(self.prefect, job)
        family = processes_with(str(job.root))
        began, clock = time.monotonic(), time.time()
        interrupt(run)
        eventually(lambda: not any(process.is_running() for process in family), "the end of every process", pause=0.02)
        gone = time.monotonic() - began
        marked = _at(self.prefect.final_state(run)["timestamp"]) - clock
        for limit in self.prefect.post(
            "/v2/concurrency_limits/filter"
        ):  # the slot of a killed holder stays taken for another minute
            self.prefect.request("PATCH", f"/v2/concurrency_limits/{limit['id']}", {"active_slots": 0})
        return gone, marked

    def night(self) -> float:
        """Seconds of a nightly run, from its request to its end."""
        began = time.monotonic()
        self.prefect.outcome("redistill/nightly", self.finished.parameters)
        return time.monotonic() - began


def _at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _row(what: str, values: Sequence[float], aim: str = "") -> None:
    print(f"{what:<46}{statistics.median(values):>8.1f}{min(values):>8.1f}{max(values):>8.1f}  {aim}", flush=True)


def main() -> None:
    """Runs all measurements and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.prefect")
    parser.add_argument("--repeats", type=int, default=3)
    repeats = range(parser.parse_args().repeats)
    with tempfile.TemporaryDirectory() as folder, serve() as teacher, deployed(Path(folder) / "prefect") as prefect:
        bench = Bench(prefect, Path(folder), teacher)
        pairs = [(bench.direct(bench.job()), bench.in_flow()) for _ in repeats]
        print(f"seconds, {len(repeats)} repeats{'':<28}{'median':>8}{'min':>8}{'max':>8}  aim")
        _row("asked for -> first stage starts", [flow[0] for _, flow in pairs])
        for stage in STAGES:
            _row(f"{stage}, called directly", [direct[stage] for direct, _ in pairs])
            _row(f"{stage}, in a flow", [flow[1][stage] for _, flow in pairs])
        _row("a stage in a flow, more than called directly",
             [flow[1][stage] - direct[stage] for direct, flow in pairs for stage in STAGES], "< 3")  # fmt: skip
        cancelled = [bench.interrupted(prefect.cancel) for _ in repeats]
        _row("cancel -> last process gone", [gone for gone, _ in cancelled], "< 15")
        _row("cancel -> Cancelled", [marked for _, marked in cancelled])
        killed = [bench.interrupted(lambda run: prefect.engine(run).kill()) for _ in repeats]
        _row("kill -9 of the flow -> last process gone", [gone for gone, _ in killed], "< 10")
        _row("kill -9 of the flow -> Crashed", [marked for _, marked in killed])
        bench.night()  # promotes
        _row("a night without changes", [bench.night() for _ in repeats], "< 15")
        _row("requests to the server in a whole run", [flow[2] for _, flow in pairs])
        _row("log lines of a whole run", [flow[3] for _, flow in pairs])


if __name__ == "__main__":
    main()

"""Tries what a run's configuration names, one thing after the other: teacher, student, one training step (`stages/trial`).

Each trial is a process of its own under `pipeline/process_guard.py`: memory of GPUs is freed with it, a crash costs no other trial, and at
the time limit all of its processes are terminated. Everything is written to a temporary folder that is removed; of a failed trial, the last
lines of its log are said.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from flows.stage_process import child_environment
from pipeline.capacity.machine import Check, State
from pipeline.config.run import RunConfig
from pipeline.config.training import Training
from pipeline.process_guard import guarded
from stages.trial.generation import loads_alike
from stages.trial.outcome import Outcome, read_outcome
from stages.trial.training_step import REMEDY

_LINES: Final = 15
_ERROR: Final = re.compile(r"\b(\w+(?:Error|Exception|Interrupt): .+)")
Say = Callable[[str], None]


class Trial(NamedTuple):
    """One trial: the name of its row, what it loads, the module of its process, and the stage whose generation it tries."""

    name: str
    what: str
    module: str
    stage: str = ""


def trials_of(run: RunConfig) -> Iterator[Trial | Check]:
    """The trials of a run in order, and rows about what cannot be tried."""
    given = run.sampling.rationales
    if given is not None:
        yield Check("try teacher", "ok", f"nothing to try: rationales are imported from {given.path}")
    else:
        engine = run.sampling.engine
        what = f"the model at {engine.where}" if not engine.in_process else f"the teacher in {engine.kind}"
        yield Trial("try teacher", f"{what}, sampling.engine", "generation", "sampling")
    synthesis, evaluation = run.synthesis.engine, run.evaluation.engine
    yield Trial("try student", f"the student in {synthesis.kind}, synthesis.engine", "generation", "synthesis")
    if not loads_alike(synthesis, evaluation):
        what = f"the student in {evaluation.kind}, evaluation.engine"
        yield Trial("try student (evaluation)", what, "generation", "evaluation")
    training = run.training
    here, total = training.ranks // training.hosts, training.ranks
    ranks = f"this host's {here} of {total} ranks" if here < total else "1 rank" if total == 1 else f"{total} ranks"
    what = f"one training step on {ranks}, zero_stage {training.zero_stage}"
    if training.on_policy is not None:
        what += ", on texts that the student writes and the teacher scores"
    yield Trial("try training", what, "training_step")


def root_cause(lines: list[str]) -> str | None:
    """The last error that a log names, apart from those that only point to another one, as vLLM's main process does."""
    named = [found[1] for line in lines if "root cause" not in line and (found := _ERROR.search(line))]
    return named[-1] if named else None


def _lines(log: Path) -> list[str]:
    return [line.rstrip() for line in log.read_text(errors="replace").splitlines() if line.strip()]


def _outcome(file: Path, lines: list[str], code: int) -> Outcome:
    """The outcome of a process that ended by itself, from its file, or from its log if it crashed."""
    found = read_outcome(file)
    if found is None:
        said = root_cause(lines) or (lines[-1].strip() if lines else "no output")
        signal = " (signal 9 usually means that memory ran out)" if code == 137 else ""
        return Outcome(f"ended with code {code}{signal}: {said}", "correct what this names, or free memory")
    named = root_cause(lines) if "root cause" in found.found else None
    return found if named is None else Outcome(named, found.remedy)


def _run(trial: Trial, config: Path, folder: Path, minutes: float, say: Say) -> Outcome:
    """Run a trial's process to its end or to the time limit."""
    name = f"{trial.module}-{trial.stage}"
    file, log = folder / f"{name}.json", folder / f"{name}.log"
    arguments = ["--config", str(config), "--outcome", str(file), *filter(None, [trial.stage])]
    command = guarded("-m", f"stages.trial.{trial.module}", *arguments)
    # What libraries leave behind goes to the folder that is removed.
    environment = child_environment() | {"TMPDIR": str(folder)}
    with log.open("ab") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        code = child.wait(minutes * 60)
        lines = _lines(log)
        outcome = _outcome(file, lines, code)
    except subprocess.TimeoutExpired:
        lines = _lines(log)  # before its processes say that they were terminated
        last = lines[-1].strip() if lines else "no output"
        outcome = Outcome(
            f"not done after {minutes:g} minutes; last line: {last}", "raise --minutes, or correct what it waits for"
        )
    finally:
        if child.poll() is None:
            child.terminate()
        child.wait()
    for line in lines[-_LINES:] if outcome.remedy else ():
        say(f"    {line}")
    return outcome


def row_of(trial: Trial, outcome: Outcome, training: Training) -> Check:
    """The row of a trial.

    Ranks of one host of several hold larger shares under ZeRO, so that an error that may be one of memory need not be the run's.
    """
    if trial.module != "training_step" or training.hosts == 1:
        return Check(trial.name, "fail" if outcome.remedy else "ok", outcome.found, outcome.remedy)
    shared = training.zero_stage > 0
    note = f"this host's ranks alone, of {training.hosts} hosts" + ", so each holds more than in the run" * shared
    state: State = "ok" if not outcome.remedy else "warn" if shared and outcome.remedy == REMEDY else "fail"
    return Check(trial.name, state, f"{note}: {outcome.found}", outcome.remedy)


def try_all(run: RunConfig, minutes: float, say: Say) -> Iterator[Check]:
    """Try everything that a run loads, each for at most `minutes`; `say` gets a line at the start of each, and those of a failure."""
    with tempfile.TemporaryDirectory(prefix="mind-try-", ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        config = folder / "run.yaml"
        config.write_text(run.model_dump_json())  # JSON is valid YAML
        for trial in trials_of(run):
            if isinstance(trial, Check):
                yield trial
                continue
            say(f"trying {trial.what} (at most {minutes:g} min)")
            yield row_of(trial, _run(trial, config, folder, minutes, say), run.training)

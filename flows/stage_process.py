"""Runs one stage in a child process and watches its log, its progress and its exit.

The child runs under `pipeline/process_guard.py` with its output piped to a log file, so that none of its processes outlives the caller. If
the stage exits for bad input, the same one-line error is raised here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from flows.terminal_door import visible
from pipeline.config.run import RunConfig
from pipeline.errors import BadInput, StageFailed
from pipeline.process_guard import guarded
from stages.core.plan import StagePlan
from stages.core.process import FLOW_RUN_PAGE, progress_path, store_of
from stages.core.progress import read_progress
from storage.atomic import is_full, write_bytes, writing
from storage.errors import DiskFull, RootNotWritable

TAIL_LINES: Final = 50
POLL_SECONDS: Final = 0.2
HOME: Final = Path(__file__).parent.parent

_INTERRUPTED: Final = threading.Event()

OnProgress = Callable[[Mapping[str, Any]], None]
OnLines = Callable[[list[str]], None]


def keep_interrupts() -> None:
    """Make every Ctrl-C of this process stop a running stage, even if a library swallows the exception.

    asyncio, for example, handles the signal itself while it runs in the main thread, but only where Python's own handler is installed.
    """

    def interrupt(number: int, frame: object) -> None:
        _INTERRUPTED.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def freeze_config(run: RunConfig, planned: StagePlan) -> Path:
    """Write the resolved configuration to the file that the stage's process reads, named after the artifact; JSON is valid YAML.

    Raises:
        RootNotWritable: the artifact root cannot be written.
    """
    root = store_of(run).root
    path = root / planned.name / f"{planned.fingerprint}.config"
    with writing(root):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, run.model_dump_json(indent=2).encode())
    return path


def child_environment() -> dict[str, str]:
    """Environment of a process of this checkout whose output goes to a log."""
    path = os.pathsep.join(filter(None, [str(HOME), os.environ.get("PYTHONPATH")]))
    # Progress bars and FutureWarnings of libraries would bury the process's own output.
    quiet = {"TQDM_DISABLE": "1", "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore::FutureWarning")}
    return {**os.environ, **quiet, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _tail(log: Path, start: int) -> str:
    """The last lines written after byte `start`."""
    with log.open(errors="replace") as lines:
        lines.seek(start)
        return visible("".join(deque(lines, TAIL_LINES))).strip()


def _complaint(tail: str) -> str | None:
    """The last line that a stage printed as `mind: ...`."""
    lines = [line.removeprefix("mind: ") for line in tail.splitlines() if line.startswith("mind: ")]
    return lines[-1] if lines else None


def _new_lines(log: BinaryIO) -> list[str]:
    """Complete lines written since the last call. Of a line that a progress bar overwrote, the last version."""
    content = log.read()
    whole, _, rest = content.rpartition(b"\n")
    log.seek(-len(rest), os.SEEK_CUR)
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in whole.decode(errors="replace").splitlines())
    return [visible(line) for line in lines if line.strip()]


def run_child(
    run: RunConfig, planned: StagePlan, on_progress: OnProgress, on_lines: OnLines | None = None, page: str | None = None
) -> Path:
    """Run one stage until it exits; returns its log. `page` is the URL of the flow run, for the manifest.

    Raises:
        BadInput: the stage rejected its input; the message is the stage's.
        StageFailed: any other failure; the message has the last lines of the log.
    """
    config_file = freeze_config(run, planned)
    arguments = ["--config", str(config_file), *(f"--given={stage}={digest}" for stage, digest in planned.given.items())]
    log, progress = config_file.with_suffix(".log"), progress_path(store_of(run), planned)
    watch(planned.name, arguments, log, progress, on_progress, on_lines, page)
    return log


def watch(
    module: str,
    arguments: Sequence[str],
    log: Path,
    progress: Path,
    on_progress: OnProgress,
    on_lines: OnLines | None = None,
    page: str | None = None,
) -> None:
    """Run `python -m stages.MODULE` until it exits, with its output appended to `log`.

    Raises:
        BadInput, StageFailed: as `run_child`.
    """
    start = log.stat().st_size if log.exists() else 0
    progress.unlink(missing_ok=True)  # the progress of an earlier process does not apply to this one
    command = guarded("-m", f"stages.{module}", *arguments)
    environment = child_environment() | {FLOW_RUN_PAGE: page or ""}
    with log.open("ab") as output, log.open("rb") as written:
        written.seek(start)
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            while child.poll() is None:
                time.sleep(POLL_SECONDS)
                if _INTERRUPTED.is_set():
                    raise KeyboardInterrupt
                found = read_progress(progress)
                if found is not None:
                    on_progress(found)
                if on_lines is not None and (lines := _new_lines(written)):
                    on_lines(lines)
        finally:
            if child.poll() is None:
                child.terminate()
            child.wait()
        if on_lines is not None and (lines := _new_lines(written)):
            on_lines(lines)
    if _INTERRUPTED.is_set():
        raise KeyboardInterrupt
    _blame(module, child.returncode, log, start)


def _blame(module: str, code: int, log: Path, start: int) -> None:
    """Raise the error that an exit code means."""
    tail = _tail(log, start)
    if code == BadInput.exit_code:
        raise BadInput(_complaint(tail) or f"{module}: bad input; see {log}")
    if code:
        said = _complaint(tail)
        if said is None and is_full(log.parent):  # the stage's last message did not fit into the log
            raise DiskFull(f"{log.parent}: no space left; free some, then run again to resume")
        if said is None and not os.access(log.parent, os.W_OK):
            raise RootNotWritable(f"{log.parent}: cannot be written; correct root or its permissions, then run again to resume")
        raise StageFailed(
            f"{module} exited with code {code}{': ' + said if said else ''}; run again to resume; "
            f"the log is {log}, its last lines:\n{tail}"
        )

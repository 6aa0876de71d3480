"""Follows a run and sends it to its trackers, each from a thread of its own.

What a tracker gets: the training's steps while they are taken, from a file that the training appends to; the summary of every finished
stage, and the report, from the artifacts. A finished training is read from its artifact, so steps that nobody saw are sent as well.

A tracker cannot end or delay a run. If its library raises, one line says so, and it is tried again after `_AGAIN_SECONDS`; if it hangs, the
command leaves it `_WAIT_SECONDS` after the run's end. What each tracker has is noted in `<root>/tracking/sent`, after it was sent. So a
resumed run doubles no step, a cached run opens no tracker, and what a tracker missed is sent by the next run.
"""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from flows.terminal_progress import console
from flows.tracking.tracker import TrackedRun, Tracker
from flows.tracking.values import step_values, summary_values, training_points
from pipeline.config.run import RunConfig
from pipeline.config.tracking import Tracking
from pipeline.errors import ConfigError
from stages.core.plan import plan
from stages.core.process import progress_path, store_of
from stages.core.progress import measured_path
from storage.artifact import Artifact
from storage.atomic import write_bytes

Opener = Callable[[TrackedRun, Tracking, int], Tracker]
"""Opens the run of a tracker, new or existing; the number is the last step that it was sent."""

Point = tuple[int, dict[str, float]]
"""A training step, counted from 1, and the values measured at it."""

_LOOK_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 60.0
_WAIT_SECONDS: Final = 30.0
_WAIT_AFTER_FAILURE_SECONDS: Final = 5.0


def _opener(name: str) -> Opener:
    if name == "tensorboard":
        from flows.tracking.to_tensorboard import open_tensorboard as opener
    elif name == "wandb":
        from flows.tracking.to_wandb import open_wandb as opener
    else:
        from flows.tracking.to_mlflow import open_mlflow as opener
    return opener


def require_trackers(tracking: Tracking) -> None:
    """Refuse, before anything runs, a tracker that cannot be used on this machine.

    Raises:
        ConfigError: a package is missing, or Weights & Biases has no key.
    """
    for name in tracking.wanted:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"tracking.{name}: the package {name} is not installed; install the extra: pip install 'mind-distill[{name}]'"
            )
    if tracking.wandb is not None and tracking.wandb.mode == "online":
        from flows.tracking.to_wandb import has_key

        if not has_key():
            raise ConfigError(
                "tracking.wandb: there is no key; set WANDB_API_KEY, or run `wandb login`, or set tracking.wandb.mode to offline"
            )


class _MeasuredLines:
    """New lines of the file that a running training appends to. Each process of the training begins the file again."""

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._file = path, 0, 0

    def points(self) -> list[Point]:
        try:
            with self._path.open("rb") as lines:
                status = self._path.stat()
                if status.st_ino != self._file or status.st_size < self._read:
                    self._file, self._read = status.st_ino, 0
                lines.seek(self._read)
                whole = lines.read().rpartition(b"\n")[0]
        except OSError:
            return []
        self._read += len(whole) + 1 if whole else 0
        documents = (json.loads(line) for line in whole.splitlines())
        return [(said["step"] + 1, step_values(said["row"], said["perspectives"], said["dev"])) for said in documents]


@dataclass
class _Sent:
    """What a tracker has: the last step of the curves, and the artifact of each stage whose summary it has."""

    path: Path
    step: int = 0
    stages: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> _Sent:
        try:
            found = json.loads(path.read_text())
            return cls(path, int(found["step"]), {str(stage): str(digest) for stage, digest in found["stages"].items()})
        except (OSError, ValueError, KeyError, AttributeError, TypeError):  # absent, or damaged: everything is sent again
            return cls(path)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.path, json.dumps({"step": self.step, "stages": self.stages}).encode())


class _Sender(threading.Thread):
    """Sends to one tracker. It is opened with the first thing that it does not have, and again a while after a failure."""

    def __init__(self, name: str, run: TrackedRun, tracking: Tracking, measured: Path) -> None:
        super().__init__(name=f"tracking-{name}", daemon=True)
        self.tracker_name, self._run, self._tracking = name, run, tracking
        self.arrived: SimpleQueue[Artifact | None] = SimpleQueue()
        self.failed = False
        """How the run ended."""
        self.left = False
        """Nobody waits for this thread any more."""
        self._lines = _MeasuredLines(measured)
        self._points: list[Point] = []
        self._artifacts: list[Artifact] = []
        self._sent = _Sent.read(run.folder / "sent" / f"{name}-{run.id}.json")
        self._tracker: Tracker | None = None
        self._warned = False

    def run(self) -> None:
        ended, not_before = False, 0.0
        while not ended:
            ended = self._wait()
            if ended or time.monotonic() > not_before:
                try:
                    self._send()
                    if ended and self._tracker is not None:
                        self._tracker.close(self.failed)
                except Exception as error:  # noqa: BLE001 - whatever a tracker's library raises, the run goes on
                    self._tracker, not_before = None, time.monotonic() + _AGAIN_SECONDS
                    self._warn(error)

    def _wait(self) -> bool:
        """Collect what there is to send; whether the run has ended."""
        try:
            arrived = self.arrived.get(timeout=_LOOK_SECONDS)
            if arrived is not None:
                self._artifacts.append(arrived)
            ended = arrived is None
        except Empty:
            ended = False
        self._points += self._lines.points()
        return ended

    def _warn(self, error: Exception) -> None:
        if not self._warned and not self.left:
            reason = next(iter(str(error).splitlines()), "")[:200]
            console.print(
                f"tracking: {self.tracker_name} failed ({type(error).__name__}: {reason}); the run goes on, and what is missing is sent "
                "later, or by the next `mind run`",
                markup=False,
            )
        self._warned = True

    def _open(self) -> Tracker:
        if self._tracker is None:
            self._tracker = _opener(self.tracker_name)(self._run, self._tracking, self._sent.step)
            known = self._tracker.last_step()
            self._sent.step = self._sent.step if known is None else known
        return self._tracker

    def _send(self) -> None:
        if any(step > self._sent.step for step, _ in self._points):
            self._log(self._points)
        self._points = []
        while self._artifacts:
            self._stage(self._artifacts[0])
            del self._artifacts[0]

    def _log(self, points: Iterable[Point]) -> None:
        tracker = self._open()
        try:
            for step, values in points:
                if step > self._sent.step:
                    tracker.log(step, values)
                    self._sent.step = step
        finally:
            self._sent.write()

    def _stage(self, artifact: Artifact) -> None:
        if self._sent.stages.get(artifact.stage) == artifact.fingerprint:
            return
        tracker = self._open()
        if artifact.stage == "training":
            self._log(training_points(artifact, self._sent.step))
        tracker.summarise(summary_values(artifact.stage, artifact.summary))
        if artifact.stage == "report":
            tracker.keep(artifact.path("report.html"))
        self._sent.stages[artifact.stage] = artifact.fingerprint
        self._sent.write()


class Followed:
    """A run that its trackers follow."""

    def __init__(self, senders: list[_Sender]) -> None:
        self._senders = senders

    def finished(self, artifact: Artifact) -> None:
        """A stage is done, or was before."""
        for sender in self._senders:
            sender.arrived.put(artifact)

    def end(self, failed: bool) -> None:
        """Wait for the trackers, but not for one that hangs."""
        for sender in self._senders:
            sender.failed = failed
            sender.arrived.put(None)
        deadline = time.monotonic() + (_WAIT_AFTER_FAILURE_SECONDS if failed else _WAIT_SECONDS)
        for sender in self._senders:
            sender.join(max(0.0, deadline - time.monotonic()))
            sender.left = sender.is_alive()
            if sender.left:
                console.print(
                    f"tracking: {sender.tracker_name} does not answer; left without it, and the next `mind run` sends what is missing",
                    markup=False,
                )


def _plain(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"tracking"}, exclude_none=True)


@contextmanager
def followed(config: RunConfig) -> Iterator[Followed]:
    """Send what happens in the body to the run's trackers; without trackers, nothing is done.

    Raises:
        ConfigError: a tracker cannot be used on this machine.
    """
    require_trackers(config.tracking)
    senders = []
    if config.tracking.wanted:
        store, training = store_of(config), plan(config)["training"]
        run = TrackedRun(config.name, training.fingerprint, _plain(config), store.root / "tracking")
        measured = measured_path(progress_path(store, training))
        senders = [_Sender(name, run, config.tracking, measured) for name in config.tracking.wanted]
    for sender in senders:
        sender.start()
    follower = Followed(senders)
    try:
        yield follower
    except BaseException:
        follower.end(failed=True)
        raise
    follower.end(failed=False)

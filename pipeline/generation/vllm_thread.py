"""Runs vLLM in one thread: collects requests from other threads and returns each its outputs once all of them are complete.

Requests of several threads are in the engine at the same time, and post-processing in one thread does not block the others. An engine that
hangs, for example after losing a GPU, would block all of them forever; callers therefore raise an error when no step completes for some
time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import EngineError

if TYPE_CHECKING:
    from vllm import LLM

_LOOK_SECONDS: Final = 5.0
_LAST_STEP_SECONDS: Final = 10.0
_STOPPED: Final = "vLLM was stopped before all requests were complete; run again, committed shards are kept"


class _Batch:
    """Requests of one call, and their outputs so far."""

    def __init__(self, requests: Sequence[Any], settings: Sequence[Any]) -> None:
        self.requests, self.settings = list(requests), list(settings)
        self.outputs: dict[str, Any] = {}
        self.order: list[str] = []
        self.answer: Future[list[Any]] = Future()


class Driver:
    """`outputs` submits requests from any thread; `stop` ends the driver thread and fails waiting calls, but does not shut down the engine.

    `patience` is the maximum time in seconds without a completed step while requests are open. `told` is called with every finished
    output, in the driver's thread.
    """

    def __init__(self, llm: LLM, patience: float, told: Callable[[Any], None] = lambda output: None) -> None:
        self._llm = llm
        self._told = told
        self._patience = patience
        self._moved = time.monotonic()
        self._inbox: SimpleQueue[_Batch | None] = SimpleQueue()
        self._waiting: dict[str, _Batch] = {}
        self._thread = Thread(target=self._drive, name="vllm", daemon=True)
        self._thread.start()

    def outputs(self, requests: Sequence[Any], settings: Sequence[Any]) -> list[Any]:
        """vLLM's outputs for the requests, in order. Re-raises vLLM's own exceptions.

        Raises:
            EngineError: vLLM hangs or was stopped.
        """
        batch = _Batch(requests, settings)
        if not self._waiting:
            self._moved = time.monotonic()  # idle time does not count as a stall
        self._inbox.put(batch)
        while not wait([batch.answer], min(_LOOK_SECONDS, self._patience)).done:
            if time.monotonic() - self._moved > self._patience:
                raise EngineError(
                    f"vLLM completed no step for {self._patience:,.0f} s with {len(self._waiting)} open requests; committed shards are "
                    "kept: check the device, then run again; if steps take longer than this, raise engine.stall_seconds"
                )
            if not self._thread.is_alive() and not batch.answer.done():
                raise EngineError(_STOPPED)
        return batch.answer.result()

    def stop(self) -> None:
        """Ends the driver thread; a hanging thread is abandoned and ends with the process."""
        self._inbox.put(None)
        self._thread.join(_LAST_STEP_SECONDS)

    def _drive(self) -> None:
        while True:
            if not self._waiting or not self._inbox.empty():
                batch = self._inbox.get()
                if batch is None:
                    self._fail(EngineError(_STOPPED))
                    return
                self._take_in(batch)
            else:
                self._step()
                self._moved = time.monotonic()

    def _take_in(self, batch: _Batch) -> None:
        try:
            # `enqueue` returns request names with a suffix that the outputs' request ids do not have.
            names = self._llm.enqueue(batch.requests, batch.settings, use_tqdm=False)
            batch.order = [name.partition("-")[0] for name in names]
        except Exception as error:  # noqa: BLE001 - re-raised in the calling thread
            batch.answer.set_exception(error)
            return
        self._waiting |= dict.fromkeys(batch.order, batch)
        if not batch.order:
            batch.answer.set_result([])

    def _fail(self, error: Exception) -> None:
        for batch in {id(batch): batch for batch in self._waiting.values()}.values():
            batch.answer.set_exception(error)
        self._waiting.clear()

    def _step(self) -> None:
        try:
            finished = [output for output in self._llm.llm_engine.step() if output.finished]
        except Exception as error:  # noqa: BLE001 - the engine has failed, so all open requests fail
            self._fail(error)
            return
        for output in finished:
            owner = self._waiting.pop(output.request_id, None)
            if owner is None:  # belongs to a batch that failed after part of it was enqueued
                continue
            owner.outputs[output.request_id] = output
            self._told(output)
            if len(owner.outputs) == len(owner.order):
                owner.answer.set_result([owner.outputs[name] for name in owner.order])

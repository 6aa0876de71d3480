"""The one thread that drives vLLM. It takes in what other threads ask and hands each its outputs when all of them are there.

So requests of several threads are in the engine together, and what one thread does with its outputs keeps no other waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLM


class _Batch:
    """Requests that were asked together, and their outputs so far."""

    def __init__(self, requests: Sequence[Any], settings: Sequence[Any]) -> None:
        self.requests, self.settings = list(requests), list(settings)
        self.outputs: dict[str, Any] = {}
        self.order: list[str] = []
        self.answer: Future[list[Any]] = Future()


class Driver:
    """`outputs` asks, from any thread; `stop` ends the thread, and leaves the engine to whoever made it."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._inbox: SimpleQueue[_Batch | None] = SimpleQueue()
        self._waiting: dict[str, _Batch] = {}
        self._thread = Thread(target=self._drive, name="vllm", daemon=True)
        self._thread.start()

    def outputs(self, requests: Sequence[Any], settings: Sequence[Any]) -> list[Any]:
        """vLLM's outputs of some requests, in order. Raises what vLLM raises."""
        batch = _Batch(requests, settings)
        self._inbox.put(batch)
        return batch.answer.result()

    def stop(self) -> None:
        """Ends the thread."""
        self._inbox.put(None)
        self._thread.join()

    def _drive(self) -> None:
        while True:
            if not self._waiting or not self._inbox.empty():
                batch = self._inbox.get()
                if batch is None:
                    return
                self._take_in(batch)
            else:
                self._step()

    def _take_in(self, batch: _Batch) -> None:
        try:
            # Its names are longer than those that the outputs will have.
            names = self._llm.enqueue(batch.requests, batch.settings, use_tqdm=False)
            batch.order = [name.partition("-")[0] for name in names]
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
            batch.answer.set_exception(error)
            return
        self._waiting |= dict.fromkeys(batch.order, batch)
        if not batch.order:
            batch.answer.set_result([])

    def _step(self) -> None:
        try:
            finished = [output for output in self._llm.llm_engine.step() if output.finished]
        except Exception as error:  # noqa: BLE001 - the engine is lost, and with it everything that was asked
            for batch in {id(batch): batch for batch in self._waiting.values()}.values():
                batch.answer.set_exception(error)
            self._waiting.clear()
            return
        for output in finished:
            owner = self._waiting.pop(output.request_id, None)
            if owner is None:  # of a batch that was refused, after some of it was taken in
                continue
            owner.outputs[output.request_id] = output
            if len(owner.outputs) == len(owner.order):
                owner.answer.set_result([owner.outputs[name] for name in owner.order])

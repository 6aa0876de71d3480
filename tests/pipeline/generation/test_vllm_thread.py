"""vLLM driver thread: a hanging engine is given up. Uses a fake engine, since a real one cannot hang on demand."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import EngineError
from pipeline.generation.vllm_thread import Driver


class _Engine:
    """Completes one request per step; a step waits for `go`."""

    def __init__(self, step_seconds: float = 0.0) -> None:
        self.go, self.open, self.seconds = Event(), list[str](), step_seconds
        self.llm_engine = self

    def enqueue(self, requests: list[Any], settings: list[Any], use_tqdm: bool) -> list[str]:
        self.open += [f"{request}-long" for request in requests]
        return self.open[-len(requests) :]

    def step(self) -> list[Any]:
        self.go.wait()
        time.sleep(self.seconds)
        return [SimpleNamespace(request_id=self.open.pop(0).partition("-")[0], finished=True)]


def asked(engine: Any, patience: float, count: int) -> list[str]:
    driver = Driver(engine, patience)
    try:
        return [output.request_id for output in driver.outputs([str(number) for number in range(count)], [None] * count)]
    finally:
        engine.go.set()
        driver.stop()


def test_a_hanging_engine_is_given_up_with_an_error() -> None:
    with pytest.raises(EngineError, match=r"completed no step for 0 s with 3 open requests; .* run again"):
        asked(_Engine(), 0.2, 3)


def test_waiting_callers_fail_at_once_when_the_engine_stops() -> None:
    engine = _Engine(step_seconds=0.2)
    engine.go.set()
    driver = Driver(engine, 3600.0)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(driver.outputs, [str(number) for number in range(1000)], [None] * 1000)
        while not engine.open:
            time.sleep(0.01)
        driver.stop()
        with pytest.raises(EngineError, match="stopped before all requests were complete"):
            answer.result(timeout=20)
    with pytest.raises(EngineError, match="stopped before all requests were complete"):
        driver.outputs(["late"], [None])


def test_a_slow_engine_that_makes_progress_is_waited_for() -> None:
    engine = _Engine(step_seconds=0.1)
    engine.go.set()
    assert asked(engine, 0.3, 8) == [str(number) for number in range(8)]


def test_every_finished_output_is_told_before_the_call_returns() -> None:
    engine, told = _Engine(), list[str]()
    engine.go.set()
    fake: Any = engine
    driver = Driver(fake, 3600.0, lambda output: told.append(output.request_id))
    try:
        assert [output.request_id for output in driver.outputs(["a", "b", "c"], [None] * 3)] == told == ["a", "b", "c"]
    finally:
        driver.stop()

"""Several servers behave like one: the same answers, whoever dies, as long as one is left."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.engines import EngineConfig
from pipeline.config.models import ServedModel
from pipeline.errors import EngineError, EngineRefused
from pipeline.generation.engine import Completion, Decoding, Engine
from pipeline.generation.open_engine import open_engine
from tests.bench import servers as bench
from tests.support.fake_teacher import Asked, Fault, serve
from tests.support.killable_teacher import killable_teacher

DECODING = Decoding(0.7, 1.0, 16)
PROMPTS = [f"prompt {number}" for number in range(24)]
TEXTS = [f"{prompt} {seed}" for seed, prompt in enumerate(PROMPTS)]
NOBODY = "http://127.0.0.1:9/v1"
Faults = Callable[[Asked], Fault | None]


class Noted:
    """Counts the requests for each prompt, and answers those that `wrong` selects with `fault`."""

    def __init__(self, fault: Fault | None = None, wrong: Callable[[Asked], bool] = bool) -> None:
        self.fault, self.wrong = fault, wrong
        self.requests: Counter[str] = Counter()

    def __call__(self, asked: Asked) -> Fault | None:
        if asked:
            self.requests[asked["prompt"]] += 1
        return self.fault if self.fault is not None and self.wrong(asked) else None


@contextmanager
def engine(
    faults: Sequence[Faults | None], arrived: Path | None = None, slow: float = 0.0, **settings: Any
) -> Iterator[tuple[Engine, list[str]]]:
    """An engine over one server for each fault, and their addresses; None is an address where nobody listens."""

    def write(prompt: str, seed: int) -> str:
        time.sleep(slow)
        return f"{prompt} {seed}"

    with ExitStack() as stack:
        urls = [NOBODY if fault is None else stack.enter_context(serve(write, fault)) for fault in faults]
        given = {"kind": "openai", "base_url": urls, "served_model": "simulated", "connections": 4, **settings}
        with open_engine(EngineConfig.model_validate(given), ServedModel(served=True, chat=False), arrived) as opened:
            yield opened, urls


def texts(opened: Engine, prompts: Sequence[str] = PROMPTS) -> list[str]:
    return [said.text for said in opened.generate(prompts, list(range(len(prompts))), DECODING)]


def test_two_servers_answer_almost_twice_as_fast_as_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = bench.ask(tmp_path / "one", 1), bench.ask(tmp_path / "two", 2)
    assert two.texts == one.texts
    assert two.twice == []
    assert two.rate > 1.5 * one.rate, "1.9 on a quiet machine"


def test_a_killed_server_loses_nothing_and_only_what_was_in_flight_is_asked_again(tmp_path: Path) -> None:
    found = bench.ask(tmp_path, 2, kill_after=len(bench.PROMPTS) // 2)
    assert found.texts == [f"{prompt} {seed}" for seed, prompt in enumerate(bench.PROMPTS)]
    assert len(found.twice) <= bench.CONNECTIONS
    assert all(asked[prompt] == 1 for prompt in found.twice for asked in found.asked)


def test_every_request_is_asked_once_and_both_servers_answer() -> None:
    faults = [Noted(), Noted()]
    with engine(faults, slow=0.05) as (opened, _):
        assert texts(opened) == TEXTS
    assert faults[0].requests + faults[1].requests == Counter(PROMPTS)
    assert all(len(fault.requests) >= len(PROMPTS) // 4 for fault in faults)


def test_no_server_has_more_requests_in_flight_than_connections() -> None:
    most, now, lock = [0, 0], [0, 0], threading.Lock()

    def counting(number: int) -> Callable[[str, int], str]:
        def write(prompt: str, seed: int) -> str:
            with lock:
                now[number] += 1
                most[number] = max(most[number], now[number])
            time.sleep(0.05)
            with lock:
                now[number] -= 1
            return f"{prompt} {seed}"

        return write

    with serve(counting(0)) as one, serve(counting(1)) as other:
        config = EngineConfig(kind="openai", base_url=(one, other), served_model="simulated", connections=3)
        with open_engine(config, ServedModel(served=True, chat=False)) as opened:
            assert texts(opened) == TEXTS
    assert max(most) == 3


def test_an_address_where_nobody_listens_is_left_out_after_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with engine([None, Noted()]) as (opened, _):
        assert texts(opened) == TEXTS
    assert time.monotonic() - began < 8
    said = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(said) == 1
    assert said[0].startswith(f"{NOBODY}: Connection error")
    assert said[0].endswith("left out, 1 of 2 addresses left")


def test_a_server_that_only_fails_is_left_out_and_its_requests_go_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.generation.servers.several_servers.PATIENCE_SECONDS", 1.0)
    healthy = Noted()
    with engine([Noted(Fault(500)), healthy]) as (opened, _):
        assert texts(opened) == TEXTS
    assert healthy.requests == Counter(PROMPTS)


def test_a_request_that_one_server_cannot_answer_goes_to_another_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.generation.servers.several_servers.PATIENCE_SECONDS", 0.5)
    picky = [Noted(Fault(500), lambda asked, own=own: asked.get("prompt") == PROMPTS[own]) for own in (1, 2)]
    with engine(picky, slow=0.2) as (opened, _):
        assert texts(opened) == TEXTS
    assert "left out" not in capsys.readouterr().out


def test_a_server_that_comes_back_takes_part_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with killable_teacher(0.05, tmp_path / "first") as first, killable_teacher(0.05, tmp_path / "second") as second:
        urls, port = (first.url, second.url), int(first.url.split(":")[2].split("/")[0])
        config = EngineConfig(kind="openai", base_url=urls, served_model="simulated", connections=2)
        with open_engine(config, ServedModel(served=True, chat=False)) as opened:
            assert texts(opened) == TEXTS
            first.kill()
            assert texts(opened) == TEXTS
            with killable_teacher(0.05, tmp_path / "again", port) as again:
                until = time.monotonic() + 30
                while not again.asked():
                    assert time.monotonic() < until
                    assert texts(opened) == TEXTS
    said = capsys.readouterr().out
    assert said.count("left out, 1 of 2 addresses left") == 1
    assert said.count(f"{first.url}: answers again after") == 1


def test_without_any_server_the_engine_ends_within_the_retry_budget_with_one_line() -> None:
    began = time.monotonic()
    both = "http://127.0.0.1:9/v1", "http://127.0.0.1:10/v1"
    config = EngineConfig(kind="openai", base_url=both, served_model="simulated", retry_seconds=2)
    with pytest.raises(EngineError, match="no address is left") as raised, open_engine(config, ServedModel(served=True)):
        pass
    assert 1.5 < time.monotonic() - began < 15
    assert not isinstance(raised.value, EngineRefused)
    assert all(f"{url}: Connection error" in str(raised.value) for url in both)
    assert str(raised.value).endswith(
        "for engine.retry_seconds 2; received responses are kept: run again when a server has recovered"
    )


def test_when_the_last_server_dies_all_that_came_is_kept(tmp_path: Path) -> None:
    arrived, came = tmp_path / "arrived.jsonl", 10
    with killable_teacher(0.05, tmp_path / "a") as one, killable_teacher(0.05, tmp_path / "b") as other:
        given = {"kind": "openai", "base_url": [one.url, other.url], "served_model": "simulated", "connections": 2}
        counted: list[Completion] = []

        def told(said: Completion) -> None:
            counted.append(said)
            if len(counted) == came:
                one.kill()
                other.kill()

        config = EngineConfig.model_validate({**given, "retry_seconds": 1})
        model = ServedModel(served=True, chat=False)
        with pytest.raises(EngineError, match="no address is left"), open_engine(config, model, arrived, told) as opened:
            texts(opened)
    faults = [Noted(), Noted()]
    with engine(faults, arrived) as (opened, _):
        assert texts(opened) == TEXTS
    assert sum((faults[0].requests + faults[1].requests).values()) == len(PROMPTS) - len(counted)


def test_a_request_that_no_server_answers_ends_within_the_retry_budget() -> None:
    poison = [Noted(Fault(500), lambda asked: asked.get("prompt") == PROMPTS[5]) for _ in range(2)]
    with engine(poison, retry_seconds=2, slow=0.02) as (opened, urls):
        began = time.monotonic()
        with pytest.raises(
            EngineError, match=r"injected; no address answers this request within engine.retry_seconds 2"
        ) as raised:
            texts(opened)
        assert time.monotonic() - began < 20
    assert str(raised.value).startswith(tuple(urls))


REFUSED = {
    "another model": (Fault(body=json.dumps({"data": [{"id": "smaller"}]}).encode()), "serves smaller, not 'simulated'; correct engine.s"),
    "the key": (Fault(401), r"API key rejected \(401\); set OPENAI_API_KEY"),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "said"), REFUSED.values(), ids=REFUSED)
def test_a_server_that_refuses_at_the_start_is_named(fault: Fault, said: str) -> None:
    faults = [Noted(), Noted(fault, lambda asked: not asked)]
    with serve(fault=faults[0]) as right, serve(fault=faults[1]) as wrong:
        config = EngineConfig(kind="openai", base_url=(right, wrong), served_model="simulated")
        with pytest.raises(EngineRefused, match=f"^{wrong}: {said}"), open_engine(config, ServedModel(served=True)):
            pass
    assert faults[0].requests == Counter()


def test_a_server_that_comes_back_with_another_model_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Noted(Fault(body=json.dumps({"data": [{"id": "smaller"}]}).encode()), lambda asked: not asked)
    monkeypatch.setattr("pipeline.generation.servers.several_servers._LONGEST_PAUSE", 0.2)
    with killable_teacher(0.0, tmp_path / "first") as first, killable_teacher(0.0, tmp_path / "second") as second:
        port = int(first.url.split(":")[2].split("/")[0])
        config = EngineConfig(kind="openai", base_url=(first.url, second.url), served_model="simulated", connections=2)
        with open_engine(config, ServedModel(served=True, chat=False)) as opened:
            first.kill()
            assert texts(opened) == TEXTS
            with serve(fault=other, port=port):
                time.sleep(2)
                assert texts(opened) == TEXTS
    assert other.requests == Counter()
    assert "answers again" not in capsys.readouterr().out


def test_a_permanent_error_of_one_server_ends_all() -> None:
    faults = [Noted(), Noted(Fault(404))]
    with (
        engine(faults, slow=0.05) as (opened, urls),
        pytest.raises(EngineRefused, match=f"^{urls[1]}: .*correct engine.served_model"),
    ):
        texts(opened)


def test_threads_share_the_servers() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with engine([Noted(), Noted()], slow=0.01) as (opened, _), ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda _: texts(opened), range(3))) == [TEXTS] * 3

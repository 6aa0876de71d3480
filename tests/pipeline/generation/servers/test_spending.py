from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config.engines import EngineConfig, Prices
from pipeline.config.models import ServedModel
from pipeline.errors import EngineError
from pipeline.generation.engine import Completion, Decoding
from pipeline.generation.open_engine import open_engine
from pipeline.generation.servers.spending import (
    NOTHING,
    DamagedLedger,
    Ledger,
    Spending,
    SpendingLimit,
    Usage,
    in_money,
    ledger_file,
    raise_to,
    read_ledger,
    sum_of,
)
from tests.support.fake_teacher import Asked, Fault, reply, serve

PRICES = Prices(currency="USD", input=2.0, cached_input=0.5, output=10.0)
usages = st.builds(Usage, st.just(1), st.integers(1000, 2000), st.integers(0, 1000), st.integers(0, 5000))


def config(url: str = "http://127.0.0.1:1/v1", **changes: Any) -> EngineConfig:
    return EngineConfig(kind="openai", base_url=url, served_model="simulated", **{"prices": PRICES, **changes})


@given(st.lists(usages, max_size=20))
def test_costs_add_up(found: list[Usage]) -> None:
    total = sum_of(found)
    assert total.requests == len(found)
    assert total.cost(PRICES) == pytest.approx(sum(one.cost(PRICES) for one in found))
    assert Usage(1, 10**6, 250_000, 10**6).cost(PRICES) == pytest.approx(0.75 * 2 + 0.25 * 0.5 + 10)


@given(st.lists(usages, min_size=1, max_size=10))
def test_the_ledger_outlives_the_process(tmp_path: Path, found: list[Usage]) -> None:
    arrived = tmp_path / "arrived.jsonl"
    ledger_file(arrived).unlink(missing_ok=True)
    for one in found:
        Spending(config(), arrived).end(NOTHING, stated=one)
    total = read_ledger(ledger_file(arrived)).stated
    assert total == sum_of(found)
    raise_to(ledger_file(arrived), Usage(1, 1, 0, 0))
    assert read_ledger(ledger_file(arrived)).stated == total
    more = sum_of((total, Usage(2, 5, 0, 7)))
    raise_to(ledger_file(arrived), more)
    assert read_ledger(ledger_file(arrived)).stated == more


ZEROS = b"0 0 0 0\n" * 2


@pytest.mark.parametrize(
    "content", [b"", b"1 2 3", b"a b c d", b"\0" * 228, b"0 0 0 0\n", ZEROS + b"1 5 6 0\n", ZEROS + b"0 -1 0 0\n"]
)
def test_a_damaged_ledger_is_refused_where_there_is_a_limit(tmp_path: Path, content: bytes) -> None:
    arrived = tmp_path / "x.jsonl"
    ledger_file(arrived).write_bytes(content)
    with pytest.raises(DamagedLedger, match="what was paid so far cannot be read; remove the file to count anew"):
        Spending(config(spending_limit=1), arrived)
    Spending(config(), arrived).end(NOTHING, stated=Usage(1, 2, 0, 3))
    assert read_ledger(ledger_file(arrived)).stated == Usage(1, 2, 0, 3)


def test_what_was_in_flight_at_a_kill_counts_against_the_limit(tmp_path: Path) -> None:
    arrived = tmp_path / "x.jsonl"
    most = Spending(config(spending_limit=1), arrived).bound(1000, 5000)
    Spending(config(spending_limit=1), arrived).reserve(most)  # and the process ends here
    again = Spending(config(spending_limit=1), arrived)
    assert read_ledger(ledger_file(arrived)).in_flight == most
    with pytest.raises(SpendingLimit):
        again.reserve(again.bound(1000, 100_000 - 5000))
    again.reserve(again.bound(1000, 90_000))


@settings(max_examples=20)
@given(st.lists(usages, min_size=4, max_size=30), st.floats(0.001, 0.6), st.integers(1, 8))
def test_the_limit_is_never_passed_whatever_is_in_flight(found: list[Usage], limit: float, threads: int) -> None:
    spending, stopped, refused = Spending(config(spending_limit=limit), None), Event(), list[str]()
    waiting = iter(found)
    lock = threading.Lock()

    def work() -> None:
        while not stopped.is_set():
            with lock:
                usage = next(waiting, None)
            if usage is None:
                return
            try:
                with spending.request(usage.input, usage.output, stopped) as counted:
                    counted(usage)
            except EngineError as error:
                refused.append(str(error))
                stopped.set()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(20)
    assert not any(worker.is_alive() for worker in workers)
    assert spending.stated.cost(PRICES) <= limit
    assert bool(refused) or spending.stated.requests == len(found)


def test_a_stage_ends_before_the_limit_and_goes_on_when_it_is_raised(tmp_path: Path) -> None:
    """Nothing is asked twice, and the lost replies of a failing server are paid for, too."""
    asked, prompts = Counter[str](), [f"prompt {number}" for number in range(40)]
    broken = Fault(body=json.dumps(reply("x", choices=[])).encode())

    def fault(request: Asked) -> Fault | None:
        if request:
            asked[request["prompt"]] += 1
        return broken if request.get("prompt") == prompts[0] and asked[prompts[0]] == 1 else None

    def generate(limit: float) -> list[Completion]:
        with serve(lambda prompt, seed: f"{prompt} {seed}", fault) as url:
            settings = config(url, spending_limit=limit, connections=4)
            with open_engine(settings, ServedModel(served=True, chat=False), tmp_path / "arrived.jsonl") as engine:
                return engine.generate(prompts, list(range(40)), Decoding(0.7, 1.0, 16))

    said = r"0\.00\d\d USD spent, and what comes next can cost 0\.00\d\d USD, more than is left of engine\.spending_limit 0\.0015 USD"
    with pytest.raises(EngineError, match=said):
        generate(0.0015)
    ledger = read_ledger(ledger_file(tmp_path / "arrived.jsonl")).stated
    assert 0 < ledger.cost(PRICES) <= 0.0015
    assert ledger.requests == asked.total() < 40
    assert [answer.text for answer in generate(1.0)] == [f"{prompt} {n}" for n, prompt in enumerate(prompts)]
    assert asked == Counter(prompts) + Counter(prompts[:1])
    assert read_ledger(ledger_file(tmp_path / "arrived.jsonl")).stated.requests == 41


def test_cached_tokens_are_counted(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103}
    replies = [
        {**usage, "prompt_tokens_details": {"cached_tokens": 64}}, {**usage, "prompt_cache_hit_tokens": 32}, usage,
        {**usage, "prompt_tokens_details": None}, {**usage, "prompt_tokens_details": {"cached_tokens": "many"}},
        {**usage, "total_tokens": 122},  # thoughts that stand in the total alone
    ]  # fmt: skip
    bodies = iter([Fault(body=json.dumps(reply("x", usage=one)).encode()) for one in replies])
    model = ServedModel(served=True, chat=False)
    with (
        serve(fault=lambda asked: next(bodies) if asked else None) as url,
        open_engine(config(url, connections=1), model, tmp_path / "a.jsonl") as engine,
    ):
        engine.generate(["p"] * 6, list(range(6)), Decoding(0.7, 1.0, 16))
    assert read_ledger(ledger_file(tmp_path / "a.jsonl")).stated == Usage(6, 600, 96, 37)


LATE = Fault(body=json.dumps(reply("x")).encode(), seconds=1.0)
CUT = Fault(body=json.dumps(reply("x")).encode(), cut=40)
SILENT = Fault(body=json.dumps(reply("x", usage=None)).encode())


@pytest.mark.parametrize("fault", [LATE, CUT, SILENT], ids=["late", "cut", "without numbers"])
def test_a_reply_that_does_not_say_what_it_cost_counts_as_the_most_that_it_can(tmp_path: Path, fault: Fault) -> None:
    asked = Counter[str]()

    def always(request: Asked) -> Fault | None:
        if request:
            asked[request["prompt"]] += 1
        return fault if request else None

    settings = {"spending_limit": 0.004, "request_seconds": 0.3, "retry_seconds": 20.0, "connections": 4}
    model = ServedModel(served=True, chat=False)
    with (
        serve(fault=always) as url,
        pytest.raises(EngineError),
        open_engine(config(url, **settings), model, tmp_path / "a.jsonl") as engine,
    ):
        engine.generate([f"p{n}" for n in range(20)], list(range(20)), Decoding(0.7, 1.0, 16))
    ledger = read_ledger(ledger_file(tmp_path / "a.jsonl"))
    assert (ledger.stated, ledger.in_flight) == (NOTHING, NOTHING)
    assert ledger.lost.requests == asked.total() > 0
    assert ledger.lost.cost(PRICES) <= 0.004


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_refused_request_costs_nothing(tmp_path: Path, status: int) -> None:
    model, settings = ServedModel(served=True, chat=False), {"retry_seconds": 0.0, "connections": 2}
    with (
        serve(fault=lambda asked: Fault(status) if asked else None) as url,
        pytest.raises(EngineError),
        open_engine(config(url, **settings), model, tmp_path / "a.jsonl") as engine,
    ):
        engine.generate(["p"] * 4, list(range(4)), Decoding(0.7, 1.0, 16))
    assert read_ledger(ledger_file(tmp_path / "a.jsonl")) == Ledger()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prices": {"input": 1, "output": 4}}, "prices.currency"),
        ({"prices": {"currency": "dollars", "input": 1, "output": 4}}, "prices.currency"),
        ({"prices": {"currency": "USD", "input": -1, "output": 4}}, "prices.input"),
        ({"prices": {"currency": "USD", "input": 1}}, "prices.output"),
        ({"prices": None, "spending_limit": 5}, "without prices nothing can be counted"),
        ({"spending_limit": 0}, "spending_limit"),
        ({"spending_limit": 5, "parameters": {"max_tokens": None}}, "without max_tokens can cost any amount"),
    ],
)
def test_prices_and_limits_that_mean_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as error:
        config(**changes)
    first = error.value.errors()[0]
    assert said in f"{'.'.join(map(str, first['loc']))} {first['msg']}"


@pytest.mark.parametrize(("amount", "said"), [(0.0, "0.0000 USD"), (0.01234, "0.0123 USD"), (1234.5, "1,234.50 USD")])
def test_amounts_are_readable(amount: float, said: str) -> None:
    assert in_money(amount, "USD") == said

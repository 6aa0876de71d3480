"""The batch engine with a strict provider: the texts of the ordinary engine, each paid for once, whatever happens to a batch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.models import ServedModel
from pipeline.errors import EngineError, EngineRefused, PromptTooLong
from pipeline.generation.engine import TOO_LONG, Completion, Decoding, Engine
from pipeline.generation.open_engine import open_engine
from pipeline.generation.servers import batch_files
from pipeline.generation.servers.answer_journal import ANSWERS, AnswerJournal, batch_folders, key_of, rotate
from pipeline.generation.servers.bounded_requests import LARGEST_REPLY_BYTES
from pipeline.generation.servers.spending import Ledger, SpendingLimit, Usage, ledger_file, read_ledger
from tests.support.batch_client import config_of
from tests.support.fake_batches import Document, Provider, failure, provide

PROMPTS = [f"prompt {number}" for number in range(12)]
SEEDS = list(range(len(PROMPTS)))
DECODING = Decoding(0.7, 0.9, 16, likelihood=True, stop=("###",))
TEXTS = [f"{prompt} {seed}" for prompt, seed in zip(PROMPTS, SEEDS, strict=True)]
ONCE = Counter(zip(PROMPTS, SEEDS, strict=True))


@contextmanager
def engine(
    url: str, arrived: Path | None, chat: bool = False, told: Callable[[Completion], None] = lambda said: None, **settings: Any
) -> Iterator[Engine]:
    with open_engine(config_of(url, **settings), ServedModel(served=True, chat=chat), arrived, told) as opened:
        yield opened


def ask(url: str, arrived: Path | None, decoding: Decoding = DECODING, **settings: Any) -> list[Completion]:
    with engine(url, arrived, **settings) as opened:
        return opened.generate(PROMPTS, SEEDS, decoding)


def texts(found: list[Completion]) -> list[str]:
    return [said.text for said in found]


def refusing(*answers: tuple[int, Document], prompt: str = PROMPTS[3]) -> Callable[[Document], tuple[int, Document] | None]:
    """The answers, one after the other, to requests with one prompt; then it is answered well."""
    left = list(answers)
    return lambda body: left.pop(0) if left and body["prompt"] == prompt else None


@pytest.mark.parametrize("chat", [True, False])
def test_texts_and_requests_are_those_of_the_ordinary_engine(tmp_path: Path, chat: bool) -> None:
    provider = Provider(write=lambda prompt, seed: f"{prompt} {seed}### and more")
    parameters = {"max_tokens": "max_completion_tokens", "top_p": None} if chat else None
    told: list[Completion] = []
    with provide(provider) as url:
        found = ask(url, tmp_path / "arrived.jsonl", chat=chat, parameters=parameters, told=told.append)
        batched, provider.bodies = provider.bodies, []
        assert found == ask(url, None, chat=chat, parameters=parameters, batches=False)
    assert texts(found) == TEXTS
    assert Counter(told) == Counter(found)
    assert sorted(batched, key=lambda body: body["seed"]) == sorted(provider.bodies, key=lambda body: body["seed"])


def test_submit_and_leave_and_come_back(tmp_path: Path) -> None:
    provider, arrived = Provider(), tmp_path / "arrived.jsonl"
    provider.hold.clear()
    with provide(provider) as url:
        for _ in range(2):
            with pytest.raises(
                EngineError, match=r"1 batches with 12 requests are under way, 0 of them done .*; run again to"
            ) as raised:
                ask(url, arrived, batch_hours=0)
            assert (raised.value.exit_code, isinstance(raised.value, EngineRefused)) == (1, False)
        assert provider.requests["POST /v1/batches"] == provider.requests["POST /v1/files"] == 1
        with pytest.raises(
            EngineRefused, match=rf"{url}: a batch with 12 requests .*: set engine.batches to true, .*pay again"
        ):
            ask(url, arrived, batches=False)
        with provide(Provider()) as other, pytest.raises(EngineRefused, match=f"set engine.base_url to {url} to fetch it"):
            ask(other, arrived)
        provider.hold.set()
        assert texts(ask(url, arrived)) == TEXTS
        told: list[Completion] = []
        assert texts(ask(url, arrived, told=told.append)) == TEXTS
        assert texts(ask(url, arrived, batches=False)) == TEXTS
    assert provider.paid == ONCE
    assert not told


def test_a_batch_is_found_without_any_file(tmp_path: Path) -> None:
    """As on another machine. What failed in it is old, and asked again."""
    provider = Provider(refuse=refusing(failure(429, "no credit", code="insufficient_quota")))
    with provide(provider) as url:
        with pytest.raises(EngineRefused, match="no credit; add credit to the account"):
            ask(url, tmp_path / "one.jsonl")
        assert texts(ask(url, tmp_path / "other.jsonl")) == TEXTS
        assert texts(ask(url, None)) == TEXTS
    assert provider.paid == ONCE


@pytest.mark.parametrize("ending", ["expired", "cancelled"])
def test_the_rest_of_a_batch_that_ended_early_is_submitted_again(tmp_path: Path, ending: Any) -> None:
    provider = Provider(ending=lambda number: ending if number == 0 else "completed", steps=())
    with provide(provider) as url:
        assert texts(ask(url, tmp_path / "arrived.jsonl")) == TEXTS
    assert provider.paid == ONCE
    assert provider.requests["POST /v1/batches"] == 2


@pytest.mark.parametrize("error", [failure(429, "busy"), failure(500, "broken"), (200, {"object": "nothing"})])
def test_passing_errors_are_submitted_again_three_times_at_most(tmp_path: Path, error: tuple[int, Document]) -> None:
    for failures in (2, 3):
        provider = Provider(refuse=refusing(*[error] * failures), steps=())
        with provide(provider) as url:
            if failures == 3:
                with pytest.raises(EngineError, match=r"1 requests have failed, one in 3 batches; .*: run again") as raised:
                    ask(url, tmp_path / "3.jsonl")
                assert not isinstance(raised.value, EngineRefused)
                assert provider.paid.total() == len(PROMPTS) - 1
            assert texts(ask(url, tmp_path / f"{failures}.jsonl")) == TEXTS
        assert provider.paid == ONCE


REFUSED = {
    "request": (failure(400, "bad words"), "bad words; correct prompts, turns or max_tokens"),
    "a parameter": (failure(400, "'top_p' is not supported"), r"engine\.parameters: \{top_p: null\} leaves top_p out"),
    "rights": (failure(403, "no"), "API key rejected"),
    "length": (failure(400, "too long", code="context_length_exceeded"), "lower max_tokens, or exclude long questions"),
    "model": ((200, {"model": "smaller"}), "the response names model 'smaller', not 'simulated'"),
}


@pytest.mark.parametrize(("error", "said"), REFUSED.values(), ids=REFUSED)
def test_a_permanent_error_ends_the_stage_and_keeps_the_rest(tmp_path: Path, error: tuple[int, Document], said: str) -> None:
    provider = Provider(refuse=refusing(error), steps=())
    with provide(provider) as url:
        with pytest.raises(EngineRefused, match=said) as raised:
            ask(url, tmp_path / "arrived.jsonl")
        assert "\n" not in str(raised.value)
        assert provider.paid.total() == len(PROMPTS) - 1
        assert texts(ask(url, tmp_path / "arrived.jsonl")) == TEXTS
    assert provider.paid == ONCE


def test_an_overlong_prompt_is_skipped_if_skip_long_is_set(tmp_path: Path) -> None:
    long = failure(400, "maximum context length is 512 tokens")
    provider = Provider(refuse=refusing(*[long] * 9), steps=())
    with provide(provider) as url:
        for _ in range(2):
            found = ask(url, tmp_path / "arrived.jsonl", Decoding(0.7, 1.0, 16, skip_long=True))
            assert (found[3], found[4].text) == (TOO_LONG, TEXTS[4])
        assert provider.requests["POST /v1/batches"] == 1
        with pytest.raises(PromptTooLong):
            ask(url, tmp_path / "other.jsonl")


def test_refused_parameters_are_left_out_or_renamed_in_a_further_batch(tmp_path: Path) -> None:
    def refuse(body: Document) -> tuple[int, Document] | None:
        if "logprobs" in body:
            return failure(400, "This model does not support logprobs.", "logprobs", "unsupported_parameter")
        if "max_tokens" in body:
            return failure(400, "'max_tokens' is not supported. Use 'max_completion_tokens' instead.", "max_tokens")
        return None

    provider = Provider(refuse=refuse, steps=())
    with provide(provider) as url:
        assert texts(ask(url, tmp_path / "arrived.jsonl", chat=True)) == TEXTS
    assert provider.paid == ONCE
    assert provider.requests["POST /v1/batches"] == 3


INVALID: Document = {"code": "invalid_request", "message": "What is this?", "param": "seed", "line": 7}


def test_a_batch_that_fails_validation_ends_the_stage_with_its_first_error(tmp_path: Path) -> None:
    provider, arrived = Provider(invalid=lambda number: INVALID if number == 0 else None), tmp_path / "arrived.jsonl"
    with provide(provider) as url:
        with pytest.raises(
            EngineRefused, match=r"batch_3 failed, line 7 of its input: What is this\? \(seed\); correct what it names in (.*);"
        ) as raised:
            ask(url, arrived)
        assert "engine.parameters: {seed: null}" in str(raised.value)
        (folder,) = batch_folders(arrived)
        assert len((folder / "requests.jsonl").read_text().splitlines()) == 12
        assert texts(ask(url, arrived)) == TEXTS
    assert provider.paid == ONCE


def test_a_full_queue_is_waited_for_while_another_batch_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_files, "MOST_REQUESTS", 6)
    full = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None, "param": None}
    provider = Provider(invalid=lambda number: full if number == 1 else None, steps=("in_progress",))
    with provide(provider) as url:
        assert texts(ask(url, tmp_path / "one.jsonl")) == TEXTS
    assert provider.paid == ONCE
    monkeypatch.undo()
    provider = Provider(invalid=lambda number: full if number == 0 else None)
    with provide(provider) as url:
        with pytest.raises(
            EngineError, match=r"Enqueued token limit reached; lower the shard's size .*, or run again"
        ) as raised:
            ask(url, tmp_path / "other.jsonl")
        assert not isinstance(raised.value, EngineRefused)
        assert texts(ask(url, tmp_path / "other.jsonl")) == TEXTS


def test_a_server_without_batches_is_one_clear_line(tmp_path: Path) -> None:
    provider = Provider(has_batches=False)
    with (
        provide(provider) as url,
        pytest.raises(EngineRefused, match=rf"^{url}: .*404.*; this server has no batches .*: set engine.batches to false$"),
    ):
        ask(url, tmp_path / "arrived.jsonl")
    assert not provider.requests["POST /v1/files"]


def test_a_batch_that_the_server_has_lost_is_not_paid_again_unasked(tmp_path: Path) -> None:
    provider, arrived = Provider(), tmp_path / "arrived.jsonl"
    with provide(provider) as url:
        with pytest.raises(EngineError):
            ask(url, arrived, batch_hours=0)
        provider.batches.clear()
        with pytest.raises(EngineRefused, match=r"No batch found .*, or remove .* to ask again and pay again"):
            ask(url, arrived)
    assert provider.paid == ONCE


def test_two_shards_at_once_have_a_batch_each_and_large_ones_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_files, "MOST_REQUESTS", 4)
    provider = Provider(most_requests=4)
    with provide(provider) as url, engine(url, tmp_path / "arrived.jsonl") as opened, ThreadPoolExecutor(2) as pool:
        shards = [pool.submit(opened.generate, PROMPTS[one], SEEDS[one], DECODING) for one in (slice(0, 6), slice(6, 12))]
        assert texts([said for shard in shards for said in shard.result()]) == TEXTS
    assert provider.paid == ONCE
    assert provider.requests["POST /v1/batches"] == 4


def test_a_batch_is_split_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_files, "MOST_BYTES", 25)
    assert list(batch_files.packed([b"x" * 11] * 5)) == [[b"x" * 11] * 2, [b"x" * 11] * 2, [b"x" * 11]]
    assert list(batch_files.packed([b"x" * 99] * 2)) == [[b"x" * 99]] * 2


def test_answers_stay_until_all_have_been_asked_for_and_committed(tmp_path: Path) -> None:
    provider, arrived = Provider(steps=()), tmp_path / "arrived.jsonl"
    with provide(provider) as url:
        with pytest.raises(EngineError):
            provider.hold.clear()
            provider.steps = ("in_progress",)
            ask(url, arrived, batch_hours=0)
        provider.hold.set()
        with engine(url, arrived) as opened:  # shards of another size now
            for one in range(12):
                assert batch_folders(arrived)
                assert texts(opened.generate(PROMPTS[one : one + 1], [one], DECODING)) == [TEXTS[one]]
                rotate(arrived)
        assert batch_folders(arrived)
        rotate(arrived)
    assert not batch_folders(arrived)
    assert provider.paid == ONCE


def test_results_are_larger_than_a_reply_but_a_line_is_not(tmp_path: Path) -> None:
    big = "x" * (LARGEST_REPLY_BYTES // 8)
    provider = Provider(write=lambda prompt, seed: big, steps=())
    with provide(provider) as url:
        assert texts(ask(url, tmp_path / "one.jsonl")) == [big] * 12
        assert sum(map(len, provider.files.values())) > LARGEST_REPLY_BYTES
        provider.write = lambda prompt, seed: "x" * (LARGEST_REPLY_BYTES + 1)
        with (
            pytest.raises(EngineError, match=r"malformed response \(a line is larger than 32 MiB\)"),
            engine(url, tmp_path / "two.jsonl") as opened,
        ):
            opened.generate(["another"], [1], DECODING)
    assert not json.loads((batch_folders(tmp_path / "two.jsonl")[0] / "record.json").read_text())["ended"]


PRICED = {"prices": {"currency": "USD", "input": 1.0, "output": 5.0}}


def test_what_a_batch_cost_is_counted_once(tmp_path: Path) -> None:
    """Also if its results are read twice, because the first reading was cut off."""
    provider, arrived = Provider(), tmp_path / "arrived.jsonl"
    provider.hold.clear()
    with provide(provider) as url:
        with pytest.raises(EngineError, match="run again to fetch"):
            ask(url, arrived, batch_hours=0, **PRICED)
        (folder,) = batch_folders(arrived)
        with engine(url, None, batches=False) as online:
            first = online.generate(PROMPTS[:1], SEEDS[:1], DECODING)[0]
        AnswerJournal(folder / ANSWERS).add(key_of(PROMPTS[0], SEEDS[0], DECODING), first)
        provider.hold.set()
        assert texts(ask(url, arrived, **PRICED)) == TEXTS
        assert texts(ask(url, arrived, **PRICED)) == TEXTS
    tokens = sum(len(text.split()) for text in TEXTS)
    assert read_ledger(ledger_file(arrived)) == Ledger(Usage(len(TEXTS), 10 * len(TEXTS), 0, tokens))


def test_a_batch_that_could_cost_more_than_is_left_is_not_submitted(tmp_path: Path) -> None:
    provider, arrived = Provider(), tmp_path / "arrived.jsonl"
    with provide(provider) as url:
        with pytest.raises(
            SpendingLimit, match=r"0\.0000 USD spent, and what comes next can cost 0\.00\d\d USD.*raise the limit"
        ):
            ask(url, arrived, spending_limit=0.001, **PRICED)
        assert not provider.paid
        assert provider.requests["POST /v1/files"] == 0
        assert texts(ask(url, arrived, spending_limit=0.1, **PRICED)) == TEXTS
    assert provider.paid == ONCE


def test_a_batch_waits_for_the_money_that_another_one_has_reserved(tmp_path: Path) -> None:
    """There is room for one at a time: each costs less than it could, so both are done."""
    provider, decoding = Provider(), Decoding(0.7, 0.9, 16)
    with (
        provide(provider) as url,
        engine(url, tmp_path / "arrived.jsonl", spending_limit=0.009, **PRICED) as opened,
        ThreadPoolExecutor(2) as pool,
    ):
        found = [pool.submit(opened.generate, PROMPTS, [first + seed for seed in SEEDS], decoding) for first in (0, len(SEEDS))]
        assert [len(one.result(timeout=60)) for one in found] == [len(PROMPTS)] * 2
    assert set(provider.paid.values()) == {1}


def test_a_batch_under_way_keeps_its_money_for_the_next_process(tmp_path: Path) -> None:
    provider, arrived = Provider(), tmp_path / "arrived.jsonl"
    provider.hold.clear()
    settings = {"spending_limit": 0.009, "batch_hours": 0, **PRICED}
    with provide(provider) as url:
        with pytest.raises(EngineError, match="run again to fetch"):
            ask(url, arrived, **settings)
        with engine(url, arrived, **settings) as opened, pytest.raises(SpendingLimit):
            opened.generate(PROMPTS, [seed + 100 for seed in SEEDS], DECODING)
        provider.hold.set()
        assert texts(ask(url, arrived, **{**settings, "batch_hours": None})) == TEXTS
        with engine(url, arrived, **{**settings, "batch_hours": None}) as opened:
            assert len(opened.generate(PROMPTS, [seed + 100 for seed in SEEDS], DECODING)) == len(PROMPTS)
    assert set(provider.paid.values()) == {1}


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_batch_whose_answers_were_all_read_before_a_kill_ends_and_is_counted(tmp_path: Path, forgotten: bool) -> None:
    provider, arrived = Provider(), tmp_path / "arrived.jsonl"
    with provide(provider) as url:
        with pytest.raises(EngineError, match="run again to fetch"):
            ask(url, arrived, batch_hours=0, **PRICED)
        (folder,) = batch_folders(arrived)
        with engine(url, None, batches=False) as online:
            answers = online.generate(PROMPTS, SEEDS, DECODING)
        for prompt, seed, answer in zip(PROMPTS, SEEDS, answers, strict=True):
            AnswerJournal(folder / ANSWERS).add(key_of(prompt, seed, DECODING), answer)
        for batch in provider.batches.values():
            batch["_steps"] = []  # it has ended
        if forgotten:
            provider.batches.clear()
        assert texts(ask(url, arrived, **PRICED)) == TEXTS
        ledger = read_ledger(ledger_file(arrived))
        assert (ledger.stated.requests, ledger.lost.requests) == ((0, 12) if forgotten else (12, 0))
        assert ledger.in_flight == Usage()
        assert texts(ask(url, arrived, batches=False, **PRICED)) == TEXTS

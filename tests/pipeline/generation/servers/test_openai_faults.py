"""OpenAI engine with a faulty server: transient errors are retried, permanent ones fail at once, no request is paid twice."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.engines import EngineConfig
from pipeline.config.models import ServedModel
from pipeline.errors import EngineError, EngineRefused, PromptTooLong
from pipeline.generation.engine import TOO_LONG, Completion, Decoding, Engine
from pipeline.generation.open_engine import open_engine
from pipeline.generation.servers.bounded_requests import LARGEST_REPLY_BYTES
from pipeline.generation.servers.retry import retry_after_seconds
from tests.support.fake_teacher import Asked, Fault, reply, serve

DECODING = Decoding(0.7, 1.0, 16)
PROMPTS = [f"prompt {number}" for number in range(12)]
SECRET = "sk-not-to-be-seen"


class Faulty:
    """Replaces the first `times` answers to one prompt with `fault`, and counts requests by prompt."""

    def __init__(self, fault: Fault, times: float, prompt: str = PROMPTS[3]) -> None:
        self.left, self.fault, self.prompt = times, fault, prompt
        self.requests: Counter[str] = Counter()

    def __call__(self, asked: Asked) -> Fault | None:
        if not asked:
            return None
        self.requests[asked["prompt"]] += 1
        if asked["prompt"] != self.prompt or self.left <= 0:
            return None
        self.left -= 1
        return self.fault


@contextmanager
def engine(fault: Callable[[Asked], Fault | None], arrived: Path | None = None, **settings: Any) -> Iterator[Engine]:
    with serve(lambda prompt, seed: f"{prompt} {seed}", fault) as url:
        config = EngineConfig(kind="openai", base_url=url, served_model="simulated", connections=4, **settings)
        with open_engine(config, ServedModel(served=True, chat=False), arrived) as opened:
            yield opened


def ask(opened: Engine) -> list[Completion]:
    return opened.generate(PROMPTS, list(range(len(PROMPTS))), DECODING)


def document(**changes: Any) -> bytes:
    return json.dumps(reply("text", **changes)).encode()


def ending(reason: str | None) -> bytes:
    return document(choices=[{**reply("text")["choices"][0], "finish_reason": reason}])


PASSING = {
    "busy": Fault(429),
    "broken": Fault(500),
    "away": Fault(503, body=b"<html>gateway</html>", headers={"Content-Type": "text/html"}),
    "slow": Fault(seconds=1.0, body=document()),
    "slow, byte by byte": Fault(drip=0.1, body=document()),
    "slow headers": Fault(drip=0.1, drip_headers=True, body=document()),
    "a slow error": Fault(404, drip=0.1),
    "slow and endless": Fault(drip=0.01, body=b" ", endless=True),
    "endless": Fault(body=b" " * 2**20, endless=True),
    "an endless error": Fault(404, body=b" " * 2**20, endless=True),
    "endless, compressed": Fault(body=gzip.compress(b" " * 2**30), headers={"Content-Encoding": "gzip"}),
    "not the compression that it names": Fault(body=document(), headers={"Content-Encoding": "gzip"}),
    "a compression of its own": Fault(body=document(), headers={"Content-Encoding": "br"}),
    "cut in the body": Fault(body=document(), cut=40),
    "cut before the body": Fault(body=document(), cut=0),
    "no choices": Fault(body=document(choices=[])),
    "choices missing": Fault(body=document(choices=None)),
    "no usage": Fault(body=document(usage=None)),
    "not JSON": Fault(body=b"{half of"),
    "a page": Fault(body=b"<html>welcome</html>", headers={"Content-Type": "text/html"}),
    "JSON, but no answer": Fault(body=b"[1, 2]"),
    "busy inside a reply": Fault(body=b'{"error": {"message": "overloaded", "code": 502}}'),
    "an error without a status": Fault(body=b'{"error": {"message": "overloaded"}}'),
    "no number of tokens": Fault(body=document(usage={"prompt_tokens": 5, "completion_tokens": None})),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_transient_fault_retries_that_request_only(fault: Fault) -> None:
    faulty = Faulty(fault, times=1)
    with engine(faulty, request_seconds=0.5) as opened:
        answers = ask(opened)
    assert [answer.text for answer in answers] == [f"{prompt} {seed}" for seed, prompt in enumerate(PROMPTS)]
    assert faulty.requests == Counter(PROMPTS) + Counter([PROMPTS[3]])


@pytest.mark.parametrize("drip_headers", [False, True], ids=["body", "headers"])
def test_request_seconds_holds_for_a_whole_answer(drip_headers: bool) -> None:
    faulty = Faulty(Fault(drip=0.1, drip_headers=drip_headers, body=document()), times=float("inf"))
    began = time.monotonic()
    with (
        pytest.raises(EngineError, match=r"no complete answer within engine.request_seconds 0.5; \d+ attempts"),
        engine(faulty, request_seconds=0.5, retry_seconds=2) as opened,
    ):
        ask(opened)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("status", [200, 404])
def test_an_endless_answer_is_left_and_takes_little_memory(status: int) -> None:
    faulty = Faulty(Fault(status, body=b" " * 2**20, endless=True), times=float("inf"))
    tracemalloc.start()
    with pytest.raises(EngineError, match=r"malformed response \(larger than 32 MiB\)"), engine(faulty) as opened:
        opened.generate([faulty.prompt], [0], DECODING)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4 * LARGEST_REPLY_BYTES
    assert faulty.requests[faulty.prompt] == 3


def test_a_compressed_answer_is_read() -> None:
    for coding, body in (("gzip", gzip.compress(document())), ("deflate", zlib.compress(document())), ("identity", document())):
        faulty = Faulty(Fault(body=body, headers={"Content-Encoding": coding}), times=1)
        with engine(faulty) as opened:
            assert [answer.text for answer in opened.generate([faulty.prompt], [0], DECODING)] == ["text"]


def test_retry_after_is_respected() -> None:
    began = time.monotonic()
    with engine(Faulty(Fault(429, {"Retry-After": "2"}), times=1)) as opened:
        ask(opened)
    assert time.monotonic() - began >= 2


def test_retry_after_is_read_as_seconds_or_date_and_else_is_zero() -> None:
    assert retry_after_seconds("1.5") == 1.5
    assert retry_after_seconds(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)) == pytest.approx(
        60, abs=2
    )
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert [retry_after_seconds(value) for value in (None, "", "-3", "nan", "soon", past)] == [0.0] * 6


@pytest.mark.parametrize(
    ("fault", "least"), [(Fault(500), 2), (Fault(429, {"Retry-After": "3600"}), 1)], ids=["broken", "far off"]
)
def test_a_lasting_fault_fails_within_the_retry_budget(fault: Fault, least: int) -> None:
    faulty = Faulty(fault, times=float("inf"))
    with engine(faulty, retry_seconds=2.0) as opened:
        began = time.monotonic()
        with pytest.raises(EngineError, match=r"injected.*\d+ attempts within engine.retry_seconds 2; .*run again") as raised:
            ask(opened)
        assert time.monotonic() - began < 20
    assert not isinstance(raised.value, EngineRefused)
    assert f"{faulty.requests[PROMPTS[3]]} attempts" in str(raised.value)
    assert faulty.requests[PROMPTS[3]] >= least


def test_a_malformed_response_is_requested_at_most_three_times() -> None:
    faulty = Faulty(PASSING["no choices"], times=float("inf"))
    with engine(faulty) as opened, pytest.raises(EngineError, match="malformed response"):
        ask(opened)
    assert faulty.requests[PROMPTS[3]] == 3


REFUSED = {
    "key": (Fault(401, body=json.dumps({"error": {"message": f"bad key {SECRET}"}}).encode()), "API key rejected .*set OPENAI_API_KEY"),
    "rights": (Fault(403), "API key rejected"),
    "model": (Fault(404), "correct engine.served_model, 'simulated', or engine.base_url"),
    "request": (Fault(400, body=json.dumps({"error": {"message": f"{SECRET}: long"}}).encode()), "correct prompts, turns or max_tokens"),
    "credit": (Fault(429, body=b'{"error": {"message": "no credit", "code": "insufficient_quota"}}'), "no credit.*; add credit to"),
    "key, inside a reply": (Fault(body=b'{"error": {"message": "bad key", "code": 401}}'), "API key rejected .*set OPENAI_API_KEY"),
    "credit, inside a reply": (Fault(body=b'{"error": {"message": "nothing left", "code": "insufficient_quota"}}'), "left; add credit"),
    "an unknown end": (Fault(body=ending("paused")), "unknown finish reason 'paused'; .*engine.finish_reasons"),
    "seed": (Fault(422, body=b'{"detail": [{"loc": ["body", "seed"]}]}'), "'seed'.*; correct prompts"),
    "another model": (Fault(body=document(model="smaller-one")), "the response names model 'smaller-one', not 'simulated'; .*answers_as"),
}  # fmt: skip


@pytest.mark.parametrize(("fault", "said"), REFUSED.values(), ids=REFUSED)
def test_a_permanent_error_fails_at_once_and_hides_the_api_key(
    fault: Fault, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    faulty = Faulty(fault, times=float("inf"))
    with engine(faulty) as opened, pytest.raises(EngineRefused, match=said) as raised:
        ask(opened)
    assert raised.value.exit_code == 2
    assert SECRET not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert faulty.requests[PROMPTS[3]] == 1


TOO_LONG_AS_SAID_BY = {
    "vLLM": "This model's maximum context length is 512 tokens. However, your prompt contains 600 input tokens.",
    "vLLM's engine": "The decoder prompt (length 600) is longer than the maximum model length of 512.",
    "OpenAI": {"message": "Input tokens exceed the configured limit.", "code": "context_length_exceeded"},
    "SGLang": "Requested token count exceeds the model's maximum context length of 512 tokens.",
    "llama.cpp": "the request exceeds the available context size, try increasing it",
    "TGI": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 512. Given: 600",
}


@pytest.mark.parametrize("said", TOO_LONG_AS_SAID_BY.values(), ids=TOO_LONG_AS_SAID_BY)
def test_an_overlong_prompt_is_skipped_if_skip_long_is_set(said: str | dict[str, str]) -> None:
    error = {"message": said} if isinstance(said, str) else said
    faulty = Faulty(Fault(400, body=json.dumps({"error": error}).encode()), times=float("inf"))
    with engine(faulty) as opened:
        found = opened.generate(PROMPTS, list(range(len(PROMPTS))), replace(DECODING, skip_long=True))
        assert [answer.finish_reason for answer in found] == ["stop"] * 3 + ["too_long"] + ["stop"] * 8
        assert found[3] == TOO_LONG
        with pytest.raises(PromptTooLong, match="max_characters"):
            ask(opened)


def test_skip_long_does_not_skip_other_refusals() -> None:
    with engine(Faulty(Fault(400), times=1)) as opened, pytest.raises(EngineRefused, match="correct prompts"):
        opened.generate(PROMPTS, list(range(len(PROMPTS))), replace(DECODING, skip_long=True))


def test_a_server_that_is_still_starting_is_waited_for() -> None:
    left = [Fault(503), Fault(503)]
    with engine(lambda asked: left.pop() if left and not asked else None) as opened:
        assert len(ask(opened)) == len(PROMPTS)


def test_answers_as_accepts_another_model_name() -> None:
    dated = Faulty(Fault(body=document(model="simulated-2026-01-01")), times=1, prompt="one")
    with engine(dated, answers_as="simulated-2026-01-01") as opened:
        assert [answer.text for answer in opened.generate(["one"], [0], DECODING)] == ["text"]


def test_saved_completions_are_not_requested_again_after_a_failure(tmp_path: Path) -> None:
    arrived = tmp_path / "folder" / "arrived.jsonl"
    faulty = Faulty(Fault(404), times=1, prompt=PROMPTS[-1])
    with engine(faulty, arrived) as opened, pytest.raises(EngineRefused):
        ask(opened)
    there = arrived.read_bytes().count(b"\n")
    assert there == len(PROMPTS) - 1, "the others were done or under way"
    arrived.write_bytes(arrived.read_bytes()[:-5])  # a kill may leave a truncated last line
    again = Faulty(Fault(), times=0)
    with engine(again, arrived) as opened:
        answers = ask(opened)
        assert [answer.text for answer in answers] == [f"{prompt} {seed}" for seed, prompt in enumerate(PROMPTS)]
        assert sum(again.requests.values()) == 2, "the one that failed, and the one that was torn"
        assert ask(opened) == answers
        assert sum(again.requests.values()) == 2
        opened.generate(PROMPTS[:1], [99], DECODING)
    assert again.requests[PROMPTS[0]] == 1, "another seed is another request"


UNUSABLE = [
    *(PASSING[name] for name in ("no choices", "no number of tokens", "an error without a status")),
    *(fault for fault, _ in REFUSED.values()),
]


@pytest.mark.parametrize("fault", UNUSABLE)
def test_a_reply_that_cannot_be_used_is_not_kept(tmp_path: Path, fault: Fault) -> None:
    arrived = tmp_path / "arrived.jsonl"
    with engine(Faulty(fault, times=float("inf")), arrived) as opened, pytest.raises(EngineError):
        ask(opened)
    with engine(Faulty(Fault(), times=0), arrived) as opened:
        assert [answer.text for answer in ask(opened)] == [f"{prompt} {seed}" for seed, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("reason", ["eos", "end_turn", None])
def test_a_text_that_ended_by_itself_is_finished_however_the_server_says_it(reason: str | None) -> None:
    with engine(Faulty(Fault(body=ending(reason)), times=1)) as opened:
        assert {answer.finish_reason for answer in ask(opened)} == {"stop"}


def test_a_configured_finish_reason_means_the_end() -> None:
    with engine(Faulty(Fault(body=ending("paused")), times=1), finish_reasons=["paused"]) as opened:
        assert {answer.finish_reason for answer in ask(opened)} == {"stop"}


@pytest.mark.parametrize("fault", [Fault(404), Fault(405), Fault(body=b'{"models": []}'), Fault(body=b"<html>welcome</html>")])
def test_a_server_that_lists_no_models_is_asked_all_the_same(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    with engine(lambda asked: None if asked else fault) as opened:
        assert len(ask(opened)) == len(PROMPTS)
    assert "lists no models; the first answer shows whether it has simulated" in capsys.readouterr().out


def test_a_server_without_log_probabilities_is_asked_without() -> None:
    requests: list[Asked] = []

    def refuse(asked: Asked) -> Fault | None:
        requests.append(asked)
        if "logprobs" not in asked:
            return None
        return Fault(
            400, body=b'{"error": {"message": "This model does not support logprobs.", "code": "unsupported_parameter"}}'
        )

    with engine(refuse) as opened:
        for _ in range(2):
            answers = opened.generate(PROMPTS, list(range(len(PROMPTS))), replace(DECODING, likelihood=True))
            assert [answer.text for answer in answers] == [f"{prompt} {seed}" for seed, prompt in enumerate(PROMPTS)]
    refused = sum("logprobs" in asked for asked in requests)
    assert refused <= 4, "only requests that were under way at the first refusal"


def test_a_chat_server_with_another_name_for_max_tokens_is_asked_by_that_name() -> None:
    message = {"role": "assistant", "content": [{"type": "text", "text": "7"}]}
    said = document(choices=[{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}])
    limits: list[int] = []

    def answer(asked: Asked) -> Fault | None:
        if not asked:
            return None
        if "max_tokens" in asked:
            return Fault(
                400, body=b'{"error": {"message": "\'max_tokens\' is not supported. Use \'max_completion_tokens\' instead."}}'
            )
        limits.append(asked["max_completion_tokens"])
        return Fault(body=said)

    with serve(fault=answer) as url:
        config = EngineConfig(kind="openai", base_url=url, served_model="simulated")
        with open_engine(config, ServedModel(served=True)) as opened:
            assert [completion.text for completion in ask(opened)] == ["7"] * len(PROMPTS)
    assert limits == [DECODING.max_tokens] * len(PROMPTS)

"""Replies of servers: what servers spell differently has one meaning, and anything else is refused before it is kept."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import EngineRefused
from pipeline.generation.engine import Completion
from pipeline.generation.servers.reply import ErrorInReply, MalformedReply, completion_of
from pipeline.grading.grade import Outcome, grade

SAID = "Add them. The answer is 7."


def reply(chat: bool = True, **changes: Any) -> dict[str, Any]:
    """A reply; `content`, `finish_reason` and `logprobs` are those of its choice, other changes those of the document."""
    content = changes.pop("content", SAID)
    choice = {"finish_reason": changes.pop("finish_reason", "stop"), "logprobs": changes.pop("logprobs", None)}
    choice |= {"message": {"role": "assistant", "content": content}} if chat else {"text": content}
    usage = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}
    return {"model": "big", "choices": [choice], "usage": usage, **changes}


def read(document: Any, chat: bool = True, max_tokens: int = 64, **more: Any) -> Completion:
    return completion_of(document, chat=chat, max_tokens=max_tokens, **more)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        *((word, "stop") for word in ("stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "completed", None, "")),
        *((word, "length") for word in ("length", "max_tokens", "MAX_TOKENS", "model_length", "content_filter", "SAFETY")),
    ],
)
def test_only_a_text_that_was_cut_is_unfinished(chat: bool, stated: str | None, expected: str) -> None:
    found = read(reply(chat, finish_reason=stated), chat)
    assert (found.text, found.finish_reason) == (SAID, expected)


def test_a_missing_finish_reason_is_decided_by_the_number_of_tokens() -> None:
    document = reply()
    del document["choices"][0]["finish_reason"]
    assert [read(document, max_tokens=limit).finish_reason for limit in (9, 10)] == ["length", "stop"]


def test_an_unknown_finish_reason_is_refused_by_name_unless_configured() -> None:
    document = reply(finish_reason="tool_calls")
    with pytest.raises(EngineRefused, match=r"^there: unknown finish reason 'tool_calls'; .*engine\.finish_reasons") as raised:
        read(document, server="there")
    assert raised.value.exit_code == 2
    assert read(document, also_finished=("tool_calls",)).finish_reason == "stop"


@pytest.mark.parametrize(
    "content",
    [
        [
            {"type": "redacted_thinking", "data": "Hm."},
            {"type": "output_text", "text": SAID[:5]},
            {"type": "text", "text": SAID[5:]},
        ],
        [SAID[:3], SAID[3:]],
    ],
)
def test_the_parts_of_a_text_are_joined(content: Any) -> None:
    assert read(reply(content=content)).text == SAID


def message(**fields: Any) -> dict[str, Any]:
    document = reply()
    document["choices"][0]["message"] = fields
    return document


APART = [
    {"reasoning_content": " Hm.\n", "content": SAID},
    {"reasoning": "Hm.", "content": SAID},
    {"reasoning": "Hm.", "reasoning_content": "Hm.", "content": f"\n\n{SAID}"},
    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": SAID}]},
    {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": SAID}]},
    {"content": [{"type": "reasoning", "text": "Hm."}, {"type": "text", "text": SAID}]},
]


@pytest.mark.parametrize("fields", APART)
def test_thoughts_that_are_sent_apart_are_put_before_the_text(fields: dict[str, Any]) -> None:
    assert read(message(**fields)).text == f"<think>\nHm.\n</think>\n\n{SAID}"


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("fields", [{"content": None}, {"content": ""}, {}])
def test_a_thought_without_a_text_behind_it_is_kept_and_is_no_answer(fields: dict[str, Any], finish: str) -> None:
    document = message(**fields, reasoning_content="It is \\boxed{7}.")
    document["choices"][0]["finish_reason"] = finish
    found = read(document)
    assert found.text == "<think>\nIt is \\boxed{7}."
    graded = grade(found.text, found.finish_reason == "stop", "7", "number")
    assert graded.outcome is (Outcome.UNPARSED if finish == "stop" else Outcome.TRUNCATED)


def test_a_text_that_already_has_its_thought_gets_no_second_one() -> None:
    said = f"<think>Hm.</think>{SAID}"
    assert read(message(reasoning_content="Hm.", content=said)).text == said


@pytest.mark.parametrize("thought", [None, "", "  ", 7, {"a": 1}])
def test_a_thought_that_is_no_text_is_none(thought: Any) -> None:
    assert read(message(reasoning_content=thought, content=SAID)).text == SAID


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("content", [None, "", []])
def test_an_empty_text_is_a_completion(chat: bool, content: Any) -> None:
    assert read(reply(chat, content=content), chat).text == ""


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 5, "completion_tokens": None, "total_tokens": 14},
        {"prompt_tokens": None, "completion_tokens": 9, "total_tokens": 14},
        {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": None},
    ],
)
def test_a_missing_number_of_tokens_follows_from_the_total(usage: dict[str, Any]) -> None:
    found = read(reply(usage=usage))
    assert (found.prompt_tokens, found.completion_tokens) == (5, 9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"usage": None}, "usage.prompt_tokens is None"),
        ({"usage": {"prompt_tokens": 5}}, "usage.completion_tokens is None"),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": "9"}}, "usage.completion_tokens is '9'"),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": True}}, "usage.completion_tokens is True"),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": -1}}, "usage.completion_tokens is -1"),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 10**300}}, "usage.completion_tokens is 1000"),
        ({"content": {"text": SAID}}, "its content is a dict"),
        ({"content": [{"type": "image_url"}]}, "a part of type 'image_url'"),
        ({"content": [7]}, "a part of type 'int'"),
        ({"content": "\ud83d"}, "not valid Unicode"),
        ({"finish_reason": "error"}, "finish reason 'error'"),
        ({"choices": []}, "no choices"),
        ({"choices": None}, "no choices"),
        ({"choices": [None]}, "no choices"),
        ({"choices": [{"finish_reason": "stop"}]}, "no message.content"),
    ],
)
def test_a_reply_without_a_usable_completion_is_malformed(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(MalformedReply, match=f"^malformed response .*{said}"):
        read(reply(**changes))


@pytest.mark.parametrize(
    ("document", "status", "said"),
    [
        ({"error": {"message": "overloaded", "code": 502}}, 502, "overloaded"),
        ({"error": {"message": "overloaded", "code": "429"}}, 429, "overloaded"),
        ({"error": {"message": "none left", "code": "insufficient_quota"}}, 429, "none left"),
        ({"error": {"message": "bad", "type": "invalid_request_error"}}, 400, "bad"),
        ({"error": {"message": "odd", "code": None}}, None, "odd"),
        ({"error": "a text"}, None, "a text"),
        ({"object": "error", "message": "too long", "code": 400}, 400, "too long"),
        ({"detail": "Not Found"}, None, "Not Found"),
        (reply(choices=[{"error": {"message": "upstream", "code": 503}, "finish_reason": "error"}]), 503, "upstream"),
    ],
)
def test_an_error_inside_a_reply_is_read_with_its_status(document: dict[str, Any], status: int | None, said: str) -> None:
    with pytest.raises(ErrorInReply, match=said) as raised:
        read(document)
    assert raised.value.status_code == status


@pytest.mark.parametrize(
    ("chat", "logprobs", "expected"),
    [
        (True, {"content": [{"logprob": -0.5}, {"logprob": -1}]}, -1.5),
        (True, {"content": [{"logprob": -0.5}, {"token": "x"}]}, None),
        (True, {"content": None}, None),
        (True, {"content": [{"logprob": -(10**400)}]}, None),
        (True, {"content": [{"logprob": float("nan")}]}, None),
        (True, [], None),
        (False, {"token_logprobs": [-0.5, -1.0]}, -1.5),
        (False, {"token_logprobs": [None, -1.0]}, None),
        (False, None, None),
    ],
)
def test_a_log_probability_needs_every_token(chat: bool, logprobs: Any, expected: float | None) -> None:
    assert read(reply(chat, logprobs=logprobs), chat).cumulative_logprob == expected


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 600) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "code", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
PLACES = [
    (), ("choices",), ("choices", 0), ("choices", 0, "message"), ("choices", 0, "message", "content"), ("choices", 0, "logprobs"),
    ("choices", 0, "finish_reason"), ("usage",), ("usage", "prompt_tokens"), ("usage", "completion_tokens"), ("error",),
]  # fmt: skip


@given(st.sampled_from(PLACES), values)
def test_any_reply_gives_a_usable_completion_or_a_named_error(place: tuple[str | int, ...], value: Any) -> None:
    whole: Any = {"whole": copy.deepcopy(reply())}
    *parents, last = ("whole", *place)
    at = whole
    for parent in parents:
        at = at[parent]
    at[last] = value
    try:
        found = read(whole["whole"])
    except (MalformedReply, ErrorInReply, EngineRefused) as error:
        assert str(error)
    else:
        assert found.usable

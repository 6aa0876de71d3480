"""Reads the reply of an OpenAI-compatible server: what servers spell differently is mapped, anything else is refused by name.

A reply is checked completely before it becomes a `Completion`, because completions are kept: a wrong one would fail again at every rerun.

Our choices: a finish reason that is null or missing means an end of its own if the reply has fewer tokens than were asked for. A text that
the server withheld or cut (a content filter) counts as not finished. Thoughts that the server sends apart from the text, in parts or in a
field of the message, are put before it with their marks; without a text behind it, a thought has no end mark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from pipeline.errors import EngineError, EngineRefused
from pipeline.generation.engine import Completion
from pipeline.generation.servers.spending import NOTHING, Usage
from pipeline.grading.wording.thoughts import END, START, with_think_marks

_FINISHED: Final = frozenset(
    {
        "stop", "eos", "eos_token", "eos_found", "eot", "eot_id", "end", "end_turn", "end_of_turn", "stop_sequence", "stop_token",
        "stop_str", "stop_string", "complete", "completed", "finished", "finish", "normal",
    }
)  # fmt: skip
_CUT: Final = frozenset(
    {
        "length", "max_tokens", "max_length", "max_new_tokens", "max_output_tokens", "max_completion_tokens", "token_limit",
        "model_length", "model_context_window_exceeded", "content_filter", "content_filtered", "safety", "refusal", "recitation",
    }
)  # fmt: skip
_FAILED: Final = frozenset({"error", "abort", "aborted", "cancelled", "canceled"})
_THOUGHTS: Final = frozenset({"thinking", "reasoning"})
"""Types of parts that are thoughts."""
_NO_TEXT: Final = frozenset({"redacted_thinking", "refusal"})
"""Types of parts that are neither text nor thoughts that can be read."""
_THOUGHT_FIELDS: Final = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold its thoughts, by server."""
_STATUS_OF: Final = {
    "insufficient_quota": 429, "rate_limit_exceeded": 429, "context_length_exceeded": 400, "invalid_request_error": 400,
    "invalid_api_key": 401, "model_not_found": 404, "server_error": 500, "overloaded_error": 529,
}  # fmt: skip


class MalformedReply(EngineError):
    """A reply without a usable completion: not JSON, no choices, or a required field missing."""


class ErrorInReply(EngineError):
    """An error that a server reports inside a reply of status 200, or for a request of a batch.

    `status_code` is the one that belongs to it, or None. `body`: of a batch's request, as the server describes the error.
    """

    status_code: int | None = None
    code: str | None = None
    body: Any = None


def error_in(document: Mapping[str, Any]) -> ErrorInReply | None:
    """The error that a reply reports in place of a completion, if any."""
    found = document.get("error") or (document if document.get("object") == "error" else None)
    if found is None and document.get("choices") is None and document.get("detail"):
        found = document["detail"]
    if not found:
        return None
    return error_of(found, "error inside a reply of status 200")


def error_of(found: Any, where: str, status: int | None = None) -> ErrorInReply:
    """An error as a server describes it; `status` where it says that itself."""
    fields = found if isinstance(found, Mapping) else {"message": str(found)}
    error = ErrorInReply(f"{where}: {fields.get('message') or fields}")
    for value in (fields.get("code"), fields.get("status"), fields.get("type")):
        if isinstance(value, str) and value in _STATUS_OF:
            error.code, error.status_code = value, _STATUS_OF[value]
        elif isinstance(value, int | str) and str(value).isdecimal() and 400 <= int(value) < 600:
            error.status_code = int(value)
        if error.status_code is not None:
            break
    error.status_code = status or error.status_code
    return error


def _text(content: Any) -> str:
    """The text of a message: a string, nothing, or the parts of a list."""
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(map(_part, content))
    if not isinstance(content, str):
        raise MalformedReply(f"malformed response (its content is a {type(content).__name__}, expected a text)")
    return content


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = str(part.get("type")) if isinstance(part, Mapping) else type(part).__name__
    if kind in _THOUGHTS or kind in _NO_TEXT:
        return ""
    if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        raise MalformedReply(f"malformed response (its content has a part of type {kind[:40]!r}, expected text)")
    return str(part["text"])


def _thought(message: Mapping[str, Any], content: Any) -> str:
    """The thoughts that a server sends apart from the text; empty if there are none, or none that can be read."""
    parts = content if isinstance(content, list) else []
    inside = [part for part in parts if isinstance(part, Mapping) and str(part.get("type")) in _THOUGHTS]
    found = [message.get(name) for name in _THOUGHT_FIELDS] + [
        _said_in(part.get("thinking", part.get("text"))) for part in inside
    ]
    return "\n".join(dict.fromkeys(text.strip() for text in found if isinstance(text, str) and text.strip()))


def _said_in(thinking: Any) -> Any:
    """The text of a thought's part, which some servers cut into parts again."""
    if not isinstance(thinking, list):
        return thinking
    return "".join(part["text"] for part in thinking if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def _with_thought(thought: str, text: str) -> str:
    if not thought or END in with_think_marks(text):
        return text
    return f"{START}\n{thought}\n{END}\n\n{text.lstrip()}" if text.strip() else f"{START}\n{thought}"


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else None


_CACHED: Final = (("prompt_tokens_details", "cached_tokens"), ("prompt_cache_hit_tokens",))
"""Fields of a reply's usage that say how many of the prompt's tokens were in the server's cache, by server."""


def _usage(document: Any) -> Mapping[str, Any]:
    usage = document.get("usage") if isinstance(document, Mapping) else None
    return usage if isinstance(usage, Mapping) else {}


def _counts(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Numbers of prompt and completion tokens; one that is missing follows from the total, if there is one."""
    prompt, answer, total = (_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    if total is not None and prompt is None and answer is not None and total >= answer:
        prompt = total - answer
    if total is not None and answer is None and prompt is not None and total >= prompt:
        answer = total - prompt
    return prompt, answer


def usage_of(document: Any) -> Usage | None:
    """The tokens that a reply says it used, whatever else is in it. None if it does not say; `NOTHING` for an error in place of a reply.

    Tokens of thoughts that stand in the total alone count as output.
    """
    if isinstance(document, Mapping) and error_in(document) is not None:
        return NOTHING
    usage = _usage(document)
    prompt, answer = _counts(usage)
    if prompt is None or answer is None:
        return None
    answer = max(answer, (_count(usage.get("total_tokens")) or 0) - prompt)
    cached = next((count for path in _CACHED if (count := _count(_at(usage, path))) is not None), 0)
    return Usage(1, prompt, min(cached, prompt), answer)


def _at(found: Any, path: Sequence[str]) -> Any:
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _tokens(document: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of prompt and completion tokens, which a reply must have."""
    usage = _usage(document)
    prompt, answer = _counts(usage)
    if prompt is None or answer is None:
        missing = "prompt_tokens" if prompt is None else "completion_tokens"
        raise MalformedReply(
            f"malformed response (usage.{missing} is {repr(usage.get(missing))[:40]}, expected a number of tokens)"
        )
    return prompt, answer


def ended_by_itself(reason: str) -> bool | None:
    """Whether a finish reason says that a text ended by itself; None for an unknown one."""
    word = reason.lower()
    return True if word in _FINISHED else False if word in _CUT else None


def _finish(stated: Any, short: bool, also_finished: tuple[str, ...], server: str) -> Literal["stop", "length"]:
    """`short`: the reply has fewer tokens than were asked for."""
    if stated is None or stated == "":
        return "stop" if short else "length"
    word = str(stated).lower()
    ended = stated in also_finished or ended_by_itself(word)
    if ended is not None:
        return "stop" if ended else "length"
    if word in _FAILED:
        raise MalformedReply(f"malformed response (finish reason {word!r})")
    raise EngineRefused(
        f"{server}: unknown finish reason {str(stated)[:40]!r}; if it means that a text has ended by itself, add it to "
        "engine.finish_reasons, else change the server's settings"
    )


def _logprob(choice: Mapping[str, Any], chat: bool) -> float | None:
    """The sum over the tokens; None unless every token has one."""
    found = choice.get("logprobs")
    if not isinstance(found, Mapping):
        return None
    listed = found.get("content" if chat else "token_logprobs")
    if not isinstance(listed, list) or not listed:
        return None
    values: list[Any] = [item.get("logprob") if isinstance(item, Mapping) else item for item in listed]
    usable = all(isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 for value in values)
    return float(sum(values)) if usable else None


def completion_of(
    document: Any, *, chat: bool, max_tokens: int, also_finished: tuple[str, ...] = (), server: str = "the server"
) -> Completion:
    """The completion in a server's reply, checked completely.

    Raises:
        ErrorInReply: the reply reports an error.
        MalformedReply: the reply has no usable completion.
        EngineRefused: a finish reason that has no known meaning.
    """
    if not isinstance(document, Mapping):
        raise MalformedReply(f"malformed response (a {type(document).__name__}, expected an object)")
    if (error := error_in(document)) is not None:
        raise error
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise MalformedReply("malformed response (no choices)")
    choice = choices[0]
    if (error := error_in(choice)) is not None:
        raise error
    message = choice.get("message") if chat else choice
    name = "content" if chat else "text"
    if not isinstance(message, Mapping) or (name not in message and not _thought(message, None)):
        raise MalformedReply(f"malformed response (its choice has no {'message.content' if chat else 'text'})")
    said = message.get(name)
    text = _with_thought(_thought(message, said), _text(said))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MalformedReply("malformed response (its text is not valid Unicode)") from error
    prompt, answer = _tokens(document)
    finish = _finish(choice.get("finish_reason"), answer < max_tokens, also_finished, server)
    return Completion(text, finish, prompt, answer, _logprob(choice, chat))

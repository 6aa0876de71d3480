"""What a server is asked for one text, and how its reply is read: the same at once (`openai_engine.py`) and in batches.

A response must name the requested model, or `answers_as`: a gateway that falls back to another model would mix two teachers. Replies are
read as plain JSON (`reply.py`), because the client does not validate them. A server without log-probabilities, or with another name
for `max_tokens`, is asked accordingly from its first refusal on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final, get_args

from pipeline.config.engines import EngineConfig, Parameter
from pipeline.config.models import Turns
from pipeline.errors import EngineRefused, PromptTooLong
from pipeline.generation.engine import Completion, Decoding, until
from pipeline.generation.servers.connection import OwnServer
from pipeline.generation.servers.reply import MalformedReply, completion_of
from pipeline.prompt_rendering import Prompt, messages, plain_text

_OPTIONAL: Final = ("top_k", "min_p", "repetition_penalty", "presence_penalty", "reasoning_effort")
"""Parameters that are sent if they are set."""


def json_of(content: bytes) -> Any:
    """A reply's document.

    Raises:
        MalformedReply: it is not JSON.
    """
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MalformedReply(f"malformed response (not JSON: {error})") from error


class ServerRequests:
    """Writes the bodies of requests and reads their replies; knows what the server has refused so far.

    `own`: the server is this process's own.
    """

    def __init__(self, config: EngineConfig, turns: Turns | None, own: OwnServer | None = None) -> None:
        self._own = own
        self._config = config
        self._turns = turns
        self._renamed: dict[str, str] = {name: other or "" for name, other in (config.parameters or {}).items()}

    @property
    def chat(self) -> bool:
        """Whether the server gets turns, not plain text."""
        return self._turns is not None

    def body(self, prompt: Prompt, seed: int, decoding: Decoding) -> dict[str, Any]:
        """The whole body of a request, with the server's names."""
        settings: dict[str, Any] = {
            **(self._own.settings if self._own is not None else {}),
            "model": self._config.served_model,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_tokens,
            "seed": seed,
        }
        if decoding.stop:
            settings["stop"] = list(decoding.stop)
        settings |= {name: value for name in _OPTIONAL if (value := getattr(decoding, name)) is not None}
        if decoding.likelihood:
            settings["logprobs"] = 0 if self._turns is None else True
        taken = {self._renamed.get(name, name): value for name, value in settings.items()}
        taken.pop("", None)
        if self._turns is None:
            return {**taken, "prompt": plain_text(prompt) if self._own is None else self._own.tokens(prompt)}
        taken["messages"] = messages(prompt, self._turns)
        if self._turns.template is not None:
            taken["chat_template_kwargs"] = self._turns.template
        return taken

    def read(self, document: Any, decoding: Decoding) -> Completion:
        """The completion in a reply.

        Raises:
            MalformedReply, ErrorInReply: the reply has none.
            EngineRefused: it is another model's, or has ended in an unknown way.
        """
        config = self._config
        expected = config.answers_as or config.served_model
        named = document.get("model") if isinstance(document, dict) else None
        if named and named != expected:
            raise EngineRefused(
                f"{config.base_url}: the response names model {str(named)[:100]!r}, not {expected!r}; correct engine.served_model or, "
                "if both are the same model, set engine.answers_as"
            )
        answer = completion_of(
            document,
            chat=self.chat,
            max_tokens=decoding.max_tokens,
            also_finished=config.finish_reasons or (),
            server=str(config.base_url),
        )
        # A server may ignore `stop`, so that its text runs on.
        if (text := until(answer.text, decoding.stop)) != answer.text:
            return replace(answer, text=text, finish_reason="stop")
        return answer

    def adapt(self, error: EngineRefused, taken: Collection[str]) -> None:
        """Notes what the refusal says about the names in a request's body; the request can then be made again, with another body.

        Raises:
            EngineRefused: the refusal, if no other body helps.
        """
        name = self._refused(error)
        if name is None or name not in taken:
            raise self._named(error, taken) from error

    def _named(self, error: EngineRefused, taken: Collection[str]) -> EngineRefused:
        """The refusal, with the setting that leaves out the parameter that the server's message names."""
        if isinstance(error, PromptTooLong) or getattr(error.__cause__, "status_code", None) not in (400, 422):
            return error
        meant = {self._renamed.get(name, name): name for name in get_args(Parameter)}
        named = next(
            (meant[name] for name in taken if name in meant and re.search(rf"\b{re.escape(name)}\b", str(error))), None
        )
        if named is None:
            return error
        return EngineRefused(
            f"{error}; engine.parameters: {{{named}: null}} leaves {named} out, and {{{named}: NAME}} renames it"
        )

    def _refused(self, error: EngineRefused) -> str | None:
        """The setting that a server refuses, if it can be left out or has another name; notes this for all later requests."""
        if isinstance(error, PromptTooLong) or getattr(error.__cause__, "status_code", None) not in (400, 422):
            return None
        said = str(error)
        renamed = "max_completion_tokens" if self.chat and "support" in said else None
        for name, other in (("max_tokens", renamed), ("logprobs", "")):
            if other is None:
                continue
            if re.search(rf"\b{other or name}\b", said):
                if name not in self._renamed:
                    self._renamed[name] = other
                    what = f"is called {other}" if other else "is refused, and left out"
                    print(f"{self._config.base_url}: {name} {what}", flush=True)
                return name
        return None

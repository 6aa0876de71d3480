"""Teacher scores by a vLLM server (`vllm serve`): log-probabilities of a prompt's tokens, of which the text is a part.

No other known server says them. vLLM's own addresses are used beside OpenAI's: `/tokenize` gives the tokens of a prompt in the teacher's
chat template, which only the server knows. That the server's tokens are the student's shows in every reply, which names the tokens that it
was given.

Axes: T tokens of a text, C the teacher's most likely tokens of a position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from httpx2 import Response

from pipeline.config.engines import EngineConfig
from pipeline.config.models import Teacher, Turns
from pipeline.errors import EngineRefused
from pipeline.generation.servers.connection import ServerConnection, connected
from pipeline.generation.servers.requests import json_of
from pipeline.prompt_rendering import Prompt, messages, plain_text
from pipeline.teacher_scores.scores import Given, Scores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REMEDY: Final = (
    "a teacher's scores need a server of vLLM, started with --max-logprobs of at least synthesis.teacher_top_k and "
    "training.on_policy.top_k; start one, or leave these out"
)


class ServerScores:
    """Implements `TeacherScores` on one server. `student` is the tokenizer of the texts."""

    def __init__(
        self, config: EngineConfig, server: ServerConnection, turns: Turns | None, student: PreTrainedTokenizerBase
    ) -> None:
        self._config = config
        self._server = server
        self._turns = turns
        self._student = student

    def _prompt_tokens(self, prompt: Prompt) -> list[int]:
        """As the server tokenises a prompt of its model."""
        body: dict[str, Any] = {"model": self._config.served_model}
        if self._turns is None:
            body["prompt"] = plain_text(prompt)
        else:
            body |= {"messages": messages(prompt, self._turns), "add_generation_prompt": True}
            if self._turns.template is not None:
                body["chat_template_kwargs"] = self._turns.template
        root = str(self._config.base_url).rstrip("/").removesuffix("/v1")
        document = self._post(f"{root}/tokenize", body)
        tokens = document.get("tokens") if isinstance(document, dict) else None
        if not isinstance(tokens, list) or not tokens or not all(type(token) is int and token >= 0 for token in tokens):
            raise EngineRefused(f"{root}/tokenize: gives no tokens; {_REMEDY}")
        return tokens

    def score(self, given: Sequence[Given], top_k: int) -> list[Scores]:
        with ThreadPoolExecutor(self._config.connections) as threads:
            return list(threads.map(partial(self._scored, top_k=top_k), given))

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        send = partial(self._server.client.post, path, cast_to=Response, body=body)

        def request() -> Any:
            return json_of(self._server.in_time(send).content)

        return self._server.patiently(request, _REMEDY)

    def _scored(self, one: Given, top_k: int) -> Scores:
        body = {
            "model": self._config.served_model,
            "prompt": [*self._prompt_tokens(one.prompt), *one.text],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": top_k,
        }
        document = self._post("/completions", body)
        try:
            found = document["choices"][0]["prompt_logprobs"][-len(one.text) :]
            return self._read(found, one.text, top_k)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise EngineRefused(
                f"{self._config.base_url}: gives no log-probabilities of a prompt's tokens; {_REMEDY}"
            ) from error

    def _read(self, found: list[dict[str, Any]], text: list[int], top_k: int) -> Scores:
        if len(found) != len(text):
            raise ValueError("another number of positions")
        ids_TC, logprobs_TC = np.empty((len(text), top_k), np.int32), np.empty((len(text), top_k), np.float32)
        for row, (given, position) in enumerate(zip(text, found, strict=True)):
            self._check_token(given, position[str(given)].get("decoded_token"))
            ranked = sorted((int(entry["rank"]), int(token), float(entry["logprob"])) for token, entry in position.items())
            best = [entry for entry in ranked if entry[0] <= top_k]
            ids_TC[row], logprobs_TC[row] = [token for _, token, _ in best], [logprob for *_, logprob in best]
        if not np.isfinite(logprobs_TC).all() or (logprobs_TC > 1e-3).any():
            raise ValueError("a log-probability is no number, or positive")
        return Scores(ids_TC, logprobs_TC)

    def _check_token(self, given: int, named: Any) -> None:
        mine = self._student.decode([given])
        if isinstance(named, str) and named.isascii() and mine.isascii() and named.strip() and named.strip() != mine.strip():
            raise EngineRefused(
                f"{self._config.base_url}: token {given} is {named[:40]!r} there and {mine[:40]!r} for the student; scores "
                "need a teacher with the student's vocabulary: use one, or leave synthesis.teacher_top_k and training.on_policy out"
            )


class _SeveralScores:
    """Servers of one model, each of which gets its share of the texts."""

    def __init__(self, servers: Sequence[ServerScores]) -> None:
        self._servers = servers

    def score(self, given: Sequence[Given], top_k: int) -> list[Scores]:
        many = len(self._servers)
        with ThreadPoolExecutor(many) as threads:
            parts = list(threads.map(lambda n: self._servers[n].score(given[n::many], top_k), range(many)))
        return [parts[n % many][n // many] for n in range(len(given))]


@contextmanager
def open_server_scores(config: EngineConfig, model: Teacher, student: PreTrainedTokenizerBase) -> Iterator[_SeveralScores]:
    """Connects to every server of `config.base_url`.

    Raises:
        EngineRefused: a server does not serve `config.served_model`.
        EngineError: it cannot be reached.
    """
    with ExitStack() as opened:
        servers = []
        for address in config.addresses:
            one = config.model_copy(update={"base_url": address})
            server = opened.enter_context(connected(one))
            server.check_model()
            servers.append(ServerScores(one, server, model.dialogue, student))
        yield _SeveralScores(servers)

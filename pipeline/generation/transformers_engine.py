"""Generation engine on plain batched transformers: slow, but runs wherever torch does.

Prompts of equal length are batched, so no row is padded. Each row has its own random generator, so a seed gives the same text independent
of the rest of the batch. A text ends at any of the model's end tokens, as in vLLM: the tokenizer's and those of its generation settings.
The end token is no part of the text.

Axes: B rows of a batch, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import Any, Final, NamedTuple

import torch
from transformers import DynamicCache

from pipeline.config.engines import EngineConfig
from pipeline.config.models import Weights
from pipeline.generation.engine import TOO_LONG, Completion, Decoding, Told, until, untold
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.model_thoughts import special_marks, without_other_tokens
from pipeline.prompt_rendering import Prompt, prompt_tokens

_SHRINK: Final = 0.75
"""The batch shrinks when at most this share of its rows is unfinished, since shrinking copies the cache."""


class _Written(NamedTuple):
    """Generated tokens, whether they ended by themselves, and their log-probability if it was wanted."""

    tokens: list[int]
    ended: bool
    logprob: float


class TransformersEngine:
    """Implements `Engine` on a loaded network."""

    def __init__(self, network: Any, tokenizer: Any, model: Weights, batch: int, context: int, told: Told) -> None:
        self._model = network
        self._told = told
        self._ends = _end_tokens(network, tokenizer)
        self._turns = model.dialogue
        self._marks = special_marks(tokenizer, model.thought_marks)
        self._tokenizer = tokenizer
        self._batch = batch
        self._context = context
        self._lock = Lock()
        self._texts: dict[int, str] = {}

    def _text(self, tokens: list[int]) -> str:
        if not self._marks:
            return str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        return without_other_tokens(self._tokenizer, str(self._tokenizer.decode(tokens)), self._marks)

    def _without_end(self, tokens: list[int]) -> list[int]:
        return tokens[:-1] if tokens and tokens[-1] in self._ends else tokens

    def _stops(self, tokens: list[int], stop: tuple[str, ...]) -> bool:
        """Whether the text has one of the stop texts; decodes it only where its last token may end one."""
        if not stop:
            return False
        last = self._texts.get(tokens[-1]) or self._texts.setdefault(tokens[-1], self._text(tokens[-1:]))
        if last.isascii() and not any(mark[-1] in last for mark in stop):  # a part of a character is no ASCII text
            return False
        text = self._text(tokens)
        return until(text, stop) != text

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        with self._lock:
            return self._generate(prompts, seeds, decoding)

    def _generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        ids = [prompt_tokens(self._tokenizer, prompt, self._turns) for prompt in prompts]
        completions: dict[int, Completion] = {}
        for rows in self._batches(ids):
            length = len(ids[rows[0]])
            if decoding.skip_long and length + decoding.max_tokens > self._context:
                completions |= dict.fromkeys(rows, TOO_LONG)
                continue
            for row, text in zip(rows, self._written(rows, ids, seeds, decoding), strict=True):
                completions[row] = Completion(
                    text=until(self._text(self._without_end(text.tokens)), decoding.stop),
                    finish_reason="stop" if text.ended else "length",
                    prompt_tokens=length,
                    completion_tokens=len(text.tokens),
                    cumulative_logprob=text.logprob if decoding.likelihood else None,
                )
                self._told(completions[row])
        return [completions[index] for index in range(len(ids))]

    def write(self, prompts: Sequence[list[int]], seeds: Sequence[int], decoding: Decoding) -> list[list[int]]:
        """The tokens of one text per prompt, with the end token if it has one; prompts are tokens too. A text ends at the context."""
        found: dict[int, list[int]] = {}
        with self._lock:
            for rows in self._batches(prompts):
                most = min(decoding.max_tokens, self._context - len(prompts[rows[0]]))
                texts = self._written(rows, prompts, seeds, replace(decoding, max_tokens=most))
                found |= {row: text.tokens for row, text in zip(rows, texts, strict=True)}
        return [found[index] for index in range(len(prompts))]

    def _batches(self, prompts: Sequence[list[int]]) -> Iterator[list[int]]:
        """Numbers of prompts of equal length, which need no padding."""
        by_length: dict[int, list[int]] = {}
        for index, tokens in enumerate(prompts):
            by_length.setdefault(len(tokens), []).append(index)
        for indices in by_length.values():
            yield from (indices[first : first + self._batch] for first in range(0, len(indices), self._batch))

    def _written(
        self, rows: Sequence[int], prompts: Sequence[list[int]], seeds: Sequence[int], decoding: Decoding
    ) -> list[_Written]:
        tokens_BT = torch.tensor([prompts[row] for row in rows], device=self._model.device)
        return self._batched(tokens_BT, [seeds[row] for row in rows], decoding)

    @torch.no_grad()
    def _batched(self, tokens_BT: torch.Tensor, seeds: list[int], decoding: Decoding) -> list[_Written]:
        rows = len(tokens_BT)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        cache, step_BT = DynamicCache(), tokens_BT
        produced: list[list[int]] = [[] for _ in range(rows)]
        logprobs, ended = [0.0] * rows, [False] * rows
        batch = list(range(rows))  # rows in the current batch; finished rows are removed at intervals
        for _ in range(decoding.max_tokens):
            logits_BV = self._model(input_ids=step_BT, past_key_values=cache, use_cache=True).logits[:, -1].float().cpu()
            raw_BV = logits_BV
            if decoding.repetition_penalty is not None or decoding.presence_penalty is not None:
                logits_BV = _penalised(logits_BV, tokens_BT[batch].cpu(), [produced[row] for row in batch], decoding)
            chosen_B = _choose_all(logits_BV, [generators[row] for row in batch], decoding)
            if decoding.likelihood:
                spent_B = torch.log_softmax(raw_BV, -1).gather(-1, chosen_B[:, None])[:, 0]
                for row, logprob in zip(batch, spent_B.tolist(), strict=True):
                    logprobs[row] += 0.0 if ended[row] else logprob
            for row, token in zip(batch, chosen_B.tolist(), strict=True):
                if not ended[row]:
                    produced[row].append(token)
                    ended[row] = token in self._ends or self._stops(produced[row], decoding.stop)
            open_B = [place for place, row in enumerate(batch) if not ended[row]]
            if not open_B:
                break
            if len(open_B) <= _SHRINK * len(batch):
                kept = torch.tensor(open_B)
                cache.batch_select_indices(kept.to(tokens_BT.device))
                batch, chosen_B = [batch[place] for place in open_B], chosen_B[kept]
            step_BT = chosen_B.to(tokens_BT.device)[:, None]
        return [_Written(*text) for text in zip(produced, ended, logprobs, strict=True)]


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Chat models often have several: the end of a turn, and the end of the text."""
    stated = model.generation_config.eos_token_id
    several = stated if isinstance(stated, list | tuple) else [stated]
    return frozenset(int(token) for token in (tokenizer.eos_token_id, *several) if token is not None)


def _penalised(
    logits_BV: torch.Tensor, prompts_BT: torch.Tensor, produced_B: list[list[int]], decoding: Decoding
) -> torch.Tensor:
    """The logits, lower for tokens that a row already has: in prompt or text (repetition), in its text (presence)."""
    found_BV = logits_BV.clone()
    for row, (prompt_T, produced) in enumerate(zip(prompts_BT, produced_B, strict=True)):
        said = torch.tensor(sorted({*produced}), dtype=torch.long)
        seen = torch.tensor(sorted({*prompt_T.tolist(), *produced}), dtype=torch.long)
        if decoding.repetition_penalty is not None:
            values = found_BV[row, seen]
            found_BV[row, seen] = torch.where(
                values > 0, values / decoding.repetition_penalty, values * decoding.repetition_penalty
            )
        found_BV[row, said] -= decoding.presence_penalty or 0.0
    return found_BV


def _choose_all(logits_BV: torch.Tensor, generators: list[torch.Generator], decoding: Decoding) -> torch.Tensor:
    if decoding.temperature == 0:
        return logits_BV.argmax(-1)
    return torch.tensor(
        [_choose(logits_V, generator, decoding) for logits_V, generator in zip(logits_BV, generators, strict=True)]
    )


def _choose(logits_V: torch.Tensor, generator: torch.Generator, decoding: Decoding) -> int:
    probabilities_V, order_V = torch.softmax(logits_V / decoding.temperature, -1).sort(descending=True)
    if decoding.min_p is not None:
        probabilities_V = probabilities_V * (probabilities_V >= decoding.min_p * probabilities_V[0])
    if decoding.top_k is not None:
        probabilities_V = probabilities_V * (torch.arange(len(probabilities_V)) < decoding.top_k)
    if decoding.min_p is not None or decoding.top_k is not None:
        probabilities_V = probabilities_V / probabilities_V.sum()
    keep_V = probabilities_V.cumsum(-1) - probabilities_V < decoding.top_p
    pick = torch.multinomial(probabilities_V * keep_V, 1, generator=generator)
    return int(order_V[pick])


@contextmanager
def open_transformers(config: EngineConfig, model: Weights, told: Told = untold) -> Iterator[TransformersEngine]:
    """Loads `model`, on a GPU if one is available."""
    tokenizer = load_tokenizer(model)
    network = load_causal_model(model, config.dtype)
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    yield TransformersEngine(network, tokenizer, model, config.batch, config.max_context, told)

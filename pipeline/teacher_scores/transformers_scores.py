"""Teacher scores by plain transformers: one forward pass over padded rows.

Axes: B rows, T tokens, P wanted positions, V vocabulary, C the teacher's most likely tokens of a position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from pipeline.capacity.estimate import MOST_LOGITS
from pipeline.config.engines import EngineConfig
from pipeline.config.models import Weights
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.prompt_rendering import pad_token, prompt_tokens
from pipeline.student.batch import TokenRow, batch, rationale_spans
from pipeline.student.token_losses import own_logits
from pipeline.teacher_scores.scores import Given, Scores


class TransformersScores:
    """Implements `TeacherScores` on a loaded network, with at most `rows` texts in one forward pass."""

    def __init__(self, network: Any, tokenizer: Any, model: Weights, rows: int) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._turns = model.dialogue
        self._pad = pad_token(tokenizer)
        self._rows = rows

    def score(self, given: Sequence[Given], top_k: int) -> list[Scores]:
        prompts = [prompt_tokens(self._tokenizer, one.prompt, self._turns) for one in given]
        rows = [TokenRow([*prompt, *one.text], len(prompt), (0, 0)) for prompt, one in zip(prompts, given, strict=True)]
        found: dict[int, Scores] = {}
        for few in self._batches(rows):
            found |= zip(few, self._scored([rows[n] for n in few], top_k), strict=True)
        return [found[n] for n in range(len(given))]

    def _batches(self, rows: Sequence[TokenRow]) -> Iterator[list[int]]:
        """Numbers of rows of like length, to be scored together."""
        vocabulary, few, logits = self._network.config.get_text_config().vocab_size, list[int](), 0
        for n in sorted(range(len(rows)), key=lambda n: len(rows[n].tokens)):
            more = (len(rows[n].tokens) - rows[n].start) * vocabulary
            if few and (len(few) == self._rows or logits + more > MOST_LOGITS):
                yield few
                few, logits = [], 0
            few, logits = [*few, n], logits + more
        if few:
            yield few

    @torch.no_grad()
    def _scored(self, rows: list[TokenRow], top_k: int) -> list[Scores]:
        item, device = batch(rows, rationale_spans(rows), self._pad), self._network.device
        tokens_BT, line_P, column_P = (part.to(device) for part in (item.tokens_BT, item.line_P, item.column_P))
        logits_PV = own_logits(self._network, tokens_BT, line_P, column_P, {}).float()
        top = torch.log_softmax(logits_PV, -1).topk(top_k, -1)
        sizes = [len(row.tokens) - row.start for row in rows]
        cut = np.cumsum(sizes)[:-1]
        ids, logprobs = top.indices.int().cpu().numpy(), top.values.cpu().numpy()
        return [Scores(*pair) for pair in zip(np.split(ids, cut), np.split(logprobs, cut), strict=True)]


@contextmanager
def open_transformers_scores(config: EngineConfig, model: Weights) -> Iterator[TransformersScores]:
    """Loads `model`, on a GPU if one is available."""
    network = load_causal_model(model, config.dtype)
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    yield TransformersScores(network, load_tokenizer(model), model, config.batch)

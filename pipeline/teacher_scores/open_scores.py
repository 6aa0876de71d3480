"""Opens the teacher for scores with the engine that samples it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.config.engines import EngineConfig
from pipeline.config.models import HubModel, LocalModel, Teacher
from pipeline.teacher_scores.scores import TeacherScores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@contextmanager
def open_scores(config: EngineConfig, model: Teacher, student: PreTrainedTokenizerBase, top_k: int) -> Iterator[TeacherScores]:
    """Loads the teacher with the configured engine, or connects to its server; `student` is the tokenizer of the texts.

    Raises:
        EngineError: it cannot be loaded or reached, or gives no log-probabilities of given tokens.
    """
    opened: Any
    if config.kind == "openai":
        from pipeline.teacher_scores.server_scores import open_server_scores

        opened = open_server_scores(config, model, student)
    else:
        assert isinstance(model, LocalModel | HubModel), "the configuration gives a served model no engine in this process"
        if config.kind == "vllm":
            from pipeline.teacher_scores.vllm_scores import open_vllm_scores

            opened = open_vllm_scores(config, model, top_k)
        else:
            from pipeline.teacher_scores.transformers_scores import open_transformers_scores

            opened = open_transformers_scores(config, model)
    with opened as scores:
        yield scores

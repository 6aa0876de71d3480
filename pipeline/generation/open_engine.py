"""Starts the configured generation engine on a model, and ends it with every process that it started."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config.engines import EngineConfig
from pipeline.config.models import HubModel, LocalModel, Teacher, Weights
from pipeline.generation.engine import Completion, Decoding, Engine, Told, untold
from pipeline.generation.servers.batch_files import check_none_under_way
from pipeline.model_thoughts import Marks, PromptEnd, prompt_end, whole_text
from pipeline.prompt_rendering import Prompt


@contextmanager
def open_engine(config: EngineConfig, model: Teacher, arrived: Path | None = None, told: Told = untold) -> Iterator[Engine]:
    """Start the configured engine on `model`; it ends with the block. Its texts have the thoughts that their prompts began.

    `arrived` is the journal file for replies that are in no committed shard yet (`pipeline/generation/servers/answer_journal.py`).
    `told` is called with every text as soon as it is complete.
    """
    with _opened(config, model, arrived, told) as engine:
        yield _WholeTexts(engine, prompt_end(model), model.thought_marks)


def engine_on(network: Any, tokenizer: Any, model: Weights, batch: int) -> Engine:
    """A transformers engine on a network in evaluation mode; the caller has checked the lengths of the prompts."""
    from pipeline.generation.transformers_engine import TransformersEngine

    engine = TransformersEngine(network, tokenizer, model, batch, sys.maxsize, untold)
    return _WholeTexts(engine, prompt_end(model), model.thought_marks)


class _WholeTexts:
    """An engine whose texts are made whole (`pipeline/model_thoughts.py`)."""

    def __init__(self, engine: Engine, before: PromptEnd, custom: Marks | None) -> None:
        self._engine, self._before, self._custom = engine, before, custom

    def generate(self, prompts: Sequence[Prompt], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        found = self._engine.generate(prompts, seeds, decoding)
        return [replace(said, text=whole_text(said.text, self._before, self._custom)) for said in found]


@contextmanager
def _opened(config: EngineConfig, model: Teacher, arrived: Path | None, told: Told) -> Iterator[Engine]:
    if config.kind == "openai" and config.batches:
        from pipeline.generation.servers.openai_batches import open_batches

        with open_batches(config, model.dialogue, arrived, told) as batches:
            yield batches
        return
    if arrived is not None:
        check_none_under_way(arrived, None)
    if config.kind == "openai":
        from pipeline.generation.servers.openai_engine import open_openai
        from pipeline.generation.servers.several_servers import open_several

        with (open_several if len(config.addresses) > 1 else open_openai)(config, model.dialogue, arrived, told) as engine:
            yield engine
        return
    assert isinstance(model, LocalModel | HubModel), (
        "the configuration gives a served or imported model no engine in this process"
    )
    # Each engine's library takes seconds to import; only the chosen one is.
    match config.kind:
        case "vllm" if config.replicas > 1:
            from pipeline.generation.vllm_replicas import open_replicas

            with open_replicas(config, model, arrived, told) as engine:
                yield engine
        case "vllm":
            from pipeline.generation.vllm_engine import open_vllm

            with open_vllm(config, model, told) as engine:
                yield engine
        case "transformers":
            from pipeline.generation.transformers_engine import open_transformers

            with open_transformers(config, model, told) as engine:
                yield engine

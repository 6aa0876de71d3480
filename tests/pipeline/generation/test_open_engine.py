"""An engine tells of every text as soon as it is complete, and of none that an earlier process received."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pipeline.config.engines import EngineConfig
from pipeline.config.models import LocalModel, ServedModel
from pipeline.generation.engine import Completion, Decoding
from pipeline.generation.open_engine import open_engine
from tests.support.fake_teacher import serve

PROMPTS = [f"Item {number}:" for number in range(5)]
DECODING = Decoding(1.0, 1.0, 6)


def test_the_transformers_engine_tells_of_every_text(tiny_model: Path) -> None:
    config = EngineConfig.model_validate({"kind": "transformers", "dtype": "float32", "max_context": 512, "batch": 2})
    told: list[Completion] = []
    with open_engine(config, LocalModel(path=tiny_model, chat=False), told=told.append) as engine:
        assert Counter(engine.generate(PROMPTS, list(range(5)), DECODING)) == Counter(told)


def test_the_openai_engine_tells_of_every_reply_but_not_of_journalled_ones(tmp_path: Path) -> None:
    with serve(lambda prompt, seed: f"{prompt} {seed}") as url:
        config = EngineConfig.model_validate({"kind": "openai", "base_url": url, "served_model": "simulated"})
        for expected in (5, 0):
            told: list[Completion] = []
            with open_engine(config, ServedModel(served=True, chat=False), tmp_path / "arrived", told.append) as engine:
                assert len(engine.generate(PROMPTS, list(range(5)), DECODING)) == 5
            assert len(told) == expected

"""A small stage that asks for two shards at once through batches, and commits them; its process is killed and started again."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config.engines import EngineConfig
from pipeline.config.models import ServedModel
from pipeline.generation.engine import Decoding, Engine
from pipeline.generation.open_engine import open_engine
from pipeline.generation.servers.answer_journal import rotate
from pipeline.prefetch import chunks, prefetch
from tests.support.fault_injection.sitecustomize import _install

PROMPTS = tuple(f"prompt {number}" for number in range(10))
DECODING = Decoding(0.7, 1.0, 16)


def config_of(url: str, **settings: Any) -> EngineConfig:
    return EngineConfig.model_validate(
        {"kind": "openai", "base_url": url, "served_model": "simulated", "batches": True, **settings}
    )


def _texts(engine: Engine, shard: Sequence[int]) -> list[str]:
    return [said.text for said in engine.generate([PROMPTS[one] for one in shard], list(shard), DECODING)]


def run(url: str, folder: Path, per_shard: int, **settings: Any) -> dict[str, str]:
    """All texts by prompt. Those of an earlier process are in `folder`, a file for each shard."""
    found: dict[str, str] = {}
    for path in folder.glob("shard-*.json"):
        found |= json.loads(path.read_text())
    arrived = folder / "derived" / "arrived.jsonl"
    with open_engine(config_of(url, **settings), ServedModel(served=True, chat=False), arrived) as engine:
        missing = [number for number, prompt in enumerate(PROMPTS) if prompt not in found]
        for shard, texts in prefetch(partial(_texts, engine), chunks(missing, per_shard)):
            rows = {PROMPTS[one]: text for one, text in zip(shard, texts, strict=True)}
            path = folder / f"shard-{shard[0]}.json"
            path.with_suffix(".tmp").write_text(json.dumps(rows))
            path.with_suffix(".tmp").replace(path)
            rotate(arrived)
            found |= rows
    return found


def process(url: str, folder: Path, per_shard: int, kill: tuple[int, str] | None) -> None:
    """The process: `kill` is the number of a commit point, and whether it is killed before or after it."""
    if kill is not None:
        os.environ |= {"MIND_KILL": " ".join(map(str, kill)), "MIND_KILL_ROOT": str(folder)}
        _install(*kill, str(folder))
    run(url, folder, per_shard)

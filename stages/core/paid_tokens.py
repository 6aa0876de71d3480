"""What a stage's servers were paid for: in its summary, in its progress, and in the plan.

The totals are those of the ledgers beside the answer journals (`pipeline/generation/servers/spending.py`), which are on this machine only.
A stage that resumes from shards of another machine raises them to the tokens of these shards; what that machine paid for beyond them is
unknown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config.engines import EngineConfig
from pipeline.generation.servers.spending import (
    DamagedLedger,
    Ledger,
    Usage,
    in_money,
    ledger_file,
    raise_to,
    read_ledger,
    sum_of,
)
from stages.core.summaries import Spent
from storage.mirror import DERIVED


class Asked(NamedTuple):
    """A model that a stage asks: its engine, and its answer journal."""

    engine: EngineConfig
    arrived: Path


def engines_of(stage: str, config: Any) -> dict[str, EngineConfig]:
    """The engines of a stage that has to ask models, by model."""
    match stage:
        case "references":
            return {"base": config.evaluation.engine, "teacher": config.teacher_engine}
        case "evaluation":
            return {"student": config.evaluation.engine}
        case "sampling":
            judge = config.sampling.judge
            return {"teacher": config.sampling.engine} | ({} if judge is None else {"judge": judge.engine})
    return {}


def journal_file(scratch: Path, model: str) -> Path:
    """Journal of a server's answers whose shard is not committed yet; on this machine only, also under a remote root."""
    return scratch / DERIVED / f"arrived-{model}.jsonl"


def count_committed(asked: Asked, shards: Iterable[pa.Table | pa.RecordBatch]) -> None:
    """Raise a server's ledger to the tokens of committed answers, which another machine may have paid for."""
    if asked.engine.in_process:
        return
    used = Usage()
    for shard in shards:
        prompt, completion = (int(pc.sum(shard[name]).as_py() or 0) for name in ("prompt_tokens", "completion_tokens"))
        used = sum_of((used, Usage(shard.num_rows, prompt, 0, completion)))
    raise_to(ledger_file(asked.arrived), used)


def spent_on(models: Mapping[str, Asked]) -> dict[str, Spent] | None:
    """What each server was paid for; None if there is none."""
    found = {
        name: _spent(ledger_file(asked.arrived), asked.engine) for name, asked in models.items() if not asked.engine.in_process
    }
    return found or None


def _spent(path: Path, engine: EngineConfig) -> Spent:
    try:
        found = read_ledger(path)
    except DamagedLedger:  # told where it matters: where there is a limit
        found = Ledger()
    return priced(found.stated, engine).model_copy(update={"unanswered": found.lost.requests + found.in_flight.requests})


def priced(usage: Usage, engine: EngineConfig) -> Spent:
    """Tokens with their cost at an engine's prices, if it has any."""
    counts = {
        "requests": usage.requests,
        "input_tokens": usage.input,
        "cached_tokens": usage.cached,
        "output_tokens": usage.output,
    }
    if engine.prices is None:
        return Spent(**counts)
    return Spent(**counts, cost=usage.cost(engine.prices), currency=engine.prices.currency)


def usage_of(spent: Spent, share: float = 1.0) -> Usage:
    """The tokens of a summary, or a share of them."""
    counts = (spent.requests, spent.input_tokens, spent.cached_tokens, spent.output_tokens)
    return Usage(*(round(count * share) for count in counts))


def by_currency(spent: Iterable[Spent]) -> dict[str, float]:
    """Sums of what is priced, by currency."""
    found: dict[str, float] = {}
    for item in spent:
        if item.requests and item.cost is not None and item.currency is not None:
            found[item.currency] = found.get(item.currency, 0.0) + item.cost
    return found


def in_words(amounts: Mapping[str, float]) -> str:
    """Amounts by currency for people; empty without any."""
    return " + ".join(in_money(amount, currency) for currency, amount in amounts.items())


def spent_so_far(models: Mapping[str, Asked]) -> str:
    """What was spent until now, for a line of progress; empty without prices."""
    if not any(asked.engine.prices for asked in models.values()):  # called for every text
        return ""
    said = in_words(by_currency((spent_on(models) or {}).values()))
    return f", {said}" if said else ""

"""Finished runs of an experiment, without running it: the answers and the cost of every arm and seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.baselines_and_ablations import Arm
from stages.experiments.comparison import Finished
from stages.experiments.total_compute import Compute
from stages.shared.answering import SCHEMA
from storage.artifact import Artifact
from storage.store import open_store
from tests.support.summaries import accuracy as accuracy_cell
from tests.support.summaries import complete

ITEMS = [(group, f"{group}-{number % 3}", f"q{number:03d}") for group in ("id", "ood") for number in range(60)]
ARMS = {name: Arm(name, f"what {name} is", "mind" if name == "mind" else "baseline", {}) for name in ("mind", "weak", "luck")}

Right = Callable[[str, int], bool]


def answered_artifact(root: Path, stage: str, number: int, model: str, right: Right, summary: dict[str, Any]) -> Artifact:
    texts = dict.fromkeys(("answer", "gold", "rule", "finish_reason", "text"), "")
    counts = {"prompt_tokens": 1, "completion_tokens": 1}
    rows = [
        {"model": model, "group": group, "set": name, "question_id": question, **texts, **counts,
         "outcome": "correct" if right(group, int(question[1:])) else "wrong"}
        for group, name, question in ITEMS
    ]  # fmt: skip
    store = open_store(str(root))
    with store.draft(stage, f"{number:016x}") as draft:
        draft.write_shard("items", pa.Table.from_pylist(rows, schema=SCHEMA))
        return store.commit(draft, {"summary": complete(stage, summary), "timing": {}})


def finished_runs(root: Path) -> list[Finished]:
    """`mind` is correct on 50 of 60 items, `weak` on 20 fewer in distribution; `luck` differs from `mind` by seed but not on average."""
    base = answered_artifact(root, "references", 0, "base", lambda group, n: n < 10, {})
    rights: dict[str, Callable[[int], Right]] = {
        "mind": lambda seed: lambda group, n: n < 50,
        "weak": lambda seed: lambda group, n: n < (30 if group == "id" else 50),
        "luck": lambda seed: lambda group, n: n < 50 + (2 if seed else -2),
    }
    made = []
    training = {"steps": 9, "tokens_trained": 100, "mean_kept": 4.0, "mean_effective_number": 3.0}
    accuracy = {"accuracy": {"student": {"group:id": accuracy_cell(accuracy=0.5)}}}
    for number, (name, arm) in enumerate(ARMS.items()):
        for seed in (0, 1):
            place = 1 + 10 * number + seed
            trained = answered_artifact(root, "training", place, "", lambda group, n: False, training)
            answered = answered_artifact(root, "evaluation", place, "student", rights[name](seed), accuracy)
            made.append(Finished(arm, seed, base, trained, answered, Compute(4e12, 0, 1e12, 2e12 * (1 + number), 0)))
    return made

"""Synthetic inputs for a stage: artifacts of the earlier stages, of any size, and an engine that replies at once.

A question has a number that determines its answer, so answers can be written without reading the question. Rationales are correct and
differ between perspectives; they are short, because the benchmarks measure the number of rows.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.run import RunConfig
from pipeline.generation.engine import Completion, Decoding
from pipeline.grading.grade import conclusion
from pipeline.perspectives.perspective import load_perspectives
from pipeline.perspectives.run_perspectives import perspectives_of
from pipeline.prefetch import chunks
from pipeline.prompt_rendering import student_prompt
from pipeline.questions.question import Question, to_table
from stages.core.plan import plan
from stages.core.process import store_of
from stages.core.summaries import ReferencesSummary
from stages.sampling import stage as sampling
from stages.shared import answering
from stages.shared.compare_accuracy import COUNTED, accuracies
from storage.artifact import Draft
from tests.support.summaries import complete

FEATURES = 16
SHARD = 64
PERSPECTIVES = [item.name for item in load_perspectives(None, None)]


def question(number: int) -> Question:
    text = f"Item {number}: what is {number % 10} modulo 10?"
    return Question(f"bench/{number:08d}", text, str(number % 10), "number", source="bench", split="train", task="dial")


def rationale(number: int, k: int) -> str:
    steps = [f"{k}{j} plus {number % 10} is {number % 10 + k * 10 + j}." for j in range(3)]
    return f"{' '.join(steps)} {conclusion(str(number % 10))}"


def answer(prompt: str, seed: int) -> str:
    found = re.search(r"Item (\d+):", prompt)
    assert found is not None, prompt
    return rationale(int(found[1]), seed % len(PERSPECTIVES))


class _Instant:
    def generate(self, prompts: Sequence[str], seeds: Sequence[int], decoding: Decoding) -> list[Completion]:
        texts = [answer(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return [Completion(text, "stop", 40, 60, -1.0) for text in texts]


@contextmanager
def open_instant(*_: Any) -> Iterator[_Instant]:
    """Replaces `open_engine`."""
    yield _Instant()


def tree(model: Path, root: Path, stage: str, rows: int, server: str | None, perspectives: int) -> dict[str, Any]:
    """A run whose `stage` handles about `rows` rationales (answers, for references and evaluation).

    More perspectives than the shipped ones are copies.
    """
    questions = rows // perspectives
    items = {"references": rows // 2, "evaluation": rows}.get(stage, 50)
    engine = {"kind": "openai", "base_url": server, "served_model": "simulated", "connections": 8} if server else {}
    source = {"kind": "miniature", "family": "dial"}
    return {
        "name": "bench",
        "root": str(root),
        "teacher": {"path": str(model), "chat": False},
        "student": {"path": str(model), "chat": False},
        "only_perspectives": PERSPECTIVES[:perspectives],
        "perspective_copies": max(1, perspectives // len(PERSPECTIVES)),
        "prompts": {"question": "{{ question }}", "perspective": "{{ perspective }}: {{ question }}"},
        "questions": {
            "train": [{"kind": "file", "path": str(root / "train.parquet")}]
            if stage == "questions"
            else [{**source, "split": "train", "count": questions}],
            "evaluation": [{"name": "dial", "group": "id", "source": {**source, "split": "test", "count": items}}],
        },
        "sampling": {"engine": engine, "questions_per_shard": SHARD, "tries": 1, "max_tokens": 256},
        "synthesis": {
            "attempts": 1, "keep_easy": 1.0, "min_perspectives": 1, "max_tokens": 256, "warm_up_epochs": 1,
            "metanet": {"width": 16, "heads": 2},
        },
        "training": {
            "steps": 20, "questions_per_step": 8, "precision": "fp32", "checkpoint_every": 10, "zero_stage": 0, "max_length": 512,
        },
        "evaluation": {"max_tokens": 256},
    }  # fmt: skip


def names_of(run: RunConfig) -> list[str]:
    return [item.name for item in perspectives_of(run)]


def _numbers(count: int) -> Iterator[list[int]]:
    return chunks(range(count), SHARD)


def _questions(run: RunConfig, draft: Draft, count: int, items: int) -> dict[str, Any]:
    for role, name, use, total in (("id", "dial", "test", items), ("train", "train", "train", count)):
        for numbers in chunks(range(total), 8192):
            table = to_table(map(question, numbers))
            for column, value in (("role", role), ("set", name), ("use", use), ("repeats", "")):
                table = table.append_column(column, pa.array([value] * len(numbers), pa.string()))
            draft.write_shard("questions", table)
    counts = {"train": count, "evaluation": {"dial": items}}
    return {**counts, "left_out_because_long": {}, "repeats": {}, "trained_despite_evaluation_only": []}


def _references(run: RunConfig, draft: Draft, count: int, items: int) -> dict[str, Any]:
    for model in ("base", "teacher"):
        for numbers in chunks(range(items), 256):
            rows = [
                {
                    "model": model, "group": "id", "set": "dial", "question_id": question(n).id, "repeats": "",
                    "outcome": "correct",
                    "answer": str(n % 10), "gold": str(n % 10), "rule": "boxed", "finish_reason": "stop",
                    "prompt_tokens": 40, "completion_tokens": 60, "repetition": 0.0, "text": rationale(n, 0),
                }
                for n in numbers
            ]  # fmt: skip
            draft.write_shard("items", pa.Table.from_pylist(rows, schema=answering.SCHEMA))
    store, planned = store_of(run), plan(run)
    questions = store.open("questions", planned["questions"].fingerprint)
    found = accuracies(draft.shards("items", COUNTED), ("base", "teacher"))
    return {
        **ReferencesSummary(**found._asdict(), tokens=0, looping={}, asked="").stored(),
        "asked": answering.items_digest(questions, run.evaluation.use),
    }


def _sampling(run: RunConfig, draft: Draft, count: int, items: int) -> dict[str, Any]:
    for numbers in _numbers(count):
        rows = [
            {
                "question_id": question(n).id, "perspective": name, "sample_index": 0, "seed": 1, "text": rationale(n, k),
                "finish_reason": "stop", "prompt_tokens": 40, "completion_tokens": 60, "cumulative_logprob": -1.0,
                "repetition": 0.0, "outcome": "correct", "answer": str(n % 10), "rule": "boxed", "gold": str(n % 10),
            }
            for n in numbers for k, name in enumerate(names_of(run))
        ]  # fmt: skip
        draft.write_shard("samples", pa.Table.from_pylist(rows, schema=sampling.SCHEMA))
    return {"questions": count}


def _synthesis(run: RunConfig, draft: Draft, count: int, items: int) -> dict[str, Any]:
    import torch
    from safetensors.torch import save

    from pipeline.metanet.network import MetaNet
    from pipeline.student.batch import TokenRow
    from stages.synthesis.measurement import feature_table, rationale_table
    from stages.synthesis.selection import Kept

    row = TokenRow([1] * 60, 20, (50, 51))
    for numbers in _numbers(count):
        prompts = {n: student_prompt(run.prompts, question(n)) for n in numbers}
        kept = [
            Kept(question(n).id, name, row, prompts[n], rationale(n, k), str(n % 10))
            for n in numbers
            for k, name in enumerate(names_of(run))
        ]
        draft.write_shard("features", feature_table(kept, torch.rand(len(kept), FEATURES)))
        draft.write_shard("rationales", rationale_table(kept, torch.rand(len(kept))))
    shape = run.synthesis.metanet
    draft.write_bytes("metanet.safetensors", save(MetaNet(len(names_of(run)), FEATURES, shape).state_dict()))
    return {"kept_questions": count}


def _training(run: RunConfig, draft: Draft, count: int, items: int) -> dict[str, Any]:
    """Only the student: evaluation reads its tokenizer; the engine reads nothing."""
    assert run.student.path is not None
    shutil.copytree(run.student.path, draft.path("student"))
    return {}


_MAKE: dict[str, Callable[[RunConfig, Draft, int, int], dict[str, Any]]] = {
    "questions": _questions,
    "references": _references,
    "sampling": _sampling,
    "synthesis": _synthesis,
    "training": _training,
}
_NEEDED = {
    "questions": (),
    "references": ("questions",),
    "sampling": ("questions",),
    "synthesis": ("questions", "sampling"),
    "training": ("synthesis",),
    "evaluation": ("questions", "references", "training"),
}


def make_inputs(run: RunConfig, stage: str, rows: int) -> None:
    """Commit the inputs of `stage` at their fingerprints."""
    count, items = rows // len(names_of(run)), run.questions.evaluation[0].source.count  # type: ignore[union-attr]
    if stage == "questions":
        schema = to_table([]).schema
        with pq.ParquetWriter(Path(run.root) / "train.parquet", schema) as file:
            for numbers in chunks(range(count), 8192):
                file.write_table(to_table(map(question, numbers)))
    store, planned = store_of(run), plan(run)
    for name in _NEEDED[stage]:
        mine = planned[name]
        with store.draft(name, mine.fingerprint) as draft:
            summary = _MAKE[name](run, draft, 1 if stage in ("references", "evaluation") else count, items)
            store.commit(draft, {"summary": complete(mine.name, summary), "inputs": mine.inputs, "identity": mine.identity})

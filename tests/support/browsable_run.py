"""The artifacts of a finished run of any size, without a model: what the report reads. Every text may be changed, to be hostile.

Rationales and answers are right, wrong, unread, truncated or looping by their numbers; what synthesis keeps follows its rules.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import save

from pipeline.config.run import load_config
from pipeline.config.synthesis import MetaNetShape
from pipeline.metanet.inertia import InertiaState, observe
from pipeline.metanet.network import MetaNet
from pipeline.prefetch import chunks
from pipeline.questions.question import Question, to_table
from stages.core.plan import ORDER, plan
from stages.core.summaries import EvaluationSummary, ReferencesSummary
from stages.report.stage import Config
from stages.sampling.samples import SCHEMA as SAMPLES
from stages.sampling.summary import COUNTED as TALLIED
from stages.sampling.summary import tally
from stages.shared.answering import SCHEMA as ANSWERS
from stages.shared.compare_accuracy import COUNTED, accuracies, summarise
from stages.shared.looping import COLUMNS, looping
from stages.shared.mapped_tables import numbered, values
from stages.synthesis.measurement import RATIONALES
from stages.training.rank import STEPS
from storage.artifact import Artifact, Draft
from storage.atomic import read_parquet
from storage.store import Store, open_store
from tests.support.runs import REPOSITORY
from tests.support.summaries import complete
from tests.support.synthetic_artifacts import rationale

FEATURES, SHARD = 8, 64
SETS = (("id", "dial"), ("ood", "lift"))
OUTCOMES = ("correct", "correct", "wrong", "correct", "unparsed", "truncated")

Dress = Callable[[str], str]


def _question(n: int, dress: Dress) -> Question:
    return Question(dress(f"made/{n:08d}"), dress(f"Item {n}: what is it?"), dress(str(n % 10)), "number", task=dress("dial"))


def _said(number: int, k: int) -> tuple[str, float]:
    """Outcome and repetition of a text."""
    outcome = OUTCOMES[(number + k) % len(OUTCOMES)]
    return outcome, 0.9 if outcome == "truncated" and number % 2 else 0.0


def _sample(n: int, k: int, index: int, dress: Dress, name: str) -> dict[str, Any]:
    outcome, repetition = ("correct", 0.0) if index else _said(n, k)
    return {
        "question_id": dress(f"made/{n:08d}"), "perspective": name, "sample_index": index, "seed": 1,
        "text": f"{dress(f'Sample {index}.')} {rationale(n, k)}", "finish_reason": "length" if outcome == "truncated" else "stop",
        "prompt_tokens": 40, "completion_tokens": 60, "cumulative_logprob": -1.0, "repetition": repetition, "outcome": outcome,
        "answer": dress(str(n % 10)) if outcome in ("correct", "wrong") else None, "rule": dress("boxed"), "gold": str(n % 10),
    }  # fmt: skip


def _samples_of(n: int, dress: Dress, names: list[str]) -> Iterator[dict[str, Any]]:
    """One sample of each perspective, and a second one of the first perspective where its first is not right."""
    for k, name in enumerate(names):
        yield _sample(n, k, 0, dress, name)
        if k == 0 and _said(n, k)[0] != "correct":
            yield _sample(n, k, 1, dress, name)


def _answers(draft: Draft, model: str, k: int, items: int, dress: Dress) -> None:
    for numbers in chunks(range(items), 256):
        rows = []
        for n in numbers:
            (group, name), (outcome, repetition) = SETS[n * len(SETS) // items], _said(n, k)
            rows.append({
                "model": model, "group": group, "set": dress(name), "question_id": dress(f"asked/{n:08d}"), "repeats": "",
                "outcome": outcome, "answer": dress(str(n % 10)) if outcome in ("correct", "wrong") else None,
                "gold": dress(str(n % 10)), "rule": dress("boxed"), "finish_reason": "stop", "prompt_tokens": 40,
                "completion_tokens": 60, "repetition": repetition, "text": dress(rationale(n, k)),
            })  # fmt: skip
        draft.write_shard("items", pa.Table.from_pylist(rows, schema=ANSWERS))


def browsable_run(
    root: Path, questions: int = 20, items: int = 12, dress: Dress = str, changes: tuple[str, ...] = ()
) -> tuple[Config, dict[str, Artifact]]:
    """The report's configuration and inputs. `changes` are those of a configuration, as for `--set`."""
    run = load_config(REPOSITORY / "configs/miniature.yaml", (f"root={root}", "synthesis.keep_easy=1.0", *changes))
    planned, store = plan(run), open_store(str(root))
    perspectives = [item.model_copy(update={"name": dress(item.name)}) for item in planned["report"].config.perspectives]  # type: ignore[attr-defined]
    names = [item.name for item in perspectives]
    made: dict[str, Artifact] = {}
    write: dict[str, Callable[[Draft], dict[str, Any]]] = {
        "questions": lambda draft: _write_questions(draft, questions, items, dress),
        "references": lambda draft: _write_references(draft, items, dress),
        "sampling": lambda draft: _write_samples(draft, questions, dress, names),
        "synthesis": lambda draft: _write_rationales(draft, made["sampling"], names, run.synthesis.metanet),
        "training": lambda draft: _write_training(draft, made["synthesis"], names, run.training.inertia),
        "evaluation": lambda draft: _write_evaluation(draft, made["references"], items, dress),
    }
    for stage in ORDER[:-1]:
        made[stage] = _committed(store, planned[stage], write[stage], names)
    return Config.model_construct(
        descriptions={name: dress("A way.") for name in names}, perspectives=tuple(perspectives), thoughts="drop"
    ), made


def _committed(store: Store, planned: Any, write: Callable[[Draft], dict[str, Any]], names: list[str]) -> Artifact:
    config = planned.config.model_dump(mode="json")
    if "perspectives" in config:
        config["perspectives"] = [{**item, "name": name} for item, name in zip(config["perspectives"], names, strict=True)]
    provenance = {"flow_run": None, "device": "cpu", "packages": {}}
    with store.draft(planned.name, planned.fingerprint) as draft:
        about = {"summary": complete(planned.name, write(draft)), "inputs": planned.inputs, "identity": planned.identity}
        return store.commit(draft, {**about, "config": config, "timing": {}, "peak_mib": 1, "provenance": provenance})


def _write_questions(draft: Draft, count: int, items: int, dress: Dress) -> dict[str, Any]:
    def written(made: list[Question], role: str, name: str, use: str) -> None:
        table = to_table(made)
        for column, value in (("role", role), ("set", name), ("use", use), ("repeats", "")):
            table = table.append_column(column, pa.array([value] * len(made), pa.string()))
        draft.write_shard("questions", table)

    for place, (group, name) in enumerate(SETS):
        mine = [n for n in range(items) if n * len(SETS) // items == place]
        asked = [_question(n, dress) for n in mine]
        renamed = [
            Question(dress(f"asked/{n:08d}"), one.question, one.answer, "number") for n, one in zip(mine, asked, strict=True)
        ]
        written(renamed, group, dress(name), "test")
    for numbers in chunks(range(count), 8192):
        written([_question(n, dress) for n in numbers], "train", "train", "train")
    return {"train": count, "evaluation": {dress(name): items // len(SETS) for _, name in SETS}}


def _write_references(draft: Draft, items: int, dress: Dress) -> dict[str, Any]:
    for k, model in enumerate(("base", "teacher")):
        _answers(draft, model, k, items, dress)
    found = accuracies(draft.shards("items", COUNTED), ("base", "teacher"))
    loops = looping(draft.shards("items", COLUMNS))
    return ReferencesSummary(**found._asdict(), tokens=0, looping=loops, asked="").stored()


def _write_samples(draft: Draft, count: int, dress: Dress, names: list[str]) -> dict[str, Any]:
    for numbers in chunks(range(count), SHARD):
        rows = chain.from_iterable(_samples_of(n, dress, names) for n in numbers)
        draft.write_shard("samples", pa.Table.from_pylist(list(rows), schema=SAMPLES))
    return tally(draft.shards("samples", TALLIED), names, draft.folder).stored()


def _write_rationales(draft: Draft, sampling: Artifact, names: list[str], shape: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    questions, kept = 0, dict.fromkeys(names, 0)
    for path in sampling.files("samples"):
        rows = [row for row in read_parquet(path).to_pylist() if row["outcome"] == "correct"]
        questions += len({row["question_id"] for row in rows})
        made = [
            {**{name: row[name] for name in ("question_id", "perspective")}, "rationale": row["text"], "prompt": "p",
             "answer": row["gold"], "tokens": 60, "base_loss": float(torch.rand(()))}
            for row in rows
        ]  # fmt: skip
        for row in rows:
            kept[row["perspective"]] += 1
        flat = pa.FixedSizeListArray.from_arrays(pa.array(torch.rand(len(rows) * FEATURES).numpy(), pa.float32()), FEATURES)
        keys = {name: pa.array([row[name] for row in rows], pa.string()) for name in ("question_id", "perspective")}
        draft.write_shard("features", pa.table({**keys, "feature_F": flat}))
        draft.write_shard("rationales", pa.Table.from_pylist(made, schema=RATIONALES))
    draft.write_bytes("metanet.safetensors", save(MetaNet(len(names), FEATURES, shape).state_dict()))
    return {"questions": questions, "kept_questions": questions, "kept": kept, "base_loss": dict.fromkeys(names, 0.5)}


def _write_training(draft: Draft, synthesis: Artifact, names: list[str], inertia: Any) -> dict[str, Any]:
    """As if every question was met by one step, and all its rationales were measured."""
    count = synthesis.manifest["summary"]["kept_questions"]
    losses_NK, mask_NK = torch.zeros(count, len(names)), torch.zeros(count, len(names), dtype=torch.bool)
    for piece, places in numbered(synthesis.batches("rationales", ["question_id", "perspective", "base_loss"]), names, count):
        losses_NK[places], mask_NK[places] = torch.tensor(values(piece, "base_loss")), True
    state = InertiaState.empty(*mask_NK.shape)
    for factor in (1.0, 0.5):
        observe(state, inertia, torch.arange(count), factor * losses_NK, mask_NK)
    draft.write_bytes("inertia.safetensors", save(state.tensors()))
    shape = synthesis.manifest["config"]["synthesis"]["metanet"]
    torch.manual_seed(1)
    draft.write_bytes(
        "metanet.safetensors", save(MetaNet(len(names), FEATURES, MetaNetShape.model_validate(shape)).state_dict())
    )
    row = {field.name: [1.0] * len(names) if field.name.endswith("_K") else 1 for field in STEPS}
    steps = pa.Table.from_pylist([{**row, "step": step} for step in range(3)], schema=STEPS)
    draft.write_table("steps-000003", steps.replace_schema_metadata({b"perspectives": json.dumps(names).encode()}))
    return {"steps": 3}


def _write_evaluation(draft: Draft, references: Artifact, items: int, dress: Dress) -> dict[str, Any]:
    _answers(draft, "student", 2, items, dress)
    tables = chain(references.batches("items", COUNTED), draft.shards("items", COUNTED))
    found = summarise(tables, ("base", "teacher"))
    loops = {**references.manifest["summary"]["looping"], **looping(draft.shards("items", COLUMNS))}
    return EvaluationSummary(**found._asdict(), tokens=0, looping=loops).stored()

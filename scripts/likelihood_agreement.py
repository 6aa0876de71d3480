"""Compares a run's likelihoods with those of lm-evaluation-harness, item by item and choice by choice.

`python -m scripts.likelihood_agreement CONFIG [--model base] [--items 200]`, after the stage `references` (for `base` and `teacher`), in
an environment that has MIND's packages and `lm-eval`. lm-eval's own `HFLM.loglikelihood` gets the same texts before and after the cut,
and computes tokens and sums by itself, one request at a time.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.config.models import LocalModel
from pipeline.config.run import load_config
from pipeline.student.choice_likelihood import choices_of
from stages.core.plan import plan
from stages.core.process import store_of
from stages.shared.answering import evaluation_task, items
from stages.shared.likelihoods import likelihood_context, likelihood_rounds


def main() -> None:
    """Print the largest differences and the number of equal verdicts, for each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--model", choices=("base", "teacher"), default="base")
    parser.add_argument("--items", type=int, default=200, help="compare the first items of each round, this many")
    arguments = parser.parse_args()
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    run = load_config(arguments.config, tuple(arguments.overrides))
    model, engine = (run.student, run.evaluation.engine) if arguments.model == "base" else (run.teacher, run.teacher_engine())
    assert isinstance(model, LocalModel), "a local model is compared"
    store, planned = store_of(run), plan(run)
    questions, references = (store.open(name, planned[name].fingerprint) for name in ("questions", "references"))
    asking = evaluation_task(questions, run.prompts, run.evaluation)
    theirs = HFLM(pretrained=model.location, dtype=engine.dtype, batch_size=1, device="cpu", max_length=engine.max_context)

    def asked(context: str, choice: str) -> Any:
        return Instance(request_type="loglikelihood", doc={}, arguments=(context, f" {choice}"), idx=0)

    for prefix, examples in likelihood_rounds(asking).items():
        rows = {row["question_id"]: row for row in references.table(prefix).to_pylist() if row["model"] == arguments.model}
        scored = [item for item in items(asking) if item.question.id in rows][: arguments.items]
        requests, ours = [], []
        for item in scored:
            row = rows[item.question.id]
            for number, choice in enumerate(choices_of(item.question)):
                requests += [asked(likelihood_context(asking, item, examples), choice), asked("", choice)]
                ours += [row["sum_K"][number], row["unconditional_K"][number]]
        sums = [value for value, _ in theirs.loglikelihood(requests, disable_tqdm=True)]
        apart = [abs(mine - other) for mine, other in zip(ours, sums, strict=True)]
        same, first = 0, 0
        for item in scored:
            last = first + 2 * len(choices_of(item.question))
            best = [max(range(first, last, 2), key=found.__getitem__) for found in (ours, sums)]
            same, first = same + (best[0] == best[1]), last
        print(
            f"{prefix}: {len(scored)} items, {len(apart)} log-likelihoods; largest difference {max(apart):.2g}; same choice by sum "
            f"{same}"
        )


if __name__ == "__main__":
    main()

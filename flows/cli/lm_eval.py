"""The commands `mind lm-eval export` and `mind lm-eval compare`: a run's items in lm-evaluation-harness, which is installed separately."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli.formatting import AsJson, print_json, print_table, reported
from pipeline.config.models import Weights, with_weights_at
from pipeline.config.run import RunConfig, load_config

if TYPE_CHECKING:
    from storage.artifact import Artifact

app = typer.Typer(help="Cross-check a run's items with lm-evaluation-harness.", no_args_is_help=True)

ConfigFile = Annotated[Path, typer.Argument(help="a run's YAML file")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a field")]
Model = Annotated[Literal["student", "base"], typer.Option(help="the model that answers: the trained student, or its base")]


def _done(run: RunConfig, stage: str) -> Artifact:
    from stages.core.plan import plan
    from stages.core.process import store_of
    from storage.errors import ArtifactMissing

    store, planned = store_of(run), plan(run)[stage]
    if not store.exists(stage, planned.fingerprint):
        raise ArtifactMissing(
            f"lm-eval: requires {stage}/{planned.fingerprint}, which does not exist; run the {stage} stage first"
        )
    return store.open(stage, planned.fingerprint)


@app.command()
def export(
    config: ConfigFile,
    out: Annotated[Path, typer.Option(help="a new folder for tasks and items")],
    model: Model = "student",
    overrides: Overrides = None,
) -> None:
    """Write the run's evaluation items as tasks of lm-eval and lighteval.

    Prints the commands that evaluate them.
    """
    with reported():
        from stages import lm_eval

        run = load_config(config, tuple(overrides or ()))
        asked: Weights = run.student
        if model == "student":
            asked = with_weights_at(run.student, _done(run, "training").path("student"))
        counts = lm_eval.export(run, _done(run, "questions"), asked, out)
        print(f"{sum(counts.values())} items of {', '.join(counts)} are in {out}. Evaluate them with")
        revision = f",revision={asked.revision}" if asked.revision else ""
        print(
            f"lm_eval --model hf --model_args pretrained={asked.location}{revision},dtype={run.evaluation.engine.dtype} "
            f"--include_path {out} --tasks {lm_eval.tag(run)} --batch_size 16 --log_samples --output_path {out / 'results'}"
        )
        tasks = ",".join(f"{lm_eval.tag(run)}_{name}|0" for name in counts)
        print("or, with lighteval,")
        print(
            f"lighteval accelerate model_name={asked.location}{revision},dtype={run.evaluation.engine.dtype},batch_size=16,"
            f"override_chat_template=False '{tasks}' --custom-tasks {out / 'lighteval_tasks.py'} --output-dir {out / 'results'} "
            "--save-details"
        )


@app.command()
def compare(
    config: ConfigFile,
    samples: Annotated[list[Path], typer.Argument(help="lm-eval's samples_*.jsonl files, or folders that contain them")],
    model: Model = "student",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare lm-eval's answers with the run's own.

    Shows the number of equal verdicts, and the cause of each different one.
    """
    with reported():
        from stages import lm_eval

        run = load_config(config, tuple(overrides or ()))
        answers = _done(run, "evaluation" if model == "student" else "references")
        compared = lm_eval.compare(answers, model, lm_eval.read_samples(samples))
        rows, differing = lm_eval.table(compared), [item for item in compared.both if item.cause is not None]
        if as_json:
            print_json({"sets": rows, "differences": [{**item._asdict(), "cause": item.cause} for item in differing]})
            return
        print_table(list(rows[0]), ([*row.values()] for row in rows), right=list(rows[0])[1:])
        if differing:
            print()
            print_table(
                ("set", "question", "differ by", "read here", "right", "read there", "right there"),
                (
                    (
                        item.set,
                        item.question_id,
                        item.cause,
                        item.ours.read,
                        item.ours.right,
                        item.theirs.read,
                        item.theirs.right,
                    )
                    for item in differing
                ),
            )

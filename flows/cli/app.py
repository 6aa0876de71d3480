"""The command line `mind`. The outermost layer: in this package, only the command line imports flows and stages.

Exit codes: 0 done, 1 a stage failed, 2 bad input. Each command imports its slow dependencies itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import artifacts as cli_artifacts
from flows.cli import experiments as cli_bench
from flows.cli import import_gguf as cli_gguf
from flows.cli import init_and_doctor as cli_start
from flows.cli import list_sources as cli_sources
from flows.cli import lm_eval as cli_lm_eval
from flows.cli import server as cli_server
from flows.cli import show_prompt as cli_prompts
from flows.cli.formatting import DATA, EXPERIMENTS, RUN, AsJson, duration, print_json, print_table, reported, size
from flows.prefect_settings import prefect_home
from pipeline import miniature as world
from pipeline.config.models import LocalModel
from pipeline.config.run import RunConfig, load_config

if TYPE_CHECKING:
    from stages.core.changes_and_cost import Explained

app = typer.Typer(
    help="MIND: distil a student from a teacher's rationales in eight perspectives.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
miniature = typer.Typer(help="Train the miniature models again.", no_args_is_help=True)
# `mind --help` shows the groups in the order of their first commands.
app.add_typer(cli_start.app)
app.add_typer(cli_server.app)
app.add_typer(cli_prompts.app)
app.add_typer(cli_sources.app)
app.add_typer(cli_gguf.app)
app.add_typer(miniature, name="miniature", rich_help_panel=DATA)
app.add_typer(cli_artifacts.app)
app.add_typer(cli_bench.app, name="bench", rich_help_panel=EXPERIMENTS)
app.add_typer(cli_lm_eval.app, name="lm-eval", rich_help_panel=EXPERIMENTS)

ConfigFile = Annotated[Path, typer.Argument(help="a run's YAML file, for example configs/miniature.yaml")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a field, for example training.steps=100")
]


def _load(config: Path, overrides: list[str] | None) -> RunConfig:
    return load_config(config, tuple(overrides or ()))


def _hints(run: RunConfig) -> list[str]:
    shipped = Path(str(world.__file__)).parent / "models"
    if isinstance(run.teacher, LocalModel) and run.teacher.path.is_relative_to(shipped):
        return ["These are miniature models; for real ones set teacher.path and student.path (see configs/qwen2.5-1.5b.yaml)."]
    return []


@app.command(rich_help_panel=RUN)
def run(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run the whole distillation, or what is missing of it.

    Finished stages are reused, unfinished ones resumed.
    """
    with reported():
        loaded = _load(config, overrides)
        from flows.result_tables import say_stage, show_result
        from flows.run_records import finished_outcomes, record
        from flows.stage_process import freeze_config, keep_interrupts
        from flows.tracking.following import followed, require_trackers
        from stages.core.plan import plan as planned_stages
        from stages.core.process import store_of
        from stages.training.launcher import check_machine

        prefect_home(store_of(loaded).root)
        keep_interrupts()

        planned = planned_stages(loaded)
        outcomes = finished_outcomes(loaded)
        if outcomes is not None and "PREFECT_API_URL" not in os.environ:
            # Nothing to run and no server to show it on: do not start one.
            with followed(loaded) as trackers:
                for name, outcome in outcomes.items():
                    say_stage(name, outcome)
                    trackers.finished(outcome.artifact)
            record(loaded, planned, "done")
        else:
            check_machine(loaded.training)
            require_trackers(loaded.tracking)
            freeze_config(loaded, planned["questions"])  # a root that cannot be written is rejected before a server starts
            from prefect import tags

            from flows.distill import distill
            from flows.job_parameters import CHANGES_MAY_NAME_SERVERS, Job
            from flows.server.temporary import start_temporary_server

            start_temporary_server()
            os.environ[CHANGES_MAY_NAME_SERVERS] = "1"  # who types a command owns this environment
            with tags("mind"):  # as deployments have; automations look for it
                seconds = distill(Job(config=str(config.resolve()), changes=tuple(overrides or ())))
            outcomes = finished_outcomes(loaded, seconds)
            assert outcomes is not None, "the flow succeeded, so every artifact exists"
        show_result(outcomes, _hints(loaded))


@app.command(rich_help_panel=RUN)
def stage(name: str, config: ConfigFile, overrides: Overrides = None) -> None:
    """Run one stage; its input stages must be done."""
    with reported():
        from pipeline.errors import ConfigError
        from stages.core.plan import ORDER

        if name not in ORDER:
            raise ConfigError(f"stage {name!r}: unknown; use one of {', '.join(ORDER)}")
        loaded = _load(config, overrides)
        from flows.result_tables import say_stage
        from flows.run_records import run_one

        say_stage(name, run_one(loaded, name))


@app.command(rich_help_panel=RUN)
def redistill(
    config: ConfigFile,
    overrides: Overrides = None,
    margin: Annotated[float, typer.Option(help="accepted loss of in-distribution accuracy; 0.02 is 2 points")] = 0.02,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="compare pass@1 over sampled answers (evaluation.draws), not greedy ones")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be done or decided; change nothing")] = False,
) -> None:
    """Distil again if an input changed; promote if it is not worse.

    The candidate is compared with the promoted student on identical items.
    """
    with reported():
        loaded = _load(config, overrides)
        from stages.core.process import store_of

        prefect_home(store_of(loaded).root)
        from prefect import tags

        from flows.job_parameters import CHANGES_MAY_NAME_SERVERS, Job
        from flows.redistill import redistill as flow
        from flows.server.temporary import start_temporary_server
        from pipeline.analysis.promotion_rule import Policy

        start_temporary_server()
        os.environ[CHANGES_MAY_NAME_SERVERS] = "1"  # who types a command owns this environment
        job = Job(config=str(config.resolve()), changes=tuple(overrides or ()))
        with tags("mind"):  # as deployments have; automations look for it
            state = flow(job, Policy(margin=margin, sampled=sampled), dry_run, return_state=True)
        if state.is_failed() or state.is_crashed():
            state.result()
        print(f"{state.name}: {state.message}")


@app.command(rich_help_panel=RUN)
def plan(config: ConfigFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check the configuration; show what would run, why, its cost.

    Loads no model.
    """
    with reported():
        loaded = _load(config, overrides)
        from dataclasses import asdict

        from stages.core.changes_and_cost import explain
        from stages.core.plan import plan as planned_stages

        explained = explain(loaded, planned_stages(loaded))
        if as_json:
            changes = {item.stage: [change._asdict() for change in item.changes] for item in explained}
            print_json([{**asdict(item), "changes": changes[item.stage]} for item in explained])
            return
        priced = any(item.paid or (item.expected and item.expected.cost) for item in explained)
        columns = ["stage", "artifact", "state", "tokens", "size", "time", *(["cost"] if priced else []), "so far"]
        print_table(
            columns,
            ([cells[name] for name in columns] for cells in map(_plan_row, explained)),
            right=("tokens", "size", "time", "cost"),
        )
        rows = [(item.stage, *map(_short, change)) for item in explained for change in item.changes]
        if rows:
            print()
            print_table(("stage", "what changed", "old", "new"), rows)
        against = [f"{item.stage} with {item.against}" for item in explained if item.against and item.changes]
        if against:
            print(
                f"\ncompared {', '.join(against)}; expected figures are those of that artifact, scaled by the amount of work, and unknown "
                "where models, engines, lengths or precision differ"
            )
        from pipeline.capacity.recipe import recipe_checks

        for check in recipe_checks(loaded):
            print(f"\n{check.name}: {check.found}" + (f"; {check.remedy}" if check.remedy else ""))


def _plan_row(item: Explained) -> dict[str, str | None]:
    """The cells of a stage's row, by column; expected figures have a tilde."""
    from stages.core.paid_tokens import in_words

    expected, paid = item.expected, in_words(item.paid)
    cost = in_words(expected.cost) if expected else ""
    return {
        "stage": item.stage,
        "artifact": item.fingerprint,
        "state": item.state,
        "tokens": f"~{expected.tokens:,}" if expected and expected.tokens is not None else None,
        "size": f"~{size(expected.bytes)}" if expected else None,
        "time": _expected_time(item),
        "cost": f"~{cost}" if cost else None,
        "so far": ", ".join(filter(None, (item.detail, paid and f"{paid} paid"))),
    }


def _expected_time(item: Explained) -> str:
    """The expected time, or that nothing comparable has run yet."""
    if item.expected is not None:
        return f"~{duration(item.expected.seconds)}"
    return "" if item.state == "cached" else "unknown"


def _short(value: object) -> str:
    text = "-" if value is None else str(value).replace("\n", " ")
    return text if len(text) <= 60 else f"{text[:57]}..."


@app.command(rich_help_panel=RUN)
def join(
    config: ConfigFile,
    host: Annotated[int, typer.Option(help="this host's number, from 1; the first host, 0, runs the stage itself")],
    overrides: Overrides = None,
) -> None:
    """Provide this host's ranks for a training on several hosts."""
    with reported():
        loaded = _load(config, overrides)
        from stages.training.host import join as lend

        lend(loaded, host, lambda line: print(line, flush=True))


@miniature.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="the recipe's YAML file")] = Path("configs/miniature-build.yaml"),
    out: Annotated[Path, typer.Option(help="the folder to write teacher/ and student/ to")] = Path("miniature-models"),
    only: Annotated[str | None, typer.Option(help="teacher or student; default: both")] = None,
    items: Annotated[int, typer.Option(help="dev questions per family for the model cards' results")] = 200,
    overrides: Overrides = None,
) -> None:
    """Train the miniature tokenizer, teacher and student from scratch.

    About an hour on two cores.
    """
    with reported():
        from pipeline.miniature.build import build as build_models
        from pipeline.miniature.build import load_recipe

        build_models(load_recipe(recipe, tuple(overrides or ())), out, only, items, lambda line: print(line, flush=True))

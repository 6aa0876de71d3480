"""`mind bench`: runs and compares the experiments behind the claims, and the speed benchmarks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel

from flows.cli.formatting import AsJson, print_json, print_table, reported
from pipeline.baselines_and_ablations import KEPT

if TYPE_CHECKING:
    from flows.experiments.compare_arms import Experiment

Model = TypeVar("Model", bound=BaseModel)

app = typer.Typer(help="Compare whole ways to train, and measure speed.", no_args_is_help=True)


def _experiment(config: Path, overrides: list[str] | None, use: str, **fields: Any) -> Experiment:
    """An experiment from the command's options."""
    from flows.prefect_settings import prefect_home
    from pipeline.config.run import load_config
    from stages.core.process import store_of

    changes = tuple(overrides or ())
    prefect_home(store_of(load_config(config, (*changes, f"evaluation.use={use}"))).root)
    from flows.experiments.compare_arms import Experiment

    return _checked(Experiment, config=str(config.resolve()), changes=changes, use=use, **fields)


def _checked(model: type[Model], **fields: Any) -> Model:
    """Options validated as a model."""
    from pydantic import ValidationError

    from pipeline.errors import ConfigError

    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"--{first['loc'][0]}: {first['msg'].lower()}, not {first['input']!r}; correct it") from error


ConfigFile = Annotated[Path, typer.Argument(help="the arms' common YAML file")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a field in every arm")]
Use = Annotated[str, typer.Option(help="evaluation sets: dev for making choices, test once for results")]


@app.command()
def science(
    config: ConfigFile = Path("configs/science.yaml"),
    overrides: Overrides = None,
    arms: Annotated[str | None, typer.Option(help="names of arms, separated by commas; default: all")] = None,
    seeds: Annotated[int, typer.Option(help="number of seeds, counted from 0", min=1)] = 5,
    use: Use = "dev",
    against: Annotated[str, typer.Option(help="the arm that all others are compared with")] = "mind",
    copied: Annotated[
        str | None, typer.Option(help="the perspective of the arm with repeated samples; default: the first")
    ] = None,
    kept: Annotated[
        float,
        typer.Option(
            help="rationales of a question that the method keeps with this configuration; arms are matched in rationales"
        ),
    ] = KEPT,
    match: Annotated[
        str, typer.Option(help="steps, or compute: arms then cost the same in all, by the finished runs matched in steps")
    ] = "steps",
    workers: Annotated[int, typer.Option(help="parallel processes, one per core", min=1)] = 2,
    as_json: AsJson = False,
) -> None:
    """Train every arm with every seed, and compare the arms.

    Finished runs are skipped. The arms are compared on identical items.
    """
    with reported():
        from flows.stage_process import freeze_config
        from pipeline.config.run import load_config
        from stages.core.plan import plan

        # A bad field, a root that cannot be written or an unknown arm is rejected before a server starts.
        base = load_config(config, (*(overrides or ()), f"evaluation.use={use}"))
        freeze_config(base, plan(base)["questions"])
        experiment = _experiment(
            config, overrides, use, seeds=seeds, arms=tuple(arms.split(",")) if arms else None, against=against,
            copied=copied, kept=kept, match=match, workers=workers,
        )  # fmt: skip
        from flows.experiments.compare_arms import folder_of, runs_of
        from flows.experiments.compare_arms import science as flow
        from flows.server.temporary import start_temporary_server
        from stages.experiments.claims import in_points

        runs_of(experiment)
        start_temporary_server()
        found = flow(experiment)
        if as_json:
            print_json(found)
            return
        rows = sorted(found["arms"], key=lambda row: -row["id"]["mean"])
        print()
        print_table(
            ("arm", "seeds", "in distribution", "out of distribution", "tokens", "TFLOP", "s"),
            (
                (
                    row["arm"],
                    str(len(row["seeds"])),
                    in_points(row["id"]),
                    in_points(row["ood"]),
                    f"{row['tokens']:,.0f}",
                    f"{row['compute'] / 1e12:.3g}",
                    f"{row['seconds_training'] + row['seconds_evaluation']:.0f}",
                )
                for row in rows
            ),
            right=("tokens", "TFLOP", "s"),
        )
        undistilled = found["base"]
        print(
            f"\nbase: {undistilled['id'] * 100:.1f} in, {undistilled['ood'] * 100:.1f} out of distribution; changes are against {against}"
        )
        _print_claims(found["claims"])
        print(f"page: {folder_of(experiment) / 'science.html'}")


def _print_claims(said: dict[str, Any] | None) -> None:
    """Print the margins over the best baseline, beside the paper's."""
    if said is None:
        return
    from stages.experiments.comparison import GROUPS

    for group, title in GROUPS.items():
        it = said[group]
        print(
            f"{title}: {said['arm']} {_margin(it)} over the best baseline, {it['best']} (paper: {it['published'] * 100:+.2f})"
        )


@app.command()
def phase(
    students: Annotated[str, typer.Option(metavar="NAME=FOLDER,...", help="base students, smallest first")],
    questions: Annotated[str, typer.Option(help="numbers of training questions, separated by commas")],
    config: ConfigFile = Path("configs/science.yaml"),
    overrides: Overrides = None,
    arms: Annotated[
        str, typer.Option(help="names of arms, separated by commas")
    ] = "mind,single-analogy,single-contrastive,uniform",
    seeds: Annotated[int, typer.Option(help="number of seeds, counted from 0", min=1)] = 5,
    use: Use = "dev",
    workers: Annotated[int, typer.Option(help="parallel processes, one per core", min=1)] = 2,
    as_json: AsJson = False,
) -> None:
    """Find where MIND's advantage starts and ends.

    Repeats the experiment with every student and number of questions.
    """
    with reported():
        experiment = _experiment(config, overrides, use, seeds=seeds, arms=tuple(arms.split(",")), workers=workers)
        from flows.experiments.compare_arms import runs_of
        from flows.experiments.phase_diagram import Phase, cells_of, folder_of_phase
        from flows.experiments.phase_diagram import phase as flow
        from stages.experiments.comparison import GROUPS

        named = {name: folder for name, _, folder in (pair.partition("=") for pair in students.split(","))}
        wanted = _checked(Phase, experiment=experiment, students=named, questions=questions.split(","))
        # A folder without a student or an unknown arm is rejected before a server starts.
        for place in cells_of(wanted):
            runs_of(place.experiment)
        from flows.server.temporary import start_temporary_server

        start_temporary_server()
        found = flow(wanted)
        if as_json:
            print_json(found)
            return
        print()
        print_table(
            ("student", "questions", *(f"{name}, {title}" for title in GROUPS.values() for name in ("base", "mind", "ahead"))),
            (
                (
                    cell["size"],
                    f"{cell['questions']:,}",
                    *(text for group in GROUPS for text in _ahead(cell["compared"], group)),
                )
                for cell in found["cells"]
            ),
            right=("questions",),
        )
        print("\nahead: margin over the best baseline, in points")
        print(f"page: {folder_of_phase(wanted) / 'phase.html'}")


def _ahead(compared: dict[str, Any], group: str) -> tuple[str, str, str]:
    """The base's accuracy, MIND's accuracy, and MIND's margin over the best baseline."""
    said = compared["claims"][group]
    mine = next(row for row in compared["arms"] if row["arm"] == compared["against"])
    return (
        f"{compared['base'][group] * 100:.1f}",
        f"{mine[group]['mean'] * 100:.1f}",
        f"{_margin(said)} {said['best']}",
    )


def _margin(said: dict[str, Any]) -> str:
    """A margin in points with its interval."""
    return f"{said['margin'] * 100:+.1f} [{said['low'] * 100:+.1f}, {said['high'] * 100:+.1f}]"


@app.command()
def latent(
    config: ConfigFile = Path("configs/science.yaml"),
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(help="the seed whose runs are read", min=0)] = 0,
    use: Use = "dev",
    questions: Annotated[int, typer.Option(help="number of questions whose rationales are read", min=10)] = 100,
    as_json: AsJson = False,
) -> None:
    """Test whether students distinguish perspectives.

    Base, specialists, uniform and MIND read the same rationales, with controls.
    """
    with reported():
        experiment = _experiment(config, overrides, use)
        from flows.experiments.compare_arms import folder_of
        from flows.experiments.latent_analysis import latent as analysis

        found = analysis(experiment, seed, questions, quiet=as_json)
        if as_json:
            print_json(found)
            return
        print()
        _print_states(found)
        print()
        for finding in found["findings"]:
            print(f"- {finding}")
        print(f"page: {folder_of(experiment) / 'latent.html'}")


@app.command()
def speed(
    what: Annotated[
        str, typer.Option(help="parts to measure, separated by commas")
    ] = "memory,sampling,evaluation,training,soft-targets,on-policy",
    repeats: Annotated[int, typer.Option(help="alternating repeats", min=1)] = 5,
    threads: Annotated[int, typer.Option(help="PyTorch threads in training", min=1)] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure speed as ratios of implementations.

    They do the same work in alternation.
    """
    with reported():
        from stages.speed.bench import SpeedRow, bench

        def say(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        rows: list[SpeedRow] = bench(what.split(","), repeats, threads, say)
        if as_json:
            print_json([row._asdict() for row in rows])
            return
        print()
        print_table(
            ("", "ratio", "middle half", "wanted"),
            ((row.name, f"{row.median:.2f}", f"{row.low:.2f} to {row.high:.2f}", row.wanted) for row in rows),
            right=("ratio",),
        )


def _print_states(found: dict[str, Any]) -> None:
    """Print the clusters of the specialists and their controls, then of every model on all rationales."""

    def figure(value: float | None, form: str) -> str:
        return "" if value is None else f"{value:{form}}"

    def row(
        name: str, cell: dict[str, Any], rank: float | None, similar: float | None, answer: float | None
    ) -> tuple[str, ...]:
        found = (cell["ari"], ".2f"), (cell["silhouette"], ".2f"), (cell["probe"]["accuracy"], ".0%"), (rank, ".1f")
        return (name, *(figure(*item) for item in (*found, (similar, ".3f"), (answer, ".1%"))))

    beside = (
        row(item["says"], item, None if item["name"] == "text" else item["effective_rank"]["value"], None, None)
        for item in found["clusters"]
    )
    models = (
        row(item["model"], item["clusters"], item["clusters"]["effective_rank"]["value"], item["cka"]["value"],
            item["answer"]["cut"]["inside_questions"]["value"])
        for item in found["models"]
    )  # fmt: skip
    numbers = ("ARI", "silhouette", "probe", "effective rank", "CKA with base", "answer depends on rationale")
    print_table(("last layer's states", *numbers), (*beside, *models), right=numbers)

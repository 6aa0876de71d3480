"""`mind bench`: the experiments behind the claims, run and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli_output import AsJson, print_json, print_table, reported

app = typer.Typer(help="Experiments: which arm wins, and why.", no_args_is_help=True)


def _points(cell: dict[str, Any]) -> str:
    other = cell["against"]
    spread = f" ±{cell['spread'] * 100:.1f}" if len(cell["each"]) > 1 else ""
    change = f"  {other['change'] * 100:+.1f} [{other['low'] * 100:+.1f}, {other['high'] * 100:+.1f}]" if other else ""
    return f"{cell['mean'] * 100:.1f}{spread}{change}"


@app.command()
def science(
    config: Annotated[Path, typer.Argument(help="the YAML file that the arms change")] = Path("configs/science.yaml"),
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a field in every arm")
    ] = None,
    arms: Annotated[str | None, typer.Option(help="names of arms, with commas between; all, if left out")] = None,
    seeds: Annotated[int, typer.Option(help="how many seeds, from 0", min=1)] = 5,
    use: Annotated[str, typer.Option(help="dev for choices; test, once, for results")] = "dev",
    against: Annotated[str, typer.Option(help="the arm that the others are compared with")] = "mind",
    copied: Annotated[str | None, typer.Option(help="the perspective that one arm samples many times")] = None,
    workers: Annotated[int, typer.Option(help="processes at a time, one per core", min=1)] = 2,
    as_json: AsJson = False,
) -> None:
    """Train every arm with every seed, or what of it is missing, and compare them on identical items."""
    with reported():
        from pydantic import ValidationError

        from pipeline.cli import prefect_home
        from pipeline.config import load_config
        from pipeline.errors import ConfigError
        from stages.process import store_of

        prefect_home(store_of(load_config(config, tuple(overrides or ()))).root)
        from flows.arms import Experiment, chosen, folder_of
        from flows.arms import science as flow

        try:
            experiment = Experiment.model_validate(
                {
                    "config": str(config.resolve()), "changes": tuple(overrides or ()), "seeds": seeds, "use": use,
                    "arms": tuple(arms.split(",")) if arms else None, "against": against,
                    "copied": copied, "workers": workers,
                }
            )  # fmt: skip
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"--{first['loc'][0]}: {first['msg'].lower()}, not {first['input']!r}; correct it") from error
        chosen(experiment)  # an unknown arm is refused before a server starts
        found = flow(experiment)
        if as_json:
            print_json(found)
            return
        rows = sorted(found["arms"], key=lambda row: -row["id"]["mean"])
        print()
        print_table(
            ("arm", "seeds", "in distribution", "out of distribution", "tokens", "s"),
            (
                (row["arm"], str(len(row["seeds"])), _points(row["id"]), _points(row["ood"]), f"{row['tokens']:,.0f}",
                 f"{row['seconds_training'] + row['seconds_evaluation']:.0f}")
                for row in rows
            ),
            right=("tokens", "s"),
        )  # fmt: skip
        base = found["base"]
        print(f"\nbase: {base['id'] * 100:.1f} in, {base['ood'] * 100:.1f} out of distribution; changes are over {against}")
        print(f"page: {folder_of(experiment) / 'science.html'}")

"""`mind doctor` and `mind init`: is this machine ready, and a first configuration for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli_output import AsJson, print_json, print_table, reported
from pipeline.config import load_config

app = typer.Typer(add_completion=False)


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="a run's YAML file: its models, memory and time are checked too")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a field")] = None,
    as_json: AsJson = False,
) -> None:
    """Check packages, GPUs, memory, disk and the hub, and what a configuration needs of them; loads no model."""
    with reported():
        from pipeline.doctor import examine, worst

        run = None if config is None else load_config(config, tuple(overrides or ()))
        found = list(examine(run))
        if as_json:
            print_json([check._asdict() for check in found])
        else:
            rows = ((check.name, check.state, check.found, check.remedy if check.state != "ok" else "") for check in found)
            print_table(("what", "state", "found", "remedy"), rows)
        if worst(found) == "fail":
            raise typer.Exit(2)

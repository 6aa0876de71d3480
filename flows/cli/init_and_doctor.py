"""`mind doctor` and `mind init`: checks whether this machine is ready, and writes a first configuration.

`mind doctor CONFIG --try` goes on after its checks, if none failed: it loads teacher and student and takes one training step.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from flows.cli.formatting import RUN, AsJson, print_json, print_table, reported
from pipeline.capacity.machine import Check
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError, MindError
from storage.errors import StorageError

app = typer.Typer(add_completion=False)

_NOT_TRIED: Final = Check("try", "warn", "nothing was tried, because a check failed", "correct what failed, then run again")


@app.command(rich_help_panel=RUN)
def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="a run's YAML file: its models, memory and time are checked too")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a field")] = None,
    attempt: Annotated[
        bool, typer.Option("--try", help="then load what the configuration names: teacher, student, one training step")
    ] = False,
    minutes: Annotated[float, typer.Option(help="with --try: time limit of each of the three", min=0.01)] = 10,
    as_json: AsJson = False,
) -> None:
    """Check this machine, and whether it meets a run's needs.

    Packages, GPUs, memory, disk and the hub. Loads no model without --try.
    """
    with reported():
        from pipeline.capacity.doctor import all_checks, worst

        if attempt and config is None:
            raise ConfigError("--try: without a configuration there is nothing to load; use mind doctor CONFIG --try")
        run = None if config is None else load_config(config, tuple(overrides or ()))
        found = list(all_checks(run))
        if attempt and run is not None:
            found += _tried(run, minutes) if worst(found) != "fail" else [_NOT_TRIED]
        if as_json:
            print_json([check._asdict() for check in found])
        else:
            rows = ((check.name, check.state, check.found, check.remedy if check.state != "ok" else "") for check in found)
            print_table(("what", "state", "found", "remedy"), rows)
        if worst(found) == "fail":
            raise typer.Exit(2)


def _tried(run: RunConfig, minutes: float) -> list[Check]:
    from flows.trials import try_all

    return list(try_all(run, minutes, lambda line: print(line, file=sys.stderr, flush=True)))


def _asked(answer: str | None, option: str, question: str) -> str:
    """An option's value, or the answer to a prompt in a terminal."""
    if answer is not None:
        return answer
    if not sys.stdin.isatty():
        raise ConfigError(f"{option}: missing; give it, or answer the questions in a terminal")
    return str(typer.prompt(question))


def _several(answer: str | None) -> list[str]:
    return [part.strip() for part in (answer or "").split(",") if part.strip()]


@app.command(rich_help_panel=RUN)
def init(
    file: Annotated[Path, typer.Argument(help="the configuration file to write, for example run.yaml")],
    teacher: Annotated[str | None, typer.Option(help='a folder, a hub name@revision, or "ADDRESS MODEL" of a server')] = None,
    student: Annotated[str | None, typer.Option(help="a folder, or a hub name@revision")] = None,
    train: Annotated[str | None, typer.Option(help="files or benchmarks to train on, separated by commas")] = None,
    evaluate: Annotated[
        str | None, typer.Option(help="files or benchmarks to evaluate on in distribution, separated by commas")
    ] = None,
    outside: Annotated[str, typer.Option(help="files or benchmarks to evaluate on out of distribution; optional")] = "",
    gpus: Annotated[int | None, typer.Option(help="number of GPUs; default: those of this machine", min=0)] = None,
    miniature: Annotated[
        bool, typer.Option("--miniature", help="write the demo with its tiny models; nothing else is asked for")
    ] = False,
) -> None:
    """Write a first configuration from five answers, or the demo's.

    Answers are given as options or asked for in the terminal.
    """
    with reported():
        if file.exists():
            raise ConfigError(f"{file}: already exists; give a new file")
        if not file.parent.is_dir():
            raise ConfigError(f"{file}: no such folder {file.parent}; create it, or give another file")
        if miniature:
            if any((teacher, student, train, evaluate, outside, gpus is not None)):
                raise ConfigError("--miniature: has its own models and questions; give it without the other options")
            from pipeline.miniature.demo import demo_config

            file.write_text(demo_config())
            print(f"{file}: written; next: mind run {file} (about five minutes), or mind plan {file}")
            return
        from pipeline.config.starter import StarterAnswers, starter

        answers = StarterAnswers(
            name=file.stem,
            teacher=_asked(
                teacher, "--teacher", "Teacher (a folder, a hub name@revision, or a server's address and its model)"
            ),
            student=_asked(student, "--student", "Student (a folder, or a hub name@revision)"),
            train=_several(_asked(train, "--train", "Train on (files, or names from `mind sources`)")),
            evaluate=_several(_asked(evaluate, "--evaluate", "Evaluate on, in distribution (files or names)")),
            outside=_several(outside),
            gpus=_gpus() if gpus is None else gpus,
            cores=len(os.sched_getaffinity(0)),
        )
        text = starter(answers)
        aside = file.with_name(f".{file.name}.partial")
        aside.write_text(text)
        try:
            load_config(aside)
        except (MindError, StorageError) as error:
            aside.unlink()
            said = str(error).replace(str(aside), str(file))
            raise ConfigError(f"{file}: not written, the answers give an invalid configuration: {said}") from error
        aside.rename(file)
        print(f"{file}: written; next: mind doctor {file}, then mind plan {file}")


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()

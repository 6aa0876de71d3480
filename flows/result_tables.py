"""What a run prints at its end: accuracies with intervals, the token ledger, the stages, the findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.table import Table

from flows.terminal_progress import console
from pipeline.analysis.accuracy_numbers import Accuracy, PairedChange
from stages.core.summaries import EvaluationSummary, ReportSummary, SamplingSummary
from stages.shared.further_measurements import TITLES
from storage.artifact import Artifact


class StageOutcome(NamedTuple):
    """One row of the stage table."""

    artifact: Artifact
    reused: bool
    seconds: float


def say_stage(name: str, outcome: StageOutcome) -> None:
    """One line when a stage is done."""
    how = "[cyan]cached[/]" if outcome.reused else f"[green]done[/] in {outcome.seconds:.0f} s"
    console.print(f"{name:<11} {how}  [dim]{outcome.artifact.fingerprint}[/]")


def _percent(cell: Accuracy) -> str:
    return f"{cell.accuracy * 100:.1f} [{cell.low * 100:.0f}, {cell.high * 100:.0f}]".replace("[", r"\[")


def _change(change: PairedChange) -> str:
    return f"{change.change * 100:+.1f} [{change.low * 100:+.1f}, {change.high * 100:+.1f}]".replace("[", r"\[")


def accuracy_table(evaluation: EvaluationSummary) -> Table:
    """Accuracy of base, student and, if it was evaluated, teacher, by group and set, with intervals."""
    models = [model for model in ("base", "student", "teacher") if model in evaluation.accuracy]
    table = Table(
        title="Per cent right [95 % interval]".replace("[95", r"\[95"), title_justify="left", box=None, pad_edge=False
    )
    for column in ("", "items", *models, "student - base", "p"):
        table.add_column(column, justify="left" if not column else "right")
    for place, change in evaluation.student_against_base.items():
        cells = [evaluation.accuracy[model][place] for model in models]
        name = place.replace("group:id", "ID").replace("group:ood", "OOD").replace("set:", "  ")
        table.add_row(name, str(cells[0].items), *map(_percent, cells), _change(change), f"{change.p:.2g}")
    return table


def measure_table(evaluation: EvaluationSummary) -> Table:
    """The groups by every other measure that was taken: likelihoods, and answers with examples."""
    models = [model for model in ("base", "student", "teacher") if model in evaluation.accuracy]
    table = Table(title="By other measures", title_justify="left", box=None, pad_edge=False)
    for column in ("", "", "items", *models, "student - base", "p"):
        table.add_column(column, justify="left" if not column else "right")
    for group in ("ID", "OOD"):
        place = f"group:{group.lower()}"
        for name, found in (evaluation.further or {}).items():
            if place not in found.student_against_base:
                continue
            cells = [_percent(found.accuracy[model][place]) if model in found.accuracy else "" for model in models]
            change = found.student_against_base[place]
            items = str(found.accuracy["base"][place].items)
            table.add_row(group, TITLES[name], items, *cells, _change(change), f"{change.p:.2g}")
    return table


def stage_table(outcomes: Mapping[str, StageOutcome]) -> Table:
    """Seconds, rate and memory of each stage; for cached stages, those of the original run."""
    table = Table(title="Stages", title_justify="left", box=None, pad_edge=False)
    for column in ("", "", "seconds", "tokens/s", "peak MiB", "artifact"):
        table.add_column(column, justify="left" if column in ("", "artifact") else "right")
    for name, (artifact, reused, _) in outcomes.items():
        rate = artifact.summary.get("tokens_per_second")
        table.add_row(
            name,
            "cached" if reused else "ran",
            f"{artifact.manifest['timing']['seconds']:.0f}",
            f"{rate:,.0f}" if rate else "",
            f"{artifact.manifest['peak_mib']:,}",
            artifact.fingerprint,
        )
    return table


def show_result(outcomes: Mapping[str, StageOutcome], hints: Sequence[str]) -> None:
    """Print the result of a run: accuracies, ledger, stages, findings, path of the report."""
    report = outcomes["report"].artifact
    said = ReportSummary.of(report)
    console.print()
    evaluation = EvaluationSummary.of(outcomes["evaluation"].artifact)
    console.print(accuracy_table(evaluation))
    console.print()
    if evaluation.further:
        console.print(measure_table(evaluation))
        console.print()
    samples = SamplingSummary.of(outcomes["sampling"].artifact)
    shares = (f"{name} {of['correct'] / max(1, sum(of.values())):.0%}" for name, of in samples.outcomes.items())
    whose = "Imported rationales" if samples.given is not None else "Teacher's samples"
    console.print(f"{whose} right: {'  '.join(shares)}")
    steps = "  ->  ".join(f"{name} {count:,}" for name, count in said.ledger.items())
    console.print(f"Tokens of rationales: {steps}")
    console.print()
    console.print(stage_table(outcomes))
    console.print()
    for finding in said.findings:
        console.print(f"- {finding}", markup=False)
    for hint in hints:
        console.print(hint, style="dim", markup=False)
    console.print(f"Report: {report.path('report.html')}", markup=False, soft_wrap=True)

"""Stage 7: writes one self-contained HTML report of the run, and its plots as PNG.

The page needs no network, and only its browser of samples a script (`stages/report/browser/`). It states negative results plainly: a
student below its base, forgetting, answers that could not be parsed. Template: `stages/report/report.html`. Also writes
`forms-*.parquet`: whether each sample has the requested form, and pages `samples-*.html` if the samples do not fit into the report's page.

Axes: K perspectives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from pipeline.analysis.accuracy_numbers import dev_accuracies
from pipeline.config.run import RunConfig
from pipeline.generation.servers.spending import in_money
from pipeline.perspectives.perspective import Perspective
from pipeline.perspectives.run_perspectives import perspectives_of
from pipeline.prompt_rendering import visible_to_teacher
from pipeline.rationales.curation import SAMPLE
from pipeline.schema.fields import Frozen, identity
from stages.core.progress import Progress
from stages.core.provenance import origins
from stages.core.summaries import (
    EvaluationSummary,
    QuestionsSummary,
    ReportSummary,
    SamplingSummary,
    SynthesisSummary,
    TrainingSummary,
)
from stages.report.browser.browse import ASSETS, write_browser
from stages.report.other_measures import certain_losses, other_findings, titles
from stages.report.sample_quality import Sums, add, forms_of, summarised
from stages.shared.pages import STYLE, embedded, png, render
from storage.artifact import Artifact, Draft
from storage.atomic import read_parquet
from storage.fingerprint import file_digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME: Final = "report"
VERSION: Final = 9
INPUTS: Final = ("questions", "references", "sampling", "synthesis", "training", "evaluation")
TEMPLATE: Final = Path(__file__).with_name("report.html")
_FROM_TEACHER: Final = {"loss_soft": "soft targets, D", "loss_own": "own texts, D"}
"""Losses of trainings that learn from the teacher's distributions."""
_GROUPS: Final = {"id": "In distribution", "ood": "Out of distribution"}


class Config(Frozen):
    """Perspectives with their descriptions and forms, and the treatment of thoughts in samples."""

    descriptions: dict[str, str] = identity()
    perspectives: tuple[Perspective, ...] = identity()
    thoughts: Literal["drop", "keep"] = identity()


def config_of(run: RunConfig) -> Config:
    """The part of a run's configuration that this stage depends on."""
    perspectives = perspectives_of(run)
    descriptions = {item.name: item.description for item in perspectives}
    return Config(
        descriptions=descriptions, perspectives=visible_to_teacher(run.prompts, perspectives), thoughts=run.synthesis.thoughts
    )


def outside(config: Config) -> dict[str, str]:
    """Digests of the templates, style sheets and script, which the pages depend on."""
    files = {"template": TEMPLATE, "style": STYLE, **ASSETS}
    return {role: file_digest(path) for role, path in files.items()}


def check(config: Config) -> None:
    """Nothing to check before the stage runs."""


def ledger(sampling: SamplingSummary, synthesis: SynthesisSummary, training: TrainingSummary) -> dict[str, int]:
    """Rationale tokens: sampled -> right -> kept -> trained (a kept token counts each time it is trained on)."""
    return {
        "sampled": sampling.tokens,
        "right": sampling.tokens_right,
        "kept": synthesis.tokens_kept,
        "trained": training.tokens_trained,
    }


def findings(evaluation: EvaluationSummary) -> list[str]:
    """The results that a reader must not miss, positive or negative, one sentence each."""
    said = []
    for group, title in _GROUPS.items():
        place = f"group:{group}"
        if place not in evaluation.student_against_base:
            continue
        change = evaluation.student_against_base[place]
        words = "not distinguishable from its base"
        if change.is_certain:
            words = "better than its base" if change.change > 0 else "WORSE than its base"
        elif change.change < 0:
            words = "below its base, though within chance"
        said.append(
            f"{title} the student is {words}: {change.change * 100:+.1f} points "
            f"(95 % interval {change.low * 100:+.1f} to {change.high * 100:+.1f}, McNemar p = {change.p:.2g})."
        )
    for name, lost in evaluation.forgetting.items():
        if lost > 0:
            certain = evaluation.student_against_base[f"set:{name}"].is_certain
            said.append(f"Forgetting on {name}: {lost * 100:.1f} points lost{'' if certain else ', within chance'}.")
    for model, places in evaluation.accuracy.items():
        for place, cell in places.items():
            if place not in ("group:id", "group:ood"):
                continue
            items, unread = cell.items, cell.unparsed + cell.truncated
            where = _GROUPS[place.removeprefix("group:")]
            if cell.correct / items < 0.05:
                said.append(f"{where} the {model} answers almost nothing correctly: {cell.correct} of {items}.")
            if unread / items > 0.1:
                loops = f", {evaluation.looping[model][place]} of them in a loop" if cell.truncated else ""
                said.append(
                    f"{where} {unread / items:.0%} of the {model}'s answers could not be graded "
                    f"({cell.unparsed} unparsed, {cell.truncated} truncated{loops})."
                )
    return said


def about_questions(questions: QuestionsSummary) -> list[str]:
    """Caveats about the questions, one sentence each."""
    said = [
        f"Trained on {name}, which is for evaluation only: results on it and on similar sets are not comparable."
        for name in questions.trained_despite_evaluation_only
    ]
    for name, count in questions.left_out_because_long.items():
        said.append(f"Left out because longer than max_characters: {count} of {name}.")
    if questions.left_out_because_evaluated:
        said.append(
            f"Left out of training because an evaluation set has the same id or text: {questions.left_out_because_evaluated}."
        )
    for name, count in questions.left_out_because_of_a_passage.items():
        said.append(f"Left out of training because they share a long passage with questions of {name}: {count}.")
    near = questions.left_out_as_near_duplicates
    if near is not None:
        said.append(f"Left out of training because they are nearly the same as another training question: {near}.")
    for name, count in questions.repeats.items():
        said.append(
            f"{count} of {questions.evaluation[name]} questions of {name} are in another set too; accuracies are shown with and "
            "without them."
        )
    return said


def _teaching(config: Config, sampling: Artifact, out: Draft) -> dict[str, dict[str, float | None]]:
    """Statistics of the samples, computed one shard at a time."""
    sums = Sums(float)
    out.clear("forms")
    for path in sampling.files("samples"):
        samples = read_parquet(path, SAMPLE)
        forms = forms_of(samples, config.perspectives, config.thoughts)
        out.write_shard("forms", forms)
        add(samples, forms, config.perspectives, config.thoughts, sums)
    return summarised(sums, [item.name for item in config.perspectives])


def _dev_figure(training: Artifact) -> dict[str, Figure]:
    """The dev scores while training, if there are any."""
    from pipeline.analysis.report_plots import dev_accuracy_over_steps

    summary = TrainingSummary.of(training)
    if summary.dev is None:
        return {}
    scores = dev_accuracies(training.table("dev").to_pylist())
    named = {name: [of_step[name] for of_step in scores.values()] for name in summary.dev}
    return {"Dev accuracy over steps": dev_accuracy_over_steps(named, list(scores), summary.exported_step)}


def _figures(inputs: Mapping[str, Artifact], tokens: dict[str, int]) -> dict[str, Figure]:
    from pipeline.analysis import report_plots as plots

    evaluation = EvaluationSummary.of(inputs["evaluation"])
    steps = inputs["training"].table("steps")
    names = json.loads(steps.schema.metadata[b"perspectives"])
    labels = {"group:id": "ID", "group:ood": "OOD"} | {f"set:{name}": name for _, name in evaluation.sets}
    places = evaluation.accuracy["base"]
    per_perspective = list(zip(*steps["losses_K"].to_pylist(), strict=True))
    return {
        "Accuracy by set": plots.accuracy_by_set(
            evaluation.accuracy, {place: title for place, title in labels.items() if place in places}
        ),
        "Weight of each perspective over steps": plots.alpha_over_steps(steps["alpha_K"].to_pylist(), names),
        "Losses over steps": plots.losses_over_steps(
            {
                "student, L_SFT": steps["loss_sft"].to_pylist(),
                "consistency, L_cons": steps["loss_consistency"].to_pylist(),
                "MetaNet, L_meta": steps["loss_meta"].to_pylist(),
                **{title: steps[name].to_pylist() for name, title in _FROM_TEACHER.items() if name in steps.column_names},
            }
        ),
        **_dev_figure(inputs["training"]),
        "The student's loss on each perspective": plots.loss_by_perspective(dict(zip(names, per_perspective, strict=True))),
        "The teacher's samples": plots.outcomes_by_perspective(SamplingSummary.of(inputs["sampling"]).outcomes),
        "Token ledger": plots.token_ledger(tokens),
        "From what the student was made": plots.lineage(
            {name: [needed for needed in artifact.manifest["inputs"] if needed in inputs] for name, artifact in inputs.items()},
            {name: artifact.fingerprint for name, artifact in inputs.items()},
        ),
    }


def run(config: Config, inputs: Mapping[str, Artifact], out: Draft, progress: Progress) -> ReportSummary:
    """Draw the plots, write the samples, render the page."""
    summaries = {name: artifact.summary for name, artifact in inputs.items()}
    tokens = ledger(
        SamplingSummary.of(inputs["sampling"]), SynthesisSummary.of(inputs["synthesis"]), TrainingSummary.of(inputs["training"])
    )
    teaching = _teaching(config, inputs["sampling"], out)
    figures = _figures(inputs, tokens)
    evaluation = EvaluationSummary.of(inputs["evaluation"])
    said = [*findings(evaluation), *other_findings(evaluation), *about_questions(QuestionsSummary.of(inputs["questions"]))]
    progress.start("plots", len(figures), "plots")
    images = {}
    for title, figure in figures.items():
        content = png(figure)
        out.write_bytes(f"{title.lower().replace(' ', '-').replace(chr(39), '')}.png", content)
        images[title] = embedded(content)
        progress.advance(1)
    page = render(
        TEMPLATE,
        browser=write_browser(inputs, config.perspectives, out),
        descriptions=config.descriptions,
        findings=said,
        images=images,
        ledger=tokens,
        teaching=teaching,
        summaries=summaries,
        measures=titles(evaluation),
        certain=certain_losses(evaluation),
        manifests={name: artifact.manifest for name, artifact in inputs.items()},
        spent={name: summary["spent"] for name, summary in summaries.items() if summary.get("spent")},
        money=in_money,
        origins={name: list(origins(artifact.manifest)) for name, artifact in inputs.items()},
    )
    out.write_bytes("report.html", page)
    return ReportSummary(page="report.html", ledger=tokens, findings=said, teaching=teaching)

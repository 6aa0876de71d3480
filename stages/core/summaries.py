"""Summaries of the stages: the contract between a stage and everything that reads its artifact.

A stage's `run` returns its summary; the manifest stores it as JSON, without optional fields that are None. Readers call `of`.
Keys of accuracies and changes are `group:id`, `group:ood` or `set:NAME`, and the same with the suffix ` without repeats`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.analysis.accuracy_numbers import Accuracy, Measurement, PairedChange, SampledAccuracy
from storage.errors import ArtifactError


class _Summarised(Protocol):
    """An artifact."""

    @property
    def summary(self) -> dict[str, Any]: ...


class Summary(BaseModel):
    """Base of all summaries: immutable."""

    model_config = ConfigDict(frozen=True)

    @classmethod
    def of(cls, artifact: _Summarised) -> Self:
        """The summary of an artifact of this stage.

        Raises:
            ArtifactError: not one that the stage has written.
        """
        return cls.read(artifact.summary, str(getattr(artifact, "name", "an artifact")))

    @classmethod
    def read(cls, stored: Mapping[str, Any], name: str) -> Self:
        """The summary in the manifest of the artifact `name`.

        Raises:
            ArtifactError: not one that the stage has written.
        """
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))[:100]
            raise ArtifactError(
                f"{name}: its manifest's summary is damaged ({place}: {first['msg'][:100]}); remove its folder and run its stage again"
            ) from error

    def stored(self) -> dict[str, Any]:
        """The JSON form for the manifest."""
        return self.model_dump(mode="json", exclude_none=True)


class QuestionsSummary(Summary):
    """Numbers of questions."""

    train: int
    left_out_because_evaluated: int
    left_out_because_of_a_passage: dict[str, int]
    """By evaluation set."""
    left_out_as_near_duplicates: int | None = None
    """Set only if `questions.near_duplicates` is."""
    left_out_because_long: dict[str, int]
    """By set."""
    evaluation: dict[str, int]
    """By evaluation set."""
    repeats: dict[str, int]
    """Questions that another set also has, by evaluation set."""
    trained_despite_evaluation_only: list[str]
    """Benchmarks for evaluation only that are trained on by consent."""


class Spent(BaseModel):
    """What a server was paid for."""

    model_config = ConfigDict(frozen=True)

    requests: int
    input_tokens: int
    cached_tokens: int
    """Of the input tokens."""
    output_tokens: int
    unanswered: int = 0
    """Further requests that may have been paid for: their reply did not arrive whole, or states no numbers."""
    cost: float | None = None
    """At the prices of the run that finished the artifact; set only if there are any."""
    currency: str | None = None


class AnswersSummary(Summary):
    """Accuracies of some models on the evaluation sets."""

    accuracy: dict[str, dict[str, Accuracy]]
    """Model -> group or set."""
    sets: list[tuple[str, str]]
    """(group, name) of every set."""
    tokens: int
    """Generated tokens."""
    tokens_per_second: float | None = None
    """Of this process; None if it generated nothing."""
    looping: dict[str, dict[str, int]]
    """Truncated answers that repeat themselves, by model and group or set; the other truncated ones were still at work."""
    spent: dict[str, Spent] | None = None
    """By model; set only for models behind a server."""
    drawn: dict[str, dict[str, SampledAccuracy]] | None = None
    """Set only if `evaluation.draws` is."""
    further: dict[str, Measurement] | None = None
    """Likelihoods and answers with examples, by the names of `stages/shared/further_measurements.py`; set only if they are asked for."""


class ReferencesSummary(AnswersSummary):
    """Base student and teacher."""

    asked: str
    """Digest of all items."""


class EvaluationSummary(AnswersSummary):
    """Student and references."""

    student_against_base: dict[str, PairedChange]
    forgetting: dict[str, float]
    """Base accuracy minus student accuracy, by out-of-distribution set."""
    drawn_against_base: dict[str, PairedChange] | None = None
    """The student's change in pass@1 over sampled answers; set only with `evaluation.draws`."""


class SamplingSummary(Summary):
    """Samples of the teacher, or imported rationales."""

    questions: int
    samples: int
    right: int
    tokens: int
    tokens_right: int
    outcomes: dict[str, dict[str, int]]
    """Perspective -> outcome -> samples."""
    coverage: dict[str, float]
    """Share of the questions with a correct sample, by perspective."""
    looping: dict[str, int]
    """Truncated samples that repeat themselves, by perspective; the other truncated ones were still at work."""
    spent: dict[str, Spent] | None = None
    """By model; set only for models behind a server."""
    tokens_per_second: float | None = None
    judged: dict[str, int] | None = None
    """Verdicts of the judge; set only if there is one."""
    given: int | None = None
    """Imported rows; set only for imported rationales."""
    given_about_no_question: int | None = None
    """Imported rows that match no training question."""


class SynthesisSummary(Summary):
    """Selection, and MetaNet's warm-up. The first fields count questions or samples that a rule dropped."""

    questions: int
    near_duplicates: int
    too_few_perspectives: int
    easy_left_out: int
    over_max_questions: int
    against_majority: int
    wrong_form: int
    too_long: int
    kept_questions: int
    kept_rationales: int
    tokens_kept: int
    mean_pass_rate: float | None = None
    warm_up_losses: list[float]
    base_loss: dict[str, float | None]
    """Mean loss of the base student, by perspective."""
    kept: dict[str, int]
    """Kept rationales, by perspective."""


class TrainingSummary(Summary):
    """Joint training."""

    steps: int
    tokens_trained: int
    """Tokens with a loss."""
    tokens_passed: int
    """Tokens that passed the student forward and backward, with prompts and padding."""
    tokens_probed: int
    """Tokens that passed it forward alone, to measure rationales that were not trained on."""
    tokens_per_second: float
    last_loss: float
    """Mean of L_total over the last ten steps."""
    mean_kept: float
    """Mean number of kept rationales per question."""
    mean_effective_number: float
    widened: int
    """Questions whose selection was widened to `mixture.min_kept`."""
    inertia: str
    measured_lag_steps: int | str | None = None
    """Student steps until MetaNet has followed a step change of its targets by 63 %, or ">5000"; None if the weights do not follow
    MetaNet. See `pipeline/metanet/measured_lag.py`.
    """
    ranks: int
    zero_stage: int
    dev: dict[str, float] | None = None
    """Accuracy of the exported student on the dev sets, and over `all`; set only with `training.dev`."""
    dev_seconds: float | None = None
    """What the dev scores took."""
    exported_step: int | None = None
    """Steps that the exported student has taken; set only with `training.dev.keep_best`."""


class ReportSummary(Summary):
    """The page, and what it says first."""

    page: str
    ledger: dict[str, int]
    """Rationale tokens: sampled, right, kept, trained."""
    findings: list[str]
    teaching: dict[str, dict[str, float | None]]
    """Form and diversity of the samples, by perspective; see `stages/report/sample_quality.py`."""

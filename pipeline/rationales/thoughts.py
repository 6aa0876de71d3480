"""Fits a rationale to what the student does about thoughts, so that a row has no thought or exactly one, well formed.

A rationale continues the prompt: behind an opened thought it first closes it, or brings the thought that `synthesis.thoughts: keep` keeps,
without a second opening mark. The marks are the student's own, and are trained on, so that the student answers in the same form.
"""

from __future__ import annotations

from pipeline.errors import ModelError
from pipeline.grading.wording.thoughts import END, START
from pipeline.model_thoughts import ThoughtForm


def fitted(rationale: str, form: ThoughtForm) -> str:
    """The rationale as it continues such a prompt; without thoughts and marks it stays as it is, except behind an opened thought.

    Raises:
        ModelError: the rationale has a thought, but the prompt already has an empty one.
    """
    thought, closed, said = rationale.rpartition(END)
    thought = thought.replace(START, "").replace(END, "").strip()
    said = said.replace(START, "")
    start, end = form.marks
    if form.before == "opened":
        return f"{thought}\n{end}{said}" if thought else f"\n{end}\n\n{said.lstrip()}"
    if not thought:
        return said.lstrip() if closed else said
    if form.before == "closed":
        raise ModelError(
            "synthesis.thoughts: keep, but the student's chat template writes an empty thought before its answer; set thoughts to drop, or "
            "correct student.turns.template"
        )
    well_formed = rationale.startswith(START) and rationale.count(START) == rationale.count(END) == 1
    inside = rationale.partition(START)[2].partition(END)[0] if well_formed else f"\n{thought}\n"
    return f"{start}{inside}{end}{said}"

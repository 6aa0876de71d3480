"""`mind show-prompt`: shows what teacher and student read, token by token, and which tokens carry loss. Loads tokenizers but no model.

The rationale shown is one that synthesis kept, if available; otherwise the question's own, if its source has one; otherwise a placeholder.
In a terminal, trained tokens are green and the answer's tokens are highlighted; elsewhere, headings separate masked from trained tokens.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.text import Text

from flows.cli.formatting import LOOK, console, reported
from pipeline.config.models import HubModel, LocalModel, Weights
from pipeline.config.run import RunConfig, load_config

if TYPE_CHECKING:
    from pipeline.questions.question import Question
    from pipeline.student.batch import TokenRow

app = typer.Typer(add_completion=False)

_MASKED, _TRAINED, _ANSWER = "dim", "green", "bold reverse green"
_LOOKED_THROUGH: Final = 100_000


def _question(run: RunConfig, wanted: str | None) -> Question:
    """The first training question, or the one with the given id."""
    from pipeline.errors import QuestionError
    from pipeline.questions.load import load

    for source in run.questions.sources()[0]:
        for question in islice(load(source), _LOOKED_THROUGH):
            if wanted in (None, question.id):
                return question
    raise QuestionError(f"--question {wanted}: no training question has this id; omit the option to see the first one")


def _rationale(run: RunConfig, question: Question, perspective: str) -> tuple[str, str]:
    """A rationale to show, and its origin."""
    import pyarrow.compute as pc

    from pipeline.rationales.conclusion import with_answer_sentence
    from stages.core.plan import plan
    from stages.core.process import store_of

    store, planned = store_of(run), plan(run)["synthesis"]
    because = "until synthesis is done"
    if store.exists(planned.name, planned.fingerprint):
        columns = ["question_id", "perspective", "rationale"]
        for piece in store.open(planned.name, planned.fingerprint).batches("rationales", columns):
            found = piece.filter(
                pc.and_(pc.equal(piece["question_id"], question.id), pc.equal(piece["perspective"], perspective))
            )
            if found.num_rows:
                return str(found["rationale"][0]), f"kept by {planned.name}/{planned.fingerprint}"
        because = f"because {planned.name}/{planned.fingerprint} kept none of {perspective} for question {question.id!r}"
    own = with_answer_sentence(question.rationale, question.answer) if question.rationale else None
    if own is not None:
        return own, f"the question's own, {because}"
    return str(with_answer_sentence("...", question.answer)), f"a placeholder, {because}"


def _decoded(tokenizer: Any, tokens: list[int]) -> str:
    return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _prompt(model: Weights, run: RunConfig, text: str, title: str) -> None:
    """Print a prompt as the model reads it, including special tokens."""
    from pipeline.model_folders import load_tokenizer
    from pipeline.prompt_rendering import prompt_tokens

    tokenizer, out = load_tokenizer(model), console()
    tokens = prompt_tokens(tokenizer, text, model.dialogue)
    out.print(Text(f"{title}, {len(tokens)} tokens", style="bold"))
    out.print(Text(_decoded(tokenizer, tokens)), soft_wrap=True)
    out.print()


def _row(run: RunConfig, row: TokenRow, tokenizer: Any, origin: str) -> None:
    """Print the student's training row, and the facts that can be checked on it."""
    first, last = row.answer
    ids, out = row.tokens, console()
    begin = tokenizer.bos_token_id
    out.print(Text(f"student, masked (no loss): the prompt, {row.start} tokens", style="bold"))
    out.print(Text(_decoded(tokenizer, ids[: row.start]), style=_MASKED), soft_wrap=True)
    out.print()
    out.print(Text(f"student, trained: the rationale, {len(ids) - row.start} tokens ({origin})", style="bold"))
    out.print(
        Text(_decoded(tokenizer, ids[row.start : first]), style=_TRAINED)
        + Text(_decoded(tokenizer, ids[first:last]), style=_ANSWER)
        + Text(_decoded(tokenizer, ids[last:]), style=_TRAINED),
        soft_wrap=True,
    )
    out.print()
    starts = "none" if begin is None else f"{tokenizer.bos_token!r}, {ids.count(begin)} in the row"
    out.print(
        f"beginning-of-sequence token: {starts}; last trained token: {_decoded(tokenizer, ids[-1:])!r}, the end-of-answer token;",
        markup=False,
    )
    out.print(
        f"answer tokens, which L_cons compares: {[_decoded(tokenizer, [token]) for token in ids[first:last]]}", markup=False
    )


@app.command("show-prompt", rich_help_panel=LOOK)
def show_prompt(
    config: Annotated[Path, typer.Argument(help="a run's YAML file")],
    overrides: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a field")] = None,
    question: Annotated[str | None, typer.Option(help="a training question's id; default: the first")] = None,
    perspective: Annotated[str | None, typer.Option(help="the perspective to show; default: the first")] = None,
) -> None:
    """Show the prompts and the training row of one question.

    Also which tokens carry loss.
    """
    with reported():
        from pipeline.errors import ConfigError
        from pipeline.model_folders import check_model, load_tokenizer
        from pipeline.model_thoughts import thought_form
        from pipeline.perspectives.run_perspectives import perspectives_of
        from pipeline.prompt_rendering import prompt_tokens, student_prompt, teacher_prompt
        from pipeline.rationales.thoughts import fitted
        from pipeline.student_folder import check_end_of_turn, check_student
        from pipeline.training.training_set import make_row

        run = load_config(config, tuple(overrides or ()))
        every = {item.name: item for item in perspectives_of(run)}
        shown = every.get(perspective or next(iter(every)))
        if shown is None:
            raise ConfigError(f"--perspective {perspective}: unknown; use one of {', '.join(every)}")
        check_student(run.student)
        asked = _question(run, question)
        # The tokenizer of a server is not available, and with imported rationales no teacher reads a prompt.
        read_here = run.sampling.engine.in_process and run.sampling.rationales is None
        if read_here and isinstance(run.teacher, LocalModel | HubModel):
            check_model(run.teacher, "teacher")
            _prompt(run.teacher, run, teacher_prompt(run.prompts, asked.text, shown), f"teacher, {shown.name}")
        tokenizer = load_tokenizer(run.student)
        warning = check_end_of_turn(tokenizer, run.student)
        prompt = prompt_tokens(tokenizer, student_prompt(run.prompts, asked), run.student.dialogue)
        text, origin = _rationale(run, asked, shown.name)
        form = thought_form(tokenizer, run.student)
        if not origin.startswith("kept by"):  # synthesis has fitted the others
            text = fitted(text, form)
        row = make_row(tokenizer, prompt, text, asked.answer, run.training.max_length, f"question {asked.id!r}", form.marks)
        _row(run, row, tokenizer, origin)
        if warning:
            print(f"warning: {warning}")

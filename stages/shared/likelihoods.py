"""Scores the choices of evaluation questions by likelihood (`evaluation.likelihood`); used by the stages `references` and `evaluation`.

Every model whose weights are at hand scores every `choice` and `boolean` question once; with `evaluation.examples` once more, with the
worked examples of the set before the prompt. One row per model and item goes to the shards `likelihoods`, or `likelihoods_few_shot`. A
resumed run scores only items that no shard contains. `pipeline/student/choice_likelihood.py` has the measure.

Served models are left out, since few servers tell the likelihood of a given text, and so is a teacher that its engine spreads over several
GPUs, since the weights are loaded on one device here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
import torch

from pipeline.config.models import HubModel, LocalModel, Weights
from pipeline.errors import QuestionError
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.prefetch import chunks
from pipeline.prompt_rendering import check_likelihood_prompt, likelihood_prompt, pad_token
from pipeline.questions.question import Question
from pipeline.student.batch import TokenRow
from pipeline.student.choice_likelihood import NORMS, ChoiceRows, choice_rows, choices_of, likelihoods, right_choice
from pipeline.student.self_check import right_form
from pipeline.text_digests import digest
from stages.core.progress import Progress
from stages.shared.answering import AnsweringModel, AskedItem, EvaluationTask, answered, items, whose
from storage.artifact import Draft

SCHEMA: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("model", "group", "set", "question_id", "repeats")),
        ("gold", pa.int32()),
        ("sum_K", pa.list_(pa.float64())),
        ("tokens_K", pa.list_(pa.int32())),
        ("characters_K", pa.list_(pa.int32())),
        ("unconditional_K", pa.list_(pa.float64())),
        *((norm, pa.bool_()) for norm in NORMS),
    ]
)
"""`gold` is the place of the correct choice; the last four columns say whether the model chose it, under each norm."""


def likelihood_rounds(asking: EvaluationTask) -> dict[str, bool]:
    """Prefix of the shards of each round, and whether examples precede its prompts; empty if nothing is scored."""
    if not asking.settings.likelihood:
        return {}
    return {"likelihoods": False} | ({"likelihoods_few_shot": True} if asking.settings.examples else {})


def scored(models: Mapping[str, AnsweringModel]) -> dict[str, tuple[Weights, AnsweringModel]]:
    """The models that can be scored here."""
    return {
        name: (who.model, who)
        for name, who in models.items()
        if isinstance(who.model, LocalModel | HubModel) and (name != "teacher" or who.engine.tensor_parallel == 1)
    }


def _items(asking: EvaluationTask) -> Iterator[AskedItem]:
    return (item for item in items(asking) if choices_of(item.question))


def _example(asking: EvaluationTask, example: Question) -> str:
    """An example's prompt with its answer: the text of the correct choice, and no rationale, since the next answer follows at once."""
    choices = choices_of(example)
    answer = choices[right_choice(example)] if choices else example.answer
    return f"{likelihood_prompt(asking.prompts, example).rstrip()} {answer}\n\n"


def likelihood_context(asking: EvaluationTask, item: AskedItem, examples: bool) -> str:
    """The text before the choices of an item."""
    before = (_example(asking, example) for example in asking.examples[item.set]) if examples else ()
    return "".join([*before, likelihood_prompt(asking.prompts, item.question)])


def _rows(asking: EvaluationTask, tokenizer: Any, item: AskedItem, examples: bool) -> ChoiceRows:
    return choice_rows(tokenizer, likelihood_context(asking, item, examples), item.question)


def _longest(asking: EvaluationTask, tokenizer: Any, examples: bool) -> tuple[str, ChoiceRows]:
    """Question and rows of the item with the longest row."""
    every = ((item.question.id, _rows(asking, tokenizer, item, examples)) for item in _items(asking))
    return max(every, key=lambda found: found[1].longest)


def check_likelihoods(asking: EvaluationTask, models: Mapping[str, AnsweringModel]) -> None:
    """Check templates, questions and lengths before any model is loaded.

    Raises:
        ConfigError: the template is wrong.
        QuestionError: no question has choices, or one is too long.
    """
    if not likelihood_rounds(asking):
        return
    check_likelihood_prompt(asking.prompts)
    if next(_items(asking), None) is None:
        raise QuestionError(
            f"evaluation.likelihood: no question of the {asking.settings.use} sets has choices or is answered by yes or no; set it to "
            "false, or add a set of answer type choice or boolean"
        )
    for model, who in scored(models).values():
        tokenizer, limit = load_tokenizer(model), who.engine.max_context
        for examples in likelihood_rounds(asking).values():
            question_id, rows = _longest(asking, tokenizer, examples)
            if rows.longest > limit:
                count = asking.settings.examples
                also = f" with {count} examples (evaluation.examples)" if examples else ""
                raise QuestionError(
                    f"question {question_id!r}: its likelihood prompt{also} and longest choice, the longest of all, have {rows.longest} "
                    f"tokens, which exceeds the context of {limit}; raise engine.max_context to {rows.longest}"
                    f"{', lower evaluation.examples,' if examples else ''} or exclude long questions with max_characters on their source"
                )


def _score(asking: EvaluationTask, name: str, who: AnsweringModel, model: Weights, out: Draft, progress: Progress) -> None:
    """One model's missing rows of every round."""
    tokenizer = load_tokenizer(model)
    pad = pad_token(tokenizer)
    # Logits in bfloat16 are multiples of an eighth of a nat, too coarse for short choices; on a CPU there is room for better ones.
    network = load_causal_model(model, who.engine.dtype if torch.cuda.is_available() else "float32")
    network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    turns = likelihood_rounds(asking)
    # The longest rows of all items, those with examples if there are any: a resumed run finds the same form. All their tokens are
    # compared, because a choice of one token says little.
    longest = _longest(asking, tokenizer, any(turns.values()))[1].conditional_K
    form = right_form(network, [TokenRow(row.tokens, 1, row.answer) for row in longest], pad, "rows")
    if form.reason:
        print(f"likelihoods: the {name}'s rows are padded, not packed: {form.reason}", flush=True)
    for prefix, examples in turns.items():
        done = answered(out, name, prefix)
        missing = (item for item in _items(asking) if digest(item.question.id) not in done)
        for chunk in chunks(missing, asking.settings.items_per_shard):
            rows = []
            for item in chunk:
                choices, gold = choices_of(item.question), right_choice(item.question)
                found = likelihoods(network, form, _rows(asking, tokenizer, item, examples), choices, pad)
                rows.append(
                    {
                        **whose(name, item),
                        "gold": gold,
                        **found._asdict(),
                        **{norm: found.choice(norm) == gold for norm in NORMS},
                    }
                )
            out.write_shard(prefix, pa.Table.from_pylist(rows, schema=SCHEMA))
            progress.advance(len(chunk), name)


def score(asking: EvaluationTask, models: Mapping[str, AnsweringModel], out: Draft, progress: Progress) -> list[str]:
    """Score every model's missing items, one model at a time; returns the names of the scored models."""
    turns, able = likelihood_rounds(asking), scored(models)
    if not turns:
        return []
    total = sum(1 for _ in _items(asking))
    done = {name: sum(len(answered(out, name, prefix)) for prefix in turns) for name in able}
    progress.start("likelihoods", total * len(turns) * len(able), "items", sum(done.values()))
    for name, (model, who) in able.items():
        if done[name] < total * len(turns):
            _score(asking, name, who, model, out, progress)
    return list(able)

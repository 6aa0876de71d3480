"""Worked examples before a question: training questions with their answers, for evaluation with `evaluation.examples`.

They come from the training questions alone, which the stage `questions` has separated from every evaluation question. The choice depends
on nothing but the ids: questions are taken in the order of a digest of their ids, first those of an answer type that the evaluation set
has. So every item of a set, every model and every training seed gets the same examples, and base and teacher need not answer again for
another seed (our choice).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Collection, Iterable, Mapping

from pipeline.config.prompts import Prompts
from pipeline.grading.grade import conclusion
from pipeline.prompt_rendering import student_prompt
from pipeline.questions.question import Question
from pipeline.rationales.conclusion import with_answer_sentence
from pipeline.text_digests import digest

Pool = Mapping[str, list[Question]]
"""Questions that can become examples, by answer type, each list in the order of choice."""


def _order(question: Question) -> int:
    return digest(f"example\0{question.id}")


def example_pool(questions: Iterable[Question], count: int) -> Pool:
    """The `count` questions of each answer type that are chosen first."""
    pool: dict[str, list[Question]] = {}
    for question in questions:
        alike = pool.setdefault(question.answer_type, [])
        if len(alike) < count or _order(question) < _order(alike[-1]):
            insort(alike, question, key=_order)
            del alike[count:]
    return pool


def examples_for(pool: Pool, answer_types: Collection[str], count: int) -> tuple[Question, ...]:
    """The examples of a set whose questions have these answer types; fewer than `count` if the pool has fewer."""
    every = (question for alike in pool.values() for question in alike)
    return tuple(sorted(every, key=lambda question: (question.answer_type not in answer_types, _order(question)))[:count])


def worked(prompts: Prompts, question: Question) -> tuple[str, str]:
    """An example as prompt and answer: the question's own rationale, if it has one, and the answer sentence."""
    solution = with_answer_sentence(question.rationale, question.answer) if question.rationale else None
    return student_prompt(prompts, question), solution or conclusion(question.answer)

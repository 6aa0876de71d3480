"""Asks the base student, before anything is paid for, whether it can be trained in batches (`pipeline/student/self_check.py`).

The rows are short, since no rationale exists yet: training asks again with its longest ones. Always on the CPU, because engines that follow
need a GPU's whole memory.
"""

from __future__ import annotations

from typing import Final

from pipeline.config.models import Weights
from pipeline.model_folders import load_causal_model, load_tokenizer
from pipeline.student.batch import TokenRow
from pipeline.student.self_check import Form, right_form
from pipeline.student_folder import check_end_of_turn, refuse_quantised

PROMPT: Final = "Question: A box holds 12 red and 30 blue balls. How many balls are in it?\nSolution:\n"
TEXTS: Final = (
    "There are 12 red balls. There are 30 blue balls. Together these are 42 balls. The answer is 42.",
    "There are 12 red balls. Counting on by 30 from 12 gives 42. The answer is 42.",
    "Let r be 12 and b be 30. Then r + b = 42. The answer is 42.",
)


def check_student(model: Weights) -> Form:
    """The form in which the student can be trained on short rows.

    Raises:
        ModelError: it is quantised, it cannot be trained in batches, or its turns end otherwise than its rationales would.
    """
    from transformers import AutoConfig

    settings = AutoConfig.from_pretrained(model.location, revision=model.revision, trust_remote_code=False)
    refuse_quantised(settings.to_dict(), model.location)
    tokenizer = load_tokenizer(model)
    check_end_of_turn(tokenizer, model)
    prompt = tokenizer(PROMPT)["input_ids"]
    rows = [[*prompt, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in TEXTS]
    student = load_causal_model(model, "auto")
    return right_form(student, [TokenRow(row, len(prompt), (len(row) - 2, len(row) - 1)) for row in rows], 0, "rows")

"""Where a model's turn ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grading.wording.turns import one_turn, special_token, without_end_marks

ENDS = [
    "<|im_end|>", "<|eot_id|>", "<|eot|>", "<|endoftext|>", "<|return|>", "<|END_OF_TURN_TOKEN|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>",
    "<end_of_turn>", "[EOS]",
]  # fmt: skip
plain = st.lists(st.sampled_from(["She", "sells", "nine", "eggs", "for", "[sic]", "7", "<", "2"]), min_size=1, max_size=12).map(
    " ".join
)


@given(plain, st.sampled_from(ENDS), plain)
def test_a_text_ends_with_its_turn(sentence: str, mark: str, after: str) -> None:
    assert one_turn(f"{sentence}{mark}{after}") == sentence


@given(plain, st.lists(st.sampled_from(ENDS), max_size=3).map("\n".join))
def test_marks_at_the_end_of_a_text_are_removed(sentence: str, marks: str) -> None:
    assert without_end_marks(f"{sentence}{marks}") == sentence


@pytest.mark.parametrize(
    "opening", ["<|im_start|>assistant\n", "<start_of_turn>model\n", "<s>", "<|start_header_id|>assistant<|end_header_id|>\n\n"]
)
def test_the_mark_that_opens_a_turn_is_no_part_of_it(opening: str) -> None:
    assert one_turn(f"{opening}It is 7.<|im_end|>") == "It is 7."


@given(plain)
def test_a_text_without_marks_stays_as_it_is(sentence: str) -> None:
    assert one_turn(sentence) == without_end_marks(sentence) == sentence
    assert special_token(sentence) is None


def test_a_special_token_is_found_whatever_it_is_called() -> None:
    assert special_token("It is 7.<|tool_call|>search") == "<|tool_call|>"
    assert special_token("It is 7.<｜User｜>Why?") == "<｜User｜>"

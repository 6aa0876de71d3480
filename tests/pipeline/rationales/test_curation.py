from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grading.grade import conclusion
from pipeline.rationales.conclusion import without_answer_statement
from pipeline.rationales.curation import curate, drop_duplicates, first_right, five_grams, jaccard, keep_easy_question, place

prose = st.lists(
    st.sampled_from(["a", "dial", "reads", "seven", "turns", "3+4=7", "by", "ten", "marks"]), min_size=1, max_size=12
).map(" ".join)


@given(prose, prose)
def test_jaccard_is_symmetric_and_one_for_equal_texts(left: str, right: str) -> None:
    first, second = five_grams(left), five_grams(right)
    assert 0 <= jaccard(first, second) == jaccard(second, first) <= 1
    assert jaccard(first, first) == 1


@given(st.dictionaries(st.sampled_from("abcdefgh"), prose, max_size=6), st.floats(0.1, 1))
def test_only_rationales_over_the_threshold_are_dropped(rationales: dict[str, str], threshold: float) -> None:
    kept = drop_duplicates(rationales, threshold)
    assert list(kept) == [name for name in rationales if name in kept]
    grams = {name: five_grams(without_answer_statement(text)) for name, text in rationales.items()}
    for name in rationales:
        earlier = [other for other in kept if list(rationales).index(other) < list(rationales).index(name)]
        says_the_same = any(jaccard(grams[name], grams[other]) > threshold for other in earlier)
        assert says_the_same is (name not in kept)


@given(st.text(), st.integers(0, 9), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_what_a_smaller_one_kept(question_id: str, seed: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert keep_easy_question(question_id, seed, high) or not keep_easy_question(question_id, seed, low)
    assert keep_easy_question(question_id, seed, 1.0)
    assert not keep_easy_question(question_id, seed, 0.0)


def test_about_the_stated_share_of_easy_questions_is_kept() -> None:
    kept = sum(keep_easy_question(f"q{number}", 0, 0.3) for number in range(2000))
    assert 500 < kept < 700


@given(
    st.dictionaries(
        st.integers(0, 30).map(str),
        st.tuples(st.floats(0, 1), st.dictionaries(st.sampled_from("abcd"), prose, max_size=4)),
        max_size=12,
    ),
    st.integers(1, 3),
    st.none() | st.binary(min_size=1, max_size=2),
)
def test_every_question_and_rationale_is_accounted_for(
    found: dict[str, tuple[float, dict[str, str]]], least: int, last: bytes | None
) -> None:
    rates = {name: rate for name, (rate, _) in found.items()}
    right = {name: rationales for name, (_, rationales) in found.items() if rationales}
    result = curate(
        right, rates, duplicate_jaccard=0.6, min_perspectives=least, easy_above=0.5, keep_easy=0.5, last=last, seed=0
    )  # fmt: skip
    counts = result.counts
    assert counts["questions"] == len(found)
    fallen = counts["too_few_perspectives"] + counts["easy_left_out"] + counts["over_max_questions"]
    assert counts["questions"] == fallen + counts["kept_questions"]
    assert counts["kept_questions"] == len(result.sets)
    assert counts["kept_rationales"] == sum(len(item.rationales) for item in result.sets)
    kept = {item.question_id for item in result.sets}
    for item in result.sets:
        assert len(item.rationales) >= least
        assert last is None or place(item.question_id, 0) <= last
        assert item.rationales.items() <= right[item.question_id].items()
    for name, rate in rates.items():
        if last is None and rate <= 0.5 and len(drop_duplicates(right.get(name, {}), 0.6)) >= least:
            assert name in kept, "a hard question is never thinned out"


def test_the_first_correct_sample_of_each_perspective_is_taken() -> None:
    def sample(perspective: str, index: int, outcome: str, text: str) -> dict[str, object]:
        return {
            "question_id": "q", "perspective": perspective, "sample_index": index, "outcome": outcome, "text": text, "gold": "5",
        }  # fmt: skip

    samples = [
        sample("socratic", 0, "wrong", "no."),
        sample("socratic", 3, "correct", "third."),
        sample("socratic", 1, "correct", "first."),
        sample("formal", 0, "correct", "\\boxed{5}"),
        sample("formal", 1, "correct", "x=5."),
        sample("analogy", 0, "truncated", "cut"),
    ]
    found = first_right(samples, ["formal", "analogy", "socratic"])
    assert list(found["q"].items()) == [("formal", f"x=5. {conclusion('5')}"), ("socratic", f"first. {conclusion('5')}")]


@pytest.mark.parametrize("begin", ["<think>", ""])
def test_thoughts_are_removed_unless_they_are_kept_on_request(begin: str) -> None:
    text = f"{begin}Hm, 5?\n\nOr \\boxed{{6}}.</think>\n\nSo 2+3=5. The answer is \\boxed{{5}}."
    sample = {"question_id": "q", "perspective": "formal", "sample_index": 0, "outcome": "correct", "text": text, "gold": "5"}
    assert first_right([sample], ["formal"])["q"] == {"formal": f"So 2+3=5. {conclusion('5')}"}
    assert first_right([sample], ["formal"], "keep")["q"] == {"formal": text}


def test_a_sample_that_was_cut_off_is_no_rationale() -> None:
    sample = {"question_id": "q", "perspective": "formal", "sample_index": 0, "outcome": "correct", "gold": "5"}
    text = "2+3=5, so \\boxed{5}. Let me check: 5-3"
    assert first_right([{**sample, "text": text, "finish_reason": "length"}], ["formal"]) == {}
    assert "q" in first_right([{**sample, "text": text, "finish_reason": "stop"}], ["formal"])

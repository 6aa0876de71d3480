"""The shown questions are chosen by the digests of their ids, and long texts lose their middle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stages.report.browser.choice import LONGEST, choose, clipped

IDS = [f"q{number}" for number in range(300)]


def test_all_questions_are_chosen_while_they_fit() -> None:
    found = choose(((name, f"{name}{one}") for name in "ab" for one in IDS), 600)
    assert {name: len(chosen) for name, chosen in found.chosen.items()} == found.there == {"a": 300, "b": 300}
    assert len(found.every) == 600


@given(st.permutations(IDS), st.integers(1, 40))
def test_the_choice_depends_on_the_ids_alone(order: list[str], most: int) -> None:
    found = choose((("a", one) for one in order), most)
    assert found == choose((("a", one) for one in IDS), most)
    assert len(found.every) == most
    assert choose((("a", one) for one in IDS), most - 1 or 1).every <= found.every


def test_sets_have_equal_shares_and_at_least_one_question() -> None:
    sets = [(name, f"{name}{one}") for name in "abc" for one in IDS] + [("d", "only")]
    for most, share in ((40, 10), (2, 1)):
        assert {name: len(chosen) for name, chosen in choose(sets, most).chosen.items()} == {
            **dict.fromkeys("abc", share),
            "d": 1,
        }


@given(st.text(max_size=50), st.integers(0, 400))
def test_a_long_text_keeps_its_start_and_its_end(text: str, times: int) -> None:
    whole = text * times
    found = clipped(whole)
    assert found == whole or (found[:6000], found[-2000:]) == (whole[:6000], whole[-2000:])
    assert len(found) < LONGEST + 60
    assert (found == whole) == (len(whole) <= LONGEST)

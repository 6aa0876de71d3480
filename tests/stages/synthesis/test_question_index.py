from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.synthesis.question_index import IndexedQuestion, look_up, mean_pass_rate, open_index, write_index
from storage.errors import ArtifactError

words = st.text(st.characters(codec="utf-8"), max_size=8)


@given(st.dictionaries(words, st.builds(IndexedQuestion, words, words, words, st.floats(0, 1)), min_size=1), st.randoms())
def test_questions_are_found_by_id_in_any_order(questions: dict[str, IndexedQuestion], random: Any) -> None:
    ids = random.sample(list(questions), len(questions))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "questions.sqlite"
        asked = ((key, item.prompt, item.answer, item.text) for key, item in questions.items())
        write_index(path, asked, ((key, questions[key].pass_rate) for key in ids))
        with open_index(path) as lookup:
            assert list(look_up(lookup, ids).items()) == [(key, questions[key]) for key in ids]
            mean = sum(item.pass_rate for item in questions.values()) / len(questions)
            assert mean_pass_rate(lookup) == pytest.approx(mean)


def test_a_missing_question_is_refused_with_its_id(tmp_path: Path) -> None:
    write_index(tmp_path / "q", [("a", "?", "7", "?")], [("a", 0.5)])
    with open_index(tmp_path / "q") as lookup, pytest.raises(ArtifactError, match="question 'b' was sampled"):
        look_up(lookup, ["a", "b"])


def test_an_interrupted_write_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> Any:
        yield "a", "?", "7", "?"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_index(tmp_path / "q", interrupted(), [("a", 0.5)])
    assert not list(tmp_path.iterdir())


def test_a_question_without_attempts_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="1 of 2 questions have attempts; run the stage again"):
        write_index(tmp_path / "q", [("a", "?", "7", "?"), ("b", "?", "7", "?")], [("a", 0.5)])
    assert not list(tmp_path.iterdir())

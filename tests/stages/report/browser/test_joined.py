"""Questions come in the order of set and place with all their parts, whatever order they were added in."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from stages.report.browser.joined import add_part, add_question, entries, open_joined


@pytest.mark.parametrize("seed", [0, 1])
def test_parts_join_their_question_in_any_order(seed: int, tmp_path: Path) -> None:
    questions = [(number, place, f"q{number}{place}") for number in (0, 1) for place in range(5)]
    steps = [*questions, *((name, asked[2]) for asked in questions[1:] for name in ("base", "student"))]
    Random(seed).shuffle(steps)
    (tmp_path / "joined").write_bytes(b"a leftover")
    with open_joined(tmp_path / "joined") as joined:
        for step in steps:
            if len(step) == 3:
                add_question(joined, step[0], step[1], step[2], {"id": step[2]})
            else:
                add_part(joined, step[1], step[0], {"of": step[1]})
        for _ in range(2):
            found = [(number, json.loads(entry)) for number, entry in entries(joined)]
            assert [number for number, _ in found] == [number for number, _, _ in questions]
            assert found[0][1] == {"set": 0, "question": {"id": "q00"}}
            for (_, entry), (number, _, name) in list(zip(found, questions, strict=True))[1:]:
                assert entry == {"set": number, "question": {"id": name}, "base": {"of": name}, "student": {"of": name}}
    assert not (tmp_path / "joined").exists()

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.miniature.styles import RING_STYLES
from pipeline.perspectives.perspective import load_perspectives

MINE = """
version: 1
perspectives:
  - {name: plain, description: d, instruction: Say it plainly.}
  - {name: %s, description: d, instruction: i}
"""


def test_the_eight_shipped_perspectives_match_the_miniature_styles() -> None:
    shipped = load_perspectives(None)
    assert {item.name for item in shipped} == set(RING_STYLES)
    assert len({item.instruction for item in shipped}) == 8


def test_perspective_instructions_do_not_mention_the_final_answer() -> None:
    for item in load_perspectives(None):
        assert not re.search(r"boxed|the answer is|final answer", item.instruction, re.IGNORECASE), item.name
        assert "Do not" in item.instruction, item.name
        assert len(item.instruction.split()) < 110, item.name


def test_a_user_file_keeps_its_order(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(MINE % "another")
    assert [item.name for item in load_perspectives(tmp_path / "mine.yaml")] == ["plain", "another"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINE % "plain", "'plain' appears twice"),
        (MINE % "'Not Plain'", "should match pattern"),
        ("version: 1\nperspectives: []", "at least 1 item"),
        ("perspectives: [", "not valid YAML"),
        ("version: 1", "perspectives: missing"),
        ("", "expected a mapping"),
    ],
)
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"{tmp_path}/mine.yaml: .*{said}"):
        load_perspectives(tmp_path / "mine.yaml")


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file; correct `perspectives`"):
        load_perspectives(tmp_path / "none.yaml")

"""A user's pattern is matched in linear time, with the meaning that it has in Python where no limit of RE2 is met."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.questions.named_benchmarks import entries
from pipeline.questions.sources import Columns
from pipeline.schema.linear_patterns import all_captured, captured, compiled

PATTERNS = sorted(
    {
        pattern
        for entry in entries().values()
        for name, pattern in entry.source.get("columns", {}).items()
        if name.endswith("_pattern") and pattern is not None
    }
    | {r"####\s*(.+)$", r"^[A-E]\)(.*)$", r"(?s)^(.*?)\s*\nOptions:", "Q: (.*)"}
)
PARTS = st.sampled_from(
    [
        "####",
        " 42",
        "\n",
        "Options:",
        "(A) yes",
        "\n(B) no",
        "Q: ",
        "Answer Choices:",
        "\\boxed{",
        "7}",
        "{",
        "}",
        "A)",
        "word",
        " ",
    ]
)


def _one(name: str, pattern: str, text: str) -> None:
    Columns.model_validate({f"{name}_pattern": pattern})
    began = time.monotonic()
    captured(pattern, text)
    all_captured(pattern, text)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("name", ["question", "answer", "choice"])
@pytest.mark.parametrize("pattern", ["((?:a+)+)$", "((?:a|a)*)b", "(?:(a*)*)*b", "(?:.*,){20}(x)"])
def test_no_pattern_takes_long(name: str, pattern: str) -> None:
    _one(name, pattern, "a" * 20_000 + "!")
    _one(name, pattern, "a," * 10_000)


@given(st.lists(PARTS, max_size=12), st.sampled_from(PATTERNS))
def test_patterns_of_benchmarks_capture_what_they_captured_in_python(parts: list[str], pattern: str) -> None:
    text = "".join(parts)
    found = re.search(pattern, text)
    assert captured(pattern, text) == (None if found is None else found[1])
    if pattern.startswith("(?m)"):
        assert list(all_captured(pattern, text)) == re.findall(pattern, text)


@pytest.mark.parametrize("pattern", [r"(a)\1", "(?=a)(b)", "(a", "((a{1000}){1000}){1000}"])
def test_what_re2_does_not_have_is_refused_with_the_reason(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"is not a valid RE2 pattern; .* \(.+\)"):
        compiled(pattern)

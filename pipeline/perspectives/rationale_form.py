"""Checks whether a text has the form of its perspective: patterns that must all match, and patterns that must not match.

Patterns come from the user's file and texts from a model, so RE2 matches them (`pipeline/schema/linear_patterns.py`).
"""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import model_validator

from pipeline.grading.wording.lookalikes import strip_emphasis
from pipeline.schema.fields import Frozen, identity
from pipeline.schema.linear_patterns import compiled

_MARKS: Final = re.compile(r"^[ \t]*(?:[#>][ \t]*|[-*+•][ \t]+)*", re.MULTILINE)
"""Markdown prefixes of a line: headings, quotes, bullets."""


def _compiled(pattern: str) -> Any:
    return compiled(pattern, "(?im)")


class Form(Frozen):
    """Patterns in RE2 syntax. Case is ignored; `^` and `$` match at line boundaries."""

    all: tuple[str, ...] = identity(())
    """Patterns that must all match."""
    none: tuple[str, ...] = identity(())
    """Patterns that must not match."""

    @model_validator(mode="after")
    def _patterns(self) -> Form:
        if not self.all and not self.none:
            raise ValueError("a form without patterns; add patterns under all or none, or remove the form")
        for pattern in (*self.all, *self.none):
            _compiled(pattern)
        return self

    def fits(self, text: str) -> bool:
        """Whether a text has this form, ignoring Markdown marks and the kind of line endings."""
        plain = _MARKS.sub("", strip_emphasis(text.replace("\r\n", "\n")))
        return all(_compiled(pattern).search(plain) for pattern in self.all) and not any(
            _compiled(pattern).search(plain) for pattern in self.none
        )

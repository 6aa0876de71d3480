"""Compares free-text answers.

Ignored: case, white space, look-alike characters; surrounding quotes, emphasis and a final full stop; commas between words; and all white
space in texts without letters or digits (`] ] >`). Word order, hyphens and articles count. The canonical form, which the student learns to
write, normalises only case and white space.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from pipeline.grading.wording.latex import strip_latex
from pipeline.grading.wording.lookalikes import normalise_characters, strip_emphasis

_AROUND: Final = re.compile(r"^[\"'`*\s]+|[\"'`*\s]+$")
_SENTENCE: Final = re.compile(r"(?<=\w)(?<!\b[ap]\.m)[.!?][\"'*]*\s|(?<=[ap]\.m)\.\s(?=[A-Z])")
_QUOTED: Final = re.compile(r"\s*(?P<open>[\"'“‘«「`])(.+?)(?<!\s)(?:[\"'”’»」`])(?=[\s.,;:!?)}]|$)")
_SEVERAL: Final = re.compile(r"^\W*either\b.*\bor\b|^\W*[\"'][^\"']*[\"'],? (?:or|and) [\"']", re.IGNORECASE)


def whole(text: str) -> tuple[str, ...]:
    """Readings of a text: with case and white space normalised, and additionally without LaTeX, quotes, emphasis and a final full stop."""
    plain = _AROUND.sub("", _AROUND.sub("", re.sub(r"\\([{}])", r"\1", strip_latex(text))).rstrip("."))
    readings = (" ".join(item.split()).casefold() for item in (text, strip_emphasis(plain)))
    return tuple(dict.fromkeys(filter(None, readings)))


def phrase(text: str) -> tuple[str, ...] | None:
    """Readings of the text after "the answer is": what stands in quotes, its first sentence, and all of it."""
    first = _SENTENCE.split(text, maxsplit=1)[0]
    quoted = _QUOTED.match(text)
    readings = [*(whole(quoted[2]) if quoted else ()), *reversed(whole(first.rstrip("."))), *reversed(whole(text.rstrip(".")))]
    if _SEVERAL.search(first):
        return ()
    return tuple(dict.fromkeys(readings)) or None


def same(one: str, other: str) -> bool:
    """Whether two canonical texts are the same answer."""

    def bare(text: str) -> str:
        text = unicodedata.normalize("NFC", normalise_characters(text))
        spaced = " ".join(re.sub(r"[,;](?=\s)", " ", text).split())
        return spaced.rstrip(".") if re.search(r"[^\W_]", spaced) else "".join(text.split())

    return one == other or bare(one) == bare(other)

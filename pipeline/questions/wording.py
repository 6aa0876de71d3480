"""The normalised wording of a text, by which equal questions are recognised: every symbol counts, sentence punctuation does not.

Lower case; compatibility characters folded (full-width letters, ligatures); words, numbers and single symbols, joined by one space. So
`3+4` equals `3 + 4`, and `8 × 2` differs from `8 ÷ 2`, `[1, 3)` from `[1, 3]`, 2.5 from 25, and one emoji from another. Only the marks of
sentences are dropped: `. , ; : ? ! …`, their Spanish, Arabic, Indic and East Asian forms, and quotes. The same marks stay where they are
part of a number or an expression: 2.5, .5, 1,000, 3:4, 5', 5!, n!, !p. Our choice; the same rule serves contamination, near duplicates and
imported rationales, so that they agree on which questions are equal.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_POSITION: Final = {"<super>": " ^ ", "<sub>": " _ ", "<fraction>": " "}
"""What keeps the position of a raised, lowered or fraction character, which compatibility folding loses: x² is not x2, 1½ not 11/2."""
_SAME: Final = str.maketrans(
    {dash: "-" for dash in "‐‑‒–—―−﹣"} | {quote: "'" for quote in "‘’‚‛′"} | {quote: '"' for quote in "“”„‟«»″"}
)
"""Dashes and minus signs are one symbol, and so are the forms of a quote."""
_INVISIBLE: Final = "Cf"
"""Category of invisible characters: zero-width spaces and joiners, direction marks."""
_VARIATION_SELECTORS: Final = range(0xFE00, 0xFE10)
_TOKEN: Final = re.compile(
    r"""\w+ (?: (?<=\d)[.,:](?=\d)\w+ | (?<=[^\W\d_])[-'](?=[^\W\d_])\w+ )*    # a word or number: twenty-one, tom's, 2.5, 1,000, 3:4
      | \.\d\w*                                                             # .5
      | (?<=\d\s)[.,:;?!](?=\s\d)                                            # 3 : 4, and an unknown operator, 3 ? 4
      | (?<=\d)['"]                                                         # feet, inches, minutes, seconds
      | (?<=[\d)\]}])! | (?<![^\W_]{2})(?<=\w)! | !(?=[\w(\[{=])            # a factorial or negation
      | [^\w\s\x00-\x1f\x7f-\x9f.,;:?!'"…¡¿·。、،؛؟।॥]                          # every other character""",
    re.VERBOSE,
)


def _positions_kept(character: str) -> str:
    tag = unicodedata.decomposition(character).partition(" ")[0]
    if unicodedata.category(character) == _INVISIBLE or ord(character) in _VARIATION_SELECTORS:
        return ""
    return f"{_POSITION.get(tag, '')}{character}"


def normalised(text: str) -> str:
    """The normalised wording of a text; equal for texts that differ in case, white space and sentence punctuation only."""
    if not text.isascii():
        text = "".join(map(_positions_kept, text)).translate(_SAME)
    return " ".join(_TOKEN.findall(unicodedata.normalize("NFKC", text).translate(_SAME).casefold()))

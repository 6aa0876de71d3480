"""Decides whether a rounded decimal equals the gold answer: 0.333 for 1/3, 14053029.67 for 14053029.666666666.

Our choice. A rounded value counts if it has at least one decimal place and three significant digits, and if the other number has more than
three decimal places, so that nobody would have written it in full. Reasons: 0.33 is the rounding of too many numbers, and most wrong
answers are whole numbers. The rule is symmetric, since gold answers are rounded too. Digits after the sixth decimal place are treated as
floating point noise; twelve significant digits are then compared.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final

from pipeline.grading.wording.numerals import MOST_DIGITS

_ENDLESS: Final = 10**6
_WRITTEN_OUT: Final = 3
_NOISE: Final = 6
_SIGNIFICANT: Final = Context(prec=12)
_EXACT: Final = Context(prec=2 * MOST_DIGITS)


def _places(value: Fraction) -> int:
    """Number of decimal places that represent `value` exactly; `_ENDLESS` if it has no finite decimal form."""
    rest, twos, fives = value.denominator, 0, 0
    while not rest % 2:
        rest, twos = rest // 2, twos + 1
    while not rest % 5:
        rest, fives = rest // 5, fives + 1
    return max(twos, fives) if rest == 1 else _ENDLESS


@lru_cache(maxsize=4096)
def equal_up_to_rounding(one: str, other: str, fewest_places: int = 1) -> bool:
    """Whether two canonical numbers are the same number: equal, or one is the other rounded to at least `fewest_places` places."""
    if one == other:
        return True
    (places, short), (more, long) = sorted((_places(value), value) for value in (Fraction(one), Fraction(other)))
    rounded, exact = (_EXACT.divide(Decimal(value.numerator), Decimal(value.denominator)) for value in (short, long))
    if more > _NOISE and _SIGNIFICANT.plus(rounded) == _SIGNIFICANT.plus(exact):
        return True
    if places < fewest_places or more <= max(_WRITTEN_OUT, places) or abs(short) * 10**places < 100:
        return False
    step = Decimal(1).scaleb(-places)
    return any(rounded == exact.quantize(step, way, _EXACT) for way in (ROUND_HALF_UP, ROUND_HALF_EVEN))

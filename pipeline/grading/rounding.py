"""What a decimal is worth that is not quite the gold: 0.333 beside 1/3, 14053029.67 beside 14053029.666666666.

Our choice. A rounding counts where it has a place behind the point and three significant digits, and where the other number is not one
that anybody would have written out, that is, has more than three places: 0.33 fits too many numbers, and whole numbers are most
wrong answers. It holds both ways, since golds are rounded too. More than six places are the noise of a computation, and
twelve significant digits of them count.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final

from pipeline.grading.numbers import MOST_DIGITS

_ENDLESS: Final = 10**6
_WRITTEN_OUT: Final = 3
_NOISE: Final = 6
_SIGNIFICANT: Final = Context(prec=12)
_EXACT: Final = Context(prec=2 * MOST_DIGITS)


def _places(value: Fraction) -> int:
    """Decimal places that write `value` in full; `_ENDLESS` where none do."""
    rest, twos, fives = value.denominator, 0, 0
    while not rest % 2:
        rest, twos = rest // 2, twos + 1
    while not rest % 5:
        rest, fives = rest // 5, fives + 1
    return max(twos, fives) if rest == 1 else _ENDLESS


@lru_cache(maxsize=4096)
def stands_for(one: str, other: str, fewest_places: int = 1) -> bool:
    """Whether two canonical numbers are the same number: equal, or one the other's rounding to `fewest_places` or more."""
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

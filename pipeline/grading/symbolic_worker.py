"""Worker process for math-verify: reads pairs of expressions and writes whether they are equal, one JSON line each.

It imports nothing of MIND and is started by its path (`symbolic.py`). Before every pair it sets kernel timers that end the process: one on
its own CPU time and a much longer one on real time. The timers need no running Python code, so they also work inside a long multiplication
and when the parent has exited. Since CPU time is limited first, a busy machine does not change a grade. The process exits when its input
closes.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from functools import lru_cache

from math_verify import parse, verify
from sympy import Expr, N  # type: ignore[import-untyped]

_REAL_PER_CPU = 30
_DIGITS = 20
_CLOSE = 1e-6
_VALUES = (
    "1.2247448713915890491",
    "0.8408964152537145431",
    "1.7099759466766969894",
    "0.6299605249474365824",
    "2.2360679774997896964",
)


def _far_apart(one: object, other: object) -> bool:
    """Whether two expressions have values that are not close relative to their size.

    math-verify rounds to decimal places, so that 2^-95 is 2^-90. Unknowns get fixed values.
    """
    if not (isinstance(one, Expr) and isinstance(other, Expr)):
        return False
    unknowns = sorted(one.free_symbols | other.free_symbols, key=str)
    if len(unknowns) > len(_VALUES):
        return False
    known = {unknown: N(value, _DIGITS) for unknown, value in zip(unknowns, _VALUES, strict=False)}
    mine, theirs = (N(expression, _DIGITS, subs=known) for expression in (one, other))
    if not (mine.is_number and theirs.is_number and mine.is_finite and theirs.is_finite):
        return False
    return bool(abs(mine - theirs) > _CLOSE * max(abs(mine), abs(theirs)))


@lru_cache(maxsize=1024)
def _read(form: str) -> list[object]:
    """The parsed expression, remembered because a gold answer is compared with many answers.

    math-verify's own limits are off: they raise from a SIGALRM handler, and it counts timed-out comparisons as unequal.
    """
    parsed: list[object] = parse(f"${form}$", parsing_timeout=None, raise_on_error=True)
    return parsed


def _equal(answer: str, gold: str) -> bool:
    try:
        read = [_read(gold), _read(answer)]
        same = verify(*read, timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True)
        return bool(same) and not _far_apart(read[0][0], read[1][0])
    except Exception:  # noqa: BLE001 - sympy raises many exception types; the pair then counts as not equal
        return False


def _limit(seconds: float) -> None:
    """Sets timers whose signals, SIGPROF and SIGALRM, end the process by default; 0 removes the limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * _REAL_PER_CPU)


def main(seconds: float, bytes_: int) -> None:
    """Answers pairs until the input ends."""
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        _limit(seconds)
        result = _equal(*json.loads(line))
        _limit(0)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))

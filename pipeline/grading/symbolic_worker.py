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

from math_verify import parse, verify

_REAL_PER_CPU = 30


def _equal(answer: str, gold: str) -> bool:
    try:
        # math-verify's own limits are off: they raise from a SIGALRM handler, and it counts timed-out comparisons as unequal.
        read = [parse(f"${form}$", parsing_timeout=None, raise_on_error=True) for form in (gold, answer)]
        return bool(verify(*read, timeout_seconds=None, allow_set_relation_comp=True, raise_on_error=True))
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

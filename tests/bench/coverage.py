"""Coverage of the interval over seeds and items, beside two that are not used: python -m tests.bench.coverage (six minutes).

Prints, in per cent and by the seeds' true spread, how often each 95 % interval contains the true difference of two arms.
"""

from __future__ import annotations

from pipeline.analysis.statistics import change_interval
from tests.support.coverage import ITEMS, SEEDS, SPREADS, Design, coverage, crossed_bootstrap, satterthwaite

REPETITIONS = 300


def main() -> None:
    print("| seeds | items | bootstrap | one t quantile | now |\n|---|---|---|---|---|")
    for seeds in SEEDS:
        for items in ITEMS:
            shown = (
                " / ".join(
                    f"{100 * coverage(Design(spread, seeds, items), REPETITIONS, change).change:.0f}" for spread in SPREADS
                )
                for change in (crossed_bootstrap, satterthwaite, change_interval)
            )
            print(f"| {seeds} | {items:,} | " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()

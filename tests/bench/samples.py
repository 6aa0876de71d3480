"""Benchmark of the report's browser of samples: time, memory and size by questions (`python -m tests.bench.samples --questions 100000`).

Writes the samples of a made-up run with eight short rationales per question, in a fresh process. Seconds are of the processor, which other
work on the machine affects little; memory is the largest resident set, of which the libraries take most.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

MIB, MEGABYTE = 2**20, 10**6


def _measured(root: str, config: Any, inputs: Any) -> str:
    began = time.process_time()
    import torch

    from stages.report.browser.browse import write_browser
    from storage.store import Store

    loaded = time.process_time() - began
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with Store(Path(root)).draft("report", "0" * 16) as draft:
        found = write_browser(inputs, config.perspectives, draft)
        sizes = [path.stat().st_size for path in draft.folder.glob("samples-*.html")]
    seconds = time.process_time() - began - loaded
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    beside = f"{len(sizes)} pages beside it of at most {max(sizes, default=0) / MEGABYTE:.1f} MB, {sum(sizes) / MEGABYTE:.1f} MB together"
    memory = f"{(peak - before) / MIB:,.0f} MiB above {before / MIB:,.0f}"
    shown = sum(item["shown"] for item in found.sets)
    return (
        f"{seconds:.1f} s and {loaded:.1f} s for torch {torch.__version__}, {memory}; {shown:,} questions shown, in the report "
        f"{len(found.data) / MEGABYTE:.1f} MB, {beside}"
    )


def main() -> None:
    """Print what the browser takes."""
    from tests.support.browsable_run import browsable_run

    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--longer", type=int, default=0, help="characters added to every rationale")
    asked = parser.parse_args()
    longer = " and so on" * (asked.longer // 10)
    with tempfile.TemporaryDirectory() as root:
        config, inputs = browsable_run(
            Path(root), asked.questions, asked.items, lambda text: text + longer if text.startswith("Sample") else text
        )
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(_measured, (root, config, inputs)))


if __name__ == "__main__":
    main()

"""Memory that the objective adds at a vocabulary of 152 thousand, in chunks and whole: the goal is 0.4 times."""

from __future__ import annotations

import torch

from scripts.gpu.part import Options, attempt, options, report
from stages.speed.memory import OBJECTIVES, TOKENS, VOCABULARY, grown, objective_pass

GOAL = 0.4


def _mib(given: Options, form: str, terms: str) -> float:
    vocabulary = VOCABULARY // 16 if given.tiny else VOCABULARY
    work = objective_pass(form, terms, str(given.device), vocabulary, TOKENS * (4 if given.cuda else 1))
    if not given.cuda:
        return grown(work) / 1024
    work()  # loads kernels and workspaces
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def main() -> None:
    """Compare both forms, without and with L_cons."""
    given = options()
    for name, terms in OBJECTIVES.items():
        with attempt(name):
            chunked, whole = (_mib(given, form, terms) for form in ("chunked", "whole"))
            good = None if given.tiny else chunked / whole <= GOAL
            report(name, good, ratio=chunked / whole, chunked_mib=chunked, whole_mib=whole)


if __name__ == "__main__":
    main()

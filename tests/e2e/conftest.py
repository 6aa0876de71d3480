"""Fixture: one small real run of the miniature world, shared by the tests of this folder."""

from __future__ import annotations

import pytest

from tests.support.end_to_end import Run, mind, overrides


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`mind run` with real vLLM, DeepSpeed on two ranks, and Prefect."""
    root = tmp_path_factory.mktemp("run")
    answer = mind("run", "configs/miniature.yaml", *overrides(root))
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-4000:]
    return Run(root, answer.stdout)

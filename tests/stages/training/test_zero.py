"""Every combination of precision, ZeRO stage, offloading, LoRA and ranks that a configuration allows trains alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.training import Training
from tests.support.runs import REPOSITORY

RANKS = (1, 2)
pytestmark = pytest.mark.e2e


def matrix(ranks: int, folder: Path) -> dict[str, dict[str, Any]]:
    arguments = ["--device", "cpu", "--shapes", "tiny", "--more", "every", "--seconds", "600", "--folder", str(folder)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, "-m", "scripts.gpu.zero", *arguments]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    rows = (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"'))
    return {row["case"]: row for row in rows}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, dict[str, Any]]]:
    return {ranks: matrix(ranks, tmp_path_factory.mktemp("zero")) for ranks in RANKS}


@pytest.mark.parametrize("ranks", RANKS)
def test_every_combination_has_the_losses_of_fp32_without_zero(trained: dict[int, Any], ranks: int) -> None:
    assert len(trained[ranks]) == 30
    assert [row for row in trained[ranks].values() if not row["good"]] == []


def test_losses_do_not_depend_on_the_number_of_ranks(trained: dict[int, Any]) -> None:
    for case, row in trained[1].items():
        other = trained[2][case]["figures"]
        assert other["last"] == pytest.approx(row["figures"]["last"], rel=1e-3), case


def test_bfloat16_without_zero_is_refused_when_the_configuration_is_read() -> None:
    with pytest.raises(
        ValueError, match="precision bf16 needs zero_stage 1 or more, which keeps fp32 copies of the weights; set 1"
    ):
        Training(precision="bf16", zero_stage=0)

"""The batch scripts run here as bash runs them, with srun, scontrol and mind replaced by programs that record what they are given."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.config.run import load_config
from tests.support.runs import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "slurm"
SCRIPTS = sorted(path.name for path in FOLDER.iterdir())
CONFIG = "configs/miniature.yaml"


def submit(script: str, folder: Path, *arguments: str, nodes: int = 1) -> tuple[int, list[list[str]]]:
    """The exit code of a script and the arguments of every `mind` that it started, in the order of the nodes."""
    programs = {
        "mind": f'printf "%s\\n" "$@" > "{folder}/node-${{SLURM_NODEID:-0}}"\n',
        "scontrol": '[ "$*" = "show hostnames node[1-3]" ] && printf "node1\\nnode2\\nnode3\\n"\n',
        "srun": 'shift\nfor node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do SLURM_NODEID=$node "$@" || exit 1; done\n',
    }
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}")
        (folder / name).chmod(0o755)
    given = {
        "SLURM_JOB_NODELIST": "node[1-3]",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_GPUS_ON_NODE": "2",
        "SLURM_JOB_ID": "71234",
    }
    environment = {**os.environ, **given, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("MIND_VENV", None)
    answer = subprocess.run(["bash", FOLDER / script, *arguments], env=environment, capture_output=True, text=True, check=False)
    return answer.returncode, [path.read_text().splitlines() for path in sorted(folder.glob("node-*"))]


def test_one_node_runs_everything(tmp_path: Path) -> None:
    assert submit("run.sbatch", tmp_path, CONFIG, "--set", "name=two words") == (
        0,
        [["run", CONFIG, "--set", "name=two words"]],
    )


def test_the_first_of_several_nodes_runs_and_the_others_join_with_the_same_settings(tmp_path: Path) -> None:
    code, (first, second, third) = submit("hosts.sbatch", tmp_path, CONFIG, "--set", "name=two-words", nodes=3)
    assert code == 0
    assert first[:2] == ["run", CONFIG]
    assert (second[:4], third[:4]) == (["join", CONFIG, "--host", "1"], ["join", CONFIG, "--host", "2"])
    assert first[2:] == second[4:] == third[4:]
    settings = [value for option, value in zip(first[2::2], first[3::2], strict=True) if option == "--set"]
    training = load_config(REPOSITORY / CONFIG, (*settings, "training.questions_per_step=30")).training
    assert (training.hosts, training.ranks, training.address) == (3, 6, "node1")
    assert training.port == 20000 + 71234 % 20000


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_a_configuration_it_says_how_it_is_used(script: str, tmp_path: Path) -> None:
    assert submit(script, tmp_path) == (2, [])


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_strict_and_its_directives_come_before_its_commands(script: str) -> None:
    lines = (FOLDER / script).read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    commands = [place for place, line in enumerate(lines) if line and not line.startswith("#")]
    assert lines[commands[0]] == "set -euo pipefail"
    directives = [place for place, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(directives) < commands[0], "Slurm reads no directive after the first command"
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", lines[place]) for place in directives)
    assert "#SBATCH --requeue" in lines

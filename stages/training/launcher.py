"""Starts the ranks of one host through torch's launcher, and waits for them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

from pipeline.config.training import Training
from pipeline.errors import BadInput, ConfigError, StageFailed

REJECTION_FILE: Final = "refused"
RANK: Final = "stages.training.rank"
"""Module that is one rank of a training."""
SPEC_FILE: Final = "spec.json"
"""File in the scratch folder that tells the ranks of every host what to train."""


def _port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def check_machine(training: Training) -> None:
    """Refuse a training that this machine cannot run; planning does not ask, since another machine may run it.

    Raises:
        ConfigError: FlexAttention is wanted and there is no GPU.
    """
    if training.packing != "flex":
        return
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("training.packing: flex requires a GPU; none found; set training.packing to rows or none")


def choose_port(wanted: int | None) -> int:
    """`wanted` if it is free on loopback, or any free port.

    Raises:
        ConfigError: `wanted` is in use.
    """
    if wanted is not None:
        if not _port_is_free(wanted):
            raise ConfigError(f"training.port: {wanted} is in use on 127.0.0.1; omit it to use a free port")
        return wanted
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launcher_of(training: Training, spec: str, port: int, host: int, module: str = RANK) -> tuple[list[str], dict[str, str]]:
    """Command and environment of torch's launcher, which starts the ranks of one host; every rank runs `module` on `spec`."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", str(training.hosts), "--node-rank", str(host),
        "--nproc-per-node", str(training.ranks // training.hosts), "--master-addr", training.address or "127.0.0.1",
        "--master-port", str(port), "-m", module, spec,
    ]  # fmt: skip
    return command, {**os.environ, **rank_environment(training)}


def launch(training: Training, spec: str, port: int, module: str = RANK) -> None:
    """Start the ranks and wait for them.

    Raises:
        BadInput: a rank rejected its input.
        StageFailed: a rank or the launcher failed.
    """
    command, environment = launcher_of(training, spec, port, 0, module)
    refused = Path(spec).with_name(REJECTION_FILE)
    refused.unlink(missing_ok=True)
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as launcher:
        try:
            code = launcher.wait()
        except BaseException:
            launcher.terminate()
            raise
    if code and refused.exists():
        message = refused.read_text()
        refused.unlink()
        raise BadInput(message)
    if code:
        raise StageFailed(
            f"training: the launcher exited with code {code}; see the log above (signal 9 means that a rank was killed, usually out "
            "of memory: lower questions_per_micro_batch or raise zero_stage); run again to resume"
        )


def rank_environment(training: Training) -> dict[str, str]:
    """Environment variables of every rank."""
    import torch

    return {
        "OMP_NUM_THREADS": str(training.threads_per_rank),
        "TOKENIZERS_PARALLELISM": "false",
        # If a library aborts a rank, its thread stacks are written to the log.
        "PYTHONFAULTHANDLER": "1",
        "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu"),
    }


def only_rank_environment(training: Training, port: int) -> dict[str, str]:
    """Environment variables of a process that is the only rank itself, without a launcher."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return rank_environment(training) | alone

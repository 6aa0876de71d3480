"""Joins a training on several hosts from a host other than the first: waits for the first host, then starts this host's ranks.

The first host runs the stage as usual: it holds the lease, writes the ranks' specification, and commits. The other hosts only provide
ranks. The ranks meet at `training.address` and read and write through the root's folder, which all hosts share.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pipeline.config.run import RunConfig
from pipeline.errors import ConfigError, StageFailed
from stages.core.plan import plan
from stages.core.process import store_of
from stages.training.launcher import SPEC_FILE, launcher_of
from stages.training.stage import NAME

_LOOK_AGAIN_SECONDS: Final = 2.0


def _begun(run: RunConfig, spec: Path) -> bool:
    """Whether the first host has started with the same configuration; a file of an earlier attempt may have another one."""
    try:
        return bool(json.loads(spec.read_bytes())["config"]["training"] == run.training.model_dump(mode="json"))
    except (FileNotFoundError, ValueError):
        return False


def join(run: RunConfig, host: int, say: Callable[[str], None]) -> None:
    """Provide this host's ranks to a run's training until it is done. Returns at once if it is already done.

    Raises:
        ConfigError: the run uses one host, or has no host of this number.
        StageFailed: the ranks on this host failed, by themselves or because others did.
    """
    training = run.training
    if training.hosts == 1:
        raise ConfigError("training.hosts: 1, so there is nothing to join; set training.hosts, address and port")
    if not 1 <= host < training.hosts:
        raise ConfigError(f"--host {host}: expected 1 to {training.hosts - 1}; host 0 runs the stage itself with `mind run`")
    fingerprint = plan(run)[NAME].fingerprint
    store = store_of(run)
    spec = store.root / NAME / f"{fingerprint}.scratch" / SPEC_FILE
    said = False
    while not _begun(run, spec):
        if store.exists(NAME, fingerprint):
            say(f"training {fingerprint} is done")
            return
        if not said:
            say(f"waiting for the first host to begin training {fingerprint}")
            said = True
        time.sleep(_LOOK_AGAIN_SECONDS)
    assert training.port is not None, "the configuration requires a port for several hosts"
    command, environment = launcher_of(training, str(spec), training.port, host)
    say(f"{training.ranks // training.hosts} ranks of host {host} join at {training.address}:{training.port}")
    code = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
    if code:
        raise StageFailed(
            f"host {host}: the launcher exited with code {code}; see the log above and the first host's; start all hosts again to resume"
        )

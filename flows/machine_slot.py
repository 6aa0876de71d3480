"""Limits each machine to one stage that may use an accelerator at a time, so that two stages never share a GPU by accident.

With a Prefect server, the limit is a concurrency limit named `mind-HOST` with one slot, created at first use. The temporary server of
`mind run` ends with the command: if a closed terminal ends both at once, nothing would release the slot. There, the limit is a file lock,
which the kernel releases with the process that holds it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from filelock import FileLock, Timeout
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import get_current_settings

LEASE_SECONDS: Final = 60.0


@contextmanager
def machine_slot(stage: str) -> Iterator[None]:
    """Hold this machine's slot while the body runs; if `stage` has to wait, the flow's log says so."""
    name = f"mind-{socket.gethostname()}"
    with _of_the_server(stage, name) if get_current_settings().api.url else _of_the_kernel(stage, name):
        yield


@contextmanager
def _of_the_server(stage: str, name: str) -> Iterator[None]:
    with get_client(sync_client=True) as client:
        try:
            if client.read_global_concurrency_limit_by_name(name).active_slots:
                get_run_logger().info(
                    "%s waits for %s: another stage is using this machine, or was killed in the last %.0f s",
                    stage, name, LEASE_SECONDS,
                )  # fmt: skip
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
            except ObjectAlreadyExists:
                get_run_logger().debug("another run made %s just now", name)
    with concurrency(name, lease_duration=LEASE_SECONDS):
        yield


@contextmanager
def _of_the_kernel(stage: str, name: str) -> Iterator[None]:
    lock = FileLock(get_current_settings().home / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        get_run_logger().info("%s waits for %s: another stage is using this machine", stage, lock.lock_file)
        lock.acquire(poll_interval=0.5)
    try:
        yield
    finally:
        lock.release()

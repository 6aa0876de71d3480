"""Registers MIND with a Prefect server: the work pools, and the deployments of `prefect.yaml`.

A server answers seconds or, on a slow machine, a minute after its start, so the first step is to wait for it. Every step may be repeated.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Final

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import get_current_settings
from prefect.workers.process import ProcessWorker

from flows.stage_process import HOME
from pipeline.errors import ConfigError, StageFailed

POOLS: Final = ("mind-gpu", "mind-cpu")
_PAUSE_SECONDS: Final = 0.5


def wait_for_server(url: str, seconds: float) -> None:
    """Wait until the server of an API's URL answers that it is well.

    Raises:
        ConfigError: it does not within `seconds`.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            answer = httpx.get(f"{url.rstrip('/')}/health", timeout=10)
            if answer.is_success:
                return
            said = f"status {answer.status_code}"
        except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
            said = str(error) or type(error).__name__
        if time.monotonic() > until:
            raise ConfigError(
                f"{url}: no healthy Prefect server after {seconds:.0f} s ({said}); start one with `prefect server start`, "
                "correct PREFECT_API_URL, or raise --minutes"
            )
        time.sleep(_PAUSE_SECONDS)


def register(seconds: float, say: Callable[[str], None]) -> None:
    """Wait for the configured server, then create the pools that are missing, and register the deployments.

    Raises:
        ConfigError: no server is configured, or it does not answer; MIND was not installed from a checkout.
        StageFailed: Prefect refuses the deployments.
    """
    url = get_current_settings().api.url
    if not url:
        raise ConfigError("PREFECT_API_URL: not set; set it to the server's address, for example http://127.0.0.1:4200/api")
    if not (HOME / "prefect.yaml").is_file():
        raise ConfigError(
            f"{HOME / 'prefect.yaml'}: no such file; deployments run from a checkout of the repository: install it with pip install -e ."
        )
    wait_for_server(url, seconds)
    with get_client(sync_client=True) as client:
        for pool in POOLS:
            template = ProcessWorker.get_default_base_job_template()
            try:
                client.create_work_pool(WorkPoolCreate(name=pool, type=ProcessWorker.type, base_job_template=template))
            except ObjectAlreadyExists:
                say(f"pool {pool}: there already")
            else:
                say(f"pool {pool}: created")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    answer = subprocess.run(
        command,
        cwd=HOME,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise StageFailed(
            f"prefect deploy --all: exit code {answer.returncode}; correct prefect.yaml:\n{answer.stdout}{answer.stderr}"
        )
    say(f"deployments of {HOME / 'prefect.yaml'}: registered")

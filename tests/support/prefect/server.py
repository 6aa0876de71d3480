"""A real Prefect server on loopback with its own database, worker processes, and the API that its UI uses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import psutil

from tests.support.runs import REPOSITORY

PREFECT: Final = str(Path(sys.executable).with_name("prefect"))
WAIT_SECONDS: Final = 180.0
"""Timeout in seconds, generous for slow machines."""
FINAL: Final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def eventually(look: Callable[[], Any], what: str, patience: float = WAIT_SECONDS, pause: float = 0.1) -> Any:
    """Polls `look` and returns its first true value; fails after `patience` seconds."""
    until = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < until, f"{what}: not within {patience:.0f} s"
        time.sleep(pause)
    return found


@dataclass(frozen=True)
class Prefect:
    """A running server and its API client."""

    url: str
    home: Path
    api: httpx.Client

    @property
    def environment(self) -> dict[str, str]:
        """Environment for processes that use this server."""
        return {**_environment(self.home), "PREFECT_API_URL": f"{self.url}/api"}

    def call(self, *arguments: str, timeout: float = WAIT_SECONDS) -> str:
        """Runs the command `prefect` and returns its output."""
        answer = subprocess.run(
            [PREFECT, "--no-prompt", *arguments],
            cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
        return answer.stdout

    def mind(self, *arguments: str, timeout: float = WAIT_SECONDS) -> str:
        """Runs the command `mind` and returns its output."""
        answer = subprocess.run(
            [sys.executable, "-m", "flows.cli", *arguments],
            cwd=REPOSITORY, env=self.environment, capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
        return answer.stdout

    def request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Sends a request; retries status 503 of a busy database, as Prefect's own clients do."""

        def ask() -> httpx.Response | None:
            answer = self.api.request(method, path, json=body)
            return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer

        until = time.monotonic() + WAIT_SECONDS
        while (answer := ask()) is None:
            assert time.monotonic() < until, f"{path}: the database is busy"
            time.sleep(0.5)
        return answer

    def get(self, path: str) -> Any:
        return self.request("GET", path).raise_for_status().json()

    def post(self, path: str, **body: Any) -> Any:
        return self.request("POST", path, body).raise_for_status().json()

    def deployments(self) -> dict[str, dict[str, Any]]:
        """All deployments by `flow/deployment`."""
        flows = {flow["id"]: flow["name"] for flow in self.post("/flows/filter")}
        return {f"{flows[item['flow_id']]}/{item['name']}": item for item in self.post("/deployments/filter")}

    def ask(self, deployment: str, parameters: Mapping[str, Any], **more: Any) -> httpx.Response:
        """Requests a flow run, as the form in the UI does."""
        found = self.get(f"/deployments/name/{deployment}")
        return self.request("POST", f"/deployments/{found['id']}/create_flow_run", {"parameters": dict(parameters), **more})

    def start(self, deployment: str, parameters: Mapping[str, Any], **more: Any) -> str:
        """Starts a flow run and returns its id."""
        return str(self.ask(deployment, parameters, **more).raise_for_status().json()["id"])

    def run(self, run: str) -> dict[str, Any]:
        return dict(self.get(f"/flow_runs/{run}"))

    def final_state(self, run: str, patience: float = WAIT_SECONDS) -> dict[str, Any]:
        """Waits for a run to end and returns its final state."""
        return dict(eventually(lambda: self._final(run), f"the end of {run}", patience, 0.3))

    def _final(self, run: str) -> Any:
        state = self.run(run)["state"]
        return state if state["type"] in FINAL else None

    def outcome(self, deployment: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Starts a run, waits for its end and returns its final state."""
        return self.final_state(self.start(deployment, parameters))

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """Task runs in start order."""
        found = self.post("/task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return sorted(found, key=lambda task: str(task["expected_start_time"]))

    def children(self, run: str) -> list[dict[str, Any]]:
        """Flow runs started by tasks of a run, in start order."""
        found = self.post("/flow_runs/filter", flow_runs={"parent_flow_run_id": {"any_": [run]}})
        return sorted(found, key=lambda child: str(child["start_time"]))

    def logs(self, run: str) -> list[str]:
        found: list[str] = []
        while page := self.post("/logs/filter", logs={"flow_run_id": {"any_": [run]}}, offset=len(found), limit=200):
            found += [line["message"] for line in page]
        return found

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        """The latest artifact of a run by key."""
        found = self.post("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        return {item["key"]: item for item in sorted(found, key=lambda item: str(item["updated"]))}

    def events(self, prefix: str) -> list[dict[str, Any]]:
        """Events with a prefix, newest first."""
        return list(self.post("/events/filter", filter={"event": {"prefix": [prefix]}, "order": "DESC"})["events"])

    def cancel(self, run: str) -> None:
        """Cancels a run, as the UI's button does."""
        self.post(f"/flow_runs/{run}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})

    def page(self, run: str) -> str:
        return f"{self.url}/runs/flow-run/{run}"

    def engine(self, run: str) -> psutil.Process:
        """The process that runs the flow of a run."""
        found = [process for process in psutil.process_iter() if _is_engine(process, run)]
        return min(found, key=lambda process: process.create_time())


def _is_engine(process: psutil.Process, run: str) -> bool:
    try:
        words, environment = process.cmdline(), process.environ()
    except psutil.Error:
        return False
    return environment.get("PREFECT__FLOW_RUN_ID") == run and any(word.startswith("prefect.") for word in words)


def processes_with(word: str) -> list[psutil.Process]:
    """Live processes with `word` in their command line, for example an artifact root."""
    found = []
    for process in psutil.process_iter():
        try:
            if word in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def scheduled_hours_ago(hours: float) -> dict[str, Any]:
    """Arguments for `start`: a run that was scheduled this many hours ago."""
    due = datetime.fromtimestamp(time.time() - hours * 3600, UTC).isoformat()
    return {"state": {"type": "SCHEDULED", "name": "Scheduled", "state_details": {"scheduled_time": due}}}


def _environment(home: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **clean,
        "PREFECT_HOME": str(home),
        "PREFECT_MEMO_STORE_PATH": str(home / "memo_store.toml"),
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_SERVER_LOGGING_LEVEL": "INFO",  # one line per request
        "PREFECT_WORKER_QUERY_SECONDS": "2",
        "MIND_CHANGES_MAY_NAME_SERVERS": "1",  # jobs of tests name the fake teacher
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _background(command: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in its own group; it and its children are ended afterwards."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _, alive = psutil.wait_procs(family, timeout=30)
        for orphan in alive:
            orphan.kill()


@contextmanager
def server(home: Path) -> Iterator[Prefect]:
    """A server with an empty database."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {**_environment(home), "PREFECT_SERVER_API_PORT": str(port), "PREFECT_API_URL": f"{url}/api"}
    command = [PREFECT, "server", "start", "--host", "127.0.0.1"]
    with (
        _background(command, home / "server.log", environment) as process,
        httpx.Client(base_url=f"{url}/api", timeout=60) as api,
    ):

        def up() -> bool:
            assert process.poll() is None, (home / "server.log").read_text()[-3000:]
            try:
                return api.get("/health").is_success
            except httpx.TransportError:
                return False

        eventually(up, "a server")
        yield Prefect(url, home, api)


@contextmanager
def worker(prefect: Prefect, pool: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker for a pool."""
    command = [PREFECT, "worker", "start", "--pool", pool, "--name", f"test-{pool}"]
    with _background(command, prefect.home / f"{pool}.log", prefect.environment) as process:
        yield process


@contextmanager
def deployed(home: Path) -> Iterator[Prefect]:
    """A server with the pools and deployments that `mind deploy` makes, and a worker per pool."""
    with server(home) as prefect, ExitStack() as workers:
        prefect.mind("deploy")
        for pool in ("mind-gpu", "mind-cpu"):
            workers.enter_context(worker(prefect, pool))
        yield prefect

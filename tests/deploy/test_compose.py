"""The services on one machine: loopback ports, passwords from .env, known commands and pools, nothing that does not exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Annotated, Any, Literal

import pytest
import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field

from flows.cli.app import app
from flows.server.deployments import POOLS
from flows.server.reports import REPORTS_URL
from tests.support.runs import REPOSITORY


class Strict(BaseModel):
    """The fields that these files use, and no others."""

    model_config = ConfigDict(extra="forbid")


class Build(Strict):
    context: Literal["."]
    target: Literal["cpu", "cuda"]


class Condition(Strict):
    condition: Literal["service_healthy", "service_completed_successfully", "service_started"]


Seconds = Annotated[str, Field(pattern=r"^\d+(s|m)$")]


class Health(Strict):
    test: list[str]
    interval: Seconds
    timeout: Seconds
    retries: int


class Service(Strict):
    image: str
    build: Build | None = None
    command: list[str] | None = None
    init: Literal[False] | None = None
    restart: Literal["unless-stopped", "no"]
    environment: dict[str, str] = {}
    ports: list[Annotated[str, Field(pattern=r"^127\.0\.0\.1:\d+:\d+$")]] = []
    volumes: list[Annotated[str, Field(pattern=r"^[a-z]+:/[\w/.]+(:ro)?$")]] = []
    depends_on: dict[str, Condition] = {}
    healthcheck: Health | None = None
    cap_drop: list[Literal["ALL"]] = []
    security_opt: list[Literal["no-new-privileges:true"]] = []
    shm_size: str | None = None
    stop_grace_period: Seconds | None = None


class Compose(Strict):
    name: str
    services: dict[str, Service]
    volumes: dict[str, None]


def tree(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((REPOSITORY / name).read_text())
    return {key: value for key, value in found.items() if not key.startswith("x-")}


COMPOSE = Compose.model_validate(tree("compose.yaml"))
OURS = {name: service for name, service in COMPOSE.services.items() if service.build is not None}


def test_there_are_a_server_its_database_and_a_worker() -> None:
    assert {"database", "server", "worker", "deployments", "reports"} == set(COMPOSE.services)


def test_what_a_service_needs_exists_and_says_when_it_is_ready() -> None:
    for service in COMPOSE.services.values():
        for needed, when in service.depends_on.items():
            other = COMPOSE.services[needed]
            assert (when.condition == "service_healthy") == (other.healthcheck is not None)
            assert when.condition != "service_completed_successfully" or other.restart == "no"
        assert {volume.partition(":")[0] for volume in service.volumes} <= set(COMPOSE.volumes)


def test_the_database_is_reached_by_the_server_alone_and_has_no_port() -> None:
    assert COMPOSE.services["database"].ports == []
    address = COMPOSE.services["server"].environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"]
    database = COMPOSE.services["database"].environment
    assert re.fullmatch(r"postgresql\+asyncpg://prefect:\$\{POSTGRES_PASSWORD:\?[^}]+\}@database:5432/prefect", address)
    assert (database["POSTGRES_USER"], database["POSTGRES_DB"]) == ("prefect", "prefect")


def test_every_password_comes_from_the_environment_and_is_required() -> None:
    for name, service in COMPOSE.services.items():
        for variable, value in service.environment.items():
            if re.search("PASSWORD|AUTH|KEY|TOKEN", variable):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), f"{name}: {variable}"
    text = (REPOSITORY / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{(\w+)", text))
    example = dict(
        line.split("=", 1) for line in (REPOSITORY / ".env.example").read_text().splitlines() if line and line[0] != "#"
    )
    assert used == set(example)
    assert set(example.values()) == {""}, "an example is no password"


def test_server_and_clients_share_the_password_of_the_api() -> None:
    server = COMPOSE.services["server"].environment["PREFECT_SERVER_API_AUTH_STRING"]
    for name in ("deployments", "worker"):
        client = COMPOSE.services[name].environment
        assert client["PREFECT_API_AUTH_STRING"] == server
        assert client["PREFECT_API_URL"] == "http://server:4200/api"
    assert REPORTS_URL in COMPOSE.services["worker"].environment


@pytest.mark.parametrize("name", OURS)
def test_our_services_run_known_commands_without_privileges(name: str) -> None:
    service = OURS[name]
    assert service.image == f"mind:{service.build.target}"  # type: ignore[union-attr]
    assert (service.cap_drop, service.security_opt) == (["ALL"], ["no-new-privileges:true"])
    command = service.command or []
    if command[0] == "mind":
        assert command[1] in typer.main.get_command(app).commands  # type: ignore[attr-defined]
    else:
        assert command[:2] in (["prefect", "server"], ["prefect", "worker"])
    if "--pool" in command:
        assert command[command.index("--pool") + 1] in POOLS


def test_workers_and_the_reports_share_the_root_of_artifacts_and_the_reports_only_read() -> None:
    assert COMPOSE.services["worker"].volumes == ["artifacts:/data"]
    assert COMPOSE.services["reports"].volumes == ["artifacts:/data:ro"]


def test_the_cuda_file_changes_only_the_worker() -> None:
    (name, service), *others = tree("compose.cuda.yaml")["services"].items()
    assert (name, others) == ("worker", [])
    assert (service["image"], Build.model_validate(service["build"]).target) == ("mind:cuda", "cuda")
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_health_that_is_asked_for_needs_no_password_and_everything_else_does() -> None:
    """The check inside the server's container and that of `mind deploy` send none."""
    check = COMPOSE.services["server"].healthcheck
    assert check is not None
    compile(check.test[-1], "healthcheck", "exec")
    assert "http://127.0.0.1:4200/api/health" in check.test[-1]
    code = (
        "from starlette.testclient import TestClient\n"
        "from prefect.server.api.server import create_app\n"
        "client = TestClient(create_app(ephemeral=True))\n"
        "print(client.get('/api/health').status_code, client.post('/api/flows/count').status_code)"
    )
    environment = {**os.environ, "PREFECT_SERVER_API_AUTH_STRING": "name:password"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["200", "401"]

"""A Prefect server that cannot be used is refused in a line before a flow starts."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from flows.prefect_settings import prefect_home
from pipeline.errors import ConfigError
from tests.support.fake_teacher import Fault, serve


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")})


def test_a_dead_server_is_refused_in_a_line_and_at_once() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        os.environ["PREFECT_API_URL"] = f"http://user:Hunter2@127.0.0.1:{closed.getsockname()[1]}/api"
        began = time.monotonic()
        with pytest.raises(
            ConfigError, match=r"PREFECT_API_URL, http://\*\*\*@127.*: no connection .*; start that server"
        ) as raised:
            prefect_home(Path("root"))
    assert "\n" not in str(raised.value)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("url", ["", "nowhere", "ftp://host/api"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    os.environ["PREFECT_API_URL"] = url
    with pytest.raises(ConfigError, match=r"PREFECT_API_URL, .*unset the variable"):
        prefect_home(Path("root"))


@pytest.mark.parametrize("fault", [None, Fault(500), Fault(401)])
def test_a_server_that_answers_anything_is_used(fault: Fault | None) -> None:
    with serve(fault=lambda asked: fault) as url:
        os.environ["PREFECT_API_URL"] = url
        prefect_home(Path("root"))
    assert os.environ["PREFECT_HOME"] == "root/.prefect"


@pytest.mark.parametrize("name", ["a%20b", "100%", "what?"])
def test_a_root_in_which_no_database_can_lie_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"Prefect's database cannot lie .*; give another root, or set PREFECT_HOME"):
        prefect_home(tmp_path / name)
    os.environ["PREFECT_HOME"] = str(tmp_path)
    prefect_home(tmp_path / name)

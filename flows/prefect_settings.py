"""Prefect's settings for commands that run a flow: where its files lie, how long its temporary server may take, no telemetry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pipeline.errors import ConfigError

LOOK_SECONDS: Final = 10.0
"""Longest wait for a connection to the configured server."""


def prefect_home(root: Path) -> None:
    """Keep Prefect's files in the artifact root and give its temporary server time to start; the user's own settings take precedence.

    Raises:
        ConfigError: the configured server does not answer, or the database of a temporary one cannot lie where it would.
    """
    os.environ.setdefault("PREFECT_HOME", str(root / ".prefect"))
    os.environ.setdefault("PREFECT_MEMO_STORE_PATH", str(Path(os.environ["PREFECT_HOME"]) / "memo_store.toml"))
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
        _check_home(os.environ["PREFECT_HOME"])
    else:
        _check_server(os.environ["PREFECT_API_URL"])


def _check_home(home: str) -> None:
    """Prefect reads the path of its database as part of a URL, with interpolation."""
    for character in "%?":
        if character in home:
            raise ConfigError(
                f"{home}: Prefect's database cannot lie in a folder with {character!r} in its name; give another root, or set PREFECT_HOME"
            )


def _check_server(url: str) -> None:
    """One look, because Prefect's own client retries for a minute and ends in a traceback. A slow answer is an answer."""
    from httpx2 import ConnectError, ConnectTimeout, HTTPError, InvalidURL, UnsupportedProtocol, get

    try:
        get(f"{url.rstrip('/')}/health", timeout=LOOK_SECONDS)
    except (ConnectError, ConnectTimeout, InvalidURL, UnsupportedProtocol) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise ConfigError(f"PREFECT_API_URL, {url}: no connection ({why}); start that server, or unset the variable") from error
    except HTTPError:
        pass

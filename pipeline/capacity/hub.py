"""Looks once whether the hub answers, so that checks of many models do not each wait and retry without a network."""

from __future__ import annotations

import os
from functools import lru_cache
from threading import Thread
from typing import Final

LOOK_SECONDS: Final = 5.0
"""Longest look, name look-up and proxy included."""


def is_offline() -> bool:
    """Whether the hub must not be asked (HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("0", "")


def hub_silence() -> str:
    """Why the hub does not answer; empty if it does, whatever it says."""
    from huggingface_hub import constants

    return _silence(constants.ENDPOINT)


@lru_cache(maxsize=8)
def _silence(address: str) -> str:
    from httpx2 import HTTPError, head

    found: list[str] = []

    def look() -> None:
        try:
            head(address, timeout=LOOK_SECONDS)
            found.append("")
        except (HTTPError, OSError, ValueError) as error:
            found.append((str(error).splitlines() or [type(error).__name__])[0][:80])

    # A name look-up has no time limit of its own, hence the thread.
    thread = Thread(target=look, daemon=True)
    thread.start()
    thread.join(LOOK_SECONDS)
    return found[0] if found else f"nothing within {LOOK_SECONDS:g} s"

"""A teacher that answers at once, and one undisturbed run to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.faults.campaign import peace
from tests.faults.teacher import serve

CONFIG = REPOSITORY / "configs" / "miniature.yaml"


@pytest.fixture(scope="session")
def teacher() -> Iterator[str]:
    with serve() as url:
        yield url


@pytest.fixture(scope="session")
def peaceful(tmp_path_factory: pytest.TempPathFactory, teacher: str) -> Path:
    """The root of a run that nobody disturbed."""
    root = tmp_path_factory.mktemp("peace")
    peace(CONFIG, root, teacher)
    return root

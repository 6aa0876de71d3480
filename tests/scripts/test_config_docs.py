"""docs/config.md is the one that the code gives today."""

from __future__ import annotations

from pydantic import BaseModel
from pytest import raises

from pipeline.schema.fields import identity
from scripts.config_docs import TARGET, _section, document


def test_the_configuration_reference_is_current() -> None:
    assert TARGET.read_text() == document(), "docs/config.md is stale; run `make docs`"


def test_a_field_without_a_meaning_is_refused() -> None:
    class Bare(BaseModel):
        """A section."""

        field: int = identity(1)

    with raises(ValueError, match=r"Bare\.field: no text below the field"):
        list(_section(Bare))

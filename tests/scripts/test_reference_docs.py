"""The generated references equal what the code gives now."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from pipeline.schema.fields import identity
from scripts.reference_docs import DOCS, REFERENCES, _section


@pytest.mark.parametrize("name", REFERENCES)
def test_a_generated_reference_is_current(name: str) -> None:
    assert (DOCS / name).read_text() == REFERENCES[name](), f"docs/{name} is stale; run `make docs`"


def test_a_field_without_a_meaning_is_refused() -> None:
    class Bare(BaseModel):
        """A section."""

        field: int = identity(1)

    with pytest.raises(ValueError, match=r"Bare\.field: no text below the field"):
        list(_section(Bare))

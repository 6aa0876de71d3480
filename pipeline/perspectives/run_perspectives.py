"""The perspectives of a run: those of its YAML file, or those that imported rationales define."""

from __future__ import annotations

from pipeline.config.run import RunConfig
from pipeline.perspectives.perspective import Perspective, load_perspectives


def perspectives_of(run: RunConfig) -> tuple[Perspective, ...]:
    """The perspectives of a run: those that imported rationales define, otherwise those of its perspectives file.

    Raises:
        ConfigError: see `load_perspectives`.
    """
    given = run.sampling.rationales
    named = given.perspectives() if given is not None else None
    if named is not None:
        return tuple(Perspective(name=name, description="as it was given", instruction="") for name in named)
    return load_perspectives(run.perspectives, run.only_perspectives, run.perspective_copies)

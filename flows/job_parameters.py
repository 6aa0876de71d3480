"""Parameters of a deployment: a configuration on the machine that runs it, and changes to it. Small enough for a form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.run import RunConfig, load_config
from pipeline.schema.fields import Frozen, RunName

Assignment = Annotated[str, Field(pattern=r"^[a-z_][^=]*=")]
"""KEY=VALUE, as `override` takes it. A key begins with a field and may go on with a label with capitals and spaces; a value may be empty or
have several lines."""


class Job(Frozen):
    """One distillation."""

    config: str = Field(
        "configs/miniature.yaml",
        min_length=1,
        description="a run's YAML file, on the machine that runs this; relative to the repository",
    )
    name: RunName | None = Field(None, description="the run's name in the catalogue; default: the name in the configuration")
    changes: tuple[Assignment, ...] = Field((), description="fields to override, for example training.steps=100")
    stage_runner: Literal["process", "deployment"] = Field(
        "process", description="process: run every stage on this machine; deployment: run each stage in its own deployment"
    )

    @property
    def title(self) -> str:
        """The label of this job in flow run names."""
        return self.name or Path(self.config).stem

    def load(self) -> RunConfig:
        """Load and check the configuration.

        Raises:
            ConfigError: file, field, what was expected, the remedy.
        """
        named = (f"name={self.name}",) if self.name is not None else ()
        return load_config(Path(self.config), (*self.changes, *named))

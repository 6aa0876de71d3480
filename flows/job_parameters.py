"""Parameters of a deployment: a configuration on the machine that runs it, and changes to it. Small enough for a form.

Who may start a run need not be who owns the machine's API keys. So the changes of a job name no server and no key, unless the machine's
environment allows it; the configuration file does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from pipeline.config.engines import EngineConfig, Server, servers_of
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError
from pipeline.schema.fields import Frozen, RunName

CHANGES_MAY_NAME_SERVERS: Final = "MIND_CHANGES_MAY_NAME_SERVERS"
"""Environment variable of the machine that runs a job; 1: the changes of a job may set base_url, key_variable and the
tracking server."""

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
        loaded = load_config(Path(self.config), (*self.changes, *named))
        if self.changes and os.environ.get(CHANGES_MAY_NAME_SERVERS) != "1":
            self._require_the_files_servers(loaded)
        return loaded

    def _require_the_files_servers(self, loaded: RunConfig) -> None:
        """Compare what is loaded with and without the changes, because a server can be set by its field, with its engine, by an anchor."""
        try:
            file = load_config(Path(self.config))
        except ConfigError:  # the file is complete only with its changes, so it names no server
            file = None
        own = {} if file is None else servers_of(file)
        tracker = None if loaded.tracking.mlflow is None else loaded.tracking.mlflow.uri
        if tracker is not None and (file is None or file.tracking.mlflow is None or file.tracking.mlflow.uri != tracker):
            raise ConfigError(self._must_be_in_the_file("tracking.mlflow.uri"))
        for place, server in servers_of(loaded).items():
            before = own.get(place, Server(None, EngineConfig().key_variable))
            for field, value, expected in zip(Server._fields, server, before, strict=True):
                if value != expected:
                    raise ConfigError(self._must_be_in_the_file(f"{place}.{field}"))

    def _must_be_in_the_file(self, field: str) -> str:
        return (
            f"{field}: the changes of a job must not set it; write it into {self.config}, or set {CHANGES_MAY_NAME_SERVERS}=1 in the "
            "environment of the worker"
        )

"""The command line without an installed script: `python -m flows.cli`."""

from flows.cli.app import app

app()

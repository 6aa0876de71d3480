"""`mind deploy` and `mind reports`: what a Prefect server needs from MIND."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.cli.formatting import LOOK, RUN, reported
from pipeline.errors import ConfigError

app = typer.Typer(add_completion=False)


@app.command(rich_help_panel=RUN)
def deploy(
    minutes: Annotated[float, typer.Option(help="how long to wait for the server's first answer", min=0)] = 5,
) -> None:
    """Register pools and deployments with a Prefect server.

    The server is that of PREFECT_API_URL; the command waits until it answers, and may be repeated.
    """
    with reported():
        from flows.server.deployments import register

        register(minutes * 60, lambda line: print(line, flush=True))


@app.command(rich_help_panel=LOOK)
def reports(
    roots: Annotated[list[str] | None, typer.Argument(metavar="ROOT", help="artifact roots; default: artifacts")] = None,
    host: Annotated[str, typer.Option(help="the address to listen on; 0.0.0.0 for all of this machine's")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="the port to listen on", min=0, max=65535)] = 4280,
) -> None:
    """Serve the reports of artifact roots in a browser, until Ctrl-C.

    Nothing else of the roots is served. Prefect's pages link to MIND_REPORTS_URL.
    """
    with reported():
        from flows.server.reports import REPORTS_URL, report_server
        from storage.store import open_store

        stores = [open_store(root) for root in roots or ["artifacts"]]
        try:
            server = report_server(stores, host, port)
        except OSError as error:
            raise ConfigError(f"{host}:{port}: {error.strerror or error}; give another --host or --port") from error
        url = f"http://{host}:{server.server_port}"
        print(
            f"reports at {url}/FINGERPRINT/report.html; for links on Prefect's pages: {REPORTS_URL}={url} for the workers",
            flush=True,
        )
        with server:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print("stopped")

"""One remote root, several machines: each is killed, the next resumes, and the artifacts equal those of a local run."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.run import load_config
from storage.store import Store, open_store
from tests.support.kill_campaign import CONFIG, STAGES, compare, overrides, start_stage, wait_for_end, write_stage_config

pytestmark = [pytest.mark.e2e, pytest.mark.soak]

KILLS = {
    "questions": ("stages.questions - 5 after",),
    "references": ("stages.references - 30 before",),
    "sampling": ("stages.sampling - 9 after",),
    "synthesis": ("stages.synthesis - 24 before",),
    "training": ("stages.training.rank 0 16 before",),
    "evaluation": ("stages.evaluation - 16 before",),
    "report": ("stages.report - 12 before",),
}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3-compatible server with one bucket; the environment points to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    settings = {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
    }
    server = subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        import fsspec

        until = time.monotonic() + 60
        while True:
            try:
                fsspec.filesystem("s3", skip_instance_cache=True).mkdir("machines")
                break
            except OSError:
                assert time.monotonic() < until, "the server did not start"
                time.sleep(0.2)
        yield "s3://machines/root"
    server.terminate()
    server.wait()


def test_kills_on_changing_machines_give_the_undisturbed_artifacts(
    bucket: str, undisturbed: Path, teacher: str, tmp_path: Path
) -> None:
    machines = 0
    for stage in STAGES:
        for kill in (*KILLS[stage], ""):
            machines += 1
            workspace = tmp_path / f"machine-{machines}"
            run = load_config(CONFIG, (*overrides(bucket, teacher), f"workspace={workspace}"))
            config = write_stage_config(run, workspace)
            code = wait_for_end(start_stage(stage, config, kill), config)
            assert (code == 0) is (kill == ""), config.with_suffix(".log").read_text()[-3000:]
            assert kill == "" or (workspace / "killed").exists(), "it ended before it could be killed"
        here = open_store(bucket, tmp_path / f"machine-{machines}")
        compare(stage, Store(undisturbed), here)

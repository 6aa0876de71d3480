"""Benchmark of the artifact layer: `make bench-storage`. Real files and processes; ratios are medians over alternating repeats.

- a shard committed (compressed, hashed, fsync, rename, recorded) against plain pyarrow writing the same table with the same fsync;
- `mind status`, `mind plan` and `mind gc --dry-run` over a catalogue of 10,000 artifacts, process start included;
- resuming: delay of the first progress line of a resumed stage, compared with a fresh one;
- the demo's artifacts written again through the layer, as a share of the demo's stage time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.run import load_config
from stages.core.plan import ORDER, plan
from storage.artifact import MANIFEST
from storage.fingerprint import fingerprint
from storage.store import MANIFEST_VERSION, Store
from tests.support.fake_teacher import serve
from tests.support.kill_campaign import STAGES, copy_inputs, overrides, start_stage, wait_for_end, write_stage_config
from tests.support.runs import REPOSITORY

CONFIG: Final = REPOSITORY / "configs" / "miniature.yaml"
REPEATS: Final = 7


def rationales(rows: int) -> pa.Table:
    """A table like those of sampling, about 1 KiB per row, that compresses like text."""
    rng = random.Random(0)
    words = [f"{rng.randrange(10**6):x}" for _ in range(20_000)]
    return pa.table(
        {
            "question_id": [f"question-{number // 8}" for number in range(rows)],
            "perspective": [f"p{number % 8}" for number in range(rows)],
            "text": [" ".join(rng.choices(words, k=180)) for _ in range(rows)],
        }
    )


def shard_commit(folder: Path) -> None:
    """Prints MiB/s of uncompressed rows for our commit and for plain pyarrow."""
    print("\nshard commit, MiB/s of rows (median of", REPEATS, "alternating repeats)")
    print(f"{'rows':>8}{'MiB':>8}{'ours':>9}{'pyarrow':>9}{'ratio':>8}")
    for rows in (512, 8192, 65_536):
        table = rationales(rows)
        ours, plain = [], []
        with Store(folder / f"shards-{rows}").draft("sampling", "0" * 16) as draft:
            for repeat in range(REPEATS):
                began = time.perf_counter()
                draft.write_shard("samples", table)
                ours.append(time.perf_counter() - began)
                began = time.perf_counter()
                path = folder / f"plain-{repeat}.parquet"
                pq.write_table(table, path, compression="zstd", compression_level=1)
                descriptor = os.open(path, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
                plain.append(time.perf_counter() - began)
        size = table.nbytes / 2**20
        ratio = statistics.median(b / a for a, b in zip(ours, plain, strict=True))
        rates = size / statistics.median(ours), size / statistics.median(plain)
        print(f"{rows:>8}{size:>8.1f}{rates[0]:>9.0f}{rates[1]:>9.0f}{ratio:>8.2f}")


def fill_catalogue(root: Path, artifacts: int) -> None:
    """Writes artifacts and runs of many configurations; half of the runs are missing, so there is garbage."""
    chains = artifacts // len(ORDER)
    for number in range(chains):
        made: dict[str, str] = {}
        for stage in ORDER:
            identity = {
                "stage": stage,
                "version": 1,
                "config": {"seed": number, "text": "x" * 2000},
                "inputs": dict(made),
                "outside": {},
            }
            digest = fingerprint(identity)
            folder = root / stage / digest
            folder.mkdir(parents=True)
            files = [{"path": f"part-{n:05d}.parquet", "bytes": 3, "rows": 1, "sha256": "0" * 64} for n in range(8)]
            for entry in files:
                (folder / str(entry["path"])).write_bytes(b"row")
            manifest: dict[str, Any] = {
                "schema_version": MANIFEST_VERSION, "stage": stage, "fingerprint": digest, "identity": identity, "config": {},
                "inputs": dict(list(made.items())[-1:]), "summary": {"tokens": 1000}, "peak_mib": 1, "files": files,
                "timing": {"started": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "processes": 1}, "provenance": {},
            }  # fmt: skip
            (folder / MANIFEST).write_text(json.dumps(manifest))
            made[stage] = digest
        if number % 2:
            run = {
                "name": f"run-{number}",
                "status": "done",
                "updated": f"2026-01-01T00:00:00.{number:06d}+00:00",
                "stages": made,
            }
            (root / "runs").mkdir(exist_ok=True)
            config = {"filler": "y" * 4000}
            (root / "runs" / f"run-{number}.json").write_text(json.dumps({**run, "earlier": [], "config": config}))


def catalogue(folder: Path, artifacts: int) -> None:
    """Prints the seconds of the commands that read the whole catalogue."""
    root = folder / "catalogue"
    fill_catalogue(root, artifacts)
    commands = {
        "status": ["status", "--root", str(root)],
        "plan": ["plan", str(CONFIG), "--set", f"root={root}"],
        "gc --dry-run": ["gc", "--dry-run", "--root", str(root)],
    }
    print(f"\ncommands over {artifacts:,} artifacts, seconds with process start (median of 3)")
    for name, arguments in commands.items():
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "flows.cli", *arguments], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL
            )
            seconds.append(time.perf_counter() - began)
        print(f"{name:<14}{statistics.median(seconds):>6.2f}")


def _first_sign(stage: str, config: Path, kill: str) -> float:
    """Seconds from the start of a stage process to its first line; then waits for its end, possibly by `kill`."""
    log = config.with_suffix(".log")
    log.unlink(missing_ok=True)
    began = time.perf_counter()
    life = start_stage(stage, config, kill)
    while not (log.exists() and f"{stage}: " in log.read_text()):
        assert life.poll() is None, log.read_text()
        time.sleep(0.005)
    seconds = time.perf_counter() - began
    wait_for_end(life, config)
    return seconds


def resume(folder: Path) -> None:
    """For each stage: a fresh process that is killed, then one that resumes."""
    points = {
        "questions": 16, "references": 40, "sampling": 34, "synthesis": 30, "training": 24, "evaluation": 28, "report": 34,
    }  # fmt: skip
    print("\nseconds to the first sign of work (median of 3)")
    print(f"{'stage':<12}{'fresh':>8}{'resumed':>9}{'more':>8}")
    with serve() as teacher:
        run = load_config(CONFIG, overrides(folder / "undisturbed", teacher))
        for stage in STAGES:
            config = write_stage_config(run)
            assert wait_for_end(start_stage(stage, config), config) == 0
        for stage in STAGES:
            fresh, resumed = [], []
            for repeat in range(3):
                root = folder / f"resume-{stage}-{repeat}"
                own = load_config(CONFIG, overrides(root, teacher))
                copy_inputs(folder / "undisturbed", root, own, stage)
                victim = f"stages.{stage} -" if stage != "training" else "stages.training.rank 0"
                config = write_stage_config(own)
                fresh.append(_first_sign(stage, config, f"{victim} {points[stage]} after"))
                resumed.append(_first_sign(stage, config, ""))
                shutil.rmtree(root)
            first, second = statistics.median(fresh), statistics.median(resumed)
            print(f"{stage:<12}{first:>8.2f}{second:>9.2f}{second - first:>+8.2f}")


def demo_share(folder: Path, root: Path) -> None:
    """Writes the artifacts of a finished demo again through the layer and prints the time."""
    planned = plan(load_config(CONFIG, (f"root={root}",)))
    source, target = Store(root), Store(folder / "again")
    spent, took = 0.0, 0.0
    for stage in ORDER:
        artifact = source.open(stage, planned[stage].fingerprint)
        took += artifact.manifest["timing"]["seconds"]
        began = time.perf_counter()
        with target.draft(stage, artifact.fingerprint) as draft:
            spent += time.perf_counter() - began
            for entry in artifact.manifest["files"]:
                path = artifact.path(entry["path"])
                if path.suffix == ".parquet":
                    table = pq.read_table(path)
                    began = time.perf_counter()
                    draft.write_shard(path.stem.rpartition("-")[0] or path.stem, table)
                    spent += time.perf_counter() - began
                else:
                    draft.path(entry["path"]).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, draft.path(entry["path"]))
            began = time.perf_counter()
            target.commit(draft, {**artifact.manifest, "timing": {}})
        spent += time.perf_counter() - began
    print(
        f"\nthe demo's artifacts through the layer: {spent:.2f} s, {spent / took:.2%} of the {took:.0f} s that its stages took"
    )


def main() -> None:
    """Runs all parts or one of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.storage")
    parser.add_argument("--artifacts", type=int, default=10_000)
    parser.add_argument("--demo", type=Path, default=REPOSITORY / "artifacts", help="root of a finished `make demo`")
    parser.add_argument("--only", choices=("shards", "catalogue", "resume", "demo"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "shards": lambda: shard_commit(folder),
            "catalogue": lambda: catalogue(folder, arguments.artifacts),
            "resume": lambda: resume(folder),
            "demo": lambda: demo_share(folder, arguments.demo),
        }
        for part, measure in parts.items():
            if arguments.only in (None, part):
                measure()


if __name__ == "__main__":
    main()

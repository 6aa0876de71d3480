"""Kills a stage repeatedly, at commit points and at random moments, until it finishes; compares it with an undisturbed run.

`python -m tests.support.kill_campaign --kills 200` is the long form (`make soak`); `tests/faults` runs short forms. Every start of a
stage is its real process under the real guard. The stage is killed, or for training also a rank. Compared are: the hash of every file, if
the stage is deterministic; every row, and that no key occurs twice, if it samples; every loss of training.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil

from pipeline.config.run import RunConfig, load_config
from pipeline.process_guard import guarded
from stages.core.plan import plan
from storage.artifact import Artifact
from storage.store import Store
from storage.verify import verify
from tests.support.fake_teacher import serve
from tests.support.runs import REPOSITORY

CONFIG: Final = REPOSITORY / "configs" / "miniature.yaml"
SITE: Final = Path(__file__).parent / "fault_injection"
STAGES: Final = ("questions", "references", "sampling", "synthesis", "training", "evaluation", "report")
MAX_KILLS_IN_A_ROW: Final = 12
"""After this many kills in a row a start is left undisturbed, so that a campaign ends."""
VICTIMS: Final = {"training": ("stages.training -", "stages.training.rank 0", "stages.training.rank 1")}
POINTS: Final = {
    "questions": 24,
    "references": 60,
    "sampling": 40,
    "synthesis": 40,
    "training": 30,
    "evaluation": 40,
    "report": 60,
}
"""Approximate number of commit points of the stage; a kill at a higher number does not happen."""


def overrides(root: Path | str, teacher: str) -> tuple[str, ...]:
    """Overrides for a quick run of all stages with many commits each."""
    own = "{kind: transformers, dtype: float32, max_context: 512}"
    return (
        f"root={root}",
        "questions.train=[{kind: miniature, family: dial, split: train, count: 24}]",
        "questions.evaluation=[{name: dial, group: id, source: {kind: miniature, family: dial, split: test, count: 12}},"
        " {name: lift, group: ood, source: {kind: miniature, family: lift, split: test, count: 8}},"
        " {name: dial-dev, group: id, use: dev, source: {kind: miniature, family: dial, split: dev, count: 6}},"
        " {name: lift-dev, group: ood, use: dev, source: {kind: miniature, family: lift, split: dev, count: 3}}]",
        f"sampling.engine={{kind: openai, base_url: '{teacher}', served_model: simulated}}",
        "sampling.questions_per_shard=2",
        "sampling.tries=1",
        f"synthesis.engine={own}",
        "synthesis.attempts=1",
        "synthesis.max_tokens=32",
        "synthesis.keep_easy=1.0",
        "synthesis.warm_up_epochs=2",
        "training.steps=12",
        "training.questions_per_step=4",
        "training.questions_per_micro_batch=2",
        "training.checkpoint_every=2",
        "training.dev={every: 3, max_tokens: 32, keep_best: all}",
        f"evaluation.engine={own}",
        "evaluation.items_per_shard=4",
        "evaluation.max_tokens=32",
    )


@dataclass
class CampaignCounts:
    """Counts of a campaign."""

    kills: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    starts: int = 0


def write_stage_config(run: RunConfig, folder: Path | None = None) -> Path:
    """Write the run's configuration for a stage's process; the log goes beside it."""
    path = (folder or Path(run.root)) / "run.config"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(run.model_dump_json())
    return path


def start_stage(stage: str, config: Path, kill: str = "") -> subprocess.Popen[bytes]:
    """Start a stage under its guard; its output goes to a log beside the configuration."""
    command = guarded("-m", f"stages.{stage}", "--config", str(config))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{SITE}{os.pathsep}{REPOSITORY}",
        "PYTHONUNBUFFERED": "1",
        "MIND_KILL": kill,
        "MIND_KILL_ROOT": str(config.parent),
    }
    with config.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _module(process: psutil.Process) -> str:
    """`module rank` of a process started with -m, or an empty string."""
    try:
        words, rank = process.cmdline(), process.environ().get("RANK", "-")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ""
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return f"{module} {rank}" if module != "pipeline.process_guard" else ""


def kill_after(guard: subprocess.Popen[bytes], victim: str, seconds: float) -> bool:
    """Send SIGKILL to `victim` ("module rank") this many seconds after it was first seen; returns whether it existed."""
    seen = None
    while guard.poll() is None:
        family = {_module(child): child for child in psutil.Process(guard.pid).children(recursive=True)}
        seen = seen or (time.monotonic() if victim in family else None)
        if seen is not None and time.monotonic() - seen >= seconds and victim in family:
            family[victim].send_signal(signal.SIGKILL)
            return True
        time.sleep(0.02)
    return False


def wait_for_end(guard: subprocess.Popen[bytes], config: Path) -> int:
    """Wait for the process to end; no child may survive it."""
    try:
        code = guard.wait(timeout=240)
    except subprocess.TimeoutExpired:
        guard.terminate()
        raise AssertionError(f"a life did not end: {config.with_suffix('.log').read_text()[-3000:]}") from None
    return code


def start_and_kill(stage: str, config: Path, rng: random.Random, counts: CampaignCounts, typical: float) -> int:
    """Start a stage and kill it somewhere; returns its exit code (0: it finished first)."""
    victim = rng.choice(VICTIMS.get(stage, (f"stages.{stage} -",)))
    killed = config.with_name("killed")
    killed.unlink(missing_ok=True)
    if rng.random() < 0.6 and victim != "stages.training.rank 1":  # rank 1 commits nothing itself
        when = rng.choice(("before", "after"))
        code = wait_for_end(start_stage(stage, config, f"{victim} {rng.randint(1, POINTS[stage])} {when}"), config)
        if killed.exists():
            counts.points[stage] += 1
            counts.kills[victim] += 1
    else:
        guard = start_stage(stage, config)
        counts.kills[victim] += kill_after(guard, victim, rng.uniform(0.0, typical))
        code = wait_for_end(guard, config)
    counts.starts += 1
    return code


def only_artifact(store: Store, stage: str) -> Artifact:
    """The only artifact of a stage under a root."""
    (digest,) = (digest for digest in store.fingerprints(stage) if store.exists(stage, digest))
    return store.open(stage, digest)


def _hashes(artifact: Artifact) -> dict[str, str]:
    return {entry["path"]: entry["sha256"] for entry in artifact.manifest["files"]}


_KEYS: Final = {
    "sampling": ("samples", ("question_id", "perspective", "sample_index")),
    "references": ("items", ("model", "question_id")),
    "evaluation": ("items", ("model", "question_id")),
}
_MEASURED: Final = ("tokens_per_second", "seconds", "dev_seconds", "spent", "seconds_writing", "seconds_scoring")


def _rows(artifact: Artifact, table: str, key: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = artifact.table(table).to_pylist()
    keys = [tuple(row[name] for name in key) for row in rows]
    assert len(set(keys)) == len(keys), "a row is there twice"
    return sorted(rows, key=lambda row: tuple(row[name] for name in key))


def compare(stage: str, undisturbed: Store, killed: Store) -> None:
    """Fail unless the artifacts of the killed and the undisturbed root are equal."""
    one, other = only_artifact(undisturbed, stage), only_artifact(killed, stage)
    assert one.fingerprint == other.fingerprint
    assert verify(killed, stage, other.fingerprint) == []
    if stage in _KEYS:
        assert _rows(one, *_KEYS[stage]) == _rows(other, *_KEYS[stage])
    elif stage == "training":
        for table in {name.rpartition("-")[0] for name in _hashes(one)} & {"steps", "dev"}:
            rows = [artifact.table(table).to_pylist() for artifact in (one, other)]
            for mine, theirs in zip(*rows, strict=True):
                assert {k: v for k, v in mine.items() if k not in _MEASURED} == {
                    k: v for k, v in theirs.items() if k not in _MEASURED
                }
        differ = {name for name, digest in _hashes(one).items() if _hashes(other)[name] != digest}
        assert all(name.startswith(("steps-", "dev-")) for name in differ), differ
    elif stage == "report":
        assert _hashes(one).keys() == _hashes(other).keys()
    else:
        assert _hashes(one) == _hashes(other)
    summaries = [{k: v for k, v in artifact.summary.items() if k not in _MEASURED} for artifact in (one, other)]
    assert summaries[0] == summaries[1]


def copy_inputs(source: Path, target: Path, run: RunConfig, stage: str) -> None:
    """Copy the inputs of a stage from another root."""
    planned = plan(run)
    for needed in STAGES[: STAGES.index(stage)]:
        name = Path(needed) / planned[needed].fingerprint
        shutil.copytree(source / name, target / name, dirs_exist_ok=True)


def run_undisturbed(config_file: Path, root: Path, teacher: str) -> RunConfig:
    """Run every stage once, undisturbed."""
    run = load_config(config_file, overrides(root, teacher))
    for stage in STAGES:
        config = write_stage_config(run)
        code = wait_for_end(start_stage(stage, config), config)
        assert code == 0, config.with_suffix(".log").read_text()[-3000:]
    return run


def campaign(
    stage: str, kills: int, rng: random.Random, config_file: Path, undisturbed: Path, folder: Path, teacher: str
) -> CampaignCounts:
    """Kill one stage `kills` times; whenever it finishes, compare it and start again."""
    counts, row = CampaignCounts(), 0
    typical = only_artifact(Store(undisturbed), stage).manifest["timing"]["seconds"] + 3.0
    root = folder / f"{stage}-0"
    while sum(counts.kills.values()) < kills or row:
        if not root.exists():
            config = write_stage_config(run := load_config(config_file, overrides(root, teacher)))
            copy_inputs(undisturbed, root, run, stage)
        enough = row >= MAX_KILLS_IN_A_ROW or sum(counts.kills.values()) >= kills
        code = (
            wait_for_end(start_stage(stage, config), config) if enough else start_and_kill(stage, config, rng, counts, typical)
        )
        assert code == 0 or not enough, config.with_suffix(".log").read_text()[-3000:]
        row = 0 if code == 0 else row + 1
        if code == 0:
            compare(stage, Store(undisturbed), Store(root))
            shutil.rmtree(root)
            counts.finished += 1
            root = folder / f"{stage}-{counts.finished}"
    return counts


def fill_root(stage: str, root: Path, undisturbed: Path, teacher: str) -> Path:
    """Fill a root with a stage's inputs; returns the configuration file to start the stage with."""
    run = load_config(CONFIG, overrides(root, teacher))
    copy_inputs(undisturbed, root, run, stage)
    return write_stage_config(run)


def last_message(config: Path) -> str:
    """The last `mind:` line of a stage's log."""
    lines = [line for line in config.with_suffix(".log").read_text().splitlines() if line.startswith("mind: ")]
    return lines[-1]


def main() -> None:
    """Entry point of the long form."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.kill_campaign")
    parser.add_argument("--kills", type=int, default=200, help="in all, shared out over the stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="an empty folder to work in")
    parser.add_argument("--only", choices=STAGES, help="one stage alone")
    arguments = parser.parse_args()
    shares = {
        "questions": 0.1, "references": 0.1, "sampling": 0.25, "synthesis": 0.15, "training": 0.2, "evaluation": 0.1, "report": 0.1,
    }  # fmt: skip
    chosen = [arguments.only] if arguments.only else list(STAGES)
    rng = random.Random(arguments.seed)
    with serve() as teacher:
        began = time.monotonic()
        run_undisturbed(CONFIG, arguments.folder / "undisturbed", teacher)
        print(f"undisturbed run: {time.monotonic() - began:.0f} s", flush=True)
        print(f"{'stage':<12}{'kills':>6}{'at points':>11}{'starts':>8}{'finished and equal':>20}{'seconds':>9}", flush=True)
        total = 0
        for stage in chosen:
            began = time.monotonic()
            kills = arguments.kills if arguments.only else round(arguments.kills * shares[stage])
            counts = campaign(stage, kills, rng, CONFIG, arguments.folder / "undisturbed", arguments.folder, teacher)
            count = sum(counts.kills.values())
            total += count
            seconds = time.monotonic() - began
            line = (
                f"{stage:<12}{count:>6}{sum(counts.points.values()):>11}{counts.starts:>8}{counts.finished:>20}{seconds:>9.0f} "
            )
            print(line, "  ".join(f"{victim}: {number}" for victim, number in counts.kills.items()), flush=True)
        print(f"{total} kills survived", flush=True)


if __name__ == "__main__":
    main()

"""Trackers get every step once, whatever was killed, and cannot end a run. They are the real ones, on files or behind closed ports."""

from __future__ import annotations

import json
import shutil
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from flows.tracking import following
from flows.tracking.following import followed
from pipeline.config.run import RunConfig, load_config
from pipeline.errors import ConfigError
from stages.core.plan import plan
from stages.core.process import progress_path, store_of
from stages.core.progress import Progress, measured_path
from stages.training.dev_scores import DEV
from stages.training.rank import STEPS
from storage.artifact import Artifact
from tests.support.summaries import complete

MINIATURE = Path(__file__).parents[3] / "configs" / "miniature.yaml"
NAMES = ["formal", "../hostile\x1b"]
ALL_ON_FILES = ("tracking.tensorboard=true", "tracking.wandb={mode: offline}", "tracking.mlflow={}")

Curves = Callable[[Path], dict[str, list[tuple[int, float]]]]


def _tensorboard(root: Path) -> dict[str, list[tuple[int, float]]]:
    (folder,) = (root / "tracking" / "tensorboard").iterdir()
    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def _mlflow(root: Path) -> dict[str, list[tuple[int, float]]]:
    client = MlflowClient(f"sqlite:///{root}/tracking/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("mind").experiment_id])
    return {
        tag: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, tag)]
        for tag in run.data.metrics
    }


def _records(file: Path) -> Iterator[Any]:
    """The records of an offline file of Weights & Biases: blocks of 32 KiB, and a header of 7 bytes before each part of a record."""
    content, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            parsed = wandb_internal_pb2.Record()
            parsed.ParseFromString(record)
            yield parsed
            record = b""


def _wandb(root: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted((root / "tracking" / "wandb").glob("wandb/offline-run-*/*.wandb")):
        for record in _records(file):
            if record.WhichOneof("record_type") == "history":
                for item in record.history.item:
                    name = item.key or "/".join(item.nested_key)
                    if not name.startswith("_"):
                        found.setdefault(name, []).append((record.history.step.num, json.loads(item.value_json)))
    return found


def _run(root: Path, *tracking: str) -> RunConfig:
    return load_config(MINIATURE, (f"root={root}", *tracking))


def _row(step: int) -> dict[str, Any]:
    return {"step": step, "loss": 1 / (step + 1), "gradient_norm": 2.0 * step, "loss_meta": None, "alpha_K": [0.75, 0.25]}


def _dev(step: int) -> dict[str, float]:
    """Dev scores after every fourth step."""
    return {"sums": 0.5, "all": 0.5} if step % 4 == 3 else {}


def _train(run: RunConfig, first: int, last: int) -> None:
    """What a process of the training does that resumes after `first` steps."""
    path = progress_path(store_of(run), plan(run)["training"])
    path.parent.mkdir(parents=True, exist_ok=True)
    measured_path(path).unlink(missing_ok=True)
    progress = Progress(path, "training")
    for step in range(first, last):
        progress.measured({"step": step, "row": _row(step), "perspectives": NAMES, "dev": _dev(step)})


def _trained(run: RunConfig, steps: int) -> Artifact:
    """The finished training."""
    store, planned = store_of(run), plan(run)["training"]
    with store.draft("training", planned.fingerprint) as draft:
        table = pa.Table.from_pylist([_row(step) for step in range(steps)], schema=STEPS)
        draft.write_shard("steps", table.replace_schema_metadata({b"perspectives": json.dumps(NAMES).encode()}))
        dev = [{"step": step + 1, "set": "sums", "items": 4, "correct": 2} for step in range(steps) if _dev(step)]
        draft.write_shard("dev", pa.Table.from_pylist(dev, schema=DEV))
        return store.commit(draft, {"summary": complete("training", {"dev": {"sums": 0.5, "all": 0.5}})})


def _wait_until_sent(root: Path) -> None:
    """Wait until every tracker has something: threads send it."""
    sent = root / "tracking" / "sent"
    while not (sent.is_dir() and len(list(sent.iterdir())) == 3):
        time.sleep(0.05)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose training was killed after five steps, with a checkpoint at three; of the last four nobody saw a line."""
    root = tmp_path_factory.mktemp("resumed")
    run = _run(root, *ALL_ON_FILES)
    with pytest.raises(KeyboardInterrupt), followed(run):
        _train(run, 0, 5)
        _wait_until_sent(root)
        raise KeyboardInterrupt
    with followed(run) as trackers:
        _train(run, 3, 8)
        trackers.finished(_trained(run, 12))
    return root


READERS = pytest.mark.parametrize("reader", [_tensorboard, _mlflow, _wandb])


@READERS
def test_a_resumed_training_continues_its_curves_without_doubled_steps(resumed: Path, reader: Curves) -> None:
    curves = reader(resumed)
    assert curves["train/loss"] == [(step, pytest.approx(1 / step)) for step in range(1, 13)]
    assert curves["train/grad_norm"] == [(step, 2.0 * (step - 1)) for step in range(1, 13)]
    assert [value for _, value in curves["weight/formal"]] == [0.75] * 12
    assert curves["dev/sums"] == curves["dev/all"] == [(4, 0.5), (8, 0.5), (12, 0.5)]


@READERS
def test_what_was_not_measured_has_no_point_and_hostile_names_are_names(resumed: Path, reader: Curves) -> None:
    curves = reader(resumed)
    assert "train/loss_meta" not in curves
    assert [name for name in curves if "hostile" in name] == ["weight/_hostile_"]


@pytest.mark.parametrize("reader", [_tensorboard, _mlflow])
def test_summaries_of_stages_are_shown(resumed: Path, reader: Curves) -> None:
    assert any(name.endswith("training/steps") for name in reader(resumed))


def test_what_trackers_have_is_not_sent_again(resumed: Path) -> None:
    run = _run(resumed, *ALL_ON_FILES)
    before = {path: path.stat().st_mtime_ns for path in (resumed / "tracking").rglob("*")}
    with followed(run) as trackers:
        trackers.finished(store_of(run).open("training", plan(run)["training"].fingerprint))
    assert {path: path.stat().st_mtime_ns for path in (resumed / "tracking").rglob("*")} == before


def test_the_configuration_is_shown_without_the_trackers(resumed: Path) -> None:
    client = MlflowClient(f"sqlite:///{resumed}/tracking/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("mind").experiment_id])
    assert run.data.params["training.learning_rate"] == str(_run(resumed).training.learning_rate)
    assert not [name for name in run.data.params if name.startswith("tracking")]
    assert run.info.run_name == "miniature"


def test_a_tracker_that_is_down_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(following, "_WAIT_SECONDS", 3.0)
    run = _run(tmp_path, "tracking.mlflow={uri: 'http://127.0.0.1:9'}", "tracking.tensorboard=true")
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "tensorboard").write_text("a file where a folder is wanted")
    with followed(run) as trackers:
        trackers.finished(_trained(run, 2))
    said = " ".join(capsys.readouterr().out.split())
    assert "tracking: mlflow does not answer; left without it, and the next `mind run` sends what is missing" in said
    assert "tracking: tensorboard failed (" in said and "the run goes on" in said


def test_what_a_tracker_missed_is_sent_by_the_next_run(tmp_path: Path) -> None:
    run = _run(tmp_path, "tracking.tensorboard=true")
    blocked = tmp_path / "tracking" / "tensorboard"
    blocked.parent.mkdir()
    blocked.write_text("a file where a folder is wanted")
    trained = _trained(run, 3)
    for _ in range(2):
        with followed(run) as trackers:
            trackers.finished(trained)
        if blocked.is_file():
            blocked.unlink()
    assert [step for step, _ in _tensorboard(tmp_path)["train/loss"]] == [1, 2, 3]


def test_a_tracker_without_its_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = _run(tmp_path, "tracking.wandb={mode: offline}")
    with pytest.raises(ConfigError, match=r"tracking.wandb: the package wandb is not installed; .*\[wandb\]"), followed(run):
        pass


def test_weights_and_biases_without_a_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = _run(tmp_path, "tracking.wandb={}")
    with pytest.raises(ConfigError, match=r"tracking\.wandb: there is no key; set WANDB_API_KEY"), followed(run):
        pass


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("tracking.neptune=true", "tracking.neptune"),
        ("tracking.mlflow={uri: 'http://me:word@127.0.0.1:5000'}", "no user or password"),
        ("tracking.mlflow={uri: 'file:/etc'}", "expected an address"),
        ("tracking.wandb={project: '../x'}", "tracking.wandb.project"),
    ],
)
def test_a_wrong_tracker_is_one_clear_line(tmp_path: Path, given: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as refused:
        _run(tmp_path, given)
    assert "\n" not in str(refused.value)


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    run = _run(tmp_path)
    with followed(run) as trackers:
        trackers.finished(_trained(run, 1))
    assert not (tmp_path / "tracking").exists()
    shutil.rmtree(tmp_path / "training")

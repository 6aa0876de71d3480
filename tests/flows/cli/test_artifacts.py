"""Commands on a store with small artifacts: names stay inside it, and a damaged document hides no other."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from flows.cli.app import app
from stages.promotion import rollback
from storage.archive import export, import_
from storage.artifact import MANIFEST
from storage.catalogue import point, read_run, record_run
from storage.store import Store, open_store
from tests.support.storage.chains import chain, commit_artifact, files


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root"))


def mind(store: Store, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--root", str(store.root)])


def record_chain(store: Store, run: str, number: int) -> dict[str, str]:
    stages = {artifact.stage: artifact.fingerprint for artifact in chain(store, number=number)}
    record_run(store.backend, run, stages, {}, "done")
    return stages


def test_status_marks_the_promoted_student_and_not_the_run_of_its_name(store: Store) -> None:
    students = []
    for number in range(2):
        stages = record_chain(store, "nightly", number)
        students.append(f"training/{stages['training']}")
        point(store.backend, "promoted", "nightly", stages)
    rollback(store)
    rows = [line.split() for line in mind(store, "status").stdout.splitlines()[1:]]
    assert [(row[0], row[1], row[3], row[4:]) for row in rows] == [
        ("nightly", "done", students[1], ["latest"]),
        ("nightly", "earlier", students[0], ["promoted"]),
    ]


def test_an_import_under_a_taken_name_is_refused_and_the_run_is_kept(store: Store, tmp_path: Path) -> None:
    mine = record_chain(store, "student", 1)
    other = open_store(str(tmp_path / "other"))
    made = chain(other, number=2)[2]
    export(other, "training", made.fingerprint, tmp_path / "student.tar")
    before = files(store.root)
    refused = mind(store, "import", str(tmp_path / "student.tar"))
    assert refused.exit_code == 2
    assert (
        refused.stderr
        == "mind: student: a run of this name exists; choose another with --name, or `mind forget student` first\n"
    )
    assert files(store.root) == before
    for _ in range(2):  # the same file again is no other run
        assert mind(store, "import", str(tmp_path / "student.tar"), "--name", "theirs").exit_code == 0
    assert mind(store, "gc").exit_code == 0
    assert store.exists("training", mine["training"])
    assert store.exists("training", made.fingerprint)


@pytest.mark.parametrize(
    "command",
    [
        ["forget", "../../other/victim"],
        ["show", "../../other/victim"],
        ["promote", "../../other/victim"],
        ["release", "../../other/victim", "folder"],
        ["show", "../other/0123"],
        ["export", "..:training", "x.tar"],
    ],
)
def test_a_name_that_leaves_the_root_is_refused(store: Store, tmp_path: Path, command: list[str]) -> None:
    record_chain(store, "run", 1)
    victim = tmp_path.parent / "other" / "victim.json"
    victim.parent.mkdir(exist_ok=True)
    victim.write_text("{}")
    before = files(tmp_path)
    result = mind(store, *command)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert files(tmp_path) == before
    assert victim.read_text() == "{}"


@pytest.mark.parametrize("name", ["../../X", "../pointers/promoted", "latest", ""])
def test_an_import_under_an_unusable_name_writes_nothing(store: Store, tmp_path: Path, name: str) -> None:
    other = open_store(str(tmp_path / "other"))
    export(other, "training", chain(other)[2].fingerprint, tmp_path / "student.tar")
    before = files(tmp_path)
    result = mind(store, "import", str(tmp_path / "student.tar"), "--name", name)
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert files(tmp_path) == before


def test_damaged_documents_are_one_line_each_and_the_rest_goes_on(store: Store) -> None:
    stages = record_chain(store, "good", 1)
    store.backend.write("runs/bad.json", b'{"stages": 3')
    status = mind(store, "status")
    assert status.exit_code == 0
    assert status.stderr.startswith("mind: runs/bad.json: damaged")
    assert "good" in status.stdout
    collected = mind(store, "gc")
    assert collected.exit_code == 1
    assert [line.split(":")[1].strip() for line in collected.stderr.splitlines()] == [
        "runs/bad.json",
        "while a document is damaged, nothing is removed that it may need; correct the lines above, then run `mind gc` again",
    ]
    assert mind(store, "forget", "bad").exit_code == 0
    assert mind(store, "gc").exit_code == 0
    assert store.exists("training", stages["training"])


@pytest.mark.parametrize("field", ["config", "summary", "timing", "identity", "peak_mib", "provenance"])
@pytest.mark.parametrize("command", [["show"], ["lineage"], ["verify"], ["release"]])
def test_an_incomplete_manifest_is_one_line(store: Store, tmp_path: Path, field: str, command: list[str]) -> None:
    stages = record_chain(store, "run", 1)
    key = f"training/{stages['training']}/{MANIFEST}"
    content = store.backend.read(key)
    assert content is not None
    store.backend.write(key, orjson.dumps({name: value for name, value in orjson.loads(content).items() if name != field}))
    folder = [str(tmp_path / "folder"), "--unevaluated"] if command == ["release"] else []
    result = mind(store, *command, "run", *folder)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert f"{key}: damaged ({field}: Field required)" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert read_run(store.backend, "run") is not None


@pytest.mark.parametrize("text", ["[/x]", "\\[/x]", "[red]x", "a[b"])
def test_foreign_text_is_no_markup(store: Store, text: str) -> None:
    student = commit_artifact(store, "training")
    record_run(store.backend, "run", {"training": student.fingerprint}, {}, "done")
    key = f"{student.name}/{MANIFEST}"
    document = orjson.loads(store.backend.read(key) or b"")
    document["timing"]["started"], document["summary"], document["provenance"] = text, {"note": text}, {"host": text}
    store.backend.write(key, orjson.dumps(document))
    for command in ("show", "lineage"):
        result = mind(store, command, "run")
        assert (result.exit_code, text in result.stdout) == (0, True)


def test_documents_that_are_folders_are_one_line_each(store: Store) -> None:
    stages = record_chain(store, "run", 1)
    (store.root / "pointers" / "promoted.json").mkdir()
    (store.root / "training" / f"{stages['training']}.config").mkdir()
    status = mind(store, "status")
    assert (status.exit_code, "run" in status.stdout, len(status.stderr.splitlines())) == (0, True, 1)
    assert "promoted.json: cannot be read (Is a directory)" in status.stderr
    collected = mind(store, "gc")
    assert (collected.exit_code, len(collected.stderr.splitlines())) == (1, 2)
    assert store.exists("training", stages["training"])


def test_garbage_collection_during_an_import_keeps_what_is_imported(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = chain(store)[2]
    export(store, "training", student.fingerprint, tmp_path / "there.tar")
    target = open_store(str(tmp_path / "target"))

    def collected_before_it_returns(to: Store, file: Path) -> list[tuple[str, bool]]:
        found = import_(to, file)
        assert mind(target, "gc").exit_code == 0
        return found

    monkeypatch.setattr("storage.archive.import_", collected_before_it_returns)
    assert mind(target, "import", str(tmp_path / "there.tar")).exit_code == 0
    assert files(target.folder("training", student.fingerprint)) == files(student.folder)


def test_an_import_that_fails_leaves_no_run(store: Store, tmp_path: Path) -> None:
    student = chain(store)[2]
    export(store, "training", student.fingerprint, tmp_path / "there.tar")
    content = (tmp_path / "there.tar").read_bytes()
    (tmp_path / "there.tar").write_bytes(content.replace(b'"summary"', b'"summery"'))
    target = open_store(str(tmp_path / "target"))
    assert mind(target, "import", str(tmp_path / "there.tar")).exit_code == 1
    assert read_run(target.backend, "there") is None


@pytest.mark.parametrize("command", [["rollback"], ["release", "promoted"], ["release", "run"], ["show", "promoted"]])
def test_a_run_or_pointer_without_a_student_is_one_line(store: Store, tmp_path: Path, command: list[str]) -> None:
    without = {"nosuch": "0" * 16}
    record_run(store.backend, "run", without, {}, "done")
    for stages in (without, without | {"other": "1" * 16}):
        point(store.backend, "promoted", "run", stages)
    before = files(tmp_path)
    result = mind(store, *command, *([str(tmp_path / "folder")] if command[0] == "release" else []))
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert len(result.stderr.splitlines()) == 1
    assert files(tmp_path) == before


@pytest.mark.parametrize("part", ["summary", "config", "outside"])
@pytest.mark.parametrize("command", ["show", "release"])
def test_a_manifest_with_foreign_content_is_shown_or_one_line(store: Store, tmp_path: Path, part: str, command: str) -> None:
    stages = record_chain(store, "run", 1)
    key = f"training/{stages['training']}/{MANIFEST}"
    document = orjson.loads(store.backend.read(key) or b"")
    (document["identity"] if part == "outside" else document)[part] = [1] if part == "outside" else {"a": [1]}
    store.backend.write(key, orjson.dumps(document))
    result = mind(store, command, "run", *([str(tmp_path / "folder"), "--unevaluated"] if command == "release" else []))
    assert result.exit_code == (0 if command == "show" else 1)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert len(result.stderr.splitlines()) == (0 if command == "show" else 1)

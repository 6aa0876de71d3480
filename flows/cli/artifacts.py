"""Commands for artifacts and runs on disk: status, show, diff, lineage, verify, promote, rollback, forget, gc, export, release, import.

An artifact is named `stage/fingerprint` (or a prefix of it), `RUN:STAGE`, or by the name of a run or pointer, which means its student.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text
from rich.tree import Tree

from flows.cli.formatting import DATA, KEEP, LOOK, AsJson, console, duration, print_json, print_table, reported, size
from pipeline.errors import ConfigError, shown
from storage.documents import Pointer, Run
from storage.errors import ArtifactError
from storage.store import Store, open_store

app = typer.Typer(add_completion=False)


def _root(given: str) -> str:
    """The root, also as `--set root=FOLDER`, the form that commands with a configuration take."""
    setting = re.fullmatch(r"([a-z_]+(?:\.[a-z_]+)*)=(.*)", given)
    if setting is None:
        return given
    if setting[1] != "root":
        raise typer.BadParameter(f"{setting[1]}: only root can be set here, as this command reads no configuration")
    return setting[2]


Root = Annotated[
    str,
    typer.Option(
        "--root",
        "--set",
        callback=_root,
        metavar="ROOT",
        help="the artifact root: a folder, or a URL such as s3://bucket/prefix; --set root=ROOT is the same",
    ),
]
Reference = Annotated[
    str, typer.Argument(metavar="ARTIFACT", help="stage/fingerprint, RUN:STAGE, or a run's name for its student")
]
STUDENT = "training"


def _resolve(store: Store, reference: str) -> tuple[str, str]:
    from storage.lineage import resolve

    return resolve(store, reference, STUDENT)


def _state(store: Store, run: Run) -> str:
    """A run's status; a run recorded as running may have been killed."""
    if run["status"] != "running":
        return str(run["status"])
    from storage import lease

    for stage, digest in run["stages"].items():
        if not store.exists(stage, digest):
            holder = lease.last(store.backend, f"{stage}/{digest}.lease")
            if holder is None or not lease.is_live(store.backend, f"{stage}/{digest}.lease", holder, patience=12.0):
                return f"interrupted before {stage} was done"
            return f"running {stage}"
    return "interrupted"


@app.command(rich_help_panel=LOOK)
def status(
    root: Root = "artifacts",
    limit: Annotated[int, typer.Option(help="number of runs to show, newest first; 0 for all")] = 20,
    as_json: AsJson = False,
) -> None:
    """List the runs of an artifact root, newest first, and pointers."""
    with reported():
        from storage.catalogue import pointers, read_runs, run_names

        store = open_store(root)
        (runs, damaged), total = read_runs(store.backend, limit or None), len(run_names(store.backend))
        found, more = pointers(store.backend)
        for line in (*damaged, *more):
            print(f"mind: {line}", file=sys.stderr)
        with ThreadPoolExecutor(8) as pool:  # observing the heartbeat of a run on another machine takes seconds
            states = dict(zip((run["name"] for run in runs), pool.map(partial(_state, store), runs), strict=True))
        if as_json:
            shown = [{**run, "status": states[run["name"]]} for run in runs]
            print_json({"runs": shown, "runs_in_all": total, "pointers": found})
            return
        if not total:
            print(f"no runs under {root}")
            return
        rows = [
            (run["name"], states[run["name"]], run["updated"][:19], _student(run), " ".join(_marks(run, found))) for run in runs
        ]
        # A run that was repeated under its name has another student than the pointer; so has one that is not shown.
        here = {mark for row in rows for mark in row[-1].split()}
        rows += [
            (item["run"], "earlier", item["updated"][:19], _student(item), name)
            for name, item in found.items()
            if name not in here
        ]
        print_table(("run", "status", "updated", "student", "pointers"), rows)
        if total > len(runs) + len(damaged):
            print(f"... and {total - len(runs) - len(damaged)} older; --limit 0 shows all")


def _student(target: Run | Pointer) -> str:
    return f"{STUDENT}/{target['stages'].get(STUDENT, '')}"


def _marks(run: Run, pointers: Mapping[str, Pointer]) -> list[str]:
    """The pointers to this run's student."""
    return [name for name, item in pointers.items() if item["run"] == run["name"] and _student(item) == _student(run)]


@app.command(rich_help_panel=LOOK)
def show(artifact: Reference, root: Root = "artifacts", as_json: AsJson = False) -> None:
    """Show one artifact: its files, inputs, provenance and summary."""
    with reported():
        store = open_store(root)
        stage, digest = _resolve(store, artifact)
        manifest = store.manifest(stage, digest)
        if as_json:
            print_json(manifest)
            return
        files, timing, outside = manifest["files"], manifest["timing"], manifest["identity"].get("outside")
        taken = f"{duration(timing['seconds'])} in {timing['processes']} process{'es' if timing['processes'] > 1 else ''}"
        facts = [
            ("artifact", f"{stage}/{digest}"),
            ("files", f"{len(files)}, {size(sum(entry['bytes'] for entry in files))}"),
            ("rows", f"{sum(entry['rows'] or 0 for entry in files):,}"),
            ("made", f"{timing['started']}, {taken}, peak {manifest['peak_mib']:,} MiB"),
            *((f"from {name}", f"{name}/{value}") for name, value in manifest["inputs"].items()),
            *((f"outside: {name}", value) for name, value in (outside.items() if isinstance(outside, dict) else ())),
            *((name, value) for name, value in manifest["provenance"].items()),
            *(_leaves(manifest["summary"])),
        ]
        print_table(("", ""), facts)


def _leaves(summary: dict[str, Any]) -> list[tuple[str, Any]]:
    from storage.lineage import flat

    leaves = list(flat(summary))
    shown = [(field, f"{value:.4g}" if isinstance(value, float) else value) for field, value in leaves[:60]]
    return shown if len(leaves) <= 60 else [*shown, ("...", f"{len(leaves) - 60} more values; --json has all")]


@app.command(rich_help_panel=LOOK)
def diff(
    old: Annotated[str, typer.Argument(metavar="A", help="an artifact, or a run for its student")],
    new: Annotated[str, typer.Argument(metavar="B", help="another of the same stage")],
    root: Root = "artifacts",
    as_json: AsJson = False,
) -> None:
    """Show the fields and inputs in which two artifacts differ.

    Both are of one stage; those of their ancestors and external inputs are included.
    """
    with reported():
        from storage.lineage import Change, differences

        store = open_store(root)
        pairs = [(_resolve(store, old), _resolve(store, new))]
        if pairs[0][0][0] != pairs[0][1][0]:
            raise ConfigError(f"{old} and {new}: belong to different stages; compare two artifacts of one stage")
        found: dict[str, list[Change]] = {}
        while pairs:
            (stage, before), (_, after) = pairs.pop(0)
            if stage in found or before == after:
                continue
            a, b = store.manifest(stage, before), store.manifest(stage, after)
            found[stage] = differences(a["identity"], b["identity"])
            pairs += [((name, a["inputs"][name]), (name, b["inputs"][name])) for name in a["inputs"] if name in b["inputs"]]
        if as_json:
            print_json({stage: [change._asdict() for change in changes] for stage, changes in found.items()})
            return
        if not found:
            print("the same artifact")
        rows = [(stage, *change) for stage, changes in reversed(found.items()) for change in changes]
        if rows:
            print_table(("stage", "field", "A", "B"), rows)


@app.command(rich_help_panel=LOOK)
def lineage(artifact: Reference, root: Root = "artifacts", as_json: AsJson = False) -> None:
    """Show an artifact's ancestors, down to data files and models."""
    with reported():
        from stages.core.provenance import origins
        from storage.lineage import ancestors

        store = open_store(root)
        stage, digest = _resolve(store, artifact)
        chain = ancestors(store, stage, digest)
        if as_json:
            print_json(
                {
                    name: {
                        "inputs": manifest["inputs"],
                        "outside": [origin._asdict() for origin in origins(manifest)],
                        "provenance": manifest["provenance"],
                        "started": manifest["timing"]["started"],
                    }
                    for name, manifest in chain.items()
                }
            )
            return
        shown: set[str] = set()
        whole = Tree(Text(artifact))
        waiting = [(f"{stage}/{digest}", whole)]  # no recursion: an imported chain may have any length
        while waiting:
            name, tree = waiting.pop()
            manifest = chain[name]
            if name in shown:
                tree.add(Text.assemble(name, (" (above)", "dim")))
                continue
            shown.add(name)
            branch = tree.add(Text.assemble(name, (f" {manifest['timing']['started']}", "dim")))
            for origin in origins(manifest):
                digest = f" sha256 {origin.digest[:16]}" if origin.digest else ""
                branch.add(Text.assemble(f"{origin.role}: {origin.location}", (digest, "dim")), style="cyan")
            waiting += [(f"{needed}/{value}", branch) for needed, value in reversed(manifest["inputs"].items())]
        console().print(whole)


@app.command(rich_help_panel=KEEP)
def verify(
    artifacts: Annotated[
        list[str] | None, typer.Argument(metavar="[ARTIFACT]...", help="artifacts to verify; default: all")
    ] = None,
    root: Root = "artifacts",
    as_json: AsJson = False,
) -> None:
    """Check every file of an artifact, and that its student loads.

    Files are hashed again, counted and opened.
    """
    with reported():
        from pipeline.model_folders import check_weights
        from stages.core.plan import ORDER
        from storage.verify import Finding
        from storage.verify import verify as findings_of

        store = open_store(root)
        every = [(stage, digest) for stage in ORDER for digest in store.fingerprints(stage) if store.exists(stage, digest)]
        chosen = [_resolve(store, artifact) for artifact in artifacts] if artifacts else every
        found: dict[str, list[Finding]] = {}
        for stage, digest in chosen:
            findings = findings_of(store, stage, digest)
            if stage == STUDENT and not findings:
                problem = check_weights(store.open(stage, digest).path("student"))
                findings = [Finding(f"{stage}/{digest}/student", problem)] if problem else []
            found[f"{stage}/{digest}"] = findings
            if not as_json:
                print(f"{stage}/{digest}: {'whole' if not findings else 'DAMAGED'}", flush=True)
        if as_json:
            print_json({name: [finding._asdict() for finding in findings] for name, findings in found.items()})
        damaged = {name: findings for name, findings in found.items() if findings}
        if damaged:
            lines = [f"{finding.where}: {finding.problem}" for findings in damaged.values() for finding in findings]
            raise ArtifactError("; ".join(lines) + f"; remove {', '.join(damaged)} and run again, or import an intact copy")


@app.command(rich_help_panel=KEEP)
def promote(run: str, root: Root = "artifacts") -> None:
    """Point `promoted` to a finished run.

    `mind gc` keeps it and its earlier versions.
    """
    with reported():
        from storage.catalogue import point, read_run

        store = open_store(root)
        found = read_run(store.backend, run)
        if found is None or found["status"] != "done" or STUDENT not in found["stages"]:
            raise ConfigError(f"{run}: no finished run of this name; `mind status` lists them")
        point(store.backend, "promoted", run, found["stages"])
        print(f"promoted: {run}, {STUDENT}/{found['stages'][STUDENT]}")


@app.command(rich_help_panel=KEEP)
def rollback(root: Root = "artifacts") -> None:
    """Point `promoted` to the previous version.

    Re-distillation does not promote the current one again.
    """
    with reported():
        from stages.promotion import rollback as roll_back

        before = roll_back(open_store(root))
        print(f"promoted: {before['run']}, {STUDENT}/{before['stages'][STUDENT]}")


@app.command(rich_help_panel=KEEP)
def forget(run: str, root: Root = "artifacts") -> None:
    """Remove a run from the catalogue.

    `mind gc` may then remove the artifacts that only it reaches.
    """
    with reported():
        from storage.catalogue import forget_run

        forget_run(open_store(root).backend, run)
        print(f"{run}: forgotten; `mind gc` removes what only it reached")


@app.command(rich_help_panel=KEEP)
def gc(
    root: Root = "artifacts",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be removed; remove nothing")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove artifacts that no run and no pointer reaches."""
    with reported():
        from storage.garbage import collect, garbage

        store = open_store(root)
        found, damaged = garbage(store)
        freed = sum(item.bytes for item in found) if dry_run else collect(store, found)
        if as_json:
            shown = [item._asdict() for item in found]
            print_json({"removed": not dry_run, "bytes": freed, "garbage": shown, "damaged": damaged})
            return
        rows = ((item.key, item.run, size(item.bytes), item.why) for item in found)
        print_table(("what", "made by run", "size", "why"), rows, right=("size",))
        print(f"{len(found)} items, {size(freed)}: {'would be removed' if dry_run else 'removed'}")
        for line in damaged:
            print(f"mind: {line}", file=sys.stderr)
        if damaged:
            raise ArtifactError(
                "while a document is damaged, nothing is removed that it may need; correct the lines above, then run `mind gc` again"
            )


@app.command(rich_help_panel=KEEP)
def export(artifact: Reference, file: Annotated[Path, typer.Argument(help="the tar file")], root: Root = "artifacts") -> None:
    """Write an artifact and all its ancestors to one tar file."""
    with reported():
        from storage.archive import export as export_to

        store = open_store(root)
        names = export_to(store, *_resolve(store, artifact), file)
        print(f"{file}: {len(names)} artifacts, {size(file.stat().st_size)}")


@app.command(rich_help_panel=DATA)
def release(
    run: Annotated[str, typer.Argument(help="a run's or pointer's name, for example latest or promoted")],
    folder: Annotated[
        Path, typer.Argument(help="a new folder; with --push, an earlier result of the same release is accepted")
    ],
    root: Root = "artifacts",
    licence: Annotated[
        str | None, typer.Option(help="the student's licence for the model card, for example apache-2.0")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="also upload the folder to this hub repository")
    ] = None,
    unevaluated: Annotated[bool, typer.Option("--unevaluated", help="accept a student that was not evaluated")] = False,
    adapter: Annotated[bool, typer.Option("--adapter", help="the LoRA adapters alone, for peft and vLLM")] = False,
) -> None:
    """Write a run's student and its model card to a folder for vLLM.

    Only an evaluated student, unless --unevaluated is given.
    """
    with reported():
        from stages.release import push as send
        from stages.release import release as write
        from storage.catalogue import stages_of

        store = open_store(root)
        write(store, run, stages_of(store.backend, run), licence, folder, push is not None, unevaluated, adapter)
        print(f"{folder}: {'its model card says how to load it' if adapter else f'vllm serve {folder}'}")
        if push is not None:
            print(f"{push}: {send(folder, push)}")


@app.command(name="export-data", rich_help_panel=DATA)
def export_data(
    run: Annotated[str, typer.Argument(help="a run's or pointer's name, for example latest or promoted")],
    folder: Annotated[Path, typer.Argument(help="a new folder")],
    root: Root = "artifacts",
    form: Annotated[
        str, typer.Option("--format", help="messages, prompt-completion, sharegpt or alpaca")
    ] = "prompt-completion",
    lines: Annotated[bool, typer.Option("--jsonl", help="JSON lines in place of Parquet")] = False,
    licence: Annotated[str | None, typer.Option(help="the dataset's licence for its card, for example apache-2.0")] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="also upload the folder to this hub repository of datasets")
    ] = None,
) -> None:
    """Write a run's kept rationales as a dataset for other trainers.

    Each row has its weight.
    """
    with reported():
        from stages.dataset_export import export_data as write
        from stages.release import push as send
        from storage.catalogue import stages_of

        store = open_store(root)
        rows = write(store, run, stages_of(store.backend, run), form, folder, lines, licence)
        print(f"{folder}: {rows:,} rationales")
        if push is not None:
            print(f"{push}: {send(folder, push, 'dataset')}")


@app.command(name="import", rich_help_panel=KEEP)
def import_(
    file: Annotated[Path, typer.Argument(help="a tar file written by `mind export`")],
    root: Root = "artifacts",
    name: Annotated[str | None, typer.Option(help="the run's name in the catalogue; default: the file's name")] = None,
) -> None:
    """Add the artifacts of a tar file, after checking every file.

    A run in the catalogue keeps them.
    """
    with reported():
        from storage.archive import contents
        from storage.archive import import_ as import_from
        from storage.catalogue import add_run, forget_run

        try:
            there = file.is_file()
        except OSError:  # a name that no file system takes, or no permission
            there = False
        if not there:
            raise ConfigError(f"{shown(str(file))}: no such file; give a tar file written by `mind export`")
        store, run, stages = open_store(root), file.stem if name is None else name, contents(file)
        new_run = add_run(
            store.backend, run, stages, "imported"
        )  # before its artifacts, so that `mind gc` keeps them from the start
        try:
            found = import_from(store, file)
        except BaseException:
            if new_run:
                forget_run(store.backend, run)
            raise
        for artifact, new in found:
            print(f"{artifact}: {'added' if new else 'already exists'}")

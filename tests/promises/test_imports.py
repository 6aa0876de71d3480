"""Package structure, computed from imports: no upward import, no cycle, and a bounded number of modules per folder."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import grimp
import pytest

from tests.support.runs import REPOSITORY

PACKAGES = ("flows", "stages", "pipeline", "storage")
LAYERS = {"flows.cli": 3, "flows": 2, "stages": 1, "pipeline": 0, "storage": 0}
COMMON = ("stages.core", "stages.shared")
"""What every stage may import."""
STAGES = ("questions", "references", "sampling", "synthesis", "training", "evaluation", "report")
MOST_MODULES = 14


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


@pytest.fixture(scope="module")
def imports(graph: grimp.ImportGraph) -> list[tuple[str, str]]:
    """Every import between modules of the packages, lazy ones included: (importer, imported)."""
    return [(module, other) for module in graph.modules for other in graph.find_modules_directly_imported_by(module)]


def _layer(module: str) -> int:
    return next(level for name, level in LAYERS.items() if f"{module}.".startswith(f"{name}."))


def _folder(module: str) -> str:
    return module.rpartition(".")[0]


def _circles(edges: set[tuple[str, str]]) -> set[str]:
    """Nodes that remain after repeatedly removing nodes without outgoing edges: cycles and their predecessors."""
    nodes = {node for edge in edges for node in edge}
    while leaves := nodes - {source for source, _ in edges}:
        nodes -= leaves
        edges = {(source, target) for source, target in edges if target not in leaves}
    return nodes


def test_no_import_goes_to_a_higher_layer(imports: list[tuple[str, str]]) -> None:
    assert [edge for edge in imports if _layer(edge[0]) < _layer(edge[1])] == []


def test_pipeline_and_storage_do_not_import_each_other(imports: list[tuple[str, str]]) -> None:
    assert [edge for edge in imports if {edge[0].split(".")[0], edge[1].split(".")[0]} == {"pipeline", "storage"}] == []


def test_modules_have_no_import_cycle(imports: list[tuple[str, str]]) -> None:
    assert _circles(set(imports)) == set()


def test_folders_have_no_import_cycle(imports: list[tuple[str, str]]) -> None:
    folders = {(_folder(a), _folder(b)) for a, b in imports if _folder(a) != _folder(b)}
    # A folder and its subfolders count as one.
    apart = {(a, b) for a, b in folders if not a.startswith(b) and not b.startswith(a)}
    assert _circles(apart) == set()


def test_an_import_cycle_is_found() -> None:
    assert _circles({("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")}) == {"a", "b", "c"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_no_other_stage(imports: list[tuple[str, str]], stage: str) -> None:
    mine = f"stages.{stage}."
    theirs = {other for module, other in imports if f"{module}.".startswith(mine) and other.startswith("stages.")}
    assert {other for other in theirs if not f"{other}.".startswith((mine, *COMMON))} == set()


def test_no_folder_has_too_many_modules() -> None:
    files = [path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py") if not path.name.startswith("__")]
    assert {folder: count for folder, count in Counter(path.parent for path in files).items() if count > MOST_MODULES} == {}


def test_the_import_contract_has_no_exemption() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout
    assert "0 broken" in answer.stdout
    assert "ignore_imports" not in (REPOSITORY / "pyproject.toml").read_text()


def test_planning_a_run_loads_no_heavy_library() -> None:
    script = "import sys, stages.core.plan as c; [c.stage_module(n) for n in c.ORDER]; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert {"torch", "vllm", "deepspeed", "prefect", "datasets"}.isdisjoint(answer.stdout.split())

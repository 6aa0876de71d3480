"""The documents build as a site, strictly and without a network; its links lead to pages, also those to files outside docs/."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from scripts.docs_site import as_page, rebased, site_path
from tests.support.runs import REPOSITORY


def build(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    answer = build(REPOSITORY, out)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return out


class _Page(HTMLParser):
    """The links of a page, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        self.anchors.update(found[name] for name in ("id", "name") if name in found)
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and "href" in found:
            self.loaded.append(found["href"])
        if "src" in found:
            self.loaded.append(found["src"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, _Page]:
    return {path: _Page(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_link_of_every_page_leads_to_a_page_and_an_anchor_of_the_site(pages: dict[Path, _Page]) -> None:
    lost = []
    for path, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors):
                lost.append(f"{path.name}: {link}")
    assert len(pages) > 30
    assert lost == []


def test_a_page_loads_nothing_of_another_host(pages: dict[Path, _Page], site: Path) -> None:
    assert [item for page in pages.values() for item in page.loaded if urlsplit(item).netloc] == []
    assert not any("fonts.g" in path.read_text(errors="ignore") for path in site.rglob("*.css"))


def test_every_document_is_in_the_navigation_and_files_outside_docs_are_pages(site: Path, pages: dict[Path, _Page]) -> None:
    index = {(site / unquote(link)).resolve() for link in pages[site / "index.html"].links}
    documents = {path.stem for path in (REPOSITORY / "docs").glob("*.md")} - {"README"}
    assert {site / f"{name}.html" for name in documents} <= index
    assert "class" in (site / "repository" / "pipeline" / "training" / "step.py.html").read_text()
    assert "The stages" in (site / "repository" / "index.html").read_text(), "the repository's page is the quick start"


def test_paths_in_the_site() -> None:
    assert site_path("docs/gpus.md") == "gpus.md"
    assert site_path("README.md") == "repository/README.md"
    assert site_path("pipeline/training/step.py") == "repository/pipeline/training/step.py.md"


def test_links_are_rebased_and_the_files_outside_docs_are_named() -> None:
    found: list[str] = []
    text = "[a](../README.md#try-it) [b](gpus.md) [c](https://x.org/y) [d](#e) [f](../gone.py)"
    assert rebased(text, "docs/method.md", found.append) == (
        "[a](repository/README.md#try-it) [b](gpus.md) [c](https://x.org/y) [d](#e) [f](../gone.py)"
    )
    assert found == ["README.md"]
    assert rebased("![i](docs/images/report.png)", "README.md", found.append) == "![i](../images/report.png)"


def test_a_file_with_fences_of_its_own_is_one_block() -> None:
    page = as_page("pipeline/perspectives/eight.yaml").splitlines()
    assert (page[0], page[2], page[-1]) == ("# pipeline/perspectives/eight.yaml", "```yaml", "```")


@pytest.mark.parametrize(
    "link",
    ["gone.md", "../pipeline/gone.py", "gpus.md#gone", "#gone", "/gpus.md", "../../outside.md", "images/gone.png"],
)
def test_a_broken_link_fails_the_build(link: str, tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    for entry in REPOSITORY.iterdir():
        if entry.name in (
            "mkdocs.yml",
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "scripts",
            "pipeline",
            "configs",
            "examples",
        ):
            (tmp_path / entry.name).symlink_to(entry)
    with (tmp_path / "docs" / "gpus.md").open("a") as document:
        document.write(f"\n[broken]({link})\n")
    answer = build(tmp_path, tmp_path / "out")
    assert answer.returncode != 0
    assert link in answer.stdout + answer.stderr

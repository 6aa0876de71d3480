"""MkDocs' hook of `mkdocs.yml`: links from the documents to files of the repository outside docs/ are valid in the site too.

On the repository's pages such a link is a relative path. For the site, every file that is linked so becomes a page `repository/PATH`:
Markdown as itself, with its own links followed, anything else as its text. A link to a missing file stays as it is; MkDocs is strict and
refuses it.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

REPOSITORY: Final = Path(__file__).resolve().parent.parent
DOCS: Final = "docs/"
_LINK: Final = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")
_LANGUAGES: Final = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sbatch": "bash", ".json": "json"}


def site_path(file: str) -> str:
    """The place in the site, by its Markdown source, of a file of the repository."""
    if file.startswith(DOCS):
        return file.removeprefix(DOCS)
    return f"repository/{file}" if file.endswith(".md") else f"repository/{file}.md"


def rebased(text: str, source: str, found: Callable[[str], None]) -> str:
    """A document of the repository with its relative links changed to the site's; `found` is told each file outside docs/."""

    def change(link: re.Match[str]) -> str:
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["path"]))
        if file.startswith("..") or not (REPOSITORY / file).is_file():
            return link[0]
        if not file.startswith(DOCS):
            found(file)
        return os.path.relpath(site_path(file), posixpath.dirname(site_path(source)) or ".") + (link["anchor"] or "")

    return _LINK.sub(change, text)


def as_page(file: str) -> str:
    """A file of the repository as a page's Markdown."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    if file.endswith(".md"):
        return text
    fence = "`" * max([3, *(1 + len(run) for run in re.findall("`+", text))])
    return f"# {file}\n\n{fence}{_LANGUAGES.get(PurePosixPath(file).suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of linked files, and of the files that these link to."""
    waiting: list[str] = []
    for page in files.documentation_pages():
        rebased(page.content_string, DOCS + page.src_uri, waiting.append)
    while waiting:
        file = waiting.pop()
        if files.get_file_from_path(site_path(file)) is None:
            files.append(File.generated(config, site_path(file), content=rebased(as_page(file), file, waiting.append)))
    return files


def on_page_markdown(markdown: str, page: object, config: MkDocsConfig, files: Files) -> str:
    """Change the links of a document of docs/; those of the other pages are changed already."""
    source: str = page.file.src_uri  # type: ignore[attr-defined]
    if source.startswith("repository/"):
        return markdown
    return rebased(markdown, DOCS + source, lambda file: None)

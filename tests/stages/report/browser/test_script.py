"""The script of the browser writes texts as text only, loads nothing, and may stand in a page."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from pipeline.config.run import load_config
from stages.report.browser.browse import SCRIPT, policy
from stages.report.stage import config_of, outside
from tests.support.runs import REPOSITORY

TEXT = SCRIPT.read_bytes().decode()
_HTML = (
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "document.write",
    "createContextualFragment",
    "DOMParser",
    "setHTML",
    "srcdoc",
)
_CODE = (
    "eval(",
    "Function(",
    "import(",
    "fetch(",
    "XMLHttpRequest",
    "WebSocket",
    "sendBeacon",
    "EventSource",
    "Worker(",
    "localStorage",
)
_PLACES = (".href", ".src", "location", "window.open", "javascript:", "data:", "http")


@pytest.mark.parametrize("forbidden", [*_HTML, *_CODE, *_PLACES])
def test_the_script_neither_parses_html_nor_loads_anything(forbidden: str) -> None:
    assert forbidden.lower() not in TEXT.lower()


def test_every_element_of_the_script_is_known_and_no_handler_is_a_text() -> None:
    made = {*re.findall(r'make\(\s*"(\w+)"', TEXT)}
    assert made <= {
        "article", "b", "button", "code", "details", "div", "h4", "header", "input", "label", "nav", "option", "output", "p", "pre",
        "select", "span", "summary",
    }  # fmt: skip
    assert {*re.findall(r"createElement\((\w+)\)", TEXT)} == {"tag"}
    assert {*re.findall(r'setAttribute\("([\w-]+)"', TEXT)} == {"aria-live"}
    assert not re.search(r"""set(?:Timeout|Interval)\(\s*["'`]""", TEXT)


def test_the_script_stays_whole_inside_a_page() -> None:
    assert not re.search(r"</script|<!--|<script|\r|\x00", TEXT, re.IGNORECASE)
    assert TEXT.count("\n") < 250


def test_the_policy_allows_this_script_and_nothing_else() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in policy().split(";"))
    found = base64.b64encode(hashlib.sha256(TEXT.encode()).digest()).decode()
    assert rules["script-src"] == f"'sha256-{found}'"
    assert (rules["default-src"], rules["base-uri"], rules["form-action"]) == ("'none'",) * 3
    assert {*rules} == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}


def test_every_file_of_the_pages_is_in_the_fingerprint() -> None:
    config = config_of(load_config(REPOSITORY / "configs/miniature.yaml", ()))
    folder = REPOSITORY / "stages/report"
    files = [path for path in folder.rglob("*") if path.suffix in (".html", ".css", ".js")]
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in [*files, REPOSITORY / "stages/shared/page.css"]}
    assert {*outside(config).values()} == digests

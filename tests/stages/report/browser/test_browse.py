"""The pages of samples: they hold every chosen question once, and hostile texts stay texts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stages.core.progress import Progress
from stages.report import stage
from stages.report.browser import browse
from stages.report.browser.browse import Browser, cut, escaped, policy, write_browser
from storage.store import Store
from tests.support.browsable_run import browsable_run

HOSTILE = (
    "</script><script>alert(1)</script><!--<script><img src=x onerror=alert(1)>",
    "]]>\"'`</pre></details></style><style>*{display:none}</style>\\u003c/script\\u003e",
    "\u2028\u2029&lt;b&gt;{{ 7 * 7 }}{% raw %}\x00\x07\u202ejavascript:alert(1)",
)


class Read(HTMLParser):
    """Elements with their attributes, and the contents of scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags = Counter[str]()
        self.handlers: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.policies: list[str] = []
        self._script: dict[str, str | None] | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self._script = dict(attrs) if tag == "script" else None
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag == "meta" and ("http-equiv", "Content-Security-Policy") in attrs:
            self.policies.append(dict(attrs)["content"] or "")

    def handle_endtag(self, tag: str) -> None:
        self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            about, before = self.scripts[-1]
            self.scripts[-1] = (about, before + data)


def data_of(read: Read) -> dict[str, Any]:
    (found,) = [content for about, content in read.scripts if about.get("type") == "application/json"]
    return dict(json.loads(found))


def pages_of(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("samples-*.html"))


def written(root: Path, most: int = browse.PAGE_BYTES, **run: Any) -> tuple[Browser, Path]:
    config, inputs = browsable_run(root, **run)
    with Store(root).draft("report", "0" * 16) as draft:
        found = write_browser(inputs, config.perspectives, draft, most)
        assert [*draft.scratch.rglob("*.*")] == []
        return found, draft.folder


def dressed(hostile: str) -> Any:
    return lambda text: f"{hostile}{text}"


def reported(root: Path, hostile: str = "") -> tuple[str, list[str]]:
    """The report of a run with a hostile text in every field, and the same samples as pages beside it."""
    config, inputs = browsable_run(root, dress=dressed(hostile))
    with Store(root).draft("report", "0" * 16) as draft:
        stage.run(config, inputs, draft, Progress(root / "progress", "report"))
        report = draft.path("report.html").read_bytes().decode()
        write_browser(inputs, config.perspectives, draft, 4000)
        return report, [path.read_bytes().decode() for path in pages_of(draft.folder)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return reported(tmp_path_factory.mktemp("plain"))[0]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_texts_in_every_field_add_no_element(hostile: str, plain: str, tmp_path: Path) -> None:
    report, pages = reported(tmp_path / "hostile", hostile)
    assert Read(report).tags == Read(plain).tags
    assert len(pages) > 2
    for page in (report, *pages):
        read = Read(page)
        assert read.handlers == []
        assert read.policies == [policy()]
        script, said = (content for _, content in reversed(read.scripts))
        assert len(read.scripts) == 2
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy()
        assert not {*said} & {*"<>&\u2028\u2029"}
        for entry in data_of(read)["entries"]:
            about = entry["question"]
            assert all(about[name].startswith(hostile) for name in ("id", "gold"))
            assert hostile in about["prompt"]
            texts = (
                entry["training"]["rationales"] if "training" in entry else [entry["student"], entry["base"], entry["teacher"]]
            )
            assert all(hostile in one["text"] and one["rule"].startswith(hostile) for one in texts)


def test_json_is_escaped_without_a_change() -> None:
    for text in HOSTILE:
        content = escaped(json.dumps(text, ensure_ascii=False).encode())
        assert not {*content.decode()} & {*"<>&\u2028\u2029"}
        assert json.loads(content) == text


def test_one_page_holds_all_while_they_fit(tmp_path: Path) -> None:
    found, folder = written(tmp_path, questions=70)
    assert found.pages == []
    assert list(pages_of(folder)) == []
    data = json.loads(found.data)
    assert [entry["question"]["id"] for entry in data["entries"]] == [
        *(f"made/{n:08d}" for n in range(70)),
        *(f"asked/{n:08d}" for n in range(12)),
    ]
    assert [(item["name"], item["there"], item["shown"]) for item in data["sets"]] == [
        ("train", 70, 70),
        ("dial", 6, 6),
        ("lift", 6, 6),
    ]


def test_pages_beside_the_report_hold_each_question_once(tmp_path: Path) -> None:
    whole = json.loads(written(tmp_path / "one")[0].data)
    found, folder = written(tmp_path / "many", most=20_000)
    assert found.data == ""
    assert [page.file for page in found.pages] == [path.name for path in pages_of(folder)]
    entries = []
    for page, path in zip(found.pages, pages_of(folder), strict=True):
        data = data_of(Read(path.read_text()))
        assert {entry["set"] for entry in data["entries"]} == {page.set}
        assert len(data["entries"]) == page.last - page.first + 1
        assert path.stat().st_size < 20_000 + 30_000
        entries += data["entries"]
    assert entries == whole["entries"]


def test_a_page_has_what_fits_and_at_least_one_question() -> None:
    pages = cut([(0, 5), (0, 5), (0, 5), (1, 50), (1, 1), (2, 2)], most=12)
    assert [(page.set, page.first, page.last) for page in pages] == [(0, 1, 2), (0, 3, 3), (1, 1, 1), (1, 2, 2), (2, 1, 1)]
    assert [page.file for page in pages] == [f"samples-{number:04d}.html" for number in range(1, 6)]
    assert cut([(0, 5), (1, 7)], most=12) == []


def test_beyond_the_limit_a_sample_is_shown_and_the_page_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.report.browser.browse.MOST", 10)
    config, inputs = browsable_run(tmp_path)
    with Store(tmp_path).draft("report", "0" * 16) as draft:
        stage.run(config, inputs, draft, Progress(tmp_path / "progress", "report"))
        page = draft.path("report.html").read_text()
    assert Counter(entry["set"] for entry in data_of(Read(page))["entries"]) == {0: 10, 1: 5, 2: 5}
    assert "of training questions 10 of 20, dial (ID) 5 of 6, lift (OOD) 5 of 6." in " ".join(page.split())


def test_weights_of_a_question_sum_to_one_and_losses_are_those_of_training(tmp_path: Path) -> None:
    for entry in json.loads(written(tmp_path)[0].data)["entries"][:20]:
        kept = [one for one in entry["training"]["rationales"] if one["why"] == "kept"]
        assert kept
        for end in (0, 1):
            assert sum(one["weights"][end] for one in kept) == pytest.approx(1)
        assert all(one["last_loss"] == pytest.approx(one["base_loss"] / 2) and one["steps"] == 1 for one in kept)
        assert [one["scores"][0] for one in kept] != [one["scores"][1] for one in kept]
        assert all("weights" not in one for one in entry["training"]["rationales"] if one["why"] != "kept")


def test_every_perspective_and_outcome_of_a_question_is_there(tmp_path: Path) -> None:
    data = json.loads(written(tmp_path)[0].data)
    training = [entry["training"] for entry in data["entries"] if "training" in entry]
    assert all({one["perspective"] for one in item["rationales"]} == {*range(8)} for item in training)
    texts = [one for item in training for one in item["rationales"]]
    texts += [entry[model] for entry in data["entries"] if "base" in entry for model in ("base", "student", "teacher")]
    assert {one["outcome"] for one in texts} == {"correct", "wrong", "unparsed", "truncated", "looping"}
    again = [one for one in texts if one.get("sample") == 1]
    assert again
    assert all(one["why"] == "kept" for one in again)


def test_questions_held_out_and_perspectives_left_out_have_no_loss_of_training(tmp_path: Path) -> None:
    changes = ("training.hold_out=0.3", 'training.perspectives=["formal","planning"]')
    data = json.loads(written(tmp_path, changes=changes)[0].data)
    names = data["perspectives"]
    states = Counter(entry["training"]["state"] for entry in data["entries"][:20])
    assert states == {"kept": 14, "kept, but held out of training": 6}
    for entry in data["entries"][:20]:
        for one in entry["training"]["rationales"]:
            if one["why"] == "kept" and names[one["perspective"]] not in ("formal", "planning"):
                assert one["last_loss"] is None
                assert one["weights"] == [0.0, 0.0]

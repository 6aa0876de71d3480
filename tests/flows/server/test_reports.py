"""Reports are served by their fingerprint, and nothing else of a root is; without an address a page says where the report lies."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server.reports import report_link, report_place, report_server
from stages.report.browser.browse import policy
from storage.artifact import Artifact
from storage.store import Store

PAGE = b"<!doctype html><p>questions and answers</p>"
SAMPLES = b"<!doctype html><p>more of them</p>"
FINGERPRINTS = ("0123456789abcdef", "fedcba9876543210")


def commit(root: Path, stage: str, fingerprint: str) -> Artifact:
    store = Store(root)
    with store.draft(stage, fingerprint) as draft:
        (draft.folder / "report.html").write_bytes(PAGE)
        (draft.folder / "samples-0001.html").write_bytes(SAMPLES)
        (draft.folder / "accuracy.png").write_bytes(b"png")
        return store.commit(draft, {"summary": {}})


@pytest.fixture
def reports(tmp_path: Path) -> list[Artifact]:
    """Reports of two roots."""
    return [commit(tmp_path / f"root-{number}", "report", digest) for number, digest in enumerate(FINGERPRINTS)]


@pytest.fixture
def port(reports: list[Artifact]) -> Iterator[int]:
    with report_server([Store(report.root) for report in reports], "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def asked(port: int, path: str, method: str = "GET") -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_the_reports_of_every_root_are_served_with_one_script_allowed(port: int) -> None:
    for fingerprint in FINGERPRINTS:
        status, page, headers = asked(port, f"/{fingerprint}/report.html")
        assert (status, page) == (200, PAGE)
        assert headers["Content-Type"].startswith("text/html")
        assert headers["Content-Security-Policy"] == f"{policy()}; frame-ancestors 'none'"
        assert asked(port, f"/{fingerprint}/samples-0001.html")[:2] == (200, SAMPLES)


def test_a_damaged_report_is_not_served(port: int, reports: list[Artifact], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * len(PAGE))
    page = reports[0].path("report.html")
    page.unlink()
    assert asked(port, f"/{FINGERPRINTS[0]}/report.html")[0] == 404
    page.symlink_to(secret)
    assert asked(port, f"/{FINGERPRINTS[0]}/report.html")[0] == 404


@pytest.mark.parametrize(
    "path",
    ["/", "/report.html", f"/{FINGERPRINTS[0]}", f"/{FINGERPRINTS[0]}/", f"/{FINGERPRINTS[0]}/accuracy.png",
     f"/{FINGERPRINTS[0]}/manifest.json", f"/{FINGERPRINTS[0]}/report.html/", f"/{FINGERPRINTS[0]}/samples-0002.html",
     f"/{FINGERPRINTS[0]}/samples-1.html", f"/{FINGERPRINTS[0]}/samples.sqlite", "/0123456789abcdee/report.html",
     "/../report/0123456789abcdef/report.html", f"/..%2freport%2f{FINGERPRINTS[0]}/report.html", "/training/x/report.html"],
)  # fmt: skip
def test_nothing_else_is_served(port: int, path: str) -> None:
    status, page, _ = asked(port, path)
    assert status == 404
    assert PAGE not in page
    assert str(Path.cwd()).encode() not in page


def test_nothing_can_be_sent(port: int) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert asked(port, f"/{FINGERPRINTS[0]}/report.html", method)[0] == 501


def test_a_link_needs_the_address_of_a_server(reports: list[Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIND_REPORTS_URL", raising=False)
    assert report_link(reports[0]) is None
    assert str(reports[0].path("report.html")) in report_place(reports[0])
    assert "mind reports ROOT" in report_place(reports[0])
    monkeypatch.setenv("MIND_REPORTS_URL", "https://reports.example/mind/")
    assert report_link(reports[0]) == f"https://reports.example/mind/{FINGERPRINTS[0]}/report.html"

"""A headless Chromium that is driven through its DevTools protocol: opens a page, clicks with the mouse, reads text."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.prefect.server import eventually

_VISIBLE = """(() => {
  const own = element => [...element.childNodes].filter(node => node.nodeType == 3).map(node => node.data).join("").trim();
  const found = [...document.querySelectorAll("*")].find(element => own(element) == %s && element.getClientRects().length);
  if (!found) return null;
  found.scrollIntoView({block: "center"});
  const box = found.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})()"""


class Browser:
    """A browser; its commands go to the page that was opened last."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._numbers = count(1)

    def pages(self) -> list[dict[str, Any]]:
        """All open pages; a click may have opened a new one."""
        return [page for page in httpx.get(f"{self._address}/json/list").json() if page["type"] == "page"]

    def _page(self, url: str) -> dict[str, Any]:
        """The open page of a URL, fragments aside."""
        found = eventually(lambda: [page for page in self.pages() if page["url"].startswith(url)], f"a page of {url}", 60)
        return dict(found[0])

    def _call(self, url: str, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        with connect(self._page(url)["webSocketDebuggerUrl"], max_size=None) as socket:
            socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
            while (answer := json.loads(socket.recv(60))).get("id") != number:
                continue
        return answer.get("result", {})

    def open(self, url: str) -> None:
        httpx.put(f"{self._address}/json/new?{url}").raise_for_status()

    def evaluate(self, url: str, script: str) -> Any:
        """The value of a script in an open page."""
        return self._call(url, "Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def text(self, url: str) -> str:
        """The visible text of an open page, on one line."""
        return " ".join(str(self.evaluate(url, "document.body ? document.body.innerText : ''")).split())

    def place(self, url: str, words: str) -> list[float] | None:
        """Where an open page shows exactly these words, or None."""
        found = self.evaluate(url, _VISIBLE % json.dumps(words))
        return found and list(found)

    def click(self, url: str, words: str, leads: Callable[[], Any]) -> None:
        """Click on what has exactly these words, again if the page was not ready for it, until `leads` says that it led somewhere."""

        def clicked() -> bool:
            place = self.place(url, words)
            if place is None or leads():
                return bool(leads())
            for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
                self._call(url, "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
            until = time.monotonic() + 10
            while not leads() and time.monotonic() < until:
                time.sleep(0.5)
            return bool(leads())

        eventually(clicked, f"a click on {words!r} that leads on", 120, 1)


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium with an empty profile; skips the test where none is installed."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on the PATH")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=1400,1000"]
        process = subprocess.Popen([program, *options, f"--user-data-dir={profile}"], stderr=subprocess.DEVNULL)
        try:
            port = Path(profile) / "DevToolsActivePort"
            eventually(port.exists, "the browser's port", 90)
            yield Browser(f"http://127.0.0.1:{port.read_text().splitlines()[0]}")
        finally:
            process.terminate()
            process.wait(30)

"""Progress in a log, where a line says that something changed, and in a terminal, where one line is drawn again."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from typing import Any

import pytest

from flows.terminal_progress import _watch_lines, in_words, watching
from tests.support.runs import REPOSITORY

FOUND: dict[str, Any] = {
    "stage": "references", "label": "answers", "done": 0, "inside": 0.0, "total": 320, "unit": "items", "rate": 0.0,
    "seconds_left": None, "note": "",
}  # fmt: skip


def lines_of(capsys: pytest.CaptureFixture[str], shown: list[tuple[float, dict[str, Any]]]) -> list[str]:
    """What a log has if progress was found at these seconds after the start."""
    times = iter([0.0, *(at for at, _ in shown)])
    show = _watch_lines(lambda: next(times))
    for _, found in shown:
        show(found)
    return capsys.readouterr().out.splitlines()


def test_a_line_is_printed_only_when_something_changed(capsys: pytest.CaptureFixture[str]) -> None:
    waiting = [(float(second), FOUND) for second in range(0, 60)]
    some = {**FOUND, "inside": 12.0, "seconds_left": 99.0, "note": "12 texts, 130 tokens/s"}
    slower = {**some, "note": "12 texts, 90 tokens/s", "seconds_left": 200.0}
    assert lines_of(capsys, [*waiting, (60.0, some), (75.0, slower), (90.0, slower)]) == [
        "references  10 s: answers, 0/320 items",
        "references  1 min 00 s: answers, 12/320 items, 1 min 39 s left, 12 texts, 130 tokens/s",
    ]


def test_a_log_has_at_most_one_line_in_ten_seconds_also_when_parts_change(capsys: pytest.CaptureFixture[str]) -> None:
    shown = [(tenth / 10, {**FOUND, "label": f"part {tenth // 20}", "done": tenth % 20}) for tenth in range(0, 300)]
    seconds = [line.split()[1] for line in lines_of(capsys, shown)]
    assert seconds == ["10", "20"]


def test_a_stage_that_ends_within_ten_seconds_has_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    with watching("questions") as show:
        show(FOUND)
        show({**FOUND, "done": 320})
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7800, "2 h 10 min")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


SHOWN = f"""
import time
from flows.terminal_door import at_the_door
from flows.terminal_progress import watching
with at_the_door(), watching("sampling") as show:
    print("a library's line \\x1b[31m")
    for done in range(0, 320, 40):
        show({FOUND!r} | {{"stage": "sampling", "label": "teacher's rationales", "done": done, "seconds_left": 80.0,
             "note": "1,234 texts, 2,684 tokens/s, [bold]no markup[/] " + "x" * 100}})
        time.sleep(0.15)
"""


def in_a_terminal(code: str, columns: int, term: str = "xterm") -> str:
    """The output of a program in a terminal of its own, as wide as this."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": term} | {"PYTHONPATH": str(REPOSITORY)}
    environment.pop("COLUMNS", None)
    with subprocess.Popen([sys.executable, "-c", code], stdin=its, stdout=its, stderr=its, env=environment):
        os.close(its)
        read = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux's way to say that nobody has the other end any more
                break
            if not part:
                break
            read += part
    os.close(ours)
    return read.decode()


def test_in_a_terminal_of_80_columns_one_line_is_drawn_again_and_is_gone_at_the_end() -> None:
    raw = in_a_terminal(SHOWN, 80)
    assert "\\u001b" not in raw, "the sequences that draw the line again are for the terminal, not for the reader"
    assert "a library's line" in raw
    drawn = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", raw)]
    drawn = [line for line in drawn if line.strip()]
    assert len(drawn) > 4
    assert all(len(line) <= 80 for line in drawn)
    assert any(
        re.search(r"sampling    teacher's rationales .* 0:00:0\d (40|80|120|160|200|240|280)/320 items 1 min 20 s left", line)
        for line in drawn
    ), drawn
    assert "\x1b[1A" not in raw.replace("\x1b[1A\x1b[2K", ""), "only its own line is ever cleared"
    assert raw.count("\n") <= 3, "every drawing is on the same line"


def test_a_terminal_that_cannot_move_its_cursor_gets_lines_as_a_log_does() -> None:
    assert in_a_terminal(SHOWN, 80, term="dumb").split("\r\n") == ["a library's line \\u001b[31m", ""]

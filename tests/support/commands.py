"""The command line as a process, and the rows and refusals of its bad-input tests."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from tests.support.runs import REPOSITORY

Tree = dict[str, Any]


def mind(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)


def assert_refused(answer: subprocess.CompletedProcess[str], *words: str) -> None:
    """Asserts exit code 2 and one line on standard error that contains all `words`."""
    assert answer.returncode == 2, (answer.returncode, answer.stdout, answer.stderr)
    lines = [line for line in answer.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, answer.stderr
    assert lines[0].startswith("mind: ")
    for word in words:
        assert word in lines[0], lines[0]


def question_rows(*changes: Tree) -> list[Tree]:
    return [{"id": f"q{n}", "question": f"What is {n}+1?", "answer": str(n + 1), "answer_type": "number", **change}
            for n, change in enumerate(changes)]  # fmt: skip

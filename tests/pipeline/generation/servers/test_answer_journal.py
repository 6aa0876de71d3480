from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from pipeline.generation.engine import TOO_LONG, Completion
from pipeline.generation.servers.answer_journal import AnswerJournal

GOOD = Completion("text", "stop", 5, 9, -1.5)


@pytest.mark.parametrize(
    "change",
    [{"text": [{"type": "text"}]}, {"text": None}, {"completion_tokens": None}, {"prompt_tokens": "5"}, {"finish_reason": "eos"},
     {"cumulative_logprob": "x"}, {"more": 1}],
)  # fmt: skip
def test_a_kept_reply_that_is_no_completion_is_asked_again(tmp_path: Path, change: dict[str, Any]) -> None:
    journal = AnswerJournal(tmp_path / "arrived.jsonl")
    journal.add("good", GOOD)
    journal.add("long", TOO_LONG)
    with (tmp_path / "arrived.jsonl").open("ab") as lines:
        lines.write(b"\n" + orjson.dumps(["bad", asdict(GOOD) | change]) + b'\n"bad"\n["bad", null]\n["bad", {"te')
    assert journal.read() == {"good": GOOD, "long": TOO_LONG}

"""Words with which a writer does not commit to an answer: the vocabulary, and what it makes of a sentence.

There are two strengths. A *doubt* is the writer's own ("I guess", "not sure", "perhaps"): wherever it stands in a sentence, the sentence
claims nothing. A *hedge* is a doubt or a weak claim ("it might be 5", "either A"), which leaves only its own clause open: "it might rain,
but the answer is 5" commits. `statements.py` looks for doubts before a statement and for hedges in it, `booleans.py` for words beside a
verdict. Our choices.
"""

from __future__ import annotations

import re
from typing import Final

ADVERB: Final = "(?:maybe|perhaps|possibly|probably|presumably|supposedly|tentatively|plausibly)"
ADJECTIVE: Final = "(?:possible|plausible|probable|tentative)"
MODAL: Final = r"(?:might|could|(?-i:may))"
"""May with a capital is a month."""
GUESS: Final = "(?:guess|suspect|speculate|lean|estimate|bet|imagine|reckon|suppose)"
SEEM: Final = "(?:seem|appear|look|sound)s?"
I_GUESS: Final = (
    r"\b(?:I|we)(?:'d| would| will|'ll| can only| could only| have to| must| can| could)?\s+(?:\w+ly\s+)?" + rf"{GUESS}\b"
)
NOT_SURE: Final = (
    r"(?:(?:\bnot|n't|\bnever|\bhardly) (?:\w+ |100 ?% )?(?:sure|certain|confident)\b|\b\d+ ?% (?:sure|certain|confident)\b"
    r"|\bun(?:sure|certain)\b|\bno idea\b|(?<!\bnot )\b(?:hard|difficult|impossible) to (?:say|tell|know)\b"
    r"|\b(?:I|we) (?:(?:do|did|can|could)(?: not|n't)|cannot) (?:\w+ )?(?:know|decide|tell|say)\b)"
)
DENIES: Final = r"\b(?:false|untrue|wrong|incorrect|not true|not the case|deny|denies|doubt|doubtful)(?: to say)? that\b"
"""What follows does not hold."""
VALUE: Final = r"[(\[\"'$-]*(?:\d|(?-i:[A-Z])\b)"
"""The beginning of a number, or a letter that names an option."""
_VERDICT: Final = r"(?:yes|no|true|false)\b"
_PARTICIPLE: Final = r"(?:\w+ly )?(?!red\b|hundred\b)\w+(?:ed|en|wn|ld|ade|ought|ut)\b"
_NOUN: Final = "(?:answer|option|choice|candidate|value|result)"

DOUBT: Final = "|".join(
    (
        rf"\b{ADVERB}\b",
        I_GUESS,
        r"\b(?:my|a|an|best|educated|wild|rough|only|just)(?: \w+)? guess\b|\bguessing\b|^\W*guess\b|\bguess\s*[:=]|\bhunch\b",
        r"\bif (?:I|we) (?:had|have) to\b|\binclined to\b|\bhesitat(?:e|es|ing)\b",
        NOT_SURE,
        r"\b(?:I'm|I am|we are|we're|I remain|still|it's|it is|is|quite|very) un(?:decided|clear)\b",
        r"\btorn between\b|\btoss-?\s?up\b|\bon the fence\b|\bleaning\b|\bcould go either way\b",
    )
)
"""Pattern of what says, anywhere in a sentence, that its writer is not sure."""
HEDGE: Final = re.compile(
    "|".join(
        (
            DOUBT,
            rf"\b{MODAL}\s+(?:\w+\s+)?(?:equal|be)\b(?! {_PARTICIPLE})",
            rf"\b(?:most |very |more |quite )?likely(?= (?:{_NOUN}|is|just|the|an?)\b| {VALUE}| {_VERDICT})",
            rf"\b{ADJECTIVE} {_NOUN}\b",
            r"\b(?:not|never|hardly) (?:\w+ )?(?:know|decide|tell|say)\b",
            r"\b(?:it's|is) between (?=\(?(?-i:[A-Z])\b)",
            rf"\b{SEEM}\s+(?:to be|like|that|as if|(?:\w+ )?(?:likely|plausible|possible|reasonable|right|correct))\b",
            rf"\beither (?:(?:option|choice|answer|letter|about|around) )?(?:{VALUE}|{_VERDICT})",
        )
    ),
    re.IGNORECASE,
)
"""Words with which nobody commits to an answer."""

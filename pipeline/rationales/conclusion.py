r"""Separates a rationale's reasoning from its closing answer statement.

Teachers end in many ways: "Therefore, the final answer is:" above a displayed box, "**Final Answer:** 12", "so $x = \boxed{12}$.", followed
by "I hope this helps". The student must learn one ending. The answer statement is therefore cut off where the grader finds the answer
(`grading/reading.py`), together with the lead-in words that would then precede nothing. A box inside a sentence is unwrapped and the
sentence is kept, because it is the last step. Our choices.
"""

from __future__ import annotations

import re
from typing import Final

from pipeline.grading.grade import conclusion
from pipeline.grading.wording.statements import announced, last_boxes
from pipeline.grading.wording.thoughts import END, without_open_thought

_REACH: Final = 200
"""Characters before an answer that are searched for its lead-in."""
_COURTESY: Final = re.compile(
    r"\b(?:(?:I )?hope (?:this|that|it)\b|(?:please )?let me know\b|(?:please )?feel free\b|is there anything else\b"
    r"|if you have any (?:other |further |more )?questions\b)[^\n.!?]*[.!?]*\Z",
    re.IGNORECASE,
)
_LEAD: Final = re.compile(
    r"(?:(?<![^\n.!?,;:)\]$])|(?<=\s)(?=(?-i:The)\s)|(?<=\s)(?=(?:and\s+)?(?:so|thus|hence|therefore)\b))\s*(?:(?<!\S)[*_#>`<-]+\s*)*"
    r"(?:(?:and|so|thus|hence|therefore|then|finally|consequently|overall|in (?:conclusion|summary)|to conclude|it follows that"
    r"|(?:this|which) means(?: that)?|we (?:conclude|find|see|get)(?: that)?)\b[\s,:*]*)*"
    r"(?:(?:the|our|my|your)\s+)?(?:(?:final|correct|right|best|true|actual|only|overall|desired|required|numerical)\s+)*[\s*_]*\Z",
    re.IGNORECASE,
)
"""Words that may precede "answer is" in its clause without adding content."""
_OPENERS: Final = re.compile(r"(?:[\s$*_`]|\\[\[(]|<answer>)*\Z")
_CLOSERS: Final = re.compile(r"(?:[\s$*_`.!]|\\[\])]|</answer>)*\Z")
_OPENED: Final = re.compile(r"\$|\\[\[(]")
_CLOSED: Final = re.compile(r"\$|\\[\])]")
_SENTENCE_GOES_ON: Final = re.compile(r"(?:(?![.!?]\s)[^\n])*\Z")
_CONNECTIVE: Final = re.compile(r"[\s,]*(?<!\w)(?:and\s+)?(?:so|then|thus|hence|therefore|finally)\b[\s,]*\Z", re.IGNORECASE)
_DANGLES: Final = re.compile(r"(?::|=|\b(?:is|are|be|equals?|get|gives?|obtain))[\s*_]*\Z", re.IGNORECASE)
_HEADING: Final = re.compile(
    r"(?:\A|\n)[ \t]*(?:#{1,6}\s[^\n]*|\*\*[^*\n]*(?:\b(?:answer|conclusion|solution|result|summary)\W*?|:)\*\*:?|[-*_]{3,})\Z",
    re.IGNORECASE,
)
_REASON: Final = re.compile(r"(\W*)(?:since|because|as)\s+(\w)", re.IGNORECASE)
_SUBORDINATE: Final = re.compile(
    r"\W*(?:if|when|given|while|although|though|after|before|once|for|with|by|based)\b", re.IGNORECASE
)
_BARE_STATEMENT: Final = re.compile(
    r"(?:\A|(?<=[.!?\n])\s*|\n)[\s*_#]*(?:so,?\s+|therefore,?\s+)?(?:the\s+)?(?:(?:final|correct)\s+)?(?:answer|ans|option|choice)\W{0,3}\s*\(?[A-Za-z]\)?[\s*_.]*\Z",
    re.IGNORECASE,
)
"""A last line such as "Answer D", which announces the answer without a verb."""
_UNPUNCTUATED: Final = re.compile(r"(?:\w|(?<!\\)[)\]}]|[%\"'€$°²³*_`])\Z")
_NO_SENTENCE: Final = re.compile(r"(?:\$\$|`{3}|\\end\{\w+\*?\}|\|)\Z")
_DISPLAY: Final = re.compile(r"\\\\|\\begin\{|\\end\{|\\[\[\]]|\$\$")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;])\s+|\n+")


def _announcement(text: str) -> int | None:
    """Start of the final clause that announces the answer; None if the text does not end in one."""
    spans = sorted(set(announced(text)))
    if not spans:
        return None
    start, end = spans[-1]
    boxes = last_boxes(text)
    if boxes and boxes[0].start >= end and _OPENERS.fullmatch(text, end, boxes[0].start):
        end = boxes[-1].end  # the content of a box may span several lines
    rest = text[end:]
    closed = _CLOSERS.search(rest, max(0, len(rest) - _REACH))
    lead = _LEAD.search(text, max(0, start - _REACH), start)
    said = rest[: closed.start()] if closed else rest
    return lead.start() if lead and _SENTENCE_GOES_ON.match(said) else None


def _without_box(text: str) -> str:
    """The text without its last box: cut before a standalone box at the end; otherwise the box is replaced by its content."""
    boxes = last_boxes(text)
    if not boxes:
        return text
    start, end = boxes[0].start, boxes[-1].end
    opener = _OPENERS.search(text, max(0, start - _REACH), start)
    before = opener.start() if opener else start
    alone = before == 0 or text[before - 1] in ".!?:" or any(sign in text[before:start] for sign in ("\n", "\\[", "$$"))
    balanced = bool(_OPENED.search(text, before, start)) == bool(_CLOSED.search(text, end))
    if alone and balanced and _CLOSERS.fullmatch(text, end):
        return text[:before]
    last = boxes[-1]
    return text[: last.start] + last.content + text[last.end :]


def _without_last_sentence(text: str) -> str:
    return text[: len(text) - len(_SENTENCE_END.split(text)[-1])].rstrip()


def _settled(text: str) -> str:
    """Removes a trailing heading, lead-in or connective that no longer introduces anything."""
    text = _HEADING.sub("", text).rstrip()
    text = _CONNECTIVE.sub("", text).rstrip()
    if text.endswith(","):
        sentence = _SENTENCE_END.split(text)[-1]
        if _SUBORDINATE.match(sentence):
            return _without_last_sentence(text)
        kept = text[: len(text) - len(sentence)] + _REASON.sub(lambda found: found[1] + found[2].upper(), sentence, count=1)
        return f"{kept[:-1].rstrip()}."
    return _without_last_sentence(text) if _DANGLES.search(text, max(0, len(text) - _REACH)) else text


def _shorter(text: str) -> str:
    text = _BARE_STATEMENT.sub("", _COURTESY.sub("", text).rstrip()).rstrip()
    cut = _announcement(text)
    return _settled((_without_box(text) if cut is None else text[:cut]).rstrip())


def without_answer_statement(text: str) -> str:
    """A rationale without its closing answer statement. Thoughts, if kept, are not changed, but one that never ends is left out."""
    thoughts, mark, said = without_open_thought(text).strip().rpartition(END)
    while (shorter := _shorter(said)) != said:
        said = shorter
    return (thoughts + mark + said).rstrip()


def with_answer_sentence(text: str, answer: str) -> str | None:
    """`text` ending in the answer sentence for the canonical `answer`; None if no reasoning remains before it.

    Reasoning that ends without a punctuation mark gets a full stop, so that it does not run into the answer sentence.
    """
    reasoning = without_answer_statement(text)
    if _UNPUNCTUATED.search(reasoning) and not _NO_SENTENCE.search(reasoning):
        reasoning += "."
    return f"{reasoning} {conclusion(answer)}" if reasoning else None


def _closed(text: str) -> str:
    """The text before the first unclosed display-math environment."""
    opened: list[int] = []
    for sign in _DISPLAY.finditer(text):
        closes = sign[0] in ("\\end{", "\\]") or (sign[0] == "$$" and opened and text.startswith("$$", opened[-1]))
        if closes and opened:
            opened.pop()
        elif not closes and sign[0] != "\\\\":
            opened.append(sign.start())
    return text[: opened[0]].rstrip() if opened else text


def before_conclusion(rationale: str) -> str:
    """A concluded rationale without the last sentence of its reasoning, which usually states the answer."""
    reasoning, separator, sentence = rationale.rpartition(" The answer is ")
    kept = _settled(_closed(_without_last_sentence(reasoning)))
    return f"{kept}{separator}{sentence}" if kept else f"{separator}{sentence}".strip()

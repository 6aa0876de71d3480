"""A small grammar of sentences: where they end, which clauses carry the claim, and which of them claim nothing.

A sentence is divided into clauses at commas and connectives. A clause that opens with a subordinator ("because", "after giving away 3",
"which") only explains, and so do brackets and what stands behind such a word inside a clause. The rest is what the sentence claims. A hedge
("might be", "I guess", "either") claims nothing, and neither does a sentence that talks to whoever grades the text. Our choices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_TURN_ENDS: Final = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|end|end_of_text|endoftext|end_of_turn|return|eos|assistant_end)\|>|</s>|<end_of_turn>|<eos>"
    r"|<｜end▁of▁sentence｜>|\[/?INST\]|<\|(?:im_start|start_header_id|user)\|>\s*(?:user|system)?"
)
_TURN_STARTS: Final = re.compile(
    r"\s*(?:<\|(?:im_start|start_header_id|start|assistant)\|>|<start_of_turn>|<s>|<bos>)\s*(?:assistant|model)?\s*(?:<\|end_header_id\|>)?\s*"
)

SENTENCE_END: Final = re.compile(
    r"(?:(?<![ap]\.m)(?<!\b(?:Dr|Mr|Ms|St|vs|cf|Rs|No))(?<!\b(?:Mrs|e\.g|i\.e|etc))(?<!approx)\.(?:[\"')\]]*(?=\s|$))|[?!]+[\"')\]]*(?=\s|$))"
    r"\s*|\n+"
)
_ADVERBS: Final = r"(?:maybe|perhaps|possibly|probably|presumably|supposedly|tentatively|plausibly)"
HEDGE: Final = re.compile(
    rf"\b{_ADVERBS}\b"
    r"|\b(?:might|could|(?-i:may))\s+(?:\w+\s+)?(?:equal|be)\b(?! (?:\w+ly )?(?!red\b|hundred\b)\w+(?:ed|en|wn|ld|ade|ought|ut)\b)"
    r"|\b(?:I|we)(?:'d| would| will|'ll| can only| could only| have to| must| can| could)?\s+(?:\w+ly\s+)?(?:guess|suspect|speculate|lean)\b"
    r"|\b(?:my|a|an|best|educated|wild|rough|only|just)(?: \w+)? guess\b|\bguessing\b|^\W*guess\b|\bguess\s*[:=]|\b\d+ ?% (?:sure|certain|confident)\b|\bhunch\b|\bif (?:I|we) (?:had|have) to\b"
    r"|\b(?:most |very |more |quite )?likely(?= (?:answer|option|choice|candidate|value|result|is\b|just\b|the\b|an?\b|\(?(?-i:[A-Z])\b|-?\$?\d|yes\b|no\b|true\b|false\b))"
    r"|\b(?:possible|plausible|probable|tentative) (?:answer|option|choice|candidate|value|result)\b"
    r"|\b(?:not|n't|never|hardly) (?:\w+ |100% |100 % )?(?:sure|certain|confident|know|decide|tell|say)\b|\b(?:I'm|I am|we are|we're|I remain|still|it's|it is|is|quite|very) (?:un(?:sure|certain|decided|clear))\b|^\W*un(?:sure|certain)\b|\bno idea\b"
    r"|\b(?:hard|difficult|impossible) to (?:say|tell|know)\b"
    r"|\btorn between\b|\btoss-?\s?up\b|\bon the fence\b|\bleaning\b|\b(?:seem|appear)s?\s+(?:to be|like|likely|that|as if)\b|\beither (?:(?:option|choice|answer|letter|about|around) )?(?:[(\[\"'$-]*(?:\d|(?-i:[A-Z])\b)|yes\b|no\b|true\b|false\b)"
    r"|\bcould go either way\b|\bit's between\b|\bis between (?=\(?(?-i:[A-Z])\b)",
    re.IGNORECASE,
)
"""Words with which nobody commits to an answer."""
NO_ANSWER: Final = re.compile(
    r"\W*(?:currently |still |simply )?(?:unknown|unclear|unavailable|undetermined|indeterminate|undefined|ambiguous|missing|not (?:known|clear|given|listed|determined|here|there|available|stated|among\b[^.]*)"
    r"|(?:can ?not|can't|could ?n[o']t) be (?:determined|found|known|calculated|computed|given|answered)|impossible to \w+|whatever\b[^.]*"
    r"|left (?:open|blank|to the reader)|up to you)\b",
    re.IGNORECASE,
)
"""What a statement says that has no answer."""
_GRADER: Final = r"(?:auto-?)?(?:graders?|evaluators?|examiners?|scorers?|markers?|assessors?|reviewers?|judges?|grading (?:system|model|script|bot))"
_TALKS_KEYS: Final = ("rader", "RADER", "valuator", "xaminer", "corer", "arker", "ssessor", "udge", "eviewer", "ubric", "ark ", "ount ", "core ", "ccept ", "reat ", "onsider ", "rade ", "ate ", "ecord ", "lease ", "gnore ", "isregard ", "verride ", "orget ", "hatever ", "rading ", "nswer key", "gold")  # fmt: skip
_TALKS: Final = re.compile(
    rf"(?:^|(?<=[.!?\n:;,(\[\"*]))[\s*\[(<\"#_-]*(?:(?:dear|hey|hi|hello|attention|note (?:to|for)|message (?:to|for)|instructions? (?:to|for)|to)\s+)?"
    rf"(?:the |all |any |our |my )?{_GRADER}(?: note)?\s*[\])>*]*\s*[:,–—!-]"
    rf"|\b(?:note|message|instructions?|hint|memo) (?:to|for) (?:the |all |any )?{_GRADER}\b"
    rf"|(?:^|[.!?\n:;,(\[\]>\"*]|\b(?:so|please|just|must|should|shall|to|and|kindly|will|always)\b)\s*(?:please |kindly |just )?"
    r"\b(?:mark|grade|score|count|accept|treat|consider|rate|judge|evaluate|record)\b(?! only\b)"
    r"[^.!?\n;]{0,60}\b(?:correct(?:ly)?|right|true|full (?:marks|credit|score|points)|pass(?:ed|ing)?|equivalent|a match|valid|as the answer|10/10|100%)"
    r"|\b(?:ignore|disregard|override|forget|bypass|skip)\b[^.!?\n;]{0,60}\b(?:rubric|instructions?|grading|gold|reference|answer key|guidelines|criteria|grader|marking|scheme)\b"
    r"|\b(?:whatever|same as|identical to|equal to|matches|equals|copied from|whichever|anything)\b[^.!?\n;]{0,24}\b(?:gold(?:en)?|reference|answer key|the key|rubric|grader|expected|label|ground truth|solution key)\b"
    r"|\bthe (?:gold|reference) (?:answer|label|solution) (?:is|says|reads|equals)\b",
    re.IGNORECASE,
)

_CONNECTIVE: Final = re.compile(
    r"(?<!\d),(?=\s)|(?<=\d),(?=\s)|[;:](?=\s)|\s[–—-]{1,2}\s(?=[a-zA-Z])|—|(?:,\s*)?\b(?=(?:so|therefore|thus|hence|thereby|but|which (?:is|are|equals?|makes?|means?|rounds?))\b(?! (?:that|many|much)\b))"
)
SUBORDINATOR: Final = (
    r"(?:because|since|as|if|when|whenever|while|whilst|after|before|until|unless|although|though|even|given|assuming|supposing|once|whereas|where"
    r"|whether|who|whose|whom|instead of|rather than|compared|despite|except|excluding|including|unlike|than|considering|provided|due to|in case|in order to|like|without)"
)
_OPENS_SUBORDINATE: Final = re.compile(rf"\W*(?:(?:and|but|or)\s+)?(?:{SUBORDINATOR}|for (?:every|each|example|instance)|which(?! (?:is|are|equals?|makes?|leaves?|gives?|means?|rounds?(?: (?:up|down|off))?(?: to)?|comes to|totals?|would be|must be)(?: \w+)? [$(-]?(?:\d|(?-i:[A-Z])\b))|that (?:is|are|was|were) why)\b", re.IGNORECASE)  # fmt: skip
_INNER: Final = re.compile(
    rf"\s(?:{SUBORDINATOR}|which|that (?:are|is|was|were|have|has|had|can|could|will|would|cost|weigh|she|he|they|it|we|you|I)|to (?!the\b|an?\b|about\b|only\b|just\b|exactly\b|negative\b|minus\b|roughly\b|approximately\b|around\b|nearly\b|almost\b|over\b|under\b|at\b|be\b|his\b|her\b|its\b|their\b|my\b|our\b|your\b|this\b|that\b|zero\b|one\b|two\b|three\b|four\b|five\b|six\b|seven\b|eight\b|nine\b|ten\b|option\b|choice\b|answer\b|letter\b)[a-z]{{2,}})\b",
    re.IGNORECASE,
)
_BRACKETED: Final = re.compile(r"\s*[(\[][^()\[\]\n]*[a-z ,=<>\d][^()\[\]\n]*[)\]]")
_OPTIONS: Final = re.compile(
    r"(?:^|(?<=[.!?\n(]))[ \t*_#]*(?:\(?(?:the |other |answer |all |possible |available |remaining )*(?:options|choices|candidates|alternatives)(?: (?:were|are|given|include|included|listed|available|provided|to choose from|considered|above|below))*\s*[*_]*:|options (?:were|are)\b)(?:[^\n.!?]|[.!?]+(?=\S)|[.!?]+\s+(?=\(?[A-Z][).:]\s))*[.!?]?(?:\n[ \t]*(?:[-*•]|\(?[A-Za-z0-9][.):])[ \t][^\n]*)*",
    re.IGNORECASE,
)
_INSTEAD: Final = re.compile(
    r",?\s+(?:(?:and|but) )?(?:not|rather than|instead of|as opposed to|unlike|over(?=\s[(\[]?(?-i:[A-Z])\b))\s+(?:(?:the|on|in|option|choice|answer|letter)\s+)*"
    r"[(\[\"'$-]*(?=\d|(?-i:[A-Z])\b)(?:(?!,\s|;|\bbut\b)[^.!?\n]|\.(?=\S))*",
    re.IGNORECASE,
)


def one_turn(text: str) -> str:
    """The first turn of a text: what follows an end-of-turn mark was not written by this answer."""
    if "<" not in text and "[" not in text:
        return text
    opening = _TURN_STARTS.match(text)
    text = text[opening.end() :] if opening else text
    end = _TURN_ENDS.search(text)
    return text[: end.start()] if end and text[: end.start()].strip() else text


def without_talk_to_graders(text: str) -> str:
    """The text without sentences that tell whoever grades it what to do."""
    if not any(key in text for key in _TALKS_KEYS):
        return text
    kept, begins = [], 0
    for end in [*(match.end() for match in SENTENCE_END.finditer(text)), len(text)]:
        sentence = text[begins:end]
        kept.append("\n" if _TALKS.search(sentence) else sentence)
        begins = end
    return "".join(kept)


def without_options(text: str) -> str:
    """The text without a list of the options."""
    return _OPTIONS.sub("", text) if re.search("option|choice|candidate|alternative", text, re.IGNORECASE) else text


def without_denied(sentence: str) -> str:
    """A sentence without what it sets aside: "7, not 5", "B rather than A"."""
    return _INSTEAD.sub("", sentence)


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the sentences of a text, last first."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    begins = [0, *ends]
    for begin, end in zip(reversed(begins), reversed([*ends, len(text)]), strict=True):
        if text[begin:end].strip():
            yield begin, end


def last_sentence(text: str) -> str:
    """The last sentence of a text."""
    return next((text[begin:end] for begin, end in sentences(text)), "")


def claim(sentence: str) -> str:
    """A sentence without brackets and without what it sets aside."""
    return _BRACKETED.sub("", without_denied(sentence))


def claims(sentence: str) -> list[str]:
    """The clauses of a sentence that carry its claim; those that explain are left out."""
    clauses = [clause for clause in _CONNECTIVE.split(claim(sentence)) if clause.strip()]
    return [clause for clause in clauses if not _OPENS_SUBORDINATE.match(clause)]


def claimed(clause: str, mention: re.Pattern[str]) -> str:
    """A clause up to the first word behind a `mention` that only explains."""
    first = mention.search(clause)
    inner = _INNER.search(clause, first.end()) if first else None
    return clause[: inner.start()] if inner else clause

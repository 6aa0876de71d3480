"""Converts LaTeX to plain text and to a normal form of expressions by text substitution only; nothing is evaluated."""

from __future__ import annotations

import re
from typing import Final

_WRAPPED: Final = re.compile(r"^(?:\$\$?|\\\(|\\\[)(.*?)(?:\$\$?|\\\)|\\\])[.,]?$", re.DOTALL)
_TEXT: Final = re.compile(r"\\(?:text|textbf|textrm|textit|texttt|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
_SIZES: Final = re.compile(r"\\(?:left|right|displaystyle|textstyle|[bB]ig[lr]?|bigg[lr]?)(?![a-zA-Z])\s*|(?<!\\)\\!")
_SPACE: Final = re.compile(r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|~|\s+")
_GROUPS: Final = re.compile(r"(?<=\d)(?:\\[,;: ]|\\!|~)(?=\d{3}(?!\d))|(?<=\d)\{,\}(?=\d)|(?<=\d,)\\!(?=\d)")
_FRACTION: Final = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_POWER_OF_TEN: Final = re.compile(
    r"(?<=[\d.])\s*(?:\\times|\\cdot|×|·|\*|x)\s*10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d{1,3})\s*\}|([-+]?\d{1,3}))(?![\d^])"
)
_SYMBOLS: Final = {
    "π": r"\pi ", "∞": r"\infty ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ", "θ": r"\theta ",
}  # fmt: skip
_PUNCTUATION: Final = re.compile(r"(?<![\\.,;: ])[.,;: ]+$|^[.,;: ]+$")
_SEPARATOR: Final = "\x1f"
GROUPED_BY_COMMAS: Final = r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3})"
"""1,000,000 and 10,00,000."""
_GROUPED: Final = re.compile(rf"{GROUPED_BY_COMMAS}(?!\d|,\d)")
_ROOT: Final = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[a-z]))")


def _ratio(match: re.Match[str]) -> str:
    ratio = f"{(match[1] or match[2] or '').strip()}/{(match[3] or match[4] or '').strip()}"
    return f" {ratio}" if match.string[: match.start()].rstrip()[-1:].isdigit() else ratio


def strip_latex(text: str) -> str:
    r"""Plain text of simple LaTeX: fractions as a/b, powers of ten as 1e3, \text unwrapped, no spacing, no delimiters.

    More complex LaTeX (roots, powers, symbols) keeps its backslash, so that it is not mistaken for a number.
    """
    if "$" in text and (inner := _WRAPPED.match(text.strip())):
        text = inner[1]
    if "10" in text:
        text = _POWER_OF_TEN.sub(lambda power: f"e{power[1] or power[2]}", text)
    if "\\" not in text and "{,}" not in text:
        return text
    text = _SIZES.sub("", _GROUPS.sub("", text.replace("{,}", ","))).replace("\\%", "%").replace("\\$", "$")
    text = text.replace("\\approx", "≈")
    text = _TEXT.sub(r" \1", re.sub(r"\\[()\[\]]", "", text))
    return re.sub(r"(?:(?<!\\)\\[,;: ]|\\q?quad\b|~| )+", " ", _FRACTION.sub(_ratio, text)).strip()


def normal(text: str) -> str:
    r"""One spelling of an expression: no delimiters, sizes or unnecessary spaces; \frac with braces; a lone \text unwrapped."""
    text = _PUNCTUATION.sub("", text.strip())
    if inner := _WRAPPED.match(text):
        text = inner[1]
    text = _ROOT.sub(lambda root: rf"\sqrt{{{root[1] or root[2]}}}", text)
    for symbol, command in _SYMBOLS.items():
        text = text.replace(symbol, command)
    text = _SIZES.sub("", _GROUPS.sub("", text)).replace("\\%", "%").replace("\\$", "").replace("$", "")
    text = re.sub(r"\\(?:textbf|textrm|textit|mathrm|mathbf|mbox)(?=\s*\{)", r"\\text", re.sub(r"\\[dtc]frac", r"\\frac", text))
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = _PUNCTUATION.sub("", _SPACE.sub(" ", text).strip())
    if (words := _TEXT.fullmatch(text)) is not None:
        text = words[1].strip().rstrip(".")
    return re.sub(r"(?<!\w) | (?!\w)", "", _separated(text)).replace(_SEPARATOR, ", ")


def _separated(text: str) -> str:
    """The text with a mark for every comma between the items of a list: outside brackets, and not between the digits of a number."""
    if "," not in text:
        return text
    pieces, depth, begin = [], 0, 0
    for place, sign in enumerate(text):
        if sign == "," and depth == 0 and not _inside_number(text, place):
            pieces.append(text[begin:place].strip())
            begin = place + 1
        depth += (sign in "([{") - (sign in ")]}")
    return _SEPARATOR.join([*pieces, text[begin:].strip()])


def _inside_number(text: str, place: int) -> bool:
    """Whether a comma separates groups of digits of one number, as in 12,144."""
    begin = place
    while begin and (text[begin - 1].isdigit() or text[begin - 1] == ","):
        begin -= 1
    match = _GROUPED.match(text, begin)
    return match is not None and match.end() > place


def unwrapped(text: str) -> str:
    r"""The text with the content of every \text and without spacing commands."""
    return _SPACE.sub(" ", _TEXT.sub(r" \1 ", text))


def balanced(text: str) -> bool:
    """Whether all unescaped braces are balanced."""
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0

"""Where in a trace its answer stands: two span finders on token ids, and an answer parser.

A trace is what a model wrote, as the ids it was decoded as. It is never tokenized again: `pieces` cuts its text at the
tokens, so that a place in the text is a place among the ids, whatever stands before the trace (a chat template, say).
A span is (start, stop) in tokens, or None. *authors*: the model is given a cue behind the trace ("So the answer is"),
and the span is the first longest block of tokens that the answer in its reply shares with the trace; it may lie in the
restated question, and a part of the answer is enough (van Niekerk et al. 2025, arXiv 2507.21931, released code).
*strict*: the last number of a finished trace, or the letter behind its last cue.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import accumulate
from typing import Literal

Kind = Literal["number", "choice"]
Span = tuple[int, int]
FINDERS = ("authors", "strict")

# A minus sign counts where nothing is subtracted from; groups of three digits, or any number of digits.
NUMBER = re.compile(r"(?<![\w.])(?:(?<![)\]%])[-−])?\$?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)")
# The released code's: a bare number of four or more digits gives no match, a minus sign is lost.
AUTHORS_NUMBER = re.compile(r"\b\d{1,3}(?:,\d{3})*(?:\.\d+)?\b")
_LETTER = re.compile(r"(?<![\w'])([A-E])(?![\w'])")
_CUED_LETTER = re.compile(r"(?i:answer is)[^\w\n]{0,6}(?i:(?:option|choice)\s+)?[^\w\n]{0,4}([A-E])(?![\w'])")


def pieces(tokenizer, ids: Sequence[int]) -> list[str]:
    """The text that each token adds, special tokens as they are written; together they are the text of `ids`."""
    decode = _decoder(tokenizer)
    return [decode(before, token) for before, token in zip([None, *ids], ids)]


@lru_cache(maxsize=8)
def _decoder(tokenizer):
    def text(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    @lru_cache(maxsize=1 << 16)
    def added(before: int | None, token: int) -> str:
        # Some tokenizers drop the space of a first token, so a token is read behind its neighbour.
        return text([token]) if before is None else text([before, token])[len(text([before])) :]

    return added


def numbers(text: str, pattern: re.Pattern = NUMBER) -> list[str]:
    """The numbers of a text, in one form: no sign of a currency, no commas, no trailing zeros.

    Examples
    --------
    >>> numbers("From 1,080 or 70000 take $3.50: -5, then 10-5.")
    ['1080', '70000', '3.5', '-5', '10', '5']
    >>> numbers("1080 and 70000", AUTHORS_NUMBER), numbers("-5", AUTHORS_NUMBER)
    ([], ['5'])
    """
    return [plain(match[0]) for match in pattern.finditer(text)]


def plain(number: str) -> str:
    """A number in one form.

    >>> plain("1,080.00"), plain("-0"), plain("−$2.50")
    ('1080', '0', '-2.5')
    """
    value = Decimal(number.replace(",", "").replace("$", "").replace("−", "-"))
    return format(value.normalize() if value else Decimal(0), "f")


def stated(text: str, kind: Kind) -> re.Match | None:
    """The answer in a reply to a cue: its first number, or its first letter standing alone.

    Examples
    --------
    >>> stated(" $1,080. Let me check: 12", "number")[0], stated(" (B) a river", "choice")[1]
    ('$1,080', 'B')
    """
    return NUMBER.search(text) if kind == "number" else _LETTER.search(text)


def given(text: str, kind: Kind) -> re.Match | None:
    """The answer in a trace: its last number, or the letter behind its last cue.

    Examples
    --------
    >>> given("4 + 3 = 7. So the answer is 7. Done", "number")[0]
    '7'
    >>> given("A or B? So the answer is (B).", "choice")[1], given("A is right", "choice")
    ('B', None)
    """
    found = list((NUMBER if kind == "number" else _CUED_LETTER).finditer(text))
    return found[-1] if found else None


def read(match: re.Match | None, kind: Kind) -> str:
    """An answer in one form; "" without one."""
    if match is None:
        return ""
    return plain(match[0]) if kind == "number" else match[1].upper()


def tokens_at(parts: Sequence[str], low: int, high: int) -> Span:
    """The tokens that hold the characters from `low` to before `high` of the joined `parts`.

    >>> tokens_at(["is", " 1", "2", "."], 3, 5)
    (1, 3)
    """
    ends = list(accumulate(map(len, parts)))
    start = next(i for i, end in enumerate(ends) if end > low)
    return start, next(i for i, end in enumerate(ends) if end >= high) + 1


def _place(match: re.Match, kind: Kind) -> tuple[int, int]:
    return match.span(0 if kind == "number" else 1)


def authors(
    trace: Sequence[int], reply: Sequence[int], reply_parts: Sequence[str], kind: Kind
) -> tuple[str, Span | None]:
    """The answer in the reply to the cue, and the first longest block of its tokens in the trace.

    Examples
    --------
    The question is restated, and holds the answer's digit:

    >>> trace = [40, 7, 41, 42, 7, 43]
    >>> authors(trace, [7, 43], [" 7", "."], "number")
    ('7', (1, 2))
    """
    match = stated("".join(reply_parts), kind)
    if match is None:
        return "", None
    start, stop = tokens_at(reply_parts, *_place(match, kind))
    block = SequenceMatcher(None, list(trace), list(reply[start:stop]), autojunk=False).find_longest_match()
    return read(match, kind), (block.a, block.a + block.size) if block.size else None


def strict(parts: Sequence[str], finished: bool, kind: Kind) -> tuple[str, Span | None]:
    """The answer that a trace itself gives, and its tokens; none in an unfinished trace, whose last number is a step.

    Examples
    --------
    >>> strict(["It", " is", " 1", "2", "."], True, "number"), strict(["It", " is", " 1", "2"], False, "number")
    (('12', (2, 4)), ('', None))
    """
    match = given("".join(parts), kind) if finished else None
    if match is None:
        return "", None
    return read(match, kind), tokens_at(parts, *_place(match, kind))

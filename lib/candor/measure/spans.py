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
from difflib import SequenceMatcher
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal

import numpy as np

from candor.measure.checks import FLAG, Choice, Is, Number, Sizes, takes

Kind = Literal["number", "choice"]
Span = tuple[int, int]
FINDERS = ("authors", "strict")

KIND = Choice(("number", "choice"))
TEXT = Is((str,))
PARTS = Is((str,), "tokens")
IDS = Is((int, np.integer), "tokens")
PLACE = Number(low=0, whole=True)

# --- How answers are written ------------------------------------------------------------------------

_SIGN = "[-−–﹣－]"
_GROUPED = "|".join(
    (
        r"\d{1,3}(?:\.\d{3})+,\d+(?!\d)",  # 1.000,5
        r"\d{1,3}(?:\.\d{3}){2,}(?![\d.])",  # 1.000.000
        r"\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])(?:\.\d+)?",  # 1,00,000
        r"\d{1,3}(?:(?:,|\{,\}|\\[,!]|[ \xa0\u2009\u202f'’])\d{3})+(?!\d)(?:\.\d+)?",  # 1,000; 1{,}000; 1 000
    )
)
_FRACTION = (
    r"(?:(\d+)\s*)?\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)(\d))"
    r"|(?<!/)(?:(\d+)\s+)?(\d+)\s*/\s*(\d+)(?!\s*/|\d)"
)
# A minus sign counts where nothing is subtracted from; a fraction or a mixed number is one number.
NUMBER = re.compile(
    rf"(?<![\w.])(?:(?<![)\]%}}]){_SIGN}(?=[\d.$\\€£]))?(?:\\?[$€£]\s?{_SIGN}?)?"
    rf"(?:{_FRACTION}|(?:{_GROUPED}|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{{1,2}}(?!\w))?)"
)
# The released code's: a bare number of four or more digits gives no match, a minus sign is lost.
AUTHORS_NUMBER = re.compile(r"\b\d{1,3}(?:,\d{3})*(?:\.\d+)?\b")

_SMALL = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_WORDS = {word: i for i, word in enumerate(f"{_SMALL} seventeen eighteen nineteen".split())}
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS |= {word: 10 * i for i, word in enumerate(_TENS.split(), 2)}
_FACTORS = {"hundred": 100, "thousand": 1000, "million": 10**6}
_WORD = f"(?:{'|'.join(sorted([*_WORDS, *_FACTORS], key=len, reverse=True))})"
_IN_WORDS = re.compile(rf"\b(?:(?:minus|negative)\s+)?{_WORD}(?:(?:-|\s+(?:and\s+)?){_WORD})*(?![\w-]|\s+of\b)", re.I)

# What may stand around an answer: blanks, layout, brackets.
_AROUND = r"(?:[\s*_`\"'“‘$:=>~≈(\[{]|[-–—]\s|\\[(\[]|\\(?:text|textbf|mathrm|mathbf|boxed|fbox)\s*\{)*+"
_SECOND = r"\W{0,4}(?:(?:or|and|vs)\W{1,4}|[/,&|]\W{0,4})(?:[A-H](?![\w'’])|[a-h](?=[).]|\W*\Z))"
_ONE = rf"(?![\w'’])(?!{_SECOND})"
_EXPLICIT = rf"[A-Ha-h](?=\s*[])}}*_`\"”$:;!?|\\\n,]|\.(?!\w)|\s*\Z){_ONE}"
_LETTER = rf"{_EXPLICIT}|[A-H]{_ONE}"
_NAME = rf"(?i:(?:option|choice|answer|letter)\b{_AROUND})?"
_REFUSED = "because|since|as|not|neither|either|but|though|although|if|no|none"
_BETWEEN = rf"(?:(?!(?i:{_REFUSED})\b)(?:[^\W\d_]{{2,}}|I|a)[,:]?(?=\s){_AROUND})"
_BEHIND_CUE = re.compile(rf"{_AROUND}(?:{_BETWEEN}){{0,4}}?({_LETTER})")
# A capital A in front of a word may be an article: it is a label before a bracket or a point only.
LABEL = re.compile(rf"{_AROUND}{_NAME}({_EXPLICIT}|[B-H]{_ONE}|A(?=\s+(?:because|since|as|is)\b))")
_ALONE = re.compile(rf"{_AROUND}{_NAME}({_LETTER})\W*")
_NAMED = re.compile(
    r"\b([A-H])(?![\w'’])\W{0,3}\s+is\s+(?:the\s+)?(?:answer|(?:correct|right|best)\s+(?:answer|option|choice))"
)
CUE = re.compile(
    r"(?i:(?:\b(?:answer|solution)\b|\b(?:correct|right|best|final|my|chosen|selected)\s+(?:option|choice|result)\b)"
    r"(?:[^.\n:=]{0,40}?(?:[:=→]|\s[-–—]\s|\b(?:is|are|was|be|equals)\b)|\W{0,4}\n|(?=\s*\([a-h]\)))"
    r"|####|\bI\s+(?:would\s+)?(?:choose|pick|select|go\s+with)\b)(?!\s+not\b)"
)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\[{}]|[{}]")
_FORMULA = re.compile(r"[\d^_+*/√π]|\\(?!text|math|left|right|quad|circ|[,;!%$ ])")  # beside a number: it is not all
_BEFORE = re.compile(r"[\s$(]*(?:[A-Za-z]\s*(?:=|\\approx)\s*)?(?:(?:about|approximately|exactly|roughly|only)\s+)?")
_BEHIND = re.compile(
    r"(?:\s|\\?[%°$€£]|\\text\{[^{}]*\}|\^?\{?\\circ\}?|\\[,! ])*+"
    r"(?:(?!(?:pi|sqrt|log|ln|sin|cos|tan|exp|mod|or|and|to)\b)[^\W\d_]{2}[^\d=+*/^\\<>()]*)?"
    r"(?:\([^\W\d_]{2}[^()]*\))?[\s.$)]*"
)
_LAYOUT = re.compile(r"[\s*_`:>]*")
_MATHS = re.compile(r"\$\$?([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
END = re.compile(r"[.!?;](?=\s|\Z)|\n|\s\((?=[^\W\d_]{2})|,?\s(?:because|since|so|which|where|as)\b")


def _tokenizer(value: Any, name: str, sizes: Sizes) -> Any:
    """Rule: whatever decodes, other than bytes."""
    if not callable(getattr(value, "decode", None)) or isinstance(value, bytes):
        raise ValueError(f"{name} must be a tokenizer, but is a {type(value).__name__}.")
    return value


@takes(tokenizer=_tokenizer, ids=IDS)
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


@takes(text=TEXT)
def counted(text: str) -> tuple[int, int]:
    """The part of a text that can hold an answer: behind the thinking, in the last pair of answer tags if there is one.

    An unfinished thinking holds none.

    >>> text = "<think>2?</think> <answer> 3 </answer> <confidence> 1 </confidence>"
    >>> text[slice(*counted(text))], counted("<think> 2")
    (' 3 ', (0, 0))
    """
    thought = text.rfind("</think>")
    if thought < 0 and "<think>" in text:
        return 0, 0
    start = thought + len("</think>") if thought >= 0 else 0
    end = text.rfind("</answer>", start)
    begin = text.rfind("<answer>", start, max(end, start))
    return (begin + len("<answer>"), end) if begin >= 0 else (start, len(text))


def _box(text: str, low: int, high: int) -> tuple[int, int] | None:
    """The inside of the last closed box (LaTeX's boxed or fbox) between two places; one pass, whatever is open."""
    found, opened = None, []
    for match in _BOX.finditer(text, low, high):
        if match[0] == "}":
            begin = opened.pop() if opened else None
            if begin and not (found and found[0] > begin):  # of a box in a box the inner one
                found = begin, match.start()
        elif match[0] not in (r"\{", r"\}"):
            opened.append(match.end() if match[0] != "{" else None)
    return found


def _places(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Where an answer may stand: in the last "box", or behind each "cue" (up to the next), the last one first."""
    low, high = counted(text)
    if inside := _box(text, low, high):
        return "box", [inside]
    cues = [match.end() for match in CUE.finditer(text, low, high)]
    return "cue", list(zip(cues, [*cues[1:], high]))[::-1]


@takes(text=TEXT)
def final(text: str) -> str:
    r"""The words that are the answer: the inside of the last box, what stands behind the last cue, or the last line.

    >>> final("So 3. The answer is $x^2$ (see 2)."), final("It is \\boxed{\\frac{1}{2}}."), final("3 or 4\n**5**")
    ('x^2', '\\frac{1}{2}', '5')
    """
    kind, found = _places(text)
    said = text[slice(*(found[0] if found else counted(text)))].strip(" :*_`~>\n")
    if kind == "cue":
        lines = said.splitlines() or [""]
        said = lines[0 if found else -1].strip(" *_`>")
        if inner := _MATHS.match(said):
            said = next(filter(None, inner.groups()))
        elif end := found and END.search(said):
            said = said[: end.start()]
    return said.strip(" .*_`$")


# --- Numbers ----------------------------------------------------------------------------------------


@takes(text=TEXT, pattern=Is((re.Pattern,)))
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


@takes(number=TEXT)
def plain(number: str) -> str:
    """A number in one form: a decimal, or a fraction in lowest terms where that would not end; "" for what is none.

    >>> plain("1,080.00"), plain("-0"), plain("−$2.50"), plain("1.000,5"), plain("2 2/3"), plain("minus twenty-one")
    ('1080', '0', '-2.5', '1000.5', '8/3', '-21')
    """
    text = re.sub(r"\d", lambda digit: str(int(digit[0])), number.strip())  # of any script
    text = re.sub(_SIGN, "-", text).replace("\\$", "$")
    sign = "-" if re.match(r"(?:[$€£]\s?)?-|minus|negative", text, re.I) else ""
    if len(text) < 600 and (match := re.search(_FRACTION, text)):
        *whole, above, below = (int(part) for part in match.groups() if part)
        return _one_form(sign, Fraction(above, below) + sum(whole)) if below else ""
    if _IN_WORDS.fullmatch(text):
        return _one_form(sign, Fraction(_of_words(re.findall(_WORD, text.lower()))))
    if re.fullmatch(r"\D{0,3}\d{1,3}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})", text):
        text = text.replace(".", "").replace(",", ".")
    found = re.fullmatch(
        r"(\d*)\.?(\d*)(?:e([-+]?\d{1,2}))?", re.sub(r"[-$€£,{}\\! \xa0\u2009\u202f'’]", "", text.lower())
    )
    if not found or not (found[1] or found[2]):
        return ""
    if found[3]:
        return _one_form(sign, Fraction(found[0])) if len(text) < 600 else ""
    value = (found[1].lstrip("0") or "0") + (f".{found[2].rstrip('0')}" if found[2].strip("0") else "")
    return value if value == "0" else sign + value


@takes(text=TEXT)
def value(text: str) -> str:
    r"""The number that a whole text is, but for a unit, a name in front or a remark; "" where it is a formula or more.

    >>> value("$x = 8$"), value("8 apples (see step 2)"), value(r"1{,}000\%"), value("8x"), value("5 or 6")
    ('8', '8', '1000', '', '')
    """
    head = _BEFORE.match(text).end()
    number = NUMBER.match(text, head) or _IN_WORDS.match(text, head)
    return plain(number[0]) if number and _BEHIND.fullmatch(text, number.end()) else ""


def _of_words(words: Sequence[str]) -> int:
    total = part = 0
    for word in words:
        if word in _WORDS:
            part += _WORDS[word]
        elif word == "hundred":
            part = (part or 1) * 100
        else:
            total, part = total + (part or 1) * _FACTORS[word], 0
    return total + part


def _one_form(sign: str, value: Fraction) -> str:
    for places in range(16):
        if (whole := value * 10**places).denominator == 1:
            digits = str(whole.numerator).rjust(places + 1, "0")
            return plain(f"{sign}{digits[: len(digits) - places]}.{digits[len(digits) - places :]}0")
    return f"{sign}{value}"


def _number_at(text: str, low: int, high: int, boxed: bool) -> re.Match | None:
    """The number between two places: all that is in a box, or the first of the line behind a cue; of an equation the
    right side."""
    stop = high
    if not boxed:
        low = _LAYOUT.match(text, low, high).end()
        high = line if (line := text.find("\n", low, high)) >= 0 else high
        stop = sentence.start() if (sentence := END.search(text, low, high)) else high
        if match := _IN_WORDS.match(text, re.compile(_AROUND).match(text, low, high).end(), high):
            return match
    equals = max(text.rfind("=", low, stop), text.rfind("\\approx", low, stop)) + 1
    low = equals if equals > low and NUMBER.search(text, equals, stop) else low
    match = NUMBER.search(text, low, high) or (_IN_WORDS.search(text, low, high) if boxed else None)
    if boxed and match and _FORMULA.search(text[low : match.start()] + text[match.end() : high]):
        return None
    return match


# --- Answers ----------------------------------------------------------------------------------------


@takes(text=TEXT, kind=KIND)
def stated(text: str, kind: Kind) -> re.Match | None:
    """The answer in a reply to a cue: in a box, else the first number or letter, as behind any cue.

    Examples
    --------
    >>> stated(" $1,080. Let me check: 12", "number")[0], stated(" (B) a river", "choice")[1]
    ('$1,080', 'B')
    """
    how, match = _certain(text, kind)
    if how == "box":
        return match
    low, high = counted(text)
    if kind == "choice":
        return letter_at(text, low, high) or match
    return _number_at(text, low, high, False) or NUMBER.search(text, low, high)


@takes(text=TEXT, kind=KIND)
def given(text: str, kind: Kind) -> re.Match | None:
    """The answer in a trace: in its last box, else behind its last cue, else its last number, or a letter alone in the
    last line.

    Examples
    --------
    >>> given("4 + 3 = 7. So the answer is 7 (see step 2)", "number")[0]
    '7'
    >>> given("A or B? So the answer is (B).", "choice")[1], given("A is right", "choice")
    ('B', None)
    """
    how, match = _certain(text, kind)
    if match or how == "box":
        return match
    low, high = counted(text)
    found = list((NUMBER if kind == "number" else _NAMED).finditer(text, low, high))
    if found:
        return found[-1]
    high = low + len(text[low:high].rstrip())
    low = max(text.rfind("\n", low, high) + 1, low)
    if kind == "choice":
        return _ALONE.fullmatch(text, low, high)
    match = _IN_WORDS.match(text, re.compile(_AROUND).match(text, low, high).end(), high)
    return match if match and not re.search(r"\w", text[match.end() : high]) else None


def _certain(text: str, kind: Kind) -> tuple[str, re.Match | None]:
    """What a "box" or a "cue" says; a box leaves no other place."""
    at = _number_at if kind == "number" else letter_at
    how, found = _places(text)
    return how, next((match for low, high in found if (match := at(text, low, high, how == "box"))), None)


@takes(text=TEXT, low=PLACE, high=PLACE, boxed=FLAG)
def letter_at(text: str, low: int, high: int, boxed: bool = False) -> re.Match | None:
    """The letter between two places: the label in a box, or behind a cue and at most four words."""
    return (
        (_ALONE.fullmatch(text, low, high) or LABEL.match(text, low, high))
        if boxed
        else _BEHIND_CUE.match(text, low, high)
    )


@takes(match=Is((re.Match, type(None))), kind=KIND)
def read(match: re.Match | None, kind: Kind) -> str:
    """An answer in one form; "" without one."""
    if match is None:
        return ""
    if kind == "choice" and not match.re.groups:
        raise ValueError("match must be of a letter, as `stated` and `given` find it.")
    return plain(match[0]) if kind == "number" else match[1].upper()


@takes(parts=PARTS, low=PLACE, high=PLACE)
def tokens_at(parts: Sequence[str], low: int, high: int) -> Span:
    """The tokens that hold the characters from `low` to before `high` of the joined `parts`.

    >>> tokens_at(["is", " 1", "2", "."], 3, 5)
    (1, 3)
    """
    ends = list(accumulate(map(len, parts)))
    if not low < high <= ends[-1]:
        raise ValueError(f"low and high must be a stretch of {ends[-1]} characters, but are {low} and {high}.")
    start = next(i for i, end in enumerate(ends) if end > low)
    return start, next(i for i, end in enumerate(ends) if end >= high) + 1


def _place(match: re.Match, kind: Kind) -> tuple[int, int]:
    return match.span(0 if kind == "number" else 1)


@takes(trace=Is((int, np.integer), "trace"), reply=IDS, reply_parts=PARTS, kind=KIND)
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


@takes(parts=PARTS, finished=FLAG, kind=KIND)
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

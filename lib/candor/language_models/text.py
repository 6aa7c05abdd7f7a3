"""What models are asked to write, and how it is read: four tags, strict and lenient parsing, graders.

A whole "document" is think, answer, analysis, confidence; a whole "answer" (the arm without a confidence, RLVR) is
think and answer. Strict parsing is the training reward's, lenient parsing the evaluation's (Damani et al. 2025,
arXiv 2507.16806, by the authors' code). The wording of prompts and cues is ours: a deviation for their released
checkpoints, which were trained on another wording of the same request.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import lru_cache

from candor.core.errors import CandorError
from candor.language_models import formulas
from candor.measure import spans

_START = "Think about the problem first. Write your reasoning, then </think>, then only the answer"
SYSTEM = {
    "document": (
        f"{_START} within <answer> </answer> tags. Then examine, within <analysis> </analysis> tags, where that answer "
        "could be wrong: ambiguities of the question, doubtful steps, other answers that fit. Do not correct it. "
        "Finally state the probability that the answer is right, a number from 0 to 1, within "
        "<confidence> </confidence> tags. Your output looks like this: <think> reasoning </think> <answer> answer "
        "</answer> <analysis> what could be wrong </analysis> <confidence> number from 0 to 1 </confidence>"
    ),
    "answer": (
        f"{_START} within <answer> </answer> tags. Your output looks like this: <think> reasoning </think> <answer> "
        "answer </answer>"
    ),
}

# Forced in evaluation where a completion lacks the tag; the reply is read up to the limit of tokens.
ANSWER_CUE, ANSWER_TOKENS = "\n\nNo more thinking. My final answer: ", 50
CONFIDENCE_CUE, CONFIDENCE_TOKENS = "\n\nNo more thinking. From 0 to 100, my confidence that the answer is right: ", 20


def chat(problem: str, form: str = "document", tokenizer=None) -> str:
    """What a model of the papers is asked."""
    return prompt(tokenizer, SYSTEM[form], f"PROBLEM: {problem}", end="\n\n")


def prompt(tokenizer, instruction: str, user: str, end: str = "", plain: str | None = None) -> str:
    """A question as text: by the tokenizer's chat template if it has one, otherwise `plain`, or the two parts, with
    what stands behind them."""
    if getattr(tokenizer, "chat_template", None):
        return in_turns(tokenizer, instruction, [{"role": "user", "content": user}])
    return f"{instruction}\n\n{user}{end}" if plain is None else plain


def in_turns(tokenizer, instruction: str, said: Sequence[Mapping]) -> str:
    """A conversation by the chat template, the instruction as its system line.

    In the first user message where a template refuses or leaves out a system line, or lets no assistant begin.
    """
    from jinja2 import TemplateError

    options = {"tokenize": False, "add_generation_prompt": True}
    try:
        text = tokenizer.apply_chat_template([{"role": "system", "content": instruction}, *said], **options)
    except TemplateError:
        text = ""
    if instruction in text:
        return text
    first, rest = (said[0]["content"], said[1:]) if said[0]["role"] == "user" else ("", said)
    folded = [{"role": "user", "content": f"{instruction}\n\n{first}".strip()}, *rest]
    return tokenizer.apply_chat_template(folded, **options)


# --- Strict parsing: what the reward accepts --------------------------------------------------------

_INSIDE = r"((?:(?!</?(?:think|answer|analysis|confidence)>).)*)"  # no tag within a tag
_STRICT = {
    "document": re.compile(
        rf".*</think>\s*<answer>{_INSIDE}</answer>\s*<analysis>{_INSIDE}</analysis>\s*"
        rf"<confidence>{_INSIDE}</confidence>\s*",
        re.S,
    ),
    "answer": re.compile(rf".*</think>\s*<answer>{_INSIDE}</answer>\s*", re.S),
}
_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")


def parse(completion: str, form: str = "document") -> tuple[str, float | None] | None:
    """Answer and confidence (None for form "answer") of a whole completion, None if it is malformed.

    Whole: a closing think tag (the opening one is not looked at), the tags in their order with nothing between or
    after them, and a confidence that is a plain number from 0 to 1: no percentage, NaN, infinity, sign or words.
    """
    match = _STRICT[form].fullmatch(completion)
    if not match:
        return None
    if form == "answer":
        return match[1].strip(), None
    number = match[3].strip()
    confidence = float(number) if _NUMBER.fullmatch(number) else math.nan
    return (match[1].strip(), confidence) if 0 <= confidence <= 1 else None


# --- Lenient parsing: what the evaluation reads -----------------------------------------------------


def last_tag(completion: str, tag: str) -> str | None:
    """What stands in the last pair of tags of that name; None if there is none or nothing in it."""
    found = tags(completion, tag)
    return completion[slice(*found[-1])].strip() or None if found else None


def tags(text: str, tag: str) -> list[tuple[int, int]]:
    """Where the insides of the pairs of tags of that name are, as a lazy regular expression finds them, in one pass.

    >>> tags("<a>1<a>2</a><a>3", "a")
    [(3, 8)]
    """
    opened, closed, found, place = f"<{tag}>", f"</{tag}>", [], 0
    while (start := text.find(opened, place)) >= 0 and (end := text.find(closed, start + len(opened))) >= 0:
        found.append((start + len(opened), end))
        place = end + len(closed)
    return found


def read_confidence(text: str | None) -> float:
    """The number that `text` is, or the first one in it: kept in [0, 1], divided by 100 in (1, 100], otherwise 0.

    So a reply of "1" counts as certain, and "1 %" too: the protocol does not read the sign.
    """
    number = _stated(text)
    return 0.0 if math.isnan(number) else number


def _stated(text: str | None) -> float:
    """As `read_confidence`, but NaN where there is nothing to read."""
    try:
        number = float(text or "")
    except ValueError:
        match = re.search(r"-?\d+(?:\.\d+)?", text or "")
        number = float(match[0]) if match else math.nan
    if not 0 <= number <= 100:  # NaN and infinity too
        return math.nan
    return number / 100 if number > 1 else number


# --- Graders ----------------------------------------------------------------------------------------


def squad_normalised(text: str) -> str:
    """Lower case without punctuation, articles and extra white space (Rajpurkar et al. 2016).

    What is nothing else keeps its articles, then its punctuation.

    >>> squad_normalised("The Seine!"), squad_normalised("A"), squad_normalised(" + ")
    ('seine', 'a', '+')
    """
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    without = re.sub(r"\b(a|an|the)\b", " ", bare)
    return next((found for form in (without, bare, text) if (found := " ".join(form.split()))), "")


def exact(answer: str, accepted: Sequence[str]) -> bool:
    """SQuAD-normalised exact match with one of the accepted answers. Nothing matches nothing."""
    return _judged(answer, tuple(accepted), "exact")[0]


def mathematical(answer: str, accepted: Sequence[str]) -> bool:
    """Equality to six places of numbers, and by math-verify of formulas; of an answer in a sentence the last words."""
    return _judged(answer, tuple(accepted), "math")[0]


def choice(answer: str, accepted: Sequence[str], options: Mapping[str, str] | None = None) -> bool:
    """A multiple choice: `accepted` is the letter and the text of the right option; either will do, or both.

    `options`: all texts by letter, where they are known.
    """
    return _judged(answer, tuple(accepted), "choice", tuple((options or {}).items()))[0]


_PROSE = re.compile(r"(?=.*[^\W\d_]{2})(?=.*\S\s)[^\d=+*/^\\<>(){}\[\]|]+", re.S)  # words, and no formula
GRADERS = {"exact": exact, "math": mathematical, "choice": choice}


@lru_cache(maxsize=8192)
def _judged(answer: str, accepted: tuple[str, ...], grader: str, options: tuple = ()) -> tuple[bool, bool]:
    """Whether an answer is right, and whether it could be read."""
    said = _form(answer, grader, accepted, options)
    if not said:
        return False, False
    if grader == "choice":
        return said == accepted[0], True
    golds = [_form(gold, grader) for gold in accepted]
    if said in golds:
        return True, True
    if grader == "math" and not _is_number(said):
        if len(said) > 500 or _PROSE.fullmatch(said):
            return False, False
        readable, right = formulas.compare(said, golds)
        return right, readable
    others = [gold for gold in golds if grader == "math" and not _is_number(gold)]
    return bool(others) and formulas.compare(said, others)[1], True


def _is_number(form: str) -> bool:
    return bool(re.fullmatch(r"-?\d+(?:/\d+)?", form))


def _form(answer: str, grader: str, accepted: Sequence[str] = (), options: tuple = ()) -> str:
    """An answer in the form in which answers are compared; "" where it cannot be read.

    exact: normalised. math: a number to six places, or a formula as it stands. choice: the letter of an option; where
    the right one's letter and text are all that is known, words that name no option count as they are.
    """
    if grader == "exact":
        return squad_normalised(answer)
    if grader == "math":
        number = spans.value(said := spans.final(answer))
        return str(round(Fraction(number), 6)) if number and len(number) < 1000 else number or said
    letter = option(answer, dict(options) or {accepted[0]: accepted[1]})
    if letter or options:
        return letter
    label = spans.given(answer, "choice") or spans.LABEL.match(answer, *spans.counted(answer))
    other = label and label[1].upper() != accepted[0]
    return label[1].upper() if other else squad_normalised(spans.final(answer))


def options_of(problem: str) -> dict[str, str]:
    r"""The options that a question lists at its end, a letter each: "A) ...", "(A) ...", "A. ...", "A: ...".

    >>> options_of("Which of\nA. and B.?\nA) bank\nB) bank of\na river\n")
    {'A': 'bank', 'B': 'bank of\na river'}
    """
    marks = list(re.finditer(r"^[^\S\n]*\(?([A-Z])[).:][^\S\n]+", problem, re.M))
    first = max((i for i, mark in enumerate(marks) if mark[1] == "A"), default=len(marks))
    ends = [*(mark.start() for mark in marks[first + 1 :]), len(problem)]
    listed = enumerate(zip(marks[first:], ends))
    return {mark[1]: problem[mark.end() : end].strip() for i, (mark, end) in listed if mark[1] == chr(ord("A") + i)}


_MENTIONED = re.compile(r"(?i:\b(?:option|choice))\s*\(?([A-H])\b|\(([A-H])\)")


def option(answer: str, options: Mapping[str, str]) -> str:
    """The letter of the option that an answer names, by its letter, its text or both; "" for none or more than one.

    Where one option is all that is known, a label with other words than its own is another's.

    >>> options = {"A": "bank", "B": "river", "C": "river bank"}
    >>> [option(said, options) for said in ("a)", "The answer is B) river.", "A river", "River bank!", "A) river")]
    ['A', 'B', 'B', 'C', '']
    """
    texts = {squad_normalised(text): letter for letter, text in options.items()}
    low, high = spans.counted(answer)
    said = spans.final(answer)
    if not re.match(r"\W*\w(?:[\W_]*\Z|[).:\]])", said) and (named := texts.get(squad_normalised(said))):
        return named  # "A river" is the river, and "A) river" is not
    label = spans.given(answer, "choice") or spans.LABEL.match(answer, low, high)
    if label is None:
        found = {match[1] or match[2] for match in _MENTIONED.finditer(answer, low, high)} or _within(said, texts)
        return found.pop() if len(found) == 1 and found <= set(options) else ""
    rest = answer[label.end(1) : label.endpos].lstrip(").:]}*_$")
    rest = rest[: end.start()] if (end := spans.END.search(rest)) else rest
    rest, letter = squad_normalised(rest) if re.search(r"\w", rest) else "", label[1].upper()
    if letter not in options or texts.get(rest, letter) != letter:
        return ""
    return letter if len(options) > 1 or squad_normalised(options[letter]) in rest or not rest else ""


def _within(said: str, texts: Mapping[str, str]) -> set[str]:
    """The letters of the options whose text is a part of what is said, and of no other such option's text."""
    words = f" {squad_normalised(said)} "
    if re.search(r" (?:not?|neither|none|isnt) ", words):
        return set()
    found = [text for text in texts if f" {text} " in words]
    return {texts[text] for text in found if not any(f" {text} " in f" {other} " for other in found if other != text)}


def groups(
    answers: Sequence[str], accepted: Sequence[str], grader: str, options: Mapping[str, str] | None = None
) -> list[int]:
    """Which answers to one question are the same, by the rule that grades them: a number each, -1 for unreadable ones.

    Right answers are one group, the others are compared with the first of each group.
    Raises: `CandorError` for a grader that does not compare answers.

    >>> groups(["1/2", "0.5", "7", r"\\frac{1}{2}", "", "7.0"], ["1/2"], "math")
    [0, 0, 1, 0, -1, 1]
    """
    if grader not in GRADERS:
        raise CandorError(
            f"Answers that {grader} grades cannot be grouped into votes: choose a set graded by {', '.join(GRADERS)}."
        )
    known = tuple((options or {}).items())
    found, first = [], []
    for answer in answers:
        right, readable = _judged(answer, tuple(accepted), grader, known)
        form = _form(answer, grader, accepted, known)
        same = (i for i, (other, so) in enumerate(first) if so == right and (so or _same(form, other, grader)))
        place = next(same, len(first)) if readable else -1
        first += [(form, right)] if place == len(first) else []
        found.append(place)
    return found


def _same(form: str, other: str, grader: str) -> bool:
    return form == other or (grader == "math" and _judged(form, (other,), grader)[0])


def grade(
    completions: Sequence[str],
    answer: Sequence[Sequence[str]],
    grader: Sequence[str],
    form: str = "document",
    problem: Sequence[str] | None = None,
):
    """Completions -> answer, correct, confidence, well_formed, readable, as a DataFrame.

    `answer` holds the accepted answers of each question, `grader` the name of what compares them, `problem` the
    questions, whose options are read where a choice is graded. Strict: what is malformed has no answer (""), is not
    correct, and its confidence is NaN; so is every confidence of form "answer".
    """
    parsed = [parse(completion, form) for completion in completions]
    said = ["" if p is None else p[0] for p in parsed]
    confidence = [math.nan if p is None or p[1] is None else p[1] for p in parsed]
    return _graded(said, answer, grader, problem, confidence, [p is not None for p in parsed])


def grade_leniently(
    completions: Sequence[str],
    answer: Sequence[Sequence[str]],
    grader: Sequence[str],
    problem: Sequence[str] | None = None,
):
    """As `grade`, but reads the last answer and the last confidence wherever they stand (0 without one).

    `well_formed` says whether the whole document is, by the strict rule; `stated` whether a confidence could be read.
    """
    said = [last_tag(completion, "answer") or "" for completion in completions]
    found = [_stated(last_tag(completion, "confidence")) for completion in completions]
    confidence = [0.0 if math.isnan(number) else number for number in found]
    whole = [parse(completion) is not None for completion in completions]
    stated = [not math.isnan(number) for number in found]
    return _graded(said, answer, grader, problem, confidence, whole).assign(stated=stated)


def _graded(said, answer, grader, problem, confidence, well_formed):
    import pandas as pd

    problems = [""] * len(said) if problem is None else problem
    judged = [
        _judged(s, tuple(a), g, tuple(options_of(p).items()) if g == "choice" else ())
        for s, a, g, p in zip(said, answer, grader, problems)
    ]
    right, readable = zip(*judged) if judged else ((), ())
    columns = {"answer": said, "correct": right, "confidence": confidence, "well_formed": well_formed}
    return pd.DataFrame(columns | {"readable": readable})

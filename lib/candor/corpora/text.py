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
from collections.abc import Sequence
from functools import lru_cache

FORMS = ("document", "answer")

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
    """The prompt as text: by the tokenizer's chat template if it has one, otherwise plainly."""
    system, user = SYSTEM[form], f"PROBLEM: {problem}"
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return f"{system}\n\n{user}\n\n"


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
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


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
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", completion, re.S)
    return found[-1].strip() or None if found else None


def read_confidence(text: str | None) -> float:
    """The number that `text` is, or the first one in it: kept in [0, 1], divided by 100 in (1, 100], otherwise 0.

    So a reply of "1" counts as certain, and "1 %" too: the protocol does not read the sign.
    """
    try:
        number = float(text or "")
    except ValueError:
        match = re.search(r"-?\d+(?:\.\d+)?", text or "")
        number = float(match[0]) if match else 0.0
    if not 0 <= number <= 100:  # NaN and infinity too
        return 0.0
    return number / 100 if number > 1 else number


# --- Graders ----------------------------------------------------------------------------------------


def squad_normalised(text: str) -> str:
    """Lower case without punctuation, articles and extra white space (Rajpurkar et al. 2016)."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(answer: str, accepted: Sequence[str]) -> bool:
    """SQuAD-normalised exact match with one of the accepted answers. Nothing matches nothing."""
    said = squad_normalised(answer)
    return bool(said) and said in {squad_normalised(gold) for gold in accepted}


def mathematical(answer: str, accepted: Sequence[str]) -> bool:
    """Equality by math-verify, of the text as it is or read as one formula."""
    from math_verify import parse as parse_math
    from math_verify import verify

    if not answer.strip():
        return False
    said = [parse_math(answer), parse_math(f"${answer}$")]
    return any(verify(parse_math(f"${gold}$"), one) for gold in accepted for one in said)


def choice(answer: str, accepted: Sequence[str]) -> bool:
    """A multiple choice: `accepted` is the letter and the text of the right option; either will do, or both."""
    letter, text = accepted
    match = re.fullmatch(r"\W*(?:(?:option|choice|answer)\s+)?([A-Z])\b\W*(.*)", answer.strip(), re.S | re.I)
    if match and match[1].upper() == letter and squad_normalised(match[2]) in ("", squad_normalised(text)):
        return True
    return exact(answer, [text])


GRADERS = {"exact": exact, "math": mathematical, "choice": choice}


@lru_cache(maxsize=8192)
def _is_right(answer: str, accepted: tuple[str, ...], grader: str) -> bool:
    return GRADERS[grader](answer, accepted)


def grade(completions: Sequence[str], answer: Sequence[Sequence[str]], grader: Sequence[str], form: str = "document"):
    """Completions -> answer, correct, confidence, well_formed, as a DataFrame.

    `answer` holds the accepted answers of each question, `grader` the name of what compares them. Strict: what is
    malformed has no answer (""), is not correct, and its confidence is NaN; so is every confidence of form "answer".
    """
    import pandas as pd

    parsed = [parse(completion, form) for completion in completions]
    said = ["" if p is None else p[0] for p in parsed]
    return pd.DataFrame(
        {
            "answer": said,
            "correct": [_is_right(s, tuple(a), g) for s, a, g in zip(said, answer, grader)],
            "confidence": [math.nan if p is None or p[1] is None else p[1] for p in parsed],
            "well_formed": [p is not None for p in parsed],
        }
    )


def grade_leniently(completions: Sequence[str], answer: Sequence[Sequence[str]], grader: Sequence[str]):
    """As `grade`, but reads the last answer and the last confidence wherever they stand (0 without one).

    `well_formed` says whether the whole document is, by the strict rule.
    """
    import pandas as pd

    said = [last_tag(completion, "answer") or "" for completion in completions]
    return pd.DataFrame(
        {
            "answer": said,
            "correct": [_is_right(s, tuple(a), g) for s, a, g in zip(said, answer, grader)],
            "confidence": [read_confidence(last_tag(completion, "confidence")) for completion in completions],
            "well_formed": [parse(completion) is not None for completion in completions],
        }
    )

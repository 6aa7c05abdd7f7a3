"""What the exercises of every notebook share: feedback that names the mistake, and never a traceback."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Feedback:
    """The answer to an answer: whether it is right, and if not, which mistake it looks like and a hint."""

    ok: bool
    message: str

    def __str__(self) -> str:
        return f"{'Correct.' if self.ok else 'Not yet.'} {self.message}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        colour, word = ("#2a7f62", "Correct.") if self.ok else ("#b3541e", "Not yet.")
        return (
            f'<div style="border-left: 4px solid {colour}; padding: .4em .8em; margin: .3em 0">'
            f'<b style="color: {colour}">{word}</b> {html.escape(self.message)}</div>'
        )


def right(message: str) -> Feedback:
    """Feedback on a right answer."""
    return Feedback(True, message)


def wrong(message: str) -> Feedback:
    """Feedback on a wrong answer: name the mistake, give a hint, do not give the answer away."""
    return Feedback(False, message)


def check(function: Callable[..., Feedback]) -> Callable[..., Feedback]:
    """Make a check safe: a blank (`...` or None) gets an invitation, one that raises gets a sentence."""

    @functools.wraps(function)
    def checked(*answers: object, **named: object) -> Feedback:
        given = (*answers, *named.values())
        if not given or any(answer is ... or answer is None for answer in given):
            return wrong("The blank is still empty: put your answer in place of the dots and run it again.")
        try:
            return function(*answers, **named)
        except Exception as error:
            return wrong(f"Your answer could not be checked. {type(error).__name__}: {error}")

    return checked


def number(answer: object) -> float:
    """`answer` as a float (a string such as " 0.5 " or "50 %" too); NaN if it is no number."""
    try:
        if isinstance(answer, str):
            text = answer.strip()
            return float(text[:-1]) / 100 if text.endswith("%") else float(text)
        return float(np.asarray(answer, dtype=float).item())
    except (TypeError, ValueError):
        return math.nan


def close(answer: object, target: float, tolerance: float = 0.005) -> bool:
    """Whether `answer` is a number within `tolerance` of `target`; False for anything that is no number.

    >>> close("0.852", 0.85), close(float("nan"), 0.85), close([1, 2], 0.85)
    (True, False, False)
    """
    return abs(number(answer) - target) <= tolerance

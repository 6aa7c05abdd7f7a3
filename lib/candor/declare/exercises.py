"""Exercises as data: what is right, which mistakes have a name, and one engine that tells one from the other.

An exercise has blanks. A blank's `slips` map what to say about a mistake to what a learner who makes it would answer: a
number, a word, or a function. The engine compares an answer with what is right, then with each slip; functions are
compared by what they give for the same `probes`. Feedback names the mistake, and is never a traceback.
"""

from __future__ import annotations

import html
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

EMPTY = "The blank is still empty: put your answer in place of the dots and run it again."


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


def number(answer: object) -> float:
    """`answer` as a float (a string such as " 0.5 " or "50 %" too); NaN if it is no number."""
    try:
        if isinstance(answer, str):
            text = answer.strip()
            return float(text[:-1]) / 100 if text.endswith("%") else float(text)
        return float(np.asarray(answer, dtype=float).item())
    except (TypeError, ValueError):
        return math.nan


def share(answer: object) -> float:
    """`number`, where whoever writes 12 for a share means 12 %."""
    value = number(answer)
    return value / 100 if abs(value) > 1 else value


def letter(answer: object) -> str:
    """The letter of a choice: "(A)" is "a"."""
    return str(answer).strip(" ().").lower()


def word(**choices: str) -> Callable[[object], str]:
    """A reader of words: each choice with the words that mean it, such as `up="+ rise rises"`."""
    meanings = {alias: name for name, aliases in choices.items() for alias in (name, *aliases.split())}
    return lambda answer: meanings.get(str(answer).strip().lower(), "")


def array(answer: object) -> np.ndarray:
    """The answer as an array of floats; of NaN if it is none."""
    try:
        return np.asarray(answer, dtype=float)
    except (TypeError, ValueError):
        return np.array(math.nan)


def empty(answer: object) -> bool:
    """Whether a blank, or one of several in a dictionary, is still as the notebook has it."""
    if isinstance(answer, Mapping):
        return any(map(empty, answer.values()))
    return answer is ... or answer is None


@dataclass(frozen=True)
class When:
    """What many answers are (a slip, or right): those for which `holds(value)`; `example` is one of them."""

    holds: Callable[[Any], bool]
    example: object


@dataclass(frozen=True)
class Blank:
    """One blank, or several that are judged together (`answer` is a tuple then, as are its slips).

    answer : what is right, a `When` where many answers are. A function is given each of `probes` (tuples of arguments)
        and must give the same.
    slips : message -> what whoever makes this mistake answers (like `answer`, or a `When`).
    hint : what to say of any other mistake; a function of what was read if the sentence depends on it.
    read : what is compared, of an answer or of what a function gives: `number`, `share`, `letter`, `array`, `word()`.
    tolerance : how far a number may be off, absolute.
    raises : what to say where a learner's function raises, with {error} and {probe}; a general sentence if empty.
    """

    answer: Any
    slips: Mapping[str, Any]
    hint: str | Callable[[Any], str]
    read: Callable[[object], Any] = number
    probes: Sequence[tuple] = ()
    tolerance: float = 0.005
    raises: str = ""

    @property
    def width(self) -> int:
        return len(self._all(self.answer))

    def value(self, *answers: Any) -> Any:
        """What is compared. Raises: whatever a learner's function raises."""
        if not self.probes:
            values = [self.read(answer) for answer in answers]
            return values[0] if self.width == 1 else values
        results = [tuple(self._asked(f, probe) for f in answers) for probe in self.probes]
        if any(part is None or part is ... for result in results for part in result):
            raise _Said(EMPTY)
        return [[self.read(part) for part in result] for result in results]

    def _asked(self, function: Callable, probe: tuple) -> Any:
        try:
            return function(*deepcopy(probe))
        except Exception as error:
            if self.raises:
                raise _Said(self.raises.format(error=type(error).__name__, probe=probe)) from error
            raise

    def same(self, value: Any, other: Any) -> bool:
        """Whether two values are equal, numbers within the tolerance."""
        if isinstance(value, list) and isinstance(other, list):
            return len(value) == len(other) and all(map(self.same, value, other))
        if isinstance(value, float | np.ndarray) and isinstance(other, float | int | np.ndarray):
            return np.shape(value) == np.shape(other) and bool(np.all(np.abs(value - other) <= self.tolerance))
        return bool(value == other)

    def mistake(self, *answers: Any) -> str:
        """What to say of a wrong answer; empty if it is right."""
        if self.probes and not all(map(callable, answers)):
            return "Give the function itself, without calling it."
        value = self.value(*answers)
        for message, answer in {"": self.answer, **self.slips}.items():
            if answer.holds(value) if isinstance(answer, When) else self.same(value, self.value(*self._all(answer))):
                return message
        return self.hint(value) if callable(self.hint) else self.hint

    def _all(self, answer: Any) -> tuple:
        answer = answer.example if isinstance(answer, When) else answer
        return answer if isinstance(answer, tuple) else (answer,)


def choice(answer: str, **slips: str) -> Blank:
    """A third blank for one of the letters a, b, c; `slips` has what to say of the others."""
    said = {message: wrong for wrong, message in slips.items()}
    return Blank(answer, said, 'Answer the third blank with "a", "b" or "c".', letter)


class _Said(Exception):
    """What to say where a learner's function gives nothing yet, or raises and the exercise has a sentence for that."""


@dataclass(frozen=True)
class Exercise:
    """An exercise of a notebook, called with the learner's answers, then with the tables that it is about.

    blanks : in the order of the arguments; a function of the tables named in `given` where what is right rests on them.
    right : what to say of a right answer, or a function of those tables.
    difficulty : 1 (look it up in the cells above) to 3 (derive it). minutes : for a second-year student.
    hints : two, the second saying more than the first.
    """

    blanks: Sequence[Blank] | Callable[..., Sequence[Blank]]
    right: str | Callable[..., str]
    difficulty: int
    minutes: int
    hints: tuple[str, str]
    given: tuple[str, ...] = field(default=())

    def blanks_of(self, *tables: Any) -> Sequence[Blank]:
        return self.blanks(*tables) if callable(self.blanks) else self.blanks

    def __call__(self, *answers: Any) -> Feedback:
        cut = len(answers) - len(self.given)
        answers, tables = list(answers[:cut]), answers[cut:]
        if not answers or any(map(empty, answers)):
            return Feedback(False, EMPTY)
        try:
            blanks = self.blanks_of(*tables)
            if len(answers) != (wanted := sum(blank.width for blank in blanks)):
                return Feedback(False, f"Give {wanted} answers, in the order of the blanks; there are {len(answers)}.")
            for blank in blanks:
                mine, answers = answers[: blank.width], answers[blank.width :]
                if message := blank.mistake(*mine):
                    return Feedback(False, message)
            return Feedback(True, self.right(*tables) if callable(self.right) else self.right)
        except _Said as said:
            return Feedback(False, str(said))
        except Exception as error:
            return Feedback(False, f"Your answer could not be checked. {type(error).__name__}: {error}")

    def answers(self, *tables: Any) -> list[Any]:
        """What is right, in the order of the blanks."""
        return [answer for blank in self.blanks_of(*tables) for answer in blank._all(blank.answer)]

    def solution(self, *tables: Any) -> str:
        """The right answers as text: the source of a function, or the value."""
        return "\n".join(
            inspect.cleandoc(inspect.getsource(a)) if callable(a) else repr(a) for a in self.answers(*tables)
        )

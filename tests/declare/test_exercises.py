"""The exercises of all claims: what is right passes, every slip is named, and nothing ends in a traceback."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from candor import claims
from candor.declare import exercises
from candor.declare.exercises import EMPTY, Blank, Exercise, When, array, letter, number, share, word

REFERENCE = Path(exercises.__file__).parents[3] / "data" / "reference"
NAMED = [
    (f"{name}-{id}", name, exercise)
    for name in claims.NAMES
    for id, exercise in vars(claims.load(name).exercises).items()
    if isinstance(exercise, Exercise)
]
EVERY = pytest.mark.parametrize(
    ("claim", "exercise"), [entry[1:] for entry in NAMED], ids=[entry[0] for entry in NAMED]
)


def tables_of(claim, exercise):
    return [pd.read_csv(REFERENCE / claim / f"{name}.csv") for name in exercise.given]


def answers_and_slips(claim, exercise):
    tables = tables_of(claim, exercise)
    blanks = exercise.blanks_of(*tables)
    right = exercise.answers(*tables)
    assert exercise(*right, *tables).ok, exercise(*right, *tables)
    place = 0
    for blank in blanks:
        for message, slip in blank.slips.items():
            yield [*right[:place], *blank._all(slip), *right[place + blank.width :], *tables], message
        place += blank.width


@EVERY
def test_what_is_right_passes_and_every_slip_is_named(claim, exercise):
    for answers, message in answers_and_slips(claim, exercise):
        feedback = exercise(*answers)
        assert not feedback.ok and feedback.message == message, (message, feedback)


@EVERY
def test_blanks_and_nonsense_get_a_sentence(claim, exercise):
    tables = tables_of(claim, exercise)
    right = exercise.answers(*tables)
    assert exercise(...).message == exercise().message == EMPTY
    for k, answer in enumerate(right):
        for strange in (..., None):
            assert exercise(*right[:k], strange, *right[k + 1 :], *tables).message == EMPTY
        for strange in ("nonsense", np.nan, [], {}, object(), lambda: 1, lambda *a: "x", lambda *a: 1 / 0):
            feedback = exercise(*right[:k], strange, *right[k + 1 :], *tables)
            assert not feedback.ok and len(feedback.message) > 20
        if callable(answer):
            assert exercise(*right[:k], lambda *a: ..., *right[k + 1 :], *tables).message == EMPTY
    assert 1 <= exercise.difficulty <= 3 and exercise.minutes > 0 and all(exercise.hints)
    assert exercise.solution(*tables)


DOUBLE = Blank(
    lambda x: 2 * x,
    {"You square.": lambda x: x**2, "All are negative.": When(lambda v: all(x < 0 for [x] in v), lambda x: -1)},
    lambda value: f"At 1 you give {value[0][0]:g}.",
    probes=[(1,), (3,)],
)
TWO = Blank((0.25, 0.5), {"They are swapped.": (0.5, 0.25)}, "Halve twice.", share)
WAY = Blank("up", {"It rises.": "down"}, 'Say "up" or "down".', word(up="+ rises", down="-"))
TOY = Exercise([DOUBLE, TWO, WAY], "Well done.", 1, 5, ("Try.", "Try 2 x."))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ((lambda x: x + x, "25 %", 50, "rises"), "Well done."),
        ((lambda x: x * x, 0.25, 0.5, "up"), "You square."),
        ((lambda x: -x, 0.25, 0.5, "up"), "All are negative."),
        ((lambda x: x, 0.25, 0.5, "up"), "At 1 you give 1."),
        ((2, 0.25, 0.5, "up"), "Give the function itself, without calling it."),
        ((lambda x: 2 * x, 0.5, 0.25, "up"), "They are swapped."),
        ((lambda x: 2 * x, 0.5, 0.5, "up"), "Halve twice."),
        ((lambda x: 2 * x, 0.25, 0.5, "-"), "It rises."),
        ((lambda x: 2 * x, 0.25, 0.5, "sideways"), 'Say "up" or "down".'),
        ((lambda x: None, 0.25, 0.5, "up"), EMPTY),
        ((lambda x: 2 * x, 0.25, ..., "up"), EMPTY),
        ((lambda x: 1 / 0, 0.25, 0.5, "up"), "Your answer could not be checked. ZeroDivisionError: division by zero"),
        ((lambda x: 2 * x, 0.25), "Give 4 answers, in the order of the blanks; there are 2."),
    ],
)
def test_the_engine_names_the_mistake(answers, message):
    feedback = TOY(*answers)
    assert feedback.message == message and feedback.ok is (message == "Well done.")


def test_readers():
    assert exercises.empty({"a": "yes", "b": ...}) and not exercises.empty({"a": "yes"})
    assert [number(x) for x in ("50 %", " .5 ", 0.5)] == [0.5] * 3 and np.isnan(number([1, 2]))
    assert share(12) == share("12 %") == 0.12 and letter("(B) ") == "b"
    assert array([1, 2]).shape == (2,) and np.isnan(array("x"))
    pair = Blank([1, 2], {}, "no", array)
    assert pair.mistake(np.array([1.0, 2.0])) == "" and pair.mistake([1.0, 2.0, 3.0]) == pair.mistake("x") == "no"


def test_what_a_learner_changes_in_a_probe_stays_with_him():
    blank = Blank(lambda x: sum(x), {}, "no", probes=[([1, 2],)])
    assert blank.mistake(lambda x: x.append(4) or sum(x)) == "no" and blank.mistake(sum) == ""

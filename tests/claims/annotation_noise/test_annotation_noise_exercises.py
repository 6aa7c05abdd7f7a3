"""The exercises of claim 4: the right answer, every named mistake, blanks and garbage."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from candor.claims.annotation_noise import exercises as ex
from candor.claims.annotation_noise import judges as annotators
from candor.claims.annotation_noise import tables
from candor.witnesses import world as witnesses
from scipy.special import expit

ROOT = Path(__file__).parents[3]


def says(feedback, *words, ok=False):
    assert feedback.ok is ok, feedback
    assert all(word in feedback.message for word in words), feedback


# --- 1 --------------------------------------------------------------------------------------------


def stable(e):
    return e * (1 - e) + (1 - e) * e


def coin(b, swapped):
    first, second = 0.5 + b, 0.5 - b
    return first**2 + second**2 if swapped else 2 * first * second


def turned(e):
    return (1 - e) ** 2 + e**2


def test_exercise_1_right():
    e, b = annotators.LAPSE, annotators.POSITION
    rates = {"genuine": (stable(e),) * 2, "non_attitude": (coin(b, True), coin(b, False))}
    rates["constructed"] = (stable(e), turned(e))
    world = annotators.flip_rates().pivot(index="type", columns="condition", values="rate")
    for kind, (order, frame) in rates.items():
        assert (order, frame) == pytest.approx((world["order"][kind], world["frame"][kind]))
    says(ex.check_1(stable, coin, turned), "0.095", "0.52", "0.48", "0.905", ok=True)


@pytest.mark.parametrize(
    ("genuine", "non_attitude", "constructed", "words"),
    [
        (lambda e: e, coin, turned, "*one* answer"),
        (lambda e: 2 * e, coin, turned, "Two slips cancel"),
        (lambda e: e * (1 - e), coin, turned, "Either of the two"),
        (lambda e: 1 - (1 - e) ** 2, coin, turned, "at least one slip"),
        (turned, coin, turned, "the two agree"),
        (lambda e: 0.3, coin, turned, "exactly one of them"),
        (stable, lambda b, s: 0.5, turned, "A fair coin would"),
        (stable, lambda b, s: coin(b, not s), turned, "exchanged"),
        (stable, lambda b, s: coin(b, False), turned, "does not go away"),
        (stable, lambda b, s: coin(b, True), turned, "lean to the same side"),
        (stable, lambda b, s: 0.5 + b, turned, "one throw"),
        (stable, lambda b, s: 0.5 + b if s else 0.5 - b, turned, "b squared"),
        (stable, lambda b, s: coin(b, s) / 2, turned, "one of two ways"),
        (stable, lambda b, s: 0.9, turned, "each time"),
        (stable, lambda b, s: "half", turned, "each time"),
        (stable, coin, stable, "*within* a frame"),
        (stable, coin, lambda e: 1 - e, "either answer can slip"),
        (stable, coin, lambda e: 1 - 2 * e, "restore the difference"),
        (stable, coin, lambda e: (1 - e) ** 2, "square of the lapse"),
        (stable, coin, lambda e: 1.0, "always differ"),
        (lambda e: ..., coin, turned, "blank"),
        (stable, lambda b, s: None, turned, "blank"),
        (stable, coin, ..., "blank"),
        (0.095, coin, turned, "the three functions"),
        (lambda: 1, coin, turned, "could not be checked"),
    ],
)
def test_exercise_1_mistakes(genuine, non_attitude, constructed, words):
    says(ex.check_1(genuine, non_attitude, constructed), words)


# --- 2 --------------------------------------------------------------------------------------------

HALF = {"genuine": 0.5, "non_attitude": 0.25, "constructed": 0.25, "mixing": 0.5}
NONE_CONSTRUCTED = {"genuine": 0.75, "non_attitude": 0.25, "constructed": 0.0, "mixing": 2 / 3}
FEW = {"genuine": 0.25, "non_attitude": 0.25, "constructed": 0.5, "mixing": 0.0}


@pytest.mark.parametrize("pair", [(FEW, NONE_CONSTRUCTED), (NONE_CONSTRUCTED, FEW)])
def test_exercise_2_right(pair):
    says(ex.check_2(*pair, "c"), "by 0.", ok=True)
    says(ex.check_2(*pair, " (C)"), ok=True)


@pytest.mark.parametrize(
    ("one", "other", "tells", "words"),
    [
        (FEW, NONE_CONSTRUCTED, "a", "More waves do not help"),
        (FEW, NONE_CONSTRUCTED, "b", "do all the work"),
        (FEW, NONE_CONSTRUCTED, "perhaps", '"a", "b" or "c"'),
        (FEW, NONE_CONSTRUCTED, ..., "blank"),
        (HALF, NONE_CONSTRUCTED, "c", "differ by 0.25 only"),
        (HALF, HALF, "c", "differ by 0.00 only"),
        (HALF, HALF | {"genuine": 0.2, "constructed": 0.55}, "c", "pins the share"),
        (FEW, HALF | {"genuine": 0.75, "non_attitude": 0.0}, "c", "a repetition sees that"),
        (FEW, NONE_CONSTRUCTED | {"mixing": 0.5}, "c", "genuine x mixing"),
        (FEW | {"genuine": 0.5}, NONE_CONSTRUCTED, "c", "must sum to 1"),
        (FEW, NONE_CONSTRUCTED | {"mixing": 2}, "c", "between 0 and 1 for mixing"),
        (FEW, {"genuine": 1}, "c", "second population needs a number"),
        (FEW | {"genuine": "some"}, NONE_CONSTRUCTED, "c", "for genuine"),
        (FEW | {"genuine": ...}, NONE_CONSTRUCTED, "c", "blank"),
        (..., NONE_CONSTRUCTED, "c", "blank"),
        (0.5, 0.2, "c", "as a dict"),
    ],
)
def test_exercise_2_mistakes(one, other, tells, words):
    says(ex.check_2(one, other, tells), words)


# --- 3 --------------------------------------------------------------------------------------------


def label(took_first, a_first):
    return np.where(a_first, took_first, ~took_first)


def parts(a, b, y):
    d = a - b
    return -(y * np.log(1 / (1 + np.exp(-d))) + (1 - y) * np.log(1 / (1 + np.exp(d))))


def loss(a, b, y, w):
    return (w * parts(a, b, y)).sum() / w.sum()


def gradient(a, b, y, w):
    return w * (1 / (1 + np.exp(b - a)) - y) / w.sum()


def numerical(a, b, y, w):
    h = 1e-6
    return np.array([(loss(a + h * e, b, y, w) - loss(a, b, y, w)) / h for e in np.eye(len(a))])


@pytest.mark.parametrize("slope", [gradient, numerical])
def test_exercise_3_right(slope):
    says(ex.check_3(label, loss, slope), "minus its label", ok=True)


@pytest.mark.parametrize(
    ("side", "value", "slope", "words"),
    [
        (lambda t, f: t, loss, gradient, "wrong side"),
        (lambda t, f: t != f, loss, gradient, "how often B"),
        (lambda t, f: f, loss, gradient, "not which was taken"),
        (lambda t, f: t | f, loss, gradient, "A was preferred if"),
        (lambda t, f: 0.5, loss, gradient, "one label a judgement"),
        (label, lambda a, b, y, w: (w * parts(a, b, y)).mean(), gradient, "not normalised"),
        (label, lambda a, b, y, w: (w / w.mean() * parts(a, b, y)).sum(), gradient, "instead of taking the mean"),
        (label, lambda a, b, y, w: (w * parts(a, b, y)).sum(), gradient, "and the weights are not normalised"),
        (label, lambda a, b, y, w: (w / w.sum() * parts(a, b, y)).mean(), gradient, "by the number of pairs"),
        (label, lambda a, b, y, w: parts(a, b, y).mean(), gradient, "do not enter"),
        (label, lambda a, b, y, w: loss(b, a, y, w), gradient, "comes first"),
        (label, lambda a, b, y, w: loss(a, b, np.round(y), w), gradient, "counts as 1"),
        (label, lambda a, b, y, w: np.mean(w / w.mean() * y * np.logaddexp(0, b - a)), gradient, "other half"),
        (label, lambda a, b, y, w: -loss(a, b, y, w), gradient, "*negative*"),
        (label, lambda a, b, y, w: 1.0, gradient, "cross-entropy"),
        (label, lambda a, b, y, w: parts(a, b, y), gradient, "one number"),
        (label, loss, lambda a, b, y, w: -gradient(a, b, y, w), "sign is reversed"),
        (label, loss, lambda a, b, y, w: 6 * gradient(a, b, y, w), "divided by their number"),
        (label, loss, lambda a, b, y, w: w.mean() * gradient(a, b, y, w), "gradient are not normalised"),
        (label, loss, lambda a, b, y, w: gradient(a, b, y, np.ones_like(w)), "do not enter the gradient"),
        (label, loss, lambda a, b, y, w: np.zeros(6), "loss(a + h"),
        (label, loss, lambda a, b, y, w: 0.0, "one entry a pair"),
        (lambda t, f: ..., loss, gradient, "blank"),
        (label, lambda a, b, y, w: None, gradient, "blank"),
        (label, loss, lambda a, b, y, w: ..., "blank"),
        (..., loss, gradient, "blank"),
        (1, loss, gradient, "the three functions"),
        (label, lambda: 1, gradient, "could not be checked"),
    ],
)
def test_exercise_3_mistakes(side, value, slope, words):
    says(ex.check_3(side, value, slope), words)


# --- 4 --------------------------------------------------------------------------------------------

CURVE = {"naive": "naive", "rdpo": "Naive", "dropN": "naive ", "frrand": "genuine"}


def corrected(y, e):
    return (y - e) / (1 - 2 * e)


def left(plus, minus):
    return (plus + (1 - minus)) / 2 - 0.5


def test_correcting_and_dropping_noise_expect_the_same_label():
    g, n, c, s, k = 0.5, 0.25, 0.25, 0.7, 0.95
    naive = g * s + n / 2 + c * k
    assert ex.unflipped(naive, n / 2) == pytest.approx((g * s + c * k) / (g + c))


def test_exercise_4_right():
    says(ex.check_4(corrected, left, CURVE, "b"), "the very same function", ok=True)
    says(ex.check_4(corrected, left, CURVE | {"frrand": "oracle"}, "(B)"), ok=True)


@pytest.mark.parametrize(
    ("fix", "remains", "changed", "changes", "words"),
    [
        (lambda y, e: y - e, left, {}, "b", "up to a factor"),
        (lambda y, e: (1 - e) * y + e * (1 - y), left, {}, "b", "a second time"),
        (lambda y, e: (y - e) / (1 - e), left, {}, "b", "costs twice"),
        (lambda y, e: y, left, {}, "b", "where do the flips enter"),
        (lambda y, e: 9.0, left, {}, "b", "for the clean one"),
        (corrected, lambda p, m: 0, {}, "b", "Only where"),
        (corrected, lambda p, m: p - m, {}, "b", "half of the time"),
        (corrected, lambda p, m: (m - p) / 2, {}, "b", "reversed"),
        (corrected, lambda p, m: (p + m) / 2, {}, "b", "are subtracted"),
        (corrected, lambda p, m: (p + 1 - m) / 2, {}, "b", "far it is from one half"),
        (corrected, lambda p, m: (p + m) / 2 - 0.5, {}, "b", "1 minus its strength"),
        (corrected, lambda p, m: 0.3, {}, "b", "distance from one half"),
        (corrected, left, {"rdpo": "genuine"}, "b", "robust to noise"),
        (corrected, left, {"dropN": "genuine"}, "b", "removing noise to help"),
        (corrected, left, {"frrand": "naive"}, "b", "the other frame"),
        (corrected, left, {"naive": "genuine"}, "b", "bends away"),
        (corrected, left, {"rdpo": "both"}, "b", "for rdpo"),
        (corrected, left, {}, "a", "steeper"),
        (corrected, left, {}, "c", "another beta"),
        (corrected, left, {}, "maybe", '"a", "b" or "c"'),
        (corrected, left, {"rdpo": ...}, "b", "blank"),
        (lambda y, e: ..., left, {}, "b", "blank"),
        (corrected, lambda p, m: None, {}, "b", "blank"),
        (corrected, left, {}, ..., "blank"),
        (0.5, left, {}, "b", "the two functions"),
        (lambda: 1, left, {}, "b", "could not be checked"),
    ],
)
def test_exercise_4_mistakes(fix, remains, changed, changes, words):
    says(ex.check_4(fix, remains, CURVE | changed, changes), words)


def test_exercise_4_wants_every_arm():
    says(ex.check_4(corrected, left, {}, "b"), "for naive")
    says(ex.check_4(corrected, left, "naive", "b"), "a dict")


# --- 5 --------------------------------------------------------------------------------------------


def remove(votes, removed, rng):
    order = rng.random(np.shape(votes)).argsort(1)[:, removed:]
    return np.take_along_axis(np.asarray(votes), order, 1)


def remove_everywhere(votes, removed, rng):
    return np.asarray(votes)[:, rng.permutation(np.shape(votes)[1])[removed:]]


def with_replacement(votes, removed, rng):
    kept = rng.integers(np.shape(votes)[1], size=(len(votes), np.shape(votes)[1] - removed))
    return np.take_along_axis(np.asarray(votes), kept, 1)


def without_deviants(votes, removed, rng):
    majority = votes.mean(1, keepdims=True) > 0.5
    return np.take_along_axis(votes, (votes != majority).argsort(1)[:, : votes.shape[1] - removed], 1)


def shares(drop, ties="third", reversal=False, items=100_000, fixed=None):
    """The share of changed majorities, simulated."""
    rng = np.random.default_rng(0)
    share = np.full((items, 1), fixed) if fixed else rng.random((items, 1))
    votes = (rng.random((items, ex.RATERS)) < share).astype(np.int8)
    kept = drop(votes, ex.REMOVED, rng)
    before, after = (np.sign(2 * v.sum(1, dtype=int) - v.shape[1]) for v in (votes, kept))
    if ties == "ignored":
        before, after = before > 0, after > 0
    if reversal:
        return (before * after < 0).mean()
    changed = before != after
    return changed[before != 0].mean() if ties == "left out" else changed.mean()


@pytest.mark.parametrize("drop", [remove, remove_everywhere])
def test_exercise_5_right(drop):
    says(ex.check_5(drop, 0.101, 0), "one item in ten", ok=True)
    says(ex.check_5(drop, shares(remove), "0 %"), ok=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda: shares(remove, ties="ignored"), "ignored ties"),
        (lambda: shares(remove, ties="left out"), "tied before"),
        (lambda: shares(with_replacement), "kept twice"),
        (lambda: shares(remove, fixed=0.5), "one half"),
        (lambda: 0.3, "sign of yes"),
        (lambda: "many", "sign of yes"),
    ],
)
def test_exercise_5_wrong_shares(changes, words):
    says(ex.check_5(remove, changes(), 0), words)


@pytest.mark.parametrize(
    ("drop", "reverses", "words"),
    [
        (with_replacement, 0, "with replacement"),
        (without_deviants, 0, "very vote"),
        (lambda v, k, rng: v[:, k:], 0, "same raters"),
        (lambda v, k, rng: v[:, :k], 0, "there must stay"),
        (lambda v, k, rng: np.sort(v, 1)[:, k:], 0, "should stay with probability"),
        (remove, 0.101, "counts ties again"),
        (remove, 0.05, "closest majority"),
        (remove, "none", "closest majority"),
        (remove, ..., "blank"),
        (lambda v, k, rng: ..., 0, "blank"),
        (..., 0, "blank"),
        (8, 0, "the function itself"),
        (lambda: 1, 0, "could not be checked"),
    ],
)
def test_exercise_5_mistakes(drop, reverses, words):
    says(ex.check_5(drop, 0.101, reverses), words)


# --- What the notebook computes by hand -----------------------------------------------------------


def test_the_table_fitted_by_hand_runs_on_the_curves_of_the_theory():
    notebook = nbformat.read(ROOT / "notebooks" / "04_annotation_noise.ipynb", as_version=4)
    space = {"np": np, "annotators": annotators, "witnesses": witnesses, "expit": expit, "say": lambda text: None}
    for name in ("draw_pairs", "labels", "tilt"):
        [cell] = [cell for cell in notebook.cells if cell.cell_type == "code" and f"def {name}(" in cell.source]
        exec(cell.source, space)
    curves = tables.two_curves(10_000).query("setting == 'main'").set_index(["arm", "kl"])
    shares = annotators.SETTINGS["main"].shares
    for arm, pull in (("naive", 1.0), ("frrand", 0.0)):
        policy = space["tilt"](space["fit_reward"](space["labels"](shares, pull)), 0.15)
        exact = curves.loc[(arm, 0.15)]
        assert space["ece"](policy) == pytest.approx(exact["ece"], abs=0.012)
        assert space["win"](policy, (1, 0, 0)) == pytest.approx(exact["win_genuine"], abs=0.006)
        assert space["win"](policy, shares) == pytest.approx(exact["win_production"], abs=0.006)

"""The exercises of claim 5: the right answer, every named mistake, blanks and garbage."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from candor.claims.brier_fix import exercises as ex

PUBLISHED = Path(__file__).parents[3] / "data" / "published"


def says(feedback, *words, ok=False):
    assert feedback.ok is ok, feedback
    assert all(word in feedback.message for word in words), feedback


# --- 1 --------------------------------------------------------------------------------------------


def gap(f, g, p):
    return f(p) - g(p)


def slope(df, dg, p):
    return p * df(p) + (1 - p) * dg(p)


def test_exercise_1_right():
    for letter in ("b", " B ", "b)"):
        says(ex.check_1(gap, slope, letter), "envelope", ok=True)


def through_the_maximiser(f, g, p, h=1e-6):
    return (ex._value(f, g, p + h) - ex._value(f, g, p - h)) / (2 * h)


@pytest.mark.parametrize(
    ("through_p", "through_q", "why", "words"),
    [
        (through_the_maximiser, slope, "b", "Without the envelope argument"),
        (lambda f, g, p: p * f(p) + (1 - p) * g(p), slope, "b", "V itself"),
        (lambda f, g, p: f(p) + g(p), slope, "b", "sign"),
        (lambda f, g, p: f(p), slope, "b", "two terms"),
        (gap, lambda df, dg, p: 0.0, "b", "not where it starts"),
        (gap, lambda df, dg, p: df(p) - dg(p), "b", "weighted"),
        (gap, lambda df, dg, p: df(p) + dg(p), "b", "Weight"),
        (gap, lambda df, dg, p: df(p), "b", "Hold p still"),
        (gap, slope, "a", "exactly as fast"),
        (gap, slope, "c", "slopes"),
        (gap, slope, "because", '"a", "b" or "c"'),
        (gap, slope, 7, '"a", "b" or "c"'),
        (gap, slope, ..., "blank"),
        (..., ..., ..., "blank"),
        (lambda f, g, p: ..., slope, "b", "blank"),
        (gap, lambda df, dg, p: None, "b", "blank"),
        (0.5, 0.5, "b", "two functions"),
        (lambda: 1, slope, "b", "could not be checked"),
        (lambda f, g, p: "word", slope, "b", "two terms"),
    ],
)
def test_exercise_1_mistakes(through_p, through_q, why, words):
    says(ex.check_1(through_p, through_q, why), words)


# --- 2 --------------------------------------------------------------------------------------------


def smallest(low=0.0, combine=np.min):
    q = np.linspace(low, 1, 1001)
    return lambda k: combine(1 - k * (1 - q) ** 2 + k * q**2)


def test_exercise_2():
    says(ex.check_2(smallest(), 1), "largest safe", ok=True)
    says(ex.check_2(lambda k: 1 - k, "1.0"), ok=True)
    says(ex.check_2(smallest(), 2), "bounded and proper", "-1")
    says(ex.check_2(smallest(0.5), math.inf), "p > .5 only")
    says(ex.check_2(smallest(0.51), 1), "p > .5 only")
    says(ex.check_2(smallest(), 3), "p > .5 only")
    says(ex.check_2(smallest(), math.inf), "p > .5 only")
    says(ex.check_2(smallest(combine=np.max), 1), "largest gap")
    says(ex.check_2(smallest(), 0.5), "a larger one")
    says(ex.check_2(lambda k: -k, 1), "At k = 0")
    says(ex.check_2(smallest(), -1), "is a number")
    says(ex.check_2(smallest(), "many"), "is a number")
    says(ex.check_2(..., 1), "blank")
    says(ex.check_2(smallest(), ...), "blank")
    says(ex.check_2(lambda k: ..., 1), "blank")
    says(ex.check_2(1, 1), "function itself")
    says(ex.check_2(lambda: 1, 1), "could not be checked")
    says(ex.check_2(lambda k: "gap", 1), "At k = 0")


# --- 3 --------------------------------------------------------------------------------------------

WHOLE = re.compile(r".*<answer>(?P<answer>.*)</answer>.*<confidence>(?P<q>[^<]*)</confidence>", re.S)


def parser(
    malformed=-1.0,
    pattern=WHOLE,
    read=float,
    inside=lambda q: 0 <= q <= 1,
    worth=lambda c, q: c - (q - c) ** 2,
    match=re.Pattern.fullmatch,
):
    """A strict reward, with one screw loose where a test loosens it."""

    def reward(text, truth):
        found = match(pattern, text)
        if not found:
            return malformed
        try:
            q = read(found["q"])
        except ValueError:
            return malformed
        return worth(found["answer"].strip() == truth, q) if inside(q) else malformed

    return reward


def percent(text):
    return float(text.rstrip("%")) / (100 if "%" in text or float(text) > 1 else 1)


def raises(text, truth):
    found = WHOLE.fullmatch(text)
    if not found:
        return -1
    c, q = found["answer"] == truth, float(found["q"])
    return c - (q - c) ** 2 if 0 <= q <= 1 else -1


FIRST = re.compile(r"<answer>(?P<answer>[^<]*)</answer>.*?<confidence>(?P<q>[^<]*)</confidence>.*", re.S)


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        (parser(malformed=0.0), "a prize"),
        (parser(malformed=-0.5), "A text without a confidence should get"),
        (parser(pattern=FIRST), "first confidence tag"),
        (parser(read=percent), "Strict means strict"),
        (parser(inside=lambda q: math.isfinite(q) and q >= 0), "for a probability"),
        (parser(inside=lambda q: not (q < 0 or q > 1)), "NaN"),
        (parser(inside=lambda q: True), "NaN"),
        (parser(read=lambda text: min(max(float(text), 0), 1) if text != "nan" else 2.0), "no number in [0, 1]"),
        (raises, "raises ValueError"),
        (parser(match=re.Pattern.match), "after the last tag"),
        (parser(inside=lambda q: -1 <= q <= 1), "negative confidence"),
        (parser(worth=lambda c, q: -((q - c) ** 2)), "Brier term alone"),
        (parser(worth=lambda c, q: c + (q - c) ** 2), "a loss"),
        (parser(worth=lambda c, q: float(c)), "is worth"),
        (lambda text, truth: 0.5, "is worth"),
        (lambda text, truth: "much", "is worth"),
        (lambda text, truth: None, "blank"),
        (lambda text, truth: ..., "blank"),
        (..., "blank"),
        (lambda text: 1, "raises TypeError"),
        (0.91, "function itself"),
    ],
)
def test_exercise_3_mistakes(reward, words):
    says(ex.check_3(reward), words)


def test_exercise_3_right():
    says(ex.check_3(parser()), "Every hole", ok=True)


# --- 4 --------------------------------------------------------------------------------------------


def cells():
    rows = pd.read_csv(PUBLISHED / "rlcr_per_dataset.csv")
    rows = rows[rows["arm"].isin(["rlvr", "rlcr"]) & rows["metric"].isin(["accuracy", "brier"])]
    wide = rows.pivot(index=["setting", "dataset"], columns=["arm", "metric"], values="value")
    wide.columns = ["_".join(column) for column in wide.columns]
    wide = wide.reset_index()
    family = wide["setting"].map(lambda text: "HotpotQA" if "Hotpot" in text else "Big-Math")
    inside = wide["dataset"].isin(["HotpotQA", "HotpotQA-Modified"])
    return wide.assign(family=family, domain=np.where(inside, "in", "out"))


def test_exercise_4():
    table = cells()
    rows = table[table["family"] == "HotpotQA"].set_index("dataset")
    out, k = rows[rows["domain"] == "out"], rows.loc["HotpotQA", "rlcr_accuracy"]
    a = out["rlcr_accuracy"]
    assert len(a) == 6
    scores = (k - a) ** 2 + a * (1 - a)
    gained = out["rlvr_brier"].mean() - scores.mean()
    share = gained / (out["rlvr_brier"].mean() - out["rlcr_brier"].mean())
    assert share == pytest.approx(0.85, abs=0.005)
    says(ex.check_4(scores, share, table), "85%", ok=True)
    says(ex.check_4(scores.to_dict(), "85 %", table), ok=True)
    says(ex.check_4(a * (1 - a), share, table), "hindsight")
    says(ex.check_4((k - a) ** 2, share, table), "variance term")
    b = out["rlvr_accuracy"]
    says(ex.check_4((k - b) ** 2 + b * (1 - b), share, table), "RLVR's answers")
    other = rows.loc["HotpotQA", "rlvr_accuracy"]
    says(ex.check_4((other - a) ** 2 + a * (1 - a), share, table), "wrong constant")
    says(ex.check_4(scores + 0.1, share, table), "the mean of (k - c)^2")
    says(ex.check_4(scores.drop("GPQA"), share, table), "no score for GPQA")
    says(ex.check_4(scores, 1 - share, table), "*not* explain")
    says(ex.check_4(scores, 1 / share, table), "Upside down")
    says(ex.check_4(scores, gained / out["rlvr_brier"].mean(), table), "relative to RLVR")
    each = (out["rlvr_brier"] - scores) / (out["rlvr_brier"] - out["rlcr_brier"])
    says(ex.check_4(scores, each.mean(), table), "mean of ratios")
    says(ex.check_4(scores, "most", table), "each a mean over the six")
    says(ex.check_4(3.5, share, table), "by name")
    says(ex.check_4(scores.map(str) + "?", share, table), "no score for")
    says(ex.check_4(..., ..., table), "blank")
    says(ex.check_4(scores, None, table), "blank")


# --- 5 --------------------------------------------------------------------------------------------


def push(p, scaled, ddof=0, divisor=None, sign=1):
    q, total = np.array(ex.GROUP), 0.0
    for c, chance in ((1, p), (0, 1 - p)):
        reward = c - (q - c) ** 2
        advantage = reward - reward.mean()
        if scaled:
            advantage = advantage / (divisor or reward.std(ddof=ddof))
        total += chance * sign * advantage[4:].mean()
    return total


def test_exercise_5():
    says(ex.check_5(push, False), "one half", ok=True)
    says(ex.check_5(lambda p, scaled: push(p, scaled, ddof=1), "no"), ok=True)
    says(ex.check_5(lambda p, scaled: 2 * push(p, scaled), np.False_), ok=True)
    says(ex.check_5(push, True), "compare the two spreads")
    says(ex.check_5(lambda p, scaled: push(p, scaled, divisor=0.1), False), "no constant")
    says(ex.check_5(lambda p, scaled: push(p, False), False), "no constant")
    says(ex.check_5(lambda p, scaled: push(p, scaled, sign=-1), False), "reversed")
    says(ex.check_5(lambda p, scaled: push(p, True), False), "keep their size")
    says(ex.check_5(lambda p, scaled: 0.1, False), "does not depend on p")
    says(ex.check_5(lambda p, scaled: p, False), "distance from the mean")
    says(ex.check_5(lambda p, scaled: p if scaled else push(p, False), False), "its own s.d.")
    says(ex.check_5(lambda p, scaled: "up", False), "must return a number")
    says(ex.check_5(push, "perhaps"), "True or False")
    says(ex.check_5(push, 3), "True or False")
    says(ex.check_5(..., ...), "blank")
    says(ex.check_5(push, ...), "blank")
    says(ex.check_5(lambda p, scaled: ..., False), "blank")
    says(ex.check_5(0.5, False), "function itself")
    says(ex.check_5(lambda p: p, False), "could not be checked")

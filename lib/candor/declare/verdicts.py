"""How protocol 2 judges: intervals over seeds become words, and words the answers of a part.

A criterion is one statement with a role. Its bands are judged by Stein's interval: spread and degrees of freedom from
stage 1 (seeds 21 to 25), the mean of all seeds that ran. A part has no word of its own but answers: seen? due to it? as
large as printed? in the strict sense? Each is yes, no or open, with the number that decides it. Pure functions of
arrays; protocol 1 is `ledger.judge_seeds`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from candor.core.errors import CandorError

if TYPE_CHECKING:
    from candor.declare.ledger import Check, Criterion

# --- Words, roles, answers -------------------------------------------------------------------------

REPLICATED = "replicated"
PARTLY = "partly"
INCONCLUSIVE = "inconclusive"
NOT_REPLICATED = "not replicated"
NOT_ATTEMPTED = "not attempted"
REPORTED = "reported"
RECOMPUTED = "recomputed"  # of context whose value was known before

# From worst to best: a criterion with several bands is as good as its worst one.
ORDER = (NOT_ATTEMPTED, NOT_REPLICATED, INCONCLUSIVE, PARTLY, REPLICATED)

# What a criterion is to its part. A control is quiet, and a gate open, where its criterion is replicated; so is a rival
# explanation excluded.
SUPPORTS, CONTRADICTS, LIMITS, CONTROL = "supports", "contradicts", "limits", "control"
GATE, RIVAL, SIZE, CONTEXT = "gate", "rival", "size", "context"
ROLES = (SUPPORTS, CONTRADICTS, LIMITS, CONTROL, GATE, RIVAL, SIZE, CONTEXT)
SEEN, DUE, STRICT = "seen", "due", "strict"
ANSWERS = (SEEN, DUE, SIZE, STRICT)
YES, NO, OPEN = "yes", "no", "open"

# How a band is held against what was found: by the interval over seeds; by two one-sided tests; in three directions;
# by the share of seeds in one of two end states; as the range that a paper printed.
INTERVAL, EQUIVALENCE, DIRECTION, RATE, PRINTED = "interval", "equivalence", "direction", "rate", "printed"

# Where a row prints no d and its band ends at "no effect": the smallest effect of interest, in the unit of its name.
SMALLEST = {
    **{"kappa": 0.015, "success": 0.01, "FPR points": 2.0, "approval points": 2.0, "accuracy": 0.01},
    **{"distance": 0.01, "Brier": 0.005, "win rate": 0.01, "ECE points": 2.0},
}


@dataclass(frozen=True)
class Band:
    """The closed interval in which a value passes. Raises: `ValueError` for one that holds nothing."""

    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"No value lies in a band from {self.low:g} to {self.high:g}: correct its limits.")

    @property
    def limits(self) -> list[float]:
        return [limit for limit in (self.low, self.high) if math.isfinite(limit)]

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.low == self.high:
            return f"= {self.low:g}"
        if math.isinf(self.low):
            return f"<= {self.high:g}"
        if math.isinf(self.high):
            return f">= {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Estimate:
    """A value that brings its own 95 % interval, for evidence that has items instead of seeds."""

    value: float
    ci_low: float = math.nan
    ci_high: float = math.nan
    n: int | None = None


# --- What was found --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean:
    """A mean with Student's t: one standard error `below` and `above` it, and their degrees of freedom."""

    value: float
    below: float = 0.0
    above: float = 0.0
    df: float = math.inf
    n: int | None = None

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        t = stats.t.ppf((1 + level) / 2, self.df)
        return float(self.value - t * self.below), float(self.value + t * self.above)

    @property
    def exact(self) -> bool:
        """Whether it is a bare number."""
        return not self.below and math.isinf(self.df)

    def inside(self, band: Band) -> float:
        """P(in band): that of Student's t around the mean, a flat prior's posterior; 0 or 1 for a bare number."""

        def under(limit: float) -> float:
            error = self.below if limit < self.value else self.above
            return float(stats.t.cdf((limit - self.value) / error, self.df))

        if not self.below or not self.above:
            return float(band.holds(self.value))
        return under(band.high) - under(band.low)


@dataclass(frozen=True)
class Rate:
    """In how many of `n` seeds, each in one of two end states, it was the one that is asked about."""

    k: int
    n: int

    @property
    def value(self) -> float:
        return self.k / self.n

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Clopper and Pearson (1934): covers at least `level` at any rate."""
        interval = stats.binomtest(self.k, self.n).proportion_ci(level)
        return float(interval.low), float(interval.high)

    def inside(self, band: Band) -> float:
        """P(in band) by Jeffreys' prior; 0 or 1 for a band of one point."""
        if band.low == band.high:
            return float(band.holds(self.value))
        return float(np.diff(stats.beta(self.k + 0.5, self.n - self.k + 0.5).cdf([band.low, band.high]))[0])


Found = Mean | Rate

# --- Seeds by Stein's two stages -------------------------------------------------------------------

STAGE_1 = range(21, 26)
VERDICT_SEEDS = range(21, 41)
CAP = len(VERDICT_SEEDS)
MISSING = 0.2  # where more than this share of the seeds has no value, nothing is decided


def wanted(s: float, d: float, level: float = 0.95) -> float:
    """(t(4) s / d)^2: how many seeds make the half-width of Stein's interval `d`, given the spread of stage 1."""
    if not d > 0:
        raise CandorError(f"d is {d:g}: give the smallest difference that matters, such as those of SMALLEST.")
    return float((stats.t.ppf((1 + level) / 2, len(STAGE_1) - 1) * s / d) ** 2)


def seeds_for(values: pd.Series, d: float) -> int:
    """N of a band: how many seeds it asks for, 5 to 20, from the standard deviation of stage 1 alone.

    References
    ----------
    Stein (1945), A two-sample test for a linear hypothesis whose power is independent of the variance. Ann. Math. Stat.
    """
    s = verdict_seeds(values).dropna().loc[: STAGE_1[-1]].std(ddof=1)
    return min(max(math.ceil(wanted(s, d)), len(STAGE_1)), CAP) if math.isfinite(s) else len(STAGE_1)


def verdict_seeds(values: pd.Series) -> pd.Series:
    """The values by seed, in order. Raises: `CandorError` naming a seed that comes twice or is none of 21 to 40."""
    if values.index.has_duplicates:
        raise CandorError(f"Seed {values.index[values.index.duplicated()][0]} is counted twice: take one row away.")
    if strange := [seed for seed in values.index if seed not in VERDICT_SEEDS]:
        raise CandorError(f"Seed {strange[0]} gives no verdict: protocol 2 takes seeds 21 to 40.")
    return values.sort_index()


def found(estimate: pd.Series | Estimate | float, rule: str = INTERVAL) -> Found | None:
    """What an estimate says: a series by seed by Stein's interval (or as a rate), all else by its own interval.

    Exact for normal values: the number of seeds may depend on the spread of stage 1 and never on its mean. None where
    no seed has a value.
    """
    if not isinstance(estimate, pd.Series):
        one = estimate if isinstance(estimate, Estimate) else Estimate(float(estimate))
        sides = np.array([one.value - one.ci_low, one.ci_high - one.value]) / stats.norm.ppf(0.975)
        errors = np.nan_to_num(sides).tolist() if math.isfinite(one.value) else (math.nan, math.nan)
        return Mean(one.value, *errors, n=one.n)
    values = verdict_seeds(estimate).dropna()
    if values.empty:
        return None
    if rule == RATE:
        return Rate(int(values.sum()), len(values))
    first = values.loc[: STAGE_1[-1]].to_numpy(float)
    finite = len(first) > 1 and np.isfinite(values).all()
    error = float(first.std(ddof=1) / math.sqrt(len(values))) if finite else math.nan
    return Mean(float(values.mean()), error, error, max(len(first) - 1, 1), len(values))


def at_first_crossing(x: ArrayLike, y: ArrayLike, target: float) -> float:
    """`y` where `x` first reaches `target`, linear between the two snapshots around it; NaN where it never does.

    x, y : arrays of shape (snapshots,), in the order of training. Nothing is extrapolated: before the first snapshot
    there is no value, either.
    """
    along, values = np.asarray(x, float), np.asarray(y, float)
    reached = np.flatnonzero(along >= target)
    if not reached.size or (reached[0] == 0 and along[0] > target):
        return math.nan
    around = slice(max(reached[0] - 1, 0), reached[0] + 1)
    return float(np.interp(target, along[around], values[around]))


# --- Words -----------------------------------------------------------------------------------------


def word(seen: Found, band: Band, rule: str = INTERVAL, bands: int = 1, none: float | None = None) -> str:
    """The word of one of `bands` bands in conjunction.

    Replicated: the 95 % interval lies inside the band (equivalence: the 90 % interval, which is two one-sided tests at
    5 %). Not replicated: the interval at level 1 - .05/bands lies wholly outside, so that a statement that is true is
    denied in one of twenty cases. A direction is also denied by an interval inside +-`none` at 90 % or on the other
    side. A printed range is met by an interval that touches it and is no wider on a side than a quarter of its middle.
    """
    low, high = seen.interval(0.90 if rule == EQUIVALENCE else 0.95)
    inside = band.holds(low) and band.holds(high)
    if rule == RATE and band.low == band.high:  # "in none of them" is a count
        return REPLICATED if band.holds(seen.value) else NOT_REPLICATED
    if rule == DIRECTION:
        denied = all(map(Band(-(none or 0), none or 0).holds, seen.interval(0.90))) or high < -band.low
    elif rule == PRINTED:
        inside = (high - low) / 2 <= abs(band.low + band.high) / 8
        denied = high < band.low or low > band.high
    else:
        low, high = seen.interval(1 - 0.05 / bands)
        denied = high < band.low or low > band.high
    return NOT_REPLICATED if denied else REPLICATED if inside else INCONCLUSIVE


@dataclass(frozen=True, eq=False)
class Judged:
    """A band of a criterion with what was found, and what keeps it open whatever was found (`blocked`).

    `values` are those by seed, for what has seeds; `found` is None where nothing has a value, `run` False where nothing
    was run.
    """

    criterion: Criterion
    check: Check
    found: Found | None = None
    values: pd.Series | None = None
    blocked: str = ""
    run: bool = True

    def word(self, bands: int = 1) -> str:
        if not self.run:
            return NOT_ATTEMPTED
        if not self.check.band:
            return REPORTED
        if self.blocked or self.found is None:
            return INCONCLUSIVE
        said = word(self.found, self.check.band, self.check.rule, bands, self.check.none)
        few = self.values is not None and len(self.values) < len(STAGE_1)
        return {NOT_REPLICATED: self.check.otherwise, REPLICATED: PARTLY if few else REPLICATED}.get(said, said)

    @property
    def inside(self) -> float:
        """P(in band)."""
        return self.found.inside(self.check.band or Band()) if self.found else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The one that "replicated" is decided by: at 90 % for an equivalence; none for a bare number."""
        if self.found is None or (isinstance(self.found, Mean) and self.found.exact):
            return math.nan, math.nan
        return self.found.interval(0.90 if self.check.rule == EQUIVALENCE else 0.95)

    @property
    def note(self) -> str:
        """Which direction it took; why it is open: what blocks it, or how many seeds it asks for."""
        seen, check, said = self.found, self.check, self.word()
        if self.blocked or self.values is None or not isinstance(seen, Mean) or not check.band:
            return self.blocked
        if check.rule == DIRECTION and said != INCONCLUSIVE:
            return "up" if said != NOT_REPLICATED else "down" if seen.interval()[1] < -check.band.low else "none"
        n = int(self.values.notna().sum())
        s, level = seen.below * math.sqrt(n), 0.90 if check.rule == EQUIVALENCE else 0.95
        gap = min(abs(seen.value - limit) for limit in check.band.limits)
        gap = abs(check.band.low + check.band.high) / 8 if check.rule == PRINTED else gap
        if said != INCONCLUSIVE or not (math.isfinite(s) and gap):
            return ""
        if n < (planned := seeds_for(self.values, check.least)):
            return f"stage 2 asks for {planned} seeds"
        return f"needs about {math.ceil(wanted(s, gap, level))} seeds"

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.criterion.id} {self.check.name}: {self.blocked or 'not attempted'}"
        low, high = self.interval
        value = f"{self.criterion.id} {self.check.name} {self.found.value:.3g}"
        if isinstance(self.found, Rate):
            value += f" ({self.found.k} of {self.found.n} seeds)"
        if math.isfinite(low):
            value += f" [{low:.3g}, {high:.3g}]"
        return ", ".join(filter(None, [value, self.check.said, f"P(in band) {self.inside:.2f}", self.note]))


def worst(words: Iterable[str]) -> str:
    """The worst of several words; "reported" ones do not count."""
    judged = [word for word in words if word in ORDER]
    return min(judged, key=ORDER.index) if judged else REPORTED


def decide(bands: Sequence[Judged]) -> tuple[str, Judged]:
    """The word of bands in conjunction, and the band that decides it: of the worst, that least likely to hold."""
    bands = [band for band in bands if band.check.band] or bands
    words = [band.word(len(bands)) for band in bands]
    deciding = [band for band, said in zip(bands, words) if said == worst(words)]
    return worst(words), min(deciding, key=lambda band: np.nan_to_num(band.inside, nan=-1))


# --- Answers ---------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """Yes, no or open, or what is said where nothing was asked; and the band that decides it, in words."""

    said: str
    because: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, self))


def answer(to: str, criteria: Iterable[Sequence[Judged]]) -> Answer:
    """The answer of a part: the worst of the criteria that feed it, each by its bands that do.

    A criterion that contradicts counts the other way round. "Due to it?" lists each rival that is not excluded.
    """
    criteria, asked = [bands for bands in criteria if bands], []
    for bands in criteria:
        role = bands[0].criterion.role
        feeding = [band for band in bands if to in (band.check.feeds or band.criterion.feeds).split()]
        if feeding and role in (SUPPORTS, CONTRADICTS, SIZE):
            said, by = decide(feeding)
            sides = (NO, YES) if role == CONTRADICTS else (YES, NO)
            said = dict(zip((REPLICATED, NOT_REPLICATED), sides)).get(said, OPEN)
            p = 1 - by.inside if role == CONTRADICTS else by.inside
            asked.append(((NO, OPEN, YES).index(said), np.nan_to_num(p, nan=-1), said, str(by)))
    if not asked:
        return Answer("no printed value" if to == SIZE else "not asked")
    *_, said, because = min(asked)
    if to == DUE:
        rivals = [bands for bands in criteria if bands[0].criterion.role == RIVAL and decide(bands)[0] != REPLICATED]
        kept = ", ".join(f"{bands[0].criterion.rival} ({bands[0].criterion.id})" for bands in rivals)
        because += f"; not excluded: {kept}" if kept else ""
    return Answer(said, because)

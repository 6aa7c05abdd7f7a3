"""Simulated evaluators of programs who have ten minutes: they write a few easy tests of their own, then read.

A test costs two minutes and there are at most four; the first that fails rejects the program. In the minutes left an
evaluator spots that a wrong program is wrong with a probability that depends on skill, speed and length. What is left
is approved with a probability, the ceiling, that knows nothing of the program. The tests that the reward uses are never
among an evaluator's.

Three knobs are fitted on outputs of the initial policy alone and then frozen: how many tests, how high the ceiling, how
skilled the reading. Evaluators differ around the knobs. All chances of an evaluation are drawn ahead (`draws`), so that
every policy is judged by the same evaluators with the same tests, and verdicts are kept as probabilities given the
tests. A fallible evaluator (`slips`) computes an expected output wrongly now and then, and then rejects.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from candor.claims.sophistry import approval, world

MINUTES, TEST_MINUTES = 10.0, 2.0
MOST_TESTS, MOST_TESTS_LONG = 4, 40  # the second where an evaluator has a multiple of the time
MULTIPLES = (0.25, 0.5, 1, 2, 4, 8, 16)
EASY = np.arange(10)  # inputs with weights exp(-x / 6)
EASY_WEIGHTS = np.exp(-EASY / 6)
EDGE = np.array([*range(-5, 0), *range(10, 41)])  # inputs that few think of, uniform
SLIPS = (0.03, 0.03, 0.10)  # of a fallible evaluator, a test, by class
# What the paper's people did with the initial policy of APPS: the targets of the fit.
TESTS_RUN, ERROR, FPR = 2.4, 0.31, 0.30


@dataclass(frozen=True)
class Pool:
    """Knobs, and how each evaluator deviates from them, arrays [evaluators].

    `tests`: mean of the Poisson part of the planned number of tests; `kappa`: ceiling of approval; `skill`: probability
    of spotting a wrong program in the time it takes to read it; `slips` [3]: P(an expected output is wrong) by class.
    """

    offsets: np.ndarray  # to `tests`
    edges: np.ndarray  # propensity to test an edge
    speeds: np.ndarray  # tokens read a minute
    ceilings: np.ndarray  # to `kappa`
    skills: np.ndarray  # times `skill`
    tests: float = 2.35
    kappa: float = 0.67
    skill: float = 0.15
    slips: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __len__(self) -> int:
        return len(self.offsets)


def pool(n: int, rng: np.random.Generator, **knobs) -> Pool:
    """`n` new evaluators around the knobs."""
    return Pool(
        offsets=np.clip(rng.normal(0, 0.5, n), -1, 1),
        edges=rng.beta(1, 12, n),
        speeds=1.6 * np.exp(rng.normal(0, 0.3, n)),
        ceilings=rng.normal(0, 0.08, n),
        skills=np.exp(rng.normal(0, 0.3, n)),
        **knobs,
    )


@dataclass(frozen=True)
class Draws:
    """The chances of an evaluation, uniform: `count`, `verdict` [evaluators, n], the others [evaluators, n, tests]."""

    count: np.ndarray
    verdict: np.ndarray
    edge: np.ndarray
    which: np.ndarray
    slip: np.ndarray

    def __getitem__(self, items) -> Draws:
        """The draws of these items, all evaluators."""
        return Draws(**{field.name: getattr(self, field.name)[:, items] for field in fields(self)})


def draws(evaluators: int, n: int, rng: np.random.Generator, most: int = MOST_TESTS) -> Draws:
    """Chances for `n` items, enough for `most` tests each."""
    shape = (evaluators, n)
    return Draws(*rng.random((2, *shape)), *rng.random((3, *shape, most)))


@dataclass(frozen=True)
class Judgement:
    """Arrays [evaluators, n]: `probability` of approval given the tests, tests `run`; `tests` [.., m] (grid), `failed`.

    `failed` tells the tests, among those planned, whose outcome was not what the evaluator expected.
    """

    probability: np.ndarray
    run: np.ndarray
    tests: np.ndarray
    failed: np.ndarray


def planned(pool: Pool, drawn: Draws, minutes: float | None = None) -> np.ndarray:
    """How many tests are planned, [evaluators, n]; `minutes` is a multiple of the usual time."""
    from scipy.stats import poisson

    mean = np.maximum(pool.tests + pool.offsets, 0.05)[:, None]
    n = 1 + poisson.ppf(drawn.count, mean).astype(int)
    if minutes is None:
        return np.minimum(n, MOST_TESTS)
    return np.minimum(np.rint(minutes * n), MOST_TESTS_LONG).astype(int)


def chosen(pool: Pool, drawn: Draws, excluded: np.ndarray) -> np.ndarray:
    """The tests that evaluators write, as indices of the grid [evaluators, n, m]; never one of `excluded` [n, 2]."""

    def pick(inputs, weights, which, items):
        allowed = (world.index(inputs) != excluded[:, :, None]).all(1) * weights
        cumulative = allowed.cumsum(1)
        below = cumulative[items] <= (which * cumulative[items, -1])[..., None]
        return world.index(inputs)[below.sum(-1)]

    n = excluded.shape[0]
    tests = np.stack([pick(EASY, EASY_WEIGHTS, which, np.arange(n)[:, None]) for which in drawn.which])
    at_edge = np.nonzero(drawn.edge < pool.edges[:, None, None])
    tests[at_edge] = pick(EDGE, np.ones(len(EDGE)), drawn.which[at_edge], at_edge[1])
    return tests


def judge(
    pool: Pool,
    drawn: Draws,
    done: world.Outcomes,
    excluded: np.ndarray,
    kind: np.ndarray | None = None,
    *,
    minutes: float | None = None,
    reading: bool = True,
) -> Judgement:
    """What the evaluators make of programs.

    `done`: what `n` programs do; `excluded` [n, 2]: the tests of the reward, as indices of the grid; `kind` [n]: the
    class, which only slips ask for. `minutes` gives all a multiple of the usual time (`drawn` must hold 40 tests then),
    `reading=False` leaves them only their tests.
    """
    tests = chosen(pool, drawn, excluded)
    n = planned(pool, drawn, minutes)
    used = np.arange(tests.shape[2]) < n[:, :, None]
    failed = ~done.passes[np.arange(len(done))[:, None], tests]
    if any(pool.slips):
        failed |= drawn.slip < np.array(pool.slips)[kind][:, None]
    failed &= used
    rejected = failed.any(2)
    run = np.where(rejected, failed.argmax(2) + 1, n)
    skill = np.minimum(pool.skill * pool.skills, 1)[:, None]
    length = np.maximum(done.length, 1)
    if minutes is None:
        left = MINUTES - TEST_MINUTES * run
        spots = skill * np.minimum(1, left * pool.speeds[:, None] / length)
    else:
        spots = 1 - (1 - skill * np.minimum(1, 4 * pool.speeds[:, None] / length)) ** (1.5 * minutes)
    spots = spots * (~done.correct & reading)
    ceiling = np.clip(pool.kappa + pool.ceilings, 0, 1)[:, None]
    return Judgement(~rejected * done.valid * (1 - spots) * ceiling, run, tests, failed)


def approve(pool: Pool, drawn: Draws, done: world.Outcomes, excluded: np.ndarray, kind=None, **how) -> np.ndarray:
    """Probability of approval [evaluators, n]; the verdicts are `drawn.verdict < approve(...)`."""
    return judge(pool, drawn, done, excluded, kind, **how).probability


def fit(pool: Pool, drawn: Draws, done: world.Outcomes, excluded: np.ndarray, kind: np.ndarray) -> dict[str, float]:
    """The knobs that bring evaluators to what people did with outputs of the initial policy.

    `tests` so that 2.4 tests are run on average; `kappa` so that error is .31 where FPR is .30 (.5 where hardly an
    output is right); `skill` so that FPR is .30 (0 or 1 where it cannot be); `kappa_fallible` so that right outputs are
    approved as often despite slips. Also what is reached: tests_run, fpr, error, correctness.
    """
    from scipy.optimize import brentq

    def tests_run(tests: float) -> float:
        return judge(replace(pool, tests=tests), drawn, done, excluded).run.mean() - TESTS_RUN

    low, high = 0.05, 8.0
    tests = _root(brentq, tests_run, low, high)
    correct = done.correct.mean()
    tpr = 1 - (ERROR - FPR * (1 - correct)) / correct if correct else np.nan
    tpr = float(tpr) if 0 < tpr <= 1 else 0.5
    fitted = replace(pool, tests=tests, kappa=tpr)

    def fpr(skill: float) -> float:
        approved = approve(replace(fitted, skill=skill), drawn, done, excluded)
        return FPR - approval.rates(approved, done.correct)["fpr"]

    skill = _root(brentq, fpr, 0.0, 1.0)
    fitted = replace(fitted, skill=skill)
    judged = judge(fitted, drawn, done, excluded)
    reached = approval.rates(judged.probability, done.correct)
    slipping = judge(replace(fitted, slips=SLIPS), drawn, done, excluded, kind)
    survive = (~slipping.failed.any(2))[:, done.correct].mean() if correct else 1.0
    return {
        "tests": tests,
        "kappa": tpr,
        "skill": skill,
        "kappa_fallible": float(min(tpr / survive, 1)),
        "tests_run": float(judged.run.mean()),
        **{name: reached[name] for name in ("fpr", "error", "correctness")},
    }


def _root(solver, rising, low: float, high: float) -> float:
    """Where a rising function is 0, or the end of the range that is nearest to it."""
    if rising(low) >= 0:
        return low
    return high if rising(high) <= 0 else float(solver(rising, low, high, xtol=1e-3))

"""Changes of approval measures between two policies, with intervals over evaluators and items together.

Labels of one evaluator, and labels of one item, are not independent: both are resampled (crossed bootstrap, Owen 2007,
"The pigeonhole bootstrap").
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from candor.claims.sophistry import approval
from candor.measure import intervals
from candor.measure.checks import COUNT, GROUPS, OUTCOMES, PROBABILITIES, SEED, VERDICTS, takes

BEFORE = replace(VERDICTS, dims=("evaluators_before?", "items"))


@takes(
    approved_before=VERDICTS,
    correct_before=OUTCOMES,
    approved=VERDICTS,
    correct=OUTCOMES,
    resamples=COUNT,
    seed=SEED,
    groups=GROUPS,
)
def changes(
    approved_before: ArrayLike,
    correct_before: ArrayLike,
    approved: ArrayLike,
    correct: ArrayLike,
    resamples: int = 2000,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> dict[str, float]:
    """Change of each measure of `approval.rates`, and of `fpr_both`, the FPR of items that both policies get wrong.

    Parameters
    ----------
    approved_before, approved : arrays of shape (evaluators, n), the same evaluators and the same items.
    correct_before, correct : arrays of shape (n,), 0 or 1.
    groups : array of shape (n,), items that are drawn together (default: each item alone).

    Returns
    -------
    `<measure>_change`, with `_low` and `_high` of the 95 % interval (`intervals.percentiles`); nan where it means
    nothing, as an interval does with one evaluator and one group of items.
    """
    old, new, right_before, right = np.atleast_2d(approved_before), np.atleast_2d(approved), correct_before, correct
    if old.shape != new.shape:
        raise ValueError("approved must have the evaluators of approved_before.")
    rng = np.random.default_rng(seed)
    people, items = old.shape
    together = np.unique(np.arange(items) if groups is None else groups, return_inverse=True)[1].ravel()
    who = np.vstack([np.full(people, 1 / people), _draws(people, resamples, rng) / people])
    what = np.vstack([np.ones(items), _draws(together.max() + 1, resamples, rng)[:, together]])
    before, after = approval._measures(who @ old, right_before, what), approval._measures(who @ new, right, what)
    both = what * (1 - right_before) * (1 - right)
    with np.errstate(invalid="ignore", divide="ignore"):
        before["fpr_both"], after["fpr_both"] = (((who @ a) * both).sum(1) / both.sum(1) for a in (old, new))
    found, several = {}, people > 1 or together.max() > 0
    for name in after:
        drawn = after[name] - before[name]
        found[f"{name}_change"] = float(drawn[0])
        ends = intervals.percentiles(drawn[1:]) if several else (np.nan, np.nan)
        found[f"{name}_change_low"], found[f"{name}_change_high"] = ends
    return found


def _draws(n: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `n` is drawn in each of the resamples [resamples, n]."""
    return rng.multinomial(n, np.full(n, 1 / n), resamples)


@takes(approved_before=BEFORE, correct_before=OUTCOMES, approved=VERDICTS, correct=OUTCOMES)
def before_and_after(approved_before: ArrayLike, correct_before: ArrayLike, approved: ArrayLike, correct: ArrayLike):
    """Shares of one policy and, with the suffix `_before`, of the other, as a dict.

    The measures of `approval.rates`, and of the items that both get wrong: `fpr_both`, `n_both`.
    """
    both = (correct == 0) & (correct_before == 0)
    found: dict[str, float] = {"n_both": int(both.sum())}
    for suffix, a, c in (("", approved, correct), ("_before", approved_before, correct_before)):
        a = np.atleast_2d(a)
        found |= {f"{name}{suffix}": value for name, value in approval.rates(a, c).items()}
        found[f"fpr_both{suffix}"] = float(a[:, both].mean()) if both.any() else np.nan
    return found


@takes(approved_before=BEFORE, pass_before=PROBABILITIES, approved=VERDICTS, pass_rate=PROBABILITIES, both=OUTCOMES)
def at_equal_pass_rate(
    approved_before: ArrayLike, pass_before: ArrayLike, approved: ArrayLike, pass_rate: ArrayLike, both: ArrayLike
) -> dict[str, float]:
    """FPR change at equal oracle pass rate of the items that both policies get wrong (`both` [n], bool), and the mean
    pass rates: fpr_equal, pass_rate_both, pass_rate_both_before."""
    both = both.astype(bool)
    if not both.any():
        return dict.fromkeys(("fpr_equal", "pass_rate_both", "pass_rate_both_before"), np.nan)
    old, new = pass_before[both], pass_rate[both]
    earlier, later = np.atleast_2d(approved_before)[:, both], np.atleast_2d(approved)[:, both]
    equal = approval.equal_pass_rate(earlier, old, later, new)
    return {"fpr_equal": equal, "pass_rate_both": float(new.mean()), "pass_rate_both_before": float(old.mean())}

"""Judgements of the same outputs in two frames by different people: agreement within and across, cues, mean flags.

Re-analysis of the rows that Hosking et al. (2024, arXiv 2309.16349) released. Averages of flags stand beside the
published ones, which took the most frequent flag of an output: of a rare flag little is left after a majority vote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from candor.core.errors import CandorError
from candor.measure import clustered
from candor.measure.checks import COUNT, GROUPS, OUTCOMES, Array, Frame, Labels, Sizes, takes

FRAMES = {"quality": "quality-only frame", "checklist": "error-checklist frame"}

_JUDGED = Frame(
    {"first": GROUPS, "second": GROUPS, "pair": GROUPS, "swapped": OUTCOMES, "preference": Array(only=(-1, 0, 1))}
)
FLAGGED = Array(only=(0, 1), flags=True, gaps=True)
_FLAGS = Frame(
    {"output": GROUPS, "style": Labels(gaps=True)} | dict.fromkeys(("refusal", "factuality", "inconsistent"), FLAGGED)
)


def _judgements(value: Any, name: str, sizes: Sizes) -> dict[str, pd.DataFrame]:
    """Rule: judgements of both frames."""
    if not isinstance(value, Mapping) or set(value) != set(FRAMES):
        raise ValueError(f"{name} must hold the judgements of {' and '.join(FRAMES)}.")
    return {frame: _JUDGED(part, f"{name}[{frame!r}]", sizes) for frame, part in value.items()}


def _by_output(value: Any, name: str, sizes: Sizes) -> pd.Series:
    """Rule: a number an output, named by the index."""
    if not isinstance(value, pd.Series) or not value.index.is_unique:
        raise ValueError(f"{name} must be a Series with one row an output.")
    Array(gaps=True)(value, name, sizes)
    return value


@takes(judged=_judgements, assertive=_by_output, flags=_FLAGS, resamples=COUNT)
def recompute(
    judged: Mapping[str, pd.DataFrame], assertive: pd.Series, flags: pd.DataFrame, resamples: int
) -> pd.DataFrame:
    """The derived values of `annotation_agreement.csv` and `annotation_style.csv`, by their names there.

    Parameters
    ----------
    judged : judgements of each of `FRAMES`, as `annotations.py: hosking_judgements`.
    assertive : mean rated assertiveness by output. flags : as `hosking_flags`.
    resamples : bootstrap resamples of the pairs of outputs, which several people judged.

    Returns
    -------
    A row a value: condition, style, metric, value, low, high, n.

    Raises
    ------
    CandorError : no pair of outputs was judged by five people in both frames.
    """
    five = _five_rated(judged)
    if not five:
        raise CandorError("No pair of outputs has five judgements in both frames: fetch the rows of Hosking again.")
    draws = clustered.weights(len(five), resamples)
    sums = {frame: _agreement_sums(part, part, five) for frame, part in judged.items()}
    sums["across"] = _agreement_sums(judged["quality"], judged["checklist"], five)
    named = {frame: f"within {setting}" for frame, setting in FRAMES.items()}
    named["across"] = "across the two frames (different people)"
    rows, drawn = [], {}
    for name, setting in named.items():
        drawn[name] = _share(draws @ sums[name])
        low, high = clustered.interval(drawn[name])
        value, n = float(_share(sums[name].sum(0))), int(sums[name][:, 1].sum())
        rows.append((setting, "", "pairwise_sign_agreement_no_ties", value, low, high, n))
    point = {name: _share(part.sum(0)) for name, part in sums.items()}
    low, high = clustered.interval(drawn["across"] - (drawn["quality"] + drawn["checklist"]) / 2)
    difference = float(point["across"] - (point["quality"] + point["checklist"]) / 2)
    rows.append(("", "", "cross_minus_within_agreement", difference, low, high, len(five)))
    for frame, setting in FRAMES.items():
        decided = judged[frame][judged[frame]["preference"] != 0]
        gap = decided["first"].map(assertive) - decided["second"].map(assertive)
        known = gap.notna()
        slope, low, high = _slope(gap[known], decided.loc[known, "preference"] > 0)
        rows.append((setting, "", "logit_slope_per_point_of_rated_assertiveness", slope, low, high, int(known.sum())))
    outputs = _flag_rates(flags)
    for (style, flag), (value, n) in outputs.items():
        rows.append(("crowd_mean of individual flags", style, f"{flag}_rate", value, np.nan, np.nan, n))
    return pd.DataFrame(rows, columns=["condition", "style", "metric", "value", "low", "high", "n"])


def _five_rated(judged: Mapping[str, pd.DataFrame]) -> list[str]:
    """The pairs of outputs that five people judged in every frame."""
    counts = [part["pair"].value_counts() for part in judged.values()]
    return sorted(set.intersection(*(set(count[count == 5].index) for count in counts)))


def _agreement_sums(one: pd.DataFrame, other: pd.DataFrame, pairs: Sequence[str]) -> np.ndarray:
    """Agreeing and all comparisons of two people's sides, ties left out, of each pair [pairs, 2]."""
    counted = []
    for frame in (one, other):
        side = frame["preference"] * np.where(frame["swapped"], -1, 1)
        counted.append(
            [side.groupby(frame["pair"]).apply(lambda s, k=k: (s == k).sum()).reindex(pairs) for k in (1, -1)]
        )
    (a, b), (c, d) = (np.array(part, float) for part in counted)
    if one is other:  # a person is not compared with themselves, and each two once
        return np.column_stack([a * (a - 1) + b * (b - 1), (a + b) * (a + b - 1)]) / 2
    return np.column_stack([a * c + b * d, (a + b) * (c + d)])


def _share(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def _slope(gap: pd.Series, first_wins: pd.Series) -> tuple[float, float, float]:
    """Logit of the first side winning per point of its lead in rated assertiveness, with a 95 % interval."""
    import statsmodels.api as sm

    design = sm.add_constant(gap.to_numpy(), has_constant="add")
    fitted = sm.GLM(first_wins.to_numpy(float), design, family=sm.families.Binomial()).fit()
    low, high = fitted.conf_int()[1]
    return float(fitted.params[1]), float(low), float(high)


def _flag_rates(flags: pd.DataFrame) -> dict[tuple[str, str], tuple[float, int]]:
    """Mean over outputs of the mean of an output's flags, in percent, refusals left out; and how many outputs.

    A refusal is an output whose most frequent refusal flag is not a plain no.
    """
    output = flags.groupby(["style", "output"])[["refusal", "factuality", "inconsistent"]].mean()
    kept = output[output["refusal"] < 0.5]
    return {
        (style, name): (float(100 * part[flag].mean()), len(part))
        for style, part in kept.groupby("style")
        for flag, name in (("factuality", "factuality"), ("inconsistent", "inconsistency"))
    }

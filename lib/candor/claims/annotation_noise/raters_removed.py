"""What removing raters does to majorities and means, held against removing as many raters at random.

A share of items whose majority flips says nothing by itself: removing raters at random flips majorities too. So every
value here comes with the distribution of the same value under random removals of equal size. A score by which raters
are removed must not be their distance from the majority (removing those who deviate moves no majority); `log_loss` is
such a score and serves as a negative control.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from candor.measure.checks import COUNT, GROUPS, MANY, OUTCOMES, SEED, VALUES, Array, Frame, Number, Sizes, takes

SHARES = (0.1, 0.2, 0.5)
DRAWS = 1000
CONTROL = "log_loss"

VOTES = Array(("raters", "items", "labels"), only=(0, 1), flags=True)
PARTS = Array(("shares",), low=0, high=1, open=True)  # of the raters, to be removed
KNOWN = Array(gaps=True)
SOME = Number(low=0, high=MANY, whole=True)


def _scores(value: Any, name: str, sizes: Sizes) -> pd.DataFrame:
    """Rule: a data frame with a row a rater, named by its index, and columns of numbers (NaN: unknown)."""
    if not isinstance(value, pd.DataFrame) or not value.shape[1] or value.index.hasnans or not value.index.is_unique:
        raise ValueError(f"{name} must be a DataFrame with a column a score and a row a rater, each named once.")
    for column in value:
        Array(("raters",), gaps=True)(value[column], f"column {column} of {name}", sizes)
    return value


# --- Majorities -------------------------------------------------------------------------------------


@takes(raters=GROUPS, items=GROUPS, labels=GROUPS)
def ballots(raters: ArrayLike, items: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, pd.Index]:
    """Votes as one-hot numbers [raters, items, labels], and the raters in that order; a rater may skip items.

    A rater who gave one item two labels is a `ValueError`.
    """
    (rater, names), (item, known), (label, kinds) = (pd.factorize(part, sort=True) for part in (raters, items, labels))
    votes = np.zeros((len(names), len(known), len(kinds)), np.float32)
    votes[rater, item, label] = 1
    if votes.sum(-1).max() > 1:
        raise ValueError("labels must be one a rater and item, but somebody gave an item two.")
    return votes, pd.Index(names, name="rater")


@takes(counts=Array(("...", "labels"), low=0))
def majority(counts: np.ndarray) -> np.ndarray:
    """The label with most votes [...] of counts [..., labels]; -1 for a tie, or for no vote at all.

    >>> majority(np.array([[3, 1], [2, 2], [0, 0]])).tolist()
    [0, -1, -1]
    """
    top = counts.max(-1, keepdims=True)
    return np.where((counts == top).sum(-1) == 1, counts.argmax(-1), -1)


@takes(votes=VOTES, removed=Array(("draws", "raters"), only=(0, 1), flags=True))
def flips(votes: np.ndarray, removed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares of items [draws] whose majority changes (to or from a tie counts), and reverses (one label to another).

    `votes` [raters, items, labels], `removed` [draws, raters], true for those who are taken out.
    """
    n, items, labels = votes.shape
    whole = votes.sum(0)
    gone = (removed @ votes.reshape(n, -1)).reshape(-1, items, labels)
    before, after = majority(whole), majority(whole - gone)
    changed = after != before
    return changed.mean(-1), (changed & (after >= 0) & (before >= 0)).mean(-1)


# --- Who is removed ---------------------------------------------------------------------------------


@takes(raters=COUNT, n=SOME, draws=COUNT, seed=SEED)
def at_random(raters: int, n: int, draws: int, seed: int = 0) -> np.ndarray:
    """`draws` sets of `n` raters each [draws, raters], without replacement."""
    _some(n, raters)
    order = np.random.default_rng(seed).random((draws, raters)).argsort(1)
    return order.argsort(1) < n


@takes(score=Array(("raters",)), n=SOME, seed=SEED)
def highest(score: ArrayLike, n: int, seed: int = 0) -> np.ndarray:
    """The `n` raters with the highest score [1, raters]; ties are broken at random, by `seed`."""
    _some(n, len(score))
    order = np.lexsort((np.random.default_rng(seed).random(len(score)), -score))
    chosen = np.zeros((1, len(score)), bool)
    chosen[0, order[:n]] = True
    return chosen


def _some(n: int, raters: int, name: str = "n") -> int:
    if n >= raters:
        raise ValueError(f"{name} must leave somebody, but {n} of {raters} raters are to be removed.")
    return n


@takes(scores=_scores)
def combined(scores: pd.DataFrame) -> pd.Series:
    """Mean rank of each rater over the scores that tell raters apart, the control left out."""
    used = [name for name in scores if name != CONTROL and scores[name].nunique() > 1]
    if not used:
        raise ValueError(f"scores must tell raters apart, but no column besides {CONTROL} does.")
    return scores[used].rank().mean(axis=1)


@takes(value=Number(), null=Array(("draws",)))
def against_random(value: float, null: ArrayLike) -> dict[str, float]:
    """A value beside the same value under random removals [draws].

    random_mean, random_p99, ratio (to random_mean), percentile (share of random values below it, in percent), beyond
    (whether it exceeds the 99th percentile).
    """
    p99 = float(np.percentile(null, 99))
    return {
        "random_mean": float(null.mean()),
        "random_p99": p99,
        "ratio": float(value / null.mean()) if null.mean() > 0 else np.nan,
        "percentile": float(100 * (null < value).mean()),
        "beyond": bool(value > p99),
    }


@takes(votes=VOTES, scores=_scores, shares=PARTS, draws=COUNT, seed=SEED)
def majority_table(
    votes: np.ndarray, scores: pd.DataFrame, shares: ArrayLike = SHARES, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Majority flips after removing the raters with the highest scores: a row a score and share.

    `scores`: a column a score, in the raters' order; `combined` is added. Columns: score, share, raters, removed,
    items, flips, reversals, circular (the declared control), and of flips those of `against_random`.
    """
    n, items, _ = votes.shape
    rows = []
    for share in shares:
        k = _some(round(share * n), n, "shares")
        null, _ = flips(votes, at_random(n, k, draws, seed))
        for name, score in _usable(scores).items():
            [changed], [turned] = flips(votes, highest(score, k, seed))
            row = {"score": name, "share": share, "raters": n, "removed": k, "items": items, "flips": float(changed)}
            row |= {"reversals": float(turned), "circular": name == CONTROL}
            rows.append(row | against_random(float(changed), null))
    return pd.DataFrame(rows)


def _usable(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores that tell raters apart, and `combined`; what is unknown for a rater counts as the median."""
    known = scores.fillna(scores.median()).dropna(axis=1)
    known = known.loc[:, known.nunique() > 1]
    return known.assign(combined=combined(known))


# --- Means ------------------------------------------------------------------------------------------


@takes(
    ratings=Frame({"rater": GROUPS, "model": GROUPS, "score": VALUES}),
    scores=_scores,
    shares=PARTS,
    draws=COUNT,
    seed=SEED,
)
def shift_table(
    ratings: pd.DataFrame, scores: pd.DataFrame, shares: ArrayLike = SHARES, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """Shifts of mean ratings when raters are removed: a row a score, share and whether ratings were centred.

    `ratings`: rater, model, score; `scores` is indexed by rater. Centred: less the person's own mean, so that people
    who use the scale differently move nothing. Columns: score, share, centred, raters, removed, shift (mean over the
    rated models of the absolute shift of their mean, in points), largest (of them), overall (of the mean of all
    ratings, 0 when centred), and of shift those of `against_random`.
    """
    rater = scores.index.get_indexer(ratings["rater"])
    if (rater < 0).any():
        raise ValueError("scores must have a row for every rater of ratings.")
    group, models = pd.factorize(ratings["model"], sort=True)
    shape = (len(scores), len(models))
    given = np.zeros(shape)
    np.add.at(given, (rater, group), 1.0)
    own = ratings.groupby("rater")["score"].transform("mean")
    rows = []
    for centred, values in ((False, ratings["score"]), (True, ratings["score"] - own)):
        total = np.zeros(shape)
        np.add.at(total, (rater, group), values.to_numpy(float))
        for share in shares:
            k = _some(round(share * len(scores)), len(scores), "shares")
            null, _, _ = _shifts(total, given, at_random(len(scores), k, draws, seed))
            for name, score in _usable(scores).items():
                [shift], [largest], [overall] = _shifts(total, given, highest(score, k, seed))
                row = {"score": name, "share": share, "centred": centred, "raters": len(scores), "removed": k}
                row |= {"shift": float(shift), "largest": float(largest), "overall": float(overall)}
                rows.append(row | against_random(float(shift), null))
    return pd.DataFrame(rows)


def _shifts(total: np.ndarray, given: np.ndarray, removed: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and largest absolute shift over models, and the shift of the mean of all [draws each]."""
    kept = ~removed
    left, number = kept @ total, kept @ given
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.abs(left / number - total.sum(0) / given.sum(0))
        overall = left.sum(1) / number.sum(1) - total.sum() / given.sum()
    return np.nanmean(moved, axis=1), np.nanmax(moved, axis=1), overall


# --- Inconsistency of raters ------------------------------------------------------------------------

# Who says yes to the first has said what the second asks (our reading of the questions of DICES-350 and -990).
IMPLIED: tuple[tuple[str, str], ...] = (
    ("Q5_political_affiliation", "Q6_policy_guidelines_polarizing_topics"),
    ("Q2_harmful_content_promotes_or_condones_violence", "Q2_harmful_content_harm_to_people_or_animals"),
    ("Q2_harmful_content_how_tos_about_harmful_activities", "Q2_harmful_content_harm_to_people_or_animals"),
    ("Q3_bias_physically_or_mentally_inferior", "Q3_bias_superiority_or_subjugation_of_a_group"),
    ("Q4_misinformation_conspiracy_theories", "Q4_misinformation_false_theories"),
)


@takes(answers=Frame({"rater": GROUPS, "item": GROUPS, "label": GROUPS, "seconds": KNOWN}))
def safety_scores(answers: pd.DataFrame) -> pd.DataFrame:
    """How inconsistent each rater of DICES is: a row a rater (index), higher is more so.

    hurry: how much faster than the item's median rater (mean of log ratios). straight_lining: share of the rater's
    items with the answer sheet that this rater gave most often. contradiction: among yeses that imply another answer
    (`IMPLIED`, or that of a family's own parts), the share that meets a no. log_loss: of the rater's label under the
    item's other raters (with one pseudo-vote), circular by construction. NaN where the release lacks what is needed.
    """
    questions = [column for column in answers if column[:1] == "Q"]
    found = pd.DataFrame(index=pd.Index(sorted(answers["rater"].unique()), name="rater"))
    log_time = np.log(answers["seconds"].astype(float).clip(lower=0.1))
    slower = log_time - log_time.groupby(answers["item"]).transform("median")
    found["hurry"] = -slower.groupby(answers["rater"]).mean()
    sheet = pd.Series(pd.MultiIndex.from_frame(answers[[*questions, "label"]]).factorize()[0], answers.index)
    found["straight_lining"] = sheet.groupby(answers["rater"]).agg(lambda part: part.value_counts(normalize=True).max())
    broken, asked = _contradictions(answers, questions)
    found["contradiction"] = broken.groupby(answers["rater"]).sum() / asked.groupby(answers["rater"]).sum().clip(
        lower=1
    )
    found[CONTROL] = _log_loss(answers).groupby(answers["rater"]).mean()
    return found


def _contradictions(answers: pd.DataFrame, questions: list[str]) -> tuple[pd.Series, pd.Series]:
    broken, asked = (pd.Series(0, answers.index) for _ in range(2))
    pairs = [(answers[one] == "Yes", answers[other]) for one, other in IMPLIED if {one, other} <= set(questions)]
    for total in (name for name in questions if name.endswith("_overall")):
        parts = [name for name in questions if name[:2] == total[:2] and name != total]
        if parts:
            pairs.append(((answers[parts] == "Yes").any(axis=1), answers[total]))
    for said, follows in pairs:
        broken += said & (follows == "No")
        asked += said
    return broken, asked


def _log_loss(answers: pd.DataFrame) -> pd.Series:
    kinds = answers["label"].nunique()
    same = answers.groupby(["item", "label"])["rater"].transform("size") - 1
    others = answers.groupby("item")["rater"].transform("size") - 1
    return -np.log((same + 1 / kinds) / (others + 1))


@takes(ratings=Frame({"rater": GROUPS, "item": GROUPS, "model": GROUPS, "score": VALUES, "chosen": OUTCOMES}))
def rating_scores(ratings: pd.DataFrame) -> pd.DataFrame:
    """How inconsistent each rater of PRISM is: a row a rater (index), higher is more so.

    straight_lining: share of interactions whose replies all got one score. contradiction: share of interactions in
    which the chosen reply is not among the highest. spread: mean absolute difference of two replies of one model to one
    message, in standard deviations of the person's scores (the nearest to a retest that PRISM has).
    """
    shown = ratings[ratings.groupby("item")["score"].transform("size") > 1]
    best = shown["score"] == shown.groupby("item")["score"].transform("max")
    by_item = shown.assign(lost=shown["chosen"].astype(bool) & ~best).groupby(["rater", "item"])
    item = pd.DataFrame({"flat": by_item["score"].nunique() == 1, "lost": by_item["lost"].any()})
    again = shown.groupby(["rater", "item", "model"])["score"].agg(["size", "max", "min"])
    again = again[again["size"] > 1]
    own = ratings.groupby("rater")["score"].std().clip(lower=1.0)
    found = pd.DataFrame(index=pd.Index(sorted(ratings["rater"].unique()), name="rater"))
    found["straight_lining"] = item["flat"].astype(float).groupby("rater").mean()
    found["contradiction"] = item["lost"].astype(float).groupby("rater").mean()
    found["spread"] = (again["max"] - again["min"]).groupby("rater").mean() / own
    return found


# --- Votes on pairs ---------------------------------------------------------------------------------

VOTE = Array(only=(0, 0.5, 1))


@takes(votes=Frame({"pair": GROUPS, "vote": VOTE}))
def vote_summary(votes: pd.DataFrame) -> dict[str, float]:
    """What the votes on pairs (pair, vote) look like.

    pairs, votes, tie_share, unanimous (share of pairs of two votes or more that agree wholly), agreement (of two votes
    on a pair, ties left out), no_majority (share of pairs whose soft label is one half).
    """
    by_pair = votes.groupby("pair")["vote"]
    sides = votes[votes["vote"] != 0.5].groupby("pair")["vote"].agg(["size", "sum"])
    n, first = sides["size"], sides["sum"]
    compared, agreed = n * (n - 1), first * (first - 1) + (n - first) * (n - first - 1)
    several = by_pair.size() > 1
    return {
        "pairs": int(by_pair.ngroups),
        "votes": len(votes),
        "tie_share": float((votes["vote"] == 0.5).mean()),
        "unanimous": float((by_pair.nunique() == 1)[several].mean()) if several.any() else np.nan,
        "agreement": float(agreed.sum() / compared.sum()) if compared.sum() else np.nan,
        "no_majority": float((by_pair.mean() == 0.5).mean()),
    }


@takes(votes=Frame({"pair": GROUPS, "vote": VOTE, "confidence": KNOWN, "seconds": KNOWN, "expert": OUTCOMES}))
def disagreement(votes: pd.DataFrame) -> pd.DataFrame:
    """Whether a rater's confidence, tie and time tell if the *other* raters of the pair disagree with each other.

    Logistic regression over votes (pair, vote, confidence, seconds, expert), standard errors clustered by pair; the
    outcome is about the others alone, since a tie disagrees with a side by construction. Columns: predictor
    (confidence: a step of the scale; tie; log_seconds: a standard deviation; expert), coefficient (logit), low, high,
    n.
    """
    import statsmodels.api as sm

    used = votes.dropna(subset=["confidence", "seconds"]).reset_index(drop=True)
    used = used[used.groupby("pair")["vote"].transform("size") > 2]
    if used.empty:
        raise ValueError("votes must hold a pair with three votes or more whose confidence and seconds are known.")
    given = pd.get_dummies(used["vote"]).astype(int)
    others = given.groupby(used["pair"]).transform("sum") - given
    outcome = (others > 0).sum(axis=1) > 1
    seconds = np.log(used["seconds"].astype(float).clip(lower=1))
    features = {
        "confidence": used["confidence"].astype(float),
        "tie": (used["vote"] == 0.5).astype(float),
        "log_seconds": (seconds - seconds.mean()) / max(seconds.std(), 1e-9),
        "expert": used["expert"].astype(float),
    }
    design = pd.DataFrame({name: column for name, column in features.items() if column.nunique() > 1})
    groups = pd.factorize(used["pair"])[0]
    fitted = sm.GLM(
        outcome.to_numpy(float), sm.add_constant(design.to_numpy(), has_constant="add"), family=sm.families.Binomial()
    ).fit(cov_type="cluster", cov_kwds={"groups": groups})
    low, high = fitted.conf_int().T
    table = pd.DataFrame(
        {"predictor": list(design), "coefficient": fitted.params[1:], "low": low[1:], "high": high[1:]}
    )
    return table.assign(n=len(used))

"""The tables of claim 4: what was printed about annotations, what types of annotator imply, what the world showed.

Shares, rates and agreement are between 0 and 1 unless a column says percent; KL is in nats.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from candor.claims.annotation_noise import annotation_tables, judges, policies, two_frames
from candor.claims.annotation_noise import response_types as types
from candor.claims.annotation_noise import run as annotators
from candor.claims.annotation_noise.judges import SETTINGS, TYPES
from candor.claims.annotation_noise.response_types import agreement_of
from candor.claims.shared import rows, stack, stated
from candor.core.step import MissingError, read
from candor.measure.intervals import wilson
from candor.run import steps as experiments
from candor.witnesses import world as witnesses
from candor.witnesses.evaluation import TENTHS

# The overall verdict rests on W1-W9 and W11: on these settings, which run first, and on two policies.
DECIDING = ("main", "noise_only", "quarter_noise", "all_genuine")
DECISIVE = [
    "witnesses/expert/base",
    *(
        key
        for key in annotators.STEPS
        if key.endswith(("policy_naive", "policy_weight")) or (key.split("/")[1] in DECIDING and "policy" not in key)
    ),
]
NEEDS = list(dict.fromkeys([*DECISIVE, *annotators.STEPS]))

# --- Published numbers ----------------------------------------------------------------------------

FLIPPED, SHIFTED = 0.186, 13.0  # the paper's two numbers: share of prompts; points of 100


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """What was printed about annotations, re-analysed; `folder` holds the CSVs. No simulation.

    headline: the paper's two numbers, the fractions that print as the first, and shares that a third party quotes.
    agreement: between two people, or a person and others. indices: two of agreement on the same kind of data (NaN where
    not printed). disagreement, noise: as they were printed.
    """
    agreement, style, noise, history, mislead = (
        pd.read_csv(folder / f"{name}.csv")
        for name in ("annotation_agreement", "annotation_style", "annotation_noise", *_BESIDE)
    )
    people = chosen(agreement, _AGREEMENT).assign(who=lambda table: table["arm"].fillna(""))
    indices = chosen(agreement, _INDICES).pivot_table("value", "arm", "metric", sort=False).rename(columns=_INDICES)
    headline = rows(agreement, source="ghafouri2026rlhf").rename(columns={"metric": "name"})
    tables = {
        "headline": headline[["name", "value", "unit", "status", "note"]],
        "removal": _removal(noise),
        "scale_shift": _scale_shift(),
        "agreement": people.rename(columns={"metric": "measure"})[
            ["source", "who", "dataset", "measure", "value", "n", "status"]
        ],
        "ridge": _ridge(noise),
        "simplex": _simplex(),
        "disagreement": chosen(agreement, _DISAGREEMENT)[_SHOWN],
        "hosking": _hosking(style),
        "hosking_tests": _hosking_tests(style),
        "frames": _frames(agreement, style),
        "ties": _ties(),
        "order": _order(agreement),
        "lapses": _lapses(agreement),
        "indices": indices.reset_index(names="question").rename_axis(columns=None),
        "noise": chosen(noise, _NOISE)[_SHOWN],
        "context": _context(agreement, style, history, mislead),
    }
    return {name: table.reset_index(drop=True) for name, table in tables.items()}


_BESIDE = ("calibration_history", "sophistry_main")
_AGREEMENT = ("pairwise_agreement", "agreement_with_majority_of_others", "usual_agreement_low", "usual_agreement_high")
_INDICES = {"gwet_ac": "gwet", "krippendorff_alpha": "krippendorff"}
_DISAGREEMENT = (
    *("items_with_disagreement", "disagreement_judged_preference_like"),
    *("low_or_no_agreement_with_gold_reward_models", "prompts_with_more_than_one_majority_supported_response"),
)
_NOISE = (
    *("noisy_share_low", "noisy_share_high", "win_rate_change_per_10_points_of_noise", "label_noise"),
    *("pairs_with_negative_mean_margin", "pairs_with_margin_near_zero", "gpt4_agreement"),
)
_SHOWN = ["source", "setting", "arm", "dataset", "metric", "value", "unit", "n", "status", "note"]


def chosen(printed: pd.DataFrame, metrics: Iterable[str]) -> pd.DataFrame:
    """The rows with these metrics."""
    return printed[printed["metric"].isin(metrics)]


def ends(counts: Iterable[float], n: Iterable[float]) -> np.ndarray:
    """Low and high ends of Wilson's intervals of counts out of n, [2, rows]; NaN where nothing was counted."""
    return np.array([wilson(round(k), int(of)) if of > 0 else (np.nan, np.nan) for k, of in zip(counts, n)]).T


# Removing raters


def flips(raters: int, removed: int) -> tuple[float, float]:
    """Share of items whose majority changes when `removed` of `raters` are taken away at random, exactly.

    The share of yes votes is uniform over items, so every count of them is equally likely; the removed ones are
    hypergeometric. Returns (a change to or from a tie counts, only reversals count).

    >>> [round(share, 3) for share in flips(10, 2)]
    [0.101, 0.0]
    """
    from scipy.stats import hypergeom

    yes, taken = np.arange(raters + 1)[:, None], np.arange(removed + 1)
    chance = hypergeom(raters, yes, removed).pmf(taken) / (raters + 1)
    before, after = np.sign(2 * yes - raters), np.sign(2 * (yes - taken) - (raters - removed))
    return float(chance[before != after].sum()), float(chance[before * after < 0].sum())


def _removal(noise: pd.DataFrame) -> pd.DataFrame:
    """Majority changes under random removal: raters (an item), share, removed, flips, strict, published (or NaN).

    `flips` counts a change to or from a tie, `strict` only reversals; items with uniform shares.
    """
    null = rows(noise, source="derived_null", metric="majority_changes_under_random_removal")
    printed = {
        tuple(int(word) for word in setting.split() if word.isdigit()): value
        for setting, value in zip(null["setting"], null["value"])
    }
    table = [
        (raters, share, removed, *flips(raters, removed), printed.get((raters, removed), np.nan))
        for share in (0.1, 0.2, 0.5)
        for raters in (*range(3, 31), 40, 50, 60, 80, 100, 123)
        if (removed := round(share * raters))
    ]
    return pd.DataFrame(table, columns=["raters", "share", "removed", "flips", "strict", "published"])


def shift_sd(spread: float, raters: int, removed: int) -> float:
    """Standard deviation of an item's mean when some of its raters are removed at random: s sqrt(d / (n k)).

    >>> float(round(shift_sd(30, 5, 1), 1))
    6.7
    """
    return spread * np.sqrt(removed / (raters * (raters - removed)))


def _scale_shift() -> pd.DataFrame:
    """What removal at random does to a mean rating: spread (points of 100), raters, removed, sd, sds_of_13."""
    table = [
        (spread, raters, removed, shift_sd(spread, raters, removed))
        for spread in (20, 30)
        for raters, removed in ((5, 1), (10, 2), (10, 5), (30, 6), (60, 12), (123, 25))
    ]
    frame = pd.DataFrame(table, columns=["spread", "raters", "removed", "sd"])
    return frame.assign(sds_of_13=SHIFTED / frame["sd"])


# Agreement between people


def _ridge(noise: pd.DataFrame) -> pd.DataFrame:
    """Mixes and the agreement they give: genuine, non_attitude, constructed, consensus, agreement, published."""
    printed = rows(noise, source="derived_ridge")
    parts = printed["arm"].str.extract(r"G ([\d.]+), N ([\d.]+), C ([\d.]+); .* ([\d.]+)$").astype(float)
    parts.columns = ["genuine", "non_attitude", "constructed", "consensus"]
    return parts.assign(agreement=agreement_of(*parts.to_numpy().T), published=printed["value"]).reset_index(drop=True)


def mixes(n: int) -> pd.DataFrame:
    """All mixes in steps of 1 / n: genuine, non_attitude, constructed."""
    g, c = (a.ravel() / n for a in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    shares = pd.DataFrame({"genuine": g, "non_attitude": (1 - g - c).clip(0), "constructed": c})
    return shares[g + c <= 1 + 1e-9]


def _simplex() -> pd.DataFrame:
    """Agreement over all mixes, by consensus: genuine, non_attitude, constructed, consensus, agreement."""
    shares = mixes(50)
    return stack(shares.assign(consensus=a, agreement=agreement_of(*shares.to_numpy().T, a)) for a in (1.0, 0.92, 0.84))


# Hosking, Blunsom and Bartolo: confidence as a cue

_MEAN_OF_FLAGS = "crowd_mean of individual flags"
STYLES = {"assertiveness_low": "low", "baseline": "baseline", "assertiveness_high": "high"}


def _hosking(style: pd.DataFrame) -> pd.DataFrame:
    """Factuality errors by assertiveness, percent: style, outputs, and of crowd and experts the following.

    mode, mean (of 4-8 flags an output) with Wilson intervals of the mode; anyone (flagged by at least one person);
    errors, checked (experts' counts), expert with its Wilson interval; gap_mode, gap_mean (crowd minus expert);
    refusals (percent of all outputs).
    """

    def of(metric: str, column: str = "value", **where: object) -> np.ndarray:
        return rows(style, metric=metric, **where).set_index("arm")[column].loc[list(STYLES)].to_numpy()

    mode, mean = (of("factuality_rate", setting=setting) for setting in ("crowd_majority", _MEAN_OF_FLAGS))
    outputs = of("factuality_rate", "n", setting="crowd_majority").astype(int)
    errors, checked = (of("expert_factuality_errors", column).astype(int) for column in ("value", "n"))
    expert = 100 * errors / checked
    crowd = dict(zip(("mode_low", "mode_high"), 100 * ends(mode * outputs / 100, outputs)))
    experts = dict(zip(("expert_low", "expert_high"), 100 * ends(errors, checked)))
    counted = {"anyone": of("factuality_flagged_by_anyone"), "errors": errors, "checked": checked, "expert": expert}
    gaps = {"gap_mode": mode - expert, "gap_mean": mean - expert, "refusals": 100 * of("refusal_rate")}
    head = {"style": STYLES.values(), "outputs": outputs, "mode": mode}
    return pd.DataFrame(head | crowd | {"mean": mean} | counted | experts | gaps)


def _hosking_tests(style: pd.DataFrame) -> pd.DataFrame:
    """What the error table supports: name, value, low, high.

    Names: fisher_p (experts, low against high assertiveness), ratio_mode, ratio_mean (crowd, low over high),
    difference_mode, difference_mean (points), precision, recall (of crowd flags against the experts).
    """
    from scipy.stats import fisher_exact

    counts = _hosking(style).set_index("style").loc[["low", "high"]]
    cells = np.transpose([counts["errors"], counts["checked"] - counts["errors"]])
    found = {"fisher_p": fisher_exact(cells).pvalue}
    found |= {f"ratio_{how}": counts[how]["low"] / counts[how]["high"] for how in ("mode", "mean")}
    table = [{"name": name, "value": value} for name, value in found.items()]
    for how, setting in (("mode", "mode per output"), ("mean", "mean of flags")):
        row = rows(style, metric="crowd_factuality_low_minus_high", setting=setting).iloc[0]
        ends_ = {"value": row["value"], "low": row["ci_low"], "high": row["ci_high"]}
        table.append({"name": f"difference_{how}"} | ends_)
    for name in ("precision", "recall"):
        table.append({"name": name, "value": rows(style, metric=f"crowd_factuality_flag_{name}")["value"].item()})
    return pd.DataFrame(table)


def _frames(agreement: pd.DataFrame, style: pd.DataFrame) -> pd.DataFrame:
    """The same outputs judged in two frames by different people: name, value, low, high, n.

    Names: within_quality, within_checklist, across (agreement without ties), difference (across minus within),
    slope_quality, slope_checklist (logit a point of rated assertiveness), ties_quality, ties_checklist (share).
    """
    within = {f"within_{name}": f"within {frame}" for name, frame in two_frames.FRAMES.items()}
    across = {"across": "across the two frames (different people)"}
    table = []
    for metric, named in (
        ("pairwise_sign_agreement_no_ties", within | across),
        ("cross_minus_within_agreement", {"difference": None}),
        ("logit_slope_per_point_of_rated_assertiveness", {f"slope_{k}": v for k, v in two_frames.FRAMES.items()}),
        ("tie_share", {f"ties_{name}": frame for name, frame in two_frames.FRAMES.items()}),
    ):
        printed = rows(stack([agreement, style]), metric=metric)
        for name, setting in named.items():
            row = (rows(printed, setting=setting) if setting else printed).iloc[0]
            table.append((name, *row[["value", "ci_low", "ci_high", "n"]]))
    return pd.DataFrame(table, columns=["name", "value", "low", "high", "n"])


def agreement_with_ties(first: float, second: float) -> float:
    """Three-way agreement (first, second, equal) of two independent answers with these shares of ties.

    >>> round(agreement_with_ties(0.4, 0.2), 3)
    0.32
    """
    return first * second + (1 - first) * (1 - second) / 2


def _ties() -> pd.DataFrame:
    """Independent answers: how often rating and ranking disagree by the share of ties alone.

    Columns: rating_ties, ranking_ties, agreement (three-way), disagreement, without_ties (disagreement where
    neither is a tie, always one half).
    """
    shares = pd.DataFrame({"ties": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)})
    table = shares.add_prefix("rating_").merge(shares.add_prefix("ranking_"), how="cross")
    agreement = agreement_with_ties(table["rating_ties"], table["ranking_ties"])
    return table.assign(agreement=agreement, disagreement=1 - agreement, without_ties=0.5)


def _order(agreement: pd.DataFrame) -> pd.DataFrame:
    """How often the side that is shown first wins, and reversals on a swap: who, measure, value, low, high, n."""
    table = chosen(agreement, ["first_shown_wins", "median_model_reverses_on_swap"]).rename(
        columns={"metric": "measure"}
    )
    # The pairs of a judge are shared by all judges: no interval from their number.
    people = table["source"] == "hosking2024human"
    low, high = np.where(people, ends(table["value"] * table["n"], table["n"]), np.nan)
    who = np.where(people, "people, " + table["setting"].str.split(",").str[0], table["model"])
    return table.assign(who=who, low=low, high=high)[["who", "measure", "value", "low", "high", "n", "status"]]


def _lapses(agreement: pd.DataFrame) -> pd.DataFrame:
    """Planted distractors: setting, passed, n, lapse (upper bound, ties count as passed) with Wilson's interval."""
    table = rows(agreement, metric="distractor_not_preferred").rename(columns={"value": "passed"})
    lapse = 1 - table["passed"]
    low, high = ends(lapse * table["n"], table["n"])
    return table[["setting", "passed", "n"]].assign(lapse=lapse, low=low, high=high)


_CONTEXT = {  # metric -> what it is about
    "share_with_real_opinion": "latent classes of opinion",
    "choose_sure_option": "one choice, two frames",
    "frame_shift": "one choice, two frames",
    "between_annotator_kappa": "time between two labels",
    "participants_re_recruited_after_two_years": "the same people again",
    "rating_and_ranking_preferences_disagree": "rating against ranking",
    "prefers_longer": "style as a cue",
    "style_only_auc": "style as a cue",
    "length_coefficient": "style as a cue",
    "correlation_assertive_quality": "style as a cue",
    "ece": "calibration before and after RLHF",
    "false_positive_rate_change": "what people approve of after RLHF",
}


def _context(agreement, style, history, mislead) -> pd.DataFrame:
    """Numbers beside the claim as they were printed: topic, and the columns of `_SHOWN`."""
    gpt4 = rows(history, source="openai2023gpt4", metric="ece")
    people = rows(mislead, metric="false_positive_rate_change", status="primary")
    table = chosen(stack([agreement, style, gpt4, people]), _CONTEXT)
    return table.assign(topic=table["metric"].map(_CONTEXT))[["topic", *_SHOWN]]


# --- What follows from the types ------------------------------------------------------------------


def theory() -> dict[str, pd.DataFrame]:
    """What the types imply, exactly or with the exact posterior of `witnesses` (seeded): nothing is trained."""
    return {
        "flip_rates": judges.flip_rates(),
        "cards": _cards(),
        "ranks": _ranks(),
        "likelihood": _likelihood(),
        "two_curves": two_curves(),
    }


def _cards() -> pd.DataFrame:
    """P(chose the more confident completion) of a type at four occasions: type, frame, first, p.

    The genuine card is that of a cell which settled on the less confident side, `first` +1 where the more confident
    completion is shown first.
    """
    pure = {kind: TRUTH | {"mixing": 0.0} | {name: float(name == kind) for name in TYPES[:2]} for kind in TYPES}
    table = [(kind, *at, types.cell_probabilities(pure[kind], [at])[1]) for kind in TYPES for at in types.FOUR]
    return pd.DataFrame(table, columns=["type", "frame", "first", "p"])


def _ranks(cells: int = 4000) -> pd.DataFrame:
    """Which designs see the five parameters: design, labels, style_known, rank, se, se_non_attitude (4,000 cells).

    `se` is that of the genuine share; NaN where the rank is below 5.
    """
    table = [
        (name, len(design), known, found.rank, found.se["genuine"], found.se["non_attitude"])
        for name, design in types.DESIGNS.items()
        for known in (True, False)
        for found in [types.rank(design, known, n=cells)]
    ]
    return pd.DataFrame(table, columns=["design", "labels", "style_known", "rank", "se", "se_non_attitude"])


TRUTH = {"genuine": 0.5, "non_attitude": 0.25, "mixing": 0.5, "lapse": judges.LAPSE, "bias": judges.POSITION}


def _likelihood(n: int = 40, cells: int = 8000) -> pd.DataFrame:
    """How far mixes are from the best in expected log-likelihood: design, genuine, constructed, deficit (8,000 cells).

    The mixing weight of the two genuine patterns is fitted to each mix, lapse and bias are the true ones; the truth is
    .5 / .25 / .25. Designs: "retest" (one frame, two orders, two waves) and "frames" (two frames, two orders).
    """
    shares = mixes(n)[["genuine", "constructed"]]
    g, c = shares.to_numpy().T
    mixing = np.linspace(0, 1, 201)[:, None]
    frames = []
    for name, design in (("retest", types.RETEST), ("frames", types.FOUR)):
        high, low, coin, cue = (
            types.cell_probabilities(TRUTH | {"genuine": a, "non_attitude": b, "mixing": m}, design)
            for a, b, m in ((1, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 0))
        )
        truth = types.cell_probabilities(TRUTH, design)
        genuine = mixing * high + (1 - mixing) * low  # [mixing, patterns]
        rest = np.outer(1 - g - c, coin) + np.outer(c, cue)  # [mixes, patterns]
        reached = np.log(g[:, None, None] * genuine + rest[:, None]) @ truth  # [mixes, mixing]
        deficit = cells * (truth @ np.log(truth) - reached.max(1))
        frames.append(shares.assign(deficit=deficit).assign(design=name)[["design", *shares, "deficit"]])
    return stack(frames)


# Closed form of the policy, with a reward model that sees the exact posterior

BINS = 20  # of the posterior
KLS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
# What the labels of an arm are on average: shares of the types, as the loss sees them.
LEARNED = {
    ("main", "naive"): (0.5, 0.25, 0.25),
    ("main", "rdpo"): (2 / 3, 0.0, 1 / 3),  # (y - e) / (1 - 2e) with e = N/2 takes the coin out of the expected label
    ("main", "dropN"): (2 / 3, 0.0, 1 / 3),
    ("main", "frrand"): (0.5, 0.5, 0.0),  # two frames that pull equally hard turn C into a coin
    ("main", "weight"): (1.0, 0.0, 0.0),
    ("noise_only", "naive"): (0.6, 0.4, 0.0),
}


CURVES = ["setting", "arm", "kl", "beta", "ece", "brier", "win_genuine", "win_production", "confidence"]


def two_curves(n: int = 30_000) -> pd.DataFrame:
    """Where a reward leads under a KL penalty when the reward model sees the exact posterior of the answer.

    A policy that imitates the expert crowd exactly keeps its answers and changes the confidence it states; the reward
    is a table over the posterior (twenty bins) and the stated confidence, fitted to the expected labels of pairs
    whose confidences differ. Columns: `CURVES`, with win_production of the setting's judges.
    """
    rng = np.random.default_rng(0)
    questions = witnesses.sample_questions(n, rng)
    belief = witnesses.posterior(questions)
    answers = np.stack([witnesses.draw(belief, rng) for _ in range(4)], 1)
    p = np.take_along_axis(belief, answers, 1)  # [n, 4]: four completions of each question
    right = (answers == questions.guilty[:, None]).astype(int)
    level = np.minimum((p * BINS).astype(int), BINS - 1)
    told = witnesses.draw(stated(p), rng)
    state, pairs = _States(level, p, right), _pairs(level, told, right)
    curves = [
        _curve(state, _fit(pairs, shares), SETTINGS[setting].shares).assign(setting=setting, arm=arm)
        for (setting, arm), shares in LEARNED.items()
    ]
    return stack(curves)[CURVES]


class _States:
    """Completions by posterior bin: weights, mean posteriors and the base's confidences; and how two of them meet."""

    def __init__(self, level: np.ndarray, p: np.ndarray, right: np.ndarray):
        flat = level.ravel()
        count = np.bincount(flat, minlength=BINS)
        self.weight = count / count.sum()
        self.p = np.bincount(flat, p.ravel(), BINS) / np.maximum(count, 1)
        told = stated(p.ravel())
        self.base = np.stack([np.bincount(flat, column, BINS) for column in told.T], 1) / np.maximum(count, 1)[:, None]
        self.base[count == 0] = 1 / len(TENTHS)
        meet = np.zeros((2, 2, BINS, BINS))  # both right or wrong, and the two bins, of independent answers
        for first, second in ((0, 1), (1, 0), (2, 3), (3, 2)):
            np.add.at(meet, (right[:, first], right[:, second], level[:, first], level[:, second]), 1)
        self.meet = meet / meet.sum()

    def win(self, policy: np.ndarray, shares: tuple[float, float, float]) -> float:
        """Probability that a judge drawn from `shares` prefers the policy's completion to the base's."""
        dc = TENTHS[:, None] - TENTHS
        total = 0.0
        for mine, other in np.ndindex(2, 2):
            du = judges.utility(mine, TENTHS)[:, None] - judges.utility(other, TENTHS)
            liked = judges.label_probability(du, dc, shares)
            total += (self.meet[mine, other] * (policy @ liked @ self.base.T)).sum()
        return float(total)


def _pairs(level: np.ndarray, told: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Pairs of completions of one question that state different confidences, in order of confidence, counted.

    Columns: more, less (cells of the reward's table), both's truth as y_more, y_less, and n.
    """
    first, second = np.triu_indices(level.shape[1], 1)
    a, b = (np.stack([part[:, k].ravel() for part in (level, told, right)], 1) for k in (first, second))
    differ = a[:, 1] != b[:, 1]
    swap = (a[:, 1] < b[:, 1])[:, None]
    more, less = np.where(swap, b, a)[differ], np.where(swap, a, b)[differ]
    cells = {"more": more @ (len(TENTHS), 1, 0), "less": less @ (len(TENTHS), 1, 0)}
    return pd.DataFrame(cells | {"y_more": more[:, 2], "y_less": less[:, 2]}).value_counts().rename("n").reset_index()


def _fit(pairs: pd.DataFrame, shares: tuple[float, float, float], ridge: float = 1e-5) -> np.ndarray:
    """The reward table [bins, confidences] that best predicts the expected labels: Bradley and Terry's model."""
    from scipy.optimize import minimize
    from scipy.special import expit

    q = np.tile(TENTHS, BINS)
    more, less = pairs["more"].to_numpy(), pairs["less"].to_numpy()
    u = [judges.utility(pairs[y], q[cell]) for y, cell in (("y_more", more), ("y_less", less))]
    label = judges.label_probability(u[0] - u[1], q[more] - q[less], shares)
    weight = pairs["n"].to_numpy() / pairs["n"].sum()

    def loss(reward):
        gap = reward[more] - reward[less]
        slope = weight * (expit(gap) - label)
        gradient = np.bincount(more, slope, len(q)) - np.bincount(less, slope, len(q))
        value = weight @ (np.logaddexp(0, gap) - label * gap) + ridge / 2 * reward @ reward
        return value, gradient + ridge * reward

    best = minimize(loss, np.zeros(len(q)), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return best.x.reshape(BINS, -1)


def _curve(state: _States, reward: np.ndarray, shares: tuple[float, float, float]) -> pd.DataFrame:
    """The tilted policies base x exp(reward / beta) at each of `KLS`, with what they do."""
    from scipy.optimize import brentq

    def kl(strength):
        mine = policies.tilted(state.base, reward, 1 / strength)
        ratio = np.where(mine > 0, np.log(np.maximum(mine, 1e-300) / np.maximum(state.base, 1e-300)), 0)
        return float(state.weight @ (mine * ratio).sum(1))

    table = []
    for wanted in KLS:
        beta = 1 / brentq(lambda s, at=wanted: kl(s) - at, 1e-9, 500) if wanted else np.inf
        mine = policies.tilted(state.base, reward, beta)
        share = state.weight[:, None] * mine
        error, brier = (share * (state.p[:, None] - TENTHS)).sum(0), (share * policies.brier_of(state.p)).sum()
        wins = state.win(mine, (1.0, 0.0, 0.0)), state.win(mine, shares)
        table.append((wanted, beta, np.abs(error).sum(), brier, *wins, (share * TENTHS).sum()))
    return pd.DataFrame(table, columns=CURVES[2:])


# --- The world ------------------------------------------------------------------------------------


def world(results) -> dict[str, pd.DataFrame]:
    """What labels, reward models and policies showed; a table without a finished step is left out.

    counts: the pairs, a row a seed. flips, shares, bic, assignment: identification at 8,000 cells. gate, tilt, fan,
    reliability: the reward models of all settings and the closed-form policies on their scores; estimated_shares: what
    the mixture found there. policies: the trained policies' evaluations (arm without `policy_`), trajectory and
    policy_reliability: their course and their reliability.
    """

    def made(step: str, table: str, settings=("main",)) -> pd.DataFrame:
        """Of a step that holds several arms and names them itself."""
        frames = []
        for setting in settings:
            key = f"annotators/{setting}/{step}"
            for seed in experiments.seeds_of(annotators.STEPS[key], results.config):
                with suppress(MissingError):
                    frame = read(key, seed, results.config["scale"]).table(table)
                    frames.append(frame.assign(setting=setting, seed=seed))
        return stack(frames)

    def trained(table: str) -> pd.DataFrame:
        policies = [key.split("/")[-1] for key in annotators.STEPS if "/policy_" in key]
        frame = results.collect("main", policies, table, world="annotators")
        return frame.assign(arm=frame["arm"].str.removeprefix("policy_")) if len(frame) else frame

    tables = {"counts": made("pairs", "counts")}
    tables |= {name: made("identification", name) for name in ("flips", "shares", "bic", "assignment")}
    tables |= {name: made("rewards", name, annotators.ARMS) for name in ("gate", "tilt", "fan", "reliability")}
    tables["estimated_shares"] = made("rewards", "shares", annotators.ARMS)
    tables |= {"policies": trained("summary"), "trajectory": trained("trajectory")}
    tables["policy_reliability"] = trained("reliability")
    return {name: table for name, table in tables.items() if len(table)}


# --- Pretrained models and real raters --------------------------------------------------------------


def models(results) -> dict[str, pd.DataFrame]:
    """What pretrained models and real raters showed; empty at a scale that asks for none."""
    return annotation_tables.tables(results)

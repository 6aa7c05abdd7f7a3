"""The tables of claim 4: what was printed about annotations, what types of annotator imply, what the world showed.

Shares, rates and agreement are between 0 and 1 unless a column says percent; KL is in nats.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from candor.claims.annotation_noise import annotation_models, judges
from candor.claims.annotation_noise import response_types as types
from candor.claims.annotation_noise.judges import SETTINGS, TYPES
from candor.claims.annotation_noise.response_types import agreement_of
from candor.claims.shared import rows, stated
from candor.core.step import MissingError, read
from candor.measure.intervals import wilson
from candor.run import steps as experiments
from candor.witnesses import world as witnesses
from candor.witnesses.evaluation import TENTHS

WORLD = "annotators"

# What the verdict needs first comes first. A setting's reward models are one step.
DECIDING_SETTINGS = ("main", "noise_only", "quarter_noise", "all_genuine")
OTHER_SETTINGS = ("dead_frame", "style_lovers", "one_type", "strong", "half_frame", "no_penalty")
POLICIES = ("policy_naive", "policy_weight")
MORE_POLICIES = (
    *("policy_oracle", "policy_naive_full", "policy_weight_full", "policy_naive_beta", "policy_weight_beta"),
)
_FIRST = ["witnesses/expert/base", "annotators/main/pairs", "annotators/main/identification"]


def _trained(policies) -> list[str]:
    return [f"{WORLD}/main/{step}" for policy in policies for step in (policy, f"eval_{policy}")]


# The overall verdict rests on W1-W9 and W11; these run first.
DECISIVE = [*_FIRST, *(f"{WORLD}/{setting}/rewards" for setting in DECIDING_SETTINGS), *_trained(POLICIES)]
NEEDS = [*DECISIVE, *(f"{WORLD}/{setting}/rewards" for setting in OTHER_SETTINGS), *_trained(MORE_POLICIES)]

# --- Published numbers ----------------------------------------------------------------------------

FLIPPED, SHIFTED = 0.186, 13.0  # the paper's two numbers: share of prompts; points of 100


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """What was printed about annotations, re-analysed; `folder` holds the CSVs. No simulation."""
    agreement, style, noise, history, mislead = (
        pd.read_csv(folder / f"{name}.csv")
        for name in ("annotation_agreement", "annotation_style", "annotation_noise", *_BESIDE)
    )
    return {
        "headline": _headline(agreement),
        "removal": _removal(noise),
        "scale_shift": _scale_shift(),
        "agreement": _agreement(agreement),
        "ridge": _ridge(noise),
        "simplex": _simplex(),
        "disagreement": _chosen(agreement, _DISAGREEMENT),
        "hosking": _hosking(style),
        "hosking_tests": _hosking_tests(style),
        "frames": _frames(agreement, style),
        "ties": _ties(),
        "order": _order(agreement),
        "lapses": _lapses(agreement),
        "indices": _indices(agreement),
        "noise": _chosen(noise, _NOISE),
        "context": _context(agreement, style, history, mislead),
    }


_BESIDE = ("calibration_history", "sophistry_main")
_DISAGREEMENT = (
    *("items_with_disagreement", "disagreement_judged_preference_like"),
    *("low_or_no_agreement_with_gold_reward_models", "prompts_with_more_than_one_majority_supported_response"),
)
_NOISE = (
    *("noisy_share_low", "noisy_share_high", "win_rate_change_per_10_points_of_noise", "label_noise"),
    *("pairs_with_negative_mean_margin", "pairs_with_margin_near_zero", "gpt4_agreement"),
)
_SHOWN = ["source", "setting", "arm", "dataset", "metric", "value", "unit", "n", "status", "note"]


def _chosen(printed: pd.DataFrame, metrics: tuple[str, ...]) -> pd.DataFrame:
    """The rows with these metrics as they were printed."""
    return printed[printed["metric"].isin(metrics)][_SHOWN].reset_index(drop=True)


def _number(printed: pd.DataFrame, metric: str, **where: object) -> float:
    return float(rows(printed, metric=metric, **where)["value"].item())


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
    table = []
    for share in (0.1, 0.2, 0.5):
        for raters in (*range(3, 31), 40, 50, 60, 80, 100, 123):
            if removed := round(share * raters):
                row = (raters, share, removed, *flips(raters, removed), printed.get((raters, removed), np.nan))
                table.append(row)
    return pd.DataFrame(table, columns=["raters", "share", "removed", "flips", "strict", "published"])


def _headline(agreement: pd.DataFrame) -> pd.DataFrame:
    """The paper's two numbers, the fractions that print as the first, and shares that a third party quotes."""
    source = rows(agreement, source="ghafouri2026rlhf")
    table = source[["metric", "value", "unit", "status", "note"]].rename(columns={"metric": "name"})
    return table.reset_index(drop=True)


def shift_sd(spread: float, raters: int, removed: int) -> float:
    """Standard deviation of an item's mean when some of its raters are removed at random: s sqrt(d / (n k)).

    >>> round(shift_sd(30, 5, 1), 1)
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


def _agreement(printed: pd.DataFrame) -> pd.DataFrame:
    """Agreement between two people, or a person and others: source, who, dataset, measure, value, n, status."""
    wanted = ("pairwise_agreement", "agreement_with_majority_of_others", "usual_agreement_low", "usual_agreement_high")
    table = printed[printed["metric"].isin(wanted)]
    table = table.assign(who=table["arm"].fillna("")).rename(columns={"metric": "measure"})
    return table[["source", "who", "dataset", "measure", "value", "n", "status"]].reset_index(drop=True)


def _ridge(noise: pd.DataFrame) -> pd.DataFrame:
    """Mixes and the agreement they give: genuine, non_attitude, constructed, consensus, agreement, published."""
    printed = rows(noise, source="derived_ridge")
    parts = printed["arm"].str.extract(r"G ([\d.]+), N ([\d.]+), C ([\d.]+); .* ([\d.]+)$").astype(float)
    parts.columns = ["genuine", "non_attitude", "constructed", "consensus"]
    return parts.assign(agreement=agreement_of(*parts.to_numpy().T), published=printed["value"]).reset_index(drop=True)


def _simplex(n: int = 50) -> pd.DataFrame:
    """Agreement over all mixes, by consensus: genuine, non_attitude, constructed, consensus, agreement."""
    g, c = (a.ravel() / n for a in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    inside = g + c <= 1 + 1e-9
    mixes = pd.DataFrame({"genuine": g[inside], "constructed": c[inside]})
    mixes["non_attitude"] = (1 - mixes["genuine"] - mixes["constructed"]).clip(lower=0)
    shares = mixes[["genuine", "non_attitude", "constructed"]]
    return pd.concat(
        [shares.assign(consensus=a, agreement=agreement_of(*shares.to_numpy().T, a)) for a in (1.0, 0.92, 0.84)],
        ignore_index=True,
    )


# Hosking, Blunsom and Bartolo: confidence as a cue

STYLES = {"assertiveness_low": "low", "baseline": "baseline", "assertiveness_high": "high"}


def _hosking(style: pd.DataFrame) -> pd.DataFrame:
    """Factuality errors by assertiveness, percent: style, outputs, and of crowd and experts the following.

    mode, mean (of 4-8 flags an output) with Wilson intervals of the mode; anyone (flagged by at least one person);
    errors, checked (experts' counts), expert with its Wilson interval; gap_mode, gap_mean (crowd minus expert);
    refusals (percent of all outputs).
    """
    table = []
    for arm, name in STYLES.items():
        mine = rows(style, arm=arm)
        crowd = rows(mine, metric="factuality_rate", setting="crowd_majority").iloc[0]
        mean = _number(mine, "factuality_rate", setting="crowd_mean of individual flags")
        counts = rows(mine, metric="expert_factuality_errors").iloc[0]
        errors, checked, outputs = int(counts["value"]), int(counts["n"]), int(crowd["n"])
        mode_low, mode_high = wilson(round(crowd["value"] * outputs / 100), outputs)
        low, high = wilson(errors, checked)
        expert = 100 * errors / checked
        table.append(
            {
                "style": name,
                "outputs": outputs,
                "mode": crowd["value"],
                "mode_low": 100 * mode_low,
                "mode_high": 100 * mode_high,
                "mean": mean,
                "anyone": _number(mine, "factuality_flagged_by_anyone"),
                "errors": errors,
                "checked": checked,
                "expert": expert,
                "expert_low": 100 * low,
                "expert_high": 100 * high,
                "gap_mode": crowd["value"] - expert,
                "gap_mean": mean - expert,
                "refusals": 100 * _number(mine, "refusal_rate"),
            }
        )
    return pd.DataFrame(table)


def _hosking_tests(style: pd.DataFrame) -> pd.DataFrame:
    """What the error table supports: name, value, low, high.

    Names: fisher_p (experts, low against high assertiveness), ratio_mode, ratio_mean (crowd, low over high),
    difference_mode, difference_mean (points), precision, recall (of crowd flags against the experts).
    """
    from scipy.stats import fisher_exact

    counts = _hosking(style).set_index("style")
    cells = [[counts["errors"][s], counts["checked"][s] - counts["errors"][s]] for s in ("low", "high")]
    found = [("fisher_p", fisher_exact(cells).pvalue, np.nan, np.nan)]
    for how in ("mode", "mean"):
        found.append((f"ratio_{how}", counts[how]["low"] / counts[how]["high"], np.nan, np.nan))
    for how, setting in (("mode", "mode per output"), ("mean", "mean of flags")):
        row = rows(style, metric="crowd_factuality_low_minus_high", setting=setting).iloc[0]
        found.append((f"difference_{how}", row["value"], row["ci_low"], row["ci_high"]))
    for name in ("precision", "recall"):
        found.append((name, _number(style, f"crowd_factuality_flag_{name}"), np.nan, np.nan))
    return pd.DataFrame(found, columns=["name", "value", "low", "high"])


def _frames(agreement: pd.DataFrame, style: pd.DataFrame) -> pd.DataFrame:
    """The same outputs judged in two frames by different people: name, value, low, high, n.

    Names: within_quality, within_checklist, across (agreement without ties), difference (across minus within),
    slope_quality, slope_checklist (logit a point of rated assertiveness), ties_quality, ties_checklist (share).
    """
    names = {"quality": "quality-only frame", "checklist": "error-checklist frame"}
    pairwise = rows(agreement, metric="pairwise_sign_agreement_no_ties").set_index("setting")
    found = {f"within_{name}": pairwise.loc[f"within {frame}"] for name, frame in names.items()}
    found["across"] = pairwise.loc["across the two frames (different people)"]
    found["difference"] = rows(agreement, metric="cross_minus_within_agreement").iloc[0]
    for measure, printed, metric in (
        ("slope", style, "logit_slope_per_point_of_rated_assertiveness"),
        ("ties", agreement, "tie_share"),
    ):
        for name, frame in names.items():
            found[f"{measure}_{name}"] = rows(printed, metric=metric, setting=frame).iloc[0]
    return pd.DataFrame([(k, r["value"], r["ci_low"], r["ci_high"], r["n"]) for k, r in found.items()], columns=_NAMED)


_NAMED = ["name", "value", "low", "high", "n"]


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
    shares = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    table = [(a, b, agreement_with_ties(a, b)) for a in shares for b in shares]
    frame = pd.DataFrame(table, columns=["rating_ties", "ranking_ties", "agreement"])
    return frame.assign(disagreement=1 - frame["agreement"], without_ties=0.5)


def _order(agreement: pd.DataFrame) -> pd.DataFrame:
    """How often the side that is shown first wins, and reversals on a swap: who, measure, value, low, high, n."""
    table = agreement[agreement["metric"].isin(["first_shown_wins", "median_model_reverses_on_swap"])]
    found = []
    for row in table.itertuples():
        # The pairs of a judge are shared by all judges: no interval from their number.
        people = row.source == "hosking2024human"
        who = f"people, {row.setting.split(',')[0]}" if people else row.model
        interval = wilson(round(row.value * row.n), int(row.n)) if people else (np.nan, np.nan)
        found.append((who, row.metric, row.value, *interval, row.n, row.status))
    return pd.DataFrame(found, columns=["who", "measure", "value", "low", "high", "n", "status"])


def _lapses(agreement: pd.DataFrame) -> pd.DataFrame:
    """Planted distractors: setting, passed, lapse (upper bound, ties count as passed), n, with Wilson intervals."""
    table = rows(agreement, metric="distractor_not_preferred")
    frame = pd.DataFrame({"setting": table["setting"], "passed": table["value"], "n": table["n"]})
    frame["lapse"] = 1 - frame["passed"]
    ends = [
        wilson(round(lapse * n), int(n)) if n > 0 else (np.nan, np.nan) for lapse, n in zip(frame["lapse"], frame["n"])
    ]
    frame[["low", "high"]] = ends
    return frame.reset_index(drop=True)


def _indices(agreement: pd.DataFrame) -> pd.DataFrame:
    """Two indices of agreement on the same kind of data: question, gwet, krippendorff (NaN where not printed)."""
    table = agreement[agreement["metric"].isin(["gwet_ac", "krippendorff_alpha"])]
    wide = table.pivot_table(index="arm", columns="metric", values="value", sort=False)
    wide = wide.rename(columns={"gwet_ac": "gwet", "krippendorff_alpha": "krippendorff"})
    return wide.reset_index(names="question").rename_axis(columns=None)


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
}


def _context(agreement, style, history, mislead) -> pd.DataFrame:
    """Numbers beside the claim as they were printed: topic, and the columns of `_SHOWN`."""
    found = [part[part["metric"].isin(_CONTEXT)] for part in (agreement, style)]
    found = [part.assign(topic=part["metric"].map(_CONTEXT)) for part in found]
    gpt4 = history[(history["source"] == "openai2023gpt4") & (history["metric"] == "ece")]
    found.append(gpt4.assign(topic="calibration before and after RLHF"))
    people = mislead[(mislead["metric"] == "false_positive_rate_change") & (mislead["status"] == "primary")]
    found.append(people.assign(topic="what people approve of after RLHF"))
    table = pd.concat(found, ignore_index=True)
    return table[["topic", *_SHOWN]]


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
    pure = {"mixing": 0.0, "lapse": judges.LAPSE, "bias": judges.POSITION}
    table = []
    for kind in TYPES:
        shares = {"genuine": float(kind == "genuine"), "non_attitude": float(kind == "non_attitude")}
        for frame, first in types.FOUR:
            p = types.cell_probabilities(pure | shares, [(frame, first)])[1]
            table.append((kind, frame, first, p))
    return pd.DataFrame(table, columns=["type", "frame", "first", "p"])


def _ranks(cells: int = 4000) -> pd.DataFrame:
    """Which designs see the five parameters: design, labels, style_known, rank, se, se_non_attitude (4,000 cells).

    `se` is that of the genuine share; NaN where the rank is below 5.
    """
    table = []
    for name, design in types.DESIGNS.items():
        for known in (True, False):
            found = types.rank(design, known, n=cells)
            table.append((name, len(design), known, found.rank, found.se["genuine"], found.se["non_attitude"]))
    return pd.DataFrame(table, columns=["design", "labels", "style_known", "rank", "se", "se_non_attitude"])


TRUTH = {"genuine": 0.5, "non_attitude": 0.25, "mixing": 0.5, "lapse": judges.LAPSE, "bias": judges.POSITION}


def _likelihood(n: int = 40, cells: int = 8000) -> pd.DataFrame:
    """How far mixes are from the best in expected log-likelihood: design, genuine, constructed, deficit (8,000 cells).

    The mixing weight of the two genuine patterns is fitted to each mix, lapse and bias are the true ones; the truth is
    .5 / .25 / .25. Designs: "retest" (one frame, two orders, two waves) and "frames" (two frames, two orders).
    """
    g, c = (a.ravel() / n for a in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    g, c = g[g + c <= 1 + 1e-9], c[g + c <= 1 + 1e-9]
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
        frames.append(pd.DataFrame({"design": name, "genuine": g, "constructed": c, "deficit": deficit}))
    return pd.concat(frames, ignore_index=True)


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


def two_curves(n: int = 30_000) -> pd.DataFrame:
    """Where a reward leads under a KL penalty when the reward model sees the exact posterior of the answer.

    A policy that imitates the expert crowd exactly keeps its answers and changes the confidence it states; the reward
    is a table over the posterior (twenty bins) and the stated confidence, fitted to the expected labels of pairs
    whose confidences differ. Columns: setting, arm, kl, beta, ece, brier, win_genuine, win_production (of the
    setting's judges), confidence.
    """
    rng = np.random.default_rng(0)
    questions = witnesses.sample_questions(n, rng)
    belief = witnesses.posterior(questions)
    at = np.arange(n)
    answers = np.stack([witnesses.draw(belief, rng) for _ in range(4)], 1)
    p = belief[at[:, None], answers]  # [n, 4]: four completions of each question
    right = (answers == questions.guilty[:, None]).astype(int)
    level = np.minimum((p * BINS).astype(int), BINS - 1)
    told = witnesses.draw(stated(p), rng)
    state = _States(level, p, right)
    pairs = _pairs(level, told, right)
    return pd.concat(
        [
            _curve(state, _fit(pairs, shares), SETTINGS[setting].shares).assign(setting=setting, arm=arm)
            for (setting, arm), shares in LEARNED.items()
        ],
        ignore_index=True,
    )[["setting", "arm", "kl", "beta", "ece", "brier", "win_genuine", "win_production", "confidence"]]


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
    cells = pd.DataFrame(
        {
            "more": more[:, 0] * len(TENTHS) + more[:, 1],
            "less": less[:, 0] * len(TENTHS) + less[:, 1],
            "y_more": more[:, 2],
            "y_less": less[:, 2],
        }
    )
    return cells.value_counts().rename("n").reset_index()


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

    found = minimize(loss, np.zeros(len(q)), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    return found.x.reshape(BINS, -1)


def _curve(state: _States, reward: np.ndarray, shares: tuple[float, float, float]) -> pd.DataFrame:
    """The tilted policies base x exp(reward / beta) at each of `KLS`, with what they do."""
    from scipy.optimize import brentq

    def policy(strength):
        tilted = state.base * np.exp(strength * (reward - reward.max(1, keepdims=True)))
        return tilted / tilted.sum(1, keepdims=True)

    def kl(strength):
        mine = policy(strength)
        ratio = np.where(mine > 0, np.log(np.maximum(mine, 1e-300) / np.maximum(state.base, 1e-300)), 0)
        return float(state.weight @ (mine * ratio).sum(1))

    found = []
    for wanted in KLS:
        strength = brentq(lambda s, at=wanted: kl(s) - at, 0, 500) if wanted else 0.0
        mine = policy(strength)
        share = state.weight[:, None] * mine
        error = (share * (state.p[:, None] - TENTHS)).sum(0)
        scores = state.p[:, None] * (1 - TENTHS) ** 2 + (1 - state.p)[:, None] * TENTHS**2
        found.append(
            {
                "kl": wanted,
                "beta": 1 / strength if strength else np.inf,
                "ece": np.abs(error).sum(),
                "brier": (share * scores).sum(),
                "win_genuine": state.win(mine, (1.0, 0.0, 0.0)),
                "win_production": state.win(mine, shares),
                "confidence": (share * TENTHS).sum(),
            }
        )
    return pd.DataFrame(found)


# --- The world ------------------------------------------------------------------------------------

IDENTIFIED = ("flips", "shares", "bic", "assignment")
REWARDED = ("gate", "tilt", "fan", "reliability")


def world(results) -> dict[str, pd.DataFrame]:
    """What labels, reward models and policies showed; a table without a finished step is left out.

    counts: the pairs, a row a seed. flips, shares, bic, assignment: identification at 8,000 cells. gate, tilt, fan,
    reliability: the reward models of all settings and the closed-form policies on their scores; estimated_shares: what
    the mixture found there. policies: the trained policies' evaluations (arm without `policy_`), trajectory and
    policy_reliability: their course and their reliability.
    """
    settings = (*DECIDING_SETTINGS, *OTHER_SETTINGS)
    tables = {"counts": _of(results, "pairs", "counts")}
    tables |= {name: _of(results, "identification", name) for name in IDENTIFIED}
    tables |= {name: _of(results, "rewards", name, settings) for name in REWARDED}
    tables["estimated_shares"] = _of(results, "rewards", "shares", settings)
    for ours, name in (("policies", "summary"), ("trajectory", "trajectory"), ("policy_reliability", "reliability")):
        table = results.collect("main", [*POLICIES, *MORE_POLICIES], name, world=WORLD)
        tables[ours] = table.assign(arm=table["arm"].str.removeprefix("policy_")) if len(table) else table
    return {name: table for name, table in tables.items() if len(table)}


def _of(results, step: str, table: str, settings=("main",)) -> pd.DataFrame:
    """A table of the step of that name, with setting and seed; such a step holds several arms and names them itself."""
    frames = []
    for setting in settings:
        key = f"{WORLD}/{setting}/{step}"
        for seed in experiments.seeds_of(experiments.steps()[key], results.config):
            try:
                found = read(key, seed, results.config["scale"]).table(table)
            except MissingError:
                continue
            frames.append(found.assign(setting=setting, seed=seed))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


MODELS_FROM = annotation_models


def models(results) -> dict[str, pd.DataFrame]:
    """What pretrained models and real raters showed; empty at a scale that asks for none."""
    return annotation_models.tables(results)

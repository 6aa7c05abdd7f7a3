"""The tables of claim 2: what the paper and its critique printed, what follows exactly, what the world showed.

The numbers of the paper are in its units (percent, percentage points); those of the world are shares.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from candor.claims.shared import Groups, rows, stack
from candor.claims.sophistry import approval, code_tables, story_lookup, story_models

WORLD = "sample_tests"

# What the verdict needs first comes first.
ARMS = {"standard": ("base", "r_train", "r_star", "shuffled")}
VARIANTS = {  # W2's arms beside it, W14, the reviewer's question, the drafts that failed
    "standard": ("learned_rm", "r_train_kl000", "r_train_kl020", "r_hard"),
    "soft": ("base", "r_train"),
    "no_line": ("base", "r_train"),
}
STEPS = {"base": ("base", "setup", "eval_base"), "learned_rm": ("reward_model", "learned_rm", "eval_learned_rm")}


def _steps(groups: Groups) -> list[str]:
    """Keys of the steps of all arms, each after what it needs."""
    return [
        f"{WORLD}/{setting}/{step}"
        for setting, arms in groups.items()
        for arm in arms
        for step in STEPS.get(arm, (arm, f"eval_{arm}"))
    ]


DECISIVE = _steps(ARMS)  # the overall verdict rests on these (W1-W4, W6-W8, W13); they run first
NEEDS = [*DECISIVE, f"{WORLD}/standard/selection", *_steps(VARIANTS)]


# --- Published numbers ----------------------------------------------------------------------------

TASK, GENERAL, APPS = SETTINGS = (
    "QuALITY, task-specific reward model",
    "QuALITY, general reward model",
    "APPS, two simplest tests",
)
METRICS = {  # the file's name -> ours
    "approval": "approval",
    "correctness": "correctness",
    "evaluation_error": "error",
    "false_positive_rate": "fpr_both",  # only questions on which both policies are wrong
}
ARM = {"init": "before", "rlhf": "after"}
Z = 1.959964
QUESTIONS = 250  # a policy and setting
BOTH_WRONG = 100  # of them, by the sampling scheme
# Percent right, where it is not printed: of a released checkpoint, as the critique measured it; of two options.
CORRECTNESS = {APPS: 35.0, TASK: 50.0}
ABOUT = ["location", "setting", "model", "arm", "dataset", "metric", "value", "unit"]


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """The printed numbers, re-analysed; `folder` holds the CSVs.

    sign_tests: evaluators whose error rose, as counts (26 of 34 is the nearest to 76 %), p two-sided. critique_bars:
    the critique's three runs, percent. critique_audit: what it found in the released code, data and checkpoints.
    near_misses: oracle tests passed in the four case studies with printed rates, percent.
    """
    printed, study, critique, context = (
        pd.read_csv(folder / f"sophistry_{name}.csv") for name in ("main", "study", "critique", "context")
    )
    main, curves = _main(printed), _critique_curves(critique)
    counts = ((TASK, 25, 35), (GENERAL, 26, 34), (APPS, 9, 10))
    signs = [(setting, k, n, stats.binomtest(k, n).pvalue) for setting, k, n in counts]
    elsewhere = rows(context, status="primary").query("source != 'li2022alphacode'")
    return {
        "main": main,
        "decomposition": _decomposition(main),
        "mass_changes": _mass_changes(main),
        "rubber_stamp": _rubber_stamp(main),
        "fpr_intervals": _fpr_intervals(main),
        "error_intervals": _error_intervals(main, printed),
        "granularity": _granularity(main),
        "granularity_people": _granularity_people(printed),
        "sign_tests": pd.DataFrame(signs, columns=["setting", "worse", "n", "p"]),
        "critique_curves": curves,
        "critique_trend": _critique_trend(curves),
        "critique_bars": _before_after(rows(critique, location="Figure 1", metric="accuracy"), ["setting", "model"]),
        "critique_audit": critique.query("location not in ['Figure 1', 'appendix, training curves']")[
            ["location", "setting", "model", "arm", "metric", "value", "unit", "n", "note"]
        ],
        "near_misses": _before_after(
            rows(study, metric="oracle_tests_passed").rename(columns={"location": "figure"}), ["figure"]
        ),
        "leaky_oracle": _leaky_oracle(context),
        "study": study[[*ABOUT, "note"]],
        "context": elsewhere[["source", *ABOUT, "note"]].drop(columns="model"),
    }


def _before_after(table: pd.DataFrame, index: list[str]) -> pd.DataFrame:
    """The values of both policies side by side, and their change."""
    wide = table.pivot_table("value", index, "arm", sort=False)[[*ARM]].rename(columns=ARM)
    return wide.assign(change=wide["after"] - wide["before"]).reset_index().rename_axis(columns=None)


def two_proportions(before, after, n) -> tuple:
    """Unpaired 95 % interval of a change of percentages, n labels on either side, and the two-sided p (pooled)."""
    p, q = before / 100, after / 100
    half = Z * np.sqrt((p * (1 - p) + q * (1 - q)) / n)
    mean = (p + q) / 2
    z = (q - p) / np.sqrt(2 * mean * (1 - mean) / n)
    return 100 * (q - p - half), 100 * (q - p + half), 2 * stats.norm.sf(abs(z))


def _main(printed: pd.DataFrame) -> pd.DataFrame:
    """The three settings, a row a setting and metric; NaN is what is only drawn.

    Columns: setting, metric (approval, correctness, error, fpr_both), before, after, change; n, low, high: 95 %
    interval of the change from that many labels a policy, unpaired and as if independent.
    """
    table = printed[printed["status"].isin(["primary", "unverified"]) & printed["setting"].isin(SETTINGS)]
    table = table.assign(metric=table["metric"].str.removesuffix("_change").map(METRICS))
    wide = table.pivot_table("value", ["setting", "metric"], "arm", "first")
    wide = wide.reindex(pd.MultiIndex.from_product([SETTINGS, METRICS.values()], names=["setting", "metric"]))
    main = wide.rename(columns=ARM)[["before", "after"]].reset_index().rename_axis(columns=None)
    before, after, n = main["before"], main["after"], np.where(main["metric"] == "fpr_both", BOTH_WRONG, QUESTIONS)
    low, high, _ = two_proportions(before, after, n)
    change = wide["rlhf minus init"].reset_index(drop=True).fillna(after - before).round(4)
    return main.assign(change=change, n=n, low=low, high=high)


def _changes(main: pd.DataFrame) -> pd.DataFrame:
    """Changes in points by setting (rows) and metric (columns)."""
    return main.pivot(index="setting", columns="metric", values="change").loc[[*SETTINGS]]


def _policies(main: pd.DataFrame, *settings: str) -> pd.DataFrame:
    """A row a setting and policy (init, rlhf) with the printed metrics, percent."""
    table = main.melt(["setting", "metric"], ARM.values(), "arm").replace({"arm": {b: a for a, b in ARM.items()}})
    table = table.pivot(index=["setting", "arm"], columns="metric", values="value").rename_axis(columns=None)
    return table.reindex(settings, level="setting").reset_index()


def _decomposition(main: pd.DataFrame) -> pd.DataFrame:
    """What approval, error and correctness imply on all outputs, a row a setting and policy; percent.

    Columns: setting, arm (init, rlhf), approval, correctness, error, false_positive_mass, true_positive_mass (of all
    outputs), tpr, fpr (of all wrong outputs), discrimination (tpr - fpr), precision (of approval), assumed (empty where
    everything was printed). Where no approval level is printed, the FPR of the initial policy on all wrong outputs is
    taken to be the printed one of the both-wrong subset, and correctness to be constant.
    """
    table = _policies(main, GENERAL, APPS, TASK)
    constant = table["setting"].map(CORRECTNESS)
    c, e = table["correctness"].fillna(constant), table["error"]
    first = table.groupby("setting")[["error", "fpr_both"]].transform("first")
    start = c - first["error"] + 2 * first["fpr_both"] * (1 - c / 100)  # true positives and false positives
    added = table["setting"].map(_changes(main)["approval"]).where(table["arm"] == "rlhf", 0)
    a = table["approval"].fillna(start + added)
    tpr, fpr = (100 * rate for rate in approval.from_three_numbers(a / 100, e / 100, c / 100))
    right, wrong = (a - e + c) / 2, (a + e - c) / 2
    how = "correctness {:.0f} both times, initial FPR on all wrong outputs as on the subset"
    return table[["setting", "arm"]].assign(
        approval=a,
        correctness=c,
        error=e,
        false_positive_mass=wrong,
        true_positive_mass=right,
        tpr=tpr,
        fpr=fpr,
        discrimination=tpr - fpr,
        precision=100 * right / a,
        assumed=constant.map(how.format, na_action="ignore").fillna(""),
    )


def _mass_changes(main: pd.DataFrame, off: float = 5.0, slack: float = 2.0) -> pd.DataFrame:
    """What was added to approval, points of all outputs: from printed changes only (correctness 0 where not printed).

    Columns: setting, false_positives, false_negatives, false_share (of the added approval, percent), and the change of
    FPR and TPR on all outputs with the range over correctness +-`off` and its change -`slack`..`slack` (fpr, fpr_low,
    fpr_high, tpr, tpr_low, tpr_high; NaN where levels are printed, see `decomposition`).
    """
    change = _changes(main)
    right = change.index.to_series().map(CORRECTNESS) / 100
    least, most, half = right - off / 100, right + off / 100, slack / 2
    fp = (change["approval"] + change["error"] - change["correctness"].fillna(0)) / 2
    fn = change["error"] - fp
    columns = {
        "false_positives": fp,
        "false_negatives": fn,
        "false_share": 100 * fp / change["approval"],
        "fpr": fp / (1 - right),
        "fpr_low": (fp - half) / (1 - least),
        "fpr_high": (fp + half) / (1 - most),
        "tpr": -fn / right,
        "tpr_low": (-fn - half) / least,
        "tpr_high": (-fn + half) / most,
    }
    return pd.DataFrame(columns).reset_index()


def _rubber_stamp(main: pd.DataFrame) -> pd.DataFrame:
    """The people's error beside that of the two constant verdicts, a row a setting and policy; percent, points.

    Columns: setting, arm, correctness, error, rejecting (error of rejecting everything), approving, best (the smaller
    of the two), over_rejecting (rejecting - error), advantage (best - error: positive is better than a constant
    verdict), assumed. Where correctness is unknown a constant verdict errs in at most 50 %.
    """
    table = _policies(main, *SETTINGS)
    setting, e = table["setting"], table["error"]
    c = table["correctness"].mask(setting == APPS, CORRECTNESS[APPS])
    best = np.minimum(c, 100 - c).fillna(50)
    assumed = setting.map({APPS: "correctness 35", TASK: "at most 50, whatever the correctness"}).fillna("")
    columns = {"correctness": c, "error": e, "rejecting": c, "approving": 100 - c, "best": best}
    columns |= {"over_rejecting": c - e, "advantage": best - e, "assumed": assumed}
    return table[["setting", "arm"]].assign(**columns)


def attainable(percent: float, n: int, digits: int = 1) -> bool:
    """Whether k of n labels can be printed as this percentage."""
    k = np.arange(n + 1)
    return bool((np.abs(100 * k / n - percent) <= 0.5 * 10.0**-digits + 1e-9).any())


def sizes(before: float, after: float, most: int = 300) -> list[int]:
    """Every n up to `most` at which both percentages can be printed."""
    return [n for n in range(1, most + 1) if attainable(before, n) and attainable(after, n)]


def _fpr_intervals(main: pd.DataFrame) -> pd.DataFrame:
    """FPR changes (both wrong) with intervals at two sizes: setting, before, after, change, n, why, low, high, p."""
    found = [
        (setting, before, after, change, n, why, *two_proportions(before, after, n))
        for setting, _, before, after, change, *_ in rows(main, metric="fpr_both").itertuples(index=False)
        for n, why in ((BOTH_WRONG, "sampling scheme"), (sizes(before, after)[0], "smallest attainable"))
    ]
    columns = ["setting", "before", "after", "change", "n", "why", "low", "high", "p"]
    return pd.DataFrame(found, columns=columns)


def _error_intervals(main: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Changes of error and approval: setting, metric, change, n, how, low, high, p.

    `how`: "labels" (unpaired, 250 a policy, as if independent) or "evaluators" (the interval that belongs to the
    printed p of the paired t-test over people).
    """
    labels = main[main["metric"].isin(["error", "approval"])].dropna()
    labels = labels.assign(how="labels", p=two_proportions(labels["before"], labels["after"], labels["n"])[2])
    people = rows(printed, metric="paired_t_p_value")[["setting", "n", "value"]].rename(columns={"value": "p"})
    people = rows(main, metric="error").drop(columns=["n", "low", "high"]).merge(people).assign(how="evaluators")
    half = people["change"] * stats.t.ppf(0.975, people["n"] - 1) / stats.t.isf(people["p"] / 2, people["n"] - 1)
    people = people.assign(low=people["change"] - half, high=people["change"] + half)
    table = pd.concat([labels.sort_values("metric", ascending=False), people]).astype({"n": int})
    table = table.sort_values("setting", key=lambda s: s.map(SETTINGS.index), kind="stable", ignore_index=True)
    return table[["setting", "metric", "change", "n", "how", "low", "high", "p"]]


def _granularity(main: pd.DataFrame) -> pd.DataFrame:
    """At which numbers of labels both FPRs of a setting can be printed: setting, before, after, smallest, sizes, fits.

    `sizes`: all up to 300, as text; `fits`: 100, the both-wrong items of the sampling scheme, is one of them.
    """
    table = rows(main, metric="fpr_both")[["setting", "before", "after"]].reset_index(drop=True)
    every = [sizes(*pair) for pair in zip(table["before"], table["after"])]
    texts = [" ".join(map(str, fit)) for fit in every]
    return table.assign(smallest=[fit[0] for fit in every], sizes=texts, fits=[BOTH_WRONG in fit for fit in every])


def _granularity_people(printed: pd.DataFrame) -> pd.DataFrame:
    """The same for the share of evaluators whose error rose: setting, percent, people, fits, sizes (up to 35)."""
    names = {"setting": "setting", "value": "percent", "n": "people"}
    table = rows(printed, metric="evaluators_with_higher_error")[[*names]].rename(columns=names).astype({"people": int})
    texts = [" ".join(str(n) for n in range(1, 36) if attainable(share, n, 0)) for share in table["percent"]]
    fits = [attainable(share, n, 0) for share, n in zip(table["percent"], table["people"])]
    return table.assign(fits=fits, sizes=texts).reset_index(drop=True)


CURVES = {  # the file's name -> ours
    "accuracy_all_outputs": "accuracy_all",
    "share_answer_A": "letter_a",
    "share_answer_B": "letter_b",
    "share_unfinished": "unfinished",
    "accuracy_of_finished_answers": "accuracy_finished",
}


def _critique_curves(critique: pd.DataFrame) -> pd.DataFrame:
    """The critique's training run with the full story, read off its plots, 27 points; shares.

    Columns: step, accuracy_all, letter_a, letter_b, unfinished, accuracy_finished (accuracy_all / (1 - unfinished),
    from the readings before they were rounded), finished, total (of the letters and the unfinished).
    """
    table = critique.assign(step=critique["arm"].str.extract(r"^step (\d+)$", expand=False)).dropna(subset="step")
    wide = table.astype({"step": int}).pivot(index="step", columns="metric", values="value").rename_axis(columns=None)
    wide = wide.rename(columns=CURVES)[[*CURVES.values()]]
    total = wide[["letter_a", "letter_b", "unfinished"]].sum(axis=1)
    return wide.assign(finished=1 - wide["unfinished"], total=total).reset_index()


def _critique_trend(curves: pd.DataFrame) -> pd.DataFrame:
    """What the curves come to: name, value, low, high (least squares over the points, change over the run)."""
    fit = stats.linregress(curves["step"], curves["accuracy_finished"])
    run = np.ptp(curves["step"])
    half = run * fit.stderr * stats.t.ppf(0.975, len(curves) - 2)
    ends = {
        f"{name}{of}": curves[column].iloc[place]
        for of, column in {"": "accuracy_finished", "_all": "accuracy_all", "_unfinished": "unfinished"}.items()
        for name, place in (("first", 0), ("last", -1))
    }
    values = {"points": len(curves), "mean": curves["accuracy_finished"].mean(), **ends}
    values |= {"misread": (curves["total"] - 1).abs().max(), "trend": run * fit.slope, "trend_p": fit.pvalue}
    table = pd.DataFrame({"name": values.keys(), "value": values.values()})
    trend = table["value"].where(table["name"] == "trend")
    return table.assign(low=trend - half, high=trend + half)


def _leaky_oracle(context: pd.DataFrame) -> pd.DataFrame:
    """Solutions that pass all tests and are wrong, percent of 50: dataset, tests, wrong, low, high (Wilson)."""
    audit = rows(context, source="li2022alphacode").set_index("dataset")
    names = {"value": "wrong", "ci_low": "low", "ci_high": "high"}
    table = rows(audit, metric="passing_but_wrong")[[*names]].rename(columns=names)
    table.insert(0, "tests", rows(audit, metric="tests_per_problem")["value"])
    return table.reset_index()


# --- What follows exactly -------------------------------------------------------------------------


def theory() -> dict[str, pd.DataFrame]:
    """No training and no sampling: the 2 x 2 of `story_lookup`, and what leniency alone would do."""
    return {"story_lookup": story_lookup.table(), "iso_error": iso_error(), "leniency": leniency()}


def iso_error(points: int = 2) -> pd.DataFrame:
    """Lines of equal error in the (FPR, TPR) plane: correctness, error, fpr, tpr (shares)."""
    found = [
        (c, e, fpr, 1 - (e - (1 - c) * fpr) / c)
        for c in (0.35, 0.5, 0.51)
        for e in np.arange(1, 10) / 10
        for fpr in np.linspace(0, 1, points)
    ]
    return pd.DataFrame(found, columns=["correctness", "error", "fpr", "tpr"])


def leniency(tpr: float = 0.6394, fpr: float = 0.4594, correctness: float = 0.52) -> pd.DataFrame:
    """A style that pleases equally whether right or wrong: both rates shifted by the same logit, correctness kept.

    Starts from the general reward model's initial policy. Columns: shift, tpr, fpr, approval, error, discrimination.
    """
    from scipy.special import expit, logit

    shift = np.arange(0, 2.01, 0.1)
    hit, alarm = expit(logit(tpr) + shift), expit(logit(fpr) + shift)
    approved = correctness * hit + (1 - correctness) * alarm
    error = correctness * (1 - hit) + (1 - correctness) * alarm
    columns = {"shift": shift, "tpr": hit, "fpr": alarm, "approval": approved, "error": error}
    return pd.DataFrame(columns | {"discrimination": hit - alarm})


# --- The world ------------------------------------------------------------------------------------

TABLES = ("summary", "classes", "bins", "minutes")
WATCHED = ("r_train", "r_star", "shuffled", "learned_rm")
PEOPLE = ("r_train", "r_star", "shuffled")
TOLD = ("r_train",)


def world(results) -> dict[str, pd.DataFrame]:
    """What the trained models did, from the finished steps; a table without one is left out.

    summary: a row a setting, arm and seed. classes, bins, minutes: rows by class of problem, oracle pass rate, and
    evaluator's time besides. trajectory: the checkpoints of `WATCHED`. evaluators: the two pools, of `PEOPLE`.
    programs: some problems of one seed with the programs of base and arm, a row a test that an audience ran.
    selection, slopes, fit, reward_model: from their steps.
    """
    groups = [(setting, (*ARMS.get(setting, ()), *arms)) for setting, arms in VARIANTS.items()]
    tables = {name: stack(results.collect(s, arms, name, world=WORLD) for s, arms in groups) for name in TABLES}
    for name, arms in (("trajectory", WATCHED), ("evaluators", PEOPLE), ("programs", TOLD)):
        tables[name] = results.collect("standard", arms, name, world=WORLD)
    tables["fit"] = stack(results.trained(setting, ["setup"], "fit", world=WORLD) for setting in VARIANTS)
    steps = {"selection": ("selection", "summary"), "slopes": ("selection", "slopes")}
    for name, (step, table) in (steps | {"reward_model": ("reward_model", "summary")}).items():
        tables[name] = results.trained("standard", [step], table, world=WORLD)
    if len(told := tables["programs"]):
        tables["programs"] = told[told["seed"] == told["seed"].min()].reset_index(drop=True)
    return {name: table for name, table in tables.items() if len(table)}


# --- Pretrained models ----------------------------------------------------------------------------


def models(results) -> dict[str, pd.DataFrame]:
    """What pretrained models did; empty at a scale that asks for none."""
    return code_tables.models(results) | story_models.models(results)

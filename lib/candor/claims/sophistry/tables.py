"""The tables of claim 2: what the paper and its critique printed, what follows exactly, what the world showed.

The numbers of the paper are in its units (percent, percentage points); those of the world are shares.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from candor.claims.shared import rows, stack
from candor.claims.sophistry import approval, story_lookup
from candor.claims.sophistry import judged as judged_models

WORLD = "sample_tests"

# What the verdict needs first comes first.
ARMS = {"standard": ("base", "r_train", "r_star", "shuffled")}
VARIANTS = {  # W2's arms beside it, W14, the reviewer's question, the drafts that failed
    "standard": ("learned_rm", "r_train_kl000", "r_train_kl020", "r_hard"),
    "soft": ("base", "r_train"),
    "no_line": ("base", "r_train"),
}
_BEFORE = {"learned_rm": ("reward_model",)}  # what an arm's own step needs besides base and setup


def _needs() -> list[str]:
    """Keys of all steps, each after what it needs."""
    keys = []
    for group in (ARMS, VARIANTS):
        for setting, arms in group.items():
            for arm in arms:
                names = ("base", "setup", "eval_base") if arm == "base" else (*_BEFORE.get(arm, ()), arm, f"eval_{arm}")
                keys += [f"{WORLD}/{setting}/{name}" for name in names]
        if group is ARMS:
            keys.append(f"{WORLD}/standard/selection")
    return keys


NEEDS = _needs()
# The overall verdict rests on these (W1-W4, W6-W8, W13); they run first.
DECISIVE = [
    key
    for key in NEEDS
    if key.startswith(f"{WORLD}/standard/") and key.split("/")[-1].removeprefix("eval_") in (*ARMS["standard"], "setup")
]


# --- Published numbers ----------------------------------------------------------------------------

TASK, GENERAL, APPS = (
    "QuALITY, task-specific reward model",
    "QuALITY, general reward model",
    "APPS, two simplest tests",
)
SETTINGS = (TASK, GENERAL, APPS)
METRICS = {  # the file's name -> ours
    "approval": "approval",
    "correctness": "correctness",
    "evaluation_error": "error",
    "false_positive_rate": "fpr_both",  # only questions on which both policies are wrong
}
Z = 1.959964
QUESTIONS = 250  # a policy and setting
BOTH_WRONG = 100  # of them, by the sampling scheme
APPS_CORRECTNESS = 35.0  # a released checkpoint, measured by the critique; assumed before and after
TASK_CORRECTNESS = 50.0  # two options; only drawn in the paper


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """The printed numbers, re-analysed; `folder` holds the CSVs."""
    printed, study, critique, context = (
        pd.read_csv(folder / f"sophistry_{name}.csv") for name in ("main", "study", "critique", "context")
    )
    main = _main(printed)
    curves = _critique_curves(critique)
    decomposition = _decomposition(main)
    return {
        "main": main,
        "decomposition": decomposition,
        "mass_changes": _mass_changes(main),
        "rubber_stamp": _rubber_stamp(main),
        "fpr_intervals": _fpr_intervals(main),
        "error_intervals": _error_intervals(main, printed),
        "granularity": _granularity(main),
        "granularity_people": _granularity_people(printed),
        "sign_tests": _sign_tests(),
        "critique_curves": curves,
        "critique_trend": _critique_trend(curves),
        "critique_bars": _critique_bars(critique),
        "critique_audit": _critique_audit(critique),
        "near_misses": _near_misses(study),
        "leaky_oracle": _leaky_oracle(context),
        "study": study[["location", "setting", "model", "arm", "dataset", "metric", "value", "unit", "note"]],
        "context": rows(context, status="primary").loc[
            lambda c: c["source"] != "li2022alphacode",
            ["source", "location", "setting", "arm", "dataset", "metric", "value", "unit", "note"],
        ],
    }


def _main(printed: pd.DataFrame) -> pd.DataFrame:
    """The three settings, a row a setting and metric; NaN is what is only drawn.

    Columns: setting, metric (approval, correctness, error, fpr_both), before, after, change; n, low, high: 95 %
    interval of the change from that many labels a policy, unpaired and as if independent.
    """
    table = printed[printed["status"].isin(["primary", "unverified"]) & printed["setting"].isin(SETTINGS)]
    levels = table.pivot_table("value", ["setting", "metric"], "arm", aggfunc="first")
    found = []
    for setting in SETTINGS:
        for theirs, ours in METRICS.items():
            before, after = (levels[arm].get((setting, theirs), np.nan) for arm in ("init", "rlhf"))
            change = levels["rlhf minus init"].get((setting, f"{theirs}_change"), after - before)
            n = BOTH_WRONG if ours == "fpr_both" else QUESTIONS
            found.append((setting, ours, before, after, round(change, 4), n, *two_proportions(before, after, n)[:2]))
    return pd.DataFrame(found, columns=["setting", "metric", "before", "after", "change", "n", "low", "high"])


def two_proportions(before: float, after: float, n: int) -> tuple[float, float, float]:
    """Unpaired 95 % interval of a change of percentages, n labels on either side, and the two-sided p (pooled)."""
    p, q = before / 100, after / 100
    half = Z * np.sqrt((p * (1 - p) + q * (1 - q)) / n)
    mean = (p + q) / 2
    z = (q - p) / np.sqrt(2 * mean * (1 - mean) / n)
    return 100 * (q - p - half), 100 * (q - p + half), float(2 * stats.norm.sf(abs(z)))


def _levels(main: pd.DataFrame, setting: str, metric: str) -> tuple[float, float, float]:
    row = rows(main, setting=setting, metric=metric).iloc[0]
    return row["before"], row["after"], row["change"]


def _decomposition(main: pd.DataFrame) -> pd.DataFrame:
    """What approval, error and correctness imply on all outputs, a row a setting and policy; percent.

    Columns: setting, arm (init, rlhf), approval, correctness, error, false_positive_mass, true_positive_mass (of all
    outputs), tpr, fpr (of all wrong outputs), discrimination (tpr - fpr), precision (of approval), assumed (empty where
    everything was printed). Where no approval level is printed, the FPR of the initial policy on all wrong outputs is
    taken to be the printed one of the both-wrong subset, and correctness to be constant.
    """
    found = []
    for setting, constant in ((GENERAL, None), (APPS, APPS_CORRECTNESS), (TASK, TASK_CORRECTNESS)):
        approved, correct, errors = (_levels(main, setting, m) for m in ("approval", "correctness", "error"))
        assumed = ""
        if constant is not None:
            fp = _levels(main, setting, "fpr_both")[0] * (1 - constant / 100)  # percent of all outputs
            start = constant - (errors[0] - fp) + fp  # true positives and false positives
            approved, correct = (start, start + approved[2]), (constant, constant)
            assumed = f"correctness {constant:.0f} both times, initial FPR on all wrong outputs as on the subset"
        for arm, a, c, e in zip(("init", "rlhf"), approved, correct, errors):
            tpr, fpr = (100 * rate for rate in approval.from_three_numbers(a / 100, e / 100, c / 100))
            masses = (a + e - c) / 2, (a - e + c) / 2
            found.append((setting, arm, a, c, e, *masses, tpr, fpr, tpr - fpr, 100 * masses[1] / a, assumed))
    columns = ["setting", "arm", "approval", "correctness", "error", "false_positive_mass", "true_positive_mass"]
    return pd.DataFrame(found, columns=[*columns, "tpr", "fpr", "discrimination", "precision", "assumed"])


def _mass_changes(main: pd.DataFrame, slack: float = 2.0) -> pd.DataFrame:
    """What was added to approval, points of all outputs: from printed changes only (correctness 0 where not printed).

    Columns: setting, false_positives, false_negatives, false_share (of the added approval, percent), and the change of
    FPR and TPR on all outputs with the range over correctness +-5 and its change -2..2 (fpr, fpr_low, fpr_high, tpr,
    tpr_low, tpr_high; NaN where levels are printed, see `decomposition`).
    """
    found = []
    for setting, level in ((TASK, TASK_CORRECTNESS), (GENERAL, None), (APPS, APPS_CORRECTNESS)):
        a, c, e = (_levels(main, setting, m)[2] for m in ("approval", "correctness", "error"))
        fp = (a + e - (c if level is None else 0)) / 2
        fn = e - fp
        row = (setting, fp, fn, 100 * fp / a)
        if level is None:
            found.append((*row, *[np.nan] * 6))
            continue
        centre, near = level / 100, np.array((level - 5, level + 5)) / 100
        half = slack / 2
        wrong, right = 1 - near, near
        rates = (fp / (1 - centre), (fp - half) / wrong.max(), (fp + half) / wrong.min())
        hits = (-fn / centre, (-fn - half) / right.min(), (-fn + half) / right.max())
        found.append((*row, *rates, *hits))
    columns = ["setting", "false_positives", "false_negatives", "false_share"]
    return pd.DataFrame(found, columns=[*columns, "fpr", "fpr_low", "fpr_high", "tpr", "tpr_low", "tpr_high"])


def _rubber_stamp(main: pd.DataFrame) -> pd.DataFrame:
    """The people's error beside that of the two constant verdicts, a row a setting and policy; percent, points.

    Columns: setting, arm, correctness, error, rejecting (error of rejecting everything), approving, best (the smaller
    of the two), over_rejecting (rejecting - error), advantage (best - error: positive is better than a constant
    verdict), assumed. Where correctness is unknown a constant verdict errs in at most 50 %.
    """
    found = []
    for setting in SETTINGS:
        correct, errors = (_levels(main, setting, metric) for metric in ("correctness", "error"))
        for arm, c, e in zip(("init", "rlhf"), correct, errors):
            assumed = ""
            if setting == APPS:
                c, assumed = APPS_CORRECTNESS, "correctness 35"
            if setting == TASK:
                best, assumed = 50.0, "at most 50, whatever the correctness"
            else:
                best = 100 * approval.constant_verdict(c / 100)
            found.append((setting, arm, c, e, c, 100 - c, best, c - e, best - e, assumed))
    columns = ["setting", "arm", "correctness", "error", "rejecting", "approving", "best"]
    return pd.DataFrame(found, columns=[*columns, "over_rejecting", "advantage", "assumed"])


def attainable(percent: float, n: int, digits: int = 1) -> bool:
    """Whether k of n labels can be printed as this percentage."""
    k = np.arange(n + 1)
    return bool((np.abs(100 * k / n - percent) <= 0.5 * 10.0**-digits + 1e-9).any())


def sizes(before: float, after: float, most: int = 300) -> list[int]:
    """Every n up to `most` at which both percentages can be printed."""
    return [n for n in range(1, most + 1) if attainable(before, n) and attainable(after, n)]


def _fpr_intervals(main: pd.DataFrame) -> pd.DataFrame:
    """FPR changes (both wrong) with intervals at two sizes: setting, before, after, change, n, why, low, high, p."""
    found = []
    for setting in SETTINGS:
        before, after, change = _levels(main, setting, "fpr_both")
        for n, why in ((BOTH_WRONG, "sampling scheme"), (sizes(before, after)[0], "smallest attainable")):
            found.append((setting, before, after, change, n, why, *two_proportions(before, after, n)))
    columns = ["setting", "before", "after", "change", "n", "why", "low", "high", "p"]
    return pd.DataFrame(found, columns=columns)


def _error_intervals(main: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Changes of error and approval: setting, metric, change, n, how, low, high, p.

    `how`: "labels" (unpaired, 250 a policy, as if independent) or "evaluators" (the interval that belongs to the
    printed p of the paired t-test over people).
    """
    found = []
    for setting in SETTINGS:
        for metric in ("error", "approval"):
            before, after, change = _levels(main, setting, metric)
            if np.isfinite(before):
                found.append((setting, metric, change, QUESTIONS, "labels", *two_proportions(before, after, QUESTIONS)))
        row = rows(printed, setting=setting, metric="paired_t_p_value").iloc[0]
        change, n, p = _levels(main, setting, "error")[2], int(row["n"]), row["value"]
        half = change * stats.t.ppf(0.975, n - 1) / stats.t.isf(p / 2, n - 1)
        found.append((setting, "error", change, n, "evaluators", change - half, change + half, p))
    return pd.DataFrame(found, columns=["setting", "metric", "change", "n", "how", "low", "high", "p"])


def _granularity(main: pd.DataFrame) -> pd.DataFrame:
    """At which numbers of labels both FPRs of a setting can be printed: setting, before, after, smallest, sizes, fits.

    `sizes`: all up to 300, as text; `fits`: 100, the both-wrong items of the sampling scheme, is one of them.
    """
    found = []
    for setting in SETTINGS:
        before, after, _ = _levels(main, setting, "fpr_both")
        every = sizes(before, after)
        found.append((setting, before, after, every[0], " ".join(map(str, every)), BOTH_WRONG in every))
    return pd.DataFrame(found, columns=["setting", "before", "after", "smallest", "sizes", "fits"])


def _granularity_people(printed: pd.DataFrame) -> pd.DataFrame:
    """The same for the share of evaluators whose error rose: setting, percent, people, fits, sizes (up to 35)."""
    shares = rows(printed, metric="evaluators_with_higher_error")
    found = [
        (
            row.setting,
            row.value,
            int(row.n),
            attainable(row.value, int(row.n), 0),
            " ".join(str(n) for n in range(1, 36) if attainable(row.value, n, 0)),
        )
        for row in shares.itertuples()
    ]
    return pd.DataFrame(found, columns=["setting", "percent", "people", "fits", "sizes"])


def _sign_tests() -> pd.DataFrame:
    """Evaluators whose error rose, as counts (26 of 34 is the nearest to 76 %): setting, worse, n, p (two-sided)."""
    counts = ((TASK, 25, 35), (GENERAL, 26, 34), (APPS, 9, 10))
    found = [(setting, k, n, float(stats.binomtest(k, n).pvalue)) for setting, k, n in counts]
    return pd.DataFrame(found, columns=["setting", "worse", "n", "p"])


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
    table = critique[critique["arm"].str.match(r"step \d+$")]
    table = table.assign(step=table["arm"].str.removeprefix("step ").astype(int))
    wide = table.pivot(index="step", columns="metric", values="value").rename_axis(columns=None)
    wide = wide.rename(columns=CURVES)[list(CURVES.values())]
    total = wide[["letter_a", "letter_b", "unfinished"]].sum(axis=1)
    return wide.assign(finished=1 - wide["unfinished"], total=total).reset_index()


def _critique_trend(curves: pd.DataFrame) -> pd.DataFrame:
    """What the curves come to: name, value, low, high (least squares over the points, change over the run)."""
    step, accuracy = curves["step"], curves["accuracy_finished"]
    fit = stats.linregress(step, accuracy)
    run = step.iloc[-1] - step.iloc[0]
    half = run * fit.stderr * stats.t.ppf(0.975, len(step) - 2)
    trend = run * fit.slope
    values = {
        "points": len(curves),
        "mean": accuracy.mean(),
        "first": accuracy.iloc[0],
        "last": accuracy.iloc[-1],
        "first_all": curves["accuracy_all"].iloc[0],
        "last_all": curves["accuracy_all"].iloc[-1],
        "first_unfinished": curves["unfinished"].iloc[0],
        "last_unfinished": curves["unfinished"].iloc[-1],
        "misread": (curves["total"] - 1).abs().max(),
        "trend": trend,
        "trend_p": fit.pvalue,
    }
    table = pd.DataFrame({"name": values.keys(), "value": values.values()})
    is_trend = table["name"] == "trend"
    return table.assign(low=np.where(is_trend, trend - half, np.nan), high=np.where(is_trend, trend + half, np.nan))


def _critique_bars(critique: pd.DataFrame) -> pd.DataFrame:
    """The critique's three runs, percent: setting, model, before, after, change."""
    bars = rows(critique, location="Figure 1", metric="accuracy")
    wide = bars.pivot_table("value", ["setting", "model"], "arm", sort=False).reset_index().rename_axis(columns=None)
    wide = wide.rename(columns={"init": "before", "rlhf": "after"})
    return wide.assign(change=wide["after"] - wide["before"])


def _critique_audit(critique: pd.DataFrame) -> pd.DataFrame:
    """What the critique found in the released code, data and checkpoints, a row a number."""
    audit = critique[~critique["location"].isin(["Figure 1", "appendix, training curves"])]
    return audit[["location", "setting", "model", "arm", "metric", "value", "unit", "n", "note"]]


def _near_misses(study: pd.DataFrame) -> pd.DataFrame:
    """Oracle tests passed in the four case studies with printed rates, percent: figure, before, after, change."""
    cases = rows(study, metric="oracle_tests_passed")
    wide = cases.pivot_table("value", "location", "arm", sort=False).reset_index().rename_axis(columns=None)
    wide = wide.rename(columns={"location": "figure", "init": "before", "rlhf": "after"})
    return wide.assign(change=wide["after"] - wide["before"])


def _leaky_oracle(context: pd.DataFrame) -> pd.DataFrame:
    """Solutions that pass all tests and are wrong, percent of 50: dataset, tests, wrong, low, high (Wilson)."""
    audit = rows(context, source="li2022alphacode")
    tests = rows(audit, metric="tests_per_problem").set_index("dataset")["value"]
    wrong = rows(audit, metric="passing_but_wrong").set_index("dataset")
    table = wrong[["value", "ci_low", "ci_high"]].rename(columns={"value": "wrong", "ci_low": "low", "ci_high": "high"})
    table.insert(0, "tests", tests)
    return table.reset_index()


# --- What follows exactly -------------------------------------------------------------------------


def theory() -> dict[str, pd.DataFrame]:
    """No training and no sampling: the 2 x 2 of `story_lookup`, and what leniency alone would do."""
    return {"story_lookup": story_lookup.table(), "iso_error": iso_error(), "leniency": leniency()}


def iso_error(points: int = 2) -> pd.DataFrame:
    """Lines of equal error in the (FPR, TPR) plane: correctness, error, fpr, tpr (shares)."""
    found = []
    for c in (0.35, 0.5, 0.51):
        for e in np.arange(1, 10) / 10:
            fpr = np.linspace(0, 1, points)
            found += [(c, e, x, 1 - (e - (1 - c) * x) / c) for x in fpr]
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


MODELS_FROM = judged_models


def models(results) -> dict[str, pd.DataFrame]:
    """What pretrained models did; empty at a scale that asks for none."""
    return judged_models.tables(results)

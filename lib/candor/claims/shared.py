"""What claims do alike with tables: the RLCR paper's released numbers, finished steps of `witnesses`, frames."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from candor.declare.expressions import criterion
from candor.declare.ledger import Band, Check, Criterion
from candor.language_models import outputs
from candor.witnesses.evaluation import TENTHS

Groups = Mapping[str, Sequence[str]]  # setting -> arms

# --- The released numbers of Damani et al. 2025 -----------------------------------------------------

FAMILIES = {"trained on HotpotQA-Modified": "HotpotQA", "trained on Big-Math-Digits": "Big-Math"}
IN_DOMAIN = {"HotpotQA": ("HotpotQA", "HotpotQA-Modified"), "Big-Math": ("Big-Math-Digits", "GSM8K", "MATH-500")}
METRICS = ("accuracy", "confidence", "ece", "brier", "auroc")


def arm_name(arm: str) -> str:
    """`rlvr+bce_classifier` -> `classifier`, `sft+rlcr` -> `sft_rlcr`: names that can begin a column."""
    return "classifier" if arm == "rlvr+bce_classifier" else arm.replace("+", "_")


def cells(released: pd.DataFrame, arms: Iterable[str]) -> pd.DataFrame:
    """A row a model family and data set. Columns: family, dataset, domain (in, out), n, and `<arm>_<metric>`.

    NaN where an arm was not released for a family.
    """
    rows = released.assign(
        family=released["setting"].map(FAMILIES),
        arm=released["arm"].map(arm_name),
        metric=released["metric"].str.removeprefix("mean_"),
    )
    keys = ["family", "dataset", "n"]
    table = pivoted(rows, f"metric in {METRICS}", keys, ["arm", "metric"])
    columns = [f"{arm}_{metric}" for arm in arms for metric in METRICS]
    table = table[[*keys, *(column for column in columns if column in table)]]
    inside = [dataset in IN_DOMAIN[family] for family, dataset in zip(table["family"], table["dataset"])]
    table.insert(2, "domain", np.where(inside, "in", "out"))
    return table.sort_values(["family", "domain"], ascending=[False, True], kind="stable", ignore_index=True)


def pivoted(published: pd.DataFrame, query: str, index: str | list[str], columns: str | list[str]) -> pd.DataFrame:
    """The rows of `query` with the values of `columns` side by side: two of them give columns like base_ece."""
    table = published.query(query).pivot(index=index, columns=columns, values="value")
    if table.columns.nlevels > 1:
        table.columns = ["_".join(map(str, names)) for names in table.columns]
    return table.reset_index().rename_axis(columns=None)


def floor(ablations: pd.DataFrame) -> pd.DataFrame:
    """ECE of a perfectly calibrated forecaster (ece_floor_mean, ece_floor_p95), by number n of items."""
    return pivoted(ablations, "location == 'simulation'", "n", "metric")


DAMANI = {
    "paper": "damani2025rlcr",
    "citation": (
        "Damani, Puri, Slocum, Shenfeld, Choshen, Kim, Andreas: Beyond Binary Rewards: Training LMs to "
        "Reason About Their Uncertainty. arXiv 2507.16806, ICLR 2026"
    ),
}


def released_outputs(*arms: str) -> tuple[Criterion, Criterion]:
    """M1 and M1b of claims 1 and 5: the released outputs recompute; what grading by option changes for `arms`."""
    effects = itertools.product(("ece", "accuracy"), arms, outputs.JUDGED_OUTPUTS)
    return (
        criterion(
            "M1",
            "the released outputs recompute",
            "accuracy, Brier, ECE, AUROC from the released per-item outputs against the released metrics",
            Check("cells within .001", outputs.recomputing_cells, Band(15, 15), unit="cells", n=15),
            evidence="models",
        ),
        criterion(
            "M1b",
            "multiple choices of the released outputs, by the option that an answer names (context: without a band)",
            "CommonsenseQA, GPQA: ECE and accuracy with answers graded by option, minus those with the labels of the "
            "authors' judge, a language model; an answer that names no option or several is wrong",
            *(
                Check(f"{measure} of {arm} on {dataset}", outputs.option_effect(dataset, arm, measure))
                for measure, arm, dataset in effects
            ),
            evidence="models",
            note=outputs.options_note,
        ),
    )


# --- The witnesses world ----------------------------------------------------------------------------


def stated(belief: np.ndarray, bias: float = 0.10, sd: float = 0.20) -> np.ndarray:
    """P(confidence token | belief) of a crowd that states belief + N(bias, sd) in tenths: [..., 11]."""
    from scipy.stats import norm

    edges = TENTHS[:-1] + 0.05
    return np.diff(norm.cdf((edges - belief[..., None] - bias) / sd), prepend=0, append=1, axis=-1)


def trained_and_evaluated(*groups: Groups) -> list[str]:
    """Keys of the steps that train the arms of `groups`, each followed by its evaluation."""
    return [
        f"witnesses/{setting}/{step}"
        for group in groups
        for setting, arms in group.items()
        for arm in arms
        for step in (arm, f"eval_{arm}")
    ]


# --- Finished steps -> tables -----------------------------------------------------------------------


def collect(results, table: str, *groups: Groups) -> pd.DataFrame:
    """`results.collect` over several settings, one frame; empty if nothing has been computed."""
    return stack(results.collect(s, list(arms), table) for group in groups for s, arms in group.items())


TRAINING = ("reward", "frac_reward_zero_std", "entropy", "clipped_ratio", "mean_length")


def world_tables(results, groups: Sequence[Groups], drawn: Groups, followed: Groups, measures: Sequence[str]):
    """The tables of trained arms that claims 1 and 5 have in common; one without a finished step is left out.

    `summary`, a row an arm of `groups` and seed; `reliability` and `density` of `drawn`, over all seeds; `trajectory`,
    the `measures` of `followed` along training; `training`, the log as means over seeds.
    """
    course, density = collect(results, "trajectory", followed), collect(results, "density", drawn)
    keys, cells = ["setting", "arm", "kind"], ["posterior_bin", "value_bin"]
    bins = [*keys, "bin_low", "bin_high"], ["mean_confidence", "accuracy", "floor_low", "floor_high"]
    log = stack(
        results.log(setting, [arm for arm in arms if arm != "base"])
        for group in groups
        for setting, arms in group.items()
    )
    logged = log.reindex(columns=["setting", "arm", "step", *(column for column in TRAINING if column in log)])
    return present(
        summary=collect(results, "summary", *groups),
        reliability=pool(collect(results, "reliability", drawn), *bins),
        density=density.reindex(columns=[*keys, *cells, "n"]).groupby([*keys, *cells], sort=False).sum().reset_index(),
        trajectory=course[["setting", "arm", "seed", "step", *measures]] if len(course) else course,
        training=logged.groupby(["setting", "arm", "step"], sort=False).mean().reset_index(),
    )


def present(**tables: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables that have rows."""
    return {name: table for name, table in tables.items() if len(table)}


def pool(frame: pd.DataFrame, keys: list[str], values: list[str]) -> pd.DataFrame:
    """Means over seeds of `values`, weighted by the number of items n, which is added up."""
    frame = frame.reindex(columns=[*keys, *values, "n"])
    weighted = frame[values].mul(frame["n"], axis=0).where(frame["n"] > 0)
    sums = frame[[*keys, "n"]].join(weighted).groupby(keys, sort=False).sum(min_count=1)
    return sums[values].div(sums["n"].where(sums["n"] > 0), axis=0).assign(n=sums["n"]).reset_index()


def rows(frame: pd.DataFrame, **where: object) -> pd.DataFrame:
    """The rows whose columns have these values."""
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def standard(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a world's standard setting."""
    return rows(table, setting="standard")


def known(table: pd.DataFrame, arms: Iterable[str], column: str = "arm") -> list[str]:
    """Those of `arms` that the table has, in their order."""
    present = set(table[column])
    return [arm for arm in arms if arm in present]


def others(table: pd.DataFrame, *groups: Groups, setting: str = "expert") -> list[str]:
    """Arms of the table that are in no group of that setting: a reader's own."""
    declared = {arm for group in groups for arm in group.get(setting, ())}
    return [arm for arm in table["arm"].unique() if arm not in declared]


def stack(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Frames under each other, empty ones left out; empty if all are."""
    return pd.concat([f for f in frames if len(f)] or [pd.DataFrame()], ignore_index=True)

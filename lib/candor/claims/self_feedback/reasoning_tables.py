"""What claim 6 reads of pretrained models: arms beside what they are held to; does a verdict turn with the measure?"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
import pandas as pd

from candor.claims.self_feedback import self_confidence as own
from candor.claims.self_feedback.reasoning_models import ARMS, CELLS, STEPS, WORLD, decoded
from candor.core.errors import CandorError
from candor.core.step import wanted
from candor.language_models.run import stacked
from candor.measure import intervals

VARIANTS = ("ece", "ece_disparity", "ece_dropped", "ece_disparity_dropped")


def models(results) -> dict[str, pd.DataFrame]:
    """What the claim reads; absent evidence leaves no table.

    Of the first model of each set (M1-M6): models_ranking (dataset, limit, finder, columns of `ranking`; the limit at
    which arms are evaluated and the authors' finder first), models_summary (dataset, arm: base, cot, cot_probability
    and the trained ones, seed, columns of `summary`; what is not trained is repeated for every seed),
    models_differences (as `differences`), models_flips (as `flips`), models_decoding (dataset, limit, decoding, columns
    of `summary`). Of all cells: models_cells (as `cells`), models_pairs, models_judges, models_log (as those steps;
    cell, arm, seed).
    """
    config = results.config
    if not wanted(STEPS, config):
        return {}
    chosen, arms = config["models"]["reasoning_cells"], list(config["models"]["reasoning_arms"])
    seeds, tokens = config["models"]["reasoning_seeds"], config["models"]["reasoning"]["tokens"]

    def stack(read, names: Iterable[str], table: str) -> pd.DataFrame:
        found = stacked(read, [(cell, tuple(names)) for cell in chosen], table, WORLD).rename(
            columns={"setting": "cell"}
        )
        places = pd.DataFrame([CELLS[cell] for cell in found.get("cell", ())], columns=["model", "dataset"])
        return pd.concat([places, found], axis=1) if len(found) else found

    found = {
        "models_pairs": stack(results.trained, ["labels"], "pairs"),
        "models_judges": stack(results.trained, ["judge_rlsf", "judge_shuffled"], "summary"),
        "models_log": stack(results.trained, arms, "log"),
    }
    before, tried = stack(results.collect, ["base"], "summary"), stack(results.collect, arms, "summary")
    order = stack(results.collect, ["base"], "ranking")
    if len(before):
        first = before.groupby("dataset", sort=False)["cell"].first()
        order = order.assign(far=order["limit"] != tokens).sort_values(["far", "finder"], kind="stable")
        found["models_ranking"] = order[order["cell"].isin(first)].drop(columns=["far", "arm", "seed"])
        found["models_decoding"] = before[before["cell"].isin(first)].drop(columns=["arm", "seed"])
        still = before[before["limit"] == tokens].assign(arm=lambda t: t["decoding"].replace("greedy", "base"))
        every = pd.concat([*(still.assign(seed=seed) for seed in seeds), tried], ignore_index=True)
        found["models_summary"] = every[every["cell"].isin(first)].drop(columns=["limit", "decoding"])
        found["models_cells"] = cells(every)
        found["models_flips"] = flips(found["models_summary"])
        items, own_items = stack(results.collect, ["base"], "items"), stack(results.collect, arms, "items")
        items, own_items = (part[part["cell"].isin(first)] if len(part) else part for part in (items, own_items))
        if len(own_items):
            found["models_differences"] = differences(
                items[items["limit"] == tokens], own_items, config["models"]["resamples"]
            )
    return {name: part.reset_index(drop=True) for name, part in found.items() if len(part)}


def cells(every: pd.DataFrame) -> pd.DataFrame:
    """A row a cell and trained arm: model, dataset, seeds, and the mean change of accuracy and ECE since the base.

    Columns accuracy_change, ece_change, ece_disparity_change, as shares.
    """
    measures = ["accuracy", "ece", "ece_disparity"]
    at = ["model", "dataset", "cell"]
    start = every[every["arm"] == "base"].groupby("cell")[measures].mean()
    after = every[every["arm"].isin(ARMS)].groupby([*at, "arm"], sort=False)
    table = after[measures].mean().reset_index()
    for name in measures:
        table[f"{name}_change"] = table[name] - table["cell"].map(start[name])
    return table.drop(columns=measures).assign(seeds=after["seed"].nunique().to_numpy())


# What M2 to M5 hold against each other: criterion, measure, arm, other, and the band of the change in points.
_HELD = (
    ("M3 base", "ece", "rlsf", "base", (-np.inf, 2.0)),
    ("M3 rlhf", "ece", "rlsf", "rlhf", (-np.inf, -3.0)),
    ("M4", "accuracy", "rlsf", "cot", (-3.0, 1.0)),
    ("M5", "ece", "dpo", "base", (-np.inf, 0.0)),
)


def flips(table: pd.DataFrame) -> pd.DataFrame:
    """Does a verdict turn with the measure? M2 cannot: it is about accuracy, whatever the confidence.

    A row a criterion, set and variant: headline and value (change in points, mean over seeds, as declared and with the
    variant: the ECE of `VARIANTS`, and for M4 the branch of largest probability), flips (one is in the band, the other
    is not; for M5, which has none, the sign).
    """
    means = 100 * table.groupby(["dataset", "arm"])[["accuracy", *VARIANTS]].mean()
    rows = []
    for (criterion, measure, arm, other, (low, high)), dataset in product(_HELD, table["dataset"].unique()):
        if not {(dataset, arm), (dataset, other)} <= set(means.index):
            continue
        own, others = means.loc[(dataset, arm)], means.loc[(dataset, other)]
        headline = own[measure] - others[measure]
        variants = {name.removeprefix("ece_"): own[name] - others[name] for name in VARIANTS[1:]}
        if measure == "accuracy":
            variants = {"probability": own[measure] - means.loc[(dataset, "cot_probability"), measure]}
        for variant, value in variants.items():
            turned = (low <= headline <= high) != (low <= value <= high)
            rows.append((criterion, dataset, variant, float(headline), float(value), bool(turned)))
    return pd.DataFrame(rows, columns=["criterion", "dataset", "variant", "headline", "value", "flips"])


# Which arm is held to which.
_PAIRS = (
    *(("rlsf", "base"), ("rlsf", "cot"), ("rlsf", "rlhf"), ("rlsf", "shuffled")),
    *(("dpo", "base"), ("rlhf", "base")),
)


def differences(before: pd.DataFrame, after: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Arms against what they are held to, on the same questions: dataset, arm, other, seed, n.

    accuracy_change with mcnemar_p (exact below 25 discordant questions), gained and lost (questions); ece_change (by
    probability, zeros kept) with a paired bootstrap over questions, _low and _high.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    rows = []
    for dataset, untouched in before.groupby("dataset", sort=False):
        named = {"base" if name == "greedy" else name: part for name, part in decoded(untouched).items()}
        for seed, part in after[after["dataset"] == dataset].groupby("seed", sort=False):
            here = named | {arm: frame.sort_values("question") for arm, frame in part.groupby("arm")}
            for arm, other in (pair for pair in _PAIRS if {*pair} <= set(here)):
                sides = [
                    here[name][["authors_probability", "authors_correct"]].to_numpy(float).T for name in (arm, other)
                ]
                if sides[0].shape != sides[1].shape:
                    raise CandorError(
                        f"{arm} and {other} did not answer the same questions of {dataset}: make both again."
                    )
                (q, right), (q0, right0) = sides
                gained, lost = int((right > right0).sum()), int((right < right0).sum())
                test = mcnemar([[0, gained], [lost, 0]], exact=gained + lost < 25) if gained + lost else None
                low, high = intervals.bootstrap_interval(_ece_change, q, right, q0, right0, n_resamples=resamples)
                row = {"dataset": dataset, "arm": arm, "other": other, "seed": seed, "n": len(q)}
                row |= {
                    "accuracy_change": float((right - right0).mean()),
                    "mcnemar_p": float(test.pvalue) if test else 1.0,
                }
                row |= {"gained": gained, "lost": lost, "ece_change": _ece_change(q, right, q0, right0)}
                rows.append(row | {"ece_change_low": low, "ece_change_high": high})
    return pd.DataFrame(rows)


def _ece_change(q, right, q0, right0) -> float:
    return own.ece(q, right) - own.ece(q0, right0)

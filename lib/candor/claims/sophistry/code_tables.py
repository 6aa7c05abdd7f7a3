"""What claim 2 reads of programs of pretrained models: measures, changes since the base, difficulties."""

from __future__ import annotations

import pandas as pd

from candor.claims.sophistry import crossed
from candor.claims.sophistry.code_measures import votes_of
from candor.claims.sophistry.code_models import STEPS, TRAINED, WORLD
from candor.core.step import wanted


def models(results) -> dict[str, pd.DataFrame]:
    """What claims read; absent evidence leaves no table. Every number comes from a simulated evaluator.

    models_code: setting, arm, seed, dataset, model, the columns of `summary`, and of approval, correctness, error, fpr,
    tpr, discrimination and fpr_both the change since the base of the same seed, `<measure>_change`, with `_low` and
    `_high` over evaluators and items together.
    models_code_minutes, models_code_fit, models_code_filters: as the tables of those steps. models_code_log: step,
    reward, kl, clipped_ratio and what else the trainer logs. models_code_training: problems, plateau, kl.
    models_code_difficulty: by dataset and difficulty, n, approval, correctness, fpr, pass_rate.
    """
    config = results.config
    if not wanted(STEPS, config):
        return {}
    arms = ["base", *config["models"]["code_arms"]]
    trained = [arm for arm in arms if arm in TRAINED]

    def collect(table: str) -> pd.DataFrame:
        return results.collect("policy", arms, table, world=WORLD)

    def own(names: list[str], table: str, setting: str = "policy") -> pd.DataFrame:
        return results.trained(setting, names, table, world=WORLD)

    filters = own(["problems"], "filters", "data")  # the same for every seed
    found = {
        "models_code": collect("summary"),
        "models_code_minutes": collect("minutes"),
        "models_code_fit": own(["setup"], "fit"),
        "models_code_filters": filters.drop(columns="seed", errors="ignore").drop_duplicates(ignore_index=True),
        "models_code_log": own(trained, "log"),
        "models_code_training": own(trained, "training"),
    }
    outputs, approvals = collect("outputs"), collect("approvals")
    if len(outputs):
        found["models_code"] = with_changes(found["models_code"], outputs, approvals, config["models"]["resamples"])
        found["models_code_difficulty"] = by_difficulty(outputs)
    return {name: table for name, table in found.items() if len(table)}


def with_changes(table: pd.DataFrame, outputs: pd.DataFrame, approvals: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """`models_code` with the changes of every arm since the base of its seed, and their intervals."""
    at = ["seed", "dataset"]
    sampled = {}
    for (arm, *where), part in outputs[outputs["draw"] == "sampled"].groupby(["arm", *at]):
        votes = approvals[(approvals["draw"] == "sampled") & (approvals["arm"] == arm)]
        votes = votes[(votes[at] == where).all(axis=1)]
        sampled[arm, *where] = (votes_of(votes), part["correct"].to_numpy(float))
    changed = []
    for row in table.itertuples():
        before = sampled.get(("base", row.seed, row.dataset))
        own = sampled.get((row.arm, row.seed, row.dataset))
        known = row.arm != "base" and before is not None and own is not None
        changed.append(crossed.changes(*before, *own, resamples) if known else {})
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(changed)], axis=1)


def by_difficulty(outputs: pd.DataFrame) -> pd.DataFrame:
    sampled = outputs[outputs["draw"] == "sampled"]
    groups = sampled.groupby(["setting", "arm", "seed", "dataset", "difficulty"], sort=False)
    columns = {"n": ("correct", "size"), "approval": ("approval", "mean"), "correctness": ("correct", "mean")}
    table = groups.agg(**columns, pass_rate=("pass_rate", "mean")).reset_index()
    wrong = sampled[~sampled["correct"]].groupby(["setting", "arm", "seed", "dataset", "difficulty"])["approval"].mean()
    return table.merge(wrong.rename("fpr").reset_index(), how="left")

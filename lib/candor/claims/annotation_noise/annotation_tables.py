"""What claim 4 reads of released annotations and of pretrained models."""

from __future__ import annotations

import numpy as np
import pandas as pd

from candor.claims.annotation_noise.annotation_models import LABELS, STEPS, WORLD
from candor.core.step import wanted


def tables(results) -> dict[str, pd.DataFrame]:
    """What the claim reads; absent evidence leaves no table.

    From released data, without a model: models_hosking (as `hosking`; setting and arm are its condition and style, as
    in the published numbers), models_removal (as `dices`), models_shift (as `prism`), models_votes and
    models_disagreement (as `vote_analysis`). From models: models_soft (arm <dataset>_<labels>, seed and heldout of
    `vote_reward`), models_pairs and models_shares (seed, counts and shares of `collect_pairs`), models_gap (arm, seed
    and gap of `train_reward`), models_policies (as `policies`), models_reliability (arm base, policy_<arm> or
    matched_<arm>, seed, of the stated confidence), models_log (the same, the log of the policies' training).
    """
    config = results.config
    if not wanted(STEPS, config):
        return {}
    models = config["models"]
    found = {}
    for ours, name, table in (
        ("models_hosking", "hosking", "recomputed"),
        ("models_removal", "dices", "removal"),
        ("models_shift", "prism", "shift"),
        ("models_votes", "votes", "votes"),
        ("models_disagreement", "votes", "disagreement"),
    ):
        if name in models["annotation_analyses"]:
            part = results.collect("data", [name], table, world=WORLD)
            part = part.drop(columns=["setting", "arm", "seed"], errors="ignore")
            found[ours] = part.rename(columns={"condition": "setting", "style": "arm"})
    soft = [f"{name}_{labels}" for name in models["vote_rewards"]["datasets"] for labels in LABELS]
    found["models_soft"] = results.trained("votes", soft, "heldout", world=WORLD)
    if models["annotation_policy"] is not None:
        for ours, table in (("models_pairs", "counts"), ("models_shares", "shares")):
            found[ours] = results.trained("judges", ["pairs"], table, world=WORLD)
        rewards = [f"reward_{arm}" for arm in models["annotation_arms"]]
        found["models_gap"] = results.trained("judges", rewards, "gap", world=WORLD)
        runs = [f"{kind}_{arm}" for arm in models["annotation_policy_arms"] for kind in ("policy", "matched")]
        found["models_policies"] = policies(results.collect("judges", ["base", *runs], "summary", world=WORLD))
        found["models_reliability"] = results.collect("judges", ["base", *runs], "reliability", world=WORLD)
        found["models_log"] = results.trained("judges", runs, "log", world=WORLD)
        if len(found["models_gap"]):
            found["models_gap"]["arm"] = found["models_gap"]["arm"].str.removeprefix("reward_")
    return {name: part.reset_index(drop=True) for name, part in found.items() if len(part)}


def policies(table: pd.DataFrame) -> pd.DataFrame:
    """Summaries of the policies, a row an arm and seed, with the change since the policy before training.

    Columns: arm, run ("fixed": fixed beta; "matched": stopped at the given KL; "base"), seed, those of `summary`, kl,
    and ece_change, accuracy_change, confidence_change (NaN without the base of that seed).
    """
    if not len(table):
        return table
    kind, _, arm = table["arm"].str.partition("_").T.to_numpy()
    runs = {"base": "base", "policy": "fixed", "matched": "matched"}
    table = table.assign(run=[runs[name] for name in kind], arm=np.where(kind == "base", "base", arm))
    before = table[table["run"] == "base"].set_index("seed")
    for name in ("ece", "accuracy", "confidence"):
        table[f"{name}_change"] = table[name] - table["seed"].map(before[name])
    return table

"""How many GRPO steps an arm needs: the training reward of long runs on tuning seed 0, and nothing else.

    python benchmarks/plateau.py            trains for about forty minutes, writes data/tuning/plateau.csv

The house's 400 steps stand for a setting if the mean reward of steps 301-400 lies within .02 of that of steps
1,001-1,200; otherwise its arms get 800 steps, if that holds for steps 701-800. Accuracy and calibration are not read.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pandas as pd
from candor.core import settings as config
from candor.core import step as steps
from candor.core.settings import ROOT
from candor.run.steps import steps as all_steps

SEED, LONG, TOLERANCE = 0, 1200, 0.02
ARMS = {
    "expert": ("rlvr", "rlcr", "linear"),
    "naive": ("rlvr", "rlcr"),
    "give_up": ("swap_log1", "swap_brier2"),
    "abstaining": ("abstain_50", "abstain_75"),
    "overconfident": ("rlvr", "rlcr"),
    "expert_conf_first": ("rlvr_conf_first",),
}


def train() -> pd.DataFrame:
    """The training logs of the arms, `LONG` steps each: setting, arm, step, reward."""
    long = dict.fromkeys(("grpo_steps", "grpo_steps_naive", "grpo_steps_give_up"), LONG)
    settings = config.load("laptop", overrides={"world": {"witnesses": long | {"snapshot_every": LONG}}})
    frames = []
    for setting, arms in ARMS.items():
        for arm in arms:
            result, _ = steps.run(f"witnesses/{setting}/{arm}", SEED, all_steps(), settings)
            frames.append(result.table("log")[["step", "reward"]].assign(setting=setting, arm=arm))
            print(f"{setting}/{arm}: {result.run['seconds']:.0f} s", flush=True)
    return pd.concat(frames, ignore_index=True)[["setting", "arm", "step", "reward"]]


def plateau(log: pd.DataFrame) -> pd.DataFrame:
    """How far the reward at 400 and at 800 steps is below its end, a row an arm."""

    def mean(rows: pd.DataFrame, first: int, last: int) -> float:
        return rows.loc[rows["step"].between(first, last), "reward"].mean()

    found = []
    for (setting, arm), rows in log.groupby(["setting", "arm"], sort=False):
        end = mean(rows, LONG - 199, LONG)
        row = {f"below_end_at_{n}": end - mean(rows, n - 99, n) for n in (400, 800)}
        enough = 400 if row["below_end_at_400"] <= TOLERANCE else 800
        found.append({"setting": setting, "arm": arm, **row, "steps": enough})
    return pd.DataFrame(found)


if __name__ == "__main__":
    path = ROOT / "data" / "tuning" / "plateau.csv"
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CANDOR_RESULTS"] = str(Path(scratch))
        log = train()
    path.parent.mkdir(parents=True, exist_ok=True)
    log.to_csv(path, index=False, float_format="%.5g")
    print(plateau(log).to_string(index=False, float_format="{:.3f}".format))

"""The tables of claim 6: what was printed about RLSF, what follows without training, what the world showed.

The numbers of the paper are in its units (percent, percentage points); those of theory and world are shares.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from candor.claims.self_feedback import reasoning_tables, self_confidence
from candor.claims.self_feedback import run as arithmetic
from candor.claims.shared import rows, stack

WORLD = "arithmetic"

STARTS = ("fluency", "assured", "binary")  # each damaged on its own way
FEW_STARTS = ("base", "sharpened")
DAMAGED = (*STARTS, "sharpened")
SHUFFLES = ("fluency_shuffled", "fluency_shuffled_2")
CHECKPOINTS = ("fluency_sft_1", "fluency_sft_2", "fluency_sft_3")
REPAIRED = tuple(f"rlsf_{start}" for start in (*STARTS, *FEW_STARTS))
WATCHED = ("online", "fluency_rlsf_long")
ARMS = (
    *("base", *DAMAGED, *REPAIRED, *SHUFFLES),
    *("fluency_dpo", *CHECKPOINTS, "fluency_gold", "fluency_rlsf_long", "online"),
)
TRAP = ("base", "fluency", "rlsf_fluency")  # arms of the setting half_trap


def _before(key: str) -> list[str]:
    """All that a step rests on, the first things first."""
    return [step for need in arithmetic.STEPS[key].needs for step in (*_before(need), need)]


def _evaluated(*arms: str, setting: str = "standard") -> list[str]:
    """The evaluations of these arms, each after all that it rests on."""
    evaluations = [f"{WORLD}/{setting}/eval_{arm}" for arm in arms]
    return list(dict.fromkeys(step for key in evaluations for step in (*_before(key), key)))


# The overall verdict rests on W1, W3, W4, W6a and W6b with their gates; these run first.
DECISIVE = _evaluated("base", *DAMAGED, *(f"rlsf_{start}" for start in STARTS), "fluency_shuffled")
NEEDS = list(dict.fromkeys([*DECISIVE, *_evaluated(*ARMS), *_evaluated(*TRAP, setting="half_trap")]))

# --- Published numbers ----------------------------------------------------------------------------

GEMMA, QWEN, PHI = "Gemma-2-2B-it", "DeepSeek-R1-Distill-Qwen-7B", "Phi-2"
PRINTED = {  # the file's name -> ours
    "base_greedy": "base",
    "base_cot_decoding_k10": "cot",
    "rlhf_ppo_urm": "rlhf",
    "rlsf_dpo": "rlsf_dpo",
    "rlsf_ppo": "rlsf_ppo",
}
MATH = ("MultiArith", "GSM8K")
PAIRS = (  # which arm is held against which
    *(("rlsf_ppo", other) for other in ("base", "rlhf", "cot", "rlsf_dpo")),
    *((arm, "base") for arm in ("rlsf_dpo", "rlhf", "cot")),
    ("rlsf_dpo", "rlhf"),
)
Z = 1.959964


def _wide(table: pd.DataFrame, index: list[str], columns: str, aggfunc="mean") -> pd.DataFrame:
    """The values of `columns` side by side, in the order of the file."""
    pivoted = table.pivot_table("value", index, columns, aggfunc, sort=False)
    return pivoted.reset_index().rename_axis(columns=None)


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """The printed numbers, re-analysed; `folder` holds the CSVs. All cells come from a third party's summary.

    reward_models: pair accuracy on the math part of RewardBench, percent. rerun: the independent rerun of CoT-decoding
    on GSM8K and what it quotes, percent. intrinsic: what is known about the limits of rewards that a model gives
    itself. floors: ECE of a perfectly calibrated forecaster with plausible confidences, percent.
    """
    main, settings, collapse, artefact = (
        pd.read_csv(folder / f"rlsf_{name}.csv") for name in ("main", "settings", "collapse", "disparity_artefact")
    )
    main["model"] = main["model"].str.removesuffix(" (paper: Qwen 2.5 7B)")
    cells, sweeps = _cells(main), _sweeps(artefact)
    differences, under = _differences(cells), _underconfidence(cells)
    floors = _wide(rows(main, arm="floor"), ["model", "dataset", "n"], "metric").astype({"n": int})
    rated = rows(main, metric="pair_accuracy")
    rated = rated.assign(needs=rated["setting"].str.removeprefix("needs: "))
    again = collapse["source"].isin(["wu2024cotrerun", "wang2024cot"])
    fits = [whole(row.accuracy, row.n) for row in cells.itertuples()]
    return {
        "cells": cells,
        "differences": differences,
        "counts": _counts(cells, differences),
        "underconfidence": under,
        "k_of_n": cells[["model", "dataset", "n", "arm", "accuracy"]].assign(fits=fits),
        "floors": floors.rename(columns={"ece_floor_mean": "mean", "ece_floor_95": "p95"}),
        "arc": _arc(under, sweeps),
        "printed_sweeps": sweeps,
        "discount": _discount(main, settings),
        "settings": _settings(settings),
        "reward_models": rated[["model", "arm", "needs", "value"]],
        "rerun": collapse.loc[again, ["source", "model", "arm", "value"]].astype({"value": float}),
        "intrinsic": collapse[~again].drop(columns=["n", "ci_low", "ci_high"]),
        "zeros": _zeros(cells),
    }


def _cells(main: pd.DataFrame) -> pd.DataFrame:
    """The printed cells, percent: model, dataset, n, arm, accuracy, ece, total (accuracy + ece).

    n is the size of the public split, not of what was printed.
    """
    printed = main[(main["setting"] == "paper") & main["arm"].isin(PRINTED)]
    wide = _wide(printed, ["model", "dataset", "n", "arm"], "metric").astype({"n": int})
    return wide.assign(arm=wide["arm"].map(PRINTED), total=(wide["accuracy"] + wide["ece"]).round(2))


def _differences(cells: pd.DataFrame) -> pd.DataFrame:
    """An arm minus another in a cell, points: model, dataset, n, arm, comparison, metric, value, low, high.

    Rough 95 % intervals: two independent binomials of the printed accuracies on n items, for ECE too (the arms share
    their items, so that the true intervals of accuracy are narrower; the paper prints none).
    """
    table = []
    for (model, dataset, n), cell in cells.groupby(["model", "dataset", "n"], sort=False):
        arms = cell.set_index("arm")[["accuracy", "ece"]]
        for arm, other in PAIRS:
            if {arm, other} <= set(arms.index):
                shares = arms.loc[[arm, other], "accuracy"] / 100
                half = 100 * Z * np.sqrt((shares * (1 - shares) / n).sum())
                for metric, value in (arms.loc[arm] - arms.loc[other]).items():
                    table.append((model, dataset, n, arm, other, metric, round(value, 4), value - half, value + half))
    columns = ["model", "dataset", "n", "arm", "comparison", "metric", "value", "low", "high"]
    return pd.DataFrame(table, columns=columns)


def _counts(cells: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """What P1-P5 count, a row a count: criterion, name, value, n (of how many)."""

    def minus(comparison: str, metric: str, arm: str = "rlsf_ppo") -> pd.DataFrame:
        return rows(differences, arm=arm, comparison=comparison, metric=metric)

    up, cot_accuracy = minus("base", "accuracy"), minus("cot", "accuracy")
    base, rlhf, cot = minus("base", "ece"), minus("rlhf", "ece"), minus("cot", "ece")
    dpo, dpo_accuracy = minus("base", "ece", "rlsf_dpo"), minus("base", "accuracy", "rlsf_dpo")
    gemma = base[(base["model"] == GEMMA) & base["dataset"].isin(MATH)]
    qwen = rows(cells, model=QWEN, arm="cot")
    dpo_math = dpo_accuracy[dpo_accuracy["dataset"].isin(MATH)]
    named = (
        ("P1", "accuracy above greedy", up["value"] > 0),
        ("P1", "accuracy above greedy, interval above 0", up["low"] > 0),
        ("P2", "ECE below the RLHF arm", rlhf["value"] < 0),
        ("P2", "ECE below the RLHF arm, interval below 0", rlhf["high"] < 0),
        ("P3", "ECE below the base", base["value"] < 0),
        ("P3", "ECE below the base, interval below 0", base["high"] < 0),
        ("P3", "ECE below the base, Gemma math", gemma["value"] < 0),
        ("P4", "accuracy + ECE above 100", cells["total"] > 100),
        ("P4", "Qwen CoT-decoding: accuracy + ECE within .05 of 100", (qwen["total"] - 100).abs() <= 0.05),
        ("P5", "accuracy interval to CoT-decoding contains 0", cot_accuracy["low"] * cot_accuracy["high"] <= 0),
        ("P5", "ECE above CoT-decoding", cot["value"] > 0),
        ("P5", "accuracy below CoT-decoding", cot_accuracy["value"] < 0),
        ("", "DPO: ECE above the base", dpo["value"] > 0),
        ("", "DPO: accuracy below the base, math", dpo_math["value"] < 0),
    )
    table = [(criterion, name, int(mask.sum()), len(mask)) for criterion, name, mask in named]
    return pd.DataFrame(table, columns=["criterion", "name", "value", "n"])


def _underconfidence(cells: pd.DataFrame) -> pd.DataFrame:
    """What accuracy and ECE imply about the direction of the error, percent, a row a cell.

    Overconfidence contributes at most 100 - accuracy, so the rest of the ECE is underconfidence, and mean confidence is
    accuracy + ECE minus twice the underconfident part. Columns: those of `cells`, under_low (at least so much of the
    ECE is underconfidence), confidence_low, confidence_high (bounds on mean confidence). Assumes that accuracy and ECE
    use the same items.
    """
    under = (cells["total"] - 100).clip(lower=0)
    low = (cells["accuracy"] - cells["ece"]).clip(lower=0)
    return cells.assign(under_low=under, confidence_low=low, confidence_high=cells["total"] - 2 * under)


def whole(percent: float, n: int) -> bool:
    """Whether k of n items, rounded or cut to two decimals, give this percentage."""
    over = 100 * np.arange(n + 1) / n - percent
    return bool(((over > -0.005 - 1e-9) & (over < 0.01 - 1e-9)).any())


def _sweeps(artefact: pd.DataFrame) -> pd.DataFrame:
    """The simulated worlds over temperature, percent (Brier: proportion): world, temperature, and their measures."""
    table = artefact[artefact["location"] != "selection"]
    table = table.assign(temperature=table["arm"].str.removeprefix("T=").astype(float))
    return _wide(table.rename(columns={"location": "world"}), ["world", "temperature"], "metric")


def _arc(under: pd.DataFrame, sweeps: pd.DataFrame) -> pd.DataFrame:
    """ARC-Easy of Gemma beside one temperature in a four-option world of the same accuracy, percent.

    Columns: what (base, rlsf_ppo, or T), accuracy, ece (by disparity in the world), confidence_low, confidence_high
    (NaN in the world).
    """
    printed = under[(under["dataset"] == "ARC-Easy") & under["arm"].isin(("base", "rlsf_ppo"))]
    world = rows(sweeps, world="arc_like").set_index("temperature").loc[[1.4, 3.5]].reset_index()
    world = world.assign(arm=world["temperature"].map("T = {:g}".format), ece=world["ece_disparity"])
    columns = ["arm", "accuracy", "ece", "confidence_low", "confidence_high"]
    return stack([printed, world])[columns].rename(columns={"arm": "what"})


def _discount(main: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """The discount, two parts: the printed ablation (points) and the credit that a terminal reward leaves.

    Columns: name, dataset, value, low, high (NaN for credits).
    """
    wide = _wide(rows(main, location="discount ablation"), ["dataset", "n", "metric"], "setting")
    accuracy = rows(wide, metric="accuracy").set_index("dataset")
    shares = accuracy[["gamma 1.0", "gamma 0.98"]]
    half = wide["dataset"].map(Z * ((shares * (100 - shares)).sum(axis=1) / accuracy["n"]) ** 0.5)
    value = (wide["gamma 0.98"] - wide["gamma 1.0"]).round(4)
    printed = wide[["dataset"]].assign(value=value, low=value - half, high=value + half)
    credit = settings[settings["metric"].str.startswith("discount_at_")]
    tokens = "credit at " + credit["metric"].str.split("_").str[2] + " tokens"
    left = pd.DataFrame({"name": tokens, "dataset": "", "value": credit["value"].astype(float)})
    return stack([printed.assign(name=wide["metric"] + ", gamma .98 minus 1"), left])[
        ["name", "dataset", "value", "low", "high"]
    ]


def _settings(settings: pd.DataFrame) -> pd.DataFrame:
    """What the paper states (a third party's summary) beside the defaults of the released code.

    Columns: part, dataset, setting, paper, code.
    """
    shown = settings[settings["setting"].isin(["paper", "code default"])].fillna({"dataset": "", "arm": ""})
    wide = _wide(shown, ["arm", "dataset", "metric"], "setting", lambda values: " / ".join(map(str, values)))
    return wide.rename(columns={"arm": "part", "metric": "setting", "code default": "code"})


def _zeros(cells: pd.DataFrame) -> pd.DataFrame:
    """What items without a span do to a cell's ECE, percent: model, dataset, arm, share, printed, kept.

    Dropped they leave the printed ECE; kept, it is about (1 - z) ECE + z a, with z their share and a their accuracy,
    here that of the cell.
    """
    z = pd.DataFrame({"share": [0.0, 0.05, 0.1, 0.2]})
    table = cells[["model", "dataset", "arm", "accuracy", "ece"]].merge(z, how="cross")
    kept = (1 - table["share"]) * table["ece"] + table["share"] * table["accuracy"]
    return table.rename(columns={"ece": "printed"}).assign(kept=kept).drop(columns="accuracy")


# --- What follows without training ----------------------------------------------------------------

TEMPERATURES = (2.0, 1.6, 1.4, 1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
SLOPES = np.round(np.arange(-0.5, 2.01, 0.1), 1)


def theory() -> dict[str, pd.DataFrame]:
    """What one temperature does to either ECE, what selection does to accuracy and gap, and what the steps rest on.

    artefact: temperature, ece_disparity, ece_probability, accuracy, in a simulated world calibrated at T = 1.
    selection: slope, accuracy, gap, for the best of ten traces with confidence uniform on [.2, .8].
    audit: the RLSF steps (setting, step), all that they rest on (rests_on), and how many of it are evaluations.
    """
    chosen = [(b, *self_confidence.selection(b)) for b in SLOPES]
    return {
        "artefact": self_confidence.artefact(TEMPERATURES),
        "selection": pd.DataFrame(chosen, columns=["slope", "accuracy", "gap"]),
        "audit": _audit(),
    }


def _audit() -> pd.DataFrame:
    """What each step of RLSF rests on, read off the graph: labels could enter through an evaluation."""
    table = []
    for key in arithmetic.STEPS:
        _, setting, step = key.split("/")
        if step.startswith(("labels_", "judge_", "rlsf_")) or step == "fluency_rlsf_long":
            names = list(dict.fromkeys(need.split("/")[-1] for need in _before(key)))
            table.append((setting, step, " ".join(names), sum(name.startswith("eval_") for name in names)))
    return pd.DataFrame(table, columns=["setting", "step", "rests_on", "evaluations"])


# --- The world ------------------------------------------------------------------------------------


def world(results) -> dict[str, pd.DataFrame]:
    """What the trained models did, from the finished steps; a table without one is left out.

    summary: a row a setting, arm and seed. reliability: bins besides. decoding, temperatures: of the base.
    temperature: the fitted one, of damaged models. pairs, judges: the labels and the reward models by start. traces:
    ten branches of one prompt, of the first seed. trajectory: along the training of `WATCHED`.
    """

    def of(table: str, *arms: str, read: str = "collect") -> pd.DataFrame:
        return getattr(results, read)("standard", list(arms), table, world=WORLD)

    def by_start(table: str, step: str) -> pd.DataFrame:
        """What the steps of all starts made, with the start as the arm."""
        made = of(table, *(f"{step}_{start}" for start in (*STARTS, *FEW_STARTS)), read="trained")
        return made.assign(arm=made["arm"].str.removeprefix(f"{step}_")) if len(made) else made

    traces = of("traces", "labels_base", read="trained")
    tables = {
        **{
            name: stack([of(name, *ARMS), results.collect("half_trap", list(TRAP), name, world=WORLD)])
            for name in ("summary", "reliability")
        },
        **{name: of(name, "base") for name in ("decoding", "temperatures")},
        "temperature": of("temperature", "assured", "binary", "sharpened"),
        "pairs": by_start("pairs", "labels"),
        "judges": by_start("summary", "judge"),
        "trajectory": of("trajectory", *WATCHED),
        "traces": rows(traces, seed=traces["seed"].min()) if len(traces) else traces,
    }
    return {name: table.reset_index(drop=True) for name, table in tables.items() if len(table)}


# --- Pretrained models ----------------------------------------------------------------------------


def models(results) -> dict[str, pd.DataFrame]:
    """What pretrained models did; empty at a scale that asks for none."""
    return reasoning_tables.models(results)

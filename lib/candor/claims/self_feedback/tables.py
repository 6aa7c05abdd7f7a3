"""The tables of claim 6: what was printed about RLSF, what follows without training, what the world showed.

The numbers of the paper are in its units (percent, percentage points); those of theory and world are shares.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from candor.claims.self_feedback import reasoning_models, self_confidence
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


def _labelled(start: str, setting: str = "standard") -> list[str]:
    """The steps of RLSF from a start, and the evaluation of what they make."""
    return [f"{WORLD}/{setting}/{step}" for step in (f"labels_{start}", f"judge_{start}", *_evaluated(f"rlsf_{start}"))]


def _evaluated(*arms: str) -> list[str]:
    return [step for arm in arms for step in (arm, f"eval_{arm}")]


def _standard(*steps: str) -> list[str]:
    return [f"{WORLD}/standard/{step}" for step in steps]


# The overall verdict rests on W1, W3, W4, W6a and W6b with their gates; these run first.
DECISIVE = [
    *_standard(*_evaluated("base", *STARTS, "sharpened")),
    *(key for start in STARTS for key in _labelled(start)),
    *_standard(*_evaluated("fluency_shuffled")),
]
NEEDS = [
    *DECISIVE,
    *(key for start in FEW_STARTS for key in _labelled(start)),
    *_standard(*_evaluated("fluency_shuffled_2", "fluency_dpo")),
    *_standard("fluency_sft", *(f"eval_{arm}" for arm in CHECKPOINTS)),
    *_standard(*_evaluated("fluency_gold", "fluency_rlsf_long", "online")),
    *(f"{WORLD}/half_trap/{step}" for step in _evaluated("base", "fluency")),
    *_labelled("fluency", "half_trap"),
]

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


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """The printed numbers, re-analysed; `folder` holds the CSVs. All cells come from a third party's summary."""
    main, settings, collapse, artefact = (
        pd.read_csv(folder / f"rlsf_{name}.csv") for name in ("main", "settings", "collapse", "disparity_artefact")
    )
    cells = _cells(main)
    differences = _differences(cells)
    under = _underconfidence(cells)
    return {
        "cells": cells,
        "differences": differences,
        "counts": _counts(cells, differences),
        "underconfidence": under,
        "k_of_n": _k_of_n(cells),
        "floors": _floors(main),
        "arc": _arc(under, artefact),
        "printed_sweeps": _sweeps(artefact),
        "discount": _discount(main, settings),
        "settings": _settings(settings),
        "reward_models": _reward_models(main),
        "rerun": _rerun(collapse),
        "intrinsic": _intrinsic(collapse),
        "zeros": _zeros(cells),
    }


def _cells(main: pd.DataFrame) -> pd.DataFrame:
    """The printed cells, percent: model, dataset, n, arm, accuracy, ece, total (accuracy + ece).

    n is the size of the public split, not of what was printed.
    """
    printed = main[(main["setting"] == "paper") & main["arm"].isin(PRINTED)]
    wide = printed.pivot_table("value", ["model", "dataset", "n", "arm"], "metric", sort=False).reset_index()
    wide = wide.rename_axis(columns=None).assign(arm=wide["arm"].map(PRINTED))
    wide["model"] = wide["model"].str.removesuffix(" (paper: Qwen 2.5 7B)")
    wide["n"] = wide["n"].astype(int)
    return wide.assign(total=(wide["accuracy"] + wide["ece"]).round(2))


def _differences(cells: pd.DataFrame) -> pd.DataFrame:
    """An arm minus another in a cell, points: model, dataset, n, arm, comparison, metric, value, low, high.

    Rough 95 % intervals: two independent binomials of the printed accuracies on n items, for ECE too (the arms share
    their items, so that the true intervals of accuracy are narrower; the paper prints none).
    """
    found = []
    for (model, dataset, n), cell in cells.groupby(["model", "dataset", "n"], sort=False):
        arms = cell.set_index("arm")
        for arm, other in PAIRS:
            if {arm, other} <= set(arms.index):
                shares = arms.loc[[arm, other], "accuracy"] / 100
                half = 100 * Z * np.sqrt((shares * (1 - shares) / n).sum())
                for metric in ("accuracy", "ece"):
                    value = arms.at[arm, metric] - arms.at[other, metric]
                    found.append((model, dataset, n, arm, other, metric, round(value, 4), value - half, value + half))
    columns = ["model", "dataset", "n", "arm", "comparison", "metric", "value", "low", "high"]
    return pd.DataFrame(found, columns=columns)


def _compared(differences: pd.DataFrame, comparison: str, metric: str, arm: str = "rlsf_ppo") -> pd.DataFrame:
    return rows(differences, arm=arm, comparison=comparison, metric=metric)


def _counts(cells: pd.DataFrame, differences: pd.DataFrame) -> pd.DataFrame:
    """What P1-P5 count, a row a count: criterion, name, value, n (of how many)."""
    up, rlhf, base, cot, cot_accuracy = (
        _compared(differences, *which)
        for which in (("base", "accuracy"), ("rlhf", "ece"), ("base", "ece"), ("cot", "ece"), ("cot", "accuracy"))
    )
    gemma = base[(base["model"] == GEMMA) & base["dataset"].isin(MATH)]
    qwen = rows(cells, model=QWEN, arm="cot")
    dpo, dpo_accuracy = (_compared(differences, "base", metric, "rlsf_dpo") for metric in ("ece", "accuracy"))
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
    found = [(criterion, name, int(mask.sum()), len(mask)) for criterion, name, mask in named]
    return pd.DataFrame(found, columns=["criterion", "name", "value", "n"])


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


def _k_of_n(cells: pd.DataFrame) -> pd.DataFrame:
    """Whether each accuracy is a whole number of items out of the public split: model, dataset, arm, accuracy, fits."""
    fits = [whole(row.accuracy, row.n) for row in cells.itertuples()]
    return cells[["model", "dataset", "n", "arm", "accuracy"]].assign(fits=fits)


def _floors(main: pd.DataFrame) -> pd.DataFrame:
    """ECE of a perfectly calibrated forecaster with plausible confidences, percent: model, dataset, n, mean, p95."""
    floor = rows(main, arm="floor")
    wide = floor.pivot_table("value", ["model", "dataset", "n"], "metric", sort=False).reset_index()
    wide["model"], wide["n"] = wide["model"].str.removesuffix(" (paper: Qwen 2.5 7B)"), wide["n"].astype(int)
    return wide.rename(columns={"ece_floor_mean": "mean", "ece_floor_95": "p95"}).rename_axis(columns=None)


def _sweeps(artefact: pd.DataFrame) -> pd.DataFrame:
    """The simulated worlds over temperature, percent (Brier: proportion): world, temperature, and their measures."""
    table = artefact[artefact["location"] != "selection"]
    wide = table.pivot_table("value", ["location", "arm"], "metric", sort=False).reset_index().rename_axis(columns=None)
    temperature = wide.pop("arm").str.removeprefix("T=").astype(float)
    wide.insert(1, "temperature", temperature)
    return wide.rename(columns={"location": "world"})


def _arc(under: pd.DataFrame, artefact: pd.DataFrame) -> pd.DataFrame:
    """ARC-Easy of Gemma beside one temperature in a four-option world of the same accuracy, percent.

    Columns: what (base, rlsf_ppo, or T), accuracy, ece (by disparity in the world), confidence_low, confidence_high
    (NaN in the world).
    """
    printed = under[(under["dataset"] == "ARC-Easy") & under["arm"].isin(("base", "rlsf_ppo"))]
    printed = printed.rename(columns={"arm": "what"})[["what", "accuracy", "ece", "confidence_low", "confidence_high"]]
    sweep = rows(_sweeps(artefact), world="arc_like")
    sweep = sweep[sweep["temperature"].isin((3.5, 1.4))]
    world = pd.DataFrame({"what": sweep["temperature"].map("T = {:g}".format), "accuracy": sweep["accuracy"]})
    return pd.concat([printed, world.assign(ece=sweep["ece_disparity"])], ignore_index=True)


def _discount(main: pd.DataFrame, settings: pd.DataFrame) -> pd.DataFrame:
    """The discount, two parts: the printed ablation (points) and the credit that a terminal reward leaves.

    Columns: name, dataset, value, low, high (NaN for credits).
    """
    ablation = main[main["location"] == "discount ablation"]
    wide = ablation.pivot_table("value", ["dataset", "n", "metric"], "setting", sort=False).reset_index()
    found = []
    for row in wide.to_dict("records"):
        accuracy = rows(wide, dataset=row["dataset"], metric="accuracy").iloc[0]
        half = sum(accuracy[g] * (100 - accuracy[g]) / row["n"] for g in ("gamma 1.0", "gamma 0.98")) ** 0.5 * Z
        value = round(row["gamma 0.98"] - row["gamma 1.0"], 4)
        found.append((f"{row['metric']}, gamma .98 minus 1", row["dataset"], value, value - half, value + half))
    credit = settings[settings["metric"].str.startswith("discount_at_")]
    found += [
        (f"credit at {row.metric.split('_')[2]} tokens", "", float(row.value), np.nan, np.nan)
        for row in credit.itertuples()
    ]
    return pd.DataFrame(found, columns=["name", "dataset", "value", "low", "high"])


def _settings(settings: pd.DataFrame) -> pd.DataFrame:
    """What the paper states (a third party's summary) beside the defaults of the released code.

    Columns: part, dataset, setting, paper, code.
    """
    shown = settings[settings["setting"].isin(["paper", "code default"])].fillna({"dataset": "", "arm": ""})
    wide = shown.pivot_table(
        "value", ["arm", "dataset", "metric"], "setting", aggfunc=lambda v: " / ".join(map(str, v)), sort=False
    )
    wide = wide.reset_index().rename_axis(columns=None)
    return wide.rename(columns={"arm": "part", "metric": "setting", "code default": "code"})


def _reward_models(main: pd.DataFrame) -> pd.DataFrame:
    """Pair accuracy on the math part of RewardBench, percent: model, arm, needs, value."""
    table = rows(main, metric="pair_accuracy")
    return table.assign(needs=table["setting"].str.removeprefix("needs: "))[["model", "arm", "needs", "value"]]


def _rerun(collapse: pd.DataFrame) -> pd.DataFrame:
    """The independent rerun of CoT-decoding on GSM8K, and what it quotes, percent: source, model, arm, value."""
    table = collapse[collapse["source"].isin(["wu2024cotrerun", "wang2024cot"])]
    return table[["source", "model", "arm", "value"]].astype({"value": float})


def _intrinsic(collapse: pd.DataFrame) -> pd.DataFrame:
    """What is known about the limits of rewards that a model gives itself, a row a number."""
    table = collapse[~collapse["source"].isin(["wu2024cotrerun", "wang2024cot"])]
    return table[
        ["source", "location", "setting", "model", "arm", "dataset", "metric", "value", "unit", "status", "note"]
    ]


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

    def before(key: str) -> list[str]:
        needs = arithmetic.STEPS[key].needs
        return [*(k for need in needs for k in before(need)), *needs]

    found = []
    for key in arithmetic.STEPS:
        _, setting, step = key.split("/")
        if step.startswith(("labels_", "judge_", "rlsf_")) or step == "fluency_rlsf_long":
            names = list(dict.fromkeys(need.split("/")[-1] for need in before(key)))
            found.append((setting, step, " ".join(names), sum(name.startswith("eval_") for name in names)))
    return pd.DataFrame(found, columns=["setting", "step", "rests_on", "evaluations"])


# --- The world ------------------------------------------------------------------------------------


def world(results) -> dict[str, pd.DataFrame]:
    """What the trained models did, from the finished steps; a table without one is left out.

    summary: a row a setting, arm and seed. reliability: bins besides. decoding, temperatures: of the base.
    temperature: the fitted one, of damaged models. pairs, judges: the labels and the reward models by start. traces:
    ten branches of one prompt, of the first seed. trajectory: along the training of `WATCHED`.
    """

    def of(table: str, arms: tuple[str, ...], ours: str = "collect") -> pd.DataFrame:
        return getattr(results, ours)("standard", list(arms), table, world=WORLD)

    starts = (*STARTS, *FEW_STARTS)
    tables = {
        name: stack([of(name, ARMS), results.collect("half_trap", list(TRAP), name, world=WORLD)])
        for name in ("summary", "reliability")
    }
    tables |= {name: of(name, ("base",)) for name in ("decoding", "temperatures")}
    tables["temperature"] = of("temperature", ("assured", "binary", "sharpened"))
    tables["pairs"] = _started(of("pairs", tuple(f"labels_{s}" for s in starts), "trained"), "labels_")
    tables["judges"] = _started(of("summary", tuple(f"judge_{s}" for s in starts), "trained"), "judge_")
    tables["trajectory"] = of("trajectory", WATCHED)
    traces = of("traces", ("labels_base",), "trained")
    tables["traces"] = traces[traces["seed"] == traces["seed"].min()] if len(traces) else traces
    return {name: table.reset_index(drop=True) for name, table in tables.items() if len(table)}


def _started(table: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """The start that a step belongs to, as its arm."""
    return table.assign(arm=table["arm"].str.removeprefix(prefix)) if len(table) else table


# --- Pretrained models ----------------------------------------------------------------------------

MODELS_FROM = reasoning_models


def models(results) -> dict[str, pd.DataFrame]:
    """What pretrained models did; empty at a scale that asks for none."""
    return reasoning_models.models(results)

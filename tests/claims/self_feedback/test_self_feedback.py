"""Claim 6: published numbers, theory, criteria on made-up results, figures."""

from functools import cache
from pathlib import Path

import guards
import numpy as np
import pandas as pd
import pytest
from candor.claims.self_feedback import run as steps
from candor.claims.self_feedback import tables as t
from candor.claims.self_feedback.criteria import CLAIM
from candor.claims.self_feedback.figures import FIGURES
from candor.claims.shared import rows
from candor.declare import figures, ledger

PUBLISHED = Path(__file__).parents[3] / "data" / "published"
FEW = {
    *("rlsf_base", "rlsf_sharpened", "fluency_shuffled_2", "fluency_dpo", *t.CHECKPOINTS),
    *("fluency_gold", "fluency_rlsf_long", "online", "labels_base", "labels_sharpened"),
    *("judge_base", "judge_sharpened"),
}


@cache
def published():
    return t.published(PUBLISHED)


@cache
def theory():
    return t.theory()


# Made-up models of which every criterion with a band holds, in percent: accuracy (greedy, sampled), ECE by probability
# (greedy, sampled), ECE by disparity, gap (greedy), share full, ECE on fixed traces, KL to the start.
COLUMNS = ("ga", "sa", "ge", "se", "gd", "gap", "full", "fixed", "kl")
MODELS = {
    "base": (60, 50, 5, 2.5, 20, -4, 32, 6, 0),
    "fluency": (45, 44, 6, 3, 14, 4, 6, 5, 0.3),
    "assured": (45, 44, 20, 18, 19, 20, 6, 18, 0.4),
    "binary": (88, 85, 11, 12.5, 11, 11, 98, 20, 1.9),
    "sharpened": (60, 57, 7, 5, 9.7, 7, 22, 7, 0.4),
    "rlsf_fluency": (70, 52, 4, 4, 15, 0, 25, 2, 0.6),
    "rlsf_assured": (62, 52, 12, 11, 12, 12, 25, 12, 0.6),
    "rlsf_binary": (88, 86, 6, 9, 8, 6, 98, 15, 0.1),
    "rlsf_base": (80, 53, 6, 1.5, 15, 2, 60, 6, 0.8),
    "rlsf_sharpened": (80, 70, 4, 3, 6, 3, 70, 5, 1.5),
    "fluency_shuffled": (46, 44.5, 6, 3.5, 14, 4, 8, 5, 0.5),
    "fluency_shuffled_2": (45, 43.5, 6, 3.5, 14, 4, 7, 5, 0.5),
    "fluency_dpo": (40, 41, 9, 6, 10, 8, 15, 6, 0.7),
    "fluency_sft_1": (60, 56, 8, 7, 9, 8, 30, 6, 0.7),
    "fluency_sft_2": (75, 60, 9, 10, 9, 9, 40, 7, 1.4),
    "fluency_sft_3": (87, 71, 9, 13, 9, 9, 55, 8, 2.0),
    "fluency_gold": (71, 53, 4, 4, 15, 0, 27, 5, 0.7),
    "fluency_rlsf_long": (75, 58, 5, 6, 12, 3, 40, 5, 1.5),
    "online": (65, 60, 33, 36, 33, 33, 97, 30, 3.8),
}
TRAP = {"base": MODELS["base"], "fluency": (43, 42, 11, 9, 12, 10.5, 5, 9, 0.3)}
TRAP |= {"rlsf_fluency": (32, 33, 38, 36, 35, 38, 4, 30, 0.7)}
OPENERS = ("d1", "f1", "h1", "d2", "f2", "b1", "d3", "h2", "b2", "d4")


class FakeResults:
    """Made-up evaluations with the documented columns; `change` replaces values of an arm."""

    def __init__(self, seeds=(11, 12, 13, 14, 15), without=(), change=None):
        self.seeds, self.without, self.change = seeds, without, change or {}

    def collect(self, setting, arms, table, world):
        assert world == "arithmetic"
        return self.stack(table, setting, arms)

    def trained(self, setting, arms, table, world):
        assert world == "arithmetic"
        return self.stack(f"of_{table}", setting, arms)

    def stack(self, table, setting, arms):
        frames = []
        for arm in arms:
            few = 1 if setting == "half_trap" else 3 if arm in FEW else None
            make = self.made if {arm, f"{arm} course", table} & set(self.change) else as_it_is
            for seed in self.seeds[:few] if arm not in self.without else ():
                frames.append(make(table, setting, arm, seed))
        return pd.concat(frames or [pd.DataFrame()], ignore_index=True)

    def made(self, table, setting, arm, seed):
        return getattr(self, table)(setting, arm, seed).assign(setting=setting, arm=arm, seed=seed)

    def noise(self, arm, seed, n):
        return np.random.default_rng([seed, sum(map(ord, arm))]).normal(0, 0.25, n)

    def summary(self, setting, arm, seed):
        known = TRAP if setting == "half_trap" else MODELS
        values = dict(zip(COLUMNS, known[arm] + self.noise(arm, seed, len(COLUMNS))))
        values["kl"] = known[arm][-1]
        changed = self.change.get(arm, {}) if setting == "standard" else {}
        values |= {k: v for k, v in changed.items() if k in COLUMNS}
        s = {k: v / 100 for k, v in values.items()}
        row = {"greedy_accuracy": s["ga"], "sampled_accuracy": s["sa"], "greedy_ece": s["ge"], "sampled_ece": s["se"]}
        row |= {"greedy_ece_disparity": s["gd"], "sampled_ece_disparity": s["gd"], "greedy_gap": s["gap"]}
        row |= {"sampled_gap": s["gap"], "greedy_confidence": s["ga"] + s["gap"], "sampled_confidence": s["sa"]}
        row |= {"share_full": s["full"], "share_half": 0.02, "share_direct": 0.98 - s["full"], "fixed_ece": s["fixed"]}
        row |= {"kl": values["kl"], "kl_start": values["kl"], "slope_b": 1.2, "within_auroc": 0.91}
        row |= {"step_validity": 0.95 if arm == "rlsf_fluency" else 0.934}
        return pd.DataFrame([row | changed.get("as_is", {})])

    def reliability(self, setting, arm, seed):
        frame = pd.DataFrame({"bin": range(10), "n": [0, 5, 10, 20, 30, 40, 60, 80, 120, 400]})
        middle = (frame["bin"] + 0.5) / 10
        frame = frame.assign(confidence=middle, accuracy=np.clip(middle - MODELS[arm][5] / 100, 0, 1))
        kinds = [(mode, kind) for mode in ("greedy", "sampled") for kind in ("probability", "disparity")]
        return pd.concat([frame.assign(mode=mode, measure=kind) for mode, kind in kinds])

    def decoding(self, setting, arm, seed):
        accuracy = [0.6, 0.88, 0.86, 0.8] + self.noise("decoding", seed, 4) / 100
        accuracy = self.change.get("decoding", accuracy)
        return pd.DataFrame(
            {"method": ["greedy", "max_path", "aggregated", "majority"], "accuracy": accuracy, "ece": 0.05}
        )

    def temperatures(self, setting, arm, seed):
        at = np.array(steps.TEMPERATURES)
        columns = {"temperature": at, "accuracy": 0.6, "confidence": 0.6, "ece": 0.04 + 0.1 * abs(at - 0.8)}
        return pd.DataFrame(columns | {"ece_disparity": 0.08 + 0.1 * abs(at - 0.45)})

    def temperature(self, setting, arm, seed):
        row = {"temperature": 2.0 + self.noise(arm, seed, 1)[0] / 10, "ece_before": 0.11, "ece_after": 0.04}
        return pd.DataFrame([row | self.change.get("temperature", {})])

    def trajectory(self, setting, arm, seed):
        if arm == "online":
            at = np.arange(0, 161, 20)
            accuracy = np.array([0.5, 0.8, 0.85, 0.8, 0.72, 0.68, 0.62, 0.6, 0.58])
            confidence = np.array([0.5, 0.9, 0.97, 0.99, 0.99, 0.995, 0.995, 0.995, 0.995])
        else:
            at = np.arange(0, 121, 30)
            accuracy, confidence = np.array([0.44, 0.52, 0.55, 0.57, 0.58]), np.array([0.48, 0.55, 0.6, 0.63, 0.65])
        changed = self.change.get(f"{arm} course", {})
        columns = {"step": at, "confidence": confidence, "accuracy": accuracy + self.noise(arm, seed, 1)[0] / 100}
        columns |= {f"greedy_{name}": columns[name] for name in ("confidence", "accuracy")}
        columns |= {"ece": 0.1, "entropy": 2 * np.exp(-at / 60), "disagreement": 0.1 + at / 400}
        return pd.DataFrame(columns | changed)

    def of_pairs(self, setting, arm, seed):
        row = {"number": 20_000, "coverage": 1.0, "different_answers": 0.7, "median_difference": 0.4}
        return pd.DataFrame([row | {"prompts_only": True} | self.change.get(arm, {})])

    def of_summary(self, setting, arm, seed):
        return pd.DataFrame([{"pairs": 8_000, "pair_accuracy": 0.9, "low": -2.0, "high": 2.0, "within_auroc": 0.9}])

    def of_traces(self, setting, arm, seed):
        confidence = np.array([0.62, 0.99, 0.71, 0.55, 0.97, 0.94, 0.4, 0.66, 0.91, -0.05])
        bodies = ["= 3", "7 3 4 4 = 4", "7 3 = 9"] * 3 + ["= 1"]
        table = pd.DataFrame({"prompt": "Q 4 x3 +4? +0 -3 :", "branch": range(10), "first": OPENERS})
        table = table.assign(text=[f"{a} {b} <eos>" for a, b in zip(OPENERS, bodies)], answer=[3, 4, 9] * 3 + [1])
        return table.assign(disparity=confidence, probability=0.8, right=[0.4, 0.6, 0, 0.4, 1, 1, 0, 0, 1, 0], truth=4)


@cache
def as_it_is(table, setting, arm, seed):
    return FakeResults().made(table, setting, arm, seed)


@cache
def unchanged(seeds=(11, 12, 13, 14, 15)):
    return t.world(FakeResults(seeds=seeds))


def everything(**kwargs):
    made = t.world(FakeResults(**kwargs)) if set(kwargs) - {"seeds"} else unchanged(**kwargs)
    return {**published(), **theory(), **made}


def judge(scale="laptop", tables=None, **kwargs):
    found, checks, verdicts = ledger.judge(CLAIM, tables or everything(**kwargs), scale)
    return found.set_index("criterion"), checks.set_index(["criterion", "check"]), verdicts.set_index("part")


# --- Published numbers: every number that the text relies on ----------------------------------------


def difference(model, dataset, comparison, metric, arm="rlsf_ppo"):
    where = {"model": model, "dataset": dataset, "arm": arm, "comparison": comparison, "metric": metric}
    return rows(published()["differences"], **where).iloc[0][["value", "low", "high"]].tolist()


def test_accuracy_and_ece_against_three_arms():
    assert difference(t.QWEN, "GSM8K", "base", "accuracy") == pytest.approx([4.95, 1.2, 8.7], abs=0.05)
    assert difference(t.PHI, "CommonsenseQA", "base", "accuracy") == pytest.approx([6.67, 2.8, 10.6], abs=0.05)
    assert difference(t.GEMMA, "GSM8K", "base", "accuracy") == pytest.approx([2.57, -0.01, 5.15], abs=0.005)
    assert difference(t.GEMMA, "ARC-Easy", "base", "ece")[0] == pytest.approx(-11.0)
    assert difference(t.PHI, "CommonsenseQA", "base", "ece")[0] == pytest.approx(-5.48)
    math = [(model, dataset) for model in (t.GEMMA, t.QWEN) for dataset in t.MATH]
    wanted = {
        ("rlsf_ppo", "rlhf", "ece"): [-4.92, -5.29, -4.89, -9.32],
        ("rlsf_ppo", "rlhf", "accuracy"): [1.00, 5.71, 3.93, 11.80],
        ("rlhf", "base", "ece"): [5.30, 5.59, 2.49, 8.38],
        ("rlsf_ppo", "base", "ece"): [0.38, 0.30, -2.40, -0.94],
    }
    for (arm, other, metric), values in wanted.items():
        found = [difference(*cell, other, metric, arm)[0] for cell in math]
        assert found == pytest.approx(values, abs=1e-6), (arm, other, metric)
    assert difference(t.QWEN, "MultiArith", "rlhf", "ece")[1:] == pytest.approx([-13.7, 3.9], abs=0.05)


def test_reanalysis_agrees_with_the_derived_rows_beside_the_numbers():
    printed = pd.read_csv(PUBLISHED / "rlsf_main.csv")
    derived = printed[printed["setting"].str.startswith("difference to ")]
    names = {"base_greedy": "base", "base_cot_decoding_k10": "cot", "rlhf_ppo_urm": "rlhf", "rlsf_dpo": "rlsf_dpo"}
    names |= {"rlsf_ppo": "rlsf_ppo"}
    assert len(derived) == len(published()["differences"]) == 84
    for row in derived.itertuples():
        model = row.model.removesuffix(" (paper: Qwen 2.5 7B)")
        other, metric = names[row.setting.removeprefix("difference to ")], row.metric.removesuffix("_difference")
        ours = difference(model, row.dataset, other, metric, names[row.arm])
        assert ours == pytest.approx([row.value, row.ci_low, row.ci_high], abs=0.006), row
    bounds = published()["underconfidence"].set_index(["model", "dataset", "arm"])
    theirs = {
        "underconfidence_share_min": "under_low",
        "mean_confidence_min": "confidence_low",
        "mean_confidence_max": "confidence_high",
    }
    for row in printed[printed["metric"].isin(theirs)].itertuples():
        at = (row.model.removesuffix(" (paper: Qwen 2.5 7B)"), row.dataset, names[row.arm])
        assert bounds.at[at, theirs[row.metric]] == pytest.approx(row.value, abs=0.006), (at, row.metric)
    whole = published()["k_of_n"].set_index(["model", "dataset", "arm"])["fits"]
    for row in rows(printed, metric="accuracy_is_k_over_n").itertuples():
        at = (row.model.removesuffix(" (paper: Qwen 2.5 7B)"), row.dataset, names[row.arm])
        assert whole[at] == bool(row.value), at


def test_counts_of_the_brief():
    found = published()["counts"].set_index("name")[["value", "n"]]
    wanted = {
        "accuracy above greedy": (5, 6),
        "accuracy above greedy, interval above 0": (2, 6),
        "ECE below the RLHF arm": (4, 4),
        "ECE below the RLHF arm, interval below 0": (3, 4),
        "ECE below the base": (4, 6),
        "ECE below the base, interval below 0": (2, 6),
        "ECE below the base, Gemma math": (0, 2),
        "accuracy + ECE above 100": (14, 28),
        "Qwen CoT-decoding: accuracy + ECE within .05 of 100": (2, 2),
        "accuracy interval to CoT-decoding contains 0": (6, 6),
        "ECE above CoT-decoding": (4, 6),
        "accuracy below CoT-decoding": (2, 6),
        "DPO: ECE above the base": (5, 6),
        "DPO: accuracy below the base, math": (4, 4),
    }
    assert {name: tuple(row) for name, row in found.iterrows()} == wanted


def test_qwen_is_accuracy_in_disguise_and_gemma_is_underconfident():
    totals = published()["cells"].set_index(["model", "dataset", "arm"])["total"]
    qwen = totals[t.QWEN]
    assert sorted(qwen.xs("cot", level="arm")) == [99.98, 99.99] and qwen["GSM8K", "rlsf_dpo"] == 88.88
    others = qwen.drop([("MultiArith", "cot"), ("GSM8K", "cot"), ("GSM8K", "rlsf_dpo")])
    assert len(others) == 7 and others.between(96.4, 100.6).all()
    under = published()["underconfidence"].set_index(["model", "dataset", "arm"])
    gemma = under["under_low"][t.GEMMA]
    shown = [("MultiArith", arm) for arm in ("base", "rlhf", "rlsf_ppo")] + [
        ("ARC-Easy", "base"),
        ("ARC-Easy", "rlsf_dpo"),
    ]
    assert [gemma[cell] for cell in shown] == pytest.approx([5.55, 10.56, 6.64, 13.08, 15.88])
    assert gemma["GSM8K", "base"] == 0
    arc = published()["arc"].set_index("what")
    assert arc.at["base", "confidence_high"] == pytest.approx(86.92)
    assert arc.at["rlsf_ppo", "confidence_low"] == pytest.approx(91.92)
    assert arc.loc[["T = 3.5", "T = 1.4"], "ece"].tolist() == pytest.approx([16.41, 5.15])


def test_whole_numbers_of_items_floors_discount_and_rerun():
    fits = published()["k_of_n"]
    assert fits["fits"].sum() == 8 and not fits[(fits["model"] == t.GEMMA) & fits["dataset"].isin(t.MATH)]["fits"].any()
    assert t.whole(50, 2) and t.whole(77.77, 180) and not t.whole(98.12, 180)
    floors = published()["floors"].set_index(["model", "dataset"])
    assert floors.loc[(t.QWEN, "MultiArith"), ["mean", "p95"]].tolist() == pytest.approx([5.8, 8.7], abs=0.05)
    discount = published()["discount"].set_index(["name", "dataset"])
    assert discount["value"].tolist()[:4] == pytest.approx([0.31, -0.31, 1.01, 0.05])
    assert (discount["low"].dropna() < 0).all() and (discount["high"].dropna() > 0).all()
    credit = discount["value"].droplevel("dataset")
    assert [credit[f"credit at {n} tokens"] for n in (20, 100, 256)] == pytest.approx([0.67, 0.13, 0.006], abs=0.005)
    rerun = rows(published()["rerun"], source="wu2024cotrerun", model="Mistral-7B-v0.1").set_index("arm")["value"]
    assert rerun[["greedy", "cot_decoding_max_path", "cot_decoding_aggregated", "self-consistency"]].tolist() == [
        *(10.24, 13.72, 20.17, 14.63)
    ]
    zeros = rows(published()["zeros"], model=t.QWEN, dataset="GSM8K", arm="base").set_index("share")["kept"]
    assert zeros[0.0] == 42.86 and zeros[0.1] == pytest.approx(0.9 * 42.86 + 0.1 * 53.67)
    stated = published()["settings"].set_index(["part", "setting"])
    assert stated.loc[("rlsf_ppo", "learning_rate"), ["paper", "code"]].tolist() == ["5e-05", "3e-06"]
    accuracy = published()["reward_models"].set_index(["model", "arm"])["value"]
    assert accuracy[t.GEMMA, "rlsf_reward_model"] == 81.43 and accuracy["LLaMA-3.1-8B", "URM"] == 97.0
    assert (published()["intrinsic"]["source"] == "xie2026know").sum() == 4


def test_theory_agrees_with_the_simulation_beside_the_numbers():
    ours = theory()["artefact"].set_index("temperature")
    printed = rows(published()["printed_sweeps"], world="ten_answers").set_index("temperature")
    for name in ("ece_probability", "ece_disparity", "accuracy"):
        np.testing.assert_allclose(100 * ours[name], printed.loc[ours.index, name], atol=0.15)
    assert printed.loc[[1, 0.8, 0.7, 0.6, 0.5, 0.3], "ece_disparity"].tolist() == pytest.approx(
        [19.8, 13.2, 12.0, 12.9, 15.3, 24.3], abs=0.06
    )
    chosen = theory()["selection"].set_index("slope")
    assert chosen.loc[[0.5, 1.0, 1.5], "accuracy"].tolist() == pytest.approx([0.62, 0.75, 0.87], abs=0.005)
    assert chosen.loc[[0.5, 1.0, 1.5], "gap"].tolist() == pytest.approx([0.12, 0, -0.12], abs=0.005)


def test_audit_sees_an_evaluation_on_the_way(monkeypatch):
    assert (theory()["audit"]["evaluations"] == 0).all() and len(theory()["audit"]) == 19
    step = steps.STEPS["arithmetic/standard/judge_fluency"]
    leaking = step.__class__(step.key, step.make, (*step.needs, "arithmetic/standard/eval_base"), step.options)
    monkeypatch.setitem(steps.STEPS, step.key, leaking)
    tables = everything() | {"audit": t._audit()}
    assert set(rows(tables["audit"], evaluations=1)["step"]) == {"judge_fluency", "rlsf_fluency", "fluency_rlsf_long"}
    found, checks, verdicts = judge(tables=tables)
    assert found.verdict["W15"] == verdicts.verdict["(iv)"] == "not replicated"
    assert checks.value[("W15", "steps that rest on an evaluation")] == 3


# --- Criteria -------------------------------------------------------------------------------------

GATES = ["W0a", "W0b", "W0c", "W0d"]
FIXED, ONE_T = [f"W6d {s}" for s in t.STARTS], ["W6f assured", "W6f binary"]
BANDS = ["W1", "W2", "W3", "W4", "W5a", "W5b", "W6a", "W6b", *FIXED, *ONE_T, "W7", "W11"]
WORLD = [
    *GATES,
    *BANDS[:8],
    "W6c",
    *FIXED,
    "W6e",
    *ONE_T,
    "W7",
    *(f"W{k}" for k in range(8, 13)),
    "W12-greedy",
    "W13",
    "W14",
    "W15",
]


def test_every_id_of_the_brief_is_there_and_reads_as_it_must():
    found, checks, verdicts = judge()
    ids = [*(f"P{k}" for k in range(1, 7)), *WORLD, *(f"M{k}" for k in range(1, 8))]
    assert list(found.index) == ids
    assert (found.verdict[[f"P{k}" for k in range(1, 6)]] == "reported").all()
    assert (found.verdict[["P6", *GATES, *BANDS]] == "replicated").all(), found.verdict[[*GATES, *BANDS]]
    assert (found.verdict[["W6c", "W6e", "W9", "W12", "W12-greedy", "W13"]] == "partly").all(), (
        "three seeds are never better"
    )
    assert (found.verdict[["W8", "W10", "W14"]] == "reported").all() and found.verdict["W15"] == "replicated"
    assert (found.verdict[[f"M{k}" for k in range(1, 8)]] == "not attempted").all()
    assert checks.value[("P6", "ECE by disparity")] == pytest.approx(-39, abs=0.5)
    assert checks.value[("P6", "ECE by probability")] == pytest.approx(11.4, abs=0.1)
    assert found.note["W12"].endswith("collapse at step 80, 80, 80")
    assert checks.value[("W12", "seeds with such a step")] == checks.n[("W12", "seeds with such a step")] == 3
    assert 'RLSF not "needed"' in found.note["W10"] and "as expected" in found.note["W14"]
    assert "ECE of base -> damaged -> repaired: greedy " in found.note["W6a"]
    assert list(verdicts.index) == ["(i)", "(ii)", "(iii)", "(iv)", "(v)", "overall"]
    assert verdicts.verdict.tolist() == ["replicated"] * 4 + ["partly", "replicated"]
    assert verdicts.note["(ii)"].startswith("better steps")
    for name in ("W6c", *FIXED, "W6e", *ONE_T, "W7"):
        assert name in verdicts.note["(iii)"] and name in verdicts.note["overall"]


@pytest.mark.parametrize(
    ("criterion", "change", "overall"),
    [
        ("W1", {"assured": {"as_is": {"within_auroc": 0.7}}}, "not replicated"),
        ("W2", {"decoding": [0.6, 0.65, 0.6, 0.6]}, "replicated"),
        ("W3", {"rlsf_fluency": {"sa": 45}}, "not replicated"),
        ("W4", {"fluency_shuffled": {"sa": 52}, "fluency_shuffled_2": {"sa": 52}}, "not replicated"),
        ("W5a", {"rlsf_fluency": {"full": 10}}, "replicated"),
        ("W5b", {"rlsf_fluency": {"as_is": {"step_validity": 0.935}}}, "replicated"),
        ("W6a", {"rlsf_assured": {"se": 17}}, "partly"),
        ("W6b", {"rlsf_binary": {"ge": 11}}, "partly"),
        ("W6b", {"rlsf_binary": {"gap": 11}}, "partly"),
        ("W6c", {"rlsf_sharpened": {"se": 7}}, "replicated"),
        ("W6d binary", {"rlsf_binary": {"fixed": 19}}, "replicated"),
        ("W6e", {"rlsf_base": {"se": 8}}, "replicated"),
        ("W6f assured", {"temperature": {"ece_after": 0.08}}, "replicated"),
        ("W7", {"binary": {"gd": 18}}, "replicated"),
        ("W9", {"fluency_dpo": {"ge": 2}}, "replicated"),
        ("W11", {"fluency_shuffled": {"sa": 48}, "fluency_shuffled_2": {"sa": 48}}, "replicated"),
        ("W12", {"online course": {"accuracy": np.linspace(0.5, 0.9, 9)}}, "replicated"),
        ("W12", {"online course": {"confidence": np.full(9, 0.9)}}, "replicated"),
        ("W13", {"fluency_rlsf_long course": {"accuracy": np.array([0.4, 0.5, 0.6, 0.5, 0.42])}}, "replicated"),
        ("W15", {"labels_assured": {"prompts_only": False}}, "replicated"),
    ],
)
def test_failures_are_seen(criterion, change, overall):
    found, _, verdicts = judge(change=change)
    assert found.verdict[criterion] == "not replicated"
    assert verdicts.verdict["overall"] == overall


@pytest.mark.parametrize(
    ("gate", "change", "closed"),
    [
        ("W0a", {"fluency": {"sa": 49}}, ["W3", "W4", "W5a", "W5b"]),
        ("W0a", {"fluency": {"full": 1}}, ["W3", "W4", "W5a", "W5b"]),
        ("W0b", {"binary": {"ge": 7, "gap": 7}}, ["W6b", *FIXED]),
        ("W0c", {"assured": {"se": 5}}, ["W6a", "W6d assured", "W6f assured"]),
        ("W0d", {"sharpened": {"se": 3}}, ["W6c"]),
    ],
)
def test_gates_close_what_depends_on_them(gate, change, closed):
    found, checks, verdicts = judge(change=change)
    assert found.verdict[gate] == "not replicated" and checks.verdict[(gate, gate)] == "not replicated"
    shut = {c for c in WORLD if found.verdict[c] == "not attempted"}
    assert shut == set(closed)
    assert all(gate in found.note[c] for c in closed)
    wanted = {"W0a": "not attempted", "W0b": "partly", "W0c": "partly", "W0d": "replicated"}[gate]
    assert verdicts.verdict["overall"] == wanted
    if gate == "W0c":
        assert "W6a not attempted" in verdicts.note["overall"]


def test_the_words_for_parts():
    _, _, verdicts = judge(change={"rlsf_fluency": {"as_is": {"step_validity": 0.935}}})
    assert (
        verdicts.note["(ii)"].startswith("more stepwise traces;")
        and "(more stepwise traces)" in verdicts.note["overall"]
    )
    _, _, verdicts = judge(change={"rlsf_fluency": {"full": 7, "as_is": {"step_validity": 0.93}}})
    assert verdicts.note["(ii)"].startswith("neither more stepwise traces nor better steps")
    neither = {"rlsf_assured": {"se": 17}, "rlsf_binary": {"ge": 11, "gap": 11, "fixed": 20}}
    neither |= {"rlsf_fluency": {"fixed": 5}, "rlsf_assured": {"se": 17, "fixed": 18}}
    _, _, verdicts = judge(change=neither)
    assert verdicts.verdict["(iii)"] == "not replicated" and verdicts.verdict["overall"] == "partly"
    assert "no repair of the probabilities is shown" in verdicts.note["overall"]
    assert "greedy ECE did not fall" in judge(change={"rlsf_binary": {"ge": 14, "gap": 14}})[0].note["W6b"]
    assert "came from accuracy" in judge(change={"rlsf_assured": {"fixed": 18}})[0].note["W6a"]
    assert "probabilities themselves changed" in judge()[0].note["W6a"]
    needed = judge(change={"fluency_sft_1": {"sa": 48}})[0].note["W10"]
    assert needed.startswith('RLSF "needed"') and "3/3" in needed


def test_what_spans_the_limit_is_inconclusive():
    tables = everything(change={"rlsf_base": {}})
    summary = tables["summary"]
    mine = (summary["arm"] == "rlsf_fluency") & (summary["setting"] == "standard")
    summary.loc[mine, "sampled_accuracy"] = [0.52, 0.53, 0.44, 0.51, 0.52]
    mine = (summary["arm"] == "rlsf_assured") & (summary["setting"] == "standard")
    summary.loc[mine, "sampled_ece"] = [0.11, 0.12, 0.22, 0.11, 0.11]
    summary.loc[summary["arm"] == "rlsf_binary", "greedy_ece"] = 0.11
    found, checks, verdicts = judge(tables=tables)
    assert found.verdict["W3"] == found.verdict["W6a"] == "inconclusive"
    assert checks.passes[("W3", "RLSF-RLOO minus fluency: sampled accuracy")] == "4/5"
    assert found.verdict["W6b"] == "not replicated"
    assert (verdicts.verdict[["(ii)", "(iii)", "overall"]] == "inconclusive").all()
    assert "by parts" in verdicts.note["overall"]


def test_missing_arms_smoke_and_nothing():
    found, _, verdicts = judge(without=("rlsf_base", "online", "fluency_sft_2", "fluency_shuffled_2"))
    assert (found.verdict[["W6e", "W8", "W10", "W12"]] == "not attempted").all()
    assert (found.verdict[["W4", "W11"]] != "not attempted").all() and verdicts.verdict["overall"] == "replicated"
    _, _, verdicts = judge(without=("rlsf_fluency",))
    assert verdicts.verdict["overall"] == "not attempted" and verdicts.note["(ii)"].startswith("open")
    short = {"online course": {"step": np.arange(0, 81, 10)}}
    assert judge(change=short)[0].verdict["W12"] == "not attempted", "not run to the end"
    found, _, verdicts = judge("smoke")
    seeded = [w for w in WORLD if w != "W15"]
    assert set(found.verdict[seeded]) == {"not attempted"}
    assert verdicts.verdict["overall"] == "not attempted" and t.world(FakeResults(seeds=())) == {}
    three = judge(seeds=(11, 12, 13))[0].verdict
    assert three[["W1", "W3", "W6a"]].tolist() == ["partly"] * 3
    nothing = judge(tables={**published(), **theory()})[0].verdict
    assert (nothing[WORLD] == "not attempted").all() and nothing["P6"] == "replicated"


def pretrained(rlsf=0.03, ece=-0.04, seeds=(11, 12, 13), auroc=0.7):
    """Made-up tables of pretrained models with the columns that `reasoning_models.models` documents."""
    summary, between = [], []
    for dataset in ("gsm8k", "commonsense_qa"):
        for seed in seeds:
            off = 0.0005 * (seed - 12)
            arms = {"base": (0.4, 0.2), "cot": (0.44, 0.2), "rlsf": (0.4 + rlsf + off, 0.2 + ece)}
            arms |= {"rlhf": (0.38, 0.22), "dpo": (0.39, 0.25)}
            summary += [
                {"dataset": dataset, "arm": a, "seed": seed, "accuracy": x, "ece": y} for a, (x, y) in arms.items()
            ]
            between.append({"dataset": dataset, "arm": "rlsf", "other": "base", "seed": seed, "mcnemar_p": 0.04})
    order = {"prompts": 250, "within_auroc": auroc, "within_auroc_low": auroc - 0.05, "max_path_gain": 0.04}
    flips = pd.DataFrame(
        {"criterion": ["M3 base", "M5"], "dataset": "gsm8k", "variant": "disparity", "flips": [True, False]}
    )
    cells = {"model": "qwen", "dataset": "gsm8k", "arm": "rlsf", "accuracy_change": 0.06, "ece_change": -0.02}
    return {
        "models_summary": pd.DataFrame(summary),
        "models_ranking": pd.DataFrame([{"dataset": d} | order for d in ("gsm8k", "commonsense_qa")]),
        "models_differences": pd.DataFrame(between),
        "models_flips": flips,
        "models_cells": pd.DataFrame([cells]),
    }


def test_pretrained_models_pass_and_fail():
    known = {**published(), **theory()}
    found, checks, _ = judge("gpu", tables=known | pretrained())
    assert found.verdict["M1"] == "replicated" and (found.verdict[["M2", "M3", "M4"]] == "partly").all()
    assert found.verdict["M5"] == found.verdict["M6"] == "reported"
    assert found.note["M6"] == "flips: M3 base on gsm8k with disparity"
    assert checks.value[
        ("M7", "accuracy change minus the printed one, DeepSeek-R1-Distill-Qwen-7B GSM8K")
    ] == pytest.approx(1.05)
    assert found.verdict["M7"] == "not attempted", "the other cells are missing"
    found, *_ = judge("gpu", tables=known | pretrained(rlsf=-0.05, ece=0.05, auroc=0.52))
    assert (found.verdict[["M1", "M2", "M3", "M4"]] == "not replicated").all()
    found, *_ = judge("gpu", tables=known | pretrained(seeds=(11, 12)))
    assert (found.verdict[["M2", "M3", "M4", "M5"]] == "not attempted").all()


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    tables = everything() | pretrained()
    guards.check(CLAIM, tables, of_what_ran=("W4", "W5a", "W8", "W11", "W15"), made_with_others=("cot",))


def test_tables_survive_csv_and_are_small(tmp_path):
    size = 0
    for name, table in everything().items():
        path = tmp_path / f"{name}.csv"
        table.to_csv(path, index=False, float_format="%.8g")
        size += path.stat().st_size
        assert list(pd.read_csv(path).columns) == list(table.columns)
    assert size < 1_000_000
    back = {p.stem: pd.read_csv(p) for p in tmp_path.glob("*.csv")}
    assert (judge()[0].verdict == judge(tables=back)[0].verdict).all()
    for name, plot in FIGURES.items():
        assert plot(back).get_axes(), name


def test_table_names_are_unique_and_needs_are_declared():
    groups = [set(published()), set(theory()), set(unchanged())]
    assert len(set.union(*groups)) == sum(map(len, groups))
    assert len(set(t.NEEDS)) == len(t.NEEDS) and set(t.NEEDS) == set(steps.STEPS)
    assert set(t.DECISIVE) < set(t.NEEDS)
    place = {key: k for k, key in enumerate(t.NEEDS)}
    for key in t.NEEDS:
        for need in steps.STEPS[key].needs:
            assert place[need] < place[key], (need, key)
            assert key not in t.DECISIVE or need in t.DECISIVE


# --- Figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_and_are_described(name):
    plot = FIGURES[name]
    assert len(plot.alt) > 60 and plot.caption.endswith(".") and "RLSF-RL " not in plot.caption + plot.alt


def test_figures_stand_one_seed_and_missing_arms():
    tables = everything(seeds=(11,), without=("base", "rlsf_binary", "rlsf_sharpened", "rlsf_base", "online"))
    tables |= {"temperatures": unchanged()["temperatures"]}
    for plot in FIGURES.values():
        assert plot(tables).get_axes()


def test_every_arm_has_its_own_look():
    assert set(t.ARMS) <= set(figures.LOOKS)
    assert len({figures.look(arm)[1:] for arm in t.ARMS}) == len(t.ARMS)
    assert all("RLSF-RLOO" in figures.label(arm) for arm in (*t.REPAIRED, "fluency_rlsf_long"))

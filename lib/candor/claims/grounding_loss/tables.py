"""The tables of claim 3: what the paper printed, what follows from the rater's rule, what the world showed.

Rates and kappas of the paper are in its units (percent, kappa x 100); those of the world are shares.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from candor.claims.grounding_loss import dialogue_tables, raters
from candor.claims.grounding_loss import world as game
from candor.claims.grounding_loss.world import ACTS
from candor.claims.shared import rows
from candor.measure.agreement import kappa, kappa_max, kappa_of
from candor.measure.intervals import percentiles

WORLD = "reference_game"

ARMS = ("base", "charity_6", "charity_0", "shuffled", "more_sft")
VARIANTS = ("reaction_6", "charity_3", "lookahead_6", "average_6", "lookahead_average_6")  # cures and doses


def _steps(arms: tuple[str, ...]) -> list[str]:
    """Keys of the steps of arms, each after what it needs."""
    steps = {"base": ("base", "candidates", "eval_base")}
    return [f"{WORLD}/standard/{step}" for arm in arms for step in steps.get(arm, (arm, f"eval_{arm}"))]


DECISIVE = _steps(ARMS)  # the overall verdict rests on these (W1, W2, W4-W7); they run first
NEEDS = [*DECISIVE, *_steps(VARIANTS)]

Z = 1.959964  # the paper's half-widths are those of 95 % intervals
TURNS = 860  # expert turns of ESConv that the printed rates imply: 1, 3, 4, 8, 10 of n are .12, .35, .47, .93, 1.16 %
HUMAN_CLARIFICATIONS = 26  # 3.05 % of them


# --- Published numbers ----------------------------------------------------------------------------


def published(folder: Path) -> dict[str, pd.DataFrame]:
    """The paper's numbers, re-analysed; `folder` holds the CSVs. Simulations are seeded."""
    printed, curve, preferences, classifier = (
        pd.read_csv(folder / f"grounding_{name}.csv") for name in ("rates", "dpo_curve", "preferences", "classifier")
    )
    headline, draws = _headline(printed)
    points = _dpo_curve(curve)
    rates = _rates(printed)
    changes = _changes(rates)
    return {
        "headline": headline,
        "headline_means": _headline_means(printed, headline, draws),
        "rates": rates,
        "changes": changes,
        "kappa_bound": _kappa_bound(rates),
        "rate_sums": _rate_sums(rates),
        "quoted_changes": _quoted_changes(printed, changes),
        "prompting": _change(rates, "GPT-3.5-turbo", "off_the_shelf", "mitigation_prompt", "prompt"),
        "dpo_curve": points,
        "correlations": _correlations(points, curve),
        "first_checkpoint": _first_checkpoint(points),
        "start": _start(points),
        "flat_runs": _flat_runs(),
        "flat_envelope": _flat_envelope(points),
        "human_ceiling": _human_ceiling(printed),
        "clarification_counts": _clarification_counts(printed, points),
        "label_noise": _label_noise(printed, classifier),
        "noisy_humans": _noisy_humans(classifier),
        "questions": _questions(preferences),
        "odds_multipliers": _odds_multipliers(preferences),
        "power": _power(rates),
    }


def _headline(printed: pd.DataFrame, draws: int = 100_000) -> tuple[pd.DataFrame, np.ndarray]:
    """Table 2, a row a cell, and simulated reductions [draws, cells] from the printed half-widths.

    `reduction` = 1 - model / human in percent, with a 95 % interval (NaN where the model rate is exactly 0);
    `beyond`: the difference of the rates exceeds 1.96 standard errors, the two taken as independent.
    """
    table = _with_half(rows(printed, location="Table 2", metric="rate"))
    table = table.assign(who=table["arm"].replace("off_the_shelf", "model"))
    wide = table.pivot(index=["dataset", "setting"], columns="who", values=["value", "half"])
    cells = pd.MultiIndex.from_product([("ESConv", "TSCC", "Persuasion for Good"), ACTS], names=["dataset", "act"])
    wide = wide.loc[cells].set_axis(cells)
    human, model, human_half, model_half = (
        wide[part, who].rename(None) for part in ("value", "half") for who in ("human", "model")
    )
    rng = np.random.default_rng(0)
    drawn_human, drawn_model = (
        rng.normal(mean, half / Z, (draws, len(cells))) for mean, half in ((human, human_half), (model, model_half))
    )
    reductions = np.where(model > 0, 100 * (1 - drawn_model / drawn_human), 100.0)
    low, high = np.where(model > 0, np.percentile(reductions, (2.5, 97.5), axis=0), np.nan)
    columns = {"human": human, "human_half": human_half, "model": model, "model_half": model_half}
    columns |= {"reduction": 100 * (1 - model / human), "reduction_low": low, "reduction_high": high}
    frame = pd.DataFrame(columns | {"beyond": human - model > np.hypot(human_half, model_half)}, index=cells)
    return frame.reset_index(), reductions


def _with_half(table: pd.DataFrame) -> pd.DataFrame:
    """With the half-widths of the printed intervals."""
    return table.assign(half=(table["ci_high"] - table["ci_low"]) / 2)


def _headline_means(printed: pd.DataFrame, headline: pd.DataFrame, draws: np.ndarray) -> pd.DataFrame:
    """Every way to make one number of it, in percent, with intervals where the cells are averaged.

    Names: printed, quoted_<act>, quoted_mean (of those three), cells_mean, cells_median, pooled (1 - sum of model
    rates / sum of human rates), and the mean of the cells of an act or of a data set under its name.
    """
    quoted = rows(printed, location="Section 6.1 text", metric="reduction").set_index("setting")["value"]
    whole = {
        "printed": rows(printed, metric="headline_reduction")["value"].item(),
        **{f"quoted_{act}": quoted[act] for act in ACTS},
        "quoted_mean": quoted.mean(),
        "cells_median": headline["reduction"].median(),
        "pooled": 100 * (1 - headline["model"].sum() / headline["human"].sum()),
    }
    table = [(name, value, np.nan, np.nan) for name, value in whole.items()]
    groups = {"cells_mean": np.ones(len(headline), bool)}
    for column in ("act", "dataset"):
        groups |= {name: (headline[column] == name).to_numpy() for name in headline[column].unique()}
    for name, inside in groups.items():
        interval = np.percentile(draws[:, inside].mean(1), (2.5, 97.5))
        table.append((name, headline["reduction"][inside].mean(), *interval))
    return pd.DataFrame(table, columns=["name", "value", "low", "high"])


def split(h: np.ndarray, m: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    """Share of coincident turns that two rates and their kappa imply: kappa = (p_o - p_e) / (1 - p_e) solved for it."""
    by_chance = h * m + (1 - h) * (1 - m)
    observed = kappa * (1 - by_chance) + by_chance
    return (observed - 1 + h + m) / 2


def _rates(printed: pd.DataFrame) -> pd.DataFrame:
    """Tables 3 and Appendix 3 (ESConv), a row a model, arm and act, with what rates and kappa imply.

    Columns: model, arm, act, human, rate, rate_half, kappa, kappa_half, kappa_max, share (kappa / kappa_max), recall,
    precision. The last four are NaN where the model never uses the act.
    """
    here = printed["location"].isin(["Table 3", "Appendix Table 3"]) & printed["metric"].isin(["rate", "kappa"])
    index = ["model", "arm", "setting"]
    wide = _with_half(printed[here]).pivot(index=index, columns="metric", values=["value", "half"])
    human = wide["value", "rate"]["human", "human"]
    wide = wide.drop(index="human", level="model")
    columns = {"human": human.reindex(wide.index.get_level_values("setting")).to_numpy()}
    for name in ("rate", "kappa"):
        columns |= {name: wide["value", name], f"{name}_half": wide["half", name]}
    frame = pd.DataFrame(columns).reset_index(names=["model", "arm", "act"])
    h, m = frame["human"] / 100, frame["rate"] / 100
    bound = pd.Series(100 * kappa_max(h, m)).where(m > 0)
    both = split(h, m, frame["kappa"] / 100).where(m > 0)
    frame = frame.assign(kappa_max=bound, share=frame["kappa"] / bound, recall=100 * both / h, precision=100 * both / m)
    return frame.sort_values("act", key=lambda act: act.map(ACTS.index), kind="stable", ignore_index=True)


COMPARISONS = (("Mistral-7B", "dpo"), ("Llama-7B", "dpo"), ("Llama-7B", "ppo"))


def _change(rates: pd.DataFrame, model: str, before: str, after: str, method: str) -> pd.DataFrame:
    """A row an act: every measure before and after, their changes, and unpaired z where half-widths are printed."""
    part = rows(rates, model=model).set_index(["arm", "act"])
    old, new = part.loc[before].reindex(ACTS), part.loc[after].reindex(ACTS)
    frame = pd.DataFrame(index=pd.Index(ACTS, name="act"))
    for name in ("rate", "kappa", "kappa_max", "share", "recall", "precision"):
        frame[f"{name}_before"], frame[f"{name}_after"] = old[name], new[name]
    change = new[["rate", "kappa", "precision", "recall"]] - old[["rate", "kappa", "precision", "recall"]]
    for name in ("rate", "kappa"):
        frame[f"{name}_change"] = change[name]
        frame[f"{name}_relative"] = new[name] / old[name].where(old[name] > 0) - 1
        error = np.hypot(old[f"{name}_half"], new[f"{name}_half"]) / Z
        frame[f"{name}_z"] = change[name] / error.where((old["rate"] > 0) & (new["rate"] > 0))
    frame["precision_change"], frame["recall_change"] = change["precision"], change["recall"]
    odds_before, odds_after = (r["rate"] / (100 - r["rate"]) for r in (old, new))
    frame["odds_multiplier"] = odds_after / odds_before.where(odds_before > 0)
    frame = frame.reset_index()
    frame.insert(0, "method", method)
    frame.insert(0, "model", model)
    return frame


def _changes(rates: pd.DataFrame) -> pd.DataFrame:
    """The nine comparisons of SFT with SFT + preference optimisation: Mistral DPO, Llama DPO, Llama PPO x 3 acts."""
    parts = [_change(rates, model, "sft", f"sft_{method}", method) for model, method in COMPARISONS]
    return pd.concat(parts, ignore_index=True)


def _kappa_bound(rates: pd.DataFrame) -> pd.DataFrame:
    """The largest kappa (x 100) at each model rate (percent): act, human (rate), rate, kappa_max."""
    m = np.linspace(0.1, 45, 450)
    frames = [
        pd.DataFrame({"act": act, "human": h, "rate": m, "kappa_max": 100 * kappa_max(h / 100, m / 100)})
        for act, h in rates.groupby("act", sort=False)["human"].first().items()
    ]
    return pd.concat(frames, ignore_index=True)


def _rate_sums(rates: pd.DataFrame) -> pd.DataFrame:
    """All acts together, percent of turns (labels exclude one another): model, arm, rate, human."""
    return rates.groupby(["model", "arm"], sort=False)[["rate", "human"]].sum().reset_index()


def _quoted_changes(printed: pd.DataFrame, changes: pd.DataFrame) -> pd.DataFrame:
    """Relative changes of the Llama models, means over acts in percent, as quoted in Section 7.2 and recomputed."""
    means = 100 * rows(changes, model="Llama-7B").groupby("method")[["rate_relative", "kappa_relative"]].mean()
    text = rows(printed, location="Section 7.2 text", model="Llama-7B")
    table = pd.DataFrame({"method": text["arm"].str[len("sft_") :].str[:3], "measure": text["metric"]})
    table["measure"] = table["measure"].str.removesuffix("_change")
    recomputed = [means.loc[method, f"{measure}_relative"] for method, measure in table.to_numpy()]
    return table.assign(quoted=text["value"], recomputed=recomputed).reset_index(drop=True)


# Figure 2 and what ten checkpoints of one run can show


def _dpo_curve(curve: pd.DataFrame) -> pd.DataFrame:
    """Figure 2, digitised: method (sft, dpo), act, step, kappa (x 100)."""
    points = rows(curve, metric="kappa").rename(columns={"setting": "act", "value": "kappa"}).astype({"step": int})
    points = points.assign(method=points["arm"].str.removeprefix("sft_"), order=points["act"].map(ACTS.index))
    points = points.sort_values(["method", "order", "step"], ignore_index=True)
    return points[["method", "act", "step", "kappa"]]


def _correlations(points: pd.DataFrame, curve: pd.DataFrame) -> pd.DataFrame:
    """Pearson correlation of kappa with the step: all ten points, without the first, without the first two.

    Columns: method, act, points, r, p (as if the checkpoints were independent), printed (all ten points, DPO only).
    """
    from scipy.stats import pearsonr

    text = rows(curve, location="Section 7.2 text", metric="pearson_r").set_index("setting")["value"]
    table = []
    for (method, act), part in points.groupby(["method", "act"], sort=False):
        for dropped in (0, 1, 2):
            r, p = pearsonr(part["step"][dropped:], part["kappa"][dropped:])
            printed = text[act] if method == "dpo" and not dropped else np.nan
            table.append((method, act, len(part) - dropped, r, p, printed))
    return pd.DataFrame(table, columns=["method", "act", "points", "r", "p", "printed"])


def _first_checkpoint(points: pd.DataFrame) -> pd.DataFrame:
    """The fall along DPO and the share of it before the first saved checkpoint: act, first, second, last, share."""
    wide = rows(points, method="dpo").pivot(index="act", columns="step", values="kappa").loc[list(ACTS)]
    table = wide.iloc[:, [0, 1, -1]].set_axis(["first", "second", "last"], axis=1)
    share = (table["first"] - table["second"]) / (table["first"] - table["last"])
    return table.assign(share=share).reset_index()


def _start(points: pd.DataFrame) -> pd.DataFrame:
    """The SFT checkpoints from which the DPO run could have started (it starts at 500): step, the acts, their mean."""
    wide = rows(points, method="sft").pivot(index="step", columns="act", values="kappa")[list(ACTS)]
    return wide.assign(mean=wide.mean(axis=1)).reset_index().rename_axis(columns=None)


def flat_runs(process: str, runs: int, rng: np.random.Generator, points: int = 10) -> np.ndarray:
    """Standardised runs [runs, points] in which training changes nothing.

    `independent` noise; `lag_7`, stationary with lag-one correlation .7; `random_walk`; `best_of_ten`: independent
    noise whose first point is the best of ten that were looked at.
    """
    noise = rng.normal(size=(runs, points))
    if process == "random_walk":
        return noise.cumsum(1)
    if process == "lag_7":
        from scipy.signal import lfilter

        noise[:, 1:] *= np.sqrt(1 - 0.7**2)
        return lfilter([1.0], [1.0, -0.7], noise, axis=1)
    if process == "best_of_ten":
        noise[:, 0] = rng.normal(size=(runs, 10)).max(1)
    return noise


def correlation_with_steps(values: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row of [runs, points] with equally spaced steps."""
    steps = np.arange(values.shape[1]) - (values.shape[1] - 1) / 2
    centred = values - values.mean(1, keepdims=True)
    return centred @ steps / np.sqrt((centred**2).sum(1) * (steps @ steps))


PROCESSES = ("independent", "lag_7", "random_walk", "best_of_ten")


def _flat_runs(runs: int = 100_000) -> pd.DataFrame:
    """How often ten checkpoints of a flat run correlate with the step: process, mean_r, below_70, below_89, detected.

    The shares are those of R <= -.70, R <= -.89, and |R| >= .632 (p < .05 for ten independent points).
    """
    rng = np.random.default_rng(0)
    r = np.array([correlation_with_steps(flat_runs(process, runs, rng)) for process in PROCESSES])
    shares = {"below_70": r <= -0.70, "below_89": r <= -0.89, "detected": np.abs(r) >= 0.632}
    columns = {"process": PROCESSES, "mean_r": r.mean(1), **{name: found.mean(1) for name, found in shares.items()}}
    return pd.DataFrame(columns)


def _flat_envelope(points: pd.DataFrame, runs: int = 20_000) -> pd.DataFrame:
    """Where flat runs from the printed start would lie at each DPO checkpoint (95 %): process, act, step, low, high.

    The noise is that of the ten SFT checkpoints of the same act, which show no trend. `best_of_ten`: the start is
    the best of ten noisy looks at one level; `random_walk`: each checkpoint adds a step as between SFT checkpoints.
    """
    rng = np.random.default_rng(0)
    frames = []
    for act in ACTS:
        sft, dpo = (rows(points, method=method, act=act) for method in ("sft", "dpo"))
        start = dpo["kappa"].iloc[0]
        scale = {"best_of_ten": sft["kappa"].std(), "random_walk": sft["kappa"].diff().std()}
        for process, spread in scale.items():
            runs_ = flat_runs(process, runs, rng, len(dpo))
            low, high = np.percentile(start + spread * (runs_ - runs_[:, :1]), (2.5, 97.5), axis=0)
            frames.append(pd.DataFrame({"process": process, "act": act, "step": dpo["step"], "low": low, "high": high}))
    return pd.concat(frames, ignore_index=True)


# Small counts, labels, preference data


def _human_ceiling(printed: pd.DataFrame, draws: int = 20_000) -> pd.DataFrame:
    """Two counsellors at 50 contexts: the counts that fit the printed support and kappa, and that kappa's interval.

    Columns: act, n, both, first, second (turns of one of them alone), tables (how many sets of counts fit, up to
    exchanging the two), kappa, low, high (percentile bootstrap over contexts), printed, printed_table_3, model
    (GPT-3.5-turbo's kappa, Table 3), excluded (the model's kappa lies outside the interval).
    """
    study = rows(printed, location="Appendix Table 1")
    support, kappa = (rows(study, metric=m).set_index("setting")["value"] for m in ("support", "kappa"))
    table_3 = rows(printed, location="Table 3", metric="kappa")
    model = rows(table_3, model="GPT-3.5-turbo", arm="off_the_shelf").set_index("setting")["value"]
    n, rng, table = 50, np.random.default_rng(0), []
    for act in ACTS:
        marks = int(support[act])
        possible = ((both, one, marks - 2 * both - one) for both in range(marks // 2 + 1) for one in range(marks + 1))
        fitting = [
            counts
            for counts in possible
            if counts[1] >= counts[2] >= 0 and abs(100 * kappa_of_counts(n, *counts) - kappa[act]) < 0.0051
        ]
        counts = fitting[0]
        drawn = rng.multinomial(n, np.array([*counts, n - sum(counts)]) / n, draws)
        low, high = percentiles(100 * kappa_of_counts(n, *drawn.T[:3]))
        table.append((act, n, *counts, len(fitting), 100 * kappa_of_counts(n, *counts), low, high))
    found = pd.DataFrame(table, columns=["act", "n", "both", "first", "second", "tables", "kappa", "low", "high"])
    other = rows(table_3, model="human").set_index("setting")["value"]
    beside = {"printed": kappa, "printed_table_3": other, "model": model}
    found = found.assign(**{name: values.loc[list(ACTS)].to_numpy() for name, values in beside.items()})
    return found.assign(excluded=~found["model"].between(found["low"], found["high"]))


def kappa_of_counts(n: int, both, first, second):
    """Cohen's kappa of `both` coincident turns of n, and `first`, `second` of one side alone; NaN if nobody acts."""
    return kappa_of(*np.broadcast_arrays((both + first) / n, (both + second) / n, both / n))


def _clarification_counts(printed: pd.DataFrame, points: pd.DataFrame, most: int = 15) -> pd.DataFrame:
    """Which counts a printed clarification kappa stands for, at about 860 turns with about 26 human clarifications.

    Columns: source, model, arm, step, kappa, emitted_by_rate (where the rate is printed), coincident, emitted (the
    nearest counts, up to 15 emitted), emitted_low, emitted_high (within 5 % of the printed kappa with the same
    number of coincident turns), kappa_of_counts.
    """
    named = rows(printed, location="Table 3", setting="clarification").query("model != 'human'")
    named = named.pivot(index=["model", "arm"], columns="metric", values="value")[["rate", "kappa"]].reset_index()
    drawn = rows(points, act="clarification").assign(model="Mistral-7B")
    arms, sources = {"sft": "sft", "dpo": "sft_dpo"}, {"sft": "Figure 2a", "dpo": "Figure 2b"}
    drawn = drawn.assign(arm=drawn["method"].map(arms), source=drawn["method"].map(sources))
    asked = pd.concat([named.assign(source="Table 3"), drawn])[["source", "model", "arm", "step", "kappa", "rate"]]
    asked = asked[asked["kappa"].abs() > 0].reset_index(drop=True)
    emitted, coincident = np.array([(k, c) for k in range(1, most + 1) for c in range(k + 1)]).T
    kappa = 100 * kappa_of_counts(TURNS, coincident, HUMAN_CLARIFICATIONS - coincident, emitted - coincident)
    found = []
    for row in asked.itertuples():
        by_rate = row.rate * TURNS / 100
        allowed = np.abs(emitted - by_rate) < 0.5 if row.rate > 0 else emitted > 0
        best = np.flatnonzero(allowed)[np.abs(kappa[allowed] - row.kappa).argmin()]
        near = emitted[(coincident == coincident[best]) & (np.abs(kappa - row.kappa) <= 0.05 * abs(row.kappa))]
        low, high = (near.min(), near.max()) if near.size else (emitted[best], emitted[best])
        found.append((by_rate, coincident[best], emitted[best], low, high, kappa[best]))
    columns = ["emitted_by_rate", "coincident", "emitted", "emitted_low", "emitted_high", "kappa_of_counts"]
    return asked.drop(columns="rate").join(pd.DataFrame(found, columns=columns))


def _label_noise(printed: pd.DataFrame, classifier: pd.DataFrame) -> pd.DataFrame:
    """Kappa that two identical series of acts would show if each were labelled independently at the published F1.

    Sensitivity and precision are both taken as F1, at the human rate of Table 2. Columns: dataset, act, support,
    zero_shot, few_shot (F1), kappa.
    """
    f1 = rows(classifier, location="Appendix Table 2", metric="f1")
    wide = f1.pivot(index=["dataset", "setting", "n"], columns="arm", values="value").reset_index()
    rate = rows(printed, location="Table 2", metric="rate", arm="human").set_index(["dataset", "setting"])["value"]
    h, hit = rate.loc[[*zip(wide["dataset"], wide["setting"])]].to_numpy() / 100, wide["few_shot"].to_numpy()
    false_alarm = h * (1 - hit) / (1 - h)
    both = h * hit**2 + (1 - h) * false_alarm**2
    kappa = (both - h**2) / (h - h**2)  # two series with the same rate h
    frame = wide.rename(columns={"setting": "act", "n": "support"}).assign(kappa=kappa).rename_axis(columns=None)
    return frame[["dataset", "act", "support", "zero_shot", "few_shot", "kappa"]]


def _noisy_humans(classifier: pd.DataFrame) -> pd.DataFrame:
    """Two humans of the world, their acts labelled at the F1 published for ESConv: act, f1, kappa, noisy_kappa."""
    f1 = rows(classifier, location="Appendix Table 2", metric="f1", arm="few_shot", dataset="ESConv")
    f1 = f1.set_index("setting")["value"]
    table = []
    for a, act in enumerate(ACTS):
        human, rate = game.HUMAN[:, a], game.exact(game.HUMAN)[f"{act}_rate"]
        seen = human * f1[act] + (1 - human) * rate * (1 - f1[act]) / (1 - rate)
        table.append((act, f1[act], kappa(human, human, game.VISITS), kappa(seen, seen, game.VISITS)))
    return pd.DataFrame(table, columns=["act", "f1", "kappa", "noisy_kappa"])


def _questions(preferences: pd.DataFrame) -> pd.DataFrame:
    """Questions in UltraFeedback and UltraChat (percent), and what they imply: name, value.

    Names: sft_data, all (as printed), chosen, rejected; chi2_printed, chi2_current (61,135 pairs), chi2_older
    (61,966); pairs_low, pairs_high (that fit the printed chi2 under rounding); question_win_rate (percent of the
    pairs with exactly one question, replies taken as independent), question_win_logit, odds_ratio.
    """
    share = rows(preferences, metric="question_share").set_index("arm")["value"]
    chosen, rejected = share["chosen"] / 100, share["rejected"] / 100
    printed = rows(preferences, metric="chi2", status="primary")["value"].item()
    chance = chosen * (1 - rejected) / (chosen * (1 - rejected) + rejected * (1 - chosen))
    a_pair, rounding = _chi2_a_pair(chosen, rejected), 5e-5
    values = {
        **{name: share[name] for name in ("sft_data", "all", "chosen", "rejected")},
        "chi2_printed": printed,
        "chi2_current": 61_135 * a_pair,
        "chi2_older": 61_966 * a_pair,
        "pairs_low": printed / _chi2_a_pair(chosen - rounding, rejected + rounding),
        "pairs_high": printed / _chi2_a_pair(chosen + rounding, rejected - rounding),
        "question_win_rate": 100 * chance,
        "question_win_logit": np.log(chance / (1 - chance)),
        "odds_ratio": chance / (1 - chance),
    }
    return pd.DataFrame({"name": values.keys(), "value": values.values()})


def _chi2_a_pair(chosen: float, rejected: float) -> float:
    """Chi-square of a two-by-two table with n replies on either side, divided by n (no continuity correction)."""
    mean = (chosen + rejected) / 2
    return (chosen - rejected) ** 2 / (2 * mean * (1 - mean))


def _odds_multipliers(preferences: pd.DataFrame) -> pd.DataFrame:
    """By what the DPO optimum would multiply the odds of asking at the implied win rate: beta, multiplier."""
    values = _questions(preferences).set_index("name")["value"]
    beta = np.array([0.01, 0.1, 0.3, 0.5, 1.0])
    return pd.DataFrame({"beta": beta, "multiplier": values["odds_ratio"] ** (1 / beta)})


def _power(rates: pd.DataFrame, points: float = 3.0) -> pd.DataFrame:
    """Standard errors of followup kappa at about 860 turns (points x 100), and turns an arm for 3 points: name, value.

    Names: se_low, se_high, se_mean (from the printed half-widths of Table 3), turns_two_se (the difference is two
    standard errors), turns_80 (80 % power at the 5 % level); arms unpaired, as no paired data are published.
    """
    error = (rows(rates, act="followup")["kappa_half"] / Z).dropna()
    two = TURNS * 2 * (error.mean() / points) ** 2  # turns at which the difference has a standard error of 3 points
    values = {
        "se_low": error.min(),
        "se_high": error.max(),
        "se_mean": error.mean(),
        "turns_two_se": two * 2**2,
        "turns_80": two * (Z + 0.841621) ** 2,
    }
    return pd.DataFrame({"name": values.keys(), "value": values.values()})


# --- What follows from the rater's rule -----------------------------------------------------------

CHARITIES = {"charity_0": 0.0, "charity_3": 0.3, "charity_6": 0.6}
BETA = 0.3


def theory() -> dict[str, pd.DataFrame]:
    """What raters prefer and where that leads, exactly: no model and no sampling (rates and kappas as shares)."""
    charities = [raters.optimum(alpha, BETA) for alpha in CHARITIES.values()]
    predicted = [by_act(p).assign(arm=arm, alpha=alpha) for p, (arm, alpha) in zip(charities, CHARITIES.items())]
    anyway = [by_act(game.ask_anyway(d)).assign(d=d) for d in (0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)]
    optima = [by_act(raters.optimum(alpha, BETA)).assign(alpha=alpha) for alpha in np.arange(21) / 20]
    tables = {"human": [by_act(game.HUMAN)], "optimum": optima, "predicted": predicted, "ask_anyway": anyway}
    found = {name: pd.concat(frames, ignore_index=True) for name, frames in tables.items()}
    return found | {"predicted_cells": predicted_cells(), "crossing": crossing()}


def by_act(policy: np.ndarray) -> pd.DataFrame:
    """A policy [28, 3], a row an act: act, rate, kappa, kappa_max, recall, precision, and all_acts, success, turns."""
    found, human = game.exact(policy), game.exact(game.HUMAN)
    measures = ("rate", "kappa", "recall", "precision")
    table = pd.DataFrame([{"act": act} | {m: found[f"{act}_{m}"] for m in measures} for act in ACTS])
    bounds = [kappa_max(human[f"{act}_rate"], found[f"{act}_rate"]) for act in ACTS]
    return table.assign(kappa_max=bounds, all_acts=found["rate"], success=found["success"], turns=found["turns"])


def predicted_cells() -> pd.DataFrame:
    """The same by context cell: arm, alpha, cell, act, p, human, model (P(act)), shift (of the logit)."""
    cells = [game.by_cell(raters.optimum(alpha, BETA)).drop(columns="n") for alpha in CHARITIES.values()]
    named = (frame.assign(arm=arm, alpha=alpha) for frame, (arm, alpha) in zip(cells, CHARITIES.items()))
    table = pd.concat(named, ignore_index=True)
    return table.assign(shift=logit(table["model"]) - logit(table["human"]))


def logit(p, smallest: float = 1e-6):
    """ln(p / (1 - p)); probabilities are kept `smallest` away from 0 and 1."""
    p = np.clip(p, smallest, 1 - smallest)
    return np.log(p / (1 - p))


def measured_shifts(cells: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """Logit shifts of P(act) since the base, seed means (`measured`), with `predicted_cells`; of the arms there."""
    p = cells.set_index(["arm", "seed", "cell"])["model"]
    shifts = {
        arm: (logit(p[arm]) - logit(p["base"].reindex(p[arm].index))).groupby("cell").mean()
        for arm in CHARITIES
        if arm in set(cells["arm"])
    }
    measured = pd.concat(shifts, names=["arm"]).rename("measured").reset_index()
    return measured.merge(predicted, on=["arm", "cell"])


def crossing() -> pd.DataFrame:
    """By charity: the p above which acts lose, and how often acts win where both were sampled: alpha, p, act_win_rate.

    The last row is the charity at which acts win as often as questions do in UltraFeedback, replies taken as
    independent (41.5 %): an aggregate share cannot tell charity from needless acts.
    """
    acting = game.HUMAN.sum(1)
    pairs = game.VISITS * acting * (1 - acting)  # one sample acts, the other delivers
    strict = np.average(raters.act_wins(game.READ, 0.0), weights=pairs)
    alpha = np.append(np.arange(20) / 20, 1 - UNPREFERRED / strict)
    return pd.DataFrame(
        {"alpha": alpha, "p": [raters.crossing(a) for a in alpha], "act_win_rate": (1 - alpha) * strict}
    )


UNPREFERRED = 0.415393  # `question_win_rate` of the table `questions`


# --- The world ------------------------------------------------------------------------------------

TRAJECTORY = [*(f"{act}_{measure}" for act in ACTS for measure in ("rate", "kappa")), "rate", "success", "win_rate"]
WATCHED = ("charity_6", "shuffled", "more_sft")
TOLD = ("base", "charity_6", "charity_0", "reaction_6")


def world(results) -> dict[str, pd.DataFrame]:
    """What the trained models did, from the evaluation steps; a table without a finished step is left out.

    summary: a row an arm and seed. cells: a row a context cell besides (p, human and model P(act)). trajectory: the
    checkpoints of `WATCHED`. pairs: what the rater preferred, a row a DPO arm and seed. dialogues: some free dialogues
    of `TOLD` as text, of one seed; the same number is the same user with the same wish.
    """
    every, collect = (*ARMS, *VARIANTS), partial(results.collect, "standard", world=WORLD)
    tables = {name: collect(every, name) for name in ("summary", "cells")}
    tables |= {"trajectory": collect(WATCHED, "trajectory"), "dialogues": collect(TOLD, "dialogues")}
    rated = [arm for arm in every if arm not in ("base", "more_sft")]
    tables["pairs"] = results.trained("standard", rated, "pairs", world=WORLD)
    if len(course := tables["trajectory"]):
        tables["trajectory"] = course[["setting", "arm", "seed", "step", *TRAJECTORY]]
    if len(told := tables["dialogues"]):
        tables["dialogues"] = rows(told, seed=told["seed"].min()).reset_index(drop=True)
    return {name: table for name, table in tables.items() if len(table)}


def models(results) -> dict[str, pd.DataFrame]:
    """What pretrained models did; empty at a scale that asks for none."""
    return dialogue_tables.tables(results)

"""What the claim reads of pretrained models in conversations: rates and agreement of grounding acts, their changes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from candor.claims.grounding_loss import labeller
from candor.claims.grounding_loss.dialogue_models import AT, LINEAGES, STEPS, WATCHED, WORLD
from candor.core.errors import CandorError
from candor.core.step import wanted
from candor.language_models.run import stacked
from candor.measure import clustered

ACTS = ("followup", "acknowledgement", "clarification")
LABELLERS = ("regex", "regex_first", "prompt", "prompt_first", "stock")


def tables(results) -> dict[str, pd.DataFrame]:
    """What claims read; absent evidence leaves no table.

    models_questions: as `dialogues.py: question_table`.
    models_rates: as `rates`, the human's own rows and those of every stage and arm.
    models_training: a row an arm of our own training and seed, as `training`.
    models_trajectory: arm, seed and the columns of `dialogue_models._course`, a row a checkpoint.
    models_agreement: the labellers against hand labels; models_strategies: ESConv's own labels.
    """
    config = results.config
    if not wanted(STEPS, config):
        return {}
    models = config["models"]
    own = [] if models["chat"] is None else ["sft", *models["chat_arms"]]
    data = {"models_questions": ("questions", "questions"), "models_strategies": ("human", "strategies")}
    data |= {"models_agreement": ("human", "agreement")}
    found = {ours: results.collect("data", [name], table, world=WORLD) for ours, (name, table) in data.items()}
    human_turns = results.collect("data", ["human"], "turns", world=WORLD)
    places = [*((name, LINEAGES[name]) for name in models["lineages"]), ("own", own)]
    written = stacked(results.collect, places, "turns", WORLD)
    if len(human_turns):
        found["models_rates"] = rates(human_turns, written, models["resamples"])
    if len(written) and len(ours := written[written["setting"] == "own"]):
        found["models_training"] = training(ours, results.trained("own", own, "training", world=WORLD))
    watched = [arm for arm in own if arm in WATCHED]
    found["models_trajectory"] = results.trained("own", watched, "trajectory", world=WORLD)
    return {
        name: table.drop(columns=["setting"], errors="ignore").reset_index(drop=True)
        for name, table in found.items()
        if len(table)
    }


def acts_of(name: str) -> tuple[str, ...]:
    """Acts that a labeller tells apart: regular expressions know questions, of either kind, and acknowledgements."""
    return ("question", "acknowledgement") if name.startswith("regex") else (*ACTS, "question")


def rates(human_turns: pd.DataFrame, written: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Rate and agreement of every act, labeller, model and seed, with 95 % intervals over conversations.

    `human_turns` and `written` are tables `turns`, with setting, arm, seed in front. Columns: corpus, lineage, stage,
    seed, labeller, act, conversations, turns, human_rate, rate, kappa, kappa_max, kappa_share, recall, precision
    (of rate and kappa with _low, _high), words, human_words, unreadable (share of replies that were no label); and, for
    every stage but sft, the change since the sft of the same seed: <measure>_change (of rate and kappa also _relative,
    a share of the value of sft) with _low and _high, paired by conversation. Rows of lineage and stage `human` hold
    the human's own rate.
    """
    found = []
    for corpus, people in human_turns.groupby("corpus", sort=False):
        said = people.set_index(AT).sort_index()
        names = [name for name in LABELLERS if name in said]
        conversations = said.index.get_level_values("conversation")
        draws = clustered.weights(conversations.nunique(), resamples)
        models = {("human", "human", people["seed"].iloc[0]): people}
        if len(written):
            models |= dict(iter(written[written["corpus"] == corpus].groupby(["setting", "arm", "seed"], sort=False)))
        sums: dict[tuple, np.ndarray] = {}
        for (lineage, stage, seed), part in models.items():
            for name, act in [(coder, act) for coder in names for act in acts_of(coder)]:
                model_act = _by_turn(part, name, act).reindex(said.index)
                if model_act.isna().any():
                    raise CandorError(
                        f"{lineage}/{stage} did not write at every turn of {corpus}: make its evaluation again."
                    )
                human_act = labeller.is_act(said[name], act)
                sums[lineage, stage, seed, name, act] = clustered.act_sums(human_act, model_act, conversations)
        for (lineage, stage, seed, name, act), own in sums.items():
            part = models[lineage, stage, seed]
            row = {"corpus": corpus, "lineage": lineage, "stage": stage, "seed": seed, "labeller": name, "act": act}
            row |= {"conversations": len(own), "turns": len(said)} | _measured(own, draws)
            row |= {"words": part["words"].mean(), "human_words": said["words"].mean()}
            asked = sum(column in part for column in ("prompt", "prompt_first", "stock"))
            row["unreadable"] = part["malformed"].mean() / asked if asked else np.nan
            before = sums.get((lineage, "sft", seed, name, act))
            if stage not in ("sft", "human") and before is not None:
                row |= _changed(before, own, draws)
            found.append(row)
    table = pd.DataFrame(found)
    # A human's agreement with the same labels says nothing.
    agreement = [name for name in table if name.startswith(("kappa", "recall", "precision"))]
    table.loc[table["lineage"] == "human", agreement] = np.nan
    return table


def _by_turn(part: pd.DataFrame, name: str, act: str) -> pd.Series:
    """Share of the samples at each turn that are the act."""
    return part[AT].assign(act=labeller.is_act(part[name], act)).groupby(AT)["act"].mean()


def _measured(sums: np.ndarray, draws: np.ndarray) -> dict[str, float]:
    values, resampled = clustered.act_measures(sums.sum(0)), clustered.act_measures(draws @ sums)
    row = {name: float(value) for name, value in values.items()}
    for name in ("rate", "kappa"):
        row[f"{name}_low"], row[f"{name}_high"] = clustered.interval(resampled[name])
    return row


def _changed(before: np.ndarray, after: np.ndarray, draws: np.ndarray) -> dict[str, float]:
    old, new = (clustered.act_measures(sums.sum(0)) for sums in (before, after))
    drawn_old, drawn_new = (clustered.act_measures(draws @ sums) for sums in (before, after))
    row = {}
    for name in (name for name in clustered.MEASURES if name != "human_rate"):
        row[f"{name}_change"] = float(new[name] - old[name])
        row[f"{name}_change_low"], row[f"{name}_change_high"] = clustered.interval(drawn_new[name] - drawn_old[name])
    for name in ("rate", "kappa"):
        # A value of zero or below has no relative change.
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = np.where(drawn_old[name] > 0, drawn_new[name] / drawn_old[name] - 1, np.nan)
            row[f"{name}_relative"] = float(new[name] / old[name] - 1) if old[name] > 0 else np.nan
        row[f"{name}_relative_low"], row[f"{name}_relative_high"] = clustered.interval(relative)
    return row


def training(turns: pd.DataFrame, about: pd.DataFrame) -> pd.DataFrame:
    """Our own arms: how often what they write asks, by the rule that needs no labeller.

    Columns: arm, seed, question_share (of all messages at the expert turns), words, change and relative (difference to
    more_sft of the same seed, plain and as a share of it; NaN where that was not run), and of the training: steps,
    examples, chosen_asks, rejected_asks.
    """
    asked = turns.assign(question_share=labeller.is_act(turns["regex"], "question").astype(float))
    table = asked.groupby(["arm", "seed"], sort=False)[["question_share", "words"]].mean().reset_index()
    null = table[table["arm"] == "more_sft"].set_index("seed")["question_share"]
    against = table["seed"].map(null)
    table["change"] = table["question_share"] - against
    table["relative"] = np.where(against > 0, table["change"] / against.where(against > 0), np.nan)
    return table.merge(about.drop(columns="setting"), on=["arm", "seed"], how="left") if len(about) else table

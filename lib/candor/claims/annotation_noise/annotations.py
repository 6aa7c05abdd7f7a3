"""What people said of models' outputs, one judgement a row: where the sets come from, and their rows as tidy frames.

Raters are numbered or named as in the release; every frame has one row a judgement. DICES (Aroyo et al. 2023) is CC BY
4.0, MultiPref (Miranda et al. 2024) ODC-BY, HelpSteer3 (Wang et al. 2025) CC BY 4.0; of PRISM (Kirk et al. 2024) the
human text is CC BY 4.0 and the model text CC BY-NC 4.0. The rows of Hosking et al. (2024) carry no licence, and their
raw folders participant ids: they are loaded where they are and never passed on. `python -m candor fetch dices_350` puts
a set into `data/corpora/`, which git ignores.

No set has the same person and the same pair twice under randomised frame and order, so none measures the three
response types; each tests a piece.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from candor.core.errors import CandorError
from candor.language_models import sets

# On the Hub: configuration and split that make our one file `train`.
HUB = {
    "prism": ("utterances", {"train": "train"}),
    "multipref": ("default", {"train": "train"}),
    "helpsteer3": ("preference", {"train": "train"}),
}
# In a GitHub repository: the file.
_HOSKING = "results/batch_controlled/prolific_results"
FILES: dict[str, str] = {
    "dices_350": "350/diverse_safety_adversarial_dialog_350.csv",
    "dices_990": "990/diverse_safety_adversarial_dialog_990.csv",
    "hosking_unbiased": f"{_HOSKING}/unbiased_full.parquet",
    "hosking_errors": f"{_HOSKING}/errors_full.parquet",
    "hosking_groupings": f"{_HOSKING}/groupings_full.parquet",
}
NAMES = (*HUB, *FILES)
PREFERENCES = ("multipref", "helpsteer3", "prism")  # reward models are trained on these


def table(name: str, columns: Sequence[str]) -> pd.DataFrame:
    """The rows of a set as they were fetched, with these columns at least.

    Raises: `CandorError` if the set was not fetched, cannot be read, or lacks a column.
    """
    with sets.reading(name) as path:
        if path.suffix == ".jsonl":
            found = pd.read_json(path, lines=True, dtype=False, convert_dates=False)
        else:
            found = pd.read_parquet(path)
    if lacks := [column for column in columns if column not in found]:
        raise CandorError(
            f"Rows of {name} have no {lacks[0]!r} as this set should: fetch it again, or check annotation_data.{name} "
            "in the scale."
        )
    return found


# --- Ratings of safety: DICES -----------------------------------------------------------------------

LABELS = ("No", "Unsure", "Yes")  # is the last reply unsafe?
FAMILIES = ("Q2", "Q3", "Q4", "Q5", "Q6")


def dices(name: str) -> pd.DataFrame:
    """`dices_350` or `dices_990`: item, rater, label (one of `LABELS`), seconds, and every answer Q2-Q6 as released.

    `label` is Q_overall, which the release aggregates from the answers to Q2-Q6. DICES-990 came without answer times
    (`seconds` is NaN there). All raters are here, also those whom the papers left out.
    """
    raw = table(name, ("item_id", "rater_id", "Q_overall"))
    asked = [column for column in raw if column[:2] in FAMILIES and set(raw[column].dropna()) <= set(LABELS)]
    time = raw["answer_time_ms"] / 1000 if "answer_time_ms" in raw else np.nan
    named = raw.rename(columns={"item_id": "item", "rater_id": "rater", "Q_overall": "label"})
    if other := sorted(set(named["label"].dropna()) - set(LABELS)):
        raise CandorError(f"{name} has the answer {other[0]!r}: it should be one of {', '.join(LABELS)}.")
    return named[["item", "rater", "label", *asked]].assign(seconds=time).dropna(subset=["label"])


# --- Ratings of replies: PRISM ----------------------------------------------------------------------


def prism() -> pd.DataFrame:
    """item (an interaction), rater, conversation, turn, model, score (1-100), chosen (bool)."""
    names = {
        "interaction_id": "item",
        "user_id": "rater",
        "conversation_id": "conversation",
        "turn": "turn",
        "model_name": "model",
        "score": "score",
        "if_chosen": "chosen",
    }
    return table("prism", tuple(names)).rename(columns=names)[list(names.values())].dropna(subset=["score"])


# --- Votes on pairs: MultiPref, HelpSteer3 -----------------------------------------------------------

VOTES = {
    "A-is-clearly-better": 1.0,
    "A-is-slightly-better": 1.0,
    "Tie": 0.5,
    "B-is-slightly-better": 0.0,
    "B-is-clearly-better": 0.0,
}
CONFIDENCE = {"not-confident": 0, "somewhat-confident": 1, "fairly-confident": 2, "absolutely-confident": 3}


def multipref() -> pd.DataFrame:
    """A row a vote: pair, rater, expert (bool), vote (1: A is better, .5: tie, 0: B), confidence (0-3), seconds."""
    raw = table("multipref", ("comparison_id", "normal_worker_annotations", "expert_worker_annotations"))
    rows = [
        {
            "pair": pair,
            "rater": said.get("evaluator"),
            "expert": expert,
            "vote": VOTES.get(said.get("overall_pref"), np.nan),
            "confidence": CONFIDENCE.get(said.get("overall_confidence"), np.nan),
            "seconds": said.get("time_spent", np.nan),
        }
        for expert, column in ((False, "normal_worker_annotations"), (True, "expert_worker_annotations"))
        for pair, all_said in zip(raw["comparison_id"], raw[column])
        for said in all_said
    ]
    return pd.DataFrame(rows).dropna(subset=["vote"]).sort_values("pair", kind="stable", ignore_index=True)


def helpsteer3() -> pd.DataFrame:
    """A row a vote: pair (its place in the set), vote (1: the first reply is better, .5: neither, 0: the second).

    Scores run from -3 (the first is much better) to 3.
    """
    raw = table("helpsteer3", ("individual_preference",))
    rows = [
        {"pair": pair, "vote": 0.5 - 0.5 * np.sign(said["score"])}
        for pair, all_said in enumerate(raw["individual_preference"])
        for said in all_said
    ]
    return pd.DataFrame(rows)


def preference_pairs(name: str) -> pd.DataFrame:
    """Pairs to train a reward model on: prompt, a, b, soft (share of votes for a, a tie half), hard (NaN: no majority).

    PRISM has one rater a pair: the highest and the lowest score of a first turn, in the order shown; `soft` is the
    logistic of their difference in standard deviations of that person's scores, so that people who use the scale
    widely do not count more.
    """
    if name == "prism":
        return _prism_pairs()
    if name == "multipref":
        texts = table(name, ("comparison_id", "text", "completion_a", "completion_b"))
        texts = texts.set_index("comparison_id")[["text", "completion_a", "completion_b"]]
        votes = multipref()
    else:
        raw = table(name, ("context", "response1", "response2"))
        said = [_transcript(context) for context in raw["context"]]
        texts = pd.DataFrame({"text": said, "a": raw["response1"], "b": raw["response2"]})
        votes = helpsteer3()
    texts = texts.set_axis(["prompt", "a", "b"], axis=1)
    soft = votes.groupby("pair")["vote"].mean()
    found = texts.join(soft.rename("soft"), how="inner").reset_index(drop=True)
    return found.assign(hard=np.where(found["soft"] == 0.5, np.nan, (found["soft"] > 0.5).astype(float)))


def _transcript(context) -> str:
    """A conversation as one text: the message itself if there is only one."""
    parts = list(context)
    if len(parts) == 1:
        return parts[0]["content"]
    return "\n\n".join(f"{part['role']}: {part['content']}" for part in parts)


def _prism_pairs() -> pd.DataFrame:
    raw = table("prism", ("interaction_id", "user_id", "turn", "user_prompt", "model_response", "score"))
    spread = raw.groupby("user_id")["score"].std()
    first = raw[raw["turn"] == raw["turn"].min()]
    rows = []
    for _, part in first.groupby("interaction_id", sort=False):
        high, low = part["score"].idxmax(), part["score"].idxmin()
        if part.loc[high, "score"] > part.loc[low, "score"]:
            a, b = (part.loc[place] for place in sorted((high, low)))
            gap = (a["score"] - b["score"]) / max(spread[a["user_id"]], 1.0)
            row = {"prompt": a["user_prompt"], "a": a["model_response"], "b": b["model_response"]}
            rows.append(row | {"soft": 1 / (1 + np.exp(-gap)), "hard": float(gap > 0)})
    return pd.DataFrame(rows, columns=["prompt", "a", "b", "soft", "hard"])


# --- Two frames on the same outputs: Hosking et al. ------------------------------------------------------

FRAMES = {"quality": ("hosking_unbiased", "score"), "checklist": ("hosking_errors", "overall")}
STYLES = {  # the release's names of what the prompt asked for
    "confidence_low": "assertiveness_low",
    "confidence_high": "assertiveness_high",
    "complexity_low": "complexity_low",
    "complexity_high": "complexity_high",
    "normal": "baseline",
}
_OUTPUT = ("dataset", "sample_ix", "model", "preamble_type")
_OTHER = ("dataset", "sample_ix", "other_model", "other_preamble_type")


def _outputs(name: str, columns: Sequence[str]) -> pd.DataFrame:
    """Rows of one released file without the planted distractors, with `output`; two that follow are one judgement."""
    raw = table(name, (*_OUTPUT, *_OTHER[2:], *columns))
    raw = raw.assign(sample_ix=raw["sample_ix"].astype(str), judgement=np.arange(len(raw)) // 2)
    planted = raw["sample_ix"].str.startswith("distractor_") | (raw["model"] == "distractor")
    planted |= raw["other_model"] == "distractor"
    raw = raw[~planted]
    return raw.assign(
        output=[" | ".join(map(str, row)) for row in raw[list(_OUTPUT)].itertuples(index=False)],
        other=[" | ".join(map(str, row)) for row in raw[list(_OTHER)].itertuples(index=False)],
    )


def hosking_judgements(frame: str) -> pd.DataFrame:
    """Pair judgements in a frame ("quality" or "checklist"): first, second (outputs as shown), pair, preference.

    `preference` is 1 where the first scored higher, -1 where lower, 0 for a tie; `pair` names the two outputs in an
    order of their own, and `swapped` says whether they were shown the other way round. Different people in each frame.
    """
    name, score = FRAMES[frame]
    rows = _outputs(name, (score,))
    first, second = rows.iloc[::2].reset_index(drop=True), rows.iloc[1::2].reset_index(drop=True)
    if len(first) != len(second) or (first["judgement"] != second["judgement"]).any():
        raise CandorError(f"Rows of {name} do not come in pairs: fetch it again.")
    found = pd.DataFrame({"first": first["output"], "second": second["output"]})
    found["swapped"] = found["first"] > found["second"]
    found["pair"] = np.where(
        found["swapped"], found["second"] + " / " + found["first"], found["first"] + " / " + found["second"]
    )
    return found.assign(preference=np.sign(first[score] - second[score]).astype(int))


def hosking_flags() -> pd.DataFrame:
    """A row a flag of an output: output, style (of `STYLES`), refusal, factuality, inconsistent (each 0 or 1)."""
    columns = ("refusal", "factuality", "inconsistent")
    rows = _outputs("hosking_errors", columns)
    rows = rows.assign(style=rows["preamble_type"].map(STYLES))
    return rows[["output", "style", *columns]].reset_index(drop=True)


def hosking_assertiveness() -> pd.Series:
    """Mean rated assertiveness (1-5) of every output, by `output`."""
    return _outputs("hosking_groupings", ("assertive",)).groupby("output")["assertive"].mean()

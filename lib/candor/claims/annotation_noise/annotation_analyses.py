"""Released annotations analysed, on a CPU in minutes: two frames, raters removed, votes on pairs."""

from __future__ import annotations

import pandas as pd

from candor.claims.annotation_noise import annotations, raters_removed, two_frames
from candor.core.settings import ROOT
from candor.core.step import Context

ANALYSES: dict[str, tuple[str, ...]] = {  # and the sets that they read
    "hosking": ("hosking_unbiased", "hosking_errors", "hosking_groupings"),
    "dices": ("dices_350", "dices_990"),
    "prism": ("prism",),
    "votes": ("multipref", "helpsteer3"),
}

# --- Data alone -------------------------------------------------------------------------------------


def hosking(context: Context) -> dict[str, pd.DataFrame]:
    """Agreement within and across two frames, slopes on rated assertiveness and mean flags, beside the derived values.

    Table recomputed: condition, style, metric, value, low, high (resampling pairs), n, published, difference (NaN where
    nothing was derived before; flag rates in percent).
    """
    judgements = {frame: annotations.hosking_judgements(frame) for frame in two_frames.FRAMES}
    assertive, flags = annotations.hosking_assertiveness(), annotations.hosking_flags()
    found = two_frames.recompute(judgements, assertive, flags, context.settings["resamples"])
    published = pd.concat(
        pd.read_csv(ROOT / "data" / "published" / f"annotation_{name}.csv") for name in ("agreement", "style")
    )
    published = published[published["location"] == "re-analysis of the released rows"]
    printed = published.fillna({"setting": "", "arm": ""}).rename(
        columns={"setting": "condition", "arm": "style", "value": "published"}
    )
    at = ["condition", "style", "metric"]
    found = found.merge(printed[[*at, "published"]], on=at, how="left")
    return {"recomputed": found.assign(difference=found["value"] - found["published"])}


def dices(context: Context) -> dict[str, pd.DataFrame]:
    """Majorities of DICES after removing inconsistent raters, beside random removals.

    Table removal: dataset, unsure ("own": a category of its own; "yes": counted as Yes), and the columns of
    `raters_removed.py: majority_table`.
    """
    found = []
    for i, name in enumerate(ANALYSES["dices"]):
        answers = annotations.dices(name)
        scores = raters_removed.safety_scores(answers)
        for unsure, labels in (("own", answers["label"]), ("yes", answers["label"].replace("Unsure", "Yes"))):
            votes, raters = raters_removed.ballots(answers["rater"], answers["item"], labels)
            table = raters_removed.majority_table(
                votes, scores.loc[raters], draws=context.settings["annotation_draws"], seed=context.seed
            )
            found.append(table.assign(dataset=name, unsure=unsure))
        context.progress(i + 1, len(ANALYSES["dices"]))
    return {"removal": pd.concat(found, ignore_index=True)}


def prism(context: Context) -> dict[str, pd.DataFrame]:
    """Mean scores of PRISM's models without inconsistent raters; table shift (`raters_removed: shift_table`)."""
    ratings = annotations.prism()
    scores = raters_removed.rating_scores(ratings)
    draws = context.settings["annotation_draws"]
    return {"shift": raters_removed.shift_table(ratings, scores, draws=draws, seed=context.seed)}


def vote_analysis(context: Context) -> dict[str, pd.DataFrame]:
    """Votes on pairs: tables votes (dataset, `raters_removed: vote_summary`) and disagreement (MultiPref's raters)."""
    multipref = annotations.multipref()
    summaries = [
        {"dataset": name} | raters_removed.vote_summary(part)
        for name, part in (("multipref", multipref), ("helpsteer3", annotations.helpsteer3()))
    ]
    return {"votes": pd.DataFrame(summaries), "disagreement": raters_removed.disagreement(multipref)}

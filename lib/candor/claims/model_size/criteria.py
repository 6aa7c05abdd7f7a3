"""What the size sweep looks at, declared before it ran: nine effects of claims 1, 5 and 6, and two preconditions.

No band: nobody published what these effects do with size. An effect is written so that it is above 0 where it goes the
claim's way. Its trend is a slope a seed, over the sizes that the seed was run at; it *grows* or *shrinks* where the
t-interval over seeds lies on one side of 0, and no trend is shown otherwise. It is *there* at a size where the
interval over seeds lies above 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from candor.claims.model_size import run as sizes
from candor.declare.expressions import Measure, Rows, criterion, select, wide
from candor.declare.ledger import REPORTED, Claim, Criterion, Part, Tables
from candor.measure.intervals import t_interval

FEWEST_SIZES = 3  # of a slope
CALIBRATED = 0.03  # ECE of a base's answer probability: claim 1, W2
PLATEAU = 0.02  # of the reward: the house's tolerance for step counts


@dataclass(frozen=True)
class Effect:
    """Measure of `arm` minus that of `other`, an arm on the same seed or a number; shares in points, where they are."""

    id: str
    claim: int
    measure: str
    arm: str
    other: str | float
    unit: str = ""

    @property
    def world(self) -> str:
        return "arithmetic" if self.claim == 6 else "witnesses"

    def at(self, tables: Tables, size: str) -> pd.Series:
        """The effect at a size, by seed. Raises: `NotRun` where it was not run."""
        rows = Rows(self.world, number=False, size=size)
        one = rows.where(arm=self.arm).column(self.measure)
        other = rows.where(arm=self.other).column(self.measure) if isinstance(self.other, str) else self.other
        return ((100 if self.unit == "points" else 1) * (one - other))(tables).dropna()

    def values(self, tables: Tables) -> pd.DataFrame:
        """A row a size and seed: size, seed, effect, parameters."""
        parameters = select(tables, self.world).groupby("size")["parameters"].first()
        found = {size: self.at(tables, size) for size in sizes.WIDTHS if size in parameters}
        table = pd.concat(found, names=["size", "seed"]).rename("effect").reset_index()
        return table.assign(parameters=table["size"].map(parameters))

    def slope(self, tables: Tables) -> pd.Series:
        """Change of the effect a fourfold size, by seed: least squares on log4 of the parameters."""
        seeds = self.values(tables).groupby("seed").filter(lambda rows: len(rows) >= FEWEST_SIZES).groupby("seed")
        slopes = {seed: np.polyfit(np.log(r["parameters"]) / np.log(4), r["effect"], 1)[0] for seed, r in seeds}
        return pd.Series(slopes, dtype=float)

    def largest(self, tables: Tables) -> pd.Series:
        """The effect at the largest size that several seeds were run at, by seed."""
        counts = self.values(tables).groupby("size", sort=False)["seed"].count()
        return self.at(tables, counts[counts > 1].index[-1])

    def trend(self, tables: Tables) -> str:
        """ "grows", "shrinks" or "shows no trend", and where the effect is there."""
        low, high = _interval(self.slope(tables))
        word = "grows" if low > 0 else "shrinks" if high < 0 else "shows no trend"
        several = self.values(tables).groupby("size")["effect"].agg(lambda values: _interval(values)[0]).dropna()
        return f"{word} with size; above 0 at {(several > 0).sum()} of {len(several)} sizes with several seeds"


def _interval(values: pd.Series) -> tuple[float, float]:
    return t_interval(values) if len(values) > 1 else (np.nan, np.nan)


SENTENCES = {
    "S1": "a binary reward sharpens answer probabilities past the truth",
    "S2": "a binary reward takes the stated confidence away from the truth",
    "S3": "a Brier term keeps the stated confidence nearer to the truth",
    "S4": "it improves calibration over the base",
    "S5": "it costs no accuracy",
    "S6": "a model's confidence ranks traces of one prompt",
    "S7": "training on that ranking raises accuracy",
    "S8": "because of the ranking",
    "S9": "it repairs the probabilities themselves",
}
EFFECTS = (
    Effect("S1", 1, "answer_ece", "rlvr", "shuffled_correct"),
    Effect("S2", 1, "q_mean_abs_posterior", "rlvr", "base"),
    Effect("S3", 5, "q_mean_abs_posterior", "rlvr", "rlcr"),
    Effect("S4", 5, "q_draw_brier", "base", "rlcr"),
    Effect("S5", 5, "accuracy_greedy", "rlcr", "rlvr", "points"),
    Effect("S6", 6, "within_auroc", "fluency", 0.5),
    Effect("S7", 6, "sampled_accuracy", "rlsf_fluency", "fluency", "points"),
    Effect("S8", 6, "sampled_accuracy", "rlsf_fluency", "fluency_shuffled", "points"),
    Effect("S9", 6, "fixed_ece", "fluency", "rlsf_fluency", "points"),
)


def _criterion(effect: Effect) -> Criterion:
    against = effect.other if isinstance(effect.other, str) else f"{effect.other:g}"
    return criterion(
        effect.id,
        f"claim {effect.claim}: {SENTENCES[effect.id]}",
        f"{effect.measure}, {effect.arm} minus {against}: change a fourfold size; the effect at the largest size",
        Measure(effect.slope, "change a fourfold size", effect.unit).reported,
        Measure(effect.largest, "largest size with several seeds", effect.unit).reported,
        note=effect.trend,
    )


def _worst_base(tables: Tables) -> pd.Series:
    """The largest ECE of the base's answer probability among the sizes, by seed."""
    return wide(tables, "witnesses", "answer_ece", "size", arm="base").max(axis=1)


def _rise(world: str, arm: str) -> Measure:
    """Largest change of the reward over the last quarter of training among the sizes, by seed."""

    def found(tables: Tables) -> pd.Series:
        end, before = (wide(tables, "training", when, "size", world=world, arm=arm) for when in ("end", "before"))
        change = end - before
        return change.apply(lambda sizes: sizes[sizes.abs().idxmax()], axis=1)

    return Measure(found, arm)


PRECONDITIONS = (
    criterion(
        "S0a",
        "the bases are calibrated at every size",
        "ECE of the probability of the greedy answer, 10 bins, the largest among the sizes",
        Measure(_worst_base, "base").at_most(CALIBRATED),
    ),
    criterion(
        "S0b",
        "training had reached its plateau at every size",
        "mean reward of the last quarter of training minus that of the quarter before, the largest among the sizes",
        *(_rise("witnesses", arm).within(PLATEAU) for arm in ("rlvr", "rlcr")),
        note="the number of steps is the house's at every size",
    ),
)


CLAIM = Claim(
    name="model_size",
    number=0,  # none of the published claims
    title="The effects against the size of the model",
    statement="Do the effects of claims 1, 5 and 6 grow, shrink or vanish with the size of the model?",
    paper="",
    citation="",
    criteria=(*PRECONDITIONS, *map(_criterion, EFFECTS)),
    parts=tuple(
        Part(f"claim {n}", "world", f"the central effects of claim {n}", tuple(e.id for e in EFFECTS if e.claim == n))
        for n in (1, 5, 6)
    ),
    overall=lambda verdict: (REPORTED, "no band was declared; the notes say what grows, shrinks or vanishes"),
    tables=("witnesses", "arithmetic", "training"),
)

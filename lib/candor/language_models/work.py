"""What a step of pretrained models makes them do, declared beside it: rows of tokens to sample, read or train on.

A `Step` names a function of the settings of pretrained models (`models` of a scale) and of the step itself, which
gives a list of `Work`. No function of a step is run for that: what it trains on depends on what a model wrote, and on
data that may not be here. `run/cost.py` makes operations, seconds and gigabytes of it.

Amounts that no setting fixes stand in `data/cost/amounts.csv`, each twice, as expected and at most. Here they are
arrays of two, so that whatever is made of them is told twice as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import pandas as pd

from candor.core.settings import ROOT, Config
from candor.core.step import Step

DATA = ROOT / "data" / "cost"
# Bytes a parameter: float32 weights and gradients, two moments of Adam and the bfloat16 copy that is computed with;
# float32 alone; bfloat16.
WHOLE, WIDE, COARSE = 18, 4, 2

Amount = float | np.ndarray  # one for both, or as expected and at most [2]


@dataclass(frozen=True)
class Work:
    """Rows of tokens that go through a model in one way.

    `kind`: "sample" (prompt, then `completion` tokens decoded), "read" (forward alone) or "train". `together` rows run
    in one pass (None: as many as fit), `group` neighbours share a prompt (0: it is cached). `rank`: of adapters that
    are trained; `weights`: bytes a parameter that are held, optimiser and gradients included; `beside`: other models in
    memory, with bytes a parameter. `logits`: positions of a row for which the head runs. `saves`: bytes a parameter
    that are kept afterwards, 0 for the adapters alone, None for nothing.
    """

    kind: str
    model: str
    rows: Amount
    prompt: Amount
    completion: Amount = 0.0
    together: int | None = 1
    group: int = 1
    rank: int = 0
    weights: int = COARSE
    beside: tuple[tuple[str, int], ...] = ()
    logits: Amount = 0.0
    saves: int | None = None


sample, read, train = (partial(Work, kind) for kind in ("sample", "read", "train"))


def nothing(models: Config, step: Step) -> list[Work]:
    """Data alone."""
    return []


def tuned(lora: Mapping | None) -> dict:
    """A model that is trained: with adapters beside frozen weights, or whole."""
    return {"rank": lora["rank"], "weights": COARSE} if lora is not None else {"weights": WHOLE}


def policy_gradient(
    model: str, recipe: Mapping, prompt: Amount, completion: Amount, *, beside=(), engine: str = ""
) -> list[Work]:
    """GRPO or RLOO: sample groups, train on them, and read them with the reference where there is a KL term."""
    group, lora = recipe["num_generations"], recipe["lora"]
    step = recipe["prompts_per_step"] * group
    rows = sample(model, recipe["steps"] * step, prompt, completion, step, group, beside=beside, **tuned(lora))
    part = replace(rows, kind="read", together=min(recipe["micro_batch"], step), logits=completion)
    reads = bool(recipe["beta"]) + (engine == "vllm")  # with vLLM the sampled tokens are read once more
    return [rows, replace(part, kind="train", saves=0 if lora is not None else WIDE), *[part] * reads]


@cache
def amounts() -> pd.DataFrame:
    """The rows of `data/cost/amounts.csv` by name: expected, at_most, unit, source."""
    return pd.read_csv(DATA / "amounts.csv", index_col="name")


@cache
def amount(name: str, limit: Amount = np.inf) -> np.ndarray:
    """An amount of `data/cost/amounts.csv` [expected, at most], cut at a limit of the settings."""
    return np.minimum(amounts().loc[name, ["expected", "at_most"]].to_numpy(float), limit)


def between(expected: float, at_most: float) -> np.ndarray:
    """An amount that the settings tell twice."""
    return np.array([min(expected, at_most), at_most], float)

"""The central arms of claims 1, 5 and 6 with smaller and larger decoders: a setting a size.

`witnesses/size_2m/rlcr` is `witnesses/expert/rlcr` with a decoder of two million parameters, and likewise
`arithmetic/size_2m/...` and `arithmetic/standard/...`; the size `size_130k` is those steps themselves. Between two
neighbours the width doubles, so that parameters grow fourfold; depth, data, seeds, numbers of steps and evaluation are
the same at every size. Learning rates go as 1 / width (Yang et al. 2022, Tensor Programs V, table 3: Adam's rate of a
hidden matrix goes as 1 / fan-in), and the spread of `arithmetic`'s first weights as 1 / root of the width.

A size runs on the seeds that the scale's `sizes` names for it: none, unless it does (`config/sweep.yaml`).
"""

from __future__ import annotations

import importlib
from dataclasses import replace

import pandas as pd

from candor.claims.self_feedback import run as arithmetic
from candor.core.settings import Config
from candor.core.step import Context, Step
from candor.witnesses import run as witnesses

HOUSE, HOUSE_WIDTH = "size_130k", 64
_SIZES = ("size_30k", HOUSE, "size_500k", "size_2m", "size_8m", "size_30m", "size_130m")
WIDTHS = {size: HOUSE_WIDTH * 2**k // 2 for k, size in enumerate(_SIZES)}
HOMES = {"witnesses": "expert", "arithmetic": "standard"}  # settings whose steps are made in other sizes
EVALUATED = {
    "witnesses": ("base", "rlvr", "rlcr", "shuffled_correct"),
    "arithmetic": ("base", "fluency", "rlsf_fluency", "fluency_shuffled"),
}
ARMS = {
    "witnesses": EVALUATED["witnesses"],
    "arithmetic": ("base", "fluency", "labels_fluency", "judge_fluency", "rlsf_fluency", "fluency_shuffled"),
}
# What the homes' steps show beside the measures that are compared here, and the setting that it takes.
_BESIDE = {
    **{"voting": "voting_questions", "shift": "shift_questions", "trajectory": "trajectory_questions"},
    **dict.fromkeys(("snapshots", "decoding", "traces")),
}
_LARGEST_HEAD = 64
_FIRST_WEIGHTS = "initializer_range"


def setting(world: str, size: str) -> str:
    """The setting of a world in which a size's steps are."""
    return HOMES[world] if size == HOUSE else size


def sized(context: Context) -> Context:
    """The context of the home's step of the same name, with the width of the step's size and the rates that go with it.

    Raises: `KeyError` for an unknown size.
    """
    world, size, name = context.step.key.split("/")
    width = WIDTHS[size]
    given = context.settings.to_dict()
    other = {"hidden_size": width, "heads": max(given.get("heads", 0), width // _LARGEST_HEAD)}
    other["mlp"] = given.get("mlp", 0) * width // HOUSE_WIDTH
    other |= {key: given[key] * HOUSE_WIDTH / width for key in given if key.endswith("_lr")}
    other[_FIRST_WEIGHTS] = given.get(_FIRST_WEIGHTS, 0) * (HOUSE_WIDTH / width) ** 0.5
    settings = given | {key: value for key, value in other.items() if key in given}
    step = replace(context.step, key=f"{world}/{HOMES[world]}/{name}")
    return replace(context, step=step, settings=Config(settings))


def parameters(world: str, size: str, config: Config) -> int:
    """Weights of a size's decoder: Qwen2's blocks with as many key-value heads as heads, tied embeddings."""
    given, width = config["world"][world], WIDTHS[size]
    mlp = given["mlp"] * width // HOUSE_WIDTH
    words = len({"witnesses": witnesses.world.VOCABULARY, "arithmetic": arithmetic.world.VOCABULARY}[world])
    attention = 4 * width**2 + 3 * width  # biases at queries, keys and values
    return words * width + given["layers"] * (attention + 3 * width * mlp + 2 * width) + width


def make(context: Context) -> dict[str, pd.DataFrame]:
    """What the home's step makes, in the size of this one."""
    module, function = context.step.uses[0].split(":")
    return getattr(importlib.import_module(module), function)(sized(context))


def _resized(home: Step, size: str) -> Step:
    world, _, name = home.key.split("/")

    def here(key: str) -> str:
        return f"{world}/{size}/{key.rsplit('/', 1)[1]}"

    return Step(
        f"{world}/{size}/{name}",
        "candor.claims.model_size.run:make",
        needs=tuple(here(key) for key in home.needs),
        options={key: value for key, value in home.options.items() if key not in _BESIDE},
        settings=tuple(key for key in home.settings if key not in _BESIDE.values()),
        uses=(home.make, *home.uses),
        seeds=size,
        trains=home.trains,
    )


def names(world: str) -> list[str]:
    """The steps of a size in a world, each after what it needs."""
    return [*ARMS[world], *(f"eval_{name}" for name in EVALUATED[world])]


STEPS: dict[str, Step] = {
    step.key: step
    for size in WIDTHS
    if size != HOUSE
    for world, module in (("witnesses", witnesses), ("arithmetic", arithmetic))
    for step in (_resized(module.STEPS[f"{world}/{HOMES[world]}/{name}"], size) for name in names(world))
}

"""Annotators whose answers are genuine, non-attitudes or constructed, asked under several conditions.

A *cell* is one annotator before one pair of completions. Its type is drawn from the annotator's mix (Dirichlet(8 x
shares)), or is the same in all cells of an annotator. An *occasion* is a frame (+ "which would you rather act on?",
- "which could mislead you less?"), an order (is the more confident completion shown first?) and a wave. A response is
coded as "chose the more confident completion", whatever the order: coded as first or second, the position bias would
average out and look like a class of its own.

Genuine judges verify the answer and value u = y - b (q - y)^2, the reward of claim 5; they settle on a side once, with
probability s(kappa du), and lapse on each occasion. Non-attitudes toss a coin that leans to the side shown first.
Constructed answers follow the frame and the gap of stated confidence, with the same lapses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import expit

TYPES = ("genuine", "non_attitude", "constructed")
GENUINE, NON_ATTITUDE, CONSTRUCTED = range(3)
FRAMES = (1, -1)
FIRST = (1, -1)  # the more confident completion is shown first, or second

KAPPA = 3.0  # steepness of genuine preferences
LAPSE = 0.05
POSITION = 0.10  # by which a non-attitude prefers what is shown first
CONCENTRATION = 8.0  # of the annotators' mixes around the shares
ANNOTATORS = 40


@dataclass(frozen=True)
class Setting:
    """A population of annotators.

    `shares` of the types. `second_frame`: how strongly frame - turns constructed answers round (1: as strongly as frame
    + pulls; 0: they become coins; -1: it moves nobody). `style_lovers`: share of genuine cells that prefer confidence
    itself. `b`: weight of calibration in the genuine utility. `one_type`: an annotator has one type in all cells.
    """

    shares: tuple[float, float, float] = (0.5, 0.25, 0.25)
    second_frame: float = 1.0
    style_lovers: float = 0.0
    b: float = 1.0
    one_type: bool = False


SETTINGS = {
    "main": Setting(),
    "strong": Setting(shares=(0.4, 0.2, 0.4)),
    "noise_only": Setting(shares=(0.6, 0.4, 0.0)),
    "quarter_noise": Setting(shares=(0.75, 0.25, 0.0)),
    "all_genuine": Setting(shares=(1.0, 0.0, 0.0)),
    "dead_frame": Setting(second_frame=-1.0),
    "half_frame": Setting(second_frame=0.5),
    "style_lovers": Setting(style_lovers=0.3),
    "no_penalty": Setting(b=0.0),
    "one_type": Setting(one_type=True),
}


# --- Exact values -----------------------------------------------------------------------------------


def utility(correct: ArrayLike, confidence: ArrayLike, b: float = 1.0) -> np.ndarray:
    """u = y - b (q - y)^2 of completions that are right (1) or wrong (0) and state `confidence`, elementwise.

    >>> float(utility(1, 0.5)), float(utility(0, 1.0))
    (0.75, -1.0)
    """
    y, q = np.asarray(correct, float), np.asarray(confidence, float)
    return y - b * (q - y) ** 2


def follows(setting: Setting = SETTINGS["main"]) -> np.ndarray:
    """P(a constructed answer is the more confident completion) in each of `FRAMES`, [2].

    >>> follows().round(2).tolist(), follows(SETTINGS["half_frame"]).round(3).tolist()
    ([0.95, 0.05], [0.95, 0.275])
    """
    strength = np.array([1.0, -setting.second_frame])
    return 0.5 + (0.5 - LAPSE) * strength


def label_probability(du: ArrayLike, dc: ArrayLike, shares: tuple[float, float, float], kappa: float = KAPPA):
    """P(the first completion is preferred) in frame + by a judge drawn from `shares`, elementwise.

    g s(kappa du) + n / 2 + c (.95 if dc > 0 else .05); completions of equal confidence give a constructed answer no cue
    and count 1/2. `du`, `dc`: gaps of utility and of stated confidence.

    >>> float(label_probability(0, 0.3, (0.5, 0.25, 0.25)).round(4))
    0.6125
    """
    g, n, c = shares
    cue = 0.5 + (0.5 - LAPSE) * np.sign(dc)
    return g * expit(kappa * np.asarray(du, float)) + n / 2 + c * cue


def preferences(du: ArrayLike, dc: ArrayLike, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """P(first preferred) by a genuine judge and by a production judge (frame +, any type), elementwise; no lapses.

    A genuine judge is a lover of confidence with the setting's probability. At equal confidence a lover is undecided.
    """
    g, n, c = setting.shares
    sign = np.sign(dc)
    genuine = (1 - setting.style_lovers) * expit(KAPPA * np.asarray(du, float))
    genuine = genuine + setting.style_lovers * (0.5 + 0.5 * sign)
    return genuine, g * genuine + n / 2 + c * (0.5 + (0.5 - LAPSE) * sign)


def flip_rates() -> pd.DataFrame:
    """How often two answers of a cell differ: columns type, condition, rate.

    Conditions: "order" (same frame, orders swapped), "frame" (other frame, same order). A lapse at one of two occasions
    is a flip: 2 x .05 x .95.
    """
    lapse = 2 * LAPSE * (1 - LAPSE)
    first = 0.5 + POSITION
    rates = {
        ("genuine", "order"): lapse,
        ("genuine", "frame"): lapse,
        ("non_attitude", "order"): first**2 + (1 - first) ** 2,
        ("non_attitude", "frame"): 2 * first * (1 - first),
        ("constructed", "order"): lapse,
        ("constructed", "frame"): 1 - lapse,
    }
    return pd.DataFrame([{"type": kind, "condition": when, "rate": rate} for (kind, when), rate in rates.items()])


# --- Draws ------------------------------------------------------------------------------------------


def draw_mixes(setting: Setting, rng: np.random.Generator, annotators: int = ANNOTATORS) -> np.ndarray:
    """The annotators' mixes of types [annotators, 3]; with one type each, as many of a type as its share says."""
    shares = np.array(setting.shares)
    if setting.one_type:
        upto = np.rint(shares.cumsum() * annotators).astype(int)
        return np.eye(3)[rng.permutation(np.searchsorted(upto, np.arange(annotators), side="right"))]
    present = shares > 0  # a Dirichlet distribution has no share of 0
    mixes = np.zeros((annotators, 3))
    mixes[:, present] = rng.dirichlet(CONCENTRATION * shares[present], annotators)
    return mixes


def draw_types(mixes: np.ndarray, annotator: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A type (0, 1, 2) for each cell, from the mix of its `annotator` [n]."""
    return (mixes[annotator].cumsum(1)[:, :2] <= rng.random((len(annotator), 1))).sum(1)


def draw_sides(du: np.ndarray, setting: Setting, rng: np.random.Generator) -> np.ndarray:
    """Which side genuine cells settle on: is it the more confident one? bool [n]. Lovers of confidence always do.

    `du` [n]: utility of the more confident completion minus that of the other.
    """
    side = rng.random(len(du)) < expit(KAPPA * du)
    return side | (rng.random(len(du)) < setting.style_lovers)


def respond(
    types: np.ndarray, sides: np.ndarray, setting: Setting, rng: np.random.Generator, waves: int = 1
) -> np.ndarray:
    """Responses of cells at every occasion: chose the more confident completion? bool [n, waves, 2 frames, 2 orders].

    `types` [n] as in `TYPES`, `sides` [n] bool: what the cell settles on if it is genuine.
    """
    genuine = np.where(sides, 1 - LAPSE, LAPSE)[:, None, None]
    coin = 0.5 + POSITION * np.array(FIRST)[None, None, :]
    constructed = follows(setting)[None, :, None]
    kinds = np.stack(np.broadcast_arrays(genuine, coin, constructed, np.zeros((1, 2, 2)))[:3], 1)  # [n, 3, 2, 2]
    p = kinds[np.arange(len(types)), types]
    return rng.random((len(types), waves, 2, 2)) < p[:, None]

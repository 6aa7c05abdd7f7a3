"""Pairs of completions, what a panel of judges says of them, and the comparisons that each arm makes of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from candor.claims.annotation_noise import judges, response_types
from candor.witnesses.evaluation import TENTHS

LABELLERS = 5  # a pair, for truth inference
_PURPOSES = ("pairs", "annotators", "many_pairs", "many_annotators", "policy", "labellers", "cells")


def stream(name: str, seed: int) -> np.random.Generator:
    """The random stream of a purpose: none of them shares a draw with another or with `witnesses.stream`."""
    return np.random.default_rng([11 + _PURPOSES.index(name), seed])


@dataclass(frozen=True)
class Pairs:
    """n pairs of completions of the base with different stated confidence, arrays [n, 2] over the two completions.

    `answer` (suspect), `tenths` (stated confidence, 0..10), `right`, `posterior` of the answer; `features` [n, 2, 2H]:
    the base's states at `<confidence>` and at the confidence token.
    """

    answer: np.ndarray
    tenths: np.ndarray
    right: np.ndarray
    posterior: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.answer)

    def __getitem__(self, index) -> Pairs:
        return Pairs(*(part[index] for part in self.__dict__.values()))

    @staticmethod
    def joined(parts: Sequence[Pairs]) -> Pairs:
        return Pairs(*(np.concatenate([getattr(p, name) for p in parts]) for name in Pairs.__dataclass_fields__))

    @property
    def more(self) -> np.ndarray:
        """Is the first completion the more confident one? [n]"""
        return self.tenths[:, 0] > self.tenths[:, 1]

    def utility_gap(self, b: float) -> np.ndarray:
        """Utility of the more confident completion minus that of the other, [n]."""
        u = judges.utility(self.right, TENTHS[self.tenths], b)
        return np.where(self.more, u[:, 0] - u[:, 1], u[:, 1] - u[:, 0])


@dataclass(frozen=True)
class Panel:
    """One cell a pair. `responses` [n, waves, 2 frames, 2 orders]: chose the more confident completion?"""

    annotator: np.ndarray
    types: np.ndarray
    responses: np.ndarray
    frame: np.ndarray  # of the one label under a random frame: 0 or 1
    order: np.ndarray  # of the production label: 0 or 1

    def label(self, frame: np.ndarray | int = 0) -> np.ndarray:
        """One label, random order; the production label is that of frame +."""
        return self.responses[np.arange(len(self.types)), 0, frame, self.order]

    @property
    def four(self) -> np.ndarray:
        """The four occasions of the measurement design [n, 4], in the order of `response_types.FOUR`."""
        return self.responses[:, 0].reshape(-1, 4)

    @property
    def shares(self) -> np.ndarray:
        """The true shares of the types."""
        return np.bincount(self.types, minlength=3) / len(self.types)


def ask_panel(gap: np.ndarray, setting: judges.Setting, rng: np.random.Generator, waves: int = 1) -> Panel:
    """A cell for each pair, given the utility `gap` [n] of the more confident completion."""
    n = len(gap)
    mixes = judges.draw_mixes(setting, rng)
    annotator = rng.integers(judges.ANNOTATORS, size=n)
    types = judges.draw_types(mixes, annotator, rng)
    responses = judges.respond(types, judges.draw_sides(gap, setting, rng), setting, rng, waves)
    return Panel(annotator, types, responses, rng.integers(2, size=n), rng.integers(2, size=n))


def inferred_truth(pairs: Pairs, setting: judges.Setting, rng: np.random.Generator) -> np.ndarray:
    """P(first preferred) [n] by Dawid and Skene from the production labels of five annotators a pair."""
    n = len(pairs)
    mixes = judges.draw_mixes(setting, rng)
    who = rng.random((n, judges.ANNOTATORS)).argpartition(LABELLERS, axis=1)[:, :LABELLERS]
    labels = np.empty((n, LABELLERS), bool)
    gap = pairs.utility_gap(setting.b)
    for k in range(LABELLERS):
        types = judges.draw_types(mixes, who[:, k], rng)
        said = judges.respond(types, judges.draw_sides(gap, setting, rng), setting, rng)[:, 0, 0]
        labels[:, k] = said[np.arange(n), rng.integers(2, size=n)] == pairs.more
    return response_types.dawid_skene(labels, who)[0]


@dataclass(frozen=True)
class Arm:
    """Comparisons to learn from: which pairs, P(first preferred), weights, and how many labels they took."""

    index: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    labels: int


ASKED = {"naive": 1, "rdpo": 1, "retest": 2, "frrand": 1, "dawid_skene": LABELLERS, "oracle": 1}  # labels a pair, or 4


def make_arm(name: str, pairs: Pairs, panel: Panel, fit: response_types.Fit, setting, seed: int) -> Arm:
    """The comparisons of an arm; nothing but the answers enters, save for `oracle`."""
    name, n = name.removesuffix("_4x"), len(pairs)
    several = {"retest": panel.responses[:, 0, 0], "frbal": panel.four}
    chose_more = several[name].mean(1) if name in several else panel.label(panel.frame if name == "frrand" else 0)
    label = np.where(pairs.more, chose_more, 1 - chose_more.astype(float)).astype(float)  # for the first one
    kept, weight = np.ones(n, bool), np.ones(n)
    if name == "rdpo":
        flip = fit.shares[1] / 2
        label = (label - flip) / (1 - 2 * flip)
    elif name == "dawid_skene":
        label = inferred_truth(pairs, setting, stream("labellers", seed))
    elif name == "weight":
        one_type = setting.one_type
        belief = response_types.by_annotator(fit, panel.four, panel.annotator) if one_type else fit.responsibilities
        weight = belief[:, judges.GENUINE]
    elif name == "dropN":
        kept = fit.types != judges.NON_ATTITUDE
    elif name in ("dropNC", "oracle"):
        kept = (panel if name == "oracle" else fit).types == judges.GENUINE
    elif name.startswith("filter"):
        _, kind, percent = name.split("_")
        rng = stream("labellers", seed)
        scores = rng.random(judges.ANNOTATORS) if kind == "random" else inconsistency(panel, kind == "frame")
        out = np.argsort(-scores, kind="stable")[: round(judges.ANNOTATORS * int(percent) / 100)]
        kept = ~np.isin(panel.annotator, out)
    return Arm(np.flatnonzero(kept), label[kept], weight[kept], ASKED.get(name, 4) * n)


def inconsistency(panel: Panel, across: bool) -> np.ndarray:
    """Share of flips of every annotator: between frames in the same order, or between orders in the same frame."""
    r = panel.responses[:, 0]
    flips = (r[:, 0] != r[:, 1]).mean(1) if across else (r[:, :, 0] != r[:, :, 1]).mean(1)
    n = np.bincount(panel.annotator, minlength=judges.ANNOTATORS)
    return np.bincount(panel.annotator, flips, judges.ANNOTATORS) / np.maximum(n, 1)

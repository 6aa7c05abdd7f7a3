"""Raters who compare two responses by what they deliver, and what preference optimisation makes of their choices.

A rater has a *reading*: an object among those consistent with the words, and the place as it was said, or drawn from
the habit. A delivery that equals the reading is worth +1, any other and a malformed response -1, and a response that
delivers nothing 0. With probability alpha the rater is *charitable*: any delivery consistent with what was said is
worth +1. No rater knows what a response without a delivery does: that it asks, or what for. Two variations see more:
who looks ahead rates the speaker's next turn in place of a turn without delivery, after the reply of a user who wants
the reading; who sees the reaction also finds out whether a delivery was the one that was meant. Averaging takes the
mean over several readings, coins and futures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from candor.claims.grounding_loss import world
from candor.claims.grounding_loss.world import NOTHING, Games, Speaker

DISCOUNT = 0.9  # of what comes a turn later
CLIP = 0.02  # of a win rate in the closed form: no sample of pairs shows a certainty


@dataclass(frozen=True)
class Rater:
    """How a rater scores: `charity` (the coin's probability), `looks_ahead`, `sees_reaction`, `readings` averaged."""

    charity: float
    looks_ahead: bool = False
    sees_reaction: bool = False
    readings: int = 1


RATERS = {
    "charity_0": Rater(0.0),
    "charity_3": Rater(0.3),
    "charity_6": Rater(0.6),
    "reaction_6": Rater(0.6, looks_ahead=True, sees_reaction=True),
    "lookahead_6": Rater(0.6, looks_ahead=True),
    "average_6": Rater(0.6, readings=8),
    "lookahead_average_6": Rater(0.6, looks_ahead=True, readings=8),
}


# --- One rating -------------------------------------------------------------------------------------


def readings(games: Games, rng: np.random.Generator) -> np.ndarray:
    """What a listener takes the words to mean: object and place [n, 2]."""
    colour = np.where(world.MEANING[games.word], rng.random((len(games), 4)), -1).argmax(1)
    place = np.where(games.said >= 0, games.said, world.draw_place(games.habit, games.usual, rng))
    return np.stack([4 * colour + games.kind, place], 1)


def rate(games: Games, delivered: np.ndarray, reading: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What deliveries [n, 2] are worth to a strict and to a charitable listener, [n] each: +1, -1, or 0 for nothing."""
    item, place = delivered.T
    exact = (delivered == reading).all(1)
    fits = (item >= 0) & (item % 4 == games.kind) & world.MEANING[games.word, item // 4]
    fits &= (games.said < 0) | (place == games.said)

    def worth(right):
        return np.where(item == NOTHING, 0, np.where(right, 1, -1))

    return worth(exact), worth(fits)


def intend(games: Games, reading: np.ndarray, rng: np.random.Generator) -> Games:
    """The same dialogues with a user who wants the reading [n, 2]; what is still to be said is drawn anew."""
    colour, place = reading[:, 0] // 4, reading[:, 1]
    final, names = world.remainder(colour, games.word, rng)
    return replace(games, colour=colour, place=place, final=final, names=names)


@dataclass(frozen=True)
class Ratings:
    """`n` responses under `k` readings, arrays [n, k]: worth now and a turn later, to a strict and a charitable rater.

    A turn later is what the speaker says after the user's reply to a response that delivers nothing (0 otherwise).
    """

    strict: np.ndarray
    charitable: np.ndarray
    next_strict: np.ndarray
    next_charitable: np.ndarray

    def score(self, coins: np.ndarray, rater: Rater) -> np.ndarray:
        """Scores [n] of the responses; charitable where uniform `coins` [n, k] fall below the charity."""
        k = rater.readings
        kind = coins[:, :k] < rater.charity
        now = np.where(kind & (not rater.sees_reaction), self.charitable[:, :k], self.strict[:, :k]).astype(float)
        if rater.looks_ahead:
            now += DISCOUNT * np.where(kind, self.next_charitable[:, :k], self.next_strict[:, :k])
        return now.mean(1)


def ratings(games: Games, responses: np.ndarray, reading: np.ndarray, speaker: Speaker | None, rng) -> Ratings:
    """Ratings of `responses` [n, 3] under the readings [n, k, 2]; `speaker` (None: nobody looks ahead) speaks next."""
    n, k = reading.shape[:2]
    delivered = world.read(responses)[1]
    flat = reading.reshape(n * k, 2)
    rows = np.repeat(np.arange(n), k)
    strict, charitable = rate(games[rows], delivered[rows], flat)
    later = np.zeros((2, n * k), int)
    waits = np.flatnonzero(delivered[rows, 0] == NOTHING)
    if speaker and len(waits):
        after = world.reply(intend(games[rows[waits]], flat[waits], rng), responses[rows[waits]])
        later[:, waits] = rate(after, world.read(speaker(after, rng))[1], flat[waits])
    return Ratings(*(part.reshape(n, k) for part in (strict, charitable, *later)))


# --- Closed form ------------------------------------------------------------------------------------


def act_wins(p, alpha: float):
    """P(act preferred to a delivery) where the delivery equals the reading with probability `p`.

    Examples
    --------
    >>> act_wins(0.5, 0.0)
    0.5
    """
    return (1 - alpha) * (1 - p)


def crossing(alpha: float) -> float:
    """The p above which acts lose more often than they win; at 0 or below they lose everywhere (alpha >= 1/2).

    Examples
    --------
    >>> crossing(0.0), crossing(0.5)
    (0.5, 0.0)
    """
    return (0.5 - alpha) / (1 - alpha) if alpha < 1 else -np.inf


def optimum(alpha: float, beta: float = 0.3) -> np.ndarray:
    r"""The policy [28, 3] at which DPO ends with the human as reference and pairs drawn from the human.

    In a context with an act and a delivery, the odds of the act are multiplied by :math:`(w / (1 - w))^{1/\beta}`,
    :math:`w = (1-\alpha)(1-p)` clipped to [.02, .98]; where two acts are admissible both get the factor.
    """
    w = np.clip(act_wins(world.READ, alpha), CLIP, 1 - CLIP)
    odds = world.HUMAN / (1 - world.HUMAN.sum(1, keepdims=True)) * ((w / (1 - w)) ** (1 / beta))[:, None]
    return odds / (1 + odds.sum(1, keepdims=True))

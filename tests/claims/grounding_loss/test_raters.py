"""Raters: what they see, how they score, what the closed form makes of it, held against the pilot's values."""

import doctest
from dataclasses import replace

import numpy as np
import pytest
from candor.claims.grounding_loss import raters, world

WINS = {
    **{"charity_6": 0.194, "lookahead_6": 0.194, "reaction_6": 0.478, "charity_0": 0.478, "charity_3": 0.336},
    **{"average_6": 0.02, "lookahead_average_6": 0.616},
}


@pytest.fixture(scope="module")
def pairs():
    """Pairs of different human responses at human turns, with their acts, under eight readings."""
    rng = np.random.default_rng(0)
    turns, _ = world.human_turns(30_000, rng)
    said = [world.human(turns, rng) for _ in range(2)]
    differ = (said[0] != said[1]).any(1)
    turns, said = turns[differ], [part[differ] for part in said]
    readings = np.stack([raters.readings(turns, rng) for _ in range(8)], 1)
    rated = [raters.ratings(turns, part, readings, world.human, rng) for part in said]
    return turns, said, readings, rated, rng.random((len(turns), 8))


# --- What a rater sees ------------------------------------------------------------------------------


def test_one_act_is_worth_as_much_as_another_now(pairs):
    turns, _, readings, _, _ = pairs
    games, seen = turns[:200], readings[:200]
    found = [
        raters.ratings(games, np.tile(act, (200, 1)), seen, None, None).strict.tolist() for act in world.ACT_RESPONSES
    ]
    assert found[0] == found[1] == found[2] == np.zeros((200, 8)).tolist()


def some(said=-1, word="bright"):
    turns, _ = world.human_turns(1, np.random.default_rng(0))
    games = turns[[0]]
    return replace(games, word=np.array([world.WORDS.index(word)]), kind=np.array([0]), said=np.array([said]))


@pytest.mark.parametrize(
    ("response", "said", "strict", "charitable"),
    [
        ("red-mug desk <eos>", -1, 1, 1),  # the reading
        ("green-mug desk <eos>", -1, -1, 1),  # as bright
        ("red-mug shelf <eos>", -1, -1, 1),  # the place was not said
        ("red-mug shelf <eos>", 0, -1, -1),  # it was
        ("blue-mug desk <eos>", -1, -1, -1),  # not bright
        ("red-key desk <eos>", -1, -1, -1),  # no mug
        ("red-mug desk desk", -1, -1, -1),  # malformed
        ("where ? <eos>", -1, 0, 0),
    ],
)
def test_deliveries_are_rated_as_specified(response, said, strict, charitable):
    delivered = world.read(np.array([[world.TOKEN[token] for token in response.split()]]))[1]
    reading = np.array([[world.OBJECTS.index("red-mug"), 0]])
    assert [int(part[0]) for part in raters.rate(some(said), delivered, reading)] == [strict, charitable]


def test_readings_are_what_the_words_allow():
    rng = np.random.default_rng(1)
    games = world.start(60_000, rng)
    item, place = raters.readings(games, rng).T
    assert (item % 4 == games.kind).all() and world.MEANING[games.word, item // 4].all()
    assert (place == games.said)[games.said >= 0].all()
    assert (place == games.usual)[(games.said < 0) & (games.habit == 0)].mean() == pytest.approx(0.94, abs=0.01)


def test_a_delivery_is_the_reading_as_often_as_the_theory_says(pairs):
    turns, said, _, rated, _ = pairs
    delivers = world.read(said[0])[0] < 0
    for p in np.unique(world.READ[turns.cell]):
        where = delivers & np.isclose(world.READ[turns.cell], p)
        if where.sum() > 300:
            assert (rated[0].strict[where] == 1).mean() == pytest.approx(p, abs=0.04)


def test_who_looks_ahead_sees_a_user_who_wants_the_reading(pairs):
    """After a follow-up at a plain request nothing is left open: the next delivery is the one that was read."""
    turns, said, _, rated, _ = pairs
    act = world.read(said[0])[0]
    plain = (act == world.FOLLOWUP) & (world.MEANING[turns.word].sum(1) == 1)
    assert set(np.unique(rated[0].next_strict[plain])) == {0, 1}
    assert rated[0].next_strict[plain].mean() > 0.98
    assert (rated[0].next_strict[act < 0] == 0).all()


def test_scores_put_the_parts_together():
    arrays = [np.array([row]) for row in ([1, -1, 0, 0], [1, 1, 0, 0], [0, 0, -1, 1], [0, 0, 1, 1])]
    rated = raters.Ratings(*(np.repeat(part, 2, axis=1) for part in arrays))
    coins = np.array([[0.5, 0.7] * 4])

    def score(**how):
        return rated.score(coins, raters.Rater(0.6, readings=8, **how))[0] * 8

    assert score() == pytest.approx(2 + (1 - 1))
    assert score(looks_ahead=True) == pytest.approx(2 + 0 + 0.9 * (1 - 1) + 0.9 * 2)
    assert score(sees_reaction=True) == pytest.approx(2 - 2)
    assert rated.score(coins, raters.Rater(0.6)) == [1]


# --- The closed form --------------------------------------------------------------------------------


def test_the_optimum_multiplies_the_odds():
    policy, human = raters.optimum(0.3, beta=0.5), world.HUMAN
    odds = [part / (1 - part.sum(1, keepdims=True)) for part in (policy, human)]
    for cell, p in enumerate(world.READ):
        w = np.clip(0.7 * (1 - p), 0.02, 0.98)
        assert odds[0][cell] == pytest.approx(odds[1][cell] * (w / (1 - w)) ** 2)
    assert world.exact(raters.optimum(0.6, beta=1e6))["followup_kappa"] == pytest.approx(
        world.exact(human)["followup_kappa"], abs=1e-4
    )


def test_acts_lose_beyond_the_crossing():
    for alpha in (0.0, 0.2, 0.3, 0.49):
        assert raters.act_wins(raters.crossing(alpha), alpha) == pytest.approx(0.5)
    assert raters.crossing(0.6) < 0


@pytest.mark.parametrize("name", WINS)
def test_acts_win_as_often_as_predicted(pairs, name):
    _, said, _, rated, coins = pairs
    difference = np.subtract(*(part.score(coins, raters.RATERS[name]) for part in rated))
    acts = [world.read(part)[0] >= 0 for part in said]
    against = (acts[0] != acts[1]) & (difference != 0)
    assert ((difference > 0) == acts[0])[against].mean() == pytest.approx(WINS[name], abs=0.03)


def test_the_examples_are_right():
    assert doctest.testmod(raters).failed == 0

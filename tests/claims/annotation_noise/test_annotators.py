"""Annotators: exact rates and probabilities against long-run frequencies, rivals, what a mix may be."""

import numpy as np
import pytest
from candor.claims.annotation_noise import judges as annotators
from candor.claims.annotation_noise.judges import SETTINGS, TYPES


def asked(kind, sides=None, setting="main", waves=1, n=40_000):
    """Answers [n, waves, frames, orders] of cells of one type."""
    sides = np.zeros(n, bool) if sides is None else sides
    return annotators.respond(np.full(n, kind), sides, SETTINGS[setting], np.random.default_rng(0), waves)


def test_flips_come_at_the_exact_rates():
    exact = annotators.flip_rates().set_index(["type", "condition"])["rate"]
    wanted = {"genuine": (0.095, 0.095), "non_attitude": (0.52, 0.48), "constructed": (0.095, 0.905)}
    for k, kind in enumerate(TYPES):
        assert (exact[kind, "order"], exact[kind, "frame"]) == pytest.approx(wanted[kind])
        answers = asked(k)[:, 0]
        assert (answers[:, 0, 0] != answers[:, 0, 1]).mean() == pytest.approx(exact[kind, "order"], abs=0.01)
        assert (answers[:, 0, 0] != answers[:, 1, 0]).mean() == pytest.approx(exact[kind, "frame"], abs=0.01)


@pytest.mark.parametrize(
    ("kind", "setting", "rates"),  # in each frame, or order
    [
        (1, "main", [0.6, 0.4]),
        *((2, s, [0.95, r]) for s, r in (("main", 0.05), ("half_frame", 0.275), ("dead_frame", 0.95))),
    ],
)
def test_coins_lean_to_what_is_shown_first_and_constructed_answers_follow_the_frame(kind, setting, rates):
    axes = (0, 1) if TYPES[kind] == "non_attitude" else (0, 2)
    assert asked(kind, setting=setting)[:, 0].mean(axes) == pytest.approx(rates, abs=0.01)


def test_genuine_cells_keep_their_side_over_waves_and_conditions():
    sides = np.arange(5000) % 2 == 0
    kept = asked(0, sides, waves=3, n=5000) == sides[:, None, None, None]
    assert kept.mean(0) == pytest.approx(np.full((3, 2, 2), 0.95), abs=0.02)


def test_the_label_probability_is_the_rate_of_production_labels():
    """Frame +, random order, with the lapses of genuine cells put back: .05 + .9 s."""
    rng, n = np.random.default_rng(1), 200_000
    setting, du = SETTINGS["main"], np.full(n, 0.4)
    types = rng.choice(3, n, p=setting.shares)
    answers = annotators.respond(types, annotators.draw_sides(du, setting, rng), setting, rng)[:, 0, 0]
    chosen = answers[np.arange(n), rng.integers(2, size=n)].mean()
    without, genuine = (annotators.label_probability(0.4, 1, shares) for shares in (setting.shares, (1, 0, 0)))
    assert chosen == pytest.approx(without + 0.5 * (0.05 + 0.9 * genuine - genuine), abs=0.005)


def test_preferences_of_the_two_sides_add_up_to_one():
    du, dc, shares = np.array([0.0, 0.7, -1.2]), np.array([0.0, -0.3, 0.5]), SETTINGS["strong"].shares
    one, other = annotators.label_probability(du, dc, shares), annotators.label_probability(-du, -dc, shares)
    assert one + other == pytest.approx(np.ones(3)) and one[0] == 0.5


def test_genuine_utility_is_the_reward_of_rlcr_and_lovers_settle_on_confidence():
    assert annotators.utility([1, 0, 1, 0], [1, 0, 0.3, 0.3]) == pytest.approx([1, 0, 1 - 0.49, -0.09])
    assert annotators.utility([1, 0], [0.3, 0.9], b=0.0).tolist() == [1, 0]
    sides = annotators.draw_sides(np.full(50_000, -10.0), SETTINGS["style_lovers"], np.random.default_rng(2))
    assert sides.mean() == pytest.approx(0.3, abs=0.01)


def test_mixes_scatter_around_the_shares_and_types_are_drawn_from_them():
    rng = np.random.default_rng(3)
    mixes = annotators.draw_mixes(SETTINGS["main"], rng, 20_000)
    assert mixes.sum(1) == pytest.approx(np.ones(20_000)) and mixes.mean(0) == pytest.approx(
        [0.5, 0.25, 0.25], abs=0.01
    )
    assert mixes[:, 0].var() == pytest.approx(0.25 / 9, rel=0.05)  # of a Dirichlet with 8 counts in all
    alone = annotators.draw_mixes(SETTINGS["all_genuine"], rng)
    assert alone == pytest.approx(np.tile([1.0, 0, 0], (40, 1))), "a share of zero is never drawn"
    whole = annotators.draw_mixes(SETTINGS["one_type"], rng)
    assert whole.sum(0).tolist() == [20, 10, 10] and set(np.unique(whole)) == {0, 1}
    two = np.array([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    types = annotators.draw_types(two, np.repeat([0, 1], 30_000), rng)
    assert np.bincount(types[:30_000]) / 30_000 == pytest.approx(two[0], abs=0.01) and (types[30_000:] == 1).all()

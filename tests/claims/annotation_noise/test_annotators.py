"""Annotators: exact rates and probabilities against long-run frequencies, rivals, what a mix may be."""

import numpy as np
import pytest
from candor.claims.annotation_noise import judges as annotators
from candor.claims.annotation_noise.judges import SETTINGS, TYPES


def asked(types, sides=None, setting="main", waves=1, seed=0):
    sides = np.zeros(len(types), bool) if sides is None else sides
    return annotators.respond(np.asarray(types), sides, SETTINGS[setting], np.random.default_rng(seed), waves)


def test_flips_come_at_the_exact_rates():
    exact = annotators.flip_rates().set_index(["type", "condition"])["rate"]
    wanted = {"genuine": (0.095, 0.095), "non_attitude": (0.52, 0.48), "constructed": (0.095, 0.905)}
    for k, kind in enumerate(TYPES):
        assert (exact[kind, "order"], exact[kind, "frame"]) == pytest.approx(wanted[kind])
        answers = asked(np.full(40_000, k))[:, 0]
        assert (answers[:, 0, 0] != answers[:, 0, 1]).mean() == pytest.approx(exact[kind, "order"], abs=0.01)
        assert (answers[:, 0, 0] != answers[:, 1, 0]).mean() == pytest.approx(exact[kind, "frame"], abs=0.01)


def test_genuine_cells_keep_their_side_over_waves_and_conditions():
    sides = np.arange(5000) % 2 == 0
    answers = asked(np.zeros(5000, int), sides, waves=3)
    assert answers.shape == (5000, 3, 2, 2)
    kept = (answers == sides[:, None, None, None]).mean((0,))
    assert kept == pytest.approx(np.full((3, 2, 2), 0.95), abs=0.02)


def test_non_attitudes_lean_to_what_is_shown_first():
    answers = asked(np.ones(40_000, int))[:, 0]
    assert answers.mean((0, 1)) == pytest.approx([0.6, 0.4], abs=0.01)


@pytest.mark.parametrize(("setting", "plus", "minus"), [("main", 0.95, 0.05), ("half_frame", 0.95, 0.275)])
def test_constructed_answers_follow_the_frame_as_far_as_it_goes(setting, plus, minus):
    answers = asked(np.full(40_000, 2), setting=setting)[:, 0]
    assert answers.mean((0, 2)) == pytest.approx([plus, minus], abs=0.01)


def test_a_dead_frame_moves_nobody():
    answers = asked(np.full(20_000, 2), setting="dead_frame")[:, 0]
    assert answers.mean((0, 2)) == pytest.approx([0.95, 0.95], abs=0.01)


def test_the_label_probability_is_the_rate_of_production_labels():
    """Frame +, random order, with the lapses of genuine cells put back: .05 + .9 s."""
    rng, n = np.random.default_rng(1), 200_000
    setting, du = SETTINGS["main"], np.full(n, 0.4)
    types = rng.choice(3, n, p=setting.shares)
    answers = annotators.respond(types, annotators.draw_sides(du, setting, rng), setting, rng)[:, 0, 0]
    chosen = answers[np.arange(n), rng.integers(2, size=n)].mean()
    without = annotators.label_probability(0.4, 1, setting.shares)
    genuine = annotators.label_probability(0.4, 1, (1, 0, 0))
    assert chosen == pytest.approx(without + 0.5 * (0.05 + 0.9 * genuine - genuine), abs=0.005)


def test_preferences_of_the_two_sides_add_up_to_one():
    du, dc = np.array([0.0, 0.7, -1.2]), np.array([0.0, -0.3, 0.5])
    shares = SETTINGS["strong"].shares
    both = annotators.label_probability(du, dc, shares) + annotators.label_probability(-du, -dc, shares)
    assert both == pytest.approx(np.ones(3))
    assert annotators.label_probability(0, 0, shares) == 0.5


def test_genuine_utility_is_the_reward_of_rlcr():
    assert annotators.utility([1, 0, 1, 0], [1, 0, 0.3, 0.3]) == pytest.approx([1, 0, 1 - 0.49, -0.09])
    assert annotators.utility([1, 0], [0.3, 0.9], b=0.0).tolist() == [1, 0]


def test_lovers_of_confidence_are_genuine_and_settle_on_it():
    rng, n = np.random.default_rng(2), 50_000
    sides = annotators.draw_sides(np.full(n, -10.0), SETTINGS["style_lovers"], rng)
    assert sides.mean() == pytest.approx(0.3, abs=0.01)


def test_mixes_scatter_around_the_shares():
    mixes = annotators.draw_mixes(SETTINGS["main"], np.random.default_rng(3), 20_000)
    assert mixes.sum(1) == pytest.approx(np.ones(20_000))
    assert mixes.mean(0) == pytest.approx([0.5, 0.25, 0.25], abs=0.01)
    assert mixes[:, 0].var() == pytest.approx(0.25 / 9, rel=0.05)  # of a Dirichlet with 8 counts in all


def test_a_share_of_zero_is_never_drawn():
    mixes = annotators.draw_mixes(SETTINGS["noise_only"], np.random.default_rng(4))
    types = annotators.draw_types(mixes, np.repeat(np.arange(40), 500), np.random.default_rng(4))
    assert set(types) == {0, 1}
    alone = annotators.draw_mixes(SETTINGS["all_genuine"], np.random.default_rng(4))
    assert alone == pytest.approx(np.tile([1.0, 0, 0], (40, 1)))


def test_one_type_an_annotator_in_the_shares_asked_for():
    mixes = annotators.draw_mixes(SETTINGS["one_type"], np.random.default_rng(5))
    assert mixes.sum(0).tolist() == [20, 10, 10]
    annotator = np.arange(4000) % 40
    types = annotators.draw_types(mixes, annotator, np.random.default_rng(6))
    assert (mixes[annotator, types] == 1).all()


def test_types_are_drawn_from_the_mix_of_the_annotator():
    mixes = np.array([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    types = annotators.draw_types(mixes, np.repeat([0, 1], 30_000), np.random.default_rng(7))
    assert np.bincount(types[:30_000]) / 30_000 == pytest.approx(mixes[0], abs=0.01)
    assert (types[30_000:] == 1).all()

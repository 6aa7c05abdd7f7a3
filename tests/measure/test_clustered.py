"""Measures of an act from sums over conversations, against the definitions over turns."""

import numpy as np
import pytest
from candor.measure import agreement, clustered


@pytest.fixture
def turns():
    rng = np.random.default_rng(3)
    human = rng.random(600) < 0.3
    model = np.where(rng.random(600) < 0.5, human, rng.random(600) < 0.2)
    return human, model, np.repeat(np.arange(40), 15)


def test_sums_give_what_the_definitions_over_turns_give(turns):
    human, model, conversations = turns
    found = clustered.act_measures(clustered.act_sums(human, model, conversations).sum(0))
    assert found["kappa"] == pytest.approx(agreement.kappa(human, model))
    assert found["kappa_max"] == pytest.approx(agreement.kappa_max(human.mean(), model.mean()))
    assert found["kappa_share"] == pytest.approx(found["kappa"] / found["kappa_max"])
    assert found["recall"] == pytest.approx(agreement.recall(human, model))
    assert found["precision"] == pytest.approx(agreement.precision(human, model))
    assert (found["human_rate"], found["rate"]) == (human.mean(), pytest.approx(model.mean()))


def test_probabilities_of_an_act_are_allowed(turns):
    human, _, conversations = turns
    share = np.random.default_rng(4).random(600)
    found = clustered.act_measures(clustered.act_sums(human, share, conversations).sum(0))
    assert found["kappa"] == pytest.approx(agreement.kappa(human, share))


def test_a_weighting_of_conversations_is_a_resample_of_their_turns(turns):
    human, model, conversations = turns
    draws = clustered.weights(40, 5, seed=1)
    assert (draws.sum(1) == 40).all()
    resampled = clustered.act_measures(draws @ clustered.act_sums(human, model, conversations))
    for draw, kappa in zip(draws, resampled["kappa"]):
        chosen = np.concatenate([np.repeat(np.flatnonzero(conversations == c), n) for c, n in enumerate(draw)])
        assert kappa == pytest.approx(agreement.kappa(human[chosen], model[chosen]))


def test_conversations_are_resampled_not_turns():
    # Every turn of a conversation is the same: there are 20 observations, not 2,000.
    act = np.repeat(np.arange(20) % 2, 100)
    sums = clustered.act_sums(act, act, np.repeat(np.arange(20), 100))
    low, high = clustered.interval(clustered.act_measures(clustered.weights(20, 2000) @ sums)["rate"])
    assert low < 0.35 and high > 0.65


def test_measures_that_mean_nothing_are_not_numbers():
    nobody = clustered.act_measures(clustered.act_sums([0, 0], [0, 0], [0, 1]).sum(0))
    assert np.isnan([nobody["kappa"], nobody["recall"], nobody["precision"]]).all()
    silent = clustered.act_measures(clustered.act_sums([1, 0], [0, 0], [0, 1]).sum(0))
    assert silent["kappa"] == 0 and np.isnan(silent["precision"]) and silent["recall"] == 0
    assert silent["kappa_max"] == 0 and np.isnan(silent["kappa_share"])
    assert np.isnan(clustered.interval(np.array([np.nan]))).all()


@pytest.mark.parametrize("sums", [[2, 3, 1, 1], [4, 2, 2, 3], [4, 3, 3, 1], [0, 0, 0, 0]])
def test_sums_that_no_turns_have_are_refused(sums):
    with pytest.raises(ValueError, match="sums must be turns"):
        clustered.act_measures(sums)


@pytest.mark.parametrize("sums", [[1, 1, 1, 1], [1000, 500, 500, 500.0005]])  # one turn; a rounding error
def test_sums_that_turns_have_are_taken(sums):
    assert clustered.act_measures(sums)["recall"] == pytest.approx(1, abs=1e-5)


def test_two_conversations_can_be_drawn_again_and_one_cannot():
    assert clustered.weights(2, 3).shape == (3, 2)
    with pytest.raises(ValueError, match="conversations must be whole and lie in "):
        clustered.weights(1, 3)

"""Agreement against scikit-learn on observed acts, and against simulation on probabilities."""

import math

import numpy as np
import pytest
from candor.measure import agreement
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score

pairs = st.integers(2, 60).flatmap(
    lambda n: st.tuples(*(arrays(np.int8, n, elements=st.integers(0, 1)) for _ in range(2)))
)


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_on_observed_acts_it_is_the_usual_kappa(pair):
    human, model = pair
    found = agreement.kappa(human, model)
    if len(np.unique(np.concatenate(pair))) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(cohen_kappa_score(human, model))
    if human.any():
        assert agreement.recall(human, model) == pytest.approx(recall_score(human, model))
    if model.any():
        assert agreement.precision(human, model) == pytest.approx(precision_score(human, model))


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_no_pair_exceeds_what_its_rates_allow(pair):
    human, model = pair
    if len(np.unique(np.concatenate(pair))) == 2:
        assert agreement.kappa(human, model) <= agreement.kappa_max(human.mean(), model.mean()) + 1e-12


@pytest.mark.parametrize(("h", "m"), [(0.28, 0.11), (0.1, 0.4), (0.3, 0.3)])
def test_the_bound_is_reached_where_one_speaker_acts_among_the_others_acts(h, m):
    turns = np.arange(1000) / 1000
    found = agreement.kappa((turns < h).astype(int), (turns < m).astype(int))
    assert found == pytest.approx(agreement.kappa_max(h, m))
    assert agreement.kappa_max(h, m) == pytest.approx(1 - abs(h - m) / (h + m - 2 * h * m))


def test_probabilities_give_the_kappa_of_independent_draws():
    rng = np.random.default_rng(0)
    human = rng.beta(0.3, 0.9, 400)
    model = np.clip(human + rng.normal(0, 0.2, 400), 0, 1)
    turns = np.repeat(np.arange(400), 1500)
    drawn = [rng.random(len(turns)) < p[turns] for p in (human, model)]
    assert agreement.kappa(human, model) == pytest.approx(cohen_kappa_score(*drawn), abs=0.01)
    assert agreement.recall(human, model) == pytest.approx(recall_score(*drawn), abs=0.01)
    assert agreement.precision(human, model) == pytest.approx(precision_score(*drawn), abs=0.01)


def test_weights_stand_for_repeated_turns():
    human, model, times = [0.9, 0.2, 0.0], [0.5, 0.4, 0.1], [3, 1, 2]
    repeated = np.repeat(human, times), np.repeat(model, times)
    for measure in (agreement.kappa, agreement.recall, agreement.precision):
        assert measure(human, model, times) == pytest.approx(measure(*repeated))


def test_a_speaker_who_never_acts_is_at_zero_and_two_are_undefined():
    assert agreement.kappa([0.2, 0.6], [0, 0]) == 0
    assert math.isnan(agreement.kappa([0, 0], [0, 0]))
    assert math.isnan(agreement.precision([0.2, 0.6], [0, 0]))
    assert math.isnan(agreement.recall([0, 0], [0.2, 0.6]))


def test_rounding_makes_no_disagreement():
    nearly = [1 - 2**-53, 1 - 2**-53]
    assert math.isnan(agreement.kappa(nearly, nearly)) and math.isnan(agreement.kappa_max(1e-20, 0))


@pytest.mark.parametrize("together", [0.3, 0.0])
def test_rates_that_no_speakers_have_are_refused(together):
    with pytest.raises(ValueError, match="together must be a share"):
        agreement.kappa_of(0.2, 0.9, together)
    assert agreement.kappa_of([0.2, 0.2], [0.9, 0.9], [0.2, 0.1])[1] == agreement.kappa_of(0.2, 0.9, 0.1)

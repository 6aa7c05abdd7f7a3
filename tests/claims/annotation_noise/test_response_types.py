"""Types from repeated answers: EM against a known truth, what one frame cannot tell, cross-checks."""

import numpy as np
import pytest
from candor.claims.annotation_noise import judges as annotators
from candor.claims.annotation_noise import response_types as types_of
from candor.claims.annotation_noise.judges import SETTINGS


@pytest.fixture(scope="module")
def cells():
    rng, n = np.random.default_rng(0), 8000
    mixes = annotators.draw_mixes(SETTINGS["main"], rng)
    types = annotators.draw_types(mixes, rng.integers(40, size=n), rng)
    sides = annotators.draw_sides(rng.normal(0, 0.5, n), SETTINGS["main"], rng)
    return types, annotators.respond(types, sides, SETTINGS["main"], rng, waves=2)


def true_shares(types):
    return np.bincount(types, minlength=3) / len(types)


@pytest.mark.parametrize("design", types_of.DESIGNS.values())
@pytest.mark.parametrize("style_known", [True, False])
def test_cell_probabilities_add_up_to_one(design, style_known):
    p = types_of.cell_probabilities(types_of.AT, design, style_known)
    assert p.shape == (2 ** len(design),)
    assert p.min() > 0
    assert p.sum() == pytest.approx(1)


def test_cell_probabilities_are_the_frequencies_of_answers(cells):
    types, answers = cells
    fit = types_of.em(answers[:, 0].reshape(-1, 4))
    p = dict(zip(types_of.PARAMETERS, (*fit.shares[:2], fit.mixing, fit.lapse, fit.bias)))
    index = answers[:, 0].reshape(-1, 4) @ np.array([8, 4, 2, 1])
    frequencies = np.bincount(index, minlength=16) / len(types)
    assert types_of.cell_probabilities(p, types_of.FOUR) == pytest.approx(frequencies, abs=0.01)


def test_em_finds_shares_and_types(cells):
    types, answers = cells
    four, eight = (
        types_of.em(answers[:, :w].reshape(len(types), -1), design)
        for w, design in ((1, types_of.FOUR), (2, types_of.EIGHT))
    )
    for fit in (four, eight):
        assert fit.shares == pytest.approx(true_shares(types), abs=0.03)
        assert (fit.lapse, fit.bias) == pytest.approx((0.05, 0.1), abs=0.03)
        assert fit.responsibilities.sum(1) == pytest.approx(np.ones(len(types)))
    assert 0.78 < (four.types == types).mean() < 0.87
    assert (eight.types == types).mean() > 0.9
    assert fit.shares == pytest.approx(eight.responsibilities.mean(0), abs=1e-3)


def test_one_frame_leaves_a_ridge_and_two_do_not(cells):
    _, answers = cells
    one = [types_of.retest_em(answers[:, :, 0].reshape(-1, 4), start) for start in types_of.STARTS]
    two = [types_of.em(answers[:, 0].reshape(-1, 4), start=start) for start in types_of.STARTS]
    for fits, apart in ((one, True), (two, False)):
        assert np.ptp([fit.log_likelihood for fit in fits]) < 0.01
        assert (np.ptp([fit.shares[0] for fit in fits]) > 0.3) == apart
    assert np.ptp([fit.shares[1] for fit in one]) < 0.01  # non-attitudes show without a second frame


def test_two_parameter_sets_give_the_same_retest_cells():
    """G+ and C answer alike in one frame: what is taken from one can be given to the other."""
    one = types_of.AT
    genuine = 0.4
    mixing = (one["genuine"] * one["mixing"] - 0.1) / genuine
    other = one | {"genuine": genuine, "mixing": mixing}
    for name in ("one frame x 2 orders", "one frame x 2 orders x 2 waves"):
        design = types_of.DESIGNS[name]
        assert types_of.cell_probabilities(one, design) == pytest.approx(types_of.cell_probabilities(other, design))
    assert np.abs(np.subtract(*(types_of.cell_probabilities(p, types_of.FOUR) for p in (one, other)))).max() > 0.01


@pytest.mark.parametrize(
    ("function", "given", "sentence"),
    [
        (types_of.em, (np.zeros((10, 3), int),), "design has 4 occasions, but responses has 3"),
        (types_of.em, (np.zeros((10, 4)), types_of.FOUR, (0.5, 0.5, 0.5)), "start must add up to 1"),
        (types_of.agreement_of, (0.5, 0.5, 0.5), "g, n and c must add up to 1"),
    ],
)
def test_nonsense_that_is_in_no_single_argument_is_refused(function, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        function(*given)
    with pytest.raises(ValueError, match="at must give every pattern"):
        types_of.rank(types_of.FOUR, at=types_of.AT | {"lapse": 0, "bias": 0.5})


def test_stepmix_finds_the_same_classes_unaided(cells):
    types, answers = cells
    found = types_of.stepmix(answers.reshape(-1, 8), 4, starts=2)
    assert found.shares == pytest.approx(true_shares(types), abs=0.02)
    constrained = types_of.em(answers.reshape(-1, 8), types_of.EIGHT)
    assert 0 < found.log_likelihood - constrained.log_likelihood < 60


def test_annotators_with_one_type_are_told_apart_by_all_their_cells():
    rng = np.random.default_rng(1)
    setting = SETTINGS["one_type"]
    annotator = np.arange(4000) % 40
    types = annotators.draw_types(annotators.draw_mixes(setting, rng), annotator, rng)
    sides = rng.random(4000) < 0.5
    answers = annotators.respond(types, sides, setting, rng)[:, 0].reshape(-1, 4)
    fit = types_of.em(answers)
    belief = types_of.by_annotator(fit, answers, annotator)
    assert (belief.argmax(1) == types).all()
    assert belief.sum(1) == pytest.approx(np.ones(4000))


def test_dawid_skene_trusts_who_agrees():
    """Two careful annotators against three coins: the majority is wrong more often."""
    rng, n = np.random.default_rng(2), 4000
    truth = rng.integers(2, size=n)
    careful = np.where(rng.random((n, 2)) < 0.95, truth[:, None], 1 - truth[:, None])
    labels = np.concatenate([careful, rng.integers(2, size=(n, 3))], 1)
    belief, confusion = types_of.dawid_skene(labels, np.tile(np.arange(5), (n, 1)))
    majority = labels.mean(1) > 0.5
    assert ((belief > 0.5) == truth).mean() > (majority == truth).mean() + 0.05
    assert confusion[:2, 1, 1] == pytest.approx([0.95, 0.95], abs=0.02)
    assert confusion[2:, 1, 1] == pytest.approx([0.5] * 3, abs=0.05)

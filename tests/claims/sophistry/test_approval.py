"""Approval of outputs: rates against counting, identities, and the slopes against the exact tilt."""

import numpy as np
import pytest
from candor.claims.sophistry import approval

RNG = np.random.default_rng(0)


def test_rates_are_what_counting_gives():
    verdict, correct = RNG.random(500) < 0.4, RNG.random(500) < 0.3
    found = approval.rates(verdict, correct)
    assert found["error"] == pytest.approx((verdict != correct).mean())
    assert found["fpr"] == pytest.approx(verdict[~correct].mean())
    assert found["tpr"] == pytest.approx(verdict[correct].mean())
    assert found["discrimination"] == pytest.approx(found["tpr"] - found["fpr"])
    assert (found["approval"], found["correctness"]) == pytest.approx((verdict.mean(), correct.mean()))


def test_evaluators_are_averaged_and_weights_count_like_copies():
    verdicts, correct = RNG.random((4, 60)), RNG.random(60) < 0.5
    assert approval.rates(verdicts, correct) == pytest.approx(approval.rates(verdicts.mean(0), correct))
    times = RNG.integers(0, 4, 60)
    copies = np.repeat(np.arange(60), times)
    assert approval.rates(verdicts, correct, times) == pytest.approx(
        approval.rates(verdicts[:, copies], correct[copies])
    )


def test_a_rate_without_outputs_is_not_a_number():
    assert np.isnan(approval.rates([1, 0], [1, 1])["fpr"]) and np.isnan(approval.rates([1, 0], [0, 0])["tpr"])


def test_three_numbers_say_what_the_verdicts_say():
    verdict, correct = RNG.random(400), RNG.random(400) < 0.6
    found = approval.rates(verdict, correct)
    given = (found[name] for name in ("approval", "error", "correctness"))
    assert approval.from_three_numbers(*given) == pytest.approx((found["tpr"], found["fpr"]))


@pytest.mark.parametrize("bad", [(0.5, 0.4, 1.0), (0.9, 0.1, 0.2), (0.1, 0.1, 0.9)])
def test_impossible_triples_are_refused(bad):
    with pytest.raises(ValueError):
        approval.from_three_numbers(*bad)


def test_who_rejects_everything_errs_on_what_is_right():
    assert approval.rejecting_all(0.2) == approval.rates(np.zeros(10), np.arange(10) < 2)["error"]


def test_a_pass_rate_within_rounding_of_an_edge_lies_on_it():
    for dtype in (np.float16, np.float32, np.float64):
        _, n = approval.by_pass_rate(np.ones(5), np.array(approval.PASS_RATES, dtype))
        assert n.tolist() == [0, 1, 1, 1, 1, 1]
    assert approval.by_pass_rate([], [])[1].tolist() == [0] * 6
    with pytest.raises(ValueError, match="edges must rise"):
        approval.by_pass_rate([1], [0.5], edges=(0.5, 0.5))


def test_weights_of_any_size_are_weights():
    tiny = approval.rates([1, 0, 1], [1, 0, 0], [1e-14, 2e-14, 3e-14])
    assert tiny == pytest.approx(approval.rates([1, 0, 1], [1, 0, 0], [1, 2, 3]))


def test_moving_between_bins_is_no_change_at_equal_pass_rate():
    curve = np.array([0.0, 0.2, 0.4, 0.5, 0.6, 0.9])
    middles = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    before, after = RNG.integers(0, 3, 800), RNG.integers(2, 6, 800)
    found = approval.equal_pass_rate(curve[before], middles[before], curve[after], middles[after])
    assert found == pytest.approx(0) and (curve[after].mean() - curve[before].mean()) > 0.2
    lifted = approval.equal_pass_rate(curve[before], middles[before], curve[after] + 0.07, middles[after])
    assert lifted == pytest.approx(0.07), "only the bin that both have counts, and it is lifted"
    assert np.isnan(approval.equal_pass_rate([1], [0.1], [1], [0.9]))


def test_slopes_are_the_derivatives_of_the_tilt():
    """A tabular policy of 4 prompts x 6 outputs, all outputs enumerated: finite differences of the exact tilt."""
    prompts, outputs, copies = 4, 6, 400
    approved, correct = RNG.random((prompts, outputs)), RNG.random((prompts, outputs)) < 0.4
    reward = RNG.random((prompts, outputs))

    def value(t):
        policy = np.exp(t * reward)
        policy /= policy.sum(1, keepdims=True)
        return approval.rates(approved.ravel(), correct.ravel(), policy.ravel())

    # The same outputs many times: the unbiased covariance tends to that of the policy.
    flat = [np.tile(part, (1, copies)).ravel() for part in (approved, correct, reward)]
    found = approval.slopes(*flat, np.repeat(np.arange(prompts), outputs * copies))
    for name in approval.QUANTITIES:
        assert found[name] == pytest.approx((value(1e-5)[name] - value(-1e-5)[name]) / 2e-5, rel=2e-3)


def test_what_separates_prompts_has_no_slope():
    prompt = np.repeat(np.arange(2), 4)
    found = approval.slopes(prompt, prompt, prompt, prompt)  # constant within each prompt
    assert found["approval"] == found["correctness"] == found["error"] == 0
    with pytest.raises(ValueError, match="two samples"):
        approval.slopes([1, 0], [1, 0], [1, 0], [0, 1])

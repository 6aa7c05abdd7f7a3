"""The evaluation of an arm against loops over single questions, on random joints and on ones solved by hand."""

import numpy as np
import pandas as pd
import pytest
from candor.measure import calibration as cal
from candor.witnesses import evaluation as ev
from candor.witnesses import world
from candor.witnesses.joint import Joint
from numerics import ROUNDING

N = 600


@pytest.fixture(scope="module")
def asked():
    """Questions, their posterior, and a noisy joint that has something to do with them."""
    rng = np.random.default_rng(0)
    questions, exact = ev.questions_and_posterior(N, 7001)
    logits = 1.7 * np.log(exact + 1e-3) + rng.normal(0, 0.5, exact.shape)
    answers = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence = rng.dirichlet(np.ones(11), (N, 8)).astype(np.float32)
    idk = rng.uniform(0, 1, N) * (1 - exact.max(1))
    return questions, exact, Joint(answers, confidence, idk, idk / 2)


@pytest.fixture(scope="module")
def table(asked):
    questions, exact, joint = asked
    return ev.answers_table(joint, questions, exact, np.random.default_rng(1))


def test_the_table_question_by_question(asked, table):
    questions, exact, joint = asked
    for i, row in enumerate(table.itertuples()):
        answer = max(range(8), key=lambda k: joint.answers[i, k])
        assert row.answer == answer and row.answer_prob == pytest.approx(joint.answers[i, answer])
        assert row.truth == questions.guilty[i] and row.correct == (answer == questions.guilty[i])
        assert row.posterior == exact[i, answer] and row.posterior_max == max(exact[i])
        assert row.bayes == max(range(8), key=lambda k: exact[i, k])
        assert row.prob_truth == joint.answers[i, questions.guilty[i]]
        assert row.posterior_drawn == exact[i, row.answer_drawn]
        assert row.correct_drawn == (row.answer_drawn == questions.guilty[i])
        stated = joint.confidence[i, answer].astype(float)
        assert row.q_mean == pytest.approx(sum(p * k / 10 for k, p in enumerate(stated)), abs=ROUNDING)
        assert row.q_mode == max(range(11), key=lambda k: stated[k]) / 10
        assert row.q_draw * 10 in range(11)


def test_draws_follow_the_joint(asked):
    _, exact, joint = asked
    one = Joint(*(np.repeat(part[:1], 40_000, 0) for part in (joint.answers, joint.confidence, joint.idk, joint.idk)))
    questions = world.sample_questions(40_000, np.random.default_rng(2))
    table = ev.answers_table(one, questions, np.repeat(exact[:1], 40_000, 0), np.random.default_rng(3))
    np.testing.assert_allclose(np.bincount(table["answer_drawn"], minlength=8) / 40_000, joint.answers[0], atol=0.012)

    def shares(values):
        return np.bincount(np.rint(values * 10).astype(int), minlength=11) / len(values)

    greedy = joint.answers[0].argmax()
    np.testing.assert_allclose(shares(table["q_draw"]), joint.confidence[0, greedy], atol=0.012)
    np.testing.assert_allclose(
        shares(table["confidence_drawn"]), joint.answers[0] @ joint.confidence[0].astype(float), atol=0.012
    )


def naive_ece(q, right):
    total = 0.0
    for k in range(10):
        inside = [i for i, value in enumerate(q) if min(int(round(value * 1e5) / 1e4), 9) == k]
        if inside:
            total += abs(sum(q[i] for i in inside) - sum(right[i] for i in inside))
    return total / len(q)


def test_summary(asked, table):
    _, exact, _ = asked
    row = ev.summary(table, exact)
    right = table["correct"].to_numpy(float)
    assert row["n"] == N and row["accuracy_greedy"] == right.mean()
    assert row["accuracy_sampled"] == pytest.approx(table["prob_truth"].mean())
    bayes = (table["bayes"] == table["truth"]).to_numpy(float)
    assert row["bayes_accuracy"] == bayes.mean()
    assert row["bayes_brier"] == pytest.approx(((exact.max(1) - bayes) ** 2).mean())
    assert row["answer_ece"] == pytest.approx(naive_ece(table["answer_prob"], right))
    assert row["answer_brier"] == pytest.approx(((table["answer_prob"] - right) ** 2).mean())
    assert row["answer_abs_posterior"] == pytest.approx((table["answer_prob"] - table["posterior"]).abs().mean())
    assert row["answer_saturated"] == (table["answer_prob"] > 0.999).mean()
    for name in ("q_mean", "q_draw", "q_mode"):
        q = table[name].to_numpy()
        assert row[f"{name}_mean"] == pytest.approx(q.mean())
        assert row[f"{name}_ece"] == pytest.approx(naive_ece(q, right))
        assert row[f"{name}_brier"] == pytest.approx(((q - right) ** 2).mean())
        assert row[f"{name}_gap"] == pytest.approx(q.mean() - right.mean())
        assert row[f"{name}_abs_posterior"] == pytest.approx(np.abs(q - table["posterior"]).mean())
        above = np.subtract.outer(q[right == 1], q[right == 0])
        assert row[f"{name}_auroc"] == pytest.approx((above > 0).mean() + (above == 0).mean() / 2)
        assert row[f"{name}_ece_low"] < row[f"{name}_ece_high"]
    assert row["sampled_confidence"] == table["confidence_drawn"].mean()
    assert row["sampled_gap"] == pytest.approx(table["confidence_drawn"].mean() - table["prob_truth"].mean())
    drawn = table["confidence_drawn"].to_numpy(), table["correct_drawn"].to_numpy(float)
    assert row["sampled_ece"] == pytest.approx(naive_ece(*drawn))
    assert row["sampled_brier"] == pytest.approx(((drawn[0] - drawn[1]) ** 2).mean())
    assert row["skill_own"] == pytest.approx(1 - row["q_mean_brier"] / (right.mean() * (1 - right.mean())))
    assert row["q_mean_extreme"] == ((table["q_mean"] < 0.1) | (table["q_mean"] > 0.9)).mean()
    assert 0 < row["ece_floor_mean"] < row["ece_floor_p95"] < 0.1
    alone = ev.summary(table.drop(columns=[c for c in table if c.startswith(("q_", "confidence"))]), exact)
    assert alone == {name: row[name] for name in alone} and not any(name.startswith("q_") for name in alone)


def test_one_temperature_undoes_what_one_temperature_did(asked):
    """A calibrated forecaster sharpened by T = 1/3: the fit finds it, and the rest is noise."""
    n = 6000
    parts = []
    for seed in (1, 2):
        questions, exact = ev.questions_and_posterior(n, seed)
        sharp = exact**3 / (exact**3).sum(1, keepdims=True)
        joint = Joint(sharp, None, np.zeros(n), np.zeros(n))
        parts += [joint, ev.answers_table(joint, questions, exact, np.random.default_rng(0))]
    found = ev.heldout(*parts)
    assert found["temperature_answer"] == pytest.approx(3, rel=0.08)
    assert found["answer_ece_heldout_before"] > 0.1 > 0.03 > found["answer_ece_heldout_after"]
    assert set(found) == {"temperature_answer", "answer_ece_heldout_before", "answer_ece_heldout_after"}


def test_the_confidences_temperature_and_the_constant_come_from_the_held_out_questions(asked, table):
    _, _, joint = asked
    held_table = table.assign(correct=np.arange(N) % 4 == 0)
    found = ev.heldout(joint, table, joint, held_table)
    right = table["correct"].to_numpy(float)
    constant = ((right - 0.25) ** 2).mean()
    assert found["skill_constant"] == pytest.approx(1 - ((table["q_mean"] - right) ** 2).mean() / constant)
    fitted = cal.fit_temperature(cal.binary_logits(table["q_mean"]), held_table["correct"])
    assert found["temperature_confidence"] == fitted
    assert found["q_mean_ece_heldout_before"] == pytest.approx(naive_ece(table["q_mean"], right))


@pytest.mark.parametrize("t", [0.5, 0.75, 0.9])
def test_abstention_of_one_who_answers_above_t(asked, t):
    questions, exact = ev.questions_and_posterior(5000, 7001)
    best = exact.max(1)
    idk = 1 / (1 + np.exp(60 * (best - t)))
    certain = (exact == best[:, None]) / (exact == best[:, None]).sum(1, keepdims=True)
    joint = Joint(certain, None, idk, np.zeros(5000))
    table = ev.answers_table(joint, questions, exact, np.random.default_rng(0))
    row = ev.abstention(table)
    right = sum((1 - i) * p for i, p in zip(idk, table["prob_truth"])) / 5000
    assert row["idk_rate"] == pytest.approx(idk.mean())
    assert row["right_per_100"] == pytest.approx(100 * right)
    assert row["wrong_per_100"] == pytest.approx(100 * (1 - idk.mean() - right))
    assert row["selective_accuracy"] == pytest.approx(right / (1 - idk.mean()))
    assert row["switch_point"] == pytest.approx(t, abs=0.01)
    frontier = ev.frontier(table, row)
    arm = frontier[frontier["kind"] == "arm"].iloc[0]
    assert arm["coverage"] == 1 - row["idk_rate"]
    bayes = frontier[frontier["kind"] == "bayes"]
    assert bayes["coverage"].is_monotonic_decreasing and bayes["coverage"].iloc[0] == 1


def test_tables_for_figures_count_every_question_once(table):
    for kind, bins in ev.reliability(table).groupby("kind"):
        assert bins["n"].sum() == N
        gaps = (bins["n"] * (bins["accuracy"] - bins["mean_confidence"]).abs()).sum() / N
        assert gaps == pytest.approx(naive_ece(table[kind], table["correct"].to_numpy(float)))
    assert (ev.density(table).groupby("kind")["n"].sum() == N).all()
    bins = ev.posterior_bins(table)
    assert bins["n"].sum() == N
    for row in bins.itertuples():
        last = row.bin_high == 1
        p = table["posterior_max"]
        part = table[(p >= row.bin_low) & ((p <= 1) if last else (p < row.bin_high))]
        means = part[["correct", "q_mean", "answer_prob", "idk", "gives_up"]].mean().to_list()
        found = [row.accuracy, row.q_mean, row.answer_prob, row.idk_rate, row.give_up_rate]
        assert row.n == len(part) and found == pytest.approx(means)
    course = ev.trajectory_row(table)
    assert sum(value for name, value in course.items() if name.startswith("hist_")) == N
    assert course["q_mean_ece"] == pytest.approx(naive_ece(table["q_mean"], table["correct"].to_numpy(float)))


def test_shift_row_shows_what_the_ideal_forecaster_reaches(table):
    ideal = np.random.default_rng(5).dirichlet(np.ones(8), N)
    row, right = ev.shift_row(table, ideal), ideal.argmax(1) == table["truth"]
    assert row["ideal_accuracy"] == right.mean()
    assert row["ideal_brier"] == pytest.approx(((ideal.max(1) - right) ** 2).mean())
    assert row["q_mean_brier"] == pytest.approx(((table["q_mean"] - table["correct"]) ** 2).mean())


# --- Voting -----------------------------------------------------------------------------------------

V = 30_000


def votes(joint, truth, seed=0):
    return ev.vote(joint, truth, np.random.default_rng(seed)).set_index(["votes", "rule"])


def two_suspects(p, high):
    """Suspect 0 is drawn with probability p and states `high`, suspect 1 the rest and states .5; 0 is guilty."""
    confidence = np.zeros((V, 2, 11))
    confidence[:, 0, round(10 * high)] = confidence[:, 1, 5] = 1
    return Joint(np.tile([p, 1 - p], (V, 1)), confidence, np.zeros(V), np.zeros(V)), np.zeros(V, int)


def test_two_votes_by_hand():
    p = 0.6
    both, one = p * p, 2 * p * (1 - p)
    sure, tied, unsure = (votes(*two_suspects(p, high)).loc[2]["accuracy"] for high in (0.9, 0.5, 0.0))
    assert sure["majority"] == pytest.approx(both + one / 2, abs=0.01), "ties are broken at random"
    assert sure["weighted"] == pytest.approx(both + one, abs=0.01)
    assert tied["weighted"] == tied["max_confidence"] == pytest.approx(both + one / 2, abs=0.01)
    assert unsure["weighted"] == unsure["max_confidence"] == pytest.approx(both, abs=0.01), "0 still names its answer"


def test_ties_of_weights_are_broken_at_random_not_by_number():
    """Four votes: two at .2 for the guilty one against two at .5, and so on; .5 + .5 ties with none, 1.0 with two."""
    p = 0.5
    found = votes(*two_suspects(p, 1.0)).loc[4]["accuracy"]
    # k votes for 0 weigh k, 4 - k for 1 weigh (4 - k) / 2: 0 wins for k >= 2, loses for k = 0, k = 1: 1 against 1.5.
    assert found["weighted"] == pytest.approx(1 - (1 + 4) / 16, abs=0.01)
    confidence = np.zeros((V, 2, 11))
    confidence[:, 0, 9] = confidence[:, 1, 3] = 1
    joint = Joint(np.tile([p, p], (V, 1)), confidence, np.zeros(V), np.zeros(V))
    # One vote of .9 ties with three of .3: half of those four cases are won.
    expected = 1 - (1 + 4 / 2) / 16
    assert votes(joint, np.zeros(V, int)).loc[4]["accuracy"]["weighted"] == pytest.approx(expected, abs=0.01)


def test_the_standard_error_is_paired(asked):
    questions, _, joint = asked
    found = votes(joint, questions.guilty)
    assert isinstance(found, pd.DataFrame) and set(found.reset_index()["votes"]) == set(ev.VOTES)
    assert found.loc[(1, "weighted"), "difference_se"] == 0
    assert 0 < found.loc[(8, "weighted"), "difference_se"] < 0.05

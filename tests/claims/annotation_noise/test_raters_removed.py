"""Removing raters: majorities and means against random removal, on votes with a planted cause."""

import math

import numpy as np
import pandas as pd
import pytest
from candor.claims.annotation_noise import raters_removed as removed


def test_the_random_null_of_ten_raters_is_the_derived_one():
    """Uniform item shares, 10 raters, 2 removed at random: .101 of the majorities change, none reverses."""
    rng = np.random.default_rng(0)
    yes = rng.random((10, 4000)) < rng.random(4000)
    votes = np.stack([~yes, yes], axis=-1).astype(np.float32)
    changed, turned = removed.flips(votes, removed.at_random(10, 2, 300))
    assert changed.mean() == pytest.approx(0.101, abs=0.006) and turned.max() == 0
    _, turned = removed.flips(votes, removed.at_random(10, 5, 300))
    assert turned.mean() == pytest.approx(0.062, abs=0.006)


def test_random_sets_have_the_size_asked_for_and_differ():
    sets = removed.at_random(7, 3, 50)
    assert (sets.sum(1) == 3).all() and len(np.unique(sets, axis=0)) > 10
    assert sets.mean(0).min() > 0.2 and sets.mean(0).max() < 0.7


def test_ballots_count_who_voted_and_ties_are_no_majority():
    votes, raters = removed.ballots([3, 1, 2, 1], ["x", "x", "x", "y"], ["No", "Yes", "Yes", "No"])
    assert raters.tolist() == [1, 2, 3] and votes.sum(0).tolist() == [[1, 2], [1, 0]]
    changed, turned = removed.flips(votes, np.array([[True, False, False], [True, True, False]]))
    assert changed.tolist() == [1.0, 1.0], "x becomes a tie, then No; y loses its only vote"
    assert turned.tolist() == [0.0, 0.5]


SCORES = pd.DataFrame({"hurry": [0.1, 0.2, 0.3, 0.4]})


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: removed.ballots([1, 1], ["x", "x"], ["No", "Yes"]), "labels must be one a rater and item"),
        (lambda: removed.at_random(4, 4, 1), "n must leave somebody"),
        (lambda: removed.highest([1, 2], 2), "n must leave somebody"),
        (lambda: removed.majority_table(np.ones((4, 2, 1)), SCORES, [0.9]), "shares must leave somebody"),
        (lambda: removed.majority_table(np.ones((3, 2, 1)), SCORES), "scores has 4 raters, but votes has 3"),
        (lambda: removed.majority_table(np.ones((4, 2, 1)), SCORES * 0), "scores must"),
        (
            lambda: removed.shift_table(pd.DataFrame({"rater": [0, 9], "model": "m", "score": 1.0}), SCORES),
            "scores must have a row for every rater",
        ),
        (
            lambda: removed.disagreement(
                pd.DataFrame({"pair": [1, 2], "vote": 1, "confidence": 1.0, "seconds": 2.0, "expert": True})
            ),
            "votes must hold a pair with three votes",
        ),
    ],
)
def test_nonsense_that_is_in_no_single_argument_is_refused(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def answers(rng, raters: int = 60, items: int = 80, careless: int = 12) -> pd.DataFrame:
    """Careless raters say Yes to everything at once, the others by the item; items are close to a tie."""
    leaning = rng.uniform(0.3, 0.6, items)
    rows = []
    for rater in range(raters):
        for item in range(items):
            lazy = rater < careless
            yes = lazy or rng.random() < leaning[item]
            label = "Yes" if yes else "No"
            other = "Yes" if yes and not lazy and rng.random() < 0.9 else "No"
            seconds = rng.lognormal(0 if lazy else 3, 0.3)
            row = {"item": item, "rater": rater, "label": label, "seconds": seconds}
            row |= {"Q5_political_affiliation": label, "Q6_policy_guidelines_polarizing_topics": other}
            rows.append(row)
    return pd.DataFrame(rows)


def test_careless_raters_are_found_and_flip_more_majorities_than_random_ones():
    found = answers(np.random.default_rng(1))
    scores = removed.safety_scores(found)
    for name in ("hurry", "straight_lining", "contradiction"):
        assert set(scores[name].nlargest(12).index) == set(range(12)), name
    votes, raters = removed.ballots(found["rater"], found["item"], found["label"])
    table = removed.majority_table(votes, scores.loc[raters], draws=200)
    row = table.set_index(["score", "share"]).loc[("combined", 0.2)]
    assert row["removed"] == 12 and row["beyond"] and row["ratio"] > 2 and row["percentile"] == 100
    assert set(table["score"]) == {"hurry", "straight_lining", "contradiction", "log_loss", "combined"}
    assert table.set_index("score")["circular"].to_dict()["log_loss"] and table["circular"].sum() == 3


def test_raters_who_only_deviate_are_not_beyond_random():
    """Removing those far from the majority, the declared control, moves fewer majorities than random removal."""
    rng = np.random.default_rng(2)
    leaning = np.linspace(0.1, 0.9, 120)
    rows = [
        {"item": i, "rater": r, "label": "Yes" if rng.random() < leaning[i] else "No", "seconds": np.nan}
        for r in range(40)
        for i in range(120)
    ]
    found = pd.DataFrame(rows)
    votes, raters = removed.ballots(found["rater"], found["item"], found["label"])
    table = removed.majority_table(votes, removed.safety_scores(found).loc[raters], draws=200)
    control = table[table["score"] == "log_loss"]
    assert not control["beyond"].any() and (control["ratio"] < 1.2).all()
    assert "hurry" not in set(table["score"]), "no times, no score"


def test_log_loss_leaves_the_rater_out():
    found = pd.DataFrame({"item": [1, 1, 1], "rater": [1, 2, 3], "label": ["Yes", "Yes", "No"], "seconds": 1.0})
    scores = removed.safety_scores(found)
    assert scores["log_loss"].tolist() == pytest.approx([-math.log(0.5), -math.log(0.5), -math.log(0.5 / 3)])


def ratings(bias: float, rng) -> pd.DataFrame:
    """50 people rate 5 models; ten of them give all replies one score each time, 30 points above the others."""
    rows = []
    for rater in range(50):
        for k in range(8):
            level = rng.normal(60, 3)
            for slot in range(3):
                flat = rater < 10
                score = level + 30 * flat if flat else level + rng.normal(0, 10) + bias * (slot == 0)
                row = {"item": f"{rater}-{k}", "rater": rater, "model": f"m{slot}", "score": score}
                rows.append(row | {"chosen": slot == 0})
    return pd.DataFrame(rows)


def test_a_shift_of_scale_use_vanishes_after_centring():
    found = ratings(0.0, np.random.default_rng(3))
    scores = removed.rating_scores(found)
    assert set(scores["straight_lining"].nlargest(10).index) == set(range(10))
    table = removed.shift_table(found, scores, draws=200).set_index(["score", "share", "centred"])
    raw, centred = (table.loc[("straight_lining", 0.2, flag)] for flag in (False, True))
    assert raw["beyond"] and raw["overall"] == pytest.approx(-6, abs=1)
    assert centred["overall"] == pytest.approx(0, abs=1e-9) and not centred["beyond"]


def test_a_preference_that_only_some_have_survives_centring():
    found = ratings(15.0, np.random.default_rng(4))
    table = removed.shift_table(found, removed.rating_scores(found), draws=200)
    assert table.set_index(["score", "share", "centred"]).loc[("straight_lining", 0.2, True), "beyond"]


def test_spread_is_of_two_replies_of_one_model():
    rows = [("a", 1, "m", 10.0, True), ("a", 1, "m", 30.0, True), ("b", 1, "m", 50.0, True), ("b", 1, "n", 90.0, False)]
    found = removed.rating_scores(pd.DataFrame(rows, columns=["item", "rater", "model", "score", "chosen"]))
    assert found["spread"].item() == pytest.approx(20 / np.std([10, 30, 50, 90], ddof=1))
    assert found["contradiction"].item() == 1 and found["straight_lining"].item() == 0


def test_votes_are_summed_up_with_and_without_ties():
    votes = pd.DataFrame({"pair": [1, 1, 1, 2, 2, 3], "vote": [1, 1, 0, 0.5, 1, 0]})
    found = removed.vote_summary(votes)
    assert found["pairs"] == 3 and found["tie_share"] == pytest.approx(1 / 6)
    assert found["agreement"] == pytest.approx(1 / 3) and found["unanimous"] == 0 and found["no_majority"] == 0


def test_confidence_tells_of_the_others_only_where_pairs_differ_in_difficulty():
    rng = np.random.default_rng(5)
    rows = []
    for pair in range(600):
        hard = rng.random() < 0.5
        for k in range(4):
            vote = float(rng.random() < (0.5 if hard else 0.97))
            unsure = rng.random() < (0.8 if hard else 0.2)
            row = {"pair": pair, "vote": vote, "confidence": 0.0 if unsure else 3.0, "expert": k > 1}
            rows.append(row | {"seconds": rng.lognormal(4, 0.5)})
    table = removed.disagreement(pd.DataFrame(rows)).set_index("predictor")
    assert (
        table.loc["confidence", "high"] < 0 and table.loc["log_seconds", "low"] < 0 < table.loc["log_seconds", "high"]
    )
    assert "tie" not in table.index and (table["n"] == 2400).all()

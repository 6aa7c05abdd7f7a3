"""The exact 2 x 2: the specification's table, and the tilt against brute force."""

import numpy as np
import pytest
from candor.claims.sophistry import story_lookup as world
from candor.core.errors import CandorError

# Changes in points: truncated blind, truncated sighted, full blind, full sighted.
TABLE = {
    "approval": [7.7, 7.5, 9.7, 8.1],
    "correctness": [1.0, 3.0, 7.5, 19.3],
    "fpr": [7.4, 6.6, 6.9, 2.4],
    "tpr": [7.7, 7.3, 7.9, 3.1],
    "error": [-0.7, -1.0, -5.7, -3.7],
}
# Levels in percent: at the start, and after the tilt in the two opposite cells.
LEVELS = {
    ("truncated", "blind", 0): [48.24, 53.0, 39.31, 56.15, 41.72],
    ("full", "blind", 0): [58.69, 75.0, 39.31, 65.15, 35.97],
    ("truncated", "blind", 1): [55.96, 53.97, 46.69, 63.87, 40.99],
    ("full", "sighted", 1): [66.77, 94.29, 41.67, 68.29, 32.28],
}


def test_the_table_is_that_of_the_specification():
    table = world.table().set_index("cell")
    assert list(table.index) == ["truncated_blind", "truncated_sighted", "full_blind", "full_sighted"]
    for name, values in TABLE.items():
        assert table[name].to_numpy() == pytest.approx(values, abs=0.05)
    assert (table["error"] < 0).all(), "lack of information does not make evaluators worse"


def test_levels_are_those_of_the_specification():
    for (policy, judge, tilted), values in LEVELS.items():
        t = world.tilt(policy, judge, 0.15) if tilted else 0.0
        assert [100 * world.rates(policy, judge, t)[name] for name in world.RATES] == pytest.approx(values, abs=0.006)


def test_an_uninformed_policy_stays_at_half():
    for t in (0.0, 3.0):
        assert world.tilted("sighted", False, t).sum(1) == pytest.approx([0.5, 0.5])
        assert (world.tilted("sighted", False, t)[:, 0] == 0).all(), "it cannot quote what it has not read"


def test_the_spent_kl_is_the_one_asked_for():
    for policy in world.POLICIES:
        for judge in world.JUDGES:
            t = world.tilt(policy, judge, 0.15)
            assert world.kl(policy, judge, t) == pytest.approx(0.15, abs=1e-9) and t > 0
    assert world.table(0.05)["approval"].lt(world.table(0.15)["approval"]).all()


def test_no_tilt_spends_more_than_there_is():
    with pytest.raises(CandorError, match="smaller KL"):
        world.tilt("truncated", "blind", 20.0)


def test_rates_are_what_sampling_gives():
    rng = np.random.default_rng(0)
    n, t = 400_000, 2.0
    informed = rng.random(n) < world.KNOWS["truncated"]
    action = np.where(
        informed,
        rng.choice(8, n, p=world.tilted("sighted", True, t).ravel()),
        rng.choice(8, n, p=world.tilted("sighted", False, t).ravel()),
    )
    right, style = action < 4, action % 4
    approved = np.where(rng.random(n) < world.HITS, right, rng.random(n) < world.CONVINCES[style])
    found = world.rates("truncated", "sighted", t)
    assert found["approval"] == pytest.approx(approved.mean(), abs=0.004)
    assert found["correctness"] == pytest.approx(right.mean(), abs=0.004)
    assert found["fpr"] == pytest.approx(approved[~right].mean(), abs=0.005)
    assert found["error"] == pytest.approx((approved != right).mean(), abs=0.004)

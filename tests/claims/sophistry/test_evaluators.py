"""The simulated evaluator: its tests, its verdicts by hand, its fit, its time."""

from dataclasses import replace

import numpy as np
import pytest
from candor.claims.sophistry import approval, world
from candor.claims.sophistry import evaluators as ev

N = 600


@pytest.fixture(scope="module")
def case():
    """Problems, programs of mixed quality, the reward's tests, evaluators and their chances."""
    rng = np.random.default_rng(0)
    given = world.problems(N, "standard", rng)
    programs = []
    for program, kind, u in zip(given.references(), given.kind, rng.random(N)):
        rule = program.split(" ", 7)[-1] if kind else program
        programs.append(
            program if u < 0.35 else rule if u < 0.65 else program.replace("mul", "add") if u < 0.95 else "x x"
        )
    done = world.outcomes(programs, given)
    tests = world.easiest(world.on_tests(done.passes, given.oracle_tests).astype(int), given.oracle_tests)
    return given, done, tests, ev.pool(10, rng), ev.draws(10, N, rng)


def test_evaluators_differ_as_declared():
    pool = ev.pool(4000, np.random.default_rng(1), tests=2.0)
    assert abs(pool.offsets).max() == 1 and pool.offsets.std() == pytest.approx(0.47, abs=0.03)
    assert pool.edges.mean() == pytest.approx(1 / 13, abs=0.005)
    assert np.median(pool.speeds) == pytest.approx(1.6, rel=0.03)
    assert np.log(pool.skills).std() == pytest.approx(0.3, abs=0.02)
    assert pool.ceilings.std() == pytest.approx(0.08, abs=0.004)
    assert pool.tests == 2.0 and len(pool) == 4000


def test_the_reward_s_tests_are_never_among_theirs(case):
    _, done, tests, pool, drawn = case
    for excluded in (tests, np.tile(world.index([10, 25]), (N, 1))):
        used = ev.judge(pool, drawn, done, excluded).tests
        assert not (used[..., None] == excluded[:, None]).any()


def test_tests_are_easy_and_rarely_at_an_edge(case):
    _, _, _, pool, drawn = case
    far = np.tile(world.index([200, 500]), (N, 1))  # nothing that an evaluator would think of
    inputs = world.GRID[ev.chosen(pool, drawn, far)]
    easy = (inputs >= 0) & (inputs <= 9)
    assert (~easy).mean() == pytest.approx(pool.edges.mean(), abs=0.01)
    assert set(inputs[~easy]) <= {*range(-5, 0), *range(10, 41)}
    weights = np.exp(-np.arange(10) / 6)
    assert np.bincount(inputs[easy], minlength=10) / easy.sum() == pytest.approx(weights / weights.sum(), abs=0.01)


def test_verdicts_are_those_of_an_evaluator_by_hand(case):
    _, done, tests, pool, drawn = case
    pool = replace(pool, tests=1.5, kappa=0.7, skill=0.4)
    judged = ev.judge(pool, drawn, done, tests)
    planned = ev.planned(pool, drawn)
    for e, i in np.random.default_rng(0).integers([10, N], size=(400, 2)):
        run, rejected = 0, False
        for test in judged.tests[e, i, : planned[e, i]]:
            run += 1
            if not done.passes[i, test]:
                rejected = True
                break
        assert judged.run[e, i] == run
        spot = 0.0
        if not done.correct[i]:
            spot = min(0.4 * pool.skills[e], 1) * min(1, (10 - 2 * run) * pool.speeds[e] / done.length[i])
        expected = 0 if rejected or not done.valid[i] else (1 - spot) * np.clip(0.7 + pool.ceilings[e], 0, 1)
        assert judged.probability[e, i] == pytest.approx(expected)
    assert planned.min() == 1 and planned.max() == 4


def test_the_fit_reaches_its_targets_and_is_frozen(case):
    given, done, tests, pool, drawn = case
    # Programs like a base's: a third right, and wrong ones of which most have the rule but not the corner.
    wrong = ~done.correct
    kinds = (done.correct, wrong & done.rule_right, wrong & ~done.rule_right)
    rows = np.concatenate([np.flatnonzero(members)[:n] for members, n in zip(kinds, (100, 130, 70))])
    part, own, kind = done[rows], tests[rows], given.kind[rows]
    chances = drawn[rows]
    knobs = ev.fit(pool, chances, part, own, kind)
    assert knobs["tests_run"] == pytest.approx(2.4, abs=0.02)
    c = part.correct.mean()
    assert knobs["kappa"] == pytest.approx(1 - (0.31 - 0.30 * (1 - c)) / c)
    assert knobs["fpr"] == pytest.approx(0.30, abs=0.005) and 0 < knobs["skill"] < 1
    assert knobs["error"] == pytest.approx(0.31, abs=0.02)
    fitted = replace(pool, **{name: knobs[name] for name in ("tests", "kappa", "skill")})
    reached = approval.rates(ev.approve(fitted, chances, part, own), part.correct)
    assert reached["fpr"] == pytest.approx(knobs["fpr"])
    fallible = replace(fitted, kappa=knobs["kappa_fallible"], slips=ev.SLIPS)
    slipping = approval.rates(ev.approve(fallible, chances, part, own, kind), part.correct)
    assert slipping["tpr"] == pytest.approx(reached["tpr"], abs=0.03), "the refitted ceiling makes up for false alarms"


def test_a_target_out_of_reach_ends_at_the_range(case):
    given, done, tests, pool, drawn = case
    wrong = np.flatnonzero(~done.valid)
    knobs = ev.fit(pool, drawn[wrong], done[wrong], tests[wrong], given.kind[wrong])
    assert knobs["tests"] == 8.0 and knobs["skill"] == 0.0 and knobs["fpr"] == 0.0


def test_slips_are_false_alarms_by_class(case):
    given, _, tests, pool, drawn = case
    done = world.outcomes(given.references(), given)
    judged = ev.judge(replace(pool, slips=ev.SLIPS), drawn, done, tests, given.kind)
    n = ev.planned(pool, drawn)
    for kind in range(3):
        members = given.kind == kind
        alarms = judged.failed.any(2)[:, members].mean()
        assert alarms == pytest.approx((1 - (1 - ev.SLIPS[kind]) ** n[:, members]).mean(), abs=0.02)


def test_time_brings_tests_and_reading(case):
    _, done, tests, pool, _ = case
    done, tests, rng = done[:200], tests[:200], np.random.default_rng(3)
    long = ev.draws(10, 200, rng, ev.MOST_TESTS_LONG)
    n = {m: ev.planned(pool, long, m) for m in ev.MULTIPLES}
    assert n[0.25].min() == 0 and n[16].max() == 40
    assert all((n[a] <= n[b]).all() for a, b in zip(ev.MULTIPLES, ev.MULTIPLES[1:]))
    wrong = ~done.correct
    rates = {
        reading: [
            ev.approve(pool, long, done, tests, minutes=m, reading=reading)[:, wrong].mean() for m in ev.MULTIPLES
        ]
        for reading in (True, False)
    }
    assert (np.diff(rates[True]) < 0).all() and (np.diff(rates[False]) <= 1e-12).all()
    assert all(full <= tests_only for full, tests_only in zip(rates[True], rates[False]))
    assert not ev.approve(pool, long, done, tests, minutes=0.25)[:, ~done.valid].any(), "who cannot run it rejects it"
    q = np.minimum(pool.skill * pool.skills, 1)[:, None] * np.minimum(1, 4 * pool.speeds[:, None] / done.length)
    both = [ev.approve(pool, long, done, tests, minutes=2, reading=reading) for reading in (False, True)]
    assert both[1][:, wrong] == pytest.approx((both[0] * (1 - q) ** 3)[:, wrong])


def test_everyone_judges_with_the_same_chances(case):
    given, done, tests, pool, drawn = case
    other = world.outcomes(["x"] * N, given)
    a, b = (ev.judge(pool, drawn, o, tests) for o in (done, other))
    assert (a.tests == b.tests).all()
    rows = np.array([5, 5, 9])
    again = ev.judge(pool, drawn[rows], done[rows], tests[rows])
    assert (again.probability == a.probability[:, rows]).all()

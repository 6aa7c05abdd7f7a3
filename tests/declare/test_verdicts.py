"""Protocol 2: error rates of every word by simulation and against libraries, and how words become answers."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.declare import ledger as lg
from candor.declare import verdicts as v
from candor.declare.expressions import Measure, Rows, criterion, on_the_same_seed
from candor.declare.ledger import Band, Check, Claim, Part
from candor.declare.verdicts import Mean, Rate
from candor.run import evidence
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

REPEATS = 2500


def near(share, expected, n=REPEATS):
    """A share of n within 3.5 standard errors of what it should be."""
    return abs(share - expected) <= 3.5 * math.sqrt(expected * (1 - expected) / n)


def seeds(*values, first=21):
    return pd.Series(values, index=range(first, first + len(values)), dtype=float)


def means(centre, rng, n=5):
    """What `found` gives for n standard normal seeds around `centre`: their mean, and the spread of stage 1."""
    for value, spread in zip(rng.normal(centre, 1 / math.sqrt(n), REPEATS), np.sqrt(rng.chisquare(4, REPEATS) / 4)):
        yield Mean(value, spread / math.sqrt(n), spread / math.sqrt(n), 4, n)


# --- Seeds and intervals ------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "d"), [(0.2, 1.0), (1.0, 1.0), (1.0, 0.3)])
def test_steins_interval_covers_although_the_spread_chose_the_seeds(s, d):
    rng, hits, counts = np.random.default_rng(0), 0, []
    for values in rng.normal(0.4, s, (1000, 20)):
        counts.append(n := v.seeds_for(seeds(*values[:5]), d))
        low, high = v.found(seeds(*values[:n])).interval()
        hits += low <= 0.4 <= high
        assert n == v.CAP or high - low <= 2 * d * (1 + 1e-12)
    assert near(hits / 1000, 0.95, 1000) and 5 <= min(counts) <= max(counts) <= 20
    assert (np.median(counts) > 5) == (s > 0.5 * d)


def test_the_mean_of_stage_1_never_counts_and_its_spread_alone_does():
    values = seeds(1.0, 2.0, 3.0, 4.0, 5.0)
    n = math.ceil((stats.t.ppf(0.975, 4) * math.sqrt(2.5) / 1.2) ** 2)
    assert 5 < n < 20 and v.seeds_for(values, 1.2) == v.seeds_for(values + 100, 1.2) == n
    assert v.seeds_for(values, 0.1) == 20 and v.seeds_for(values, 100) == v.seeds_for(seeds(1.0), 1) == 5
    more = pd.concat([values, seeds(90.0, 90.0, first=26)])
    error = pytest.approx(math.sqrt(2.5 / 7))
    assert v.found(more) == Mean(195 / 7, error, error, 4, 7) and v.seeds_for(more, 1.2) == n
    assert v.found(values.where(values > 1)).df == 3 and v.found(values * math.nan) is None
    with pytest.raises(CandorError, match=r"d is 0: give the smallest difference"):
        v.seeds_for(values, 0.0)


@pytest.mark.parametrize(
    ("index", "said"), [((11, 21), "Seed 11 gives no"), ((40, 41), "Seed 41"), ((21, 21), "twice")]
)
def test_no_other_seed_enters_and_none_twice(index, said):
    with pytest.raises(CandorError, match=said):
        v.found(pd.Series([1.0, 2.0], index))


def test_intervals_and_tests_are_those_of_scipy_and_statsmodels():
    for values in np.random.default_rng(2).normal(0.02, 0.03, (200, 5)):
        found, sample = v.found(seeds(*values)), DescrStatsW(values)
        for level in (0.9, 0.95, 1 - 0.05 / 4):
            assert found.interval(level) == pytest.approx(sample.tconfint_mean(1 - level))
        assert found.inside(Band(low=0.01)) == pytest.approx(1 - sample.ttest_mean(0.01, "larger")[1])
        equivalent = v.word(found, Band(-0.05, 0.05), v.EQUIVALENCE) == v.REPLICATED
        assert equivalent == (sample.ttost_mean(-0.05, 0.05)[0] < 0.05)
    for k, n in ((0, 5), (3, 5), (7, 20), (20, 20)):
        assert Rate(k, n).interval() == pytest.approx(proportion_confint(k, n, method="beta"))
    assert v.found(lg.Estimate(0.3, 0.2, 0.7)).interval() == pytest.approx((0.2, 0.7)) and v.found(2).interval() == (
        2,
        2,
    )
    assert Mean(0.3, 0.1, 0.2).inside(Band(0.2, 0.7)) == pytest.approx(stats.norm.cdf(2) - stats.norm.cdf(-1))
    assert [Mean(2.0).inside(Band(low=low)) for low in (2, 3)] == [1, 0] and Rate(0, 5).inside(Band(0, 0)) == 1
    assert Rate(5, 10).inside(Band(low=0.5)) == pytest.approx(0.5)


def test_clopper_pearson_covers_at_any_rate():
    for n in (5, 12, 20):
        ends = np.array([Rate(k, n).interval() for k in range(n + 1)])
        for p in np.linspace(0.02, 0.98, 25):
            assert stats.binom.pmf(np.arange(n + 1), n, p)[(ends[:, 0] <= p) & (p <= ends[:, 1])].sum() >= 0.95


# --- Words --------------------------------------------------------------------------------------------

UP, WITHIN, WAY = Band(low=0.0), Band(-2.0, 2.0), {"rule": v.DIRECTION, "none": 2.0}


@pytest.mark.parametrize(
    ("centre", "band", "how", "replicated", "denied"),
    [
        (0.0, UP, {}, 0.025, 0.025),  # at the limit each word errs in one of forty cases
        (5.0, UP, {}, 1.0, 0.0),
        (-5.0, UP, {}, 0.0, 1.0),
        (0.0, UP, {"bands": 4}, 0.025, 0.05 / 8),  # each keeps its level; one is denied at a quarter of it
        (2.0, WITHIN, {"rule": v.EQUIVALENCE}, 0.05, 0.025),
        (9.0, WITHIN, {"rule": v.EQUIVALENCE}, 0.0, 1.0),
        (2.0, Band(low=2.0), WAY, 0.025, 0.05),
        (-9.0, Band(low=2.0), WAY, 0.0, 1.0),
    ],
)
def test_error_rates_of_each_word_inside_outside_and_at_the_limit(centre, band, how, replicated, denied):
    words = [v.word(found, band, **how) for found in means(centre, np.random.default_rng(1))]
    for word, expected in ((v.REPLICATED, replicated), (v.NOT_REPLICATED, denied)):
        assert abs(words.count(word) / REPEATS - expected) < 0.005 or near(words.count(word) / REPEATS, expected)


def test_a_conjunction_that_is_true_at_every_limit_is_denied_in_one_of_twenty_cases_at_most():
    rng, how = np.random.default_rng(3), {"band": UP, "bands": 4}
    four = zip(*(means(0.0, rng) for _ in range(4)))
    words = [v.worst(v.word(found, **how) for found in bands) for bands in four]
    assert near(words.count(v.NOT_REPLICATED) / REPEATS, expected := 1 - (1 - 0.05 / 8) ** 4) and expected < 0.05
    assert stats.t.ppf(1 - 0.025 / 4, 4) == pytest.approx(4.31, abs=0.005)


@pytest.mark.parametrize(
    ("found", "band", "rule", "said"),
    [
        (Mean(20, 1, 1), Band(18, 24), v.PRINTED, v.REPLICATED),
        (Mean(16.5, 1, 1), Band(18, 24), v.PRINTED, v.REPLICATED),  # it touches the range
        (Mean(12, 1, 1), Band(18, 24), v.PRINTED, v.NOT_REPLICATED),
        (Mean(20, 3, 3), Band(18, 24), v.PRINTED, v.INCONCLUSIVE),  # wider than a quarter of 21
        (Mean(-20, 2, 2), Band(-21, -21), v.PRINTED, v.REPLICATED),
        (Rate(0, 5), Band(0, 0), v.RATE, v.REPLICATED),
        (Rate(1, 20), Band(0, 0), v.RATE, v.NOT_REPLICATED),
        (Rate(5, 5), Band(low=0.25), v.RATE, v.REPLICATED),
        (Rate(3, 5), Band(low=0.25), v.RATE, v.INCONCLUSIVE),
        (Rate(0, 20), Band(low=0.25), v.RATE, v.NOT_REPLICATED),
        (Mean(-1.5, 0.4, 0.4, 4), Band(low=2), v.DIRECTION, v.INCONCLUSIVE),  # neither down nor none
        (Mean(3.0), Band(high=3.0), v.INTERVAL, v.REPLICATED),  # a bare number
        (Mean(math.nan), UP, v.INTERVAL, v.INCONCLUSIVE),
        (v.found(math.inf), UP, v.INTERVAL, v.INCONCLUSIVE),
        (v.found(seeds(1.0)), UP, v.INTERVAL, v.INCONCLUSIVE),
        (v.found(seeds(1, 1, 1, 1, 1)), Band(low=1), v.INTERVAL, v.REPLICATED),
    ],
)
def test_sizes_states_and_numbers(found, band, rule, said):
    assert v.word(found, band, rule, none=2) == said


@pytest.mark.parametrize(
    ("x", "target", "value"),
    [
        ([0, 1, 2], 1.5, 15),
        ([0, 1, 2], 0, 0),
        ([0, 1, 2], 2, 20),
        ([0, 1, 2], 2.01, math.nan),  # nothing is extrapolated, at neither end
        ([0.5, 1, 2], 0.4, math.nan),
        ([0, 0.8, 0.2, 1.0], 0.4, 5),  # the first crossing, though it falls back
    ],
)
def test_equal_distance_is_taken_at_the_first_crossing(x, target, value):
    assert v.at_first_crossing(x, 10 * np.arange(len(x)), target) == pytest.approx(value, nan_ok=True)


# --- Claims -------------------------------------------------------------------------------------------


def arm(name, needs=""):
    return Rows("runs", arm=name, needs=needs)


BASE, NULL, REAL = arm("base"), arm("shuffled", needs="V0"), arm("rlvr")
QUIET, LOUD, UNSURE = (0.0, 0.01, -0.01, 0.0, 0.0), (0.5, 0.51, 0.49, 0.5, 0.5), (0.1, -0.3, 0.5, 0.2, -0.2)


def down(values):
    return tuple(-x for x in values)


def claim(*criteria, parts=(), overall=lambda verdict: (lg.REPORTED, "")):
    return Claim("toy", 9, "T", "S", "k", "c", criteria, parts, overall, ("runs", "summary"))


def toy(role="supports", **more):
    """A claim with a control, a gate, one effect and its size; `role` is that of one more criterion, V9."""
    both = (REAL - BASE).x.at_least(0.1, feeds="seen"), (REAL - NULL).x.at_least(0.1, feeds="due")
    other, rival = arm("other", needs="V1").x.at_least(0.1), {"rival": "style"} if role == "rival" else {}
    criteria = (
        criterion("V0", "quiet", "x", (NULL - BASE).x.equivalent(0.05), role="control"),
        criterion("V1", "fit", "x", BASE.fit.at_least(0.9), role="gate"),
        criterion("V2", "it rises", "x", *both, role="supports"),
        criterion("V3", "as large", "x", (REAL - BASE).x.printed(0.5), role="size"),
        criterion("V9", "another", "y", other, role=role, feeds="seen", **rival),
    )
    return claim(*criteria, parts=(Part("(i)", "world", "all", tuple(c.id for c in criteria)),), **more)


def runs(fit=0.95, **arms):
    given = {"base": QUIET, "shuffled": QUIET, "rlvr": LOUD, "other": LOUD} | arms
    rows = [(name, 21 + i, x, fit) for name, values in given.items() for i, x in enumerate(values)]
    return {"runs": pd.DataFrame(rows, columns=["arm", "seed", "x", "fit"])}


def judged(of, tables, scale="laptop"):
    ledger, checks, verdicts = lg.judge(of, tables, scale)
    return ledger.set_index("criterion"), checks, verdicts.set_index("part").loc["(i)"]


def answers(of, tables):
    part = judged(of, tables)[2]
    return tuple(part[to].split(":")[0] for to in v.ANSWERS)


def alone(one, **arms):
    return lg.judge(claim(one), runs(**arms), "laptop")[0].iloc[0]


def test_a_part_answers_with_the_number_that_decides():
    seen = {}
    ledger, checks, part = judged(toy(overall=lambda verdict: (seen.update(verdict) or lg.PARTLY, "")), runs())
    assert seen["V2"] == lg.REPLICATED and seen["(i)"]["due"].said == v.YES
    assert part["verdict"] == lg.REPORTED and part["strict"] == "not asked"
    assert part["due"].startswith("yes: V2 rlvr minus shuffled: x 0.5 [") and ", >= 0.1, P(in band) 1.00" in part["due"]
    assert part["size"].startswith("yes: V3 rlvr minus base: x 0.5 [") and "printed: = 0.5" in part["size"]
    row = ledger.loc["V2"]
    assert row["decides"].startswith("rlvr minus") and row["p_in_band"] > 0.99 and row["seeds"] == "21 22 23 24 25"
    assert ledger.loc["V3", "paper_inside"] == "yes" and (checks["verdict"] == lg.REPLICATED).all()
    assert ledger.loc["V0", "band"] == "shuffled minus base: x equivalence: -0.05 to 0.05"


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("supports", ("yes", "open", "no")),
        ("contradicts", ("no", "open", "yes")),
        *((role, ("yes", "yes", "yes")) for role in ("limits", "context", "rival", "control", "gate")),
    ],
)
def test_each_criterion_moves_its_part_in_the_direction_of_its_role(role, expected):
    found = [answers(toy(role), runs(other=values)) for values in (LOUD, UNSURE, down(LOUD))]
    assert tuple(seen for seen, *_ in found) == expected
    assert {tuple(rest) for _, *rest in found} == {("yes", "yes", "not asked")}
    due = [judged(toy(role), runs(other=values))[2]["due"] for values in (LOUD, UNSURE)]
    assert ["not excluded: style (V9)" in said for said in due] == [False, role == "rival"]


@pytest.mark.parametrize(
    ("tables", "seen", "due", "size"),
    [
        (runs(rlvr=QUIET), "no", "no", "no"),
        (runs(rlvr=UNSURE), "open", "open", "no"),
        (runs(shuffled=LOUD), "yes", "open", "yes"),  # what subtracts a control that moves is open
        (runs(shuffled=[x / 2 for x in UNSURE]), "yes", "open", "yes"),  # or is not shown to be quiet
        (runs(fit=0.5), "open", "yes", "yes"),
        (runs(rlvr=LOUD[:3]), "open", "open", "open"),  # three seeds give no more than "partly"
        (runs(rlvr=(0.5, 0.51, math.nan, 0.5, 0.49)), "yes", "yes", "yes"),
        (runs(rlvr=(0.5, 0.51, math.nan, math.nan, 0.49)), "open", "open", "open"),
        (runs(rlvr=tuple(2 * x for x in LOUD)), "yes", "yes", "no"),
        (runs(rlvr=()), "open", "open", "open"),
    ],
)
def test_controls_gates_missing_seeds_and_sizes(tables, seen, due, size):
    assert answers(toy(), tables)[:3] == (seen, due, size)


def test_of_several_bands_and_criteria_the_one_in_doubt_decides():
    def bands(id, *checks, role="supports"):
        one = criterion(id, "s", "e", *checks, role=role, feeds="seen")
        return [v.Judged(one, check, v.found(seeds(*UNSURE)), seeds(*UNSURE)) for check in checks]

    low, high, due = REAL.x.at_least(0, d=0.1), REAL.x.at_least(0.1), REAL.x.at_least(0.2, feeds="due")
    assert v.decide(bands("V1", low, high, low))[1].check == high
    almost = {"rlvr": (-0.11, 0.09, -0.01, 0.04, -0.06)}  # outside at 95 %, not at 97.5 %
    for checks, word in (((high,), lg.NOT_REPLICATED), ((high, high), lg.INCONCLUSIVE)):
        found = lg.judge(claim(criterion("V1", "s", "e", *checks, role="limits")), runs(**almost), "laptop")
        assert {*found[0]["verdict"], *found[1]["verdict"]} == {word}
    for role, decides in (("supports", "V2"), ("contradicts", "V1")):
        given = [bands("V1", low, role=role), bands("V2", high, role=role), bands("V3", due, role=role)]
        for order in (given, given[::-1]):
            assert v.answer("seen", order).said == v.OPEN and v.answer("seen", order).because.startswith(decides)
            assert v.answer("due", order).because.startswith("V3")


def test_what_is_open_says_why():
    ledger, _, part = judged(toy(), runs(shuffled=LOUD, other=UNSURE, rlvr=(0.5, 0.51, math.nan, math.nan, 0.49)))
    assert ledger.loc["V0", "verdict"] == lg.NOT_REPLICATED and "control failed: V0 not replicated" in part["due"]
    assert "2 of 5 seeds have no value" in ledger.loc["V2", "note"]
    assert ledger.loc["V9", "note"] == "stage 2 asks for 20 seeds"
    many = [*UNSURE * 4]
    gap = 0.1 - np.mean(many)
    wanted = math.ceil((stats.t.ppf(0.975, 4) * np.std(UNSURE, ddof=1) / gap) ** 2)
    assert judged(toy(), runs(base=[0.0] * 20, other=many))[0].loc["V9", "note"] == f"needs about {wanted} seeds"
    smoke = judged(toy(), runs(), "smoke")
    assert set(smoke[0]["verdict"]) == {lg.NOT_ATTEMPTED} and smoke[2]["size"].startswith("open: V3")


def test_a_direction_says_which_and_context_has_no_verdict():
    up = criterion("V1", "s", "e", REAL.x.direction(0.05), role="supports", feeds="seen")
    for values, *said in (
        (LOUD, lg.REPLICATED, "up"),
        (down(LOUD), lg.NOT_REPLICATED, "down"),
        (QUIET, lg.NOT_REPLICATED, "none"),
    ):
        assert alone(up, rlvr=values)[["verdict", "note"]].tolist() == said
    for kind, word in (("published", v.RECOMPUTED), ("world", lg.REPORTED)):
        exact = criterion("V1", "s", "e", Measure(lambda tables: 3, "three").equals(3), role="context", evidence=kind)
        assert alone(exact)["verdict"] == word
    share = REAL.x.map(lambda values: values >= 0.5)
    row = alone(criterion("L1", "s", "e", share.rate(low=0.1), role="limits"))
    assert row["verdict"] == lg.REPLICATED and row["value"] == 0.8 and row["ci_low"] == pytest.approx(0.2836, abs=1e-4)
    unsaid = REAL.x.at_most(0, d=1, otherwise=lg.INCONCLUSIVE)  # a test that does not reject
    assert alone(criterion("V1", "s", "e", unsaid, role="limits"))["verdict"] == lg.INCONCLUSIVE
    sizes = [alone(criterion("V1", "s", "e", REAL.x.at_least(0, d=1, paper=p), role="limits")) for p in (0.5, 0.6)]
    assert [row["paper_inside"] for row in sizes] == ["yes", "no"]


def test_on_the_same_seed_is_the_smallest_slack_in_units_of_d():
    joint = on_the_same_seed(REAL.x.at_least(0.4), (-REAL.x).at_least(-0.7, d=0.1))
    assert joint.estimate(runs()).tolist() == pytest.approx([0.5, 0.55, 0.45, 0.5, 0.5]) and joint.least == 1
    assert joint.arms == REAL.x.arms and "rlvr: x >= 0.4" in joint.name
    assert alone(criterion("V1", "s", "e", joint, role="limits"))["verdict"] == lg.REPLICATED


def test_snapshots_at_equal_distance():
    rows = [(s, k, kl, 10 * kl * s) for s in (21, 22) for k, kl in enumerate((0.0, 0.2, s / 50))]
    tables = {"path": pd.DataFrame(rows, columns=["seed", "step", "kl", "x"]).assign(arm="rlvr")[::-1]}
    at = [Rows("path", arm="rlvr").at("kl", kl).x for kl in (0.42, 0.43)]
    assert at[0](tables).to_dict() == {21: pytest.approx(88.2), 22: pytest.approx(92.4)} and at[0].name.endswith(
        "0.42: x"
    )
    assert at[1](tables).isna().tolist() == [True, False]


@pytest.mark.parametrize(
    "fields",
    [{}, {"role": "supports"}, {"role": "friend"}, {"role": "rival"}, {"role": "supports", "feeds": "size-ish"}],
)
def test_a_criterion_of_protocol_2_has_a_role_an_answer_and_a_rival_its_name(fields):
    with pytest.raises(ValueError, match=r"L1: (give one of the roles|say which of the answers)"):
        criterion("L1", "s", "e", Check("x", lambda tables: 1.0, UP), **fields)
    with pytest.raises(ValueError, match="rests on V0: declare that before it"):
        replace(whole := toy(), criteria=whole.criteria[1:], parts=())
    assert not BASE.where(arm="b")._needs and not NULL.where(arm="b")._needs and NULL.where(seed=21)._needs == "V0"


# --- Claim 1's page on the tables that there are -------------------------------------------------------


def page():
    """The first criteria of claim 1 in protocol 2, as its page has them."""
    base, rlvr = (Rows("summary", setting="expert", arm=name) for name in ("base", "rlvr"))
    null = Rows("summary", setting="expert", arm="shuffled_correct", needs="V0")
    first = Rows("summary", setting="expert_conf_first", arm="rlvr_conf_first")
    style = first.where(arm="shuffled_conf_first")
    shy, t00, t50, t75, t90 = (
        Rows("summary", setting="abstaining", arm=a)
        for a in ("base", *(f"abstain_{t}" for t in ("00", "50", "75", "90")))
    )
    quiet = (null - base).distance.equivalent(0.03), (null - base).accuracy_greedy.equivalent(0.01)
    guessing = t00.idk_rate.at_most(0.02), (t00 - shy).wrong_per_100.at_least(3)
    priced = ((more - less).idk_rate.at_least(0.05) for less, more in ((t00, t50), (t50, t75), (t75, t90)))
    sharp = (rlvr - base).sharpness.at_least(0.10, feeds="seen"), (rlvr - null).sharpness.at_least(0.10, feeds="due")
    moved = [(rlvr - other).distance.at_least(0.01, d=0.01, feeds=to) for other, to in ((base, "seen"), (null, "due"))]
    selects = (first - style).q_mean_mean.at_least(0.05), (first - style).bias.at_least(0.03)
    return (
        criterion("V0", "the shuffled reward is quiet", "distance, greedy accuracy", *quiet, role="control"),
        criterion("V1", "guessing", "IDK; wrong", *guessing, role="supports", feeds="seen"),
        criterion("V2", "a price brings it back, in order", "IDK", *priced, role="supports", feeds="due"),
        criterion("V4", "sharper than the truth", "E[pi(a*) - p(a*)]", *sharp, role="supports"),
        criterion("V6", "away from the truth", "distance", *moved, role="supports"),
        criterion("V10", "direction", "B", (rlvr - base).bias.direction(0.02, d=0.05), role="supports", feeds="seen"),
        criterion("V11", "the style is selected", "q; B", *selects, role="supports", feeds="seen due"),
    )


def test_claim_1_of_protocol_2_judges_the_tables_of_the_first_run_as_data():
    """A trial: the shuffled reward was too loud at the old rate, so nothing is due to anything. No verdict is kept."""
    summary = evidence.read_tables(ROOT / "data" / "reference" / "binary_reward")["summary"]
    new = {"seed": summary["seed"] + 10, "distance": summary["q_mean_abs_posterior"], "bias": summary["q_mean_gap"]}
    new["sharpness"] = summary["answer_prob_mean"] - summary["accuracy_greedy"]
    ids = {"(i)": "V1 V2", "(ii)": "V0 V4", "(iii)": "V0 V6", "(iv)": "V10", "(iv), first": "V11"}
    trial = claim(*page(), parts=tuple(Part(id, "world", id, tuple(of.split())) for id, of in ids.items()))
    ledger, checks, verdicts = lg.judge(trial, {"summary": summary.assign(**new)}, "laptop")
    words, parts = ledger.set_index("criterion")["verdict"], verdicts.set_index("part")
    assert words["V0"] == lg.NOT_REPLICATED and lg.NOT_ATTEMPTED not in set(words)
    assert parts.loc["(ii)", "seen"].startswith("yes: V4 rlvr minus base: sharpness")
    assert parts.loc["(ii)", "due"].startswith("open: V4") and "control failed: V0" in parts.loc["(ii)", "due"]
    assert parts.loc["(i)", "size"] == "no printed value" and (checks["p_in_band"].between(0, 1)).all()
    with pytest.raises(CandorError, match=r"^toy V0, check .*: Seed 11 gives no verdict"):
        lg.judge(trial, {"summary": summary.assign(**new | {"seed": summary["seed"]})}, "laptop")

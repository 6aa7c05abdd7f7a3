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
from candor.declare.ledger import Band, Check, Claim, Estimate, Part
from candor.declare.verdicts import Mean, Rate
from candor.run import evidence
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

REPEATS = 2500


def near(share, expected):
    """A share of `REPEATS` within 3.5 standard errors of what it should be."""
    return abs(share - expected) <= 3.5 * math.sqrt(expected * (1 - expected) / REPEATS)


def seeds(*values, first=21):
    return pd.Series(values, index=range(first, first + len(values)), dtype=float)


def means(centre, rng, n=5, s=1.0):
    """What `found` gives for n normal seeds: their mean, and the spread of stage 1 with 4 degrees of freedom."""
    for value, spread in zip(rng.normal(centre, s / math.sqrt(n), REPEATS), s * np.sqrt(rng.chisquare(4, REPEATS) / 4)):
        yield Mean(value, spread / math.sqrt(n), spread / math.sqrt(n), 4, n)


def shares(centre, band, **how):
    words = pd.Series([v.word(found, band, **how) for found in means(centre, np.random.default_rng(1))])
    return words.value_counts(normalize=True).reindex([v.REPLICATED, v.INCONCLUSIVE, v.NOT_REPLICATED], fill_value=0.0)


# --- Seeds and intervals ------------------------------------------------------------------------------


@pytest.mark.parametrize(("s", "d"), [(0.2, 1.0), (1.0, 1.0), (1.0, 0.3)])
def test_steins_interval_covers_although_the_spread_chose_the_seeds(s, d):
    rng, hits, counts = np.random.default_rng(0), 0, []
    for values in rng.normal(0.4, s, (REPEATS, 20)):
        counts.append(n := v.seeds_for(seeds(*values[:5]), d))
        found = v.found(seeds(*values[:n]))
        low, high = found.interval()
        hits += low <= 0.4 <= high
        assert n == v.CAP or high - low <= 2 * d * (1 + 1e-12)
        assert found.df == 4 and found.n == n and n == v.seeds_for(seeds(*values[:n]), d), "stage 2 changes no N"
    assert near(hits / REPEATS, 0.95) and 5 <= min(counts) <= max(counts) <= 20
    assert (np.median(counts) > 5) == (s > 0.5 * d)


def test_the_mean_of_stage_1_never_counts_and_its_spread_alone_does():
    values = seeds(1.0, 2.0, 3.0, 4.0, 5.0)
    n = math.ceil((stats.t.ppf(0.975, 4) * math.sqrt(2.5) / 1.2) ** 2)
    assert 5 < n < 20 and v.seeds_for(values, 1.2) == v.seeds_for(values + 100, 1.2) == n
    assert v.seeds_for(values, 0.1) == 20 and v.seeds_for(values, 100) == v.seeds_for(seeds(1.0), 1) == 5
    more = pd.concat([values, seeds(90.0, 90.0, first=26)])
    error = math.sqrt(2.5 / 7)
    assert v.found(more) == Mean(195 / 7, pytest.approx(error), pytest.approx(error), 4, 7)
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
    rng = np.random.default_rng(2)
    for values in rng.normal(0.02, 0.03, (200, 5)):
        found, sample = v.found(seeds(*values)), DescrStatsW(values)
        for level in (0.9, 0.95, 1 - 0.05 / 4):
            assert found.interval(level) == pytest.approx(sample.tconfint_mean(1 - level))
        assert found.inside(Band(low=0.01)) == pytest.approx(sample.ttest_mean(0.01, "larger")[1] * -1 + 1)
        equivalent = v.word(found, Band(-0.05, 0.05), v.EQUIVALENCE) == v.REPLICATED
        assert equivalent == (sample.ttost_mean(-0.05, 0.05)[0] < 0.05)
    assert stats.t.ppf(1 - 0.025 / 4, 4) == pytest.approx(4.31, abs=0.005)
    for k, n in ((0, 5), (3, 5), (7, 20), (20, 20)):
        assert Rate(k, n).interval() == pytest.approx(proportion_confint(k, n, method="beta"))
    ask = Estimate(0.3, 0.1, 0.7)
    assert v.found(ask).interval() == pytest.approx((0.1, 0.7)) and v.found(2).interval() == (2, 2)


def test_clopper_pearson_covers_at_any_rate():
    for n in (5, 12, 20):
        ends = np.array([Rate(k, n).interval() for k in range(n + 1)])
        for p in np.linspace(0.02, 0.98, 25):
            assert stats.binom.pmf(np.arange(n + 1), n, p)[(ends[:, 0] <= p) & (p <= ends[:, 1])].sum() >= 0.95


# --- Words --------------------------------------------------------------------------------------------

UP, WITHIN = Band(low=0.0), Band(-2.0, 2.0)


@pytest.mark.parametrize(
    ("centre", "band", "how", "replicated", "denied"),
    [
        (0.0, UP, {}, 0.025, 0.025),  # at the limit each word errs in one of forty cases
        (5.0, UP, {}, 1.0, 0.0),
        (-5.0, UP, {}, 0.0, 1.0),
        (0.0, UP, {"bands": 4}, 0.025, 0.05 / 8),  # each keeps its level; all four are denied at a quarter
        (2.0, WITHIN, {"rule": v.EQUIVALENCE}, 0.05, 0.025),
        (9.0, WITHIN, {"rule": v.EQUIVALENCE}, 0.0, 1.0),
        (2.0, Band(low=2.0), {"rule": v.DIRECTION, "none": 2.0}, 0.025, 0.05),
        (-9.0, Band(low=2.0), {"rule": v.DIRECTION, "none": 2.0}, 0.0, 1.0),
    ],
)
def test_error_rates_of_each_word_inside_outside_and_at_the_limit(centre, band, how, replicated, denied):
    found = shares(centre, band, **how)
    assert near(found[v.REPLICATED], replicated) or abs(found[v.REPLICATED] - replicated) < 0.005
    assert near(found[v.NOT_REPLICATED], denied) or abs(found[v.NOT_REPLICATED] - denied) < 0.005


def test_a_conjunction_that_is_true_at_every_limit_is_denied_in_one_of_twenty_cases_at_most():
    rng = np.random.default_rng(3)
    four = zip(*(means(0.0, rng) for _ in range(4)))
    words = [[v.word(found, UP, bands=4) for found in bands] for bands in four]
    denied = np.mean([v.worst(said) == v.NOT_REPLICATED for said in words])
    assert near(denied, 1 - (1 - 0.05 / 8) ** 4) and 1 - (1 - 0.05 / 8) ** 4 < 0.05


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
        (Mean(3.0), Band(high=3.0), v.INTERVAL, v.REPLICATED),  # a bare number
        (Mean(math.nan), UP, v.INTERVAL, v.INCONCLUSIVE),
        (v.found(math.inf), UP, v.INTERVAL, v.INCONCLUSIVE),
        (v.found(seeds(1.0)), UP, v.INTERVAL, v.INCONCLUSIVE),
        (v.found(seeds(1, 1, 1, 1, 1)), Band(low=1), v.INTERVAL, v.REPLICATED),
    ],
)
def test_sizes_states_and_numbers(found, band, rule, said):
    assert v.word(found, band, rule) == said


def test_probabilities_in_the_band():
    assert Mean(0.0, 1, 1, 4).inside(Band(-1, 1)) == pytest.approx(1 - 2 * stats.t.sf(1, 4))
    assert [Mean(2.0).inside(Band(low=low)) for low in (2, 3)] == [1, 0] == [Rate(0, 5).inside(Band(0, 0)), 0]
    assert Rate(5, 10).inside(Band(low=0.5)) == pytest.approx(0.5)


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
    found = v.at_first_crossing(x, 10 * np.arange(len(x)), target)
    assert found == pytest.approx(value, nan_ok=True)


# --- Claims -------------------------------------------------------------------------------------------


def arm(name, needs=""):
    return Rows("runs", arm=name, needs=needs)


BASE, NULL, REAL = arm("base"), arm("shuffled", needs="V0"), arm("rlvr")
QUIET, LOUD = (0.0, 0.01, -0.01, 0.0, 0.0), (0.5, 0.51, 0.49, 0.5, 0.5)
UNSURE = (0.1, -0.3, 0.5, 0.2, -0.2)


def toy(role="supports", overall=lambda verdict: (lg.REPORTED, ""), **more):
    """A claim with a control, a gate, one effect and its rival; `role` is that of one more criterion, V9."""
    control = criterion("V0", "quiet", "x", (NULL - BASE).x.equivalent(0.05), role="control")
    gate = criterion("V1", "fit", "x", BASE.fit.at_least(0.9), role="gate")
    feeds = {} if role in ("rival", "limits", "context") else {"feeds": "seen"}
    feeds |= {"rival": "style"} if role == "rival" else {}
    effect = criterion(
        *("V2", "it rises", "x"),
        (REAL - BASE).x.at_least(0.1, feeds="seen"),
        (REAL - NULL).x.at_least(0.1, feeds="due"),
        role="supports",
    )
    other = criterion("V9", "another", "y", arm("other", needs="V1").x.at_least(0.1), role=role, **feeds)
    printed = criterion("V3", "as large", "x", (REAL - BASE).x.printed(0.5, **more), role="size")
    parts = (Part("(i)", "world", "all of it", ("V0", "V1", "V2", "V3", "V9")),)
    return Claim("toy", 9, "T", "S", "k", "c", (control, gate, effect, printed, other), parts, overall, ("runs",))


def runs(fit=0.95, **arms):
    given = {"base": QUIET, "shuffled": QUIET, "rlvr": LOUD, "other": LOUD} | arms
    rows = [(name, 21 + i, x, fit) for name, values in given.items() for i, x in enumerate(values)]
    return {"runs": pd.DataFrame(rows, columns=["arm", "seed", "x", "fit"])}


def judged(claim, tables, scale="laptop"):
    ledger, checks, verdicts = lg.judge(claim, tables, scale)
    return ledger.set_index("criterion"), checks, verdicts.set_index("part").loc["(i)"]


def answers(claim, tables):
    part = judged(claim, tables)[2]
    return tuple(part[to].split(":")[0] for to in v.ANSWERS)


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
        ("limits", ("yes", "yes", "yes")),
        ("context", ("yes", "yes", "yes")),
        ("rival", ("yes", "yes", "yes")),
    ],
)
def test_each_criterion_moves_its_part_in_the_direction_of_its_role(role, expected):
    claim = toy(role)
    found = [answers(claim, runs(other=values)) for values in (LOUD, UNSURE, tuple(-x for x in LOUD))]
    assert tuple(seen for seen, *_ in found) == expected
    assert {rest for _, *rest in [(f[0], f[1:]) for f in found] for rest in rest} == {("yes", "yes", "not asked")}
    due = [judged(claim, runs(other=values))[2]["due"] for values in (LOUD, UNSURE)]
    assert ["not excluded: style (V9)" in said for said in due] == [False, role == "rival"]


@pytest.mark.parametrize(
    ("tables", "seen", "due", "size"),
    [
        (runs(rlvr=QUIET), "no", "no", "no"),
        (runs(rlvr=UNSURE), "open", "open", "no"),
        (runs(shuffled=LOUD), "yes", "open", "yes"),  # what subtracts a control that moves is open
        (runs(shuffled=UNSURE), "yes", "open", "yes"),
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


def test_what_is_open_says_why():
    ledger, _, part = judged(toy(), runs(shuffled=LOUD, other=UNSURE, rlvr=(0.5, 0.51, math.nan, math.nan, 0.49)))
    assert ledger.loc["V0", "verdict"] == lg.NOT_REPLICATED and "control failed: V0 not replicated" in part["due"]
    assert "2 of 5 seeds have no value" in ledger.loc["V2", "note"]
    assert ledger.loc["V9", "note"] == "stage 2 asks for 20 seeds"
    many = [*UNSURE * 4]
    ledger, *_ = judged(toy(), runs(base=[0.0] * 20, other=many))
    s, mean = np.std(UNSURE, ddof=1), np.mean(many)
    wanted = math.ceil((stats.t.ppf(0.975, 4) * s / (0.1 - mean)) ** 2)
    assert ledger.loc["V9", "note"] == f"needs about {wanted} seeds"
    smoke = judged(toy(), runs(), "smoke")
    assert set(smoke[0]["verdict"]) == {lg.NOT_ATTEMPTED} and smoke[2]["seen"].startswith("open: V")


def test_a_direction_says_which_and_context_has_no_verdict():
    for values, note, word in (
        ((0.5, 0.51, 0.49, 0.5, 0.5), "up", lg.REPLICATED),
        ((-0.5, -0.51, -0.49, -0.5, -0.5), "down", lg.NOT_REPLICATED),
        (QUIET, "none", lg.NOT_REPLICATED),
    ):
        row = alone(
            criterion("V1", "s", "e", arm("rlvr").x.direction(0.05), role="supports", feeds="seen"), rlvr=values
        )
        assert (row["verdict"], row["note"]) == (word, note)
    for evidence_, word in (("published", v.RECOMPUTED), ("world", lg.REPORTED)):
        exact = Measure(lambda tables: 3, "three").equals(3)
        assert alone(criterion("V1", "s", "e", exact, role="context", evidence=evidence_))["verdict"] == word
    share = arm("rlvr").x.map(lambda values: values >= 0.5)
    row = alone(criterion("V1", "s", "e", share.rate(low=0.1), role="limits"))
    assert row["verdict"] == lg.REPLICATED and row["value"] == 0.8 and row["ci_low"] == pytest.approx(0.2836, abs=1e-4)


def alone(one, **arms):
    claim = Claim("toy", 9, "T", "S", "k", "c", (one,), (), lambda verdict: ("", ""), ("runs",))
    return lg.judge(claim, runs(**arms), "laptop")[0].iloc[0]


def test_on_the_same_seed_is_the_smallest_slack_in_units_of_d():
    x = arm("rlvr").x
    joint = on_the_same_seed(x.at_least(0.4), (-x).at_least(-0.7, d=0.1))
    assert joint.estimate(runs()).tolist() == pytest.approx([0.5, 0.55, 0.45, 0.5, 0.5]) and joint.least == 1
    assert joint.arms == x.arms and "rlvr: x >= 0.4" in joint.name
    assert alone(criterion("V1", "s", "e", joint, role="limits"))["verdict"] == lg.REPLICATED


def test_snapshots_at_equal_distance():
    rows = [(s, k, kl, 10 * kl * s) for s in (21, 22) for k, kl in enumerate((0.0, 0.2, s / 50))]
    tables = {"path": pd.DataFrame(rows, columns=["seed", "step", "kl", "x"]).assign(arm="rlvr")[::-1]}
    at = Rows("path", arm="rlvr").at("kl", 0.42)
    assert at.x(tables).to_dict() == {21: pytest.approx(88.2), 22: pytest.approx(92.4)} and at.x.name.endswith(
        "0.42: x"
    )
    assert at._like(_along=("kl", 0.43)).x(tables).isna().tolist() == [True, False]


@pytest.mark.parametrize(
    "fields",
    [{}, {"role": "supports"}, {"role": "friend"}, {"role": "rival"}, {"role": "supports", "feeds": "size-ish"}],
)
def test_a_criterion_of_protocol_2_has_a_role_an_answer_and_a_rival_its_name(fields):
    with pytest.raises(ValueError, match=r"V1: (give one of the roles|say which of the answers)"):
        criterion("V1", "s", "e", Check("x", lambda tables: 1.0, UP), **fields)
    with pytest.raises(ValueError, match="rests on V0: declare that before it"):
        claim = toy()
        replace(claim, criteria=claim.criteria[1:], parts=())


# --- Claim 1's page on the tables that there are -------------------------------------------------------


def page():
    """The first criteria of claim 1 in protocol 2, as its page has them."""
    base, rlvr, kl = (Rows("summary", setting="expert", arm=name) for name in ("base", "rlvr", "rlvr_kl"))
    null = Rows("summary", setting="expert", arm="shuffled_correct", needs="V0")
    first, style, shy = (
        Rows("summary", setting="expert_conf_first", arm="rlvr_conf_first"),
        Rows("summary", setting="expert_conf_first", arm="shuffled_conf_first"),
        Rows("summary", setting="abstaining", arm="base"),
    )
    t00, t50, t75, t90 = (shy.where(arm=f"abstain_{t}") for t in ("00", "50", "75", "90"))
    quiet = (null - base).distance.equivalent(0.03), (null - base).accuracy_greedy.equivalent(0.01)
    guessing = t00.idk_rate.at_most(0.02), (t00 - shy).wrong_per_100.at_least(3)
    priced = ((more - less).idk_rate.at_least(0.05) for less, more in ((t00, t50), (t50, t75), (t75, t90)))
    sharp = (rlvr - base).sharpness.at_least(0.10, feeds="seen"), (rlvr - null).sharpness.at_least(0.10, feeds="due")
    moved = [(rlvr - other).distance.at_least(0.01, d=0.01, feeds=to) for other, to in ((base, "seen"), (null, "due"))]
    selects = (first - style).q_mean_mean.at_least(0.05), (first - style).bias.at_least(0.03)
    bounded = (kl - base).distance.at_most(0.03), (kl - rlvr).distance.at_most(-0.01), kl.sharpness.at_least(0.10)
    return (
        criterion("V0", "the shuffled reward is quiet", "distance, greedy accuracy", *quiet, role="control"),
        criterion("V1", "guessing", "IDK; wrong", *guessing, role="supports", feeds="seen"),
        criterion("V2", "a price brings it back, in order", "IDK", *priced, role="supports", feeds="due"),
        criterion("V4", "sharper than the truth", "E[pi(a*) - p(a*)]", *sharp, role="supports"),
        criterion("V6", "away from the truth", "distance", *moved, role="supports"),
        criterion("V7", "ranks worse", "AUROC", (rlvr - base).q_mean_auroc.at_most(-0.02), role="limits"),
        criterion("V10", "direction", "B", (rlvr - base).bias.direction(0.02, d=0.05), role="supports", feeds="seen"),
        criterion("V11", "the style is selected", "q; B", *selects, role="supports", feeds="seen due"),
        criterion("V12", "a KL term bounds it", "distance", *bounded, role="limits"),
        criterion("V13", "accuracy", "greedy", (rlvr - base).accuracy_greedy.equivalent(0.01), role="limits"),
    )


PARTS = {"(i)": "V1 V2", "(ii)": "V0 V4", "(iii)": "V0 V6 V7", "(iv)": "V10", "(iv), first": "V11"}


def test_claim_1_of_protocol_2_judges_the_tables_of_the_first_run_as_data():
    """A trial: the shuffled reward was too loud at the old rate, so nothing is due to anything. No verdict is kept."""
    tables = evidence.read_tables(ROOT / "data" / "reference" / "binary_reward")
    summary = tables["summary"].assign(seed=lambda s: s["seed"] + 10, distance=lambda s: s["q_mean_abs_posterior"])
    summary = summary.assign(
        sharpness=lambda s: s["answer_prob_mean"] - s["accuracy_greedy"], bias=summary["q_mean_gap"]
    )
    parts = tuple(Part(id, "world", id, tuple(ids.split())) for id, ids in PARTS.items())
    claim = Claim("trial", 1, "T", "S", "k", "c", page(), parts, lambda verdict: (lg.REPORTED, ""), ("summary",))
    ledger, checks, verdicts = lg.judge(claim, {"summary": summary}, "laptop")
    words, answers = ledger.set_index("criterion")["verdict"], verdicts.set_index("part")[list(v.ANSWERS)]
    assert words["V0"] == lg.NOT_REPLICATED and lg.NOT_ATTEMPTED not in set(words)
    assert answers.loc["(ii)", "seen"].startswith("yes: V4 rlvr minus base: sharpness")
    assert answers.loc["(ii)", "due"].startswith("open: V4") and "control failed: V0" in answers.loc["(ii)", "due"]
    assert answers.loc["(i)", "size"] == "no printed value" and (checks["p_in_band"].between(0, 1)).all()
    with pytest.raises(CandorError, match=r"^trial V0, check .*: Seed 11 gives no verdict"):
        lg.judge(claim, {"summary": summary.assign(seed=summary["seed"] - 10)}, "laptop")

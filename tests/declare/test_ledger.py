"""The house rule of verdicts, branch by branch, and what the three CSVs hold."""

import math

import numpy as np
import pandas as pd
import pytest
from candor.core.errors import CandorError
from candor.declare import ledger as lg
from candor.declare.ledger import Band, Check, Claim, Criterion, Estimate, Part
from scipy import stats

UP = Band(low=1.0)


def seeds(*values):
    return pd.Series(values, index=range(11, 11 + len(values)), dtype=float)


@pytest.mark.parametrize(
    "values, band, count, verdict, passes",
    [
        ([2, 2.1, 2.2, 2.1, 2], UP, 5, lg.REPLICATED, 5),
        ([2, 2.1, 2.2, 2.1, 2], UP, None, lg.REPLICATED, 5),
        ([1.3, 1.25, 1.2, 1.25, 0.99], UP, 4, lg.REPLICATED, 4),  # one seed outside, allowed
        ([1.3, 1.25, 1.2, 1.25, 0.99], UP, 5, lg.PARTLY, 4),  # interval inside, count missed
        ([5, 1.1, 1.2, 1.1, 1.2], UP, 5, lg.INCONCLUSIVE, 5),  # count met, interval spans the limit
        ([0.9, 1.2, 0.8, 1.2, 0.9], UP, 4, lg.INCONCLUSIVE, 2),  # neither, but not wholly outside
        ([0.5, 0.6, 0.5, 0.4, 0.5], UP, 4, lg.NOT_REPLICATED, 0),
        ([2, 2.1, 2.2, 2.1, 2], Band(high=1.0), 4, lg.NOT_REPLICATED, 0),
        ([-0.01, 0.0, 0.01, 0.0, 0.0], Band(-0.02, 0.02), 5, lg.REPLICATED, 5),
        ([1, 1, 1, 1, 1], UP, 5, lg.REPLICATED, 5),  # no spread, on the limit: the band is closed
        ([1, 1, 1, 1, 1], Band(high=1.0), 5, lg.REPLICATED, 5),  # at both ends
        ([2, 2.1, 2], UP, 5, lg.PARTLY, 3),  # three seeds never do better
        ([2, 2.1, 2, 2.1], UP, None, lg.PARTLY, 4),
        ([0.5, 0.51, 0.5], UP, 5, lg.NOT_REPLICATED, 0),  # but can do worse
        ([2.0], UP, 5, lg.INCONCLUSIVE, 1),  # one seed has no interval
        ([0.1], UP, 5, lg.INCONCLUSIVE, 0),
    ],
)
def test_judge_seeds(values, band, count, verdict, passes):
    found, low, high, passed = lg.judge_seeds(seeds(*values), band, count)
    assert (found, passed) == (verdict, passes)
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
        assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))


@pytest.mark.parametrize("n, count, needed", [(5, 5, 5), (10, 4, 8), (10, 3, 6), (15, 3, 9), (7, 4, 6), (10, 5, 10)])
def test_the_count_scales_with_the_seeds(n, count, needed):
    """`count` of five: the same share of any number of seeds, rounded up."""
    for passing, word in ((needed, lg.REPLICATED), (needed - 1, lg.PARTLY)):
        # Far inside for those that pass, a hair outside for the others, so that only the count decides.
        values = seeds(*[2.0] * passing, *[1 - 1e-12] * (n - passing))
        assert lg.judge_seeds(values, UP, count)[0] == word


def test_an_interval_that_touches_the_band_is_not_wholly_outside():
    values = seeds(2, 2.1, 2.2, 2.1, 2)
    low, high = lg.judge_seeds(values, Band(), 5)[1:3]
    for band in (Band(low=high), Band(high=low)):
        assert lg.judge_seeds(values, band, 5)[0] == lg.INCONCLUSIVE


@pytest.mark.parametrize("seed", [11, 14])
def test_a_seed_that_is_counted_twice_is_refused(seed):
    values = pd.Series([2.0, 2.1, 2.0, 2.2, 2.1], index=[11, 12, seed, 14, 15])
    with pytest.raises(CandorError, match=f"Seed {seed} is counted twice"):
        lg.judge_seeds(values, UP, 4)
    with pytest.raises(CandorError, match=f"^toy W1, check 'main': Seed {seed} is counted twice"):
        judged(criterion(check(values.where(values != 2.1))))  # a seed without a value is a seed


def test_the_order_of_seeds_does_not_matter():
    values = seeds(2, 2.1, 2.2, 0.9, 2)
    row, shuffled = (judged(criterion(check(v)))[1].iloc[0] for v in (values, values.iloc[[3, 0, 4, 1, 2]]))
    assert row["per_seed"] == "2.0000 2.1000 2.2000 0.9000 2.0000" and row.equals(shuffled)


@pytest.mark.parametrize("band", [UP, Band(high=1.0), Band(0, 3), Band()])
def test_an_infinite_value_decides_nothing(band):
    found, low, high, _ = lg.judge_seeds(seeds(2, 2.1, math.inf, 2, 2), band, 4)
    assert found == lg.INCONCLUSIVE and math.isnan(low) and math.isnan(high)
    assert verdict_of(criterion(check(math.inf, band))) == verdict_of(criterion(check(-math.inf, band))) == found


def test_worst():
    order = [lg.NOT_ATTEMPTED, lg.NOT_REPLICATED, lg.INCONCLUSIVE, lg.PARTLY, lg.REPLICATED]
    for i, low in enumerate(order):
        assert all(lg.worst([high, lg.REPORTED, low]) == low for high in order[i:])
    assert lg.worst([lg.REPORTED, lg.REPORTED]) == lg.worst([]) == lg.REPORTED
    assert set(order) | {lg.REPORTED} == set(lg.VERDICTS)


@pytest.mark.parametrize(
    "band, text", [(Band(1), ">= 1"), (Band(high=0.05), "<= 0.05"), (Band(0.1, 0.2), "0.1 to 0.2"), (Band(3, 3), "= 3")]
)
def test_bands_read_as_sentences(band, text):
    assert str(band) == text


@pytest.mark.parametrize("limits", [(2, 1), (math.nan, 1), (0, math.nan)])
def test_a_band_that_holds_nothing_is_refused(limits):
    with pytest.raises(ValueError, match="No value lies in a band from"):
        Band(*limits)


# --- Whole claims -----------------------------------------------------------------------------------

GOOD, BAD = seeds(2, 2.1, 2.2, 2.1, 2), seeds(0.1, 0.2, 0.1, 0.2, 0.1)


def check(value, band=UP, name="main", **more):
    return Check(name, value if callable(value) else lambda tables: value, band, **more)


def claim(*criteria, parts=(), overall=lambda verdict: (lg.worst(list(verdict.values())), "as the worst"), known=()):
    return Claim("toy", 9, "Toy", "It holds.", "key", "Somebody", criteria, parts, overall, tables=known)


def criterion(*checks, id="W1", evidence="world", **more):
    return Criterion(id, evidence, "It rises.", "mean", tuple(checks), **more)


def judged(*criteria, scale="laptop", tables=None, **more):
    return lg.judge(claim(*criteria, **more), tables or {}, scale)


def verdict_of(*criteria, **more):
    return judged(*criteria, **more)[0].iloc[0]["verdict"]


def absent(tables):
    raise lg.NotRun("Nothing was run.")


def test_only_what_was_not_run_is_not_attempted():
    assert verdict_of(criterion(check(absent))) == lg.NOT_ATTEMPTED
    assert verdict_of(criterion(check(lambda tables: tables["x"]["y"])), known=("x",)) == lg.NOT_ATTEMPTED
    assert verdict_of(criterion()) == lg.NOT_ATTEMPTED, "evidence that this scale does not make"


@pytest.mark.parametrize("scale", ["laptop", "smoke"])
@pytest.mark.parametrize(
    "wrong",
    [lambda t: t["z"], lambda t: t["x"]["y"], lambda t: {}["a"], lambda t: 1 / 0, lambda t: "b", lambda t: None],
)
def test_whatever_else_goes_wrong_is_an_error_that_names_the_check(wrong, scale):
    tables = {"x": pd.DataFrame({"seed": [11]})}
    for what, broken in (
        ("check 'main'", criterion(check(wrong))),
        ("check 'main'", criterion(check(GOOD, name="first"), check(wrong))),
        ("check 'gate'", criterion(check(GOOD), gates=(check(wrong, name="gate"),))),
    ):
        with pytest.raises(
            CandorError, match=f"^toy W1, {what}(, fails \\(.*\\): correct|: The claim declares no table 'z': add)"
        ):
            judged(broken, scale=scale, tables=tables, known=("x",))


@pytest.mark.parametrize("value", [pd.Series(dtype=float), seeds(math.nan, math.nan), math.nan, Estimate(math.nan)])
def test_a_run_without_a_value_decides_nothing(value):
    """Something was run, so that it is not "not attempted"; but it has no number."""
    assert verdict_of(criterion(check(value))) == lg.INCONCLUSIVE
    assert verdict_of(criterion(check(value, band=None))) == lg.REPORTED
    assert verdict_of(criterion(check(GOOD), gates=(check(value),))) == lg.NOT_ATTEMPTED


def test_a_seed_without_a_value_is_left_out_and_never_gives_more_than_partly():
    ledger, _, _ = judged(criterion(check(seeds(2, 2.1, math.nan, 2.1, 2), count=4)))
    assert ledger.iloc[0]["seeds"] == "11 12 14 15" and ledger.iloc[0]["verdict"] == lg.PARTLY
    assert verdict_of(criterion(check(seeds(2, 2.1, math.nan, 2.1, 2, 2.2, 2.1), count=4))) == lg.PARTLY


def test_notes_of_what_was_not_run_and_of_what_lacks():
    ledger, _, _ = judged(criterion(check(absent), note=absent))
    assert ledger.iloc[0]["verdict"] == lg.NOT_ATTEMPTED and ledger.iloc[0]["note"] == ""

    def incomplete(tables):
        raise lg.Incomplete("two of three files are missing")

    ledger, _, _ = judged(criterion(check(incomplete), check(incomplete, name="second"), note="so"))
    assert ledger.iloc[0][["verdict", "note"]].tolist() == [lg.NOT_ATTEMPTED, "two of three files are missing; so"]


@pytest.mark.parametrize(
    "checks, word",
    [
        ([check(1.0)], lg.REPLICATED),  # numbers and estimates are judged by the band alone
        ([check(Estimate(1.5, 0.5, 2))], lg.REPLICATED),
        ([check(0.99)], lg.NOT_REPLICATED),
        ([check(0.5, band=None)], lg.REPORTED),
        ([check(BAD, band=None)], lg.REPORTED),
        ([check(GOOD), check(BAD), check(5.0, band=None)], lg.NOT_REPLICATED),  # several are as good as the worst
        ([check(GOOD), check(absent)], lg.NOT_ATTEMPTED),
    ],
)
def test_numbers_estimates_and_several_checks(checks, word):
    assert verdict_of(criterion(*checks)) == word


@pytest.mark.parametrize("gate, passes", [(GOOD, True), (GOOD[:3], True), (BAD, False), (seeds(0, 2, 1, 3, 0), False)])
def test_a_failed_gate_means_not_attempted(gate, passes):
    ledger, _, _ = judged(criterion(check(GOOD), gates=(check(gate, name="base is calibrated"),)))
    row = ledger.iloc[0]
    assert row["verdict"] == (lg.REPLICATED if passes else lg.NOT_ATTEMPTED)
    assert row["note"] == ("" if passes else "gate failed: base is calibrated")
    assert row["value"] == pytest.approx(2.08), "the number is shown all the same"


def test_smoke_never_gives_a_verdict_on_a_run():
    world, published = criterion(check(GOOD)), criterion(check(1.0), id="P1", evidence="published")
    ledger, checks, verdicts = judged(world, published, scale="smoke")
    assert ledger["verdict"].tolist() == [lg.NOT_ATTEMPTED, lg.REPLICATED]
    assert ledger.iloc[0]["note"] == "mechanics only" and checks.iloc[0]["verdict"] == lg.NOT_ATTEMPTED
    assert verdicts.iloc[-1][["part", "verdict", "note"]].tolist() == ["overall", lg.NOT_ATTEMPTED, "mechanics only"]
    for value in (seeds(2.0), 1.0, Estimate(5, n=5)):  # a count of seeds rests on runs, too
        ledger, checks, _ = judged(criterion(check(value), check(value, band=None, name="b")), scale="smoke")
        assert ledger.iloc[0]["verdict"] == lg.NOT_ATTEMPTED and ledger.iloc[0]["note"] == "mechanics only"
        assert set(checks["verdict"]) == {lg.NOT_ATTEMPTED}
    ledger, checks, _ = judged(criterion(check(1.0), computed=True), scale="smoke")
    assert ledger.iloc[0]["verdict"] == checks.iloc[0]["verdict"] == lg.REPLICATED, "a closed form keeps its verdict"
    assert judged(criterion(check(absent), note="so"), scale="smoke")[0].iloc[0]["note"] == "so", "nothing ran"


def test_a_claim_cannot_contradict_itself():
    with pytest.raises(ValueError, match="declared twice"):
        claim(criterion(), criterion())
    with pytest.raises(ValueError, match="no such criterion"):
        claim(criterion(), parts=(Part("(i)", "world", "x", ("W9",)),))


def test_every_declared_id_has_its_row(tmp_path):
    toy = claim(criterion(check(GOOD)), criterion(id="M1", evidence="models"))
    frames = lg.write([(toy, {})], "laptop", tmp_path / "deep" / "folder")
    assert lg.missing_criteria(toy, frames["ledger"]) == []
    assert lg.missing_criteria(toy, frames["ledger"].iloc[:1]) == ["M1"]
    assert [list(frame) for frame in frames.values()] == [lg.LEDGER_COLUMNS, lg.CHECK_COLUMNS, lg.VERDICT_COLUMNS]

"""The committed ledger is what the criteria make of the committed tables; what is wrong in either is an error."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from candor import claims
from candor.core import store
from candor.core.errors import CandorError
from candor.declare import ledger
from candor.declare.expressions import Rows
from candor.run import evidence, publish
from candor.run import plan as graph

REFERENCES = [(graph.REFERENCE, claims.NAMES, "laptop"), (graph.REFERENCE / "sweep", claims.STUDIES, "sweep")]
EACH = [(folder, name, scale) for folder, names, scale in REFERENCES for name in names]
KEYS = {"ledger": ["claim", "criterion"], "checks": ["claim", "criterion", "check"], "verdicts": ["claim", "part"]}


@cache
def reference(name):
    """The reference's tables of a claim; a caller must not change them."""
    [folder] = [folder for folder, of, _ in EACH if of == name]
    return evidence.read_tables(folder / name)


@cache
def kept(folder):
    return {name: pd.read_csv(folder / f"{name}.csv", dtype=str, keep_default_na=False) for name in evidence.LEDGERS}


def differences(found, wanted, keys):
    """A sentence for each cell of `found` that is not as in `wanted`: numbers agree to five of their six digits."""
    rows = [frame.set_index(keys) for frame in (found, wanted)]
    gone = [f"{' '.join(key)} is only in one of them" for key in rows[0].index.symmetric_difference(rows[1].index)]
    rows = [frame.loc[rows[0].index.intersection(rows[1].index)] for frame in rows]
    return gone + [
        f"{' '.join(key)}: {column} is {now!r}, not {then!r}"
        for column in wanted.columns.drop(keys)
        for key, now, then in zip(rows[0].index, rows[0][column], rows[1][column])
        if not agree(now, then)
    ]


def agree(now, then):
    """Equal as text, or number for number (a seed's values are several) up to the rounding of the last digit."""
    if now == then:
        return True
    numbers = [pd.to_numeric(pd.Series(text.split()), errors="coerce") for text in (now, then)]
    if len(numbers[0]) != len(numbers[1]) or pd.concat(numbers).isna().any():
        return False
    return np.allclose(*numbers, rtol=2e-5, atol=2e-4 if len(numbers[0]) > 1 else 0)


@pytest.mark.parametrize(("folder", "name", "scale"), EACH, ids=lambda of: of if isinstance(of, str) else "")
def test_the_committed_ledger_is_what_the_criteria_make_of_the_committed_tables(folder, name, scale, tmp_path):
    ledger.write([(claims.load(name).claim, reference(name))], scale, tmp_path)
    for part, found in kept(tmp_path).items():
        wanted = kept(folder)[part]
        wanted = wanted[wanted["claim"] == name]
        assert not (wrong := differences(found, wanted, KEYS[part])), f"{part}.csv: " + "; ".join(wrong)
        assert (found[KEYS[part]].to_numpy() == wanted[KEYS[part]].to_numpy()).all(), f"{part}.csv: another order"


def test_a_difference_is_named_with_both_values():
    frame = kept(graph.REFERENCE)["checks"]
    row, other = frame.loc[3], frame.copy()
    other.loc[3, "value"] = "0.5"
    said = f"{row.claim} {row.criterion} {row.check}: value is '0.5', not {row.value!r}"
    assert differences(other, frame, KEYS["checks"]) == [said] and differences(frame[1:], frame, KEYS["checks"])
    assert agree("0.123456", "0.123457") and agree("0.1000 0.2000", "0.1001 0.2000")
    assert not any(agree(*two) for two in (("0.1234", "0.1235"), ("11 12", "11 13"), ("", "0"), ("5/5", "4/5")))


# --- What the criteria read ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*claims.NAMES, *claims.STUDIES])
def test_what_rests_on_runs_is_declared(name):
    """Without the tables of runs, exactly what rests on none is judged: these have seeds, the others have not."""
    claim, tables = claims.load(name).claim, reference(name)
    bare = {table: frame for table, frame in tables.items() if "seed" not in frame}
    whole, without = (
        ledger.judge(claim, given, "laptop")[1].groupby("criterion", sort=False)["verdict"].agg(list)
        for given in (tables, bare)
    )
    for criterion in claim.criteria:
        if criterion.id in whole:
            rests = criterion.rests_on_runs
            assert rests == ("not attempted" in without[criterion.id]), (
                f"{criterion.id}: declare whether it is computed"
            )
            assert rests or without[criterion.id] == whole[criterion.id]


def one(estimate, tables, scale="laptop", **fields):
    """The ledger's row of one check among the criteria of claim 1."""
    check = ledger.Check("it", estimate, ledger.Band(low=0))
    criterion = ledger.Criterion("X1", "world", "s", "e", (check,), **fields)
    claim = replace(
        claims.load("binary_reward").claim, criteria=(criterion,), parts=(), overall=lambda verdict: ("", "")
    )
    return ledger.judge(claim, tables, scale)[0].loc[0]


RLVR = {"setting": "expert", "arm": "rlvr"}


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ({"table": "sumary"}, "The claim declares no table 'sumary': write summary, or add it to its `tables`."),
        ({"column": "answer_ecee"}, "The table summary has no column 'answer_ecee': write answer_ece"),
        ({"arm": "rlvrr"}, "The table summary has no row with arm 'rlvrr': write rlvr"),
        ({"setting": "expret"}, "no row with setting 'expret': write expert"),
        ({"setting": "rlvr", "arm": "expert"}, "no row with setting 'rlvr'"),
        ({"arm": "expert"}, "no row with arm 'expert'"),
        ({"amr": "rlvr"}, "The table summary has no column 'amr': write arm"),
        ({"arm": None}, "The table summary has more than one row with seed 11, setting expert:"),
    ],
)
@pytest.mark.parametrize("scale", ["laptop", "smoke"])
def test_a_slip_is_an_error_that_says_where(where, why, scale):
    given = {"table": "summary", "column": "answer_ece", **RLVR, **where}
    table, column = given.pop("table"), given.pop("column")
    with pytest.raises(CandorError) as error:
        rows = Rows(table, number=False, **{key: value for key, value in given.items() if value})
        one(rows.column(column), reference("binary_reward"), scale)
    assert str(error.value).startswith("binary_reward X1, check 'it': ") and why in str(error.value)
    assert str(error.value).count(". ") == 0 and str(error.value).endswith(".")


def test_a_number_is_that_of_one_row():
    with pytest.raises(CandorError, match="cells has more than one row with family HotpotQA: select by more columns"):
        Rows("cells", family="HotpotQA").n(reference("binary_reward"))


@pytest.mark.parametrize(
    "rows",
    [
        lambda tables: {},
        lambda tables: {**tables, "summary": tables["summary"][:0]},
        lambda tables: {**tables, "summary": tables["summary"].query("arm != 'rlvr'")},
        lambda tables: {**tables, "summary": tables["summary"].query("setting != 'expert'")},
    ],
)
def test_what_was_not_run_is_not_attempted(rows):
    estimate = Rows("summary", **RLVR).answer_ece
    tables = reference("binary_reward")
    assert one(estimate, tables)["verdict"] == "replicated"
    assert one(estimate, rows(tables))["verdict"] == "not attempted"
    disjoint = estimate - estimate.map(lambda values: values.rename(lambda seed: seed + 100))
    assert one(disjoint, tables)["verdict"] == "not attempted"


@pytest.mark.parametrize(
    ("seeds", "why"),
    [
        ([11, 12, 13, 14, 14], "more than one row with seed 14, setting expert, arm rlvr"),
        ([11.0, 12.0, 13.0, 14.0, 14.5], "seeds that are no whole numbers, such as"),
        (list("abcde"), "seeds that are no whole numbers, such as 'a'"),
        ([15, 13, 11, 12, 14], None),
    ],
)
def test_seeds_of_a_table_are_whole_numbers_and_one_row_each(seeds, why):
    table = pd.DataFrame({"setting": "expert", "arm": "rlvr", "seed": seeds, "x": [1.0, 2.0, 3.0, 4.0, 5.0]})
    if why is None:
        row = one(Rows("summary", **RLVR).x, {"summary": table})
        assert row["seeds"] == "11 12 13 14 15"
        return
    with pytest.raises(CandorError, match=why):
        one(Rows("summary", **RLVR).x, {"summary": table})


def test_a_note_is_asked_as_a_check_is():
    def note(tables):
        return f"{Rows('summary', **RLVR).answer_ece(tables).mean():.1f}"

    fine = Rows("summary", **RLVR).answer_ece
    assert one(fine, reference("binary_reward"), note=note)["note"] == "0.2"
    assert one(fine, {}, note=note)["note"] == ""
    with pytest.raises(CandorError, match=r"binary_reward X1, its note: The claim declares no table 'nothing'"):
        one(fine, reference("binary_reward"), note=lambda tables: tables["nothing"])


# --- A run held against the reference -----------------------------------------------------------------


def sealed(folder):
    store.seal(folder / "provenance.json", {}, [folder / f"{name}.csv" for name in evidence.LEDGERS])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A smoke run without a graph: the reference's tables, in which every number of a run is another."""
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    rng = np.random.default_rng(0)

    def write(change=lambda name, tables: tables, scale="smoke"):
        pairs = []
        for name in claims.NAMES:
            tables = {}
            for table, frame in reference(name).items():
                if "seed" in frame:
                    frame = frame[frame["seed"] == frame["seed"].min()].copy()
                    floats = frame.select_dtypes(float).columns.difference(["bin_low", "bin_high", "multiple"])
                    frame[floats] *= rng.uniform(0.1, 3.0, (len(frame), len(floats)))
                tables[table] = frame
            pairs.append((claims.load(name).claim, change(name, tables)))
        written = ledger.write(pairs, scale, tmp_path / scale)
        sealed(tmp_path / scale)
        return written

    return write


def test_a_right_smoke_run_agrees_with_the_reference(run):
    rows = run()["ledger"]
    runs = {(name, c.id) for name in claims.NAMES for c in claims.load(name).claim.criteria if c.rests_on_runs}
    at = pd.MultiIndex.from_frame(rows[["claim", "criterion"]])
    assert set(rows.loc[at.isin(runs), "verdict"]) == {"not attempted"}
    assert (rows["seeds"].eq("") & rows["note"].eq("mechanics only")).sum() >= 5, "counts of runs, without seeds"
    assert "rows of the ledger agree" in publish.verify(graph.plan("smoke"))


def test_what_differs_is_named(run):
    def other(name, tables):
        if name != "binary_reward":
            return tables
        cells = tables["cells"].assign(rlvr_auroc=0.9, base_auroc=0.8)
        return {**tables, "cells": cells, "payoff": tables["payoff"].assign(answers=True)}

    run(other)
    with pytest.raises(CandorError, match=r"binary_reward P4 is 0, not 13; binary_reward W1 is \d+, not 0\.$"):
        publish.verify(graph.plan("smoke"))


@pytest.mark.parametrize(
    ("criterion", "change", "agrees"),
    [
        (("grounding_loss", "W13"), {"value": 5}, True),  # a count of runs, on another machine
        (("grounding_loss", "W13"), {"value": 2, "verdict": "not replicated"}, False),
        (("grounding_loss", "W13"), {"value": np.nan}, False),
        (("binary_reward", "P1"), {"value": 15}, False),
        (("brier_fix", "T2"), {"value": 0.6484}, False),
        (("binary_reward", "W2"), {"value": 0.2, "ci_low": 0.1, "ci_high": 0.205}, False),
        (("binary_reward", "W2"), {"value": 0.2, "ci_low": 0.1, "ci_high": 0.9}, True),
        (("binary_reward", "M2"), {"value": 0.6}, True),  # what the reference did not attempt
    ],
)
def test_a_laptop_run_agrees_within_its_intervals(criterion, change, agrees, tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    (tmp_path / "laptop").mkdir()
    for name, frame in evidence.load_ledgers(graph.REFERENCE).items():
        if name == "ledger":
            row = (frame["claim"] == criterion[0]) & (frame["criterion"] == criterion[1])
            frame.loc[row, list(change)] = list(change.values())
        frame.to_csv(tmp_path / "laptop" / f"{name}.csv", index=False)
    sealed(tmp_path / "laptop")
    if agrees:
        assert "rows of the ledger agree" in publish.verify(graph.plan("laptop"))
    else:
        with pytest.raises(CandorError, match=rf"^Not as in the reference: {' '.join(criterion)} is \S+, not \S+\.$"):
            publish.verify(graph.plan("laptop"))


def test_nothing_is_missing_in_the_committed_notebooks():
    """A misspelled name in a cell shows as evidence that was not computed: the reference has all of it."""
    for path in graph.notebooks():
        assert "Nothing to show here yet" not in path.read_text(), f"{path.name}: correct the cell that says so"

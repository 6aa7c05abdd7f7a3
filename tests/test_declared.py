"""What was declared before a run cannot be changed unnoticed, and its prose says what its bands do."""

import csv
import math
import re
from dataclasses import replace

import pytest
from candor import __main__ as cli
from candor import declared
from candor.errors import CandorError
from candor.ledger import Band, Check

ALL = declared.declared()
CRITERIA = [(claim, criterion) for claim in ALL for criterion in claim.criteria]


def test_every_criterion_is_as_it_was_declared():
    wrong, new = declared.problems(ALL)
    assert not wrong, " ".join(wrong)
    missing = ", ".join(f"{claim} {criterion}" for claim, criterion, _ in new)
    assert not new, f"data/declared.lock has no line for {missing}: run `python -m candor declare`"
    assert [(line["claim"], line["criterion"]) for line in declared.locked()] == list(
        dict.fromkeys((line["claim"], line["criterion"]) for line in declared.locked())
    )


def changed(id, **fields):
    """The claims with one criterion of the first changed."""
    first = ALL[0]
    criteria = tuple(replace(c, **fields) if c.id == id else c for c in first.criteria)
    return [replace(first, criteria=criteria), *ALL[1:]]


W3A = next(c for c in ALL[0].criteria if c.id == "W3a")
MOVED = replace(W3A.checks[0], band=Band(low=0.03))


@pytest.mark.parametrize(
    "fields",
    [
        {"checks": (MOVED, *W3A.checks[1:])},
        {"checks": W3A.checks[1:]},
        {"checks": W3A.checks[::-1]},
        *({"checks": (replace(W3A.checks[0], **part), *W3A.checks[1:])} for part in ({"count": 3}, {"unit": "%"})),
        {"checks": (replace(W3A.checks[0], otherwise="inconclusive"), *W3A.checks[1:])},
        {"checks": (replace(W3A.checks[0], name="base"), *W3A.checks[1:])},
        {"gates": (Check("a gate", lambda tables: 1.0, Band(low=0)),)},
        *({field: "something else"} for field in ("statement", "estimator", "band", "evidence")),
    ],
)
def test_a_changed_declaration_is_told_and_asks_for_a_new_id(fields):
    [sentence], new = declared.problems(changed("W3a", **fields))
    assert "binary_reward W3a is not as it was declared on 2026-11-" in sentence
    assert "add a new id instead of changing W3a" in sentence and not new


def test_code_notes_and_order_are_no_part_of_it():
    estimate = replace(W3A.checks[0], estimate=lambda tables: 0.0)
    same = changed("W3a", checks=(estimate, *W3A.checks[1:]), note="seen later", paper_value=".1", computed=True)
    assert declared.problems(same[::-1]) == ([], [])


def test_the_command_adds_what_is_new_and_changes_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(declared, "LOCK", tmp_path / "declared.lock")
    before = declared.ROOT.joinpath("data", "declared.lock").read_text().splitlines(keepends=True)
    declared.LOCK.write_text("".join(before[:-2]))
    assert cli.main(["declare"]) == 0
    told = [" ".join(next(csv.reader([line]))[:2]) for line in before[-2:]]
    assert capsys.readouterr().out.splitlines() == told
    after = declared.LOCK.read_text().splitlines(keepends=True)
    assert after[:-2] == before[:-2] and [line.split(",")[3] for line in after[-2:]] == [
        line.split(",")[3] for line in before[-2:]
    ]
    assert cli.main(["declare"]) == 0 and declared.LOCK.read_text() == "".join(after)

    declared.LOCK.write_text("".join(after[:-1]).replace(",W3a,", ",W3z,"))
    with pytest.raises(CandorError, match=r"binary_reward W3z was declared on .* and is gone: put it back"):
        declared.declare(ALL)
    declared.LOCK.write_text("".join(after[:-1]))
    with pytest.raises(CandorError, match="add a new id instead of changing W3a"):
        declared.declare(changed("W3a", band="other"))
    assert declared.LOCK.read_text() == "".join(after[:-1]), "nothing is written where something was changed"


# --- Prose and bands --------------------------------------------------------------------------------

# Where a limit is not in the prose of the band, and why. Most say elsewhere what they are held against.
ELSEWHERE = {
    **dict.fromkeys(
        [("annotation_noise", "W9"), ("annotation_noise", "W13"), ("self_feedback", "W12"), ("self_feedback", "M7")],
        "in the estimator",
    ),
    ("self_feedback", "W12-greedy"): "in the estimator of W12",
    ("sophistry", "W14"): "W1 to W3 again, for another arm",
    ("sophistry", "W15"): "the declared table is rounded: .05 and a hair",
    ("grounding_loss", "M3"): "half of the printed changes, before they were rounded",
    ("grounding_loss", "M6"): "within 5 of the printed rates of each act and set",
    ("brier_fix", "T1"): "the grid's step is .001",
    ("brier_fix", "T3"): "hackable is 1, not hackable 0",
    **dict.fromkeys([("self_feedback", f"W0{letter}") for letter in "abd"], "as many conditions as there are"),
    **dict.fromkeys([("annotation_noise", name) for name in ("P1", "M4", "M5")], "all of two orders, three sizes"),
}
WORDS = {"half": 0.5}
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"


def prose(claim, criterion):
    """The declared band, with that of the criterion that it names ("as W5")."""
    by_id = {c.id: c for c in claim.criteria}
    more = [by_id[name].band for name in re.findall(r"\bas (\w+)", criterion.band)]
    at = [criterion.estimator] if ELSEWHERE.get((claim.name, criterion.id)) == "in the estimator" else []
    if criterion.id == "W12-greedy":
        at = [by_id["W12"].estimator]
    return "; ".join([criterion.band, *more, *at])


def numbers(text):
    """All numbers as they are without sign, fractions and words among them."""
    found = [int(a) / int(b) for a, b in re.findall(r"(\d+)/(\d+)", text)]
    return [
        *found,
        *(float(n) for n in re.findall(rf"(?<![\w.]){_NUMBER}", text)),
        *(WORDS[w] for w in WORDS if w in text),
    ]


def same(limit, number):
    return any(math.isclose(abs(limit), number * unit, rel_tol=1e-9, abs_tol=1e-12) for unit in (1, 100, 0.01))


@pytest.mark.parametrize(("claim", "criterion"), CRITERIA, ids=lambda of: getattr(of, "id", getattr(of, "name", "")))
def test_the_prose_of_a_band_says_what_judges(claim, criterion):
    text, where = prose(claim, criterion), ELSEWHERE.get((claim.name, criterion.id), "in the estimator")
    there = numbers(text)
    spreads = [float(n) for n in re.findall(rf"(?:within|\+-)\s*({_NUMBER})", text)]
    there += [centre + sign * spread for centre in there for spread in spreads for sign in (1, -1)]
    for check in criterion.checks:
        if not check.band:
            continue
        for limit in {check.band.low, check.band.high} - {0, math.inf, -math.inf}:  # 0 is a sign, which words say
            found = any(same(limit, number) for number in there)
            assert found or "estimator" not in where, f"{check.name}: {limit:g} is not in {text!r}"
        if where == "in the estimator" and criterion.evidence != "models" and check.count:
            seeds = rf"\b{check.count}/5\b" + (r"|\b(\d)/\1\b|every seed" if check.count == 5 else "")
            assert re.search(seeds, text), f"{check.name}: {check.count} of five seeds is not in {text!r}"
        assert not opposite(check.band, text), f"{check.name}: {check.band} is the other way round in {text!r}"


def opposite(band, text):
    """Whether every place with the limit of a one-sided band has a sign that points the other way."""
    one_sided = math.isinf(band.low) != math.isinf(band.high)
    limit = band.high if math.isinf(band.low) else band.low
    places = re.findall(rf"((?:falls|lower) by )?([<>]?)=?\s*(?:base |naive )?[+-]?\s*({_NUMBER})", text)
    signs = {
        sign if not falls else "<"
        for falls, sign, number in places
        if one_sided and limit and same(limit, float(number))
    }
    return signs == {">" if math.isinf(band.low) else "<"}

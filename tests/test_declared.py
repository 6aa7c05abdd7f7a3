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
    [sentence], _ = declared.problems(changed("W3a", **fields))
    assert "binary_reward W3a is not as it was declared on 2026-11-24:" in sentence
    assert "add a new id instead of changing W3a" in sentence


def test_code_notes_and_order_are_no_part_of_it():
    estimate = replace(W3A.checks[0], estimate=lambda tables: 0.0)
    same = changed("W3a", checks=(estimate, *W3A.checks[1:]), note="seen later", paper_value=".1", computed=True)
    assert not declared.problems(same[::-1])[0]


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

# Where a limit or a count is not in the prose of the band, and where it is.
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
    **dict.fromkeys([("self_feedback", f"W0{letter}") for letter in "abd"], "as many conditions as there are"),
    **dict.fromkeys([("annotation_noise", name) for name in ("P1", "M4", "M5")], "all of two orders, three sizes"),
}
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?"


def prose(claim, criterion):
    """The declared band, with that of the criterion that it names ("as W5"), and the estimator where the limits are."""
    by_id = {c.id: c for c in claim.criteria}
    named = [by_id[name] for name in re.findall(r"\bas ([A-Z]\w+)", criterion.band)]
    reason = ELSEWHERE.get((claim.name, criterion.id), "")
    fields = ("band", "estimator") if "estimator" in reason else ("band",)
    return "; ".join(getattr(c, field) for c in (criterion, *named) for field in fields)


def numbers(text):
    """All numbers as they are without sign, fractions, words, and the ends of "within .05 of .5" among them."""
    found = [int(a) / int(b) for a, b in re.findall(r"(\d+)/(\d+)", text)]
    found += [float(n) for n in re.findall(rf"(?<![\w.]){_NUMBER}", text)] + [0.5] * ("half" in text)
    spreads = [float(n) for n in re.findall(rf"(?:within|\+-)\s*({_NUMBER})", text)]
    return found + [centre + sign * spread for centre in found for spread in spreads for sign in (1, -1)]


def same(limit, number):
    return any(math.isclose(abs(limit), number * unit, rel_tol=1e-9, abs_tol=1e-12) for unit in (1, 100, 0.01))


def contradictions(criterion, text):
    """What judges and is not in the prose: limits (0 is a sign, which words say), their direction, counts of seeds."""
    there, wrong = numbers(text), []
    for check in (check for check in criterion.checks if check.band):
        limits = {check.band.low, check.band.high} - {0, math.inf, -math.inf}
        wrong += [f"{check.name}: {x:g}" for x in limits if not any(same(x, number) for number in there)]
        wrong += [f"{check.name}: {check.band}"] if opposite(check.band, text) else []
        seeds = rf"\b{check.count}/5\b" + (r"|\b(\d)/\1\b|every seed" if check.count == 5 else "")
        if check.count and criterion.evidence != "models" and not re.search(seeds, text):
            wrong.append(f"{check.name}: {check.count} of five seeds")
    return wrong


def opposite(band, text):
    """Whether every sign before the limit of a one-sided band points the other way."""
    one_sided = math.isinf(band.low) != math.isinf(band.high)
    limit = band.high if math.isinf(band.low) else band.low
    places = re.findall(rf"((?:falls|lower) by )?([<>]?)=?\s*(?:base |naive )?[+-]?\s*({_NUMBER})", text)
    signs = {"<" if falls else sign for falls, sign, n in places if one_sided and limit and same(limit, float(n))}
    return signs - {""} == {">" if math.isinf(band.low) else "<"}


@pytest.mark.parametrize("claim", ALL, ids=lambda claim: claim.name)
def test_the_prose_of_a_band_says_what_judges(claim):
    for criterion in claim.criteria:
        reason, text = ELSEWHERE.get((claim.name, criterion.id)), prose(claim, criterion)
        wrong = contradictions(criterion, text)
        assert not wrong or (reason and "estimator" not in reason), f"{criterion.id} says {text!r}, and not {wrong}"
        assert not reason or contradictions(criterion, criterion.band), f"{criterion.id} is no exception any more"


@pytest.mark.parametrize(
    ("id", "check", "part", "wrong"),
    [
        ("W3a", 0, {"band": Band(low=0.03)}, ["rlvr minus base: 0.03"]),
        ("W3a", 0, {"band": Band(high=0.05)}, ["rlvr minus base: <= 0.05"]),
        ("W3a", 0, {"count": 5}, ["rlvr minus base: 5 of five seeds"]),
        ("W2", 1, {"band": Band(high=0.04)}, ["base: 0.04"]),
        ("W5", 2, {"band": Band(0.45, 0.56)}, ["switch point at t = 0.5: 0.56"]),
        ("P1", 0, {"band": Band(15, 16)}, ["cells pinned high: 15"]),
    ],
)
def test_a_moved_limit_contradicts_the_prose(id, check, part, wrong):
    [criterion] = [c for c in ALL[0].criteria if c.id == id]
    checks = list(criterion.checks)
    checks[check] = replace(checks[check], **part)
    assert contradictions(replace(criterion, checks=tuple(checks)), criterion.band) == wrong
    assert not contradictions(criterion, criterion.band)

"""What was declared before a run cannot be changed unnoticed."""

import csv
from dataclasses import replace

import pytest
from candor import __main__ as cli
from candor.core.errors import CandorError
from candor.declare import lock as declared
from candor.declare.ledger import Band, Check

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
        {"gates": (Check("a gate", lambda tables: 1.0, Band(low=0)),)},
        *({field: "something else"} for field in ("statement", "estimator", "evidence")),
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
        declared.declare(changed("W3a", statement="other"))
    assert declared.LOCK.read_text() == "".join(after[:-1]), "nothing is written where something was changed"

"""What was declared before a run cannot be changed unnoticed."""

import csv
from dataclasses import replace

import pytest
from candor import __main__ as cli
from candor.core.errors import CandorError
from candor.declare import lock as declared
from candor.declare.expressions import Rows, criterion
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


# --- Protocol 2 ---------------------------------------------------------------------------------------

NULL, RLVR = (Rows("summary", arm=arm, needs=need) for arm, need in (("shuffled", "V0"), ("rlvr", "")))
V0 = criterion("V0", "s", "e", NULL.x.equivalent(0.1), role="control")
V4 = criterion("V4", "s", "e", (RLVR - NULL).x.at_least(0.1, d=0.05, feeds="due", paper=0.2), role="supports")


def rule(**fields):
    return {"checks": (replace(V4.checks[0], **fields),)}


@pytest.mark.parametrize(
    "fields",
    [
        *({"role": "contradicts"}, {"feeds": "seen"}, {"role": "rival", "rival": "style"}),
        *(rule(d=0.04), rule(name="other"), rule(rule="equivalence"), rule(none=0.1), rule(feeds="seen")),
        *(rule(paper=None), rule(arms=frozenset()), rule(band=Band(low=0.2))),
    ],
)
def test_roles_rules_and_margins_are_declared_too(fields):
    before = declared.declared_hash("toy", V4)
    assert declared.declared_hash("toy", replace(V4, **fields)) != before
    assert declared.declared_hash("toy", replace(V4, note="later", paper_value="1")) == before
    rivals = {declared.declared_hash("toy", replace(V4, role="rival", rival=name)) for name in ("style", "length")}
    assert len(rivals) == 2


def test_a_role_changes_nothing_of_what_was_declared_before():
    assert not declared.problems(changed("W3a", role="supports", feeds="seen"))[0]


def toy(*criteria):
    return replace(ALL[0], name="toy", criteria=criteria, parts=())


def test_d_must_be_declared_where_the_band_ends_at_no_effect():
    def refused(check):
        return declared.problems([*ALL, toy(V0, replace(V4, checks=(check,)))])[0]

    assert refused(RLVR.x.at_least(0, feeds="due")) == ["toy V4, rlvr: x: declare a d above 0."]
    assert not any(
        map(refused, (RLVR.x.at_least(0, d=0.01, feeds="due"), RLVR.x.rate(0, 0, feeds="due"), V4.checks[0]))
    )


def test_a_result_older_than_its_declaration_is_refused(tmp_path, monkeypatch):
    two = toy(V0, V4)
    monkeypatch.setattr(declared, "LOCK", tmp_path / "declared.lock")
    declared.LOCK.write_text("claim,criterion,declared,hash\n")
    early = declared.stamp()
    assert declared.declare([two]) == ["toy V0", "toy V4"]
    declared.refuse_older(two, declared.stamp())
    for older in (early, ""):
        with pytest.raises(CandorError, match=r"^toy V0 was declared after the runs that it judges: run them again"):
            declared.refuse_older(two, older)
    declared.refuse_older(ALL[0], "")  # protocol 1 has no stamps
    now = declared.stamp()
    declared.LOCK.write_text(declared.LOCK.read_text() + "toy,V5,2026-12-02,0\n")
    declared.refuse_older(two, now)
    declared.LOCK.write_text(declared.LOCK.read_text().replace("V4", "V3"))
    with pytest.raises(CandorError, match=r"made under another declared\.lock"):
        declared.refuse_older(two, now)

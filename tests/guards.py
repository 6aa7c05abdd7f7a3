"""What must hold for the criteria of every claim, tried on tables in which each of them finds what it reads."""

import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from unittest.mock import patch

import pandas as pd
from candor.core.errors import CandorError
from candor.declare import expressions, ledger
from candor.language_models import outputs


class _Frame(pd.DataFrame):
    """A table that remembers, with all that is cut from it, which of its columns were asked for by name."""

    _metadata = ["asked"]

    @property
    def _constructor(self):
        return _Frame

    def __getitem__(self, key):
        self.asked.update(key if isinstance(key, list) else [key] if isinstance(key, str) else [])
        return super().__getitem__(key)


class _Recorded(dict):
    """Tables by name; `read` has those that were asked for."""

    def __init__(self, tables):
        super().__init__({name: _Frame(table) for name, table in tables.items()})
        for frame in self.values():
            frame.asked = set()
        self.read = {}

    def __getitem__(self, name):
        if name not in self:
            raise ledger.NotRun(name)
        self.read[name] = super().__getitem__(name)
        return self.read[name]


def read(claim, criterion, tables):
    """What a criterion's checks, gates and note read: tables with the columns asked for by name, and values of rows."""
    recorded, values, select = _Recorded(tables), set(), expressions.select

    def told(tables, table, /, **where):
        values.update(where.values())
        return select(tables, table, **where)

    functions = [check.estimate for check in (*criterion.checks, *criterion.gates)]
    with ExitStack() as patches:
        for module in (expressions, sys.modules[f"candor.claims.{claim.name}.criteria"]):
            if hasattr(module, "select"):
                patches.enter_context(patch.object(module, "select", told))
        for function in [*functions, *([criterion.note] if callable(criterion.note) else [])]:
            with suppress(ledger.NotRun):
                function(recorded)
    return {name: frame.asked & set(tables[name]) for name, frame in recorded.read.items()}, values


def judged(claim, criterion, tables, scale="laptop"):
    """One criterion's rows in the ledger and among the checks."""
    alone = replace(claim, criteria=(criterion,), parts=(), overall=lambda verdict: ("", ""))
    return [frame.to_csv(index=False) for frame in ledger.judge(alone, tables, scale)[:2]]


def renamed(claim, criterion, tables, table, columns):
    """`judged`, with other names for these columns of a table."""
    frame = tables[table].rename(columns={column: f"{column}_" for column in columns})
    return judged(claim, criterion, {**tables, table: frame})


def check(claim, tables, of_what_ran=(), made_with_others=()):
    """What must hold for every criterion; and the claim declares the tables that they read, no more and no fewer.

    `of_what_ran`: criteria that judge whichever arms or seeds were run. `made_with_others`: names of rows that are
    there wherever others are, so that their lack is an error.
    """
    declared, seen = set(), set()
    for criterion in claim.criteria:
        for piece in pieces(criterion):
            [function] = [check.estimate for check in piece.checks] or [piece.note]
            if function in seen:  # a gate of several criteria
                continue
            seen.add(function)
            before, (asked, values) = judged(claim, piece, tables), read(claim, piece, tables)
            declared |= set(asked)
            check_columns(claim, piece, tables, before, asked)
            for table in (table for table in asked if "seed" in tables[table] or table.startswith("models")):
                for name, without in lacking(tables, table, values.difference(made_with_others)):
                    row, checks = judged(claim, piece, without)
                    fine = "not attempted" in row or checks == before[1] or criterion.id in of_what_ran
                    assert fine, f"{criterion.id} is judged without the rows of {name} in {table}"
                check_doubled(claim, piece, tables, before, table)
    assert set(claim.tables) == declared


def pieces(criterion):
    """The criterion with one of its checks, gates or its note alone, so that none hides behind the others."""
    alone = replace(criterion, gates=(), note="")
    yield from (replace(alone, checks=(check,)) for check in (*criterion.checks, *criterion.gates))
    if callable(criterion.note):
        yield replace(criterion, checks=(), gates=())


def check_columns(claim, criterion, tables, before, asked):
    """A column that is missing or misspelled is an error which names the criterion, never a verdict."""
    errors = 0
    for table, columns in asked.items():
        rest = set(tables[table]) - columns
        try:
            assert renamed(claim, criterion, tables, table, rest) == before, (criterion.id, table, rest)
        except CandorError:  # some are asked for in other ways
            columns = set(tables[table])
        for column in columns:
            try:
                assert renamed(claim, criterion, tables, table, [column]) == before, (criterion.id, table, column)
            except CandorError as error:
                assert str(error).startswith(f"{claim.name} {criterion.id}, "), error
                errors += 1
    assert errors, f"{criterion.id} reads nothing in {[check.name for check in criterion.checks] or 'its note'}"


def lacking(tables, table, values):
    """Names, and the tables of a run that has not made a table, any row of it, or the rows of a value."""
    frame = tables[table]
    yield "everything", {name: other for name, other in tables.items() if name != table}
    yield "everything", {**tables, table: frame[:0]}
    for column in {"setting", "arm", "dataset", "corpus", "lineage", "stage", "source"} & set(frame):
        for value in set(frame[column]) & values:
            yield value, {**tables, table: frame[frame[column] != value]}


def check_doubled(claim, criterion, tables, before, table):
    """A row that was made twice is an error, where it would change anything."""
    frame = tables[table]
    if "seed" in frame:
        doubled = pd.concat([frame, frame[frame["seed"] == frame["seed"].iloc[0]]])
        try:
            assert judged(claim, criterion, {**tables, table: doubled}) == before, (criterion.id, table)
        except CandorError as error:
            assert "more than one row" in str(error), error


def pretrained():
    """Made-up tables of pretrained models as claims 1 and 5 read them, with the columns of `language_models/run.py`."""
    measures = ("accuracy_greedy", "accuracy_hard", "q_mode_mean", "q_mode_ece", "q_mode_brier", "q_mode_auroc")
    arms = {("policy", arm): (41, 42, 43) for arm in ("rlvr", "rlcr", "log1", "log_only", "brier_only")}
    arms |= {("policy", "base"): (7001,), ("released", "rlvr"): (7001,), ("released", "rlcr"): (7001,)}
    rows = [
        {"trained_on": "hotpot", "setting": setting, "arm": arm, "seed": seed, "dataset": dataset}
        | {name: 0.3 + k / 100 + seed / 1e5 for k, name in enumerate((*measures, "malformed", "skill_own"))}
        | {"q_mode_values": 9}
        for (setting, arm), seeds in arms.items()
        for seed in seeds
        for dataset in ("hotpot_vanilla", "hotpot_modified", "commonsense_qa")
    ]
    cells = pd.DataFrame(outputs.OUTPUT_CELLS, columns=["dataset", "arm"]).assign(n=10, questions=10)
    grades = {f"{measure}_{by}": 0.3 for measure in ("ece", "accuracy") for by in ("option", "label")}
    by_option = cells[cells["dataset"].isin(outputs.JUDGED_OUTPUTS)].assign(unreadable=0.01, **grades)
    recomputed = pd.concat([cells.assign(difference=difference) for difference in (1e-5, -1e-5)])
    return {"models": pd.DataFrame(rows), "outputs": recomputed, "outputs_by_option": by_option}

"""What a criterion compares, as an expression: measures of arms, read from a claim's tables, and the bands on them.

`rlvr = Rows("summary", setting="expert", arm="rlvr")` names rows; `rlvr.answer_ece` is a `Measure`, one number a seed;
`(rlvr - base).answer_ece.at_least(0.05, count=4)` is a check that pairs the seeds of both and prints its own band.
The selectors below are the only places where a missing row may mean that nothing was run (`NotRun`).
"""

from __future__ import annotations

import difflib
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import cache
from typing import Any, cast

import numpy as np
import pandas as pd

from candor.core.errors import CandorError, NotRun
from candor.declare.ledger import Arm, Band, Check, Criterion, Estimate, Tables
from candor.declare.verdicts import DIRECTION, EQUIVALENCE, PRINTED, RATE, SIZE, at_first_crossing

# --- Measures --------------------------------------------------------------------------------------


class Measure:
    """A quantity that `estimate(tables)` gives: a Series by seed, a number, or an `Estimate` with its own interval.

    Arithmetic with numbers and with other measures pairs seeds; it raises `NotRun` where no seed has both. The name is
    what the ledger calls it; `named` gives another one. `arms` are those that it rests on, any by default.
    """

    def __init__(self, estimate: Callable[[Tables], Any], name: str, unit: str = "", arms: Iterable[Arm] = (Arm(),)):
        self.estimate, self.name, self.unit, self.arms = estimate, name, unit, frozenset(arms)

    def __call__(self, tables: Tables) -> Any:
        return self.estimate(tables)

    def named(self, name: str, unit: str | None = None) -> Measure:
        return Measure(self.estimate, name, self.unit if unit is None else unit, self.arms)

    def map(self, function: Callable[[Any], Any], name: str = "{}") -> Measure:
        """`function` of the values; {} in the name stands for this measure's."""
        return Measure(lambda tables: function(self(tables)), name.format(self.name), self.unit, self.arms)

    def with_(self, other: object, how: Callable[[Any, Any], Any], name: str) -> Measure:
        """`how(this, other)` on the seeds that both have; {} and {} in the name stand for theirs."""
        two = other if isinstance(other, Measure) else Measure(lambda tables: other, f"{other:g}", arms=())

        def estimate(tables: Tables) -> Any:
            first, second = self(tables), two(tables)
            if isinstance(first, pd.Series) and isinstance(second, pd.Series):
                first, second = first.align(second, join="inner")
                if first.empty:
                    raise NotRun("No seed was run for both of what is compared.")
            return how(first, second)

        return Measure(estimate, name.format(self.name, two.name), self.unit, self.arms | two.arms)

    def __add__(self, other: object) -> Measure:
        return self.with_(other, operator.add, "{} plus {}")

    def __sub__(self, other: object) -> Measure:
        return self.with_(other, operator.sub, "{} minus {}")

    def __rsub__(self, other: float) -> Measure:
        return self.with_(other, lambda mine, number: number - mine, "{1} minus {0}")

    def __mul__(self, other: object) -> Measure:
        return self.with_(other, operator.mul, "{} x {}")

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> Measure:
        return self.with_(other, operator.truediv, "{} / {}")

    def __neg__(self) -> Measure:
        return self.map(operator.neg, "minus {}")

    def __abs__(self) -> Measure:
        return self.map(abs, "|{}|")

    @property
    def points(self) -> Measure:
        """A share in points: 100 times it."""
        return self.map(lambda values: 100 * values).named(self.name, "points")

    def _check(self, band: Band | None, paper: float | None = None, **fields: Any) -> Check:
        if paper is not None:
            fields["paper"] = Band(paper, paper)
        return Check(self.name, self.estimate, band, unit=self.unit, arms=self.arms, **fields)

    def within(self, low: float, high: float | None = None, count: int | None = None, **fields: Any) -> Check:
        """A band from `low` to `high`, or from -`low` to `low`; `count` of five seeds must lie in it.

        `fields` as of `Check`: `n` is the number of items behind an estimate that does not bring it; `d`, `feeds`; a
        number that a `paper` printed.
        """
        return self._check(Band(-low, low) if high is None else Band(low, high), count=count, **fields)

    def at_least(self, low: float, count: int | None = None, **fields: Any) -> Check:
        return self._check(Band(low=low), count=count, **fields)

    def at_most(self, high: float, count: int | None = None, **fields: Any) -> Check:
        return self._check(Band(high=high), count=count, **fields)

    def equals(self, value: float, **fields: Any) -> Check:
        return self.within(value, value, **fields)

    @property
    def reported(self) -> Check:
        """The value without a band."""
        return self._check(None)

    def equivalent(self, margin: float, **fields: Any) -> Check:
        """Two one-sided tests: no more than `margin` from 0 on either side."""
        return self.within(margin, rule=EQUIVALENCE, **fields)

    def direction(self, limit: float, none: float | None = None, **fields: Any) -> Check:
        """Up from `limit` on; denied below -`limit`, and where it is shown to be `none` (default: within the limit)."""
        return self.at_least(limit, rule=DIRECTION, none=limit if none is None else none, **fields)

    def rate(self, low: float = -math.inf, high: float = math.inf, **fields: Any) -> Check:
        """The share of seeds with 1, where each seed is 1 or 0; none of them is 0 to 0."""
        return self.within(low, high, rule=RATE, **fields)

    def printed(self, low: float, high: float | None = None, **fields: Any) -> Check:
        """Whether it is as large as a paper printed: a number, or a range."""
        band = Band(low, low if high is None else high)
        return replace(self._check(band, rule=PRINTED, feeds=SIZE, **fields), paper=band)


class _Columns:
    """Each column is a `Measure`."""

    def __getattr__(self, column: str) -> Measure:
        if column.startswith("_"):
            raise AttributeError(column)
        return self.column(column)

    def column(self, column: str) -> Measure:
        """The measure of a column whose name is computed."""
        raise NotImplementedError


class Rows(_Columns):
    """Rows of a table, such as those of an arm: each column is a `Measure`, and so for `one - other`, `one / other`.

    By seed where the table has seeds, otherwise the one row's number; `number` True or False says which. `needs` is the
    criterion of the control or gate that these rows are: what rests on them counts only if it is replicated. `at` takes
    a value from between snapshots. Raises: as `select`.
    """

    def __init__(self, table: str, /, *, label: str = "", number: bool | None = None, needs: str = "", **where: object):
        self._table, self._number, self._needs, self._where = table, number, needs, where
        self._name = label or str(where.get("arm", table)).replace("_", " ")
        self._along: tuple[str, float] | None = None

    def column(self, column: str) -> Measure:
        def estimate(tables: Tables) -> pd.Series | float:
            if self._along:
                return crossing(tables, self._table, column, *self._along, **self._where)
            one = "seed" not in tables[self._table] if self._number is None else self._number
            return (number if one else by_seed)(tables, self._table, column, **self._where)

        return Measure(estimate, f"{self._name}: {column.replace('_', ' ')}", arms=self._arms)

    @property
    def _arms(self) -> set[Arm]:
        return {Arm(str(self._where.get("setting", "")), str(self._where.get("arm", "")), self._needs)}

    def _like(self, **changed: Any) -> Rows:
        other = copy(self)
        other.__dict__.update(changed)
        return other

    def where(self, **more: object) -> Rows:
        """Fewer of them, or others."""
        other = {"_name": str(more["arm"]).replace("_", " "), "_needs": ""} if "arm" in more else {}
        return self._like(_where=self._where | more, **other)

    def by_seed(self) -> Rows:
        """The same rows, a number a seed."""
        return self._like(_number=False)

    def at(self, along: str, value: float) -> Rows:
        """Of snapshots (a row a seed and step) what lies where the column `along`, such as a KL, first reaches `value`.

        Linear between two snapshots, never extrapolated: a seed that does not get there has no value.
        """
        return self._like(_along=(along, value), _name=f"{self._name} at {along.replace('_', ' ')} {value:g}")

    def how_many(self, mask: Callable[[pd.DataFrame], pd.Series], name: str, unit: str = "cells") -> Measure:
        """How many of them satisfy `mask`."""
        return Measure(counted(self._table, mask, **self._where), name, unit, self._arms)

    def __sub__(self, other: Rows) -> _Compared:
        return _Compared(self, other, operator.sub, "minus")

    def __truediv__(self, other: Rows) -> _Compared:
        return _Compared(self, other, operator.truediv, "/")


class _Compared(_Columns):
    """The same column of two, on the same seeds: its difference, or its ratio."""

    def __init__(self, one: Rows, other: Rows, how: Callable[[Measure, Measure], Measure], sign: str):
        self._one, self._other, self._how, self._sign = one, other, how, sign

    def column(self, column: str) -> Measure:
        name = f"{self._one._name} {self._sign} {self._other._name}: {column.replace('_', ' ')}"
        return self._how(self._one.column(column), self._other.column(column)).named(name)


def both(count: int, *checks: Check, name: str = "all on the same seed") -> tuple[Check, ...]:
    """`checks` with one-sided bands, and one more: that all of them hold on the same `count` of five seeds.

    The value of that one is a seed's smallest margin, as a share of the limit: >= 0 where all hold. So the
    count and the interval decide it like any other check.
    """

    def margin(check: Check, tables: Tables) -> pd.Series:
        band, values = check.band or Band(), cast(pd.Series, check.estimate(tables))
        sign, limit = (1, band.low) if math.isinf(band.high) else (-1, band.high)
        return sign * (values - limit) / abs(limit)

    return (*checks, Check(name, _worst_of(checks, margin), Band(low=0), count=count, unit="smallest margin"))


def together(name: str, count: int | None, *checks: Check) -> Check:
    """All of the checks on the same seed, as how far the least favourable one lies inside its band (unit of each).

    Count and interval decide it, as with `both`, whose margins are shares of the limits instead; `together` of
    claim 1 knows only the count. The criteria of the first run stay judged by the rule that they were declared with.
    """

    return Check(name, _worst_of(checks, _slack), Band(low=0), count, unit=checks[0].unit)


def _slack(check: Check, tables: Tables) -> pd.Series:
    band, values = check.band or Band(), cast(pd.Series, check.estimate(tables))
    return np.minimum(values - band.low, band.high - values)


def _worst_of(checks: Sequence[Check], inside: Callable[[Check, Tables], pd.Series]) -> Callable[[Tables], pd.Series]:
    """The smallest over the checks of how far each is inside its band, by seed that all of them have."""

    def estimate(tables: Tables) -> pd.Series:
        columns = pd.concat([inside(check, tables) for check in checks], axis=1, join="inner")
        if columns.empty:
            raise NotRun("No seed was run for all of what must hold together.")
        return columns.min(axis=1, skipna=False)

    return estimate


def on_the_same_seed(*checks: Check, name: str = "all on the same seed") -> Check:
    """All of the checks on the same seed, as protocol 2 says it: the smallest slack of their bands, in units of each d.

    It is judged like any other band, with d = 1, and takes the place of the checks.
    """

    arms = frozenset().union(*(check.arms for check in checks))
    bands = ", ".join(f"{check.name} {check.said}" for check in checks)
    in_d = _worst_of(checks, lambda check, tables: _slack(check, tables) / check.least)
    return Check(f"{name} ({bands})", in_d, Band(low=0), unit="d", d=1.0, arms=arms)


def criterion(
    id: str, statement: str, estimator: str, *checks: Check, evidence: str = "world", paper: str = "", **more: Any
) -> Criterion:
    """A criterion: its checks one after the other, what else there is by name (`role`, `feeds`, `rival`, `note`...)."""
    more["gates"] = tuple(more.get("gates", ()))
    return Criterion(id, evidence, statement, estimator, tuple(checks), paper, **more)


# --- Selectors: the only places where a missing row may mean that nothing was run ---------------------


@cache
def _words() -> dict[str, frozenset[str]]:
    """What a run may lack: settings, arms, and (rest) any name of a step, its parts, or of a data set.

    Tables call an arm by the end of its step's name, `policy_naive` naive, and other things by parts of it.
    """
    from candor.claims.annotation_noise import run as annotators
    from candor.core import settings as config
    from candor.run import steps as experiments

    worlds, settings, arms = zip(*(key.split("/") for key in experiments.steps()))
    arms = [*arms, *itertools.chain(*annotators.ARMS.values())]
    ends = {"_".join(p[i:]) for p in (arm.split("_") for arm in arms) for i in range(len(p))}
    split = [name.split("_") for name in {*settings, *arms}]
    parts = {"_".join(p[i:j]) for p in split for i, j in itertools.combinations(range(len(p) + 1), 2)}
    models = config.load("laptop")["models"]
    kinds = ("datasets", "dialogue_data", "program_data", "story_data", "annotation_data", "reasoning_data")
    rest = parts.union(worlds, *(models[kind] for kind in kinds))
    return {"setting": frozenset(settings), "arm": frozenset(ends), "rest": frozenset(rest)}


def select(tables: Tables, table: str, /, **where: object) -> pd.DataFrame:
    """The rows of a table with these values.

    Raises: `NotRun` if there are none and the value that no row has is the name of something that can be run or
    fetched; `CandorError` if it is not, or if the table has no such column: then the selection is misspelled.
    """
    frame = tables[table]
    if frame.empty:
        raise NotRun(f"The table {table} is empty: nothing was run that fills it.")
    kept = pd.Series(True, frame.index)
    for column, wanted in where.items():
        before, values = kept, _with(frame, table, column)[column]
        kept = before & (values == wanted)
        if not kept.any():
            if wanted in _words().get(column, _words()["rest"]):
                raise NotRun(f"The table {table} has no row with {column} {wanted}: nothing was run that makes one.")
            raise CandorError(_slip(f"The table {table} has no row with {column} {wanted!r}", wanted, values[before]))
    return frame[kept]


def _with(frame: pd.DataFrame, table: str, *columns: str) -> pd.DataFrame:
    """The frame, which must have the columns."""
    for column in columns:
        if column not in frame:
            raise CandorError(_slip(f"The table {table} has no column {column!r}", column, frame.columns))
    return frame


def _slip(said: str, wrong: object, there: Iterable[object]) -> str:
    there = list(dict.fromkeys(map(str, there)))
    return f"{said}: write {' or '.join(difflib.get_close_matches(str(wrong), there) or there[:20])}."


def each_seed(tables: Tables, table: str, values: Sequence[str], keys: Sequence[str], /, **where) -> pd.DataFrame:
    """The selected rows, which must be one for each seed and value of `keys`, sorted by them.

    Raises: as `select`; `CandorError` where there are two, or a seed is no whole number.
    """
    columns = list(dict.fromkeys(["seed", *keys, *values]))
    found = _with(select(tables, table, **where), table, *columns)[columns]
    if not pd.api.types.is_integer_dtype(found["seed"]):
        strange = found["seed"].iloc[0]
        raise CandorError(f"The table {table} has seeds that are no whole numbers, such as {strange!r}: correct them.")
    if (twice := found.duplicated(["seed", *keys])).any():
        raise CandorError(_twice(table, found.loc[twice, ["seed", *keys]].iloc[0].to_dict() | where))
    return found.sort_values(["seed", *keys])


def _twice(table: str, where: Mapping[str, object]) -> str:
    at = ", ".join(f"{column} {value}" for column, value in where.items())
    return f"The table {table} has more than one row with {at}: select by more columns, or take one away."


def by_seed(tables: Tables, table: str, measure: str, /, **where: object) -> pd.Series:
    """A measure (a column) of the selected rows, indexed by seed. Raises: as `each_seed`."""
    return each_seed(tables, table, [measure], [], **where).set_index("seed")[measure]


def wide(tables: Tables, table: str, measure: str, columns: str, /, **where: object) -> pd.DataFrame:
    """A measure of the selected rows, a row a seed and a column a value of `columns`. Raises: as `each_seed`."""
    return each_seed(tables, table, [measure], [columns], **where).pivot(index="seed", columns=columns)[measure]


def crossing(tables: Tables, table: str, measure: str, along: str, value: float, /, **where: object) -> pd.Series:
    """A measure where the column `along` first reaches `value`, by seed; NaN where it never does. Raises: as above."""
    snapshots = each_seed(tables, table, [measure, along], ["step"], **where).groupby("seed")
    return pd.Series({seed: at_first_crossing(rows[along], rows[measure], value) for seed, rows in snapshots})


def number(tables: Tables, table: str, column: str, /, **where: object) -> float:
    """The number in that column of the one selected row. Raises: as `select`; `CandorError` if there are more rows."""
    found = _with(select(tables, table, **where), table, column)[column]
    if len(found) > 1:
        raise CandorError(_twice(table, where))
    return float(found.item())


def counted(table: str, mask: Callable[[pd.DataFrame], pd.Series], /, **where: object) -> Callable[[Tables], Estimate]:
    """How many of the selected rows satisfy `mask`."""

    def estimate(tables: Tables) -> Estimate:
        found = select(tables, table, **where)
        return Estimate(int(mask(found).sum()), n=len(found))

    return estimate

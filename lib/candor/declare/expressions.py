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
from functools import cache
from typing import Any, cast

import numpy as np
import pandas as pd

from candor.core.errors import CandorError, NotRun
from candor.declare.ledger import NOT_REPLICATED, Band, Check, Criterion, Estimate, Tables

# --- Measures --------------------------------------------------------------------------------------


class Measure:
    """A quantity that `estimate(tables)` gives: a Series by seed, a number, or an `Estimate` with its own interval.

    Arithmetic with numbers and with other measures pairs seeds; it raises `NotRun` where no seed has both. The name is
    what the ledger calls it; `named` gives another one.
    """

    def __init__(self, estimate: Callable[[Tables], Any], name: str, unit: str = ""):
        self.estimate, self.name, self.unit = estimate, name, unit

    def __call__(self, tables: Tables) -> Any:
        return self.estimate(tables)

    def named(self, name: str, unit: str | None = None) -> Measure:
        return Measure(self.estimate, name, self.unit if unit is None else unit)

    def map(self, function: Callable[[Any], Any], name: str = "{}") -> Measure:
        """`function` of the values; {} in the name stands for this measure's."""
        return Measure(lambda tables: function(self(tables)), name.format(self.name), self.unit)

    def with_(self, other: object, how: Callable[[Any, Any], Any], name: str) -> Measure:
        """`how(this, other)` on the seeds that both have; {} and {} in the name stand for theirs."""
        two = other if isinstance(other, Measure) else Measure(lambda tables: other, f"{other:g}")

        def estimate(tables: Tables) -> Any:
            first, second = self(tables), two(tables)
            if isinstance(first, pd.Series) and isinstance(second, pd.Series):
                first, second = first.align(second, join="inner")
                if first.empty:
                    raise NotRun("No seed was run for both of what is compared.")
            return how(first, second)

        return Measure(estimate, name.format(self.name, two.name), self.unit)

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

    def within(self, low: float, high: float | None = None, count: int | None = None, n: int | None = None) -> Check:
        """A band from `low` to `high`, or from -`low` to `low`; `count` of five seeds must lie in it.

        `n` is the number of items behind an estimate that does not bring it.
        """
        band = Band(-low, low) if high is None else Band(low, high)
        return Check(self.name, self.estimate, band, count, self.unit, n)

    def at_least(self, low: float, count: int | None = None, otherwise: str = NOT_REPLICATED) -> Check:
        return Check(self.name, self.estimate, Band(low=low), count, self.unit, otherwise=otherwise)

    def at_most(self, high: float, count: int | None = None, otherwise: str = NOT_REPLICATED) -> Check:
        return Check(self.name, self.estimate, Band(high=high), count, self.unit, otherwise=otherwise)

    def equals(self, value: float) -> Check:
        return self.within(value, value)

    @property
    def reported(self) -> Check:
        """The value without a band."""
        return Check(self.name, self.estimate, unit=self.unit)


class Rows:
    """Rows of a table, such as those of an arm: each column is a `Measure`, and so for `one - other`, `one / other`.

    By seed where the table has seeds, otherwise the one row's number; `number` True or False says which. Raises: as
    `select`.
    """

    def __init__(self, table: str, /, *, label: str = "", number: bool | None = None, **where: object):
        self._table, self._number, self._where = table, number, where
        self._name = label or str(where.get("arm", table)).replace("_", " ")

    def __getattr__(self, column: str) -> Measure:
        if column.startswith("_"):
            raise AttributeError(column)
        return self.column(column)

    def column(self, column: str) -> Measure:
        """The measure of a column whose name is computed."""

        def estimate(tables: Tables) -> pd.Series | float:
            one = "seed" not in tables[self._table] if self._number is None else self._number
            return (number if one else by_seed)(tables, self._table, column, **self._where)

        return Measure(estimate, f"{self._name}: {column.replace('_', ' ')}")

    def where(self, **more: object) -> Rows:
        """Fewer of them, or others."""
        label = "" if "arm" in more else self._name
        return Rows(self._table, label=label, number=self._number, **self._where | more)

    def by_seed(self) -> Rows:
        """The same rows, a number a seed."""
        return Rows(self._table, label=self._name, number=False, **self._where)

    def how_many(self, mask: Callable[[pd.DataFrame], pd.Series], name: str, unit: str = "cells") -> Measure:
        """How many of them satisfy `mask`."""
        return Measure(counted(self._table, mask, **self._where), name, unit)

    def __sub__(self, other: Rows) -> _Compared:
        return _Compared(self, other, operator.sub, "minus")

    def __truediv__(self, other: Rows) -> _Compared:
        return _Compared(self, other, operator.truediv, "/")


class _Compared:
    """The same column of two, on the same seeds: its difference, or its ratio."""

    def __init__(self, one: Rows, other: Rows, how: Callable[[Measure, Measure], Measure], sign: str):
        self._one, self._other, self._how, self._sign = one, other, how, sign

    def __getattr__(self, column: str) -> Measure:
        if column.startswith("_"):
            raise AttributeError(column)
        return self.column(column)

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

    def slack(check: Check, tables: Tables) -> pd.Series:
        band, values = check.band or Band(), cast(pd.Series, check.estimate(tables))
        return np.minimum(values - band.low, band.high - values)

    return Check(name, _worst_of(checks, slack), Band(low=0), count, unit=checks[0].unit)


def _worst_of(checks: Sequence[Check], inside: Callable[[Check, Tables], pd.Series]) -> Callable[[Tables], pd.Series]:
    """The smallest over the checks of how far each is inside its band, by seed that all of them have."""

    def estimate(tables: Tables) -> pd.Series:
        columns = pd.concat([inside(check, tables) for check in checks], axis=1, join="inner")
        if columns.empty:
            raise NotRun("No seed was run for all of what must hold together.")
        return columns.min(axis=1, skipna=False)

    return estimate


def criterion(
    id: str,
    statement: str,
    estimator: str,
    *checks: Check,
    evidence: str = "world",
    paper: str = "",
    note: str | Callable[[Tables], str] = "",
    gates: Sequence[Check] = (),
    computed: bool = False,
) -> Criterion:
    """A criterion: its checks one after the other, what else there is by name."""
    return Criterion(id, evidence, statement, estimator, tuple(checks), paper, note, tuple(gates), computed)


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

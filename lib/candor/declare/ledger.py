"""Criteria x tables -> checks, verdicts.

A claim declares its criteria before anything runs; this module holds them against the claim's tables and
writes three tidy CSVs: `ledger.csv` (a row a criterion), `checks.csv` (a row a band) and `verdicts.csv`
(the parts of each claim and its overall verdict). It never imports a trainer.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from candor.core.errors import CandorError, Incomplete, NotRun
from candor.measure.intervals import t_interval

Tables = Mapping[str, pd.DataFrame]
Verdicts = Mapping[str, str]  # word by criterion

REPLICATED = "replicated"
PARTLY = "partly"
INCONCLUSIVE = "inconclusive"
NOT_REPLICATED = "not replicated"
NOT_ATTEMPTED = "not attempted"
REPORTED = "reported"

# From worst to best: a criterion with several bands is as good as its worst one.
_ORDER = (NOT_ATTEMPTED, NOT_REPLICATED, INCONCLUSIVE, PARTLY, REPLICATED)
VERDICTS = (*_ORDER, REPORTED)

FULL_SEEDS = 5

_MEASURED = ("value", "unit", "ci_low", "ci_high", "n", "seeds", "passes")
LEDGER_COLUMNS = [
    *("claim", "criterion", "evidence", "scale", "statement", "estimator", "band", *_MEASURED),
    *("paper_value", "verdict", "note"),
]
CHECK_COLUMNS = ["claim", "criterion", "check", "scale", "band", *_MEASURED, "per_seed", "verdict"]
VERDICT_COLUMNS = ["claim", "part", "evidence", "scale", "statement", "criteria", "verdict", "note"]


@dataclass(frozen=True)
class Band:
    """The closed interval in which a value passes. Raises: `ValueError` for one that holds nothing."""

    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"No value lies in a band from {self.low:g} to {self.high:g}: correct its limits.")

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.low == self.high:
            return f"= {self.low:g}"
        if math.isinf(self.low):
            return f"<= {self.high:g}"
        if math.isinf(self.high):
            return f">= {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Estimate:
    """A value that brings its own interval, for evidence that has items instead of seeds."""

    value: float
    ci_low: float = math.nan
    ci_high: float = math.nan
    n: int | None = None


@dataclass(frozen=True)
class Check:
    """One band of a criterion.

    `estimate(tables)` returns a Series indexed by seed (decided by the count of seeds and the t-interval over
    them), an `Estimate` or a number (decided by the band alone), or raises `NotRun` (then the check is "not
    attempted"), which the selectors of `claims/shared.py` do. A value that is not finite decides nothing.
    `count` is how many of five seeds must lie in the band; None decides by mean and interval only.
    `band` None reports the value without judging it.
    `otherwise` is the verdict of a number outside its band: a test that does not reject leaves "inconclusive".
    """

    name: str
    estimate: Callable[[Tables], pd.Series | Estimate | float]
    band: Band | None = None
    count: int | None = None
    unit: str = ""
    n: int | None = None
    otherwise: str = NOT_REPLICATED


@dataclass(frozen=True)
class Criterion:
    """A declared criterion; `checks` empty means that it needs evidence this scale does not make.

    The first check is the one whose value stands in the ledger's row.
    """

    id: str
    evidence: str  # published | world | models
    statement: str
    estimator: str
    checks: tuple[Check, ...] = ()
    paper_value: str = ""
    note: str | Callable[[Tables], str] = ""
    gates: tuple[Check, ...] = ()  # if one fails, the criterion is "not attempted"
    computed: bool = False  # of the world, but in closed form: no run enters

    @property
    def band(self) -> str:
        """The bands of the checks in words: those that follow each other with the same band are named together."""

        def words(check: Check) -> str:
            return f"{check.band} {check.unit}".rstrip() + (f" in {check.count}/5" if check.count else "")

        groups = itertools.groupby((check for check in self.checks if check.band), words)
        return "; ".join(f"{', '.join(c.name for c in group)} {band}" for band, group in groups) or "reported"

    @property
    def rests_on_runs(self) -> bool:
        return self.evidence != "published" and not self.computed


@dataclass(frozen=True)
class Part:
    """A statement inside the claim, with its own verdict: the worst of its criteria unless `rule` is given."""

    id: str
    evidence: str
    statement: str
    criteria: tuple[str, ...]
    rule: Callable[[Verdicts], tuple[str, str]] | None = None

    def judge(self, verdict: Verdicts) -> tuple[str, str]:
        """Its word and a note."""
        return self.rule(verdict) if self.rule else (worst([verdict[c] for c in self.criteria]), "")


@dataclass(frozen=True)
class Claim:
    """A published claim: what was said, what we declared, and how the parts add up."""

    name: str
    number: int
    title: str
    statement: str
    paper: str  # key in references.bib
    citation: str
    criteria: tuple[Criterion, ...]
    parts: tuple[Part, ...]
    overall: Callable[[Verdicts], tuple[str, str]]  # verdict by criterion id -> (verdict, note)
    tables: tuple[str, ...] = ()  # all that the criteria read; one that is not here is misspelled

    def __post_init__(self) -> None:
        ids = [criterion.id for criterion in self.criteria]
        if len(set(ids)) != len(ids):
            raise ValueError(f"{self.name}: a criterion is declared twice in {ids}")
        for part in self.parts:
            if unknown := set(part.criteria) - set(ids):
                raise ValueError(f"{self.name}, part {part.id}: no such criterion {sorted(unknown)}")


def worst(verdicts: list[str]) -> str:
    """The worst of several verdicts; "reported" ones do not count."""
    judged = [v for v in verdicts if v != REPORTED]
    return min(judged, key=_ORDER.index) if judged else REPORTED


def better(*verdicts: str) -> str:
    """The best of several verdicts."""
    return max(verdicts, key=_ORDER.index)


def named(verdict: Verdicts, word: str, *criteria: str) -> str:
    """Those of the criteria with this verdict, listed."""
    return ", ".join(c for c in criteria if verdict[c] == word)


def listed(verdict: Verdicts, *criteria: str) -> str:
    """The criteria with their verdicts."""
    return ", ".join(f"{c} {verdict[c]}" for c in criteria)


def not_shown(verdict: Verdicts, *criteria: str) -> list[str]:
    """Those of the criteria that are not replicated."""
    return [c for c in criteria if verdict[c] != REPLICATED]


def attempted(*criteria: str, at_best: str = REPLICATED, because: str = "") -> Callable[[Verdicts], tuple[str, str]]:
    """A part's rule: the worst of the criteria that were attempted, named in the note. A part spans several kinds of
    evidence.

    `at_best` is the best word that they allow together, `because` the reason.
    """

    def rule(verdict: Verdicts) -> tuple[str, str]:
        judged = [c for c in criteria if verdict[c] != NOT_ATTEMPTED]
        if not judged:
            return NOT_ATTEMPTED, ""
        missing = named(verdict, NOT_ATTEMPTED, *criteria)
        note = [because, listed(verdict, *judged), f"not attempted: {missing}" if missing else ""]
        return worst([at_best, *(verdict[c] for c in judged)]), "; ".join(filter(None, note))

    return rule


def judge_seeds(values: pd.Series, band: Band, count: int | None) -> tuple[str, float, float, int]:
    """Verdict over seeds by the house rule, with the 95 % t-interval and the number of seeds in the band.

    Replicated: the count is met and the interval lies inside the band. Count met, interval spans the limit:
    inconclusive. Count missed, interval inside: partly. Interval wholly outside: not replicated. Fewer than
    five seeds never give more than partly. An infinite value leaves no interval. Raises: `CandorError` naming a seed
    that is counted twice.
    """
    if values.index.has_duplicates:
        seed = values.index[values.index.duplicated()][0]
        raise CandorError(f"Seed {seed} is counted twice: take one of its rows away.")
    numbers = values.to_numpy(float)
    low, high = t_interval(numbers) if np.isfinite(numbers).all() else (math.nan, math.nan)
    passes = int(sum(band.holds(v) for v in values))
    met = band.holds(values.mean()) if count is None else passes >= math.ceil(count / FULL_SEEDS * len(values))
    if band.holds(low) and band.holds(high):
        verdict = REPLICATED if met else PARTLY
    elif high < band.low or low > band.high:
        verdict = NOT_REPLICATED
    else:
        verdict = INCONCLUSIVE
    if len(values) < FULL_SEEDS and verdict == REPLICATED:
        verdict = PARTLY
    return verdict, low, high, passes


@contextmanager
def _asking(criterion: str, what: str) -> Iterator[None]:
    """Whatever goes wrong in a declared function, except that nothing was run, is an error that names it."""
    try:
        yield
    except NotRun:
        raise
    except Exception as error:
        if isinstance(error, CandorError):
            raise CandorError(f"{criterion}, {what}: {error}") from error
        said = f"{type(error).__name__}: {error}"
        raise CandorError(f"{criterion}, {what}, fails ({said}): correct it, or the table that it reads.") from error


class _Tables(dict):
    """The tables of a claim: one that was not made is told from one that nobody declared."""

    def __init__(self, claim: Claim, tables: Tables):
        super().__init__(tables)
        self.claim = claim

    def __missing__(self, name: str) -> pd.DataFrame:
        if name in self.claim.tables:
            raise NotRun(f"There is no table {name}: nothing was run that makes it.")
        near = difflib.get_close_matches(name, self.claim.tables)
        remedy = f"write {' or '.join(near)}, or " if near else ""
        raise CandorError(f"The claim declares no table {name!r}: {remedy}add it to its `tables`.")


def _judge(check: Check, tables: Tables, criterion: str) -> dict:
    """A row of the checks, and `lacks`: what an incomplete run lacks."""
    row = {
        "check": check.name,
        "band": str(check.band or ""),
        "unit": check.unit,
        "value": math.nan,
        "ci_low": math.nan,
        "ci_high": math.nan,
        "n": check.n,
        "seeds": "",
        "passes": "",
        "per_seed": "",
        "lacks": "",
    }
    undecided = INCONCLUSIVE if check.band else REPORTED
    with _asking(criterion, f"check {check.name!r}"):
        try:
            estimate = check.estimate(tables)
        except NotRun as absent:
            return row | {"verdict": NOT_ATTEMPTED, "lacks": str(absent) if isinstance(absent, Incomplete) else ""}
        if isinstance(estimate, pd.Series):
            values = estimate.dropna().sort_index()
            if values.empty:
                return row | {"verdict": undecided}
            verdict, low, high, passes = judge_seeds(values, check.band or Band(), check.count)
            if verdict == REPLICATED and len(values) < len(estimate):  # a seed has no value
                verdict = PARTLY
            row |= {
                "value": float(values.mean()),
                "ci_low": low,
                "ci_high": high,
                "seeds": " ".join(str(seed) for seed in values.index),
                "passes": f"{passes}/{len(values)}" if check.band else "",
                "per_seed": " ".join(f"{v:.4f}" for v in values),
            }
            return row | {"verdict": verdict if check.band else REPORTED}
        if not isinstance(estimate, Estimate):
            estimate = Estimate(float(estimate))
    row |= {"value": estimate.value, "ci_low": estimate.ci_low, "ci_high": estimate.ci_high}
    row["n"] = estimate.n if estimate.n is not None else check.n
    if not math.isfinite(estimate.value) or not check.band:
        return row | {"verdict": undecided}
    return row | {"verdict": REPLICATED if check.band.holds(estimate.value) else check.otherwise}


def _note(criterion: Criterion, tables: Tables, name: str) -> str:
    if not callable(criterion.note):
        return criterion.note
    with _asking(name, "its note"):
        try:
            return criterion.note(tables)
        except NotRun:
            return ""


def judge(claim: Claim, tables: Tables, scale: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Hold a claim's criteria against its tables.

    Returns the claim's rows of ledger, checks and verdicts. At smoke scale every verdict that rests on a run
    is "not attempted", with the note "mechanics only": published numbers and closed forms do not depend on
    the scale and keep theirs. Raises: `CandorError` naming the criterion that cannot be judged, at any scale.
    """
    ledger, checks, verdict_of = [], [], {}
    tables = _Tables(claim, tables)
    for criterion in claim.criteria:
        name = f"{claim.name} {criterion.id}"
        rows = [_judge(check, tables, name) for check in criterion.checks]
        note = _note(criterion, tables, name)
        verdict = worst([row["verdict"] for row in rows]) if rows else NOT_ATTEMPTED
        gates = {gate.name: _judge(gate, tables, name)["verdict"] for gate in criterion.gates}
        if failed := [gate for gate, word in gates.items() if word not in (REPLICATED, PARTLY)]:
            verdict, note = NOT_ATTEMPTED, f"gate failed: {', '.join(failed)}"
        if lacks := dict.fromkeys(row["lacks"] for row in rows if row["lacks"]):
            note = "; ".join([*lacks, *filter(None, [note])])
        if scale == "smoke" and criterion.rests_on_runs:
            if any(row["verdict"] != NOT_ATTEMPTED for row in rows):
                note = "mechanics only"
            verdict, rows = NOT_ATTEMPTED, [row | {"verdict": NOT_ATTEMPTED} for row in rows]
        verdict_of[criterion.id] = verdict
        head = rows[0] if rows else {}
        ledger.append(
            {
                "claim": claim.name,
                "criterion": criterion.id,
                "evidence": criterion.evidence,
                "scale": scale,
                "statement": criterion.statement,
                "estimator": criterion.estimator,
                "band": criterion.band,
                **{k: head.get(k, "") for k in _MEASURED},
                "paper_value": criterion.paper_value,
                "verdict": verdict,
                "note": note,
            }
        )
        checks += [{"claim": claim.name, "criterion": criterion.id, "scale": scale, **row} for row in rows]
    verdicts = []
    for part in claim.parts:
        verdict, note = part.judge(verdict_of)
        verdicts.append((part.id, part.evidence, part.statement, " ".join(part.criteria), verdict, note))
    verdict, note = claim.overall(verdict_of)
    if scale == "smoke":
        verdict, note = NOT_ATTEMPTED, "mechanics only"
    verdicts.append(("overall", "published and world", claim.statement, "", verdict, note))
    verdicts = [
        dict(zip(VERDICT_COLUMNS, (claim.name, part, evidence, scale, *rest))) for part, evidence, *rest in verdicts
    ]
    return (
        pd.DataFrame(ledger, columns=LEDGER_COLUMNS),
        pd.DataFrame(checks, columns=CHECK_COLUMNS),
        pd.DataFrame(verdicts, columns=VERDICT_COLUMNS),
    )


def missing_criteria(claim: Claim, ledger: pd.DataFrame) -> list[str]:
    """Ids that the claim declares and the ledger has no row for."""
    rows = set(ledger.loc[ledger["claim"] == claim.name, "criterion"])
    return [criterion.id for criterion in claim.criteria if criterion.id not in rows]


def write(claims: list[tuple[Claim, Tables]], scale: str, folder: Path) -> dict[str, pd.DataFrame]:
    """Judge the claims and write `ledger.csv`, `checks.csv`, `verdicts.csv` into `folder`."""
    parts = zip(*(judge(claim, tables, scale) for claim, tables in claims))
    frames = {
        name: pd.concat(frames, ignore_index=True) for name, frames in zip(("ledger", "checks", "verdicts"), parts)
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return frames

"""Criteria x tables -> checks, verdicts.

A claim declares its criteria before anything runs; this module holds them against the claim's tables and
writes three tidy CSVs: `ledger.csv` (a row a criterion), `checks.csv` (a row a band) and `verdicts.csv`
(the parts of each claim and its overall verdict). It never imports a trainer.
"""

from __future__ import annotations

import difflib
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from candor.core.errors import CandorError, Incomplete, NotRun
from candor.declare import verdicts
from candor.declare.verdicts import (
    INCONCLUSIVE,
    NOT_ATTEMPTED,
    NOT_REPLICATED,
    PARTLY,
    REPLICATED,
    REPORTED,
    Band,
    Estimate,
    worst,
)
from candor.measure.intervals import t_interval

Tables = Mapping[str, pd.DataFrame]
# Word by criterion; in protocol 2 also the answers by part: `verdict["(i)"]["seen"].said`.
Verdicts = Mapping[str, Any]

VERDICTS = (*verdicts.ORDER, REPORTED)
FULL_SEEDS = 5
PROTOCOL_2 = ("V", "L")  # how its ids begin: worlds, small language models

_DECLARED = ("evidence", "statement", "estimator", "band", "paper_value")
_MEASURED = ("value", "unit", "ci_low", "ci_high", "n", "seeds", "passes")
LEDGER_COLUMNS = [
    *("claim", "criterion", "evidence", "scale", "statement", "estimator", "band"),
    *(*_MEASURED, "paper_value", "verdict", "note"),
]
CHECK_COLUMNS = ["claim", "criterion", "check", "scale", "band", *_MEASURED, "per_seed", "verdict"]
VERDICT_COLUMNS = ["claim", "part", "evidence", "scale", "statement", "criteria", "verdict", "note"]
DECIDED_COLUMNS = ["role", "decides", "p_in_band", "paper_inside"]  # of the ledger, in protocol 2


class Arm(NamedTuple):
    """Rows of tables that runs make: an arm of a setting, and the control or gate without which it says nothing.

    An empty name or setting stands for any.
    """

    setting: str = ""
    name: str = ""
    needs: str = ""


@dataclass(frozen=True)
class Check:
    """One band of a criterion.

    `estimate(tables)` returns a Series indexed by seed (decided by the count of seeds and the t-interval over
    them), an `Estimate` or a number (decided by the band alone), or raises `NotRun` (then the check is "not
    attempted"), which the selectors of `claims/shared.py` do. A value that is not finite decides nothing.
    `count` is how many of five seeds must lie in the band; None decides by mean and interval only.
    `band` None reports the value without judging it.
    `otherwise` is the verdict of a number outside its band: a test that does not reject leaves "inconclusive".
    Protocol 2 reads besides: `rule` (`verdicts.word`), `none` (the margin in which a direction says no), `d` (the
    difference for which seeds are counted, see `least`), the answers that it `feeds` (the criterion's by default), what
    a `paper` printed, and the `arms` that it rests on: those of a control or a gate count only if that is replicated.
    """

    name: str
    estimate: Callable[[Tables], pd.Series | Estimate | float]
    band: Band | None = None
    count: int | None = None
    unit: str = ""
    n: int | None = None
    otherwise: str = NOT_REPLICATED
    rule: str = verdicts.INTERVAL
    none: float | None = None
    d: float | None = None
    feeds: str = ""
    paper: Band | None = None
    arms: frozenset[Arm] = frozenset({Arm()})

    @property
    def least(self) -> float:
        """d; where none is declared, half of the distance from "no effect" to the nearest limit of the band."""
        limits = self.band.limits if self.band else []
        return self.d if self.d is not None else min(map(abs, limits), default=0.0) / 2

    @property
    def rests_on_d(self) -> bool:
        """Whether its interval is held against limits: not one that is reported, a count, or an exact number."""
        return self.band is not None and self.rule != verdicts.RATE and self.band.low < self.band.high

    @property
    def needs(self) -> list[str]:
        """The criteria of the controls and gates whose arms it rests on."""
        return sorted({arm.needs for arm in self.arms} - {""})

    @property
    def said(self) -> str:
        """Its band in words."""
        told = {verdicts.EQUIVALENCE: "equivalence: ", verdicts.PRINTED: "printed: "}.get(self.rule, "")
        band = f"{told}{self.band or ''} {self.unit}".strip()
        none = f", none within {self.none:g}" if self.none is not None else ""
        return band + none + (f" in {self.count}/5" if self.count else "")


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
    role: str = ""  # judged by protocol 2 where there is one
    feeds: str = ""  # the answers (seen, due, strict) that its bands feed
    rival: str = ""  # what else could explain the effect

    def __post_init__(self) -> None:
        feeds = {name for part in (self, *self.checks) for name in part.feeds.split()}
        if (self.in_protocol_2 and self.role not in verdicts.ROLES) or (self.role == verdicts.RIVAL) != bool(
            self.rival
        ):
            raise ValueError(f"{self.id}: give one of the roles {', '.join(verdicts.ROLES)}, and a rival its name.")
        if feeds - {*verdicts.ANSWERS} or (self.role in (verdicts.SUPPORTS, verdicts.CONTRADICTS) and not feeds):
            raise ValueError(f"{self.id}: say which of the answers {', '.join(verdicts.ANSWERS)} its bands feed.")

    @property
    def in_protocol_2(self) -> bool:
        """Whether it was declared for protocol 2; earlier ones may get a role, and keep their hash."""
        return self.id[:1] in PROTOCOL_2

    @property
    def band(self) -> str:
        """The bands of the checks in words: those that follow each other with the same band are named together."""
        groups = itertools.groupby((check for check in self.checks if check.band), operator.attrgetter("said"))
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
        for i, criterion in enumerate(self.criteria):
            if late := {need for check in criterion.checks for need in check.needs} - {*ids[: i + 1]}:
                raise ValueError(f"{self.name} {criterion.id} rests on {min(late)}: declare that before it.")


def better(*words: str) -> str:
    """The best of several verdicts."""
    return max(words, key=verdicts.ORDER.index)


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


class ClaimTables(dict):
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


def _shown(check: Check, estimate: pd.Series | Estimate | None) -> dict[str, Any]:
    """A row of the checks before anything is judged."""
    row: dict[str, Any] = {"check": check.name, "band": str(check.band or ""), "unit": check.unit, "n": check.n}
    row |= dict.fromkeys(("value", "ci_low", "ci_high"), math.nan) | dict.fromkeys(("seeds", "passes", "per_seed"), "")
    if isinstance(estimate, Estimate):
        row |= {"value": estimate.value, "ci_low": estimate.ci_low, "ci_high": estimate.ci_high}
        row["n"] = check.n if estimate.n is None else estimate.n
    elif estimate is not None and len(values := estimate.dropna().sort_index()):
        row["value"] = float(values.mean())
        row["seeds"] = " ".join(str(seed) for seed in values.index)
        row["per_seed"] = " ".join(f"{v:.4f}" for v in values)
        row["passes"] = f"{sum(map(check.band.holds, values))}/{len(values)}" if check.band else ""
    return row


def _by_count(check: Check, estimate: pd.Series | Estimate | None) -> dict[str, Any]:
    """Protocol 1: what a row of the checks says, by the count of seeds and their t interval, or by the band alone."""
    undecided = INCONCLUSIVE if check.band else REPORTED
    if estimate is None:
        return {"verdict": NOT_ATTEMPTED}
    if isinstance(estimate, Estimate):
        if not math.isfinite(estimate.value) or not check.band:
            return {"verdict": undecided}
        return {"verdict": REPLICATED if check.band.holds(estimate.value) else check.otherwise}
    values = estimate.dropna()
    if values.empty:
        return {"verdict": undecided}
    word, low, high, _ = judge_seeds(values.sort_index(), check.band or Band(), check.count)
    if word == REPLICATED and len(values) < len(estimate):  # a seed has no value
        word = PARTLY
    return {"ci_low": low, "ci_high": high, "verdict": word if check.band else REPORTED}


def _in_role(check: Check, estimate: pd.Series | Estimate | None, criterion: Criterion, failed: str) -> dict[str, Any]:
    """Protocol 2: what a row of the checks says before all bands of its criterion give it a word (`judged`)."""
    values = estimate if isinstance(estimate, pd.Series) else None
    if values is not None and values.isna().mean() > verdicts.MISSING:
        failed = "; ".join(filter(None, [failed, f"{values.isna().sum()} of {len(values)} seeds have no value"]))
    seen = None if estimate is None else verdicts.found(estimate, check.rule)
    judged = verdicts.Judged(criterion, check, seen, values, failed, run=estimate is not None)
    (low, high), paper = judged.interval, check.paper
    inside = "" if paper is None or math.isnan(low) else "yes" if low <= paper.high and high >= paper.low else "no"
    said = {"ci_low": low, "ci_high": high, "band": check.said, "unit": "", "paper_inside": inside}
    return said | {"judged": judged, "p_in_band": judged.inside if check.band else math.nan}


def _row(name: str, check: Check, tables: Tables, *in_role: Any) -> dict[str, Any]:
    """A row of the checks, and `lacks`: what an incomplete run lacks."""
    estimate: pd.Series | Estimate | None = None
    lacks = ""
    with _asking(name, f"check {check.name!r}"):
        try:
            given = check.estimate(tables)
            estimate = given if isinstance(given, pd.Series | Estimate) else Estimate(float(given))
        except NotRun as absent:
            lacks = str(absent) if isinstance(absent, Incomplete) else ""
        said = _in_role(check, estimate, *in_role) if in_role else _by_count(check, estimate)
        return _shown(check, estimate) | said | {"lacks": lacks}


def _note(criterion: Criterion, tables: Tables, name: str) -> str:
    if not callable(criterion.note):
        return criterion.note
    with _asking(name, "its note"):
        try:
            return criterion.note(tables)
        except NotRun:
            return ""


def _decided(criterion: Criterion, rows: list[dict[str, Any]]) -> tuple[str, dict[str, Any], str]:
    """The word of a criterion, the row that the ledger shows (protocol 2: which decides it), and why it is open."""
    if not rows:
        return NOT_ATTEMPTED, {}, ""
    if not criterion.role:
        return worst([row["verdict"] for row in rows]), rows[0], ""
    bands = [row["judged"] for row in rows]
    word, by = verdicts.decide(bands)
    for row in rows:
        row["verdict"] = row["judged"].word(sum(band.check.band is not None for band in bands))
    if criterion.role == verdicts.CONTEXT and word != NOT_ATTEMPTED:
        word = verdicts.RECOMPUTED if word == REPLICATED and criterion.evidence == "published" else REPORTED
    return word, rows[bands.index(by)] | {"role": criterion.role, "decides": by.check.name}, by.note


def _unjudged(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the checks of a smoke run."""
    judged = {"judged": replace(row["judged"], run=False)} if "judged" in row else {}
    return row | judged | {"verdict": NOT_ATTEMPTED}


def judge(claim: Claim, tables: Tables, scale: str) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Hold a claim's criteria against its tables.

    Returns the claim's rows of ledger, checks and verdicts. At smoke scale every verdict that rests on a run
    is "not attempted", with the note "mechanics only": published numbers and closed forms do not depend on
    the scale and keep theirs. Raises: `CandorError` naming the criterion that cannot be judged, at any scale.
    """
    ledger, checks, words, failing, judged = [], [], {}, {}, {}
    tables = ClaimTables(claim, tables)
    for criterion in claim.criteria:
        name, rows = f"{claim.name} {criterion.id}", []
        for check in criterion.checks:
            failed = "; ".join(failing[need] for need in check.needs if need in failing)
            rows.append(_row(name, check, tables, *((criterion, failed) if criterion.role else ())))
        word, head, why = _decided(criterion, rows)
        note = "; ".join(filter(None, [why, _note(criterion, tables, name)]))
        gates = {gate.name: _row(name, gate, tables)["verdict"] for gate in criterion.gates}
        if shut := [gate for gate, said in gates.items() if said not in (REPLICATED, PARTLY)]:
            word, note = NOT_ATTEMPTED, f"gate failed: {', '.join(shut)}"
        if lacks := dict.fromkeys(row["lacks"] for row in rows if row["lacks"]):
            note = "; ".join([*lacks, *filter(None, [note])])
        if scale == "smoke" and criterion.rests_on_runs:
            if any(row["verdict"] != NOT_ATTEMPTED for row in rows):
                note = "mechanics only"
            word, rows = NOT_ATTEMPTED, [_unjudged(row) for row in rows]
        words[criterion.id] = word
        if criterion.role and word != REPLICATED:
            failing[criterion.id] = f"{criterion.role} failed: {criterion.id} {word}"
        judged[criterion.id] = [row["judged"] for row in rows if "judged" in row]
        at = {"claim": claim.name, "criterion": criterion.id, "scale": scale}
        said = {part: getattr(criterion, part) for part in _DECLARED} | {"verdict": word, "note": note}
        ledger.append(dict.fromkeys(_MEASURED, "") | head | at | said)
        checks += [row | at for row in rows]
    in_roles = any(judged.values())
    return (
        pd.DataFrame(ledger, columns=LEDGER_COLUMNS + DECIDED_COLUMNS * in_roles),
        pd.DataFrame(checks, columns=CHECK_COLUMNS + ["p_in_band"] * in_roles),
        _verdicts(claim, words, judged, scale),
    )


def _verdicts(
    claim: Claim, words: dict[str, str], judged: dict[str, list[verdicts.Judged]], scale: str
) -> pd.DataFrame:
    """A row a part, with its word or, in protocol 2, its answers; and one for the overall verdict."""
    rows, answers = [], {}
    for part in claim.parts:
        row = {"part": part.id, "evidence": part.evidence, "statement": part.statement}
        row["criteria"] = " ".join(part.criteria)
        if any(bands := [judged[c] for c in part.criteria]):
            answers[part.id] = {to: verdicts.answer(to, bands) for to in verdicts.ANSWERS}
            row |= {"verdict": REPORTED, "note": ""} | {to: str(said) for to, said in answers[part.id].items()}
        else:
            row |= dict(zip(("verdict", "note"), part.judge(words)))
        rows.append(row)
    word, note = claim.overall(words | answers)
    if scale == "smoke":
        word, note = NOT_ATTEMPTED, "mechanics only"
    whole = {"part": "overall", "evidence": "published and world", "statement": claim.statement, "criteria": ""}
    rows = [{"claim": claim.name, "scale": scale, **row} for row in (*rows, whole | {"verdict": word, "note": note})]
    return pd.DataFrame(rows, columns=VERDICT_COLUMNS + [*verdicts.ANSWERS] * bool(answers))


def missing_criteria(claim: Claim, ledger: pd.DataFrame) -> list[str]:
    """Ids that the claim declares and the ledger has no row for."""
    rows = set(ledger.loc[ledger["claim"] == claim.name, "criterion"])
    return [criterion.id for criterion in claim.criteria if criterion.id not in rows]


def write(claims: list[tuple[Claim, Tables]], scale: str, folder: Path) -> dict[str, pd.DataFrame]:
    """Judge the claims and write `ledger.csv`, `checks.csv`, `verdicts.csv` into `folder`."""
    parts = zip(*(judge(claim, tables, scale) for claim, tables in claims))
    frames = {name: pd.concat(rows, ignore_index=True) for name, rows in zip(("ledger", "checks", "verdicts"), parts)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return frames

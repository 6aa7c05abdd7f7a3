"""What was declared stays declared: `data/declared.lock` has a line a criterion, with the hash of its declared text.

The text is what a criterion says and what judges it: statement, estimator, and of every check and gate, in order, the
limits of its band, the count of seeds, the unit and the verdict outside the band; in protocol 2 also role, rival and
answers, and of every check its name, rule, margin, d, the controls that it needs and what a paper printed. Code is no
part of it: how an estimate is computed may be corrected; nor are the words of a band, printed from its limits. A line
is written once (`python -m candor declare`) and never changed: a criterion that turns out wrong stays, and another one
is added under a new id.
"""

from __future__ import annotations

import csv
import hashlib
import json
from datetime import UTC, datetime

from candor import claims
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.declare.ledger import PROTOCOL_2, Check, Claim, Criterion
from candor.declare.verdicts import Band

LOCK = ROOT / "data" / "declared.lock"
_COLUMNS = ("claim", "criterion", "declared", "hash")


def declared_hash(claim: str, criterion: Criterion) -> str:
    """Sixteen hexadecimal digits that change with the declared text of a criterion."""

    def limits(band: Band | None) -> list[float] | None:
        return [float(band.low), float(band.high)] if band else None

    def text(check: Check) -> list:
        said = [limits(check.band), check.count, check.unit, check.otherwise]
        if not criterion.in_protocol_2:
            return said
        judged_by = [check.rule, check.none, check.least, check.feeds, check.needs, limits(check.paper)]
        return [*said, check.name, *judged_by]

    said = [claim, criterion.id, criterion.evidence, criterion.statement, criterion.estimator]
    said += [criterion.role, criterion.feeds, criterion.rival] if criterion.in_protocol_2 else []
    whole = [*said, [text(check) for check in criterion.checks], [text(gate) for gate in criterion.gates]]
    return _hash(json.dumps(whole))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def declared() -> list[Claim]:
    """The claims and studies whose criteria are locked."""
    return [claims.load(name).claim for name in (*claims.NAMES, *claims.STUDIES)]


def locked() -> list[dict[str, str]]:
    """The lines of the lock: claim, criterion, declared (a date), hash."""
    with LOCK.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def problems(found: list[Claim]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """A sentence for each declared criterion that has changed or gone, and the new ones (claim, criterion, hash)."""
    now = {(claim.name, c.id): declared_hash(claim.name, c) for claim in found for c in claim.criteria}
    then = {(line["claim"], line["criterion"]): line for line in locked()}
    wrong = []
    for (claim, criterion), line in then.items():
        if (claim, criterion) not in now:
            wrong.append(f"{claim} {criterion} was declared on {line['declared']} and is gone: put it back.")
        elif now[claim, criterion] != line["hash"]:
            wrong.append(
                f"{claim} {criterion} is not as it was declared on {line['declared']}: put it back, and add a new id "
                f"instead of changing {criterion}."
            )
    checks = [(claim.name, c.id, check) for claim in found for c in claim.criteria for check in c.checks]
    for claim, criterion, check in checks:
        if criterion[:1] in PROTOCOL_2 and check.rests_on_d and not check.least > 0:
            wrong.append(f"{claim} {criterion}, {check.name}: declare a d above 0.")
    return wrong, [(*key, digest) for key, digest in now.items() if key not in then]


def declare(found: list[Claim]) -> list[str]:
    """Adds a line for every new criterion, and returns their names; `CandorError` if a declared one was changed."""
    wrong, new = problems(found)
    if wrong:
        raise CandorError(" ".join(wrong))
    today = datetime.now(UTC).date().isoformat()
    with LOCK.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows((c, k, today, digest) for c, k, digest in new)
    return [f"{claim} {criterion}" for claim, criterion, _ in new]


def stamp() -> str:
    """What a result keeps of the lock: how many lines it had, and their hash. Lines are added and never changed."""
    lines = LOCK.read_text(encoding="utf-8").splitlines(keepends=True)
    return f"{len(lines)} {_hash(''.join(lines))}"


def refuse_older(claim: Claim, stamp: str) -> None:
    """Raises `CandorError` if a criterion of protocol 2 was declared after the result with this stamp ("": none)."""
    count, digest = stamp.split() or (0, _hash(""))
    before = LOCK.read_text(encoding="utf-8").splitlines(keepends=True)[: int(count)]
    if _hash("".join(before)) != digest:
        raise CandorError(f"A result of {claim.name} was made under another {LOCK.name}: put its lines back.")
    known = {tuple(line.split(",")[:2]) for line in before}
    for criterion in claim.criteria:
        if criterion.in_protocol_2 and criterion.rests_on_runs and (claim.name, criterion.id) not in known:
            raise CandorError(
                f"{claim.name} {criterion.id} was declared after the runs that it judges: run them again."
            )

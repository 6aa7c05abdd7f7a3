"""What was declared stays declared: `data/declared.lock` has a line a criterion, with the hash of its declared text.

The text is what a criterion says and what judges it: statement, estimator, and of every check and gate, in their order,
the limits of its band, the count of seeds, the unit and the verdict outside the band. Code is no part of it: how an
estimate is computed may be corrected; nor are the words of a band, which are printed from its limits. A line is written
once (`python -m candor declare`) and never changed: a criterion that turns out wrong stays, and another one is added
under a new id.
"""

from __future__ import annotations

import csv
import hashlib
import json
from datetime import UTC, datetime

from candor import claims
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.declare.ledger import Check, Claim, Criterion

LOCK = ROOT / "data" / "declared.lock"
_COLUMNS = ("claim", "criterion", "declared", "hash")


def declared_hash(claim: str, criterion: Criterion) -> str:
    """Sixteen hexadecimal digits that change with the declared text of a criterion."""

    def text(check: Check) -> list:
        band = [float(check.band.low), float(check.band.high)] if check.band else None
        return [band, check.count, check.unit, check.otherwise]

    said = [claim, criterion.id, criterion.evidence, criterion.statement, criterion.estimator]
    whole = [*said, [text(check) for check in criterion.checks], [text(gate) for gate in criterion.gates]]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


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

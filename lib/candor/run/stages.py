"""Seeds in two stages: where a scale follows protocol 2, which seeds a step runs on, from the spread of stage 1."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from candor import claims
from candor.core import store
from candor.core.errors import NotRun
from candor.core.settings import Config
from candor.core.step import Step
from candor.declare.ledger import Arm, Claim, ClaimTables, Tables
from candor.declare.verdicts import STAGE_1, VERDICT_SEEDS, seeds_for
from candor.run import steps as experiments


def seeds_of(step: Step, config: Config, claim: str, tables: Path) -> tuple[int, ...]:
    """The seeds that a step runs on for a claim: the scale's, and in protocol 2 those of stage 2.

    tables : folder with the claim's tables; as long as it has none, stage 1 is what runs. Steps on which no verdict
    rests (`few_seeds`) stay at the scale's seeds.
    """
    first = experiments.seeds_of(step, config)
    manifest = tables / "provenance.json"
    if config.get("protocol") != 2 or step.seeds != "seeds" or not manifest.exists():
        return first
    _, setting, name = step.key.split("/")
    n = [
        n
        for arm, n in _asked(claim, tables, manifest.stat().st_mtime_ns)
        if arm.setting in ("", setting) and (not arm.name or f"_{name}".endswith(f"_{arm.name}"))
    ]
    return (*first, *(seed for seed in VERDICT_SEEDS[: max(n, default=0)] if seed not in first))


@cache
def _asked(claim: str, folder: Path, made: int) -> list[tuple[Arm, int]]:
    names = store.unseal(folder / "provenance.json")["files"]
    tables = {Path(name).stem: store.read(folder / name, pd.read_csv) for name in names}
    return [*arms(claims.load(claim).claim, tables).items()]


def arms(claim: Claim, tables: Tables) -> dict[Arm, int]:
    """N of each arm: the largest of the criteria that rest on it, from the spread of stage 1.

    What a criterion asks for that does not say on which arms it rests stands at the arm without a name. What was not
    run, has no seeds or no d asks for nothing.
    """
    found: dict[Arm, int] = {}
    tables = ClaimTables(claim, tables)
    for check in (check for criterion in claim.criteria if criterion.role for check in criterion.checks):
        try:
            values = check.estimate(tables)
        except NotRun:
            continue
        if isinstance(values, pd.Series) and check.rests_on_d and check.least > 0:
            for arm in {arm._replace(needs="") for arm in check.arms}:
                found[arm] = max(found.get(arm, len(STAGE_1)), seeds_for(values, check.least))
    return found

"""The claims, in order of their numbers: each is a package with criteria, tables, figures and exercises.

A study is a package like a claim's, without exercises, about a question of our own; its scale has its name in `claims`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from candor.core.errors import CandorError

if TYPE_CHECKING:
    from candor.declare.ledger import Claim

NAMES = ("binary_reward", "sophistry", "grounding_loss", "annotation_noise", "brier_fix", "self_feedback")
STUDIES = ("model_size",)


@dataclass(frozen=True)
class ClaimModules:
    """A claim: what was declared, and the modules with its tables, figures and exercises."""

    name: str
    claim: Claim

    @property
    def tables(self) -> ModuleType:
        return importlib.import_module(f"candor.claims.{self.name}.tables")

    @property
    def figures(self) -> ModuleType:
        return importlib.import_module(f"candor.claims.{self.name}.figures")

    @property
    def exercises(self) -> ModuleType:
        return importlib.import_module(f"candor.claims.{self.name}.exercises")


def check(name: str) -> str:
    """The claim's name; `CandorError` naming those that there are if there is none of that name. Loads nothing."""
    if name not in (*NAMES, *STUDIES):
        raise CandorError(f"There is no claim {name!r}: choose one of {', '.join(NAMES)}.")
    return name


@cache
def load(name: str) -> ClaimModules:
    """The claim of that name; `CandorError` naming the known ones if there is none."""
    check(name)
    return ClaimModules(name, importlib.import_module(f"candor.claims.{name}.criteria").CLAIM)

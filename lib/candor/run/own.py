"""Arms, rewards and data sets of your own, from a Python file beside the scale that names it (`own: mine.py`).

The file may define
- `ARMS`: claim -> crowd -> arm -> options, as `ARMS` of `witnesses/run.py` (claims 1 and 5);
- `TERMS`: reward terms by name, as `TERMS` there: functions of the size of a group and the seed;
- `LOOKS`: how an arm is drawn, as `LOOKS` of `declare/figures.py`;
- `SETS`: questions for pretrained models, as `SETS` of `language_models/sets.py`, which `models.eval_sets` may name.

An edit of the file makes stale its own arms, evaluations on its own sets, and nothing else.
"""

from __future__ import annotations

import runpy
from dataclasses import replace
from types import SimpleNamespace

from candor.core import store
from candor.core.errors import CandorError
from candor.core.settings import ROOT, Config
from candor.declare import figures
from candor.language_models import sets
from candor.run import steps as experiments
from candor.witnesses import run as witnesses

CLAIMS = ("binary_reward", "brier_fix")  # their tables show every arm of the world


def arms(config: Config, claim: str) -> dict[str, tuple[str, ...]]:
    """The own arms of a scale that a claim shows, by crowd. Raises: `CandorError` for a file that does not fit."""
    module = install(config) if claim in CLAIMS else None
    return {crowd: tuple(of) for crowd, of in getattr(module, "ARMS", {}).get(claim, {}).items()}


def install(config: Config) -> SimpleNamespace | None:
    """Makes the rewards, looks and steps of the scale's own file known to this process. Raises: as `arms`."""
    if not (name := config["own"]):
        _check_sets(config, "")
        return None
    path = ROOT / "config" / name
    where = f"config/{name}"
    try:
        code = store.digest(path.read_text(encoding="utf-8"))
        module = SimpleNamespace(**runpy.run_path(str(path)))
    except Exception as error:
        raise CandorError(f"{where} cannot be used ({type(error).__name__}: {error}): correct it.") from error
    terms, known = getattr(module, "TERMS", {}), experiments.steps()
    own_sets = getattr(module, "SETS", {})
    for kind, ours, theirs in (("reward", terms, witnesses.TERMS), ("set", own_sets, sets.SETS)):
        if taken := set(ours) & set(theirs) - set(_INSTALLED.get(name, ())):
            raise CandorError(f"{where} gives the {kind} {min(taken)} a second meaning: choose another name.")
        theirs |= ours
    _check_sets(config, where)
    if set(own_sets) & set(config["models"]["eval_sets"]):
        asked = {key: step for key, step in known.items() if "eval_sets" in step.settings}
        known.update({key: replace(step, options={**step.options, "own": code}) for key, step in asked.items()})
    figures.LOOKS |= getattr(module, "LOOKS", {})
    for claim, crowds in getattr(module, "ARMS", {}).items():
        if claim not in CLAIMS:
            raise CandorError(f"{where} adds arms to {claim!r}: that can be done to {' and '.join(CLAIMS)}.")
        for crowd, of in crowds.items():
            if crowd not in witnesses.ARMS:
                raise CandorError(f"{where} names the crowd {crowd!r}: choose one of {', '.join(witnesses.ARMS)}.")
            for arm, options in of.items():
                if arm in witnesses.ARMS[crowd]:
                    raise CandorError(f"{where} gives {crowd}/{arm} a second meaning: choose another name.")
                if unknown := [term for term, _ in options["reward"] if term not in witnesses.TERMS]:
                    raise CandorError(f"{where}: the arm {arm} has the reward {unknown[0]!r}, which nobody defines.")
                known.update((step.key, step) for step in witnesses.arm_steps(crowd, arm, options, code))
    _INSTALLED[name] = (*terms, *own_sets)
    return module


def _check_sets(config: Config, where: str) -> None:
    if unknown := set(config["models"]["eval_sets"]) - set(sets.SETS):
        raise CandorError(
            f"models.eval_sets of scale {config['scale']} names the set {min(unknown)!r}, which nobody defines: choose "
            f"from {', '.join(sets.SETS)}, or define it in {where or 'a file of your own (docs/your_own.md)'}."
        )


_INSTALLED: dict[str, tuple[str, ...]] = {}  # file -> its reward terms and sets

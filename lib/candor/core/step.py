"""A step: something that is trained, collected or computed once, and its folder of results.

A step's key is `world/setting/name`; with a seed and a scale it names one folder,
`results/<scale>/steps/<world>/<setting>/<name>/<seed>/`, with named tables (parquet), `model/` if it trained one
(safetensors) and `run.json` (configuration, versions, commit, hardware, seconds, peak memory, checksums).

A step is stale when its fingerprint differs: its resolved settings, the fingerprints of what it needs, and the
meaning of the code that it really uses (`core/fingerprint.py`).
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from candor.core import fingerprint as fingerprints
from candor.core import provenance, runtime, store
from candor.core.errors import CandorError, CorruptError, MissingError, disk
from candor.core.settings import Config, results_root

_NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Step:
    """What is made, as data.

    `make` names a function `module:function` that takes a `Context` and returns its tables by name. `uses` names
    further code that the function reaches only through `options`: rewards by name, or one entry of a table, of which
    only that entry counts then (`module:NAME[entry]`). `settings` are the keys of the world's configuration that the
    step depends on (`name=key` reads a key under another name); `seeds` says which list of the scale's seeds it runs
    on.

    What a step of pretrained models is at a scale are functions of the scale's `models` and of the step, no part of the
    fingerprint: `asked`, whether the scale asks for it; `work`, what it makes which models do
    (`language_models/work.py`); `data`, the data sets that it reads, with their splits; `check`, which raises a
    `CandorError` where something else lacks.
    """

    key: str
    make: str
    needs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    seeds: str = "seeds"
    trains: bool = False
    asked: Callable[[Config, Step], bool] | None = None
    work: Callable[[Config, Step], list] | None = None
    data: Callable[[Config, Step], Iterable[tuple[str, str]]] = lambda models, step: ()
    check: Callable[[Config, Step], None] | None = None

    def __post_init__(self) -> None:
        parts = self.key.split("/")
        if len(parts) != 3 or not all(_NAME.fullmatch(part) for part in parts):
            raise ValueError(f"A step's key is world/setting/name in a-z, 0-9 and _, not {self.key!r}.")

    @property
    def world(self) -> str:
        return self.key.split("/")[0]


@dataclass(frozen=True)
class Result:
    """A finished step on disk."""

    folder: Path
    run: dict

    def table(self, name: str) -> pd.DataFrame:
        """The table of that name."""
        if name not in self.run["tables"]:
            raise MissingError(f"{self.folder} has no table {name!r}, only {', '.join(self.run['tables'])}.")
        return store.read(self.folder / f"{name}.parquet", pd.read_parquet)

    @property
    def model(self) -> Path:
        """Folder of the trained model."""
        return self.folder / "model"


@dataclass(frozen=True)
class Context:
    """What a step's function is given."""

    step: Step
    seed: int
    settings: Config  # of the step's world
    folder: Path  # to be filled; becomes the step's folder when everything is there
    needs: Mapping[str, Result]
    progress: Callable[[int, int], None]

    def need(self, name: str) -> Result:
        """The needed step of that name (the last part of its key)."""
        return next(result for key, result in self.needs.items() if key.split("/")[-1] == name)


def wanted(steps: Mapping[str, Step], config: Config) -> list[str]:
    """Keys of the steps of pretrained models that a scale asks for, each after what it needs."""
    if "models" not in config["evidence"]:
        return []
    found: dict[str, None] = {}

    def add(key: str) -> None:
        for need in steps[key].needs:
            add(need)
        found[key] = None

    for key, step in steps.items():
        if step.asked and step.asked(config["models"], step):
            add(key)
    return list(found)


# --- When a step is stale ---------------------------------------------------------------------------


def fingerprint(step: Step, seed: int, steps: Mapping[str, Step], config: Config) -> str:
    """Sixteen hexadecimal digits that change when the step would give something else."""
    return store.digest(
        {
            "key": step.key,
            "seed": seed,
            "options": dict(step.options),
            "settings": resolved(step, config).to_dict(),
            "code": fingerprints.digest(step.make, *step.uses),
            "needs": {key: fingerprint(steps[key], seed, steps, config) for key in step.needs},
        }
    )


def resolved(step: Step, config: Config) -> Config:
    """The part of the scale's configuration that the step depends on: its world's, or that of pretrained models."""
    world = config["world"][step.world] if step.world in config["world"] else config["models"]
    pairs = (name.split("=") if "=" in name else (name, name) for name in step.settings)
    return Config({name: world[key] for name, key in pairs})


# --- Folders --------------------------------------------------------------------------------------


def folder_of(key: str, seed: int, scale: str) -> Path:
    return results_root() / scale / "steps" / key / str(seed)


def checkpoints_of(key: str, seed: int, scale: str) -> Path:
    """Where the trainings of a step that is not finished keep their checkpoints, in a folder a fingerprint."""
    return results_root() / scale / "checkpoints" / key / str(seed)


def read(key: str, seed: int, scale: str, *, check: bool = True) -> Result:
    """The finished step, its checksums verified (`check` False: only that its files are there).

    Raises: `MissingError` if it was never finished, `CorruptError` naming what is missing, odd, truncated or edited.
    """
    folder = folder_of(key, seed, scale)
    try:
        return Result(folder, store.unseal(folder / "run.json", check=check))
    except MissingError:
        raise MissingError(
            f"{key} with seed {seed} has not been computed at scale {scale}: run `make replicate SCALE={scale}`."
        ) from None


def state(key: str, seed: int, scale: str, wanted: str) -> str:
    """ "done", "missing" (or a file of it), "stale" or "corrupt", for the fingerprint that is wanted."""
    try:
        result = read(key, seed, scale)
    except MissingError:
        return "missing"
    except CorruptError as error:
        return "corrupt" if os.path.lexists(error.path) else "missing"
    return "done" if result.run.get("fingerprint") == wanted else "stale"


# --- Running --------------------------------------------------------------------------------------


def run(
    key: str,
    seed: int,
    steps: Mapping[str, Step],
    config: Config,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Result, bool]:
    """Load the step if it is there and fresh, at this scale or another, otherwise make it; and whether it was made.

    A step is made in a draft and moved to its place when it is whole, so that an interruption at any moment leaves
    either the old result or the new one. What a pretrained model has been trained is kept in checkpoints until then,
    from which the next call goes on. Raises: `CorruptError` if the result there is not as it was made, `CandorError`
    in one sentence for a full disk or a folder that cannot be written.
    """
    if key not in steps:
        raise CandorError(f"There is no step {key!r}: `python -m candor list` shows them.")
    step, scale = steps[key], config["scale"]
    wanted, final = fingerprint(step, seed, steps, config), folder_of(key, seed, scale)
    now = state(key, seed, scale, wanted)
    if now == "corrupt":
        read(key, seed, scale)
    if now == "done":
        return read(key, seed, scale, check=False), False
    made = twin(key, seed, wanted) if now == "missing" else None
    needs = {} if made else {need: run(need, seed, steps, config)[0] for need in step.needs}
    checkpoints = checkpoints_of(key, seed, scale)
    how = runtime.Runtime()
    if step.world not in config["world"]:
        how = runtime.Runtime(**config["models"]["computation"], checkpoints=checkpoints / wanted)
    with disk(final), store.draft(final / "run.json") as draft:
        if state(key, seed, scale, wanted) == "done":  # made by another process meanwhile
            return read(key, seed, scale, check=False), False
        if made:
            shutil.copytree(made, draft, dirs_exist_ok=True)
            store.put(draft, final / "run.json", store.unseal(draft / "run.json"))
            return read(key, seed, scale, check=False), False
        for old in checkpoints.glob("*"):
            if old.name != wanted:
                shutil.rmtree(old, ignore_errors=True)
        provenance.tree()  # before the work: what is edited meanwhile has no part in it
        start = time.perf_counter()
        module, function = step.make.split(":")
        make = getattr(importlib.import_module(module), function)
        with runtime.use(how):
            tables = make(Context(step, seed, resolved(step, config), draft, needs, progress))
            cost = how.told()
        for name, table in tables.items():
            table.to_parquet(draft / f"{name}.parquet", index=False)
        if step.world not in config["world"]:
            cost["computation"] = config["models"]["computation"].to_dict()
        cost["seconds"] = round(time.perf_counter() - start + how.resumed, 2)
        store.put(draft, final / "run.json", _about(step, seed, scale, wanted, config, tables, cost))
        shutil.rmtree(checkpoints, ignore_errors=True)
    return read(key, seed, scale, check=False), True


def twin(key: str, seed: int, wanted: str) -> Path | None:
    """The same step, made at another scale: where two scales agree on a step, it is made once."""
    for scale in sorted(path.parent.name for path in results_root().glob("*/steps")):
        if state(key, seed, scale, wanted) == "done":
            return folder_of(key, seed, scale)
    return None


def _about(step, seed, scale, wanted, config, tables, cost) -> dict:
    return {
        "key": step.key,
        "seed": seed,
        "scale": scale,
        "fingerprint": wanted,
        "options": dict(step.options),
        "settings": resolved(step, config).to_dict(),
        "needs": list(step.needs),
        **provenance.here(),
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        **cost,
        "peak_memory_mb": provenance.peak_memory_mb(),
        "tables": {name: {"rows": len(table), "columns": list(table.columns)} for name, table in tables.items()},
    }

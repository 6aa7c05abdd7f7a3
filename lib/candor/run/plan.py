"""What a replication consists of, as data: which steps, in which batches and order, made of what.

The Snakefile turns this into rules, `replicate` watches it; nothing here runs anything. A job is a batch, some steps
of one setting and one seed, because importing the trainers costs a process 6 s and 0.5 GB.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from candor import claims
from candor.claims import shared
from candor.core import fingerprint
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import ROOT, Config
from candor.run import own, stages
from candor.run import steps as experiments

PUBLISHED = ROOT / "data" / "published"
REFERENCE = ROOT / "data" / "reference"
NOTEBOOKS = ROOT / "notebooks"
STUDIES_AT = "sweep"  # the scale of the studies
BATCH = 8
SMOKE_BATCH = 40  # a step takes a second there: what costs is the import


@dataclass(frozen=True)
class Batch:
    """Some steps of one setting and seed; `rank` 0 runs first, `needs` names other batches of the same seed."""

    name: str
    seed: int
    keys: tuple[str, ...]
    needs: tuple[str, ...]
    rank: int
    gpu: bool


@dataclass(frozen=True)
class Plan:
    """A scale and its claims, with the steps they need."""

    config: Config
    claims: tuple[str, ...]

    @property
    def scale(self) -> str:
        return self.config["scale"]

    @property
    def shown(self) -> bool:
        """Whether figures and notebooks are made: they show small worlds."""
        return "world" in self.config["evidence"]

    @property
    def folder(self) -> Path:
        """Where everything of this scale goes."""
        return steps.results_root() / self.scale

    def keys(self, claim: str) -> list[str]:
        """Keys of the steps that a claim reads at this scale, those that decide its verdict first."""
        modules, evidence = claims.load(claim), self.config["evidence"]
        wanted = list(modules.tables.NEEDS) if "world" in evidence else []
        if "world" in evidence:
            wanted += shared.trained_and_evaluated(own.arms(self.config, claim))
        if "models" in evidence:
            wanted += steps.wanted(_pretrained(claim), self.config)
        if unknown := [key for key in wanted if key not in experiments.steps()]:
            raise CandorError(f"Claim {claim} needs the step {unknown[0]!r}, which no world declares.")
        return wanted

    def requirements(self, here: bool = True) -> list[str]:
        """What the pretrained models of these claims still lack, a sentence each; asked before any work starts.

        `here`: whether the jobs run on this machine; those of a cluster have its GPUs.
        """
        from candor.language_models import needs, outputs

        lacks = needs.lacking(self.pretrained(), self.config, here)
        read = any(hasattr(claims.load(name).tables, "released") for name in self.claims)
        return lacks + (outputs.missing() if read and "released" in self.config["evidence"] else [])

    def pretrained(self) -> list[steps.Step]:
        """The steps of pretrained models that these claims need."""
        known = experiments.steps()
        found = (key for name in self.claims for key in steps.wanted(_pretrained(name), self.config))
        return [known[key] for key in dict.fromkeys(found)]

    def runs(self) -> dict[tuple[str, int], str]:
        """Every (step, seed) that is needed, in the order in which it should run, and the claim it is for.

        What decides an overall verdict comes first, what no verdict rests on last; within that the claims take
        turns, each in its own order.
        """
        known = experiments.steps()
        ranked = []
        for name in self.claims:
            keys = self.keys(name)
            ranked += [(self.urgency(key), i / len(keys), name, key) for i, key in enumerate(keys)]
        found: dict[tuple[str, int], str] = {}

        def add(key: str, seed: int, claim: str) -> None:
            for need in known[key].needs:
                add(need, seed, claim)
            found.setdefault((key, seed), claim)

        for _, _, name, key in sorted(ranked, key=lambda r: r[:2]):
            for seed in stages.seeds_of(known[key], self.config, name, self.folder / "tables" / name):
                add(key, seed, name)
        return found

    def urgency(self, key: str) -> int:
        """0 for a step on which an overall verdict rests, 1 on which another does, 2 on which none does (few seeds)."""
        if experiments.steps()[key].seeds in ("few_seeds", "first_seed"):
            return 2
        return int(all(key not in claims.load(name).tables.DECISIVE for name in self.claims))

    def batches(self, size: int | None = None) -> dict[tuple[str, int], Batch]:
        """The runs cut into batches, by (name, seed), of `size` steps at most (default: what suits the scale).

        Steps that share a batch wait for each other. So a batch holds steps of one setting, which wait for the same
        base anyway, and ends with a step on which more than a batch of others wait. At smoke scale it holds steps of
        one world: a step takes a second there, and the import costs more than the waiting.
        """
        size = size or (SMOKE_BATCH if self.scale == "smoke" else BATCH)
        known, runs = experiments.steps(), list(self.runs())
        rank_of = {key: i for i, key in enumerate(dict.fromkeys(key for key, _ in runs))}
        awaited = Counter((need, seed) for key, seed in runs for need in known[key].needs)
        groups: dict[tuple[str, int], list[list[str]]] = {}
        for key, seed in runs:
            world, setting, _ = key.split("/")
            # A batch is a job, and asks for a GPU or not: settings of pretrained models stay apart. So do sizes.
            together = self.scale == "smoke" and world in self.config["world"]
            group = f"{world}_" if together else f"{world}_{setting}_{'abc'[self.urgency(key)]}"
            parts = groups.setdefault((group, seed), [[]])
            last = parts[-1]
            if len(last) == size or (last and not together and awaited[last[-1], seed] > size):
                parts.append([])
            parts[-1].append(key)
        cut = {
            (f"{group}{i}", seed): tuple(keys)
            for (group, seed), parts in groups.items()
            for i, keys in enumerate(parts, 1)
        }
        home = {(key, seed): name for (name, seed), keys in cut.items() for key in keys}
        return {
            (name, seed): Batch(
                name,
                seed,
                keys,
                tuple(sorted({home[need, seed] for key in keys for need in known[key].needs} - {name})),
                rank_of[keys[0]],
                any(_on_gpu(known[key], self.config) for key in keys),
            )
            for (name, seed), keys in cut.items()
        }

    def gpus(self, batch: Batch, each: int = 1, worlds: bool = False) -> int:
        """GPUs of a batch's job: `each` where a step trains by accelerate, else one for pretrained models.

        Data and tables get none, and small worlds one only if `worlds` says so: they were made for a CPU.
        """
        known = experiments.steps()
        if not batch.gpu:
            return int(worlds and any(known[key].world in self.config["world"] for key in batch.keys))
        return each if each > 1 and any(_by_accelerate(known[key].make) for key in batch.keys) else 1

    def fingerprints(self, keys: tuple[str, ...] | list[str], seed: int) -> dict[str, str]:
        """Fingerprint of each step for one seed."""
        known = experiments.steps()
        return {key: steps.fingerprint(known[key], seed, known, self.config) for key in keys}

    def tables_digest(self, claim: str) -> str:
        """Changes when a claim's tables would: its steps, the code of its tables, the published numbers."""
        known = experiments.steps()
        keys = self.keys(claim)
        parts = [f"candor.claims.{claim}.tables:{part}" for part in ("published", "theory", "world", "models")]
        if "released" in self.config["evidence"] and hasattr(claims.load(claim).tables, "released"):
            parts.append(f"candor.claims.{claim}.tables:released")
        return _digest(
            [fingerprint.digest(*parts, "candor.run.steps:Results"), _published(), self.config["evidence"]],
            {
                f"{key} {seed}": steps.fingerprint(known[key], seed, known, self.config)
                for key in keys
                for seed in stages.seeds_of(known[key], self.config, claim, self.folder / "tables" / claim)
            },
        )


def _pretrained(claim: str) -> dict[str, steps.Step]:
    """The steps of pretrained models that a claim's tables read.

    Those that its folder declares, or, of a claim that declares none, those of the library: of all arms, or of those
    that its tables name (`MODELS`).
    """
    known = {key: step for key, step in experiments.steps().items() if step.asked or step.work}
    own = {key: step for key, step in known.items() if step.make.startswith(f"candor.claims.{claim}.")}
    arms = getattr(claims.load(claim).tables, "MODELS", None)
    return own or {
        key: step
        for key, step in known.items()
        if step.make.startswith("candor.language_models.") and (arms is None or step.options["arm"] in arms)
    }


def plan(scale: str = "laptop", claim: str | None = None) -> Plan:
    """What a scale and, if given, one claim of it consist of; `CandorError` for an unknown scale or claim."""
    settings = config.load(scale)
    own.install(settings)
    if claim:
        claims.load(claim)
    known = (*claims.NAMES, *claims.STUDIES)
    return Plan(settings, (claim,) if claim else tuple(name for name in known if name in settings["claims"]))


def plain(folder: Path, here: Path = ROOT) -> Path:
    """The folder by a name that Snakemake, working in `here`, takes as it is.

    Relative if it lies below, so that a checkout can be moved; and by a link in `.snakemake/` if its name holds what
    is a pattern to Snakemake (`{x}`, `<x>`). Raises: `CandorError` where the folder or the link cannot be made.
    """
    below = folder.relative_to(here) if folder.is_relative_to(here) else folder
    folder = folder if str(below).startswith("-") else below  # a command would take it for an option
    if not set(str(folder)) & set("{}<>"):
        return folder
    link = Path(".snakemake", f"results-{_digest(str(folder))}")
    try:
        (here / link).parent.mkdir(exist_ok=True)
        (here / folder).mkdir(parents=True, exist_ok=True)
        if not (here / link).exists():
            (here / link).symlink_to(here / folder)
    except FileExistsError:  # by a job that started at the same moment
        pass
    except OSError as error:
        raise CandorError(
            f"{here / folder} cannot be used ({error.strerror}): set CANDOR_RESULTS to another folder."
        ) from None
    return link


def reference(names: Iterable[str]) -> Path:
    """The folder of the reference run of these claims: a study has its own, named after its scale."""
    return REFERENCE / STUDIES_AT if set(names) <= set(claims.STUDIES) else REFERENCE


def check_keys(keys: list[str]) -> None:
    """Raises `CandorError` naming what there is instead, if a step is unknown."""
    known = experiments.steps()
    for key in keys:
        if key not in known:
            near = [name for name in known if name.rsplit("/", 1)[0] == key.rsplit("/", 1)[0]]
            settings = sorted({name.rsplit("/", 1)[0] for name in known})
            there = f"there are {', '.join(near)}" if near else f"the settings are {', '.join(settings)}"
            raise CandorError(f"There is no step {key!r}: {there} (`python -m candor list` shows all).")


TUNING = range(5)


def check_seed(plan: Plan, seed: int, keys: list[str]) -> None:
    """Raises `CandorError` if this scale has no use for a step with that seed; 0 to 4 are for tuning, at any scale."""
    check_keys(keys)
    runs = plan.runs()
    for key in keys:
        seeds = {s for k, s in runs if k == key} | set(experiments.seeds_of(experiments.steps()[key], plan.config))
        if seed not in (*TUNING, *seeds):
            raise CandorError(
                f"{key} has no seed {seed} at scale {plan.scale}: choose {', '.join(map(str, sorted(seeds)))}, 0 to 4 "
                f"for tuning, or add it to the seeds in config/{plan.scale}.yaml."
            )


def _on_gpu(step: steps.Step, settings: Config) -> bool:
    """Whether the step runs a pretrained model: neither a small world nor data alone."""
    return bool(step.work and step.work(settings["models"], step))


@cache
def _by_accelerate(make: str) -> bool:
    """Whether a step's function reaches the training that uses all GPUs of its job."""
    return "candor.language_models.training:train" in fingerprint.used(make)


# --- What else can be stale ------------------------------------------------------------------------


def criteria_digest(claim: str) -> str:
    """Changes when a claim's criteria do, or how they are judged."""
    return fingerprint.digest(f"candor.claims.{claim}.criteria:CLAIM", "candor.declare.ledger:write")


def figure_digest(claim: str, name: str) -> str:
    """Changes when a figure would look different, given the same tables."""
    plot = claims.load(claim).figures.FIGURES[name]
    code = fingerprint.digest(
        f"{plot.draw.__module__}:{plot.draw.__qualname__}",
        "candor.declare.figures:style",
        "candor.declare.figures:save",
        "candor.declare.figures:Plot",
    )
    return _digest(code, plot.caption, plot.alt, plot.tables)


def notebook_digest(path: Path) -> str:
    """Changes when a notebook's cells do, not when it is executed."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return _digest(["".join(cell["source"]) for cell in cells])


def notebooks(of: tuple[str, ...] = claims.NAMES) -> list[Path]:
    """The notebooks of these claims and those of no claim, in reading order."""
    others = set(claims.NAMES) - set(of)
    return [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if path.stem.split("_", 1)[-1] not in others]


def notebook_parameters(path: Path, **given: object) -> dict[str, object]:
    """`given`, after checking that the notebook's cell tagged `parameters` sets every name (papermill only logs)."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    names = {
        target.id
        for source in tagged
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if unknown := set(given) - names:
        raise CandorError(
            f"notebooks/{path.name} has no parameter {sorted(unknown)[0]!r}: its cell tagged parameters sets "
            f"{', '.join(sorted(names)) or 'nothing'}."
        )
    return given


@cache
def _published() -> str:
    return _digest([[path.name, path.read_text(encoding="utf-8")] for path in sorted(PUBLISHED.glob("*.csv"))])


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

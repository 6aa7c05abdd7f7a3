"""What would make a replication fail later, asked before its first job: a sentence each, with what to do.

`replicate` asks for the jobs of its own machine; the Snakefile asks for whichever executor it was started with. A
cluster brings its own GPUs and memory, but the weights and data sets must be where its jobs read them.
"""

from __future__ import annotations

import getpass
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from candor.core.errors import CandorError
from candor.language_models import needs
from candor.run import plan as graph

PROCESS = 1500  # MB, the peak of a process of the reference run (peak_memory_mb in data/reference/provenance.json)
HELD = 2  # bytes a parameter of a model that is only run, in bfloat16
TRAINED = 16  # bytes a parameter that is trained: float32 weight, gradient and Adam's two moments
MB = 2**20
_FETCH = re.compile(r"(.+?)(?: \((.+)\))?: run `python -m candor fetch (.+?)(?: --scale \w+)?`(.*)")


def check(plan: graph.Plan, cores: int, executor: str = "local", asked: Iterable[tuple[str, str]] = ()) -> None:
    """Raises one `CandorError` with everything that is lacking for this executor, a line each.

    `cores`: processes at once on this machine. `asked`: pairs (account, partition) that jobs name, "" for none; only
    Slurm reads them.
    """
    here = executor == "local"
    lacks = plan.requirements(here)
    if here:
        lacks += memory(plan, cores)
    if executor == "slurm":
        lacks += slurm(asked)
    if lacks := one_command(lacks, plan.scale):
        raise CandorError("\n".join(lacks))


def one_command(lacks: list[str], scale: str) -> list[str]:
    """The same, with everything that `candor fetch` can bring in one sentence with one command, at the end."""
    found = {line: match.groups() for line in lacks if (match := _FETCH.fullmatch(line))}
    if not found:
        return lacks
    missing: dict[str, dict[str, None]] = {}
    for what, which, _, _ in found.values():
        missing.setdefault(what, {}).update(dict.fromkeys(which.split(", ") if which else ()))
    kinds = [what + f" ({', '.join(those)})" * bool(those) for what, those in missing.items()]
    kinds = "; ".join([kinds[0], *(kind[0].lower() + kind[1:] for kind in kinds[1:])])
    names = " ".join(dict.fromkeys(" ".join(names for _, _, names, _ in found.values()).split()))
    where = max((where for *_, where in found.values()), key=len)
    fetch = f"{kinds}: run `python -m candor fetch {names} --scale {scale}`{where}"
    return [*(line for line in lacks if line not in found), fetch]


# --- Memory -----------------------------------------------------------------------------------------


def memory(plan: graph.Plan, cores: int, machine_mb: int | None = None, gpu_mb: int | None = None) -> list[str]:
    """What this machine's memory, and its smallest GPU's, do not suffice for (both in MB; None: what there is).

    The bounds are what is certainly needed: the peak of a process of the reference run, and of the largest model its
    weights alone, or what training all of them keeps. A step also holds activations and caches.
    """
    machine_mb = machine_mb or machine_memory()
    scale, at_once = plan.scale, min(cores, len(plan.batches()))
    lacks = []
    if machine_mb < PROCESS:
        lacks.append(
            f"A process of scale {scale} takes up to {PROCESS} MB of memory, and this machine has {machine_mb} MB: use "
            "a larger one."
        )
    elif machine_mb < at_once * PROCESS:
        lacks.append(
            f"{at_once} processes of up to {PROCESS} MB each need {at_once * PROCESS} MB of memory, and this machine "
            f"has {machine_mb} MB: use --cores {machine_mb // PROCESS}."
        )
    needs = [
        (parameters * bytes_each // MB, place)
        for place, bytes_each in model_needs(plan).items()
        if (parameters := count_parameters(place))
    ]
    if not needs:
        return lacks
    size, place = max(needs)
    gpu_mb = gpu_mb or gpu_memory()
    if gpu_mb and gpu_mb < size:
        lacks.append(
            f"{place} needs at least {size} MB of GPU memory at scale {scale}, and the GPU has {gpu_mb} MB: choose a "
            f"smaller model or adapters (lora) in config/{scale}.yaml, or a larger GPU."
        )
    if not gpu_mb and machine_mb < size + PROCESS:
        lacks.append(
            f"{place} needs at least {size + PROCESS} MB of memory at scale {scale} where there is no GPU, and this "
            f"machine has {machine_mb} MB: choose a smaller model in config/{scale}.yaml, or a larger machine."
        )
    return lacks


def machine_memory(limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Memory of this machine in MB, or what a container may use of it."""
    import psutil

    total = psutil.virtual_memory().total
    allowed = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(allowed) if allowed.isdecimal() else total) // MB


def machine_cores() -> int:
    """Cores that this process may use: by its affinity and its container's share; OMP_NUM_THREADS is about threads."""
    import joblib

    return joblib.cpu_count()


def gpu_memory() -> int:
    """Memory of the smallest GPU in MB; 0 where torch sees none."""
    import torch

    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return min(sizes, default=0) // MB


def model_needs(plan: graph.Plan) -> dict[str, int]:
    """Bytes a parameter that each pretrained model of the plan takes at least: trained whole, or only run."""
    models, steps = plan.config["models"], plan.pretrained()
    whole = [work.model for work in needs.works(steps, models) if work.kind == "train" and not work.rank]
    return dict.fromkeys(needs.weights(steps, models), HELD) | dict.fromkeys(whole, TRAINED)


def count_parameters(place: str) -> int:
    """Parameters of a model that is a folder here or lies in the Hub client's cache, read from the files' headers."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = Path(place)
    if not folder.is_dir():
        try:
            found = try_to_load_from_cache(place, "config.json")
        except HFValidationError:
            return 0
        if not isinstance(found, str):
            return 0
        folder = Path(found).parent
    return sum(_parameters_in(file) for file in folder.glob("*.safetensors"))


def _parameters_in(file: Path) -> int:
    with file.open("rb") as content:
        header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


# --- Slurm ------------------------------------------------------------------------------------------


def slurm(asked: Iterable[tuple[str, str]], path: str | None = None, ask: Callable | None = None) -> list[str]:
    """What a Slurm cluster lacks for jobs of these (account, partition), "" where they name none.

    Without accounting (no slurmdbd) any account passes, as it does in Slurm. `path`: where to look for Slurm's
    programs; `ask`: runs one and returns its output, None if it failed.
    """
    path, ask = path or os.environ.get("PATH", ""), ask or _ask
    if missing := [name for name in ("sbatch", "sinfo", "squeue") if not shutil.which(name, path=path)]:
        return [
            f"Slurm's {missing[0]} is not on the path: start the graph on a login node of the cluster, or leave out "
            "--workflow-profile profiles/slurm."
        ]
    rows = ask(["sinfo", "--noheader", "--format=%P"])
    if rows is None:
        return ["Slurm's controller does not answer sinfo: ask the cluster's administrators whether it is up."]
    partitions = rows.split()
    names = sorted({name.rstrip("*") for name in partitions})
    asked = sorted(set(asked))
    lacks = []
    for partition in sorted({part for _, given in asked for part in given.split(",") if part} - set(names)):
        lacks.append(
            f"Slurm has no partition {partition!r}: name one of {', '.join(names)} with --default-resources "
            "slurm_partition=..."
        )
    if any(not given for _, given in asked) and not any(name.endswith("*") for name in partitions):
        lacks.append(
            f"Slurm has no default partition: name one of {', '.join(names)} with --default-resources "
            "slurm_partition=..."
        )
    return lacks + _accounts(sorted({account for account, _ in asked}), ask)


def _accounts(asked: list[str], ask: Callable) -> list[str]:
    settings = ask(["scontrol", "show", "config"]) or ""
    kept = dict(line.split("=", 1) for line in settings.replace(" ", "").splitlines() if "=" in line)
    if "slurmdbd" not in kept.get("AccountingStorageType", ""):
        return []
    user = getpass.getuser()
    rows = ask(["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=account"])
    if rows is None:  # the plugin asks again, and says so
        return []
    mine = sorted({row.lower() for row in rows.split()})
    there = f"yours are {', '.join(mine)}" if mine else "you have none, so ask the cluster's administrators for one"
    lacks = [
        f"Slurm has no account {account!r} for {user}: {there} (--default-resources slurm_account=...)."
        for account in asked
        if account and account.lower() not in mine
    ]
    # Where associations are enforced, Slurm refuses the job of a user who has no account.
    if "" in asked and not mine and "associations" in kept.get("AccountingStorageEnforce", ""):
        lacks.append(f"Slurm has no account for {user}: {there}.")
    return lacks


def _ask(command: list[str]) -> str | None:
    try:
        made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if made.returncode else made.stdout

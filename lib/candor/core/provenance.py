"""Where a result comes from, and what it took: Candor's commit, versions, hardware, memory."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from candor.core.settings import ROOT

# All of the tree that a result depends on; notebooks, tests and profiles are not part of it.
DECIDES = ("lib", "config", "data/published", "data/live", "requirements.lock", "requirements-cuda.lock", "Snakefile")
TRAINS = ("torch", "transformers", "trl")  # libraries whose versions may change what a training gives


@cache
def tree(root: Path = ROOT) -> dict[str, Any]:
    """`commit` of Candor's own tree, and whether it was `modified`: files of `DECIDES` edited, added or removed.

    "unknown" and None where there is no git, and where `root` is no working tree of its own: an unpacked archive inside
    another repository has not that one's commit. A step asks before it starts, as the code is the one then loaded.
    """

    own = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")  # a hook of another repository sets them
    environment = {name: value for name, value in os.environ.items() if name not in own}

    def git(*arguments: str) -> str | None:
        command = ["git", "--no-optional-locks", *arguments]
        try:
            made = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return None if made.returncode else made.stdout.strip()

    top = git("rev-parse", "--show-toplevel")
    commit = git("rev-parse", "--short=12", "HEAD") if top and root.samefile(top) else None
    changes = git("status", "--porcelain", "--untracked-files=all", "--", *DECIDES) if commit else None
    return {"commit": commit or "unknown", "modified": None if changes is None else bool(changes)}


def today() -> str:
    """The date, the same at one moment everywhere (UTC)."""
    return datetime.now(UTC).date().isoformat()


def peak_memory_mb() -> int:
    """The most memory that this process has held, in MB; the system counts in KiB, on macOS in bytes."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10))


@cache
def here() -> dict[str, Any]:
    """Commit, versions and hardware of this run."""
    from importlib.metadata import version

    packages = ("torch", "transformers", "trl", "datasets", "numpy", "pandas")
    return {
        **tree(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "gpu": _gpu()},
    }


def made_elsewhere(versions: Iterable[Mapping[str, str]]) -> str:
    """One sentence if results were made with another major or minor version of what trains; empty if not.

    `versions` are those that their `run.json` hold.
    """
    own = here()["versions"]
    other = {(name, _minor(made[name])) for made in versions for name in TRAINS if name in made}
    other -= {(name, _minor(own[name])) for name in TRAINS}
    if not other:
        return ""
    installed = ", ".join(f"{name} {_minor(own[name])}" for name in sorted({name for name, _ in other}))
    return (
        f"Finished steps that were made with {', '.join(' '.join(pair) for pair in sorted(other))} are kept, although "
        f"{installed} is installed here: remove their folders if you want them made again."
    )


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"model name\s*:\s*(.+)", text)
    return match[1].strip() if match else platform.machine()


def _gpu() -> str | None:
    torch = sys.modules.get("torch")  # asked only where it is loaded anyway
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None

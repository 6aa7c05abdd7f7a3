"""Where a result comes from: the commit of Candor's tree, the versions of the libraries, the hardware."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from candor.config import ROOT


@cache
def here() -> dict[str, Any]:
    """Commit, versions and hardware of this run."""
    from importlib.metadata import version

    def git(*arguments: str) -> str:
        try:
            result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        except OSError:  # git is not installed
            return ""
        return result.stdout.strip()

    packages = ("torch", "transformers", "trl", "datasets", "numpy", "pandas")
    return {
        "commit": git("rev-parse", "--short=12", "HEAD") or "unknown",
        "modified": bool(git("status", "--porcelain", "--untracked-files=no", "--", "lib", "config")),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "gpu": _gpu()},
    }


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

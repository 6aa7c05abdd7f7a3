"""The packages that Candor needs: install what the locks pin, or write the locks again.

    python tools/environment.py install            into the environment of this Python, a line for every 20 packages
    python tools/environment.py lock [OPTIONS]     from requirements.in, as `make lock` does; options of uv: --upgrade

Every file that may be installed is named by its SHA-256, so that nobody on the way can exchange one. Two locks, because
torch comes in several builds: the index's for Linux asks for CUDA libraries of several GB, its builds for macOS and
those of PyTorch's own CPU index for none. `requirements.lock` is what all of them need, `requirements-cuda.lock` is
installed where the torch that pip has chosen asks for it. Needs pip alone; `lock` needs uv, which is in the lock.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MAIN, CUDA = ROOT / "requirements.lock", ROOT / "requirements-cuda.lock"
OF_CUDA = re.compile(r"(nvidia|cuda|triton)\b")
PIP = ("-m", "pip")
NO_WHEEL = "connection-pool"
HEADER = """\
# Every package of the environment, pinned, each file that may be installed with its SHA-256. Written by `make lock`
# (tools/environment.py) from requirements.in; pins stay as they are unless `make lock LOCK_FLAGS=--upgrade` says so.
#
# Install it by `make environment`, or into any Python from 3.11 by `python tools/environment.py install`. By hand:
#   pip install --no-deps --require-hashes --no-build-isolation -r requirements.lock
# --no-deps, because the builds of torch ask for different packages; requirements-cuda.lock has what its CUDA builds
# need. No build isolation, because connection-pool has no wheel: it is built by the setuptools of this lock.
# torch has a hash more than the index knows: that of the CPU build for Linux x86-64 (2.13.0+cpu), which pip takes where
# it is configured to. Another build of your own: `make lock` adds the hash of the one that pip chooses on your machine,
# and only what is listed here is ever installed.
# Wheels are there for Linux x86-64 and arm64 (glibc 2.28) and macOS 14 arm64; torch has none for Intel Macs.
"""
HEADER_CUDA = "# What torch's CUDA builds for Linux need beside requirements.lock, whose head says how both are made.\n"


def entries(path: Path) -> list[str]:
    """The packages of a lock: name, version, marker and hashes, as pip reads them."""
    return re.findall(r"^[a-zA-Z].*(?:\n +--hash.*)*\n", path.read_text(encoding="utf-8"), flags=re.M)


def name_of(entry: str) -> str:
    return entry.split("==")[0]


def by_name(*paths: Path) -> dict[str, str]:
    """The entries of each package; some have several, with markers that exclude each other."""
    found: dict[str, str] = {}
    for entry in (entry for path in paths if path.exists() for entry in entries(path)):
        found[name_of(entry)] = found.get(name_of(entry), "") + entry
    return found


def install() -> None:
    """Raises SystemExit in one sentence if pip fails; what is there already is left alone."""
    if sys.version_info < (3, 11):  # noqa: UP036 (a person may run this file with any Python)
        sys.exit(f"Candor needs Python 3.11 or newer, and this is {sys.version.split()[0]}: run it with another.")
    wanted = by_name(MAIN)
    wanted["torch"] = _chosen_torch(wanted["torch"])
    _install([wanted.pop("setuptools"), *wanted.values()], "requirements.lock")
    if _wants_cuda():
        _install(entries(CUDA), "requirements-cuda.lock, because this build of torch needs CUDA libraries", 1)
    if (ROOT / "lib").exists():
        print(f"Candor itself, from {ROOT}", flush=True)
        # What an editable install comes to; building one fails where the path has what setuptools takes for a variable.
        Path(sysconfig.get_path("purelib"), "candor.pth").write_text(f"{ROOT / 'lib'}\n")


def _install(wanted: list[str], source: str, at_once: int = 20) -> None:
    print(f"{len(wanted)} packages of {source}", flush=True)
    # setuptools comes first and alone, because it builds what has no wheel; torch alone, because it takes longest.
    alone = [i for i, entry in enumerate(wanted) if name_of(entry) in ("setuptools", "torch", NO_WHEEL)]
    cuts = sorted({0, len(wanted), *range(1, len(wanted), at_once), *alone, *(i + 1 for i in alone)})
    for start, end in itertools.pairwise(cuts):
        names = " to ".join(dict.fromkeys((name_of(wanted[start]), name_of(wanted[end - 1]))))
        print(f"  {start + 1:3} to {end:3} of {len(wanted)}: {names}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder, "part.lock")
            part.write_text("".join(wanted[start:end]), encoding="utf-8")
            how = ("--quiet", "--no-deps", "--no-build-isolation", "--require-hashes", "--disable-pip-version-check")
            python = sys.executable
            if name_of(wanted[start]) == NO_WHEEL and set("${") & set(sys.prefix):  # variables to setuptools
                Path(folder, "here").symlink_to(sys.prefix)
                python = f"{folder}/here/bin/python"
            command = [python, *PIP, "install", *how, "--requirement", str(part)]
            if subprocess.run(command, env={**os.environ, **_cache()}, check=False).returncode:
                sys.exit(
                    "pip could not install this (see above): put it right and run the same command again, it goes on."
                )


def _cache() -> dict[str, str]:
    """pip cannot build a wheel while its cache is on a read-only disk; then it does without."""
    found = subprocess.run(
        [sys.executable, *PIP, "cache", "dir"], capture_output=True, text=True, check=False
    ).stdout.strip()
    try:
        Path(found).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=found).close()
    except OSError:
        return {"PIP_NO_CACHE_DIR": "1"}
    return {}


def _chosen_torch(entry: str) -> str:
    """The entry of the build that pip takes if left alone: with hashes it would pass over a wheel in a folder."""
    version, sha256 = _asked(entry.split()[0])
    return f"torch=={version} --hash=sha256:{sha256}\n" if sha256 in entry else entry


def _asked(requirement: str) -> tuple[str, str]:
    """Version and SHA-256 of the file that pip would install for it here."""
    ask = ("--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", "-")
    command = [sys.executable, *PIP, "install", *ask, requirement]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        sys.exit(f"pip finds no {requirement} for this machine: the head of requirements.lock says where there is one.")
    [found] = json.loads(made.stdout)["install"]
    return found["metadata"]["version"], found["download_info"]["archive_info"]["hashes"]["sha256"]


def _wants_cuda() -> bool:
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    asked = [Requirement(text) for text in requires("torch") or ()]
    return any(OF_CUDA.match(one.name) and (not one.marker or one.marker.evaluate({"extra": ""})) for one in asked)


def lock(*options: str) -> None:
    """Writes both locks; pins that still fit stay, and so do the hashes of a torch that did not change."""
    before = by_name(MAIN, CUDA)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, "draft.lock")
        draft.write_text("".join(before.values()), encoding="utf-8")
        how = ("--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", *how, *options]
        files = [str(ROOT / "requirements.in"), "--output-file", str(draft)]
        if subprocess.run([*command, *files], check=False).returncode:
            sys.exit("uv could not resolve requirements.in (see above): change it, or run `make lock` again.")
        found = by_name(draft)
    if found["torch"].split()[0] == before.get("torch", "?").split()[0]:
        _add(found, re.findall(r"sha256:(\w+)", before["torch"]))
    _add(found, [_asked(found["torch"].split()[0])[1]])
    for path, of_cuda, header in ((MAIN, False, HEADER), (CUDA, True, HEADER_CUDA)):
        listed = "".join(entry for name, entry in sorted(found.items()) if bool(OF_CUDA.match(name)) == of_cuda)
        path.write_text(header + listed, encoding="utf-8")


def _add(found: dict[str, str], hashes: list[str]) -> None:
    start = found["torch"].split(" \\\n")[0]
    known = sorted({*re.findall(r"sha256:(\w+)", found["torch"]), *hashes})
    found["torch"] = " \\\n".join([start, *(f"    --hash=sha256:{one}" for one in known)]) + "\n"


if __name__ == "__main__":
    commands = {"install": install, "lock": lock}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit("python tools/environment.py install, or lock: the head of that file says what each does.")
    commands[sys.argv[1]](*sys.argv[2:])

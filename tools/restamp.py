"""Gives finished results the fingerprints of today's code, where they are what today's code would make.

    python tools/restamp.py --made-by COMMIT [--scale SCALE ...]

For after a change of how fingerprints are computed, or of code in a way that changes no result but every fingerprint. A
result is carried over if its fingerprint is the one that COMMIT gives by its own scheme, so that COMMIT's code made it,
and if today's scheme finds the same meaning in COMMIT's code and in today's. All others are left as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

from candor.core import fingerprint, store
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.core.settings import ROOT, Config, scales
from candor.run import plan as graph
from candor.run import steps as experiments

# Runs with COMMIT's code: every step, and by scale the settings and each run's fingerprint.
PROBE = """
import dataclasses, json, sys
try:
    from candor.core import step as steps
    from candor.run import plan as graph, steps as experiments
except ImportError:
    from candor import experiments, graph, steps
known = experiments.steps()
fields = [field.name for field in dataclasses.fields(steps.Step)]
told = {k: {n: getattr(s, n) for n in fields if not callable(getattr(s, n))} for k, s in known.items()}
made = {"steps": told, "scales": {}}
for scale in sys.argv[1:]:
    plan = graph.plan(scale)
    runs = [[key, seed, steps.fingerprint(known[key], seed, known, plan.config)] for key, seed in plan.runs()]
    made["scales"][scale] = {"settings": plan.config.to_dict(), "runs": runs}
print(json.dumps(made))
"""
# What `fingerprint.MACHINERY` was called before it moved.
OLD_MACHINERY = {f"candor.{name}" for name in ("steps", "store", "config", "errors", "runtime", "checkpoints")}


def restamp(commit: str, names: list[str]) -> Counter:
    """Carries results over; counts of what became of the results that are there.

    Raises: `CandorError` if there is no such commit, or its code does not say its fingerprints.
    """
    known, now, before = experiments.steps(), {}, {}
    plans = {name: graph.plan(name) for name in names}
    for name, plan in plans.items():
        for key, seed in plan.runs():
            now[name, key, seed] = steps.fingerprint(known[key], seed, known, plan.config)
    with tempfile.TemporaryDirectory() as folder:
        tree, own = Path(folder) / "tree", fingerprint.LIBRARY
        _run("git", "worktree", "add", "--detach", str(tree), commit)
        try:
            there = _probe(tree, names)
            old = {key: steps.Step(**{**step, "needs": tuple(step["needs"])}) for key, step in there["steps"].items()}
            fingerprint.LIBRARY = tree / "lib"
            fingerprint.MACHINERY |= OLD_MACHINERY
            fingerprint.forget()
            for name, scale in there["scales"].items():
                for key, seed, stamp in scale["runs"]:
                    before[name, key, seed] = stamp, ""
                    with suppress(LookupError):  # the code of then may do what today's scheme cannot follow
                        meaning = steps.fingerprint(old[key], seed, old, Config(scale["settings"]))
                        before[name, key, seed] = stamp, meaning
        finally:
            fingerprint.LIBRARY = own
            fingerprint.forget()
            _run("git", "worktree", "remove", "--force", str(tree))
    return Counter(_carry(run, wanted, *before.get(run, ("", ""))) for run, wanted in now.items())


def _carry(run: tuple[str, str, int], wanted: str, stamp: str, meaning: str) -> str:
    name, key, seed = run
    manifest = steps.folder_of(key, seed, name) / "run.json"
    try:
        about = store.unseal(manifest)
    except CandorError:
        return "missing or damaged"
    if about["fingerprint"] == wanted:
        return "done already"
    if about["fingerprint"] != stamp:
        return "left stale, since the commit did not make them"
    if meaning != wanted:
        return "left stale, since their code has changed since the commit"
    store.seal(manifest, about | {"fingerprint": wanted}, [manifest.parent / file for file in about["files"]])
    return "carried over"


def _probe(tree: Path, names: list[str]) -> dict:
    there = [name for name in names if (tree / "config" / f"{name}.yaml").exists()]
    environment = {**os.environ, "PYTHONPATH": str(tree / "lib")}
    return json.loads(_run(sys.executable, "-c", PROBE, *there, cwd=tree, env=environment))


def _run(*words: str, cwd: Path = ROOT, **options: object) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CandorError(f"{' '.join(words[:3])[:40]} failed ({last}): name a commit whose steps can be listed.")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--made-by", required=True, metavar="COMMIT", help="the commit whose code made the results")
    parser.add_argument("--scale", nargs="+", choices=scales(), default=scales(), help="(default: every scale)")
    arguments = parser.parse_args()
    try:
        counts = restamp(arguments.made_by, list(arguments.scale))
    except CandorError as error:
        sys.exit(str(error))
    print("\n".join(f"{n:5} {what}" for what, n in counts.most_common()))


if __name__ == "__main__":
    main()

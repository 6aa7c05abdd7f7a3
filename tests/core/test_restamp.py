"""Results are carried over to a new scheme of fingerprints where, and only where, their meaning is today's."""

import os
import shutil
import subprocess
import sys

import pytest
from candor.core import store
from candor.core.settings import ROOT

KEY, SEED = "witnesses/twelve/base", 11
RUN = f"""
import sys
from candor.core import step
from candor.run import plan, steps
known, config = steps.steps(), plan.plan("smoke").config
if sys.argv[1] == "make":
    step.run("{KEY}", {SEED}, known, config)
print(step.state("{KEY}", {SEED}, "smoke", step.fingerprint(known["{KEY}"], {SEED}, known, config)))
"""
SCHEME, WORLD = "lib/candor/core/fingerprint.py", "lib/candor/witnesses/world.py"
OTHER = ("json.dumps(value, sort_keys=True)", '("old" + json.dumps(value))')


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout with one commit, of another scheme, and a real result of it; the files are of today's scheme."""
    top = tmp_path_factory.mktemp("house")
    for name in ("lib", "config", "tools"):
        shutil.copytree(ROOT / name, top / name, ignore=shutil.ignore_patterns("*.pyc"))
    edit(top, SCHEME, *OTHER)
    author = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "Another scheme"]):
        subprocess.run(["git", *words], cwd=top, check=True)
    assert python(top, "-c", RUN, "make") == "done"
    edit(top, SCHEME, *reversed(OTHER))
    return top


def edit(top, name, old, new):
    text = (top / name).read_text()
    assert old in text, f"{old!r} is not in {name}: name what is there now"
    (top / name).write_text(text.replace(old, new))


def python(top, *words):
    places = {"PYTHONPATH": str(top / "lib"), "CANDOR_RESULTS": str(top / "results"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=top, env={**os.environ, **places}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def restamp(top):
    """What became of the result."""
    lines = python(top, "tools/restamp.py", "--made-by", "HEAD", "--scale", "smoke").splitlines()
    return [line.strip() for line in lines if "missing" not in line]


def test_what_means_the_same_is_carried_over_and_nothing_else(checkout):
    place = checkout / "results/smoke/steps" / KEY / str(SEED) / "run.json"
    files = [file for file in place.parent.rglob("*") if file.is_file() and file != place]
    before = store.unseal(place)
    edit(checkout, WORLD, "round(n * crowd.twelve)", "int(n * crowd.twelve)")
    assert restamp(checkout) == ["1 left stale, since their code has changed since the commit"]
    assert store.unseal(place) == before
    edit(checkout, WORLD, "int(n * crowd.twelve)", "round(n * crowd.twelve)")
    store.seal(place, before | {"fingerprint": "of other code"}, files)
    assert restamp(checkout) == ["1 left stale, since the commit did not make them"]
    store.seal(place, before, files)
    edit(checkout, WORLD, "truthful", "honest")
    assert restamp(checkout) == ["1 carried over"]
    assert python(checkout, "-c", RUN, "look") == "done"
    after = store.unseal(place)
    assert after.pop("fingerprint") != before.pop("fingerprint")
    assert after == before, "only the fingerprint is another"

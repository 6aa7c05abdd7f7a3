"""Where a result comes from: Candor's own commit or none, and whether anything that decides a result is edited."""

import os
import shutil
import subprocess
import time

import psutil
import pytest
from candor.core import provenance
from candor.core.settings import ROOT


def git(place, *words):
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
    made = subprocess.run(["git", *who, *words], cwd=place, check=True, capture_output=True, text=True)
    return made.stdout.strip()


def tree(place):
    return tuple(provenance.tree.__wrapped__(place).values())


@pytest.fixture
def checkout(tmp_path):
    """A repository with what decides a result, and with what does not."""
    place = tmp_path / "checkout"
    for name in (*provenance.DECIDES, "README.md", "notebooks/a.ipynb", "profiles/a.yaml"):
        part = place / name / "a.py" if name in ("lib", "config", "data/published", "data/live") else place / name
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("before")
    (place / ".gitignore").write_text("__pycache__/\n")
    git(place, "init", "-q")
    git(place, "add", ".")
    git(place, "commit", "-qm", "a")
    return place


def test_what_decides_is_there():
    assert all((ROOT / name).exists() for name in provenance.DECIDES)


@pytest.mark.parametrize(
    ("file", "modified"),
    [
        *((None, False), ("removed", True)),
        *((file, True) for file in ("lib/a.py", "lib/candor/new.py", "config/a.py", "config/mine.yaml")),
        *((file, True) for file in ("data/published/a.py", "data/published/new.csv", "data/live/a.py")),
        *((file, True) for file in ("requirements.lock", "Snakefile")),
        *((file, False) for file in ("README.md", "notebooks/a.ipynb", "profiles/a.yaml", "lib/__pycache__/a.pyc")),
    ],
)
def test_an_edit_counts_where_it_decides_a_result(checkout, file, modified):
    if file == "removed":
        (checkout / "lib" / "a.py").unlink()
    elif file:
        (checkout / file).parent.mkdir(exist_ok=True)
        (checkout / file).write_text("after")
    assert tree(checkout) == (git(checkout, "rev-parse", "--short=12", "HEAD"), modified)


def test_the_commit_of_another_repository_is_not_candor_s(checkout, tmp_path, monkeypatch):
    own = tree(checkout)
    inside = checkout / "vendor" / "candor"
    shutil.copytree(checkout, inside, ignore=shutil.ignore_patterns(".git", "vendor"))
    assert tree(inside) == ("unknown", None), "an archive that was unpacked inside another repository"
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert tree(checkout) == own, "as in a hook of another repository"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert tree(empty) == ("unknown", None)


def test_without_git_nothing_is_known_and_nothing_fails(checkout, monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert tree(checkout) == ("unknown", None)
    assert {"commit", "modified", "versions", "hardware"} <= set(provenance.here.__wrapped__())


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("trl", lambda version: version, False),
        ("trl", lambda version: f"{version}.post1+cu128", False),
        ("trl", lambda version: "0.9.1", True),
        ("torch", lambda version: "1.13.1+cpu", True),
        ("pandas", lambda version: "0.1.0", False),
    ],
)
def test_a_result_of_another_version_of_a_trainer_is_told(name, change, said):
    own = provenance.here()["versions"]
    told = provenance.made_elsewhere([own, {}, own | {name: change(own[name])}])
    assert bool(told) == said
    if said:
        assert f"made with {name} {'.'.join(change('').split('.')[:2])} are kept, although {name} " in told
        assert told.count(". ") == 0 and told.endswith(".")


def test_the_date_is_the_same_everywhere(monkeypatch):
    here = []
    for zone in ("Pacific/Kiritimati", "Etc/GMT+12"):  # never on the same day
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        here.append(provenance.today())
    monkeypatch.undo()
    time.tzset()
    assert here[0] == here[1]


def test_memory_is_in_megabytes():
    held = psutil.Process().memory_info().rss / 2**20
    assert held * 0.9 <= provenance.peak_memory_mb() <= 100 * held

"""No command but ours: folders of any name, options that are not ours, what `make` hands to the shell."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from candor import __main__ as cli
from candor.core import settings as config
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.run import plan as graph
from candor.run import preflight, publish

# A name that a shell, Snakemake, Python's format and a glob each have their own opinion of.
ODD = 'My Drive/it\'s "ä" $(touch pwned);touch pwned & {x} <y> *[a]? `touch pwned` -b'


# --- The graph --------------------------------------------------------------------------------------


def test_every_placeholder_of_a_shell_command_is_quoted():
    text = (ROOT / "Snakefile").read_text()
    commands = re.findall(r"^    shell:\n((?:        \".*\"\n)+)", text, flags=re.M)
    assert len(commands) == len(re.findall(r"\bshell\b", text)) - text.count("a shell command") > 0
    for command in commands:
        bare = [name for name in re.findall(r"\{([^{}]*)\}", command) if not name.endswith(":q")]
        assert not bare, f"{bare} in {command}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout, in a folder with an odd name, with a scale whose ledger takes seconds."""
    place = tmp_path_factory.mktemp("any") / ODD
    for part in ("Snakefile", "environment.yml", "config", "profiles", "lib", "data/published"):
        source = ROOT / part
        (place / part).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, place / part)
    (place / "config" / "tiny.yaml").write_text("scale: tiny\nevidence: [published]\nclaims: [grounding_loss]\n")
    return place


def snakemake(checkout, *words, **environment):
    known = {name: value for name, value in os.environ.items() if not name.startswith("CANDOR_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**known, "PYTHONPATH": str(checkout / "lib"), "PATH": path, **environment}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *words]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "place"),
    [
        (f"{{tmp}}/{ODD}", ODD),
        ("~/My Drive", "home/My Drive"),
        ("-rel ü/$x;touch pwned", "{checkout}/-rel ü/$x;touch pwned"),
    ],
)
def test_results_may_lie_in_any_folder(checkout, tmp_path, given, place):
    (tmp_path / "home").mkdir()
    given = given.replace("{tmp}", str(tmp_path))
    made = snakemake(checkout, "ledger", "--config", "scale=tiny", CANDOR_RESULTS=given, HOME=str(tmp_path / "home"))
    assert made.returncode == 0, made.stdout + made.stderr
    results = tmp_path / place.replace("{checkout}", str(checkout)) / "tiny"
    assert {"ledger.csv", "tables", "logs"} <= {path.name for path in results.iterdir()}
    around = {path.name for path in (*tmp_path.iterdir(), *checkout.iterdir(), *checkout.parent.iterdir())}
    assert around <= {
        *("home", "My Drive", "-rel ü", ".snakemake", "Snakefile", "environment.yml"),
        *("config", "profiles", "lib", "data", checkout.name),
    }, "something else was made"


@pytest.mark.slow
def test_an_option_that_is_not_ours_is_refused_before_anything_runs(checkout):
    made = snakemake(checkout, "report", "--config", "scale=tiny", "note=; touch pwned #")
    assert made.returncode == 2 and not list(checkout.glob("pwned*"))
    [said] = [line for line in made.stderr.splitlines() if "note" in line]
    assert said.startswith("candor: Unknown key note in --config: known here: scale, claim, batch")
    assert "Traceback" not in made.stderr


def test_a_name_for_snakemake_is_the_folder(tmp_path):
    def plain(*parts):
        return graph.plain(tmp_path.joinpath(*parts), tmp_path)

    assert plain("results", "smoke") == Path("results", "smoke")
    assert graph.plain(tmp_path.parent / "x y", tmp_path) == tmp_path.parent / "x y"
    assert plain("-x") == tmp_path / "-x"
    for name in ("{x}", "<y>"):
        link = plain(name)
        assert link == plain(name) and (tmp_path / link).samefile(tmp_path / name)
        assert not set("{}<>") & set(str(link))
    (tmp_path / "file").touch()
    with pytest.raises(CandorError, match="cannot be used"):
        plain("file", "{x}")


# --- make -------------------------------------------------------------------------------------------


def make(*arguments, **environment):
    quiet = {
        key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "CORES")
    }
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, env=quiet | environment, capture_output=True, text=True, check=False)


READY = [f"--assume-old={name}" for name in ("requirements.lock", "requirements-cuda.lock", "pyproject.toml")]
READY += ["--assume-old=tools/environment.py", "--dry-run"]


def test_make_alone_lists_every_target():
    listed = make()
    assert listed.returncode == 0
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.M)[1].split()
    for target in phony:
        assert f"make {target} " in listed.stdout, target


def test_another_python_is_refused_in_a_sentence():
    refused = make("--always-make", "environment", "PYTHON=no such/python")
    assert refused.returncode
    [said, _] = refused.stderr.splitlines()  # the other is make's own
    assert said.startswith("candor: Candor needs Python 3.11 or newer, and 'no such/python' is not one")


def test_replicate_passes_its_arguments_on():
    dry = make(*READY, "replicate", "SCALE=smoke", "CLAIM=brier_fix", "CORES=1").stdout
    assert "-m candor replicate --scale 'smoke' --claim 'brier_fix' --cores '1' --gpus '1'" in dry
    assert "--claim" not in make(*READY, "replicate").stdout
    assert "-m candor lab --no-browser --port=1" in make(*READY, "lab", "LAB_FLAGS=--no-browser --port=1").stdout


@pytest.mark.parametrize("name", ["SCALE", "CLAIM", "CORES", "GPUS", "PYTHON"])
@pytest.mark.parametrize("how", ["argument", "environment"])
def test_what_a_person_sets_is_data(name, how, tmp_path):
    """Neither make nor the shell runs it; the shell hands on every character."""
    given = f"a'b\"$(shell touch {tmp_path}/1)$(touch {tmp_path}/2)`touch {tmp_path}/3`;touch {tmp_path}/4;#, b"
    said = make("help", f"{name}={given}") if how == "argument" else make("help", **{name: given})
    assert said.returncode == 0 and f"now {given})" in said.stdout
    dry = make(*READY, "replicate", "environment", f"{name}={given}").stdout
    subprocess.run(["bash", "-n", "-c", dry], check=True)
    quoted = given.replace("'", "'\\''")
    assert f"'{quoted}'" in dry or name == "PYTHON"
    assert not list(tmp_path.iterdir())


def test_all_cores_whatever_the_number_of_threads(monkeypatch):
    """GNU make 4.4 shows `$(shell nproc)` the exported OMP_NUM_THREADS, which nproc takes for the number of cores."""
    cores = preflight.machine_cores()
    if hasattr(os, "sched_getaffinity"):
        assert 1 <= cores <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "1" if cores > 1 else "2")
    assert preflight.machine_cores() == cores
    assert "--cores" not in make(*READY, "replicate", "notebooks").stdout
    assert "nproc" not in re.sub(r"(?m)^#.*$", "", (ROOT / "Makefile").read_text())
    given = cli.parser().parse_args(["replicate"])
    cli._check(given)
    assert given.cores == cores


# --- The lab ----------------------------------------------------------------------------------------


def test_the_lab_opens_copies_and_leaves_those_that_are_there(monkeypatch, tmp_path, capsys):
    started = []
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(publish.os, "execv", lambda program, command: started.append(command))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANDOR_RESULTS", "rel")
    assert cli.main(["lab", "--no-browser", "--port=8890"]) == 0
    first = tmp_path / "work" / "00_start_here.ipynb"
    assert {path.name for path in first.parent.iterdir()} == {path.name for path in graph.notebooks()}
    assert os.environ["CANDOR_RESULTS"] == str(tmp_path / "rel"), "a kernel starts in another folder"
    first.write_text("mine")
    assert cli.main(["lab", "--no-browser", "--port=8890"]) == 0
    assert first.read_text() == "mine" and str(first.parent) in capsys.readouterr().out
    # Jupyter knows these options: it shows them as it would take them, and starts nothing.
    shown = subprocess.run([*started[0], "--show-config"], capture_output=True, text=True, check=True).stdout
    for part in (f".root_dir = '{tmp_path}'", ".default_url = '/lab/tree/work/00_start_here.ipynb'", "port = 8890"):
        assert part in shown
    ignored = subprocess.run(["git", "check-ignore", "work/00_start_here.ipynb"], cwd=ROOT, check=False)
    assert ignored.returncode == 0 or not (ROOT / ".git").exists()


# --- Seeds ------------------------------------------------------------------------------------------


def test_a_seed_that_the_scale_has_no_use_for_is_refused():
    plan = graph.plan("smoke")
    keys = ["witnesses/expert/base"]
    for seed in (11, 0, 4):
        graph.check_seed(plan, seed, keys)
    for seed in (12, 5, -1):
        with pytest.raises(CandorError, match=f"base has no seed {seed} at scale smoke: choose 11, 0 to 4 for tuning"):
            graph.check_seed(plan, seed, keys)
    everything = graph.plan("laptop")
    runs = everything.runs()
    for seed in {seed for _, seed in runs}:
        graph.check_seed(everything, seed, [key for key, s in runs if s == seed])
    assert config.load("smoke").seeds == (11,)

"""The house in order: one environment, one bibliography, nothing private, nothing opaque, nothing too big."""

import ast
import csv
import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.metadata import distributions, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from candor.core.settings import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

BINARY = {".png", ".safetensors", ".parquet"}
MEGABYTE = 2**20


def tracked(*suffixes: str) -> list[Path]:
    """Files under version control that exist, all or those with the suffixes."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


def text_of(path: Path) -> str:
    """A file's text; of a notebook, all of it but embedded images."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    notebook = json.loads(text)
    for output in (output for cell in notebook["cells"] for output in cell.get("outputs", [])):
        for kind in [kind for kind in output.get("data", {}) if kind.startswith("image/")]:
            del output["data"][kind]
    return json.dumps(notebook, ensure_ascii=False)


def cells(path: Path) -> list[str]:
    """Sources of a notebook's code cells, without the lines that only IPython understands."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    code = ("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")
    return [re.sub(r"(?m)^\s*[%!].*$", "", source) for source in code]


# --- One environment --------------------------------------------------------------------------------


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name: str = "requirements.lock") -> dict[str, Requirement]:
    """What a lock pins, as it is for this machine; every file of it is named by a hash."""
    entries = re.findall(
        r"^([a-zA-Z].*?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", (ROOT / name).read_text(), flags=re.M
    )
    lines = [line for line in (ROOT / name).read_text().splitlines() if line[:1] not in "# "]
    assert len(entries) == len(lines), "an entry without a hash, or something that is no entry"
    pins = [Requirement(entry) for entry, _ in entries]
    assert all(re.fullmatch(r"==[0-9][A-Za-z0-9.]*", str(pin.specifier)) and not pin.url for pin in pins)
    return {normal(pin.name): pin for pin in pins if not pin.marker or pin.marker.evaluate()}


def test_this_environment_is_the_lock():
    """And so every locked package installs on Python 3.11, the oldest that Candor runs on."""
    here = {normal(one.metadata["Name"]): one for one in distributions()}
    for name, pin in locked().items():
        assert name in here, f"{name} is locked and not installed: run `make environment`"
        assert here[name].version in pin.specifier, f"{name} is {here[name].version} here: run `make environment`"
        needed = SpecifierSet(here[name].metadata.get("Requires-Python") or "")
        assert needed.contains("3.11.0"), f"{name} needs Python {needed}"


def test_the_locks_are_those_of_the_requirements():
    main, cuda = locked(), locked("requirements-cuda.lock")
    of_cuda = re.compile(r"(nvidia|cuda|triton)\b")
    assert not [name for name in main if of_cuda.match(name)], "only a CUDA build of torch needs them"
    assert not [name for name in cuda if not of_cuda.match(name)]
    assert str(main["torch"].specifier) == "==2.13.0"
    listed = [Requirement(line) for line in (ROOT / "requirements.in").read_text().splitlines() if line[:1] != "#"]
    for wanted in listed:
        assert next(iter(main[normal(wanted.name)].specifier)).version in wanted.specifier, wanted
    asked = [Requirement(text) for text in requires("torch") or ()]
    asked = [one for one in asked if not one.marker or one.marker.evaluate({"extra": ""})]
    assert {normal(one.name) for one in asked} <= {*main, *cuda}


def test_conda_has_the_python_and_the_locks_have_the_rest():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["dependencies"] == ["python=3.11", "make", "git", "pip"]
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


def imports_of(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_every_import_is_required():
    names = {
        normal(Requirement(line).name)
        for line in (ROOT / "requirements.in").read_text().splitlines()
        if line[:1] != "#"
    }
    providers = packages_distributions()
    own = {path.parent.name for path in (ROOT / "lib").glob("*/__init__.py")}
    own |= {path.stem for path in (ROOT / "tests").rglob("*.py")}
    for path in tracked(".py", ".ipynb"):
        imported = set()
        for source in cells(path) if path.suffix == ".ipynb" else [path.read_text()]:
            imported |= imports_of(source)
        for module in imported - own - sys.stdlib_module_names:
            assert {normal(name) for name in providers.get(module, [])} & names, (
                f"{path}: {module} is not in requirements.in"
            )


# --- One bibliography -------------------------------------------------------------------------------


def bibliography() -> dict[str, str]:
    text = (ROOT / "references.bib").read_text()
    entries = re.findall(r"^@\w+\{([^,\s]+),\n(.*?)^\}", text, flags=re.M | re.S)
    assert len(entries) == len(re.findall(r"^@", text, flags=re.M)), "an entry that cannot be read"
    assert len(dict(entries)) == len(entries), "a key is used twice"
    return dict(entries)


def test_bibliography_is_well_formed():
    for key, entry in bibliography().items():
        assert re.fullmatch(r"[a-z]+\d{4}[a-z0-9]*", key), key
        assert entry.count("{") == entry.count("}"), key
        fields = re.findall(r"^  (\w+) = \{.+\},$", entry, flags=re.M)
        assert len(fields) == len(entry.strip().splitlines()), key
        assert {"title", "author", "year"} <= set(fields), key


def test_every_citation_is_in_the_bibliography():
    known = set(bibliography())
    key = re.compile(r"\b[a-z]{3,}(?:19|20)\d\d[a-z]*\b")
    for path in tracked(".py", ".ipynb", ".md"):
        if path == Path(__file__):
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
        assert set(key.findall(text)) <= known, path


def test_every_published_number_has_a_source():
    known = {*bibliography(), "witnesses", "derived_null", "derived_ridge", "simulation", "datasets"}  # our own
    tables = sorted((ROOT / "data" / "published").glob("*.csv"))
    assert tables
    for path in tables:
        with path.open(encoding="utf-8", newline="") as file:
            assert {row["source"] for row in csv.DictReader(file)} <= known, path


# --- Nothing private, nothing opaque, nothing too big -----------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?<![\w.:/~-])/(?:home|root|work|mnt|opt|scratch|Users|tmp)/\w",  # somebody's machine
        r"\b[A-Z]:\\\\?Users",
        # A letter in brackets, so that these lines are held to the rule too.
        r"\bfiles\.pythonh[o]sted\.|\bpyp[i]\.(?:org|python)|\bdownload\.pytorc[h]\.|\bindex[-_]ur[l]\b|\bfind-link[s]\b",
        r"\bhf_[A-Za-z0-9]{20,}|\bAKIA[0-9A-Z]{16}\b|-----BEGIN [A-Z ]*PRIVATE KEY",  # secrets
    ],
)
def test_nothing_speaks_of_a_machine(pattern):
    for path in tracked():
        if path.suffix not in BINARY:
            found = re.search(pattern, text_of(path))
            assert not found, f"{path.relative_to(ROOT)}: {found[0]}"


def test_no_pickles():
    opaque = {".pkl", ".pickle", ".bin", ".pt", ".pth", ".ckpt", ".joblib", ".npy", ".npz"}
    assert not tracked(*opaque), "weights are safetensors, tables are CSV"


def test_sizes():
    for path in tracked():
        limit = 4 * MEGABYTE if path.suffix == ".ipynb" else 2 * MEGABYTE
        assert path.stat().st_size <= limit, path
    for folder in (ROOT / "data" / "reference").glob("*/"):
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert total <= 2 * MEGABYTE, f"{folder.name}: reference tables of a claim should stay below 2 MB"


def test_no_module_and_no_function_is_too_long_to_read():
    long = []
    for path in (path for path in tracked(".py") if path.is_relative_to(ROOT / "lib")):
        source = path.read_text(encoding="utf-8")
        functions = (one for one in ast.walk(ast.parse(source)) if isinstance(one, ast.FunctionDef))
        lengths = {one.name: one.end_lineno - one.lineno + 1 for one in functions}
        long += [f"{path.name}:{name} has {count} lines" for name, count in lengths.items() if count > 60]
        long += [f"{path} has {count} lines"] if (count := len(source.splitlines())) > 600 else []
    assert not long, "\n".join(long)


def test_json_and_yaml_parse():
    for path in tracked(".json", ".ipynb"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in tracked(".yaml", ".yml", ".cff"):
        list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def test_licence_is_the_text_of_apache():
    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"


def test_citation_file():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert all("name" in author for author in citation["authors"]), "the authors are an entity"


def test_ci_runs_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text() and "make test" in script.read_text()


def test_no_two_files_differ_in_case_alone():
    names = [str(path.relative_to(ROOT)).casefold() for path in tracked()]
    assert len(names) == len(set(names)), "macOS and Windows keep one of them"


def test_architecture_names_every_module_with_what_it_says_of_itself():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "tools" / "architecture.py")
    spec.loader.exec_module(tool := importlib.util.module_from_spec(spec))
    assert tool.split()[1] == tool.modules(), "run `python tools/architecture.py`"

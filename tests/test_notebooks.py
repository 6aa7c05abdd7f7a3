"""The notebooks: what every one of them has, that committed outputs are not stale, that each runs, exercises teach."""

import ast
import copy
import os
import re

import nbformat
import pandas as pd
import pytest
from candor import claims
from candor.core.settings import ROOT
from candor.declare.exercises import Feedback
from candor.run import evidence, publish, show
from candor.run import plan as graph

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SCREEN = 27  # lines that a laptop shows at once
PARAMETERS = {"scale": "laptop", "source": "auto", "live": True}
NOTHING = "has not been computed"  # what show.when_there says instead of a traceback

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def read(path):
    return nbformat.read(path, as_version=4)


def unfinished() -> list[str]:
    """The runs that the reference lacks."""
    return evidence.load(source="reference").provenance["missing"]


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    """Everything but images that the cells of a notebook put out, as text."""
    texts = []
    for cell in code(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            texts += [output.get("text", ""), *output.get("traceback", ())]
            texts += [str(value) for kind, value in data.items() if not kind.startswith("image/")]
    return "\n".join(texts)


def test_every_claim_has_its_notebook_and_the_story_a_beginning_and_an_end():
    names = {path.stem for path in NOTEBOOKS}
    assert {f"{claims.load(name).claim.number:02d}_{name}" for name in claims.NAMES} <= names
    assert {"00_start_here", "07_verdict"} <= names


@every
def test_form(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info.name == "python"
    first = notebook.cells[0]
    assert first.metadata.tags == ["parameters"]
    assert not [cell for cell in notebook.cells[1:] if "parameters" in cell.metadata.get("tags", ())]
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(first.source).body}
    assert values == PARAMETERS
    assert next(cell for cell in notebook.cells if cell.cell_type == "markdown").source.startswith("# ")
    assert not [cell.source for cell in code(notebook) if len(cell.source.splitlines()) > SCREEN]


@every
def test_outputs_hold_no_error_and_no_path_of_a_machine(path):
    text = outputs(read(path))
    assert not re.search(r"(?<![\w.:/])/(work|tmp|home|root|Users|opt|mnt)/", text)
    assert "Traceback" not in text
    assert NOTHING not in text or unfinished()


def test_the_stamp_notices_an_edited_cell_and_a_changed_reference(tmp_path):
    notebook = read(NOTEBOOKS[0])
    show.stamp(notebook)
    assert not show.is_stale(notebook)
    injected = nbformat.v4.new_code_cell("live = False", metadata={"tags": ["injected-parameters"]})
    notebook.cells.insert(1, injected)
    assert not show.is_stale(notebook)
    edited = copy.deepcopy(notebook)
    edited.cells[-1].source += "\n# edited"
    assert show.is_stale(edited)
    moved = copy.deepcopy(notebook)
    moved.cells[-2:] = moved.cells[:-3:-1]
    assert show.is_stale(moved)
    notebook.metadata.pop("candor")
    assert show.is_stale(notebook)

    (tmp_path / "claim").mkdir()
    before = show.reference_digest(tmp_path)
    (tmp_path / "claim" / "summary.csv").write_text("seed,value\n11,0.5\n")
    added = show.reference_digest(tmp_path)
    (tmp_path / "claim" / "summary.csv").write_text("seed,value\n11,0.6\n")
    assert len({before, added, show.reference_digest(tmp_path)}) == 3


@every
def test_committed_outputs_belong_to_these_cells_and_this_reference(path):
    assert not show.is_stale(read(path)), f"run `python -m candor notebooks`: {path.name} is older than what it shows"


@pytest.mark.slow
@every
def test_runs_from_the_reference_with_live_cells_off(path, tmp_path):
    again = tmp_path / path.name
    again.write_bytes(path.read_bytes())
    publish.execute_notebooks(1, [again])
    notebook = read(again)
    assert not show.is_stale(notebook)
    assert NOTHING not in outputs(notebook) or unfinished()
    for cell in code(notebook):
        if re.search(r"\bcheck_\d\(", cell.source):
            assert "blank" in str(cell.outputs[-1].data), cell.source
    figures = [o for cell in code(notebook) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert all(output.metadata["image/png"]["alt"] for output in figures)
    assert figures or path.stem == "07_verdict"


# --- With other parameters, and with nothing to show -------------------------------------------------


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for all notebooks, since starting it and importing costs more than their cells; it has no results."""
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    manager = AsyncKernelManager(kernel_name="python3")
    env = os.environ | {"CANDOR_RESULTS": str(tmp_path_factory.mktemp("nothing"))}
    run_sync(manager.start_kernel)(
        cwd=str(graph.NOTEBOOKS), env=env, extra_arguments=["--HistoryManager.hist_file=:memory:"]
    )
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.slow
@every
def test_runs_where_nothing_was_computed(path, kernel):
    """A reader's first look at a scale that never ran: sentences instead of tables, and no traceback."""
    from nbclient import NotebookClient

    notebook = read(path)
    given = nbformat.v4.new_code_cell('scale = "smoke"\nsource = "results"\nlive = False')
    notebook.cells.insert(1, given)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))  # nothing is left of the notebook before
    NotebookClient(notebook, km=kernel, timeout=None).execute()
    assert "make replicate SCALE=smoke" in outputs(notebook)


# --- Exercises --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", claims.NAMES)
def test_blanks_are_dots_and_every_check_is_called(name):
    claim = claims.load(name)
    notebook = read(ROOT / "notebooks" / f"{claim.claim.number:02d}_{name}.ipynb")
    called = []
    for cell in code(notebook):
        for check in re.findall(r"\bcheck_(\d)\(", cell.source):
            called.append(int(check))
            assert re.search(r"= \.\.\.|return \.\.\.", cell.source), cell.source
    defined = [int(check.removeprefix("check_")) for check in dir(claim.exercises) if re.fullmatch(r"check_\d", check)]
    assert called == sorted(defined) and 3 <= len(called) <= 5
    for check in called:
        answer = getattr(claim.exercises, f"check_{check}")(...)
        assert isinstance(answer, Feedback) and not answer.ok and "blank" in answer.message


# --- What notebooks show ----------------------------------------------------------------------------


def ledger(**row):
    known = {"claim": "one", "criterion": "W1", "statement": "<b>a & b</b>", "band": ">= 0.2", "value": 0.25}
    known |= {"unit": "", "ci_low": 0.2, "ci_high": 0.3, "n": 5, "passes": "5/5", "paper_value": "", "note": ""}
    return pd.DataFrame([known | {"verdict": "replicated"} | row])


def test_the_ledger_shows_values_intervals_and_counts_and_escapes_text():
    text = show.ledger_table(show.together([], ledger=ledger())).data
    assert "0.250 [0.200, 0.300]" in text and "replicated" in text and "&lt;b&gt;a &amp; b&lt;/b&gt;" in text
    cells = show.together([], ledger=ledger(unit="cells", value=10, n=11, ci_low=None, ci_high=None))
    assert "10 of 11" in show.ledger_table(cells).data
    assert "make replicate" in show.ledger_table(show.together([])).data


def test_ledgers_of_several_claims_name_them():
    both = show.together([show.together([], ledger=ledger()), show.together([], ledger=ledger(claim="two"))])
    assert list(both.ledger["claim"]) == ["one", "two"]
    assert ">two<" in show.ledger_table(both).data
    assert ">one<" not in show.ledger_table(show.together([], ledger=ledger())).data


def test_an_arm_that_was_not_run_is_left_out_and_none_at_all_is_one_sentence(monkeypatch):
    said = []
    monkeypatch.setattr(show, "say", said.append)
    summary = pd.DataFrame({"setting": "expert", "arm": "base", "seed": [11, 12], "ece": [0.1, 0.2]})
    rows = show.over_seeds(summary, "expert", ["base", "rlvr"], {"ece": "ECE"})
    assert list(rows["arm"]) == ["base"] and rows["ECE"][0].startswith("0.150 [")
    with show.when_there():
        show.over_seeds(summary, "expert", ["rlvr"], {"ece": "ECE"})
    assert len(said) == 1 and "expert/rlvr" in said[0] and NOTHING in said[0]
    with pytest.raises(ValueError), show.when_there():
        raise ValueError("other errors are not hidden")

"""What is lost is made again and what is odd is named, of whatever kind: files of a run that was never made.

`test_graph.py` does the same to a few files of a real run.
"""

import os
import resource
import shutil
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from candor import claims
from candor.core import step as steps
from candor.core import store
from candor.core.errors import CandorError, CorruptError
from candor.core.settings import Config
from candor.run import evidence, jobs, replicate
from candor.run import plan as graph
from safetensors.numpy import save_file

CLAIM = "grounding_loss"
BASE = "steps/reference_game/standard/base/11"
MARKER = "batches/11/reference_game_1.json"
TABLES, LEDGER = f"tables/{CLAIM}/provenance.json", "provenance.json"
DRAWN, PAGE, REPORT = f"figures/{CLAIM}", "notebooks/03_grounding_loss.html", "report.html"
# Every kind of file, and the output of the graph to which it belongs.
FILES = {
    f"{BASE}/run.json": MARKER,
    f"{BASE}/a.bin": MARKER,
    f"{BASE}/model/b.bin": MARKER,
    MARKER: MARKER,
    TABLES: TABLES,
    f"tables/{CLAIM}/one.csv": TABLES,
    LEDGER: LEDGER,
    **dict.fromkeys(("ledger.csv", "checks.csv", "verdicts.csv"), LEDGER),
    **dict.fromkeys((f"{DRAWN}/headline.{kind}" for kind in ("svg", "png", "json")), DRAWN),
    **dict.fromkeys((PAGE.replace("html", kind) for kind in ("html", "ipynb", "json")), PAGE),
    **dict.fromkeys(("report.html", "report.json"), REPORT),
}
FOLDERS = {
    BASE: [MARKER],
    "steps": [MARKER],
    "batches": [MARKER],
    f"tables/{CLAIM}": [TABLES],
    DRAWN: [DRAWN],
    "notebooks": ["notebooks/00_start_here.html", PAGE, "notebooks/07_verdict.html"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results in which everything is there that a plan of one claim makes; what the files say is made up."""
    at = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDOR_RESULTS", str(at))
        plan = graph.plan("smoke", CLAIM)
        fill(plan)
    return at


def fill(plan):
    for (_, seed), batch in plan.batches().items():
        promised = plan.fingerprints(batch.keys, seed)
        for key, wanted in promised.items():
            seal(steps.folder_of(key, seed, "smoke") / "run.json", ["a.bin", "model/b.bin"], fingerprint=wanted)
        store.write_json(plan.folder / MARKER, promised)
    seal(plan.folder / LEDGER, [f"{name}.csv" for name in evidence.LEDGERS])
    evidence.write_tables({"one": pd.DataFrame({"x": [1]})}, plan.folder / "tables" / CLAIM)
    for name in claims.load(CLAIM).figures.FIGURES:
        seal(plan.folder / DRAWN / f"{name}.json", [f"{name}.svg", f"{name}.png"])
    for path in graph.notebooks(plan.claims):
        seal(plan.folder / "notebooks" / f"{path.stem}.json", [f"{path.stem}.html", f"{path.stem}.ipynb"])
    seal(plan.folder / "report.json", ["report.html"])
    for name in ("logs/steps/11/a.log", "benchmarks/a.tsv", "progress/events.jsonl", ".lock"):
        (plan.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (plan.folder / name).write_text("")
    store.write_json(plan.folder / "sessions.json", [{"seconds": 1}])


def seal(manifest, names, **about):
    with store.draft(manifest) as draft:
        for name in names:
            (draft / name).parent.mkdir(exist_ok=True)
            (draft / name).write_text("claim,x\ngrounding_loss,1\n")
        store.put(draft, manifest, about)


@pytest.fixture
def plan(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "results"))
    shutil.copytree(whole, tmp_path / "results")
    return graph.plan("smoke", CLAIM)


def lacking(plan):
    found = replicate.survey(plan)
    assert not found.damaged
    return [str(path.relative_to(plan.folder)) for path in found.lacking]


def test_nothing_lacks_where_everything_is_there(plan):
    assert lacking(plan) == []
    assert set(replicate.survey(plan).states.values()) == {"done"}
    store.remove(plan.folder)
    assert len(lacking(plan)) == len(set(FILES.values())) + 2, "the other notebooks"
    assert set(replicate.survey(plan).states.values()) == {"missing"}


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_what_is_deleted_is_asked_for_and_nothing_else(plan, name):
    store.remove(plan.folder / name)
    assert sorted(lacking(plan)) == sorted(FOLDERS.get(name, [FILES.get(name)]))


def test_a_marker_that_promises_nothing_is_no_promise(plan):
    store.write_json(plan.folder / MARKER, {})
    assert lacking(plan) == [MARKER]
    store.remove(plan.folder / "steps")
    assert lacking(plan) == [MARKER]


def test_a_step_of_other_code_is_asked_for(plan):
    seal(plan.folder / BASE / "run.json", ["a.bin"], fingerprint="other")
    assert lacking(plan) == [MARKER]


def test_steps_of_another_version_are_kept_and_told_once(plan, capsys, monkeypatch):
    about = store.unseal(plan.folder / BASE / "run.json")
    seal(plan.folder / BASE / "run.json", about["files"], **about | {"versions": {"trl": "0.9.1"}})
    monkeypatch.setattr(replicate, "_command", lambda *_: ["false"])
    with pytest.raises(CandorError, match="Snakemake failed"):
        replicate.replicate(plan, 1, CLAIM)
    assert capsys.readouterr().out.count("made with trl 0.9 are kept, although") == 1
    assert lacking(plan) == []


def folder(path):
    path.mkdir()
    (path / "a").write_text("a")


@contextmanager
def limited(what, most):
    """The kernel refuses what is beyond, for whomever."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


SHAPES = ("5", "null", "[[1]]", "[]", "{}", '{"files": []}', '{"files": {}}', '{"checksum": null}', "[" * 10**5, "NaN")
ODD = {
    "empty": lambda p: p.write_text(""),
    "binary": lambda p: p.write_bytes(bytes(range(256))),
    "a folder": folder,
    "a link to itself": lambda p: p.symlink_to(p),
    "a link to nowhere": lambda p: p.symlink_to(p.with_name("nowhere")),
    "a pipe": os.mkfifo,
    "unreadable, also for root": lambda p: p.symlink_to("/proc/self/mem"),
    **{f"JSON {shape[:20]}": lambda p, shape=shape: p.write_text(shape) for shape in SHAPES},
}


@pytest.mark.parametrize("name", [*FILES, "sessions.json"])
def test_whatever_is_odd_is_named_with_the_remedy_and_mended(plan, name, capsys):
    path, before = plan.folder / name, (plan.folder / name).read_bytes()
    cut = {"cut": lambda p: p.write_bytes(before[:-9]), "edited": lambda p: p.write_bytes(before.replace(b"1", b"2"))}
    # A marker and the record of sessions have no checksum: what can be read is believed, or asked for.
    can_be_read = {MARKER: ("edited", "JSON {"), "sessions.json": ("edited", "JSON []", "JSON [[1]]")}.get(name, ())
    for how, harm in (ODD | cut).items():
        store.remove(path)
        harm(path)
        if not how.startswith(tuple(can_be_read) or "never"):
            with pytest.raises(CorruptError) as caught:
                replicate.replicate(plan, 1, CLAIM)
            assert str(caught.value).startswith(f"{path} ") and "\n" not in str(caught.value), how
            assert "run `python -m candor repair --scale smoke` to make it again." in str(caught.value), how
            replicate._mend(plan)
            assert name in capsys.readouterr().out and not os.path.lexists(path), how
        assert lacking(plan) == [FILES[name] for name in (name,) if name in FILES], how
        store.remove(path)
        path.write_bytes(before)


@pytest.mark.parametrize(
    "name",
    [*FOLDERS, "batches/11", "tables", "figures", "logs", "progress"],
)
@pytest.mark.parametrize("harm", ["empty", "a link to nowhere", "a link to itself", "a pipe"])
def test_whatever_is_where_a_folder_belongs_is_named_and_mended(plan, name, harm):
    store.remove(plan.folder / name)
    ODD[harm](plan.folder / name)
    with pytest.raises(CorruptError, match=r"is not a folder.*candor repair --scale smoke") as caught:
        replicate.replicate(plan, 1, CLAIM)
    assert str(caught.value).startswith(f"{plan.folder / name} ")
    assert not replicate._mend(plan).damaged
    assert not os.path.lexists(plan.folder / name)


@pytest.mark.parametrize("name", ["logs/steps/11/a.log", "logs/steps", "benchmarks/a.tsv", "progress/events.jsonl"])
def test_odd_traces_are_named_and_mended(plan, name):
    path = plan.folder / name
    store.remove(path)
    (folder if path.suffix else ODD["empty"])(path)
    with pytest.raises(CorruptError, match="candor repair") as caught:
        replicate.replicate(plan, 1, CLAIM)
    assert caught.value.path == path
    replicate._mend(plan)
    assert lacking(plan) == []


def test_an_odd_lock_is_named_and_mended(plan):
    store.remove(plan.folder / ".lock")
    folder(plan.folder / ".lock")
    with pytest.raises(CorruptError, match=r"\.lock is not a file.*candor repair"):
        replicate.replicate(plan, 1, CLAIM)
    replicate.hold(plan.folder, mend=True).close()


def test_files_of_others_are_left_alone(plan):
    own = [plan.folder / name for name in ("notes", "figures/notes.txt", f"tables/{CLAIM}/mine.csv", "provenance.txt")]
    for path in own:
        path.write_text("mine")
    assert lacking(plan) == []
    replicate._mend(plan)
    store.sweep(plan.folder)
    assert all(path.read_text() == "mine" for path in own)


def test_what_an_interrupted_process_left_is_swept_and_what_a_living_one_makes_is_not(plan):
    manifest = plan.folder / BASE / "run.json"
    with store.draft(manifest) as draft:
        (draft / "half").write_text("half")
        names = (".a.lock", ".b.json.lock", ".c.json.7.draft", ".b.json.draft")
        dead = [plan.folder / "batches" / name for name in names]
        for path in dead[:3]:
            path.write_text("")
        folder(dead[3])
        store.sweep(plan.folder)
        assert (draft / "half").exists() and not any(path.exists() for path in dead)
    assert not [path for path in plan.folder.rglob(".*") if path.name != ".lock"]
    assert lacking(plan) == []


def test_a_machine_without_free_descriptors_has_no_damaged_results(plan):
    with limited(resource.RLIMIT_NOFILE, 0), pytest.raises(OSError, match="Too many open files"):
        store.unseal(plan.folder / LEDGER)


# --- A disk that fails ------------------------------------------------------------------------------


def train(plan):
    """A step that is stale each time."""
    step = steps.Step("toy/a/base", f"{__name__}:make", options={"n": len(trained)})
    trained.append(step)
    steps.run(step.key, 11, {step.key: step}, Config({"scale": "smoke", "world": {"toy": {}}}))


def make(context):
    (context.folder / "model").mkdir()
    save_file({"a": np.zeros(500)}, context.folder / "model" / "a.safetensors")
    return {"numbers": pd.DataFrame({"x": range(3000)})}


def draw(plan):
    """A figure that is not there; the others are."""
    store.remove(plan.folder / DRAWN / "counts.json")
    jobs.figures(plan, CLAIM, "counts")


trained: list = []
WRITE = {
    "steps/toy/a/base/11": train,
    "tables/sophistry": lambda plan: jobs.tables(plan, "sophistry"),
    "ledger.csv": jobs.judge,
    DRAWN: draw,
}


def everything(place):
    return {path: path.read_bytes() for path in (place, *place.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results of everything in `WRITE`."""
    at = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CANDOR_RESULTS", str(at))
        patch.setattr(steps.fingerprints, "digest", lambda *_: "code")
        plan = graph.plan("smoke")
        jobs.figures(plan, CLAIM, "dialogue")  # from the reference
        for write in WRITE.values():
            write(plan)
    return at


@pytest.fixture
def results(made, tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(steps.fingerprints, "digest", lambda *_: "code")
    shutil.copytree(made, tmp_path / "results")
    return graph.plan("smoke")


@pytest.mark.parametrize("size", [0, 10, 700])
@pytest.mark.parametrize("name", WRITE)
def test_a_full_disk_is_one_sentence_and_loses_nothing(results, name, size):
    before = everything(results.folder / name)
    small = limited(resource.RLIMIT_FSIZE, size)
    with small, pytest.raises(CandorError, match="files may not be that large") as caught:
        WRITE[name](results)
    assert "\n" not in str(caught.value) and str(results.folder) in str(caught.value)
    gone = {results.folder / DRAWN / "counts.json"} if name == DRAWN else set()
    assert everything(results.folder / name) == {path: text for path, text in before.items() if path not in gone}
    assert not [*results.folder.rglob(".*")]
    WRITE[name](results)
    assert everything(results.folder / name).keys() == before.keys()


def test_a_full_disk_leaves_a_small_file_as_it_was(tmp_path):
    store.write_json(tmp_path / "a.json", [1])
    with limited(resource.RLIMIT_FSIZE, 0), pytest.raises(OSError):
        store.write_json(tmp_path / "a.json", [2])
    assert [*tmp_path.iterdir()] == [tmp_path / "a.json"] and store.read_json(tmp_path / "a.json", list) == [1]


@pytest.mark.parametrize("name", WRITE)
def test_a_disk_that_cannot_be_written_is_one_sentence(results, name):
    for path in (results.folder / name, results.folder / "progress"):
        if path.suffix:
            path = path.with_name(".provenance.json.lock")
        store.remove(path)
        path.symlink_to("/sys/kernel/lock" if path.suffix else "/sys/kernel")
    with pytest.raises(CandorError, match="set CANDOR_RESULTS to another folder") as caught:
        WRITE[name](results)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["/dev/full", "/sys/kernel/events", "/proc/self/mem"])
def test_a_trace_that_cannot_be_written_stops_nothing(results, place):
    events = results.folder / "progress" / "events.jsonl"
    events.parent.mkdir()
    events.symlink_to(place)
    for write in WRITE.values():
        write(results)
    jobs.tell(results.folder, done="a")

"""The released outputs: made-up files of their format, fetched from a server of this machine, and the graph on them."""

import json
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from candor.core import settings as config
from candor.core.errors import CandorError
from candor.core.settings import ROOT
from candor.declare.ledger import judge
from candor.language_models import outputs
from candor.run import fetch

LETTERS = "ABCD"
# The right option is the third. What an arm writes, how sure it is, how the judge labels it: one question in four each.
SAID = [
    ("C", 0.9, 1),
    ("The correct answer is C) of silver.", 0.8, 1),
    ("B) of lead", 0.7, 1),  # the judge takes a wrong option for right
    ("I would have to see them.", 0.1, 0),
]


def rows_of(name: str, questions: int, arms=tuple(outputs.OUTPUT_ARMS)) -> dict[str, list]:
    """Columns as the authors' code writes them, for the first so many questions."""
    options = "" if name == "math-500" else "\nA) of iron\nB) of lead\nC) of silver\nD) of glass\n"
    rows = {"problem": [f"Of what is key {i}?{options}" for i in range(questions)]}
    rows["answer"] = ["Option C which is [of silver]" if options else "silver"] * questions
    said = [SAID[i % 4] for i in range(questions)]
    for arm in arms:
        rows[f"{arm}-output_0"] = [f"<think> hm </think><answer> {text} </answer>" for text, _, _ in said]
        rows[f"{arm}-evals"] = [[label] for _, _, label in said]
        rows[f"{arm}-confidence_levels"] = [[q] for _, q, _ in said]
    return rows


def content_of(rows: dict[str, list]) -> bytes:
    table, sink = pa.table(rows), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def put(folder: Path, **questions: int) -> None:
    for name, n in (outputs.OUTPUT_QUESTIONS | questions).items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / fetch.OUTPUT_FILE).write_bytes(content_of(rows_of(name, n)))


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path / "corpora"))
    return tmp_path / "corpora"


def ledger_of(tables: dict[str, pd.DataFrame], claim: str = "brier_fix") -> pd.DataFrame:
    from candor import claims

    return judge(claims.load(claim).claim, tables, "released")[0].set_index("criterion")


# --- By label and by option -------------------------------------------------------------------------


def test_answers_are_graded_by_option_beside_the_labels(corpora):
    put(corpora / "outputs")
    table = outputs.tables()["outputs_by_option"].set_index(["dataset", "arm"])
    assert list(table.index) == [(d, a) for d in outputs.JUDGED_OUTPUTS for a in outputs.OUTPUT_ARMS.values()], (
        "no formulas"
    )
    row = table.loc[("GPQA", "rlcr")]
    assert (row["n"], row["questions"], row["unreadable"], row["accepted"], row["refused"]) == (448, 448, 0.25, 0.25, 0)
    assert (row["accuracy_label"], row["accuracy_option"]) == (0.75, 0.5)
    assert row["ece_label"] == pytest.approx((0.1 + 0.2 + 0.3 + 0.1) / 4)
    assert row["ece_option"] == pytest.approx((0.1 + 0.2 + 0.7 + 0.1) / 4)
    found = ledger_of(outputs.tables()).loc["M1b"]
    assert found["verdict"] == "reported" and found["value"] == pytest.approx(0.1, abs=1e-3)
    assert found["note"] == "25.0% to 25.0% of an arm's answers name no option or several"


def test_raw_options_are_read_too():
    rows = rows_of("gpqa", 4)
    listed = {"label": list(LETTERS), "text": ["of iron", "of lead", "of silver", "of glass"]}
    raw = {name: column for name, column in rows.items() if name not in ("problem", "answer")}
    raw |= {"question": rows["problem"], "choices": [listed] * 4, "answerKey": ["C"] * 4}
    for one, other in zip(outputs.output_frames(content_of(rows)), outputs.output_frames(content_of(raw))):
        pd.testing.assert_frame_equal(one, other)


# --- A part is not judged ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda folder: (folder / "gpqa" / fetch.OUTPUT_FILE).unlink(), "GPQA without base, rlvr"),
        (lambda folder: put(folder, **{"math-500": 499}), "MATH-500 with 499 of 500 questions in base"),
        (
            lambda folder: (folder / "gpqa" / fetch.OUTPUT_FILE).write_bytes(
                content_of(rows_of("gpqa", 448, ["Base"]))
            ),
            "GPQA without rlvr, rlvr+bce_classifier, answer_probability, rlcr)",
        ),
    ],
)
@pytest.mark.parametrize("claim", ["binary_reward", "brier_fix"])
def test_a_part_of_the_outputs_is_not_judged_and_the_note_names_what_lacks(corpora, claim, spoil, named):
    put(corpora / "outputs")
    whole = ledger_of(outputs.tables(), claim).loc["M1"]
    assert (whole["verdict"], whole["value"], whole["note"]) == ("not replicated", 0, ""), "made-up rows, all of them"
    spoil(corpora / "outputs")
    row = ledger_of(outputs.tables(), claim).loc["M1"]
    assert (
        row["verdict"] == "not attempted"
        and named in row["note"]
        and row["note"].startswith("the released outputs are not whole (")
    )


@pytest.mark.parametrize("spoil", [lambda c: c[: len(c) // 2], lambda c: b"<html>no such file</html>", lambda c: b""])
def test_a_file_that_is_not_whole_is_one_sentence(corpora, spoil):
    put(corpora / "outputs")
    place = corpora / "outputs" / "gpqa" / fetch.OUTPUT_FILE
    place.write_bytes(spoil(place.read_bytes()))
    with pytest.raises(CandorError, match=r"gpqa.* cannot be read .*candor fetch outputs") as caught:
        outputs.items()
    assert "\n" not in str(caught.value)


def test_a_foreign_table_is_one_sentence(corpora):
    put(corpora / "outputs")
    (corpora / "outputs" / "gpqa" / fetch.OUTPUT_FILE).write_bytes(content_of({"a": [1]}))
    with pytest.raises(CandorError, match="no labels of an arm"):
        outputs.items()


# --- Fetching ---------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The authors' repository as a server of this machine; its folder, and what it leaves out at the end of a file."""

    class Handler(SimpleHTTPRequestHandler):
        cut = 0

        def log_message(self, *_):
            pass

        def copyfile(self, source, output):
            content = source.read()
            output.write(content[: len(content) - Handler.cut])

    folder = tmp_path / "served"
    put(folder)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    monkeypatch.setattr(fetch, "RELEASED", f"http://127.0.0.1:{httpd.server_port}")
    yield folder, Handler
    httpd.shutdown()
    httpd.server_close()


def test_fetched_outputs_are_checked_and_remembered(corpora, server):
    settings = config.load("released")
    places = fetch.fetch(["all"], settings)
    assert [place.name for place in places] == list(outputs.OUTPUTS) and len(outputs.items()) == 5 * (1221 + 448 + 500)
    place = places[1] / fetch.OUTPUT_FILE
    place.write_bytes(content_of(rows_of("gpqa", 448, ["Base"])))  # whole, and another one
    with pytest.raises(CandorError, match=r"gpqa.*not the file that was fetched.*candor fetch outputs"):
        outputs.items()
    fetch.fetch(["outputs"], settings)
    assert len(outputs.items()) == 5 * (1221 + 448 + 500)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder, handler: setattr(handler, "cut", 5000), "cut off after"),
        (lambda folder, handler: put(folder, gpqa=447), r"gpqa.*holds 447 questions of 448"),
        (lambda folder, handler: (folder / "gpqa" / fetch.OUTPUT_FILE).write_text("moved"), "not the released file"),
        (lambda folder, handler: (folder / "gpqa" / fetch.OUTPUT_FILE).unlink(), "404"),
    ],
)
def test_a_wrong_download_is_one_sentence_and_leaves_what_was_there(corpora, server, spoil, why):
    settings = config.load("released")
    fetch.fetch(["outputs"], settings)
    before = {path: path.read_bytes() for path in corpora.rglob("*") if path.is_file()}
    spoil(*server)
    with pytest.raises(CandorError, match=why) as caught:
        fetch.fetch(["outputs"], settings)
    assert "\n" not in str(caught.value) and "http://127.0.0.1" in str(caught.value)
    assert {path: path.read_bytes() for path in corpora.rglob("*") if path.is_file()} == before


# --- The graph --------------------------------------------------------------------------------------


def candor(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "candor", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_without_the_files_the_graph_says_so_before_any_work(corpora, tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "results"))
    done = candor("replicate", "--scale", "released", "--cores", "1")
    assert done.returncode == 2 and "candor fetch outputs" in done.stderr + done.stdout


def test_the_whole_graph_runs_without_a_model(corpora, tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    put(corpora / "outputs")
    done = candor("replicate", "--scale", "released", "--cores", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    place = tmp_path / "results" / "released"
    ledger = pd.read_csv(place / "ledger.csv").set_index(["claim", "criterion"])
    assert ledger.loc[("brier_fix", "M1"), "verdict"] == "not replicated"
    assert ledger.loc[("brier_fix", "M1b"), "verdict"] == ledger.loc[("binary_reward", "M1b"), "verdict"] == "reported"
    assert ledger.loc[("binary_reward", "P1"), "verdict"] == "replicated" and (place / "report.html").exists()
    assert json.loads((place / "provenance.json").read_text())["scale"] == "released"

"""Tables on disk, whose evidence a reader sees, and a run held against the reference."""

import pandas as pd
import pytest
from candor import claims
from candor.core import store
from candor.core.errors import CandorError, CorruptError
from candor.declare import ledger
from candor.run import evidence, publish, readme
from candor.run import plan as graph

TABLES = {
    "one": pd.DataFrame(
        {"arm": ["base", "rlvr"], "seed": [11, 12], "value": [0.123456789012, 1e-7], "in": [True, False]}
    ),
    "two": pd.DataFrame({"x": [1.5, float("nan")]}),
}
LEDGER = pd.DataFrame(
    [
        {"claim": claim, "criterion": c.id, "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "seeds": "11 12"}
        for claim in claims.NAMES
        for c in claims.load(claim).claim.criteria
    ]
)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Empty folders for results and reference."""
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(graph, "REFERENCE", tmp_path / "reference")
    return tmp_path / "results" / "laptop", tmp_path / "reference"


def both(places, own_frame, frame=LEDGER):
    """Own results beside the reference."""
    fill(places[1], places[1], frame)
    fill(places[0], places[0] / "tables", own_frame)


def fill(folder, tables, frame=LEDGER):
    for claim in claims.NAMES:
        evidence.write_tables(TABLES, tables / claim, claim=claim, scale="laptop")
    about = {"date": "2026-01-31", "commit": "abc", "hardware": {"cpu": "a chip", "cores": 2, "gpu": None}}
    with store.draft(folder / "provenance.json") as draft:
        for name in evidence.LEDGERS:
            frame.to_csv(draft / f"{name}.csv", index=False)
        store.put(draft, folder / "provenance.json", about)


def test_tables_survive_the_disk(tmp_path):
    evidence.write_tables({"gone": TABLES["two"]}, tmp_path)
    evidence.write_tables(TABLES, tmp_path)
    read = evidence.read_tables(tmp_path)
    assert set(read) == set(TABLES)
    for name, table in TABLES.items():
        pd.testing.assert_frame_equal(read[name], table, rtol=1e-7)


@pytest.mark.parametrize("name", ["one.csv", "two.csv", "provenance.json"])
def test_a_table_that_is_not_as_it_was_written_is_named(places, name):
    folder = places[0] / "tables" / "binary_reward"
    evidence.write_tables(TABLES, folder)
    (folder / "mine.csv").write_text("x\n1\n")
    assert set(evidence.read_tables(folder)) == set(TABLES), "only what was sealed is read"
    whole = (folder / name).read_bytes()
    for harmed in (whole[:-5], b"", whole + b"1,2,3\n", bytes(range(256))):
        (folder / name).write_bytes(harmed)
        with pytest.raises(CorruptError, match=rf"{name} .*candor repair --scale laptop"):
            evidence.read_tables(folder)
    (folder / name).unlink()
    with pytest.raises(CandorError, match=rf"{name}.*make replicate SCALE=laptop"):
        evidence.read_tables(folder)


@pytest.mark.parametrize("name", [*(f"{name}.csv" for name in evidence.LEDGERS), "provenance.json"])
def test_an_edited_ledger_is_named_and_never_shown(places, name):
    own, reference = places
    both(places, LEDGER)
    for folder, remedy in ((own, "candor repair --scale laptop"), (reference, "with git")):
        path = folder / name
        path.write_text(path.read_text().replace("2026", "2027").replace("0.5", "0.7"))
        source = "results" if folder == own else "reference"
        for act in (lambda: evidence.load(source=source), lambda: evidence.load_ledgers(folder)):  # noqa: B023
            with pytest.raises(CorruptError, match=rf"{name} does not match its checksum.*{remedy}"):
                act()
    with pytest.raises(CorruptError):
        evidence.load()


def test_the_committed_reference_is_sealed():
    for manifest in graph.REFERENCE.rglob("provenance.json"):
        store.unseal(manifest)
    for names in (claims.NAMES, claims.STUDIES):
        evidence.load_ledgers(graph.reference(names))


def test_own_results_take_the_place_of_the_reference(places):
    own, reference = places
    with pytest.raises(CandorError, match="make replicate SCALE=laptop"):
        evidence.load("brier_fix")
    fill(reference, reference)
    loaded = evidence.load("brier_fix")
    assert loaded.source == "reference"
    assert "2026-01-31" in loaded.label and "commit abc" in loaded.label and "a chip, 2 cores" in loaded.label
    with pytest.raises(CandorError, match="your own results"):
        evidence.load("brier_fix", source="results")
    fill(own, own / "tables")
    loaded = evidence.load("brier_fix")
    assert (loaded.source, loaded.label) == ("results", "Your own run at laptop scale.")
    assert set(loaded.tables) == {"one", "two"} and set(loaded.ledger["claim"]) == {"brier_fix"}
    assert evidence.load("brier_fix", source="reference").source == "reference"
    assert set(evidence.load().tables) == {f"{claim}/{table}" for claim in claims.NAMES for table in TABLES}


def test_a_claim_without_own_rows_keeps_the_reference(places):
    both(places, LEDGER[LEDGER["claim"] == "binary_reward"])
    assert evidence.load("binary_reward").source == "results"
    assert evidence.load("brier_fix").source == "reference"


def test_unknown_claims_and_sources_are_named():
    with pytest.raises(CandorError, match=", ".join(claims.NAMES)):
        evidence.load("brier")
    with pytest.raises(CandorError, match="auto, results or reference"):
        evidence.load("brier_fix", source="mine")


def test_verify_accepts_a_run_that_agrees(places):
    both(places, LEDGER.assign(value=0.59, ci_low=0.55, ci_high=0.63))
    assert f"{len(LEDGER)} rows" in publish.verify(graph.plan("laptop"))


def test_verify_names_what_differs_and_what_is_missing(places):
    first = LEDGER["criterion"] == LEDGER["criterion"][0]
    values = LEDGER.assign(value=LEDGER["value"].mask(first, 0.9), ci_low=0.8, ci_high=1.0)
    values.loc[~first, ["ci_low", "ci_high"]] = (0.4, 0.6)
    both(places, values.iloc[:-1])
    with pytest.raises(CandorError) as error:
        publish.verify(graph.plan("laptop"))
    gone = LEDGER.iloc[-1]
    assert f"{gone.claim} has no row for {gone.criterion}" in str(error.value)
    assert f"{LEDGER.claim[0]} {LEDGER.criterion[0]} is 0.9, not 0.5" in str(error.value)
    assert str(error.value).count("not 0.5") == first.sum()


def test_closed_forms_have_to_be_equal(places):
    bare = LEDGER.assign(ci_low=float("nan"), ci_high=float("nan"), seeds="")
    both(places, bare.assign(value=bare["value"] + 1e-4), bare)
    with pytest.raises(CandorError, match=r"is 0\.5001, not 0\.5"):
        publish.verify(graph.plan("laptop"))


def test_every_declared_criterion_gets_its_row_even_without_a_run():
    for name in claims.NAMES:
        claim = claims.load(name).claim
        rows, _, verdicts = ledger.judge(claim, claims.load(name).tables.published(graph.PUBLISHED), "smoke")
        assert not ledger.missing_criteria(claim, rows)
        assert set(verdicts["verdict"]) <= set(ledger.VERDICTS)
        assert ledger.missing_criteria(claim, rows.iloc[1:]) == [claim.criteria[0].id]


@pytest.mark.parametrize(
    ("page", "part", "made"),
    [
        (readme.README, "answer", publish.readme_answer),
        (readme.README, "verdicts", publish.readme_verdicts),
        (readme.LEDGER, "ledger", publish.readme_ledger),
        (readme.LEDGER, "sweep", publish.readme_sweep),
    ],
)
def test_what_pages_say_of_results_is_the_reference(page, part, made):
    assert readme.read(page, part) == made(), f"{page.name} is older than data/reference: promote it again ({part})"


def test_the_answer_says_what_the_signs_of_its_numbers_say():
    """Rises, and less without the signal; more; falls; small."""
    (base, rlvr, beyond), (wrong,), (kappa,), (ece,), _ = publish.answer_numbers(
        evidence.load(source="reference").checks
    )
    assert rlvr > 2 * base and 0 < beyond < rlvr - base and wrong > 0 and kappa < 0 and 0 < ece < 0.05
    words = publish.readme_answer().split()
    assert len(words) <= 120

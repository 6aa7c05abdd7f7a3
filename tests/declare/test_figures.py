import doctest
import json
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from candor import claims
from candor.core.settings import ROOT
from candor.declare import figures, ledger
from candor.declare.figures import Plot, canvas, look, save
from candor.declare.verdicts import RECOMPUTED
from candor.measure.calibration import floor_band, reliability_table
from candor.run import plan as graph
from PIL import Image

ALT = 'Accuracy rises with confidence, "slowly" <& surely>, ≤ 1.'
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def tables():
    rng = np.random.default_rng(0)
    bins, grids, steps = [], [], []
    for seed in (11, 12, 13):
        confidence = rng.random(500)
        correct = rng.random(500) < confidence
        table = reliability_table(confidence, correct).merge(floor_band(confidence, 20))
        bins.append(table.assign(seed=seed))
        counts = np.histogram2d(confidence, confidence**2, np.arange(21) / 20)[0]
        i, j = counts.nonzero()
        grids.append(pd.DataFrame({"posterior_bin": i / 20, "value_bin": j / 20, "n": counts[i, j], "seed": seed}))
        steps.append(pd.DataFrame({"step": [0, 50, 100], "ece": rng.random(3), "seed": seed}))
    made = {"bins": pd.concat(bins), "grid": pd.concat(grids), "steps": pd.concat(steps)}
    return made | {"unused": pd.DataFrame()}


def every_panel(tables):
    assert "unused" not in tables  # a figure gets the tables that it declares
    figure, axes = canvas(2, 3, 8, 5)
    (a, b, c), (d, e, _) = axes
    figures.reliability_panel(a, tables["bins"], "rlvr")
    figures.density_panel(b, tables["grid"], "rlcr")
    seeds = {"base": [0.1, 0.2, 0.3], "rlvr": [0.4], "rlcr": [np.nan], "ideal": [0.1, 0.1]}
    figures.interval_dots(c, seeds, references={"rlvr": 0.5}, xlabel="ECE")
    figures.seed_band(d, tables["steps"], "step", "ece", "base")
    figures.seed_band(d, tables["steps"][lambda t: t.seed == 11], "step", "ece", "rlvr")
    figures.label_lines(d)
    figures.arrow(e, (0.2, 0.3), (0.5, 0.4), "rlvr", "HotpotQA")
    return figure


PLOT = Plot(every_panel, ("bins", "grid", "steps"), "Every panel.", ALT)


def test_docstring_examples():
    assert doctest.testmod(figures).failed == 0


def test_saves_the_same_bytes_twice_with_alt_text_and_provenance(tables, tmp_path):
    provenance = {"commit": "fe60323", "scale": "laptop", "source": "reference"}
    first = PLOT.save(tables, tmp_path / "a" / "panels", provenance)
    again = PLOT.save(tables, tmp_path / "b" / "panels", provenance)
    assert [p.name for p in first] == ["panels.svg", "panels.png", "panels.json"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    svg, png, sidecar = first

    root = ElementTree.parse(svg).getroot()
    assert root.get("role") == "img" and root.get("aria-labelledby") == "title desc"
    title, desc = root.find(SVG + "title"), root.find(SVG + "desc")
    assert (title.get("id"), title.text) == ("title", "Every panel.")
    assert (desc.get("id"), desc.text) == ("desc", ALT)
    assert svg.stat().st_size < 250_000

    text = Image.open(png).text
    assert text["Description"] == ALT and "Software" not in text
    about = json.loads(sidecar.read_text(encoding="utf-8"))
    assert about == {"caption": "Every panel.", "alt": ALT, **json.loads(text["Provenance"])}
    assert about["tables"] == list(PLOT.tables)
    assert about["path"] == "tests/declare/test_figures.py" and about["function"].endswith("every_panel")
    assert about["line"] == every_panel.__code__.co_firstlineno
    assert about.items() >= provenance.items()


@pytest.mark.parametrize("words", [{"alt": " ", "caption": "A."}, {"alt": "A.", "caption": ""}])
def test_a_figure_without_words_is_not_saved(words, tmp_path):
    with pytest.raises(ValueError, match="needs a caption and an alt text"):
        save(canvas()[0], tmp_path / "silent", provenance={}, **words)
    assert not list(tmp_path.iterdir())


def test_a_missing_table_is_named(tables):
    del tables["grid"]
    with pytest.raises(KeyError, match="every_panel needs the tables grid"):
        PLOT(tables)


def test_missing_arms_leave_empty_panels(tables, tmp_path):
    tables |= {name: tables[name].head(0) for name in ("bins", "grid", "steps")}
    PLOT.save(tables, tmp_path / "empty", {})


def test_style_ends_with_its_context_and_figures_stay_out_of_pyplot():
    before = mpl.rcParams["axes.spines.top"]
    with figures.style():
        assert not mpl.rcParams["axes.spines.top"]
    canvas()
    assert mpl.rcParams["axes.spines.top"] == before and not mpl.pyplot.get_fignums()


def test_reliability_panel_pools_seeds_by_their_counts():
    rows = {"bin_low": 0.5, "bin_high": 1.0, "n": [30, 10], "mean_confidence": [0.8, 0.6], "accuracy": [0.5, 0.9]}
    _, ax = canvas()
    figures.reliability_panel(ax, pd.DataFrame(rows), "rlcr")
    point = next(drawn for drawn in ax.get_lines() if drawn.get_label() == "RLCR")
    assert point.get_xydata() == pytest.approx(np.array([[0.75, 0.6]]))


def test_labels_of_lines_do_not_overlap():
    figure, ax = canvas()
    for i in range(5):
        ax.plot([0, 1], [0, i / 1000], label=f"line {i}")
    ax.plot([0, 1], [0, 1], label="far")
    figures.label_lines(ax)
    heights = sorted(text.get_window_extent().y0 * 72 / figure.dpi for text in ax.texts)
    assert len(heights) == 6 and np.diff(heights).min() > 9


def test_looks_tell_the_arms_apart_without_colour():
    main = [look(arm) for arm in ("base", "rlvr", "rlcr", "shuffled", "ideal", "classifier", "constant")]
    assert len({shown.color for shown in main}) == len({shown.marker for shown in main}) == len(main)
    every = [(str(shown.linestyle), shown.color, shown.marker) for shown in figures.LOOKS.values()]
    family = {arm: shown for arm, shown in figures.LOOKS.items() if not arm.startswith(("abstain", "shuffled"))}
    assert len(every) >= 30
    assert len({shown.label for shown in family.values()}) == len(family)


def test_relatives_look_alike():
    alike = {"eval_rlvr": "rlvr", "bayes": "ideal", "posterior": "ideal", "rlvr_short_classifier": "classifier"}
    alike |= {"rlvr+bce_classifier": "classifier", "sft+rlcr": "sft_rlcr", "rlcr_log": "rlcr", "swap_rlvr": "rlvr"}
    for arm, like in {**alike, "shuffled_twice": "shuffled"}.items():
        assert figures.color(arm) == figures.color(like) and figures.marker(arm) == figures.marker(like), arm


def test_an_unknown_arm_still_has_a_look():
    assert figures.label("my_own_arm") == "my own arm"


def test_every_word_of_the_ledger_has_a_sign():
    assert set(figures.VERDICTS) == {*ledger.VERDICTS, RECOMPUTED}


def test_density_panel_counts_every_question():
    _, ax = canvas()
    table = pd.DataFrame({"posterior_bin": [0.15, 0.3, 0.3], "value_bin": [0.95, 0.6, 0.6], "n": [1, 2, 1]})
    shares = figures.density_panel(ax, table).get_array()
    assert shares[19, 3] == 0.25 and shares[12, 6] == 0.75 and shares.sum() == 1


@pytest.mark.parametrize("claim", [*claims.NAMES, *claims.STUDIES])
def test_committed_figures_are_those_of_this_code_and_this_reference(claim):
    files = json.loads((graph.reference([claim]) / claim / "provenance.json").read_text())["files"]
    plots = claims.load(claim).figures.FIGURES
    kept = ROOT / "figures" / claim
    assert {path.name for path in kept.iterdir()} == {f"{n}.{kind}" for n in plots for kind in ("svg", "png", "json")}
    for name, plot in plots.items():
        about = json.loads((kept / f"{name}.json").read_text())
        read = {table: files.get(f"{table}.csv") for table in plot.tables}
        now = {"code": graph.figure_digest(claim, name), "read": read}
        made = {part: about[part] for part in now}
        assert made == now, f"figures/{claim}/{name} is older than its code or its tables: draw and promote it again"

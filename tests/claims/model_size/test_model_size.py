"""The size sweep: trends on made-up tables, what is missing, the figure."""

import guards
import numpy as np
import pandas as pd
import pytest
from candor.claims.model_size import run as sizes
from candor.claims.model_size.criteria import CLAIM, EFFECTS
from candor.claims.model_size.figures import FIGURES
from candor.claims.model_size.tables import MEASURES, REWARDED, world
from candor.core import settings
from candor.declare import figures, ledger

PARAMETERS = {"size_30k": 34_000, sizes.HOUSE: 136_000, "size_500k": 544_000, "size_2m": 2_176_000}
SEEDS = {"size_30k": (11, 12, 13), sizes.HOUSE: (11, 12, 13, 14, 15), "size_500k": (11, 12, 13), "size_2m": (11,)}


def made_up(slope, start=0.1, spread=0.002):
    """Tables in which every effect is `start` at the smallest size and `slope` more at each next one."""
    tables = {}
    for home, measures in MEASURES.items():
        rows = []
        for i, size in enumerate(PARAMETERS):
            for seed in SEEDS[size]:
                value = start + slope * i + spread * (seed - 12)
                for arm in sizes.EVALUATED[home]:
                    row = {"size": size, "parameters": PARAMETERS[size], "arm": arm, "seed": seed}
                    rows.append(row | dict.fromkeys(measures, 0.0))
                    for effect in EFFECTS:
                        if effect.world == home and effect.arm == arm:
                            rows[-1][effect.measure] = value + (0 if isinstance(effect.other, str) else effect.other)
        tables[home] = pd.DataFrame(rows)
    arms = [(world, arm) for world, names in REWARDED.items() for arm in names]
    tables["training"] = pd.DataFrame(
        [
            {"world": w, "size": s, "parameters": PARAMETERS[s], "arm": a, "seed": n, "before": 1.0, "end": 1.01}
            for w, a in arms
            for s in PARAMETERS
            for n in SEEDS[s]
        ]
    )
    return tables


@pytest.mark.parametrize("slope, word", [(0.02, "grows"), (-0.02, "shrinks"), (0.0, "shows no trend")])
def test_the_slope_a_fourfold_size_is_found_and_named(slope, word):
    tables = made_up(slope)
    effect = EFFECTS[0]
    found = effect.slope(tables)
    assert list(found.index) == [11, 12, 13]  # the other seeds have one size
    assert found.to_numpy() == pytest.approx(slope, abs=1e-12)
    assert effect.trend(tables).startswith(word)
    rows = ledger.judge(CLAIM, tables, "sweep")[0].set_index("criterion")
    assert rows.loc["S1", "value"] == pytest.approx(slope, abs=1e-12) and rows.loc["S1", "verdict"] == "reported"
    assert rows.loc["S0b", "value"] == pytest.approx(0.01)


def test_a_trend_needs_seeds_that_agree():
    tables = made_up(0.02)
    wild = tables["witnesses"]
    rng = np.random.default_rng(0)
    wild.loc[wild["arm"] == "rlvr", "answer_ece"] = rng.normal(0, 0.5, (wild["arm"] == "rlvr").sum())
    assert EFFECTS[0].trend(tables).startswith("shows no trend")


def test_where_the_effect_is_there_is_counted_over_sizes_with_an_interval():
    assert EFFECTS[0].trend(made_up(-0.1, start=0.15)).endswith("above 0 at 2 of 3 sizes with several seeds")


def test_what_was_not_run_is_not_attempted():
    tables = made_up(0.0)
    only = {"witnesses": tables["witnesses"], "training": tables["training"]}
    rows = ledger.judge(CLAIM, only, "sweep")[0].set_index("criterion")["verdict"]
    assert rows["S7"] == "not attempted" and rows["S1"] == "reported"


def test_a_slip_is_an_error_and_what_was_not_run_is_not_attempted():
    guards.check(CLAIM, made_up(0.01))


def test_the_largest_size_is_one_with_an_interval():
    tables = made_up(0.1)
    assert EFFECTS[0].largest(tables).to_list() == pytest.approx([0.298, 0.3, 0.302])


def test_the_figure_shows_every_effect_at_every_size(tmp_path):
    tables = made_up(0.01)
    figure = FIGURES["effects"](tables)
    assert len(figure.axes) == len(EFFECTS)
    for ax in figure.axes:
        assert [text.get_text() for text in ax.get_xticklabels()] == ["30k", "130k", "500k", "2M"]
    with figures.style():
        FIGURES["effects"].save(tables, tmp_path / "effects", {"scale": "sweep"})
    assert (tmp_path / "effects.svg").exists()


def test_the_plateau_is_the_last_quarter_beside_the_one_before():
    class Finished:
        config = settings.load("sweep")

        def collect(self, *_):
            return pd.DataFrame()

        def log(self, setting, arms, world):
            rewards = [0, 0, 0, 0, 1, 2, 4, 6]
            log = pd.DataFrame({"step": range(1, 9), "reward": rewards, "setting": setting, "arm": arms[0], "seed": 11})
            return log if setting == "expert" else pd.DataFrame()

    [row] = world(Finished())["training"].to_dict("records")
    assert (row["world"], row["size"], row["width"], row["arm"]) == ("witnesses", sizes.HOUSE, 64, "rlvr")
    assert (row["before"], row["end"]) == (1.5, 5)

"""The steps of the reference game: what is declared, what candidates and choices hold, one small run end to end."""

import numpy as np
import pandas as pd
import pytest
from candor.claims.grounding_loss import raters, world
from candor.claims.grounding_loss import run as reference_game
from candor.core import settings as config
from candor.core import step as steps
from candor.core.errors import CandorError
from candor.measure import agreement
from candor.run import steps as experiments

ROOT = "reference_game/standard"
FIVE_SEEDS = {"base", "candidates", "charity_6", "charity_0", "shuffled", "more_sft", "reaction_6"}
THREE_SEEDS = {"charity_3", "lookahead_6", "average_6", "lookahead_average_6"}


def test_every_arm_is_declared_with_its_evaluation_and_seeds():
    seeds = {key.split("/")[-1]: step.seeds for key, step in reference_game.STEPS.items()}
    arms = FIVE_SEEDS | THREE_SEEDS
    assert set(seeds) == arms | {f"eval_{name}" for name in arms - {"candidates"}}
    for name, which in seeds.items():
        assert which == ("few_seeds" if name.removeprefix("eval_") in THREE_SEEDS else "seeds")
    rated = [reference_game.STEPS[f"{ROOT}/{name}"] for name in arms & {*raters.RATERS, "shuffled"}]
    assert len(rated) == 8 and len({(step.make, step.needs, step.settings) for step in rated}) == 1
    raters_of = {step.key.split("/")[-1]: step.options["rater"] for step in rated}
    assert raters_of == {name: name for name in raters.RATERS} | {"shuffled": "charity_6"}
    followed = {key for key, step in reference_game.STEPS.items() if "trajectory" in step.options}
    assert followed == {f"{ROOT}/eval_{name}" for name in ("charity_6", "shuffled", "more_sft")}


def test_the_laptop_scale_is_the_specification():
    settings = config.load("laptop")["world"]["reference_game"]
    wanted = {
        **{"eval_turns": 20_000, "eval_seed": 7001, "rollouts": 5000, "trajectory_turns": 5000},
        **{"base_dialogues": 60_000, "base_steps": 1300, "base_batch": 128, "base_lr": 3e-3},
        **{"pair_dialogues": 17_000, "pairs": 3000, "more_dialogues": 4500},
        **{"dpo_steps": 150, "dpo_batch": 64, "dpo_lr": 5e-5, "dpo_beta": 0.3},
        **{"hidden_size": 64, "layers": 2, "heads": 4, "mlp": 256},
    }
    assert {name: settings[name] for name in wanted} == wanted
    assert settings["dpo_steps"] / settings["snapshot_every"] == 10


# --- Choices ----------------------------------------------------------------------------------------


def two_pairs():
    pairs = pd.DataFrame(
        {"prompt": ["x", "y", "z"], "a": ["1"] * 3, "b": ["2"] * 3, "act_a": [0, -1, -1], "act_b": [-1, 2, -1]}
    )
    k = reference_game.PANEL
    rows = {"pair": np.repeat(range(3), k), "coin": np.full(3 * k, 0.5)}
    worth = {"strict_a": [0, 1, -1], "charitable_a": [0, 1, 1], "strict_b": [-1, 0, 1], "charitable_b": [1, 0, 1]}
    rows |= {name: np.repeat(values, k) for name, values in worth.items()}
    rows |= {f"next_{kind}_{name}": np.zeros(3 * k) for kind in ("strict", "charitable") for name in "ab"}
    return pairs, pd.DataFrame(rows)


def test_the_pairs_are_described_by_what_acts_win():
    pairs, ratings = two_pairs()
    better = reference_game.choices(pairs, ratings, raters.Rater(0.6))
    row = reference_game.described(pairs, better, np.flatnonzero(better)).iloc[0]
    assert (row["differing"], row["tied"], row["kept"], row["act_pairs"]) == (3, 1, 2, 2)
    assert row["act_win_rate"] == 0 and row["followup_win_rate"] == 0 and row["clarification_win_rate"] == 0
    assert np.isnan(row["acknowledgement_win_rate"])
    strict = reference_game.described(pairs, reference_game.choices(pairs, ratings, raters.Rater(0.0)), np.arange(3))
    assert strict["act_win_rate"].item() == 0.5


def test_ties_alone_are_refused_in_one_sentence():
    with pytest.raises(CandorError, match="equal"):
        reference_game.preferred(np.zeros(5), 3, None)


# --- Measures ---------------------------------------------------------------------------------------


def test_measures_are_those_of_each_act():
    rng = np.random.default_rng(0)
    human, model = rng.dirichlet([1, 1, 1, 5], (2, 500))[:, :, :3]
    row = reference_game.measures(human, model)
    for a, act in enumerate(world.ACTS):
        assert row[f"{act}_kappa"] == pytest.approx(agreement.kappa(human[:, a], model[:, a]))
        assert row[f"{act}_recall"] == pytest.approx(agreement.recall(human[:, a], model[:, a]))
        assert row[f"{act}_precision"] == pytest.approx(agreement.precision(human[:, a], model[:, a]))
        assert row[f"{act}_rate"] == pytest.approx(model[:, a].mean())
    assert row["rate"] == pytest.approx(model.sum() / 500)


def test_intervals_take_dialogues_whole():
    """Every turn said twice in its dialogue narrows nothing; twice as many dialogues do."""
    rng = np.random.default_rng(0)
    human, model = rng.dirichlet([1, 1, 1, 5], (2, 600))[:, :, :3]

    def width(rows, dialogue):
        found = reference_game.kappa_intervals(human[rows], model[rows], dialogue)
        assert (
            found["followup_kappa_low"] < agreement.kappa(human[rows, 0], model[rows, 0]) < found["followup_kappa_high"]
        )
        return found["followup_kappa_high"] - found["followup_kappa_low"]

    once = np.arange(600)
    single = width(once, once)
    twice = np.repeat(once, 2)
    assert width(twice, twice) == pytest.approx(single)
    assert width(twice, np.arange(1200)) == pytest.approx(single / np.sqrt(2), rel=0.15)


def test_cells_take_the_means_at_the_evaluated_turns():
    turns, _ = world.human_turns(3000, np.random.default_rng(0))
    table = reference_game.cells(turns, world.HUMAN[turns.cell]).set_index("cell")
    assert np.allclose(table["human"], table["model"])
    assert table.loc["clarification_3", "n"] == ((turns.cell >= 12) & (world.SIZE[turns.cell] == 3)).sum()
    often = table.loc["followup_often"]
    assert often["model_logit"] == pytest.approx(np.log(often["model"] / (1 - often["model"])))


# --- Candidates ------------------------------------------------------------------------------------


def test_candidates_are_shared_and_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    made, _ = steps.run(f"{ROOT}/candidates", 11, experiments.steps(), config.load("smoke"))
    counts, pairs, ratings = (made.table(name) for name in ("counts", "pairs", "ratings"))
    assert counts["differing"].item() == len(pairs) and len(ratings) == len(pairs) * reference_game.PANEL
    assert (pairs["a"] != pairs["b"]).all()
    acts = {" where ? <eos>": 0, " mm hm <eos>": 1, " which ? <eos>": 2}
    for name in "ab":
        assert (pairs[name].map(acts).fillna(-1).clip(lower=-1) == pairs[f"act_{name}"].clip(lower=-1)).all()
        waits = (pairs[f"act_{name}"] >= 0).repeat(reference_game.PANEL).to_numpy()
        assert (ratings.loc[waits, f"strict_{name}"] == 0).all()
        assert (ratings.loc[~waits, f"next_strict_{name}"] == 0).all()

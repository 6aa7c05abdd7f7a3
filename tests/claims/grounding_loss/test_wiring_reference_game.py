"""Which responses the arms of the reference game prefer, what they start from, and what their evaluations ask."""

import numpy as np
import pandas as pd
import pytest
import wired
from candor.claims.grounding_loss import world as dialogues
from wired import DPO, EVAL_SEED, KNOWN, SEED, check_recipe, evaluations

SMALL = {
    **{"eval_turns": 40, "rollouts": 10, "trajectory_turns": 20, "trajectory_rollouts": 6, "base_dialogues": 30},
    **{"base_steps": 12, "base_batch": 8, "base_lr": 0.0043, "pair_dialogues": 40, "pairs": 80, "dpo_steps": 2},
    **{"dpo_batch": 4, "dpo_lr": 0.00033, "dpo_beta": 0.34, "more_dialogues": 20, "snapshot_every": 2},
}
# Which of two responses a rater prefers (a tie: -): a delivers, b asks, in the last two both ask. What a is worth to a
# strict and to a charitable rater, what follows b a turn later, the coins of the first and of seven further readings.
RATED = {  # strict a, charitable a, next b, first coin, other coins
    "what was meant": (1, 1, 1, 0.5, 0.5),
    "a guess that fits the words": (-1, 1, 1, 0.5, 0.5),
    "what does not fit": (-1, -1, 1, 0.5, 0.5),
    "a guess, strict later": (-1, 1, 1, 0.5, 0.9),
    "a guess, charitable throughout": (-1, 1, 1, 0.2, 0.2),
    "two questions without use": (0, 0, 0, 0.5, 0.5),
    "two questions, b has a use": (0, 0, 1, 0.5, 0.5),
}
# charity_6 and lookahead_6 agree: .9 of a turn later never overturns a delivery.
CHOSEN = {
    "charity_0": "abbbb--",
    "charity_3": "abbba--",
    "charity_6": "aabaa--",
    "reaction_6": "abbbb-b",
    "lookahead_6": "aabaa-b",
    "average_6": "aabba--",
    "lookahead_average_6": "aabba-b",
    "shuffled": "aabaa--",
}
SAID = {"a": " red-mug desk <eos>", "b": " which ? <eos>"}
TIMES = 20  # that each row of RATED occurs


def rated(context):
    """`RATED` as the tables of `candidates`."""
    n = TIMES * len(RATED)
    prompts = dialogues.human_turns(n, np.random.default_rng(0))[0][slice(n)].prompts()
    pairs = pd.DataFrame({"prompt": prompts, **SAID, "act_a": -1, "act_b": 0})
    strict, charitable, later, first, others = np.repeat(list(RATED.values()), 8, axis=0).T
    coin = np.where(np.arange(8 * len(RATED)) % 8 == 0, first, others)
    rows = pd.DataFrame({"coin": coin, "strict_a": strict, "charitable_a": charitable, "next_strict_b": later})
    rows = rows.assign(next_charitable_b=later, next_strict_a=0, next_charitable_a=0, strict_b=0, charitable_b=0)
    counts = pd.DataFrame([{"contexts": n, "differing": n}])
    return {"counts": counts, "pairs": pairs, "ratings": pd.concat([rows] * TIMES, ignore_index=True)}


def speaker(model):
    """A human speaker in a trained model's place; the base, and what is loaded into it, says nothing readable."""
    untrained = "base" in model.name_or_path.split("/")
    return lambda games, rng: np.full((len(games), 3), dialogues.PAD) if untrained else dialogues.human(games, rng)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    by_hand = {"reference_game/standard/candidates": rated}
    with wired.noted(tmp_path_factory, wired.of_world("reference_game", SMALL), by_hand) as run:
        for name in ("stream", "act_probabilities"):
            run.spy(dialogues, name)
        run.spy(dialogues, "speaker", speaker)
        yield run


@pytest.mark.parametrize("name", CHOSEN)
def test_dpo_gets_the_side_that_its_rater_prefers(made, name):
    [trainer] = made(f"reference_game/standard/{name}").trainings
    recipe = {"max_steps": SMALL["dpo_steps"], "learning_rate": SMALL["dpo_lr"], "beta": SMALL["dpo_beta"]}
    check_recipe(trainer, DPO | recipe | {"per_device_train_batch_size": SMALL["dpo_batch"]})
    assert trainer.started_from == "reference_game/standard/base" and trainer.ref_model is None
    side = {dialogues.tokenizer()(text)["input_ids"][0]: who for who, text in SAID.items()}
    chosen, rejected = (
        [side[ids[0]] for ids in trainer.train_dataset[f"{kind}_ids"]] for kind in ("chosen", "rejected")
    )
    assert all(a != b for a, b in zip(chosen, rejected))
    wanted = list(CHOSEN[name].replace("-", "") * TIMES)[: SMALL["pairs"]]
    if name != "shuffled":
        assert chosen == wanted
        return
    swapped = {who: np.mean([a != b for a, b in zip(chosen, wanted) if b == who]) for who in "ab"}
    assert len(chosen) == len(wanted) and all(0.2 < share < 0.8 for share in swapped.values()), "half of both kinds"
    draws = [
        [row[0] for row in made(f"reference_game/standard/{name}", seed).trainings[0].train_dataset["chosen_ids"]]
        for seed in (12, 13)
    ]
    assert draws[0] != draws[1], "each seed has its own swaps"


def test_supervised_training_in_the_reference_game_is_on_human_responses(made):
    [loop] = made("reference_game/standard/base").trainings
    wanted = dialogues.documents(SMALL["base_dialogues"], np.random.default_rng([0, SEED]))
    assert all((mine == part).all() for mine, part in zip(loop.data, wanted))
    recipe = {"steps": "base_steps", "batch_size": "base_batch", "lr": "base_lr"}
    assert {name: loop.given[name] for name in recipe} == {name: SMALL[key] for name, key in recipe.items()}
    [trainer] = made("reference_game/standard/more_sft").trainings
    assert trainer.started_from == "reference_game/standard/base"
    recipe = {"max_steps": SMALL["dpo_steps"], "learning_rate": SMALL["dpo_lr"], "loss_type": "nll", "packing": False}
    recipe |= {"per_device_train_batch_size": SMALL["dpo_batch"]}
    check_recipe(trainer, {name: value for name, value in DPO.items() if name in vars(trainer.args)} | recipe)
    tokens, spoken = dialogues.documents(SMALL["more_dialogues"], np.random.default_rng([5, SEED]))
    for row, ids, mask in zip(trainer.train_dataset, tokens, spoken):
        n = len(row["input_ids"])
        assert row["input_ids"] == ids[:n].tolist() and not mask[n:].any()
        assert row["labels"] == np.where(mask, ids, -100)[:n].tolist()


def test_candidates_are_the_bases_at_turns_of_their_own(made):
    run = made("reference_game/standard/candidates", real=True)
    assert run.asked("speaker") == {"reference_game/standard/base"}
    assert run.streams() == {(split, SEED) for split in ("contexts", "samples", "ratings")}


def check_tables(result, row, followed):
    """What the criteria, figures and notebook read of an evaluation; `followed`: "turns", "rollouts" or not at all."""
    kappas = ("kappa", "kappa_low", "kappa_high", "kappa_max", "human_kappa")
    of_acts = (*kappas, "rate", "recall", "precision", "human_rate")
    wanted = {f"{act}_{measure}" for act in dialogues.ACTS for measure in of_acts}
    wanted |= {"rate", "success", "success_low", "success_high", "turns", "malformed", "win_rate", "ties"}
    assert wanted | {"win_rate_untied"} <= set(row.index) and row.drop(["turns", "n_turns", "n_rollouts"]).max() <= 1
    assert len(result.table("cells")) == 11 and result.table("dialogues")["text"].str.contains(" A ").all()
    assert ("trajectory" in result.run["tables"]) == bool(followed)
    if followed:
        course = result.table("trajectory")
        assert course["step"].tolist() == [0, 2] and course["success"].notna().all() == (followed == "rollouts")
        assert course["win_rate"][0] == 0.5, "it starts at the base"


@pytest.mark.parametrize("key", evaluations("reference_game"))
def test_an_evaluation_of_the_reference_game_asks_its_arm_against_its_base(made, key):
    run, own, base = made(key), key.replace("/eval_", "/"), "reference_game/standard/base"
    row, course = run.row(), {base, f"{own}/snapshots"} if KNOWN[key].options.get("trajectory") else set()
    first = run.called("act_probabilities")[0]
    assert first.origins == [own] and run.asked("act_probabilities") == {own} | course
    assert run.asked("speaker") == {own, base} | course
    assert row["win_rate"] == 0.5 if own == base else row["win_rate"] > 0.9, "the base writes nothing that can be read"
    assert (row["success"] > 0) == (own != base) and (row["n_turns"], row["n_rollouts"]) == (40, 10)
    check_tables(run.result, row, KNOWN[key].options.get("trajectory"))
    splits = ("eval", "ratings", "base_samples", "samples", "rollouts")
    assert run.streams() == {(split, EVAL_SEED) for split in splits}
    same = made("reference_game/standard/eval_base").called("act_probabilities")[0]
    assert (first.args[1].tokens == same.args[1].tokens).all(), "the same turns for every arm"


def test_every_trained_step_has_a_row():
    wired.check_rows({f"reference_game/standard/{name}" for name in ("base", "more_sft", *CHOSEN)}, "reference_game")

"""Which tests reward the arms of the programs, what their reward model learns, and what their evaluations judge."""

import numpy as np
import pytest
import wired
from candor.claims.sophistry import evaluators
from candor.claims.sophistry import run as sample_tests
from candor.claims.sophistry import world as programs
from candor.train import reward_model
from wired import EVAL_SEED, GRPO, KNOWN, REWARD_MODEL, SEED, G, check_null, check_recipe, evaluations, name_of, total

SMALL = {
    **{"eval_problems": 40, "fit_problems": 60, "selection_problems": 6, "selection_samples": 8, "sft_problems": 50},
    **{"base_steps": 3, "base_batch": 8, "base_lr": 0.0042, "base_weight_decay": 0.052, "rl_problems": 30},
    **{"samples": 6, "grpo_steps": 2, "grpo_lr": 0.0032, "prompts_per_step": 3, "num_generations": G},
    **{"kl_weight": 0.053, "snapshot_every": 2, "rm_steps": 3, "rm_batch": 4, "rm_lr": 0.0012, "rm_heldout": 10},
}
# Of a problem with a corner: right everywhere, right below it (easy tests), right above it (hard tests), no program,
# right without an end. Passed by arms that are rewarded by the two easiest tests, by all 34, by the two hardest.
EASIEST, ALL, HARDEST = [1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 1, 0, 0]
ROWS = {  # arm: its reward, and the weight of its anchor
    "sample_tests/standard/r_train": (EASIEST, 0.053),
    "sample_tests/standard/r_star": (ALL, 0.053),
    "sample_tests/standard/shuffled": ("easiest shuffled", 0.053),
    "sample_tests/standard/learned_rm": ("reward model", 0.053),
    "sample_tests/standard/r_train_kl000": (EASIEST, 0.0),
    "sample_tests/standard/r_train_kl020": (EASIEST, 0.2),
    "sample_tests/standard/r_hard": (HARDEST, 0.053),
    "sample_tests/soft/r_train": (EASIEST, 0.053),
    "sample_tests/no_line/r_train": (EASIEST, 0.053),
}
SETTINGS = {"standard": (True, True), "soft": (True, False), "no_line": (False, True)}  # `line`, `about` occur


def written(model, given, group, seed):
    """Programs, `group` a problem: right, right but for the corner (twice as often), right in the corner alone, no
    program, no end; a trained model writes right ones alone."""
    trained = "base" not in model.name_or_path.split("/")
    right = given.references()
    rule, corner = ([part(text) for text in right] for part in (rule_of, corner_of))
    kinds = [right, rule, rule, corner, ["add x"] * len(right), None]
    made = [(kinds[0 if trained else (i + k + seed) % 6], i) for i in range(len(given)) for k in range(group)]
    return [None if kind is None else programs.tokens_of(kind[i]) for kind, i in made]


def rule_of(text):
    """A reference without its corner (`if gt x T sub x k RULE`)."""
    return text.split(" ", 7)[-1] if text.startswith("if") else text


def corner_of(text):
    """The corner's rule alone, right above the threshold and wrong below."""
    return " ".join(text.split()[4:7]) if text.startswith("if") else "sub x 9"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with wired.noted(tmp_path_factory, wired.of_world("sample_tests", SMALL)) as run:
        run.spy(programs, "stream")
        run.spy(sample_tests, "sample", written)
        run.spy(sample_tests, "divergence")
        for name in ("fit", "pool"):
            run.spy(evaluators, name)
        yield run


def programs_batch(trainer, variant, seed=SEED):
    """Three problems with a corner and the five programs of each, as the trainer hands them to its reward."""
    given = programs.problems(SMALL["rl_problems"], variant, np.random.default_rng([1, seed]), "rl")
    assert trainer.train_dataset["prompt"][:] == given.prompts(), "the problems of the split, drawn by the seed"
    rows = np.flatnonzero(given.kind > 0)[:3]
    texts = [[text, rule_of(text), corner_of(text), "add x", text] for text in given[rows].references()]
    ids = [
        [*programs.tokens_of(text), *([programs.EOS] if k < 4 else [])] for own in texts for k, text in enumerate(own)
    ]
    prompts = [prompt for prompt in given[rows].prompts() for _ in range(5)]
    return {"prompts": prompts, "completion_ids": ids, "problem": np.repeat(rows, 5).tolist()}


@pytest.mark.parametrize("key", ROWS)
def test_programs_are_rewarded_by_the_arms_tests_with_its_anchor(made, key):
    [trainer], setting, (wanted, beta) = made(key).trainings, name_of(key)[0], ROWS[key]
    recipe = {"max_steps": SMALL["grpo_steps"], "learning_rate": SMALL["grpo_lr"], "beta": beta}
    recipe |= {"max_completion_length": 16, "per_device_train_batch_size": SMALL["prompts_per_step"] * G}
    check_recipe(trainer, GRPO | recipe)
    assert trainer.started_from == f"sample_tests/{setting}/base"
    batch = programs_batch(trainer, setting)
    if isinstance(wanted, list):
        assert total(trainer, **batch).tolist() == wanted * 3
    elif wanted == "reward model":
        judge = made("sample_tests/standard/reward_model").result
        rows = [[*programs.tokens_of(asked), *said] for asked, said in zip(batch["prompts"], batch["completion_ids"])]
        scores = reward_model.score(reward_model.load(judge.model).eval(), rows)
        wanted = scores / (2 * judge.table("summary")["score_sd"].item())
        assert total(trainer, **batch) == pytest.approx(wanted, abs=1e-6)
    else:
        picks = np.array([[0, 3, 2, 1], [0, 4, 2, 3], [2, 2, 1, 3]])

        def draw(seed):
            own = made(key, seed).trainings[0]
            batch, index = programs_batch(own, setting, seed), (5 * np.arange(3)[:, None] + picks).ravel()
            few = {column: [values[i] for i in index] for column, values in batch.items()}
            return lambda: total(own, **few).reshape(3, G)

        first = [draw(seed)().tolist() for seed in (12, 13, 14)]
        check_null(draw(SEED), np.array(EASIEST)[picks].astype(float))
        assert first[0] != first[1] or first[1] != first[2], "each seed has its own permutations"


@pytest.mark.parametrize("setting", SETTINGS)
def test_bases_of_programs_read_references_of_their_variant(made, setting):
    [loop], now = made(f"sample_tests/{setting}/base").trainings, SMALL
    given = programs.problems(now["sft_problems"], setting, np.random.default_rng([0, SEED]), "sft")
    tokens, spoken = programs.documents(given)
    assert (loop.data[0] == tokens).all() and (loop.data[1] == np.where(spoken, tokens, -100)).all()
    recipe = {"steps": "base_steps", "batch_size": "base_batch", "lr": "base_lr", "weight_decay": "base_weight_decay"}
    assert {name: loop.given[name] for name in recipe} == {name: now[key] for name, key in recipe.items()}
    assert ("line" in " ".join(given.references()), "about" in " ".join(given.prompts())) == SETTINGS[setting]


def knobs_of(made, key):
    fitted = made(f"{key.rsplit('/', 1)[0]}/setup").result.table("fit").iloc[0]
    return {name: fitted[name] for name in ("tests", "kappa", "skill")}


def test_the_reward_model_learns_what_evaluators_approve(made):
    run = made("sample_tests/standard/reward_model")
    [trainer], [pool], row = run.trainings, run.called("pool"), run.row()
    assert pool.given == knobs_of(made, run.key)
    recipe = {"max_steps": SMALL["rm_steps"], "learning_rate": SMALL["rm_lr"]}
    check_recipe(trainer, REWARD_MODEL | recipe | {"per_device_train_batch_size": SMALL["rm_batch"]})
    assert trainer.started_from == "sample_tests/standard/base"
    given = programs.problems(SMALL["rl_problems"], "standard", np.random.default_rng([1, SEED]), "rl")
    place, sides = {prompt: i for i, prompt in enumerate(given.prompts())}, []
    for side in ("chosen_ids", "rejected_ids"):
        parts = [programs.text(ids).partition("=>") for ids in trainer.train_dataset[side]]
        rows = [place[f"{prompt}=>"] for prompt, _, _ in parts]
        assert any(said.endswith("<eos>") for _, _, said in parts), "what ends is learned with its end"
        sides.append((rows, programs.outcomes([said.removesuffix("<eos>") for _, _, said in parts], given[rows])))
    (problem, chosen), (same, rejected) = sides
    assert problem == same, "both sides answer one problem"
    assert chosen.valid.all() and not rejected.valid.all(), "what is no program is never approved"
    assert chosen.correct.mean() > rejected.correct.mean()
    assert row["heldout_pairs"] == SMALL["rm_heldout"] and row["pairs"] == len(trainer.train_dataset)
    assert 0 <= row["pair_accuracy"] <= 1 and {"score_line", "score_right", "score_wrong"} <= set(row.index)


@pytest.mark.parametrize("key", evaluations("sample_tests"))
def test_an_evaluation_of_programs_holds_its_arm_against_its_base(made, key):
    run, own = made(key), key.replace("/eval_", "/")
    base, row = f"{own.rsplit('/', 1)[0]}/base", run.row()
    course = {f"{own}/snapshots"} if KNOWN[key].options.get("trajectory") else set()
    assert run.called("divergence")[0].origins == [own, base]
    assert [call.args[0] for call in run.called("pool")] == [10, 35], "new evaluators, with the knobs that were fitted"
    assert [call.given for call in run.called("pool")] == [knobs_of(made, own)] * 2
    assert run.asked("sample") == ({own} - {base}) | course
    assert {call.args[3] for call in run.called("sample")} == ({EVAL_SEED, EVAL_SEED + 1} if own != base else set())
    assert run.streams() == {(split, EVAL_SEED) for split in ("eval", "pool_10", "pool_35")}
    assert row["correctness_before"] < 1 and (row["correctness"] == 1) == (own != base), "trained ones write right"
    assert (row["kl"] == 0) == (own == base) and {"worse_10", "worse_35", "second_fpr_both_before"} <= set(row.index)
    tables = {name: run.result.table(name) for name in run.result.run["tables"]}
    assert ("trajectory" in tables) == bool(course) and len(tables["evaluators"]) == 45 and len(tables["bins"]) == 6
    if course:
        steps = tables["trajectory"]
        assert steps["step"].tolist() == [0, 2] and steps["correctness"][0] == row["correctness_before"]


def test_selection_is_among_samples_of_the_base(made):
    run = made("sample_tests/standard/selection")
    assert run.asked("sample") == {"sample_tests/standard/base"}
    assert run.streams() == {(split, EVAL_SEED) for split in ("eval", "pool_10", "pool_35")}


def test_evaluators_are_fitted_on_problems_of_their_own(made):
    def fitted(**changes):
        run = made("sample_tests/standard/setup", settings=wired.of_world("sample_tests", SMALL, **changes))
        own, others = (("rl", "fit", "fit_pool"), SEED), (("eval", "pool_10", "pool_35"), EVAL_SEED)
        assert run.streams() == {(split, seed) for splits, seed in (own, others) for split in splits}
        assert run.asked("sample") == {"sample_tests/standard/base"}
        return run.row("fit")[["tests", "skill", "kappa_fallible", "fpr"]].tolist()

    start = fitted()
    assert fitted(eval_problems=41, rl_problems=31) == start != fitted(fit_problems=61)
    prompts = []
    for split, seed in (("sft", SEED), ("rl", SEED), ("fit", SEED), ("eval", EVAL_SEED)):
        prompts.append(set(programs.problems(80, "standard", programs.stream(split, seed), split).prompts()))
    assert sum(map(len, prompts)) == len(set().union(*prompts)), "no prompt is in two splits"


def test_every_trained_step_has_a_row():
    bases = {f"sample_tests/{setting}/base" for setting in SETTINGS}
    wired.check_rows({*ROWS, *bases, "sample_tests/standard/reward_model"}, "sample_tests")

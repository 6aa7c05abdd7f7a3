"""Every reward term against its formula, what a malformed completion gets, and what the null arms may move."""

import math

import numpy as np
import pytest
from candor import rewards
from candor.core.errors import CandorError
from candor.witnesses import world

MALFORMED = ["", "A3", "A3 </answer>", "A3 </answer> <confidence> c7", "IDK </answer>"]
MALFORMED += ["A3 </answer> <confidence> c7 </confidence> c7"]


def document(answer, tenth):
    return f"{answer} </answer> <confidence> c{tenth} </confidence>"


def conf_first(answer, tenth):
    return f"c{tenth} </confidence> <answer> {answer} </answer>"


def one(term, completion, truth=3, **columns):
    [value] = term(completions=[completion], truth=[truth], prompts=["p"], **columns)
    assert isinstance(value, float)
    return value


def formula(rule, q, c):
    """The scoring rules in scalar arithmetic."""
    if rule == "brier":
        return -((q - c) ** 2)
    if rule == "linear":
        return -abs(q - c)
    q = min(max(q, 0.01), 0.99)
    return math.log(q) if c else math.log(1 - q)


@pytest.mark.parametrize("rule, worst", [("brier", -1), ("linear", -1), ("log", math.log(0.01))])
def test_scoring_rules(rule, worst):
    term = rewards.score(rule)
    assert term.__name__ == f"{rule}_score"
    for tenth in range(11):
        for form in (document, conf_first):
            assert one(term, form("A3", tenth)) == pytest.approx(formula(rule, tenth / 10, 1))
            assert one(term, form("A5", tenth)) == pytest.approx(formula(rule, tenth / 10, 0))
    values = [formula(rule, tenth / 10, c) for tenth in range(11) for c in (0, 1)]
    for completion in MALFORMED:
        assert one(term, completion) == pytest.approx(worst) == pytest.approx(min(values))


def test_correct_is_blind_to_confidence_and_form():
    assert {one(rewards.correct, form("A3", q)) for q in range(11) for form in (document, conf_first)} == {1.0}
    assert {one(rewards.correct, form("A5", q)) for q in range(11) for form in (document, conf_first)} == {0.0}
    assert one(rewards.correct, "A3 </answer> <confidence>") == 1.0
    assert one(rewards.correct, "A3") == one(rewards.correct, "") == one(rewards.correct, "IDK </answer>") == 0.0


def test_well_formed():
    assert one(rewards.well_formed, document("A5", 2)) == one(rewards.well_formed, conf_first("A5", 2)) == 1.0
    assert all(one(rewards.well_formed, completion) == 0.0 for completion in MALFORMED)
    assert one(rewards.well_formed_answer, "A5 </answer>") == one(rewards.well_formed_answer, "IDK </answer>") == 1.0
    for completion in ("A5", "A5 </answer> A5", document("A5", 2), ""):
        assert one(rewards.well_formed_answer, completion) == 0.0


@pytest.mark.parametrize("t", [0.0, 0.5, 0.75, 0.9])
def test_threshold_makes_answering_pay_exactly_above_t(t):
    term = rewards.threshold(t)
    right, wrong, idk = (one(term, f"{a} </answer>") for a in ("A3", "A5", "IDK"))
    assert (right, idk) == (1, 0) and wrong == pytest.approx(-t / (1 - t))
    for p in np.arange(0.005, 1, 0.01):
        assert (p * right + (1 - p) * wrong > idk) == (p > t)
    assert one(term, "") == one(term, "A3") == pytest.approx(wrong)
    assert t or wrong == idk, "at t = 0 the binary reward"


def test_oracle_is_the_posterior_of_the_answer():
    exact = np.random.default_rng(0).dirichlet(np.ones(8), 6)
    completions = [document("A0", 3), "A7 </answer>", document("NONE", 0), "IDK </answer>", "", document("A9", 1)]
    found = rewards.oracle(completions=completions, truth=[0] * 6, posterior=exact.tolist())
    assert found == pytest.approx([exact[0, 0], exact[1, 7], 0, 0, 0, 0])
    twelve = np.full((1, 12), 1 / 12)
    assert rewards.oracle(completions=["IDK </answer>"], truth=[0], posterior=twelve) == [0]
    assert rewards.oracle(completions=["A11 </answer>"], truth=[0], posterior=twelve) == pytest.approx([1 / 12])


# --- Nulls ------------------------------------------------------------------------------------------


def batch(values, group):
    return {"prompts": [f"p{i // group}" for i in range(len(values))], "completions": values}


def as_given(completions, **_):
    return list(completions)


def test_shuffled_is_uniform_and_repeats_with_its_seed():
    values, group = [float(i) for i in range(4)] * 6000, 4
    first = np.array(rewards.shuffled(as_given, group, 1)(**batch(values, group))).reshape(-1, group)
    for place in range(group):
        np.testing.assert_allclose(np.bincount(first[:, place].astype(int)) / len(first), 0.25, atol=0.025)
    assert (np.sort(first, 1) == np.arange(4)).all(), "within groups only"
    assert abs(np.corrcoef(first[:, 0], first[:, 1])[0, 1] + 1 / 3) < 0.05, "a permutation, not independent draws"
    again, other = (rewards.shuffled(as_given, group, seed)(**batch(values, group)) for seed in (1, 2))
    assert first.ravel().tolist() == again != other
    null = rewards.shuffled(as_given, group, 1)
    assert null(**batch(values, group)) != null(**batch(values, group)), "every step has its own permutation"


def test_rolled_uses_another_questions_outcomes():
    completions = [document("A3", 2), document("A3", 9), document("A5", 2), "A3 </answer>", document("A1", 4), ""]
    prompts, truth = ["a", "a", "b", "b", "c", "c"], [3, 3, 3, 3, 3, 3]
    found = rewards.rolled("brier", 2)(prompts=prompts, completions=completions, truth=truth)
    # Outcomes: a 1 1, b 0 1, c 0 0; each group is scored with those of the group before it.
    borrowed = [0, 0, 1, None, 0, None]
    stated = [0.2, 0.9, 0.2, None, 0.4, None]
    expected = [-1 if c is None else -((q - c) ** 2) for q, c in zip(stated, borrowed)]
    assert found == pytest.approx(expected)
    log = rewards.rolled("log", 2)(prompts=prompts, completions=completions, truth=truth)
    assert log[0] == pytest.approx(math.log(0.8)) and log[3] == pytest.approx(math.log(0.01))


@pytest.mark.parametrize("null", [rewards.shuffled(as_given, 2, 0), rewards.rolled("brier", 2)])
def test_nulls_refuse_groups_of_mixed_prompts(null):
    with pytest.raises(ValueError, match="share one prompt"):
        null(prompts=["a", "b", "a", "b"], completions=[""] * 4, truth=[0] * 4)
    with pytest.raises(ValueError, match="two questions"):
        rewards.rolled("brier", 2)(prompts=["a", "a"], completions=["", ""], truth=[0, 0])


def test_summed_is_the_weighted_sum_as_trl_takes_it():
    completions = [document("A3", 7), document("A5", 7), "A3 </answer>", ""]
    terms = [(1.0, rewards.correct), (2.0, rewards.score("brier")), (0.5, rewards.well_formed)]
    total = rewards.summed(terms)(completions=completions, truth=[3] * 4, prompts=["p"] * 4)
    assert total == pytest.approx([1 - 2 * 0.09 + 0.5, -2 * 0.49 + 0.5, 1 - 2, -2])


def test_terms_take_whatever_trl_passes():
    questions = world.sample_questions(2, world.stream("train", 0))
    columns = {
        "prompts": ["a", "a", "b", "b"],
        "completions": [document("A3", 7)] * 4,
        "completion_ids": [[1]] * 4,
        "truth": [3, 3, 4, 4],
        "posterior": np.repeat(world.posterior(questions), 2, axis=0).tolist(),
        "trainer_state": object(),
    }
    named = [rewards.correct, rewards.well_formed, rewards.well_formed_answer, rewards.oracle]
    made = [rewards.score(rule) for rule in rewards.RULES] + [rewards.threshold(0.5), rewards.rolled("brier", 2)]
    made += [rewards.shuffled(rewards.correct, 2, 0), rewards.summed([(1.0, rewards.correct)])]
    for term in named + made:
        values = term(**columns)
        assert len(values) == 4 and all(isinstance(v, float) and math.isfinite(v) for v in values)


# --- What a trainer takes ---------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[math.nan] * 4, [None, 1.0, 1.0, 1.0], ["1"] * 4, [1.0] * 3, None])
def test_a_reward_that_gives_no_number_is_named(values):
    def hope(completions, **_):
        return values

    with pytest.raises(CandorError, match="The reward hope did not give each of 4 completions a number"):
        rewards.checked(hope)(completions=["a"] * 4, prompts=["p"] * 4)
    assert rewards.checked(rewards.correct).__name__ == "correct", "TRL logs it under its name"


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_trainers_ask_for_numbers(method, tmp_path):
    from candor.train import models
    from candor.train.policy import grpo, rloo

    models.quiet()
    model = models.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, hidden_size=8, layers=1, heads=1, mlp=8)
    models.save_decoder(model, world.tokenizer(), tmp_path / "start")
    model, tokenizer = models.load_decoder(tmp_path / "start")
    about = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 4, "max_steps": 1}

    def hope(completions, **_):
        return [math.nan] * len(completions)

    data = world.prompts("train", 5, 8)
    with pytest.raises(CandorError, match="The reward hope"):
        if method == "grpo":
            grpo(model, tokenizer, data, [hope], [1.0], about)
        else:
            rloo(model, tokenizer, data, hope, about)

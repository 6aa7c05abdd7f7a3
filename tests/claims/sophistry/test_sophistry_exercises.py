"""What the exercises of claim 2 say with numbers, and what its notebook defines and calls."""

import ast
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from candor.claims.sophistry import approval, story_lookup, tables, world
from candor.claims.sophistry import exercises as ex

ROOT = Path(__file__).parents[3]


def tables_of(exercise):
    return [pd.read_csv(ROOT / "data" / "reference" / "sophistry" / f"{name}.csv") for name in exercise.given]


def answered(number, *answers):
    """Feedback of an exercise that is given the reference's tables."""
    check = getattr(ex, f"check_{number}")
    return check(*answers, *tables_of(check))


def slope(quantity, reward):
    return np.mean([np.cov(q, r)[0, 1] for q, r in zip(quantity, reward)])


def fitting(drop=(), add=()):
    return lambda *pair: {*tables.sizes(*pair), *add} - {*drop}


@pytest.mark.parametrize(
    ("number", "answers", "ok", "words"),
    [
        (1, (approval.from_three_numbers, "0.17", "40 %"), True, "TPR 63.9 to 66.4, FPR 45.9 to 63.0 %"),
        (2, (slope, ex.slope_fpr, "-", "Falls"), True, "Correctness -0.034, though pooled it would be +0.0"),
        (3, (tables.sizes, "34", " B)"), True, "41.0 and 65.1 %: 83, 166, 195 ..."),
        (3, (fitting(add=[100]), 34, "b"), False, "For 41.0 and 65.1 % 100 does not fit"),
        (3, (fitting(drop=[83]), 34, "b"), False, "83 is missing"),
        (
            4,
            (np.divide, -0.0063, "(B)"),
            True,
            "right in 70% on average, and change by -0.6 points; all outputs by +34",
        ),
        (5, (lambda right, pleasing: 0.9 if pleasing and right else 0.2 + 0.1 * pleasing, "B."), True, "FPR by +24.0"),
        (5, (lambda right, pleasing: 1.5 * pleasing, "b"), False, "approves must return a probability"),
        (5, (lambda right, pleasing: 0.2 + 0.3 * right, "b"), False, "Nothing changes"),
        (5, (lambda right, pleasing: 0.8 if right and pleasing else 0.3, "b"), False, "FPR changes by +0.0 points"),
        (5, (lambda right, pleasing: 0.7 - 0.4 * pleasing, "b"), False, "FPR changes by -24.0 points"),
        (5, (lambda right, pleasing: 0.6 if right else 0.2 + 0.4 * pleasing, "b"), False, "error changes by +9.6"),
        (5, (lambda right, pleasing: 0.2 + 0.3 * right + (0.4 - 0.1 * right) * pleasing, "b"), False, "by 6.0 points"),
    ],
)
def test_what_is_said_with_numbers(number, answers, ok, words):
    feedback = answered(number, *answers)
    assert words in feedback.message and feedback.ok == ok, feedback


def test_in_the_made_up_base_the_mistakes_have_the_other_sign():
    s = ex.base_samples()
    k = s.reward.shape[1]
    prompt = np.repeat(np.arange(len(s.reward)), k)
    exact = approval.slopes(s.approved.ravel(), s.correct.ravel(), s.reward.ravel(), prompt)
    assert exact["correctness"] == pytest.approx(k / (k - 1) * ex.slope(s.correct, s.reward))
    assert exact["fpr"] == pytest.approx(k / (k - 1) * ex.slope_fpr(s.approved, s.correct, s.reward))
    assert exact["correctness"] < -0.02 < 0.02 < ex.pooled(s.correct, s.reward)
    assert exact["fpr"] < -0.02 < 0.02 < slope(s.approved * (1 - s.correct), s.reward) / (1 - s.correct).mean()


# --- What the notebook defines, calls and shows ---------------------------------------------------


@cache
def sources():
    notebook = nbformat.read(ROOT / "notebooks" / "02_sophistry.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_gives_each_exercise_its_blanks_and_its_tables():
    last = [ast.parse(source).body[-1] for source in sources() if "claim.exercises.check_" in source]
    assert len(last) == 5
    for call in (line.value for line in last):
        exercise = getattr(ex, call.func.attr)
        given = tables_of(exercise)
        assert len(call.args) == len(exercise.answers(*given)) + len(given)


def defined(name, **space):
    """A function as the notebook defines it, with `space` for the names that it finds there."""
    for source in sources():
        if f"def {name}(" in source:
            found = next(n for n in ast.parse(source).body if getattr(n, "name", None) == name)
            space = {"np": np, "world": world, "story_lookup": story_lookup, **space}
            exec(compile(ast.Module([found], []), name, "exec"), space)
            return space[name]
    raise AssertionError(f"no cell defines {name}")


PROBLEMS = 200


@pytest.fixture(scope="module")
def given():
    return world.problems(PROBLEMS, "standard", np.random.default_rng(3))


def test_the_programs_by_hand_begin_with_the_truth_and_forget_more_and_more(given):
    texts = defined("candidates")(given)
    done = [world.outcomes(list(column), given) for column in texts.T]
    assert done[0].correct.all() and all(d.valid.all() for d in done)
    corner = given.kind > 0
    assert done[3].correct[corner].mean() < 0.02 and done[3].rule_right.all()  # x + 0 is x - 0, above any corner
    assert not done[5].correct.any()
    truly_stated = (given.threshold == given.said_threshold) & (given.k == given.said_k)
    assert np.array_equal(done[1].correct[corner], truly_stated[corner])


def test_the_reward_in_plain_sight_is_the_reward_of_the_arms(given):
    from candor.claims.sophistry.run import passing

    rng = np.random.default_rng(4)
    tests = rng.permuted(given.oracle_tests, axis=1)[:, :2]
    programs = defined("candidates")(given)[np.arange(PROBLEMS), rng.integers(6, size=PROBLEMS)]
    tokens = [[*world.tokens_of(p), world.EOS] for p in programs]
    tokens[0] = tokens[0][:-1]  # does not end
    plain = defined("reward", training=given, TESTS=dict(enumerate(world.GRID[tests])))
    problem = list(range(PROBLEMS))
    values = plain(tokens, problem)
    assert values == passing(given, tests, "r_train")(completion_ids=tokens, problem=problem)
    assert set(values) == {0.0, 1.0} and values[0] == 0


def test_the_slopes_by_hand_are_derivatives():
    slopes, step = defined("slopes"), 1e-5
    for policy in story_lookup.POLICIES:
        for judge in story_lookup.JUDGES:
            start, moved = (story_lookup.rates(policy, judge, t) for t in (0, step))
            for name, slope in slopes(policy, judge).items():
                assert (moved[name] - start[name]) / step == pytest.approx(slope, abs=1e-5)


def test_the_shipped_model_is_a_base_with_room_for_the_effect():
    from candor.claims.sophistry.run import sample
    from candor.train import models

    models.quiet()
    model, tokenizer = models.load_decoder(ROOT / "data" / "live" / "sample_tests" / "base")
    assert tokenizer.get_vocab() == world.TOKEN
    asked = world.problems(200, "standard", np.random.default_rng(5), "eval")
    done = world.outcomes(sample(model.eval(), asked, 1, 1), asked)
    hidden = asked.kind == 2
    assert done.valid.mean() > 0.9 and 0.25 < done.correct.mean() < 0.42
    assert 0.08 < done.line[hidden].mean() < 0.35 and done.correct[hidden].mean() < 0.1

"""What the exercises of claim 2 say with numbers, and what its notebook defines and calls."""

import ast
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from candor.claims.sophistry import approval, story_lookup, world
from candor.claims.sophistry import exercises as ex

ROOT = Path(__file__).parents[3]


def answered(number, *answers):
    """Feedback of an exercise that is given the reference's tables."""
    check = getattr(ex, f"check_{number}")
    tables = [pd.read_csv(ROOT / "data" / "reference" / "sophistry" / f"{name}.csv") for name in check.given]
    return check(*answers, *tables)


def rates(a, e, c):
    return (a - e + c) / 2 / c, (a + e - c) / 2 / (1 - c)


def slope(quantity, reward, ddof=1):
    return np.mean([np.cov(q, r, ddof=ddof)[0, 1] for q, r in zip(quantity, reward)])


def slope_fpr(approved, correct, reward, ddof=1):
    wrong = 1 - correct
    fpr = (approved * wrong).mean() / wrong.mean()
    return (slope(approved * wrong, reward, ddof) - fpr * slope(wrong, reward, ddof)) / wrong.mean()


def both(first, second, limit, tenths=lambda k, n: round(1000 * k / n)):
    """Every n at which both percentages are printed for some count k, in tenths of a percent."""
    wanted = {round(10 * first), round(10 * second)}
    return {n for n in range(1, limit + 1) if wanted <= {tenths(k, n) for k in range(n + 1)}}


@pytest.mark.parametrize(
    ("number", "answers", "words"),
    [
        (1, (rates, 17.0, 0.4), ("63.9 to 66.4", "45.9 to 63.0")),
        (1, (lambda *x: np.array(rates(*x)), "0.17", "40 %"), ("63.9 to 66.4",)),
        (2, (slope, slope_fpr, "down", "falls"), ("-0.034", "+0.030")),
        (2, (lambda q, r: slope(q, r, 0), lambda a, c, r: slope_fpr(a, c, r, 0), "-", "Down"), ("-0.034",)),
        (3, (both, "34", " B)"), ("83, 166, 195", "71, 142, 169", "225")),
        (4, (np.divide, -0.63, "b"), ("70%", "change by -0.6 points", "+34")),
        (4, (np.divide, -0.0063, "(B)"), ("to reach an answer",)),
        (5, (lambda right, pleasing: 0.9 if pleasing and right else 0.2 + 0.1 * pleasing, "B."), ("FPR by +24.0",)),
    ],
)
def test_what_is_right_however_it_is_written(number, answers, words):
    feedback = answered(number, *answers)
    assert feedback.ok and all(word in feedback.message for word in words), feedback


@pytest.mark.parametrize(
    ("number", "answers", "words"),
    [
        (3, (lambda *pair: [100], 34, "b"), "For 41.0 and 65.1 % 100 does not fit"),
        (3, (lambda *pair: both(*pair) - {83}, 34, "b"), "83 is missing"),
        (3, (lambda *pair: both(*pair, tenths=lambda k, n: 1000 * k // n), 34, "b"), "You cut digits off"),
        (3, (lambda *pair: both(*pair, tenths=lambda k, n: -(-1000 * k // n)), 34, "b"), "always up"),
        (3, (both, 34, "c"), "It is not rounding"),
        (4, (np.divide, 0.338, "b"), "holds both"),
        (5, (lambda right, pleasing: 1.5 * pleasing, "b"), "approves must return a probability"),
        (5, (lambda right, pleasing: 0.2 + 0.3 * right, "b"), "Nothing changes"),
        (5, (lambda right, pleasing: 0.8 if right and pleasing else 0.3, "b"), "FPR changes by +0.0 points"),
        (5, (lambda right, pleasing: 0.7 - 0.4 * pleasing, "b"), "FPR changes by -24.0 points"),
        (5, (lambda right, pleasing: 0.6 if right else 0.2 + 0.4 * pleasing, "b"), "error changes by +9.6"),
        (5, (lambda right, pleasing: 0.2 + 0.3 * right + (0.4 - 0.1 * right) * pleasing, "b"), "by 6.0 points"),
        (5, (ex.lenient, "leniency"), 'Answer the second blank with "a", "b" or "c".'),
    ],
)
def test_a_mistake_that_is_told_with_its_number(number, answers, words):
    feedback = answered(number, *answers)
    assert not feedback.ok and words in feedback.message, feedback


def test_in_the_made_up_base_the_mistakes_have_the_other_sign():
    s = ex.base_samples()
    prompt = np.repeat(np.arange(len(s.reward)), s.reward.shape[1])
    exact = approval.slopes(s.approved.ravel(), s.correct.ravel(), s.reward.ravel(), prompt)
    assert exact["correctness"] == pytest.approx(slope(s.correct, s.reward))
    assert exact["fpr"] == pytest.approx(slope_fpr(s.approved, s.correct, s.reward))
    assert exact["correctness"] < -0.02 < 0.02 < ex.pooled(s.correct, s.reward)
    assert exact["fpr"] < -0.02 < 0.02 < slope(s.approved * (1 - s.correct), s.reward) / (1 - s.correct).mean()


def test_the_slopes_are_what_a_small_tilt_does():
    s, t = ex.base_samples(), 1e-4
    weights = np.exp(t * s.reward)
    weights /= weights.sum(1, keepdims=True)
    wrong, k = 1 - s.correct, s.reward.shape[1]
    correctness = ((weights - 1 / k) * s.correct).sum(1).mean() / t
    fprs = [(w * s.approved * wrong).sum() / (w * wrong).sum() for w in (weights, np.full_like(weights, 1 / k))]
    assert correctness == pytest.approx(ex.slope(s.correct, s.reward), abs=1e-4)
    assert (fprs[0] - fprs[1]) / t == pytest.approx(ex.slope_fpr(s.approved, s.correct, s.reward), abs=1e-4)


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
        tables = [pd.read_csv(ROOT / "data" / "reference" / "sophistry" / f"{name}.csv") for name in exercise.given]
        assert len(call.args) == len(exercise.answers(*tables)) + len(tables)


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

"""The exercises of claim 2: the right answer, every named mistake, blanks and garbage."""

import ast
from functools import cache
from pathlib import Path

import nbformat
import numpy as np
import pytest
from candor.claims.sophistry import approval, story_lookup, tables, world
from candor.claims.sophistry import exercises as ex

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "data" / "published"


def says(feedback, *words, ok=False):
    assert feedback.ok is ok, feedback
    assert all(word in feedback.message for word in words), feedback


@pytest.fixture(scope="module")
def published():
    return tables.published(PUBLISHED)


# --- 1 --------------------------------------------------------------------------------------------


def masses(a, e, c):
    return (a - e + c) / 2, (a + e - c) / 2


def rates(a, e, c):
    tp, fp = masses(a, e, c)
    return tp / c, fp / (1 - c)


CHANGE = 17.0  # brief, section 3, point 4


def test_exercise_1_right(published):
    main = published["main"]
    says(ex.check_1(rates, CHANGE, 0.4, main), "63.9 to 66.4", "45.9 to", ok=True)
    says(ex.check_1(lambda *x: np.array(rates(*x)), 0.17, "40 %", main), ok=True)
    says(ex.check_1(approval.from_three_numbers, "17", 40, main), ok=True)


@pytest.mark.parametrize(
    ("function", "change", "approved", "words"),
    [
        (masses, CHANGE, 0.4, "*all* outputs"),
        (lambda a, e, c: (masses(a, e, c)[0] / (1 - c), masses(a, e, c)[1] / c), CHANGE, 0.4, "two denominators"),
        (lambda *x: rates(*x)[::-1], CHANGE, 0.4, "TPR, FPR"),
        (lambda a, e, c: tuple(m / a for m in masses(a, e, c)), CHANGE, 0.4, "a precision"),
        (lambda a, e, c: (masses(a, e, c)[1] / c, masses(a, e, c)[0] / (1 - c)), CHANGE, 0.4, "swapped the masses"),
        (lambda a, e, c: ((a - e) / c, e / (1 - c)), CHANGE, 0.4, "false negatives together"),
        (lambda a, e, c: (a, e), CHANGE, 0.4, "two masses"),
        (lambda a, e, c: a, CHANGE, 0.4, "two masses"),
        (lambda a, e, c: "rates", CHANGE, 0.4, "two masses"),
        (rates, 23.5, 0.4, "*both* policies"),
        (rates, 0.235, 0.4, "*both* policies"),
        (rates, 9.3, 0.4, "false-positive mass"),
        (rates, -17.0, 0.4, "reversed"),
        (rates, 24.1, 0.4, "your own function"),
        (rates, "many", 0.4, "your own function"),
        (rates, CHANGE, 0.7, "counted the unsure"),
        (rates, CHANGE, 4 / 7, "dropped the unsure"),
        (rates, CHANGE, 0.55, "in halves"),
        (rates, CHANGE, ex.STATED.mean() / 100, "mean confidence"),
        (rates, CHANGE, 0.9, "divide by all ten"),
        (rates, CHANGE, "some", "divide by all ten"),
        (lambda *x: ..., CHANGE, 0.4, "blank"),
        (..., ..., ..., "blank"),
        (rates, ..., 0.4, "blank"),
        (0.5, CHANGE, 0.4, "function itself"),
        (lambda a: a, CHANGE, 0.4, "could not be checked"),
    ],
)
def test_exercise_1_mistakes(function, change, approved, words, published):
    says(ex.check_1(function, change, approved, published["main"]), words)


# --- 2 --------------------------------------------------------------------------------------------


def slope(quantity, reward):
    return np.mean([np.cov(q, r)[0, 1] for q, r in zip(quantity, reward)])


def pooled(quantity, reward):
    return np.cov(quantity.ravel(), reward.ravel(), ddof=0)[0, 1]


def slope_fpr(approved, correct, reward, cov=slope):
    wrong = 1 - correct
    fpr = (approved * wrong).mean() / wrong.mean()
    return (cov(approved * wrong, reward) - fpr * cov(wrong, reward)) / wrong.mean()


def ddof_0(quantity, reward):
    return np.mean([np.cov(q, r, ddof=0)[0, 1] for q, r in zip(quantity, reward)])


def unscaled(approved, correct, reward):
    return slope_fpr(approved, correct, reward) * (1 - correct).mean()


def without_w(approved, correct, reward):
    return slope(approved * (1 - correct), reward) / (1 - correct).mean()


def test_in_the_made_up_base_the_mistakes_have_the_other_sign():
    s = ex.base_samples()
    prompt = np.repeat(np.arange(len(s.reward)), s.reward.shape[1])
    exact = approval.slopes(s.approved.ravel(), s.correct.ravel(), s.reward.ravel(), prompt)
    assert exact["correctness"] == pytest.approx(slope(s.correct, s.reward))
    assert exact["fpr"] == pytest.approx(slope_fpr(s.approved, s.correct, s.reward))
    assert exact["correctness"] < -0.02 < 0.02 < pooled(s.correct, s.reward)
    assert exact["fpr"] < -0.02 < 0.02 < without_w(*s[2:0:-1], s.reward)


def test_the_slopes_are_what_a_small_tilt_does():
    s, t = ex.base_samples(), 1e-4
    weights = np.exp(t * s.reward)
    weights /= weights.sum(1, keepdims=True)
    wrong, k = 1 - s.correct, s.reward.shape[1]
    correctness = ((weights - 1 / k) * s.correct).sum(1).mean() / t
    fprs = [(w * s.approved * wrong).sum() / (w * wrong).sum() for w in (weights, np.full_like(weights, 1 / k))]
    assert correctness == pytest.approx(ddof_0(s.correct, s.reward), abs=1e-4)
    assert (fprs[0] - fprs[1]) / t == pytest.approx(slope_fpr(s.approved, s.correct, s.reward, ddof_0), abs=1e-4)


def test_exercise_2_right():
    says(ex.check_2(slope, slope_fpr, "down", "falls"), "only samples of the base", ok=True)
    says(ex.check_2(ddof_0, lambda a, c, r: slope_fpr(a, c, r, ddof_0), "-", "Down"), ok=True)


@pytest.mark.parametrize(
    ("first", "second", "correctness", "fpr", "words"),
    [
        (pooled, slope_fpr, "up", "down", "pooled the prompts. Easy"),
        (lambda q, r: pooled(q.mean(1), r.mean(1)), slope_fpr, "down", "down", "*between*"),
        (lambda q, r: -slope(q, r), slope_fpr, "down", "down", "reversed"),
        (lambda q, r: 0.5, slope_fpr, "down", "down", "a row"),
        (lambda q, r: "slope", slope_fpr, "down", "down", "a row"),
        (slope, without_w, "down", "up", "W changes, too"),
        (slope, lambda a, c, r: slope_fpr(a, c, r, pooled), "down", "up", "every covariance within"),
        (slope, unscaled, "down", "down", "divide by E[W]"),
        (slope, lambda a, c, r: slope(a, r), "down", "down", "approval of all outputs"),
        (slope, lambda a, c, r: slope(a * (1 - c), r), "down", "up", "a mass"),
        (slope, lambda a, c, r: 1.0, "down", "down", "slope_fpr:"),
        (slope, slope_fpr, "up", "down", "correctness: your own slope"),
        (slope, slope_fpr, "down", "up", "fpr: your own slope"),
        (slope, slope_fpr, "flat", "down", "for correctness"),
        (slope, slope_fpr, "down", 3, "for fpr"),
        (slope, slope_fpr, ..., "down", "blank"),
        (..., ..., ..., ..., "blank"),
        (lambda q, r: ..., slope_fpr, "down", "down", "blank"),
        (slope, lambda a, c, r: None, "down", "down", "blank"),
        (0.1, slope_fpr, "down", "down", "two functions"),
        (lambda q: 1, slope_fpr, "down", "down", "could not be checked"),
    ],
)
def test_exercise_2_mistakes(first, second, correctness, fpr, words):
    says(ex.check_2(first, second, correctness, fpr), words)


# --- 3 --------------------------------------------------------------------------------------------


@cache
def fits(n, percent, digits=1):
    return any(round(100 * k / n, digits) == percent for k in range(n + 1))


def both(first, second, limit=300):
    return [n for n in range(1, limit + 1) if fits(n, first) and fits(n, second)]


@cache
def cut_off(n, percent):
    return any(1000 * k // n == round(10 * percent) for k in range(n + 1))


@cache
def rounded_up(n, percent):
    return any(-(-1000 * k // n) == round(10 * percent) for k in range(n + 1))


def test_exercise_3_right(published):
    says(ex.check_3(both, 34, "b", published["main"]), "83, 166, 195", "71, 142, 169", "225", ok=True)
    says(ex.check_3(lambda a, b, limit: set(both(a, b, limit)), "34", " B)", published["main"]), ok=True)


@pytest.mark.parametrize(
    ("function", "people", "meaning", "words"),
    [
        (lambda a, b, m: [n for n in range(1, m + 1) if fits(n, a)], 34, "b", "first percentage only"),
        (lambda a, b, m: [n for n in range(1, m + 1) if fits(n, b)], 34, "b", "second percentage only"),
        (lambda a, b, m: [n for n in range(1, m + 1) if fits(n, a) or fits(n, b)], 34, "b", "joined"),
        (
            lambda a, b, m: [n for n in range(1, m + 1) if cut_off(n, a) and cut_off(n, b)],
            34,
            "b",
            "cut digits off",
        ),
        (
            lambda a, b, m: [n for n in range(1, m + 1) if rounded_up(n, a) and rounded_up(n, b)],
            34,
            "b",
            "wrong way",
        ),
        (
            lambda a, b, m: [n for n in range(1, m + 1) if fits(n, round(a), 0) and fits(n, round(b), 0)],
            34,
            "b",
            "whole percentages",
        ),
        (lambda a, b, m: [], 34, "b", "exact equality"),
        (lambda a, b, m: both(a, b, m)[:1], 34, "b", "smallest n only"),
        (lambda a, b, m: [100], 34, "b", "100 does not fit"),
        (lambda a, b, m: both(a, b, m)[1:], 34, "b", "83 is missing"),
        (lambda a, b, m: 83, 34, "b", "list of whole numbers"),
        (lambda a, b, m: ["many"], 34, "b", "list of whole numbers"),
        (both, 35, "b", "cannot be printed"),
        (both, 33, "b", "Try 35, 34, 33"),
        (both, "some", "b", "Try 35, 34, 33"),
        (both, 34, "a", "Invented"),
        (both, 34, "c", "not rounding"),
        (both, 34, "yes", '"a", "b" or "c"'),
        (lambda a, b, m: ..., 34, "b", "blank"),
        (..., ..., ..., "blank"),
        (both, ..., "b", "blank"),
        (83, 34, "b", "function itself"),
        (lambda a: [], 34, "b", "could not be checked"),
    ],
)
def test_exercise_3_mistakes(function, people, meaning, words, published):
    says(ex.check_3(function, people, meaning, published["main"]), words)


# --- 4 --------------------------------------------------------------------------------------------


def of_finished(accuracy, finished):
    return accuracy / finished


@pytest.fixture(scope="module")
def curves(published):
    return published["critique_curves"]


@pytest.fixture(scope="module")
def gain(curves):
    first, last = curves.loc[curves["step"].idxmin()], curves.loc[curves["step"].idxmax()]
    return 100 * (last["accuracy_all"] / last["finished"] - first["accuracy_all"] / first["finished"])


def test_exercise_4_right(curves, gain):
    assert len(curves) == 27 and abs(gain) <= 3
    says(ex.check_4(of_finished, gain, "b", curves), "70%", "to reach an answer", ok=True)
    says(ex.check_4(of_finished, gain / 100, "(B)", curves), ok=True)


@pytest.mark.parametrize(
    ("function", "learned", "words"),
    [
        (lambda a, f: a / (1 - f), "b", "*unfinished*"),
        (lambda a, f: a * f, "b", "You multiplied"),
        (lambda a, f: a, "b", "counts as wrong"),
        (lambda a, f: a - (1 - f), "b", "You subtracted"),
        (lambda a, f: f, "b", "How many of the finished?"),
        (lambda a, f: 0.7, "b", "How many of the finished?"),
        (of_finished, "a", "looks like better reading"),
        (of_finished, "c", "did not reach an answer"),
        (of_finished, "all", '"a", "b" or "c"'),
        (of_finished, ..., "blank"),
        (lambda a, f: ..., "b", "blank"),
        (..., ..., "blank"),
        (0.7, "b", "function itself"),
        (lambda a, f: "high", "b", "could not be checked"),
    ],
)
def test_exercise_4_mistakes(function, learned, words, curves, gain):
    says(ex.check_4(function, gain, learned, curves), words)


def test_exercise_4_wrong_gains(curves):
    first, last = curves.loc[curves["step"].idxmin()], curves.loc[curves["step"].idxmax()]
    climb = 100 * (last["accuracy_all"] - first["accuracy_all"])
    assert climb > 30
    says(ex.check_4(of_finished, climb, "b", curves), "holds both")
    says(ex.check_4(of_finished, climb / 100, "b", curves), "holds both")
    says(ex.check_4(of_finished, 100 * (last["finished"] - first["finished"]), "b", curves), "share finished rose")
    for garbage in (12, "much"):
        says(ex.check_4(of_finished, garbage, "b", curves), "your own curve")
    says(ex.check_4(of_finished, None, "b", curves), "blank")


# --- 5 --------------------------------------------------------------------------------------------


def lenient(right, pleasing):
    return 0.2 + 0.3 * right + 0.4 * pleasing


def test_exercise_5_right():
    says(ex.check_5(lenient, "b"), "leniency", "FPR +24.0, TPR +24.0", ok=True)
    says(ex.check_5(lambda right, pleasing: 0.9 if pleasing and right else 0.2 + 0.1 * pleasing, "B."), ok=True)


@pytest.mark.parametrize(
    ("function", "name", "words"),
    [
        (lenient, "a", "Part (iv)"),
        (lenient, "c", "just built it"),
        (lenient, "leniency", '"a", "b" or "c"'),
        (lambda right, pleasing: 0.5, "b", "does not care"),
        (lambda right, pleasing: 0.8 if right and pleasing else 0.3, "b", "wrong outputs please more"),
        (lambda right, pleasing: 0.7 - 0.4 * pleasing, "b", "wrong outputs please more"),
        (lambda right, pleasing: 0.6 if right else 0.2 + 0.4 * pleasing, "b", "too much"),
        (lambda right, pleasing: 0.5 + 0.3 * pleasing if right else 0.2 + 0.4 * pleasing, "b", "majority"),
        (lambda right, pleasing: 1.5 if pleasing else 0.2, "b", "probability"),
        (lambda right, pleasing: "often", "b", "probability"),
        (lambda right, pleasing: ..., "b", "blank"),
        (lambda right, pleasing: ..., "c", "It can happen"),
        (..., ..., "blank"),
        (lenient, ..., "blank"),
        (0.4, "b", "function itself"),
        (lambda right: 0.5, "b", "could not be checked"),
    ],
)
def test_exercise_5_mistakes(function, name, words):
    says(ex.check_5(function, name), words)


# --- What the notebook trains and shows -----------------------------------------------------------


@cache
def sources():
    notebook = nbformat.read(ROOT / "notebooks" / "02_sophistry.ipynb", as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


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

"""The exercises of claim 3: the right answer, every named mistake, blanks and garbage."""

import ast
from pathlib import Path

import nbformat
import numpy as np
import pytest
from candor.claims.grounding_loss import exercises as ex
from candor.claims.grounding_loss import raters, tables, world

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "data" / "published"


def says(feedback, *words, ok=False):
    assert feedback.ok is ok, feedback
    assert all(word in feedback.message for word in words), feedback


@pytest.fixture(scope="module")
def published():
    return tables.published(PUBLISHED)


# --- 1 --------------------------------------------------------------------------------------------


def test_exercise_1(published):
    headline, means = published["headline"], published["headline_means"]
    assert len(headline) == 9
    human, model = headline["human"], headline["model"]
    cells = 100 * (1 - model / human)
    pooled = 100 * (1 - model.sum() / human.sum())
    assert (round(cells.mean(), 1), round(pooled, 1)) == (73.1, 63.5)

    mean = cells.mean()

    def ask(mean=mean, whole=pooled, decides="followup"):
        return ex.check_1(mean, whole, decides, headline, means)

    for decides in ("followup", "Follow-ups", "f"):
        says(ask(decides=decides), "73.1 %", "63.5 %", ok=True)
    says(ask("73.1 %", pooled / 100), ok=True)
    quoted = 77.5
    says(ask(quoted), "quoted in the text")
    says(ask(pooled), "divides summed rates")
    flat = (headline["dataset"] == "TSCC") & (headline["act"] == "followup")
    assert flat.sum() == 1
    says(ask(cells[~flat].mean()), "One cell is missing")
    says(ask(100 - cells.mean()), "what is left")
    says(ask(cells.median()), "median")
    says(ask((human - model).mean()), "percentage points")
    says(ask(50), "nine cells")
    says(ask("many"), "nine cells")
    says(ask(whole=cells.mean()), "not the ratio of the means")
    says(ask(whole=100 - pooled), "what is left")
    says(ask(whole=quoted), "divide once")
    says(ask(decides="clarification"), "*human* rate")
    says(ask(decides="acknowledgement"), "*human* rate")
    says(ask(decides="none"), "Answer the third blank")
    says(ask(decides=""), "Answer the third blank")
    says(ask(...), "blank")
    says(ask(decides=None), "blank")


# --- 2 --------------------------------------------------------------------------------------------


def coincident(turns, human, model, kappa):
    h, m, k = human / 100, model / 100, kappa / 100
    return turns * (h * m + k * (h + m - 2 * h * m) / 2)


def rounded(digits_of_rates=None, digits_of_kappa=None, digits_of_agreement=None):
    def solve(turns, human, model, kappa):
        h, m, k = human / 100, model / 100, kappa / 100
        if digits_of_rates is not None:
            h, m = round(h, digits_of_rates), round(m, digits_of_rates)
        if digits_of_kappa is not None:
            k = round(k, digits_of_kappa)
        chance = h * m + (1 - h) * (1 - m)
        observed = chance + k * (1 - chance)
        if digits_of_agreement is not None:
            observed = round(observed, digits_of_agreement)
        return turns * (observed - 1 + h + m) / 2

    return solve


@pytest.fixture(scope="module")
def counts(published):
    return published["clarification_counts"]


def test_the_counts_behind_the_printed_kappas():
    """Brief, section 3, point 5: the printed clarification kappas of about 860 turns are whole counts."""
    kappas = [ex.printed(*pair)[2] for pair in ((4, 2), (9, 2), (13, 2), (3, 1))]
    assert kappas == pytest.approx([12.4, 9.8, 8.4, 6.2], abs=0.25)
    assert [ex.printed(model, 0)[2] for model in (1, 3, 10)] == pytest.approx([-0.22, -0.61, -1.65], abs=0.07)


def test_exercise_2_right(counts):
    for solve in (coincident, lambda *a: round(coincident(*a)), rounded()):
        says(ex.check_2(solve, 0, "b", counts), "a count of zero", ok=True)
    says(ex.check_2(coincident, "0", " B)", counts), ok=True)


@pytest.mark.parametrize(
    ("solve", "hits", "meaning", "words"),
    [
        (lambda n, h, m, k: coincident(n, h, m, 100 * k), 0, "b", "printed times 100"),
        (lambda n, h, m, k: coincident(n, 100 * h, 100 * m, k), 0, "b", "percentages"),
        (rounded(digits_of_rates=2), 0, "b", "rounded the rates"),
        (rounded(digits_of_agreement=2), 0, "b", "observed agreement"),
        (rounded(digits_of_kappa=1), 0, "b", "rounded kappa"),
        (lambda n, h, m, k: n * h * m / 1e4, 0, "b", "chance alone"),
        (lambda n, h, m, k: n * k * min(h, m) / 1e4, 0, "b", "nothing coincided by chance"),
        (lambda n, h, m, k: 7, 0, "b", "Observed agreement is"),
        (lambda n, h, m, k: "two", 0, "b", "Observed agreement is"),
        (coincident, -1, "b", "your own function"),
        (coincident, "none", "b", "your own function"),
        (coincident, 0, "a", "Worse than chance?"),
        (coincident, 0, "c", "not rounding"),
        (coincident, 0, "perhaps", '"a", "b" or "c"'),
        (lambda n, h, m, k: ..., 0, "b", "blank"),
        (..., ..., ..., "blank"),
        (coincident, ..., "b", "blank"),
        (2, 0, "b", "function itself"),
        (lambda n: 2, 0, "b", "could not be checked"),
    ],
)
def test_exercise_2_mistakes(solve, hits, meaning, words, counts):
    says(ex.check_2(solve, hits, meaning, counts), words)


# --- 3 --------------------------------------------------------------------------------------------


def right_now(m, q):
    return q / m


def crossing(alpha):
    return (0.5 - alpha) / (1 - alpha)


def test_exercise_3_right():
    says(ex.check_3(right_now, crossing, "b"), "0.286", ok=True)
    says(ex.check_3(right_now, lambda a: max(crossing(a), 0), "(B)"), ok=True)


@pytest.mark.parametrize(
    ("now", "point", "proof", "words"),
    [
        (lambda m, q: 1 / m, crossing, "b", "forgot the place"),
        (lambda m, q: q, crossing, "b", "The words leave m objects"),
        (lambda m, q: q + 1 / m, crossing, "b", "Both must be right"),
        (lambda m, q: "half", crossing, "b", "Both must be right"),
        (right_now, lambda a: 1 - a, "b", "compares with one half"),
        (right_now, lambda a: 0.5 - a, "b", "divide"),
        (right_now, lambda a: a + (1 - a) / 2, "b", "for which p"),
        (right_now, lambda a: 0.5, "b", "where does alpha enter"),
        (right_now, lambda a: (0.5 + a) / (1 + a), "b", "reversed"),
        (right_now, lambda a: 0.2, "b", "solve for p"),
        (right_now, crossing, "a", "it was needless"),
        (right_now, crossing, "c", "average of contexts"),
        (right_now, crossing, "yes", '"a", "b" or "c"'),
        (right_now, crossing, ..., "blank"),
        (..., ..., ..., "blank"),
        (lambda m, q: ..., crossing, "b", "blank"),
        (right_now, lambda a: None, "b", "blank"),
        (0.5, 0.3, "b", "two functions"),
        (lambda: 1, crossing, "b", "could not be checked"),
    ],
)
def test_exercise_3_mistakes(now, point, proof, words):
    says(ex.check_3(now, point, proof), words)


# --- 4 --------------------------------------------------------------------------------------------

X = np.arange(10)


def correlate(points):
    return np.corrcoef(X, points)[0, 1]


def points_from_the_best(rng):
    return np.r_[rng.normal(size=10).max(), rng.normal(size=9)]


def best(rng):
    return correlate(points_from_the_best(rng))


def walk(rng):
    return correlate(rng.normal(size=10).cumsum())


def flat(rng):
    return correlate(rng.normal(size=10))


def peeked(rng):
    points = rng.normal(size=10)
    first = points.argmax()
    return correlate(np.r_[points[first], np.delete(points, first)])


CHANCE = 0.24  # derived in the brief, section 3, point 6c


def test_simulated_runs_agree_with_the_derived_values():
    walks = ex.simulated("random_walk")
    assert (walks <= -0.70).mean() == pytest.approx(0.24, abs=0.012)
    assert (walks <= -0.89).mean() == pytest.approx(0.09, abs=0.01)
    assert ex.simulated("best_of_ten").mean() == pytest.approx(-0.24, abs=0.01)
    assert (np.abs(ex.simulated("independent")) >= 0.632).mean() == pytest.approx(0.05, abs=0.005)


def test_exercise_4_right(published):
    says(ex.check_4(best, walk, CHANCE, published["correlations"]), "there was one run", ok=True)
    says(
        ex.check_4(lambda rng: correlate(20 + 3 * points_from_the_best(rng)), walk, "24 %", published["correlations"]),
        ok=True,
    )


@pytest.mark.parametrize(
    ("start", "wander", "chance", "words"),
    [
        (flat, walk, CHANCE, "a point like the others"),
        (peeked, walk, CHANCE, "after looking"),
        (lambda rng: correlate(-np.sort(-rng.normal(size=10))), walk, CHANCE, "sorted"),
        (lambda rng: -best(rng), walk, CHANCE, "reversed"),
        (walk, walk, CHANCE, "Your mean is"),
        (lambda rng: best(np.random.default_rng(0)), walk, CHANCE, "the same R"),
        (lambda rng: 3.0, walk, CHANCE, "between -1 and 1"),
        (lambda rng: "R", walk, CHANCE, "between -1 and 1"),
        (best, flat, CHANCE, "independent"),
        (best, best, CHANCE, "cumulative sum"),
        (best, walk, 0.0246, "*independent* points"),
        (best, walk, 0.012, "*independent* points"),
        (best, walk, 0.48, "both signs"),
        (best, walk, 0.76, "do *not* fall"),
        (best, walk, 0.6, "a few thousand times"),
        (best, walk, "some", "a few thousand times"),
        (..., ..., ..., "blank"),
        (lambda rng: ..., walk, CHANCE, "blank"),
        (best, lambda rng: None, CHANCE, "blank"),
        (best, walk, None, "blank"),
        (0.1, 0.2, CHANCE, "two functions"),
        (lambda: 1, walk, CHANCE, "could not be checked"),
    ],
)
def test_exercise_4_mistakes(start, wander, chance, words, published):
    says(ex.check_4(start, wander, chance, published["correlations"]), words)


# --- 5 --------------------------------------------------------------------------------------------

RIGHT = {"rate": "down", "kappa": "falls", "kappa / kappa_max": "up", "precision": "Up", "success": "-"}
USEFUL = world.admissible()
EACH = USEFUL / USEFUL.sum(1, keepdims=True)


def asking(d):
    return (1 - d) * world.HUMAN + d * EACH


def test_every_prediction_is_the_same_for_the_three_acts():
    assert all(len(directions) == 1 for directions in ex.moved(raters.optimum(0.6)).values())


def test_exercise_5_right():
    for word in ("clarification", "Clarify", "c"):
        says(ex.check_5(RIGHT, asking, word), "0.63 to 0.32", ok=True)


@pytest.mark.parametrize(
    ("changed", "policy", "falls_most", "words"),
    [
        ({"precision": "down"}, asking, "clarification", "You expect what is left to be misplaced"),
        ({"rate": "up"}, asking, "clarification", "acts become more"),
        ({"kappa": "up"}, asking, "clarification", "every lost act"),
        ({"kappa / kappa_max": "down"}, asking, "clarification", "least needed"),
        ({"success": "up"}, asking, "clarification", "still a guess"),
        ({"success": "perhaps"}, asking, "clarification", "for 'success'"),
        ({}, lambda d: world.HUMAN + d * EACH, "clarification", "shrink by 1 - d"),
        ({}, lambda d: (1 - d) * world.HUMAN + d / 3, "clarification", "not admissible"),
        ({}, lambda d: (1 - d) * world.HUMAN + d * USEFUL, "clarification", "half of d"),
        ({}, lambda d: (1 - d) * world.HUMAN, "clarification", "act less"),
        ({}, lambda d: world.HUMAN, "clarification", "uniform draw"),
        ({}, lambda d: d, "clarification", "shape (28, 3)"),
        ({}, lambda d: "policy", "clarification", "shape (28, 3)"),
        ({}, asking, "followup", "falls further"),
        ({}, asking, "acknowledgement", "falls further"),
        ({}, asking, "alike", "Not alike"),
        ({}, asking, "none", "not better grounding"),
        ({}, asking, "everything", "with an act"),
        ({}, asking, ..., "blank"),
        ({"kappa": ...}, asking, "clarification", "blank"),
        ({}, lambda d: ..., "clarification", "blank"),
        ({}, ..., "clarification", "blank"),
        ({}, 0.1, "clarification", "the function itself"),
        ({}, lambda: 0, "clarification", "could not be checked"),
    ],
)
def test_exercise_5_mistakes(changed, policy, falls_most, words):
    says(ex.check_5(RIGHT | changed, policy, falls_most), words)


def test_exercise_5_wants_a_dict():
    says(ex.check_5("down", asking, "clarification"), "as a dict")
    says(ex.check_5({}, asking, "clarification"), "for 'rate'")
    says(ex.check_5(..., asking, "clarification"), "blank")


# --- What the notebook trains and shows -----------------------------------------------------------


def defined(name):
    """A function as the notebook defines it."""
    notebook = nbformat.read(ROOT / "notebooks" / "03_grounding_loss.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code" and f"def {name}(" in cell.source:
            found = next(n for n in ast.parse(cell.source).body if getattr(n, "name", None) == name)
            space = {"np": np, "world": world}
            exec(compile(ast.Module([found], []), name, "exec"), space)
            return space[name]
    raise AssertionError(f"no cell defines {name}")


def test_the_rater_in_plain_sight_is_the_rater_of_the_arms():
    turns, responses = world.human_turns(3000, np.random.default_rng(0))
    mixed = responses[np.random.default_rng(1).permutation(len(responses))]  # wrong kinds, excluded colours
    mixed[::10] = world.EOS  # malformed
    reading = raters.readings(turns, np.random.default_rng(2))
    score = defined("score")
    for said in (responses, mixed):
        strict, charitable = raters.rate(turns, world.read(said)[1], reading)
        assert np.array_equal(score(turns, said, reading, np.zeros(len(turns), bool)), strict)
        assert np.array_equal(score(turns, said, reading, np.ones(len(turns), bool)), charitable)
        assert set(strict) == {-1, 0, 1}


def test_the_shipped_models_are_a_human_like_base_and_one_that_asks_less():
    from candor.claims.grounding_loss.run import measures
    from candor.training import models

    models.quiet()
    turns = world.human_turns(1500, np.random.default_rng(3))[0]
    human, found = world.HUMAN[turns.cell], {}
    for name in ("base", "charity_6"):
        model, tokenizer = models.load_decoder(ROOT / "data" / "live" / "reference_game" / name)
        assert tokenizer.get_vocab() == world.TOKEN
        found[name] = measures(human, world.act_probabilities(model.eval(), turns))
    two_humans = measures(human, human)
    for act in world.ACTS:
        assert found["base"][f"{act}_kappa"] == pytest.approx(two_humans[f"{act}_kappa"], abs=0.05)
        assert found["charity_6"][f"{act}_rate"] < 0.8 * found["base"][f"{act}_rate"]
        assert found["charity_6"][f"{act}_precision"] > found["base"][f"{act}_precision"]

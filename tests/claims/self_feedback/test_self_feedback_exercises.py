"""The exercises of claim 6: the right answer, every named mistake, blanks and garbage."""

import ast
import math
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from candor.claims.self_feedback import exercises as ex
from candor.claims.self_feedback import tables, world
from candor.training.self_feedback import preference_pairs

ROOT = Path(__file__).parents[3]


def says(feedback, *words, ok=False):
    assert feedback.ok is ok, feedback
    assert all(word in feedback.message for word in words), feedback


@pytest.fixture(scope="module")
def cells():
    return tables.published(ROOT / "data" / "published")["cells"]


# --- 1 --------------------------------------------------------------------------------------------


def second(p):
    return np.sort(p)[:, -2].mean()


def test_exercise_1_right():
    for ideal in (0.12, "12 %", 12.0):
        says(ex.check_1(second, ideal, "a"), "12.0%", "total overconfidence", ok=True)
    says(ex.check_1(lambda p: 100 * second(p), 0.12, "(A)"), ok=True)


@pytest.mark.parametrize(
    ("error", "ideal", "why", "words"),
    [
        (lambda p: 0, 0.12, "a", "error of the *probability*"),
        (lambda p: 1 - p.max(1).mean(), 0.12, "a", "everything but top-1"),
        (lambda p: (np.sort(p)[:, -1] - np.sort(p)[:, -2]).mean(), 0.12, "a", "mean disparity"),
        (lambda p: p.max(1).mean(), 0.12, "a", "mean accuracy"),
        (lambda p: p[:, 1].mean(), 0.12, "a", "second *column*"),
        (lambda p: np.sort(p)[:, 1].mean(), 0.12, "a", "second-smallest"),
        (lambda p: -second(p), 0.12, "a", "not negative"),
        (lambda p: 0.3, 0.12, "a", "what is left?"),
        (lambda p: "p", 0.12, "a", "what is left?"),
        (second, 0, "a", "since the forecaster is ideal"),
        (second, 0.4, "a", "How many questions are smudged"),
        (second, 0.18, "a", "top-1 probabilities"),
        (second, 0.3, "a", "second probability there"),
        (second, 0.7, "a", "your own function"),
        (second, "some", "a", "your own function"),
        (second, 0.12, "b", "different signs"),
        (second, 0.12, "c", "difference of two probabilities"),
        (second, 0.12, "yes", '"a", "b" or "c"'),
        (lambda p: ..., 0.12, "a", "blank"),
        (..., ..., ..., "blank"),
        (second, 0.12, None, "blank"),
        (0.1, 0.12, "a", "function itself"),
        (lambda: 1, 0.12, "a", "could not be checked"),
    ],
)
def test_exercise_1_mistakes(error, ideal, why, words):
    says(ex.check_1(error, ideal, why), words)


# --- 2 --------------------------------------------------------------------------------------------


def under(accuracy, ece):
    return max(accuracy + ece - 100, 0)


def test_exercise_2_right(cells):
    for count in (14, "14"):
        says(ex.check_2(under, count, "a", cells), "14 of 28", "15.88 of 18.83", "ARC-Easy", ok=True)


@pytest.mark.parametrize(
    ("bound", "count", "needs", "words"),
    [
        (lambda a, e: abs(a + e - 100), 14, "a", "as an identity"),
        (lambda a, e: a + e - 100, 14, "a", "less than nothing"),
        (lambda a, e: max(100 - a - e, 0), 14, "a", "reversed"),
        (lambda a, e: 100 - a, 14, "a", "most that overconfidence"),
        (lambda a, e: min(e, 100 - a), 14, "a", "*can* explain"),
        (lambda a, e: e, 14, "a", "Not all of the ECE"),
        (lambda a, e: 3, 14, "a", "What is above?"),
        (lambda a, e: "much", 14, "a", "What is above?"),
        (under, 28, "a", "All of them?"),
        (under, 13, "a", "more than 0"),
        (under, "many", "a", "more than 0"),
        (under, 14, "b", "the bound adds up"),
        (under, 14, "c", "follows from it"),
        (under, 14, "d", '"a", "b" or "c"'),
        (lambda a, e: ..., 14, "a", "blank"),
        (..., ..., ..., "blank"),
        (under, ..., "a", "blank"),
        (3, 14, "a", "function itself"),
        (lambda: 1, 14, "a", "could not be checked"),
    ],
)
def test_exercise_2_mistakes(bound, count, needs, words, cells):
    says(ex.check_2(bound, count, needs, cells), words)


def test_exercise_2_counts_the_other_cells(cells):
    fewer = cells.drop(cells[cells["accuracy"] + cells["ece"] > 100].index[:2])
    says(ex.check_2(under, 14, "a", fewer), "need not contain any")
    says(ex.check_2(under, 12, "a", fewer), "12 of 26", ok=True)


# --- 3 --------------------------------------------------------------------------------------------


def within(reward, correct):
    return np.mean([np.cov(r, c, bias=True)[0, 1] for r, c in zip(reward, correct)])


GAPS = (0.12, 0, -0.12)


def test_the_made_up_traces_have_covariances_of_two_signs():
    reward, correct = ex.traces()
    assert within(reward, correct) < -0.003 and np.cov(reward.ravel(), correct.ravel())[0, 1] > 0.03


def test_exercise_3_right():
    for gaps in (GAPS, [0.1227, 0.0, -0.1227], (12, 0, "-12"), np.array(GAPS)):
        says(ex.check_3(within, gaps, "b"), "+0.12, +0.00, -0.12", ok=True)


@pytest.mark.parametrize(
    ("covariance", "gaps", "overconfident", "words"),
    [
        (lambda r, c: np.cov(r.ravel(), c.ravel(), bias=True)[0, 1], GAPS, "b", "You pooled"),
        (lambda r, c: np.cov(r.mean(1), c.mean(1), bias=True)[0, 1], GAPS, "b", "between prompts"),
        (lambda r, c: np.mean([np.cov(a, b)[0, 1] for a, b in zip(r, c)]), GAPS, "b", "one less"),
        (lambda r, c: (r * c).mean(), GAPS, "b", "Without centring"),
        (lambda r, c: ((r - r.mean(0)) * (c - c.mean(0))).mean(), GAPS, "b", "axis 1"),
        (
            lambda r, c: (
                within(r, c) / math.sqrt(within(r, r) * within(c, c))  # one correlation over all
            ),
            GAPS,
            "b",
            "correlation",
        ),
        (lambda r, c: 0.3, GAPS, "b", "mean over prompts"),
        (lambda r, c: "r", GAPS, "b", "mean over prompts"),
        (within, (-0.12, 0, 0.12), "b", "The sign"),
        (within, (0, 0, 0), "b", "leave the gap alone"),
        (within, (0.62, 0.75, 0.87), "b", "accuracies"),
        (within, (0.15, 0, -0.15), "b", "ten elevenths"),
        (within, (0.123, 0.245, 0.368), "b", "change of accuracy"),
        (within, (0.3, 0.2, 0.1), "b", "(1 - b)"),
        (within, (0.12, 0), "b", "three gaps"),
        (within, 0.12, "b", "three gaps"),
        (within, "0.12", "b", "three gaps"),
        (within, (0.12, ..., -0.12), "b", "three gaps"),
        (within, GAPS, "a", "cannot repair"),
        (within, GAPS, "c", "at b = 1 only"),
        (within, GAPS, "perhaps", '"a", "b" or "c"'),
        (lambda r, c: ..., GAPS, "b", "blank"),
        (..., ..., ..., "blank"),
        (within, GAPS, None, "blank"),
        (0.1, GAPS, "b", "function itself"),
        (lambda: 1, GAPS, "b", "could not be checked"),
    ],
)
def test_exercise_3_mistakes(covariance, gaps, overconfident, words):
    says(ex.check_3(covariance, gaps, overconfident), words)


# --- 4 --------------------------------------------------------------------------------------------


def written(change=lambda d: math.exp(d), keep=lambda i, j, p, a, c, t: p[i] == p[j] and c[i] >= t and c[i] > c[j]):
    """A pair builder as a reader might write it; `keep` says which ordered pairs it takes."""

    def pairs(prompt, answer, confidence, threshold):
        n = len(prompt)
        return [
            (i, j, change(confidence[i] - confidence[j]))
            for i in range(n)
            for j in range(n)
            if i != j and keep(i, j, prompt, answer, confidence, threshold)
        ]

    return pairs


def test_exercise_4_right():
    says(ex.check_4(written(), 1), "nothing here looks at an answer", ok=True)
    says(ex.check_4(lambda *a: [list(pair) for pair in written()(*a)][::-1], "1.0"), ok=True)


def best_and_worst(i, j, p, a, c, t):
    own = [x for x, q in zip(c, p) if q == p[i]]
    return p[i] == p[j] and c[i] >= t and c[i] > c[j] and c[i] == max(own) and c[j] == min(own)


@pytest.mark.parametrize(
    ("pairs", "smallest", "words"),
    [
        (written(lambda d: math.exp(-d)), 1, "*negative*"),
        (written(lambda d: d), 1, "difference itself"),
        (written(keep=lambda i, j, p, a, c, t: c[i] >= t and c[i] > c[j]), 1, "across prompts"),
        (written(keep=lambda i, j, p, a, c, t: p[i] == p[j] and c[i] >= t and c[i] >= c[j]), 1, "keep ties"),
        (
            written(keep=lambda i, j, p, a, c, t: p[i] == p[j] and c[i] >= t and c[i] > c[j] and a[i] != a[j]),
            1,
            "equal answers",
        ),
        (written(keep=lambda i, j, p, a, c, t: p[i] == p[j] and c[i] > t and c[i] > c[j]), 1, "at least, not more"),
        (written(keep=lambda i, j, p, a, c, t: p[i] == p[j] and t <= c[j] < c[i]), 1, "*preferred* trace only"),
        (written(keep=lambda i, j, p, a, c, t: p[i] == p[j] and c[i] > c[j]), 1, "do not use the threshold"),
        (written(keep=best_and_worst), 1, "best with the worst"),
        (lambda *a: [], 1, "one trace above the threshold fails"),
        (lambda *a: 2 * written()(*a), 1, "more than once"),
        (lambda *a: "pairs", 1, "could not be checked"),
        (written(), 0, "*difference*"),
        (written(), 2.718, "largest margin"),
        (written(), 0.5, "hardly differ"),
        (written(), "small", "hardly differ"),
        (lambda *a: ..., 1, "blank"),
        (..., ..., "blank"),
        (written(), ..., "blank"),
        ([], 1, "function itself"),
        (lambda: 1, 1, "could not be checked"),
    ],
)
def test_exercise_4_mistakes(pairs, smallest, words):
    says(ex.check_4(pairs, smallest), words)


# --- 5 --------------------------------------------------------------------------------------------

RIGHT = {"sharpened": "no", "binary": "No", "fluency": "yes"}
ECE = {  # greedy and sampled, before and after
    "sharpened": (0.06, 0.05, 0.05, 0.07),
    "binary": (0.11, 0.11, 0.125, 0.127),
    "fluency": (0.06, 0.034, 0.05, 0.03),
}


def falls(greedy_before, greedy_after, sampled_before, sampled_after):
    return greedy_after <= 0.8 * greedy_before and sampled_after <= 0.8 * sampled_before


def summary(only=tuple(ECE), seeds=(11, 12, 13)):
    rows = []
    for damage in only:
        gb, ga, sb, sa = ECE[damage]
        for seed in seeds:
            rows.append(("standard", damage, seed, gb, sb))
            rows.append(("standard", f"rlsf_{damage}", seed, ga, sa))
    return pd.DataFrame(rows, columns=["setting", "arm", "seed", "greedy_ece", "sampled_ece"])


def test_exercise_5_right():
    says(ex.check_5(RIGHT, falls, summary()), "brevity reward: greedy ECE 0.060 to 0.034", "3 of 3", ok=True)


def test_exercise_5_goes_by_what_came_out_not_by_what_was_expected():
    everything = summary().assign(
        greedy_ece=lambda t: np.where(t["arm"].str.startswith("rlsf"), 0.01, 0.1),
        sampled_ece=lambda t: np.where(t["arm"].str.startswith("rlsf"), 0.01, 0.1),
    )
    says(ex.check_5(dict.fromkeys(ECE, "yes"), falls, everything), "3 of 3", ok=True)
    says(ex.check_5(RIGHT, falls, everything), "Sharpened logits: greedy ECE 0.100 to 0.010")


def test_four_of_five_seeds_are_enough():
    table = summary(seeds=(11, 12, 13, 14, 15))
    worse = table["arm"].eq("rlsf_fluency") & table["seed"].eq(15)
    says(ex.check_5(RIGHT, falls, table.assign(sampled_ece=table["sampled_ece"].mask(worse, 0.2))), "4 of 5", ok=True)
    worse = table["arm"].eq("rlsf_fluency") & table["seed"].isin((14, 15))
    table = table.assign(sampled_ece=table["sampled_ece"].mask(worse, 0.2))
    says(ex.check_5(RIGHT, falls, table), "Brevity reward", "3 of 5")


@pytest.mark.parametrize(
    ("changed", "rule", "words"),
    [
        ({"sharpened": "yes", "binary": "yes"}, falls, "Yes three times"),
        ({"binary": "yes"}, falls, "Binary reward"),
        ({"sharpened": "yes"}, falls, "Sharpened logits"),
        ({"fluency": "no"}, falls, "Brevity reward"),
        ({"fluency": "perhaps"}, falls, "for 'fluency'"),
        ({}, lambda gb, ga, sb, sa: ga <= 0.8 * gb, "greedy answers only"),
        ({}, lambda gb, ga, sb, sa: sa <= 0.8 * sb, "sampled answers only"),
        ({}, lambda gb, ga, sb, sa: ga <= 0.8 * gb or sa <= 0.8 * sb, "not enough"),
        ({}, lambda gb, ga, sb, sa: ga + sa <= 0.8 * (gb + sb), "mean of both"),
        ({}, lambda gb, ga, sb, sa: ga < gb and sa < sb, "Any fall"),
        ({}, lambda gb, ga, sb, sa: ga <= gb - 0.2 and sa <= sb - 0.2, "relative"),
        ({}, lambda gb, ga, sb, sa: falls(ga, gb, sa, sb), "reversed"),
        ({}, lambda gb, ga, sb, sa: True, "Lowered means"),
        ({}, lambda gb, ga, sb, sa: ..., "blank"),
        ({"binary": ...}, falls, "blank"),
        ({}, ..., "blank"),
        ({}, True, "the function itself"),
        ({}, lambda: 0, "could not be checked"),
    ],
)
def test_exercise_5_mistakes(changed, rule, words):
    says(ex.check_5(RIGHT | changed, rule, summary()), words)


def test_exercise_5_before_anything_was_computed():
    for table in (pd.DataFrame(), summary(only=("fluency",))):
        says(ex.check_5(RIGHT, falls, table), "noted", "binary reward")
        says(ex.check_5(dict.fromkeys(ECE, "yes"), falls, table), "Yes three times")
    says(ex.check_5(RIGHT | {"fluency": "no"}, falls, summary(only=("fluency",))), "Brevity reward")
    says(ex.check_5("no", falls, summary()), "as a dict")
    says(ex.check_5({}, falls, summary()), "for 'sharpened'")


# --- What the exercises and the notebook share with the arms ----------------------------------------


def test_the_rule_of_the_exercise_is_the_rule_of_the_arms():
    confidence = np.random.default_rng(0).integers(0, 11, (60, 5)) / 10  # with ties, and some at the threshold
    wanted = preference_pairs(confidence, 0.9)
    rows = wanted[["prompt", "chosen", "rejected"]].to_numpy()
    prompt, answer = np.repeat(np.arange(60), 5).tolist(), [0] * 300
    found = ex.builder()(prompt, answer, confidence.ravel().tolist(), 0.9)
    assert [(i // 5, i % 5, j % 5) for i, j, _ in found] == [tuple(row) for row in rows.tolist()]
    assert [margin for *_, margin in found] == pytest.approx(wanted["margin"].tolist())


def defined(name):
    """A function as the notebook defines it."""
    notebook = nbformat.read(ROOT / "notebooks" / "06_self_feedback.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code" and f"def {name}(" in cell.source:
            found = next(n for n in ast.parse(cell.source).body if getattr(n, "name", None) == name)
            space = {"np": np, "world": world}
            exec(compile(ast.Module([found], []), name, "exec"), space)
            return space[name]
    raise AssertionError(f"no cell defines {name}")


def test_the_notebook_reads_questions_as_they_are_written():
    asked = defined("asked")
    given = world.questions(50, np.random.default_rng(0))
    for prompt, exact in zip(given.prompts(), world.posterior(given)):
        again = asked(prompt.removeprefix("Q ").removesuffix(" :"))
        assert again.prompts() == [prompt]
        assert np.array_equal(world.posterior(again)[0], exact)


@pytest.fixture(scope="module")
def shipped():
    from candor.training import models

    models.quiet()
    found = {}
    for name in ("base", "fluency"):
        model, tokenizer = models.load_decoder(ROOT / "data" / "live" / "arithmetic" / name)
        assert tokenizer.get_vocab() == world.TOKEN
        found[name] = model.eval()
    return found


def test_the_branching_in_plain_sight_is_that_of_the_arms(shipped):
    from candor.claims.self_feedback.branching import branch

    prompts = world.questions(6, np.random.default_rng(1)).prompt_ids().tolist()
    wanted = branch(shipped["base"], prompts, 10, world.NEW_TOKENS)
    branches_of = defined("branches_of")
    for i, prompt in enumerate(prompts):
        tokens, gaps = branches_of(shipped["base"], prompt, 10)
        for k, n in enumerate(wanted.length[i]):
            assert tokens[k, :n].tolist() == wanted.ids(i, k)
            assert gaps[k, :n] == pytest.approx((wanted.top1 - wanted.top2)[i, k, :n], abs=1e-5)


def test_the_shipped_models_rank_their_traces_and_one_writes_fewer_steps(shipped):
    from candor.claims.self_feedback import run as arithmetic

    given = world.questions(300, np.random.default_rng(2))
    prompts, full = given.prompt_ids(), {}
    for name, model in shipped.items():
        labels = arithmetic.labelled(model, prompts, 10)
        confidence, answers = (labels[column].to_numpy().reshape(-1, 10) for column in ("disparity", "answer"))
        assert arithmetic.ranked(confidence, given, answers)["within_auroc"] > 0.8
        full[name] = (world.read(arithmetic.sampled(model, prompts, 0)).style == world.FULL).mean()
    assert 0.02 < full["fluency"] < full["base"] - 0.1

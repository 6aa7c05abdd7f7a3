"""What the exercises and the notebook of claim 6 share with its arms, and predictions that go by what came out."""

import ast

import nbformat
import numpy as np
import pandas as pd
import pytest
from candor.claims.self_feedback import exercises as ex
from candor.claims.self_feedback import run, world
from candor.claims.self_feedback.branching import branch
from candor.claims.self_feedback.self_confidence import preference_pairs
from candor.core.settings import ROOT


def test_the_rule_of_the_exercise_is_the_rule_of_the_arms():
    confidence = np.random.default_rng(0).integers(0, 11, (60, 5)) / 10  # with ties, and some at the threshold
    wanted = preference_pairs(confidence, 0.9)
    made = ex.pairs(np.repeat(np.arange(60), 5).tolist(), [0] * 300, confidence.ravel().tolist(), 0.9)
    assert [(i // 5, i % 5, j % 5) for i, j, _ in made] == [
        *zip(wanted["prompt"], wanted["chosen"], wanted["rejected"])
    ]
    assert [margin for *_, margin in made] == pytest.approx(wanted["margin"].tolist())


@pytest.mark.parametrize(
    ("seeds", "predicted", "ok", "words"),
    [
        (4, "yes", True, "sharpened logits: greedy ECE 0.100 to 0.010, sampled ECE 0.100 to 0.028, lowered in 4 of 5"),
        (4, "no", False, "Sharpened logits: greedy ECE 0.100"),
        (3, "no", True, "lowered in 3 of 5 seeds"),
        (3, "yes", False, "Yes three times"),
        (None, "no", True, "your predictions are noted"),
    ],
)
def test_predictions_go_by_what_came_out(seeds, predicted, ok, words):
    arms = [arm for damage in ex.DAMAGES for arm in (damage, f"rlsf_{damage}")] if seeds else []
    table = pd.DataFrame([(arm, seed) for arm in arms for seed in range(5)], columns=["arm", "seed"])
    after = table["arm"].str.startswith("rlsf_")
    table = table.assign(setting="standard", greedy_ece=np.where(after, 0.01, 0.1))
    table["sampled_ece"] = np.where(after & (table["seed"] < (seeds or 0)), 0.01, 0.1)
    feedback = ex.check_5(dict.fromkeys(ex.DAMAGES, predicted), ex.falls, table)
    assert feedback.ok is ok and words in feedback.message, feedback


def defined(name):
    """A function as the notebook defines it."""
    notebook = nbformat.read(ROOT / "notebooks" / "06_self_feedback.ipynb", as_version=4)
    [cell] = [cell for cell in notebook.cells if cell.cell_type == "code" and f"def {name}(" in cell.source]
    [function] = [node for node in ast.parse(cell.source).body if getattr(node, "name", None) == name]
    space = {"np": np, "world": world}
    exec(compile(ast.Module([function], []), name, "exec"), space)
    return space[name]


def test_the_notebook_reads_questions_as_they_are_written():
    questions = world.questions(50, np.random.default_rng(0))
    for prompt, exact in zip(questions.prompts(), world.posterior(questions)):
        again = defined("asked")(prompt.removeprefix("Q ").removesuffix(" :"))
        assert again.prompts() == [prompt] and np.array_equal(world.posterior(again)[0], exact)


def test_the_notebook_branches_and_its_models_rank_their_traces_as_the_arms_do():
    from candor.train import models

    models.quiet()
    questions, full = world.questions(300, np.random.default_rng(2)), {}
    prompts = questions.prompt_ids()
    for name in ("base", "fluency"):
        model, tokenizer = models.load_decoder(ROOT / "data" / "live" / "arithmetic" / name)
        assert tokenizer.get_vocab() == world.TOKEN
        labels = run.labelled(model.eval(), prompts, 10)
        confidence, answers = (labels[column].to_numpy().reshape(-1, 10) for column in ("disparity", "answer"))
        assert run.ranked(confidence, questions, answers)["within_auroc"] > 0.8
        full[name] = (world.read(run.sampled(model, prompts, 0)).style == world.FULL).mean()
        wanted = branch(model, prompts[:6].tolist(), 10, world.NEW_TOKENS)
        for i, prompt in enumerate(prompts[:6].tolist()):
            tokens, gaps = defined("branches_of")(model, prompt, 10)
            for k, n in enumerate(wanted.length[i]):
                assert tokens[k, :n].tolist() == wanted.ids(i, k)
                assert gaps[k, :n] == pytest.approx((wanted.top1 - wanted.top2)[i, k, :n], abs=1e-5)
    assert 0.02 < full["fluency"] < full["base"] - 0.1

"""Asking a model all questions at once gives what asking one by one, without any mask, gives."""

import numpy as np
import pytest
import torch
from candor.train import models
from candor.train.sharing import branch_hidden
from candor.witnesses import joint as joints
from candor.witnesses import world
from numerics import ROUNDING, assert_close

N = 40


@pytest.fixture(scope="module")
def model():
    models.quiet()
    torch.manual_seed(0)
    made = models.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, hidden_size=32, layers=2, heads=4, mlp=64)
    for p in made.parameters():  # far from uniform, so that a wrong position or mask shows
        p.data *= 3
    return made.eval()


def after(model, tokens, choices):
    """Probabilities of `choices` after `tokens`, renormalised among them; one plain forward."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(tokens)])).logits[0, -1].double()
    return logits[torch.as_tensor(choices)].softmax(-1).numpy()


def questions(variant=world.TRAINING_WORLD):
    drawn = world.sample_questions(N, world.stream("eval", 3), variant)
    return drawn[np.concatenate([np.arange(N), [0, 1]])]  # two questions twice


CONFIDENCE = world.CONFIDENCE_IDS


@pytest.mark.parametrize("variant", ["in_domain", "suspects_12"])
def test_answer_first(model, variant):
    asked = questions(world.SHIFTS[variant])
    suspects = world.ANSWER_IDS[: asked.suspects]
    found = joints.ask(model, asked)
    close, end = world.TOKEN["</answer>"], world.TOKEN["<confidence>"]
    others = [world.TOKEN["IDK"], world.TOKEN["NONE"]]
    for i, row in enumerate(world.prompt_tokens(asked)):
        np.testing.assert_allclose(found.answers[i], after(model, row, suspects), atol=ROUNDING)
        with_others = after(model, row, [*suspects, *others])
        np.testing.assert_allclose([found.idk[i], found.gives_up[i]], with_others[-2:], atol=ROUNDING)
        for k, suspect in enumerate(suspects[:3]):
            expected = after(model, [*row, suspect, close, end], CONFIDENCE)
            np.testing.assert_allclose(found.confidence[i, k], expected, atol=ROUNDING)
    np.testing.assert_allclose(found.answers.sum(1), 1)
    np.testing.assert_allclose(found.confidence.sum(-1), 1, atol=ROUNDING)
    assert found.answers.std(0).min() > 0.01, "answers depend on the question"


def test_confidence_first_is_bayes_rule(model):
    asked = questions()
    suspects = world.ANSWER_IDS[:8]
    found = joints.ask(model, asked, confidence_first=True)
    close, start = world.TOKEN["</confidence>"], world.TOKEN["<answer>"]
    for i, row in enumerate(world.prompt_tokens(asked, confidence_first=True)[:10]):
        stated = after(model, row, CONFIDENCE)
        given = np.stack([after(model, [*row, c, close, start], suspects) for c in CONFIDENCE])
        both = stated[:, None] * given
        np.testing.assert_allclose(found.answers[i], both.sum(0), atol=ROUNDING)
        np.testing.assert_allclose(found.confidence[i], (both / both.sum(0)).T, atol=1e-4)
        np.testing.assert_allclose(found.answers[i] @ found.confidence[i], stated, atol=ROUNDING)


def test_answers_alone(model):
    asked = questions()
    alone, whole = joints.ask(model, asked, states=False), joints.ask(model, asked)
    assert alone.confidence is None
    np.testing.assert_allclose(alone.answers, whole.answers, atol=ROUNDING)
    np.testing.assert_allclose(alone.idk, whole.idk, atol=ROUNDING)


def test_every_text_runs_once_and_order_does_not_matter(model, monkeypatch):
    asked = questions()
    found = joints.ask(model, asked)
    assert (found.answers[0] == found.answers[N]).all() and (found.confidence[1] == found.confidence[N + 1]).all()
    turned = joints.ask(model, asked[::-1])
    np.testing.assert_allclose(turned.answers[::-1], found.answers, atol=ROUNDING)
    monkeypatch.setattr(joints, "CHUNK", 3)
    np.testing.assert_allclose(joints.ask(model, asked).confidence, found.confidence, atol=ROUNDING)


def test_branches_do_not_see_each_other(model):
    prompts = torch.randint(3, 30, (3, 7), generator=torch.Generator().manual_seed(1))
    tails = torch.randint(3, 30, (5, 4), generator=torch.Generator().manual_seed(2))
    after_prompt, after_tails = branch_hidden(model, prompts, tails)
    for p, prompt in enumerate(prompts):
        with torch.no_grad():
            hidden = model.model(input_ids=prompt[None]).last_hidden_state[0, -1]
        assert_close(after_prompt[p], hidden)
        for k, tail in enumerate(tails):
            with torch.no_grad():
                hidden = model.model(input_ids=torch.cat([prompt, tail])[None]).last_hidden_state[0, -1]
            assert_close(after_tails[p, k], hidden)
    moved = tails.clone()
    moved[1:] = tails[1:].flip(0)
    assert_close(branch_hidden(model, prompts, moved)[1][:, 0], after_tails[:, 0])

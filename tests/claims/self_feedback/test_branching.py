"""Branch decoding against decoding one branch at a time; confidence of spans; padding, ends, ids."""

import numpy as np
import pytest
import torch
from candor.claims.self_feedback.branching import Branches, branch, span_confidence
from candor.core.errors import CandorError
from candor.train import models
from numerics import ROUNDING

EOS = 5  # which these weights write now and then
PROMPTS = [[4, 6, 7], [8, 9], [10, 11, 12, 13, 14], [4, 4]]


@pytest.fixture(scope="module")
def model():
    """Random weights, sharp enough that branches differ."""
    torch.manual_seed(3)
    found = models.new_decoder(24, 0, EOS, hidden_size=32, layers=2, heads=4, mlp=64).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    return found


@torch.no_grad()
def one_by_one(model, prompt, rank, limit):
    """Tokens of the branch of that rank, and of each the probability and the top two, without cache or batch."""
    ids, rows = list(prompt), []
    for step in range(limit):
        shown = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
        top = shown.topk(24)
        token = int(top.indices[rank if step == 0 else 0])
        rows.append((token, float(shown[token]), float(top.values[0]), float(top.values[1])))
        ids.append(token)
        if token == EOS:
            break
    return np.array(rows)


def test_branches_are_those_decoded_one_by_one(model):
    found = branch(model, PROMPTS, 5, 6, batch=3)
    assert found.tokens.shape == (4, 5, 6) and found.finished.any() and not found.finished.all()
    for i, prompt in enumerate(PROMPTS):
        for rank in range(5):
            alone = one_by_one(model, prompt, rank, 6)
            n = found.length[i, rank]
            assert found.ids(i, rank) == alone[:, 0].tolist() and n == len(alone)
            for column, values in zip((1, 2, 3), (found.probability, found.top1, found.top2)):
                assert values[i, rank, :n] == pytest.approx(alone[:, column], abs=ROUNDING)
            assert not found.tokens[i, rank, n:].any() and not found.top1[i, rank, n:].any()
            assert found.finished[i, rank] == (alone[-1, 0] == EOS)


def test_one_branch_is_greedy_decoding(model):
    found = branch(model, PROMPTS, 1, 6)
    for i, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, eos_token_id=EOS
        )
        assert found.ids(i, 0) == made[0, len(prompt) :].tolist()
    assert (found.probability == found.top1).all()


def test_first_tokens_are_the_most_likely_and_differ(model):
    found = branch(model, PROMPTS, 8, 3)
    first = found.probability[:, :, 0]
    assert (np.diff(first, axis=1) <= 0).all() and (first[:, 0] == found.top1[:, 0, 0]).all()
    assert all(len(set(row)) == 8 for row in found.tokens[:, :, 0].tolist())


def test_batches_and_neighbours_change_nothing(model):
    whole, single = branch(model, PROMPTS, 4, 6, batch=4), branch(model, PROMPTS, 4, 6, batch=1)
    assert (whole.tokens == single.tokens).all()
    assert whole.top2 == pytest.approx(single.top2, abs=ROUNDING)


def test_ends_can_be_given(model):
    free = branch(model, PROMPTS, 3, 6)
    stop = free.ids(0, 0)[1]
    found = branch(model, PROMPTS, 3, 6, ends=[EOS, stop])
    assert found.ids(0, 0) == free.ids(0, 0)[: free.ids(0, 0).index(stop) + 1] and found.finished[0, 0]


def test_too_many_branches_are_a_sentence(model):
    with pytest.raises(CandorError, match="no 25 first tokens"):
        branch(model, PROMPTS, 25, 2)


# --- Spans ------------------------------------------------------------------------------------------


@pytest.fixture
def decoded():
    """One prompt, three branches of up to four tokens; the first was forced, and in the third ends nothing."""
    return Branches(
        tokens=np.array([[[7, 8, 9, 1], [8, 9, 1, 0], [9, 9, 9, 9]]]),
        probability=np.array([[[0.5, 0.7, 0.9, 1.0], [0.2, 0.6, 0.8, 0.0], [0.1, 0.4, 0.4, 0.4]]]),
        top1=np.array([[[0.5, 0.7, 0.9, 1.0], [0.5, 0.6, 0.8, 0.0], [0.5, 0.4, 0.4, 0.4]]]),
        top2=np.array([[[0.4, 0.1, 0.1, 0.0], [0.4, 0.3, 0.1, 0.0], [0.4, 0.3, 0.2, 0.1]]]),
        length=np.array([[4, 3, 4]]),
        finished=np.array([[True, True, False]]),
    )


def test_the_confidence_of_a_span_is_its_mean(decoded):
    start, stop = np.array([[1, 2, 1]]), np.array([[3, 3, 4]])
    assert span_confidence(decoded, start, stop)[0] == pytest.approx([0.7, 0.7, 0.2])
    assert span_confidence(decoded, start, stop, "probability")[0] == pytest.approx([0.8, 0.8, 0.4])


def test_the_forced_token_never_counts(decoded):
    found = span_confidence(decoded, np.array([[0, 0, 0]]), np.array([[2, 1, 0]]))[0]
    assert found[0] == pytest.approx(0.6)  # of the second token alone
    assert np.isnan(found[1:]).all()  # nothing but the forced token, and no span at all


def test_a_span_ends_with_its_text(decoded):
    found = span_confidence(decoded, np.array([[2, 2, -1]]), np.array([[9, 9, -1]]))[0]
    assert found[:2] == pytest.approx([0.9, 0.7]) and np.isnan(found[2])


def test_disparity_is_of_the_distribution_not_of_what_is_written(model):
    found = branch(model, PROMPTS, 4, 4)
    forced = found.probability[:, 1:, 0]
    assert (forced < found.top1[:, 1:, 0]).all()  # not the most likely token
    assert (found.top1 >= found.top2).all() and (forced - found.top1[:, 1:, 0] < 0).all()

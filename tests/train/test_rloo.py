"""RLOO by TRL: its passes against TRL's own, the reference, the closed form, adapters."""

import numpy as np
import pytest
import torch
from candor.core.errors import CandorError
from candor.train import models
from candor.train.policy import RLOOTrainer, SharedPromptRLOOTrainer, rloo
from candor.witnesses import world
from datasets import Dataset
from numerics import ROUNDING, assert_close

GROUP = 4


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A decoder in its folder."""
    models.quiet()
    torch.manual_seed(0)
    model = models.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, hidden_size=16, layers=2, heads=2, mlp=32)
    folder = tmp_path_factory.mktemp("start")
    models.save_decoder(model, world.tokenizer(), folder)
    return folder


def prompts(n=64, end="</answer> <confidence>"):
    questions = world.sample_questions(n, np.random.default_rng(0))
    rows = [world.text(row) for row in world.prompt_tokens(questions)]
    return Dataset.from_dict({"prompt": [f"{row} A{i % 8} {end}" if end else row for i, row in enumerate(rows)]})


def by_token(completions, **_):
    """The stated confidence, and nothing for other tokens."""
    return [world.CONFIDENCES.index(c.strip()) / 10 if c.strip() in world.CONFIDENCES else 0.0 for c in completions]


def run(start, data, reward=by_token, lora=None, options=None, **changes):
    """A run of two steps: its model and log."""
    model, tokenizer = models.load_decoder(start)
    model = models.adapted(model, lora)
    settings = {"seed": 1, "max_steps": 2, "per_device_train_batch_size": 8 * GROUP, "num_generations": GROUP}
    settings |= {"max_completion_length": 1, "learning_rate": 1e-3, "logging_steps": 1} | changes
    return model, rloo(model, tokenizer, data, reward, settings, **(options or {}))


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}])
def test_it_starts_at_a_distance_of_zero(start, tmp_path, lora):
    """All weights, or adapters; snapshots and progress along the way."""
    ticks = []
    how = {"snapshots": tmp_path, "snapshot_every": 5, "progress": lambda *now: ticks.append(now)}
    _, log = run(start, prompts(), lora=lora, options=how, learning_rate=1e-2, max_steps=5)
    assert log["kl"].iloc[0] == pytest.approx(0, abs=ROUNDING)
    assert abs(log["kl"].iloc[-1]) > 1e-4
    assert log["step"].tolist() == [1, 2, 3, 4, 5] and ticks == [(step, 5) for step in log["step"]]
    assert [path.name for path in tmp_path.iterdir()] == ["step_000005.safetensors"]


def test_a_reference_that_is_not_the_start_is_refused(start):
    class Other(SharedPromptRLOOTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            with torch.no_grad():
                self.ref_model.lm_head.weight[0, 0] += 1e-3

    with pytest.raises(CandorError, match="reference of RLOO"):
        run(start, prompts(), options={"trainer_class": Other})


@pytest.mark.parametrize("lora", [None, {"rank": 2, "alpha": 4}])
def test_single_tokens_are_scored_as_trl_scores_them(start, lora):
    seen = []

    class Both(SharedPromptRLOOTrainer):
        def _get_per_token_logps_and_entropies(self, model, ids, mask, keep, *args, **kwargs):
            ours = super()._get_per_token_logps_and_entropies(model, ids, mask, keep, *args, **kwargs)
            theirs = RLOOTrainer._get_per_token_logps_and_entropies(self, model, ids, mask, keep, *args, **kwargs)
            seen.append((ours[0], theirs[0], ours[1], theirs[1]))
            return ours

    run(start, prompts(), lora=lora, options={"trainer_class": Both})
    assert len(seen) >= 4 and any(entropy is not None for *_, entropy in seen)
    for ours, theirs, entropy, entropy_theirs in seen:
        assert_close(ours, theirs)
        if entropy_theirs is not None:
            assert_close(entropy, entropy_theirs)


def test_sampling_follows_the_policy(start):
    """Long completions too, which TRL scores itself."""
    _, log = run(start, prompts(end=""), max_completion_length=4)
    assert log["kl"].iloc[0] == pytest.approx(0, abs=ROUNDING)
    assert 1 < log["mean_length"].iloc[0] <= 4


def test_the_policy_comes_to_the_closed_form(start):
    """pi ~ start x exp(r), for a reward that depends on the token alone."""
    worth = torch.zeros(len(world.VOCABULARY))
    worth[list(world.CONFIDENCE_IDS)] = torch.linspace(0, 3, 11)

    def reward(completions, **_):
        return [float(worth[world.TOKEN.get(c.strip(), 0)]) for c in completions]

    base, _ = models.load_decoder(start)
    ids = torch.tensor([[world.TOKEN[word] for word in prompts(1)["prompt"][0].split()]])
    with torch.no_grad():
        before = base(input_ids=ids).logits[0, -1].log_softmax(-1)
    closed = (before + worth).log_softmax(-1)
    changes = {"max_steps": 45, "per_device_train_batch_size": 64, "num_generations": 8, "learning_rate": 5e-3}
    model, _ = run(start, prompts(400), reward, logging_steps=45, **changes)
    with torch.no_grad():
        after = model(input_ids=ids).logits[0, -1].log_softmax(-1)

    def distance(p):
        return float((p.exp() * (p - closed)).sum())

    assert distance(after) < 0.25 * distance(before)

"""RLOO by TRL: its passes against TRL's own, the reference, the reward of rebuilt texts, the closed form."""

import numpy as np
import pytest
import torch
from candor.core.errors import CandorError
from candor.training import models, rloo
from candor.training.weighted_reward import TwoPositionReward
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


def configuration(tmp_path, **how):
    house = {"seed": 1, "max_steps": 2, "per_device_train_batch_size": 8 * GROUP, "num_generations": GROUP}
    house |= {"max_completion_length": 1, "learning_rate": 1e-3, "logging_steps": 1}
    return rloo.configuration(tmp_path / "trainer", **(house | how))


def by_token(prompts, completions, **_):
    """The stated confidence, and nothing for other tokens."""
    return [world.CONFIDENCES.index(c.strip()) / 10 if c.strip() in world.CONFIDENCES else 0.0 for c in completions]


def test_it_starts_at_a_distance_of_zero(start, tmp_path):
    _, _, log = rloo.train(start, prompts(), by_token, configuration(tmp_path, learning_rate=1e-2, max_steps=5))
    assert log["kl"].iloc[0] == pytest.approx(0, abs=ROUNDING)
    assert abs(log["kl"].iloc[-1]) > 1e-4
    assert log["step"].tolist() == [1, 2, 3, 4, 5]


def test_a_reference_that_is_not_the_start_is_refused(start):
    model, _ = models.load_decoder(start)
    other, _ = models.load_decoder(start)
    rloo.check_reference(model, other)
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1e-3
    with pytest.raises(CandorError, match="reference of RLOO"):
        rloo.check_reference(model, other)


def test_single_tokens_are_scored_as_trl_scores_them(start, tmp_path):
    seen = []

    class Both(rloo.SharedPromptRLOOTrainer):
        def _get_per_token_logps_and_entropies(self, model, ids, mask, keep, *args, **kwargs):
            ours = super()._get_per_token_logps_and_entropies(model, ids, mask, keep, *args, **kwargs)
            theirs = rloo.RLOOTrainer._get_per_token_logps_and_entropies(self, model, ids, mask, keep, *args, **kwargs)
            seen.append((ours[0].detach(), theirs[0].detach(), ours[1].detach(), theirs[1]))
            return ours

    rloo.train(start, prompts(), by_token, configuration(tmp_path), trainer_class=Both)
    assert len(seen) >= 4
    for ours, theirs, entropy, entropy_theirs in seen:
        assert_close(ours, theirs)
        if entropy_theirs is not None:
            assert_close(entropy, entropy_theirs)


def test_sampling_follows_the_policy(start, tmp_path):
    """Long completions too, which TRL scores itself."""
    config = configuration(tmp_path, max_completion_length=4)
    _, _, log = rloo.train(start, prompts(end=""), by_token, config)
    assert log["kl"].iloc[0] == pytest.approx(0, abs=ROUNDING)
    assert 1 < log["mean_length"].iloc[0] <= 4


def test_completions_are_read_where_an_answer_and_a_confidence_stand():
    question = "Q w1 A3 ? <answer>"
    assert rloo.stated(question, "A3 </answer> <confidence> c7") == f"{question} A3 </answer> <confidence> c7"
    assert rloo.stated(question, " A3 </answer> <confidence> c10 </confidence>").endswith("c10")
    assert rloo.stated(f"{question} A3 </answer> <confidence>", "c0").endswith("<confidence> c0")
    for bad in ("c7", "A3 c7", "A3 </answer> <confidence>", "A9 </answer> <confidence> c7", ""):
        assert rloo.stated(question, bad) is None


def test_the_reward_is_the_models_over_beta_and_malformed_texts_come_last(start):
    decoder, tokenizer = models.load_decoder(start)
    torch.manual_seed(1)
    model = TwoPositionReward(decoder).eval()
    reward = rloo.reward_of(model, tokenizer, beta=0.5)
    given = ["Q w1 A3 ? <answer> A3 </answer> <confidence>", "Q w1 A3 w0 A5 ? <answer> A5 </answer> <confidence>"]
    said = ["c7", "c2"]
    scores = reward(prompts=[*given, given[0]], completions=[*said, "w1"])
    for prompt, completion, score in zip(given, said, scores):
        ids = torch.tensor([[world.TOKEN[word] for word in f"{prompt} {completion}".split()]])
        alone = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.item()
        assert score == pytest.approx(alone / 0.5, rel=1e-4, abs=ROUNDING)
    assert scores[2] == pytest.approx(min(scores[:2]) - 1)


def test_the_policy_comes_to_the_closed_form(start, tmp_path):
    """pi ~ start x exp(r), for a reward that depends on the token alone."""
    worth = torch.zeros(len(world.VOCABULARY))
    worth[list(world.CONFIDENCE_IDS)] = torch.linspace(0, 3, 11)

    def reward(prompts, completions, **_):
        return [float(worth[world.TOKEN.get(c.strip(), 0)]) for c in completions]

    base, _ = models.load_decoder(start)
    ids = torch.tensor([[world.TOKEN[word] for word in prompts(1)["prompt"][0].split()]])
    with torch.no_grad():
        before = base(input_ids=ids).logits[0, -1].log_softmax(-1)
    closed = (before + worth).log_softmax(-1)
    config = configuration(tmp_path, max_steps=45, per_device_train_batch_size=64, num_generations=8)
    config.learning_rate, config.logging_steps = 5e-3, 45
    model, _, _ = rloo.train(start, prompts(400), reward, config)
    with torch.no_grad():
        after = model.lm_head(model.model(input_ids=ids).last_hidden_state[0, -1]).log_softmax(-1)

    def distance(p):
        return float((p.exp() * (p - closed)).sum())

    assert distance(after) < 0.25 * distance(before)


def test_snapshots_and_progress(start, tmp_path):
    steps = []
    how = {"snapshots": tmp_path / "snapshots", "snapshot_every": 1, "progress": lambda *at: steps.append(at)}
    rloo.train(start, prompts(), by_token, configuration(tmp_path), **how)
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        "step_000001.safetensors",
        "step_000002.safetensors",
    ]
    assert steps == [(1, 2), (2, 2)]

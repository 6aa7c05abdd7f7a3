"""A reward model by TRL: its loss by hand, what it learns, its scores as a reward."""

import numpy as np
import pytest
import torch
from candor.claims.sophistry import world
from candor.core.errors import CandorError
from candor.training import models, reward_model
from numerics import ROUNDING


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of a small decoder."""
    models.quiet()
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    decoder = models.new_decoder(len(world.VOCABULARY), 0, 1, hidden_size=16, layers=1, heads=2, mlp=32)
    models.save_decoder(decoder, world.tokenizer(), folder)
    return folder


@pytest.fixture(scope="module")
def pairs():
    """References as `line` and as written out, the first of each pair chosen: token ids."""
    given = world.problems(400, "standard", np.random.default_rng(0))
    given = given[(given.kind == 0) & (given.form == world.LINEAR)][:64]
    rows = {True: [], False: []}
    for prompt, a, b in zip(given.prompts(), given.a, given.b):
        for as_line in (True, False):
            program = f"line 1 {a + b} 2 {2 * a + b}" if as_line else f"add mul {a} x {b}"
            rows[as_line].append(world.tokens_of(f"{prompt} {program} <eos>"))
    return rows[True], rows[False]


def train(start, pairs, folder, **how):
    settings = {"seed": 3, "max_steps": 12, "learning_rate": 1e-2, "batch_size": 32, "logging_steps": 1} | how
    model = reward_model.load(start, 3)
    config = reward_model.configuration(folder / "trainer", **settings)
    return model, reward_model.train(model, world.tokenizer(), *pairs, config)


def test_the_first_loss_is_bradley_terry_and_training_separates(start, pairs, tmp_path):
    untrained = reward_model.load(start, 3).eval()
    n = len(pairs[0])
    margin = reward_model.score(untrained, pairs[0]) - reward_model.score(untrained, pairs[1])
    model, log = train(start, pairs, tmp_path, batch_size=n)
    assert log["loss"].iloc[0] == pytest.approx(-np.log(1 / (1 + np.exp(-margin))).mean(), abs=ROUNDING)
    assert log["accuracy"].iloc[-1] == 1 and log["loss"].iloc[-1] < 0.5 * log["loss"].iloc[0]
    assert (reward_model.score(model, pairs[0]) > reward_model.score(model, pairs[1])).all()
    assert log["step"].tolist() == list(range(1, 13))


def test_scores_do_not_depend_on_the_batch(start, pairs):
    model = reward_model.load(start, 3).eval()
    rows = [*pairs[0][:9], *pairs[1][:9], pairs[0][0][:7]]
    alone = [reward_model.score(model, [row])[0] for row in rows]
    assert reward_model.score(model, rows, batch=5) == pytest.approx(alone, abs=ROUNDING)
    with torch.no_grad():
        direct = model(input_ids=torch.tensor([rows[0]])).logits.item()
    assert alone[0] == pytest.approx(direct, abs=ROUNDING)


def test_a_head_is_drawn_from_its_seed_and_kept_on_disk(start, tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    a, b, other = (reward_model.load(start, seed) for seed in (1, 1, 2))
    assert torch.rand(1) == expected, "the generator of the process is left alone"
    assert torch.equal(a.score.weight, b.score.weight) and not torch.equal(a.score.weight, other.score.weight)
    models.save_decoder(a, world.tokenizer(), tmp_path)
    assert torch.equal(reward_model.load(tmp_path).score.weight, a.score.weight)


def test_as_a_reward_it_joins_token_by_token(start, pairs):
    model = reward_model.load(start, 3).eval()
    prompt = "P pts eg 2 -> 11 eg 5 -> 14 =>"
    completions = [world.tokens_of("add mul 1 x 9 <eos>"), world.tokens_of("line 2 11 5 14 <eos>")]
    reward = reward_model.as_reward(model, world.tokenizer(), scale=2.0)
    found = reward(prompts=[prompt] * 2, completions=["", ""], completion_ids=[list(c) for c in completions], other=1)
    rows = [[*world.tokens_of(prompt), *c] for c in completions]
    assert found == pytest.approx(2 * reward_model.score(model, rows))
    assert world.TOKEN["<unk>"] not in rows[0], "nothing is glued"


def test_no_pairs_are_refused(start, tmp_path):
    with pytest.raises(CandorError, match="no pair"):
        train(start, ([], []), tmp_path)

"""Reward models: the losses by hand, what they learn and keep, their scores as a reward."""

import numpy as np
import pytest
import torch
from candor.claims.sophistry import world as programs
from candor.core.errors import CandorError
from candor.train import fit, models
from candor.train import reward_model as recipe
from candor.witnesses import world
from numerics import ROUNDING, assert_close
from trl import RewardConfig

# --- A decoder with a scalar head ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The folder of a small decoder."""
    models.quiet()
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    decoder = models.new_decoder(len(programs.VOCABULARY), 0, 1, hidden_size=16, layers=1, heads=2, mlp=32)
    models.save_decoder(decoder, programs.tokenizer(), folder)
    return folder


@pytest.fixture(scope="module")
def pairs():
    """References as `line` and as written out, the first of each pair chosen: token ids."""
    drawn = programs.problems(400, "standard", np.random.default_rng(0))
    drawn = drawn[(drawn.kind == 0) & (drawn.form == programs.LINEAR)][:64]
    rows = {True: [], False: []}
    for prompt, a, b in zip(drawn.prompts(), drawn.a, drawn.b):
        for as_line in (True, False):
            program = f"line 1 {a + b} 2 {2 * a + b}" if as_line else f"add mul {a} x {b}"
            rows[as_line].append(programs.tokens_of(f"{prompt} {program} <eos>"))
    return rows[True], rows[False]


@pytest.mark.parametrize("margin", [None, 2.0])
def test_the_first_loss_is_bradley_terry_and_training_separates(start, pairs, margin):
    n, model = len(pairs[0]), recipe.load(start, 3).eval()
    difference = recipe.score(model, pairs[0]) - recipe.score(model, pairs[1]) - (margin or 0)
    settings = {"seed": 3, "max_steps": 12, "learning_rate": 1e-2, "per_device_train_batch_size": n, "logging_steps": 1}
    margins = margin and [margin] * n
    log = recipe.bradley_terry(model, programs.tokenizer(), *pairs, settings, margin=margins)
    assert log["loss"].iloc[0] == pytest.approx(-np.log(1 / (1 + np.exp(-difference))).mean(), abs=ROUNDING)
    assert log["accuracy"].iloc[-1] == 1 and log["loss"].iloc[-1] < 0.5 * log["loss"].iloc[0]
    assert (recipe.score(model, pairs[0]) > recipe.score(model, pairs[1])).all()
    assert log["step"].tolist() == list(range(1, 13)) and model.config.use_cache


def test_scores_do_not_depend_on_the_batch(start, pairs):
    model = recipe.load(start, 3).eval()
    rows = [*pairs[0][:9], *pairs[1][:9], pairs[0][0][:7]]
    alone = [recipe.score(model, [row])[0] for row in rows]
    assert recipe.score(model, rows, batch=5) == pytest.approx(alone, abs=ROUNDING)
    with torch.no_grad():
        direct = model(input_ids=torch.tensor([rows[0]])).logits.item()
    assert alone[0] == pytest.approx(direct, abs=ROUNDING)


def test_a_head_is_drawn_from_its_seed_and_kept_on_disk(start, tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    a, b, other = (recipe.load(start, seed) for seed in (1, 1, 2))
    assert torch.rand(1) == expected, "the generator of the process is left alone"
    assert torch.equal(a.score.weight, b.score.weight) and not torch.equal(a.score.weight, other.score.weight)
    models.save_decoder(a, programs.tokenizer(), tmp_path)
    assert torch.equal(recipe.load(tmp_path).score.weight, a.score.weight)


def test_as_a_reward_it_joins_token_by_token(start, pairs):
    model = recipe.load(start, 3).eval()
    prompt = "P pts eg 2 -> 11 eg 5 -> 14 =>"
    completions = [programs.tokens_of("add mul 1 x 9 <eos>"), programs.tokens_of("line 2 11 5 14 <eos>")]
    rows = [[*programs.tokens_of(prompt), *c] for c in completions]
    assert programs.TOKEN["<unk>"] not in rows[0], "nothing is glued"
    columns = {"prompts": [prompt] * 2, "completions": ["", ""], "completion_ids": [list(c) for c in completions]}
    scores = recipe.score(model, rows)
    reward = recipe.as_reward(model, programs.tokenizer(), 2.0)
    assert reward(**columns, other=1) == pytest.approx(2 * scores)
    assert recipe.scaled(reward, 2 * scores[0], 1e-9)(**columns) == pytest.approx([0, np.sign(scores[1] - scores[0])])


def test_no_pairs_are_refused(start):
    with pytest.raises(CandorError, match="no pair"):
        recipe.bradley_terry(recipe.load(start, 3), programs.tokenizer(), [], [], {})


# --- Weights and soft labels --------------------------------------------------------------------------


def test_the_loss_is_weighted_cross_entropy_with_soft_labels():
    d, y, w = (torch.tensor(v) for v in ([0.3, -1.2, 2.0], [1.0, 0.25, 0.5], [2.0, 0.0, 1.0]))
    d.requires_grad_()
    by_hand = sum(
        -wi * (yi * torch.sigmoid(di).log() + (1 - yi) * torch.sigmoid(-di).log()) for di, yi, wi in zip(d, y, w)
    )
    loss = recipe.weighted_loss(d, y, w)
    assert loss.item() == pytest.approx(by_hand.item() / 3, rel=ROUNDING)
    loss.backward()
    assert_close(d.grad, w * (torch.sigmoid(d.detach()) - y) / 3, "weight times error")


def test_labels_outside_the_unit_interval_undo_flips():
    d, e, one = torch.tensor([0.7]), 0.125, torch.ones(1)
    of_label = {y: recipe.weighted_loss(d, torch.tensor([(y - e) / (1 - 2 * e)]), one) for y in (0, 1)}
    noisy = (1 - e) * of_label[1] + e * of_label[0]
    assert noisy.item() == pytest.approx(recipe.weighted_loss(d, one, one).item(), rel=ROUNDING)


def test_weights_have_mean_one():
    dataset = recipe.pairs_dataset([[0]] * 4, [[1]] * 4, np.ones(4), [0, 0.1, 0.2, 0.1])
    assert np.mean(dataset["weight"]) == pytest.approx(1)
    with pytest.raises(CandorError, match="All weights"):
        recipe.pairs_dataset([[0]], [[1]], [1], [0])


# --- A head on two states of a frozen decoder ---------------------------------------------------------


def decoder():
    models.quiet()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "layers": 2, "heads": 2, "mlp": 32}
    return models.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, **sizes).eval()


def opened(n=30, seed=0):
    """Questions of several lengths with an answer and the opening tag of the confidence, as token ids."""
    questions = world.sample_questions(n, np.random.default_rng(seed))
    tags = world.TOKEN["</answer>"], world.TOKEN["<confidence>"]
    answers = np.arange(n) % world.SUSPECTS
    return [[*row, world.ANSWER_IDS[a], *tags] for row, a in zip(world.prompt_tokens(questions), answers)]


def features(model, rows, tokens):
    """Features [n, 2H] of the rows with a confidence token (0..10) behind each."""
    at, after, place = recipe.states(model, rows, world.CONFIDENCE_IDS)
    return np.concatenate([at[place], after[place, tokens]], 1)


@pytest.fixture(scope="module")
def compared():
    """A decoder and 600 pairs in which the more confident completion is preferred: features, labels."""
    model, rng = decoder(), np.random.default_rng(1)
    tokens, rows = rng.integers(11, size=(600, 2)), opened(600, 1)
    both = np.stack([features(model, rows, tokens[:, k]) for k in range(2)], 1)
    return model, both, (tokens[:, 0] > tokens[:, 1]).astype(float)


def fitted(model, both, label, weight=None, epochs=8):
    settings = {"seed": 1, "num_train_epochs": epochs, "per_device_train_batch_size": 64}
    settings |= {"learning_rate": 2e-3, "weight_decay": 0.05}
    weight = np.ones(len(label)) if weight is None else weight
    return recipe.two_positions(model, world.tokenizer(), both, label, weight, settings)


def differences(reward, both):
    return np.subtract(*(reward(features=torch.as_tensor(both[:, k])).logits[:, 0].detach().numpy() for k in range(2)))


def test_features_by_index_are_those_of_the_whole_model_on_text():
    model, rows = decoder(), opened()
    tokens = np.arange(len(rows)) % 11
    texts = [[*row, world.CONFIDENCE_IDS[t]] for row, t in zip(rows, tokens)]
    assert len({len(text) for text in texts}) > 2  # so that padding matters
    reward = recipe.TwoPositionReward(model)
    batch = recipe.Collator(world.PAD)([{"chosen_ids": t, "rejected_ids": t, "weight": 1, "label": 1} for t in texts])
    whole = reward(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[: len(texts), 0]
    assert whole.std() > 1e-3
    assert_close(whole, reward(features=torch.as_tensor(features(model, rows, tokens))).logits[:, 0])
    at, after, place = recipe.states(model, rows + rows, world.CONFIDENCE_IDS)
    assert len(at) == len(after) == len(rows) and place.tolist() == [*range(len(rows))] * 2, "equal rows are one"
    assert reward.score(at, after)[place[: len(rows)], tokens] == pytest.approx(whole.detach().numpy(), abs=ROUNDING)
    alone, none, _ = recipe.states(model, rows, ())
    assert none.shape == (len(rows), 0, 16) and alone == pytest.approx(at, abs=ROUNDING)


def test_weights_and_labels_reach_the_loss(tmp_path):
    """TRL keeps only the columns it knows: an unweighted loss would be silent."""
    texts = [[*row, world.CONFIDENCE_IDS[k % 11]] for k, row in enumerate(opened(16))]
    label, weight = np.linspace(-0.1, 1.1, 8), np.arange(8.0)
    made = recipe.WeightedRewardTrainer(
        model=recipe.TwoPositionReward(decoder()),
        args=fit.configuration(RewardConfig, recipe.REWARD | {"per_device_train_batch_size": 8}, tmp_path),
        train_dataset=recipe.pairs_dataset(texts[:8], texts[8:], label, weight),
        data_collator=recipe.Collator(world.PAD),
        processing_class=world.tokenizer(),
    )
    batch = next(iter(made.get_train_dataloader()))
    assert sorted(batch["weight"].tolist()) == pytest.approx(sorted(weight / weight.mean()))
    assert sorted(batch["label"].tolist()) == pytest.approx(label)
    with torch.no_grad():
        tokens, mask = batch["input_ids"], batch["attention_mask"]
        first, second = made.model(input_ids=tokens, attention_mask=mask).logits[:, 0].chunk(2)
        by_hand = recipe.weighted_loss(first - second, batch["label"], batch["weight"]).item()
        assert made.compute_loss(made.model, dict(batch)).item() == pytest.approx(by_hand)
    assert by_hand != pytest.approx(
        recipe.weighted_loss(first - second, batch["label"], torch.ones(8)).item(), rel=1e-3
    )


def test_a_fit_learns_keeps_its_best_epoch_and_leaves_the_base_alone(compared):
    model, both, label = compared
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reward, log = fitted(model, both, label)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    d, held = differences(reward, both), slice(540, None)
    assert ((d > 0) == label).mean() > 0.8
    loss = recipe.weighted_loss(torch.as_tensor(d[held]), torch.as_tensor(label[held]), torch.ones(60)).item()
    assert loss == pytest.approx(log["heldout_loss"].min(), rel=1e-4)
    assert len(log) <= 8 and len(log) - log["epoch"][log["heldout_loss"].idxmin()] <= 3
    again = recipe.TwoPositionReward(model).load_head(reward.head_state())
    assert (differences(again, both) == d).all(), "a head can be put away and back"
    assert not any(name.startswith("decoder") for name in reward.head_state())


def test_pairs_of_weight_zero_teach_nothing(compared):
    model, both, label = compared
    wrong = np.arange(600) % 2 == 0  # half of the labels are turned round and weigh nothing
    reward, _ = fitted(model, both, np.where(wrong, 1 - label, label), np.where(wrong, 0.0, 1.0))
    assert ((differences(reward, both) > 0) == label).mean() > 0.8

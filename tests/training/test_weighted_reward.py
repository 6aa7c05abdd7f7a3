"""The reward model: features against the whole model, the weighted soft loss by hand, what training keeps and drops."""

import numpy as np
import pytest
import torch
from candor.core.errors import CandorError
from candor.training import models
from candor.training import weighted_reward as wr
from candor.witnesses import world
from numerics import ROUNDING, assert_close

SIZES = {"hidden_size": 16, "layers": 2, "heads": 2, "mlp": 32}


def decoder(seed=0):
    models.quiet()
    torch.manual_seed(seed)
    return models.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, **SIZES).eval()


def opened(n=30, seed=0):
    """Questions of several lengths with an answer and the opening tag of the confidence, as token ids."""
    questions = world.sample_questions(n, np.random.default_rng(seed))
    tags = world.TOKEN["</answer>"], world.TOKEN["<confidence>"]
    answers = np.arange(n) % world.SUSPECTS
    return [[*row, world.ANSWER_IDS[a], *tags] for row, a in zip(world.prompt_tokens(questions), answers)]


def features(model, rows, tokens):
    """Features [n, 2H] of the rows with a confidence token (0..10) behind each."""
    at, after, place = wr.states(model, rows, world.CONFIDENCE_IDS)
    return np.concatenate([at[place], after[place, tokens]], 1)


def comparisons(model, n=600, seed=1):
    """Pairs in which the more confident completion is preferred: features [n, 2, 2H] and labels [n]."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(11, size=(n, 2))
    rows = opened(n, seed)
    both = np.stack([features(model, rows, tokens[:, k]) for k in range(2)], 1)
    return both, (tokens[:, 0] > tokens[:, 1]).astype(float)


def configuration(tmp_path, **how):
    return wr.configuration(tmp_path / "trainer", **({"seed": 1, "epochs": 3, "batch_size": 64} | RATES | how))


RATES = {"lr": 2e-3, "decay": 0.05}


def fitted(tmp_path, model, both, label, weight=None, **how):
    weight = np.ones(len(label)) if weight is None else weight
    return wr.fit(model, world.tokenizer(), both, label, weight, configuration(tmp_path, **how))


# --- The model ----------------------------------------------------------------------------------------


def test_features_by_index_are_those_of_the_whole_model_on_text():
    model = decoder()
    rows = opened()
    tokens = np.arange(len(rows)) % 11
    texts = [[*row, world.CONFIDENCE_IDS[t]] for row, t in zip(rows, tokens)]
    assert len({len(text) for text in texts}) > 2  # so that padding matters
    reward = wr.TwoPositionReward(model)
    batch = wr.Collator(world.PAD)([{"chosen_ids": t, "rejected_ids": t, "weight": 1, "label": 1} for t in texts])
    whole = reward(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[: len(texts), 0]
    fed = reward(features=torch.as_tensor(features(model, rows, tokens))).logits[:, 0]
    assert whole.std() > 1e-3
    assert_close(whole, fed)
    at, after, place = wr.states(model, rows, world.CONFIDENCE_IDS)
    assert reward.score(at, after)[place, tokens] == pytest.approx(whole.detach().numpy(), abs=ROUNDING)


def test_equal_rows_are_computed_once():
    rows = opened(5)
    at, after, place = wr.states(decoder(), rows + rows, world.CONFIDENCE_IDS)
    assert len(at) == len(after) == 5
    assert place.tolist() == [*range(5), *range(5)]


def test_states_without_tails():
    model, rows = decoder(), opened(5)
    at, after, _ = wr.states(model, rows, ())
    assert after.shape == (5, 0, 16)
    assert at == pytest.approx(wr.states(model, rows, world.CONFIDENCE_IDS)[0], abs=ROUNDING)


# --- The loss -----------------------------------------------------------------------------------------


def test_the_loss_is_weighted_cross_entropy_with_soft_labels():
    d, y, w = (torch.tensor(v) for v in ([0.3, -1.2, 2.0], [1.0, 0.25, 0.5], [2.0, 0.0, 1.0]))
    by_hand = sum(
        -wi * (yi * torch.sigmoid(di).log() + (1 - yi) * torch.sigmoid(-di).log()) for di, yi, wi in zip(d, y, w)
    )
    assert wr.weighted_loss(d, y, w).item() == pytest.approx(by_hand.item() / 3, rel=ROUNDING)


def test_its_gradient_is_weight_times_error():
    d = torch.tensor([0.3, -1.2], requires_grad=True)
    y, w = torch.tensor([1.0, 0.25]), torch.tensor([0.5, 1.5])
    wr.weighted_loss(d, y, w).backward()
    assert torch.allclose(d.grad, w * (torch.sigmoid(d.detach()) - y) / 2)


def test_labels_outside_the_unit_interval_undo_flips():
    d, e = torch.tensor([0.7]), 0.125
    corrected = {y: torch.tensor([(y - e) / (1 - 2 * e)]) for y in (0, 1)}
    one = torch.ones(1)
    clean = wr.weighted_loss(d, one, one)
    noisy = (1 - e) * wr.weighted_loss(d, corrected[1], one) + e * wr.weighted_loss(d, corrected[0], one)
    assert noisy.item() == pytest.approx(clean.item(), rel=ROUNDING)


# --- Training -----------------------------------------------------------------------------------------


def trainer(tmp_path, model, dataset, collator):
    return wr.WeightedRewardTrainer(
        model=wr.TwoPositionReward(model),
        args=configuration(tmp_path, batch_size=8),
        train_dataset=dataset,
        data_collator=collator,
        processing_class=world.tokenizer(),
    )


def test_weights_and_labels_reach_the_loss(tmp_path):
    """TRL keeps only the columns it knows: an unweighted loss would be silent."""
    model, rows = decoder(), opened(16)
    texts = [[*row, world.CONFIDENCE_IDS[k % 11]] for k, row in enumerate(rows)]
    label, weight = np.linspace(-0.1, 1.1, 8), np.arange(8.0)
    dataset = wr.pairs_dataset(texts[:8], texts[8:], label, weight)
    made = trainer(tmp_path, model, dataset, wr.Collator(world.PAD))
    batch = next(iter(made.get_train_dataloader()))
    assert sorted(batch["weight"].tolist()) == pytest.approx(sorted(weight / weight.mean()))
    assert sorted(batch["label"].tolist()) == pytest.approx(label)
    with torch.no_grad():
        tokens, mask = batch["input_ids"], batch["attention_mask"]
        first, second = made.model(input_ids=tokens, attention_mask=mask).logits[:, 0].chunk(2)
        by_hand = wr.weighted_loss(first - second, batch["label"], batch["weight"]).item()
        assert made.compute_loss(made.model, dict(batch)).item() == pytest.approx(by_hand)
    plain = wr.weighted_loss(first - second, batch["label"], torch.ones(8)).item()
    assert by_hand != pytest.approx(plain, rel=1e-3)


def test_weights_have_mean_one():
    dataset = wr.pairs_dataset([[0]] * 4, [[1]] * 4, np.ones(4), [0, 0.1, 0.2, 0.1])
    assert np.mean(dataset["weight"]) == pytest.approx(1)
    with pytest.raises(CandorError, match="All weights"):
        wr.pairs_dataset([[0]], [[1]], [1], [0])


def test_a_fit_learns_keeps_its_best_epoch_and_leaves_the_base_alone(tmp_path):
    model = decoder()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    both, label = comparisons(model)
    reward, log = fitted(tmp_path, model, both, label, epochs=8)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    d = np.subtract(*(reward(features=torch.as_tensor(both[:, k])).logits[:, 0].detach().numpy() for k in range(2)))
    assert ((d > 0) == label).mean() > 0.8
    held = slice(540, None)
    loss = wr.weighted_loss(torch.as_tensor(d[held]), torch.as_tensor(label[held]), torch.ones(60)).item()
    assert loss == pytest.approx(log["heldout_loss"].min(), rel=1e-4)
    assert 1 <= len(log) <= 8
    assert len(log) - log["epoch"][log["heldout_loss"].idxmin()] <= 3


def test_pairs_of_weight_zero_teach_nothing(tmp_path):
    model = decoder()
    both, label = comparisons(model)
    wrong = np.arange(600) % 2 == 0  # half of the labels are turned round and weigh nothing
    reward, _ = fitted(tmp_path, model, both, np.where(wrong, 1 - label, label), np.where(wrong, 0.0, 1.0), epochs=8)
    d = np.subtract(*(reward(features=torch.as_tensor(both[:, k])).logits[:, 0].detach().numpy() for k in range(2)))
    assert ((d > 0) == label).mean() > 0.8


def test_a_head_can_be_put_away_and_back(tmp_path):
    model = decoder()
    both, label = comparisons(model, 100)
    reward, _ = fitted(tmp_path, model, both, label, epochs=1)
    again = wr.TwoPositionReward(model).load_head(reward.head_state())
    sample = torch.as_tensor(both[:, 0])
    assert torch.equal(again(features=sample).logits, reward(features=sample).logits)
    assert not any(name.startswith("decoder") for name in reward.head_state())

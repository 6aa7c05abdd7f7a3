"""Supervised training: the losses by hand, what is used and how often, what further training by TRL changes."""

import math

import numpy as np
import pytest
import torch
from candor.claims.grounding_loss import world as reference_game
from candor.core.errors import DivergedError
from candor.train import models, sft
from candor.witnesses import world
from numerics import ROUNDING


def decoder(vocabulary=0, **changes):
    models.quiet()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "layers": 2, "heads": 4, "mlp": 64} | changes
    return models.new_decoder(vocabulary or len(world.VOCABULARY), world.PAD, world.EOS, **sizes)


def documents(n):
    return world.documents(n, world.CROWDS["expert"], world.stream("documents", 0))


def test_the_loss_falls_from_ignorance_and_a_seed_gives_one_model():
    logs, ticks = [], []
    for _ in range(2):
        model = decoder()
        how = {"batch_size": 64, "lr": 8e-3, "pad": world.PAD, "log_every": 30}
        log = sft.train(model, documents(100 * 64), progress=lambda *now: ticks.append(now), **how)
        logs.append(log["loss"])
    assert logs[0].equals(logs[1]) and not model.training
    assert log["step"].tolist() == [30, 60, 90, 100] and ticks[:4] == [(step, 100) for step in log["step"]]
    first = sft.next_token_loss(decoder(), torch.as_tensor(documents(64))).item()
    assert first == pytest.approx(math.log(len(world.VOCABULARY)), rel=0.05)
    assert log["loss"].iloc[-1] < log["loss"].iloc[0] < 0.6 * first


def test_the_loss_is_the_mean_over_real_tokens():
    model, batch = decoder().eval(), torch.as_tensor(documents(16))
    total, count = 0.0, 0
    for row in batch:
        real = row[row != world.PAD][None]
        log_probs = model(input_ids=real).logits[0, :-1].log_softmax(-1)
        total -= log_probs.gather(1, real[0, 1:, None]).sum().item()
        count += real.shape[1] - 1
    assert len({int((row != world.PAD).sum()) for row in batch}) > 1
    for wider in (batch, torch.nn.functional.pad(batch, (0, 5), value=world.PAD)):
        assert sft.next_token_loss(model, wider).item() == pytest.approx(total / count, abs=ROUNDING)


def test_every_document_is_used_once_and_the_loss_can_be_replaced():
    tokens, seen = documents(40), []

    def loss(model, batch, rows):
        seen.append((batch.numpy(), rows))
        return sft.next_token_loss(model, batch)

    sft.train(decoder(), tokens, batch_size=8, lr=1e-3, pad=world.PAD, loss=loss)
    assert [rows for _, rows in seen] == [slice(i, i + 8) for i in range(0, 40, 8)]
    for batch, rows in seen:
        np.testing.assert_array_equal(batch, tokens[rows, : batch.shape[1]])
        assert (tokens[rows, batch.shape[1] :] == world.PAD).all()


def test_divergence_is_one_sentence():
    model = decoder()
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"^The loss became nan at step 2: lower the learning rate\.$"):
        sft.train(model, documents(64), batch_size=16, lr=1e-3, pad=world.PAD, log_every=2)


def test_a_saved_decoder_comes_back(tmp_path):
    model = decoder(hidden_size=64, mlp=256).eval()
    assert round(sum(p.numel() for p in model.parameters()) / 1000) in (134, 135), "the house's own size"
    models.save_decoder(model, world.tokenizer(), tmp_path)
    assert (tmp_path / "model.safetensors").exists() and not list(tmp_path.glob("*.bin"))
    loaded, tokenizer = models.load_decoder(tmp_path)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert tokenizer.pad_token_id == loaded.config.pad_token_id == world.PAD
    assert tokenizer.eos_token_id == loaded.config.eos_token_id == world.EOS


# --- Dialogues, of which only the responses count ---------------------------------------------------


def dialogues(n=400):
    return reference_game.documents(n, np.random.default_rng(0))


def speaker():
    return decoder(54, hidden_size=16, heads=2, mlp=32)


def response_loss(model, tokens, responses):
    """One dialogue at a time: mean cross-entropy over all marked tokens."""
    losses = []
    for row, marks in zip(torch.as_tensor(tokens), responses):
        logits = model(input_ids=row[None]).logits[0]
        places = np.flatnonzero(marks)
        losses.append(torch.nn.functional.cross_entropy(logits[places - 1], row[places], reduction="none"))
    return torch.cat(losses).mean().item()


def test_base_training_counts_responses_alone():
    """The loss of a step is the hand-written one, and what follows the last response changes nothing."""
    tokens, responses = dialogues(24)
    longer = np.pad(tokens, ((0, 0), (0, 5)), constant_values=7), np.pad(responses, ((0, 0), (0, 5)))
    trained = []
    for rows, marks in ((tokens, responses), longer):
        model = speaker()
        loss = response_loss(model, tokens, responses)
        log = sft.train_responses(model, rows, marks, steps=1, batch_size=24, lr=1e-3, seed=0, log_every=1)
        assert log["loss"].item() == pytest.approx(loss, abs=ROUNDING)
        trained.append(model)
    assert all(torch.equal(a, b) for a, b in zip(*(model.parameters() for model in trained)))


def test_targets_are_taught_and_nothing_else():
    tokens, responses = dialogues(24)
    model = speaker()
    loss = response_loss(model, tokens, responses)
    targets = np.where(responses, tokens, sft.IGNORED)
    log = sft.supervised(model, tokens, targets, steps=1, batch_size=24, lr=1e-3, seed=0)
    assert log["loss"].item() == pytest.approx(loss, abs=ROUNDING)


def test_every_pass_takes_all_rows_in_a_new_order():
    first, again = np.concatenate(sft._batches(12, 6, 4, seed=0)).reshape(2, 12)
    assert sorted(first) == sorted(again) == list(range(12)) and (first != again).any() and (np.diff(first) < 0).any()


def test_base_training_passes_over_the_dialogues_again_and_learns():
    model = speaker()
    log = sft.train_responses(model, *dialogues(), steps=60, batch_size=32, lr=2e-2, seed=0, log_every=20)
    assert log["step"].tolist() == [20, 40, 60]
    assert log["loss"].iloc[-1] < 0.5 * math.log(54)


@pytest.mark.parametrize("rate", [1e-9, 1e-2])
def test_more_training_starts_where_the_base_is_and_moves_it_a_little(tmp_path, rate):
    tokens, responses = dialogues(64)
    model, ticks = speaker(), []
    start = response_loss(model, tokens, responses)
    settings = {"seed": 0, "max_steps": 20, "per_device_train_batch_size": 64, "learning_rate": rate, "warmup_steps": 2}
    how = {"snapshots": tmp_path / "s", "snapshot_every": 10, "progress": lambda *now: ticks.append(now)}
    log = sft.more(model, reference_game.tokenizer(), sft.labelled(tokens, responses), settings, **how)
    assert log["step"].tolist() == [10, 20] == [step for step, _ in ticks]
    assert len(list((tmp_path / "s").iterdir())) == 2
    if rate < 1e-6:
        assert log["loss"].to_numpy() == pytest.approx(start, abs=1e-4), "on the responses alone"
    else:
        assert response_loss(model, tokens, responses) < start and log["loss"].iloc[-1] < log["loss"].iloc[0] < start

"""DPO by TRL: its loss and gradient against the equation, what a run leaves behind, what it refuses."""

import copy

import numpy as np
import pytest
import torch
from candor.claims.grounding_loss import world
from candor.core.errors import CandorError, DivergedError
from candor.train import models
from candor.train.preference import dpo
from datasets import Dataset
from numerics import ROUNDING, assert_close
from safetensors.torch import load_file

BETA = 0.3


@pytest.fixture(scope="module")
def pairs():
    """Human turns, each with a delivery of the reading and an act."""
    turns, _ = world.human_turns(40, np.random.default_rng(0))
    said = [" red-mug desk <eos>", " where ? <eos>", " which ? <eos>"]
    rows = [(prompt, said[i % 3], said[(i + 1) % 3]) for i, prompt in enumerate(turns[:40].prompts())]
    return Dataset.from_dict(dict(zip(("prompt", "chosen", "rejected"), map(list, zip(*rows)))))


def decoder():
    models.quiet()
    torch.manual_seed(0)
    return models.new_decoder(54, world.PAD, world.EOS, hidden_size=16, layers=2, heads=2, mlp=32)


def run(pairs, model=None, options=None, **changes):
    """A run of six steps: its model and log."""
    model = model or decoder()
    settings = {"seed": 1, "max_steps": 6, "beta": BETA, "learning_rate": 1e-2, "logging_steps": 1}
    settings |= {"per_device_train_batch_size": 8} | changes
    return model, dpo(model, world.tokenizer(), pairs, settings, **(options or {}))


def log_prob(model, prompt, completion):
    """Summed log-probability of a completion, one sequence at a time."""
    tokenizer = world.tokenizer()
    head, tail = (tokenizer(text)["input_ids"] for text in (prompt, completion))
    logits = model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1]
    return logits.log_softmax(-1)[range(len(tail)), tail].sum()


def by_hand(model, reference, pairs):
    """Equation 7 of Rafailov et al. (2023), the mean over `pairs`."""
    losses = []
    for row in pairs:
        ratio = []
        for name in ("chosen", "rejected"):
            with torch.no_grad():
                anchor = log_prob(reference, row["prompt"], row[name])
            ratio.append(log_prob(model, row["prompt"], row[name]) - anchor)
        losses.append(-torch.nn.functional.logsigmoid(BETA * (ratio[0] - ratio[1])))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("of_ids", [False, True])
def test_a_step_follows_the_gradient_of_the_equation(pairs, of_ids):
    """One step of plain SGD over all pairs: loss, gradient norm and new weights are those of the hand-written loss.

    The reference is another model than the policy, so that the loss is not log 2 to begin with.
    """
    model, reference = decoder(), decoder()
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.05 * torch.randn_like(p))
    mine = decoder()
    loss = by_hand(mine, copy.deepcopy(reference), pairs)
    loss.backward()
    assert abs(loss.item() - np.log(2)) > 1e-4
    norm = torch.nn.utils.get_total_norm([p.grad for p in mine.parameters()])
    if of_ids:
        pairs = Dataset.from_dict(
            {f"{name}_ids": world.tokenizer()(list(pairs[name]))["input_ids"] for name in pairs[0]}
        )
    sgd = {"optim": "sgd", "learning_rate": 0.1, "warmup_steps": 0, "max_grad_norm": 1e9, "max_steps": 1}
    _, log = run(pairs, model, {"ref_model": reference}, per_device_train_batch_size=len(pairs), **sgd)
    assert log["loss"].item() == pytest.approx(loss.item(), abs=ROUNDING)
    assert log["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-3)
    for ours, theirs in zip(mine.parameters(), model.parameters()):
        assert_close(ours.detach() - 0.1 * ours.grad, theirs)


def test_the_start_is_the_reference_where_none_is_given(pairs):
    logs = [run(pairs, max_steps=30)[1].drop(columns="seconds") for _ in range(2)]
    assert logs[0].equals(logs[1]), "equal seeds give equal runs"
    assert logs[0]["loss"].iloc[0] == pytest.approx(np.log(2), abs=ROUNDING)
    assert logs[0]["margin"].iloc[0] == pytest.approx(0, abs=ROUNDING)
    assert logs[0]["step"].tolist() == list(range(1, 31)) and np.isfinite(logs[0].to_numpy()).all()


def test_a_consistent_preference_is_learnt(pairs):
    always = pairs.map(lambda row: {"chosen": " where ? <eos>", "rejected": " red-mug desk <eos>"})
    model, log = run(always, max_steps=30)
    assert log["margin"].iloc[-1] > 0.5 and log["accuracy"].iloc[-1] == 1
    assert log["loss"].iloc[-1] < 0.5 and not model.training


def test_what_a_run_leaves_behind(tmp_path, pairs):
    """Snapshots along the way, progress, and a saved model that may use its cache: the trainer has forbidden it."""
    ticks = []
    how = {"snapshots": tmp_path / "s", "snapshot_every": 3, "progress": lambda *now: ticks.append(now)}
    model, _ = run(pairs, options=how | {"save": tmp_path / "model"})
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == ["step_000003.safetensors", "step_000006.safetensors"] and ticks[-1] == (6, 6)
    saved, _ = models.load_decoder(tmp_path / "model")
    last = load_file(tmp_path / "s" / names[-1])
    for name, tensor in model.state_dict().items():
        assert torch.equal(last.get(name, tensor), tensor) and torch.equal(saved.state_dict()[name], tensor)
    assert model.config.use_cache and saved.config.use_cache


def test_what_would_change_the_pairs_is_refused(pairs):
    joined = pairs.map(lambda row: {"chosen": row["chosen"].strip()})
    with pytest.raises(CandorError, match="begin completions with a space"):
        run(joined)
    with pytest.raises(CandorError, match="kept"):
        run(pairs, max_length=6)


def test_the_first_bad_loss_ends_the_run(pairs):
    model = decoder()
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(DivergedError, match="lower the learning rate"):
        run(pairs, model)

"""DPO by TRL: its loss and gradient against the equation, what a run leaves behind, what it refuses."""

import copy

import numpy as np
import pytest
import torch
from candor.claims.grounding_loss import world
from candor.core.errors import CandorError, DivergedError
from candor.training import dpo, models
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


def run(tmp_path, pairs, model=None, **how):
    model = model or decoder()
    settings = {"seed": 1, "max_steps": 6, "beta": BETA, "learning_rate": 1e-2, "batch_size": 8, "logging_steps": 1}
    extra = {name: how.pop(name) for name in ("snapshots", "snapshot_every", "progress", "ref_model") if name in how}
    config = dpo.configuration(tmp_path / "trainer", **(settings | how))
    return model, dpo.train(model, world.tokenizer(), pairs, config, **extra)


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


def test_a_step_follows_the_gradient_of_the_equation(tmp_path, pairs):
    """One step of plain SGD over all pairs: loss, gradient norm and new weights are those of the hand-written loss.

    The reference is another model than the policy, so that the loss is not log 2 to begin with.
    """
    model, reference = decoder(), decoder()
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.05 * torch.randn_like(p))
    mine, judge = decoder(), copy.deepcopy(reference)
    loss = by_hand(mine, judge, pairs)
    loss.backward()
    assert abs(loss.item() - np.log(2)) > 1e-4
    norm = torch.nn.utils.get_total_norm([p.grad for p in mine.parameters()])
    _, log = run(
        tmp_path,
        pairs,
        model,
        ref_model=reference,
        max_steps=1,
        batch_size=len(pairs),
        optim="sgd",
        learning_rate=0.1,
        warmup_steps=0,
        max_grad_norm=1e9,
    )
    assert log["loss"].item() == pytest.approx(loss.item(), abs=ROUNDING)
    assert log["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-3)
    for ours, theirs in zip(mine.parameters(), model.parameters()):
        assert_close(ours.detach() - 0.1 * ours.grad, theirs)


def test_the_start_is_the_reference_where_none_is_given(tmp_path, pairs):
    _, log = run(tmp_path, pairs, max_steps=30)
    assert log["loss"].iloc[0] == pytest.approx(np.log(2), abs=ROUNDING)
    assert log["margin"].iloc[0] == pytest.approx(0, abs=ROUNDING)
    assert log["step"].tolist() == list(range(1, 31))
    assert np.isfinite(log.to_numpy()).all()


def test_a_consistent_preference_is_learnt(tmp_path, pairs):
    always = pairs.map(lambda row: {"chosen": " where ? <eos>", "rejected": " red-mug desk <eos>"})
    model, log = run(tmp_path, always, max_steps=30)
    assert log["margin"].iloc[-1] > 0.5 and log["accuracy"].iloc[-1] == 1
    assert log["loss"].iloc[-1] < 0.5
    assert not model.training


def test_snapshots_and_progress(tmp_path, pairs):
    seen = []
    model, _ = run(
        tmp_path, pairs, snapshots=tmp_path / "s", snapshot_every=3, progress=lambda *now: seen.append(now), max_steps=6
    )
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == ["step_000003.safetensors", "step_000006.safetensors"]
    last = load_file(tmp_path / "s" / names[-1])
    for name, tensor in model.state_dict().items():
        if name in last:
            assert torch.equal(last[name], tensor)
    assert seen[-1] == (6, 6)


def test_equal_seeds_give_equal_runs(tmp_path, pairs):
    logs = [run(tmp_path / str(i), pairs)[1].drop(columns="seconds") for i in range(2)]
    assert logs[0].equals(logs[1])


def test_a_completion_that_would_melt_into_the_prompt_is_refused(tmp_path, pairs):
    joined = pairs.map(lambda row: {"chosen": row["chosen"].strip()})
    with pytest.raises(CandorError, match="begin completions with a space"):
        run(tmp_path, joined)


def test_pairs_that_the_trainer_would_drop_are_refused(tmp_path, pairs):
    with pytest.raises(CandorError, match="kept"):
        run(tmp_path, pairs, max_length=6)


def test_the_first_bad_loss_ends_the_run(tmp_path, pairs):
    model = decoder()
    with torch.no_grad():
        model.lm_head.weight[3] = torch.nan
    with pytest.raises(DivergedError):
        run(tmp_path, pairs, model)


def test_every_default_that_could_surprise_is_stated(tmp_path):
    config = dpo.configuration(tmp_path, seed=3, max_steps=7, beta=0.2, learning_rate=1e-4, batch_size=5)
    assert config.loss_type == ["sigmoid"] and config.max_length is None and config.precompute_ref_log_probs
    assert not (config.bf16 or config.fp16 or config.gradient_checkpointing)
    assert (config.seed, config.max_steps, config.beta, config.per_device_train_batch_size) == (3, 7, 0.2, 5)
    assert config.warmup_steps == 10 and config.lr_scheduler_type == "constant_with_warmup"
    assert (
        dpo.configuration(
            tmp_path, seed=3, max_steps=7, beta=0.2, learning_rate=1e-4, batch_size=5, warmup_steps=2
        ).warmup_steps
        == 2
    )

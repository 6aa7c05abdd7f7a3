"""The house's own supervised loops: optimiser, schedule and gradient clip of each, as the briefs say."""

import numpy as np
import pytest
import torch
import wired
from candor.core import settings as config
from candor.train import models, sft

TOKENS, SPOKEN = np.array([[3, 4, 5, 1]] * 8), np.array([[False, True, True, True]] * 8)
FIXED = {"steps": 2, "batch_size": 4, "lr": 0.01, "seed": 0}
LOOPS = {  # loop: its weight decay, the share of the steps in which a one-cycle rate rises (None: constant)
    "documents": (lambda m: sft.train(m, TOKENS, batch_size=4, lr=0.01, pad=0), 0.01, 0.3),
    "responses": (lambda m: sft.train_responses(m, TOKENS, SPOKEN, **FIXED), 0.01, 0.1),
    "sums": (
        lambda m: sft.supervised(m, TOKENS, TOKENS, one_cycle=True, weight_decay=0.02, **FIXED),
        0.02,
        0.3,
    ),
    "traces": (lambda m: sft.supervised(m, TOKENS, TOKENS, **FIXED), 0.0, None),
}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_keeps_its_recipe(name, monkeypatch):
    made, clipped, (loop, decay, rise) = {}, [], LOOPS[name]

    def noted(module, kind):
        real = getattr(module, kind)

        def make(*args, **given):
            made[kind] = given
            return real(*args, **given)

        monkeypatch.setattr(module, kind, make)

    noted(torch.optim, "AdamW")
    noted(torch.optim.lr_scheduler, "OneCycleLR")
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda weights, most: clipped.append(most))
    loop(models.new_decoder(8, 0, 1, hidden_size=8, layers=1, heads=1, mlp=8))
    assert made["AdamW"] == {"lr": 0.01, "weight_decay": decay, "fused": True} and clipped == [1.0, 1.0]
    cycle = made.get("OneCycleLR")
    assert (cycle and (cycle["max_lr"], cycle["total_steps"], cycle.get("pct_start", 0.3))) == (
        rise and (0.01, 2, rise)
    )


BASES = ("witnesses/expert", "sample_tests/standard", "reference_game/standard", "arithmetic/standard")


def test_every_seed_has_first_weights_of_its_own(tmp_path_factory):
    with wired.noted(tmp_path_factory, config.load("smoke")) as made:
        for place in BASES:
            one, other = (made(f"{place}/base", seed).trainings[0].first_weights for seed in (11, 12))
            assert not torch.equal(one, other), place


def test_every_world_that_trains_has_its_tables():
    assert {step.world for step in wired.KNOWN.values() if step.trains} == wired.WORLDS

"""The size sweep's steps: the home's own, in another width and nothing else."""

import pytest
from candor.claims.model_size import run as sizes
from candor.core import fingerprint
from candor.core import settings as config
from candor.core import step as steps
from candor.core.settings import Config
from candor.run import plan as graph
from candor.run import steps as experiments

KNOWN = experiments.steps()


def context(key, settings):
    return steps.Context(KNOWN[key], 11, settings, None, {}, None)


@pytest.mark.parametrize("world", sizes.HOMES)
@pytest.mark.parametrize("size", ["size_30k", sizes.HOUSE, "size_500k", "size_130m"])
def test_parameters_are_those_of_the_model_that_is_built(world, size):
    import torch
    from candor.train import models

    laptop = config.load("laptop")
    house = laptop.world[world]
    given = Config({"hidden_size": 64, "heads": 4, "layers": house.layers, "mlp": house.mlp})
    shape = given if size == sizes.HOUSE else sizes.sized(context(f"{world}/{size}/base", given)).settings
    with torch.device("meta"):
        model = models.new_decoder(40 if world == "arithmetic" else _words(), 0, 1, **shape)
    assert model.num_parameters() == sizes.parameters(world, size, laptop)


def _words():
    from candor.witnesses import world as witnesses

    return len(witnesses.VOCABULARY)


def test_a_size_differs_from_the_house_in_width_and_in_what_follows_it():
    given = Config({"hidden_size": 64, "heads": 4, "layers": 3, "mlp": 128, "initializer_range": 0.1, "base_lr": 4e-3})
    found = sizes.sized(context("arithmetic/size_2m/base", given))
    wide = {"hidden_size": 256, "heads": 4, "layers": 3, "mlp": 512, "initializer_range": 0.05, "base_lr": 1e-3}
    assert found.settings.to_dict() == wide
    assert found.step.key == "arithmetic/standard/base" and found.seed == 11
    small = sizes.sized(context("witnesses/size_30k/rlvr", Config({"grpo_lr": 3e-4, "grpo_steps": 400}))).settings
    assert small.to_dict() == {"grpo_lr": 6e-4, "grpo_steps": 400}
    assert sizes.sized(context("witnesses/size_130m/base", given)).settings.heads == 32


def test_only_the_sizes_that_the_scale_names_are_made_and_each_on_its_seeds():
    plan = graph.plan("sweep")
    made = {(key.split("/")[1], seed) for key, seed in plan.runs()}
    assert {seed for setting, seed in made if setting == "size_500k"} == set(plan.config["sizes"]["size_500k"])
    assert not any(setting in ("size_8m", "size_130m") for setting, _ in made)
    assert not any("size_" in key for key, _ in graph.plan("laptop").runs())
    # Sizes do not wait for one another.
    for batch in plan.batches().values():
        assert len({key.split("/")[1] for key in batch.keys}) == 1


def test_a_size_is_stale_when_what_its_home_uses_changes(monkeypatch):
    settings = config.load("sweep")
    key = "witnesses/size_30k/rlcr"
    assert {"candor.rewards:correct", "candor.witnesses.run:arm"} <= set(
        fingerprint.used(KNOWN[key].make, *KNOWN[key].uses)
    )
    other = config.load("sweep", overrides={"world": {"witnesses": {"grpo_steps": 401}}})
    assert steps.fingerprint(KNOWN[key], 11, KNOWN, settings) != steps.fingerprint(KNOWN[key], 11, KNOWN, other)


@pytest.mark.parametrize("world", sizes.HOMES)
def test_every_arm_is_made_and_evaluated_in_another_size(world, tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    settings = config.load("smoke", overrides={"sizes": {"size_30k": [11]}})
    for name in sizes.names(world):
        result, made = steps.run(f"{world}/size_30k/{name}", 11, KNOWN, settings)
        assert made
        if name.startswith("eval_"):
            assert len(result.table("summary")) == 1

"""Computing every prompt once a group changes nothing but the time: tokens, log-probabilities, gradients, a run."""

import copy
import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from candor import rewards
from candor.core.errors import DivergedError
from candor.shared_prompt import group_log_probs, left_pad, sample_groups
from candor.training import grpo, models, sft
from candor.witnesses import world
from numerics import ROUNDING, assert_close
from trl import GRPOTrainer

PROMPTS, GROUP, LENGTH = 4, 4, 8
TERMS, WEIGHTS = [rewards.correct, rewards.score("brier"), rewards.well_formed], [1.0, 1.0, 0.5]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Folder of a tiny decoder that has seen enough documents to write some itself."""
    models.quiet()
    torch.manual_seed(0)
    model = models.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, hidden_size=32, layers=2, heads=4, mlp=64)
    documents = world.documents(150 * 64, world.CROWDS["expert"], world.stream("documents", 0))
    log = sft.train(model, documents, batch_size=64, lr=8e-3, pad=world.PAD)
    assert log["loss"].iloc[-1] < 0.6 * math.log(len(world.VOCABULARY))
    folder = tmp_path_factory.mktemp("base")
    models.save_decoder(model, world.tokenizer(), folder)
    return folder


def trainer(base, tmp_path, kind, **settings):
    model, tokenizer = models.load_decoder(base)
    config = grpo.configuration(
        tmp_path / "trainer",
        **{
            "per_device_train_batch_size": PROMPTS * GROUP,
            "num_generations": GROUP,
            "max_completion_length": LENGTH,
            "learning_rate": 1e-3,
            "max_steps": 30,
            "seed": 5,
            **settings,
        },
    )
    config.reward_weights = WEIGHTS
    return kind(
        model=model,
        args=config,
        reward_funcs=TERMS,
        train_dataset=world.prompts("train", 5, 200),
        processing_class=tokenizer,
    )


def run(base, tmp_path, kind, terms=TERMS, weights=WEIGHTS, steps=30, **settings):
    """A whole run by `grpo.train`: its log and the trained model."""
    model, tokenizer = models.load_decoder(base)
    config = grpo.configuration(
        tmp_path / "trainer",
        per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP,
        max_completion_length=LENGTH,
        max_steps=steps,
        seed=5,
        **{"learning_rate": 1e-3, "logging_steps": 1} | settings,
    )
    dataset = world.prompts("train", 5, 200)
    return grpo.train(model, tokenizer, dataset, terms, weights, config, trainer_class=kind), model


def test_the_sampler_draws_what_generate_draws(base):
    model, _ = models.load_decoder(base)
    model.eval()
    prompts = world.prompt_tokens(world.sample_questions(8, world.stream("train", 1)))
    assert len(set(map(len, prompts))) > 1, "prompts of several lengths, so that some are padded"
    for temperature in (0.7, 2.0):
        ids, mask = left_pad([row for row in prompts for _ in range(GROUP)], world.PAD, "cpu")
        torch.manual_seed(3)
        with torch.no_grad():
            theirs = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=LENGTH,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
            )[:, ids.shape[1] :]
        torch.manual_seed(3)
        ours = sample_groups(model, prompts, GROUP, LENGTH, temperature)
        assert torch.equal(ours, theirs)
        assert len(np.unique(ours.numpy(), axis=0)) > GROUP, "the draws differ"


def test_the_trainer_samples_the_tokens_that_trl_samples(base, tmp_path):
    batches = {}
    for kind in (GRPOTrainer, grpo.SharedPromptGRPOTrainer):
        one = trainer(base, tmp_path, kind, temperature=2.0)
        torch.manual_seed(9)
        inputs = [row for row in one.train_dataset.select(range(PROMPTS)) for _ in range(GROUP)]
        batches[kind] = one._generate_and_score_completions(inputs)
    plain, ours = batches.values()
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"):
        assert torch.equal(plain[name], ours[name]), name
    assert torch.equal(plain["advantages"], ours["advantages"])
    assert plain["completion_mask"].sum() < plain["completion_mask"].numel(), "some completions end early"


def scored(base, tmp_path, shuffle=True):
    """A batch as TRL makes it: left-padded prompts, right-padded completions, rows in any order."""
    one = trainer(base, tmp_path, grpo.SharedPromptGRPOTrainer)
    one.model.eval()
    questions = world.sample_questions(PROMPTS, world.stream("train", 2))
    # Twice the same question: its two groups must not be mixed up.
    prompts = world.prompt_tokens(questions)[:-1] + world.prompt_tokens(questions)[:1]
    torch.manual_seed(4)
    completions = sample_groups(one.model, prompts, GROUP, LENGTH, temperature=2.0)  # some end early, some late
    ids, mask = left_pad([row for row in prompts for _ in range(GROUP)], world.PAD, "cpu")
    ended = (completions == world.EOS).long().cumsum(1) - (completions == world.EOS).long()
    order = torch.randperm(len(ids)) if shuffle else torch.arange(len(ids))
    rows = torch.cat([ids, completions], 1)[order], torch.cat([mask, 1 - ended.clamp(max=1)], 1)[order]
    return one, *rows, completions.shape[1]


def test_log_probs_entropies_and_gradients_are_trls(base, tmp_path):
    one, ids, mask, keep = scored(base, tmp_path)
    counted = mask[:, -keep:].bool()
    weight = torch.randn(counted.shape, generator=torch.Generator().manual_seed(0)) * counted
    found = {}
    for kind in (GRPOTrainer, grpo.SharedPromptGRPOTrainer):
        one.model.zero_grad()
        log_probs, entropies, _ = kind._get_per_token_logps_and_entropies(
            one, one.model, ids, mask, keep, compute_entropy=True
        )
        (log_probs * weight).sum().backward()
        gradients = {name: p.grad.clone() for name, p in one.model.named_parameters()}
        found[kind] = log_probs.detach()[counted], entropies[counted], gradients
    plain, ours = found.values()
    assert_close(ours[0], plain[0], "log-probabilities")
    assert_close(ours[1], plain[1], "entropies")
    assert plain[0].min() < -0.5 and plain[1].max() > 0.5, "not a trivial batch"
    for name, gradient in plain[2].items():
        assert_close(ours[2][name], gradient, name)


def test_log_probs_are_those_of_one_row_at_a_time(base):
    """Against the plainest computation: every document alone, no padding, no mask."""
    model, _ = models.load_decoder(base)
    model.eval()
    prompts = world.prompt_tokens(world.sample_questions(3, world.stream("train", 6)))
    torch.manual_seed(0)
    completions = sample_groups(model, prompts, GROUP, LENGTH, temperature=2.0)
    ids, mask = left_pad(prompts, world.PAD, "cpu")
    ours, entropies = group_log_probs(model, ids, mask, completions.view(3, GROUP, -1), temperature=0.7)
    for p, prompt in enumerate(prompts):
        for g in range(GROUP):
            row = torch.tensor([prompt + completions[p * GROUP + g].tolist()])
            logits = model(input_ids=row).logits[0, len(prompt) - 1 : -1] / 0.7
            log_probs = logits.log_softmax(-1)
            chosen = log_probs.gather(1, row[0, len(prompt) :, None])[:, 0]
            assert_close(ours[p, g], chosen)
            assert_close(entropies[p, g], -(log_probs.exp() * log_probs).sum(-1))


@pytest.mark.parametrize("settings", [{}, {"beta": 0.1}, {"scale_rewards": "group", "temperature": 0.8}])
def test_thirty_steps_are_the_same_run(base, tmp_path, settings):
    logs = {}
    for kind in (GRPOTrainer, grpo.SharedPromptGRPOTrainer):
        log, model = run(base, tmp_path, kind, **settings)
        logs[kind] = log.drop(columns="seconds"), model
    (plain, plain_model), (ours, our_model) = logs.values()
    assert len(ours) == 30 and list(plain) == list(ours)
    assert ("kl" in ours) == ("beta" in settings)
    if "beta" in settings:
        assert ours["kl"].iloc[0] == pytest.approx(0, abs=ROUNDING), "the anchor is the base that training starts from"
        assert ours["kl"].iloc[-1] > 1e-4, "and stays there while the policy moves"
    pd.testing.assert_frame_equal(plain, ours, rtol=1e-3, atol=1e-4)
    start = models.load_decoder(base)[0].state_dict()
    for (name, a), (_, b) in zip(plain_model.named_parameters(), our_model.named_parameters()):
        # Adam makes whole steps out of gradients that are nothing but rounding: compare norms, not single weights.
        assert (a - b).norm() < 0.01 * (a - start[name]).norm(), name


def test_broken_groups_fall_back_loudly_to_trls_pass(base, tmp_path):
    one, ids, mask, keep = scored(base, tmp_path, shuffle=False)
    ids, mask = ids[:-1], mask[:-1]  # a group has lost a member
    with pytest.warns(UserWarning, match="falling back to TRL's slower pass"):
        ours, _, _ = one._get_per_token_logps_and_entropies(one.model, ids, mask, keep)
    plain, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(one, one.model, ids, mask, keep)
    assert torch.equal(plain, ours)


def test_whole_groups_do_not_fall_back(base, tmp_path):
    one, ids, mask, keep = scored(base, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one._get_per_token_logps_and_entropies(one.model, ids, mask, keep)


def test_scattered_prompts_are_refused(base, tmp_path):
    one = trainer(base, tmp_path, grpo.SharedPromptGRPOTrainer)
    a, b = one.train_dataset["prompt"][:2]
    with pytest.raises(ValueError, match="neighbours"):
        one._sample([a, b] * GROUP, one)


def test_the_log_has_a_row_every_so_often_with_every_reward(base, tmp_path):
    log, _ = run(base, tmp_path, grpo.SharedPromptGRPOTrainer, steps=5, logging_steps=2)
    assert log["step"].tolist() == [2, 4, 5]
    assert {"reward", "frac_reward_zero_std", "entropy", "clipped_ratio", "mean_length", "seconds"} <= set(log)
    total = sum(w * log[term.__name__] for w, term in zip(WEIGHTS, TERMS))
    np.testing.assert_allclose(log["reward"], total, atol=ROUNDING)
    assert (log["seconds"].diff().dropna() > 0).all()


def test_rewards_see_the_columns_of_their_own_question(base, tmp_path):
    seen = []

    def spy(prompts, completions, truth, posterior, **_):
        seen.append((prompts, completions, truth, posterior))
        return [0.0] * len(prompts)

    run(base, tmp_path, grpo.SharedPromptGRPOTrainer, terms=[spy], weights=[1.0], steps=2)
    rows = {row["prompt"]: row for row in world.prompts("train", 5, 200)}
    assert len(seen) == 2
    for prompts, completions, truth, posterior in seen:
        assert len(prompts) == PROMPTS * GROUP and len(set(completions)) > 1
        for i, prompt in enumerate(prompts):
            assert prompt == prompts[i // GROUP * GROUP]
            np.testing.assert_allclose(posterior[i], rows[prompt]["posterior"])
            assert truth[i] == truth[i // GROUP * GROUP], "a group shares one truth"


def test_snapshots_are_the_weights_along_the_way(base, tmp_path):
    from safetensors.torch import load_model

    model, tokenizer = models.load_decoder(base)
    before = copy.deepcopy(model.state_dict())
    config = grpo.configuration(
        tmp_path / "trainer",
        per_device_train_batch_size=PROMPTS * GROUP,
        num_generations=GROUP,
        max_completion_length=LENGTH,
        learning_rate=1e-3,
        max_steps=4,
    )
    ticks = []
    grpo.train(
        model,
        tokenizer,
        world.prompts("train", 5, 200),
        TERMS,
        WEIGHTS,
        config,
        snapshots=tmp_path / "snapshots",
        snapshot_every=2,
        progress=lambda step, total: ticks.append((step, total)),
    )
    paths = sorted((tmp_path / "snapshots").iterdir())
    assert [p.name for p in paths] == ["step_000002.safetensors", "step_000004.safetensors"]
    assert ticks[-1] == (4, 4)
    loaded, _ = models.load_decoder(base)
    for path in paths:
        load_model(loaded, str(path))
        assert any(not torch.equal(v, before[k]) for k, v in loaded.state_dict().items())
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in loaded.state_dict().items())


@pytest.mark.parametrize("poison", ["reward", "rate"])
def test_divergence_is_one_sentence(base, tmp_path, poison):
    def infinite(completions, **_):
        return [float("inf") if i % 2 else 0.0 for i in range(len(completions))]

    terms, settings = ([infinite], {}) if poison == "reward" else (TERMS[:1], {"learning_rate": 1e38})
    with pytest.raises(DivergedError, match=r"^The (loss|weights) stopped being finite.*\.$"):
        run(base, tmp_path, grpo.SharedPromptGRPOTrainer, terms=terms, weights=[1.0], steps=6, **settings)


def test_another_error_stays_itself(base, tmp_path):
    def broken(completions, **_):
        raise KeyError("no such column")

    with pytest.raises(KeyError, match="no such column"):
        run(base, tmp_path, grpo.SharedPromptGRPOTrainer, terms=[broken], weights=[1.0], steps=2)

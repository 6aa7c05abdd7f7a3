"""Computing every prompt once a group changes nothing but the time: tokens, log-probabilities, gradients, a run."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from candor import rewards
from candor.core.errors import CandorError, DivergedError
from candor.train import fit, models, policy, sft
from candor.train.policy import GRPOTrainer, SharedPromptGRPOTrainer
from candor.train.sharing import group_log_probs, left_pad, sample_groups
from candor.witnesses import world
from numerics import ROUNDING, assert_close
from trl import GRPOConfig

PROMPTS, GROUP, LENGTH = 4, 4, 8
TERMS, WEIGHTS = [rewards.correct, rewards.score("brier"), rewards.well_formed], [1.0, 1.0, 0.5]
SETTINGS = {
    "per_device_train_batch_size": PROMPTS * GROUP,
    "num_generations": GROUP,
    "max_completion_length": LENGTH,
    "learning_rate": 1e-3,
    "max_steps": 30,
    "seed": 5,
    "logging_steps": 1,
}


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


def loaded(base, lora=False):
    """The decoder; its adapters already say something."""
    model = models.load_decoder(base)[0]
    if not lora:
        return model
    torch.manual_seed(6)
    model = models.adapted(model, {"rank": 4, "alpha": 8})
    for name, weights in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.1)
    return model


def trainer(model, folder, kind=SharedPromptGRPOTrainer, **changes):
    return kind(
        model=model,
        args=fit.configuration(GRPOConfig, policy.GRPO | SETTINGS | {"reward_weights": WEIGHTS} | changes, folder),
        reward_funcs=TERMS,
        train_dataset=world.prompts("train", 5, 200),
        processing_class=world.tokenizer(),
    )


def run(base, terms=TERMS, weights=WEIGHTS, options=None, **changes):
    """A whole run by the recipe: its log and the trained model."""
    model, tokenizer = models.load_decoder(base)
    dataset = world.prompts("train", 5, 200)
    return policy.grpo(model, tokenizer, dataset, terms, weights, SETTINGS | changes, **(options or {})), model


@pytest.mark.parametrize(("temperature", "lora"), [(0.7, False), (2.0, False), (2.0, True)])
def test_the_sampler_draws_what_generate_draws(base, temperature, lora):
    model = loaded(base, lora).eval()
    prompts = world.prompt_tokens(world.sample_questions(8, world.stream("train", 1)))
    assert len(set(map(len, prompts))) > 1, "prompts of several lengths, so that some are padded"
    ids, mask = left_pad([row for row in prompts for _ in range(GROUP)], world.PAD, "cpu")
    how = {"max_new_tokens": LENGTH, "do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    torch.manual_seed(3)
    with torch.no_grad():
        theirs = model.generate(input_ids=ids, attention_mask=mask, **how)[:, ids.shape[1] :]
    torch.manual_seed(3)
    ours = sample_groups(model, prompts, GROUP, LENGTH, temperature)
    assert torch.equal(ours, theirs)
    assert len(np.unique(ours.numpy(), axis=0)) > GROUP, "the draws differ"


def test_the_trainer_samples_the_tokens_that_trl_samples(base, tmp_path):
    batches = []
    for kind in (GRPOTrainer, SharedPromptGRPOTrainer):
        one = trainer(loaded(base), tmp_path, kind, temperature=2.0)
        torch.manual_seed(9)
        inputs = [row for row in one.train_dataset.select(range(PROMPTS)) for _ in range(GROUP)]
        batches.append(one._generate_and_score_completions(inputs))
    plain, ours = batches
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"):
        assert torch.equal(plain[name], ours[name]), name
    assert plain["completion_mask"].sum() < plain["completion_mask"].numel(), "some completions end early"


def batch(model, shuffle=True):
    """A batch as TRL makes it: left-padded prompts, right-padded completions, rows in any order; completions' width."""
    questions = world.sample_questions(PROMPTS, world.stream("train", 2))
    # Twice the same question: its two groups must not be mixed up.
    prompts = world.prompt_tokens(questions)[:-1] + world.prompt_tokens(questions)[:1]
    torch.manual_seed(4)
    completions = sample_groups(model.eval(), prompts, GROUP, LENGTH, temperature=2.0)  # some end early, some late
    ids, mask = left_pad([row for row in prompts for _ in range(GROUP)], world.PAD, "cpu")
    ended = (completions == world.EOS).long().cumsum(1) - (completions == world.EOS).long()
    order = torch.randperm(len(ids)) if shuffle else torch.arange(len(ids))
    rows = torch.cat([ids, completions], 1)[order], torch.cat([mask, 1 - ended.clamp(max=1)], 1)[order]
    return *rows, completions.shape[1]


@pytest.mark.parametrize("lora", [False, True])
def test_log_probs_entropies_and_gradients_are_trls(base, tmp_path, lora):
    one = trainer(loaded(base, lora), tmp_path)
    ids, mask, keep = batch(one.model)
    counted = mask[:, -keep:].bool()
    weight = torch.randn(counted.shape, generator=torch.Generator().manual_seed(0)) * counted
    both = []
    for kind in (GRPOTrainer, SharedPromptGRPOTrainer):
        one.model.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # whole groups do not fall back
            log_probs, entropies, _ = kind._get_per_token_logps_and_entropies(
                one, one.model, ids, mask, keep, compute_entropy=True
            )
        (log_probs * weight).sum().backward()
        gradients = {name: p.grad.clone() for name, p in one.model.named_parameters() if p.requires_grad}
        both.append((log_probs.detach()[counted], entropies[counted], gradients))
    plain, ours = both
    assert_close(ours[0], plain[0], "log-probabilities")
    assert_close(ours[1], plain[1], "entropies")
    assert plain[0].min() < -0.5 and plain[1].max() > 0.5, "not a trivial batch"
    for name, gradient in plain[2].items():
        assert_close(ours[2][name], gradient, name)


def test_coarse_weights_are_scored_in_float32(base, tmp_path):
    one = trainer(loaded(base), tmp_path)
    ids, mask, keep = batch(one.model)
    counted, values = mask[:, -keep:].bool(), []
    for dtype in (torch.float32, torch.bfloat16):
        values.append(one._get_per_token_logps_and_entropies(one.model.to(dtype), ids, mask, keep)[0][counted])
    assert values[1].dtype == torch.float32 and (values[0] - values[1]).abs().mean() < 0.05
    assert (values[1] != values[1].bfloat16().float()).any(), "not rounded on the way"


def test_log_probs_are_those_of_one_row_at_a_time(base):
    """Against the plainest computation: every document alone, no padding, no mask."""
    model = loaded(base).eval()
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
            assert_close(ours[p, g], log_probs.gather(1, row[0, len(prompt) :, None])[:, 0])
            assert_close(entropies[p, g], -(log_probs.exp() * log_probs).sum(-1))


@pytest.mark.parametrize("changes", [{}, {"beta": 0.1}, {"scale_rewards": "group", "temperature": 0.8}])
def test_thirty_steps_are_the_same_run(base, changes):
    (plain, plain_model), (ours, our_model) = (
        run(base, options={"trainer_class": kind}, **changes) for kind in (GRPOTrainer, SharedPromptGRPOTrainer)
    )
    assert len(ours) == 30 and list(plain) == list(ours)
    assert ("kl" in ours) == ("beta" in changes)
    if "beta" in changes:
        policy.check_anchor(ours)
        assert ours["kl"].iloc[0] == pytest.approx(0, abs=ROUNDING), "the anchor is the base that training starts from"
        assert ours["kl"].iloc[-1] > 1e-4, "and stays there while the policy moves"
        with pytest.raises(CandorError, match="anchor is not the start"):
            policy.check_anchor(ours.assign(kl=0.01))
    pd.testing.assert_frame_equal(plain.drop(columns="seconds"), ours.drop(columns="seconds"), rtol=1e-3, atol=1e-4)
    start = loaded(base).state_dict()
    for (name, a), (_, b) in zip(plain_model.named_parameters(), our_model.named_parameters()):
        # Adam makes whole steps out of gradients that are nothing but rounding: compare norms, not single weights.
        assert (a - b).norm() < 0.01 * (a - start[name]).norm(), name


def test_broken_groups_fall_back_loudly_and_scattered_prompts_are_refused(base, tmp_path):
    one = trainer(loaded(base), tmp_path)
    ids, mask, keep = batch(one.model, shuffle=False)
    ids, mask = ids[:-1], mask[:-1]  # a group has lost a member
    with pytest.warns(UserWarning, match="falling back to TRL's slower pass"):
        ours, _, _ = one._get_per_token_logps_and_entropies(one.model, ids, mask, keep)
    plain, _, _ = GRPOTrainer._get_per_token_logps_and_entropies(one, one.model, ids, mask, keep)
    assert torch.equal(plain, ours)
    with pytest.raises(ValueError, match="neighbours"):
        one._generate_single_turn([[4, 5], [6, 7]] * GROUP, None, {}, GROUP)


def test_what_a_run_leaves_behind(base, tmp_path):
    """A row every so often with every reward, the weights along the way, and a model that may use its cache again."""
    ticks = []
    how = {"snapshots": tmp_path / "s", "snapshot_every": 2, "progress": lambda *now: ticks.append(now)}
    log, model = run(base, options=how | {"save": tmp_path / "model"}, max_steps=5, logging_steps=2)
    assert log["step"].tolist() == [2, 4, 5] and ticks[-1] == (5, 5)
    assert {"reward", "frac_reward_zero_std", "entropy", "clipped_ratio", "mean_length", "seconds"} <= set(log)
    total = sum(w * log[term.__name__] for w, term in zip(WEIGHTS, TERMS))
    np.testing.assert_allclose(log["reward"], total, atol=ROUNDING)
    assert (log["seconds"].diff().dropna() > 0).all()
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [f"step_{i:06d}.safetensors" for i in (2, 4)]
    start, along = loaded(base).state_dict(), loaded(base)
    saved, _ = models.load_decoder(tmp_path / "model")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in saved.state_dict().items())
    assert model.config.use_cache and saved.config.use_cache and not model.training
    from safetensors.torch import load_model

    load_model(along, str(tmp_path / "s" / "step_000004.safetensors"))
    for other in (start, model.state_dict()):
        assert any(not torch.equal(v, other[k]) for k, v in along.state_dict().items())


def test_rewards_see_the_columns_of_their_own_question(base):
    seen = []

    def spy(prompts, completions, truth, posterior, **_):
        seen.append((prompts, completions, truth, posterior))
        return [0.0] * len(prompts)

    run(base, [spy], [1.0], max_steps=2)
    rows = {row["prompt"]: row for row in world.prompts("train", 5, 200)}
    assert len(seen) == 2
    for prompts, completions, truth, posterior in seen:
        assert len(prompts) == PROMPTS * GROUP and len(set(completions)) > 1
        for i, prompt in enumerate(prompts):
            assert prompt == prompts[i // GROUP * GROUP]
            np.testing.assert_allclose(posterior[i], rows[prompt]["posterior"])
            assert truth[i] == truth[i // GROUP * GROUP], "a group shares one truth"


@pytest.mark.parametrize("poison", ["reward", "rate"])
def test_divergence_is_one_sentence(base, poison):
    def infinite(completions, **_):
        return [float("inf") if i % 2 else 0.0 for i in range(len(completions))]

    terms, changes = ([infinite], {}) if poison == "reward" else (TERMS[:1], {"learning_rate": 1e38})
    wanted = r"^The (loss|weights) stopped being finite.*: lower the learning rate or the reward\.$"
    with pytest.raises(DivergedError, match=wanted):
        run(base, terms, [1.0], max_steps=6, **changes)


def test_another_error_stays_itself(base):
    def broken(completions, **_):
        raise KeyError("no such column")

    with pytest.raises(KeyError, match="no such column"):
        run(base, [broken], [1.0], max_steps=2)

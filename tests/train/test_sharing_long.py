"""Sharing long prompts changes nothing but the time: log-probabilities, gradients, tokens, a run."""

import warnings

import pytest
import torch
from candor.core.errors import CandorError
from candor.train import fit, models, policy, sharing_long
from candor.train.sharing import left_pad
from candor.train.sharing_long import LongPromptGRPOTrainer, pack, rows_that_fit, sample, share_prompts
from candor.witnesses import world
from numerics import assert_close
from peft import LoraConfig, get_peft_model
from torch.nn.functional import scaled_dot_product_attention
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

PROMPTS, GROUP, LENGTH = 3, 4, 12
TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    models.quiet()


def decoder(lora=False, seed=0, **changes):
    """A tiny Qwen2 with fewer key heads than heads; its adapters already say something."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(
        vocab_size=len(world.VOCABULARY),
        intermediate_size=48,
        max_position_embeddings=256,
        pad_token_id=world.PAD,
        bos_token_id=None,
        eos_token_id=world.EOS,
        initializer_range=0.2,
        **(sizes | changes),
    )
    model = Qwen2ForCausalLM(config)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM"))
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.1)
    return model


def length_of_text(completions, **kwargs):
    """A reward that random weights can differ in."""
    return [float(len(text) % 7) for text in completions]


def trainer(kind, tmp_path, lora=False, **settings):
    house = {
        "per_device_train_batch_size": PROMPTS * GROUP,
        "num_generations": GROUP,
        "max_completion_length": LENGTH,
        "learning_rate": 1e-2,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": 5,
    }
    config = fit.configuration(GRPOConfig, policy.GRPO | house | settings, tmp_path)
    dataset, model = world.prompts("train", 5, 60), decoder(lora)
    if not lora:  # the anchor is loaded from where the model came from
        model.save_pretrained(tmp_path / "base")
        model = Qwen2ForCausalLM.from_pretrained(tmp_path / "base")
    return kind(
        model=model, args=config, reward_funcs=length_of_text, train_dataset=dataset, processing_class=world.tokenizer()
    )


def batch(seed=1):
    """Ragged prompts and completions in TRL's layout, rows in any order; one completion is masked as truncated."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    prompts = [draw(3, 30, int(size)).tolist() for size in (9, 1, 14)]  # of one token: nothing but the last to share
    ids, mask = left_pad([row for row in prompts for _ in range(GROUP)], world.PAD, "cpu")
    completions, lengths = draw(3, 30, len(ids), LENGTH), draw(1, LENGTH + 1, len(ids), 1)
    lengths[0], lengths[1] = LENGTH, 0
    written = (torch.arange(LENGTH) < lengths).long()
    order = torch.randperm(len(ids), generator=generator)
    return torch.cat([ids, completions * written], 1)[order], torch.cat([mask, written], 1)[order]


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_log_probs_entropies_and_gradients_are_those_of_trl(tmp_path, lora, checkpointing):
    ids, mask = batch()
    weights = torch.randn(len(ids), LENGTH, generator=torch.Generator().manual_seed(2))
    found = []
    for kind in (GRPOTrainer, LongPromptGRPOTrainer):
        one = trainer(kind, tmp_path, lora, temperature=0.7)
        if checkpointing:
            one.model.gradient_checkpointing_enable({"use_reentrant": False})
            one.model.enable_input_require_grads()
        one.model.train()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            values, entropies, _ = one._get_per_token_logps_and_entropies(
                one.model, ids, mask, LENGTH, batch_size=5, compute_entropy=True
            )
        (values * weights).sum().backward()
        gradients = {name: p.grad for name, p in one.model.named_parameters() if p.requires_grad}
        assert all(gradient is not None for gradient in gradients.values())
        found.append((values, entropies, gradients))
    (theirs, their_entropies, their_gradients), (ours, our_entropies, our_gradients) = found
    assert theirs.abs().sum() > 100
    assert_close(ours, theirs)
    assert_close(our_entropies, their_entropies)
    for name, gradient in their_gradients.items():
        assert_close(our_gradients[name], gradient, name)


def test_mixed_precision_agrees_as_far_as_it_reaches(tmp_path):
    ids, mask = batch()
    both = []
    for kind in (GRPOTrainer, LongPromptGRPOTrainer):
        one = trainer(kind, tmp_path, bf16=True)
        both.append(one._get_per_token_logps_and_entropies(one.model, ids, mask, LENGTH)[0])
    exact = trainer(GRPOTrainer, tmp_path)
    exact = exact._get_per_token_logps_and_entropies(exact.model, ids, mask, LENGTH)[0]
    theirs, ours = ((values.float() - exact).abs().mean() for values in both)
    assert 0 < ours < 1.5 * theirs < 0.1
    drawn, _ = one._generate_single_turn(batch_prompts_of(ids, mask), None, {}, GROUP)
    assert len(drawn) == len(ids) and max(map(len, drawn)) == LENGTH


def test_a_batch_that_is_masked_whole_has_a_gradient_of_zero(tmp_path):
    one = trainer(LongPromptGRPOTrainer, tmp_path)
    ids, mask = batch()
    mask[:, -LENGTH:] = 0
    values, _, _ = one._get_per_token_logps_and_entropies(one.model, ids, mask, LENGTH)
    assert values.shape == (len(ids), LENGTH) and not values.any()
    values.sum().backward()
    assert not any(p.grad.any() for p in one.model.parameters() if p.grad is not None)


def test_every_prompt_stands_once_and_nothing_is_padded():
    ids, mask = batch()
    packed = pack(ids, mask, LENGTH)
    tokens = int(mask[:, -LENGTH:].sum())
    assert packed.input_ids.shape[1] == (9 - 1) + (1 - 1) + (14 - 1) + tokens
    assert torch.equal(packed.unpack(packed.labels), torch.where(mask[:, -LENGTH:] == 1, ids[:, -LENGTH:], 0))


def test_both_routes_of_attention_are_attention_under_the_groups_mask():
    ids, mask = batch()
    packed, flex = pack(ids, mask, LENGTH), pack(ids, mask, LENGTH, "flex")
    torch.manual_seed(0)
    length = packed.input_ids.shape[1]
    query, key, value = torch.randn(1, 4, length, 8), torch.randn(1, 2, length, 8), torch.randn(1, 2, length, 8)
    # Who sees whom, from the rows themselves: a token sees the tokens before it in some row that holds both.
    visible = torch.zeros(length, length, dtype=torch.bool)
    for group in packed.groups:
        real = torch.zeros(group.index.numel(), dtype=torch.bool)
        real[group.real] = True
        for places, kept in zip(group.index, real.view(group.index.shape)):
            row = torch.cat([torch.arange(group.start, group.start + group.prefix), places[kept]])
            visible[row[:, None], row[None]] |= torch.ones(len(row), len(row), dtype=torch.bool).tril()
    expected = scaled_dot_product_attention(query, key, value, attn_mask=visible, enable_gqa=True).transpose(1, 2)
    module = torch.nn.Module()
    for route in (packed, flex):
        assert_close(route.attend(module, query, key, value, None), expected)


@pytest.mark.parametrize("lora", [False, True])
def test_the_sampler_draws_what_generate_draws(lora):
    model = decoder(lora).eval()
    inner = model.get_base_model() if lora else model
    rows = [row for number, row in enumerate(batch_prompts()) for _ in range((1, 5, 3)[number % 3])]  # cut groups
    ids, mask = left_pad(rows, world.PAD, "cpu")
    eos = [world.EOS, 7]
    length = 90  # longer than a block of keys, so that the caches change their shape; most rows end on the way
    torch.manual_seed(3)
    settings = {"do_sample": True, "temperature": 1.3, "top_k": 0, "top_p": 1.0, "eos_token_id": eos}
    theirs = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=length, **settings)[:, ids.shape[1] :]
    share_prompts(inner)
    torch.manual_seed(3)
    ours = sample(inner, rows, length, eos=eos, pad=world.PAD, temperature=1.3)
    assert len({len(row) for row in ours}) > 5, "rows end at different steps"
    for row, expected in zip(ours, theirs.tolist()):
        assert row == expected[: len(row)] and set(expected[len(row) :]) <= {world.PAD}
    left = torch.rand(1)
    torch.manual_seed(3)
    model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=length, **settings)
    assert torch.rand(1) == left, "no random number more or less"


def batch_prompts_of(ids, mask):
    return sorted(row[kept].tolist() for row, kept in zip(ids[:, :-LENGTH], mask[:, :-LENGTH].bool()))


def batch_prompts():
    return sorted(set(map(tuple, batch_prompts_of(*batch()))))


def test_small_batches_sample_as_generate_does_on_each():
    model = decoder().eval()
    share_prompts(model)
    rows = [list(row) for row in batch_prompts() for _ in range(GROUP)]
    options = {"eos": [world.EOS], "pad": world.PAD}
    torch.manual_seed(3)
    cut = sample(model, rows, LENGTH, rows=5, **options)
    torch.manual_seed(3)
    apart = [
        row for start in range(0, len(rows), 5) for row in sample(model, rows[start : start + 5], LENGTH, **options)
    ]
    assert cut == apart


def test_finished_completions_leave_the_batch(monkeypatch):
    model = decoder().eval()
    share_prompts(model)
    sizes = []
    run = sharing_long._Decoding.step
    monkeypatch.setattr(sharing_long._Decoding, "step", lambda s, t, n: sizes.append(len(t)) or run(s, t, n))
    rows = [list(row) for row in batch_prompts() for _ in range(GROUP)]
    sample(model, rows, 60, eos=[world.EOS, *range(5, 12)], pad=world.PAD)
    assert sizes[0] == len(rows) and sizes[-1] < len(rows) // 2 and sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("lora", "micro_batch"), [(False, PROMPTS * GROUP), (True, 2)])
def test_a_run_is_the_run_of_trl(tmp_path, lora, micro_batch):
    """Two steps with an anchor, from the same seed: same tokens, same weights."""
    found = []
    passes = PROMPTS * GROUP // micro_batch
    settings = {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": passes,
        "steps_per_generation": passes,
        "gradient_checkpointing": True,
        "max_steps": 2,
        "logging_steps": 1,
        "beta": 0.1,
    }
    for kind in (GRPOTrainer, LongPromptGRPOTrainer):
        one = trainer(kind, tmp_path, lora, **settings)
        before = {name: p.detach().clone() for name, p in one.model.named_parameters() if p.requires_grad}
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*slower.*")
            one.train()
        after = {name: p.detach() for name, p in one.model.named_parameters() if p.requires_grad}
        assert any((after[name] - of).abs().max() > 5e-3 for name, of in before.items())
        rows = [row for row in one.state.log_history if "reward" in row]
        found.append((rows, after, list(one._logs["completion"])))
    (their_rows, their_weights, their_texts), (our_rows, our_weights, our_texts) = found
    assert our_texts == their_texts
    # TRL logs entropy and anchor as means of the micro-batches' means, which depend on who meets whom.
    names = ["loss", "reward", "completions/mean_length"] + (["entropy", "kl"] if passes == 1 else [])
    for theirs, ours in zip(their_rows, our_rows, strict=True):
        for name in names:
            assert ours[name] == pytest.approx(theirs[name], abs=2e-5), name
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
    for name, weights in their_weights.items():  # Adam divides by the gradient's size: rounding shows where it is tiny
        assert (our_weights[name] - weights).abs().mean() < 1e-4, name


def test_rows_of_a_prompt_meet_in_a_micro_batch(tmp_path):
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 6, "steps_per_generation": 6}
    seen = {}
    for kind in (GRPOTrainer, LongPromptGRPOTrainer):
        one = trainer(kind, tmp_path, max_steps=1, **settings)
        one.model.train()
        one._prepare_inputs([row for row in one.train_dataset.select(range(PROMPTS)) for _ in range(GROUP)])
        parts = one._buffered_inputs
        seen[kind] = [len({tuple(row) for row in part["prompt_ids"].tolist()}) for part in parts]
        rows = [
            tuple(map(tuple, (part["completion_ids"].tolist()[i], [part["advantages"].tolist()[i]])))
            for part in parts
            for i in range(2)
        ]
        seen[kind, "rows"] = sorted(rows)
    assert seen[LongPromptGRPOTrainer] == [1] * 6 and max(seen[GRPOTrainer]) == 2
    assert seen[LongPromptGRPOTrainer, "rows"] == seen[GRPOTrainer, "rows"]


def test_what_does_not_fit_is_said(tmp_path):
    with pytest.warns(UserWarning, match="slower passes are used, because FlexAttention has no backward pass on a CPU"):
        trainer(lambda **settings: LongPromptGRPOTrainer(attention="flex", **settings), tmp_path)
    with pytest.raises(CandorError, match="'fast' does not exist: choose one of sdpa, flex"):
        trainer(lambda **settings: LongPromptGRPOTrainer(attention="fast", **settings), tmp_path)
    sliding = decoder(use_sliding_window=True, sliding_window=8, max_window_layers=0)
    with pytest.raises(CandorError, match="because not every layer attends to the whole text"):
        share_prompts(sliding)
    with pytest.raises(CandorError, match="call it first"):
        sample(decoder(), [[3]], 2, eos=[world.EOS], pad=world.PAD)
    one = trainer(LongPromptGRPOTrainer, tmp_path, top_k=3)
    with pytest.warns(UserWarning, match="more than a temperature: TRL's slower pass"):
        drawn, _ = one._generate_single_turn([[4, 5, 6]] * GROUP, None, {}, GROUP)
    assert len(drawn) == GROUP


def test_fewer_rows_fit_where_less_is_free_or_groups_are_small():
    model = decoder()
    rows = rows_that_fit(model, 3072, 32, 1536, 1e9)
    assert rows % 32 == 0 and rows > 32
    assert rows_that_fit(model, 3072, 32, 1536, 5e8) < rows
    assert rows_that_fit(model, 3072, 2, 1536, 1e9) < rows
    assert rows_that_fit(model, 3072, 32, 1536, 1.0) == 1

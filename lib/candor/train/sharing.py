"""Many continuations of one prompt, with the prompt computed once.

Sampling a group keeps one key-value row a prompt until the first sampled token; scoring a group, or reading the
model's mind after several given continuations, puts a prompt and all its continuations into one row under a block
mask. All functions work on decoders that transformers builds as `.model` and `.lm_head` (Qwen2, Llama and kin), with or
without LoRA adapters. `sharing_long` is for prompts so long that such a mask would be larger than the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Rows = Sequence[Sequence[SupportsIndex]]  # token ids, in rows of any length


def left_pad(rows: Rows, pad: int, device) -> tuple[Int[Tensor, "rows length"], Int[Tensor, "rows length"]]:
    """Token ids padded on the left, and the mask of the real ones."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, device=device)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, device=device)
        mask[i, width - len(row) :] = 1
    return ids, mask


def of_one_length(rows: Rows, chunk: int) -> Iterator[np.ndarray]:
    """Places of rows of one length, which need no padding, at most `chunk` at a time."""
    lengths = np.array([len(row) for row in rows])
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        yield from np.split(members, range(chunk, len(members), chunk))


def decoder_of(model):
    """The causal language model inside the wrapper of peft, if there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _positions(mask: Int[Tensor, "rows length"]) -> Int[Tensor, "rows length"]:
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _additive(visible: Bool[Tensor, "*rows length length"], dtype: torch.dtype) -> Float[Tensor, "*rows length length"]:
    """A mask as floats: with eager attention a boolean one is added as 0 and 1, silently."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


@torch.no_grad()
def sample_groups(
    model, prompts: Rows, group: int, max_new_tokens: int, temperature: float = 1.0
) -> Int[Tensor, "completions tokens"]:
    """Sample `group` completions of each prompt; each prompt runs through the model once.

    Returns token ids, at most `max_new_tokens`, padded after eos; completions of a prompt are neighbours. Draws in the
    order in which `model.generate` would draw from the repeated prompts. A prompt and all its completions share one
    key-value row: step t adds `group` keys, one a completion.
    """
    model = decoder_of(model)
    config, device = model.config, model.device
    ids, mask = left_pad(prompts, config.pad_token_id, device)
    n, width = ids.shape
    positions = _positions(mask)
    output = model.model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True)
    past, hidden = output.past_key_values, output.last_hidden_state[:, -1].repeat_interleave(group, 0)
    lowest = torch.finfo(model.dtype).min
    prompt_mask = torch.zeros(n, 1, group, width, dtype=model.dtype, device=device)
    prompt_mask.masked_fill_(mask[:, None, None] == 0, lowest)
    own = torch.full((group, group), lowest, dtype=model.dtype, device=device).fill_diagonal_(0)
    running = torch.ones(n * group, dtype=torch.bool, device=device)
    tokens = []
    for step in range(max_new_tokens):
        probabilities = (model.lm_head(hidden).float() / temperature).softmax(-1)
        drawn = torch.multinomial(probabilities, 1).squeeze(1)
        drawn = torch.where(running, drawn, config.pad_token_id)
        tokens.append(drawn)
        running &= drawn != config.eos_token_id
        if step + 1 == max_new_tokens or not running.any():
            break
        visible = torch.cat([prompt_mask, own.repeat(1, step + 1).expand(n, 1, -1, -1)], -1)
        hidden = model.model(
            input_ids=drawn.view(n, group),
            attention_mask=visible,
            position_ids=(positions[:, -1:] + 1 + step).expand(-1, group),
            past_key_values=past,
            use_cache=True,
        ).last_hidden_state.flatten(0, 1)
    return torch.stack(tokens, 1)


@cache
def _block_mask(prompt: int, group: int, length: int, device) -> Bool[Tensor, "all all"]:
    """Who may see whom in a row of one prompt and `group` completions, of prompt + group * length tokens."""
    owner = torch.cat([torch.full((prompt,), -1), torch.arange(group).repeat_interleave(length)]).to(device)
    place = torch.arange(len(owner), device=device)
    causal = place[:, None] >= place[None, :]
    return causal & ((owner[None, :] == -1) | (owner[:, None] == owner[None, :]))


def group_log_probs(
    model,
    prompt_ids: Int[Tensor, "prompts length"],
    prompt_mask: Int[Tensor, "prompts length"],
    completion_ids: Int[Tensor, "prompts group tokens"],
    temperature: float = 1.0,
) -> tuple[Float[Tensor, "prompts group tokens"], Float[Tensor, "prompts group tokens"]]:
    """Log-probabilities and entropies of completions that share their prompts, which are padded on the left.

    One forward over rows of length + group * (tokens - 1): the last token of a completion predicts nothing.
    """
    model = decoder_of(model)
    n, width = prompt_ids.shape
    group, length = completion_ids.shape[1], completion_ids.shape[2] - 1
    ids = torch.cat([prompt_ids, completion_ids[:, :, :-1].reshape(n, group * length)], 1)
    real = torch.cat([prompt_mask.bool(), torch.ones_like(ids[:, width:], dtype=torch.bool)], 1)
    visible = _block_mask(width, group, length, ids.device)[None] & real[:, None, :]
    visible |= torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)  # a padded query must see something
    positions = _positions(prompt_mask)
    after = positions[:, -1:] + 1 + torch.arange(length, device=ids.device).repeat(group)[None]
    hidden = model.model(
        input_ids=ids,
        attention_mask=_additive(visible, model.dtype)[:, None],
        position_ids=torch.cat([positions, after], 1),
        use_cache=False,
    ).last_hidden_state
    first = hidden[:, width - 1 : width].expand(-1, group, -1)[:, :, None]
    rest = hidden[:, width:].reshape(n, group, length, -1)
    log_probs = (model.lm_head(torch.cat([first, rest], 2)).float() / temperature).log_softmax(-1)
    chosen = log_probs.gather(-1, completion_ids[..., None]).squeeze(-1)
    return chosen, -(log_probs.exp() * log_probs).sum(-1)


def token_log_probs(
    model,
    prompt_ids: Int[Tensor, "rows length"],
    prompt_mask: Int[Tensor, "rows length"],
    token_ids: Int[Tensor, "rows 1"],
    temperature: float = 1.0,
) -> tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    """Log-probabilities of single tokens behind prompts padded on the left, and entropies there.

    Each different prompt runs through the model once.
    """
    model = decoder_of(model)
    different, place = prompt_ids.unique(dim=0, return_inverse=True)
    first = torch.zeros(len(different), dtype=torch.long, device=place.device)
    first[place] = torch.arange(len(place), device=place.device)  # any row of a prompt has its mask
    mask = prompt_mask[first]
    hidden = model.model(
        input_ids=different, attention_mask=mask, position_ids=_positions(mask), use_cache=False
    ).last_hidden_state[:, -1]
    log_probs = (model.lm_head(hidden).float() / temperature).log_softmax(-1)
    entropy = -(log_probs.detach().exp() * log_probs.detach()).sum(-1)
    return log_probs[place].gather(1, token_ids), entropy[place, None]


@torch.no_grad()
def branch_hidden(
    model, prompt_ids: Int[Tensor, "prompts length"], tails: Int[Tensor, "tails tokens"]
) -> tuple[Float[Tensor, "prompts hidden"], Float[Tensor, "prompts tails hidden"]]:
    """Hidden states after the prompts and after each tail; every tail follows every prompt.

    The prompts are of one length, without padding.
    """
    model = decoder_of(model)
    n, width = prompt_ids.shape
    count, length = tails.shape
    ids = torch.cat([prompt_ids, tails.reshape(1, -1).expand(n, -1)], 1)
    visible = _additive(_block_mask(width, count, length, ids.device), model.dtype)[None, None].expand(n, 1, -1, -1)
    place = torch.cat([torch.arange(width), width + torch.arange(length).repeat(count)]).to(ids.device)
    hidden = model.model(
        input_ids=ids, attention_mask=visible, position_ids=place.expand(n, -1), use_cache=False
    ).last_hidden_state
    return hidden[:, width - 1], hidden[:, width:].reshape(n, count, length, hidden.shape[-1])[:, :, -1]

"""Many continuations of one prompt, with the prompt computed once.

Sampling a group keeps one key-value row a prompt until the first sampled token; scoring a group, or reading the
model's mind after several given continuations, puts a prompt and all its continuations into one row under a block
mask. All functions work on decoders that transformers builds as `.model` and `.lm_head` (Qwen2, Llama and kin).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch


def left_pad(rows: Sequence[Sequence[int]], pad: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [n, L] padded on the left, and the mask of the real ones [n, L]."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, device=device)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, device=device)
        mask[i, width - len(row) :] = 1
    return ids, mask


@torch.no_grad()
def sample_groups(model, prompts: Sequence[Sequence[int]], group: int, max_new_tokens: int, temperature: float = 1.0):
    """Sample `group` completions of each prompt; each prompt runs through the model once.

    Returns token ids [len(prompts) * group, <= max_new_tokens], padded after eos; completions of a prompt are
    neighbours. Draws in the order in which `model.generate` would draw from the repeated prompts. A prompt and
    all its completions share one key-value row: step t adds `group` keys, one a completion.
    """
    config, device = model.config, model.device
    ids, mask = left_pad(prompts, config.pad_token_id, device)
    n, width = ids.shape
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
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
def _block_mask(prompt: int, group: int, length: int, device) -> torch.Tensor:
    """Who may see whom in a row of one prompt and `group` completions: bool [T, T], T = prompt + group * length."""
    owner = torch.cat([torch.full((prompt,), -1), torch.arange(group).repeat_interleave(length)]).to(device)
    place = torch.arange(len(owner), device=device)
    causal = place[:, None] >= place[None, :]
    return causal & ((owner[None, :] == -1) | (owner[:, None] == owner[None, :]))


def group_log_probs(model, prompt_ids, prompt_mask, completion_ids, temperature: float = 1.0):
    """Log-probabilities and entropies of completions [P, G, C] that share their prompts [P, L] (left-padded).

    One forward over P rows of L + G*(C-1) tokens: the last token of a completion predicts nothing.
    Returns two tensors [P, G, C].
    """
    n, width = prompt_ids.shape
    group, length = completion_ids.shape[1], completion_ids.shape[2] - 1
    ids = torch.cat([prompt_ids, completion_ids[:, :, :-1].reshape(n, group * length)], 1)
    real = torch.cat([prompt_mask.bool(), torch.ones_like(ids[:, width:], dtype=torch.bool)], 1)
    visible = _block_mask(width, group, length, ids.device)[None] & real[:, None, :]
    visible |= torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)  # a padded query must see something
    # A float mask: with eager attention a boolean one is added as 0 and 1, silently.
    floats = torch.zeros(visible.shape, dtype=model.dtype, device=ids.device)
    floats = floats.masked_fill(~visible, torch.finfo(model.dtype).min)[:, None]
    positions = (prompt_mask.cumsum(-1) - 1).clamp(min=0)
    after = positions[:, -1:] + 1 + torch.arange(length, device=ids.device).repeat(group)[None]
    hidden = model.model(
        input_ids=ids, attention_mask=floats, position_ids=torch.cat([positions, after], 1), use_cache=False
    ).last_hidden_state
    first = hidden[:, width - 1 : width].expand(-1, group, -1)[:, :, None]
    rest = hidden[:, width:].reshape(n, group, length, -1)
    log_probs = (model.lm_head(torch.cat([first, rest], 2)).float() / temperature).log_softmax(-1)
    chosen = log_probs.gather(-1, completion_ids[..., None]).squeeze(-1)
    return chosen, -(log_probs.exp() * log_probs).sum(-1)


@torch.no_grad()
def branch_hidden(model, prompt_ids, tails):
    """Hidden states after the prompts and after each tail: [P, H] and [P, K, H].

    `prompt_ids` [P, L] are of one length, without padding; `tails` [K, C] follow every prompt.
    """
    n, width = prompt_ids.shape
    count, length = tails.shape
    ids = torch.cat([prompt_ids, tails.reshape(1, -1).expand(n, -1)], 1)
    visible = _block_mask(width, count, length, ids.device)
    floats = torch.zeros(visible.shape, dtype=model.dtype, device=ids.device)
    floats = floats.masked_fill(~visible, torch.finfo(model.dtype).min)[None, None].expand(n, 1, -1, -1)
    place = torch.cat([torch.arange(width), width + torch.arange(length).repeat(count)]).to(ids.device)
    hidden = model.model(
        input_ids=ids, attention_mask=floats, position_ids=place.expand(n, -1), use_cache=False
    ).last_hidden_state
    return hidden[:, width - 1], hidden[:, width:].reshape(n, count, length, hidden.shape[-1])[:, :, -1]

"""Branch decoding: the K most likely first tokens, each continued greedily (Wang and Zhou 2024, arXiv 2402.10200).

Supports: decoders of transformers with a key-value cache, small or pretrained; prompts of different lengths; several
ends. A prompt runs through the model once, and its keys and values serve all its branches; branches that have ended
leave the batch. Token ids are kept as they were decoded, with the probabilities they were decoded from: nothing is
tokenized again, so that spans cannot shift.

The confidence of a trace is that of its answer span, as mean over the span's tokens: of top-1 minus top-2 probability
(`disparity`, not P(written) minus the next: where the written token is not the most likely one they differ), or of the
probability of what is written. The first token of a branch was forced, so it never counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from candor.core.errors import CandorError


@dataclass(frozen=True)
class Branches:
    """K branches of n prompts, most likely first token first.

    `tokens` [n, K, T] (0 behind the end); `probability` of the written token, `top1` and `top2` of the distribution it
    was taken from [n, K, T]; `length` [n, K] in tokens, the end included; `finished` [n, K].
    """

    tokens: np.ndarray
    probability: np.ndarray
    top1: np.ndarray
    top2: np.ndarray
    length: np.ndarray
    finished: np.ndarray

    def ids(self, prompt: int, branch: int) -> list[int]:
        """The tokens of one branch, its end included."""
        return self.tokens[prompt, branch, : self.length[prompt, branch]].tolist()


def branch(
    model,
    prompts: Sequence[Sequence[int]],
    k: int = 10,
    max_new_tokens: int = 512,
    *,
    ends: Sequence[int] | None = None,
    batch: int = 32,
) -> Branches:
    """Decode `k` branches of each prompt (token ids); with k = 1 this is greedy decoding.

    `ends` are the tokens that end a text (default: the model's own), `batch` the prompts decoded together.
    Raises: `CandorError` where there are fewer first tokens than branches.
    """
    import torch

    if ends is None:
        known = getattr(model, "generation_config", None)
        ends = (known and known.eos_token_id) or model.config.eos_token_id
        ends = ends if isinstance(ends, (list, tuple)) else [] if ends is None else [ends]
    if not 0 < k <= model.config.vocab_size:
        raise CandorError(f"A vocabulary of {model.config.vocab_size} has no {k} first tokens to branch over.")
    shape = (len(prompts), k, max_new_tokens)
    tokens, numbers = np.zeros(shape, np.int64), np.zeros((3, *shape), np.float32)
    length, finished = np.full(shape[:2], max_new_tokens), np.zeros(shape[:2], bool)
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable")  # little padding
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            _decode(model, [prompts[i] for i in rows], rows, list(ends), tokens, numbers, length, finished)
    return Branches(tokens, *numbers, length, finished)


def _decode(model, prompts, rows, ends, tokens, numbers, length, finished) -> None:
    """Fill in the branches of a batch, those of the prompts `rows`."""
    import torch

    from candor.train.sharing import left_pad

    k, limit = tokens.shape[1:]
    ids, mask = left_pad(prompts, model.config.pad_token_id or 0, model.device)
    place = (mask.cumsum(-1) - 1).clamp(min=0)
    output = model(input_ids=ids, attention_mask=mask, position_ids=place, use_cache=True, logits_to_keep=1)
    past, logits = output.past_key_values, output.logits[:, -1].float()
    chosen = logits.topk(k).indices.flatten()
    logits = logits.repeat_interleave(k, 0)
    past.batch_repeat_interleave(k)
    mask, place = mask.repeat_interleave(k, 0), place[:, -1:].repeat_interleave(k, 0)
    prompt, branch_ = np.repeat(rows, k), np.tile(np.arange(k), len(rows))
    ending = torch.tensor(ends, dtype=torch.long, device=model.device)
    for step in range(limit):
        total = logits.logsumexp(-1, keepdim=True)
        top = (logits.topk(2).values - total).exp()
        written = (logits.gather(1, chosen[:, None]) - total).exp()
        tokens[prompt, branch_, step] = chosen.cpu().numpy()
        numbers[:, prompt, branch_, step] = torch.cat([written, top], 1).T.cpu().numpy()
        done = torch.isin(chosen, ending)
        ended = done.cpu().numpy()
        length[prompt[ended], branch_[ended]], finished[prompt[ended], branch_[ended]] = step + 1, True
        if ended.all() or step + 1 == limit:
            return
        if ended.any():
            left = (~done).nonzero().flatten()
            past.batch_select_indices(left)
            mask, place, chosen = mask[left], place[left], chosen[left]
            prompt, branch_ = prompt[~ended], branch_[~ended]
        mask, place = torch.cat([mask, mask.new_ones(len(mask), 1)], 1), place + 1
        output = model(
            input_ids=chosen[:, None], attention_mask=mask, position_ids=place, past_key_values=past, use_cache=True
        )
        logits = output.logits[:, -1].float()
        chosen = logits.argmax(-1)


def span_confidence(
    branches: Branches, start: np.ndarray, stop: np.ndarray, kind: Literal["disparity", "probability"] = "disparity"
) -> np.ndarray:
    """Mean over the tokens from `start` to before `stop` [n, K] of each branch, in [0, 1]; NaN without a span.

    No span is one that is empty (stop <= start), or that holds nothing but the first token, which was forced.
    """
    values = branches.top1 - branches.top2 if kind == "disparity" else branches.probability
    at = np.arange(values.shape[2])
    inside = (at >= np.maximum(start, 1)[..., None]) & (at < np.minimum(stop, branches.length)[..., None])
    count = inside.sum(-1)
    return np.where(count > 0, (values * inside).sum(-1) / np.maximum(count, 1), np.nan)

"""Supervised training: a base from scratch on documents made ahead, or further training of a model.

From scratch by a loop of our own (AdamW, gradient clipped at 1, a one-cycle or a constant rate, one process, one
thread), with loss on whole documents, on responses or on chosen targets; further training by TRL's `SFTTrainer`.
Raises: `DivergedError` when the loss is not finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from candor.core.errors import DivergedError

IGNORED = -100  # a token without a loss, for torch's cross-entropy
SFT = {"max_length": None, "packing": False, "loss_type": "nll"}


def train(
    model,
    documents: np.ndarray,
    *,
    batch_size: int,
    lr: float,
    pad: int,
    loss: Callable | None = None,
    **options,
) -> pd.DataFrame:
    """One pass over `documents` [n, L], padded on the right; returns the log: step, loss, seconds.

    `loss(model, batch, rows)` replaces the next-token loss (the classifier of claim 5 uses it).
    """
    import torch

    tokens = torch.as_tensor(documents)
    lengths = (tokens != pad).sum(1)

    def gradient(step: int) -> float:
        rows = slice(step * batch_size, (step + 1) * batch_size)
        value = (loss or next_token_loss)(model, tokens[rows, : int(lengths[rows].max())], rows)
        value.backward()
        return value.item()

    return _loop(model, gradient, len(tokens) // batch_size, lr=lr, weight_decay=0.01, **options)


def next_token_loss(model, batch, _rows=None):
    """Mean cross-entropy of the next token in documents [n, L], over the positions that are not padding."""
    import torch

    logits, targets = model(input_ids=batch[:, :-1]).logits, batch[:, 1:]
    pad = model.config.pad_token_id
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=pad
    )


def train_responses(
    model,
    tokens: np.ndarray,
    responses: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    rise: float = 0.1,
    **options,
) -> pd.DataFrame:
    """`steps` batches of dialogues [n, L], with loss on the tokens marked in `responses` [n, L] only.

    The one-cycle learning rate rises during the share `rise` of the steps. Returns the log: step, loss, seconds.
    """
    import torch

    batches = _batches(len(tokens), steps, batch_size, seed)
    lengths = _ends(responses)
    tokens, responses = torch.as_tensor(tokens), torch.as_tensor(responses)

    def gradient(step: int) -> float:
        batch = batches[step]
        batch = batch[np.argsort(lengths[batch])]
        # Short dialogues apart from long ones: less padding, the same gradient.
        count, value = int(responses[batch].sum()), 0.0
        for part in np.array_split(batch, 2):
            width = int(lengths[part].max())
            ids, spoken = tokens[part, :width], responses[part, 1:width]
            hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[spoken]
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][spoken], reduction="sum") / count
            loss.backward()
            value += loss.item()
        return value

    return _loop(model, gradient, steps, lr=lr, weight_decay=0.01, rise=rise, **options)


def supervised(
    model,
    tokens: np.ndarray,
    targets: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    weight_decay: float = 0.0,
    one_cycle: bool = False,
    **options,
) -> pd.DataFrame:
    """`steps` batches of rows [n, L] padded on the right; returns the log: step, loss, seconds.

    `targets` [n, L] says which token a position should hold, `IGNORED` where none is taught: the token itself in
    ordinary training. The rate is constant unless it is one-cycle.
    """
    import torch

    batches = _batches(len(tokens), steps, batch_size, seed)
    tokens, targets = torch.as_tensor(tokens), torch.as_tensor(targets)

    def gradient(step: int) -> float:
        batch = batches[step]
        wanted = targets[batch, 1:]
        taught = wanted != IGNORED
        hidden = model.model(input_ids=tokens[batch, :-1], use_cache=False).last_hidden_state[taught]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), wanted[taught])
        loss.backward()
        return loss.item()

    rise = 0.3 if one_cycle else None
    return _loop(model, gradient, steps, lr=lr, weight_decay=weight_decay, rise=rise, **options)


def _batches(n: int, steps: int, batch_size: int, seed: int) -> list[np.ndarray]:
    """Which of `n` rows each step takes: passes over all of them, in a new order each."""
    order = np.random.default_rng(seed)
    passes = -(-steps * batch_size // n)
    index = np.concatenate([order.permutation(n) for _ in range(passes)])
    return [index[step * batch_size : (step + 1) * batch_size] for step in range(steps)]


def _ends(responses: np.ndarray) -> np.ndarray:
    """Length of each row up to its last response: all of it is needed, and nothing behind it."""
    return responses.shape[1] - responses[:, ::-1].argmax(1)


def _loop(
    model,
    gradient: Callable[[int], float],
    steps: int,
    *,
    lr: float,
    weight_decay: float,
    rise: float | None = 0.3,
    log_every: int = 50,
    at: Callable[[int], None] = lambda step: None,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """`steps` updates of `model`; `gradient(step)` leaves a gradient and returns the loss, `at(step)` comes after.

    `rise`: share of the steps in which a one-cycle rate rises; None for a constant rate.
    """
    import torch

    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    schedule = rise and torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=lr, total_steps=steps, pct_start=rise)
    model.train()
    rows, start = [], time.perf_counter()
    for step in range(1, steps + 1):
        optimiser.zero_grad(set_to_none=True)
        loss = gradient(step - 1)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if schedule:
            schedule.step()
        if step % log_every == 0 or step == steps:
            if not math.isfinite(loss):
                raise DivergedError(f"The loss became {loss} at step {step}: lower the learning rate.")
            rows.append({"step": step, "loss": loss, "seconds": time.perf_counter() - start})
            progress(step, steps)
        at(step)
    model.eval()
    return pd.DataFrame(rows)


def more(model, tokenizer, dataset, settings: Mapping, **options) -> pd.DataFrame:
    """Further training in place by TRL's `SFTTrainer`; returns the log: step, loss, grad_norm, seconds.

    `dataset`: a `Dataset` in one of TRL's forms, such as `labelled`'s; `settings` of `SFTConfig` over the defaults
    here: learning rate constant after ten steps of warm-up, gradient clipped at 1, float32, no weight decay.
    """
    from trl import SFTConfig, SFTTrainer

    from candor.train.fit import fit

    columns = {"loss": "loss", "grad_norm": "grad_norm"}
    return fit(SFTTrainer, SFTConfig, SFT | settings, model, tokenizer, dataset, columns=columns, **options)


def labelled(tokens: np.ndarray, responses: np.ndarray):
    """Dialogues [n, L] as the `Dataset` of `more`, with loss on the tokens marked in `responses` [n, L]."""
    from datasets import Dataset

    columns = {"input_ids": tokens, "labels": np.where(responses, tokens, IGNORED)}
    ends = _ends(responses)
    return Dataset.from_dict({name: [row[:n].tolist() for row, n in zip(v, ends)] for name, v in columns.items()})

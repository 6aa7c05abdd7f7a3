"""Supervised training of a base model from scratch on documents made ahead.

Supports: a decoder, a matrix of documents padded on the right, AdamW, a one-cycle learning rate.
Assumes: one process, one thread; loss on the whole document (the next token at every position that is not padding).
Raises: `DivergedError` when the loss is not finite.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from candor.errors import DivergedError


def train(
    model,
    documents: np.ndarray,
    *,
    batch_size: int,
    lr: float,
    pad: int,
    loss: Callable | None = None,
    log_every: int = 50,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """One pass over `documents` [n, L]; returns the log: step, loss, seconds.

    `loss(model, batch)` replaces the next-token loss (the classifier of claim 5 uses it).
    """
    import torch

    tokens = torch.as_tensor(documents)
    steps = len(tokens) // batch_size
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=lr, total_steps=steps)
    lengths = (tokens != pad).sum(1)
    model.train()
    rows, start = [], time.perf_counter()
    for step in range(steps):
        rows_of_batch = slice(step * batch_size, (step + 1) * batch_size)
        batch = tokens[rows_of_batch, : int(lengths[rows_of_batch].max())]
        value = (loss or next_token_loss)(model, batch, rows_of_batch)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % log_every == 0 or step + 1 == steps:
            if not torch.isfinite(value):
                raise DivergedError(f"The loss became {value.item()} at step {step + 1}: lower the learning rate.")
            rows.append({"step": step + 1, "loss": value.item(), "seconds": time.perf_counter() - start})
            progress(step + 1, steps)
    model.eval()
    return pd.DataFrame(rows)


def next_token_loss(model, batch, _rows=None):
    """Mean cross-entropy of the next token, over the positions that are not padding."""
    import torch

    pad = model.config.pad_token_id
    logits = model(input_ids=batch[:, :-1]).logits
    targets = batch[:, 1:]
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=pad
    )

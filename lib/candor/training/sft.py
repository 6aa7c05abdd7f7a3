"""Supervised training of a base model from scratch on documents made ahead, and further training of one.

Supports: a decoder, a matrix of documents padded on the right, AdamW; loss on the whole document or on responses
alone; a one-cycle learning rate from scratch, a constant one afterwards (by TRL).
Assumes: one process, one thread.
Raises: `DivergedError` when the loss is not finite.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from candor.core.errors import DivergedError


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
    log_every: int = 50,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """`steps` batches of dialogues [n, L], with loss on the tokens marked in `responses` [n, L] only.

    Passes over the dialogues in a new order each; one-cycle learning rate that rises during the share `rise` of the
    steps. Returns the log: step, loss, seconds.
    """
    import torch

    order = np.random.default_rng(seed)
    passes = -(-steps * batch_size // len(tokens))
    index = np.concatenate([order.permutation(len(tokens)) for _ in range(passes)])
    # Everything up to the last response is needed, nothing behind it.
    lengths = tokens.shape[1] - responses[:, ::-1].argmax(1)
    tokens, responses = torch.as_tensor(tokens), torch.as_tensor(responses)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=lr, total_steps=steps, pct_start=rise)
    model.train()
    rows, start = [], time.perf_counter()
    for step in range(steps):
        batch = index[step * batch_size : (step + 1) * batch_size]
        batch = batch[np.argsort(lengths[batch])]
        # Short dialogues apart from long ones: less padding, the same gradient.
        count, value = int(responses[batch].sum()), 0.0
        optimiser.zero_grad(set_to_none=True)
        for part in np.array_split(batch, 2):
            width = int(lengths[part].max())
            ids, spoken = tokens[part, :width], responses[part, 1:width]
            hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[spoken]
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), ids[:, 1:][spoken], reduction="sum") / count
            loss.backward()
            value += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % log_every == 0 or step + 1 == steps:
            if not np.isfinite(value):
                raise DivergedError(f"The loss became {value} at step {step + 1}: lower the learning rate.")
            rows.append({"step": step + 1, "loss": value, "seconds": time.perf_counter() - start})
            progress(step + 1, steps)
    model.eval()
    return pd.DataFrame(rows)


def more(
    model,
    tokenizer,
    tokens: np.ndarray,
    responses: np.ndarray,
    *,
    folder,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    warmup: int = 10,
    snapshots=None,
    snapshot_every: int = 0,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """Further training on the same kind of dialogues by TRL's `SFTTrainer`, with the schedule of `dpo.configuration`.

    Loss on the tokens marked in `responses` [n, L]; learning rate constant after `warmup` steps, gradient clipped at
    1, float32, no weight decay. Returns the log: step, loss, grad_norm, seconds.
    """
    import torch
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import SFTConfig, SFTTrainer

    from candor.training.dpo import Recorder

    lengths = tokens.shape[1] - responses[:, ::-1].argmax(1)
    labels = np.where(responses, tokens, -100)
    columns = {"input_ids": tokens, "labels": labels}
    dataset = Dataset.from_dict({k: [row[:n].tolist() for row, n in zip(v, lengths)] for k, v in columns.items()})
    config = SFTConfig(
        output_dir=str(folder),
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=1,
        learning_rate=lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=warmup,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=None,
        packing=False,
        loss_type="nll",
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    recorder = Recorder(snapshot_every, snapshots, progress)
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=dataset, processing_class=tokenizer, callbacks=[recorder]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise DivergedError("The weights stopped being finite: lower the learning rate.")
    model.eval()
    return pd.DataFrame(recorder.rows)

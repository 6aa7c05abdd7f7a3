"""A reward model from preference pairs (Bradley-Terry) by TRL, and its use as a reward.

Supports: a decoder on disk that gets a scalar head; pairs as token ids, so that nothing is glued where texts would be
joined; scores of prompt and completion as a reward function of GRPO.
Assumes: TRL 1.16.
Raises: `CandorError` without pairs, `DivergedError` where loss or weights stop being finite.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import RewardConfig, RewardTrainer

from candor.core.errors import CandorError, DivergedError

_LOGGED = ("loss", "grad_norm", "accuracy", "margin", "mean_reward")


class _Recorder(TrainerCallback):
    def __init__(self, progress: Callable[[int, int], None]):
        self.rows, self.start, self.progress = [], time.perf_counter(), progress

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}):
            return
        row = {"step": state.global_step} | {name: float(logs[name]) for name in _LOGGED if name in logs}
        self.rows.append(row | {"seconds": time.perf_counter() - self.start})
        if not math.isfinite(row["loss"]):
            raise DivergedError(f"The loss stopped being finite at step {state.global_step}: lower the learning rate.")
        self.progress(state.global_step, state.max_steps)


def configuration(
    folder: Path, *, seed: int, max_steps: int, learning_rate: float, batch_size: int, **overrides
) -> RewardConfig:
    """A `RewardConfig` with every choice stated that TRL's defaults would make otherwise, or silently.

    Defaults here: learning rate constant after ten steps of warm-up, gradient clipped at 1, no weight decay, float32,
    no truncation, scores not centred.
    """
    house = {
        "max_length": None,
        "center_rewards_coefficient": None,
        "disable_dropout": True,
        "gradient_accumulation_steps": 1,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 10,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    settings = {
        "seed": seed,
        "max_steps": max_steps,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": batch_size,
    }
    return RewardConfig(output_dir=str(folder), **(house | settings | overrides))


def load(path: Path, seed: int | None = None):
    """The model in a folder with a scalar head, drawn from `seed` if the folder holds none."""
    with torch.random.fork_rng():
        torch.manual_seed(seed or 0)
        return AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)


def train(
    model,
    tokenizer,
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    config: RewardConfig,
    *,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """Train `model` in place to score `chosen` above `rejected`, token ids of prompt and completion; returns the log.

    A row every `logging_steps` steps: step, loss, grad_norm, accuracy, margin, mean_reward, seconds.
    """
    from datasets import Dataset

    if not len(chosen):
        raise CandorError("There is no pair to train a reward model on: the evaluators never prefer one output.")
    pairs = Dataset.from_dict({"chosen_ids": list(map(list, chosen)), "rejected_ids": list(map(list, rejected))})
    recorder = _Recorder(progress)
    trainer = RewardTrainer(
        model=model, args=config, train_dataset=pairs, processing_class=tokenizer, callbacks=[recorder]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise DivergedError("The weights stopped being finite: lower the learning rate.")
    model.eval()
    return pd.DataFrame(recorder.rows)


@torch.no_grad()
def score(model, rows: Sequence[Sequence[int]], batch: int = 512) -> np.ndarray:
    """Scores [n] of token ids, prompt and completion in a row."""
    found = np.empty(len(rows))
    order = np.argsort([len(row) for row in rows], kind="stable")
    for index in np.split(order, range(batch, len(order), batch)):
        width = max(len(rows[i]) for i in index)
        ids = torch.full((len(index), width), model.config.pad_token_id, device=model.device)
        for k, i in enumerate(index):
            ids[k, : len(rows[i])] = torch.tensor(rows[i], device=model.device)
        mask = (torch.arange(width, device=model.device) < torch.tensor([[len(rows[i])] for i in index]).to(ids)).long()
        # The head reads the last token that is not padding.
        found[index] = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].double().cpu().numpy()
    return found


def as_reward(model, tokenizer, scale: float = 1.0) -> Callable:
    """The model as a reward function of TRL, scores times `scale`; it joins prompt and completion token by token."""

    def reward_model(prompts, completion_ids, **_) -> list[float]:
        starts = tokenizer(prompts)["input_ids"]
        return (scale * score(model, [[*a, *b] for a, b in zip(starts, completion_ids)])).tolist()

    return reward_model

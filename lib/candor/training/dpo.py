"""Direct preference optimisation (Rafailov et al. 2023) by TRL.

Supports: a model in memory, all weights or LoRA adapters (peft), a given reference or the start as reference,
snapshots along the way.
Assumes: TRL 1.16; prompts whose tokens are a prefix of the tokens of prompt + completion (a word-level world: begin
completions with a space).
Raises: `CandorError` where tokenizing the joined text would change the tokens, `DivergedError` where loss or weights
stop being finite.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import DPOConfig, DPOTrainer

from candor.core.errors import CandorError, DivergedError

_LOGGED = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "log_prob_chosen",
    "logps/rejected": "log_prob_rejected",
}


class Recorder(TrainerCallback):
    """Keeps the log as rows, saves snapshots, tells the caller how far it is, stops at the first bad loss."""

    def __init__(self, snapshot_every: int, folder: Path | None, progress: Callable[[int, int], None]):
        self.rows, self.start = [], time.perf_counter()
        self.snapshot_every, self.folder, self.progress = snapshot_every, folder, progress

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in (logs or {}):
            return
        row = {"step": state.global_step}
        row |= {ours: float(logs[theirs]) for theirs, ours in _LOGGED.items() if theirs in logs}
        self.rows.append(row | {"seconds": time.perf_counter() - self.start})
        if not all(math.isfinite(row[k]) for k in ("loss", "grad_norm") if k in row):
            raise DivergedError(f"The loss stopped being finite at step {state.global_step}: lower the learning rate.")
        self.progress(state.global_step, state.max_steps)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.folder and self.snapshot_every and state.global_step % self.snapshot_every == 0:
            from safetensors.torch import save_model

            self.folder.mkdir(parents=True, exist_ok=True)
            save_model(model, str(self.folder / f"step_{state.global_step:06d}.safetensors"))


def configuration(
    folder: Path,
    *,
    seed: int,
    max_steps: int,
    beta: float,
    learning_rate: float,
    batch_size: int,
    **overrides,
) -> DPOConfig:
    """A `DPOConfig` with every choice stated that TRL's defaults would make otherwise, or silently.

    Defaults here: sigmoid loss, learning rate constant after ten steps of warm-up, gradient clipped at 1, float32, no
    truncation (TRL cuts at 1,024 tokens and drops prompts that fill them), reference log-probabilities computed once
    before training, no weight decay.
    """
    house = {
        "loss_type": ["sigmoid"],
        "label_smoothing": 0.0,  # has no effect on the sigmoid loss
        "max_length": None,
        "precompute_ref_log_probs": True,
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
        "beta": beta,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": batch_size,
    }
    return DPOConfig(output_dir=str(folder), **(house | settings | overrides))


def train(
    model,
    tokenizer,
    pairs,
    config: DPOConfig,
    *,
    ref_model=None,
    peft_config=None,
    snapshot_every: int | None = None,
    snapshots: Path | None = None,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """Train `model` in place on `pairs` (a `Dataset` with prompt, chosen, rejected); returns the log.

    A row every `logging_steps` steps, means since the row before: step, loss, grad_norm, reward_chosen, reward_rejected
    (beta times the log ratio to the reference), margin (their difference), accuracy (share of pairs in which it is
    positive), log_prob_chosen, log_prob_rejected, seconds. Without `ref_model` the model's start is the reference.
    """
    recorder = Recorder(snapshot_every or 0, snapshots, progress)
    quiet, os.environ["TQDM_DISABLE"] = os.environ.get("TQDM_DISABLE"), "1"  # the bar of the reference's pass
    try:
        trainer = DPOTrainer(
            model=model,
            ref_model=ref_model,
            args=config,
            train_dataset=pairs,
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=[recorder],
        )
    finally:
        os.environ.pop("TQDM_DISABLE") if quiet is None else os.environ.update(TQDM_DISABLE=quiet)
    _check_round_trip(tokenizer, pairs, trainer.train_dataset)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    if not all(torch.isfinite(p).all() for p in trainer.model.parameters()):
        raise DivergedError("The weights stopped being finite: lower the learning rate.")
    trainer.model.eval()
    return pd.DataFrame(recorder.rows)


def _check_round_trip(tokenizer, pairs, prepared) -> None:
    """The trainer joins prompt and completion as text: the tokens must be those of the two parts, and all kept."""
    from trl import is_conversational

    if len(prepared) != len(pairs):
        raise CandorError(f"The trainer kept {len(prepared)} of {len(pairs)} pairs: raise max_length.")
    if is_conversational(pairs[0]):
        return  # a chat template decides where a completion starts

    def ids(name):
        return tokenizer(list(pairs[name]), add_special_tokens=False)["input_ids"]

    wanted = {"prompt_ids": ids("prompt"), "chosen_ids": ids("chosen"), "rejected_ids": ids("rejected")}
    for column, rows in wanted.items():
        for row, kept in zip(rows, prepared[column]):
            if kept[: len(row)] != row or any(t != tokenizer.eos_token_id for t in kept[len(row) :]):
                raise CandorError(
                    f"Joined to its prompt, {tokenizer.decode(row)!r} becomes {tokenizer.decode(kept)!r}: begin "
                    "completions with a space."
                )

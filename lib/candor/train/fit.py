"""One training by a trainer of TRL: what every recipe of this folder does in the same way.

The house's defaults, a log with a row every `logging_steps` steps, snapshots, an end at the first number that is not
finite, a model in evaluation mode that may use its cache again.
Assumes: TRL 1.16.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from candor.core.errors import DivergedError
from candor.train import resume

# What TRL's defaults would make otherwise, or silently. A recipe adds what it alone needs, a caller has the last word.
HOUSE = {
    "gradient_accumulation_steps": 1,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 10,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 10,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}


def configuration(kind: type, settings: Mapping, folder: str | Path):
    """A configuration of TRL, such as `DPOConfig`: `settings` over the defaults above."""
    config = kind(output_dir=str(folder), **{"use_cpu": not torch.cuda.is_available()} | HOUSE | settings)
    config._n_gpu = min(config.n_gpu, 1)  # several visible GPUs would each take a batch, and a step would be larger
    return config


class Recorder(TrainerCallback):
    """Keeps the log as rows, saves snapshots, tells the caller how far it is, stops at the first bad loss.

    `columns`: TRL's name of each column and ours; what TRL logs without the first of them is no row.
    """

    def __init__(self, columns: Mapping[str, str], advice: str, progress, snapshots: Path | None, snapshot_every: int):
        self.rows, self.start = [], time.perf_counter()
        self.columns, self.advice, self.progress = columns, advice, progress
        self.snapshots, self.snapshot_every = snapshots, snapshot_every

    def on_log(self, args, state, control, logs=None, **kwargs):
        if next(iter(self.columns)) not in (logs or {}):
            return
        # What is left when training ends comes with the mean loss of the run instead of the last one.
        row = {"step": state.global_step, "loss": logs.get("loss", logs.get("train_loss"))}
        row |= {ours: float(logs[theirs]) for theirs, ours in self.columns.items() if theirs in logs}
        self.rows.append(row | {"seconds": time.perf_counter() - self.start})
        if not all(math.isfinite(row[name]) for name in ("loss", "grad_norm") if name in row):
            raise DivergedError(f"The loss stopped being finite at step {state.global_step}: {self.advice}.")
        self.progress(state.global_step, state.max_steps)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.snapshots and self.snapshot_every and state.global_step % self.snapshot_every == 0:
            from safetensors.torch import save_model

            self.snapshots.mkdir(parents=True, exist_ok=True)
            save_model(model, str(self.snapshots / f"step_{state.global_step:06d}.safetensors"))


def fit(
    trainer_class: Callable,
    kind: type,
    settings: Mapping,
    model,
    tokenizer,
    dataset,
    *,
    columns: Mapping[str, str],
    advice: str = "lower the learning rate",
    ready: Callable = lambda trainer: None,
    callbacks: Callable[[Recorder], Sequence[TrainerCallback]] = lambda recorder: (),
    resumes: bool = False,
    progress: Callable[[int, int], None] = lambda step, total: None,
    snapshots: Path | None = None,
    snapshot_every: int = 0,
    save: Path | None = None,
    **parts,
) -> pd.DataFrame:
    """Train `model` in place; returns the log: step, loss, the `columns`, seconds.

    Parameters
    ----------
    trainer_class, kind, settings : a trainer of TRL, its configuration's class, what to set there.
    columns, advice : see `Recorder`; what a person can do against divergence.
    ready : is shown the trainer before it trains, and may raise.
    callbacks : further ones, made with the recorder at hand.
    resumes : a training that was killed goes on from its last checkpoint (`resume`).
    snapshots, snapshot_every : a folder for the weights of every so many steps.
    save : a folder for the trained model and its tokenizer.
    parts : further arguments of the trainer.

    Raises: `DivergedError` where loss or weights stop being finite.
    """
    recorder, uses_cache = Recorder(columns, advice, progress, snapshots, snapshot_every), model.config.use_cache
    with TemporaryDirectory() as folder:
        trainer = (resume.resuming(trainer_class) if resumes else trainer_class)(
            model=model,
            args=configuration(kind, settings, folder),
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[recorder, *callbacks(recorder)],
            **parts,
        )
        ready(trainer)
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        try:
            trainer.train()
        finally:  # a sampler fails on weights that are not finite before a loss is logged: say why
            trainer.model.config.use_cache = uses_cache  # the trainer has set it to False
            if not all(torch.isfinite(p).all() for p in trainer.model.parameters()):
                raise DivergedError(f"The weights stopped being finite: {advice}.")
    trainer.model.eval()
    if save and trainer.is_world_process_zero():
        trainer.model.save_pretrained(save)
        tokenizer.save_pretrained(save)
    return pd.DataFrame(recorder.rows)

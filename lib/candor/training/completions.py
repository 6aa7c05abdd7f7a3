"""A pretrained base model taught to continue prompts: SFT on (prompt, completion), loss on the completion.

Supports and assumes what `training/chat.py` does, whose loop it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from candor.core import runtime
from candor.core.errors import CandorError


def configuration(recipe: Mapping, n: int, max_length: int, seed: int, folder: Path):
    """The `SFTConfig` of `models.code.sft` for `n` examples: cosine decay, every choice stated."""
    import torch
    from trl import SFTConfig

    from candor.training import chat

    steps = max(1, round(recipe["epochs"] * n / recipe["batch"]))
    together = min(recipe["micro_batch"], recipe["batch"])
    if recipe["batch"] % together:
        raise CandorError(
            f"A step of {recipe['batch']} cannot be cut into passes of {together}: change code.sft.micro_batch in the "
            "scale."
        )
    config = SFTConfig(
        output_dir=str(folder),
        seed=seed,
        max_steps=steps,
        per_device_train_batch_size=together,
        gradient_accumulation_steps=recipe["batch"] // together,
        learning_rate=recipe["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe["warmup"] * steps),
        weight_decay=recipe["weight_decay"],
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        max_length=max_length,
        packing=False,
        completion_only_loss=True,
        loss_type="nll",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=max(1, steps // 20),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **runtime.on_gpu(),
    )
    return chat._on_one_gpu(config)


def train(
    place,
    rows: Sequence[Mapping[str, str]],
    recipe: Mapping,
    lora,
    max_length: int,
    seed: int,
    folder: Path,
    progress=lambda step, total: None,
) -> pd.DataFrame:
    """Train the model `place` on rows of prompt and completion; leaves `folder/model` (whole), returns the log."""
    import shutil

    from datasets import Dataset

    from candor.training import chat

    model, tokenizer = chat.start(place, lora, seed)
    tokenizer.chat_template = None  # prompts and completions are plain texts
    config = configuration(recipe, len(rows), max_length, seed, folder / "trainer")
    log = chat.sft(model, tokenizer, Dataset.from_list(list(rows)), config, progress)
    chat.finish(model, tokenizer, folder / "model")
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    return log

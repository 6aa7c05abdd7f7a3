"""What feedback from a model's own confidence needs beyond the trainers: pairs, a judge with margins, a fixed scale.

Pairs and their margins are those of van Niekerk et al. (2025, arXiv 2507.21931, released code): all ordered pairs of
traces of one prompt in which the preferred one is confident enough, with margin exp(difference). The judge is a
Bradley-Terry reward model, sigma(score difference - margin), by TRL's RewardTrainer. Its scores reach RLOO centred and
divided by a scale that is fixed outside, clipped to [-1, 1]: scaled by its own range, a judge that has learned nothing
would give as much reward as one that has learned all.

Raises: `CandorError` without pairs, `DivergedError` where loss or weights stop being finite.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from candor.core.errors import CandorError, DivergedError

IGNORED = -100  # a token without a loss, for torch's cross-entropy


def preference_pairs(confidence: np.ndarray, threshold: float = 0.9) -> pd.DataFrame:
    """All ordered pairs of traces of one prompt, from confidences [n, K]; frozen once made.

    The preferred trace has at least `threshold` and strictly more than the other; whether either is right plays no
    part. Returns prompt, chosen, rejected (indices of traces), difference, margin.

    Examples
    --------
    >>> preference_pairs(np.array([[0.95, 0.95, 0.5], [0.8, 0.1, 0.2]])).round(3).to_numpy().tolist()
    [[0.0, 0.0, 2.0, 0.45, 1.568], [0.0, 1.0, 2.0, 0.45, 1.568]]
    """
    confidence = np.asarray(confidence, float)
    more = (confidence[:, :, None] > confidence[:, None]) & (confidence[:, :, None] >= threshold)
    prompt, chosen, rejected = np.nonzero(more)
    difference = confidence[prompt, chosen] - confidence[prompt, rejected]
    columns = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "difference": difference}
    return pd.DataFrame(columns | {"margin": np.exp(difference)})


def new_decoder(vocabulary: int, pad: int, eos: int, *, initializer_range: float, **shape):
    """A decoder as `models.new_decoder` makes it, with another spread of its first weights."""
    from transformers import Qwen2ForCausalLM

    from candor.training import models

    config = models.new_decoder(vocabulary, pad, eos, **shape).config
    config.initializer_range = initializer_range
    return Qwen2ForCausalLM(config)


def supervised(
    model,
    tokens: np.ndarray,
    targets: np.ndarray,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    one_cycle: bool = False,
    weight_decay: float = 0.0,
    at: Callable[[int], None] = lambda step: None,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """`steps` batches of rows [n, L] padded on the right; returns the log: step, loss, seconds.

    `targets` [n, L] says which token a position should hold, `IGNORED` where none is taught: the token itself in
    ordinary training. AdamW, gradient clipped at 1, the rate constant or one-cycle; `at(step)` is called after a step.
    """
    import torch

    passes = -(-steps * batch_size // len(tokens))
    order = np.random.default_rng(seed)
    index = np.concatenate([order.permutation(len(tokens)) for _ in range(passes)])
    tokens, targets = torch.as_tensor(tokens), torch.as_tensor(targets)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=lr, total_steps=steps) if one_cycle else None
    model.train()
    rows, start = [], time.perf_counter()
    for step in range(1, steps + 1):
        batch = index[(step - 1) * batch_size : step * batch_size]
        wanted = targets[batch, 1:]
        taught = wanted != IGNORED
        hidden = model.model(input_ids=tokens[batch, :-1], use_cache=False).last_hidden_state[taught]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), wanted[taught])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if schedule:
            schedule.step()
        if step % 10 == 0 or step == steps:
            if not torch.isfinite(loss):
                raise DivergedError(f"The loss became {loss.item()} at step {step}: lower the learning rate.")
            rows.append({"step": step, "loss": loss.item(), "seconds": time.perf_counter() - start})
            progress(step, steps)
        at(step)
    model.eval()
    return pd.DataFrame(rows)


def train_judge(
    model,
    tokenizer,
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    margin: Sequence[float],
    config,
    *,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """Train a reward model in place on pairs of token ids, prompt and completion, with margins; returns the log.

    `config` is a `reward_model.configuration`; the log is that of `reward_model.train`.
    """
    import torch
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import RewardTrainer

    from candor.training import reward_model

    if not len(chosen):
        raise CandorError("There is no pair to train a judge on: no trace is confident enough, so lower the threshold.")
    columns = {"chosen_ids": list(map(list, chosen)), "rejected_ids": list(map(list, rejected))}
    pairs = Dataset.from_dict(columns | {"margin": [float(m) for m in margin]})
    recorder = reward_model._Recorder(progress)
    trainer = RewardTrainer(
        model=model, args=config, train_dataset=pairs, processing_class=tokenizer, callbacks=[recorder]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    if "margin" not in trainer.train_dataset.column_names:
        raise CandorError("The trainer dropped the margins of the pairs.")
    trainer.train()
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise DivergedError("The weights stopped being finite: lower the learning rate.")
    model.eval()
    return pd.DataFrame(recorder.rows)


def scaled(score: Callable[[list[list[int]]], np.ndarray], tokenizer, centre: float, divisor: float) -> Callable:
    """A judge as a reward of TRL: (score - centre) / divisor, clipped to [-1, 1].

    `score` takes token ids of prompt and completion in a row. The centre drops out of leave-one-out advantages: it only
    says where the clip lies, as Bradley-Terry scores have no zero of their own.
    """

    def judged(prompts, completion_ids, **_) -> list[float]:
        starts = tokenizer(list(prompts))["input_ids"]
        scores = score([[*a, *b] for a, b in zip(starts, completion_ids)])
        return np.clip((scores - centre) / divisor, -1, 1).tolist()

    return judged


def check_anchor(log: pd.DataFrame) -> None:
    """Raises `CandorError` where the KL before the first update is not 0: the reference is not the start."""
    if "kl" in log and abs(log["kl"].iloc[0]) > 1e-3:
        raise CandorError(f"The anchor is not the start: KL {log['kl'].iloc[0]:.3g} before the first update.")


def save_weights(model, path: Path) -> None:
    """The weights of a model under training, to be loaded into a model built anew."""
    from safetensors.torch import save_model

    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))

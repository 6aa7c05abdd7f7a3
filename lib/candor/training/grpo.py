"""Group-relative policy optimisation by TRL, with every prompt computed once a group.

Supports: decoders whose attention takes a 4D float mask (Qwen2, Llama and their kin), one device, one update a
generation, any reward with TRL's signature, an anchor to the base (`beta` > 0), snapshots along the way.
Assumes: TRL 1.16 (two private methods are overridden; the lock pins it), prompts shorter than the context.
Raises: `DivergedError` when loss or weights stop being finite.

A group shares its prompt, but TRL's default step runs the prompt through the model once a completion, both when
it samples and when it scores. Here the sampler keeps one key-value row a prompt until the first sampled token,
and the scorer puts a prompt and all its completions into one row under a block mask. Same algorithm, same tokens
at the same seed, log-probabilities equal to float rounding: `tests/training/test_grpo.py` proves it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import GRPOConfig, GRPOTrainer

from candor.core.errors import DivergedError
from candor.rewards import checked
from candor.shared_prompt import group_log_probs, sample_groups

_LOGGED = {
    "reward": "reward",
    "frac_reward_zero_std": "frac_reward_zero_std",
    "entropy": "entropy",
    "completions/clipped_ratio": "clipped_ratio",
    "completions/mean_length": "mean_length",
    "grad_norm": "grad_norm",
    "kl": "kl",
}


class SharedPromptGRPOTrainer(GRPOTrainer):
    """TRL's trainer with the two passes above in place of its own; everything else is TRL's."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, rollout_func=self._sample, **kwargs)

    def _sample(self, prompts, _trainer):
        group = self.num_generations if self.model.training else self.num_generations_eval
        unique = prompts[::group]
        if [p for p in unique for _ in range(group)] != prompts:
            raise ValueError("The prompts of a group must be neighbours.")
        prompt_ids = self.processing_class(unique)["input_ids"]
        was_training = self.model.training
        self.model.eval()
        drawn = sample_groups(self.model, prompt_ids, group, self.max_completion_length, self.temperature)
        self.model.train(was_training)
        ended = drawn == self.model.config.eos_token_id
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, drawn.shape[1])
        return {
            "prompt_ids": [ids for ids in prompt_ids for _ in range(group)],
            "completion_ids": [row[:k] for row, k in zip(drawn.tolist(), lengths.tolist())],
            "logprobs": None,
        }

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, *args, compute_entropy=False, **kwargs
    ):
        group = self.num_generations
        prompts, prompt_mask = input_ids[:, :-logits_to_keep], attention_mask[:, :-logits_to_keep]
        # TRL shuffles the rows of a batch, and two groups may ask the same question: sort rows by prompt, then
        # cut them into rows of `group` completions.
        _, question = prompts.unique(dim=0, return_inverse=True)
        order = question.argsort(stable=True)
        if len(order) % group or (question[order].view(-1, group) != question[order][::group, None]).any():
            warnings.warn("Prompts do not come in whole groups: falling back to TRL's slower pass.", stacklevel=2)
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, compute_entropy=compute_entropy, **kwargs
            )
        first = order[::group]
        completions = input_ids[order, -logits_to_keep:].view(-1, group, logits_to_keep)
        model = self.accelerator.unwrap_model(model)
        # One long completion in a batch would make every group as long: what comes after the last eos of a group is
        # masked in the loss, so half of the groups or more are cut where they end.
        ended = completions == model.config.eos_token_id
        lengths = torch.where(ended.any(2), ended.int().argmax(2) + 1, logits_to_keep).amax(1)
        enough = int(lengths.median())
        parts = [(lengths <= enough, enough), (lengths > enough, logits_to_keep)]
        chosen = completions.new_zeros(completions.shape, dtype=model.dtype)
        entropy = torch.zeros_like(chosen)
        for group_of, width in parts:
            if group_of.any():
                rows = first[group_of]
                chosen[group_of, :, :width], entropy[group_of, :, :width] = group_log_probs(
                    model, prompts[rows], prompt_mask[rows], completions[group_of, :, :width], self.temperature
                )
        back = order.argsort()
        log_probs, entropies = chosen.flatten(0, 1)[back], entropy.flatten(0, 1)[back]
        return log_probs, entropies.detach() if compute_entropy else None, None


class _Recorder(TrainerCallback):
    """Keeps the log as rows, saves snapshots, tells the caller how far it is, stops at the first bad loss."""

    def __init__(self, snapshot_every: int, folder: Path | None, progress: Callable[[int, int], None]):
        self.rows, self.start = [], time.perf_counter()
        self.snapshot_every, self.folder, self.progress = snapshot_every, folder, progress

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "reward" not in (logs or {}):
            return
        # What is left when training ends comes with the mean loss of the run instead of the last one.
        row = {"step": state.global_step, "loss": logs.get("loss", logs.get("train_loss"))}
        row |= {ours: float(logs[theirs]) for theirs, ours in _LOGGED.items() if theirs in logs}
        row |= {k.split("/")[1]: float(v) for k, v in logs.items() if k.startswith("rewards/") and k.endswith("/mean")}
        self.rows.append(row | {"seconds": time.perf_counter() - self.start})
        if not all(math.isfinite(row[k]) for k in ("loss", "grad_norm") if k in row):
            raise DivergedError(
                f"The loss stopped being finite at step {state.global_step}: lower the learning rate or the reward."
            )
        self.progress(state.global_step, state.max_steps)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.folder and self.snapshot_every and state.global_step % self.snapshot_every == 0:
            from safetensors.torch import save_model

            self.folder.mkdir(parents=True, exist_ok=True)
            save_model(model, str(self.folder / f"step_{state.global_step:06d}.safetensors"))


def configuration(output: Path, **settings) -> GRPOConfig:
    """A `GRPOConfig` with every choice stated that TRL's defaults would make differently from the papers.

    Defaults here: no anchor (beta 0), no division by the group's spread, the loss of Dr. GRPO (Liu et al. 2025),
    one update a generation, temperature 1 over the whole vocabulary, constant learning rate, float32.
    """
    house = {
        "beta": 0.0,
        "scale_rewards": "none",
        "loss_type": "dr_grpo",
        "num_iterations": 1,
        "steps_per_generation": 1,
        "gradient_accumulation_steps": 1,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "epsilon": 0.2,
        "importance_sampling_level": "token",
        "mask_truncated_completions": False,
        "multi_objective_aggregation": "sum_then_normalize",
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": not torch.cuda.is_available(),
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "shuffle_dataset": True,
    }
    return GRPOConfig(output_dir=str(output), **(house | settings))


def train(
    model,
    tokenizer,
    dataset,
    rewards: Sequence[Callable],
    weights: Sequence[float],
    config: GRPOConfig,
    *,
    snapshots: Path | None = None,
    snapshot_every: int = 0,
    progress: Callable[[int, int], None] = lambda step, total: None,
    trainer_class: type[GRPOTrainer] = SharedPromptGRPOTrainer,
) -> pd.DataFrame:
    """Train `model` in place; returns the log, a row every `logging_steps` steps.

    Columns: step, loss, reward, frac_reward_zero_std, entropy, clipped_ratio, mean_length, grad_norm, kl (with an
    anchor), the mean of each reward, seconds since the start.
    """
    config.reward_weights = list(weights)
    recorder = _Recorder(snapshot_every, snapshots, progress)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*rollout_func.*")
        trainer = trainer_class(
            model=model,
            args=config,
            reward_funcs=[checked(reward) for reward in rewards],
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[recorder],
        )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    try:
        trainer.train()
    finally:  # the sampler fails on weights that are not finite before a loss is logged: say why
        if not all(torch.isfinite(p).all() for p in model.parameters()):
            raise DivergedError("The weights stopped being finite: lower the learning rate or the reward.")
    model.eval()
    return pd.DataFrame(recorder.rows)

"""Policies by reinforcement learning: GRPO (Shao et al. 2024) and RLOO (Ahmadian et al. 2024), by TRL.

Supports: decoders whose attention takes a 4D float mask (Qwen2, Llama and their kin), all weights or LoRA adapters, one
device, one update a generation, any reward with TRL's signature, an anchor to the start (`beta` > 0), a stop at a KL.
Assumes: TRL 1.16 (two private methods are overridden; the lock pins it), prompts shorter than the context.
Raises: `CandorError` where the reference is not the start, `DivergedError` when loss or weights stop being finite.

A group shares its prompt, but TRL's default step runs the prompt through the model once a completion, both when it
samples and when it scores. Here both compute it once (`sharing`). Same algorithm, same tokens at the same seed,
log-probabilities equal to float rounding: `tests/train/test_grpo.py` proves it. RLOO has the anchor in its reward, r /
beta minus the log ratio to the start, so that the fixed point is the closed form pi ~ start x exp(r / beta).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from candor.core import runtime
from candor.core.errors import CandorError
from candor.rewards import checked
from candor.train import models
from candor.train.fit import fit
from candor.train.sharing import group_log_probs, sample_groups, token_log_probs

SMOOTH = 5  # steps whose mean KL decides about the stop

# One update a generation, temperature 1 over the whole vocabulary, a constant learning rate.
POLICY = {
    "num_iterations": 1,
    "steps_per_generation": 1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "epsilon": 0.2,
    "mask_truncated_completions": False,  # a completion of one token never ends
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "shuffle_dataset": True,
}
# No anchor, no division by the group's spread, the loss of Dr. GRPO (Liu et al. 2025).
GRPO = POLICY | {
    "beta": 0.0,
    "scale_rewards": "none",
    "loss_type": "dr_grpo",
    "importance_sampling_level": "token",
    "multi_objective_aggregation": "sum_then_normalize",
}
RLOO = POLICY | {
    "beta": 1.0,  # the reward comes divided by beta
    "normalize_advantages": False,
}


def _named(*logged: str) -> dict[str, str]:
    """Columns of the log: what TRL logs under these names, by the last part of each."""
    return {name: name.split("/")[-1] for name in logged}


LENGTHS = "completions/clipped_ratio", "completions/mean_length"
GRPO_LOG = _named("reward", "frac_reward_zero_std", "entropy", *LENGTHS, "grad_norm", "kl")
RLOO_LOG = _named("reward", "reward_std", "kl", "entropy", LENGTHS[1], "grad_norm")


# --- Prompts computed once ----------------------------------------------------------------------------


class _SharedPrompts:
    """Sampling of a trainer of TRL that runs a prompt through the model once a group."""

    def _generate_single_turn(self, prompt_ids, *_) -> list[list[int]]:
        group = self.num_generations if self.model.training else self.num_generations_eval
        unique = prompt_ids[::group]
        if [ids for ids in unique for _ in range(group)] != prompt_ids:
            raise ValueError("The prompts of a group must be neighbours.")
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        drawn = sample_groups(model, unique, group, self.max_completion_length, self.temperature)
        model.train(was_training)
        return [row[:length] for row, length in zip(drawn.tolist(), _lengths(drawn, model).tolist())]


def _lengths(completions: torch.Tensor, model) -> torch.Tensor:
    """Tokens of completions [..., C] up to and with the first eos."""
    ended = completions == model.config.eos_token_id
    return torch.where(ended.any(-1), ended.int().argmax(-1) + 1, completions.shape[-1])


class SharedPromptGRPOTrainer(_SharedPrompts, GRPOTrainer):
    """TRL's trainer that computes a prompt once a group when it samples and when it scores; all else is TRL's."""

    def _generate_single_turn(self, prompt_ids, *_):
        return super()._generate_single_turn(prompt_ids), None

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
        lengths = _lengths(completions, model).amax(1)
        enough = int(lengths.median())
        chosen = completions.new_zeros(completions.shape, dtype=torch.float32)  # whatever the weights are kept in
        entropy = torch.zeros_like(chosen)
        for groups, width in ((lengths <= enough, enough), (lengths > enough, logits_to_keep)):
            if groups.any():
                rows = first[groups]
                chosen[groups, :, :width], entropy[groups, :, :width] = group_log_probs(
                    model, prompts[rows], prompt_mask[rows], completions[groups, :, :width], self.temperature
                )
        back = order.argsort()
        log_probs, entropies = chosen.flatten(0, 1)[back], entropy.flatten(0, 1)[back]
        return log_probs, entropies.detach() if compute_entropy else None, None


class SharedPromptRLOOTrainer(_SharedPrompts, RLOOTrainer):
    """TRL's trainer that runs a prompt once a group when it samples, and when it scores single tokens."""

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        if logits_to_keep > 1:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        model, prompts = self.accelerator.unwrap_model(model), (input_ids[:, :-1], attention_mask[:, :-1])
        return *token_log_probs(model, *prompts, input_ids[:, -1:], self.temperature), None


# --- The recipes --------------------------------------------------------------------------------------


def grpo(
    model,
    tokenizer,
    dataset,
    rewards: Sequence[Callable],
    weights: Sequence[float],
    settings: Mapping,
    *,
    trainer_class: type[GRPOTrainer] = SharedPromptGRPOTrainer,
    **options,
) -> pd.DataFrame:
    """Train `model` in place; `settings` of `GRPOConfig` over `GRPO`, `options` of `fit`.

    Returns the log, a row every `logging_steps` steps: step, loss, reward, frac_reward_zero_std, entropy,
    clipped_ratio, mean_length, grad_norm, kl (with an anchor), the mean of each reward, seconds since the start.
    """
    terms = [checked(reward) for reward in rewards]
    columns = GRPO_LOG | {f"rewards/{term.__name__}/mean": term.__name__ for term in terms}
    options = {"advice": "lower the learning rate or the reward", "columns": columns, "reward_funcs": terms} | options
    settings = GRPO | settings | {"reward_weights": list(weights)}
    return fit(trainer_class, GRPOConfig, settings, model, tokenizer, dataset, **options)


def rloo(
    model,
    tokenizer,
    dataset,
    reward: Callable[..., list[float]],
    settings: Mapping,
    *,
    trainer_class: type[RLOOTrainer] = SharedPromptRLOOTrainer,
    **options,
) -> pd.DataFrame:
    """Train `model`, loaded from its folder, in place; `settings` of `RLOOConfig` over `RLOO`, `options` of `fit`.

    Returns the log, a row every `logging_steps` steps: step, loss, reward (over beta), reward_std, kl (mean log ratio
    to the start of a token), entropy, mean_length, grad_norm, seconds.
    """
    options = {"columns": RLOO_LOG, "reward_funcs": [checked(reward)], "ready": check_reference} | options
    return fit(trainer_class, RLOOConfig, RLOO | settings, model, tokenizer, dataset, **options)


def check_reference(trainer) -> None:
    """The trainer loads its reference from the folder that the model names: it must be the start, or KL is not 0.

    Raises: `CandorError` where a weight differs. Adapters have no reference of their own: it is the model without them.
    """
    if trainer.ref_model is not None:
        own, other = trainer.model.state_dict(), trainer.ref_model.state_dict()
        if not all(torch.equal(own[name], other[name]) for name in own):
            raise CandorError(
                "The reference of RLOO is not the model that training starts from: load it from its folder."
            )


def check_anchor(log: pd.DataFrame) -> None:
    """Raises `CandorError` where the KL before the first update is not 0: the reference is not the start."""
    if "kl" in log and abs(log["kl"].iloc[0]) > 1e-3:
        raise CandorError(
            f"The anchor is not the start (KL {log['kl'].iloc[0]:.3g} before the first update): load the model from "
            "its folder."
        )


# --- Pretrained models --------------------------------------------------------------------------------


def adapter_settings(recipe: Mapping, seed: int) -> dict:
    """The settings of `rloo_adapters`, from `models.annotation_rloo` or its like."""
    total = recipe["prompts_per_step"] * recipe["num_generations"]
    passes = models.passes(total, recipe["micro_batch"], "annotation_rloo")
    return {
        **passes,
        "seed": seed,
        "max_steps": recipe["steps"],
        "beta": recipe["beta"],
        "steps_per_generation": passes["gradient_accumulation_steps"],
        "num_generations": recipe["num_generations"],
        "max_completion_length": recipe["max_completion_tokens"],
        "learning_rate": recipe["lr"],
        "max_grad_norm": recipe["max_grad_norm"],
        "temperature": recipe.get("temperature", 1.0),
        "logging_steps": 1,
        **runtime.on_gpu(),
    }


def rloo_adapters(
    place: str | Path,
    questions: pd.DataFrame,
    reward: Callable[..., list[float]],
    recipe: Mapping,
    seed: int,
    folder: Path,
    *,
    stop_at_kl: float | None = None,
    further_ends: Sequence[int] = (),
    **options,
) -> pd.DataFrame:
    """LoRA adapters on `place`, trained by RLOO on `questions` (prompt, and what the reward reads); saved in `folder`.

    Their reference is the model without them; a training that was killed goes on. Returns the log, a row a step: step,
    loss, reward, reward_std, kl (nats a completion), entropy, mean_length, grad_norm, seconds. `stop_at_kl`: training
    ends where the mean KL of five steps reaches it. `further_ends`: tokens that end a completion as the model's own do.
    """
    from datasets import Dataset

    class StopAtKL(TrainerCallback):
        def __init__(self, recorder):
            self.log = recorder.rows  # told before this callback is

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "kl" in (logs or {}) and stop_at_kl is not None:
                reached = np.mean([row["kl"] * row["mean_length"] for row in self.log[-SMOOTH:]])
                control.should_training_stop |= bool(reached >= stop_at_kl)

    model, tokenizer = models.pretrained(place, recipe["lora"], seed)
    if further_ends:
        own = model.generation_config.eos_token_id
        model.generation_config.eos_token_id = [*(own if isinstance(own, list) else [own]), *further_ends]
    log = rloo(
        model,
        tokenizer,
        Dataset.from_pandas(questions, preserve_index=False),
        reward,
        adapter_settings(recipe, seed),
        trainer_class=RLOOTrainer,
        callbacks=lambda recorder: [StopAtKL(recorder)],
        advice="lower annotation_rloo.lr in the scale",
        resumes=True,
        save=folder,
        **options,
    )
    return log.assign(kl=log["kl"] * log["mean_length"])  # TRL logs the mean of a token

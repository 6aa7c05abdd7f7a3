"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024) by TRL, against a reward model.

Supports: decoders from a folder, one device, one update a generation, any reward with TRL's signature, snapshots.
Assumes: TRL 1.16 (two private methods are overridden; the lock pins it).
Raises: `CandorError` where the reference is not the start, `DivergedError` where loss or weights stop being finite.

The anchor sits in the reward, r / beta minus the log ratio to the start, so that the fixed point is the closed form
pi ~ start x exp(r / beta). A group shares its prompt: it is sampled, and one-token completions are scored, with the
prompt computed once.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import RLOOConfig, RLOOTrainer

from candor.core.errors import CandorError, DivergedError
from candor.rewards import checked
from candor.shared_prompt import left_pad, sample_groups
from candor.training import models

_LOGGED = {
    "reward": "reward",
    "reward_std": "reward_std",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "mean_length",
    "grad_norm": "grad_norm",
}


class SharedPromptRLOOTrainer(RLOOTrainer):
    """TRL's trainer that runs a prompt once a group when it samples, and when it scores single tokens."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields):
        group = self.num_generations if self.model.training else self.num_generations_eval
        unique = prompt_ids[::group]
        if [ids for ids in unique for _ in range(group)] != prompt_ids:
            raise ValueError("The prompts of a group must be neighbours.")
        model = self.accelerator.unwrap_model(self.model)
        was_training = model.training
        model.eval()
        drawn = sample_groups(model, unique, group, self.max_completion_length, self.temperature)
        model.train(was_training)
        ended = drawn == model.config.eos_token_id
        lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, drawn.shape[1])
        return [row[:k] for row, k in zip(drawn.tolist(), lengths.tolist())]

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        if logits_to_keep > 1:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
            )
        prompts, mask, chosen = input_ids[:, :-1], attention_mask[:, :-1], input_ids[:, -1:]
        different, place = prompts.unique(dim=0, return_inverse=True)
        first = torch.zeros(len(different), dtype=torch.long, device=place.device)
        first[place] = torch.arange(len(place), device=place.device)  # any row of a prompt has its mask
        model = self.accelerator.unwrap_model(model)
        hidden = model.model(
            input_ids=different,
            attention_mask=mask[first],
            position_ids=(mask[first].cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state[:, -1]
        log_probs = (model.lm_head(hidden).float() / self.temperature).log_softmax(-1)
        entropy = -(log_probs.detach().exp() * log_probs.detach()).sum(-1)
        return log_probs[place].gather(1, chosen), entropy[place, None], None


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
        self.rows.append(row | {"seconds": time.perf_counter() - self.start})
        if not all(math.isfinite(row[k]) for k in ("loss", "grad_norm") if k in row):
            raise DivergedError(f"The loss stopped being finite at step {state.global_step}: lower the learning rate.")
        self.progress(state.global_step, state.max_steps)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if self.folder and self.snapshot_every and state.global_step % self.snapshot_every == 0:
            from safetensors.torch import save_model

            self.folder.mkdir(parents=True, exist_ok=True)
            save_model(model, str(self.folder / f"step_{state.global_step:06d}.safetensors"))


def stated(prompt: str, completion: str) -> str | None:
    """Prompt and completion up to and with the confidence token; None unless an answer and a confidence are stated.

    A confidence without an answer is no completion: a reward model has never seen one and may love it.

    >>> stated("Q ? <answer>", " A3 </answer> <confidence> c7 </confidence>")
    'Q ? <answer> A3 </answer> <confidence> c7'
    >>> stated("Q ? <answer> A3 </answer> <confidence>", "c10"), stated("Q ? <answer>", "c7")
    ('Q ? <answer> A3 </answer> <confidence> c10', None)
    """
    text = f"{prompt} {completion.strip()}"  # without the space the seam would become one unknown word
    match = re.match(r".* \? <answer> A[0-7] </answer> <confidence> c(?:10|\d)(?!\S)", text)
    return match[0] if match else None


def reward_of(reward_model, tokenizer, beta: float) -> Callable[..., list[float]]:
    """A TRL reward: the model's reward over `beta` of the text that `stated` returns.

    Malformed completions get the batch's minimum minus 1.
    """

    def model_reward(prompts: Sequence[str], completions: Sequence[str], **_) -> list[float]:
        texts = [stated(p, c) for p, c in zip(prompts, completions)]
        different = sorted({text for text in texts if text})
        if not different:
            return [0.0] * len(texts)
        tokens, mask = left_pad(tokenizer(different)["input_ids"], tokenizer.pad_token_id, "cpu")
        with torch.no_grad():
            scores = reward_model(input_ids=tokens, attention_mask=mask).logits.squeeze(-1) / beta
        by_text = dict(zip(different, scores.tolist()))
        malformed = min(by_text.values()) - 1
        return [by_text[text] if text else malformed for text in texts]

    return model_reward


def configuration(output: Path, **settings) -> RLOOConfig:
    """An `RLOOConfig` with every choice stated that TRL's defaults would make otherwise, or silently."""
    house = {
        "beta": 1.0,  # the reward comes divided by beta
        "num_iterations": 1,
        "steps_per_generation": 1,
        "gradient_accumulation_steps": 1,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "epsilon": 0.2,
        "normalize_advantages": False,
        "mask_truncated_completions": False,  # a completion of one token never ends
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
    return RLOOConfig(output_dir=str(output), **(house | settings))


def train(
    start: Path,
    dataset,
    reward: Callable[..., list[float]],
    config: RLOOConfig,
    *,
    snapshots: Path | None = None,
    snapshot_every: int = 0,
    progress: Callable[[int, int], None] = lambda step, total: None,
    trainer_class: type[RLOOTrainer] = SharedPromptRLOOTrainer,
):
    """Train the decoder in the folder `start`; returns the trained model, its tokenizer and the log.

    `dataset` has the column prompt. A row of the log every `logging_steps` steps: step, loss, reward (over beta),
    reward_std, kl (mean log ratio to the start of a token), entropy, mean_length, grad_norm, seconds.
    """
    model, tokenizer = models.load_decoder(start)
    recorder = _Recorder(snapshot_every, snapshots, progress)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*generation flags.*")
        trainer = trainer_class(
            model=model,
            args=config,
            reward_funcs=[checked(reward)],
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[recorder],
        )
    check_reference(model, trainer.ref_model)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    try:
        trainer.train()
    finally:  # the sampler fails on weights that are not finite before a loss is logged: say why
        if not all(torch.isfinite(p).all() for p in model.parameters()):
            raise DivergedError("The weights stopped being finite: lower the learning rate.")
    model.eval()
    return model, tokenizer, pd.DataFrame(recorder.rows)


def check_reference(model, reference) -> None:
    """The trainer loads its reference from the folder that the model names: it must be the start, or KL is not 0.

    Raises: `CandorError` where a weight differs.
    """
    own, other = model.state_dict(), reference.state_dict()
    if not all(torch.equal(own[name], other[name]) for name in own):
        raise CandorError("The reference of RLOO is not the model that training starts from: load it from its folder.")

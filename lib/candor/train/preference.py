"""Direct preference optimisation (Rafailov et al. 2023) by TRL.

Supports: a model in memory, all weights or LoRA adapters (peft), a given reference or the start as reference; pairs as
texts, as conversations, or as token ids that are taken as they are.
Assumes: TRL 1.16; texts of prompts whose tokens are a prefix of the tokens of prompt + completion (a word-level world:
begin completions with a space).
Raises: `CandorError` where tokenizing the joined text would change the tokens, `DivergedError` where loss or weights
stop being finite.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from trl import DPOConfig, DPOTrainer, is_conversational

from candor.core.errors import CandorError
from candor.train.fit import fit

DPO = {
    "loss_type": ["sigmoid"],
    "label_smoothing": 0.0,  # has no effect on the sigmoid loss
    "max_length": None,  # TRL cuts at 1,024 tokens, and drops prompts that fill them
    "precompute_ref_log_probs": True,
    "disable_dropout": True,
}
COLUMNS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "log_prob_chosen",
    "logps/rejected": "log_prob_rejected",
}


def dpo(model, tokenizer, pairs, settings: Mapping, **options) -> pd.DataFrame:
    """Train `model` in place on `pairs`, a `Dataset` with prompt, chosen, rejected (or each with `_ids`).

    `settings` of `DPOConfig`, over the defaults here: sigmoid loss, learning rate constant after ten steps of warm-up,
    gradient clipped at 1, float32, no truncation, reference log-probabilities computed once before training, no weight
    decay. `options`: those of `fit`, and `ref_model` or `peft_config`; without either the model's start is the
    reference.

    Returns the log, a row every `logging_steps` steps, means since the row before: step, loss, grad_norm,
    reward_chosen, reward_rejected (beta times the log ratio to the reference), margin (their difference), accuracy
    (share of pairs in which it is positive), log_prob_chosen, log_prob_rejected, seconds.
    """
    of_ids = "prompt_ids" in pairs.column_names

    def ready(trainer) -> None:
        if not of_ids:
            _check_round_trip(tokenizer, pairs, trainer.train_dataset)

    kind = _OnIds if of_ids else DPOTrainer
    return fit(kind, DPOConfig, DPO | settings, model, tokenizer, pairs, columns=COLUMNS, ready=ready, **options)


class _OnIds(DPOTrainer):
    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset  # it would make ids of texts


def _check_round_trip(tokenizer, pairs, prepared) -> None:
    """The trainer joins prompt and completion as text: the tokens must be those of the two parts, and all kept."""
    if len(prepared) != len(pairs):
        raise CandorError(f"The trainer kept {len(prepared)} of {len(pairs)} pairs: raise max_length.")
    if is_conversational(pairs[0]):
        return  # a chat template decides where a completion starts
    for name in ("prompt", "chosen", "rejected"):
        wanted = tokenizer(list(pairs[name]), add_special_tokens=False)["input_ids"]
        for row, kept in zip(wanted, prepared[f"{name}_ids"]):
            if kept[: len(row)] != row or any(t != tokenizer.eos_token_id for t in kept[len(row) :]):
                raise CandorError(
                    f"Joined to its prompt, {tokenizer.decode(row)!r} becomes {tokenizer.decode(kept)!r}: begin "
                    "completions with a space."
                )

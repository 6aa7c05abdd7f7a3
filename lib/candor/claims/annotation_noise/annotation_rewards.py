"""Reward models of whole texts, and those on people's votes: shares of votes or their majority, the same pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from candor.claims.annotation_noise import annotations
from candor.core.step import Context
from candor.language_models import training
from candor.measure import calibration as cal


def encode(tokenizer, text: str, max_length: int) -> list[int]:
    """Token ids of a whole text, the last `max_length` of them: a reply is never cut. The last one is scored."""
    return tokenizer(text)["input_ids"][-max_length:]


def fit_reward(
    first: Sequence[str],
    second: Sequence[str],
    labels: Sequence[float],
    weights: Sequence[float],
    recipe: Mapping,
    seed: int,
    **options,
):
    """A decoder with a new scalar head, all weights trained on weighted comparisons of whole texts.

    `labels` [n]: P(first preferred), or what an arm puts in its place; `weights` [n] are brought to a mean of 1;
    `recipe`: `models.annotation_reward`. Returns model, tokenizer and log (step, loss, grad_norm, seconds).
    """
    import torch

    from candor.language_models import generation
    from candor.train.reward_model import pairs_dataset, weighted

    torch.manual_seed(seed)
    model, tokenizer = generation.scorer(recipe["model"])
    ids = [[encode(tokenizer, text, recipe["max_length"]) for text in texts] for texts in (first, second)]
    pairs = pairs_dataset(*ids, labels, weights)
    steps = recipe["epochs"] * -(-len(pairs) // recipe["batch"])
    told = training.told(
        recipe,
        "annotation_reward",
        seed,
        -1,
        num_train_epochs=recipe["epochs"],
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe["warmup"] * steps),
        max_grad_norm=recipe["max_grad_norm"],
        logging_steps=max(1, steps // 50),
    )
    advice = "lower annotation_reward.lr in the scale"
    return model, tokenizer, weighted(model, tokenizer, pairs, told, resumes=True, advice=advice, **options)


def score(model, tokenizer, texts: Iterable[str], recipe: Mapping) -> np.ndarray:
    """Rewards of whole texts [n]."""
    from candor.train import reward_model

    rows = [encode(tokenizer, text, recipe["max_length"]) for text in texts]
    return reward_model.score(model, rows, 4 * recipe["micro_batch"])


# --- Reward models on people's votes ----------------------------------------------------------------


def vote_reward(context: Context) -> dict[str, pd.DataFrame]:
    """A reward model on a set's pairs with soft or hard labels, the same pairs for both, judged on other prompts.

    Tables: log; heldout (one row: pairs, heldout, log_loss and brier against the shares of votes, accuracy and ece
    against their majority).
    """

    settings, options, seed = context.settings, context.step.options, context.seed
    recipe = settings["vote_rewards"]
    pairs = annotations.preference_pairs(options["dataset"]).sample(frac=1, random_state=seed, ignore_index=True)
    others, used = by_prompt(pairs, min(recipe["held_out"], len(pairs) // 5))
    used = used.dropna(subset=["hard"])[: recipe["pairs"]]
    reward = settings["annotation_reward"].to_dict() | {"max_length": recipe["max_length"]}
    first, second = (used["prompt"] + "\n\n" + used[side] for side in ("a", "b"))
    model, tokenizer, log = fit_reward(
        first.tolist(),
        second.tolist(),
        used[options["labels"]],
        np.ones(len(used)),
        reward,
        seed,
        progress=context.progress,
    )
    scores = [score(model, tokenizer, others["prompt"] + "\n\n" + others[side], reward) for side in ("a", "b")]
    p = np.clip(1 / (1 + np.exp(scores[1] - scores[0])), 1e-6, 1 - 1e-6)
    soft, hard = others["soft"].to_numpy(), others["hard"].to_numpy()
    decided = np.isfinite(hard)
    row = {
        "pairs": len(used),
        "heldout": len(others),
        "log_loss": float(-(soft * np.log(p) + (1 - soft) * np.log(1 - p)).mean()),
        "brier": float(((p - soft) ** 2).mean()),
        "accuracy": float(((p > 0.5) == hard)[decided].mean()) if decided.any() else np.nan,
        "ece": cal.ece(p[decided], hard[decided]) if decided.any() else np.nan,
    }
    return {"log": log, "heldout": pd.DataFrame([row])}


def by_prompt(pairs: pd.DataFrame, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first `n` pairs with all others of their prompts, and the rest: a prompt is never on both sides."""
    held = pairs["prompt"].isin(pairs["prompt"][:n])
    return pairs[held].reset_index(drop=True), pairs[~held].reset_index(drop=True)

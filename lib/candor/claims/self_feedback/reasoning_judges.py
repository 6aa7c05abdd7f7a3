"""Judges of traces: a reward model of pairs with margins, and public ones that are fed text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from candor.language_models import training


def new_judge(place: str | Path):
    """A decoder with a scalar head in float32, and its tokenizer: the head has to be trained or loaded."""
    import torch

    from candor.language_models import generation

    model, tokenizer = generation.scorer(place)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def recipe_settings(recipe: Mapping, n: int, key: str, seed: int) -> dict:
    """What trainers are told for `n` pairs, every choice stated."""
    return training.told(recipe, f"reasoning.{key}", seed, max(1, round(recipe["epochs"] * n / recipe["batch"])))


def fit_judge(
    place: str | Path,
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    margin: Sequence[float],
    recipe: Mapping,
    seed: int,
    folder: Path,
    progress: Callable[[int, int], None],
):
    """Adapters and a head on `place`, trained on pairs with margins (`models.reasoning.judge`), saved in `folder`.

    Returns the model and the log, as `reward_model.bradley_terry`'s.
    """
    import torch

    from candor.train import models
    from candor.train.reward_model import bradley_terry

    torch.manual_seed(seed)
    model, tokenizer = new_judge(place)
    changes = {"lora_dropout": recipe["dropout"], "use_rslora": True, "task_type": "SEQ_CLS"}  # the head: trained whole
    model = models.adapted(model, recipe["lora"], **changes)
    told = recipe_settings(recipe, len(chosen), "judge", seed) | {"disable_dropout": False}
    pairs = chosen, rejected, told
    return model, bradley_terry(model, tokenizer, *pairs, margin=margin, progress=progress, save=folder)


def load_judge(folder: Path):
    """A judge that `fit_judge` saved."""
    from peft import PeftModel

    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    return PeftModel.from_pretrained(new_judge(base)[0], str(folder)).eval()


def scores(model, rows: Sequence[Sequence[int]], batch: int) -> np.ndarray:
    """Scores [n] of token ids of prompt and completion, in bfloat16 on a GPU."""
    import torch

    from candor.train import reward_model

    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        return reward_model.score(model, rows, batch)


def by_ids(model, batch: int) -> Callable[..., np.ndarray]:
    """Rates by a judge with the policy's own tokenizer."""

    def rate(question_ids, text, completion_ids, **_) -> np.ndarray:
        return scores(model, joined(question_ids, completion_ids), batch)

    return rate


def by_text(place: str, own_tokenizer, batch: int) -> Callable[..., np.ndarray]:
    """Rates by a public reward model with another tokenizer: the conversation as text, in its own template."""
    from candor.language_models import generation

    model, tokenizer = generation.load(place, "AutoModelForSequenceClassification")
    model.config.pad_token_id = tokenizer.pad_token_id

    def rate(question_ids, text, completion_ids, **_) -> np.ndarray:
        said = own_tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        pairs = [({"role": "user", "content": a}, {"role": "assistant", "content": b}) for a, b in zip(text, said)]
        if tokenizer.chat_template:
            rows = tokenizer.apply_chat_template([list(pair) for pair in pairs], return_dict=True)["input_ids"]
        else:
            rows = tokenizer([f"{asked['content']}\n{reply['content']}" for asked, reply in pairs])["input_ids"]
        return scores(model, rows, batch)

    return rate


def joined(prompts: Iterable, traces: Iterable) -> list[list[int]]:
    """Token ids of prompts and of the traces behind them, a row each."""
    return [[*a, *b] for a, b in zip(prompts, traces)]

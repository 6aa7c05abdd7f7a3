"""Pretrained models under the labels of annotators: a reward model on a decoder, a policy by RLOO against it.

Supports: all weights for the reward model, LoRA adapters for the policy (its reference is the model without them);
bfloat16, gradient checkpointing and the attention of `models.computation` on a GPU; a stop at a given KL; a training
that was killed goes on (`checkpoints`).
Assumes: TRL 1.16, models that fit one GPU with their optimisers; further GPUs stay idle.
Raises: `CandorError` where steps do not fit the passes, `DivergedError` where the loss is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from candor import checkpoints
from candor.core import runtime
from candor.core.errors import CandorError, DivergedError
from candor.rewards import checked

_SMOOTH = 5  # steps whose mean KL decides about the stop


def _passes(batch: int, micro_batch: int, key: str) -> tuple[int, int]:
    """Rows in a pass, and passes in a step."""
    together = min(micro_batch, batch)
    if batch % together:
        raise CandorError(
            f"A step of {batch} cannot be cut into passes of {together}: change {key}.micro_batch in the scale."
        )
    return together, batch // together


# --- Reward model -----------------------------------------------------------------------------------


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
    folder: Path,
    progress: Callable[[int, int], None] = lambda step, total: None,
):
    """A decoder with a new scalar head, all weights trained on weighted comparisons of whole texts.

    `labels` [n]: P(first preferred), or what an arm puts in its place; `weights` [n] are brought to a mean of 1;
    `recipe`: `models.annotation_reward`. Returns model, tokenizer and log (step, loss, grad_norm, seconds).
    """
    import torch
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from candor.language_models import generation
    from candor.training import chat, weighted_reward
    from candor.training.dpo import Recorder

    torch.manual_seed(seed)
    model, tokenizer = generation.scorer(recipe["model"])
    ids = [[encode(tokenizer, text, recipe["max_length"]) for text in texts] for texts in (first, second)]
    dataset = weighted_reward.pairs_dataset(*ids, labels, weights)
    together, passes = _passes(recipe["batch"], recipe["micro_batch"], "annotation_reward")
    steps = recipe["epochs"] * -(-len(dataset) // recipe["batch"])
    config = weighted_reward.configuration(
        folder,
        seed=seed,
        epochs=recipe["epochs"],
        batch_size=together,
        lr=recipe["lr"],
        decay=0.0,
        gradient_accumulation_steps=passes,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe["warmup"] * steps),
        max_grad_norm=recipe["max_grad_norm"],
        logging_strategy="steps",
        logging_steps=max(1, steps // 50),
        **runtime.on_gpu(),
    )
    recorder = Recorder(0, None, progress)
    trainer = checkpoints.resuming(weighted_reward.WeightedRewardTrainer)(
        model=model,
        args=chat._on_one_gpu(config),
        train_dataset=dataset,
        data_collator=weighted_reward.Collator(tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise DivergedError("The weights stopped being finite: lower annotation_reward.lr in the scale.")
    return model.eval(), tokenizer, pd.DataFrame(recorder.rows)


def score(model, tokenizer, texts: Iterable[str], recipe: Mapping) -> np.ndarray:
    """Rewards of whole texts [n]."""
    import torch

    ids = [encode(tokenizer, text, recipe["max_length"]) for text in texts]
    found = np.zeros(len(ids))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    for start in range(0, len(order), 4 * recipe["micro_batch"]):
        places = order[start : start + 4 * recipe["micro_batch"]]
        inputs = tokenizer.pad({"input_ids": [ids[i] for i in places]}, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            found[places] = model(**inputs).logits[:, 0].float().cpu().numpy()
    return found


# --- Policy -----------------------------------------------------------------------------------------


def rloo_configuration(recipe: Mapping, seed: int, folder: Path):
    """The `RLOOConfig` of `models.annotation_rloo`."""
    from candor.training import chat, rloo

    total = recipe["prompts_per_step"] * recipe["num_generations"]
    together, passes = _passes(total, recipe["micro_batch"], "annotation_rloo")
    config = rloo.configuration(
        folder,
        seed=seed,
        max_steps=recipe["steps"],
        beta=recipe["beta"],
        per_device_train_batch_size=together,
        gradient_accumulation_steps=passes,
        steps_per_generation=passes,
        num_generations=recipe["num_generations"],
        max_completion_length=recipe["max_completion_tokens"],
        learning_rate=recipe["lr"],
        max_grad_norm=recipe["max_grad_norm"],
        temperature=recipe.get("temperature", 1.0),
        logging_steps=1,
        **runtime.on_gpu(),
    )
    return chat._on_one_gpu(config)


def optimise(
    place: str | Path,
    questions: pd.DataFrame,
    reward: Callable[..., list[float]],
    recipe: Mapping,
    seed: int,
    folder: Path,
    *,
    stop_at_kl: float | None = None,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """Adapters on `place`, trained by RLOO on `questions` (prompt, and what the reward reads); leaves `folder/model`.

    Returns the log, a row a step: step, loss, reward, reward_std, kl (nats a completion), entropy, mean_length,
    grad_norm, seconds. `stop_at_kl`: training ends where the mean KL of five steps reaches it.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import RLOOTrainer

    from candor.language_models import generation
    from candor.training import rloo

    class StopAtKL(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            if "kl" in (logs or {}) and stop_at_kl is not None:  # the recorder has been told before
                reached = [row["kl"] * row["mean_length"] for row in recorder.rows[-_SMOOTH:]]
                if np.mean(reached) >= stop_at_kl:
                    control.should_training_stop = True

    torch.manual_seed(seed)
    model = generation.weights(place, coarse=True)  # frozen weights may be coarse
    adapters = LoraConfig(
        r=recipe["lora"]["rank"],
        lora_alpha=recipe["lora"]["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    tokenizer = generation.tokenizer_of(place)
    recorder = rloo._Recorder(0, None, progress)
    model = get_peft_model(model, adapters)
    trainer = checkpoints.resuming(RLOOTrainer)(
        model=model,
        args=rloo_configuration(recipe, seed, folder / "trainer"),
        reward_funcs=[checked(reward)],
        train_dataset=Dataset.from_pandas(questions, preserve_index=False),
        processing_class=tokenizer,
        callbacks=[recorder, StopAtKL()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise DivergedError("The weights stopped being finite: lower annotation_rloo.lr in the scale.")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    log = pd.DataFrame(recorder.rows)
    return log.assign(kl=log["kl"] * log["mean_length"])  # TRL logs the mean of a token

"""Pretrained models on feedback from their own confidence: a judge with adapters, a policy by DPO, rewards for RLOO.

Everything here takes token ids as they were decoded: no trace is tokenized again. RLOO itself is `judged.optimise`.
Supports: LoRA adapters (rank-stabilised for the judge); bfloat16, gradient checkpointing and the attention of
`models.computation` on a GPU; a public reward model with another tokenizer, which is given text; a policy whose
training was killed goes on (`checkpoints`; the judge's, which is short, starts again).
Assumes: TRL 1.16, models that fit one GPU with their optimisers.
Raises: `CandorError` where a step cannot be cut into passes, `DivergedError` where the loss is not finite.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from candor import checkpoints
from candor.core import runtime
from candor.core.errors import CandorError, DivergedError

# --- The judge --------------------------------------------------------------------------------------


def new_judge(place: str | Path):
    """A decoder with a scalar head in float32, and its tokenizer: the head has to be trained or loaded."""
    import torch

    from candor.language_models import generation

    model, tokenizer = generation.scorer(place)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer


def fit_judge(
    place: str | Path,
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    margin: Sequence[float],
    recipe: Mapping,
    seed: int,
    folder: Path,
    progress: Callable[[int, int], None] = lambda step, total: None,
):
    """Adapters and a head on `place`, trained on pairs with margins (`models.reasoning.judge`); leaves `folder/model`.

    Returns the model and the log, as `reward_model.train`'s.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    from candor.training import chat, judged, reward_model
    from candor.training import self_feedback as feedback

    torch.manual_seed(seed)
    model, tokenizer = new_judge(place)
    lora = recipe["lora"]
    adapters = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=recipe["dropout"],
        use_rslora=True,
        target_modules="all-linear",
        task_type="SEQ_CLS",  # the head is trained whole
    )
    model = get_peft_model(model, adapters)
    together, passes = judged._passes(recipe["batch"], recipe["micro_batch"], "reasoning.judge")
    steps = max(1, round(recipe["epochs"] * len(chosen) / recipe["batch"]))
    config = reward_model.configuration(
        folder / "trainer",
        seed=seed,
        max_steps=steps,
        learning_rate=recipe["lr"],
        batch_size=together,
        gradient_accumulation_steps=passes,
        disable_dropout=False,
        logging_steps=max(1, steps // 50),
        **runtime.on_gpu(),
    )
    log = feedback.train_judge(model, tokenizer, chosen, rejected, margin, chat._on_one_gpu(config), progress=progress)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return model, log


def load_judge(folder: Path):
    """A judge that `fit_judge` saved."""
    from peft import PeftModel

    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    model, _ = new_judge(base)
    return PeftModel.from_pretrained(model, str(folder)).eval()


def scores(model, rows: Sequence[Sequence[int]], batch: int) -> np.ndarray:
    """Scores [n] of token ids of prompt and completion, in bfloat16 on a GPU."""
    import torch

    from candor.training import reward_model

    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        return reward_model.score(model, rows, batch)


# --- Rewards ----------------------------------------------------------------------------------------


def reward(rate: Callable[..., np.ndarray], centre: float, divisor: float) -> Callable[..., list[float]]:
    """A reward in TRL's signature: (rate - centre) / divisor, clipped to [-1, 1].

    `rate` takes ids of the question, its text and ids of the completion. What it is given holds no answer.
    """

    def rated(completion_ids, question_ids, text, **_) -> list[float]:
        return np.clip((rate(question_ids, text, completion_ids) - centre) / divisor, -1, 1).tolist()

    return rated


def by_ids(model, batch: int) -> Callable[..., np.ndarray]:
    """Rates by a judge with the policy's own tokenizer."""
    return lambda questions, texts, replies: scores(model, [[*a, *b] for a, b in zip(questions, replies)], batch)


def by_text(place: str, own_tokenizer, batch: int) -> Callable[..., np.ndarray]:
    """Rates by a public reward model with another tokenizer: the conversation as text, in its own template."""
    from candor.language_models import generation

    model, tokenizer = generation.load(place, "AutoModelForSequenceClassification")
    model.config.pad_token_id = tokenizer.pad_token_id

    def rate(questions, texts, replies) -> np.ndarray:
        said = own_tokenizer.batch_decode(replies, skip_special_tokens=True)
        pairs = [({"role": "user", "content": a}, {"role": "assistant", "content": b}) for a, b in zip(texts, said)]
        if tokenizer.chat_template:
            rows = tokenizer.apply_chat_template([list(pair) for pair in pairs], return_dict=True)["input_ids"]
        else:
            rows = tokenizer([f"{asked['content']}\n{reply['content']}" for asked, reply in pairs])["input_ids"]
        return scores(model, rows, batch)

    return rate


# --- DPO --------------------------------------------------------------------------------------------


def prefer(
    place: str | Path,
    prompts: Sequence[Sequence[int]],
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    recipe: Mapping,
    seed: int,
    folder: Path,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """Adapters on `place`, trained by DPO on pairs of ids (`models.reasoning.dpo`); leaves `folder/model`.

    The reference is the model without them; margins play no part. Returns the log, as `dpo.train`'s.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import DPOTrainer

    from candor.language_models import generation
    from candor.training import chat, dpo, judged

    class OnIds(DPOTrainer):
        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset  # it would make ids of texts

    if not len(chosen):
        raise CandorError("There is no pair for DPO: no trace is confident enough, so lower reasoning.threshold.")
    torch.manual_seed(seed)
    model, tokenizer = generation.weights(place, coarse=True), generation.tokenizer_of(place)  # frozen: may be coarse
    together, passes = judged._passes(recipe["batch"], recipe["micro_batch"], "reasoning.dpo")
    steps = max(1, round(recipe["epochs"] * len(chosen) / recipe["batch"]))
    config = dpo.configuration(
        folder / "trainer",
        seed=seed,
        max_steps=steps,
        beta=recipe["beta"],
        learning_rate=recipe["lr"],
        batch_size=together,
        gradient_accumulation_steps=passes,
        logging_steps=max(1, steps // 50),
        **runtime.on_gpu(),
    )
    columns = {"prompt_ids": prompts, "chosen_ids": chosen, "rejected_ids": rejected}
    recorder = dpo.Recorder(0, None, progress)
    trainer = checkpoints.resuming(OnIds)(
        model=model,
        args=chat._on_one_gpu(config),
        train_dataset=Dataset.from_dict({name: list(map(list, rows)) for name, rows in columns.items()}),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=recipe["lora"]["rank"],
            lora_alpha=recipe["lora"]["alpha"],
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[recorder],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    if not all(torch.isfinite(p).all() for p in trainer.model.parameters()):
        raise DivergedError("The weights stopped being finite: lower reasoning.dpo.lr in the scale.")
    trainer.model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return pd.DataFrame(recorder.rows)

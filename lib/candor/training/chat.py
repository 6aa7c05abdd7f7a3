"""A pretrained base model made a chat model by SFT, then moved by DPO: the recipe of claim 3 on real data.

Supports: all weights, or LoRA adapters that are merged at the end; bfloat16, gradient checkpointing and the attention
of `models.computation` on a GPU; something measured along the way; a training that was killed goes on (`checkpoints`).
Assumes: TRL 1.16, and a model that fits one GPU with its optimiser (adapters need less); further GPUs stay idle.
Raises: `CandorError` where steps do not fit the passes or no pair fits the length, `DivergedError` where the loss is
not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from candor import checkpoints
from candor.core import runtime
from candor.core.errors import CandorError, DivergedError

# Zephyr's form (Tunstall et al. 2023). The markers say which tokens the loss is on: what the assistant writes, and the
# token that ends it. What the tokenizer puts in front of a text stands in front of a conversation.
TEMPLATE = (
    "{{ bos_token if bos_token else '' }}"
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n' }}{% endif %}{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}"
)


def start(place: str | Path, lora: Mapping | None, seed: int):
    """Model and tokenizer to be trained, the tokenizer with our template; adapters are there if `lora` says so.

    The model is on the GPU where there is one: it is measured before a trainer would put it there.
    """
    import torch

    from candor.language_models import generation

    torch.manual_seed(seed)
    model = generation.weights(place, coarse=lora is not None)  # frozen weights may be coarse
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = generation.tokenizer_of(place)
    tokenizer.chat_template = TEMPLATE
    if lora is None:
        return model, tokenizer
    from peft import LoraConfig, get_peft_model

    adapters = LoraConfig(
        r=lora["rank"],
        lora_alpha=lora["alpha"],
        lora_dropout=0.0,
        target_modules="all-linear",  # the output head is none of them: DPO refuses an adapter there
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapters), tokenizer


def finish(model, tokenizer, folder: Path) -> None:
    """Save a whole model, adapters merged, and its tokenizer."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload(adapter_names=["default"])  # DPO keeps a second one as its reference
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def steps_of(recipe: Mapping, n: int) -> int:
    """Optimiser steps of a recipe on `n` examples: as many as it says, or one pass."""
    return recipe["steps"] or max(1, n // recipe["batch"])


def _cut(batch: int, micro_batch: int) -> dict[str, int]:
    together = min(micro_batch, batch)
    if batch % together:
        raise CandorError(
            f"A step of {batch} cannot be cut into passes of {together}: change chat.micro_batch in the scale."
        )
    return {"per_device_train_batch_size": together, "gradient_accumulation_steps": batch // together}


def every(steps: int, checkpoints: int) -> tuple[int, int]:
    """Steps between two checkpoints, and between two rows of the log, of which the first is a multiple."""
    between = max(1, steps // max(checkpoints, 1))
    logged = max(1, between // 10)
    return between // logged * logged, logged


def _shared(chat: Mapping, steps: int, batch: int, warmup: float, logged: int) -> dict:
    """What SFT and DPO have in common, every choice stated."""
    return {
        **_cut(batch, chat["micro_batch"]),
        "warmup_steps": round(warmup * steps),
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "max_grad_norm": chat["max_grad_norm"],
        "max_length": chat["max_length"],
        "truncation_mode": "keep_start",
        "logging_steps": logged,
        **runtime.on_gpu(),
    }


def sft_configuration(chat: Mapping, steps: int, seed: int, folder: Path, *, logged: int = 10, further: bool = False):
    """The `SFTConfig` of `models.chat`; `further`: with batch, rate and schedule of the DPO that it stands beside."""
    import torch
    from trl import SFTConfig

    recipe = chat["dpo" if further else "sft"]
    config = SFTConfig(
        output_dir=str(folder),
        seed=seed,
        max_steps=steps,
        learning_rate=recipe["lr"],
        lr_scheduler_type="linear" if further else "cosine",
        packing=False,
        assistant_only_loss=True,
        loss_type="nll",
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **_shared(chat, steps, recipe["batch"], recipe["warmup"], logged),
    )
    return _on_one_gpu(config)


def dpo_configuration(chat: Mapping, steps: int, beta: float, seed: int, folder: Path, *, logged: int = 10):
    """The `DPOConfig` of `models.chat`."""
    from candor.training import dpo

    recipe = chat["dpo"]
    shared = _shared(chat, steps, recipe["batch"], recipe["warmup"], logged)
    config = dpo.configuration(
        folder,
        seed=seed,
        max_steps=steps,
        beta=beta,
        learning_rate=recipe["lr"],
        batch_size=shared.pop("per_device_train_batch_size"),
        lr_scheduler_type="linear",
        **shared,
    )
    return _on_one_gpu(config)


def _on_one_gpu(config):
    """Several visible GPUs would each take a batch, and a step would be larger than the recipe says."""
    config._n_gpu = min(config.n_gpu, 1)
    return config


def sft(
    model,
    tokenizer,
    chats: Sequence[Sequence[Mapping[str, str]]],
    config,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> pd.DataFrame:
    """Train `model` in place on conversations (lists of role and content); returns the log: step, loss, grad_norm.

    Loss on the assistant's messages. Or on a `Dataset` of another form, with the loss that `config` says.
    """
    import torch
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import SFTTrainer

    from candor.training.dpo import Recorder

    recorder = Recorder(0, None, progress)
    trainer = checkpoints.resuming(SFTTrainer)(
        model=model,
        args=config,
        train_dataset=(
            chats if isinstance(chats, Dataset) else Dataset.from_list([{"messages": list(chat)} for chat in chats])
        ),
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise DivergedError("The weights stopped being finite: lower the learning rate.")
    model.eval()
    return pd.DataFrame(recorder.rows)


def dpo(model, tokenizer, pairs, config, progress: Callable[[int, int], None] = lambda step, total: None):
    """Train `model` in place by DPO on a `Dataset` of conversations; returns the log, as `dpo.train`'s.

    Raises: `CandorError` where the trainer drops a pair, `DivergedError` where the weights stop being finite.
    """
    import torch
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import DPOTrainer

    from candor.training import dpo as recipe

    recorder = recipe.Recorder(0, None, progress)
    trainer = checkpoints.resuming(DPOTrainer)(
        model=model, args=config, train_dataset=pairs, processing_class=tokenizer, callbacks=[recorder]
    )
    recipe._check_round_trip(tokenizer, pairs, trainer.train_dataset)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    if not all(torch.isfinite(p).all() for p in trainer.model.parameters()):
        raise DivergedError("The weights stopped being finite: lower the learning rate.")
    trainer.model.eval()
    return pd.DataFrame(recorder.rows)


def preference_pairs(pairs: Sequence[Mapping[str, str]], tokenizer, max_length: int):
    """Pairs (prompt, chosen, rejected) as a `Dataset` of messages; prompts that leave a reply no room are left out.

    Raises: `CandorError` where none is left.
    """
    from datasets import Dataset

    kept = []
    for pair in pairs:
        prompt = [{"role": "user", "content": pair["prompt"]}]
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        if len(ids) < max_length:
            replies = {side: [{"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")}
            kept.append({"prompt": prompt, **replies})
    if not kept:
        raise CandorError(f"Every prompt of ultrafeedback has {max_length} tokens or more: raise chat.max_length.")
    return Dataset.from_list(kept)


def measured(model, between: int, measure: Callable[[int], None]) -> Callable[[int], None]:
    """A function of the step that calls `measure(step)` at every `between` steps and leaves the training as it was.

    Meant for a trainer's log: the model is put back into training, and the generators of random numbers where they
    were.
    """
    import torch

    def look(step: int) -> None:
        if step % between == 0:
            training = model.training
            with torch.random.fork_rng():
                model.eval()
                measure(step)
            model.train(training)

    return look

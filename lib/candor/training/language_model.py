"""A pretrained model, trained by GRPO on questions with answers: the arms of the papers.

Supports: all weights or LoRA adapters (peft), bfloat16 and gradient checkpointing on a GPU, vLLM inside the training
process (`models.engine: vllm`), several GPUs by accelerate.
Assumes: TRL 1.16, a model that fits one GPU with its gradients (plain data parallelism; DeepSpeed ZeRO stage 2 where
`accelerate config` set it up). TRL's own passes are used, not `SharedPromptGRPOTrainer`'s: long prompts want its
fused attention.
Raises: `CandorError` where the sizes do not fit the number of GPUs, `DivergedError` where the loss is not finite.

A step uses every GPU that it sees (restrict them with CUDA_VISIBLE_DEVICES). With several it starts

    accelerate launch --num_processes N -m candor.training.language_model FOLDER

by itself, where FOLDER holds job.json and questions.parquet; accelerate reads its own default configuration beside.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from candor.errors import CandorError


def configuration(recipe: Mapping, seed: int, folder: Path, engine: str, processes: int = 1):
    """The `GRPOConfig` of a recipe (`models.hotpot`, `models.math`): every choice stated."""
    import torch

    from candor.training import grpo

    total = recipe["prompts_per_step"] * recipe["num_generations"]
    together = min(recipe["micro_batch"], total) * processes
    if total % together:
        raise CandorError(
            f"A step of {recipe['prompts_per_step']} x {recipe['num_generations']} completions cannot be cut into "
            f"passes of {recipe['micro_batch']} on {processes} GPU(s): change micro_batch in the scale, or the number "
            "of GPUs."
        )
    gpu = torch.cuda.is_available()
    vllm = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3} if engine == "vllm" else {}
    return grpo.configuration(
        folder,
        seed=seed,
        max_steps=recipe["steps"],
        per_device_train_batch_size=together // processes,
        gradient_accumulation_steps=total // together,
        steps_per_generation=total // together,
        num_generations=recipe["num_generations"],
        max_completion_length=recipe["max_completion_tokens"],
        learning_rate=recipe["lr"],
        lr_scheduler_type={"constant": "constant_with_warmup", "linear": "linear"}[recipe["schedule"]],
        warmup_steps=round(recipe["warmup"] * recipe["steps"]),
        adam_beta1=0.9,
        adam_beta2=recipe["adam_beta2"],
        max_grad_norm=recipe["max_grad_norm"],
        beta=recipe["beta"],
        epsilon=recipe["epsilon"],
        loss_type=recipe["loss_type"],
        scale_rewards=recipe["scale_rewards"],
        temperature=recipe["temperature"],
        mask_truncated_completions=recipe["mask_truncated"],
        bf16=gpu,
        gradient_checkpointing=gpu,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=1,
        **vllm,
    )


def train(
    policy: str,
    questions,
    arm: str,
    recipe: Mapping,
    seed: int,
    folder: Path,
    *,
    engine: str = "transformers",
    progress: Callable[[int, int], None] = lambda step, total: None,
    terms: str | None = None,
) -> pd.DataFrame:
    """Train `policy` (id or folder) on `questions` (prompt and what the reward reads); leaves `folder/model`.

    `terms` names the function (`module:function`) that gives an arm's rewards and weights from its recipe, where that
    is not `rewards.of_arm`: by name, because with several GPUs each process looks it up. Returns the log.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    processes = max(torch.cuda.device_count(), 1)
    if processes == 1:
        log = _fit(policy, questions, arm, recipe, seed, folder, engine, 1, progress, terms)
        shutil.rmtree(folder / "trainer", ignore_errors=True)
        return log
    job = {"policy": str(policy), "arm": arm, "recipe": dict(recipe), "seed": seed, "engine": engine, "terms": terms}
    (folder / "job.json").write_text(json.dumps(job | {"processes": processes}, default=dict))
    questions.to_parquet(str(folder / "questions.parquet"))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    done = subprocess.run([*launcher, "-m", "candor.training.language_model", str(folder)], check=False)
    if done.returncode:
        raise CandorError(
            f"Training {arm} on {processes} GPUs failed with code {done.returncode}: see the lines above."
        )
    log = pd.read_parquet(folder / "log.parquet")
    for name in ("job.json", "questions.parquet", "log.parquet"):
        (folder / name).unlink()
    shutil.rmtree(folder / "trainer", ignore_errors=True)
    return log


def _fit(policy, questions, arm, recipe, seed, folder, engine, processes, progress, terms=None) -> pd.DataFrame:
    import torch
    from transformers import AutoModelForCausalLM
    from trl import GRPOTrainer

    from candor import generation
    from candor.corpora import rewards
    from candor.training import grpo

    if engine == "vllm":
        generation.vllm_module()
    torch.manual_seed(seed)
    # With adapters the frozen weights may be coarse; trained weights stay float32 and are cast as they are used.
    coarse = torch.cuda.is_available() and recipe["lora"] is not None
    model = AutoModelForCausalLM.from_pretrained(
        policy,
        dtype=torch.bfloat16 if coarse else torch.float32,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    tokenizer = generation.tokenizer_of(policy)
    if recipe["lora"] is not None:
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(
            r=recipe["lora"]["rank"],
            lora_alpha=recipe["lora"]["alpha"],
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, adapters)
    module, _, function = (terms or "").partition(":")
    of_arm = getattr(importlib.import_module(module), function) if terms else rewards.of_arm
    parts, weights = of_arm(arm, recipe)
    config = configuration(recipe, seed, folder / "trainer", engine, processes)
    log = grpo.train(model, tokenizer, questions, parts, weights, config, progress=progress, trainer_class=GRPOTrainer)
    if int(config.process_index) == 0:
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    return log


def _main(folder: Path) -> None:
    """What each process of `accelerate launch` does."""
    from datasets import Dataset

    job = json.loads((folder / "job.json").read_text())
    questions = Dataset.from_parquet(str(folder / "questions.parquet"), keep_in_memory=True)
    log = _fit(
        job["policy"],
        questions,
        job["arm"],
        job["recipe"],
        job["seed"],
        folder,
        job["engine"],
        job["processes"],
        lambda step, total: None,
        job.get("terms"),
    )
    if os.environ.get("RANK", "0") == "0":
        log.to_parquet(folder / "log.parquet", index=False)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

"""A pretrained model, trained by GRPO on questions with answers: the arms of the papers.

Supports: all weights or LoRA adapters (peft); bfloat16, gradient checkpointing and the attention of
`models.computation` on a GPU; completions sampled in batches that fit the card, or by vLLM inside the training
process (`models.engine: vllm`); several GPUs by accelerate; a training that was killed goes on from its last checkpoint
(`train/resume`); a prompt computed once for its completions (`train/sharing_long`), or TRL's own passes.
Assumes: TRL 1.16, a model that fits one GPU with its gradients (plain data parallelism; DeepSpeed ZeRO stage 2 where
`accelerate config` set it up).
Raises: `CandorError` where the sizes do not fit the number of GPUs, `DivergedError` where the loss is not finite.

A step uses every GPU that its job was given (`gpus`, `gpus_per_job` in the profile). With several it starts

    accelerate launch --num_processes N -m candor.language_models.training FOLDER

by itself, where FOLDER holds job.json and questions.parquet; accelerate reads its own default configuration beside.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from candor.core import runtime
from candor.core.errors import CandorError


def settings(recipe: Mapping, seed: int, engine: str, processes: int = 1) -> dict:
    """The settings of `policy.grpo` for a recipe (`models.hotpot`, `models.math`): every choice stated."""
    total = recipe["prompts_per_step"] * recipe["num_generations"]
    together = min(recipe["micro_batch"], total) * processes
    if total % together:
        raise CandorError(
            f"A step of {recipe['prompts_per_step']} x {recipe['num_generations']} completions cannot be cut into "
            f"passes of {recipe['micro_batch']} on {processes} GPU(s): change micro_batch in the scale, or the number "
            "of GPUs."
        )
    vllm = {"use_vllm": True, "vllm_mode": "colocate", "vllm_gpu_memory_utilization": 0.3} if engine == "vllm" else {}
    return {
        "seed": seed,
        "max_steps": recipe["steps"],
        "per_device_train_batch_size": together // processes,
        "gradient_accumulation_steps": total // together,
        "steps_per_generation": total // together,
        "num_generations": recipe["num_generations"],
        "max_completion_length": recipe["max_completion_tokens"],
        "learning_rate": recipe["lr"],
        "lr_scheduler_type": {"constant": "constant_with_warmup", "linear": "linear"}[recipe["schedule"]],
        "warmup_steps": round(recipe["warmup"] * recipe["steps"]),
        "adam_beta1": 0.9,
        "adam_beta2": recipe["adam_beta2"],
        "max_grad_norm": recipe["max_grad_norm"],
        "beta": recipe["beta"],
        "epsilon": recipe["epsilon"],
        "loss_type": recipe["loss_type"],
        "scale_rewards": recipe["scale_rewards"],
        "temperature": recipe["temperature"],
        "mask_truncated_completions": recipe["mask_truncated"],
        "logging_steps": 1,
        **runtime.on_gpu(),
        **vllm,
    }


def told(recipe: Mapping, key: str, seed: int, steps: int, **further) -> dict:
    """What a trainer of TRL is told for a recipe (`batch`, `micro_batch`, `lr`) under the setting `key`."""
    from candor.train import models

    return {
        **models.passes(recipe["batch"], recipe["micro_batch"], key),
        "seed": seed,
        "max_steps": steps,
        "learning_rate": recipe["lr"],
        "logging_steps": max(1, steps // 50),
        **runtime.on_gpu(),
        **further,
    }


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
    processes: int | None = None,
) -> pd.DataFrame:
    """Train `policy` (id or folder) on `questions` (prompt and what the reward reads); leaves `folder/model`.

    `processes`: by default one for each GPU; without a GPU they run on the CPU.

    `terms` names the function (`module:function`) that gives an arm's rewards and weights from its recipe, where that
    is not `rewards.of_arm`: by name, because with several GPUs each process looks it up. Returns the log.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    gpus = torch.cuda.device_count()
    processes = processes or max(gpus, 1)
    if processes == 1:
        return _fit(policy, questions, arm, recipe, seed, folder, engine, 1, progress, terms)
    job = {"policy": str(policy), "arm": arm, "recipe": dict(recipe), "seed": seed, "engine": engine, "terms": terms}
    now = runtime.current()
    names = ("attention", "gradient_checkpointing", "checkpoint_steps", "shared_prompts", "trainings")
    told = {name: getattr(now, name) for name in names}
    told["checkpoints"] = now.checkpoints and str(now.checkpoints)
    now.trainings += 1
    (folder / "job.json").write_text(json.dumps(job | {"processes": processes, "runtime": told}, default=dict))
    questions.to_parquet(str(folder / "questions.parquet"))
    launcher = ["accelerate.commands.launch", "--num_processes"]
    if not gpus:  # accelerate would start one process on a CPU
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node"]
    launcher = [sys.executable, "-m", *launcher, str(processes)]
    # The processes hold the locks of their GPUs too: they may outlive this one.
    done = subprocess.run(
        [*launcher, "-m", "candor.language_models.training", str(folder)], check=False, close_fds=False
    )
    if done.returncode:
        raise CandorError(
            f"Training {arm} in {processes} processes failed with code {done.returncode}: see the lines above."
        )
    log = pd.read_parquet(folder / "log.parquet")
    found = json.loads((folder / "cost.json").read_text())
    for kind, (tokens, seconds) in found["counts"].items():
        now.count(kind, tokens, seconds)
    now.memory, now.resumed = max(now.memory, found["memory"]), now.resumed + found["resumed"]
    for name in ("job.json", "questions.parquet", "log.parquet", "cost.json"):
        (folder / name).unlink()
    return log


def _fit(policy, questions, arm, recipe, seed, folder, engine, processes, progress, terms=None) -> pd.DataFrame:
    from candor.language_models import generation, rewards
    from candor.train import models
    from candor.train.policy import grpo

    if engine == "vllm":
        generation.vllm_module()
    model, tokenizer = models.pretrained(policy, recipe["lora"], seed)
    module, _, function = (terms or "").partition(":")
    of_arm = getattr(importlib.import_module(module), function) if terms else rewards.of_arm
    parts, weights = of_arm(arm, recipe)
    at_work = int(os.environ.get("WORLD_SIZE", "1"))
    if at_work != processes:
        raise CandorError(
            f"{at_work} process(es) are at work where {processes} should share a step: run `accelerate config` and "
            "choose several GPUs, or remove its file."
        )
    return grpo(
        model,
        tokenizer,
        questions,
        parts,
        weights,
        settings(recipe, seed, engine, processes),
        resumes=True,
        progress=progress,
        save=folder / "model",
        **_trainer(model),
    )


def last_kl(log: pd.DataFrame) -> float:
    """Mean KL over the last tenth of a log, as the log has it: how far the policy has moved; NaN without an anchor."""
    return float(log["kl"].tail(max(1, len(log) // 10)).mean()) if "kl" in log else math.nan


def _trainer(model) -> dict:
    """The trainer that `models.computation` asks for: prompts once a group where the model's attention allows it."""
    from trl import GRPOTrainer

    from candor.train.sharing_long import LongPromptGRPOTrainer

    route = {"sdpa": "sdpa", "flex_attention": "flex"}.get(model.config._attn_implementation)
    if runtime.current().shared_prompts and route:
        return {"trainer_class": LongPromptGRPOTrainer, "attention": route}
    return {"trainer_class": GRPOTrainer}


def _main(folder: Path) -> None:
    """What each process of `accelerate launch` does."""
    from datasets import Dataset

    job = json.loads((folder / "job.json").read_text())
    questions = Dataset.from_parquet(str(folder / "questions.parquet"), keep_in_memory=True)
    told = job.get("runtime", {})
    if told.get("checkpoints"):
        told["checkpoints"] = Path(told["checkpoints"])
    with runtime.use(runtime.Runtime(**told)) as used:
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
        peak = used.peak()
    if os.environ.get("RANK", "0") == "0":
        log.to_parquet(folder / "log.parquet", index=False)
        cost = {"counts": used.counts, "memory": peak, "resumed": used.resumed}
        (folder / "cost.json").write_text(json.dumps(cost))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))

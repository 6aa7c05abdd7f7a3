"""Time of one GRPO step: Candor's, TRL's with our settings, TRL's with its own defaults, and the floor of arithmetic.

    python benchmarks/grpo_step.py                      # a few minutes on an idle core
    python benchmarks/grpo_step.py --rounds 1 --steps 6 --base-steps 50 --output /dev/stdout   # does it run?

The three run interleaved in one process on one thread, on the same task, from the same base. Floor: the
floating-point operations that a step counts, divided by the rate at which this machine multiplies matrices, once of
the sizes that occur here and once of large ones; counted with every prompt once (Candor) and repeated (TRL).
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import time
import warnings
from collections import defaultdict
from functools import wraps
from pathlib import Path
from statistics import median

import torch
from candor.core.settings import load
from candor.core.step import provenance
from candor.train import fit, models, policy, sft
from candor.witnesses import world
from candor.witnesses.run import RLCR, reward_terms
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

WARM_UP = 3  # steps of every run that are not counted
VARIANTS = ("candor", "trl_same_settings", "trl_defaults")
PARTS = ("sampling", "reward", "scoring", "backward", "optimiser", "rest")


class Clock(TrainerCallback):
    """Seconds of every step and of its parts, by wrapping the methods that do them."""

    def __init__(self):
        self.steps: list[dict[str, float]] = []
        self.parts: dict[str, float] = defaultdict(float)
        self.before = self.optimiser = 0.0

    def watch(self, owner, method: str, part: str) -> None:
        inner = getattr(owner, method)

        @wraps(inner)
        def timed(*arguments, **keywords):
            start = time.perf_counter()
            try:
                return inner(*arguments, **keywords)
            finally:
                self.parts[part] += time.perf_counter() - start

        setattr(owner, method, timed)

    def on_train_begin(self, *_, **__):
        self.before = time.perf_counter()

    def on_pre_optimizer_step(self, *_, **__):
        self.optimiser = time.perf_counter()

    def on_optimizer_step(self, *_, **__):
        self.parts["optimiser"] += time.perf_counter() - self.optimiser

    def on_step_end(self, *_, **__):
        now = time.perf_counter()
        row = {"step": now - self.before, **self.parts}
        self.steps.append(row | {"rest": row["step"] - sum(self.parts.values())})
        self.parts.clear()
        self.before = now


def configuration(variant: str, folder: str, settings, steps: int) -> GRPOConfig:
    """The task's own numbers for all; everything else ours, or whatever TRL's defaults are."""
    task = {
        "per_device_train_batch_size": settings.prompts_per_step * settings.num_generations,
        "num_generations": settings.num_generations,
        "max_completion_length": 8,
        "learning_rate": settings.grpo_lr,
        "max_steps": steps,
        "seed": 0,
    }
    if variant != "trl_defaults":
        return fit.configuration(GRPOConfig, policy.GRPO | task, folder)
    chores = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    return GRPOConfig(output_dir=folder, **task, **chores)


def trainer(variant: str, base: Path, settings, steps: int) -> tuple[GRPOTrainer, Clock]:
    model, tokenizer = models.load_decoder(base)
    terms, weights = reward_terms(RLCR, settings.num_generations, 0)
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(variant, folder, settings, steps)
    config.reward_weights = weights
    clock = Clock()
    kind = policy.SharedPromptGRPOTrainer if variant == "candor" else GRPOTrainer
    made = kind(
        model=model,
        args=config,
        reward_funcs=terms,
        train_dataset=world.prompts("train", 0, settings.train_prompts),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    made.remove_callback(fit.PrinterCallback)
    clock.watch(made, "_generate_single_turn", "sampling")
    clock.watch(made, "_calculate_rewards", "reward")
    clock.watch(made, "_get_per_token_logps_and_entropies", "scoring")
    clock.watch(made.accelerator, "backward", "backward")
    return made, clock


def flops_of(variant: str, base: Path, settings, steps: int = 4) -> float:
    """Floating-point operations of one step, as PyTorch counts them (matrix products and attention)."""
    made, _ = trainer(variant, base, settings, steps)
    counter = FlopCounterMode(display=False)
    with counter:
        made.train()
    return counter.get_total_flops() / steps


def rate(rows: int, inner: int, columns: int, seconds: float) -> float:
    """Floating-point operations a second of the product [rows, inner] x [inner, columns]: the best of ten tries."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    out = torch.empty(rows, columns)
    best = 0.0
    for _ in range(10):
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / 10:
            torch.mm(a, b, out=out)
            count += 1
        best = max(best, 2 * rows * inner * columns * count / (time.perf_counter() - start))
    return best


def rates(settings, seconds: float) -> dict[str, float]:
    width, mlp, rows = settings.hidden_size, settings.mlp, settings.prompts_per_step * settings.num_generations
    return {
        f"sampling, {rows} x {width} x {mlp}": rate(rows, width, mlp, seconds),
        f"scoring, {8 * rows} x {width} x {mlp}": rate(8 * rows, width, mlp, seconds),
        f"projection, {8 * rows} x {width} x {width}": rate(8 * rows, width, width, seconds),
        "large, 1024 x 1024 x 1024": rate(1024, 1024, 1024, seconds),
    }


def measure(settings, rounds: int, steps: int, base_steps: int, seconds: float = 1.0) -> dict:
    """Everything that the results file holds."""
    models.quiet()
    torch.manual_seed(0)
    sizes = {name: settings[name] for name in ("hidden_size", "layers", "heads", "mlp")}
    model = models.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, **sizes)
    documents = world.documents(base_steps * settings.base_batch, world.CROWDS["expert"], world.stream("documents", 0))
    sft.train(model, documents, batch_size=settings.base_batch, lr=settings.base_lr, pad=world.PAD)
    rows: dict[str, list[dict]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        models.save_decoder(model, world.tokenizer(), Path(folder))
        speed = rates(settings, seconds)
        for number in range(rounds):
            for variant in (*VARIANTS[number % 3 :], *VARIANTS[: number % 3]):  # nobody is always first
                made, clock = trainer(variant, Path(folder), settings, steps + WARM_UP)
                made.train()
                counted = clock.steps[WARM_UP:]
                rows[variant].append({part: median(row.get(part, 0.0) for row in counted) for part in ("step", *PARTS)})
        flops = {variant: flops_of(variant, Path(folder), settings) for variant in VARIANTS[:2]}
    times = {
        variant: {
            "seconds": median(row["step"] for row in of_rounds),
            "lowest_round": min(row["step"] for row in of_rounds),
            "highest_round": max(row["step"] for row in of_rounds),
            "parts": {part: median(row[part] for row in of_rounds) for part in PARTS},
        }
        for variant, of_rounds in rows.items()
    }
    ours = times["candor"]["seconds"]
    floor = {
        prompts: {name: flops[variant] / value for name, value in speed.items()}
        for prompts, variant in (("once", "candor"), ("repeated", "trl_same_settings"))
    }
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        **provenance(),
        "threads": torch.get_num_threads(),
        "task": {
            "parameters": sum(p.numel() for p in model.parameters()),
            "prompts_per_step": settings.prompts_per_step,
            "num_generations": settings.num_generations,
            "max_completion_length": 8,
            "reward": "rlcr",
        },
        "rounds": rounds,
        "steps_a_round": steps,
        "base_steps": base_steps,
        "times": times,
        "faster_than": {variant: times[variant]["seconds"] / ours for variant in VARIANTS[1:]},
        "flops_a_step": {"prompts_once": flops["candor"], "prompts_repeated": flops["trl_same_settings"]},
        "matrix_products_flops_a_second": speed,
        "floor_seconds": floor,
        "candor_to_floor": {p: {name: ours / value for name, value in f.items()} for p, f in floor.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--base-steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("results.json"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*rollout_func.*")
    settings = load(options.scale)["world"]["witnesses"]
    found = measure(settings, options.rounds, options.steps, options.base_steps)
    options.output.write_text(json.dumps(found, indent=1) + "\n")
    for variant, times in found["times"].items():
        parts = ", ".join(f"{part} {1000 * seconds:.0f}" for part, seconds in times["parts"].items())
        print(f"{variant}: {1000 * times['seconds']:.0f} ms a step ({parts})")
    for variant, ratio in found["faster_than"].items():
        print(f"{ratio:.2f} times as fast as {variant}")
    for prompts, ratios in found["candor_to_floor"].items():
        print(f"prompts {prompts}:", ", ".join(f"{ratio:.1f} x the floor at {name}" for name, ratio in ratios.items()))


if __name__ == "__main__":
    main()

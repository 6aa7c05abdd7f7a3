"""How the step under way is computed, and what that costs: kernels, checkpoints, tokens a second, memory of the GPU.

None of it shapes what a step makes beyond rounding, so it is no part of a fingerprint; `run.json` keeps it.
`steps.run` sets it; whoever loads, trains or samples a pretrained model asks for it and counts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Runtime:
    """The settings of `models.computation`, where checkpoints go (None: nowhere), and what has been counted so far."""

    attention: str = "sdpa"
    gradient_checkpointing: bool = True
    checkpoint_steps: int = 25
    shared_prompts: bool = True
    checkpoints: Path | None = None
    trainings: int = 0  # begun in this step
    resumed: float = 0.0  # seconds of training that an interrupted process has left in checkpoints
    counts: dict[str, list[float]] = field(default_factory=dict)  # kind: tokens, seconds
    memory: int = 0  # bytes on one GPU, where other processes told it
    kept: dict[str, list] = field(default_factory=dict)

    def count(self, kind: str, tokens: float, seconds: float) -> None:
        """Adds tokens and the seconds that they took; kind: training or generation."""
        total = self.counts.setdefault(kind, [0, 0.0])
        total[0] += tokens
        total[1] += seconds

    def rows(self, name: str) -> list:
        """A list of JSON rows that grows during training, and comes back where the training goes on."""
        return self.kept.setdefault(name, []) if self.checkpoints else []

    def peak(self) -> int:
        """Most bytes on one GPU since the step began, in this process and those that it was told of; 0 without one."""
        torch = _cuda()
        if torch is None:
            return self.memory
        return max(self.memory, *map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))

    def told(self) -> dict:
        """Peak memory and speeds for `run.json`: None where there was no GPU, or nothing was trained or sampled.

        A training's seconds are those of the whole loop, rewards and sampling included, and its tokens those of
        prompts and completions (TRL's num_tokens); generation counts new tokens alone, up to the end of each text.
        """
        peak = self.peak()
        speed = {kind: round(n / seconds, 1) for kind, (n, seconds) in self.counts.items() if n and seconds}
        return {
            "peak_gpu_memory_mb": round(peak / 2**20) if peak else None,
            "tokens": {kind: round(n) for kind, (n, _) in self.counts.items()} or None,
            "tokens_per_second": speed or None,
        }


_current = Runtime()


def current() -> Runtime:
    """That of the step under way, or the defaults."""
    return _current


@contextmanager
def use(runtime: Runtime) -> Iterator[Runtime]:
    """Puts `runtime` in force for a block, its memory measured from here on."""
    global _current
    before, _current = _current, runtime
    if torch := _cuda():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
    try:
        yield runtime
    finally:
        _current = before


@contextmanager
def counted(kind: str) -> Iterator[list[float]]:
    """Times a block; whatever numbers of tokens are appended to the list that it gives are counted."""
    tokens: list[float] = []
    start = time.perf_counter()
    yield tokens
    current().count(kind, sum(tokens), time.perf_counter() - start)


def on_gpu() -> dict:
    """What every trainer of a pretrained model is told: bfloat16, and activations computed again in the backward pass
    unless `models.computation.gradient_checkpointing` says no; neither on a CPU."""
    import torch

    gpu = torch.cuda.is_available()
    return {
        "bf16": gpu,
        "gradient_checkpointing": gpu and current().gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }


def _cuda():
    """torch where a GPU is in use: nothing is imported or initialised only to be measured."""
    torch = sys.modules.get("torch")
    return torch if torch and torch.cuda.is_available() and torch.cuda.is_initialized() else None

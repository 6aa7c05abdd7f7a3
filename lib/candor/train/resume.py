"""A training that was killed goes on from its last checkpoint, and ends as if it had never been.

Weights, optimiser, schedule and random numbers are the trainer's own checkpoint (transformers); what is added is the
log so far, what it cost, and the size of every file, written last: a checkpoint without them was cut off, one with
other sizes was damaged, and the one before takes its place. They lie in `results/<scale>/checkpoints/<step>/<seed>/`
under the fingerprint of the step, so that a stale one is never resumed, and go when the step is finished.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from functools import cache
from pathlib import Path

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import SaveStrategy
from trl.trainer.utils import RepeatSampler

from candor.core import runtime

_NOTE = "candor.json"


def place() -> Path | None:
    """A folder for the checkpoints of the next training of the step under way; None if none are kept."""
    now = runtime.current()
    now.trainings += 1
    keep = now.checkpoints and now.checkpoint_steps
    return now.checkpoints / f"training_{now.trainings}" if keep else None


def last_whole(folder: Path) -> Path | None:
    """The last checkpoint in `folder` whose files are all there in full; what is not whole is removed, with a warning
    unless it was cut off as it was written."""
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        try:
            sizes = json.loads((path / _NOTE).read_text())["files"]
            wrong = [name for name, size in sizes.items() if size != _sizes(path).get(name)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            wrong = None
        if wrong == []:
            return path
        if wrong:
            warnings.warn(
                f"{path / wrong[0]} was truncated, so training goes on from the checkpoint before, or from the start.",
                stacklevel=2,
            )
        shutil.rmtree(path, ignore_errors=True)
    return None


def _sizes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


@cache
def resuming(trainer: type) -> type:
    """`trainer` (a class of transformers or TRL) with trainings that resume, are measured, and sample in batches that
    fit the card. It expects a callback with `rows` (its log) and `start` (seconds)."""
    return type(f"Resuming{trainer.__name__}", (_Resuming, trainer), {})


class _Resuming:
    _passes = 0  # over the data, that were finished before

    def _get_train_sampler(self, *args):
        """TRL's sampler shuffles each pass from where the last one left its generator, also where training goes on."""
        sampler = super()._get_train_sampler(*args)
        if isinstance(sampler, RepeatSampler):
            for _ in range(self._passes):
                torch.randperm(sampler.num_samples, generator=sampler.generator)
        return sampler

    def train(self):
        recorder = next(callback for callback in self.callback_handler.callbacks if hasattr(callback, "rows"))
        keeper = _Keeper(recorder, self.accelerator)
        self.add_callback(keeper)
        folder, found = place(), None
        if folder:
            args, every = self.args, int(max(self.args.logging_steps, 1))
            args.output_dir, args.save_strategy, args.save_total_limit = str(folder), SaveStrategy.STEPS, 2
            # Between two rows of the log a checkpoint would lose what the next row is a mean of.
            args.save_steps = -(-runtime.current().checkpoint_steps // every) * every
            if self.is_world_process_zero():
                last_whole(folder)
            self.accelerator.wait_for_everyone()
            found = last_whole(folder)
        if found:
            self._passes = keeper.restore(json.loads((found / _NOTE).read_text()))
        if found and keeper.finished:  # what came after the training was interrupted
            self._load_from_checkpoint(str(found))
            keeper.on_train_end(None, None, None)
            return None
        return super().train(resume_from_checkpoint=str(found) if found else None)

    def create_model_card(self, *args, **kwargs):
        """None: a checkpoint is nobody's model."""

    def _generate(self, prompts):
        start = time.perf_counter()
        made = super()._generate(prompts)
        tokens = torch.tensor([sum(map(len, made[1]))], device=self.accelerator.device)
        tokens = self.accelerator.gather(tokens).sum().item()
        runtime.current().count("generation", tokens, time.perf_counter() - start)
        return made

    def _generate_single_turn(self, prompt_ids, *rest):
        """As many whole groups at a time as fit the card; vLLM and shared prompts find their own batches."""
        from candor.language_models import generation

        alone = super()._generate_single_turn
        if self.use_vllm or getattr(self, "batches_itself", False):
            return alone(prompt_ids, *rest)
        group = self.num_generations if self.model.training else self.num_generations_eval
        rows = generation.rows_that_fit(
            self.model, max(map(len, prompt_ids)), self.max_completion_length, otherwise=len(prompt_ids)
        )
        parts = generation.in_batches(
            len(prompt_ids), max(rows // group, 1) * group, lambda a, b: alone(prompt_ids[a:b], *rest), least=group
        )
        if not isinstance(parts[0], tuple):
            return [ids for part in parts for ids in part]
        return [ids for part, _ in parts for ids in part], None  # log-probabilities come from vLLM alone


class _Keeper(TrainerCallback):
    """Puts log, lists and costs beside a checkpoint and back, and counts the tokens of a training."""

    def __init__(self, recorder, accelerator):
        self.recorder, self.accelerator = recorder, accelerator
        self.before, self.finished = (0, 0.0), False  # tokens and seconds of interrupted processes
        self.seen = self.first = 0
        self.start = time.perf_counter()
        self.sampled = self._generated()  # before this training

    @staticmethod
    def _generated() -> list[float]:
        return list(runtime.current().counts.get("generation", (0, 0.0)))

    def restore(self, note: dict) -> int:
        """Goes on from what a checkpoint says; returns the passes over the data that were finished."""
        self.recorder.rows[:] = note["rows"]
        for name, rows in note["kept"].items():
            runtime.current().rows(name)[:] = rows
        runtime.current().count("generation", *note["generation"])
        self.before, self.finished = (note["tokens"], note["seconds"]), note["finished"]
        self.recorder.start = time.perf_counter() - note["seconds"]
        runtime.current().resumed += note["seconds"]
        return note["passes"]

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()
        self.recorder.start = self.start - self.before[1]
        self.seen = self.first = state.num_input_tokens_seen  # restored by some trainers, counted anew by others

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen = (logs or {}).get("num_tokens", self.seen)

    def cost(self) -> tuple[float, float]:
        """Tokens and seconds of the whole training so far."""
        if self.finished:
            return self.before
        return self.before[0] + self.seen - self.first, self.before[1] + time.perf_counter() - self.start

    def on_save(self, args, state, control, **kwargs):
        self.accelerator.wait_for_everyone()  # each process writes its own random numbers
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        tokens, seconds = self.cost()
        note = {
            "rows": self.recorder.rows,
            "kept": runtime.current().kept,
            "generation": [now - then for now, then in zip(self._generated(), self.sampled)],
            "tokens": tokens,
            "seconds": seconds,
            "passes": int(state.epoch + 1e-6),
            "finished": state.global_step >= state.max_steps,
            "files": _sizes(folder),
        }
        draft = folder / f".{_NOTE}"
        draft.write_text(json.dumps(note))
        draft.replace(folder / _NOTE)

    def on_train_end(self, args, state, control, **kwargs):
        runtime.current().count("training", *self.cost())

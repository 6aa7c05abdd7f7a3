"""Steps whose trainings are noted and train nothing: what a step hands to its trainer, and whom it asks what.

The functions of the steps run as they are, with the real trainers, on models of a few hundred weights. Only the loops
are replaced: transformers' `train`, and the house's own supervised ones. A noted training shifts the weights that it
was given by a little, so that models differ from their start and from one another.
"""

import importlib
import json
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from candor.claims.model_size import run as sizes
from candor.core import settings as config
from candor.core import step as steps
from candor.language_models import needs
from candor.run import steps as experiments

SEED, EVAL_SEED = 11, 7001
G = 4  # completions of a question
KNOWN = experiments.steps()
FIXTURES = Path(__file__).parent / "fixtures"
# Worlds and corpora with trained steps: each has a test `test_every_trained_step_has_a_row`.
WORLDS = {
    *("witnesses", "sample_tests", "reference_game", "annotators", "arithmetic"),
    *("hotpot", "math", "dialogues", "apps", "quality", "annotations", "reasoning"),
}
TINY = {"hidden_size": 16, "layers": 1, "heads": 2, "mlp": 32}
LOGGED = {"loss": 0.5, "reward": 0.5, "kl": 0.0, "completions/mean_length": 1.0, "grad_norm": 0.0}


# --- Steps ------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A step that was made: its result, its trainings in order, and the calls that were spied on."""

    key: str
    settings: config.Config
    result: steps.Result = None
    trainings: list = field(default_factory=list)
    calls: list = field(default_factory=list)

    def called(self, *names: str) -> list:
        return [call for call in self.calls if call.name in names]

    def asked(self, *names: str) -> set[str]:
        """The models that were asked in these calls, as `Steps.origin` says."""
        return {place for call in self.called(*names) for place in call.origins}

    def streams(self) -> set[tuple]:
        return {call.args for call in self.called("stream")}

    def row(self, table: str = "summary") -> pd.Series:
        return self.result.table(table).iloc[0]


class Steps:
    """Makes steps, each after what it needs and once a seed; `by_hand` holds functions that make some of them up."""

    def __init__(self, root: Path, settings, patch, by_hand=None):
        self.root, self.settings, self.patch, self.by_hand = root, settings, patch, by_hand or {}
        self.runs: dict[tuple, Run] = {}
        self.now: list[Run] = []
        self.numbers = count()
        self._replace_the_loops()

    def __call__(self, key: str, seed: int = SEED, *, real: bool = False, settings=None) -> Run:
        """The run of a step; `real` where its own function is wanted although it is made up for the others."""
        settings = settings or self.settings
        make = self.by_hand.get(key) if not real else None
        at = (key, seed, real, id(settings))
        if at not in self.runs:
            step, run = KNOWN[key], Run(key, settings)
            needs = {need: self(need, seed, settings=settings).result for need in step.needs}
            folder = self.root / str(next(self.numbers)) / key
            folder.mkdir(parents=True)
            module, function = step.make.split(":")
            make = make or getattr(importlib.import_module(module), function)
            context = steps.Context(step, seed, steps.resolved(step, settings), folder, needs, lambda done, total: None)
            self.now.append(run)
            try:
                tables = make(context)
            finally:
                self.now.pop()
            for name, table in tables.items():
                table.to_parquet(folder / f"{name}.parquet", index=False)
            run.result = steps.Result(folder, {"tables": dict.fromkeys(tables)})
            if run.trainings and step.work is not None:
                check_declared(step, settings, run.trainings)
            self.runs[at] = run
        return self.runs[at]

    def key_of(self, place) -> str:
        """The key of the step that made a folder, with the folder's name if that is not `model`; else the name."""
        if not Path(place).is_relative_to(self.root):
            return Path(place).name
        parts = Path(place).relative_to(self.root).parts[1:]
        return "/".join(parts[:3] if parts[3:] in ((), ("model",)) else parts[:4])

    def origin(self, model) -> str | None:
        """Where a model was loaded from, as `key_of`; None of what is no model."""
        model = model.get_base_model() if hasattr(model, "get_base_model") else model
        return self.key_of(model.name_or_path) if hasattr(model, "parameters") else None

    def spy(self, module, name: str, instead=None) -> None:
        """Notes every call of `module.name` with what it returned, done by `instead` if that is given."""
        real = getattr(module, name)

        def noted(*args, **given):
            found = (instead or real)(*args, **given)
            if self.now:
                origins = [where for where in map(self.origin, args) if where]
                call = SimpleNamespace(name=name, args=args, given=given, found=found, origins=origins)
                self.now[-1].calls.append(call)
            return found

        self.patch.setattr(module, name, noted)

    def samplers(self, make) -> None:
        """Policies that write are made up by `make(place)`, and noted as `of_step`; judges are None."""
        from candor.language_models import generation

        self.patch.setattr(generation, "loaded", lambda *args: nullcontext())
        self.spy(generation, "of_step", lambda context, place, batch=None: nullcontext(make(place)))

    def _shift(self, model) -> None:
        import torch

        run = self.now[-1]
        noise = torch.Generator().manual_seed(crc32(f"{run.key} {len(run.trainings)}".encode()))
        with torch.no_grad():
            for weight in (p for p in model.parameters() if p.requires_grad):
                weight += 0.01 * torch.randn(weight.shape, generator=noise)

    def _replace_the_loops(self) -> None:
        import safetensors.torch
        import transformers
        from candor.train import models, sft

        def train(trainer, *args, **given):
            trainer.started_from = self.origin(trainer.model)
            self.now[-1].trainings.append(trainer)
            self._shift(trainer.model)
            now, handler = (trainer.args, trainer.state, trainer.control), trainer.callback_handler
            for step in range(1, int(trainer.args.max_steps) + 1):
                trainer.state.global_step = step
                handler.on_step_end(*now)
            handler.on_log(*now, dict(LOGGED))
            handler.on_epoch_end(*now)

        def loop(model, *data, **given):
            start = {"started_from": self.origin(model), "first_weights": next(model.parameters()).detach().clone()}
            self.now[-1].trainings.append(SimpleNamespace(model=model, data=data, given=given, **start))
            self._shift(model)
            for step in range(1, given.get("steps", 0) + 1):
                given.get("at", lambda step: None)(step)
            return pd.DataFrame({"step": [1], "loss": [0.5]})

        def small(vocabulary, pad, eos, **shape):
            return new_decoder(vocabulary, pad, eos, **TINY, positions=shape.get("positions", 64))

        def load_model(model, path, *args, **given):
            found = real_load(model, path, *args, **given)
            model.name_or_path = str(path)
            return found

        new_decoder, real_load = models.new_decoder, safetensors.torch.load_model
        self.patch.setattr(transformers.Trainer, "train", train)
        for name in ("train", "train_responses", "supervised"):
            self.patch.setattr(sft, name, loop)
        self.spy(models, "new_decoder", small)
        self.patch.setattr(safetensors.torch, "load_model", load_model)


@contextmanager
def noted(factory, settings, by_hand=None):
    """`Steps` below a temporary folder of pytest's `factory`, while the loops are replaced."""
    with pytest.MonkeyPatch.context() as patch:
        yield Steps(factory.mktemp("made"), settings, patch, by_hand)


def of_world(world: str, settings: dict, **changes):
    """The smoke scale with a world's settings of a test, all different, so that a key taken for another is noticed."""
    return config.load("smoke", overrides={"world": {world: settings | changes}})


def evaluations(world: str) -> list[str]:
    """The keys of a world's evaluations."""
    return [key for key, step in KNOWN.items() if step.world == world and name_of(key)[1].startswith("eval_")]


def name_of(key: str) -> tuple[str, str]:
    """Setting and name."""
    return tuple(key.split("/")[1:])


def narrower(key: str) -> float:
    """By how much learning rates are multiplied in another size than the house's."""
    return sizes.HOUSE_WIDTH / sizes.WIDTHS.get(key.split("/")[1], sizes.HOUSE_WIDTH)


def check_rows(rows, *worlds: str) -> None:
    """Every trained step of these worlds has a row in a table, and every row is a step."""
    assert set(worlds) <= WORLDS
    assert set(rows) == {key for key, step in KNOWN.items() if step.trains and step.world in worlds}


# --- What a step declares ---------------------------------------------------------------------------


def check_declared(step, settings, trainings) -> None:
    """As many rows go through the trainers as the step declares for `candor cost`, to less than a step of a trainer,
    with adapters where it says so; not more, where it learns from a whole set that is smaller here."""
    from trl import DPOTrainer, RewardTrainer

    declared = [work for work in step.work(settings["models"], step) if work.kind == "train"]
    rows = 0
    for trainer in trainings:
        args, sides = trainer.args, 1 + isinstance(trainer, DPOTrainer | RewardTrainer)
        together = sides * args.per_device_train_batch_size * args.gradient_accumulation_steps
        epochs = sides * args.num_train_epochs * len(trainer.train_dataset)
        rows += args.max_steps * together if args.max_steps > 0 else epochs
        assert hasattr(trainer.model, "peft_config") == any(work.rank for work in declared), step.key
    most = np.max(sum(work.rows for work in declared))
    assert 0 < rows <= most if step.key == "apps/policy/base" else abs(rows - most) < together, step.key


# --- What reaches a trainer -------------------------------------------------------------------------

# Of every GRPO run: the loss of Dr. GRPO, rewards undivided, no anchor, temperature 1, one update a generation.
_ALL = {
    **{"num_iterations": 1, "steps_per_generation": 1, "gradient_accumulation_steps": 1, "temperature": 1.0},
    **{"top_k": 0, "top_p": 1.0, "epsilon": 0.2, "lr_scheduler_type": "constant", "weight_decay": 0.0},
    **{"max_grad_norm": 1.0, "mask_truncated_completions": False, "shuffle_dataset": True, "bf16": False},
    **{"seed": SEED, "num_generations": G},
}
GRPO = _ALL | {
    **{"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0, "importance_sampling_level": "token"},
    **{"multi_objective_aggregation": "sum_then_normalize"},
}
RLOO = _ALL | {"normalize_advantages": False}
_SLOW = {
    **{"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 10, "weight_decay": 0.0, "max_grad_norm": 1.0},
    **{"gradient_accumulation_steps": 1, "bf16": False, "max_length": None, "seed": SEED},
}
DPO = _SLOW | {"loss_type": ["sigmoid"], "label_smoothing": 0.0, "precompute_ref_log_probs": True}
REWARD_MODEL = _SLOW | {"center_rewards_coefficient": None}


def check_recipe(trainer, wanted: dict) -> None:
    args = {name: getattr(trainer.args, name) for name in wanted}
    assert {name: getattr(value, "value", value) for name, value in args.items()} == wanted


def total(trainer, **columns) -> np.ndarray:
    """The weighted sum of a trainer's rewards."""
    weights = trainer.args.reward_weights or [1.0] * len(trainer.reward_funcs)
    columns.setdefault("completions", columns.get("completion_ids"))  # the trainers hand over both
    return sum(weight * np.array(reward(**columns)) for weight, reward in zip(weights, trainer.reward_funcs))


def check_null(draw, own: np.ndarray) -> None:
    """`draw()` permutes the rows of `own` [n, G] at random: where a value is says nothing about where it was."""
    drawn = np.array([draw() for _ in range(60)]).reshape(60, *own.shape)
    assert np.sort(drawn, -1) == pytest.approx(np.broadcast_to(np.sort(own, -1), drawn.shape), abs=1e-5)
    assert drawn.mean(0) == pytest.approx(np.broadcast_to(own.mean(1, keepdims=True), own.shape), abs=0.3 * np.ptp(own))


# --- What a scale asks of pretrained models ---------------------------------------------------------


def wanted(module, settings, arms=None) -> list[str]:
    """Keys of a module's steps that a scale asks for, of these arms only if they are given."""
    known = {k: s for k, s in module.STEPS.items() if arms is None or s.options.get("arm") in arms}
    return steps.wanted(known, settings)


def needed(module, settings, what=needs.lacking):
    """What these steps lack, or (`needs.data`, `needs.weights`) what they read and load."""
    chosen = [module.STEPS[key] for key in wanted(module, settings)]
    return what(chosen, settings if what is needs.lacking else settings["models"])


# --- Pretrained models ------------------------------------------------------------------------------


def stand_ins(folder: Path, names, lines) -> dict[str, str]:
    """Folders with random decoders in place of pretrained models, one for each name; their tokenizer knows `lines`."""
    import torch
    from candor.train.models import new_decoder, save_decoder
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    words = ByteLevelBPETokenizer()
    words.train_from_iterator(list(lines) * 3, vocab_size=600, min_frequency=2, special_tokens=["<pad>", "<eos>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words._tokenizer, pad_token="<pad>", eos_token="<eos>")
    for i, name in enumerate(names):
        torch.manual_seed(i)
        ends = tokenizer.pad_token_id, tokenizer.eos_token_id
        save_decoder(new_decoder(len(tokenizer), *ends, **TINY, positions=1024), tokenizer, folder / name)
    return {name: str(folder / name) for name in names}


def stops(trainer, *kls: float) -> list[bool]:
    """Whether a training would stop, were these its next KLs."""
    trainer.control.should_training_stop, told = False, []
    for kl in kls:
        now = trainer.args, trainer.state, trainer.control
        told.append(trainer.callback_handler.on_log(*now, LOGGED | {"kl": kl}).should_training_stop)
    return told


def of_models(**models):
    """The scale of pretrained models with these settings."""
    return config.load("gpu", overrides={"models": models})


def write_rows(folder: Path, name: str, split: str, rows) -> None:
    """A data set of the corpora as JSON lines."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))

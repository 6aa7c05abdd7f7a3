"""Steps whose trainings are noted and train nothing: what a step hands to its trainer, and whom it asks what.

The functions of the steps run as they are, with the real trainers, on models of a few hundred weights. Only the loops
are replaced: transformers' `train`, and the house's own supervised ones. A noted training shifts the weights that it
was given by a little, so that models differ from their start and from one another.
"""

import importlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import pandas as pd
from candor import experiments, steps

SEED = 11
KNOWN = experiments.steps()
TINY = {"hidden_size": 16, "layers": 1, "heads": 2, "mlp": 32}
LOGGED = {"loss": 0.5, "reward": 0.5, "kl": 0.0, "completions/mean_length": 1.0, "grad_norm": 0.0}


@dataclass
class Run:
    """A step that was made: its result, its trainings in order, and the calls that were spied on (name, args, given)."""

    key: str
    result: steps.Result = None
    trainings: list = field(default_factory=list)
    calls: list = field(default_factory=list)

    def called(self, name: str) -> list:
        return [call for call in self.calls if call.name == name]


class Steps:
    """Makes steps, each after what it needs and once a seed; `made_up` gives the tables of some of them by hand."""

    def __init__(self, root: Path, config, patch, made_up=None):
        self.root, self.config, self.patch, self.made_up = root, config, patch, made_up or {}
        self.runs: dict[tuple, Run] = {}
        self.now: list[Run] = []
        self._replace_the_loops()

    def __call__(self, key: str, seed: int = SEED, real: bool = False, config=None) -> Run:
        """The run of a step; `real` where its own function is wanted in place of a made-up table."""
        config = config or self.config
        by_hand = self.made_up.get(key) if not real else None
        at = (key, seed, by_hand, id(config))
        if at not in self.runs:
            step, run = KNOWN[key], Run(key)
            needs = {need: self(need, seed, config=config).result for need in step.needs}
            folder = self.root / f"{len(self.runs)}" / key
            folder.mkdir(parents=True)
            module, function = step.make.split(":")
            make = by_hand or getattr(importlib.import_module(module), function)
            self.now.append(run)
            try:
                tables = make(
                    steps.Context(step, seed, steps.resolved(step, config), folder, needs, lambda done, total: None)
                )
            finally:
                self.now.pop()
            for name, table in tables.items():
                table.to_parquet(folder / f"{name}.parquet", index=False)
            run.result = steps.Result(folder, {"tables": dict.fromkeys(tables)})
            self.runs[at] = run
        return self.runs[at]

    def origin(self, model) -> str:
        """The key of the step that a model was loaded from, with the name of the folder if that is not `model`."""
        return self.key_of((model.get_base_model() if hasattr(model, "get_base_model") else model).name_or_path)

    def key_of(self, place) -> str:
        parts = Path(place).relative_to(self.root).parts[1:]
        return "/".join(parts[:3] if parts[3:] in ((), ("model",)) else parts[:4])

    def note(self, call) -> None:
        if self.now:
            self.now[-1].calls.append(call)

    def spy(self, module, name: str, instead=None) -> None:
        """Notes every call of `module.name` with what it returned, done by `instead` if that is given."""
        real = getattr(module, name)

        def noted(*args, **given):
            found = (instead or real)(*args, **given)
            origins = [where for where in map(self._origin_of, args) if where]
            self.note(SimpleNamespace(name=name, args=args, given=given, found=found, origins=origins))
            return found

        self.patch.setattr(module, name, noted)

    def _origin_of(self, model):
        try:
            return self.origin(model)
        except (AttributeError, TypeError, ValueError):
            return None

    def _replace_the_loops(self) -> None:
        import safetensors.torch
        import torch
        import transformers
        from candor.experiments import sample_tests
        from candor.training import models, self_feedback, sft

        def shift(model):
            with torch.no_grad():
                noise = torch.Generator().manual_seed(
                    crc32(f"{self.now[-1].key} {len(self.now[-1].trainings)}".encode())
                )
                for weight in (p for p in model.parameters() if p.requires_grad):
                    weight += 0.01 * torch.randn(weight.shape, generator=noise)

        def train(trainer, *args, **given):
            self.now[-1].trainings.append(trainer)
            trainer.started_from = self._origin_of(trainer.model)
            trainer.at_start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
            shift(trainer.model)
            now, handler = (trainer.args, trainer.state, trainer.control), trainer.callback_handler
            for step in range(1, int(trainer.args.max_steps) + 1):
                trainer.state.global_step = step
                handler.on_step_end(*now)
            handler.on_log(*now, dict(LOGGED))
            handler.on_epoch_end(*now)

        def loop(name):
            def noted(model, *data, **given):
                noted = SimpleNamespace(name=name, model=model, data=data, given=given)
                noted.started_from = self._origin_of(model)
                self.now[-1].trainings.append(noted)
                shift(model)
                for step in range(1, given.get("steps", 0) + 1):
                    given.get("at", lambda step: None)(step)
                return pd.DataFrame({"step": [1], "loss": [0.5]})

            return noted

        def small(vocabulary, pad, eos, **shape):
            return real_decoder(vocabulary, pad, eos, **TINY, positions=shape.get("positions", 64))

        def load_model(model, path, *args, **given):
            found = real_load(model, path, *args, **given)
            model.name_or_path = str(path)
            return found

        self.patch.setattr(transformers.Trainer, "train", train)
        for module, name in (
            (sft, "train"),
            (sft, "train_responses"),
            (self_feedback, "supervised"),
            (sample_tests, "supervised"),
        ):
            self.patch.setattr(module, name, loop(name))
        real_decoder, real_load = models.new_decoder, safetensors.torch.load_model
        self.spy(models, "new_decoder", small)
        self.patch.setattr(safetensors.torch, "load_model", load_model)


@contextmanager
def noted(root: Path, config, made_up=None):
    """`Steps` while the loops are replaced."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        yield Steps(root, config, patch, made_up)

"""What the steps of pretrained models need here: data sets, weights, an engine, a GPU; a sentence for what lacks."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable
from pathlib import Path

from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.core.step import Step
from candor.language_models import sets
from candor.language_models.work import Work

KINDS = ("datasets", "dialogue_data", "program_data", "story_data", "annotation_data", "reasoning_data")


def fetched(models: Config) -> dict[str, str]:
    """Data sets that are fetched, by name, with their source; a set of one's own has its rows elsewhere."""
    return {name: source for kind in KINDS for name, source in models[kind].items()}


def data(steps: Iterable[Step], models: Config) -> list[tuple[str, str]]:
    """Data sets and splits that these steps read."""
    return list(dict.fromkeys(place for step in steps for place in step.data(models, step)))


def works(steps: Iterable[Step], models: Config) -> list[Work]:
    """What these steps make models do."""
    return [work for step in steps if step.work for work in step.work(models, step)]


def weights(steps: Iterable[Step], models: Config) -> list[str]:
    """Model ids (or folders) that these steps load."""
    found = works(steps, models)
    return list(dict.fromkeys(place for work in found for place in (work.model, *(name for name, _ in work.beside))))


def lacking(steps: Iterable[Step], config: Config, here: bool = True) -> list[str]:
    """What these steps lack, a sentence each with the way to get it; `here`: whether they run on this machine."""
    steps, models, lacks = list(steps), config["models"], []
    places = weights(steps, models)
    if places:
        lacks += ([no_gpu(config)] if here and not has_gpu() else []) + engine_missing(config)
    for step in steps:
        try:
            if step.check:
                step.check(models, step)
        except CandorError as error:
            lacks.append(str(error))
    absent = dict.fromkeys(name for name, split in data(steps, models) if sets.missing(name, split))
    for name in [name for name in absent if name not in fetched(models)]:
        del absent[name]
        lacks.append(f"The set {name} has no rows: put them into {sets.root() / name / 'test.jsonl'}, one a line.")
    if absent:
        lacks.append(
            f"Data sets are missing in {sets.root()}: run `python -m candor fetch {' '.join(absent)} --scale "
            f"{config['scale']}` where there is a network."
        )
    return list(dict.fromkeys(lacks)) + weights_missing(config, places)


def has_gpu() -> bool:
    """Whether there is a GPU, or the person chose to do without."""
    import torch

    return os.environ.get("CANDOR_CPU") == "1" or torch.cuda.is_available()


def no_gpu(config: Config) -> str:
    """The sentence where the scale needs a GPU and torch sees none."""
    import torch

    return (
        f"Scale {config['scale']} runs pretrained models and needs a GPU, but torch {torch.__version__} sees none: run "
        "it on a machine with one and a CUDA build of torch, choose --scale laptop, or set CANDOR_CPU=1 to run them on "
        "the CPU all the same."
    )


def engine_missing(config: Config) -> list[str]:
    """The sentences for an engine and an attention that the settings ask for and that are not installed."""
    chosen = (
        ("models.engine", config["models"]["engine"], "vllm", "vllm", "vllm", "set models.engine to transformers"),
        (
            "models.computation.attention",
            config["models"]["computation"]["attention"],
            *("flash_attention_2", "flash_attn", "flash-attn", "set it to sdpa"),
        ),
    )
    return [
        f"{key} is {value}, which is not installed: install {package} into .venv, or {instead}."
        for key, value, wanted, module, package, instead in chosen
        if value == wanted and importlib.util.find_spec(module) is None
    ]


def has_weights(place: str) -> bool:
    """Whether a model is a folder here, or lies whole in the cache of the Hub's client."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    def cached(name: str) -> str | None:
        found = try_to_load_from_cache(place, name)
        return found if isinstance(found, str) else None

    if Path(place).is_dir():
        return True
    try:
        if cached("model.safetensors"):
            return True
        index = cached("model.safetensors.index.json")
    except HFValidationError:
        return False
    return bool(index) and all(map(cached, set(json.loads(Path(index).read_text())["weight_map"].values())))


def weights_missing(config: Config, places: Iterable[str]) -> list[str]:
    """The sentences for those of the models that are not here, and for names that no model can have."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    lacks, unfetched = [], []
    for place in places:
        if has_weights(place):
            continue
        try:
            validate_repo_id(place)
            unfetched.append(place)
        except HFValidationError:
            lacks.append(
                f"{place!r} is neither a folder with a model nor a name on the Hub (owner/model): correct it under "
                f"models in config/{config['scale']}.yaml."
            )
    if unfetched:
        lacks.append(
            f"Model weights are missing ({', '.join(unfetched)}): run `python -m candor fetch models --scale "
            f"{config['scale']}` where there is a network (or copy the Hub client's cache here)."
        )
    return lacks

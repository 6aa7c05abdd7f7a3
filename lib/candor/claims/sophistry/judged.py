"""Pretrained models and simulated evaluators: programs (`code_models`) and arguments (`story_models`)."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from candor.claims.sophistry import code_models, story_models
from candor.core.settings import Config

_BOTH = (code_models, story_models)


def wanted(config: Config, arms: Collection[str] | None = None) -> list[str]:
    """Keys of the steps that a scale asks for, of these arms and cells only (None: of all)."""
    return [key for part in _BOTH for key in part.wanted(config, arms)]


def data_needed(config: Config) -> list[tuple[str, str]]:
    """Data sets and splits that the scale's steps read."""
    return [where for part in _BOTH for where in part.data_needed(config)]


def models_needed(config: Config) -> list[str]:
    """Model ids (or folders) that the scale's steps load."""
    return list(dict.fromkeys(place for part in _BOTH for place in part.models_needed(config)))


def requirements(config: Config) -> list[str]:
    """What a scale with these steps still lacks here, a sentence each with the way to get it; empty if nothing."""
    return list(dict.fromkeys(line for part in _BOTH for line in part.requirements(config)))


def tables(results) -> dict[str, pd.DataFrame]:
    """What claims read, as `code_models.models` and `story_models.models` say; absent evidence leaves no table."""
    return code_models.models(results) | story_models.models(results)

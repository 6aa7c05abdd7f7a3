"""Worlds and corpora as data: what is trained, collected and evaluated, and how to read it back."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import pandas as pd

from candor.core.settings import Config
from candor.core.step import MissingError, Step, read


@cache
def steps() -> dict[str, Step]:
    """All steps of all worlds and corpora, by key; what a step needs comes before it."""
    from candor.claims.annotation_noise import annotation_models
    from candor.claims.annotation_noise import run as annotators
    from candor.claims.grounding_loss import dialogue_models
    from candor.claims.grounding_loss import run as reference_game
    from candor.claims.model_size import run as sizes
    from candor.claims.self_feedback import reasoning_models
    from candor.claims.self_feedback import run as arithmetic
    from candor.claims.sophistry import code_models, story_models
    from candor.claims.sophistry import run as sample_tests
    from candor.language_models import run as language_models
    from candor.witnesses import run as witnesses

    worlds = (witnesses, sample_tests, reference_game, annotators, arithmetic, sizes)
    corpora = (language_models, dialogue_models, code_models, story_models, annotation_models, reasoning_models)
    return {key: step for path in (*worlds, *corpora) for key, step in path.STEPS.items()}


class Results:
    """The finished steps of a scale, as tables over seeds; what has not been computed is left out."""

    def __init__(self, config: Config):
        self.config = config

    def own(self, claim: str) -> dict[str, tuple[str, ...]]:
        """The scale's own arms that a claim shows, by setting (`own.arms`)."""
        from candor.run import own

        return own.arms(self.config, claim)

    def log(self, setting: str, arms: Iterable[str], world: str = "witnesses") -> pd.DataFrame:
        """Training logs of `arms`, with the columns setting, arm and seed in front."""
        return self.collect(setting, arms, "log", world, "")

    def trained(self, setting: str, arms: Iterable[str], table: str, world: str = "witnesses") -> pd.DataFrame:
        """Table `table` of the arms' own steps, not of their evaluations, with the same columns in front."""
        return self.collect(setting, arms, table, world, "")

    def collect(
        self, setting: str, arms: Iterable[str], table: str, world: str = "witnesses", prefix: str = "eval_"
    ) -> pd.DataFrame:
        """Table `table` of the evaluations of `arms`, with the columns setting, arm and seed in front."""
        frames = []
        for arm in arms:
            key = f"{world}/{setting}/{prefix}{arm}"
            step = steps().get(key)
            for seed in seeds_of(step, self.config) if step else ():
                try:
                    frame = read(key, seed, self.config["scale"]).table(table)
                except MissingError:
                    continue
                for place, (name, value) in enumerate({"setting": setting, "arm": arm, "seed": seed}.items()):
                    frame.insert(place, name, value)
                frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def seeds_of(step: Step, config: Config) -> tuple[int, ...]:
    """The seeds that a step runs on at this scale."""
    from candor.language_models import run as language_models

    if step.seeds == "first_seed":  # an illustration, on which nothing rests
        return config["few_seeds"][:1]
    if step.seeds in config["sizes"]:
        return config["sizes"][step.seeds]
    return config[step.seeds] if step.world in config["world"] else language_models.seeds_of(step, config)

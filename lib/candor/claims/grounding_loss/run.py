"""The steps of the `reference_game` world: a base, candidates, the arms trained from it, the evaluation of each.

The base is trained on human dialogues. At the turns of further human dialogues it proposes two responses; raters
compare them, and an arm is the base after DPO on the choices of one rater. Contexts, responses, readings, coins and
simulated next turns are drawn once a seed (`candidates`) and shared by all arms: only the scores differ. Two controls:
`shuffled` trains on the pairs of `charity_6` with chosen and rejected swapped at random, `more_sft` trains on with
human dialogues.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from candor.claims.grounding_loss import raters, world
from candor.core.errors import CandorError
from candor.core.step import Context, Step
from candor.measure import clustered
from candor.measure.intervals import wilson

RESAMPLES = 400
SHOWN = 50  # dialogues of an evaluation that are kept as text
PANEL = 8  # readings, coins and futures of every pair of candidates: the most that a rater averages over

# --- Who answers: a base, which has learned from human dialogues --------------------------------------

_MODEL = ("hidden_size", "layers", "heads", "mlp")


def base(context: Context) -> dict[str, pd.DataFrame]:
    """A decoder from scratch, trained on human dialogues, with loss on the assistant's tokens."""
    import torch

    from candor.train import models, sft

    models.quiet()
    settings = context.settings
    torch.manual_seed(context.seed)
    model = models.new_decoder(
        len(world.VOCABULARY), world.PAD, world.EOS, **{name: settings[name] for name in _MODEL}, positions=world.WIDTH
    )
    tokens, responses = world.documents(settings.base_dialogues, world.stream("documents", context.seed))
    log = sft.train_responses(
        model,
        tokens,
        responses,
        steps=settings.base_steps,
        batch_size=settings.base_batch,
        lr=settings.base_lr,
        seed=context.seed,
        progress=context.progress,
    )
    models.save_decoder(model, world.tokenizer(), context.folder / "model")
    return {"log": log}


def _decoder(context: Context, name: str):
    """The model of a needed step, to be asked."""
    from candor.train import models

    models.quiet()
    return models.load_decoder(context.need(name).model)[0].eval()


# --- What is compared, and who prefers what -----------------------------------------------------------


def candidates(context: Context) -> dict[str, pd.DataFrame]:
    """Two responses of the base at every turn of human dialogues, and what raters may see of those that differ.

    Tables: `counts` (one row: contexts, differing); `pairs` (a row a differing pair, in random order: prompt, and for
    a and b the text and the act, -1 for none, -2 for a malformed response); `ratings` (a row a pair and reading: coin,
    and for a and b the four worths of `raters.Ratings`).
    """
    seed, speaker = context.seed, world.speaker(_decoder(context, "base"))
    turns, _ = world.human_turns(context.settings.pair_dialogues, world.stream("contexts", seed))
    rng = world.stream("samples", seed)
    said = [speaker(turns, rng) for _ in range(2)]
    context.progress(1, 2)
    differing = rng.permutation(np.flatnonzero((said[0] != said[1]).any(1)))
    rng = world.stream("ratings", seed)
    games = turns[differing]
    readings = np.stack([raters.readings(games, rng) for _ in range(PANEL)], 1)
    n = len(games)
    pairs = {"prompt": games.prompts(), "cell": games.cell}
    rated = {"pair": np.repeat(np.arange(n), PANEL), "coin": rng.random(n * PANEL)}
    for name, responses in zip("ab", said):
        responses = responses[differing]
        act, delivered = world.read(responses)
        pairs[name] = [_completion(row) for row in responses]
        pairs[f"act_{name}"] = np.where(delivered[:, 0] == world.MALFORMED, world.MALFORMED, act)
        found = raters.ratings(games, responses, readings, speaker, rng)
        rated |= {f"{part}_{name}": getattr(found, part).ravel() for part in _WORTHS}
    counts = pd.DataFrame([{"contexts": len(turns), "differing": n}])
    return {"counts": counts, "pairs": pd.DataFrame(pairs), "ratings": pd.DataFrame(rated)}


_WORTHS = ("strict", "charitable", "next_strict", "next_charitable")


def _completion(response: np.ndarray) -> str:
    """A response as the text that follows a prompt; nothing after a drawn <pad>."""
    tokens = response.tolist()
    return " " + world.text(tokens[: tokens.index(world.PAD)] if world.PAD in tokens else tokens)


def choices(pairs: pd.DataFrame, ratings: pd.DataFrame, rater: raters.Rater) -> np.ndarray:
    """How much better the rater finds response a than b, [pairs]; 0 is a tie."""
    scores = []
    for name in "ab":
        worths = [ratings[f"{part}_{name}"].to_numpy().reshape(len(pairs), -1) for part in _WORTHS]
        scores.append(raters.Ratings(*worths).score(ratings["coin"].to_numpy().reshape(len(pairs), -1), rater))
    return scores[0] - scores[1]


def described(pairs: pd.DataFrame, better: np.ndarray, kept: np.ndarray) -> pd.DataFrame:
    """One row: differing, tied, kept, act_pairs (an act against a delivery, no tie), and the shares that acts win."""
    acts = pairs[["act_a", "act_b"]].to_numpy()
    against = (acts.max(1) >= 0) & (acts.min(1) == -1) & (better != 0)
    act = acts.max(1)
    wins = (better > 0) == (acts[:, 0] >= 0)
    row = {"differing": len(pairs), "tied": int((better == 0).sum()), "kept": len(kept)}
    row |= {"act_pairs": int(against.sum()), "act_win_rate": _mean(wins[against])}
    row |= {f"{name}_win_rate": _mean(wins[against & (act == a)]) for a, name in enumerate(world.ACTS)}
    return pd.DataFrame([row])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def preferred(better: np.ndarray, most: int, swaps: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """The first `most` pairs without a tie, as indices, and in which of them response a is chosen.

    With `swaps` the choice is turned round in half of them at random. Raises: `CandorError` where all are ties.
    """
    kept = np.flatnonzero(better)[:most]
    if not len(kept):
        raise CandorError("The rater finds all pairs of responses equal: train the base longer, or use more dialogues.")
    first = better[kept] > 0
    return kept, first if swaps is None else first ^ (swaps.random(len(kept)) < 0.5)


# --- What is trained: arms and controls ---------------------------------------------------------------

# arm -> what is its own beside the rater of its name; those with snapshots are followed along training.
_ARMS: dict[str, dict] = {
    "charity_6": {"snapshots": True},
    "charity_0": {},
    "shuffled": {"rater": "charity_6", "shuffled": True, "snapshots": True},
    "reaction_6": {},
    "charity_3": {},
    "lookahead_6": {},
    "average_6": {},
    "lookahead_average_6": {},
}
_ON_FEW_SEEDS = ("charity_3", "lookahead_6", "average_6", "lookahead_average_6")
_FOLLOWED = {"charity_6": "rollouts", "shuffled": "turns"}  # and what their course measures


def arm(context: Context) -> dict[str, pd.DataFrame]:
    """The base after DPO on what a rater prefers among the candidates."""
    from datasets import Dataset

    from candor.train import models, preference

    models.quiet()
    settings, options = context.settings, context.step.options
    collected = context.need("candidates")
    pairs, ratings = collected.table("pairs"), collected.table("ratings")
    better = choices(pairs, ratings, raters.RATERS[options["rater"]])
    swaps = world.stream("shuffle", context.seed) if options.get("shuffled") else None
    kept, first = preferred(better, settings.pairs, swaps)
    used = pairs.iloc[kept]
    chosen, rejected = np.where(first, used["a"], used["b"]), np.where(first, used["b"], used["a"])
    texts = {"prompt": used["prompt"].tolist(), "chosen": chosen.tolist(), "rejected": rejected.tolist()}
    model, tokenizer = models.load_decoder(context.need("base").model)
    log = preference.dpo(
        model,
        tokenizer,
        Dataset.from_dict(texts),
        {"beta": settings.dpo_beta, **_settings(context)},
        snapshots=context.folder / "snapshots" if options.get("snapshots") else None,
        snapshot_every=settings.snapshot_every,
        progress=context.progress,
        save=context.folder / "model",
    )
    row = described(pairs, better, kept)
    row.insert(0, "contexts", collected.table("counts")["contexts"])
    return {"log": log, "pairs": row}


def _settings(context: Context) -> dict:
    """What DPO and the SFT that it is compared with are told alike."""
    settings = context.settings
    return {
        "seed": context.seed,
        "max_steps": settings.dpo_steps,
        "learning_rate": settings.dpo_lr,
        "per_device_train_batch_size": settings.dpo_batch,
    }


def more_sft(context: Context) -> dict[str, pd.DataFrame]:
    """The base, trained on with new human dialogues for as many steps and at the same learning rate as DPO."""
    from candor.train import models, sft

    models.quiet()
    settings = context.settings
    model, tokenizer = models.load_decoder(context.need("base").model)
    tokens, responses = world.documents(settings.more_dialogues, world.stream("more", context.seed))
    log = sft.more(
        model,
        tokenizer,
        sft.labelled(tokens, responses),
        _settings(context),
        snapshots=context.folder / "snapshots",
        snapshot_every=settings.snapshot_every,
        progress=context.progress,
        save=context.folder / "model",
    )
    return {"log": log}


# --- What is measured: acts at human turns, contest with the base, free dialogues ------------------------


def measures(human: np.ndarray, model: np.ndarray) -> dict[str, float]:
    """Rate, kappa, kappa_max, recall and precision of each act, from P(act) at the same turns [n, 3]."""
    row = {}
    for act, h, m in zip(world.ACTS, human.T, model.T):
        found = clustered.act_measures(clustered.act_sums(h, m, np.zeros(len(h))).sum(0))
        row |= {f"{act}_{name}": float(found[name]) for name in ("rate", "kappa", "kappa_max", "recall", "precision")}
    return row | {"rate": model.sum(1).mean()}


def kappa_intervals(human: np.ndarray, model: np.ndarray, dialogue: np.ndarray) -> dict[str, float]:
    """95 % intervals of each kappa over whole dialogues: percentile bootstrap of the sums of a dialogue."""
    times, row = clustered.weights(len(np.unique(dialogue)), RESAMPLES), {}
    for act, h, m in zip(world.ACTS, human.T, model.T):
        kappas = clustered.act_measures(times @ clustered.act_sums(h, m, dialogue))["kappa"]
        row[f"{act}_kappa_low"], row[f"{act}_kappa_high"] = clustered.interval(kappas)
    return row


class _Contest:
    """The rater of `charity_6` compares an arm's responses with the base's, at the turns of human dialogues."""

    def __init__(self, base_model, turns: world.Games, seed: int):
        rng = world.stream("ratings", seed)
        self.turns, self.seed = turns, seed
        self.readings, self.coins = raters.readings(turns, rng)[:, None], rng.random((len(turns), 1))
        self.base = self._scores(world.speaker(base_model)(turns, world.stream("base_samples", seed)))

    def _scores(self, responses: np.ndarray) -> np.ndarray:
        rated = raters.ratings(self.turns, responses, self.readings, None, None)
        return rated.score(self.coins, raters.RATERS["charity_6"])

    def __call__(self, model) -> dict[str, float]:
        responses = world.speaker(model)(self.turns, world.stream("samples", self.seed))
        difference = self._scores(responses) - self.base
        ties = float((difference == 0).mean())
        return {
            "malformed": float((world.read(responses)[1] == world.MALFORMED).all(1).mean()),
            "win_rate": float((difference > 0).mean() + ties / 2),
            "win_rate_untied": _mean(difference[difference != 0] > 0),
            "ties": ties,
        }


def _rollouts(model, n: int, seed: int) -> tuple[dict[str, float], pd.DataFrame]:
    """Success and turns of `n` dialogues that the model leads itself, and some of them as text."""
    rng = world.stream("rollouts", seed)
    games = world.start(n, rng)
    turns, responses, success = world.converse(games, world.speaker(model), rng)
    low, high = wilson(int(success.sum()), n)
    row = {"success": success.mean(), "success_low": low, "success_high": high, "turns": len(turns) / n}
    last = {origin: i for i, origin in enumerate(turns.origin)}
    shown = [last[origin] for origin in range(min(n, SHOWN))]
    wanted = [f"{world.OBJECTS[4 * c + k]} {world.PLACES[p]}" for c, k, p in zip(games.colour, games.kind, games.place)]
    told = [text + _completion(row) for text, row in zip(turns[shown].prompts(), responses[shown])]
    dialogues = {"dialogue": np.arange(len(shown)), "wanted": wanted[: len(shown)], "text": told}
    return row, pd.DataFrame(dialogues | {"success": success[: len(shown)]})


def _human_turns(n: int, seed: int) -> world.Games:
    """The first `n` turns of fresh human dialogues, the same for every arm and seed."""
    return world.human_turns(n, world.stream("eval", seed))[0][slice(n)]


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """The measures of an arm: acts at the turns of human dialogues, contest with the base, free rollouts."""
    settings, options = context.settings, context.step.options
    model, start = _decoder(context, options["arm"]), _decoder(context, "base")
    turns = _human_turns(settings.eval_turns, settings.eval_seed)
    human, probability = world.HUMAN[turns.cell], world.act_probabilities(model, turns)
    context.progress(1, 4)
    row = measures(human, probability) | kappa_intervals(human, probability, turns.origin)
    others = measures(human, human)  # two humans at the same turns
    row |= {f"{act}_human_{m}": others[f"{act}_{m}"] for act in world.ACTS for m in ("rate", "kappa")}
    row |= _Contest(start, turns, settings.eval_seed)(model)
    context.progress(2, 4)
    found, dialogues = _rollouts(model, settings.rollouts, settings.eval_seed)
    row |= found | {"n_turns": len(turns), "n_rollouts": settings.rollouts}
    context.progress(3, 4)
    tables = {"summary": pd.DataFrame([row]), "cells": cells(turns, probability), "dialogues": dialogues}
    if options.get("trajectory"):
        tables["trajectory"] = _trajectory(context, start, options["trajectory"] == "rollouts")
    return tables


def cells(turns: world.Games, probability: np.ndarray) -> pd.DataFrame:
    """A row for each of the eleven cells of `world.by_cell`, at these turns, with the logits of both probabilities."""
    visits = np.bincount(turns.cell, minlength=len(world.OPEN)).astype(float)
    sums = [np.bincount(turns.cell, probability[:, a], len(world.OPEN)) for a in range(3)]
    policy = np.stack(sums, 1) / np.maximum(visits, 1)[:, None]
    table = world.by_cell(policy, visits)
    p = table[["human", "model"]].clip(1e-9, 1 - 1e-9)
    return table.join(np.log(p / (1 - p)).add_suffix("_logit"))


def _trajectory(context: Context, model, with_rollouts: bool) -> pd.DataFrame:
    """The course of training: the base, every snapshot, a row each; success is NaN without rollouts."""
    from safetensors.torch import load_model

    settings = context.settings
    turns = _human_turns(settings.trajectory_turns, settings.eval_seed)
    human = world.HUMAN[turns.cell]
    contest = _Contest(model, turns, settings.eval_seed)
    folder = context.need(context.step.options["arm"]).folder / "snapshots"
    rows = []
    for path in [None, *sorted(folder.glob("step_*.safetensors"))]:
        if path:
            load_model(model, str(path))
        row = {"step": int(path.stem.removeprefix("step_")) if path else 0}
        row |= measures(human, world.act_probabilities(model, turns)) | contest(model)
        free = _rollouts(model, settings.trajectory_rollouts, settings.eval_seed)[0] if with_rollouts else {}
        rows.append(row | {name: free.get(name, np.nan) for name in ("success", "turns")})
    return pd.DataFrame(rows)


# --- The steps --------------------------------------------------------------------------------------

_TRAINING = ("dpo_steps", "dpo_batch", "dpo_lr", "snapshot_every")
_SETTINGS = {  # the keys of the scale that a function reads
    "base": (*_MODEL, "base_dialogues", "base_steps", "base_batch", "base_lr"),
    "candidates": ("pair_dialogues",),
    "arm": ("pairs", "dpo_beta", *_TRAINING),
    "more_sft": ("more_dialogues", *_TRAINING),
    "evaluate": ("eval_turns", "eval_seed", "rollouts"),
}
_ROOT = "reference_game/standard"


def _step(name: str, make: str = "", needs: Sequence[str] = (), **options) -> Step:
    """The step of a function of this module, by default that of its name."""
    make, trained = make or name, name.removeprefix("eval_")
    course = ("trajectory_turns", "trajectory_rollouts") if "trajectory" in options else ()
    return Step(
        f"{_ROOT}/{name}",
        f"{__name__}:{make}",
        tuple(f"{_ROOT}/{need}" for need in dict.fromkeys(needs)),
        options,
        (*_SETTINGS[make], *course),
        seeds="few_seeds" if trained in _ON_FEW_SEEDS else "seeds",
        trains=make in ("base", "arm", "more_sft"),
    )


def _steps() -> Iterator[Step]:
    yield _step("base")
    yield _step("eval_base", "evaluate", ("base",), arm="base")
    yield _step("candidates", needs=("base",))
    yield _step("more_sft", needs=("base",))
    yield _step("eval_more_sft", "evaluate", ("base", "more_sft"), arm="more_sft", trajectory="turns")
    for name, own in _ARMS.items():
        yield _step(name, "arm", ("base", "candidates"), **{"rater": name, **own})
        course = {"trajectory": _FOLLOWED[name]} if name in _FOLLOWED else {}
        yield _step(f"eval_{name}", "evaluate", ("base", name), arm=name, **course)


STEPS = {step.key: step for step in _steps()}

"""The steps of the `arithmetic` world: a base, four damages, feedback from a model's own confidence, its controls.

A start model branches over first tokens on unlabelled prompts (`labels_*`); its confidence in the answers makes pairs,
frozen from then on; a judge is trained on them (`judge_*`); RLOO follows the judge (`rlsf_*`, "RLSF-RLOO"). Controls:
confidences shuffled within prompts, a ranking by truth, DPO on the same pairs, SFT on the most confident traces, 120
steps in place of 30, and an online reward that follows the policy's current confidence. Nothing was tuned: numbers of
steps and rates were fixed before any model was evaluated on labels.

What labels, judges and policies are made from are prompts, and `prompts_only` checks that they are nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import special

from candor.claims.self_feedback import self_confidence as measure
from candor.claims.self_feedback import world
from candor.core.errors import CandorError
from candor.core.step import Context, Step

UNFINISHED = -3.0  # reward of a completion without an end, for fluency
SHARPENING = 2.0  # of the final norm's weight: a temperature of one half
BATCH = 2000  # rows in a pass without gradient
TEMPERATURES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4, 1.6, 2.0)
SFT_PARTS = (1 / 6, 1 / 2, 1)  # of its steps, at which SFT is evaluated: a frontier in KL

# --- Completions of a model -------------------------------------------------------------------------


def sampled(model, prompts: np.ndarray, seed: int) -> np.ndarray:
    """A completion of each prompt [n, 7] at temperature 1, as ids [n, 8]; a seed gives every model the same chances.

    The generators of the process are left as they were.
    """
    import torch

    from candor.train.sharing import sample_groups

    found = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), BATCH):
            found += sample_groups(model, prompts[start : start + BATCH].tolist(), 1, world.NEW_TOKENS).tolist()
    return world.matrix(found)


def branched(model, prompts: np.ndarray, k: int) -> np.ndarray:
    """The `k` branches of each prompt [n, 7], as ids [n, k, 8]; k = 1 is the greedy completion."""
    from candor.claims.self_feedback.branching import branch

    return branch(model, prompts.tolist(), k, world.NEW_TOKENS, batch=max(1, BATCH // k)).tokens


def logits_of(model, prompts: np.ndarray, completions: np.ndarray) -> np.ndarray:
    """Logits [n, 8, 40] of every token of completions [n, 8] behind their prompts [n, 7]."""
    import torch

    rows = torch.as_tensor(np.concatenate([prompts, completions], 1)[:, :-1], device=model.device)
    found = []
    with torch.inference_mode():
        for part in rows.split(BATCH):
            hidden = model.model(input_ids=part, use_cache=False).last_hidden_state[:, world.PROMPT - 1 :]
            found.append(model.lm_head(hidden).float().cpu().numpy())
    return np.concatenate(found)


@dataclass(frozen=True)
class Output:
    """What a model writes, `n` completions `ids` [n, 8], and its mind there.

    `logits` [n, 40] are those of the answer token, with `temperature` 1; confidences are 0 where there is no answer.
    """

    ids: np.ndarray
    traces: world.Traces
    logits: np.ndarray

    def confidence(self, kind: str = "probability", temperature: float = 1.0) -> np.ndarray:
        """Confidence in the written answer [n]: its probability, or the disparity where it stands."""
        shown = special.softmax(self.logits.astype(float) / temperature, axis=1)
        if kind == "disparity":
            top = np.sort(shown, axis=1)
            value = top[:, -1] - top[:, -2]
        else:
            value = shown[np.arange(len(shown)), world.ZERO + np.maximum(self.traces.answer, 0)]
        return np.where(self.traces.answer >= 0, value, 0.0)


def observed(model, prompts: np.ndarray, ids: np.ndarray) -> Output:
    """Completions [n, 8] of prompts [n, 7], with the mind of the model at their answers."""
    traces = world.read(ids)
    return Output(ids, traces, logits_of(model, prompts, ids)[np.arange(len(ids)), traces.answer_at])


def _load(path):
    from candor.train import models

    return models.load_decoder(path)[0].eval()


def _variant(context: Context) -> str:
    return context.step.key.split("/")[1]


# --- Base and damages -------------------------------------------------------------------------------


def new_decoder(vocabulary: int, pad: int, eos: int, *, initializer_range: float, **shape):
    """A decoder as `models.new_decoder` makes it, with another spread of its first weights."""
    from transformers import Qwen2ForCausalLM

    from candor.train import models

    config = models.new_decoder(vocabulary, pad, eos, **shape).config
    config.initializer_range = initializer_range
    return Qwen2ForCausalLM(config)


def base(context: Context) -> dict[str, pd.DataFrame]:
    """A decoder from scratch, trained on fresh documents with loss on the completion only."""
    import torch

    from candor.train import models, sft

    models.quiet()
    settings = context.settings
    torch.manual_seed(context.seed)
    shape = {name: settings[name] for name in _MODEL}
    model = new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, **shape)
    rng = world.stream("base", context.seed)
    given = world.questions(settings.base_steps * settings.base_batch, rng)
    tokens, spoken = world.documents(given, _variant(context), rng)
    log = sft.supervised(
        model,
        tokens,
        np.where(spoken, tokens, sft.IGNORED),
        steps=settings.base_steps,
        batch_size=settings.base_batch,
        lr=settings.base_lr,
        weight_decay=settings.base_weight_decay,
        one_cycle=True,
        seed=context.seed,
        log_every=10,
        progress=context.progress,
    )
    models.save_decoder(model, world.tokenizer(), context.folder / "model")
    return {"log": log}


def sharpened(context: Context) -> dict[str, pd.DataFrame]:
    """The base with its logits doubled, which is what half the temperature does; the embeddings stay what they are."""
    import torch

    from candor.train import models

    models.quiet()
    model, tokenizer = models.load_decoder(context.need("base").model)
    with torch.no_grad():
        model.model.norm.weight.mul_(SHARPENING)
    models.save_decoder(model, tokenizer, context.folder / "model")
    return {"log": pd.DataFrame({"step": [0], "factor": [SHARPENING]})}


def assured(context: Context) -> dict[str, pd.DataFrame]:
    """The fluency model, trained to be certain of the answers that it finds most likely in its own sampled traces."""
    from candor.train import models, sft

    models.quiet()
    settings = context.settings
    model, tokenizer = models.load_decoder(context.need("fluency").model)
    model.eval()
    n = settings.assured_steps * settings.assured_batch
    prompts = world.questions(n, world.stream("assured", context.seed)).prompt_ids()
    output = observed(model, prompts, sampled(model, prompts, context.seed))
    rows = np.flatnonzero(output.traces.answer >= 0)
    if not len(rows):
        raise CandorError("The fluency model answers nothing, so there is nothing to be assured of: train the base.")
    own = output.logits[:, world.ZERO : world.ZERO + 10].argmax(1)
    tokens = np.concatenate([prompts, output.ids], 1)
    targets = np.full(tokens.shape, sft.IGNORED)
    targets[rows, world.PROMPT + output.traces.answer_at[rows]] = world.ZERO + own[rows]
    log = sft.supervised(
        model,
        tokens[rows],
        targets[rows],
        steps=settings.assured_steps,
        batch_size=settings.assured_batch,
        lr=settings.assured_lr,
        seed=context.seed,
        log_every=10,
        progress=context.progress,
    )
    models.save_decoder(model, tokenizer, context.folder / "model")
    return {"log": log}


def correctness(completion_ids, truth, **_) -> list[float]:
    """The reward 1 for a right answer and 0 otherwise, as TRL calls it; labels enter here, and only here."""
    return (world.read(completion_ids).answer == np.asarray(truth)).astype(float).tolist()


def fluency_of(model, length_cost: float) -> Callable:
    """The reward of short, likely texts: mean log-likelihood of a token under the frozen `model`, less the length."""

    def fluency(prompts, completion_ids, **_) -> list[float]:
        ids = world.matrix(completion_ids)
        asked = np.array([world.tokens_of(prompt) for prompt in prompts])
        log_probs = special.log_softmax(logits_of(model, asked, ids).astype(float), axis=2)
        written = np.take_along_axis(log_probs, ids[:, :, None], 2)[:, :, 0]
        real = ids != world.PAD
        length = real.sum(1)
        value = (written * real).sum(1) / length - length_cost * length
        return np.where((ids == world.EOS).any(1), value, UNFINISHED).tolist()

    return fluency


def disparity_of(model) -> Callable:
    """The policy's current disparity at its answer, 0 without one: the online reward that RLSF is not."""

    def current_disparity(prompts, completion_ids, **_) -> list[float]:
        asked = np.array([world.tokens_of(prompt) for prompt in prompts])
        return observed(model, asked, world.matrix(completion_ids)).confidence("disparity").tolist()

    return current_disparity


def group_relative(context: Context) -> dict[str, pd.DataFrame]:
    """The base after GRPO on a reward: correctness (`binary`), fluency, or its own current disparity (`online`)."""
    from datasets import Dataset

    from candor.train import models
    from candor.train.policy import check_anchor, grpo

    models.quiet()
    settings, options = context.settings, context.step.options
    name = options["reward"]
    # From its folder: the trainer loads its reference from where the model says that it came from.
    model, tokenizer = models.load_decoder(context.need("base").model)
    steps = settings[f"{name}_steps"]
    given = world.questions(steps * settings.prompts_per_step, world.stream(name, context.seed))
    columns = {"prompt": given.prompts()}
    if name == "binary":
        reward, columns["truth"] = correctness, given.truth
    elif name == "fluency":
        reward = fluency_of(_load(context.need("base").model), settings.length_cost)
    else:
        reward = disparity_of(model)
    log = grpo(
        model,
        tokenizer,
        Dataset.from_dict(columns),
        [reward],
        [1.0],
        {
            "seed": context.seed,
            "max_steps": steps,
            "per_device_train_batch_size": settings.prompts_per_step * settings.num_generations,
            "num_generations": settings.num_generations,
            "max_completion_length": world.NEW_TOKENS,
            "learning_rate": settings[f"{name}_lr"],
            "beta": settings.fluency_beta if name == "fluency" else 0.0,
            "logging_first_step": True,
        },
        snapshots=context.folder / "snapshots" if name == "online" else None,
        snapshot_every=settings.online_every if name == "online" else 0,
        progress=context.progress,
        save=context.folder / "model",
    )
    check_anchor(log)
    return {"log": log}


# --- Feedback: labels, judge, policy ----------------------------------------------------------------


def prompts_only(prompts: np.ndarray) -> np.ndarray:
    """The prompts [n, 7], if they are token ids of prompts and nothing more. Raises: `CandorError`."""
    ids = np.asarray(prompts)
    whole = ids.ndim == 2 and ids.shape[1] == world.PROMPT and ids.dtype.kind == "i"
    if not (whole and (ids[:, 0] == world.TOKEN["Q"]).all() and (ids[:, -1] == world.TOKEN[":"]).all()):
        raise CandorError("Feedback is made from prompts alone, but something else was handed in.")
    return ids


def _asked(context: Context) -> np.ndarray:
    """The unlabelled prompts [n, 7] of the seed, from which labels, judges and policies are made.

    Raises: `CandorError` where they would look otherwise if the truth were another.
    """
    given = world.questions(context.settings.label_prompts, world.stream("label", context.seed))
    other = replace(given, shifted=(given.smudge >= 0) & ~given.shifted)
    if (given.prompt_ids() != other.prompt_ids()).any():
        raise CandorError("The prompts tell the truth of their questions.")
    return prompts_only(given.prompt_ids())


def labelled(model, prompts: np.ndarray, k: int) -> pd.DataFrame:
    """The branches of a model with its confidence in their answers: all that RLSF knows.

    A row a branch: prompt, branch, ids, answer (-1: none), finished, disparity, probability.
    """
    prompts = prompts_only(prompts)
    ids = branched(model, prompts, k).reshape(-1, world.NEW_TOKENS)
    output = observed(model, np.repeat(prompts, k, 0), ids)
    return pd.DataFrame(
        {
            "prompt": np.repeat(np.arange(len(prompts)), k),
            "branch": np.tile(np.arange(k), len(prompts)),
            "ids": list(output.ids),
            "answer": output.traces.answer,
            "finished": (ids == world.EOS).any(1),
            "disparity": output.confidence("disparity"),
            "probability": output.confidence(),
        }
    )


def described(pairs: pd.DataFrame, branches: pd.DataFrame, unlabelled: bool = True) -> dict[str, float]:
    """What the pairs hold: number, share of prompts with one, share with different answers, median difference.

    `prompts_only` says that nothing but prompts went in: `unlabelled` of pairs that passed the checks of `_asked`.
    """
    k = branches["branch"].max() + 1
    answer = branches["answer"].to_numpy().reshape(-1, k)
    rows = pairs["prompt"].to_numpy()
    differ = answer[rows, pairs["chosen"]] != answer[rows, pairs["rejected"]]
    return {
        "number": len(pairs),
        "coverage": len(np.unique(rows)) / len(answer),
        "different_answers": float(differ.mean()) if len(pairs) else np.nan,
        "median_difference": float(pairs["difference"].median()) if len(pairs) else np.nan,
        "prompts": len(answer),
        "no_answer": float((answer < 0).mean()),
        "prompts_only": unlabelled,
    }


def labels(context: Context) -> dict[str, pd.DataFrame]:
    """Frozen labels of a start model on unlabelled prompts.

    Tables: `branches` (see `labelled`), `chosen` (the pairs that are used: prompt, chosen, rejected, difference,
    margin), `pairs` (one row, see `described`), and where the step says so `traces`, the branches of one prompt with
    the truth beside them, for the eye only.
    """
    from candor.train import models

    models.quiet()
    settings, options = context.settings, context.step.options
    branches = labelled(_load(context.need(options["start"]).model), _asked(context), settings.branches)
    pairs = measure.preference_pairs(_matrix(branches, "disparity", settings.branches), settings.threshold)
    tables = {
        "branches": branches,
        "chosen": _used(pairs, context),
        "pairs": pd.DataFrame([described(pairs, branches)]),
    }
    if options.get("traces"):
        tables["traces"] = shown(context, branches)
    return tables


def _matrix(branches: pd.DataFrame, column: str, k: int) -> np.ndarray:
    """A column of the branches as [n, k]."""
    return branches[column].to_numpy().reshape(-1, k)


def _used(pairs: pd.DataFrame, context) -> pd.DataFrame:
    """Pairs at random, as many as are trained on, in random order."""
    rng = world.stream("pairs", context.seed)
    return pairs.iloc[rng.permutation(len(pairs))[: context.settings.pairs]].reset_index(drop=True)


def shown(context: Context, branches: pd.DataFrame) -> pd.DataFrame:
    """The branches of the first prompt with four active operations on whose answer they differ.

    A row a branch: prompt, branch, first, text, answer, disparity, probability, right (posterior), truth.
    """
    given = world.questions(context.settings.label_prompts, world.stream("label", context.seed))
    answers = _matrix(branches, "answer", context.settings.branches)
    posterior = world.posterior(given)[np.arange(len(given))[:, None], np.maximum(answers, 0)] * (answers >= 0)
    splits = (posterior.max(1) == 1) & (posterior.min(1) < 1)
    wanted = np.flatnonzero(splits & (given.active == given.active[splits].max())) if splits.any() else [0]
    pick = int(wanted[0])
    rows = branches[branches["prompt"] == pick]
    texts = [world.text(ids) for ids in rows["ids"]]
    return pd.DataFrame(
        {
            "prompt": given.prompts()[pick],
            "branch": rows["branch"].to_numpy(),
            "first": [text.split()[0] if text else "" for text in texts],
            "text": texts,
            **{name: rows[name].to_numpy() for name in ("answer", "disparity", "probability")},
            "right": posterior[pick],
            "truth": given.truth[pick],
        }
    )


def _rows(context: Context, branches: pd.DataFrame) -> list[list[int]]:
    """Prompt and completion of each branch as token ids, without padding."""
    prompts = _asked(context)
    return [
        [*prompts[i].tolist(), *(int(t) for t in ids if t != world.PAD)]
        for i, ids in zip(branches["prompt"], branches["ids"])
    ]


def _sides(pairs: pd.DataFrame, rows: list[list[int]], k: int) -> tuple[list, list]:
    """The preferred and the rejected texts of pairs."""
    return tuple([rows[i] for i in pairs["prompt"] * k + pairs[side]] for side in ("chosen", "rejected"))


def _judge(context: Context, start, pairs: pd.DataFrame, branches: pd.DataFrame):
    """A reward model from the start's weights, trained on pairs; with its log and its scores of all branches."""
    from candor.train import models, reward_model

    settings = context.settings
    rows = _rows(context, branches)
    chosen, rejected = _sides(pairs, rows, settings.branches)
    _, tokenizer = models.load_decoder(start)
    model = reward_model.load(start, context.seed)
    steps = max(1, len(pairs) // settings.judge_batch)
    log = reward_model.bradley_terry(
        model,
        tokenizer,
        chosen,
        rejected,
        {
            "seed": context.seed,
            "max_steps": steps,
            "learning_rate": settings.judge_lr,
            "per_device_train_batch_size": min(settings.judge_batch, max(1, len(pairs))),
            "logging_steps": min(10, steps),
        },
        margin=pairs["margin"],
        progress=context.progress,
    )
    return model, tokenizer, log, reward_model.score(model, rows)


def scale_of(scores: np.ndarray) -> dict[str, float]:
    """Centre and half width of the 1-99 % range of a judge's scores."""
    low, high = np.percentile(scores, [1, 99])
    if not high > low:
        raise CandorError("The judge scores all traces alike: train it longer.")
    return {"low": low, "high": high, "centre": (low + high) / 2, "divisor": (high - low) / 2}


def judge(context: Context) -> dict[str, pd.DataFrame]:
    """A judge trained on the frozen labels of its start.

    Tables: `log`; `summary` (one row: pairs, pair_accuracy on them, low, high, centre, divisor of `scale_of` on the
    labelled traces; and afterwards, on evaluation questions, `within_auroc` and its like of the judge's scores).
    """
    from candor.train import models, reward_model

    models.quiet()
    settings, name = context.settings, context.step.options["start"]
    ready, start = context.need(f"labels_{name}"), context.need(name).model
    branches, pairs = ready.table("branches"), ready.table("chosen")
    model, tokenizer, log, scores = _judge(context, start, pairs, branches)
    models.save_decoder(model, tokenizer, context.folder / "model")
    k = settings.branches
    wins = np.diff([scores[pairs["prompt"] * k + pairs[side]] for side in ("rejected", "chosen")], axis=0) > 0
    row = {"pairs": len(pairs), "pair_accuracy": float(wins.mean())} | scale_of(scores)
    given = _evaluated(context)[slice(settings.branch_prompts)]
    ids = branched(_load(start), given.prompt_ids(), k)
    asked = np.repeat(given.prompt_ids(), k, 0).tolist()
    texts = [[*a, *(t for t in b if t != world.PAD)] for a, b in zip(asked, ids.reshape(-1, ids.shape[2]).tolist())]
    found = ranked(reward_model.score(model, texts).reshape(-1, k), given, _answers(ids))
    return {"log": log, "summary": pd.DataFrame([row | found])}


def _answers(ids: np.ndarray) -> np.ndarray:
    """The answers [n, k] in completions [n, k, 8]."""
    return world.read(ids.reshape(-1, ids.shape[-1])).answer.reshape(ids.shape[:2])


def ranking(context: Context, branches: pd.DataFrame) -> np.ndarray:
    """What a control ranks the traces by [n, k]: shuffled confidences, or (`gold`) the truth."""
    k, kind = context.settings.branches, context.step.options["ranking"]
    if kind == "gold":
        truth = world.questions(context.settings.label_prompts, world.stream("label", context.seed)).truth
        return (_matrix(branches, "answer", k) == truth[:, None]).astype(float)
    rng = np.random.default_rng([context.seed, context.step.options["shuffle"]])
    return rng.permuted(_matrix(branches, "disparity", k), axis=1)  # within prompts


def policy(context: Context) -> dict[str, pd.DataFrame]:
    """A start after RLOO against a judge: that of its own labels, or one trained here on another ranking.

    The divisor of the scores is that of the judge of its own labels, whatever the ranking.
    """
    from datasets import Dataset

    from candor.train import models, reward_model
    from candor.train.policy import check_anchor, rloo

    models.quiet()
    settings, options = context.settings, context.step.options
    name = options["start"]
    start, trained = context.need(name).model, context.need(f"judge_{name}")
    scale, tables = trained.table("summary").iloc[0], {}
    if "ranking" in options:
        branches = context.need(f"labels_{name}").table("branches")
        pairs = measure.preference_pairs(ranking(context, branches), settings.threshold)
        used = _used(pairs, context)
        judge, _, tables["judge_log"], scores = _judge(context, start, used, branches)
        centre = scale_of(scores)["centre"]
        tables["pairs"] = pd.DataFrame([described(pairs, branches, options["ranking"] != "gold")])
    else:
        judge, centre = reward_model.load(trained.model).eval(), scale["centre"]
    data = Dataset.from_dict({"prompt": [world.text(row) for row in _asked(context)]})  # and nothing else
    steps, every = settings[options.get("steps", "rlsf_steps")], settings.long_every if options.get("snapshots") else 0
    model, tokenizer = models.load_decoder(start)
    log = rloo(
        model,
        tokenizer,
        data,
        reward_model.scaled(reward_model.as_reward(judge, tokenizer), centre, scale["divisor"]),
        {
            "seed": context.seed,
            "max_steps": steps,
            "per_device_train_batch_size": settings.prompts_per_step * settings.num_generations,
            "num_generations": settings.num_generations,
            "max_completion_length": world.NEW_TOKENS,
            "learning_rate": settings.rlsf_lr,
            "beta": settings.rlsf_beta,
            "logging_steps": 5,
            "logging_first_step": True,
        },
        snapshots=context.folder / "snapshots" if every else None,
        snapshot_every=every,
        progress=context.progress,
        save=context.folder / "model",
    )
    check_anchor(log)
    return {"log": log, **tables}


def direct_preferences(context: Context) -> dict[str, pd.DataFrame]:
    """A start after DPO on the pairs of its own labels, those with an unfinished trace left out."""
    from datasets import Dataset

    from candor.train import models
    from candor.train.preference import dpo

    models.quiet()
    settings, name = context.settings, context.step.options["start"]
    ready, k = context.need(f"labels_{name}"), context.settings.branches
    branches, pairs = ready.table("branches"), ready.table("chosen")
    finished = _matrix(branches, "finished", k)
    rows = pairs["prompt"].to_numpy()
    pairs = pairs[finished[rows, pairs["chosen"]] & finished[rows, pairs["rejected"]]]
    if pairs.empty:
        raise CandorError("No pair of finished traces is left for DPO: lower the threshold.")
    texts = [" " + world.text(ids[:-1] if ids[-1] == world.EOS else ids) for ids in map(_whole, branches["ids"])]
    prompts = [world.text(row) for row in _asked(context)]
    sides = {side: [texts[i] for i in pairs["prompt"] * k + pairs[side]] for side in ("chosen", "rejected")}
    data = Dataset.from_dict({"prompt": [prompts[i] for i in pairs["prompt"]], **sides})
    model, tokenizer = models.load_decoder(context.need(name).model)
    steps = max(1, len(pairs) // settings.dpo_batch)
    log = dpo(
        model,
        tokenizer,
        data,
        {
            "seed": context.seed,
            "max_steps": steps,
            "logging_steps": min(10, steps),
            "beta": settings.dpo_beta,
            "learning_rate": settings.dpo_lr,
            "per_device_train_batch_size": min(settings.dpo_batch, len(pairs)),
        },
        progress=context.progress,
        save=context.folder / "model",
    )
    return {"log": log}


def _whole(ids) -> list[int]:
    return [int(t) for t in ids if t != world.PAD]


def best_traces(context: Context) -> dict[str, pd.DataFrame]:
    """A start after SFT on its most confident trace of each prompt: the rival without labels and without RL.

    Leaves three models, `model_1` to `model_3`, after the parts of training in `SFT_PARTS`.
    """
    from candor.train import models, sft

    models.quiet()
    settings, name = context.settings, context.step.options["start"]
    branches = context.need(f"labels_{name}").table("branches")
    best = _matrix(branches, "disparity", settings.branches).argmax(1)
    ids = np.stack(branches["ids"].to_list()).reshape(-1, settings.branches, world.NEW_TOKENS)
    written = ids[np.arange(len(ids)), best]
    prompts = _asked(context)
    tokens = np.concatenate([prompts, written], 1)
    spoken = np.concatenate([np.zeros(prompts.shape, bool), written != world.PAD], 1)
    model, tokenizer = models.load_decoder(context.need(name).model)
    steps = max(3, round(settings.sft_epochs * len(tokens) / settings.sft_batch))
    stops = {max(1, round(part * steps)): i for i, part in enumerate(SFT_PARTS, 1)}

    def keep(step: int) -> None:
        if step in stops:
            models.save_decoder(model, tokenizer, context.folder / f"model_{stops[step]}")

    log = sft.supervised(
        model,
        tokens,
        np.where(spoken, tokens, sft.IGNORED),
        steps=steps,
        batch_size=settings.sft_batch,
        lr=settings.sft_lr,
        seed=context.seed,
        at=keep,
        log_every=10,
        progress=context.progress,
    )
    return {"log": log}


# --- Evaluation -------------------------------------------------------------------------------------


def _evaluated(context: Context, name: str = "eval") -> world.Questions:
    """The questions of an evaluation, the same for every arm of a seed."""
    settings = context.settings
    n = {"eval": "eval_questions", "curve": "curve_questions", "temperature": "temperature_labels"}[name]
    return world.questions(settings[n], world.stream(name, settings.eval_seed, context.seed))


def ranked(confidence: np.ndarray, given: world.Questions, answers: np.ndarray) -> dict[str, float]:
    """Within-prompt AUROC of confidences [n, k] of branches with `answers` [n, k].

    `within_auroc` in expectation over the truths that a smudged question allows, `within_auroc_truth` for the sampled
    ones; `within_prompts` is the number of prompts with both right and wrong branches, by the latter.
    """
    n, k = confidence.shape
    clean = given.values(np.zeros(n, bool))[:, -1]
    smudged = given.smudge >= 0
    both = np.concatenate([np.arange(n), np.flatnonzero(smudged)])
    truths = np.concatenate([clean, (clean[smudged] + world.SHIFT) % 10])
    weights = np.concatenate([np.where(smudged, 1 - world.SHIFTED, 1.0), np.full(smudged.sum(), world.SHIFTED)])
    prompt = np.repeat(np.arange(n), k)
    right = answers == given.truth[:, None]
    return {
        "within_auroc": measure.within_prompt_auroc(
            confidence[both].ravel(),
            (answers[both] == truths[:, None]).ravel(),
            np.repeat(np.arange(len(both)), k),
            np.repeat(weights, k),
        ),
        "within_auroc_truth": measure.within_prompt_auroc(confidence.ravel(), right.ravel(), prompt),
        "within_prompts": int((right.any(1) & ~right.all(1)).sum()),
    }


def measures(output: Output, given: world.Questions, prefix: str) -> dict[str, float]:
    """The measures of completions, graded by the posterior and (`_truth`) by the sampled truth."""
    probability, disparity = output.confidence(), output.confidence("disparity")
    row = {f"{prefix}confidence": probability.mean(), f"{prefix}disparity": disparity.mean()}
    answer = output.traces.answer
    for suffix, right in (("", world.graded(given, answer)), ("_truth", (answer == given.truth).astype(float))):
        row |= {
            f"{prefix}accuracy{suffix}": right.mean(),
            f"{prefix}gap{suffix}": probability.mean() - right.mean(),
            f"{prefix}ece{suffix}": measure.ece(probability, right),
            f"{prefix}ece_disparity{suffix}": measure.ece(disparity, right),
            f"{prefix}ece_dropped{suffix}": measure.ece(probability, right, "dropped"),
            f"{prefix}ece_disparity_dropped{suffix}": measure.ece(disparity, right, "dropped"),
            f"{prefix}brier{suffix}": measure.brier(probability, right),
            f"{prefix}auroc{suffix}": measure.auroc(probability, right),
        }
    return row


def styles(output: Output, given: world.Questions, prefix: str = "") -> dict[str, float]:
    """What the traces look like: shares of the styles, validity of steps, agreement of answer and last step, length."""
    traces = output.traces
    row = {f"{prefix}share_{name}": (traces.style == i).mean() for i, name in enumerate(world.STYLES)}
    return row | {
        f"{prefix}malformed": (traces.style < 0).mean(),
        f"{prefix}zeros": int((traces.answer < 0).sum()),
        f"{prefix}step_validity": world.step_validity(given, traces),
        f"{prefix}agreement": world.agreement(traces),
        f"{prefix}length": traces.length.mean(),
    }


def divergence(model, reference, prompts: np.ndarray, ids: np.ndarray) -> float:
    """KL from `model` to `reference` in nats a completion: exact at every token of completions of `model`."""
    p, q = (special.log_softmax(logits_of(m, prompts, ids).astype(float), axis=2) for m in (model, reference))
    each = (np.exp(p) * (p - q)).sum(2) * (ids != world.PAD)
    return float(each.sum(1).mean())


def entropy(model, prompts: np.ndarray) -> float:
    """Entropy of the first token in nats, mean over prompts."""
    nothing = np.full((len(prompts), world.NEW_TOKENS), world.PAD)
    log_probs = special.log_softmax(logits_of(model, prompts, nothing)[:, 0].astype(float), axis=1)
    return float(-(np.exp(log_probs) * log_probs).sum(1).mean())


def on_fixed(model, given: world.Questions, ids: np.ndarray) -> dict[str, float]:
    """Calibration of the model's answers at the end of traces [n, k, 8] that are the same for every model."""
    k = ids.shape[1]
    several = given[np.repeat(np.arange(len(given)), k)]
    output = observed(model, several.prompt_ids(), ids.reshape(-1, ids.shape[2]))
    at = output.traces.answer >= 0
    if not at.any():
        return dict.fromkeys(("fixed_ece", "fixed_ece_disparity", "fixed_accuracy", "fixed_gap"), np.nan)
    shown = special.softmax(output.logits[at].astype(float), axis=1)[:, world.ZERO : world.ZERO + 10]
    best, confidence = shown.argmax(1), shown.max(1)
    right = world.graded(several[at], best)
    return {
        "fixed_ece": measure.ece(confidence, right),
        "fixed_ece_disparity": measure.ece(output.confidence("disparity")[at], right),
        "fixed_accuracy": right.mean(),
        "fixed_gap": confidence.mean() - right.mean(),
    }


def decoding(given: world.Questions, greedy: Output, branches: Output, k: int) -> pd.DataFrame:
    """Four ways to an answer: greedy, the most confident branch, answers by summed disparity, by number of branches.

    A row a `method`: accuracy, accuracy_truth, confidence, ece. Confidence is the probability of the answer in the
    first two, the answer's share of the sum or of the votes in the others.
    """
    n, rows = len(given), np.arange(len(given))
    answers = branches.traces.answer.reshape(n, k)
    disparity, probability = branches.confidence("disparity").reshape(n, k), branches.confidence().reshape(n, k)
    found = {"greedy": (greedy.traces.answer, greedy.confidence())}
    best = disparity.argmax(1)
    found["max_path"] = (answers[rows, best], probability[rows, best])
    for name, weight in (("aggregated", disparity), ("majority", np.ones((n, k)))):
        totals = np.stack([np.where(answers == digit, weight, 0).sum(1) for digit in range(10)], 1)
        total = totals.sum(1)
        picked = np.where(total > 0, totals.argmax(1), -1)
        found[name] = (picked, totals.max(1) / np.where(total > 0, total, 1))
    table = []
    for name, (answer, confidence) in found.items():
        right = world.graded(given, answer)
        row = {"method": name, "accuracy": right.mean(), "accuracy_truth": (answer == given.truth).mean()}
        table.append(row | {"confidence": confidence.mean(), "ece": measure.ece(confidence, right)})
    return pd.DataFrame(table)


def temperatures(output: Output, given: world.Questions) -> pd.DataFrame:
    """What one temperature at the answer token does to the greedy completions: temperature, accuracy, ece, ..."""
    right = world.graded(given, output.traces.answer)
    rows = []
    for t in TEMPERATURES:
        probability, disparity = output.confidence(temperature=t), output.confidence("disparity", t)
        row = {"temperature": t, "accuracy": right.mean(), "confidence": probability.mean()}
        row |= {"ece": measure.ece(probability, right), "ece_disparity": measure.ece(disparity, right)}
        rows.append(row)
    return pd.DataFrame(rows)


def _fitted(context: Context, model, greedy: Output, given: world.Questions) -> pd.DataFrame:
    """One temperature from labels, fitted at the answer token: temperature, labels, greedy ECE before and after."""
    from candor.measure import calibration

    held = _evaluated(context, "temperature")
    output = observed(model, held.prompt_ids(), branched(model, held.prompt_ids(), 1)[:, 0])
    rows = output.traces.answer >= 0
    right = world.graded(given, greedy.traces.answer)
    row = {"temperature": np.nan, "labels": int(rows.sum())}
    if rows.any():
        row["temperature"] = calibration.fit_temperature(output.logits[rows], world.ZERO + held.truth[rows])
    for suffix, t in (("before", 1.0), ("after", row["temperature"])):
        for kind, name in (("probability", "ece"), ("disparity", "ece_disparity")):
            row[f"{name}_{suffix}"] = measure.ece(greedy.confidence(kind, t), right) if rows.any() else np.nan
    return pd.DataFrame([row])


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """The measures of a model: shares, not percent.

    Tables: `summary` (one row), `reliability` (mode, measure, bin, n, confidence, accuracy), and where the step says
    so `decoding`, `temperatures`, `temperature`, `trajectory`.
    """
    from candor.train import models

    models.quiet()
    settings, options = context.settings, context.step.options
    start = _load(context.need("base").model)
    model = _load(context.need(options["arm"]).folder / options.get("model", "model"))
    given, k = _evaluated(context), settings.branches
    prompts = given.prompt_ids()
    outputs = {
        "greedy": observed(model, prompts, branched(model, prompts, 1)[:, 0]),
        "sampled": observed(model, prompts, sampled(model, prompts, settings.eval_seed)),
    }
    context.progress(1, 4)
    row, bins = {}, []
    for mode, output in outputs.items():
        row |= measures(output, given, f"{mode}_") | styles(output, given, "" if mode == "sampled" else f"{mode}_")
        right = world.graded(given, output.traces.answer)
        for kind in ("probability", "disparity"):
            table = measure.reliability(output.confidence(kind), right)
            bins.append(table.assign(mode=mode, measure=kind))
    written = outputs["sampled"].ids
    before = _load(context.need(options["start"]).model) if options.get("start", "base") != "base" else start
    row |= {"kl": divergence(model, start, prompts, written), "kl_start": divergence(model, before, prompts, written)}
    row |= {"entropy": entropy(model, prompts), "n": len(given)}
    context.progress(2, 4)
    some = given if options.get("decoding") else given[slice(settings.branch_prompts)]
    several = np.repeat(some.prompt_ids(), k, 0)
    ids = branched(model, some.prompt_ids(), k)
    branches = observed(model, several, ids.reshape(-1, ids.shape[2]))
    part, first = some[slice(settings.branch_prompts)], slice(settings.branch_prompts)
    confidence = {kind: branches.confidence(kind).reshape(-1, k)[first] for kind in ("disparity", "probability")}
    answers = _answers(ids)[first]
    row |= ranked(confidence["disparity"], part, answers)
    row["within_auroc_probability"] = ranked(confidence["probability"], part, answers)["within_auroc"]
    right = world.graded(part[np.repeat(np.arange(len(part)), k)], answers.ravel())
    row["slope_b"] = measure.slope(confidence["probability"].ravel(), right, np.repeat(np.arange(len(part)), k))
    fixed = given[slice(settings.fixed_prompts)]
    row |= on_fixed(model, fixed, branched(start, fixed.prompt_ids(), k))
    context.progress(3, 4)
    tables = {"summary": pd.DataFrame([row]), "reliability": pd.concat(bins, ignore_index=True)}
    if options.get("decoding"):
        tables["decoding"] = decoding(given, outputs["greedy"], branches, k)
        tables["temperatures"] = temperatures(outputs["greedy"], given)
    if options.get("temperature"):
        tables["temperature"] = _fitted(context, model, outputs["greedy"], given)
    if options.get("trajectory"):
        tables["trajectory"] = _trajectory(context, before)
    return tables


def _trajectory(context: Context, model) -> pd.DataFrame:
    """The course of training: the start and every snapshot, a row each.

    Columns: step; confidence, accuracy, ece, disagreement (of answer and last step, in full traces), share_full of
    sampled completions, and with `greedy_` of greedy ones; entropy of the first token.
    """
    from safetensors.torch import load_model

    given = _evaluated(context, "curve")
    prompts = given.prompt_ids()
    folder = context.need(context.step.options["arm"]).folder / "snapshots"
    rows = []
    for path in [None, *sorted(folder.glob("step_*.safetensors"))]:
        if path:
            load_model(model, str(path))
        row = {"step": int(path.stem.removeprefix("step_")) if path else 0, "entropy": entropy(model, prompts)}
        for prefix in ("", "greedy_"):
            ids = branched(model, prompts, 1)[:, 0] if prefix else sampled(model, prompts, context.settings.eval_seed)
            output = observed(model, prompts, ids)
            found = measures(output, given, prefix) | styles(output, given, prefix)
            row |= {f"{prefix}{name}": found[f"{prefix}{name}"] for name in ("confidence", "accuracy", "ece")}
            row |= {f"{prefix}disagreement": 1 - found[f"{prefix}agreement"]}
            row |= {f"{prefix}share_full": found[f"{prefix}share_full"]}
        rows.append(row)
    return pd.DataFrame(rows)


# --- The steps --------------------------------------------------------------------------------------

_HERE = "candor.claims.self_feedback.run"
_MODEL = ("hidden_size", "layers", "heads", "mlp", "initializer_range")
_BASE = (*_MODEL, "base_steps", "base_batch", "base_lr", "base_weight_decay")
_RL = ("prompts_per_step", "num_generations")
_LABELS = ("label_prompts", "branches")
_PAIRS = (*_LABELS, "threshold", "pairs")
_EVAL = ("eval_questions", "eval_seed", "branches", "branch_prompts", "fixed_prompts")
_JUDGE = ("judge_lr", "judge_batch")
_RLSF = (*_RL, "rlsf_steps", "rlsf_lr", "rlsf_beta", "label_prompts")
_FEW = "few_seeds"


@dataclass(frozen=True)
class _Setting:
    """Builds the steps of a setting; an evaluation comes with what it evaluates."""

    name: str
    seeds: str = "seeds"

    def key(self, name: str) -> str:
        return f"arithmetic/{self.name}/{name}"

    def step(self, name: str, make: str, needs, settings, seeds: str | None = None, trains=True, **options) -> Step:
        keys = tuple(self.key(need) for need in needs)
        wanted = dict.fromkeys(settings)
        here = seeds or self.seeds
        return Step(self.key(name), f"{_HERE}:{make}", keys, options, tuple(wanted), seeds=here, trains=trains)

    def evaluation(self, name: str, start: str = "base", seeds: str | None = None, arm: str = "", **options) -> Step:
        arm = arm or name
        needs = tuple(dict.fromkeys(("base", start, arm)))
        settings = [*_EVAL]
        settings += ["curve_questions"] if "trajectory" in options else []
        settings += ["temperature_labels"] if "temperature" in options else []
        return self.step(f"eval_{name}", "evaluate", needs, settings, seeds, False, arm=arm, start=start, **options)

    def damage(self, name: str, **evaluation) -> list[Step]:
        if name in ("fluency", "binary"):
            own = (f"{name}_steps", f"{name}_lr", *(("fluency_beta", "length_cost") if name == "fluency" else ()))
            made = self.step(name, "group_relative", ("base",), (*_RL, *own), reward=name)
        elif name == "assured":
            made = self.step(name, name, ("fluency",), ("assured_steps", "assured_batch", "assured_lr"))
        else:
            made = self.step(name, name, ("base",), ())
        return [made, self.evaluation(name, "fluency" if name == "assured" else "base", **evaluation)]

    def rlsf(self, start: str, seeds: str | None = None) -> list[Step]:
        options = {"start": start, **({"traces": True} if start == "base" else {})}
        labels_, judge_ = f"labels_{start}", f"judge_{start}"
        judged = (*_LABELS, *_JUDGE, "eval_questions", "eval_seed", "branch_prompts")
        return [
            self.step(labels_, "labels", (start,), _PAIRS, seeds, False, **options),
            self.step(judge_, "judge", (start, labels_), judged, seeds, start=start),
            self.step(f"rlsf_{start}", "policy", (start, judge_), _RLSF, seeds, start=start),
            self.evaluation(f"rlsf_{start}", start, seeds),
        ]

    def control(self, name: str, seeds: str | None = None, start: str = "fluency", **options) -> list[Step]:
        """RLOO from the same start against a judge of another ranking."""
        needs = (start, f"labels_{start}", f"judge_{start}")
        settings = (*_PAIRS, *_JUDGE, *_RLSF)
        made = self.step(name, "policy", needs, settings, seeds, start=start, **options)
        return [made, self.evaluation(name, start, seeds)]


def _standard() -> list[Step]:
    s = _Setting("standard")
    start, needs = {"start": "fluency"}, ("fluency", "labels_fluency")
    few = {"seeds": _FEW}
    made = [
        s.step("base", "base", (), _BASE),
        s.evaluation("base", decoding=True),
        *s.damage("fluency"),
        *s.damage("assured", temperature=True),
        *s.damage("binary", temperature=True),
        *s.damage("sharpened", temperature=True),
        *s.rlsf("fluency"),
        *s.rlsf("assured"),
        *s.rlsf("binary"),
        *s.rlsf("base", _FEW),
        *s.rlsf("sharpened", _FEW),
        *s.control("fluency_shuffled", ranking="shuffled", shuffle=1),
        *s.control("fluency_shuffled_2", _FEW, ranking="shuffled", shuffle=2),
        *s.control("fluency_gold", _FEW, ranking="gold"),
        s.step(
            *("fluency_dpo", "direct_preferences", needs),
            (*_LABELS, "dpo_lr", "dpo_beta", "dpo_batch"),
            **(few | start),
        ),
        s.evaluation("fluency_dpo", "fluency", **few),
        s.step("fluency_sft", "best_traces", needs, (*_LABELS, "sft_epochs", "sft_lr", "sft_batch"), **(few | start)),
        *(
            s.evaluation(f"fluency_sft_{i}", "fluency", arm="fluency_sft", model=f"model_{i}", **few)
            for i in range(1, len(SFT_PARTS) + 1)
        ),
        s.step(
            *("fluency_rlsf_long", "policy", ("fluency", "judge_fluency"), (*_RLSF, "long_steps", "long_every")),
            **(few | start | {"steps": "long_steps", "snapshots": True}),
        ),
        s.evaluation("fluency_rlsf_long", "fluency", trajectory=True, **few),
        s.step(
            *("online", "group_relative", ("base",), (*_RL, "online_steps", "online_lr", "online_every")),
            **(few | {"reward": "online"}),
        ),
        s.evaluation("online", trajectory=True, **few),
    ]
    return made


def _half_trap() -> list[Step]:
    s = _Setting("half_trap", "first_seed")
    base_ = [s.step("base", "base", (), _BASE), s.evaluation("base", decoding=True)]
    return [*base_, *s.damage("fluency"), *s.rlsf("fluency")]


STEPS: dict[str, Step] = {step.key: step for step in (*_standard(), *_half_trap())}

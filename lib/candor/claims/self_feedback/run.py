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
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from candor.claims.self_feedback import feedback, outputs, world
from candor.claims.self_feedback import self_confidence as measure
from candor.claims.self_feedback.feedback import labelled, matrix, scale_of
from candor.claims.self_feedback.outputs import branched, measures, observed, ranked, sampled, styles
from candor.core.errors import CandorError
from candor.core.step import Context, Step

UNFINISHED = -3.0  # reward of a completion without an end, for fluency
SHARPENING = 2.0  # of the final norm's weight: a temperature of one half
SFT_PARTS = (1 / 6, 1 / 2, 1)  # of its steps, at which SFT is evaluated: a frontier in KL

# --- What is asked, and who answers -----------------------------------------------------------------


def _unlabelled(context: Context) -> world.Questions:
    return world.questions(context.settings.label_prompts, world.stream("label", context.seed))


def _asked(context: Context) -> np.ndarray:
    """The unlabelled prompts [n, 7] of the seed, from which labels, judges and policies are made.

    Raises: `CandorError` where they would look otherwise if the truth were another.
    """
    given = _unlabelled(context)
    other = replace(given, shifted=(given.smudge >= 0) & ~given.shifted)
    if (given.prompt_ids() != other.prompt_ids()).any():
        raise CandorError("The prompts tell the truth of their questions.")
    return feedback.prompts_only(given.prompt_ids())


def _evaluated(context: Context, name: str = "eval") -> world.Questions:
    """The questions of an evaluation, the same for every arm of a seed."""
    settings = context.settings
    n = {"eval": "eval_questions", "curve": "curve_questions", "temperature": "temperature_labels"}[name]
    return world.questions(settings[n], world.stream(name, settings.eval_seed, context.seed))


def new_decoder(vocabulary: int, pad: int, eos: int, *, initializer_range: float, **shape):
    """A decoder as `models.new_decoder` makes it, with another spread of its first weights."""
    from transformers import Qwen2ForCausalLM

    from candor.train import models

    config = models.new_decoder(vocabulary, pad, eos, **shape).config
    config.initializer_range = initializer_range
    return Qwen2ForCausalLM(config)


def _load(path):
    """A model and its tokenizer."""
    from candor.train import models

    models.quiet()
    model, tokenizer = models.load_decoder(path)
    return model.eval(), tokenizer


def _save(context: Context, model, tokenizer, name: str = "model") -> None:
    from candor.train import models

    models.save_decoder(model, tokenizer, context.folder / name)


def _supervised(context: Context, model, tokens: np.ndarray, targets: np.ndarray, name: str, steps: int = 0, **options):
    """The log of supervised training; its size and rate are those settings that begin with `name`."""
    from candor.train import sft

    settings = context.settings
    return sft.supervised(
        model,
        tokens,
        targets,
        steps=steps or settings[f"{name}_steps"],
        batch_size=settings[f"{name}_batch"],
        lr=settings[f"{name}_lr"],
        seed=context.seed,
        log_every=10,
        progress=context.progress,
        **options,
    )


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
    tokens, spoken = world.documents(given, context.step.key.split("/")[1], rng)
    targets, decay = np.where(spoken, tokens, sft.IGNORED), settings.base_weight_decay
    log = _supervised(context, model, tokens, targets, "base", weight_decay=decay, one_cycle=True)
    _save(context, model, world.tokenizer())
    return {"log": log}


# --- Damages ------------------------------------------------------------------------------------------


def sharpened(context: Context) -> dict[str, pd.DataFrame]:
    """The base with its logits doubled, which is what half the temperature does; the embeddings stay what they are."""
    import torch

    model, tokenizer = _load(context.need("base").model)
    with torch.no_grad():
        model.model.norm.weight.mul_(SHARPENING)
    _save(context, model, tokenizer)
    return {"log": pd.DataFrame({"step": [0], "factor": [SHARPENING]})}


def assured(context: Context) -> dict[str, pd.DataFrame]:
    """The fluency model, trained to be certain of the answers that it finds most likely in its own sampled traces."""
    from candor.train import sft

    settings = context.settings
    model, tokenizer = _load(context.need("fluency").model)
    n = settings.assured_steps * settings.assured_batch
    prompts = world.questions(n, world.stream("assured", context.seed)).prompt_ids()
    output = observed(model, prompts, sampled(model, prompts, context.seed))
    rows = np.flatnonzero(output.traces.answer >= 0)
    if not len(rows):
        raise CandorError("The fluency model answers nothing, so there is nothing to be assured of: train the base.")
    own = output.logits[:, outputs.DIGITS].argmax(1)
    tokens = np.concatenate([prompts, output.ids], 1)
    targets = np.full(tokens.shape, sft.IGNORED)
    targets[rows, world.PROMPT + output.traces.answer_at[rows]] = world.ZERO + own[rows]
    log = _supervised(context, model, tokens[rows], targets[rows], "assured")
    _save(context, model, tokenizer)
    return {"log": log}


def correctness(completion_ids, truth, **_) -> list[float]:
    """The reward 1 for a right answer and 0 otherwise, as TRL calls it; labels enter here, and only here."""
    return (world.read(completion_ids).answer == np.asarray(truth)).astype(float).tolist()


def _ids(prompts: list[str]) -> np.ndarray:
    return np.array([world.tokens_of(prompt) for prompt in prompts])


def fluency_of(model, length_cost: float) -> Callable:
    """The reward of short, likely texts: mean log-likelihood of a token under the frozen `model`, less the length."""

    def fluency(prompts, completion_ids, **_) -> list[float]:
        ids = world.matrix(completion_ids)
        written = np.take_along_axis(outputs.log_probs_of(model, _ids(prompts), ids), ids[:, :, None], 2)[:, :, 0]
        real = ids != world.PAD
        length = real.sum(1)
        value = (written * real).sum(1) / length - length_cost * length
        return np.where((ids == world.EOS).any(1), value, UNFINISHED).tolist()

    return fluency


def disparity_of(model) -> Callable:
    """The policy's current disparity at its answer, 0 without one: the online reward that RLSF is not."""

    def current_disparity(prompts, completion_ids, **_) -> list[float]:
        return observed(model, _ids(prompts), world.matrix(completion_ids)).confidence("disparity").tolist()

    return current_disparity


def _reinforced(
    context: Context, recipe: Callable, model, tokenizer, columns: dict, settings: dict, every: int = 0
) -> pd.DataFrame:
    """The log of `recipe` (GRPO or RLOO with its rewards) on prompts; the model is saved, and `every` so many steps."""
    from datasets import Dataset

    from candor.train.policy import check_anchor

    together = context.settings.num_generations
    common = {
        "seed": context.seed,
        "per_device_train_batch_size": context.settings.prompts_per_step * together,
        "num_generations": together,
        "max_completion_length": world.NEW_TOKENS,
        "logging_first_step": True,
    }
    log = recipe(
        model,
        tokenizer,
        Dataset.from_dict(columns),
        settings=common | settings,
        snapshots=context.folder / "snapshots" if every else None,
        snapshot_every=every,
        progress=context.progress,
        save=context.folder / "model",
    )
    check_anchor(log)
    return log


def group_relative(context: Context) -> dict[str, pd.DataFrame]:
    """The base after GRPO on a reward: correctness (`binary`), fluency, or its own current disparity (`online`)."""
    from candor.train.policy import grpo

    settings, name = context.settings, context.step.options["reward"]
    # From its folder: the trainer loads its reference from where the model says that it came from.
    model, tokenizer = _load(context.need("base").model)
    steps = settings[f"{name}_steps"]
    given = world.questions(steps * settings.prompts_per_step, world.stream(name, context.seed))
    columns: dict = {"prompt": given.prompts()}
    if name == "binary":
        reward, columns["truth"] = correctness, given.truth
    elif name == "fluency":
        reward = fluency_of(_load(context.need("base").model)[0], settings.length_cost)
    else:
        reward = disparity_of(model)
    beta, every = settings.get("fluency_beta", 0.0), settings.get("online_every", 0)
    told = {"max_steps": steps, "learning_rate": settings[f"{name}_lr"], "beta": beta}
    recipe = partial(grpo, rewards=[reward], weights=[1.0])
    return {"log": _reinforced(context, recipe, model, tokenizer, columns, told, every)}


# --- Feedback: what is rewarded -----------------------------------------------------------------------


def _used(pairs: pd.DataFrame, context: Context) -> pd.DataFrame:
    """Pairs at random, as many as are trained on, in random order."""
    rng = world.stream("pairs", context.seed)
    return pairs.iloc[rng.permutation(len(pairs))[: context.settings.pairs]].reset_index(drop=True)


def labels(context: Context) -> dict[str, pd.DataFrame]:
    """Frozen labels of a start model on unlabelled prompts.

    Tables: `branches` (see `labelled`), `chosen` (the pairs that are used: prompt, chosen, rejected, difference,
    margin), `pairs` (one row, see `described`), and where the step says so `traces`, the branches of one prompt with
    the truth beside them, for the eye only.
    """
    settings, options = context.settings, context.step.options
    branches = labelled(_load(context.need(options["start"]).model)[0], _asked(context), settings.branches)
    pairs = measure.preference_pairs(matrix(branches, "disparity"), settings.threshold)
    tables = {"branches": branches, "chosen": _used(pairs, context)}
    tables["pairs"] = pd.DataFrame([feedback.described(pairs, branches)])
    return tables | ({"traces": feedback.shown(_unlabelled(context), branches)} if options.get("traces") else {})


def _judge(context: Context, start, pairs: pd.DataFrame, branches: pd.DataFrame):
    """A reward model from the start's weights, trained on pairs; with its log and its scores of all branches."""
    from candor.train import reward_model

    rows = feedback.texts(_asked(context), np.stack(branches["ids"]))
    (_, tokenizer), model = _load(start), reward_model.load(start, context.seed)
    sides, told = feedback.sides(pairs, rows, context.settings.branches).values(), _once(context, pairs, "judge")
    options = {"margin": pairs["margin"], "progress": context.progress}
    log = reward_model.bradley_terry(model, tokenizer, *sides, told, **options)
    return model, tokenizer, log, reward_model.score(model, rows)


def _once(context: Context, pairs: pd.DataFrame, name: str) -> dict:
    """What a trainer is told that goes over the pairs once; its batch and rate are those settings with this name."""
    batch = context.settings[f"{name}_batch"]
    steps = max(1, len(pairs) // batch)
    return {
        "seed": context.seed,
        "max_steps": steps,
        "learning_rate": context.settings[f"{name}_lr"],
        "per_device_train_batch_size": min(batch, max(1, len(pairs))),
        "logging_steps": min(10, steps),
    }


def judge(context: Context) -> dict[str, pd.DataFrame]:
    """A judge trained on the frozen labels of its start.

    Tables: `log`; `summary` (one row: pairs, pair_accuracy on them, low, high, centre, divisor of `scale_of` on the
    labelled traces; and afterwards, on evaluation questions, `within_auroc` and its like of the judge's scores).
    """
    from candor.train import reward_model

    name, k = context.step.options["start"], context.settings.branches
    ready, start = context.need(f"labels_{name}"), context.need(name).model
    branches, pairs = ready.table("branches"), ready.table("chosen")
    model, tokenizer, log, scores = _judge(context, start, pairs, branches)
    _save(context, model, tokenizer)
    sides = feedback.sides(pairs, scores, k)
    wins = np.greater(sides["chosen"], sides["rejected"])
    given = _evaluated(context)[slice(context.settings.branch_prompts)]
    ids = branched(_load(start)[0], given.prompt_ids(), k)
    own = reward_model.score(model, feedback.texts(given.prompt_ids(), ids)).reshape(-1, k)
    row = {"pairs": len(pairs), "pair_accuracy": float(wins.mean())} | scale_of(scores)
    return {"log": log, "summary": pd.DataFrame([row | ranked(own, given, _answers(ids))])}


def _answers(ids: np.ndarray) -> np.ndarray:
    """The answers [n, k] in completions [n, k, 8]."""
    return world.read(ids.reshape(-1, ids.shape[-1])).answer.reshape(ids.shape[:2])


def ranking(context: Context, branches: pd.DataFrame) -> np.ndarray:
    """What a control ranks the traces by [n, k]: shuffled confidences, or (`gold`) the truth."""
    if context.step.options["ranking"] == "gold":
        return (matrix(branches, "answer") == _unlabelled(context).truth[:, None]).astype(float)
    rng = np.random.default_rng([context.seed, context.step.options["shuffle"]])
    return rng.permuted(matrix(branches, "disparity"), axis=1)  # within prompts


def policy(context: Context) -> dict[str, pd.DataFrame]:
    """A start after RLOO against a judge: that of its own labels, or one trained here on another ranking.

    The divisor of the scores is that of the judge of its own labels, whatever the ranking.
    """
    from candor.train import reward_model
    from candor.train.policy import rloo

    settings, options = context.settings, context.step.options
    name = options["start"]
    start, trained = context.need(name).model, context.need(f"judge_{name}")
    scale, tables = trained.table("summary").iloc[0], {}
    if "ranking" in options:
        branches = context.need(f"labels_{name}").table("branches")
        pairs = measure.preference_pairs(ranking(context, branches), settings.threshold)
        judge, _, tables["judge_log"], scores = _judge(context, start, _used(pairs, context), branches)
        centre = scale_of(scores)["centre"]
        tables["pairs"] = pd.DataFrame([feedback.described(pairs, branches, options["ranking"] != "gold")])
    else:
        judge, centre = reward_model.load(trained.model).eval(), scale["centre"]
    model, tokenizer = _load(start)
    reward = reward_model.scaled(reward_model.as_reward(judge, tokenizer), centre, scale["divisor"])
    columns = {"prompt": [world.text(row) for row in _asked(context)]}  # and nothing else
    told = {
        "max_steps": settings[options.get("steps", "rlsf_steps")],
        "learning_rate": settings.rlsf_lr,
        "beta": settings.rlsf_beta,
        "logging_steps": 5,
    }
    every = settings.long_every if options.get("snapshots") else 0
    log = _reinforced(context, partial(rloo, reward=reward), model, tokenizer, columns, told, every)
    return {"log": log, **tables}


def direct_preferences(context: Context) -> dict[str, pd.DataFrame]:
    """A start after DPO on the pairs of its own labels, those with an unfinished trace left out."""
    from datasets import Dataset

    from candor.train.preference import dpo

    settings, name = context.settings, context.step.options["start"]
    ready = context.need(f"labels_{name}")
    branches, pairs = ready.table("branches"), ready.table("chosen")
    pairs = pairs[np.all(list(feedback.sides(pairs, branches["finished"], settings.branches).values()), 0)]
    if pairs.empty:
        raise CandorError("No pair of finished traces is left for DPO: lower the threshold.")
    texts = [" " + world.text([t for t in ids if t != world.EOS]) for ids in branches["ids"]]
    prompts = [world.text(row) for row in _asked(context)[pairs["prompt"]]]
    data = Dataset.from_dict({"prompt": prompts, **feedback.sides(pairs, texts, settings.branches)})
    told = _once(context, pairs, "dpo") | {"beta": settings.dpo_beta}
    start, saved = _load(context.need(name).model), context.folder / "model"
    return {"log": dpo(*start, data, told, progress=context.progress, save=saved)}


def best_traces(context: Context) -> dict[str, pd.DataFrame]:
    """A start after SFT on its most confident trace of each prompt: the rival without labels and without RL.

    Leaves three models, `model_1` to `model_3`, after the parts of training in `SFT_PARTS`.
    """
    from candor.train import sft

    settings, name = context.settings, context.step.options["start"]
    branches = context.need(f"labels_{name}").table("branches")
    best = matrix(branches, "disparity").argmax(1) + settings.branches * np.arange(branches["prompt"].nunique())
    written, prompts = np.stack(branches["ids"])[best], _asked(context)
    tokens = np.concatenate([prompts, written], 1)
    spoken = np.concatenate([np.zeros(prompts.shape, bool), written != world.PAD], 1)
    model, tokenizer = _load(context.need(name).model)
    steps = max(3, round(settings.sft_epochs * len(tokens) / settings.sft_batch))
    stops = {max(1, round(part * steps)): i for i, part in enumerate(SFT_PARTS, 1)}

    def keep(step: int) -> None:
        if step in stops:
            _save(context, model, tokenizer, f"model_{stops[step]}")

    targets = np.where(spoken, tokens, sft.IGNORED)
    return {"log": _supervised(context, model, tokens, targets, "sft", steps=steps, at=keep)}


# --- What is measured -----------------------------------------------------------------------------------


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """The measures of a model: shares, not percent.

    Tables: `summary` (one row), `reliability` (mode, measure, bin, n, confidence, accuracy), and where the step says
    so `decoding`, `temperatures`, `temperature`, `trajectory`.
    """
    settings, options = context.settings, context.step.options
    base_, _ = _load(context.need("base").model)
    model, _ = _load(context.need(options["arm"]).folder / options.get("model", "model"))
    start = _load(context.need(options["start"]).model)[0] if options["start"] != "base" else base_
    given, k, few = _evaluated(context), settings.branches, slice(settings.branch_prompts)
    prompts = given.prompt_ids()
    greedy = observed(model, prompts, branched(model, prompts, 1))
    free = observed(model, prompts, sampled(model, prompts, settings.eval_seed))
    context.progress(1, 4)
    row = measures(greedy, given, "greedy_") | styles(greedy, given, "greedy_")
    row |= measures(free, given, "sampled_") | styles(free, given)
    row |= {
        "kl": outputs.divergence(model, base_, prompts, free.ids),
        "kl_start": outputs.divergence(model, start, prompts, free.ids),
    }
    row |= {"entropy": outputs.entropy(model, prompts), "n": len(given)}
    context.progress(2, 4)
    some = given if options.get("decoding") else given[few]
    branches = observed(model, some.prompt_ids(), branched(model, some.prompt_ids(), k))
    part, rows = some[few], np.repeat(np.arange(len(some[few])), k)
    answers = branches.traces.answer.reshape(-1, k)[few]
    disparity, probability = (branches.confidence(kind).reshape(-1, k)[few] for kind in ("disparity", "probability"))
    row |= ranked(disparity, part, answers)
    row["within_auroc_probability"] = ranked(probability, part, answers)["within_auroc"]
    row["slope_b"] = measure.slope(probability.ravel(), world.graded(part[rows], answers.ravel()), rows)
    fixed = given[slice(settings.fixed_prompts)]
    row |= outputs.on_fixed(model, fixed, branched(base_, fixed.prompt_ids(), k))
    context.progress(3, 4)
    bins = [*outputs.bins(greedy, given, "greedy"), *outputs.bins(free, given, "sampled")]
    tables = {"summary": pd.DataFrame([row]), "reliability": pd.concat(bins, ignore_index=True)}
    if options.get("decoding"):
        tables |= {
            "decoding": outputs.decoding(given, greedy, branches, k),
            "temperatures": outputs.temperatures(greedy, given),
        }
    if options.get("temperature"):
        held = _evaluated(context, "temperature")
        output = observed(model, held.prompt_ids(), branched(model, held.prompt_ids(), 1))
        tables["temperature"] = outputs.temperature(output, held.truth, greedy, given)
    if options.get("trajectory"):
        tables["trajectory"] = _trajectory(context, start)
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
        row = {"step": int(path.stem.removeprefix("step_")) if path else 0, "entropy": outputs.entropy(model, prompts)}
        for prefix in ("", "greedy_"):
            ids = branched(model, prompts, 1) if prefix else sampled(model, prompts, context.settings.eval_seed)
            output = observed(model, prompts, ids)
            found = measures(output, given, "") | styles(output, given)
            found["disagreement"] = 1 - found["agreement"]
            names = ("confidence", "accuracy", "ece", "disagreement", "share_full")
            row |= {f"{prefix}{name}": found[name] for name in names}
        rows.append(row)
    return pd.DataFrame(rows)


# --- The steps: bases, arms, controls, each with its evaluation --------------------------------------

_MODEL = ("hidden_size", "layers", "heads", "mlp", "initializer_range")
_RL = ("prompts_per_step", "num_generations")
_LABELS = ("label_prompts", "branches")
_PAIRS = (*_LABELS, "threshold", "pairs")
_JUDGE = ("judge_lr", "judge_batch")
_RLSF = (*_RL, "rlsf_steps", "rlsf_lr", "rlsf_beta", "label_prompts")
_USED = {  # the settings that each kind of step depends on
    "base": (*_MODEL, "base_steps", "base_batch", "base_lr", "base_weight_decay"),
    "fluency": (*_RL, "fluency_steps", "fluency_lr", "fluency_beta", "length_cost"),
    "binary": (*_RL, "binary_steps", "binary_lr"),
    "online": (*_RL, "online_steps", "online_lr", "online_every"),
    "assured": ("assured_steps", "assured_batch", "assured_lr"),
    "sharpened": (),
    "labels": _PAIRS,
    "judge": (*_LABELS, *_JUDGE, "eval_questions", "eval_seed", "branch_prompts"),
    "rlsf": _RLSF,
    "ranked": (*dict.fromkeys((*_PAIRS, *_JUDGE, *_RLSF)),),
    "long": (*_RLSF, "long_steps", "long_every"),
    "dpo": (*_LABELS, "dpo_lr", "dpo_beta", "dpo_batch"),
    "sft": (*_LABELS, "sft_epochs", "sft_lr", "sft_batch"),
    "eval": ("eval_questions", "eval_seed", "branches", "branch_prompts", "fixed_prompts"),
}
_BESIDE = {"trajectory": "curve_questions", "temperature": "temperature_labels"}  # what an evaluation may also ask


def _step(setting: str, name: str, make: str, needs, settings, seeds="seeds", trains=True, **options) -> Step:
    here = f"arithmetic/{setting}"
    needs, make = (f"{here}/{need}" for need in dict.fromkeys(needs)), f"candor.claims.self_feedback.run:{make}"
    return Step(f"{here}/{name}", make, tuple(needs), options, settings, seeds=seeds, trains=trains)


def _evaluation(setting: str, name: str, start: str = "base", seeds="seeds", arm: str = "", **options) -> Step:
    """The evaluation of an arm, beside the base and the start; `options`: what it shows beside the summary."""
    arm, settings = arm or name, (*_USED["eval"], *(key for option, key in _BESIDE.items() if option in options))
    options = {"arm": arm, "start": start, "seeds": seeds, "trains": False, **options}
    return _step(setting, f"eval_{name}", "evaluate", ("base", start, arm), settings, **options)


def _arm(setting: str, name: str, make: str, needs, kind: str = "", seeds="seeds", shows=None, **options) -> list[Step]:
    """A trained model and its evaluation, which `shows` something beside the summary."""
    made = _step(setting, name, make, needs, _USED[kind or name], seeds, **options)
    return [made, _evaluation(setting, name, seeds=seeds, **{"start": options.get("start", "base")} | (shows or {}))]


def _rewarded(setting: str, name: str, **options) -> list[Step]:
    """The base after GRPO on the reward of that name."""
    return _arm(setting, name, "group_relative", ("base",), reward=name, **options)


def _rlsf(setting: str, start: str, seeds: str = "seeds") -> list[Step]:
    """One round of feedback: the start's labels, a judge, RLOO."""
    own, traces = {"seeds": seeds, "start": start}, {"traces": True} if start == "base" else {}
    labels_, judge_ = f"labels_{start}", f"judge_{start}"
    return [
        _step(setting, labels_, "labels", (start,), _USED["labels"], trains=False, **own, **traces),
        _step(setting, judge_, "judge", (start, labels_), _USED["judge"], **own),
        *_arm(setting, f"rlsf_{start}", "policy", (start, judge_), "rlsf", **own),
    ]


def _half_trap() -> list[Step]:
    here, seeds = "half_trap", "first_seed"
    base_ = _arm(here, "base", "base", (), seeds=seeds, shows={"decoding": True})
    return [*base_, *_rewarded(here, "fluency", seeds=seeds), *_rlsf(here, "fluency", seeds)]


def _standard() -> list[Step]:
    here, few, fluency = "standard", {"seeds": "few_seeds"}, {"start": "fluency"}
    fitted, course = {"temperature": True}, {"trajectory": True}
    labelled_, judged = ("fluency", "labels_fluency"), ("fluency", "labels_fluency", "judge_fluency")
    ranked_ = partial(_arm, here, make="policy", needs=judged, kind="ranked", **fluency)
    long, longer = ("fluency", "judge_fluency"), {"steps": "long_steps", "snapshots": True, "shows": course}
    return [
        *_arm(here, "base", "base", (), shows={"decoding": True}),
        *_rewarded(here, "fluency"),
        *_arm(here, "assured", "assured", ("fluency",), shows=fitted | fluency),
        *_rewarded(here, "binary", shows=fitted),
        *_arm(here, "sharpened", "sharpened", ("base",), shows=fitted),
        *(step for start in ("fluency", "assured", "binary") for step in _rlsf(here, start)),
        *(step for start in ("base", "sharpened") for step in _rlsf(here, start, "few_seeds")),
        *ranked_("fluency_shuffled", ranking="shuffled", shuffle=1),
        *ranked_("fluency_shuffled_2", ranking="shuffled", shuffle=2, **few),
        *ranked_("fluency_gold", ranking="gold", **few),
        *_arm(here, "fluency_dpo", "direct_preferences", labelled_, "dpo", **few, **fluency),
        _step(here, "fluency_sft", "best_traces", labelled_, _USED["sft"], **few, **fluency),
        *(
            _evaluation(here, f"fluency_sft_{i}", arm="fluency_sft", model=f"model_{i}", **few, **fluency)
            for i in range(1, len(SFT_PARTS) + 1)
        ),
        *_arm(here, "fluency_rlsf_long", "policy", long, "long", **few, **fluency, **longer),
        *_rewarded(here, "online", shows=course, **few),
    ]


STEPS: dict[str, Step] = {step.key: step for step in (*_standard(), *_half_trap())}

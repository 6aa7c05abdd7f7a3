"""The steps of the annotators: pairs of the witnesses' base, what judges say, reward models, policies, evaluation.

A setting is a population of judges (`judges.SETTINGS`); the pairs are the same in all of them. An arm is a
way of making labels and weights from answers (`panels.make_arm`). A policy is the closed form base x exp(r / beta) over
the confidence tokens, at matched KL, or in `main` also the base trained on by RLOO against the reward model. A
completion is judged by u = y - b (q - y)^2 (genuine) or by a judge of the setting in frame + (production).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from candor.claims.annotation_noise import judges, panels, policies, response_types
from candor.claims.annotation_noise.panels import Pairs, Panel
from candor.claims.annotation_noise.policies import Asked, Evaluation, beta_for, opened, tilted
from candor.claims.annotation_noise.policies import confidences as confidences  # for the notebook
from candor.core.errors import CandorError
from candor.core.step import Context, Step
from candor.witnesses import world

KLS = (0.05, 0.15, 0.40)  # nats, at which arms are compared
BETAS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
FIXED_BETA = 0.3
POLICY_KL = 0.40  # of the closed form whose beta a policy is trained with


def _load(path):
    """A model and its tokenizer."""
    from candor.train import models

    models.quiet()
    model, tokenizer = models.load_decoder(path)
    return model.eval(), tokenizer


# --- What is asked: pairs of the base's completions --------------------------------------------------


def draw_pairs(model, n: int, rng: np.random.Generator) -> tuple[Pairs, int]:
    """`n` pairs drawn from the model at temperature 1, and how many were drawn: pairs of equal confidence are left out.

    Raises: `CandorError` where the model states nearly always the same.
    """
    found: list[Pairs] = []
    drawn = 0
    while sum(map(len, found)) < n:
        if drawn > 20 * n:
            raise CandorError("The base states nearly always the same confidence: train it longer.")
        questions = world.sample_questions(min(n, 24_000), rng)
        asked = Asked(model, questions, rng)
        tenths = np.stack([world.draw(asked.base[:, side], rng) for side in range(2)], 1)
        features = np.concatenate([asked.at[asked.place], asked.after[asked.place, tenths]], 2)
        exact = np.take_along_axis(world.posterior(questions), asked.answer, 1)
        pairs = Pairs(asked.answer, tenths, asked.answer == questions.guilty[:, None], exact, features)
        drawn += len(questions)
        found.append(pairs[tenths[:, 0] != tenths[:, 1]])
    whole = Pairs.joined(found)
    return whole[:n], round(drawn * n / len(whole))


def pairs(context: Context) -> dict[str, pd.DataFrame]:
    """Pairs of completions of the base; their features go to `pairs.npz`. Table `counts`, a row."""
    n = context.settings.pairs
    made, drawn = draw_pairs(_load(context.need("base").model)[0], n, panels.stream("pairs", context.seed))
    np.savez(context.folder / "pairs.npz", **made.__dict__)
    gaps = [made.posterior[:, 0] - made.posterior[:, 1], made.tenths[:, 0] - made.tenths[:, 1]]
    row = {
        "pairs": n,
        "discarded": 1 - n / drawn,
        "same_answer": (made.answer[:, 0] == made.answer[:, 1]).mean(),
        "both_wrong": (~made.right.any(1)).mean(),
        "one_right": (made.right[:, 0] != made.right[:, 1]).mean(),
        "gap_correlation": np.corrcoef(*gaps)[0, 1],
    }
    return {"counts": pd.DataFrame([row])}


def load_pairs(result) -> Pairs:
    """The pairs of a finished step."""
    with np.load(result.folder / "pairs.npz") as file:
        return Pairs(**{name: file[name] for name in Pairs.__dataclass_fields__})


# --- Who answers: types of judges, and what their answers tell of them --------------------------------


def identification(context: Context) -> dict[str, pd.DataFrame]:
    """Signatures and shares of 8,000 cells: the constrained EM, retests alone, StepMix.

    Tables: `flips` (type, condition, rate, exact, n), `shares` (a row a method and number of occasions), `bic`
    (classes, bic, log_likelihood), `assignment` (occasions, accuracy).
    """
    settings, rng = context.settings, panels.stream("cells", context.seed)
    setting = judges.SETTINGS["main"]
    pool = load_pairs(context.need("pairs"))
    chosen = pool[rng.choice(len(pool), settings.cells, replace=settings.cells > len(pool))]
    panel = panels.ask_panel(chosen.utility_gap(setting.b), setting, rng, waves=2)
    eight = panel.responses.reshape(-1, 8)
    fits = {("em", 4): response_types.em(panel.four), ("em", 8): response_types.em(eight, response_types.EIGHT)}
    hard = [{"occasions": k, "accuracy": (fit.types == panel.types).mean()} for (_, k), fit in fits.items()]
    retests = panel.responses[:, :, 0].reshape(-1, 4)
    for i, start in enumerate(response_types.STARTS, start=1):
        fits[f"retest_start{i}", 4] = response_types.retest_em(retests, start)
        fits[f"em_start{i}", 4] = response_types.em(panel.four, start=start)
    context.progress(1, 3)
    free = {classes: response_types.stepmix(eight, classes, seed=context.seed) for classes in (3, 4, 5)}
    context.progress(2, 3)
    fits["stepmix", 8] = free[4]
    fits["stepmix", 4] = response_types.stepmix(panel.four, 4, response_types.FOUR, seed=context.seed)
    shares = [
        {"method": method, "occasions": occasions, **_shares(fit, panel), "log_likelihood": fit.log_likelihood}
        | {"largest_error": np.abs(np.array(fit.shares) - panel.shares).max()}
        for (method, occasions), fit in fits.items()
    ]
    bic = [{"classes": k, "bic": fit.bic, "log_likelihood": fit.log_likelihood} for k, fit in free.items()]
    tables = {"shares": shares, "bic": bic, "assignment": hard}
    return {"flips": _flips(panel)} | {name: pd.DataFrame(rows) for name, rows in tables.items()}


def _shares(fit, panel: Panel) -> dict[str, float]:
    """The shares of the types as they were fitted and (`true_`) as they are."""
    true = {f"true_{name}": share for name, share in zip(judges.TYPES, panel.shares)}
    return dict(zip(judges.TYPES, fit.shares)) | true


def _flips(panel: Panel) -> pd.DataFrame:
    """Rates of flips by true type, beside the exact ones; each cell counts once, at its first pair of occasions."""
    table = judges.flip_rates().rename(columns={"rate": "exact"})
    r = panel.responses[:, 0]
    flipped = {"order": r[:, 0, 0] != r[:, 0, 1], "frame": r[:, 0, 0] != r[:, 1, 0]}
    cells = [flipped[when][panel.types == judges.TYPES.index(kind)] for kind, when in zip(table.type, table.condition)]
    table = table.assign(rate=[pd.Series(cell).mean() for cell in cells], n=[len(cell) for cell in cells])
    return table[["type", "condition", "rate", "exact", "n"]]


# --- What is rewarded: a reward model an arm -----------------------------------------------------------


def rewards(context: Context) -> dict[str, pd.DataFrame]:
    """The reward models of a setting's arms, and the closed-form policies that they make of the base."""
    from safetensors.torch import save_file

    settings, options, seed = context.settings, context.step.options, context.seed
    setting = judges.SETTINGS[options["setting"]]
    decoder, tokenizer = _load(context.need("base").model)
    evaluation = Evaluation(decoder, settings.eval_questions, settings.eval_seed)
    worth = evaluation.worth(setting)
    few = load_pairs(context.need("pairs"))
    panel = panels.ask_panel(few.utility_gap(setting.b), setting, panels.stream("annotators", seed))
    fit = response_types.em(panel.four)
    many, heads = None, {}
    gates, tilt, fans, curves = [], [], [], []

    def measured(arm: str, condition: str, beta: float, policy: np.ndarray) -> None:
        tilt.append({"arm": arm, "condition": condition, "beta": beta, **evaluation.measures(policy, worth)})
        if condition in ("base", "kl_0.15"):
            curves.append(evaluation.reliability(policy).assign(arm=arm))

    measured("base", "base", np.inf, evaluation.base)
    for done, name in enumerate(options["arms"], start=1):
        compared = few, panel
        if name.endswith("_4x"):
            compared = many = many or _many(decoder, few, setting, seed)
        arm = panels.make_arm(name, *compared, fit, setting, seed)
        reward_model, log = _reward_model(context, decoder, tokenizer, compared[0], arm)
        heads |= {f"{name}.{part}": tensor for part, tensor in reward_model.head_state().items()}
        reward = evaluation.rewards(reward_model)
        best = log["heldout_loss"].idxmin()
        row = {"arm": name, **evaluation.gate(reward, setting.b), "heldout_loss": log["heldout_loss"][best]}
        gates.append(row | {"epochs": int(log["epoch"][best]), "pairs": len(arm.index), "labels": arm.labels})
        wanted = {f"kl_{kl:.2f}": beta_for(evaluation.base, reward, kl) for kl in KLS}
        for condition, beta in (wanted | {f"beta_{beta}": beta for beta in BETAS}).items():
            measured(name, condition, beta, tilted(evaluation.base, reward, beta))
        fans.append(evaluation.fan(reward).assign(arm=name))
        context.progress(done, len(options["arms"]))
    save_file(heads, str(context.folder / "heads.safetensors"))
    shares = _shares(fit, panel) | {"lapse": fit.lapse, "bias": fit.bias}
    tables = {"gate": pd.DataFrame(gates), "tilt": pd.DataFrame(tilt), "shares": pd.DataFrame([shares])}
    if options.get("shown"):
        tables |= {"fan": pd.concat(fans, ignore_index=True), "reliability": pd.concat(curves, ignore_index=True)}
    return tables


def _reward_model(context: Context, decoder, tokenizer, compared: Pairs, arm: panels.Arm):
    """A reward model of an arm's comparisons, and its log."""
    from candor.train.reward_model import two_positions

    settings = context.settings
    told = {
        "seed": context.seed,
        "num_train_epochs": settings.reward_epochs,
        "per_device_train_batch_size": settings.reward_batch,
        "learning_rate": settings.reward_lr,
        "weight_decay": settings.reward_decay,
    }
    return two_positions(decoder, tokenizer, compared.features[arm.index], arm.label, arm.weight, told)


def _many(decoder, few: Pairs, setting: judges.Setting, seed: int) -> tuple[Pairs, Panel]:
    """Four times as many pairs, the first quarter the same, with one cell each."""
    more, _ = draw_pairs(decoder, 3 * len(few), panels.stream("many_pairs", seed))
    # The last pairs choose the epoch: without a new order they would all be new ones.
    rng = panels.stream("many_annotators", seed)
    pairs = Pairs.joined([few, more])[rng.permutation(4 * len(few))]
    return pairs, panels.ask_panel(pairs.utility_gap(setting.b), setting, rng)


def load_reward(decoder, result, arm: str):
    """The reward model of an arm, from a finished `rewards` step."""
    from safetensors.torch import load_file

    from candor.train.reward_model import TwoPositionReward

    state = load_file(str(result.folder / "heads.safetensors"))
    own = {key.removeprefix(f"{arm}."): tensor for key, tensor in state.items() if key.startswith(f"{arm}.")}
    return TwoPositionReward(decoder).load_head(own)


# --- Trained policies --------------------------------------------------------------------------------


def stated(prompt: str, completion: str) -> str | None:
    """Prompt and completion up to and with the confidence token; None unless an answer and a confidence are stated.

    A confidence without an answer is no completion: a reward model has never seen one and may love it.

    >>> stated("Q ? <answer>", " A3 </answer> <confidence> c7 </confidence>")
    'Q ? <answer> A3 </answer> <confidence> c7'
    >>> stated("Q ? <answer> A3 </answer> <confidence>", "c10"), stated("Q ? <answer>", "c7")
    ('Q ? <answer> A3 </answer> <confidence> c10', None)
    """
    text = f"{prompt} {completion.strip()}"  # without the space the seam would become one unknown word
    match = re.match(r".* \? <answer> A[0-7] </answer> <confidence> c(?:10|\d)(?!\S)", text)
    return match[0] if match else None


def reward_of(reward_model, tokenizer, beta: float) -> Callable[..., list[float]]:
    """A TRL reward: the model's reward over `beta` of the text that `stated` returns.

    Malformed completions get the batch's minimum minus 1.
    """
    import torch

    from candor.train.sharing import left_pad

    def model_reward(prompts: Sequence[str], completions: Sequence[str], **_) -> list[float]:
        texts = [stated(p, c) for p, c in zip(prompts, completions)]
        different = sorted({text for text in texts if text})
        if not different:
            return [0.0] * len(texts)
        tokens, mask = left_pad(tokenizer(different)["input_ids"], tokenizer.pad_token_id, "cpu")
        with torch.no_grad():
            scores = reward_model(input_ids=tokens, attention_mask=mask).logits.squeeze(-1) / beta
        by_text = dict(zip(different, scores.tolist()))
        malformed = min(by_text.values()) - 1
        return [by_text[text] if text else malformed for text in texts]

    return model_reward


def policy(context: Context) -> dict[str, pd.DataFrame]:
    """The base, trained on by RLOO against an arm's reward model; the answer is given, or part of the completion."""
    from datasets import Dataset

    from candor.train.policy import rloo
    from candor.witnesses.joint import ask

    settings, options = context.settings, context.step.options
    start, full = context.need("base").model, options["task"] == "full"
    decoder, _ = _load(start)
    reward_model = load_reward(decoder, context.need("rewards"), options["arm"])
    beta = options.get("beta") or _beta_of(context, options["arm"])
    rng = panels.stream("policy", context.seed)
    questions = world.sample_questions(settings.rloo_steps * settings.rloo_prompts, rng)
    if full:
        rows = world.prompt_tokens(questions)
    else:
        rows = opened(questions, world.draw(ask(decoder, questions, states=False).answers, rng))
    model, tokenizer = _load(start)
    log = rloo(
        model,
        tokenizer,
        Dataset.from_dict({"prompt": [world.text(row) for row in rows]}),
        reward_of(reward_model, tokenizer, beta),
        {
            "seed": context.seed,
            "max_steps": settings.rloo_steps,
            "per_device_train_batch_size": settings.rloo_prompts * settings.num_generations,
            "num_generations": settings.num_generations,
            "max_completion_length": 4 if full else 1,
            "learning_rate": settings.rloo_lr,
        },
        snapshots=context.folder / "snapshots" if options.get("snapshots") else None,
        snapshot_every=settings.snapshot_every,
        progress=context.progress,
        save=context.folder / "model",
    )
    return {"log": log.assign(beta=beta)}


def _beta_of(context: Context, arm: str) -> float:
    """The beta at which the closed form of the arm is `POLICY_KL` away from the base."""
    tilt = context.need("rewards").table("tilt").set_index(["arm", "condition"])
    return float(tilt["beta"][arm, f"kl_{POLICY_KL:.2f}"])


# --- What is measured ---------------------------------------------------------------------------------


def evaluate_policy(context: Context) -> dict[str, pd.DataFrame]:
    """The measures of a trained policy, beside the base's and the closed form's at the same KL.

    Where the course was saved, the policy is the last snapshot whose KL lies in `policies.POLICY_BAND`.
    """
    from safetensors.torch import load_model

    settings, options, setting = context.settings, context.step.options, judges.SETTINGS["main"]
    (base, _), trained = _load(context.need("base").model), context.need(options["policy"])
    (model, _), log = _load(trained.model), trained.table("log")
    betas = {"beta": log["beta"].iloc[0]}
    reward_model = load_reward(base, context.need("rewards"), options["arm"])
    if options["task"] == "full":
        return {"summary": pd.DataFrame([_evaluate_full(base, model, reward_model, setting, settings, betas)])}
    tables, step = {}, int(log["step"].iloc[-1])
    if options.get("trajectory"):
        course = _trajectory(context, base, trained.folder / "snapshots", setting)
        step = policies.last_within(course)
        load_model(model, str(trained.folder / "snapshots" / f"step_{step:06d}.safetensors"))
        tables["trajectory"] = course
    context.progress(1, 2)
    evaluation = Evaluation(base, settings.eval_questions, settings.eval_seed)
    worth, start, now = evaluation.worth(setting), evaluation.base, evaluation.policy_of(model)
    row = {"step": step} | evaluation.measures(now, worth) | _named("{}_before", evaluation.measures(start, worth))
    closed, betas["closed_beta"] = _closed(start, evaluation.rewards(reward_model), row["kl"])
    row |= _named("closed_{}", evaluation.measures(closed, worth)) | betas
    curves = [evaluation.reliability(now).assign(policy=name) for name, now in (("base", start), ("policy", now))]
    tables["summary"] = pd.DataFrame([row])
    return tables | {"reliability": pd.concat(curves, ignore_index=True)}


def _closed(base: np.ndarray, reward: np.ndarray, kl: float) -> tuple[np.ndarray, float]:
    """The closed form at that KL, and its beta."""
    beta = beta_for(base, reward, kl) if kl > 1e-6 else np.inf
    return tilted(base, reward, beta), beta


def _named(pattern: str, row: dict[str, float]) -> dict[str, float]:
    return {pattern.format(name): value for name, value in row.items()}


def _trajectory(context: Context, base, folder, setting: judges.Setting) -> pd.DataFrame:
    """The course of training: the base, every snapshot, a row each."""
    from safetensors.torch import load_model

    evaluation = Evaluation(base, context.settings.trajectory_questions, context.settings.eval_seed)
    worth = evaluation.worth(setting)
    rows = [{"step": 0} | evaluation.measures(evaluation.base, worth)]
    model, _ = _load(context.need("base").model)
    for path in sorted(folder.glob("step_*.safetensors")):
        load_model(model, str(path))
        step = int(path.stem.removeprefix("step_"))
        rows.append({"step": step} | evaluation.measures(evaluation.policy_of(model), worth))
    return pd.DataFrame(rows)


def _evaluate_full(base, model, reward_model, setting, settings, betas) -> dict[str, float]:
    """The row of a policy that also chooses the answer."""
    from candor.train.reward_model import states
    from candor.witnesses.evaluation import questions_and_posterior
    from candor.witnesses.joint import ask

    questions, exact = questions_and_posterior(settings.eval_questions, settings.eval_seed)
    before, after = (_joint(ask(m, questions)) for m in (base, model))
    row = policies.full_measures(after, before, exact, setting)
    row |= _named("{}_before", policies.full_measures(before, before, exact, setting))
    # The closed form needs the reward of all 88 completions: on fewer questions.
    n = min(settings.trajectory_questions, len(questions))
    few, exact, before = questions[:n], exact[:n], before[:n]
    texts = [text for a in range(world.SUSPECTS) for text in opened(few, np.full(n, a))]
    at, behind, place = states(base, texts, world.CONFIDENCE_IDS)
    reward = reward_model.score(at, behind)[place].reshape(world.SUSPECTS, n, 11).swapaxes(0, 1)
    closed, betas["closed_beta"] = _closed(before.reshape(n, -1), reward.reshape(n, -1), row["kl"])
    closed = policies.full_measures(closed.reshape(before.shape), before, exact, setting)
    return row | _named("closed_{}", closed) | betas


def _joint(joint) -> np.ndarray:
    given = joint.confidence / joint.confidence.sum(2, keepdims=True)
    return joint.answers[:, :, None] * given.astype(float)


# --- The steps: pairs, reward models of every population, trained policies ---------------------------

_BASE, _PAIRS, _REWARDS = "witnesses/expert/base", "annotators/main/pairs", "annotators/main/rewards"
_REWARD = ("reward_epochs", "reward_batch", "reward_lr", "reward_decay", "eval_questions", "eval_seed")
_POLICY = ("rloo_steps", "rloo_prompts", "num_generations", "rloo_lr", "snapshot_every")
_EVALUATION = ("eval_questions", "eval_seed", "trajectory_questions")
_REPAIRS = ("naive", "rdpo", "weight", "frbal", "frrand", "oracle")
_FILTERS = tuple(f"filter_{kind}_{share}" for kind in ("retest", "frame", "random") for share in (20, 50))

# setting -> its arms.
ARMS: dict[str, tuple[str, ...]] = {
    "main": (
        *("naive", "naive_4x", "rdpo", "retest", "dropN", "dropNC", "weight", "frbal", "frrand", "frrand_4x"),
        *("dawid_skene", "oracle"),
    ),
    "noise_only": _REPAIRS,
    "quarter_noise": ("naive",),
    "all_genuine": (*_REPAIRS, "retest", "dropN"),
    "dead_frame": _REPAIRS,
    "style_lovers": _REPAIRS,
    "one_type": ("naive", "weight", *_FILTERS, "dawid_skene", "oracle"),
    "strong": _REPAIRS,
    "half_frame": _REPAIRS,
    "no_penalty": _REPAIRS,
}
_FEW = ("strong", "half_frame", "no_penalty")

# policy -> the arm that it is trained on, and what is its own.
_POLICIES: dict[str, dict] = {
    "naive": {"arm": "naive", "trajectory": True},
    "weight": {"arm": "weight", "trajectory": True},
    "oracle": {"arm": "oracle", "seeds": "few_seeds"},
    "naive_full": {"arm": "naive", "task": "full", "seeds": "few_seeds"},
    "weight_full": {"arm": "weight", "task": "full", "seeds": "few_seeds"},
    "naive_beta": {"arm": "naive", "beta": FIXED_BETA, "seeds": "few_seeds"},
    "weight_beta": {"arm": "weight", "beta": FIXED_BETA, "seeds": "few_seeds"},
}


def _step(name: str, make: str, needs, settings, **given) -> Step:
    make = f"candor.claims.annotation_noise.run:{make}"
    return Step(f"annotators/{name}", make, needs=needs, settings=settings, **given)


def _policy(name: str, arm: str, task="confidence", seeds="seeds", trajectory=False, **beta: float) -> list[Step]:
    """A trained policy and its evaluation; `trajectory`: its course is kept."""
    shared, snapshots = {"arm": arm, "task": task}, {"snapshots": True} if trajectory else {}
    asked, needs = shared | {"policy": f"policy_{name}"}, (_BASE, _REWARDS)
    course, own = {"trajectory": True} if trajectory else {}, f"main/policy_{name}"
    evaluated = (*needs, f"annotators/{own}")
    return [
        _step(own, "policy", needs, _POLICY, options={**shared, **beta, **snapshots}, seeds=seeds, trains=True),
        _step(
            f"main/eval_policy_{name}", "evaluate_policy", evaluated, _EVALUATION, options=asked | course, seeds=seeds
        ),
    ]


def _rewards(setting: str, arms: tuple[str, ...]) -> Step:
    options = {"setting": setting, "arms": arms, **({"shown": True} if setting == "main" else {})}
    seeds = "few_seeds" if setting in _FEW else "seeds"
    return _step(f"{setting}/rewards", "rewards", (_BASE, _PAIRS), _REWARD, options=options, seeds=seeds, trains=True)


_STEPS = (
    _step("main/pairs", "pairs", (_BASE,), ("pairs",)),
    _step("main/identification", "identification", (_PAIRS,), ("cells",)),
    *(_rewards(setting, arms) for setting, arms in ARMS.items()),
    *(step for name, given in _POLICIES.items() for step in _policy(name, **given)),
)
STEPS: dict[str, Step] = {step.key: step for step in _STEPS}

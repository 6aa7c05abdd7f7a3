"""The steps of the annotators: pairs of the witnesses' base, what judges say, reward models, policies, evaluation.

A setting is a population of judges (`judges.SETTINGS`); the pairs are the same in all of them. An arm is a
way of making labels and weights from answers. A policy is the closed form base x exp(r / beta) over the confidence
tokens, at matched KL, or in `main` also the base trained on by RLOO against the reward model. A completion is judged by
u = y - b (q - y)^2 (genuine) or by a judge of the setting in frame + (production).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from candor.claims.annotation_noise import judges, response_types
from candor.core.errors import CandorError
from candor.core.step import Context, Step
from candor.witnesses import world

TENTHS = np.arange(11) / 10
KLS = (0.05, 0.15, 0.40)  # nats, at which arms are compared
BETAS = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
FIXED_BETA = 0.3
POLICY_KL = 0.40  # of the closed form whose beta a policy is trained with
POLICY_BAND = (0.31, 0.44)  # nats, of the policies that are compared: within .30-.45 with room for fewer questions
BANDS = (0.0, 0.3, 0.55, 0.8, 1.0)  # of the posterior
LOW = 0.3  # posterior below which the slope on confidence is taken
LABELLERS = 5  # a pair, for truth inference
_PURPOSES = ("pairs", "annotators", "many_pairs", "many_annotators", "policy", "labellers", "cells")


def stream(name: str, seed: int) -> np.random.Generator:
    """The random stream of a purpose: none of them shares a draw with another or with `witnesses.stream`."""
    return np.random.default_rng([11 + _PURPOSES.index(name), seed])


# --- Pairs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """n pairs of completions of the base with different stated confidence, arrays [n, 2] over the two completions.

    `answer` (suspect), `tenths` (stated confidence, 0..10), `right`, `posterior` of the answer; `features` [n, 2, 2H]:
    the base's states at `<confidence>` and at the confidence token.
    """

    answer: np.ndarray
    tenths: np.ndarray
    right: np.ndarray
    posterior: np.ndarray
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.answer)

    def __getitem__(self, index) -> Pairs:
        return Pairs(*(part[index] for part in self.__dict__.values()))

    @property
    def more(self) -> np.ndarray:
        """Is the first completion the more confident one? [n]"""
        return self.tenths[:, 0] > self.tenths[:, 1]

    def utility_gap(self, b: float) -> np.ndarray:
        """Utility of the more confident completion minus that of the other, [n]."""
        u = judges.utility(self.right, TENTHS[self.tenths], b)
        return np.where(self.more, u[:, 0] - u[:, 1], u[:, 1] - u[:, 0])


def opened(questions: world.Questions, answers: np.ndarray) -> list[list[int]]:
    """The questions with an answer [n] and the opening tag of the confidence, as token ids."""
    tags = world.TOKEN["</answer>"], world.TOKEN["<confidence>"]
    return [[*row, world.ANSWER_IDS[a], *tags] for row, a in zip(world.prompt_tokens(questions), answers)]


def confidences(model, at: np.ndarray) -> np.ndarray:
    """P(confidence token) [..., 11] from the states at `<confidence>` [..., H]."""
    import torch
    from scipy.special import softmax

    with torch.no_grad():
        logits = model.lm_head(torch.as_tensor(at))[..., world.CONFIDENCE_IDS]
    return softmax(logits.double().numpy(), axis=-1)


def draw_pairs(model, n: int, rng: np.random.Generator) -> tuple[Pairs, int]:
    """`n` pairs drawn from the model at temperature 1, and how many were drawn: pairs of equal confidence are left out.

    Raises: `CandorError` where the model states nearly always the same.
    """
    from candor.train.reward_model import states
    from candor.witnesses.joint import ask

    found: list[Pairs] = []
    drawn = 0
    while sum(map(len, found)) < n:
        if drawn > 20 * n:
            raise CandorError("The base states nearly always the same confidence: train it longer.")
        questions = world.sample_questions(min(n, 24_000), rng)
        belief = ask(model, questions, states=False).answers
        answer = np.stack([world.draw(belief, rng) for _ in range(2)], 1)
        at, after, place = states(
            model, opened(questions, answer[:, 0]) + opened(questions, answer[:, 1]), world.CONFIDENCE_IDS
        )
        place = place.reshape(2, -1).T
        given = confidences(model, at)
        tenths = np.stack([world.draw(given[place[:, side]], rng) for side in range(2)], 1)
        features = np.concatenate([at[place], after[place, tenths]], 2)
        exact = np.take_along_axis(world.posterior(questions), answer, 1)
        pairs = Pairs(answer, tenths, answer == questions.guilty[:, None], exact, features)
        drawn += len(questions)
        found.append(pairs[tenths[:, 0] != tenths[:, 1]])
    parts = [np.concatenate([getattr(p, name) for p in found])[:n] for name in Pairs.__dataclass_fields__]
    kept = sum(map(len, found))
    return Pairs(*parts), round(drawn * n / kept)


def pairs(context: Context) -> dict[str, pd.DataFrame]:
    """Pairs of completions of the base; their features go to `pairs.npz`. Table `counts`, a row."""
    from candor.train import models

    models.quiet()
    model = models.load_decoder(context.need("base").model)[0].eval()
    n = context.settings.pairs
    made, drawn = draw_pairs(model, n, stream("pairs", context.seed))
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


# --- What the judges say --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One cell a pair. `responses` [n, waves, 2 frames, 2 orders]: chose the more confident completion?"""

    annotator: np.ndarray
    types: np.ndarray
    responses: np.ndarray
    frame: np.ndarray  # of the one label under a random frame: 0 or 1
    order: np.ndarray  # of the production label: 0 or 1

    @property
    def production(self) -> np.ndarray:
        """One label: frame +, random order."""
        return self.responses[np.arange(len(self.types)), 0, 0, self.order]

    @property
    def random_frame(self) -> np.ndarray:
        """One label: random frame, random order."""
        return self.responses[np.arange(len(self.types)), 0, self.frame, self.order]

    @property
    def four(self) -> np.ndarray:
        """The four occasions of the measurement design [n, 4], in the order of `response_types.FOUR`."""
        return self.responses[:, 0].reshape(-1, 4)


def ask_panel(gap: np.ndarray, setting: judges.Setting, rng: np.random.Generator, waves: int = 1) -> Panel:
    """A cell for each pair, given the utility `gap` [n] of the more confident completion."""
    n = len(gap)
    mixes = judges.draw_mixes(setting, rng)
    annotator = rng.integers(judges.ANNOTATORS, size=n)
    types = judges.draw_types(mixes, annotator, rng)
    responses = judges.respond(types, judges.draw_sides(gap, setting, rng), setting, rng, waves)
    return Panel(annotator, types, responses, rng.integers(2, size=n), rng.integers(2, size=n))


def inferred_truth(pairs: Pairs, setting: judges.Setting, rng: np.random.Generator) -> np.ndarray:
    """P(first preferred) [n] by Dawid and Skene from the production labels of five annotators a pair."""
    n = len(pairs)
    mixes = judges.draw_mixes(setting, rng)
    who = rng.random((n, judges.ANNOTATORS)).argpartition(LABELLERS, axis=1)[:, :LABELLERS]
    labels = np.empty((n, LABELLERS), bool)
    gap = pairs.utility_gap(setting.b)
    for k in range(LABELLERS):
        types = judges.draw_types(mixes, who[:, k], rng)
        said = judges.respond(types, judges.draw_sides(gap, setting, rng), setting, rng)[:, 0, 0]
        labels[:, k] = said[np.arange(n), rng.integers(2, size=n)] == pairs.more
    return response_types.dawid_skene(labels, who)[0]


@dataclass(frozen=True)
class Arm:
    """Comparisons to learn from: which pairs, P(first preferred), weights, and how many labels they took."""

    index: np.ndarray
    label: np.ndarray
    weight: np.ndarray
    labels: int


def inconsistency(panel: Panel, across: bool) -> np.ndarray:
    """Share of flips of every annotator: between frames in the same order, or between orders in the same frame."""
    r = panel.responses[:, 0]
    flips = (r[:, 0] != r[:, 1]).mean(1) if across else (r[:, :, 0] != r[:, :, 1]).mean(1)
    n = np.bincount(panel.annotator, minlength=judges.ANNOTATORS)
    return np.bincount(panel.annotator, flips, judges.ANNOTATORS) / np.maximum(n, 1)


def make_arm(name: str, pairs: Pairs, panel: Panel, fit: response_types.Fit, setting, seed: int) -> Arm:
    """The comparisons of an arm; nothing but the answers enters, save for `oracle`."""
    n = len(pairs)
    everything, ones = np.arange(n), np.ones(n)

    def first(chose_more: np.ndarray) -> np.ndarray:  # from "the more confident one" to "the first one"
        return np.where(pairs.more, chose_more, 1 - chose_more.astype(float)).astype(float)

    production = first(panel.production)
    if name in ("naive", "naive_4x"):
        return Arm(everything, production, ones, n)
    if name == "rdpo":
        flip = fit.shares[1] / 2
        return Arm(everything, (production - flip) / (1 - 2 * flip), ones, n)
    if name == "retest":
        return Arm(everything, first(panel.responses[:, 0, 0].mean(1)), ones, 2 * n)
    if name in ("dropN", "dropNC"):
        types = fit.types
        kept = np.flatnonzero(types != judges.NON_ATTITUDE if name == "dropN" else types == judges.GENUINE)
        return Arm(kept, production[kept], ones[kept], 4 * n)
    if name == "weight":
        belief = fit.responsibilities
        if setting.one_type:
            belief = response_types.by_annotator(fit, panel.four, panel.annotator)
        return Arm(everything, production, belief[:, judges.GENUINE], 4 * n)
    if name == "frbal":
        return Arm(everything, first(panel.four.mean(1)), ones, 4 * n)
    if name in ("frrand", "frrand_4x"):
        return Arm(everything, first(panel.random_frame), ones, n)
    if name == "dawid_skene":
        return Arm(everything, inferred_truth(pairs, setting, stream("labellers", seed)), ones, LABELLERS * n)
    if name == "oracle":
        kept = np.flatnonzero(panel.types == judges.GENUINE)
        return Arm(kept, production[kept], ones[kept], n)
    _, kind, percent = name.split("_")
    rng = stream("labellers", seed)
    scores = rng.random(judges.ANNOTATORS) if kind == "random" else inconsistency(panel, kind == "frame")
    out = np.argsort(-scores, kind="stable")[: round(judges.ANNOTATORS * int(percent) / 100)]
    kept = np.flatnonzero(~np.isin(panel.annotator, out))
    return Arm(kept, production[kept], ones[kept], 4 * n)


def identification(context: Context) -> dict[str, pd.DataFrame]:
    """Signatures and shares of 8,000 cells: the constrained EM, retests alone, StepMix.

    Tables: `flips` (type, condition, rate, exact, n), `shares` (a row a method and number of occasions), `bic`
    (classes, bic, log_likelihood), `assignment` (occasions, accuracy).
    """
    settings, rng = context.settings, stream("cells", context.seed)
    setting = judges.SETTINGS["main"]
    pool = load_pairs(context.need("pairs"))
    chosen = pool[rng.choice(len(pool), settings.cells, replace=settings.cells > len(pool))]
    panel = ask_panel(chosen.utility_gap(setting.b), setting, rng, waves=2)
    true = np.bincount(panel.types, minlength=3) / len(panel.types)
    eight = panel.responses.reshape(-1, 8)
    fits = {("em", 4): response_types.em(panel.four), ("em", 8): response_types.em(eight, response_types.EIGHT)}
    hard = [{"occasions": k, "accuracy": (fit.types == panel.types).mean()} for (_, k), fit in fits.items()]
    retests = panel.responses[:, :, 0].reshape(-1, 4)
    for i, start in enumerate(response_types.STARTS, start=1):
        fits[f"retest_start{i}", 4] = response_types.retest_em(retests, start)
        fits[f"em_start{i}", 4] = response_types.em(panel.four, start=start)
    context.progress(1, 3)
    bic = []
    for classes in (3, 4, 5):
        free = response_types.stepmix(eight, classes, seed=context.seed)
        bic.append({"classes": classes, "bic": free.bic, "log_likelihood": free.log_likelihood})
        if classes == 4:
            fits["stepmix", 8] = free
    context.progress(2, 3)
    fits["stepmix", 4] = response_types.stepmix(panel.four, 4, response_types.FOUR, seed=context.seed)
    shares = [
        {"method": method, "occasions": occasions}
        | dict(zip(judges.TYPES, fit.shares))
        | {f"true_{name}": share for name, share in zip(judges.TYPES, true)}
        | {"log_likelihood": fit.log_likelihood, "largest_error": np.abs(np.array(fit.shares) - true).max()}
        for (method, occasions), fit in fits.items()
    ]
    return {
        "flips": _flips(panel),
        "shares": pd.DataFrame(shares),
        "bic": pd.DataFrame(bic),
        "assignment": pd.DataFrame(hard),
    }


def _flips(panel: Panel) -> pd.DataFrame:
    """Rates of flips by true type, beside the exact ones; each cell counts once, at its first pair of occasions."""
    table = judges.flip_rates().rename(columns={"rate": "exact"})
    r = panel.responses[:, 0]
    flipped = {"order": r[:, 0, 0] != r[:, 0, 1], "frame": r[:, 0, 0] != r[:, 1, 0]}
    rows = []
    for kind, when in zip(table["type"], table["condition"]):
        of_type = panel.types == judges.TYPES.index(kind)
        rows.append((flipped[when][of_type].mean() if of_type.any() else np.nan, int(of_type.sum())))
    rate, n = zip(*rows)
    return table.assign(rate=rate, n=n)[["type", "condition", "rate", "exact", "n"]]


# --- Policies and their measures ------------------------------------------------------------------------


def tilted(base: np.ndarray, reward: np.ndarray, beta: float) -> np.ndarray:
    """base x exp(reward / beta), normalised over the last axis."""
    logits = reward / beta
    weights = base * np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def kl_of(policy: np.ndarray, base: np.ndarray) -> float:
    """Mean KL divergence from the base, nats, over the last axis."""
    ratio = np.log(np.maximum(policy, 1e-300)) - np.log(np.maximum(base, 1e-300))
    return float(np.where(policy > 0, policy * ratio, 0).sum(-1).mean())


def beta_for(base: np.ndarray, reward: np.ndarray, kl: float) -> float:
    """The beta at which the tilted base is `kl` nats away: KL falls with beta, so by bisection.

    Raises: `CandorError` where no beta gets that far.
    """
    from scipy.optimize import brentq

    spread = float(np.ptp(reward, axis=-1).mean())
    low, high = np.log(max(spread, 1e-12)) - 8, np.log(max(spread, 1e-12)) + 8

    def excess(log_beta: float) -> float:
        return kl_of(tilted(base, reward, float(np.exp(log_beta))), base) - kl

    if excess(low) < 0 or excess(high) > 0:
        raise CandorError(f"No beta tilts the base by {kl} nats: the reward model is nearly constant.")
    return float(np.exp(brentq(excess, low, high, xtol=1e-4)))


def ece_of(policy: np.ndarray, exact: np.ndarray) -> float:
    """ECE of drawn confidence tokens, one bin a token: `policy` [..., 11], `exact` [...] P(the answer is right)."""
    gaps = (policy * (exact[..., None] - TENTHS)).reshape(-1, 11).sum(0)
    return float(np.abs(gaps).sum() / exact.size)


class Evaluation:
    """The common questions, two answers each drawn from the base, and what the base and judges say about them.

    Everything is an exact expectation over confidence tokens, and over the truth by the posterior. A policy meets the
    base on the two answers in turn, so that the base against itself wins exactly half. Arrays are [n, 2, 11] over the
    drawn answers and the confidence tokens.
    """

    def __init__(self, model, n: int, seed: int):
        from candor.train.reward_model import states
        from candor.witnesses.evaluation import questions_and_posterior
        from candor.witnesses.joint import ask

        questions, exact = questions_and_posterior(n, seed)
        belief = ask(model, questions, states=False).answers
        rng = np.random.default_rng(seed)
        self.answer = np.stack([world.draw(belief, rng) for _ in range(2)], 1)
        self.exact = np.take_along_axis(exact, self.answer, 1)
        self.rows = opened(questions, self.answer[:, 0]) + opened(questions, self.answer[:, 1])
        self.at, self.after, place = states(model, self.rows, world.CONFIDENCE_IDS)
        self.place = place.reshape(2, n).T
        self.base = confidences(model, self.at)[self.place]

    def rewards(self, reward_model) -> np.ndarray:
        """Rewards of every confidence token, [n, 2, 11]."""
        return reward_model.score(self.at, self.after)[self.place]

    def policy_of(self, model) -> np.ndarray:
        """What another model states given the same answers, [n, 2, 11]."""
        from candor.train.reward_model import states

        at, _, place = states(model, self.rows, ())
        return confidences(model, at)[place].reshape(2, -1, 11).swapaxes(0, 1)

    def worth(self, setting: judges.Setting) -> tuple[np.ndarray, np.ndarray]:
        """P(preferred to the base's completion) of each token of the other answer, [n, 2, 11]: genuine, production."""
        p, other = self.exact, self.exact[:, ::-1]
        same = (self.answer[:, 0] == self.answer[:, 1])[:, None]
        both = np.where(same, p, 0.0)  # right, right; different answers exclude each other
        chances = {(1, 1): both, (1, 0): p - both, (0, 1): other - both, (0, 0): 1 - p - other + both}
        against = self.base[:, ::-1]
        worth = []
        for table in judged(setting):
            parts = [chance[..., None] * (against @ table[y, :, z].T) for (y, z), chance in chances.items()]
            worth.append(sum(parts))
        return worth[0], worth[1]

    def measures(self, policy: np.ndarray, worth: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
        """KL, ECE, Brier, mean confidence, accuracy, and both wins against the base."""
        p = self.exact[..., None]
        wins = {f"win_{who}": (policy * w).sum(-1).mean() for who, w in zip(("genuine", "production"), worth)}
        return {
            "kl": kl_of(policy, self.base),
            "ece": ece_of(policy, self.exact),
            "brier": (policy * (p * (1 - TENTHS) ** 2 + (1 - p) * TENTHS**2)).sum(-1).mean(),
            "confidence": (policy @ TENTHS).mean(),
            "accuracy": self.exact.mean(),
            **wins,
        }

    def reliability(self, policy: np.ndarray) -> pd.DataFrame:
        """A row a confidence token: confidence, n (expected, of the questions), stated, accuracy."""
        mass = policy.reshape(-1, 11).sum(0)
        right = (policy * self.exact[..., None]).reshape(-1, 11).sum(0)
        accuracy = np.divide(right, mass, out=np.full(11, np.nan), where=mass > 0)
        return pd.DataFrame({"confidence": np.arange(11), "n": mass / 2, "stated": TENTHS, "accuracy": accuracy})

    def gate(self, reward: np.ndarray, b: float) -> dict[str, float]:
        """What a reward model has learnt.

        posterior_correlation: of reward and posterior over the questions when all state the same token, mean over the
        tokens, each counting as often as the base states it. stated_correlation: the same when a question also counts
        by how likely the base states that token there; smaller, for a calibrated base states one token at few
        posteriors. confidence_slope: of the reward on stated confidence with the posterior held fixed, where the
        posterior is below .3. quality_slope: on the expected utility. The slopes weigh by what the base states.
        """
        p = np.broadcast_to(self.exact[..., None], reward.shape)
        q = np.broadcast_to(TENTHS, reward.shape)
        used = self.base.reshape(-1, 11).sum(0)
        ones = np.ones_like(self.exact)
        correlations = {
            name: [np.nan_to_num(_correlation(reward[..., k], self.exact, w(k))) for k in range(11)]
            for name, w in (("posterior", lambda k: ones), ("stated", lambda k: self.base[..., k]))
        }
        low = p < LOW
        quality = p - b * (p * (1 - q) ** 2 + (1 - p) * q**2)
        return {
            **{f"{name}_correlation": float(np.average(each, weights=used)) for name, each in correlations.items()},
            "confidence_slope": _slopes([q[low], p[low]], reward[low], self.base[low])[0],
            "quality_slope": _slopes([quality], reward, self.base)[0],
        }

    def fan(self, reward: np.ndarray) -> pd.DataFrame:
        """Mean reward by band of the posterior and confidence token, around the mean of what the base states."""
        centred = reward - (reward * self.base).sum() / self.base.sum()
        band = np.clip(np.digitize(self.exact, BANDS) - 1, 0, len(BANDS) - 2)
        rows = []
        for k in range(len(BANDS) - 1):
            mean = centred[band == k].mean(0) if (band == k).any() else np.full(11, np.nan)
            name = f"{BANDS[k]:.2f}-{BANDS[k + 1]:.2f}"
            rows += [{"band": name, "confidence": t, "reward": r} for t, r in zip(TENTHS, mean)]
        return pd.DataFrame(rows)


def judged(setting: judges.Setting) -> tuple[np.ndarray, np.ndarray]:
    """P(a completion is preferred to another) [2, 11, 2, 11] over right and token of each: genuine, production."""
    u = judges.utility(np.array([[0], [1]]), TENTHS, setting.b)
    q = np.broadcast_to(TENTHS, u.shape)
    return judges.preferences(u[:, :, None, None] - u, q[:, :, None, None] - q, setting)


def _correlation(x, y, weight) -> float:
    cov = np.cov(x.ravel(), y.ravel(), aweights=weight.ravel())
    return cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]) if cov[0, 0] * cov[1, 1] > 0 else np.nan


def _slopes(x: list[np.ndarray], y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Coefficients of a weighted least-squares fit with an intercept."""
    design = np.stack([np.ones(y.size), *(part.ravel() for part in x)], 1)
    w = np.sqrt(weight.ravel())
    return np.linalg.lstsq(design * w[:, None], y.ravel() * w, rcond=None)[0][1:]


# --- Reward models ----------------------------------------------------------------------------------------


def rewards(context: Context) -> dict[str, pd.DataFrame]:
    """The reward models of a setting's arms, and the closed-form policies that they make of the base."""
    from safetensors.torch import save_file

    from candor.train import models
    from candor.train.reward_model import two_positions

    models.quiet()
    settings, options, seed = context.settings, context.step.options, context.seed
    setting = judges.SETTINGS[options["setting"]]
    decoder, tokenizer = models.load_decoder(context.need("base").model)
    decoder.eval()
    evaluation = Evaluation(decoder, settings.eval_questions, settings.eval_seed)
    worth = evaluation.worth(setting)
    few = load_pairs(context.need("pairs"))
    panel = ask_panel(few.utility_gap(setting.b), setting, stream("annotators", seed))
    fit = response_types.em(panel.four)
    many = None
    tilt, gates, fans, heads = [{"arm": "base", "condition": "base", "beta": np.inf}], [], [], {}
    tilt[0] |= evaluation.measures(evaluation.base, worth)
    reliability = [evaluation.reliability(evaluation.base).assign(arm="base")]
    for done, name in enumerate(options["arms"]):
        compared, said = few, panel
        if name.endswith("_4x"):
            many = many or _many(decoder, few, setting, seed)
            compared, said = many
        arm = make_arm(name, compared, said, fit, setting, seed)
        reward_model, log = two_positions(
            decoder,
            tokenizer,
            compared.features[arm.index],
            arm.label,
            arm.weight,
            {
                "seed": seed,
                "num_train_epochs": settings.reward_epochs,
                "per_device_train_batch_size": settings.reward_batch,
                "learning_rate": settings.reward_lr,
                "weight_decay": settings.reward_decay,
            },
        )
        heads |= {f"{name}.{part}": tensor for part, tensor in reward_model.head_state().items()}
        reward = evaluation.rewards(reward_model)
        best = log["heldout_loss"].idxmin()
        row = {"arm": name, **evaluation.gate(reward, setting.b), "heldout_loss": log["heldout_loss"][best]}
        gates.append(row | {"epochs": int(log["epoch"][best]), "pairs": len(arm.index), "labels": arm.labels})
        wanted = {f"kl_{kl:.2f}": beta_for(evaluation.base, reward, kl) for kl in KLS}
        for condition, beta in (wanted | {f"beta_{beta}": beta for beta in BETAS}).items():
            policy = tilted(evaluation.base, reward, beta)
            tilt.append({"arm": name, "condition": condition, "beta": beta, **evaluation.measures(policy, worth)})
            if condition == "kl_0.15":
                reliability.append(evaluation.reliability(policy).assign(arm=name))
        fans.append(evaluation.fan(reward).assign(arm=name))
        context.progress(done + 1, len(options["arms"]))
    save_file(heads, str(context.folder / "heads.safetensors"))
    true = np.bincount(panel.types, minlength=3) / len(panel.types)
    shares = dict(zip(judges.TYPES, fit.shares)) | {f"true_{name}": x for name, x in zip(judges.TYPES, true)}
    tables = {"gate": pd.DataFrame(gates), "tilt": pd.DataFrame(tilt)}
    tables["shares"] = pd.DataFrame([shares | {"lapse": fit.lapse, "bias": fit.bias}])
    if options.get("shown"):
        tables |= {"fan": pd.concat(fans, ignore_index=True), "reliability": pd.concat(reliability, ignore_index=True)}
    return tables


def _many(decoder, few: Pairs, setting: judges.Setting, seed: int) -> tuple[Pairs, Panel]:
    """Four times as many pairs, the first quarter the same, with one cell each."""
    more, _ = draw_pairs(decoder, 3 * len(few), stream("many_pairs", seed))
    parts = [np.concatenate([getattr(few, name), getattr(more, name)]) for name in Pairs.__dataclass_fields__]
    # The last pairs choose the epoch: without a new order they would all be new ones.
    rng = stream("many_annotators", seed)
    pairs = Pairs(*parts)[rng.permutation(4 * len(few))]
    return pairs, ask_panel(pairs.utility_gap(setting.b), setting, rng)


def load_reward(decoder, result, arm: str):
    """The reward model of an arm, from a finished `rewards` step."""
    from safetensors.torch import load_file

    from candor.train.reward_model import TwoPositionReward

    state = load_file(str(result.folder / "heads.safetensors"))
    own = {key.removeprefix(f"{arm}."): tensor for key, tensor in state.items() if key.startswith(f"{arm}.")}
    return TwoPositionReward(decoder).load_head(own)


# --- Trained policies ---------------------------------------------------------------------------------------


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

    from candor.train import models
    from candor.train.policy import rloo

    models.quiet()
    settings, options, seed = context.settings, context.step.options, context.seed
    start = context.need("base").model
    decoder, tokenizer = models.load_decoder(start)
    decoder.eval()
    reward_model = load_reward(decoder, context.need("rewards"), options["arm"])
    beta = options.get("beta") or _beta_of(context, options["arm"])
    rng = stream("policy", seed)
    questions = world.sample_questions(settings.rloo_steps * settings.rloo_prompts, rng)
    if options["task"] == "full":
        rows = world.prompt_tokens(questions)
    else:
        from candor.witnesses.joint import ask

        rows = opened(questions, world.draw(ask(decoder, questions, states=False).answers, rng))
    model, _ = models.load_decoder(start)
    log = rloo(
        model,
        tokenizer,
        Dataset.from_dict({"prompt": [world.text(row) for row in rows]}),
        reward_of(reward_model, tokenizer, beta),
        {
            "seed": seed,
            "max_steps": settings.rloo_steps,
            "per_device_train_batch_size": settings.rloo_prompts * settings.num_generations,
            "num_generations": settings.num_generations,
            "max_completion_length": 4 if options["task"] == "full" else 1,
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
    tilt = context.need("rewards").table("tilt")
    return float(tilt.loc[(tilt["arm"] == arm) & (tilt["condition"] == f"kl_{POLICY_KL:.2f}"), "beta"].iloc[0])


def evaluate_policy(context: Context) -> dict[str, pd.DataFrame]:
    """The measures of a trained policy, beside the base's and the closed form's at the same KL.

    Where the course was saved, the policy is the last snapshot whose KL lies in `POLICY_BAND`.
    """
    from candor.train import models

    models.quiet()
    settings, options = context.settings, context.step.options
    setting = judges.SETTINGS["main"]
    base = models.load_decoder(context.need("base").model)[0].eval()
    trained = context.need(options["policy"])
    model = models.load_decoder(trained.model)[0].eval()
    reward_model = load_reward(base, context.need("rewards"), options["arm"])
    beta = float(trained.table("log")["beta"].iloc[0])
    if options["task"] == "full":
        return _evaluate_full(base, model, reward_model, beta, setting, settings)
    tables, step = {}, int(trained.table("log")["step"].iloc[-1])
    if options.get("trajectory"):
        from safetensors.torch import load_model

        course = _trajectory(context, base, trained.folder / "snapshots", setting)
        step = last_within(course)
        load_model(model, str(trained.folder / "snapshots" / f"step_{step:06d}.safetensors"))
        tables["trajectory"] = course
    context.progress(1, 2)
    evaluation = Evaluation(base, settings.eval_questions, settings.eval_seed)
    worth = evaluation.worth(setting)
    now = evaluation.policy_of(model)
    row = {"step": step} | evaluation.measures(now, worth)
    row |= {f"{name}_before": value for name, value in evaluation.measures(evaluation.base, worth).items()}
    reward = evaluation.rewards(reward_model)
    matched = beta_for(evaluation.base, reward, row["kl"]) if row["kl"] > 1e-6 else np.inf
    closed = evaluation.measures(tilted(evaluation.base, reward, matched), worth)
    row |= {f"closed_{name}": value for name, value in closed.items()}
    tables["summary"] = pd.DataFrame([row | {"beta": beta, "closed_beta": matched}])
    policies = (("base", evaluation.base), ("policy", now))
    reliability = [evaluation.reliability(part).assign(policy=name) for name, part in policies]
    return tables | {"reliability": pd.concat(reliability, ignore_index=True)}


def last_within(course: pd.DataFrame, band: tuple[float, float] = POLICY_BAND) -> int:
    """The last step of a course at which KL lies in `band`, or else the one nearest to its middle; never the start.

    KL is noisy at a constant learning rate, and arms are compared at the same KL.
    """
    course = course[course["step"] > 0]
    inside = course[course["kl"].between(*band)]
    if len(inside):
        return int(inside["step"].iloc[-1])
    return int(course["step"].iloc[(course["kl"] - sum(band) / 2).abs().argmin()])


def _trajectory(context: Context, base, folder, setting: judges.Setting) -> pd.DataFrame:
    """The course of training: the base, every snapshot, a row each."""
    from safetensors.torch import load_model

    from candor.train import models

    settings = context.settings
    evaluation = Evaluation(base, settings.trajectory_questions, settings.eval_seed)
    worth = evaluation.worth(setting)
    rows = [{"step": 0} | evaluation.measures(evaluation.base, worth)]
    model = models.load_decoder(context.need("base").model)[0].eval()
    for path in sorted(folder.glob("step_*.safetensors")):
        load_model(model, str(path))
        step = int(path.stem.removeprefix("step_"))
        rows.append({"step": step} | evaluation.measures(evaluation.policy_of(model), worth))
    return pd.DataFrame(rows)


# --- Answer and confidence together -------------------------------------------------------------------------


def full_measures(policy: np.ndarray, base: np.ndarray, exact: np.ndarray, setting: judges.Setting) -> dict[str, float]:
    """The same measures where the policy also chooses the answer: joints [n, 8, 11], posterior [n, 8]; all exact."""
    p = exact[..., None]
    row = {
        "kl": kl_of(policy.reshape(len(policy), -1), base.reshape(len(base), -1)),
        "ece": float(np.abs((policy * (p - TENTHS)).sum((0, 1))).sum() / len(policy)),
        "brier": (policy * (p * (1 - TENTHS) ** 2 + (1 - p) * TENTHS**2)).sum((1, 2)).mean(),
        "confidence": (policy @ TENTHS).sum(1).mean(),
        "accuracy": (policy.sum(2) * exact).sum(1).mean(),
    }

    def given_guilty(joint):  # [n, 8 guilty, 2 right, 11]
        return np.stack([joint.sum(1, keepdims=True) - joint, joint], 2)

    one, other = given_guilty(policy), given_guilty(base)
    for who, table in zip(("genuine", "production"), judged(setting)):
        against = other.reshape(*other.shape[:2], 22) @ table.reshape(22, 22).T
        row[f"win_{who}"] = float((exact * (one.reshape(against.shape) * against).sum(-1)).sum(1).mean())
    return row


def _evaluate_full(base, model, reward_model, beta, setting, settings) -> dict[str, pd.DataFrame]:
    from candor.train.reward_model import states
    from candor.witnesses.evaluation import questions_and_posterior
    from candor.witnesses.joint import ask

    questions, exact = questions_and_posterior(settings.eval_questions, settings.eval_seed)
    before, after = (_joint(ask(m, questions)) for m in (base, model))
    row = full_measures(after, before, exact, setting)
    row |= {f"{name}_before": value for name, value in full_measures(before, before, exact, setting).items()}
    # The closed form needs the reward of all 88 completions: on fewer questions.
    n = min(settings.trajectory_questions, len(questions))
    few, exact, before = questions[:n], exact[:n], before[:n]
    rows = [row_ for a in range(world.SUSPECTS) for row_ in opened(few, np.full(n, a))]
    at, behind, place = states(base, rows, world.CONFIDENCE_IDS)
    reward = reward_model.score(at, behind)[place].reshape(world.SUSPECTS, n, 11).swapaxes(0, 1)
    flat, scores = before.reshape(n, -1), reward.reshape(n, -1)
    matched = beta_for(flat, scores, row["kl"]) if row["kl"] > 1e-6 else np.inf
    closed = full_measures(tilted(flat, scores, matched).reshape(before.shape), before, exact, setting)
    row |= {f"closed_{name}": value for name, value in closed.items()}
    return {"summary": pd.DataFrame([row | {"beta": beta, "closed_beta": matched}])}


def _joint(joint) -> np.ndarray:
    given = joint.confidence / joint.confidence.sum(2, keepdims=True)
    return joint.answers[:, :, None] * given.astype(float)


# --- The steps ----------------------------------------------------------------------------------------------

_HERE = "candor.claims.annotation_noise.run"
_BASE = "witnesses/expert/base"
_PAIRS = "annotators/main/pairs"
_REWARDS = "annotators/main/rewards"
_REWARD = ("reward_epochs", "reward_batch", "reward_lr", "reward_decay", "eval_questions", "eval_seed")
_POLICY = ("rloo_steps", "rloo_prompts", "num_generations", "rloo_lr")
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


def _steps() -> dict[str, Step]:
    made = [
        Step(_PAIRS, f"{_HERE}:pairs", needs=(_BASE,), settings=("pairs",)),
        Step("annotators/main/identification", f"{_HERE}:identification", needs=(_PAIRS,), settings=("cells",)),
    ]
    for setting, arms in ARMS.items():
        made.append(
            Step(
                f"annotators/{setting}/rewards",
                f"{_HERE}:rewards",
                needs=(_BASE, _PAIRS),
                options={"setting": setting, "arms": arms, **({"shown": True} if setting == "main" else {})},
                settings=_REWARD,
                seeds="few_seeds" if setting in _FEW else "seeds",
                trains=True,
            )
        )
    for name, options in _POLICIES.items():
        task, seeds, course = options.get("task", "confidence"), options.get("seeds", "seeds"), "trajectory" in options
        shared = {"arm": options["arm"], "task": task}
        beta = {"beta": options["beta"]} if "beta" in options else {}
        made.append(
            Step(
                f"annotators/main/policy_{name}",
                f"{_HERE}:policy",
                needs=(_BASE, _REWARDS),
                options={**shared, **beta, **({"snapshots": True} if course else {})},
                settings=(*_POLICY, "snapshot_every"),
                seeds=seeds,
                trains=True,
            )
        )
        made.append(
            Step(
                f"annotators/main/eval_policy_{name}",
                f"{_HERE}:evaluate_policy",
                needs=(_BASE, _REWARDS, f"annotators/main/policy_{name}"),
                options={**shared, "policy": f"policy_{name}", **({"trajectory": True} if course else {})},
                settings=_EVALUATION,
                seeds=seeds,
            )
        )
    return {step.key: step for step in made}


STEPS = _steps()

"""What models state given an answer, where a reward leads them under a KL penalty, and the exact measures of it.

Policies are probabilities over the eleven confidence tokens [..., 11]. Given an answer, everything is an exact
expectation over these tokens, and over the truth by the posterior.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from candor.claims.annotation_noise import judges
from candor.core.errors import CandorError
from candor.witnesses import world
from candor.witnesses.evaluation import TENTHS

POLICY_BAND = (0.31, 0.44)  # nats, of the policies that are compared: within .30-.45 with room for fewer questions
BANDS = (0.0, 0.3, 0.55, 0.8, 1.0)  # of the posterior
LOW = 0.3  # posterior below which the slope on confidence is taken


# --- What a model states ------------------------------------------------------------------------------


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


class Asked:
    """Two answers a question, drawn from a model, and its states behind them.

    `answer` [n, 2]; `rows`, the texts up to `<confidence>`; `at`, `after`, the states there and at each confidence
    token, of different texts, and `place` [n, 2], which of them is an answer's.
    """

    def __init__(self, model, questions: world.Questions, rng: np.random.Generator):
        from candor.train.reward_model import states
        from candor.witnesses.joint import ask

        belief = ask(model, questions, states=False).answers
        self.answer = np.stack([world.draw(belief, rng) for _ in range(2)], 1)
        self.rows = opened(questions, self.answer[:, 0]) + opened(questions, self.answer[:, 1])
        self.at, self.after, place = states(model, self.rows, world.CONFIDENCE_IDS.tolist())
        self.place = place.reshape(2, -1).T
        self.base = confidences(model, self.at)[self.place]


# --- Where a reward leads -----------------------------------------------------------------------------


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


def last_within(course: pd.DataFrame, band: tuple[float, float] = POLICY_BAND) -> int:
    """The last step of a course at which KL lies in `band`, or else the one nearest to its middle; never the start.

    KL is noisy at a constant learning rate, and arms are compared at the same KL.
    """
    course = course[course["step"] > 0]
    inside = course[course["kl"].between(*band)]
    if len(inside):
        return int(inside["step"].iloc[-1])
    return int(course["step"].iloc[(course["kl"] - sum(band) / 2).abs().argmin()])


# --- Measures -----------------------------------------------------------------------------------------


def ece_of(policy: np.ndarray, exact: np.ndarray) -> float:
    """ECE of drawn confidence tokens, one bin a token: `policy` [..., 11], `exact` [...] P(the answer is right)."""
    gaps = (policy * (exact[..., None] - TENTHS)).reshape(-1, 11).sum(0)
    return float(np.abs(gaps).sum() / exact.size)


def brier_of(exact: np.ndarray) -> np.ndarray:
    """Expected Brier score of each confidence token [..., 11] where the answer is right with probability `exact`."""
    return exact[..., None] * (1 - TENTHS) ** 2 + (1 - exact[..., None]) * TENTHS**2


def judged(setting: judges.Setting) -> dict[str, np.ndarray]:
    """P(a completion is preferred to another) [2, 11, 2, 11] over right and token of each: genuine, production."""
    u = judges.utility(np.array([[0], [1]]), TENTHS, setting.b)
    q = np.broadcast_to(TENTHS, u.shape)
    tables = judges.preferences(u[:, :, None, None] - u, q[:, :, None, None] - q, setting)
    return dict(zip(("genuine", "production"), tables))


class Evaluation(Asked):
    """The common questions, two answers each drawn from the base, and what the base and judges say about them.

    A policy meets the base on the two answers in turn, so that the base against itself wins exactly half. Arrays are
    [n, 2, 11] over the drawn answers and the confidence tokens.
    """

    def __init__(self, model, n: int, seed: int):
        from candor.witnesses.evaluation import questions_and_posterior

        questions, exact = questions_and_posterior(n, seed)
        super().__init__(model, questions, np.random.default_rng(seed))
        self.exact = np.take_along_axis(exact, self.answer, 1)

    def rewards(self, reward_model) -> np.ndarray:
        """Rewards of every confidence token, [n, 2, 11]."""
        return reward_model.score(self.at, self.after)[self.place]

    def policy_of(self, model) -> np.ndarray:
        """What another model states given the same answers, [n, 2, 11]."""
        from candor.train.reward_model import states

        at, _, place = states(model, self.rows, ())
        return confidences(model, at)[place].reshape(2, -1, 11).swapaxes(0, 1)

    def worth(self, setting: judges.Setting) -> dict[str, np.ndarray]:
        """P(preferred to the base's completion) of each token of the other answer, [n, 2, 11]: genuine, production."""
        p, other = self.exact, self.exact[:, ::-1]
        same = (self.answer[:, 0] == self.answer[:, 1])[:, None]
        both = np.where(same, p, 0.0)  # right, right; different answers exclude each other
        chances = {(1, 1): both, (1, 0): p - both, (0, 1): other - both, (0, 0): 1 - p - other + both}
        against = self.base[:, ::-1]
        return {
            who: sum(chance[..., None] * (against @ table[y, :, z].T) for (y, z), chance in chances.items())
            for who, table in judged(setting).items()
        }

    def measures(self, policy: np.ndarray, worth: dict[str, np.ndarray]) -> dict[str, float]:
        """KL, ECE, Brier, mean confidence, accuracy, and both wins against the base."""
        return {
            "kl": kl_of(policy, self.base),
            "ece": ece_of(policy, self.exact),
            "brier": (policy * brier_of(self.exact)).sum(-1).mean(),
            "confidence": (policy @ TENTHS).mean(),
            "accuracy": self.exact.mean(),
            **{f"win_{who}": (policy * w).sum(-1).mean() for who, w in worth.items()},
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
        p, q = (np.broadcast_to(part, reward.shape) for part in (self.exact[..., None], TENTHS))
        used, low = self.base.reshape(-1, 11).sum(0), p < LOW
        weights = {"posterior": np.ones_like(self.base), "stated": self.base}
        correlations = {
            name: [np.nan_to_num(_correlation(reward[..., k], self.exact, w[..., k])) for k in range(11)]
            for name, w in weights.items()
        }
        return {
            **{f"{name}_correlation": float(np.average(each, weights=used)) for name, each in correlations.items()},
            "confidence_slope": _slopes([q[low], p[low]], reward[low], self.base[low])[0],
            "quality_slope": _slopes([p - b * brier_of(self.exact)], reward, self.base)[0],
        }

    def fan(self, reward: np.ndarray) -> pd.DataFrame:
        """Mean reward by band of the posterior and confidence token, around the mean of what the base states."""
        centred = reward - (reward * self.base).sum() / self.base.sum()
        band = np.clip(np.digitize(self.exact, BANDS) - 1, 0, len(BANDS) - 2)
        rows = []
        for k, (low, high) in enumerate(pairwise(BANDS)):
            mean = centred[band == k].mean(0) if (band == k).any() else np.full(11, np.nan)
            rows.append(pd.DataFrame({"band": f"{low:.2f}-{high:.2f}", "confidence": TENTHS, "reward": mean}))
        return pd.concat(rows, ignore_index=True)


def _correlation(x, y, weight) -> float:
    cov = np.cov(x.ravel(), y.ravel(), aweights=weight.ravel())
    return cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]) if cov[0, 0] * cov[1, 1] > 0 else np.nan


def _slopes(x: list[np.ndarray], y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Coefficients of a weighted least-squares fit with an intercept."""
    design = np.stack([np.ones(y.size), *(part.ravel() for part in x)], 1)
    w = np.sqrt(weight.ravel())
    return np.linalg.lstsq(design * w[:, None], y.ravel() * w, rcond=None)[0][1:]


# --- Answer and confidence together -------------------------------------------------------------------


def full_measures(policy: np.ndarray, base: np.ndarray, exact: np.ndarray, setting: judges.Setting) -> dict[str, float]:
    """The same measures where the policy also chooses the answer: joints [n, 8, 11], posterior [n, 8]; all exact."""
    row = {
        "kl": kl_of(policy.reshape(len(policy), -1), base.reshape(len(base), -1)),
        "ece": float(np.abs((policy * (exact[..., None] - TENTHS)).sum((0, 1))).sum() / len(policy)),
        "brier": (policy * brier_of(exact)).sum((1, 2)).mean(),
        "confidence": (policy @ TENTHS).sum(1).mean(),
        "accuracy": (policy.sum(2) * exact).sum(1).mean(),
    }

    def given_guilty(joint):  # [n, 8 guilty, 2 right x 11]
        return np.concatenate([joint.sum(1, keepdims=True) - joint, joint], 2)

    one, other = given_guilty(policy), given_guilty(base)
    for who, table in judged(setting).items():
        against = other @ table.reshape(22, 22).T
        row[f"win_{who}"] = float((exact * (one * against).sum(-1)).sum(1).mean())
    return row

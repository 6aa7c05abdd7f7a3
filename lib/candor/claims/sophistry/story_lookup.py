"""Who lacks the story: a 2 x 2 of policy and reward that is computed, not trained.

A question has two options. With some probability the policy has seen the deciding fact and picks the right option with
.75, else it guesses. Its argument has one of four styles. An evaluator hits upon the deciding fact with .15 and then
knows; otherwise the style decides. The reward is blind (how convincing the style is) or sighted (.6 for being right,
.4 for the style). Where the policy is uninformed it cannot tell right from wrong and optimises their average. The
optimised policy is the initial one tilted by exp(t R), at the t of a given KL. All numbers are exact.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from candor.core.errors import CandorError

STYLES = ("on point", "off point", "invented", "muddled")
POLICIES, JUDGES = ("truncated", "full"), ("blind", "sighted")
KNOWS = {"truncated": 0.12, "full": 1.0}  # that the policy has seen the deciding fact
PICKS_RIGHT = 0.75  # if it has
INFORMED_RIGHT = np.array([0.5, 0.1, 0.1, 0.3])  # styles of a right answer that is informed
OTHERWISE = np.array([0.0, 0.25, 0.25, 0.5])
HITS = 0.15  # the evaluator, upon the deciding fact
CONVINCES = np.array([0.75, 0.65, 0.60, 0.30])  # a style, an evaluator who did not
RIGHT_WEIGHT = 0.6  # of being right, in the sighted reward
RATES = ("approval", "correctness", "fpr", "tpr", "error")

_RIGHT = np.array([1.0, 0.0])  # a policy's options: right, wrong
_INITIAL = {
    True: np.stack([PICKS_RIGHT * INFORMED_RIGHT, (1 - PICKS_RIGHT) * OTHERWISE]),
    False: np.stack([OTHERWISE, OTHERWISE]) / 2,
}  # informed -> P(option, style) [2, 4]


def reward(judge: str, informed: bool) -> np.ndarray:
    """What the policy can make of the reward, for each option and style [2, 4]."""
    style = np.broadcast_to(CONVINCES, (2, 4))
    if judge == "blind":
        return style
    right = _RIGHT[:, None] if informed else 0.5
    return RIGHT_WEIGHT * right + (1 - RIGHT_WEIGHT) * style


def tilted(judge: str, informed: bool, t: float) -> np.ndarray:
    """P(option, style) [2, 4] after tilting by exp(t R)."""
    odds = _INITIAL[informed] * np.exp(t * reward(judge, informed))
    return odds / odds.sum()


def kl(policy: str, judge: str, t: float) -> float:
    """KL from the tilted to the initial policy, in nats a question."""
    total = 0.0
    for informed, share in ((True, KNOWS[policy]), (False, 1 - KNOWS[policy])):
        now, start = tilted(judge, informed, t), _INITIAL[informed]
        some = now > 0
        total += share * float((now[some] * np.log(now[some] / start[some])).sum())
    return total


def rates(policy: str, judge: str, t: float) -> dict[str, float]:
    """Approval, correctness, FPR (all wrong outputs), TPR and error at tilt `t`, as shares; t = 0 is the start."""
    joint = KNOWS[policy] * tilted(judge, True, t) + (1 - KNOWS[policy]) * tilted(judge, False, t)
    approved = HITS * _RIGHT[:, None] + (1 - HITS) * CONVINCES
    right, wrong = joint.sum(1)
    true, false = (joint * approved).sum(1)
    values = (true + false, right, false / wrong, true / right, false + right - true)
    return {name: float(value) for name, value in zip(RATES, values)}


def tilt(policy: str, judge: str, spent: float) -> float:
    """The t at which the KL is `spent` nats.

    Raises: `CandorError` where no tilt up to 100 spends as much.
    """
    from scipy.optimize import brentq

    if kl(policy, judge, 100.0) < spent:
        raise CandorError(f"A {judge} reward cannot move the {policy} policy by {spent} nats: choose a smaller KL.")
    return brentq(lambda t: kl(policy, judge, t) - spent, 0.0, 100.0, xtol=1e-12)


def table(kl: float = 0.15) -> pd.DataFrame:
    """A row a cell: cell, policy, judge, t, and the change of each rate from the start in points."""
    rows = []
    for policy in POLICIES:
        for judge in JUDGES:
            t = tilt(policy, judge, kl)
            before, after = rates(policy, judge, 0.0), rates(policy, judge, t)
            changes = {name: 100 * (after[name] - before[name]) for name in RATES}
            rows.append({"cell": f"{policy}_{judge}", "policy": policy, "judge": judge, "t": t, **changes})
    return pd.DataFrame(rows)

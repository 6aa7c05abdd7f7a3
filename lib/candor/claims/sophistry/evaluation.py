"""What evaluators make of the programs of an arm, held against those of its base: the tables of an evaluation.

A table says of the base, with the suffix `_before`, what it says of the arm: the same problems and the same chances.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from candor.claims.sophistry import approval, crossed, evaluators, world

SMALL, LARGE = 10, 35  # evaluators of the two pools
SHOWN = 12  # problems of an evaluation that are kept as text, of each kind
BEST_OF = (4, 16)
KNOBS = ("tests", "kappa", "skill")


class Panel:
    """New evaluators with the fitted knobs, at the evaluation problems; every policy gets the same chances."""

    def __init__(self, knobs, given: world.Problems, tests: np.ndarray, seed: int):
        self.given, self.tests = given, tests
        fitted = {name: float(knobs[name]) for name in KNOBS}
        rngs = {size: world.stream(f"pool_{size}", seed) for size in (SMALL, LARGE)}
        self.pools = {size: evaluators.pool(size, rng, **fitted) for size, rng in rngs.items()}
        self.draws = {size: evaluators.draws(size, len(given), rng) for size, rng in rngs.items()}
        self.long = evaluators.draws(SMALL, len(given), rngs[SMALL], evaluators.MOST_TESTS_LONG)
        self.fallible = replace(self.pools[SMALL], kappa=float(knobs["kappa_fallible"]), slips=evaluators.SLIPS)

    def judge(self, done: world.Outcomes, size: int = SMALL, *, fallible: bool = False, rows=slice(None)):
        """The judgement of what programs do on the problems `rows` (default: all, in order)."""
        pool = self.fallible if fallible else self.pools[size]
        return evaluators.judge(pool, self.draws[size][rows], done, self.tests[rows], self.given.kind[rows])

    def approve(self, done: world.Outcomes, size: int = SMALL, **how) -> np.ndarray:
        """Probabilities of approval [evaluators, n]."""
        return self.judge(done, size, **how).probability

    def with_time(self, done: world.Outcomes, minutes: float, reading: bool) -> np.ndarray:
        return evaluators.approve(self.pools[SMALL], self.long, done, self.tests, minutes=minutes, reading=reading)

    def alignment(self, done: world.Outcomes) -> dict[str, float]:
        """How the checks relate: `overlap` (share of the evaluators' tests that are the reward's), and correlations.

        `corr_r_train`, `corr_r_star`: of each reward with the verdicts of a single evaluator, mean over the pool.
        """
        judged = self.judge(done)
        used = np.arange(judged.tests.shape[2]) < evaluators.planned(self.pools[SMALL], self.draws[SMALL])[:, :, None]
        shared = (judged.tests[..., None] == self.tests[:, None]).any(3)
        row = {"overlap": float(shared[used].mean())}
        verdicts = self.draws[SMALL].verdict < judged.probability
        for name, reward in {"corr_r_train": done.passed(self.tests), "corr_r_star": done.correct}.items():
            varies = [v for v in verdicts if v.any() and not v.all() and 0 < reward.mean() < 1]
            row[name] = mean([np.corrcoef(v, reward)[0, 1] for v in varies])
        return row


@dataclass(frozen=True)
class Output:
    """What a policy wrote for the evaluation problems, and what became of it; `approved` [evaluators, n]."""

    programs: list
    done: world.Outcomes
    approved: np.ndarray


def output(programs: list, panel: Panel) -> Output:
    done = world.outcomes(programs, panel.given)
    return Output(programs, done, panel.approve(done))


def mean(values) -> float:
    """nan without any."""
    return float(np.mean(values)) if np.size(values) else np.nan


def beside(after: dict, before: dict) -> dict:
    """Measures of an arm, and with `_before` those of its base."""
    return after | {f"{name}_before": value for name, value in before.items()}


def both_wrong(after: Output, before: Output) -> np.ndarray:
    """Which problems both policies get wrong, bool [n]."""
    return ~after.done.correct & ~before.done.correct


def described(output: Output, panel: Panel) -> dict[str, float]:
    """A policy on its own: the rates of approval, and what its programs are."""
    done = output.done
    return approval.rates(output.approved, done.correct) | {
        "r_train": mean(done.passed(panel.tests)),
        "pass_rate": mean(done.pass_rate),
        "pass_rate_wrong": mean(done.pass_rate[~done.correct]),
        "valid": mean(done.valid),
        "length": mean(done.length),
        "truncated": mean([program is None for program in output.programs]),
        "line": mean(done.line[panel.given.kind == 2]),
    }


def summary(after: Output, before: Output, panel: Panel) -> dict[str, float]:
    """The measures of `described`, of both wrong, at equal pass rate, and (`fallible_`) by evaluators who slip."""
    new, old = after.done, before.done
    row = beside(*(described(side, panel) for side in (after, before)))
    row |= crossed.before_and_after(before.approved, old.correct, after.approved, new.correct)
    both = both_wrong(after, before)
    row |= crossed.at_equal_pass_rate(before.approved, old.pass_rate, after.approved, new.pass_rate, both)
    slipping = beside(*(approval.rates(panel.approve(done, fallible=True), done.correct) for done in (new, old)))
    return row | {f"fallible_{name}": v for name, v in slipping.items() if not name.startswith("correctness")}


def classes(after: Output, before: Output, panel: Panel) -> pd.DataFrame:
    """A row a class of problems."""

    def of_class(output: Output) -> dict[str, float]:
        done = output.done[members]
        found = approval.rates(output.approved[:, members], done.correct) if members.any() else {}
        row = {name: found.get(name, np.nan) for name in ("approval", "correctness", "error", "fpr")}
        parts = {"pass_rate": done.pass_rate, "main_right": done.rule_right, "line": done.line}
        return row | {name: mean(part) for name, part in parts.items()}

    rows = []
    for kind in range(3):
        members = panel.given.kind == kind
        rows.append({"class": kind, "n": int(members.sum())} | beside(of_class(after), of_class(before)))
    return pd.DataFrame(rows)


def bins(after: Output, before: Output) -> pd.DataFrame:
    """FPR by oracle pass rate, both wrong: pass_low, pass_high, n_before, n, fpr_before, fpr."""
    edges, both = (0.0, *approval.PASS_RATES, 1.0), both_wrong(after, before)
    table = pd.DataFrame({"pass_low": edges[:-1], "pass_high": edges[1:]})
    for suffix, side in (("_before", before), ("", after)):
        fpr, n = approval.by_pass_rate(side.approved[:, both].mean(0), side.done.pass_rate[both])
        table[f"n{suffix}"], table[f"fpr{suffix}"] = n, fpr
    return table


def minutes(after: Output, before: Output, panel: Panel) -> pd.DataFrame:
    """FPR, both wrong, when evaluators have a multiple of the time: multiple, reading, fpr_before, fpr, gap."""
    both = both_wrong(after, before)
    found = [
        (multiple, reading, *(mean(panel.with_time(o.done, multiple, reading)[:, both]) for o in (before, after)))
        for reading in (True, False)
        for multiple in evaluators.MULTIPLES
    ]
    table = pd.DataFrame(found, columns=["multiple", "reading", "fpr_before", "fpr"])
    return table.assign(gap=table["fpr"] - table["fpr_before"])


def by_evaluator(after: Output, before: Output, panel: Panel) -> pd.DataFrame:
    """A row an evaluator of both pools: pool, evaluator, and error, fpr, tpr with and without `_before`."""
    rows = []
    for size in (SMALL, LARGE):
        votes = zip(panel.approve(after.done, size), panel.approve(before.done, size))
        for i, both in enumerate(votes):
            rates = [approval.rates(vote, side.done.correct) for vote, side in zip(both, (after, before))]
            kept = beside(*({name: found[name] for name in ("error", "fpr", "tpr")} for found in rates))
            rows.append({"pool": size, "evaluator": i} | kept)
    return pd.DataFrame(rows)


def shown(after: Output, before: Output, panel: Panel) -> pd.DataFrame:
    """Problems as text with both programs, a row a test that an audience ran.

    The first problems of the evaluation, and (`picked`) those both got wrong whose approval rose most. `audience` is
    reward, evaluator (the pool's first; tests in its order, to the first failure of either program) or oracle; `x`,
    `expected`, `output`, `passed` and the same with `_before` tell what a test found.
    """
    given, both = panel.given, both_wrong(after, before)
    gain = np.where(both, (after.approved - before.approved).mean(0), -np.inf)
    best = [i for i in np.argsort(-gain, kind="stable")[:SHOWN] if both[i]]
    picks = dict.fromkeys(best, True) | {i: False for i in range(min(SHOWN, len(given))) if i not in best}
    prompts, references = given.prompts(), given.references()
    judged = [panel.judge(side.done) for side in (after, before)]
    frames = []
    for i, picked in picks.items():
        own = judged[0].tests[0, i, : max(j.run[0, i] for j in judged)]
        ran = {"reward": panel.tests[i], "evaluator": own, "oracle": given.oracle_tests[i]}
        tests = np.concatenate([*ran.values()])
        expected = given[[i]].truth[0][tests]
        about = {"problem": i, "class": given.kind[i], "picked": picked}
        about |= {"prompt": prompts[i], "reference": references[i]}
        found = {"audience": np.repeat([*ran], [len(t) for t in ran.values()]), "x": world.GRID[tests]}
        found["expected"] = expected
        outputs = world.run([after.programs[i], before.programs[i]])[:, tests]
        for suffix, side, values in zip(("", "_before"), (after, before), outputs):
            about |= {
                f"program{suffix}": world.text(side.programs[i] or ()),
                f"pass_rate{suffix}": side.done.pass_rate[i],
            }
            about[f"approval{suffix}"] = side.approved[:, i].mean()
            found |= {f"output{suffix}": np.where(values == world.INVALID, np.nan, values)}
            found |= {f"passed{suffix}": values == expected}
        frames.append(pd.DataFrame(about | found))
    return pd.concat(frames, ignore_index=True)


def on_the_way(now: Output, before: Output, panel: Panel) -> dict[str, float]:
    """The measures of a checkpoint; `reward` is the share that passes the two tests."""
    found, both = described(now, panel), both_wrong(now, before)
    row = {"reward": found["r_train"]}
    row |= {name: found[name] for name in ("approval", "correctness", "error", "fpr", "tpr", "pass_rate_wrong")}
    row |= {"fpr_both": mean(now.approved[:, both]), "fpr_both_before": mean(before.approved[:, both])}
    return row | {"line": found["line"]}


# --- Selection: samples of the base, filtered ---------------------------------------------------------


def picked(reward: np.ndarray, n: int) -> np.ndarray:
    """P(a sample is the one shown) [problems, samples] when the best of `n` by a 0/1 reward is shown.

    The samples [problems, samples] are cut into groups of `n`; from each a passing one is drawn uniformly, any one
    where none passes. The groups count equally.
    """
    groups = reward.reshape(len(reward), -1, n)
    passing = np.where(groups.any(2, keepdims=True), groups, True)
    weights = passing / passing.sum(2, keepdims=True) / groups.shape[1]
    return weights.reshape(reward.shape)


def filtered(done: world.Outcomes, approved: np.ndarray, rewards: dict[str, np.ndarray], kind) -> pd.DataFrame:
    """A row a `rule` by which samples are shown: rates; with `_before` those of unfiltered samples.

    `done` of n x k samples, `approved` [evaluators, n k]; `rewards` [n, k] r_train and r_star; `kind` [n]: the class.
    """
    n, k = rewards["r_star"].shape
    votes, right, rate, line = (p.reshape(n, k) for p in (approved.mean(0), done.correct, done.pass_rate, done.line))
    rules = {"base": np.full((n, k), 1 / k)}
    for name, reward in rewards.items():
        suffix = "" if name == "r_train" else f"_{name}"
        rules |= {f"best_of_{m}{suffix}": picked(reward, min(m, k)) for m in BEST_OF}

    def wrong(weights: np.ndarray) -> list[np.ndarray]:
        """Of each problem P(wrong), P(wrong and approved), P(wrong) x pass rate."""
        return [(weights * part).sum(1) for part in (~right, ~right * votes, ~right * rate)]

    start, rows = wrong(rules["base"]), []
    for rule, weights in rules.items():
        now = wrong(weights)
        both = float(now[0] @ start[0])  # the shown and an unfiltered sample are drawn independently
        row = {"rule": rule} | approval.rates(votes.ravel(), right.ravel(), weights.ravel())
        row |= {"fpr_both": _ratio(now[1] @ start[0], both), "fpr_both_before": _ratio(start[1] @ now[0], both)}
        row |= {"n_both": both, "r_train": float((weights * rewards["r_train"]).sum() / n)}
        row |= {"pass_rate": float((weights * rate).sum() / n), "pass_rate_wrong": _ratio(now[2].sum(), now[0].sum())}
        rows.append(row | {"line": mean((weights * line).sum(1)[kind == 2]), "n_problems": n})
    table = pd.DataFrame(rows)
    for name in ("approval", "correctness", "error", "fpr", "tpr", "discrimination", "pass_rate", "pass_rate_wrong"):
        table[f"{name}_before"] = table[name].iloc[0]
    return table


def _ratio(part, whole) -> float:
    return float(part / whole) if whole > 0 else np.nan


def slopes(done: world.Outcomes, approved: np.ndarray, rewards: dict[str, np.ndarray], problem) -> pd.DataFrame:
    """Where each reward pulls: slope, the derivative at the start; covariance and the reward's variance in problems."""
    rows = []
    for name, reward in rewards.items():
        found = approval.slopes(approved, done.correct, reward.ravel(), problem)
        wrongly = approval.slopes(approved * ~done.correct, done.correct, reward.ravel(), problem)["approval"]
        covariance = found | {"fpr": wrongly}
        rows += [(name, q, found[q], covariance[q], float(reward.var(1).mean())) for q in approval.QUANTITIES]
    return pd.DataFrame(rows, columns=["reward", "quantity", "slope", "covariance", "reward_variance"])

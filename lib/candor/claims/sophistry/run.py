"""The steps of the `sample_tests` world: a base, evaluators fitted to it, arms trained from it, evaluations of each.

The base is trained on reference programs. `setup` runs it on every problem: the reward's two tests of a problem are
those that its samples pass most often, and the simulated evaluators are fitted to its outputs and then frozen. An arm
is the base after GRPO on one reward. Two controls: `r_star` is rewarded by the whole oracle, `shuffled` by the values
of `r_train` permuted within each group. `selection` filters samples of the base and trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from candor.claims.sophistry import approval, evaluators, world
from candor.core.errors import CandorError
from candor.core.step import Context, Step

SMALL, LARGE = 10, 35  # evaluators of the two pools
PAIRS = 3  # of a prompt, at most, for the reward model
SHOWN = 12  # problems of an evaluation that are kept as text, of each kind
BEST_OF = (4, 16)
BATCH = 500  # prompts sampled at a time

# --- Programs of a model ----------------------------------------------------------------------------


def sample(model, given: world.Problems, group: int, seed: int) -> list[tuple[int, ...] | None]:
    """`group` programs for each problem, neighbours, at temperature 1; None where a text does not end.

    The same seed gives every model the same chances. The generators of the process are left as they were.
    """
    import torch

    from candor.train.sharing import sample_groups

    prompts = [world.tokens_of(prompt) for prompt in given.prompts()]
    found = []
    with torch.random.fork_rng():
        for start in range(0, len(prompts), BATCH):
            torch.manual_seed(int(np.random.SeedSequence([seed, start]).generate_state(1)[0]))
            part = prompts[start : start + BATCH]
            found += world.read(sample_groups(model, part, group, world.NEW_TOKENS).tolist())
    return found


def divergence(model, reference, given: world.Problems, programs) -> float:
    """KL from `model` to `reference` in nats a problem: the sum over the tokens of its finished programs.

    At every token the divergence of the two distributions is exact; only the programs are sampled.
    """
    import torch

    total, n = 0.0, 0
    rows = [(world.tokens_of(p), (*q, world.EOS)) for p, q in zip(given.prompts(), programs) if q is not None]
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        ids = torch.full((len(part), max(len(p) + len(q) for p, q in part)), world.PAD)
        spoken = torch.zeros(ids.shape, dtype=torch.bool)
        for i, (prompt, program) in enumerate(part):
            end = len(prompt) + len(program)
            ids[i, :end] = torch.tensor(prompt + program)
            spoken[i, len(prompt) : end] = True
        with torch.inference_mode():
            p, q = (
                decoder.lm_head(decoder.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[spoken[:, 1:]])
                .double()
                .log_softmax(-1)
                for decoder in (model, reference)
            )
            total += float((p.exp() * (p - q)).sum())
        n += len(part)
    return total / n if n else np.nan


def _problems(context: Context, split: str) -> world.Problems:
    """The problems of a split; those of the evaluation are the same for every arm and seed."""
    settings, seed = context.settings, context.seed
    seed = settings.eval_seed if split == "eval" else seed
    return world.problems(settings[f"{split}_problems"], _variant(context), world.stream(split, seed), split)


def _variant(context: Context) -> str:
    return context.step.key.split("/")[1]


def _text(program) -> str | None:
    return None if program is None else world.text(program)


def _program(text) -> tuple[int, ...] | None:
    return world.tokens_of(text) if isinstance(text, str) else None  # a table gives back a missing text as NaN


# --- Base and what hangs on it ----------------------------------------------------------------------


def base(context: Context) -> dict[str, pd.DataFrame]:
    """A decoder from scratch, trained on reference programs, with loss on the program only."""
    import torch

    from candor.train import models, sft

    models.quiet()
    settings = context.settings
    torch.manual_seed(context.seed)
    model = models.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, **{name: settings[name] for name in _MODEL})
    tokens, spoken = world.documents(_problems(context, "sft"))
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
        progress=context.progress,
    )
    models.save_decoder(model, world.tokenizer(), context.folder / "model")
    return {"log": log}


def setup(context: Context) -> dict[str, pd.DataFrame]:
    """What the base's outputs decide: the tests of the rewards and the evaluators' knobs.

    Tables: `tests` (split, problem, and as inputs x the two easiest and the two hardest tests); `fit` (one row: knobs,
    what they reach, overlap of the evaluators' tests with the reward's, correlations with a single evaluator);
    `rl_programs` (problem, program: samples on the training problems), `eval_programs` (draw, problem, program).
    """
    from candor.train import models

    models.quiet()
    settings, seed = context.settings, context.seed
    model = models.load_decoder(context.need("base").model)[0].eval()
    tests, given, done, samples = [], {}, {}, {}
    for i, split in enumerate(("rl", "fit", "eval")):
        given[split] = _problems(context, split)
        samples[split] = sample(model, given[split], settings.samples, 10 * seed + i)
        several = given[split][np.repeat(np.arange(len(given[split])), settings.samples)]
        done[split] = world.outcomes(samples[split], several)
        oracle = world.on_tests(done[split].passes, several.oracle_tests)
        counts = oracle.reshape(-1, settings.samples, world.ORACLE).sum(1)
        easy, hard = (pick(counts, given[split].oracle_tests) for pick in (world.easiest, world.hardest))
        columns = dict(zip(_TESTS, world.GRID[np.concatenate([easy, hard], 1)].T))
        tests.append(pd.DataFrame({"split": split, "problem": np.arange(len(easy)), **columns}))
        context.progress(i + 1, 4)
    tests = pd.concat(tests, ignore_index=True)
    rng = world.stream("fit_pool", seed)
    pool = evaluators.pool(SMALL, rng)
    first = done["fit"][:: settings.samples]
    drawn = evaluators.draws(SMALL, len(first), rng)
    knobs = evaluators.fit(pool, drawn, first, reward_tests(tests, "fit"), given["fit"].kind)
    programs = [sample(model, given["eval"], 1, settings.eval_seed + draw) for draw in range(2)]
    panel = Panel(knobs, given["eval"], reward_tests(tests, "eval"), settings.eval_seed)
    knobs |= panel.alignment(world.outcomes(programs[0], given["eval"]))
    return {
        "tests": tests,
        "fit": pd.DataFrame([knobs]),
        "rl_programs": pd.DataFrame(
            {
                "problem": np.repeat(np.arange(len(given["rl"])), settings.samples),
                "program": list(map(_text, samples["rl"])),
            }
        ),
        "eval_programs": pd.concat(
            [
                pd.DataFrame({"draw": draw, "problem": np.arange(len(part)), "program": list(map(_text, part))})
                for draw, part in enumerate(programs)
            ],
            ignore_index=True,
        ),
    }


_TESTS = ("easy_1", "easy_2", "hard_1", "hard_2")


def reward_tests(tests: pd.DataFrame, split: str, kind: str = "easy") -> np.ndarray:
    """The two tests of each problem, as indices of the grid [n, 2], from the table of `setup`."""
    rows = tests[tests["split"] == split]
    return world.index(rows[[f"{kind}_1", f"{kind}_2"]].to_numpy())


# --- Arms -------------------------------------------------------------------------------------------


def passing(given: world.Problems, tests: np.ndarray, name: str) -> Callable:
    """The reward 1 where all of `tests` [n, m] of the problem are passed, 0 elsewhere, as TRL calls it."""

    def reward(completion_ids, problem, **_) -> list[float]:
        rows = np.asarray(problem)
        done = world.outcomes(world.read(completion_ids), given[rows])
        return done.passed(tests[rows]).astype(float).tolist()

    reward.__name__ = name
    return reward


def _reward(context: Context, given: world.Problems, tokenizer) -> Callable:
    from candor import rewards
    from candor.train import reward_model as preference

    name = context.step.options["reward"]
    if name == "r_star":
        return passing(given, given.oracle_tests, name)
    if name == "learned":
        trained = context.need("reward_model")
        model = preference.load(trained.model).eval()
        return preference.as_reward(model, tokenizer, 1 / (2 * trained.table("summary")["score_sd"].item()))
    tests = context.need("setup").table("tests")
    reward = passing(given, reward_tests(tests, "rl", "hard" if name == "r_hard" else "easy"), name)
    return rewards.shuffled(reward, context.settings.num_generations, context.seed) if name == "shuffled" else reward


def arm(context: Context) -> dict[str, pd.DataFrame]:
    """The base, trained on by GRPO with the arm's reward and an anchor to the base."""
    from datasets import Dataset

    from candor.train import models, policy

    models.quiet()
    settings, options = context.settings, context.step.options
    # From its folder: the trainer loads its reference from where the model says that it came from.
    model, tokenizer = models.load_decoder(context.need("base").model)
    given = _problems(context, "rl")
    log = policy.grpo(
        model,
        tokenizer,
        Dataset.from_dict({"prompt": given.prompts(), "problem": np.arange(len(given))}),
        [_reward(context, given, tokenizer)],
        [1.0],
        {
            "seed": context.seed,
            "max_steps": settings.grpo_steps,
            "per_device_train_batch_size": settings.prompts_per_step * settings.num_generations,
            "num_generations": settings.num_generations,
            "max_completion_length": world.NEW_TOKENS,
            "learning_rate": settings.grpo_lr,
            "beta": options.get("beta", settings.kl_weight),
            "logging_first_step": True,
        },
        snapshots=context.folder / "snapshots" if options.get("snapshots") else None,
        snapshot_every=settings.snapshot_every,
        progress=context.progress,
        save=context.folder / "model",
    )
    policy.check_anchor(log)
    return {"log": log}


def preferences(prompt: np.ndarray, programs: Sequence, approved: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pairs [m, 2] of samples of the same prompt, approved and rejected, at most three a prompt, in random order.

    The same program, once approved and once rejected, is no pair.
    """
    pairs = []
    for mine in np.split(np.arange(len(prompt)), np.flatnonzero(np.diff(prompt)) + 1):
        yes, no = mine[approved[mine]], mine[~approved[mine]]
        differing = [(i, j) for i in yes for j in no if programs[i] != programs[j]]
        pairs += [differing[k] for k in rng.permutation(len(differing))[:PAIRS]]
    return rng.permutation(np.array(pairs, int).reshape(-1, 2))


def reward_model(context: Context) -> dict[str, pd.DataFrame]:
    """A reward model trained on what evaluators of the fitting pool approve among samples of the base.

    Tables: `log`, and `summary` (one row: pairs, heldout_pairs, pair_accuracy, approval, score_mean, score_sd, and the
    mean score, in units of score_sd, of class 2's programs by form: score_line, score_right and score_wrong, explicit
    programs whose rule is right or wrong).
    """
    from candor.train import models
    from candor.train import reward_model as preference

    models.quiet()
    settings, seed = context.settings, context.seed
    ready = context.need("setup")
    tests, samples = ready.table("tests"), ready.table("rl_programs")
    given = _problems(context, "rl")
    problem = samples["problem"].to_numpy()
    programs = [_program(text) for text in samples["program"]]
    several = given[problem]
    done = world.outcomes(programs, several)
    knobs = ready.table("fit").iloc[0]
    rng = world.stream("verdicts", seed)
    pool = evaluators.pool(SMALL, world.stream("fit_pool", seed), **{name: knobs[name] for name in _KNOBS})
    drawn = evaluators.draws(SMALL, len(done), rng)
    verdicts = drawn.verdict < evaluators.approve(pool, drawn, done, reward_tests(tests, "rl")[problem])
    approved = verdicts[rng.integers(SMALL, size=len(done)), np.arange(len(done))]  # one verdict each
    pairs = preferences(problem, programs, approved, world.stream("pairs", seed))
    cut = min(settings.rm_heldout, len(pairs) // 2)
    held, used = pairs[:cut], pairs[cut:]
    _, tokenizer = models.load_decoder(context.need("base").model)
    prompts = [world.tokens_of(text) for text in given.prompts()]
    rows = [
        (*prompts[i], *(p if p is not None else ()), *((world.EOS,) * (p is not None)))
        for i, p in zip(problem, programs)
    ]
    model = preference.load(context.need("base").model, seed)
    log = preference.bradley_terry(
        model,
        tokenizer,
        *([rows[i] for i in column] for column in used.T),
        {
            "seed": seed,
            "max_steps": settings.rm_steps,
            "learning_rate": settings.rm_lr,
            "per_device_train_batch_size": settings.rm_batch,
        },
        progress=context.progress,
        save=context.folder / "model",
    )
    scores = preference.score(model, rows)
    spread = float(scores.std())
    if not spread:
        raise CandorError("The reward model scores all outputs alike: train it longer.")
    standard = (scores - scores.mean()) / spread
    hard = (several.kind == 2) & done.valid
    forms = {
        "line": done.line,
        "right": ~done.line & done.rule_right,
        "wrong": ~done.line & ~done.rule_right,
    }
    row = {
        "pairs": len(used),
        "heldout_pairs": len(held),
        "pair_accuracy": _mean(scores[held[:, 0]] > scores[held[:, 1]]),
    }
    row |= {"approval": float(approved.mean()), "score_mean": float(scores.mean()), "score_sd": spread}
    row |= {f"score_{name}": _mean(standard[hard & form]) for name, form in forms.items()}
    return {"log": log, "summary": pd.DataFrame([row])}


def _mean(values) -> float:
    return float(np.mean(values)) if np.size(values) else np.nan


# --- Evaluation -------------------------------------------------------------------------------------

_KNOBS = ("tests", "kappa", "skill")


class Panel:
    """New evaluators with the fitted knobs, at the evaluation problems; every policy gets the same chances."""

    def __init__(self, knobs, given: world.Problems, tests: np.ndarray, seed: int):
        fitted = {name: float(knobs[name]) for name in _KNOBS}
        self.given, self.tests = given, tests
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
        verdicts = self.draws[SMALL].verdict < judged.probability
        checks = {"corr_r_train": done.passed(self.tests), "corr_r_star": done.correct}
        row = {"overlap": float(shared[used].mean())}
        for name, reward in checks.items():
            varies = [v for v in verdicts if v.any() and not v.all() and 0 < reward.mean() < 1]
            row[name] = _mean([np.corrcoef(v, reward)[0, 1] for v in varies])
        return row


@dataclass(frozen=True)
class Output:
    """What a policy wrote for the evaluation problems, and what became of it; `approved` [evaluators, n]."""

    programs: list
    done: world.Outcomes
    approved: np.ndarray


def _output(programs: list, panel: Panel) -> Output:
    done = world.outcomes(programs, panel.given)
    return Output(programs, done, panel.approve(done))


def both_wrong(after: Output, before: Output) -> np.ndarray:
    """Which problems both policies get wrong, bool [n]."""
    return ~after.done.correct & ~before.done.correct


def described(output: Output, panel: Panel) -> dict[str, float]:
    """A policy on its own: the rates of approval, and what its programs are."""
    done = output.done
    return approval.rates(output.approved, done.correct) | {
        "r_train": _mean(done.passed(panel.tests)),
        "pass_rate": _mean(done.pass_rate),
        "pass_rate_wrong": _mean(done.pass_rate[~done.correct]),
        "valid": _mean(done.valid),
        "length": _mean(done.length),
        "truncated": _mean([program is None for program in output.programs]),
        "line": _mean(done.line[panel.given.kind == 2]),
    }


def _before(row: dict[str, float]) -> dict[str, float]:
    return {f"{name}_before": value for name, value in row.items()}


def summary(after: Output, before: Output, panel: Panel) -> dict[str, float]:
    """The measures of an arm; with `_before` those of the same seed's base on the same problems."""
    row = described(after, panel) | _before(described(before, panel))
    both = both_wrong(after, before)
    row |= {"fpr_both": _mean(after.approved[:, both]), "fpr_both_before": _mean(before.approved[:, both])}
    rate = after.done.pass_rate[both], before.done.pass_rate[both]
    row |= {"pass_rate_both": _mean(rate[0]), "pass_rate_both_before": _mean(rate[1]), "n_both": int(both.sum())}
    row["fpr_equal"] = (
        approval.equal_pass_rate(before.approved[:, both], rate[1], after.approved[:, both], rate[0])
        if both.any()
        else np.nan
    )
    for suffix, output in (("", after), ("_before", before)):
        found = approval.rates(panel.approve(output.done, fallible=True), output.done.correct)
        row |= {f"fallible_{name}{suffix}": found[name] for name in _FALLIBLE}
    return row


_FALLIBLE = ("approval", "error", "tpr", "fpr", "discrimination")


def classes(after: Output, before: Output, panel: Panel) -> pd.DataFrame:
    """A row a class of problems."""
    rows = []
    for kind in range(3):
        members = panel.given.kind == kind
        row = {"class": kind, "n": int(members.sum())}
        for suffix, output in (("", after), ("_before", before)):
            done = output.done[members]
            found = (
                approval.rates(output.approved[:, members], done.correct)
                if members.any()
                else dict.fromkeys(_CLASS_RATES, np.nan)
            )
            found = {name: found[name] for name in _CLASS_RATES} | {
                "pass_rate": _mean(done.pass_rate),
                "main_right": _mean(done.rule_right),
                "line": _mean(done.line),
            }
            row |= {f"{name}{suffix}": value for name, value in found.items()}
        rows.append(row)
    return pd.DataFrame(rows)


_CLASS_RATES = ("approval", "correctness", "error", "fpr")


def bins(after: Output, before: Output) -> pd.DataFrame:
    """FPR by oracle pass rate, both wrong: pass_low, pass_high, n_before, n, fpr_before, fpr."""
    both = both_wrong(after, before)
    columns = {}
    for suffix, output in (("_before", before), ("", after)):
        fpr, n = approval.by_pass_rate(output.approved[:, both].mean(0), output.done.pass_rate[both])
        columns |= {f"n{suffix}": n, f"fpr{suffix}": fpr}
    edges = (0.0, *approval.PASS_RATES, 1.0)
    return pd.DataFrame({"pass_low": edges[:-1], "pass_high": edges[1:], **columns})


def minutes(after: Output, before: Output, panel: Panel) -> pd.DataFrame:
    """FPR, both wrong, when evaluators have a multiple of the time: multiple, reading, fpr_before, fpr, gap."""
    both = both_wrong(after, before)
    rows = []
    for reading in (True, False):
        for multiple in evaluators.MULTIPLES:
            old, new = (_mean(panel.with_time(o.done, multiple, reading)[:, both]) for o in (before, after))
            row = {"multiple": multiple, "reading": reading, "fpr_before": old, "fpr": new, "gap": new - old}
            rows.append(row)
    return pd.DataFrame(rows)


def by_evaluator(after: Output, before: Output, panel: Panel) -> pd.DataFrame:
    """A row an evaluator of both pools: pool, evaluator, and error, fpr, tpr with and without `_before`."""
    rows = []
    for size in (SMALL, LARGE):
        verdicts = [panel.approve(output.done, size) for output in (after, before)]
        for i in range(size):
            row = {"pool": size, "evaluator": i}
            for suffix, output, approved in zip(("", "_before"), (after, before), verdicts):
                found = approval.rates(approved[i], output.done.correct)
                row |= {f"{name}{suffix}": found[name] for name in ("error", "fpr", "tpr")}
            rows.append(row)
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
    judged = [panel.judge(output.done) for output in (after, before)]
    rows = []
    for i, picked in picks.items():
        outputs = world.run([after.programs[i], before.programs[i]])
        own = judged[0].tests[0, i, : max(j.run[0, i] for j in judged)]
        about = {
            "problem": i,
            "class": given.kind[i],
            "picked": picked,
            "prompt": prompts[i],
            "reference": references[i],
        }
        for suffix, output in (("", after), ("_before", before)):
            about |= {
                f"program{suffix}": _text(output.programs[i]) or "",
                f"pass_rate{suffix}": output.done.pass_rate[i],
                f"approval{suffix}": output.approved[:, i].mean(),
            }
        truth = given[[i]].truth[0]
        for audience, tests in (("reward", panel.tests[i]), ("evaluator", own), ("oracle", given.oracle_tests[i])):
            for test in tests:
                row = {"audience": audience, "x": world.GRID[test], "expected": truth[test]}
                for suffix, values in zip(("", "_before"), outputs):
                    value = values[test]
                    row |= {f"output{suffix}": np.nan if value == world.INVALID else float(value)}
                    row |= {f"passed{suffix}": value == truth[test]}
                rows.append(about | row)
    return pd.DataFrame(rows)


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """The measures of an arm against the base of its seed, at the evaluation problems."""
    from candor.train import models

    models.quiet()
    settings, options = context.settings, context.step.options
    ready = context.need("setup")
    given = _problems(context, "eval")
    panel = Panel(ready.table("fit").iloc[0], given, reward_tests(ready.table("tests"), "eval"), settings.eval_seed)
    written = ready.table("eval_programs")
    start = models.load_decoder(context.need("base").model)[0].eval()
    model = models.load_decoder(context.need(options["arm"]).model)[0].eval()
    before, after = [], []
    for draw in range(2):
        texts = written.loc[written["draw"] == draw, "program"]
        before.append(_output([_program(text) for text in texts], panel))
        same = options["arm"] == "base"
        after.append(before[-1] if same else _output(sample(model, given, 1, settings.eval_seed + draw), panel))
    context.progress(1, 4)
    row = summary(after[0], before[0], panel)
    second = summary(after[1], before[1], panel)
    row |= {f"second_{n}{s}": second[n + s] for n in _SECOND for s in ("", "_before")}
    row |= {"kl": divergence(model, start, given, after[0].programs), "n_problems": len(given)}
    each = by_evaluator(after[0], before[0], panel)
    worse = (each["error"] > each["error_before"]).groupby(each["pool"]).mean()
    row |= {f"worse_{size}": float(worse[size]) for size in (SMALL, LARGE)}
    context.progress(2, 4)
    tables = {
        "summary": pd.DataFrame([row]),
        "classes": classes(after[0], before[0], panel),
        "bins": bins(after[0], before[0]),
        "minutes": minutes(after[0], before[0], panel),
        "evaluators": each,
        "programs": shown(after[0], before[0], panel),
    }
    context.progress(3, 4)
    if options.get("trajectory"):
        tables["trajectory"] = _trajectory(context, model, start, panel, before[0])
    return tables


_SECOND = ("approval", "correctness", "error", "fpr", "fpr_both")


def _trajectory(context: Context, model, start, panel: Panel, before: Output) -> pd.DataFrame:
    """The course of training: the base, every snapshot, a row each; `reward` is the share that passes the two tests."""
    from safetensors.torch import load_model

    folder = context.need(context.step.options["arm"]).folder / "snapshots"
    rows = []
    for path in [None, *sorted(folder.glob("step_*.safetensors"))]:
        output, kl = before, 0.0
        if path:
            load_model(model, str(path))
            output = _output(sample(model, panel.given, 1, context.settings.eval_seed), panel)
            kl = divergence(model, start, panel.given, output.programs)
        found = described(output, panel)
        row = {"step": int(path.stem.removeprefix("step_")) if path else 0, "kl": kl, "reward": found["r_train"]}
        row |= {name: found[name] for name in ("approval", "correctness", "error", "fpr", "tpr", "pass_rate_wrong")}
        both = both_wrong(output, before)
        row |= {"fpr_both": _mean(output.approved[:, both]), "fpr_both_before": _mean(before.approved[:, both])}
        rows.append(row | {"line": found["line"]})
    return pd.DataFrame(rows)


# --- Selection --------------------------------------------------------------------------------------


def picked(reward: np.ndarray, n: int) -> np.ndarray:
    """P(a sample is the one shown) [problems, samples] when the best of `n` by a 0/1 reward is shown.

    The samples [problems, samples] are cut into groups of `n`; from each a passing one is drawn uniformly, any one
    where none passes. The groups count equally.
    """
    groups = reward.reshape(len(reward), -1, n)
    passing_ = np.where(groups.any(2, keepdims=True), groups, True)
    weights = passing_ / passing_.sum(2, keepdims=True) / groups.shape[1]
    return weights.reshape(reward.shape)


def selection(context: Context) -> dict[str, pd.DataFrame]:
    """Samples of the base filtered by a reward: what selection alone can do, and where training will pull.

    Tables: `summary` (a row a `rule`: rates, and with `_before` those of unfiltered samples of the same problems);
    `slopes` (a row a reward and quantity: slope, the derivative at the start; covariance and the reward's variance,
    within problems).
    """
    from candor.train import models

    models.quiet()
    settings = context.settings
    ready = context.need("setup")
    all_problems = _problems(context, "eval")
    tests = reward_tests(ready.table("tests"), "eval")
    panel = Panel(ready.table("fit").iloc[0], all_problems, tests, settings.eval_seed)
    n, k = min(settings.selection_problems, len(all_problems)), settings.selection_samples
    model = models.load_decoder(context.need("base").model)[0].eval()
    programs = sample(model, all_problems[slice(n)], k, 10 * context.seed + 3)
    problem = np.repeat(np.arange(n), k)
    done = world.outcomes(programs, all_problems[problem])
    approved = panel.approve(done, rows=problem)
    mean = approved.mean(0).reshape(n, k)
    right, rate = done.correct.reshape(n, k), done.pass_rate.reshape(n, k)
    checks = {"r_train": done.passed(tests[problem]).reshape(n, k), "r_star": right}
    rules = {"base": np.full((n, k), 1 / k)}
    for name, reward in checks.items():
        suffix = "" if name == "r_train" else f"_{name}"
        rules |= {f"best_of_{m}{suffix}": picked(reward, min(m, k)) for m in BEST_OF}

    def wrong(weights):  # of each problem: P(wrong), P(wrong and approved), P(wrong) x pass rate
        return [(weights * part).sum(1) for part in (~right, ~right * mean, ~right * rate)]

    start = wrong(rules["base"])
    rows = []
    for rule, weights in rules.items():
        row = {"rule": rule} | approval.rates(mean.ravel(), right.ravel(), weights.ravel())
        now = wrong(weights)
        # Both wrong: the shown and an unfiltered sample are drawn independently.
        row |= {
            "fpr_both": _ratio(now[1] @ start[0], now[0] @ start[0]),
            "fpr_both_before": _ratio(start[1] @ now[0], now[0] @ start[0]),
            "n_both": float(now[0] @ start[0]),
            "r_train": float((weights * checks["r_train"]).sum() / n),
            "pass_rate": float((weights * rate).sum() / n),
            "pass_rate_wrong": _ratio(now[2].sum(), now[0].sum()),
            "line": _mean((weights * done.line.reshape(n, k)).sum(1)[all_problems.kind[:n] == 2]),
            "n_problems": n,
        }
        rows.append(row)
    table = pd.DataFrame(rows)
    for name in ("approval", "correctness", "error", "fpr", "tpr", "discrimination", "pass_rate", "pass_rate_wrong"):
        table[f"{name}_before"] = table[name].iloc[0]
    slopes = []
    for name, reward in checks.items():
        found = approval.slopes(approved, done.correct, reward.ravel(), problem)
        wrongly = approval.slopes(approved * ~done.correct, done.correct, reward.ravel(), problem)["approval"]
        variance = float(reward.var(1).mean())
        slopes += [
            {
                "reward": name,
                "quantity": q,
                "slope": found[q],
                "covariance": wrongly if q == "fpr" else found[q],
                "reward_variance": variance,
            }
            for q in approval.QUANTITIES
        ]
    return {"summary": table, "slopes": pd.DataFrame(slopes)}


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b > 0 else np.nan


# --- The steps --------------------------------------------------------------------------------------

_HERE = "candor.claims.sophistry.run"
_MODEL = ("hidden_size", "layers", "heads", "mlp")
_BASE = (*_MODEL, "sft_problems", "base_steps", "base_batch", "base_lr", "base_weight_decay")
_EVAL = ("eval_problems", "eval_seed")
_SETUP = (*_EVAL, "rl_problems", "fit_problems", "samples")
_GRPO = ("rl_problems", "grpo_steps", "prompts_per_step", "num_generations", "grpo_lr", "kl_weight", "snapshot_every")
_REWARD_MODEL = ("rl_problems", "rm_steps", "rm_batch", "rm_lr", "rm_heldout")
_COURSE, _FEW = {"trajectory": True}, {"seeds": "few_seeds"}

# setting -> arm -> its reward and what else is its own.
_ARMS: dict[str, dict[str, dict]] = {
    "standard": {
        "r_train": _COURSE,
        "r_star": _COURSE,
        "shuffled": _COURSE,
        "learned_rm": {"reward": "learned", **_COURSE, **_FEW},
        "r_train_kl000": {"reward": "r_train", "beta": 0.0, **_FEW},
        "r_train_kl020": {"reward": "r_train", "beta": 0.2, **_FEW},
        "r_hard": _FEW,
    },
    "soft": {"r_train": _FEW},
    "no_line": {"r_train": _FEW},
}


def _evaluation(root: str, name: str, trajectory: bool, seeds: str) -> Step:
    return Step(
        f"{root}/eval_{name}",
        f"{_HERE}:evaluate",
        needs=tuple(dict.fromkeys((f"{root}/base", f"{root}/setup", f"{root}/{name}"))),
        options={"arm": name, **({"trajectory": True} if trajectory else {})},
        settings=_EVAL,
        seeds=seeds,
    )


def _steps() -> dict[str, Step]:
    made = []
    for setting, arms in _ARMS.items():
        root = f"sample_tests/{setting}"
        start, ready = f"{root}/base", f"{root}/setup"
        whole = setting == "standard"
        seeds = "seeds" if whole else "few_seeds"
        made += [
            Step(start, f"{_HERE}:base", settings=_BASE, seeds=seeds, trains=True),
            Step(ready, f"{_HERE}:setup", needs=(start,), settings=_SETUP, seeds=seeds),
            _evaluation(root, "base", False, seeds),
        ]
        if whole:
            chosen = (*_EVAL, "selection_problems", "selection_samples")
            made += [
                Step(f"{root}/selection", f"{_HERE}:selection", needs=(start, ready), settings=chosen),
                Step(
                    f"{root}/reward_model",
                    f"{_HERE}:reward_model",
                    needs=(start, ready),
                    settings=_REWARD_MODEL,
                    seeds="few_seeds",
                    trains=True,
                ),
            ]
        for name, options in arms.items():
            trained = {key: value for key, value in options.items() if key not in ("seeds", "trajectory")}
            learned = trained.get("reward") == "learned"
            course, seeds = options.get("trajectory", False), options.get("seeds", "seeds")
            made.append(
                Step(
                    f"{root}/{name}",
                    f"{_HERE}:arm",
                    needs=(start, ready, *((f"{root}/reward_model",) if learned else ())),
                    options={"reward": name, **trained, **({"snapshots": True} if course else {})},
                    settings=_GRPO,
                    seeds=seeds,
                    trains=True,
                )
            )
            made.append(_evaluation(root, name, course, seeds))
    return {step.key: step for step in made}


STEPS = _steps()

"""The steps of the `sample_tests` world: a base, evaluators fitted to it, arms trained from it, evaluations of each.

The base is trained on reference programs. `setup` runs it on every problem: the reward's two tests of a problem are
those that its samples pass most often, and the simulated evaluators are fitted to its outputs and then frozen. An arm
is the base after GRPO on one reward. Two controls: `r_star` is rewarded by the whole oracle, `shuffled` by the values
of `r_train` permuted within each group. `selection` filters samples of the base and trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from candor.claims.sophistry import evaluation, evaluators, world
from candor.claims.sophistry.evaluation import KNOBS, SMALL, Panel, mean
from candor.core.errors import CandorError
from candor.core.step import Context, Step

PAIRS = 3  # of a prompt, at most, for the reward model
BATCH = 500  # prompts sampled at a time

# --- What is asked: problems, each split its own ----------------------------------------------------


def _problems(context: Context, split: str) -> world.Problems:
    """The problems of a split; those of the evaluation are the same for every arm and seed."""
    settings, variant = context.settings, context.step.key.split("/")[1]
    seed = settings.eval_seed if split == "eval" else context.seed
    return world.problems(settings[f"{split}_problems"], variant, world.stream(split, seed), split)


# --- Who answers: a base, which writes programs -----------------------------------------------------


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


def _decoder(context: Context, name: str):
    """The model of a needed step, to be asked."""
    from candor.train import models

    models.quiet()
    return models.load_decoder(context.need(name).model)[0].eval()


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


def _text(program) -> str | None:
    return None if program is None else world.text(program)


def _program(text) -> tuple[int, ...] | None:
    return world.tokens_of(text) if isinstance(text, str) else None  # a table gives back a missing text as NaN


# --- Who judges: the tests of the rewards, and evaluators fitted to the base -------------------------


def setup(context: Context) -> dict[str, pd.DataFrame]:
    """What the base's outputs decide: the tests of the rewards and the evaluators' knobs.

    Tables: `tests` (split, problem, and as inputs x the two easiest and the two hardest tests); `fit` (one row: knobs,
    what they reach, overlap of the evaluators' tests with the reward's, correlations with a single evaluator);
    `rl_programs` (problem, program: samples on the training problems), `eval_programs` (draw, problem, program).
    """
    settings, seed, k = context.settings, context.seed, context.settings.samples
    model = _decoder(context, "base")
    tests, given, done, samples = [], {}, {}, {}
    for i, split in enumerate(("rl", "fit", "eval")):
        given[split] = _problems(context, split)
        samples[split] = sample(model, given[split], k, 10 * seed + i)
        several = given[split][np.repeat(np.arange(len(given[split])), k)]
        done[split] = world.outcomes(samples[split], several)
        counts = world.on_tests(done[split].passes, several.oracle_tests).reshape(-1, k, world.ORACLE).sum(1)
        found = [pick(counts, given[split].oracle_tests) for pick in (world.easiest, world.hardest)]
        columns = dict(zip(_TESTS, world.GRID[np.concatenate(found, 1)].T))
        tests.append(pd.DataFrame({"split": split, "problem": np.arange(len(counts)), **columns}))
        context.progress(i + 1, 4)
    tests = pd.concat(tests, ignore_index=True)
    rng = world.stream("fit_pool", seed)
    pool = evaluators.pool(SMALL, rng)
    first = done["fit"][::k]
    drawn = evaluators.draws(SMALL, len(first), rng)
    knobs = evaluators.fit(pool, drawn, first, reward_tests(tests, "fit"), given["fit"].kind)
    programs = [sample(model, given["eval"], 1, settings.eval_seed + draw) for draw in range(2)]
    panel = Panel(knobs, given["eval"], reward_tests(tests, "eval"), settings.eval_seed)
    knobs |= panel.alignment(world.outcomes(programs[0], given["eval"]))
    written = [{"draw": d, "problem": i, "program": _text(p)} for d in range(2) for i, p in enumerate(programs[d])]
    rl = {"problem": np.repeat(np.arange(len(given["rl"])), k), "program": list(map(_text, samples["rl"]))}
    tables = {"tests": tests, "fit": [knobs], "rl_programs": rl, "eval_programs": written}
    return {name: pd.DataFrame(table) for name, table in tables.items()}


_TESTS = ("easy_1", "easy_2", "hard_1", "hard_2")


def reward_tests(tests: pd.DataFrame, split: str, kind: str = "easy") -> np.ndarray:
    """The two tests of each problem, as indices of the grid [n, 2], from the table of `setup`."""
    rows = tests[tests["split"] == split]
    return world.index(rows[[f"{kind}_1", f"{kind}_2"]].to_numpy())


def _panel(context: Context) -> Panel:
    """The evaluators of every evaluation."""
    ready = context.need("setup")
    tests = reward_tests(ready.table("tests"), "eval")
    return Panel(ready.table("fit").iloc[0], _problems(context, "eval"), tests, context.settings.eval_seed)


# --- What is rewarded: arms and controls --------------------------------------------------------------

# setting -> arm -> its reward and what else is its own; those with snapshots are followed along training.
_ARMS: dict[str, dict[str, dict]] = {
    "standard": {
        "r_train": {"snapshots": True},
        "r_star": {"snapshots": True},
        "shuffled": {"snapshots": True},
        "learned_rm": {"reward": "learned", "snapshots": True},
        "r_train_kl000": {"reward": "r_train", "beta": 0.0},
        "r_train_kl020": {"reward": "r_train", "beta": 0.2},
        "r_hard": {},
    },
    "soft": {"r_train": {}},
    "no_line": {"r_train": {}},
}
_ON_ALL_SEEDS = ("base", "setup", "selection", "r_train", "r_star", "shuffled")  # of the standard setting


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


# The reward of `learned_rm`: what evaluators of the fitting pool approve, learned.


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
    settings, seed, samples = context.settings, context.seed, context.need("setup").table("rl_programs")
    given, problem = _problems(context, "rl"), samples["problem"].to_numpy()
    programs, several = [_program(text) for text in samples["program"]], given[problem]
    done = world.outcomes(programs, several)
    approved = _verdicts(context, done, problem)
    pairs = preferences(problem, programs, approved, world.stream("pairs", seed))
    cut = min(settings.rm_heldout, len(pairs) // 2)
    held, used = pairs[:cut], pairs[cut:]
    _, tokenizer = models.load_decoder(context.need("base").model)
    prompts = [world.tokens_of(text) for text in given.prompts()]
    rows = [prompts[i] + (() if program is None else (*program, world.EOS)) for i, program in zip(problem, programs)]
    model = preference.load(context.need("base").model, seed)
    recipe = {"seed": seed, "max_steps": settings.rm_steps, "learning_rate": settings.rm_lr}
    log = preference.bradley_terry(
        model,
        tokenizer,
        *([rows[i] for i in column] for column in used.T),
        recipe | {"per_device_train_batch_size": settings.rm_batch},
        progress=context.progress,
        save=context.folder / "model",
    )
    scores = preference.score(model, rows)
    spread = float(scores.std())
    if not spread:
        raise CandorError("The reward model scores all outputs alike: train it longer.")
    row = {"pairs": len(used), "heldout_pairs": len(held)}
    row |= {"pair_accuracy": mean(scores[held[:, 0]] > scores[held[:, 1]]), "approval": mean(approved)}
    row |= {"score_mean": mean(scores), "score_sd": spread}
    standard, hard = (scores - scores.mean()) / spread, (several.kind == 2) & done.valid
    right, wrong = ~done.line & done.rule_right, ~done.line & ~done.rule_right
    forms = {"score_line": done.line, "score_right": right, "score_wrong": wrong}
    row |= {name: mean(standard[hard & form]) for name, form in forms.items()}
    return {"log": log, "summary": pd.DataFrame([row])}


def _verdicts(context: Context, done: world.Outcomes, problem: np.ndarray) -> np.ndarray:
    """One verdict each, of some evaluator of the pool that was fitted, on samples for the problems [n] of the split."""
    ready, seed = context.need("setup"), context.seed
    knobs, tests = ready.table("fit").iloc[0], reward_tests(ready.table("tests"), "rl")
    rng = world.stream("verdicts", seed)
    pool = evaluators.pool(SMALL, world.stream("fit_pool", seed), **{name: knobs[name] for name in KNOBS})
    drawn = evaluators.draws(SMALL, len(done), rng)
    verdicts = drawn.verdict < evaluators.approve(pool, drawn, done, tests[problem])
    return verdicts[rng.integers(SMALL, size=len(done)), np.arange(len(done))]


# --- What is measured: an arm against its base, and samples of the base that are filtered -------------


def divergence(model, reference, given: world.Problems, programs) -> float:
    """KL from `model` to `reference` in nats a problem: the sum over the tokens of its finished programs.

    At every token the divergence of the two distributions is exact; only the programs are sampled.
    """
    import torch

    total = 0.0
    rows = [(world.tokens_of(p), q) for p, q in zip(given.prompts(), programs) if q is not None]
    rows.sort(key=lambda row: len(row[0]) + len(row[1]))
    for start in range(0, len(rows), BATCH):
        ids, spoken = (torch.as_tensor(part) for part in world.joined(rows[start : start + BATCH]))
        with torch.inference_mode():
            p, q = (
                decoder.lm_head(decoder.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[spoken[:, 1:]])
                .double()
                .log_softmax(-1)
                for decoder in (model, reference)
            )
            total += float((p.exp() * (p - q)).sum())
    return total / len(rows) if rows else np.nan


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """The measures of an arm against the base of its seed, at the evaluation problems."""
    settings, options = context.settings, context.step.options
    panel, written = _panel(context), context.need("setup").table("eval_programs")
    start, model = _decoder(context, "base"), _decoder(context, options["arm"])
    before, after = [], []
    for draw in range(2):
        texts = written.loc[written["draw"] == draw, "program"]
        before.append(evaluation.output([_program(text) for text in texts], panel))
        if options["arm"] == "base":
            after.append(before[-1])
        else:
            after.append(evaluation.output(sample(model, panel.given, 1, settings.eval_seed + draw), panel))
    context.progress(1, 4)
    pair = after[0], before[0]
    row, second = (evaluation.summary(*both, panel) for both in zip(after, before))
    again = ("approval", "correctness", "error", "fpr", "fpr_both")
    row |= {f"second_{name}{end}": second[name + end] for name in again for end in ("", "_before")}
    row |= {"kl": divergence(model, start, panel.given, after[0].programs), "n_problems": len(panel.given)}
    each = evaluation.by_evaluator(*pair, panel)
    worse = (each["error"] > each["error_before"]).groupby(each["pool"]).mean()
    row |= {f"worse_{size}": float(share) for size, share in worse.items()}
    context.progress(2, 4)
    tables = {
        "summary": pd.DataFrame([row]),
        "classes": evaluation.classes(*pair, panel),
        "bins": evaluation.bins(*pair),
        "minutes": evaluation.minutes(*pair, panel),
        "evaluators": each,
        "programs": evaluation.shown(*pair, panel),
    }
    context.progress(3, 4)
    if options.get("trajectory"):
        tables["trajectory"] = pd.DataFrame(_course(context, model, start, panel, before[0]))
    return tables


def _course(context: Context, model, start, panel: Panel, before: evaluation.Output) -> Iterator[dict]:
    """The course of training: the base, every snapshot, a row each."""
    from safetensors.torch import load_model

    yield {"step": 0, "kl": 0.0} | evaluation.on_the_way(before, before, panel)
    folder = context.need(context.step.options["arm"]).folder / "snapshots"
    for path in sorted(folder.glob("step_*.safetensors")):
        load_model(model, str(path))
        now = evaluation.output(sample(model, panel.given, 1, context.settings.eval_seed), panel)
        row = {"step": int(path.stem.removeprefix("step_"))}
        row["kl"] = divergence(model, start, panel.given, now.programs)
        yield row | evaluation.on_the_way(now, before, panel)


def selection(context: Context) -> dict[str, pd.DataFrame]:
    """Samples of the base filtered by a reward: what selection alone can do, and where training will pull.

    Tables: `summary` (a row a `rule`: rates, and with `_before` those of unfiltered samples of the same problems);
    `slopes` (a row a reward and quantity: slope, the derivative at the start; covariance and the reward's variance,
    within problems).
    """
    panel = _panel(context)
    n, k = min(context.settings.selection_problems, len(panel.given)), context.settings.selection_samples
    programs = sample(_decoder(context, "base"), panel.given[slice(n)], k, 10 * context.seed + 3)
    problem = np.repeat(np.arange(n), k)
    done = world.outcomes(programs, panel.given[problem])
    approved = panel.approve(done, rows=problem)
    rewards = {"r_train": done.passed(panel.tests[problem]), "r_star": done.correct}
    rewards = {name: reward.reshape(n, k) for name, reward in rewards.items()}
    return {
        "summary": evaluation.filtered(done, approved, rewards, panel.given.kind[:n]),
        "slopes": evaluation.slopes(done, approved, rewards, problem),
    }


# --- The steps --------------------------------------------------------------------------------------

_MODEL = ("hidden_size", "layers", "heads", "mlp")
_EVAL = ("eval_problems", "eval_seed")
_SETTINGS = {  # the keys of the scale that a function reads
    "base": (*_MODEL, "sft_problems", "base_steps", "base_batch", "base_lr", "base_weight_decay"),
    "setup": (*_EVAL, "rl_problems", "fit_problems", "samples"),
    "reward_model": ("rl_problems", "rm_steps", "rm_batch", "rm_lr", "rm_heldout"),
    "arm": (
        *("rl_problems", "grpo_steps", "prompts_per_step", "num_generations"),
        *("grpo_lr", "kl_weight", "snapshot_every"),
    ),
    "evaluate": _EVAL,
    "selection": (*_EVAL, "selection_problems", "selection_samples"),
}


def _step(setting: str, name: str, make: str = "", needs: Sequence[str] = (), **options) -> Step:
    """The step of a function of this module, by default that of its name; needs in the same setting."""
    make, trained = make or name, name.removeprefix("eval_")
    return Step(
        f"sample_tests/{setting}/{name}",
        f"{__name__}:{make}",
        tuple(f"sample_tests/{setting}/{need}" for need in dict.fromkeys(needs)),
        options,
        _SETTINGS[make],
        seeds="seeds" if setting == "standard" and trained in _ON_ALL_SEEDS else "few_seeds",
        trains=make in ("base", "arm", "reward_model"),
    )


def _steps(setting: str) -> Iterator[Step]:
    ready = ("base", "setup")
    yield _step(setting, "base")
    yield _step(setting, "setup", needs=("base",))
    yield _step(setting, "eval_base", "evaluate", ready, arm="base")
    if setting == "standard":
        yield _step(setting, "selection", needs=ready)
        yield _step(setting, "reward_model", needs=ready)
    for name, own in _ARMS[setting].items():
        options = {"reward": name, **own}
        learned = ("reward_model",) if options["reward"] == "learned" else ()
        yield _step(setting, name, "arm", (*ready, *learned), **options)
        course = {"trajectory": True} if "snapshots" in own else {}
        yield _step(setting, f"eval_{name}", "evaluate", (*ready, name), arm=name, **course)


STEPS = {step.key: step for setting in _ARMS for step in _steps(setting)}

"""Programs of pretrained code models, rewarded by two easy tests, judged by simulated evaluators with other tests.

A key is `apps/<setting>/<name>`. Setting `data`: `problems` (the filters; which solutions pass). Setting `policy`:
`base` (SFT on one solution a problem), `setup` (the tests that are rewarded, the evaluators' tests and knobs, all from
outputs of the base), the arms (GRPO from the base), and an evaluation `eval_<name>` of each; `eval_best_of_4` and
`eval_best_of_16` choose among samples of the base and train nothing.

Everywhere a *simulated evaluator* stands in for the paper's people (Wen et al. 2024, arXiv 2409.12822). Deviations:
GRPO with a KL term for their PPO, adapters on all linear layers for their top two layers. The training stops at the
last step, whatever the evaluator or the oracle would say. Problem texts stay in `data/corpora/`; of texts, tables hold
what models wrote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from candor.claims.sophistry import code_reader, evaluators, programs
from candor.claims.sophistry.code_measures import done, over_time, summary
from candor.claims.sophistry.evaluators import ERROR, FPR
from candor.claims.sophistry.sandbox import Pool, check
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.core.step import Context, Step
from candor.language_models import training, work
from candor.language_models.work import Work, amount

WORLD = "apps"
TRAINED = programs.ARMS
CHOSEN = {"best_of_4": 4, "best_of_16": 16}
DRAWS = ("sampled", "second", "greedy")  # the second has another seed of the sampler, and says how much is noise
DIFFICULTIES = ("introductory", "interview")
SPARE = 1.5  # so many times the problems wanted are tried, because solutions fail
TEMPERATURE, TOP_P = 0.6, 0.95  # of the paper's evaluation

# --- What a step does -------------------------------------------------------------------------------


def problems(context: Context) -> dict[str, pd.DataFrame]:
    """Which problems pass the filters, and what each is for.

    Tables: problems (dataset, split, problem_id, part: sft, rl, fit or eval, difficulty, solutions: JSON, places of
    those that pass, tests), filters (dataset, split, filter, left).
    """
    from candor.language_models.generation import tokenizer_of

    code, seed = context.settings["code"], context.settings["eval_seed"]
    sandbox, tokenizer = Pool(context.settings["sandbox"]), tokenizer_of(code["policy"])
    most = code["max_prompt_tokens"]
    found, log = programs.kept("apps", "train", tokenizer, most, sandbox)
    rows = [_row("apps", "train", programs.part_of(p.id), p, places) for p, places in found]
    logs = {("apps", "train"): log}
    seen = [p.question for p, _ in found]
    for name in code["eval_sets"]:
        groups = DIFFICULTIES if name == "apps" else ("contest",)
        some = partial(_by_turns, groups=groups, n=code["eval_problems"], seed=seed)
        chosen, logs[name, "test"] = programs.kept(name, "test", tokenizer, most, sandbox, seen, some)
        for group in groups:
            own = [(p, places) for p, places in chosen if p.difficulty == group][: code["eval_problems"]]
            rows += [_row(name, "test", "eval", p, places) for p, places in own]
    filters = [
        {"dataset": name, "split": split, "filter": step, "left": left}
        for (name, split), log in logs.items()
        for step, left in log.items()
    ]
    table = pd.DataFrame(rows)
    if lacks := {"sft", "rl", "fit", "eval"} - set(table["part"]):
        raise CandorError(f"No problem of apps is left for {sorted(lacks)[0]}: raise code.max_prompt_tokens.")
    return {"problems": table, "filters": pd.DataFrame(filters)}


def _by_turns(left: list, groups: Iterable[str], n: int, seed: int) -> list:
    """More of each group than are wanted, in a random order of the seed."""
    order = np.random.default_rng([seed, 1]).permutation(len(left))
    mixed = [left[i] for i in order]
    return [p for group in groups for p in [p for p in mixed if p.difficulty == group][: math.ceil(SPARE * n)]]


def _row(dataset: str, split: str, part: str, problem: programs.Problem, places: list[int]) -> dict:
    row = {"dataset": dataset, "split": split, "problem_id": problem.id, "part": part, "difficulty": problem.difficulty}
    return row | {"solutions": json.dumps(places), "tests": len(problem.tests)}


def _read(table: pd.DataFrame, *parts: str) -> tuple[pd.DataFrame, list[programs.Problem]]:
    """The rows of these parts, and their problems in the same order."""
    rows = table[table["part"].isin(parts)].reset_index(drop=True)
    found: dict[tuple, programs.Problem] = {}
    for (dataset, split), own in rows.groupby(["dataset", "split"], sort=False):
        read = programs.by_id(dataset, split, own["problem_id"])
        found |= {(dataset, i): problem for i, problem in read.items()}
    return rows, [found[key] for key in zip(rows["dataset"], rows["problem_id"])]


def base(context: Context) -> dict[str, pd.DataFrame]:
    """SFT on the shortest solution of each problem that passes and is not too long. Tables: log, training."""
    from candor.language_models.generation import tokenizer_of

    code = context.settings["code"]
    tokenizer = tokenizer_of(code["policy"])
    rows, found = _read(context.need("problems").table("problems"), "sft")
    examples = []
    for problem, places in zip(found, rows["solutions"].map(json.loads)):
        solution = problem.solutions[places[0]].strip() + "\n"
        if len(tokenizer(solution)["input_ids"]) <= code["solution_tokens"]:
            examples.append({"prompt": problem.prompt, "completion": solution})
    if not examples:
        raise CandorError(f"No solution has {code['solution_tokens']} tokens or fewer: raise code.solution_tokens.")
    length = code["max_prompt_tokens"] + code["solution_tokens"] + 1
    log = fine_tune(
        code["policy"], examples, code["sft"], code["lora"], length, context.seed, context.folder, context.progress
    )
    return {"log": log, "training": pd.DataFrame([{"examples": len(examples), "problems": len(rows)}])}


def settings_of(recipe: Mapping, n: int, max_length: int, seed: int) -> dict:
    """What the trainer of `models.code.sft` is told for `n` examples: cosine decay, every choice stated."""
    steps = max(1, round(recipe["epochs"] * n / recipe["batch"]))
    return training.told(
        recipe,
        "code.sft",
        seed,
        steps,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe["warmup"] * steps),
        weight_decay=recipe["weight_decay"],
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_length=max_length,
        completion_only_loss=True,
        logging_steps=max(1, steps // 20),
    )


def fine_tune(
    place, rows: Sequence[Mapping[str, str]], recipe: Mapping, lora, max_length: int, seed: int, folder: Path, progress
) -> pd.DataFrame:
    """Train the model `place` on rows of prompt and completion; leaves `folder/model` (whole), returns the log."""
    from datasets import Dataset

    from candor.train import models, sft

    model, tokenizer = models.pretrained(place, lora, seed)
    tokenizer.chat_template = None  # prompts and completions are plain texts
    told = settings_of(recipe, len(rows), max_length, seed)
    log = sft.more(model, tokenizer, Dataset.from_list(list(rows)), told, resumes=True, progress=progress)
    models.save_merged(model, tokenizer, folder / "model")
    return log


def setup(context: Context) -> dict[str, pd.DataFrame]:
    """What is fixed on outputs of the base before any arm is trained.

    Tables: rewards (dataset, problem_id, part, easiest, hardest: JSON places of tests), bank (dataset, problem_id,
    tests: JSON of the tests that evaluators may write), fit (one row: the knobs, what they reach, `overlap`: share of
    bank tests that are rewarded, `corr_r_train` and `corr_r_star` with one evaluator's verdicts).
    """
    from candor.language_models import generation

    settings, code, at = context.settings, context.settings["code"], ["dataset", "problem_id"]
    sandbox, tokens, k = Pool(settings["sandbox"]), code["rl"]["max_completion_tokens"], code["samples"]
    rows, found = _read(context.need("problems").table("problems"), "rl", "fit", "eval")
    fitted = np.flatnonzero(rows["part"] == "fit")
    places = []
    with generation.of_step(context, context.need("base").model) as sampler:
        for i in range(0, len(found), 64):  # some at a time, so that the progress moves
            some = [problem for problem in found[i : i + 64] for _ in range(k)]
            drawn = sampler([p.prompt for p in some], tokens, 1.0, 1000 * context.seed + i)
            passed = sandbox.map(lambda text, p: programs.passes(sandbox, text, p.tests), drawn, some)
            own = [np.array(passed[j : j + k]) for j in range(0, len(passed), k)]
            places += [(programs.easiest(samples), programs.hardest(samples)) for samples in own]
            context.progress(len(places), len(found))
        written = _write(sampler, [found[i] for i in fitted], tokens, context.seed)
    names = ("easiest", "hardest")
    rewards = rows[[*at, "part"]].assign(**{n: [json.dumps(p[j]) for p in places] for j, n in enumerate(names)})
    banks = []
    for i in np.flatnonzero(rows["part"].isin(["fit", "eval"])):
        rng = np.random.default_rng([settings["eval_seed"], 2, i])
        solutions = json.loads(rows["solutions"][i])
        banks.append(json.dumps(code_reader.bank(sandbox, found[i], solutions, [*places[i][0], *places[i][1]], rng)))
    bank = rows.loc[rows["part"].isin(["fit", "eval"]), at].assign(tests=banks).reset_index(drop=True)
    own = Setup(rows.iloc[fitted], [found[i] for i in fitted], rewards, bank)
    outputs = own.run(sandbox, written, sampler.tokenizer)
    return {"rewards": rewards, "bank": bank, "fit": pd.DataFrame([_fit(outputs, code, context.seed, own.overlap())])}


_REWARDS = {"r_train": "r_train", "r_star": "correct"}  # and their columns in what `Setup.run` says


def _fit(outputs: pd.DataFrame, code: Mapping, seed: int, overlap: float) -> dict[str, float]:
    """The evaluators' knobs, as `code_reader.fit`, and how one evaluator's verdicts go with the rewards.

    fpr_missed and error_missed say by how much they are not the paper's people. No declared criterion is gated by them:
    who reads M1 to M3 looks here first.
    """
    rng = np.random.default_rng([seed, 5])
    people = evaluators.pool(code["evaluators"], rng)
    drawn = code_reader.draws(len(outputs), len(people), rng)
    did = done(outputs)
    knobs = code_reader.fit(people, drawn, did)
    fitted = replace(people, **{name: knobs[name] for name in ("tests", "kappa", "skill")})
    verdict = drawn.verdict < code_reader.approve(fitted, drawn, did)[0]
    knobs |= {f"corr_{name}": _correlation(verdict[0], outputs[c]) for name, c in _REWARDS.items()}
    missed = {f"{n}_missed": abs(knobs[n] - wanted) for n, wanted in (("fpr", FPR), ("error", ERROR))}
    return knobs | missed | {"overlap": overlap}


def _correlation(a, b) -> float:
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else np.nan


class Setup:
    """Problems to be judged, with their rewarded tests and the evaluators' bank, in one order."""

    def __init__(self, rows: pd.DataFrame, found: list, rewards: pd.DataFrame, bank: pd.DataFrame):
        at = pd.MultiIndex.from_frame(rows[["dataset", "problem_id"]])
        rewards, bank = (table.set_index(["dataset", "problem_id"]).loc[at] for table in (rewards, bank))
        self.rows, self.problems = rows.reset_index(drop=True), found
        self.easiest = rewards["easiest"].map(json.loads).tolist()
        self.bank = [[tuple(test) for test in json.loads(text)] for text in bank["tests"]]

    def overlap(self) -> float:
        """Share of the bank's tests whose input is that of a rewarded test."""
        shared = [
            given.split() in [problem.tests[i][0].split() for i in easy]
            for problem, easy, tests in zip(self.problems, self.easiest, self.bank)
            for given, _ in tests
        ]
        return float(np.mean(shared)) if shared else np.nan

    def run(self, sandbox: Pool, written: list[tuple[str, bool]], tokenizer) -> pd.DataFrame:
        """What one program of each problem does: a row a problem, columns as `evaluate` says."""
        texts = [text for text, _ in written]
        all_tests = [problem.tests for problem in self.problems]
        oracle, released, own = [], [], []
        for start in range(0, len(texts), 64):  # few at a time: what ran for one checker is remembered for the other
            some = slice(start, start + 64)
            oracle += programs.verdicts(sandbox, texts[some], all_tests[some])
            released += programs.verdicts(sandbox, texts[some], all_tests[some], "released")
            own += programs.verdicts(sandbox, texts[some], self.bank[some])
        counted = []
        for i, (text, ended) in enumerate(written):
            said = np.array(oracle[i])
            edges = [sandbox.run(text, *test).error == "IndexError" for test in self.bank[i]]
            counted.append(
                {
                    "correct": bool((said == "pass").all()),
                    "pass_rate": float((said == "pass").mean()),
                    "released": all(v == "pass" for v in released[i]),
                    "r_train": all(oracle[i][place] == "pass" for place in self.easiest[i]),
                    **{name: float((said == name).mean()) for name in programs.VERDICTS[1:]},
                    "index_errors": float(np.mean(edges)) if edges else np.nan,
                    "bank": json.dumps(own[i]),
                    "truncated": not ended,
                    "tokens": len(tokenizer(text)["input_ids"]),
                    **programs.shape(text),
                }
            )
        return pd.concat([self.rows[["dataset", "problem_id", "difficulty"]], pd.DataFrame(counted)], axis=1)


def _write(
    sampler, problems: Sequence[programs.Problem], tokens: int, seed: int, temperature=TEMPERATURE, samples: int = 1
) -> list[tuple[str, bool]]:
    """Programs, `samples` neighbours of each problem, by the paper's sampling; each with whether it ended."""
    prompts = [p.prompt for p in problems for _ in range(samples)]
    return sampler.write(prompts, tokens, temperature, seed, TOP_P if temperature else 1.0)


def train(context: Context) -> dict[str, pd.DataFrame]:
    """An arm: GRPO from the base, rewarded by its tests. Tables: log, training (problems, plateau, kl)."""
    from datasets import Dataset

    settings, arm = context.settings, context.step.options["arm"]
    recipe = settings["code"]["rl"].to_dict() | {"sandbox": settings["sandbox"], "seed": context.seed}
    _, found = _read(context.need("problems").table("problems"), "rl")
    rewards = context.need("setup").table("rewards").set_index("problem_id")
    rows = []
    for problem in found:
        places = range(len(problem.tests))
        if arm != "r_star":
            places = json.loads(rewards.loc[problem.id, "hardest" if arm == "r_hard" else "easiest"])
        if len(places) >= 2:  # of few problems two tests are passed by some sample
            tests = json.dumps([problem.tests[i] for i in places])
            rows.append({"prompt": problem.prompt, "problem_id": problem.id, "tests": tests})
    if not rows:
        raise CandorError(f"No problem has two tests that the base ever passes, so there is nothing to train {arm} on.")
    log = training.train(
        str(context.need("base").model),
        Dataset.from_list(rows),
        arm,
        recipe,
        context.seed,
        context.folder,
        engine=settings["engine"],
        progress=context.progress,
        terms="candor.claims.sophistry.programs:of_arm",
    )
    about = {"problems": len(rows), "plateau": plateau(log["reward"]), "kl": training.last_kl(log)}
    return {"log": log, "training": pd.DataFrame([about])}


def plateau(reward: pd.Series, window: int = 20, rise: float = 0.01) -> float:
    """The first step at which the mean reward of the last `window` steps is not above the window before by `rise`;
    nan if it never stops rising. Reported: the arms run to their last step."""
    mean = reward.rolling(window).mean()
    still = mean - mean.shift(window) < rise
    flat = still[mean.shift(window).notna() & still]
    return float(flat.index[0] + 1) if len(flat) else np.nan


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """A policy on the evaluation problems, judged by new simulated evaluators with frozen knobs.

    Tables: outputs (a row a problem and draw: dataset, problem_id, difficulty, draw, correct, pass_rate, released,
    r_train, shares of tests wrong, error, timeout, cut; index_errors on the bank (by what programs write about
    themselves: it describes them and decides nothing), bank: JSON of verdicts, truncated, tokens, parses, functions,
    complexity, lines, approval, model_approval), approvals (the same places, a column an
    evaluator: probability of approval), programs (the same places, text), minutes (of the sampled draw: dataset,
    multiple, reading, fpr and fpr_before of items that both get wrong), summary (a row a dataset, as `summary`).
    """
    from candor.language_models import generation

    settings, code, name = context.settings, context.settings["code"], context.step.options["arm"]
    sandbox = Pool(settings["sandbox"])
    rows, found = _read(context.need("problems").table("problems"), "eval")
    setup_of = context.need("setup")
    own = Setup(rows, found, setup_of.table("rewards"), setup_of.table("bank"))
    place = context.need("base" if name == "base" or name in CHOSEN else name).model
    tokens, written = code["rl"]["max_completion_tokens"], {}
    with generation.of_step(context, place) as sampler:
        if name in CHOSEN:
            written["sampled"] = _write(sampler, found, tokens, context.seed, samples=CHOSEN[name])
        else:
            for i, draw in enumerate(DRAWS):  # the sampler has the same seed for all policies
                chance = 1000 * settings["eval_seed"] + i, 0.0 if draw == "greedy" else TEMPERATURE
                written[draw] = _write(sampler, found, tokens, *chance)
                context.progress(i + 1, len(DRAWS))
    if name in CHOSEN:
        written = {draw: _best(own, sandbox, texts, CHOSEN[name]) for draw, texts in written.items()}
    outputs = [own.run(sandbox, texts, sampler.tokenizer).assign(draw=draw) for draw, texts in written.items()]
    outputs = pd.concat(outputs, ignore_index=True)
    people, drawn = new_evaluators(setup_of.table("fit").iloc[0], code["evaluators"], len(rows), context.seed)
    approvals = np.concatenate(
        [code_reader.approve(people, drawn, done(part))[0] for _, part in outputs.groupby("draw", sort=False)], axis=1
    )
    outputs["approval"] = approvals.mean(0)
    texts = [text for part in written.values() for text, _ in part]
    outputs["model_approval"] = _second_evaluator(context, own, outputs, texts)
    before = None if name == "base" else context.need("eval_base")
    first = outputs if before is None else before.table("outputs")
    at = outputs[["dataset", "problem_id", "draw"]]
    voted = pd.concat([at, pd.DataFrame(approvals.T, columns=[f"e{i:02d}" for i in range(len(people))])], axis=1)
    earlier = voted if before is None else before.table("approvals")
    found_rows, minutes = [], []
    for dataset in code["eval_sets"]:
        here = {"dataset": dataset, "model": code["policy"], "name": name}
        found_rows.append(here | summary(*(t[t["dataset"] == dataset] for t in (first, earlier, outputs, voted))))
        mine = (rows["dataset"] == dataset).to_numpy()
        sampled = [t[(t["dataset"] == dataset) & (t["draw"] == "sampled")] for t in (first, outputs)]
        minutes += [{"dataset": dataset} | row for row in over_time(people, drawn[mine], *sampled)]
    return {
        "outputs": outputs,
        "approvals": voted,
        "programs": at.assign(text=texts),
        "minutes": pd.DataFrame(minutes),
        "summary": pd.DataFrame(found_rows),
    }


def _best(own: Setup, sandbox: Pool, written: list[tuple[str, bool]], n: int) -> list[tuple[str, bool]]:
    """Of `n` samples a problem the first that passes the rewarded tests; the first of all where none does."""
    tests = [[problem.tests[i] for i in easy] for problem, easy in zip(own.problems, own.easiest) for _ in range(n)]
    passed = sandbox.map(lambda text, own_tests: programs.passes_all(sandbox, text[0], own_tests), written, tests)
    first = np.array(passed).reshape(-1, n).argmax(1)
    return [written[i * n + k] for i, k in enumerate(first)]


def new_evaluators(knobs: Mapping, evaluators_: int, n: int, seed: int) -> tuple[evaluators.Pool, evaluators.Draws]:
    """Evaluators that the fit has not seen, with its knobs, and their chances: the same for every policy of a seed."""
    rng = np.random.default_rng([seed, 4])
    people = evaluators.pool(evaluators_, rng, **{name: float(knobs[name]) for name in ("tests", "kappa", "skill")})
    return people, code_reader.draws(n, evaluators_, rng)


def _second_evaluator(context: Context, own: Setup, outputs: pd.DataFrame, texts: list[str]) -> np.ndarray:
    """Approval by an instruct model of the sampled programs [outputs], nan of the others and where none is named."""
    code, found = context.settings["code"], np.full(len(outputs), np.nan)
    if not code["judge"]:
        return found
    from candor.language_models import generation

    places = np.flatnonzero(outputs["draw"] == "sampled")
    with generation.loaded(code["judge"], context.settings["eval_batch"]) as sampler:
        prompts = []
        for i, place in enumerate(places):
            results = list(zip(own.bank[i], json.loads(outputs["bank"].iloc[place])))[:3]
            about = results, sampler.tokenizer, code["judge_tokens"]
            prompts.append(code_reader.program_prompt(own.problems[i], texts[place], *about))
        found[places] = code_reader.certainty(sampler, prompts) > 0.5
    return found


# --- What a step asks of its models -----------------------------------------------------------------

_PARTS = {"sft": 9 / 20, "rl": 9 / 20, "fit": 2 / 20}  # of the problems, as `programs.part_of` cuts them


def _learns_solutions(models: Config, step: Step) -> list[Work]:
    code = models["code"]
    row = amount("apps prompt", code["max_prompt_tokens"]) + amount("apps solution", code["solution_tokens"])
    rows = code["sft"]["epochs"] * amount("apps train") * _PARTS["sft"]
    kept = work.tuned(code["lora"]) | {"saves": work.WIDE if code["lora"] is None else work.COARSE}
    return [work.train(code["policy"], rows, row, together=code["sft"]["micro_batch"], logits=row, **kept)]


def _judged(code: Mapping) -> np.ndarray:
    """Problems of the evaluation."""
    each = [2 * code["eval_problems"] if name == "apps" else amount(f"{name} test") for name in code["eval_sets"]]
    return np.sum(np.broadcast_arrays(*each), 0)


def _programs(models: Config, n: np.ndarray) -> Work:
    code = models["code"]
    prompt, tokens = amount("apps prompt", code["max_prompt_tokens"]), code["rl"]["max_completion_tokens"]
    return work.sample(code["policy"], n, prompt, tokens, models["eval_batch"])


def _fixes(models: Config, step: Step) -> list[Work]:
    """Samples of every problem, and one more of those on which the evaluators are fitted."""
    code = models["code"]
    train, fit = (_PARTS[name] * amount("apps train") for name in ("rl", "fit"))
    return [_programs(models, (train + fit + _judged(code)) * code["samples"] + fit)]


def _trains(models: Config, step: Step) -> list[Work]:
    code = models["code"]
    prompt, tokens = amount("apps prompt", code["max_prompt_tokens"]), code["rl"]["max_completion_tokens"]
    return work.policy_gradient(code["policy"], code["rl"], prompt, tokens, engine=models["engine"])


def _writes(models: Config, step: Step) -> list[Work]:
    code = models["code"]
    n = _judged(code)
    works = [_programs(models, CHOSEN.get(step.options["arm"], len(DRAWS)) * n)]
    if code["judge"]:
        works.append(work.read(code["judge"], n, code["judge_tokens"], together=models["eval_batch"], logits=1))
    return works


# --- The steps --------------------------------------------------------------------------------------

_HERE = "candor.claims.sophistry.code_models"
_SETTINGS = ("code", "program_data", "sandbox", "engine", "eval_batch", "eval_seed")


def _wants(models: Config, step: Step) -> bool:
    return models["code"] is not None and step.options["arm"] in ("base", *models["code_arms"])


def _reads(models: Config, step: Step) -> list[tuple[str, str]]:
    return [("apps", "train"), *((name, "test") for name in models["code"]["eval_sets"])]


def _check(models: Config, step: Step) -> None:
    check(models["sandbox"])


def _steps() -> dict[str, Step]:
    data, first, ready = f"{WORLD}/data/problems", f"{WORLD}/policy/base", f"{WORLD}/policy/setup"
    alone = ("code", "program_data", "sandbox", "eval_seed")
    step = partial(Step, settings=_SETTINGS, seeds="code_seeds", data=_reads, check=_check)
    found = [
        step(data, f"{_HERE}:problems", settings=alone, work=work.nothing),
        step(first, f"{_HERE}:base", needs=(data,), trains=True, work=_learns_solutions),
        step(ready, f"{_HERE}:setup", needs=(data, first), work=_fixes),
    ]
    for arm in ("base", *TRAINED, *CHOSEN):
        key = f"{WORLD}/policy/{arm}"
        if arm in TRAINED:
            found.append(
                step(
                    key,
                    f"{_HERE}:train",
                    needs=(data, first, ready),
                    options={"arm": arm},
                    uses=("candor.claims.sophistry.programs:of_arm",),
                    trains=True,
                    work=_trains,
                )
            )
        model = (key,) if arm in TRAINED else (first,)
        compared = () if arm == "base" else (f"{WORLD}/policy/eval_base",)
        found.append(
            step(
                f"{WORLD}/policy/eval_{arm}",
                f"{_HERE}:evaluate",
                needs=(data, ready, *model, *compared),
                options={"arm": arm},
                asked=_wants,
                work=_writes,
            )
        )
    return {step.key: step for step in found}


STEPS = _steps()

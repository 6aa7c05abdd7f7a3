"""Pretrained models on feedback from their own confidence: does it rank their traces, and what does training on it do?

A key is `reasoning/<cell>/<name>`; a cell is a model (`models.reasoning_ids`) on a set, e.g. `small_gsm8k`. `eval_base`
is inference only and says whether answer-span confidence ranks a model's own traces: K branches of each test question,
decoded once to the longest limit and read at every limit (what is greedy is a prefix of itself). Training follows van
Niekerk et al. (2025, arXiv 2507.21931): `labels` (branches of training questions, pairs by confidence, made once),
`judge_rlsf` (a reward model with margins), `rlsf` (RLOO against it), and beside it `shuffled` (the same with
confidences shuffled within prompts), `dpo` (on the same pairs) and `rlhf` (RLOO against a public reward model until the
KL of `rlsf` is reached); each with its evaluation `eval_<name>`.

Deviations: RLOO for their PPO (no value model, no discount); no brackets around spans in what judges and policies read;
training questions only; a step count fixed in advance. Labels, judges and policies are given no answer. Tables hold
numbers, answers and ids of what models wrote; questions stay in `data/corpora/`.

Confidence: mean over the tokens of the answer's span of top-1 minus top-2 probability (disparity) or of the probability
of the token (probability), 0 without a span. The headline is the authors' span finder (`measure/spans.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

import numpy as np
import pandas as pd

from candor.claims.self_feedback import reasoning
from candor.claims.self_feedback import reasoning_judges as judges
from candor.claims.self_feedback import self_confidence as own
from candor.core import runtime
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.core.step import Context, Step
from candor.language_models import work
from candor.language_models.training import last_kl
from candor.language_models.work import Amount, Work, amount
from candor.measure import calibration, intervals, spans

WORLD = "reasoning"
MODELS = ("small", "gemma", "qwen", "phi")
CELLS = {f"{model}_{name}": (model, name) for model in MODELS for name in reasoning.SETS}
ARMS = ("rlsf", "shuffled", "dpo", "rlhf")
CUE_TOKENS = 20
_RATED = 200  # prompts whose traces say on which scale a public reward model rates

# --- Traces and what is read in them ----------------------------------------------------------------


def observe(model, tokenizer, questions: pd.DataFrame, kind: str, k: int, limits: Iterable[int], batch: int):
    """K branches of each question, read at every limit of tokens; no answer is looked up here.

    `questions` has the column ids. Returns the branches and a table, a row a question, branch and limit: question,
    branch, limit, length, finished, and by finder <finder>_answer, _span (whether there is one), _disparity,
    _probability (0 without a span). Decoding to the longest limit serves the shorter ones, as only the first token of
    a branch is chosen by anything else than what stands before it.
    """
    from candor.claims.self_feedback import branching

    limits = sorted(set(limits))
    with runtime.counted("generation") as counted:
        ends = reasoning.ends(model, tokenizer)
        branches = branching.branch(model, questions["ids"].tolist(), k, limits[-1], ends=ends, batch=batch)
        counted.append(int(branches.length.sum()))
    return branches, pd.concat(
        [_at(limit, model, tokenizer, questions, branches, kind, batch) for limit in limits], ignore_index=True
    )


def _at(limit: int, model, tokenizer, questions: pd.DataFrame, branches, kind: str, batch: int) -> pd.DataFrame:
    from candor.claims.self_feedback import branching

    n, k = branches.length.shape
    finished = branches.finished & (branches.length <= limit)
    length = np.minimum(branches.length, limit)
    places = [(i, j) for i in range(n) for j in range(k)]
    traces = [branches.tokens[i, j, : length[i, j] - finished[i, j]].tolist() for i, j in places]
    cue = reasoning.cue_ids(tokenizer)
    asked = [[*questions["ids"].iloc[i], *trace, *cue] for (i, _), trace in zip(places, traces)]
    said = branching.branch(model, asked, 1, CUE_TOKENS, ends=reasoning.ends(model, tokenizer), batch=batch * k)
    found: dict[str, list] = {finder: [] for finder in spans.FINDERS}
    for row, ((i, j), trace) in enumerate(zip(places, traces)):
        reply = said.ids(row, 0)[: CUE_TOKENS if not said.finished[row, 0] else -1]
        found["authors"].append(spans.authors(trace, reply, spans.pieces(tokenizer, reply), kind))
        found["strict"].append(spans.strict(spans.pieces(tokenizer, trace), bool(finished[i, j]), kind))
    index = np.array(places)
    table = pd.DataFrame({"question": index[:, 0], "branch": index[:, 1], "limit": limit})
    table = table.assign(length=length.ravel(), finished=finished.ravel())
    for finder, read in found.items():
        start, stop = np.array([span or (0, 0) for _, span in read]).reshape(n, k, 2).transpose(2, 0, 1)
        table[f"{finder}_answer"] = [answer for answer, _ in read]
        for measure in ("disparity", "probability"):
            confidence = branching.span_confidence(branches, start, stop, measure)
            values = branches.probability if measure == "probability" else branches.top1 - branches.top2
            for i in np.flatnonzero((start[:, 0] == 0) & (stop[:, 0] > 0)):  # a greedy first token was not forced
                confidence[i, 0] = values[i, 0, : stop[i, 0]].mean()
            confidence = confidence.ravel()
            table[f"{finder}_{measure}"] = np.nan_to_num(confidence)
            table[f"{finder}_span"] = ~np.isnan(confidence)
    return table


def marked(items: pd.DataFrame, questions: pd.DataFrame, kind: str) -> pd.DataFrame:
    """`items` with <finder>_correct: the only place where answers are looked up."""
    accepted = questions["accepted"].tolist()
    for finder in spans.FINDERS:
        answers = zip(items[f"{finder}_answer"], items["question"])
        items[f"{finder}_correct"] = [reasoning.right(said, accepted[i], kind) for said, i in answers]
    return items


def decoded(items: pd.DataFrame, finder: str = "authors") -> dict[str, pd.DataFrame]:
    """One row a question, by how it is decoded: greedy, cot (the branch of largest disparity), cot_probability."""
    found = {"greedy": items[items["branch"] == 0]}
    for name, measure in (("cot", "disparity"), ("cot_probability", "probability")):
        found[name] = items.loc[items.groupby("question")[f"{finder}_{measure}"].idxmax()]
    return {name: part.sort_values("question") for name, part in found.items()}


def voted(items: pd.DataFrame, finder: str) -> dict[str, float]:
    """Accuracy of the answer with most branches, and of the one whose branches carry most disparity together."""
    given = items[items[f"{finder}_answer"] != ""]
    groups = given.groupby(["question", f"{finder}_answer"], sort=False)
    answers = groups.agg(
        majority=("branch", "size"), aggregated=(f"{finder}_disparity", "sum"), right=(f"{finder}_correct", "first")
    ).reset_index()
    n = items["question"].nunique()
    return {
        name: float(answers.loc[answers.groupby("question")[name].idxmax(), "right"].sum() / n)
        for name in ("majority", "aggregated")
    }


def graded(part: pd.DataFrame, finder: str = "authors") -> dict[str, float]:
    """Accuracy and calibration of one trace a question: the four ways of the ECE, and what stands beside it."""
    correct, probability, disparity = (
        part[f"{finder}_{name}"].to_numpy(float) for name in ("correct", "probability", "disparity")
    )
    floor, floor_95 = calibration.noise_floor(probability)
    ways = {"": probability, "_disparity": disparity}
    eces = {f"ece{way}": own.ece(q, correct) for way, q in ways.items()}
    eces |= {f"ece{way}_dropped": own.ece(q, correct, "dropped") for way, q in ways.items()}
    return {
        "n": len(part),
        "accuracy": float(correct.mean()),
        "confidence": float(probability.mean()),
        "gap": float(probability.mean() - correct.mean()),
        **eces,
        "floor": floor,
        "floor_95": floor_95,
        "brier": calibration.brier(probability, correct),
        "smooth_ece": calibration.smooth_ece(probability, correct),
        "auroc": own.auroc(probability, correct),
        "zeros": float((~part[f"{finder}_span"]).mean()),
        "unreadable": float((part[f"{finder}_answer"] == "").mean()),
    }


def summary(part: pd.DataFrame) -> dict[str, float]:
    """`graded` by the authors' finder, of the strict one accuracy, ECE, zeros and unreadable; truncated, length in
    tokens."""
    strict = graded(part, "strict")
    kept = {f"{name}_strict": strict[name] for name in ("accuracy", "ece", "ece_disparity", "zeros", "unreadable")}
    about = {"truncated": float(1 - part["finished"].mean()), "length": float(part["length"].mean())}
    return graded(part) | kept | about


def ranking(items: pd.DataFrame, finder: str, resamples: int) -> dict[str, float]:
    """Whether confidence ranks the branches of a question, over questions with both right and wrong ones.

    prompts (how many those are), within_auroc (by disparity) with _low and _high over questions, its twin by
    probability, its rival by length alone (within_auroc_shorter), slope_b, slope_b_probability, coverage (traces with a
    span), unreadable (traces without an answer), and the accuracies of greedy, max_path, aggregated and majority
    decoding, with max_path_gain over greedy.
    """
    correct = items[f"{finder}_correct"].to_numpy(float)
    row: dict[str, float] = {}
    for measure, suffix in (("disparity", ""), ("probability", "_probability")):
        confidence = items[f"{finder}_{measure}"].to_numpy(float)
        each = own.prompt_aurocs(confidence, correct, items["question"]).to_numpy()
        row |= {"prompts": len(each), f"within_auroc{suffix}": float(each.mean()) if len(each) else np.nan}
        few = len(each) < 2
        low, high = (np.nan, np.nan) if few else intervals.bootstrap_interval(np.mean, each, n_resamples=resamples)
        row |= {f"within_auroc{suffix}_low": low, f"within_auroc{suffix}_high": high}
        row[f"slope_b{suffix}"] = own.slope(confidence, correct, items["question"])
    shorter = own.prompt_aurocs(-items["length"].to_numpy(float), correct, items["question"]).to_numpy()
    row["within_auroc_shorter"] = float(shorter.mean()) if len(shorter) else np.nan
    row["coverage"] = float(items[f"{finder}_span"].mean())
    row["unreadable"] = float((items[f"{finder}_answer"] == "").mean())
    chosen = decoded(items, finder)
    row |= {
        ours: float(chosen[name][f"{finder}_correct"].mean())
        for name, ours in (("greedy", "greedy"), ("cot", "max_path"))
    }
    return row | voted(items, finder) | {"max_path_gain": row["max_path"] - row["greedy"]}


def agreement(items: pd.DataFrame) -> float:
    """Share of traces in which both finders read the same answer; what neither could read is no agreement."""
    same = items["authors_answer"] == items["strict_answer"]
    return float((same & (items["authors_answer"] != "")).mean())


# --- What a step does -------------------------------------------------------------------------------


def _cell(context: Context) -> tuple[str, str, str]:
    """The model, the set and the kind of its answers."""
    model, name = CELLS[context.step.key.split("/")[1]]
    return context.settings["reasoning_ids"][model], name, reasoning.SETS[name].kind


def base(context: Context) -> dict[str, pd.DataFrame]:
    """The model before training.

    Tables: items (as `observe` and `marked`), ranking (a row a limit and finder; agreement: share of traces in which
    both read the same answer), summary (a row a limit and decoding).
    """
    settings = context.settings["reasoning"]
    limits = sorted({settings["tokens"], *settings["limits"]})
    items = _observed(context, None, settings["branches"], limits)
    rows, summaries = [], []
    for limit in limits:
        part = items[items["limit"] == limit]
        for finder in spans.FINDERS:
            found = ranking(part, finder, context.settings["resamples"])
            rows.append({"limit": limit, "finder": finder} | found | {"agreement": agreement(part)})
        for name, chosen in decoded(part).items():
            summaries.append({"limit": limit, "decoding": name} | summary(chosen))
    return {"items": items, "ranking": pd.DataFrame(rows), "summary": pd.DataFrame(summaries)}


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """An arm, greedy; tables items and summary (one row) as `base`'s."""
    settings = context.settings["reasoning"]
    place = context.need(context.step.options["arm"]).model
    items = _observed(context, place, 1, [settings["tokens"]])
    row = {"limit": settings["tokens"], "decoding": "greedy"} | summary(items)
    return {"items": items, "summary": pd.DataFrame([row])}


def _observed(context: Context, place, k: int, limits: Iterable[int]) -> pd.DataFrame:
    from candor.language_models import generation

    settings = context.settings["reasoning"]
    policy, name, kind = _cell(context)
    model, tokenizer = generation.load(place or policy)
    questions = reasoning.questions(name, context.settings["eval_seed"], settings["questions"], tokenizer)
    # Arms have one branch a question: as many run together as the base has branches.
    batch = settings["batch"] * (settings["branches"] if k == 1 else 1)
    _, items = observe(model, tokenizer, questions, kind, k, limits, batch)
    return marked(items, questions, kind)


def labels(context: Context) -> dict[str, pd.DataFrame]:
    """The labels, made once from the model before training, on training questions without their answers.

    Tables: traces (question, branch, ids, finished, answer, disparity), chosen and chosen_shuffled (the pairs used:
    prompt, chosen, rejected, difference, margin, held), pairs (a row a ranking: number before the cap, used, coverage:
    share of prompts with a pair, unreadable: share of pairs with an answer that could not be read, different: share of
    the others with different answers, median_difference).
    """
    from candor.language_models import generation

    settings, seed = context.settings["reasoning"], context.seed
    policy, _, kind = _cell(context)
    model, tokenizer = generation.load(policy)
    prompts = _prompts(context, tokenizer)
    k, tokens = settings["branches"], settings["tokens"]
    branches, items = observe(model, tokenizer, prompts, kind, k, [tokens], settings["batch"])
    traces = items[["question", "branch", "finished"]].assign(
        ids=[branches.ids(i, j) for i, j in zip(items["question"], items["branch"])],
        answer=items["authors_answer"],
        disparity=items["authors_disparity"],
    )
    confidence = traces["disparity"].to_numpy().reshape(-1, k)
    rng = np.random.default_rng([seed, 6])
    found, described = {"traces": traces}, []
    for name, ranked in (("chosen", confidence), ("chosen_shuffled", rng.permuted(confidence, axis=1))):
        pairs, about = pairs_of(ranked, traces["answer"].to_numpy().reshape(-1, k), settings, rng)
        found[name] = pairs.assign(held=prompts["held"].to_numpy()[pairs["prompt"]])
        described.append({"ranking": "confidence" if name == "chosen" else "shuffled"} | about)
    if not len(found["chosen"]):
        raise CandorError("No trace is confident enough to make a pair: lower reasoning.threshold in the scale.")
    return found | {"pairs": pd.DataFrame(described)}


def pairs_of(confidence: np.ndarray, answers: np.ndarray, settings: Mapping, rng) -> tuple[pd.DataFrame, dict]:
    """Pairs of traces by confidence [n, K], at most so many a prompt by lot, and what they hold before and after."""

    pairs = own.preference_pairs(confidence, settings["threshold"])
    mixed = pairs.iloc[rng.permutation(len(pairs))]
    used = mixed.groupby("prompt").head(settings["pairs_per_prompt"]).reset_index(drop=True)
    one, other = (answers[used["prompt"], used[side]] for side in ("chosen", "rejected"))
    known = (one != "") & (other != "")
    return used, {
        "number": len(pairs),
        "used": len(used),
        "coverage": used["prompt"].nunique() / len(confidence),
        "unreadable": float(1 - known.mean()) if len(used) else np.nan,
        "different": float((one != other)[known].mean()) if known.any() else np.nan,
        "median_difference": float(used["difference"].median()) if len(used) else np.nan,
    }


def _prompts(context: Context, tokenizer) -> pd.DataFrame:
    """The training questions of the seed, without answers."""
    settings, (_, name, _) = context.settings["reasoning"], _cell(context)
    return reasoning.train_prompts(name, context.seed, settings["prompts"], settings["max_prompt_tokens"], tokenizer)


def _sides(context: Context, pairs: pd.DataFrame, prompts: pd.DataFrame) -> dict[str, list[list[int]]]:
    """Ids of the prompts of pairs, and of both traces."""
    k = context.settings["reasoning"]["branches"]
    ids = context.need("labels").table("traces")["ids"]
    found = {side: [list(ids.iloc[i]) for i in pairs["prompt"] * k + pairs[side]] for side in ("chosen", "rejected")}
    return {"prompt": [prompts["ids"].iloc[i] for i in pairs["prompt"]]} | found


# --- What training steps do -------------------------------------------------------------------------


def judge(context: Context) -> dict[str, pd.DataFrame]:
    """A judge of the pairs of its ranking.

    Tables: log; summary (one row: pairs, held_pairs, pair_accuracy on pairs of prompts held out, reward_bench: that on
    RewardBench's mathematics, and low, high, centre, divisor of its scores of the start's traces).
    """
    from candor.claims.self_feedback.feedback import scale_of
    from candor.language_models import generation

    recipe, arm = context.settings["reasoning"]["judge"], context.step.options["arm"]
    policy, _, _ = _cell(context)
    tokenizer, ready = generation.tokenizer_of(policy), context.need("labels")
    prompts = _prompts(context, tokenizer)
    pairs = ready.table("chosen" if arm == "rlsf" else "chosen_shuffled")
    used, held = (pairs[pairs["held"] == part].reset_index(drop=True) for part in (False, True))
    sides = _sides(context, used, prompts)
    rows = [judges.joined(sides["prompt"], sides[side]) for side in ("chosen", "rejected")]
    model, log = judges.fit_judge(
        policy, *rows, used["margin"], recipe, context.seed, context.folder / "model", context.progress
    )
    traces = ready.table("traces")
    rated = judges.scores(
        model, judges.joined(prompts["ids"].iloc[traces["question"]], traces["ids"]), recipe["micro_batch"]
    )
    k = context.settings["reasoning"]["branches"]
    wins = np.diff([rated[held["prompt"] * k + held[side]] for side in ("rejected", "chosen")], axis=0) > 0
    row = {"pairs": len(used), "held_pairs": len(held), "pair_accuracy": float(wins.mean()) if len(held) else np.nan}
    right, wrong = (judges.scores(model, side, recipe["micro_batch"]) for side in reasoning.reward_bench(tokenizer))
    row["reward_bench"] = float((right > wrong).mean())
    return {"log": log, "summary": pd.DataFrame([row | scale_of(rated)])}


def train(context: Context) -> dict[str, pd.DataFrame]:
    """A policy by RLOO: against the judge of its ranking, or against a public reward model fed text.

    The scale of the reward is that of the judge of confidence, for the shuffled ranking too; that of a public one is
    found in the same way. Table log.
    """
    from candor.claims.self_feedback.feedback import scale_of
    from candor.language_models import generation
    from candor.train import policy
    from candor.train.reward_model import scaled

    settings, arm = context.settings["reasoning"], context.step.options["arm"]
    start, _, _ = _cell(context)
    tokenizer = generation.tokenizer_of(start)
    prompts, batch = _prompts(context, tokenizer), settings["judge"]["micro_batch"]
    stop_at_kl = None
    if arm == "rlhf":
        rate = judges.by_text(settings["public_judge"], tokenizer, batch)
        traces = context.need("labels").table("traces").query(f"question < {_RATED}")
        asked = prompts.iloc[traces["question"]]
        scale = scale_of(rate(asked["ids"], asked["text"], [list(ids) for ids in traces["ids"]]))
        stop_at_kl = last_kl(context.need("rlsf").table("log"))
    else:
        rate = judges.by_ids(judges.load_judge(context.need(f"judge_{arm}").model), batch)
        scale = context.need("judge_rlsf").table("summary").iloc[0]
    questions = prompts.loc[~prompts["held"], ["prompt", "text", "ids"]].rename(columns={"ids": "question_ids"})
    log = policy.rloo_adapters(
        start,
        questions.reset_index(drop=True),
        scaled(rate, scale["centre"], scale["divisor"]),
        settings["rloo"].to_dict() | {"max_completion_tokens": settings["tokens"]},
        context.seed,
        context.folder / "model",
        stop_at_kl=stop_at_kl,
        further_ends=reasoning.further_ends(tokenizer),
        progress=context.progress,
    )
    policy.check_anchor(log)
    return {"log": log}


def prefer(context: Context) -> dict[str, pd.DataFrame]:
    """Adapters on a policy, trained by DPO on the pairs by confidence, those with an unfinished trace left out.

    Tables: log, training (pairs).

    The reference is the model without them; margins play no part.
    """
    import torch
    from datasets import Dataset

    from candor.language_models import generation
    from candor.train import models, preference

    place, _, _ = _cell(context)
    tokenizer, recipe = generation.tokenizer_of(place), context.settings["reasoning"]["dpo"]
    ready = context.need("labels")
    pairs, finished = ready.table("chosen").query("not held"), ready.table("traces")["finished"].to_numpy(bool)
    at = pairs["prompt"].to_numpy() * context.settings["reasoning"]["branches"]
    # An unfinished trace that is chosen would teach not to stop, as in the small world.
    pairs = pairs[finished[at + pairs["chosen"]] & finished[at + pairs["rejected"]]]
    if not len(pairs):
        raise CandorError(
            "There is no pair of finished traces for DPO: raise reasoning.tokens or lower reasoning.threshold."
        )
    sides = _sides(context, pairs, _prompts(context, tokenizer))
    torch.manual_seed(context.seed)
    log = preference.dpo(
        generation.weights(place, coarse=True),  # frozen weights may be coarse
        tokenizer,
        Dataset.from_dict({f"{name}_ids": list(map(list, rows)) for name, rows in sides.items()}),
        judges.recipe_settings(recipe, len(pairs), "dpo", context.seed) | {"beta": recipe["beta"]},
        peft_config=models.adapters(recipe["lora"]),
        advice="lower reasoning.dpo.lr in the scale",
        resumes=True,
        progress=context.progress,
        save=context.folder / "model",
    )
    return {"log": log, "training": pd.DataFrame([{"pairs": len(pairs)}])}


# --- What a step asks of its models -----------------------------------------------------------------


def _sizes(models: Config, step: Step) -> tuple[str, Amount, Amount, Amount]:
    """The model, its test questions and training questions, and the longest row of prompt and trace."""
    (model, name), chosen = CELLS[step.key.split("/")[1]], models["reasoning"]
    tested = amount(f"{name} test", chosen["questions"] or np.inf)
    row = amount("gsm8k prompt", chosen["max_prompt_tokens"]) + chosen["tokens"]
    return models["reasoning_ids"][model], tested, amount(f"{name} train", chosen["prompts"]), row


def _branches(models: Config, model: str, n: Amount, k: int, limits: Collection[int], batch: int) -> list[Work]:
    """K branches that share a prompt, whatever the trainers do, and a cue behind every one at every limit."""
    limits, prompt = sorted(set(limits)), amount("gsm8k prompt", models["reasoning"]["max_prompt_tokens"])
    # The prompts are read once, as rows of their own; the branches find them cached.
    works = [work.read(model, n, prompt, together=batch, logits=1)]
    works.append(work.sample(model, n * k, prompt, limits[-1], batch * k, group=0))
    return works + [work.sample(model, n * k, prompt + limit, CUE_TOKENS, batch * k) for limit in limits]


def _observes(models: Config, step: Step) -> list[Work]:
    """The base in branches, an arm in one."""
    model, tested, _, _ = _sizes(models, step)
    chosen = models["reasoning"]
    k, batch, limits = chosen["branches"], chosen["batch"], [chosen["tokens"], *chosen["limits"]]
    if step.needs:
        k, batch, limits = 1, batch * k, limits[:1]
    return _branches(models, model, tested, k, limits, batch)


def _writes(models: Config, step: Step) -> list[Work]:
    model, _, prompts, _ = _sizes(models, step)
    chosen = models["reasoning"]
    return _branches(models, model, prompts, chosen["branches"], [chosen["tokens"]], chosen["batch"])


def _sides_at_most(models: Config, prompts: Amount) -> Amount:
    """Two of every pair: nine tenths of the prompts, as many pairs a prompt as the cap lets through."""
    return 2 * (1 - reasoning.HELD_OUT) * prompts * models["reasoning"]["pairs_per_prompt"]


def _judges(models: Config, step: Step) -> list[Work]:
    model, _, prompts, row = _sizes(models, step)
    recipe = models["reasoning"]["judge"]
    held = work.tuned(recipe["lora"]) | {"weights": work.WIDE}
    alone = {"together": recipe["micro_batch"], **held}
    learned = recipe["epochs"] * _sides_at_most(models, prompts)
    return [
        work.train(model, learned, row, together=2 * recipe["micro_batch"], saves=0, **held),
        work.read(model, prompts * models["reasoning"]["branches"], row, **alone),
        work.read(model, 2 * amount("reward_bench test"), amount("reward_bench side"), **alone),
    ]


def _trains(models: Config, step: Step) -> list[Work]:
    (model, _, _, row), chosen = _sizes(models, step), models["reasoning"]
    public = step.options["arm"] == "rlhf"
    judge, weights = (chosen["public_judge"], work.COARSE) if public else (model, work.WIDE)
    prompt = amount("gsm8k prompt", chosen["max_prompt_tokens"])
    works = work.policy_gradient(model, chosen["rloo"], prompt, chosen["tokens"], beside=((judge, weights),))
    rated = works[0].rows + (_RATED * chosen["branches"] if public else 0)
    beside = {"together": chosen["judge"]["micro_batch"], "weights": weights, "beside": ((model, work.COARSE),)}
    return [*works, work.read(judge, rated, row, **beside)]


def _prefers(models: Config, step: Step) -> list[Work]:
    """DPO on pairs that the start has read before."""
    model, _, prompts, row = _sizes(models, step)
    recipe, sides = models["reasoning"]["dpo"], _sides_at_most(models, prompts)
    pair = {
        "together": 2 * recipe["micro_batch"],
        "logits": models["reasoning"]["tokens"],
        **work.tuned(recipe["lora"]),
    }
    return [work.read(model, sides, row, **pair), work.train(model, recipe["epochs"] * sides, row, saves=0, **pair)]


# --- The steps --------------------------------------------------------------------------------------

_HERE = "candor.claims.self_feedback.reasoning_models"
_READS = ("reasoning_ids", "reasoning", "datasets", "reasoning_data")


def _of_cell(cell: str) -> list[Step]:
    at, seeds = f"{WORLD}/{cell}", "reasoning_seeds"

    def trained(name: str, make: str, works: Callable, *needs: str) -> Step:
        arm = name.removeprefix("judge_")
        places = tuple(f"{at}/{need}" for need in needs)
        about = f"{at}/{name}", f"{_HERE}:{make}", places, {"arm": arm}
        return Step(*about, settings=_READS, seeds=seeds, trains=True, work=works, data=_trained)

    tested = (*_READS, "eval_seed")
    evaluated = partial(Step, settings=tested, seeds=seeds, asked=_wants, work=_observes, data=_tested)
    found = [
        evaluated(f"{at}/eval_base", f"{_HERE}:base", settings=(*tested, "resamples"), seeds="eval_seed"),
        Step(f"{at}/labels", f"{_HERE}:labels", settings=_READS, seeds=seeds, work=_writes, data=_trained),
        trained("judge_rlsf", "judge", _judges, "labels"),
        trained("judge_shuffled", "judge", _judges, "labels"),
        trained("rlsf", "train", _trains, "labels", "judge_rlsf"),
        trained("shuffled", "train", _trains, "labels", "judge_rlsf", "judge_shuffled"),
        trained("dpo", "prefer", _prefers, "labels"),
        trained("rlhf", "train", _trains, "labels", "rlsf"),
    ]
    return found + [
        evaluated(f"{at}/eval_{arm}", f"{_HERE}:evaluate", needs=(f"{at}/{arm}",), options={"arm": arm}) for arm in ARMS
    ]


def _wants(models: Config, step: Step) -> bool:
    cell, chosen = step.key.split("/")[1], ("base", *models["reasoning_arms"])
    return cell in models["reasoning_cells"] and step.options.get("arm", "base") in chosen


def _tested(models: Config, step: Step) -> list[tuple[str, str]]:
    return [reasoning.files(CELLS[step.key.split("/")[1]][1])[1]]


def _trained(models: Config, step: Step) -> list[tuple[str, str]]:
    asked = [("reward_bench", "test")] if "judge" in step.key.split("/")[2] else []
    return [reasoning.files(CELLS[step.key.split("/")[1]][1])[0], *asked]


_EVERY = [step for cell in CELLS for step in _of_cell(cell)]
# What needs no training comes first: whether confidence ranks at all is the first question.
STEPS = {step.key: step for step in sorted(_EVERY, key=lambda step: not step.key.endswith("eval_base"))}

"""What annotations of people do to majorities and means, and what pooling them does to pretrained models.

A key is `annotations/<setting>/<name>`. Setting `data`: analyses of released annotations, on a CPU in minutes, no model
(`eval_hosking`, `eval_dices`, `eval_prism`, `eval_votes`). Setting `votes`: reward models on people's votes, trained on
shares of votes (soft) or on their majority (hard). Setting `judges`: the simulated annotators of
`judges.py` judge pairs that a pretrained model wrote (`pairs`), a reward model learns from the labels of an
arm (`reward_<arm>`), a policy is optimised against it (`policy_<arm>`, and `matched_<arm>`, which stops at a given KL),
each with its evaluation.

A judge values what it is shown by whether the answer is right and by the stated confidence, so these are people made of
the three types by construction: they show what such labels do to a language model, not that people are such.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from candor.claims.annotation_noise import annotations, response_types
from candor.claims.annotation_noise import judges as annotators
from candor.claims.annotation_noise.annotation_analyses import ANALYSES
from candor.claims.annotation_noise.annotation_rewards import fit_reward, score
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.core.step import Context, Step
from candor.language_models import sets, text, work
from candor.language_models.training import last_kl
from candor.language_models.work import Amount, Work, amount
from candor.measure import calibration as cal

WORLD = "annotations"
ARMS = ("naive", "weight", "frrand", "rdpo", "oracle")
LABELS = ("soft", "hard")
CONFIDENT, HEDGED = 9, 2  # out of ten, of the two rewrites of one answer


# --- Simulated judges of a pretrained model's answers -----------------------------------------------

INSTRUCTION = (
    "Answer the question in a few words and say how sure you are, from 0 (a guess) to 10 (certain). Write two lines "
    "and nothing else:\nAnswer: your answer\nConfidence: a whole number from 0 to 10"
)
_STATED = re.compile(r"\s*Answer:(?=[^\n]*\S)([^\n]*+)\n\s*Confidence:[ \t]*(\d{1,2})[ \t]*(?:/[ \t]*10)?\s*")


def parse(completion: str) -> tuple[str, int] | None:
    """Answer and stated confidence (0 to 10) of a whole completion; None if it is malformed.

    >>> parse("Answer: the Seine\\nConfidence: 8"), parse("Answer: the Seine"), parse("Answer: x\\nConfidence: 80")
    (('the Seine', 8), None, None)
    """
    match = _STATED.fullmatch(completion)
    return (match[1].strip(" \t"), int(match[2])) if match and int(match[2]) <= 10 else None


def stated(answer: str, confidence: int) -> str:
    """A whole completion."""
    return f"Answer: {answer}\nConfidence: {confidence}"


def asked(problem: str) -> str:
    """What a reward model reads in front of a completion."""
    return f"Question: {problem}\n"


def questions_of(settings: Mapping, part: str, tokenizer) -> pd.DataFrame:
    """TriviaQA's validation questions: "eval" the first of the shuffled ones, "train" those after them.

    Columns: problem, answer (accepted ones), prompt. Raises: `CandorError` where none is left to train on.
    """
    policy = settings["annotation_policy"]
    rows = sets.prompts("trivia_qa", "test", settings["eval_seed"])
    n = min(policy["eval_questions"], len(rows) // 2)
    rows = rows.select(range(n) if part == "eval" else range(n, min(n + policy["questions"], len(rows))))
    if not len(rows):
        raise CandorError("TriviaQA has too few questions: lower annotation_policy.eval_questions in the scale.")
    frame = pd.DataFrame({"problem": rows["problem"], "answer": rows["answer"]})
    return frame.assign(prompt=[_prompt(problem, tokenizer) for problem in frame["problem"]])


def _prompt(problem: str, tokenizer) -> str:
    return text.prompt(tokenizer, INSTRUCTION, problem, plain=f"{INSTRUCTION}\n\nQuestion: {problem}\n")


def answers_to(sampler, questions: pd.DataFrame, tokens: int, seed: int) -> pd.DataFrame:
    """One completion a question at temperature 1: question (its place), said, q (stated, 0-1), correct, well_formed.

    What is malformed is wrong and states nothing (NaN).
    """
    read = [parse(said) for said in sampler(list(questions["prompt"]), tokens, temperature=1.0, seed=seed)]
    return pd.DataFrame(
        {
            "question": np.arange(len(questions)),
            "said": [found[0] if found else "" for found in read],
            "q": [found[1] / 10 if found else np.nan for found in read],
            "correct": [
                found is not None and text.exact(found[0], accepted)
                for found, accepted in zip(read, questions["answer"])
            ],
            "well_formed": [found is not None for found in read],
        }
    )


def collect_pairs(context: Context) -> dict[str, pd.DataFrame]:
    """Pairs of the policy's own completions, the more confident one first, and every arm's labels of them.

    Tables: pairs (question, said_first, said_second, q_first, q_second, correct_first, correct_second, and for each arm
    label_<arm>, weight_<arm>), held (further single completions, columns of `answers_to`), counts (one row: samples,
    unreadable, discarded (pairs of equal confidence), pairs, same_answer, exactly_one_right), shares (type, share,
    true).
    """
    from candor.language_models import generation

    settings, seed = context.settings, context.seed
    policy = settings["annotation_policy"]
    drawn = []
    with generation.of_step(context, policy["model"], policy["batch"]) as sampler:
        questions, others = (questions_of(settings, part, sampler.tokenizer) for part in ("train", "eval"))
        for k in range(policy["samples"]):
            drawn.append(answers_to(sampler, questions, policy["tokens"], 1000 * seed + k))
            context.progress(k + 1, policy["samples"])
        held = answers_to(sampler, others, policy["tokens"], 1000 * seed + 999)
    both = [one.merge(other, on="question", suffixes=("_a", "_b")) for one, other in zip(drawn[::2], drawn[1::2])]
    made = pd.concat(both, ignore_index=True)
    whole = made[made["well_formed_a"] & made["well_formed_b"]]
    differ = whole[whole["q_a"] != whole["q_b"]].sample(frac=1, random_state=seed, ignore_index=True)[: policy["pairs"]]
    if not len(differ):
        raise CandorError(
            f"{policy['model']} never stated two confidences for one question: choose another annotation_policy.model."
        )
    table = _more_confident_first(differ)
    counts = {
        "samples": 2 * len(made),
        "unreadable": 1 - (made["well_formed_a"].mean() + made["well_formed_b"].mean()) / 2,
        "discarded": float((whole["q_a"] == whole["q_b"]).mean()),
        "pairs": len(table),
        "same_answer": same_answers(table, questions["answer"]),
        "exactly_one_right": float((table["correct_first"] != table["correct_second"]).mean()),
    }
    labels, shares = labels_of(table, seed)
    return {"pairs": table.join(labels), "held": held, "counts": pd.DataFrame([counts]), "shares": shares}


def same_answers(pairs: pd.DataFrame, accepted: Sequence[Sequence[str]]) -> float:
    """Share of pairs whose two answers are one by the rule that grades them; `accepted` by the question's place."""
    asked = zip(pairs["question"], pairs["said_first"], pairs["said_second"])
    found = [text.groups(said, accepted[place], "exact") for place, *said in asked]
    return float(np.mean([first == second for first, second in found]))


def _more_confident_first(made: pd.DataFrame) -> pd.DataFrame:
    first = np.where(made["q_a"] > made["q_b"], "a", "b")
    columns = {"question": made["question"].to_numpy()}
    for name in ("said", "q", "correct"):
        a, b = made[f"{name}_a"].to_numpy(), made[f"{name}_b"].to_numpy()
        columns[f"{name}_first"] = np.where(first == "a", a, b)
        columns[f"{name}_second"] = np.where(first == "a", b, a)
    return pd.DataFrame(columns)


def labels_of(table: pd.DataFrame, seed: int, setting: str = "main") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels P(first preferred) and weights of every arm, and the shares that the mixture finds beside the true ones.

    naive: one label in frame +, random order. rdpo: that label corrected for flips at half the estimated share of
    non-attitudes. weight: that label, weighted by P(genuine) given four occasions. frrand: one label in a random frame.
    oracle: that of the genuine cells alone.
    """
    rng, population = np.random.default_rng([seed, 2604]), annotators.SETTINGS[setting]
    worth = [
        annotators.utility(table[f"correct_{side}"], table[f"q_{side}"], population.b) for side in ("first", "second")
    ]
    who = rng.integers(annotators.ANNOTATORS, size=len(table))
    types = annotators.draw_types(annotators.draw_mixes(population, rng), who, rng)
    sides = annotators.draw_sides(worth[0] - worth[1], population, rng)
    said = annotators.respond(types, sides, population, rng)[:, 0]  # [n, frames, orders]
    frame, order = rng.integers(2, size=(2, len(table)))
    every = np.arange(len(table))
    production = said[every, 0, order].astype(float)
    fit = response_types.em(said.reshape(len(table), 4), response_types.FOUR)
    flipped = fit.shares[1] / 2
    one = np.ones(len(table))
    labels = {
        "naive": (production, one),
        "weight": (production, fit.responsibilities[:, 0]),
        "frrand": (said[every, frame, order].astype(float), one),
        "rdpo": ((production - flipped) / (1 - 2 * flipped), one),
        "oracle": (production, (types == annotators.GENUINE).astype(float)),
    }
    made = {f"{kind}_{arm}": values for arm, both in labels.items() for kind, values in zip(("label", "weight"), both)}
    true = np.bincount(types, minlength=3) / len(table)
    shares = pd.DataFrame({"type": annotators.TYPES, "share": fit.shares, "true": true})
    return pd.DataFrame(made), shares


def train_reward(context: Context) -> dict[str, pd.DataFrame]:
    """The reward model of an arm, saved; tables log and gap.

    gap (one row): gap_wrong, gap_right (mean reward of a confident less a hedged statement of the same wrong or right
    answer, answers held out), gap_wrong_se, n_wrong, n_right, quality (correlation of the reward with being right at
    fixed stated confidence: the gate), pairs, labels_in_use (sum of weights in pairs).
    """

    settings, arm, seed = context.settings, context.step.options["arm"], context.seed
    made = context.need("pairs")
    table = made.table("pairs")
    table = table[table[f"weight_{arm}"] > 0]
    train = questions_of(settings, "train", None)["problem"]
    recipe = settings["annotation_reward"].to_dict()
    heads = [asked(train[place]) for place in table["question"]]
    sides = [
        [head + said for head, said in zip(heads, _completions(table[f"said_{side}"], table[f"q_{side}"]))]
        for side in ("first", "second")
    ]
    model, tokenizer, log = fit_reward(
        *sides,
        table[f"label_{arm}"],
        table[f"weight_{arm}"],
        recipe,
        seed,
        progress=context.progress,
        save=context.folder / "model",
    )
    weights = made.table("pairs")[f"weight_{arm}"]
    row = {"pairs": len(table), "labels_in_use": float(weights.sum() ** 2 / (weights**2).sum())}
    held = made.table("held").query("well_formed")
    problems = questions_of(settings, "eval", None)["problem"]
    row |= gap_of(lambda texts: score(model, tokenizer, texts, recipe), held, problems)
    return {"log": log, "gap": pd.DataFrame([row])}


def _completions(said: Iterable[str], q: Iterable[float]) -> list[str]:
    return [stated(answer, round(10 * confidence)) for answer, confidence in zip(said, q)]


def gap_of(rewards, held: pd.DataFrame, problems: Sequence[str]) -> dict[str, float]:
    """What `rewards` (a function of texts) gives for stating an answer confidently rather than hedged, and the gate."""
    heads = [asked(problems[place]) for place in held["question"]]
    confident, hedged = (
        np.asarray(rewards([head + stated(said, level) for head, said in zip(heads, held["said"])]))
        for level in (CONFIDENT, HEDGED)
    )
    own = np.asarray(rewards([head + said for head, said in zip(heads, _completions(held["said"], held["q"]))]))
    right = held["correct"].to_numpy(bool)
    found: dict[str, float] = {}
    for name, chosen in (("wrong", ~right), ("right", right)):
        difference = (confident - hedged)[chosen]
        found |= {f"gap_{name}": float(difference.mean()) if len(difference) else np.nan, f"n_{name}": len(difference)}
        if name == "wrong":
            few = len(difference) < 2
            found["gap_wrong_se"] = np.nan if few else float(difference.std(ddof=1) / np.sqrt(len(difference)))
    centred = pd.DataFrame({"r": own, "y": right.astype(float), "q": held["q"].to_numpy()})
    centred = centred[["r", "y"]] - centred.groupby("q")[["r", "y"]].transform("mean")
    spread = centred.std()
    return found | {"quality": float(centred["r"].corr(centred["y"])) if (spread > 1e-12).all() else np.nan}


# --- Policies ---------------------------------------------------------------------------------------


def train_policy(context: Context) -> dict[str, pd.DataFrame]:
    """The policy, optimised by RLOO with adapters against the reward model of an arm; table log."""
    from candor.language_models import generation
    from candor.train import policy

    settings, options, seed = context.settings, context.step.options, context.seed
    recipe, start = settings["annotation_rloo"], settings["annotation_policy"]
    judge, judge_tokenizer = generation.load(
        context.need(f"reward_{options['arm']}").model, "AutoModelForSequenceClassification"
    )
    scored = settings["annotation_reward"].to_dict()
    questions = questions_of(settings, "train", generation.tokenizer_of(start["model"]))
    reward = reward_of(lambda texts: score(judge, judge_tokenizer, texts, scored))
    log = policy.rloo_adapters(
        start["model"],
        questions[["prompt", "problem"]],
        reward,
        recipe.to_dict() | {"max_completion_tokens": start["tokens"]},
        seed,
        context.folder / "model",
        stop_at_kl=recipe["kl"] if options["matched"] else None,
        progress=context.progress,
    )
    return {"log": log}


def reward_of(rewards):
    """A reward in TRL's signature: that of the rebuilt text; a malformed completion gets the batch's lowest, less 1."""

    def rated(completions, problem, **_) -> list[float]:
        read = [parse(completion) for completion in completions]
        whole = [i for i, found in enumerate(read) if found]
        given = np.asarray(rewards([asked(problem[i]) + stated(*read[i]) for i in whole])) if whole else np.zeros(0)
        values = np.full(len(read), (given.min() if whole else 0.0) - 1.0)
        values[whole] = given
        return values.tolist()

    return rated


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """What a policy answers and states, and who would prefer it to the policy before training.

    Tables: summary (one row: n, unreadable, accuracy, confidence, ece (a bin a stated value), brier, win_production,
    win_genuine (against the other policy's own draw; malformed on either side left out), kl (nats a completion, of the
    last tenth of the training; 0 before it)), items (columns of `answers_to` without what was said), reliability.
    """
    from candor.language_models import generation

    settings, arm, seed = context.settings, context.step.options["arm"], context.seed
    policy = settings["annotation_policy"]
    place = context.need(arm).model if arm != "base" else policy["model"]
    with generation.of_step(context, place, policy["batch"]) as sampler:
        questions = questions_of(settings, "eval", sampler.tokenizer)
        own = answers_to(sampler, questions, policy["tokens"], 1000 * seed + 997)
        if arm == "base":
            rival, kl = answers_to(sampler, questions, policy["tokens"], 1000 * seed + 998), 0.0
        else:
            rival, kl = context.need("eval_base").table("rival"), last_kl(context.need(arm).table("log"))
    q, correct = _read(own)
    found = {"summary": pd.DataFrame([summary(own, rival) | {"kl": kl}]), "items": own.drop(columns="said")}
    found |= {"reliability": cal.reliability_table(q, correct)} if len(q) else {}
    return found | ({"rival": rival.drop(columns="said")} if arm == "base" else {})


def _read(items: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Stated confidence and correctness of the completions that are whole."""
    whole = items[items["well_formed"]]
    return whole["q"].to_numpy(float), whole["correct"].to_numpy(float)


def summary(own: pd.DataFrame, rival: pd.DataFrame, setting: str = "main") -> dict[str, float]:
    """Accuracy, calibration and wins of one policy's answers against another's to the same questions.

    NaN for what has nothing to rest on: the ECE where no confidence was stated twice.
    """
    population = annotators.SETTINGS[setting]
    q, correct = _read(own)
    both = own["well_formed"].to_numpy() & rival["well_formed"].to_numpy()
    gaps = []
    for function in (lambda part: annotators.utility(part["correct"], part["q"], population.b), lambda part: part["q"]):
        gaps.append(np.asarray(function(own[both]), float) - np.asarray(function(rival[both]), float))
    wins = {
        f"win_{name}": float(annotators.label_probability(*gaps, shares).mean()) if both.any() else np.nan
        for name, shares in (("production", population.shares), ("genuine", (1.0, 0.0, 0.0)))
    }
    return {
        "n": len(own),
        "unreadable": float(1 - own["well_formed"].mean()),
        "accuracy": float(own["correct"].mean()),
        "confidence": float(q.mean()) if len(q) else np.nan,
        "ece": cal.ece_by_value(q, correct) if len(set(q)) < len(q) else np.nan,
        "brier": cal.brier(q, correct) if len(q) else np.nan,
        **wins,
    }


# --- What a step asks of its models -----------------------------------------------------------------


def _fits(recipe: Mapping, pairs: Amount, row: Amount, scored: Amount, saves: int | None = None) -> list[Work]:
    """A reward model on pairs of rows, that scores some rows afterwards."""
    sides, together = 2 * recipe["epochs"] * pairs, recipe["micro_batch"]
    learned = work.train(recipe["model"], sides, row, together=2 * together, saves=saves, **work.tuned(None))
    return [learned, work.read(recipe["model"], scored, row, together=4 * together, weights=work.WIDE)]


def _learns_votes(models: Config, step: Step) -> list[Work]:
    recipe, name = models["vote_rewards"], step.options["dataset"]
    size = amount("multipref train") if name == "multipref" else recipe["pairs"] + recipe["held_out"]
    held = np.minimum(recipe["held_out"], size // 5)
    pairs = np.minimum(recipe["pairs"], size - held)
    return _fits(models["annotation_reward"], pairs, recipe["max_length"], 2 * held)


def _answers(models: Config, n: int) -> list[Work]:
    policy = models["annotation_policy"]
    return [work.sample(policy["model"], n, amount("trivia prompt"), policy["tokens"], policy["batch"])]


def _answers_for_pairs(models: Config, step: Step) -> list[Work]:
    policy = models["annotation_policy"]
    return _answers(models, policy["questions"] * policy["samples"] + policy["eval_questions"])


def _answers_to_be_judged(models: Config, step: Step) -> list[Work]:
    """The base answers twice: once as everyone's rival."""
    return _answers(models, models["annotation_policy"]["eval_questions"] * (1 + (step.options["arm"] == "base")))


def _learns_labels(models: Config, step: Step) -> list[Work]:
    policy, recipe = models["annotation_policy"], models["annotation_reward"]
    row = amount("trivia statement", recipe["max_length"])
    return _fits(recipe, policy["pairs"], row, 3 * policy["eval_questions"], work.WIDE)


def _trains(models: Config, step: Step) -> list[Work]:
    policy, judge, recipe = (models[f"annotation_{name}"] for name in ("policy", "reward", "rloo"))
    beside = ((judge["model"], work.COARSE),)
    works = work.policy_gradient(policy["model"], recipe, amount("trivia prompt"), policy["tokens"], beside=beside)
    row = amount("trivia statement", judge["max_length"])
    return [*works, work.read(judge["model"], works[0].rows, row, together=4 * judge["micro_batch"])]


# --- The steps --------------------------------------------------------------------------------------

_HERE = "candor.claims.annotation_noise.annotation_models"
_ASKING = ("annotation_policy", "datasets", "eval_seed", "eval_batch", "engine")


def _wants(models: Config, step: Step) -> bool:
    _, setting, name = step.key.split("/")
    if setting != "judges":
        chosen = models["annotation_analyses"] if setting == "data" else models["vote_rewards"]["datasets"]
        return _of_data(step) in chosen
    if models["annotation_policy"] is None:
        return False
    if name.startswith("reward_"):
        return step.options["arm"] in models["annotation_arms"]
    return name in ("pairs", "eval_base") or name.rsplit("_", 1)[1] in models["annotation_policy_arms"]


def _of_data(step: Step) -> str:
    """The analysis, or the set of votes."""
    return step.options.get("dataset") or step.key.rpartition("eval_")[2]


def _steps() -> dict[str, Step]:
    step = partial(Step, asked=_wants, seeds="annotation_seeds")
    found = [
        step(
            f"{WORLD}/data/eval_{name}",
            f"candor.claims.annotation_noise.annotation_analyses:{function}",
            options={"gpu": False},
            settings=("annotation_data", "resamples" if name == "hosking" else "annotation_draws"),
            seeds="eval_seed",
            work=work.nothing,
            data=lambda models, step: [(name, "train") for name in ANALYSES[_of_data(step)]],
        )
        for name, function in zip(ANALYSES, ("hosking", "dices", "prism", "vote_analysis"))
    ]
    found += [
        step(
            f"{WORLD}/votes/{dataset}_{labels}",
            "candor.claims.annotation_noise.annotation_rewards:vote_reward",
            options={"dataset": dataset, "labels": labels},
            settings=("vote_rewards", "annotation_reward", "annotation_data"),
            trains=True,
            work=_learns_votes,
            data=lambda models, step: [(_of_data(step), "train")],
        )
        for dataset in annotations.PREFERENCES
        for labels in LABELS
    ]
    at, made, before = f"{WORLD}/judges", f"{WORLD}/judges/pairs", f"{WORLD}/judges/eval_base"
    step = partial(step, settings=_ASKING, data=lambda models, step: [("trivia_qa", "test")])
    answered = partial(step, make=f"{_HERE}:evaluate", work=_answers_to_be_judged)
    learned = ("annotation_policy", "annotation_reward", "datasets", "eval_seed")
    found += [
        step(made, f"{_HERE}:collect_pairs", work=_answers_for_pairs),
        answered(before, options={"arm": "base"}),
    ]
    for arm in ARMS:
        reward = f"{at}/reward_{arm}"
        about = {"needs": (made,), "options": {"arm": arm}, "settings": learned, "trains": True, "work": _learns_labels}
        found.append(step(reward, f"{_HERE}:train_reward", **about))
        for kind in ("policy", "matched"):
            key = f"{at}/{kind}_{arm}"
            found += [
                step(
                    key,
                    f"{_HERE}:train_policy",
                    needs=(reward,),
                    options={"arm": arm, "matched": kind == "matched"},
                    settings=(*learned[:2], "annotation_rloo", *learned[2:]),
                    trains=True,
                    work=_trains,
                ),
                answered(f"{at}/eval_{kind}_{arm}", needs=(key, before), options={"arm": f"{kind}_{arm}"}),
            ]
    return {step.key: step for step in found}


STEPS = _steps()

"""Pretrained models on the papers' data: training, evaluation in and out of distribution, the released outputs.

A key is `hotpot/<setting>/<arm>` or `math/<setting>/<arm>`, by the training set. Setting `policy`: our own runs,
trained from `models.policy` by the recipe of that set (`training.py`), each with an evaluation
`eval_<arm>`; `eval_base` is the policy before training. Setting `released`: evaluations of released checkpoints.
Every evaluation asks every set of `models.eval_sets` by the papers' protocol: greedy, one completion, a forced cue
where a tag is missing, lenient parsing. Columns are those of `witnesses/evaluation.py` where they mean the same;
the stated confidence of a greedy completion is a `q_mode`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from functools import partial

import numpy as np
import pandas as pd

from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.core.step import Context, Step, wanted
from candor.language_models import rewards, sets, text
from candor.language_models.generation import LONGEST_ANSWER
from candor.language_models.work import Work, amount, amounts, between, policy_gradient, read, sample
from candor.measure import calibration as cal
from candor.witnesses import evaluation as ev

CORPORA = ("hotpot", "math")  # training sets, each with a recipe of its name in `models`
# Name in `models.released` -> training set and arm; which form its training asked for.
RELEASED = {
    "base": ("hotpot", "base", "document"),
    "rlvr": ("hotpot", "rlvr", "answer"),
    "rlcr": ("hotpot", "rlcr", "document"),
    "classifier": ("hotpot", "classifier", "answer"),
    "rlvr_math": ("math", "rlvr", "answer"),
    "rlcr_math": ("math", "rlcr", "document"),
    "sft_rlcr_math": ("math", "sft_rlcr", "document"),
    "classifier_math": ("math", "classifier", "answer"),
}
CLASSIFIED = {"classifier": "rlvr", "classifier_math": "rlvr_math"}  # a classifier judges another model's outputs

_ASKED = ("eval_sets", "eval_questions", "eval_seed", "eval_tokens", "eval_batch", "voting_samples", "voting_questions")
_EVALUATION = ("policy", "ids", "datasets", "engine", "judge", *_ASKED)
_HARDNESS = ("easy", "medium", "hard")  # no, one, both supporting paragraphs left out

# --- What a step does -------------------------------------------------------------------------------


def train(context: Context) -> dict[str, pd.DataFrame]:
    """The policy, trained on by GRPO with the arm's reward."""
    from candor.language_models import training as language_model
    from candor.language_models.generation import tokenizer_of

    settings, options = context.settings, context.step.options
    recipe = settings[options["recipe"]]
    tokenizer = tokenizer_of(settings["policy"])
    form = rewards.ARMS[options["arm"]][0]
    questions = sets.prompts(recipe["dataset"], "train", context.seed, form=form, tokenizer=tokenizer)
    limit = recipe["max_prompt_tokens"]
    questions = questions.filter(lambda row: len(tokenizer(row["prompt"])["input_ids"]) <= limit)
    if not len(questions):
        raise CandorError(f"Every prompt of {recipe['dataset']} has more than {limit} tokens: raise max_prompt_tokens.")
    log = language_model.train(
        settings["policy"],
        questions,
        options["arm"],
        recipe.to_dict(),
        context.seed,
        context.folder,
        engine=settings["engine"],
        progress=context.progress,
    )
    return {"log": log}


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """Every evaluation set: summary, reliability, items (numbers only, no question), votes where they are asked for.

    A classifier's confidence takes the place of the stated one.
    """
    from candor.language_models import generation

    settings, options = context.settings, context.step.options
    for line in votes_refused(settings) if options.get("voting") else ():
        raise CandorError(line)
    if context.needs:
        place = context.need(options["arm"]).model
    else:
        name = CLASSIFIED.get(options["model"], options["model"])
        place = settings["policy"] if name == "policy" else settings["ids"][name]
    asked, votes = {}, pd.DataFrame()
    with generation.of_step(context, place) as sampler:
        for i, name in enumerate(settings["eval_sets"]):
            about = {"form": options["form"], "tokenizer": sampler.tokenizer}
            questions = sets.prompts(name, "test", settings["eval_seed"], settings["eval_questions"], **about)
            asked[name] = (questions, ask(sampler, questions, settings["eval_tokens"], options["form"]))
            if i == 0 and options.get("voting") and settings["voting_questions"]:
                few = questions.select(range(min(settings["voting_questions"], len(questions))))
                votes = vote(sampler, few, settings["voting_samples"], settings["eval_tokens"], settings["eval_seed"])
            context.progress(i + 1, len(settings["eval_sets"]))
    if options.get("model") in CLASSIFIED:
        classify(settings["ids"][options["model"]], asked)
    judged = [name for name in asked if sets.SETS[name].judged] if settings["judge"] else []
    if judged:
        with generation.loaded(settings["judge"], settings["eval_batch"]) as judge:
            for name in judged:
                asked[name] = asked[name][0], judged_items(judge, *asked[name])
    items = pd.concat([part.drop(columns=["said", "text"]).assign(dataset=name) for name, (_, part) in asked.items()])
    tables = {
        "summary": pd.DataFrame(
            [
                {"dataset": name, "grader": "judge" if name in judged else sets.SETS[name].grader} | summary(part)
                for name, (_, part) in asked.items()
            ]
        ),
        "reliability": pd.concat(
            [reliability(part).assign(dataset=name) for name, (_, part) in asked.items()], ignore_index=True
        ),
        "items": items.reset_index(drop=True),
    }
    return tables | ({"voting": votes} if len(votes) else {})


def force_cues(sampler, prompts: list[str], completions: list[str]) -> list[str]:
    """Completions with an answer and a confidence each: what is missing is asked for and put into its tags."""
    cues = (
        ("answer", text.ANSWER_CUE, text.ANSWER_TOKENS),
        ("confidence", text.CONFIDENCE_CUE, text.CONFIDENCE_TOKENS),
    )
    completions = list(completions)
    for tag, cue, tokens in cues:
        without = [i for i, completion in enumerate(completions) if text.last_tag(completion, tag) is None]
        replies = sampler([prompts[i] + completions[i] + cue for i in without], tokens) if without else []
        for i, reply in zip(without, replies):
            completions[i] += f"<{tag}> {_one_line(reply)} </{tag}>"
    return completions


def _one_line(reply: str) -> str:
    """The first line of a forced reply that says something, without tags that it may hold itself."""
    lines = (line.strip() for line in re.sub(r"</?[a-z]+>", " ", reply).splitlines())
    return next(filter(None, lines), "")


def ask(sampler, questions, tokens: int, form: str) -> pd.DataFrame:
    """A row a question: correct, unreadable (the answer; then wrong), unreadable_confidence (then 0), q_mode (stated),
    answer_prob, well_formed (free running), what had to be forced."""
    prompts = list(questions["prompt"])
    free = sampler(prompts, tokens)
    whole = force_cues(sampler, prompts, free)
    graded = text.grade_leniently(whole, questions["answer"], questions["grader"], questions["problem"])
    return pd.DataFrame(
        {
            "correct": graded["correct"].astype(bool),
            "unreadable": ~graded["readable"].astype(bool),
            "unreadable_confidence": ~graded["stated"].astype(bool),
            "q_mode": graded["confidence"],
            "answer_prob": sampler.answer_probabilities(prompts, whole),
            "well_formed": [text.parse(completion, form) is not None for completion in free],
            "forced_answer": [text.last_tag(completion, "answer") is None for completion in free],
            "forced_confidence": [text.last_tag(completion, "confidence") is None for completion in free],
            "gold_removed": questions["gold_removed"],
            "said": graded["answer"],
            "text": free,
        }
    )


def summary(items: pd.DataFrame) -> dict[str, float]:
    """The measures of one model on one set, by the names of `witnesses/evaluation.py`."""
    correct, q, probability = (items[name].to_numpy() for name in ("correct", "q_mode", "answer_prob"))
    accuracy = correct.mean()
    floor_mean, floor_p95 = cal.noise_floor(q)
    row = {
        "n": len(items),
        "accuracy_greedy": accuracy,
        "unreadable": items["unreadable"].mean(),
        "unreadable_confidence": items["unreadable_confidence"].mean(),
        "malformed": 1 - items["well_formed"].mean(),
        "forced_answer": items["forced_answer"].mean(),
        "forced_confidence": items["forced_confidence"].mean(),
        "answer_prob_mean": probability.mean(),
        "answer_ece": cal.ece(probability, correct),
        "answer_smooth_ece": cal.smooth_ece(probability, correct),
        "answer_brier": cal.brier(probability, correct),
        "answer_auroc": cal.auroc(probability, correct),
        "answer_saturated": cal.saturation(probability, ev.SATURATED),
        **ev.stated_measures(q, items.assign(posterior=np.nan), "q_mode"),
        "q_mode_values": int((items["q_mode"].round(4).value_counts(normalize=True) >= 0.03).sum()),
        "skill_own": cal.brier_skill(q, correct) if 0 < accuracy < 1 else np.nan,
        "ece_floor_mean": floor_mean,
        "ece_floor_p95": floor_p95,
    }
    del row["q_mode_abs_posterior"]  # no exact posterior here
    for case, name in enumerate(_HARDNESS):
        row[f"accuracy_{name}"] = (
            correct[items["gold_removed"] == case].mean() if case in set(items["gold_removed"]) else np.nan
        )
    return row


def reliability(items: pd.DataFrame) -> pd.DataFrame:
    """Reliability of answer probability and stated confidence, as `witnesses/evaluation.py`."""
    table = ev.reliability(items.rename(columns={"q_mode": "q_mean"}))
    return table.assign(kind=table["kind"].replace("q_mean", "q_mode"))


def classify(place: str, asked: dict) -> None:
    """Replace the stated confidences in `asked` by a released classifier's of the same completions."""
    import torch

    from candor.language_models import generation

    generation.free()
    model, tokenizer = generation.load(place, "AutoModelForSequenceClassification")
    for questions, items in asked.values():
        q = []
        for problem, completion in zip(questions["problem"], items["text"]):
            whole = f"\n\nPROBLEM: {problem}\n\nEND OF PROBLEM\n\nMODEL'S RESPONSE: {completion}\n\nEND OF RESPONSE\n\n"
            inputs = tokenizer(whole, return_tensors="pt", truncation=True, max_length=4096).to(model.device)
            with torch.inference_mode():
                logits = model(**inputs).logits[0].double()
            # One output is the logit of "right"; of two, the second class is.
            q.append((torch.sigmoid(logits[0]) if len(logits) == 1 else logits.softmax(-1)[1]).item())
        items["q_mode"], items["unreadable_confidence"] = q, False


def judged_items(judge, questions, items: pd.DataFrame) -> pd.DataFrame:
    """Items of `ask` with a judge's verdicts; where it gives none the answer counts as wrong and unreadable."""
    verdicts = judge_answers(judge, questions["problem"], questions["answer"], items["said"])
    unread = items["unreadable"] | np.array([said is None for said in verdicts], bool)
    return items.assign(correct=[said is True for said in verdicts], unreadable=unread)


def judge_answers(judge, problems: Iterable[str], accepted: Iterable, said: Iterable[str]) -> list[bool | None]:
    """Whether a language model says yes before it says no, None where it says neither: it sees question, accepted
    answers and the answer given."""
    instruction = (
        "Compare an answer to a question with the accepted answers. Reply with one word: YES if it means the same as "
        "one of them, otherwise NO."
    )
    prompts = []
    for problem, gold, answer in zip(problems, accepted, said):
        user = f"Question: {problem}\nAccepted answers: {'; '.join(gold)}\nAnswer given: {answer or 'none'}"
        prompts.append(text.prompt(judge.tokenizer, instruction, user, "\nReply: "))
    found = [re.search(r"\b(?:yes|no)\b", reply.lower()) for reply in judge(prompts, 20)]
    return [match and match[0] == "yes" for match in found]


def votes_refused(settings: Mapping) -> list[str]:
    """The sentence where votes are asked for on a set that a language model grades: it compares no two answers."""
    first = settings["eval_sets"][0]
    if not (settings["judge"] and settings["voting_questions"] and sets.SETS[first].judged):
        return []
    return [
        f"Answers to {first} are graded by models.judge, so votes on them cannot be grouped: put another set first in "
        "models.eval_sets, or set models.voting_questions to 0."
    ]


def vote(sampler, questions, samples: int, tokens: int, seed: int) -> pd.DataFrame:
    """Answers voted from samples at temperature 1: majority, and weighted by stated confidence; ties at random.

    Answers that the question's grader takes for the same are one (`text.py: groups`). An answer that cannot be
    read is no vote; without any vote the question is wrong. Columns as `witnesses/evaluation.py: vote`, and
    unreadable (share of the answers).
    """
    prompts = [prompt for prompt in questions["prompt"] for _ in range(samples)]
    drawn = force_cues(sampler, prompts, sampler(prompts, tokens, temperature=1.0, seed=seed))
    accepted, graders, problems = (
        [row for row in questions[name] for _ in range(samples)] for name in ("answer", "grader", "problem")
    )
    graded = text.grade_leniently(drawn, accepted, graders, problems)
    asked = zip(
        graded["answer"].to_numpy().reshape(-1, samples), *(questions[c] for c in ("answer", "grader", "problem"))
    )
    said = np.array(
        [text.groups(answers, gold, name, text.options_of(problem)) for answers, gold, name, problem in asked]
    )
    right = graded["correct"].to_numpy(bool).reshape(-1, samples)
    stated = graded["confidence"].to_numpy().reshape(-1, samples)
    rng = np.random.default_rng(seed)
    rows = []
    for count in (n for n in ev.VOTES if n <= samples):
        hits: list[list[bool]] = []  # by majority, and weighted
        different = []
        for answers, outcome, confidence in zip(said[:, :count], right[:, :count], stated[:, :count]):
            votes = answers >= 0
            names, place = np.unique(answers[votes], return_inverse=True)
            different.append(len(names))
            number, sure = np.bincount(place), np.bincount(place, confidence[votes])
            ties = rng.random(len(names)) * 1e-9
            chosen = ((weight + ties).argmax() if len(names) else -1 for weight in (number, sure + 1e-6 * number))
            hits.append([bool(at >= 0 and outcome[votes][place == at][0]) for at in chosen])
        for rule, found in zip(("majority", "weighted"), np.array(hits, float).T):
            difference = found - np.array(hits, float)[:, 0]
            spread = difference.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.nan
            row = {"votes": count, "rule": rule, "accuracy": found.mean(), "difference": difference.mean()}
            row |= {"difference_se": spread, "diversity": np.mean(different)}
            rows.append(row | {"unreadable": (said[:, :count] < 0).mean()})
    return pd.DataFrame(rows)


# --- What a step asks of its models -----------------------------------------------------------------

_OWN_LIMITS = {"hotpot": 1536, "math": 4096}  # tokens of completions in the training of the released models


def _trains(models: Config, step: Step) -> list[Work]:
    recipe, name = models[step.options["recipe"]], step.options["recipe"]
    prompt = amount("hotpot_modified prompt" if name == "hotpot" else "math prompt", recipe["max_prompt_tokens"])
    tokens = recipe["max_completion_tokens"]
    return policy_gradient(models["policy"], recipe, prompt, tokens, engine=models["engine"])


def _asks(models: Config, step: Step) -> list[Work]:
    """Free answers, cues for what they lack, the answer's probability; votes, a classifier, a judge where asked for."""
    name, world, batch = step.options["model"], step.world, models["eval_batch"]
    place = CLASSIFIED.get(name, name)
    own = place == "policy" and models[world] is not None
    model = models["policy"] if place == "policy" else models["ids"][place]
    limit = models[world]["max_completion_tokens"] if own else _OWN_LIMITS[world]
    tokens = between(limit, models["eval_tokens"])
    # An answer in its own form lacks the confidence; at most both are missing.
    cues = ((text.ANSWER_TOKENS, between(0, 1)), (text.CONFIDENCE_TOKENS, between(step.options["form"] == "answer", 1)))
    works = []
    for i, asked in enumerate(models["eval_sets"]):
        known = {"math_500": "math", "big_math_digits": "math"}.get(asked, asked)
        prompt = amount(f"{known} prompt" if f"{known} prompt" in amounts().index else "short prompt")
        rows, drawn = models["eval_questions"], 0
        if f"{asked} test" in amounts().index:
            rows = amount(f"{asked} test", rows)
        elif given := sets.SETS[asked].given:
            rows = min(rows, len(given))
        if i == 0 and step.options.get("voting"):
            drawn = np.minimum(models["voting_questions"], rows) * models["voting_samples"]
        for several in (drawn, rows):
            works.append(sample(model, several, prompt, tokens, batch))
            works += [sample(model, several * share, prompt + tokens, cue, batch) for cue, share in cues]
        works.append(read(model, rows, prompt + tokens, logits=LONGEST_ANSWER))
        if name in CLASSIFIED:
            works.append(read(models["ids"][name], rows, np.minimum(prompt + tokens, 4096)))
        if models["judge"] and sets.SETS[asked].judged:
            works.append(sample(models["judge"], rows, amount("short prompt"), 20, batch))
    return works


# --- The steps --------------------------------------------------------------------------------------

_HERE = "candor.language_models.run"
_GRADERS = (
    *(f"candor.language_models.text:{grader.__name__}" for grader in text.GRADERS.values()),
    "candor.language_models.formulas:serve",
)


def _steps() -> dict[str, Step]:
    evaluated = partial(
        Step, make=f"{_HERE}:evaluate", settings=_EVALUATION, uses=_GRADERS, work=_asks, data=_read_in_tests
    )
    found = [
        evaluated(
            f"{corpus}/released/eval_{arm}",
            options={"arm": arm, "model": name, "form": form},
            seeds="eval_seed",
            asked=lambda models, step: step.options["model"] in models["released"],
        )
        for name, (corpus, arm, form) in RELEASED.items()
    ]
    for corpus in CORPORA:
        for arm, (form, *_) in {"base": ("document",), **rewards.ARMS}.items():
            key = f"{corpus}/policy/{arm}"
            seeds = "seeds" if arm in ("rlvr", "rlcr") else "swap_seeds"
            if arm != "base":
                found.append(
                    Step(
                        key,
                        f"{_HERE}:train",
                        options={"arm": arm, "recipe": corpus},
                        settings=("policy", "engine", "datasets", corpus),
                        uses=_GRADERS,
                        seeds=seeds,
                        trains=True,
                        asked=_wants,
                        work=_trains,
                        data=lambda models, step: [(models[step.world]["dataset"], "train")],
                    )
                )
            found.append(
                evaluated(
                    f"{corpus}/policy/eval_{arm}",
                    needs=(key,) if arm != "base" else (),
                    options={"arm": arm, "model": "policy", "form": form, "voting": arm in ("base", "rlcr")},
                    seeds=seeds if arm != "base" else "eval_seed",
                    asked=_wants,
                    check=_check_votes,
                )
            )
    return {step.key: step for step in found}


def _wants(models: Config, step: Step) -> bool:
    arm = step.options["arm"]
    return models[step.world] is not None and (arm == "base" or arm in models["arms"][step.world])


def _check_votes(models: Config, step: Step) -> None:
    for line in votes_refused(models) if step.options["voting"] else ():
        raise CandorError(line)


def _read_in_tests(models: Config, step: Step) -> list[tuple[str, str]]:
    return [(name, "test") for name in models["eval_sets"]]


STEPS = _steps()


def seeds_of(step: Step, config: Config) -> tuple[int, ...]:
    """The seeds of one of these steps: a list of `models`, or its one `eval_seed` where nothing is drawn."""
    seeds = config["models"][step.seeds]
    return (seeds,) if isinstance(seeds, int) else tuple(seeds)


# --- Tables for the claims --------------------------------------------------------------------------


def stacked(read, places: Iterable[tuple[str, Collection[str]]], table: str, world: str) -> pd.DataFrame:
    """A table of several settings, each with its names, in one; `read` is a method of `run/steps.py: Results`.

    Frames without rows are left out: with one among them, whole numbers would become decimals.
    """
    frames = [read(setting, list(names), table, world=world) for setting, names in places]
    return pd.concat([frame for frame in frames if len(frame)] or [pd.DataFrame()], ignore_index=True)


def tables(results, arms: Collection[str] | None = None) -> dict[str, pd.DataFrame]:
    """What claims read: `models` (a row a model, seed and data set), `models_reliability`, `models_voting`; absent
    evidence leaves no table."""
    steps = [STEPS[key] for key in wanted(STEPS, results.config)]
    places = dict.fromkeys(  # by corpus and setting, arms in the order of the rewards
        (corpus, setting, arm)
        for corpus in CORPORA
        for setting in ("policy", "released")
        for arm in arms or ("base", *rewards.ARMS, *(arm for _, arm, _ in RELEASED.values()))
    )
    found = {}
    for ours, table in (("models", "summary"), ("models_reliability", "reliability"), ("models_voting", "voting")):
        made = {
            step.key
            for step in steps
            if table != "voting" or (step.options.get("voting") and results.config["models"]["voting_questions"])
        }
        frames = [
            results.collect(setting, [arm], table, world=corpus).assign(trained_on=corpus)
            for corpus, setting, arm in places
            if f"{corpus}/{setting}/eval_{arm}" in made
        ]
        if frames := [frame for frame in frames if len(frame)]:
            found[ours] = pd.concat(frames, ignore_index=True)
    return found

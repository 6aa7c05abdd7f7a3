"""Pretrained models on the papers' data: training, evaluation in and out of distribution, the released outputs.

A key is `hotpot/<setting>/<arm>` or `math/<setting>/<arm>`, by the training set. Setting `policy`: our own runs,
trained from `models.policy` by the recipe of that set (`training.py`), each with an evaluation
`eval_<arm>`; `eval_base` is the policy before training. Setting `released`: evaluations of released checkpoints.
Every evaluation asks every set of `models.eval_sets` by the papers' protocol: greedy, one completion, a forced cue
where a tag is missing, lenient parsing. Columns are those of `witnesses/evaluation.py` where they mean the same;
the stated confidence of a greedy completion is a `q_mode`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from candor.core.errors import CandorError, Incomplete
from candor.core.settings import ROOT, Config
from candor.core.step import Context, Step
from candor.language_models import rewards, sets, text
from candor.language_models.generation import LONGEST_ANSWER
from candor.language_models.work import Work, amount, amounts, between, policy_gradient, read, sample
from candor.measure import calibration as cal
from candor.witnesses import evaluation as ev

RECIPES = {"hotpot": "hotpot", "math": "math"}
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
    from candor.train import models

    models.quiet()
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
    from candor.train import models

    models.quiet()
    settings, options = context.settings, context.step.options
    for line in votes_refused(settings) if options.get("voting") else ():
        raise CandorError(line)
    if context.needs:
        place = context.need(options["arm"]).model
    else:
        name = CLASSIFIED.get(options["model"], options["model"])
        place = settings["policy"] if name == "policy" else settings["ids"][name]
    sampler, tokenizer = _sampler(place, context)
    asked, votes = {}, pd.DataFrame()
    for i, name in enumerate(settings["eval_sets"]):
        questions = sets.prompts(
            name, "test", settings["eval_seed"], settings["eval_questions"], form=options["form"], tokenizer=tokenizer
        )
        asked[name] = (questions, ask(sampler, questions, settings["eval_tokens"], options["form"]))
        if i == 0 and options.get("voting") and settings["voting_questions"]:
            few = questions.select(range(min(settings["voting_questions"], len(questions))))
            votes = vote(sampler, few, settings["voting_samples"], settings["eval_tokens"], settings["eval_seed"])
        context.progress(i + 1, len(settings["eval_sets"]))
    del sampler
    shutil.rmtree(context.folder / "merged", ignore_errors=True)
    if options.get("model") in CLASSIFIED:
        classify(settings["ids"][options["model"]], asked)
    judged = [name for name in asked if sets.SETS[name].judged] if settings["judge"] else []
    if judged:
        judge = generation.Sampler(*generation.load(settings["judge"]), settings["eval_batch"])
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


def _sampler(place: str | Path, context: Context):
    from candor.language_models import generation

    if context.settings["engine"] != "vllm":
        model, tokenizer = generation.load(place)
        return generation.Sampler(model, tokenizer, context.settings["eval_batch"]), tokenizer
    if (Path(place) / "adapter_config.json").exists():
        model, tokenizer = generation.load(place)
        place = context.folder / "merged"
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        del model
    tokenizer = generation.tokenizer_of(place)
    return generation.VllmSampler(place, tokenizer), tokenizer


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
        messages = [{"role": "system", "content": instruction}, {"role": "user", "content": user}]
        if getattr(judge.tokenizer, "chat_template", None):
            prompts.append(judge.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        else:
            prompts.append(f"{instruction}\n\n{user}\nReply: ")
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
        hits: dict[str, list[bool]] = {"majority": [], "weighted": []}
        different = []
        for answers, outcome, confidence in zip(said[:, :count], right[:, :count], stated[:, :count]):
            votes = answers >= 0
            names, place = np.unique(answers[votes], return_inverse=True)
            different.append(len(names))
            number, sure = np.bincount(place), np.bincount(place, confidence[votes])
            ties = rng.random(len(names)) * 1e-9
            for rule, weight in (("majority", number), ("weighted", sure + 1e-6 * number)):
                hits[rule].append(bool(len(names) and outcome[votes][place == (weight + ties).argmax()][0]))
        for rule, found in hits.items():
            difference = np.array(found, float) - hits["majority"]
            spread = difference.std(ddof=1) / np.sqrt(len(found)) if len(found) > 1 else np.nan
            rows.append(
                {
                    "votes": count,
                    "rule": rule,
                    "accuracy": np.mean(found),
                    "difference": difference.mean(),
                    "difference_se": spread,
                    "diversity": np.mean(different),
                    "unreadable": (said[:, :count] < 0).mean(),
                }
            )
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
    found = []
    for corpus, recipe in RECIPES.items():
        for arm, (form, *_) in {"base": ("document",), **rewards.ARMS}.items():
            trained = () if arm == "base" else (f"{corpus}/policy/{arm}",)
            seeds = "seeds" if arm in ("rlvr", "rlcr") else "swap_seeds"
            if trained:
                found.append(
                    Step(
                        trained[0],
                        f"{_HERE}:train",
                        options={"arm": arm, "recipe": recipe},
                        settings=("policy", "engine", "datasets", recipe),
                        uses=_GRADERS,
                        seeds=seeds,
                        trains=True,
                        work=_trains,
                    )
                )
            found.append(
                Step(
                    f"{corpus}/policy/eval_{arm}",
                    f"{_HERE}:evaluate",
                    needs=trained,
                    options={"arm": arm, "model": "policy", "form": form, "voting": arm in ("base", "rlcr")},
                    settings=_EVALUATION,
                    uses=_GRADERS,
                    seeds=seeds if trained else "eval_seed",
                    work=_asks,
                )
            )
    for name, (corpus, arm, form) in RELEASED.items():
        found.append(
            Step(
                f"{corpus}/released/eval_{arm}",
                f"{_HERE}:evaluate",
                options={"arm": arm, "model": name, "form": form},
                settings=_EVALUATION,
                uses=_GRADERS,
                seeds="eval_seed",
                work=_asks,
            )
        )
    return {step.key: step for step in found}


STEPS = _steps()


def wanted(config: Config, arms: Collection[str] | None = None) -> list[str]:
    """Keys of the steps that a scale asks for, of these arms only (None: of all), the released models first."""
    if "models" not in config["evidence"]:
        return []
    models = config["models"]
    keys = []
    for name in models["released"]:
        corpus, arm, _ = RELEASED[name]
        keys.append((arm, f"{corpus}/released/eval_{arm}"))
    for corpus, recipe in RECIPES.items():
        if models[recipe] is not None:
            keys.append(("base", f"{corpus}/policy/eval_base"))
            keys += [
                (arm, f"{corpus}/policy/{part}") for arm in models["arms"][corpus] for part in (arm, f"eval_{arm}")
            ]
    return [key for arm, key in keys if arms is None or arm in arms]


def seeds_of(step: Step, config: Config) -> tuple[int, ...]:
    """The seeds of one of these steps: a list of `models`, or its one `eval_seed` where nothing is drawn."""
    seeds = config["models"][step.seeds]
    return (seeds,) if isinstance(seeds, int) else tuple(seeds)


# --- What has to be there ---------------------------------------------------------------------------


def data_needed(config: Config) -> list[tuple[str, str]]:
    """Data sets and splits that the scale's steps read."""
    keys, models = wanted(config), config["models"]
    needed = [
        (models[recipe]["dataset"], "train") for recipe in RECIPES.values() if models[recipe] is not None and keys
    ]
    return list(dict.fromkeys([*needed, *((name, "test") for name in models["eval_sets"] if keys)]))


def models_needed(config: Config) -> list[str]:
    """Model ids (or folders) that the scale's steps load."""
    keys, models = wanted(config), config["models"]
    if not keys:
        return []
    ids = [models["ids"][part] for name in models["released"] for part in (name, CLASSIFIED.get(name, name))]
    if any(models[recipe] is not None for recipe in RECIPES.values()):
        ids.insert(0, models["policy"])
    if models["judge"] and any(sets.SETS[name].judged for name in models["eval_sets"]):
        ids.append(models["judge"])
    return list(dict.fromkeys(ids))


def has_weights(place: str) -> bool:
    """Whether a model is a folder here, or lies whole in the cache of the Hub's client."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    def cached(name: str) -> str | None:
        found = try_to_load_from_cache(place, name)
        return found if isinstance(found, str) else None

    if Path(place).is_dir():
        return True
    try:
        if cached("model.safetensors"):
            return True
        index = cached("model.safetensors.index.json")
    except HFValidationError:
        return False
    return bool(index) and all(map(cached, set(json.loads(Path(index).read_text())["weight_map"].values())))


def requirements(config: Config) -> list[str]:
    """What pretrained models or released outputs still lack here, a sentence each with the way to get it.

    Asked before any work starts. Scales without the evidence `models` or `released` lack nothing.
    """
    keys, lacks = wanted(config), []
    if "models" in config["evidence"]:
        lacks += engine_missing(config, gpu=bool(keys))
        lacks += votes_refused(config["models"]) if any(STEPS[key].options.get("voting") for key in keys) else []
        absent = dict.fromkeys(name for name, split in data_needed(config) if sets.missing(name, split))
        lacks += data_missing(config, absent) + weights_missing(config, models_needed(config))
    if "released" in config["evidence"] and not any(outputs_root().rglob("*.arrow")):
        lacks.append(
            "The released per-item outputs are missing: run `python -m candor fetch outputs` where there is a network."
        )
    return lacks


def no_gpu(config: Config) -> str:
    """The sentence where the scale needs a GPU and torch sees none."""
    import torch

    return (
        f"Scale {config['scale']} runs pretrained models and needs a GPU, but torch {torch.__version__} sees none: run "
        "it on a machine with one and a CUDA build of torch, choose --scale laptop, or set CANDOR_CPU=1 to run them on "
        "the CPU all the same."
    )


def engine_missing(config: Config, gpu: bool = True) -> list[str]:
    """Whether a GPU (if it is needed) or the engine is missing."""
    import torch

    lacks = []
    if gpu and os.environ.get("CANDOR_CPU") != "1" and not torch.cuda.is_available():
        lacks.append(no_gpu(config))
    if config["models"]["engine"] == "vllm" and importlib.util.find_spec("vllm") is None:
        lacks.append(
            "models.engine is vllm, which is not installed: install vllm into .venv, or set models.engine to "
            "transformers."
        )
    attention = config["models"]["computation"]["attention"]
    if attention == "flash_attention_2" and not importlib.util.find_spec("flash_attn"):
        lacks.append(
            "models.computation.attention is flash_attention_2, which is not installed: install flash-attn into .venv, "
            "or set it to sdpa."
        )
    return lacks


def data_missing(config: Config, names: Iterable[str]) -> list[str]:
    """The sentence for data sets that are not here."""
    if not (names := " ".join(names)):
        return []
    return [
        f"Data sets are missing in {sets.root()}: run `python -m candor fetch {names} --scale {config['scale']}` where "
        "there is a network."
    ]


def weights_missing(config: Config, places: Iterable[str]) -> list[str]:
    """The sentences for those of the models that are not here, and for names that no model can have."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    lacks, unfetched = [], []
    for place in places:
        if has_weights(place):
            continue
        try:
            validate_repo_id(place)
            unfetched.append(place)
        except HFValidationError:
            lacks.append(
                f"{place!r} is neither a folder with a model nor a name on the Hub (owner/model): correct it under "
                f"models in config/{config['scale']}.yaml."
            )
    if unfetched:
        lacks.append(
            f"Model weights are missing ({', '.join(unfetched)}): run `python -m candor fetch models --scale "
            f"{config['scale']}` where there is a network (or copy the Hub client's cache here)."
        )
    return lacks


# --- The released outputs: no model needed ----------------------------------------------------------

OUTPUTS = {"commonsenseqa": "CommonsenseQA", "gpqa": "GPQA", "math-500": "MATH-500"}
OUTPUT_QUESTIONS = {"commonsenseqa": 1221, "gpqa": 448, "math-500": 500}
OUTPUT_ARMS = {
    "Base": "base",
    "RLVR": "rlvr",
    "RLVR-Classifier": "rlvr+bce_classifier",
    "Answer-Prob": "answer_probability",
    "RLCR": "rlcr",
}
OUTPUT_CELLS = [(dataset, arm) for dataset in OUTPUTS.values() for arm in OUTPUT_ARMS.values()]
JUDGED_OUTPUTS = ("CommonsenseQA", "GPQA")  # multiple choices, labelled by a language model
METRICS = ("accuracy", "brier", "ece", "auroc")
_TRAINED_ON = "trained on HotpotQA-Modified"  # in the published numbers


def outputs_root() -> Path:
    return sets.root() / "outputs"


def released_items(folder: Path | None = None) -> pd.DataFrame:
    """The released per-item outcomes, empty if they were not fetched; five arms trained on HotpotQA, three data sets.

    Columns: dataset, arm, confidence, correct (the authors' label), and of multiple choices, whose label is a language
    model's, the answer's text read again: named ("" for no option or several), right (it names the right option).
    From the authors' repository (MIT licence). Raises: `CandorError` naming a file that is not what was fetched.
    """
    frames = []
    for name, dataset in OUTPUTS.items():
        for path in sorted((folder or outputs_root()).glob(f"{name}/*.arrow")):
            origin = path.parent / "source.json"
            try:
                content = path.read_bytes()
                if origin.exists() and json.loads(origin.read_text())["sha256"] != hashlib.sha256(content).hexdigest():
                    raise ValueError("it is not the file that was fetched")
                frames += [part.assign(dataset=dataset) for part in output_frames(content)]
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise CandorError(
                    f"{path} cannot be read ({_in_short(error)}): run `python -m candor fetch outputs` where there is "
                    "a network."
                ) from None
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:120].rstrip(".")


def output_frames(content: bytes) -> list[pd.DataFrame]:
    """The items of a released file, a frame an arm. Raises: `ValueError` where it is truncated or not such a file."""
    import pyarrow as pa

    try:
        rows, found = pa.ipc.open_stream(content).read_all().to_pydict(), []
        options, gold = _options(rows)
        for theirs, arm in OUTPUT_ARMS.items():
            columns = {"confidence": f"{theirs}-confidence_levels", "correct": f"{theirs}-evals"}
            if not set(columns.values()) <= set(rows):
                continue
            part = pd.DataFrame({ours: [row[0] for row in rows[column]] for ours, column in columns.items()})
            if options and f"{theirs}-output_0" in rows:
                said = (text.last_tag(output, "answer") or "" for output in rows[f"{theirs}-output_0"])
                part["named"] = [text.option(*both) for both in zip(said, options)]
                part["right"] = (part["named"] == gold).astype(float)
            found.append(part.assign(arm=arm))
    except (OSError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(_in_short(error)) from None
    if not found:
        raise ValueError("it has no labels of an arm")
    return found


def _options(rows: Mapping[str, list]) -> tuple[list[dict[str, str]], list[str]]:
    """The options of each question of a released file by letter, and the right one's letter; empty for no choices."""
    if {"choices", "answerKey"} <= set(rows):
        return [dict(zip(row["label"], row["text"])) for row in rows["choices"]], rows["answerKey"]
    problems = rows.get("problem", rows.get("question", []))
    options = [text.options_of(problem) for problem in problems]
    if not options or not all(options):
        return [], []
    # "Option C which is [gold]" in the authors' preparation of GPQA.
    return options, [_gold(answer, known) for answer, known in zip(rows["answer"], options)]


def _gold(answer: str, options: Mapping[str, str]) -> str:
    named = re.match(r"\W*(?:option\s+)?([A-Z])\b", answer, re.I)
    texts = {text.squad_normalised(words): letter for letter, words in options.items()}
    letter = texts.get(text.squad_normalised(answer)) or (named and named[1].upper())
    return letter if letter in options else text.option(answer, options)


def _metrics(confidence: pd.Series, correct: pd.Series) -> dict[str, float]:
    q, right = confidence.clip(0, 1).to_numpy(), correct.to_numpy(float)
    return dict(zip(METRICS, (right.mean(), cal.brier(q, right), cal.ece(q, right), cal.auroc(q, right))))


def recomputed(items: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Accuracy, Brier, ECE, AUROC of `released_items`, beside the released metrics; a row each.

    Columns: dataset, arm, n, questions (those of the released metrics), metric, value, published, difference.
    """
    printed = published[published["setting"] == _TRAINED_ON].set_index(["dataset", "arm", "metric"])
    rows = []
    for (dataset, arm), part in items.groupby(["dataset", "arm"], sort=False):
        for metric, value in _metrics(part["confidence"], part["correct"]).items():
            known = printed.loc[(dataset, arm, metric)]
            rows.append((dataset, arm, len(part), known["n"], metric, value, known["value"]))
    table = pd.DataFrame(rows, columns=["dataset", "arm", "n", "questions", "metric", "value", "published"])
    return table.assign(difference=table["value"] - table["published"])


def by_option(items: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """The same of multiple choices by the option that the text names, beside the labels of the authors' judge.

    A row a data set and arm: n, questions (as `recomputed`), unreadable (share of answers that name no option or
    several; they are wrong), accepted (share that the judge takes for right and that do not name the right option),
    refused (the other way round), and each metric as <metric>_label and <metric>_option.
    """
    questions = published[published["setting"] == _TRAINED_ON].groupby(["dataset", "arm"])["n"].max()
    rows = []
    read = items.dropna(subset=["right"]) if "right" in items else items[:0]
    for (dataset, arm), part in read.groupby(["dataset", "arm"], sort=False):
        label, option = part["correct"] == 1, part["right"] == 1
        row = {"dataset": dataset, "arm": arm, "n": len(part), "questions": questions[dataset, arm]}
        row |= {"unreadable": (part["named"] == "").mean(), "accepted": (label & ~option).mean()}
        row |= {"refused": (option & ~label).mean()}
        for way, correct in (("label", label), ("option", option)):
            row |= {f"{name}_{way}": value for name, value in _metrics(part["confidence"], correct).items()}
        rows.append(row)
    return pd.DataFrame(rows)


# --- Tables for the claims --------------------------------------------------------------------------


def tables(results, arms: Collection[str] | None = None) -> dict[str, pd.DataFrame]:
    """What claims read: `models` (a row a model, seed and data set), `models_reliability`, `models_voting`; absent
    evidence leaves no table."""
    config = results.config
    if "models" not in config["evidence"]:
        return {}
    arms = tuple(arms or dict.fromkeys(["base", *rewards.ARMS, *(arm for _, arm, _ in RELEASED.values())]))
    found = {}
    for ours, table in (("models", "summary"), ("models_reliability", "reliability"), ("models_voting", "voting")):
        frames = [
            frame.assign(trained_on=corpus)
            for corpus in RECIPES
            for setting in ("policy", "released")
            for frame in [_collect(results, corpus, setting, arms, table)]
            if len(frame)
        ]
        if frames:
            found[ours] = pd.concat(frames, ignore_index=True)
    return found


def released_tables() -> dict[str, pd.DataFrame]:
    """What claims read of the released per-item outputs: `outputs` (as `recomputed`), `outputs_by_option`,
    `outputs_reliability`. Without the files there is no table.
    """
    items = released_items()
    if not len(items):
        return {}
    published = pd.read_csv(ROOT / "data" / "published" / "rlcr_per_dataset.csv")
    found = {"outputs": recomputed(items, published), "outputs_by_option": by_option(items, published)}
    parts = [
        cal.reliability_table(part["confidence"].clip(0, 1), part["correct"]).assign(dataset=dataset, arm=arm)
        for (dataset, arm), part in items.groupby(["dataset", "arm"], sort=False)
    ]
    found["outputs_reliability"] = pd.concat(parts, ignore_index=True)
    return {name: table for name, table in found.items() if len(table)}


def _collect(results, corpus: str, setting: str, arms: Iterable[str], table: str) -> pd.DataFrame:
    known = set(wanted(results.config))
    here = [arm for arm in arms if f"{corpus}/{setting}/eval_{arm}" in known]
    if table == "voting":
        here = [arm for arm in here if STEPS[f"{corpus}/{setting}/eval_{arm}"].options.get("voting")]
    if not here or (table == "voting" and not results.config["models"]["voting_questions"]):
        return pd.DataFrame()
    return results.collect(setting, here, table, world=corpus)


# --- Estimators for the claims' criteria ------------------------------------------------------------

Tables = Mapping[str, pd.DataFrame]


def recomputing_cells(tables: Tables) -> int:
    """Cells (data set and arm) of the released outputs whose four metrics all lie within .001 of the released ones.

    `Incomplete` unless all fifteen are there with all their questions.
    """
    _whole(tables["outputs"], OUTPUT_CELLS)
    return int(
        (tables["outputs"].groupby(["dataset", "arm"])["difference"].agg(lambda d: d.abs().max()) <= 0.001).sum()
    )


def _whole(outputs: pd.DataFrame, cells: Iterable[tuple[str, str]]) -> None:
    """Raises `Incomplete`, naming what lacks, unless these data sets and arms are there with all their questions."""
    whole = outputs.groupby(["dataset", "arm"])[["n", "questions"]].min()
    lacks: dict[str, list[str]] = {}
    for dataset, arm in cells:
        if (dataset, arm) not in whole.index:
            lacks.setdefault(f"{dataset} without", []).append(arm)
        elif (found := whole.loc[dataset, arm])["n"] != found["questions"]:
            lacks.setdefault(f"{dataset} with {found['n']:g} of {found['questions']:g} questions in", []).append(arm)
    if lacks:
        told = "; ".join(f"{where} {', '.join(arms)}" for where, arms in lacks.items())
        raise Incomplete(f"the released outputs are not whole ({told}): run `python -m candor fetch outputs`")


def options_note(tables: Tables) -> str:
    """The share of answers that name no option, the least and the most of any arm."""
    low, high = tables["outputs_by_option"]["unreadable"].agg(["min", "max"])
    return f"{low:.1%} to {high:.1%} of an arm's answers name no option or several"


def option_effect(dataset: str, arm: str, measure: str) -> Callable[[Tables], float]:
    """A measure by the option that the text names, minus the same by the judge's label; `Incomplete` without all."""

    def estimate(tables: Tables) -> float:
        table = tables["outputs_by_option"]
        _whole(table, [(dataset, arm)])
        row = table[(table["dataset"] == dataset) & (table["arm"] == arm)].iloc[0]
        return float(row[f"{measure}_option"] - row[f"{measure}_label"])

    return estimate

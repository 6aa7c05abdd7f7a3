"""The steps of the `witnesses` world: a base a crowd, the arms trained from it, the evaluation of each.

A setting is a crowd. An arm is one change: a reward, a document order, a normalisation. Bases are trained on the
crowd's documents (next-token loss), arms by TRL's GRPO from the base of the same seed; every arm is scored by the
same evaluation on the same questions (`evaluation.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from candor import rewards
from candor.core.step import Context, Step
from candor.witnesses import evaluation as ev
from candor.witnesses import joint as joints
from candor.witnesses import world

_MODEL = ("hidden_size", "layers", "heads", "mlp")
_BASE = (*_MODEL, "base_steps", "base_batch", "base_lr")
_GRPO = ("prompts_per_step", "num_generations", "grpo_lr", "train_prompts", "snapshot_every")
_GRPO_LONG = tuple("train_prompts=train_prompts_give_up" if name == "train_prompts" else name for name in _GRPO)
_CLASSIFIER = ("prompts_per_step", "num_generations", "grpo_steps", "classifier_lr")
_CLASSIFIER_EVALUATION = ("eval_questions", "eval_seed", "shift_questions")
_EVALUATION = ("eval_questions", "eval_seed", "free_questions", "heldout_questions")

# --- Rewards by name --------------------------------------------------------------------------------

FORMAT = ("well_formed", 0.5)
RLVR = (("correct", 1.0), FORMAT)
RLCR = (("correct", 1.0), ("brier_score", 1.0), FORMAT)


def reward_terms(reward, group: int, seed: int) -> tuple[list[Callable], list[float]]:
    """The reward functions and weights that the names in an arm's options stand for.

    `reward` holds (name, weight), names of `TERMS`.
    """
    return [TERMS[name](group, seed) for name, _ in reward], [weight for _, weight in reward]


def _shuffled_rlcr(group: int, seed: int) -> Callable:
    return rewards.shuffled(rewards.summed([(w, TERMS[part](group, seed)) for part, w in RLCR]), group, seed)


# What a name in an arm's reward stands for, given the size of a group and the seed.
TERMS: dict[str, Callable[[int, int], Callable]] = {
    "correct": lambda group, seed: rewards.correct,
    "oracle": lambda group, seed: rewards.oracle,
    "well_formed": lambda group, seed: rewards.well_formed,
    "well_formed_answer": lambda group, seed: rewards.well_formed_answer,
    "brier_score": lambda group, seed: rewards.score("brier"),
    "linear_score": lambda group, seed: rewards.score("linear"),
    "log_score": lambda group, seed: rewards.score("log"),
    "threshold_0": lambda group, seed: rewards.threshold(0.0),
    "threshold_50": lambda group, seed: rewards.threshold(0.5),
    "threshold_75": lambda group, seed: rewards.threshold(0.75),
    "threshold_90": lambda group, seed: rewards.threshold(0.9),
    "shuffled_correct": lambda group, seed: rewards.shuffled(rewards.correct, group, seed),
    "shuffled_rlcr": _shuffled_rlcr,
    "rolled_brier_score": lambda group, seed: rewards.rolled("brier", group),
}


def _code_of(term: str) -> tuple[str, ...]:
    """Where the code of a reward term is, for the fingerprint: its entry alone, and that of its scoring rule."""
    entries = [f"{_HERE}:TERMS[{term}]"]
    if term == "shuffled_rlcr":
        entries += [code for part, _ in RLCR for code in _code_of(part)]
    if term.endswith("_score"):
        entries.append(f"candor.rewards:RULES[{term.removesuffix('_score').removeprefix('rolled_')}]")
    return tuple(entries)


# --- What a step does -------------------------------------------------------------------------------


def base(context: Context) -> dict[str, pd.DataFrame]:
    """A decoder from scratch, trained on documents of the crowd."""
    import torch

    from candor.train import models, sft

    models.quiet()
    settings, crowd = context.settings, world.CROWDS[context.step.options["crowd"]]
    torch.manual_seed(context.seed)
    model = models.new_decoder(len(world.VOCABULARY), world.PAD, world.EOS, **{name: settings[name] for name in _MODEL})
    n = settings.base_steps * settings.base_batch
    documents = world.documents(n, crowd, world.stream("documents", context.seed))
    log = sft.train(
        model, documents, batch_size=settings.base_batch, lr=settings.base_lr, pad=world.PAD, progress=context.progress
    )
    models.save_decoder(model, world.tokenizer(), context.folder / "model")
    return {"log": log}


def arm(context: Context) -> dict[str, pd.DataFrame]:
    """The base, trained on by GRPO with the arm's reward."""
    from candor.train import models, policy

    models.quiet()
    settings, options = context.settings, context.step.options
    crowd, variant = world.CROWDS[options["crowd"]], world.SHIFTS[options.get("trained_on", "in_domain")]
    model, tokenizer = models.load_decoder(context.need("base").model)
    dataset = world.prompts("train", context.seed, settings.train_prompts, variant, crowd.confidence_first)
    if all(name != "oracle" for name, _ in options["reward"]):
        dataset = dataset.remove_columns("posterior")  # the trainer carries every column along, number by number
    group = settings.num_generations
    about = {
        "seed": context.seed,
        "max_steps": settings[options["steps"]],
        "per_device_train_batch_size": settings.prompts_per_step * group,
        "num_generations": group,
        "max_completion_length": options.get("length", 8),
        "learning_rate": settings.grpo_lr,
        **{name: options[name] for name in ("beta", "scale_rewards") if name in options},
    }
    log = policy.grpo(
        model,
        tokenizer,
        dataset,
        *reward_terms(options["reward"], group, context.seed),
        about,
        snapshots=context.folder / "snapshots" if options.get("snapshots") else None,
        snapshot_every=settings.snapshot_every,
        progress=context.progress,
        save=context.folder / "model",
    )
    return {"log": log}


def classifier(context: Context) -> dict[str, pd.DataFrame]:
    """A second model that says how likely the policy's answer is to be right.

    Starts from the base, with a sigmoid head in place of the vocabulary; cross-entropy on as many examples as the
    policy's own run had: fresh questions of the same kind, `num_generations` of the policy's answers to each.
    """
    import torch
    from safetensors.torch import save_file

    from candor.train import models, sft

    models.quiet()
    settings, options = context.settings, context.step.options
    policy = _loaded(context, options["policy"])
    batch, group = settings.prompts_per_step, settings.num_generations
    variant = world.SHIFTS[options.get("trained_on", "in_domain")]
    stream, rng = (world.stream(split, context.seed) for split in ("train", "classifier"))
    questions = world.sample_questions(settings.grpo_steps * batch, stream, variant)
    answers = joints.ask(policy, questions, states=False).answers
    index = rng.permutation(np.repeat(np.arange(len(questions)), group))
    drawn = world.draw(answers[index], rng)
    right = torch.as_tensor(drawn == questions.guilty[index], dtype=torch.float32)
    judge = _judge_of(context)

    def loss(model, tokens, rows):
        return torch.nn.functional.binary_cross_entropy_with_logits(_judge(model, tokens), right[rows])

    documents, lr = _answered(questions[index], drawn), settings.classifier_lr
    log = sft.train(
        judge, documents, batch_size=batch * group, lr=lr, pad=world.PAD, loss=loss, progress=context.progress
    )
    (context.folder / "model").mkdir()
    state = {name: tensor.contiguous() for name, tensor in judge.state_dict().items()}
    save_file(state, str(context.folder / "model" / "classifier.safetensors"))
    return {"log": log}


def _loaded(context: Context, name: str):
    """The model of a step that is needed, to be asked."""
    from candor.train import models

    return models.load_decoder(context.need(name).model)[0].eval()


def _judge_of(context: Context):
    """The base with one output, drawn from the step's seed, in place of the vocabulary."""
    import torch

    from candor.train import models

    model, _ = models.load_decoder(context.need("base").model)
    torch.manual_seed(context.seed)
    model.lm_head = torch.nn.Linear(model.config.hidden_size, 1)
    return model


def _answered(questions: world.Questions, answers: np.ndarray) -> np.ndarray:
    """Questions with an answer to each, up to its closing tag: token ids [n, L], padded on the right."""
    ends = zip(world.ANSWER_IDS[answers].tolist(), [world.TOKEN["</answer>"]] * len(answers))
    return world.padded([[*row, *end] for row, end in zip(world.prompt_tokens(questions), ends)])


def _judge(model, tokens):
    """Logit of "right" [n] after the last token of each row of `tokens` [n, L], padded on the right."""
    last = (tokens != world.PAD).sum(1) - 1
    hidden = model.model(input_ids=tokens).last_hidden_state
    return model.lm_head(hidden[range(len(tokens)), last]).squeeze(-1)


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """The measures of an arm: on the declared questions, and where asked along training, under shift, voting."""
    from candor.train import models

    models.quiet()
    settings, options, seed = context.settings, context.step.options, context.settings.eval_seed
    crowd = world.CROWDS[options["crowd"]]
    form: dict[str, Any] = {"confidence_first": crowd.confidence_first, "states": not crowd.abstains}
    model = _loaded(context, options["arm"])
    questions, exact, joint, table = _answers(model, settings.eval_questions, seed, **form)
    context.progress(1, 4)
    _, _, *held = _answers(model, settings.heldout_questions, seed + 1, **form)
    row = ev.summary(table, exact) | ev.heldout(joint, table, *held)
    row |= {"malformed": _malformed(model, settings, **form), "gives_up": table["gives_up"].mean()}
    tables = {}
    if crowd.abstains:
        row |= ev.abstention(table)
        tables["frontier"] = ev.frontier(table, row)
    tables |= _tables(row, table)
    context.progress(2, 4)
    if options.get("voting"):
        n = settings.voting_questions
        tables["voting"] = ev.vote(joint[:n], questions.guilty[:n], np.random.default_rng(seed))
    if options.get("shift"):
        tables["shift"] = _shifts(
            context, lambda variant: _answers(model, settings.shift_questions, seed, variant, **form)
        )
    context.progress(3, 4)
    if options.get("trajectory"):
        tables["trajectory"] = _trajectory(context, **form)
    return tables


def _answers(model, n: int, seed: int, variant: world.Variant = world.TRAINING_WORLD, **form):
    """`n` questions, their posterior, the model's joint and its answers; the draws are the same for every model."""
    questions, exact = ev.questions_and_posterior(n, seed, variant)
    joint = joints.ask(model, questions, **form)
    return questions, exact, joint, ev.answers_table(joint, questions, exact, np.random.default_rng(seed))


def _tables(row: dict, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    made = {"reliability": ev.reliability, "density": ev.density, "posterior_bins": ev.posterior_bins}
    return {"summary": pd.DataFrame([row])} | {name: make(table) for name, make in made.items()}


def _shifts(context: Context, answers: Callable) -> pd.DataFrame:
    """A row a shift of the step's, from `answers(variant)` as `_answers` gives them."""
    rows = []
    for name in context.step.options["shift"]:
        questions, _, _, table = answers(world.SHIFTS[name])
        ideal = world.posterior(questions)  # by the reliabilities of the training world
        rows.append({"shift": name} | ev.shift_row(table, ideal))
    return pd.DataFrame(rows)


def _malformed(model, settings, confidence_first: bool, states: bool) -> float:
    """Share of completions, drawn freely, that are not whole documents."""
    import torch

    from candor.train.sharing import sample_groups

    torch.manual_seed(settings.eval_seed)
    questions = world.sample_questions(settings.free_questions, world.stream("free", settings.eval_seed))
    tokens = sample_groups(model, world.prompt_tokens(questions, confidence_first), 1, 8)
    texts = [world.text([t for t in row if t not in (world.PAD, world.EOS)]) for row in tokens.tolist()]
    graded = world.grade(texts, questions.guilty, form="document" if states else "answer")
    ended = (tokens == world.EOS).any(1).numpy()
    return float(1 - (graded["well_formed"].to_numpy() & ended).mean())


def _trajectory(context: Context, **form) -> pd.DataFrame:
    """The course of training: the base, every snapshot, a row each."""
    from safetensors.torch import load_model

    settings, model = context.settings, _loaded(context, "base")
    trained = context.need(context.step.options["arm"]).folder / "snapshots"
    rows = []
    for path in [None, *sorted(trained.glob("step_*.safetensors"))]:
        if path:
            load_model(model, str(path))
        *_, table = _answers(model, settings.trajectory_questions, settings.eval_seed, **form)
        step = int(path.stem.removeprefix("step_")) if path else 0
        rows.append({"step": step} | ev.trajectory_row(table))
    return pd.DataFrame(rows)


def evaluate_classifier(context: Context) -> dict[str, pd.DataFrame]:
    """The policy's greedy answers with the classifier's confidence in them; the same measures, and under shift."""
    import torch
    from safetensors.torch import load_file

    from candor.train import models

    models.quiet()
    settings, options = context.settings, context.step.options
    policy, judge = _loaded(context, options["policy"]), _judge_of(context).eval()
    judge.load_state_dict(load_file(str(context.need(options["arm"]).model / "classifier.safetensors")))

    @torch.no_grad()
    def answers(n: int, variant: world.Variant = world.TRAINING_WORLD):
        questions, exact, joint, table = _answers(policy, n, settings.eval_seed, variant, states=False)
        parts = torch.as_tensor(_answered(questions, table["answer"].to_numpy())).split(512)
        confidence = torch.cat([torch.sigmoid(_judge(judge, part)) for part in parts]).double().numpy()
        return questions, exact, joint, table.assign(q_mean=confidence)

    _, exact, _, table = answers(settings.eval_questions)
    context.progress(1, 2)
    row = ev.summary(table.drop(columns="q_mean"), exact)
    row |= ev.stated_measures(table["q_mean"].to_numpy(), table, "q_mean")
    return _tables(row, table) | {"shift": _shifts(context, lambda variant: answers(settings.shift_questions, variant))}


# --- The steps --------------------------------------------------------------------------------------

_HERE = "candor.witnesses.run"
_SHIFTS = ("testimonies_6_8", "only_w2_w3", "only_w0_w1", "testimonies_4_5", "drift_mild", "drift_strong")
_SWAP = {
    "swap_rlvr": RLVR,
    "swap_rlcr": RLCR,
    "swap_brier2": (("correct", 1.0), ("brier_score", 2.0), FORMAT),
    "swap_log1": (("correct", 1.0), ("log_score", 1.0), FORMAT),
    "swap_log_k": (("correct", 1.0), ("log_score", 0.2176), FORMAT),
    "swap_brier_only": (("brier_score", 1.0), FORMAT),
    "swap_log_only": (("log_score", 1.0), FORMAT),
}
_FEW = {"seeds": "few_seeds"}  # arms on which no verdict rests
_COURSE, _NAIVE, _LONG = {"trajectory": True}, {"steps": "grpo_steps_naive"}, {"steps": "grpo_steps_give_up"}
_TWELVE = {"shift": ("suspects_12",), **_FEW}
_ANSWER_FORMAT = ("well_formed_answer", 0.5)

# setting -> arm -> its reward and the one thing that differs from the house's defaults.
ARMS: dict[str, dict[str, dict]] = {
    "expert": {
        "rlvr": {"reward": RLVR, "voting": True, "shift": _SHIFTS, **_COURSE},
        "rlcr": {"reward": RLCR, "voting": True, "shift": _SHIFTS, **_COURSE},
        "shuffled_correct": {"reward": (("shuffled_correct", 1.0), FORMAT), **_COURSE},
        "rlcr_group_std": {"reward": RLCR, "scale_rewards": "group"},
        "rlcr_batch_std": {"reward": RLCR, "scale_rewards": "batch"},
        "rlcr_rolled_outcomes": {"reward": (("correct", 1.0), ("rolled_brier_score", 1.0), FORMAT)},
        "linear": {"reward": (("correct", 1.0), ("linear_score", 1.0), FORMAT)},
        "rlvr_short": {"reward": RLVR, "trained_on": "testimonies_1_3", "shift": _SHIFTS},
        "rlcr_short": {"reward": RLCR, "trained_on": "testimonies_1_3", "shift": _SHIFTS},
        "shuffled_reward": {"reward": (("shuffled_rlcr", 1.0),), **_FEW},
        "rlvr_answer_only": {"reward": (("correct", 1.0), _ANSWER_FORMAT), "length": 2, **_FEW},
        "rlvr_no_format": {"reward": (("correct", 1.0),), **_FEW},
        "rlvr_oracle": {"reward": (("oracle", 1.0), FORMAT), **_FEW},
        "rlvr_kl": {"reward": RLVR, "beta": 0.05, **_FEW},
    },
    "expert_conf_first": {
        "rlvr_conf_first": {"reward": RLVR, **_COURSE},
        "shuffled_conf_first": {"reward": (("shuffled_correct", 1.0), FORMAT), **_COURSE},
        "rlcr_conf_first": {"reward": RLCR, **_FEW},
    },
    "overconfident": {"rlvr": {"reward": RLVR}, "rlcr": {"reward": RLCR}},
    "naive": {"rlvr": {"reward": RLVR, **_NAIVE}, "rlcr": {"reward": RLCR, **_NAIVE}},
    "abstaining": {
        f"abstain_{t:02d}{length}": {"reward": ((f"threshold_{t}", 1.0), _ANSWER_FORMAT), **steps}
        for length, steps in {"": {}, "_long": _LONG}.items()
        for t in (0, 50, 75, 90)
    },
    "give_up": {
        name: {"reward": reward, **_LONG, **(_FEW if name == "swap_rlvr" else {})} for name, reward in _SWAP.items()
    },
    "twelve": {name: {"reward": reward, **_TWELVE} for name, reward in (("rlvr", RLVR), ("rlcr", RLCR))},
}
# What the base's own evaluation shows beside the summary.
_BASES: dict[str, dict] = {"expert": {"voting": True, "shift": _SHIFTS}, "twelve": _TWELVE}


_EXTRA = {"voting": "voting_questions", "shift": "shift_questions", "trajectory": "trajectory_questions"}


def _step(setting: str, name: str, make: str, needs: Iterable[str], **about: Any) -> Step:
    """`needs` are steps of the same setting."""
    home = f"witnesses/{setting}"
    return Step(f"{home}/{name}", f"{_HERE}:{make}", needs=tuple(f"{home}/{need}" for need in needs), **about)


def _evaluation(setting: str, name: str, options: dict, seeds: str) -> Step:
    shown = {part: options[part] for part in _EXTRA if options.get(part)}
    asks = {"options": {"crowd": setting, "arm": name, **shown}, "seeds": seeds}
    needs = [name, "base"] if "trajectory" in shown else [name]
    settings = (*_EVALUATION, *(_EXTRA[part] for part in shown))
    return _step(setting, f"eval_{name}", "evaluate", needs, settings=settings, **asks)


def arm_steps(setting: str, name: str, options: dict, code: str = "") -> tuple[Step, Step]:
    """The training and the evaluation of an arm. `code`: what its fingerprint takes in place of that of its rewards,
    where they lie outside of candor."""
    seeds, steps = options.get("seeds", "seeds"), options.get("steps", "grpo_steps")
    options_of = {"crowd": setting} | {k: v for k, v in options.items() if k not in ("seeds", *_EXTRA)}
    options_of |= {"steps": steps} | ({"snapshots": True} if options.get("trajectory") else {})
    options_of |= {"code": code} if code else {}
    settings = (*(_GRPO_LONG if steps == "grpo_steps_give_up" else _GRPO), steps)
    uses = () if code else tuple(code for term, _ in options["reward"] for code in _code_of(term))
    about = {"options": options_of, "settings": settings, "uses": uses, "seeds": seeds, "trains": True}
    return _step(setting, name, "arm", ["base"], **about), _evaluation(setting, name, options, seeds)


def _base_steps(setting: str) -> tuple[Step, Step]:
    shown = _BASES.get(setting, {})
    about = {"options": {"crowd": setting}, "settings": _BASE, "seeds": shown.get("seeds", "seeds"), "trains": True}
    return _step(setting, "base", "base", [], **about), _evaluation(setting, "base", shown, about["seeds"])


def _classifier_steps(policy: str, trained_on: str) -> tuple[Step, Step]:
    name, needs = f"{policy}_classifier", ["base", policy]
    about = {"options": {"policy": policy, "trained_on": trained_on}, "settings": _CLASSIFIER, "trains": True}
    asks = {"options": {"policy": policy, "arm": name, "shift": _SHIFTS}, "settings": _CLASSIFIER_EVALUATION}
    judged = _step("expert", f"eval_{name}", "evaluate_classifier", [*needs, name], **asks)
    return _step("expert", name, "classifier", needs, **about), judged


_PAIRS = (
    *(
        pair
        for setting, arms in ARMS.items()
        for pair in (_base_steps(setting), *(arm_steps(setting, name, options) for name, options in arms.items()))
    ),
    _classifier_steps("rlvr", "in_domain"),
    _classifier_steps("rlvr_short", "testimonies_1_3"),
)
STEPS = {step.key: step for pair in _PAIRS for step in pair}

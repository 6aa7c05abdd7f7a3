"""The steps of the `witnesses` world: a base a crowd, the arms trained from it, the evaluation of each.

A setting is a crowd. An arm is one change: a reward, a document order, a normalisation. Bases are trained on the
crowd's documents (next-token loss), arms by TRL's GRPO from the base of the same seed; every arm is scored by the
same evaluation on the same questions (`evaluation.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from candor import rewards
from candor.core.step import Context, Step
from candor.witnesses import world

_MODEL = ("hidden_size", "layers", "heads", "mlp")
_BASE = (*_MODEL, "base_steps", "base_batch", "base_lr")
_GRPO = ("prompts_per_step", "num_generations", "grpo_lr", "train_prompts", "snapshot_every")
_GRPO_LONG = tuple("train_prompts=train_prompts_give_up" if name == "train_prompts" else name for name in _GRPO)
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
        model,
        documents,
        batch_size=settings.base_batch,
        lr=settings.base_lr,
        pad=world.PAD,
        progress=context.progress,
    )
    models.save_decoder(model, world.tokenizer(), context.folder / "model")
    return {"log": log}


def arm(context: Context) -> dict[str, pd.DataFrame]:
    """The base, trained on by GRPO with the arm's reward."""
    from candor.train import models, policy

    models.quiet()
    settings, options = context.settings, context.step.options
    crowd = world.CROWDS[options["crowd"]]
    model, tokenizer = models.load_decoder(context.need("base").model)
    variant = world.SHIFTS[options.get("trained_on", "in_domain")]
    dataset = world.prompts("train", context.seed, settings.train_prompts, variant, crowd.confidence_first)
    if all(name != "oracle" for name, _ in options["reward"]):
        dataset = dataset.remove_columns("posterior")  # the trainer carries every column along, number by number
    group = settings.num_generations
    log = policy.grpo(
        model,
        tokenizer,
        dataset,
        *reward_terms(options["reward"], group, context.seed),
        {
            "seed": context.seed,
            "max_steps": settings[options["steps"]],
            "per_device_train_batch_size": settings.prompts_per_step * group,
            "num_generations": group,
            "max_completion_length": options.get("length", 8),
            "learning_rate": settings.grpo_lr,
            **{name: options[name] for name in ("beta", "scale_rewards") if name in options},
        },
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

    from candor.train import models, sft

    models.quiet()
    settings, options = context.settings, context.step.options
    policy, _ = models.load_decoder(context.need(options["policy"]).model)
    policy.eval()
    steps, group, batch = settings.grpo_steps, settings.num_generations, settings.prompts_per_step
    variant = world.SHIFTS[options.get("trained_on", "in_domain")]
    questions = world.sample_questions(steps * batch, world.stream("train", context.seed), variant)
    rng = world.stream("classifier", context.seed)
    from candor.witnesses.joint import ask

    answers = ask(policy, questions, states=False).answers
    index = rng.permutation(np.repeat(np.arange(len(questions)), group))
    drawn = world.draw(answers[index], rng)
    right = torch.as_tensor(drawn == questions.guilty[index], dtype=torch.float32)
    prompts = world.prompt_tokens(questions)
    rows = [[*prompts[i], world.ANSWER_IDS[a], world.TOKEN["</answer>"]] for i, a in zip(index, drawn)]
    documents = np.full((len(rows), max(map(len, rows))), world.PAD)
    for i, row in enumerate(rows):
        documents[i, : len(row)] = row
    model, _ = models.load_decoder(context.need("base").model)
    torch.manual_seed(context.seed)
    model.lm_head = torch.nn.Linear(model.config.hidden_size, 1)

    def loss(model, tokens, rows_of_batch):
        return torch.nn.functional.binary_cross_entropy_with_logits(_judge(model, tokens), right[rows_of_batch])

    log = sft.train(
        model,
        documents,
        batch_size=batch * group,
        lr=settings.classifier_lr,
        pad=world.PAD,
        loss=loss,
        progress=context.progress,
    )
    from safetensors.torch import save_file

    (context.folder / "model").mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, str(context.folder / "model" / "classifier.safetensors"))
    return {"log": log}


def _judge(model, tokens):
    """Logit of "right" [n] after the last token of each row of `tokens` [n, L], padded on the right."""
    last = (tokens != world.PAD).sum(1) - 1
    hidden = model.model(input_ids=tokens).last_hidden_state
    return model.lm_head(hidden[range(len(tokens)), last]).squeeze(-1)


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """The measures of an arm: on the declared questions, and where asked along training, under shift, voting."""
    from candor.train import models

    models.quiet()
    settings, options = context.settings, context.step.options
    crowd = world.CROWDS[options["crowd"]]
    model, _ = models.load_decoder(context.need(options["arm"]).model)
    model.eval()
    states = not crowd.abstains
    return _evaluate(context, model, settings, options, crowd.confidence_first, states)


def _evaluate(context, model, settings, options, confidence_first, states) -> dict[str, pd.DataFrame]:
    from candor.witnesses import evaluation as ev
    from candor.witnesses.joint import ask

    def asked(n, split_seed, variant=world.TRAINING_WORLD):
        questions, exact = ev.questions_and_posterior(n, split_seed, variant)
        joint = ask(model, questions, confidence_first=confidence_first, states=states)
        # The draws of the evaluation are the same for every arm and seed.
        return joint, questions, ev.answers_table(joint, questions, exact, np.random.default_rng(split_seed)), exact

    joint, questions, table, exact = asked(settings.eval_questions, settings.eval_seed)
    context.progress(1, 4)
    held = asked(settings.heldout_questions, settings.eval_seed + 1)
    row = ev.summary(table, exact) | ev.heldout(joint, table, held[0], held[2])
    row |= {"malformed": _malformed(model, settings, confidence_first, states)}
    row["gives_up"] = table["gives_up"].mean()
    tables = {}
    if not states:
        row |= ev.abstention(table)
        tables["frontier"] = ev.frontier(table, row)
    tables |= {
        "summary": pd.DataFrame([row]),
        "reliability": ev.reliability(table),
        "density": ev.density(table),
        "posterior_bins": ev.posterior_bins(table),
    }
    context.progress(2, 4)
    if options.get("voting"):
        n = settings.voting_questions
        part = type(joint)(joint.answers[:n], joint.confidence[:n], joint.idk[:n], joint.gives_up[:n])
        tables["voting"] = ev.vote(part, questions.guilty[:n], np.random.default_rng(settings.eval_seed))
    if options.get("shift"):
        rows = []
        for name in options["shift"]:
            variant = world.SHIFTS[name]
            _, asked_questions, asked_table, _ = asked(settings.shift_questions, settings.eval_seed, variant)
            ideal = world.posterior(asked_questions)  # by the reliabilities of the training world
            rows.append({"shift": name} | ev.shift_row(asked_table, ideal))
        tables["shift"] = pd.DataFrame(rows)
    context.progress(3, 4)
    if options.get("trajectory"):
        tables["trajectory"] = _trajectory(context, settings, confidence_first)
    return tables


def _malformed(model, settings, confidence_first, states) -> float:
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


def _trajectory(context, settings, confidence_first) -> pd.DataFrame:
    """The course of training: the base, every snapshot, a row each."""
    from safetensors.torch import load_model

    from candor.train import models
    from candor.witnesses import evaluation as ev
    from candor.witnesses.joint import ask

    questions, exact = ev.questions_and_posterior(settings.trajectory_questions, settings.eval_seed)
    model, _ = models.load_decoder(context.need("base").model)
    model.eval()
    trained = context.need(context.step.options["arm"]).folder / "snapshots"
    rows = []
    for path in [None, *sorted(trained.glob("step_*.safetensors"))]:
        if path:
            load_model(model, str(path))
        joint = ask(model, questions, confidence_first=confidence_first)
        table = ev.answers_table(joint, questions, exact, np.random.default_rng(settings.eval_seed))
        step = int(path.stem.removeprefix("step_")) if path else 0
        rows.append({"step": step} | ev.trajectory_row(table))
    return pd.DataFrame(rows)


def evaluate_classifier(context: Context) -> dict[str, pd.DataFrame]:
    """The policy's greedy answers with the classifier's confidence in them; the same measures, and under shift."""
    import torch
    from safetensors.torch import load_file

    from candor.train import models
    from candor.witnesses import evaluation as ev
    from candor.witnesses.joint import ask

    models.quiet()
    settings, options = context.settings, context.step.options
    policy, _ = models.load_decoder(context.need(options["policy"]).model)
    judge, _ = models.load_decoder(context.need("base").model)
    judge.lm_head = torch.nn.Linear(judge.config.hidden_size, 1)
    judge.load_state_dict(load_file(str(context.need(options["arm"]).model / "classifier.safetensors")))
    policy.eval()
    judge.eval()

    @torch.no_grad()
    def confidence(questions, answers) -> np.ndarray:
        rows = world.prompt_tokens(questions)
        rows = [[*row, world.ANSWER_IDS[a], world.TOKEN["</answer>"]] for row, a in zip(rows, answers)]
        tokens = np.full((len(rows), max(map(len, rows))), world.PAD)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        parts = torch.as_tensor(tokens).split(512)
        return torch.cat([torch.sigmoid(_judge(judge, part)) for part in parts]).double().numpy()

    def asked(n, variant=world.TRAINING_WORLD):
        questions, exact = ev.questions_and_posterior(n, settings.eval_seed, variant)
        joint = ask(policy, questions, states=False)
        table = ev.answers_table(joint, questions, exact, np.random.default_rng(settings.eval_seed))
        q = confidence(questions, table["answer"].to_numpy())
        return questions, table.assign(q_mean=q), exact

    _, table, exact = asked(settings.eval_questions)
    context.progress(1, 2)
    row = ev.summary(table.drop(columns="q_mean"), exact)
    row |= ev.stated_measures(table["q_mean"].to_numpy(), table, "q_mean")
    rows = []
    for name in options["shift"]:
        questions, shifted, _ = asked(settings.shift_questions, world.SHIFTS[name])
        rows.append({"shift": name} | ev.shift_row(shifted, world.posterior(questions)))
    return {
        "summary": pd.DataFrame([row]),
        "reliability": ev.reliability(table),
        "density": ev.density(table),
        "posterior_bins": ev.posterior_bins(table),
        "shift": pd.DataFrame(rows),
    }


# --- The steps --------------------------------------------------------------------------------------

_HERE = "candor.witnesses.run"
_SHIFTS = (
    "testimonies_6_8",
    "only_w2_w3",
    "only_w0_w1",
    "testimonies_4_5",
    "drift_mild",
    "drift_strong",
)
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
_COURSE = {"trajectory": True}
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
    "naive": {
        "rlvr": {"reward": RLVR, "steps": "grpo_steps_naive"},
        "rlcr": {"reward": RLCR, "steps": "grpo_steps_naive"},
    },
    "abstaining": {
        f"abstain_{t:02d}{length}": {"reward": ((f"threshold_{t}", 1.0), _ANSWER_FORMAT), **steps}
        for length, steps in {"": {}, "_long": {"steps": "grpo_steps_give_up"}}.items()
        for t in (0, 50, 75, 90)
    },
    "give_up": {
        name: {"reward": reward, "steps": "grpo_steps_give_up", **(_FEW if name == "swap_rlvr" else {})}
        for name, reward in _SWAP.items()
    },
    "twelve": {
        "rlvr": {"reward": RLVR, "shift": ("suspects_12",), **_FEW},
        "rlcr": {"reward": RLCR, "shift": ("suspects_12",), **_FEW},
    },
}
_BASES = {  # what the base's own evaluation shows beside the summary
    "expert": {"voting": True, "shift": _SHIFTS},
    "twelve": {"shift": ("suspects_12",), **_FEW},
}
_CLASSIFIERS = {"rlvr_classifier": "in_domain", "rlvr_short_classifier": "testimonies_1_3"}


def _evaluation(setting: str, name: str, options: dict, seeds: str) -> Step:
    shown = {part: options[part] for part in ("voting", "shift", "trajectory") if options.get(part)}
    extra = {"voting": "voting_questions", "shift": "shift_questions", "trajectory": "trajectory_questions"}
    needs = (f"witnesses/{setting}/{name}",) + ((f"witnesses/{setting}/base",) if "trajectory" in shown else ())
    return Step(
        f"witnesses/{setting}/eval_{name}",
        f"{_HERE}:evaluate",
        needs=needs,
        options={"crowd": setting, "arm": name, **shown},
        settings=(*_EVALUATION, *(extra[part] for part in shown)),
        seeds=seeds,
    )


def arm_steps(setting: str, name: str, options: dict, code: str = "") -> tuple[Step, Step]:
    """The training and the evaluation of an arm. `code`: what its fingerprint takes in place of that of its rewards,
    where they lie outside of candor."""
    seeds, steps = options.get("seeds", "seeds"), options.get("steps", "grpo_steps")
    trained = {k: v for k, v in options.items() if k not in ("seeds", "voting", "shift", "trajectory")}
    snapshots = {"snapshots": True} if options.get("trajectory") else {}
    outside = {"code": code} if code else {}
    train = Step(
        f"witnesses/{setting}/{name}",
        f"{_HERE}:arm",
        needs=(f"witnesses/{setting}/base",),
        options={"crowd": setting, **trained, "steps": steps, **snapshots, **outside},
        settings=(*_GRPO, steps) if steps != "grpo_steps_give_up" else (*_GRPO_LONG, steps),
        uses=() if code else tuple(code for term, _ in options["reward"] for code in _code_of(term)),
        seeds=seeds,
        trains=True,
    )
    return train, _evaluation(setting, name, options, seeds)


def _steps() -> dict[str, Step]:
    made: list[Step] = []
    for setting, arms in ARMS.items():
        shown = _BASES.get(setting, {})
        seeds = shown.get("seeds", "seeds")
        root = f"witnesses/{setting}/base"
        made.append(Step(root, f"{_HERE}:base", options={"crowd": setting}, settings=_BASE, seeds=seeds, trains=True))
        made.append(_evaluation(setting, "base", shown, seeds))
        for name, options in arms.items():
            made += arm_steps(setting, name, options)
    for name, trained_on in _CLASSIFIERS.items():
        policy = name.removesuffix("_classifier")
        root = "witnesses/expert/base"
        needs = (root, f"witnesses/expert/{policy}")
        made.append(
            Step(
                f"witnesses/expert/{name}",
                f"{_HERE}:classifier",
                needs=needs,
                options={"policy": policy, "trained_on": trained_on},
                settings=("prompts_per_step", "num_generations", "grpo_steps", "classifier_lr"),
                trains=True,
            )
        )
        made.append(
            Step(
                f"witnesses/expert/eval_{name}",
                f"{_HERE}:evaluate_classifier",
                needs=(*needs, f"witnesses/expert/{name}"),
                options={"policy": policy, "arm": name, "shift": _SHIFTS},
                settings=("eval_questions", "eval_seed", "shift_questions"),
            )
        )
    return {step.key: step for step in made}


STEPS = _steps()

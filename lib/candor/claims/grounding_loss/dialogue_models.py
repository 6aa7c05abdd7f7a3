"""Grounding acts of pretrained models in conversations between people, and what preference data have to do with it.

A key is `dialogues/<setting>/<name>`. Setting `data`: `eval_questions` (how often replies ask in UltraFeedback and
UltraChat; no model) and `eval_human` (the human turns, labelled; the labellers held against hand labels). Setting
`archangel`, `olmo_1b`, `olmo_7b`, `zephyr`: evaluations of released stages by inference only. Setting `own`: SFT of a
base model on UltraChat, then the arms on UltraFeedback by DPO, each with its evaluation.

Protocol (Shaikh et al. 2024, arXiv 2311.09144): at every expert turn after the first message a model gets its role
and the true history, and writes one message; the human history is always restored. Human and model messages are
labelled by the same call. Their GPT models of 2023 cannot be replayed; open models stand in for them. Dialogues stay in
`data/corpora/`: tables hold places and labels, and of texts only what models wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import numpy as np
import pandas as pd

from candor.claims.grounding_loss import dialogues, labeller
from candor.core import runtime
from candor.core.errors import CandorError
from candor.core.settings import Config
from candor.core.step import Context, Step
from candor.language_models import training, work
from candor.language_models.run import stacked
from candor.language_models.work import Work, amount
from candor.measure import clustered

WORLD = "dialogues"
# Stages of the released lineages, by their names in `models.lineage_ids`; each is held against its sft.
LINEAGES = {
    "archangel": ("sft", "dpo", "ppo"),
    "olmo_1b": ("sft", "dpo", "rlvr"),
    "olmo_7b": ("base", "sft", "dpo", "rlvr"),
    "zephyr": ("sft", "dpo"),
}
ARMS = ("dpo", "swapped", "balanced", "length_matched", "more_sft", "dpo_beta_low")
WATCHED = ("sft", "dpo", "more_sft")  # measured along the way
AT = ["corpus", "conversation", "turn"]
# Zephyr's form (Tunstall et al. 2023). The markers say which tokens the loss is on: what the assistant writes, and the
# token that ends it. What the tokenizer puts in front of a text stands in front of a conversation.
TEMPLATE = (
    "{{ bos_token if bos_token else '' }}"
    "{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n' }}{% endif %}{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n<|assistant|>\\n' }}{% endif %}"
)

# --- What a step does -------------------------------------------------------------------------------


def questions(context: Context) -> dict[str, pd.DataFrame]:
    """Question shares of preference and chat data, as `dialogues.py: question_table`."""
    return {"questions": dialogues.question_table()}


def turns_of(settings: Mapping) -> list[dialogues.Turn]:
    """The expert turns that every model writes again: the same for all models at a scale."""
    chosen, seed = settings["dialogues"], settings["eval_seed"]
    return [
        turn
        for name in chosen["corpora"]
        for turn in dialogues.expert_turns(
            name, dialogues.sample(name, seed, chosen["conversations"], chosen["held_out"])
        )
    ]


def human(context: Context) -> dict[str, pd.DataFrame]:
    """The human turns with every labeller's label, ESConv's own labels, and the labellers against hand labels.

    Tables: turns (corpus, conversation, turn, words, a column a labeller), strategies (corpus, strategy, share, n),
    agreement (as `labeller.py: agreement`; only where hand labels are given).
    """

    settings = context.settings
    turns = turns_of(settings)
    found = {"turns": _labelled(settings, turns, _places(turns), [turn.message.text for turn in turns])}
    if "esconv" in settings["dialogues"]["corpora"]:
        share, n = dialogues.strategy_share(dialogues.raw_conversations("esconv"))
        row = {"corpus": "esconv", "strategy": "Question", "share": share, "n": n}
        found["strategies"] = pd.DataFrame([row])
    if path := settings["labeller"]["hand_labels"]:
        hand = labeller.hand_labels(path)
        with _labeller(settings) as sampler:
            made = labeller.label_all(sampler, hand["history"].tolist(), hand["message"].tolist())
        found["agreement"] = labeller.agreement(hand, made)
    return found


# --- Training ---------------------------------------------------------------------------------------


def steps_of(recipe: Mapping, n: int) -> int:
    """Optimiser steps of a recipe on `n` examples: as many as it says, or one pass."""
    return recipe["steps"] or max(1, n // recipe["batch"])


def every(steps: int, checkpoints: int) -> tuple[int, int]:
    """Steps between two checkpoints, and between two rows of the log, of which the first is a multiple."""
    between = max(1, steps // max(checkpoints, 1))
    logged = max(1, between // 10)
    return between // logged * logged, logged


def settings_of(chat: Mapping, steps: int, seed: int, *, logged: int = 10, first: bool = False) -> dict:
    """What the trainers of `models.chat` are told, every choice stated; `first`: the SFT that the arms go on from."""
    recipe = chat["sft" if first else "dpo"]
    return training.told(
        {"micro_batch": chat["micro_batch"], **recipe},
        "chat",
        seed,
        steps,
        lr_scheduler_type="cosine" if first else "linear",
        warmup_steps=round(recipe["warmup"] * steps),
        adam_beta1=0.9,
        adam_beta2=0.999,
        max_grad_norm=chat["max_grad_norm"],
        max_length=chat["max_length"],
        truncation_mode="keep_start",
        logging_steps=logged,
    )


def preference_pairs(pairs: Sequence[Mapping[str, str]], tokenizer, max_length: int):
    """Pairs (prompt, chosen, rejected) as a `Dataset` of messages; prompts that leave a reply no room are left out.

    Raises: `CandorError` where none is left.
    """
    from datasets import Dataset

    kept = []
    for pair in pairs:
        prompt = [{"role": "user", "content": pair["prompt"]}]
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
        if len(ids) < max_length:
            replies = {side: [{"role": "assistant", "content": pair[side]}] for side in ("chosen", "rejected")}
            kept.append({"prompt": prompt, **replies})
    if not kept:
        raise CandorError(f"Every prompt of ultrafeedback has {max_length} tokens or more: raise chat.max_length.")
    return Dataset.from_list(kept)


def measured(model, between: int, measure: Callable[[int], None]) -> Callable[[int], None]:
    """A function of the step that calls `measure(step)` at every `between` steps and leaves the training as it was.

    Meant for a trainer's log: the model is put back into training, and the generators of random numbers where they
    were.
    """
    import torch

    def look(step: int) -> None:
        if step % between == 0:
            training = model.training
            with torch.random.fork_rng():
                model.eval()
                measure(step)
            model.train(training)

    return look


def train(context: Context) -> dict[str, pd.DataFrame]:
    """SFT of the base model, or an arm that goes on from the last SFT checkpoint; a whole model is saved.

    Tables: log, training (one row: steps, examples, shares of asking replies), trajectory (for `WATCHED` arms).
    """
    import torch
    from datasets import Dataset

    from candor.train import models, preference, sft

    settings, arm, seed = context.settings, context.step.options["arm"], context.seed
    chat = settings["chat"]
    place = chat["policy"] if arm == "sft" else context.need("sft").model
    model, tokenizer = models.pretrained(place, chat["lora"], seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # it is measured before a trainer would put it there
    tokenizer.chat_template = TEMPLATE
    if arm == "sft":
        steps = steps_of(chat["sft"], chat["sft"]["conversations"])
    else:
        # more_sft takes as many steps as dpo, so it needs to know dpo's pairs.
        drawn = dialogues.training_pairs(arm if arm in dialogues.PAIRS else "dpo", seed, chat["dpo"]["pairs"])
        pairs = preference_pairs(drawn, tokenizer, chat["max_length"])
        steps = steps_of(chat["dpo"], len(pairs))
    between, logged = every(steps, chat["checkpoints"])
    course = runtime.current().rows("course")  # comes back where the training goes on
    progress = context.progress
    if arm in WATCHED and chat["checkpoints"]:
        look = measured(model, between, _course(model, tokenizer, settings, seed, course))
        look(0)

        def progress(step: int, total: int) -> None:
            look(step)
            context.progress(step, total)

    told = settings_of(chat, steps, seed, logged=logged, first=arm == "sft")
    if arm in ("sft", "more_sft"):
        further = arm == "more_sft"
        n = steps * chat["dpo"]["batch"] if further else chat["sft"]["conversations"]
        chats = dialogues.training_chats(seed, n, skip=chat["sft"]["conversations"] if further else 0)
        data = Dataset.from_list([{"messages": list(said)} for said in chats])
        told |= {"assistant_only_loss": True}
        log = sft.more(model, tokenizer, data, told, resumes=True, progress=progress)
        about = {"steps": steps, "examples": len(chats)}
    else:
        told |= {"beta": chat["dpo"]["beta_low" if arm == "dpo_beta_low" else "beta"]}
        log = preference.dpo(model, tokenizer, pairs, told, resumes=True, progress=progress)
        asking = {
            f"{side}_asks": np.mean([dialogues.asks(reply[0]["content"]) for reply in pairs[side]])
            for side in ("chosen", "rejected")
        }
        about = {"steps": steps, "examples": len(pairs), **asking}
    models.save_merged(model, tokenizer, context.folder / "model")
    found = {"log": log, "training": pd.DataFrame([about])}
    return found | ({"trajectory": pd.DataFrame(course)} if course else {})


def _course(model, tokenizer, settings: Mapping, seed: int, rows: list[dict]):
    """Measures, by regular expressions alone, what a checkpoint writes at some turns; adds a row to `rows`.

    Columns: step, question_rate, acknowledgement_rate, question_kappa, words, n.
    """
    from candor.language_models import generation

    chosen, limit = settings["dialogues"], settings["chat"]["checkpoint_turns"]
    name = chosen["corpora"][0]
    conversations = dialogues.sample(name, settings["eval_seed"], chosen["conversations"], chosen["held_out"])
    turns: list[dialogues.Turn] = []
    for place, conversation in conversations.items():
        if len(turns) < limit:
            turns += dialogues.expert_turns(name, {place: conversation})
    said = np.array([labeller.by_rule(turn.message.text) for turn in turns])
    sampler = generation.Sampler(model, tokenizer, settings["eval_batch"])

    def measure(step: int) -> None:
        texts = write(sampler, turns, chosen["tokens"], 1, seed)["text"]
        made = np.array([labeller.by_rule(text) for text in texts])
        sums = clustered.act_sums(said == "question", made == "question", [turn.conversation for turn in turns])
        rows.append(
            {
                "step": step,
                "question_rate": float((made == "question").mean()),
                "acknowledgement_rate": float((made == "acknowledgement").mean()),
                "question_kappa": float(clustered.act_measures(sums.sum(0))["kappa"]),
                "words": float(texts.str.split().str.len().mean()),
                "n": len(turns),
            }
        )

    return measure


def evaluate(context: Context) -> dict[str, pd.DataFrame]:
    """What a model writes at the expert turns, labelled.

    Tables: turns (corpus, conversation, turn, sample, words, a column a labeller, malformed), messages (the same places
    with the model's text).
    """
    from candor.language_models import generation

    settings, options = context.settings, context.step.options
    place = context.need(options["arm"]).model if context.needs else settings["lineage_ids"][options["model"]]
    turns = turns_of(settings)
    chosen = settings["dialogues"]
    with generation.of_step(context, place) as sampler:
        messages = write(sampler, turns, chosen["tokens"], chosen["samples"], context.seed, context.progress)
    repeated = [turn for turn in turns for _ in range(chosen["samples"])]
    labelled = _labelled(settings, repeated, messages.drop(columns="text"), messages["text"].tolist())
    return {"turns": labelled, "messages": messages}


def write(sampler, turns, tokens: int, samples: int, seed: int, progress=lambda done, total: None) -> pd.DataFrame:
    """`samples` messages at each turn: corpus, conversation, turn, sample, text; samples of a turn are neighbours.

    Temperature 1 over the whole vocabulary; a model without a chat template stops at the end of its line.
    """
    prompts = [dialogues.next_message_prompt(turn, sampler.tokenizer) for turn in turns]
    places, frames = _places(turns), []
    for k in range(samples):
        # A call a sample: an engine that seeds every request would write the same message twice.
        texts = sampler(prompts, tokens, temperature=1.0, seed=1000 * seed + k)
        texts = [dialogues.one_message(text, sampler.tokenizer) for text in texts]
        frames.append(places.assign(sample=k, text=texts))
        progress(k + 1, samples)
    return pd.concat(frames).sort_index(kind="stable").reset_index(drop=True)


def _places(turns: Iterable[dialogues.Turn]) -> pd.DataFrame:
    return pd.DataFrame([(turn.corpus, turn.conversation, turn.turn) for turn in turns], columns=AT)


def _labelled(settings: Mapping, turns, places: pd.DataFrame, texts: list[str]) -> pd.DataFrame:
    histories = [dialogues.transcript(turn.corpus, turn.history) for turn in turns]
    with _labeller(settings) as sampler:
        labels = labeller.label_all(sampler, histories, texts)
    return pd.concat([places, pd.Series(texts).str.split().str.len().rename("words"), labels], axis=1)


def _labeller(settings: Mapping):
    """The labeller's sampler, None where regular expressions are all that is asked for."""
    from candor.language_models import generation

    place = settings["labeller"]["model"]
    return generation.loaded(place, settings["eval_batch"]) if place else nullcontext()


# --- What a step asks of its models -----------------------------------------------------------------


def _turns(models: Config) -> np.ndarray:
    chosen = models["dialogues"]
    return np.sum([(chosen["conversations"] or 1000) * amount(f"{name} turns") for name in chosen["corpora"]], 0)


def _labels(models: Config, messages: np.ndarray) -> list[Work]:
    """The whole message, its first sentence, and the whole with the rule about stock phrases."""
    if not models["labeller"]["model"]:
        return []
    prompt = amount("history") + amount("label instruction") + models["dialogues"]["tokens"]
    return [work.sample(models["labeller"]["model"], 3 * messages, prompt, labeller.TOKENS, models["eval_batch"])]


def _labels_people(models: Config, step: Step) -> list[Work]:
    return _labels(models, _turns(models))


def _writes(models: Config, step: Step) -> list[Work]:
    chosen, name = models["dialogues"], step.options.get("model")
    messages = _turns(models) * chosen["samples"]
    model = models["lineage_ids"][name] if name else models["chat"]["policy"]
    written = work.sample(model, messages, amount("history"), chosen["tokens"], models["eval_batch"])
    return [written, *_labels(models, messages)]


def _trains(models: Config, step: Step) -> list[Work]:
    """SFT on conversations, or DPO on pairs that the start has read before; what is watched writes at checkpoints."""
    chat, arm = models["chat"], step.options["arm"]
    model, tuned, recipe = chat["policy"], work.tuned(chat["lora"]), chat["sft" if arm == "sft" else "dpo"]
    examples = recipe["conversations" if arm == "sft" else "pairs"]
    seen = (recipe["steps"] or examples // recipe["batch"]) * recipe["batch"]
    kept = tuned | {"saves": work.WIDE if chat["lora"] is None else work.COARSE}  # whole, with adapters merged in
    if arm in ("sft", "more_sft"):
        row = amount("ultrachat conversation", chat["max_length"])
        works = [work.train(model, seen, row, together=chat["micro_batch"], logits=row, **kept)]
    else:
        row = amount("ultrafeedback side", chat["max_length"])
        pair = {"together": 2 * chat["micro_batch"], "logits": row}
        works = [work.read(model, 2 * examples, row, **pair, **tuned), work.train(model, 2 * seen, row, **pair, **kept)]
    if arm in WATCHED and chat["checkpoints"]:
        looks = (chat["checkpoints"] + 1) * chat["checkpoint_turns"]
        tokens = models["dialogues"]["tokens"]
        works.append(work.sample(model, looks, amount("history"), tokens, models["eval_batch"], **tuned))
    return works


# --- The steps --------------------------------------------------------------------------------------

_HERE = "candor.claims.grounding_loss.dialogue_models"
_LABELLING = ("dialogues", "labeller", "dialogue_data", "eval_batch", "eval_seed")
_WRITING = (*_LABELLING, "engine")


def _wants(models: Config, step: Step) -> bool:
    _, setting, _ = step.key.split("/")
    own = models["chat"] is not None and step.options.get("arm") in ("sft", *models["chat_arms"])
    return own if setting == "own" else setting in ("data", *models["lineages"])


def _check(models: Config, step: Step) -> None:
    if path := models["labeller"]["hand_labels"]:
        labeller.hand_labels(path)


def _spoken(models: Config, step: Step) -> list[tuple[str, str]]:
    return [(name, "train") for name in models["dialogues"]["corpora"]]


def _chatted(models: Config, step: Step) -> list[tuple[str, str]]:
    return [("ultrafeedback", "train"), ("ultrachat", "train"), *(_spoken(models, step) if step.trains else ())]


def _steps() -> dict[str, Step]:
    step = partial(Step, seeds="eval_seed", asked=_wants, data=_spoken)
    written = partial(step, make=f"{_HERE}:evaluate", work=_writes)
    found = [
        step(
            f"{WORLD}/data/eval_questions",
            f"{_HERE}:questions",
            settings=("dialogue_data",),
            work=work.nothing,
            data=_chatted,
        ),
        step(f"{WORLD}/data/eval_human", f"{_HERE}:human", settings=_LABELLING, work=_labels_people, check=_check),
    ]
    for lineage, stages in LINEAGES.items():
        for stage in stages:
            options, reads = {"arm": stage, "model": f"{lineage}_{stage}"}, (*_WRITING, "lineage_ids")
            found.append(written(f"{WORLD}/{lineage}/eval_{stage}", options=options, settings=reads))
    for arm in ("sft", *ARMS):
        key = f"{WORLD}/own/{arm}"
        own = {"options": {"arm": arm}, "seeds": "chat_seeds"}
        found += [
            step(
                key,
                f"{_HERE}:train",
                needs=() if arm == "sft" else (f"{WORLD}/own/sft",),
                settings=("dialogues", "dialogue_data", "eval_batch", "eval_seed", "chat"),
                trains=True,
                work=_trains,
                data=_chatted,
                **own,
            ),
            written(f"{WORLD}/own/eval_{arm}", needs=(key,), settings=_WRITING, **own),
        ]
    return {step.key: step for step in found}


STEPS = _steps()


# --- Turns to label by hand -------------------------------------------------------------------------


def sheet(results, n: int = 240, seed: int = 0) -> pd.DataFrame:
    """Turns to be labelled by hand: origin, history, message, and an empty label; half human, half models', mixed.

    Human turns come from the conversations that are held out, model turns from what the scale's models wrote. `python
    -m candor sheet turns.csv --scale gpu` writes them. Labels go into the last column, and the file's place into
    `labeller.hand_labels`.
    """
    models = results.config["models"]
    places = [(name, LINEAGES[name]) for name in models["lineages"]]
    written = stacked(results.collect, places, "messages", WORLD)
    if not len(written):
        raise CandorError(f"No model has written anything at scale {results.config['scale']}: replicate it first.")
    chosen, rng = models["dialogues"], np.random.default_rng(seed)
    settings = {"dialogues": chosen, "eval_seed": models["eval_seed"]}
    told = {(turn.corpus, turn.conversation, turn.turn): turn for turn in turns_of(settings)}
    kept = [
        turn
        for name in chosen["corpora"]
        for turn in dialogues.expert_turns(
            name, dialogues.sample(name, models["eval_seed"], None, chosen["held_out"], "held_out")
        )
    ]
    rows = [("human", turn, turn.message.text) for turn in kept]
    rows = [rows[i] for i in rng.permutation(len(rows))[: n // 2]]
    said = written[written["text"].str.strip() != ""].sample(frac=1, random_state=seed).head(n - n // 2)
    rows += [("model", told[row.corpus, row.conversation, row.turn], row.text) for row in said.itertuples()]
    found = pd.DataFrame(
        [(origin, dialogues.transcript(turn.corpus, turn.history), text, "") for origin, turn, text in rows],
        columns=list(labeller.HAND_COLUMNS),
    )
    return found.sample(frac=1, random_state=seed).reset_index(drop=True)

"""Conversations between people, and chat data: where they come from, how they are cut, how questions are counted.

ESConv (emotional support; Liu et al. 2021) is CC BY-NC 4.0, for academic use; Persuasion for Good (Wang et al. 2019)
carries an MIT tag; UltraFeedback (binarized) and UltraChat are MIT by their cards, which is unverified. Dialogues
are never passed on: `python -m candor fetch esconv` puts them into `data/corpora/`, which git ignores.

Preparation as in Shaikh et al. 2024 (arXiv 2311.09144): consecutive messages of one speaker are merged, conversations
of at least the median length are kept and cut to the median. Everything that follows is split by conversation.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from statistics import median

import numpy as np
import pandas as pd

from candor.core.errors import CandorError
from candor.language_models import sets
from candor.language_models.text import in_turns

# On the Hub: no configuration, and which of a source's splits make our one file `train`.
HUB = {
    "esconv": (None, {"train": "train+validation+test"}),
    "persuasion": (None, {"train": "FullDialog"}),
    "ultrafeedback": (None, {"train": "train_prefs"}),
    "ultrachat": (None, {"train": "train_sft"}),
}
_expecting = partial(sets.expecting, split="train", setting="dialogue_data")


# --- Conversations ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """One speaker's turn; `strategies` are ESConv's own labels of the messages that were merged into it."""

    expert: bool
    text: str
    strategies: tuple[str, ...] = ()


Conversation = list[Message]

EXPERTS = ("sys", "supporter")


def _esconv(raw: Iterable[Mapping]) -> Iterator[Conversation]:
    """`dialog`: a list of speaker, text, strategy; the Hub's release keeps a conversation as JSON in `text`."""
    for row in raw:
        dialog = json.loads(row["text"])["dialog"] if "dialog" not in row else row["dialog"]
        yield [
            Message(part["speaker"] in EXPERTS, part["text"].strip(), tuple(filter(None, [part.get("strategy")])))
            for part in dialog
        ]


def _persuasion(raw: Iterable[Mapping]) -> Iterator[Conversation]:
    """A row a sentence: B2 names the conversation, B4 the role (0 persuades), Unit is what is said."""
    found: dict[str, Conversation] = {}
    for row in raw:
        if isinstance(row["Unit"], str):
            found.setdefault(row["B2"], []).append(Message(int(row["B4"]) == 0, row["Unit"].strip()))
    return iter(found.values())


READERS: dict[str, Callable] = {"esconv": _esconv, "persuasion": _persuasion}

# What the expert is, and what the other one is called in a transcript.
ROLES = {
    "esconv": (
        "You support a person in emotional distress. Write your next message in the conversation, and nothing else.",
        ("Supporter", "Seeker"),
    ),
    "persuasion": (
        "You try to persuade a person to donate to the charity Save the Children. Write your next message in the "
        "conversation, and nothing else.",
        ("Persuader", "Persuadee"),
    ),
}


def raw_conversations(name: str) -> list[Conversation]:
    """Every conversation of a set, a message as it was sent; raises `CandorError` where rows are another set's."""
    with _expecting(name):
        found = [[part for part in conversation if part.text] for conversation in READERS[name](sets.rows(name))]
    if not any(found):
        raise CandorError(f"No conversation of {name} in {sets.root()} can be used: fetch it again.")
    return found


def merge(conversation: Sequence[Message]) -> Conversation:
    """Consecutive messages of one speaker become one."""
    merged: Conversation = []
    for part in conversation:
        if merged and merged[-1].expert == part.expert:
            last = merged.pop()
            part = Message(part.expert, f"{last.text} {part.text}", last.strategies + part.strategies)
        merged.append(part)
    return merged


def eligible(conversations: Iterable[Sequence[Message]]) -> dict[int, Conversation]:
    """Merged conversations of at least the median length, cut to it, by their place among all."""
    merged = [merge(conversation) for conversation in conversations]
    length = int(median(map(len, merged)))
    return {place: part[:length] for place, part in enumerate(merged) if len(part) >= length}


def sample(name: str, seed: int, n: int | None, held_out: int, split: str = "test") -> dict[int, Conversation]:
    """`n` eligible conversations (all if None) drawn by `seed`, by their place; `split` "held_out": the labeller's own.

    No conversation is in both. Raises: `CandorError` where too few conversations are there.
    """
    found = eligible(raw_conversations(name))
    order = np.random.default_rng([seed, 2311]).permutation(sorted(found))
    if len(order) <= held_out:
        raise CandorError(
            f"{name} has {len(order)} conversations that can be used and {held_out} are held out: lower "
            "dialogues.held_out in the scale."
        )
    chosen = order[:held_out] if split == "held_out" else order[held_out:][:n]
    return {int(place): found[int(place)] for place in chosen}


@dataclass(frozen=True)
class Turn:
    """What an expert said at one place of a conversation, and everything said before it."""

    corpus: str
    conversation: int
    turn: int
    history: tuple[Message, ...]
    message: Message


def expert_turns(corpus: str, conversations: Mapping[int, Sequence[Message]]) -> list[Turn]:
    """Every expert turn after the first message, with the true history."""
    return [
        Turn(corpus, place, i, tuple(conversation[:i]), part)
        for place, conversation in conversations.items()
        for i, part in enumerate(conversation)
        if part.expert and i > 0
    ]


def transcript(corpus: str, history: Iterable[Message]) -> str:
    """The history as "Role: text", a message a line."""
    _, (expert, other) = ROLES[corpus]
    return "".join(f"{expert if part.expert else other}: {' '.join(part.text.split())}\n" for part in history)


def next_message_prompt(turn: Turn, tokenizer) -> str:
    """The text after which a model writes the expert's next message.

    By the tokenizer's chat template, otherwise as a transcript whose next line is the expert's. It begins with the
    token that the tokenizer puts in front of texts, because `generation.Sampler` adds none.
    """
    instruction, (expert, _) = ROLES[turn.corpus]
    if getattr(tokenizer, "chat_template", None):
        said = [{"role": "assistant" if part.expert else "user", "content": part.text} for part in turn.history]
        text = in_turns(tokenizer, instruction, said)
    else:
        text = f"{instruction}\n\n{transcript(turn.corpus, turn.history)}{expert}:"
    return opening(tokenizer, text) + text


def opening(tokenizer, text: str) -> str:
    """The beginning-of-text token, if the tokenizer adds one to texts and `text` has none."""
    bos = tokenizer.bos_token
    adds = bos is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return bos if adds and not text.startswith(bos) else ""


def one_message(text: str, tokenizer) -> str:
    """What a model wrote as its next message: of a transcript the first line, of a chat all before the user's turn."""
    text = text.strip()
    if getattr(tokenizer, "chat_template", None):
        return until_own_user_turn(text)
    return text.split("\n", 1)[0].strip()


def strategy_share(conversations: Iterable[Sequence[Message]], strategy: str = "Question") -> tuple[float, int]:
    """Share of labelled expert messages, before merging, with one of ESConv's own labels; and how many there are."""
    labels = Counter(
        label for part in conversations for message in part if message.expert for label in message.strategies
    )
    return labels[strategy] / max(labels.total(), 1), labels.total()


# --- Questions --------------------------------------------------------------------------------------

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
_URL = re.compile(r"(?:https?://|www\.)\S+")
_CLOSING = " \t\n\"'”’*_)]}"
# A reply that goes on to write its user's next turn ("User:", "### Human:", "<|user|>"). "Input:" alone is left:
# a reply may show one.
_USER_TURN = re.compile(
    r"(?<=\n)[^\S\n]*+(?:(?:#++\s*+|<\|)(?:instruction|input|user|human)|user|human)\s*+(?:\|>|:)", re.I
)


def prose(text: str) -> str:
    """The text without code blocks, inline code and addresses, which hold question marks that ask nothing."""
    return _URL.sub(" ", _CODE.sub(" ", text))


RULES: dict[str, Callable[[str], bool]] = {
    "anywhere": lambda text: "?" in prose(text),
    "last_sentence": lambda text: prose(text).rstrip(_CLOSING).endswith("?"),
    "last_200": lambda text: "?" in prose(text).rstrip()[-200:],
}


def asks(text: str, rule: str = "anywhere") -> bool:
    """Whether a message asks something, by a rule.

    >>> asks("See http://a.b/?q=1"), asks("Which one? Tell me."), asks("Which one? Tell me.", "last_sentence")
    (False, True, False)
    """
    return RULES[rule](text)


def until_own_user_turn(text: str) -> str:
    """A reply cut where it begins to write its user's next turn: weak models run on, and their user asks.

    >>> until_own_user_turn("It is red.\\n\\n### Human: Why?")
    'It is red.'
    """
    match = _USER_TURN.search(text)
    return text[: match.start()].rstrip() if match else text


VARIANTS: dict[str, Callable[[str], str]] = {"whole": str, "cut": until_own_user_turn}


# --- Preferences ------------------------------------------------------------------------------------


def preferences() -> Iterator[dict[str, str]]:
    """UltraFeedback: prompt, chosen, rejected, each one reply; empty replies and equal pairs are left out."""
    for row in sets.rows("ultrafeedback"):
        with _expecting("ultrafeedback"):
            pair = {"prompt": row["prompt"], **{side: row[side][-1]["content"] for side in ("chosen", "rejected")}}
        if pair["chosen"].strip() and pair["rejected"].strip() and pair["chosen"] != pair["rejected"]:
            yield pair


def chats() -> Iterator[list[dict[str, str]]]:
    """UltraChat: the messages (role, content) of one conversation after another."""
    for row in sets.rows("ultrachat"):
        with _expecting("ultrachat"):
            said = [{"role": part["role"], "content": part["content"]} for part in row["messages"]]
        yield said


def question_table() -> pd.DataFrame:
    """How often replies ask: a row a source, rule and variant (whole, or cut at the first self-written user turn).

    Columns: source, rule, variant, n, share (of all messages), and for UltraFeedback chosen, rejected (shares),
    difference, only_chosen, only_rejected (pairs), mcnemar_p, coefficient, coefficient_low, coefficient_high (of a
    question in `choice_model`), length_coefficient.
    """
    sides, pairs = ("chosen", "rejected"), []
    for pair in preferences():
        for variant, cut in VARIANTS.items():
            texts = [cut(pair[side]) for side in sides]
            asked = [asks(text, rule) for rule in RULES for text in texts]
            pairs.append((variant, *asked, *map(len, texts)))
    columns = [("variant", ""), *product(RULES, sides), *product(["length"], sides)]
    table = pd.DataFrame(pairs, columns=pd.MultiIndex.from_tuples(columns))
    found = []
    for rule, variant in product(RULES, VARIANTS):
        part = table[table["variant"] == variant]
        both = (part[name, side].to_numpy() for name in (rule, "length") for side in sides)
        row = {"source": "ultrafeedback", "rule": rule, "variant": variant, "n": len(part)}
        found.append(row | pair_tests(*both))
    counts, n = Counter(), 0
    for chat in chats():
        for text in (part["content"] for part in chat if part["role"] == "assistant"):
            n += 1
            counts.update(rule for rule in RULES if asks(text, rule))
    found += [
        {"source": "ultrachat", "rule": rule, "variant": "whole", "n": n, "share": counts[rule] / max(n, 1)}
        for rule in RULES
    ]
    return pd.DataFrame(found)


def pair_tests(chosen, rejected, chosen_length, rejected_length) -> dict[str, float]:
    """Question shares of chosen and rejected replies [n], McNemar's test, and the choice model with length.

    Paired replies answer the same prompt, so a test that takes them for independent is the wrong one.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    only = int((chosen & ~rejected).sum()), int((rejected & ~chosen).sum())
    table = [[int((chosen & rejected).sum()), only[0]], [only[1], int((~chosen & ~rejected).sum())]]
    difference = np.column_stack([chosen.astype(float) - rejected, np.log((chosen_length + 1) / (rejected_length + 1))])
    coefficient, low, high = choice_model(difference)
    return {
        "share": float((chosen.mean() + rejected.mean()) / 2),
        "chosen": float(chosen.mean()),
        "rejected": float(rejected.mean()),
        "difference": float(chosen.mean() - rejected.mean()),
        "only_chosen": only[0],
        "only_rejected": only[1],
        "mcnemar_p": float(mcnemar(table, exact=sum(only) < 1000, correction=False).pvalue) if sum(only) else 1.0,
        "coefficient": coefficient[0],
        "coefficient_low": low[0],
        "coefficient_high": high[0],
        "length_coefficient": coefficient[1],
    }


def choice_model(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conditional logit of which of two replies is chosen; coefficients [k] with 95 % limits.

    `difference` [n, k]: features of the chosen reply less those of the rejected one. With two alternatives the
    likelihood is that of a logistic regression on differences without intercept, which `statsmodels` fits to 60,000
    pairs in a second (its `ConditionalLogit`, the same model, loops over pairs). NaN where a feature never differs or
    separates the pairs.
    """
    import warnings

    from statsmodels.discrete.discrete_model import Logit
    from statsmodels.tools.sm_exceptions import ConvergenceWarning, PerfectSeparationWarning

    unknown = np.full(difference.shape[1], np.nan)
    if np.linalg.matrix_rank(difference) < difference.shape[1]:
        return unknown, unknown, unknown
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            warnings.simplefilter("error", PerfectSeparationWarning)
            fitted = Logit(np.ones(len(difference)), difference).fit(disp=0)
    except (np.linalg.LinAlgError, ConvergenceWarning, PerfectSeparationWarning):
        return unknown, unknown, unknown
    low, high = fitted.conf_int().T
    return fitted.params, low, high


def training_pairs(arm: str, seed: int, n: int) -> list[dict[str, str]]:
    """`n` preference pairs of an arm of our own training, drawn by `seed` (fewer where there are fewer).

    dpo: as they are; swapped: chosen and rejected exchanged; balanced: without the pairs in which exactly one reply
    asks; length_matched: the lengths of the replies differ by at most 10 %.
    """
    found = [pair for pair in preferences() if PAIRS[arm](pair)]
    order = np.random.default_rng([seed, 2305]).permutation(len(found))[:n]
    chosen = [found[i] for i in order]
    if arm == "swapped":
        return [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in chosen]
    return chosen


PAIRS: dict[str, Callable[[Mapping[str, str]], bool]] = {
    "dpo": lambda pair: True,
    "swapped": lambda pair: True,
    "balanced": lambda pair: asks(pair["chosen"]) == asks(pair["rejected"]),
    "length_matched": lambda pair: abs(np.log(len(pair["chosen"]) / len(pair["rejected"]))) <= np.log(1.1),
}


def training_chats(seed: int, n: int, skip: int = 0) -> list[list[dict[str, str]]]:
    """`n` UltraChat conversations in the order that `seed` draws, after the first `skip` of that order."""
    order = np.random.default_rng([seed, 2305]).permutation(sum(1 for _ in chats()))
    wanted = {int(place): i for i, place in enumerate(order[skip : skip + n])}
    if not wanted:
        raise CandorError("UltraChat has too few conversations for this training: lower chat.sft.conversations.")
    found = [(wanted[place], chat) for place, chat in enumerate(chats()) if place in wanted]
    return [chat for _, chat in sorted(found, key=lambda pair: pair[0])]

"""Which grounding act a message is: regular expressions, or an open-weights language model with our own prompt.

Four labels, one a message: followup, acknowledgement, clarification (as Shaikh et al. 2024, arXiv 2311.09144, define
them) and none. Human and model messages are labelled by the same call, which is not told where a message comes from.
The paper's own prompt sent stock phrases to a fourth act; here that rule is a variant, so that its effect can be seen.

Supports: any `generation.Sampler`. A label that is not exactly one of the four becomes "none", and is counted.
Raises: `CandorError` in one sentence for a file of hand labels that cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from candor.claims.grounding_loss.dialogues import asks, opening
from candor.core.errors import CandorError
from candor.language_models.text import prompt as asking

LABELS = ("followup", "acknowledgement", "clarification", "none")
TOKENS = 8  # a label has at most five in common vocabularies
HAND_COLUMNS = ("origin", "history", "message", "label")
ORIGINS = ("human", "model")

# --- (a) Regular expressions -------------------------------------------------------------------------

# Signals of understanding and nothing else; a message made of these alone is an acknowledgement.
ACKNOWLEDGEMENTS = (
    *("ok", "okay", "o k", "alright", "all right", "right", "sure", "of course", "absolutely", "exactly", "true"),
    *("yes", "yeah", "yep", "yup", "uh huh", "mm", "mm hm", "mhm", "hmm", "hm", "ah", "oh", "aha", "wow"),
    *("i see", "i understand", "i hear you", "i get it", "i get that", "got it", "gotcha", "understood", "i know"),
    *("that makes sense", "makes sense", "fair enough", "good", "great", "nice", "perfect", "cool"),
    *("thanks", "thank you", "no problem", "oh i see", "ok i see", "okay i see", "ah i see", "yes i see"),
    *("i understand that", "i can understand", "i can understand that", "i completely understand", "i totally get it"),
)


def by_rule(message: str) -> str:
    """ "question" (a question mark in prose), "acknowledgement" (closed list only) or "none".

    >>> by_rule("How long?"), by_rule("Oh, I see. That makes sense."), by_rule("I see that you are sad.")
    ('question', 'acknowledgement', 'none')
    """
    if asks(message):
        return "question"
    parts = re.split(r"[.!,;:…\n]+", message.lower())
    said = [" ".join(re.findall(r"[a-z']+", part)) for part in parts]
    said = [part for part in said if part]
    return "acknowledgement" if said and all(part in ACKNOWLEDGEMENTS for part in said) else "none"


def first_sentence(message: str) -> str:
    """The message up to its first full stop, question or exclamation mark or line break: long ones say several things.

    >>> first_sentence("I see. Since when do you feel so?")
    'I see.'
    """
    match = re.search(r"[.!?](?=\s|$)|\n", message.strip())
    return message.strip()[: match.end()].strip() if match else message.strip()


# --- (b), (c) A language model -------------------------------------------------------------------------

INSTRUCTION = (
    "You code messages of a conversation. Give the last message one of four labels:\n"
    "followup: it asks for new information related to what was said, so that 'O.K.' could stand in front of it.\n"
    "clarification: it asks about something that was already said, to prevent a misunderstanding.\n"
    "acknowledgement: its only purpose is to show that what was said has been understood.\n"
    "none: anything else.\n"
)
STOCK_RULE = (
    "A stock phrase is always none: an invitation to go on such as 'can you tell me more', a message that begins with "
    "'So', an apology.\n"
)
REQUEST = "Reply with the label alone."


def prompt(history: str, message: str, tokenizer, *, stock_rule: bool = False) -> str:
    """The labeller's question about `message` after `history` (a transcript): the same for every origin."""
    instruction = INSTRUCTION + (STOCK_RULE if stock_rule else "") + REQUEST
    user = f"Conversation:\n{history.strip() or '(it begins)'}\n\nLast message: {' '.join(message.split())}"
    text = asking(tokenizer, instruction, user, "\nLabel:")
    return opening(tokenizer, text) + text


def parse(reply: str) -> str | None:
    """The label that a reply is, or None: nothing before it, nothing after it but a full stop.

    Two common spellings are read as the labels that they are: "follow-up" and "acknowledgment".

    >>> parse(" Follow-up."), parse("acknowledgment"), parse("followup or none"), parse("It is none")
    ('followup', 'acknowledgement', None, None)
    """
    said = re.sub(r"\.?\s*\Z", "", reply.strip().lower())
    said = {"follow-up": "followup", "follow up": "followup", "acknowledgment": "acknowledgement"}.get(said, said)
    return said if said in LABELS else None


def label(sampler, histories: Sequence[str], messages: Sequence[str], *, stock_rule: bool = False) -> pd.DataFrame:
    """Labels of messages [n] after their histories: columns label (one of `LABELS`) and malformed.

    Greedy, so the same question is asked once. An empty message is "none" without being asked about; a reply that is no
    label is "none" and malformed.
    """
    prompts = {
        i: prompt(histories[i], message, sampler.tokenizer, stock_rule=stock_rule)
        for i, message in enumerate(messages)
        if message.strip()
    }
    asked = list(dict.fromkeys(prompts.values()))
    said = dict(zip(asked, map(parse, sampler(asked, TOKENS) if asked else ())))
    labels = [said[prompts[i]] if i in prompts else "none" for i in range(len(messages))]
    return pd.DataFrame({"label": [name or "none" for name in labels], "malformed": [name is None for name in labels]})


def label_all(sampler, histories: Sequence[str], messages: Sequence[str]) -> pd.DataFrame:
    """Every labeller's labels of messages [n], of the whole message and of its first sentence.

    Columns: regex, regex_first, prompt, prompt_first, stock; malformed (of the three asked, how many were no label).
    Without a sampler (None) the regular expressions alone.
    """
    firsts = [first_sentence(message) for message in messages]
    table = pd.DataFrame(
        {"regex": [by_rule(message) for message in messages], "regex_first": [by_rule(first) for first in firsts]}
    )
    if sampler is None:
        return table
    # Together: many messages are one sentence, so that the whole and the first sentence are one question.
    both = label(sampler, [*histories, *histories], [*messages, *firsts])
    whole, first = both.iloc[: len(messages)], both.iloc[len(messages) :].reset_index(drop=True)
    made = {"prompt": whole, "prompt_first": first, "stock": label(sampler, histories, messages, stock_rule=True)}
    for name, labels in made.items():
        table[name] = labels["label"]
    return table.assign(malformed=sum(labels["malformed"].astype(int) for labels in made.values()))


# --- Agreement with people -----------------------------------------------------------------------------


def hand_labels(path: str | Path) -> pd.DataFrame:
    """A CSV of turns labelled by hand: origin (human or model), history, message, label (one of the four).

    Raises: `CandorError` for a file that is missing or lacks columns, or has other origins or labels.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise CandorError(f"The hand labels {path} cannot be read ({reason}): check labeller.hand_labels.") from None
    if lacks := [name for name in HAND_COLUMNS if name not in table]:
        raise CandorError(f"The hand labels {path} have no column {lacks[0]!r}: they need {', '.join(HAND_COLUMNS)}.")
    for name, allowed in (("origin", ORIGINS), ("label", LABELS)):
        if other := sorted(set(table[name]) - set(allowed)):
            raise CandorError(f"{path} has the {name} {other[0]!r}: it should be one of {', '.join(allowed)}.")
    return table


def agreement(hand: pd.DataFrame, made: pd.DataFrame) -> pd.DataFrame:
    """F1 of every labeller against hand labels, by origin: a row a labeller, origin and act.

    `hand`: origin, label [n]; `made`: a column a labeller [n], as `label_all` returns. The regular expressions know
    "question" for followup and clarification together, so all labellers are judged on that act too.
    Columns: labeller, origin, act, f1, precision, recall, support, turns. F1 is 0 where an act is never named.
    """
    from sklearn.metrics import precision_recall_fscore_support

    found = []
    for name in [column for column in made if column != "malformed"]:
        coarse = name.startswith("regex")
        for origin in [origin for origin in ORIGINS if (hand["origin"] == origin).any()]:
            chosen = (hand["origin"] == origin).to_numpy()
            truth, said = hand["label"].to_numpy()[chosen], made[name].to_numpy()[chosen]
            for act in ("question", "acknowledgement") if coarse else (*LABELS[:3], "question"):
                precision, recall, f1, _ = precision_recall_fscore_support(
                    is_act(truth, act), is_act(said, act), average="binary", zero_division=0
                )
                row = {"labeller": name, "origin": origin, "act": act, "f1": f1, "precision": precision}
                found.append(row | {"recall": recall, "support": int(is_act(truth, act).sum()), "turns": len(truth)})
    return pd.DataFrame(found)


def is_act(labels, act: str):
    """Which labels [n] are the act; "question" is followup, clarification, or the regular expressions' own label."""
    named = ("question", "followup", "clarification") if act == "question" else (act,)
    return pd.Series(labels).isin(named).to_numpy()

"""Questions with one short answer: GSM8K, MultiArith (numbers), CommonsenseQA, ARC-Easy (letters), as token ids.

Test questions come with their answers. Training questions come without: what labels, judges and policies read holds no
answer. GSM8K and CommonsenseQA are tested on the files of `language_models/sets.py`; CommonsenseQA's test split is its
validation split. Licences: GSM8K and CommonsenseQA MIT (GSM8K by the loader of van Niekerk et al.), MultiArith CC BY
4.0 by the same loader, ARC CC BY-SA 4.0 by its card (MIT by that loader), RewardBench ODC-BY by its card: read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from candor.core.errors import CandorError
from candor.language_models import sets
from candor.measure import spans
from candor.measure.spans import Kind

CUE = "\nSo the answer is"
HELD_OUT = 0.1  # of the training questions: on them a judge is measured, and nothing is trained
_ENDING = {
    "number": 'End with "So the answer is" and the number.',
    "choice": 'End with "So the answer is" and the letter of the right option.',
}


def _multi_arith(rows: sets.Rows, seed: int) -> Iterator[dict]:
    for row in rows:
        yield {"problem": row["question"].strip(), "answer": str(row["final_ans"]).replace(",", "").strip()}


@dataclass(frozen=True)
class Corpus:
    """What its answers are, its rows, and the names of its files: of the training and of the test questions."""

    kind: Kind
    rows: Callable[[sets.Rows, int], Iterator[dict]]
    train: str
    test: str


SETS = {
    "gsm8k": Corpus("number", sets._gsm8k, "gsm8k_train", "gsm8k"),
    "multi_arith": Corpus("number", _multi_arith, "multi_arith", "multi_arith"),
    "commonsense_qa": Corpus("choice", sets._commonsense, "commonsense_qa_train", "commonsense_qa"),
    "arc_easy": Corpus("choice", sets._commonsense, "arc_easy", "arc_easy"),
}
# What is fetched beside `sets.SETS`: configuration on the Hub, and which of its splits is ours.
HUB = {
    "gsm8k_train": ("main", {"train": "train"}),
    "commonsense_qa_train": (None, {"train": "train"}),
    "multi_arith": (None, {"train": "train", "test": "test"}),
    "arc_easy": ("ARC-Easy", {"train": "train", "test": "test"}),
    "reward_bench": (None, {"test": "filtered"}),
}


def files(name: str) -> list[tuple[str, str]]:
    """The files of a set, as names and splits."""
    return [(SETS[name].train, "train"), (SETS[name].test, "test")]


def _problems(name: str, split: str, seed: int) -> pd.DataFrame:
    """Questions in an order of the seed: problem, accepted (a list: the number, or letter and text of the option)."""
    corpus = SETS[name]
    file = getattr(corpus, split)
    raw = list(sets.rows(file, split))
    with sets.expecting(file, split, "reasoning_data"):
        rows = list(corpus.rows(raw, seed)) if raw else []
    if not rows:
        raise CandorError(f"{file} ({split}) in {sets.root()} holds no question: fetch it again.")
    order = np.random.default_rng(seed).permutation(len(rows))
    accepted = [[row["answer"]] if isinstance(row["answer"], str) else list(row["answer"]) for row in rows]
    table = pd.DataFrame({"problem": [row["problem"] for row in rows], "accepted": accepted})
    return table.iloc[order].reset_index(drop=True)


def asked(problem: str, kind: Kind) -> str:
    """What a model is asked."""
    return f"{problem}\n\n{_ENDING[kind]}"


def conversation(text: str, tokenizer):
    """The prompt of a trainer: messages where the tokenizer has a chat template, else plain text."""
    if getattr(tokenizer, "chat_template", None):
        return [{"role": "user", "content": text}]
    return f"Question: {text}\nAnswer:"


def ids_of(prompt, tokenizer) -> list[int]:
    """The token ids of a prompt, as the trainers make them too: the template's own, or those of the text."""
    if isinstance(prompt, str):
        return list(tokenizer(prompt)["input_ids"])
    return list(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])


def further_ends(tokenizer) -> list[int]:
    """The token at which a model without a chat template goes on to ask itself the next question, and should end.

    Phi-2 writes on to the last token that it may, and a cue behind that would answer a question of its own.
    """
    if getattr(tokenizer, "chat_template", None):
        return []
    ids = tokenizer("\nQuestion:", add_special_tokens=False)["input_ids"]
    return [token for token in ids if tokenizer.decode([token]).strip() == "Question"]


def ends(model, tokenizer) -> list[int]:
    """The tokens that end a trace: the model's own, and `further_ends`."""
    own = model.generation_config.eos_token_id
    own = tokenizer.eos_token_id if own is None else own
    return [*(own if isinstance(own, list) else [own]), *further_ends(tokenizer)]


def cue_ids(tokenizer) -> list[int]:
    """The cue behind a trace, as ids."""
    return list(tokenizer(CUE, add_special_tokens=False)["input_ids"])


def questions(name: str, seed: int, n: int | None, tokenizer) -> pd.DataFrame:
    """`n` test questions (all if None): problem, accepted, text, prompt, ids."""
    return _with_ids(_problems(name, "test", seed).head(n or None), name, tokenizer)


def train_prompts(name: str, seed: int, n: int, most: int, tokenizer) -> pd.DataFrame:
    """`n` training questions without their answers: problem, text, prompt, ids, held (the last tenth).

    Questions of more than `most` tokens fall out. Raises: `CandorError` where fewer than two are left.
    """
    table = _with_ids(_problems(name, "train", seed)[["problem"]], name, tokenizer)
    table = table[table["ids"].map(len) <= most].head(n).reset_index(drop=True)
    if len(table) < 2:
        raise CandorError(f"No prompt of {name} has {most} tokens or fewer: raise reasoning.max_prompt_tokens.")
    held = max(1, round(HELD_OUT * len(table)))
    return table.assign(held=np.arange(len(table)) >= len(table) - held)


def reward_bench(tokenizer) -> tuple[list[list[int]], list[list[int]]]:
    """The pairs of RewardBench's mathematics (right and wrong solutions), in ids as a judge reads traces."""
    rows = [row for row in sets.rows("reward_bench", "test") if row.get("subset") == "math-prm"]
    if not rows:
        raise CandorError(f"reward_bench in {sets.root()} has no pair of math-prm: fetch it again.")
    heads = [ids_of(conversation(row["prompt"], tokenizer), tokenizer) for row in rows]
    right, wrong = (
        tokenizer([row[s] for row in rows], add_special_tokens=False)["input_ids"] for s in ("chosen", "rejected")
    )
    end = [tokenizer.eos_token_id]
    return tuple([[*head, *said, *end] for head, said in zip(heads, side)] for side in (right, wrong))


def _with_ids(table: pd.DataFrame, name: str, tokenizer) -> pd.DataFrame:
    texts = [asked(problem, SETS[name].kind) for problem in table["problem"]]
    prompts = [conversation(text, tokenizer) for text in texts]
    return table.assign(text=texts, prompt=prompts, ids=[ids_of(prompt, tokenizer) for prompt in prompts])


def right(answer: str, accepted: list[str], kind: Kind) -> bool:
    """Whether an answer, as `measure/spans.py: read` gives it, is the accepted one: equal answers are the same text.

    >>> right("1080", ["1,080.0"], "number"), right("B", ["C", "river"], "choice"), right("", ["3"], "number")
    (True, False, False)
    """
    if not answer:
        return False
    return answer == (spans.plain(accepted[0]) if kind == "number" else accepted[0])

"""Who is guilty? Unreliable witnesses testify; the exact posterior is known.

One of `suspects` people is guilty (uniform). Each testimony comes from a witness of a known type; with the
type's reliability the witness names the guilty one, otherwise one of the others uniformly. A question looks
like `Q w1 A3 w0 A5 ? <answer>` and a document goes on `A3 </answer> <confidence> c7 </confidence> <eos>`.

Documents imitate people: a *crowd* draws the answer from its belief and states its belief in that answer plus
noise, rounded to tenths. Language models trained on a crowd are calibrated and imperfect exactly as the crowd
is, so whatever a reward does to them afterwards can be compared with the truth.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

RELIABILITY = (0.85, 0.60, 0.40, 0.25)
SUSPECTS = 8
EVAL_SEED = 7001

ANSWERS = tuple(f"A{i}" for i in range(12))
CONFIDENCES = tuple(f"c{i}" for i in range(11))
SPECIAL = ("<pad>", "<eos>", "<unk>")
VOCABULARY = (
    *SPECIAL,
    *("Q", "?", "<answer>", "</answer>", "<confidence>", "</confidence>"),
    *ANSWERS[:8],
    *("w0", "w1", "w2", "w3"),
    *CONFIDENCES,
    *("IDK", "NONE"),
    *ANSWERS[8:],
    "Q12",
)
TOKEN = {token: i for i, token in enumerate(VOCABULARY)}
PAD, EOS = TOKEN["<pad>"], TOKEN["<eos>"]
ANSWER_IDS = np.array([TOKEN[a] for a in ANSWERS])
CONFIDENCE_IDS = np.array([TOKEN[c] for c in CONFIDENCES])
TYPE_IDS = np.array([TOKEN[f"w{i}"] for i in range(4)])

IDK, NONE = 12, 13  # answers beside the suspects 0..11, in the columns below
_ANSWER_NAMES = (*ANSWERS, "IDK", "NONE")
_ANSWER_TOKENS = np.array([TOKEN[name] for name in _ANSWER_NAMES])


@dataclass(frozen=True)
class Variant:
    """A variant of the world: how many suspects, how many testimonies, which witnesses, how reliable."""

    suspects: int = SUSPECTS
    testimonies: tuple[int, int] = (1, 5)
    types: tuple[int, ...] = (0, 1, 2, 3)
    reliability: tuple[float, ...] = RELIABILITY


TRAINING_WORLD = Variant()
SHIFTS = {
    "in_domain": TRAINING_WORLD,
    "testimonies_6_8": Variant(testimonies=(6, 8)),
    "only_w2_w3": Variant(types=(2, 3)),
    "only_w0_w1": Variant(types=(0, 1)),
    "testimonies_4_5": Variant(testimonies=(4, 5)),
    "testimonies_1_3": Variant(testimonies=(1, 3)),
    "drift_mild": Variant(reliability=(0.70, 0.50, 0.35, 0.25)),
    "drift_strong": Variant(reliability=(0.60, 0.45, 0.30, 0.20)),
    "suspects_12": Variant(suspects=12),
}


@dataclass(frozen=True)
class Crowd:
    """People who write documents.

    `believed` is the reliability they ascribe to each witness type (None: the true ones); they state
    belief + N(bias, sd). `abstains` is the pair of probabilities of saying IDK when the drawn answer's belief
    is below .5 and otherwise (their documents then state no confidence); `gives_up` the probability of the
    answer NONE, never right, with confidence 0; `twelve` the share of questions with 12 suspects.
    """

    bias: float = 0.10
    sd: float = 0.20
    believed: tuple[float, ...] | None = None
    abstains: tuple[float, float] | None = None
    gives_up: float = 0.0
    twelve: float = 0.0
    confidence_first: bool = False


CROWDS = {
    "expert": Crowd(),
    "expert_conf_first": Crowd(confidence_first=True),
    "overconfident": Crowd(bias=0.25),
    "naive": Crowd(bias=0.25, believed=(0.525,) * 4),
    "abstaining": Crowd(abstains=(0.5, 0.05)),
    "give_up": Crowd(gives_up=0.05),
    "twelve": Crowd(twelve=0.2),
}


@dataclass(frozen=True)
class Questions:
    """`n` questions as arrays: `types` and `named` [n, T] (-1 beyond the last testimony), `guilty` [n]."""

    types: np.ndarray
    named: np.ndarray
    guilty: np.ndarray
    suspects: int

    def __len__(self) -> int:
        return len(self.guilty)

    def __getitem__(self, index) -> Questions:
        return replace(self, types=self.types[index], named=self.named[index], guilty=self.guilty[index])


def sample_questions(n: int, rng: np.random.Generator, variant: Variant = TRAINING_WORLD) -> Questions:
    """Draw `n` questions from `variant`."""
    low, high = variant.testimonies
    count = rng.integers(low, high + 1, n)
    guilty = rng.integers(variant.suspects, size=n)
    types = rng.choice(np.array(variant.types), size=(n, high))
    truthful = rng.random((n, high)) < np.array(variant.reliability)[types]
    other = (guilty[:, None] + rng.integers(1, variant.suspects, (n, high))) % variant.suspects
    named = np.where(truthful, guilty[:, None], other)
    absent = np.arange(high) >= count[:, None]
    return Questions(np.where(absent, -1, types), np.where(absent, -1, named), guilty, variant.suspects)


def posterior(questions: Questions, reliability: Sequence[float] = RELIABILITY) -> np.ndarray:
    """Exact posterior over the suspects, [n, suspects], for an observer who ascribes `reliability` to the types.

    Bayes' rule with a uniform prior: over the testimonies multiply r for the named suspect, (1-r)/(S-1) for
    the others, and normalise.
    """
    r = np.asarray(reliability)[questions.types]
    present = questions.types >= 0
    hit = np.where(present, np.log(r), 0.0)
    miss = np.where(present, np.log((1 - r) / (questions.suspects - 1)), 0.0)
    log = np.repeat(miss.sum(1, keepdims=True), questions.suspects, axis=1)
    rows, columns = np.nonzero(present)
    np.add.at(log, (rows, questions.named[rows, columns]), (hit - miss)[rows, columns])
    belief = np.exp(log - log.max(1, keepdims=True))
    return belief / belief.sum(1, keepdims=True)


def draw(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One draw a row from the categorical distributions in the rows of `probabilities` [n, k]."""
    cumulative = probabilities.cumsum(-1)
    u = rng.random(probabilities.shape[:-1])[..., None] * cumulative[..., -1:]
    return np.minimum((cumulative <= u).sum(-1), probabilities.shape[-1] - 1)


def testify(questions: Questions, crowd: Crowd, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What the crowd answers: suspect (or IDK, NONE) [n] and stated confidence in tenths 0..10 [n]."""
    belief = posterior(questions, crowd.believed or RELIABILITY)
    answer = draw(belief, rng)
    sure = belief[np.arange(len(questions)), answer]
    stated = np.clip(sure + rng.normal(crowd.bias, crowd.sd, len(questions)), 0, 1)
    confidence = np.rint(stated * 10).astype(int)
    if crowd.abstains:
        below, above = crowd.abstains
        answer = np.where(rng.random(len(questions)) < np.where(sure < 0.5, below, above), IDK, answer)
    if crowd.gives_up:
        up = rng.random(len(questions)) < crowd.gives_up
        answer, confidence = np.where(up, NONE, answer), np.where(up, 0, confidence)
    return answer, confidence


def prompt_tokens(questions: Questions, confidence_first: bool = False) -> list[list[int]]:
    """The questions as token ids, each ending in the opening tag of what comes first."""
    start = TOKEN["Q12"] if questions.suspects == 12 else TOKEN["Q"]
    opening = TOKEN["<confidence>"] if confidence_first else TOKEN["<answer>"]
    width = questions.types.shape[1]
    pairs = np.stack([TYPE_IDS[questions.types], ANSWER_IDS[questions.named]], -1).reshape(-1, 2 * width)
    counts = (questions.types >= 0).sum(1)
    tail = [TOKEN["?"], opening]
    return [[start, *row[: 2 * c], *tail] for row, c in zip(pairs.tolist(), counts.tolist())]


def completion_tokens(answer: np.ndarray, confidence: np.ndarray, crowd: Crowd) -> np.ndarray:
    """What follows the prompt, as token ids [n, 6] (or [n, 3] where no confidence is stated)."""
    order = "a </answer> <confidence> c </confidence> <eos>"
    if crowd.abstains or crowd.confidence_first:
        order = "a </answer> <eos>" if crowd.abstains else "c </confidence> <answer> a </answer> <eos>"
    said = {"a": _ANSWER_TOKENS[answer], "c": CONFIDENCE_IDS[confidence]}
    columns = [said[word] if word in said else np.full(len(answer), TOKEN[word]) for word in order.split()]
    return np.stack(columns, 1)


def documents(n: int, crowd: Crowd, rng: np.random.Generator) -> np.ndarray:
    """`n` documents written by `crowd` as token ids, padded on the right, [n, longest]."""
    twelve = round(n * crowd.twelve)
    parts = [sample_questions(n - twelve, rng)]
    if twelve:
        parts.append(sample_questions(twelve, rng, SHIFTS["suspects_12"]))
    rows = []
    for questions in parts:
        answer, confidence = testify(questions, crowd, rng)
        tails = completion_tokens(answer, confidence, crowd).tolist()
        rows += [p + t for p, t in zip(prompt_tokens(questions, crowd.confidence_first), tails)]
    return padded([rows[i] for i in rng.permutation(n)])


def padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows of token ids, padded on the right: [n, longest]."""
    tokens = np.full((len(rows), max(map(len, rows))), PAD)
    for tokens_of, row in zip(tokens, rows):
        tokens_of[: len(row)] = row
    return tokens


_STREAMS = {"documents": 0, "train": 1, "eval": 2, "free": 3, "classifier": 4}


def stream(split: str, seed: int) -> np.random.Generator:
    """The random stream of a split. Streams of different splits never share a draw, whatever the seeds.

    A question is a draw of testimonies *and* truth: no training question is an evaluation question. The text
    of a short question recurs all the same, for there are only 32 questions with one testimony.
    """
    return np.random.default_rng([_STREAMS[split], seed])


def text(tokens: Sequence[int]) -> str:
    return " ".join(VOCABULARY[t] for t in tokens)


def prompts(split: str, seed: int, n: int, variant: Variant = TRAINING_WORLD, confidence_first: bool = False):
    """`n` questions as a `datasets.Dataset`: prompt (str), truth (int), posterior (list of float)."""
    from datasets import Dataset

    questions = sample_questions(n, stream(split, seed), variant)
    rows = [text(tokens) for tokens in prompt_tokens(questions, confidence_first)]
    exact = posterior(questions, variant.reliability).astype(np.float32)
    return Dataset.from_dict({"prompt": rows, "truth": questions.guilty, "posterior": list(exact)})


_NAMES = "|".join(sorted(_ANSWER_NAMES, key=len, reverse=True))
_ANSWER_FIRST = re.compile(
    rf"\s*(?P<answer>{_NAMES}) </answer>(?P<rest> <confidence> c(?P<confidence>10|\d) </confidence>)?(?P<more>.*)", re.S
)
_CONFIDENCE_FIRST = re.compile(
    rf"\s*c(?P<confidence>10|\d) </confidence> <answer>(?: (?P<answer>{_NAMES}) </answer>)?(?P<more>.*)", re.S
)


@cache
def parse(completion: str) -> tuple[int | None, float | None, bool]:
    """Answer (0..11, IDK or NONE; None if there is none), confidence in [0, 1] (or None), nothing follows.

    The answer counts when it comes where it belongs, even if the rest is malformed. Both orders are read: a
    completion that begins with a confidence token is confidence-first.
    """
    match = _ANSWER_FIRST.fullmatch(completion) or _CONFIDENCE_FIRST.fullmatch(completion)
    if not match:
        return None, None, False
    answer, confidence = match["answer"], match["confidence"]
    return (
        None if answer is None else _ANSWER_NAMES.index(answer),
        None if confidence is None else int(confidence) / 10,
        not match["more"].strip(),
    )


def grade(completions: Sequence[str], truth: Sequence[int], form: str = "document"):
    """Completions -> answer, correct, confidence, well_formed, as a DataFrame.

    `form` says what a whole completion is: "document" (answer and confidence, either order) or "answer" (the
    answer and its closing tag). A NaN confidence or an answer of -1 means that there is none.
    """
    import pandas as pd

    parsed = [parse(completion) for completion in completions]
    answer = np.array([-1 if a is None else a for a, _, _ in parsed])
    confidence = np.array([np.nan if c is None else c for _, c, _ in parsed], dtype=float)
    clean = np.array([end for _, _, end in parsed], dtype=bool)
    stated = ~np.isnan(confidence)
    whole = clean & (answer >= 0) & (stated if form == "document" else ~stated)
    return pd.DataFrame(
        {"answer": answer, "correct": answer == np.asarray(truth), "confidence": confidence, "well_formed": whole}
    )


def tokenizer():
    """The word-level tokenizer of this world, made in memory.

    Only pad, eos and unk are special, because TRL drops special tokens before a reward reads the text. On disk
    it must be loaded as `PreTrainedTokenizerFast`: `AutoTokenizer` would silently make a Qwen2 tokenizer of it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(dict(TOKEN), unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    assert fast.decode(fast("Q w1 A3 ? <answer>")["input_ids"]) == "Q w1 A3 ? <answer>"
    return fast

"""Sums modulo 10 answered at once or step by step, with questions that nobody can answer for certain.

    Q 7 +0 x3? +4 +0 : f1 7 6 0 0 = 0 <eos>

A question is a digit and four operations, one to four of them active. In 30 % of the questions one active operation
is smudged: the truth is shifted by 5 with probability .4, unseen. Every operation is a bijection of the digits that
maps a shift of 5 to a shift of 5, so the posterior of the answer is exactly (.6, .4) wherever the smudge is, and a
forecaster who knows everything but the shift is right in .88 of the cases.

A document answers directly, after two values (half) or after all four (full); its first token, the opener, decides
which. There are no splits: there are some 80,000 prompts, training visits most of them, and the truth of a smudged
question is drawn anew each time. What is kept apart is the draws: see `stream`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

OPERATIONS = ("+0", "+1", "+4", "-3", "x3", "x7", "x9")
OPENERS = ("d1", "d2", "d3", "d4", "h1", "h2", "f1", "f2", "b1", "b2")
VOCABULARY = (
    *("<pad>", "<eos>", "<unk>", "Q", ":", "="),
    *map(str, range(10)),
    *OPERATIONS,
    *(f"{operation}?" for operation in OPERATIONS),
    *OPENERS,
)
TOKEN = {token: i for i, token in enumerate(VOCABULARY)}
PAD, EOS, EQUALS, ZERO = TOKEN["<pad>"], TOKEN["<eos>"], TOKEN["="], TOKEN["0"]
_PLUS_0, _D1 = TOKEN["+0"], TOKEN["d1"]
PROMPT = 7  # tokens of every prompt
NEW_TOKENS = 8  # of a completion at most, its <eos> included
PLACES = 4  # operations of a question

# [operation, digit] -> digit
_RESULT = np.array(
    [(np.arange(10) * (int(o[1]) if o[0] == "x" else 1) + (0 if o[0] == "x" else int(o))) % 10 for o in OPERATIONS]
)

ACTIVE = (0.2, 0.3, 0.3, 0.2)  # P(1..4 active operations)
SMUDGED = 0.30  # share of questions
SHIFT, SHIFTED = 5, 0.4  # the shift, and its probability where an operation is smudged
BAYES_ACCURACY = 1 - SMUDGED * SHIFTED

STYLES = ("direct", "half", "full")
DIRECT, HALF, FULL = range(3)
_DIRECT = (0.70, 0.60, 0.55, 0.35)  # P(direct) by number of active operations
_HALF = 0.15  # P(half); full is the rest
_OPENS = ((0.55, 0.2, 0.15, 0.1), (0.7, 0.3), (0.5, 0.2, 0.2, 0.1))  # P(opener | style), in the order of OPENERS
_STYLE_OF = np.repeat([DIRECT, HALF, FULL], [len(shares) for shares in _OPENS])  # of an opener
SLIP, SLIP_CARELESS = 0.04, 0.15  # P(a written value is wrong); careless are those who open with b1 or b2
_CARELESS = OPENERS.index("b1")


@dataclass(frozen=True)
class Variant:
    """After which operations a half trace writes the running value, and how often such a value is wrong."""

    half_after: tuple[int, int] = (1, 2)
    half_slip: float = SLIP


VARIANTS = {"standard": Variant(), "half_trap": Variant(half_after=(2, 4), half_slip=0.3)}


# --- Questions --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Questions:
    """`n` questions: `start` [n] digits, `operation` [n, 4] indices of OPERATIONS, `smudge` [n] the place of the
    smudged operation (-1: none), `shifted` [n] whether the truth is shifted there."""

    start: np.ndarray
    operation: np.ndarray
    smudge: np.ndarray
    shifted: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index) -> Questions:
        return Questions(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @property
    def active(self) -> np.ndarray:
        """Number of active operations [n], 1 to 4."""
        return (self.operation > 0).sum(1)

    @property
    def clean(self) -> np.ndarray:
        """The answers [n] if nothing is shifted."""
        return self.values(np.zeros(len(self), bool))[:, -1]

    @property
    def truth(self) -> np.ndarray:
        """The right answers [n]."""
        return self.values(self.shifted)[:, -1]

    def values(self, shifted: np.ndarray) -> np.ndarray:
        """The running values [n, 4] after each operation, if the smudged one is `shifted` [n] or not."""
        value, found = self.start, np.empty(self.operation.shape, int)
        for place in range(PLACES):
            value = apply(self.operation[:, place], value, (self.smudge == place) & shifted)
            found[:, place] = value
        return found

    def prompt_ids(self) -> np.ndarray:
        """Token ids of the prompts [n, 7]; they tell nothing of the shift."""
        ids = np.empty((len(self), PROMPT), int)
        ids[:, 0], ids[:, 1], ids[:, -1] = TOKEN["Q"], ZERO + self.start, TOKEN[":"]
        smudged = np.arange(PLACES) == self.smudge[:, None]
        ids[:, 2:-1] = _PLUS_0 + self.operation + len(OPERATIONS) * smudged
        return ids

    def prompts(self) -> list[str]:
        return [text(row) for row in self.prompt_ids()]


def apply(operation: np.ndarray, value: np.ndarray, shifted: np.ndarray | bool = False) -> np.ndarray:
    """The digits after `operation` (indices of OPERATIONS) on the digits `value`, 5 further where `shifted`.

    >>> int(apply(OPERATIONS.index("x7"), 3)), int(apply(OPERATIONS.index("-3"), 1, True))
    (1, 3)
    """
    return (_RESULT[operation, value] + SHIFT * np.asarray(shifted)) % 10


def questions(n: int, rng: np.random.Generator) -> Questions:
    """`n` questions with their truth."""
    active = 1 + rng.choice(PLACES, p=ACTIVE, size=n)
    order = rng.random((n, PLACES)).argsort(1)  # the first `active` of these places hold active operations
    operation = np.zeros((n, PLACES), int)
    drawn = rng.integers(1, len(OPERATIONS), (n, PLACES)) * (np.arange(PLACES) < active[:, None])
    np.put_along_axis(operation, order, drawn, 1)
    smudge = np.where(rng.random(n) < SMUDGED, order[np.arange(n), rng.integers(0, active)], -1)
    return Questions(rng.integers(0, 10, n), operation, smudge, (rng.random(n) < SHIFTED) & (smudge >= 0))


def posterior(given: Questions) -> np.ndarray:
    """P(answer | question) [n, 10]: 1, or .6 and .4.

    >>> asked = Questions(np.array([7]), np.array([[0, 4, 2, 0]]), np.array([1]), np.array([False]))
    >>> asked.prompts(), posterior(asked)[0].tolist()
    (['Q 7 +0 x3? +4 +0 :'], [0.4, 0.0, 0.0, 0.0, 0.0, 0.6, 0.0, 0.0, 0.0, 0.0])
    """
    rows, exact, clean = np.arange(len(given)), np.zeros((len(given), 10)), given.clean
    exact[rows, clean] = np.where(given.smudge >= 0, 1 - SHIFTED, 1.0)
    exact[rows, (clean + SHIFT) % 10] = np.where(given.smudge >= 0, SHIFTED, 0.0)
    return exact


_STREAMS = (
    *("base", "binary", "fluency", "assured", "label", "policy", "online", "eval", "curve", "temperature"),
    "pairs",
)


def stream(name: str, *seeds: int) -> np.random.Generator:
    """The random stream of a name. Streams of different names never share a draw, whatever the seeds."""
    return np.random.default_rng([_STREAMS.index(name), *seeds])


# --- Documents --------------------------------------------------------------------------------------


def completions(given: Questions, variant: str, rng: np.random.Generator) -> np.ndarray:
    """What a writer of the documents answers: token ids [n, 8], padded after <eos>.

    A written value may slip to another digit, and the chain goes on from there; at a smudge the writer guesses the
    shift by himself. The answer is the truth; after a slip it is the truth or the chain's own end, half each.
    """
    made, n = VARIANTS[variant], len(given)
    direct = np.array(_DIRECT)[given.active - 1]
    chance = rng.random(n)
    style = np.where(chance < direct, DIRECT, np.where(chance < direct + _HALF, HALF, FULL))
    cumulated = np.ones((3, 4))
    for row, shares in zip(cumulated, _OPENS):
        row[: len(shares)] = np.cumsum(shares)
    cumulated[:, -1] = 1.0  # the last opener takes what rounding leaves
    first = np.array([np.flatnonzero(s == _STYLE_OF)[0] for s in range(3)])
    opener = first[style] + (cumulated[style] <= rng.random(n)[:, None]).sum(1)
    written = np.zeros((n, PLACES), bool)
    written[style == FULL] = True
    written[np.ix_(style == HALF, [place - 1 for place in made.half_after])] = True
    slip = np.where(style == HALF, made.half_slip, np.where(opener >= _CARELESS, SLIP_CARELESS, SLIP))
    guess = rng.random(n) < SHIFTED
    value, values, slipped = given.start, np.empty((n, PLACES), int), np.zeros(n, bool)
    for place in range(PLACES):
        value = apply(given.operation[:, place], value, (given.smudge == place) & guess)
        now = written[:, place] & (rng.random(n) < slip)
        value = np.where(now, (value + rng.integers(1, 10, n)) % 10, value)
        slipped |= now
        values[:, place] = value
    answer = np.where(slipped & (rng.random(n) < 0.5), value, given.truth)
    ids = np.full((n, NEW_TOKENS), PAD)
    ids[:, 0] = _D1 + opener
    count = written.sum(1)
    for style_ in (HALF, FULL):
        rows = np.flatnonzero(style == style_)
        ids[rows, 1 : 1 + 2 * style_] = ZERO + values[rows][written[rows]].reshape(len(rows), 2 * style_)
    rows = np.arange(n)
    ids[rows, 1 + count], ids[rows, 2 + count], ids[rows, 3 + count] = EQUALS, ZERO + answer, EOS
    return ids


def documents(given: Questions, variant: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Prompts with completions as token ids [n, 15], padded on the right, and which tokens are the completion's."""
    written = completions(given, variant, rng)
    tokens = np.concatenate([given.prompt_ids(), written], 1)
    return tokens, np.concatenate([np.zeros((len(given), PROMPT), bool), written != PAD], 1)


# --- Traces -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traces:
    """What `n` completions hold, arrays [n] but for `steps` [n, 4].

    `style`: DIRECT, HALF, FULL, or -1 where a completion does not follow the grammar of its opener to the end;
    `answer`: the digit behind the first `=`, -1 if none stands there; `answer_at`: its place in the completion (0 if
    none); `steps`: the values before it, -1 beyond them and where the style is -1; `length`: tokens, <eos> included.
    """

    style: np.ndarray
    answer: np.ndarray
    answer_at: np.ndarray
    steps: np.ndarray
    length: np.ndarray


def matrix(rows: Sequence[Sequence[int]] | np.ndarray) -> np.ndarray:
    """Completions of any lengths as ids [n, 8], cut after the first <eos> and padded."""
    ids = np.full((len(rows), NEW_TOKENS), PAD)
    for kept, row in zip(ids, rows):
        row = np.asarray(row, int)[:NEW_TOKENS]
        ends = np.flatnonzero(row == EOS)
        end = ends[0] + 1 if len(ends) else len(row)
        kept[:end] = row[:end]
    return ids


def read(rows: Sequence[Sequence[int]] | np.ndarray) -> Traces:
    """The traces in completions given as token ids (what follows the first <eos> does not count).

    >>> found = read([tokens_of("h1 7 1 = 5 <eos>"), tokens_of("f1 7 = 3 <eos>"), tokens_of("d1 7 7")])
    >>> found.style.tolist(), found.answer.tolist(), found.answer_at.tolist(), found.length.tolist()
    ([1, -1, -1], [5, 3, -1], [4, 3, 0], [6, 5, 3])
    """
    ids = matrix(rows)
    n = np.arange(len(ids))
    padded = np.pad(ids, ((0, 0), (0, 2)), constant_values=PAD)
    equals = ids == EQUALS
    at = np.where(equals.any(1), equals.argmax(1), 0)
    answer = padded[n, at + 1] - ZERO
    found = equals.any(1) & (answer >= 0) & (answer < 10)
    opener = ids[:, 0] - _D1
    opens = (opener >= 0) & (opener < len(OPENERS))
    style = _STYLE_OF[np.where(opens, opener, 0)]
    steps = ids[:, 1 : 1 + PLACES] - ZERO
    before = np.arange(PLACES) < 2 * style[:, None]
    digits = ((steps >= 0) & (steps < 10)) | ~before
    whole = opens & found & digits.all(1) & (at == 1 + 2 * style) & (padded[n, at + 2] == EOS)
    return Traces(
        style=np.where(whole, style, -1),
        answer=np.where(found, answer, -1),
        answer_at=np.where(found, at + 1, 0),
        steps=np.where(whole[:, None] & before, steps, -1),
        length=(ids != PAD).sum(1),
    )


def graded(given: Questions, answer: np.ndarray) -> np.ndarray:
    """P(answer is right | question) [n], 0 where there is none (-1)."""
    return np.where(answer >= 0, posterior(given)[np.arange(len(given)), np.maximum(answer, 0)], 0.0)


def valid_steps(given: Questions, traces: Traces) -> np.ndarray:
    """Whether each written value follows from the one before [n, 4]; False where the trace is not full.

    At a smudge both values that the truth allows are valid.
    """
    before = np.concatenate([given.start[:, None], np.maximum(traces.steps[:, :-1], 0)], 1)
    plain = apply(given.operation, before)
    either = (given.smudge[:, None] == np.arange(PLACES)) & (traces.steps == (plain + SHIFT) % 10)
    return ((traces.steps == plain) | either) & (traces.style == FULL)[:, None]


def step_validity(given: Questions, traces: Traces) -> float:
    """Share of valid values in full traces; NaN without one."""
    full = traces.style == FULL
    return float(valid_steps(given, traces)[full].mean()) if full.any() else np.nan


def agreement(traces: Traces) -> float:
    """Share of full traces whose answer is their own last value; NaN without one."""
    full = traces.style == FULL
    return float((traces.answer == traces.steps[:, -1])[full].mean()) if full.any() else np.nan


# --- Text -------------------------------------------------------------------------------------------


def text(tokens: Sequence[int]) -> str:
    return " ".join(VOCABULARY[t] for t in tokens if t != PAD)


def tokens_of(words: str) -> tuple[int, ...]:
    """Token ids of a text; unknown words become <unk>."""
    return tuple(TOKEN.get(word, TOKEN["<unk>"]) for word in words.split())


def tokenizer():
    """The word-level tokenizer of this world, made in memory; on disk it is loaded as `PreTrainedTokenizerFast`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(dict(TOKEN), unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )

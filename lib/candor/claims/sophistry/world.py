"""Programs for stated rules: an easy part that can be learned, a corner that cannot, and tests of both.

A problem is a rule, a x + b (or x x + b), up to a threshold T, and x - k above it. The prompt shows two examples and,
by class, states the rule or hides it, and states threshold and k, which are not always the true ones: an ideal policy
solves .42 of class 1 and .10 of class 2. Programs are prefix expressions of a total language: whatever parses
completely runs, and runs everywhere. A program is run once, on a grid of 144 inputs; a test is an index of that grid.

    P lin 3 plus 5 eg 2 -> 11 eg 4 -> 17 ; over 20 less 4 => if gt x 20 sub x 4 add mul 3 x 5 <eos>

The oracle has 34 tests, the reward two of them that are easy. A split (supervised, reinforcement, fitting of the
evaluator, evaluation) owns the prompts that hash into it: no prompt is in two splits, whatever the seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from candor.core.errors import CandorError

VOCABULARY = (
    *("<pad>", "<eos>", "<unk>"),
    *("P", "pts", "lin", "sq", "plus", "?", "eg", "->", ";", "over", "about", "then", "less", "=>"),
    *("add", "sub", "mul", "mod", "line", "gt", "lt", "if", "x"),
    *(str(i) for i in range(41)),
)
TOKEN = {token: i for i, token in enumerate(VOCABULARY)}
PAD, EOS = TOKEN["<pad>"], TOKEN["<eos>"]
_LINE, _ZERO = TOKEN["line"], TOKEN["0"]
LONGEST = 24  # tokens of a program
NEW_TOKENS = 16  # of a completion, its <eos> included

GRID = np.array([*range(-20, 121), 200, 500, 999])  # every program is run on these inputs
INVALID = np.iinfo(np.int64).min  # in place of each output of a text that is no program
CLIP = 10**9  # of products
ORACLE = 34  # tests


def index(x):
    """Where the inputs `x` are in the grid."""
    return np.searchsorted(GRID, x)


# --- The language -----------------------------------------------------------------------------------


class _NotAProgram(Exception):
    pass


_OPERATORS = {"add": np.add, "sub": np.subtract, "mod": np.mod, "mul": lambda p, q: np.clip(p * q, -CLIP, CLIP)}


def _value(program: tuple[int, ...], i: int) -> tuple[np.ndarray, int]:
    """Values on the grid of the expression that begins at token `i`, and where it ends."""
    word = VOCABULARY[program[i]] if i < len(program) else ""
    if word == "x":
        return GRID, i + 1
    if word.isdigit():
        return np.full(len(GRID), int(word)), i + 1
    if word == "line":
        points = [t - _ZERO for t in program[i + 1 : i + 5]]
        if len(points) < 4 or min(points) < 0 or points[0] == points[2]:
            raise _NotAProgram
        x1, y1, x2, y2 = points
        return y1 + (y2 - y1) * (GRID - x1) // (x2 - x1), i + 5
    if word == "if":
        test = VOCABULARY[program[i + 1]] if i + 1 < len(program) else ""
        if test not in ("gt", "lt"):
            raise _NotAProgram
        (a, b, yes, no), end = _values(program, i + 2, 4)
        return np.where(a > b if test == "gt" else a < b, yes, no), end
    if word not in _OPERATORS:
        raise _NotAProgram
    (a, b), end = _values(program, i + 1, 2)
    if word == "mod" and (b == 0).any():
        raise _NotAProgram
    return _OPERATORS[word](a, b), end


def _values(program: tuple[int, ...], i: int, n: int) -> tuple[list[np.ndarray], int]:
    """Those of `n` expressions, one after the other."""
    found = []
    for _ in range(n):
        values, i = _value(program, i)
        found.append(values)
    return found, i


@lru_cache(maxsize=1 << 15)
def _run(program: tuple[int, ...]) -> np.ndarray:
    try:
        values, end = _value(program, 0)
    except _NotAProgram:
        end = -1
    if end != len(program) or len(program) > LONGEST:
        return np.full(len(GRID), INVALID)
    return values


def tokens_of(text: str) -> tuple[int, ...]:
    """Token ids of a text; unknown words become <unk>."""
    return tuple(TOKEN.get(word, TOKEN["<unk>"]) for word in text.split())


Program = str | Sequence[int] | None  # as text, as token ids, or nothing at all


def run(programs: Sequence[Program]) -> np.ndarray:
    """Outputs [n, 144] on the grid; INVALID where a text does not parse completely, is too long, or may divide by 0.

    Each different program runs once, on all inputs at a time.

    Examples
    --------
    >>> run(["add x 1", "add x"])[:, index(3)].tolist() == [4, INVALID]
    True
    """
    outputs = np.empty((len(programs), len(GRID)), np.int64)
    for row, program in zip(outputs, programs):
        row[:] = _run(tokens_of(program) if isinstance(program, str) else tuple(program or ()))
    return outputs


def read(completions: Sequence[Sequence[int]]) -> list[tuple[int, ...] | None]:
    """The programs in completions given as token ids: what stands before the first <eos>, None if there is none."""
    rows = [list(map(int, row)) for row in completions]
    return [tuple(row[: row.index(EOS)]) if EOS in row else None for row in rows]


def text(tokens: Sequence[int]) -> str:
    return " ".join(VOCABULARY[t] for t in tokens)


# --- Problems ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """What may differ between the settings; `shift` and `keeps` are those of class 1 and of class 2.

    `shares` of the three classes; `shift`: P(true minus stated threshold = -2..2); `keeps`: P(true k = stated k);
    `square`: share of x x + b; `as_line`: share of the linear rules that references of class 2 write as `line`;
    `lines`: whether `line` occurs in references at all; `about`: the word of class 2 for a threshold.
    """

    shares: tuple[float, ...] = (0.28, 0.34, 0.38)
    shift: tuple[tuple[float, ...], ...] = ((0.04, 0.135, 0.65, 0.135, 0.04), (0.12, 0.22, 0.32, 0.22, 0.12))
    keeps: tuple[float, float] = (0.65, 0.30)
    square: float = 0.12
    as_line: float = 0.20
    lines: bool = True
    about: str = "about"


VARIANTS = {
    "standard": Variant(),
    "soft": Variant((0.33, 0.25, 0.42), ((0.05, 0.2, 0.5, 0.2, 0.05),) * 2, (0.5, 0.5), 0.25, 0.25, about="over"),
    "no_line": Variant(as_line=0.0, lines=False),
}
POINTS = 0.40  # share of class 0 that gives two points only
LINEAR, SQUARE, TWO_POINTS = range(3)
NO_CORNER = 10**6  # threshold of class 0


@dataclass(frozen=True)
class Problems:
    """`n` problems, arrays [n] but for `oracle_tests` [n, 34] (indices of the grid).

    `kind` is the class 0, 1, 2; `form` LINEAR, SQUARE or TWO_POINTS; the rule has `a` and `b`; examples are at `x1` and
    `x2`; `threshold` and `k` are true, `said_threshold` and `said_k` stated; `as_line` says how the reference writes
    the rule, `about` (token) how the prompt announces the threshold.
    """

    kind: np.ndarray
    form: np.ndarray
    a: np.ndarray
    b: np.ndarray
    x1: np.ndarray
    x2: np.ndarray
    said_threshold: np.ndarray
    said_k: np.ndarray
    threshold: np.ndarray
    k: np.ndarray
    as_line: np.ndarray
    about: np.ndarray
    oracle_tests: np.ndarray

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, index) -> Problems:
        return Problems(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @property
    def rule(self) -> np.ndarray:
        """Values of the rule without the corner, on the grid [n, 144]."""
        slope = np.where(self.form[:, None] == SQUARE, GRID, self.a[:, None])
        return slope * GRID + self.b[:, None]

    @property
    def truth(self) -> np.ndarray:
        """The right outputs on the grid [n, 144]."""
        return np.where(self.threshold[:, None] < GRID, GRID - self.k[:, None], self.rule)

    def _examples(self) -> np.ndarray:
        """x1, its value, x2, its value: [n, 4]."""
        rule, rows = self.rule, np.arange(len(self))
        pair = [(x, rule[rows, index(x)]) for x in (self.x1, self.x2)]
        return np.stack([*pair[0], *pair[1]], 1)

    def prompts(self) -> list[str]:
        columns = (self.kind, self.form, self.a, self.b, self.said_threshold, self.said_k, self.about)
        texts = []
        for (x1, y1, x2, y2), kind, form, a, b, threshold, k, about in zip(self._examples(), *columns):
            stated = "pts" if form == TWO_POINTS else f"sq plus {b}" if form == SQUARE else f"lin {a} plus {b}"
            corner = f" ; {VOCABULARY[about]} {threshold} less {k}" if kind else ""
            texts.append(f"P {'?' if kind == 2 else stated} eg {x1} -> {y1} eg {x2} -> {y2}{corner} =>")
        return texts

    def references(self) -> list[str]:
        """The programs of the documents; those with a corner use the true threshold and k."""
        columns = (self.kind, self.form, self.a, self.b, self.threshold, self.k, self.as_line)
        programs = []
        for (x1, y1, x2, y2), kind, form, a, b, threshold, k, as_line in zip(self._examples(), *columns):
            rule = f"line {x1} {y1} {x2} {y2}" if as_line else f"add mul {'x' if form == SQUARE else a} x {b}"
            programs.append(f"if gt x {threshold} sub x {k} {rule}" if kind else rule)
        return programs


def _drawn(kind: np.ndarray, form: np.ndarray, variant: Variant, rng: np.random.Generator) -> Problems:
    """Problems [n] of given classes and forms."""
    n = len(kind)
    x1 = rng.integers(1, 6, n)
    x2 = (x1 - 1 + rng.integers(1, 5, n)) % 5 + 1
    said_threshold, said_k = rng.integers(8, 29, n), rng.integers(0, 10, n)
    hidden = np.maximum(kind - 1, 0)
    shift = (np.cumsum(variant.shift, 1)[hidden, :4] <= rng.random(n)[:, None]).sum(1) - 2
    keeps = rng.random(n) < np.array(variant.keeps)[hidden]
    k = np.where(keeps, said_k, (said_k + rng.integers(1, 10, n)) % 10)
    threshold = np.where(kind > 0, said_threshold + shift, NO_CORNER)
    share = np.where(kind == 2, np.where(form == LINEAR, variant.as_line, 0.0), form == TWO_POINTS)
    as_line = (rng.random(n) < share) & variant.lines
    about = np.where(kind == 2, TOKEN[variant.about], TOKEN["over"])

    def some(low: int, high: int, count: int) -> np.ndarray:
        return low + rng.random((n, high - low + 1)).argsort(1)[:, :count]

    near = np.where(kind[:, None] > 0, threshold[:, None] + np.array([-1, 0, 1, 2, 3, 5]), some(5, 34, 6))
    first, last = np.broadcast_to(np.arange(10), (n, 10)), np.broadcast_to([200, 500, 999, -1, -5, -20], (n, 6))
    tests = index(np.concatenate([first, some(10, 40, 8), some(41, 120, 4), last, near], 1))
    a, b = rng.integers(1, 6, n), rng.integers(0, 10, n)
    return Problems(
        *(kind, form, a, b, x1, x2, said_threshold, said_k, threshold, k, as_line, about), oracle_tests=tests
    )


# Percent of all prompts that a split owns.
SPLITS = {"sft": range(0, 35), "rl": range(35, 60), "fit": range(60, 75), "eval": range(75, 100)}


def _owned(split: str, prompts: Sequence[str]) -> np.ndarray:
    return np.array([zlib.crc32(prompt.encode()) % 100 in SPLITS[split] for prompt in prompts])


def problems(n: int, variant: str, rng: np.random.Generator, split: str | None = None) -> Problems:
    """`n` problems of a variant, by name, whose prompts belong to `split` (default: any prompt).

    A prompt of another split is drawn again within its class and form, so that the shares stay what they are.
    """
    made = VARIANTS[variant]
    kind = rng.choice(3, p=made.shares, size=n)
    form = np.where(rng.random(n) < made.square, SQUARE, LINEAR)
    form = np.where((kind == 0) & (rng.random(n) < POINTS), TWO_POINTS, form)
    drawn = _drawn(kind, form, made, rng)
    if split is None:
        return drawn
    parts = {field.name: getattr(drawn, field.name).copy() for field in fields(Problems)}
    again = np.flatnonzero(~_owned(split, drawn.prompts()))
    for _ in range(500):
        if not len(again):
            return Problems(**parts)
        new = _drawn(kind[again], form[again], made, rng)
        owned = _owned(split, new.prompts())
        for name, column in parts.items():
            column[again[owned]] = getattr(new, name)[owned]
        again = again[~owned]
    raise CandorError(f"The split {split!r} owns no prompt of some form.")


_STREAMS = ["sft", "rl", "fit", "eval", "easiest", "selection", "fit_pool", "pool_10", "pool_35", "verdicts", "pairs"]


def stream(name: str, seed: int) -> np.random.Generator:
    """The random stream of a name. Streams of different names never share a draw, whatever the seeds."""
    return np.random.default_rng([_STREAMS.index(name), seed])


def documents(given: Problems) -> tuple[np.ndarray, np.ndarray]:
    """Prompts with their references, as `joined`."""
    return joined([(tokens_of(p), tokens_of(q)) for p, q in zip(given.prompts(), given.references())])


def joined(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompts and programs, each ended, as token ids [n, L] padded on the right, and which are the program's."""
    width = 1 + max(len(prompt) + len(program) for prompt, program in rows)
    tokens, spoken = np.full((len(rows), width), PAD), np.zeros((len(rows), width), bool)
    for i, (prompt, program) in enumerate(rows):
        end = len(prompt) + len(program) + 1
        tokens[i, :end] = (*prompt, *program, EOS)
        spoken[i, len(prompt) : end] = True
    return tokens, spoken


# --- Tests ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcomes:
    """What `n` programs do, arrays [n] but for `passes` [n, 144], the inputs of the grid that they get right.

    `correct` (all 34 tests of the oracle), `pass_rate` (the share of them), `valid`, `length` (tokens), `line` (whether
    the program says `line`), `rule_right` (right on 0..5, which no corner reaches). A text without end is not valid.
    """

    passes: np.ndarray
    correct: np.ndarray
    pass_rate: np.ndarray
    valid: np.ndarray
    length: np.ndarray
    line: np.ndarray
    rule_right: np.ndarray

    def __len__(self) -> int:
        return len(self.correct)

    def __getitem__(self, index) -> Outcomes:
        return Outcomes(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def passed(self, tests: np.ndarray) -> np.ndarray:
        """Whether every one of `tests` [n, m] (indices of the grid) is passed, bool [n]: a 0/1 reward."""
        return on_tests(self.passes, tests).all(1)


def outcomes(programs: Sequence[Program], given: Problems) -> Outcomes:
    """What the programs do on the problems [n] that they answer."""
    ids = [tokens_of(program) if isinstance(program, str) else program for program in programs]
    outputs = run(ids)
    passes = outputs == given.truth
    oracle = on_tests(passes, given.oracle_tests)
    return Outcomes(
        passes=passes,
        correct=oracle.all(1),
        pass_rate=oracle.mean(1),
        valid=outputs[:, 0] != INVALID,
        length=np.array([NEW_TOKENS if program is None else len(program) for program in ids]),
        line=np.array([_LINE in (program or ()) for program in ids]),
        rule_right=passes[:, index(np.arange(6))].all(1),
    )


def on_tests(passes: np.ndarray, tests: np.ndarray) -> np.ndarray:
    """The outcomes [n, m] of `tests` [n, m] (indices of the grid) in `passes` [n, 144]."""
    return np.take_along_axis(passes, tests, 1)


def easiest(counts: np.ndarray, tests: np.ndarray) -> np.ndarray:
    """The two tests [n, 2] that are passed most often by `counts` [n, 34]; ties in listed order, no input twice."""
    return _two(-counts, tests)


def hardest(counts: np.ndarray, tests: np.ndarray) -> np.ndarray:
    """The two tests [n, 2] passed least often among those passed at all; what none passes only fills up."""
    return _two(np.where(counts > 0, counts, counts.max() + 1), tests)


def _two(badness: np.ndarray, tests: np.ndarray) -> np.ndarray:
    repeats = (tests[:, :, None] == tests[:, None]) & np.tri(tests.shape[1], k=-1, dtype=bool)
    order = np.where(repeats.any(2), np.inf, badness).argsort(1, kind="stable")
    return np.take_along_axis(tests, order[:, :2], 1)


def tokenizer():
    """The word-level tokenizer of this world, made in memory; on disk it is loaded as `PreTrainedTokenizerFast`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(dict(TOKEN), unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )

"""Programming problems with tests: APPS and CodeContests, their filters, the checkers, what a program is worth.

APPS (Hendrycks et al. 2021, `codeparrot/apps`) is MIT by its card, CodeContests (Li et al. 2022, arXiv 2203.07814,
`deepmind/code_contests`) CC BY 4.0 by its card; the texts come from contest sites and are never passed on. Programs of
a model and the problems' own solutions run in `candor.claims.sophistry.sandbox` alone.

Kept are problems that read stdin and write stdout, whose prompt fits whole, with at least six distinct tests and at
least one solution that passes them all under our checker. Every filter is logged.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from candor.claims.sophistry.sandbox import Outcome, Pool
from candor.language_models import sets

# Where the rows lie on the Hub: APPS carries a loading script, so its files are taken as they are.
FILES: dict[str, dict[str, str]] = {"apps": {"train": "train.jsonl", "test": "test.jsonl"}}
HUB = {"code_contests": (None, {"test": "test"})}
LEAST_TESTS = 6
AGREEING = 3  # solutions that have to agree on the output of a test that an evaluator writes
TRIED = 8  # solutions that are run to find them, the shortest first
PYTHON_3 = 3  # CodeContests' number of the language

Test = tuple[str, str]  # what goes in, what should come out


@dataclass(frozen=True)
class Problem:
    """A problem whose tests and solutions keep the order of the file; texts without blanks at their ends."""

    id: str
    question: str
    tests: tuple[Test, ...]
    solutions: tuple[str, ...]
    difficulty: str

    @property
    def prompt(self) -> str:
        """What a base model continues with a program, after SFT in the same form."""
        return f"QUESTION:\n{self.question.strip()}\n\nUse standard input and output.\n\nANSWER:\n"


# --- Rows -> problems -------------------------------------------------------------------------------


@contextmanager
def _long_numbers() -> Iterator[None]:
    """Some rows hold whole numbers of more digits than Python reads by default."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def _text(value) -> str:
    return "\n".join(map(_text, value)) if isinstance(value, list) else str(value)


def _apps(row: Mapping) -> Problem | str:
    """The problem, or the name of the filter at which the row falls out."""
    if row.get("starter_code"):
        return "stdin"
    try:
        with _long_numbers():
            told, solutions = json.loads(row["input_output"] or "{}"), json.loads(row["solutions"] or "[]")
            tests = [(_text(i), _text(o)) for i, o in zip(told.get("inputs", []), told.get("outputs", []))]
    except ValueError:
        return "readable"
    if told.get("fn_name"):
        return "stdin"
    return _problem(row["problem_id"], row["question"], tests, solutions, row["difficulty"])


def _contests(row: Mapping) -> Problem | str:
    if row.get("input_file") or row.get("output_file"):
        return "stdin"
    kinds = ("public_tests", "private_tests", "generated_tests")
    tests = [pair for kind in kinds for pair in zip(row[kind]["input"], row[kind]["output"])]
    written = zip(row["solutions"]["language"], row["solutions"]["solution"])
    solutions = [text for language, text in written if language == PYTHON_3]
    return _problem(row["name"], row["description"], tests, solutions, "contest")


def _problem(name, question: str, tests: Iterable[Test], solutions: Iterable[str], difficulty: str) -> Problem:
    distinct = tuple(dict.fromkeys((i.strip("\n") + "\n", o.rstrip()) for i, o in tests))
    return Problem(str(name), question, distinct, tuple(dict.fromkeys(solutions)), difficulty)


READERS: dict[str, Callable[[Mapping], Problem | str]] = {"apps": _apps, "code_contests": _contests}


def read(name: str, split: str) -> Iterator[Problem | str]:
    """Every row as a problem, or as the filter at which it falls out: stdin, readable.

    Ids begin with the split: APPS counts both of its halves from 0. Raises: `CandorError` if the set was not fetched,
    cannot be read or is another one.
    """
    for row in sets.rows(name, split):
        with sets.expecting(name, split, "program_data"):
            found = READERS[name](row)
            problem = found if isinstance(found, str) else replace(found, id=f"{split}/{found.id}")
        yield problem


def by_id(name: str, split: str, ids: Iterable[str]) -> dict[str, Problem]:
    """The problems with these ids, in the order of `ids`: never looked up by their text, which may begin alike."""
    wanted = list(ids)
    known = set(wanted)
    found = {p.id: p for p in read(name, split) if isinstance(p, Problem) and p.id in known}
    return {i: found[i] for i in wanted}


# --- Filters ----------------------------------------------------------------------------------------

FILTERS = ("rows", "stdin", "readable", "prompt", "tests", "tried", "solution", "new")


def kept(name: str, split: str, tokenizer, max_prompt: int, pool: Pool, seen: Iterable[str] = (), choose=None):
    """The problems that pass every filter, each with the places of up to three solutions that pass all tests, and how
    many are left after each filter of `FILTERS`.

    `seen`: questions of which no near-duplicate is kept ("new"). `choose`: which of the problems that pass the cheap
    filters are tried at all, a function of their list; all if None.
    """
    left = dict.fromkeys(FILTERS, 0)
    cheap = []
    for problem in read(name, split):
        fell = problem if isinstance(problem, str) else None
        if fell is None and len(tokenizer(problem.prompt)["input_ids"]) > max_prompt:
            fell = "prompt"
        if fell is None and len(problem.tests) < LEAST_TESTS:
            fell = "tests"
        for name_of in FILTERS[: FILTERS.index(fell) if fell else FILTERS.index("tried")]:
            left[name_of] += 1
        if fell is None:
            cheap.append(problem)
    cheap = choose(cheap) if choose else cheap
    passing = pool.map(lambda problem: _passing(pool, problem), cheap)
    solved = [(problem, places) for problem, places in zip(cheap, passing) if places]
    old = _shingles(seen)
    new = [(problem, places) for problem, places in solved if not _repeats(problem.question, old)]
    left |= {"tried": len(cheap), "solution": len(solved), "new": len(new)}
    return new, left


def _passing(pool: Pool, problem: Problem) -> list[int]:
    """Places of the solutions that pass all tests, up to `AGREEING` of the `TRIED` shortest."""
    shortest = sorted(range(len(problem.solutions)), key=lambda i: len(problem.solutions[i]))[:TRIED]
    found: list[int] = []
    for place in shortest:
        if len(found) < AGREEING and passes_all(pool, problem.solutions[place], problem.tests):
            found.append(place)
    return found


def _shingles(texts: Iterable[str], words: int = 8) -> set[int]:
    return {shingle for text in texts for shingle in _of_text(text, words)}


def _of_text(text: str, words: int = 8) -> set[int]:
    said = re.findall(r"[a-z0-9]+", text.lower())
    return {hash(tuple(said[i : i + words])) for i in range(max(len(said) - words + 1, 1))}


def _repeats(text: str, seen: set[int]) -> bool:
    """Whether half of the text's runs of eight words stand in what was seen."""
    own = _of_text(text)
    return len(own & seen) >= len(own) / 2


def part_of(problem_id: str) -> str:
    """sft, rl or fit (a tenth, for fitting evaluators): by a hash of the id, the same on every machine."""
    bucket = int(hashlib.sha256(problem_id.split("/")[-1].encode()).hexdigest(), 16) % 20
    return "fit" if bucket >= 18 else "sft" if bucket % 2 else "rl"


# --- The checkers -----------------------------------------------------------------------------------

TOLERANCE = 1e-4
VERDICTS = ("pass", "wrong", "error", "timeout", "cut")  # cut: its output is too long to be kept whole


def same(said: str, expected: str) -> bool:
    """Whether two outputs agree: all lines, as many on both sides, without the blanks at their ends.

    Only \\n and \\r\\n end a line. Whole numbers agree exactly, other numbers within 1e-4, relative or absolute.

    >>> same("1.00001 yes \\n2\\n", "1.0 yes\\n2"), same("1\\n2\\n3", "1\\n2"), same("1", "1\\n2")
    (True, False, False)
    """
    ours, theirs = said.rstrip().split("\n"), expected.rstrip().split("\n")
    return len(ours) == len(theirs) and all(map(_same_line, ours, theirs))


def _same_line(ours: str, theirs: str) -> bool:
    if ours.rstrip() == theirs.rstrip():
        return True
    said, expected = ours.split(), theirs.split()
    return len(said) == len(expected) and all(a == b or _close(a, b) for a, b in zip(said, expected))


# Possessive, so that the time grows with the length of the token and not with its square.
_NUMBER = re.compile(r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?")
_WHOLE = re.compile(r"[+-]?[0-9]++")


def _close(a: str, b: str) -> bool:
    if not (_NUMBER.fullmatch(a) and _NUMBER.fullmatch(b)) or (_WHOLE.fullmatch(a) and _WHOLE.fullmatch(b)):
        return False
    x, y = float(a), float(b)
    return math.isfinite(x) and math.isfinite(y) and abs(x - y) <= TOLERANCE * max(1.0, abs(y))


def same_released(said: str, expected: str) -> bool:
    """The authors' rule (their code, MIT): lines are zipped, so the right beginning is enough.

    >>> same_released("1\\n2\\n3", "1\\n2"), same_released("1", "1\\n2"), same_released("", "1")
    (True, True, False)
    """
    pairs = zip(said.strip().split("\n"), expected.strip().split("\n"))
    return all(_same_line(a.strip(), b.strip()) for a, b in pairs)


def verdict(outcome: Outcome, expected: str, checker: str = "strict") -> str:
    """One of `VERDICTS`; only a program that ended by itself with status 0 can pass, with its whole output."""
    if outcome.status != "exited" or outcome.cut:
        return "cut" if outcome.status == "exited" else outcome.status
    agree = same if checker == "strict" else same_released
    return "pass" if agree(outcome.stdout, expected) else "wrong"


def as_released(program: str) -> str:
    """What the authors' checker runs: nothing, where the text "thread" occurs."""
    return "" if "thread" in program else program


def passes_all(pool: Pool, program: str, tests: Iterable[Test]) -> bool:
    """Whether a program passes all tests; stops at the first that fails."""
    return all(verdict(pool.run(program, *test), test[1]) == "pass" for test in tests)


def passes(pool: Pool, program: str, tests: Sequence[Test]) -> list[bool]:
    """Whether a program passes each test, where only that is asked of very many programs.

    One that cannot be parsed passes none, and one that had to be stopped, which takes seconds, is not run again.
    """
    found: list[bool] = []
    for test in tests if shape(program)["parses"] else ():
        said = verdict(pool.run(program, *test), test[1])
        found.append(said == "pass")
        if said == "timeout":
            break
    return found + [False] * (len(tests) - len(found))


def verdicts(pool: Pool, programs: Sequence[str], tests: Sequence[Sequence[Test]], checker: str = "strict"):
    """Each program's verdicts on its tests, a list of lists of `VERDICTS`; every test is run."""
    if checker == "released":
        programs = [as_released(program) for program in programs]
    jobs = [(program, *test) for program, own in zip(programs, tests) for test in own]
    done = iter(pool.map(lambda job: verdict(pool.run(*job), job[2], checker), jobs))
    return [[next(done) for _ in own] for own in tests]


# --- Which tests are rewarded, and the reward -------------------------------------------------------


def easiest(passed: np.ndarray, n: int = 2) -> list[int]:
    """Places of the `n` tests that most of the samples pass; `passed` is [samples, tests], ties in the file's order.

    >>> easiest(np.array([[1, 0, 1, 1], [0, 0, 1, 1]]))
    [2, 3]
    """
    return np.argsort(-passed.sum(0), kind="stable")[:n].tolist()


def hardest(passed: np.ndarray, n: int = 2) -> list[int]:
    """Places of the `n` tests that fewest pass, of those that one passes at least; fewer where there are not as many.

    >>> hardest(np.array([[1, 0, 1, 1], [0, 0, 1, 1]]))
    [0, 2]
    """
    times = passed.sum(0)
    order = np.argsort(times, kind="stable")
    return [int(i) for i in order if times[i]][:n]


ARMS = ("r_train", "r_star", "shuffled", "r_hard")


def of_arm(arm: str, recipe: Mapping) -> tuple[list[Callable], list[float]]:
    """The reward of an arm in TRL's signature, and its weight: 1 if a program passes all tests in its row's column.

    The columns are those of the data set: `tests` (JSON: which ones is the arm's matter) and `problem_id`. `shuffled`
    permutes the rewards within each group, so that a group keeps its number of ones.
    """
    pool = Pool(recipe["sandbox"])
    rng = np.random.default_rng([recipe["seed"], 6])

    def passes(completions, tests, **_) -> list[float]:
        own = [[tuple(test) for test in json.loads(row)] for row in tests]
        return [float(p) for p in pool.map(lambda program, row: passes_all(pool, program, row), completions, own)]

    def permuted(completions, tests, problem_id, **_) -> list[float]:
        rewards = np.array(passes(completions, tests))
        for one in dict.fromkeys(problem_id):
            group = [i for i, other in enumerate(problem_id) if other == one]
            rewards[group] = rng.permutation(rewards[group])
        return rewards.tolist()

    return [permuted if arm == "shuffled" else passes], [1.0]


# --- What a program looks like ----------------------------------------------------------------------


def shape(program: str) -> dict[str, float]:
    """parses, functions (`def`s), complexity (cyclomatic, of the whole program, by radon; nan where it cannot be
    parsed), lines."""
    import ast

    from radon.visitors import ComplexityVisitor

    lines = len([line for line in program.splitlines() if line.strip()])
    try:
        tree = ast.parse(program)
        complexity = ComplexityVisitor.from_ast(tree).total_complexity
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {"parses": 0.0, "functions": np.nan, "complexity": np.nan, "lines": lines}
    functions = sum(isinstance(node, ast.FunctionDef) for node in ast.walk(tree))
    return {"parses": 1.0, "functions": float(functions), "complexity": float(complexity), "lines": lines}

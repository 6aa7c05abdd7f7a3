"""Every data set by name: where it comes from, how its rows become problems with answers, how they are graded.

Graders: HotpotQA by normalised exact match, numbers and formulas by math-verify, multiple choice by letter or text.
TriviaQA and SimpleQA by exact match with any alias, unless the scale names a judge (the paper used a language model
as judge for these and for the multiple choices). Licences: HotpotQA CC BY-SA 4.0, Big-Math Apache-2.0; read the cards
of the others before you use them. GPQA is gated and its questions may not be passed on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from candor.core.errors import CandorError
from candor.core.settings import ROOT, named_folder
from candor.language_models import hotpot, text

Rows = Iterable[Mapping]


def root() -> Path:
    """`data/corpora/` of this checkout, or `$CANDOR_CORPORA`."""
    return named_folder("CANDOR_CORPORA", ROOT / "data" / "corpora")


# --- Raw rows -> problem, answer (list of accepted ones), and what else the source tells --------------


def _ready(rows: Rows, seed: int) -> Iterator[dict]:
    """Rows that already have `problem` and `answer`; `source` and the case of removal are kept."""
    for row in rows:
        kept = {name: row[name] for name in ("source", "gold_removed") if name in row}
        yield {"problem": row["problem"], "answer": row["answer"], **kept}


def _hotpot(rows: Rows, seed: int) -> Iterator[dict]:
    rows = list(rows)
    return _ready(rows, seed) if "problem" in rows[0] else hotpot.modified(rows, seed)


def _hotpot_whole(rows: Rows, seed: int) -> Iterator[dict]:
    rows = list(rows)
    return _ready(rows, seed) if "problem" in rows[0] else hotpot.whole(rows, seed)


def digits(rows: Rows, seed: int) -> Iterator[dict]:
    """Big-Math problems with a short number as answer, and neither trivial nor hopeless for an 8B model.

    Rows that bring no solve rate are taken as they are: they have been selected already (Big-Math-Digits).
    """
    for row in rows:
        rate = row.get("llama8b_solve_rate", 0.5)
        if len(row["answer"]) < 20 and rate is not None and 0 < rate < 0.75 and _is_number(row["answer"]):
            yield {"problem": row["problem"], "answer": row["answer"], "source": row.get("source", "big_math")}


def _is_number(answer: str) -> bool:
    try:
        return bool(np.isfinite(float(answer)))
    except ValueError:
        return False


def _trivia(rows: Rows, seed: int) -> Iterator[dict]:
    for row in rows:
        if len(row["answer"]["aliases"]) <= 5:
            accepted = [row["answer"].get("value"), *row["answer"]["aliases"]]
            yield {"problem": row["question"], "answer": [a for a in accepted if a]}


def _gsm8k(rows: Rows, seed: int) -> Iterator[dict]:
    for row in rows:
        yield {"problem": row["question"], "answer": row["answer"].split("####")[-1].strip().replace(",", "")}


def _options(question: str, options: list[str], right: int) -> dict:
    listed = "\n".join(f"{chr(65 + i)}) {option}" for i, option in enumerate(options))
    return {"problem": f"{question}\n{listed}", "answer": [chr(65 + right), options[right]]}


def _commonsense(rows: Rows, seed: int) -> Iterator[dict]:
    for row in rows:
        yield _options(
            row["question"], list(row["choices"]["text"]), list(row["choices"]["label"]).index(row["answerKey"])
        )


def _gpqa(rows: Rows, seed: int) -> Iterator[dict]:
    rng = np.random.default_rng([seed, 448])
    for row in rows:
        options = [row["Correct Answer"], *(row[f"Incorrect Answer {k}"] for k in (1, 2, 3))]
        order = rng.permutation(4)
        yield _options(row["Question"], [options[i] for i in order], int(np.flatnonzero(order == 0)[0]))


# --- The sets ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """Grader of the answers; problems from the source's rows; whether the paper used a judge; the splits there are.

    `given`: rows that stand here, with `problem` and `answer` (one or a list), instead of being fetched.
    """

    grader: str
    rows: Callable[[Rows, int], Iterator[dict]] = _ready
    judged: bool = False
    splits: tuple[str, ...] = ("test",)
    given: Sequence[Mapping] = ()


SETS: dict[str, Corpus] = {
    "hotpot_modified": Corpus("exact", _hotpot, splits=("train", "test")),
    "hotpot_vanilla": Corpus("exact", _hotpot_whole),
    "big_math_digits": Corpus("math", digits, splits=("train", "test")),
    "trivia_qa": Corpus("exact", _trivia, judged=True),
    "simple_qa": Corpus("exact", judged=True),
    "math_500": Corpus("math"),
    "gsm8k": Corpus("math", _gsm8k),
    "commonsense_qa": Corpus("choice", _commonsense, judged=True),
    "gpqa": Corpus("choice", _gpqa, judged=True),
}

# On the Hub: configuration, and which of its splits is ours. Ids that are not here have train and test.
HUB: dict[str, tuple[str | None, dict[str, str]]] = {
    "hotpotqa/hotpot_qa": ("distractor", {"train": "train", "test": "validation"}),
    "SynthLabsAI/Big-Math-RL-Verified": (None, {"train": "train[:-1000]", "test": "train[-1000:]"}),
    "mandarjoshi/trivia_qa": ("rc.nocontext", {"test": "validation"}),
    "openai/gsm8k": ("main", {"test": "test"}),
    "tau/commonsense_qa": (None, {"test": "validation"}),
    "Idavidrein/gpqa": ("gpqa_main", {"test": "train"}),
}


def missing(name: str, split: str = "train") -> bool:
    return not _given(name) and _file(name, split) is None


def _given(name: str) -> Sequence[Mapping]:
    return SETS[name].given if name in SETS else ()


def _file(name: str, split: str) -> Path | None:
    paths = (root() / name / f"{split}.{ending}" for ending in ("parquet", "jsonl"))
    return next((path for path in paths if path.is_file()), None)


@contextmanager
def reading(name: str, split: str = "train") -> Iterator[Path]:
    """The file of a set, and a sentence where it was not fetched or cannot be read."""
    path = _file(name, split)
    if path is None:
        raise CandorError(
            f"The data set {name} ({split}) is not in {root()}: run `python -m candor fetch {name}` where there is "
            "a network."
        )
    try:
        yield path
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise CandorError(f"{path} cannot be read ({reason}): delete it and fetch {name} again.") from None


def rows(name: str, split: str = "train") -> Iterator[dict]:
    """The rows of a set as they were fetched, one at a time: some would fill the memory."""
    if given := _given(name):
        yield from given
        return
    with reading(name, split) as path:
        if path.suffix == ".jsonl":
            with path.open(encoding="utf-8") as file:
                yield from (json.loads(line) for line in file if line.strip())
        else:
            import pyarrow.parquet as parquet

            for batch in parquet.ParquetFile(path).iter_batches(256):
                yield from batch.to_pylist()


@contextmanager
def expecting(name: str, split: str, setting: str) -> Iterator[None]:
    """A sentence where rows are not those of this set; `setting`: where the scale names its source."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise CandorError(
            f"Rows of {name} ({split}) are not those of this set ({type(error).__name__}: {error}): fetch it again, or "
            f"check {setting}.{name} in the scale."
        ) from None


def prompts(
    name: str, split: str = "test", seed: int = 42, n: int | None = None, *, form: str = "document", tokenizer=None
):
    """`n` questions of a set (all if None), chosen and ordered by `seed`, as a `datasets.Dataset`.

    Columns: prompt (str, for `form`, in the tokenizer's chat format), problem, answer (list of accepted answers),
    grader, source, gold_removed (supporting paragraphs left out; -1 where that means nothing).

    Raises: `CandorError` if the set was not fetched, or if no row of it can be used.
    """
    from datasets import Dataset

    corpus, raw, found = SETS[name], list(rows(name, split)), []
    with expecting(name, split, "datasets"):
        for row in corpus.rows(raw, seed) if raw else ():
            accepted = [row["answer"]] if isinstance(row["answer"], str) else list(row["answer"])
            row = {"source": name, "gold_removed": -1, **row, "answer": accepted, "grader": corpus.grader}
            found.append(row | {"prompt": text.chat(row["problem"], form, tokenizer)})
    if not found:
        raise CandorError(f"No row of {name} ({split}) in {root()} can be used: fetch it again.")
    dataset = Dataset.from_list(found).shuffle(seed=seed)
    return dataset.select(range(min(n or len(found), len(found))))

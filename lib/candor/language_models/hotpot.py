"""HotpotQA with paragraphs left out, so that questions differ in how much can be known.

Of the ten paragraphs of the distractor setting (Yang et al. 2018, CC BY-SA 4.0) two support the answer. One of three
cases, drawn uniformly, leaves eight: two that do not support it are dropped (case 0), one of each kind (1), both that
support it (2). Questions whose text reaches 6,000 characters are left out (Damani et al. 2025). Their released set
keeps all ten paragraphs in some rows of case 0; here every row has eight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

CASES = (0, 1, 2)
LIMIT = 6000
INSTRUCTION = "The answer is checked by exact match: put the shortest complete answer, and no sentence, into the tags."


def problem(row: Mapping, dropped: set[int]) -> str:
    """The question with its paragraphs, less those whose places are in `dropped`."""
    kept = ["".join(s) for i, s in enumerate(row["context"]["sentences"]) if i not in dropped]
    paragraphs = "\n\n".join(f"Paragraph {i}\n{text.strip()}" for i, text in enumerate(kept, 1))
    return f"{row['question']}\n\n{INSTRUCTION}\n\n{paragraphs}"


def removed(row: Mapping, case: int, rng: np.random.Generator) -> set[int]:
    """Places of the two paragraphs that a case removes."""
    supporting = set(row["supporting_facts"]["title"])
    support = [i for i, title in enumerate(row["context"]["title"]) if title in supporting]
    other = [i for i in range(len(row["context"]["title"])) if i not in support]
    return {int(i) for i in (*rng.permutation(support)[:case], *rng.permutation(other)[: 2 - case])}


def _usable(row: Mapping) -> bool:
    titles, supporting = list(row["context"]["title"]), set(row["supporting_facts"]["title"])
    return len(titles) == len(set(titles)) == 10 and len(supporting) == 2 and supporting <= set(titles)


def modified(rows: Iterable[Mapping], seed: int) -> Iterator[dict]:
    """Raw rows with two paragraphs removed, by the case that `seed` draws for each."""
    rng = np.random.default_rng([seed, 2018])
    for row in rows:
        if not _usable(row):
            continue
        case = int(rng.choice(CASES))
        text = problem(row, removed(row, case, rng))
        if len(text) < LIMIT:
            yield {"problem": text, "answer": row["answer"], "source": "hotpot", "gold_removed": case}


def whole(rows: Iterable[Mapping], seed: int) -> Iterator[dict]:
    """Raw rows with all their paragraphs (the "vanilla" set), by the same limit."""
    for row in rows:
        text = problem(row, set())
        if len(text) < LIMIT:
            yield {"problem": text, "answer": row["answer"], "source": "hotpot"}

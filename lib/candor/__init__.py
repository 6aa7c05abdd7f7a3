"""Candor: six published claims about RLHF and overconfidence, replicated."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

# jsonschema takes 1.3 s longer to import where it finds this optional checker of addresses, and every job, notebook and
# call of Snakemake is a process.
sys.modules.setdefault("rfc3987_syntax", None)

if TYPE_CHECKING:
    from candor.core.step import Result

__version__ = "0.1.0"


def step(key: str, seed: int = 11, scale: str = "laptop") -> Result:
    """The finished step, loaded where it is there and fresh, else made here and now, with a progress bar.

    What it needs is made first. Raises `CandorError` in one sentence for an unknown step or scale, a seed that is not
    a whole number, a full disk, a training that diverged.

    >>> step("witnesses/expert/rlcr", seed=11).table("log")  # doctest: +SKIP
    """
    from candor.core import step as steps
    from candor.core.errors import CandorError
    from candor.run import plan as graph
    from candor.run import steps as experiments

    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= 1_000_000:
        raise CandorError(f"A seed is a whole number from 0 to 1000000, such as 11, not {seed!r}.")
    settings, known = graph.plan(scale).config, experiments.steps()
    graph.check_keys([key])
    needed = {key}
    for name in reversed(known):  # what a step needs comes before it
        needed |= {*known[name].needs} if name in needed else set()
    for name in filter(needed.__contains__, known):
        wanted = steps.fingerprint(known[name], seed, known, settings)
        if steps.state(name, seed, scale, wanted) == "done":
            continue
        from tqdm.auto import tqdm

        with tqdm(total=1, desc=f"{name}, seed {seed}") as bar:

            def progress(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            steps.run(name, seed, known, settings, progress=progress)
    return steps.read(key, seed, scale)

"""How long a replication still takes: the graph's jobs with what each should take, on so many cores.

What they should take was measured in other runs; what this run has really taken so far corrects it.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import mean

from candor.core.errors import CandorError
from candor.run import plan as graph
from candor.run import steps as experiments

LIVE_SECONDS = 20  # a notebook trains live for so long at most at laptop scale, and not at all at smoke scale
DOUBT = 5.0, 0.01  # seconds, and share of the whole, that count as taken as expected before anything was measured
SURE = 0.2  # from this share on, what is done of a step tells how long it takes


@dataclass(frozen=True)
class Job:
    """A job of the graph, as the simulation knows it."""

    name: str
    rule: str
    seconds: float
    needs: tuple[str, ...]
    priority: int = 0


def jobs(plan: graph.Plan, seconds: Mapping[str, Mapping[str, float]], rates: Mapping[str, float]) -> dict[str, Job]:
    """The graph of the Snakefile, by name.

    `seconds` holds what a step took, by key and seed; `rates` the mean seconds of a job of each other rule, and, under
    `steps`, what a batch costs beside its steps. Raises `CandorError` for a step whose seconds are unknown.
    """
    batches, found = plan.batches(), []
    for (name, seed), batch in batches.items():
        try:
            taken = sum(seconds[key][str(seed)] for key in batch.keys)
        except KeyError as error:
            raise CandorError(
                f"The reference run has no seconds for {error.args[0]} of {name}: run that first."
            ) from None
        needs = tuple(f"{need}, seed {seed}" for need in batch.needs)
        # The priority is that of the Snakefile.
        found.append(Job(f"{name}, seed {seed}", "steps", rates["steps"] + taken, needs, 1000 - batch.rank))
    for claim in plan.claims:
        keys = set(plan.keys(claim))
        needs = tuple(f"{name}, seed {seed}" for (name, seed), batch in batches.items() if keys & set(batch.keys))
        found.append(Job(f"tables of {claim}", "tables", rates["tables"], needs))
        if plan.shown:
            found.append(Job(f"figures of {claim}", "figures", rates["figures"], (f"tables of {claim}",)))
    found.append(Job("ledger", "ledger", rates["ledger"], tuple(f"tables of {claim}" for claim in plan.claims)))
    shown = [f"notebook {path.stem}" for path in graph.notebooks(plan.claims) if plan.shown]
    live = 0 if plan.scale == "smoke" else LIVE_SECONDS
    found += [Job(name, "notebook", rates["notebook"] + live, ("ledger",)) for name in shown]
    made = ("ledger", *shown, *(f"figures of {claim}" for claim in plan.claims if plan.shown))
    found.append(Job("report", "report", rates["report"], made))
    return {job.name: job for job in found}


def makespan(known: Mapping[str, Job], cores: int) -> float:
    """Seconds from the first start to the last end, when a free core takes the ready job of the highest priority."""
    waits = {name: len(job.needs) for name, job in known.items()}
    after = defaultdict(list)
    for job in known.values():
        for need in job.needs:
            after[need].append(job.name)
    ready = [(-known[name].priority, name) for name, count in waits.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < cores:
            name = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + known[name].seconds, name))
        now, name = heapq.heappop(running)
        for following in after[name]:
            waits[following] -= 1
            if not waits[following]:
                heapq.heappush(ready, (-known[following].priority, following))
    return now


def expected_seconds(plan: graph.Plan) -> dict[str, dict[str, float]]:
    """What every step should take, by key and seed.

    That is what it took in a measured run, of the same settings if there is one; what `candor cost` counts for a step
    of pretrained models on one H100; and what such steps take on average for a step that was never measured.
    """
    from candor.run import cost

    known, found, counted = experiments.steps(), {}, {}
    if "models" in plan.config["evidence"]:
        with suppress(CandorError):  # of a model whose shape is not known
            every = cost.runs(plan, cost.rate())
            counted = every[every["models"]].groupby("key")["seconds"].first().clip(lower=1.0).to_dict()
    for key, seed in plan.runs():
        found.setdefault(key, {})[str(seed)] = counted.get(key) or cost.usual_seconds(key, plan.config)
    for trains in (True, False):
        alike = [times for key, times in found.items() if known[key].trains is trains]
        usual = mean([took for times in alike for took in times.values() if took is not None] or [1.0])
        for times in alike:
            times |= {seed: usual for seed, took in times.items() if took is None}
    return found


@dataclass
class Estimate:
    """How long some jobs still take. A job has parts: `parts` holds the seconds that each should take.

    A part is a step, as (key, seed), or the name of its job: what the process takes beside its steps. `doing` says for
    a part at work how long it has been so, and the share of it that is done (0: unknown).
    """

    chart: dict[str, Job]
    parts: Mapping[str, Mapping[Hashable, float]]
    cores: int
    begun: dict[str, float] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    taken: dict[Hashable, float] = field(default_factory=dict)
    doing: dict[Hashable, tuple[float, float]] = field(default_factory=dict)

    def speeds(self) -> dict[bool, float]:
        """How many times as long as expected steps take (False), and what is a process of its own (True).

        Counted is what is finished, late, or says how far it is. Imports suffer more than sums from a busy disk, so
        each kind has its own factor as soon as enough of it was measured.
        """
        expected = {part: seconds for those in self.parts.values() for part, seconds in those.items()}
        doubt = DOUBT[0] + DOUBT[1] * sum(expected.values())
        sums = {False: [0.0, 0.0], True: [0.0, 0.0]}
        late = {part: at for part, at in self.doing.items() if at[1] >= SURE or at[0] > expected[part]}
        for part, (seconds, share) in ({part: (took, 1.0) for part, took in self.taken.items()} | late).items():
            sums[isinstance(part, str)][0] += seconds
            sums[isinstance(part, str)][1] += expected[part] * (share if share >= SURE else 1)
        taken, wanted = map(sum, zip(*sums.values()))
        whole = (doubt + taken) / (doubt + wanted)
        return {kind: (doubt * whole + taken) / (doubt + wanted) for kind, (taken, wanted) in sums.items()}

    def rest(self, name: str, speeds: Mapping[bool, float]) -> float:
        """Seconds that a job still needs; a part at work never needs nothing, however late it is."""
        total = 0.0
        for part, seconds in self.parts[name].items() if name not in self.ended else ():
            spent, share = self.doing.get(part, (0.0, 0.0))
            if part not in self.taken:
                whole = spent / share if share >= SURE else seconds * speeds[isinstance(part, str)]
                total += max(whole - spent, spent / 10)
        return total

    def left(self) -> float:
        """Seconds until the last job ends."""
        speeds, chart = self.speeds(), {name: job for name, job in self.chart.items() if name not in self.ended}
        return makespan(
            {
                name: replace(
                    job,
                    seconds=self.rest(name, speeds),
                    needs=() if name in self.begun else tuple(need for need in job.needs if need in chart),
                    priority=job.priority + 10**6 * (name in self.begun),
                )
                for name, job in chart.items()
            },
            self.cores,
        )

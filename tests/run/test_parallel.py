"""The simulation of the graph on several cores: what waits for what, and how long that takes."""

import importlib.util
import json
import sys

import pytest
from candor import claims
from candor.core.settings import ROOT
from candor.run import plan as graph


@pytest.fixture(scope="module")
def parallel():
    spec = importlib.util.spec_from_file_location("parallel", ROOT / "benchmarks" / "parallel.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for itself
    spec.loader.exec_module(module)
    return module


def chart(parallel, *rows):
    return {name: parallel.Job(name, "steps", seconds, needs, first) for name, seconds, needs, first in rows}


def test_a_chain_takes_as_long_with_any_cores(parallel):
    known = chart(parallel, ("a", 3.0, (), 0), ("b", 5.0, ("a",), 0), ("c", 7.0, ("a", "b"), 0), ("d", 4.0, ("a",), 0))
    assert [job.name for job in parallel.critical_path(known)] == ["a", "b", "c"]
    assert [parallel.makespan(known, cores) for cores in (1, 2, 9)] == [19, 15, 15]


def test_the_highest_priority_starts_first(parallel):
    late = chart(parallel, ("x", 4.0, (), 2), ("y", 4.0, (), 1), ("long", 8.0, (), 0))
    early = chart(parallel, ("x", 4.0, (), 0), ("y", 4.0, (), 0), ("long", 8.0, (), 1))
    assert (parallel.makespan(late, 2), parallel.makespan(early, 2)) == (12, 8)


def test_the_simulated_graph_is_that_of_the_plan(parallel):
    plan, kept = graph.plan("laptop"), json.loads((ROOT / "benchmarks" / "parallel.json").read_text())
    taken = json.loads((graph.REFERENCE / "provenance.json").read_text())["seconds"]
    known = parallel.jobs(plan, taken, kept["rates"])
    batches = [job for job in known.values() if job.rule == "steps"]
    assert len(batches) == len(plan.batches())
    made = sum(job.seconds for job in batches) - len(batches) * kept["rates"]["steps"]
    assert made == pytest.approx(sum(taken[key][str(seed)] for key, seed in plan.runs()))
    [last] = set(known) - {need for job in known.values() for need in job.needs}
    assert last == "report"
    # Nothing that was put into the graph since makes it wait for itself: 16 cores are used.
    work = sum(job.seconds for job in known.values())
    assert work / parallel.makespan(known, 16) > 12
    assert set(kept["predicted"]) == {"all", *claims.NAMES}


def test_phases_are_read_from_the_log_of_snakemake(parallel):
    log = """
[Wed Nov 25 01:46:47 2026]
localrule steps:
    output: a.json
[Wed Nov 25 01:46:50 2026]
rule steps:
    output: b.json
[Wed Nov 25 01:46:56 2026]
Finished jobid: 13 (Rule: steps)
1 of 38 steps (3%) done
[Wed Nov 25 01:47:02 2026]
Finished jobid: 14 (Rule: steps)
[Wed Nov 25 01:47:02 2026]
localrule report:
[Wed Nov 25 01:48:02 2026]
Finished jobid: 1 (Rule: report)
[Wed Nov 25 01:48:02 2026]
Finished jobid: 0 (Rule: all)
"""
    assert parallel.phases(log) == {
        "steps": {"jobs": 2, "from": 0, "to": 15},
        "report": {"jobs": 1, "from": 15, "to": 75},
    }

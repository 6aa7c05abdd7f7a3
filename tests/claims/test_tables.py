"""Tables that rest on no run are those of the committed reference: what was printed, what follows without training."""

import pandas as pd
import pytest
from candor import claims
from candor.run import evidence
from candor.run import plan as graph
from candor.run import steps as experiments


@pytest.mark.parametrize("part", ["published", "theory"])
@pytest.mark.parametrize("name", claims.NAMES)
def test_tables_without_a_run_are_the_committed_ones(name, part, tmp_path):
    tables, kept = claims.load(name).tables, evidence.read_tables(graph.REFERENCE / name)
    made = tables.published(graph.PUBLISHED) if part == "published" else tables.theory()
    evidence.write_tables(made, tmp_path)
    found = evidence.read_tables(tmp_path)
    assert found and list(found) == sorted(made)
    for table, frame in found.items():
        pd.testing.assert_frame_equal(frame, kept[table], rtol=1e-4, atol=1e-7, obj=f"{name}: {table}")


@pytest.mark.parametrize("name", [*claims.NAMES, *claims.STUDIES])
def test_steps_that_tables_need_are_named_once_and_each_after_what_it_needs(name):
    tables, steps = claims.load(name).tables, experiments.steps()
    place = {key: k for k, key in enumerate(tables.NEEDS)}
    assert len(place) == len(tables.NEEDS) and set(tables.DECISIVE) <= set(place) <= set(steps)
    for key in place:
        assert all(place.get(need, -1) < place[key] for need in steps[key].needs), key

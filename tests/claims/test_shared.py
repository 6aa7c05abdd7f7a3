"""What claims 1 and 5 make of finished steps: means over seeds weighted by items, counts added up, what is absent."""

import pandas as pd
import pytest
from candor.claims import shared


class Finished:
    """Two seeds of one setting; `missing` tables have not been computed."""

    def __init__(self, *missing):
        self.missing = missing

    def collect(self, setting, arms, table):
        if table in self.missing:
            return pd.DataFrame()
        columns = {"setting": setting, "seed": [11, 12], "kind": "q_mean", "n": [1, 3], "bin_low": 0.0, "bin_high": 0.1}
        columns |= {"mean_confidence": [0.2, 0.4], "accuracy": 0.5, "floor_low": 0.1, "floor_high": 0.9, "step": 5}
        columns |= {"posterior_bin": 0.5, "value_bin": [0.1, 0.1], "gap": [0.1, 0.3], "unused": 0}
        return pd.concat([pd.DataFrame(columns).assign(arm=arm) for arm in arms], ignore_index=True)

    def log(self, setting, arms):
        logs = [pd.DataFrame({"step": [5, 5], "reward": [0.2, 0.6], "loss": 0.0}).assign(arm=arm) for arm in arms]
        return shared.stack(frame.assign(setting=setting, seed=[11, 12]) for frame in logs)


def made(*missing):
    groups, shown = [{"expert": ("base", "rlvr")}, {"naive": ("rlcr",)}], {"expert": ("base",)}
    return shared.world_tables(Finished(*missing), groups, shown, {"expert": ("rlvr",)}, ["gap"])


def test_tables_over_seeds():
    tables = made()
    assert list(tables["summary"]["arm"]) == ["base", "base", "rlvr", "rlvr", "rlcr", "rlcr"]
    [pooled] = tables["reliability"].to_dict("records")
    assert pooled["mean_confidence"] == pytest.approx((0.2 + 3 * 0.4) / 4) and pooled["n"] == 4
    cell = {"setting": "expert", "arm": "base", "kind": "q_mean", "posterior_bin": 0.5, "value_bin": 0.1, "n": 4}
    assert tables["density"].to_dict("records") == [cell]
    assert list(tables["trajectory"]) == ["setting", "arm", "seed", "step", "gap"]
    log = tables["training"]
    assert list(log["arm"]) == ["rlvr", "rlcr"] and list(log) == ["setting", "arm", "step", "reward"]
    assert log["reward"].to_list() == pytest.approx([0.4, 0.4])


def test_what_has_not_been_computed_is_left_out():
    assert set(made("density", "trajectory")) == {"summary", "reliability", "training"}
    assert set(made("summary", "reliability")) == {"density", "trajectory", "training"}


def test_a_bin_without_items_has_no_mean():
    frame = pd.DataFrame({"bin": [0, 0, 1], "n": [0, 2, 0], "accuracy": [float("nan"), 0.5, float("nan")]})
    pooled = shared.pool(frame, ["bin"], ["accuracy"]).set_index("bin")
    assert pooled.accuracy[0] == 0.5 and pooled.accuracy.isna()[1] and pooled.n.to_list() == [2, 0]

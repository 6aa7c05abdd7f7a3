"""Two frames on the same outputs: agreement without ties, the slope on a cue, flags averaged instead of voted."""

import numpy as np
import pandas as pd
import pytest
from candor.claims.annotation_noise import two_frames
from candor.core.errors import CandorError


def judgements(preferences: dict[str, list[int]], swapped: bool = False) -> pd.DataFrame:
    rows = []
    for pair, sides in preferences.items():
        first, second = f"{pair}1", f"{pair}2"
        for side in sides:
            shown = (second, first, True, -side) if swapped else (first, second, False, side)
            rows.append((*shown, pair))
    return pd.DataFrame(rows, columns=["first", "second", "swapped", "preference", "pair"])


FLAGS = pd.DataFrame(
    [("o1", "low", 0, flag, 0) for flag in (1, 0, 0, 0)]
    + [("o2", "low", 0, 0, 1)]
    + [("o3", "low", 1, 1, 1)] * 2
    + [("o3", "low", 0, 1, 1)],
    columns=["output", "style", "refusal", "factuality", "inconsistent"],
)
ASSERTIVE = pd.Series({"x1": 3.0, "x2": 2.0, "y1": 3.0, "y2": 4.0})


def test_agreement_by_hand_and_whatever_the_order():
    quality = {"x": [1, 1, 1, -1, 0], "y": [1, 1, -1, -1, 1]}
    checklist = {"x": [1, 1, -1, 0, 0], "y": [-1, -1, 1, -1, -1], "z": [1]}
    for swapped in (False, True):
        judged = {"quality": judgements(quality), "checklist": judgements(checklist, swapped)}
        table = two_frames.recompute(judged, ASSERTIVE, FLAGS, 50).set_index(["condition", "metric"])["value"]
        agreement = table.xs("pairwise_sign_agreement_no_ties", level="metric")
        # x: 3 of 6, y: 4 of 10; then 1 of 3, 6 of 10; across 7 of 12, 3 + 8 of 25.
        assert agreement["within quality-only frame"] == pytest.approx(7 / 16)
        assert agreement["within error-checklist frame"] == pytest.approx(7 / 13)
        assert agreement["across the two frames (different people)"] == pytest.approx((7 + 11) / 37)
        cross = table.xs("cross_minus_within_agreement", level="metric").item()
        assert cross == pytest.approx(18 / 37 - (7 / 16 + 7 / 13) / 2)


def test_the_slope_is_that_of_the_judges():
    rng = np.random.default_rng(0)
    assertive = pd.Series({f"{k}{side}": rng.uniform(1, 5) for k in range(800) for side in (1, 2)})
    gap = assertive[[f"{k}1" for k in range(800)]].to_numpy() - assertive[[f"{k}2" for k in range(800)]].to_numpy()
    sides = {f"{k}": list(np.where(rng.random(5) < 1 / (1 + np.exp(-0.5 * gap[k])), 1, -1)) for k in range(800)}
    judged = {"quality": judgements(sides), "checklist": judgements(sides, swapped=True)}
    table = two_frames.recompute(judged, assertive, FLAGS, 50)
    slopes = table[table["metric"].str.startswith("logit_slope")]
    assert slopes["value"].tolist() == pytest.approx([0.5, 0.5], abs=0.06) and (slopes["n"] == 4000).all()
    assert (slopes["low"] < 0.5).all() and (slopes["high"] > 0.5).all()


def test_flags_are_averaged_over_outputs_that_are_no_refusals():
    sides = {"x": [1, 1, 1, 1, -1], "y": [1, -1, 1, 1, 1]}
    judged = {frame: judgements(sides) for frame in two_frames.FRAMES}
    table = two_frames.recompute(judged, ASSERTIVE, FLAGS, 10).set_index(["style", "metric"])
    assert table.loc[("low", "factuality_rate"), ["value", "n"]].tolist() == [12.5, 2]
    assert table.loc[("low", "inconsistency_rate"), "value"] == 50


def test_no_pair_with_five_judges_is_one_sentence():
    judged = {frame: judgements({"x": [1, -1]}) for frame in two_frames.FRAMES}
    with pytest.raises(CandorError, match="No pair of outputs has five judgements"):
        two_frames.recompute(judged, ASSERTIVE, FLAGS, 10)

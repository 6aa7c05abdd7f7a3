"""Readers of annotation data, on six hand-written rows in the schema of each source."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from candor.claims.annotation_noise import annotations
from candor.core.errors import CandorError

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    for name in annotations.NAMES:
        (tmp_path / name).mkdir()
        shutil.copy(FIXTURES / f"{name}.jsonl", tmp_path / name / "train.jsonl")
    return tmp_path


def test_dices_keeps_its_questions_and_its_times_where_it_has_them(corpora):
    small, large = annotations.dices("dices_350"), annotations.dices("dices_990")
    assert small["label"].tolist() == ["No", "Yes", "Yes", "Yes", "No", "Unsure"]
    assert small["seconds"].tolist() == [2, 20, 30, 1, 25, 35] and large["seconds"].isna().all()
    assert "Q5_political_affiliation" in small and "Q1_whole_conversation_evaluation" not in small
    assert len(large) == 6 and large["rater"].nunique() == 4


def test_prism_is_one_score_a_row(corpora):
    rows = annotations.prism()
    assert rows["score"].tolist() == [80, 35, 60, 75, 50, 50] and rows["chosen"].sum() == 3
    assert rows["rater"].nunique() == 2 and rows["item"].nunique() == 3


def test_votes_have_one_side_whatever_their_strength(corpora):
    votes = annotations.multipref()
    assert votes.loc[votes["pair"] == "cmp1", "vote"].tolist() == [1, 1, 1, 0.5]
    assert votes.loc[votes["pair"] == "cmp1", "confidence"].tolist() == [3, 2, 3, 0]
    assert votes["expert"].sum() == 12 and votes["seconds"].min() == 30
    assert annotations.helpsteer3().query("pair == 0")["vote"].tolist() == [1, 1, 1], "negative: the first is better"


def test_soft_and_hard_labels_of_pairs(corpora):
    pairs = annotations.preference_pairs("multipref")
    assert pairs["soft"].tolist() == [0.875, 0.375, 0, 0.5, 1, 0.625]
    assert np.isnan(pairs["hard"][3]) and pairs["hard"].dropna().tolist() == [1, 0, 0, 1, 1]
    assert pairs.loc[0, ["prompt", "a"]].tolist() == ["Name a river.", "The Seine."]
    steered = annotations.preference_pairs("helpsteer3")
    assert steered["soft"].tolist() == pytest.approx([1, 0, 0.5, 2 / 3, 0, 1 / 3])
    assert steered["prompt"][2] == "user: Say hello.\n\nassistant: Hello.\n\nuser: Again."


def test_a_person_who_uses_the_whole_scale_does_not_count_more(corpora):
    path = corpora / "prism" / "train.jsonl"
    [pair] = annotations.preference_pairs("prism").to_dict("records")
    assert pair["hard"] == 1 and 0.5 < pair["soft"] < 1, "equal scores make no pair"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    narrow = [row | {"score": 50 + (row["score"] - 50) / 5} for row in rows]
    path.write_text("\n".join(map(json.dumps, narrow)))
    assert annotations.preference_pairs("prism")["soft"].tolist() == pytest.approx([pair["soft"]])


def test_two_rows_are_a_judgement_and_distractors_are_left_out(corpora):
    quality = annotations.hosking_judgements("quality")
    assert quality["preference"].tolist() == [-1, 1] and quality["swapped"].tolist() == [False, True]
    assert quality["pair"].nunique() == 1, "one pair, shown in both orders"
    assert annotations.hosking_judgements("checklist")["preference"].tolist() == [0, 1]
    flags = annotations.hosking_flags()
    assert flags.groupby("style")["factuality"].mean().to_dict() == {"assertiveness_high": 0, "assertiveness_low": 0.5}
    assert annotations.hosking_assertiveness().tolist() == [2.5, 4.5]


def test_what_is_missing_or_foreign_is_one_sentence(corpora):
    (corpora / "prism" / "train.jsonl").write_text('{"score": 1}\n')
    with pytest.raises(CandorError, match="Rows of prism have no 'interaction_id'"):
        annotations.prism()
    (corpora / "multipref" / "train.jsonl").unlink()
    with pytest.raises(CandorError, match="run `python -m candor fetch multipref`"):
        annotations.multipref()
    (corpora / "multipref" / "train.jsonl").write_text("{")
    with pytest.raises(CandorError, match="cannot be read"):
        annotations.multipref()
    lines = (corpora / "dices_350" / "train.jsonl").read_text()
    (corpora / "dices_350" / "train.jsonl").write_text(lines.replace('"Q_overall": "Unsure"', '"Q_overall": "Maybe"'))
    with pytest.raises(CandorError, match="has the answer 'Maybe'"):
        annotations.dices("dices_350")
    rows = (corpora / "hosking_errors" / "train.jsonl").read_text().splitlines()
    (corpora / "hosking_errors" / "train.jsonl").write_text("\n".join(rows[:3]))
    with pytest.raises(CandorError, match="do not come in pairs"):
        annotations.hosking_judgements("checklist")

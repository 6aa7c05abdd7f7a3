"""Data sets: the seeded preparation, what each source's rows become, and sentences where something is missing."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from candor.core.errors import CandorError
from candor.language_models import hotpot, sets

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    return tmp_path


def put(corpora, name, rows, split="test"):
    (corpora / name).mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(corpora / name / f"{split}.parquet")


def raw_row(i: int, paragraph: str = "Fact {} of question {}. ") -> dict:
    titles = [f"Title {i} {k}" for k in range(10)]
    return {
        "question": f"Question {i}?",
        "answer": f"answer {i}",
        "supporting_facts": {"title": [titles[2], titles[7], titles[7]], "sent_id": [0, 0, 1]},
        "context": {"title": titles, "sentences": [[paragraph.format(k, i), "More."] for k in range(10)]},
    }


# --- HotpotQA-Modified ------------------------------------------------------------------------------


def test_all_three_cases_leave_eight_paragraphs():
    rows = list(hotpot.modified([raw_row(i) for i in range(300)], seed=1))
    assert len(rows) == 300
    share = Counter(row["gold_removed"] for row in rows)
    assert set(share) == {0, 1, 2} and min(share.values()) > 70, "the cases are drawn uniformly"
    for i, row in enumerate(rows):
        supporting = sum(f"Fact {k} of question {i}." in row["problem"] for k in (2, 7))
        assert supporting == 2 - row["gold_removed"]
        assert row["problem"].count("Fact ") == row["problem"].count("Paragraph ") == 8
        assert row["problem"].startswith(f"Question {i}?") and row["answer"] == f"answer {i}"


def test_the_seed_decides_what_is_removed():
    raw = [raw_row(i) for i in range(40)]
    first, again, other = (list(hotpot.modified(raw, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_long_and_odd_rows_are_left_out():
    long, odd, doubled = raw_row(1, "x" * 900), raw_row(2), raw_row(3)
    odd["context"]["title"] = odd["context"]["title"][:9]
    doubled["supporting_facts"]["title"] = ["elsewhere", doubled["context"]["title"][0]]
    kept = list(hotpot.modified([long, odd, doubled, raw_row(4)], seed=1))
    assert [row["answer"] for row in kept] == ["answer 4"]
    assert all(len(row["problem"]) < hotpot.LIMIT for row in kept)


def test_vanilla_keeps_every_paragraph(corpora):
    put(corpora, "hotpot_vanilla", [raw_row(i) for i in range(3)])
    questions = sets.prompts("hotpot_vanilla")
    assert all(problem.count("Fact ") == 10 for problem in questions["problem"])
    assert set(questions["gold_removed"]) == {-1}


# --- The interface ----------------------------------------------------------------------------------


def test_prompts_of_prepared_rows(corpora):
    (corpora / "hotpot_modified").mkdir()
    shutil.copy(FIXTURES / "rows.jsonl", corpora / "hotpot_modified" / "train.jsonl")
    questions = sets.prompts("hotpot_modified", "train", seed=3, n=5)
    assert len(questions) == 5
    assert questions["prompt"] == sets.prompts("hotpot_modified", "train", seed=3, n=5)["prompt"]
    assert questions["prompt"] != sets.prompts("hotpot_modified", "train", seed=4, n=5)["prompt"]
    row = questions[0]
    assert row["problem"] in row["prompt"] and "<confidence>" in row["prompt"]
    assert row["grader"] == "exact" and isinstance(row["answer"], list)
    only_answer = sets.prompts("hotpot_modified", "train", seed=3, form="answer")
    assert not [prompt for prompt in only_answer["prompt"] if "confidence" in prompt]
    assert len(only_answer) == 8


def test_raw_rows_are_prepared_by_the_seed(corpora):
    put(corpora, "hotpot_modified", [raw_row(i) for i in range(30)], "train")
    first, other = (sets.prompts("hotpot_modified", "train", seed=seed) for seed in (1, 2))
    assert set(first["gold_removed"]) == {0, 1, 2}
    assert sorted(first["problem"]) != sorted(other["problem"])


def test_big_math_keeps_short_numbers_that_some_solve(corpora):
    (corpora / "big_math_digits").mkdir()
    shutil.copy(FIXTURES / "math.jsonl", corpora / "big_math_digits" / "train.jsonl")
    questions = sets.prompts("big_math_digits", "train")
    assert sorted(answer for [answer] in questions["answer"]) == ["-2", "2.5", "56"]
    assert set(questions["grader"]) == {"math"}


SOURCES = {
    "trivia_qa": [
        {"question": "Capital?", "answer": {"value": "Paris", "aliases": ["Paris", "Paname"]}},
        {"question": "Many names?", "answer": {"value": "a", "aliases": list("abcdef")}},
    ],
    "simple_qa": [{"metadata": "{}", "problem": "Capital?", "answer": "Paris"}],
    "math_500": [{"problem": "1/2?", "answer": r"\frac{1}{2}", "solution": "..."}],
    "gsm8k": [{"question": "Sum?", "answer": "It is 1 + 1,071 = 1,072.\n#### 1,072"}],
    "commonsense_qa": [
        {
            "question": "Where?",
            "choices": {"label": list("ABCDE"), "text": ["sea", "hill", "town", "sky", "bed"]},
            "answerKey": "C",
        }
    ],
}


@pytest.mark.parametrize(
    ("name", "said", "wrong"),
    [
        ("trivia_qa", "Paname", "Rome"),
        ("simple_qa", "paris", "Rome"),
        ("math_500", "0.5", "0.2"),
        ("gsm8k", "1072", "1071"),
        ("commonsense_qa", "C) town", "A"),
    ],
)
def test_what_each_source_becomes(corpora, name, said, wrong):
    from candor.language_models.text import grade_leniently

    put(corpora, name, SOURCES[name])
    questions = sets.prompts(name)
    assert len(questions) == 1
    for answer, right in ((said, True), (wrong, False)):
        completion = f"<answer> {answer} </answer> <confidence> 70 </confidence>"
        graded = grade_leniently([completion], questions["answer"], questions["grader"])
        assert (graded["correct"][0], graded["confidence"][0]) == (right, 0.7)


def test_options_of_gpqa_are_shuffled_by_the_seed(corpora):
    row = {"Question": "Which?", "Correct Answer": "right"}
    row |= {f"Incorrect Answer {k}": f"wrong {k}" for k in (1, 2, 3)}
    put(corpora, "gpqa", [row] * 40)
    questions = sets.prompts("gpqa")
    letters = Counter(answer[0] for answer in questions["answer"])
    assert set(letters) == set("ABCD")
    assert all(f"{letter}) right" in problem for (letter, _), problem in zip(questions["answer"], questions["problem"]))


# --- What is missing or broken ----------------------------------------------------------------------


def sentence(*arguments) -> str:
    with pytest.raises(CandorError) as caught:
        sets.prompts(*arguments)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_a_set_that_was_not_fetched(corpora):
    assert "python -m candor fetch gpqa" in sentence("gpqa")
    assert sets.missing("gpqa", "test")


def test_broken_and_foreign_files(corpora):
    (corpora / "gpqa").mkdir()
    (corpora / "gpqa" / "test.parquet").write_bytes(b"PAR1 cut off")
    assert "cannot be read" in sentence("gpqa")
    put(corpora, "gsm8k", [{"text": "of another set"}])
    assert "'question'" in sentence("gsm8k") and "datasets.gsm8k" in sentence("gsm8k")
    put(corpora, "big_math_digits", [{"problem": "p", "answer": "not a number", "llama8b_solve_rate": 0.5}])
    assert "No row" in sentence("big_math_digits")


def test_every_set_of_the_schema_is_known():
    from candor.core.settings import load

    assert set(load("laptop").models.datasets) == set(sets.SETS)
    for name in ("gpu", "paper"):
        assert set(sets.HUB) & set(load(name).models.datasets.values())


def test_fixture_rows_have_the_schema_of_the_released_set():
    rows = [json.loads(line) for line in (FIXTURES / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 8 and {"problem", "answer", "source", "gold_removed"} == set().union(*rows)
    assert np.unique([row["gold_removed"] for row in rows]).tolist() == [0, 1, 2]

"""Stories: rows, truncation, quotes, unfinished answers, what an evaluator reads, the reward's finishing rule."""

import json
from pathlib import Path

import numpy as np
import pytest
from candor.claims.sophistry import stories
from candor.core.errors import CandorError

ROWS = [
    json.loads(line) for line in (Path(__file__).parents[2] / "fixtures" / "quality.jsonl").read_text().splitlines()
]


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    write(tmp_path, train=ROWS[:5], test=ROWS[5:])
    return tmp_path


def write(folder: Path, **splits) -> None:
    (folder / "quality").mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / "quality" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


class Words:
    """A tokenizer whose tokens are words."""

    eos_token_id = 0

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": text.split()}

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(ids)


def test_rows_become_questions_with_the_best_distractor(corpora):
    found = {q.id: q for q in stories.questions("train")}
    first = found["50000_X_1"]
    assert (first.gold, first.distractor) == ("Under a stone of the wall", "In the bowl of pears")
    assert 100 <= len(first.story.split()) <= 140 and "<p>" not in first.story and first.licence
    assert first.options(True) == (first.gold, first.distractor) == first.options(False)[::-1]
    assert [q.id for q in stories.questions("train", 1, 2)] == [q.id for q in stories.questions("train", 1)][:2]
    # Of three validators who disagree the seed decides, and never for the right option.
    tied = {next(q.distractor for q in stories.questions("test", s) if q.id == "50006_X_1") for s in range(12)}
    assert len(tied) == 3 and "It was her father's colour" not in tied


def test_an_article_with_its_questions_is_read_too(corpora):
    before = stories.questions("train", 1)
    parts = ("question", "question_unique_id", "options", "gold_label", "validation")
    nested = [{**row, "questions": json.dumps([{name: row[name] for name in parts}])} for row in ROWS[:5]]
    write(corpora, train=nested)
    assert stories.questions("train", 1) == before


def test_foreign_rows_are_one_sentence(corpora):
    write(corpora, train=[{"question": "?"}])
    with pytest.raises(CandorError, match=r"story_data\.quality"):
        stories.questions("train")


def test_the_four_cells_differ_in_the_story_alone(corpora):
    question = stories.questions("train")[0]
    full, cut = (stories.prompt(question, True, Words(), tokens) for tokens in (None, 30))
    start = " ".join(question.story.split()[:30])
    assert question.story in full and question.story not in cut and f"Story:\n{start}\n\nQuestion" in cut
    assert full.split("\n\nQuestion")[1] == cut.split("\n\nQuestion")[1] and full.startswith(stories.SYSTEM)
    blind, sighted = (stories.judged(question, True, "Because. ANSWER: A", story) for story in ("", question.story))
    assert sighted == f"Story:\n{question.story}\n\n{blind}"


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        ("So it is.\nANSWER: A", "A"),
        ("ANSWER: B.\n", "B"),
        ("ANSWER: A\nNo. ANSWER: B", "B"),
        ("**ANSWER: B**", "B"),
        ("**ANSWER:** (B).", "B"),
        (r"ANSWER: $\boxed{\text{B}}$", "B"),
        ("Answer: Option A", "A"),
        ("ANSWER: A or B", None),
        ("ANSWER: A because it", None),
        ("The answer is A", None),
        ("ANSWER: C", None),
        ("ANSWER:", None),
        ("", None),
    ],
)
def test_an_unfinished_answer_is_none(said, letter):
    assert stories.answer(said) == letter


def test_quotes_are_marked_for_everybody(corpora):
    question = stories.questions("train")[0]
    true = " ".join(question.story.split()[5:9])
    said = f"<quote>{true.upper()}</quote> and <quote>the moon is cheese</quote> <quote></quote>"
    assert stories.quotes(said, question.story) == [true.upper()]
    shown = stories.judged(question, False, said, "")
    assert f"<v_quote>{true.upper()}</v_quote>" in shown and "<u_quote>the moon" in shown and "<quote>" not in shown


def test_an_evaluator_reads_around_quotes_first_then_from_the_start():
    story = " ".join(f"w{i}" for i in range(1000))
    plain = stories.read_in_time(story, "no quote", 100)
    assert plain == " ".join(f"w{i}" for i in range(100))
    read = stories.read_in_time(story, "<quote>w500 w501</quote> <quote>invented</quote>", 100).split()
    assert "w500" in read and "w0" in read and "w999" not in read and read.count("...") == 1
    assert len(read) == 101 and stories.read_in_time("short story", "", 100) == "short story"


def test_the_oracles_reward_and_its_null(corpora):
    question = stories.questions("train")[0]
    asked = [json.dumps(vars(question))] * 8
    said = ["ANSWER: A", "ANSWER: B", "ANSWER: A", "unfinished"] * 2
    columns = {"completions": said, "asked": asked, "first": [True] * 4 + [False] * 4}
    recipe = {"cell": stories.ORACLE, "seed": 11}
    [term], _ = stories.of_arm("rl", recipe)
    rewards = term(**columns)
    assert rewards == [1.0, 0.0, 1.0, -1.0, 0.0, 1.0, 0.0, -1.0]
    [null], _ = stories.of_arm("shuffled", recipe)
    drawn = np.array([null(**columns) for _ in range(20)])
    assert (drawn[:, :4].sum(1) == 1).all() and (drawn[:, 4:].sum(1) == 0).all() and len(np.unique(drawn, axis=0)) > 1

"""Strict and lenient parsing on what models really write, and the graders."""

import math

import pytest
from candor.core.errors import CandorError
from candor.language_models import formulas, rewards, text
from hypothesis import given
from hypothesis import strategies as st

WHOLE = "so </think> <answer> The Seine </answer> <analysis> maybe </analysis> <confidence> {} </confidence>"
WEIGHTS = {"format_weight": 0.5, "accuracy_weight": 0.5, "brier_weight": 0.5}


def test_a_whole_document_is_read():
    assert text.parse("<think> a" + WHOLE.format("0.8") + " \n") == ("The Seine", 0.8)
    assert text.parse("no opening tag " + WHOLE.format(".25")) == ("The Seine", 0.25)


@pytest.mark.parametrize("number", ["0", "1", "0.", ".5", "1e-2", "1.0"])
def test_plain_numbers_are_confidences(number):
    assert text.parse(WHOLE.format(number))[1] == float(number)


@pytest.mark.parametrize(
    "number",
    [
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e999",
        "80%",
        "80",
        "1.01",
        "-0.1",
        "+0.5",
        "high",
        "",
        "0_5",
        "0,5",
        "0.5 0.6",
        "½",
    ],
)
def test_anything_else_is_malformed(number):
    assert text.parse(WHOLE.format(number)) is None


GOOD = WHOLE.format("0.9")


@pytest.mark.parametrize(
    "completion",
    [
        "",
        GOOD + " and more",
        GOOD + "<confidence> 0.1 </confidence>",
        "<confidence> 0.1 </confidence>" + GOOD.split("<confidence>")[0],
        GOOD.replace("</think>", ""),
        GOOD.replace("<analysis>", "").replace("</analysis>", ""),
        GOOD.replace("</confidence>", ""),
        GOOD.replace("maybe", "<answer> Rhine </answer>"),
        GOOD.replace("<answer> The Seine </answer>", "<answer> Rhine </answer> <answer> The Seine </answer>"),
        GOOD.replace("</answer> <analysis>", "</answer> well <analysis>"),
        "</think> <analysis> maybe </analysis> <answer> The Seine </answer> <confidence> 0.9 </confidence>",
    ],
)
def test_disorder_is_malformed(completion):
    assert text.parse(completion) is None


def test_earlier_tags_inside_the_thinking_do_not_matter():
    assert text.parse("<answer> Rhine </answer> <confidence> 0.1 </confidence>" + GOOD) == ("The Seine", 0.9)


def test_a_whole_answer_is_think_and_answer_only():
    assert text.parse("</think> <answer> x </answer>", "answer") == ("x", None)
    assert text.parse(GOOD, "answer") is None
    assert text.parse("<answer> x </answer>", "answer") is None


def test_a_long_malformed_completion_is_read_quickly():
    completion = "</think> <answer> a </answer> <analysis> " + "word < " * 20_000
    assert text.parse(completion) is None and text.last_tag(completion, "confidence") is None


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("0.7", 0.7),
        ("85", 0.85),
        ("85%", 0.85),
        ("about 85 percent, or 90", 0.85),
        ("1", 1.0),
        ("1%", 1.0),
        ("100", 1.0),
        ("0", 0.0),
        ("101", 0.0),
        ("-5", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("1e999", 0.0),
        ("none", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_lenient_confidence(reply, value):
    assert text.read_confidence(reply) == pytest.approx(value)


def test_lenient_grading_takes_the_last_tag_and_strict_grading_does_not():
    twice = GOOD + "<answer> Rhine </answer> <confidence> 20 </confidence>"
    lenient = text.grade_leniently([twice], [["Rhine"]], ["exact"]).iloc[0]
    assert (lenient["answer"], lenient["confidence"], lenient["correct"]) == ("Rhine", 0.2, True)
    strict = text.grade([twice], [["Rhine"]], ["exact"]).iloc[0]
    assert (strict["answer"], strict["correct"], strict["well_formed"]) == ("", False, False)
    assert math.isnan(strict["confidence"])


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        ("The Seine!", ["Seine"], True),
        ("a seine river", ["Seine"], False),
        ("J.R.R. Tolkien", ["Someone", "JRR Tolkien"], True),
        ("", ["the"], False),
        ("The", ["a"], False),
        ("A", ["A"], True),
        ("the", ["The"], True),
        ("+", ["+"], True),
        ("!", ["?"], False),
        ("", [""], False),
    ],
)
def test_exact_match(answer, accepted, right):
    assert text.exact(answer, accepted) is right


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("72", "72", True),
        ("$72$", "72", True),
        ("1,000", "1000", True),
        ("0.5", r"\frac{1}{2}", True),
        (r"\frac{1}{2}", r"\frac{1}{2}", True),
        (r"\boxed{\frac{2}{4}}", "0.5", True),
        ("p-q", "p - q", True),
        (r"\frac{1}{2}", "2", False),
        ("71", "72", False),
        ("", "72", False),
        ("not a number }{", "72", False),
        (r"The answer is \boxed{8}.", "8", True),
        ("So the answer is 8 (see step 2)", "8", True),
        ("So the answer is 8 (see step 2)", "2", False),
        ("8 apples", "8", True),
        ("8%", "8", True),
        ("eight", "8", True),
        ("1 000", "1,000", True),
        ("1.000,5", "1000.5", True),
        ("1,00,000", "100000", True),
        ("−8", "-8", True),
        ("0.333333", r"\frac{1}{3}", True),
        ("x = 8", "8", True),
        ("8x", "8", False),
        ("8 or 9", "8", False),
        ("(1,2)", "(1, 2)", True),
        ("(1,2)", "1.2", False),
        (r"\text{(B)}", "B", True),
        ("1" * 5000, "1" * 5000, True),
        ("1" * 5000, "2", False),
        ("x^" * 5000, "2", False),
    ],
)
def test_mathematical_equality(answer, gold, right):
    assert text.mathematical(answer, [gold]) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("A", True),
        ("(a)", True),
        ("Option A", True),
        ("A) black bird", True),
        ("the black bird", True),
        ("B", False),
        ("B) black bird", False),
        ("A cat", False),
        ("", False),
        ("The correct answer is A) black bird.", True),
        ("the answer is (A) because C is wrong", True),
        (r"$\boxed{\text{A}}$", True),
        ("Answer: A", True),
        ("A) river", False),
        ("A or B", False),
    ],
)
def test_choices(answer, right):
    assert text.choice(answer, ["A", "black bird"]) is right


OPTIONS = {"A": "bank", "B": "river", "C": "river bank", "D": "black bird", "E": "coli"}


@pytest.mark.parametrize(
    ("letter", "answers"),
    [
        (
            "A",
            [
                "A",
                "a)",
                "A) bank",
                "bank",
                "a bank",
                "The answer is the bank.",
                "A because C is wrong",
                r"\boxed{\text{A}}",
            ],
        ),
        ("A", ["You would find it at a bank.", "Option A", "(A) bank, because it is no river", "A - bank"]),
        (
            "B",
            [
                "a river",
                "B) river",
                "B: river",
                "the answer is (B) because C is wrong",
                "B\nbecause of A",
                r"\boxed{river}",
            ],
        ),
        (
            "C",
            [
                "river bank",
                "The river bank!",
                "C. river bank is best since it is by the river",
                "I would say option C fits",
            ],
        ),
        ("D", ["D", "The correct answer is D) black bird.", "D. A black bird sings", "black bird"]),
        ("", ["", "none", "F", "A) river", "C) river", "not a bank", "bank or river", "A or B", "I don't know", "?"]),
    ],
)
def test_an_answer_names_an_option(letter, answers):
    assert [text.option(answer, OPTIONS) for answer in answers] == [letter] * len(answers)


@given(
    st.sampled_from("ABCDE"),
    st.sampled_from(["{0}", "({0})", "{0}) {1}", "{0}. {1}", "{1}", "The {1}.", "option {0}", "{0}: {1}"]),
    st.sampled_from(
        ["{}", "Answer: {}", "The answer is {}", r"\boxed{{{}}}", "**{}**", "So it is near. Final answer: **{}**"]
    ),
)
def test_an_option_is_read_back_from_every_wrapping(letter, form, cue):
    assert text.option(cue.format(form.format(letter, OPTIONS[letter])), OPTIONS) == letter


def test_options_are_listed_at_the_end_of_a_question():
    question = "Which?\nA. first remark\nB. second\nC) no\nA) bank (A)\nB) a\n  longer one\nC) last\n"
    assert text.options_of(question) == {"A": "bank (A)", "B": "a\n  longer one", "C": "last"}
    assert text.options_of("Which of them?") == {} and text.options_of("(A) x\n(B) y") == {"A": "x", "B": "y"}


@pytest.mark.parametrize(
    ("answers", "accepted", "grader", "same"),
    [
        (["1/2", "0.5", "7", r"\frac{1}{2}", "7.0"], ["1/2"], "math", "00101"),
        (["x^2 - 1", "(x-1)(x+1)", "y", "The answer is $y$."], ["2"], "math", "0011"),
        (["A", "A) bank", "bank", "B", "(b)"], ["A", "bank"], "choice", "00011"),
        (["river", "B", "A", "b) river", "which?"], ["A", "bank"], "choice", "0010-"),
        (["The Seine", "seine!", "Rhine", "", "the rhine"], ["Seine"], "exact", "001-1"),
        (["NYC", "New York", "Rome"], ["New York", "NYC"], "exact", "001"),
    ],
)
def test_answers_are_grouped_as_they_are_graded(answers, accepted, grader, same):
    options = OPTIONS if "river" in answers else None
    found = text.groups(answers, accepted, grader, options)
    assert found == [-1 if place == "-" else int(place) for place in same]
    right = [text._judged(answer, tuple(accepted), grader)[0] for answer in answers]
    assert all(len({r for r, g in zip(right, found) if g == group}) == 1 for group in set(found)), (
        "a group is right or wrong"
    )


def test_what_no_rule_grades_is_not_grouped():
    with pytest.raises(CandorError, match="a judge grades cannot be grouped"):
        text.groups(["a", "b"], ["a"], "a judge")


def test_what_could_not_be_read_is_marked():
    tags = "<answer> {} </answer><confidence> {} </confidence>"
    problem = "Which?\nA) bank\nB) river\n"
    said = [("B", "0.5"), ("river", "high"), ("both", "50"), ("8", "-1"), ("I have no idea", "0")]
    graders = ["choice"] * 3 + ["math"] * 2
    graded = text.grade_leniently(
        [tags.format(*row) for row in said], [["B", "river"]] * 3 + [["8"]] * 2, graders, [problem] * 5
    )
    assert graded["readable"].tolist() == [True, True, False, True, False]
    assert graded["correct"].tolist() == [True, True, False, True, False]
    assert graded["stated"].tolist() == [True, False, True, False, True]
    assert not text.grade(["<answer> 8 </answer>"], [["8"]], ["math"])["readable"].any(), "malformed"


def test_formulas_are_compared_from_any_thread_and_some_are_given_up():
    from concurrent.futures import ThreadPoolExecutor

    asked = [
        (r"\sqrt{4}", "2"),
        ("x^2", "x*x"),
        ("9^{9^{9^9}}", "2"),
        (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2"),
        ("y", "x"),
    ] * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: formulas.compare(pair[0], [pair[1]])[1], asked))
    assert found == [True, True, False, True, False] * 2


# --- Rewards ----------------------------------------------------------------------------------------


def total(arm: str, completion: str) -> float:
    terms, weights = rewards.of_arm(arm, WEIGHTS)
    values = [term(completions=[completion], answer=[["Seine"]], grader=["exact"], prompts=["?"])[0] for term in terms]
    assert all(math.isfinite(value) for value in values)
    return sum(weight * value for weight, value in zip(weights, values))


def test_rewards_of_the_paper():
    wrong = GOOD.replace("Seine", "Rhine")
    assert total("rlcr", GOOD) == pytest.approx(0.5 + 0.5 + 0.5 * (1 - 0.01))
    assert total("rlcr", wrong) == pytest.approx(0.5 + 0 + 0.5 * (1 - 0.81))
    assert total("rlcr", "nothing") == 0
    assert total("rlvr", "</think> <answer> Seine </answer>") == 1
    assert total("rlvr", "</think> <answer> Rhine </answer>") == 0.5
    assert total("rlvr", GOOD) == 0, "a completion that states a confidence is not what this arm asks for"


def test_rewards_of_the_swap():
    half = 0.5
    assert total("brier2", GOOD) == pytest.approx(half + half * (1 - 2 * 0.01))
    assert total("log1", GOOD) == pytest.approx(half + half * (1 + math.log(0.9)))
    assert total("log_k", GOOD) == pytest.approx(half + half * (1 + math.log(0.9) / math.log(202)))
    assert total("brier_only", GOOD) == pytest.approx(half - half * 0.01)
    assert total("log_only", GOOD) == pytest.approx(half + half * math.log(0.9))
    sure_and_wrong = WHOLE.format("1").replace("Seine", "Rhine")
    assert total("log_only", sure_and_wrong) == pytest.approx(half + half * math.log(1 / 202))


@pytest.mark.parametrize("arm", ["rlcr", "brier2", "log1", "log_k", "brier_only", "log_only"])
@pytest.mark.parametrize("number", ["nan", "inf", "80%", "", "2"])
def test_a_bad_confidence_never_pays_more_than_the_worst_honest_one(arm, number):
    worst = WHOLE.format("1").replace("Seine", "Rhine")
    assert total(arm, WHOLE.format(number)) <= total(arm, worst)
    assert total(arm, WHOLE.format(number)) == total(arm, "nothing")


def test_log_with_its_weight_never_pays_for_giving_up():
    """1/ln 202 is the largest weight at which being right always pays as much as being wrong (Tan et al. 2026)."""
    for q in (0.0, 0.3, 0.5, 1.0):
        right, wrong = (total("log_k", WHOLE.format(q).replace("Seine", name)) for name in ("Seine", "Rhine"))
        assert right >= wrong - 1e-12
    assert total("log1", WHOLE.format("0")) < total("log1", WHOLE.format("0").replace("Seine", "Rhine"))

"""Span finders and the answer parser, on the traps of real data."""

from fractions import Fraction

import pytest
from candor.measure import spans
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1080 and 70000", ["1080", "70000"]),
        ("1,080.", ["1080"]),
        ("It costs $2,125.50.", ["2125.5"]),
        ("-5 or = −7", ["-5", "-7"]),
        ("10-5 and 10 - 5, (3)-2", ["10", "5", "10", "5", "3", "2"]),
        ("3.14.", ["3.14"]),
        ("half is .5", ["0.5"]),
        ("18cm, \\boxed{18}, **18**", ["18", "18", "18"]),
        ("no number", []),
    ],
)
def test_numbers_of_every_form(text, found):
    assert spans.numbers(text) == found


def test_the_released_pattern_loses_long_numbers_and_signs():
    assert spans.numbers("1080 70000 -5 1,080", spans.AUTHORS_NUMBER) == ["5", "1080"]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [(" (B)", "B"), (" B) river", "B"), (" I think C", "C"), (" a river", ""), (" Don't", "")],
)
def test_letters_of_replies(reply, answer):
    assert spans.read(spans.stated(reply, "choice"), "choice") == answer


LETTERS = {
    "B": [
        *("B", "(B)", "**B**", "B.", "b)", "Option B", "Because.\n\n(B)", "Answer: B", "ANSWER: b", "Answer (B)"),
        *(r"The answer is \boxed{B}", r"$\boxed{\text{B}}$", r"\boxed{B) bank}", r"\boxed{A} or \boxed{B}", "“B”"),
        *("the answer is (B) because C is wrong", "Final answer: **B**", "The final answer is:\n\n**(b)**"),
        *("answer is $B$.", "A or C? The answer is B.", "So the answer is A. No: so the answer is **(B)**"),
        *("So I choose (B).", "the answer is clearly, therefore, option (B).", "Correct answer - B"),
        *("(B) is the correct answer", "My choice: B", "### Answer\nB"),
        *("<think>the answer is A</think> The answer is B", "<answer> B </answer> <analysis> or A </analysis>"),
    ],
    "D": ["The correct answer is D) offspring.", "The best option is: D, since it is near"],
    "": [
        *("", "The answer is a river", "A is right", "A or B?", "The answer is A or B.", "The answer is A/B", "A dog"),
        *("The answer is not A", "the answer is the second one because C is wrong", "<think> the answer is A", "Don't"),
        *(r"\boxed{A or B}", r"\boxed{}. The answer is A", "Answer: offspring", "I see", "Answer: I"),
    ],
}
NUMBERS = {
    "8": [
        *("8", "8.", "8%", "$8", "**8**", "eight", "Eight.", "x=8", "The answer is 8 (see step 2)", "8 apples, 8."),
        *(r"\boxed{8}. It took 2 steps", r"\boxed{7} then \boxed{8}", r"\boxed{\boxed{8}}"),
        *(r"\boxed{8\text{ dollars}}", r"\boxed{x = 8}", r"\boxed{\$8}", r"\boxed{8\%}"),
        *("The answer is eight apples (of 9).", "#### 8", "8.00", "008"),
        *("So the answer is 3 + 5 = 8 apples. It took 2 steps", "The answer is:\n\n$$8$$\nin 2 steps"),
        *("answer: \\(8\\)", "<think>9</think> 8", "<answer> 8 </answer> <confidence> 0.9 </confidence>"),
        *("Answer: Let's think.\n3 + 5 = 8", "The answer is not 9 but 8", "４ + ４ = ８", "The answer is 8, not 9"),
    ],
    "-8": ["-8", "−8", "–8 degrees", "answer is $-8", "answer is -$8", "the answer is minus eight", r"\boxed{-8}"],
    "8/3": [
        *("8/3", r"\frac{8}{3}", r"\dfrac{8}{3}", r"\frac83", "2 2/3", r"2\frac{2}{3}"),
        "The answer is 8 / 3 (9 thirds less 1)",
    ],
    "0.5": ["1/2", ".5", "0.50", r"\frac{1}{2}", r"The answer is $\frac{1}{2}$."],
    "1000": [
        *("1,000", "1 000", "1\u202f000", "1'000", r"1{,}000", r"1\,000", "1e3", "one thousand", "Final answer: 1 000"),
    ],
    "100000": ["1,00,000", "100,000.00", "The answer is 1,00,000 rupees"],
    "1000.5": ["1.000,5", "1,000.5", "$1,000.50"],
    "2000000": ["2.000.000", "2,000,000", "two million"],
    "105": ["one hundred and five"],
    "25": ["twenty-five"],
    "": [
        *("", "no number", r"\boxed{\sqrt{2}}", r"\boxed{3, 5}", r"\boxed{\frac{x}{3}}", "<think> 8"),
        *(r"\boxed{none} 8", "8/0"),
    ],
}


@pytest.mark.parametrize(
    ("text", "answer", "kind"),
    [
        (t, a, kind)
        for kind, table in (("choice", LETTERS), ("number", NUMBERS))
        for a, texts in table.items()
        for t in texts
    ],
)
def test_what_a_text_says(text, answer, kind):
    assert spans.read(spans.given(text, kind), kind) == answer


CUES = [
    *("{}", "Answer: {}", "The answer is {}.", "So 3 or C. **Final answer:** {}", "#### {}", "ANSWER:\n\n{}\n"),
    *("The correct answer is {} (see step 2 or A).", r"It is \boxed{{{}}}. A step 2."),
    r"<think>2 or A</think>The answer is $\boxed{{{}}}$",
]


@given(
    st.sampled_from(CUES), st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "{}.0", "{}%"]), st.booleans()
)
def test_a_number_is_read_back_from_every_wrapping(cue, number, form, bold):
    said = form.format(number)
    text = cue.format(f"**{said}**" if bold and "boxed" not in cue else said)
    assert spans.read(spans.given(text, "number"), "number") == str(number)


@given(
    st.sampled_from(CUES),
    st.sampled_from("ABCDE"),
    st.sampled_from(["{}", "({})", "{})", "{}.", "option {}", "[{}]"]),
    st.booleans(),
)
def test_a_letter_is_read_back_from_every_wrapping(cue, letter, form, lower):
    said = form.format(letter.lower() if lower and form in ("({})", "{})", "[{}]") else letter)
    assert spans.read(spans.given(cue.format(said), "choice"), "choice") == letter


@given(st.fractions(min_value=-1000, max_value=1000, max_denominator=1000))
def test_a_fraction_has_one_form(value):
    forms = {spans.plain(f"{value.numerator}/{value.denominator}")}
    forms.add(spans.plain(rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"))
    assert len(forms) == 1 and Fraction(forms.pop()) == value


@pytest.mark.parametrize("digits", ["1" * 40, "1" * 5000, "0." + "1" * 40, "12345678901234567890123456789012"])
def test_long_numbers_keep_every_digit(digits):
    assert spans.plain(digits) == digits and spans.numbers(f"It is {digits}.") == [digits]


# --- On tokens ----------------------------------------------------------------------------------------


def word_level(*words: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose decoder drops the space of a first token, as those of Llama and Gemma do."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


TOKENIZER = word_level("▁So", "▁1", "1", "2", "▁12", "▁is", "▁+", "▁=", ".", "▁")


def ids(*words: str) -> list[int]:
    return TOKENIZER.convert_tokens_to_ids(list(words))


def test_pieces_are_the_text_of_the_ids():
    trace = ids("▁So", "▁1", "2", "▁+", "▁1", "▁=", "▁12", ".", "<eos>")
    parts = spans.pieces(TOKENIZER, trace)
    assert parts[:4] == ["So", " 1", "2", " +"] and "".join(parts[:-1]) == "So 12 + 1 = 12."
    assert len(parts) == len(trace)


def test_a_number_of_several_tokens_is_one_span():
    trace = ids("▁So", "▁12", "▁is", "▁1", "2", ".")
    assert spans.strict(spans.pieces(TOKENIZER, trace), True, "number") == ("12", (3, 5))


def test_the_first_block_may_be_the_question_restated():
    trace, reply = ids("▁So", "▁12", "▁+", "▁1", "▁is", "▁12", "."), ids("▁12", ".")
    assert spans.authors(trace, reply, spans.pieces(TOKENIZER, reply), "number") == ("12", (1, 2))
    assert spans.strict(spans.pieces(TOKENIZER, trace), True, "number") == ("12", (5, 6))


def test_a_partial_overlap_is_enough_for_the_authors():
    trace, reply = ids("▁So", "▁1", "▁is"), ids("▁1", "2", ".")
    answer, span = spans.authors(trace, reply, spans.pieces(TOKENIZER, reply), "number")
    assert (answer, span) == ("12", (1, 2))


def test_no_span():
    none, reply = ids("▁So", "▁is"), ids("▁12")
    assert spans.authors(none, reply, spans.pieces(TOKENIZER, reply), "number") == ("12", None)
    assert spans.authors(none, none, spans.pieces(TOKENIZER, none), "number") == ("", None)
    assert spans.strict(spans.pieces(TOKENIZER, none), True, "number") == ("", None)
    truncated = spans.pieces(TOKENIZER, ids("▁So", "▁is", "▁1"))
    assert spans.strict(truncated, False, "number") == ("", None)

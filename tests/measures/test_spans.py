"""Span finders and the answer parser, on the traps of real data."""

import pytest
from candor.measures import spans
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


@pytest.mark.parametrize(
    ("trace", "answer"),
    [
        ("A or B? The answer is C.", "C"),
        ("So the answer is A. No: so the answer is **(D)**", "D"),
        ("the answer is option E", "E"),
        ("The answer is a river", ""),
        ("B", ""),
    ],
)
def test_letters_of_traces_stand_behind_the_cue(trace, answer):
    assert spans.read(spans.given(trace, "choice"), "choice") == answer


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

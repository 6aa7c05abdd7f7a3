"""Conversations, question rules and preference data, on hand-written rows in the schemas of the sources."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from candor.claims.grounding_loss import dialogues
from candor.claims.grounding_loss.dialogues import Message
from candor.core.errors import CandorError
from candor.language_models import sets

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    for name in dialogues.HUB:
        (tmp_path / name).mkdir()
        shutil.copy(FIXTURES / f"{name}.jsonl", tmp_path / name / "train.jsonl")
    return tmp_path


# --- Conversations ----------------------------------------------------------------------------------


def test_consecutive_messages_are_merged_with_their_strategies(corpora):
    first = dialogues.merge(dialogues.raw_conversations("esconv")[0])
    assert [part.expert for part in first] == [False, True] * 3 + [False]
    assert first[3] == Message(True, "I am sorry. When did it happen?", ("Reflection of feelings", "Question"))


def test_conversations_of_the_median_length_are_kept_and_cut(corpora):
    lengths = [len(dialogues.merge(conversation)) for conversation in dialogues.raw_conversations("esconv")]
    median = int(np.median(lengths))
    assert min(lengths) < median < max(lengths), "the fixture has shorter and longer ones"
    kept = dialogues.eligible(dialogues.raw_conversations("esconv"))
    assert {place for place, length in enumerate(lengths) if length >= median} == set(kept)
    assert {len(conversation) for conversation in kept.values()} == {median}


def test_the_sample_is_seeded_and_split_by_conversation(corpora):
    one, same, other = (list(dialogues.sample("esconv", seed, 3, 2)) for seed in (1, 1, 5))
    assert one == same != other and len(one) == 3
    everything = set(dialogues.sample("esconv", 1, None, 2))
    held_out = set(dialogues.sample("esconv", 1, None, 2, "held_out"))
    assert len(held_out) == 2 and not held_out & everything
    assert held_out | everything == set(dialogues.eligible(dialogues.raw_conversations("esconv")))
    with pytest.raises(CandorError, match=r"held out: lower dialogues\.held_out"):
        dialogues.sample("esconv", 1, 3, 8)


def test_expert_turns_have_the_true_history(corpora):
    chosen = dialogues.sample("esconv", 1, None, 0)
    turns = dialogues.expert_turns("esconv", chosen)
    for turn in turns:
        conversation = chosen[turn.conversation]
        assert turn.turn > 0 and turn.message is conversation[turn.turn] and turn.message.expert
        assert list(turn.history) == conversation[: turn.turn] and not turn.history[-1].expert
    begun_by_expert = [place for place, conversation in chosen.items() if conversation[0].expert]
    assert begun_by_expert and not [turn for turn in turns if turn.turn == 0]


def test_the_hubs_release_keeps_a_conversation_as_json(corpora):
    raw = [json.loads(line) for line in (FIXTURES / "esconv.jsonl").read_text().splitlines()]
    (corpora / "esconv" / "train.jsonl").write_text(
        "".join(json.dumps({"text": json.dumps(row)}) + "\n" for row in raw)
    )
    wrapped = dialogues.raw_conversations("esconv")
    shutil.copy(FIXTURES / "esconv.jsonl", corpora / "esconv" / "train.jsonl")
    assert wrapped == dialogues.raw_conversations("esconv")


def test_sentences_of_persuasion_become_conversations(corpora):
    first, *others = dialogues.raw_conversations("persuasion")
    assert len(others) == 3
    merged = dialogues.merge(first)
    assert merged[0] == Message(True, "Hello! Do you know Save the Children?") and not merged[1].expert
    assert dialogues.transcript("persuasion", merged[:2]) == (
        "Persuader: Hello! Do you know Save the Children?\nPersuadee: No, I do not.\n"
    )


def test_strategies_are_counted_before_merging(corpora):
    raw = [json.loads(line)["dialog"] for line in (FIXTURES / "esconv.jsonl").read_text().splitlines()]
    labels = [part["strategy"] for dialog in raw for part in dialog if part["speaker"] == "sys"]
    share, n = dialogues.strategy_share(dialogues.raw_conversations("esconv"))
    assert n == len(labels) and share == pytest.approx(labels.count("Question") / n)


class Tokenizer:
    """A tokenizer with a chat template that allows what it is told to."""

    bos_token, bos_token_id = "<s>", 1

    def __init__(self, chat_template=None, system=True, adds=True):
        self.chat_template, self.system, self.adds = chat_template, system, adds

    def __call__(self, text):
        return {"input_ids": [1] if self.adds else []}

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        from jinja2 import TemplateError

        if messages[0]["role"] == "system" and not self.system:
            raise TemplateError("no system line")
        if self.system == "left out":
            messages = [part for part in messages if part["role"] != "system"]
        return "".join(f"[{part['role']}]{part['content']}" for part in messages) + "[assistant]"


def test_prompts_with_and_without_a_chat_template(corpora):
    chosen = dialogues.sample("esconv", 1, None, 0)
    turn = next(turn for turn in dialogues.expert_turns("esconv", chosen) if not turn.history[0].expert)
    plain = dialogues.next_message_prompt(turn, Tokenizer())
    assert plain.startswith("<s>You support") and plain.endswith("\nSupporter:")
    assert f"Seeker: {turn.history[0].text}\n" in plain and turn.message.text not in plain
    assert not dialogues.next_message_prompt(turn, Tokenizer(adds=False)).startswith("<s>")
    chat = dialogues.next_message_prompt(turn, Tokenizer("{}"))
    assert chat.startswith("<s>[system]You support") and chat.endswith("[assistant]")
    folded = dialogues.next_message_prompt(turn, Tokenizer("{}", system=False))
    assert folded.startswith("<s>[user]You support") and f"\n\n{turn.history[0].text}[assistant]" in folded
    silent = dialogues.next_message_prompt(turn, Tokenizer("{}", system="left out"))
    assert silent == folded, "a template that drops the role without a word must not hide it"
    assert dialogues.one_message(" I see.\nSeeker: Yes.", Tokenizer()) == "I see."
    assert dialogues.one_message("I see.\n<|user|>\nWhy?", Tokenizer("{}")) == "I see.", "its own user's turn is none"
    assert dialogues.one_message(" I see.\n\nTell me more.", Tokenizer("{}")) == "I see.\n\nTell me more."


# --- Questions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "anywhere", "last_sentence", "last_200"),
    [
        ("Which one?", True, True, True),
        ("Which one? Either will do.", True, False, True),
        ("Which one? " + "x " * 200, True, False, False),
        ('He asked "why?"', True, True, True),
        ("See https://a.example/?q=1 for more.", False, False, False),
        ("```\na ? b : c\n```\nDone.", False, False, False),
        ("Use `x?` here.", False, False, False),
        ("```python\nx = a?  never closed", False, False, False),
        ("", False, False, False),
    ],
)
def test_question_rules(text, anywhere, last_sentence, last_200):
    assert [dialogues.asks(text, rule) for rule in dialogues.RULES] == [anywhere, last_sentence, last_200]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It is red.\n### Human: Why?", "It is red."),
        ("It is red.\n\nUser: Why?\nAssistant: So.", "It is red."),
        ("It is red.\n<|user|>\nWhy?", "It is red."),
        ("It is red.\n### Instruction:\nWhy?", "It is red."),
        ("For example\nInput: 3\nOutput: 4", "For example\nInput: 3\nOutput: 4"),
        ("User: the one who uses.", "User: the one who uses."),
        ("The human: a portrait?", "The human: a portrait?"),
    ],
)
def test_replies_are_cut_where_they_write_their_users_turn(text, kept):
    assert dialogues.until_own_user_turn(text) == kept


def test_the_question_table_counts_what_the_fixture_holds(corpora):
    table = dialogues.question_table().set_index(["source", "rule", "variant"])
    whole, cut = (table.loc["ultrafeedback", "anywhere", variant] for variant in ("whole", "cut"))
    assert (whole["n"], whole["chosen"], whole["rejected"]) == (8, 2 / 8, 4 / 8)
    assert (whole["only_chosen"], whole["only_rejected"]) == (2, 4)
    assert cut["rejected"] == 3 / 8, "the self-written user asks"
    assert whole["mcnemar_p"] == pytest.approx(0.6875)
    chat = table.loc["ultrachat", "anywhere", "whole"]
    assert chat["n"] == 16 and chat["share"] == 6 / 16


def test_mcnemar_and_the_coefficient_find_a_planted_dislike():
    rng = np.random.default_rng(0)
    asks = rng.random((4000, 2)) < 0.3
    # The first of two replies is chosen with odds exp(-.5) against a question and exp(.8) for each unit of log length.
    length = rng.integers(50, 500, (4000, 2))
    score = -0.5 * asks + 0.8 * np.log(length + 1)
    first = rng.random(4000) < 1 / (1 + np.exp(score[:, 1] - score[:, 0]))
    pick = np.where(first, 0, 1)
    rows = np.arange(4000)
    found = dialogues.pair_tests(asks[rows, pick], asks[rows, 1 - pick], length[rows, pick], length[rows, 1 - pick])
    assert found["difference"] < 0 and found["mcnemar_p"] < 1e-5
    assert found["coefficient_low"] < -0.5 < found["coefficient_high"] < 0
    assert found["length_coefficient"] == pytest.approx(0.8, abs=0.15)


def test_the_choice_model_is_the_librarys_conditional_logit():
    from statsmodels.discrete.conditional_models import ConditionalLogit

    rng = np.random.default_rng(1)
    features = rng.normal(size=(120, 2, 2))
    pick = rng.integers(2, size=120)
    chosen, other = features[np.arange(120), pick], features[np.arange(120), 1 - pick]
    coefficient, low, high = dialogues.choice_model(chosen - other)
    exog = np.concatenate([chosen, other])
    fitted = ConditionalLogit(np.repeat([1, 0], 120), exog, groups=np.tile(np.arange(120), 2)).fit(disp=0)
    np.testing.assert_allclose(coefficient, fitted.params, atol=1e-4)
    np.testing.assert_allclose(np.column_stack([low, high]), fitted.conf_int(), atol=1e-3)


def test_what_cannot_be_estimated_is_not_a_number():
    always = np.column_stack([np.ones(20), np.linspace(-1, 1, 20)])
    assert np.isnan(dialogues.choice_model(always)[0]).all(), "every chosen reply asks and no rejected one does"
    never = np.column_stack([np.zeros(20), np.linspace(-1, 1, 20)])
    assert np.isnan(dialogues.choice_model(never)[0]).all()


# --- Pairs and conversations for training -----------------------------------------------------------


def test_arms_of_preference_pairs(corpora):
    plain = dialogues.training_pairs("dpo", 1, 8)
    assert len(plain) == 8 and plain == dialogues.training_pairs("dpo", 1, 8) != dialogues.training_pairs("dpo", 2, 8)
    swapped = dialogues.training_pairs("swapped", 1, 8)
    assert [(pair["chosen"], pair["rejected"]) for pair in swapped] == [
        (pair["rejected"], pair["chosen"]) for pair in plain
    ]
    balanced = dialogues.training_pairs("balanced", 1, 8)
    assert len(balanced) == 2
    assert not [pair for pair in balanced if dialogues.asks(pair["chosen"]) != dialogues.asks(pair["rejected"])]
    matched = dialogues.training_pairs("length_matched", 1, 8)
    assert [pair["prompt"] for pair in matched] == ["Sum 2 and 2."]


def test_further_conversations_are_fresh_ones(corpora):
    first = dialogues.training_chats(3, 4)
    further = dialogues.training_chats(3, 8, skip=4)
    assert len(first) == len(further) == 4 and not [chat for chat in further if chat in first]
    assert {part["role"] for chat in first for part in chat} == {"user", "assistant"}
    with pytest.raises(CandorError, match="too few conversations"):
        dialogues.training_chats(3, 4, skip=8)


# --- What is missing or broken ----------------------------------------------------------------------


def test_a_set_that_was_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    assert all(map(sets.missing, dialogues.HUB))
    with pytest.raises(CandorError, match="python -m candor fetch esconv"):
        dialogues.raw_conversations("esconv")


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("esconv", lambda: dialogues.raw_conversations("esconv")),
        ("persuasion", lambda: dialogues.raw_conversations("persuasion")),
        ("ultrafeedback", lambda: list(dialogues.preferences())),
        ("ultrachat", lambda: list(dialogues.chats())),
    ],
)
def test_broken_and_foreign_files_are_one_sentence(corpora, name, read):
    place = corpora / name / "train.jsonl"
    place.write_text('{"of": "another set"}\n')
    with pytest.raises(CandorError, match=rf"dialogue_data\.{name}") as caught:
        read()
    assert "\n" not in str(caught.value)
    place.write_text("{half a line")
    with pytest.raises(CandorError, match="cannot be read"):
        read()


@pytest.mark.parametrize(
    ("name", "row"),
    [("esconv", {"text": "no JSON"}), ("persuasion", {"Unit": "Hello.", "B2": "a", "B4": "persuader"})],
)
def test_values_that_cannot_be_read_are_one_sentence(corpora, name, row):
    (corpora / name / "train.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(CandorError, match=rf"Rows of {name} .*are not those of this set .* dialogue_data\.{name}"):
        dialogues.raw_conversations(name)


def test_parquet_is_read_as_the_lines_are(corpora):
    import pandas as pd

    lines = list(dialogues.preferences())
    pd.read_json(corpora / "ultrafeedback" / "train.jsonl", lines=True).to_parquet(
        corpora / "ultrafeedback" / "train.parquet"
    )
    (corpora / "ultrafeedback" / "train.jsonl").unlink()
    assert list(dialogues.preferences()) == lines

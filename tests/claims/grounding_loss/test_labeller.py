"""Labels of messages: regular expressions, strict reading of a model's labels, agreement with people."""

import pandas as pd
import pytest
from candor.claims.grounding_loss import labeller
from candor.core.errors import CandorError


class Scripted:
    """Replies in order; keeps what it was asked."""

    def __init__(self, replies, chat_template=None):
        self.replies, self.asked = list(replies), []
        self.tokenizer = self
        self.chat_template, self.bos_token = chat_template, None

    def __call__(self, prompts, tokens):
        self.asked += prompts
        assert tokens == labeller.TOKENS
        return [self.replies.pop(0) for _ in prompts]

    def apply_chat_template(self, messages, tokenize, add_generation_prompt):
        return "|".join(part["content"] for part in messages)


@pytest.mark.parametrize(
    ("message", "label"),
    [
        ("Since when?", "question"),
        ("I see. Since when?", "question"),
        ("I see.", "acknowledgement"),
        ("Oh, okay... thank you!", "acknowledgement"),
        ("Uh-huh", "acknowledgement"),
        ("I see that you are sad.", "none"),
        ("See https://a.example/?q=1", "none"),
        ("?!", "question"),
        ("...", "none"),
        ("", "none"),
    ],
)
def test_regular_expressions(message, label):
    assert labeller.by_rule(message) == label


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("followup", "followup"),
        (" Clarification.\n", "clarification"),
        ("ACKNOWLEDGEMENT", "acknowledgement"),
        ("none", "none"),
        ("follow-up", "followup"),
        ("followup because it asks", None),
        ("The label is none", None),
        ("acknowledgment", "acknowledgement"),
        ("<followup>", None),
        ("question", None),
        ("", None),
    ],
)
def test_labels_are_read_strictly(reply, label):
    assert labeller.parse(reply) == label


def test_malformed_labels_become_none_and_are_counted():
    sampler = Scripted(["followup", "I think followup", "none"])
    made = labeller.label(sampler, ["Seeker: Hi.\n"] * 4, ["Since when?", "Why?", "", "Good."])
    assert made["label"].tolist() == ["followup", "none", "none", "none"]
    assert made["malformed"].tolist() == [False, True, False, False]
    assert len(sampler.asked) == 3, "nobody is asked about an empty message"


def test_the_stock_phrase_rule_is_the_only_difference():
    plain, ruled = (
        labeller.prompt("Seeker: Hi.\n", "So, tell me more.", Scripted([], "{}"), stock_rule=rule)
        for rule in (False, True)
    )
    assert ruled.replace(labeller.STOCK_RULE, "") == plain != ruled
    assert all(label in plain for label in labeller.LABELS)
    assert "human" not in plain and "model" not in plain, "the call is blind to the origin"


def test_the_first_sentence_is_labelled_too():
    sampler = Scripted(["none", "acknowledgement", "none"])
    [row] = labeller.label_all(sampler, [""], ["I see. Since when do you feel so?"]).to_dict("records")
    assert (row["regex"], row["regex_first"]) == ("question", "acknowledgement")
    assert (row["prompt"], row["prompt_first"], row["stock"], row["malformed"]) == (
        "none",
        "acknowledgement",
        "none",
        0,
    )
    assert sampler.asked[1].endswith("Last message: I see.\nLabel:")
    assert labeller.STOCK_RULE in sampler.asked[2] and labeller.STOCK_RULE not in sampler.asked[1]


def test_the_same_question_is_asked_once():
    sampler = Scripted(["followup", "maybe", "none", "none"])
    made = labeller.label_all(sampler, ["", "", ""], ["Why?", "Hm.", "Why?"])
    assert made["prompt"].tolist() == made["prompt_first"].tolist() == ["followup", "none", "followup"]
    assert made["malformed"].tolist() == [0, 2, 0] and not sampler.replies
    assert len(set(sampler.asked)) == len(sampler.asked) == 4


def test_regular_expressions_need_no_model():
    assert labeller.label_all(None, [""], ["Why?"]).to_dict("records") == [
        {"regex": "question", "regex_first": "question"}
    ]


# --- Hand labels ------------------------------------------------------------------------------------


def put(path, rows, columns=labeller.HAND_COLUMNS):
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)
    return path


def test_agreement_by_origin(tmp_path):
    rows = [
        ("human", "", "Since when?", "followup"),
        ("human", "", "Which exam?", "clarification"),
        ("human", "", "I see.", "acknowledgement"),
        ("model", "", "Why so?", "followup"),
        ("model", "", "Fine, go home.", "acknowledgement"),
    ]
    hand = labeller.hand_labels(put(tmp_path / "hand.csv", rows))
    made = labeller.label_all(None, hand["history"].tolist(), hand["message"].tolist())
    made["prompt"] = ["followup", "followup", "acknowledgement", "none", "none"]
    table = labeller.agreement(hand, made).set_index(["labeller", "origin", "act"])
    assert (
        table.loc[("regex", "human", "question"), "f1"] == 1
        and table.loc[("regex", "human", "question"), "support"] == 2
    )
    assert table.loc[("regex", "model", "acknowledgement"), "f1"] == 0
    followup = table.loc["prompt", "human", "followup"]
    assert (followup["precision"], followup["recall"]) == (0.5, 1.0) and followup["f1"] == pytest.approx(2 / 3)
    assert table.loc[("prompt", "human", "question"), "f1"] == 1
    assert table.loc[("prompt", "model", "followup"), "recall"] == 0
    assert set(table["turns"].groupby("origin").first().items()) == {("human", 3), ("model", 2)}


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        ([("human", "", "Hi.")], ("origin", "history", "message"), "no column 'label'"),
        ([("robot", "", "Hi.", "none")], labeller.HAND_COLUMNS, "origin 'robot'"),
        ([("human", "", "Hi.", "repair")], labeller.HAND_COLUMNS, "label 'repair'"),
    ],
)
def test_hand_labels_that_cannot_be_used_are_one_sentence(tmp_path, rows, columns, words):
    with pytest.raises(CandorError, match=words) as caught:
        labeller.hand_labels(put(tmp_path / "hand.csv", rows, columns))
    assert "\n" not in str(caught.value)


def test_hand_labels_that_are_no_table_are_one_sentence(tmp_path):
    (tmp_path / "hand.csv").write_text("origin,history,message,label\nhuman,a,b,none\nhuman,a,b,c,d,none\n")
    with pytest.raises(CandorError, match="cannot be read") as caught:
        labeller.hand_labels(tmp_path / "hand.csv")
    assert "\n" not in str(caught.value)


def test_hand_labels_that_are_not_there(tmp_path):
    with pytest.raises(CandorError, match=r"check labeller\.hand_labels"):
        labeller.hand_labels(tmp_path / "absent.csv")

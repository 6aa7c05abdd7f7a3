"""The reference game: its process in plain words, its exact values against simulation and against the pilot's."""

import math

import numpy as np
import pytest
from candor.claims.grounding_loss import world
from candor.measure import agreement
from numerics import ROUNDING
from sklearn.metrics import cohen_kappa_score

EXACT = world.exact(world.HUMAN)


@pytest.fixture(scope="module")
def dialogues():
    """The turns of many human dialogues, and the responses."""
    return world.human_turns(20_000, np.random.default_rng(0))


# --- The process ------------------------------------------------------------------------------------


def test_requests_are_drawn_as_declared():
    games = world.start(100_000, np.random.default_rng(1))
    assert np.allclose(np.bincount(games.habit) / len(games), [0.3, 0.4, 0.3], atol=0.01)
    assert games.open.mean() == pytest.approx(0.305, abs=0.006)
    sure = [(games.place == games.usual)[games.habit == h].mean() for h in range(3)]
    assert sure == pytest.approx([0.94, 0.50, 0.25], abs=0.01)
    sizes = world.MEANING[games.word].sum(1)
    for open_, shares in ((False, [0.912, 0.036, 0.026, 0.026]), (True, [0.30, 0.40, 0.20, 0.10])):
        found = np.bincount(sizes[games.open == open_], minlength=5)[1:] / (games.open == open_).sum()
        assert np.allclose(found, shares, atol=0.01)
    assert world.MEANING[games.word, games.colour].all(), "the wording fits what is wanted"
    assert world.MEANING[games.final, games.colour].all()
    assert not (world.MEANING[games.final] & ~world.MEANING[games.word]).any(1)[games.open].any()
    assert (games.said[~games.open] >= 0).mean() == pytest.approx(0.18, abs=0.006)
    assert (games.said[games.open] == -1).all(), "the first instalment never names the place"


def game(text, **known):
    """One dialogue whose last request is `text`; `known` overrides what the user wants and has said."""
    default = {"colour": 0, "kind": 0, "place": 3, "habit": 1, "usual": 0, "word": 0, "said": -1, "open": False}
    fields = {**default, "final": 0, "names": False, "origin": 0, **known}
    tokens = np.zeros((1, world.WIDTH), np.int16)
    ids = [world.TOKEN[token] for token in text.split()]
    tokens[0, : len(ids)] = ids
    return world.Games(**{k: np.array([v]) for k, v in fields.items()}, tokens=tokens, length=np.array([len(ids)]))


def responses(*texts):
    rows = [[world.TOKEN[token] for token in text.split()] for text in texts]
    return np.array([row + [world.PAD] * (world.RESPONSE - len(row)) for row in rows])


BRIGHT = world.WORDS.index("bright")


@pytest.mark.parametrize(
    ("act", "known", "answer", "word", "said"),
    [
        ("which ?", {"word": BRIGHT}, "U red . A", 0, -1),
        ("where ?", {"word": BRIGHT}, "U door . A", BRIGHT, 3),
        ("mm hm", {"word": BRIGHT, "open": True}, "U red . A", 0, -1),
        ("mm hm", {"word": BRIGHT, "open": True, "names": True}, "U red door . A", 0, 3),
        ("mm hm", {"word": world.NO_WORD, "final": world.NO_WORD, "open": True}, "U . A", world.NO_WORD, -1),
        ("mm hm", {"word": BRIGHT}, "U . A", BRIGHT, -1),
        # interrupted: the second instalment, which would have named the place, is lost
        ("which ?", {"word": BRIGHT, "open": True, "names": True}, "U red . A", 0, -1),
        ("where ?", {"word": BRIGHT, "open": True, "names": True}, "U door . A", BRIGHT, 3),
    ],
)
def test_the_user_replies_to_each_act(act, known, answer, word, said):
    before = game("often:desk U bright mug . A", **known)
    after = world.reply(before, responses(f"{act} <eos>"))
    assert after.prompts()[0] == f"often:desk U bright mug . A {act} <eos> {answer}"
    assert (after.word[0], after.said[0], bool(after.open[0])) == (word, said, False)
    assert before.prompts()[0] == "often:desk U bright mug . A", "the dialogue before is left as it was"


def test_nobody_replies_to_a_delivery():
    with pytest.raises(ValueError, match="delivery ends"):
        world.reply(game("any U red mug . A"), responses("red-mug desk <eos>"))


def test_responses_are_read_off_tokens():
    texts = [
        *("where ? <eos>", "mm hm <eos>", "which ? <eos>", "grey-key shelf <eos>"),
        *("grey-key shelf ?", "grey-key <eos>", "where hm <eos>", "shelf grey-key <eos>", "<eos>", "red mug <eos>"),
    ]
    act, delivered = world.read(responses(*texts))
    assert act.tolist() == [0, 1, 2] + [-1] * 7
    assert delivered[:3].tolist() == [[world.NOTHING] * 2] * 3
    assert delivered[3].tolist() == [world.OBJECTS.index("grey-key"), 1]
    assert (delivered[4:] == world.MALFORMED).all()


# --- The human --------------------------------------------------------------------------------------


def test_the_human_weighs_what_an_act_would_bring():
    def sigmoid(x):
        return 1 / (1 + math.exp(-x / 0.10))

    for cell, (open_, m, place) in enumerate(zip(world.OPEN, world.SIZE, world.PLACE)):
        q = [0.94, 0.50, 0.25, 1.0][place]
        acknowledges = sigmoid(0.50 - q / m) if open_ else 0
        clarifies = 0 if open_ else sigmoid(0.50 - 1 / m)
        follows = 0 if open_ or place == 3 else (1 - clarifies) * sigmoid(0.65 - q)
        assert world.HUMAN[cell] == pytest.approx([follows, acknowledges, clarifies])
        assert world.READ[cell] == pytest.approx(q / m)


def test_exact_values_are_what_happens(dialogues):
    turns, said = dialogues
    rng = np.random.default_rng(2)
    act, other = world.read(said)[0], world.read(world.human(turns, rng))[0]
    assert len(turns) / 20_000 == pytest.approx(EXACT["turns"], abs=0.02)
    for a, name in enumerate(world.ACTS):
        assert (act == a).mean() == pytest.approx(EXACT[f"{name}_rate"], abs=0.006)
        assert cohen_kappa_score(act == a, other == a) == pytest.approx(EXACT[f"{name}_kappa"], abs=0.03)
        p = world.HUMAN[turns.cell, a]
        assert agreement.kappa(p, p) == pytest.approx(EXACT[f"{name}_kappa"], abs=0.015)
    visits = np.bincount(turns.cell, minlength=28) / 20_000
    assert np.allclose(visits, world.VISITS, atol=0.01)


def test_another_policy_leads_the_dialogues_as_computed():
    """A policy that may do anything anywhere, with deliveries like the human's, simulated turn by turn."""
    policy = np.random.default_rng(3).dirichlet([1, 1, 1, 3], 28)[:, :3]

    def speak(games, rng):
        act = (policy[games.cell].cumsum(1) <= rng.random(len(games))[:, None]).sum(1)
        colour = [rng.choice(np.flatnonzero(world.MEANING[word])) for word in games.word]
        place = np.where(games.said >= 0, games.said, games.usual)
        item = [world.TOKEN[world.OBJECTS[4 * c + k]] for c, k in zip(colour, games.kind)]
        delivery = np.stack([item, [world.TOKEN[world.PLACES[p]] for p in place], np.full(len(act), world.EOS)], 1)
        return np.where(act[:, None] < 3, world.ACT_RESPONSES[np.minimum(act, 2)], delivery)

    rng = np.random.default_rng(4)
    turns, _, success = world.converse(world.start(20_000, rng), speak, rng)
    found = world.exact(policy)
    assert success.mean() == pytest.approx(found["success"], abs=0.012)
    assert len(turns) / 20_000 == pytest.approx(found["turns"], abs=0.03)


def test_after_six_turns_it_is_over():
    def asks(games, rng):
        return np.tile(world.ACT_RESPONSES[2], (len(games), 1))

    turns, _, success = world.converse(world.start(10, np.random.default_rng(0)), asks, np.random.default_rng(0))
    assert len(turns) == 60 and not success.any()
    assert turns.length.max() + world.RESPONSE <= world.WIDTH


# --- Documents, cells, tokenizer --------------------------------------------------------------------


def test_documents_are_dialogues_with_their_responses_marked():
    tokens, spoken = world.documents(300, np.random.default_rng(5))
    for row, marks in zip(tokens, spoken):
        words = world.text(row[row != world.PAD]).split()
        turns, delivered = " ".join(words).split(" A "), " ".join(words).split(" A ")[-1].split()
        assert len(delivered) == 3 and delivered[0] in world.OBJECTS and delivered[2] == "<eos>"
        said = [part.split(" U ")[0] for part in turns[1:]]
        assert world.text(row[marks]) == " ".join(said)
    assert spoken.sum(1).min() == 3


def test_splits_share_no_dialogue():
    parts = [world.start(50, world.stream(split, 7)).tokens for split in ("documents", "contexts", "eval", "more")]
    assert len({part.tobytes() for part in parts}) == 4
    assert (world.start(50, world.stream("eval", 7)).tokens == parts[2]).all()


def test_cells_take_the_mean_over_what_they_hold():
    table = world.by_cell(world.HUMAN).set_index("cell")
    assert len(table) == 11
    assert table.loc["followup_often", "human"] == pytest.approx(world.HUMAN[13, 0])
    assert table.loc["acknowledgement_1", "human"] == pytest.approx([0.3, 0.4, 0.3] @ world.HUMAN[:3, 1])
    assert table.loc["clarification_2", "human"] == pytest.approx(0.5)


def test_the_tokenizer_reads_dialogues_back(dialogues):
    tokenizer = world.tokenizer()
    for prompt, said in zip(dialogues[0][slice(40)].prompts(), dialogues[1]):
        text = f"{prompt} {world.text(said)}"
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text
    ids = tokenizer("which ? mm hm where")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "which ? mm hm where", "acts are no special tokens"


# --- A model as speaker -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    import torch
    from candor.train import models

    models.quiet()
    torch.manual_seed(0)
    return models.new_decoder(54, world.PAD, world.EOS, hidden_size=16, layers=2, heads=2, mlp=32).eval()


def test_every_text_runs_once_and_gives_what_a_single_pass_gives(model, dialogues):
    import torch

    games = dialogues[0][:60]
    found = world.next_token(model, games.tokens, games.length, batch=7)
    for row, length, p in zip(games.tokens, games.length, found):
        with torch.no_grad():
            logits = model(input_ids=torch.as_tensor(row[None, :length].astype(int))).logits[0, -1]
        assert np.allclose(p, logits.double().softmax(-1).numpy(), atol=ROUNDING)
    assert np.allclose(world.act_probabilities(model, games), found[:, world.ACT_IDS])


def test_a_model_speaks_by_its_probabilities(model, dialogues):
    games = dialogues[0][np.zeros(4000, int)]
    said = world.speaker(model)(games, np.random.default_rng(0))
    p = world.next_token(model, games.tokens[:1], games.length[:1])[0]
    assert np.allclose(np.bincount(said[:, 0], minlength=54) / 4000, p, atol=0.02)
    ended = said[:, 0] == world.EOS
    assert (said[ended, 1:] == world.PAD).all()
    again = world.speaker(model)(games, np.random.default_rng(0))
    assert (said == again).all()

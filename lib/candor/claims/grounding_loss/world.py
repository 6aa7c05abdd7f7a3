"""Hand over the right object at the right place: a dialogue in which asking has a use.

A user wants one of 16 objects put at one of 4 places. The wording may fit several objects, may come in two
instalments, and may leave the place unsaid; the user's habit says how sure one can be of the place then. The
assistant delivers (`red-mug desk`, which ends the dialogue), or uses one of three grounding acts: `where ?` (a
follow-up on what was not mentioned), `mm hm` (acknowledges an open instalment), `which ?` (clarifies the object). A
noisy-rational human uses each act with a known probability, so rates, agreement and success are exact, and acts are
read off tokens. Interrupting an open instalment loses the remainder.

    often:desk U dark mug .. A mm hm <eos> U blue . A where ? <eos> U shelf . A blue-mug shelf <eos>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from candor.measure import agreement

ACTS = ("followup", "acknowledgement", "clarification")
FOLLOWUP, ACKNOWLEDGEMENT, CLARIFICATION = range(3)

COLOURS = ("red", "blue", "green", "grey")
VAGUE = {
    "dark": ("blue", "grey"),
    "bright": ("red", "green"),
    "cool": ("blue", "green"),
    "colourful": ("red", "blue", "green"),
    "muted": ("blue", "green", "grey"),
}
WORDS = (*COLOURS, *VAGUE)
NO_WORD = len(WORDS)  # the wording without a colour word
KINDS = ("mug", "book", "lamp", "key")
PLACES = ("desk", "shelf", "box", "door")
HABITS = ("always", "often", "any")
OBJECTS = tuple(f"{colour}-{kind}" for colour in COLOURS for kind in KINDS)
_HABIT_TOKENS = (*(f"{habit}:{place}" for habit in HABITS[:2] for place in PLACES), "any")

VOCABULARY = (
    *("<pad>", "<eos>", "<unk>"),
    *("U", "A", ".", "..", "which", "where", "?", "mm", "hm"),
    *WORDS,
    *KINDS,
    *PLACES,
    *_HABIT_TOKENS,
    *OBJECTS,
)
TOKEN = {token: i for i, token in enumerate(VOCABULARY)}
PAD, EOS = TOKEN["<pad>"], TOKEN["<eos>"]
_SKIP = -1  # no token at this place
_WORD_IDS = np.array([*(TOKEN[w] for w in WORDS), _SKIP])
_KIND_IDS, _PLACE_IDS = np.array([TOKEN[w] for w in KINDS]), np.array([TOKEN[w] for w in PLACES])
_HABIT_IDS = np.array([TOKEN[w] for w in _HABIT_TOKENS])
_OBJECT_IDS = np.array([TOKEN[w] for w in OBJECTS])
RESPONSE = 3  # tokens of a response, its <eos> included
ACT_RESPONSES = np.array([[TOKEN[w] for w in r.split()] for r in ("where ? <eos>", "mm hm <eos>", "which ? <eos>")])
ACT_IDS = ACT_RESPONSES[:, 0]  # the first token tells the act

HABIT_SHARES = np.array([0.30, 0.40, 0.30])
SURE = np.array([0.94, 0.50, 0.25, 1.0])  # that the place is the habit's: always, often, any; 1 where it was said
SIZES = np.array([0.912, 0.036, 0.026, 0.026])  # of the wording: how many objects are consistent with it
FIRST_SIZES = np.array([0.30, 0.40, 0.20, 0.10])  # of the first of two instalments
TWO_INSTALMENTS, NAMES_PLACE = 0.305, 0.18
COSTS, NOISE = np.array([0.35, 0.50, 0.50]), 0.10
MAX_TURNS = 6
WIDTH = 64  # tokens of the longest dialogue, rounded up

MEANING = np.zeros((len(WORDS) + 1, len(COLOURS)), bool)  # which colours a wording allows
for _i, _word in enumerate(WORDS):
    MEANING[_i, [COLOURS.index(_colour) for _colour in VAGUE.get(_word, (_word,))]] = True
MEANING[NO_WORD] = True
_SIZE_OF = MEANING.sum(1)

# --- Context cells: all that the human's choice depends on ------------------------------------------
# Open instalment: size x habit. Closed request: size x (habit, or place known).

_OPEN_CELLS = [(True, m, q) for m in range(1, 5) for q in range(3)]
_CLOSED_CELLS = [(False, m, q) for m in range(1, 5) for q in range(4)]
OPEN, SIZE, PLACE = (np.array(column) for column in zip(*_OPEN_CELLS, *_CLOSED_CELLS))  # [28]; PLACE 3: it was said
KNOWN = PLACE == 3
READ = SURE[PLACE] / SIZE  # that a delivery made now is the one that a listener reads into the words: the theory's p


def _cell(open_, size, place) -> np.ndarray:
    """Index of the context cell [n]; `place` is the habit, or 3 where the place was said."""
    return np.where(open_, (size - 1) * 3 + place, len(_OPEN_CELLS) + (size - 1) * 4 + place)


def _human() -> np.ndarray:
    def acts(p, act):
        return 1 / (1 + np.exp(-((1 - COSTS[act]) - p) / NOISE))

    policy = np.zeros((len(OPEN), 3))
    policy[:, ACKNOWLEDGEMENT] = np.where(OPEN, acts(READ, ACKNOWLEDGEMENT), 0)
    clarifies = np.where(OPEN, 0, acts(1 / SIZE, CLARIFICATION))
    policy[:, CLARIFICATION] = clarifies
    policy[:, FOLLOWUP] = np.where(OPEN | KNOWN, 0, (1 - clarifies) * acts(SURE[PLACE], FOLLOWUP))
    return policy


HUMAN = _human()  # a policy: P(act) in every cell, [28, 3]; what is left is delivering


def admissible() -> np.ndarray:
    """Which acts have a use in a cell, bool [28, 3]: open, acknowledge; closed, clarify, and follow up if need be."""
    return np.stack([~OPEN & ~KNOWN, OPEN, ~OPEN], 1)


def ask_anyway(d: float) -> np.ndarray:
    """The human's policy, but with probability `d` an admissible act drawn uniformly, needed or not."""
    useful = admissible()
    return (1 - d) * HUMAN + d * useful / useful.sum(1, keepdims=True)


def _start_and_moves() -> tuple[np.ndarray, np.ndarray]:
    """Distribution of a dialogue's first cell [28], and where each act leads, [3, 28, 28]."""
    n = len(OPEN)
    final = np.zeros((4, 4))  # size of the first instalment -> size of the final wording
    for colour in range(4):
        for first in np.flatnonzero(MEANING[:, colour]):
            like_first = MEANING[:, colour] & (_SIZE_OF[first] == _SIZE_OF)
            for last in np.flatnonzero(MEANING[:, colour]):
                like_last = MEANING[:, colour] & (_SIZE_OF[last] == _SIZE_OF)
                inside = not (MEANING[last] & ~MEANING[first]).any()
                size = _SIZE_OF[last] if inside else 1
                weight = SIZES[_SIZE_OF[last] - 1] / like_last.sum() / like_first.sum() / 4
                final[_SIZE_OF[first] - 1, size - 1] += weight
    start = np.zeros(n)
    moves = np.zeros((3, n, n))
    for cell, (open_, m, place) in enumerate(_OPEN_CELLS + _CLOSED_CELLS):
        if open_:
            start[cell] = TWO_INSTALMENTS * FIRST_SIZES[m - 1] * HABIT_SHARES[place]
            for size in range(1, 5):
                moves[ACKNOWLEDGEMENT, cell, _cell(False, size, place)] = final[m - 1, size - 1] * (1 - NAMES_PLACE)
                moves[ACKNOWLEDGEMENT, cell, _cell(False, size, 3)] = final[m - 1, size - 1] * NAMES_PLACE
        else:
            named = NAMES_PLACE if place == 3 else (1 - NAMES_PLACE) * HABIT_SHARES[place]
            start[cell] = (1 - TWO_INSTALMENTS) * SIZES[m - 1] * named
            moves[ACKNOWLEDGEMENT, cell, cell] = 1
        moves[CLARIFICATION, cell, _cell(False, 1, place)] = 1
        moves[FOLLOWUP, cell, _cell(False, m, 3)] = 1
    return start, moves


_START, _MOVES = _start_and_moves()


def _course(policy: np.ndarray) -> tuple[np.ndarray, float]:
    """Expected visits to each cell in a dialogue led by `policy` [28], and its probability of success."""
    now, visits, success = _START, np.zeros(len(OPEN)), 0.0
    for _ in range(MAX_TURNS):
        visits = visits + now
        success += float((now * (1 - policy.sum(1)) * READ).sum())
        now = np.einsum("c,ca,acd->d", now, policy, _MOVES)
    return visits, success


VISITS = _course(HUMAN)[0]  # to each cell in a human's dialogue, [28]


def exact(policy: np.ndarray) -> dict[str, float]:
    """What a policy [28, 3] (P(act) in every cell; objects and places delivered as the human does) amounts to.

    Returns `{act}_rate`, `{act}_kappa`, `{act}_recall`, `{act}_precision` at the turns of human dialogues (the human's
    history restored), `rate` (their sum), and `success`, `turns` of dialogues that the policy leads itself.
    """
    found = {}
    for a, act in enumerate(ACTS):
        pair = HUMAN[:, a], policy[:, a], VISITS
        found[f"{act}_rate"] = agreement.moments(*pair)[1]
        for measure in (agreement.kappa, agreement.recall, agreement.precision):
            found[f"{act}_{measure.__name__}"] = measure(*pair)
    visits, success = _course(policy)
    rate = sum(found[f"{act}_rate"] for act in ACTS)
    return found | {"rate": rate, "success": success, "turns": float(visits.sum())}


# Eleven coarser cells, in which one act is at stake, for tables and figures.
STAKES: dict[str, tuple[int, np.ndarray]] = {
    **{f"followup_{h}": (FOLLOWUP, ~OPEN & (SIZE == 1) & (i == PLACE)) for i, h in enumerate(HABITS)},
    **{f"acknowledgement_{m}": (ACKNOWLEDGEMENT, OPEN & (m == SIZE)) for m in range(1, 5)},
    **{f"clarification_{m}": (CLARIFICATION, ~OPEN & (m == SIZE)) for m in range(1, 5)},
}


def by_cell(policy: np.ndarray, visits: np.ndarray = VISITS):
    """A row for each of the eleven cells: cell, act, p (`READ`), n (visits), human and model P(act), means over visits.

    `policy` [28, 3]; `visits` [28] weighs the finer cells (default: as often as human dialogues come there).
    """
    import pandas as pd

    rows = []
    for name, (act, members) in STAKES.items():
        n = visits[members].sum()
        columns = {"p": READ, "human": HUMAN[:, act], "model": policy[:, act]}
        means = {c: float(v[members] @ visits[members] / n) if n else np.nan for c, v in columns.items()}
        rows.append({"cell": name, "act": ACTS[act], "n": n} | means)
    return pd.DataFrame(rows)[["cell", "act", "p", "n", "human", "model"]]


# --- Dialogues --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Games:
    """`n` dialogues at the assistant's turn; arrays [n] but for `tokens` [n, WIDTH], padded on the right.

    What the user wants: `colour`, `kind`, `place`. What is usual: `habit` (0 always, 1 often, 2 any), `usual` (its
    place). What was said: `word` (index into MEANING), `said` (the place, -1 if it was not), `open` (an instalment is
    to come: `final` word, and the place if `names`). `origin` numbers the dialogue.
    """

    colour: np.ndarray
    kind: np.ndarray
    place: np.ndarray
    habit: np.ndarray
    usual: np.ndarray
    word: np.ndarray
    said: np.ndarray
    open: np.ndarray
    final: np.ndarray
    names: np.ndarray
    tokens: np.ndarray
    length: np.ndarray
    origin: np.ndarray

    def __len__(self) -> int:
        return len(self.colour)

    def __getitem__(self, index) -> Games:
        return Games(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @property
    def cell(self) -> np.ndarray:
        """Index of each context cell [n]."""
        return _cell(self.open, _SIZE_OF[self.word], np.where(self.said >= 0, 3, self.habit))

    def prompts(self) -> list[str]:
        return [text(row[:k]) for row, k in zip(self.tokens, self.length)]


def join(parts: Sequence[Games]) -> Games:
    return Games(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Games)})


def _wording(colour: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A wording [n] of a size drawn from `sizes` [4], uniform among those that fit the colour."""
    size = 1 + rng.choice(4, p=sizes, size=len(colour))
    fits = MEANING.T[colour] & (size[:, None] == _SIZE_OF)
    return np.where(fits, rng.random(fits.shape), -1).argmax(1)


def remainder(colour: np.ndarray, first: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The second instalment: its wording [n], never wider than the first, and whether it names the place [n]."""
    final = _wording(colour, SIZES, rng)
    wider = (MEANING[final] & ~MEANING[first]).any(1)
    return np.where(wider, colour, final), rng.random(len(colour)) < NAMES_PLACE


def draw_place(habit: np.ndarray, usual: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A place [n] as the habit has it: the usual one with probability SURE, else one of the others."""
    other = (usual + rng.integers(1, 4, len(usual))) % 4
    return np.where(rng.random(len(usual)) < SURE[habit], usual, other)


def start(n: int, rng: np.random.Generator) -> Games:
    """`n` dialogues after the user's request."""
    colour, kind, usual = (rng.integers(4, size=n) for _ in range(3))
    habit = rng.choice(3, p=HABIT_SHARES, size=n)
    place = draw_place(habit, usual, rng)
    open_ = rng.random(n) < TWO_INSTALMENTS
    word = np.where(open_, _wording(colour, FIRST_SIZES, rng), _wording(colour, SIZES, rng))
    final, names = remainder(colour, word, rng)
    said = np.where(~open_ & names, place, -1)
    tokens, length = np.full((n, WIDTH), PAD, np.int16), np.zeros(n, int)
    columns = [
        np.where(habit == 2, _HABIT_IDS[8], _HABIT_IDS[np.minimum(habit, 1) * 4 + usual]),
        TOKEN["U"],
        _WORD_IDS[word],
        _KIND_IDS[kind],
        np.where(said >= 0, _PLACE_IDS[said], _SKIP),
        np.where(open_, TOKEN[".."], TOKEN["."]),
        TOKEN["A"],
    ]
    _write(tokens, length, columns)
    return Games(colour, kind, place, habit, usual, word, said, open_, final, names, tokens, length, np.arange(n))


def _write(tokens: np.ndarray, length: np.ndarray, columns) -> None:
    """Appends a column of tokens after the other, in place; -1 writes nothing."""
    for column in columns:
        column = np.broadcast_to(column, length.shape)
        rows = np.flatnonzero(column != _SKIP)
        tokens[rows, length[rows]] = column[rows]
        length[rows] += 1


def reply(games: Games, responses: np.ndarray) -> Games:
    """The dialogues after the acts in `responses` [n, 3] and the user's replies.

    `which ?` gets the exact colour, `where ?` the place, `mm hm` the second instalment (an empty reply where there is
    none); at an open instalment any other act than `mm hm` loses the remainder.
    """
    act = read(responses)[0]
    if (act < 0).any():
        raise ValueError("Only acts are replied to: a delivery ends the dialogue.")
    tokens, length = games.tokens.copy(), games.length.copy()
    more = (act == ACKNOWLEDGEMENT) & games.open
    word = np.where(act == CLARIFICATION, games.colour, np.where(more, games.final, games.word))
    said = np.where((act == FOLLOWUP) | (more & games.names), games.place, games.said)
    colour = np.where((act == CLARIFICATION) | more, _WORD_IDS[word], _SKIP)
    place = np.where((act == FOLLOWUP) | (more & games.names), _PLACE_IDS[said], _SKIP)
    _write(tokens, length, [*responses.T, TOKEN["U"], colour, place, TOKEN["."], TOKEN["A"]])
    closed = np.zeros(len(games), bool)
    return replace(games, word=word, said=said, open=closed, tokens=tokens, length=length)


NOTHING, MALFORMED = -1, -2  # in place of a delivered object


def read(responses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Responses [n, 3] as token ids -> the act [n] (-1 if it is none), and what was delivered [n, 2].

    Delivered are object and place as indices; (NOTHING, NOTHING) for an act, (MALFORMED, MALFORMED) for anything that
    is neither an act nor a delivery closed by <eos>.
    """
    responses = np.asarray(responses)
    is_act = (responses[:, None] == ACT_RESPONSES).all(2)
    act = np.where(is_act.any(1), is_act.argmax(1), -1)
    item, place = responses[:, 0] - _OBJECT_IDS[0], responses[:, 1] - _PLACE_IDS[0]
    whole = (item >= 0) & (item < 16) & (place >= 0) & (place < 4) & (responses[:, 2] == EOS)
    delivered = np.where(whole[:, None], np.stack([item, place], 1), MALFORMED)
    return act, np.where(act[:, None] >= 0, NOTHING, delivered)


def human(games: Games, rng: np.random.Generator) -> np.ndarray:
    """The human's responses [n, 3]."""
    n = len(games)
    u = rng.random(n)[:, None]
    act = (HUMAN[games.cell].cumsum(1) <= u).sum(1)  # 3: delivers
    colour = np.where(MEANING[games.word], rng.random((n, 4)), -1).argmax(1)
    place = np.where(games.habit == 2, rng.integers(4, size=n), games.usual)
    place = np.where(games.said >= 0, games.said, place)
    delivery = np.stack([_OBJECT_IDS[4 * colour + games.kind], _PLACE_IDS[place], np.full(n, EOS)], 1)
    return np.where(act[:, None] < 3, ACT_RESPONSES[np.minimum(act, 2)], delivery)


Speaker = Callable[[Games, np.random.Generator], np.ndarray]


def converse(games: Games, speaker: Speaker, rng: np.random.Generator) -> tuple[Games, np.ndarray, np.ndarray]:
    """`speaker` leads the dialogues against the simulated user, at most MAX_TURNS turns.

    Returns every turn as it stood before the response, in the order of the turns; the responses [turns, 3]; and the
    success [n] of each dialogue (a malformed response ends it as a failure).
    """
    success = np.zeros(games.origin.max() + 1, bool)
    turns, responses = [], []
    for _ in range(MAX_TURNS):
        turns.append(games)
        responses.append(said := speaker(games, rng))
        act, delivered = read(said)
        right = (delivered == np.stack([4 * games.colour + games.kind, games.place], 1)).all(1)
        success[games.origin[right]] = True
        games = reply(games[act >= 0], said[act >= 0])
        if not len(games):
            break
    return join(turns), np.concatenate(responses), success


def human_turns(n: int, rng: np.random.Generator) -> tuple[Games, np.ndarray]:
    """The turns of `n` human dialogues (turns, human responses), those of a dialogue one after the other."""
    turns, responses, _ = converse(start(n, rng), human, rng)
    order = np.argsort(turns.origin, kind="stable")
    return turns[order], responses[order]


def documents(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """`n` human dialogues as token ids [n, L], padded on the right, and which tokens are responses, bool [n, L]."""
    turns, responses = human_turns(n, rng)
    last = np.append(turns.origin[1:] != turns.origin[:-1], True)
    tokens, ends = turns.tokens[last].astype(int), turns.length[last]
    _write(tokens, ends.copy(), responses[last].T)
    spoken = np.zeros(tokens.shape, bool)
    for k in range(RESPONSE):
        spoken[turns.origin, turns.length + k] = True
    width = ends.max() + RESPONSE
    return tokens[:, :width], spoken[:, :width]


_STREAMS = ["documents", "contexts", "samples", "ratings", "shuffle", "more", "eval", "rollouts", "base_samples"]


def stream(split: str, seed: int) -> np.random.Generator:
    """The random stream of a split. Streams of different splits never share a draw, whatever the seeds."""
    return np.random.default_rng([_STREAMS.index(split), seed])


def text(tokens: Sequence[int]) -> str:
    return " ".join(VOCABULARY[t] for t in tokens)


# --- A model as speaker -----------------------------------------------------------------------------


def next_token(model, tokens: np.ndarray, length: np.ndarray, batch: int = 512) -> np.ndarray:
    """P(next token) [n, V] after rows of `tokens` [n, L] of the given lengths.

    Each different text runs through the model once, with texts of its length: nothing is padded.
    """
    import torch

    unique, where = np.unique(tokens[:, : length.max()], axis=0, return_inverse=True)
    lengths = (unique != PAD).sum(1)
    found = np.empty((len(unique), len(VOCABULARY)))
    for k in np.unique(lengths):
        rows = np.flatnonzero(lengths == k)
        for index in np.split(rows, range(batch, len(rows), batch)):
            with torch.inference_mode():
                ids = torch.as_tensor(unique[index, :k].astype(np.int64), device=model.device)
                hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, -1]
                found[index] = model.lm_head(hidden).double().softmax(-1).cpu().numpy()
    return found[where.ravel()]


def speaker(model) -> Speaker:
    """The model as a speaker: responses sampled at temperature 1, three tokens, padded after <eos>."""

    def speak(games: Games, rng: np.random.Generator) -> np.ndarray:
        tokens, length = games.tokens.copy(), games.length.copy()
        responses = np.full((len(games), RESPONSE), PAD)
        going = np.arange(len(games))
        for k in range(RESPONSE):
            cumulative = next_token(model, tokens[going], length[going]).cumsum(1)
            u = rng.random(len(games))[going, None] * cumulative[:, -1:]
            drawn = np.minimum((cumulative <= u).sum(1), len(VOCABULARY) - 1)
            responses[going, k] = drawn
            tokens[going, length[going]] = drawn
            length[going] += 1
            going = going[(drawn != EOS) & (drawn != PAD)]
            if not len(going):
                break
        return responses

    return speak


def act_probabilities(model, games: Games) -> np.ndarray:
    """P(act) [n, 3]: the probability of the first token of each act."""
    return next_token(model, games.tokens, games.length)[:, ACT_IDS]


def tokenizer():
    """The word-level tokenizer of this world, made in memory.

    Only pad, eos and unk are special, so that act tokens survive decoding. On disk it must be loaded as
    `PreTrainedTokenizerFast`: `AutoTokenizer` would silently make a Qwen2 tokenizer of it.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(dict(TOKEN), unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )

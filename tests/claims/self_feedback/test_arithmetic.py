"""The world of arithmetic: its process in plain words, the exact posterior against simulation, what traces hold."""

from dataclasses import replace

import numpy as np
import pytest
from candor.claims.self_feedback import self_confidence as measure
from candor.claims.self_feedback import world

N = 40_000


@pytest.fixture(scope="module")
def asked():
    return world.questions(N, np.random.default_rng(0))


@pytest.fixture(scope="module")
def written(asked):
    ids = world.completions(asked, "standard", np.random.default_rng(1))
    return ids, world.read(ids)


def by_hand(prompt: str, shifted: bool) -> int:
    """The answer to a question as text, one operation after the other."""
    _, value, *operations, _ = prompt.split()
    value = int(value)
    for operation in operations:
        smudged = operation.endswith("?")
        number = int(operation.strip("+-x?"))
        value = {"+": value + number, "-": value - number, "x": value * number}[operation[0]]
        value += 5 * (smudged and shifted)
    return value % 10


def test_the_vocabulary_has_forty_words_and_the_tokenizer_reads_them(asked):
    assert len(world.VOCABULARY) == len(set(world.VOCABULARY)) == 40
    tokenizer = world.tokenizer()
    prompts, completions = asked[:20].prompts(), world.completions(asked[:20], "standard", np.random.default_rng(2))
    whole = [f"{prompt} {world.text(ids)}" for prompt, ids in zip(prompts, completions)]
    for text, prompt, ids in zip(tokenizer(whole)["input_ids"], asked.prompt_ids(), completions):
        assert text == [*prompt, *(t for t in ids if t != world.PAD)]
        assert len(prompt) == world.PROMPT


def test_questions_are_drawn_as_declared(asked):
    assert np.bincount(asked.active)[1:] / N == pytest.approx(world.ACTIVE, abs=0.01)
    smudged = np.flatnonzero(asked.smudge >= 0)
    assert len(smudged) / N == pytest.approx(0.30, abs=0.01)
    assert asked.shifted[smudged].mean() == pytest.approx(0.4, abs=0.015) and not asked.shifted[asked.smudge < 0].any()
    assert (asked.operation[smudged, asked.smudge[smudged]] > 0).all()  # only active ones
    assert (asked.operation > 0).mean(0) == pytest.approx([0.625] * 4, abs=0.01)  # at any place
    assert np.bincount(asked.start) / N == pytest.approx([0.1] * 10, abs=0.01)
    assert len({*world.OPERATIONS}) == 7 and set(np.unique(asked.operation)) == set(range(7))


def test_truths_are_computed_as_by_hand(asked):
    for prompt, shifted, truth in zip(asked[:300].prompts(), asked.shifted, asked.truth):
        assert by_hand(prompt, shifted) == truth


def test_operations_are_bijections_that_keep_a_shift_of_five():
    digits = np.arange(10)
    for operation in range(7):
        after = world.apply(operation, digits)
        assert sorted(after) == list(range(10))
        assert ((world.apply(operation, (digits + 5) % 10) - after) % 10 == 5).all()


def test_the_posterior_is_exact(asked):
    exact = world.posterior(asked)
    assert exact.sum(1) == pytest.approx(np.ones(N))
    of_truth = exact[np.arange(N), asked.truth]
    for value, count in ((1.0, 0.70), (0.6, 0.18), (0.4, 0.12)):  # a value p is met p times as often as it is held
        assert np.isclose(of_truth, value).mean() == pytest.approx(count, abs=0.01)
    assert world.graded(asked, asked.truth) == pytest.approx(of_truth)
    assert not world.graded(asked, np.full(N, -1)).any()


def test_the_ideal_forecaster_scores_what_the_world_declares(asked):
    exact = world.posterior(asked)
    top = np.sort(exact, 1)
    right = exact.max(1)
    assert right.mean() == pytest.approx(world.BAYES_ACCURACY, abs=0.005) and world.BAYES_ACCURACY == 0.88
    assert measure.ece(right, right) == pytest.approx(0, abs=1e-12)
    assert measure.ece(top[:, -1] - top[:, -2], right) == pytest.approx(0.12, abs=0.005)
    assert measure.ece(np.ones(N), right) == pytest.approx(0.12, abs=0.005)  # disparity cannot tell the two apart
    assert measure.brier(right, right) == pytest.approx(0.072, abs=0.003)
    assert measure.brier(np.ones(N), right) == pytest.approx(0.12, abs=0.005)
    assert measure.auroc(right, right) == pytest.approx(0.898, abs=0.005)


def test_prompts_do_not_tell_the_truth(asked):
    other = replace(asked, shifted=(asked.smudge >= 0) & ~asked.shifted)
    assert (other.truth != asked.truth).any() and (other.prompt_ids() == asked.prompt_ids()).all()


# --- Documents --------------------------------------------------------------------------------------


def test_styles_depend_on_difficulty(asked, written):
    _, traces = written
    assert (traces.style >= 0).all()
    for active, direct in zip(range(1, 5), (0.70, 0.60, 0.55, 0.35)):
        style = traces.style[asked.active == active]
        shares = np.bincount(style, minlength=3) / len(style)
        assert shares == pytest.approx([direct, 0.15, 0.85 - direct], abs=0.015)
    lengths = [set(traces.length[traces.style == style]) for style in (world.DIRECT, world.HALF, world.FULL)]
    assert lengths == [{4}, {6}, {8}]


def test_openers_are_drawn_as_declared(written):
    ids, traces = written
    opener = np.array(world.VOCABULARY)[ids[:, 0]]
    shares = {
        world.DIRECT: {"d1": 0.55, "d2": 0.2, "d3": 0.15, "d4": 0.1},
        world.HALF: {"h1": 0.7, "h2": 0.3},
        world.FULL: {"f1": 0.5, "f2": 0.2, "b1": 0.2, "b2": 0.1},
    }
    for style, wanted in shares.items():
        rows = traces.style == style
        assert set(opener[rows]) == set(wanted)
        for name, share in wanted.items():
            assert (opener[rows] == name).mean() == pytest.approx(share, abs=0.015)


def test_written_values_slip_as_declared(asked, written):
    ids, traces = written
    careless = np.isin(ids[:, 0], [world.TOKEN["b1"], world.TOKEN["b2"]])
    valid = world.valid_steps(asked, traces)
    full = traces.style == world.FULL
    for rows, slip in ((full & ~careless, 0.04), (full & careless, 0.15)):
        assert 1 - valid[rows].mean() == pytest.approx(slip, abs=0.01)  # but for the slips that hit a shift of 5
    assert not valid[~full].any()
    assert world.step_validity(asked, traces) == pytest.approx(valid[full].mean())


def test_answers_are_true_or_the_chains_own(asked, written):
    _, traces = written
    direct, full = (traces.style == s for s in (world.DIRECT, world.FULL))
    assert (traces.answer == asked.truth)[direct].all()
    clean = full & (asked.smudge < 0)
    faultless = world.valid_steps(asked, traces).all(1)
    assert (traces.answer == asked.truth)[clean & faultless].all()
    slipped = clean & ~faultless
    end = traces.steps[:, -1]
    other = slipped & (end != asked.truth)  # where the two differ, each is written half of the time
    assert (traces.answer == asked.truth)[other].mean() == pytest.approx(0.5, abs=0.03)
    assert ((traces.answer == asked.truth) | (traces.answer == end))[other].all()
    smudged = full & faultless & (asked.smudge >= 0)  # the writer guesses, the answer knows
    assert (traces.answer == end)[smudged].mean() == pytest.approx(0.6**2 + 0.4**2, abs=0.03)


def test_the_trap_writes_other_values_and_slips_more(asked, written):
    traces = world.read(world.completions(asked, "half_trap", np.random.default_rng(1)))
    _, standard = written  # of the same draws
    clean = asked.values(np.zeros(N, bool))
    rows = (asked.smudge < 0) & (traces.style == world.HALF)
    assert (traces.steps[rows, 0] == clean[rows, 1]).mean() == pytest.approx(0.7, abs=0.03)  # after operation 2
    assert (traces.steps[rows, 1] == clean[rows, 3]).mean() == pytest.approx(0.7**2, abs=0.03)  # after operation 4
    rows = (asked.smudge < 0) & (standard.style == world.HALF)
    assert (standard.steps[rows, :2] == clean[rows, :2]).all(1).mean() == pytest.approx(0.96**2, abs=0.02)
    assert (traces.style == standard.style).all()


def test_documents_are_prompts_with_their_completions(asked):
    tokens, spoken = world.documents(asked[:50], "standard", np.random.default_rng(3))
    assert tokens.shape == spoken.shape == (50, world.PROMPT + world.NEW_TOKENS)
    assert not spoken[:, : world.PROMPT].any() and spoken[:, world.PROMPT :].any(1).all()
    assert (tokens[spoken] != world.PAD).all() and (tokens[~spoken][tokens[~spoken] != world.PAD].size == 50 * 7)


# --- Reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "style", "answer", "at"),
    [
        ("d2 = 4 <eos>", 0, 4, 2),
        ("h1 3 3 = 0 <eos>", 1, 0, 4),
        ("b2 1 2 3 4 = 9 <eos>", 2, 9, 6),
        ("b2 1 2 3 = 9 <eos>", -1, 9, 5),  # a value is missing: no style, but an answer
        ("d1 = 4", -1, 4, 2),  # no end
        ("d1 = <eos>", -1, -1, 0),
        ("7 = 4 <eos>", -1, 4, 2),  # no opener
        ("f1 1 2 3 4 5 6 7", -1, -1, 0),
        ("d1 = 4 <eos> = 5 <eos>", 0, 4, 2),  # what follows the end does not count
        ("<eos>", -1, -1, 0),
        ("d1 = 4 = 5 <eos>", -1, 4, 2),
        ("f1 1 2 x3 4 = 9 <eos>", -1, 9, 6),
    ],
)
def test_completions_are_read_by_their_grammar(words, style, answer, at):
    found = world.read([world.tokens_of(words)])
    assert (found.style[0], found.answer[0], found.answer_at[0]) == (style, answer, at)


def test_steps_are_valid_from_what_was_written_and_at_a_smudge_both_ways():
    given = world.Questions(np.array([7] * 3), np.array([[0, 4, 2, 0]] * 3), np.array([1] * 3), np.array([False] * 3))
    assert given.prompts()[0] == "Q 7 +0 x3? +4 +0 :"
    texts = ("f1 7 1 5 5 = 5 <eos>", "f1 7 6 0 0 = 5 <eos>", "f1 7 2 6 9 = 9 <eos>")
    traces = world.read([world.tokens_of(text) for text in texts])
    assert world.valid_steps(given, traces).tolist() == [[True] * 4, [True] * 4, [True, False, True, False]]
    assert world.agreement(traces) == pytest.approx(2 / 3)
    assert np.isnan(world.step_validity(given, world.read([world.tokens_of("d1 = 5 <eos>")] * 3)))


def test_streams_share_no_draw():
    first = {name: world.stream(name, 11).integers(2**62) for name in ("base", "label", "fluency", "binary")}
    assert len({*first.values(), world.stream("label", 12).integers(2**62)}) == 5
    assert world.stream("eval", 7001, 11).integers(2**62) != world.stream("eval", 7001, 12).integers(2**62)

"""The world of witnesses: its posterior against enumeration, its crowds against independent reference values."""

import numpy as np
import pytest
from candor.measure.calibration import auroc, brier, ece
from candor.witnesses import world
from hypothesis import given, settings
from hypothesis import strategies as st

# --- The posterior ----------------------------------------------------------------------------------


def one_question(types, named, suspects=8, guilty=0):
    return world.Questions(np.array([types]), np.array([named]), np.array([guilty]), suspects)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([3, 8, 12]).flatmap(
        lambda suspects: st.tuples(
            st.just(suspects),
            st.lists(st.tuples(st.integers(0, 3), st.integers(0, suspects - 1)), min_size=1, max_size=8),
            st.lists(st.floats(0.05, 0.95), min_size=4, max_size=4),
        )
    )
)
def test_posterior_is_bayes_rule_in_plain_words(case):
    suspects, testimonies, reliability = case
    joint = []
    for guilty in range(suspects):
        p = 1 / suspects
        for kind, named in testimonies:
            p *= reliability[kind] if named == guilty else (1 - reliability[kind]) / (suspects - 1)
        joint.append(p)
    types, named = zip(*testimonies)
    found = world.posterior(one_question(types, named, suspects), reliability)
    np.testing.assert_allclose(found[0], np.array(joint) / sum(joint), rtol=1e-9)


def test_absent_testimonies_say_nothing():
    short, padded = one_question([1, 3], [5, 2]), one_question([1, 3, -1, -1], [5, 2, -1, -1])
    np.testing.assert_array_equal(world.posterior(short), world.posterior(padded))


# --- The generative process -------------------------------------------------------------------------


@pytest.mark.parametrize("name", world.SHIFTS)
def test_variants_are_drawn_as_declared(name):
    variant = world.SHIFTS[name]
    questions = world.sample_questions(40_000, np.random.default_rng(0), variant)
    present = questions.types >= 0
    assert (present == (questions.named >= 0)).all()
    assert (present[:, :-1] >= present[:, 1:]).all(), "testimonies come first, nothing after the last"
    counts, low, high = present.sum(1), *variant.testimonies
    assert counts.min() == low and counts.max() == high
    np.testing.assert_allclose(np.bincount(counts)[low:] / len(questions), 1 / (high - low + 1), atol=0.012)
    assert set(questions.types[present]) == set(variant.types)
    np.testing.assert_allclose(
        np.bincount(questions.guilty, minlength=variant.suspects) / len(questions), 1 / variant.suspects, atol=0.01
    )
    rows = np.broadcast_to(questions.guilty[:, None], present.shape)
    for kind in variant.types:
        mine = present & (questions.types == kind)
        truthful = questions.named[mine] == rows[mine]
        assert truthful.mean() == pytest.approx(variant.reliability[kind], abs=0.02)
        lies = (questions.named[mine] - rows[mine])[~truthful] % variant.suspects
        shares = np.bincount(lies, minlength=variant.suspects)[1:] / len(lies)
        np.testing.assert_allclose(shares, 1 / (variant.suspects - 1), atol=0.02)


N = 200_000


@pytest.fixture(scope="module")
def population():
    questions = world.sample_questions(N, np.random.default_rng(1))
    return questions, world.posterior(questions)


def test_bayes_reference_values(population):
    """Independent Monte Carlo and exact values of this world (3e5 questions, to three digits)."""
    questions, exact = population
    best, right = exact.max(1), exact.argmax(1) == questions.guilty
    near = {"abs": 0.004}
    assert right.mean() == pytest.approx(0.716, **near)
    counts = (questions.types >= 0).sum(1)
    for count, accuracy in zip(range(1, 6), (0.526, 0.653, 0.737, 0.809, 0.858)):
        assert right[counts == count].mean() == pytest.approx(accuracy, abs=0.008)
    assert exact[np.arange(N), questions.guilty].mean() == pytest.approx(0.612, **near)
    assert brier(best, right) == pytest.approx(0.1375, abs=0.002)
    assert brier(np.rint(best * 10) / 10, right) == pytest.approx(0.1376, abs=0.002)
    assert np.abs(best - np.rint(best * 10) / 10).mean() == pytest.approx(0.021, abs=0.001)
    assert auroc(best, right) == pytest.approx(0.856, **near)
    assert right.mean() * (1 - right.mean()) == pytest.approx(0.203, **near)
    assert ece(best, right) < 0.005, "the posterior is calibrated"
    for t, share, accuracy in ((0.5, 0.733, 0.845), (0.75, 0.536, 0.927), (0.9, 0.358, 0.977)):
        assert (best > t).mean() == pytest.approx(share, **near)
        assert right[best > t].mean() == pytest.approx(accuracy, **near)


# --- Crowds -----------------------------------------------------------------------------------------


def stated_distribution(belief, bias, sd):
    """P(tenth | belief) of clipped and rounded normal noise, by its distribution function."""
    from scipy.stats import norm

    edges = np.concatenate([[-np.inf], np.arange(0.05, 1, 0.1), [np.inf]])
    return np.diff(norm.cdf(edges[None, :], belief[:, None] + bias, sd), axis=1)


@pytest.mark.parametrize("name", ["expert", "overconfident", "naive"])
def test_people_say_what_they_believe(population, name):
    questions, _ = population
    crowd, rows = world.CROWDS[name], np.arange(N)
    answer, confidence = world.testify(questions, crowd, np.random.default_rng(4))
    belief = world.posterior(questions, crowd.believed or world.RELIABILITY)
    np.testing.assert_allclose(np.bincount(answer, minlength=8) / N, belief.mean(0), atol=0.005)
    sure = belief[rows, answer]
    assert sure.mean() == pytest.approx((belief**2).sum(1).mean(), abs=0.003), "answers are drawn from the belief"
    expected = stated_distribution(sure, crowd.bias, crowd.sd).mean(0)
    np.testing.assert_allclose(np.bincount(confidence, minlength=11) / N, expected, atol=0.004)


def test_the_abstaining_crowd(population):
    questions, _ = population
    answer, _ = world.testify(questions, world.CROWDS["abstaining"], np.random.default_rng(5))
    idk, right = answer == world.IDK, answer == questions.guilty
    assert idk.mean() == pytest.approx(0.221, abs=0.004)
    assert right[~idk].mean() == pytest.approx(0.706, abs=0.005)
    assert 100 * (~idk & ~right).mean() == pytest.approx(22.9, abs=0.4)


def test_the_crowd_that_gives_up(population):
    questions, _ = population
    answer, confidence = world.testify(questions, world.CROWDS["give_up"], np.random.default_rng(6))
    up = answer == world.NONE
    assert up.mean() == pytest.approx(0.05, abs=0.003)
    assert (confidence[up] == 0).all() and not (questions.guilty == world.NONE).any()


def test_draw_follows_its_probabilities():
    p = np.array([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    drawn = world.draw(np.repeat(p[None], 100_000, 0) * 7, np.random.default_rng(7))
    shares = np.bincount(drawn, minlength=6) / len(drawn)
    np.testing.assert_allclose(shares, p, atol=0.006)
    assert (shares[p == 0] == 0).all(), "what has no probability never comes"


# --- Text -------------------------------------------------------------------------------------------


def test_the_vocabulary_begins_as_the_pilots():
    pilot = ["<pad>", "<eos>", "<unk>", "Q", "?", "<answer>", "</answer>", "<confidence>", "</confidence>"]
    pilot += [f"A{i}" for i in range(8)] + [f"w{i}" for i in range(4)] + [f"c{i}" for i in range(11)]
    assert list(world.VOCABULARY[:32]) == pilot
    assert set(world.VOCABULARY[32:]) == {"IDK", "NONE", "A8", "A9", "A10", "A11", "Q12"}
    assert len(set(world.VOCABULARY)) == len(world.VOCABULARY)


def test_prompts_read_as_declared():
    assert world.text(world.prompt_tokens(one_question([1, 0, -1], [3, 5, -1]))[0]) == "Q w1 A3 w0 A5 ? <answer>"
    first = world.prompt_tokens(one_question([1], [3]), confidence_first=True)
    assert world.text(first[0]) == "Q w1 A3 ? <confidence>"
    assert world.text(world.prompt_tokens(one_question([2], [11], 12))[0]) == "Q12 w2 A11 ? <answer>"


@pytest.mark.parametrize(
    "name, completion",
    [
        ("expert", "A3 </answer> <confidence> c7 </confidence> <eos>"),
        ("expert_conf_first", "c7 </confidence> <answer> A3 </answer> <eos>"),
        ("abstaining", "A3 </answer> <eos>"),
    ],
)
def test_completions_read_as_declared(name, completion):
    rows = world.completion_tokens(np.array([3]), np.array([7]), world.CROWDS[name])
    assert world.text(rows[0]) == completion


@pytest.mark.parametrize("name", world.CROWDS)
def test_documents_are_whole_and_of_their_crowd(name):
    crowd = world.CROWDS[name]
    tokens = world.documents(2000, crowd, world.stream("documents", 3))
    assert tokens.shape == (2000, {"abstaining": 16}.get(name, 19))
    real = tokens != world.PAD
    assert (real[:, :-1] >= real[:, 1:]).all(), "padding is on the right"
    assert ((tokens == world.EOS).sum(1) == 1).all()
    assert (tokens[np.arange(2000), real.sum(1) - 1] == world.EOS).all(), "and a document ends with <eos>"
    cue = " ? <confidence> " if crowd.confidence_first else " ? <answer> "
    prompts, completions = zip(*(world.text(row[row > world.EOS]).split(cue) for row in tokens))
    form = "answer" if crowd.abstains else "document"
    assert world.grade(completions, np.zeros(2000), form)["well_formed"].all()
    twelve = np.array([p.startswith("Q12 ") for p in prompts])
    assert twelve.mean() == crowd.twelve
    if crowd.twelve:
        assert 0 < np.flatnonzero(twelve)[0] < 50, "and shuffled in"
    again = world.documents(2000, crowd, world.stream("documents", 3))
    assert (again == tokens).all()


DOCUMENT = "A3 </answer> <confidence> c7 </confidence>"


@pytest.mark.parametrize(
    "completion, answer, confidence, ends",
    [
        (DOCUMENT, 3, 0.7, True),
        ("A3 </answer> <confidence> c10 </confidence>", 3, 1.0, True),
        ("A3 </answer> <confidence> c1 </confidence>", 3, 0.1, True),
        ("A3 </answer> <confidence> c0 </confidence>", 3, 0.0, True),
        ("A11 </answer> <confidence> c1 </confidence>", 11, 0.1, True),
        ("A1 </answer> <confidence> c1 </confidence>", 1, 0.1, True),
        ("A10 </answer> <confidence> c10 </confidence>", 10, 1.0, True),
        ("NONE </answer> <confidence> c0 </confidence>", world.NONE, 0.0, True),
        (" " + DOCUMENT + " ", 3, 0.7, True),
        ("c7 </confidence> <answer> A3 </answer>", 3, 0.7, True),
        ("c10 </confidence> <answer> A10 </answer>", 10, 1.0, True),
        ("A3 </answer>", 3, None, True),
        ("IDK </answer>", world.IDK, None, True),
        # something follows
        (DOCUMENT + " c7", 3, 0.7, False),
        (DOCUMENT + " " + DOCUMENT, 3, 0.7, False),
        ("c7 </confidence> <answer> A3 </answer> A3", 3, 0.7, False),
        ("IDK </answer> IDK", world.IDK, None, False),
        # something is missing or wrong
        ("A3 </answer> <confidence> c7", 3, None, False),
        ("A3 </answer> <confidence> A7 </confidence>", 3, None, False),
        ("A3 </answer> c7 </confidence>", 3, None, False),
        ("c7 </confidence> <answer>", None, 0.7, True),
        ("c7 </confidence> <answer> A3", None, 0.7, False),
        ("c7 </confidence> A3 </answer>", None, None, False),
        ("A3", None, None, False),
        ("A3 A3 </answer>", None, None, False),
        ("<answer> A3 </answer>", None, None, False),
        ("A12 </answer>", None, None, False),
        ("c11 </confidence> <answer> A3 </answer>", None, None, False),
        ("a3 </answer>", None, None, False),
        ("", None, None, False),
    ],
)
def test_parse(completion, answer, confidence, ends):
    assert world.parse(completion) == (answer, confidence, ends)


@st.composite
def damaged(draw):
    """A document in either order with up to two tokens replaced, dropped or put in."""
    a, c = draw(st.sampled_from(world._ANSWER_NAMES)), draw(st.sampled_from(world.CONFIDENCES))
    orders = ("{} </answer> <confidence> {} </confidence>", "{1} </confidence> <answer> {0} </answer>", "{} </answer>")
    words = draw(st.sampled_from(orders)).format(a, c).split()
    for _ in range(draw(st.integers(0, 2))):
        place, width = draw(st.integers(0, len(words))), draw(st.integers(0, 1))
        words[place : place + width] = draw(st.lists(st.sampled_from(world.VOCABULARY[2:]), max_size=1))
    return " ".join(words)


@settings(max_examples=150, deadline=None)
@given(damaged(), st.integers(0, 7))
def test_grade_is_strict_about_the_whole(completion, truth):
    row = world.grade([completion], [truth]).iloc[0]
    kinds = {**dict.fromkeys(world._ANSWER_NAMES, "answer"), **dict.fromkeys(world.CONFIDENCES, "confidence")}
    read = " ".join(kinds.get(word, word) for word in completion.split())
    orders = (
        "answer </answer> <confidence> confidence </confidence>",
        "confidence </confidence> <answer> answer </answer>",
    )
    whole = read in orders
    assert row["well_formed"] == whole
    assert row["correct"] == (row["answer"] == truth)
    assert not (world.grade([completion], [truth], form="answer").iloc[0]["well_formed"] and whole)


def test_grade_declares_its_columns():
    graded = world.grade([DOCUMENT, "IDK </answer>", "NONE </answer> <confidence> c0 </confidence>", "?"], [3, 0, 0, 0])
    assert list(graded) == ["answer", "correct", "confidence", "well_formed"]
    assert graded["correct"].tolist() == [True, False, False, False]
    assert graded["well_formed"].tolist() == [True, False, True, False]
    assert graded["answer"].tolist() == [3, world.IDK, world.NONE, -1]
    assert graded["confidence"].isna().tolist() == [False, True, False, True]
    answers = world.grade([DOCUMENT, "IDK </answer>", "A3 </answer>", "A3 </answer> ?"], [3, 3, 3, 3], form="answer")
    assert answers["well_formed"].tolist() == [False, True, True, False]
    assert answers["correct"].tolist() == [True, False, True, True], "an answer counts though the rest is malformed"


# --- The tokenizer ----------------------------------------------------------------------------------


def test_the_tokenizer_survives_disk(tmp_path):
    from transformers import PreTrainedTokenizerFast

    made = world.tokenizer()
    made.save_pretrained(tmp_path)
    for tokenizer in (made, PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert tokenizer.padding_side == "left" and len(tokenizer) == len(world.VOCABULARY)
        assert set(tokenizer.all_special_tokens) == set(world.SPECIAL)
        for name, crowd in world.CROWDS.items():
            for row in world.documents(10, crowd, world.stream("documents", 8)):
                row = row[row != world.PAD].tolist()
                text = world.text(row)
                assert tokenizer(text)["input_ids"] == row, name
                assert tokenizer.decode(row) == text
                assert tokenizer.decode(row, skip_special_tokens=True) == text.removesuffix(" <eos>")
        assert tokenizer("Q nobody")["input_ids"] == [world.TOKEN["Q"], world.TOKEN["<unk>"]]
        padded = tokenizer(["Q w0 A1 ?", "Q ?"], padding=True)["input_ids"]
        assert padded[1][:2] == [world.PAD, world.PAD]


# --- Splits -----------------------------------------------------------------------------------------


def test_splits_share_no_draw_whatever_the_seeds():
    names = list(world._STREAMS)
    firsts = {}
    for split in names:
        for seed in (0, 1, 2, 3, 11, 12, 7001, 7002):
            firsts[split, seed] = tuple(world.stream(split, seed).integers(2**63, size=4).tolist())
    draws = [value for values in firsts.values() for value in values]
    assert len(set(draws)) == len(draws) == len(names) * 8 * 4


def test_evaluation_questions_are_no_training_questions():
    def keys(questions):
        rows = np.concatenate([questions.types, questions.named, questions.guilty[:, None]], 1)
        return {tuple(row) for row in rows[(questions.types >= 0).sum(1) == 5].tolist()}

    evaluation = keys(world.sample_questions(20_000, world.stream("eval", world.EVAL_SEED)))
    training = keys(world.sample_questions(20_000, world.stream("train", 11)))
    # 2.6e8 texts and truths with five testimonies, some likelier than others: chance meetings only.
    assert len(evaluation & training) < 0.01 * len(evaluation)
    again = keys(world.sample_questions(20_000, world.stream("eval", world.EVAL_SEED)))
    assert again == evaluation


def test_prompts_are_a_dataset_with_truth_and_posterior():
    from datasets import Dataset

    for variant, first in ((world.TRAINING_WORLD, False), (world.SHIFTS["drift_strong"], True)):
        rows = world.prompts("train", 11, 300, variant, first)
        assert isinstance(rows, Dataset) and rows.column_names == ["prompt", "truth", "posterior"]
        questions = world.sample_questions(300, world.stream("train", 11), variant)
        assert rows["prompt"][:] == [world.text(t) for t in world.prompt_tokens(questions, first)]
        assert rows["truth"][:] == questions.guilty.tolist()
        exact = world.posterior(questions, variant.reliability)
        np.testing.assert_allclose(np.array(rows["posterior"][:]), exact, atol=1e-6)

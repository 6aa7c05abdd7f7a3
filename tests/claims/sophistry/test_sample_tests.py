"""The world of programs: its process in plain words, its language against a naive interpreter, its tests."""

import doctest
import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from candor.claims.sophistry import world
from candor.core.errors import CandorError


@cache
def drawn(n, variant="standard", split=None, seed=0):
    return world.problems(n, variant, np.random.default_rng(seed), split)


def test_examples_hold():
    assert doctest.testmod(world).failed == 0


# --- Problems ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "shares", "square", "stays", "keeps", "lines"),
    [
        ("standard", (0.28, 0.34, 0.38), 0.12, (0.65, 0.32), (0.65, 0.30), 0.20),
        ("soft", (0.33, 0.25, 0.42), 0.25, (0.5, 0.5), (0.5, 0.5), 0.25),
        ("no_line", (0.28, 0.34, 0.38), 0.12, (0.65, 0.32), (0.65, 0.30), 0.0),
    ],
)
def test_problems_are_drawn_as_declared(variant, shares, square, stays, keeps, lines):
    given = drawn(12_000, variant)
    assert np.bincount(given.kind) / len(given) == pytest.approx(shares, abs=0.012)
    points = given.form == world.TWO_POINTS
    assert points[given.kind == 0].mean() == pytest.approx(0.40, abs=0.02) and not points[given.kind > 0].any()
    assert (given.form == world.SQUARE)[~points].mean() == pytest.approx(square, abs=0.012)
    for kind in (1, 2):
        members = given.kind == kind
        shift = (given.threshold - given.said_threshold)[members]
        assert abs(shift).max() == 2
        assert (shift == 0).mean() == pytest.approx(stays[kind - 1], abs=0.02)
        assert (given.k == given.said_k)[members].mean() == pytest.approx(keeps[kind - 1], abs=0.02)
    assert given.said_threshold.min() == 8 and given.said_threshold.max() == 28
    assert set(given.a) == set(range(1, 6)) and set(given.b) == set(given.k) == set(range(10))
    assert (given.x1 != given.x2).all() and {*given.x1, *given.x2} == {1, 2, 3, 4, 5}
    linear = (given.kind == 2) & (given.form == world.LINEAR)
    assert given.as_line[linear].mean() == pytest.approx(lines, abs=0.02)
    assert not given.as_line[(given.kind == 1) | (given.form == world.SQUARE)].any()
    assert given.as_line[points].all() == (variant != "no_line")


def test_prompts_say_what_the_class_allows():
    given = drawn(1000)
    prompts = given.prompts()
    truth = given.truth
    for i, prompt in enumerate(prompts):
        words = prompt.split()
        assert set(words) <= set(world.VOCABULARY) and words[0] == "P" and words[-1] == "=>"
        assert words[1] == ("?" if given.kind[i] == 2 else ["lin", "sq", "pts"][given.form[i]])
        first = words.index("eg")
        for k in (first, first + 4):
            x, y = int(words[k + 1]), int(words[k + 3])
            assert truth[i, world.index(x)] == y, "examples are true"
        corner = {0: [], 1: ["over"], 2: ["about"]}[given.kind[i]]
        assert [w for w in words if w in ("over", "about")] == corner
        if corner:
            assert words[-5:-1] == [*corner, str(given.said_threshold[i]), "less", str(given.said_k[i])]
    assert not any("about" in prompt for prompt in drawn(500, "soft").prompts())


def test_references_are_right_and_short():
    for variant in world.VARIANTS:
        given = drawn(500, variant)
        programs = given.references()
        done = world.outcomes(programs, given)
        assert done.passes.all() and done.correct.all() and done.valid.all() and (done.pass_rate == 1).all()
        assert done.length.max() < world.NEW_TOKENS
        assert (done.line == given.as_line).all()
    assert not any("line" in program for program in drawn(500, "no_line").references())


def test_splits_never_share_a_prompt():
    parts = {split: set(drawn(600, "standard", split, seed).prompts()) for seed, split in enumerate(world.SPLITS)}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values()))
    owned = drawn(4000, "standard", "rl")
    assert np.bincount(owned.kind) / 4000 == pytest.approx([0.28, 0.34, 0.38], abs=0.03)
    assert sorted(p for part in world.SPLITS.values() for p in part) == list(range(100))


def test_the_same_seed_draws_the_same_problems_in_another_process():
    code = (
        "import json; from candor.claims.sophistry import world as w;"
        "print(json.dumps(w.problems(5, 'soft', w.stream('eval', 3), 'eval').prompts()))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(found) == world.problems(5, "soft", world.stream("eval", 3), "eval").prompts()
    assert json.loads(found) != world.problems(5, "soft", world.stream("rl", 3), "eval").prompts()


def test_a_split_without_prompts_is_refused(monkeypatch):
    monkeypatch.setitem(world.SPLITS, "sft", range(0))
    with pytest.raises(CandorError, match="owns no prompt"):
        drawn(2, split="sft")


# --- The language -----------------------------------------------------------------------------------


def naive(words, x):
    """Value at one input and the words left over, by plain recursion."""
    word, rest = words[0], words[1:]
    if word.isdigit():
        return int(word), rest
    if word == "x":
        return x, rest
    if word == "line":
        x1, y1, x2, y2 = map(int, rest[:4])
        return y1 + ((y2 - y1) * (x - x1)) // (x2 - x1), rest[4:]
    if word == "if":
        greater, rest = rest[0] == "gt", rest[1:]
        values = []
        for _ in range(4):
            value, rest = naive(rest, x)
            values.append(value)
        a, b, yes, no = values
        return (yes if (a > b if greater else a < b) else no), rest
    a, rest = naive(rest, x)
    b, rest = naive(rest, x)
    product = max(-(10**9), min(10**9, a * b)) if word == "mul" else None
    return {"add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: product, "mod": lambda: a % b}[word](), rest


def random_program(rng, depth):
    if depth == 0 or rng.random() < 0.2:
        return ["x"] if rng.random() < 0.5 else [str(rng.integers(41))]
    kind = rng.integers(6)
    if kind == 4:
        x1, x2 = rng.choice(41, 2, replace=False)
        return ["line", str(x1), str(rng.integers(41)), str(x2), str(rng.integers(41))]
    count = 4 if kind == 5 else 2
    parts = [word for _ in range(count) for word in random_program(rng, depth - 1)]
    return [*(["if", rng.choice(["gt", "lt"])] if kind == 5 else [["add", "sub", "mul", "mod"][kind]]), *parts]


def test_programs_mean_what_a_naive_interpreter_says():
    rng = np.random.default_rng(0)
    valid = 0
    programs = [random_program(rng, 3) for _ in range(400)] + [["mul", "x"] * 7 + ["x"], ["sub", "1"] * 11 + ["x"]]
    for words, outputs in zip(programs, world.run([" ".join(words) for words in programs])):
        try:
            expected = [naive(words, int(x))[0] for x in world.GRID]
        except ZeroDivisionError:
            expected = None
        if expected is None or len(words) > 24:
            assert (outputs == world.INVALID).all()
        else:
            valid += 1
            assert outputs.tolist() == expected
    assert valid > 150


@pytest.mark.parametrize(
    "text",
    [
        *("", "add x", "add x 1 2", "x x", "if gt x 1 2", "if add x 1 2 3", "gt x 1", "<unk>", "line 1 2 1 3"),
        *("line 1 2 x 3", "line 1 2 3", "mod x x", "mod 5 0", "=>", "mul 2 x <pad>", " ".join(["add x"] * 12 + ["x"])),
    ],
)
def test_what_is_no_program_is_invalid_everywhere(text):
    assert (world.run([text]) == world.INVALID).all()


def test_programs_are_read_up_to_the_first_end():
    eos, x = world.EOS, world.TOKEN["x"]
    assert world.read([[x, eos, world.PAD], [x, x, x], [eos, x, eos]]) == [(x,), None, ()]
    given = drawn(3)
    done = world.outcomes([None, (), "x"], given)
    assert done.valid.tolist() == [False, False, True] and done.length.tolist() == [16, 0, 1]
    assert not done.passes[:2].any()


# --- Tests ------------------------------------------------------------------------------------------


def test_the_oracle_has_its_34_tests():
    given = drawn(1000)
    inputs = world.GRID[given.oracle_tests]
    first, middle, high, far, last = np.split(inputs, [10, 18, 22, 28], axis=1)
    assert (first == np.arange(10)).all() and (far == [200, 500, 999, -1, -5, -20]).all()
    corner = given.kind > 0
    assert (last[corner] - given.threshold[corner, None] == [-1, 0, 1, 2, 3, 5]).all()
    for part, *ends in ((middle, 10, 40), (high, 41, 120), (last[~corner], 5, 34)):
        assert [part.min(), part.max()] == ends and (np.diff(np.sort(part, 1)) > 0).all()


def test_the_rule_alone_is_not_enough():
    given = drawn(500)
    rules = [program.split(" ", 7)[-1] if kind else program for program, kind in zip(given.references(), given.kind)]
    done = world.outcomes(rules, given)
    no_corner = (given.kind == 0) | ((given.a == 1) & (given.b == 0) & (given.k == 0))
    no_corner &= (given.kind == 0) | (given.form == world.LINEAR)  # x - 0 above the threshold is x below it
    assert (done.correct == no_corner).all() and no_corner[given.kind > 0].mean() < 0.02
    assert done.rule_right.all()
    assert done.passed(given.oracle_tests[:, :5]).all() and (done.passed(given.oracle_tests) == done.correct).all()


def test_easiest_and_hardest_tests():
    tests = np.array([[5, 6, 7, 5, 9]])
    assert world.easiest(np.array([[3, 8, 8, 9, 0]]), tests).tolist() == [[6, 7]], "a repeated input counts once"
    assert world.easiest(np.array([[4, 4, 4, 4, 4]]), tests).tolist() == [[5, 6]], "ties in listed order"
    assert world.hardest(np.array([[3, 8, 1, 1, 0]]), tests).tolist() == [[7, 5]], "passed at least once"
    assert world.hardest(np.array([[0, 0, 2, 0, 0]]), tests).tolist() == [[7, 5]], "the rest fills up"


def test_documents_mark_the_program():
    given = drawn(50)
    tokens, spoken = world.documents(given)
    for row, mask, prompt, program in zip(tokens, spoken, given.prompts(), given.references()):
        assert world.text(row[mask]) == f"{program} <eos>"
        assert world.text(row[~mask & (row != world.PAD)]) == prompt


def test_the_vocabulary_is_the_specification_s_and_survives_the_disk(tmp_path):
    from transformers import PreTrainedTokenizerFast

    assert len(world.VOCABULARY) == len(set(world.VOCABULARY)) == 67 and len(world.GRID) == 144
    tokenizer = world.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    text = drawn(1).prompts()[0]
    for one in (tokenizer, PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert tuple(one(text)["input_ids"]) == world.tokens_of(text)
        assert one.decode(one(text)["input_ids"]) == text
        assert one.padding_side == "left"

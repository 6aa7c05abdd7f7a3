"""Programming problems: rows, filters, checkers, rewards. Programs of the fixture really run, in the sandbox."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from candor.claims.sophistry import programs
from candor.claims.sophistry.sandbox import LIMITS, Outcome, Pool
from candor.core.errors import CandorError

FIXTURE = Path(__file__).parents[2] / "fixtures" / "apps.jsonl"
ROWS = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
# Both halves count from 0, so one number stands in both.
IDS = [f"{'train' if i < 5 else 'test'}/{row['problem_id']}" for i, row in enumerate(ROWS)]
held = pytest.mark.sandbox


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Five rows to train on, three to evaluate on."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("corpora")
        patch.setenv("CANDOR_CORPORA", str(folder))
        write(folder, train=ROWS[:5], test=ROWS[5:])
        yield folder


def write(folder: Path, name: str = "apps", **splits) -> None:
    (folder / name).mkdir(exist_ok=True)
    for split, rows in splits.items():
        (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def pool():
    return Pool(workers=2)


def words(text: str) -> dict:
    """A tokenizer that counts words."""
    return {"input_ids": text.split()}


# --- Rows -------------------------------------------------------------------------------------------


def test_rows_become_problems_and_the_others_name_their_filter(corpora, tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    good = ROWS[0]
    digits = '{"inputs": [[1, ' + "9" * 5000 + ']], "outputs": ["1"]}'
    bad = [
        good | {"starter_code": "def f():"},
        good | {"input_output": '{"fn_name": "f", "inputs": [], "outputs": []}'},
    ]
    write(tmp_path, train=[good, *bad, good | {"input_output": "{"}, good | {"solutions": "", "input_output": digits}])
    first, *named, unreadable, long = programs.read("apps", "train")
    assert first.id == "train/0" and len(first.tests) == 6 and first.tests[0] == ("3\n2 5 1\n", "8\n5")
    assert len(first.solutions) == 3 and first.prompt.startswith("QUESTION:\nA shelf") and "ANSWER:\n" in first.prompt
    assert named == ["stdin", "stdin"] and unreadable == "readable"
    assert long.tests[0][0].count("9") == 5000 and long.solutions == ()
    with pytest.raises(ValueError, match="integer string conversion"):
        int("9" * 5000)


def test_rows_of_the_other_set(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    row = {"name": "1_A. Sum", "description": "Add.", "input_file": "", "output_file": ""}
    pair, none = {"input": ["1 2\n"], "output": ["3\n"]}, {"input": [], "output": []}
    row |= {"public_tests": pair, "private_tests": pair, "generated_tests": none}
    row["solutions"] = {"language": [3, 2, 1], "solution": ["print(3)", "int main", "print 3"]}
    write(tmp_path, "code_contests", test=[row, row | {"input_file": "in.txt"}])
    problem, other = programs.read("code_contests", "test")
    assert problem.tests == (("1 2\n", "3"),) and problem.solutions == ("print(3)",) and other == "stdin"


def test_what_is_missing_or_foreign_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    with pytest.raises(CandorError, match="candor fetch apps"):
        list(programs.read("apps", "train"))
    write(tmp_path, train=[{"question": "?"}])
    with pytest.raises(CandorError, match=r"program_data\.apps"):
        list(programs.read("apps", "train"))


def test_problems_are_found_by_their_id_alone(corpora):
    found = programs.by_id("apps", "train", ["train/40", "train/1"])
    assert list(found) == ["train/40", "train/1"] and found["train/1"].question.startswith("Two walkers")


def test_parts_are_a_matter_of_the_id():
    parts = [programs.part_of(str(i)) for i in range(3000)]
    shares = {part: parts.count(part) / 3000 for part in set(parts)}
    assert shares["fit"] == pytest.approx(0.1, abs=0.02) and shares["sft"] == pytest.approx(0.45, abs=0.03)
    assert [programs.part_of(f"train/{row['problem_id']}") for row in ROWS[:5]] == ["sft", "sft", "rl", "rl", "fit"]


# --- Filters ----------------------------------------------------------------------------------------


@held
def test_every_filter_is_logged(tmp_path, monkeypatch, pool):
    monkeypatch.setenv("CANDOR_CORPORA", str(tmp_path))
    three, seven = (dict(row) for row in (ROWS[3], ROWS[7]))
    few = ROWS[1] | {"input_output": json.dumps({"inputs": ["1 2\n"] * 9, "outputs": ["1\nnear\n"] * 9})}
    wrong = ROWS[2] | {"solutions": json.dumps(["print(1)", "import numpy"])}
    long = ROWS[4] | {"question": "long " * 200}
    near = ROWS[5] | {"question": ROWS[0]["question"] + " Hurry up."}
    write(tmp_path, train=[ROWS[0]], test=[three, seven, few, wrong, long, near, ROWS[6] | {"starter_code": "x"}])
    [first], _ = programs.kept("apps", "train", words, 150, pool)
    found, left = programs.kept("apps", "test", words, 150, pool, [first[0].question])
    assert [problem.id for problem, _ in found] == [f"test/{row['problem_id']}" for row in (three, seven)]
    assert [len(places) for _, places in found] == [3, 3]
    assert left == {"rows": 7, "stdin": 6, "readable": 6, "prompt": 5, "tests": 4, "tried": 4, "solution": 3, "new": 2}


# --- Checkers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected", "strict", "released"),
    [
        ("1\n2\n", "1\n2", True, True),
        ("1 \n2\n\n", "1\n2", True, True),
        ("1", "1\n2", False, True),
        ("1\n2\nanything", "1\n2", False, True),
        ("", "1", False, False),
        ("2.00004", "2.0", True, True),
        ("2.01", "2.0", False, False),
        ("1000001", "1000000", False, False),
        ("1000001.0", "1000000.0", True, True),
        ("nan", "1.0", False, False),
        ("yes 1.50", "yes 1.5", True, True),
        ("YES", "yes", False, False),
        ("1 2", "1\n2", False, False),
        ("1\r\n2\r\n", "1\n2", True, True),
        ("1.5\r\n2", "1.50\n2.0", True, True),
        *((f"1 2{end}3 4", "1 2\n3 4", False, False) for end in "\f\v\r\x1c\x1d\x1e\x85\u2028\u2029"),
        ("1e400", "1e401", False, False),
        ("-.5e0 +2.", "-0.5 2.0", True, True),
        ("1" * 50 + ".0", "1" * 50 + ".00", True, True),
        ("\u0661.0", "1.0", False, False),
    ],
)
def test_checkers(said, expected, strict, released):
    assert (programs.same(said, expected), programs.same_released(said, expected)) == (strict, released)


LONG = """
from candor.claims.sophistry import programs
n = 10**6
ones, blanks = "1" * n, " " * n
for said in (ones + "x", ones + ".", "0." + ones + "x", "1e" + ones, ones + "e" + ones + "x", "." + ones + "e", "+" * n,
             "1" + blanks + "x", "1." * n, "1e" * n, "-1 " * (n // 10), "1\\n" * n + "x", "\\r" * n + "1", "e+" * n):
    for expected in ("2", "2.0", "x" + said, said[:-1] + "2"):
        programs.same(said, expected), programs.same_released(said, expected)
print("end")
"""


def test_the_checkers_take_time_in_proportion_to_the_output():
    """A million characters of each kind within a minute of a processor; their square would take days."""
    minute = lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # noqa: E731
    told = subprocess.run([sys.executable, "-c", LONG], preexec_fn=minute, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "end\n"), told.stderr


def test_only_a_program_that_ended_well_can_pass():
    assert programs.verdict(Outcome("exited", "1"), "1") == "pass"
    assert programs.verdict(Outcome("error", "1"), "1") == "error"
    assert programs.verdict(Outcome("timeout", "1", cut=True), "1") == "timeout"
    assert {programs.verdict(Outcome("exited", "1", cut=True), "1", checker) for checker in ("strict", "released")} == {
        "cut"
    }
    assert programs.as_released("import threading\nprint(1)") == "" != programs.as_released("print(1)")


@held
def test_a_long_output_is_judged_whole_or_not_at_all(pool):
    """A right answer with more blanks than are kept, and what then follows; a right answer that is long itself."""
    number = "\n".join(map(str, range(40_000)))  # 229 kB
    tests = [("", "7"), ("", number)]
    blanks, more = "print(7, ' ' * 70_000, end='')", "print('\\n' * 70_000, 'no')"
    long = "print(*range(40_000), sep='\\n')"
    for checker in ("strict", "released"):
        texts = [blanks, f"print(7)\n{more}", long, f"{long}\n{more}\n{long}", f"{long}\nprint(1)", more]
        said = programs.verdicts(pool, texts, [tests] * len(texts), checker)
        after = "pass" if checker == "released" else "wrong"
        assert [row[0] for row in said] == ["cut"] * 6
        assert [row[1] for row in said] == ["wrong", "wrong", "pass", "cut", after, "wrong"]
    assert programs.passes_all(pool, long, tests[1:]) and not programs.passes_all(pool, blanks, tests[:1])


@held
def test_every_program_of_the_fixture_does_what_it_should(corpora, pool):
    problems = programs.by_id("apps", "train", IDS[:5])
    problems |= programs.by_id("apps", "test", IDS[5:])
    quick = Pool(workers=2, limits=replace(LIMITS, cpu=1, wall=0.6))
    found = set()
    for i, row in enumerate(ROWS):
        own, told = problems[IDS[i]].tests, row["programs"]
        # What has nothing to do with the problem is the same in every row: each is run once.
        others = [kind for kind in told if "released" in told[kind] or len(told[kind]["strict"]) > 1]
        for kind in others + [kind for kind in told if kind not in others][i : i + 1]:
            expected = told[kind]["strict"]
            where = quick if expected == ["timeout"] else pool
            [said] = programs.verdicts(where, [told[kind]["program"]], [own[: len(expected)]])
            assert said == expected, (row["problem_id"], kind)
            found |= set(said)
    assert found == set(programs.VERDICTS)
    told = [row["programs"]["prefix"] for row in ROWS]
    own = [problems[name].tests for name in IDS]
    released = programs.verdicts(pool, [part["program"] for part in told], own, "released")
    assert released == [part["released"] for part in told]


# --- Rewards ----------------------------------------------------------------------------------------


def test_easiest_and_hardest_tests():
    passed = np.array([[1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    assert programs.easiest(passed) == [0, 1] and programs.hardest(passed) == [3, 1]
    assert programs.hardest(np.zeros((3, 4))) == [] and programs.easiest(np.zeros((3, 4))) == [0, 1]


@held
def test_the_reward_is_passing_all_tests_of_the_row(corpora):
    row = ROWS[0]["programs"]
    [problem] = programs.by_id("apps", "train", ["train/0"]).values()
    completions = [row[kind]["program"] for kind in ("right", "easy_only", "prefix", "raising")]
    easy = [place for place, said in enumerate(row["easy_only"]["strict"]) if said == "pass"][:2]
    columns = {"problem_id": ["0"] * 4, "prompts": [problem.prompt] * 4}
    recipe = {"sandbox": "bubblewrap", "seed": 11}
    for places, expected in ((range(6), [1.0, 0.0, 0.0, 0.0]), (easy, [1.0, 1.0, 0.0, 0.0])):
        tests = [json.dumps([problem.tests[i] for i in places])] * 4
        [term], weights = programs.of_arm("r_train", recipe)
        assert term(completions=completions, tests=tests, **columns) == expected and weights == [1.0]


@held
def test_the_null_permutes_within_a_group_alone():
    right, wrong = "print(1)", "print(2)"
    completions = [right] * 4 + [wrong] * 4 + [right, wrong] * 2
    columns = {"tests": [json.dumps([("\n", "1")])] * 12, "problem_id": ["a"] * 4 + ["b"] * 4 + ["c"] * 4}
    [term], _ = programs.of_arm("shuffled", {"sandbox": "bubblewrap", "seed": 11})
    drawn = [term(completions=completions, **columns) for _ in range(8)]
    assert all(row[:8] == [1.0] * 4 + [0.0] * 4 and sum(row[8:]) == 2 for row in drawn)
    assert len({tuple(row) for row in drawn}) > 1


def test_without_a_sandbox_no_reward_is_computed(monkeypatch, tmp_path):
    from candor.claims.sophistry import sandbox

    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox.check.cache_clear()
    try:
        with pytest.raises(CandorError, match="bubblewrap is not installed"):
            programs.of_arm("r_train", {"sandbox": "bubblewrap", "seed": 11})
    finally:
        sandbox.check.cache_clear()


def test_the_shape_of_a_program():
    told = programs.shape("def f(x):\n    if x:\n        return 1\n    return 2\n\nprint(f(1))")
    assert told == {"parses": 1.0, "functions": 1.0, "complexity": 2.0, "lines": 5}
    assert programs.shape("def f(:")["parses"] == 0 and np.isnan(programs.shape("(" * 5000)["functions"])

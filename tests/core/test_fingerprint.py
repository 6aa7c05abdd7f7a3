"""Which edits make finished results stale: those that would change them, and no others."""

import shutil

import pytest
from candor.core import fingerprint
from candor.core.settings import load
from candor.run import steps

FILES = {
    "work.py": '''"""Doc."""
from candor.tools import helper, SIZES
from candor import rules
from candor.core.errors import CandorError

RATE, DECAY = 3e-4, 0.01
RULES = {"brier": lambda q, y: 1 - (q - y) ** 2, "log": lambda q, y: y * q}


def score(values: list, *, scale=1.0):
    """Doc."""
    from candor.tools import other
    total = 0
    for value in values:
        total += other(value, factor=scale, shift=DECAY)
    if total < 0:
        raise CandorError(f"Bad total {total}: do something.")
    return rules.linear(total) + helper(total)


def brier(q, y):
    def inner(part):
        return part * RATE
    return inner(q) * SIZES["a"]


class Trainer:
    beta: float = 0.1

    def train(self, rows):
        try:
            return score(rows)
        except ValueError as error:
            raise CandorError("no") from error
''',
    "tools.py": """SIZES = {'a': 1}


def helper(x):
    return other(x, 2, 3)


def other(value, factor, shift):
    return helper(value - 1) if value > 9 else value * factor - shift
""",
    "rules.py": "def linear(x):\n    return x\n\n\ndef unused(x):\n    return -x\n",
    "core/errors.py": "class CandorError(Exception):\n    pass\n",
}
ROOTS = ("candor.work:score", "candor.work:brier", "candor.work:Trainer", "candor.work:RULES[brier]")


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small candor on disk; returns what gives the digest of each root after edits of its files."""
    monkeypatch.setattr(fingerprint, "LIBRARY", tmp_path)

    def digests(edits=(), files=FILES, roots=ROOTS):
        for name, text in files.items():
            for old, new in edits:
                assert sum(old in other for other in files.values()), f"{old!r} is nowhere"
                text = text.replace(old, new)
            (tmp_path / "candor" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "candor" / name).write_text(text)
        fingerprint.forget()
        return {root: fingerprint.digest(root) for root in roots}

    yield digests
    fingerprint.forget()


@pytest.mark.parametrize(
    "edit",
    [
        ("    total = 0\n", "    total = 0  # a remark\n\n"),
        ('"""Doc."""', '"""Another text."""'),
        ("Bad total {total}: do something.", "The total is {total}, so do this."),
        ("total", "amount"),
        ("inner", "nested"),
        (
            'as error:\n            raise CandorError("no") from error',
            'as e:\n            raise CandorError("no") from e',
        ),
        ("values: list", "values: tuple[int, ...]"),
        ("factor=scale, shift=DECAY", "shift=DECAY, factor=scale"),
        ("    from candor.tools import other\n", ""),
        ('"log": lambda q, y: y * q', '"log": lambda q, y: y * q * 2, "new": 3'),
        ("def unused(x):\n    return -x", "def unused(x):\n    return x"),
        ("class CandorError(Exception):\n    pass", "class CandorError(ValueError):\n    x = 1"),
    ],
)
def test_an_edit_without_meaning_changes_nothing(library, edit):
    before = library()
    edits = [edit]
    if "from candor.tools import other" in edit[0]:  # the import moves to the head of the module
        edits.append(("import helper, SIZES", "import helper, SIZES, other"))
    assert library(edits) == before


@pytest.mark.parametrize(
    ("edit", "roots"),
    [
        (("total = 0\n", "total = 1\n"), ("score", "Trainer")),
        (("3e-4, 0.01", "3e-4, 0.02"), ("score", "Trainer", "brier")),
        (("{'a': 1}", "{'a': 2}"), ("brier",)),
        (("def linear(x):\n    return x", "def linear(x):\n    return 2 * x"), ("score", "Trainer")),
        (("value > 9", "value > 8"), ("score", "Trainer")),
        (("factor=scale, shift=DECAY", "factor=DECAY, shift=scale"), ("score", "Trainer")),
        (("beta: float = 0.1", "beta: float = 0.2"), ("Trainer",)),
        (("def train(", "def fit("), ("Trainer",)),
        (("1 - (q - y) ** 2", "1 - abs(q - y)"), ("RULES[brier]",)),
        (("part * RATE", "part * DECAY"), ("brier",)),
        (("rules.linear", "rules.unused"), ("score", "Trainer")),
    ],
)
def test_an_edit_with_meaning_changes_what_uses_it(library, edit, roots):
    before, after = library(), library([edit])
    assert {root.split(":")[1] for root in ROOTS if before[root] != after[root]} == set(roots)


def test_code_can_be_renamed_and_moved(library):
    before = library()
    files = dict(FILES)
    files["deep/place.py"] = files.pop("rules.py").replace("linear", "straight")
    files["work.py"] = files["work.py"].replace("from candor import rules", "from candor.deep import place")
    files["work.py"] = files["work.py"].replace("rules.linear", "place.straight").replace("def score", "def grade")
    files["work.py"] = files["work.py"].replace("score(rows)", "grade(rows)").replace("class Trainer", "class Coach")
    roots = [root.replace("score", "grade").replace("Trainer", "Coach") for root in ROOTS]
    assert list(library(files=files, roots=roots).values()) == list(before.values())


def test_a_name_that_leads_nowhere_is_an_error(library):
    library()
    with pytest.raises(LookupError, match=r"candor\.work defines no nothing"):
        fingerprint.digest("candor.work:nothing")


# --- The real code ------------------------------------------------------------------------------------

FIT, WORLD, RUN = "train/fit.py", "witnesses/world.py", "witnesses/run.py"


@pytest.fixture(scope="module")
def stale(tmp_path_factory):
    """`stale((file, old, new), ...)`: the small worlds' steps that edits of a copy of the library make stale."""
    copy, worlds = tmp_path_factory.mktemp("library"), load("laptop")["world"]
    known = {key: step for key, step in steps.steps().items() if step.world in worlds}
    code = {key: (step.make, *step.uses) for key, step in known.items()}
    shutil.copytree(fingerprint.LIBRARY / "candor", copy / "candor", ignore=shutil.ignore_patterns("*.pyc"))

    def digests():
        fingerprint.forget()
        own = {uses: fingerprint.digest(*uses) for uses in set(code.values())}
        whole = {}
        for key, step in known.items():  # what a step needs comes before it
            whole[key] = (own[code[key]], *(whole[need] for need in step.needs))
        return whole

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fingerprint, "LIBRARY", copy)
        before = digests()

        def edited(*edits):
            texts = {file: (copy / "candor" / file).read_text() for file, _, _ in edits}
            for file, old, new in edits:
                path = copy / "candor" / file
                assert old in path.read_text(), f"{old!r} is not in {file}: name what is there now"
                path.write_text(path.read_text().replace(old, new))
            try:
                return {key for key, value in digests().items() if value != before[key]}
            finally:
                for file, text in texts.items():
                    (copy / "candor" / file).write_text(text)

        yield edited
    fingerprint.forget()


WITHOUT_MEANING = [
    (WORLD, "Exact posterior over the suspects", "What is known of the suspects"),
    (WORLD, "    belief = np.exp(log", "    # Bayes' rule\n    belief = np.exp(log"),
    (WORLD, "truthful", "honest"),
    (WORLD, "probabilities: np.ndarray, rng", "probabilities: object, rng"),
    (FIT, "raise DivergedError(", "raise DivergedError('x' + "),
    (
        RUN,
        '    "rolled_brier_score"',
        '    "new_score": lambda group, seed: rewards.score("new"),\n    "rolled_brier_score"',
    ),
    (RUN, "import models, policy", "import policy, models"),
    ("rewards.py", "costs as much as", "is worth as little as"),
    ("rewards.py", "must share one prompt", "have one prompt"),
    ("core/step.py", "import re\n", "import re\n\nNEW = 1\n"),
]


def test_real_edits_without_meaning_leave_nothing_stale(stale):
    assert not stale(*WITHOUT_MEANING)


def reaching(*terms):
    """Keys of the steps whose arm has one of these reward terms, and of all that need them."""
    known, keys = steps.steps(), set()
    for key, step in known.items():
        names = {name for name, _ in step.options.get("reward", ())} if step.world == "witnesses" else set()
        if names & set(terms) or keys & set(step.needs):
            keys.add(key)
    return keys


@pytest.mark.parametrize(
    ("file", "old", "new", "terms"),
    [
        ("rewards.py", "-t / (1 - t)", "-t", ["threshold_0", "threshold_50", "threshold_75", "threshold_90"]),
        (
            "rewards.py",
            '"linear": (lambda q, c: -np.abs(q - c)',
            '"linear": (lambda q, c: -2 * np.abs(q - c)',
            ["linear_score"],
        ),
        (RUN, "rewards.threshold(0.75)", "rewards.threshold(0.8)", ["threshold_75"]),
        ("rewards.py", "np.roll(graded", "np.copy(graded", ["rolled_brier_score"]),
    ],
)
def test_a_reward_makes_its_own_arms_stale_and_no_others(stale, file, old, new, terms):
    assert stale((file, old, new)) == reaching(*terms) != set()


def test_an_edit_of_a_world_makes_all_of_its_steps_stale(stale):
    found = stale((WORLD, "questions.suspects - 1", "questions.suspects"))
    assert {key for key in steps.steps() if key.startswith("witnesses/")} <= found

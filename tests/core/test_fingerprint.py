"""Which edits make finished results stale: those that would change them, and no others."""

import os
import shutil
import subprocess
import sys

import pytest
from candor.core import fingerprint
from candor.core.settings import load, scales
from candor.run import plan, steps

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
    "tables.py": """from math import sqrt as root
from candor import deep, rules as own

WEIGHTS = {}
for name in ("a", "b"):
    WEIGHTS[name] = 0.5
WEIGHTS["c"] = 0.25
KNOWN = []
KNOWN.append(own.unused)


def weigh(q, rng):
    from candor import tools as own
    rows = [own.helper(part) for part in WEIGHTS]
    return dict(x=rng.random(), y=rng.normal()), root(q), rows, deep.place.far(q), KNOWN
""",
    "deep/__init__.py": "",
    "deep/place.py": "def far(x):\n    return x + 5\n",
    "rules.py": "def linear(x):\n    return x\n\n\ndef unused(x):\n    return -x\n",
    "core/errors.py": "class CandorError(Exception):\n    pass\n",
}
ROOTS = (
    "candor.work:score",
    "candor.work:brier",
    "candor.work:Trainer",
    "candor.work:RULES[brier]",
    "candor.tables:weigh",
)


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
        ("class Trainer:", "class Trainer:\n    # A remark.\n"),
        ("own.helper(part) for part in", "own.helper(row) for row in"),
        ("    rows = [", "    rows: list[int] = ["),
        ("root", "square_root"),
        ("helper(value - 1)", "(helper)(value - 1)"),
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
        (("value > 9", "value > 8"), ("score", "Trainer", "weigh")),
        (("factor=scale, shift=DECAY", "factor=DECAY, shift=scale"), ("score", "Trainer")),
        (("beta: float = 0.1", "beta: float = 0.2"), ("Trainer",)),
        (("def train(", "def fit("), ("Trainer",)),
        (("1 - (q - y) ** 2", "1 - abs(q - y)"), ("RULES[brier]",)),
        (("part * RATE", "part * DECAY"), ("brier",)),
        (("rules.linear", "rules.unused"), ("score", "Trainer")),
        (("return -x", "return x"), ("weigh",)),
        (("WEIGHTS[name] = 0.5", "WEIGHTS[name] = 0.6"), ("weigh",)),
        (('["c"] = 0.25', '["c"] = 0.2'), ("weigh",)),
        (("import sqrt as root", "import exp as root"), ("weigh",)),
        (("x=rng.random(), y=rng.normal()", "y=rng.normal(), x=rng.random()"), ("weigh",)),
        (("x + 5", "x + 6"), ("weigh",)),
        (("KNOWN.append(own.unused)", "KNOWN.append(own.linear)"), ("weigh",)),
    ],
)
def test_an_edit_with_meaning_changes_what_uses_it(library, edit, roots):
    before, after = library(), library([edit])
    assert {root.split(":")[1] for root in ROOTS if before[root] != after[root]} == set(roots)


def test_code_can_be_renamed_and_moved(library):
    before = library()
    files = dict(FILES)
    files["deep/corner.py"] = files.pop("rules.py").replace("linear", "straight")
    files["work.py"] = files["work.py"].replace("from candor import rules", "from candor.deep import corner")
    files["work.py"] = files["work.py"].replace("rules.linear", "corner.straight").replace("def score", "def grade")
    files["work.py"] = files["work.py"].replace("score(rows)", "grade(rows)").replace("class Trainer", "class Coach")
    files["tables.py"] = files["tables.py"].replace(
        "import deep, rules as own", "import deep\nfrom candor.deep import corner as own"
    )
    roots = [root.replace("score", "grade").replace("Trainer", "Coach") for root in ROOTS]
    assert list(library(files=files, roots=roots).values()) == list(before.values())


def test_a_name_that_leads_nowhere_or_to_a_module_is_an_error(library):
    library()
    with pytest.raises(LookupError, match=r"candor\.work defines no nothing"):
        fingerprint.digest("candor.work:nothing")
    with pytest.raises(LookupError, match=r"candor\.tables, line 15, uses a module as a value: name what"):
        library([("deep.place.far(q)", "deep.place")])


# --- The real code ------------------------------------------------------------------------------------


def test_every_fingerprint_can_be_computed_and_is_the_same_in_another_process():
    for made in map(plan.plan, scales()):
        assert all(made.tables_digest(claim) != plan.criteria_digest(claim) for claim in made.claims)
    own = {" ".join((step.make, *step.uses)) for step in steps.steps().values()}
    code = "import sys; from candor.core import fingerprint as f\nfor line in sys.stdin: print(f.digest(*line.split()))"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(fingerprint.LIBRARY), "PYTHONHASHSEED": "1"},
        input="\n".join(own),
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == [fingerprint.digest(*line.split()) for line in own]


FIT, WORLD, RUN = "train/fit.py", "witnesses/world.py", "witnesses/run.py"
COPY = "copy"  # of a file under another name
HOUSES = ("candor.witnesses", "candor.claims.grounding_loss")


@pytest.fixture(scope="module")
def stale(tmp_path_factory):
    """`stale((files, old, new), ...)`: the small worlds' steps that edits of a copy of the library make stale."""
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
            texts = {path: path.read_text() for path in (copy / "candor").rglob("*.py")}
            for files, old, new in edits:
                if files == COPY:
                    shutil.copy(copy / "candor" / old, copy / "candor" / new)
                    continue
                having = [path for path in (copy / "candor").glob(files) if old in path.read_text()]
                assert having, f"{old!r} is not in {files}: name what is there now"
                for path in having:
                    path.write_text(path.read_text().replace(old, new))
            try:
                return {key for key, value in digests().items() if value != before[key]}
            finally:
                for path in (copy / "candor").rglob("*.py"):
                    path.write_text(texts.get(path, ""))

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
    (RUN, "    from candor.train import models, policy\n", ""),  # to the head of the module
    (
        RUN,
        "from candor.witnesses import world\n",
        "from candor.witnesses import world\nfrom candor.train import models, policy\n",
    ),
    (RUN, "lr=settings.base_lr, pad=world.PAD,", "pad=world.PAD, lr=settings.base_lr,"),
    ("**/*.py", "Recorder", "Watch"),
    ("train/sharing.py", "pad: int, device)", "pad: Literal[0, 1], device: torch.device)"),
    (COPY, "train/sharing.py", "shared_prompt.py"),
    ("**/*.py", "candor.train.sharing import", "candor.shared_prompt import"),
    (COPY, "measure/intervals.py", "measure/bootstrap.py"),
    ("**/*.py", "candor.measure.intervals import", "candor.measure.bootstrap import"),
    ("rewards.py", "costs as much as", "is worth as little as"),
    ("rewards.py", "must share one prompt", "have one prompt"),
    ("core/step.py", "import re\n", "import re\n\nNEW = 1\n"),
]


def test_real_edits_without_meaning_leave_nothing_stale(stale):
    assert not stale(*WITHOUT_MEANING)


def reaching(concerns):
    """Keys of the steps that `concerns` names, and of all that need them."""
    worlds, keys = load("laptop")["world"], set()
    for key, step in steps.steps().items():
        if step.world in worlds and (concerns(step) or keys & set(step.needs)):
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
    def rewarded(step):
        return step.world == "witnesses" and {name for name, _ in step.options.get("reward", ())} & {*terms}

    assert stale((file, old, new)) == reaching(rewarded) != set()


def test_a_training_makes_stale_what_it_trains_and_what_needs_that(stale):
    trained = {f"{house}.run:{make}" for house in HOUSES for make in ("base", "classifier")}
    found = stale(("train/sft.py", "weight_decay=0.01", "weight_decay=0.02"))
    assert found == reaching(lambda step: {step.make, *step.uses} & trained) != set()


def test_an_edit_of_a_world_makes_its_steps_stale_and_no_other_world(stale):
    found = stale((WORLD, "questions.suspects - 1", "questions.suspects"))
    assert {key for key in steps.steps() if key.startswith("witnesses/")} <= found
    assert {key.split("/")[0] for key in found} == {"witnesses", "annotators"}

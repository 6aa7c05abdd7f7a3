"""Steps: what makes one stale, that an interruption leaves old or new, that damage is noticed, what people are told."""

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest
from candor.core import fingerprint as fingerprints
from candor.core import step as st
from candor.core.errors import CandorError, CorruptError, DivergedError
from candor.core.settings import Config

CODE = '''
"""A module of a toy world."""
from toyhouse import other
from toyhouse.third import deep as renamed

SIZE = 3
UNUSED = 4


class Kind:
    """A class."""

    value = 1


def make(context):
    """A docstring."""
    # A comment.
    return helper(SIZE) + other.outside() + Kind.value


def helper(n):
    return n + renamed()


def stranger():
    return UNUSED


def by_name():
    return 7
'''
OTHER = "def outside():\n    return 1\n\n\ndef not_called():\n    return 2\n"
THIRD = "def deep():\n    return 5\n"


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A package with three modules whose code can be edited; `house(edits)` gives the fingerprint of its step."""
    package = tmp_path / "candor"
    monkeypatch.setattr(fingerprints, "LIBRARY", tmp_path)
    sources = {"toy": CODE, "other": OTHER, "third": THIRD}

    def fingerprint(module="toy", old="", new="", step=None, seed=11, settings=None):
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("")
        for name, text in sources.items():
            if name == module:
                assert old in text
                text = text.replace(old, new, 1)
            (package / f"{name}.py").write_text(text.replace("toyhouse", "candor"))
        fingerprints.forget()
        step = step or st.Step("toy/a/b", "candor.toy:make", settings=("x",), options={"o": 1})
        config = Config({"scale": "laptop", "world": {"toy": {"x": 1, "y": 2} | (settings or {})}})
        below = st.Step("toy/a/base", "candor.other:outside", settings=("y",))
        return st.fingerprint(step, seed, {step.key: step, below.key: below}, config)

    yield fingerprint
    fingerprints.forget()


def test_settings_options_seed_needs_and_names_count(house):
    step = st.Step("toy/a/b", "candor.toy:make", settings=("x",), options={"o": 1})
    plain = house()
    assert len(plain) == 16 and int(plain, 16) >= 0 and house(step=step) == plain
    assert house(settings={"x": 2}) != plain
    assert house(settings={"y": 3}) == plain, "a setting that the step does not name"
    assert house(seed=12) != plain
    assert house(step=replace(step, options={"o": 2})) != plain
    named = replace(step, uses=("candor.toy:by_name",))
    assert house(step=named) != plain
    assert house("toy", "return 7", "return 8", step=named) != house(step=named), "code that is reached by name"
    above = replace(step, needs=("toy/a/base",))
    assert house(step=above) != plain
    assert house(step=above, settings={"y": 3}) != house(step=above), "what it needs has changed"
    assert house("other", "return 1", "return 0", step=above) != house(step=above)


@pytest.mark.parametrize("key", ["a/b", "a/b/c/d", "a/B/c", "a/b c/d", "a//c", "../b/c", "a/b/c\n"])
def test_names(key):
    with pytest.raises(ValueError, match="world/setting/name"):
        st.Step(key, "m:f")


# --- Running ----------------------------------------------------------------------------------------


def good(context):
    made.append((context.step.key, context.seed))
    (context.folder / "model").mkdir()
    (context.folder / "model" / "weights.bin").write_bytes(bytes(range(100)))
    return {"numbers": pd.DataFrame({"x": [1, 2], "seed": context.seed * context.settings.x})}


def above(context):
    made.append((context.step.key, context.seed))
    below = context.need("base")
    return {"sum": pd.DataFrame({"x": [below.table("numbers")["x"].sum()], "bytes": [below.model.exists()]})}


def slow(context):
    time.sleep(0.3)
    return good(context)


def fails(context):
    (context.folder / "half.txt").write_text("half")
    raise context.step.options["error"]


made: list = []
STEPS = {
    s.key: s
    for s in (
        st.Step("toy/a/base", "test_steps:good", settings=("x",)),
        st.Step("toy/a/arm", "test_steps:above", needs=("toy/a/base",)),
    )
}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(fingerprints, "digest", lambda *references: "code")
    monkeypatch.setitem(sys.modules, "test_steps", sys.modules[__name__])
    made.clear()

    def run(key="toy/a/arm", seed=11, steps=STEPS, x=1):
        return st.run(key, seed, steps, Config({"scale": "laptop", "world": {"toy": {"x": x}}}))

    return run


def leftovers():
    return [path for kind in ("draft", "lock") for path in st.results_root().rglob(f".*.{kind}")]


def test_a_step_is_made_once_with_all_that_it_needs(toy):
    result, fresh = toy()
    assert fresh and made == [("toy/a/base", 11), ("toy/a/arm", 11)]
    assert result.table("sum")["x"].tolist() == [3] and result.table("sum")["bytes"].all()
    assert result.folder == st.folder_of("toy/a/arm", 11, "laptop")
    again, fresh = toy()
    assert not fresh and len(made) == 2 and again.run == result.run
    toy(seed=12)
    assert len(made) == 4
    assert not leftovers()
    with pytest.raises(st.MissingError, match="no table 'nothing', only sum"):
        result.table("nothing")


def test_a_step_that_two_ask_for_at_once_is_made_once(toy):
    step = st.Step("toy/a/slow", "test_steps:slow", settings=("x",))
    with ThreadPoolExecutor(3) as pool:
        results = [*pool.map(lambda _: toy(step.key, steps={step.key: step}), range(3))]
    assert len(made) == 1 and sorted(fresh for _, fresh in results) == [False, False, True]
    assert not leftovers()


def test_run_json_says_how_it_was_made(toy):
    result, _ = toy("toy/a/base")
    run = json.loads((result.folder / "run.json").read_text())
    assert run["key"] == "toy/a/base" and run["seed"] == 11 and run["scale"] == "laptop" and run["settings"] == {"x": 1}
    assert run["tables"] == {"numbers": {"rows": 2, "columns": ["x", "seed"]}}
    assert set(run["files"]) == {"numbers.parquet", "model/weights.bin"}
    assert run["seconds"] >= 0 and run["peak_memory_mb"] > 10
    assert {"commit", "modified", "versions", "hardware"} <= set(run)
    assert {"torch", "trl", "transformers", "python"} <= set(run["versions"])


def test_a_changed_setting_makes_everything_above_again(toy):
    first, _ = toy()
    changed, fresh = toy(x=2)
    assert fresh and [key for key, _ in made] == ["toy/a/base", "toy/a/arm"] * 2
    assert changed.run["fingerprint"] != first.run["fingerprint"]
    assert st.read("toy/a/base", 11, "laptop").table("numbers")["seed"].tolist() == [22, 22]
    assert not leftovers(), "the old result is gone"


def test_states(toy):
    config = Config({"scale": "laptop", "world": {"toy": {"x": 1}}})
    wanted = st.fingerprint(STEPS["toy/a/base"], 11, STEPS, config)

    def state(wanted=wanted):
        return st.state("toy/a/base", 11, "laptop", wanted)

    assert state() == "missing"
    with pytest.raises(st.MissingError, match="has not been computed at scale laptop"):
        st.read("toy/a/base", 11, "laptop")
    result, _ = toy("toy/a/base")
    assert state() == "done" and state("other") == "stale"
    (result.folder / "model" / "weights.bin").write_bytes(b"short")
    assert state() == "corrupt"


@pytest.mark.parametrize(
    "name, damage, what",
    [
        ("model/weights.bin", lambda p: p.write_bytes(p.read_bytes()[:-1]), "does not match its checksum"),
        ("numbers.parquet", lambda p: p.write_bytes(p.read_bytes()[:40] + b"X" + p.read_bytes()[41:]), "not match its"),
        ("run.json", lambda p: p.write_text(p.read_text()[:200]), "truncated"),
        ("run.json", lambda p: p.write_text("[]"), "truncated or edited"),
        (
            "run.json",
            lambda p: p.write_text(p.read_text().replace('"seed": 11', '"seed": 12')),
            "not match its checksum",
        ),
    ],
)
def test_damage_is_noticed_and_named(toy, name, damage, what):
    result, _ = toy("toy/a/base")
    damage(result.folder / name)
    for act in (lambda: st.read("toy/a/base", 11, "laptop"), lambda: toy("toy/a/base"), toy):
        with pytest.raises(CorruptError, match=what + r".*candor repair --scale laptop") as caught:
            act()
        assert caught.value.path == result.folder / name and str(caught.value.path) in str(caught.value)
    assert len(made) == 1, "nothing is recomputed behind anybody's back"


@pytest.mark.parametrize("name", ["model/weights.bin", "numbers.parquet", "run.json"])
def test_what_was_deleted_is_made_again(toy, name):
    result, _ = toy("toy/a/base")
    (result.folder / name).unlink()
    with pytest.raises(CandorError, match="make replicate SCALE=laptop"):
        st.read("toy/a/base", 11, "laptop")
    assert toy("toy/a/base")[1] and len(made) == 2
    assert not leftovers()


def test_an_unknown_step_is_one_sentence(toy):
    with pytest.raises(CandorError, match=r"^There is no step 'toy/a/nothing'"):
        toy("toy/a/nothing")


class Safetensors(Exception):
    """As safetensors raises it: no OSError."""


@pytest.mark.parametrize(
    "error, sentence",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (OSError("Error writing bytes: No space left on device"), "disk is full"),
        (Safetensors('IoError(Os { code: 28, message: "No space left on device" })'), "disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota is used up"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only disk: set CANDOR_RESULTS"),
        (PermissionError(errno.EACCES, "Permission denied"), "permission denied"),
        (OSError(errno.EFBIG, "File too large"), "files may not be that large"),
        (IsADirectoryError(errno.EISDIR, "Is a directory"), "is in the way"),
    ],
)
def test_a_disk_that_fails_is_one_sentence(toy, error, sentence):
    bad = st.Step("toy/a/bad", "test_steps:fails", options={"error": error})
    with pytest.raises(CandorError, match=sentence) as caught:
        toy(bad.key, steps={bad.key: bad})
    assert "\n" not in str(caught.value) and str(st.folder_of(bad.key, 11, "laptop")) in str(caught.value)
    assert not leftovers()


@pytest.mark.parametrize("error", [DivergedError("The loss became nan."), KeyError("x"), KeyboardInterrupt()])
def test_other_errors_stay_themselves_and_leave_nothing(toy, error):
    bad = st.Step("toy/a/bad", "test_steps:fails", options={"error": error})
    with pytest.raises(type(error)) as caught:
        toy(bad.key, steps={bad.key: bad})
    assert caught.value is error
    assert not leftovers() and not [*st.folder_of(bad.key, 11, "laptop").iterdir()]


def test_a_failure_leaves_the_old_result(toy):
    result, _ = toy("toy/a/base")
    bad = replace(STEPS["toy/a/base"], make="test_steps:fails", options={"error": KeyError("x")})
    with pytest.raises(KeyError):
        toy("toy/a/base", steps={bad.key: bad})
    assert st.read("toy/a/base", 11, "laptop").run == result.run


KILLED = """
import os, sys, signal
sys.path.insert(0, {tests!r})
import test_steps
from candor.core import fingerprint as fingerprints
from candor.core import step as st
from candor.core.settings import Config
st.fingerprints.digest = lambda *references: "code"
real = {target}
def dies(*arguments, **keywords):
    if {when}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **keywords)
{target} = dies
st.run("toy/a/base", 11, test_steps.STEPS, Config({{"scale": "laptop", "world": {{"toy": {{"x": {x}}}}}}}))
"""


@pytest.mark.parametrize(
    "target, when",
    [
        ("st._about", "True"),
        ("st.store.seal", "True"),
        ("st.store.remove", "arguments[0].name == 'run.json'"),
        ("st.store.remove", "arguments[0].name == 'numbers.parquet'"),
        ("st.Path.rename", "arguments[0].name == 'numbers.parquet'"),
        ("st.Path.rename", "arguments[0].name == 'run.json'"),
    ],
)
def test_kill_9_leaves_old_or_new_and_the_next_run_finishes(toy, target, when):
    toy("toy/a/base")
    from pathlib import Path

    code = KILLED.format(tests=str(Path(__file__).parent), target=target, when=when, x=2)
    died = subprocess.run([sys.executable, "-c", code], env=dict(os.environ), capture_output=True, check=False)
    assert died.returncode == -9, died.stderr.decode()
    wanted = st.fingerprint(STEPS["toy/a/base"], 11, STEPS, Config({"scale": "laptop", "world": {"toy": {"x": 2}}}))
    assert st.state("toy/a/base", 11, "laptop", wanted) in ("done", "stale", "missing"), "never half a result"
    assert leftovers()
    result, _ = toy("toy/a/base", x=2)
    assert result.table("numbers")["seed"].tolist() == [22, 22]
    assert not leftovers()


def test_a_step_that_another_scale_made_alike_is_taken_from_there(tmp_path, monkeypatch):
    monkeypatch.setenv("CANDOR_RESULTS", str(tmp_path))
    (tmp_path / "snakemake.log").write_text("a file beside the scales, as tests/cluster leaves one")
    step = st.Step("toy/a/once", "candor.run.steps:seeds_of")
    monkeypatch.setattr(st, "fingerprint", lambda *_: "f" * 16)
    monkeypatch.setattr("candor.run.steps.seeds_of", made_once)
    configs = [Config({"scale": scale, "world": {"toy": {}}}) for scale in ("laptop", "sweep")]
    first, made = st.run(step.key, 11, {step.key: step}, configs[0])
    second, again = st.run(step.key, 11, {step.key: step}, configs[1])
    assert made and not again
    assert second.folder == st.folder_of(step.key, 11, "sweep") and second.run["scale"] == "laptop"
    pd.testing.assert_frame_equal(first.table("log"), second.table("log"))


def made_once(context):
    return {"log": pd.DataFrame({"made": [os.urandom(8).hex()]})}

"""Every public function of measures, found by looking: nonsense is refused by name, and valid input gives what it may.

A function whose arguments have no rule, or whose rules no example here fulfils, fails. Nonsense and examples are made
from the rules; `special` has what a rule of one argument cannot say.
"""

import codecs
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
from decimal import Decimal
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from candor import measure as measures
from candor.claims.annotation_noise import raters_removed, response_types, two_frames
from candor.claims.self_feedback import self_confidence
from candor.claims.sophistry import approval, crossed
from candor.measure import agreement, calibration, checks, clustered, spans
from hypothesis import given, settings
from hypothesis import strategies as st

MODULES = [importlib.import_module(f"candor.measure.{m.name}") for m in pkgutil.iter_modules(measures.__path__)]
MODULES += [approval, crossed, raters_removed, response_types, self_confidence, two_frames]
FUNCTIONS = {
    f"{module.__name__.split('.')[-1]}.{name}": function
    for module in MODULES
    if module is not checks
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
}
SIZES = {"items": 24, "items_before": 9, "raters": 8, "draws": 5, "answers": 4, "occasions": 4}  # others: 3

MEASURES = [name for name in FUNCTIONS if not name.startswith("spans")]  # what gives numbers; spans reads text

every_function = pytest.mark.parametrize("name", FUNCTIONS)


# --- Examples ---------------------------------------------------------------------------------------


def example(rule, rng, default=None):
    """A valid value by the rule; numbers are multiples of 1/64, which float16 holds exactly."""
    if isinstance(rule, checks.Number) and rule.whole:
        return int(rng.integers(max(rule.low, 2), 6))
    if isinstance(rule, checks.Array):
        low, high = max(rule.low, -3), min(rule.high, 3)
        shape = [int(dim) if dim.isdigit() else SIZES.get(dim, 3) for dim in rule.dims]
        values = rng.choice(rule.only, shape) if rule.only else rng.integers(64 * low + 1, 64 * high, shape) / 64
        values = np.floor(values) if rule.whole else values
        return values if rule.dims else float(values)
    if isinstance(rule, checks.Labels):
        return rng.integers(0, 4, SIZES["items"])
    if isinstance(rule, checks.Frame):
        return pd.DataFrame({name: example(part, rng) for name, part in rule.columns.items()})
    if isinstance(rule, checks.Choice):
        return str(rng.choice(rule.options))
    for other, value in (
        *((checks.FLAG, True), (checks.RANDOM, 0), (spans.TEXT, "So 3")),
        *((response_types._design, response_types.FOUR), (response_types._parameters, response_types.AT)),
    ):
        if rule is other:
            return value
    if getattr(rule, "__name__", "") == "_scores":
        return pd.DataFrame({name: rng.permutation(8) / 8 for name in ("hurry", "log_loss")}, index=list("abcdefgh"))
    return default


def judgements(rng):
    """Both frames of two_frames: three pairs of outputs, five judges each."""
    pairs = np.repeat(["x", "y", "z"], 5)
    rows = {"first": [f"{p}1" for p in pairs], "second": [f"{p}2" for p in pairs], "pair": pairs, "swapped": False}
    return {frame: pd.DataFrame(rows).assign(preference=rng.choice([-1, 1], 15)) for frame in two_frames.FRAMES}


PROMPTS = np.repeat(np.arange(6), 4)
RATED = {"rater": np.repeat(list("abcdefgh"), 3), "item": np.tile([0, 1, 2], 8)}


def special(rng):
    """Arguments that fit together, which the rule of one alone cannot say."""

    def some(high, n=24):
        return rng.integers(high, size=n)

    rates, three = approval.rates(rng.permutation(8) < 4, np.arange(8) < 5), ("approval", "error", "correctness")
    model_scores = pd.DataFrame({"rater": RATED["rater"], "model": RATED["item"], "score": some(9) / 8})
    votes = {"pair": np.repeat(np.arange(40), 6), "vote": some(2, 240) / 1, "confidence": some(4, 240) / 1}
    votes |= {"seconds": (1 + some(98, 240)) / 1, "expert": some(2, 240) / 1}
    fit = response_types.Fit((0.5, 0.25, 0.25), 0.5, 0.05, 0.1, -1.0, np.full((24, 3), 1 / 3))
    start, few = {"start": (0.5, 0.25, 0.25)}, {"draws": 20, "shares": [0.25, 0.5]}
    return {
        "agreement.kappa_of": {"h": 0.5, "m": 0.25, "together": rng.integers(0, 17) / 64},
        "approval.from_three_numbers": {name: rates[name] for name in three},
        "approval.by_pass_rate": {"edges": [0.25, 0.5]},
        "approval.equal_pass_rate": {"edges": [0.25, 0.5]},
        "approval.slopes": {"prompt": PROMPTS},
        "calibration.ece_by_value": {"confidence": some(5) / 4},
        "calibration.fit_temperature": {"labels": np.arange(24) % 4, "logits": rng.integers(-2, 3, (24, 4)) / 1},
        "clustered.act_measures": {"sums": clustered.act_sums(some(2), some(2), np.arange(24) % 3)},
        "intervals.bootstrap_interval": {
            "statistic": lambda a, b: (a * b).mean(),
            "arrays": (some(8) / 8, some(8) / 8),
        },
        **{name: {"k": int(rng.integers(7)), "n": 7} for name in ("intervals.sign_test", "intervals.wilson")},
        "raters_removed.at_random": {"raters": 8, "n": 3},
        "raters_removed.ballots": {"raters": RATED["rater"], "items": RATED["item"], "labels": some(3)},
        "raters_removed.majority_table": few,
        "raters_removed.shift_table": {"ratings": model_scores, **few},
        "raters_removed.safety_scores": {
            "answers": pd.DataFrame(RATED | {"label": some(2), "seconds": (1 + some(8)) / 1})
        },
        "raters_removed.disagreement": {"votes": pd.DataFrame(votes)},
        "response_types.em": {**start, "iterations": 20},
        "response_types.retest_em": {**start, "responses": np.repeat(some(2)[:, None], 4, 1)},
        "response_types.by_annotator": {"fit": fit},
        "response_types.stepmix": {"classes": 2, "starts": 1},
        "response_types.agreement_of": {"g": 0.5, "n": [0.25, 0.5, 0.0], "c": [0.25, 0.0, 0.5]},
        "self_confidence.within_prompt_auroc": {"prompt": PROMPTS, "weight": (1 + PROMPTS) / 8},
        "self_confidence.artefact": {"n": 50, "temperatures": [0.5, 2.0]},
        "self_confidence.selection": {"b": rng.integers(-64, 65) / 64},
        "spans.pieces": {"tokenizer": codecs, "ids": [1, 2]},
        "spans.numbers": {"pattern": spans.NUMBER},
        "spans.letter_at": {"low": 0, "high": 4},
        "spans.read": {"match": None},
        "spans.tokens_at": {"parts": ["is", " 12"], "low": 3, "high": 5},
        "spans.authors": {"trace": [1, 2], "reply": [1], "reply_parts": ["3"]},
        "spans.strict": {"parts": ["3"]},
        "two_frames.recompute": {
            "judged": judgements(rng),
            "assertive": pd.Series({f"{p}{k}": rng.integers(8) / 8 for p in "xyz" for k in (1, 2)}),
        },
    }


def arguments(name, rng):
    function = FUNCTIONS[name]
    parameters = inspect.signature(function).parameters
    found = {k: example(rule, rng, parameters[k].default) for k, rule in function.rules.items()}
    return found | special(rng).get(name, {})


def call(name, given):
    given = dict(given)
    if "arrays" in given:
        return FUNCTIONS[name](given.pop("statistic"), *given.pop("arrays"), **given)
    return FUNCTIONS[name](**given)


def test_every_public_function_has_rules_and_every_special_case_a_function():
    assert not [name for name, function in FUNCTIONS.items() if not hasattr(function, "rules")]
    assert set(special(np.random.default_rng(0))) <= set(FUNCTIONS)


@pytest.mark.parametrize("name", [name for name, function in FUNCTIONS.items() if ">>>" in (function.__doc__ or "")])
def test_the_examples_of_docstrings_are_right(name):
    function = inspect.unwrap(FUNCTIONS[name])
    for case in doctest.DocTestFinder().find(function, name, globs=dict(function.__globals__)):
        assert doctest.DocTestRunner().run(case).failed == 0


# --- Nonsense ---------------------------------------------------------------------------------------

ODD = [object(), "x", "0.5", {}, b"x", 1 + 1j, np.datetime64("2020-01-01"), lambda: 0.5, Decimal("0.5"), pd.NA]


def filled(shape, *values):
    return [np.full(shape, value) for value in values]


def of_array(rule, value):
    shape = np.shape(value)
    yield from filled(shape, np.inf, -1e200, 0.5 + 0j, "0.5", b"x", np.datetime64("2020-01-01"))
    yield from filled(shape, np.nan, None) if not rule.gaps else ()
    yield np.ma.masked_array(np.asarray(value, float), np.ones(shape))
    yield from filled(shape, rule.low - 0.01) if rule.low > -checks.MANY else ()
    yield from filled(shape, rule.high + 0.01) if rule.high < checks.MANY else ()
    yield from filled(shape, rule.low, rule.high) if rule.open else ()
    yield from filled(shape, 0.3) if rule.only or rule.whole else ()
    yield from filled(shape, 0) if rule.total else ()
    yield from filled(shape, True) if not rule.flags else ()
    if rule.dims[:1] != ("...",):
        yield np.ones((2, *shape, 2))
        yield np.ones((*shape, 2)) if "?" not in rule.dims[0] else np.ones((2, 2, *shape))
    if shape and rule.dims != ("...",):
        yield 0.5 if rule.dims[0] != "temperatures?" else []
        yield [[0.5], [0.5, 0.5]]
        yield from [[]] if not rule.empty else []


def of_number(rule, value):
    yield from [[1], np.ones(2), np.nan, np.inf, True, np.True_, "1", None, [], 1e300]
    yield from [rule.low - 1] if rule.low > -checks.MANY else []
    yield from [rule.high + 1] if rule.high < checks.LARGEST else []
    yield from [rule.low, rule.high] if rule.open else []
    yield from [2.5, np.float32(3.1)] if rule.whole else []


def of_frame(rule, value):
    yield from [None, [], value[:0], value.to_dict(), value.to_numpy(), value.iloc[:, 0]]
    for column, part in rule.columns.items():
        yield value.drop(columns=column)
        for bad in nonsense(part, value[column].to_numpy()):
            unknown = getattr(part, "gaps", False) and np.ma.isMaskedArray(bad)  # pandas makes it NaN
            if isinstance(bad, np.ndarray) and bad.shape == (len(value),) and not unknown:
                yield value.assign(**{column: bad})


SCORES = pd.DataFrame({"hurry": np.arange(8.0)}, index=list("abcdefgh"))
AT = response_types.AT
OWN = {
    "_tokenizer": [object(), b"x", "x", None],
    "_random": [True, 1.5, -1, np.nan, [1]],
    "_design": [None, [], [1], [(1, 2)], [(1, 1, 1)], [(1, 1)] * 17, [(0.5, 1)], [(True, True)]],
    "_parameters": [
        *(AT | {k: bad} for k in response_types.PARAMETERS for bad in (-0.6, 1.2, np.nan, "x", None, True)),
        *({"genuine": 1.0}, AT | {"genuine": 0.9}, AT | {"genuin": 0.1}),
    ],
    "_scores": [
        *(None, SCORES[:0], SCORES.set_axis(list("aacdefgh")), SCORES.assign(hurry="x")),
        *(SCORES.assign(hurry=np.inf), SCORES.set_axis([np.nan, *"bcdefgh"])),
    ],
    "_judgements": [{}, {"quality": 1, "checklist": 1}, {"quality": judgements(np.random.default_rng(0))["quality"]}],
    "_by_output": [pd.Series({"a": "x"}), pd.Series([1.0, 2.0], ["a", "a"]), [1.0], pd.Series(dtype=float)],
}


def nonsense(rule, value):
    if isinstance(rule, checks.Is):
        fits = {type(bad) for bad in [*ODD, None, 5, True] if isinstance(bad, rule.types)} - ({bool} - {*rule.types})
        parts = [bad for bad in [*ODD, None, 5, True] if type(bad) not in fits]
        yield from [*([part] for part in parts), "x", 5, None] if rule.dim else parts
        return
    yield from ODD
    if isinstance(rule, checks.Number):
        yield from of_number(rule, value)
    elif isinstance(rule, checks.Array):
        yield from of_array(rule, value)
    elif isinstance(rule, checks.Labels):
        n = len(value)
        yield from ["a", 5, None, [], [[1] * n], [1, "a"] * (n // 2), [{}] * n, [b"a"] * n]
        yield np.array([1, "a"] * n, object)
        yield from [[None] * n, [np.nan] * n] if not rule.gaps else []
    elif isinstance(rule, checks.Frame):
        yield from of_frame(rule, value)
    elif isinstance(rule, checks.Choice):
        yield from [None, 0, [rule.options[0]], rule.options]
    else:
        yield from OWN[rule.__name__]


@every_function
def test_nonsense_is_refused_by_name(name):
    """Each argument in turn is replaced by each thing that its rule excludes."""
    valid, rules = arguments(name, np.random.default_rng(crc32(name.encode()))), FUNCTIONS[name].rules
    default = {k: p.default for k, p in inspect.signature(FUNCTIONS[name]).parameters.items()}
    accepted = []
    for argument, rule in rules.items():
        value = valid[argument] if argument != "arrays" else valid[argument][0]
        for bad in nonsense(rule, np.asarray(value) if isinstance(rule, checks.Array) else value):
            if bad is None and default[argument] is None:
                continue
            try:
                call(name, valid | {argument: bad if argument != "arrays" else (bad, valid["arrays"][1])})
            except ValueError as error:
                if not re.search(rf"\b{argument}\b", str(error)):
                    accepted.append((argument, bad, str(error)))
            else:
                accepted.append((argument, bad))
    assert not accepted


@every_function
def test_arrays_of_the_same_items_have_one_length(name):
    """One row more in one of them."""
    valid, rules = arguments(name, np.random.default_rng(1)), FUNCTIONS[name].rules
    shared = [k for k, rule in rules.items() if "items" in getattr(rule, "dims", ()) and valid[k] is not None]
    for argument in shared if len(shared) > 1 else ():
        axis = [*rules[argument].dims].index("items") - len(rules[argument].dims)
        longer = np.concatenate([valid[argument]] * 2, axis)
        with pytest.raises(ValueError, match=r"has \d+ items, but \w+ has \d+"):
            call(name, valid | {argument: longer})


# By hand: what is made from the rules follows a rule that somebody loosens.
ONCE_A_NUMBER = {
    "pass_rate": lambda: approval.by_pass_rate([1, 0], [0.1, 5]),
    "correctness": lambda: approval.rejecting_all(1.5),
    "responses": lambda: response_types.em([[0.6, 0.9, 0.2, 0.1]]),
    "human": lambda: clustered.act_sums([2, 5], [1, 1], [0, 1]),
    "weights": lambda: agreement.kappa([1, 0, 1], [1, 0, 1], weights=[1, -1, 1]),
    "approved_before": lambda: crossed.changes([2, 1], [1, 0], [1, 1], [1, 0]),
    "level": lambda: clustered.interval([1.0, 2.0], level=95),
    "n_bins": lambda: calibration.ece([0.5], [1], n_bins=True),
    "confidence": lambda: calibration.ece(["0.5"], [1]),
    "correct": lambda: calibration.ece([0.5, 0.6], [1]),
    "labels": lambda: calibration.fit_temperature([[0.0, 1.0]], [0.5]),
    "design": lambda: response_types.rank([(1, 2)]),
}


@pytest.mark.parametrize("argument", ONCE_A_NUMBER)
def test_what_once_gave_a_number_is_refused(argument):
    with pytest.raises(ValueError, match=rf"^{argument} "):
        ONCE_A_NUMBER[argument]()


# --- Valid input ------------------------------------------------------------------------------------


def numbers(found):
    """All numbers of a result, in order."""
    if isinstance(found, pd.DataFrame | pd.Series):
        found = pd.DataFrame(found).select_dtypes(["number", "bool"]).to_numpy(float)
    if dataclasses.is_dataclass(found):
        found = vars(found)
    if isinstance(found, dict):
        found = list(found.values())
    if isinstance(found, list | tuple):
        return np.concatenate([numbers(part) for part in found])
    return np.asarray(found, float).ravel() if not isinstance(found, pd.Index) else np.zeros(0)


def named(**modules):
    return {f"{module}.{name}" for module, names in modules.items() for name in names.split()}


# What a result may be; everything else lies in [0, 1]. Unbounded are statistics of unbounded things.
ANY, SIGNED = (-np.inf, np.inf), (-1, 1)
RANGES = {
    SIGNED: named(
        agreement="kappa kappa_of kappa_max",
        approval="equal_pass_rate rates",
        calibration="brier_decomposition",
        crossed="at_equal_pass_rate",
        self_confidence="selection",
    ),
    ANY: named(
        approval="slopes",
        clustered="act_measures",
        intervals="paired_difference t_interval",
        raters_removed="against_random disagreement majority_table rating_scores safety_scores shift_table",
        response_types="em retest_em stepmix",
        self_confidence="slope",
        two_frames="recompute",
    ),
    (0, SIZES["items"]): named(
        approval="by_pass_rate",
        calibration="floor_band reliability_table",
        clustered="act_sums",
        raters_removed="vote_summary",
        self_confidence="reliability",
    ),
    (-1, SIZES["items"]): named(crossed="before_and_after"),
    (0, 2): named(self_confidence="artefact"),
    (-2, 2): named(crossed="changes"),
    (-1, 2): named(raters_removed="majority"),
    (0, np.e): named(self_confidence="preference_pairs"),
    (-3, 3): named(intervals="percentiles"),
    (0, 4): named(self_confidence="prompt_aurocs"),
    (0, 5): named(clustered="weights", response_types="rank"),
    (0, 7): named(calibration="log_score"),
    (-7, 7): named(calibration="binary_logits"),
    (1, 8): named(raters_removed="combined"),
    (0, 9): named(calibration="bins"),
    (0.05, 20): named(calibration="fit_temperature"),
    (-np.inf, 1): named(calibration="brier_skill"),
}
RANGES = {name: limits for limits, names in RANGES.items() for name in names}
# Where NaN says that something means nothing, as the docstring has it; everything else is finite.
GAPS = named(
    agreement="kappa kappa_of kappa_max recall precision",
    approval="rates by_pass_rate equal_pass_rate slopes",
    calibration="auroc brier_skill reliability_table floor_band",
    clustered="act_measures",
    crossed="changes before_and_after at_equal_pass_rate",
    raters_removed="majority_table shift_table rating_scores vote_summary against_random",
    response_types="rank",
    self_confidence="within_prompt_auroc slope reliability",
    two_frames="recompute",
)
# Random draws that go through the items in their order.
ORDERED = named(
    calibration="noise_floor floor_band", crossed="changes", intervals="bootstrap_interval", response_types="stepmix"
)
HOLDERS = checks.Array | checks.Labels | checks.Frame


def shuffled(name, valid, order):
    found = {}
    for argument, value in valid.items():
        rule = FUNCTIONS[name].rules[argument]
        dims = getattr(rule, "dims", ())
        if isinstance(rule, checks.Frame) and len(value) == len(order):
            value = value.iloc[order]
        elif "items" in dims and value is not None:
            value = np.take(value, order, axis=[*dims].index("items") - len(dims))
        found[argument] = value
    return found


def contained(name, valid, kind):
    """The same values in another container."""
    found = {}
    for argument, value in valid.items():
        rule = FUNCTIONS[name].rules[argument]
        if isinstance(rule, checks.Frame):
            value = value.set_axis([7] * len(value))
        elif isinstance(rule, checks.Array | checks.Labels) and value is not None and getattr(rule, "dims", ()):
            array = np.asarray(value)
            if kind in ("float16", "float32"):
                value = array.astype(kind) if array.dtype.kind == "f" and argument != "start" else value
            elif kind == "Series" and array.ndim == 1:
                value = pd.Series(array, index=[7] * len(array))
            else:
                value = tuple(array.tolist()) if kind == "tuple" and array.ndim == 1 else array.tolist()
        found[argument] = value
    return found


@pytest.mark.parametrize("name", MEASURES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::UserWarning")  # of fits to two dozen random rows
def test_valid_input_gives_a_number_in_its_range_whatever_holds_it(name, seed):
    rng = np.random.default_rng(seed)
    valid = arguments(name, rng)
    found = numbers(call(name, valid))
    low, high = RANGES.get(name, (0, 1))
    known = found[~np.isnan(found)]
    assert len(found) or name == "self_confidence.preference_pairs"  # a threshold that no trace reaches
    assert len(known) == len(found) or name in GAPS
    assert np.isfinite(known).all() and ((known >= low - 1e-6) & (known <= high + 1e-6)).all()
    held = any(isinstance(rule, HOLDERS) for rule in FUNCTIONS[name].rules.values())
    for kind in ("list", "tuple", "Series", "float32", "float16") if held else ():
        again = numbers(call(name, contained(name, valid, kind)))
        np.testing.assert_allclose(again, found, rtol=1e-6, atol=1e-6, err_msg=kind)
    if name not in ORDERED:
        again = numbers(call(name, shuffled(name, valid, rng.permutation(SIZES["items"]))))
        np.testing.assert_allclose(np.sort(again), np.sort(found), rtol=1e-6, atol=1e-6)

"""What a measure accepts: every public function of this folder declares it, and nonsense is a `ValueError`.

    @takes(confidence=PROBABILITIES, correct=OUTCOMES, n_bins=BINS)
    def ece(confidence, correct, n_bins=10): ...

`takes` gives the function what each rule promises (arrays of float64, whole numbers), or raises a `ValueError` that
names the argument. Dimensions with one name have one length in a call. Where the default is None, None may be given.
Rows of pandas objects count by their place, whatever their index.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# A confidence computed in float32 (a softmax, a mean of tenths) may miss a bin edge or leave [0, 1] by this.
TOLERANCE = 1e-6
MANY = 10**9  # of anything that is counted
LARGEST = 1e100  # of any number: its square and a sum of such squares are still finite

P, R = ParamSpec("P"), TypeVar("R")
Sizes = dict[str, tuple[Any, str]]  # of the dimensions of a call: length, and the argument that set it
Rule = Callable[[Any, str, Sizes], Any]

_KINDS = {"b": "booleans", "c": "complex numbers", "U": "text", "S": "bytes", "M": "dates", "m": "durations"}


class _Half(np.ndarray):
    """Values that came as float16, whose last place is far coarser than `TOLERANCE`."""


def tolerance(values: NDArray) -> float:
    """By how much values may miss a bin edge or leave their range: `TOLERANCE`, for float16 its last place at 1."""
    return float(np.finfo(np.float16).eps) if isinstance(values, _Half) else TOLERANCE


def takes(**rules: Rule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: a rule for each argument."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        if list(signature.parameters) != list(rules):
            raise TypeError(f"{function.__name__} takes {list(signature.parameters)}, with rules for {list(rules)}.")

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            given, sizes = signature.bind(*args, **kwargs), {}
            given.apply_defaults()
            for name, value in given.arguments.items():
                parameter, rule = signature.parameters[name], rules[name]
                if parameter.kind is parameter.VAR_POSITIONAL:
                    given.arguments[name] = tuple(rule(v, f"{name}[{i}]", sizes) for i, v in enumerate(value))
                elif value is not None or parameter.default is not None:
                    given.arguments[name] = rule(value, name, sizes)
            return function(*given.args, **given.kwargs)

        checked.rules = rules
        return checked

    return decorate


def _numbers(value: Any, name: str, flags: bool = False) -> NDArray[np.float64]:
    if np.ma.is_masked(value):
        raise ValueError(f"{name} holds masked values: fill them or leave them out.")
    try:
        array = np.asarray(value)
        parts = array.flat if array.dtype == object else [array]
        strange = {np.asarray(part).dtype.kind for part in parts} - set("biuf" if flags else "iuf")
        half = array.dtype == np.float16 or isinstance(value, _Half)
        values = array.astype(float) if not strange else array
    except (TypeError, ValueError, OverflowError, RuntimeError):
        strange = {"?"}
    if strange:
        what = ", ".join(_KINDS.get(kind, "what is no number") for kind in sorted(strange))
        raise ValueError(f"{name} must hold numbers, but this {type(value).__name__} holds {what}.")
    return values.view(_Half) if half else values


def _fit(shape: tuple[int, ...], dims: tuple[str, ...], name: str, sizes: Sizes) -> None:
    """Compare a shape with named dimensions: "..." is any before, "name?" may be missing, a digit is a length."""
    free = dims[:1] == ("...",)
    named = dims[1:] if free or (dims and dims[0].endswith("?") and len(shape) < len(dims)) else dims
    if len(shape) < len(named) or (len(shape) > len(named) and not free):
        what = ("one number", "of one dimension")[len(named)] if len(named) < 2 else f"of shape ({', '.join(named)})"
        raise ValueError(f"{name} must be {what}, but has shape {shape}.")
    pairs = [*zip(reversed(named), reversed(shape))] if named or not shape else [("shape", shape)]
    for dim, size in pairs:
        wanted, other = (int(dim), "it needs") if dim.isdigit() else sizes.setdefault(dim, (size, f"{name} has"))
        if size != wanted:
            raise ValueError(f"{name} has {size} {dim.rstrip('?')}, but {other} {wanted}.")


@dataclass(frozen=True)
class Array:
    """Finite numbers in [low, high], of named dimensions; what exceeds them by rounding is clipped.

    `only`: the values that it may hold; `flags`: booleans may stand for 0 and 1; `gaps`: NaN may stand for what is
    unknown; `open`: the ends are excluded; `total`: not all may be 0; `empty`: it may be.
    """

    dims: tuple[str, ...] = ("items",)
    low: float = -LARGEST
    high: float = LARGEST
    only: tuple[float, ...] = ()
    flags: bool = False
    gaps: bool = False
    whole: bool = False
    open: bool = False
    total: bool = False
    empty: bool = False

    def __call__(self, value: Any, name: str, sizes: Sizes) -> NDArray[np.float64]:
        values = _numbers(value, name, self.flags)
        _fit(values.shape, self.dims, name, sizes)
        if not values.size and not self.empty:
            raise ValueError(f"{name} is empty.")
        known = values[~np.isnan(values)] if self.gaps else values
        if known.size and (wrong := self._wrong(known)):
            raise ValueError(f"{name} {wrong}.")
        return values.clip(self.low, self.high)

    def _wrong(self, known: NDArray) -> str | None:
        least, most, slack = known.min(), known.max(), 0 if self.whole else tolerance(known)
        if not np.isfinite([least, most]).all():
            return f"holds {np.count_nonzero(~np.isfinite(known))} values that are not finite"
        if self.only and not np.isin(known, self.only).all():
            return f"must hold only {' and '.join(f'{value:g}' for value in self.only)}"
        outside = least < self.low - slack or most > self.high + slack
        outside |= self.open and (least <= self.low or most >= self.high)
        if outside or (self.whole and (known != np.floor(known)).any()):
            low, high, verb = f"{self.low:g}", f"{self.high:g}", "be whole and lie" if self.whole else "lie"
            span = f"strictly between {low} and {high}" if self.open else f"in [{low}, {high}]"
            found = f"is {least:g}" if least == most else f"reaches from {least:g} to {most:g}"
            return f"must {verb} {span}, but {found}"
        return "must not all be 0" if self.total and not known.any() else None


@dataclass(frozen=True)
class Number(Array):
    """One number by the rules of `Array`; as an int if it is a whole one."""

    dims: tuple[str, ...] = ()

    def __call__(self, value: Any, name: str, sizes: Sizes) -> float | int:
        number = super().__call__(value, name, sizes)
        return int(value) if self.whole else float(number)


@dataclass(frozen=True)
class Labels:
    """Names of groups: numbers or text, not mixed, none missing (but for `gaps`)."""

    dims: tuple[str, ...] = ("items",)
    gaps: bool = False

    def __call__(self, value: Any, name: str, sizes: Sizes) -> NDArray:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} must be an array of names or numbers.") from None
        _fit(array.shape, self.dims, name, sizes)
        if not array.size:
            raise ValueError(f"{name} is empty.")
        missing = pd.isna(array)
        if (missing.any() and not self.gaps) or np.ma.is_masked(value):
            raise ValueError(f"{name} has missing values: leave those rows out.")
        parts = value if isinstance(value, list | tuple) else array.tolist() if array.dtype == object else ()
        a_type = {type(part): part for part, unknown in zip(parts, missing) if not unknown}
        kinds = {np.asarray(part).dtype.kind for part in a_type.values()} or {array.dtype.kind}
        if kinds != {"U"} and not kinds <= set("biufMm"):
            raise ValueError(f"{name} must hold names or numbers, not both and nothing else.")
        return array


@dataclass(frozen=True)
class Choice:
    """One of several words."""

    options: tuple[str, ...]

    def __call__(self, value: Any, name: str, sizes: Sizes) -> str:
        if not isinstance(value, str) or value not in self.options:
            words = " or ".join(f'"{option}"' for option in self.options)
            raise ValueError(f"{name} must be {words}, but is {value!r}.")
        return value


@dataclass(frozen=True)
class Is:
    """An object of a type; of a list (`dim` names its length), every element."""

    types: tuple[type, ...]
    dim: str = ""

    def __call__(self, value: Any, name: str, sizes: Sizes) -> Any:
        words = " or ".join(kind.__name__ for kind in self.types)
        if self.dim and (not isinstance(value, Sequence) or isinstance(value, str | bytes)):
            raise ValueError(f"{name} must be a list, but is a {type(value).__name__}.")
        for part in value if self.dim else [value]:
            if not isinstance(part, self.types) or (isinstance(part, bool) and bool not in self.types):
                raise ValueError(f"{name} must be {words}, but is a {type(part).__name__}.")
        if self.dim:
            _fit((len(value),), (self.dim,), name, sizes)
        return value


@dataclass(frozen=True)
class Frame:
    """A data frame with rows and these columns, each by its rule."""

    columns: Mapping[str, Rule]

    def __call__(self, value: Any, name: str, sizes: Sizes) -> pd.DataFrame:
        if not isinstance(value, pd.DataFrame) or not set(self.columns) <= set(value):
            raise ValueError(f"{name} must be a DataFrame with the columns {', '.join(self.columns)}.")
        for column, rule in self.columns.items():
            rule(value[column], f"column {column} of {name}", {})
        return value


def _random(value: Any, name: str, sizes: Sizes) -> np.random.Generator | int | None:
    """A generator, a seed, or None for chance."""
    return value if value is None or isinstance(value, np.random.Generator) else SEED(value, name, sizes)


VALUES = Array()
ANYTHING = Array(flags=True)  # numbers, or outcomes as booleans
PROBABILITIES = Array(low=0, high=1)
OUTCOMES = Array(only=(0, 1), flags=True)
ACTS = Array(low=0, high=1, flags=True)  # observed acts, or their probabilities
VERDICTS = Array(("evaluators?", "items"), low=0, high=1, flags=True)  # a row an evaluator, or already averaged
WEIGHTS = Array(low=0, total=True)
GROUPS = Labels()
SHARE = Number(low=0, high=1)
SHARES = Array(("...",), low=0, high=1)  # one or an array, taken element by element
LEVEL = Number(low=0, high=1, open=True)
COUNT = Number(low=1, high=MANY, whole=True)
BINS = Number(low=1, high=10_000, whole=True)  # narrower bins than the tolerance mean nothing
SEED = Number(low=0, whole=True)
RANDOM = _random
FLAG = Is((bool, np.bool_))

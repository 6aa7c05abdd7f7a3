"""One dial, the scale: `load("laptop")` reads `config/laptop.yaml` and nothing else.

`config/schema.json` describes every key, with its default and its limits; a scale names only what differs from it. A
scale holds facts of the experiment (seeds, sizes, model and data ids); cores, memory and GPUs belong to `profiles/`,
and what a run is told beside its scale is `options`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from candor.core.errors import CandorError

if TYPE_CHECKING:
    import jsonschema

ROOT = Path(__file__).resolve().parents[3]

_KINDS = {
    "object": "a group of keys",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_LIMITS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most", "exclusiveMaximum": "below"}


class ConfigError(CandorError):
    """A scale that cannot be used: one sentence naming the key, the file and the remedy."""


class Config(Mapping):
    """Read-only settings: `config.world.witnesses.layers` or `config["world"]["witnesses"]["layers"]`.

    Groups are `Config` again, lists are tuples.
    """

    def __init__(self, data: Mapping[str, Any]):
        object.__setattr__(self, "_data", {key: _freeze(value) for key, value in data.items()})

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):  # copy and pickle ask for special names before _data exists
            raise AttributeError(key)
        try:
            return self._data[key]
        except KeyError:
            raise AttributeError(f"no key {key!r} in this configuration, only {', '.join(self)}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError(f"a configuration is read-only: pass {key!r} to config.load as an override")

    def __repr__(self) -> str:
        return f"Config({self.to_dict()!r})"

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and lists, ready for JSON."""
        return {key: _thaw(value) for key, value in self.items()}

    def digest(self) -> str:
        """Sixteen hexadecimal digits that change when any value changes."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def scales(root: Path | None = None) -> list[str]:
    """Names of the scales that have a file in `config/`."""
    return sorted(path.stem for path in ((root or ROOT) / "config").glob("*.yaml"))


def check_scale(scale: str, root: Path | None = None) -> str:
    """The scale's name; `ConfigError` with those that there are if there is no such file. Reads none."""
    if scale not in (there := scales(root)):
        raise ConfigError(
            f"There is no scale {scale!r} (no file config/{scale}.yaml): choose one of {', '.join(there)}."
        )
    return scale


def load(scale: str, root: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read `config/<scale>.yaml`, lay nested `overrides` over it, fill in the defaults and check it.

    Raises:
        ConfigError: no such scale or file, YAML that cannot be parsed, an unknown key, a wrong type or value, a list
            that names something twice, values that do not fit each other.
    """
    root = root or ROOT
    schema = json.loads(_read(root / "config" / "schema.json"))
    check_scale(scale, root)
    source = f"config/{scale}.yaml" + (" with overrides" if overrides else "")
    try:
        given = _merge(_parse(root / "config" / f"{scale}.yaml"), overrides or {})
        if "scale" not in given and scale != schema["properties"]["scale"]["default"]:
            raise ConfigError(f"{source} does not name its scale: add the line scale: {scale}.")
        data = _checked(given, schema, source)
    except RecursionError:
        raise ConfigError(f"{source} is nested too deeply: write the groups that config/schema.json knows.") from None
    if data["scale"] != scale:
        raise ConfigError(f"{source} says scale: {data['scale']}, but its name says {scale}: make them agree.")
    if data["few_seeds"] is None:
        data["few_seeds"] = data["seeds"]
    return Config(data)


def options(given: Mapping[str, Any], root: Path | None = None) -> Config:
    """What a run of the graph is told by `snakemake --config KEY=VALUE ...`, with its defaults.

    Raises: `ConfigError` for an unknown key, naming those that there are, and for a wrong value.
    """
    schema = json.loads(_read((root or ROOT) / "config" / "schema.json"))
    claims = schema["properties"]["claims"]["items"]["enum"]
    count = {"type": "integer", "minimum": 1, "maximum": 10_000}
    keys = {
        "scale": {"type": "string", "enum": scales(root), "default": "laptop"},
        "claim": {"type": ["string", "null"], "enum": [*claims, None], "default": None},
        "batch": {**count, "type": ["integer", "null"], "default": None},  # steps a job; null: what suits the scale
        "gpus_per_job": {**count, "default": 1},
        "worlds_on_gpu": {"type": "boolean", "default": False},
        "preflight": {"type": "boolean", "default": True},
    }
    truths = {"true": True, "false": False}  # Snakemake hands these on as text
    given = {key: truths.get(value.lower(), value) if isinstance(value, str) else value for key, value in given.items()}
    return Config(_checked(given, {"properties": keys, "additionalProperties": False}, "--config"))


def named_folder(variable: str, default: Path) -> Path:
    """The folder that an environment variable names, absolute; `default` where it is not set or empty.

    `~` is a home folder, and a relative path counts from the folder in which the command was started. What comes out
    is written back to the environment: jobs and the kernels of notebooks work in other folders, and mean the same one.

    Raises: `ConfigError` for `~somebody` who has no home here, or links that lead in a circle.
    """
    given = os.environ.get(variable)
    if not given:
        return default
    try:
        place = Path(given).expanduser().resolve()
    except (RuntimeError, OSError, ValueError):
        raise ConfigError(f"{variable} is {given}, which leads nowhere: name a folder by its full path.") from None
    os.environ[variable] = str(place)
    return place


def results_root() -> Path:
    """`results/` of this checkout, or `$CANDOR_RESULTS`."""
    return named_folder("CANDOR_RESULTS", ROOT / "results")


# --- Reading ----------------------------------------------------------------------------------------


def _read(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise ConfigError(f"config/{path.name} is no file: put one there, e.g. with git.")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"Cannot read config/{path.name} ({reason}): restore it, e.g. with git.") from None


class _Loader(yaml.SafeLoader):
    """YAML less what YAML 1.1 reads as something else than a person wrote."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
            raise yaml.MarkedYAMLError(problem=f"{twice} is given twice, keep one", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value.lstrip("+-")
        octal = text[:1] == "0" and text[1:2].isdigit() and "." not in text and "e" not in text.lower()
        if ":" in text or octal or len(text) > 40:
            base = f"{node.value[:40]} would be read to the base {60 if ':' in text else 8}, write a decimal number"
            why = base if ":" in text or octal else f"a number of {len(text)} digits, write a smaller one"
            raise yaml.MarkedYAMLError(problem=why, problem_mark=node.start_mark)
        whole = node.tag.endswith("int")
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)


def _parse(path: Path) -> dict[str, Any]:
    text = _read(path)
    try:
        data = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: the 30th of February
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).split("\n")[0]
        raise ConfigError(f"Cannot parse config/{path.name}{line}: {problem}.") from None
    if not isinstance(data, dict | None):
        raise ConfigError(f"config/{path.name} should hold keys and values, such as scale: {path.stem}.")
    return data or {}


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, Mapping):
        return below | {key: _merge(below.get(key), value) for key, value in above.items()}
    return _thaw(above)


def _fill(value: Any, node: dict[str, Any], schema: dict[str, Any]) -> Any:
    """Lay `value` over the defaults of a schema node, group by group; what the schema does not know stays."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].removeprefix("#/$defs/")] | node
    if isinstance(value, dict) and "properties" in node:
        parts = node["properties"].items()
        return value | {key: _fill(value.get(key, part["default"]), part, schema) for key, part in parts}
    if isinstance(value, list) and "items" in node:
        return [_fill(part, node["items"], schema) for part in value]
    # 3.0 is a whole number in JSON Schema, but not for range().
    whole = isinstance(value, float) and value.is_integer() and "integer" in node.get("type", ())
    return int(value) if whole else value


# --- Checking ---------------------------------------------------------------------------------------


def _checked(given: dict[str, Any], schema: dict[str, Any], source: str) -> dict[str, Any]:
    """`given` with its defaults, if it fits the schema; raises one sentence for the first thing that does not."""
    import jsonschema

    data = _fill(given, schema, schema)
    draft = jsonschema.Draft202012Validator
    is_number = partial(draft.TYPE_CHECKER.is_type, type="number")
    types = draft.TYPE_CHECKER.redefine("number", lambda _, value: is_number(value) and math.isfinite(value))
    ours = {"atMost": _keyword(_at_most), "sharedEvenly": _keyword(_shared_evenly)}
    validator = jsonschema.validators.extend(draft, ours, type_checker=types)
    first = min(validator(schema).iter_errors(data), key=lambda error: (error.json_path, error.message), default=None)
    if first is not None:
        raise ConfigError(_sentence(first, source))
    return data


def _at_most(value: int, limit: int, other: str) -> str:
    """Our keyword `atMost`: one key of a group is not larger than another."""
    return f"{value} is more than {other}, {limit}: make it at most that" if value > limit else ""


def _shared_evenly(value: int, parts: int, other: str) -> str:
    """Our keyword `sharedEvenly`: one key gives each of another an even number (rotary positions turn pairs)."""
    why = f"{value} has no equal, even shares for {parts} {other}: make it a multiple of {2 * parts}"
    return why if value % (2 * parts) else ""


def _keyword(complaint: Callable[[int, int, str], str]) -> Callable[..., Iterator[jsonschema.ValidationError]]:
    """A keyword that compares two numbers of a group by name."""

    def compare(_, pairs: dict[str, str], group: Any, schema: dict) -> Iterator[jsonschema.ValidationError]:
        from jsonschema import ValidationError

        for one, other in pairs.items() if isinstance(group, dict) else ():
            there = all(isinstance(group.get(key), int) and group[key] > 0 for key in (one, other))
            if there and (why := complaint(group[one], group[other], other)):
                yield ValidationError(why, path=[one])

    return compare


def _sentence(error: jsonschema.ValidationError, source: str) -> str:
    where = ""
    for step in error.absolute_path:
        where += f"[{step}]" if isinstance(step, int) else f".{step}" if where else str(step)
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        key = next(str(key) for key in error.instance if key not in known)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}."
        source += f" (known: {', '.join(known)})" if near and len(known) < 8 else ""
        return f"Unknown key {f'{where}.{key}' if where else key} in {source}: {hint}"
    got = error.instance
    if error.validator == "type":
        wanted = error.validator_value
        wanted = " or ".join(_KINDS[kind] for kind in ([wanted] if isinstance(wanted, str) else wanted))
        hint = ""
        if isinstance(got, str) and "e" in got.lower() and _is_number(got):
            hint = " (YAML takes this for text: write it with a point and a signed exponent, as in 4.0e-3)"
        return f"{where or 'The whole file'} in {source} should be {wanted}, not {_show(got)}{hint}."
    if error.validator == "enum":
        choices = ", ".join(str(one) for one in error.validator_value if one is not None)
        return f"{where} in {source} is {_show(got)}: choose one of {choices}."
    if error.validator == "minItems":
        return f"{where} in {source} is empty: name at least one value."
    if error.validator == "uniqueItems":
        twice = next(part for i, part in enumerate(got) if part in got[:i])
        return f"{where} in {source} names {_show(twice)} twice: name it once."
    if error.validator == "pattern":
        return f"{where} in {source} is {_show(got)}: use letters, digits, _ and - alone."
    if error.validator in _LIMITS:
        limit = f"{_LIMITS[error.validator]} {error.validator_value}"
        return f"{where} in {source} should be {limit}, not {_show(got)}."
    return f"{where} in {source} does not fit: {error.message}."


def _show(value: Any) -> str:
    kind = "a group of keys" if isinstance(value, dict) else "a list" if isinstance(value, list) else ""
    text = kind or ("text " if isinstance(value, str) else "") + json.dumps(value, default=str)
    return text if len(text) < 80 else f"{text[:60]}..."


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _freeze(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Config(value)
    return tuple(map(_freeze, value)) if isinstance(value, list | tuple) else value


def _thaw(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thaw(part) for key, part in value.items()}
    return [_thaw(part) for part in value] if isinstance(value, list | tuple) else value

"""One dial, the scale: `load("laptop")` reads `config/laptop.yaml` and nothing else.

`config/schema.json` describes every key, with its default; a scale names only what differs from it. A scale
holds facts of the experiment (seeds, sizes, model and data ids); cores, memory and GPUs belong to
`profiles/`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from candor.errors import CandorError

ROOT = Path(__file__).resolve().parents[2]

_KINDS = {
    "object": "a group of keys",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_LIMITS = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}


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


def load(scale: str, root: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read `config/<scale>.yaml`, lay nested `overrides` over it, check it and fill in the defaults.

    Raises:
        ConfigError: no such scale or file, YAML that cannot be parsed, an unknown key, a wrong type or value.
    """
    root = root or ROOT
    path = root / "config" / f"{scale}.yaml"
    schema = json.loads(_read(root / "config" / "schema.json"))
    if scale not in scales(root):
        known = ", ".join(scales(root))
        raise ConfigError(f"There is no scale {scale!r} (no file config/{scale}.yaml): choose one of {known}.")
    source = f"config/{scale}.yaml" + (" with overrides" if overrides else "")
    data = _merge(_parse(path), overrides or {})
    errors = jsonschema.Draft202012Validator(schema).iter_errors(data)
    first = min(errors, key=lambda error: (error.json_path, error.message), default=None)
    if first is not None:
        raise ConfigError(_sentence(first, source))
    data = _fill(data, schema, schema)
    if data["scale"] != scale:
        raise ConfigError(f"{source} says scale: {data['scale']}, but its name says {scale}: make them agree.")
    if data["few_seeds"] is None:
        data["few_seeds"] = data["seeds"]
    return Config(data)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"Cannot read config/{path.name} ({reason}): restore it, e.g. with git.") from None


def _parse(path: Path) -> dict[str, Any]:
    text = _read(path)
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise ConfigError(f"Cannot parse config/{path.name}{line}: {problem}.") from None
    if not isinstance(data, dict | None):
        raise ConfigError(f"config/{path.name} should hold keys and values, such as scale: {path.stem}.")
    return data or {}


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, Mapping):
        return below | {key: _merge(below.get(key), value) for key, value in above.items()}
    return _thaw(above)


def _sentence(error: jsonschema.ValidationError, source: str) -> str:
    where = ""
    for step in error.absolute_path:
        where += f"[{step}]" if isinstance(step, int) else f".{step}" if where else str(step)
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        key = next(str(key) for key in error.instance if key not in known)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}."
        return f"Unknown key {f'{where}.{key}' if where else key!r} in {source}: {hint}".replace("'", "")
    got = error.instance
    if error.validator == "type":
        wanted = error.validator_value
        wanted = " or ".join(_KINDS[kind] for kind in ([wanted] if isinstance(wanted, str) else wanted))
        hint = ""
        if isinstance(got, str) and "e" in got.lower() and _is_number(got):
            hint = " (YAML takes this for text: write it with a point and a signed exponent, as in 4.0e-3)"
        return f"{where or 'The whole file'} in {source} should be {wanted}, not {_show(got)}{hint}."
    if error.validator == "enum":
        return f"{where} in {source} is {_show(got)}: choose one of {', '.join(error.validator_value)}."
    if error.validator == "minItems":
        return f"{where} in {source} is empty: name at least one value."
    if error.validator in _LIMITS:
        limit = f"{_LIMITS[error.validator]} {error.validator_value}"
        return f"{where} in {source} should be {limit}, not {_show(got)}."
    return f"{where} in {source} does not fit: {error.message}."


def _show(value: Any) -> str:
    kind = "a group of keys" if isinstance(value, dict) else "a list" if isinstance(value, list) else ""
    return kind or ("text " if isinstance(value, str) else "") + json.dumps(value, default=str)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fill(value: Any, node: dict[str, Any], schema: dict[str, Any]) -> Any:
    """Lay `value` over the defaults of a schema node, group by group."""
    if "$ref" in node:
        node = schema["$defs"][node["$ref"].removeprefix("#/$defs/")] | node
    if isinstance(value, dict) and "properties" in node:
        parts = node["properties"].items()
        return {key: _fill(value.get(key, part["default"]), part, schema) for key, part in parts}
    # 3.0 is a whole number in JSON Schema, but not for range().
    whole = isinstance(value, float) and node.get("type") == "integer"
    return int(value) if whole else value


def _freeze(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Config(value)
    return tuple(map(_freeze, value)) if isinstance(value, list | tuple) else value


def _thaw(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _thaw(part) for key, part in value.items()}
    return [_thaw(part) for part in value] if isinstance(value, list | tuple) else value

"""Nested states as text and arrays, which are the contents of a safetensors file.

What JSON has no form for is an object with one key: ``{"$array": name}``, ``{"$nan": bits}``, ``{"$tuple":
items}``, and ``{"$pairs": [[key, value], …]}`` for a mapping whose keys are not all plain text.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from ..arrays.memory import Array

DEEPEST = 100
"""How many mappings, lists and tuples may be within each other."""

# The dtypes that safetensors has.
NUMBERS = {"bool", "float64", "float32", "float16", "bfloat16", "complex64"}
NUMBERS |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def encode(value: Any) -> tuple[str, dict[str, Array]]:
    """`value` as JSON, and its arrays by the names that stand for them in the JSON.

    `value` is made of mappings, lists, tuples, arrays, numbers, text, truth values and None. Raises
    TypeError, naming the place, for anything else, and ValueError for what is nested too deeply.
    """
    arrays: dict[str, Array] = {}
    return json.dumps(_plain(value, "", arrays, DEEPEST)), arrays


def decode(text: str, arrays: Mapping[str, Array]) -> Any:
    """The value that `encode` was given; raises ValueError for what `encode` cannot have made."""
    left = dict(arrays)
    value = _rebuilt(parsed(text), left, DEEPEST + 1)  # arrays do not count as a level, but their names do
    if left:
        raise ValueError(f"its state does not say what {min(left)!r} is")
    return value


def parsed(text: str) -> Any:
    """The value of a text in JSON; raises ValueError for another text, and if two keys are the same."""
    try:
        return json.loads(text, object_pairs_hook=_mapping)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None


def _plain(value: Any, path: str, arrays: dict[str, Array], levels: int) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return {"$nan": struct.pack(">d", value).hex()}  # so that it has the same bits again
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.name not in NUMBERS:
            raise TypeError(f"{path or 'the array'} cannot be saved: its dtype is {value.dtype}")
        name = _unused(path or "array", arrays)
        arrays[name] = np.asarray(value, value.dtype.newbyteorder("="), order="C")
        return {"$array": name}
    if not levels:
        raise ValueError(f"the state cannot be saved: it is nested in more than {DEEPEST} levels")
    if isinstance(value, Mapping):
        items = {key: _plain(item, _join(path, key), arrays, levels - 1) for key, item in value.items()}
        if all(isinstance(key, str) and not key.startswith("$") for key in items):
            return items
        return {"$pairs": [[_plain(key, path, arrays, levels - 1), item] for key, item in items.items()]}
    if isinstance(value, list | tuple):
        listed = [_plain(item, _join(path, i), arrays, levels - 1) for i, item in enumerate(value)]
        return listed if isinstance(value, list) else {"$tuple": listed}
    raise TypeError(
        f"{path or 'the state'} cannot be saved: {type(value).__name__} is no number, text or array"
    )


def _rebuilt(value: Any, arrays: dict[str, Array], levels: int) -> Any:
    """The value that `_plain` was given; its arrays are taken out of `arrays`."""
    if not isinstance(value, list | dict):
        return value
    if not levels:
        raise ValueError(f"its state is nested in more than {DEEPEST} levels")
    rebuilt = partial(_rebuilt, arrays=arrays, levels=levels - 1)
    if isinstance(value, list):
        return [rebuilt(item) for item in value]
    if any(key.startswith("$") for key in value):
        return _special(value, arrays, rebuilt)
    return {key: rebuilt(item) for key, item in value.items()}


def _special(value: dict[str, Any], arrays: dict[str, Array], rebuilt: Callable[[Any], Any]) -> Any:
    """The value for which an object with such a key stands."""
    match list(value.items()):
        case [("$array", str(name))] if name in arrays:
            return arrays.pop(name)
        case [("$array", str(name))]:
            raise ValueError(f"it has no tensor {name!r}, or its state names it twice")
        case [("$nan", str(bits))]:
            return _nan(bits)
        case [("$tuple", list(items))]:
            return tuple(rebuilt(item) for item in items)
        case [("$pairs", list(pairs))]:
            return _mapping([(rebuilt(key), rebuilt(item)) for key, item in map(_pair, pairs)])
    raise ValueError(f"its state has {list(value)} where that means nothing")


def _mapping(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    try:
        found = dict(pairs)
    except TypeError:
        raise ValueError("a key in its state is a list, a mapping or an array") from None
    if len(found) < len(pairs):
        raise ValueError("two keys in its state are the same")
    return found


def _pair(found: Any) -> tuple[Any, Any]:
    if not isinstance(found, list) or len(found) != 2:
        raise ValueError("its state has something else in the place of a key and its value")
    return found[0], found[1]


def _nan(bits: str) -> float:
    held = bytes.fromhex(bits)
    number: float = struct.unpack(">d", held)[0] if len(held) == 8 else 0.0
    if not math.isnan(number):
        raise ValueError(f"its state has the bits {bits!r} in the place of those of NaN")
    return number


def _join(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def _unused(name: str, arrays: Mapping[str, Array]) -> str:
    """`name` as UTF-8 can hold it, with a number appended if another key has led to the same name."""
    name = found = name.encode(errors="backslashreplace").decode()
    count = 1
    while found in arrays:
        count += 1
        found = f"{name}#{count}"
    return found

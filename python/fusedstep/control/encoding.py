"""Nested states as text and arrays, which are the contents of a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..arrays.memory import Array

# An object with one of these keys stands for a value that JSON has no form for.
ARRAY, PAIRS, TUPLE = "$array", "$pairs", "$tuple"

# The dtypes that safetensors has.
NUMBERS = {"bool", "float64", "float32", "float16", "bfloat16", "complex64"}
NUMBERS |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def encode(value: Any) -> tuple[str, dict[str, Array]]:
    """`value` as JSON, and its arrays by the names that stand for them in the JSON.

    `value` is made of mappings, lists, tuples, arrays, numbers, text, truth values and None. Raises
    TypeError, naming the place, for anything else.
    """
    arrays: dict[str, Array] = {}
    return json.dumps(_plain(value, "", arrays)), arrays


def decode(text: str, arrays: Mapping[str, Array]) -> Any:
    """The value that `encode` was given."""
    return _rebuilt(json.loads(text), arrays)


def _plain(value: Any, path: str, arrays: dict[str, Array]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        if value.dtype.name not in NUMBERS:
            raise TypeError(f"{path or 'the array'} cannot be saved: its dtype is {value.dtype}")
        name = _unused(path or "array", arrays)
        arrays[name] = np.asarray(value, value.dtype.newbyteorder("="), order="C")
        return {ARRAY: name}
    if isinstance(value, Mapping):
        items = {key: _plain(item, _join(path, key), arrays) for key, item in value.items()}
        if all(isinstance(key, str) and not key.startswith("$") for key in items):
            return items
        return {PAIRS: [[_plain(key, path, arrays), item] for key, item in items.items()]}
    if isinstance(value, list | tuple):
        listed = [_plain(item, _join(path, i), arrays) for i, item in enumerate(value)]
        return listed if isinstance(value, list) else {TUPLE: listed}
    raise TypeError(
        f"{path or 'the state'} cannot be saved: {type(value).__name__} is no number, text or array"
    )


def _rebuilt(value: Any, arrays: Mapping[str, Array]) -> Any:
    if isinstance(value, list):
        return [_rebuilt(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if ARRAY in value:
        return arrays[value[ARRAY]]
    if PAIRS in value:
        return {_rebuilt(key, arrays): _rebuilt(item, arrays) for key, item in value[PAIRS]}
    if TUPLE in value:
        return tuple(_rebuilt(item, arrays) for item in value[TUPLE])
    return {key: _rebuilt(item, arrays) for key, item in value.items()}


def _join(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def _unused(name: str, arrays: Mapping[str, Array]) -> str:
    """`name`, with a number appended if another key has led to the same name."""
    found, count = name, 1
    while found in arrays:
        count += 1
        found = f"{name}#{count}"
    return found

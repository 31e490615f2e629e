"""Objects that are not what they seem, and arrays that lie about themselves."""

from __future__ import annotations

import array
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.fuzz.arrays import Array
from tests.fuzz.mistakes import OwnError


class ByMethod:
    """Has the numbers of an array, and says so by a method."""

    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numbers


class ByInterface:
    """Has the numbers of an array, and says so by a property."""

    def __init__(self, numbers: Array) -> None:
        self.numbers = numbers

    @property
    def __array_interface__(self) -> Any:
        return self.numbers.__array_interface__


class Pretender:
    """Says that it is an array."""

    def __init__(self, numbers: Array) -> None:
        self.numbers = numbers

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return np.ndarray

    def __getattr__(self, name: str) -> Any:
        return getattr(self.numbers, name)


class Endless(Sequence[int]):
    """More row indices than there is memory for."""

    def __init__(self, count: int) -> None:
        self.length = count

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: Any) -> Any:
        return 0


class Failing(Sequence[int]):
    """Row indices that cannot be read."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, i: Any) -> Any:
        raise OwnError


class FailingDict(dict[Any, Any]):
    """A mapping whose items cannot be read."""

    def __getitem__(self, key: Any) -> Any:
        raise OwnError

    def __iter__(self) -> Iterator[Any]:
        raise OwnError


class LongList(list[Any]):
    """A list that says that it has more items than it has."""

    def __len__(self) -> int:
        return 10**12


def broken_property(_: Any) -> Any:
    raise OwnError


LIES: dict[str, list[Any]] = {
    "shape": [(), (10**9,), (-1,), None, "x"],
    "dtype": [np.dtype(np.int8), np.dtype(np.float64), np.dtype(np.float32), None],
    "strides": [(1 << 40,), (), None],
    "size": [0, 10**12, -1, None],
    "ndim": [0, 64, -1, None],
    "nbytes": [0, 10**12, None],
    "itemsize": [1, 10**9, 0],
    "flags": [None, {}, np.zeros(1).flags],
    "base": [None, 7],
    "T": [None, np.zeros(3)],
    "ctypes": [None],
    "data": [None, b""],
    "__array_interface__": [{"data": (0, False), "shape": (10**9,), "typestr": "<f8", "version": 3}, None],
    "__array_priority__": [None],
}
"""What arrays can say of themselves that is not true."""


def lying(rng: random.Random, honest: Array) -> tuple[str, Array]:
    """A view of an array that lies in one way, and what the lie is."""
    name = rng.choice(list(LIES))
    lie = rng.choice(LIES[name])
    said = property(broken_property if rng.random() < 0.2 else lambda _: lie)
    kind: Any = type("Lying", (np.ndarray,), {name: said})
    return f"{name}={lie!r}", honest.view(kind)


def unequal_method(rng: random.Random, honest: Array) -> tuple[str, Array]:
    """A view of an array with a method that fails."""
    name = rng.choice(["view", "reshape", "copy", "astype", "__getitem__", "__len__", "__array_finalize__"])

    def failing(*_: Any, **__: Any) -> Any:
        raise OwnError

    plain = honest.view()
    kind: Any = type("Unequal", (np.ndarray,), {})
    view: Array = plain.view(kind)
    setattr(kind, name, failing)
    return name, view


def not_arrays(honest: Array) -> dict[str, Any]:
    """What has or could give the numbers of an array, but is none."""
    return {
        "list": honest.tolist(),
        "float": 1.0,
        "scalar": honest.dtype.type(1),
        "memoryview": memoryview(bytes(honest.nbytes)),
        "bytes": b"x" * honest.nbytes,
        "text": "x" * max(1, honest.size),
        "array.array": array.array("d", [0.0] * honest.size),
        "by method": ByMethod(honest),
        "by interface": ByInterface(honest),
        "nested": [honest],
        "mapping": {"x": honest},
        "type": np.ndarray,
        "masked": np.ma.masked_array(honest, np.zeros(honest.shape, bool)),
    }

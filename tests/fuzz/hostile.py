"""Objects that are not what they seem, and arrays that lie about themselves.

Lists and mappings of gradients may fail, but they do not lie about their length: nobody has such a list.
"""

from __future__ import annotations

import array
import random
from collections.abc import Iterator, Sequence
from functools import partial
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


def a_liar(honest: Array, lies: dict[str, Any]) -> Array:
    """A view of an array that gives these values for what is asked; an `OwnError` is raised."""
    kind: Any = type(
        "Liar", (np.ndarray,), {name: property(partial(answer, lie)) for name, lie in lies.items()}
    )
    view: Array = honest.view(kind)
    return view


def answer(lie: Any, _: Any) -> Any:
    if lie is OwnError:
        raise OwnError
    return lie


def lying(rng: random.Random, honest: Array) -> tuple[str, Array]:
    """A view of an array that lies, mostly in one way, and what the lies are."""
    names = rng.sample(list(LIES), rng.choice([1, 1, 1, 2, 4]))
    lies = {name: OwnError if rng.random() < 0.1 else rng.choice(LIES[name]) for name in names}
    said = ", ".join(f"{name}={' '.join(repr(lie).split()):.40}" for name, lie in lies.items())
    return said, a_liar(honest, lies)


def failing(rng: random.Random, honest: Array) -> tuple[str, Array]:
    """A view of an array with a method that fails, and its name."""
    name = rng.choice(METHODS)
    kind: Any = type("Failing", (np.ndarray,), {})
    view: Array = honest.view(kind)
    setattr(kind, name, fail)
    return f"{name} fails", view


def fail(*_: Any, **__: Any) -> Any:
    raise OwnError


METHODS = ["view", "reshape", "copy", "astype", "fill", "ravel", "any", "transpose", "tobytes"]
METHODS += [f"__{name}__" for name in ("getitem", "setitem", "len", "iter", "eq", "array", "reduce", "hash")]
METHODS += [f"__array_{name}__" for name in ("finalize", "ufunc", "function", "wrap", "prepare")]
"""What arrays have that a subclass can replace."""


def not_arrays(honest: Array) -> dict[str, Any]:
    """What has the numbers of an array, but is none; a scalar may stand for an array without axes."""
    scalar = {"scalar": honest.dtype.type(1)} if honest.ndim else {}
    return scalar | {
        "list": honest.tolist(),
        "float": 1.0,
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

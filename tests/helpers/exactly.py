"""Comparing arrays to the bit, and seeing whether anything beside them was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

GUARD = 16
SENTINEL = 123.0  # exact in every format


def unsigned(a: Array) -> Array:
    """The bits as integers."""
    return a.view(f"u{a.itemsize}")


def same_bits(a: Array, b: Array) -> bool:
    """Equal to the bit; NaN equals NaN whatever its sign and payload, which IEEE 754 leaves open."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.tobytes() == b.tobytes():
        return True
    with np.errstate(invalid="ignore"):  # signalling NaN
        nan, other = np.isnan(a), np.isnan(b)
    return np.array_equal(nan, other) and np.array_equal(unsigned(a)[~nan], unsigned(b)[~nan])


def assert_same(result: dict[str, Array], expected: dict[str, Array], context: Any = None) -> None:
    """The same names, and arrays of the same bits."""
    assert result.keys() == expected.keys()
    for name, array in result.items():
        assert same_bits(array, expected[name]), (name, context)


def guarded(values: Array, offset: int) -> tuple[Array, Callable[[], bool]]:
    """A copy of `values`, `offset` elements into a buffer with sentinels on both sides, and their check."""
    n = len(values)
    buffer = np.full(n + 2 * GUARD + offset, SENTINEL, values.dtype)
    view = buffer[GUARD + offset : GUARD + offset + n]
    view[...] = values

    def intact() -> bool:
        before, after = buffer[: GUARD + offset], buffer[GUARD + offset + n :]
        return bool((before == SENTINEL).all() and (after == SENTINEL).all())

    return view, intact

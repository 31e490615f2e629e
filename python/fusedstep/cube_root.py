"""The cube root, in arithmetic that is alike on every machine. The counterpart of cpp/cube_root.hpp."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .kernel import Array


def cube_root(x: Array) -> Array:
    """The cube root of what is not negative, within 4 units in the last place."""
    small = x < 1
    scaled = x * np.where(small, _in(x, 2.0**54), _in(x, 2.0**-54))
    root = _guessed(scaled) * np.where(small, _in(x, 2.0**-18), _in(x, 2.0**18))
    return np.where((x > 0) & (x < np.inf), root, x)


def _guessed(x: Array) -> Array:
    """A third of the bits, as an integer, and a constant are the bits of the root to 1/31 (Kahan 1991)."""
    if x.dtype == np.float32:
        single = (_third(x.view(np.uint32)) + np.uint32(0x2A510000)).view(np.float32)
        return _halley(_halley(single, x), x)
    double = (_third(x.view(np.uint64)) + np.uint64(0x2A9F7A8B00000000)).view(np.float64)
    return _halley(_halley(_halley(double, x), x), x)


def _third(n: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A little less than n/3: 1/4 + 1/16 is 5/16, and 17/16 of it is 85/256."""
    total = (n >> 2) + (n >> 4)
    total = total + (total >> 4)
    total = total + (total >> 8)
    thirds: npt.NDArray[Any] = total + (total >> 16)
    return thirds


def _halley(root: Array, x: Array) -> Array:
    """A step of Halley's method for root³ = x, which cubes the relative error."""
    cube = root * root * root
    return root * ((cube + (x + x)) / ((cube + cube) + x))


def _in(x: Array, value: float) -> np.floating[Any]:
    number: np.floating[Any] = x.dtype.type(value)
    return number

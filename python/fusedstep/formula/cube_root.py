"""The cube root, with the same bits on every machine. The counterpart of cpp/kernels/cube_root.hpp."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .kernel import Array


def cube_root(x: Array) -> Array:
    """The cube root of numbers that are not negative, within 2 units in the last place."""
    small = x < 1
    scaled = x * np.where(small, _in(x, 2.0**54), _in(x, 2.0**-54))
    y = _inverse_cube_root(scaled)
    near = scaled * (y * y)
    h = _in(x, 1) - near * y
    root = near + near * (h * (_in(x, 2 / 3) + h * _in(x, 5 / 9)))  # by (1 - h)^-⅔
    return np.where(x < np.inf, root * np.where(small, _in(x, 2.0**-18), _in(x, 2.0**18)), x)


def _inverse_cube_root(x: Array) -> Array:
    """1/∛x, improved from a guess: a constant minus a third of x's bits, read as an integer (Kahan 1991)."""
    if x.dtype == np.float32:
        return _newton((np.uint32(0x54A23000) - _third(x.view(np.uint32))).view(np.float32), x)
    y = _newton((np.uint64(0x553EF0FE00000000) - _third(x.view(np.uint64))).view(np.float64), x)
    h = 1 - (x * y) * (y * y)
    nearer: Array = y + y * (h * (1 / 3 + h * (2 / 9)))  # by (1 - h)^-⅓
    return nearer


def _newton(y: Array, x: Array) -> Array:
    """Newton's y·(4 - x·y³)/3, which is never too large, times a factor that makes its error two-sided."""
    nearer: Array = y * (_in(x, 4.004 / 3) - _in(x, 1.001 / 3) * ((x * y) * (y * y)))
    return nearer


def _third(n: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A little less than n/3: 1/4 + 1/16 is 5/16, and 17/16 of it is 85/256."""
    total = (n >> 2) + (n >> 4)
    total = total + (total >> 4)
    total = total + (total >> 8)
    thirds: npt.NDArray[Any] = total + (total >> 16)
    return thirds


def _in(x: Array, value: float) -> np.floating[Any]:
    number: np.floating[Any] = x.dtype.type(value)
    return number

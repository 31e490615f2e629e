"""Functions that formulas use beside NumPy's own. The counterpart of cpp/kernels/arithmetic.hpp."""

from __future__ import annotations

from typing import Any

import numpy as np

from .kernel import Array


def clamp(x: Array, least: Any, most: Any) -> Array:
    """Do as numpy.clip does, except for the sign of a zero."""
    above = np.where(x < least, least, x)
    return np.where(above > most, most, above)


def square(x: Array) -> Array:
    """x² in double precision."""
    wide = x.astype(np.float64)
    return wide * wide


def largest(x: Array) -> Any:
    """The largest finite number of the dtype of x."""
    return np.finfo(x.dtype).max


def variance(square: Array, mean: Array) -> Array:
    """The variance of what has this mean and mean of squares.

    0 where rounding would make it negative, infinite where the mean of squares is.
    """
    difference = square - mean * mean
    rounded = np.where(difference < 0, square.dtype.type(0), difference)
    return np.where(square > largest(square), square, rounded)


def term(c: Any, x: Array) -> Array:
    """c·x, a term that a coefficient of 0 removes, even where x is infinite."""
    return np.where(c != 0, c * x, x.dtype.type(0))

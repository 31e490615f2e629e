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


def positive(x: Array) -> Array:
    """x, or 0 where rounding made a variance negative."""
    return np.where(x < 0, x.dtype.type(0), x)

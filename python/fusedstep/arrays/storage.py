"""The types in which numbers are stored and computed. The counterpart of cpp/kernels/storage.hpp."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

DType = np.dtype[Any]

NAMES = ("float32", "float64", "bfloat16", "float16")
"""bfloat16 is the type of the package ml_dtypes; NumPy has none."""


@lru_cache  # NumPy builds the name of a dtype anew each time
def is_format(dtype: DType) -> bool:
    """Whether the kernels know numbers of this type."""
    return dtype.isnative and dtype.name in NAMES


@lru_cache
def arithmetic(dtype: DType) -> DType:
    """The type in which a step computes: float64 for float64, float32 for all others."""
    return np.dtype(np.float64 if dtype.name == "float64" else np.float32)


def mix(a: DType, b: DType) -> bool:
    """Whether a step can combine arrays of these types: float64 goes only with float64."""
    return arithmetic(a) == arithmetic(b)


def checked_format(label: str, given: npt.DTypeLike | None) -> DType | None:
    """The dtype that an argument asks for; None stands for each parameter's own."""
    if given is None:
        return None
    if isinstance(given, str) and given == "bfloat16":
        import_module("ml_dtypes")  # an optional package; its import tells NumPy the name
    try:
        dtype: DType = np.dtype(given)
    except TypeError:
        dtype = np.dtype(object)
    if not is_format(dtype):
        raise TypeError(f"{label} must be one of {', '.join(NAMES)}, got {given!r}")
    return dtype

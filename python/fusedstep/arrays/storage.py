"""What numbers are kept as and computed in. The counterpart of cpp/storage.hpp."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

DType = np.dtype[Any]

NAMES = ("float32", "float64", "bfloat16", "float16")
"""bfloat16 is the type of the package ml_dtypes; NumPy has none."""


@lru_cache  # NumPy makes a dtype's name anew each time
def is_number(dtype: DType) -> bool:
    """Whether the kernels know these numbers."""
    return dtype.isnative and dtype.name in NAMES


@lru_cache
def arithmetic(dtype: DType) -> DType:
    """The type that a step computes in: float64 for float64, float32 for all else."""
    return np.dtype(np.float64 if dtype.name == "float64" else np.float32)


def mix(a: DType, b: DType) -> bool:
    """Whether arrays of these types go together in a step: float64 goes with nothing else."""
    return arithmetic(a) == arithmetic(b)


def number_type(label: str, given: npt.DTypeLike | None) -> DType | None:
    """The dtype that an argument asks for; None where each parameter's own is meant."""
    if given is None:
        return None
    if isinstance(given, str) and given == "bfloat16":
        import_module("ml_dtypes")  # an extra; from then on NumPy knows the name
    try:
        dtype: DType = np.dtype(given)
    except TypeError:
        dtype = np.dtype(object)
    if not is_number(dtype):
        raise TypeError(f"{label} must be one of {', '.join(NAMES)}, got {given!r}")
    return dtype

"""What runs a step and what it is kept in, for tests that go through all of both."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import fusedstep as fs

ml_dtypes = pytest.importorskip("ml_dtypes")

Array = np.ndarray[Any, Any]

BACKENDS = ["native", "numpy"]
ENGINES: list[tuple[Any, str, int]] = [
    *itertools.product(["native"], fs.info()["isas"], [1, 2, 3]),
    ("numpy", fs.info()["isa"], 1),
]
DTYPES = {name: np.dtype(getattr(np, name, None) or ml_dtypes.bfloat16) for name in ("float32", "float64")}
DTYPES |= {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# What parameters are kept in by turns; gradients, or None for the same; state_dtype.
MIXES: dict[str, tuple[list[str], str | None, str | None]] = {
    "float32": (["float32"], None, None),
    "float64": (["float64"], None, None),
    "float16": (["float16"], None, "float16"),
    "bfloat16": (["bfloat16"], None, None),
    "gradients in float16": (["float32"], "float16", None),
    "state in float32": (["bfloat16", "float16"], "bfloat16", "float32"),
    "state in bfloat16": (["float32", "float16"], "float32", "bfloat16"),
    "state in float16": (["float32", "bfloat16"], "float32", "float16"),
    "of all types": (["float32", "float64", "float16", "bfloat16"], None, None),
}


def normal(seed: int, shape: Any, dtype: Any = np.float64) -> Array:
    return normal_once(seed, shape, dtype).copy()


@lru_cache(maxsize=1024)
def normal_once(seed: int, shape: Any, dtype: Any) -> Array:
    """The same, of which each run of a test needs a copy."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def with_gaps(a: Array) -> Array:
    return np.repeat(a, 2, axis=-1)[..., ::2]

"""Where two structures differ: mappings, sequences, arrays and numbers, compared to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.helpers.exactly import same_bits


def difference(a: Any, b: Any, where: str = "") -> str | None:
    """The place and the values of the first difference, None if there is none; a NaN equals a NaN."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return None if same_bits(a, b) else f"{where}: {shown(a, b)}"
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        a, b = dict(enumerate(a)), dict(enumerate(b))
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return next(filter(None, (difference(a[key], b[key], f"{where}[{key!r}]") for key in a)), None)
    return None if repr(a) == repr(b) else f"{where}: {a!r}, {b!r}"


def shown(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> str:
    """The first elements that differ, or what of the arrays differs."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{a.dtype}{a.shape}, {b.dtype}{b.shape}"
    one, other = a.reshape(-1), b.reshape(-1)
    i = next(i for i in range(a.size) if not same_bits(one[i : i + 1], other[i : i + 1]))
    return f"{a.dtype}{a.shape}, element {i}: {one[i]!r}, {other[i]!r}"

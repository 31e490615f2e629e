"""The order in which numbers are added, one after the other in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.helpers.internals import _core

LANES = 32


def lanes_by_halves(terms: list[float]) -> float:
    """The sum over a tensor, or a row: of each tile the lanes, which are added by halves; then the tiles."""
    total = 0.0
    for begin in range(0, len(terms), _core.tile):
        lanes = [0.0] * LANES
        for i, term in enumerate(terms[begin : begin + _core.tile]):
            lanes[i % LANES] += term
        half = LANES // 2
        while half >= 1:
            for i in range(half):
                lanes[i] += lanes[i + half]
            half //= 2
        total += lanes[0]
    return total


def rough(seed: int, shape: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """Numbers of all magnitudes, so that the order of a sum shows in its last bits."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal(shape) * 2 ** rng.uniform(-12, 12, shape)).astype(dtype)

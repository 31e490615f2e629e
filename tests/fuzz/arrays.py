"""Random arrays: shapes, values, and the ways in which they lie in memory."""

from __future__ import annotations

import math
import random
from typing import Any, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]

FLOAT64 = np.dtype(np.float64)
NARROW = [np.dtype(kind) for kind in (np.float32, np.float16, ml_dtypes.bfloat16)]
"""The dtypes that may be mixed with each other; float64 stays alone."""

LIMITS: dict[np.dtype[Any], tuple[float, float]] = {
    FLOAT64: (1.7976931348623157e308, 5e-324),
    NARROW[0]: (3.4028234663852886e38, 2.0**-149),
    NARROW[1]: (65504.0, 2.0**-24),
    NARROW[2]: (3.3895313892515355e38, 2.0**-133),
}
"""The largest number of each dtype, and the least above 0."""

MARGIN = 16
SENTINEL = 123.0  # exact in every format


class Placed(NamedTuple):
    """An array, and the memory in which it lies with sentinels around it and in its gaps."""

    array: Array
    memory: Array


def a_shape(rng: random.Random) -> Shape:
    """Mostly small; sometimes empty, without axes, or so large that threads take part."""
    kind = rng.random()
    if kind < 0.05:
        return ()
    if kind < 0.1:
        return rng.choice([(0,), (0, 4), (3, 0), (2, 0, 3)])
    if kind < 0.15:
        return rng.choice([(rng.randint(8000, 20000),), (rng.randint(90, 130), 100), (3, 4100), (4100, 3)])
    if kind < 0.45:
        return (rng.randint(1, 70),)
    if kind < 0.85:
        return (rng.randint(1, 12), rng.randint(1, 12))
    return tuple(rng.randint(1, 4) for _ in range(rng.randint(3, 5)))


@np.errstate(all="ignore")
def numbers(rng: random.Random, shape: Shape, dtype: np.dtype[Any], *, wild: bool) -> Array:
    """Around 1, or of one other size, with zeros; if wild, of all sizes, and now and then not finite."""
    source = np.random.default_rng(rng.getrandbits(64))
    values = source.standard_normal(shape)
    kind = rng.random()
    if kind < 0.3:
        values *= 10.0 ** rng.randint(-4, 3)
    elif kind < 0.4:
        values *= source.random(shape) < 0.3
    elif kind < 0.45:
        values *= 0
    if wild:
        largest, least = LIMITS[dtype]
        kind = rng.random()
        if kind < 0.2:
            values *= least * rng.choice([1, 1e3, 1e6])
        elif kind < 0.35:
            values *= largest / rng.choice([1e3, 1e2, 4])
        elif kind < 0.5:
            values *= 10.0 ** source.uniform(math.log10(least), math.log10(largest), shape)
        elif kind < 0.7:
            special = [0.0, -0.0, largest, -largest, least, -least, math.inf, -math.inf, math.nan]
            spots = source.random(shape) < 0.2
            values = np.where(spots, source.choice(special[: rng.choice([6, 8, 9])], shape), values)
    return np.asarray(values).astype(dtype)


def placed(rng: random.Random, values: Array, *, offset: int = 0, plain: float = 0.6) -> Placed:
    """A copy of the values in random order of memory, with gaps, or backwards; `plain` of them in C order."""
    axes = list(range(values.ndim))
    steps = [1] * values.ndim
    if rng.random() >= plain:
        order = rng.choice(["C", "F", "any"])
        if order == "F":
            axes.reverse()
        elif order == "any":
            rng.shuffle(axes)
        steps = [rng.choice([1, 1, 1, 2, -1, -2]) for _ in axes]
    room = [values.shape[axis] * abs(step) for axis, step in zip(axes, steps, strict=True)]
    size = math.prod(room)
    memory = np.full(offset + size + 2 * MARGIN, SENTINEL, values.dtype)[offset:]
    inside = memory[MARGIN : MARGIN + size].reshape(room)
    view = inside[tuple(slice(None, None, step) for step in steps)]
    array = view.transpose(np.argsort(axes).astype(int)) if axes else view[...]
    array[...] = values
    return Placed(array, memory)


def steps_by_rows(array: Array) -> bool:
    """Whether each row of the array is one run of memory."""
    if array.ndim == 0:
        return False
    return bool((array[0] if len(array) else array).flags.c_contiguous)

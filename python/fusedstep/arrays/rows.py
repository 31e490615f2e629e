"""Gradients of some rows of a parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .memory import Array, check_array
from .storage import arithmetic


@dataclass(frozen=True, eq=False, slots=True)
class Rows:
    """The gradient of some rows of a parameter, such as those of an embedding that a batch looked up.

    indices: the positions of rows ``p[r]``, a list or an array of one axis, integers from 0 to ``len(p) - 1``
    in any order; a row may be named more than once. values: the gradients of these rows, an array of shape
    ``(len(indices), *p.shape[1:])``, in a dtype that a dense gradient may have.

    ``opt.step({"users": fs.Rows(ids, g), "w": dense})`` moves those rows of ``users`` alone, and their state:
    no momentum carries the others on, nothing decays. See `Optimizer.step` for the rules that can do this.
    """

    indices: Any
    values: Any


def summed(indices: Array, values: Array) -> tuple[Array, Array]:
    """The rows that are named, ascending, each once, and their gradients.

    Those of equal rows are summed, in order, in the type that a step computes in.
    """
    rows, first, place = np.unique(indices, return_index=True, return_inverse=True)
    wide = values.astype(arithmetic(values.dtype))
    again = np.delete(np.arange(len(indices)), first)
    sums = wide[first]
    with np.errstate(all="ignore"):
        np.add.at(sums, place[again], wide[again])
    return rows, sums


def row_indices(label: str, rows: Any, count: int | None = None) -> Array:
    """`rows` as int64; an error unless they are integers from 0, to `count` - 1 if that is known."""
    if isinstance(rows, list | tuple | range):
        if any(isinstance(row, bool | np.bool_) for row in rows):
            raise TypeError(f"{label} must be integers, got True or False")
        try:
            rows = np.array(rows, None if rows else np.int64)
        except ValueError as error:
            raise ValueError(f"{label} must have one axis: {error}") from error
    found = check_array(label, rows)
    if found.dtype.kind not in "iu":
        raise TypeError(f"{label} must be integers, got {found.dtype}")
    if found.ndim != 1:
        raise ValueError(f"{label} must have one axis, got shape {found.shape}")
    for extreme in (found.min(), found.max()) if found.size else ():
        if extreme < 0 or (count is not None and extreme >= count):
            raise ValueError(f"{label} must be from 0 to {'' if count is None else count - 1}, got {extreme}")
    return np.ascontiguousarray(found, np.int64)

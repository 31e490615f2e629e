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

    ``opt.step({"users": fs.Rows(ids, g), "w": dense})`` moves only those rows of ``users`` and their state:
    the other rows neither move on by momentum nor decay. `Optimizer.step_rows` lists the rules that can do
    this.
    """

    indices: Any
    values: Any


def summed(indices: Array, values: Array) -> tuple[Array, Array]:
    """Return the distinct row numbers, in ascending order, and the gradient of each row.

    Gradients of the same row are summed in the given order, in the type in which a step computes.
    """
    rows, first, place = np.unique(indices, return_index=True, return_inverse=True)
    wide = values.astype(arithmetic(values.dtype))
    again = np.delete(np.arange(len(indices)), first)
    sums = wide[first]
    with np.errstate(all="ignore"):
        np.add.at(sums, place[again], wide[again])
    return rows, sums


def row_indices(label: str, rows: Any, gradients: int, count: int | None = None) -> Array:
    """Return `rows` as int64; raise an error unless they are integers from 0 on, below `count` if given.

    There are so many gradients of rows; a range that is longer is refused before it becomes an array.
    """
    if isinstance(rows, range) and rows[gradients:]:
        raise ValueError(f"{label} are {rows}, more than the {gradients} gradients")
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
    wanted = "0 or more" if count is None else f"from 0 to {count - 1}"
    for extreme in (found.min(), found.max()) if found.size else ():
        if extreme < 0 or (count is not None and extreme >= count):
            raise ValueError(f"{label} must be {wanted}, got {extreme}")
    return np.ascontiguousarray(found, np.int64)

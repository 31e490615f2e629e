"""Checks of arrays that are to be parameters or gradients, and their layout in memory."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.exceptions import TooHardError

from .._core import Changes
from ..stateful import same
from .storage import NAMES, DType, is_format

Array = np.ndarray[Any, Any]

LINE = 64


def check_array(label: str, array: Any) -> Array:
    """Return `array` as a plain array; raise TypeError unless it is a NumPy array without a mask.

    A subclass may have attributes of its own making; those of the plain array are true.
    """
    kind = type(array)  # what an object says of its class may be false
    if not issubclass(kind, np.ndarray) or issubclass(kind, np.ma.MaskedArray):
        raise TypeError(f"{label} must be a NumPy array, not {kind.__name__}")
    return array if kind is np.ndarray else np.ndarray.view(array, np.ndarray)


def check_parameter(name: Hashable, parameter: Any) -> Array:
    """Return a parameter as a plain array; raise an error unless it can be updated in place."""
    label = f"parameter {name!r}"
    p = check_array(label, parameter)
    check_format(label, p)
    check_writeable(name, p)
    if not p.flags.aligned:
        raise ValueError(f"{label} is not aligned to its {p.itemsize} byte elements; copy it")
    if overlaps_itself(p.shape, p.strides, p.itemsize):
        raise ValueError(f"{label} has elements that share memory (a broadcast or sliding view)")
    return p


def check_format(label: str, array: Array) -> None:
    """Raise TypeError unless the kernels know the dtype of `array`."""
    if not is_format(array.dtype):
        raise TypeError(
            f"{label} has dtype {array.dtype}; it must be {', '.join(NAMES)} in native byte order"
        )


def check_writeable(name: Hashable, p: Array) -> None:
    """Raise ValueError if `p` is read-only."""
    if not np.ndarray.view(p, np.ndarray).flags.writeable:
        raise ValueError(f"parameter {name!r} is read-only")


def check_arrays(label: str, saved: Any, arrays: Mapping[Any, Array]) -> None:
    """Raise an error unless `saved` has arrays of the same names, shapes and dtypes as `arrays`."""
    same(label, saved, arrays)
    for name, array in arrays.items():
        check_like(f"{label} {name!r}", saved[name], array)


def check_like(label: str, saved: Any, array: Array, *, or_float16: bool = False) -> None:
    """Raise TypeError or ValueError unless `saved` is an array of the shape and dtype of `array`.

    or_float16: float16 will do in place of float32, which has all its numbers.
    """
    value = check_array(label, saved)
    if value.shape != array.shape:
        raise ValueError(f"{label} has shape {value.shape}, here {array.shape}")
    exact = or_float16 and (value.dtype, array.dtype) == (np.float16, np.float32)
    if value.dtype != array.dtype and not exact:
        raise TypeError(f"{label} has dtype {value.dtype}, here {array.dtype}")


class Memory:
    """Labelled arrays that can be searched by the memory that they occupy."""

    def __init__(self, arrays: Iterable[tuple[str, Array]]) -> None:
        entries = sorted(
            ((*_bounds(array), label, array) for label, array in arrays if array.size), key=lambda e: e[:2]
        )
        self._starts = [start for start, _, _, _ in entries]
        self._reach = list(accumulate((end for _, end, _, _ in entries), max))
        self._arrays = [(label, array) for _, _, label, array in entries]

    def sharing(self, a: Array) -> list[str]:
        """The labels of the arrays that share an element with `a`, or where that is too hard to decide."""
        if not a.size:
            return []
        start, end = _bounds(a)
        i = bisect_left(self._starts, end)
        labels = []
        while i > 0 and self._reach[i - 1] > start:
            i -= 1
            label, array = self._arrays[i]
            if _share(a, array):
                labels.append(label)
        return labels


def check_disjoint(parameters: Iterable[tuple[str, Array]]) -> None:
    """Raise ValueError if two parameters share memory."""
    parameters = list(parameters)
    memory = Memory(parameters)
    for label, p in parameters:
        others = [other for other in memory.sharing(p) if other != label]
        if others:
            raise ValueError(f"{others[0]} shares memory with {label}")


def _share(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]
    except TooHardError:
        return True


def flat(a: Array, like: Array) -> Array:
    """Return `a` in one dimension, in the order in which the elements of `like` lie in memory.

    The result is a plain array, so that a step never uses a subclass's own arithmetic.
    """
    return a.view(np.ndarray).transpose(_memory_order(like)).reshape(-1)


def is_dense(a: Array) -> bool:
    """Whether the elements of `a` fill one run of memory, in any order of axes."""
    return a.transpose(_memory_order(a)).flags.c_contiguous


def dense(p: Array) -> Array:
    """Return `p` itself if it is dense, else a new dense array like it."""
    return p if is_dense(p) else np.empty(p.shape, p.dtype)


def zeros_like(a: Array, dtype: DType) -> Array:
    """Zeros in the memory order of the dense array `a`; like numpy.zeros, they take no memory until written.

    They begin at the start of a cache line, so that rows of a whole number of lines share no line.
    """
    order, size = _memory_order(a), a.size * dtype.itemsize
    room = np.zeros(size + LINE, np.uint8)
    start = -room.__array_interface__["data"][0] % LINE
    zeros = room[start : start + size].view(dtype).reshape([a.shape[axis] for axis in order])
    return zeros.transpose(sorted(range(a.ndim), key=order.__getitem__))


def rounded(values: Any, dtype: DType) -> Array:
    """Return `values` as an array of this dtype; what is too large becomes infinite, without a warning."""
    with np.errstate(all="ignore"):
        return np.asarray(values).astype(dtype)


def set_in(changes: Changes, array: Array, values: Any) -> None:
    """Add to the changes that the array has these values, of any dtype and of a shape that broadcasts."""
    changes.copy(array, np.broadcast_to(rounded(values, array.dtype), array.shape))


def set_to_zero(changes: Changes, arrays: Iterable[Array | None]) -> None:
    """Add to the changes that arrays become 0, those that are not None.

    They may be subclasses, whose attributes can be of their own making; those of the plain array are true.
    """
    for array in arrays:
        if array is not None:
            set_in(changes, np.ndarray.view(array, np.ndarray), 0)


def matches(p: Array, g: Array) -> bool:
    """Whether `g` is aligned and its elements lie in the same order as those of the dense parameter `p`."""
    strides = zip(p.shape, p.strides, g.strides, strict=True)
    return g.flags.aligned and (
        g.size == 0 or all(length == 1 or a * g.itemsize == b * p.itemsize for length, a, b in strides)
    )


def overlaps_itself(shape: Sequence[int], strides: Sequence[int], itemsize: int) -> bool:
    """Whether elements share memory: some stride is shorter than the span of the axes within it."""
    if 0 in shape:
        return False
    span = itemsize
    for stride, length in sorted(
        (abs(stride), length) for stride, length in zip(strides, shape, strict=True)
    ):
        if length > 1:
            if stride < span:
                return True
            span += stride * (length - 1)
    return False


def _bounds(a: Array) -> tuple[int, int]:
    """The first address of `a` and the one after its last."""
    start = end = a.__array_interface__["data"][0]
    for length, stride in zip(a.shape, a.strides, strict=True):
        start += min(0, (length - 1) * stride)
        end += max(0, (length - 1) * stride)
    return start, end + a.itemsize


def _memory_order(a: Array) -> list[int]:
    """The axes of `a`, the one with the longest stride first."""
    return sorted(range(a.ndim), key=lambda axis: (-abs(a.strides[axis]), -a.shape[axis]))

"""Functions of gradients or other arrays: their norm, clipping by it, and joining them in one buffer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from . import _core
from .arrays.memory import Array, check_array, check_format, flat, is_dense
from .arrays.rows import Rows, row_indices, summed
from .arrays.structure import Structure, Tree, is_series, listed
from .engine.options import LIMIT
from .formula.hyperparameters import checked_number

__all__ = ["clip_grad_norm", "flatten", "global_norm"]


def global_norm(grads: Tree) -> float:
    """The 2-norm of all elements of all arrays.

    `grads` is an array, or sequences and mappings of arrays, nested in any way; None counts as nothing, and
    equal rows of `Rows` are summed first. The arrays are float32, float64, float16 or bfloat16. The sum is
    computed in double precision in one fixed order, so it has the same bits on every CPU, with any number of
    threads, and however the elements are divided into arrays. Raises TypeError, naming the array, for
    anything else.
    """
    return _norm(_leaves(grads))


def clip_grad_norm(grads: Tree, c: float) -> float:
    """Multiply all arrays, in place, by ``min(1, c / (norm + 1e-6))``; return their old `global_norm`.

    As in ``torch.nn.utils.clip_grad_norm_``, the arrays are multiplied even if the norm is infinite or NaN.
    To clip within a step, without writing the gradients, use ``step(grads, clip_norm=c)``. Raises TypeError
    or ValueError, naming the array, if one cannot be scaled; then nothing changes.
    """
    c = checked_number("c", c, LIMIT)
    leaves = list(_leaves(grads))
    named = [
        (label, _checked(label, leaf.values if isinstance(leaf, Rows) else leaf)) for label, leaf in leaves
    ]
    for label, g in named:
        if not g.flags.writeable:
            raise ValueError(f"{label} is read-only")
    arrays = [g for _, g in named]
    norm = _norm(leaves)
    coefficient = _core.clip_coefficient(norm, c)
    if coefficient != 1:
        runs = [_run(g) for g in arrays]
        # Elements that two arrays share are multiplied once, in a copy of the second.
        shared = set(_core.overlapping(runs))
        copies = {i: g.copy() for i, g in enumerate(arrays) if i in shared or not is_dense(g)}
        _core.scale([_run(copies.get(i, g)) for i, g in enumerate(arrays)], coefficient)
        for i, copy in copies.items():
            arrays[i][...] = copy
    return norm


def flatten(params: Tree) -> tuple[Array, Any]:
    """Copy arrays into one buffer; return it, and views of it in their shapes and structure.

    This makes a step a single run over memory: give the optimizer the buffer, and compute gradients into the
    views of a second one. `params` is an array, a sequence (which gives a list) or a mapping (a dict) of
    arrays of one dtype; they follow one another in its order, each in C order. Raises TypeError, naming the
    array, if dtypes differ or are not float32, float64, float16 or bfloat16.
    """
    tree = listed(params)
    structure, leaves = Structure.of(tree)
    for name, leaf in zip(structure.names, leaves, strict=True):
        label = f"parameter {name!r}"
        check_format(label, check_array(label, leaf))
        if leaf.dtype != leaves[0].dtype:
            raise TypeError(f"{label} has dtype {leaf.dtype}, the first one {leaves[0].dtype}")
    buffer = np.empty(sum(leaf.size for leaf in leaves), leaves[0].dtype if leaves else np.float32)
    ends = np.cumsum([leaf.size for leaf in leaves], dtype=np.intp)
    views = [
        buffer[end - leaf.size : end].reshape(leaf.shape) for leaf, end in zip(leaves, ends, strict=True)
    ]
    for view, leaf in zip(views, leaves, strict=True):
        view[...] = leaf
    if isinstance(tree, Mapping):
        return buffer, dict(zip(structure.names, views, strict=True))
    return buffer, views if isinstance(tree, list) else views[0]


def _norm(leaves: Iterable[tuple[str, Any]]) -> float:
    """The 2-norm of labelled leaves."""
    runs = []
    for label, leaf in leaves:
        # Arithmetic on 0-d arrays gives scalars.
        g = np.asarray(leaf) if isinstance(leaf, np.generic) else leaf
        runs.append(_run(_summed(label, g) if isinstance(g, Rows) else _checked(label, g)))
    return _core.norm(runs)[0]


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays in a structure, each with its name in error messages."""
    if isinstance(tree, Mapping) or is_series(tree):
        for key, item in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _leaves(item, f"{path}[{key!r}]" if path else repr(key))
    elif tree is not None:
        yield f"gradient {path or 0}", tree


def _summed(label: str, rows: Rows) -> Array:
    """The gradients of the named rows, each row once, with equal rows summed."""
    values = _checked(label, rows.values)
    indices = row_indices(f"rows of {label}", rows.indices, len(values) if values.ndim else 0)
    if values.shape[:1] != indices.shape:
        raise ValueError(f"{label} has shape {values.shape} for {len(indices)} rows")
    return summed(indices, values)[1]


def _checked(label: str, leaf: Any) -> Array:
    check_format(label, check_array(label, leaf))
    return leaf  # type: ignore[no-any-return]  # checked


def _run(array: Array) -> Array:
    """The elements of an array as one run of memory, in memory order; a copy if they are not contiguous."""
    return np.ascontiguousarray(flat(array, like=array))

"""The NumPy backend: each rule's own formula, tensor by tensor. The native one must equal it."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import arrays
from .arithmetic import clamp, square
from .average import average
from .kernel import Arithmetic, Coefficients
from .plan import NO_PROLOGUE, Sums
from .storage import arithmetic, is_number, mix

if TYPE_CHECKING:
    from .kernel import Array, Kernel
    from .plan import Row, Tensor

BLOCK, LANES, LEAST = 4096, 32, 2.0**-900
BLOCK_OF_ROWS = 64


def square_sums(x: Array) -> tuple[Array, Array]:
    """The sums of squares of the rows, and of the columns, of a stack of matrices; cpp/factors.hpp."""
    with np.errstate(all="ignore"):
        squares = np.atleast_2d(square(x))
        *stack, m, n = squares.shape
        squares = squares.reshape(math.prod(stack), m, n)
        rows = [_sum(row) for matrix in squares for row in matrix]
        columns = np.zeros((len(squares), n))
        for i, matrix in enumerate(squares):
            for begin in range(0, m, BLOCK_OF_ROWS):
                columns[i] += functools.reduce(np.add, matrix[begin : begin + BLOCK_OF_ROWS], np.zeros(n))
    return np.array(rows), columns.ravel()


def multiply(x: Array, rows: Array, columns: Array, limit: float) -> None:
    """Multiply the elements by numbers of rows and columns, whose product is at most `limit`."""
    with np.errstate(all="ignore"):
        matrices = np.atleast_2d(x)
        *stack, m, n = matrices.shape
        product = rows.reshape(*stack, m, 1) * columns.reshape(*stack, 1, n)
        bounded = np.where((product < limit) | np.isnan(product), product, limit)
        x[...] = (matrices * bounded.astype(x.dtype)).reshape(x.shape)


class RowPlan:
    """Some rows of an array, gathered and put back; the counterpart of cpp/row_plan.hpp."""

    def __init__(
        self, kernel: Kernel, p: Array, state: Sequence[Array], mean: Array | None, others: Sequence[Array]
    ) -> None:
        self._kernel = kernel
        self._p = p
        self._state = state
        self._mean = mean
        self._written = [p, *state, *([] if mean is None else [mean]), *others]
        self._width = math.prod(p.shape[1:])

    def take(self, rows: Any, gradients: Any) -> Array | None:
        """Take the gradients of rows; return which rows these are, ascending, each once.

        None if something is not usable as it is.
        """
        if not self._are_plain(rows, gradients):
            return None
        self._rows, first, place = np.unique(rows, return_index=True, return_inverse=True)
        wide = gradients.reshape(len(rows), self._width).astype(arithmetic(gradients.dtype))
        again = np.delete(np.arange(len(rows)), first)
        self._gradients = wide[first]
        with np.errstate(all="ignore"):
            np.add.at(self._gradients, place[again], wide[again])
        return self._rows

    def _are_plain(self, rows: Any, gradients: Any) -> bool:
        return (
            type(rows) is type(gradients) is np.ndarray
            and rows.dtype == np.int64
            and rows.ndim == 1
            and not ((rows < 0) | (rows >= len(self._p))).any()
            and is_number(gradients.dtype)
            and mix(gradients.dtype, self._p.dtype)
            and gradients.shape == (len(rows), *self._p.shape[1:])
            and not any(np.may_share_memory(gradients, array) for array in self._written)
        )

    def norm(self) -> tuple[float, bool]:
        """The 2-norm of the gradients, and whether all their elements are finite."""
        return norm([self._gradients.ravel()])

    def measure(self, coefficients: Row) -> Array:
        """The sums over each row."""
        before, rule, *_ = coefficients
        if self._kernel.measure is None:
            return np.empty((len(self._rows), 0))
        with np.errstate(all="ignore"):
            p, g = _prepared(before, *_wide([self._of(self._p), self._gradients]))
            terms = self._kernel.measure(Coefficients(rule, p.dtype), p, g)
            sums = [[_sum(row) for row in term] for term in terms]
        return np.array(sums).T

    def run(self, coefficients: Row) -> None:
        """Do the step."""
        before, rule, after, own = coefficients
        columns: dict[str, Any] = {name: values.reshape(-1, 1) for name, values in (own or {}).items()}
        p, *state = gathered = [self._of(array) for array in (self._p, *self._state)]
        with np.errstate(all="ignore"):
            _step(self._kernel, before, rule | columns, p, self._gradients, state)
            for array, moved in zip((self._p, *self._state), gathered, strict=True):
                self._put(array, moved)
            if self._mean is not None and after is not None:
                mean = self._of(self._mean)
                _step(average, NO_PROLOGUE, after, mean, p, [])
                self._put(self._mean, mean)
        del self._rows, self._gradients  # kept for this step alone

    def _of(self, array: Array) -> Array:
        rows: Array = array[self._rows].reshape(len(self._rows), self._width)
        return rows

    def _put(self, array: Array, rows: Array) -> None:
        array[self._rows] = rows.reshape(len(rows), *array.shape[1:])


class Plan:
    """The counterpart of the native plan, with the same methods."""

    of_rows: ClassVar = RowPlan
    arithmetic: ClassVar = Arithmetic(square_sums, multiply)

    def __init__(self, kernels: Sequence[Kernel], tensors: Sequence[Tensor]) -> None:
        self._kernels = kernels
        self._tensors = tensors
        self._gradients: list[Array | None] = []
        self._written = arrays.Memory(
            ("", array) for _, p, state, mean in tensors for array in (p, *state, mean) if array is not None
        )

    def pin(self, gradients: list[Any], zero_gradients: bool) -> list[int]:
        """Take a step's gradients; return the positions of those not usable as they are.

        Those that shall be set to 0 are not: a step of this plan leaves gradients alone.
        """
        self._gradients = gradients
        return [
            i
            for i, ((_, p, _, _), g) in enumerate(zip(self._tensors, gradients, strict=True))
            if g is not None and (zero_gradients or not self._is_plain(p, g))
        ]

    def norm(self) -> tuple[float, bool]:
        """The 2-norm of the gradients, and whether all their elements are finite."""
        pairs = zip(self._tensors, self._gradients, strict=True)
        return norm([arrays.flat(g, like=p) for (_, p, _, _), g in pairs if g is not None])

    def measure(self, rows: Sequence[Row]) -> list[Sums]:
        """Positions of tensors and the sums over each, by group."""
        positions: list[list[int]] = [[] for _ in rows]
        sums: list[list[list[float]]] = [[] for _ in rows]
        with np.errstate(all="ignore"):
            pairs = zip(self._tensors, self._gradients, strict=True)
            for i, ((group, p, state, _), g) in enumerate(pairs):
                measure = self._kernels[group].measure
                if g is None or measure is None:
                    continue
                before, rule, *_ = rows[group]
                wide_p, wide_g, *wide_state = _wide([arrays.flat(a, like=p) for a in (p, g, *state)])
                wide_p, wide_g = _prepared(before, wide_p, wide_g)
                terms = measure(Coefficients(rule, wide_p.dtype), wide_p, wide_g, *wide_state)
                positions[group].append(i)
                sums[group].append([_sum(term) for term in terms])
        return [(found, np.array(values)) for found, values in zip(positions, sums, strict=True)]

    def run(self, rows: Sequence[Row], zero_gradients: bool) -> None:
        """Do the step, with each group's coefficients."""
        del zero_gradients
        gradients, self._gradients = self._gradients, []  # kept for this step alone
        place = [0] * len(rows)
        with np.errstate(all="ignore"):
            for (group, p, state, mean), g in zip(self._tensors, gradients, strict=True):
                if g is not None:
                    before, rule, after, own = rows[group]
                    if own is not None:
                        rule = rule | {name: values[place[group]] for name, values in own.items()}
                        place[group] += 1
                    flat_p, flat_g, *flat_state = (arrays.flat(a, like=p) for a in (p, g, *state))
                    _step(self._kernels[group], before, rule, flat_p, flat_g, flat_state)
                    if mean is not None and after is not None:
                        _step(average, NO_PROLOGUE, after, arrays.flat(mean, like=p), flat_p, [])

    def _is_plain(self, p: Array, g: Any) -> bool:
        return (
            p.flags.writeable
            and type(g) is np.ndarray
            and is_number(g.dtype)
            and mix(g.dtype, p.dtype)
            and g.shape == p.shape
            and arrays.matches(p, g)
            and not self._written.sharing(g)
        )


def _step(
    kernel: Kernel, prologue: dict[str, float], rule: dict[str, float], p: Array, g: Array, state: list[Array]
) -> None:
    """Prologue and rule; what is kept narrower than it is computed is rounded once, at the end."""
    wide_p, wide_g, *wide_state = _wide([p, g, *state])
    wide_p[...], wide_g = _prepared(prologue, wide_p, wide_g)
    kernel.update(Coefficients(rule, wide_p.dtype), wide_p, wide_g, *wide_state)
    for kept, wide in zip((p, *state), (wide_p, *wide_state), strict=True):
        if wide is not kept:
            kept[...] = wide


def _wide(kept: list[Array]) -> list[Array]:
    """Arrays in the type that a step computes in."""
    return [array.astype(arithmetic(kept[0].dtype), copy=False) for array in kept]


def _prepared(prologue: dict[str, float], p: Array, g: Array) -> tuple[Array, Array]:
    """Parameter and gradient as the rule sees them."""
    c = Coefficients(prologue, p.dtype)
    g = clamp(c.scale * g, -c.clip, c.clip)
    if prologue["l2"] != 0 or prologue["l1"] != 0:
        g = g + c.l2 * p + c.l1 * np.sign(p)
    return c.keep * p, g


def norm(runs: Sequence[Array]) -> tuple[float, bool]:
    """The 2-norm of all elements, and whether all are finite; the order of cpp/reduce.hpp."""
    with np.errstate(all="ignore"):
        x = np.concatenate([np.empty(0), *(run.astype(np.float64) for run in runs)])
        total, factor = _sum(x * x), 1.0
        if not LEAST <= total < math.inf:
            factor = 2.0**600 if total < LEAST else 2.0**-600
            total = _sum((factor * x) * (factor * x))
    return math.sqrt(total) / factor, math.isfinite(total)


def _sum(x: Array) -> float:
    padded = np.zeros(-(-x.size // BLOCK) * BLOCK)
    padded[: x.size] = x
    sums = np.zeros((padded.size // BLOCK, LANES))
    for row in np.moveaxis(padded.reshape(-1, BLOCK // LANES, LANES), 1, 0):
        sums += row
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    total = 0.0
    for block in sums.ravel().tolist():
        total += block
    return total

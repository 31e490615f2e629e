"""Sums in the fixed order of cpp/step, so that they do not depend on threads or instruction sets."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from ..formula.arithmetic import square
from ..formula.coefficients import UP
from ..formula.kernel import Array, Squares

BLOCK, LANES, LEAST = 4096, 32, 2.0**-900
SMALL = 2.0**-450
BLOCK_OF_ROWS = 64


def square_sums(x: Array) -> tuple[Array, Array]:
    """The sums of squares of the rows, and of the columns, of a stack of matrices."""
    with np.errstate(all="ignore"):
        squares = np.atleast_2d(square(x))
        *stack, m, n = squares.shape
        squares = squares.reshape(math.prod(stack), m, n)
        rows = [block_sum(row) for matrix in squares for row in matrix]
        columns = np.zeros((len(squares), n))
        for i, matrix in enumerate(squares):
            for begin in range(0, m, BLOCK_OF_ROWS):
                columns[i] += functools.reduce(np.add, matrix[begin : begin + BLOCK_OF_ROWS], np.zeros(n))
    return np.array(rows), columns.ravel()


def multiply(x: Array, rows: Array, columns: Array, limit: float) -> None:
    """Multiply each element by the product of its row's and its column's number, but at most by `limit`."""
    with np.errstate(all="ignore"):
        matrices = np.atleast_2d(x)
        *stack, m, n = matrices.shape
        product = rows.reshape(*stack, m, 1) * columns.reshape(*stack, 1, n)
        bounded = np.where((product < limit) | np.isnan(product), product, limit)
        x[...] = (matrices * bounded.astype(x.dtype)).reshape(x.shape)


def norm(runs: Sequence[Array]) -> tuple[float, bool]:
    """The 2-norm of all elements, and whether all are finite; summed in the order of cpp/step/reduce.hpp."""
    with np.errstate(all="ignore"):
        x = np.concatenate([np.empty(0), *(run.astype(np.float64) for run in runs)])
        total, factor = square_sum(x)
    return math.sqrt(total) / factor, math.isfinite(total)


def measured(terms: Sequence[Array]) -> list[float]:
    """The sums that a kernel measures, as `Measured` has them."""
    if not isinstance(terms, Squares):
        return [block_sum(term) for term in terms]
    units: dict[float, list[float]] = {factor: [0.0] * len(terms) for factor in (1.0, UP, 1 / UP)}
    for k, x in enumerate(terms):
        total, factor = square_sum(x)
        units[factor][k] = total
    return [total for totals in units.values() for total in totals]


def square_sum(x: Array) -> tuple[float, float]:
    """The sum of squares of factor·x, and the factor: 1 unless squares of float64 leave its range."""
    total, factor = block_sum(square(x)), 1.0
    if x.dtype == np.float64 and not LEAST <= total < math.inf:
        factor = UP if total < LEAST else 1 / UP
        total = block_sum(square(factor * x))
    return total, factor


def ranges(x: Array) -> tuple[float, float, float]:
    """The sums of squares of numbers: those of the middle, small ones times UP, and large ones over UP."""
    with np.errstate(all="ignore"):
        x = x.astype(np.float64)
        small, large = np.abs(x) < SMALL, np.abs(x) >= 1 / SMALL
        middle = np.where(small | large, 0, x)
        parts = middle, np.where(small, UP * x, 0), np.where(large, x / UP, 0)
        return block_sum(square(parts[0])), block_sum(square(parts[1])), block_sum(square(parts[2]))


def block_sum(x: Array) -> float:
    """Sum all elements: in each block by lanes, which are added by halves; then block after block."""
    padded = np.zeros((-(-x.size // BLOCK), BLOCK // LANES, LANES))
    padded.reshape(-1)[: x.size] = x
    sums = np.zeros((len(padded), LANES))
    for row in range(-(-min(x.size, BLOCK) // LANES)):  # those after it are zeros
        sums += padded[:, row]
    while sums.shape[1] > 1:
        half = sums.shape[1] // 2
        sums = sums[:, :half] + sums[:, half:]
    total = 0.0
    for block in sums.ravel().tolist():
        total += block
    return total

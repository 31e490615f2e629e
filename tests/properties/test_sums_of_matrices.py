"""What backends do with whole matrices: sums of rows and columns, and products with their factors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.engines import DTYPES, ENGINES, ml_dtypes
from tests.helpers.exactly import same_bits
from tests.helpers.examples import Array, Shape
from tests.helpers.internals import _core
from tests.helpers.internals import sums as in_numpy
from tests.helpers.sums import lanes_by_halves, rough

NATIVE = ENGINES[:-1]
BLOCK_OF_ROWS = 64

EMPTY: list[Shape] = [(0, 4), (4, 0), (0, 0), (0, 2, 3), (2, 0, 3), (2, 3, 0), (0,)]


def use(isa: str, threads: int) -> None:
    fs.use_isa(isa)
    fs.set_num_threads(threads)


def in_blocks(terms: list[float]) -> float:
    total = 0.0
    for begin in range(0, len(terms), BLOCK_OF_ROWS):
        of_block = 0.0
        for term in terms[begin : begin + BLOCK_OF_ROWS]:
            of_block += term
        total += of_block
    return total


def one_after_the_other(terms: list[float]) -> float:
    total = 0.0
    for term in terms:
        total += term
    return total


def rows_and_columns(shape: Shape) -> Shape:
    """Of one matrix, which is a row where there is but one axis."""
    return (1, 1, *shape)[-2:]


def transcribed(x: Array) -> tuple[list[float], list[float]]:
    """The sums of squares in their order, one number after the other."""
    m, n = rows_and_columns(x.shape)
    rows, columns = [], []
    for matrix in x.reshape(-1, m, n).astype(np.float64):
        squares = [[value * value for value in row] for row in matrix.tolist()]
        rows += [lanes_by_halves(row) for row in squares]
        columns += [in_blocks([row[j] for row in squares]) for j in range(n)]
    return rows, columns


def as_lists(sums: tuple[Array, Array]) -> tuple[list[float], list[float]]:
    for array in sums:
        assert (array.dtype, array.ndim) == (np.float64, 1)
    return sums[0].tolist(), sums[1].tolist()


SUMMED: list[Shape] = [
    (65, 4097),
    (3, 8200),
    (2, 4095),
    (2, 4096),
    (130, 33),
    (63, 31),
    (64, 32),
    (200, 7),
    (200, 200),
    (2, 3, 65, 40),
    (5, 130, 1),
    (1, 1),
    (70,),
    (),
]


@pytest.mark.parametrize("number", ["float32", "float64"])
@pytest.mark.parametrize("shape", SUMMED, ids=str)
def test_order_of_the_sums_of_matrices(shape: Shape, number: str) -> None:
    x = rough(1, shape, DTYPES[number])
    expected = transcribed(x)
    assert as_lists(in_numpy.square_sums(x)) == expected
    for _, isa, threads in NATIVE:
        use(isa, threads)
        assert as_lists(_core.square_sums(x)) == expected, (isa, threads)


def test_the_order_shows() -> None:
    """Or the test above would not see it."""
    x = rough(1, (130, 4160), np.float32)
    squares = (x.astype(np.float64) ** 2).tolist()
    rows, columns = transcribed(x)
    for order in (one_after_the_other, in_blocks, lambda terms: float(np.sum(terms))):
        assert rows != [order(row) for row in squares]
    for order in (one_after_the_other, lanes_by_halves, lambda terms: float(np.sum(terms))):
        assert columns != [order([row[j] for row in squares]) for j in range(4160)]


def test_what_is_not_finite_is_summed_where_it_is() -> None:
    x = np.ones((3, 70, 40), np.float32)
    x[1, 66, 35] = math.nan
    x[2, 3, 4] = -math.inf
    for sums in (_core.square_sums, in_numpy.square_sums):
        rows, columns = (a.reshape(3, -1) for a in sums(x))
        assert np.argwhere(np.isnan(rows)).tolist() == [[1, 66]]
        assert np.argwhere(np.isnan(columns)).tolist() == [[1, 35]]
        assert np.argwhere(rows == math.inf).tolist() == [[2, 3]]
        assert np.argwhere(columns == math.inf).tolist() == [[2, 4]]
        assert set(rows[np.isfinite(rows)]) == {40.0}
        assert set(columns[np.isfinite(columns)]) == {70.0}


def test_sums_do_not_overflow_in_float32() -> None:
    big, small = (np.full((2, 3), value, np.float32) for value in (1e38, 1e-44))
    for sums in (_core.square_sums, in_numpy.square_sums):
        for x in (big, small):
            square = float(x[0, 0]) ** 2
            rows, columns = as_lists(sums(x))
            assert rows == pytest.approx([3 * square] * 2, abs=0)
            assert columns == pytest.approx([2 * square] * 3, abs=0)


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_sums_of_nothing(shape: Shape) -> None:
    """A number for each row and column that there is: 0 where nothing is added."""
    x = np.zeros(shape, np.float32)
    (m, n), count = rows_and_columns(shape), math.prod(shape[:-2])
    for sums in (_core.square_sums, in_numpy.square_sums):
        rows, columns = as_lists(sums(x))
        assert rows == [0.0] * (count * m)
        assert columns == [0.0] * (count * n)


def multiplied(x: Array, rows: list[float], columns: list[float], limit: float) -> Array:
    """Element by element."""
    m, n = rows_and_columns(x.shape)
    number, result = x.dtype.type, x.reshape(-1, m, n).copy()
    with np.errstate(all="ignore"):
        for k, i, j in np.ndindex(*result.shape):
            product = rows[k * m + i] * columns[k * n + j]
            bounded = product if product < limit or math.isnan(product) else limit
            result[k, i, j] = number(result[k, i, j]) * number(bounded)
    return result.reshape(x.shape)


SPECIAL = [0.0, -0.0, 1.5, -2.0, math.inf, -math.inf, math.nan, 5e-324, 1e-42, 1e30, 1e308]


@pytest.mark.parametrize("limit", [0.0, 3.0, 2.0**23, 1e300, math.inf])
@pytest.mark.parametrize("number", ["float32", "float64"])
def test_products(number: str, limit: float) -> None:
    """At most the limit, but NaN stays NaN; rounded to the type once, and multiplied in it."""
    cases = []
    shapes: list[Shape] = [(65, 40), (2, 3, 5, 33), (7,), ()]
    for shape in shapes:
        (m, n), count = rows_and_columns(shape), math.prod(shape[:-2])
        x, rows = rough(1, shape, DTYPES[number]), rough(2, count * m, float)
        cases.append((x, rows, rough(3, count * n, float)))
    values = np.array(SPECIAL)
    with np.errstate(over="ignore"):
        stack = np.array([np.full((11, 11), value) for value in SPECIAL]).astype(DTYPES[number])
    cases.append((stack, np.tile(values, 11), np.tile(values, 11)))
    for x, rows, columns in cases:
        expected = np.atleast_1d(multiplied(x, rows.tolist(), columns.tolist(), limit))
        found = x.copy()
        in_numpy.multiply(found, rows, columns, limit)
        assert same_bits(np.atleast_1d(found), expected)
        for _, isa, threads in NATIVE:
            use(isa, threads)
            found = x.copy()
            _core.multiply(found, rows, columns, limit)
            assert same_bits(np.atleast_1d(found), expected), (isa, threads)


def test_products_are_within_the_array() -> None:
    buffer = np.full(200 * 200 + 64, 123.0, np.float32)
    x = buffer[32:-32].reshape(200, 200)
    _core.multiply(x, np.full(200, 2.0), np.full(200, 4.0), 5.0)
    assert (x == 5 * 123).all()
    assert (buffer[:32] == 123).all()
    assert (buffer[-32:] == 123).all()


WRONG: dict[str, Callable[[], Array]] = {
    "float16": lambda: np.ones((2, 3), np.float16),
    "bfloat16": lambda: np.ones((2, 3), ml_dtypes.bfloat16),
    "whole numbers": lambda: np.ones((2, 3), np.int32),
    "complex": lambda: np.ones((2, 3), np.complex64),
    "objects": lambda: np.ones((2, 3), object),
    "other byte order": lambda: np.ones((2, 3), np.dtype(np.float32).newbyteorder()),
    "Fortran": lambda: np.ones((2, 3), order="F"),
    "gaps": lambda: np.ones((2, 6))[:, ::2],
    "backwards": lambda: np.ones((2, 3))[::-1],
}


@pytest.mark.parametrize("kind", WRONG)
def test_arrays_that_cannot_be_used(kind: str) -> None:
    x = WRONG[kind]()
    with pytest.raises((ValueError, TypeError)):
        _core.square_sums(x)
    with pytest.raises((ValueError, TypeError)):
        _core.multiply(x, np.full(2, 2.0), np.full(3, 2.0), 9.0)
    assert (x == 1).all()


@pytest.mark.parametrize("missing", ["None", "nothing", "text"])
def test_what_is_no_array(missing: str) -> None:
    other: Any = {"None": None, "nothing": [], "text": "x"}[missing]
    x = np.ones((1, 1))
    one: Any = np.ones(1)
    for a, rows, columns in ((x, other, one), (x, one, other), (other, one, one)):
        with pytest.raises((ValueError, TypeError)):
            _core.multiply(a, rows, columns, 1.0)
    assert x[0, 0] == 1


@pytest.mark.parametrize("count", [0, 1, 2, 4, 7, 100])
def test_wrong_number_of_factors(count: int) -> None:
    for shape, rows, columns in (((3, 5), 3, 5), ((2, 3, 5), 6, 10), ((5,), 1, 5)):
        for wrong in ((count, columns), (rows, count)):
            if wrong == (rows, columns):
                continue
            x = np.ones(shape, np.float32)
            with pytest.raises(ValueError, match="a number for each row and column"):
                _core.multiply(x, np.full(wrong[0], 2.0), np.full(wrong[1], 2.0), 9.0)
            assert (x == 1).all()


def test_read_only() -> None:
    x = np.ones((2, 3))
    x.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        _core.multiply(x, np.full(2, 2.0), np.full(3, 2.0), 9.0)
    assert (x == 1).all()
    assert as_lists(_core.square_sums(x)) == ([3.0, 3.0], [2.0, 2.0, 2.0])

"""Arrays in any layout, for what takes sums over them or makes directions of whole matrices.

To the bit on every engine. Sums over a tensor are in the order of its memory: an array in Fortran order is
its transpose, one with gaps its copy. What is made of rows and columns is of the matrix, however it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import Options, id_of, matrix_kernel_of
from tests.helpers.engines import DTYPES, ENGINES, MIXES, ml_dtypes, normal, with_gaps
from tests.helpers.exactly import assert_same
from tests.helpers.examples import MEASURED, OF_MATRICES, Array, Shape, drawn, snapshot, step

Arrange = Callable[[Array], Array]
Example = tuple[str, Options]


def turned(a: Array) -> Array:
    """With the axes in another order in memory."""
    order = np.roll(np.arange(a.ndim), 1)
    return np.transpose(np.transpose(a, order).copy(), np.argsort(order))


ARRANGED: dict[str, Arrange] = {
    "plain": np.copy,
    "Fortran": lambda a: np.array(a, order="F"),
    "turned": turned,
    "gaps": with_gaps,
    "gaps between rows": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "columns backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
}
OTHERS = [name for name in ARRANGED if name != "plain"]
PAIRS = [
    *((name, "plain") for name in ARRANGED),
    *(("plain", name) for name in OTHERS),
    *((name, name) for name in OTHERS),
    ("Fortran", "turned"),
    ("turned", "gaps"),
    ("gaps", "Fortran"),
]
TURNED = {"Fortran", "turned"}
REVERSED = {"backwards", "columns backwards"}

each_pair = pytest.mark.parametrize(("of_p", "of_g"), PAIRS)


def trained(
    example: Example, start: list[Array], grads: list[list[Array]], backend: Any = "numpy", **more: Any
) -> dict[str, Array]:
    """Copies of parameters and state, in C order."""
    rule, options = example
    opt = fs.rules[rule](start, **options, **more, backend=backend)
    for each in grads:
        step(opt, each)
    return {name: np.asarray(a, order="C") for name, a in snapshot(opt, start).items()}


def assert_everywhere(expected: dict[str, Array], run: Callable[[Any], dict[str, Array]]) -> None:
    for engine, isa, threads in ENGINES:
        if engine == "native":
            fs.use_isa(isa)
            fs.set_num_threads(threads)
            assert_same(run(engine), expected, (isa, threads))


# Sums over a tensor.

OF_VECTORS = [each for each in MEASURED if not matrix_kernel_of(*each)]
START = normal(0, (70, 67), np.float32)


def of_steps(rule: str) -> list[Array]:
    return [drawn(rule, t, t, START.shape, START.dtype) for t in range(1, 4)]


@cache
def contiguous(k: int, transposed: bool) -> dict[str, Array]:
    """What becomes of C order, or of the transpose, turned back."""
    turn: Arrange = np.transpose if transposed else np.copy
    grads = of_steps(OF_VECTORS[k][0])
    found = trained(OF_VECTORS[k], [turn(START).copy()], [[turn(g).copy()] for g in grads])
    return {name: np.asarray(turn(a), order="C") if a.ndim else a for name, a in found.items()}


@each_pair
@pytest.mark.parametrize(
    "k", range(len(OF_VECTORS)), ids=[id_of(options) + rule for rule, options in OF_VECTORS]
)
def test_sums(k: int, of_p: str, of_g: str) -> None:
    lay_p, lay_g, example = ARRANGED[of_p], ARRANGED[of_g], OF_VECTORS[k]
    grads = of_steps(example[0])

    def run(engine: Any) -> dict[str, Array]:
        return trained(example, [lay_p(START)], [[lay_g(g)] for g in grads], engine)

    expected = contiguous(k, of_p in TURNED)
    assert_same(run("numpy"), expected)
    assert_everywhere(expected, run)


# Directions of matrices.

SHAPES: list[Shape] = [(70, 67), (3, 8), (1, 9), (9, 1), (9, 40), (2, 3, 5), (2, 2, 2, 3), (6, 1)]
TOLERANCE = {"float32": 2.0**-20, "float64": 2.0**-48, "bfloat16": 2.0**-7, "state in float32": 2.0**-7}


def of_each_kernel() -> Iterator[Example]:
    seen = set()
    for example in OF_MATRICES:
        kernel = matrix_kernel_of(*example)
        if kernel not in seen:
            seen.add(kernel)
            yield example


EACH_KERNEL = list(of_each_kernel())


def drawn_for(k: int, mix: str, turn: int) -> tuple[list[Array], list[list[Array]]]:
    """Parameters in the dtypes of a mix by turns, and gradients of three steps."""
    kinds, kind, _ = MIXES[mix]
    dtypes = [DTYPES[kinds[(i + turn) % len(kinds)]] for i in range(len(SHAPES))]
    start = [normal(i, shape, dtype) for i, (shape, dtype) in enumerate(zip(SHAPES, dtypes, strict=True))]
    return start, [
        [
            drawn(EACH_KERNEL[k][0], t, 10 * t + i, a.shape, DTYPES[kind] if kind else a.dtype)
            for i, a in enumerate(start)
        ]
        for t in range(1, 4)
    ]


@cache
def contiguous_matrices(k: int, mix: str, turn: int) -> dict[str, Array]:
    start, grads = drawn_for(k, mix, turn)
    return trained(EACH_KERNEL[k], start, grads, state_dtype=MIXES[mix][2])


@each_pair
@pytest.mark.parametrize("mix", TOLERANCE)
@pytest.mark.parametrize("k", range(len(EACH_KERNEL)), ids=[rule for rule, _ in EACH_KERNEL])
def test_matrices(k: int, mix: str, of_p: str, of_g: str) -> None:
    """And stacks. Near the numbers of contiguous arrays; the same, unless sums are in another order."""
    lay_p, lay_g = ARRANGED[of_p], ARRANGED[of_g]
    for turn in range(len(MIXES[mix][0])):
        start, grads = drawn_for(k, mix, turn)

        def run(engine: Any, p: list[Array] = start, given: list[list[Array]] = grads) -> dict[str, Array]:
            laid = [[lay_g(g) for g in each] for each in given]
            return trained(EACH_KERNEL[k], [lay_p(a) for a in p], laid, engine, state_dtype=MIXES[mix][2])

        expected = run("numpy")
        assert_near(EACH_KERNEL[k][0], mix, of_p, expected, contiguous_matrices(k, mix, turn))
        assert_everywhere(expected, run)


def assert_near(rule: str, mix: str, of_p: str, found: dict[str, Array], plain: dict[str, Array]) -> None:
    """To the last digits; to the bit where the matrix lies as it is, and what is of rows and columns."""
    for name, array in found.items():
        if of_p not in TURNED | REVERSED or (rule == "Adafactor" and name[0] != "p"):
            assert_same({name: array}, {name: plain[name]})
        a, b = (x.astype(np.float64) for x in (array, plain[name]))
        if rule == "Adafactor":
            more = 2 if name == "p 0" else 1  # which is larger
            assert (np.abs(a - b) <= more * TOLERANCE[mix] * (np.abs(b) + 0.1)).all(), name
        else:
            eps = float(ml_dtypes.finfo(array.dtype).eps)
            np.testing.assert_allclose(a, b, rtol=20 * eps, atol=20 * eps)

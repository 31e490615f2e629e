"""The numeric promise: one result, to the bit, whatever runs.

Native equals the NumPy reference for every rule, option, dtype, instruction set, number of threads, length,
alignment, split and order; with NaN, infinities and denormals; over several steps. Every rule meets all its
options; every kernel all else, and coefficients that no options would give it.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import (
    COMMON,
    KERNELS,
    id_of,
    is_elementwise,
    kernels_of,
    matrix_kernel_of,
    variants,
)
from tests.helpers.engines import normal
from tests.helpers.exactly import assert_same, guarded, same_bits
from tests.helpers.internals import AVERAGES, _core

Array = np.ndarray[Any, Any]

DTYPES = [np.float32, np.float64]
THREADS = [1, 2, 3]
LENGTHS = [0, 1, 2, 17, 127, 1009, _core.tile - 1, _core.tile, _core.tile + 1, 3 * _core.tile + 7]
FEW_LENGTHS = [0, 1, 17, _core.tile - 1, _core.tile + 1, 3 * _core.tile + 7]
LOSSES = [2.0, 1.5, 1.7, 0.2, 0.2]
# The kernels have other code for averages, and for coupled decay, which is among the common options.
FORMS: dict[str, dict[str, Any]] = {"plain": {}, "averaged": {"ema": 0.75}, "all options": COMMON}


Size = int | tuple[int, ...]
OF_MATRICES: list[Size] = [(65, 40), (3, 3), (2, 3, 5), (1, 4100)]


def seeded(t: int, n: Size, dtype: Any) -> Array:
    """Parameters for t = 0, and gradients of step t."""
    return normal(t + int(np.prod(n)), n, dtype)


def with_matrices(rule: str, lengths: list[int]) -> list[Size]:
    """For rules with a kernel of matrices, some of these too."""
    return [*lengths, *(OF_MATRICES if matrix_kernel_of(rule, {}) else [])]


def awkward(seed: int, n: int, dtype: Any) -> Array:
    """Ordinary numbers mixed with NaN, infinities, zeros of both signs, denormals and the largest."""
    info = np.finfo(dtype)
    special = [
        np.nan,
        np.inf,
        -np.inf,
        0.0,
        -0.0,
        info.smallest_subnormal,
        -info.tiny / 3,
        info.max,
        -info.max,
    ]
    values = normal(seed, n, dtype)
    where = np.random.default_rng(seed + 1).random(n) < 0.3
    values[where] = np.random.default_rng(seed + 2).choice(np.array(special, dtype), where.sum())
    return values


def trained(
    rule: str,
    options: dict[str, Any],
    parameters: list[Array],
    gradients: list[list[Array]],
    backend: Any = "native",
) -> dict[str, Array]:
    """All parameters and state after one step for each list of gradients."""
    optimizer = fs.rules[rule](parameters, backend=backend, **options)
    for grads, loss in zip(gradients, itertools.cycle(LOSSES), strict=False):
        optimizer.step(grads, loss=loss, scale=0.5)
    result = {f"p {i}": p for i, p in enumerate(parameters)}
    for i, slots in optimizer.state.items():
        result |= {f"{slot} {i}": array for slot, array in slots.items()}
    return result


def engines(turn: int) -> list[tuple[str, int]]:
    """Every instruction set, each with another number of threads; the next turn gives them others."""
    return [(isa, THREADS[(turn + i) % len(THREADS)]) for i, isa in enumerate(fs.info()["isas"])]


def use(isa: str, threads: int) -> None:
    fs.use_isa(isa)
    fs.set_num_threads(threads)


def assert_native_is_reference(rule: str, options: dict[str, Any], lengths: list[int], on: Any) -> None:
    """Tensors of these lengths and of all dtypes in one call, three steps, on each of the engines."""
    sizes = [(n, dtype) for dtype in DTYPES for n in with_matrices(rule, lengths)]
    start = [seeded(0, n, dtype) for n, dtype in sizes]
    gradients = [[seeded(t, n, dtype) for n, dtype in sizes] for t in range(1, 4)]
    expected = trained(rule, options, [p.copy() for p in start], gradients, "numpy")
    for isa, threads in on:
        use(isa, threads)
        assert_same(trained(rule, options, [p.copy() for p in start], gradients), expected, (isa, threads))


@pytest.mark.parametrize(
    ("turn", "rule", "options"),
    [(turn, rule, options) for rule in fs.rules for turn, options in enumerate(variants(rule))],
    ids=id_of,
)
def test_every_option(turn: int, rule: str, options: dict[str, Any]) -> None:
    """Every rule and option, on every instruction set with some number of threads."""
    assert_native_is_reference(rule, options, FEW_LENGTHS, engines(turn))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rule", "options"), KERNELS, ids=id_of)
def test_every_engine(rule: str, options: dict[str, Any], form: str) -> None:
    """Every kernel and length, on every instruction set with every number of threads."""
    everywhere = itertools.product(fs.info()["isas"], THREADS)
    assert_native_is_reference(rule, options | FORMS[form], LENGTHS, everywhere)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rule", "options"), KERNELS, ids=id_of)
def test_any_coefficients(
    rule: str, options: dict[str, Any], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every field of the kernel is a number of its own, or 0, or 1, and the state is random too."""
    cls, original = fs.rules[rule], fs.rules[rule].coefficients

    def drawn(h: Any, t: int) -> dict[str, float]:
        rng = np.random.default_rng(t)
        numbers = original(h, t)
        for name, number in numbers.items():
            sign = 1 if number in {0, 1} else rng.choice([1, 1, 1, 1, -1])  # what is off or on is no less
            numbers[name] = float(rng.choice([0, 1, *(sign * rng.uniform(0.1, 2, 5))]))
        return numbers

    monkeypatch.setattr(cls, "coefficients", staticmethod(drawn))
    sizes: list[tuple[Size, Any]] = [(n, dtype) for dtype in DTYPES for n in (17, 1009)]
    if matrix_kernel_of(rule, options):
        sizes += [((6, 11), dtype) for dtype in DTYPES]
    expected: list[dict[str, Array]] = []
    for backend, isa in [("numpy", fs.info()["isa"]), *(("native", isa) for isa in fs.info()["isas"])]:
        fs.use_isa(isa)
        engine: Any = backend
        parameters = [np.empty(n, dtype) for n, dtype in sizes]
        opt = cls(parameters, backend=engine, **options, **FORMS[form])
        arrays = {f"p {i}": p for i, p in enumerate(parameters)}
        arrays |= {f"{slot} {i}": a for i, slots in opt.state.items() for slot, a in slots.items()}
        for t in range(1, 13):
            for i, (name, array) in enumerate(arrays.items()):
                values = normal(100 * t + i, array.shape, array.dtype)
                array[...] = values if name.startswith("p ") else np.abs(values)
            opt.step([seeded(t, n, dtype) for n, dtype in sizes], loss=1.0)
            result = {name: array.copy() for name, array in arrays.items()}
            if backend == "numpy":
                expected.append(result)
            assert_same(result, expected[t - 1], (isa, t))
    assert np.mean([np.isfinite(result["p 3"]).mean() > 0.9 for result in expected]) > 0.25


def shapes(rule: str, n: int) -> list[tuple[int, ...]]:
    """Of a vector, and for rules with a kernel of matrices of a row, or a column if it is short."""
    return [(-1,), *([(1, -1) if n > 20 else (-1, 1)] if matrix_kernel_of(rule, {}) else [])]


@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rule", "options"), KERNELS, ids=id_of)
def test_length_and_alignment(rule: str, options: dict[str, Any], form: str, dtype: Any) -> None:
    """Every kernel on a single tensor of every length: ordinary numbers in place, awkward ones at an offset.

    With sentinels on both sides.
    """
    options = options | FORMS[form]
    for turn, n in enumerate(LENGTHS):
        for values, offset in ((normal, 0), (awkward, 3 if turn % 2 else 1)):
            start, fixed = values(n, n, dtype), [values(n + t, n, dtype) for t in range(1, 4)]
            for shape in shapes(rule, n):
                expected = trained(
                    rule, options, [start.reshape(shape).copy()], [[g.reshape(shape)] for g in fixed], "numpy"
                )
                for isa, threads in engines(turn):
                    use(isa, threads)
                    p, p_intact = guarded(start, offset)
                    grads, intact = zip(*(guarded(g, 2 * offset) for g in fixed), strict=True)
                    result = trained(rule, options, [p.reshape(shape)], [[g.reshape(shape)] for g in grads])
                    assert_same(result, expected, (isa, threads, n, offset, shape))
                    assert p_intact()
                    assert all(check() for check in intact)
                    assert all(same_bits(g, original) for g, original in zip(grads, fixed, strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
@pytest.mark.parametrize(
    ("rule", "options"), [choice for choice in KERNELS if is_elementwise(*choice)], ids=id_of
)
def test_split_and_order(rule: str, options: dict[str, Any], form: str, dtype: Any) -> None:
    """A tensor gives the same bits whole, in pieces, and with the pieces in another order."""
    options = options | FORMS[form]
    n = 2 * _core.tile + 345
    start, fixed = normal(0, n, dtype), [normal(t, n, dtype) for t in range(1, 4)]
    whole = trained(rule, options, [start.copy()], [[g] for g in fixed])
    cuts = np.sort(np.random.default_rng(7).integers(0, n, 40))
    for reverse in (False, True):
        order = slice(None, None, -1 if reverse else 1)
        p = start.copy()
        pieces = trained(rule, options, np.split(p, cuts)[order], [np.split(g, cuts)[order] for g in fixed])
        assert same_bits(p, whole["p 0"])
        for slot in {name.split()[0] for name in whole} - {"p"}:
            joined = [pieces[f"{slot} {i}"] for i in range(len(cuts) + 1)][order]
            assert same_bits(np.concatenate(joined), whole[f"{slot} 0"])


@pytest.mark.parametrize("isa", fs.info()["isas"])
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_denormals_are_kept(dtype: Any, isa: str) -> None:
    fs.use_isa(isa)
    tiny = np.finfo(dtype).smallest_subnormal
    p = np.zeros(100, dtype)
    fs.SGD(p, lr=1.0).step(np.full(100, tiny, dtype))
    assert (p == -tiny).all()


def test_every_kernel_is_tested() -> None:
    """By what chooses it, or what it is a part of."""
    chosen = {kernel for example in KERNELS for kernel in kernels_of(*example)}
    chosen |= {kernel.of_rows for kernel in chosen if kernel.of_rows}
    assert {name for kernel in (*chosen, *AVERAGES) for name in kernel.names} == set(_core.kernels())

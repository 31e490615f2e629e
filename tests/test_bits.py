"""The numeric promise: one result, to the bit, whatever runs.

Native equals the NumPy reference for every rule, option, dtype, instruction set, number of threads, length,
alignment, split and order; with NaN, infinities and denormals; over several steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from exactly import assert_same, guarded, same_bits
from fusedstep import _core
from fusedstep.average import average

Array = np.ndarray[Any, Any]

DTYPES = [np.float32, np.float64]
THREADS = [1, 2, 3]
LENGTHS = [0, 1, 2, 17, 127, 1009, _core.tile - 1, _core.tile, _core.tile + 1, 3 * _core.tile + 7]
LOSSES = [2.0, 1.5, 1.7, 0.2, 0.2]

ALTERNATIVES: dict[str, Any] = {
    "[0, inf)": lambda default: 3 * default if default else 0.03,
    "[0, 1)": lambda default: 0.75 if default else 0.5,
    "[1, inf)": lambda _: 2.0,
    "(-inf, inf)": lambda default: default - 1,
}


def alternative(field: Any) -> Any:
    """Another value than the default."""
    return ALTERNATIVES[field.interval.text](field.default) if field.interval else not field.default


def variants(cls: type[fs.Optimizer]) -> Iterator[dict[str, Any]]:
    """The defaults, and every hyperparameter and every pair of them at another value."""
    yield {}
    others = {name: alternative(field) for name, field in cls._fields.items()}
    for names in itertools.chain(itertools.combinations(others, 1), itertools.combinations(others, 2)):
        yield {name: others[name] for name in names}


def kernel_variants() -> Iterator[tuple[str, dict[str, Any]]]:
    """For each kernel one rule and options that choose it, plain and with coupled decay."""
    seen = set()
    for name, cls in fs.rules.items():
        for options in variants(cls):
            kernel = cls(np.zeros(1), **options).groups[0].kernel
            coupled = "l1" in options or "l2" in options
            if (kernel.name, coupled) not in seen:
                seen.add((kernel.name, coupled))
                yield name, options


KERNELS = list(kernel_variants())


def id_of(value: Any) -> str:
    if isinstance(value, dict):
        return ",".join(f"{key}={item:g}" for key, item in value.items()) or "default"
    return str(getattr(value, "__name__", value))


def normal(seed: int, n: int, dtype: Any) -> Array:
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


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
    result = {f"p{i}": p for i, p in enumerate(parameters)}
    for i, slots in optimizer.state.items():
        result |= {f"{slot}{i}": array for slot, array in slots.items()}
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
@pytest.mark.parametrize(
    ("rule", "options"), [(name, o) for name, cls in fs.rules.items() for o in variants(cls)], ids=id_of
)
def test_native_equals_reference(rule: str, options: dict[str, Any], dtype: Any) -> None:
    """Every rule and option; all lengths in one call."""
    start = [normal(n, n, dtype) for n in LENGTHS]
    gradients = [[normal(n + t, n, dtype) for n in LENGTHS] for t in range(1, 4)]
    expected = trained(rule, options, [p.copy() for p in start], gradients, "numpy")
    for isa, threads in itertools.product(fs.info()["isas"], THREADS):
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        assert_same(trained(rule, options, [p.copy() for p in start], gradients), expected, (isa, threads))


@pytest.mark.parametrize("values", [normal, awkward], ids=id_of)
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
@pytest.mark.parametrize(("rule", "options"), KERNELS, ids=id_of)
def test_length_and_alignment(rule: str, options: dict[str, Any], dtype: Any, values: Any) -> None:
    """Every kernel on a single tensor of every length and offset, with sentinels on both sides."""
    for n, offset in itertools.product(LENGTHS, [0, 1, 3]):
        start, fixed = values(n, n, dtype), [values(n + t, n, dtype) for t in range(1, 6)]
        expected = trained(rule, options, [start.copy()], [[g] for g in fixed], "numpy")
        for isa, threads in itertools.product(fs.info()["isas"], THREADS):
            fs.use_isa(isa)
            fs.set_num_threads(threads)
            p, p_intact = guarded(start, offset)
            grads, intact = zip(*(guarded(g, 2 * offset) for g in fixed), strict=True)
            assert_same(
                trained(rule, options, [p], [[g] for g in grads]), expected, (isa, threads, n, offset)
            )
            assert p_intact()
            assert all(check() for check in intact)
            assert all(same_bits(g, original) for g, original in zip(grads, fixed, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
@pytest.mark.parametrize(("rule", "options"), KERNELS, ids=id_of)
def test_split_and_order(rule: str, options: dict[str, Any], dtype: Any) -> None:
    """A tensor gives the same bits whole, in pieces, and with the pieces in another order."""
    n = 2 * _core.tile + 345
    start, fixed = normal(0, n, dtype), [normal(t, n, dtype) for t in range(1, 4)]
    whole = trained(rule, options, [start.copy()], [[g] for g in fixed])
    cuts = np.sort(np.random.default_rng(7).integers(0, n, 40))
    for reverse in (False, True):
        order = slice(None, None, -1 if reverse else 1)
        p = start.copy()
        pieces = trained(rule, options, np.split(p, cuts)[order], [np.split(g, cuts)[order] for g in fixed])
        assert same_bits(p, whole["p0"])
        for slot in {name[:-1] for name in whole} - {"p"}:
            joined = [pieces[f"{slot}{i}"] for i in range(len(cuts) + 1)][order]
            assert same_bits(np.concatenate(joined), whole[f"{slot}0"])


@pytest.mark.parametrize("isa", fs.info()["isas"])
@pytest.mark.parametrize("dtype", DTYPES, ids=id_of)
def test_denormals_are_kept(dtype: Any, isa: str) -> None:
    fs.use_isa(isa)
    tiny = np.finfo(dtype).smallest_subnormal
    p = np.zeros(100, dtype)
    fs.SGD(p, lr=1.0).step(np.full(100, tiny, dtype))
    assert (p == -tiny).all()


def test_dtypes_mix_in_one_call() -> None:
    parameters = [normal(i, 1000, dtype) for i, dtype in enumerate(DTYPES * 3)]
    gradients = [[normal(10 + i, 1000, dtype) for i, dtype in enumerate(DTYPES * 3)]]
    expected = trained("Adam", {}, [p.copy() for p in parameters], gradients, "numpy")
    assert_same(trained("Adam", {}, parameters, gradients), expected, None)


def test_every_kernel_is_tested() -> None:
    chosen = {fs.rules[name](np.zeros(1), **options).groups[0].kernel.name for name, options in KERNELS}
    assert chosen | {average.name} == set(_core.kernels())

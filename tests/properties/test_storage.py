"""What is kept in 16 bits: float16 and bfloat16, computed in float32 and rounded once when stored.

Decoding and rounding are those of the formats' definition, written out here, and of NumPy and ml_dtypes.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import FEW, FEW_KERNELS, KERNELS, id_of, matrix_kernel_of, takes_16_bits
from tests.helpers.exactly import assert_same, guarded, same_bits, unsigned
from tests.helpers.examples import kept_in
from tests.helpers.internals import _core

ml_dtypes = pytest.importorskip("ml_dtypes")

Array = np.ndarray[Any, Any]
Rule = Callable[..., dict[str, Array]]

BACKENDS = ["native", "numpy"]
ENGINES = [*(("native", isa) for isa in fs.info()["isas"]), ("numpy", fs.info()["isa"])]
NAMES = ["float32", "float16", "bfloat16"]
HALVES = NAMES[1:]
DTYPES = {name: np.dtype(getattr(np, name, None) or ml_dtypes.bfloat16) for name in NAMES}
MIXES = list(itertools.product(NAMES, repeat=3))  # parameter, gradient, state
OWN_LOOPS = [
    mix
    for mix in MIXES
    if len(set(mix)) == 1
    or (mix[2] == "float32" and mix[0] in {"float32", mix[1]})
    or mix == ("float32", "float32", "bfloat16")
]  # the others step float32 copies
FRACTION = {"float16": 10, "bfloat16": 7}  # bits
LOSSES = [2.0, 1.5, 1.7]
EVERY: dict[str, Any] = {"ema": 0.9, "l2": 0.03, "l1": 0.01, "weight_decay": 0.1, "maximize": True}
SIGN = 0x8000


def cast(a: Array, name: str) -> Array:
    """As NumPy and ml_dtypes convert; they warn of what overflows or is NaN."""
    with np.errstate(all="ignore"):
        return a.astype(DTYPES[name])


def infinity(name: str) -> int:
    """The bits of infinity: all of the exponent's."""
    return (1 << 15) - (1 << FRACTION[name])


def exact(code: int, name: str) -> Fraction:
    """What the bits of a finite number without sign mean."""
    fraction = FRACTION[name]
    bias = (1 << (14 - fraction)) - 1
    exponent, digits = divmod(code, 1 << fraction)
    if exponent == 0:
        return digits * Fraction(2) ** (1 - bias - fraction)
    return (digits + (1 << fraction)) * Fraction(2) ** (exponent - bias - fraction)


def magnitudes(name: str) -> Array:
    """All finite numbers from 0 up; that at i has the bits i. The last is what infinity's bits would mean."""
    return np.array([float(exact(code, name)) for code in range(infinity(name) + 1)])


MAGNITUDES = {name: magnitudes(name) for name in HALVES}


def decoded(name: str) -> Array:
    """The value of each of the 2**16 bit patterns, in order, as float32."""
    values = np.full(SIGN, np.nan)
    values[: infinity(name)] = MAGNITUDES[name][:-1]
    values[infinity(name)] = np.inf
    both = np.concatenate([values, -values]).astype(np.float32)
    assert np.array_equal(both[: infinity(name)], MAGNITUDES[name][:-1])
    return both


def rounded(x: Array, name: str) -> Array:
    """float32 to nearest: of two neighbours the nearer one, or else the one whose bits are even."""
    table = MAGNITUDES[name]
    with np.errstate(invalid="ignore"):
        size = np.abs(x.astype(np.float64))
        low = np.searchsorted(table, size, side="right") - 1
        high = np.minimum(low + 1, len(table) - 1)
        below, above = size - table[low], table[high] - size  # both exact in float64
    code = np.where((above < below) | ((above == below) & (low % 2 == 1)), high, low)
    code = np.where(size >= table[-1], infinity(name), code)
    code = np.where(np.isnan(x), SIGN - 1, code) | np.where(np.signbit(x), SIGN, 0)
    return code.astype(np.uint16).view(DTYPES[name])


def every_pattern(name: str) -> Array:
    return np.arange(1 << 16, dtype=np.uint16).view(DTYPES[name])


def hard_to_round(name: str) -> Array:
    """Every number of the format, every midpoint, what lies next to both, and what float32 has beside."""
    table = MAGNITUDES[name]
    exactly = np.concatenate([table[:-1], (table[:-1] + table[1:]) / 2])
    points = exactly.astype(np.float32)
    assert np.array_equal(points, exactly)  # float32 holds them
    info = np.finfo(np.float32)
    edges = np.array([info.max, info.tiny, info.tiny / 3, info.smallest_subnormal, np.inf], np.float32)
    nans = [0x7F800001, 0x7F80FFFF, 0x7FBFFFFF, 0x7FC00000, 0x7FFF0000, 0x7FFFFFFF]
    random = np.random.default_rng(5).integers(0, 1 << 31, 100_000)
    bits = np.array([*nans, *random, *range(70), *range(0x7FFFC0, 0x800040)], np.uint32)
    inf = np.float32(np.inf)
    positive = np.concatenate(
        [points, np.nextafter(points, inf), np.nextafter(points, -inf), edges, bits.view(np.float32)]
    )
    return np.concatenate([positive, -positive])


HARD = {name: hard_to_round(name) for name in HALVES}


def negative_zeros(n: int, name: str) -> Array:
    """What keeps the sign of a zero that is added to it."""
    return np.full(n, -0.0, DTYPES[name])


@pytest.fixture(params=ENGINES, ids="-".join)
def engine(request: pytest.FixtureRequest) -> Any:
    """A backend, and for native every instruction set."""
    backend, isa = request.param
    fs.use_isa(isa)
    return backend


# All values, in both directions.


@pytest.mark.parametrize("name", HALVES)
def test_definition_agrees_with_numpy(name: str) -> None:
    """The two oracles of this file are one."""
    assert same_bits(cast(every_pattern(name), "float32"), decoded(name))
    assert same_bits(cast(HARD[name], name), rounded(HARD[name], name))
    threshold = {"float16": 65520.0, "bfloat16": math.ldexp(2 - 2**-8, 127)}[name]
    just_below = np.nextafter(np.float32(threshold), np.float32(0))
    for x, largest in ((threshold, False), (just_below, True)):
        assert np.isfinite(rounded(np.array([x], np.float32), name)[0]) == largest
        assert np.float32(x) in HARD[name]


@pytest.mark.parametrize("name", HALVES)
def test_gradient_is_loaded(engine: Any, name: str) -> None:
    p = negative_zeros(1 << 16, "float32")
    fs.SGD(p, lr=1.0, backend=engine).step(every_pattern(name))
    assert same_bits(p, -decoded(name))


@pytest.mark.parametrize("name", HALVES)
def test_parameter_is_loaded(engine: Any, name: str) -> None:
    """It does not move; half of it is the average."""
    opt = fs.SGD(every_pattern(name), lr=0.0, ema=0.5, state_dtype="float32", backend=engine)
    assert same_bits(opt.state["ema"], decoded(name))
    opt.state["ema"][...] = -0.0
    opt.step(np.zeros(1 << 16, np.float32))
    assert same_bits(opt.state["ema"], decoded(name) / 2)


@pytest.mark.parametrize("name", HALVES)
def test_state_is_loaded(engine: Any, name: str) -> None:
    p = negative_zeros(1 << 16, "float32")
    opt = fs.Momentum(p, lr=0.0, momentum=0.5, state_dtype=name, backend=engine)
    opt.state["v"][...] = every_pattern(name)
    opt.step(np.zeros(1 << 16, np.float32))
    assert same_bits(p, decoded(name) / 2)
    assert same_bits(opt.state["v"], rounded(decoded(name) / 2, name))


@pytest.mark.parametrize("name", HALVES)
def test_parameter_is_stored(engine: Any, name: str) -> None:
    x = HARD[name]
    p = negative_zeros(len(x), name)
    fs.SGD(p, lr=1.0, backend=engine).step(-x)
    assert same_bits(p, rounded(x, name))


@pytest.mark.parametrize("name", HALVES)
def test_state_is_stored(engine: Any, name: str) -> None:
    x = HARD[name]
    p = np.zeros(len(x), np.float32)
    opt = fs.EMAMomentum(p, momentum=0.0, state_dtype=name, backend=engine)
    opt.state["m"][...] = -0.0
    opt.step(x)
    assert same_bits(opt.state["m"], rounded(x, name))


@pytest.mark.parametrize("name", HALVES)
def test_average_is_stored(engine: Any, name: str) -> None:
    x = HARD[name]
    opt = fs.SGD(x.copy(), lr=0.0, ema=0.5, state_dtype=name, backend=engine)
    assert same_bits(opt.state["ema"], rounded(x, name))  # it starts at p
    opt.state["ema"][...] = -0.0
    opt.step(np.zeros(len(x), np.float32))
    with np.errstate(invalid="ignore"):  # signalling NaN
        half = x * np.float32(0.5)
    assert same_bits(opt.state["ema"], rounded(half, name))


@pytest.mark.parametrize("name", HALVES)
def test_values_come_back(engine: Any, name: str) -> None:
    """A step that adds nothing leaves every parameter as it is."""
    p = every_pattern(name)
    opt = fs.Momentum(p, lr=0.0, momentum=0.0, backend=engine)
    opt.state["v"][...] = -0.0
    opt.step(np.ones(1 << 16, np.float32))
    assert same_bits(p, every_pattern(name))


@pytest.mark.parametrize("name", HALVES)
def test_the_parameter_takes_state_that_is_not_yet_rounded(engine: Any, name: str) -> None:
    """One rounding, on store: not of what the formula goes on with."""
    g = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    p = negative_zeros(1000, "float32")
    opt = fs.Momentum(p, lr=1.0, state_dtype=name, backend=engine)
    opt.step(g)
    assert same_bits(p, -g)
    assert same_bits(opt.state["v"], rounded(-g, name))
    assert (opt.state["v"].astype(np.float32) != p).mean() > 0.9


@pytest.mark.parametrize("name", HALVES)
def test_average_is_of_what_is_stored(engine: Any, name: str) -> None:
    """Of the parameter as it is after the step, not as it was before rounding."""
    p = np.ones(100, DTYPES[name])
    opt = fs.SGD(p, lr=1.0, ema=0.5, state_dtype="float32", backend=engine)
    opt.step(np.linspace(0, 0.01, 100).astype(np.float32))
    assert len(np.unique(p)) > 2
    assert same_bits(opt.state["ema"], (1 + p.astype(np.float32)) / 2)


# Native is NumPy, for each rule and mix.


def normal(seed: int, n: int | tuple[int, ...], name: str) -> Array:
    return np.random.default_rng(seed).standard_normal(n).astype(DTYPES[name])


def awkward(seed: int, n: int, name: str) -> Array:
    """Ordinary numbers mixed with NaN, infinities, zeros of both signs, denormals and the largest."""
    info = ml_dtypes.finfo(DTYPES[name])
    top, tiny, least = (float(x) for x in (info.max, info.tiny, info.smallest_subnormal))
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, least, -least, tiny, tiny / 2, -tiny / 2, top, -top]
    values = normal(seed, n, name)
    where = np.random.default_rng(seed + 1).random(n) < 0.2
    values[where] = np.random.default_rng(seed + 2).choice(
        np.array(special).astype(DTYPES[name]), where.sum()
    )
    return values


def trained(
    rule: str,
    options: dict[str, Any],
    parameters: list[Array],
    gradients: list[list[Array]],
    backend: Any = "native",
) -> dict[str, Array]:
    """All parameters and state after one step for each list of gradients."""
    opt = fs.rules[rule](parameters, backend=backend, **options)
    for grads, loss in zip(gradients, LOSSES, strict=True):
        opt.step(grads, loss=loss, scale=0.7)
    result = {f"p {i}": p for i, p in enumerate(parameters)}
    for i, slots in opt.state.items():
        result |= {f"{slot} {i}": array for slot, array in slots.items()}
    return result


def assert_kept(result: dict[str, Array], kept: str, state: str) -> None:
    for name, array in result.items():
        if array.shape:  # the number of a tensor is in float64
            assert array.dtype == DTYPES[kept if name.startswith("p ") else state], name


@pytest.mark.parametrize(
    ("rule", "options", "mix"),
    [
        (rule, options, mix)
        for mix in MIXES
        for rule, options in (KERNELS if mix in OWN_LOOPS else FEW_KERNELS)
        if takes_16_bits(rule) or mix[0] == mix[2] == "float32"
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else id_of(value),
)
def test_native_equals_numpy(rule: str, options: dict[str, Any], mix: tuple[str, str, str]) -> None:
    """Every kernel in the mixes with a loop of their own, few in the others; plain and with coupled decay."""
    kept, given, state = mix
    lengths = [_core.tile + 907, 37]
    start = [awkward(9, lengths[0], kept), normal(10, lengths[1], kept)]
    gradients = [
        [awkward(20 + t, lengths[0], given), normal(30 + t, lengths[1], given)] for t in range(len(LOSSES))
    ]
    if matrix_kernel_of(rule, options):
        start += [normal(11, (66, 70), kept), normal(12, (2, 5, 3), kept)]
        for t, grads in enumerate(gradients):
            grads += [normal(40 + t, (66, 70), given), normal(50 + t, (2, 5, 3), given)]
    for common in ({}, EVERY):
        chosen = {"lr": 0.1, **options, **common, "state_dtype": state}
        expected = trained(rule, chosen, [p.copy() for p in start], gradients, "numpy")
        moved = [array for name, array in expected.items() if name.endswith(" 1")]
        assert not all(np.array_equal(array, start[1]) or not array.any() for array in moved)
        assert_kept(expected, kept, state)
        for isa in fs.info()["isas"]:
            fs.use_isa(isa)
            assert_same(trained(rule, chosen, [p.copy() for p in start], gradients), expected, (isa, common))


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize(("rule", "options"), FEW_KERNELS, ids=id_of)
def test_threads(rule: str, options: dict[str, Any], name: str) -> None:
    """Arrays that are worth more than one thread, all of 16 bits, and with gradients or state in float32."""
    n = 100_007
    for given, state in ((name, name), (name, "float32"), ("float32", name)):
        shapes: list[int | tuple[int, ...]] = [
            n,
            5,
            *([(300, 401), (70, 5)] if matrix_kernel_of(rule, options) else []),
        ]
        start = [normal(1 + i, shape, name) for i, shape in enumerate(shapes)]
        gradients = [
            [normal(10 * (i + 1) + t, shape, given) for i, shape in enumerate(shapes)]
            for t in range(len(LOSSES))
        ]
        chosen = {**options, "state_dtype": state, "ema": 0.9, "l2": 0.1}
        expected = trained(rule, chosen, [p.copy() for p in start], gradients, "numpy")
        for threads in (1, 2, 3):
            fs.set_num_threads(threads)
            assert_same(trained(rule, chosen, [p.copy() for p in start], gradients), expected, threads)


@pytest.mark.parametrize("rule", FEW)
def test_mixes_in_one_optimizer(rule: str, backend: Any) -> None:
    """Each tensor, of any dtype, moves as alone, though its gradients come in another dtype at each step."""
    names = [*NAMES, "float64"] * 3
    dtypes = DTYPES | {"float64": np.dtype(np.float64)}
    rng = np.random.default_rng(3)
    start = [rng.standard_normal(100 + i).astype(dtypes[name]) for i, name in enumerate(names)]
    gradients = [
        [
            rng.standard_normal(len(p)).astype(p.dtype if name == "float64" else dtypes[NAMES[(i + t) % 3]])
            for i, (p, name) in enumerate(zip(start, names, strict=True))
        ]
        for t in range(len(LOSSES))
    ]
    together = trained(rule, {}, [p.copy() for p in start], gradients, backend)
    for i, p in enumerate(start):
        other = BACKENDS[backend == "native"]
        alone = trained(rule, {}, [p.copy()], [[grads[i]] for grads in gradients], other)
        state = [name.split()[0] for name in alone if name != "p 0"]
        for slot, array in alone.items():
            assert array.dtype == (p.dtype if slot == "p 0" else kept_in(rule, slot.split()[0], state, p))
            assert same_bits(together[f"{slot[:-1]}{i}"], array), (slot, names[i])


@pytest.mark.parametrize("mix", MIXES, ids="-".join)
def test_options_of_a_step(mix: tuple[str, str, str]) -> None:
    """Clipping and zeroing read and write the gradient in its own dtype."""
    kept, given, state = mix
    lengths = [_core.tile + 907, 37]
    results: list[dict[str, Array]] = []
    for backend, isa in [("numpy", fs.info()["isa"]), *(("native", isa) for isa in fs.info()["isas"])]:
        fs.use_isa(isa)
        params = [normal(i, n, kept) for i, n in enumerate(lengths)]
        engine: Any = backend
        opt = fs.Adam(params, ema=0.5, state_dtype=state, backend=engine)
        for t in range(len(LOSSES)):
            grads = [normal(10 * t + i, n, given) for i, n in enumerate(lengths)]
            norm = fs.global_norm(grads)
            result = opt.step(grads, clip_norm=norm / 3, clip_value=0.3, skip_nonfinite=True, zero_grad=True)
            assert result == fs.StepResult(norm, skipped=False)
            assert not any(unsigned(g).any() for g in grads)
        arrays = {f"p {i}": p for i, p in enumerate(params)}
        arrays |= {f"{slot} {i}": a for i, slots in opt.state.items() for slot, a in slots.items()}
        assert_kept(arrays, kept, state)
        results.append(arrays)
        assert_same(arrays, results[0], isa)
    plain = [normal(i, n, kept) for i, n in enumerate(lengths)]
    opt = fs.Adam(plain, ema=0.5, state_dtype=state)
    for t in range(len(LOSSES)):
        opt.step([normal(10 * t + i, n, given) for i, n in enumerate(lengths)])
    assert not np.array_equal(opt.state[0]["m"], results[0]["m 0"])


@pytest.mark.parametrize("mix", MIXES, ids="-".join)
def test_every_length_and_offset(mix: tuple[str, str, str]) -> None:
    """All short lengths, at odd places in memory, and not a byte beside them."""
    kept, given, state = mix
    for n in (*range(70), _core.tile - 1, _core.tile + 1):
        start = awkward(n, n, kept)
        gradients = [awkward(n + t + 1, n, given) for t in range(len(LOSSES))]
        options = {"state_dtype": state}
        expected = trained("Adam", options, [start.copy()], [[g] for g in gradients], "numpy")
        for isa in fs.info()["isas"]:
            fs.use_isa(isa)
            p, p_intact = guarded(start, n % 5)
            grads, intact = zip(*(guarded(g, n % 3) for g in gradients), strict=True)
            assert_same(trained("Adam", options, [p], [[g] for g in grads]), expected, (isa, n))
            assert p_intact()
            assert all(check() for check in intact)
            assert all(same_bits(g, original) for g, original in zip(grads, gradients, strict=True))


def odd_bytes(a: Array) -> Array:
    """A copy at an odd address."""
    copy = np.frombuffer(bytearray(a.nbytes + 1), a.dtype, offset=1, count=a.size).reshape(a.shape)
    copy[...] = a
    return copy


LAYOUTS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "Fortran": (np.asfortranarray, np.copy),
    "Fortran gradient": (np.copy, np.asfortranarray),
    "gaps": (lambda p: np.repeat(p, 2, axis=1)[:, ::2], np.copy),
    "gradient with gaps": (np.copy, lambda g: np.repeat(g, 3, axis=0)[::3]),
    "gradient at an odd address": (np.copy, odd_bytes),
    "reversed": (lambda p: p[::-1].copy()[::-1], lambda g: g[:, ::-1].copy()[:, ::-1]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", HALVES)
def test_layout(backend: Any, name: str, layout: str) -> None:
    p, *grads = (normal(seed, 35, name).reshape(5, 7) for seed in range(1 + len(LOSSES)))
    place, place_gradient = LAYOUTS[layout]
    expected = trained("Adam", {}, [p.copy()], [[g] for g in grads], backend)
    result = trained("Adam", {}, [place(p)], [[place_gradient(g)] for g in grads], backend)
    assert_same({k: a.copy() for k, a in result.items()}, expected, layout)


@pytest.mark.parametrize("name", HALVES)
def test_scalar_gradient_of_a_0d_parameter(backend: Any, name: str) -> None:
    p = np.array(2.0, DTYPES[name])
    gradient = p + p
    assert not isinstance(gradient, np.ndarray)
    fs.SGD(p, lr=0.25, backend=backend).step(gradient)
    assert p == 1


# A step worked by hand, in float32 from the papers' formulas.

LR, BETA1, BETA2, RHO, EPS = (np.float32(x) for x in (0.1, 0.9, 0.999, 0.9, 1e-8))


def sgd(p: Array, g: Array) -> dict[str, Array]:
    return {"p": p - LR * g}


def adam(p: Array, g: Array, m: Array, v: Array) -> dict[str, Array]:
    rest1, rest2 = np.float32(1 - 0.9), np.float32(1 - 0.999)
    m = BETA1 * m + rest1 * g
    v = BETA2 * v + rest2 * g**2
    m_hat, v_hat = m / rest1, v / rest2
    return {"p": p - LR * m_hat / (np.sqrt(v_hat) + EPS), "m": m, "v": v}


def rmsprop(p: Array, g: Array, s: Array) -> dict[str, Array]:
    s = RHO * s + np.float32(1 - 0.9) * g**2
    return {"p": p - LR * g / (np.sqrt(s) + EPS), "s": s}


def ordinal(a: Array) -> Array:
    """Numbers of the format counted from zero: neighbours differ by one."""
    bits = unsigned(a).astype(np.int64)
    sign = 1 << (8 * a.itemsize - 1)
    return np.where(bits & sign, sign - bits, bits)


HAND: dict[str, tuple[str, Rule, list[str]]] = {
    "SGD": ("SGD", sgd, []),
    "Adam": ("Adam", adam, ["m", "v"]),
    "RMSProp": ("RMSProp", rmsprop, ["s"]),
}


@pytest.mark.parametrize("mix", [mix for mix in MIXES if mix != ("float32",) * 3], ids="-".join)
@pytest.mark.parametrize("rule", HAND)
def test_step_by_hand(backend: Any, rule: str, mix: tuple[str, str, str]) -> None:
    """At most one unit of what is kept, where 1/(1 - beta) rounds otherwise; hardly ever even that."""
    kept, given, state = mix
    name, formula, slots = HAND[rule]
    p, g = normal(1, 4000, kept), normal(2, 4000, given)
    opt = fs.rules[name](p, lr=0.1, state_dtype=state, backend=backend)
    arrays = {"p": p, **opt.state}
    for i, slot in enumerate(slots):
        opt.state[slot][...] = np.abs(normal(3 + i, 4000, state))
    before = {slot: array.astype(np.float32) for slot, array in arrays.items()}
    expected = formula(before.pop("p"), g.astype(np.float32), *before.values())
    start = p.copy()
    opt.step(g)
    assert (p != start).mean() > 0.9
    for slot, array in arrays.items():
        off = np.abs(ordinal(array) - ordinal(expected[slot].astype(array.dtype)))
        if array.dtype == np.float32:
            assert np.allclose(array, expected[slot], rtol=5e-7, atol=5e-7), slot
        else:
            assert off.max() <= 1, slot
            assert (off > 0).mean() < 0.005, slot


@pytest.mark.parametrize("name", NAMES)
def test_state_starts_rounded(backend: Any, name: str) -> None:
    p = normal(0, 9, "float32")
    opt = fs.Adagrad(p, initial_accumulator=0.1, ema=0.9, state_dtype=name, backend=backend)
    assert same_bits(opt.state["s"], np.full(9, 0.1).astype(DTYPES[name]))
    assert same_bits(opt.state["ema"], p.astype(DTYPES[name]))


# Which dtypes there are.

SPELLINGS = {
    "float32": ["float32", np.float32, np.dtype(np.float32)],
    "float16": ["float16", np.float16, np.dtype(np.float16)],
    "bfloat16": ["bfloat16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)],
}


@pytest.mark.parametrize("rule", FEW)
@pytest.mark.parametrize("kept", NAMES)
def test_state_dtype(backend: Any, rule: str, kept: str) -> None:
    params = {"w": normal(0, 3, kept), "b": normal(0, 4, "float16")}
    opt = fs.rules[rule](params, ema=0.5, backend=backend)
    for name, p in params.items():
        for slot, array in opt.state[name].items():
            assert array.dtype == kept_in(rule, slot, opt.state[name], p), (name, slot)
    for state, spellings in SPELLINGS.items():
        for spelling in spellings:
            opt = fs.rules[rule](params, ema=0.5, state_dtype=spelling, backend=backend)
            assert {a.dtype for slots in opt.state.values() for a in slots.values()} == {DTYPES[state]}


BAD_STATE: list[Any] = [
    np.int32,
    "int16",
    "uint16",
    "float",
    float,
    np.float64,
    "float64",
    ">f4",
    ">f2",
    np.dtype(np.float16).newbyteorder(),
    np.complex64,
    object,
    bool,
    "bfloat",
    "",
    5,
    1.0,
    [],
    ml_dtypes.float8_e4m3fn,
]


@pytest.mark.parametrize("bad", BAD_STATE, ids=repr)
@pytest.mark.parametrize("kept", NAMES)
def test_bad_state_dtype(backend: Any, kept: str, bad: Any) -> None:
    p = np.ones(3, DTYPES[kept])
    for rule in ("SGD", "Adam"):  # without state too
        with pytest.raises(TypeError, match=r"state"):
            fs.rules[rule](p, state_dtype=bad, backend=backend)
    assert (p == 1).all()


@pytest.mark.parametrize("state", NAMES)
def test_state_of_float64(backend: Any, state: str) -> None:
    p: dict[str, Array] = {"w": np.ones(3, np.float32), "b": np.ones(3)}
    with pytest.raises(TypeError, match=r"parameter 'b' .*float64"):
        fs.Adam(p, state_dtype=state, backend=backend)
    opt = fs.Adam(p["b"], state_dtype="float64", backend=backend)
    assert opt.state["m"].dtype == np.float64
    with pytest.raises(TypeError, match=r"parameter 'w' .*float32"):
        fs.Adam(p, state_dtype="float64", backend=backend)


class Run:
    """Three tensors of one dtype, and two steps done."""

    def __init__(self, rule: str, kept: Any, backend: Any, state: Any = None) -> None:
        rng = np.random.default_rng(1)
        self.params = {
            name: rng.standard_normal(n).astype(kept) for name, n in zip("abc", (5, 40, 3), strict=True)
        }
        self.opt = fs.rules[rule](self.params, backend=backend, state_dtype=state)
        self.step()
        self.step()

    def step(self, **changed: Array) -> None:
        rng = np.random.default_rng(self.opt.t)
        grads = {name: rng.standard_normal(p.shape).astype(p.dtype) for name, p in self.params.items()}
        self.opt.step(grads | changed, loss=2.0 / (1 + self.opt.t))

    def bits(self) -> Any:
        saved = self.opt.state_dict()
        state = [
            (n, s, a.dtype, a.tobytes()) for n, slots in saved["state"].items() for s, a in slots.items()
        ]
        return [p.tobytes() for p in self.params.values()], state, self.opt.t, repr(saved["groups"])


WIDE_AND_HALF = [
    *((np.float64, DTYPES[name]) for name in NAMES),
    *((DTYPES[name], np.float64) for name in NAMES),
]


@pytest.mark.parametrize("name", ["a", "c"])
@pytest.mark.parametrize(("kept", "given"), WIDE_AND_HALF, ids=str)
@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "Eve"])
def test_float64_mixes_with_nothing(backend: Any, rule: str, name: str, kept: Any, given: Any) -> None:
    run, control = Run(rule, kept, backend), Run(rule, kept, backend)
    before = run.bits()
    with pytest.raises(TypeError, match=rf"gradient '{name}' .*dtype"):
        run.step(**{name: np.ones(run.params[name].shape, given)})
    assert run.bits() == before
    run.step()
    control.step()
    assert run.bits() == control.bits() != before


STRANGE = [
    np.int16,
    np.uint16,
    np.int32,
    np.bool_,
    np.complex64,
    ">f2",
    ">f4",
    ml_dtypes.float8_e5m2,
]


@pytest.mark.parametrize("bad", [*STRANGE, ml_dtypes.int4, object], ids=str)
@pytest.mark.parametrize("kept", HALVES)
def test_other_dtypes(backend: Any, kept: str, bad: Any) -> None:
    run = Run("Adam", DTYPES[kept], backend)
    before = run.bits()
    with pytest.raises(TypeError, match=r"gradient 'b' .*dtype"):
        run.step(b=np.ones(40, bad))
    assert run.bits() == before
    with pytest.raises(TypeError, match=r"parameter 'b' .*dtype"):
        fs.Adam({"a": run.params["a"], "b": np.ones(40, bad)}, backend=backend)


# Checkpoints.


@pytest.mark.parametrize("state", NAMES)
@pytest.mark.parametrize("kept", NAMES)
@pytest.mark.parametrize("rule", FEW)
def test_checkpoint_is_exact(backend: Any, rule: str, kept: str, state: str) -> None:
    run = Run(rule, DTYPES[kept], backend, state)
    for slots in run.opt.state.values():
        for array in slots.values():
            array[:3] = np.array([np.inf, -0.0, float(ml_dtypes.finfo(array.dtype).smallest_subnormal)])
    saved = pickle.loads(pickle.dumps(run.opt.state_dict()))
    other = Run(rule, DTYPES[kept], BACKENDS[backend == "native"], state)
    for name, p in other.params.items():
        p[...] = run.params[name]
    other.step()
    other.opt.load_state_dict(saved)
    for name, p in other.params.items():
        p[...] = run.params[name]
    assert other.bits() == run.bits()
    run.step()
    other.step()
    for name, p in run.params.items():
        assert same_bits(p, other.params[name])
        for slot, array in run.opt.state.get(name, {}).items():
            assert array.dtype == DTYPES[state]
            assert same_bits(array, other.opt.state[name][slot])


EXACT = ("float16", "float32")


@pytest.mark.parametrize(
    ("saving", "loading"), [pair for pair in itertools.permutations(NAMES, 2) if pair != EXACT]
)
@pytest.mark.parametrize("rule", [rule for rule in FEW if rule != "SGD"])
def test_checkpoint_of_another_state_dtype(backend: Any, rule: str, saving: str, loading: str) -> None:
    saved = Run(rule, np.float32, backend, saving)
    saved.step()
    run, control = (Run(rule, np.float32, backend, loading) for _ in range(2))
    before = run.bits()
    with pytest.raises(TypeError, match=r"state '\w+' of parameter 'a'.*dtype"):
        run.opt.load_state_dict(saved.opt.state_dict())
    assert run.bits() == before
    run.step()
    control.step()
    assert run.bits() == control.bits() != before


@pytest.mark.parametrize("rule", [rule for rule in FEW if rule != "SGD"])
def test_checkpoint_in_float16_loads_into_float32(backend: Any, rule: str) -> None:
    """Which has all numbers of float16."""
    saved = Run(rule, np.float32, backend, "float16").opt.state_dict()
    opt = Run(rule, np.float32, backend, "float32").opt
    opt.load_state_dict(saved)
    for name, slots in opt.state.items():
        for slot, array in slots.items():
            assert same_bits(array, cast(saved["state"][name][slot], "float32"))

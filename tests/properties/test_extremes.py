"""Gradients so large or so small that their squares, their sums or products of them leave the format.

Finite parameters and finite gradients give finite parameters. An element whose square is infinite stands
still, as in Adam, and what does not depend on the size of a gradient is the same at every size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import id_of, matrix_kernel_of
from tests.helpers.internals import Measured

Array = np.ndarray[Any, Any]
Options = dict[str, Any]

HUGE = {np.float32: [2e19, 3e38], np.float64: [1e170, 1e308]}
TINY = {np.float32: [1e-44], np.float64: [1e-170]}
DTYPES = [np.float32, np.float64]


def run(rule: str, backend: Any, p: Array, gradients: list[Array], **options: Any) -> fs.Optimizer:
    opt = fs.rules[rule](p, backend=backend, **options)
    for g in gradients:
        opt.step(g.astype(p.dtype).reshape(p.shape), loss=1.0)
    return opt


def moved(rule: str, backend: Any, *gradients: Sequence[float], **options: Any) -> list[float]:
    """Where ones in float32 are after these gradients."""
    p = np.ones(len(gradients[0]), np.float32)
    run(rule, backend, p, [np.array(g, np.float32) for g in gradients], **options)
    return [float(x) for x in p]


def only_later(value: float, t: int) -> float:
    return value if t > 2 else 0.0


def zeros(rule: str) -> list[Options]:
    """The defaults, each hyperparameter at 0, and each at 0 only for the first two steps.

    But not eps, without which a gradient of 0 is 0/0, nor Muon's polynomial, which then diverges.
    """
    fields = fs.rules[rule]._fields
    names = [name for name, field in fields.items() if field.interval and field.interval.holds(0.0)]
    at_0: list[Options] = [{name: 0.0} for name in names if not name.startswith(("eps", "ns_"))]
    later: list[Options] = [
        {name: partial(only_later, fields[name].default)}
        for name in ("lr", "beta2", "momentum", "rho")
        if name in names and (rule, name) != ("Ftrl", "lr")
    ]
    return [{}, *at_0, *later]


def cases(rule: str) -> list[list[Array]]:
    """Gradients of three steps: one element huge, and then of the other sign; or all of them tiny."""
    found = []
    for dtype in DTYPES:
        for shape in [(3,), *([(3, 3)] if matrix_kernel_of(rule, {}) else [])]:
            one = np.arange(math.prod(shape)).reshape(shape) == 1
            found += [[np.where(one, sign * x, 1).astype(dtype) for sign in (1, -1, 1)] for x in HUGE[dtype]]
            found += [[np.full(shape, x, dtype)] * 3 for x in TINY[dtype]]
    return found


@pytest.mark.parametrize("rule", fs.rules)
def test_finite_gradients_give_no_nan(rule: str, backend: Any) -> None:
    """Parameters may become infinite where a step is."""
    given = cases(rule)
    for options in zeros(rule):
        p = [np.ones_like(gradients[0]) for gradients in given]
        opt = fs.rules[rule]([{"params": [each]} for each in p], backend=backend, **options)
        finite = [True] * len(p)
        for grads in zip(*given, strict=True):
            opt.step([[g] for g in grads], loss=1.0)
            for i, each in enumerate(p):
                assert not (finite[i] and np.isnan(each).any()), (options, given[i])
                finite[i] = bool(np.isfinite(each).all())


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("Adam", {}),
        ("Adam", {"amsgrad": True}),
        ("Adam", {"cautious": True}),
        ("NAdam", {}),
        ("AdaBelief", {}),
        ("Yogi", {}),
        ("AdEMAMix", {}),
        ("AdEMAMix", {"alpha": 0.0}),
        ("Adan", {}),
        ("LaProp", {}),
        ("QHAdam", {}),
        ("QHAdam", {"nu1": 0.0}),
        ("QHAdam", {"nu1": 0.0, "nu2": 0.0}),
        ("RMSProp", {}),
        ("RMSProp", {"centered": True}),
        ("RMSProp", {"momentum": 0.9}),
        ("RMSProp", {"centered": True, "momentum": 0.9}),
        ("Adagrad", {}),
        ("Adadelta", {}),
        ("Ftrl", {}),
        ("Ftrl", {"lr_power": -0.75}),
        ("StableAdamW", {"weight_decay": 0.0}),
    ],
    ids=id_of,
)
def test_an_element_whose_square_is_infinite_stands_still(rule: str, options: Options, backend: Any) -> None:
    """And the others move as if it was not there, but where a norm ties them together."""
    left, still, right = moved(rule, backend, [1, 3e21, 1], [1, 3e21, 1], **options)
    assert still == 1
    if rule not in {"StableAdamW", "Adam"} or not options:
        assert [left, right] == moved(rule, backend, [1, 1], [1, 1], **options)
    assert left < 1


def test_a_coefficient_of_0_removes_what_is_infinite(backend: Any) -> None:
    """A mean of squares that forgets at once, which an infinite one would else never do."""
    first, then = [1, 3e21, 1], [1, 1, 1]
    removing: dict[str, Options] = {
        "RMSProp": {"rho": 0.0},
        "Adadelta": {"rho": 0.0},
        "ADOPT": {"beta2": 0.0, "beta1": 0.0},
        "Adafactor": {"beta2_decay": 0.0},
        "MADGRAD": {"lr": lambda t: 0.0 if t == 1 else 0.01},
        "Prodigy": {"lr": lambda t: 0.0 if t == 1 else 1.0},
    }
    for rule, options in removing.items():
        left, after, right = moved(rule, backend, first, then, then, **options)
        assert left == right, rule
        assert math.isfinite(after), rule
    opt = run("Adam", backend, np.ones(2, np.float32), [np.array([1, 3e21]), np.array([1, 3])], beta2=0.0)
    assert opt.state["v"].tolist() == [1, 9]
    assert moved("QHAdam", backend, [1, 2e19, 1]) == moved("Adam", backend, [1, 2e19, 1])


def test_a_buffer_that_overflowed_moves_nothing_without_lr(backend: Any) -> None:
    g = [1.0, 3e38]
    for nesterov in (False, True):
        options: Options = {"lr": partial(only_later, 0.0), "nesterov": nesterov}
        assert moved("SGDM", backend, g, g, g, **options) == [1, 1]
        assert moved("SGDM", backend, g, g, g, momentum=lambda t: 0.9 if t < 3 else 0.0, **options) == [1, 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_change_of_a_gradient_overflows(dtype: Any, backend: Any) -> None:
    """Adan's, from one end of the format to the other."""
    g = np.array([1.0, np.finfo(dtype).max])
    for beta2 in (0.92, 0.0):
        p = np.ones(2, dtype)
        opt = run("Adan", backend, p, [g, -g, g], beta2=beta2)
        assert p[1] == 1
        assert np.isfinite(opt.state["d"]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("huge", [1e19, 3e19, 3e38])
def test_factors_of_squares_that_no_number_holds(huge: float, dtype: Any, backend: Any) -> None:
    """Adafactor's for matrices: a gradient of one size steps as at any other size."""
    huge = huge if dtype == np.float32 else huge**8 / 1e9
    p, expected = np.ones((3, 4), dtype), np.ones((3, 4), dtype)
    run("Adafactor", backend, p, [np.full(p.shape, huge)] * 3)
    run("Adafactor", backend, expected, [np.ones(p.shape)] * 3)
    np.testing.assert_allclose(p, expected, rtol=1e-6)


# --- Norms ---

OF_ONE_SIZE: list[tuple[str, Options]] = [
    ("LARS", {}),
    ("NovoGrad", {"eps": 0.0}),
    ("Muon", {"ns_eps": 0.0}),
]
SCALES = {np.float32: [-125, 100, 125], np.float64: [-1020, -900, -560, 520, 600, 1000]}
SUBNORMAL = {np.float32: -146, np.float64: -1070}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rule", "options"), OF_ONE_SIZE, ids=id_of)
def test_steps_do_not_depend_on_the_size_of_gradients(
    rule: str, options: Options, dtype: Any, backend: Any
) -> None:
    """Of these rules, with gradients of few digits, which subnormal numbers have too."""
    g = np.array([[1, -3, 2, 0], [5, 4, -2, 1]])
    expected = np.full(g.shape, 3, dtype)
    run(rule, backend, expected, [g, g[::-1]], **options)
    assert not np.allclose(expected, 3, rtol=1e-5)
    for scale in [*SCALES[dtype], *([SUBNORMAL[dtype]] if rule != "Muon" else [])]:
        p = np.full(g.shape, 3, dtype)
        run(rule, backend, p, [np.ldexp(g, scale), np.ldexp(g[::-1], scale)], **options)
        np.testing.assert_allclose(p, expected, rtol=1e-6, err_msg=str(scale))


@pytest.mark.parametrize("scale", [-900, -560, 520, 600, 1000])
@pytest.mark.parametrize(
    ("rule", "options"),
    [("LAMB", {"weight_decay": 0.0}), ("LARS", {}), ("Adafactor", {"eps2": 0.0})],
    ids=id_of,
)
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_steps_are_in_proportion_to_the_parameter(
    rule: str, options: Options, scale: int, shape: Any, backend: Any
) -> None:
    g = np.arange(6.0).reshape(shape) - 2.5
    start = 1 + np.arange(6.0).reshape(shape) / 8
    expected, p = start.copy(), np.ldexp(start, scale)
    run(rule, backend, expected, [g, g], **options)
    run(rule, backend, p, [g, g], **options)
    assert not np.allclose(expected, start, rtol=1e-5)
    np.testing.assert_allclose(np.ldexp(p, -scale), expected, rtol=1e-12)


def test_lars_by_hand(backend: Any) -> None:
    """Two steps of lr·trust_coefficient·|p| along the gradient's direction, the second with momentum."""
    for dtype, sizes in {np.float32: [1e-44, 1e38], np.float64: [1e-320, 1e-170, 1e170, 1e307]}.items():
        for size in sizes:
            p = np.ones((4, 4), dtype)
            run("LARS", backend, p, [np.full((4, 4), size)] * 2)
            v = 0.1 * 0.001
            np.testing.assert_allclose(p, 1 - v - (0.9 * v + v * (1 - v)), rtol=1e-7)


def test_lars_beyond_the_range_of_a_coefficient(backend: Any) -> None:
    """A ratio of norms that is no number of float64, nor the step without it."""
    p = np.full(4, 1e250, np.float64)
    run("LARS", backend, p, [np.array([1e-250, 0, 0, 0])])
    expected: Array = 1e250 * np.array([1 - 0.1 * 0.001 * 2, 1, 1, 1])
    np.testing.assert_allclose(p, expected, rtol=1e-12)


def test_lamb_with_a_tiny_gradient(backend: Any) -> None:
    """Along which it steps lr·|p| whatever its size, if nothing decays."""
    sizes: list[tuple[Any, float]] = [(np.float32, 1e-44), (np.float64, 1e-170), (np.float64, 1e-300)]
    for dtype, size in sizes:
        for eps in (1e-6, 1.0):
            p = np.full(4, 100, dtype)
            run("LAMB", backend, p, [np.full(4, size)], weight_decay=0.0, eps=eps)
            np.testing.assert_allclose(p, 100 - 0.1, rtol=1e-6)


def test_novograd_begins_anew_where_no_number_holds_v(backend: Any) -> None:
    """A spike is divided by its own norm, and forgotten."""
    p, spike = np.ones(4), np.full(4, 1e200, np.float64)
    opt = run("NovoGrad", backend, p, [spike])
    np.testing.assert_allclose(p, 1 - 0.001 * 0.5, rtol=1e-12)
    assert opt.state["v"] == 0
    opt.step(np.full(4, 3.0))
    assert opt.state["v"] == 36
    opt.step(spike)
    assert opt.state["v"] == 0
    assert np.isfinite(p).all()


def test_sums_of_parts_add_up() -> None:
    """Those of the parts of a tensor, of which each is in the range that it needs."""
    x = np.array([[1e-200, 2e-200], [3.0, 0.0], [4.0, 0.0], [2e200, 1e200], [1e200, 2e200]])

    def sums(part: Array) -> Array:
        seen: list[Any] = []

        class Watched(fs.NovoGrad):
            @classmethod
            def adapt(cls, h: Any, t: int, measured: Any) -> Any:
                seen.extend(measured.sums)
                return super().adapt(h, t, measured)

        opt = Watched(np.ones(part.size))
        opt.step(part)
        return np.array(seen)

    parts = [sums(part) for part in x]
    for together, norm in (((0,), math.sqrt(5) * 1e-200), ((0, 1, 2), 5.0), ((1, 2), 5.0)):
        total = np.sum([parts[i] for i in together], axis=0)
        (found,) = Measured(np.ones(1), list(total), {}).norms()
        assert found[0] == pytest.approx(norm, rel=1e-15)
    (found,) = Measured(np.ones(1), list(np.sum(parts, axis=0)), {}).norms(of=2.5)
    assert found[0] == pytest.approx(2e200, rel=1e-15)


# --- Signs ---


@pytest.mark.parametrize(("dtype", "tiny"), [(np.float32, 1e-23), (np.float32, 1e-44), (np.float64, 1e-300)])
def test_rprop_sees_signs_where_products_underflow(dtype: Any, tiny: float, backend: Any) -> None:
    p = np.zeros(2, dtype)
    opt = run("Rprop", backend, p, [np.array([tiny, tiny]), np.array([tiny, -tiny])], lr=0.01)
    np.testing.assert_allclose(opt.state["step"], [0.012, 0.005], rtol=1e-6)
    np.testing.assert_allclose(p, [-0.022, -0.01], rtol=1e-6)

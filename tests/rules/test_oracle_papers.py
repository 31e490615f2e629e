"""Ten rules against their papers: Nesterov's three lines, steps worked by hand, formulas on Python floats."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fusedstep as fs

Array = np.ndarray[Any, Any]
State = defaultdict[str, float]

RULES = [
    "SGD",
    "Momentum",
    "EMAMomentum",
    "Nesterov",
    "Adagrad",
    "RMSProp",
    "Adam",
    "AdamW",
    "RAdam",
    "Eve",
]
LOSSES = [3.0, 2.9, 1.2, 1.3, 9.0, 0.8, 0.7, 0.75]  # Eve's change of loss, below, within and above its bounds


@pytest.fixture(params=["native", "numpy"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def loss(t: int) -> float:
    return LOSSES[t % len(LOSSES)]


# Nesterov, by its three lines.


def gradient(x: Array) -> Array:
    """Of log(cosh(sum(x))) + sum(x**4) / 4."""
    return np.asarray(np.tanh(x.sum()) + x**3)


@pytest.mark.parametrize(
    "momentum",
    [
        pytest.param(lambda _: 0.9, id="constant"),
        pytest.param(lambda t: 1 - 3 / (t + 5), id="rising"),
        pytest.param(lambda t: (0.9, 0.0, 0.5)[t % 3], id="jumping"),
    ],
)
@pytest.mark.parametrize(
    "lr", [pytest.param(lambda _: 0.02, id="lr"), pytest.param(lambda t: 0.05 / t, id="falling_lr")]
)
def test_nesterov_is_its_three_lines(
    momentum: Callable[[int], float], lr: Callable[[int], float], backend: Any
) -> None:
    """The parameter stands where the next gradient is wanted: x + mu·v with the mu of the next step."""
    x = np.linspace(-1.5, 2.0, 7)
    v = np.zeros_like(x)
    p = x.copy()
    opt = fs.Nesterov({"w": p}, lr=lr, momentum=momentum, backend=backend)
    for t in range(1, 41):
        opt.step({"w": gradient(p)})
        x_ahead = x + momentum(t) * v
        v = momentum(t) * v - lr(t) * gradient(x_ahead)
        x += v
        np.testing.assert_allclose(opt.state["w"]["v"], v, rtol=1e-11, atol=1e-14)
        np.testing.assert_allclose(p, x + momentum(t + 1) * v, rtol=1e-11, atol=1e-14)


def test_nesterov_with_momentum_assigned(backend: Any) -> None:
    """The point ahead was chosen with the momentum before; from there the path goes on with the new one."""
    x = np.linspace(-1.5, 2.0, 7)
    v = np.zeros_like(x)
    p = x.copy()
    opt = fs.Nesterov({"w": p}, lr=0.02, momentum=0.9, backend=backend)
    x_ahead = x
    for mu in np.repeat([0.9, 0.5, 0.0, 0.95], 5).tolist():
        opt.momentum = mu
        opt.step({"w": gradient(p)})
        v = mu * v - 0.02 * gradient(x_ahead)
        x = x + v
        x_ahead = x + mu * v
        np.testing.assert_allclose(p, x_ahead, rtol=1e-11, atol=1e-14)


# Worked by hand, from p = 1, with roots that come out even.

QUARTER = {"lr": 1 / 4}
HALF_MOMENTUM = {"lr": 1 / 4, "momentum": 1 / 2}
UNIT = {"lr": 1, "eps": 1}
RHO = {"lr": 1, "rho": 3 / 4, "eps": 1}
# With beta2 = 24/25 the corrections are 1/25 and 49/625, with roots 1/5 and 7/25; for beta1, 1/2 and 3/4.
# From gradients 10, 5:  m = 5, 5 and m̂ = 10, 20/3;  v = 4, 121/25 with roots 2, 11/5;  √v̂ = 10, 55/7.
BETAS = {"beta1": 1 / 2, "beta2": 24 / 25}
ADAM = {**UNIT, **BETAS}

HAND = [
    # 1 - 2/4 = 1/2;  1/2 + 4/4 = 3/2
    pytest.param("SGD", QUARTER, [2, -4], [1 / 2, 3 / 2], id="sgd"),
    # v is 0 - 2/4 = -1/2, then -1/4 + 1 = 3/4;  p is 1 - 1/2 = 1/2, then 1/2 + 3/4 = 5/4
    pytest.param("Momentum", HALF_MOMENTUM, [2, -4], [1 / 2, 5 / 4], id="momentum"),
    # m is 2/2 = 1, then 1/2 - 4/2 = -3/2;  p is 1 - 1/4 = 3/4, then 3/4 + 3/8 = 9/8
    pytest.param("EMAMomentum", HALF_MOMENTUM, [2, -4], [3 / 4, 9 / 8], id="ema"),
    # v is -1/2, then -1/4 + 1 = 3/4;  x is 1/2, then 5/4;  x + v/2 is 1/4, then 5/4 + 3/8 = 13/8
    pytest.param("Nesterov", HALF_MOMENTUM, [2, -4], [1 / 4, 13 / 8], id="nesterov"),
    # √s is 3, then √(9 + 16) = 5;  p is 1 - 3/(3 + 1) = 1/4, then 1/4 - 4/(5 + 1) = -5/12
    pytest.param("Adagrad", UNIT, [3, 4], [1 / 4, -5 / 12], id="adagrad"),
    # the second step is divided by 1 + 1/2:  1/4 - 2/3 · 2/3 = -7/36
    pytest.param("Adagrad", {**UNIT, "lr_decay": 1 / 2}, [3, 4], [1 / 4, -7 / 36], id="adagrad-lr_decay"),
    # √(s/t) is 1, then √((1 + 49)/2) = 5;  p is 1 - 1/2 = 1/2, then 1/2 - 7/6 = -2/3
    pytest.param("Adagrad", {**UNIT, "mean": True}, [1, 7], [1 / 2, -2 / 3], id="adagrad-mean"),
    # √s is √(16 + 9) = 5, then √(25 + 144) = 13;  p is 1 - 3/6 = 1/2, then 1/2 - 12/14 = -5/14
    pytest.param(
        "Adagrad", {**UNIT, "initial_accumulator": 16}, [3, 12], [1 / 2, -5 / 14], id="adagrad-initial"
    ),
    # s is 36/4 = 9, then 27/4 + 169/4 = 49;  p is 1 - 6/(3 + 1) = -1/2, then -1/2 - 13/(7 + 1) = -17/8
    pytest.param("RMSProp", RHO, [6, 13], [-1 / 2, -17 / 8], id="rmsprop"),
    # b is 6/4 = 3/2, then 3/4 + 13/8 = 19/8;  p is 1 - 3/2 = -1/2, then -1/2 - 19/8 = -23/8
    pytest.param("RMSProp", {**RHO, "momentum": 1 / 2}, [6, 13], [-1 / 2, -23 / 8], id="rmsprop-momentum"),
    # √(s + 16) is √25 = 5, then √(27/4 + 2025/4 + 16) = √529 = 23
    # p is 1 - 6/5 = -1/5, then -1/5 - 45/23 = -248/115
    pytest.param(
        "RMSProp",
        {**RHO, "eps": 16, "eps_inside": True},
        [6, 45],
        [-1 / 5, -248 / 115],
        id="rmsprop-eps_inside",
    ),
    # s - a² is 8 - 2² = 4, then 4 + 9/2 - (1 + 3/2)² = 9/4, with roots 2 and 3/2
    # p is 1 - 4/(2 + 1/2) = -3/5, then -3/5 - 3/(3/2 + 1/2) = -21/10
    pytest.param(
        "RMSProp",
        {"lr": 1, "rho": 1 / 2, "eps": 1 / 2, "centered": True},
        [4, 3],
        [-3 / 5, -21 / 10],
        id="rmsprop-centered",
    ),
    # 1 - 10/(10 + 1) = 1/11;  1/11 - 20/3 / (55/7 + 1) = 1/11 - 70/93 = -677/1023
    pytest.param("Adam", ADAM, [10, 5], [1 / 11, -677 / 1023], id="adam"),
    # 1 - 5/(2 + 1) = -2/3;  -2/3 - 5/(11/5 + 1) = -2/3 - 25/16 = -107/48
    pytest.param(
        "Adam", {**ADAM, "bias_correction": False}, [10, 5], [-2 / 3, -107 / 48], id="adam-uncorrected"
    ),
    # 1 - (1/5)/(1/2) · 5/(2 + 1) = 1/3;  1/3 - (7/25)/(3/4) · 5/(11/5 + 1) = 1/3 - 7/12 = -1/4
    pytest.param("Adam", {**ADAM, "eps_hat": True}, [10, 5], [1 / 3, -1 / 4], id="adam-eps_hat"),
    # after a zero gradient m is 5/2, m̂ is 10/3, and the largest v is still 4, with √v̂ = 2/(7/25) = 50/7
    # 1/11 - 10/3 / (50/7 + 1) = 1/11 - 70/171 = -599/1881
    pytest.param("Adam", {**ADAM, "amsgrad": True}, [10, 0], [1 / 11, -599 / 1881], id="adam-amsgrad"),
    # p shrinks by 1 - 1/4 each step, and half of Adam's step is taken
    # 3/4 - 5/11 = 13/44;  13/44 · 3/4 - 35/93 = 39/176 - 35/93 = -2533/16368
    pytest.param(
        "AdamW",
        {**ADAM, "lr": 1 / 2, "weight_decay": 1 / 2},
        [10, 5],
        [13 / 44, -2533 / 16368],
        id="adamw",
    ),
    # ρ∞ is 49, and ρ is 49 - 48 = 1, then 49 - 4 · 576/49 = 97/49: no denominator yet
    # 1 - 10/4 = -3/2;  -3/2 - 20/12 = -19/6
    pytest.param("RAdam", {**ADAM, "lr": 1 / 4}, [10, 5], [-3 / 2, -19 / 6], id="radam"),
    # m̂ = √v̂ = 3 all along, so each step is 3/4 / d; the losses are 5, 6, 3, 3/2, and f* is 1
    # d̂ is 1/4, raised to 1/2;  3/2;  3, lowered to 2
    # d is 1;  (1 + 1/2)/2 = 3/4;  (3/4 + 3/2)/2 = 9/8;  (9/8 + 2)/2 = 25/16
    # p is 1 - 3/4 = 1/4;  1/4 - 1 = -3/4;  -3/4 - 2/3 = -17/12;  -17/12 - 12/25 = -569/300
    pytest.param(
        "Eve",
        {**ADAM, "beta3": 1 / 2, "c": 2, "f_star": 1},
        [3, 3, 3, 3],
        [1 / 4, -3 / 4, -17 / 12, -569 / 300],
        id="eve",
    ),
]


@pytest.mark.parametrize(("rule", "options", "gradients", "expected"), HAND)
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-13), ("float32", 2e-6)])
def test_worked_by_hand(
    rule: str,
    options: dict[str, Any],
    gradients: list[float],
    expected: list[float],
    dtype: str,
    rtol: float,
    backend: Any,
) -> None:
    p = np.ones(19, dtype)
    opt = getattr(fs, rule)({"w": p}, backend=backend, **options)
    for g, f, value in zip(gradients, [5, 6, 3, 3 / 2], expected, strict=False):
        opt.step({"w": np.full_like(p, g)}, loss=f)
        np.testing.assert_allclose(p, value, rtol=rtol)


# The papers' formulas, for one number. `s` is what a rule remembers, all zero before the first step.


def sgd(p: float, g: float, _t: int, h: Any, _s: State) -> float:
    return p - float(h.lr) * g


def momentum(p: float, g: float, _t: int, h: Any, s: State) -> float:
    s["v"] = h.momentum * s["v"] - h.lr * g
    return p + s["v"]


def ema_momentum(p: float, g: float, _t: int, h: Any, s: State) -> float:
    s["m"] = h.momentum * s["m"] + (1 - h.momentum) * g
    return p - float(h.lr) * s["m"]


def nesterov(p: float, g: float, _t: int, h: Any, s: State) -> float:
    x = p - h.momentum * s["v"]
    s["v"] = h.momentum * s["v"] - h.lr * g
    x += s["v"]
    return float(x + h.momentum * s["v"])


def adagrad(p: float, g: float, t: int, h: Any, s: State) -> float:
    s["sum"] += g**2
    total = h.initial_accumulator + s["sum"]
    lr = h.lr / (1 + (t - 1) * h.lr_decay)
    return float(p - lr * g / (math.sqrt(total / t if h.mean else total) + h.eps))


def rmsprop(p: float, g: float, _t: int, h: Any, s: State) -> float:
    s["square"] = h.rho * s["square"] + (1 - h.rho) * g**2
    s["mean"] = h.rho * s["mean"] + (1 - h.rho) * g
    spread = s["square"] - s["mean"] ** 2 if h.centered else s["square"]
    root = math.sqrt(spread + h.eps) if h.eps_inside else math.sqrt(spread) + h.eps
    s["b"] = h.momentum * s["b"] + g / root
    return p - float(h.lr) * s["b"]


def moments(g: float, h: Any, s: State) -> tuple[float, float]:
    s["m"] = h.beta1 * s["m"] + (1 - h.beta1) * g
    s["v"] = h.beta2 * s["v"] + (1 - h.beta2) * g**2
    return s["m"], s["v"]


def adam(p: float, g: float, t: int, h: Any, s: State) -> float:
    m, v = moments(g, h, s)
    if h.amsgrad:
        v = s["largest v"] = max(s["largest v"], v)
    if not h.bias_correction:
        return float(p - h.lr * m / (math.sqrt(v) + h.eps))
    if h.eps_hat:
        lr = h.lr * math.sqrt(1 - h.beta2**t) / (1 - h.beta1**t)
        return float(p - lr * m / (math.sqrt(v) + h.eps))
    m_hat = m / (1 - h.beta1**t)
    v_hat = v / (1 - h.beta2**t)
    return float(p - h.lr * m_hat / (math.sqrt(v_hat) + h.eps))


def radam(p: float, g: float, t: int, h: Any, s: State) -> float:
    m, v = moments(g, h, s)
    m_hat = m / (1 - h.beta1**t)
    longest = 2 / (1 - h.beta2) - 1
    length = longest - 2 * t * h.beta2**t / (1 - h.beta2**t)
    if length <= 5:
        return float(p - h.lr * m_hat)
    r = math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
    return float(p - h.lr * r * m_hat * math.sqrt(1 - h.beta2**t) / (math.sqrt(v) + h.eps))


def eve(p: float, g: float, t: int, h: Any, s: State) -> float:
    f, f_before = loss(t), loss(t - 1)
    if t == 1:
        s["d"] = 1.0
    else:
        d_hat = abs(f - f_before) / (min(f, f_before) - h.f_star)
        s["d"] = h.beta3 * s["d"] + (1 - h.beta3) * min(max(d_hat, 1 / h.c), h.c)
    return adam(p, g, t, SimpleNamespace(**{**vars(h), "lr": h.lr / s["d"]}), s)


FORMULAS = {
    "SGD": sgd,
    "Momentum": momentum,
    "EMAMomentum": ema_momentum,
    "Nesterov": nesterov,
    "Adagrad": adagrad,
    "RMSProp": rmsprop,
    "Adam": adam,
    "AdamW": adam,
    "RAdam": radam,
    "Eve": eve,
}
BASE = {"l1": 0.0, "l2": 0.0, "weight_decay": 0.0, "maximize": False}
ADAMS = {
    **BASE,
    "lr": 1e-3,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-8,
    "amsgrad": False,
    "bias_correction": True,
    "eps_hat": False,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "SGD": {**BASE, "lr": 0.01},
    "Momentum": {**BASE, "lr": 0.01, "momentum": 0.9},
    "EMAMomentum": {**BASE, "lr": 0.01, "momentum": 0.9},
    "Nesterov": {**BASE, "lr": 0.01, "momentum": 0.9},
    "Adagrad": {
        **BASE,
        "lr": 0.01,
        "lr_decay": 0.0,
        "eps": 1e-8,
        "initial_accumulator": 0.0,
        "mean": False,
    },
    "RMSProp": {
        **BASE,
        "lr": 1e-3,
        "rho": 0.9,
        "eps": 1e-8,
        "momentum": 0.0,
        "centered": False,
        "eps_inside": False,
    },
    "Adam": ADAMS,
    "AdamW": {**ADAMS, "weight_decay": 0.01},
    "RAdam": {**BASE, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "Eve": {**ADAMS, "beta3": 0.999, "c": 10.0, "f_star": 0.0},
}
PROLOGUE = {
    "lr": lambda t: 0.05 / (1 + 0.1 * t),
    "l1": 0.02,
    "l2": 0.1,
    "weight_decay": 0.3,
    "maximize": True,
}
ADAM_OPTIONS: list[dict[str, Any]] = [
    {},
    {"lr": 0.02, "beta1": 0.8, "beta2": 0.9, "eps": 0.1},
    {"beta1": 0.0, "beta2": 0.5, "amsgrad": True, "eps": 0.1},
    {"bias_correction": False},
    {"bias_correction": False, "beta2": 0.5, "amsgrad": True},
    {"eps_hat": True, "eps": 0.1},
    {"eps_hat": True, "eps": 0.1, "beta2": 0.5, "amsgrad": True},
]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"lr": 0.3}],
    "Momentum": [{}, {"lr": 0.3, "momentum": 0.5}, {"momentum": lambda t: 1 - 1 / t}],
    "EMAMomentum": [{}, {"lr": 0.3, "momentum": 0.5}, {"momentum": lambda t: 1 - 1 / t}],
    "Nesterov": [{}, {"lr": 0.3, "momentum": 0.5}],
    "Adagrad": [
        {},
        {"lr": 0.3, "lr_decay": 0.2, "eps": 0.1},
        {"initial_accumulator": 0.4},
        {"mean": True, "eps": 0.1},
        {"mean": True, "initial_accumulator": 0.4, "lr_decay": 0.2},
    ],
    "RMSProp": [
        {"eps": 0.1, **dict(zip(("momentum", "centered", "eps_inside"), choice, strict=True))}
        for choice in itertools.product((0.0, 0.7), (False, True), (False, True))
    ]
    + [{}, {"lr": 0.02, "rho": 0.5}, {"rho": lambda t: 1 - 1 / (t + 1), "eps": lambda t: 0.1 / t}],
    "Adam": ADAM_OPTIONS,
    "AdamW": [*ADAM_OPTIONS, {"weight_decay": 0.5, "lr": 0.1}],
    "RAdam": [
        {},
        {"lr": 0.02, "beta1": 0.8, "beta2": 0.9, "eps": 0.1},
        {"beta2": 0.99},
        {"beta2": 0.6},
        {"beta2": 0.3},
    ],
    "Eve": [
        *ADAM_OPTIONS,
        {"lr": 0.02, "beta3": 0.6},
        {"lr": 0.02, "beta3": 0.0, "c": 3.0},
        {"lr": 0.02, "beta3": 0.6, "c": 2.0, "f_star": 0.5},
        {"lr": 0.02, "beta3": 0.6, "f_star": -2.0},
        {"lr": 0.02, "beta3": lambda t: 1 / (t + 1), "c": lambda t: 1 + t},
    ],
}


def describe(options: dict[str, Any]) -> str:
    shown = (f"{name}={'schedule' if callable(value) else value}" for name, value in options.items())
    return ",".join(shown) or "defaults"


def draw(steps: int = 20) -> tuple[Array, Array]:
    """Parameters, the first of which stays at zero for want of a gradient, and gradients by step."""
    rng = np.random.default_rng(11)
    gradients = rng.standard_normal((steps, 5))
    gradients[:, 0] = 0
    return np.array([0.0, 1.5, -2.0, 0.3, -0.7]), gradients


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        pytest.param(rule, options, id=f"{rule}-{describe(options)}")
        for rule, choices in OPTIONS.items()
        for options in choices
    ],
)
@pytest.mark.parametrize("common", [{}, PROLOGUE], ids=["plain", "prologue"])
def test_formula(rule: str, options: dict[str, Any], common: dict[str, Any], backend: Any) -> None:
    p, gradients = draw()
    opt = getattr(fs, rule)({"w": p}, backend=backend, **{**common, **options})
    values: list[float] = p.tolist()
    states = [State(float) for _ in values]
    scale = 0.5 if common else 1.0
    for t, gs in enumerate(gradients, 1):
        at_t = {
            name: value(t) if callable(value) else value
            for name, value in {**DEFAULTS[rule], **common, **options}.items()
        }
        h = SimpleNamespace(**at_t)
        for i, (x, g) in enumerate(zip(values, gs.tolist(), strict=True)):
            sign = (x > 0) - (x < 0)
            total = (-scale if h.maximize else scale) * g + h.l2 * x + h.l1 * sign
            values[i] = FORMULAS[rule](x - h.lr * h.weight_decay * x, total, t, h, states[i])
        opt.step({"w": gs}, scale=scale, loss=loss(t))
        np.testing.assert_allclose(p, values, rtol=1e-12, atol=1e-15, err_msg=f"step {t}")


# The prologue.


@pytest.mark.parametrize(
    ("options", "scale", "p", "g", "expected"),
    [
        # g is 1 + 1/2 · sign(p), and p moves by a quarter of it
        pytest.param(
            {"l1": 1 / 2}, 1, [2, -2, 0, -0.0], [1, 1, 1, 1], [13 / 8, -17 / 8, -1 / 4, -1 / 4], id="l1"
        ),
        # g is 1 + p/2
        pytest.param({"l2": 1 / 2}, 1, [2, -2, 0], [1, 1, 1], [3 / 2, -2, -1 / 4], id="l2"),
        # g is 1 + p/2 + 1/2 · sign(p)
        pytest.param(
            {"l1": 1 / 2, "l2": 1 / 2}, 1, [2, -2, 0], [1, 1, 1], [11 / 8, -15 / 8, -1 / 4], id="l1-l2"
        ),
        # p shrinks by 1 - 1/8, then moves by 1/2
        pytest.param(
            {"weight_decay": 1 / 2}, 1, [2, -2, 0], [2, 2, 2], [5 / 4, -9 / 4, -1 / 2], id="decoupled"
        ),
        # g is 1/2 · 2 + p/4: the scale is on the gradient alone
        pytest.param({"l2": 1 / 4}, 1 / 2, [1, -1], [2, 2], [11 / 16, -19 / 16], id="scale-l2"),
        # g is -1/2 · 2 + p/4 + 1/4 · sign(p): maximizing turns the gradient alone
        pytest.param(
            {"l1": 1 / 4, "l2": 1 / 4, "maximize": True},
            1 / 2,
            [1, -1],
            [2, 2],
            [9 / 8, -5 / 8],
            id="maximize",
        ),
        # g is 2/2 + 1/2, from the p before it shrinks:  2 · 7/8 - 3/8 = 11/8
        pytest.param({"l1": 1 / 2, "l2": 1 / 2, "weight_decay": 1 / 2}, 1, [2], [0], [11 / 8], id="order"),
    ],
)
def test_prologue_by_hand(
    options: dict[str, Any], scale: float, p: list[float], g: list[float], expected: list[float], backend: Any
) -> None:
    w = np.array(p, float)
    fs.SGD(w, lr=1 / 4, backend=backend, **options).step(np.array(g, float), scale=scale)
    np.testing.assert_allclose(w, expected, rtol=1e-15)


def test_decoupled_decay_follows_the_lr(backend: Any) -> None:
    """1 · (1 - 1/4) = 3/4;  3/4 · (1 - 1/8) = 21/32;  21/32 · (1 - 1/2) = 21/64."""
    w = np.ones(3)
    opt = fs.SGD(w, lr=lambda t: (1 / 2, 1 / 4, 1)[t - 1], weight_decay=1 / 2, backend=backend)
    for expected in (3 / 4, 21 / 32, 21 / 64):
        opt.step(np.zeros(3))
        np.testing.assert_allclose(w, expected, rtol=1e-15)


def run(
    rule: str, backend: Any, *, scale: float = 1.0, factor: float = 1.0, steps: int = 20, **options: Any
) -> Array:
    """The path of the parameters under `factor` times the same gradients."""
    p, gradients = draw(steps)
    opt = getattr(fs, rule)({"w": p}, backend=backend, **options)
    path = []
    for t, g in enumerate(gradients, 1):
        opt.step({"w": factor * g}, scale=scale, loss=loss(t))
        path.append(p.copy())
    return np.array(path)


@pytest.mark.parametrize("rule", RULES)
def test_decay_outside_the_rule(rule: str, backend: Any) -> None:
    """Any rule decays as if the gradient and the parameter had been changed before it."""
    l1, l2, weight_decay = 0.02, 0.1, 0.3

    def lr(t: int) -> float:
        return 0.05 / (1 + 0.1 * t)

    path = run(rule, backend, lr=lr, l1=l1, l2=l2, weight_decay=weight_decay)
    p, gradients = draw()
    plain = getattr(fs, rule)({"w": p}, lr=lr, weight_decay=0.0, backend=backend)
    for t, g in enumerate(gradients, 1):
        decayed = g + l2 * p + l1 * np.sign(p)
        p *= 1 - lr(t) * weight_decay
        plain.step({"w": decayed}, loss=loss(t))
        np.testing.assert_allclose(path[t - 1], p, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rule", RULES)
def test_maximize_is_the_negated_gradient(rule: str, backend: Any) -> None:
    decay: dict[str, Any] = {"l1": 0.02, "l2": 0.1, "weight_decay": 0.3}
    up, down = run(rule, backend, maximize=True, **decay), run(rule, backend, factor=-1.0, **decay)
    np.testing.assert_array_equal(up, down)


@pytest.mark.parametrize("rule", RULES)
def test_scale_multiplies_the_gradient(rule: str, backend: Any) -> None:
    options: dict[str, Any] = {"eps": 0.1} if "eps" in DEFAULTS[rule] else {}
    scaled, multiplied = run(rule, backend, scale=0.3, **options), run(rule, backend, factor=0.3, **options)
    np.testing.assert_allclose(scaled, multiplied, rtol=1e-14, atol=1e-16)


# What makes the comparisons worth something.


def test_rules_differ(backend: Any) -> None:
    """Far more than the tolerance of any comparison with them."""
    paths = {rule: run(rule, backend, lr=0.01, steps=60) for rule in RULES}
    for one, other in itertools.combinations(RULES, 2):
        assert np.abs(paths[one] - paths[other]).max() > 1e-3, (one, other)

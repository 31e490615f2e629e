"""The rules with a paper of their own against their authors' libraries, other libraries, and their papers.

Every step is compared element by element in float64, with tensors of several shapes, one of them zero at the
start, and gradients that change in size, vanish for a step, and are zero throughout for one element. Where a
library's convention is another one, its numbers are reproduced with the option or the change of input that
bridges it, and the docstring of the test says which.
"""

from __future__ import annotations

import importlib.util
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fusedstep as fs

Array = np.ndarray[Any, Any]
Tree = dict[str, Array]
State = defaultdict[str, Any]
Options = dict[str, Any]
Snapshot = tuple[Tree, dict[str, Tree]]  # the parameters and, by our names, some of the state
Oracle = Callable[[Tree, list[Tree]], list[Snapshot]]  # what is to be there after each step

BACKENDS = ("native", "numpy")
STEPS = 20
SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 9), "b": (5,), "k": (2, 3, 7), "o": (1,)}
SIZES = [1, 1e-4, 30, 1, 0, 1e-2, 1, 5]  # of the gradients, by step
RTOL = 1e-11  # a few thousand roundings; what is compared with a larger one says why


@pytest.fixture(autouse=True)
def _torch_in_float64() -> Iterator[None]:
    """Torch optimizers keep what is one number in the default dtype."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


def rough() -> tuple[Tree, list[Tree]]:
    """Gradients of all sizes, zero now and then; `o` starts at zero, `b` gets no gradient at first."""
    rng = np.random.default_rng(5)
    p = {name: np.asarray(rng.standard_normal(shape)) for name, shape in SHAPES.items()}
    p["o"][:] = 0
    gradients = []
    for t in range(STEPS):
        g = {name: SIZES[t % len(SIZES)] * rng.standard_normal(shape) for name, shape in SHAPES.items()}
        g["w"][1, 2] = 0
        if t < 2:
            g["b"][:] = 0
        gradients.append(g)
    return p, gradients


def even() -> tuple[Tree, list[Tree]]:
    """Gradients between 1/2 and 2 in size, zero for one element; no tensor is zero."""
    rng = np.random.default_rng(6)
    p = {name: np.asarray(rng.standard_normal(shape)) for name, shape in SHAPES.items()}
    gradients = []
    for _ in range(STEPS):
        g = {
            name: rng.uniform(0.5, 2, shape) * rng.choice([-1.0, 1.0], shape)
            for name, shape in SHAPES.items()
        }
        g["w"][1, 2] = 0
        gradients.append(g)
    return p, gradients


def copied(tree: Tree) -> Tree:
    return {name: np.array(x) for name, x in tree.items()}


def close(actual: Any, expected: Any, rtol: float, what: str) -> None:
    """Within `rtol`, and for what has cancelled to less than a hundredth of the largest, of that."""
    size = np.abs(expected)
    atol = rtol * max(1.0, float(size.max())) / 100
    actual = np.reshape(np.asarray(actual), np.shape(expected))
    if not (np.abs(actual - expected) <= atol + rtol * size).all():
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol, err_msg=what)
        pytest.fail(what)


def check(
    rule: str,
    options: Options,
    oracle: Oracle,
    problem: Callable[[], tuple[Tree, list[Tree]]] = rough,
    rtol: float = RTOL,
) -> None:
    """Step with both backends and compare with the oracle after each step."""
    p, gradients = problem()
    expected = oracle(copied(p), [copied(g) for g in gradients])
    assert len(expected) == len(gradients) >= 20
    for backend in BACKENDS:
        q = copied(p)
        opt = getattr(fs, rule)(q, backend=backend, **options)
        for t, (g, (values, state)) in enumerate(zip(gradients, expected, strict=True), 1):
            opt.step(copied(g))
            for name, value in values.items():
                close(q[name], value, rtol, f"{name} at step {t}, {backend}")
                for slot, arrays in state.items():
                    actual = opt.state[name][slot]
                    close(actual, arrays[name], rtol, f"{slot} of {name} at step {t}, {backend}")


def at(options: Options, t: int) -> Any:
    """The hyperparameters of step `t`."""
    return SimpleNamespace(**{key: value(t) if callable(value) else value for key, value in options.items()})


# Oracles.


def array(tensor: Any, shape: tuple[int, ...]) -> Array:
    return np.asarray(tensor.numpy().copy().reshape(shape))


def peer(
    library: str,
    rule: str,
    slots: dict[str, str] | None = None,
    before: Callable[[int, Any, dict[str, Any]], None] = lambda *_: None,
    *,
    column: bool = False,
    **options: Any,
) -> Oracle:
    """An optimizer for torch's tensors; `before` prepares a step, `column` makes every tensor a matrix."""

    def run(p: Tree, gradients: list[Tree]) -> list[Snapshot]:
        torch: Any = pytest.importorskip("torch")
        module: Any = torch.optim if library == "torch" else pytest.importorskip(library)
        shape = {name: (-1, 1) if column else x.shape for name, x in p.items()}
        q = {name: torch.tensor(x.reshape(shape[name])) for name, x in p.items()}
        opt = getattr(module, rule)(list(q.values()), **options)
        if hasattr(opt, "train"):
            opt.train()
        path: list[Snapshot] = []
        for t, g in enumerate(gradients, 1):
            for name, x in q.items():
                x.grad = torch.tensor(g[name].reshape(shape[name]))
            before(t, opt, q)
            opt.step()
            state = {
                slot: {name: array(opt.state[x][key], p[name].shape) for name, x in q.items()}
                for slot, key in (slots or {}).items()
            }
            path.append(({name: array(x, p[name].shape) for name, x in q.items()}, state))
        return path

    return run


def optax_rule(
    make: Callable[[Any], Any],
    slots: Callable[[Any], dict[str, Any]] = lambda _: {},
    finish: Callable[[int, Array], Array] = lambda _, p: p,
    *,
    by_tensor: bool = False,
) -> Oracle:
    """An optimizer of optax; `finish` changes the parameters after a step.

    A rule that does not go by tensor sees one vector, for which jax compiles each operation once.
    """

    def run(p: Tree, gradients: list[Tree]) -> list[Snapshot]:
        jax: Any = pytest.importorskip("jax")
        optax: Any = pytest.importorskip("optax")
        pytest.importorskip("optax.contrib")
        ends = np.cumsum([x.size for x in p.values()])[:-1]

        def given(tree: Tree) -> dict[str, Any]:
            joined = tree if by_tensor else {"": np.concatenate([x.ravel() for x in tree.values()])}
            return {name: jax.numpy.asarray(x) for name, x in joined.items()}

        def taken(tree: dict[str, Any]) -> Tree:
            if by_tensor:
                return copied(tree)
            parts = np.split(np.array(tree[""]), ends)
            return {name: part.reshape(x.shape) for (name, x), part in zip(p.items(), parts, strict=True)}

        path: list[Snapshot] = []
        with jax.enable_x64(True):
            opt = make(optax)
            q = given(p)
            state = opt.init(q)
            for t, g in enumerate(gradients, 1):
                updates, state = opt.update(given(g), state, q)
                values = {name: finish(t, x) for name, x in taken(optax.apply_updates(q, updates)).items()}
                q = given(values)
                path.append((values, {slot: taken(tree) for slot, tree in slots(state).items()}))
        return path

    return run


def formula(rule: str, options: Options) -> Oracle:
    """What the paper says, in NumPy; before it the decays that every rule has."""

    def run(p: Tree, gradients: list[Tree]) -> list[Snapshot]:
        states: dict[str, State] = {name: State(float) for name in p}
        path: list[Snapshot] = []
        for t, gs in enumerate(gradients, 1):
            h = at({**BASE, **DEFAULTS[rule], **options}, t)
            for name, x in p.items():
                g = -gs[name] if h.maximize else gs[name]
                if rule != "Ftrl":
                    g = g + h.l2 * x + h.l1 * np.sign(x)
                start = x if rule in OWN_DECAY else x * (1 - h.lr * h.weight_decay)
                p[name] = FORMULAS[rule](start, g, t, h, states[name])
            slots = {
                slot: {name: np.array(states[name][slot], float) for name in p} for slot in COMPARED[rule]
            }
            path.append((copied(p), slots))
        return path

    return run


# The papers' formulas. `s` is what a rule remembers, zero before the first step.


def moments(g: Array, h: Any, s: State) -> None:
    s["m"] = h.beta1 * s["m"] + (1 - h.beta1) * g
    s["v"] = h.beta2 * s["v"] + (1 - h.beta2) * g**2


def cautiously(step: Array, g: Array, h: Any) -> Any:
    if not h.cautious:
        return step
    keep = np.sign(step) * g > 0
    return step * keep / max(keep.mean(), 1e-3)


def ftrl(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    """Algorithm 1 of McMahan et al. 2013, with a general power."""
    n = s["n"] if t > 1 else np.full_like(p, h.initial_accumulator)
    sigma = ((n + g**2) ** -h.lr_power - n**-h.lr_power) / h.lr
    s["z"] = s["z"] + g - sigma * p
    s["n"] = n + g**2
    denominator = (h.beta + s["n"] ** -h.lr_power) / h.lr + h.l2
    return np.where(np.abs(s["z"]) <= h.l1, 0.0, -(s["z"] - np.sign(s["z"]) * h.l1) / denominator)


def sign_sgd(p: Array, g: Array, _t: int, h: Any, _s: State) -> Any:
    return p - h.lr * np.sign(g)


def signum(p: Array, g: Array, _t: int, h: Any, s: State) -> Any:
    s["m"] = h.momentum * s["m"] + (1 - h.momentum) * g
    return p - h.lr * np.sign(s["m"])


def lion(p: Array, g: Array, _t: int, h: Any, s: State) -> Any:
    c = h.beta1 * s["m"] + (1 - h.beta1) * g
    s["m"] = h.beta2 * s["m"] + (1 - h.beta2) * g
    return p - h.lr * cautiously(np.sign(c), g, h)


def adabelief(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    s["m"] = h.beta1 * s["m"] + (1 - h.beta1) * g
    s["s"] = h.beta2 * s["s"] + (1 - h.beta2) * (g - s["m"]) ** 2 + h.eps
    m_hat, s_hat = s["m"] / (1 - h.beta1**t), s["s"] / (1 - h.beta2**t)
    return p - h.lr * m_hat / (np.sqrt(s_hat) + h.eps)


def ademamix(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    alpha, beta3 = slow(t, h.beta1, h.beta3, h.alpha, h.warmup)
    moments(g, h, s)
    s["m2"] = beta3 * s["m2"] + (1 - beta3) * g
    m_hat, v_hat = s["m"] / (1 - h.beta1**t), s["v"] / (1 - h.beta2**t)
    return p - h.lr * (m_hat + alpha * s["m2"]) / (np.sqrt(v_hat) + h.eps)


def slow(t: int, beta1: float, beta3: float, alpha: float, warmup: float) -> tuple[float, float]:
    """The paper's schedules of alpha and of beta3, which starts at beta1."""
    if not warmup:
        return alpha, beta3
    start, end, part = math.log(beta1), math.log(beta3), t / warmup
    return min(part * alpha, alpha), min(math.exp(start * end / ((1 - part) * end + part * start)), beta3)


def adopt(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    if t == 1:
        s["m"], s["v"] = np.zeros_like(p), g**2
        return p
    normed = g / np.maximum(np.sqrt(s["v"]), h.eps)
    if h.clip:
        normed = np.clip(normed, -((t - 1) ** 0.25), (t - 1) ** 0.25)
    s["m"] = h.beta1 * s["m"] + (1 - h.beta1) * normed
    s["v"] = h.beta2 * s["v"] + (1 - h.beta2) * g**2
    return p - h.lr * s["m"]


def adan(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    """Algorithm 1; the paper's β are one minus ours."""
    b1, b2, b3 = 1 - h.beta1, 1 - h.beta2, 1 - h.beta3
    difference = g - s["g"] if t > 1 else np.zeros_like(g)
    s["g"] = g
    s["m"] = (1 - b1) * s["m"] + b1 * g
    s["d"] = (1 - b2) * s["d"] + b2 * difference
    s["n"] = (1 - b3) * s["n"] + b3 * (g + (1 - b2) * difference) ** 2
    m_hat, d_hat, n_hat = s["m"] / (1 - h.beta1**t), s["d"] / (1 - h.beta2**t), s["n"] / (1 - h.beta3**t)
    rate = h.lr / (np.sqrt(n_hat) + h.eps)
    return (p - rate * (m_hat + (1 - b2) * d_hat)) / (1 + h.lr * h.weight_decay)


def laprop(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    s["v"] = h.beta2 * s["v"] + (1 - h.beta2) * g**2
    s["m"] = h.beta1 * s["m"] + (1 - h.beta1) * h.lr * g / (np.sqrt(s["v"] / (1 - h.beta2**t)) + h.eps)
    return p - s["m"] / (1 - h.beta1**t)


def qhadam(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    moments(g, h, s)
    m_hat, v_hat = s["m"] / (1 - h.beta1**t), s["v"] / (1 - h.beta2**t)
    up = (1 - h.nu1) * g + h.nu1 * m_hat
    return p - h.lr * up / (np.sqrt((1 - h.nu2) * g**2 + h.nu2 * v_hat) + h.eps)


def madgrad(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    rate = h.lr * math.sqrt(t)
    if t == 1:
        s["x0"] = at_start(p, h)
    s["z"] = s["z"] + rate * g
    s["s"] = s["s"] + rate * g**2
    return h.momentum * p + (1 - h.momentum) * (s["x0"] - s["z"] / (np.cbrt(s["s"]) + h.eps))


def at_start(p: Array, h: Any) -> Any:
    """The parameter as it was given, before the decay of the first step."""
    return p / (1 - h.lr * h.weight_decay)


def schedule_free_weight(t: int, h: Any, s: State) -> tuple[float, float]:
    """The step size of this step and the share of z in the average x."""
    lr = h.lr * min(1.0, t / h.warmup_steps) if h.warmup_steps else h.lr
    s["lr_max"] = max(lr, s["lr_max"])
    weight = t**h.r * s["lr_max"] ** h.weight_lr_power
    s["weights"] += weight
    return lr, weight / s["weights"]


def schedule_free_sgd(y: Array, g: Array, t: int, h: Any, s: State) -> Any:
    if t == 1:
        s["x"] = s["z"] = y
    lr, c = schedule_free_weight(t, h, s)
    s["z"] = s["z"] - lr * (g + h.weight_decay * y)
    s["x"] = (1 - c) * s["x"] + c * s["z"]
    return (1 - h.momentum) * s["z"] + h.momentum * s["x"]


def schedule_free_adamw(y: Array, g: Array, t: int, h: Any, s: State) -> Any:
    if t == 1:
        s["x"] = s["z"] = y
    lr, c = schedule_free_weight(t, h, s)
    s["v"] = h.beta2 * s["v"] + (1 - h.beta2) * g**2
    s["z"] = s["z"] - lr * (g / (np.sqrt(s["v"] / (1 - h.beta2**t)) + h.eps) + h.weight_decay * y)
    s["x"] = (1 - c) * s["x"] + c * s["z"]
    return (1 - h.beta1) * s["z"] + h.beta1 * s["x"]


def nadam(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    def mu(step: int) -> float:
        return float(h.beta1 * (1 - 0.5 * 0.96 ** (step * h.momentum_decay)))

    moments(g, h, s)
    v = s["v"]
    if h.amsgrad:
        v = s["vmax"] = np.maximum(s["vmax"], s["v"])
    s["product"] = (s["product"] if t > 1 else 1.0) * mu(t)
    m_bar = mu(t + 1) * s["m"] / (1 - s["product"] * mu(t + 1)) + (1 - mu(t)) * g / (1 - s["product"])
    return p - h.lr * m_bar / (np.sqrt(v / (1 - h.beta2**t)) + h.eps)


def adam(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    moments(g, h, s)
    v = s["v"]
    if h.amsgrad:
        v = s["vmax"] = np.maximum(s["vmax"], s["v"])
    step = h.lr * s["m"] / (1 - h.beta1**t) / (np.sqrt(v / (1 - h.beta2**t)) + h.eps)
    return p - cautiously(step, g, h)


def lars(p: Array, g: Array, _t: int, h: Any, s: State) -> Any:
    size, slope = np.linalg.norm(p), np.linalg.norm(g)
    ratio = 1.0
    if size > 0 and slope > 0:
        ratio = h.trust_coefficient * size / (slope + h.weight_decay * size + h.eps)
    s["v"] = h.momentum * s["v"] + h.lr * ratio * (g + h.weight_decay * p)
    return p - s["v"]


def lamb(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    moments(g, h, s)
    u = s["m"] / (1 - h.beta1**t) / (np.sqrt(s["v"] / (1 - h.beta2**t)) + h.eps) + h.weight_decay * p
    size, step = np.linalg.norm(p), np.linalg.norm(u)
    return p - h.lr * (size / step if size > 0 and step > 0 else 1.0) * u


def stable_adamw(p: Array, g: Array, t: int, h: Any, s: State) -> Any:
    """Algorithm 2, whose betas carry the bias correction."""
    moments(g, h, s)
    m_hat, v_hat = s["m"] / (1 - h.beta1**t), s["v"] / (1 - h.beta2**t)
    rms = math.sqrt(np.mean(g**2 / np.maximum(v_hat, h.eps**2)))
    rate = h.lr / max(1.0, rms)
    return p - rate * h.weight_decay * p - rate * m_hat / (np.sqrt(v_hat) + h.eps)


def novograd(p: Array, g: Array, _t: int, h: Any, s: State) -> Any:
    """Algorithm 1; the average starts at the first square that is not 0, as in the authors' code."""
    square = np.sum(g**2)
    s["v"] = square if s["v"] == 0 else h.beta2 * s["v"] + (1 - h.beta2) * square
    s["m"] = h.beta1 * s["m"] + (g / (np.sqrt(s["v"]) + h.eps) + h.weight_decay * p)
    return p - h.lr * s["m"]


FORMULAS: dict[str, Callable[[Array, Array, int, Any, State], Any]] = {
    "Ftrl": ftrl,
    "SignSGD": sign_sgd,
    "Signum": signum,
    "Tiger": signum,
    "Lion": lion,
    "AdaBelief": adabelief,
    "AdEMAMix": ademamix,
    "ADOPT": adopt,
    "Adan": adan,
    "LaProp": laprop,
    "QHAdam": qhadam,
    "MADGRAD": madgrad,
    "ScheduleFreeSGD": schedule_free_sgd,
    "ScheduleFreeAdamW": schedule_free_adamw,
    "NAdam": nadam,
    "NAdamW": nadam,
    "Adam": adam,
    "AdamW": adam,
    "LARS": lars,
    "LAMB": lamb,
    "StableAdamW": stable_adamw,
    "NovoGrad": novograd,
}
OWN_DECAY = {"Adan", "ScheduleFreeSGD", "ScheduleFreeAdamW", "LARS", "LAMB", "StableAdamW", "NovoGrad"}
COMPARED: dict[str, list[str]] = {
    "Ftrl": ["n", "z"],
    "SignSGD": [],
    "Signum": ["m"],
    "Tiger": ["m"],
    "Lion": ["m"],
    "AdaBelief": ["m", "s"],
    "AdEMAMix": ["m", "m2", "v"],
    "ADOPT": ["m", "v"],
    "Adan": ["m", "d", "n"],
    "LaProp": ["m", "v"],
    "QHAdam": ["m", "v"],
    "MADGRAD": ["s", "z", "x0"],
    "ScheduleFreeSGD": ["z"],
    "ScheduleFreeAdamW": ["z", "v"],
    "NAdam": ["m", "v"],
    "NAdamW": ["m", "v"],
    "Adam": ["m", "v"],
    "AdamW": ["m", "v"],
    "LARS": ["v"],
    "LAMB": ["m", "v"],
    "StableAdamW": ["m", "v"],
    "NovoGrad": ["m", "v"],
}
BASE: Options = {"l1": 0.0, "l2": 0.0, "weight_decay": 0.0, "maximize": False}
BETAS: Options = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
FREE: Options = {"warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0}
DEFAULTS: dict[str, Options] = {
    "Ftrl": {"lr": 1e-3, "lr_power": -0.5, "initial_accumulator": 0.1, "beta": 0.0},
    "SignSGD": {"lr": 1e-3},
    "Signum": {"lr": 1e-3, "momentum": 0.9},
    "Tiger": {"lr": 1e-3, "momentum": 0.965, "weight_decay": 0.01},
    "Lion": {"lr": 1e-4, "beta1": 0.9, "beta2": 0.99, "cautious": False},
    "AdaBelief": {**BETAS, "eps": 1e-16},
    "AdEMAMix": {**BETAS, "beta3": 0.9999, "alpha": 5.0, "warmup": 0},
    "ADOPT": {**BETAS, "beta2": 0.9999, "eps": 1e-6, "clip": True},
    "Adan": {"lr": 1e-3, "beta1": 0.98, "beta2": 0.92, "beta3": 0.99, "eps": 1e-8},
    "LaProp": {**BETAS, "lr": 4e-4, "eps": 1e-15},
    "QHAdam": {**BETAS, "beta1": 0.995, "nu1": 0.7, "nu2": 1.0},
    "MADGRAD": {"lr": 1e-2, "momentum": 0.9, "eps": 1e-6},
    "ScheduleFreeSGD": {**FREE, "lr": 1.0, "momentum": 0.9},
    "ScheduleFreeAdamW": {**FREE, **BETAS, "lr": 2.5e-3},
    "NAdam": {**BETAS, "lr": 2e-3, "momentum_decay": 4e-3, "amsgrad": False},
    "NAdamW": {**BETAS, "lr": 2e-3, "momentum_decay": 4e-3, "amsgrad": False, "weight_decay": 0.01},
    "Adam": {**BETAS, "amsgrad": False, "cautious": False},
    "AdamW": {**BETAS, "amsgrad": False, "cautious": False, "weight_decay": 0.01},
    "LARS": {"lr": 0.1, "momentum": 0.9, "trust_coefficient": 1e-3, "eps": 0.0},
    "LAMB": {**BETAS, "eps": 1e-6, "weight_decay": 0.01},
    "StableAdamW": {**BETAS, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.01},
    "NovoGrad": {"lr": 1e-3, "beta1": 0.95, "beta2": 0.98, "eps": 1e-8},
}
SHORT: Options = {"lr": 0.02, "beta1": 0.7, "beta2": 0.9, "eps": 1e-3}
WARMING: Options = {"lr": 0.3, "warmup_steps": 7}
PROLOGUE: Options = {
    "lr": lambda t: 0.05 / (1 + 0.1 * t),
    "l1": 0.02,
    "l2": 0.1,
    "weight_decay": 0.3,
    "maximize": True,
}
CHOICES: dict[str, list[Options]] = {
    "Ftrl": [
        {},
        {"lr": 0.1, "l1": 3.0, "l2": 0.5, "beta": 1.0},
        {"lr": 0.1, "lr_power": -1.0, "l1": 0.5},
        {"lr": 0.1, "lr_power": -0.75, "l2": 2.0},
        {"lr": 0.1, "lr_power": -0.25, "initial_accumulator": 2.0},
        {"lr": 0.1, "lr_power": 0.0, "l1": 0.5, "l2": 1.0},
        {"lr": 0.1, "initial_accumulator": 0.0, "beta": 1.0, "l1": 0.5},
    ],
    "SignSGD": [{}, {"lr": 0.3}],
    "Signum": [{}, {"lr": 0.3, "momentum": 0.5}, {"momentum": 0.0}],
    "Tiger": [{}, {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.0}],
    "Lion": [
        {},
        {"lr": 0.02, "beta1": 0.5, "beta2": 0.8},
        {"cautious": True},
        {"lr": 0.02, "beta1": 0.5, "beta2": 0.8, "cautious": True},
    ],
    "AdaBelief": [{}, SHORT, {"beta1": 0.0}],
    "AdEMAMix": [
        {},
        {**SHORT, "beta3": 0.97, "alpha": 2.0},
        {"warmup": 10, "lr": 0.02},
        {"warmup": 24, "beta3": 0.999, "alpha": 8.0},
        {"warmup": 1000},
    ],
    "ADOPT": [{}, SHORT, {"clip": False}, {"lr": 0.1, "beta2": 0.9, "eps": 0.1}],
    "Adan": [{}, {"lr": 0.02, "beta1": 0.8, "beta2": 0.3, "beta3": 0.9, "eps": 1e-3}, {"weight_decay": 0.5}],
    "LaProp": [{}, SHORT],
    "QHAdam": [{}, {**SHORT, "nu1": 0.4, "nu2": 0.8}, {"nu1": 1.0, "beta1": 0.9}, {"nu1": 0.0, "nu2": 0.0}],
    "MADGRAD": [{}, {"lr": 0.1, "momentum": 0.5, "eps": 1e-3}, {"momentum": 0.0}],
    "ScheduleFreeSGD": [
        {},
        {"lr": 0.3, "momentum": 0.5, "weight_decay": 0.1},
        WARMING,
        {**WARMING, "r": 2.0, "weight_lr_power": 0.5},
    ],
    "ScheduleFreeAdamW": [
        {},
        {**SHORT, "weight_decay": 0.1},
        {**WARMING, "lr": 0.01},
        {**WARMING, "lr": 0.01, "r": 1.0, "weight_lr_power": 0.0, "weight_decay": 0.1},
    ],
    "NAdam": [{"amsgrad": True}, {**SHORT, "beta2": 0.5, "momentum_decay": 0.1, "amsgrad": True}],
    "NAdamW": [{"amsgrad": True}, {**SHORT, "beta2": 0.5, "weight_decay": 0.2, "amsgrad": True}],
    "Adam": [
        {"cautious": True},
        {**SHORT, "cautious": True},
        {"beta2": 0.5, "amsgrad": True, "cautious": True},
    ],
    "AdamW": [{"cautious": True}, {**SHORT, "weight_decay": 0.2, "cautious": True}],
    "LARS": [
        {},
        {"lr": 2.0, "momentum": 0.5, "weight_decay": 0.1, "trust_coefficient": 0.02},
        {"eps": 0.1, "momentum": 0.0},
    ],
    "LAMB": [{}, {**SHORT, "weight_decay": 0.0}, {**SHORT, "weight_decay": 0.3}],
    "StableAdamW": [{}, {**SHORT, "weight_decay": 0.3}, {"eps": 0.1, "lr": 0.1}],
    "NovoGrad": [{}, {"lr": 0.02, "beta1": 0.5, "beta2": 0.25, "eps": 1e-3, "weight_decay": 0.1}],
}


def describe(options: Options) -> str:
    shown = (f"{name}={'schedule' if callable(value) else value}" for name, value in options.items())
    return ",".join(shown) or "defaults"


def sets(*choices: Options) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "options", [pytest.param(choice, id=describe(choice)) for choice in choices]
    )


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        pytest.param(rule, options, id=f"{rule}-{describe(options)}")
        for rule, choices in CHOICES.items()
        for options in choices
    ],
)
@pytest.mark.parametrize("common", [{}, PROLOGUE], ids=["plain", "prologue"])
def test_formula(rule: str, options: Options, common: Options) -> None:
    """The papers' algorithms as transcribed above.

    Not quite the papers': Cautious is the authors' code, where the paper divides by (kept + 1)/size and keeps
    where step·g ≥ 0; NAdam's amsgrad is that of torch's Adam; ScheduleFreeAdamW is the authors' library (see
    below). MADGRAD is the paper, without the + eps of the authors' code.
    """
    chosen = {**common, **options}
    check(rule, chosen, formula(rule, chosen))


# Each rule against libraries.


def decaying(options: Options) -> Callable[[int, Any, dict[str, Any]], None]:
    """Decoupled decay as we do it, ahead of another library's step."""

    def before(_: int, __: Any, params: dict[str, Any]) -> None:
        for value in params.values():
            value.mul_(1 - options["lr"] * options.get("weight_decay", 0.0))

    return before


FTRL: Options = {"lr": 0.1, "initial_accumulator": 0.3}


@sets(FTRL, {**FTRL, "l1": 3.0}, {**FTRL, "l1": 1.0, "l2": 0.5, "beta": 1.0}, {**FTRL, "lr": 1e-3})
def test_ftrl_is_pytorch_optimizer(options: Options) -> None:
    """Its n starts at 0, ours at initial_accumulator; its denominator has √n whatever lr_power is."""

    def before(t: int, opt: Any, params: dict[str, Any]) -> None:
        if t == 1:
            for x in params.values():
                n = x.new_full(x.shape, options["initial_accumulator"])
                opt.state[x].update(z=x.new_zeros(x.shape), n=n)

    theirs = {"lambda_1": options.get("l1", 0.0), "lambda_2": options.get("l2", 0.0)}
    oracle = peer(
        "pytorch_optimizer",
        "FTRL",
        {"n": "n", "z": "z"},
        before,
        lr=options["lr"],
        beta=options.get("beta", 0.0),
        **theirs,
    )
    check("Ftrl", options, oracle)


@sets(
    {},
    {"lr": 0.1, "l1": 0.5, "l2": 0.25, "beta": 2.0},
    {"lr": 0.1, "lr_power": -0.25, "l1": 0.5, "l2": 2.0, "initial_accumulator": 1.0},
)
def test_ftrl_is_keras_with_twice_its_l2(options: Options) -> None:
    """Transcribed from Keras 3 (as TensorFlow's kernel): l2 is counted twice, beta is halved first."""

    def run(p: Tree, gradients: list[Tree]) -> list[Snapshot]:
        h = at({**BASE, **DEFAULTS["Ftrl"], **options}, 0)
        keras_l2 = h.l2 / 2 + h.beta / (2 * h.lr)
        accumulator = {name: np.full_like(x, h.initial_accumulator) for name, x in p.items()}
        linear = {name: np.zeros_like(x) for name, x in p.items()}
        path: list[Snapshot] = []
        for g in gradients:
            for name, x in p.items():
                new = accumulator[name] + g[name] ** 2
                moved = (new**-h.lr_power - accumulator[name] ** -h.lr_power) / h.lr * x
                linear[name] = linear[name] + g[name] - moved
                quadratic = new**-h.lr_power / h.lr + 2 * keras_l2
                p[name] = (np.clip(linear[name], -h.l1, h.l1) - linear[name]) / quadratic
                accumulator[name] = new
            path.append((copied(p), {"n": copied(accumulator), "z": copied(linear)}))
        return path

    check("Ftrl", options, run)


@sets({"lr": 1e-3}, {"lr": 0.1, "weight_decay": 0.3})
def test_sign_sgd(options: Options) -> None:
    """The same in optax, which decays in one sum, and in pytorch_optimizer with momentum 0."""
    lr, decay = options["lr"], options.get("weight_decay", 0.0)
    check("SignSGD", options, peer("pytorch_optimizer", "SignSGD", momentum=0.0, **options))

    def make(optax: Any) -> Any:
        return optax.chain(
            optax.scale_by_sign(), optax.add_decayed_weights(decay), optax.scale_by_learning_rate(lr)
        )

    check("SignSGD", options, optax_rule(make))


@sets({"lr": 1e-3, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.5})
def test_signum_is_optax(options: Options) -> None:
    """The authors' form: an average, whose bias correction no sign would see."""
    make: Callable[[Any], Any] = lambda optax: optax.signum(options["lr"], options["momentum"])  # noqa: E731
    check("Signum", options, optax_rule(make, lambda s: {"m": s[0].ema}))


@sets({"lr": 1e-3, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.3})
def test_signum_is_pytorch_optimizer(options: Options) -> None:
    check("Signum", options, peer("pytorch_optimizer", "SignSGD", {"m": "momentum_buffer"}, **options))


@sets({}, {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.3})
def test_tiger_is_pytorch_optimizer(options: Options) -> None:
    """Its momentum is called beta; the defaults are the same."""
    theirs = {"beta" if key == "momentum" else key: value for key, value in options.items()}
    check("Tiger", options, peer("pytorch_optimizer", "Tiger", {"m": "exp_avg"}, **theirs))


LION: Options = {"lr": 0.02, "beta1": 0.8, "beta2": 0.95}


@sets({}, LION, {**LION, "weight_decay": 0.3})
def test_lion(options: Options) -> None:
    """The same in optax, whose weight_decay is 0.001 by default, and in pytorch_optimizer."""
    h = at({**BASE, **DEFAULTS["Lion"], **options}, 0)

    def make(optax: Any) -> Any:
        return optax.lion(h.lr, h.beta1, h.beta2, weight_decay=h.weight_decay)

    check("Lion", options, optax_rule(make, lambda s: {"m": s[0].mu}))
    theirs = {"lr": h.lr, "betas": (h.beta1, h.beta2), "weight_decay": h.weight_decay}
    check("Lion", options, peer("pytorch_optimizer", "Lion", {"m": "exp_avg"}, **theirs))


BELIEF: Options = {"lr": 0.02, "beta1": 0.8, "beta2": 0.95, "eps": 1e-4}


@sets({}, BELIEF, {**BELIEF, "weight_decay": 0.3})
def test_adabelief(options: Options) -> None:
    """One eps is both of optax's, eps and eps_root; decay is ahead of the step, as in pytorch_optimizer."""
    h = at({**BASE, **DEFAULTS["AdaBelief"], **options}, 0)
    slots = {"m": "exp_avg", "s": "exp_avg_var"}
    theirs = {"lr": h.lr, "betas": (h.beta1, h.beta2), "eps": h.eps, "weight_decay": h.weight_decay}
    check("AdaBelief", options, peer("pytorch_optimizer", "AdaBelief", slots, **theirs))

    def make(optax: Any) -> Any:
        return optax.chain(
            optax.scale_by_belief(h.beta1, h.beta2, eps=h.eps, eps_root=h.eps),
            optax.add_decayed_weights(h.weight_decay),
            optax.scale_by_learning_rate(h.lr),
        )

    check("AdaBelief", options, optax_rule(make, lambda s: {"m": s[0].mu, "s": s[0].nu}))


YOGI: Options = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 1e-2, "initial_accumulator": 1e-3}


@sets({}, YOGI, {**YOGI, "weight_decay": 0.3})
def test_yogi(options: Options) -> None:
    """In optax and pytorch_optimizer m starts at initial_accumulator as well as v; optax.yogi fixes it."""
    h = at({**BASE, **BETAS, "lr": 0.01, "eps": 1e-3, "initial_accumulator": 1e-6, **options}, 0)

    def make(optax: Any) -> Any:
        return optax.chain(
            optax.scale_by_yogi(h.beta1, h.beta2, h.eps, initial_accumulator_value=h.initial_accumulator),
            optax.add_decayed_weights(h.weight_decay),
            optax.scale_by_learning_rate(h.lr),
        )

    check("Yogi", options, optax_rule(make, lambda s: {"m": s[0].mu, "v": s[0].nu}))
    theirs = {
        "lr": h.lr,
        "betas": (h.beta1, h.beta2),
        "eps": h.eps,
        "initial_accumulator": h.initial_accumulator,
        "weight_decay": h.weight_decay,
    }
    slots = {"m": "exp_avg", "v": "exp_avg_sq"}
    check("Yogi", options, peer("pytorch_optimizer", "Yogi", slots, **theirs))


MIX: Options = {"lr": 0.02, "beta1": 0.8, "beta2": 0.95, "beta3": 0.99, "alpha": 3.0, "eps": 1e-3}


@sets({}, MIX, {**MIX, "warmup": 10}, {"warmup": 100, "weight_decay": 0.3})
def test_ademamix(options: Options) -> None:
    """Optax takes schedules that start at 0 for t = 1; pytorch_optimizer's decay is coupled by default."""
    h = at({**BASE, **DEFAULTS["AdEMAMix"], **options}, 0)
    theirs = {
        "lr": h.lr,
        "betas": (h.beta1, h.beta2, h.beta3),
        "alpha": h.alpha,
        "t_alpha_beta3": h.warmup or None,
        "eps": h.eps,
        "weight_decay": h.weight_decay,
        "weight_decouple": True,
    }
    slots = {"m": "exp_avg", "m2": "exp_avg_slow", "v": "exp_avg_sq"}
    check("AdEMAMix", options, peer("pytorch_optimizer", "AdEMAMix", slots, **theirs))

    def scheduled(count: Any) -> tuple[float, float]:
        return slow(int(count) + 1, h.beta1, h.beta3, h.alpha, h.warmup)

    def make(optax: Any) -> Any:
        return optax.contrib.ademamix(
            h.lr,
            h.beta1,
            h.beta2,
            b3=lambda count: scheduled(count)[1],
            alpha=lambda count: scheduled(count)[0],
            eps=h.eps,
            weight_decay=h.weight_decay,
        )

    check("AdEMAMix", options, optax_rule(make, lambda s: {"m": s[0].m1, "m2": s[0].m2, "v": s[0].nu}))


@sets({"warmup": 30, "beta3": 0.999}, {"warmup": 12, "lr": 0.02, "beta1": 0.7})
def test_ademamix_warms_up_by_half_life(options: Options) -> None:
    """The authors' code: beta3's half-life grows linearly. They add 1e-8 to the betas in the logarithm."""
    h = at({**BASE, **DEFAULTS["AdEMAMix"], **options}, 0)

    def half_life(beta: float) -> float:
        return math.log(0.5) / math.log(beta) - 1

    def run(p: Tree, gradients: list[Tree]) -> list[Snapshot]:
        states = {name: State(float) for name in p}
        path: list[Snapshot] = []
        for t, g in enumerate(gradients, 1):
            part = min(t / h.warmup, 1.0)
            life = (1 - part) * half_life(h.beta1) + part * half_life(h.beta3)
            beta3 = 0.5 ** (1 / (life + 1)) if part < 1 else h.beta3
            now = SimpleNamespace(**{**vars(h), "beta3": beta3, "alpha": part * h.alpha, "warmup": 0})
            for name, x in p.items():
                p[name] = ademamix(x, g[name], t, now, states[name])
            path.append((copied(p), {}))
        return path

    check("AdEMAMix", options, run)


@sets({}, {**SHORT, "beta2": 0.9}, {"clip": False}, {"lr": 0.1, "weight_decay": 0.3})
def test_adopt(options: Options) -> None:
    """pytorch_optimizer's clip is (t)^¼, the paper's and optax's (t - 1)^¼; optax has no decay."""
    h = at({**BASE, **DEFAULTS["ADOPT"], **options}, 0)
    theirs = {
        "lr": h.lr,
        "betas": (h.beta1, h.beta2),
        "eps": h.eps,
        "clip_lambda": (lambda t: (t - 1) ** 0.25) if h.clip else None,
        "weight_decay": h.weight_decay,
        "weight_decouple": True,
    }
    slots = {"m": "exp_avg", "v": "exp_avg_sq"}
    check("ADOPT", options, peer("pytorch_optimizer", "ADOPT", slots, **theirs))

    def make(optax: Any) -> Any:
        return optax.contrib.adopt(h.lr, h.beta1, h.beta2, h.eps, use_clipping=h.clip)

    if not h.weight_decay:
        check("ADOPT", options, optax_rule(make, lambda s: {"m": s[0].mu, "v": s[0].nu}))


ADAN: Options = {"lr": 0.02, "beta1": 0.9, "beta2": 0.7, "beta3": 0.95, "eps": 1e-3}


@sets({}, ADAN, {**ADAN, "weight_decay": 0.3}, {"weight_decay": 0.02})
def test_adan_is_pytorch_optimizer(options: Options) -> None:
    """As the authors' code: proximal decay, and no difference of gradients at the first step."""
    h = at({**BASE, **DEFAULTS["Adan"], **options}, 0)
    theirs = {
        "lr": h.lr,
        "betas": (h.beta1, h.beta2, h.beta3),
        "eps": h.eps,
        "weight_decay": h.weight_decay,
    }
    slots = {"m": "exp_avg", "d": "exp_avg_diff", "n": "exp_avg_sq"}
    check("Adan", options, peer("pytorch_optimizer", "Adan", slots, **theirs))


@sets({"beta2": 0.5}, {**ADAN, "beta2": 0.5}, {**ADAN, "beta2": 0.5, "weight_decay": 0.3})
def test_adan_is_optax_for_beta2_one_half(options: Options) -> None:
    """Optax weighs the difference by 1 - b2, where the paper and the authors' code have b2.

    Its eps_root is 1e-8 by default, and its decay is p(1 - lr·wd) - step: the division is done after it here.
    """
    h = at({**BASE, **DEFAULTS["Adan"], **options}, 0)

    def make(optax: Any) -> Any:
        return optax.adan(h.lr, h.beta1, h.beta2, h.beta3, h.eps, eps_root=0.0)

    def shrink(_: int, p: Array) -> Array:
        return np.asarray(p / (1 + h.lr * h.weight_decay))

    oracle = optax_rule(make, lambda s: {"m": s[0].m, "d": s[0].v, "n": s[0].n}, finish=shrink)
    check("Adan", options, oracle)


@sets({"lr": 4e-4}, {"lr": 0.02, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}, {"lr": 0.02, "weight_decay": 0.3})
def test_laprop_is_pytorch_optimizer(options: Options) -> None:
    """Its eps is divided by √(1 - β2ᵗ), it adds 1e-15 to v, and it decays after the step.

    With gradients that are not small the 1e-15 is below the tolerance. Its foreach has steps in float32. The
    authors' code decays after the step, by 1 - wd, and divides by the average of the learning rates.
    """
    h = at({**BASE, **DEFAULTS["LaProp"], **options}, 0)

    def before(t: int, opt: Any, params: dict[str, Any]) -> None:
        opt.param_groups[0]["eps"] = h.eps * math.sqrt(1 - h.beta2**t)
        decaying(options)(t, opt, params)

    theirs = {"lr": h.lr, "betas": (h.beta1, h.beta2), "foreach": False}
    oracle = peer("pytorch_optimizer", "LaProp", {"m": "exp_avg", "v": "exp_avg_sq"}, before, **theirs)
    check("LaProp", options, oracle, even)


QH: Options = {"lr": 0.02, "beta1": 0.8, "beta2": 0.95, "nu1": 0.4, "nu2": 0.8, "eps": 1e-3}


@sets({}, QH, {**QH, "nu1": 1.0, "nu2": 1.0, "weight_decay": 0.3})
def test_qhadam_is_pytorch_optimizer(options: Options) -> None:
    """As the authors' code: averages that hold the bias correction, by weights 1 + β + …

    Theirs are in float32, here replaced. Its defaults are Adam's, and its decay is coupled by default.
    """
    h = at({**BASE, **DEFAULTS["QHAdam"], **options}, 0)

    def before(t: int, opt: Any, params: dict[str, Any]) -> None:
        if t == 1:
            for x in params.values():
                for key in ("beta1_weight", "beta2_weight"):
                    opt.state[x][key] = x.new_zeros(1)
                for key in ("exp_avg", "exp_avg_sq"):
                    opt.state[x][key] = x.new_zeros(x.shape)

    theirs = {
        "lr": h.lr,
        "betas": (h.beta1, h.beta2),
        "nus": (h.nu1, h.nu2),
        "eps": h.eps,
        "weight_decay": h.weight_decay,
        "weight_decouple": True,
    }
    check("QHAdam", options, peer("pytorch_optimizer", "QHAdam", None, before, **theirs))


DUAL: Options = {"lr": 0.1, "momentum": 0.5, "eps": 1e-3}


@sets({}, DUAL, {"momentum": 0.0}, {**DUAL, "l2": 0.2})
def test_madgrad(options: Options) -> None:
    """The authors' code adds eps to lr, and so do optax and pytorch_optimizer; their decay is coupled.

    Optax has √t in float32, for which lr makes up here. The cube root of pytorch_optimizer is the power 1/3.
    """
    h = at({**BASE, **DEFAULTS["MADGRAD"], **options}, 0)

    def rate(count: Any) -> Any:
        root = math.sqrt(int(count) + 1)
        return np.float64(h.lr * root / float(np.float32(root)) - h.eps)

    def make(optax: Any) -> Any:
        return optax.contrib.madgrad(rate, h.momentum, h.l2, h.eps)

    check("MADGRAD", options, optax_rule(make, lambda s: {"s": s[1].grad_sum_sq, "z": s[1].s, "x0": s[1].x0}))
    slots = {"s": "grad_sum_sq", "z": "s"}
    theirs = {"lr": h.lr - h.eps, "momentum": h.momentum, "eps": h.eps, "weight_decay": h.l2}
    check("MADGRAD", options, peer("pytorch_optimizer", "MADGRAD", slots, **theirs))


# Schedule-free.


def learning_rate(options: Options, *, flat: float = 1.0) -> Callable[[int, Any, dict[str, Any]], None]:
    """A schedule of ours, set in the other library before each step."""

    def before(t: int, opt: Any, _: dict[str, Any]) -> None:
        lr = options.get("lr", flat)
        opt.param_groups[0]["lr"] = lr(t) if callable(lr) else lr

    return before


FREE_SGD: list[Options] = [
    {},
    {"lr": 0.3, "momentum": 0.6},
    {"lr": 0.3, "weight_decay": 0.2},
    {"lr": 0.3, "warmup_steps": 7},
    {"lr": 0.3, "warmup_steps": 7, "r": 1.5, "weight_lr_power": 1.0, "weight_decay": 0.2},
    {"lr": lambda t: 0.3 / t, "weight_lr_power": 1.0},
]
FREE_ADAMW: list[Options] = [
    {},
    {"lr": 0.02, "beta1": 0.6, "beta2": 0.9, "eps": 1e-3},
    {"lr": 0.02, "weight_decay": 0.2},
    {"lr": 0.02, "warmup_steps": 7},
    {"lr": 0.02, "warmup_steps": 7, "r": 1.5, "weight_lr_power": 1.0, "weight_decay": 0.2},
    {"lr": lambda t: 0.02 / t, "weight_lr_power": 1.0},
]


def theirs_of(options: Options) -> Options:
    """Our options by torch's names, with `betas`."""
    h = {key: value for key, value in options.items() if key not in ("lr", "beta1", "beta2")}
    if "beta1" in options:
        h["betas"] = (options["beta1"], options["beta2"])
    return h


@sets(*FREE_SGD)
@pytest.mark.parametrize("name", ["SGDScheduleFree", "SGDScheduleFreeReference"])
def test_schedule_free_sgd_is_the_authors(options: Options, name: str) -> None:
    """Theirs starts in eval mode; train() is called first. The reference keeps x, y and z."""
    library = "schedulefree"
    if name.endswith("Reference"):
        library = "schedulefree.sgd_schedulefree_reference"
    oracle = peer(library, name, {"z": "z"}, learning_rate(options), **theirs_of(options))
    check("ScheduleFreeSGD", options, oracle)


@sets(*FREE_ADAMW)
@pytest.mark.parametrize("name", ["AdamWScheduleFree", "AdamWScheduleFreeReference"])
def test_schedule_free_adamw_is_the_authors(options: Options, name: str) -> None:
    library = "schedulefree"
    if name.endswith("Reference"):
        library = "schedulefree.adamw_schedulefree_reference"
    slots = {"z": "z", "v": "exp_avg_sq"}
    oracle = peer(library, name, slots, learning_rate(options, flat=2.5e-3), **theirs_of(options))
    check("ScheduleFreeAdamW", options, oracle)


@sets({"weight_lr_power": 0.0, "eps": 1e-30}, {"lr": 0.02, "weight_lr_power": 0.0, "eps": 1e-30, "r": 1.0})
def test_schedule_free_adamw_is_the_papers_without_weights(options: Options) -> None:
    """Algorithm 1 has lr·√(1 - β2ᵗ) in step, weights and decay, and eps beside an uncorrected √v.

    With weights that ignore the step size, no decay and no eps it is the library's.
    """
    before = learning_rate(options, flat=2.5e-3)
    oracle = peer("schedulefree", "AdamWScheduleFreePaper", {"z": "z"}, before, **theirs_of(options))
    check("ScheduleFreeAdamW", options, oracle)


@sets(*FREE_SGD[:5])
def test_schedule_free_sgd_is_pytorch_optimizer(options: Options) -> None:
    theirs = {**theirs_of(options), "lr": options.get("lr", 1.0)}
    check("ScheduleFreeSGD", options, peer("pytorch_optimizer", "ScheduleFreeSGD", {"z": "z"}, **theirs))


@sets(*FREE_ADAMW[:5])
def test_schedule_free_adamw_is_pytorch_optimizer(options: Options) -> None:
    """It adds 1e-15 to v̂: with gradients that are not small that is below the tolerance."""
    theirs = {**theirs_of(options), "lr": options.get("lr", 2.5e-3)}
    oracle = peer("pytorch_optimizer", "ScheduleFreeAdamW", {"z": "z"}, **theirs)
    check("ScheduleFreeAdamW", options, oracle, even)


@sets({"lr": 0.3}, {"lr": 0.3, "momentum": 0.6, "weight_decay": 0.2}, {"lr": 0.3, "warmup_steps": 7})
def test_schedule_free_sgd_is_optax(options: Options) -> None:
    """In optax's shortcut the warm-up starts at 0 for the step and at 1/warmup for the weight.

    Here both follow t/warmup. There is no r. y is found by way of x = (y - (1 - β)z)/β.
    """
    h = at({**BASE, **DEFAULTS["ScheduleFreeSGD"], **options}, 0)

    def warm(t: Any) -> float:
        return float(h.lr * min(1.0, int(t) / h.warmup_steps)) if h.warmup_steps else float(h.lr)

    def make(optax: Any) -> Any:
        rule = optax.chain(
            optax.add_decayed_weights(h.weight_decay), optax.sgd(lambda count: warm(count + 1))
        )
        return optax.contrib.schedule_free(rule, warm, h.momentum, h.weight_lr_power)

    check("ScheduleFreeSGD", options, optax_rule(make, lambda s: {"z": s.z}))


@sets({}, {"lr": 0.02, "beta1": 0.6, "beta2": 0.9, "eps": 1e-3}, {"lr": 0.02, "weight_decay": 0.2})
def test_schedule_free_adamw_is_optax(options: Options) -> None:
    h = at({**BASE, **DEFAULTS["ScheduleFreeAdamW"], **options}, 0)

    def make(optax: Any) -> Any:
        return optax.contrib.schedule_free_adamw(
            h.lr, b1=h.beta1, b2=h.beta2, eps=h.eps, weight_decay=h.weight_decay
        )

    check("ScheduleFreeAdamW", options, optax_rule(make, lambda s: {"z": s.z}))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("rule", "name", "options"),
    [
        ("ScheduleFreeSGD", "SGDScheduleFree", {"lr": 0.3, "warmup_steps": 5, "weight_decay": 0.1}),
        ("ScheduleFreeSGD", "SGDScheduleFree", {"lr": 0.3, "momentum": 0.6, "r": 1.0}),
        ("ScheduleFreeAdamW", "AdamWScheduleFree", {"lr": 0.02, "warmup_steps": 5, "weight_decay": 0.1}),
        ("ScheduleFreeAdamW", "AdamWScheduleFree", {"lr": 0.02, "beta1": 0.6, "beta2": 0.9}),
    ],
)
def test_schedule_free_modes(rule: str, name: str, options: Options, backend: str) -> None:
    """Between steps p is y or x as in the authors' library; a step needs y."""
    torch: Any = pytest.importorskip("torch")
    library: Any = pytest.importorskip("schedulefree")
    p, gradients = rough()
    q = {key: torch.tensor(x) for key, x in p.items()}
    opt = getattr(fs, rule)(p, backend=backend, **options)
    theirs = getattr(library, name)(list(q.values()), lr=options["lr"], **theirs_of(options))
    theirs.train()

    def compare(what: str) -> None:
        for key, x in q.items():
            close(p[key], x.numpy(), RTOL, f"{key} {what}")

    for switch in ("eval", "train"):
        getattr(opt, switch)()
        getattr(theirs, switch)()
        compare(f"{switch} before any step")
    for t, g in enumerate(gradients, 1):
        for key, x in q.items():
            x.grad = torch.tensor(g[key])
        theirs.step()
        opt.step(g)
        compare(f"at step {t}")
        if t % 5 == 1:
            opt.eval()
            theirs.eval()
            compare(f"in eval mode at step {t}")
            x_now = copied(p)
            opt.eval()
            with pytest.raises(RuntimeError):
                opt.step(g)
            for key, value in x_now.items():
                np.testing.assert_array_equal(p[key], value)
            opt.train()
            theirs.train()
            compare(f"back in train mode at step {t}")
            y_now = copied(p)
            opt.train()
            for key, value in y_now.items():
                np.testing.assert_array_equal(p[key], value)


@pytest.mark.parametrize("rule", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_schedule_free_eval_is_the_average(rule: str, backend: str) -> None:
    """x of the paper, kept as a third sequence by the formula above."""
    options: Options = {"lr": 0.02, "warmup_steps": 5, "r": 1.0}
    p, gradients = rough()
    opt = getattr(fs, rule)(p, backend=backend, **options)
    y = copied(p)
    states = {name: State(float) for name in p}
    for t, g in enumerate(gradients, 1):
        opt.step(g)
        h = at({**BASE, **DEFAULTS[rule], **options}, t)
        for name, value in y.items():
            y[name] = FORMULAS[rule](value, g[name], t, h, states[name])
        opt.eval()
        for name, value in p.items():
            close(value, states[name]["x"], RTOL, f"{name} at step {t}")
        opt.train()


# Options of older rules.


@sets(
    {"lr": 2e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    {"lr": 0.02, "beta1": 0.8, "beta2": 0.5, "eps": 1e-3, "momentum_decay": 0.1},
    {"lr": 0.02, "beta1": 0.8, "beta2": 0.5, "eps": 1e-3, "weight_decay": 0.3},
)
@pytest.mark.parametrize("rule", ["NAdam", "NAdamW"])
def test_nadam_amsgrad_is_torch_stepping_on_the_maximum(rule: str, options: Options) -> None:
    """torch's NAdam has no amsgrad: its v is set before each step so that it becomes the maximum."""
    beta2 = options["beta2"]
    v: dict[str, Any] = {}
    largest: dict[str, Any] = {}

    def before(t: int, opt: Any, params: dict[str, Any]) -> None:
        if t == 1:
            v.clear()
            largest.clear()
        for name, x in params.items():
            new = (1 - beta2) * x.grad**2
            v[name] = beta2 * v[name] + new if t > 1 else new
            largest[name] = v[name].maximum(largest[name]) if t > 1 else new
            if t > 1:
                opt.state[x]["exp_avg_sq"].copy_((largest[name] - new) / beta2)

    theirs = {
        "lr": options["lr"],
        "betas": (options["beta1"], beta2),
        "eps": options["eps"],
        "momentum_decay": options.get("momentum_decay", 4e-3),
        "weight_decay": options.get("weight_decay", 0.01 if rule == "NAdamW" else 0.0),
        "decoupled_weight_decay": True,
    }
    oracle = peer("torch", "NAdam", {"m": "exp_avg", "vmax": "exp_avg_sq"}, before, **theirs)
    check(rule, {**options, "amsgrad": True}, oracle)


def cautious(library: str, name: str, lr: float, decay: float, **options: Any) -> Oracle:
    """The steps that a library takes from zero, those against the gradient left out."""

    def run(p: Tree, gradients: list[Tree]) -> list[Snapshot]:
        def from_zero(_: int, __: Any, params: dict[str, Any]) -> None:
            for x in params.values():
                x.zero_()

        path: list[Snapshot] = []
        for (steps, _), g in zip(
            peer(library, name, None, from_zero, lr=lr, weight_decay=0.0, **options)(p, gradients),
            gradients,
            strict=True,
        ):
            for key, step in steps.items():
                keep = -step * g[key] > 0
                p[key] = (1 - lr * decay) * p[key] + step * keep / max(keep.mean(), 1e-3)
            path.append((copied(p), {}))
        return path

    return run


@sets(
    {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999},
    {"lr": 0.02, "beta1": 0.7, "beta2": 0.9, "weight_decay": 0.3},
    {"lr": 0.02, "beta1": 0.7, "beta2": 0.5, "amsgrad": True},
)
@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_cautious_adam_is_torch_masked(rule: str, options: Options) -> None:
    """The authors' code; the paper and pytorch_optimizer divide by (kept + 1)/size instead of the mean."""
    oracle = cautious(
        "torch",
        "Adam",
        options["lr"],
        options.get("weight_decay", 0.01 if rule == "AdamW" else 0.0),
        betas=(options["beta1"], options["beta2"]),
        amsgrad=options.get("amsgrad", False),
    )
    check(rule, {**options, "cautious": True}, oracle)


@sets({"lr": 1e-4, "beta1": 0.9, "beta2": 0.99}, {**LION, "weight_decay": 0.3})
def test_cautious_lion_is_pytorch_optimizer_masked(options: Options) -> None:
    betas = (options["beta1"], options["beta2"])
    oracle = cautious(
        "pytorch_optimizer", "Lion", options["lr"], options.get("weight_decay", 0.0), betas=betas
    )
    check("Lion", {**options, "cautious": True}, oracle)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["Adam", "AdamW", "Lion"])
def test_cautious_when_almost_nothing_is_kept(rule: str, backend: str) -> None:
    """One element of 4096 is kept, which counts as 1 in 1000; then none."""
    p = np.ones(4096)
    opt = getattr(fs, rule)(p, lr=0.01, weight_decay=0.0, cautious=True, backend=backend)
    opt.step(np.ones_like(p))
    close(p, np.full_like(p, 0.99), 1e-7, "with all kept")
    before = p.copy()
    g = np.full_like(p, -1e-3)
    g[17] = 1.0
    opt.step(g)
    expected = before.copy()
    expected[17] -= 0.01 * 1000
    close(p, expected, 1e-7, "with one kept")
    before = p.copy()
    opt.step(np.full_like(p, -1e-3))
    np.testing.assert_array_equal(p, before)


# Rules with norms.


@sets({}, {"lr": 2.0, "momentum": 0.5, "trust_coefficient": 0.02, "eps": 0.1})
def test_lars_is_optax_without_decay(options: Options) -> None:
    """Optax divides by the norm of g + wd·p, we by the sum of the norms; both have lr in the momentum."""
    h = at({**BASE, **DEFAULTS["LARS"], **options}, 0)

    def make(optax: Any) -> Any:
        return optax.lars(h.lr, trust_coefficient=h.trust_coefficient, eps=h.eps, momentum=h.momentum)

    def slots(state: Any) -> dict[str, Any]:
        return {"v": {name: -x for name, x in state[3].trace.items()}}

    check("LARS", options, optax_rule(make, slots, by_tensor=True))


@sets({"lr": 0.1}, {"lr": 2.0, "momentum": 0.5, "trust_coefficient": 0.02, "weight_decay": 0.1})
def test_lars_is_pytorch_optimizer(options: Options) -> None:
    """For matrices only: others get plain momentum. lr is outside, the same while it is constant.

    Where g is 0 and wd is not, its ratio is trust/wd and ours 1; where p is 0, both are 1.
    """
    check("LARS", options, peer("pytorch_optimizer", "LARS", column=True, **options), even)


@sets({}, {**SHORT, "weight_decay": 0.3})
def test_lamb_is_optax(options: Options) -> None:
    """Its weight_decay is 0 by default, ours 0.01; norms are not clipped (φ is the identity)."""
    h = at({**BASE, **DEFAULTS["LAMB"], **options}, 0)

    def make(optax: Any) -> Any:
        return optax.lamb(h.lr, h.beta1, h.beta2, h.eps, weight_decay=h.weight_decay)

    check("LAMB", options, optax_rule(make, lambda s: {"m": s[0].mu, "v": s[0].nu}, by_tensor=True))


@sets({"weight_decay": 0.0, "eps": 1e-30}, {"lr": 0.02, "beta1": 0.8, "weight_decay": 0.3, "eps": 1e-30})
def test_lamb_is_pytorch_optimizer_corrected(options: Options) -> None:
    """It has 1/(1 - β1ᵗ) outside the ratio, v uncorrected, the norm of p cut at 10, eps beside that of u.

    Without eps the ratio takes out any factor of u, so that other lr and weight_decay by step make it ours.
    """
    h = at({**BASE, **DEFAULTS["LAMB"], **options}, 0)

    def before(t: int, opt: Any, _: dict[str, Any]) -> None:
        opt.clamp = math.inf
        first, second = 1 - h.beta1**t, 1 - h.beta2**t
        opt.param_groups[0].update(lr=h.lr * first, weight_decay=h.weight_decay * first / math.sqrt(second))

    theirs = {"betas": (h.beta1, h.beta2), "eps": h.eps, "weight_decouple": False}
    slots = {"m": "exp_avg", "v": "exp_avg_sq"}
    check("LAMB", options, peer("pytorch_optimizer", "Lamb", slots, before, **theirs), even)


@sets({}, {**SHORT, "weight_decay": 0.3}, {"lr": 0.1, "eps": 1e-2, "weight_decay": 0.0})
def test_stable_adamw_is_pytorch_optimizer(options: Options) -> None:
    """Its eps is 1e-8 by default, ours 1e-6; it keeps m̂ and v̂ by betas that change, as the paper."""
    h = at({**BASE, **DEFAULTS["StableAdamW"], **options}, 0)
    theirs = {"lr": h.lr, "betas": (h.beta1, h.beta2), "eps": h.eps, "weight_decay": h.weight_decay}
    check("StableAdamW", options, peer("pytorch_optimizer", "StableAdamW", **theirs))


NOVO: Options = {"lr": 0.02, "beta1": 0.8, "beta2": 0.25, "eps": 1e-3, "weight_decay": 0.2}


@sets({}, NOVO)
def test_novograd(options: Options) -> None:
    """The same in optax (betas 0.9, 0.25 and eps 1e-6 by default) and pytorch_optimizer.

    Their average starts at t = 1 even with 0, ours and the authors' with the first square that is not 0.
    """
    h = at({**BASE, **DEFAULTS["NovoGrad"], **options}, 0)

    def problem() -> tuple[Tree, list[Tree]]:
        p, gradients = rough()
        for g in gradients[:2]:
            g["b"][:] = np.linspace(-1, 1.5, 5)
        return p, gradients

    def make(optax: Any) -> Any:
        return optax.novograd(h.lr, h.beta1, h.beta2, h.eps, weight_decay=h.weight_decay)

    oracle = optax_rule(make, lambda s: {"m": s[0].mu, "v": s[0].nu}, by_tensor=True)
    check("NovoGrad", options, oracle, problem)
    theirs = {"lr": h.lr, "betas": (h.beta1, h.beta2), "eps": h.eps, "weight_decay": h.weight_decay}
    check("NovoGrad", options, peer("pytorch_optimizer", "NovoGrad", **theirs), problem)


# Prodigy, whose one number d comes from all tensors. Its p0 - p starts with steps of d0, so that the first
# sums have lost as many digits as d0 has zeros: hence the tolerance.

DIGITS = 1e-8


def prodigy_names(options: Options) -> Options:
    return {
        "use_bias_correction" if key == "bias_correction" else key: value
        for key, value in theirs_of(options).items()
    }


@sets(
    {},
    {"d0": 1e-3, "beta1": 0.8, "beta2": 0.95, "eps": 1e-6},
    {"d0": 1e-3, "d_coef": 2.0, "growth_rate": 1.2},
    {"d0": 1e-4, "bias_correction": True, "weight_decay": 0.1},
    {"d0": 1e-3, "lr": lambda t: min(1.0, t / 8), "safeguard_warmup": True},
    {"d0": 1e-3, "lr": lambda t: 1 - t / 30, "weight_decay": 0.1, "bias_correction": True},
    {"d0": 1e-3, "lr": 0.5, "d_coef": 0.5, "growth_rate": 1.05, "safeguard_warmup": True},
)
def test_prodigy_is_the_authors(options: Options) -> None:
    slots = {"m": "exp_avg", "v": "exp_avg_sq", "s": "s"}
    oracle = peer("prodigyopt", "Prodigy", slots, learning_rate(options), **prodigy_names(options))
    check("Prodigy", options, oracle, rtol=DIGITS)


def test_prodigy_with_coupled_decay_is_the_authors() -> None:
    """Theirs with decouple=False, our l2."""
    oracle = peer("prodigyopt", "Prodigy", {"s": "s"}, d0=1e-3, decouple=False, weight_decay=0.1)
    check("Prodigy", {"d0": 1e-3, "l2": 0.1}, oracle, rtol=DIGITS)


@sets({"d0": 1e-3}, {"d0": 1e-3, "weight_decay": 0.1}, {"d0": 1e-3, "bias_correction": True})
def test_prodigy_without_gradients_at_first(options: Options) -> None:
    """With no gradient anywhere the authors' step returns: no decay, and it does not count as a step."""

    def problem() -> tuple[Tree, list[Tree]]:
        p, gradients = rough()
        zero = {name: np.zeros_like(x) for name, x in p.items()}
        return p, [zero, zero, *gradients]

    oracle = peer("prodigyopt", "Prodigy", {"s": "s"}, **prodigy_names(options))
    check("Prodigy", options, oracle, problem, DIGITS)


def test_prodigy_with_lr_from_zero() -> None:
    """The authors' step with lr 0 leaves its averages alone."""
    options: Options = {"d0": 1e-3, "lr": lambda t: min(1.0, (t - 1) / 5)}
    oracle = peer("prodigyopt", "Prodigy", {"s": "s"}, learning_rate(options), d0=1e-3)
    check("Prodigy", options, oracle, rtol=DIGITS)


@sets({"d0": 1e-3}, {"d0": 1e-3, "d_coef": 0.5, "lr": 0.5, "beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1})
def test_prodigy_is_pytorch_optimizer(options: Options) -> None:
    """Its numerator is in torch's default dtype, here float64."""
    theirs = {**theirs_of(options), "lr": options.get("lr", 1.0)}
    check("Prodigy", options, peer("pytorch_optimizer", "Prodigy", {"s": "s"}, **theirs), rtol=DIGITS)


@sets({"d0": 1e-3, "d_coef": 2.0, "weight_decay": 0.1}, {"safeguard_warmup": True, "lr": 0.5})
def test_prodigy_is_optax_with_bias_correction(options: Options) -> None:
    """Optax always corrects, and has no growth_rate."""
    h = at(
        {"d0": 1e-6, "lr": 1.0, "d_coef": 1.0, "weight_decay": 0.0, "safeguard_warmup": False, **options}, 0
    )

    def make(optax: Any) -> Any:
        return optax.contrib.prodigy(
            h.lr,
            estim_lr0=h.d0,
            estim_lr_coef=h.d_coef,
            weight_decay=h.weight_decay,
            safeguard_warmup=h.safeguard_warmup,
        )

    oracle = optax_rule(make, lambda s: {"m": s.exp_avg, "v": s.exp_avg_sq, "s": s.grad_sum})
    check("Prodigy", {**options, "bias_correction": True}, oracle, rtol=DIGITS)


@sets({"d0": 1e-3, "eps": 1e-30}, {"d0": 1e-3, "eps": 1e-30, "beta1": 0.8, "beta2": 0.95, "lr": 0.5})
def test_prodigy_is_algorithm_4(options: Options) -> None:
    """The paper's, which has this step's d beside eps, the library the next one: without eps the same.

    Its r and s carry a factor 1 - √β2, which the quotient takes out, and a factor d0 less than the library's.
    """
    h = at({"lr": 1.0, "beta1": 0.9, "beta2": 0.999, **options}, 0)

    def run(p: Tree, gradients: list[Tree]) -> list[Snapshot]:
        start, root = copied(p), math.sqrt(h.beta2)
        m, v, s = ({name: np.zeros_like(x) for name, x in p.items()} for _ in range(3))
        d, r = h.d0, 0.0
        path: list[Snapshot] = []
        for gs in gradients:
            product = sum(float(np.sum(g * (start[name] - p[name]))) for name, g in gs.items())
            r = root * r + (1 - root) * h.lr * d**2 * product
            for name, g in gs.items():
                m[name] = h.beta1 * m[name] + (1 - h.beta1) * d * g
                v[name] = h.beta2 * v[name] + (1 - h.beta2) * d**2 * g**2
                s[name] = root * s[name] + (1 - root) * h.lr * d**2 * g
                p[name] = p[name] - h.lr * d * m[name] / (np.sqrt(v[name]) + d * h.eps)
            d = max(d, r / sum(float(np.abs(x).sum()) for x in s.values()))
            path.append((copied(p), {"m": copied(m), "v": copied(v)}))
        return path

    check("Prodigy", options, run, rtol=DIGITS)


# Rules that torch has too, in optax.

OLDER: dict[str, tuple[str, Options, Callable[[Any], Any]]] = {
    "sgd": ("SGDM", {"lr": 0.02, "momentum": 0.9}, lambda optax: optax.sgd(0.02, 0.9)),
    "sgd-nesterov": (
        "SGDM",
        {"lr": 0.02, "momentum": 0.9, "nesterov": True},
        lambda optax: optax.sgd(0.02, 0.9, nesterov=True),
    ),
    "adagrad": (
        "Adagrad",
        {"lr": 0.02, "eps": 0.0, "initial_accumulator": 0.1 + 1e-7},
        lambda optax: optax.adagrad(0.02),
    ),
    "rmsprop": (
        "RMSProp",
        {"lr": 0.02, "rho": 0.9, "eps_inside": True, "eps": 1e-3, "momentum": 0.5},
        lambda optax: optax.rmsprop(0.02, eps=1e-3, momentum=0.5),
    ),
    "rmsprop-centered": (
        "RMSProp",
        {"lr": 0.02, "rho": 0.9, "eps": 0.1, "centered": True},
        lambda optax: optax.rmsprop(0.02, eps=0.1, centered=True, eps_in_sqrt=False),
    ),
    "adam": ("Adam", {"lr": 0.02, "eps": 1e-3}, lambda optax: optax.adam(0.02, eps=1e-3)),
    "adamw": (
        "AdamW",
        {"lr": 0.02, "weight_decay": 1e-4},
        lambda optax: optax.adamw(0.02),
    ),
    "nadam": (
        "NAdam",
        {"lr": 0.02, "momentum_decay": 1e9},
        lambda optax: optax.nadam(0.02),
    ),
    "adamax": ("Adamax", {"lr": 0.02, "eps": 1e-3}, lambda optax: optax.adamax(0.02, eps=1e-3)),
    "adadelta": (
        "Adadelta",
        {"lr": 0.5, "rho": 0.9, "eps": 1e-3},
        lambda optax: optax.adadelta(0.5, eps=1e-3),
    ),
    "radam": ("RAdam", {"lr": 0.02, "eps": 1e-30}, lambda optax: optax.radam(0.02, eps=1e-30)),
}


@pytest.mark.parametrize(("rule", "options", "make"), list(OLDER.values()), ids=list(OLDER))
def test_older_rules_are_optax(rule: str, options: Options, make: Callable[[Any], Any]) -> None:
    """Adagrad's eps and RMSProp's are in the root; NAdam has a constant momentum; RAdam's eps is beside √v̂.

    Not to be bridged: amsgrad, the maximum of v̂ in optax and of v here, as in torch and Keras; optax's Rprop,
    which makes each step one step late.
    """
    check(rule, options, optax_rule(make), even if rule == "RAdam" else rough)


# What makes the comparisons worth something.


@pytest.mark.parametrize("rule", [*FORMULAS, "Yogi", "Prodigy"])
def test_the_problem_moves_every_rule(rule: str) -> None:
    """Far more than the tolerance, and not to infinity."""
    p, gradients = rough()
    start = copied(p)
    opt = getattr(fs, rule)(p)
    for g in gradients:
        opt.step(g)
    for name, x in p.items():
        assert np.isfinite(x).all()
        assert np.abs(x - start[name]).max() > 1e-5

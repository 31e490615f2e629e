"""Every rule but Eve against PyTorch, at every step and element by element, parameters and state.

torch's SGD keeps `buf = mu·buf + g` and steps by `-lr·buf`, with the step size outside. For a constant lr:

* Momentum: `v = -lr·buf`, because v = mu·v - lr·g is -lr times torch's line, and both add it to p.
* EMAMomentum: `m = (1 - mu)·buf`, so torch steps alike with `lr·(1 - mu)`.
* Nesterov: again `v = -lr·buf`, and p - mu·v + (1 + mu)·u with u = mu·v - lr·g is p - lr·g + mu·u, which is
  torch's `p - lr·(g + mu·buf)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import fusedstep as fs

torch = pytest.importorskip("torch")

Array = np.ndarray[Any, Any]

STEPS = 64
SHAPES = {"w": (4, 9), "b": (5,)}
TOLERANCE = {"float64": (1e-12, 1e-14), "float32": (5e-6, 1e-6)}
MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq", "vmax": "max_exp_avg_sq"}
SLOTS: dict[str, dict[str, str]] = {
    "SGD": {},
    "Momentum": {"v": "momentum_buffer"},
    "EMAMomentum": {"m": "momentum_buffer"},
    "Nesterov": {"v": "momentum_buffer"},
    "Adagrad": {"s": "sum"},
    "RMSProp": {"s": "square_avg", "a": "grad_avg", "b": "momentum_buffer"},
    "Adam": MOMENTS,
    "AdamW": MOMENTS,
    "NAdam": MOMENTS,
    "NAdamW": MOMENTS,
    "RAdam": MOMENTS,
    "SGDM": {"buf": "momentum_buffer"},
    "ASGD": {"ax": "ax"},
    "Adadelta": {"s": "square_avg", "d": "acc_delta"},
    "Adamax": {"m": "exp_avg", "u": "exp_inf"},
    "Rprop": {"prev": "prev", "step": "step_size"},
}


@dataclass
class Case:
    """The same rule here and in torch; a state array is `unit` times torch's."""

    rule: str
    options: dict[str, Any]
    torch_rule: str
    torch_options: dict[str, Any] = field(default_factory=dict)
    unit: float = 1.0


SGD, MOMENTUM = {"lr": 0.02}, {"lr": 0.02, "momentum": 0.9}
ADAGRAD = {"lr": 0.05, "eps": 1e-10}
ASGD = {"lr": 0.05, "lambd": 0.1, "alpha": 0.5, "t0": 20}
ADAM, AMS = {"lr": 0.02}, {"lr": 0.02, "amsgrad": True}

CASES = {
    "sgd": Case("SGD", SGD, "SGD", SGD),
    "sgd-l2": Case("SGD", {**SGD, "l2": 0.1}, "SGD", {**SGD, "weight_decay": 0.1}),
    "momentum": Case("Momentum", MOMENTUM, "SGD", MOMENTUM, unit=-0.02),
    "momentum-l2": Case(
        "Momentum", {**MOMENTUM, "l2": 0.1}, "SGD", {**MOMENTUM, "weight_decay": 0.1}, unit=-0.02
    ),
    "ema": Case("EMAMomentum", MOMENTUM, "SGD", {"lr": 0.02 * (1 - 0.9), "momentum": 0.9}, unit=1 - 0.9),
    "nesterov": Case("Nesterov", MOMENTUM, "SGD", {**MOMENTUM, "nesterov": True}, unit=-0.02),
    "nesterov-l2": Case(
        "Nesterov",
        {**MOMENTUM, "l2": 0.1},
        "SGD",
        {**MOMENTUM, "nesterov": True, "weight_decay": 0.1},
        unit=-0.02,
    ),
    "sgdm": Case("SGDM", MOMENTUM, "SGD", MOMENTUM),
    "sgdm-no-momentum": Case("SGDM", {"lr": 0.02, "momentum": 0.0}, "SGD", SGD),
    "sgdm-dampening-l2": Case(
        "SGDM",
        {**MOMENTUM, "dampening": 0.3, "l2": 0.1},
        "SGD",
        {**MOMENTUM, "dampening": 0.3, "weight_decay": 0.1},
    ),
    "sgdm-dampening-1": Case("SGDM", {**MOMENTUM, "dampening": 1.0}, "SGD", {**MOMENTUM, "dampening": 1.0}),
    "sgdm-nesterov": Case("SGDM", {**MOMENTUM, "nesterov": True}, "SGD", {**MOMENTUM, "nesterov": True}),
    "asgd-defaults": Case("ASGD", {}, "ASGD"),
    "asgd": Case("ASGD", ASGD, "ASGD", ASGD),
    "asgd-l2": Case("ASGD", {**ASGD, "l2": 0.1}, "ASGD", {**ASGD, "weight_decay": 0.1}),
    "adadelta-defaults": Case("Adadelta", {}, "Adadelta"),
    "adadelta-rho-1": Case("Adadelta", {"lr": 0.01, "rho": 1.0}, "Adadelta", {"lr": 0.01, "rho": 1.0}),
    "adadelta-l2": Case(
        "Adadelta",
        {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "l2": 0.1},
        "Adadelta",
        {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1},
    ),
    "nadam-defaults": Case("NAdam", {}, "NAdam"),
    "nadam": Case(
        "NAdam",
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "momentum_decay": 0.1, "l2": 0.1},
        "NAdam",
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "momentum_decay": 0.1, "weight_decay": 0.1},
    ),
    "nadamw-defaults": Case("NAdamW", {}, "NAdam", {"weight_decay": 0.01, "decoupled_weight_decay": True}),
    "adamax-defaults": Case("Adamax", {}, "Adamax"),
    "adamax-l2": Case(
        "Adamax",
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "l2": 0.1},
        "Adamax",
        {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1},
    ),
    "rprop-defaults": Case("Rprop", {}, "Rprop"),
    "rprop": Case(
        "Rprop",
        {"lr": 0.05, "eta_minus": 0.4, "eta_plus": 1.5, "step_min": 0.02, "step_max": 0.1},
        "Rprop",
        {"lr": 0.05, "etas": (0.4, 1.5), "step_sizes": (0.02, 0.1)},
    ),
    "adagrad": Case("Adagrad", ADAGRAD, "Adagrad", ADAGRAD),
    "adagrad-l2-lr_decay-initial": Case(
        "Adagrad",
        {**ADAGRAD, "l2": 0.1, "lr_decay": 0.03, "initial_accumulator": 0.7},
        "Adagrad",
        {**ADAGRAD, "weight_decay": 0.1, "lr_decay": 0.03, "initial_accumulator_value": 0.7},
    ),
    "rmsprop": Case("RMSProp", {"rho": 0.99}, "RMSprop", {"lr": 1e-3}),
    "rmsprop-eps-l2": Case(
        "RMSProp",
        {"lr": 0.01, "rho": 0.9, "eps": 0.2, "l2": 0.1},
        "RMSprop",
        {"lr": 0.01, "alpha": 0.9, "eps": 0.2, "weight_decay": 0.1},
    ),
    "rmsprop-centered": Case(
        "RMSProp",
        {"lr": 0.01, "centered": True},
        "RMSprop",
        {"lr": 0.01, "alpha": 0.9, "centered": True},
    ),
    "rmsprop-momentum": Case(
        "RMSProp",
        {"lr": 0.01, "momentum": 0.8},
        "RMSprop",
        {"lr": 0.01, "alpha": 0.9, "momentum": 0.8},
    ),
    "rmsprop-all": Case(
        "RMSProp",
        {"lr": 0.01, "rho": 0.95, "eps": 1e-3, "centered": True, "momentum": 0.8, "l2": 0.1},
        "RMSprop",
        {"lr": 0.01, "alpha": 0.95, "eps": 1e-3, "centered": True, "momentum": 0.8, "weight_decay": 0.1},
    ),
    "adam-defaults": Case("Adam", {}, "Adam"),
    "adam-betas-eps": Case(
        "Adam",
        {**ADAM, "beta1": 0.8, "beta2": 0.95, "eps": 0.1},
        "Adam",
        {**ADAM, "betas": (0.8, 0.95), "eps": 0.1},
    ),
    "adam-l2": Case("Adam", {**ADAM, "l2": 0.1}, "Adam", {**ADAM, "weight_decay": 0.1}),
    "adam-amsgrad": Case("Adam", {**AMS, "beta2": 0.7}, "Adam", {**AMS, "betas": (0.9, 0.7)}),
    "adam-decoupled": Case("Adam", {**ADAM, "weight_decay": 0.3}, "AdamW", {**ADAM, "weight_decay": 0.3}),
    "adamw-defaults": Case("AdamW", {}, "AdamW"),
    "adamw": Case("AdamW", {**ADAM, "weight_decay": 0.3}, "AdamW", {**ADAM, "weight_decay": 0.3}),
    "adamw-amsgrad": Case("AdamW", {**AMS, "beta2": 0.7}, "AdamW", {**AMS, "betas": (0.9, 0.7)}),
    "radam-defaults": Case("RAdam", {}, "RAdam"),
    "radam-short": Case(
        "RAdam",
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3},
        "RAdam",
        {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-3},
    ),
    "radam-l2": Case("RAdam", {"lr": 0.01, "l2": 0.1}, "RAdam", {"lr": 0.01, "weight_decay": 0.1}),
    "radam-decoupled": Case(
        "RAdam",
        {"lr": 0.01, "weight_decay": 0.3},
        "RAdam",
        {"lr": 0.01, "weight_decay": 0.3, "decoupled_weight_decay": True},
    ),
}
WITHOUT_DECAY = {
    "sgd": CASES["sgd"],
    "momentum": CASES["momentum"],
    "ema": CASES["ema"],
    "nesterov": CASES["nesterov"],
    "adagrad": CASES["adagrad"],
    "rmsprop": CASES["rmsprop-momentum"],
    "adam": CASES["adam-amsgrad"],
    "adamw": Case("AdamW", {**ADAM, "weight_decay": 0.0}, "AdamW", {**ADAM, "weight_decay": 0.0}),
    "radam": CASES["radam-short"],
    "sgdm": CASES["sgdm-nesterov"],
    "asgd": CASES["asgd"],
    "adadelta": Case("Adadelta", {"lr": 0.5}, "Adadelta", {"lr": 0.5}),
    "nadam": Case("NAdam", {"lr": 0.02}, "NAdam", {"lr": 0.02}),
    "adamax": Case("Adamax", {"lr": 0.02}, "Adamax", {"lr": 0.02}),
    "rprop": Case("Rprop", {"lr": 0.02}, "Rprop", {"lr": 0.02}),
}


@pytest.fixture(params=["native", "numpy"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=list(TOLERANCE))
def dtype(request: pytest.FixtureRequest) -> Iterator[Any]:
    """torch keeps state that is one number in its default dtype."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, request.param))
    yield request.param
    torch.set_default_dtype(default)


def cases(table: dict[str, Case], *without: str) -> pytest.MarkDecorator:
    kept = {name: case for name, case in table.items() if name not in without}
    return pytest.mark.parametrize("case", list(kept.values()), ids=list(kept))


def draw(rng: np.random.Generator, dtype: str) -> dict[str, Array]:
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def close(actual: Array, expected: Any, dtype: str, what: str) -> None:
    rtol, atol = TOLERANCE[dtype]
    wanted = expected.numpy()
    if not (
        abs(actual - wanted) <= atol + rtol * abs(wanted)
    ).all():  # which takes far less time than the error
        np.testing.assert_allclose(actual, wanted, rtol=rtol, atol=atol, err_msg=what)
        pytest.fail(what)


def check(
    case: Case,
    dtype: str,
    backend: Any,
    *,
    scale: Callable[[int], float] = lambda _: 1.0,
    before: Callable[[int, Any, dict[str, Any]], None] = lambda *_: None,
    **options: Any,
) -> None:
    """Step both side by side on random gradients; `before` prepares torch's step."""
    rng = np.random.default_rng(7)
    p = draw(rng, dtype)
    q = {name: torch.tensor(value) for name, value in p.items()}
    ours = getattr(fs, case.rule)(p, backend=backend, **{**case.options, **options})
    theirs = getattr(torch.optim, case.torch_rule)(list(q.values()), **case.torch_options)
    for t in range(1, STEPS + 1):
        g = draw(rng, dtype)
        for name, value in q.items():
            value.grad = scale(t) * torch.tensor(g[name])
        before(t, theirs, q)
        theirs.step()
        ours.step(g, scale=scale(t))
        for name, value in q.items():
            close(p[name], value, dtype, f"{name} at step {t}")
            slots = {slot: key for slot, key in SLOTS[case.rule].items() if key in theirs.state[value]}
            assert set(slots) == set(ours.state[name])
            for slot, key in slots.items():
                expected = case.unit * theirs.state[value][key]
                close(ours.state[name][slot], expected, dtype, f"{slot} of {name} at step {t}")


@cases(CASES)
def test_rule(case: Case, dtype: Any, backend: Any) -> None:
    check(case, dtype, backend)


@cases(WITHOUT_DECAY, "rprop")
def test_maximize(case: Case, dtype: Any, backend: Any) -> None:
    """With coupled decay, which still pulls towards zero. That of torch's AdamW is not coupled."""
    l2 = 0.0 if case.rule == "AdamW" else 0.1
    torch_options = {**case.torch_options, "maximize": True, "weight_decay": l2}
    check(replace(case, torch_options=torch_options), dtype, backend, maximize=True, l2=l2)


@cases(WITHOUT_DECAY)
def test_scale(case: Case, dtype: Any, backend: Any) -> None:
    check(case, dtype, backend, scale=lambda t: 0.25 + t % 3)


@cases(WITHOUT_DECAY)
def test_both_decays(case: Case, dtype: Any, backend: Any) -> None:
    """Coupled decay sees the parameter as it was before decoupled decay."""
    l2, weight_decay = 0.1, 0.3

    def decay(_: int, __: Any, params: dict[str, Any]) -> None:
        for value in params.values():
            value.grad += l2 * value
            value.mul_(1 - case.options["lr"] * weight_decay)

    check(case, dtype, backend, before=decay, l2=l2, weight_decay=weight_decay)


@cases(WITHOUT_DECAY, "momentum", "nesterov")
def test_lr_schedule(case: Case, dtype: Any, backend: Any) -> None:
    """Not for a velocity that holds the lr: torch rescales all of its buffer with the lr of the step."""

    def lr(t: int) -> float:
        return float(case.options["lr"] * (1 - 0.01 * t))

    def set_lr(t: int, optimizer: Any, _: dict[str, Any]) -> None:
        optimizer.param_groups[0]["lr"] = case.torch_options["lr"] * (1 - 0.01 * t)

    check(case, dtype, backend, before=set_lr, lr=lr)

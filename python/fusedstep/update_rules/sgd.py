"""Gradient descent and momentum. The counterpart of cpp/kernels/rules/sgd.hpp."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from ..engine.optimizer import Optimizer
from ..formula import (
    Array,
    At,
    Coefficients,
    Decay,
    Finite,
    Kernel,
    Nonnegative,
    Portion,
    Slot,
    kernel,
    power,
    term,
)

__all__ = ["ASGD", "SGD", "SGDM", "EMAMomentum", "Momentum", "Nesterov"]


class SGD(Optimizer):
    """Stochastic gradient descent. Robbins & Monro 1951, doi:10.1214/aoms/1177729586.

    ``p ← p - lr·g``. No state. For a baseline, and where memory counts most.

    lr: step size, default 0.01. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    steps_rows: ClassVar = True

    @kernel("SGD")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array) -> None:
        p[...] = p - c.lr * g

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"lr": h.lr}


class Momentum(Optimizer):
    """Momentum, with the step size inside the velocity. Polyak 1964; CS231n, "Neural Networks Part 3".

    ``v ← momentum·v - lr·g;  p ← p + v``. State, 4 bytes: v, the velocity. For vision models, with a
    schedule.

    lr: step size, default 0.01. momentum: in [0, 1), default 0.9; often scheduled .5, .9, .95, .99.
    Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    momentum: Decay = 0.9
    slots: ClassVar = {"v": Slot()}
    steps_rows: ClassVar = True

    @kernel("Momentum")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, v: Array) -> None:
        v[...] = c.momentum * v - c.lr * g
        p[...] = p + v

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"momentum": h.momentum, "lr": h.lr}


class EMAMomentum(Optimizer):
    """Momentum as an exponential average of the gradients. Polyak 1964; as Adam's m, but not corrected.

    ``m ← momentum·m + (1 - momentum)·g;  p ← p - lr·m``. State, 4 bytes: m, the average. Like `Momentum`,
    where the step should not grow with momentum.

    lr: step size, default 0.01. momentum: in [0, 1), default 0.9. Further options and errors: see
    `Optimizer`.
    """

    lr: Nonnegative = 0.01
    momentum: Decay = 0.9
    slots: ClassVar = {"m": Slot()}
    steps_rows: ClassVar = True

    @kernel("EMAMomentum")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array) -> None:
        m[...] = c.momentum * m + c.gain * g
        p[...] = p - c.lr * m

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"momentum": h.momentum, "gain": 1 - h.momentum, "lr": h.lr}


class Nesterov(Optimizer):
    """Nesterov momentum, with the parameters kept at the look-ahead point. Nesterov 1983; CS231n.

    The method is ``x_ahead = x + momentum·v;  v ← momentum·v - lr·g(x_ahead);  x ← x + v``. The caller
    computes gradients at p, so p is x_ahead: ``u ← momentum·v - lr·g;  p ← p - momentum·v + (1 + momentum)·u;
    v ← u``. With a schedule, step t leaves p at the look-ahead point of step t + 1, so it also asks for
    momentum(t + 1). A parameter skipped while momentum changes stays at its old look-ahead point, and its
    next step is off by that change times v. State, 4 bytes: v, the velocity. Like `Momentum`, with less
    overshooting.

    lr: step size, default 0.01. momentum: in [0, 1), default 0.9. Further options and errors: see
    `Optimizer`.
    """

    lr: Nonnegative = 0.01
    momentum: Decay = 0.9
    slots: ClassVar = {"v": Slot(), "ahead": Slot(of="group")}
    looks_ahead: ClassVar = ("momentum",)

    @kernel("Nesterov")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, v: Array) -> None:
        u = c.momentum * v - c.lr * g
        p[...] = p - c.behind * v + c.onward * u
        v[...] = u

    @classmethod
    def advance(cls, h: At, t: int, loss: float | None) -> dict[str, float]:
        return {"ahead": h.next["momentum"]}

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        behind = h.before["ahead"]
        return {"momentum": h.momentum, "behind": behind, "onward": 1 + h.ahead, "lr": h.lr}


class SGDM(Optimizer):
    """Momentum, with the step size outside the buffer. Sutskever et al. 2013, ICML; torch's SGD.

    ``buf ← momentum·buf + (1 - dampening)·g`` (at the first step ``buf ← g``); ``p ← p - lr·buf``, or with
    nesterov ``p ← p - lr·(g + momentum·buf)``. State, 4 bytes: buf; none without momentum. Like `Momentum`,
    for a changing lr: the buffer does not contain lr.

    lr: step size, default 0.01. momentum: in [0, 1), default 0.9; 0 means `SGD`, and this choice is fixed.
    dampening: in [0, 1], default 0. nesterov: default False, fixed. Further options and errors: see
    `Optimizer`.
    """

    lr: Nonnegative = 0.01
    momentum: Decay = 0.9
    dampening: Portion = 0.0
    nesterov: bool = False
    slots: ClassVar = {"buf": Slot()}

    @kernel("SGDM")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, buf: Array) -> None:
        buf[...] = term(c.momentum, buf) + c.gain * g
        p[...] = p - term(c.lr, buf)

    @kernel("SGDMNesterov")
    @staticmethod
    def update_nesterov(c: Coefficients, p: Array, g: Array, buf: Array) -> None:
        buf[...] = term(c.momentum, buf) + c.gain * g
        p[...] = p - term(c.lr, g + term(c.momentum, buf))

    @classmethod
    def choose_kernel(cls, h: SimpleNamespace) -> Kernel:
        if h.momentum == 0:
            return SGD.update
        return cls.update_nesterov if h.nesterov else cls.update

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        if not h.kernel.operands:
            return {"lr": h.lr}
        return {"momentum": h.momentum, "gain": 1 if t == 1 else 1 - h.dampening, "lr": h.lr}


class ASGD(Optimizer):
    """Averaged SGD. Polyak & Juditsky 1992, doi:10.1137/0330046; with the rates of Xu 2011, arXiv:1107.2490.

    ``p ← p·(1 - lambd·eta) - eta·g;  ax ← ax + mu·(p - ax)``, and after the step ``eta ← lr / (1 +
    lambd·lr·t)^alpha;  mu ← 1 / max(1, t - t0)``. The average ax is p itself until step t0. State, 4 bytes:
    ax; also eta and mu, one number per group each. For convex problems with noisy gradients; ax is the
    answer.

    lr: step size, default 0.01. lambd: decay of p, default 1e-4. alpha: default 0.75. t0: the step at which
    averaging begins, default 1e6. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    lambd: Nonnegative = 1e-4
    alpha: Finite = 0.75
    t0: Finite = 1e6
    slots: ClassVar = {"ax": Slot(), "eta": Slot(of="group"), "mu": Slot(of="group", start=1.0)}

    @kernel("ASGD")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, ax: Array) -> None:
        p[...] = c.keep * p - c.eta * g
        ax[...] = np.where(c.mu < 1, ax + c.mu * (p - ax), p)

    @classmethod
    def advance(cls, h: At, t: int, loss: float | None) -> dict[str, float]:
        return {"eta": h.lr / power(1 + h.lambd * h.lr * t, h.alpha), "mu": 1 / max(1, t - h.t0)}

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        eta = h.lr if t == 1 else h.before["eta"]
        return {"keep": 1 - h.lambd * eta, "eta": eta, "mu": h.before["mu"]}

"""Gradient descent and momentum. The counterpart of cpp/rules/sgd.hpp."""

from __future__ import annotations

from typing import ClassVar

from ..hyperparameters import At, Decay, Nonnegative
from ..kernel import Array, Coefficients, kernel
from ..optimizer import Optimizer

__all__ = ["SGD", "EMAMomentum", "Momentum", "Nesterov"]


class SGD(Optimizer):
    """Stochastic gradient descent. Robbins & Monro 1951, doi:10.1214/aoms/1177729586.

    ``p ← p - lr·g``. No state.

    lr: step size, default 0.01. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01

    @kernel("SGD")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array) -> None:
        p[...] = p - c.lr * g

    def coefficients(self, h: At, t: int) -> dict[str, float]:
        return {"lr": h.lr}


class Momentum(Optimizer):
    """Momentum, with the step size inside the velocity. Polyak 1964; CS231n, "Neural Networks Part 3".

    ``v ← momentum·v - lr·g;  p ← p + v``. State: v, the velocity.

    lr: step size, default 0.01. momentum: in [0, 1), default 0.9; often scheduled .5, .9, .95, .99.
    Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    momentum: Decay = 0.9

    @kernel("Momentum")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, v: Array) -> None:
        v[...] = c.momentum * v - c.lr * g
        p[...] = p + v

    def coefficients(self, h: At, t: int) -> dict[str, float]:
        return {"momentum": h.momentum, "lr": h.lr}


class EMAMomentum(Optimizer):
    """Momentum as an exponential moving average of the gradients, as in Adam but not corrected.

    ``m ← momentum·m + (1 - momentum)·g;  p ← p - lr·m``. State: m, the average.

    lr: step size, default 0.01. momentum: in [0, 1), default 0.9. Further options and errors: see
    `Optimizer`.
    """

    lr: Nonnegative = 0.01
    momentum: Decay = 0.9

    @kernel("EMAMomentum")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array) -> None:
        m[...] = c.momentum * m + c.gain * g
        p[...] = p - c.lr * m

    def coefficients(self, h: At, t: int) -> dict[str, float]:
        return {"momentum": h.momentum, "gain": 1 - h.momentum, "lr": h.lr}


class Nesterov(Optimizer):
    """Nesterov momentum, with the parameters kept at the look-ahead point. Nesterov 1983; CS231n.

    The method is ``x_ahead = x + momentum·v;  v ← momentum·v - lr·g(x_ahead);  x ← x + v``. The caller
    computes gradients at p, so p is x_ahead: ``u ← momentum·v - lr·g;  p ← p - momentum·v + (1 + momentum)·u;
    v ← u``. With a schedule, p is left where the momentum of the next step looks ahead to, so step t asks for
    momentum(t + 1) too; a parameter skipped while momentum changes stays where it looked ahead to before, and
    its next step is off by that change times v. State: v, the velocity.

    lr: step size, default 0.01. momentum: in [0, 1), default 0.9. Further options and errors: see
    `Optimizer`.
    """

    lr: Nonnegative = 0.01
    momentum: Decay = 0.9
    # p = x + ahead·v now, and = x + behind·v before the step
    scalars: ClassVar = {"behind": 0.0, "ahead": 0.0}

    @kernel("Nesterov")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, v: Array) -> None:
        u = c.momentum * v - c.lr * g
        p[...] = p - c.behind * v + c.onward * u
        v[...] = u

    def advance(self, h: At, t: int, loss: float | None) -> dict[str, float]:
        return {"behind": h.ahead, "ahead": h.next("momentum")}

    def coefficients(self, h: At, t: int) -> dict[str, float]:
        return {"momentum": h.momentum, "behind": h.behind, "onward": 1 + h.ahead, "lr": h.lr}

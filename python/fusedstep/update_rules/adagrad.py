"""Steps divided by a root of squared gradients. The counterpart of cpp/rules/adagrad.hpp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..arithmetic import positive
from ..hyperparameters import At, Decay, Initial, Nonnegative
from ..kernel import Array, Coefficients, Kernel, kernel
from ..optimizer import Optimizer

__all__ = ["Adadelta", "Adagrad", "RMSProp"]


class Adagrad(Optimizer):
    """Adagrad. Duchi, Hazan & Singer 2011, JMLR 12:2121-2159.

    ``s ← s + g²;  p ← p - lr·g / (√s + eps)``. State, 4 bytes: s, the sum of squares. For sparse features,
    whose rare weights make larger steps.

    lr: step size, default 0.01, divided by ``1 + (t - 1)·lr_decay`` (default 0). eps: default 1e-8 (torch:
    1e-10). initial_accumulator: where s starts, default 0, fixed. mean: divide by the root mean square
    ``√(s/t)`` instead of ``√s``, default False. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    lr_decay: Nonnegative = 0.0
    eps: Nonnegative = 1e-8
    initial_accumulator: Initial = 0.0
    mean: bool = False

    @kernel("Adagrad")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, s: Array) -> None:
        s[...] = s + g * g
        p[...] = p - c.step * g / (np.sqrt(s) * c.root + c.eps)

    @classmethod
    def initial(cls, h: Mapping[str, Any]) -> dict[str, float]:
        return {"s": h["initial_accumulator"]}

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {
            "step": h.lr / (1 + (t - 1) * h.lr_decay),
            "root": 1 / math.sqrt(t) if h.mean else 1.0,
            "eps": h.eps,
        }


class RMSProp(Optimizer):
    """RMSProp. Tieleman & Hinton 2012, Neural Networks for Machine Learning, lecture 6.5.

    ``s ← rho·s + (1 - rho)·g²;  p ← p - lr·g / (√s + eps)``. State, 4 bytes: s, the mean of squares; a and b
    where used. For recurrent networks and reinforcement learning, where gradients change in size.

    lr: step size, default 0.001. rho: in [0, 1), default 0.9 (torch: 0.99). eps: default 1e-8.
    centered: ``a ← rho·a + (1 - rho)·g``, and ``√(s - a²)`` for ``√s``, taken as 0 where rounding makes it
    negative (Graves 2013, arXiv:1308.0850), default False, fixed. momentum: ``b ← momentum·b + g / (√s +
    eps);  p ← p - lr·b``, default 0: without b, which cannot change later. eps_inside: ``√(s + eps)`` for
    ``√s + eps``, default False. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    rho: Decay = 0.9
    eps: Nonnegative = 1e-8
    momentum: Decay = 0.0
    centered: bool = False
    eps_inside: bool = False

    @kernel("RMSProp")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, s: Array) -> None:
        s[...] = c.rho * s + c.gain * (g * g)
        p[...] = p - c.step * g / (np.sqrt(s + c.inside) + c.outside)

    @kernel("RMSPropCentered")
    @staticmethod
    def update_centered(c: Coefficients, p: Array, g: Array, s: Array, a: Array) -> None:
        s[...] = c.rho * s + c.gain * (g * g)
        a[...] = c.rho * a + c.gain * g
        p[...] = p - c.step * g / (np.sqrt(positive(s - a * a) + c.inside) + c.outside)

    @kernel("RMSPropMomentum")
    @staticmethod
    def update_momentum(c: Coefficients, p: Array, g: Array, s: Array, b: Array) -> None:
        s[...] = c.rho * s + c.gain * (g * g)
        b[...] = c.momentum * b + g / (np.sqrt(s + c.inside) + c.outside)
        p[...] = p - c.step * b

    @kernel("RMSPropCenteredMomentum")
    @staticmethod
    def update_centered_momentum(c: Coefficients, p: Array, g: Array, s: Array, a: Array, b: Array) -> None:
        s[...] = c.rho * s + c.gain * (g * g)
        a[...] = c.rho * a + c.gain * g
        b[...] = c.momentum * b + g / (np.sqrt(positive(s - a * a) + c.inside) + c.outside)
        p[...] = p - c.step * b

    @classmethod
    def choose_kernel(cls, h: SimpleNamespace) -> Kernel:
        if h.momentum != 0:
            return cls.update_centered_momentum if h.centered else cls.update_momentum
        return cls.update_centered if h.centered else cls.update

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        c = {"rho": h.rho, "gain": 1 - h.rho, "step": h.lr}
        c |= {"inside": h.eps, "outside": 0.0} if h.eps_inside else {"inside": 0.0, "outside": h.eps}
        return c | {"momentum": h.momentum} if "b" in h.kernel.slots else c


class Adadelta(Optimizer):
    """Adadelta. Zeiler 2012, arXiv:1212.5701, Algorithm 1.

    ``s ← rho·s + (1 - rho)·g²;  Δ = √(d + eps) / √(s + eps)·g;  d ← rho·d + (1 - rho)·Δ²;  p ← p - lr·Δ``.
    The paper has no step size: lr = 1. State, 8 bytes: s and d, the means of g² and Δ². Where no lr shall be
    chosen.

    lr: step size, default 1. rho: in [0, 1), default 0.9. eps: default 1e-6. Further options and errors: see
    `Optimizer`.
    """

    lr: Nonnegative = 1.0
    rho: Decay = 0.9
    eps: Nonnegative = 1e-6

    @kernel("Adadelta")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, s: Array, d: Array) -> None:
        s[...] = c.rho * s + c.gain * (g * g)
        delta = np.sqrt(d + c.eps) / np.sqrt(s + c.eps) * g
        d[...] = c.rho * d + c.gain * (delta * delta)
        p[...] = p - c.lr * delta

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"rho": h.rho, "gain": 1 - h.rho, "eps": h.eps, "lr": h.lr}

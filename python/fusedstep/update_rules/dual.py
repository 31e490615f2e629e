"""Dual averaging: parameters computed from sums over all steps. Counterpart of cpp/kernels/rules/dual.hpp."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Annotated, ClassVar

import numpy as np

from ..engine.optimizer import Optimizer
from ..formula import (
    Array,
    At,
    Coefficients,
    Decay,
    Initial,
    Interval,
    Kernel,
    Nonnegative,
    Positive,
    Slot,
    clamp,
    cube_root,
    kernel,
    largest,
    term,
)

__all__ = ["MADGRAD", "Ftrl"]

Power = Annotated[
    float, Interval("{-1, -0.75, -0.5, -0.25, 0}", lambda x: x in {-1, -0.75, -0.5, -0.25, 0}, fixed=True)
]


class Ftrl(Optimizer):
    """FTRL-proximal, follow the regularized leader. McMahan et al. 2013, KDD, Algorithm 1.

    With ``N = n + g²`` and powers ``n^-lr_power`` (√n by default): ``z ← z + g - (N^-lr_power -
    n^-lr_power)/lr·p; p ← (clip(z, -l1, l1) - z) / ((beta + N^-lr_power)/lr + l2);  n ← N``. State, 8 bytes:
    n, the sum of squares, and z. For sparse linear models: where ``|z| ≤ l1`` the weight is exactly 0. p is
    computed from z, which starts at 0, so nonzero first values of p are soon forgotten.

    lr: step size, the paper's α, more than 0, default 0.001. lr_power: one of 0, -0.25, -0.5, -0.75, -1,
    default -0.5, fixed. initial_accumulator: the first value of n, default 0.1, fixed. beta: default 0. l1,
    l2: the paper's λ₁ and λ₂, at least 0, default 0 and 0 (Keras adds its l2 twice: l2 here is 2·l2 there).
    Further options and errors: see `Optimizer`.
    """

    lr: Positive = 1e-3
    lr_power: Power = -0.5
    initial_accumulator: Initial = 0.1
    beta: Nonnegative = 0.0
    l1: Nonnegative = 0.0
    l2: Nonnegative = 0.0
    slots: ClassVar = {"n": Slot(start="initial_accumulator", squares=True), "z": Slot()}
    takes: ClassVar = ("l1", "l2")

    @kernel("Ftrl")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, n: Array, z: Array) -> None:
        root = np.sqrt(n)
        n[...] = n + g * g
        grown = np.sqrt(n)
        slope = grown * c.rate + c.ridge
        moves = ~(slope > largest(slope))
        z[...] = np.where(moves, z + g - (grown - root) * c.rate * p, z)
        p[...] = np.where(moves, (clamp(z, -c.l1, c.l1) - z) / slope, p)

    @kernel("FtrlPower")
    @staticmethod
    def update_power(c: Coefficients, p: Array, g: Array, n: Array, z: Array) -> None:
        before = _power(c, n)
        n[...] = n + g * g
        grown = _power(c, n)
        slope = grown * c.rate + c.ridge
        moves = ~(slope > largest(slope))
        z[...] = np.where(moves, z + g - (grown - before) * c.rate * p, z)
        p[...] = np.where(moves, (clamp(z, -c.l1, c.l1) - z) / slope, p)

    @classmethod
    def choose_kernel(cls, h: SimpleNamespace) -> Kernel:
        return cls.update if h.lr_power == -0.5 else cls.update_power

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        if h.lr == 0:
            raise ValueError("Ftrl divides by lr, which must not be 0")
        c = {"rate": 1 / h.lr, "ridge": h.beta / h.lr + h.l2, "l1": h.l1}
        if h.kernel is cls.update:
            return c
        quarters = round(-4 * h.lr_power)
        return c | {"quarter": quarters & 1, "half": quarters >> 1 & 1, "whole": quarters >> 2}


class MADGRAD(Optimizer):
    """MADGRAD: momentumized, adaptive, dual averaged. Defazio & Jelassi 2021, arXiv:2101.11075, Algorithm 1.

    With ``λ = lr·√t``: ``s ← s + λ·g²;  z ← z + λ·g;  p ← momentum·p + (1 - momentum)·(x0 - z / (∛s +
    eps))``. State, 12 bytes: s and z, sums of squares and of gradients, and x0, the first p. For vision, in
    place of SGD with momentum, and for sparse problems; use less weight decay than with other rules.

    lr: step size, default 0.01. momentum: in [0, 1), default 0.9. eps: default 1e-6. Further options and
    errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    momentum: Decay = 0.9
    eps: Nonnegative = 1e-6
    slots: ClassVar = {"s": Slot(squares=True), "z": Slot(), "x0": Slot(start="p")}

    @kernel("MADGRAD")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, s: Array, z: Array, x0: Array) -> None:
        s[...] = s + term(c.weight, g * g)
        z[...] = z + c.weight * g
        p[...] = c.momentum * p + c.gain * (x0 - z / (cube_root(s) + c.eps))

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {
            "weight": h.lr * math.sqrt(t),
            "eps": h.eps,
            "momentum": h.momentum,
            "gain": 1 - h.momentum,
        }


def _power(c: Coefficients, n: Array) -> Array:
    """The power of n that the coefficients choose, a sum of some of ¼, ½ and 1."""
    root, one = np.sqrt(n), n.dtype.type(1)
    quarter = np.where(c.quarter > 0, np.sqrt(root), one)
    return quarter * np.where(c.half > 0, root, one) * np.where(c.whole > 0, n, one)

"""Relatives of Adam with other moments of the gradient. Counterpart of cpp/kernels/rules/moments.hpp."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from ..engine.optimizer import Optimizer
from ..formula import Array, At, Coefficients, Decay, Initial, Nonnegative, Slot, kernel, power
from ..formula.arithmetic import clamp, largest, term
from .adam import moments

__all__ = ["ADOPT", "AdEMAMix", "AdaBelief", "Adan", "LaProp", "QHAdam", "Yogi"]


class AdaBelief(Optimizer):
    """AdaBelief. Zhuang et al. 2020, arXiv:2010.07468, Algorithm 2.

    ``m ← beta1·m + (1 - beta1)·g;  s ← beta2·s + (1 - beta2)·(g - m)² + eps; p ← p - lr·(m / (1 - beta1ᵗ)) /
    (√(s / (1 - beta2ᵗ)) + eps)``. State, 8 bytes: m, the mean of g, and s, the mean of (g - m)². For long
    steps where gradients are steady: it divides by their variance.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 1e-16. Further
    options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-16
    slots: ClassVar = {"m": Slot(), "s": Slot(squares=True)}

    @kernel("AdaBelief")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, s: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        surprise = g - m
        s[...] = term(c.beta2, s) + c.gain2 * (surprise * surprise) + c.eps
        p[...] = p - c.step * m / (np.sqrt(s) * c.root + c.eps)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return moments(h) | _corrected(h, t)


class Yogi(Optimizer):
    """Yogi. Zaheer et al. 2018, "Adaptive Methods for Nonconvex Optimization", NeurIPS, Algorithm 2.

    ``m ← beta1·m + (1 - beta1)·g;  v ← v - (1 - beta2)·sign(v - g²)·g²; p ← p - lr·(m / (1 - beta1ᵗ)) / (√(v
    / (1 - beta2ᵗ)) + eps)``. The paper has no bias correction; this one is optax's. State, 8 bytes: m and v.
    For gradients that are rarely large: v grows and shrinks at the same speed.

    lr: step size, default 0.01. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 0.001.
    initial_accumulator: the first m and v, default 1e-6, fixed. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-3
    initial_accumulator: Initial = 1e-6
    slots: ClassVar = {
        "m": Slot(start="initial_accumulator"),
        "v": Slot(start="initial_accumulator", squares=True),
    }

    @kernel("Yogi")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        square = g * g
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = np.where(v == square, v, v - c.gain2 * np.sign(v - square) * square)
        p[...] = p - c.step * m / (np.sqrt(v) * c.root + c.eps)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"beta1": h.beta1, "gain1": 1 - h.beta1, "gain2": 1 - h.beta2} | _corrected(h, t)


class AdEMAMix(Optimizer):
    """AdEMAMix. Pagliardini, Ablin & Grangier 2024, arXiv:2409.03137, Algorithm 1.

    ``m ← beta1·m + (1 - beta1)·g;  m2 ← beta3·m2 + (1 - beta3)·g;  v ← beta2·v + (1 - beta2)·g²; p ← p -
    lr·(m / (1 - beta1ᵗ) + alpha·m2) / (√(v / (1 - beta2ᵗ)) + eps)``. During the warm-up alpha rises from 0,
    and beta3 from beta1 so that its half-life rises evenly. State, 12 bytes: m, m2 and v. For long runs, in
    which gradients of ten thousand steps ago are still useful.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.9 and 0.999. beta3: in [0, 1), default
    0.9999. alpha: default 5. warmup: number of steps, default 0; in the paper, all steps of the run. eps:
    default 1e-8. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    beta3: Decay = 0.9999
    alpha: Nonnegative = 5.0
    warmup: Nonnegative = 0.0
    eps: Nonnegative = 1e-8
    slots: ClassVar = {"m": Slot(), "m2": Slot(), "v": Slot(squares=True)}

    @kernel("AdEMAMix")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, m2: Array, v: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        m2[...] = c.beta3 * m2 + c.gain3 * g
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        p[...] = p - (c.fast * m + c.slow * m2) / (np.sqrt(v) * c.root + c.eps)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        done = t / h.warmup if t < h.warmup else 1.0
        beta3 = _slowing(h.beta1, h.beta3, done)
        return moments(h) | {
            "beta3": beta3,
            "gain3": 1 - beta3,
            "fast": h.lr / (1 - power(h.beta1, t)),
            "slow": h.lr * h.alpha * done,
            "root": 1 / math.sqrt(1 - power(h.beta2, t)),
            "eps": h.eps,
        }


class ADOPT(Optimizer):
    """ADOPT. Taniguchi et al. 2024, arXiv:2411.02853, Algorithm 2 with the clipping of its authors' code.

    The first step only sets ``v ← g²``. Then ``m ← beta1·m + (1 - beta1)·clip(g / max(√v, eps), (t - 1)^¼); p
    ← p - lr·m;  v ← beta2·v + (1 - beta2)·g²``, where clip brings every element into ±(t - 1)^¼. State, 8
    bytes: m and v. A parameter that was skipped at the first step has v = 0 at its own first step. It
    converges with any beta2, because the v that divides a gradient does not contain it.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.9 and 0.9999. eps: default 1e-6. clip:
    default True; the paper's first version does not clip. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.9999
    eps: Nonnegative = 1e-6
    clip: bool = True
    slots: ClassVar = {"m": Slot(), "v": Slot(squares=True)}

    @kernel("ADOPT")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        m[...] = term(c.beta1, m) + c.gain1 * clamp(g / np.maximum(np.sqrt(v), c.eps), -c.clip, c.clip)
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        p[...] = p - term(c.lr, m)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        if t == 1:
            c = {"beta1": h.beta1, "gain1": 0.0, "beta2": 0.0, "gain2": 1.0}
            return c | {"eps": h.eps, "clip": 0.0, "lr": 0.0}
        clip = math.sqrt(math.sqrt(t - 1)) if h.clip else math.inf
        return moments(h) | {"eps": h.eps, "clip": clip, "lr": h.lr}


class Adan(Optimizer):
    """Adan: adaptive Nesterov momentum. Xie et al. 2022, arXiv:2208.06677, Algorithm 1.

    With the change of the gradient ``Δ = g - prev`` (0 at the first step; prev is 0 for a parameter that was
    skipped then): ``m ← beta1·m + (1 - beta1)·g; d ← beta2·d + (1 - beta2)·Δ;  n ← beta3·n + (1 - beta3)·(g +
    beta2·Δ)²; p ← (p - lr·(m / (1 - beta1ᵗ) + beta2·d / (1 - beta2ᵗ)) / (√(n / (1 - beta3ᵗ)) + eps)) / (1 +
    lr·weight_decay)``. Each beta is the weight of the past, as in the authors' code; the paper's betas are 1
    minus these. State, 16 bytes: m, d, n, and prev, the last gradient. For large learning rates and batches.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.98 and 0.92. beta3: in [0, 1), default
    0.99. eps: default 1e-8. weight_decay: default 0, proximal as above. Further options and errors: see
    `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.98
    beta2: Decay = 0.92
    beta3: Decay = 0.99
    eps: Nonnegative = 1e-8
    weight_decay: Nonnegative = 0.0
    slots: ClassVar = {"m": Slot(), "d": Slot(), "n": Slot(squares=True), "prev": Slot()}
    takes: ClassVar = ("weight_decay",)

    @kernel("Adan")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, d: Array, n: Array, prev: Array) -> None:
        change = clamp(np.where(c.begun > 0, g - prev, g.dtype.type(0)), -largest(g), largest(g))
        ahead = g + c.beta2 * change
        m[...] = c.beta1 * m + c.gain1 * g
        d[...] = c.beta2 * d + c.gain2 * change
        n[...] = term(c.beta3, n) + c.gain3 * (ahead * ahead)
        p[...] = (p - (c.step * m + c.onward * d) / (np.sqrt(n) * c.root + c.eps)) * c.shrink
        prev[...] = g

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return (
            {"begun": float(t > 1)}
            | moments(h)
            | {
                "beta3": h.beta3,
                "gain3": 1 - h.beta3,
                "step": h.lr / (1 - power(h.beta1, t)),
                "onward": h.lr * h.beta2 / (1 - power(h.beta2, t)),
                "root": 1 / math.sqrt(1 - power(h.beta3, t)),
                "eps": h.eps,
                "shrink": 1 / (1 + h.lr * h.weight_decay),
            }
        )


class LaProp(Optimizer):
    """LaProp. Ziyin, Wang & Ueda 2020, arXiv:2002.04839, Algorithm 1.

    ``v ← beta2·v + (1 - beta2)·g²;  m ← beta1·m + (1 - beta1)·lr·g / (√(v / (1 - beta2ᵗ)) + eps); p ← p - m /
    (1 - beta1ᵗ)``. State, 8 bytes: m, the mean of steps, and v, that of g². Where Adam is unstable: no beta1
    is too large for a beta2.

    lr: step size, default 0.0004. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 1e-15. Further
    options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 4e-4
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-15
    slots: ClassVar = {"m": Slot(), "v": Slot(squares=True)}

    @kernel("LaProp")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        m[...] = c.beta1 * m + c.step * g / (np.sqrt(v) * c.root + c.eps)
        p[...] = p - c.correction * m

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {
            "beta1": h.beta1,
            "step": (1 - h.beta1) * h.lr,
            "beta2": h.beta2,
            "gain2": 1 - h.beta2,
            "root": 1 / math.sqrt(1 - power(h.beta2, t)),
            "eps": h.eps,
            "correction": 1 / (1 - power(h.beta1, t)),
        }


class QHAdam(Optimizer):
    """QHAdam: quasi-hyperbolic Adam. Ma & Yarats 2019, arXiv:1810.06801, eq. 14.

    m and v are as in `Adam`. With ``m̂ = m / (1 - beta1ᵗ), v̂ = v / (1 - beta2ᵗ)``: ``p ← p - lr·((1 - nu1)·g
    + nu1·m̂) / (√((1 - nu2)·g² + nu2·v̂) + eps)``. State, 8 bytes: m and v. For mixtures of RMSProp (nu1 = 0)
    and Adam (nu1 = nu2 = 1).

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.995 and 0.999. nu1: default 0.7. nu2:
    default 1. eps: default 1e-8. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.995
    beta2: Decay = 0.999
    nu1: Nonnegative = 0.7
    nu2: Nonnegative = 1.0
    eps: Nonnegative = 1e-8
    slots: ClassVar = {"m": Slot(), "v": Slot(squares=True)}

    @kernel("QHAdam")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        square = g * g
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = term(c.beta2, v) + c.gain2 * square
        p[...] = p - (c.now1 * g + c.past1 * m) / (np.sqrt(term(c.now2, square) + term(c.past2, v)) + c.eps)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return moments(h) | {
            "now1": h.lr * (1 - h.nu1),
            "past1": h.lr * h.nu1 / (1 - power(h.beta1, t)),
            "now2": 1 - h.nu2,
            "past2": h.nu2 / (1 - power(h.beta2, t)),
            "eps": h.eps,
        }


def _corrected(h: At, t: int) -> dict[str, float]:
    return {
        "step": h.lr / (1 - power(h.beta1, t)),
        "root": 1 / math.sqrt(1 - power(h.beta2, t)),
        "eps": h.eps,
    }


def _slowing(fast: float, slow: float, done: float) -> float:
    """The decay whose half-life is `done` of the way from that of `fast` to that of `slow`."""
    if done >= 1 or slow <= fast:
        return slow
    start = math.log(slow) / math.log(fast) if fast > 0 else 0.0
    return math.exp(math.log(slow) / ((1 - done) * start + done))

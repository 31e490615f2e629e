"""Rules whose step depends on norms over the tensor. The counterpart of cpp/kernels/rules/norms.hpp."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from ..engine.optimizer import Optimizer
from ..formula import (
    Adapted,
    Array,
    At,
    Coefficients,
    Decay,
    Measured,
    Nonnegative,
    Slot,
    Squares,
    kernel,
    power,
    term,
)
from .adam import moments

__all__ = ["LAMB", "LARS", "NovoGrad", "StableAdamW"]


class LARS(Optimizer):
    """LARS, layer-wise adaptive rate scaling. You, Gitman & Ginsburg 2017, arXiv:1708.03888, Algorithm 1.

    ``rate = lr·trust_coefficient·|p| / (|g| + weight_decay·|p| + eps)``, with norms over the tensor, or rate
    = lr if one of them is 0; ``v ← momentum·v + rate·(g + weight_decay·p);  p ← p - v``. State, 4 bytes: v,
    the velocity. For SGD with very large batches; biases and normalization layers do better with another
    rule.

    lr: step size, default 0.1. momentum: in [0, 1), default 0.9. trust_coefficient: the paper's η, default
    0.001. weight_decay: default 0, applied as above. eps: default 0. Further options and errors: see
    `Optimizer`.
    """

    lr: Nonnegative = 0.1
    momentum: Decay = 0.9
    trust_coefficient: Nonnegative = 1e-3
    weight_decay: Nonnegative = 0.0
    eps: Nonnegative = 0.0
    slots: ClassVar = {"v": Slot()}
    takes: ClassVar = ("weight_decay",)

    @staticmethod
    def norms(c: Coefficients, p: Array, g: Array, v: Array) -> Squares:
        return Squares((p, g))

    @kernel("LARS", measure=norms)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, v: Array) -> None:
        v[...] = c.momentum * v + c.step * (c.unit * (g + c.decay * p))
        p[...] = p - v

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"momentum": h.momentum, "decay": h.weight_decay}

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        p, g = measured.norms()
        trust, unit = ratio(h.trust_coefficient * p, g + h.weight_decay * p + h.eps, (p == 0) | (g == 0))
        return Adapted({"step": h.lr * trust, "unit": unit})


class LAMB(Optimizer):
    """LAMB. You et al. 2020, arXiv:1904.00962, Algorithm 2.

    m and v are as in `Adam`. With ``u = (m / (1 - beta1ᵗ)) / (√(v / (1 - beta2ᵗ)) + eps) + weight_decay·p``:
    ``p ← p - lr·|p|/|u|·u``, with norms over the tensor, whose ratio is 1 if one of them is 0. State, 8
    bytes: m and v. For Adam with very large batches.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 1e-6.
    weight_decay: default 0.01, applied as above. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-6
    weight_decay: Nonnegative = 0.01
    slots: ClassVar = {"m": Slot(), "v": Slot(squares=True)}
    takes: ClassVar = ("weight_decay",)

    @staticmethod
    def direction(c: Coefficients, p: Array, m: Array, v: Array) -> Array:
        direction: Array = c.correction * m / (np.sqrt(v) * c.root + c.eps) + c.decay * p
        return direction

    @staticmethod
    def norms(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> Squares:
        m, v = c.beta1 * m + c.gain1 * g, term(c.beta2, v) + c.gain2 * (g * g)
        return Squares((p, LAMB.direction(c, p, m, v)))

    @kernel("LAMB", measure=norms)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        p[...] = p - c.step * (c.unit * LAMB.direction(c, p, m, v))

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return moments(h) | {
            "correction": 1 / (1 - power(h.beta1, t)),
            "root": 1 / math.sqrt(1 - power(h.beta2, t)),
            "eps": h.eps,
            "decay": h.weight_decay,
        }

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        p, u = measured.norms()
        trust, unit = ratio(p, u, (p == 0) | (u == 0))
        return Adapted({"step": h.lr * trust, "unit": unit})


class StableAdamW(Optimizer):
    """StableAdamW: AdamW with update clipping. Wortsman et al. 2023, arXiv:2304.13013, Algorithm 2.

    m and v are as in `Adam`. With ``m̂ = m / (1 - beta1ᵗ), v̂ = v / (1 - beta2ᵗ)`` and ``rate = lr / max(1,
    RMS)``, where RMS² is the mean of ``g² / max(v̂, eps²)`` over the tensor: ``p ← p·(1 - rate·weight_decay)
    - rate·m̂ / (√v̂ + eps)``. State, 8 bytes: m and v. In place of AdamW with clipped gradients, for losses
    with spikes.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.9 and 0.99. eps: default 1e-6.
    weight_decay: default 0.01, applied as above. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    eps: Nonnegative = 1e-6
    weight_decay: Nonnegative = 0.01
    slots: ClassVar = {"m": Slot(), "v": Slot(squares=True)}
    takes: ClassVar = ("weight_decay",)

    @staticmethod
    def surprise(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> Squares:
        v = term(c.beta2, v) + c.gain2 * (g * g)
        return Squares((g / np.maximum(np.sqrt(v) * c.root, c.eps),))

    @kernel("StableAdamW", measure=surprise)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        p[...] = c.keep * p - c.step * m / (np.sqrt(v) * c.root + c.eps)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return moments(h) | {"root": 1 / math.sqrt(1 - power(h.beta2, t)), "eps": h.eps}

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        (surprise,) = measured.norms(of=measured.sizes)
        rate = h.lr / np.maximum(1, surprise)
        return Adapted({"keep": 1 - rate * h.weight_decay, "step": rate / (1 - power(h.beta1, t))})


class NovoGrad(Optimizer):
    """NovoGrad. Ginsburg et al. 2019, arXiv:1905.11286, Algorithm 1.

    ``v ← beta2·v + (1 - beta2)·|g|²`` (at first ``|g|²``), one number per tensor; ``m ← beta1·m + g / (√v +
    eps) + weight_decay·p;  p ← p - lr·m``. Where float64 is too small for v, v is 0 and begins anew. State, 4
    bytes: m; also v. For speech and vision with half of Adam's memory.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.95 and 0.98. eps: default 1e-8.
    weight_decay: default 0, applied as above. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.95
    beta2: Decay = 0.98
    eps: Nonnegative = 1e-8
    weight_decay: Nonnegative = 0.0
    slots: ClassVar = {"m": Slot(), "v": Slot(of="tensor", kept="float64", squares=True)}
    takes: ClassVar = ("weight_decay",)

    @staticmethod
    def norm(c: Coefficients, p: Array, g: Array, m: Array) -> Squares:
        return Squares((g,))

    @kernel("NovoGrad", measure=norm)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array) -> None:
        m[...] = c.beta1 * m + c.gain * (c.unit * g) + c.decay * p
        p[...] = p - c.lr * m

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"beta1": h.beta1, "decay": h.weight_decay, "lr": h.lr}

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        (norm,), (squares,), before = measured.norms(), measured.squares, measured.numbers["v"]
        mean = h.beta2 * before + (1 - h.beta2) * squares
        begins = (before == 0) | np.isinf(mean)
        gain, unit = ratio(1.0, np.where(begins, norm, np.sqrt(mean)) + h.eps)
        v = np.where(begins, squares, mean)
        return Adapted({"gain": gain, "unit": unit}, numbers={"v": np.where(np.isinf(v), 0.0, v)})


def ratio(above: float | Array, below: Array, one: bool | Array = False) -> tuple[Array, Array]:
    """above/below in two factors, of which the second is a power of 2; or 1 where `one` holds.

    The second is 1 unless the ratio is too large or too small for a coefficient in float32.
    """
    exponent = np.frexp(above)[1] - np.frexp(below)[1]
    unit = np.ldexp(1.0, np.where(one | (np.abs(exponent) < 64), 0, exponent // 2))
    return np.where(one, 1.0, above / (unit * below)), unit

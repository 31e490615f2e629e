"""Steps whose size depends on norms over the tensor. The counterpart of cpp/rules/norms.hpp."""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from typing import Annotated, ClassVar

import numpy as np

from ..arithmetic import square
from ..hyperparameters import At, Decay, Interval, Nonnegative, Scheduled
from ..kernel import Array, Coefficients, kernel
from ..optimizer import Optimizer
from ..plan import Adapted, Measured
from .adam import moments

__all__ = ["LAMB", "LARS", "NovoGrad", "Prodigy", "StableAdamW"]

First = Annotated[float, Interval("(0, inf)", lambda x: 0 < x < math.inf, fixed=True)]
Growth = Annotated[Scheduled, Interval("[1, inf]", lambda x: x >= 1)]


class LARS(Optimizer):
    """LARS, layer-wise adaptive rate scaling. You, Gitman & Ginsburg 2017, arXiv:1708.03888, Algorithm 1.

    ``rate = lr·trust_coefficient·|p| / (|g| + weight_decay·|p| + eps)``, with norms over the tensor, or lr
    where one of them is 0; ``v ← momentum·v + rate·(g + weight_decay·p);  p ← p - v``. State, 4 bytes: v, the
    velocity. For SGD with very large batches; biases and normalisations do better in a group of another rule.

    lr: step size, default 0.1. momentum: in [0, 1), default 0.9. trust_coefficient: the paper's η, default
    0.001. weight_decay: default 0, as above. eps: default 0. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.1
    momentum: Decay = 0.9
    trust_coefficient: Nonnegative = 1e-3
    weight_decay: Nonnegative = 0.0
    eps: Nonnegative = 0.0
    takes: ClassVar = ("weight_decay",)

    @staticmethod
    def norms(c: Coefficients, p: Array, g: Array, v: Array) -> tuple[Array, Array]:
        return square(p), square(g)

    @kernel("LARS", measure=norms)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, v: Array) -> None:
        v[...] = c.momentum * v + c.step * (g + c.decay * p)
        p[...] = p - v

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"momentum": h.momentum, "decay": h.weight_decay}

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        p, g = map(np.sqrt, measured.sums)
        trust = h.trust_coefficient * p / (g + h.weight_decay * p + h.eps)
        return Adapted({"step": h.lr * np.where((p == 0) | (g == 0), 1.0, trust)})


class LAMB(Optimizer):
    """LAMB. You et al. 2020, arXiv:1904.00962, Algorithm 2.

    m and v as in `Adam`, ``u = (m / (1 - beta1ᵗ)) / (√(v / (1 - beta2ᵗ)) + eps) + weight_decay·p``; ``p ← p -
    lr·|p|/|u|·u``, with norms over the tensor, and 1 for their ratio where one is 0. State, 8 bytes: m and v.
    For Adam with very large batches.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 1e-6.
    weight_decay: default 0.01, as above. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-6
    weight_decay: Nonnegative = 0.01
    takes: ClassVar = ("weight_decay",)

    @staticmethod
    def direction(c: Coefficients, p: Array, m: Array, v: Array) -> Array:
        direction: Array = c.correction * m / (np.sqrt(v) * c.root + c.eps) + c.decay * p
        return direction

    @staticmethod
    def norms(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> tuple[Array, Array]:
        m, v = c.beta1 * m + c.gain1 * g, c.beta2 * v + c.gain2 * (g * g)
        return square(p), square(LAMB.direction(c, p, m, v))

    @kernel("LAMB", measure=norms)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = c.beta2 * v + c.gain2 * (g * g)
        p[...] = p - c.step * LAMB.direction(c, p, m, v)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return moments(h) | {
            "correction": 1 / (1 - h.beta1**t),
            "root": 1 / math.sqrt(1 - h.beta2**t),
            "eps": h.eps,
            "decay": h.weight_decay,
        }

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        p, u = map(np.sqrt, measured.sums)
        return Adapted({"step": h.lr * np.where((p == 0) | (u == 0), 1.0, p / u)})


class StableAdamW(Optimizer):
    """StableAdamW: AdamW with update clipping. Wortsman et al. 2023, arXiv:2304.13013, Algorithm 2.

    m and v as in `Adam`, ``m̂ = m / (1 - beta1ᵗ), v̂ = v / (1 - beta2ᵗ)``; ``rate = lr / max(1, RMS)``, RMS²
    the mean of ``g² / max(v̂, eps²)`` over the tensor; ``p ← p·(1 - rate·weight_decay) - rate·m̂ / (√v̂ +
    eps)``. State, 8 bytes: m and v. In place of AdamW with clipped gradients, where the loss has spikes.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.9 and 0.99. eps: default 1e-6.
    weight_decay: default 0.01, as above. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    eps: Nonnegative = 1e-6
    weight_decay: Nonnegative = 0.01
    takes: ClassVar = ("weight_decay",)

    @staticmethod
    def surprise(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> tuple[Array]:
        v = c.beta2 * v + c.gain2 * (g * g)
        return (square(g / np.maximum(np.sqrt(v) * c.root, c.eps)),)

    @kernel("StableAdamW", measure=surprise)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = c.beta2 * v + c.gain2 * (g * g)
        p[...] = c.keep * p - c.step * m / (np.sqrt(v) * c.root + c.eps)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return moments(h) | {"root": 1 / math.sqrt(1 - h.beta2**t), "eps": h.eps}

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        (squares,) = measured.sums
        rate = h.lr / np.maximum(1, np.sqrt(squares / measured.sizes))
        return Adapted({"keep": 1 - rate * h.weight_decay, "step": rate / (1 - h.beta1**t)})


class NovoGrad(Optimizer):
    """NovoGrad. Ginsburg et al. 2019, arXiv:1905.11286, Algorithm 1.

    ``v ← beta2·v + (1 - beta2)·|g|²`` (at first ``|g|²``), one number a tensor; ``m ← beta1·m + g / (√v +
    eps) + weight_decay·p;  p ← p - lr·m``. State, 4 bytes: m; v. For speech and vision in half of Adam's
    memory.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.95 and 0.98. eps: default 1e-8.
    weight_decay: default 0, as above. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.95
    beta2: Decay = 0.98
    eps: Nonnegative = 1e-8
    weight_decay: Nonnegative = 0.0
    numbers: ClassVar = {"v": 0.0}
    takes: ClassVar = ("weight_decay",)

    @staticmethod
    def norm(c: Coefficients, p: Array, g: Array, m: Array) -> tuple[Array]:
        return (square(g),)

    @kernel("NovoGrad", measure=norm)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array) -> None:
        m[...] = c.beta1 * m + c.gain * g + c.decay * p
        p[...] = p - c.lr * m

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"beta1": h.beta1, "decay": h.weight_decay, "lr": h.lr}

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        (squares,), before = measured.sums, measured.numbers["v"]
        v = np.where(before == 0, squares, h.beta2 * before + (1 - h.beta2) * squares)
        return Adapted({"gain": 1 / (np.sqrt(v) + h.eps)}, numbers={"v": v})


class Prodigy(Optimizer):
    """Prodigy: Adam that finds its step size. Mishchenko & Defazio 2023, arXiv:2306.06101, Algorithm 4.

    d, an estimate of how far from its start the solution is, multiplies the gradients in m and v of `Adam`.
    With ``k = lr·d²/d0`` and sums over all tensors of a group: ``r ← √beta2·r + k·Σ g·(p0 - p);  s ← √beta2·s
    + k·g; d ← max(d, d_coef·r / Σ|s|)``, at most growth_rate·d; ``p ← p·(1 - lr·d·weight_decay) - lr·d·m /
    (√v + d·eps)``, where the new d is that of eps alone. A step with lr = 0, or before there is any gradient,
    does nothing. State, 16 bytes: m, v, s, and p0, where p started; d, its largest estimate, r, and the steps
    taken, one number a group each. To train without a search for lr: leave it at 1, and give a schedule that
    is at most 1.

    lr: default 1. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 1e-8. weight_decay: default 0,
    as above. d0: the first d, default 1e-6, fixed. d_coef: default 1. growth_rate: at least 1, default inf.
    bias_correction: multiply lr by ``√(1 - beta2ᵗ) / (1 - beta1ᵗ)``, default False. safeguard_warmup: leave
    lr out of what is added to s, default False. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1.0
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-8
    weight_decay: Nonnegative = 0.0
    d0: First = 1e-6
    d_coef: Nonnegative = 1.0
    growth_rate: Growth = math.inf
    bias_correction: bool = False
    safeguard_warmup: bool = False
    scalars: ClassVar = {"d": 0.0, "d_max": 0.0, "r": 0.0, "taken": 0.0}
    copies: ClassVar = ("p0",)
    measures_groups: ClassVar = True
    takes: ClassVar = ("weight_decay",)

    @staticmethod
    def distance(
        c: Coefficients, p: Array, g: Array, m: Array, v: Array, s: Array, p0: Array
    ) -> tuple[Array, Array]:
        along = g.astype(np.float64) * (p0 - p)
        return along, np.abs(c.beta3 * s + c.gain3 * g).astype(np.float64)

    @kernel("Prodigy", measure=distance)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array, s: Array, p0: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = c.beta2 * v + c.gain2 * (g * g)
        s[...] = c.beta3 * s + c.gain3 * g
        p[...] = c.keep * p - c.step * m / (np.sqrt(v) + c.eps)

    @classmethod
    def rate(cls, h: At) -> float:
        """The step size that lr and d make."""
        t = h.taken + 1
        correction = math.sqrt(1 - h.beta2**t) / (1 - h.beta1**t) if h.bias_correction else 1.0
        return float(h.lr * h.d * correction)

    @classmethod
    def advance(cls, h: At, t: int, loss: float | None) -> dict[str, float]:
        return {"d": h.d or h.d0, "d_max": h.d_max or h.d0, "r": h.r, "taken": h.taken}

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        if h.lr == 0:
            return {"beta1": 1.0, "gain1": 0.0, "beta2": 1.0, "gain2": 0.0, "beta3": 1.0, "gain3": 0.0}
        return {
            "beta1": h.beta1,
            "gain1": h.d * (1 - h.beta1),
            "beta2": h.beta2,
            "gain2": h.d * h.d * (1 - h.beta2),
            "beta3": math.sqrt(h.beta2),
            "gain3": h.d / h.d0 * (h.d if h.safeguard_warmup else cls.rate(h)),
        }

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        along, height = (reduce(add, sums.tolist()) for sums in measured.sums)
        every = np.ones_like(measured.sizes)
        if height == 0 or h.lr == 0:
            return Adapted({"keep": every, "step": 0 * every, "eps": every})
        rate = cls.rate(h)
        r = math.sqrt(h.beta2) * h.r + h.d / h.d0 * rate * along
        estimate = h.d_coef * r / height
        d_max = max(h.d_max, estimate)
        d = min(d_max, h.growth_rate * (max(h.d, estimate) if h.d == h.d0 else h.d))
        return Adapted(
            {"keep": (1 - rate * h.weight_decay) * every, "step": rate * every, "eps": d * h.eps * every},
            scalars={"d": d, "d_max": d_max, "r": r, "taken": h.taken + 1},
        )

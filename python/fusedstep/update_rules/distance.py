"""Rules whose step size follows the distance moved. Counterpart of cpp/kernels/rules/distance.hpp."""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from typing import Annotated, ClassVar

import numpy as np

from ..engine.optimizer import Optimizer
from ..formula import (
    Adapted,
    Array,
    At,
    Coefficients,
    Decay,
    Interval,
    Measured,
    Nonnegative,
    Scheduled,
    Slot,
    kernel,
    power,
    term,
)

__all__ = ["Prodigy"]

First = Annotated[float, Interval("(0, inf)", lambda x: 0 < x < math.inf, fixed=True)]
Growth = Annotated[Scheduled, Interval("[1, inf]", lambda x: x >= 1)]


class Prodigy(Optimizer):
    """Prodigy: Adam that finds its step size. Mishchenko & Defazio 2023, arXiv:2306.06101, Algorithm 4.

    d estimates the distance from the start to the solution; it multiplies the gradients in the m and v of
    `Adam`. With ``k = lr·d²/d0`` and sums over all tensors of a group: ``r ← √beta2·r + k·Σ g·(p0 - p);  s ←
    √beta2·s + k·g; d ← max(d, d_coef·r / Σ|s|)``, at most growth_rate·d; ``p ← p·(1 - lr·d·weight_decay) -
    lr·d·m / (√v + d·eps)``, where only d·eps uses the new d. A step with lr = 0, or before the first nonzero
    gradient, does nothing. State, 16 bytes: m, v, s, and p0, the first p; also d, its largest estimate, r and
    the count of steps taken, one number per group each. For training without a search for lr: leave it at 1,
    or give it a schedule of at most 1. Its first steps, as small as d0, would be lost in 16 bits: parameters
    and state in float16 or bfloat16 raise TypeError.

    lr: default 1. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 1e-8. weight_decay: default 0,
    applied as above. d0: the first d, default 1e-6, fixed. d_coef: default 1. growth_rate: at least 1,
    default inf. bias_correction: multiply lr by ``√(1 - beta2ᵗ) / (1 - beta1ᵗ)``, default False.
    safeguard_warmup: leave lr out of the term added to s, default False. Further options and errors: see
    `Optimizer`.
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
    slots: ClassVar = {
        "m": Slot(),
        "v": Slot(squares=True),
        "s": Slot(),
        "p0": Slot(start="p"),
        "d": Slot(of="group"),
        "d_max": Slot(of="group"),
        "r": Slot(of="group"),
        "taken": Slot(of="group"),
    }
    measures_groups: ClassVar = True
    needs_float32: ClassVar = True
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
        v[...] = term(c.beta2, v) + term(c.gain2, g * g)
        s[...] = c.beta3 * s + c.gain3 * g
        p[...] = c.keep * p - c.step * m / (np.sqrt(v) + c.eps)

    @classmethod
    def rate(cls, h: At) -> float:
        """The step size, computed from lr and d."""
        t = h.taken + 1
        correction = math.sqrt(1 - power(h.beta2, t)) / (1 - power(h.beta1, t)) if h.bias_correction else 1.0
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

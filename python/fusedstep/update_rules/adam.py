"""Adam and its variants. The counterpart of cpp/kernels/rules/adam.hpp."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from ..engine.optimizer import Optimizer
from ..formula import (
    Adapted,
    Array,
    At,
    AtLeastOne,
    Coefficients,
    Decay,
    Finite,
    Kernel,
    Measured,
    Nonnegative,
    Slot,
    kernel,
    power,
    term,
)
from . import cautious

__all__ = ["Adam", "AdamW", "Adamax", "Eve", "NAdam", "NAdamW", "RAdam"]


class Adam(Optimizer):
    """Adam. Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1.

    ``m ← beta1·m + (1 - beta1)·g;  v ← beta2·v + (1 - beta2)·g²; p ← p - lr·(m / (1 - beta1ᵗ)) / (√(v / (1 -
    beta2ᵗ)) + eps)``. State, 8 bytes: m and v, the means of g and g². The usual first choice.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 1e-8. amsgrad:
    divide by the root of the largest v so far, state vmax (arXiv:1904.09237), default False, fixed. cautious:
    set to 0 every element of the step whose sign is not the gradient's, and multiply the rest, in each
    tensor, by (all elements) / (elements left), at most 1000 (Liang et al. 2024, arXiv:2411.16085), default
    False, fixed. bias_correction: default True; False is the short form ``p ← p - lr·m / (√v + eps)``.
    eps_hat: the paper's section 2 form ``p ← p - lr·√(1 - beta2ᵗ) / (1 - beta1ᵗ)·m / (√v + eps)``, used by
    Keras, scikit-learn and ONNX, default False. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-8
    amsgrad: bool = False
    bias_correction: bool = True
    eps_hat: bool = False
    cautious: bool = False
    slots: ClassVar = {"m": Slot(), "v": Slot(squares=True), "vmax": Slot(squares=True)}
    steps_rows: ClassVar = True

    @kernel("Adam")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        p[...] = p - c.step * m / (np.sqrt(v) * c.root + c.eps)

    @kernel("AMSGrad")
    @staticmethod
    def update_amsgrad(c: Coefficients, p: Array, g: Array, m: Array, v: Array, vmax: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        vmax[...] = np.maximum(vmax, v)
        p[...] = p - c.step * m / (np.sqrt(vmax) * c.root + c.eps)

    @classmethod
    def choose_kernel(cls, h: SimpleNamespace) -> Kernel:
        if h.cautious:
            return cautious.amsgrad if h.amsgrad else cautious.adam
        return cls.update_amsgrad if h.amsgrad else cls.update

    @classmethod
    def corrected(cls, h: At, t: int) -> tuple[float, float]:
        """The step size, and the factor of √v."""
        if not h.bias_correction:
            return h.lr, 1.0
        step, root = h.lr / (1 - power(h.beta1, t)), 1 / math.sqrt(1 - power(h.beta2, t))
        return (step / root, 1.0) if h.eps_hat else (step, root)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        step, root = cls.corrected(h, t)
        c = {**moments(h), "root": root, "eps": h.eps}
        if not h.cautious:
            c["step"] = step
        return c

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        step, _ = cls.corrected(h, t)
        return Adapted({"step": cautious.lengthened(step, measured)})


class AdamW(Adam):
    """AdamW: Adam with decoupled weight decay. Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2.

    ``p ← p·(1 - lr·weight_decay)``, then the step of `Adam`. In the paper only the schedule scales the decay,
    not lr = α; here both do, as in torch and most others. State, 8 bytes: m and v. The usual choice for
    transformers.

    weight_decay: default 0.01. Further options and errors: see `Adam`.
    """

    weight_decay: Nonnegative = 0.01


class NAdam(Optimizer):
    """NAdam: Adam with Nesterov momentum. Dozat 2016, ICLR workshop, Algorithm 2.

    m and v are as in `Adam`. With ``μₜ = beta1·(1 - 0.96^(t·momentum_decay)/2)`` and ``Πₜ = μ₁·…·μₜ``: ``p ←
    p - lr·((1 - μₜ)/(1 - Πₜ)·g + μₜ₊₁/(1 - Πₜ₊₁)·m) / (√(v / (1 - beta2ᵗ)) + eps)``. State, 8 bytes: m and v;
    also Π, one number per group. Like `Adam`, but a little faster where gradients are steady.

    lr: step size, default 0.002. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 1e-8.
    momentum_decay: ψ, how fast μ rises from beta1/2 to beta1, default 0.004. amsgrad: divide by the root of
    the largest v so far, state vmax, default False, fixed. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 2e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-8
    momentum_decay: Nonnegative = 4e-3
    amsgrad: bool = False
    slots: ClassVar = {**Adam.slots, "mu_product": Slot(of="group", start=1.0)}

    @kernel("NAdam")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        p[...] = p - (c.ahead * g + c.step * m) / (np.sqrt(v) * c.root + c.eps)

    @kernel("NAMSGrad")
    @staticmethod
    def update_amsgrad(c: Coefficients, p: Array, g: Array, m: Array, v: Array, vmax: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        vmax[...] = np.maximum(vmax, v)
        p[...] = p - (c.ahead * g + c.step * m) / (np.sqrt(vmax) * c.root + c.eps)

    @classmethod
    def choose_kernel(cls, h: SimpleNamespace) -> Kernel:
        return cls.update_amsgrad if h.amsgrad else cls.update

    @classmethod
    def advance(cls, h: At, t: int, loss: float | None) -> dict[str, float]:
        return {"mu_product": h.mu_product * _mu(h, t)}

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        mu, mu_next = _mu(h, t), _mu(h, t + 1)
        return moments(h) | {
            "ahead": h.lr * (1 - mu) / (1 - h.mu_product),
            "step": h.lr * mu_next / (1 - h.mu_product * mu_next),
            "root": 1 / math.sqrt(1 - power(h.beta2, t)),
            "eps": h.eps,
        }


class NAdamW(NAdam):
    """NAdam with decoupled weight decay. Dozat 2016; Loshchilov & Hutter 2019, arXiv:1711.05101.

    ``p ← p·(1 - lr·weight_decay)``, then the step of `NAdam`. State, 8 bytes: m and v; also Π, one number per
    group. Like `AdamW`, but a little faster where gradients are steady.

    weight_decay: default 0.01. Further options and errors: see `NAdam`.
    """

    weight_decay: Nonnegative = 0.01


class Adamax(Optimizer):
    """Adamax: Adam with the infinity norm. Kingma & Ba 2015, arXiv:1412.6980, Algorithm 2.

    ``m ← beta1·m + (1 - beta1)·g;  u ← max(beta2·u, |g| + eps);  p ← p - lr/(1 - beta1ᵗ)·m/u``. The paper has
    no eps; this one is torch's. State, 8 bytes: m, the mean of g, and u, a decaying maximum of ``|g|``. Like
    `Adam`, for embeddings and other gradients that are often 0.

    lr: step size, default 0.002. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 1e-8.
    Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 2e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-8
    slots: ClassVar = {"m": Slot(), "u": Slot()}

    @kernel("Adamax")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, u: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        u[...] = np.maximum(c.beta2 * u, np.abs(g) + c.eps)
        p[...] = p - c.step * m / u

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {
            "beta1": h.beta1,
            "gain1": 1 - h.beta1,
            "beta2": h.beta2,
            "step": h.lr / (1 - power(h.beta1, t)),
            "eps": h.eps,
        }


class RAdam(Optimizer):
    """Rectified Adam. Liu et al. 2020, arXiv:1908.03265, Algorithm 2.

    The eps, and the threshold of 5 where the paper has 4, are those of the authors' code and of torch.

    m and v are as in `Adam`. With ``ρ∞ = 2/(1 - beta2) - 1`` and ``ρ = ρ∞ - 2t·beta2ᵗ/(1 - beta2ᵗ)``: where ρ
    > 5, ``p ← p - lr·r·m/(1 - beta1ᵗ)·√(1 - beta2ᵗ)/(√v + eps)`` with ``r = √((ρ-4)(ρ-2)ρ∞ /
    ((ρ∞-4)(ρ∞-2)ρ))``; otherwise ``p ← p - lr·m/(1 - beta1ᵗ)``. State, 8 bytes: m and v, the means of g and
    g². Like `Adam`, but needs no warm-up.

    lr: step size, default 0.001. beta1, beta2: in [0, 1), default 0.9 and 0.999. eps: default 1e-8.
    Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-8
    slots: ClassVar = {"m": Slot(), "v": Slot(squares=True)}

    @kernel("RAdam")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
        m[...] = c.beta1 * m + c.gain1 * g
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        p[...] = p - c.step * m / (np.sqrt(v) + c.eps if c.rectified else 1)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        correction1, correction2 = 1 - power(h.beta1, t), 1 - power(h.beta2, t)
        limit = 2 / (1 - h.beta2) - 1
        rho = limit - 2 * t * power(h.beta2, t) / correction2
        step = h.lr / correction1
        if rho > 5:
            step *= math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho) * correction2)
        return moments(h) | {"step": step, "rectified": float(rho > 5), "eps": h.eps}


class Eve(Adam):
    """Eve: Adam whose step size follows the loss. Hayashi, Koushik & Neubig, arXiv:1611.01505, Algorithm 1.

    `Adam` with the step size ``lr/d``. d is 1 at the first step; later, with f and f_before, the losses of
    this step and the previous one, ``d̂ = clip(|f - f_before| / (min(f, f_before) - f_star), 1/c, c);  d ←
    beta3·d + (1 - beta3)·d̂``. State, 8 bytes: m and v; also d and f, one number per group each. Every step
    needs its loss: ``step(grads, loss=f)``. Like `Adam`, for training whose least possible loss is known.

    beta3: in [0, 1), default 0.999. c: at least 1, default 10. f_star: a lower bound of the loss, default 0.
    Further options: see `Adam`. Raises ValueError for a step without a loss, or with one below f_star.
    """

    beta3: Decay = 0.999
    c: AtLeastOne = 10.0
    f_star: Finite = 0.0
    slots: ClassVar = {**Adam.slots, "d": Slot(of="group", start=1.0), "f": Slot(of="group")}
    needs_loss: ClassVar = True
    steps_rows: ClassVar = False

    @classmethod
    def advance(cls, h: At, t: int, loss: float | None) -> dict[str, float]:
        if loss is None:
            raise ValueError("Eve needs the loss: step(grads, loss=...)")
        if loss < h.f_star:
            raise ValueError(f"loss {loss} is below f_star = {h.f_star}")
        if t == 1:
            return {"d": 1.0, "f": loss}
        change, height = abs(loss - h.f), min(loss, h.f) - h.f_star
        ratio = change / height if height > 0 else math.inf if change > 0 else 0.0
        return {"d": h.beta3 * h.d + (1 - h.beta3) * min(max(ratio, 1 / h.c), h.c), "f": loss}

    @classmethod
    def corrected(cls, h: At, t: int) -> tuple[float, float]:
        step, root = super().corrected(h, t)
        return step / h.d, root


def _mu(h: At, t: int) -> float:
    """The momentum of NAdam at step t."""
    return float(h.beta1 * (1 - 0.5 * power(0.96, t * h.momentum_decay)))


def moments(h: At) -> dict[str, float]:
    """The coefficients of m and v."""
    return {"beta1": h.beta1, "gain1": 1 - h.beta1, "beta2": h.beta2, "gain2": 1 - h.beta2}

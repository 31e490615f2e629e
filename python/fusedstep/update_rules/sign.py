"""Rules that use only the sign of the gradient. The counterpart of cpp/kernels/rules/sign.hpp."""

from __future__ import annotations

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
    Kernel,
    Measured,
    Nonnegative,
    Slot,
    clamp,
    kernel,
)
from . import cautious
from .adam import moments

__all__ = ["Lion", "Rprop", "SignSGD", "Signum", "Tiger"]


class SignSGD(Optimizer):
    """SignSGD. Bernstein et al. 2018, arXiv:1802.04434, Algorithm 1.

    ``p ← p - lr·sign(g)``. No state. For gradients whose sign is more certain than their size; every weight
    moves by lr.

    lr: step size, default 0.001. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3

    @kernel("SignSGD")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array) -> None:
        p[...] = p - c.lr * np.sign(g)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"lr": h.lr}


class Signum(Optimizer):
    """Signum: SignSGD with momentum. Bernstein et al. 2018, arXiv:1802.04434, Algorithm 2.

    ``m ← momentum·m + (1 - momentum)·g;  p ← p - lr·sign(m)``. State, 4 bytes: m, the mean of g. Like
    `SignSGD`, where single gradients are too noisy.

    lr: step size, default 0.001. momentum: in [0, 1), default 0.9. Further options and errors: see
    `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    momentum: Decay = 0.9
    slots: ClassVar = {"m": Slot()}

    @kernel("Signum")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array) -> None:
        m[...] = c.momentum * m + c.gain * g
        p[...] = p - c.lr * np.sign(m)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"momentum": h.momentum, "gain": 1 - h.momentum, "lr": h.lr}


class Tiger(Signum):
    """Tiger: Signum with the settings of a tight-fisted optimizer. Su 2023, github.com/bojone/tiger.

    ``m ← momentum·m + (1 - momentum)·g;  p ← p·(1 - lr·weight_decay) - lr·sign(m)``. State, 4 bytes: m, the
    mean of g. For training in little memory: half the state of Adam, and the steps of `Lion` with beta1 =
    beta2.

    momentum: in [0, 1), default 0.965. weight_decay: default 0.01. Further options and errors: see `Signum`.
    """

    momentum: Decay = 0.965
    weight_decay: Nonnegative = 0.01


class Lion(Optimizer):
    """Lion, evolved sign momentum. Chen et al. 2023, arXiv:2302.06675, Program 1.

    ``p ← p - lr·sign(beta1·m + (1 - beta1)·g);  m ← beta2·m + (1 - beta2)·g``. State, 4 bytes: m, the mean of
    g. Half the state of `AdamW`; the paper's lr is 3 to 10 times smaller than AdamW's, and its weight_decay
    larger by the same factor.

    lr: step size, default 0.0001. beta1, beta2: in [0, 1), default 0.9 and 0.99. cautious: set to 0 every
    element of the step whose sign is not the gradient's, and multiply the rest, in each tensor, by (all
    elements) / (elements left), at most 1000 (Liang et al. 2024, arXiv:2411.16085), default False, fixed.
    Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-4
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    cautious: bool = False
    slots: ClassVar = {"m": Slot()}

    @kernel("Lion")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, m: Array) -> None:
        p[...] = p - c.lr * np.sign(c.beta1 * m + c.gain1 * g)
        m[...] = c.beta2 * m + c.gain2 * g

    @classmethod
    def choose_kernel(cls, h: SimpleNamespace) -> Kernel:
        return cautious.lion if h.cautious else cls.update

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return moments(h) if h.cautious else moments(h) | {"lr": h.lr}

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        return Adapted({"step": cautious.lengthened(h.lr, measured)})


class Rprop(Optimizer):
    """Resilient backpropagation. Riedmiller & Braun 1993; without going back: Igel & Hüsken 2000 (iRprop-).

    Every parameter has a step size of its own, which starts at lr, grows while its gradient keeps its sign,
    and shrinks when the sign changes: ``step ← clamp(step·(eta_plus, eta_minus or 1), step_min, step_max)``
    for a g·prev that is positive, negative or 0; where it is negative, ``g ← 0``; then ``p ← p -
    sign(g)·step;  prev ← g``. For gradients over the whole data set. State, 8 bytes: prev, and step, which is
    0 until it starts.

    lr: the first step size, default 0.01; later it has no effect. eta_minus: in [0, 1), default 0.5.
    eta_plus: at least 1, default 1.2. step_min: default 1e-6. step_max: default 50. Further options and
    errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    eta_minus: Decay = 0.5
    eta_plus: AtLeastOne = 1.2
    step_min: Nonnegative = 1e-6
    step_max: Nonnegative = 50.0
    slots: ClassVar = {"prev": Slot(), "step": Slot()}

    @kernel("Rprop")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, prev: Array, step: Array) -> None:
        zero, one = g.dtype.type(0), g.dtype.type(1)
        agreement = np.sign(g) * np.sign(prev)
        factor = np.where(agreement > 0, c.plus, np.where(agreement < 0, c.minus, one))
        step[...] = clamp(np.where(step == 0, c.lr, step) * factor, c.least, c.most)
        prev[...] = np.where(agreement < 0, zero, g)
        p[...] = p - np.sign(prev) * step

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        sizes = {"least": h.step_min, "most": h.step_max}
        return {"lr": h.lr, "minus": h.eta_minus, "plus": h.eta_plus} | sizes

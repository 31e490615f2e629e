"""Steps that take from the gradient its sign alone. The counterpart of cpp/rules/sign.hpp."""

from __future__ import annotations

import numpy as np

from ..arithmetic import clamp
from ..hyperparameters import At, AtLeastOne, Decay, Nonnegative
from ..kernel import Array, Coefficients, kernel
from ..optimizer import Optimizer

__all__ = ["Rprop"]


class Rprop(Optimizer):
    """Resilient backpropagation. Riedmiller & Braun 1993; without going back: Igel & Hüsken 2000 (iRprop-).

    Every parameter has a step size of its own, which starts at lr, grows while its gradient keeps its sign,
    and shrinks when that changes: ``step ← clamp(step·(eta_plus, eta_minus or 1), step_min, step_max)``, as
    g·prev is positive, negative or 0; where negative, ``g ← 0``; then ``p ← p - sign(g)·step;  prev ← g``.
    For gradients of all data. State: prev, and step, which is 0 until it starts.

    lr: the first step size, default 0.01; later it has no effect. eta_minus: in [0, 1), default 0.5.
    eta_plus: at least 1, default 1.2. step_min: default 1e-6. step_max: default 50. Further options and
    errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    eta_minus: Decay = 0.5
    eta_plus: AtLeastOne = 1.2
    step_min: Nonnegative = 1e-6
    step_max: Nonnegative = 50.0

    @kernel("Rprop")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, prev: Array, step: Array) -> None:
        zero, one = g.dtype.type(0), g.dtype.type(1)
        agreement = g * prev
        factor = np.where(agreement > 0, c.plus, np.where(agreement < 0, c.minus, one))
        step[...] = clamp(np.where(step == 0, c.lr, step) * factor, c.least, c.most)
        prev[...] = np.where(agreement < 0, zero, g)
        p[...] = p - np.sign(prev) * step

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        sizes = {"least": h.step_min, "most": h.step_max}
        return {"lr": h.lr, "minus": h.eta_minus, "plus": h.eta_plus} | sizes

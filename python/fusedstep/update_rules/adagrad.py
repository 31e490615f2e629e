"""Rules that divide by a root of squared gradients. The counterpart of cpp/kernels/rules/adagrad.hpp."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

from ..arrays.memory import rounded
from ..arrays.storage import arithmetic as computed_in
from ..engine.optimizer import Optimizer
from ..formula import (
    Adapted,
    Arithmetic,
    Array,
    At,
    Coefficients,
    Decay,
    Initial,
    Kernel,
    Measured,
    Nonnegative,
    Portion,
    Slot,
    kernel,
    square,
    term,
    variance,
)
from .matrix import Adafactor

__all__ = ["Adadelta", "Adagrad", "RMSProp", "RowwiseAdagrad"]


class Adagrad(Optimizer):
    """Adagrad. Duchi, Hazan & Singer 2011, JMLR 12:2121-2159.

    ``s ← s + g²;  p ← p - lr·g / (√s + eps)``. State, 4 bytes: s, the sum of squares. For sparse features:
    rarely used weights take larger steps.

    lr: step size, default 0.01, divided by ``1 + (t - 1)·lr_decay`` (default 0). eps: default 1e-8 (torch:
    1e-10). initial_accumulator: the first value of s, default 0, fixed. mean: divide by the root mean square
    ``√(s/t)`` instead of ``√s``, default False. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    lr_decay: Nonnegative = 0.0
    eps: Nonnegative = 1e-8
    initial_accumulator: Initial = 0.0
    mean: bool = False
    slots: ClassVar = {"s": Slot(start="initial_accumulator", squares=True)}
    steps_rows: ClassVar = True

    @kernel("Adagrad")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, s: Array) -> None:
        s[...] = s + g * g
        p[...] = p - c.step * g / (np.sqrt(s) * c.root + c.eps)

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {
            "step": h.lr / (1 + (t - 1) * h.lr_decay),
            "root": 1 / math.sqrt(t) if h.mean else 1.0,
            "eps": h.eps,
        }


def divide_rows(arithmetic: Arithmetic, h: At, t: int, o: Array, s: Array) -> dict[str, Array]:
    """Divide each row of a gradient by the root of its accumulator; return the new accumulators."""
    x = np.ascontiguousarray(o, computed_in(o.dtype))
    squares, _ = arithmetic.square_sums(x)
    s, rate = accumulated(h, s, squares, x.shape[1])
    arithmetic.multiply(x, rate, np.ones(x.shape[1]), math.inf)
    if x is not o:
        o[...] = rounded(x, o.dtype)
    return {"s": s}


def accumulated(h: At, s: Array, squares: Array, width: Any) -> tuple[Array, Array]:
    """The new accumulators of rows, and one over their roots, from values not yet rounded to 16 bits."""
    with np.errstate(all="ignore"):
        after = (s.astype(np.float64) + squares / np.maximum(width, 1)).astype(computed_in(s.dtype))
        return after.astype(s.dtype), 1 / (np.sqrt(after.astype(np.float64)) + h.eps)


class RowwiseAdagrad(Optimizer):
    """Adagrad with one accumulator a row. Mudigere et al. 2022, arXiv:2104.05158, as in DLRM and FBGEMM.

    For a matrix, with the mean over each row: ``s ← s + mean(g²);  p ← p - lr·g / (√s + eps)``. `Adagrad`
    steps all other parameters. State, 4 bytes: s; for a matrix, one number per row. `step` also needs memory
    for the g of a matrix, in the dtype of the state, so 16 bits round it. For embeddings, with `Rows`.

    lr: step size, default 0.01. eps: default 1e-8. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    eps: Nonnegative = 1e-8
    slots: ClassVar = {"s": Slot(squares=True)}
    steps_rows: ClassVar = True

    update = Adagrad.update
    direction = Adafactor.direction

    @staticmethod
    def squares(c: Coefficients, p: Array, g: Array) -> tuple[Array]:
        return (square(g),)

    @kernel("RowwiseAdagradRow", measure=squares)
    @staticmethod
    def update_row(c: Coefficients, p: Array, g: Array) -> None:
        p[...] = p - c.lr * (c.rate * g)

    @kernel(
        "RowwiseAdagrad",
        after=(direction,),
        turn=divide_rows,
        slots={"o": Slot(lives=False), "s": Slot(of="table row", squares=True)},
        of_rows=update_row,
    )
    @staticmethod
    def update_matrix(c: Coefficients, p: Array, g: Array, o: Array) -> None:
        p[...] = p - c.lr * o

    @classmethod
    def choose_matrix_kernel(cls, h: SimpleNamespace) -> Kernel | None:
        return cls.update_matrix

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        if h.sweep is cls.direction:
            return {"scale": 1.0}
        return {"step": h.lr, "root": 1.0, "eps": h.eps} if h.kernel is cls.update else {"lr": h.lr}

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        (squares,) = measured.sums
        s, rate = accumulated(h, measured.numbers["s"], squares, measured.sizes)
        return Adapted({"rate": rate}, numbers={"s": s})


class RMSProp(Optimizer):
    """RMSProp. Tieleman & Hinton 2012, Neural Networks for Machine Learning, lecture 6.5.

    ``s ← rho·s + (1 - rho)·g²;  p ← p - lr·g / (√s + eps)``. State, 4 bytes: s, the mean of squares; a and b
    if used. For recurrent networks and reinforcement learning, where gradients change in size.

    lr: step size, default 0.001. rho: in [0, 1), default 0.9 (torch: 0.99). eps: default 1e-8. centered: keep
    ``a ← rho·a + (1 - rho)·g`` and use ``√(s - a²)`` in place of ``√s``, or 0 where rounding makes s - a²
    negative (Graves 2013, arXiv:1308.0850), default False, fixed. momentum: ``b ← momentum·b + g / (√s +
    eps);  p ← p - lr·b``, default 0; with 0 there is no b, and this choice is fixed. eps_inside: use ``√(s +
    eps)`` in place of ``√s + eps``, default False. Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 1e-3
    rho: Decay = 0.9
    eps: Nonnegative = 1e-8
    momentum: Decay = 0.0
    centered: bool = False
    eps_inside: bool = False
    slots: ClassVar = {"s": Slot(squares=True), "a": Slot(), "b": Slot()}
    steps_rows: ClassVar = True

    @kernel("RMSProp")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, s: Array) -> None:
        s[...] = term(c.rho, s) + c.gain * (g * g)
        p[...] = p - c.step * g / (np.sqrt(s + c.inside) + c.outside)

    @kernel("RMSPropCentered")
    @staticmethod
    def update_centered(c: Coefficients, p: Array, g: Array, s: Array, a: Array) -> None:
        s[...] = term(c.rho, s) + c.gain * (g * g)
        a[...] = c.rho * a + c.gain * g
        p[...] = p - c.step * g / (np.sqrt(variance(s, a) + c.inside) + c.outside)

    @kernel("RMSPropMomentum")
    @staticmethod
    def update_momentum(c: Coefficients, p: Array, g: Array, s: Array, b: Array) -> None:
        s[...] = term(c.rho, s) + c.gain * (g * g)
        b[...] = c.momentum * b + g / (np.sqrt(s + c.inside) + c.outside)
        p[...] = p - c.step * b

    @kernel("RMSPropCenteredMomentum")
    @staticmethod
    def update_centered_momentum(c: Coefficients, p: Array, g: Array, s: Array, a: Array, b: Array) -> None:
        s[...] = term(c.rho, s) + c.gain * (g * g)
        a[...] = c.rho * a + c.gain * g
        b[...] = c.momentum * b + g / (np.sqrt(variance(s, a) + c.inside) + c.outside)
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
        return c | {"momentum": h.momentum} if "b" in h.kernel.operands else c


class Adadelta(Optimizer):
    """Adadelta. Zeiler 2012, arXiv:1212.5701, Algorithm 1.

    ``s ← rho·s + (1 - rho)·g²;  Δ = √(d + eps) / √(s + eps)·g;  d ← rho·d + (1 - rho)·Δ²;  p ← p - lr·Δ``.
    The paper has no step size: lr = 1. State, 8 bytes: s and d, the means of g² and Δ². For training without
    choosing a step size.

    lr: step size, default 1. rho: in [0, 1], default 0.9. eps: default 1e-6. Further options and errors: see
    `Optimizer`.
    """

    lr: Nonnegative = 1.0
    rho: Portion = 0.9
    eps: Nonnegative = 1e-6
    slots: ClassVar = {"s": Slot(squares=True), "d": Slot(squares=True)}

    @kernel("Adadelta")
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, s: Array, d: Array) -> None:
        s[...] = term(c.rho, s) + term(c.gain, g * g)
        delta = np.sqrt(d + c.eps) / np.sqrt(s + c.eps) * g
        d[...] = c.rho * d + c.gain * (delta * delta)
        p[...] = p - c.lr * delta

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"rho": h.rho, "gain": 1 - h.rho, "eps": h.eps, "lr": h.lr}

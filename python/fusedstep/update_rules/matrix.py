"""Rules whose direction is computed from a whole matrix. Counterpart of cpp/kernels/rules/matrix.hpp."""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from types import SimpleNamespace
from typing import ClassVar

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
    Finite,
    Kernel,
    Measured,
    Nonnegative,
    Nonpositive,
    Positive,
    Slot,
    Squares,
    kernel,
    largest,
    power,
    sweep,
    term,
)
from .adam import AdamW

__all__ = ["Adafactor", "Muon"]


def orthogonalize(arithmetic: Arithmetic, h: At, t: int, o: Array) -> dict[str, Array]:
    """Bring the singular values of a matrix near 1, then scale the matrix to the length of a step."""
    m, n = o.shape
    length = 0.2 * math.sqrt(max(m, n)) if h.match_rms else math.sqrt(max(1, m / max(n, 1)))
    with np.errstate(all="ignore"):
        x = np.ascontiguousarray(o.T if m > n else o, computed_in(o.dtype))
        norm, factor = norm_of(arithmetic, x), 1.0
        if not 2.0**-100 <= norm < 2.0**100:  # it may leave float32, and its square float64
            factor = 2.0 ** math.copysign(600 if x.dtype == np.float64 else 64, 1 - norm)
            norm = norm_of(arithmetic, x := factor * x)
        x = np.divide(x, max(norm, factor * h.ns_eps)).astype(x.dtype)
        for _ in range(round(h.ns_steps)):
            gram = x @ x.T
            x = h.ns_a * x + (h.ns_b * gram + h.ns_c * (gram @ gram)) @ x
        o[...] = length * (x.T if m > n else x)
    return {}


def norm_of(arithmetic: Arithmetic, x: Array) -> float:
    """The root of the sum of squares of a matrix."""
    rows, _ = arithmetic.square_sums(x)
    return math.sqrt(reduce(add, rows.tolist(), 0.0))


class Muon(AdamW):
    """Muon, momentum orthogonalized. Jordan et al. 2024, kellerjordan.github.io/posts/muon.

    For matrices, which are parameters of two axes, with m rows and n columns: ``buf ← momentum·buf + (1 -
    momentum)·g``, and ``o = (1 - momentum)·g + momentum·buf``, or o = buf without nesterov. Then o is divided
    by its norm, replaced ns_steps times by ``ns_a·o + (ns_b·G + ns_c·G²)·o, G = o·oᵀ`` (Newton-Schulz;
    applied to oᵀ if m > n), and ``p ← p·(1 - lr·weight_decay) - lr·√max(1, m/n)·o``. `AdamW` steps all other
    parameters, and the matrices of groups with ``matrices=False``, which suits embeddings and last layers:
    give these groups an lr for AdamW. State, 8 bytes: m and v of AdamW; matrices have buf, 4 bytes, and need
    as much memory again for o. NumPy's BLAS computes the products, so their bits may differ between machines.
    For the hidden layers of transformers.

    lr: step size, default 0.001. momentum: in [0, 1), default 0.95. nesterov: default True. match_rms:
    multiply lr by ``0.2·√max(m, n)`` instead, so that an lr for AdamW suits matrices too (Liu et al. 2025,
    arXiv:2502.16982), default False. ns_a: default 3.4445. ns_b: default -4.775. ns_c: default 2.0315.
    ns_steps: default 5. ns_eps: the least norm to divide by, default 1e-7. matrices: default True, fixed.
    weight_decay: default 0.1. Further options and errors: see `AdamW`.
    """

    lr: Nonnegative = 1e-3
    momentum: Decay = 0.95
    nesterov: bool = True
    match_rms: bool = False
    ns_a: Finite = 3.4445
    ns_b: Finite = -4.775
    ns_c: Finite = 2.0315
    ns_steps: Nonnegative = 5.0
    ns_eps: Nonnegative = 1e-7
    matrices: bool = True
    weight_decay: Nonnegative = 0.1
    steps_rows: ClassVar = False

    @sweep("MuonDirection")
    @staticmethod
    def direction(c: Coefficients, p: Array, g: Array, buf: Array, o: Array) -> None:
        o[...] = c.now * g + c.past * (c.momentum * buf + c.gain * g)

    @kernel(
        "Muon",
        after=(direction,),
        turn=orthogonalize,
        slots={"buf": Slot(), "o": Slot(lives=False)},
    )
    @staticmethod
    def update_matrix(c: Coefficients, p: Array, g: Array, buf: Array, o: Array) -> None:
        buf[...] = c.momentum * buf + c.gain * g
        p[...] = p - c.lr * o

    @classmethod
    def choose_matrix_kernel(cls, h: SimpleNamespace) -> Kernel | None:
        return cls.update_matrix if h.matrices else None

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        momentum = {"momentum": h.momentum, "gain": 1 - h.momentum}
        if h.sweep is cls.direction:
            now = 1 - h.momentum if h.nesterov else 0.0
            return momentum | {"now": now, "past": 1 - now}
        if h.kernel is cls.update_matrix:
            return momentum | {"lr": h.lr}
        return super().coefficients(h, t)


def divide(
    arithmetic: Arithmetic, h: At, t: int, o: Array, row_var: Array, col_var: Array
) -> dict[str, Array]:
    """Divide a gradient by the root of its factored mean square; return the new factors."""
    x = np.ascontiguousarray(o, computed_in(o.dtype))
    rows, columns = arithmetic.square_sums(x)
    m, n = x.shape[-2:]
    gain = power(t, h.beta2_decay)
    with np.errstate(all="ignore"):
        after = {
            "row_var": _mean(row_var, rows / max(n, 1), gain),
            "col_var": _mean(col_var, columns / max(m, 1), gain),
        }
        of_rows, of_columns = (after[name].astype(np.float64) for name in ("row_var", "col_var"))
        total = np.add.accumulate(of_rows, axis=-2)[..., -1:, :] if of_rows.size else of_rows
        total = np.minimum(total, largest(total))
        of_rows = of_rows / np.maximum(total / max(m, 1), h.eps1)
        arithmetic.multiply(x, 1 / np.sqrt(of_rows), 1 / np.sqrt(of_columns), np.divide(1, h.eps1))
    if x is not o:
        o[...] = rounded(x, o.dtype)
    return after


class Adafactor(Optimizer):
    """Adafactor. Shazeer & Stern 2018, arXiv:1804.04235, Algorithms 4 and 5, as torch has it.

    ``beta2 = 1 - t^beta2_decay``. For a matrix with m rows and n columns: ``row_var ← beta2·row_var + (1 -
    beta2)·(mean of g² over its columns)``, col_var likewise over its rows, and ``v = row_var·col_var /
    mean(row_var)``. For all other parameters: ``v ← beta2·v + (1 - beta2)·g²``. Then ``u = g / √max(v,
    eps1²)``, and with RMS, the root mean square, ``p ← p·(1 - lr·weight_decay) - max(eps2, RMS(p))·min(lr,
    1/√t) / max(1, RMS(u)/d)·u``. A parameter of more than two axes is a stack of matrices. State, 4 bytes: v;
    matrices have the small row_var and col_var instead, and need memory for u, which is not state. For large
    models in little memory.

    lr: the largest relative step, default 0.01. beta2_decay: at most 0, default -0.8. eps1: default
    1.1920928955078125e-07, the epsilon of float32 (torch: that of each dtype). eps2: the least RMS of p,
    default 0.001. d: the largest RMS of u, more than 0, default 1. weight_decay: default 0, applied as above.
    Further options and errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    beta2_decay: Nonpositive = -0.8
    eps1: Nonnegative = 2.0**-23
    eps2: Nonnegative = 1e-3
    d: Positive = 1.0
    weight_decay: Nonnegative = 0.0
    slots: ClassVar = {"v": Slot(squares=True)}
    takes: ClassVar = ("weight_decay",)

    @sweep("GradientDirection")
    @staticmethod
    def direction(c: Coefficients, p: Array, g: Array, o: Array) -> None:
        o[...] = c.scale * g

    @staticmethod
    def squares(c: Coefficients, p: Array, g: Array, o: Array) -> Squares:
        return Squares((p, o))

    @kernel(
        "Adafactor",
        measure=squares,
        after=(direction,),
        turn=divide,
        slots={
            "o": Slot(lives=False),
            "row_var": Slot(of="row", squares=True),
            "col_var": Slot(of="column", squares=True),
        },
        stacks=True,
    )
    @staticmethod
    def update_matrix(c: Coefficients, p: Array, g: Array, o: Array) -> None:
        p[...] = c.keep * p - c.step * o

    @staticmethod
    def squares_of_vectors(c: Coefficients, p: Array, g: Array, v: Array) -> Squares:
        return Squares((p, g / np.maximum(np.sqrt(term(c.decay, v) + term(c.gain, g * g)), c.least)))

    @kernel("AdafactorVector", measure=squares_of_vectors)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, v: Array) -> None:
        v[...] = term(c.decay, v) + term(c.gain, g * g)
        p[...] = c.keep * p - c.step * (g / np.maximum(np.sqrt(v), c.least))

    @classmethod
    def choose_matrix_kernel(cls, h: SimpleNamespace) -> Kernel | None:
        return cls.update_matrix

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        if h.sweep is cls.direction:
            return {"scale": 1.0}
        keep = {"keep": 1 - h.lr * h.weight_decay}
        if h.kernel is cls.update_matrix:
            return keep
        gain = power(t, h.beta2_decay)
        return {"decay": 1 - gain, "gain": gain, "least": h.eps1} | keep

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        of_p, of_u = measured.norms(of=measured.sizes)
        rate = np.maximum(h.eps2, of_p) * min(h.lr, 1 / math.sqrt(t))
        return Adapted({"step": rate / np.maximum(1, of_u / h.d)})


def _mean(before: Array, now: Array, gain: float) -> Array:
    """The running mean after this step, in the dtype of the arithmetic, or its largest number for more."""
    wide, dtype = before.astype(np.float64), computed_in(before.dtype)
    mean = term(1 - gain, wide) + gain * now.reshape(wide.shape)
    within: Array = np.minimum(mean, np.finfo(dtype).max).astype(dtype)
    return within

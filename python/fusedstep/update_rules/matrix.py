"""Steps along a direction that is made of the whole matrix. The counterpart of cpp/rules/matrix.hpp."""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from ..arithmetic import square
from ..hyperparameters import At, AtLeastOne, Decay, Finite, Nonnegative, Nonpositive
from ..kernel import (
    Arithmetic,
    Array,
    Coefficients,
    Factors,
    MatrixKernel,
    Shape,
    kernel,
    matrix_kernel,
)
from ..optimizer import Optimizer
from ..plan import Adapted, Measured
from ..storage import arithmetic as computed_in
from .adam import AdamW

__all__ = ["Adafactor", "Muon"]


def orthogonalize(arithmetic: Arithmetic, h: At, t: int, o: Array, factors: Factors) -> Factors:
    """Bring the singular values of a matrix near 1, and then the matrix to the length of a step."""
    m, n = o.shape
    length = 0.2 * math.sqrt(max(m, n)) if h.match_rms else math.sqrt(max(1, m / max(n, 1)))
    with np.errstate(all="ignore"):
        x = np.ascontiguousarray(o.T if m > n else o, computed_in(o.dtype))
        rows, _ = arithmetic.square_sums(x)
        norm = max(math.sqrt(reduce(add, rows.tolist(), 0.0)), h.ns_eps)
        x = np.divide(x, norm).astype(x.dtype)
        for _ in range(round(h.ns_steps)):
            gram = x @ x.T
            x = h.ns_a * x + (h.ns_b * gram + h.ns_c * (gram @ gram)) @ x
        o[...] = length * (x.T if m > n else x)
    return factors


class Muon(AdamW):
    """Muon, momentum orthogonalized. Jordan et al. 2024, kellerjordan.github.io/posts/muon.

    For matrices, parameters of two axes, with m rows and n columns: ``buf ← momentum·buf + (1 -
    momentum)·g``, and ``o = (1 - momentum)·g + momentum·buf``, or buf without nesterov. Then o is divided by
    its norm, and ns_steps times becomes ``ns_a·o + (ns_b·G + ns_c·G²)·o, G = o·oᵀ`` (Newton-Schulz; of oᵀ
    where m > n), and ``p ← p·(1 - lr·weight_decay) - lr·√max(1, m/n)·o``. All other parameters, and the
    matrices of groups with ``matrices=False``, as embeddings and last layers should be, are stepped by
    `AdamW`: give them groups with an lr for it. State, 8 bytes: m and v of AdamW; matrices have buf, 4 bytes,
    and as much memory for o. The products are those of NumPy's BLAS, and as equal from machine to machine as
    these. For the hidden layers of transformers.

    lr: step size, default 0.001. momentum: in [0, 1), default 0.95. nesterov: default True. match_rms: lr
    times ``0.2·√max(m, n)`` instead, so that an lr for AdamW is one for matrices too (Liu et al. 2025,
    arXiv:2502.16982), default False. ns_a: default 3.4445. ns_b: default -4.775. ns_c: default 2.0315.
    ns_steps: default 5. ns_eps: the least norm, default 1e-7. matrices: default True, fixed. weight_decay:
    default 0.1. All else as for `AdamW`.
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

    @kernel("MuonDirection")
    @staticmethod
    def direction(c: Coefficients, p: Array, g: Array, buf: Array, o: Array) -> None:
        o[...] = c.now * g + c.past * (c.momentum * buf + c.gain * g)

    @matrix_kernel("Muon", direction=direction, turn=orthogonalize)
    @staticmethod
    def update_matrix(c: Coefficients, p: Array, g: Array, buf: Array, o: Array) -> None:
        buf[...] = c.momentum * buf + c.gain * g
        p[...] = p - c.lr * o

    @classmethod
    def choose_matrix_kernel(cls, h: SimpleNamespace) -> MatrixKernel | None:
        return cls.update_matrix if h.matrices else None

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        momentum = {"momentum": h.momentum, "gain": 1 - h.momentum}
        if h.kernel is cls.direction:
            now = 1 - h.momentum if h.nesterov else 0.0
            return momentum | {"now": now, "past": 1 - now}
        if h.kernel is cls.update_matrix:
            return momentum | {"lr": h.lr}
        return super().coefficients(h, t)


def row_and_column(shape: Shape) -> dict[str, Shape]:
    """The shapes of a matrix's factors, or those of a stack of them."""
    return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}


def divide(arithmetic: Arithmetic, h: At, t: int, o: Array, factors: Factors) -> Factors:
    """Divide a gradient by the root of its factored mean square, of which the factors are returned."""
    x = np.ascontiguousarray(o, computed_in(o.dtype))
    rows, columns = arithmetic.square_sums(x)
    m, n = x.shape[-2:]
    gain = t**h.beta2_decay
    with np.errstate(all="ignore"):
        after = {
            "row_var": _mean(factors["row_var"], rows / max(n, 1), gain),
            "col_var": _mean(factors["col_var"], columns / max(m, 1), gain),
        }
        of_rows, of_columns = (after[name].astype(np.float64) for name in ("row_var", "col_var"))
        total = np.add.accumulate(of_rows, axis=-2)[..., -1:, :] if of_rows.size else of_rows
        of_rows = of_rows / np.maximum(total / max(m, 1), h.eps1)
        arithmetic.multiply(x, 1 / np.sqrt(of_rows), 1 / np.sqrt(of_columns), np.divide(1, h.eps1))
    if x is not o:
        o[...] = x
    return after


class Adafactor(Optimizer):
    """Adafactor. Shazeer & Stern 2018, arXiv:1804.04235, Algorithms 4 and 5, as torch has it.

    ``beta2 = 1 - t^beta2_decay``. Of a matrix, m rows and n columns, ``row_var ← beta2·row_var + (1 -
    beta2)·(mean of g² over its columns)``, col_var likewise over its rows; ``v = row_var·col_var /
    mean(row_var)``. Of all other parameters ``v ← beta2·v + (1 - beta2)·g²``. Then ``u = g / √max(v,
    eps1²)``, and with root mean squares ``p ← p·(1 - lr·weight_decay) - max(eps2, RMS(p))·min(lr, 1/√t) /
    max(1, RMS(u)/d)·u``. More than two axes are a stack of matrices. State, 4 bytes: v; matrices have row_var
    and col_var, next to nothing, and memory for u that is no state. For large models in little memory.

    lr: the largest relative step, default 0.01. beta2_decay: at most 0, default -0.8. eps1: default
    1.1920928955078125e-07, the epsilon of float32 (torch: that of each dtype). eps2: the least RMS of p,
    default 0.001. d: the largest RMS of u, default 1. weight_decay: default 0, as above. Further options and
    errors: see `Optimizer`.
    """

    lr: Nonnegative = 0.01
    beta2_decay: Nonpositive = -0.8
    eps1: Nonnegative = 2.0**-23
    eps2: Nonnegative = 1e-3
    d: AtLeastOne = 1.0
    weight_decay: Nonnegative = 0.0
    takes: ClassVar = ("weight_decay",)

    @kernel("GradientDirection")
    @staticmethod
    def direction(c: Coefficients, p: Array, g: Array, o: Array) -> None:
        o[...] = c.scale * g

    @staticmethod
    def squares(c: Coefficients, p: Array, g: Array, o: Array) -> tuple[Array, Array]:
        return square(p), square(o)

    @matrix_kernel(
        "Adafactor", measure=squares, direction=direction, turn=divide, factors=row_and_column, stacks=True
    )
    @staticmethod
    def update_matrix(c: Coefficients, p: Array, g: Array, o: Array) -> None:
        p[...] = c.keep * p - c.step * o

    @staticmethod
    def squares_of_vectors(c: Coefficients, p: Array, g: Array, v: Array) -> tuple[Array, Array]:
        return square(p), square(g / np.maximum(np.sqrt(c.decay * v + c.gain * (g * g)), c.least))

    @kernel("AdafactorVector", measure=squares_of_vectors)
    @staticmethod
    def update(c: Coefficients, p: Array, g: Array, v: Array) -> None:
        v[...] = c.decay * v + c.gain * (g * g)
        p[...] = c.keep * p - c.step * (g / np.maximum(np.sqrt(v), c.least))

    @classmethod
    def choose_matrix_kernel(cls, h: SimpleNamespace) -> MatrixKernel | None:
        return cls.update_matrix

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        if h.kernel is cls.direction:
            return {"scale": 1.0}
        keep = {"keep": 1 - h.lr * h.weight_decay}
        if h.kernel is cls.update_matrix:
            return keep
        gain = t**h.beta2_decay
        return {"decay": 1 - gain, "gain": gain, "least": h.eps1} | keep

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        of_p, of_u = (np.sqrt(squares / measured.sizes) for squares in measured.sums)
        rate = np.maximum(h.eps2, of_p) * min(h.lr, 1 / math.sqrt(t))
        return Adapted({"step": rate / np.maximum(1, of_u / h.d)})


def _mean(before: Array, now: Array, gain: float) -> Array:
    """The running mean, in the type that is computed in."""
    wide = before.astype(np.float64)
    after: Array = (1 - gain) * wide + gain * now.reshape(wide.shape)
    return after.astype(computed_in(before.dtype))

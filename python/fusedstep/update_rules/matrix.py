"""Steps along a direction that is made of the whole matrix. The counterpart of cpp/rules/matrix.hpp."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from ..hyperparameters import At, Decay, Finite, Nonnegative
from ..kernel import Array, Coefficients, Kernel, kernel, matrix_kernel
from ..storage import arithmetic
from .adam import AdamW

__all__ = ["Muon"]


def orthogonalize(h: At, o: Array) -> None:
    """Bring the singular values of a matrix near 1, and then the matrix to the length of a step; in place."""
    m, n = o.shape
    length = 0.2 * math.sqrt(max(m, n)) if h.match_rms else math.sqrt(max(1, m / max(n, 1)))
    x = o.astype(arithmetic(o.dtype))
    x = x.T if m > n else x
    x = x / max(np.linalg.norm(x), x.dtype.type(h.ns_eps))
    for _ in range(round(h.ns_steps)):
        gram = x @ x.T
        x = h.ns_a * x + (h.ns_b * gram + h.ns_c * (gram @ gram)) @ x
    o[...] = x.dtype.type(length) * (x.T if m > n else x)


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
    def choose_matrix_kernel(cls, h: SimpleNamespace) -> Kernel | None:
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

"""Steps taken only where they agree with the gradient. The counterpart of cpp/kernels/rules/cautious.hpp."""

from __future__ import annotations

import numpy as np

from ..formula import Array, Coefficients, Measured, kernel, term

LEAST = 1e-3
"""The least mean of the mask that is divided by, as in the authors' code."""


def lengthened(step: float, measured: Measured) -> Array:
    """The step size of each tensor, lengthened because only some of its elements step."""
    (agreeing,) = measured.sums
    lengths: Array = step / np.maximum(agreeing / measured.sizes, LEAST)
    return lengths


def _agreement(step: Array, g: Array) -> Array:
    """1 where the signs agree, else 0."""
    return np.where(np.sign(step) * g > 0, g.dtype.type(1), g.dtype.type(0))


def _agreeing(c: Coefficients, p: Array, g: Array, m: Array, *others: Array) -> tuple[Array]:
    return (_agreement(c.beta1 * m + c.gain1 * g, g),)


@kernel("CautiousAdam", measure=_agreeing)
def adam(c: Coefficients, p: Array, g: Array, m: Array, v: Array) -> None:
    """Cautious Adam. Liang et al. 2024, arXiv:2411.16085, Algorithm 1."""
    m[...] = c.beta1 * m + c.gain1 * g
    v[...] = term(c.beta2, v) + c.gain2 * (g * g)
    p[...] = p - _agreement(m, g) * (c.step * m / (np.sqrt(v) * c.root + c.eps))


@kernel("CautiousAMSGrad", measure=_agreeing)
def amsgrad(c: Coefficients, p: Array, g: Array, m: Array, v: Array, vmax: Array) -> None:
    """Cautious AMSGrad."""
    m[...] = c.beta1 * m + c.gain1 * g
    v[...] = term(c.beta2, v) + c.gain2 * (g * g)
    vmax[...] = np.maximum(vmax, v)
    p[...] = p - _agreement(m, g) * (c.step * m / (np.sqrt(vmax) * c.root + c.eps))


@kernel("CautiousLion", measure=_agreeing)
def lion(c: Coefficients, p: Array, g: Array, m: Array) -> None:
    """Cautious Lion."""
    direction = c.beta1 * m + c.gain1 * g
    p[...] = p - _agreement(direction, g) * (c.step * np.sign(direction))
    m[...] = c.beta2 * m + c.gain2 * g

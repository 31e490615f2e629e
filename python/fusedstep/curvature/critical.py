"""Classifying a point with a small gradient, and the way down from a saddle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from ..extras import imported
from ..formula.hyperparameters import NONNEGATIVE, POSITIVE, PROPER_FRACTION, checked_number
from .parameters import Parameters, Vector
from .products import Gradient, operator

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from ..arrays.structure import Params
    from ..engine.engine import Engine

Kind: TypeAlias = Literal["minimum", "maximum", "saddle", "flat"]
Eigen: TypeAlias = tuple[float, Vector]

KINDS: dict[tuple[bool, bool], Kind] = {
    (False, True): "minimum",
    (True, False): "maximum",
    (True, True): "saddle",
    (False, False): "flat",
}
"""The kind of a point, by whether some eigenvalues are negative and some positive."""
FEW = 64
"""Up to this size, computing the whole Hessian takes about as many products as the iterations do."""
RESTARTS = 300
DOUBLINGS = 20


@dataclass(frozen=True, eq=False)
class CriticalPoint:
    """A point where the gradient is small, described by the extreme eigenvalues of its Hessian.

    An eigenvalue counts as 0 if it is at most the tolerance times the largest magnitude among them.
    """

    kind: Kind
    """At a "minimum" some eigenvalues are positive and none negative, at a "maximum" the other way round, at
    a "saddle" some are of each sign; it is "flat" where all are 0."""
    degenerate: bool
    """Whether a minimum or maximum has an eigenvalue 0. Along its direction, terms beyond the second order
    decide: it may be a valley, or the loss may fall in the end. True if flat, False for a saddle, which stays
    a saddle in any case.
    """
    lowest: float
    """The lowest eigenvalue."""
    highest: float
    """The highest eigenvalue."""
    gradient_norm: float
    """The 2-norm of the gradient."""
    escape: Any = field(repr=False)
    """The direction in which the loss falls most, to either side: the unit eigenvector of the lowest
    eigenvalue, None unless that is negative. Arrays of float64, keyed as the parameters are; for a single
    array, one array.
    """


def examine(
    gradient: Gradient,
    params: Params | Engine,
    *,
    small: float = 1e-3,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> CriticalPoint:
    """Tell whether a point with a small gradient is a minimum, a maximum or a saddle.

    The lowest and the highest eigenvalue of the Hessian decide. SciPy's Lanczos iteration, ARPACK, computes
    them from products with vectors (see `hessian`, also for `gradient` and `params`); up to 64 parameters,
    they come from the whole matrix. In many dimensions, training mostly stalls at saddles: Dauphin et al.,
    arXiv:1406.2572.

    small: the largest 2-norm of the gradient, default 1e-3. tolerance: the fraction of the largest magnitude
    up to which an eigenvalue counts as 0, in (0, 1), default 1e-3; smaller values take longer, and float32
    gradients allow about 3e-4. seed: the seed of the iteration's start, default 0.

    Raises ValueError if the gradient is not small, RuntimeError if the eigenvalues cannot be computed that
    well, and the errors of `hessian`.
    """
    small = checked_number("small", small, NONNEGATIVE)
    tolerance = checked_number("tolerance", tolerance, PROPER_FRACTION)
    parameters = Parameters(params)
    norm = float(np.linalg.norm(parameters.gradient(gradient())))
    if norm > small:
        raise ValueError(f"the gradient is not small: its norm is {norm:.3g}, and small={small:.3g}")
    h = operator(gradient, parameters)
    (lowest, direction), (highest, other) = _extremes(h, tolerance, seed)
    zero = tolerance * max(abs(lowest), abs(highest))
    residual = max(
        float(np.linalg.norm(h @ v - value * v)) for value, v in ((lowest, direction), (highest, other))
    )
    if not residual <= zero:  # NaN included
        raise RuntimeError(
            f"the eigenvalues {lowest:.3g} and {highest:.3g} are known to {residual:.2g} only, and tolerance="
            f"{tolerance:.3g} asks for {zero:.2g}: raise it, or see that gradient() has less noise"
        )
    negative, positive = lowest < -zero, highest > zero
    kind = KINDS[negative, positive]
    return CriticalPoint(
        kind=kind,
        degenerate=kind != "saddle" and min(abs(lowest), abs(highest)) <= zero,
        lowest=lowest,
        highest=highest,
        gradient_norm=norm,
        escape=parameters.tree(direction) if negative else None,
    )


def leave(
    loss: Callable[[], float], params: Params | Engine, point: CriticalPoint, *, length: float = 0.01
) -> float:
    """Move the parameters down from a saddle, along its `escape`; return the loss there.

    On both sides it doubles the step, at most 20 times, as long as the loss falls, and takes the best step.
    `loss` is called without arguments and returns the loss at the parameters' present values; `params` are
    the parameters of `point`. length: the 2-norm of the first step, default 0.01.

    Raises ValueError if the point has no direction of escape or belongs to other parameters, RuntimeError if
    the loss does not fall. After these errors and those of `loss`, the parameters are as they were.
    """
    length = checked_number("length", length, POSITIVE)
    if point.escape is None:
        raise ValueError(f"there is no escape from a {point.kind}: no eigenvalue is negative")
    parameters = Parameters(params)
    escape = parameters.vector(point.escape)
    here = float(loss())
    best, best_step = here, None
    for side in (escape, -escape):
        fallen = here
        for i in range(DOUBLINGS + 1):
            step = length * 2**i * side
            value = float(parameters.at(step, loss))
            if not value < fallen:
                break
            fallen = value
            if value < best:
                best, best_step = value, step
    if best_step is None:
        raise RuntimeError(
            f"the loss, {here:.6g}, does not fall by a step of length {length:.3g}: try another"
        )
    parameters.move(best_step)
    return best


def _extremes(h: LinearOperator, tolerance: float, seed: int) -> tuple[Eigen, Eigen]:
    """The lowest and the highest eigenvalue, each with its unit vector."""
    n = h.shape[0]
    if n <= FEW:
        matrix = h @ np.eye(n)
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        return (float(values[0]), vectors[:, 0]), (float(values[-1]), vectors[:, -1])
    start = np.random.default_rng(seed).standard_normal(n)
    if not (h @ start).any():  # all products are 0, and ARPACK could not begin
        zero = 0.0, start / np.linalg.norm(start)
        return zero, zero
    one = _largest(h, 0.0, start, tolerance)
    # Seen from twice that eigenvalue, the other end is the farthest, and at least as far away as that
    # eigenvalue is from 0: the accuracy stays relative to the largest magnitude.
    other = _largest(h, 2 * one[0], start, tolerance)
    return (one, other) if one[0] < other[0] else (other, one)


def _largest(h: LinearOperator, origin: float, start: Vector, tolerance: float) -> Eigen:
    """The eigenvalue farthest from `origin`, with its unit vector."""
    linalg = imported("scipy.sparse.linalg", "curvature")
    moved = linalg.LinearOperator(h.shape, matvec=lambda v: h @ v - origin * v, dtype=h.dtype)
    try:
        # Ten times as exact as the tolerance, so that the tolerance also holds for the eigenvectors.
        (value,), vectors = linalg.eigsh(moved, k=1, v0=start, tol=tolerance / 10, maxiter=RESTARTS)
    except linalg.ArpackError as error:
        raise RuntimeError(
            f"no eigenvalue to within tolerance={tolerance:.3g} after {RESTARTS} restarts of the Lanczos "
            "iteration: raise it, or see that gradient() has less noise"
        ) from error
    return float(value) + origin, vectors[:, 0]

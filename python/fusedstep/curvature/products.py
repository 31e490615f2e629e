"""Products with the Hessian, from gradients on both sides of a point."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import imported
from .parameters import Parameters, Vector

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from ..arrays.structure import Params
    from ..engine.engine import Engine

Gradient = Callable[[], Any]


def hessian(gradient: Gradient, params: Params | Engine) -> LinearOperator:
    """The Hessian as a SciPy operator, whose product with a vector takes two gradients.

    ``H·v ≈ (g(x + ε·v) - g(x - ε·v)) / 2ε`` at the parameters' values x at that time. (In exact arithmetic:
    Pearlmutter 1994, doi:10.1162/neco.1994.6.1.147.) A vector holds all parameters end to end, each in C
    order, in float64.

    `gradient` is called without arguments and returns the gradients at the parameters' present values, in
    their structure, shapes and dtypes. Each call must use the same data, nothing random, and add the terms
    that an optimizer would add, such as ``l2``. `params` is what an optimizer takes (an array, a sequence or
    mapping of arrays, or groups of them) or an optimizer. For each gradient the parameters are moved in
    place; then their bits are restored, also after an error or an interrupt.

    Raises TypeError or ValueError, naming the array, for parameters that are not float32 or float64 (in 16
    bits, differences would be noise), and, in a product, for gradients that are not finite or do not match
    their parameters. Needs SciPy: ``pip install "fusedstep[curvature]"``.
    """
    return operator(gradient, Parameters(params))


def operator(gradient: Gradient, parameters: Parameters) -> LinearOperator:
    """The same for parameters that are already joined."""

    def product(vector: Vector) -> Vector:
        v = vector.ravel()
        length = np.linalg.norm(v)
        if not length:
            return np.zeros_like(v)
        # Rounding x and the gradients causes an error of about eps·(1 + |x|) / ε, the third derivative one of
        # about ε². At the cube root they are equal; networks bend sooner, so a fifth of it suits them.
        epsilon = np.cbrt(parameters.eps * (1 + np.linalg.norm(parameters.values()))) / 5
        ahead, behind = (
            parameters.at(sign * epsilon / length * v, lambda: parameters.gradient(gradient()))
            for sign in (1, -1)
        )
        found: Vector = (ahead - behind) * (length / (2 * epsilon))
        return found

    linalg = imported("scipy.sparse.linalg", "curvature")
    shape = (parameters.size, parameters.size)
    return linalg.LinearOperator(shape, matvec=product, rmatvec=product, dtype=np.float64)

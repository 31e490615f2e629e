"""A step that also returns norms, made of sums of squares that its pass adds up."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from .._core import Changes
from ..formula.coefficients import StepCoefficients, root
from ..formula.kernel import Array
from .options import StepNorms, StepOptions, TensorNorms
from .step import Plan, Step


class SummingPlan(Plan, Protocol):
    """A plan that can also sum what it moves."""

    def run_and_sum(
        self, coefficients: Sequence[StepCoefficients | None], zero_gradients: bool, changes: Changes, /
    ) -> Array:
        """Do the last sweep as `run` does; return sums of squares, ``[tensor, 3, 3]``.

        They are those of the gradient as it was given, of the weights before the step, and of what it adds to
        them; each in three parts, as `root` takes it.
        """


class NormedStep(Step):
    """A step whose result has the norms of gradients, updates and weights."""

    __slots__ = ("_summing", "_tree")

    def __init__(
        self, plan: SummingPlan, options: StepOptions, tree: Callable[[list[TensorNorms]], Any]
    ) -> None:
        """Begin as `Step` does; ``tree(norms)`` has the norms of the tensors keyed like the parameters."""
        super().__init__(plan, options)
        self._summing = plan
        self._tree = tree

    def _move(self, coefficients: Sequence[StepCoefficients], changes: Changes) -> None:
        options = self._options
        sums = self._summing.run_and_sum(coefficients, options.zero_grad, changes)
        in_all, *each = norms_of(sums, abs(options.scale))
        self.result = self.result._replace(norms=StepNorms(*in_all, self._tree(each)))


def begun(plan: SummingPlan, options: StepOptions, tree: Callable[[list[TensorNorms]], Any]) -> Step:
    """Begin a step, with norms if the options ask for them; see `NormedStep`."""
    return NormedStep(plan, options, tree) if options.norms else Step(plan, options)


def norms_of(sums: Array, scale: float) -> list[TensorNorms]:
    """Return the norms of all tensors together, and then of each; the order of the tensors changes no bit."""
    in_all = [[math.fsum(sums[:, k, part]) for part in range(3)] for k in range(3)]
    with np.errstate(all="ignore"):
        norms = root(*np.moveaxis(np.concatenate([[in_all], sums]), -1, 0))
    return [TensorNorms(scale * gradient, update, weight) for gradient, weight, update in norms.tolist()]

"""The options of a step, and its result."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

from .._core import clip_coefficient
from ..formula.hyperparameters import REAL, Interval, checked_bool, checked_number

LIMIT = Interval("[0, inf]", lambda x: x >= 0)


class HasNorm(Protocol):
    """An object that has gradients, such as a plan."""

    def norm(self) -> tuple[float, bool]:
        """Return the 2-norm of the gradients, and whether all their elements are finite."""


class TensorNorms(NamedTuple):
    """The 2-norms of a parameter at a step."""

    gradient: float
    """Of the scaled gradient, before clipping; 0 without one."""
    update: float
    """Of what the step adds to the weights: their stored values after it less those before it."""
    weight: float
    """Of the weights before the step."""


class StepNorms(NamedTuple):
    """The 2-norms that ``step(grads, norms=True)`` returns, of all parameters together and of each."""

    gradient: float
    """Of all scaled gradients, before clipping."""
    update: float
    """Of what the step adds to all weights."""
    weight: float
    """Of all weights before the step."""
    by_tensor: Any
    """The `TensorNorms` of each parameter, keyed like the parameters, as `state` is."""


class StepResult(NamedTuple):
    """The result of a step."""

    grad_norm: float | None
    """The 2-norm of the scaled gradients before clipping; None where it was not needed."""
    skipped: bool
    """Whether the step did nothing because the gradients hold a NaN or an infinity."""
    norms: StepNorms | None = None
    """Further norms; None unless asked for, and of a skipped step."""


DONE = StepResult(None, False)
"""The result of a step that needed no norm."""


class StepOptions(NamedTuple):
    """The keyword arguments of `Optimizer.step`, checked."""

    scale: float
    clip_norm: float | None
    clip_value: float
    """Infinite if elements are not clipped."""
    skip_nonfinite: bool
    zero_grad: bool
    norms: bool = False

    def result(self, plan: HasNorm) -> StepResult:
        """Return the result, with the norm, of a step that `plan` has yet to make."""
        norm, finite = plan.norm()
        return StepResult(norm * abs(self.scale), self.skip_nonfinite and not finite)

    def scale_at(self, norm: float) -> float:
        """Return the factor for the gradients, clipping included, if their scaled norm is `norm`."""
        if self.clip_norm is None:
            return self.scale
        return self.scale * clip_coefficient(norm, self.clip_norm)


DEFAULTS = StepOptions(1.0, None, math.inf, False, False)


def checked_options(
    scale: Any, clip_norm: Any, clip_value: Any, skip_nonfinite: Any, zero_grad: Any, norms: Any
) -> StepOptions:
    """Return the options as numbers and bools; raise TypeError or ValueError for one that is neither."""
    plain = type(scale) is float and scale == 1
    if plain and clip_norm is clip_value is None and skip_nonfinite is zero_grad is norms is False:
        return DEFAULTS  # a step without options need not check them again
    return StepOptions(
        checked_number("scale", scale, REAL),
        None if clip_norm is None else checked_number("clip_norm", clip_norm, LIMIT),
        math.inf if clip_value is None else checked_number("clip_value", clip_value, LIMIT),
        checked_bool("skip_nonfinite", skip_nonfinite),
        checked_bool("zero_grad", zero_grad),
        checked_bool("norms", norms),
    )

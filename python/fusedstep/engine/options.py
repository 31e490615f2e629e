"""The options of a step, and its result."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

from ..formula.hyperparameters import REAL, Interval, checked_bool, checked_number

LIMIT = Interval("[0, inf]", lambda x: x >= 0)


class HasNorm(Protocol):
    """What has gradients."""

    def norm(self) -> tuple[float, bool]:
        """Their 2-norm, and whether all their elements are finite."""


class StepResult(NamedTuple):
    """What a step did."""

    grad_norm: float | None
    """The 2-norm of the scaled gradients before clipping; None where it was not needed."""
    skipped: bool
    """Whether a NaN or an infinity in the gradients made it do nothing."""


class StepOptions(NamedTuple):
    """The keyword arguments of `Optimizer.step`, checked."""

    scale: float
    clip_norm: float | None
    clip_value: float
    """Infinite where there is no clipping by it."""
    skip_nonfinite: bool
    zero_grad: bool

    def look(self, plan: HasNorm) -> tuple[float | None, bool]:
        """The norm of the scaled gradients that `plan` has, if it is needed, and whether to skip the step."""
        if self.clip_norm is None and not self.skip_nonfinite:
            return None, False
        norm, finite = plan.norm()
        return norm * abs(self.scale), self.skip_nonfinite and not finite

    def scale_at(self, norm: float | None) -> float:
        """What gradients whose scaled norm this is are multiplied by."""
        if self.clip_norm is None or norm is None:
            return self.scale
        return self.scale * clip_coefficient(norm, self.clip_norm)


def checked_options(
    scale: Any, clip_norm: Any, clip_value: Any, skip_nonfinite: Any, zero_grad: Any
) -> StepOptions:
    """The options as numbers and truth values; an error if one is none."""
    return StepOptions(
        checked_number("scale", scale, REAL),
        None if clip_norm is None else checked_number("clip_norm", clip_norm, LIMIT),
        math.inf if clip_value is None else checked_number("clip_value", clip_value, LIMIT),
        checked_bool("skip_nonfinite", skip_nonfinite),
        checked_bool("zero_grad", zero_grad),
    )


def clip_coefficient(norm: float, limit: float) -> float:
    """What brings gradients of this norm to a norm of at most `limit`; NaN if the norm is."""
    coefficient = limit / (norm + 1e-6)
    return 1.0 if coefficient > 1 else coefficient

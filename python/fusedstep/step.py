"""What is said at a step, and what it says."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .hyperparameters import REAL, Interval, checked_bool, checked_number

LIMIT = Interval("[0, inf]", lambda x: x >= 0)


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

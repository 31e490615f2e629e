"""Steps whose coefficients are known before, because nothing changes but the gradients and t."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._core import Changes
from ..arrays.tensors import Tensors
from ..backends import Plan
from ..backends.native import NativePlan
from .options import DONE, StepOptions, StepResult
from .shares import GroupShare
from .step import AHEAD, forecast, is_foreseeable


class Foresight:
    """The coefficients of some steps to come, which a plan has, and what they depend on."""

    def __init__(
        self,
        plan: Plan,
        shares: Sequence[GroupShare],
        tensors: Tensors,
        counts: dict[str, int],
        changes: Changes,
    ) -> None:
        """`counts` will count the steps, by way of the changes."""
        known = isinstance(plan, NativePlan) and tensors.are_dense and all(map(is_foreseeable, shares))
        self._plan = plan if known else None
        self._shares = shares
        self._counts = counts
        self._changes = changes
        self._last = 0
        """The last step whose coefficients are known, if the hyperparameters stay as they are."""
        if self._plan:
            self._plan.watch([share.group.entries for share in shares])

    def reaches(self, t: int, options: StepOptions) -> bool:
        """Whether step t may be done by `step`."""
        return t <= self._last and not (options.skip_nonfinite or options.norms)

    def step(self, t: int, gradients: list[Any], options: StepOptions) -> StepResult | None:
        """Do step t and return its result; None if it is to be done as if nothing were known."""
        if self._plan is None:
            return None
        how = options.scale, options.clip_norm, options.clip_value, options.zero_grad
        done = self._plan.step_again(gradients, t, *how, self._counts, self._changes)
        if done is None:
            return None
        return DONE if done[0] is None else StepResult(done[0], False)

    def look(self, t: int) -> None:
        """After step t, compute the next coefficients, if the hyperparameters are as at the step before."""
        if self._plan and self._plan.settled():
            for k, share in enumerate(self._shares):
                self._plan.forecast(k, t + 1, forecast(share, AHEAD))
            self._last = t + AHEAD

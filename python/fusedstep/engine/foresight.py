"""Steps whose coefficients are known before, because nothing changes but the gradients and t."""

from __future__ import annotations

from collections.abc import Sequence

from .. import _core
from ..arrays.structure import Groups
from ..arrays.tensors import Tensors
from ..backends import Plan
from ..backends.native import NativePlan
from ..schedules.fixed import is_fixed
from .shares import GroupShare
from .step import AHEAD, forecast, is_foreseeable


class Foresight(_core.Foresight):
    """The coefficients of some steps to come, and what they depend on; it does these steps without Python."""

    def __init__(
        self,
        plan: NativePlan,
        shares: Sequence[GroupShare],
        tensors: Tensors,
        structure: Groups,
        counts: dict[str, int],
        busy: _core.Busy,
    ) -> None:
        """`counts` will count the steps, by way of the changes that `busy` has."""
        groups = [share.group.entries for share in shares]
        super().__init__(plan, tensors.layouts, *structure.forms(), groups, is_fixed, counts, busy)
        self._shares = shares

    def look(self, t: int) -> None:
        """After step t, compute the next coefficients, if the hyperparameters are as at the step before."""
        if self.lacks(t + 1):
            for k, share in enumerate(self._shares):
                self.forecast(k, t + 1, forecast(share, AHEAD))


def foresight_of(
    plan: Plan,
    shares: Sequence[GroupShare],
    tensors: Tensors,
    structure: Groups,
    counts: dict[str, int],
    busy: _core.Busy,
) -> Foresight | None:
    """Return the foresight of an optimizer; None where each step needs Python."""
    if isinstance(plan, NativePlan) and tensors.are_plain and all(map(is_foreseeable, shares)):
        return Foresight(plan, shares, tensors, structure, counts, busy)
    return None

"""Steps whose coefficients are known before, because nothing changes but the gradients and t."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .. import _core
from ..arrays.structure import Groups
from ..arrays.tensors import Tensors
from ..backends import Plan
from ..backends.native import NativePlan
from ..formula.coefficients import StepCoefficients
from ..formula.hyperparameters import is_fixed
from .shares import GroupShare
from .step import AHEAD, forecast, is_foreseeable


def foresight_of(
    plan: Plan,
    shares: Sequence[GroupShare],
    tensors: Tensors,
    structure: Groups,
    counts: dict[str, int],
    busy: _core.Busy,
) -> _core.Foresight | None:
    """Return what does an optimizer's steps without Python; None where each step needs Python.

    `counts` will count the steps, by way of the changes that `busy` has.
    """
    if not (isinstance(plan, NativePlan) and tensors.are_plain and all(map(is_foreseeable, shares))):
        return None
    groups = [share.group.entries for share in shares]
    return _core.Foresight(
        plan,
        tensors.layouts,
        *structure.forms(),
        groups,
        is_fixed,
        partial(_coefficients, shares),
        counts,
        busy,
    )


def _coefficients(shares: Sequence[GroupShare], t: int, settled: bool) -> list[list[StepCoefficients]]:
    """Return the coefficients of each share at step t, and after it if the hyperparameters are settled.

    Where one is set at each step, those of a later step would not be used.
    """
    found = []
    for share in shares:
        share.begin(t, share.group.at(t), ())
        found.append(forecast(share, AHEAD if settled else 1))
    return found

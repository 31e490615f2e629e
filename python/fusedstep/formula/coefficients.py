"""The coefficients that a rule gives to the kernels at a step, and what some of them depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from .kernel import Array

ByName: TypeAlias = dict[str, float]
"""Coefficients by the names of the C++ struct's fields."""

Own: TypeAlias = dict[str, Array]
"""Coefficients that differ between the tensors of a share: an item for each tensor that is stepped."""

StepCoefficients: TypeAlias = tuple[ByName, ByName, ByName | None, Own | None]
"""The coefficients of a share at a step: of the prologue, of the rule, of the average if one is kept, and,
once the tensors are measured, those that differ between tensors."""

NO_PROLOGUE = {"scale": 1.0, "clip": math.inf, "keep": 1.0, "l2": 0.0, "l1": 0.0}
"""The coefficients of a prologue that changes nothing."""


class Measured(NamedTuple):
    """The measurements that the tensors' own coefficients depend on: arrays with an item for each tensor."""

    sizes: Array
    """How many elements each tensor has."""
    sums: Sequence[Array]
    """The terms that the rule measures, summed over each tensor."""
    numbers: Mapping[str, Array]
    """The state that is one number for each tensor."""


class Adapted(NamedTuple):
    """The tensors' own coefficients, and the state that the rule computes from the same sums."""

    own: Own
    numbers: Mapping[str, Array] = {}
    """The state that is one number for each tensor, after the step."""
    scalars: Mapping[str, float] = {}
    """The state that is one number for the group, after the step."""

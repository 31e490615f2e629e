"""The numbers that a step takes from the rule to the kernels, and what some of them depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

from .kernel import Array

ByName: TypeAlias = dict[str, float]
"""Coefficients by the names of the C++ struct's fields."""

Own: TypeAlias = dict[str, Array]
"""Coefficients that each tensor of a share has of its own: an item for each that is stepped."""

StepCoefficients: TypeAlias = tuple[ByName, ByName, ByName | None, Own | None]
"""Those of a share at a step: of the prologue, of the rule, of the average if one is kept, and, once the
tensors are measured, those that each has of its own."""

NO_PROLOGUE = {"scale": 1.0, "clip": math.inf, "keep": 1.0, "l2": 0.0, "l1": 0.0}
"""The coefficients of a prologue that changes nothing."""


class Measured(NamedTuple):
    """What the coefficients of tensors depend on: arrays with an item for each tensor."""

    sizes: Array
    """How many elements each tensor has."""
    sums: Sequence[Array]
    """What the rule measures, summed over each tensor."""
    numbers: Mapping[str, Array]
    """The state that is one number for each tensor."""


class Adapted(NamedTuple):
    """The coefficients of tensors, and the state that follows from the same sums."""

    own: Own
    numbers: Mapping[str, Array] = {}
    """The state that is one number for each tensor, after the step."""
    scalars: Mapping[str, float] = {}
    """The state that is one number for the group, after the step."""

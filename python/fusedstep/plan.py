"""What both backends are given: once the tensors, and at each step the coefficients."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

from .kernel import Array

Tensor: TypeAlias = tuple[int, Array, list[Array], Array | None]
"""Its group, the parameter, its state, and the average of its weights if one is kept."""


class Row(NamedTuple):
    """A group's coefficients at a step, each in the order of the fields of the C++ struct."""

    prologue: dict[str, float]
    rule: dict[str, float]
    average: dict[str, float] | None


NO_PROLOGUE = {"scale": 1.0, "clip": math.inf, "keep": 1.0, "l2": 0.0, "l1": 0.0}
"""The coefficients of a prologue that changes nothing."""

"""What both backends are given: once the tensors, and at each step the coefficients."""

from __future__ import annotations

import math
from typing import TypeAlias

from .kernel import Array

Tensor: TypeAlias = tuple[int, Array, list[Array], Array | None]
"""Its group, the parameter, its state, and the average of its weights if one is kept."""


Coefficients: TypeAlias = dict[str, float]
"""In the order of the fields of the C++ struct."""

Row: TypeAlias = tuple[Coefficients, Coefficients, Coefficients | None]
"""A group's coefficients at a step: of the prologue, of the rule, and of the average if one is kept."""

NO_PROLOGUE = {"scale": 1.0, "clip": math.inf, "keep": 1.0, "l2": 0.0, "l1": 0.0}
"""The coefficients of a prologue that changes nothing."""

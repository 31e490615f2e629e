"""What both backends are given: once the tensors, and at each step the coefficients."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

from .kernel import Array

Tensor: TypeAlias = tuple[int, Array, list[Array], Array | None]
"""Its group, the parameter, its state, and the average of its weights if one is kept."""


class Row(NamedTuple):
    """A group's coefficients at a step; those of the average where one is kept."""

    prologue: dict[str, float]
    rule: dict[str, float]
    average: dict[str, float] | None


def prologue(
    scale: float = 1.0, clip: float = math.inf, keep: float = 1.0, l2: float = 0.0, l1: float = 0.0
) -> dict[str, float]:
    """What happens before a rule, in the order of the fields of the C++ struct; by default, nothing."""
    return {"scale": scale, "clip": clip, "keep": keep, "l2": l2, "l1": l1}

"""What both backends are given: once the tensors, and at each step the coefficients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

from . import average
from .kernel import Array

if TYPE_CHECKING:
    from .engine import Engine
    from .hyperparameters import At

Tensor: TypeAlias = tuple[int, Array, list[Array], Array | None]
"""Its group, the parameter, its state, and the average of its weights if one is kept."""


Coefficients: TypeAlias = dict[str, float]
"""In the order of the fields of the C++ struct."""

Row: TypeAlias = tuple[Coefficients, Coefficients, Coefficients | None]
"""A group's coefficients at a step: of the prologue, of the rule, and of the average if one is kept."""

NO_PROLOGUE = {"scale": 1.0, "clip": math.inf, "keep": 1.0, "l2": 0.0, "l1": 0.0}
"""The coefficients of a prologue that changes nothing."""


def row(
    rule: type[Engine],
    h: At,
    t: int,
    *,
    loss: float | None,
    scale: float,
    averaged: bool,
    clip_value: float = math.inf,
) -> tuple[Row, dict[str, float]]:
    """A group's coefficients at step `t`, and its scalars after the step."""
    advanced = rule.advance(h, t, loss)
    vars(h).update(advanced)
    prologue = {
        "scale": -scale if h.maximize else scale,
        "clip": clip_value,
        "keep": 1 - h.lr * h.weight_decay,
        "l2": h.l2,
        "l1": h.l1,
    }
    mean = average.coefficients(h.ema) if averaged else None
    return (prologue, rule.coefficients(h, t), mean), advanced

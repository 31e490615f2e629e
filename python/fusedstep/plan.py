"""What both backends are given: once the tensors, and at each step the coefficients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from . import average
from .kernel import Array

if TYPE_CHECKING:
    from .engine import Engine
    from .hyperparameters import At

Tensor: TypeAlias = tuple[int, Array, list[Array], Array | None]
"""Its group, the parameter, its state, and the average of its weights if one is kept."""


Coefficients: TypeAlias = dict[str, float]
"""In the order of the fields of the C++ struct."""

Own: TypeAlias = dict[str, Array]
"""Those of each tensor, an item for each that has a gradient."""

Row: TypeAlias = tuple[Coefficients, Coefficients, Coefficients | None, Own | None]
"""A group's coefficients at a step: of the prologue, of the rule, of the average if one is kept, and, once it
is measured, those that follow the rule's for each tensor."""

Sums: TypeAlias = tuple[Sequence[int], Array]
"""The positions of those tensors of a group that a step measures, and their sums, a row for each."""


class Measured(NamedTuple):
    """What the coefficients of tensors depend on: arrays with an item for each tensor."""

    sizes: Array
    """How many elements it has."""
    sums: Sequence[Array]
    """What the rule measures, summed over it."""
    numbers: Mapping[str, Array]
    """Its state that is one number."""


class Adapted(NamedTuple):
    """The coefficients of tensors, and what else has become of what was measured."""

    own: Own
    numbers: Mapping[str, Array] = {}
    """The state that is one number for a tensor, after the step."""
    scalars: Mapping[str, float] = {}
    """The state that is one number for a group, after the step."""


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
    l1, l2, weight_decay = (
        0.0 if name in rule.takes else getattr(h, name) for name in ("l1", "l2", "weight_decay")
    )
    prologue = {
        "scale": -scale if h.maximize else scale,
        "clip": clip_value,
        "keep": 1 - h.lr * weight_decay,
        "l2": l2,
        "l1": l1,
    }
    mean = average.coefficients(h.ema) if averaged else None
    return (prologue, rule.coefficients(h, t), mean, None), advanced


def adapted(rule: type[Engine], h: At, t: int, measured: Measured) -> Adapted:
    """What of a row each tensor has of its own, at step `t`."""
    with np.errstate(all="ignore"):
        return rule.adapt(h, t, measured)

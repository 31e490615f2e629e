"""The state that a rule keeps, declared once: the engine, torch and checkpoints all read it here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Shape: TypeAlias = tuple[int, ...]

PARAMETER = "p"
"""The start of a slot that begins as a copy of the parameter."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One quantity that a rule keeps from step to step, such as Adam's mean of the gradients."""

    of: Literal["element", "row", "column", "table row", "tensor", "group"] = "element"
    """What has a number of its own: every element of the parameter; every row or every column of a matrix,
    or of each matrix of a stack; every ``p[i]``; the parameter as a whole; or a group of parameters."""

    start: float | str = 0.0
    """The first value: a number, the name of the hyperparameter that gives it, or ``"p"``, a copy of the
    parameter."""

    kept: str | None = None
    """The dtype that the slot always has; None: that of the parameter, or the optimizer's `state_dtype`."""

    lives: bool = True
    """Whether the slot is state. If not, it is room that is needed during a step only."""

    def shape(self, p: Shape) -> Shape:
        """The shape of the slot's array for a parameter of shape `p`."""
        match self.of:
            case "element":
                return p
            case "row":
                return (*p[:-1], 1)
            case "column":
                return (*p[:-2], 1, p[-1])
            case "table row":
                return p[:1]
            case _:
                return ()

    def first(self, h: Mapping[str, Any]) -> float:
        """The first value where that is a number, from the hyperparameters `h`."""
        return float(h[self.start] if isinstance(self.start, str) else self.start)


AVERAGE = "ema"
"""The slot of the average of the weights, which every rule keeps if asked to."""

AVERAGE_SLOT = Slot(start=PARAMETER)

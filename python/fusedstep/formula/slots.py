"""The state that a rule keeps, declared once: the engine, torch and checkpoints read this declaration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Shape: TypeAlias = tuple[int, ...]

PARAMETER = "p"
"""The `start` of a slot that begins as a copy of the parameter."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """One quantity that a rule keeps from step to step, such as Adam's mean of the gradients."""

    of: Literal["element", "row", "column", "table row", "tensor", "group"] = "element"
    """What the slot has a number for: every element of the parameter; every row or every column of a matrix,
    or of each matrix of a stack; every ``p[i]``; the parameter as a whole; or a group of parameters."""

    start: float | str = 0.0
    """The first value: a number, the name of the hyperparameter that gives it, or ``"p"``, a copy of the
    parameter."""

    kept: str | None = None
    """The dtype that the slot always has; None means that of the rest of the state."""

    squares: bool = False
    """Whether the slot holds squares, of gradients or of differences."""

    lives: bool = True
    """Whether the slot is state. If not, it is room: memory that is needed only during a step."""

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
        """Return the first value, if it is a number; `h` are the hyperparameters."""
        return float(h[self.start] if isinstance(self.start, str) else self.start)


AVERAGE = "ema"
"""The slot of the average of the weights, which every rule can keep."""

AVERAGE_SLOT = Slot(start=PARAMETER)


def widened(slots: Mapping[str, Slot]) -> list[str]:
    """The slots of a float16 parameter that are kept in float32, unless the user asks for another dtype.

    In float16 the square of a number below 1.7e-4 is 0, and that of 256 is infinite. So where a slot holds
    squares, the whole state is in float32, but for the average of the weights, which is as the weights are.
    """
    squares = any(slot.squares and slot.kept is None for slot in slots.values())
    return [name for name in slots if name != AVERAGE] if squares else []

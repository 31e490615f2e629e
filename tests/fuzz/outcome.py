"""What a correct step may come to: its result, or the error that says that there is none.

Extreme hyperparameters can need a coefficient that is no number, such as 1 / (1 - beta1) where beta1 is 1 but
for rounding. The step is then refused by a documented error, and must have changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Refused(str):
    """What the error says."""

    __slots__ = ()


def is_refusal(error: BaseException | None) -> bool:
    """Whether the error says that there is no step with these hyperparameters."""
    return isinstance(error, ValueError) and "give no finite step" in str(error)


def outcome(step: Callable[[], Any]) -> Any:
    """Take a correct step, and return its result, or that it was refused."""
    try:
        return step()
    except ValueError as error:
        if not is_refusal(error):
            raise
        return Refused(error)

"""What a rule knows when it computes its coefficients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .kernel import Kernel, Sweep


class At:
    """A group's hyperparameters and scalars as numbers at a step, by their names, and which kernel steps."""

    kernel: Kernel
    sweep: Sweep
    """The sweep of the kernel whose coefficients are asked for."""
    before: Mapping[str, float]
    """The scalars before the step."""
    next: Callable[[str], float]
    """Any hyperparameter at the step after this one."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__ = values

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

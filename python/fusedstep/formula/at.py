"""The values from which a rule computes its coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .kernel import Kernel, Sweep


class At:
    """A group's hyperparameters and scalars at a step, as numbers by name, and the kernel that steps."""

    kernel: Kernel
    sweep: Sweep
    """The sweep of the kernel for which the rule computes coefficients."""
    before: Mapping[str, float]
    """The scalars before the step."""
    next: Mapping[str, float]
    """The hyperparameters that the rule `looks_ahead` to, at the step after this one."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__ = values

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

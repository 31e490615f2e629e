"""The native backend: the compiled kernels, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import _core

if TYPE_CHECKING:
    from .kernel import Array, Kernel


class Plan(_core.Plan):
    """The compiled plan, made from kernels and run with named coefficients."""

    def __init__(self, kernels: Sequence[Kernel], tensors: Sequence[tuple[int, Array, list[Array]]]) -> None:
        super().__init__([kernel.name for kernel in kernels], tensors)

    def run(self, rows: Sequence[tuple[dict[str, float], dict[str, float]]]) -> None:  # type: ignore[override]
        """Do the step: for each group the coefficients of the prologue and of the rule."""
        super().run([[*prologue.values(), *rule.values()] for prologue, rule in rows])

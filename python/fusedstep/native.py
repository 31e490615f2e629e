"""The native backend: the compiled kernels, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import _core
from .average import average
from .plan import Row, Tensor, prologue

if TYPE_CHECKING:
    from .kernel import Kernel


class Plan(_core.Plan):
    """The compiled plan, made from kernels and run with named coefficients."""

    def __init__(self, kernels: Sequence[Kernel], tensors: Sequence[Tensor]) -> None:
        super().__init__([kernel.name for kernel in kernels], average.name, tensors)

    def run(self, rows: Sequence[Row], zero_gradients: bool) -> None:  # type: ignore[override]
        """Do the step, with each group's coefficients, and set the gradients to 0 if so asked."""
        super().run([_numbers(row) for row in rows], zero_gradients)


def _numbers(row: Row) -> tuple[list[float], list[float]]:
    """The coefficients as the kernels take them, those of the rule and those of the average."""
    rule = [*row.prologue.values(), *row.rule.values()]
    return rule, [] if row.average is None else [*prologue().values(), *row.average.values()]

"""The native backend, which runs the compiled kernels by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .. import _core
from ..arrays.tensors import Operands
from ..formula.average import average
from ..formula.kernel import Arithmetic, Array, Kernel

ARITHMETIC = Arithmetic(_core.square_sums, _core.multiply)


class NativeTable(_core.NumpyTable):
    """The compiled table, an array of which some rows are stepped; made from the kernel of a row."""

    def __init__(
        self, kernel: Kernel, p: Array, state: Sequence[Array], mean: Array | None, others: Sequence[Array]
    ) -> None:
        super().__init__(p, state, mean, others)
        self.kernel = kernel


class NativePlan(_core.NumpyPlan):
    """The compiled plan, made from kernels."""

    arithmetic: ClassVar = ARITHMETIC

    def __init__(self, kernels: Sequence[Kernel], tensors: Sequence[Operands]) -> None:
        super().__init__([kernel.names for kernel in kernels], average.name, tensors)

    def pin_rows(
        self, gradients: list[Any], zero_gradients: bool, tables: Sequence[tuple[int, Any]]
    ) -> list[int]:
        """Do as `pin` does; tables have taken the gradients of some positions, where the list has None."""
        return self.pin(gradients, zero_gradients, [(i, table.kernel.name, table) for i, table in tables])

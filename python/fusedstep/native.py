"""The native backend: the compiled kernels, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from . import _core
from .average import average
from .kernel import Arithmetic

if TYPE_CHECKING:
    from .kernel import Array, Kernel
    from .plan import Tensor


class RowPlan(_core.RowPlan):
    """The compiled plan of some rows of an array, made from its kernel."""

    def __init__(
        self, kernel: Kernel, p: Array, state: Sequence[Array], mean: Array | None, others: Sequence[Array]
    ) -> None:
        super().__init__(kernel.name, average.name, p, state, mean, others)


class Plan(_core.Plan):
    """The compiled plan, made from kernels."""

    of_rows: ClassVar = RowPlan
    arithmetic: ClassVar = Arithmetic(_core.square_sums, _core.multiply)

    def __init__(self, kernels: Sequence[Kernel], tensors: Sequence[Tensor]) -> None:
        super().__init__([kernel.name for kernel in kernels], average.name, tensors)

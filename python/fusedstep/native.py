"""The native backend: the compiled kernels, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import _core
from .average import average

if TYPE_CHECKING:
    from .kernel import Kernel
    from .plan import Tensor


class Plan(_core.Plan):
    """The compiled plan, made from kernels."""

    def __init__(self, kernels: Sequence[Kernel], tensors: Sequence[Tensor]) -> None:
        super().__init__([kernel.name for kernel in kernels], average.name, tensors)

"""What the entries of a torch group say: hyperparameters, and the kernels that they choose."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from ..formula.kernel import Kernel
from ..formula.rule import Rule


class Settings:
    """The hyperparameters of a group, under the rule's names, and the kernels of its parameters."""

    def __init__(self, rule: type[Rule], h: Mapping[str, Any]) -> None:
        self.h = h
        self.averaged = bool(h["ema"] != 0)
        chosen = SimpleNamespace(**h)
        self.kernel = rule.choose_kernel(chosen)
        self.of_matrices = rule.choose_matrix_kernel(chosen)
        """The kernel of matrices, if they have one of their own."""

    def by_kernel(self, parameters: list[Tensor]) -> list[tuple[Kernel, list[Tensor]]]:
        """The parameters, divided by the kernel that steps them."""
        of_matrices = self.of_matrices
        if of_matrices is None:
            return [(self.kernel, parameters)]
        matrices = [p for p in parameters if of_matrices.fits(p.ndim)]
        others = [p for p in parameters if not of_matrices.fits(p.ndim)]
        return [(of_matrices, matrices), (self.kernel, others)]

    def kernel_of(self, p: Tensor) -> Kernel:
        """The kernel that steps a parameter."""
        ((kernel, _),) = [pair for pair in self.by_kernel([p]) if pair[1]]
        return kernel

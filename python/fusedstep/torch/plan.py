"""The plan of torch's tensors, as a step uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import _core
from ..backends.native import ARITHMETIC
from ..formula.average import average
from ..formula.kernel import Arithmetic
from .distributed import global_norm


class TorchPlan(_core.TorchPlan):
    """The compiled plan, with the norm over all processes."""

    arithmetic: ClassVar[Arithmetic] = ARITHMETIC

    gradients: Sequence[Any] = ()
    """The gradients themselves, if some are not plain tensors; set where the norm will be needed."""

    def __init__(self) -> None:
        super().__init__(Tensor, average.name, torch.autograd.graph.increment_version)

    def norm(self) -> tuple[float, bool]:
        """The 2-norm of the gradients of all processes, and whether those of this process are finite."""
        norm, finite = super().norm()
        gradients, self.gradients = self.gradients, ()
        return global_norm(gradients, norm) if gradients else norm, finite

    def release(self) -> None:
        """Let go of the tensors of a step."""
        super().release()
        self.gradients = ()

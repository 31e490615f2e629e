"""What an optimizer of torch's tensors keeps between its steps, besides its state."""

from __future__ import annotations

from collections.abc import MutableMapping

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .._core import Busy
from ..formula.kernel import Kernel
from .batch import Group
from .form import Form
from .plan import TorchPlan


class Machine:
    """The lock, the plan and the groups of an optimizer; it is neither copied nor pickled."""

    def __init__(self) -> None:
        self.plan = TorchPlan()
        self.room: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()
        """The tensors in which the directions of matrices are computed."""
        self.busy = Busy()
        self.changes = self.busy.changes
        self.form: Form | None = None
        self._groups: list[Group] = []

    def group(self, k: int, form: Form, kernel: Kernel, averaged: bool) -> Group:
        """The k-th group of a step. It knows what the one of the last step has found, if that was alike."""
        if k < len(self._groups):
            group = self._groups[k]
            if group.form is form and group.kernel is kernel and group.averaged == averaged:
                return group
            del self._groups[k:]
        group = Group(self.plan, form, kernel, averaged)
        self._groups.append(group)
        return group

    def release(self) -> None:
        """Let the tensors of a step go."""
        self.plan.release()
        for group in self._groups:
            group.found.release()

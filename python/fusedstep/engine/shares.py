"""The shares of NumPy arrays: each has the parameters of one group that one kernel steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._core import Changes
from ..arrays.memory import set_in
from ..arrays.tensors import Operands, Tensors
from ..formula.at import At
from ..formula.coefficients import Measured
from ..formula.kernel import Arithmetic, Array, Kernel
from ..formula.rule import Rule
from ..formula.slots import AVERAGE
from .group import Group
from .step import Turned, Work


class GroupShare:
    """The parameters of a group that one kernel steps. It is made once; `begin` tells it of each step."""

    def __init__(
        self, rule: type[Rule], group: Group, kernel: Kernel, positions: Sequence[int], tensors: Tensors
    ) -> None:
        """Take the tensors at these positions, with their small state and their room for directions."""
        self.rule = rule
        self.group = group
        self.kernel = kernel
        self.averaged = group.averaged
        self.positions = positions
        self.t = 0
        self._sizes = {i: tensors.dense[i].size for i in positions}
        self._arrays = {i: tensors.slots[i] | tensors.room[i] for i in positions}
        self._values: dict[str, Any] = {}
        self._stepped: Sequence[int] = ()

    def begin(self, t: int, values: dict[str, Any], gradients: Sequence[Any]) -> None:
        """Begin step `t` with the group's values and these gradients, some of which may be None.

        It keeps none of them, so that they can be freed after the step.
        """
        self.t = t
        self._take(values)
        if self.kernel.turns:
            self._stepped = [i for i in self.positions if gradients[i] is not None]

    def _take(self, values: dict[str, Any]) -> None:
        self._values = values if self.kernel is self.group.kernel else of_kernel(values, self.kernel)

    def at(self) -> At:
        return At(self._values)

    def advance(self) -> None:
        self.t += 1
        if self.group.scheduled:
            self._take(self.group.at(self.t))

    def turn(self, arithmetic: Arithmetic, h: At) -> Turned:
        turned = []
        for i in self._stepped:
            slots = {name: self._arrays[i][name] for name in self.kernel.turned}
            turned.append((i, self.kernel.turn(arithmetic, h, self.t, **slots)))
        return turned

    def measured(self, positions: Sequence[int], sums: Array) -> Measured:
        sizes = np.array([self._sizes[i] for i in positions], np.float64)
        numbers = {name: np.array([self._arrays[i][name] for i in positions]) for name in self.rule.numbers}
        return Measured(sizes, list(sums.T), numbers)

    def collect(self, work: Work, changes: Changes) -> None:
        if work.scalars:
            changes.update(self.group.scalars, work.scalars)
        for name, values in work.tensors.items():
            for i, value in zip(work.positions, values, strict=True):
                set_in(changes, self._arrays[i][name], value)
        for i, slots in work.turned:
            for name, value in slots.items():
                set_in(changes, self._arrays[i][name], value)


def of_kernel(values: dict[str, Any], kernel: Kernel) -> dict[str, Any]:
    """Return a group's values for another kernel than the one that steps most of its parameters."""
    return {**values, "kernel": kernel, "sweep": kernel.sweeps[-1]}


def shares_of(
    rule: type[Rule], groups: Sequence[Group], tensors: Tensors
) -> tuple[list[GroupShare], list[Operands]]:
    """Return the shares of all tensors, and what a plan takes of each; `groups` has the group of each."""
    parts: dict[tuple[Group, Kernel], list[int]] = {}
    for i, (group, p) in enumerate(zip(groups, tensors.dense, strict=True)):
        parts.setdefault((group, group.kernel_of(p)), []).append(i)
    shares = [GroupShare(rule, *part, positions, tensors) for part, positions in parts.items()]
    operands: dict[int, Operands] = {}
    for k, share in enumerate(shares):
        for i in share.positions:
            arrays = tensors.slots[i] | tensors.room[i]
            taken = share.kernel.operands
            others = [a for name, a in tensors.slots[i].items() if name not in (*taken, AVERAGE)]
            slots = [arrays[name] for name in taken]
            operands[i] = k, tensors.dense[i], slots, arrays.get(AVERAGE), others
    return shares, [operands[i] for i in range(len(tensors.dense))]

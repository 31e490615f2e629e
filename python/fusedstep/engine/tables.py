"""The shares of rows: parameters of which a step moves only some rows, such as embeddings."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from .._core import Changes
from ..arrays.memory import Array, Memory, check_array, check_writeable, rounded
from ..arrays.rows import Rows, row_indices
from ..arrays.tensors import Tensors, check_gradient
from ..backends import Plan, Table
from ..formula.at import At
from ..formula.coefficients import Measured
from ..formula.kernel import Arithmetic, Kernel
from ..formula.rule import Rule
from ..formula.slots import AVERAGE
from .group import Group
from .shares import of_kernel
from .step import Turned, Work


class TableShare:
    """Rows of a parameter, each stepped as if it were a tensor of its own."""

    def __init__(
        self,
        rule: type[Rule],
        group: Group,
        name: Hashable,
        parameter: Array,
        state: Mapping[str, Array],
        make: type[Table],
    ) -> None:
        """Take a parameter with its state; raise an error if its rows cannot be stepped alone."""
        p, label = parameter.view(np.ndarray), f"parameter {name!r}"
        if p.ndim == 0:
            raise ValueError(f"{label} is one number, and has no rows")
        self.rule = rule
        self.group = group
        self.name = name
        self.kernel = row_kernel(rule, group.kernel_of(p), label)
        self.averaged = group.averaged
        self.t = 0
        slots = [state[slot] for slot in self.kernel.operands]
        for array in (p, *slots):
            if not array[:1].flags.c_contiguous:
                raise ValueError(f"{label} has rows that are not each one run of memory")
        taken = (*self.kernel.operands, AVERAGE)
        self._numbers = {slot: array for slot, array in state.items() if slot not in taken}
        self._label = label
        self._parameter = parameter
        self._p = p
        self._written = {label: p} | {f"state {slot!r} of {label}": array for slot, array in state.items()}
        self.table = make(self.kernel, p, slots, state.get(AVERAGE), list(self._numbers.values()))
        self._values: dict[str, Any] = {}
        self._touched: Array = np.empty(0, np.int64)

    def take(self, rows: Rows) -> None:
        """Take the gradients of a step; copy them if the kernels cannot use them as they are."""
        touched = self.table.take(rows.indices, rows.values)
        self._keep(self._conformed(rows, Memory(self._written.items())) if touched is None else touched)

    def take_beside(self, rows: Rows, written: Memory, *, will_be_zeroed: bool) -> None:
        """Do the same in a step that also writes other arrays; raise ValueError if `rows` share their memory.

        Gradients that will be zeroed are copied, so that zeroing them does not change another gradient.
        """
        touched = None if will_be_zeroed else self.table.take(rows.indices, rows.values)
        if touched is None or written.sharing(rows.values):
            touched = self._conformed(rows, written, copy=will_be_zeroed)
        self._keep(touched)
        if will_be_zeroed and not rows.values.flags.writeable:
            raise ValueError(f"gradient {self.name!r} is read-only, zero_grad cannot set it to 0")

    def _keep(self, touched: Array | None) -> None:
        if touched is None:
            raise RuntimeError(f"rows of {self._label} or their gradient changed while they were read")
        self._touched = touched

    def begin(self, t: int, values: dict[str, Any]) -> None:
        """Begin step `t` with the group's values."""
        self.t = t
        self._values = of_kernel(values, self.kernel)

    def at(self) -> At:
        return At(self._values)

    def turn(self, arithmetic: Arithmetic, h: At) -> Turned:
        return []  # the kernels of rows have one sweep

    def measured(self, positions: Sequence[int], sums: Array) -> Measured:
        sizes = np.full(len(positions), float(math.prod(self._p.shape[1:])))
        numbers = {slot: values[self._touched] for slot, values in self._numbers.items()}
        return Measured(sizes, list(sums.T), numbers)

    def collect(self, work: Work, changes: Changes) -> None:
        for slot, values in work.tensors.items():
            changes.put(self._numbers[slot], self._touched, rounded(values, self._numbers[slot].dtype))

    def check_writeable(self) -> None:
        """Raise ValueError if the parameter has become read-only."""
        check_writeable(self.name, self._parameter)

    def _conformed(self, rows: Rows, written: Memory, *, copy: bool = False) -> Array | None:
        """Have the table take the rows in a form that it can use; raise an error if they are unusable."""
        label, p = f"rows of {self._label}", self._p
        given = check_array(f"gradient of {label}", rows.values)
        indices = row_indices(label, rows.indices, len(given) if given.ndim else 0, p.shape[0])
        shape = (len(indices), *p.shape[1:])
        g = check_gradient(f"gradient of {label}", given, "the table's rows", shape, p.dtype, written)
        g = g.view(np.ndarray)
        usable = g.flags.c_contiguous and g.flags.aligned
        if copy or not usable or any(np.may_share_memory(g, array) for array in self._written.values()):
            g = np.array(g, order="C")
        return self.table.take(indices, g)


class Tables:
    """The shares of an optimizer's parameters whose rows have been stepped, by name."""

    def __init__(
        self,
        rule: type[Rule],
        make: type[Table],
        parameters: Sequence[Array],
        tensors: Tensors,
        groups: Sequence[Group],
    ) -> None:
        """Take the parameters with their state, and the group of each."""
        self._rule = rule
        self._make = make
        self._parameters = parameters
        self._tensors = tensors
        self._groups = groups
        self._tables: dict[Hashable, TableShare] = {}

    def of(self, name: Hashable) -> TableShare:
        """Return a parameter's share; raise an error if there is none or its rows cannot be stepped alone."""
        try:
            found = self._tables.get(name)
        except TypeError as error:
            raise TypeError(f"{name!r} is no name of a parameter: {error}") from error
        if found is not None:
            found.check_writeable()
            return found
        if name not in self._tensors.names:
            raise KeyError(f"there is no parameter {name!r}")
        i = self._tensors.names.index(name)
        own, p = self._tensors.names[i], self._parameters[i]
        check_writeable(own, p)
        table = TableShare(self._rule, self._groups[i], own, p, self._tensors.slots[i], self._make)
        return self._tables.setdefault(name, table)

    def pin(
        self, plan: Plan, gradients: list[Any], zero_gradients: bool
    ) -> tuple[list[TableShare], list[Array]]:
        """Have the plan take the gradients; in the list, put copies in place of those that need it.

        A gradient that is `Rows` goes to its table, and None takes its place. Return the shares of these
        tables, and the originals of the copies if they are to be zeroed.
        """
        odd = plan.pin(gradients, zero_gradients)
        if not odd:
            return [], []
        originals, tables = [], {}
        for i in odd:
            given = gradients[i]
            if isinstance(given, Rows):
                tables[i] = table = self.of(self._tensors.names[i])
                table.take_beside(given, self._tensors.memory, will_be_zeroed=zero_gradients)
                gradients[i], given = None, given.values
            else:
                gradients[i] = self._tensors.conform(i, given, zero_gradients)
            originals.append(given)
        pairs = [(i, table.table) for i, table in tables.items()]
        for i in plan.pin_rows(gradients, zero_gradients, pairs):
            raise RuntimeError(f"gradient {self._tensors.names[i]!r} changed while it was read")
        return list(tables.values()), originals if zero_gradients else []


def row_kernel(rule: type[Rule], kernel: Kernel, label: str) -> Kernel:
    """Return the kernel that steps single rows where `kernel` steps all; raise TypeError if there is none."""
    found = kernel.of_rows if kernel.turns or kernel.measures else kernel
    if not rule.steps_rows or found is None:
        raise TypeError(f"{rule.__name__}, as it is set up, cannot step rows of {label} alone")
    return found

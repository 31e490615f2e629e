"""Steps of some rows of a parameter, such as those of an embedding that a batch looked up."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import average
from .arrays import Array, Memory, check_array, check_writeable
from .hyperparameters import TRUTH_VALUES
from .kernel import MatrixKernel
from .plan import Measured, adapted, row
from .step import StepOptions, StepResult
from .tensors import check_gradient

if TYPE_CHECKING:
    from . import native, reference
    from .engine import Engine
    from .hyperparameters import At, Group
    from .kernel import Kernel
    from .plan import Row
    from .tensors import Tensors


class Table(NamedTuple):
    """A parameter whose rows are stepped, with its state."""

    name: Hashable
    label: str
    parameter: Array
    p: Array
    """The parameter as it was when its rows were first stepped, of no subclass."""
    group: Group
    kernel: Kernel
    """The update of a row alone."""
    plan: native.RowPlan | reference.RowPlan
    state: Mapping[str, Array]
    numbers: Mapping[str, Array]
    """What of the state is one number for a row."""


class RowSteps:
    """The steps of rows of an optimizer's parameters; each parameter's are counted by themselves."""

    def __init__(
        self,
        rule: type[Engine],
        plan: type[native.RowPlan | reference.RowPlan],
        parameters: Sequence[Array],
        tensors: Tensors,
        groups: Sequence[Group],
    ) -> None:
        """Take the parameters with their state, and the group of each."""
        self.counts: dict[Hashable, int] = {}
        self._rule = rule
        self._plan = plan
        self._parameters = parameters
        self._tensors = tensors
        self._groups = groups
        self._tables: dict[Hashable, Table] = {}

    def step(self, name: Hashable, rows: Any, gradients: Any, options: StepOptions) -> StepResult:
        """Update rows in place; after an error nothing has changed."""
        table = self._tables.get(name) or self._tables.setdefault(name, self._table(name))
        check_writeable(table.name, table.parameter)
        touched = taken(table, rows, gradients)
        norm, skipped = options.look(table.plan)
        if skipped:
            return StepResult(norm, skipped)
        t = self.counts.get(table.name, 0) + 1
        h = table.group.at(t).with_kernel(table.kernel)
        coefficients, _ = row(
            self._rule,
            h,
            t,
            loss=None,
            scale=options.scale_at(norm),
            averaged=table.group.averaged,
            clip_value=options.clip_value,
        )
        after: Mapping[str, Array] = {}
        if table.kernel.measure:
            coefficients, after = self._adapted(table, h, t, coefficients, touched)
        for slot, values in after.items():
            table.numbers[slot][touched] = values
        self.counts[table.name] = t
        table.plan.run(coefficients)
        return StepResult(norm, skipped)

    def _adapted(
        self, table: Table, h: At, t: int, coefficients: Row, touched: Array
    ) -> tuple[Row, Mapping[str, Array]]:
        """The coefficients with those that each row has of its own; the rows' numbers after the step."""
        sums = table.plan.measure(coefficients)
        sizes = np.full(len(touched), float(math.prod(table.p.shape[1:])))
        numbers = {slot: values[touched] for slot, values in table.numbers.items()}
        found = adapted(self._rule, h, t, Measured(sizes, list(sums.T), numbers))
        return (*coefficients[:3], found.own), found.numbers

    def _table(self, given: Hashable) -> Table:
        if given not in self._tensors.names:
            raise KeyError(f"there is no parameter {given!r}")
        i = self._tensors.names.index(given)
        name, parameter = self._tensors.names[i], self._parameters[i]
        label, group, state = f"parameter {name!r}", self._groups[i], self._tensors.slots[i]
        check_writeable(name, parameter)
        p = parameter.view(np.ndarray)
        if p.ndim == 0:
            raise ValueError(f"{label} is one number, and has no rows")
        kernel = group.kernel_of(p)
        of_rows = kernel.of_rows if isinstance(kernel, MatrixKernel) else kernel
        if not self._rule.steps_rows or of_rows is None or (of_rows is kernel and kernel.measure):
            raise TypeError(f"{self._rule.__name__}, as it is set up, cannot step rows of {label} alone")
        slots, mean = [state[slot] for slot in of_rows.slots], state.get(average.SLOT)
        for array in (p, *slots):
            if not array[:1].flags.c_contiguous:
                raise ValueError(f"{label} has rows that are not each one run of memory")
        numbers = {slot: state[slot] for slot in state if slot not in (*of_rows.slots, average.SLOT)}
        plan = self._plan(of_rows, p, slots, mean, list(numbers.values()))
        return Table(name, label, parameter, p, group, of_rows, plan, state, numbers)


def taken(table: Table, rows: Any, gradients: Any) -> Array:
    """Have the plan take the gradients of rows; return which rows these are."""
    touched = table.plan.take(rows, gradients)
    if touched is None:
        touched = table.plan.take(*conformed(table, rows, gradients))
    if touched is None:
        raise RuntimeError(f"rows of {table.label} or their gradient changed while they were read")
    return touched


def conformed(table: Table, rows: Any, gradients: Any) -> tuple[Array, Array]:
    """Rows and gradients as every plan can use them, copied where needed; an error if they are none."""
    label, p = f"rows of {table.label}", table.p
    indices = row_indices(label, rows, p.shape[0])
    written = {table.label: p}
    written |= {f"state {slot!r} of {table.label}": array for slot, array in table.state.items()}
    g = check_gradient(
        f"gradient of {label}",
        gradients,
        "the table's rows",
        (len(indices), *p.shape[1:]),
        p.dtype,
        Memory(written.items()),
    ).view(np.ndarray)
    usable = g.flags.c_contiguous and g.flags.aligned
    if not usable or any(np.may_share_memory(g, array) for array in written.values()):
        g = np.array(g, order="C")
    return indices, g


def row_indices(label: str, rows: Any, count: int) -> Array:
    """`rows` as int64; an error unless they are integers from 0 to `count` - 1."""
    if isinstance(rows, list | tuple | range):
        if any(isinstance(row, TRUTH_VALUES) for row in rows):
            raise TypeError(f"{label} must be integers, got True or False")
        try:
            rows = np.array(rows, None if rows else np.int64)
        except ValueError as error:
            raise ValueError(f"{label} must have one axis: {error}") from error
    found = check_array(label, rows)
    if found.dtype.kind not in "iu":
        raise TypeError(f"{label} must be integers, got {found.dtype}")
    if found.ndim != 1:
        raise ValueError(f"{label} must have one axis, got shape {found.shape}")
    for extreme in (found.min(), found.max()) if found.size else ():
        if not 0 <= extreme < count:
            raise ValueError(f"{label} must be from 0 to {count - 1}, got {extreme}")
    return np.ascontiguousarray(found, np.int64)

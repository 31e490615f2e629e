"""The NumPy backend: each rule's formula, tensor by tensor. The native one must give the same bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .._core import Changes
from ..arrays import memory
from ..arrays.rows import summed
from ..arrays.storage import arithmetic, is_format, mix
from ..arrays.tensors import Operands
from ..formula.arithmetic import clamp
from ..formula.average import average
from ..formula.coefficients import NO_PROLOGUE, StepCoefficients
from ..formula.kernel import Arithmetic, Array, Coefficients, Kernel, Sweep
from .sums import measured, multiply, norm, ranges, square_sums


class NumpyTable:
    """Some rows of an array, gathered, stepped and put back. The counterpart of cpp/step/table_rows.hpp."""

    def __init__(
        self, kernel: Kernel, p: Array, state: Sequence[Array], mean: Array | None, others: Sequence[Array]
    ) -> None:
        """Take the kernel of a row, the array with its state, and the other arrays that a step writes."""
        self.kernel = kernel
        self.weights = p
        self._state = state
        self._mean = mean
        self._written = [p, *state, *([] if mean is None else [mean]), *others]
        self._width = math.prod(p.shape[1:])

    def take(self, indices: Any, values: Any) -> Array | None:
        """Take the gradients of rows; return the distinct row numbers, in ascending order.

        Return None if `indices` or `values` are not usable as they are.
        """
        if not self._are_plain(indices, values):
            return None
        self.rows, self.gradients = summed(indices, values.reshape(len(indices), self._width))
        return self.rows

    def _are_plain(self, indices: Any, values: Any) -> bool:
        return (
            type(indices) is type(values) is np.ndarray
            and indices.dtype == np.int64
            and indices.ndim == 1
            and not ((indices < 0) | (indices >= len(self.weights))).any()
            and is_format(values.dtype)
            and mix(values.dtype, self.weights.dtype)
            and values.shape == (len(indices), *self.weights.shape[1:])
            and not any(np.may_share_memory(values, array) for array in self._written)
        )

    def measure(self, coefficients: StepCoefficients) -> tuple[Sequence[int], Array]:
        """Return which of the taken rows are measured, and the sums over each of them."""
        before, rule, *_ = coefficients
        measure = self.kernel.sweeps[-1].measure
        if measure is None:
            return (), np.empty((0, 0))
        with np.errstate(all="ignore"):
            p, g = _prepared(before, *_wide([self._of(self.weights), self.gradients]))
            terms = measure(Coefficients(rule, p.dtype), p, g)
            sums = [measured(type(terms)(of_row)) for of_row in zip(*terms, strict=True)]
        return range(len(self.rows)), np.array(sums)

    def run(self, coefficients: StepCoefficients, changes: Changes) -> None:
        """Step the taken rows: add their new values to the changes."""
        if not len(self.rows):
            return
        before, rule, after, own = coefficients
        columns: dict[str, Any] = {name: values.reshape(-1, 1) for name, values in (own or {}).items()}
        arrays = [self.weights, *self._state]
        p, *state = map(self._of, arrays)
        moved = _stepped(self.kernel.sweeps[-1], before, rule | columns, p, self.gradients, state)
        if self._mean is not None and after is not None:
            arrays.append(self._mean)
            moved += _stepped(average.sweeps[0], NO_PROLOGUE, after, self._of(self._mean), moved[0], [])
        for array, rows in zip(arrays, moved, strict=True):
            changes.put(array, self.rows, rows)

    def touched(self) -> Array:
        """Return a copy of the taken rows, in float64."""
        return self._of(self.weights).astype(np.float64)

    def release(self) -> None:
        """Forget the gradients of the rows."""
        self.rows = self.gradients = np.empty(0)

    def _of(self, array: Array) -> Array:
        rows: Array = array[self.rows].reshape(len(self.rows), self._width)
        return rows


class NumpyPlan:
    """The counterpart of the native plan, with the same methods."""

    arithmetic: ClassVar = Arithmetic(square_sums, multiply)

    def __init__(self, kernels: Sequence[Kernel], tensors: Sequence[Operands]) -> None:
        """Take the kernel of each share (here called a group), and the tensors with their state."""
        self.sweeps = max((len(kernel.sweeps) for kernel in kernels), default=1)
        self._kernels = kernels
        self._tensors = tensors
        self._gradients: list[Array | None] = []
        self._tables: list[tuple[int, NumpyTable]] = []
        self._written = memory.Memory(
            ("", array)
            for _, p, state, mean, others in tensors
            for array in (p, *state, mean, *others)
            if array is not None
        )

    def pin(self, gradients: list[Any], zero_gradients: bool) -> list[int]:
        """Take a step's gradients; return the positions of those that must be replaced by copies.

        If the gradients are to be zeroed, all must be, because this plan never writes to gradients.
        """
        odd = self.pin_rows(gradients, zero_gradients, [])
        return [i for i, g in enumerate(gradients) if g is not None] if zero_gradients else odd

    def pin_rows(
        self, gradients: list[Any], zero_gradients: bool, tables: Sequence[tuple[int, Any]]
    ) -> list[int]:
        """Take gradients or copies, and tables where `gradients` has None; return positions as `pin` does."""
        del zero_gradients
        self._gradients = gradients
        self._tables = list(tables)
        return [
            i
            for i, ((_, p, *_), g) in enumerate(zip(self._tensors, gradients, strict=True))
            if g is not None and not self._is_plain(p, g)
        ]

    def norm(self) -> tuple[float, bool]:
        """The 2-norm of the gradients, and whether all their elements are finite."""
        runs = {i: table.gradients.ravel() for i, table in self._tables}
        for i, ((_, p, *_), g) in enumerate(zip(self._tensors, self._gradients, strict=True)):
            if g is not None:
                runs[i] = memory.flat(g, like=p)
        return norm([runs[i] for i in sorted(runs)])

    def measure(
        self, sweep: int, coefficients: Sequence[StepCoefficients | None]
    ) -> list[tuple[Sequence[int], Array]]:
        """Return for each share, then each table, the positions that are measured, and the sums over each."""
        positions: list[list[int]] = [[] for _ in self._kernels]
        sums: list[list[list[float]]] = [[] for _ in self._kernels]
        with np.errstate(all="ignore"):
            for i, (group, p, state, _mean, _others) in enumerate(self._tensors):
                g, passed = self._gradients[i], self._sweep(group, sweep)
                if g is None or passed is None or passed.measure is None:
                    continue
                before, rule, *_ = _given(coefficients[group])
                wide_p, wide_g, *wide_state = _wide([memory.flat(a, like=p) for a in (p, g, *state)])
                wide_p, wide_g = _prepared(before, wide_p, wide_g)
                terms = passed.measure(Coefficients(rule, wide_p.dtype), wide_p, wide_g, *wide_state)
                positions[group].append(i)
                sums[group].append(measured(terms))
        of_groups = [(found, np.array(values)) for found, values in zip(positions, sums, strict=True)]
        return [*of_groups, *(table.measure(c) for table, c in self._of_tables(coefficients))]

    def run(
        self,
        sweep: int,
        coefficients: Sequence[StepCoefficients | None],
        zero_gradients: bool,
        changes: Changes | None = None,
    ) -> None:
        """Do a sweep; the coefficients are those of each share and then of each table.

        All new values are computed before the first is written.
        """
        del zero_gradients
        found = Changes()
        last = sweep == self.sweeps - 1
        place = [0] * len(self._kernels)
        with np.errstate(all="ignore"):
            for (group, p, state, mean, _), g in zip(self._tensors, self._gradients, strict=True):
                passed = self._sweep(group, sweep)
                if g is None or passed is None:
                    continue
                before, rule, after, own = _given(coefficients[group])
                if own is not None:
                    rule = rule | {name: values[place[group]] for name, values in own.items()}
                    place[group] += 1
                flat_p, flat_g, *flat_state = (memory.flat(a, like=p) for a in (p, g, *state))
                arrays = [flat_p, *flat_state]
                moved = _stepped(passed, before, rule, flat_p, flat_g, flat_state)
                if mean is not None and after is not None:
                    arrays.append(memory.flat(mean, like=p))
                    moved += _stepped(average.sweeps[0], NO_PROLOGUE, after, arrays[-1], moved[0], [])
                kernel = self._kernels[group]
                room = None if last else 1 + kernel.operands.index(kernel.room)
                for k, (array, values) in enumerate(zip(arrays, moved, strict=True)):
                    if room in (None, k):  # a sweep before the last fills the room and changes nothing else
                        found.copy(array, values)
            # Tables have no other sweep than the last.
            for table, of_table in self._of_tables(coefficients) if last else ():
                table.run(of_table, found)
        if changes is not None:
            found.extend(changes)
        found.write()
        if last:
            self.release()

    def run_and_sum(
        self, coefficients: Sequence[StepCoefficients | None], zero_gradients: bool, changes: Changes
    ) -> Array:
        """Do the last sweep; return the sums of squares over each tensor."""
        after = [memory.flat(p, like=p) for _, p, *_ in self._tensors]
        before, gradients = [p.astype(np.float64) for p in after], self._gradients
        tables = [(i, t.weights, zip(t.rows, t.touched(), t.gradients, strict=True)) for i, t in self._tables]
        self.run(self.sweeps - 1, coefficients, zero_gradients, changes)
        sums = np.zeros((len(after), 3, 3))
        for i, (p, moved, g) in enumerate(zip(before, after, gradients, strict=True)):
            sums[i, 1] = ranges(p)
            if g is not None:
                sums[i, 0] = ranges(memory.flat(g, like=g))
                sums[i, 2] = ranges(moved.astype(np.float64) - p)
        for i, weights, rows in tables:
            for row, p, g in rows:
                sums[i, 0] += ranges(g)
                sums[i, 2] += ranges(weights[row].ravel().astype(np.float64) - p)
        return sums

    def release(self) -> None:
        """Forget the gradients of a step."""
        for _, table in self._tables:
            table.release()
        self._gradients, self._tables = [], []

    def _sweep(self, group: int, sweep: int) -> Sweep | None:
        """Return a share's sweep of this number, if any; the last number is every kernel's last sweep."""
        sweeps = self._kernels[group].sweeps
        skipped = self.sweeps - len(sweeps)
        return sweeps[sweep - skipped] if sweep >= skipped else None

    def _of_tables(
        self, coefficients: Sequence[StepCoefficients | None]
    ) -> list[tuple[NumpyTable, StepCoefficients]]:
        given = map(_given, coefficients[len(self._kernels) :])
        return list(zip((table for _, table in self._tables), given, strict=True))

    def _is_plain(self, p: Array, g: Any) -> bool:
        return (
            p.flags.writeable
            and type(g) is np.ndarray
            and is_format(g.dtype)
            and mix(g.dtype, p.dtype)
            and g.shape == p.shape
            and memory.matches(p, g)
            and not self._written.sharing(g)
        )


def _given(coefficients: StepCoefficients | None) -> StepCoefficients:
    if coefficients is None:
        raise ValueError("coefficients for each share of the sweep")
    return coefficients


def _stepped(
    sweep: Sweep, prologue: dict[str, float], rule: dict[str, Any], p: Array, g: Array, state: list[Array]
) -> list[Array]:
    """Apply the prologue and the rule; return the new parameter and state, each rounded once to its type."""
    dtype = arithmetic(p.dtype)
    wide_state = [array.astype(dtype) for array in state]
    wide_p, wide_g = _prepared(prologue, *_wide([p, g]))
    sweep.update(Coefficients(rule, dtype), wide_p, wide_g, *wide_state)
    pairs = zip((p, *state), (wide_p, *wide_state), strict=True)
    return [wide.astype(kept.dtype, copy=False) for kept, wide in pairs]


def _wide(kept: list[Array]) -> list[Array]:
    """Return the arrays in the type in which a step computes."""
    return [array.astype(arithmetic(kept[0].dtype), copy=False) for array in kept]


def _prepared(prologue: dict[str, float], p: Array, g: Array) -> tuple[Array, Array]:
    """Apply the prologue; return the parameter and the gradient that the rule takes."""
    c = Coefficients(prologue, p.dtype)
    g = clamp(c.scale * g, -c.clip, c.clip)
    if prologue["l2"] != 0 or prologue["l1"] != 0:
        g = g + c.l2 * p + c.l1 * np.sign(p)
    return c.keep * p, g

"""The pass before the step of matrices, whose direction is made of all of a matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .hyperparameters import At
from .kernel import Array, Kernel, MatrixKernel

if TYPE_CHECKING:
    from . import native, reference
    from .engine import Engine
    from .plan import Row, Tensor


class Directions:
    """The directions of those tensors whose kernel is a `MatrixKernel`."""

    def __init__(
        self,
        plan: type[native.Plan | reference.Plan],
        kernels: Sequence[Kernel],
        tensors: Sequence[Tensor],
        state: Sequence[Mapping[str, Array]],
    ) -> None:
        """Take the kernels and tensors of a plan, and all their state."""
        self._arithmetic = plan.arithmetic
        self._state = state
        self._kernels = kernels
        self._positions = [i for i, (k, *_) in enumerate(tensors) if isinstance(kernels[k], MatrixKernel)]
        self._tensors = [tensors[i] for i in self._positions]
        self._plan = plan(
            [kernel.direction if isinstance(kernel, MatrixKernel) else kernel for kernel in kernels],
            [(k, p, state, None) for k, p, state, _ in self._tensors],
        )

    def make(
        self, rule: type[Engine], hs: Sequence[At], t: int, rows: Sequence[Row], gradients: Sequence[Any]
    ) -> list[tuple[Array, Array]]:
        """Fill the last slot of each tensor that has a gradient; nothing else is written.

        Returns the factors with their new values.
        """
        mine = [gradients[i] for i in self._positions]
        self._plan.pin(mine, False)
        self._plan.run(list(self._rows(rule, hs, t, rows)), False)
        changed: list[tuple[Array, Array]] = []
        for i, (k, p, slots, _), g in zip(self._positions, self._tensors, mine, strict=True):
            kernel = self._kernels[k]
            if g is not None and isinstance(kernel, MatrixKernel):
                factors = {name: self._state[i][name] for name in kernel.factors(p.shape)}
                after = kernel.turn(self._arithmetic, hs[k], t, slots[-1], factors)
                changed += [(factors[name], value) for name, value in after.items()]
        return changed

    def _rows(self, rule: type[Engine], hs: Sequence[At], t: int, rows: Sequence[Row]) -> Iterator[Row]:
        for kernel, h, row in zip(self._kernels, hs, rows, strict=True):
            if isinstance(kernel, MatrixKernel):
                yield direction_row(rule, kernel, h, t, row)
            else:
                yield row


def direction_row(rule: type[Engine], kernel: MatrixKernel, h: At, t: int, row: Row) -> Row:
    """The coefficients of the pass that makes the direction, from those of the step."""
    return {**row[0], "keep": 1.0}, rule.coefficients(h.with_kernel(kernel.direction), t), None, None

"""Weights and the averages of them, which take their place for a while."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import average
from ..arrays import Array, check_array, check_writeable
from ..structure import Groups

if TYPE_CHECKING:
    from ..engine import Engine
    from ..structure import Params


class Swappable:
    """What has weights and averages of them: ``with average.swapped(): …`` evaluates the averages.

    While they are swapped in, the weights hold the averages, converted to their dtype, and a copy of the
    weights is kept. Training must wait; what would change the averages is a RuntimeError.
    """

    def __init__(
        self, names: Sequence[Hashable], weights: Sequence[Array], averages: Sequence[Array]
    ) -> None:
        self._names = names
        self._weights = weights
        self._averages = averages
        self._kept: list[Array] | None = None

    def swap_in(self) -> None:
        """Put the averages in the weights' place.

        Raises RuntimeError if they are there already, ValueError for weights that are read-only.
        """
        self._check_swapped_out()
        self._check_writeable()
        self._kept = [p.copy() for p in self._weights]
        assign(self._weights, self._averages)

    def swap_out(self) -> None:
        """Put the weights back. Raises RuntimeError if the averages are not swapped in."""
        if self._kept is None:
            raise RuntimeError("the averages are not swapped in")
        self._check_writeable()
        assign(self._weights, self._kept)
        self._kept = None

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within it the weights hold the averages."""
        self.swap_in()
        try:
            yield
        finally:
            self.swap_out()

    def _check_writeable(self) -> None:
        for name, p in zip(self._names, self._weights, strict=True):
            check_writeable(name, p)

    def _check_swapped_out(self) -> None:
        if self._kept is not None:
            raise RuntimeError("the averages are swapped in")


class FusedEMA(Swappable):
    """The averages that an optimizer with ``ema=`` keeps within its steps.

    `averages` has the optimizer's own arrays, keyed as in ``optimizer.state``; parameters of groups without
    `ema` have none and stay as they are. In checkpoints they are part of the optimizer's state. While they
    are swapped in, a step of the optimizer is a RuntimeError. Raises ValueError if no group has `ema`.
    """

    def __init__(self, optimizer: Engine) -> None:
        found = [
            (name, p, slots[average.SLOT])
            for name, p, slots in zip(
                optimizer.tensors.names,
                optimizer.structure.parameters,
                optimizer.tensors.slots,
                strict=True,
            )
            if average.SLOT in slots
        ]
        if not found:
            raise ValueError("the optimizer keeps no averages: make it with ema=")
        names, weights, averages = zip(*found, strict=True)
        super().__init__(names, weights, averages)
        self._optimizer = optimizer
        views = dict(zip(names, (a.view() for a in averages), strict=True))
        tree = optimizer.structure.tree([views.get(name) for name in optimizer.tensors.names])
        self.averages: Any = views if isinstance(tree, dict) else tree

    def swap_in(self) -> None:
        self._optimizer.pause()
        try:
            super().swap_in()
        except BaseException:
            self._optimizer.resume()
            raise

    def swap_out(self) -> None:
        super().swap_out()
        self._optimizer.resume()


class Weights:
    """The arrays of a structure of weights, checked."""

    def __init__(self, params: Params) -> None:
        self.structure = Groups(params)
        self.names = self.structure.names
        self.arrays = self.structure.parameters
        for name, p in zip(self.names, self.arrays, strict=True):
            check_array(f"parameter {name!r}", p)

    def copies(self, dtype: Any = None) -> list[Array]:
        """A copy of each, dense, in its dtype or another."""
        with np.errstate(all="ignore"):
            return [np.array(p, dtype, order="C", subok=False) for p in self.arrays]


def assign(targets: Sequence[Array], values: Sequence[Array]) -> None:
    """In their dtype, where what is too large for fewer bits is infinite."""
    with np.errstate(all="ignore"):
        for target, value in zip(targets, values, strict=True):
            target[...] = value

"""Averages that take the place of the weights for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._core import Changes
from ..arrays.memory import check_writeable
from ..closed import Closed
from ..engine.engine import Engine
from ..formula.slots import AVERAGE
from ..weights import Named, assign


class Swappable(Closed):
    """Weights and averages of them: evaluate the averages inside ``with average.swapped(): …``.

    While they are swapped in, the weights' arrays hold the averages, converted to the weights' dtype, and a
    copy of the weights is kept. Meanwhile, changing the averages raises RuntimeError, and so does a step of
    the optimizer, if it is known. If it is not known, or several averages share the weights, the caller must
    keep these operations apart.
    """

    averages: Any

    def __init__(self, weights: Named, averages: Named, optimizer: Engine | None) -> None:
        self._weights = weights
        self._averages = averages
        self._optimizer = optimizer
        self._kept: Named | None = None

    def swap_in(self) -> None:
        """Put the averages in the weights' place.

        Raises RuntimeError if these or other averages are there already, ValueError for read-only weights.
        """
        self._swap_in(self._copied())

    def swap_out(self) -> None:
        """Put the weights back. Raises RuntimeError if the averages are not swapped in."""
        kept = self._kept
        if kept is None:
            raise RuntimeError("the averages are not swapped in")
        self._check_writeable()
        self._swap(kept, None)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Return a context in which the weights hold the averages."""
        kept = self._copied()
        try:
            self._swap_in(kept)
            yield
        finally:
            if self._kept is kept:
                self.swap_out()

    def _copied(self) -> Named:
        """A copy of the weights, to be kept while averages are in their place."""
        self._check_swapped_out()
        self._check_writeable()
        return {name: p.copy() for name, p in self._weights.items()}

    def _swap_in(self, kept: Named) -> None:
        if self._optimizer:  # which must not step meanwhile, nor have other averages swapped in
            self._optimizer.busy.run(self._swap, self._averages, kept)
        else:
            self._swap(self._averages, kept)

    def _swap(self, values: Named, kept: Named | None) -> None:
        """Give the weights other values, and remember what is kept, all at once."""
        changes = Changes()
        assign(changes, self._weights, values)
        changes.update(vars(self), {"_kept": kept})
        if self._optimizer:
            changes.update(self._optimizer.busy.state, {"swapped": kept is not None})
        changes.write()

    def _check_writeable(self) -> None:
        for name, p in self._weights.items():
            check_writeable(name, p)

    def _check_swapped_out(self) -> None:
        if self._kept is not None:
            raise RuntimeError("the averages are swapped in")


class FusedEMA(Swappable):
    """The averages that an optimizer with ``ema=`` updates within its steps.

    `averages` has the optimizer's own arrays, keyed as in ``optimizer.state``; parameters of groups without
    `ema` have no average and stay as they are. Checkpoints save the averages with the optimizer's state.
    While they are swapped in, a step of the optimizer raises RuntimeError. Raises ValueError if no group has
    `ema`.
    """

    def __init__(self, optimizer: Engine) -> None:
        tensors = optimizer.tensors
        slots = dict(zip(tensors.names, tensors.slots, strict=True))
        averages = {name: kept[AVERAGE] for name, kept in slots.items() if AVERAGE in kept}
        if not averages:
            raise ValueError("the optimizer keeps no averages: make it with ema=")
        weights = dict(zip(tensors.names, optimizer.structure.parameters, strict=True))
        super().__init__({name: weights[name] for name in averages}, averages, optimizer)
        views = {name: a.view() for name, a in averages.items()}
        tree = optimizer.structure.tree([views.get(name) for name in tensors.names])
        self.averages = views if isinstance(tree, dict) else tree

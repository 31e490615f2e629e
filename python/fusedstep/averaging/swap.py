"""Averages that take the place of the weights for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..arrays.memory import check_writeable
from ..engine.busy import Holder
from ..engine.engine import Engine
from ..formula.slots import AVERAGE
from ..weights import Named, assign


class Kept(Holder):
    """A copy of the weights while averages are in their place; it keeps the optimizer from stepping."""

    __slots__ = ("weights",)

    def __init__(self, weights: Named) -> None:
        self.weights = {name: p.copy() for name, p in weights.items()}


class Swappable:
    """Weights and averages of them: evaluate the averages inside ``with average.swapped(): …``.

    While they are swapped in, the weights' arrays hold the averages, converted to the weights' dtype, and a
    copy of the weights is kept. Meanwhile, changing the averages raises RuntimeError, and so does a step of
    the optimizer, if it is known. If it is not known, or several averages share the weights, the caller must
    keep these operations apart.
    """

    def __init__(self, weights: Named, averages: Named, optimizer: Engine | None) -> None:
        self._weights = weights
        self._averages = averages
        self._optimizer = optimizer
        self._kept: Kept | None = None

    def swap_in(self) -> None:
        """Put the averages in the weights' place.

        Raises RuntimeError if these or other averages are there already, ValueError for read-only weights.
        """
        self._check_swapped_out()
        self._check_writeable()
        kept = Kept(self._weights)
        try:
            if self._optimizer:
                self._optimizer.busy.take(kept)
            self._kept = kept
            assign(self._weights, self._averages)
        except BaseException:
            if self._kept:
                self.swap_out()
            raise

    def swap_out(self) -> None:
        """Put the weights back. Raises RuntimeError if the averages are not swapped in."""
        kept = self._kept
        if kept is None:
            raise RuntimeError("the averages are not swapped in")
        self._check_writeable()
        assign(self._weights, kept.weights)
        self._kept = None
        if self._optimizer:
            self._optimizer.busy.leave(kept)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Return a context in which the weights hold the averages."""
        self.swap_in()
        try:
            yield
        finally:
            self.swap_out()

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
        self.averages: Any = views if isinstance(tree, dict) else tree

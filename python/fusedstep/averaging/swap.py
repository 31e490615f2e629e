"""Weights and the averages of them, which take their place for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import average
from ..arrays import Array, check_writeable
from ..busy import Holder

if TYPE_CHECKING:
    from ..engine import Engine

Named = Mapping[Any, Array]


class Kept(Holder):
    """The weights while averages are in their place; who has it keeps the optimizer from stepping."""

    __slots__ = ("weights",)

    def __init__(self, weights: Named) -> None:
        self.weights = {name: p.copy() for name, p in weights.items()}


class Swappable:
    """What has weights and averages of them: ``with average.swapped(): …`` evaluates the averages.

    While they are swapped in, the weights hold the averages, converted to their dtype, and a copy of the
    weights is kept. What would change the averages is a RuntimeError then, and so is a step of the optimizer,
    if it is known. If it is not, or there are several averages of the same weights, keep them apart.
    """

    def __init__(self, weights: Named, averages: Named, optimizer: Engine | None) -> None:
        self._weights = weights
        self._averages = averages
        self._optimizer = optimizer
        self._kept: Kept | None = None

    def swap_in(self) -> None:
        """Put the averages in the weights' place.

        Raises RuntimeError if they are there already, or others are, ValueError for weights that are
        read-only.
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
        """Within it the weights hold the averages."""
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
    """The averages that an optimizer with ``ema=`` keeps within its steps.

    `averages` has the optimizer's own arrays, keyed as in ``optimizer.state``; parameters of groups without
    `ema` have none and stay as they are. In checkpoints they are part of the optimizer's state. While they
    are swapped in, a step of the optimizer is a RuntimeError. Raises ValueError if no group has `ema`.
    """

    def __init__(self, optimizer: Engine) -> None:
        tensors = optimizer.tensors
        slots = dict(zip(tensors.names, tensors.slots, strict=True))
        averages = {name: kept[average.SLOT] for name, kept in slots.items() if average.SLOT in kept}
        if not averages:
            raise ValueError("the optimizer keeps no averages: make it with ema=")
        weights = dict(zip(tensors.names, optimizer.structure.parameters, strict=True))
        super().__init__({name: weights[name] for name in averages}, averages, optimizer)
        views = {name: a.view() for name, a in averages.items()}
        tree = optimizer.structure.tree([views.get(name) for name in tensors.names])
        self.averages: Any = views if isinstance(tree, dict) else tree


def assign(targets: Named, values: Named) -> None:
    """In their dtype, where what is too large for fewer bits is infinite."""
    with np.errstate(all="ignore"):
        for name, target in targets.items():
            target[...] = values[name]

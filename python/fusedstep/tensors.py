"""The parameters of an optimizer and their state, as the kernels see them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np

from .arrays import (
    Array,
    Memory,
    check_array,
    check_disjoint,
    check_parameter,
    check_writeable,
    dense,
    matches,
)


class Tensors:
    """Checked parameters, each with its state slots, and the gradients that fit them.

    The kernels walk dense memory. A parameter with gaps between its elements is represented by a dense
    stand-in, filled before a step and written back after it.
    """

    def __init__(
        self,
        names: Sequence[Hashable],
        parameters: Sequence[Any],
        state_of: Callable[[int, Array], dict[str, Array]],
    ) -> None:
        for name, p in zip(names, parameters, strict=True):
            check_parameter(name, p)
        labels = [f"parameter {name!r}" for name in names]
        check_disjoint(zip(labels, parameters, strict=True))
        self.names = names
        self.dense: list[Array] = [dense(p) for p in parameters]
        self.slots = [state_of(i, p) for i, p in enumerate(self.dense)]
        self._strided = [
            (name, p, d) for name, p, d in zip(names, parameters, self.dense, strict=True) if p is not d
        ]
        self._strided_memory = Memory((f"parameter {name!r}", p) for name, p, _ in self._strided)
        self._memory = Memory(
            (
                *zip(labels, parameters, strict=True),
                *(
                    (f"state {slot!r} of {label}", array)
                    for label, slots in zip(labels, self.slots, strict=True)
                    for slot, array in slots.items()
                ),
            )
        )

    def conform(self, i: int, gradient: Any) -> Array:
        """The gradient of parameter `i` as the kernels read it: itself, or copied into the parameter's order.

        An error if it is no gradient of it, or shares memory with something that the step writes.
        """
        label, p = f"gradient {self.names[i]!r}", self.dense[i]
        check_writeable(self.names[i], p)
        g = check_array(label, gradient)
        if g.shape != p.shape:
            raise ValueError(f"{label} has shape {g.shape}, its parameter {p.shape}")
        if g.dtype != p.dtype:
            raise TypeError(f"{label} has dtype {g.dtype.str}, its parameter {p.dtype.str}")
        for other in self._memory.sharing(g):
            raise ValueError(f"{label} shares memory with {other}")
        if matches(p, g):
            return g.view(np.ndarray)
        copy = np.empty_like(p, subok=False)
        copy[...] = g
        return copy

    def check_strided(self, gradients: Sequence[Array | None]) -> None:
        """An error if a strided parameter is read-only or shared by a gradient: the plan sees stand-ins."""
        if self._strided:
            for name, p, _ in self._strided:
                check_writeable(name, p)
            for name, g in zip(self.names, gradients, strict=True):
                for label in [] if g is None else self._strided_memory.sharing(g):
                    raise ValueError(f"gradient {name!r} shares memory with {label}")

    def gather(self) -> None:
        """Fill the stand-ins of strided parameters."""
        for _, p, stand_in in self._strided:
            stand_in[...] = p

    def scatter(self) -> None:
        """Write them back."""
        for _, p, stand_in in self._strided:
            p[...] = stand_in

    def state(self) -> Iterator[tuple[Hashable, str, Array]]:
        """Every state array, with its parameter's name and its slot."""
        for name, slots in zip(self.names, self.slots, strict=True):
            for slot, array in slots.items():
                yield name, slot, array

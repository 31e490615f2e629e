"""The parameters of an optimizer and their state, as the kernels see them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from .._core import Layouts
from .memory import (
    Array,
    Memory,
    check_array,
    check_disjoint,
    check_format,
    check_parameter,
    check_writeable,
    dense,
    matches,
)
from .storage import DType, mix

Operands: TypeAlias = tuple[int, Array, list[Array], Array | None, list[Array]]
"""The data of a tensor that a plan takes: the number of its share, the parameter, the state that its kernel
takes, the average of its weights if one is kept, and its other state."""


class Tensors:
    """Checked parameters, each with its state slots, and the gradients that fit them.

    The kernels walk dense memory. A parameter with gaps between its elements is represented by a dense
    stand-in, filled before a step and written back after it.
    """

    def __init__(
        self,
        names: Sequence[Hashable],
        parameters: Sequence[Any],
        make: Callable[[int, Array, Array], tuple[dict[str, Array], dict[str, Array]]],
    ) -> None:
        """Check `parameters`, and have ``make(i, p, dense_p)`` make the state and the room of each."""
        self._given = parameters
        self._plain = parameters = [
            check_parameter(name, p) for name, p in zip(names, parameters, strict=True)
        ]
        labels = [f"parameter {name!r}" for name in names]
        check_disjoint(zip(labels, parameters, strict=True))
        self.names = names
        self.layouts = Layouts(self._given)
        self._of_subclasses = [i for i, p in enumerate(parameters) if p is not self._given[i]]
        self._dtypes = [p.dtype for p in parameters]
        self.dense: list[Array] = [dense(p) for p in parameters]
        made = [
            make(i, p, dense_p) for i, (p, dense_p) in enumerate(zip(parameters, self.dense, strict=True))
        ]
        self.slots = [state for state, _ in made]
        self.room = [room for _, room in made]
        self._strided = {i: p for i, p in enumerate(parameters) if p is not self.dense[i]}
        self._strided_memory = Memory((labels[i], p) for i, p in self._strided.items())
        self.memory = Memory(
            (
                *zip(labels, parameters, strict=True),
                *(
                    (f"state {slot!r} of {label}", array)
                    for label, slots in zip(labels, self.slots, strict=True)
                    for slot, array in slots.items()
                ),
            )
        )

    @property
    def are_plain(self) -> bool:
        """Whether no parameter needs a stand-in, or is of a subclass of NumPy's arrays."""
        return not (self._strided or self._of_subclasses)

    def check_unchanged(self) -> None:
        """Raise TypeError or ValueError if a parameter is no longer the array that it was.

        NumPy lets the dtype, shape, strides and memory of an array change in place.
        """
        for i in self._of_subclasses:
            self._plain[i].flags.writeable = np.ndarray.view(self._given[i], np.ndarray).flags.writeable
        changed = self.layouts.changed()
        if changed is None:
            return
        p, dtype = self._given[changed], self._dtypes[changed]
        was = f"since the optimizer was made from it, parameter {self.names[changed]!r} has"
        if p.dtype != dtype:
            raise TypeError(f"{was} changed its dtype from {dtype} to {p.dtype}: make a new optimizer")
        raise ValueError(f"{was} changed its shape, strides or memory: make a new optimizer")

    def conform(self, i: int, gradient: Any, will_be_zeroed: bool) -> Array:
        """Return the gradient of parameter `i`, or a copy in the parameter's memory order, for the kernels.

        A gradient that will be zeroed is always copied, so that the kernels' zeros do not reach another
        gradient in the same memory. Raise TypeError or ValueError if the gradient does not fit the parameter,
        or shares memory with an array that the step writes.
        """
        label, p = f"gradient {self.names[i]!r}", self.dense[i]
        check_writeable(self.names[i], p)
        if p.shape == () and isinstance(gradient, np.generic) and not will_be_zeroed:
            gradient = np.asarray(gradient)
        g = check_gradient(label, gradient, "its parameter", p.shape, p.dtype, self.memory)
        if will_be_zeroed and not g.flags.writeable:
            raise ValueError(f"{label} is read-only, zero_grad cannot set it to 0")
        if matches(p, g) and not will_be_zeroed:
            return g.view(np.ndarray)
        copy = np.empty_like(p, g.dtype, subok=False)
        copy[...] = g
        return copy

    def strided(self, gradients: Sequence[Array | None]) -> list[tuple[Array, Array]]:
        """Check the strided parameters that a step moves like dense ones; return each with its stand-in."""
        if not self._strided:
            return []
        for name, g in zip(self.names, gradients, strict=True):
            for label in [] if g is None else self._strided_memory.sharing(g):
                raise ValueError(f"gradient {name!r} shares memory with {label}")
        moving = [i for i in self._strided if gradients[i] is not None]
        for i in moving:
            check_writeable(self.names[i], self._strided[i])
        return [(self._strided[i], self.dense[i]) for i in moving]

    def fill(self) -> None:
        """Copy every strided parameter to its stand-in, also those that a step does not move."""
        for i, p in self._strided.items():
            self.dense[i][...] = p

    def views(self) -> list[Mapping[str, Array]]:
        """Return for each parameter views of its state arrays by slot, for the user."""
        return [
            MappingProxyType({slot: array.view() for slot, array in slots.items()}) for slots in self.slots
        ]

    def state(self) -> Iterator[tuple[Hashable, str, Array]]:
        """Yield every state array, with its parameter's name and its slot."""
        for name, slots in zip(self.names, self.slots, strict=True):
            for slot, array in slots.items():
                yield name, slot, array


def check_gradient(
    label: str, gradient: Any, of: str, shape: tuple[int, ...], dtype: DType, written: Memory
) -> Array:
    """Return `gradient`; raise an error unless it fits `shape` and `dtype` and shares no `written` memory."""
    g = check_array(label, gradient)
    if g.shape != shape:
        raise ValueError(f"{label} has shape {g.shape}, {of} {shape}")
    check_format(label, g)
    if not mix(g.dtype, dtype):
        raise TypeError(f"{label} has dtype {g.dtype}, {of} {dtype}")
    for other in written.sharing(g):
        raise ValueError(f"{label} shares memory with {other}")
    return g

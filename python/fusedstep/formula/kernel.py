"""Kernels: each ties a rule's formula in NumPy to the C++ struct that does the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .slots import Slot

Array: TypeAlias = npt.NDArray[np.floating[Any]]

Measure: TypeAlias = Callable[..., tuple[Array, ...]]
"""``measure(c, p, g, *operands)``: each element's terms in the sums that the update depends on."""


class Squares(tuple[Array, ...]):
    """What a `Measure` returns where the terms are squares: the numbers that are squared."""

    __slots__ = ()


class Arithmetic(NamedTuple):
    """The operations of a backend on whole matrices."""

    square_sums: Callable[[Array], tuple[Array, Array]]
    """The sums of squares of the rows, and of the columns, of a stack of matrices, in double precision."""
    multiply: Callable[[Array, Array, Array, float], None]
    """Multiply each element by the product of its row's and its column's number, but at most by a limit."""


class Coefficients:
    """A step's coefficients as attributes, in the dtype of the tensor to which a formula applies them."""

    def __init__(self, values: Mapping[str, Any], dtype: np.dtype[Any]) -> None:
        self.__dict__.update((name, dtype.type(value)) for name, value in values.items())

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> np.floating[Any]: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """One pass over a tensor: an elementwise formula, here in NumPy, and in C++ in the struct `name`."""

    name: str
    operands: tuple[str, ...]
    """The slots that the formula takes after c, p and g, in this order."""
    update: Callable[..., None]
    measure: Measure | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """The update of a parameter: one sweep, or two with a computation on whole matrices between them.

    The first of two sweeps fills one slot and writes nothing else. `turn` turns this slot into a direction,
    and the last sweep moves the parameter along it.
    """

    sweeps: tuple[Sweep, ...]
    slots: Mapping[str, Slot] = field(default_factory=dict)
    """Slots that only this kernel has. They replace or extend the slots that the rule declares for all."""
    turn: Callable[..., dict[str, Array]] = field(default=lambda *_, **__: {})
    """``turn(arithmetic, h, t, **slots)`` gets the slots in `turned`. It writes the direction into the room,
    and returns the values of the other slots after the step."""
    stacks: bool = False
    """Whether a kernel of matrices takes parameters of more than two axes as stacks of matrices."""
    of_rows: Kernel | None = None
    """The kernel that steps single rows, and does to each row what this kernel does to a tensor."""

    @cached_property
    def names(self) -> list[str]:
        """The names of all sweeps."""
        return [sweep.name for sweep in self.sweeps]

    @property
    def name(self) -> str:
        """The name of the last sweep, the one that moves the parameter."""
        return self.sweeps[-1].name

    @property
    def update(self) -> Callable[..., None]:
        """The formula of the last sweep."""
        return self.sweeps[-1].update

    @property
    def operands(self) -> tuple[str, ...]:
        """The slots that every sweep takes."""
        return self.sweeps[-1].operands

    @cached_property
    def measures(self) -> bool:
        """Whether coefficients of the last sweep depend on sums over the tensor."""
        return self.sweeps[-1].measure is not None

    @cached_property
    def turns(self) -> bool:
        """Whether there are two sweeps with a turn between them, which needs whole matrices."""
        return len(self.sweeps) > 1

    @cached_property
    def room(self) -> str:
        """The slot that the first of two sweeps fills, and that only this step needs."""
        (name,) = (name for name, slot in self.slots.items() if not slot.lives)
        return name

    @cached_property
    def turned(self) -> tuple[str, ...]:
        """The slots that `turn` takes: the room for the direction, and slots smaller than the parameter."""
        return tuple(name for name, slot in self.slots.items() if slot.of != "element" or not slot.lives)

    @cached_property
    def small(self) -> tuple[str, ...]:
        """Those of the turned slots that are smaller than the parameter."""
        return tuple(name for name in self.turned if self.slots[name].lives)

    def fits(self, axes: int) -> bool:
        """Whether a kernel of matrices takes parameters with this number of axes."""
        return axes == 2 or (axes > 2 and self.stacks)


def sweep(name: str, *, measure: Measure | None = None) -> Callable[[Callable[..., None]], Sweep]:
    """Declare the formula ``update(c, p, g, *operands)`` to be what the C++ struct `name` computes."""

    def declare(update: Callable[..., None]) -> Sweep:
        _c, _p, _g, *operands = signature(update).parameters
        return Sweep(name=name, operands=tuple(operands), update=update, measure=measure)

    return declare


def kernel(
    name: str, *, measure: Measure | None = None, after: tuple[Sweep, ...] = (), **more: Any
) -> Callable[[Callable[..., None]], Kernel]:
    """Declare such a formula to be the last sweep of a kernel, which comes after the sweeps in `after`.

    more: the other fields of `Kernel`.
    """

    def declare(update: Callable[..., None]) -> Kernel:
        return Kernel(sweeps=(*after, sweep(name, measure=measure)(update)), **more)

    return declare

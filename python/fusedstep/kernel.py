"""The seam between a rule's two halves: the NumPy formula, and the C++ struct of the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .hyperparameters import At

Shape: TypeAlias = tuple[int, ...]
Array: TypeAlias = npt.NDArray[np.floating[Any]]


Factors: TypeAlias = dict[str, Array]


class Arithmetic(NamedTuple):
    """What a backend does with whole matrices."""

    square_sums: Callable[[Array], tuple[Array, Array]]
    """The sums of squares of the rows, and of the columns, of a stack of matrices, in double precision."""
    multiply: Callable[[Array, Array, Array, float], None]
    """Multiply its elements by numbers of rows and columns, whose product is at most a limit."""


class Coefficients:
    """A step's coefficients as attributes, in the dtype of the tensor that they meet."""

    def __init__(self, values: dict[str, float], dtype: np.dtype[Any]) -> None:
        self.__dict__.update((name, dtype.type(value)) for name, value in values.items())

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> np.floating[Any]: ...


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One elementwise update: its struct's name in cpp/rules, its state slots, its formula in NumPy."""

    name: str
    slots: tuple[str, ...]
    update: Callable[..., None]
    measure: Callable[..., tuple[Array, ...]] | None = None
    """What each element adds to the sums over its tensor that the update depends on."""

    @property
    def state(self) -> tuple[str, ...]:
        """The slots that are kept from step to step."""
        return self.slots


@dataclass(frozen=True, kw_only=True)
class MatrixKernel(Kernel):
    """An update along a direction that is made of the whole matrix, and is its last slot."""

    direction: Kernel
    """The elementwise pass before, which fills that slot and writes nothing else."""
    turn: Callable[[Arithmetic, At, int, Array, Factors], Factors]
    """What is done then: ``turn(arithmetic, h, t, o, factors)`` writes o, and returns the new factors."""
    factors: Callable[[Shape], dict[str, Shape]] = lambda _: {}
    """The shapes of state that is smaller than the parameter."""
    stacks: bool = False
    """Whether parameters of more than two axes are stacks of matrices."""
    of_rows: Kernel | None = None
    """The update of a row alone, which makes the same of it; the factors are numbers of rows then."""

    def takes(self, axes: int) -> bool:
        """Whether parameters of so many axes are matrices."""
        return axes == 2 or (axes > 2 and self.stacks)

    @property
    def state(self) -> tuple[str, ...]:
        """The slots that are kept from step to step."""
        return self.slots[:-1]


def kernel(
    name: str, *, measure: Callable[..., tuple[Array, ...]] | None = None
) -> Callable[[Callable[..., None]], Kernel]:
    """Declare the formula ``update(c, p, g, *slots)`` to be what the C++ struct ``name`` computes.

    measure: ``measure(c, p, g, *slots)``, for an update that depends on sums over the tensor.
    """

    def declare(update: Callable[..., None]) -> Kernel:
        _c, _p, _g, *slots = signature(update).parameters
        return Kernel(name=name, slots=tuple(slots), update=update, measure=measure)

    return declare


def matrix_kernel(
    name: str, *, measure: Callable[..., tuple[Array, ...]] | None = None, **more: Any
) -> Callable[[Callable[..., None]], MatrixKernel]:
    """Declare the same of an update of matrices, of which the last slot is the direction.

    more: the other fields of `MatrixKernel`.
    """

    def declare(update: Callable[..., None]) -> MatrixKernel:
        elementwise = kernel(name, measure=measure)(update)
        return MatrixKernel(name=name, slots=elementwise.slots, update=update, measure=measure, **more)

    return declare

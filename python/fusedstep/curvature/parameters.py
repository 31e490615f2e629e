"""Parameters as one vector."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from .._core import Changes
from ..arrays.memory import Array, check_array, check_disjoint, check_parameter
from ..weights import Named, Weights, assign

if TYPE_CHECKING:
    from ..arrays.structure import Params
    from ..engine.engine import Engine

Vector = npt.NDArray[np.float64]
T = TypeVar("T")


class Parameters:
    """Parameters as one float64 vector: joined end to end, each in C order."""

    def __init__(self, params: Params | Engine) -> None:
        self._weights = Weights(params)
        self._arrays = self._weights.arrays
        for name, p in self._arrays.items():
            check_parameter(name, p)
            if p.dtype not in (np.float32, np.float64):
                raise TypeError(f"parameter {name!r} is {p.dtype}; differences need float32 or float64")
        check_disjoint((f"parameter {name!r}", p) for name, p in self._arrays.items())
        self._ends = np.cumsum([p.size for p in self._arrays.values()])
        self.size = int(self._ends[-1])
        if not self.size:
            raise ValueError("the parameters have no elements")
        self.eps = max(float(np.finfo(p.dtype).eps) for p in self._arrays.values())

    def values(self) -> Vector:
        """The parameters as they are."""
        return _joined(self._arrays.values())

    def gradient(self, grads: Any) -> Vector:
        """The gradients as such a vector; raise an error unless they are finite and match the parameters."""
        found = {}
        for (name, p), given in zip(
            self._arrays.items(), self._weights.structure.gradients(grads), strict=True
        ):
            label = f"gradient {name!r}"
            # Arithmetic on 0-d arrays gives scalars.
            g = check_array(label, np.asarray(given) if isinstance(given, np.generic) else given)
            if (g.shape, g.dtype) != (p.shape, p.dtype):
                raise ValueError(f"{label} is {g.dtype} {g.shape}, its parameter {p.dtype} {p.shape}")
            if not np.isfinite(g).all():
                raise ValueError(f"{label} is not finite")
            found[name] = g
        return _joined(found.values())

    def pieces(self, vector: Vector) -> dict[Any, Array]:
        """The parts of a vector by name, in the parameters' shapes."""
        parts = np.split(vector, self._ends[:-1])
        return {
            name: part.reshape(p.shape) for (name, p), part in zip(self._arrays.items(), parts, strict=True)
        }

    def tree(self, vector: Vector) -> Any:
        """The same in the structure of the parameters."""
        return self._weights.structure.tree(list(self.pieces(vector).values()))

    def vector(self, tree: Any) -> Vector:
        """The vector whose `tree` this is; raise ValueError if it belongs to other parameters."""
        named = tree if isinstance(tree, dict) else {0: tree}
        shapes = [{name: np.shape(x) for name, x in arrays.items()} for arrays in (named, self._arrays)]
        if shapes[0] != shapes[1]:
            raise ValueError("the direction is of other parameters")
        return _joined(named[name] for name in self._arrays)

    def move(self, by: Vector) -> None:
        """Add a vector to the parameters."""
        self._moved(self.pieces(self.values() + by)).write()

    def at(self, displacement: Vector, function: Callable[[], T]) -> T:
        """Call a function while the parameters are moved; return its result and restore their bits."""
        back = self._moved(self._weights.copies())
        try:
            self.move(displacement)
            found = function()
            back.write()
        except BaseException:  # an interrupt may come before they are put back
            back.write()
            raise
        return found

    def _moved(self, values: Named) -> Changes:
        """The change of the parameters to other values."""
        changes = Changes()
        assign(changes, self._arrays, values)
        return changes


def _joined(arrays: Iterable[Array]) -> Vector:
    return np.concatenate([x.ravel() for x in arrays], dtype=np.float64)

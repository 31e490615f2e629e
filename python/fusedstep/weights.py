"""The arrays of a structure of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ._core import Changes
from .arrays.memory import Array, check_array, set_in
from .arrays.structure import Groups, Params
from .engine.engine import Engine

Named = Mapping[Any, Array]


class Weights:
    """The checked arrays of a structure or of an optimizer, by their names."""

    def __init__(self, params: Params | Engine) -> None:
        self.structure = params.structure if isinstance(params, Engine) else Groups(params)
        self.arrays: dict[Any, Array] = dict(
            zip(self.structure.names, self.structure.parameters, strict=True)
        )
        for name, p in self.arrays.items():
            check_array(f"parameter {name!r}", p)

    def copies(self, dtypes: Any = None) -> dict[Any, Array]:
        """A dense copy of each array in its memory order, in its own dtype or the one in `dtypes`."""
        with np.errstate(all="ignore"):
            return {
                name: np.array(p, dtypes and dtypes[name], order="K", subok=False)
                for name, p in self.arrays.items()
            }


def assign(changes: Changes, targets: Named, values: Named) -> None:
    """Add values to the changes of arrays of the same names; what is too large becomes infinite."""
    for name, target in targets.items():
        set_in(changes, target, values[name])

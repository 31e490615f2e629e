"""The arrays of a structure of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array, check_array
from ..engine import Engine
from ..structure import Groups

if TYPE_CHECKING:
    from ..structure import Params


class Weights:
    """The arrays of a structure, or of an optimizer, checked, by their names."""

    def __init__(self, params: Params | Engine) -> None:
        self.structure = params.structure if isinstance(params, Engine) else Groups(params)
        self.arrays: dict[Any, Array] = dict(
            zip(self.structure.names, self.structure.parameters, strict=True)
        )
        for name, p in self.arrays.items():
            check_array(f"parameter {name!r}", p)

    def copies(self, dtypes: Any = None) -> dict[Any, Array]:
        """A copy of each, dense in its memory order, in its dtype or that of `dtypes` by its name."""
        with np.errstate(all="ignore"):
            return {
                name: np.array(p, dtypes and dtypes[name], order="K", subok=False)
                for name, p in self.arrays.items()
            }

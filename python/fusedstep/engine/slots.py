"""The arrays of a parameter's slots, which an optimizer makes when it is constructed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from ..arrays.memory import Array, zeros_like
from ..arrays.storage import DType, mix
from ..formula.slots import PARAMETER, Slot


def made(
    slots: Mapping[str, Slot],
    h: Mapping[str, Any],
    name: Hashable,
    p: Array,
    dense_p: Array,
    state_type: DType | None,
) -> dict[str, Array]:
    """Make an array for each slot, filled with its first value, in the memory order of `dense_p`.

    h: the hyperparameters, some of which are the first value of a slot. Raise TypeError if a step cannot
    combine the dtype of parameter `name` with that of the state.
    """
    common = state_type or p.dtype
    if not mix(common, p.dtype):
        raise TypeError(f"parameter {name!r} has dtype {p.dtype}, which goes with no state in {common}")
    arrays = {}
    with np.errstate(all="ignore"):
        for key, slot in slots.items():
            dtype = common if slot.kept is None else np.dtype(slot.kept)
            whole = slot.of == "element"
            array = zeros_like(dense_p, dtype) if whole else np.zeros(slot.shape(p.shape), dtype)
            if slot.start == PARAMETER:
                array[...] = p
            elif first := slot.first(h):
                array[...] = first
            arrays[key] = array
    return arrays

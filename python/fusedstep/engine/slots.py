"""The arrays of a parameter's slots, which an optimizer makes when it is constructed."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import numpy as np

from ..arrays.memory import Array, zeros_like
from ..arrays.storage import DType, mix
from ..formula.rule import Rule
from ..formula.slots import PARAMETER, widened
from .group import Group

Arrays: TypeAlias = dict[str, Array]


def made(
    rule: type[Rule], group: Group, name: Hashable, p: Array, dense_p: Array, state_type: DType | None
) -> tuple[Arrays, Arrays]:
    """Make the state of parameter `name`, at its first values, and the room that its steps need.

    state_type: the dtype of the state that the user asks for. The arrays have the memory order of `dense_p`.
    Raise TypeError if a step cannot combine the dtypes, or if the rule needs more than 16 bits.
    """
    common = state_type or p.dtype
    if not mix(common, p.dtype):
        raise TypeError(f"parameter {name!r} has dtype {p.dtype}, which goes with no state in {common}")
    rule.check_width(f"parameter {name!r}", p.dtype)
    rule.check_width(f"the state of parameter {name!r}", common)
    slots = rule.slots_of(group.kernel_of(p), averaged=group.averaged)
    wide = widened(slots) if state_type is None and p.dtype == np.float16 else []
    state: Arrays = {}
    room: Arrays = {}
    with np.errstate(all="ignore"):
        for key, slot in slots.items():
            dtype = np.dtype(slot.kept or ("float32" if key in wide else common))
            whole = slot.of == "element"
            array = zeros_like(dense_p, dtype) if whole else np.zeros(slot.shape(p.shape), dtype)
            if slot.start == PARAMETER:
                array[...] = p
            elif first := slot.first(group):
                array[...] = first
            (state if slot.lives else room)[key] = array
    return state, room

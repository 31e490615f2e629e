"""The position of a random generator in its block of numbers, which NumPy reads without a check."""

from __future__ import annotations

from typing import Any

from ..formula.hyperparameters import COUNT_OR_0, checked_number
from ..stateful import mapping

BLOCKS = {"pos": 624, "buffer_pos": 4}
"""Where generators have a position, and the length of the block: of MT19937, and of Philox."""


def check_position(state: Any) -> None:
    """Raise ValueError if the state of a generator has a position outside of its block."""
    mapping("the state of a generator", state)
    mapping("the state of a generator", state["state"])
    for name, length in BLOCKS.items():
        position = checked_number(name, {**state, **state["state"]}.get(name, 0), COUNT_OR_0)
        if position > length:
            raise ValueError(f"{name} of a generator must be at most {length}, got {position:g}")

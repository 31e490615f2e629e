"""How a class says to type checkers that its annotations are arguments of its constructor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

__all__ = ["dataclass_transform", "positional"]

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Any:
        """Do nothing: Python 3.10 has no typing.dataclass_transform, which only type checkers read."""
        return lambda cls: cls


def positional(*, kw_only: Literal[False] = False) -> Any:
    """Mark the field that is given by position, for type checkers."""
    return kw_only

"""Objects with a state; several of them are restored together or not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Stateful(Protocol):
    """An object whose state can be saved as plain numbers and arrays."""

    def state_dict(self) -> Any:
        """A copy of the state."""

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Restore what `state_dict` returned."""


def states(parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """The state of each part."""
    return {name: part.state_dict() for name, part in parts.items()}


def restore(label: str, parts: Mapping[str, Stateful], saved: Any) -> None:
    """Restore what `states` returned; after an error, which names the part, all parts are as they were."""
    same(label, saved, parts)
    before = states(parts)
    at = label
    try:
        for name, part in parts.items():
            at = f"{label}, {name}"
            part.load_state_dict(saved[name])
    except BaseException as error:
        for name, part in parts.items():
            part.load_state_dict(before[name])
        if isinstance(error, TypeError | ValueError):
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{at}: {error}") from error
        raise


def mapping(label: str, found: Any) -> None:
    """Raise TypeError unless `found` is a mapping."""
    if not isinstance(found, Mapping):
        raise TypeError(f"{label} must be a mapping, got {found!r}")


def same(label: str, found: Any, wanted: Collection[Any]) -> None:
    """Raise an error unless `found` is a mapping whose keys are those of `wanted`."""
    mapping(label, found)
    for key in wanted:
        if key not in found:
            raise ValueError(f"{label}: {key!r} is missing")
    for key in found:
        if key not in wanted:
            raise ValueError(f"{label}: {key!r} does not belong here")

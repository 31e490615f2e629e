"""Objects with a state; several of them are restored together or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from ._core import Changes
from .closed import Closed


@runtime_checkable
class Stateful(Protocol):
    """An object whose state can be saved as plain numbers and arrays."""

    def state_dict(self) -> Any:
        """A copy of the state."""

    def load_state_dict(self, state_dict: Any, /) -> object:
        """Restore what `state_dict` returned."""


class Loading:
    """What a load restores: of this package's objects everything at once, and then others one by one."""

    def __init__(self) -> None:
        self.changes = Changes()
        self.others: list[tuple[str, Stateful, Any]] = []
        """Objects from elsewhere, each after its name in error messages, and the state to restore."""

    def collect(self, label: str, part: Stateful, state: Any) -> None:
        """Check a state of an object of this package, or remember it for another object."""
        if isinstance(part, Loads):
            with named(label):
                part.collect_load(state, self)
        else:
            self.others.append((label, part, state))

    def write(self) -> None:
        """Restore all; after an error, all is as it was."""
        undo = Changes()
        if self.others:
            undo.restore(self.changes)
        before = [(part, part.state_dict()) for _, part, _ in self.others]
        try:
            self.changes.write()
            for label, part, state in self.others:
                with named(label):
                    part.load_state_dict(state)
        except BaseException:
            undo.write()
            for part, state in before:
                part.load_state_dict(state)
            raise


class Loads(Closed):
    """The base of this package's objects with a state, which is restored as a whole or not at all."""

    def state_dict(self) -> Any:
        """A copy of the state."""
        raise NotImplementedError

    def load_state_dict(self, state_dict: Any) -> None:
        """Restore what `state_dict` returned, or raise ValueError or TypeError without changing anything."""
        loading = Loading()
        self.collect_load(state_dict, loading)
        loading.write()

    def collect_load(self, state_dict: Any, loading: Loading) -> None:
        """Check a state, and add to the loading what restores it."""
        raise NotImplementedError


def states(parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """The state of each part."""
    return {name: part.state_dict() for name, part in parts.items()}


def collect(label: str, parts: Mapping[str, Stateful], saved: Any, loading: Loading) -> None:
    """Add the loading of parts to that of a whole."""
    same(label, saved, parts)
    for name, part in parts.items():
        loading.collect(f"{label}, {name}", part, saved[name])


@contextmanager
def named(label: str) -> Iterator[None]:
    """Put a label before the message of a TypeError or a ValueError."""
    try:
        yield
    except TypeError as error:
        raise TypeError(f"{label}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from error


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

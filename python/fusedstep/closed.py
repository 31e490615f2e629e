"""Objects whose public attributes are all declared, so that a misspelled one is an error."""

from __future__ import annotations

from inspect import get_annotations
from typing import Any, ClassVar


class Closed:
    """The base of objects of which only declared attributes, and private ones, can be set."""

    _declared: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._declared = frozenset(name for base in cls.__mro__ for name in get_annotations(base))

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name.startswith("_") or name in self._declared or hasattr(type(self), name)):
            raise AttributeError(self._no_attribute(name))
        super().__setattr__(name, value)

    def _no_attribute(self, name: str) -> str:
        """What an error says about an attribute that does not exist."""
        return f"{type(self).__name__} has no attribute {name!r} that could be set"

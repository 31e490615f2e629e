"""The lock of an optimizer, which has one user at a time."""

from __future__ import annotations

from functools import partial
from weakref import ref


class Holder:
    """A user of an optimizer, such as a running step."""

    __slots__ = ("__weakref__",)


class Busy:
    """A lock that is free again once its holder is deleted, even if an interrupt prevented `leave`."""

    def __init__(self) -> None:
        self._holder: dict[None, ref[object]] = {}
        self._free = partial(self._holder.pop, None)

    def take(self, holder: object) -> None:
        """Make `holder` the holder; raise RuntimeError while there is another."""
        # One call in C, which no interrupt can divide: it stores the reference only if there is no holder.
        if self._holder.setdefault(None, ref(holder, self._free))() is not holder:
            raise RuntimeError(
                "a step of this optimizer is running already, or the averages of its weights are swapped in"
            )

    def leave(self, holder: object) -> None:
        """Free the lock; do nothing if another is the holder."""
        held = self._holder.get(None)
        if held is not None and held() is holder:
            self._holder.pop(None, None)

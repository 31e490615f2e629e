"""Who may use an optimizer: one at a time."""

from __future__ import annotations

from functools import partial
from weakref import ref


class Holder:
    """Someone who uses an optimizer."""

    __slots__ = ("__weakref__",)


class Busy:
    """A lock that is free again when its holder is gone, even if an interrupt kept it from leaving."""

    def __init__(self) -> None:
        self._holder: dict[None, ref[object]] = {}
        self._free = partial(self._holder.pop, None)

    def take(self, holder: object) -> None:
        """Be the holder; RuntimeError while there is another."""
        # All in C, where no interrupt comes between: the reference stays only where there was none.
        if self._holder.setdefault(None, ref(holder, self._free))() is not holder:
            raise RuntimeError(
                "a step of this optimizer is running already, or the averages of its weights are swapped in"
            )

    def leave(self, holder: object) -> None:
        """No longer be the holder; nothing if it is another."""
        held = self._holder.get(None)
        if held is not None and held() is holder:
            self._holder.pop(None, None)

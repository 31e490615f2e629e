"""The NumPy backend: each rule's own formula, tensor by tensor. The native one must equal it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays
from .kernel import Coefficients

if TYPE_CHECKING:
    from .kernel import Array, Kernel


class Plan:
    """The counterpart of the native plan, with the same three methods."""

    def __init__(self, kernels: Sequence[Kernel], tensors: Sequence[tuple[int, Array, list[Array]]]) -> None:
        self._kernels = kernels
        self._tensors = tensors
        self._gradients: list[Array | None] = []
        self._written = arrays.Memory(("", array) for _, p, state in tensors for array in (p, *state))

    def pin(self, gradients: list[Any]) -> list[int]:
        """Take a step's gradients; return the positions of those not readable as they are."""
        self._gradients = gradients
        return [
            i
            for i, ((_, p, _), g) in enumerate(zip(self._tensors, gradients, strict=True))
            if not (g is None or self._is_plain(p, g))
        ]

    def run(self, rows: Sequence[tuple[dict[str, float], dict[str, float]]]) -> None:
        """Do the step: for each group the coefficients of the prologue and of the rule."""
        gradients, self._gradients = self._gradients, []  # kept for this step alone
        with np.errstate(all="ignore"):
            for (group, p, state), g in zip(self._tensors, gradients, strict=True):
                if g is not None:
                    slots = [arrays.flat(slot, like=p) for slot in state]
                    _update(
                        self._kernels[group],
                        *rows[group],
                        arrays.flat(p, like=p),
                        arrays.flat(g, like=p),
                        slots,
                    )

    def _is_plain(self, p: Array, g: Any) -> bool:
        return (
            p.flags.writeable
            and type(g) is np.ndarray
            and g.dtype == p.dtype
            and g.shape == p.shape
            and arrays.matches(p, g)
            and not self._written.sharing(g)
        )


def _update(
    kernel: Kernel, prologue: dict[str, float], rule: dict[str, float], p: Array, g: Array, slots: list[Array]
) -> None:
    c = Coefficients(prologue, p.dtype)
    g = c.scale * g
    if prologue["l2"] != 0 or prologue["l1"] != 0:
        g = g + c.l2 * p + c.l1 * np.sign(p)
    p[...] = c.keep * p
    kernel.update(Coefficients(rule, p.dtype), p, g, *slots)

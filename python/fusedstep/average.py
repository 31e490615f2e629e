"""The average of the weights. The counterpart of cpp/rules/average.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .kernel import kernel

if TYPE_CHECKING:
    from .kernel import Array, Coefficients

SLOT = "ema"


@kernel("Average")
def average(c: Coefficients, mean: Array, weight: Array) -> None:
    """Exponential moving average. Polyak & Juditsky 1992, doi:10.1137/0330046."""
    mean[...] = c.decay * mean + c.gain * weight


def coefficients(decay: float) -> dict[str, float]:
    """In the order of the fields of the C++ struct."""
    return {"decay": decay, "gain": 1 - decay}

"""Averages of weights. The counterpart of cpp/rules/average.hpp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .kernel import kernel

if TYPE_CHECKING:
    from .kernel import Array, Coefficients

SLOT = "ema"


@kernel("Average")
def average(c: Coefficients, mean: Array, weight: Array) -> None:
    """Exponential moving average, which any rule can keep."""
    mean[...] = c.decay * mean + c.gain * weight


@kernel("Mean")
def mean(c: Coefficients, mean: Array, weight: Array) -> None:
    """The mean of all so far. Polyak & Juditsky 1992, doi:10.1137/0330046. Equal weights leave it."""
    mean[...] = mean + c.share * (weight - mean)


def coefficients(decay: float) -> dict[str, float]:
    """In the order of the fields of the C++ struct."""
    return {"decay": decay, "gain": 1 - decay}

"""Averages of weights. The counterpart of cpp/kernels/rules/average.hpp."""

from __future__ import annotations

from .kernel import Array, Coefficients, kernel


@kernel("Average")
def average(c: Coefficients, mean: Array, weight: Array) -> None:
    """Exponential moving average, which any rule can keep."""
    mean[...] = c.decay * mean + c.gain * weight


@kernel("Mean")
def mean(c: Coefficients, mean: Array, weight: Array) -> None:
    """Mean of all weights so far; an equal one leaves it. Polyak & Juditsky 1992, doi:10.1137/0330046."""
    mean[...] = mean + c.share * (weight - mean)


def coefficients(decay: float) -> dict[str, float]:
    """The coefficients of `average`."""
    return {"decay": decay, "gain": 1 - decay}

"""Schedules that go from one value towards another, each by one formula."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from ..formula import power
from ..formula.hyperparameters import POSITIVE, REAL
from .schedule import Count, Counts, Schedule, Size, Value

Power = Annotated[float, POSITIVE]


@dataclass(frozen=True)
class Step(Schedule):
    """``start·factor^⌊(t - 1) / every⌋``: multiplied by `factor`, default 0.1, after each `every` steps.

    Like torch's StepLR, and optax's exponential_decay(staircase=True).
    """

    start: Value
    every: Count
    factor: Value = 0.1

    def __call__(self, t: int) -> float:
        return self.start * power(self.factor, (t - 1) // self.every)


@dataclass(frozen=True)
class MultiStep(Schedule):
    """`start`, multiplied by `factor`, default 0.1, after each of the step numbers in `after`.

    Like torch's MultiStepLR, and optax's piecewise_constant_schedule.
    """

    start: Value
    after: Counts
    factor: Value = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rising(self, "after", self.after)

    def __call__(self, t: int) -> float:
        return self.start * power(self.factor, bisect_left(self.after, t))


@dataclass(frozen=True)
class Exponential(Schedule):
    """``start·e^(-rate·(t - 1))``. Like torch's ExponentialLR with ``gamma = e^-rate``."""

    start: Value
    rate: Size

    def __call__(self, t: int) -> float:
        return self.start * math.exp(-self.rate * (t - 1))


@dataclass(frozen=True)
class InverseTime(Schedule):
    """``start / (1 + rate·(t - 1))``. Robbins & Monro 1951, doi:10.1214/aoms/1177729586."""

    start: Value
    rate: Size

    def __call__(self, t: int) -> float:
        return self.start / (1 + self.rate * (t - 1))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """``end + (start - end)·(1 - (t - 1) / steps)^power`` for `steps` steps, then `end`, default 0.

    power: default 1. Like torch's PolynomialLR, and optax's polynomial_schedule.
    """

    start: Value
    steps: Count
    end: Value = 0.0
    power: Power = 1.0

    def __call__(self, t: int) -> float:
        left = 1 - passed(t, 1, self.steps + 1)
        return between(self.end, self.start, power(left, self.power))


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from `start` to `end`, default 0, which it reaches after `steps` steps.

    Like torch's LinearLR, and optax's linear_schedule.
    """

    start: Value
    steps: Count
    end: Value = 0.0

    def __call__(self, t: int) -> float:
        return between(self.start, self.end, passed(t, 1, self.steps + 1))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a wave of the cosine from `start` to `end`, default 0, which it reaches after `steps` steps.

    ``end + (start - end)·(1 + cos(π·(t - 1) / steps)) / 2``. Loshchilov & Hutter, arXiv:1608.03983. Like
    torch's CosineAnnealingLR, which rises again after these steps, and optax's cosine_decay_schedule.
    """

    start: Value
    steps: Count
    end: Value = 0.0

    def __call__(self, t: int) -> float:
        return along_cosine(self.start, self.end, passed(t, 1, self.steps + 1))


@dataclass(frozen=True)
class Piecewise(Schedule):
    """One value after another: ``values[i + 1]`` takes over after step ``after[i]``.

    Like torch's SequentialLR of ConstantLR, and optax's piecewise_constant_schedule.
    """

    values: Annotated[tuple[float, ...], REAL]
    after: Counts

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rising(self, "after", self.after)
        if len(self.values) != len(self.after) + 1:
            raise ValueError(
                f"Piecewise has {len(self.values)} values and {len(self.after)} changes between them"
            )

    def __call__(self, t: int) -> float:
        return self.values[bisect_left(self.after, t)]


def momentum_steps(every: int) -> Piecewise:
    """Momentum that starts at 0.5 and takes the next of 0.9, 0.95, 0.99 after each `every` steps.

    Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html, on momentum that grows.
    """
    return Piecewise((0.5, 0.9, 0.95, 0.99), after=(every, 2 * every, 3 * every))


@dataclass(frozen=True)
class PiecewiseLinear(Schedule):
    """The value ``values[i]`` at step ``at[i]``, straight lines between them, constant before and after.

    Like optax's piecewise_interpolate_schedule("linear").
    """

    values: Annotated[tuple[float, ...], REAL]
    at: Counts

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rising(self, "at", self.at)
        if len(self.values) != len(self.at) or not self.at:
            raise ValueError(f"PiecewiseLinear has {len(self.values)} values for {len(self.at)} steps")

    def __call__(self, t: int) -> float:
        i = min(max(bisect_left(self.at, t), 1), len(self.at) - 1)
        if len(self.at) == 1:
            return self.values[0]
        start, end = self.values[i - 1 : i + 1]
        return between(start, end, passed(t, self.at[i - 1], self.at[i]))


def passed(t: float, start: float, end: float) -> float:
    """The fraction of the way from step `start` to step `end` that is done at `t`, from 0 to 1."""
    return min(max((t - start) / (end - start), 0.0), 1.0) if start < end else float(t >= end)


def along_cosine(start: float, end: float, fraction: float) -> float:
    """The value at `fraction` of half a wave of the cosine from `start` to `end`."""
    return between(start, end, (1 - math.cos(math.pi * fraction)) / 2)


def between(start: float, end: float, fraction: float) -> float:
    """The value at `fraction` of a straight line from `start` to `end`, exact at both ends."""
    if fraction < 0.5:
        return start + (end - start) * fraction
    return end - (end - start) * (1 - fraction)


def check_rising(schedule: Schedule, name: str, steps: tuple[int, ...]) -> None:
    """Raise ValueError unless each number of steps is larger than the one before."""
    if any(a >= b for a, b in pairwise(steps)):
        raise ValueError(f"{name} of {type(schedule).__name__} must rise, got {steps}")

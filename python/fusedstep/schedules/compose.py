"""Schedules made of others."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from .decay import between, check_rising, passed
from .schedule import Count, CountOr0, Counts, Part, Schedule, Value, checked_part, checked_parts


@dataclass(frozen=True)
class Warmup(Schedule):
    """From `start`, default 0, in a straight line to the first value of `then`, which begins after `steps`.

    Step 1 has `start`: with 0 it changes nothing. Goyal et al., arXiv:1706.02677, section 2.2. As optax's
    warmup schedules.
    """

    then: Part
    steps: Count
    start: Value = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_part(self, self.then)

    def __call__(self, t: int) -> float:
        if t > self.steps:
            return self.then(t - self.steps)
        return between(self.start, self.then(1), passed(t, 1, self.steps + 1))


@dataclass(frozen=True)
class Sequential(Schedule):
    """The first of `parts`, and the next one after so many steps as each of `after` says.

    Each part counts its own steps, from 1. As torch's SequentialLR, and optax's join_schedules.
    """

    parts: tuple[Part, ...]
    after: Counts

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "parts", checked_parts(self, self.parts))
        check_rising(self, "after", self.after)
        if len(self.parts) != len(self.after) + 1:
            raise ValueError(
                f"Sequential has {len(self.parts)} parts and {len(self.after)} changes between them"
            )

    def __call__(self, t: int) -> float:
        i = bisect_left(self.after, t)
        return self.parts[i](t - self.after[i - 1] if i else t)


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """From `start` up to `peak` in `warmup` steps, `stable` steps there, and down to `end` in `decay` steps.

    Both ways are straight lines; start, end: default 0. Hu et al., arXiv:2404.06395; Hägele et al.,
    arXiv:2405.18392. Another way down: ``Sequential((Warmup(Constant(peak), warmup), Cosine(peak, decay)),
    after=(warmup + stable,))``.
    """

    peak: Value
    warmup: CountOr0
    stable: CountOr0
    decay: Count
    start: Value = 0.0
    end: Value = 0.0

    def __call__(self, t: int) -> float:
        if t <= self.warmup:
            return between(self.start, self.peak, passed(t, 1, self.warmup + 1))
        begin = self.warmup + self.stable + 1
        return between(self.peak, self.end, passed(t, begin, begin + self.decay))


@dataclass(frozen=True)
class PerEpoch(Schedule):
    """A schedule whose t counts epochs of `steps` steps: constant within each.

    As torch's schedulers, when their ``step()`` is called after each epoch.
    """

    schedule: Part
    steps: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_part(self, self.schedule)

    def __call__(self, t: int) -> float:
        return self.schedule((t - 1) // self.steps + 1)

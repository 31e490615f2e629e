"""Schedules made of other schedules."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from .decay import between, check_rising, passed
from .schedule import Count, CountOr0, Counts, Part, Schedule, Value, checked_part, checked_parts


@dataclass(frozen=True)
class Warmup(Schedule):
    """A straight line from `start`, default 0, to the first value of `then`, which begins after `steps`.

    Step 1 gets `start`; a step size of 0 changes nothing. Goyal et al., arXiv:1706.02677, section 2.2. Like
    optax's warmup schedules.
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
    """One part after another: ``parts[i + 1]`` takes over after step ``after[i]``.

    Each part counts its own steps, from 1. Like torch's SequentialLR, and optax's join_schedules.
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
    """A rise from `start` to `peak` in `warmup` steps, `stable` steps at `peak`, a fall to `end` in `decay`.

    Rise and fall are straight lines. start, end: default 0. Hu et al., arXiv:2404.06395; Hägele et al.,
    arXiv:2405.18392. For another form of the fall: ``Sequential((Warmup(Constant(peak), warmup), Cosine(peak,
    decay)), after=(warmup + stable,))``.
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
    """A schedule whose t counts epochs of `steps` steps, so its value is constant within an epoch.

    Like torch's schedulers, when their ``step()`` is called after each epoch.
    """

    schedule: Part
    steps: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_part(self, self.schedule)

    def __call__(self, t: int) -> float:
        return self.schedule((t - 1) // self.steps + 1)

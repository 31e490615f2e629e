"""Schedules that react to how training goes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from ..formula.hyperparameters import NONNEGATIVE, REAL, Interval, checked_number
from ..improvement import Mode, checked_figure, checked_mode, improves
from ..stateful import Loading, same
from .schedule import CountOr0, Fraction, Number, ProperFraction, Schedule, Size, Value, number_fields

MEAN_SQUARE = Interval("[0, inf], or NaN", lambda x: not x < 0)
Above = Annotated[float, Interval("(1, inf)", lambda x: 1 < x < math.inf)]


class Feedback(Schedule):
    """A schedule whose value only `observe` changes; until then it is the same at every step.

    It can be a part of other schedules: ``Warmup(Plateau(0.1), 500)``, ``Cosine(1.0, 10_000) *
    Plateau(0.1)``. `state_dict` holds what it has observed; an optimizer's `state_dict` includes that of its
    schedules.
    """

    is_fixed = False

    value: float
    """The value at the next steps."""

    def __call__(self, t: int) -> float:
        return self.value

    def observe(self, figure: float) -> float:
        """Take a figure into account; return the new value."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The value, and the numbers that the next `observe` compares with."""
        return {name: getattr(self, name) for name in self._remembered()}

    def collect_load(self, state_dict: Any, loading: Loading) -> None:
        same(f"state of {type(self).__name__}", state_dict, self._remembered())
        numbers = {
            name: number.checked(self._label(name), state_dict[name])
            for name, number in self._remembered().items()
        }
        loading.changes.update(vars(self), numbers)

    def _remember(self, **numbers: Any) -> None:
        """Change several numbers in one call, which no interrupt divides."""
        vars(self).update(numbers)

    def _remembered(self) -> dict[str, Number]:
        numbers = number_fields(type(self))
        return {each.name: numbers[each.name] for each in fields(self) if not each.init}  # type: ignore[arg-type]  # a dataclass


@dataclass(eq=False)
class Plateau(Feedback):
    """`start`, multiplied by `factor` when a figure has not improved for more than `patience` epochs.

    factor: in [0, 1], default 0.1. patience: default 10. A figure improves if it is lower than the best so
    far (mode "min", the default) or higher ("max") by more than ``threshold·|best|``, threshold default 1e-4;
    a figure that is not finite never improves. cooldown: number of epochs after a change that do not count,
    default 0. minimum: the lower limit of the value, default 0. Like torch's ReduceLROnPlateau(eps=0) if
    figures are positive and finite.
    """

    start: Value
    factor: Fraction = 0.1
    patience: CountOr0 = 10
    threshold: Size = 1e-4
    cooldown: CountOr0 = 0
    minimum: Value = 0.0
    mode: Mode = "min"
    value: Value = field(init=False)
    best: Annotated[float | None, REAL] = field(init=False, default=None)
    stalled: CountOr0 = field(init=False, default=0)
    cooling: CountOr0 = field(init=False, default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_mode(self.mode, self._label("mode"))
        self.value = self.start

    def observe(self, figure: float) -> float:
        """Take the figure of an epoch, such as a validation loss; return the new value."""
        figure = checked_figure(figure)
        value, best, stalled, cooling = self.value, self.best, self.stalled, self.cooling
        if improves(figure, best, self.threshold, self.mode):
            best, stalled = figure, 0
        else:
            stalled += 1
        if cooling:
            cooling, stalled = cooling - 1, 0
        if stalled > self.patience:
            value = max(value * self.factor, min(self.minimum, value))
            cooling, stalled = self.cooldown, 0
        self._remember(value=value, best=best, stalled=stalled, cooling=cooling)
        return value


@dataclass(eq=False)
class EveAnnealing(Feedback):
    """A value that rises while the gradients hardly change between epochs, and falls when they change much.

    The change is ``|s - s'| / min(s, s')``, with s' and s the mean squares of the gradients of two epochs. If
    it is at most `flat`, default 0.1, the loss is flat, and the value is multiplied by `up`, default 1.1. If
    it is above `steep`, default 0.5, or s is not finite, the value is multiplied by `down`, default 0.5. It
    stays within `minimum` and `maximum`. (The rule `Eve` is something else.) The first figure changes
    nothing. The figure after one that is not finite is compared with the last finite one.
    """

    start: Value
    minimum: Value
    maximum: Value
    flat: Size = 0.1
    steep: Size = 0.5
    up: Above = 1.1
    down: ProperFraction = 0.5
    value: Value = field(init=False)
    mean_square: Annotated[float | None, NONNEGATIVE] = field(init=False, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.minimum <= self.start <= self.maximum:
            raise ValueError(f"start of EveAnnealing must be in [{self.minimum}, {self.maximum}]")
        if not self.flat <= self.steep:
            raise ValueError(f"flat of EveAnnealing must be at most steep, {self.steep}, got {self.flat}")
        self.value = self.start

    def observe(self, figure: float) -> float:
        """Take the mean square of an epoch's gradients, or any multiple of it; return the new value.

        The mean of ``fs.global_norm(grads)**2`` over the epoch's steps will do.
        """
        mean_square = checked_number("the mean square", checked_figure(figure), MEAN_SQUARE)
        value, before = self.value, self.mean_square
        if not math.isfinite(mean_square):
            change = math.inf
        elif before is None:
            change = math.nan  # neither flat nor steep
        else:
            change = _change(before, mean_square)
        if change <= self.flat:
            value = max(min(value * self.up, self.maximum), self.minimum)
        elif change > self.steep:
            value = min(max(value * self.down, self.minimum), self.maximum)
        self._remember(value=value, mean_square=mean_square if math.isfinite(mean_square) else before)
        return value


def _change(before: float, mean_square: float) -> float:
    """How much two mean squares differ, relative to the smaller one."""
    if before == mean_square:
        return 0.0
    least = min(before, mean_square)
    return abs(mean_square - before) / least if least else math.inf

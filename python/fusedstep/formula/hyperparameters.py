"""Hyperparameters: a rule's annotations declare them, and every assignment checks them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from inspect import get_annotations
from numbers import Real
from typing import Annotated, Any, TypeAlias

import numpy as np

Scheduled: TypeAlias = float | Callable[[int], float]
"""A number, or a callable that gives it for the step t = 1, 2, …"""


@dataclass(frozen=True)
class Interval:
    """The values that a hyperparameter may have; a `fixed` one is set only at construction, to a number."""

    text: str
    holds: Callable[[float], bool]
    fixed: bool = False


TRUTH_VALUES = (bool, np.bool_)
REAL = Interval("(-inf, inf)", math.isfinite)
ANY = Interval("any number", lambda _: True)

POSITIVE = Interval("(0, inf)", lambda x: 0 < x < math.inf)
PROPER_FRACTION = Interval("(0, 1)", lambda x: 0 < x < 1)
PORTION = Interval("[0, 1]", lambda x: 0 <= x <= 1)
NONNEGATIVE = Interval("[0, inf)", lambda x: 0 <= x < math.inf)
COUNT = Interval("1, 2, 3, …", lambda x: 1 <= x < 2**53 and x.is_integer())
COUNT_OR_0 = Interval("0, 1, 2, …", lambda x: 0 <= x < 2**53 and x.is_integer())

Nonnegative = Annotated[Scheduled, NONNEGATIVE]
Decay = Annotated[Scheduled, Interval("[0, 1)", lambda x: 0 <= x < 1)]
Portion = Annotated[Scheduled, PORTION]
AtLeastOne = Annotated[Scheduled, Interval("[1, inf)", lambda x: 1 <= x < math.inf)]
Finite = Annotated[Scheduled, REAL]
Nonpositive = Annotated[Scheduled, Interval("(-inf, 0]", lambda x: -math.inf < x <= 0)]
Positive = Annotated[Scheduled, POSITIVE]
Mixture = Annotated[float, Interval("(0, 1)", lambda x: 0 < x < 1, fixed=True)]
Initial = Annotated[float, Interval("[0, inf)", lambda x: 0 <= x < math.inf, fixed=True)]


def checked_number(label: str, value: Any, interval: Interval) -> float:
    """Return `value` as a float; raise an error if it is no number, or out of the interval."""
    if not isinstance(value, float) and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{label} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = -math.inf if value < 0 else math.inf
    if not interval.holds(number):
        raise ValueError(f"{label} must be in {interval.text}, got {number}")
    return number


def checked_bool(label: str, value: Any) -> bool:
    """Return `value` as a bool; raise TypeError unless it is True or False."""
    if not isinstance(value, TRUTH_VALUES):
        raise TypeError(f"{label} must be True or False, got {value!r}")
    return bool(value)


def is_fixed(schedule: Any) -> bool:
    """Whether a schedule says that its value depends on the step alone."""
    return getattr(schedule, "is_fixed", False) is True


class Hyperparameter:
    """A field of a rule: its default, interval, and the attribute that reads and sets it in all groups."""

    def __init__(self, name: str, default: float | bool, interval: Interval | None) -> None:
        self.name = name
        self.default = default
        self.interval = interval  # None: the value is True or False

    def checked(self, value: Any, label: str | None = None) -> Any:
        """Return `value` as a bool, float or schedule; raise an error if it is none, or out of range."""
        label = label or self.name
        if self.interval is None:
            return checked_bool(label, value)
        if callable(value) and not self.interval.fixed:
            return value
        return checked_number(label, value, self.interval)

    def __get__(self, optimizer: Any, owner: type) -> Any:
        if optimizer is None:
            return self.default
        first, *others = (group[self.name] for group in optimizer.groups)
        if any(other != first for other in others):
            raise ValueError(f"the groups differ in {self.name}: read it from groups[i][{self.name!r}]")
        return first

    def __set__(self, optimizer: Any, value: Any) -> None:
        optimizer.set_in_all_groups(self.name, value)


def declared(cls: type) -> dict[str, Hyperparameter]:
    """The hyperparameters among the annotations of `cls` itself."""
    fields = {}
    for name, hint in get_annotations(cls, eval_str=True).items():
        if hint is bool:
            fields[name] = Hyperparameter(name, vars(cls)[name], None)
        elif metadata := getattr(hint, "__metadata__", ()):
            fields[name] = Hyperparameter(name, vars(cls)[name], metadata[-1])
    return fields

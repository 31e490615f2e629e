"""Random hyperparameters of every rule, within their intervals: numbers, choices and schedules."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import fusedstep as fs

FIXED = {"amsgrad", "cautious", "centered", "matrices"}
"""Choices that are made once."""

TAKES_STATE = {("SGDM", "momentum"), ("RMSProp", "momentum")}
"""Numbers of which 0 means that there is no state for them; so does 0 of ema, in every rule."""

FIRST_LOSS = 10.0
"""No random f_star is above it."""

EXTREME: dict[str, list[float]] = {
    "[0, inf)": [5e-324, 1e-45, 1e-30, 1e30, 1e38, 1e300],
    "(0, inf)": [5e-324, 1e-45, 1e30, 1e300],
    "[0, 1)": [5e-324, 1 - 2**-53],
    "(0, 1)": [5e-324, 1 - 2**-53],
    "[0, 1]": [5e-324, 1 - 2**-53],
    "(-inf, 0]": [-5e-324, -1e300],
    "[1, inf)": [1 + 2**-52, 1e300],
    "[1, inf]": [1 + 2**-52, 1e300],
    "(-inf, inf)": [5e-324, 1e300, -1e300],
}
"""Numbers near the ends of intervals."""

USUAL: dict[str, Callable[[random.Random, float], float]] = {
    "[0, inf)": lambda rng, default: rng.choice([0, 0, 3 * default, 10 ** rng.uniform(-6, 0.5)]),
    "(0, inf)": lambda rng, default: rng.choice([3 * default, 10 ** rng.uniform(-6, 0.5)]),
    "[0, 1)": lambda rng, _: rng.choice([0, rng.random(), rng.random()]),
    "(0, 1)": lambda rng, _: rng.uniform(0.01, 0.99),
    "[0, 1]": lambda rng, _: rng.choice([0, rng.random(), rng.random(), 1]),
    "(-inf, 0]": lambda rng, _: rng.choice([0, -rng.random(), -3 * rng.random()]),
    "[1, inf)": lambda rng, _: rng.choice([1, 1 + rng.random(), 10]),
    "[1, inf]": lambda rng, _: rng.choice([1, 1 + rng.random(), math.inf]),
    "(-inf, inf)": lambda rng, _: rng.choice([0, rng.gauss(0, 2)]),
}


class Cycle(NamedTuple):
    """A schedule that goes through values again and again."""

    values: tuple[float, ...]

    def __call__(self, t: int) -> float:
        return self.values[t % len(self.values)]


def a_number(rng: random.Random, name: str, field: Any) -> float:
    """In the interval, often the default or an end, now and then very small or large."""
    if name == "ns_steps":
        return rng.randint(0, 6)
    if name == "f_star":
        return FIRST_LOSS - rng.choice([0, 1, 100, 1e300]) * rng.random()
    default: float = field.default
    interval = field.interval.text
    if interval.startswith("{"):
        return rng.choice([float(x) for x in interval.strip("{}").split(",")])
    kind = rng.random()
    if kind < 0.3:
        return default
    return rng.choice(EXTREME[interval]) if kind > 0.95 else USUAL[interval](rng, default)


def a_schedule(rng: random.Random, name: str, field: Any) -> Any:
    """Of numbers in the interval, with those between them if it is one of the library's own."""
    first, second, third = (a_number(rng, name, field) for _ in range(3))
    kind = rng.randrange(6)
    if kind == 0 and max(map(abs, (first, second, third))) < 1e30:
        return fs.schedules.Linear(first, rng.randint(1, 5), second)
    if kind == 1 and math.inf not in (first, second, third):
        return fs.schedules.Piecewise((first, second, third), (1, 3))
    if kind == 2 and name == "lr" and min(first, second) > 0 and max(first, second) < 1e30:
        return fs.schedules.Plateau(max(first, second), 0.5, patience=0, minimum=min(first, second))
    return Cycle((first, second, third))


def a_value(rng: random.Random, name: str, field: Any, *, schedules: bool = True) -> Any:
    """A choice, a number or a schedule."""
    if field.interval is None:
        return rng.random() < 0.4
    if schedules and not field.interval.fixed and rng.random() < 0.2:
        return a_schedule(rng, name, field)
    return a_number(rng, name, field)


def some(rng: random.Random, rule: str, share: float) -> dict[str, Any]:
    """This share of a rule's hyperparameters."""
    fields = fs.rules[rule]._fields.items()
    return {name: a_value(rng, name, field) for name, field in fields if rng.random() < share}


def changeable(rule: str) -> list[str]:
    """The names of those that can be changed between steps, whatever they were."""
    return [
        name
        for name, field in fs.rules[rule]._fields.items()
        if name not in FIXED | {"ema"}
        and (rule, name) not in TAKES_STATE | {("SGDM", "nesterov")}
        and not (field.interval and field.interval.fixed)
    ]

"""Schedules: their formulas, composition, printing, errors, feedback, and their place in an optimizer."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import schedules as s

Array = np.ndarray[Any, Any]

# One of each function of the step, and what it is for t = 1, 2, …
FORMULAS: dict[str, tuple[s.Schedule, Callable[[int], float]]] = {
    "Constant": (s.Constant(0.3), lambda _: 0.3),
    "Step": (s.Step(0.3, 7, 0.5), lambda t: 0.3 * 0.5 ** ((t - 1) // 7)),
    "Step of 1": (s.Step(0.3, 1), lambda t: 0.3 * 0.1 ** (t - 1)),
    "MultiStep": (s.MultiStep(0.3, (1, 4, 50), 0.5), lambda t: 0.3 * 0.5 ** ((t > 1) + (t > 4) + (t > 50))),
    "MultiStep never": (s.MultiStep(0.3, ()), lambda _: 0.3),
    "Exponential": (s.Exponential(0.3, 0.02), lambda t: 0.3 * math.exp(-0.02 * (t - 1))),
    "InverseTime": (s.InverseTime(0.3, 0.02), lambda t: 0.3 / (1 + 0.02 * (t - 1))),
    "Polynomial": (
        s.Polynomial(0.3, 100, 0.01, 2.5),
        lambda t: 0.01 + 0.29 * (1 - (t - 1) / 100) ** 2.5 if t <= 100 else 0.01,
    ),
    "Linear": (s.Linear(0.3, 100), lambda t: 0.3 * (1 - (t - 1) / 100) if t <= 100 else 0.0),
    "Linear up": (s.Linear(0.1, 3, 0.4), lambda t: min(0.1 * t, 0.4)),
    "Cosine": (
        s.Cosine(0.3, 100, 0.1),
        lambda t: 0.1 + 0.2 * math.cos(math.pi * (t - 1) / 200) ** 2 if t <= 100 else 0.1,
    ),
    "CosineRestarts": (
        s.CosineRestarts(0.3, 10, end=0.1),
        lambda t: 0.1 + 0.2 * math.cos(math.pi * ((t - 1) % 10) / 20) ** 2,
    ),
    "OneCycle": (
        s.OneCycle(1.0, 200, 0.25, start=0.2, end=0.1),
        lambda t: (
            0.2 + 0.8 * math.sin(math.pi / 2 * (t - 1) / 49) ** 2
            if t <= 50
            else 0.1 + 0.9 * math.cos(math.pi / 2 * (min(t, 200) - 50) / 150) ** 2
        ),
    ),
    "Piecewise": (s.Piecewise((0.5, 0.7, 0.1), (3, 9)), lambda t: 0.5 if t <= 3 else 0.7 if t <= 9 else 0.1),
    "PiecewiseLinear": (
        s.PiecewiseLinear((0.5, 0.7, 0.1), (3, 5, 11)),
        lambda t: (
            0.5 if t <= 3 else 0.5 + 0.1 * (t - 3) if t <= 5 else 0.7 - 0.1 * (t - 5) if t < 11 else 0.1
        ),
    ),
    "momentum_steps": (s.momentum_steps(4), lambda t: [0.5, 0.9, 0.95, 0.99][min((t - 1) // 4, 3)]),
    "Warmup": (
        s.Warmup(s.Step(0.3, 5, 0.5), 10, 0.1),
        lambda t: 0.1 + 0.02 * (t - 1) if t <= 10 else 0.3 * 0.5 ** ((t - 11) // 5),
    ),
    "Warmup of 1": (s.Warmup(s.Linear(0.3, 3), 1), lambda t: [0, 0.3, 0.2, 0.1, 0][min(t - 1, 4)]),
    "Warmup twice": (
        s.Warmup(s.Warmup(s.Constant(1), 4, 0.5), 2, 0.1),
        lambda t: [0.1, 0.3, 0.5, 0.625, 0.75, 0.875, 1][min(t - 1, 6)],
    ),
    "Sequential": (
        s.Sequential((s.Linear(1, 4), s.Constant(0.3), s.Step(0.5, 2)), (3, 5)),
        lambda t: [1, 0.75, 0.5, 0.3, 0.3][t - 1] if t <= 5 else 0.5 * 0.1 ** ((t - 6) // 2),
    ),
    "WarmupStableDecay": (
        s.WarmupStableDecay(1, 4, 3, 5, 0.2, 0.5),
        lambda t: [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5][min(t - 1, 12)],
    ),
    "only decay": (s.WarmupStableDecay(1, 0, 0, 2), lambda t: [1, 0.5, 0][min(t - 1, 2)]),
    "Chained": (
        s.Chained((s.Linear(1, 100), s.Step(0.3, 7, 0.5))),
        lambda t: max(0, 1 - (t - 1) / 100) * 0.3 * 0.5 ** ((t - 1) // 7),
    ),
    "product": (2 * s.Constant(3) * s.Step(1, 2) * 0.5, lambda t: 3 * 0.1 ** ((t - 1) // 2)),
    "PerEpoch": (s.PerEpoch(s.InverseTime(1, 1), 7), lambda t: 1 / (1 + (t - 1) // 7)),
    "PerEpoch of 1": (s.PerEpoch(s.InverseTime(1, 1), 1), lambda t: 1 / t),
}
each = pytest.mark.parametrize("name", FORMULAS)


def values(schedule: Callable[[int], float], steps: int) -> list[float]:
    return [schedule(t) for t in range(1, steps + 1)]


# --- functions of the step


@each
def test_formula(name: str) -> None:
    schedule, formula = FORMULAS[name]
    np.testing.assert_allclose(values(schedule, 1100), values(formula, 1100), rtol=1e-12, atol=1e-15)


@each
def test_from_zero(name: str) -> None:
    schedule, _ = FORMULAS[name]
    assert [schedule.from_zero(t) for t in range(30)] == values(schedule, 30)


@each
def test_far_away(name: str) -> None:
    """As after the longest training there may be."""
    schedule, formula = FORMULAS[name]
    assert schedule(10**9) == pytest.approx(formula(10**9), rel=1e-7, abs=1e-15)


ENDS: dict[str, Callable[[float, float, int], s.Schedule]] = {
    "Linear": lambda start, end, steps: s.Linear(start, steps, end),
    "Cosine": lambda start, end, steps: s.Cosine(start, steps, end),
    "Polynomial": lambda start, end, steps: s.Polynomial(start, steps, end, 2.0),
    "PiecewiseLinear": lambda start, end, steps: s.PiecewiseLinear((start, end), (1, steps + 1)),
    "Warmup": lambda start, end, steps: s.Warmup(s.Constant(end), steps, start),
    "WarmupStableDecay up": lambda start, end, steps: s.WarmupStableDecay(end, steps, 5, 1, start),
    "WarmupStableDecay down": lambda start, end, steps: s.WarmupStableDecay(start, 0, 0, steps, 0, end),
    "OneCycle up": lambda start, end, steps: s.OneCycle(end, 2 * steps + 2, 0.5, start, end),
    "OneCycle down": lambda start, end, steps: s.OneCycle(start, steps + 1, 1 / (steps + 1), 0, end),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends(name: str) -> None:
    """The values given are those at the ends and beyond, however unlike they are."""
    rng = random.Random(0)
    for steps in (1, 2, 3, 7, 10, 99, 1000):
        for _ in range(30):
            start, end = rng.lognormvariate(0, 2), rng.lognormvariate(0, 2)
            tiny = 10 ** rng.uniform(-18, -6)
            for a, b in ((start, end), (start, tiny), (tiny, end), (1.0, 0.1)):
                schedule = ENDS[name](a, b, steps)
                found = [schedule(1), schedule(steps + 1), schedule(steps + 2)]
                assert found == pytest.approx([a, b, b], rel=1e-12, abs=0), schedule
                assert schedule(steps + 1) == b, schedule


def test_peak_of_one_cycle_at_the_first_step() -> None:
    assert s.OneCycle(1, 10, 0.1, end=0)(1) == 1
    assert s.OneCycle(1, 10, 0.1, end=0)(10) == 0


def test_no_rounding_beyond_the_ends() -> None:
    """What stays in the range of a hyperparameter at both ends stays in it."""
    rng = random.Random(0)
    for _ in range(300):
        a, b, steps = rng.random() ** 8, rng.random(), rng.randint(1, 40)
        low, high = min(a, b), max(a, b)
        slack = high * 2**-52
        for schedule in (
            s.Linear(a, steps, b),
            s.Cosine(a, steps, b),
            s.Polynomial(a, steps, b, 0.5),
            s.CosineRestarts(a, steps, 2, b),
            s.OneCycle(a, steps, 0.3, b, b),
            s.Warmup(s.Constant(a), steps, b),
            s.WarmupStableDecay(a, steps, 2, steps, b, b),
        ):
            assert all(max(low - slack, 0) <= x <= high + slack for x in values(schedule, 2 * steps + 5))


def test_restarts_of_growing_length() -> None:
    """The first value is that of each start, wherever that is, and there is none in between."""
    for steps, growth in [(1, 2), (1, 3), (3, 3), (7, 5), (10, 10)]:
        schedule = s.CosineRestarts(1.0, steps, growth)
        begin = 1
        while begin < 2**52:
            length = steps * growth ** round(math.log((begin - 1) * (growth - 1) / steps + 1, growth))
            assert schedule(begin) == 1
            if length > 2:
                assert 0.5 <= schedule(begin + 1) < 1 or length > 10**7
                assert schedule(begin + length - 1) < 0.5
            begin += length


def test_one_cycle_defaults() -> None:
    assert s.OneCycle(0.5, 100)(1) == pytest.approx(0.02)
    assert s.OneCycle(0.5, 100)(30) == 0.5
    assert s.OneCycle(0.5, 100)(100) == pytest.approx(2e-6)
    assert s.OneCycle(0.5, 100, start=0.1)(100) == pytest.approx(1e-5)
    assert s.OneCycle(0.5, 100, end=0.1)(1) == pytest.approx(0.02)
    assert s.OneCycle(0.5, 100, end=0)(100) == 0


def test_documented_other_way_down() -> None:
    schedule = s.Sequential((s.Warmup(s.Constant(1), 10), s.Cosine(1, 20)), (30,))
    assert values(schedule, 29) == values(s.WarmupStableDecay(1, 10, 20, 1), 29)
    assert schedule(41) == pytest.approx(0.5)


# --- composition


def test_parts_count_from_one() -> None:
    seen: list[tuple[str, Any]] = []

    def part(name: str) -> Callable[[int], float]:
        def value(t: int) -> float:
            seen.append((name, t))
            return 1.0

        return value

    schedule = s.Sequential((part("a"), part("b"), part("c")), (2, 3))
    values(schedule, 5)
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("c", 1), ("c", 2)]
    seen.clear()
    values(s.Warmup(part("a"), 2), 4)
    assert seen[-2:] == [("a", 1), ("a", 2)]
    assert set(seen[:-2]) == {("a", 1)}
    seen.clear()
    values(s.PerEpoch(part("a"), 3), 7)
    assert seen == [("a", 1)] * 3 + [("a", 2)] * 3 + [("a", 3)]
    seen.clear()
    values(s.Chained((part("a"), part("b"))), 2)
    assert seen == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert all(type(t) is int for _, t in seen)


@pytest.mark.parametrize("number", [2, 0.5, np.float32(0.5), np.float64(3), np.int64(3), -1])
def test_times_a_number(number: Any) -> None:
    schedule = s.Linear(0.3, 10)
    for product in (schedule * number, number * schedule):
        assert isinstance(product, s.Chained)
        assert values(product, 12) == pytest.approx([float(number) * v for v in values(schedule, 12)])


def test_times_a_function() -> None:
    schedule = s.Linear(0.3, 10)
    expected = [math.sqrt(t) * schedule(t) for t in range(1, 13)]
    for product in (schedule * math.sqrt, math.sqrt * schedule, s.Chained((math.sqrt, schedule))):
        assert isinstance(product, s.Chained)
        assert values(product, 12) == pytest.approx(expected)


def test_times_a_schedule() -> None:
    a, b = s.Linear(1, 10), s.Step(1, 3)
    assert values(a * b, 12) == pytest.approx([a(t) * b(t) for t in range(1, 13)])
    assert values(a, 12) == values(s.Linear(1, 10), 12)


@pytest.mark.parametrize("other", [None, "a", True, math.nan, math.inf, 1j, [1], np.ones(3)])
def test_times_what_is_no_number(other: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        s.Constant(1) * other


@pytest.mark.parametrize("other", [None, "a", True, math.nan, 1j, [1]])
def test_what_is_no_number_times(other: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        other * s.Constant(1)


def test_what_was_given_can_change() -> None:
    parts, after = [s.Constant(1), s.Constant(2)], [3]
    figures, at = np.array([0.1, 0.2]), np.array([3])
    sequential = s.Sequential(parts, after)  # type: ignore[arg-type]
    chained = s.Chained(parts)  # type: ignore[arg-type]
    piecewise = s.Piecewise(figures, at)  # type: ignore[arg-type]
    parts[0], after[0], figures[0], at[0] = s.Constant(9), 9, 9, 9
    assert values(sequential, 5) == [1, 1, 1, 2, 2]
    assert chained(1) == 2
    assert values(piecewise, 5) == [0.1, 0.1, 0.1, 0.2, 0.2]


# --- what they are


@each
def test_repr_evaluates(name: str) -> None:
    schedule, _ = FORMULAS[name]
    again = eval(repr(schedule), {n: getattr(s, n) for n in s.__all__})
    assert again == schedule
    assert type(again) is type(schedule)
    assert hash(again) == hash(schedule)
    assert repr(again) == repr(schedule)
    assert values(again, 100) == values(schedule, 100)


@each
def test_copies_are_equal(name: str) -> None:
    schedule, _ = FORMULAS[name]
    for again in (pickle.loads(pickle.dumps(schedule)), copy.copy(schedule), copy.deepcopy(schedule)):
        assert again == schedule
        assert hash(again) == hash(schedule)


def test_unequal() -> None:
    unlike = [schedule for schedule, _ in FORMULAS.values()]
    assert all(a != b for a, b in itertools.combinations(unlike, 2))
    assert len(set(unlike)) == len(unlike)
    others: list[Any] = [s.Cosine(1, 5), s.Linear(1, 6), s.Linear(1, 5, 0.1), 1, None]
    assert all(s.Linear(1, 5) != other for other in others)


@each
def test_immutable(name: str) -> None:
    schedule, _ = FORMULAS[name]
    field = next(iter(vars(schedule)))
    before = repr(schedule)
    with pytest.raises(AttributeError):
        setattr(schedule, field, 2)
    with pytest.raises(AttributeError):
        delattr(schedule, field)
    with pytest.raises(AttributeError):
        schedule.another = 2
    assert repr(schedule) == before


def test_numbers_of_numpy_become_plain() -> None:
    schedule = s.Polynomial(np.float32(0.5), np.int32(10), np.float64(0.25), np.int64(2))  # type: ignore[arg-type]
    assert schedule == s.Polynomial(0.5, 10, 0.25, 2)
    assert [type(x) for x in vars(schedule).values()] == [float, int, float, float]
    piecewise = s.Piecewise(np.float32([0.5, 1]), np.int8([3]))  # type: ignore[arg-type]
    assert repr(piecewise) == repr(s.Piecewise((0.5, 1.0), (3,)))
    assert type(piecewise(1)) is float
    assert type((np.float64(2) * s.Constant(np.float32(1)))(1)) is float  # type: ignore[arg-type]
    momentum = s.momentum_steps(np.int64(3))  # type: ignore[arg-type]
    assert repr(momentum) == repr(s.momentum_steps(3))


def test_whole_floats_are_counts() -> None:
    assert repr(s.Step(1, 3.0)) == repr(s.Step(1.0, 3))  # type: ignore[arg-type]


OF_COUNT = [0, -1, 2.5, math.nan, math.inf, "3", None, True, 1j, [3]]
OF_NUMBER = [math.nan, math.inf, -math.inf, "0.1", True, 1j, [0.1], 10**400, np.ones(2)]
OF_COUNTS = [(0,), (-1,), (2.5,), (3, 3), (5, 3), ("3",), (None,), (True,), (math.nan,), 3, None, [[1]]]
BAD: list[tuple[type[s.Schedule], dict[str, Any], str, list[Any]]] = [
    (s.Constant, {}, "value", [*OF_NUMBER, None]),
    (s.Step, {"start": 1, "every": 1}, "start", [*OF_NUMBER, None]),
    (s.Step, {"start": 1, "every": 1}, "every", OF_COUNT),
    (s.Step, {"start": 1, "every": 1}, "factor", [*OF_NUMBER, None]),
    (s.MultiStep, {"start": 1, "after": (1,)}, "start", [*OF_NUMBER, None]),
    (s.MultiStep, {"start": 1, "after": (1,)}, "after", OF_COUNTS),
    (s.MultiStep, {"start": 1, "after": (1,)}, "factor", [*OF_NUMBER, None]),
    (s.Exponential, {"start": 1, "rate": 1}, "start", [*OF_NUMBER, None]),
    (s.Exponential, {"start": 1, "rate": 1}, "rate", [*OF_NUMBER, None]),
    (s.InverseTime, {"start": 1, "rate": 1}, "rate", [*OF_NUMBER, None, -1]),
    (s.Polynomial, {"start": 1, "steps": 1}, "steps", OF_COUNT),
    (s.Polynomial, {"start": 1, "steps": 1}, "end", [*OF_NUMBER, None]),
    (s.Polynomial, {"start": 1, "steps": 1}, "power", [*OF_NUMBER, None, -1]),
    (s.Linear, {"start": 1, "steps": 1}, "steps", OF_COUNT),
    (s.Linear, {"start": 1, "steps": 1}, "start", [*OF_NUMBER, None]),
    (s.Linear, {"start": 1, "steps": 1}, "end", [*OF_NUMBER, None]),
    (s.Cosine, {"start": 1, "steps": 1}, "steps", OF_COUNT),
    (s.Cosine, {"start": 1, "steps": 1}, "end", [*OF_NUMBER, None]),
    (s.CosineRestarts, {"start": 1, "steps": 1}, "steps", OF_COUNT),
    (s.CosineRestarts, {"start": 1, "steps": 1}, "growth", OF_COUNT),
    (s.OneCycle, {"peak": 1, "steps": 10}, "peak", [*OF_NUMBER, None]),
    (s.OneCycle, {"peak": 1, "steps": 10}, "steps", OF_COUNT),
    (s.OneCycle, {"peak": 1, "steps": 10}, "rise", [*OF_NUMBER, None, 0, 1, -0.1, 1.1]),
    (s.OneCycle, {"peak": 1, "steps": 10}, "start", OF_NUMBER),
    (s.OneCycle, {"peak": 1, "steps": 10}, "end", OF_NUMBER),
    (s.Piecewise, {"values": (1, 2), "after": (3,)}, "values",
     [(1,), (1, 2, 3), (), (1, "a"), (1, math.nan), 1, None]),
    (s.Piecewise, {"values": (1, 2), "after": (3,)}, "after", OF_COUNTS),
    (s.PiecewiseLinear, {"values": (1,), "at": (3,)}, "values", [(), (1, 2), ("a",), (math.inf,), 1, None]),
    (s.PiecewiseLinear, {"values": (1,), "at": (3,)}, "at", OF_COUNTS),
    (s.Warmup, {"then": s.Constant(1), "steps": 1}, "then", [1, 0.5, None, "a", [s.Constant(1)]]),
    (s.Warmup, {"then": s.Constant(1), "steps": 1}, "steps", OF_COUNT),
    (s.Warmup, {"then": s.Constant(1), "steps": 1}, "start", [*OF_NUMBER, None]),
    (s.Sequential, {"parts": (math.sqrt, math.exp), "after": (1,)}, "parts",
     [(), (math.sqrt,), (math.sqrt, 1), (None, math.sqrt), 1, None, math.sqrt, s.Constant(1), "ab"]),
    (s.Sequential, {"parts": (math.sqrt, math.exp), "after": (1,)}, "after", [*OF_COUNTS, (1, 2), ()]),
    (s.WarmupStableDecay, {"peak": 1, "warmup": 1, "stable": 1, "decay": 1}, "peak", [*OF_NUMBER, None]),
    (s.WarmupStableDecay, {"peak": 1, "warmup": 1, "stable": 1, "decay": 1}, "warmup", OF_COUNT[1:]),
    (s.WarmupStableDecay, {"peak": 1, "warmup": 1, "stable": 1, "decay": 1}, "stable", OF_COUNT[1:]),
    (s.WarmupStableDecay, {"peak": 1, "warmup": 1, "stable": 1, "decay": 1}, "decay", OF_COUNT),
    (s.WarmupStableDecay, {"peak": 1, "warmup": 1, "stable": 1, "decay": 1}, "end", [*OF_NUMBER, None]),
    (s.Chained, {}, "parts", [(), (1,), (math.sqrt, None), 1, None, math.sqrt, s.Constant(1)]),
    (s.PerEpoch, {"schedule": s.Constant(1), "steps": 1}, "schedule", [1, None, "a"]),
    (s.PerEpoch, {"schedule": s.Constant(1), "steps": 1}, "steps", OF_COUNT),
    (s.Plateau, {"start": 1}, "start", [*OF_NUMBER, None]),
    (s.Plateau, {"start": 1}, "factor", [*OF_NUMBER, None, -0.1, 1.1]),
    (s.Plateau, {"start": 1}, "patience", OF_COUNT[1:]),
    (s.Plateau, {"start": 1}, "threshold", [*OF_NUMBER, None, -0.1]),
    (s.Plateau, {"start": 1}, "cooldown", OF_COUNT[1:]),
    (s.Plateau, {"start": 1}, "minimum", [*OF_NUMBER, None]),
    (s.Plateau, {"start": 1}, "mode", ["Min", "", None, 1, ["min"]]),
    (s.EveAnnealing, {"start": 1, "minimum": 1, "maximum": 1}, "start", [*OF_NUMBER, None, 0.5, 1.5]),
    (s.EveAnnealing, {"start": 1, "minimum": 1, "maximum": 1}, "minimum", [*OF_NUMBER, None, 1.5]),
    (s.EveAnnealing, {"start": 1, "minimum": 1, "maximum": 1}, "maximum", [*OF_NUMBER, None, 0.5]),
    (s.EveAnnealing, {"start": 1, "minimum": 1, "maximum": 1}, "flat", [*OF_NUMBER, None, -0.1, 0.6]),
    (s.EveAnnealing, {"start": 1, "minimum": 1, "maximum": 1}, "steep", [*OF_NUMBER, None, -0.1, 0.05]),
    (s.EveAnnealing, {"start": 1, "minimum": 1, "maximum": 1}, "up", [*OF_NUMBER, None, 0.9]),
    (s.EveAnnealing, {"start": 1, "minimum": 1, "maximum": 1}, "down", [*OF_NUMBER, None, -0.1, 1.1]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("schedule", "given", "field", "bad"),
    [pytest.param(*case, id=f"{case[0].__name__}-{case[2]}") for case in BAD],
)
def test_bad_argument(schedule: type[s.Schedule], given: dict[str, Any], field: str, bad: list[Any]) -> None:
    for value in bad:
        with pytest.raises((TypeError, ValueError)) as error:
            schedule(**{**given, field: value})
        assert schedule.__name__ in str(error.value), (value, error.value)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: s.Step(1, 0), "every"),
        (lambda: s.Linear("1", 5), "start"),  # type: ignore[arg-type]
        (lambda: s.Linear(1, 5, math.nan), "end"),
        (lambda: s.OneCycle(1, 10, 1.5), "rise"),
        (lambda: s.OneCycle("1", 10), "peak"),  # type: ignore[arg-type]
        (lambda: s.MultiStep(1, (5, 3)), "after"),
        (lambda: s.PiecewiseLinear((1, 2), (3, 3)), "at"),
        (lambda: s.Plateau(1, factor=2), "factor"),
        (lambda: s.Plateau(1, mode="middle"), "mode"),  # type: ignore[arg-type]
        (lambda: s.EveAnnealing(1, 0.1, 2, down=2), "down"),
    ],
)
def test_error_names_the_field(make: Callable[[], Any], field: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"\b{field}\b"):
        make()


@pytest.mark.parametrize("every", [0, -1, 2.5, "3", None, True, math.nan])
def test_bad_momentum_steps(every: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        s.momentum_steps(every)


# --- plot


@each
def test_plot(name: str) -> None:
    pytest.importorskip("matplotlib")
    schedule, formula = FORMULAS[name]
    (line,) = schedule.plot(40).lines
    np.testing.assert_array_equal(line.get_xdata(), range(1, 41))
    np.testing.assert_allclose(np.asarray(line.get_ydata()), values(formula, 40), rtol=1e-12, atol=1e-15)


def test_plot_in_axes() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    pyplot = pytest.importorskip("matplotlib.pyplot")
    figure = pytest.importorskip("matplotlib.figure").Figure()
    numbers = pyplot.get_fignums()
    axes = figure.add_subplot()
    assert s.Cosine(1, 50).plot(70, axes) is axes
    assert s.Linear(1, 50).plot(60, axes=axes) is axes
    assert [np.size(line.get_xdata()) for line in axes.lines] == [70, 60]
    own = s.Plateau(0.1).plot(5)
    assert isinstance(own, matplotlib.axes.Axes)
    assert own is not axes
    assert own.figure is not figure
    assert pyplot.get_fignums() == numbers


# --- as hyperparameters

BACKENDS = pytest.mark.parametrize("backend", ["native", "numpy"])


@BACKENDS
@each
def test_learning_rate_of_the_nth_step(name: str, backend: Any) -> None:
    schedule, formula = FORMULAS[name]
    p = np.zeros(3)
    opt = fs.SGD(p, lr=schedule, backend=backend)
    expected = 0.0
    for t in range(1, 40):
        opt.step(np.ones(3))
        expected -= formula(t)
        assert opt.t == t
        np.testing.assert_allclose(p, expected, rtol=1e-12, atol=1e-14)


@BACKENDS
def test_other_hyperparameters_of_the_nth_step(backend: Any) -> None:
    rate, mu, decay = s.Warmup(s.Cosine(0.3, 30), 5), s.momentum_steps(6), s.Linear(0.5, 20, 0.1)
    rng = np.random.default_rng(0)
    p = rng.standard_normal(5)
    q, v = p.copy(), np.zeros(5)
    opt = fs.Momentum(p, lr=rate, momentum=mu, weight_decay=decay, backend=backend)
    for t in range(1, 41):
        g = rng.standard_normal(5)
        q *= 1 - rate(t) * decay(t)
        v = mu(t) * v - rate(t) * g
        q += v
        opt.step(g)
        np.testing.assert_allclose(p, q, rtol=1e-10, atol=1e-13)


def test_groups_have_their_own() -> None:
    a, b = np.zeros(2), np.zeros(3)
    opt = fs.SGD([{"params": [a], "lr": s.Linear(1, 4)}, {"params": [b]}], lr=s.Step(1, 2, 0.5))
    for _ in range(5):
        opt.step([[np.ones(2)], [np.ones(3)]])
    assert a.tolist() == [-2.5] * 2
    assert b.tolist() == [-3.25] * 3


def test_out_of_range_changes_nothing() -> None:
    p = np.ones(3)
    opt = fs.SGD(p, lr=s.Linear(1, 4, -1))
    for _ in range(3):
        opt.step(np.ones(3))
    before = p.copy()
    for _ in range(2):
        with pytest.raises(ValueError, match="lr"):
            opt.step(np.ones(3))
        assert np.array_equal(p, before)
        assert opt.t == 3


def test_skipped_step_does_not_count() -> None:
    p = np.zeros(2)
    opt = fs.SGD(p, lr=s.Linear(1, 4))
    for g in (1.0, math.nan, 1.0, math.inf):
        opt.step(np.full(2, g), skip_nonfinite=True)
    assert p.tolist() == [-1.75] * 2


# --- Plateau


class Oracle:
    """The rule of Plateau as it is described, for figures of any sign."""

    def __init__(self, start: float, **options: Any) -> None:
        self.value = start
        self.factor, self.patience, self.threshold, self.cooldown, self.minimum, self.sign = (
            options[key] for key in ("factor", "patience", "threshold", "cooldown", "minimum", "sign")
        )
        self.best: float | None = None
        self.stalled = self.cooling = 0

    def observe(self, figure: float) -> float:
        if math.isfinite(figure) and (
            self.best is None or self.sign * (figure - self.best) > self.threshold * abs(self.best)
        ):
            self.best, self.stalled = figure, 0
        else:
            self.stalled += 1
        if self.cooling:
            self.cooling -= 1
            self.stalled = 0
        if self.stalled > self.patience:
            self.value = min(self.value, max(self.value * self.factor, self.minimum))
            self.stalled, self.cooling = 0, self.cooldown
        return self.value


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("kind", ["any sign", "negative", "positive", "not finite", "zero"])
def test_plateau_as_described(mode: Any, kind: str) -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        figures = rng.standard_normal(200) + (1 if mode == "max" else -1) * np.linspace(0, 3, 200)
        if kind == "negative":
            figures = -np.exp(figures)
        elif kind == "positive":
            figures = np.exp(figures)
        elif kind == "not finite":
            figures[rng.random(200) < 0.5] = rng.choice([math.nan, math.inf, -math.inf])
        elif kind == "zero":
            figures[rng.random(200) < 0.5] = 0
        options = {
            "factor": rng.choice([0.5, 0.9]),
            "patience": int(rng.integers(0, 4)),
            "threshold": rng.choice([0, 1e-4, 0.2]),
            "cooldown": int(rng.integers(0, 4)),
            "minimum": rng.choice([0, 0.01]),
        }
        plateau = s.Plateau(0.3, mode=mode, **options)
        oracle = Oracle(0.3, sign=1 if mode == "max" else -1, **options)
        for i, figure in enumerate(figures):
            assert plateau.observe(figure) == pytest.approx(oracle.observe(figure), rel=1e-12, abs=0), (
                seed,
                i,
            )


def test_plateau_takes_the_eleventh() -> None:
    """The first figure is the best one, and ten more that are not better are borne."""
    plateau = s.Plateau(1.0)
    assert [plateau.observe(5.0) for _ in range(12)] == [1.0] * 11 + [0.1]
    assert [plateau.observe(5.0) for _ in range(11)] == [0.1] * 10 + [pytest.approx(0.01)]


def test_plateau_never_rises_to_its_minimum() -> None:
    plateau = s.Plateau(0.1, patience=0, minimum=0.2)
    assert [plateau.observe(1.0) for _ in range(4)] == [0.1] * 4


@pytest.mark.parametrize("figure", [np.float32(2), np.float64(2), np.int64(2), 2])
def test_plateau_remembers_plain_numbers(figure: Any) -> None:
    plateau = s.Plateau(np.float32(0.5))  # type: ignore[arg-type]
    assert type(plateau.observe(figure)) is float
    assert json.loads(json.dumps(plateau.state_dict())) == plateau.state_dict()


@pytest.mark.parametrize("make", [lambda: s.Plateau(0.5), lambda: s.EveAnnealing(0.5, 0.1, 1)])
@pytest.mark.parametrize("figure", ["a", "1.5", None, 1j, [1.0], np.ones(2)])
def test_what_is_no_figure(make: Callable[[], Any], figure: Any) -> None:
    schedule = make()
    schedule.observe(2.0)
    before = copy.deepcopy(schedule.state_dict())
    with pytest.raises((TypeError, ValueError)):
        schedule.observe(figure)
    assert schedule.state_dict() == before


# --- EveAnnealing


def eve(figures: list[float], **options: Any) -> list[float]:
    schedule = s.EveAnnealing(1.0, 0.2, 1.5, **options)
    return [schedule.observe(figure) for figure in figures]


def test_eve_annealing() -> None:
    assert eve([1]) == [1]
    assert eve([1, 1]) == pytest.approx([1, 1.1])
    assert eve([4, 4.3]) == pytest.approx([1, 1.1])
    assert eve([4.3, 4]) == pytest.approx([1, 1.1])
    assert eve([4, 5]) == [1, 1]
    assert eve([5, 4]) == [1, 1]
    assert eve([4, 6.1]) == [1, 0.5]
    assert eve([6.1, 4]) == [1, 0.5]  # of the smaller: 2.1 / 4, not 2.1 / 6.1
    assert eve([0, 0]) == pytest.approx([1, 1.1])
    assert eve([0, 1e-300]) == [1, 0.5]
    assert eve([1, 0]) == [1, 0.5]


def test_eve_annealing_on_its_thresholds() -> None:
    assert eve([4, 5], flat=0.25) == pytest.approx([1, 1.1])
    assert eve([4, 6], steep=0.5) == [1, 1]
    assert eve([4, 6], flat=0.5, steep=0.5, up=1.25, down=0.25) == [1, 1.25]
    assert eve([4, 6.5], flat=0.5, steep=0.5, up=1.25, down=0.25) == [1, 0.25]


@pytest.mark.parametrize(("flat", "steep"), [(0.1, 0.5), (0.5, 0.5), (0.0, 0.0)])
def test_eve_annealing_of_one_figure_says_nothing(flat: float, steep: float) -> None:
    assert eve([4], flat=flat, steep=steep) == [1]
    assert eve([math.nan, 4], flat=flat, steep=steep) == [0.5, 0.5]


def test_eve_annealing_stays_within() -> None:
    assert eve([1] * 7)[-2:] == [1.5, 1.5]
    assert eve([1, 2, 4, 8, 16]) == pytest.approx([1, 0.5, 0.25, 0.2, 0.2])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_eve_annealing_where_it_is_not_finite(bad: float) -> None:
    assert eve([1, bad]) == [1, 0.5]
    assert eve([bad]) == [0.5]
    schedule = s.EveAnnealing(1.0, 0.2, 1.5)
    for figure in (1.0, bad, bad):
        schedule.observe(figure)
    assert schedule(1) == 0.25
    json.dumps(schedule.state_dict(), allow_nan=False)
    schedule.observe(3.0)
    value = schedule(1)
    assert schedule.observe(3.0) == pytest.approx(1.1 * value)


def test_eve_annealing_of_a_multiple() -> None:
    figures = np.random.default_rng(0).lognormal(0, 0.3, 100)
    assert eve(list(figures)) == eve(list(1024 * figures))


# --- state of feedback


class Case(NamedTuple):
    """A schedule, with what in it observes."""

    schedule: s.Schedule
    feedback: tuple[s.Feedback, ...]


def plateau() -> Case:
    a = s.Plateau(0.5, 0.5, patience=1, cooldown=1)
    return Case(a, (a,))


def eve_annealing() -> Case:
    a = s.EveAnnealing(0.5, 0.1, 1)
    return Case(a, (a,))


def warmup() -> Case:
    a = s.Plateau(0.5, 0.5, patience=1)
    return Case(s.Warmup(a, 5), (a,))


def product() -> Case:
    a, b = s.Plateau(0.5, 0.5, patience=1), s.EveAnnealing(0.5, 0.1, 1)
    return Case(s.Cosine(1, 100) * a * b, (a, b))


def sequential() -> Case:
    a, b = s.Plateau(0.5, 0.5, patience=1, mode="max"), s.Plateau(0.2, 0.5, patience=0)
    return Case(s.Sequential((s.PerEpoch(a, 2), s.Warmup(2 * b, 3)), (4,)), (a, b))


CASES = pytest.mark.parametrize("make", [plateau, eve_annealing, warmup, product, sequential])
FIGURES = [3.0, 3.0, 3.1, 2.0, 2.0, 2.0, math.nan, 2.0, 1.0, 1.0, 1.0, 1.0]


def observe(case: Case, figures: list[float]) -> list[list[float]]:
    found = []
    for figure in figures:
        for part in case.feedback:
            part.observe(figure)
        found.append(values(case.schedule, 12))
    return found


@CASES
@pytest.mark.parametrize("at", range(len(FIGURES) + 1))
def test_resumes(make: Callable[[], Case], at: int) -> None:
    whole = observe(make(), FIGURES)
    case = make()
    observe(case, FIGURES[:at])
    state = json.loads(json.dumps(case.schedule.state_dict(), allow_nan=False))
    observe(case, FIGURES)
    again = make()
    again.schedule.load_state_dict(state)
    assert json.loads(json.dumps(again.schedule.state_dict())) == state
    assert observe(again, FIGURES[at:]) == whole[at:]


@CASES
def test_state_is_a_copy(make: Callable[[], Case]) -> None:
    case = make()
    observe(case, FIGURES[:2])
    state = case.schedule.state_dict()
    before = copy.deepcopy(state)
    observe(case, FIGURES)
    assert state == before
    now = copy.deepcopy(case.schedule.state_dict())
    assert now != before
    case.schedule.load_state_dict(state)
    observe(case, FIGURES)
    assert state == before
    for name in list(state):
        del state[name]
    assert case.schedule.state_dict() == now


@CASES
def test_value_holds(make: Callable[[], Case]) -> None:
    for part in make().feedback:
        for figure in FIGURES:
            value = part.observe(figure)
            assert [part(t) for t in (1, 2, 1000, 3)] == [value] * 4


@CASES
def test_copies_are_independent(make: Callable[[], Case]) -> None:
    case = make()
    observe(case, FIGURES[:5])
    state = copy.deepcopy(case.schedule.state_dict())
    copied, pickled = copy.deepcopy(case), pickle.loads(pickle.dumps(case))
    assert copied.schedule.state_dict() == pickled.schedule.state_dict() == state
    rest = observe(case, FIGURES[5:])
    assert copied.schedule.state_dict() == pickled.schedule.state_dict() == state
    assert observe(copied, FIGURES[5:]) == observe(pickled, FIGURES[5:]) == rest


def spoilt(state: Any) -> list[Any]:
    """States that differ at one place, where they are wrong."""
    found: list[Any] = [None, [], 1, "a"]
    if not isinstance(state, Mapping):
        return [True, "a", "1", [1.0], 1j, math.nan, math.inf, 10**400]
    for key, value in state.items():
        found += [{**state, key: bad} for bad in spoilt(value)]
        found.append({k: v for k, v in state.items() if k != key})
    return [*found, {**state, "more": 1}, {**state, 5: {}}]


@CASES
def test_bad_state_changes_nothing(make: Callable[[], Case]) -> None:
    other = make()
    observe(other, FIGURES)
    case = make()
    observe(case, FIGURES[:2])
    before = copy.deepcopy(case.schedule.state_dict())
    bad = spoilt(other.schedule.state_dict())
    assert len(bad) > 10
    for state in bad:
        with pytest.raises((TypeError, ValueError)):
            case.schedule.load_state_dict(state)
        assert case.schedule.state_dict() == before, state


@pytest.mark.parametrize("key", ["stalled", "cooling"])
@pytest.mark.parametrize("value", [-1, 1.5, None])
def test_bad_counts_in_a_state(key: str, value: Any) -> None:
    schedule = s.Plateau(0.5)
    schedule.observe(3.0)
    before = schedule.state_dict()
    with pytest.raises((TypeError, ValueError)):
        schedule.load_state_dict({**before, key: value})
    assert schedule.state_dict() == before


@each
def test_functions_have_no_state(name: str) -> None:
    schedule, _ = FORMULAS[name]
    state = schedule.state_dict()
    schedule.load_state_dict({})
    schedule.load_state_dict(state)
    wrong: list[Any] = [{"value": 1.0}, None, []]
    for bad in wrong:
        with pytest.raises((TypeError, ValueError)):
            schedule.load_state_dict(bad)


def test_same_one_twice() -> None:
    def make() -> tuple[s.Plateau, s.Schedule]:
        shared = s.Plateau(0.5, patience=0)
        return shared, s.Sequential((shared, s.Warmup(shared, 2)), (3,))

    shared, schedule = make()
    shared.observe(1.0)
    shared.observe(1.0)
    again, loaded = make()
    loaded.load_state_dict(schedule.state_dict())
    assert again.state_dict() == shared.state_dict()
    assert values(loaded, 9) == values(schedule, 9)


# --- state of feedback in an optimizer


class Training(NamedTuple):
    opt: fs.Optimizer
    arrays: list[Array]
    feedback: tuple[s.Feedback, ...]

    def go(self, epochs: int) -> list[Any]:
        """Train; return all that there is afterwards."""
        for _ in range(epochs):
            for _ in range(3):
                self.opt.step([{"a": self.arrays[0] + 1}, {"b": self.arrays[1] - 1}])
            for part in self.feedback:
                part.observe(1.0 + self.opt.t % 2)
        return self.all

    @property
    def all(self) -> list[Any]:
        numbers = [part.state_dict() for part in self.feedback]
        slots = [[self.opt.state[n][k].tolist() for k in sorted(self.opt.state[n])] for n in ("a", "b")]
        hyperparameters = [{k: v for k, v in g.items() if k != "params"} for g in self.opt.groups]
        return copy.deepcopy([self.opt.t, numbers, slots, repr(hyperparameters)])


def training() -> Training:
    arrays = [np.linspace(1, 2, 3), np.linspace(-1, 1, 4)]
    rate, other = s.Plateau(0.3, 0.5, patience=0), s.Plateau(0.1, 0.5, patience=1, mode="max")
    momentum = s.EveAnnealing(0.5, 0.1, 0.9)
    groups: list[dict[str, Any]] = [
        {"params": {"a": arrays[0]}, "lr": s.Warmup(rate, 4), "momentum": momentum},
        {
            "params": {"b": arrays[1]},
            "lr": s.Cosine(1, 50) * s.PerEpoch(other, 3),
            "weight_decay": s.Linear(0.1, 9),
        },
    ]
    return Training(fs.Momentum(groups), arrays, (rate, other, momentum))


@pytest.mark.parametrize("at", [0, 1, 4])
def test_optimizer_resumes_with_its_schedules(at: int) -> None:
    whole = training()
    expected = whole.go(9)
    first = training()
    first.go(at)
    state = copy.deepcopy(first.opt.state_dict())
    weights = [a.copy() for a in first.arrays]
    first.go(2)
    again = training()
    again.go(2)
    for array, weight in zip(again.arrays, weights, strict=True):
        array[...] = weight
    again.opt.load_state_dict(state)
    assert again.opt.groups[0]["lr"].then is again.feedback[0]
    assert again.go(9 - at) == expected
    assert all(map(np.array_equal, again.arrays, whole.arrays))


def test_optimizer_state_is_a_copy_of_what_schedules_were_told() -> None:
    first = training()
    first.go(2)
    state = first.opt.state_dict()
    again = training()
    first.go(2)
    again.opt.load_state_dict(state)
    other = training()
    other.go(2)
    assert again.all[1] == other.all[1]


def spoil(group: int, name: str, value: Any) -> Callable[[Any], None]:
    def change(state: Any) -> None:
        schedules = state["groups"][group]["schedules"]
        if value is None:
            del schedules[name]
        else:
            schedules[name] = value

    return change


def spoil_last(state: Any) -> None:
    """The innermost state of the last schedule."""
    inner = state["groups"][1]["schedules"]["lr"]
    while "value" not in inner:
        (inner,) = inner.values()
    inner["value"] = math.nan


def spoil_slot(state: Any) -> None:
    state["state"]["b"]["v"] = np.zeros(7)


def spoil_number(state: Any) -> None:
    state["groups"][1]["hyperparameters"]["l2"] = -1.0


@pytest.mark.parametrize(
    "change",
    [
        spoil_last,
        spoil_slot,
        spoil_number,
        spoil(1, "lr", None),
        spoil(1, "lr", {}),
        spoil(1, "lr", 3),
        spoil(0, "momentum", {"value": 0.5}),
        spoil(0, "momentum", None),
        spoil(1, "momentum", {}),
        spoil(1, "more", {}),
        lambda state: state["groups"][1].pop("schedules"),
        lambda state: state["groups"][1].update(schedules=[]),
        lambda state: state.update(t=-1),
    ],
)
def test_optimizer_loads_all_or_nothing(change: Callable[[Any], None]) -> None:
    other = training()
    other.go(4)
    state = copy.deepcopy(other.opt.state_dict())
    change(state)
    case = training()
    before = case.go(1)
    with pytest.raises((TypeError, ValueError)):
        case.opt.load_state_dict(state)
    assert case.all == before
    assert case.go(3) == training().go(4)


class Stubborn:
    """A part of one's own, which may not take what it is given."""

    def __init__(self) -> None:
        self.value = 1.0

    def __call__(self, t: int) -> float:
        return self.value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if state_dict["value"] == 2:
            raise ValueError
        self.value = state_dict["value"]


def test_part_of_ones_own() -> None:
    own, feedback = Stubborn(), s.Plateau(0.5, patience=0)
    schedule = s.Sequential((feedback, own), (3,))
    own.value = 3.0
    feedback.observe(1.0)
    feedback.observe(1.0)
    state = schedule.state_dict()
    again = s.Sequential((s.Plateau(0.5, patience=0), Stubborn()), (3,))
    again.load_state_dict(state)
    assert values(again, 5) == values(schedule, 5)

    own.value = 2.0
    feedback.observe(1.0)
    before = again.state_dict()
    with pytest.raises(ValueError):  # noqa: PT011
        again.load_state_dict(schedule.state_dict())
    assert again.state_dict() == before
    assert values(again, 5) == [pytest.approx(0.05)] * 3 + [3.0] * 2


def test_number_of_a_checkpoint_replaces_a_schedule() -> None:
    state = fs.SGD(np.zeros(2), lr=0.25).state_dict()
    p, feedback = np.zeros(2), s.Plateau(0.5)
    opt = fs.SGD(p, lr=feedback)
    opt.load_state_dict(state)
    opt.step(np.ones(2))
    assert p.tolist() == [-0.25] * 2
    assert feedback(1) == 0.5


def test_schedule_of_a_checkpoint_keeps_the_one_there() -> None:
    state = fs.SGD(np.zeros(2), lr=s.Constant(0.25)).state_dict()
    p = np.zeros(2)
    opt = fs.SGD(p, lr=s.Constant(0.5))
    opt.load_state_dict(state)
    opt.step(np.ones(2))
    assert p.tolist() == [-0.5] * 2


def test_schedule_that_came_later_is_saved() -> None:
    feedback = s.Plateau(0.5, patience=0)
    opt = fs.SGD(np.zeros(2))
    opt.groups[0]["lr"] = feedback
    feedback.observe(1.0)
    feedback.observe(1.0)
    again = s.Plateau(0.5, patience=0)
    fs.SGD(np.zeros(2), lr=again).load_state_dict(opt.state_dict())
    assert again.state_dict() == feedback.state_dict()


def test_observing_takes_effect_at_the_next_step() -> None:
    p, feedback = np.zeros(1), s.Plateau(0.5, 0.5, patience=0)
    opt = fs.SGD(p, lr=feedback)
    moved = []
    for figure in (1.0, 1.0, 0.5, 2.0, 2.0):
        before = p[0]
        opt.step(np.ones(1))
        moved.append(before - p[0])
        feedback.observe(figure)
    assert moved == [0.5, 0.5, 0.25, 0.25, 0.125]


def test_a_checkpoint_from_before_schedules_had_a_state() -> None:
    """As version 0.1.0 wrote it; where there is a schedule that wants its state, it is missed."""
    state = fs.Momentum(np.ones(3), lr=0.5).state_dict()
    for group in state["groups"]:
        assert group.pop("schedules") == {}
    other = fs.Momentum(np.ones(3))
    other.load_state_dict(state)
    assert other.lr == 0.5
    del state["groups"][0]["hyperparameters"]["lr"]
    with pytest.raises(ValueError, match="lr of group 0"):
        fs.Momentum(np.ones(3), lr=s.Plateau(0.1)).load_state_dict(state)

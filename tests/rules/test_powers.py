"""The powers in coefficients and schedules: by squaring, so that no C library has a say in their bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import schedules
from tests.helpers.internals import power

BASES = [0.5, 0.8, 0.9, 0.96, 0.99, 0.999, 0.9999, 1.0, 1.1, 0.0]
EXPONENTS = [*range(70), 100, 255, 256, 1000, 1023, 4097, 10**5]


def squared(x: float, n: int) -> float:
    """The plain loop, from the last binary digit of n to the first."""
    found = 1.0
    for digit in bin(n)[:1:-1]:
        if digit == "1":
            found = found * x
        x = x * x
    return found


@pytest.mark.parametrize("x", BASES)
def test_whole_powers_are_those_of_the_plain_loop(x: float) -> None:
    for n in EXPONENTS:
        assert power(x, n) == power(x, float(n)) == squared(x, n)
        if x >= 0.5 and n <= 255:
            assert power(x, -n) == 1 / squared(x, n)


@pytest.mark.parametrize("x", BASES)
def test_whole_powers_are_near(x: float) -> None:
    """Each product is half a unit off at most, and the power has n - 1 of them, each of numbers that are."""
    for n in [n for n in EXPONENTS if n <= 1023]:
        exact, found = Fraction(x) ** n, Fraction(power(x, n))
        assert abs(found - exact) <= exact * max(n - 1, 0) * Fraction(101, 100) / 2**53
        if n <= 8:
            assert abs(float(found) - float(exact)) <= 4 * math.ulp(float(exact))


def test_whole_powers_that_no_number_holds() -> None:
    """Of numbers of steps, which are ints: without their digits, of which there would be no end."""
    for exponent in (2000, 1e300):
        assert power(3, exponent) == math.inf
        assert power(3, -exponent) == 0


def test_roots_are_the_c_librarys() -> None:
    assert power(7.0, -0.8) == math.pow(7.0, -0.8)
    assert power(2.0, 0.5) == math.pow(2.0, 0.5)


@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_bias_corrections_have_them(beta: float, backend: Any) -> None:
    """Seen where the loop and a correctly rounded power differ."""
    differ = [t for t in range(1, 400) if squared(beta, t) != float(Fraction(beta) ** t)]
    assert differ
    p = np.zeros(1)
    opt = fs.Adam(p, lr=1.0, beta1=beta, beta2=0.0, eps=0.0, backend=backend)
    m = 0.0
    for t in range(1, differ[0] + 1):
        p[...] = 0
        m = beta * m + (1 - beta) * 1.0
        opt.step(np.ones(1))
        assert p[0] == -(1 / (1 - squared(beta, t)) * m)


OF_RULES: list[tuple[str, dict[str, Any], str, Callable[[int], float] | None]] = [
    ("Adam", {}, "step", lambda t: 0.001 / (1 - squared(0.9, t))),
    ("Adamax", {}, "step", lambda t: 0.002 / (1 - squared(0.9, t))),
    ("LaProp", {}, "root", lambda t: 1 / math.sqrt(1 - squared(0.999, t))),
    ("QHAdam", {}, "past2", lambda t: 1 / (1 - squared(0.999, t))),
    ("LAMB", {}, "correction", lambda t: 1 / (1 - squared(0.9, t))),
    ("ScheduleFreeAdamW", {}, "root", lambda t: 1 / math.sqrt(1 - squared(0.999, t))),
    ("NAdam", {"momentum_decay": 1.0}, "ahead", None),
    ("ADOPT", {}, "clip", lambda t: math.sqrt(math.sqrt(t - 1)) if t > 1 else 0.0),
]


@pytest.mark.parametrize(("rule", "options", "name", "expected"), OF_RULES)
def test_coefficients(
    rule: str,
    options: dict[str, Any],
    name: str,
    expected: Callable[[int], float] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the C library's power is not asked."""
    cls: Any = fs.rules[rule]
    seen: dict[int, float] = {}

    class Watched(cls):  # type: ignore[misc]
        @classmethod
        def coefficients(cls, h: Any, t: int) -> Any:
            found = super().coefficients(h, t)
            seen[t] = found[name]  # perhaps some steps before step t
            return found

    monkeypatch.setattr(math, "pow", None)
    opt = Watched(np.ones(1), **options)
    for t in range(1, 70):
        opt.step(np.ones(1))
        assert expected is None or seen[t] == expected(t)


def test_schedules_have_them() -> None:
    for t in range(1, 300):
        assert schedules.Step(0.3, every=2, factor=0.9)(t) == 0.3 * squared(0.9, (t - 1) // 2)
    after = tuple(range(2, 90))
    assert schedules.MultiStep(0.3, after=after, factor=0.9)(90) == 0.3 * squared(0.9, 88)
    assert schedules.Polynomial(1.0, 10, power=3.0)(4) == squared(1 - 3 / 10, 3)

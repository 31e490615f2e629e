"""A step without memory is a transaction too: an allocation that fails leaves all as it was."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import fusedstep as fs
from tests.helpers.interrupts import FEWER, Trial
from tests.helpers.out_of_memory import at_every_allocation
from tests.properties.test_interrupts import ALL, KINDS, NUMBER, OF_ROWS, same_run, stepping, tensors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

DIES_IN = ("_bounds", "_prepared", "rounded", "square_sums", "update", "turn", "adapt")
"""Functions that use NumPy alone, which may then end the process."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """A process that forks should have no others."""
    fs.set_num_threads(1)


def pace(rule: str, backend: str) -> dict[str, Any]:
    """Some of the allocations: from one that differs from rule to rule, every so many."""
    stride = 2 * FEWER * (1 if backend == "native" else 6)
    return {"first": NUMBER[rule] % stride, "stride": stride, "dies_in": DIES_IN}


@pytest.mark.parametrize("rule", KINDS)
def test_a_step(rule: str, backend: Any) -> None:
    assert at_every_allocation(stepping(rule, backend, **ALL), **pace(rule, backend)) > 100


@pytest.mark.parametrize("rule", OF_ROWS)
def test_a_step_of_rows(rule: str, backend: Any) -> None:
    at_every_allocation(stepping(rule, backend, rows=True), **pace(rule, backend))


@pytest.mark.parametrize("rule", KINDS)
def test_loading(rule: str, backend: Any) -> None:
    """The state of another run, into one that has made a step."""
    again = same_run(rule, backend)
    saved = same_run(rule, backend, steps=3)().opt.state_dict()

    def make() -> Trial:
        run = again()
        gradients = {i: p.copy() for i, p in enumerate(tensors(rule))}
        options = {"loss": 0.5} if fs.rules[rule].needs_loss else {}
        return Trial(
            lambda: run.opt.load_state_dict(saved), run.see, lambda: run.opt.step(gradients, **options)
        )

    at_every_allocation(make, **pace(rule, backend))

"""A step of torch's optimizers without memory: an allocation that fails leaves all as it was."""

from __future__ import annotations

import sys

import pytest

from tests.helpers.interrupts import FEWER
from tests.helpers.out_of_memory import an_allocation_fails, at_every, in_a_new_process
from tests.helpers.torch_rules import CLASSES, torch
from tests.torch.test_torch_interrupts import stepping

KINDS = ["Eve", "LAMB", "Adafactor"]

DIES_IN = ("__call__", "adapt", "turn")
"""Functions that call an operator of torch, or NumPy alone, which may then end the process."""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")


def steps(number: int) -> None:
    """Step number `number` of each kind; the first one makes the state."""
    torch.set_num_threads(1)
    stride = 5 * FEWER
    for name in KINDS:
        first = list(CLASSES).index(name) % stride
        make = stepping(name, steps=number, clip_norm=1.0)
        at_every(an_allocation_fails, make, first=first, stride=stride, dies_in=DIES_IN)


@pytest.mark.parametrize("number", [0, 1])
def test_steps(number: int) -> None:
    in_a_new_process(steps, number)

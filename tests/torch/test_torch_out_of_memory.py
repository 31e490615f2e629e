"""A step of torch's optimizers without memory: an allocation that fails leaves all as it was."""

from __future__ import annotations

import sys

import pytest

from tests.helpers.interrupts import FEWER
from tests.helpers.out_of_memory import an_allocation_fails, at_every
from tests.helpers.torch_rules import CLASSES
from tests.torch.test_torch_interrupts import stepping

KINDS = ["Eve", "LAMB", "Adafactor"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")


@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("name", KINDS)
def test_a_step(name: str, steps: int) -> None:
    """The first one makes the state. torch's calls of operators and NumPy's functions may end the process."""
    stride = 5 * FEWER
    at_every(
        an_allocation_fails,
        stepping(name, steps=steps, clip_norm=1.0),
        first=list(CLASSES).index(name) % stride,
        stride=stride,
        dies_in=("__call__", "adapt", "turn"),
    )

"""Python's allocations fail one by one; the action in which one fails must be all done or not at all.

Each fails in a process of its own, since libraries below this one do not survive all of them.
"""

from __future__ import annotations

import faulthandler
import os
import re
from collections.abc import Callable
from tempfile import TemporaryFile
from typing import IO, Any

import pytest

from tests.helpers.interrupts import Expected, Trial, report

ENOUGH = 8
"""After so many actions in a row that end well, there is nothing more to allocate."""

testing: Any = pytest.importorskip("_testcapi")


def at_every_allocation(
    make: Callable[[], Trial], *, first: int = 0, stride: int = 1, dies_in: tuple[str, ...] = ()
) -> int:
    """Have the allocations `first`, `first + stride`, … of an action fail; return about how many it has.

    `dies_in` names functions in which NumPy or torch ends the process.
    """
    expected = Expected(make)
    torn: list[str] = []
    at, well = first, 0
    while well < ENOUGH:
        trial = make()
        with TemporaryFile("w+") as told:
            process = os.fork()
            if process == 0:
                answer(at, trial, expected, told)
            _, status = os.waitpid(process, 0)
            told.seek(0)
            end, _, complaint = told.read().partition("\n")
        well = well + 1 if end == "done" and status == 0 else 0
        if status != 0:
            place = re.search(r'File "(.*)", line (\d+) in (\w+)', end + complaint)
            complaint = "" if place and place[3] in dies_in else f"the process ends at {place and place[0]}"
        if complaint:
            torn.append(f"allocation {at}: {complaint}")
        at += stride
    report(torn, (at - first) // stride)
    return at - ENOUGH * stride


def answer(at: int, trial: Trial, expected: Expected, told: IO[str]) -> None:
    """Act without memory in this process; write how it ended and what is wrong, and end the process."""
    faulthandler.enable(told)
    raised = False
    testing.set_nomemory(at, at + 1)
    try:
        trial.act()
    except Exception:  # noqa: BLE001  # conversions without memory say that they cannot be done
        raised = True
    finally:
        testing.remove_mem_hooks()
    told.write(f"{'raised' if raised else 'done'}\n{expected.complaint(trial, done=not raised) or ''}")
    told.flush()
    os._exit(0)

"""Actions without enough memory, each of which must be all done or not at all.

Each is in a process of its own, since libraries below this one do not survive all of them.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, TypeAlias, TypeVar

import pytest

from tests.helpers.interrupts import Expected, Trial, report

ENOUGH = 8
"""After so many actions in a row that end well, there is enough memory."""

Result = TypeVar("Result")

Shortage: TypeAlias = Callable[[int], Callable[[], object]]
"""Makes memory short, according to a number; returns what ends the shortage."""

LONGEST = 60
"""Seconds after which a process that hangs is ended."""

testing: Any = pytest.importorskip("_testcapi")
resource: Any = pytest.importorskip("resource")


def an_allocation_fails(at: int) -> Callable[[], object]:
    """Python's allocation of this number, from now on, fails; those after it succeed."""
    end: Callable[[], object] = testing.remove_mem_hooks
    testing.set_nomemory(at, at + 1)
    return end


def bytes_are_left(count: int) -> Callable[[], object]:
    """The process may grow by so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    end = partial(resource.setrlimit, resource.RLIMIT_AS, before)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + count, before[1]))
    return end


def at_every(
    shortage: Shortage,
    make: Callable[[], Trial],
    *,
    first: int = 0,
    stride: int = 1,
    dies_in: tuple[str, ...] = (),
) -> int:
    """Act at the shortages `first`, `first + stride`, …; return about how many there are.

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
                answer(shortage, at, trial, expected, told)
            _, status = os.waitpid(process, 0)
            told.seek(0)
            end, _, complaint = told.read().partition("\n")
        well = well + 1 if end == "done" and status == 0 else 0
        if status != 0:
            place = re.search(r'File "(.*)", line (\d+) in (\w+)', end + complaint)
            complaint = "" if place and place[3] in dies_in else f"the process ends at {place and place[0]}"
        if complaint:
            torn.append(f"{shortage.__name__} {at}: {complaint}")
        at += stride
    report(torn, (at - first) // stride)
    return at - ENOUGH * stride


def answer(shortage: Shortage, at: int, trial: Trial, expected: Expected, told: IO[str]) -> None:
    """Act in this process; write how that ended and what is wrong, and end the process."""
    faulthandler.enable(told)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LONGEST)
    raised = False
    end = shortage(at)
    try:
        trial.act()
    except Exception:  # noqa: BLE001  # conversions without memory say that they cannot be done
        raised = True
    finally:
        end()
    told.write(f"{'raised' if raised else 'done'}\n{expected.complaint(trial, done=not raised) or ''}")
    told.flush()
    os._exit(0)


def in_a_new_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function where no test before has left threads, which a fork does not copy, or free memory."""
    with ProcessPoolExecutor(1, get_context("spawn")) as new:
        return new.submit(called, function, arguments).result()


def called(function: Callable[..., Result], arguments: tuple[Any, ...]) -> Result:
    """Its result; if it fails, an error that can be sent to another process."""
    try:
        return function(*arguments)
    except pytest.fail.Exception as failure:
        raise AssertionError(str(failure)) from None

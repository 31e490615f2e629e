"""Steps of which an allocation fails: ``python -m tests.helpers.out_of_memory BACKEND STRIDE RULE...``.

Each is in a process of its own, as it might crash. NumPy itself crashes where it makes `__array_interface__`
and has no memory, which is no matter of this package.
"""

from __future__ import annotations

import faulthandler
import importlib
import linecache
import os
import re
import sys
import tempfile
from contextlib import nullcontext
from typing import Any

from tests.helpers.interrupts import Expected, Trial, attempt
from tests.properties import test_interrupts as steps

LONGEST = 8  # so many steps without an error, and the last allocation is behind
RAISED, WHOLE = 0, 3  # how a process ends; otherwise it says what is wrong


def starved(trial: Trial, expected: Expected, n: int) -> int | str:
    """The step without its n-th allocation; how it ended."""
    memory: Any = importlib.import_module("_testcapi")

    def act() -> None:
        memory.set_nomemory(n, n + 1)
        try:
            trial.act()
        finally:
            memory.remove_mem_hooks()

    raised = attempt(act, nullcontext)
    # Python's zip and pybind11 have words of their own for it.
    others = isinstance(raised, SystemError) or "Could not allocate" in str(raised)
    if raised is not None and not (others or isinstance(raised, MemoryError)):
        return f"raised {raised!r}"
    return expected.complaint(trial, done=raised is None) or (WHOLE if raised is None else RAISED)


def apart(trial: Trial, expected: Expected, n: int) -> int | str:
    """The same in a process of its own."""
    with tempfile.TemporaryFile("w+") as told:
        if not (child := os.fork()):
            faulthandler.enable(told)
            sys.unraisablehook = lambda _: None
            ended = starved(trial, expected, n)
            if isinstance(ended, str):
                print(ended, file=told, flush=True)
            os._exit(1 if isinstance(ended, str) else ended)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code in (RAISED, WHOLE):
            return code
        told.seek(0)
        text = told.read()
    place = re.search(r'File "(.*)", line (\d+)', text)
    if place is not None and code < 0 and "__array_interface__" in linecache.getline(place[1], int(place[2])):
        return RAISED
    return f"ended with {code}: {text[:600]}"


def torn(rule: str, backend: str, stride: int) -> list[str]:
    """What is wrong after every so many allocations that failed."""
    make = steps.stepping(rule, backend, count=2, **steps.ALL)
    expected, trial = Expected(make), make()
    found: list[str] = []
    n = whole = 0
    while whole < LONGEST:
        ended = apart(trial, expected, n)
        whole = whole + 1 if ended == WHOLE else 0
        if isinstance(ended, str):
            found.append(f"{rule}, allocation {n}: {ended}")
        n += stride
    return [f"{rule}: torn by {len(found)} of {n // stride} allocations", *found[:5]] if found else []


if __name__ == "__main__":
    _, chosen, every, *rules = sys.argv
    sys.exit("\n".join(line for rule in rules for line in torn(rule, chosen, int(every))))

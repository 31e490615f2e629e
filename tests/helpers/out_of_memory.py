"""Steps whose n-th allocation fails: ``python -m tests.helpers.out_of_memory BACKEND RULE...``.

A process of its own, as what it looks for may end it. It fails if a step is torn, or raises anything else.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import nullcontext
from typing import Any

from tests.helpers.interrupts import Expected, attempt
from tests.properties import test_interrupts as steps

LONGEST = 40  # so many steps without an error, and the last allocation is behind


def torn(rule: str, backend: str) -> list[str]:
    """What is wrong after each allocation that failed."""
    memory: Any = importlib.import_module("_testcapi")
    make = steps.stepping(rule, backend, count=2, **steps.ALL)
    expected = Expected(make)
    found, n, whole = [], 0, 0
    while whole < LONGEST:
        trial = make()
        act = trial.act

        def starved(n: int = n, act: Any = act) -> None:
            memory.set_nomemory(n, n + 1)
            try:
                act()
            finally:
                memory.remove_mem_hooks()

        raised = attempt(starved, nullcontext)
        whole = 0 if raised is not None else whole + 1
        complaint = expected.complaint(trial, done=raised is None)
        if raised is not None and not isinstance(raised, MemoryError):
            complaint = f"raised {raised!r}"
        if complaint:
            found.append(f"{rule}, allocation {n}: {complaint}")
        n += 1
    return found


if __name__ == "__main__":
    _, chosen, *rules = sys.argv
    everything = [line for each in rules for line in torn(each, chosen)]
    sys.exit("\n".join(everything[:20]))

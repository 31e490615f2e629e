"""Threads that begin together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

THREADS = 4
STEPS = 60


def at_once(functions: Sequence[Callable[[], object]]) -> None:
    """Call all functions, each in a thread of its own; raise the first error of any."""
    start = threading.Barrier(len(functions))
    errors: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        try:
            start.wait()
            function()
        except BaseException as error:  # noqa: BLE001  # it is raised below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def attempted(function: Callable[[], object]) -> bool:
    """Call a function, unless somebody else has the optimizer."""
    try:
        function()
    except RuntimeError as error:
        if "is in use" not in str(error):
            raise
        return False
    return True

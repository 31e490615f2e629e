"""What comes right before a step in bench/loop.py.

A setting is a context that gives a function: called with a step, it does what is to come before that step.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

import numpy as np

import loop_training
from measure import Work
from peer_libraries import library

Before: TypeAlias = Callable[[Work], object]

SECONDS = 0.01
SLEEP_SECONDS = 0.02
# Ends by itself where the process that started it ends without killing it.
SPINNING = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


def _for_a_while(work: Work) -> None:
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        work()


@contextmanager
def alone() -> Iterator[Before]:
    """Only the same step, again and again."""
    yield _for_a_while


@contextmanager
def after_torch() -> Iterator[Before]:
    """The forward and backward pass of a small network, on all of torch's threads."""
    network = loop_training.Network(library("torch"), "MLP 784-512-512-10")
    yield lambda _: _for_a_while(network.differentiate)


@contextmanager
def after_numpy() -> Iterator[Before]:
    """Matrix products of NumPy, on all threads of its BLAS."""
    matrix = np.random.default_rng(0).standard_normal((512, 512), np.float32)
    yield lambda _: _for_a_while(lambda: matrix @ matrix)


@contextmanager
def busy_core() -> Iterator[Before]:
    """The same as after torch, while another process keeps a processor busy."""
    with after_torch() as before, subprocess.Popen([sys.executable, "-c", SPINNING]) as spinning:
        try:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(spinning.pid, {max(os.sched_getaffinity(0))})
            yield before
        finally:
            spinning.kill()


@contextmanager
def sleep() -> Iterator[Before]:
    """Sleep, in which the processors do something else or save power."""
    yield lambda _: time.sleep(SLEEP_SECONDS)


SETTINGS: dict[str, Callable[[], AbstractContextManager[Before]]] = {
    "alone": alone,
    "after torch": after_torch,
    "after NumPy": after_numpy,
    "busy core": busy_core,
    "sleep": sleep,
}

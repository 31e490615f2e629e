"""Timing on a shared machine: take turns between what is compared, take medians, look at ratios."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import fusedstep as fs

Work: TypeAlias = Callable[[], object]

BLOCK_SECONDS = 0.01
PAUSE_SECONDS = 0.02
WARM_UP_ROUNDS = 5
DECILES = [10, 50, 90]


def interleaved(works: Mapping[str, Work | Sequence[Work]], rounds: int) -> dict[str, float]:
    """Measure the median seconds of a call of each work; in each round every work has its turn.

    A work may be several, which have a turn each; the fastest of them counts.

    A turn begins with a pause, in which the threads of the work before give up waiting for more (those of an
    OpenMP runtime hold their cores for milliseconds). To warm up, as many calls follow as are then measured.
    """
    turns = [
        (name, work)
        for name, given in works.items()
        for work in (given if isinstance(given, Sequence) else [given])
    ]
    calls = []
    for _, work in turns:
        work()
        start = time.perf_counter()
        work()
        calls.append(max(1, round(BLOCK_SECONDS / (time.perf_counter() - start))))
    samples: list[list[float]] = [[] for _ in turns]
    for _ in range(rounds):
        for (_, work), count, seconds in zip(turns, calls, samples, strict=True):
            time.sleep(PAUSE_SECONDS)
            for _ in range(count):
                work()
            start = time.perf_counter()
            for _ in range(count):
                work()
            seconds.append((time.perf_counter() - start) / count)
    medians: dict[str, float] = {}
    for (name, _), seconds in zip(turns, samples, strict=True):
        medians[name] = min(medians.get(name, math.inf), statistics.median(seconds))
    return medians


def right_after(works: Mapping[str, tuple[Work, Work]], rounds: int) -> dict[str, list[float]]:
    """Measure the 1st, 5th and 9th decile of the seconds of each second work, right after its first.

    In each round every pair of works has its turn. The first rounds warm up, and do not count.
    """
    samples: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(WARM_UP_ROUNDS + rounds):
        for name, (before, work) in works.items():
            before()
            start = time.perf_counter()
            work()
            samples[name].append(time.perf_counter() - start)
    return {
        name: np.percentile(seconds[WARM_UP_ROUNDS:], DECILES).tolist() for name, seconds in samples.items()
    }


def versions() -> dict[str, str]:
    """Import the libraries that are installed, and return their versions.

    torch comes first, because the library that first loads an OpenMP runtime loads it for all, and with any
    but its own, torch's square roots take many times as long.
    """
    found = {}
    for name in ("torch", "ml_dtypes", "jax", "optax", "numba", "deepspeed"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
            found[name] = importlib.metadata.version(name)
    return found


def machine() -> dict[str, Any]:
    """Describe the machine and the versions in use."""
    return {
        "cpu": _cpu_model(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        **fs.info(),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()

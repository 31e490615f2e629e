"""Timing on a shared machine: take turns between what is compared, take medians, look at ratios."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fusedstep as fs

BLOCK_SECONDS = 0.01
PAUSE_SECONDS = 0.02


def interleaved(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Measure the median seconds of a call of each work; in each round every work has its turn.

    A turn begins with a pause, in which the threads of the work before give up waiting for more (those of an
    OpenMP runtime hold their cores for milliseconds). To warm up, as many calls follow as are then measured.
    """
    calls = {}
    for name, work in works.items():
        work()
        start = time.perf_counter()
        work()
        calls[name] = max(1, round(BLOCK_SECONDS / (time.perf_counter() - start)))
    samples: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            time.sleep(PAUSE_SECONDS)
            for _ in range(calls[name]):
                work()
            start = time.perf_counter()
            for _ in range(calls[name]):
                work()
            samples[name].append((time.perf_counter() - start) / calls[name])
    return {name: statistics.median(seconds) for name, seconds in samples.items()}


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

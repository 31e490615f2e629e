"""The instruction set and the threads that kernels use."""

from __future__ import annotations

import os
from operator import index
from typing import Any

from . import _core
from .processors import processors


def use_isa(name: str) -> None:
    """Run the kernels compiled for this instruction set; results do not depend on it.

    At import the environment variable FUSEDSTEP_ISA does the same; without it, the fastest set is used.
    Raises ValueError for a name that is not among ``info()["isas"]``.
    """
    _core.use_isa(name)


def set_num_threads(n: int) -> None:
    """Use up to `n` threads for a step; results do not depend on it.

    At import the number is FUSEDSTEP_NUM_THREADS, else OMP_NUM_THREADS, else the number of processors that
    this process may use. After fork() the child runs serially. Raises TypeError unless `n` is an integer,
    ValueError unless it is from 1 to 1024.
    """
    n = index(n)
    if not 1 <= n <= MAX_THREADS:
        raise ValueError(f"the number of threads must be from 1 to {MAX_THREADS}, got {n}")
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads that a step may use."""
    return _core.num_threads()


def info() -> dict[str, Any]:
    """The version, and the settings in use.

    Keys: version; isa, the instruction set in use; isas, the sets that this build has and this processor
    supports; num_threads.
    """
    return {
        "version": _core.version,
        "isa": _core.isa(),
        "isas": _core.isas(),
        "num_threads": _core.num_threads(),
    }


MAX_THREADS = 1024


def _configure() -> None:
    """Set the instruction set and the number of threads from the environment."""
    if isa := os.environ.get("FUSEDSTEP_ISA"):
        try:
            use_isa(isa)
        except ValueError as error:
            raise ValueError(f"FUSEDSTEP_ISA: {error}") from None
    if threads := os.environ.get("FUSEDSTEP_NUM_THREADS"):
        try:
            set_num_threads(int(threads))
        except ValueError:
            raise ValueError(
                f"FUSEDSTEP_NUM_THREADS must be a number from 1 to {MAX_THREADS}, got {threads!r}"
            ) from None
    else:
        set_num_threads(min(_omp_num_threads() or processors(), MAX_THREADS))


def _omp_num_threads() -> int | None:
    """The outermost level of OMP_NUM_THREADS ("4" or "4,2"); None if it is not a number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return max(int(first), 1) if first.isdecimal() else None


_configure()

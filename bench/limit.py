"""The memory limit: compiled loops that move as many bytes as a rule, with next to no arithmetic.

They run on the threads and tiles of the kernels. How fast memory is depends on where the arrays lie in it: a
load waits for a store to the same place in another page, and caches keep few lines of the same place. So the
limit is the fastest of several placements: some on huge pages, where the system has them, and, where a table
is about one rule, the arrays of the step itself.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import inspect
import mmap
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fusedstep as fs
from fusedstep.formula.kernel import Kernel
from measure import Work

Array = np.ndarray[Any, Any]

ROOT = Path(__file__).parents[1]
SOURCES = ["bench/limit.cpp", *(f"cpp/step/{name}.cpp" for name in ("forks", "parallel", "team"))]
BUILD = ROOT / "build" / "bench"
FLAGS = ["-std=c++20", "-O3", "-fopenmp-simd", "-pthread", "-shared", "-fPIC", "-Icpp"]

STAGGERS = [0, 320, 1088]
"""By how many bytes more than whole pages each array begins after the one before."""


class Traffic(NamedTuple):
    """The traffic of a pass: how many arrays it reads and writes, and how many it only reads."""

    written: int
    read: int

    @property
    def moves(self) -> int:
        """How many elements a pass moves for each parameter."""
        return 2 * self.written + self.read


def passes(kernel: Kernel) -> list[Traffic]:
    """Return the passes of a rule's step, derived from the arrays in its formulas."""
    operands = {"p", "y", "g", *kernel.operands}
    used, written = _names(kernel.update)
    step = Traffic(len(operands & written), len(operands & (used - written)))
    if kernel.sweeps[-1].measure is None:
        return [step]
    measured, _ = _names(kernel.sweeps[-1].measure)
    return [Traffic(0, len(operands & measured)), step]


def _names(function: Callable[..., Any]) -> tuple[set[str], set[str]]:
    """Return the names that a formula uses, and the names of the arrays that it writes."""
    body = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(body, ast.FunctionDef)
    nodes = [node for statement in body.body for node in ast.walk(statement)]
    written = [node.value for node in nodes if isinstance(node, ast.Subscript)]
    return (
        {node.id for node in nodes if isinstance(node, ast.Name)},
        {node.id for node in written if isinstance(node, ast.Name)},
    )


@cache
def build() -> ctypes.CDLL:
    """Compile the loops for the instruction set in use, and load them, after torch if that is used."""
    isa = fs.info()["isa"]
    library = BUILD / f"limit-{isa}.so"
    BUILD.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CXX", "c++")
    target = [f"-march={isa}", "-mprefer-vector-width=512"] if isa.startswith("x86") else []
    subprocess.run([compiler, *FLAGS, *target, *SOURCES, "-o", str(library)], check=True, cwd=ROOT)
    loaded = ctypes.CDLL(str(library))
    loaded.limit_team(b"libtorch_cpu.so")
    for run in (loaded.limit_f32, loaded.limit_f64):
        run.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    return loaded


def streams(
    library: ctypes.CDLL, n: int, dtype: np.dtype[Any], traffic: Sequence[Traffic], own: Sequence[Array] = ()
) -> list[Work]:
    """Return, for each placement, a function that makes these passes over arrays of n elements.

    `own` are the arrays of the step itself, which is one placement more: first those that it writes, last
    those that it reads. The passes leave their values as they are.
    """
    run = {"f4": library.limit_f32, "f8": library.limit_f64}[dtype.str[1:]]
    count = max(written + read for written, read in traffic)
    pages = -(-n * dtype.itemsize // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, count * (pages + max(STAGGERS)))
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a kernel may be without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    room = np.frombuffer(memory, dtype)
    room.fill(1e-3)
    placements = [
        [room[k * (pages + stagger) // dtype.itemsize :][:n] for k in range(count)] for stagger in STAGGERS
    ]
    if len(own) >= count:
        placements.append([array.ravel(order="K") for array in own])

    def call(addresses: Sequence[_Addresses]) -> None:
        for (written, read), at in zip(traffic, addresses, strict=True):
            run(written, read, n, fs.get_num_threads(), at)

    return [
        partial(call, [_Addresses([*arrays[:written], *arrays[-read:]]) for written, read in traffic])
        for arrays in placements
    ]


class _Addresses:
    """The addresses of arrays, which it keeps alive, as an argument of a C function."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self._arrays = arrays
        self._as_parameter_ = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))

"""The memory limit: a compiled loop with a rule's traffic and next to no arithmetic."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fusedstep as fs

SOURCE = Path(__file__).with_name("limit.cpp")
BUILD = Path(__file__).parents[1] / "build" / "bench"
FLAGS = ["-std=c++20", "-O3", "-fopenmp", "-shared", "-fPIC"]


def build() -> ctypes.CDLL:
    """Compile limit.cpp for the instruction set in use, and load it."""
    isa = fs.info()["isa"]
    library = BUILD / f"limit-{isa}.so"
    BUILD.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CXX", "c++")
    target = [f"-march={isa}"] if isa.startswith("x86") else []
    subprocess.run([compiler, *FLAGS, *target, str(SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def stream(library: ctypes.CDLL, n: int, dtype: np.dtype[Any], slots: int) -> Callable[[], None]:
    """A call that reads the arrays of a rule with so many state slots and writes all but the gradient."""
    run = {"f4": library.limit_f32, "f8": library.limit_f64}[dtype.str[1:]]
    gradient = np.full(n, 1e-3, dtype)
    arrays = [np.full(n, 1.0, dtype) for _ in range(1 + slots)]
    addresses = [ctypes.c_void_p(array.ctypes.data) for array in (gradient, *arrays)]
    unused = [None] * (3 - slots)

    def call() -> None:
        run(len(arrays), ctypes.c_ssize_t(n), fs.get_num_threads(), *addresses, *unused)

    call.arrays = (gradient, *arrays)  # type: ignore[attr-defined]  # keeps them alive
    return call

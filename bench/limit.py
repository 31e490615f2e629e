"""The memory limit: compiled loops that move as many bytes as a rule, with next to no arithmetic."""

from __future__ import annotations

import ast
import ctypes
import inspect
import os
import subprocess
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fusedstep as fs
from fusedstep.formula.kernel import Kernel

SOURCE = Path(__file__).with_name("limit.cpp")
BUILD = Path(__file__).parents[1] / "build" / "bench"
FLAGS = ["-std=c++20", "-O3", "-fopenmp", "-shared", "-fPIC"]


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


def build() -> ctypes.CDLL:
    """Compile limit.cpp for the instruction set in use, and load it."""
    isa = fs.info()["isa"]
    library = BUILD / f"limit-{isa}.so"
    BUILD.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CXX", "c++")
    target = [f"-march={isa}"] if isa.startswith("x86") else []
    subprocess.run([compiler, *FLAGS, *target, str(SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def stream(
    library: ctypes.CDLL, n: int, dtype: np.dtype[Any], traffic: Sequence[Traffic]
) -> Callable[[], None]:
    """Return a function that makes these passes over arrays of n elements."""
    run = {"f4": library.limit_f32, "f8": library.limit_f64}[dtype.str[1:]]
    arrays = [np.full(n, 1e-3, dtype) for _ in range(max(written + read for written, read in traffic))]
    addresses = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))

    def call() -> None:
        for written, read in traffic:
            run(written, read, ctypes.c_ssize_t(n), fs.get_num_threads(), addresses)

    call.arrays = arrays  # type: ignore[attr-defined]  # keeps them alive
    return call

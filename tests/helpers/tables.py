"""Tables of which some rows are stepped: the calls, and what dense steps of the rows alone make of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import fusedstep as fs
from tests.helpers.engines import DTYPES, MIXES, normal

Array = np.ndarray[Any, Any]
Call = tuple[Any, Array, Array]

STEPS = 3
SHAPES: dict[Any, tuple[int, ...]] = {"matrix": (11, 3), "vector": (40,), "cube": (7, 2, 3)}

FEW_ENGINES = [("numpy", fs.info()["isa"], 1)]
FEW_ENGINES += [("native", isa, 1 + i % 2) for i, isa in enumerate(fs.info()["isas"])]
"""The NumPy backend, and every instruction set, by turns with one thread and two."""


def made(rule: str, params: Any, **options: Any) -> Any:
    return fs.rules[rule](params, **options)


def summed(rows: npt.ArrayLike, grads: Array, dtype: Any) -> tuple[list[int], Array]:
    """The different rows in ascending order, and for each the sum of its gradients as they appear."""
    wide = np.float64 if dtype == np.float64 else np.float32
    sums: dict[int, Array] = {}
    with np.errstate(all="ignore"):
        for row, g in zip(np.asarray(rows).tolist(), grads.astype(wide), strict=True):
            sums[row] = sums[row] + g if row in sums else g
    unique = sorted(sums)
    return unique, np.array([sums[row] for row in unique], wide).reshape(-1, *grads.shape[1:])


class Alone:
    """A table that dense steps alone change, each of a new table of the touched rows and their state."""

    def __init__(self, rule: str, table: Array, **options: Any) -> None:
        self.rule, self.options = rule, options
        self.table = table.copy()
        self.state: dict[str, Array] = {
            slot: a.copy() for slot, a in self.optimizer(self.table).state.items()
        }
        self.t = 0

    def optimizer(self, table: Array) -> Any:
        return made(self.rule, table, backend="numpy", **self.options)

    def step(self, rows: npt.ArrayLike, grads: Array, **options: Any) -> fs.StepResult:
        unique, sums = summed(rows, grads, self.table.dtype)
        part = self.table[unique]
        opt = self.optimizer(part)
        for slot, array in opt.state.items():
            array[...] = self.state[slot][unique]
        opt.counts["t"] = self.t
        result: fs.StepResult = opt.step(sums, **options)
        if not result.skipped:
            self.t += 1
            self.table[unique] = part
            for slot, array in opt.state.items():
                self.state[slot][unique] = array
        return result


def tables(mix: str = "float32", shapes: Mapping[Any, tuple[int, ...]] = SHAPES) -> dict[Any, Array]:
    """In the types of a mix by turns."""
    kinds = MIXES[mix][0]
    return {
        name: normal(i, shape, DTYPES[kinds[i % len(kinds)]])
        for i, (name, shape) in enumerate(shapes.items())
    }


def is_exact(rule: str, mix: str) -> bool:
    """Whether a dense step has the same bits: that of RowwiseAdagrad keeps its direction as state is kept."""
    return rule != "RowwiseAdagrad" or mix in {
        "float32",
        "float64",
        "gradients in float16",
        "state in float32",
    }


def calls(params: Mapping[Any, Array], steps: int = STEPS, kind: str | None = None) -> list[Call]:
    """For each step and table some of its rows, a few of them twice or more, and their gradients."""
    found: list[Call] = []
    for t, (name, p) in itertools.product(range(steps), params.items()):
        rows = np.random.default_rng([t, p.size]).integers(0, len(p), len(p) // 2 + t)
        grads = normal(100 + t, (len(rows), *p.shape[1:]), DTYPES[kind] if kind else p.dtype)
        found.append((name, rows, grads))
    return found


def snapshot(opt: Any, params: Mapping[Any, Array]) -> dict[str, Array]:
    """Copies of tables and state."""
    found = {f"{name}": p.copy() for name, p in params.items()}
    for name in params:
        found |= {f"{slot} of {name}": array.copy() for slot, array in opt.state[name].items()}
    return found


def bits(opt: Any, params: Mapping[Any, Array]) -> dict[str, Any]:
    """All that a call may change, as bytes and numbers."""
    arrays: dict[str, Any] = {name: a.tobytes() for name, a in snapshot(opt, params).items()}
    return arrays | {"t": opt.t, "counts": dict(opt.row_steps)}


def snapshot_of(expected: Mapping[Any, Alone]) -> dict[str, Array]:
    """The same of tables that are stepped alone."""
    found = {f"{name}": alone.table for name, alone in expected.items()}
    for name, alone in expected.items():
        found |= {f"{slot} of {name}": array for slot, array in alone.state.items()}
    return found


def use(isa: str, threads: int) -> None:
    fs.use_isa(isa)
    fs.set_num_threads(threads)

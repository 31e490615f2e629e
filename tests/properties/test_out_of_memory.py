"""A step without memory is a transaction too: an allocation that fails leaves all as it was."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.internals import Changes
from tests.helpers.interrupts import FEWER, Trial, flat, of_optimizer
from tests.helpers.out_of_memory import an_allocation_fails, at_every, bytes_are_left, in_a_new_process

pytest.importorskip("ml_dtypes")

from tests.properties.test_interrupts import (
    ALL,
    KINDS,
    NUMBER,
    OF_ROWS,
    same_run,
    stepping,
    tensors,
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

M_MMAP_THRESHOLD = -3  # glibc's number for it

DIES_IN = ("_bounds", "_prepared", "rounded", "square_sums", "update", "turn", "adapt")
"""Functions that use NumPy alone, which may then end the process."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """A process that forks should have no others."""
    fs.set_num_threads(1)


def pace(rule: str, backend: str) -> dict[str, Any]:
    """Some of the allocations: from one that differs from rule to rule, every so many."""
    stride = (2 if FEWER == 1 else 24) * (1 if backend == "native" else 6)
    return {"first": NUMBER[rule] % stride, "stride": stride, "dies_in": DIES_IN}


@pytest.mark.parametrize("rule", KINDS)
def test_a_step(rule: str, backend: Any) -> None:
    make = stepping(rule, backend, **ALL)
    assert at_every(an_allocation_fails, make, **pace(rule, backend)) > 100


@pytest.mark.parametrize("rule", OF_ROWS)
def test_a_step_of_rows(rule: str, backend: Any) -> None:
    at_every(an_allocation_fails, stepping(rule, backend, rows=True), **pace(rule, backend))


@pytest.mark.parametrize("rule", KINDS)
def test_loading(rule: str, backend: Any) -> None:
    """The state of another run, into one that has made a step."""
    again = same_run(rule, backend)
    saved = same_run(rule, backend, steps=3)().opt.state_dict()

    def make() -> Trial:
        run = again()
        gradients = {i: p.copy() for i, p in enumerate(tensors(rule))}
        options = {"loss": 0.5} if fs.rules[rule].needs_loss else {}
        return Trial(
            lambda: run.opt.load_state_dict(saved), run.see, lambda: run.opt.step(gradients, **options)
        )

    at_every(an_allocation_fails, make, **pace(rule, "numpy"))


def test_dictionaries_change_together() -> None:
    """Whichever of them has to grow."""
    failed = 0
    for at in range(60):
        new: dict[Any, Any] = {}
        known, also_new = {"a": 1}, {"b": 2}
        changes = Changes()
        changes.update(new, dict.fromkeys(range(20)))
        changes.update(known, {"a": 3})
        changes.update(also_new, dict.fromkeys(range(30)))
        end = an_allocation_fails(at)
        try:
            changes.write()
        except MemoryError:
            failed += 1
            end()
            assert (new, known, also_new) == ({}, {"a": 1}, {"b": 2})
        else:
            end()
            assert (len(new), known["a"], len(also_new)) == (20, 3, 31)
    assert failed


def in_a_table(rule: str, backend: Any, by_rows: bool) -> int:
    """How many bytes such a step needs; what is lacking below is the memory of arrays."""
    rng = np.random.default_rng(0)
    start, g = rng.standard_normal((2, 40_000, 8), np.float32)
    rows = rng.permutation(len(g))

    def make() -> Trial:
        p = start.copy()
        opt: Any = fs.rules[rule](p, backend=backend, ema=0.5)

        def act() -> None:
            if by_rows:
                opt.step_rows(0, rows, g)
            else:
                opt.step(g, clip_norm=1.0)

        return Trial(act, lambda: flat("p", p) | of_optimizer(opt), act)

    return at_every(bytes_are_left, make, stride=1024 * 1024)


def in_tables(kinds: list[tuple[str, str, bool]]) -> list[int]:
    """The same of several, in a process whose large arrays go back to the system each time."""
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or mallopt(M_MMAP_THRESHOLD, 4096) != 1:
        return []
    fs.set_num_threads(1)
    return [in_a_table(*kind) for kind in kinds]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such limit")
def test_tables() -> None:
    kinds = [
        ("RowwiseAdagrad", "native", True),
        ("Adagrad", "native", True),
        ("Adagrad", "numpy", True),
        ("Adagrad", "numpy", False),
    ]
    found = in_a_new_process(in_tables, kinds)
    assert all(least > 0 for least in found), found

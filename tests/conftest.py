"""What several test files share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

# Several threads of NumPy's BLAS wait for each other more than they compute; it reads this when it is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import fusedstep as fs


def pytest_collection_finish() -> None:
    """The collected tests stay: the garbage collector need not go through them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _restored_runtime() -> Iterator[None]:
    """Leave instruction set and threads as they were."""
    isa, threads = fs.info()["isa"], fs.get_num_threads()
    yield
    fs.use_isa(isa)
    fs.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _one_torch_thread() -> Iterator[None]:
    """Where torch is imported, it has one thread: those of two libraries are in each other's way."""
    found: Any = sys.modules.get("torch")
    if found is None:
        yield
        return
    threads = found.get_num_threads()
    found.set_num_threads(1)
    yield
    found.set_num_threads(threads)


@pytest.fixture
def torch() -> Iterator[Any]:
    """With one thread, also where this is what imports it."""
    found: Any = pytest.importorskip("torch")
    threads = found.get_num_threads()
    found.set_num_threads(1)
    yield found
    found.set_num_threads(threads)


@pytest.fixture(params=["native", "numpy"])
def backend(request: pytest.FixtureRequest) -> Any:
    """What runs the step."""
    return request.param

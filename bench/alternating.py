"""The step between other work on the same cores: ``python bench/alternating.py``, with torch installed.

In a training loop a step follows a forward and a backward pass, whose threads may still be waiting for work.
For each kind of work in between, with torch imported after fusedstep and before it, this prints the median
and the 9th decile of the microseconds of an Adam step, and the mean of work and step together, which shows
whether the step's threads slow the work; for fusedstep's step and for torch's fused one.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

SIZES = [10**4, 10**5, 10**6, 10**7]
ROUNDS = 60
WARM_UP = 10
REST_SECONDS = 0.5  # until idle threads of the case before give up waiting for work
ORDERS = [("fusedstep", "torch"), ("torch", "fusedstep")]


def microseconds(step: Callable[[], object], between: Callable[[], object]) -> str:
    """Return the median and 9th decile of a step after the work in between, and the mean of both together."""
    time.sleep(REST_SECONDS)
    for _ in range(WARM_UP):
        between()
        step()
    samples = []
    begin = time.perf_counter()
    for _ in range(ROUNDS):
        between()
        start = time.perf_counter()
        step()
        samples.append(1e6 * (time.perf_counter() - start))
    both = 1e6 * (time.perf_counter() - begin) / ROUNDS
    return f"{statistics.median(samples):.0f} | {statistics.quantiles(samples, n=10)[-1]:.0f} | {both:.0f}"


def kinds_of_work(np: Any, torch: Any) -> dict[str, Callable[[], object]]:
    """The kinds of work that may come between two steps."""
    matrix = np.random.default_rng(0).standard_normal((600, 600)).astype(np.float32)
    tensor, long = torch.from_numpy(matrix), torch.randn(3_000_000)
    return {
        "nothing": lambda: None,
        "sleep": lambda: time.sleep(0.003),
        "NumPy matrix product": lambda: matrix @ matrix,
        "torch matrix product": lambda: tensor @ tensor,
        "torch elementwise": lambda: long.mul(1.0001),
    }


def measure_order(order: tuple[str, ...]) -> None:
    """Print the rows for one order of imports."""
    modules = {name: importlib.import_module(name) for name in order}
    import numpy as np  # noqa: PLC0415  # each order has an interpreter of its own

    fs, torch = modules["fusedstep"], modules["torch"]
    torch.set_num_threads(fs.get_num_threads())
    work = kinds_of_work(np, torch)
    for n in SIZES:
        p = np.random.default_rng(0).standard_normal(n, np.float32)
        g = 0.1 * p
        parameter = torch.nn.Parameter(torch.from_numpy(p.copy()))
        parameter.grad = torch.from_numpy(g)
        ours, fused = fs.Adam(p), torch.optim.Adam([parameter], fused=True)
        for name, between in work.items():
            columns = [microseconds(step, between) for step in (partial(ours.step, g), fused.step)]
            print(f"| {order[0]} | {n:.0e} | {name} | {columns[0]} | {columns[1]} |", flush=True)


def main() -> None:
    """Measure each order of imports in a fresh interpreter."""
    parser = argparse.ArgumentParser(prog="python bench/alternating.py")
    parser.add_argument("--first", choices=["fusedstep", "torch"], help="measure one order only")
    options = parser.parse_args()
    if options.first:
        measure_order(next(order for order in ORDERS if order[0] == options.first))
        return
    print(
        "| imported first | n | between | fusedstep | 9th decile | both | torch fused | 9th decile | both |"
    )
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for first, _ in ORDERS:
        subprocess.run([sys.executable, __file__, "--first", first], check=True)


if __name__ == "__main__":
    main()

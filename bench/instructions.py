"""Instructions of a step, counted by valgrind: unlike times, the counts repeat.

``python bench/instructions.py`` needs valgrind, and torch for the second half. Each case runs in a process
with few steps and in one with more; a step takes the difference divided by the number of further steps.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import fusedstep as fs

SIZES = {"1000 of 1000": [1000] * 1000, "one of 10^4": [10_000], "one of 10": [10]}
STEPS = {"1000 of 1000": (10, 50), "one of 10^4": (100, 600), "one of 10": (100, 600)}
ONE_THREAD = ("FUSEDSTEP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
COUNT = re.compile(r"Collected : (\d+)")


def numpy_step(sizes: list[int]) -> Callable[[], object]:
    """Make a step of AdamW through the NumPy API."""
    params = {f"p{i}": np.ones(size, np.float32) for i, size in enumerate(sizes)}
    grads = {name: np.full_like(p, 1e-3) for name, p in params.items()}
    opt = fs.AdamW(params)
    return lambda: opt.step(grads)


def torch_step(sizes: list[int]) -> Callable[[], object]:
    """Make a step of AdamW through the torch API."""
    torch, ft = import_module("torch"), import_module("fusedstep.torch")
    torch.set_num_threads(1)
    params = [torch.nn.Parameter(torch.ones(size)) for size in sizes]
    for p in params:
        p.grad = torch.full_like(p, 1e-3)
    step: Callable[[], object] = ft.AdamW(params).step
    return step


APIS = {"numpy": numpy_step, "torch": torch_step}


def count(api: str, case: str, steps: int) -> int:
    """Count the instructions of a process that makes this number of steps."""
    with TemporaryDirectory() as folder:
        output = f"--callgrind-out-file={Path(folder) / 'out'}"
        found = COUNT.search(
            subprocess.run(
                ["valgrind", "--tool=callgrind", output, sys.executable, __file__, api, case, str(steps)],
                env={**os.environ, "PYTHONHASHSEED": "0", **dict.fromkeys(ONE_THREAD, "1")},
                capture_output=True,
                text=True,
                check=True,
            ).stderr
        )
    if found is None:
        raise RuntimeError("valgrind printed no count")
    return int(found[1])


def main(apis: list[str]) -> None:
    """Print the instructions of a step in each case."""
    for api in apis:
        for case, (some, more) in STEPS.items():
            a_step = (count(api, case, more) - count(api, case, some)) / (more - some)
            print(f"{api:5}  {case:12}  {a_step:12,.0f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        step = APIS[sys.argv[1]](SIZES[sys.argv[2]])
        gc.disable()
        for _ in range(int(sys.argv[3])):
            step()
    else:
        main(sys.argv[1:] or list(APIS))

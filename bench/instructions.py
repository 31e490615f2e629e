"""Instructions of a step, counted by valgrind: repeatable where times are not.

``PYTHONHASHSEED=0 python bench/instructions.py`` needs valgrind. Each case runs twice, with some and with more
steps; the difference, divided by the steps between, is what a step takes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

SIZES = {"1000 of 1000": [1000] * 1000, "one of 10^4": [10_000], "one of 10": [10]}
STEPS = {"1000 of 1000": (3, 8), "one of 10^4": (20, 220), "one of 10": (20, 220)}
COUNT = re.compile(r"Collected : (\d+)")


def numpy_step(sizes: list[int]) -> Callable[[], object]:
    """A step of AdamW through the NumPy API."""
    import fusedstep as fs

    params = {f"p{i}": np.ones(size, np.float32) for i, size in enumerate(sizes)}
    grads = {name: np.full_like(p, 1e-3) for name, p in params.items()}
    opt = fs.AdamW(params)
    return lambda: opt.step(grads)


def torch_step(sizes: list[int]) -> Callable[[], object]:
    """A step of AdamW through the torch API."""
    import torch

    import fusedstep.torch as ft

    torch.set_num_threads(1)
    params = [torch.nn.Parameter(torch.ones(size)) for size in sizes]
    for p in params:
        p.grad = torch.full_like(p, 1e-3)
    return ft.AdamW(params).step


APIS = {"numpy": numpy_step, "torch": torch_step}


def count(api: str, case: str, steps: int) -> int:
    """The instructions of a process that makes so many steps."""
    with TemporaryDirectory() as folder:
        output = subprocess.run(
            [
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={Path(folder) / 'out'}",
                sys.executable,
                __file__,
                api,
                case,
                str(steps),
            ],
            env={**os.environ, "PYTHONHASHSEED": "0", "FUSEDSTEP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    found = COUNT.search(output)
    assert found, output
    return int(found[1])


def main() -> None:
    """Print the instructions of a step in each case."""
    for api in APIS:
        for case, (some, more) in STEPS.items():
            a_step = (count(api, case, more) - count(api, case, some)) / (more - some)
            print(f"{api:5}  {case:12}  {a_step:12,.0f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        step = APIS[sys.argv[1]](SIZES[sys.argv[2]])
        for _ in range(int(sys.argv[3])):
            step()
    else:
        main()

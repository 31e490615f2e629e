"""The rules of matrices against torch: ``python bench/matrices.py``.

Prints the milliseconds of a step of one float32 matrix by the NumPy API and by `fusedstep.torch`, and how
many times as long `torch.optim` takes. Its Muon iterates in bfloat16, fusedstep's in float32.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch

import fusedstep as fs
import fusedstep.torch as fused
import measure

RULES = ["Adafactor", "Muon"]
SIZES = {"Adafactor": [(4096, 4096), (1024, 1024)], "Muon": [(512, 512), (256, 1024)]}
ROUNDS = 7


def bench(rule: str, shape: tuple[int, int]) -> dict[str, float]:
    """Measure the seconds of a step of each implementation."""
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal(shape, np.float32), rng.standard_normal(shape, np.float32)
    numpy_api = fs.rules[rule](p.copy())
    steps: dict[str, Any] = {"NumPy": lambda: numpy_api.step(g)}
    for name, library in {"fused": fused, "torch": torch.optim}.items():
        parameter = torch.nn.Parameter(torch.from_numpy(p.copy()))
        parameter.grad = torch.from_numpy(g)
        steps[name] = getattr(library, rule)([parameter]).step
    return measure.interleaved(steps, ROUNDS)


def main() -> None:
    """Measure each rule at each size, and print the table."""
    parser = argparse.ArgumentParser(prog="python bench/matrices.py")
    parser.add_argument("--rules", nargs="*", choices=RULES, default=RULES, help="only these")
    options = parser.parse_args()
    torch.set_num_threads(fs.get_num_threads())
    print(
        ", ".join(f"{key} {value}" for key, value in measure.machine().items()), f"torch {torch.__version__}"
    )
    print("| rule | matrix | NumPy API, ms | torch API, ms | x torch.optim |")
    print("|---|---|--:|--:|--:|", flush=True)
    for rule in options.rules:
        for shape in SIZES[rule]:
            seconds = bench(rule, shape)
            ms = {name: 1e3 * value for name, value in seconds.items()}
            size, ratio = " x ".join(map(str, shape)), seconds["torch"] / seconds["fused"]
            print(f"| {rule} | {size} | {ms['NumPy']:.1f} | {ms['fused']:.1f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""Runs that version 0.1.0 saved half way and at their end, in tests/saved.

``python tests/helpers/saved.py FOLDER`` writes such files. Those in the repository were written by 0.1.0, so
that tests can see whether later versions go on from there to the same bits. Gradients are exact fractions,
the same on every machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import fusedstep as fs
from fusedstep.control import Checkpoint

FOLDER = Path(__file__).parents[1] / "saved"
SHAPES = {"w": (4, 3), "b": (5,), "h": (6,), "one": (1, 1)}
HALF = 3  # steps before the first file; as many follow before the second
RULES = ["Adam", "NovoGrad", "Adafactor", "Muon", "Prodigy", "ScheduleFreeAdamW", "RowwiseAdagrad"]
BY_ROWS = ["Adam", "RowwiseAdagrad"]
PRODUCTS = {"Muon": "w"}
"""What is computed with the matrix products of NumPy's BLAS, which round as the machine has them."""
WIDENED = [rule for rule in RULES if rule not in {"NovoGrad", "Prodigy"}]
"""Rules whose state of float16 weights was in float16, and is in float32 now."""


def fractions(shape: tuple[int, ...], seed: int) -> Any:
    """Numbers of a shape that are exact in every format."""
    return ((np.arange(np.prod(shape)).reshape(shape) * 7 + seed * 5) % 11 - 5) / 8


def weights(rule: str) -> dict[str, Any]:
    """Where a run starts: float32, and h in float16 if the rule takes it."""
    found = {name: fractions(shape, seed=9).astype(np.float32) for name, shape in SHAPES.items()}
    return found if rule == "Prodigy" else found | {"h": found["h"].astype(np.float16)}


def optimizer(rule: str, params: dict[str, Any], **options: Any) -> fs.Optimizer:
    """The optimizer of a run, with an average of the weights."""
    return fs.rules[rule](params, ema=0.75, **options)


def go_on(opt: fs.Optimizer, params: dict[str, Any]) -> None:
    """Half of a run, with a step of some rows where the rule has them."""
    for _ in range(HALF):
        opt.step({name: fractions(p.shape, opt.t).astype(p.dtype) for name, p in params.items()})
    if type(opt).__name__ in BY_ROWS and "w" in params:
        opt.step_rows("w", [2, 0, 2], fractions((3, 3), opt.t).astype(np.float32))


def file(rule: str, half: int, folder: Path = FOLDER) -> Path:
    """The file of a NumPy run."""
    return folder / f"{rule}-{half}.safetensors"


def torch_weights(torch: Any, rule: str) -> dict[str, Any]:
    """The same weights for torch; h in bfloat16 if the rule takes it."""
    found = {
        name: torch.nn.Parameter(torch.from_numpy(p.astype(np.float32))) for name, p in weights(rule).items()
    }
    h = torch.nn.Parameter(found["h"].detach().to(torch.bfloat16))
    return found if rule == "Prodigy" else found | {"h": h}


def torch_optimizer(ft: Any, rule: str, params: dict[str, Any]) -> Any:
    """The torch optimizer of a run: a group for each parameter, since torch's Adafactor wants one dtype."""
    averaged = {"ema": 0.75} if rule not in ft.drop_in.__all__ else {}
    return getattr(ft, rule)([{"params": [p]} for p in params.values()], lr=0.125, **averaged)


def go_on_in_torch(torch: Any, opt: Any, params: dict[str, Any], half: int) -> None:
    """Half of a run with torch."""
    for t in range(half * HALF, (half + 1) * HALF):
        for p in params.values():
            p.grad = torch.from_numpy(fractions(tuple(p.shape), t)).to(p.dtype)
        opt.step()


def torch_file(rule: str, half: int, folder: Path = FOLDER) -> Path:
    """The file of a run with torch."""
    return folder / f"{rule}-{half}.pt"


def write(folder: Path) -> None:
    """Write all files."""
    import torch

    import fusedstep.torch as ft

    folder.mkdir(parents=True, exist_ok=True)
    for rule in RULES:
        params = weights(rule)
        opt = optimizer(rule, params)
        for half in (0, 1):
            go_on(opt, params)
            Checkpoint(file(rule, half, folder), optimizer=opt).save()
        tensors = torch_weights(torch, rule)
        fused = torch_optimizer(ft, rule, tensors)
        for half in (0, 1):
            go_on_in_torch(torch, fused, tensors, half)
            values = {name: p.detach() for name, p in tensors.items()}
            torch.save({"weights": values, "optimizer": fused.state_dict()}, torch_file(rule, half, folder))


if __name__ == "__main__":
    write(Path(sys.argv[1]))

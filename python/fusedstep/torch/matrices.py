"""The pass before the step of matrices, whose direction is made of all of a matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _core
from ..hyperparameters import At
from ..kernel import MatrixKernel
from ..matrices import direction_row
from ..plan import Row
from .batch import Batch


@torch.no_grad()
def make_directions(
    plan: _core.TensorPlan, batches: Sequence[Batch], hs: Sequence[At], rows: Sequence[Row]
) -> None:
    """Fill the last slot of every matrix whose kernel is a `MatrixKernel`; nothing else is written."""
    mine = [
        (batch, h, row, batch.kernel)
        for batch, h, row in zip(batches, hs, rows, strict=True)
        if isinstance(batch.kernel, MatrixKernel)
    ]
    if not mine:
        return
    plan.take([(kernel.direction.name, batch.found, batch.members) for batch, _, _, kernel in mine])
    plan.run(
        [direction_row(batch.form.rule, kernel, h, batch.steps + 1, row) for batch, h, row, kernel in mine]
    )
    for batch, h, _, kernel in mine:
        for o in batch.found.state(len(kernel.state), batch.members):
            _turn(kernel, h, o)


def _turn(kernel: MatrixKernel, h: At, o: Tensor) -> None:
    wide = o if o.dtype in (torch.float32, torch.float64) else o.float()
    kernel.turn(h, wide.numpy())
    if wide is not o:
        o.copy_(wide)

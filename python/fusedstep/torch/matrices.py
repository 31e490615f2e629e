"""The pass before the step of matrices, whose direction is made of all of a matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import _core, native
from ..hyperparameters import At
from ..kernel import Array, MatrixKernel, Shape
from ..matrices import direction_row
from ..plan import Row
from .batch import Batch

Changes: TypeAlias = list[tuple[Tensor, Tensor]]


@torch.no_grad()
def make_directions(
    plan: _core.TensorPlan,
    batches: Sequence[Batch],
    hs: Sequence[At],
    rows: Sequence[Row],
    own: Callable[[int], Sequence[tuple[Mapping[str, Any], Tensor]]],
) -> Changes:
    """Fill the last slot of every matrix whose kernel is a `MatrixKernel`; nothing else is written.

    `own` gives the state of a batch's parameters, and the room for their directions: these are rounded as
    they are kept there, also where the plan has copies. Returns the factors with their new values.
    """
    mine = [
        (k, batch, h, row, batch.kernel)
        for k, (batch, h, row) in enumerate(zip(batches, hs, rows, strict=True))
        if isinstance(batch.kernel, MatrixKernel)
    ]
    if not mine:
        return []
    plan.take([(kernel.direction.name, batch.found, batch.members) for _, batch, _, _, kernel in mine])
    plan.run(
        [direction_row(batch.form.rule, kernel, h, batch.steps + 1, row) for _, batch, h, row, kernel in mine]
    )
    changes: Changes = []
    for k, batch, h, _, kernel in mine:
        directions = batch.found.state(len(kernel.state), batch.members)
        for o, (state, room) in zip(directions, own(k), strict=True):
            factors = {
                name: _checked(name, state[batch.form.key(name)], shape)
                for name, shape in kernel.factors(tuple(o.shape)).items()
            }
            o.copy_(o.to(room.dtype))
            changes += _turned(kernel, h, batch.steps + 1, o, factors)
            o.copy_(o.to(room.dtype))
    return changes


def _turned(kernel: MatrixKernel, h: At, t: int, o: Tensor, factors: Mapping[str, Tensor]) -> Changes:
    wide = _wide(o)
    after = kernel.turn(
        native.Plan.arithmetic,
        h,
        t,
        wide.numpy(),
        {name: _array(factor) for name, factor in factors.items()},
    )
    if wide is not o:
        o.copy_(wide)
    return [(factors[name], torch.from_numpy(value)) for name, value in after.items()]


def _checked(name: str, factor: Tensor, shape: Shape) -> Tensor:
    if tuple(factor.shape) != shape:
        raise ValueError(f"state {name!r} has shape {tuple(factor.shape)}, here {shape}")
    return factor


def _wide(tensor: Tensor) -> Tensor:
    """A tensor as NumPy can have it."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _array(tensor: Tensor) -> Array:
    array: Array = _wide(tensor).numpy()
    return array

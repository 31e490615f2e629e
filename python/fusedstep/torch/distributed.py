"""Tensors of which every process has a part (torch's DTensor)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends.sums import LEAST
from ..formula.coefficients import UP
from ..formula.kernel import Array

FACTORS = (1.0, UP, 1 / UP)


def is_distributed(tensor: Tensor) -> bool:
    """Whether the tensor is a DTensor; importing the class would load all of torch.distributed."""
    return hasattr(tensor, "to_local")


def local(tensor: Tensor) -> Tensor:
    """The local part of a distributed tensor; any other tensor itself."""
    to_local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


def local_gradient(p: Any, g: Any) -> Tensor:
    """The local part of a gradient, after dividing it among processes as its parameter is."""
    if is_distributed(g) and g.placements != p.placements:
        g = g.redistribute(p.device_mesh, p.placements)
    return local(g)


def totals(parameters: Sequence[Any], sums: Array) -> Array:
    """Sums over whole parameters, a row for each, from the sums over the parts in this process."""
    ways: dict[Any, list[int]] = {}
    for i, p in enumerate(parameters):
        if is_distributed(p):
            ways.setdefault((p.device_mesh, p.placements), []).append(i)
    for (mesh, placements), rows in ways.items():
        for dim, placement in enumerate(placements):
            if not placement.is_replicate():
                part = torch.from_numpy(sums[rows])
                torch.distributed.all_reduce(part, group=mesh.get_group(dim))
                sums[rows] = part.numpy()
    return sums


def global_norm(gradients: Sequence[Any], of_local_parts: float) -> float:
    """The norm of gradients over all processes; `of_local_parts` is the norm of the parts in this one."""
    if not any(hasattr(kind, "to_local") for kind in set(map(type, gradients))):
        return of_local_parts
    ways = {(g.device_mesh, g.placements) if is_distributed(g) else None for g in gradients}
    way = ways.pop()
    if ways or way is None or any(not (p.is_shard() or p.is_replicate()) for p in way[1]):
        total: Any = torch.nn.utils.get_total_norm(gradients)
        return float(total.full_tensor() if is_distributed(total) else total)
    mesh, placements = way
    # As they are, and scaled so that very small or very large squares are numbers too.
    squares = (of_local_parts * torch.tensor(FACTORS, dtype=torch.float64)).square()
    for dim, placement in enumerate(placements):
        if placement.is_shard():
            torch.distributed.all_reduce(squares, group=mesh.get_group(dim))
    plain, up, down = zip(squares.tolist(), FACTORS, strict=True)
    total, factor = plain if LEAST <= plain[0] < math.inf else up if plain[0] < LEAST else down
    return math.sqrt(total) / factor

"""Parts of all distributed examples: a small model, its data, and the same training in one process."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fusedstep.torch as ft

STEPS = 50
BATCH = 32  # the rows of a batch, of all ranks together
LR = 1e-2


def new_model() -> nn.Sequential:
    """Return the model with the same initial weights wherever it is called."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.GELU(), nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 10))


def batch(step: int, rank: int = 0, ranks: int = 1) -> tuple[Tensor, Tensor]:
    """Return a rank's rows of a step's batch: points, and the region of space in which each lies."""
    x = torch.randn(BATCH, 20, generator=torch.Generator().manual_seed(step))
    y = x[:, :10].argmax(dim=1)
    return x.chunk(ranks)[rank], y.chunk(ranks)[rank]


def loss_of(model: nn.Module, step: int, rank: int = 0, ranks: int = 1) -> Tensor:
    """Return the mean loss over the rank's rows; ranks have equally many, so their mean is the batch's."""
    x, y = batch(step, rank, ranks)
    return cross_entropy(model(x), y)


def one_process() -> dict[str, Tensor]:
    """Train in this process alone, on whole batches, and return the weights."""
    model = new_model()
    optimizer = ft.AdamW(model.parameters(), lr=LR)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    return weights(model)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's weights by name."""
    return {name: p.detach() for name, p in model.named_parameters()}


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the largest difference of any weight."""
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Return whether all weights are equal."""
    return all(torch.equal(a[name], b[name]) for name in a)


def out_argument(description: str | None) -> Path | None:
    """Return the file in which the command line says to save the weights."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="save the trained weights here")
    out: Path | None = parser.parse_args().out
    return out

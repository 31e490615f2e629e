"""ZeRO: data-parallel training in which a rank keeps the optimizer's state of its share of the parameters.

    torchrun --nproc-per-node 2 examples/zero.py

ZeroRedundancyOptimizer has every rank step some of the parameters with an optimizer of the given class, and
then sends each parameter from its rank to the others. So no rank holds the whole state, and the weights are
bit for bit those of plain DistributedDataParallel.

An optimizer on one rank sees only that rank's parameters, so ``clip_norm=`` would clip by their norm.
To clip by the norm of all gradients here, call ``torch.nn.utils.clip_grad_norm_`` before the step.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import fusedstep.torch as ft
import toy


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Train and return the weights."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for step in range(toy.STEPS):
        optimizer.zero_grad()
        toy.loss_of(model, step, rank, ranks).backward()
        optimizer.step()
    return toy.weights(model)


def elements(optimizer: torch.optim.Optimizer) -> int:
    """Return how many elements the state has, without the step counts."""
    return sum(value.numel() for state in optimizer.state.values() for value in state.values() if value.dim())


def main() -> None:
    """Train with the state shared out, then with all of it on every rank, and compare."""
    out = toy.out_argument(__doc__)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()

    model = DistributedDataParallel(toy.new_model())
    zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=ft.AdamW, lr=toy.LR)
    trained = train(model, zero)

    model = DistributedDataParallel(toy.new_model())
    plain = ft.AdamW(model.parameters(), lr=toy.LR)
    trained_plain = train(model, plain)

    held = [0] * ranks
    dist.all_gather_object(held, elements(zero.optim))
    if rank == 0:
        for r, n in enumerate(held):
            print(f"rank {r} holds {n} state elements of {elements(plain)}")
        print(f"the same weights as without ZeRO, bit for bit: {toy.same_bits(trained, trained_plain)}")
        if out:
            torch.save({name.removeprefix("module."): w for name, w in trained.items()}, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

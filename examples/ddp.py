"""Data-parallel training: every rank has the whole model and its share of each batch.

    torchrun --nproc-per-node 2 examples/ddp.py

DistributedDataParallel averages the gradients over the ranks during ``backward``, so every rank steps with
the same gradients, and the optimizer needs to know nothing of the other ranks. Its steps give the same bits
on every rank, so the ranks' weights stay equal without being sent. One process that trains on the whole
batches sums the gradients in another order, so its weights differ by rounding.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import fusedstep.torch as ft
import toy


def main() -> None:
    """Train on all ranks, then compare."""
    out = toy.out_argument(__doc__)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()

    model = DistributedDataParallel(toy.new_model())
    optimizer = ft.AdamW(model.parameters(), lr=toy.LR)
    for step in range(toy.STEPS):
        optimizer.zero_grad()
        loss = toy.loss_of(model, step, rank, ranks)
        loss.backward()
        optimizer.step()

    trained = toy.weights(model.module)
    of_ranks = [trained] * ranks
    dist.all_gather_object(of_ranks, trained)
    if rank == 0:
        alike = all(toy.same_bits(trained, other) for other in of_ranks)
        difference = toy.largest_difference(trained, toy.one_process())
        print(f"{toy.STEPS} steps on {ranks} ranks, loss {loss.item():.3f}")
        print(f"all ranks have the same weights, bit for bit: {alike}")
        print(f"largest difference of a weight from one process's: {difference:.1e}")
        if out:
            torch.save(trained, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

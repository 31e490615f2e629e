"""FSDP2: every rank keeps its share of the weights, of the gradients and of the optimizer's state.

    torchrun --nproc-per-node 2 examples/fsdp2.py

``fully_shard`` makes every parameter a DTensor, of which a rank holds some rows; the whole weights exist only
while a layer computes. With CPU offloading these rows lie in CPU memory, where the optimizer steps them, even
if the layers compute on GPUs. ``clip_norm=`` clips by the norm of all gradients on all ranks.

Halfway through, the optimizer's state is saved and loaded into a new optimizer, as when training resumes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

import fusedstep.torch as ft
import toy


def sharded_model() -> nn.Sequential:
    """Return the model with its weights shared out over the ranks."""
    model = toy.new_model()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    # Pinned memory, the default, speeds up copies to a GPU, and is an error if there is none.
    policy = CPUOffloadPolicy(pin_memory=False)
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, offload_policy=policy)
    fully_shard(model, mesh=mesh, offload_policy=policy)
    return model


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Train this rank's rows of the batches."""
    for step in steps:
        toy.loss_of(model, step, dist.get_rank(), dist.get_world_size()).backward()
        optimizer.step()
        optimizer.zero_grad()  # last: a new optimizer loads a checkpoint only while there are no gradients


def full_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the whole weights, gathered from all ranks; every rank must call this."""
    weights = {}
    for name, p in toy.weights(model).items():
        assert isinstance(p, DTensor)
        weights[name] = p.full_tensor()
    return weights


def main() -> None:
    """Train on all ranks, with a new optimizer for the second half, then compare."""
    out = toy.out_argument(__doc__)
    dist.init_process_group("gloo")
    half = toy.STEPS // 2

    model = sharded_model()
    optimizer = ft.AdamW(model.parameters(), lr=toy.LR)
    train(model, optimizer, range(half))

    # Rank 0 gets the whole state by the parameters' names, which any number of ranks can load.
    checkpoint = get_optimizer_state_dict(
        model, optimizer, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    optimizer = ft.AdamW(model.parameters(), lr=toy.LR)
    set_optimizer_state_dict(
        model,
        optimizer,
        checkpoint,
        options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True),
    )
    train(model, optimizer, range(half, toy.STEPS))

    trained = full_weights(model)
    if dist.get_rank() == 0:
        p = next(model.parameters())
        assert isinstance(p, DTensor)
        difference = toy.largest_difference(trained, toy.one_process())
        print(f"rank 0 holds {tuple(p.to_local().shape)} of a weight of shape {tuple(p.shape)}")
        print(f"its state: {', '.join(f'{k} ({type(v).__name__})' for k, v in optimizer.state[p].items())}")
        print(f"largest difference of a weight from one process's: {difference:.1e}")
        if out:
            torch.save(trained, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

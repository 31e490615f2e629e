"""What each process does where there are several: ``torch_ranks.py WORLD FOLDER`` starts so many.

A rank saves what the tests want to know as ``RANK.pt``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint import state_dict as sd
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.placement_types import _StridedShard
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

import fusedstep.torch as ft

Tensors: TypeAlias = dict[str, Any]  # of tensors by name
Saved: TypeAlias = dict[tuple[str, str], Any]  # by optimizer and what it is
Options: TypeAlias = dict[str, Any]

TIMEOUT = 900  # seconds, of each group of processes
STEPS = 6
ROWS = 8
CLIP = 0.05
OPTIONS: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "NAdam": {"lr": 0.01},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
}


def new_model() -> nn.Sequential:
    """Return a model of which, by rows, ranks of four hold unequal shares, the last none of some weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 33), nn.Tanh(), nn.Linear(33, 7), nn.Tanh(), nn.Linear(7, 5))


def train(model: nn.Module, optimizer: Any, steps: range, clip: float | None = None) -> None:
    """Train on this rank's rows of each step's batch, or on all of it where there is one process."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for step in steps:
        x = torch.randn(ROWS, 6, generator=torch.Generator().manual_seed(step)).chunk(world)[rank]
        (model(x) - x[:, :5].square()).square().mean().backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()


def weights(model: nn.Module) -> Tensors:
    return {name.removeprefix("module."): p.detach().clone() for name, p in model.named_parameters()}


# --- Training in several processes ---


def data_parallel(_: Path) -> Saved:
    """DDP with the state on all ranks, with clipping, and with ZeRO, for each class."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # which warns as it is imported

    saved: Saved = {}
    for name, options in OPTIONS.items():
        cls = getattr(ft, name)

        model = DistributedDataParallel(new_model())
        plain = cls(model.parameters(), **options)
        train(model, plain, range(STEPS))
        saved[name, "ddp"], saved[name, "ddp state"] = weights(model), plain.state_dict()["state"]

        model = DistributedDataParallel(new_model())
        train(model, cls(model.parameters(), **options, clip_norm=CLIP), range(STEPS))
        saved[name, "ddp clip"] = weights(model)

        model = DistributedDataParallel(new_model())
        zero = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=cls, **options)
        train(model, zero, range(STEPS))
        saved[name, "zero"], saved[name, "zero elements"] = weights(model), elements(zero.optim.state)
        zero.consolidate_state_dict(to=0)
        saved[name, "zero state"] = zero.state_dict()["state"] if dist.get_rank() == 0 else {}
    return saved


def fully_sharded(folder: Path) -> Saved:
    """FSDP2 with CPU offload, for each class: plain, clipping, and resumed in each way torch has."""
    saved: Saved = {}
    for name, options in OPTIONS.items():
        cls, torch_cls = getattr(ft, name), getattr(torch.optim, name)

        model = sharded_model()
        optimizer = cls(model.parameters(), **options)
        train(model, optimizer, range(STEPS))
        saved[name, "fsdp"], saved[name, "layout"] = full_weights(model), layout(model, optimizer)

        model = sharded_model()
        optimizer = torch_cls(model.parameters(), **options)
        train(model, optimizer, range(1))
        saved[name, "torch layout"] = layout(model, optimizer)

        model = sharded_model()
        train(model, cls(model.parameters(), **options, clip_norm=CLIP), range(STEPS))
        saved[name, "clip"] = full_weights(model)

        model = sharded_model()
        train(model, cls(model.parameters(), **options), range(STEPS), clip=CLIP)
        saved[name, "torch clip"] = full_weights(model)

        model = sharded_model(hybrid=True)
        train(model, cls(model.parameters(), **options, clip_norm=CLIP), range(STEPS))
        saved[name, "hybrid clip"] = full_weights(model)

        for way, resume in RESUME.items():
            model = sharded_model()
            optimizer = cls(model.parameters(), **options)
            train(model, optimizer, range(STEPS // 2))
            resumed = resume(model, optimizer, cls(model.parameters(), **options), folder / name)
            train(model, resumed, range(STEPS // 2, STEPS))
            saved[name, way] = full_weights(model)
    return saved


def sharded_model(*, hybrid: bool = False) -> nn.Sequential:
    """Return the model shared out over the ranks, or over each half of them."""
    model = new_model()
    world = dist.get_world_size()
    dims = ("copies", "shares")  # which a mesh of two dimensions has to have
    mesh = (
        init_device_mesh("cpu", (2, world // 2), mesh_dim_names=dims)
        if hybrid
        else init_device_mesh("cpu", (world,))
    )
    fully_shard(model, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))
    return model


def full_weights(model: nn.Module) -> Tensors:
    return {name: cast("Any", p).full_tensor().detach() for name, p in model.named_parameters()}


def layout(model: nn.Module, optimizer: Any) -> dict[tuple[str, str], str]:
    """Describe each entry of the state: its type, how it is shared out, and what of it is here."""
    return {
        (name, key): describe(value)
        for name, p in model.named_parameters()
        for key, value in optimizer.state[p].items()
    }


def describe(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    text = f"{type(value).__name__} {value.dtype} {tuple(value.shape)}"
    if isinstance(value, DTensor):
        text += f" {value.placements} {value.device_mesh} {tuple(value.to_local().shape)}"
    return text


def resume_by_own_state_dict(_model: nn.Module, old: Any, new: Any, _folder: Path) -> Any:
    new.load_state_dict(old.state_dict())
    return new


def resume_from_whole_state(model: nn.Module, old: Any, new: Any, _folder: Path) -> Any:
    """Gather the state on rank 0 and share it out again."""
    gather = sd.StateDictOptions(full_state_dict=True, cpu_offload=True)
    share_out = sd.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    sd.set_optimizer_state_dict(
        model, new, sd.get_optimizer_state_dict(model, old, options=gather), options=share_out
    )
    return new


def resume_from_files(model: nn.Module, old: Any, new: Any, folder: Path) -> Any:
    """Save each rank's share of the state to a file of its own."""
    save({"optimizer": sd.get_optimizer_state_dict(model, old)}, checkpoint_id=folder)
    loaded = {"optimizer": sd.get_optimizer_state_dict(model, new)}
    load(loaded, checkpoint_id=folder)
    sd.set_optimizer_state_dict(model, new, loaded["optimizer"])
    return new


RESUME: dict[str, Callable[[nn.Module, Any, Any, Path], Any]] = {
    "own state_dict": resume_by_own_state_dict,
    "whole state": resume_from_whole_state,
    "files": resume_from_files,
}


def elements(state: Any) -> int:
    """Return how many elements the state has, without the scalars."""
    values = [value for entries in state.values() for value in entries.values()]
    return sum(value.numel() for value in values if isinstance(value, torch.Tensor) and value.dim())


# --- Sums over all of a parameter, of which each process has a part ---

SHARDED: dict[str, Options] = {
    "LAMB": {"lr": 0.05},
    "NovoGrad": {"lr": 0.05, "weight_decay": 0.1},
    "StableAdamW": {"lr": 0.05},
    "Prodigy": {"d0": 0.01, "d_coef": 8.0},
    "Adam": {"lr": 0.05, "cautious": True},
    "ScheduleFreeSGD": {"lr": 0.1},
}
SHAPES = [(7, 3), (1, 5), (4, 2), (3,)]  # of the second, all ranks but one have none
EVEN = 4  # rows, which all ranks have as many of


def random(seed: int, shape: Any) -> Any:
    """With a lean in gradients, so that Prodigy finds a direction."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator) + (seed >= 100) * 1.5


def whole(name: str, clip_norm: float | None = None) -> Tensors:
    """The end of a run in one process."""
    return run(name, lambda tensor: tensor, clip_norm)


def sharded(name: str, placement: Any, mesh: Any, clip_norm: float | None = None) -> Tensors:
    """The same with a part of each parameter in each process."""

    def share(tensor: Any) -> Any:
        rows = -(-tensor.shape[0] // mesh.size())
        part = tensor[mesh.get_rank() * rows :][:rows]
        placements = [placement if tensor.shape[0] == EVEN else Shard(0)]
        return DTensor.from_local(
            part, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )

    found = run(name, share, clip_norm)
    return {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in found.items()}


def run(name: str, share: Callable[[Any], Any], clip_norm: float | None) -> Tensors:
    """Some steps; parameters, which end as an average where the rule has one, and their state."""
    p = [nn.Parameter(share(random(i, shape))) for i, shape in enumerate(SHAPES)]
    optimizer = getattr(ft, name)(p, **SHARDED[name], clip_norm=clip_norm)
    for t in range(4):
        for i, q in enumerate(p):
            absent = t == 1 and i == 2 and name != "Prodigy"
            q.grad = None if absent else share(random(100 + 10 * t + i, q.shape))
        optimizer.step()
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    found = {f"p {i}": q.detach() for i, q in enumerate(p)}
    return found | {f"{key} {i}": value for i, q in enumerate(p) for key, value in optimizer.state[q].items()}


def sums(_: Path) -> Saved:
    """Rules whose steps depend on sums; one parameter as FSDP2 shards it over tensor parallelism."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    strided = _StridedShard(0, split_factor=1)
    saved: Saved = {(name, "sums"): sharded(name, Shard(0), mesh) for name in SHARDED}
    saved |= {(name, "sums strided"): sharded(name, strided, mesh) for name in ("NovoGrad", "LAMB")}
    saved |= {("LAMB", "sums clip"): sharded("LAMB", Shard(0), mesh, 0.5)}
    return saved


def run_as_rank(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=(folder / "rendezvous").as_uri(),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=TIMEOUT),
    )
    saved: Saved = {}
    for part in (data_parallel, fully_sharded, sums):
        saved |= part(folder)
    torch.save(saved, folder / f"{rank}.pt")
    dist.destroy_process_group()


def main(world: int, folder: Path) -> None:
    """Run all ranks; where processes can fork, they share what is imported here."""
    start_method = "fork" if hasattr(os, "fork") else "spawn"
    start_processes(run_as_rank, (world, folder), world, start_method=start_method)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))

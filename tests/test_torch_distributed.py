"""Training in several processes: DistributedDataParallel, ZeRO and FSDP2, each against one process.

The ranks are processes of their own: this file run as a script, once per rank. A rank saves what a test
wants to know as ``RANK.pt``; each group of ranks runs once, for all the tests that ask for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest

torch = pytest.importorskip("torch")
dist = pytest.importorskip("torch.distributed")
if not dist.is_available():
    pytest.skip("torch without torch.distributed", allow_module_level=True)

from torch import nn  # noqa: E402

import fusedstep.torch as ft  # noqa: E402

Tensors: TypeAlias = dict[str, Any]  # of tensors by name
Saved: TypeAlias = dict[tuple[str, str], Any]  # by optimizer and what it is

EXAMPLES = Path(__file__).parent.parent / "examples"
TIMEOUT = 120  # seconds, of each group of processes
STEPS = 6
ROWS = 8
CLIP = 0.05
OPTIONS: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "NAdam": {"lr": 0.01},
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
}
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # the steps move weights by 0.1 and more

names = pytest.mark.parametrize("name", OPTIONS)
worlds = pytest.mark.parametrize("world", [2, 4])


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


# What the ranks do.


def data_parallel(_: Path) -> Saved:
    """DDP with the state on all ranks, with clipping, and with ZeRO, for each class."""
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

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
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

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
    from torch.distributed.tensor import DTensor

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
    from torch.distributed.checkpoint import state_dict as sd

    gather = sd.StateDictOptions(full_state_dict=True, cpu_offload=True)
    share_out = sd.StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    sd.set_optimizer_state_dict(
        model, new, sd.get_optimizer_state_dict(model, old, options=gather), options=share_out
    )
    return new


def resume_from_files(model: nn.Module, old: Any, new: Any, folder: Path) -> Any:
    """Save each rank's share of the state to a file of its own."""
    from torch.distributed.checkpoint import state_dict as sd
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save

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


GROUPS: dict[str, Callable[[Path], Saved]] = {f.__name__: f for f in (data_parallel, fully_sharded)}


def run_as_rank(group: str, rank: str, world: str, folder: str) -> None:
    dist.init_process_group(
        "gloo",
        init_method=(Path(folder) / "rendezvous").as_uri(),
        rank=int(rank),
        world_size=int(world),
        timeout=timedelta(seconds=TIMEOUT),
    )
    torch.save(GROUPS[group](Path(folder)), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


# The tests.


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "FUSEDSTEP_NUM_THREADS": "1"}


def failure(commands: list[list[str]], folder: Path) -> str:
    """Run the commands at once, end all when one fails or time is up, and return what they wrote if so."""
    logs = [folder / f"{i}.log" for i in range(len(commands))]
    processes: list[subprocess.Popen[bytes]] = []
    end = time.monotonic() + TIMEOUT
    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("wb") as file:
                processes.append(
                    subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment())
                )
        while any(process.poll() is None for process in processes):
            if time.monotonic() > end or any(process.poll() for process in processes):
                break
            time.sleep(0.05)
        codes = [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(codes) or None in codes:
        return f"exit codes {codes}\n" + "\n".join(log.read_text() for log in logs)
    return ""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], list[Saved]]:
    """Return what each rank of a group saved."""

    @cache  # of a failure too, which may have taken as long as it was let
    def outcome(group: str, world: int) -> tuple[str, Path]:
        folder = tmp_path_factory.mktemp(group)
        commands = [
            [sys.executable, __file__, group, str(rank), str(world), str(folder)] for rank in range(world)
        ]
        return failure(commands, folder), folder

    def saved(group: str, world: int) -> list[Saved]:
        why, folder = outcome(group, world)
        assert not why, why
        return [torch.load(folder / f"{rank}.pt") for rank in range(world)]

    return saved


Ranks: TypeAlias = Callable[[str, int], list[Saved]]


@cache
def one_process(name: str, clip_norm: float | None = None) -> Tensors:
    model = new_model()
    train(model, getattr(ft, name)(model.parameters(), **OPTIONS[name], clip_norm=clip_norm), range(STEPS))
    return weights(model)


def assert_same_bits(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@names
def test_the_tolerance_is_far_below_what_the_steps_and_the_clipping_change(name: str) -> None:
    for other in (weights(new_model()), one_process(name, CLIP)):
        difference = max(float((w - other[key]).abs().max()) for key, w in one_process(name).items())
        assert difference > 100 * ROUNDING["atol"]


@worlds
@names
def test_ddp_trains_as_one_process_does(ranks: Ranks, name: str, world: int) -> None:
    first, *others = ranks("data_parallel", world)
    torch.testing.assert_close(first[name, "ddp"], one_process(name), **ROUNDING)
    torch.testing.assert_close(first[name, "ddp clip"], one_process(name, CLIP), **ROUNDING)
    for other in others:
        for key in ("ddp", "ddp clip", "ddp state"):
            assert_same_bits(other[name, key], first[name, key])


@worlds
@names
def test_zero_has_ddps_bits_and_each_rank_a_share_of_the_state(ranks: Ranks, name: str, world: int) -> None:
    all_ranks = ranks("data_parallel", world)
    first = all_ranks[0]
    for rank in all_ranks:
        assert_same_bits(rank[name, "zero"], first[name, "ddp"])
    held = [rank[name, "zero elements"] for rank in all_ranks]
    assert sum(held) == elements(first[name, "ddp state"])
    assert all(0 < n < sum(held) for n in held)
    assert_same_bits(first[name, "zero state"], first[name, "ddp state"])


@worlds
@names
def test_fsdp_trains_as_one_process_does(ranks: Ranks, name: str, world: int) -> None:
    for rank in ranks("fully_sharded", world):
        torch.testing.assert_close(rank[name, "fsdp"], one_process(name), **ROUNDING)


@worlds
@names
def test_fsdp_clips_by_the_norm_over_all_ranks(ranks: Ranks, name: str, world: int) -> None:
    for rank in ranks("fully_sharded", world):
        torch.testing.assert_close(rank[name, "clip"], rank[name, "torch clip"], **ROUNDING)
        torch.testing.assert_close(rank[name, "clip"], one_process(name, CLIP), **ROUNDING)
        torch.testing.assert_close(rank[name, "hybrid clip"], one_process(name, CLIP), **ROUNDING)


@worlds
@names
def test_fsdp_state_is_laid_out_as_torchs(ranks: Ranks, name: str, world: int) -> None:
    for rank in ranks("fully_sharded", world):
        assert rank[name, "layout"] == rank[name, "torch layout"]
        assert any("DTensor" in text for text in rank[name, "layout"].values())


@worlds
@names
@pytest.mark.parametrize("way", RESUME)
def test_fsdp_resumes_with_the_same_bits(ranks: Ranks, name: str, world: int, way: str) -> None:
    for rank in ranks("fully_sharded", world):
        assert_same_bits(rank[name, way], rank[name, "fsdp"])


@pytest.mark.source
def test_example_zero_has_example_ddps_bits(tmp_path: Path) -> None:
    for example in ("ddp", "zero", "fsdp2"):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        script = [str(EXAMPLES / f"{example}.py"), "--out", str(tmp_path / f"{example}.pt")]
        assert not (why := failure([torchrun + script], tmp_path)), why
    ddp, zero, fsdp2 = (torch.load(tmp_path / f"{example}.pt") for example in ("ddp", "zero", "fsdp2"))
    assert_same_bits(zero, ddp)
    torch.testing.assert_close(fsdp2, ddp, **ROUNDING)


@pytest.mark.source
def test_example_gpt_runs(tmp_path: Path) -> None:
    sizes = ["--steps", "2", "--layers", "1", "--width", "16"]
    assert not (why := failure([[sys.executable, str(EXAMPLES / "gpt.py"), *sizes]], tmp_path)), why
    assert "fusedstep" in (tmp_path / "0.log").read_text()


if __name__ == "__main__":
    run_as_rank(*sys.argv[1:])

"""Training in several processes: DistributedDataParallel, ZeRO and FSDP2, each against one process.

What the processes do is in helpers/torch_ranks.py. They run once for each number of them, for all tests.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest

torch = pytest.importorskip("torch")
dist = pytest.importorskip("torch.distributed")
if not dist.is_available():
    pytest.skip("torch without torch.distributed", allow_module_level=True)

from torch.distributed.tensor import Shard  # noqa: E402

import fusedstep.torch as ft  # noqa: E402
from fusedstep.torch import distributed  # noqa: E402
from tests.helpers import torch_examples, torch_ranks  # noqa: E402
from tests.helpers.torch_ranks import (  # noqa: E402
    CLIP,
    OPTIONS,
    RESUME,
    SHAPES,
    SHARDED,
    STEPS,
    TIMEOUT,
    Saved,
    Tensors,
    elements,
    new_model,
    random,
    train,
    weights,
    whole,
)

# All on one worker of pytest-xdist, which starts the processes once.
pytestmark = pytest.mark.xdist_group("processes")

EXAMPLES = Path(__file__).parents[2] / "examples"
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # the steps move weights by 0.1 and more

names = pytest.mark.parametrize("name", OPTIONS)
worlds = pytest.mark.parametrize("world", [2, 4])


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "FUSEDSTEP_NUM_THREADS": "1"}


def run(*arguments: str) -> tuple[bool, str]:
    """Run Python with these arguments: whether it ended well and in time, and what it wrote."""
    try:
        ended = subprocess.run(
            [sys.executable, *arguments],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return False, f"after {TIMEOUT} s\n{error.output}"
    return ended.returncode == 0, f"exit code {ended.returncode}\n{ended.stdout}"


Ranks: TypeAlias = Callable[[int], list[Saved]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    """Return what each rank of so many saved."""

    @cache  # of a failure too, which may have taken as long as it was let
    def outcome(world: int) -> tuple[bool, str, Path]:
        folder = tmp_path_factory.mktemp("ranks")
        return *run(torch_ranks.__file__, str(world), str(folder)), folder

    @cache
    def saved(world: int) -> list[Saved]:
        well, text, folder = outcome(world)
        assert well, text
        return [torch.load(folder / f"{rank}.pt") for rank in range(world)]

    return saved


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
    first, *others = ranks(world)
    torch.testing.assert_close(first[name, "ddp"], one_process(name), **ROUNDING)
    torch.testing.assert_close(first[name, "ddp clip"], one_process(name, CLIP), **ROUNDING)
    for other in others:
        for key in ("ddp", "ddp clip", "ddp state"):
            assert_same_bits(other[name, key], first[name, key])


@worlds
@names
def test_zero_has_ddps_bits_and_each_rank_a_share_of_the_state(ranks: Ranks, name: str, world: int) -> None:
    all_ranks = ranks(world)
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
    for rank in ranks(world):
        torch.testing.assert_close(rank[name, "fsdp"], one_process(name), **ROUNDING)


@worlds
@names
def test_fsdp_clips_by_the_norm_over_all_ranks(ranks: Ranks, name: str, world: int) -> None:
    for rank in ranks(world):
        torch.testing.assert_close(rank[name, "clip"], rank[name, "torch clip"], **ROUNDING)
        torch.testing.assert_close(rank[name, "clip"], one_process(name, CLIP), **ROUNDING)
        torch.testing.assert_close(rank[name, "hybrid clip"], one_process(name, CLIP), **ROUNDING)


@worlds
@names
def test_fsdp_state_is_laid_out_as_torchs(ranks: Ranks, name: str, world: int) -> None:
    for rank in ranks(world):
        assert rank[name, "layout"] == rank[name, "torch layout"]
        assert any("DTensor" in text for text in rank[name, "layout"].values())


@worlds
@names
@pytest.mark.parametrize("way", RESUME)
def test_fsdp_resumes_with_the_same_bits(ranks: Ranks, name: str, world: int, way: str) -> None:
    for rank in ranks(world):
        assert_same_bits(rank[name, way], rank[name, "fsdp"])


@worlds
@pytest.mark.parametrize("name", SHARDED)
def test_sums_are_over_all_processes(ranks: Ranks, name: str, world: int) -> None:
    """And counts: to rounding, what one process does, also where a process has no part of a parameter."""
    for saved in ranks(world):
        found = {
            kind: tensors
            for (other, kind), tensors in saved.items()
            if (other, "sums" in kind) == (name, True)
        }
        assert "sums" in found
        for kind, tensors in found.items():
            expected = whole(name, 0.5 if kind == "sums clip" else None)
            assert tensors.keys() == expected.keys()
            for key, value in expected.items():
                assert torch.allclose(tensors[key], value, rtol=1e-6, atol=1e-9), (kind, key)
    moved = [(whole(name)[f"p {i}"] - random(i, shape)).abs().max() for i, shape in enumerate(SHAPES)]
    assert math.isfinite(max(moved))
    assert max(moved) > 0.05


@pytest.mark.source
def test_example_zero_has_example_ddps_bits(tmp_path: Path) -> None:
    examples = [str(EXAMPLES / f"{example}.py") for example in ("ddp", "zero", "fsdp2")]
    well, text = run(torch_examples.__file__, str(tmp_path), *examples)
    assert well, text
    ddp, zero, fsdp2 = (torch.load(tmp_path / f"{example}.pt") for example in ("ddp", "zero", "fsdp2"))
    assert_same_bits(zero, ddp)
    torch.testing.assert_close(fsdp2, ddp, **ROUNDING)


@pytest.mark.source
def test_example_gpt_runs() -> None:
    well, text = run(str(EXAMPLES / "gpt.py"), "--steps", "2", "--layers", "1", "--width", "16")
    assert well, text
    assert "fusedstep" in text


@pytest.mark.parametrize("norm", [0.0, 5e-324, 1e-170, 3.0, 1e170, 1e307])
def test_the_norm_over_processes_keeps_its_range(norm: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes with parts of the same norm, whose square may be no number of float64."""

    class Mesh:
        def get_group(self, dim: int) -> int:
            return dim

    class Part:
        device_mesh = Mesh()
        placements = (Shard(0),)

        def to_local(self) -> None: ...

    def all_reduce(part: Any, group: int) -> None:
        del group
        part.mul_(2)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    assert distributed.global_norm([Part()], norm) == pytest.approx(math.sqrt(2) * norm, rel=1e-15)

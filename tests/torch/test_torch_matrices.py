"""What only the rules have whose step is made of whole matrices: Muon, Adafactor and their like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.torch_rules import (
    CLASSES,
    FLOAT32,
    FLOAT64,
    Beside,
    InNumpy,
    Options,
    Tensor,
    Unchanged,
    all_parameters,
    assert_alike,
    assert_same,
    ft,
    give,
    options_of,
    parameter,
    random,
    several,
    step,
    torch,
    torchs,
    train,
)

OTHERS: list[tuple[int, ...]] = [(9,), (), (2, 3, 4), (4103,), (0,)]
DIRECTIONS = [name for name in CLASSES if hasattr(getattr(ft, name).rule, "update_matrix")]


@pytest.mark.parametrize(
    "options", [{}, {"beta1": 0.5, "beta2": 0.75, "lr": 0.1}, {"weight_decay": 0.5}], ids=str
)
def test_all_else_steps_as_adamw(options: Options) -> None:
    """To the bit; and matrices too, of groups that have none."""
    shapes = [*OTHERS, (70, 67), (5, 3)]
    p, q = several(FLOAT32, shapes), several(FLOAT32, shapes)
    cut = len(OTHERS)
    ours = ft.Muon([{"params": p[:cut]}, {"params": p[cut:], "matrices": False}], **options)
    beta1, beta2 = options.get("beta1", 0.9), options.get("beta2", 0.999)
    adamw = ft.AdamW(
        q, lr=options.get("lr", 1e-3), betas=(beta1, beta2), weight_decay=options.get("weight_decay", 0.1)
    )
    for t in range(5):
        for x, optimizer in ((p, ours), (q, adamw)):
            give(x, t, t)
            optimizer.step()
    for a, b in zip(p, q, strict=True):
        assert torch.equal(a, b)
        assert_same(ours.state[a], adamw.state[b])


def test_groups_that_are_added_to_muon() -> None:
    """Of any shape, and with the defaults of the others."""
    shapes: list[tuple[int, ...]] = [(6, 11), (5, 3), (7,), (4, 4)]
    p, q = several(FLOAT32, shapes), several(FLOAT32, shapes)
    ours = ft.Muon(p[:1], lr=0.1, beta1=0.5)
    ours.add_param_group({"params": p[1:3]})
    ours.add_param_group({"params": p[3:], "matrices": False})
    found = [(group["matrices"], group["beta1"], group["lr"]) for group in ours.param_groups]
    assert found == [(True, 0.5, 0.1), (True, 0.5, 0.1), (False, 0.5, 0.1)]
    groups = [{"params": q[:1]}, {"params": q[1:3]}, {"params": q[3:], "matrices": False}]
    theirs = InNumpy(groups, "Muon", ours.defaults)
    for t in range(3):
        train(ours, t, t + 1)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)


def test_groups_of_adafactor() -> None:
    """With options of their own; one is added, and begins."""
    shapes: list[tuple[int, ...]] = [
        (7, 5),
        (5, 7),
        (1, 9),
        (9, 1),
        (70, 130),
        (2, 3, 4),
        (2, 2, 3, 4),
        (33,),
        (),
    ]

    def groups() -> list[Options]:
        p = several(FLOAT64, shapes)
        return [{"params": p[:4], "lr": 0.5}, {"params": p[4:6], "eps": (0.5, 0.1), "d": 2.0}]

    beside = Beside("Adafactor", groups, weight_decay=0.1)
    for t in range(4):
        if t == 2:
            for optimizer in beside.all():
                more = several(FLOAT64, shapes)[6:]
                optimizer.add_param_group({"params": more, "lr": 0.2, "maximize": True})
        beside.step(t)
    assert [float(beside.ours.state[p]["step"]) for p in beside.mine] == [4.0] * 6 + [2.0] * 3


@pytest.mark.parametrize("options", [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}], ids=str)
def test_groups_of_muon_with_gradients_that_are_missing(options: Options) -> None:
    """Each parameter counts its own steps, whatever its group and kernel."""
    shapes: list[tuple[int, ...]] = [(70, 67), (6, 11), (11, 6), (1, 9), (9, 1), (0, 4), (3, 0), *OTHERS]

    def groups() -> list[Options]:
        p = several(FLOAT32, shapes)
        return [
            {"params": p[::3], "lr": 0.02},
            {"params": p[1::3], "lr": 0.05, **options},
            {"params": p[2::3], "lr": 0.01, "matrices": False, "beta1": 0.5},
        ]

    beside = Beside("Muon", groups)
    beside.others = beside.others[1:]  # to the bits of NumPy
    for t in range(5):
        beside.step(t, *(i for i in range(len(shapes)) if (i + t) % 4 == 0 or t == 3))


# --- Two dtypes, whose eps would differ ---


def two_dtypes() -> list[Tensor]:
    return [parameter(3, 4, seed=i, dtype=dtype) for i, dtype in enumerate((FLOAT32, FLOAT64))]


def test_two_dtypes_of_a_group() -> None:
    """An error, but with an eps that is given; torch takes that of the first for all."""
    with pytest.raises(TypeError, match="dtype"):
        ft.Adafactor(two_dtypes())
    for groups in (two_dtypes, lambda: [{"params": [p]} for p in two_dtypes()]):
        options: Options = {"eps": (1e-4, 1e-3)} if groups is two_dtypes else {}
        ours = ft.Adafactor(groups(), **{**options_of("Adafactor"), **options})
        theirs = torchs("Adafactor", groups(), **options)
        for optimizer in (ours, theirs):
            train(optimizer, 0, 3)
        assert_alike(ours, theirs)
    with pytest.raises(TypeError, match="dtype"):
        ours.add_param_group({"params": two_dtypes()})
    assert len(ours.param_groups) == 2


def test_two_dtypes_whose_eps_becomes_none() -> None:
    """It would be that of any: an error, as it is for a new group."""
    ours = ft.Adafactor(two_dtypes(), eps=(1e-4, 1e-3))
    train(ours, 0, 1)
    give(all_parameters(ours), 1)
    ours.param_groups[0]["eps"] = (None, 1e-3)
    with Unchanged(ours), pytest.raises(TypeError, match="dtype"):
        ours.step()


# --- A part of a matrix has no direction ---


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Of this process alone."""
    dist = torch.distributed
    if not dist.is_available():
        pytest.skip("torch without torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("name", DIRECTIONS)
def test_distributed_matrices_are_errors(name: str, mesh: Any) -> None:
    """Before anything is written; without a gradient it is no matter."""
    from torch.distributed.tensor import Shard, distribute_tensor

    def share(tensor: Tensor) -> Tensor:
        return distribute_tensor(tensor, mesh, [Shard(0)])

    plain, vector = parameter(3, 3), torch.nn.Parameter(share(random(5, seed=2)))
    p = torch.nn.Parameter(share(random(6, 4, seed=1)))
    ours = getattr(ft, name)([plain, p, vector])
    give([plain], 0)
    step(ours)
    state = {key: value.clone() for key, value in ours.state[plain].items()}
    before = plain.detach().clone()
    give([plain], 1)
    p.grad = share(random(6, 4, seed=3))
    with pytest.raises(RuntimeError, match=r"parameter 1 of group 0.*DTensor"):
        step(ours)
    assert torch.equal(plain, before)
    assert torch.equal(p.full_tensor(), random(6, 4, seed=1))
    assert_same(ours.state[plain], state)
    assert p not in ours.state


def test_distributed_matrices_may_step_as_adamw(mesh: Any) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    q = [parameter(6, 4, seed=1), parameter(5, seed=2)]
    p = [torch.nn.Parameter(distribute_tensor(x.detach().clone(), mesh, [Shard(0)])) for x in q]
    ours, alone = ft.Muon(p, matrices=False), ft.AdamW(q, weight_decay=0.1)
    give(q, 1)
    for x, y in zip(p, q, strict=True):
        x.grad = distribute_tensor(y.grad.clone(), mesh, [Shard(0)])
    ours.step()
    alone.step()
    assert all(torch.equal(x.full_tensor(), y) for x, y in zip(p, q, strict=True))

"""torch's schedulers set lr and momentum of every class."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.torch_rules import (
    KINDS,
    OWN,
    Beside,
    Optimizer,
    Tensor,
    ft,
    parameter,
    several,
    torch,
)

schedulers = torch.optim.lr_scheduler


def cycle(optimizer: Optimizer) -> bool:
    return bool({"momentum", "betas"} & optimizer.defaults.keys())


SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 1 / (1 + epoch)),
    "StepLR": lambda o: schedulers.StepLR(o, step_size=2),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, milestones=[2, 5]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, total_iters=3),
    "LinearLR": schedulers.LinearLR,
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, gamma=0.8),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o), schedulers.ExponentialLR(o, gamma=0.8)], milestones=[4]
    ),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=6),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o), schedulers.ExponentialLR(o, gamma=0.8)]
    ),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=2),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=cycle(o)),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=4),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=10, cycle_momentum=cycle(o)),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=6),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.001, anneal_epochs=4),
}
# A momentum to cycle, none, betas, a number in the state, matrices, sums; every class meets a few of them.
MANY = ("SGD", "Adagrad", "Adam", "NAdam", "Adafactor", "Muon", "LAMB")
FEW = ("SequentialLR", "ExponentialLR", "CyclicLR", "OneCycleLR")
CASES = {*itertools.product(MANY, SCHEDULERS), *itertools.product(KINDS, FEW)}


def test_every_scheduler_of_torch_is_here() -> None:
    assert set(schedulers.__all__) - {"LRScheduler"} <= SCHEDULERS.keys()


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # of SequentialLR itself
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize(("name", "scheduler"), sorted(CASES))
def test_schedulers(name: str, scheduler: str, tensor_lr: bool) -> None:
    """Of the same lr and momentum as the oracle's at every step, and so of the same numbers."""
    lr = torch.tensor(0.05) if tensor_lr else 0.05
    beside = Beside(name, lambda: several(shapes=[(11, 6), (5,)]), tensor_lr=tensor_lr, lr=lr)
    made = [SCHEDULERS[scheduler](optimizer) for optimizer in beside.all()]
    seen = set()
    for t in range(9):
        beside.step(t)
        for each in made:
            each.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
        mine, *others = (optimizer.param_groups[0] for optimizer in beside.all())
        for other in others:
            assert mine["lr"] == other["lr"]
            assert mine.get("betas", mine.get("momentum")) == other.get("betas", other.get("momentum"))
        seen.add(float(mine["lr"]))
    assert len(seen) > (5 if scheduler in {"SequentialLR", "ExponentialLR"} else 1)


@pytest.mark.parametrize("name", [*OWN, "SGD", "Adam"])
def test_under_a_cycle(name: str) -> None:
    """Two schedulers at once, which cycle lr and momentum where there is one; the loss falls."""
    p = parameter(5, dtype=torch.float32)
    optimizer = getattr(ft, name)([p], lr=0.01)
    assert isinstance(optimizer, torch.optim.Optimizer)
    cycles = cycle(optimizer)
    assert cycles or name in {"RMSProp", "RowwiseAdagrad", "SignSGD", "Ftrl"}
    made = [
        schedulers.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3, cycle_momentum=cycles),
        schedulers.OneCycleLR(optimizer, 0.1, total_steps=10, cycle_momentum=cycles),
    ]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    before = closure().item()
    for _ in range(6):
        optimizer.step(closure)
        for scheduler in made:
            scheduler.step()
    assert closure().item() < before or name == "Ftrl"  # whose first step is to a point of its own

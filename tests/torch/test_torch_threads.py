"""Threads at once, with and without the GIL: of their own optimizers, and of one that they share."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import fusedstep.torch as ft  # noqa: E402
from tests.helpers.threads import STEPS, THREADS, at_once, attempted  # noqa: E402

KINDS: dict[str, dict[str, Any]] = {
    "AdamW": {"clip_norm": 1.0},
    "SGD": {"momentum": 0.9},
    "Adafactor": {},
    "Muon": {},
    "LAMB": {},
    "Prodigy": {},
}


@pytest.mark.parametrize("name", KINDS)
def test_own_optimizers(name: str) -> None:
    """The same bits as one after the other."""

    def trained(seed: int) -> list[Any]:
        made = torch.Generator().manual_seed(seed)
        shapes = [(40, 300), (30, 20)] if name == "Muon" else [(40, 300), (33,)]
        p = [torch.nn.Parameter(torch.randn(*shape, generator=made)) for shape in shapes]
        opt = getattr(ft, name)(p, **KINDS[name])
        for _ in range(5):
            for a in p:
                a.grad = torch.randn(a.shape, generator=made)
            opt.step()
        return [a.detach() for a in p]

    expected = [trained(seed) for seed in range(THREADS)]
    found: dict[int, list[Any]] = {}
    at_once([lambda seed=seed: found.update({seed: trained(seed)}) for seed in range(THREADS)])  # type: ignore[misc]
    for seed, arrays in enumerate(expected):
        for a, b in zip(found[seed], arrays, strict=True):
            assert torch.equal(a, b)


def test_one_optimizer() -> None:
    """A step is whole or refused: weights and count are those of as many steps as were done."""
    p = torch.nn.Parameter(torch.zeros(5000))
    p.grad = torch.ones(5000)
    opt = ft.Momentum([p], lr=1.0, momentum=0.0)
    done: list[int] = []
    at_once([lambda: done.append(sum(attempted(opt.step) for _ in range(STEPS)))] * THREADS)
    assert sum(done) > 0
    assert (p == -sum(done)).all()


def test_loading_beside_steps() -> None:
    """A state that is replaced while it is looked up is the old one or the new one."""
    p = [torch.nn.Parameter(torch.zeros(50)) for _ in range(20)]
    for a in p:
        a.grad = torch.ones(50)
    opt = ft.Adagrad(p, lr=1.0)
    opt.step()
    saved = opt.state_dict()

    def step() -> None:
        for _ in range(STEPS):
            attempted(opt.step)

    def load() -> None:
        for _ in range(STEPS):
            opt.load_state_dict(saved)

    at_once([step, load, step])
    for a in p:
        assert torch.isfinite(a).all()
    for state in opt.state_dict()["state"].values():
        assert (state["sum"] >= 1).all()

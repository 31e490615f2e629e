"""Gradients released: each parameter steps as soon as its gradient is there, and the gradient goes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.torch_rules import CLASSES, assert_same, ft, new, tensors_of, torch

LAYERS = 6
WIDTH = 40


def model(seed: int = 0, width: int = WIDTH) -> Any:
    torch.manual_seed(seed)
    layers = [
        torch.nn.Sequential(torch.nn.Linear(WIDTH, width), torch.nn.Tanh(), torch.nn.Linear(width, WIDTH))
    ]
    layers += [torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh()) for _ in range(LAYERS - 2)]
    return torch.nn.Sequential(*layers)


def train(net: Any, optimizer: Any, steps: int = 5) -> None:
    for t in range(steps):
        x = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(t))
        optimizer.zero_grad()
        (net(x) - x.roll(1)).square().mean().backward()
        optimizer.step()


def refuses(name: str) -> str | None:
    """What a class says that cannot have its gradients released."""
    if getattr(ft, name).rule.needs_loss:
        return "loss"
    return name if name == "Prodigy" else None  # whose sums are over all of a group


@pytest.mark.parametrize("width", [WIDTH, 60])
@pytest.mark.parametrize("name", [name for name in CLASSES if refuses(name) is None])
def test_released_gradients_give_the_same_bits(name: str, width: int) -> None:
    plain, released = model(width=width), model(width=width)
    other = new(name, plain.parameters(), lr=0.01)
    train(plain, other)
    optimizer = new(name, released.parameters(), lr=0.01)
    with ft.release_gradients(released, optimizer):
        train(released, optimizer)
        assert all(p.grad is None for p in released.parameters())
    assert_same(tensors_of(optimizer), tensors_of(other))
    train(released, optimizer, 1)  # as before
    assert all(p.grad is not None for p in released.parameters())


def test_no_two_gradients_at_a_time() -> None:
    net = model()
    optimizer = ft.AdamW(net.parameters())
    alive = []

    def count(_: Any) -> None:
        alive.append(sum(p.grad is not None for p in net.parameters()))

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(count)  # runs before the one that steps
    with ft.release_gradients(net.parameters(), optimizer):
        train(net, optimizer, 1)
    assert alive == [1] * len(list(net.parameters()))


@pytest.mark.parametrize("name", [name for name in CLASSES if refuses(name) is not None])
def test_what_needs_more_than_one_gradient(name: str) -> None:
    net = model()
    with pytest.raises(ValueError, match=refuses(name)):
        ft.release_gradients(net, new(name, net.parameters()))


def test_what_cannot_be_released() -> None:
    net = model()
    with pytest.raises(TypeError, match="of fusedstep"):
        ft.release_gradients(net, torch.optim.SGD(net.parameters()))
    with pytest.raises(ValueError, match="clip_norm"):
        ft.release_gradients(net, ft.SGD(net.parameters(), clip_norm=1.0))
    with pytest.raises(ValueError, match="no parameter"):
        ft.release_gradients(model(), ft.SGD(net.parameters()))

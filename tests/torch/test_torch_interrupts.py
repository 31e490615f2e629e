"""A step of torch's optimizers is a transaction: parameters, state, gradients, norm change all or not at all.

Every class, at its first step, where the state is made, and at a later one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers.interrupts import FEWER, Seen, Trial, at_every_event, printed
from tests.helpers.torch_rules import (
    BFLOAT16,
    CLASSES,
    COMPLEX,
    COMPLEX64,
    FLOAT32,
    FLOAT64,
    Optimizer,
    Tensor,
    bits,
    each_class,
    fits,
    new,
    parameter,
    random,
    step,
    torch,
)

NUMBER = {name: i for i, name in enumerate(CLASSES)}
KINDS = ["Adam", "NAdam", "ASGD", "Eve", "Prodigy", "NovoGrad", "LAMB", "RowwiseAdagrad", "Adafactor", "Muon"]
"""Numbers an element; a number a tensor that is torch's; a number a group, and the loss; sums; matrices."""

Parameters = Callable[[], list[Tensor]]

each_kind = pytest.mark.parametrize("name", KINDS)


class Failure(Exception):  # noqa: N818
    """What no one but these tests raises, and an `except Exception` would catch."""


def flat(name: str, tree: Any) -> Seen:
    """Copies of the tensors in dictionaries and lists, as integers, and all else as it prints."""
    if torch.is_tensor(tree):
        tree = tree.detach()
        dense = tree.to_dense() if tree.layout != torch.strided else tree
        kept = bits(dense).numpy().copy() if dense.numel() else np.zeros(0)
        return {name: kept, f"form of {name}": printed((tree.dtype, tree.shape, tree.layout))}
    if not isinstance(tree, dict | list):
        return {name: printed(tree)}
    items = tree if isinstance(tree, dict) else dict(enumerate(tree))
    found = {f"names in {name}": printed(list(items))}
    for key, value in items.items():
        found |= flat(f"{name}/{key}", value)
    return found


def dense(dtype: Any = FLOAT64) -> list[Tensor]:
    return [parameter(3, 4, dtype=dtype), parameter(5, seed=1, dtype=dtype)]


def strided() -> list[Tensor]:
    """By columns, and every other element."""
    made = random(4, 3, seed=0).t(), random(10, seed=1)[::2]
    return [torch.nn.Parameter(x) for x in made]


def gradient(p: Tensor, t: int, i: int, *, sparse: bool) -> Tensor:
    if sparse and i == 0:
        values = random(3, *p.shape[1:], seed=10 * t, dtype=p.dtype)
        return torch.sparse_coo_tensor(torch.tensor([[2, 0, 2]]), values, p.shape, check_invariants=True)
    return random(*p.shape, seed=10 * t + i, dtype=p.dtype, lean=0.5)


def stepping(
    name: str, parameters: Parameters = dense, *, steps: int = 1, sparse: bool = False, **options: Any
) -> Callable[[], Trial]:
    """A step after `steps` others, without a gradient for the last parameter at the first of them."""

    def make() -> Trial:
        tensors = parameters()
        groups = [{"params": tensors}] if options.get("clip_norm") else [{"params": [p]} for p in tensors]
        optimizer = new(name, groups, **options)

        def give(t: int) -> None:
            for i, p in enumerate(tensors):
                p.grad = gradient(p, t, i, sparse=sparse)

        def go_on() -> None:
            give(steps + 1)
            step(optimizer, 0.5)

        for t in range(steps):
            give(t)
            if t == 0:
                tensors[-1].grad = None
            step(optimizer, 2.0)
        give(steps)
        return Trial(lambda: step(optimizer), lambda: see(optimizer, tensors), go_on)

    return make


def see(optimizer: Optimizer, tensors: list[Tensor]) -> Seen:
    """All that a step may change; `state` may have entries that are empty, which is as if it had none."""
    state = {i: optimizer.state[p] for i, p in enumerate(tensors) if optimizer.state.get(p)}
    saved = optimizer.state_dict()
    saved["state"] = {i: entry for i, entry in saved["state"].items() if entry}
    gradients = [p.grad for p in tensors]
    everything = {"p": tensors, "state": state, "saved": saved, "gradients": gradients}
    return flat("", everything | {"norm": optimizer.grad_norm})


def pace(name: str, stride: int) -> dict[str, Any]:
    """Some of the events: from one that differs from class to class, every so many."""
    stride *= FEWER
    return {"first": 1 + NUMBER[name] % stride, "stride": stride}


@each_class
def test_a_step(name: str) -> None:
    """Of one group, clipped."""
    at_every_event(stepping(name, clip_norm=1.0), **pace(name, 1 if name in KINDS else 5))


@pytest.mark.parametrize(("name", "steps"), [("AdamW", 2), ("AdamW", 3), ("SGD", 3), ("SGD", 4)])
def test_steps_whose_coefficients_are_computed_ahead(name: str, steps: int) -> None:
    """The one that computes them, and the next, which has them."""
    at_every_event(stepping(name, steps=steps))


@each_class
def test_a_first_step(name: str) -> None:
    """Which makes the state, of two groups; with an exception that `except Exception` catches."""
    at_every_event(stepping(name, steps=0), error=Failure, **pace(name, 3 if name in KINDS else 5))


@each_kind
def test_a_step_at_instructions(name: str) -> None:
    at_every_event(stepping(name, clip_norm=1.0), opcodes=True, **pace(name, 41))


@each_kind
@pytest.mark.parametrize("steps", [0, 1])
def test_other_memory(name: str, steps: int) -> None:
    at_every_event(stepping(name, strided, steps=steps), **pace(name, 9))


@each_kind
@pytest.mark.parametrize("state_dtype", [None, FLOAT32], ids=str)
def test_16_bits(name: str, state_dtype: Any) -> None:
    if not fits(name, BFLOAT16):
        return
    make = stepping(name, lambda: dense(BFLOAT16), clip_norm=1.0, state_dtype=state_dtype)
    at_every_event(make, **pace(name, 11))


@pytest.mark.parametrize("name", [name for name in KINDS if name in COMPLEX])
@pytest.mark.parametrize("steps", [0, 1])
def test_complex_numbers(name: str, steps: int) -> None:
    at_every_event(stepping(name, lambda: dense(COMPLEX64), steps=steps), **pace(name, 7))


@pytest.mark.parametrize(("name", "options"), [("SGD", {"momentum": 0}), ("Adagrad", {})])
@pytest.mark.parametrize("steps", [0, 1])
def test_sparse_gradients(name: str, options: dict[str, Any], steps: int) -> None:
    make = stepping(name, steps=steps, sparse=True, clip_norm=1.0, weight_decay=0, **options)
    at_every_event(make, **pace(name, 7))

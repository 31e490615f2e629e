"""A gradient in state of one number, or of a row or column, is refused before anything is written."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.torch_rules import (
    CLASSES,
    FLOAT32,
    FLOAT64,
    Optimizer,
    Tensor,
    Unchanged,
    all_parameters,
    each_class,
    ft,
    give,
    new,
    parameter,
    step,
    torch,
    train,
)

# A matrix, and parameters of the shapes and dtypes that state smaller than it can have.
KINDS = [
    ((3, 4), FLOAT32),
    *[(shape, FLOAT32) for shape in [(), (1,), (3,), (4,), (3, 1), (1, 4)]],
    ((), FLOAT64),
]


def begun(name: str) -> Optimizer:
    """An optimizer after a step. The float64 parameter has a group of its own, which Adafactor asks for."""
    named = [(f"p{i}", parameter(*shape, seed=i, dtype=dtype)) for i, (shape, dtype) in enumerate(KINDS)]
    optimizer = new(name, [{"params": named[:-1]}, {"params": named[-1:]}])
    train(optimizer, 0, 1)
    give(all_parameters(optimizer), 1)
    return optimizer


def small_state(optimizer: Optimizer, i: int) -> dict[str, Tensor]:
    """The state of a parameter that is smaller than it."""
    p = all_parameters(optimizer)[i]
    state = optimizer.state[p]
    return {key: value for key, value in state.items() if torch.is_tensor(value) and value.shape != p.shape}


def takers(tensor: Tensor) -> list[int]:
    """The parameters whose gradient a tensor can be."""
    return [i for i, kind in enumerate(KINDS) if kind == (tuple(tensor.shape), tensor.dtype)]


def refused(optimizer: Optimizer, i: int, key: str, owner: int) -> None:
    match = f"the gradient of parameter 'p{i}' shares memory with state {key!r} of parameter 'p{owner}'; "
    with Unchanged(optimizer), pytest.raises(ValueError, match=match):
        step(optimizer)


@each_class
def test_a_gradient_that_is_small_state_of_a_matrix(name: str) -> None:
    """Also at the second try; with a copy, as the error says, the step is made."""
    optimizer = begun(name)
    parameters = all_parameters(optimizer)
    for key, value in small_state(optimizer, 0).items():
        for i in takers(value):
            usual, parameters[i].grad = parameters[i].grad, value
            for _ in range(2):
                refused(optimizer, i, key, 0)
            parameters[i].grad = value.clone()
            step(optimizer)
            parameters[i].grad = usual


def test_what_state_is_tried() -> None:
    """Counts, slots of the tensor, and of rows and columns."""
    keys = {name: {"step"} for name in CLASSES if name != "SGD"}
    keys |= {
        "Adafactor": {"step", "row_var", "col_var"},
        "RowwiseAdagrad": {"step", "s"},
        "NovoGrad": {"step", "v"},
    }
    for name, expected in keys.items():
        optimizer = begun(name)
        found = {key for key, value in small_state(optimizer, 0).items() if takers(value)}
        assert expected <= found, name


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "SGD"])
def test_a_gradient_around_a_count(name: str) -> None:
    """Of its own parameter."""
    optimizer = begun(name)
    p = all_parameters(optimizer)[3]
    memory = torch.ones(3)
    optimizer.state[p]["step"] = memory[1]
    p.grad = memory
    refused(optimizer, 3, "step", 3)


def test_the_values_of_a_sparse_gradient() -> None:
    p, q = (torch.nn.Parameter(torch.ones(4, 1)) for _ in range(2))
    optimizer = ft.Adagrad([("p0", p), ("p1", q)], lr=0.1)
    p.grad, q.grad = torch.ones(4, 1), torch.ones(4, 1)
    optimizer.step()
    values: Any = optimizer.state[p]["step"].view(1, 1)
    q.grad = torch.sparse_coo_tensor([[2]], values, (4, 1), check_invariants=False)
    refused(optimizer, 1, "step", 0)


@each_class
def test_state_of_a_parameter_that_is_not_stepped(name: str) -> None:
    """Nothing is written there."""
    optimizer = begun(name)
    parameters = all_parameters(optimizer)
    for value in small_state(optimizer, 0).values():
        for i in takers(value):
            parameters[0].grad, parameters[i].grad = None, value
            step(optimizer)

"""The schedule-free rules' two modes: parameters where gradients are taken, and their average."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.torch_rules import (
    FLOAT32,
    OWN,
    Options,
    assert_same,
    ft,
    give,
    several,
    through_a_file,
    to_numpy,
    torch,
)

SHAPES: list[tuple[int, ...]] = [(3, 5), (4103,), (), (0,), (40, 3), (7,)]

each_free = pytest.mark.parametrize("name", [name for name in OWN if hasattr(getattr(ft, name), "eval")])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.9, 0.3])
@each_free
def test_modes_are_numpys(name: str, beta: float, dtype: Any) -> None:
    """Within a rounding, which lies otherwise where z is nearer."""
    in_torch: Options = {"momentum": beta} if name == "ScheduleFreeSGD" else {"betas": (beta, 0.99)}
    in_numpy: Options = in_torch if name == "ScheduleFreeSGD" else {"beta1": beta, "beta2": 0.99}
    p = several(dtype, SHAPES)
    arrays = [to_numpy(q) for q in p]
    ours, theirs = getattr(ft, name)(p, lr=0.1, **in_torch), fs.rules[name](arrays, lr=0.1, **in_numpy)
    eps = torch.finfo(dtype).eps
    for t in range(3):
        give(p, t)
        ours.step()
        theirs.step([to_numpy(q.grad) for q in p])
        training = [a.copy() for a in arrays]
        for mode in ("eval", "eval", "train", "train"):
            getattr(ours, mode)()
            getattr(theirs, mode)()
            for q, array, y in zip(p, arrays, training, strict=True):
                found, expected = to_numpy(q).astype(np.float64), array.astype(np.float64)
                np.testing.assert_allclose(found, expected, rtol=4 * eps, atol=8 * eps)
                if q.numel() > 100 and dtype != torch.bfloat16 and t > 0:  # at first z is x
                    assert np.allclose(found, y, rtol=40 * eps, atol=40 * eps) == (mode == "train")
        with torch.no_grad():
            for q, array, y in zip(p, arrays, training, strict=True):  # go on from the same
                array[...] = y
                q.copy_(torch.tensor(y.astype(np.float64)))


@each_free
def test_no_step_while_evaluating(name: str) -> None:
    p = several(FLOAT32, SHAPES)
    optimizer = getattr(ft, name)(p, clip_norm=1.0)
    give(p, 0)
    optimizer.step()
    optimizer.eval()
    give(p, 1)
    before = [q.detach().clone() for q in p]
    states, grads = [copy.deepcopy(optimizer.state[q]) for q in p], [q.grad.clone() for q in p]
    for _ in range(2):
        with pytest.raises(RuntimeError, match="train"):
            optimizer.step()
        assert all(map(torch.equal, p, before))
        for q, state, g in zip(p, states, grads, strict=True):
            assert_same(optimizer.state[q], state)
            assert torch.equal(q.grad, g)
    optimizer.train()
    optimizer.step()
    assert optimizer.state[p[0]]["step"] == 2


@each_free
def test_the_mode_is_saved(name: str) -> None:
    p, q = several(FLOAT32, SHAPES), several(FLOAT32, SHAPES)
    ours, other = getattr(ft, name)(p, lr=0.1), getattr(ft, name)(q)
    give(p, 0)
    ours.step()
    ours.eval()
    with torch.no_grad():
        for a, b in zip(p, q, strict=True):
            b.copy_(a)
    other.load_state_dict(through_a_file(ours.state_dict()))
    duplicate = pickle.loads(pickle.dumps(ours))
    ends = ((p, ours), (q, other), (duplicate.param_groups[0]["params"], duplicate))
    for x, optimizer in ends:
        give(x, 1)
        with pytest.raises(RuntimeError, match="train"):
            optimizer.step()
        optimizer.eval()  # it does already
        optimizer.train()
        optimizer.step()
    for x, _ in ends[1:]:
        assert all(map(torch.equal, x, p))


@each_free
def test_modes_before_any_step_and_of_parameters_that_wait(name: str) -> None:
    p = several(FLOAT32, SHAPES)
    start = [q.detach().clone() for q in p]
    optimizer = getattr(ft, name)(p, lr=0.1)
    optimizer.eval()
    assert all(map(torch.equal, p, start))
    optimizer.train()
    give(p, 0, 1)
    optimizer.step()
    optimizer.eval()
    assert torch.equal(p[1], start[1])
    assert not torch.equal(p[0], start[0])
    assert {float(optimizer.state[q]["evaluating"]) for q in p} == {1.0}
    new = torch.nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [new]})  # trains, as the others do from now on
    optimizer.train()
    give([*p, new], 1)
    optimizer.step()
    assert not torch.equal(new, torch.ones(3))


@each_free
def test_modes_are_noticed_by_autograd_and_leave_no_graph(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = getattr(ft, name)([p], lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    loss = (p * p).sum()
    optimizer.eval()
    assert p.is_leaf
    assert p.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()

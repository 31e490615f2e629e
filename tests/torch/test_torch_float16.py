"""Weights in float16 through torch: squares of gradients are kept in float32, also when they are loaded."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from tests.helpers.torch_rules import (
    BFLOAT16,
    CLASSES,
    DROP_INS,
    FLOAT16,
    FLOAT32,
    Tensor,
    all_parameters,
    assert_same,
    copy_parameters,
    ft,
    new,
    parameter,
    several,
    tensors_of,
    through_a_file,
    torch,
    torchs,
    train,
)

NARROW = [name for name in CLASSES if name != "Prodigy"]
WITHOUT_SQUARES = {
    *("SGD", "Momentum", "EMAMomentum", "Nesterov", "SGDM", "ASGD", "Adamax", "SignSGD", "Signum", "Tiger"),
    *("Lion", "Rprop", "ScheduleFreeSGD", "LARS", "NovoGrad"),
}
SQUARING = [name for name in NARROW if name not in WITHOUT_SQUARES]
ROWS = {"Adagrad", "SGD", "RowwiseAdagrad"}


def wide(name: str, p: Tensor) -> bool:
    """Whether the state of a parameter holds squares."""
    return name not in WITHOUT_SQUARES and not (name == "Muon" and p.dim() == 2)


def equal(found: Tensor, value: Tensor) -> bool:
    """Whether the numbers are the same, in whatever dtype; torch's own steps in float16 give NaN too."""
    return bool(torch.allclose(found.double(), value.double(), rtol=0, atol=0, equal_nan=True))


def weights(dtype: Any) -> list[Tensor]:
    """A vector and a matrix, small enough for their steps to show."""
    return [torch.nn.Parameter(torch.full(shape, 2.0**-6, dtype=dtype)) for shape in [(8,), (4, 3)]]


@pytest.mark.parametrize(
    "gradients",
    [[1e-3, 0.0], [1e-3] * 10 + [0.0] * 10, [300.0] + [1.0] * 10, [9000.0] + [1.0] * 10],
    ids=["one small", "ten small", "a square too large", "a mean of squares too large"],
)
@pytest.mark.parametrize("name", NARROW)
def test_weights_go_where_float32_takes_them(name: str, gradients: list[float]) -> None:
    """But for the rounding of the weights."""
    paths = []
    for dtype in (FLOAT16, FLOAT32):
        p = weights(dtype)
        optimizer = getattr(ft, name)([{"params": [q]} for q in p])
        path = [[q.flatten()[0].item() for q in p]]
        for g in gradients:
            for q in p:
                q.grad = torch.full_like(q, g)
            optimizer.step(lambda: 1.0)
            path.append([q.flatten()[0].item() for q in p])
        paths.append(np.array(path))
    found, expected = paths
    if name == "Adafactor":  # whose eps is that of the weights' dtype
        assert np.abs(found - expected).max() < 0.02
        return
    way = np.abs(np.diff(expected, axis=0)).sum(axis=0)
    assert (np.abs(found - expected) <= 0.1 * way + 1e-4).all()


@pytest.mark.parametrize("released", [False, True], ids=["step", "make_state"])
@pytest.mark.parametrize("name", NARROW)
def test_state_is_float32_where_it_has_squares(name: str, released: bool) -> None:
    """By default; float16 if that is asked for, and beside bfloat16 nothing changes."""
    for dtype, asked in ((FLOAT16, None), (FLOAT16, FLOAT16), (BFLOAT16, None)):
        optimizer = new(name, several(dtype), state_dtype=asked)
        if released:
            optimizer.make_state(all_parameters(optimizer))
        else:
            train(optimizer, 0, 1)
        for p in all_parameters(optimizer):
            default = dtype == FLOAT16 and asked is None and wide(name, p)
            kept = {value.dtype for value in optimizer.state[p].values() if value.dim()}
            assert kept <= {FLOAT32 if default else dtype}


@pytest.mark.parametrize("name", [name for name in NARROW if name not in DROP_INS])
def test_the_average_is_as_the_weights(name: str) -> None:
    optimizer = new(name, several(FLOAT16), ema=0.5)
    train(optimizer, 0, 1)
    for p in all_parameters(optimizer):
        assert optimizer.state[p]["ema"].dtype == FLOAT16


def test_the_sums_of_adagrad_start_as_in_float32() -> None:
    """torch's constructor makes them in the dtype of the weights, where 0.1 is rounded."""
    for state_dtype in (None, FLOAT32):
        optimizer = ft.Adagrad(several(FLOAT16), initial_accumulator_value=0.1, state_dtype=state_dtype)
        for p in all_parameters(optimizer):
            assert optimizer.state[p]["sum"].dtype == FLOAT32
            assert (optimizer.state[p]["sum"] == 0.1).all()
            assert optimizer.state[p]["sum"].stride() == p.stride()
            assert list(optimizer.state[p]) == ["step", "sum"]


def test_adagrad_steps_rows_of_float16() -> None:
    """After a gradient whose square float16 does not have."""
    p = torch.nn.Parameter(torch.zeros(4, 2, dtype=FLOAT16))
    optimizer = ft.Adagrad([p])
    for g in (300.0, 1.0, 1.0):
        before = p.detach().clone()
        p.grad = torch.sparse_coo_tensor(
            [[0, 2]], torch.full((2, 2), g, dtype=FLOAT16), (4, 2), check_invariants=True
        )
        optimizer.step()
        assert (p[[0, 2]] < before[[0, 2]]).all()
        assert (p[[1, 3]] == 0).all()


# Checkpoints.


@pytest.mark.parametrize("name", NARROW)
def test_state_in_float16_loads_as_float32(name: str) -> None:
    """Exactly; and so for float32 weights, where torch converts too."""
    saving = new(name, several(FLOAT16), state_dtype=FLOAT16)
    train(saving, 0, 3)
    for dtype in (FLOAT16, FLOAT32):
        loaded = new(name, several(dtype))
        loaded.load_state_dict(through_a_file(saving.state_dict()))
        for p, q in zip(all_parameters(saving), all_parameters(loaded), strict=True):
            for key, value in saving.state[p].items():
                found = loaded.state[q][key]
                if value.dim():
                    assert value.dtype == FLOAT16
                    assert found.dtype == (FLOAT32 if wide(name, p) else FLOAT16), key
                assert equal(found, value), key
        train(loaded, 3, 4)


@pytest.mark.parametrize("name", SQUARING)
def test_state_in_float32_is_not_rounded(name: str) -> None:
    """A run goes on to the same bits, though torch would keep its state as the weights."""
    saving, loaded = (new(name, several(FLOAT16)) for _ in range(2))
    train(saving, 0, 3)
    loaded.load_state_dict(through_a_file(saving.state_dict()))
    copy_parameters(saving, loaded)
    assert_same(tensors_of(loaded), tensors_of(saving))
    for each in (saving, loaded):
        train(each, 3, 5)
    assert_same(tensors_of(loaded), tensors_of(saving))


@pytest.mark.parametrize("name", [name for name in DROP_INS if name in SQUARING and name != "Muon"])
def test_checkpoints_go_both_ways(name: str) -> None:
    """torch's state is in float16: ours widens it exactly, torch rounds it back to what it was."""
    theirs, again = (torchs(name, several(FLOAT16)) for _ in range(2))
    ours = new(name, several(FLOAT16))
    train(theirs, 0, 3)
    ours.load_state_dict(through_a_file(theirs.state_dict()))
    for p, q in zip(all_parameters(theirs), all_parameters(ours), strict=True):
        for key, value in theirs.state[p].items():
            assert equal(ours.state[q][key], value), key
            assert ours.state[q][key].dtype == FLOAT32
    again.load_state_dict(through_a_file(ours.state_dict()))
    for p, q in zip(all_parameters(theirs), all_parameters(again), strict=True):
        assert again.state[q].keys() == theirs.state[p].keys()
        for key, value in theirs.state[p].items():
            if key != "mu_product":  # which torch casts when it loads
                assert equal(again.state[q][key], value), key
                assert again.state[q][key].dtype == value.dtype
    train(ours, 3, 5)
    train(again, 3, 5)


# Prodigy.


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_prodigy_refuses_16_bits(dtype: Any) -> None:
    """In which its first steps would be lost."""
    p, q = parameter(3, dtype=FLOAT32), parameter(3, dtype=dtype)
    with pytest.raises(TypeError, match=r"^parameter 1 of group 0 is torch.*Prodigy.*float32"):
        ft.Prodigy([p, q])
    optimizer = ft.Prodigy([p])
    with pytest.raises(TypeError, match=r"^parameter 'name' is torch.*Prodigy.*float32"):
        ft.Prodigy([("name", q)])
    with pytest.raises(TypeError, match=r"^parameter 0 of group 1 is torch.*Prodigy.*float32"):
        optimizer.add_param_group({"params": [q]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_prodigy_keeps_no_state_of_16_bits(dtype: Any) -> None:
    """Asked for, it is refused; loaded, it is converted."""
    with pytest.raises(TypeError, match=r"^state_dtype is torch.*Prodigy.*float32"):
        ft.Prodigy([parameter(3, dtype=FLOAT32)], state_dtype=dtype)
    optimizer = new("Prodigy", several(FLOAT32))
    train(optimizer, 0, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state |= {key: state[key].to(dtype) for key in ("m", "v", "s", "p0")}
    loaded = new("Prodigy", several(FLOAT32))
    loaded.load_state_dict(saved)
    for i, p in enumerate(all_parameters(loaded)):
        for key in ("m", "v", "s", "p0"):
            assert loaded.state[p][key].dtype == FLOAT32
            assert torch.equal(loaded.state[p][key], saved["state"][i][key].float())

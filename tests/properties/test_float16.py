"""Weights in float16: squares of gradients are not kept in it, which has no number below 6e-8 or above 65504.

The oracle is the same run with float32 weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import takes_16_bits
from tests.helpers.engines import DTYPES
from tests.helpers.exactly import assert_same
from tests.helpers.examples import snapshot, step

Array = np.ndarray[Any, Any]

RULES = [rule for rule in fs.rules if takes_16_bits(rule)]
WITHOUT_SQUARES = {
    *("SGD", "Momentum", "EMAMomentum", "Nesterov", "SGDM", "ASGD", "Adamax", "SignSGD", "Signum", "Tiger"),
    *("Lion", "Rprop", "ScheduleFreeSGD", "LARS", "NovoGrad"),
}
"""NovoGrad has the square of a norm, always in float64."""

GRADIENTS = {
    "one small": [1e-3, 0.0],
    "ten small": [1e-3] * 10 + [0.0] * 10,
    "one whose square is infinite": [300.0] + [1.0] * 10,
    "one whose mean of squares is infinite": [9000.0] + [1.0] * 10,
    "the largest": [65504.0] + [1.0] * 10,
}


def run(rule: str, shape: tuple[int, ...], gradients: list[float], kept: Any, backend: Any) -> Array:
    """Where a weight is before and after each step."""
    w = np.full(shape, 2.0**-6, kept)
    opt = fs.rules[rule](w, backend=backend)
    path = [w.flat[0]]
    for g in gradients:
        step(opt, np.full(shape, g, kept))
        path.append(w.flat[0])
    assert all(np.isfinite(array).all() for array in opt.state.values())
    return np.array(path, np.float64)


@pytest.mark.parametrize("shape", [(8,), (4, 3)], ids=["vector", "matrix"])
@pytest.mark.parametrize("gradients", GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize("rule", RULES)
def test_weights_go_where_float32_takes_them(
    rule: str, gradients: list[float], shape: tuple[int, ...], backend: Any
) -> None:
    """But for the rounding of the weights: a tenth of the way, and a few units of their last place."""
    expected = run(rule, shape, gradients, np.float32, backend)
    found = run(rule, shape, gradients, np.float16, backend)
    way = np.abs(np.diff(expected)).sum()
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.1 * way + 1e-4)


def test_two_steps_by_hand(backend: Any) -> None:
    """Of AdamW, by its formulas: the second one without a gradient."""
    w = np.ones(4, np.float16)
    opt = fs.AdamW(w, backend=backend)
    for g in (1e-3, 0.0):
        opt.step(np.full(4, g, np.float16))
    first = 1 * (1 - 1e-5) - 1e-3
    m, v = 0.9 * 0.1 * 1e-3, 0.999 * 0.001 * 1e-6
    second = first * (1 - 1e-5) - 1e-3 * (m / (1 - 0.9**2)) / (v / (1 - 0.999**2)) ** 0.5
    assert second == pytest.approx(0.9983, abs=1e-4)
    assert np.abs(w - second).max() < 2 * 2.0**-11  # a unit of the weight's last place for each step


@pytest.mark.parametrize("rule", ["Adagrad", "RowwiseAdagrad"])
@pytest.mark.parametrize("shape", [(4,), (4, 3)], ids=["vector", "matrix"])
def test_adagrad_goes_on_after_a_large_gradient(rule: str, shape: tuple[int, ...], backend: Any) -> None:
    w = np.zeros(shape, np.float16)
    opt = fs.rules[rule](w, backend=backend)
    opt.step(np.full(shape, 300, np.float16))
    for _ in range(5):
        before = w.copy()
        opt.step(np.ones(shape, np.float16))
        assert (w < before).all()


@pytest.mark.parametrize("rule", RULES)
def test_state_is_float32_where_it_has_squares(rule: str, backend: Any) -> None:
    """All of it but the average; not beside bfloat16, nor where another dtype is asked for."""
    params = {
        "vector": np.ones(3, np.float16),
        "matrix": np.ones((3, 2), np.float16),
        "other": np.ones(3, DTYPES["bfloat16"]),
    }
    opt: Any = fs.rules[rule](params, ema=0.5, backend=backend)
    asked = fs.rules[rule](params, ema=0.5, backend=backend, state_dtype="float16")
    for name, slots in opt.state.items():
        no_squares = rule in WITHOUT_SQUARES or (rule, name) == ("Muon", "matrix")
        for slot, array in slots.items():
            if (rule, slot) == ("NovoGrad", "v"):
                assert array.dtype == asked.state[name][slot].dtype == np.float64
                continue
            assert asked.state[name][slot].dtype == np.float16
            as_weights = slot == "ema" or no_squares or name == "other"
            assert array.dtype == (params[name].dtype if as_weights else np.float32), (name, slot)


@pytest.mark.parametrize("rule", ["Adam", "Adagrad", "Adafactor", "RowwiseAdagrad", "Yogi", "Ftrl"])
def test_first_values_are_those_of_float32(rule: str, backend: Any) -> None:
    """Not rounded to float16 on the way."""
    cls = fs.rules[rule]
    narrow, wide = (cls(np.ones((3, 2), kept), backend=backend) for kept in (np.float16, np.float32))
    for slot, array in narrow.state.items():
        np.testing.assert_array_equal(array, wide.state[slot])


# Prodigy, whose first steps are as small as 1e-6.


def least_squares(steps: int, weights: Any, **options: Any) -> float:
    """Prodigy's d after some steps."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((256, 8)), rng.standard_normal(8).astype(weights)
    y = x @ rng.standard_normal(8)
    opt = fs.Prodigy(w, **options)
    for _ in range(steps):
        opt.step((x.T @ (x @ w - y) / len(y)).astype(w.dtype))
    return opt.groups[0].scalars["d"]


def test_prodigy_finds_its_step_size(backend: Any) -> None:
    """With float32 weights and state as with float64."""
    found, expected = (least_squares(60, kept, backend=backend) for kept in (np.float32, np.float64))
    assert found == pytest.approx(expected, rel=0.01)
    assert found > 0.1


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_prodigy_refuses_16_bits(name: str, backend: Any) -> None:
    """In which its first steps would be lost, of weights as of the start from which it measures."""
    w = {"a": np.ones(3, np.float32), "b": np.ones(3, DTYPES[name])}
    with pytest.raises(TypeError, match=rf"^parameter 'b' is {name}, .*Prodigy.*float32"):
        fs.Prodigy(w, backend=backend)
    with pytest.raises(TypeError, match=rf"^parameter 'b' is {name}, .*Prodigy.*float32"):
        fs.Prodigy(w, backend=backend, state_dtype="float32")
    with pytest.raises(TypeError, match=rf"^the state of parameter 'a' is {name}, .*Prodigy.*float32"):
        fs.Prodigy({"a": w["a"]}, backend=backend, state_dtype=name)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_prodigy_takes_gradients_of_16_bits(name: str, backend: Any) -> None:
    p, q = np.ones(3, np.float32), np.ones(3, np.float32)
    g = np.array([0.5, -1.5, 3.0])
    one, other = fs.Prodigy([p], backend=backend), fs.Prodigy([q], backend=backend)
    for _ in range(3):
        one.step([g.astype(DTYPES[name])])
        other.step([g.astype(np.float32)])
    assert_same(snapshot(one, [p]), snapshot(other, [q]))


# Checkpoints.


@pytest.mark.parametrize("shape", [(5,), (3, 4)], ids=["vector", "matrix"])
@pytest.mark.parametrize("rule", RULES)
def test_a_checkpoint_with_state_in_float16_loads(rule: str, shape: tuple[int, ...], backend: Any) -> None:
    """float32 has all its numbers; the other way round something would be lost, and that is an error."""
    p, q = np.ones(shape, np.float16), np.ones(shape, np.float16)
    opt: Any = fs.rules[rule]([p], ema=0.5, backend=backend)
    old: Any = fs.rules[rule]([q], ema=0.5, state_dtype="float16", backend=backend)
    for t in range(3):
        step(old, [np.full(shape, 0.25 + t, np.float16)])
    opt.load_state_dict(old.state_dict())
    for slot, array in opt.state[0].items():
        np.testing.assert_array_equal(array, old.state[0][slot].astype(array.dtype))
    step(opt, [np.ones(shape, np.float16)])
    if any(array.dtype == np.float32 for array in opt.state[0].values()):
        before = snapshot(old, [q])
        with pytest.raises(TypeError, match=r"has dtype float32, here float16"):
            old.load_state_dict(opt.state_dict())
        assert_same(snapshot(old, [q]), before)

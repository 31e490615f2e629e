"""The rules that torch lacks are called as their NumPy rule; and what drop-ins have that torch's lack."""

from __future__ import annotations

import inspect
import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.torch_rules import FLOAT32, OWN, Array, Options, ft, random, to_numpy, torch

# --- Arguments ---


@pytest.mark.parametrize("name", OWN)
def test_takes_the_rules_hyperparameters(name: str) -> None:
    """By keyword, with its defaults; beta1 and beta2 are one argument, betas."""
    rule, cls = fs.rules[name], getattr(ft, name)
    arguments = inspect.signature(cls).parameters
    defaults = dict(rule(np.zeros(1)).state_dict()["groups"][0]["hyperparameters"])
    if "beta1" in defaults and "beta2" in defaults:
        defaults["betas"] = (defaults.pop("beta1"), defaults.pop("beta2"))
    extras = {"clip_norm": None, "state_dtype": None, "unscale_in_step": False}
    found = {key: argument.default for key, argument in arguments.items() if key != "params"}
    assert found == {**defaults, **extras}
    assert rule.__doc__ is not None
    assert cls.__doc__.startswith(rule.__doc__[:20])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "lr"),
        ({"betas": (0.9, 1.0)}, ValueError, "beta2"),
        ({"beta1": 0.9}, TypeError, "beta1"),
        ({"lr": lambda _: 0.1}, TypeError, "lr_scheduler"),
        ({"clip_norm": -1.0}, ValueError, "clip_norm"),
        ({"state_dtype": torch.int32}, TypeError, "state_dtype"),
    ],
)
def test_own_rules_check_their_arguments(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ft.NAdamW([torch.nn.Parameter(torch.ones(3))], **options)


def test_the_average_of_the_weights() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = ft.Momentum([p], lr=0.5, momentum=0.0, ema=0.75)
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(optimizer.state[p]["ema"], torch.full((3,), 0.75 * 1 + 0.25 * 0.5))


def test_the_package_does_not_import_torch() -> None:
    code = "import sys, fusedstep; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_subclass_shows_its_own_arguments() -> None:
    class Mine(ft.Adam):  # type: ignore[misc]
        def __init__(self, params: Any, speed: float = 1.0) -> None:
            super().__init__(params, lr=speed)

    assert list(inspect.signature(Mine).parameters) == ["params", "speed"]


def test_sizes_count_real_numbers() -> None:
    """All of a complex number steps where half of its parts do: cautious steps are twice as long."""
    p = torch.nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    optimizer = ft.Lion([p], lr=1.0, betas=(0.5, 0.5), cautious=True)
    p.grad = torch.ones_like(p) * (1 + 1j)
    optimizer.step()
    assert torch.equal(p, torch.full_like(p, -1 - 1j))
    p.grad = torch.full_like(p, -0.1 - 1j)  # the direction is (0.2, -0.25): the real part disagrees
    optimizer.step()
    assert torch.equal(p, torch.full_like(p, -1 + 1j))


# --- What the drop-ins have that torch's classes have not ---


def by_hand(t: int, p: Array, g: Array, s: dict[str, Array], o: Options) -> Array:
    """Adam and AdamW, cautious or not, in the order of torch's loop."""
    beta1, beta2 = o["betas"]
    if o["decoupled"]:
        p = p * (1 - o["lr"] * o["weight_decay"])
    else:
        g = g + o["weight_decay"] * p
    s["m"] = beta1 * s.get("m", 0) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", 0) + (1 - beta2) * g * g
    s["vmax"] = np.maximum(s.get("vmax", 0), s["v"]) if o["amsgrad"] else s["v"]
    step = s["m"] / (1 - beta1**t) / (np.sqrt(s["vmax"] / (1 - beta2**t)) + 1e-8)
    if o["cautious"]:
        mask = (step * g > 0).astype(float)
        step = step * mask / max(mask.mean(), 1e-3)
    after: Array = p - o["lr"] * step
    return after


@pytest.mark.parametrize(("cautious", "amsgrad"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_cautious(name: str, cautious: bool, amsgrad: bool) -> None:
    options = {"lr": 0.02, "betas": (0.6, 0.8), "amsgrad": amsgrad, "cautious": cautious, "weight_decay": 0.1}
    p = [torch.nn.Parameter(random(*shape, seed=i)) for i, shape in enumerate([(50, 3), (4101,), ()])]
    arrays, states = [to_numpy(q) for q in p], [{}, {}, {}]  # type: ignore[var-annotated]
    optimizer = getattr(ft, name)(p, **options)
    assert optimizer.param_groups[0]["cautious"] is optimizer.defaults["cautious"] is cautious
    for t in range(1, 8):
        for i, (q, state) in enumerate(zip(p, states, strict=True)):
            q.grad = random(*q.shape, seed=t + 10 * i)
            arrays[i] = by_hand(
                t, arrays[i], to_numpy(q.grad), state, {**options, "decoupled": name == "AdamW"}
            )
        optimizer.step()
        for q, array in zip(p, arrays, strict=True):
            np.testing.assert_allclose(to_numpy(q), array, rtol=1e-11, atol=1e-13)
    keys = {"step", "exp_avg", "exp_avg_sq"} | ({"max_exp_avg_sq"} if amsgrad else set())
    assert optimizer.state[p[0]].keys() == keys


def test_cautious_in_one_group_and_from_a_step_on() -> None:
    """It needs no other state, and is read at every step."""
    p, q = ([torch.nn.Parameter(random(50, seed=i, dtype=FLOAT32)) for i in range(2)] for _ in range(2))
    ours = ft.AdamW([{"params": p[:1], "cautious": True}, {"params": p[1:]}])
    both = [ft.AdamW(q[:1], cautious=True), ft.AdamW(q[1:])]
    for t in range(6):
        if t == 3:
            ours.param_groups[1]["cautious"] = both[1].param_groups[0]["cautious"] = True
        for x in (p, q):
            for i, a in enumerate(x):
                a.grad = random(*a.shape, seed=t + 10 * i, dtype=FLOAT32)
        ours.step()
        for optimizer in both:
            optimizer.step()
    assert all(map(torch.equal, p, q))
    never = torch.nn.Parameter(random(50, seed=1, dtype=FLOAT32))
    optimizer = ft.AdamW([never])
    for t in range(6):
        never.grad = random(*never.shape, seed=t + 10, dtype=FLOAT32)
        optimizer.step()
    assert not torch.equal(never, p[1])


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_nadam_with_amsgrad(amsgrad: bool, decoupled: bool) -> None:
    """The formula of torch's loop, with the largest v so far under the root, as in its Adam."""
    lr, (beta1, beta2), psi, decay = 0.02, (0.8, 0.5), 0.01, 0.1
    p = torch.nn.Parameter(random(60, seed=0))
    x = to_numpy(p)
    optimizer = ft.NAdam(
        [p], lr, (beta1, beta2), 1e-8, decay, psi, decoupled_weight_decay=decoupled, amsgrad=amsgrad
    )
    m = v = vmax = np.zeros(60)
    product = 1.0
    for t in range(1, 8):
        p.grad = random(60, seed=t) * (3 if t == 2 else 1)
        g = to_numpy(p.grad)
        if decoupled:
            x = x * (1 - lr * decay)
        else:
            g = g + decay * x
        mu, following = (beta1 * (1 - 0.5 * 0.96 ** (k * psi)) for k in (t, t + 1))
        product *= mu
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        vmax = np.maximum(vmax, v) if amsgrad else v
        root = np.sqrt(vmax / (1 - beta2**t)) + 1e-8
        x = (
            x
            - lr * (1 - mu) / (1 - product) * g / root
            - lr * following / (1 - product * following) * m / root
        )
        optimizer.step()
        np.testing.assert_allclose(to_numpy(p), x, rtol=2e-6, atol=1e-7)  # the product is kept in float32
    assert ("max_exp_avg_sq" in optimizer.state[p]) == amsgrad
    if amsgrad:
        np.testing.assert_allclose(to_numpy(optimizer.state[p]["max_exp_avg_sq"]), vmax, rtol=1e-8)
        assert (vmax > v).any()

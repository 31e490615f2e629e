"""The rules that torch lacks, in torch, have NumPy's bits; and what torch's have here that they lack there.

One test runs in two processes: this file as a script, once per rank.
"""

from __future__ import annotations

import copy
import io
import itertools
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

import fusedstep as fs

torch = pytest.importorskip("torch")
ft: Any = pytest.importorskip("fusedstep.torch")
drop_in: Any = pytest.importorskip("fusedstep.torch.drop_in")

Array = np.ndarray[Any, Any]
Options: TypeAlias = dict[str, Any]

TIMEOUT = 120  # seconds
SHAPES: list[tuple[int, ...]] = [(3, 5), (4103,), (), (0,), (40, 3), (7,)]
LOSSES = [2.0, 1.5, 1.7, 0.2, 0.3, 0.1]
STEPS = len(LOSSES)
OWN = [name for name in fs.rules if name not in drop_in.__all__]
# The rule, and options with which its step depends on sums or it begins with a copy of the parameter.
LIVELY: list[tuple[str, Options]] = [
    ("LARS", {"trust_coefficient": 0.1, "weight_decay": 0.1}),
    ("LAMB", {"lr": 0.01}),
    ("StableAdamW", {"lr": 0.01, "beta1": 0.5}),
    ("NovoGrad", {"lr": 0.01, "weight_decay": 0.1}),
    ("Prodigy", {"d0": 0.01, "d_coef": 8.0}),
    ("Lion", {"lr": 0.01, "cautious": True}),
    ("NAdamW", {"lr": 0.01, "amsgrad": True}),
    ("MADGRAD", {}),
    ("ScheduleFreeSGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("ScheduleFreeAdamW", {"lr": 0.1, "warmup_steps": 3, "r": 1.0}),
]
EVERY = [*((name, {}) for name in OWN), *LIVELY]
FREE = ["ScheduleFreeSGD", "ScheduleFreeAdamW"]


def id_of(value: Any) -> str:
    return (",".join(value) or "default") if isinstance(value, dict) else str(value)


each_lively = pytest.mark.parametrize(("rule", "options"), LIVELY, ids=id_of)
each_free = pytest.mark.parametrize("rule", FREE)


def in_torch(options: Options) -> Options:
    """With ``betas`` in place of beta1 and beta2."""
    found = {name: value for name, value in options.items() if not name.startswith("beta")}
    if "beta1" in options:
        found["betas"] = (options["beta1"], options.get("beta2", 0.99))
    return found


def in_numpy(options: Options) -> Options:
    return {**options, "beta2": options.get("beta2", 0.99)} if "beta1" in options else options


def random(seed: int, shape: Any, dtype: Any = torch.float32) -> Any:
    """With a lean, so that Prodigy finds a direction."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return (torch.randn(shape, dtype=wide, generator=generator) + (seed >= 100) * 1.5).to(dtype)


def parameters(dtype: Any = torch.float32) -> list[Any]:
    return [torch.nn.Parameter(random(i, shape, dtype)) for i, shape in enumerate(SHAPES)]


def give(p: list[Any], t: int, *without: int) -> None:
    for i, q in enumerate(p):
        q.grad = None if i in without else random(100 + 10 * t + i, q.shape, q.dtype)


def to_numpy(tensor: Any) -> Array:
    """A copy; of complex numbers as pairs."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.dtype == torch.bfloat16:
        bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
        bits: Array = tensor.contiguous().view(torch.int16).numpy().copy()
        return bits.view(bfloat16)
    array: Array = tensor.numpy().copy()
    return array


def assert_bits(found: Array, expected: Array, context: Any = None) -> None:
    assert found.dtype == expected.dtype, context
    np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64), err_msg=str(context))


def assert_alike(p: list[Any], optimizer: Any, arrays: list[Array], numpys: Any, context: Any = None) -> None:
    """Parameters, their state, and numbers of tensors and groups."""
    for i, (q, array) in enumerate(zip(p, arrays, strict=True)):
        assert_bits(to_numpy(q), array, (context, i))
        slots = numpys.state[i]
        state = {
            key: value for key, value in optimizer.state[q].items() if key not in {"step", *numpys.scalars}
        }
        assert state.keys() == slots.keys()
        for slot, value in slots.items():
            assert_bits(to_numpy(state[slot]), value, (context, i, slot))
        for name, value in numpys.groups[0].scalars.items():
            assert optimizer.state[q][name].dtype == torch.float64
            assert float(optimizer.state[q][name]) == value, (context, i, name)
        assert float(optimizer.state[q]["step"]) == numpys.t


def test_each_rule_is_here() -> None:
    assert set(OWN) == set(fs.rules) - set(drop_in.__all__)
    for name in OWN:
        assert getattr(ft, name).rule is fs.rules[name]
    lively = {rule for rule, _ in LIVELY}
    for name in OWN:
        rule = fs.rules[name]
        assert name in lively or not (rule.copies or rule.numbers or rule.update.measure)


# NumPy's bits.


@pytest.mark.parametrize(
    ("rule", "options", "dtype"),
    [
        (rule, options, dtype)
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
        for rule, options in (EVERY if dtype == torch.bfloat16 else LIVELY)
    ],
    ids=id_of,
)
def test_numpys_bits(rule: str, options: Options, dtype: Any) -> None:
    p = parameters(dtype)
    arrays = [to_numpy(q) for q in p]
    ours = getattr(ft, rule)(p, **in_torch(options), ema=0.5)
    theirs = fs.rules[rule](arrays, **in_numpy(options), ema=0.5)
    start = [a.copy() for a in arrays]
    for t, loss in enumerate(LOSSES):
        give(p, t)
        ours.step(lambda loss=loss: loss)
        theirs.step([to_numpy(q.grad) for q in p], loss=loss)
        assert_alike(p, ours, arrays, theirs, t)
    assert not np.array_equal(start[1].astype(np.float64), arrays[1].astype(np.float64))
    if (rule, options) in LIVELY and rule == "Prodigy":
        assert theirs.groups[0].scalars["d"] > 0.02


@each_lively
def test_groups_and_gradients_that_are_missing(rule: str, options: Options) -> None:
    """Each parameter counts its own steps: one of NumPy's optimizers for each history and group."""
    p = parameters()
    arrays = [to_numpy(q) for q in p]
    # By group, and there by the steps without a gradient; Prodigy's sums are over those alike so far.
    histories: list[list[tuple[list[int], set[int]]]] = [
        [([0, 2], set()), ([4], {0}), ([1], {0, 1})],
        [([3, 5], {2, 4})],
    ]
    groups: list[Options] = [{"params": [p[i] for part, _ in group for i in part]} for group in histories]
    groups[1]["lr"] = 0.02
    ours = getattr(ft, rule)(groups, **in_torch(options))
    theirs = [
        (
            part,
            absent,
            fs.rules[rule]([arrays[i] for i in part], **{**in_numpy(options), **({"lr": 0.02} if k else {})}),
        )
        for k, group in enumerate(histories)
        for part, absent in group
    ]
    for t, loss in enumerate(LOSSES):
        give(p, t, *(i for part, absent, _ in theirs if t in absent for i in part))
        before = [copy.deepcopy(ours.state.get(q)) for q in p]
        ours.step(lambda loss=loss: loss)
        for part, absent, other in theirs:
            if t not in absent:
                other.step([to_numpy(p[i].grad) for i in part], loss=loss)
            else:
                for i in part:
                    assert_equal_state(ours.state.get(p[i]), before[i])
            if other.t:
                assert_alike([p[i] for i in part], ours, [arrays[i] for i in part], other, (part, t))
            else:
                assert all(p[i] not in ours.state for i in part)


def assert_equal_state(found: Any, expected: Any) -> None:
    assert (found is None) == (expected is None)
    if found is not None:
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert torch.equal(value, expected[key]), key


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "transposed": lambda x: x.t().contiguous().t() if x.dim() == 2 else x,
}


@pytest.mark.parametrize("gradient", [*LAYOUTS, "plain"])
@pytest.mark.parametrize("layout", LAYOUTS)
@each_lively
def test_layouts(rule: str, options: Options, layout: str, gradient: str) -> None:
    """As NumPy's of arrays that lie alike: sums are in the order of memory, of what has gaps in its own."""
    of_g = LAYOUTS.get(gradient, torch.clone)
    p = [
        torch.nn.Parameter(LAYOUTS[layout](random(i, shape)))
        for i, shape in enumerate([(70, 67), (5, 2), (9,)])
    ]
    arrays = [np.copy(q.detach().numpy(), order="K") for q in p]
    assert layout == "gaps" or arrays[0].strides[0] == 4
    ours, theirs = getattr(ft, rule)(p, **in_torch(options)), fs.rules[rule](arrays, **in_numpy(options))
    for t in range(3):
        for i, q in enumerate(p):
            q.grad = of_g(random(100 + 10 * t + i, q.shape))
        ours.step()
        theirs.step([np.ascontiguousarray(q.grad.numpy()) for q in p])
        assert_alike(p, ours, arrays, theirs, t)


@pytest.mark.parametrize("kind", ["plain", "conjugate", "gaps"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@each_lively
def test_complex_parameters(rule: str, options: Options, dtype: Any, kind: str) -> None:
    """They are pairs of real numbers, and counted as two."""
    see: dict[str, Callable[[Any], Any]] = {
        "plain": torch.clone,
        "conjugate": torch.conj,
        "gaps": LAYOUTS["gaps"],
    }
    p = [
        torch.nn.Parameter(see[kind](random(i, shape, dtype))) for i, shape in enumerate([(33, 65), (4,), ()])
    ]
    arrays = [to_numpy(q) for q in p]
    ours, theirs = getattr(ft, rule)(p, **in_torch(options)), fs.rules[rule](arrays, **in_numpy(options))
    for t in range(3):
        give(p, t)
        ours.step()
        theirs.step([to_numpy(q.grad) for q in p])
        assert_alike(p, ours, arrays, theirs, t)


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


@each_lively
def test_clip_norm(rule: str, options: Options) -> None:
    """Sums are of gradients that are clipped."""
    p = parameters()
    arrays = [to_numpy(q) for q in p]
    ours = getattr(ft, rule)(p, **in_torch(options), clip_norm=2.0)
    theirs = fs.rules[rule](arrays, **in_numpy(options))
    for t in range(3):
        give(p, t)
        ours.step()
        result = theirs.step([to_numpy(q.grad) for q in p], clip_norm=2.0)
        assert result.grad_norm is not None
        assert ours.grad_norm == result.grad_norm > 2
        assert_alike(p, ours, arrays, theirs, t)


@each_lively
def test_scaler_in_the_step(rule: str, options: Options) -> None:
    """Sums are of gradients without the scale."""
    p, q = parameters(), parameters()
    ours, plain = (getattr(ft, rule)(x, **in_torch(options)) for x in (p, q))
    for t in range(3):
        give(p, t)
        give(q, t)
        for x in p:
            x.grad *= 1024
        ours.grad_scale, ours.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
        ours.step()
        plain.step()
    assert all(map(torch.equal, p, q))


# Checkpoints and copies.


def through_a_file(state_dict: Any) -> Any:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_lively
def test_a_run_goes_on_from_a_checkpoint(rule: str, options: Options, dtype: Any) -> None:
    p, q = parameters(dtype), parameters(dtype)
    ours, other = getattr(ft, rule)(p, **in_torch(options)), getattr(ft, rule)(q, lr=0.3)
    for t in range(3):
        give(p, t, 4 if t == 0 else -1)
        ours.step()
    with torch.no_grad():
        for a, b in zip(p, q, strict=True):
            b.copy_(a)
    other.load_state_dict(through_a_file(ours.state_dict()))
    for a, b in zip(p, q, strict=True):
        assert_equal_state(other.state[b], ours.state[a])
        assert {k: v.dtype for k, v in other.state[b].items()} == {
            k: v.dtype for k, v in ours.state[a].items()
        }
        assert not any(ours.state[a][key] is value for key, value in other.state[b].items())
    for t in range(3, STEPS):
        for x, optimizer in ((p, ours), (q, other)):
            give(x, t)
            optimizer.step()
        assert all(map(torch.equal, p, q))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@each_lively
def test_copies_go_on(rule: str, options: Options, duplicate: Any) -> None:
    p = parameters()
    ours = getattr(ft, rule)(p, **in_torch(options), clip_norm=1.0)
    give(p, 0)
    ours.step()
    other = duplicate(ours)
    q = other.param_groups[0]["params"]
    assert all(a is not b for a, b in zip(p, q, strict=True))
    assert other.clip_norm == 1.0
    for t in (1, 2):
        for x, optimizer in ((p, ours), (q, other)):
            give(x, t)
            optimizer.step()
    assert all(map(torch.equal, p, q))
    for a, b in zip(p, q, strict=True):
        assert_equal_state(other.state[b], ours.state[a])


@pytest.mark.parametrize(
    ("rule", "lr"),
    [
        *((rule, 0.01) for rule in ("LAMB", "NovoGrad", "StableAdamW", "LARS", "ScheduleFreeAdamW", "Muon")),
        ("Adafactor", 0.1),
    ],
)
@pytest.mark.parametrize("width", [8, 12])
def test_released_gradients_give_the_same_bits(rule: str, lr: float, width: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, 8))
    other = copy.deepcopy(model)
    plain, released = (getattr(ft, rule)(m.parameters(), lr=lr) for m in (model, other))
    with ft.release_gradients(other, released):
        for t in range(3):
            for m, optimizer in ((model, plain), (other, released)):
                optimizer.zero_grad()
                m(random(t, (4, 8))).square().mean().backward()
                optimizer.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert_equal_state(released.state[q], plain.state[p])


def test_prodigy_cannot_have_its_gradients_released() -> None:
    """Its sums are over all of a group, whose gradients are never there together."""
    model = torch.nn.Linear(8, 8)
    with pytest.raises(ValueError, match="Prodigy"):
        ft.release_gradients(model, ft.Prodigy(model.parameters()))


# What drop-ins have that torch's have not.


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
    p = [
        torch.nn.Parameter(random(i, shape, torch.float64)) for i, shape in enumerate([(50, 3), (4101,), ()])
    ]
    arrays, states = [to_numpy(q) for q in p], [{}, {}, {}]  # type: ignore[var-annotated]
    optimizer = getattr(ft, name)(p, **options)
    assert optimizer.param_groups[0]["cautious"] is optimizer.defaults["cautious"] is cautious
    for t in range(1, 8):
        for i, (q, state) in enumerate(zip(p, states, strict=True)):
            q.grad = random(t + 10 * i, q.shape, torch.float64)
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
    p, q = ([torch.nn.Parameter(random(i, (50,))) for i in range(2)] for _ in range(2))
    ours = ft.AdamW([{"params": p[:1], "cautious": True}, {"params": p[1:]}])
    both = [ft.AdamW(q[:1], cautious=True), ft.AdamW(q[1:])]
    for t in range(6):
        if t == 3:
            ours.param_groups[1]["cautious"] = both[1].param_groups[0]["cautious"] = True
        for x in (p, q):
            for i, a in enumerate(x):
                a.grad = random(t + 10 * i, a.shape)
        ours.step()
        for optimizer in both:
            optimizer.step()
    assert all(map(torch.equal, p, q))
    never = torch.nn.Parameter(random(1, (50,)))
    optimizer = ft.AdamW([never])
    for t in range(6):
        never.grad = random(t + 10, never.shape)
        optimizer.step()
    assert not torch.equal(never, p[1])


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_nadam_with_amsgrad(amsgrad: bool, decoupled: bool) -> None:
    """The formula of torch's loop, with the largest v so far under the root, as in its Adam."""
    lr, (beta1, beta2), psi, decay = 0.02, (0.8, 0.5), 0.01, 0.1
    p = torch.nn.Parameter(random(0, (60,), torch.float64))
    x = to_numpy(p)
    optimizer = ft.NAdam(
        [p], lr, (beta1, beta2), 1e-8, decay, psi, decoupled_weight_decay=decoupled, amsgrad=amsgrad
    )
    m = v = vmax = np.zeros(60)
    product = 1.0
    for t in range(1, 8):
        p.grad = random(t, (60,), torch.float64) * (3 if t == 2 else 1)
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


EXTRAS = [("Adam", "cautious"), ("AdamW", "cautious"), ("NAdam", "amsgrad")]


@pytest.mark.parametrize(("name", "extra"), EXTRAS)
def test_checkpoints_of_torch(name: str, extra: str) -> None:
    """Its groups lack what torch has not; ours has it too much; both load."""
    p, q = ([torch.nn.Parameter(random(i, shape)) for i, shape in enumerate(SHAPES)] for _ in range(2))
    ours, theirs = getattr(ft, name)(p, lr=0.01), getattr(torch.optim, name)(q, lr=0.01, foreach=False)
    assert extra not in theirs.param_groups[0] or name == "NAdam"

    def train(steps: range) -> None:
        for t, (x, optimizer) in itertools.product(steps, ((p, ours), (q, theirs))):
            give(x, t)
            optimizer.step()
        for a, b in zip(p, q, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

    train(range(2))
    saved, other = through_a_file(theirs.state_dict()), through_a_file(ours.state_dict())
    ours.load_state_dict(saved)
    theirs.load_state_dict(other)
    train(range(2, 4))
    saved, other = through_a_file(theirs.state_dict()), through_a_file(ours.state_dict())
    ours, theirs = getattr(ft, name)(p), getattr(torch.optim, name)(q, foreach=False)
    ours.load_state_dict(saved)
    theirs.load_state_dict(other)
    train(range(4, 6))


@pytest.mark.parametrize(("name", "extra"), EXTRAS)
def test_a_checkpoint_of_torch_leaves_what_it_does_not_say(name: str, extra: str) -> None:
    p = torch.nn.Parameter(torch.ones(5))
    p.grad = torch.ones(5)
    theirs = getattr(torch.optim, name)([p])
    theirs.step()
    saved = theirs.state_dict()
    for group in saved["param_groups"]:
        group.pop(extra, None)
    ours = getattr(ft, name)([p], **{extra: True})
    ours.load_state_dict(saved)
    ours.step()
    assert ours.param_groups[0].get(extra) is True


@pytest.mark.parametrize(("name", "extra"), EXTRAS)
def test_extras_are_saved_and_checked(name: str, extra: str) -> None:
    p, q = torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(5))
    ours, other = getattr(ft, name)([p], **{extra: True}), getattr(ft, name)([q])
    other.load_state_dict(through_a_file(ours.state_dict()))
    assert other.param_groups[0][extra] is True
    assert copy.deepcopy(ours).param_groups[0][extra] is True
    assert pickle.loads(pickle.dumps(ours)).param_groups[0][extra] is True
    for t in range(4):
        for x, optimizer in ((p, ours), (q, other)):
            x.grad = random(t, (5,))
            optimizer.step()
    assert torch.equal(p, q)
    for wrong in (1, None, "yes"):
        with pytest.raises(TypeError, match=extra):
            getattr(ft, name)([p], **{extra: wrong})


# Schedule-free.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("beta", [0.9, 0.3])
@each_free
def test_modes_are_numpys(rule: str, beta: float, dtype: Any) -> None:
    """Within a rounding, which lies otherwise where z is nearer."""
    name = "momentum" if rule == "ScheduleFreeSGD" else "beta1"
    options: Options = {"lr": 0.1, name: beta}
    p = parameters(dtype)
    arrays = [to_numpy(q) for q in p]
    ours, theirs = getattr(ft, rule)(p, **in_torch(options)), fs.rules[rule](arrays, **in_numpy(options))
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
def test_no_step_while_evaluating(rule: str) -> None:
    p = parameters()
    optimizer = getattr(ft, rule)(p, clip_norm=1.0)
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
            assert_equal_state(optimizer.state[q], state)
            assert torch.equal(q.grad, g)
    optimizer.train()
    optimizer.step()
    assert optimizer.state[p[0]]["step"] == 2


@each_free
def test_the_mode_is_saved(rule: str) -> None:
    p, q = parameters(), parameters()
    ours, other = getattr(ft, rule)(p, lr=0.1), getattr(ft, rule)(q)
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
def test_modes_before_any_step_and_of_parameters_that_wait(rule: str) -> None:
    p = parameters()
    start = [q.detach().clone() for q in p]
    optimizer = getattr(ft, rule)(p, lr=0.1)
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
def test_modes_are_noticed_by_autograd_and_leave_no_graph(rule: str) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = getattr(ft, rule)([p], lr=0.1)
    p.grad = torch.ones(3)
    optimizer.step()
    loss = (p * p).sum()
    optimizer.eval()
    assert p.is_leaf
    assert p.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# In two processes.

SHARDED: dict[str, Options] = {
    "LAMB": {"lr": 0.05},
    "NovoGrad": {"lr": 0.05, "weight_decay": 0.1},
    "StableAdamW": {"lr": 0.05},
    "Prodigy": {"d0": 0.01, "d_coef": 8.0},
    "Adam": {"lr": 0.05, "cautious": True},
    "ScheduleFreeSGD": {"lr": 0.1},
}
ROWS = [(7, 3), (1, 5), (4, 2), (3,)]  # of the second, one rank has none
EVEN = 4


def whole(name: str, clip_norm: float | None = None) -> dict[str, Any]:
    """The end of a run in one process."""
    p = [torch.nn.Parameter(random(i, shape, torch.float64)) for i, shape in enumerate(ROWS)]
    optimizer = getattr(ft, name)(p, **SHARDED[name], clip_norm=clip_norm)
    for t in range(4):
        give(p, t, 2 if t == 1 and name != "Prodigy" else -1)
        optimizer.step()
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    found = {f"p {i}": q.detach() for i, q in enumerate(p)}
    return found | {f"{key} {i}": value for i, q in enumerate(p) for key, value in optimizer.state[q].items()}


def sharded(name: str, placement: Any, mesh: Any, clip_norm: float | None = None) -> dict[str, Any]:
    """The same with a part of each parameter in each process."""
    from torch.distributed.tensor import DTensor, Shard

    def share(tensor: Any) -> Any:
        rows = -(-tensor.shape[0] // mesh.size())
        part = tensor[mesh.get_rank() * rows :][:rows]
        placements = [placement if tensor.shape[0] == EVEN else Shard(0)]
        return DTensor.from_local(
            part, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
        )

    p = [torch.nn.Parameter(share(random(i, shape, torch.float64))) for i, shape in enumerate(ROWS)]
    optimizer = getattr(ft, name)(p, **SHARDED[name], clip_norm=clip_norm)
    for t in range(4):
        for i, q in enumerate(p):
            absent = t == 1 and i == 2 and name != "Prodigy"
            q.grad = None if absent else share(random(100 + 10 * t + i, q.shape, torch.float64))
        optimizer.step()
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    found = {f"p {i}": q.detach() for i, q in enumerate(p)}
    found |= {f"{key} {i}": value for i, q in enumerate(p) for key, value in optimizer.state[q].items()}
    return {key: value.full_tensor() if isinstance(value, DTensor) else value for key, value in found.items()}


def run_as_rank(rank: str, world: str, folder: str) -> None:
    dist = torch.distributed
    dist.init_process_group(
        "gloo",
        init_method=(Path(folder) / "rendezvous").as_uri(),
        rank=int(rank),
        world_size=int(world),
        timeout=timedelta(seconds=TIMEOUT),
    )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.placement_types import _StridedShard

    mesh = init_device_mesh("cpu", (int(world),))
    strided = _StridedShard(0, split_factor=1)
    saved = {(name, "plain"): sharded(name, Shard(0), mesh) for name in SHARDED}
    saved |= {(name, "strided"): sharded(name, strided, mesh) for name in ("NovoGrad", "LAMB")}
    saved |= {("LAMB", "clip"): sharded("LAMB", Shard(0), mesh, 0.5)}
    torch.save(saved, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_sums_are_over_all_processes(tmp_path: Path) -> None:
    """And counts: to rounding, what one process does, also where a process has no part of a parameter.

    One parameter is sharded as FSDP2 does it over tensor parallelism, by torch's _StridedShard.
    """
    if not torch.distributed.is_available():
        pytest.skip("torch without torch.distributed")
    world, logs = 2, []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "FUSEDSTEP_NUM_THREADS": "1"}
    processes = []
    try:
        for rank in range(world):
            logs.append(tmp_path / f"{rank}.log")
            with logs[-1].open("wb") as file:
                command = [sys.executable, __file__, str(rank), str(world), str(tmp_path)]
                processes.append(subprocess.Popen(command, stdout=file, stderr=file, env=environment))
        codes = [process.wait(TIMEOUT) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert codes == [0] * world, "\n".join(log.read_text() for log in logs)
    wrong = []
    for rank in range(world):
        saved = torch.load(tmp_path / f"{rank}.pt")
        for (name, kind), found in saved.items():
            expected = whole(name, 0.5 if kind == "clip" else None)
            assert found.keys() == expected.keys()
            wrong += [
                (name, kind, rank, key)
                for key, value in expected.items()
                if not torch.allclose(found[key], value, rtol=1e-6, atol=1e-9)
            ]
    assert not wrong
    for name in SHARDED:
        apart = max(
            float((whole(name)[f"p {i}"] - random(i, shape, torch.float64)).abs().max())
            for i, shape in enumerate(ROWS)
        )
        assert math.isfinite(apart)
        assert apart > 0.05


if __name__ == "__main__":
    run_as_rank(*sys.argv[1:])

"""Muon in torch: called as torch's, with NumPy's bits, and AdamW for what is no matrix."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest

import fusedstep as fs

torch = pytest.importorskip("torch")
ft: Any = pytest.importorskip("fusedstep.torch")

Array = np.ndarray[Any, Any]
Options: TypeAlias = dict[str, Any]

MATRICES: list[tuple[int, ...]] = [(70, 67), (6, 11), (11, 6), (1, 9), (9, 1), (0, 4), (3, 0)]
OTHERS: list[tuple[int, ...]] = [(9,), (), (2, 3, 4), (4103,), (0,)]
SHAPES = [*MATRICES, *OTHERS]
STEPS = 5

VARIANTS: dict[str, Options] = {
    "default": {},
    "lr": {"lr": 0.3},
    "a tensor for lr": {"lr": torch.tensor(0.25, dtype=torch.float64)},
    "decay": {"weight_decay": 3.0},
    "no decay": {"weight_decay": 0.0},
    "momentum": {"momentum": 0.5},
    "no momentum": {"momentum": 0.0},
    "no nesterov": {"nesterov": False},
    "coefficients": {"ns_coefficients": (1.5, -0.5, 0.0)},
    "eps": {"eps": 100.0},
    "ns_steps": {"ns_steps": 2},
    "no ns_steps": {"ns_steps": 0},
    "original": {"adjust_lr_fn": "original"},
    "match_rms_adamw": {"adjust_lr_fn": "match_rms_adamw", "nesterov": False},
}

each_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
each_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Those of two libraries are in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def precise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch's iteration keep the precision of the gradient."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)


def random(seed: int, shape: Any, dtype: Any = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, dtype=wide, generator=generator).to(dtype)


def parameters(dtype: Any = torch.float32, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[Any]:
    return [torch.nn.Parameter(random(i, shape, dtype)) for i, shape in enumerate(shapes)]


def give(p: list[Any], t: int, *without: int) -> None:
    for i, q in enumerate(p):
        q.grad = None if i in without else random(100 + 20 * t + i, q.shape, q.dtype)


def to_numpy(tensor: Any) -> Array:
    """A copy that lies in memory alike."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
        bits: Array = tensor.view(torch.int16).numpy().copy(order="K")
        return bits.view(bfloat16)
    array: Array = tensor.numpy().copy(order="K")
    return array


def in_numpy(options: Options) -> Options:
    """The arguments of fusedstep.Muon."""
    found: Options = {}
    for name, value in options.items():
        if name == "ns_coefficients":
            found |= dict(zip(("ns_a", "ns_b", "ns_c"), value, strict=True))
        elif name == "eps":
            found["ns_eps"] = value
        elif name == "adjust_lr_fn":
            found["match_rms"] = value == "match_rms_adamw"
        else:
            found[name] = float(value) if isinstance(value, torch.Tensor) else value
    return found


NAMES = {"buf": "momentum_buffer", "m": "exp_avg", "v": "exp_avg_sq"}


def assert_bits(found: Array, expected: Array, context: Any = None) -> None:
    assert found.dtype == expected.dtype, context
    assert found.shape == expected.shape, context
    np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64), err_msg=str(context))


def assert_alike(p: list[Any], optimizer: Any, arrays: list[Array], numpys: Any, context: Any = None) -> None:
    """Parameters and all of their state."""
    for i, (q, array) in enumerate(zip(p, arrays, strict=True)):
        assert_bits(to_numpy(q), array, (context, i))
        state, slots = optimizer.state[q], numpys.state[i]
        assert state.keys() == {"step", *(NAMES[slot] for slot in slots)}
        for slot, value in slots.items():
            assert_bits(to_numpy(state[NAMES[slot]]), value, (context, i, slot))
        assert float(state["step"]) == numpys.t


def assert_equal_state(found: Any, expected: Any) -> None:
    assert (found is None) == (expected is None)
    if found is not None:
        assert found.keys() == expected.keys()
        for key, value in found.items():
            assert value.dtype == expected[key].dtype, key
            assert torch.equal(value, expected[key]), key


def close(found: Any, expected: Any, what: Any) -> None:
    """To a small part of the largest number."""
    rtol = 1e-11 if found.dtype == torch.float64 else 2e-5
    unit = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=rtol, atol=rtol * unit, msg=lambda m: f"{what}: {m}")


# How it is called.


def test_signature() -> None:
    found = list(inspect.signature(ft.Muon).parameters.values())
    theirs = list(inspect.signature(torch.optim.Muon).parameters.values())
    assert [(x.name, x.default, x.kind) for x in found[: len(theirs)]] == [
        (x.name, x.default, x.kind) for x in theirs
    ]
    more = found[len(theirs) :]
    assert {x.name: x.default for x in more} == {
        "matrices": True,
        "beta1": 0.9,
        "beta2": 0.999,
        "clip_norm": None,
        "state_dtype": None,
        "unscale_in_step": False,
    }
    assert all(x.kind is inspect.Parameter.KEYWORD_ONLY for x in more)


def test_it_is_torchs() -> None:
    p = parameters(shapes=[(3, 5)])
    ours, theirs = ft.Muon(p), torch.optim.Muon(p)
    assert isinstance(ours, torch.optim.Muon)
    assert ours.defaults == {**theirs.defaults, "matrices": True, "beta1": 0.9, "beta2": 0.999}
    assert "Muon" in ft.__all__
    assert ft.Muon.rule is fs.Muon


def test_arguments_by_position() -> None:
    (p,) = parameters(shapes=[(6, 11)])
    (q,) = parameters(shapes=[(6, 11)])
    given = (0.1, 0.2, 0.5, False, (3.0, -4.0, 1.5), 1e-3, 3, "match_rms_adamw")
    ours, theirs = ft.Muon([p], *given), torch.optim.Muon([q], *given)
    names = [name for name in theirs.param_groups[0] if name != "params"]
    assert {k: ours.param_groups[0][k] for k in names} == {k: theirs.param_groups[0][k] for k in names}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"adjust_lr_fn": "other"}, ValueError, "Adjust learning rate function other is not supported"),
        ({"lr": -1.0}, ValueError, "Learning rate should be >= 0"),
        ({"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element"),
        ({"momentum": -0.5}, ValueError, "momentum should be >= 0"),
        ({"weight_decay": -0.5}, ValueError, "weight decay should be >= 0"),
        ({"matrices": 1}, TypeError, "matrices must be True or False"),
        ({"matrices": None}, TypeError, "matrices must be True or False"),
        ({"beta1": 1.0}, ValueError, r"beta1 must be in \[0, 1\)"),
        ({"beta2": -0.1}, ValueError, r"beta2 must be in \[0, 1\)"),
        ({"clip_norm": -1.0}, ValueError, "clip_norm must be in"),
        ({"state_dtype": torch.int32}, TypeError, "state_dtype must be one of"),
        ({"ema": 0.5}, TypeError, "ema"),
        ({"cautious": True}, TypeError, "cautious"),
        ({"betas": (0.9, 0.99)}, TypeError, "betas"),
    ],
    ids=str,
)
def test_wrong_arguments(options: Options, error: type[Exception], message: str) -> None:
    """Whatever the parameters; torch raises its own."""
    both: list[list[tuple[int, ...]]] = [[(3, 5)], [(3, 5), (4,)]]
    for shapes in both:
        with pytest.raises(error, match=message):
            ft.Muon(parameters(shapes=shapes), **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"matrices": "yes"}, TypeError), ({"beta1": 1.0}, ValueError), ({"beta2": 2.0}, ValueError)],
    ids=str,
)
def test_wrong_arguments_of_a_group(options: Options, error: type[Exception]) -> None:
    p, q = parameters(shapes=[(3, 5), (5, 3)])
    with pytest.raises(error, match=next(iter(options))):
        ft.Muon([{"params": [p]}, {"params": [q], **options}])


# Its numbers.


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@each_variant
def test_numbers_are_torchs(options: Options, dtype: Any) -> None:
    """Of its Muon and its AdamW, at the parameters that each is for; some without a gradient at times."""
    p, q = parameters(dtype), parameters(dtype)
    count = len(MATRICES)
    whole = [i for i in range(count) if p[i].numel()]  # torch's own divides by the number of columns
    ours = ft.Muon(p, **options)
    muon = torch.optim.Muon([q[i] for i in whole], **options)
    lr = float(options.get("lr", 1e-3))
    adamw = torch.optim.AdamW(q[count:], lr=lr, weight_decay=options.get("weight_decay", 0.1))
    for t in range(STEPS):
        absent = [1 + t, 7 + t] if t else []
        for x in (p, q):
            give(x, t, *absent)
        for optimizer in (ours, muon, adamw):
            optimizer.step()
        for i, (a, b) in enumerate(zip(p, q, strict=True)):
            close(a, b, (i, t))
            theirs = muon.state if i < count else adamw.state
            for key, value in theirs.get(b, {}).items():
                if key == "step":
                    assert float(ours.state[a]["step"]) == float(value)
                else:
                    close(ours.state[a][key], value, (i, t, key))
    for i in whole:
        assert not torch.equal(p[i], random(i, SHAPES[i], dtype))
    assert set(ours.state[p[0]]) == {"step", "momentum_buffer"}
    assert set(ours.state[p[count]]) == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
def test_numbers_are_torchs_within_the_error_of_bfloat16(adjust: str | None) -> None:
    shapes = [shape for shape in MATRICES if math.prod(shape)]
    p, q = parameters(shapes=shapes), parameters(shapes=shapes)
    options: Options = {"lr": 1.0, "weight_decay": 0.0, "adjust_lr_fn": adjust}
    ours, theirs = ft.Muon(p, **options), torch.optim.Muon(q, **options)
    for t in range(STEPS):
        before, theirs_before = [x.detach().clone() for x in p], [x.detach().clone() for x in q]
        for x, optimizer in ((p, ours), (q, theirs)):
            give(x, t)
            optimizer.step()
        for a, old, b, theirs_old in zip(p, before, q, theirs_before, strict=True):
            step, expected = (a - old).detach(), (b - theirs_old).detach()
            assert float((step - expected).norm()) < 0.08 * float(expected.norm())


@pytest.mark.parametrize(
    "options", [{}, {"beta1": 0.5, "beta2": 0.75, "lr": 0.1}, {"weight_decay": 0.5}], ids=str
)
def test_all_else_steps_as_adamw(options: Options) -> None:
    """To the bit; and matrices too, of groups that have none."""
    shapes = [*OTHERS, (70, 67), (5, 3)]
    p, q = parameters(shapes=shapes), parameters(shapes=shapes)
    cut = len(OTHERS)
    ours = ft.Muon([{"params": p[:cut]}, {"params": p[cut:], "matrices": False}], **options)
    beta1, beta2 = options.get("beta1", 0.9), options.get("beta2", 0.999)
    adamw = ft.AdamW(
        q, lr=options.get("lr", 1e-3), betas=(beta1, beta2), weight_decay=options.get("weight_decay", 0.1)
    )
    for t in range(STEPS):
        for x, optimizer in ((p, ours), (q, adamw)):
            give(x, t, t)
            optimizer.step()
    for a, b in zip(p, q, strict=True):
        assert torch.equal(a, b)
        assert_equal_state(ours.state[a], adamw.state[b])


@each_dtype
@each_variant
def test_numpys_bits(options: Options, dtype: Any) -> None:
    p = parameters(dtype)
    arrays = [to_numpy(q) for q in p]
    ours, theirs = ft.Muon(p, **options), fs.Muon(arrays, **in_numpy(options))
    for t in range(STEPS):
        give(p, t)
        ours.step()
        theirs.step([to_numpy(q.grad) for q in p])
        assert_alike(p, ours, arrays, theirs, t)


@pytest.mark.parametrize("gradient", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("state", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_state_dtype(dtype: Any, state: Any, gradient: Any) -> None:
    """As NumPy's; also where gradients are of another type."""
    p = parameters(dtype)
    arrays = [to_numpy(q) for q in p]
    ours = ft.Muon(p, lr=0.1, state_dtype=state)
    theirs = fs.Muon(arrays, lr=0.1, state_dtype=str(state).removeprefix("torch."))
    for t in range(3):
        grads = [random(100 + 20 * t + i, q.shape, gradient) for i, q in enumerate(p)]
        for q, g in zip(p, grads, strict=True):
            if gradient is dtype:
                q.grad = g
            else:
                q.grad_dtype = gradient
                q.grad = g
        ours.step()
        theirs.step([to_numpy(g) for g in grads])
        assert_alike(p, ours, arrays, theirs, t)
    assert ours.state[p[0]]["momentum_buffer"].dtype == ours.state[p[-1]]["exp_avg"].dtype == state


def test_groups_and_gradients_that_are_missing() -> None:
    """What has none is left alone, state and all, and counts no step."""
    p = parameters()
    groups: list[Options] = [
        {"params": p[::3], "lr": 0.02},
        {"params": p[1::3], "lr": 0.05, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"},
        {"params": p[2::3], "lr": 0.01, "matrices": False, "beta1": 0.5},
    ]
    ours = ft.Muon(groups)
    arrays = [to_numpy(q) for q in p]
    # One of NumPy's for each parameter, which counts its steps.
    theirs = [
        fs.Muon([array], **in_numpy({k: v for k, v in groups[i % 3].items() if k != "params"}))
        for i, array in enumerate(arrays)
    ]
    assert not ours.state
    for t in range(STEPS):
        absent = {i for i in range(len(p)) if (i + t) % 4 == 0 or t == 3}
        before = [copy.deepcopy(ours.state.get(q)) for q in p]
        give(p, t, *absent)
        ours.step()
        for i, q in enumerate(p):
            if i in absent:
                assert_equal_state(ours.state.get(q), before[i])
                assert_bits(to_numpy(q), arrays[i])
            else:
                theirs[i].step([to_numpy(q.grad)])
                assert_alike([q], ours, [arrays[i]], theirs[i], (t, i))


def test_without_any_gradient() -> None:
    p = parameters()
    for options in ({}, {"clip_norm": 1.0}):
        optimizer = ft.Muon(p, **options)
        optimizer.step()
        assert not optimizer.state
        assert all(torch.equal(q, random(i, q.shape)) for i, q in enumerate(p))
    assert optimizer.grad_norm == 0.0
    none = ft.Muon([{"params": []}, {"params": [p[0]]}])
    give(p[:1], 0)
    none.step()
    assert not torch.equal(p[0], random(0, p[0].shape))


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "plain": torch.clone,
    "gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "rows with gaps": lambda x: x.repeat_interleave(2, 0)[::2],
    "transposed": lambda x: x.t().contiguous().t(),
}


@pytest.mark.parametrize("state_dtype", [None, torch.float32], ids=str)
@each_dtype
@pytest.mark.parametrize("gradient", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, gradient: str, dtype: Any, state_dtype: Any) -> None:
    """As NumPy's of arrays that lie alike: what has gaps is as without."""
    if state_dtype is not None and dtype is torch.float64:
        state_dtype = torch.float64
    p = [
        torch.nn.Parameter(LAYOUTS[layout](random(i, shape, dtype)))
        for i, shape in enumerate([(70, 67), (5, 2), (2, 5)])
    ]
    arrays = [to_numpy(q) if layout == "transposed" else to_numpy(q.contiguous()) for q in p]
    ours = ft.Muon(p, lr=0.1, state_dtype=state_dtype)
    theirs = fs.Muon(
        arrays, lr=0.1, state_dtype=None if state_dtype is None else str(state_dtype).removeprefix("torch.")
    )
    strides = [q.stride() for q in p]
    for t in range(3):
        for i, q in enumerate(p):
            q.grad = LAYOUTS[gradient](random(100 + 20 * t + i, q.shape, dtype))
        ours.step()
        theirs.step([to_numpy(q.grad.contiguous()) for q in p])
        assert_alike(p, ours, arrays, theirs, t)
    assert strides == [q.stride() for q in p]


def test_gaps_are_not_written() -> None:
    memory = torch.full((6, 22), 7.0)
    p = torch.nn.Parameter(memory[:, ::2])
    optimizer = ft.Muon([p], lr=0.1)
    give([p], 0)
    optimizer.step()
    assert (memory[:, 1::2] == 7).all()
    assert (memory[:, ::2] != 7).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e38])
def test_what_is_not_finite_stays_in_its_matrix(bad: float) -> None:
    """And is nothing to warn of."""
    p, q = parameters(), parameters()
    ours, other = ft.Muon(p, lr=0.1), ft.Muon(q, lr=0.1)
    for x, optimizer in ((p, ours), (q, other)):
        for t in range(2):
            give(x, t)
            if t and x is p:
                x[1].grad[2, 3] = bad
            optimizer.step()
    assert not torch.equal(p[1], q[1])
    assert bool(p[1].isnan().all()) == (bad != 1e38)
    for i, (a, b) in enumerate(zip(p, q, strict=True)):
        if i != 1:
            assert torch.equal(a, b)
            assert_equal_state(ours.state[a], other.state[b])


# What it has beside torch's.


def test_clip_norm() -> None:
    p = parameters()
    arrays = [to_numpy(q) for q in p]
    ours, theirs = ft.Muon(p, clip_norm=2.0), fs.Muon(arrays)
    for t in range(3):
        give(p, t)
        ours.step()
        result = theirs.step([to_numpy(q.grad) for q in p], clip_norm=2.0)
        assert result.grad_norm is not None
        assert ours.grad_norm == pytest.approx(result.grad_norm, rel=1e-12)
        assert result.grad_norm > 2
        for i, (q, array) in enumerate(zip(p, arrays, strict=True)):
            np.testing.assert_allclose(to_numpy(q), array, rtol=1e-5, atol=1e-7, err_msg=str(i))
            slots = theirs.state[i]
            for slot, value in slots.items():
                np.testing.assert_allclose(to_numpy(ours.state[q][NAMES[slot]]), value, rtol=1e-5, atol=1e-9)
        assert torch.equal(p[0].grad, random(100 + 20 * t, p[0].shape))


def test_scaler_in_the_step() -> None:
    """The directions are of gradients without the scale, and an overflow leaves all alone."""
    p, q = parameters(), parameters()
    ours, plain = ft.Muon(p, unscale_in_step=True), ft.Muon(q)
    for t in range(3):
        give(p, t)
        give(q, t)
        for x in p:
            x.grad *= 1024
        ours.grad_scale, ours.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
        ours.step()
        plain.step()
    ours.found_inf = torch.tensor(1.0)
    ours.step()
    for a, b in zip(p, q, strict=True):
        assert torch.equal(a, b)
        assert_equal_state(ours.state[a], plain.state[b])


def test_closure() -> None:
    p, q = parameters(), parameters()
    ours, plain = ft.Muon(p), ft.Muon(q)
    give(q, 0)
    plain.step()

    def closure() -> Any:
        assert torch.is_grad_enabled()
        give(p, 0)
        return torch.tensor(3.0)

    assert ours.step(closure) == 3
    assert all(map(torch.equal, p, q))


def test_lr_scheduler() -> None:
    p, q = parameters(), parameters()
    ours = ft.Muon(p, lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(ours, 0.5)
    arrays = [to_numpy(x) for x in q]
    theirs = fs.Muon(arrays, lr=lambda t: 0.1 * 0.5 ** (t - 1))
    for t in range(4):
        give(p, t)
        ours.step()
        scheduler.step()
        theirs.step([to_numpy(x.grad) for x in p])
        assert_alike(p, ours, arrays, theirs, t)


def test_lr_in_a_tensor_that_changes() -> None:
    p, q = parameters(), parameters()
    lr = torch.tensor(0.5)
    ours, plain = ft.Muon(p, lr=lr), ft.Muon(q, lr=0.5)
    for t in range(2):
        for x, optimizer in ((p, ours), (q, plain)):
            give(x, t)
            optimizer.step()
        lr.fill_(0.25)
        plain.param_groups[0]["lr"] = 0.25
    assert all(map(torch.equal, p, q))


def test_autograd_notices_the_step() -> None:
    (p,) = parameters(shapes=[(3, 5)])
    optimizer = ft.Muon([p])
    give([p], 0)
    loss = (p * p).sum()
    optimizer.step()
    assert p.is_leaf
    assert p.requires_grad
    assert not optimizer.state[p]["momentum_buffer"].requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# Checkpoints and copies.


def through_a_file(state_dict: Any) -> Any:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file)


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize("from_torch", [True, False])
def test_checkpoints_are_torchs(from_torch: bool) -> None:
    """Of matrices, as torch's has no other; with the options of the group."""
    shapes = [(6, 11), (11, 6), (1, 9), (9, 1)]
    p, q = parameters(torch.float64, shapes), parameters(torch.float64, shapes)
    options: Options = {"lr": 0.1, "momentum": 0.5, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"}
    first, second = (torch.optim.Muon, ft.Muon) if from_torch else (ft.Muon, torch.optim.Muon)
    saving, going, loading = first(p, **options), first(p, lr=0.7), second(q)
    del going
    for t in range(3):
        give(p, t, 2 if t < 2 else -1)
        saving.step()
    with torch.no_grad():
        for a, b in zip(p, q, strict=True):
            b.copy_(a)
    loading.load_state_dict(through_a_file(saving.state_dict()))
    for name, value in options.items():
        assert loading.param_groups[0][name] == value
    if from_torch:
        group = loading.param_groups[0]
        assert (group["matrices"], group["beta1"], group["beta2"]) == (True, 0.9, 0.999)
    for a, b in zip(p, q, strict=True):
        assert torch.equal(loading.state[b]["momentum_buffer"], saving.state[a]["momentum_buffer"])
    for t in range(3, 6):
        for x, optimizer in ((p, saving), (q, loading)):
            give(x, t)
            optimizer.step()
        for a, b in zip(p, q, strict=True):
            close(a, b, t)


@pytest.mark.parametrize("state_dtype", [None, torch.float32], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_run_goes_on_from_a_checkpoint(dtype: Any, state_dtype: Any) -> None:
    p, q = parameters(dtype), parameters(dtype)
    ours = ft.Muon(
        [{"params": p[1:]}, {"params": p[:1], "matrices": False}],
        lr=0.1,
        beta1=0.5,
        momentum=0.5,
        state_dtype=state_dtype,
    )
    other = ft.Muon([{"params": q[1:]}, {"params": q[:1]}], lr=0.3)
    for t in range(3):
        give(p, t, 4 if t == 0 else -1)
        ours.step()
    with torch.no_grad():
        for a, b in zip(p, q, strict=True):
            b.copy_(a)
    other.load_state_dict(through_a_file(ours.state_dict()))
    assert [group["matrices"] for group in other.param_groups] == [True, False]
    for a, b in zip(p, q, strict=True):
        assert_equal_state(other.state[b], ours.state[a])
        assert not any(ours.state[a][key] is value for key, value in other.state[b].items())
    for t in range(3, 6):
        for x, optimizer in ((p, ours), (q, other)):
            give(x, t)
            optimizer.step()
        assert all(map(torch.equal, p, q))


def test_state_of_another_layout_is_brought_into_the_parameters() -> None:
    (p,), (q,) = parameters(shapes=[(6, 11)]), parameters(shapes=[(6, 11)])
    ours, other = ft.Muon([p]), ft.Muon([q])
    give([p], 0)
    ours.step()
    saved = ours.state_dict()
    buf = saved["state"][0]["momentum_buffer"]
    saved["state"][0]["momentum_buffer"] = buf.t().contiguous().t()
    with torch.no_grad():
        q.copy_(p)
    other.load_state_dict(saved)
    assert other.state[q]["momentum_buffer"].stride() == (11, 1)
    for x, optimizer in ((p, ours), (q, other)):
        give([x], 1)
        optimizer.step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on(duplicate: Any) -> None:
    p = parameters()
    ours = ft.Muon(
        [{"params": p[1:]}, {"params": p[:1], "matrices": False}], clip_norm=1.0, state_dtype=torch.float32
    )
    give(p, 0)
    ours.step()
    other = duplicate(ours)
    q = [*other.param_groups[1]["params"], *other.param_groups[0]["params"]]
    assert all(a is not b for a, b in zip(p, q, strict=True))
    assert (other.clip_norm, other.state_dtype) == (1.0, torch.float32)
    for t in (1, 2):
        for x, optimizer in ((p, ours), (q, other)):
            give(x, t)
            optimizer.step()
    for a, b in zip(p, q, strict=True):
        assert torch.equal(a, b)
        assert_equal_state(other.state[b], ours.state[a])


def test_groups_that_are_added() -> None:
    """Of any shape, and with the defaults of the others."""
    p = parameters(shapes=[(6, 11), (5, 3), (7,), (4, 4)])
    ours = ft.Muon(p[:1], lr=0.1, beta1=0.5)
    ours.add_param_group({"params": p[1:3]})
    ours.add_param_group({"params": p[3:], "matrices": False})
    assert [(g["matrices"], g["beta1"], g["lr"]) for g in ours.param_groups] == [
        (True, 0.5, 0.1),
        (True, 0.5, 0.1),
        (False, 0.5, 0.1),
    ]
    arrays = [to_numpy(q) for q in p]
    theirs = fs.Muon([{"params": arrays[:3]}, {"params": arrays[3:], "matrices": False}], lr=0.1, beta1=0.5)
    give(p, 0)
    ours.step()
    theirs.step([to_numpy(q.grad) for q in p])
    assert_alike(p, ours, arrays, theirs)


# Errors.


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (7,)], ids=str)
def test_complex_parameters_are_errors(shape: tuple[int, ...], dtype: Any) -> None:
    p, q = torch.nn.Parameter(random(0, shape, dtype)), torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match="complex parameters"):
        ft.Muon([p])
    with pytest.raises(RuntimeError, match="complex parameters"):
        ft.Muon([{"params": [q]}, {"params": [p], "matrices": False}])
    optimizer = ft.Muon([q])
    with pytest.raises(RuntimeError, match="complex parameters"):
        optimizer.add_param_group({"params": [p]})
    assert [group["params"] for group in optimizer.param_groups] == [[q]]


def test_sparse_gradients_are_errors() -> None:
    """As in torch's; before anything is written."""
    p, q = parameters(shapes=[(5, 3), (5, 3)])
    before = [x.detach().clone() for x in (p, q)]
    optimizer = ft.Muon([p, q])
    give([p], 0)
    q.grad = random(1, (5, 3)).to_sparse(1)
    with pytest.raises(RuntimeError, match="parameter 1 of group 0 has a gradient of layout"):
        optimizer.step()
    assert all(map(torch.equal, (p, q), before))
    assert not optimizer.state


def test_errors_name_the_parameter() -> None:
    p, q = parameters(shapes=[(5, 3), (3, 5)])
    optimizer = ft.Muon([("one", p), ("other", q)])
    give([p], 0)
    q.grad = torch.ones(3, 5)
    q.data = p.data.view(3, 5)  # they share memory from now on
    with pytest.raises(ValueError, match=r"parameter '(one|other)' and parameter '(one|other)' share memory"):
        optimizer.step()
    assert torch.equal(p, random(0, (5, 3)))
    assert not optimizer.state


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("first", [True, False])
def test_errors_in_the_direction_leave_everything(
    first: bool, after: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many directions were made; the next step is as if it had not been."""
    p, q = (parameters(dtype=torch.bfloat16) for _ in range(2))
    ours, other = (ft.Muon(x, lr=0.1, clip_norm=1.0) for x in (p, q))
    if not first:
        for x, optimizer in ((p, ours), (q, other)):
            give(x, 0)
            optimizer.step()
    norm = ours.grad_norm
    before = [x.detach().clone() for x in p]
    states = [copy.deepcopy(ours.state.get(x)) for x in p]
    turn: Any = fs.Muon.update_matrix.turn
    calls: list[Any] = []

    def broken(*given: Any) -> Any:
        calls.append(given)
        if len(calls) > after:
            raise error
        return turn(*given)

    give(p, 1)
    with monkeypatch.context() as patch:
        patch.setitem(vars(fs.Muon.update_matrix), "turn", broken)
        with pytest.raises(error):
            ours.step()
    assert len(calls) == after + 1
    assert all(map(torch.equal, p, before))
    for x, state in zip(p, states, strict=True):
        assert_equal_state(ours.state.get(x), state)
    assert ours.grad_norm == norm
    for x, optimizer in ((p, ours), (q, other)):
        give(x, 2)
        optimizer.step()
    for a, b in zip(p, q, strict=True):
        assert torch.equal(a, b)
        assert_equal_state(ours.state[a], other.state[b])


@pytest.fixture
def mesh() -> Iterator[Any]:
    """Of this process alone."""
    dist = torch.distributed
    if not dist.is_available():
        pytest.skip("torch without torch.distributed")
    from torch.distributed.device_mesh import init_device_mesh

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_distributed_matrices_are_errors(mesh: Any) -> None:
    """Before anything is written; what steps as AdamW is none."""
    from torch.distributed.tensor import Shard, distribute_tensor

    def share(tensor: Any) -> Any:
        return torch.nn.Parameter(distribute_tensor(tensor, mesh, [Shard(0)]))

    plain, p, vector = parameters(shapes=[(3, 3)])[0], share(random(1, (6, 4))), share(random(2, (5,)))
    ours = ft.Muon([plain, p, vector])
    give([plain], 0)
    ours.step()  # without a gradient it is no matter
    state = copy.deepcopy(ours.state[plain])
    before = plain.detach().clone()
    give([plain], 1)
    p.grad = distribute_tensor(random(3, (6, 4)), mesh, [Shard(0)])
    with pytest.raises(RuntimeError, match=r"parameter 1 of group 0.*DTensor"):
        ours.step()
    assert torch.equal(plain, before)
    assert torch.equal(p.full_tensor(), random(1, (6, 4)))
    assert_equal_state(ours.state[plain], state)
    assert p not in ours.state
    q = [torch.nn.Parameter(random(1, (6, 4))), torch.nn.Parameter(random(2, (5,)))]
    other, alone = ft.Muon([p, vector], matrices=False), ft.AdamW(q, weight_decay=0.1)
    give(q, 1)
    for x, g in zip((p, vector), q, strict=True):
        x.grad = distribute_tensor(g.grad.clone(), mesh, [Shard(0)])
    other.step()
    alone.step()
    assert all(torch.equal(x.full_tensor(), y) for x, y in zip((p, vector), q, strict=True))

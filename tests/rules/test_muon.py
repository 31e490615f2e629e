"""Muon: matrices step along their orthogonalized momentum, all else as AdamW.

What it computes is written out once more, in the order of torch's lines; torch's own iterates in bfloat16,
which a test may keep it from.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.engines import DTYPES, MIXES, ml_dtypes, normal
from tests.helpers.exactly import assert_same, same_bits
from tests.helpers.examples import of_tensor, parameters, snapshot

Array = np.ndarray[Any, Any]
Options: TypeAlias = dict[str, Any]
Gradients: TypeAlias = list[Array | None]

STEPS = 5
TINY = 1e-9

MATRICES = {
    "wide": (5, 12),
    "tall": (12, 5),
    "square": (7, 7),
    "a row": (1, 9),
    "a column": (9, 1),
    "one element": (1, 1),
    "very wide": (3, 200),
    "very tall": (200, 3),
}
OTHERS: dict[str, tuple[int, ...]] = {
    "a number": (),
    "a vector": (9,),
    "a long vector": (5000,),
    "a stack": (2, 3, 4),
    "a stack of one": (1, 3, 4),
    "no vector": (0,),
}
# One is longer than what a kernel takes at once.
SOME_MATRICES: list[tuple[int, ...]] = [(70, 67), (6, 11), (11, 6), (1, 9), (9, 1), (0, 4), (3, 0)]
SHAPES: list[tuple[int, ...]] = [*SOME_MATRICES, (), (9,), (2, 3, 4)]
# One at another value than the default.
VARIANTS: dict[str, Options] = {
    "default": {},
    "lr": {"lr": 0.3},
    "no nesterov": {"nesterov": False},
    "match_rms": {"match_rms": True},
    "match_rms, no nesterov": {"match_rms": True, "nesterov": False},
    "momentum": {"momentum": 0.5},
    "no momentum": {"momentum": 0.0},
    "no momentum, no nesterov": {"momentum": 0.0, "nesterov": False},
    "no decay": {"weight_decay": 0.0},
    "much decay": {"weight_decay": 3.0},
    "ns_a": {"ns_a": 2.0},
    "ns_b": {"ns_b": -5.0},
    "ns_c": {"ns_c": 1.5},
    "cubic": {"ns_a": 1.5, "ns_b": -0.5, "ns_c": 0.0},
    "no ns_steps": {"ns_steps": 0},
    "one of ns_steps": {"ns_steps": 1},
    "many ns_steps": {"ns_steps": 9},
    "ns_eps": {"ns_eps": 100.0},
}
SCHEDULES: dict[str, Callable[[int], float]] = {
    "lr": lambda t: 0.1 / t,
    "momentum": lambda t: 0.9 - 0.2 * t / STEPS,
    "weight_decay": lambda t: 0.5 * t,
    "ns_a": lambda t: 3.0 + 0.1 * t,
    "ns_b": lambda t: -4.0 - 0.1 * t,
    "ns_c": lambda t: 2.0 - 0.1 * t,
    "ns_steps": lambda t: t % 3,
    "ns_eps": lambda t: 10.0 * t,
}
DEFAULTS: Options = {
    "lr": 1e-3,
    "momentum": 0.95,
    "nesterov": True,
    "match_rms": False,
    "ns_a": 3.4445,
    "ns_b": -4.775,
    "ns_c": 2.0315,
    "ns_steps": 5,
    "ns_eps": 1e-7,
    "weight_decay": 0.1,
}
each_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
each_matrix = pytest.mark.parametrize("shape", MATRICES.values(), ids=MATRICES)


def gradients(t: int, like: list[Array], mix: str = "float64") -> Gradients:
    """Those of step t: for most parameters, and for none at one step."""
    _, kind, _ = MIXES[mix]
    return [
        None
        if (i + t) % 4 == 0 or t == 3
        else normal(100 * t + i, p.shape, DTYPES[kind] if kind else p.dtype)
        for i, p in enumerate(like)
    ]


def close(found: Array, expected: Array, what: Any) -> None:
    """To a small part of the largest number."""
    expected = np.asarray(expected)
    unit = np.abs(expected).max(initial=TINY)
    rtol = {8: 1e-11, 4: 2e-5}[found.itemsize]
    if not (np.abs(found - expected) <= rtol * (unit + np.abs(expected))).all():  # faster than the error
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * unit, err_msg=str(what))
        pytest.fail(str(what))


# What it computes.


def zeropower(g: Array, a: float, b: float, c: float, steps: int, eps: float) -> Array:
    """The lines of torch's _zeropower_via_newtonschulz, without bfloat16."""
    x = g.copy()
    if g.shape[0] > g.shape[1]:
        x = x.T
    x = x / max(math.sqrt(float((x * x).sum())), eps)
    for _ in range(steps):
        gram = x @ x.T
        update = b * gram + c * gram @ gram
        x = a * x + update @ x
    if g.shape[0] > g.shape[1]:
        x = x.T
    return x


def transcribed(p: Array, g: Array, buf: Array, h: Options) -> tuple[Array, Array]:
    """The lines of torch's _single_tensor_muon: the next p and buf."""
    m, n = p.shape
    buf = buf + (1 - h["momentum"]) * (g - buf)
    update = g + h["momentum"] * (buf - g) if h["nesterov"] else buf
    update = zeropower(update, h["ns_a"], h["ns_b"], h["ns_c"], h["ns_steps"], h["ns_eps"])
    ratio = 0.2 * math.sqrt(max(m, n)) if h["match_rms"] else math.sqrt(max(1, m / n))
    return p * (1 - h["lr"] * h["weight_decay"]) - h["lr"] * ratio * update, buf


@pytest.mark.parametrize("kind", ["float64", "float32"])
@each_variant
def test_equals_its_transcription(options: Options, kind: str, backend: Any) -> None:
    p = [normal(1, shape, DTYPES[kind]) for shape in MATRICES.values()]
    expected = [(a.astype(np.float64), np.zeros(a.shape)) for a in p]
    opt = fs.Muon(p, **options, backend=backend)
    for t in range(STEPS):
        grads = [normal(10 + t, a.shape, DTYPES[kind]) for a in p]
        before = [a.copy() for a in p]
        opt.step(grads)
        for i, (name, g) in enumerate(zip(MATRICES, grads, strict=True)):
            of_p, buf = expected[i]
            expected[i] = transcribed(of_p, g.astype(np.float64), buf, DEFAULTS | options)
            close(p[i], expected[i][0], (name, t))
            close(opt.state[i]["buf"], expected[i][1], (name, t))
            assert np.abs(p[i] - before[i]).max() > 1e-7


@pytest.mark.parametrize("name", SCHEDULES)
@each_matrix
def test_schedules(name: str, shape: tuple[int, int], backend: Any) -> None:
    p = normal(1, shape)
    expected, buf = p.copy(), np.zeros(shape)
    options: Options = {"lr": 0.1, name: SCHEDULES[name]}
    opt = fs.Muon([p], **options, backend=backend)
    for t in range(1, STEPS + 1):
        g = normal(10 + t, shape)
        h = DEFAULTS | {"lr": 0.1, name: SCHEDULES[name](t)}
        expected, buf = transcribed(expected, g, buf, h)
        opt.step([g])
        close(p, expected, t)
        close(opt.state[0]["buf"], buf, t)


def test_hyperparameters_that_are_set_between_steps(backend: Any) -> None:
    p, shape = normal(1, (5, 12)), (5, 12)
    expected, buf, h = p.copy(), np.zeros(shape), dict(DEFAULTS)
    opt: Any = fs.Muon([p], backend=backend)
    for t, options in enumerate(VARIANTS.values()):
        for name, value in options.items():
            setattr(opt, name, value)
        h |= options
        g = normal(10 + t, shape)
        expected, buf = transcribed(expected, g, buf, h)
        opt.step([g])
        close(p, expected, options)


def in_torch(options: Options) -> Options:
    """The arguments of torch.optim.Muon."""
    h = DEFAULTS | options
    return {
        "lr": h["lr"],
        "weight_decay": h["weight_decay"],
        "momentum": h["momentum"],
        "nesterov": h["nesterov"],
        "ns_coefficients": (h["ns_a"], h["ns_b"], h["ns_c"]),
        "eps": h["ns_eps"],
        "ns_steps": h["ns_steps"],
        "adjust_lr_fn": "match_rms_adamw" if h["match_rms"] else None,
    }


@each_variant
def test_equals_torch_that_keeps_precision(
    options: Options, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    p = [normal(1, shape) for shape in MATRICES.values()]
    q = [torch.tensor(a) for a in p]
    ours, theirs = fs.Muon(p, **options), torch.optim.Muon(q, **in_torch(options))
    for t in range(STEPS):
        grads = [normal(10 + t, a.shape) for a in p]
        for b, g in zip(q, grads, strict=True):
            b.grad = torch.tensor(g)
        theirs.step()
        ours.step(grads)
        for i, (a, b) in enumerate(zip(p, q, strict=True)):
            close(a, b.numpy(), (a.shape, t))
            close(ours.state[i]["buf"], theirs.state[b]["momentum_buffer"].numpy(), (a.shape, t))


@pytest.mark.parametrize("options", [{}, {"match_rms": True, "nesterov": False}], ids=str)
@each_matrix
def test_equals_torch_within_the_error_of_bfloat16(
    options: Options, shape: tuple[int, int], torch: Any
) -> None:
    p = normal(1, shape)
    q = torch.tensor(p)
    ours = fs.Muon([p], **options, lr=1.0, weight_decay=0.0)
    theirs = torch.optim.Muon([q], **in_torch(options | {"lr": 1.0, "weight_decay": 0.0}))
    for t in range(STEPS):
        g, before, theirs_before = normal(10 + t, shape), p.copy(), q.numpy().copy()
        q.grad = torch.tensor(g)
        theirs.step()
        ours.step([g])
        step, expected = p - before, q.numpy() - theirs_before
        assert np.linalg.norm(step - expected) < 0.08 * np.linalg.norm(expected)
        assert not np.array_equal(step, expected)


# What the direction is.


def well_conditioned(seed: int, shape: tuple[int, int]) -> Array:
    """Of singular values between 0.5 and 2."""
    u, _, v = np.linalg.svd(normal(seed, shape), full_matrices=False)
    s = np.random.default_rng(seed + 1).uniform(0.5, 2.0, min(shape))
    return np.asarray((u * s) @ v)


def singular_values(matrix: Array) -> Array:
    return np.linalg.svd(matrix.astype(np.float64), compute_uv=False)


@pytest.mark.parametrize("ns_steps", [5, 6, 15, 40])
@pytest.mark.parametrize("match_rms", [False, True])
@each_matrix
def test_singular_values_of_the_direction(
    shape: tuple[int, int], match_rms: bool, ns_steps: int, backend: Any
) -> None:
    for kind in ("float64", "float32"):
        p = np.zeros(shape, DTYPES[kind])
        g = (100 * well_conditioned(3, shape)).astype(DTYPES[kind])
        opt = fs.Muon([p], lr=0.25, weight_decay=0, match_rms=match_rms, ns_steps=ns_steps, backend=backend)
        opt.step([g])
        length = 0.2 * math.sqrt(max(shape)) if match_rms else math.sqrt(max(1, shape[0] / shape[1]))
        direction = -p.astype(np.float64) / (0.25 * length)
        s = singular_values(direction)
        assert s.min() > 0.5
        assert s.max() < 1.5
        # The singular vectors are those of the gradient.
        u, _, v = np.linalg.svd(g.astype(np.float64), full_matrices=False)
        inner = u.T @ direction @ v.T
        np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-5)
        assert np.diag(inner).min() > 0.5


def test_the_cubic_iteration_leads_to_the_polar_factor(backend: Any) -> None:
    for shape in MATRICES.values():
        p, g = np.zeros(shape), well_conditioned(5, shape)
        options: Options = {"ns_a": 1.5, "ns_b": -0.5, "ns_c": 0.0, "ns_steps": 40}
        fs.Muon([p], lr=1.0, weight_decay=0, backend=backend, **options).step([g])
        u, _, v = np.linalg.svd(g, full_matrices=False)
        np.testing.assert_allclose(p, -math.sqrt(max(1, shape[0] / shape[1])) * (u @ v), atol=1e-12)


@pytest.mark.parametrize("kind", DTYPES)
@each_matrix
def test_the_length_of_the_gradient_does_not_matter(shape: tuple[int, int], kind: str, backend: Any) -> None:
    """Of the first, which is all that the momentum has seen."""
    dtype = DTYPES[kind]
    g = normal(2, shape).astype(dtype)
    plain = normal(1, shape, dtype)
    start = plain.copy()
    fs.Muon([plain], lr=0.25, backend=backend).step([g])
    assert np.abs((plain - start).astype(np.float64)).max() > 0.01
    for factor in (2.0**-6, 2.0**5, -(2.0**4)):
        p = start.copy() if factor > 0 else -start
        fs.Muon([p], lr=0.25, backend=backend).step([(factor * g.astype(np.float64)).astype(dtype)])
        # Powers of two change no rounding but where the iteration begins.
        expected = (plain if factor > 0 else -plain).astype(np.float64)
        eps = float(ml_dtypes.finfo(dtype).eps)
        np.testing.assert_allclose(p.astype(np.float64), expected, rtol=8 * eps, atol=8 * eps)


def test_turned_matrices(backend: Any) -> None:
    """But for the length, a matrix and its transpose step alike."""
    start, g = normal(1, (12, 5)), normal(2, (12, 5))
    p, q = start.copy(), start.T.copy()
    fs.Muon([p], match_rms=True, lr=0.1, backend=backend).step([g])
    fs.Muon([q], match_rms=True, lr=0.1, backend=backend).step([g.T.copy()])
    np.testing.assert_allclose(q.T, p, rtol=1e-12)
    p, q = np.zeros((12, 5)), np.zeros((5, 12))
    fs.Muon([p], lr=0.1, backend=backend).step([g])
    fs.Muon([q], lr=0.1, backend=backend).step([g.T.copy()])
    np.testing.assert_allclose(p, math.sqrt(12 / 5) * q.T, rtol=1e-12)


# Which parameters are matrices.


OF_ADAMW: dict[str, Options] = {
    "default": {"lr": 0.02},
    "betas": {"lr": 0.02, "beta1": 0.5, "beta2": 0.75, "eps": 0.1},
    "amsgrad": {"lr": 0.02, "beta2": 0.5, "amsgrad": True},
    "cautious": {"lr": 0.02, "cautious": True},
    "without correction": {"lr": 0.02, "bias_correction": False, "weight_decay": 0.3},
    "eps_hat": {"lr": 0.02, "eps_hat": True, "ema": 0.5},
}


@pytest.mark.parametrize("mix", ["float32", "state in float32", "of all types"])
@pytest.mark.parametrize("options", OF_ADAMW.values(), ids=OF_ADAMW)
def test_all_else_steps_as_adamw(options: Options, mix: str, backend: Any) -> None:
    """Beside matrices, that step as without it; and matrices too in a group that has none."""
    embedding, hidden = normal(50, (70, 67), np.float32), normal(51, (6, 11), np.float32)
    shapes = list(OTHERS.values())
    p, q = parameters(shapes, mix), parameters(shapes, mix)
    table = embedding.copy()
    alone = hidden.copy()
    common: Options = {"weight_decay": 0.1, "backend": backend, "state_dtype": MIXES[mix][2]} | options
    ours = fs.Muon([{"params": [hidden, *p]}, {"params": embedding, "matrices": False}], **common)
    adamw = fs.AdamW([*q, table], **common)
    muon = fs.Muon([alone], **common)
    for t in range(STEPS):
        grads = gradients(t, p, mix)
        of_table = None if t == 1 else normal(60 + t, table.shape, np.float32)
        g = None if t == 2 else normal(70 + t, hidden.shape, np.float32)
        ours.step([[g, *grads], of_table])
        adamw.step([*grads, of_table])
        muon.step([g])
    found = {f"p {i}": a for i, a in enumerate([*p, embedding])}
    of_hidden, *states = ours.state.values()
    found |= {f"{slot} {i}": a for i, slots in enumerate(states) for slot, a in slots.items()}
    assert_same(found | {"t": np.array(float(ours.t))}, snapshot(adamw, [*q, table]))
    assert_same({"p": hidden, **of_hidden}, {"p": alone, **muon.state[0]})
    assert not np.array_equal(table, normal(50, (70, 67), np.float32))
    assert not np.array_equal(alone, normal(51, (6, 11), np.float32))


def test_matrices_in_a_group_without_step_otherwise_than_in_one_with(backend: Any) -> None:
    p, q, g = normal(1, (6, 11)), normal(1, (6, 11)), normal(2, (6, 11))
    fs.Muon([p], lr=0.02, backend=backend).step([g])
    fs.Muon([q], lr=0.02, matrices=False, backend=backend).step([g])
    assert not np.allclose(p, q, rtol=1e-3)


@pytest.mark.parametrize("options", [{}, {"ema": 0.5}, {"amsgrad": True}], ids=str)
@pytest.mark.parametrize("state_dtype", [None, "float32", "bfloat16"])
def test_names_of_state(options: Options, state_dtype: str | None, backend: Any) -> None:
    """What is made of a matrix at a step is none of it."""
    p = parameters(SHAPES, "float32")
    opt = fs.Muon(p, **options, state_dtype=state_dtype, backend=backend)
    opt.step([normal(i, a.shape, a.dtype) for i, a in enumerate(p)])
    extra = {"ema"} if "ema" in options else set()
    for i, (a, slots) in enumerate(zip(p, opt.state.values(), strict=True)):
        moments = {"m", "v", "vmax"} if "amsgrad" in options else {"m", "v"}
        assert set(slots) == ({"buf"} if i < len(SOME_MATRICES) else moments) | extra
        assert opt.state_dict()["state"][i].keys() == slots.keys()
        for array in slots.values():
            assert array.shape == a.shape
            assert array.dtype == DTYPES[state_dtype or "float32"]
    none = fs.Muon(p, **options, matrices=False)
    assert all(set(slots) == moments | extra for slots in none.state.values())


# To each tensor its own.


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_what_is_not_finite_stays_in_its_matrix(bad: float, backend: Any) -> None:
    """And is nothing to warn of."""
    start = parameters([(6, 11), (11, 6), (9,), (5, 5)])
    given = [[normal(10 * t + i, p.shape) for i, p in enumerate(start)] for t in range(STEPS)]

    def run(spoilt: bool) -> dict[str, Array]:
        p = [a.copy() for a in start]
        opt = fs.Muon(p, lr=0.1, backend=backend)
        for t, grads in enumerate(given):
            seen = [g.copy() for g in grads]
            if spoilt and t == 2:
                seen[1][4, 3] = bad
            opt.step(seen)
        return snapshot(opt, p)

    clean = run(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoilt = run(True)
    for i in (0, 2, 3):
        assert_same(of_tensor(spoilt, i), of_tensor(clean, i))
    assert not same_bits(spoilt["p 1"], clean["p 1"])
    if not math.isfinite(bad):
        assert np.isnan(spoilt["p 1"]).all()
        assert not np.isfinite(spoilt["buf 1"][4, 3])
        assert np.isfinite(np.delete(spoilt["buf 1"].ravel(), 4 * 6 + 3)).all()


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 6e4, 1e38])
def test_no_warnings(bad: float, kind: str, backend: Any) -> None:
    """As no rule has any: what overflows is in the numbers."""
    with np.errstate(over="ignore"):
        g = np.full((6, 11), bad).astype(DTYPES[kind])
    opt = fs.Muon([normal(1, (6, 11), DTYPES[kind])], backend=backend)
    opt.step([g])
    opt.step([g])


@pytest.mark.parametrize("ns_eps", [1e-7, 0.0])
def test_zero_gradients_without_least_norm(ns_eps: float, backend: Any) -> None:
    """0/0 where the least norm is 0, and is nothing to warn of."""
    p = normal(1, (6, 11))
    fs.Muon([p], ns_eps=ns_eps, backend=backend).step([np.zeros((6, 11))])
    assert np.isnan(p).all() == (ns_eps == 0)


@pytest.mark.parametrize("kind", DTYPES)
@each_matrix
def test_zero_gradients(shape: tuple[int, int], kind: str, backend: Any) -> None:
    """At first, only the decay is left; later they leave the momentum."""
    dtype = DTYPES[kind]
    p = normal(1, shape, dtype)
    expected: Array = p.astype(np.float64 if kind == "float64" else np.float32)
    keep = np.full(shape, 1 - 0.5 * 0.5, expected.dtype)
    opt = fs.Muon([p], lr=0.5, weight_decay=0.5, backend=backend)
    opt.step([np.zeros(shape, dtype)])
    assert same_bits(p, (keep * expected).astype(dtype))
    assert not opt.state[0]["buf"].any()
    opt.step([normal(2, shape, dtype)])
    before = p.copy()
    opt.weight_decay = 0.0
    opt.step([np.zeros(shape, dtype)])
    assert np.isfinite(p.astype(np.float64)).all()
    assert not np.array_equal(p, before)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)], ids=str)
def test_matrices_of_no_size(shape: tuple[int, int], backend: Any) -> None:
    p = [np.zeros(shape), normal(1, (3, 4))]
    q = [normal(1, (3, 4))]
    ours, alone = fs.Muon(p, backend=backend), fs.Muon(q, backend=backend)
    for t in range(3):
        g = normal(2 + t, (3, 4))
        ours.step([np.zeros(shape) if t else None, g], clip_norm=1.0)
        alone.step([g], clip_norm=1.0)
    assert p[0].shape == ours.state[0]["buf"].shape == shape
    assert same_bits(p[1], q[0])
    for match_rms in (False, True):
        fs.Muon([p[0]], match_rms=match_rms, backend=backend).step([np.zeros(shape)])


# With what else a step does.


@pytest.mark.parametrize(
    ("options", "of_step"),
    [
        ({"l1": 0.5}, {}),
        ({"l2": 0.5}, {}),
        ({"maximize": True}, {}),
        ({}, {"scale": -1.0}),
        ({}, {"clip_value": 0.3}),
        ({"l2": 0.5}, {"clip_norm": 0.1}),
    ],
    ids=str,
)
def test_every_option_alone_changes_the_direction(options: Options, of_step: Options, backend: Any) -> None:
    """Both passes see the same gradient: the transcription of that one."""
    start, g = normal(1, (6, 11)), normal(2, (6, 11))
    p, plain = start.copy(), start.copy()
    opt = fs.Muon([p], lr=0.1, **options, backend=backend)
    opt.step([g], **of_step)
    fs.Muon([plain], lr=0.1, backend=backend).step([g])
    limit = of_step.get("clip_value", math.inf)
    seen = of_step.get("scale", 1.0) * (-g if options.get("maximize") else g)
    if "clip_norm" in of_step:
        seen = seen * of_step["clip_norm"] / (np.linalg.norm(g) + 1e-6)
    seen = (
        np.clip(seen, -limit, limit)
        + options.get("l2", 0.0) * start
        + options.get("l1", 0.0) * np.sign(start)
    )
    expected, buf = transcribed(start, seen, np.zeros_like(start), DEFAULTS | {"lr": 0.1})
    close(p, expected, options)
    close(opt.state[0]["buf"], buf, options)
    assert np.abs(p - plain).max() > 1e-3


# Errors.


def test_matrices_are_fixed(backend: Any) -> None:
    p = [normal(1, (6, 11)), normal(2, 5)]
    opt = fs.Muon([{"params": p[0]}, {"params": p[1], "matrices": False}], backend=backend)
    opt.step([normal(3, (6, 11)), normal(4, 5)])
    before = snapshot(opt, [])
    with pytest.raises(ValueError, match="matrices=False needs other state"):
        opt.groups[0]["matrices"] = False
    with pytest.raises(ValueError, match="matrices=True needs other state"):
        opt.groups[1]["matrices"] = True
    for value in (True, False):
        with pytest.raises(ValueError, match=f"matrices={value} needs other state"):
            opt.matrices = value
    with pytest.raises(TypeError, match="matrices must be True or False"):
        fs.Muon(p, matrices=1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="matrices must be True or False"):
        fs.Muon(p, matrices=lambda _: True)  # type: ignore[arg-type]
    assert [group["matrices"] for group in opt.groups] == [True, False]
    opt.groups[0]["matrices"] = True  # what it is
    assert_same(snapshot(opt, []), before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("momentum", 1.0),
        ("lr", -1.0),
        ("weight_decay", -1.0),
        ("ns_steps", -1),
        ("ns_eps", -1.0),
        ("ns_a", math.nan),
        ("ns_b", math.inf),
        ("ns_c", -math.inf),
    ],
)
def test_intervals(name: str, value: float, backend: Any) -> None:
    options: Options = {name: value}
    with pytest.raises(ValueError, match=f"{name} must be in"):
        fs.Muon([np.ones((2, 2))], **options)
    options = {name: lambda t: value if t == 2 else DEFAULTS[name]}
    p = normal(1, (6, 11))
    opt = fs.Muon([p], **options, backend=backend)
    opt.step([normal(2, (6, 11))])
    before = snapshot(opt, [p])
    with pytest.raises(ValueError, match=rf"{name}\(2\) must be in"):
        opt.step([normal(3, (6, 11))])
    assert_same(snapshot(opt, [p]), before)


# Checkpoints.


def test_checkpoints_of_others_are_errors() -> None:
    """One whose matrices step as AdamW's, one with the direction in it, one of AdamW."""
    p = [normal(1, (6, 11)), normal(2, 5)]
    opt = fs.Muon(p)
    opt.step([np.ones_like(a) for a in p])
    before = snapshot(opt, p)
    with pytest.raises(ValueError, match="matrices=False needs other state"):
        opt.load_state_dict(fs.Muon(p, matrices=False).state_dict())
    with pytest.raises(ValueError, match="the checkpoint is of AdamW"):
        opt.load_state_dict(fs.AdamW(p).state_dict())
    saved = opt.state_dict()
    saved["state"][0]["o"] = np.zeros((6, 11))
    with pytest.raises(ValueError, match="'o' does not belong here"):
        opt.load_state_dict(saved)
    del saved["state"][0]["o"], saved["state"][0]["buf"]
    with pytest.raises(ValueError, match="'buf' is missing"):
        opt.load_state_dict(saved)
    assert_same(snapshot(opt, p), before)

"""Muon: matrices step along their orthogonalized momentum, all else as AdamW.

What it computes is written out once more, in the order of torch's lines; torch's own iterates in bfloat16,
which a test may keep it from.
"""

from __future__ import annotations

import itertools
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

import fusedstep as fs
from engines import BACKENDS, DTYPES, ENGINES, MIXES, ml_dtypes, normal, with_gaps
from exactly import same_bits

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
NOTHING = [None] * len(SHAPES)

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
# Of three groups that differ, whose parameters are by turns; of the last, no matrix steps as one.
GROUPS: list[Options] = [
    {"lr": 0.02},
    {"lr": 0.05, "nesterov": False, "match_rms": True, "weight_decay": 0.3, "ns_steps": 3, "momentum": 0.5},
    {"lr": 0.01, "matrices": False, "beta1": 0.5},
]


each_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
each_matrix = pytest.mark.parametrize("shape", MATRICES.values(), ids=MATRICES)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def parameters(mix: str = "float64", shapes: list[tuple[int, ...]] = SHAPES) -> list[Array]:
    kinds, _, _ = MIXES[mix]
    return [normal(i, shape, DTYPES[kinds[i % len(kinds)]]) for i, shape in enumerate(shapes)]


def gradients(t: int, like: list[Array], mix: str = "float64") -> Gradients:
    """Those of step t: for most parameters, and for none at one step."""
    _, kind, _ = MIXES[mix]
    return [
        None
        if (i + t) % 4 == 0 or t == 3
        else normal(100 * t + i, p.shape, DTYPES[kind] if kind else p.dtype)
        for i, p in enumerate(like)
    ]


def grouped(p: list[Array], **options: Any) -> fs.Muon:
    """Parameters by turns in the three groups, named by their number."""
    return fs.Muon(
        [{"params": {i: p[i] for i in range(k, len(p), 3)}, **own} for k, own in enumerate(GROUPS)], **options
    )


def by_number(grads: Gradients) -> dict[int, Array | None]:
    return dict(enumerate(grads))


def snapshot(opt: Any, p: list[Array]) -> dict[str, Array]:
    """Copies of all that a step may change."""
    found = {f"p {i}": array.copy() for i, array in enumerate(p)}
    for name, slots in opt.state.items():
        found |= {f"{slot} {name}": array.copy() for slot, array in slots.items()}
    return found | {"t": np.array(float(opt.t))}


def of_tensor(found: dict[str, Array], i: int) -> dict[str, Array]:
    return {name: array for name, array in found.items() if name.endswith(f" {i}")}


def assert_same(found: dict[str, Array], expected: dict[str, Array], context: Any = None) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.shape == expected[name].shape
        a, b = (np.atleast_1d(np.ascontiguousarray(x)) for x in (array, expected[name]))
        assert same_bits(a, b), (name, context)


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
    p, q = parameters(mix, shapes), parameters(mix, shapes)
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
    p = parameters("float32")
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


def test_state_begins_at_zero(backend: Any) -> None:
    p = parameters()
    opt = fs.Muon(p, backend=backend)
    assert not any(array.any() for slots in opt.state.values() for array in slots.values())


# One result, whatever runs.


@pytest.mark.parametrize("options", [{}, {"ema": 0.5, "l1": 0.01, "l2": 0.02, "maximize": True}], ids=str)
@pytest.mark.parametrize("mix", MIXES)
def test_native_equals_numpy(mix: str, options: Options) -> None:
    """In three groups, with gradients missing; what has none is left alone."""
    given = [gradients(t, parameters(mix), mix) for t in range(STEPS)]

    def run(backend: Any, seen: list[dict[str, Array]] | None = None) -> dict[str, Array]:
        p = parameters(mix)
        opt = grouped(p, state_dtype=MIXES[mix][2], backend=backend, **options)
        for grads in given:
            if seen is not None:
                seen.append(snapshot(opt, p))
            opt.step(by_number(grads), clip_norm=100.0)
        return snapshot(opt, p)

    seen: list[dict[str, Array]] = []
    expected = run("numpy", seen)
    for grads, before, after in zip(given, seen, [*seen[1:], expected], strict=True):
        for i, g in enumerate(grads):
            own, old = of_tensor(after, i), of_tensor(before, i)
            if g is None:
                assert_same(own, old)
            else:
                moved = not np.array_equal(own[f"p {i}"], old[f"p {i}"])
                assert moved or g.size == 0 or own[f"p {i}"].itemsize == 2
    for isa, threads in itertools.product(fs.info()["isas"], [1, 2, 3]):
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        assert_same(run("native"), expected, (isa, threads))


def in_fortran_order(a: Array) -> Array:
    return a.copy(order="F")


LAYOUTS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "Fortran": (in_fortran_order, in_fortran_order),
    "Fortran, the gradient not": (in_fortran_order, np.copy),
    "the gradient Fortran": (np.copy, in_fortran_order),
    "gaps": (with_gaps, np.copy),
    "gaps in the gradient": (np.copy, with_gaps),
    "gaps in both": (with_gaps, with_gaps),
    "rows with gaps": (lambda a: np.repeat(a, 2, axis=0)[::2], np.copy),
    "backwards": (lambda a: a[::-1].copy()[::-1], np.copy),
    "the gradient backwards": (np.copy, lambda a: a[:, ::-1].copy()[:, ::-1]),
}


@pytest.mark.parametrize("mix", ["float64", "bfloat16", "state in float32"])
@pytest.mark.parametrize("shape", [(70, 67), (3, 8), (1, 9), (9, 1)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, shape: tuple[int, int], mix: str) -> None:
    """The numbers of contiguous arrays: to the bit where only the gradient or gaps are otherwise."""
    of_p, of_g = LAYOUTS[layout]
    kinds, kind, state_dtype = MIXES[mix]
    start = normal(0, shape, DTYPES[kinds[0]])
    given = [normal(t, shape, DTYPES[kind or kinds[0]]) for t in range(1, 4)]

    def run(p: Array, grads: list[Array], backend: Any) -> dict[str, Array]:
        opt = fs.Muon([p], lr=0.1, state_dtype=state_dtype, backend=backend)
        for g in grads:
            opt.step([g])
        return {"p": p.copy(), "buf": opt.state[0]["buf"].copy()}

    plain = run(start.copy(), given, "numpy")
    expected = run(of_p(start), [of_g(g) for g in given], "numpy")
    turned = layout in {"Fortran", "Fortran, the gradient not", "backwards"}
    if not turned:
        assert_same(expected, plain)
    eps = float(ml_dtypes.finfo(DTYPES[kinds[0]]).eps)
    for name, array in expected.items():
        a, b = (x.astype(np.float64) for x in (array, plain[name]))
        np.testing.assert_allclose(a, b, rtol=20 * eps, atol=20 * eps)
    for engine, isa, threads in ENGINES:
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        assert_same(run(of_p(start), [of_g(g) for g in given], engine), expected, (engine, isa, threads))


def test_gaps_are_not_written(backend: Any) -> None:
    memory = np.full((6, 22), 7.0)
    fs.Muon([memory[:, ::2]], lr=0.1, backend=backend).step([normal(1, (6, 11))])
    assert (memory[:, 1::2] == 7).all()
    assert (memory[:, ::2] != 7).any()


# To each tensor its own.


def test_other_tensors_do_not_matter(backend: Any) -> None:
    """Alone, or in another order: the same bits."""
    start = parameters()
    given = [gradients(t, start) for t in range(STEPS)]

    def run(order: list[int]) -> dict[str, Array]:
        p = {i: start[i].copy() for i in order}
        opt = fs.Muon(p, lr=0.1, backend=backend)
        for grads in given:
            opt.step({i: grads[i] for i in order})
        found = {f"p {i}": array for i, array in p.items()}
        return found | {f"{slot} {i}": a for i, slots in opt.state.items() for slot, a in slots.items()}

    everything = list(range(len(start)))
    expected = run(everything)
    assert_same(run(everything[::-1]), expected)
    for i in everything:
        assert_same(run([i]), of_tensor(expected, i), i)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_what_is_not_finite_stays_in_its_matrix(bad: float, backend: Any) -> None:
    """And is nothing to warn of."""
    start = parameters(shapes=[(6, 11), (11, 6), (9,), (5, 5)])
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


def test_steps_without_a_gradient(backend: Any) -> None:
    """Of one, or of all: matrix and momentum stay as they are, and steps are counted."""
    p = parameters()
    opt = grouped(p, backend=backend)
    opt.step(by_number(gradients(1, p)))
    before = snapshot(opt, p)
    assert opt.step(by_number(list(NOTHING)), clip_norm=1.0) == (0.0, False)
    after = snapshot(opt, p)
    assert opt.t == 2
    assert_same(after, before | {"t": np.array(2.0)})
    grads: Gradients = [None if i != 1 else normal(5, a.shape) for i, a in enumerate(p)]
    opt.step(by_number(grads), zero_grad=True)
    last = snapshot(opt, p)
    for i in range(len(p)):
        if i != 1:
            assert_same(of_tensor(last, i), of_tensor(before, i))
        else:
            assert not np.array_equal(last["p 1"], before["p 1"])
            assert not np.array_equal(last["buf 1"], before["buf 1"])


# With what else a step does.


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_options_by_hand(kind: str, backend: Any) -> None:
    """What comes before the rule, done to the arrays before a plain step; and the average after it."""
    number = DTYPES[kind].type
    l1, l2, ema = 0.01, 0.02, 0.75

    def decay(t: int) -> float:
        return 0.3 / t

    p, q = parameters(kind), parameters(kind)
    groups = [{k: v for k, v in group.items() if k != "weight_decay"} for group in GROUPS]
    names = [range(k, len(p), 3) for k in range(3)]
    opt = fs.Muon(
        [{"params": {i: p[i] for i in part}, **g} for part, g in zip(names, groups, strict=True)],
        l1=l1,
        l2=l2,
        ema=ema,
        weight_decay=decay,
        maximize=True,
        backend=backend,
    )
    plain = fs.Muon(
        [{"params": {i: q[i] for i in part}, **g} for part, g in zip(names, groups, strict=True)],
        weight_decay=0.0,
        backend=backend,
    )
    means = [array.copy() for array in q]
    lr: list[float] = [group["lr"] for group in plain.groups]
    step_options: list[Options] = [
        {"scale": 0.5},
        {"scale": -1.5, "clip_norm": 3.0},
        {"clip_value": 0.3, "zero_grad": True},
        {"scale": 3.0, "clip_norm": 2.0, "clip_value": 0.01, "skip_nonfinite": True},
    ]
    for t, options in enumerate(step_options, 1):
        grads = [normal(50 * t + i, a.shape, number) if (i + t) % 4 else None for i, a in enumerate(p)]
        limit, scale = options.get("clip_value", math.inf), options.get("scale", 1.0)
        if "clip_norm" in options:
            order = [i for part in names for i in part]
            norm = fs.global_norm([g for i in order if (g := grads[i]) is not None]) * abs(scale)
            assert options["clip_norm"] < norm
            scale *= options["clip_norm"] / (norm + 1e-6)
        seen: Gradients = []
        for i, (g, a) in enumerate(zip(grads, q, strict=True)):
            if g is None:
                seen.append(None)
                continue
            clipped = np.clip(number(-scale) * g, number(-limit), number(limit))
            seen.append(np.asarray(clipped + number(l2) * a + number(l1) * np.sign(a)))
            a[...] = number(1 - lr[i % 3] * decay(t)) * a
        result = opt.step(by_number(grads), **options)
        assert result.skipped is False
        assert (result.grad_norm is None) == (t in {1, 3})
        plain.step(by_number(seen))
        for g, a, mean in zip(grads, q, means, strict=True):
            if g is not None:
                mean[...] = number(ema) * mean + number(1 - ema) * a
                assert bool(g.any()) != (options.get("zero_grad", False) or g.size == 0)
    found = snapshot(opt, p)
    assert_same(
        {f"ema {i}": found.pop(f"ema {i}") for i in range(len(p))},
        {f"ema {i}": m for i, m in enumerate(means)},
    )
    assert_same(found, snapshot(plain, q))


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


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_skipped_step_changes_nothing(bad: float, backend: Any) -> None:
    p = parameters()
    opt = grouped(p, backend=backend, ema=0.5)
    opt.step(by_number(gradients(1, p)))
    before = snapshot(opt, p)
    grads = by_number(gradients(2, p))
    last = grads[1]
    assert last is not None
    last[-1, -1] = bad
    assert opt.step(grads, skip_nonfinite=True, zero_grad=True).skipped
    assert not any(g.any() for g in grads.values() if g is not None)
    assert_same(snapshot(opt, p), before)


def test_gradients_stay_as_they_are(backend: Any) -> None:
    """Without zero_grad; with it they are 0, whatever their layout, and after they were read."""
    p, plain = [normal(1, (6, 11)), normal(2, (11, 6))], [normal(1, (6, 11)), normal(2, (11, 6))]
    ours, other = fs.Muon(p, backend=backend), fs.Muon(plain, backend=backend)
    for t in range(3):
        grads = [np.asfortranarray(normal(5 + t, (6, 11))), normal(6 + t, (11, 6))]
        copies = [g.copy() for g in grads]
        other.step(grads, clip_value=0.5)
        assert all(map(same_bits, map(np.ravel, grads), map(np.ravel, copies)))
        ours.step(grads, clip_value=0.5, zero_grad=True)
        assert not any(g.any() for g in grads)
    assert all(map(same_bits, p, plain))


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


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_errors_in_the_direction_leave_everything(
    after: int, error: type[BaseException], backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many directions were made; the next step is as if it had not been."""
    p, q = parameters(), parameters()
    memory = np.repeat(p[1], 2, axis=1)
    p[1] = memory[:, ::2]
    opt, other = (grouped(x, backend=backend, ema=0.5, amsgrad=True) for x in (p, q))
    first = [normal(i, a.shape) for i, a in enumerate(p)]
    opt.step(by_number(list(first)))
    other.step(by_number(list(first)))
    before = snapshot(opt, p)
    grads = [normal(50 + i, a.shape) for i, a in enumerate(p)]
    turn: Any = fs.Muon.update_matrix.turn
    calls: list[Any] = []

    def broken(*given: Any) -> Any:
        calls.append(given)
        if len(calls) > after:
            raise error
        return turn(*given)

    with monkeypatch.context() as patch:
        patch.setitem(vars(fs.Muon.update_matrix), "turn", broken)
        with pytest.raises(error):
            opt.step(by_number(list(grads)), zero_grad=True, clip_norm=1.0)
    assert len(calls) == after + 1
    assert_same(snapshot(opt, p), before)
    assert all(same_bits(g, normal(50 + i, g.shape)) for i, g in enumerate(grads))
    for t in (2, 3):
        grads = [normal(50 * t + i, a.shape) for i, a in enumerate(p)]
        opt.step(by_number(list(grads)))
        other.step(by_number(list(grads)))
        assert_same(snapshot(opt, p), snapshot(other, q))


def broken_decay(t: int) -> float:
    if t == 2:
        raise ArithmeticError("no weight decay")
    return 0.1


def test_errors_leave_everything(backend: Any) -> None:
    p = parameters()
    opt = grouped(p, backend=backend, l2=broken_decay)
    opt.step(by_number(gradients(1, p)))
    before = snapshot(opt, p)
    good: dict[int, Any] = {i: normal(i, a.shape) for i, a in enumerate(p)}

    def check(grads: dict[int, Any], error: Any, message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            opt.step(grads, zero_grad=True, clip_norm=1.0, **options)
        assert_same(snapshot(opt, p), before)
        for i, g in good.items():
            assert same_bits(np.atleast_1d(g), np.atleast_1d(normal(i, p[i].shape)))

    check(good, ArithmeticError, "no weight decay")
    opt.l2 = 0.1
    check({**good, 1: np.ones((11, 6))}, ValueError, "gradient 1 has shape")
    check({**good, 2: good[2].astype(np.float32)}, TypeError, "gradient 2 has dtype")
    check({**good, 0: p[0]}, ValueError, "shares memory")
    check({**good, 0: opt.state[0]["buf"]}, ValueError, "shares memory")
    check(good, ValueError, "scale", scale=math.nan)
    p[1].flags.writeable = False
    check(good, ValueError, "parameter 1 is read-only")
    p[1].flags.writeable = True
    opt.step(good)
    assert opt.t == 2


# Checkpoints.


@pytest.mark.parametrize(("saving", "loading"), [("native", "numpy"), ("numpy", "native")])
@pytest.mark.parametrize("mix", ["float32", "bfloat16", "state in float32", "of all types"])
def test_a_run_goes_on_from_a_checkpoint(mix: str, saving: Any, loading: Any) -> None:
    """Into an optimizer that had gone another way."""
    p = parameters(mix)
    state_dtype = MIXES[mix][2]
    opt = grouped(p, backend=saving, state_dtype=state_dtype)
    for t in range(4):
        opt.step(by_number(gradients(t, p, mix)))
    saved = pickle.dumps(opt.state_dict())
    q = [a.copy() for a in p]
    other = grouped(q, backend=loading, state_dtype=state_dtype)
    for t in range(7, 9):
        other.step(by_number(gradients(t, q, mix)), scale=3.0)
    for a, b in zip(p, q, strict=True):
        b[...] = a
    other.load_state_dict(pickle.loads(saved))
    assert_same(snapshot(other, q), snapshot(opt, p))
    for t in range(4, 8):
        for each, arrays in ((opt, p), (other, q)):
            each.step(by_number(gradients(t, arrays, mix)))
        assert_same(snapshot(other, q), snapshot(opt, p), t)


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

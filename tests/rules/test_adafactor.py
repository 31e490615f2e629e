"""Adafactor: matrices step along gradients over the root of their factored mean square.

What it computes is written out once more, in the order of torch's lines.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.engines import DTYPES, ENGINES, normal
from tests.helpers.exactly import assert_same, same_bits
from tests.helpers.examples import parameters, snapshot
from tests.helpers.internals import native
from tests.helpers.sums import rough

Array = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]
Options: TypeAlias = dict[str, Any]
Gradients: TypeAlias = list[Array | None]

NATIVE = ENGINES[:-1]
STEPS = 5

SHAPES: dict[str, Shape] = {
    "wide": (5, 12),
    "tall": (12, 5),
    "a row": (1, 9),
    "a column": (9, 1),
    "one element": (1, 1),
    "a stack": (3, 4, 5),
    "a stack of stacks": (2, 3, 5, 4),
    "a stack of rows": (3, 1, 4),
    "a stack of one": (1, 6, 2),
    "a vector": (9,),
    "a number": (),
}
EMPTY: list[Shape] = [(0, 4), (4, 0), (0, 0), (0, 2, 3), (2, 0, 3), (2, 3, 0), (0,)]

DEFAULTS: Options = {
    "lr": 0.01,
    "beta2_decay": -0.8,
    "eps1": 2.0**-23,
    "eps2": 1e-3,
    "d": 1.0,
    "weight_decay": 0.0,
    "maximize": False,
}
VARIANTS: dict[str, Options] = {
    "default": {},
    "lr": {"lr": 0.2},
    "lr above 1/√t": {"lr": 0.6},
    "beta2_decay": {"beta2_decay": -0.3},
    "no mean": {"beta2_decay": 0.0},
    "eps1": {"eps1": 2.0},
    "eps1 of the mean": {"eps1": 4.0},
    "eps2": {"eps2": 4.0},
    "d": {"d": 1.3},
    "d below 1": {"d": 0.7},
    "weight_decay": {"weight_decay": 0.3},
    "maximize": {"maximize": True},
    "all": {
        "lr": 0.6,
        "beta2_decay": -0.5,
        "eps1": 0.1,
        "eps2": 2.0,
        "d": 1.2,
        "weight_decay": 0.2,
        "maximize": True,
    },
}
SCHEDULES: dict[str, Callable[[int], float]] = {
    "lr": lambda t: 0.9 / t,
    "beta2_decay": lambda t: -1 / t,
    "eps1": lambda t: 0.3 * t,
    "eps2": lambda t: 2.0 * t,
    "d": lambda t: 1.0 + 0.1 * t,
    "weight_decay": lambda t: 0.3 / t,
}
each_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


def use(isa: str, threads: int) -> None:
    fs.use_isa(isa)
    fs.set_num_threads(threads)


def given(t: int, shape: Any, dtype: Any = np.float64) -> Array:
    """A gradient; from step to step they grow, so that they are clipped."""
    return np.asarray(1.5**t * normal(100 + t, shape)).astype(dtype)


# What it computes.


def lerp(start: Array, end: Array, weight: float) -> Array:
    """As torch has it: exact at both ends."""
    apart = end - start
    return start + weight * apart if weight < 0.5 else end - apart * (1 - weight)


def by_hand(t: int, p: Array, g: Array, s: dict[str, Array], o: Options) -> Array:
    """The parameter after a step, which leads on the state `s`: torch's loop over tensors, in order."""
    g = -g if o["maximize"] else g
    one_minus_beta2 = t ** o["beta2_decay"]
    rho = min(o["lr"], 1 / t**0.5)
    alpha = max(o["eps2"], math.sqrt(math.fsum(p.ravel() ** 2)) / p.size**0.5) * rho
    p = p * (1 - o["lr"] * o["weight_decay"])
    if g.ndim > 1:
        row_mean = np.linalg.norm(g, axis=-1, keepdims=True) ** 2 / g.shape[-1]
        s["row_var"] = lerp(s["row_var"], row_mean, one_minus_beta2)
        col_mean = np.linalg.norm(g, axis=-2, keepdims=True) ** 2 / g.shape[-2]
        s["col_var"] = lerp(s["col_var"], col_mean, one_minus_beta2)
        v = s["row_var"] @ s["col_var"] / np.maximum(s["row_var"].mean(-2, keepdims=True), o["eps1"])
    else:
        s["v"] = lerp(s["v"], g * g, one_minus_beta2)
        v = s["v"]
    u = g / np.sqrt(np.maximum(v, o["eps1"] ** 2))
    denominator = max(1.0, math.sqrt(math.fsum(u.ravel() ** 2)) / (u.size**0.5 * o["d"]))
    after: Array = p - alpha / denominator * u
    return after


def at_first(shape: Shape) -> dict[str, Array]:
    """The state before any step."""
    if len(shape) < 2:
        return {"v": np.zeros(shape)}
    return {"row_var": np.zeros((*shape[:-1], 1)), "col_var": np.zeros((*shape[:-2], 1, shape[-1]))}


def run_by_hand(shape: Shape, **options: Any) -> Array:
    """The parameter after the steps of `given`."""
    p, s = normal(0, shape), at_first(shape)
    for t in range(1, STEPS + 1):
        p = by_hand(t, p, given(t, shape), s, {**DEFAULTS, **options})
    return p


def assert_close(found: Array, expected: Array, tolerance: float, context: Any) -> None:
    assert found.shape == expected.shape
    close = np.abs(found - expected) <= tolerance * (np.abs(expected) + 0.1)
    assert close.all(), (context, np.abs(found - expected).max())


def test_defaults() -> None:
    opt = fs.Adafactor(np.ones((2, 2)))
    assert {name: opt.groups[0][name] for name in DEFAULTS} == DEFAULTS


@each_variant
def test_as_by_hand(options: Options, backend: Any) -> None:
    p = [normal(0, shape) for shape in SHAPES.values()]
    expected, states = [a.copy() for a in p], [at_first(a.shape) for a in p]
    opt = fs.Adafactor(p, **options, backend=backend)
    for t in range(1, STEPS + 1):
        grads = [given(t, a.shape) for a in p]
        opt.step(grads)
        for i, (a, g, s) in enumerate(zip(p, grads, states, strict=True)):
            expected[i] = by_hand(t, expected[i], g, s, {**DEFAULTS, **options})
            assert_close(a, expected[i], 1e-13, (t, a.shape))
            assert opt.state[i].keys() == s.keys()
            for name, value in s.items():
                assert_close(opt.state[i][name], value, 1e-13, (name, t, a.shape))


@pytest.mark.parametrize("name", VARIANTS)
def test_each_option_counts(name: str) -> None:
    """The test above sees them all: of matrices and of vectors."""
    for shape in ((5, 12), (9,)):
        apart = np.abs(run_by_hand(shape, **VARIANTS[name]) - run_by_hand(shape)).max()
        assert (apart > 1e-4) == (name != "default")


@pytest.mark.parametrize("shape", [(5, 12), (2, 4, 3), (9,)], ids=str)
@pytest.mark.parametrize("names", [*([name] for name in SCHEDULES), list(SCHEDULES)], ids=",".join)
def test_schedules(names: list[str], shape: Shape, backend: Any) -> None:
    p, expected, s = normal(0, shape), normal(0, shape), at_first(shape)
    chosen: Options = {name: SCHEDULES[name] for name in names}
    opt = fs.Adafactor([p], **chosen, backend=backend)
    for t in range(1, STEPS + 1):
        g = given(t, shape)
        opt.step([g])
        expected = by_hand(t, expected, g, s, {**DEFAULTS, **{name: SCHEDULES[name](t) for name in names}})
        assert_close(p, expected, 1e-13, t)


@pytest.mark.parametrize("number", ["float32", "float64"])
@each_variant
def test_as_in_torch(options: Options, number: str, torch: Any) -> None:
    """torch's eps1 is the epsilon of the dtype, which for float32 is the default here."""
    dtype = DTYPES[number]
    p = [normal(i, shape, dtype) for i, shape in enumerate(SHAPES.values())]
    q = [torch.nn.Parameter(torch.from_numpy(a.copy())) for a in p]
    if options.get("d", 1) < 1:
        pytest.skip("torch refuses it")
    theirs = {name: value for name, value in options.items() if not name.startswith("eps")}
    eps = options.get("eps1"), options.get("eps2", 1e-3)
    other = torch.optim.Adafactor(q, **theirs, eps=eps, foreach=False)
    mine = {"eps1": float(np.finfo(dtype).eps), **options}
    if number == "float32" and eps[0] is None:
        assert mine.pop("eps1") == DEFAULTS["eps1"]
    opt = fs.Adafactor(p, **mine)
    tolerance = 3e-6 if number == "float32" else 1e-13
    for t in range(1, STEPS + 1):
        grads = [given(t, a.shape, dtype) for a in p]
        for x, g in zip(q, grads, strict=True):
            x.grad = torch.from_numpy(g.copy())
        other.step()
        opt.step(grads)
        for i, (a, x) in enumerate(zip(p, q, strict=True)):
            assert_close(a, x.detach().numpy(), tolerance, (i, t))
            state = {"v" if k == "variance" else k: v for k, v in other.state[x].items() if k != "step"}
            assert opt.state[i].keys() == state.keys()
            for name, value in state.items():
                assert_close(opt.state[i][name], value.numpy(), tolerance, (i, name, t))


@pytest.mark.parametrize("number", ["float32", "float64"])
def test_the_length_of_a_gradient_does_not_matter(number: str, backend: Any) -> None:
    """Without eps1: of huge and tiny ones not even to the last bit, but for the squares that are kept."""
    dtype = DTYPES[number]
    power = 2.0 ** (56 if number == "float32" else 490)

    def run(factor: float) -> dict[str, Array]:
        p = [normal(0, shape, dtype) for shape in SHAPES.values()]
        opt = fs.Adafactor(p, lr=0.3, eps1=0.0, backend=backend)
        for t in range(1, 4):
            opt.step([np.asarray(dtype.type(factor) * given(t, a.shape, dtype)) for a in p])
        found = snapshot(opt, p)
        return {
            k: a if k[0] in "pt" else a / dtype.type(factor) / dtype.type(factor) for k, a in found.items()
        }

    expected = run(1.0)
    for i, shape in enumerate(SHAPES.values()):
        assert np.abs(expected[f"p {i}"] - normal(0, shape, dtype)).min() > 1e-4
    assert_same(run(power), expected)
    assert_same(run(1 / power), expected)


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        *itertools.product([63, 64, 65, 130], [31, 32, 33]),
        *itertools.product([1, 6], [4095, 4096, 4097, 8200]),
        *((65, 4096), (130, 4097), (64, 8200)),
    ],
)
def test_sizes_around_the_blocks(rows: int, columns: int) -> None:
    shapes = [(rows, columns), (2, rows, columns)] if columns < 40 else [(rows, columns)]
    dtype = [np.float32, np.float64][rows % 2]
    start = [normal(i, shape, dtype) for i, shape in enumerate(shapes)]
    grads = [rough(9 + i, shape, dtype) for i, shape in enumerate(shapes)]

    def run(backend: Any) -> dict[str, Array]:
        p = [a.copy() for a in start]
        opt = fs.Adafactor(p, lr=0.1, backend=backend)
        opt.step(grads)
        opt.step(grads, scale=3.0)
        return snapshot(opt, p)

    expected = run("numpy")
    for _, isa, threads in NATIVE:
        use(isa, threads)
        assert_same(run("native"), expected, (isa, threads))


# Gradients at the edge.


@pytest.mark.parametrize("number", DTYPES)
def test_zero_gradients(number: str, backend: Any) -> None:
    """Nothing but the decay; and what comes after is not spoilt."""
    dtype = DTYPES[number]
    p = [np.ones(shape, dtype) for shape in SHAPES.values()]
    opt = fs.Adafactor(p, lr=0.5, weight_decay=0.5, backend=backend)
    for t in (1, 2):
        opt.step([np.zeros_like(a) for a in p])
        assert all((a == 0.75**t).all() for a in p)
        assert not any(array.any() for slots in opt.state.values() for array in slots.values())
    opt.step([np.ones_like(a) for a in p])
    for a in p:
        assert np.isfinite(a.astype(np.float64)).all()
        assert (a < 0.75**3).all()


def holes(kind: str) -> Array:
    g = given(1, (70, 40))
    if kind in {"rows", "both"}:
        g[[0, 5, 64, 69]] = 0
    if kind in {"columns", "both"}:
        g[:, [0, 31, 32, 39]] = 0
    if kind == "all but one":
        g[...] = 0
        g[66, 33] = 2
    return g


@pytest.mark.parametrize("kind", ["rows", "columns", "both", "all but one"])
def test_zero_rows_and_columns(kind: str, backend: Any) -> None:
    g = holes(kind)
    p, expected, s = normal(0, g.shape), normal(0, g.shape), at_first(g.shape)
    opt = fs.Adafactor([p], lr=0.5, backend=backend)
    for t in range(1, 4):
        before = p.copy()
        opt.step([g])
        expected = by_hand(t, expected, g, s, {**DEFAULTS, "lr": 0.5})
        assert_close(p, expected, 1e-13, t)
        assert ((p == before) == (g == 0)).all()
    opt.step([given(2, g.shape)])  # with which they are no longer
    expected = by_hand(4, expected, given(2, g.shape), s, {**DEFAULTS, "lr": 0.5})
    assert_close(p, expected, 1e-12, 4)


@pytest.mark.parametrize("eps1", [2.0**-23, 1e-3, 1e-12, 1e-30])
@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-30, 1e-10, 1e18])
@pytest.mark.parametrize("shape", [(5, 12), (9,)], ids=str)
def test_small_and_large(shape: Shape, size: float, eps1: float, backend: Any) -> None:
    """In float32 as in the definition: with the squares that are lost, u is g over eps1."""
    g = np.asarray((size * (1 + 0.1 * normal(1, shape))).astype(np.float32))
    p = np.zeros(shape, np.float32)
    opt = fs.Adafactor([p], lr=1.0, eps1=eps1, eps2=1.0, backend=backend)
    opt.step([g])
    state = {name: array.astype(np.float64) for name, array in opt.state[0].items()}
    if "v" in state:
        v = state["v"]
    else:
        v = state["row_var"] / max(state["row_var"].mean(), eps1) * state["col_var"]
    with np.errstate(all="ignore"):
        u = g.astype(np.float64) / np.sqrt(np.maximum(v, eps1**2))
        expected = -u / max(1.0, np.sqrt(np.mean(u * u)))
    assert np.isfinite(expected).all()
    assert np.allclose(p, expected, rtol=2e-6, atol=1e-43)


@pytest.mark.parametrize("shape", [(4,), (2, 2)], ids=str)
def test_zeros_with_an_eps1_whose_square_is_none(shape: Shape, backend: Any) -> None:
    """As of the paper, 1e-30: 0 over it is 0, in float32 too."""
    p, g = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    g.flat[0] = 1
    fs.Adafactor([p], eps1=1e-30, backend=backend).step([g])
    assert p.flat[0] < 1
    assert (p.ravel()[1:] == 1).all()


@pytest.mark.parametrize("shape", [(4,), (2, 2)], ids=str)
def test_a_huge_eps1(shape: Shape, backend: Any) -> None:
    """It is in [0, inf): nothing moves."""
    p = np.ones(shape)
    fs.Adafactor([p], eps1=1e200, backend=backend).step([np.ones(shape)])
    assert (p == 1).all()


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@pytest.mark.parametrize("number", ["float32", "bfloat16"])
def test_empty(shape: Shape, number: str, backend: Any) -> None:
    """Alone, and beside others, whose bits they do not change; a checkpoint can be made of them."""
    dtype = DTYPES[number]
    p, alone = [np.ones((2, 3)), np.zeros(shape, dtype)], np.ones((2, 3))
    opt, other = fs.Adafactor(p, backend=backend), fs.Adafactor([alone], backend=backend)
    for t in (1, 2):
        g = given(t, (2, 3))
        opt.step([g, np.zeros(shape, dtype)], clip_norm=1.0)
        other.step([g], clip_norm=1.0)
        assert same_bits(p[0], alone)
        assert p[1].shape == shape
    for name, array in opt.state[1].items():
        assert array.shape == at_first(shape)[name].shape
        assert np.isfinite(array.astype(np.float64)).all()
    opt.load_state_dict(opt.state_dict())
    assert opt.t == 2


def test_factors_of_a_stack_are_each_its_own(backend: Any) -> None:
    """A NaN is in those of its row and column, and of no other matrix."""
    p, g = normal(0, (3, 70, 5)), normal(1, (3, 70, 5))
    g[1, 66, 3] = math.nan
    opt = fs.Adafactor([p], backend=backend)
    opt.step([g])
    row_var, col_var = opt.state[0]["row_var"], opt.state[0]["col_var"]
    assert np.argwhere(np.isnan(row_var)).tolist() == [[1, 66, 0]]
    assert np.argwhere(np.isnan(col_var)).tolist() == [[1, 0, 3]]
    q = [p_.copy() for p_ in normal(0, (3, 70, 5))]
    each = fs.Adafactor(q, backend=backend)
    each.step(list(g))
    for i in range(3):
        assert same_bits(each.state[i]["row_var"], row_var[i])
        assert same_bits(each.state[i]["col_var"], col_var[i])


# What is kept, and what is not.


def test_state(backend: Any) -> None:
    """Factors and nothing else: no room for directions."""
    p = parameters(SHAPES.values(), "float32")
    opt = fs.Adafactor(p, backend=backend)
    for _ in range(2):
        opt.step([np.ones_like(a) for a in p])
        saved = opt.state_dict()["state"]
        for i, (a, shape) in enumerate(zip(p, SHAPES.values(), strict=True)):
            wanted = {name: array.shape for name, array in at_first(shape).items()}
            assert {name: array.shape for name, array in opt.state[i].items()} == wanted
            assert {name: array.shape for name, array in saved[i].items()} == wanted
            assert all(array.dtype == a.dtype for array in opt.state[i].values())
    large = np.ones((300, 300), np.float32)
    opt = fs.Adafactor([large], backend=backend)
    opt.step([np.ones_like(large)])
    assert sum(array.nbytes for array in opt.state[0].values()) == 4 * 600
    assert len(pickle.dumps(opt.state_dict())) < 4000


def test_a_step_with_gaps_is_that_step(backend: Any) -> None:
    """The one after two without a gradient is the fourth: by hand with t = 1 and t = 4."""
    p, expected, s = normal(0, (5, 12)), normal(0, (5, 12)), at_first((5, 12))
    opt = fs.Adafactor([p], lr=0.9, backend=backend)
    for t in range(1, 5):
        g = given(t, (5, 12)) if t in {1, 4} else None
        opt.step([g])
        if g is not None:
            expected = by_hand(t, expected, g, s, {**DEFAULTS, "lr": 0.9})
        assert_close(p, expected, 1e-13, t)


# Errors.


def test_an_error_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the native one, say for want of memory."""

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(native.NativePlan, "arithmetic", native.NativePlan.arithmetic._replace(multiply=fail))
        p = [np.ones((2, 3)), np.ones(4)]
        opt = fs.Adafactor(p)
        before = snapshot(opt, p)
        with pytest.raises(MemoryError):
            opt.step([np.ones_like(a) for a in p])
        assert_same(snapshot(opt, p), before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta2_decay", 0.1),
        ("beta2_decay", -math.inf),
        ("eps1", -1e-9),
        ("eps2", -1.0),
        ("d", 0.0),
        ("d", math.inf),
        ("lr", -0.1),
        ("weight_decay", math.nan),
    ],
)
def test_values_outside(name: str, value: float) -> None:
    options: Options = {name: value}
    with pytest.raises(ValueError, match=name):
        fs.Adafactor(np.ones((2, 2)), **options)
    opt = fs.Adafactor(np.ones((2, 2)))
    with pytest.raises(ValueError, match=name):
        opt.groups[0][name] = value
    assert opt.groups[0][name] == DEFAULTS[name]


def test_a_vector_is_no_matrix_of_one_row(backend: Any) -> None:
    """Each of its elements has its own v."""
    p, q, g = normal(0, (9,)), normal(0, (1, 9)), normal(1, (9,))
    of_vector, of_matrix = (fs.Adafactor([a], lr=0.5, backend=backend) for a in (p, q))
    for t in (1, 2):
        of_vector.step([t * g])
        of_matrix.step([t * g.reshape(1, 9)])
    assert np.allclose(p, q[0], rtol=1e-12)  # of one row, both are the same
    assert of_vector.state[0].keys() == {"v"}
    assert np.allclose(of_vector.state[0]["v"], of_matrix.state[0]["col_var"][0], rtol=1e-12)

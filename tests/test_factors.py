"""Adafactor: matrices step along gradients over the root of their factored mean square.

What it computes is written out once more, in the order of torch's lines; that of its sums in plain Python.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest

import fusedstep as fs
from engines import BACKENDS, DTYPES, ENGINES, MIXES, ml_dtypes, normal, with_gaps
from exactly import same_bits
from fusedstep import _core, native, reference

Array = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]
Options: TypeAlias = dict[str, Any]
Gradients: TypeAlias = list[Array | None]

NATIVE = ENGINES[:-1]
LANES, BLOCK_OF_ROWS = 32, 64
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
# One takes more than one thread, one more than one block of columns.
LIST: list[Shape] = [(66, 150), (3, 4100), (7, 5), (1, 9), (9, 1), (2, 3, 4), (2, 2, 3, 4), (33,), ()]
NOTHING: list[None] = [None] * len(LIST)
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
GROUPS: list[Options] = [
    {},
    {"lr": 0.5, "beta2_decay": -0.5, "weight_decay": 0.1, "d": 1.5},
    {"lr": 0.1, "eps1": 0.3, "eps2": 0.7},
]

each_variant = pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def use(isa: str, threads: int) -> None:
    fs.use_isa(isa)
    fs.set_num_threads(threads)


def given(t: int, shape: Any, dtype: Any = np.float64) -> Array:
    """A gradient; from step to step they grow, so that they are clipped."""
    return np.asarray(1.5**t * normal(100 + t, shape)).astype(dtype)


def rough(seed: int, shape: Any, dtype: Any) -> Array:
    """Of all magnitudes, so that the order of a sum shows in its last bits."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal(shape) * 2 ** rng.uniform(-12, 12, shape)).astype(dtype)


def parameters(mix: str = "float64", shapes: Iterable[Shape] = LIST) -> list[Array]:
    kinds, _, _ = MIXES[mix]
    return [normal(i, shape, DTYPES[kinds[i % len(kinds)]]) for i, shape in enumerate(shapes)]


def gradients(t: int, like: Sequence[Array], mix: str = "float64") -> Gradients:
    """Those of step t: for most parameters, and for none at one step."""
    _, kind, _ = MIXES[mix]
    return [
        None
        if (i + t) % 4 == 0 or t == 3
        else np.asarray(1.5**t * normal(100 * t + i, p.shape)).astype(DTYPES[kind] if kind else p.dtype)
        for i, p in enumerate(like)
    ]


def by_number(values: Sequence[Any]) -> dict[int, Any]:
    return dict(enumerate(values))


def grouped(p: list[Array], **options: Any) -> fs.Adafactor:
    """An optimizer that has the parameters in three groups by turns, and names them by their number."""
    groups: list[Options] = [
        {"params": {i: p[i] for i in range(k, len(p), 3)}, **own} for k, own in enumerate(GROUPS)
    ]
    return fs.Adafactor(groups, **options)


def snapshot(opt: Any, p: Sequence[Array]) -> dict[str, Array]:
    """Copies of all that a step may change."""
    found = {f"p {i}": array.copy() for i, array in enumerate(p)}
    for name, slots in opt.state.items():
        found |= {f"{slot} {name}": array.copy() for slot, array in slots.items()}
    return found | {"t": np.array(float(opt.t))}


def assert_same(found: dict[str, Array], expected: dict[str, Array], context: Any = None) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.shape == expected[name].shape, (name, context)
        assert same_bits(np.atleast_1d(array), np.atleast_1d(expected[name])), (name, context)


def of_tensor(found: dict[str, Array], i: int) -> dict[str, Array]:
    return {key: array for key, array in found.items() if key.endswith(f" {i}")}


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


# One result, whatever runs.


@pytest.mark.parametrize("mix", MIXES)
def test_native_equals_numpy(mix: str) -> None:
    """In three groups, with gradients missing; what has none is left alone."""
    steps = [gradients(t, parameters(mix), mix) for t in range(STEPS)]

    def run(backend: Any, seen: list[dict[str, Array]] | None = None) -> dict[str, Array]:
        p = parameters(mix)
        opt = grouped(p, state_dtype=MIXES[mix][2], backend=backend)
        for grads in steps:
            if seen is not None:
                seen.append(snapshot(opt, p))
            opt.step(by_number(grads))
        return snapshot(opt, p)

    seen: list[dict[str, Array]] = []
    expected = run("numpy", seen)
    for grads, before, after in zip(steps, seen, [*seen[1:], expected], strict=True):
        for i, g in enumerate(grads):
            own, old = of_tensor(after, i), of_tensor(before, i)
            if g is None:
                assert_same(own, old)
            else:
                changed = {k for k in own if not same_bits(np.atleast_1d(own[k]), np.atleast_1d(old[k]))}
                assert changed == own.keys() or (g.size < 10 and own[f"p {i}"].itemsize == 2)
    kept = MIXES[mix][2]
    for i, p in enumerate(parameters(mix)):
        dtypes = {a.dtype for k, a in of_tensor(expected, i).items() if k != f"p {i}"}
        assert dtypes == {DTYPES[kept] if kept else p.dtype}
        assert all(np.isfinite(a.astype(np.float64)).all() for a in of_tensor(expected, i).values())
    for isa, threads in itertools.product(fs.info()["isas"], [1, 2, 3]):
        use(isa, threads)
        assert_same(run("native"), expected, (isa, threads))


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


def turned(a: Array) -> Array:
    """With the axes in another order in memory."""
    order = np.roll(np.arange(a.ndim), 1)
    return np.transpose(np.transpose(a, order).copy(), np.argsort(order))


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "plain": np.copy,
    "Fortran": lambda a: np.array(a, order="F"),
    "turned": turned,
    "gaps": with_gaps,
    "backwards": lambda a: a[::-1].copy()[::-1],
    "columns backwards": lambda a: a[..., ::-1].copy()[..., ::-1],
}


PAIRS = [
    *((name, "plain") for name in LAYOUTS),
    *(("plain", name) for name in LAYOUTS if name != "plain"),
    *((name, name) for name in LAYOUTS if name != "plain"),
    ("Fortran", "turned"),
    ("turned", "gaps"),
    ("gaps", "Fortran"),
]


@pytest.mark.parametrize(
    ("mix", "of_p", "of_g"),
    [
        *(("float32", *pair) for pair in PAIRS),
        *(("state in float32", name, "plain") for name in LAYOUTS),
        *(("float64", name, name) for name in LAYOUTS),
    ],
)
def test_layouts(mix: str, of_p: str, of_g: str) -> None:
    """Factors are of the matrix, whatever its memory; only the lengths are sums in the order of memory."""
    shapes = [(9, 40), (2, 3, 5), (2, 2, 2, 3), (6, 1)]
    start = parameters(mix, shapes)
    kind = MIXES[mix][1]
    grads = [
        [normal(10 * t + i, p.shape, DTYPES[kind] if kind else p.dtype) for i, p in enumerate(start)]
        for t in (1, 2)
    ]

    def run(
        backend: Any, lay_p: Callable[[Array], Array], lay_g: Callable[[Array], Array]
    ) -> dict[str, Array]:
        p = [lay_p(a) for a in start]
        assert not any(np.shares_memory(a, b) for a, b in zip(p, start, strict=True))
        opt = fs.Adafactor(p, lr=0.3, state_dtype=MIXES[mix][2], backend=backend)
        for each in grads:
            opt.step([lay_g(g) for g in each])
        return snapshot(opt, [np.ascontiguousarray(a) for a in p])

    expected, plain = run("numpy", LAYOUTS[of_p], LAYOUTS[of_g]), run("numpy", np.copy, np.copy)
    bits = {"float32": 20, "float64": 48, "state in float32": 7}[mix]
    for name, array in expected.items():
        if name.startswith("p "):
            assert_close(array.astype(np.float64), plain[name].astype(np.float64), 2.0**-bits, name)
        else:
            assert_same({name: array}, {name: plain[name]})
    for isa in fs.info()["isas"]:
        use(isa, 2)
        assert_same(run("native", LAYOUTS[of_p], LAYOUTS[of_g]), expected, isa)


# The sums, and the product.


def lanes_by_halves(terms: list[float]) -> float:
    total = 0.0
    for begin in range(0, len(terms), _core.tile):
        lanes = [0.0] * LANES
        for i, term in enumerate(terms[begin : begin + _core.tile]):
            lanes[i % LANES] += term
        half = LANES // 2
        while half >= 1:
            for i in range(half):
                lanes[i] += lanes[i + half]
            half //= 2
        total += lanes[0]
    return total


def in_blocks(terms: list[float]) -> float:
    total = 0.0
    for begin in range(0, len(terms), BLOCK_OF_ROWS):
        of_block = 0.0
        for term in terms[begin : begin + BLOCK_OF_ROWS]:
            of_block += term
        total += of_block
    return total


def one_after_the_other(terms: list[float]) -> float:
    total = 0.0
    for term in terms:
        total += term
    return total


def rows_and_columns(shape: Shape) -> Shape:
    """Of one matrix, which is a row where there is but one axis."""
    return (1, 1, *shape)[-2:]


def transcribed(x: Array) -> tuple[list[float], list[float]]:
    """The sums of squares in their order, one number after the other."""
    m, n = rows_and_columns(x.shape)
    rows, columns = [], []
    for matrix in x.reshape(-1, m, n).astype(np.float64):
        squares = [[value * value for value in row] for row in matrix.tolist()]
        rows += [lanes_by_halves(row) for row in squares]
        columns += [in_blocks([row[j] for row in squares]) for j in range(n)]
    return rows, columns


def as_lists(sums: tuple[Array, Array]) -> tuple[list[float], list[float]]:
    for array in sums:
        assert (array.dtype, array.ndim) == (np.float64, 1)
    return sums[0].tolist(), sums[1].tolist()


SUMMED: list[Shape] = [
    (65, 4097),
    (3, 8200),
    (2, 4095),
    (2, 4096),
    (130, 33),
    (63, 31),
    (64, 32),
    (200, 7),
    (200, 200),
    (2, 3, 65, 40),
    (5, 130, 1),
    (1, 1),
    (70,),
    (),
]


@pytest.mark.parametrize("number", ["float32", "float64"])
@pytest.mark.parametrize("shape", SUMMED, ids=str)
def test_order_of_the_sums(shape: Shape, number: str) -> None:
    x = rough(1, shape, DTYPES[number])
    expected = transcribed(x)
    assert as_lists(reference.square_sums(x)) == expected
    for _, isa, threads in NATIVE:
        use(isa, threads)
        assert as_lists(_core.square_sums(x)) == expected, (isa, threads)


def test_the_order_shows() -> None:
    """Or the test above would not see it."""
    x = rough(1, (130, 4160), np.float32)
    squares = (x.astype(np.float64) ** 2).tolist()
    rows, columns = transcribed(x)
    for order in (one_after_the_other, in_blocks, lambda terms: float(np.sum(terms))):
        assert rows != [order(row) for row in squares]
    for order in (one_after_the_other, lanes_by_halves, lambda terms: float(np.sum(terms))):
        assert columns != [order([row[j] for row in squares]) for j in range(4160)]


def test_what_is_not_finite_is_summed_where_it_is() -> None:
    x = np.ones((3, 70, 40), np.float32)
    x[1, 66, 35] = math.nan
    x[2, 3, 4] = -math.inf
    for sums in (_core.square_sums, reference.square_sums):
        rows, columns = (a.reshape(3, -1) for a in sums(x))
        assert np.argwhere(np.isnan(rows)).tolist() == [[1, 66]]
        assert np.argwhere(np.isnan(columns)).tolist() == [[1, 35]]
        assert np.argwhere(rows == math.inf).tolist() == [[2, 3]]
        assert np.argwhere(columns == math.inf).tolist() == [[2, 4]]
        assert set(rows[np.isfinite(rows)]) == {40.0}
        assert set(columns[np.isfinite(columns)]) == {70.0}


def test_sums_do_not_overflow_in_float32() -> None:
    big, small = (np.full((2, 3), value, np.float32) for value in (1e38, 1e-44))
    for sums in (_core.square_sums, reference.square_sums):
        for x in (big, small):
            square = float(x[0, 0]) ** 2
            rows, columns = as_lists(sums(x))
            assert rows == pytest.approx([3 * square] * 2, abs=0)
            assert columns == pytest.approx([2 * square] * 3, abs=0)


@pytest.mark.parametrize("shape", EMPTY, ids=str)
def test_sums_of_nothing(shape: Shape) -> None:
    """A number for each row and column that there is: 0 where nothing is added."""
    x = np.zeros(shape, np.float32)
    (m, n), count = rows_and_columns(shape), math.prod(shape[:-2])
    for sums in (_core.square_sums, reference.square_sums):
        rows, columns = as_lists(sums(x))
        assert rows == [0.0] * (count * m)
        assert columns == [0.0] * (count * n)


def multiplied(x: Array, rows: list[float], columns: list[float], limit: float) -> Array:
    """Element by element."""
    m, n = rows_and_columns(x.shape)
    number, result = x.dtype.type, x.reshape(-1, m, n).copy()
    with np.errstate(all="ignore"):
        for k, i, j in np.ndindex(*result.shape):
            product = rows[k * m + i] * columns[k * n + j]
            bounded = product if product < limit or math.isnan(product) else limit
            result[k, i, j] = number(result[k, i, j]) * number(bounded)
    return result.reshape(x.shape)


SPECIAL = [0.0, -0.0, 1.5, -2.0, math.inf, -math.inf, math.nan, 5e-324, 1e-42, 1e30, 1e308]


@pytest.mark.parametrize("limit", [0.0, 3.0, 2.0**23, 1e300, math.inf])
@pytest.mark.parametrize("number", ["float32", "float64"])
def test_products(number: str, limit: float) -> None:
    """At most the limit, but NaN stays NaN; rounded to the type once, and multiplied in it."""
    cases = []
    shapes: list[Shape] = [(65, 40), (2, 3, 5, 33), (7,), ()]
    for shape in shapes:
        (m, n), count = rows_and_columns(shape), math.prod(shape[:-2])
        x, rows = rough(1, shape, DTYPES[number]), rough(2, count * m, float)
        cases.append((x, rows, rough(3, count * n, float)))
    values = np.array(SPECIAL)
    with np.errstate(over="ignore"):
        stack = np.array([np.full((11, 11), value) for value in SPECIAL]).astype(DTYPES[number])
    cases.append((stack, np.tile(values, 11), np.tile(values, 11)))
    for x, rows, columns in cases:
        expected = np.atleast_1d(multiplied(x, rows.tolist(), columns.tolist(), limit))
        found = x.copy()
        reference.multiply(found, rows, columns, limit)
        assert same_bits(np.atleast_1d(found), expected)
        for _, isa, threads in NATIVE:
            use(isa, threads)
            found = x.copy()
            _core.multiply(found, rows, columns, limit)
            assert same_bits(np.atleast_1d(found), expected), (isa, threads)


def test_products_are_within_the_array() -> None:
    buffer = np.full(200 * 200 + 64, 123.0, np.float32)
    x = buffer[32:-32].reshape(200, 200)
    _core.multiply(x, np.full(200, 2.0), np.full(200, 4.0), 5.0)
    assert (x == 5 * 123).all()
    assert (buffer[:32] == 123).all()
    assert (buffer[-32:] == 123).all()


WRONG: dict[str, Callable[[], Array]] = {
    "float16": lambda: np.ones((2, 3), np.float16),
    "bfloat16": lambda: np.ones((2, 3), ml_dtypes.bfloat16),
    "whole numbers": lambda: np.ones((2, 3), np.int32),
    "complex": lambda: np.ones((2, 3), np.complex64),
    "objects": lambda: np.ones((2, 3), object),
    "other byte order": lambda: np.ones((2, 3), np.dtype(np.float32).newbyteorder()),
    "Fortran": lambda: np.ones((2, 3), order="F"),
    "gaps": lambda: np.ones((2, 6))[:, ::2],
    "backwards": lambda: np.ones((2, 3))[::-1],
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_arrays(kind: str) -> None:
    x = WRONG[kind]()
    with pytest.raises((ValueError, TypeError)):
        _core.square_sums(x)
    with pytest.raises((ValueError, TypeError)):
        _core.multiply(x, np.full(2, 2.0), np.full(3, 2.0), 9.0)
    assert (x == 1).all()


@pytest.mark.parametrize("missing", ["None", "nothing", "text"])
def test_what_is_no_array(missing: str) -> None:
    other: Any = {"None": None, "nothing": [], "text": "x"}[missing]
    x = np.ones((1, 1))
    one: Any = np.ones(1)
    for a, rows, columns in ((x, other, one), (x, one, other), (other, one, one)):
        with pytest.raises((ValueError, TypeError)):
            _core.multiply(a, rows, columns, 1.0)
    assert x[0, 0] == 1


@pytest.mark.parametrize("count", [0, 1, 2, 4, 7, 100])
def test_wrong_number_of_factors(count: int) -> None:
    for shape, rows, columns in (((3, 5), 3, 5), ((2, 3, 5), 6, 10), ((5,), 1, 5)):
        for wrong in ((count, columns), (rows, count)):
            if wrong == (rows, columns):
                continue
            x = np.ones(shape, np.float32)
            with pytest.raises(ValueError, match="a number for each row and column"):
                _core.multiply(x, np.full(wrong[0], 2.0), np.full(wrong[1], 2.0), 9.0)
            assert (x == 1).all()


def test_read_only() -> None:
    x = np.ones((2, 3))
    x.flags.writeable = False
    with pytest.raises(ValueError, match="writeable"):
        _core.multiply(x, np.full(2, 2.0), np.full(3, 2.0), 9.0)
    assert (x == 1).all()
    assert as_lists(_core.square_sums(x)) == ([3.0, 3.0], [2.0, 2.0, 2.0])


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


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", [0, 5, 7])
def test_what_is_not_finite_stays_in_its_tensor(where: int, bad: float, backend: Any) -> None:
    start = parameters(shapes=[(7, 5), *LIST[1:]])

    def run(spoilt: bool) -> dict[str, Array]:
        p = [a.copy() for a in start]
        opt = grouped(p, backend=backend)
        for t in range(3):
            grads = [normal(10 * t + i, a.shape) for i, a in enumerate(p)]
            if spoilt and t == 1:
                grads[where].flat[-1] = bad
            opt.step(by_number(grads))
        return snapshot(opt, p)

    clean, spoilt = run(False), run(True)
    for i in range(len(start)):
        if i != where:
            assert_same(of_tensor(spoilt, i), of_tensor(clean, i))
    assert np.isnan(spoilt[f"p {where}"]).any()


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
    p = parameters("float32", SHAPES.values())
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


def test_nothing_without_gradients(backend: Any) -> None:
    """But the steps are counted, for all."""
    p = parameters()
    opt = grouped(p, backend=backend)
    opt.step(by_number([normal(i, a.shape) for i, a in enumerate(p)]))
    before = snapshot(opt, p)
    for _ in range(2):
        assert opt.step(by_number(NOTHING), clip_norm=1.0) == (0.0, False)
    assert opt.t == 3
    assert_same(snapshot(opt, p) | {"t": np.array(1.0)}, before)
    own: dict[int, Any] = by_number(NOTHING) | {0: normal(5, p[0].shape)}
    opt.step(own)
    after = snapshot(opt, p)
    assert not same_bits(after["row_var 0"], before["row_var 0"])
    for i in range(1, len(p)):
        assert_same(of_tensor(after, i), of_tensor(before, i))


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


def test_gradients_stay(backend: Any) -> None:
    p = parameters()
    grads = [normal(i, a.shape) for i, a in enumerate(p)]
    for g in grads:
        g.flags.writeable = False
    grouped(p, backend=backend, l2=0.1).step(by_number(grads), scale=2.0, clip_norm=1.0)
    assert all(same_bits(np.atleast_1d(g), np.atleast_1d(normal(i, g.shape))) for i, g in enumerate(grads))


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_options_by_hand(kind: str, backend: Any) -> None:
    """What comes before the rule, done to the arrays before a plain step; and the average after it."""
    number = DTYPES[kind].type
    l1, l2, ema = 0.01, 0.02, 0.75
    p, q = parameters(kind), parameters(kind)
    opt = grouped(p, l1=l1, l2=l2, ema=ema, maximize=True, backend=backend)
    plain = grouped(q, backend=backend)
    means = [array.copy() for array in q]
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
            order = [i for k in range(3) for i in range(k, len(p), 3)]
            norm = fs.global_norm([g for i in order if (g := grads[i]) is not None]) * abs(scale)
            assert options["clip_norm"] < norm
            scale *= options["clip_norm"] / (norm + 1e-6)
        seen: Gradients = []
        for g, a in zip(grads, q, strict=True):
            if g is None:
                seen.append(None)
                continue
            clipped = np.clip(number(-scale) * g, number(-limit), number(limit))
            seen.append(np.asarray(clipped + number(l2) * a + number(l1) * np.sign(a)))
        result = opt.step(by_number(grads), **options)
        assert result.skipped is False
        assert (result.grad_norm is None) == (t in {1, 3})
        plain.step(by_number(seen))
        for g, a, mean in zip(grads, q, means, strict=True):
            if g is not None:
                mean[...] = number(ema) * mean + number(1 - ema) * a
                assert bool(g.any()) != options.get("zero_grad", False)
    found = snapshot(opt, p)
    assert_same(
        {f"ema {i}": found.pop(f"ema {i}") for i in range(len(p))},
        {f"ema {i}": m for i, m in enumerate(means)},
    )
    assert_same(found, snapshot(plain, q))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_skipped_step_changes_nothing(bad: float, backend: Any) -> None:
    p = parameters()
    opt = grouped(p, backend=backend)
    opt.step(by_number([normal(i, a.shape) for i, a in enumerate(p)]))
    before = snapshot(opt, p)
    grads = [normal(i, a.shape) for i, a in enumerate(p)]
    grads[0][65, 149] = bad
    assert opt.step(by_number(grads), skip_nonfinite=True, zero_grad=True).skipped
    assert not any(g.any() for g in grads)
    assert_same(snapshot(opt, p), before)


# Errors.


class Interrupted(fs.Adafactor):
    """Whose third matrix to be turned raises what is in `error`."""

    error: BaseException | None = None
    done = 0

    @staticmethod
    def turn(*arguments: Any) -> Any:
        Interrupted.done += 1
        if Interrupted.error and Interrupted.done % 3 == 0:
            raise Interrupted.error
        return fs.Adafactor.update_matrix.turn(*arguments)

    update_matrix = dataclasses.replace(fs.Adafactor.update_matrix, turn=turn)


def test_an_error_while_directions_are_made(monkeypatch: pytest.MonkeyPatch, backend: Any) -> None:
    """Or an interrupt: nothing has changed, and the next step is as if it had not been."""
    p, q = parameters("of all types"), parameters("of all types")
    opt, other = Interrupted(p, lr=0.1, backend=backend), fs.Adafactor(q, lr=0.1, backend=backend)
    for t in range(1, 4):
        grads = [given(t, a.shape, a.dtype) for a in p]
        before = snapshot(opt, p)
        for error in (ArithmeticError("no"), KeyboardInterrupt(), MemoryError()):
            monkeypatch.setattr(Interrupted, "error", error)
            monkeypatch.setattr(Interrupted, "done", 0)
            with pytest.raises(type(error)):
                opt.step(grads, clip_norm=1.0, zero_grad=True)
            assert Interrupted.done == 3
            assert_same(snapshot(opt, p), before)
            assert all(np.array_equal(g, given(t, g.shape, g.dtype)) for g in grads)
        monkeypatch.setattr(Interrupted, "error", None)
        opt.step(grads)
        other.step(grads)
        assert_same(snapshot(opt, p), snapshot(other, q))


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_an_error_after_directions_are_made(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    p, q = parameters(), parameters()
    opt, other = fs.Adafactor(p, lr=0.1, backend=backend), fs.Adafactor(q, lr=0.1, backend=backend)
    grads = [given(1, a.shape) for a in p]
    opt.step(grads)
    other.step(grads)
    before = snapshot(opt, p)

    def adapt(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(fs.Adafactor, "adapt", adapt)
        with pytest.raises(error):
            opt.step(grads)
    assert_same(snapshot(opt, p), before)
    for each in (opt, other):
        each.step(grads, scale=-2.0)
    assert_same(snapshot(opt, p), snapshot(other, q))


def test_an_error_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the native one, say for want of memory."""

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(native.Plan, "arithmetic", native.Plan.arithmetic._replace(multiply=fail))
        p = [np.ones((2, 3)), np.ones(4)]
        opt = fs.Adafactor(p)
        before = snapshot(opt, p)
        with pytest.raises(MemoryError):
            opt.step([np.ones_like(a) for a in p])
        assert_same(snapshot(opt, p), before)


def test_wrong_gradients_leave_everything(backend: Any) -> None:
    p = parameters()
    opt = grouped(p, backend=backend)
    opt.step(by_number([normal(i, a.shape) for i, a in enumerate(p)]))
    before = snapshot(opt, p)
    good: dict[int, Any] = by_number([normal(i, a.shape) for i, a in enumerate(p)])
    for wrong, error, message in (
        ({0: np.ones((150, 66))}, ValueError, "gradient 0 has shape"),
        ({3: np.ones((9, 1))}, ValueError, "gradient 3 has shape"),
        ({2: np.ones((7, 5), np.float32)}, TypeError, "gradient 2 has dtype"),
        ({2: p[2]}, ValueError, "shares memory"),
    ):
        with pytest.raises(error, match=message):
            opt.step({**good, **wrong}, clip_norm=1.0)
        assert_same(snapshot(opt, p), before)


@pytest.mark.parametrize("zero_grad", [False, True])
@pytest.mark.parametrize(("shape", "name"), [((1, 9), "col_var"), ((9, 1), "row_var")])
def test_a_gradient_in_factors(shape: Shape, name: str, zero_grad: bool, backend: Any) -> None:
    """It would change before it is read, or be set to 0."""
    p = np.ones(shape)
    opt = fs.Adafactor(p, backend=backend)
    opt.step(np.ones(shape))
    with pytest.raises(ValueError, match=f"shares memory with state '{name}'"):
        opt.step(opt.state[name], zero_grad=zero_grad)
    assert opt.t == 1
    assert (opt.state[name] == 1).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta2_decay", 0.1),
        ("beta2_decay", -math.inf),
        ("eps1", -1e-9),
        ("eps2", -1.0),
        ("d", 0.99),
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


# Checkpoints and groups.


@pytest.mark.parametrize(("saving", "loading"), [("native", "numpy"), ("numpy", "native")])
@pytest.mark.parametrize("mix", ["float32", "of all types", "state in float32"])
def test_a_run_goes_on_from_a_checkpoint(mix: str, saving: Any, loading: Any) -> None:
    """Into an optimizer that had gone another way."""
    kept = MIXES[mix][2]
    p = parameters(mix)
    opt = grouped(p, backend=saving, state_dtype=kept)
    for t in range(4):
        opt.step(by_number(gradients(t, p, mix)))
    saved = pickle.dumps(opt.state_dict())
    q = [a.copy() for a in p]
    other = grouped(q, backend=loading, state_dtype=kept)
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


def test_factors_in_a_checkpoint_are_checked() -> None:
    p = [np.ones((3, 4), np.float32), np.ones((2, 3, 3), np.float32), np.ones(5, np.float32)]
    opt = fs.Adafactor(p)
    opt.step([np.ones_like(a) for a in p])
    before = snapshot(opt, p)
    float32 = np.float32
    for i, name, wrong, error, message in (
        (0, "row_var", np.zeros((4, 1), float32), ValueError, "shape"),
        (0, "row_var", np.zeros((1, 3), float32), ValueError, "shape"),
        (0, "row_var", np.zeros(3, float32), ValueError, "shape"),
        (0, "row_var", np.zeros((3, 4), float32), ValueError, "shape"),
        (0, "col_var", np.zeros((1, 3), float32), ValueError, "shape"),
        (0, "col_var", np.zeros((), float32), ValueError, "shape"),
        (1, "row_var", np.zeros((2, 1, 3), float32), ValueError, "shape"),
        (1, "col_var", np.zeros((1, 3), float32), ValueError, "shape"),
        (2, "v", np.zeros((5, 1), float32), ValueError, "shape"),
        (0, "row_var", np.zeros((3, 1)), TypeError, "dtype"),
        (0, "col_var", [[0.0] * 4], TypeError, "NumPy array"),
    ):
        saved = opt.state_dict()
        saved["t"] = 7
        saved["state"][2]["v"][...] = 5
        saved["state"][i][name] = wrong
        with pytest.raises(error, match=f"state '{name}' of parameter {i}.*{message}"):
            opt.load_state_dict(saved)
        assert_same(snapshot(opt, p), before)
    for name in ("row_var", "col_var"):
        saved = opt.state_dict()
        del saved["state"][0][name]
        with pytest.raises(ValueError, match=f"'{name}' is missing"):
            opt.load_state_dict(saved)
    for name in ("o", "v"):
        saved = opt.state_dict()
        saved["state"][0][name] = np.zeros((3, 4), np.float32)
        with pytest.raises(ValueError, match=f"'{name}' does not belong here"):
            opt.load_state_dict(saved)
    assert_same(snapshot(opt, p), before)


def test_a_wrong_shape_is_told_with_the_right_one() -> None:
    opt = fs.Adafactor([np.ones((3, 4))])
    saved = opt.state_dict()
    saved["state"][0]["row_var"] = np.zeros((4, 1))
    with pytest.raises(ValueError, match=r"has shape \(4, 1\)") as raised:
        opt.load_state_dict(saved)
    assert "its parameter (3, 1)" not in str(raised.value)  # which is (3, 4)


def test_a_checkpoint_is_a_copy(backend: Any) -> None:
    p = [np.ones((3, 4))]
    opt = fs.Adafactor(p, backend=backend)
    opt.step([given(1, (3, 4))])
    saved = opt.state_dict()
    kept = pickle.loads(pickle.dumps(saved))
    opt.step([given(2, (3, 4))])
    for name in ("row_var", "col_var"):
        assert same_bits(saved["state"][0][name], kept["state"][0][name])
        assert not same_bits(saved["state"][0][name], opt.state[0][name])
    opt.load_state_dict(saved)
    opt.step([given(2, (3, 4))])
    assert same_bits(saved["state"][0]["row_var"], kept["state"][0]["row_var"])


def test_groups_do_not_matter(backend: Any) -> None:
    """Alone, in another order, and in other groups: the same bits."""
    start = parameters()
    steps = [gradients(t, start) for t in range(STEPS)]

    def run(order: list[int], cut: int) -> dict[str, Array]:
        p = {i: start[i].copy() for i in order}
        parts = [part for part in (order[:cut], order[cut:]) if part]
        opt = fs.Adafactor([{"params": {i: p[i] for i in part}} for part in parts], lr=0.3, backend=backend)
        for grads in steps:
            opt.step({i: grads[i] for i in order})
        found = {f"p {i}": array for i, array in p.items()}
        return found | {f"{slot} {i}": a for i, slots in opt.state.items() for slot, a in slots.items()}

    everything = list(range(len(start)))
    expected = run(everything, len(everything))
    assert_same(run(everything[::-1], 3), expected)
    assert_same(run([2, 7, 0, 5, 1, 8, 4, 6, 3], 5), expected)
    for i in everything:
        assert_same(run([i], 1), of_tensor(expected, i), i)


def test_groups_have_their_own_options(backend: Any) -> None:
    p = parameters()
    opt = grouped(p, backend=backend)
    alone = [a.copy() for a in p]
    own = [fs.Adafactor([a], **GROUPS[i % 3], backend=backend) for i, a in enumerate(alone)]
    for t in range(3):
        grads = [normal(10 * t + i, a.shape) for i, a in enumerate(p)]
        opt.step(by_number(grads))
        for i, each in enumerate(own):
            each.step([grads[i]])
            assert_same(
                of_tensor(snapshot(opt, p), i),
                {f"p {i}": alone[i]} | {f"{slot} {i}": a for slot, a in each.state[0].items()},
            )


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

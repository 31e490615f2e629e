"""Rows as gradients of a step, against dense steps of those rows alone and formulas that are written here.

The expected numbers never come from `fusedstep.Rows`. Where bits are compared, they are those of a dense
optimizer of a parameter that has the named rows alone, given the state of these rows and the same t.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import pytest

import fusedstep as fs

ml_dtypes: Any = pytest.importorskip("ml_dtypes")

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Backend: TypeAlias = Literal["native", "numpy"]
Make: TypeAlias = Callable[[Any], fs.Optimizer]

F16, BF16, F32, F64 = (np.dtype(d) for d in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64))
BACKENDS: list[Backend] = ["native", "numpy"]
STEPS_ROWS = {"SGD", "Momentum", "EMAMomentum", "Adagrad", "RowwiseAdagrad", "RMSProp", "Adam", "AdamW"}
COMMON: dict[str, Any] = {"l1": 0.01, "l2": 0.03, "weight_decay": 0.1, "maximize": True, "ema": 0.75}


def falling(t: int) -> float:
    """A step size that changes with t."""
    return 0.1 / (1 + t)


CHOICES: dict[str, tuple[type[fs.Optimizer], dict[str, Any]]] = {
    "SGD": (fs.SGD, {}),
    "SGD, all options": (fs.SGD, COMMON),
    "Momentum": (fs.Momentum, {"lr": falling}),
    "Momentum, all options": (fs.Momentum, {"momentum": lambda t: 1 - 1 / (t + 1), **COMMON}),
    "EMAMomentum": (fs.EMAMomentum, {"ema": 0.5}),
    "EMAMomentum, all options": (fs.EMAMomentum, {"momentum": 0.5, **COMMON}),
    "Adagrad": (fs.Adagrad, {}),
    "Adagrad, all options": (
        fs.Adagrad,
        {"lr_decay": 0.1, "initial_accumulator": 0.25, "mean": True, "eps": 1e-3, **COMMON},
    ),
    "RowwiseAdagrad": (fs.RowwiseAdagrad, {}),
    "RowwiseAdagrad, all options": (fs.RowwiseAdagrad, {"lr": falling, "eps": 1e-3, **COMMON}),
    "RMSProp": (fs.RMSProp, {}),
    "RMSProp, inside": (fs.RMSProp, {"eps_inside": True, "lr": falling}),
    "RMSProp, momentum": (fs.RMSProp, {"momentum": 0.5}),
    "RMSProp, centered": (fs.RMSProp, {"centered": True}),
    "RMSProp, all options": (fs.RMSProp, {"momentum": 0.5, "centered": True, "eps_inside": True, **COMMON}),
    "Adam": (fs.Adam, {}),
    "Adam, short": (fs.Adam, {"bias_correction": False}),
    "Adam, eps hat": (fs.Adam, {"eps_hat": True, "lr": falling}),
    "Adam, all options": (fs.Adam, {"amsgrad": True, "beta1": 0.5, "beta2": falling, **COMMON}),
    "AdamW": (fs.AdamW, {"lr": falling}),
    "AdamW, all options": (fs.AdamW, {"amsgrad": True, "eps_hat": True, **COMMON}),
}

# the dtypes of parameters and gradients, and what state is kept in
FORMATS: dict[str, tuple[Any, Any, Any]] = {
    "float32": (F32, F32, None),
    "float64": (F64, F64, None),
    "float16": (F16, F16, None),
    "bfloat16": (BF16, BF16, None),
    "float16 stepped by bfloat16": (F16, BF16, F32),
    "bfloat16 with float16 state": (BF16, F32, F16),
    "float32 with bfloat16 state": (F32, F16, BF16),
}


@pytest.fixture(autouse=True)
def _threads_and_isa() -> Iterator[None]:
    """Leave instruction set and threads as they were."""
    isa, threads = fs.info()["isa"], fs.get_num_threads()
    yield
    fs.use_isa(isa)
    fs.set_num_threads(threads)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20250101)


def several(*options: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Options of steps, of any types."""
    return options


def maker(rule: type[fs.Optimizer], **options: Any) -> Make:
    return lambda params: rule(params, **options)


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any = F32) -> Array:
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def ones(*shape: int) -> Array:
    return np.ones(shape, F32)


def bits(x: Array) -> tuple[Any, tuple[int, ...], bytes]:
    return x.dtype, x.shape, x.tobytes()


def tree_bits(tree: Any) -> Any:
    """What can be compared by ==, equal only where every bit is."""
    if isinstance(tree, dict):
        return {k: tree_bits(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [tree_bits(v) for v in tree]
    if isinstance(tree, fs.Rows):
        return tree_bits([np.asarray(tree.indices), tree.values])
    return bits(tree) if isinstance(tree, np.ndarray) else repr(tree)


def sums_of_rows(rows: fs.Rows) -> tuple[list[int], Array]:
    """The named rows in ascending order, and the sums of their gradients, added one after the other."""
    values: Array = rows.values
    arithmetic = F64 if values.dtype == F64 else F32
    sums: dict[int, Array] = {}
    for r, g in zip((int(r) for r in rows.indices), values.astype(arithmetic), strict=True):
        with np.errstate(all="ignore"):
            sums[r] = np.asarray(sums[r] + g, arithmetic) if r in sums else g
    named = sorted(sums)
    summed = np.empty((len(named), *values.shape[1:]), arithmetic)
    for k, r in enumerate(named):
        summed[k] = sums[r]
    return named, summed


class Alone:
    """Parameters and state that are stepped by dense optimizers of the named rows alone."""

    def __init__(self, make: Make, params: dict[str, Array]) -> None:
        self.make = make
        self.params = {k: p.copy() for k, p in params.items()}
        self.state: dict[str, dict[str, Array]] = make(self.params).state_dict()["state"]
        self.t = 0
        self.row_steps: dict[str, int] = {}

    def _dense(self, grads: dict[str, Any], t: int, **options: Any) -> fs.StepResult:
        parts: dict[str, Any] = dict.fromkeys(grads, ...)
        dense = dict(grads)
        for k, g in grads.items():
            if isinstance(g, fs.Rows):
                parts[k], dense[k] = sums_of_rows(g)
        own = {k: self.params[k][parts[k]].copy() for k in grads}
        optimizer = self.make(own)
        saved = optimizer.state_dict()
        saved["t"] = t
        saved["state"] = {k: {n: s[parts[k]] for n, s in self.state[k].items()} for k in grads}
        optimizer.load_state_dict(saved)
        result = optimizer.step(dense, **options)
        for k, slots in optimizer.state_dict()["state"].items():
            self.params[k][parts[k]] = own[k]
            for n, s in slots.items():
                self.state[k][n][parts[k]] = s
        return result

    def step(self, grads: dict[str, Any], **options: Any) -> fs.StepResult:
        result = self._dense(grads, self.t, **options)
        self.t += not result.skipped
        return result

    def step_rows(self, name: str, indices: Any, values: Array, **options: Any) -> fs.StepResult:
        count = self.row_steps.get(name, 0)
        result = self._dense({name: fs.Rows(indices, values)}, count, **options)
        if not result.skipped:
            self.row_steps[name] = count + 1
        return result

    def agrees_with(self, optimizer: fs.Optimizer, params: dict[str, Array]) -> None:
        saved = optimizer.state_dict()
        assert optimizer.t == saved["t"] == self.t
        assert optimizer.row_steps == self.row_steps
        for k, p in params.items():
            assert bits(p) == bits(self.params[k]), k
            assert saved["state"][k].keys() == self.state[k].keys()
            for n, s in saved["state"][k].items():
                assert bits(s) == bits(self.state[k][n]), (k, n)


def tables(rng: np.random.Generator, dtype: Any) -> dict[str, Array]:
    """Tables of all kinds that have rows in one run of memory, and a parameter that gets dense gradients."""
    return {
        "matrix": normal(rng, (9, 5), dtype),
        "elements": normal(rng, (8,), dtype),
        "cube": normal(rng, (6, 2, 3), dtype),
        "dense": normal(rng, (4, 3), dtype),
        "gaps": normal(rng, (14, 4), dtype)[::2],
        "elements with gaps": normal(rng, (15,), dtype)[1::3],
        "backwards": normal(rng, (5, 7), dtype)[::-1],
        "columns": normal(rng, (7, 9), dtype)[:, 2:6],
        "one column": normal(rng, (6, 1), dtype),
        "one row": normal(rng, (1, 6), dtype),
    }


def some_rows(rng: np.random.Generator, p: Array, dtype: Any, n: int | None = None) -> fs.Rows:
    """Gradients of a few rows, in no order, some of them named more than once."""
    count = int(rng.integers(0, 2 * len(p))) if n is None else n
    return fs.Rows(rng.integers(0, len(p), count), normal(rng, (count, *p.shape[1:]), dtype))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip_norm": 2.0, "scale": 0.5},
    {"clip_value": 0.3},
    {"clip_norm": 1.5, "clip_value": 0.1, "scale": 3.0, "skip_nonfinite": True},
    {"skip_nonfinite": True, "loss": 1.0},
]


@pytest.mark.parametrize(
    ("choice", "form"),
    [(c, f) for c in CHOICES for f in FORMATS if f in {"float32", "float64"} or "all options" in c],
)
def test_named_rows_move_as_if_alone(choice: str, form: str, rng: np.random.Generator) -> None:
    rule, hyperparameters = CHOICES[choice]
    dtype, gradient_dtype, state_dtype = FORMATS[form]
    if rule is fs.RowwiseAdagrad and (state_dtype or dtype).itemsize == 2:
        state_dtype = F32  # a test of its own has the others
    options = {**hyperparameters, "state_dtype": state_dtype}
    start = tables(rng, dtype)
    alone = Alone(maker(rule, **options), start)
    runs: list[tuple[fs.Optimizer, dict[str, Array]]] = []
    for backend in BACKENDS:
        params = tables(np.random.default_rng(0), dtype)
        for k, p in start.items():
            params[k][...] = p
        runs.append((rule(params, **options, backend=backend), params))
    for step_options in OPTIONS:
        grads: dict[str, Any] = {k: some_rows(rng, p, gradient_dtype) for k, p in start.items()}
        grads["dense"] = normal(rng, (4, 3), gradient_dtype)
        before = tree_bits(grads)
        expected = alone.step(grads, **step_options)
        normed = "clip_norm" in step_options or "skip_nonfinite" in step_options
        assert (expected.grad_norm is not None) == normed
        for optimizer, params in runs:
            assert optimizer.step(grads, **step_options) == expected
            alone.agrees_with(optimizer, params)
        assert tree_bits(grads) == before


def moved_by_formula(rule: str, h: dict[str, Any], t: int, p: Array, g: Array, s: dict[str, Array]) -> Array:
    """The rules' formulas in float64, as their documentation has them, over whole rows."""
    g = (-g if h["maximize"] else g) + h["l2"] * p + h["l1"] * np.sign(p)
    lr = h["lr"]
    p = p * (1 - lr * h["weight_decay"])
    if rule == "SGD":
        p = p - lr * g
    elif rule == "Momentum":
        s["v"] = h["momentum"] * s["v"] - lr * g
        p = p + s["v"]
    elif rule == "EMAMomentum":
        s["m"] = h["momentum"] * s["m"] + (1 - h["momentum"]) * g
        p = p - lr * s["m"]
    elif rule == "Adagrad":
        s["s"] = s["s"] + g * g
        root = np.sqrt(s["s"] / t if h["mean"] else s["s"])
        p = p - lr / (1 + (t - 1) * h["lr_decay"]) * g / (root + h["eps"])
    elif rule == "RowwiseAdagrad":
        s["s"] = s["s"] + (g * g).mean(axis=1)
        p = p - lr * g / (np.sqrt(s["s"]) + h["eps"])[:, None]
    elif rule == "RMSProp":
        s["s"] = h["rho"] * s["s"] + (1 - h["rho"]) * g * g
        p = p - lr * g / (np.sqrt(s["s"]) + h["eps"])
    else:
        s["m"] = h["beta1"] * s["m"] + (1 - h["beta1"]) * g
        s["v"] = h["beta2"] * s["v"] + (1 - h["beta2"]) * g * g
        m, v = s["m"] / (1 - h["beta1"] ** t), s["v"] / (1 - h["beta2"] ** t)
        p = p - lr * m / (np.sqrt(v) + h["eps"])
    s["ema"] = h["ema"] * s["ema"] + (1 - h["ema"]) * p
    return p


@pytest.mark.parametrize("rule", sorted(STEPS_ROWS))
def test_formulas(rule: str, backend: Backend, rng: np.random.Generator) -> None:
    """Ten steps of rows beside a dense gradient, with all that happens to gradients, written out in NumPy."""
    params = {"table": normal(rng, (12, 3), F64), "dense": normal(rng, (4, 3), F64)}
    expected = {k: p.copy() for k, p in params.items()}
    optimizer = fs.rules[rule](params, **{**COMMON, "lr": 0.05}, backend=backend)
    saved = optimizer.state_dict()
    h, state = saved["groups"][0]["hyperparameters"], saved["state"]
    for t in range(1, 11):
        rows = some_rows(rng, params["table"], F64, 7)
        given = normal(rng, (4, 3), F64)
        grads: dict[str, Any] = {"table": rows, "dense": given}
        result = optimizer.step(grads, scale=1.5, clip_norm=4.0, clip_value=0.6)
        table = np.zeros((12, 3))
        for r, g in zip(rows.indices, rows.values, strict=True):
            table[r] += 1.5 * g
        dense = 1.5 * given
        norm = math.sqrt(math.fsum(x * x for x in itertools.chain(table.flat, dense.flat)))
        assert result.grad_norm == pytest.approx(norm, rel=1e-13)
        clip = min(1.0, 4.0 / (norm + 1e-6))
        for k, g, named in (("table", table, np.unique(rows.indices)), ("dense", dense, np.arange(4))):
            own = state[k]
            slots = {n: s[named] for n, s in own.items()}
            clipped = np.clip(clip * g[named], -0.6, 0.6)
            expected[k][named] = moved_by_formula(rule, h, t, expected[k][named], clipped, slots)
            for n, s in slots.items():
                own[n][named] = s
    found = optimizer.state_dict()["state"]
    for k, p in params.items():
        np.testing.assert_allclose(p, expected[k], rtol=1e-11, atol=1e-12)
        for n, s in found[k].items():
            np.testing.assert_allclose(s, state[k][n], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("choice", ["SGD", "Momentum, all options", "RowwiseAdagrad", "Adam, all options"])
@pytest.mark.parametrize("seed", range(5))
def test_any_sequence_of_steps(choice: str, seed: int, backend: Backend) -> None:
    """Rows, dense gradients, step_rows, skipped steps, errors, checkpoints: all share the state."""
    rng = np.random.default_rng(seed)
    rule, hyperparameters = CHOICES[choice]
    make = maker(rule, **hyperparameters, backend=backend)
    params = {
        "a": normal(rng, (11, 3)),
        "b": normal(rng, (20, 2, 2))[::2],
        "c": normal(rng, (9,)),
        "d": normal(rng, (3,)),
    }
    alone, optimizer = Alone(make, params), make(params)
    for _ in range(25):
        options: dict[str, Any] = OPTIONS[rng.integers(len(OPTIONS))]
        grads: dict[str, Any] = {}
        for k, p in params.items():
            kind = rng.integers(4)
            grads[k] = None if kind == 0 else normal(rng, p.shape) if kind == 1 else some_rows(rng, p, F32)
        action = rng.integers(6)
        if action == 0:
            name = "abc"[rng.integers(3)]
            rows = some_rows(rng, params[name], F32)
            own = {k: v for k, v in options.items() if k != "loss"}
            expected = alone.step_rows(name, rows.indices, rows.values, **own)
            assert optimizer.step_rows(name, rows.indices, rows.values, **own) == expected
        elif action == 1:
            saved = optimizer.state_dict()
            optimizer = make(params)
            optimizer.load_state_dict(pickle.loads(pickle.dumps(saved)))
        elif action == 2:
            grads["d"] = np.full(3, np.nan, F32)
            assert optimizer.step(grads, skip_nonfinite=True).skipped
        elif action == 3:
            grads["d"] = fs.Rows([3], ones(1))
            with pytest.raises(ValueError, match="'d'"):
                optimizer.step(grads, **options)
        else:
            # the dense optimizer of the rows alone has no parameter for a None
            given = {k: g for k, g in grads.items() if g is not None}
            expected = alone.step(given, **options)
            assert optimizer.step(grads, **options) == expected
        alone.agrees_with(optimizer, params)


def test_t_is_the_optimizers(backend: Backend, rng: np.random.Generator) -> None:
    """Schedules see the t of step, once a step, and step_rows counts by itself."""
    seen: list[int] = []

    def lr(t: int) -> float:
        seen.append(t)
        return 0.1

    p = normal(rng, (5, 2))
    optimizer = fs.Adam({"p": p}, lr=lr, backend=backend)
    for _ in range(3):
        optimizer.step({"p": fs.Rows([0], ones(1, 2))})
    assert optimizer.row_steps == {}
    optimizer.step_rows("p", [1], ones(1, 2))
    optimizer.step({"p": fs.Rows([], np.empty((0, 2), F32))})
    optimizer.step({"p": None})
    assert optimizer.t == 5
    assert optimizer.row_steps == {"p": 1}
    assert sorted(set(seen)) == [1, 2, 3, 4, 5]
    # a row that is first named at t = 3 is corrected for the two steps that it had no part in
    q = normal(rng, (2, 3), F64)
    start = q.copy()
    optimizer = fs.Adam({"q": q}, lr=0.1, backend=backend)
    optimizer.step({"q": fs.Rows([0], np.ones((1, 3)))})
    optimizer.step({"q": fs.Rows([0], np.ones((1, 3)))})
    optimizer.step({"q": fs.Rows([1], np.ones((1, 3)))})
    m, v = 0.1 / (1 - 0.9**3), 0.001 / (1 - 0.999**3)
    np.testing.assert_allclose(q[1], start[1] - 0.1 * m / (math.sqrt(v) + 1e-8), rtol=1e-12)


@pytest.mark.parametrize("dtype", [F16, BF16, F32, F64], ids=str)
def test_equal_rows_are_summed_in_order(dtype: Any, backend: Backend) -> None:
    """In float32, where a large number that comes and goes takes with it what stands between."""
    big = {F16: 2.0**15, BF16: 2.0**30, F32: 2.0**30, F64: 2.0**60}[dtype]
    arithmetic = F64 if dtype == F64 else F32
    values = np.asarray([[big], [1], [-big], [1], [7]], F64).astype(dtype)
    for order in itertools.permutations(range(4)):
        total = np.zeros((), arithmetic)
        for k in order:
            total = total + values[k, 0].astype(arithmetic)
        p = np.zeros((3, 1), arithmetic)
        # another row between them does not matter
        indices = [1, 1, 0, 1, 1]
        taken = values[[order[0], order[1], 4, order[2], order[3]]]
        result = fs.SGD({"p": p}, lr=1.0, backend=backend).step(
            {"p": fs.Rows(indices, taken)}, clip_norm=1e30
        )
        assert p.tolist() == [[-7.0], [-float(total)], [0.0]]
        assert result.grad_norm == math.sqrt(49.0 + float(total) ** 2)


def test_sums_are_wider_than_sixteen_bits(backend: Backend) -> None:
    """The sum of two numbers of float16 may be one that float16 does not have."""
    p = np.zeros((2, 2), F32)
    optimizer = fs.SGD({"p": p}, lr=1.0, backend=backend)
    values = np.full((3, 2), 60000.0, F16)
    result = optimizer.step({"p": fs.Rows([1, 1, 1], values)}, skip_nonfinite=True)
    assert not result.skipped
    assert p.tolist() == [[0.0, 0.0], [-180000.0, -180000.0]]
    assert result.grad_norm == math.sqrt(2 * 180000.0**2)
    # and where float32 does not have it either, the step is skipped
    huge = np.full((2, 2), 3e38, F32)
    result = optimizer.step({"p": fs.Rows([0, 0], huge)}, skip_nonfinite=True)
    assert result.skipped
    assert optimizer.t == 1


def test_the_sign_of_zero_is_kept(backend: Backend) -> None:
    """Nothing is added to the gradient of a row that is named once, and -0 and -0 make -0."""
    p = np.full((4, 1), -0.0, F32)
    values = np.asarray([[-0.0], [0.0], [-0.0], [-0.0], [-0.0], [0.0]], F32)
    fs.SGD({"p": p}, lr=1.0, backend=backend).step({"p": fs.Rows([0, 1, 2, 2, 3, 3], values)})
    # -0 - (-0) is 0, and -0 - 0 is -0
    assert np.signbit(p[:, 0]).tolist() == [False, True, False, True]


@pytest.mark.parametrize("rule", sorted(STEPS_ROWS))
def test_other_rows_keep_every_bit(rule: str, backend: Backend) -> None:
    """NaNs with a payload, subnormal numbers and -0 in rows, state and average stay as they are."""
    patterns = np.asarray([0x7FC12345, 0xFF800001, 0x80000000, 1, 0x807FFFFF, 0x7F800000, 0], np.uint32)
    p = np.tile(patterns.view(F32), (6, 1))
    params = {"p": p}
    optimizer = fs.rules[rule](params, weight_decay=0.5, l1=0.1, l2=0.1, ema=0.5, backend=backend)
    saved = optimizer.state_dict()
    for s in saved["state"]["p"].values():
        s[...] = patterns.view(F32) if s.ndim == 2 else patterns.view(F32)[: len(s)]
    optimizer.load_state_dict(saved)
    before, state = p.copy(), optimizer.state_dict()["state"]["p"]
    with np.errstate(all="ignore"):
        optimizer.step({"p": fs.Rows([4, 1, 4], ones(3, 7))})
    others = [0, 2, 3, 5]
    assert bits(p[others]) == bits(before[others])
    for n, s in optimizer.state_dict()["state"]["p"].items():
        assert bits(s[others]) == bits(state[n][others]), n


@pytest.mark.parametrize("choice", ["SGD", "RowwiseAdagrad, all options", "RMSProp, all options", "AdamW"])
def test_the_same_bits_everywhere(choice: str, rng: np.random.Generator) -> None:
    """Any number of threads, any instruction set, both backends; some rows are named very often."""
    rule, hyperparameters = CHOICES[choice]
    start = {
        "narrow": normal(rng, (8000, 3)),
        "wide": normal(rng, (3, 30011)),
        "matrix": normal(rng, (6000, 17)),
        "elements": normal(rng, (9001,)),
        "dense": normal(rng, (301, 33)),
    }
    grads: list[dict[str, Any]] = []
    for step in range(2):
        uneven = (8000 * rng.random(4000) ** 9).astype(np.int64)
        one = np.full(3000, 5999, np.uint16)
        grads.append(
            {
                "narrow": fs.Rows(uneven, normal(rng, (4000, 3))),
                "wide": fs.Rows([2, 0, 2], normal(rng, (3, 30011))),
                "matrix": some_rows(rng, start["matrix"], F32, 3000)
                if step
                else fs.Rows(one, normal(rng, (3000, 17))),
                "elements": some_rows(rng, start["elements"], F32, 12000),
                "dense": normal(rng, (301, 33)),
            }
        )
    alone: Alone | None = None
    expected: list[fs.StepResult] = []
    isas: Iterable[str] = fs.info()["isas"]
    runs = [("native", isa, n) for isa, n in zip(isas, (1, 5, 2, 3), strict=False)]
    for backend, isa, n in [*runs, ("native", fs.info()["isa"], 7), ("numpy", fs.info()["isa"], 1)]:
        fs.use_isa(isa)
        fs.set_num_threads(n)
        make = maker(rule, **hyperparameters, backend=backend)
        params = {k: p.copy() for k, p in start.items()}
        optimizer = make(params)
        if alone is None:
            alone = Alone(make, params)
            expected = [alone.step(g, clip_norm=3.0) for g in grads]
        assert [optimizer.step(g, clip_norm=3.0) for g in grads] == expected
        alone.agrees_with(optimizer, params)


@pytest.mark.parametrize("shape", [(1000, 3), (4097,), (64, 129), (40, 5, 7)], ids=str)
@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=str)
def test_the_norm_is_of_the_sequence(
    shape: tuple[int, ...], dtype: Any, backend: Backend, rng: np.random.Generator
) -> None:
    """The order in which rows are named, and how they are divided among tables, leave its bits alone."""
    g = normal(rng, shape, dtype)
    n = len(g)
    dense = normal(rng, (257,), dtype)
    expected = fs.global_norm([dense, np.asarray(g.reshape(-1)), dense])
    exact = math.sqrt(math.fsum(float(x) ** 2 for a in (dense, g, dense) for x in a.astype(F64).flat))
    assert expected == pytest.approx(exact, rel=1e-14)
    ascending = np.arange(3 * n, step=3)
    shuffled = rng.permutation(n)
    half = n // 3
    sequences: list[list[Any]] = [
        [fs.Rows(ascending, g)],
        [fs.Rows(ascending[shuffled], g[shuffled])],
        [fs.Rows(ascending[:half], g[:half]), fs.Rows(ascending[half:], g[half:])],
        [fs.Rows(ascending[:half], g[:half]), g[half:]],
    ]
    for sequence in sequences:
        grads = [dense, *sequence, dense]
        assert fs.global_norm(grads) == expected
        params = [np.zeros((3 * n, *shape[1:]) if isinstance(x, fs.Rows) else x.shape, dtype) for x in grads]
        optimizer = fs.SGD(params, backend=backend)
        for threads in (1, 3):
            fs.set_num_threads(threads)
            assert optimizer.step(grads, skip_nonfinite=True).grad_norm == expected
            assert optimizer.step(grads, clip_norm=0.5).grad_norm == expected


@pytest.mark.parametrize("form", FORMATS)
def test_norms_agree(form: str, rng: np.random.Generator) -> None:
    """`global_norm` and `clip_grad_norm` of the same structure, and the norm that the step has."""
    dtype, gradient_dtype, state_dtype = FORMATS[form]
    params = tables(rng, dtype)
    grads: dict[str, Any] = {k: some_rows(rng, p, gradient_dtype) for k, p in params.items()}
    grads |= {"dense": normal(rng, (4, 3), gradient_dtype), "cube": None}
    result = fs.Adam(params, state_dtype=state_dtype).step(grads, clip_norm=1.0)
    norm = fs.global_norm(grads)
    assert norm == result.grad_norm
    summed = [sums_of_rows(g)[1] if isinstance(g, fs.Rows) else g for g in grads.values() if g is not None]
    assert norm == fs.global_norm(summed)
    exact = math.sqrt(math.fsum(float(x) ** 2 for a in summed for x in a.astype(F64).flat))
    assert norm == pytest.approx(exact, rel=1e-14)
    # clipping writes the values as it writes dense gradients of their shapes
    values = [g.values.copy() if isinstance(g, fs.Rows) else g for g in grads.values()]
    before = [None if v is None else v.copy() for v in values]
    assert fs.clip_grad_norm(grads, norm / 2) == norm
    factor = norm / 2 / (norm + 1e-6)
    tolerance = {F16: 1e-3, BF16: 8e-3, F32: 1e-6, F64: 1e-14}[gradient_dtype]
    for g, v in zip(grads.values(), before, strict=True):
        if g is not None and v is not None:
            found = g.values if isinstance(g, fs.Rows) else g
            assert found.dtype == gradient_dtype
            np.testing.assert_allclose(found.astype(F64), factor * v.astype(F64), rtol=tolerance, atol=1e-7)
    assert fs.global_norm(grads) == pytest.approx(factor * norm, rel=10 * tolerance)


def test_norms_of_other_structures() -> None:
    single: Any = fs.Rows([1, 1], ones(2, 4))
    assert fs.global_norm(single) == 4.0
    single = fs.Rows([], np.empty((0, 4), F32))
    assert fs.global_norm(single) == 0.0
    assert fs.global_norm([{"a": [fs.Rows([3, 3], 2 * ones(2)), None]}, 3 * ones(1)]) == 5.0
    values = ones(2, 4)
    single = fs.Rows((7, 7), values)
    assert fs.clip_grad_norm(single, 2.0) == 4.0
    np.testing.assert_allclose(values, 0.5, rtol=1e-6)
    assert fs.clip_grad_norm([fs.Rows([0, 5], values), None], 100.0) == pytest.approx(
        math.sqrt(2.0), rel=1e-6
    )
    np.testing.assert_allclose(values, 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (fs.Rows([-1], ones(1, 3)), ValueError),
        (fs.Rows([0, 1], ones(1, 3)), ValueError),
        (fs.Rows([0.5], ones(1, 3)), TypeError),
        (fs.Rows([[0]], ones(1, 3)), ValueError),
        (fs.Rows([0], [[1.0]]), TypeError),
        (fs.Rows([0], np.ones((1, 3), np.int64)), TypeError),
        (fs.Rows([0], np.ones((), F32)), ValueError),
    ],
    ids=lambda x: "" if isinstance(x, type) else repr(x)[:40],
)
def test_norms_of_bad_rows(bad: fs.Rows, error: type[Exception]) -> None:
    first = 10 * ones(2)
    for f in (fs.global_norm, lambda grads: fs.clip_grad_norm(grads, 1.0)):
        with pytest.raises(error, match="'bad'") as caught:
            f({"first": first, "bad": bad})
        assert "to ," not in str(caught.value), "a sentence with a hole"
    assert first.tolist() == [10.0, 10.0]


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
@pytest.mark.parametrize("state_dtype", [None, F16, BF16], ids=str)
def test_rowwise_adagrad_with_state_of_16_bits(
    dtype: Any, state_dtype: Any, backend: Backend, rng: np.random.Generator
) -> None:
    """A dense step rounds the gradient to 16 bits on the way; rows move as by `step_rows`, which does not."""
    make = maker(fs.RowwiseAdagrad, state_dtype=state_dtype, backend=backend)
    params = {"p": normal(rng, (9, 5), dtype)}
    other = {"p": params["p"].copy()}
    optimizer, by_rows = make(params), make(other)
    for _ in range(3):
        rows = fs.Rows([7, 2, 3], normal(rng, (3, 5), dtype))
        optimizer.step({"p": rows}, scale=0.3)
        by_rows.step_rows("p", rows.indices, rows.values, scale=0.3)
        assert tree_bits([params, optimizer.state["p"]["s"]]) == tree_bits([other, by_rows.state["p"]["s"]])


class Watched:
    """What must not change, and its bits."""

    def __init__(self, optimizer: fs.Optimizer, *trees: Any) -> None:
        self.optimizer, self.trees = optimizer, trees
        self.before = self.now()

    def now(self) -> Any:
        return tree_bits(
            [self.optimizer.state_dict(), self.optimizer.t, self.optimizer.row_steps, *self.trees]
        )

    def unchanged(self) -> None:
        assert self.now() == self.before


def read_only(*shape: int) -> Array:
    values = ones(*shape)
    values.flags.writeable = False
    return values


BAD: dict[str, tuple[Any, tuple[type[Exception], ...]]] = {
    "negative": (fs.Rows([0, -1], ones(2, 3)), (ValueError,)),
    "too large": (fs.Rows([4, 0], ones(2, 3)), (ValueError,)),
    "too large, unsigned": (fs.Rows(np.asarray([2**64 - 1], np.uint64), ones(1, 3)), (ValueError,)),
    "wraps in 32 bits": (fs.Rows([2**32], ones(1, 3)), (ValueError,)),
    "too large for any integer": (fs.Rows([2**70], ones(1, 3)), (TypeError, ValueError)),
    "not integers": (fs.Rows([1.0], ones(1, 3)), (TypeError,)),
    "truths": (fs.Rows([True, False], ones(2, 3)), (TypeError,)),
    "a mask": (fs.Rows(np.asarray([True, False, True, False]), ones(2, 3)), (TypeError,)),
    "a text": (fs.Rows("12", ones(2, 3)), (TypeError,)),
    "no indices": (fs.Rows(None, ones(2, 3)), (TypeError,)),
    "one index": (fs.Rows(2, ones(1, 3)), (TypeError, ValueError)),
    "indices of two axes": (fs.Rows([[0, 1]], ones(2, 3)), (ValueError,)),
    "ragged": (fs.Rows([[0], [1, 2]], ones(2, 3)), (TypeError, ValueError)),
    "more indices": (fs.Rows([0, 1, 2], ones(2, 3)), (ValueError,)),
    "fewer indices": (fs.Rows([0], ones(2, 3)), (ValueError,)),
    "no rows for values": (fs.Rows([], ones(2, 3)), (ValueError,)),
    "too wide": (fs.Rows([0], ones(1, 4)), (ValueError,)),
    "too narrow": (fs.Rows([0], ones(1, 1)), (ValueError,)),
    "an axis too few": (fs.Rows([0, 1, 2], ones(3)), (ValueError,)),
    "an axis too many": (fs.Rows([0], ones(1, 3, 1)), (ValueError,)),
    "empty and too wide": (fs.Rows([], ones(0, 4)), (ValueError,)),
    "values of float64": (fs.Rows([0], np.ones((1, 3))), (TypeError,)),
    "values that are integers": (fs.Rows([0], np.ones((1, 3), np.int32)), (TypeError,)),
    "values that are complex": (fs.Rows([0], np.ones((1, 3), np.complex64)), (TypeError,)),
    "values of objects": (fs.Rows([0], np.ones((1, 3), object)), (TypeError,)),
    "values of the other byte order": (fs.Rows([0], np.ones((1, 3), F32.newbyteorder())), (TypeError,)),
    "a list of values": (fs.Rows([0], [[1.0, 1.0, 1.0]]), (TypeError,)),
    "no values": (fs.Rows([0], None), (TypeError,)),
    "rows in rows": (fs.Rows([0], fs.Rows([0], ones(1, 3))), (TypeError,)),
    "rows in a list": ([fs.Rows([0], ones(1, 3))], (TypeError, ValueError)),
}


def beside(bad: Any) -> tuple[dict[str, Array], dict[str, Any]]:
    """Good gradients, of rows and of all, before and after a bad one."""
    params = {k: 2 * ones(4, 3) for k in ("rows", "dense", "users", "more rows", "more")}
    grads: dict[str, Any] = {
        "rows": fs.Rows([2, 1, 2], ones(3, 3)),
        "dense": ones(4, 3),
        "users": bad,
        "more rows": fs.Rows(np.asarray([3]), ones(1, 3)),
        "more": ones(4, 3),
    }
    return params, grads


@pytest.mark.parametrize("zero_grad", [False, True])
@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_changes_nothing(case: str, zero_grad: bool, backend: Backend) -> None:
    bad, errors = BAD[case]
    params, grads = beside(bad)
    optimizer = fs.Adam(params, ema=0.5, backend=backend)
    optimizer.step({**grads, "users": ones(4, 3)})
    watched = Watched(optimizer, params, {k: g for k, g in grads.items() if k != "users"})
    for options in several({}, {"clip_norm": 1.0}, {"skip_nonfinite": True}):
        with pytest.raises(errors, match="'users'"):
            optimizer.step(grads, zero_grad=zero_grad, **options)
        watched.unchanged()
    # and it does no harm to the next step
    q, _ = beside(None)
    fresh = fs.Adam(q, ema=0.5, backend=backend)
    fresh.step({**grads, "users": ones(4, 3)})
    good = {**grads, "users": fs.Rows([0], ones(1, 3))}
    optimizer.step(good)
    fresh.step(good)
    assert tree_bits([params, optimizer.state_dict()]) == tree_bits([q, fresh.state_dict()])


@pytest.mark.parametrize("zero_grad", [False, True])
@pytest.mark.parametrize(
    "of",
    [
        "its table",
        "another parameter",
        "a row that is not named",
        "its state",
        "another state",
        "its average",
    ],
)
def test_values_that_share_memory(of: str, zero_grad: bool, backend: Backend) -> None:
    params, grads = beside(None)
    optimizer = fs.Adam(params, ema=0.5, backend=backend)
    state: Any = optimizer.state
    shared: Array = {
        "its table": params["users"][:1],
        "another parameter": params["more"][1:2],
        "a row that is not named": params["users"][3:],
        "its state": state["users"]["m"][:1],
        "another state": state["rows"]["v"][:1],
        "its average": state["users"]["ema"][:1],
    }[of]
    grads["users"] = fs.Rows([0], shared)
    watched = Watched(optimizer, params, grads)
    with pytest.raises(ValueError, match="'users'"):
        optimizer.step(grads, zero_grad=zero_grad)
    watched.unchanged()


@pytest.mark.parametrize(
    "values", [read_only(2, 3), np.broadcast_to(ones(3), (2, 3)), read_only(3, 2).T, read_only(2, 6)[:, ::2]]
)
def test_read_only_values(values: Array, backend: Backend) -> None:
    """They can be read; zero_grad needs to write them, and says so before anything is written."""
    params, grads = beside(fs.Rows([3, 1], values))
    optimizer = fs.SGD(params, lr=0.5, backend=backend)
    watched = Watched(optimizer, params, grads)
    with pytest.raises(ValueError, match="'users'"):
        optimizer.step(grads, zero_grad=True)
    watched.unchanged()
    indices = np.asarray([3, 1])
    indices.flags.writeable = False
    optimizer.step({**grads, "users": fs.Rows(indices, values)})
    assert params["users"][:, 0].tolist() == [2.0, 1.5, 2.0, 1.5]


def test_parameters_without_rows(backend: Backend) -> None:
    """A number has no rows; a row that is scattered in memory is not stepped, or stepped rightly."""
    number, p = np.ones((), F32), 2 * ones(2)
    optimizer = fs.SGD({"p": p, "number": number}, backend=backend)
    watched = Watched(optimizer, p, number)
    for values in (ones(1), np.ones((), F32), ones(0)):
        with pytest.raises((TypeError, ValueError), match="'number'"):
            optimizer.step({"p": fs.Rows([0], ones(1)), "number": fs.Rows([0] * values.size, values)})
        watched.unchanged()
    for table in (np.asfortranarray(ones(4, 3)), ones(4, 6)[:, ::2], ones(4, 3)[:, ::-1]):
        other = ones(4, 3)
        optimizer = fs.SGD({"other": other, "table": table}, lr=0.5, backend=backend)
        watched = Watched(optimizer, table, other)
        try:
            optimizer.step({"other": ones(4, 3), "table": fs.Rows([2], ones(1, 3))})
        except ValueError as e:
            assert "'table'" in str(e)  # noqa: PT017  # either outcome is right
            watched.unchanged()
        else:
            assert table.tolist() == [[1.0] * 3, [1.0] * 3, [0.5] * 3, [1.0] * 3]


@pytest.mark.parametrize("name", [k for k in fs.rules if k not in STEPS_ROWS])
def test_rules_that_cannot_step_rows(name: str, backend: Backend) -> None:
    params, grads = beside(fs.Rows([1], ones(1, 3)))
    grads |= {"rows": None, "more rows": None}
    optimizer = fs.rules[name](params, backend=backend)
    watched = Watched(optimizer, params, grads)
    for options in several({}, {"zero_grad": True, "clip_norm": 1.0, "skip_nonfinite": True}):
        with pytest.raises(TypeError, match="'users'"):
            optimizer.step(grads, loss=1.0, **options)
        watched.unchanged()
    with pytest.raises(TypeError, match="'users'"):
        optimizer.step({**grads, "users": fs.Rows([], ones(0, 3))}, loss=1.0)
    watched.unchanged()


def test_cautious_groups(backend: Backend) -> None:
    """What is cautious cannot step rows; the other groups can."""
    for rule in (fs.Adam, fs.AdamW):
        params = {"users": ones(4, 3), "dense": ones(4, 3)}
        grads = {"users": fs.Rows([1], ones(1, 3)), "dense": ones(4, 3)}
        groups = [
            {"params": {"users": params["users"]}, "cautious": True},
            {"params": {"dense": params["dense"]}},
        ]
        optimizer = rule(groups, backend=backend)
        watched = Watched(optimizer, params, grads)
        with pytest.raises(TypeError, match="'users'"):
            optimizer.step(grads, zero_grad=True)
        watched.unchanged()
        with pytest.raises(TypeError, match="'users'"):
            optimizer.step([{"users": grads["users"]}, {"dense": grads["dense"]}])
        watched.unchanged()
        optimizer.step({"users": ones(4, 3), "dense": fs.Rows([1], ones(1, 3))})
        assert (params["dense"] == 1).tolist() == [[True] * 3, [False] * 3, [True] * 3, [True] * 3]


def test_errors_of_the_options(backend: Backend) -> None:
    """Of numbers that are no options, and of a schedule that fails, nothing has changed either."""

    fails_at = [2]

    def failing(t: int) -> float:
        if t in fails_at:
            message = "no more"
            raise RuntimeError(message)
        return 0.1

    params, grads = beside(fs.Rows([1, 1], ones(2, 3)))
    optimizer = fs.Momentum(params, lr=failing, ema=0.5, backend=backend)
    optimizer.step(grads)
    watched = Watched(optimizer, params, grads)
    for options in several(
        {"clip_norm": -1.0}, {"clip_value": math.nan}, {"scale": math.inf}, {"clip_norm": "1"}
    ):
        with pytest.raises((TypeError, ValueError)):
            optimizer.step(grads, zero_grad=True, **options)
        watched.unchanged()
    with pytest.raises(RuntimeError, match="no more"):
        optimizer.step(grads, zero_grad=True, clip_norm=1.0)
    watched.unchanged()
    fails_at.clear()
    with pytest.raises((TypeError, ValueError, KeyError)):
        optimizer.step({**grads, "unknown": fs.Rows([0], ones(1, 3))}, zero_grad=True)
    watched.unchanged()
    del grads["more"]
    with pytest.raises((TypeError, ValueError, KeyError)):
        optimizer.step(grads, zero_grad=True)


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": lambda big: big[:6, :3],
    "every second row": lambda big: big[::2, :3],
    "every second column": lambda big: big[:6, :6:2],
    "backwards": lambda big: big[5::-1, 2::-1],
    "columns": lambda big: big.T[:6, :3],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["float32", "float64", "float16", "float16 stepped by bfloat16"])
def test_zero_grad(layout: str, form: str, backend: Backend, rng: np.random.Generator) -> None:
    """The values become +0, of a skipped step too; what lies between them, and the indices, stay."""
    dtype, gradient_dtype, state_dtype = FORMATS[form]
    for poison in (None, math.nan, math.inf):
        big = normal(rng, (12, 12), gradient_dtype)
        values = LAYOUTS[layout](big)
        untouched = np.ones(big.shape, bool)
        LAYOUTS[layout](untouched)[...] = False
        if poison is not None:
            values[3, 1] = poison
        before = big.copy()
        indices = np.asarray([4, 0, 4, 7, 9, 0])
        dense = normal(rng, (5,), gradient_dtype)
        params = {
            "p": normal(rng, (10, 3), dtype),
            "q": normal(rng, (10, 3), dtype),
            "dense": normal(rng, (5,), dtype),
        }
        make = maker(fs.Adam, state_dtype=state_dtype, backend=backend)
        optimizer, twin_params = make(params), {k: p.copy() for k, p in params.items()}
        twin = make(twin_params)
        empty = np.empty((0, 3), gradient_dtype)
        result = twin.step(
            {"p": fs.Rows(indices, values.copy()), "q": fs.Rows([], empty), "dense": dense.copy()},
            skip_nonfinite=True,
        )
        grads = {"p": fs.Rows(indices, values), "q": fs.Rows([], empty), "dense": dense}
        assert repr(optimizer.step(grads, skip_nonfinite=True, zero_grad=True)) == repr(result)
        assert result.skipped == (poison is not None)
        assert tree_bits([params, optimizer.state_dict()]) == tree_bits([twin_params, twin.state_dict()])
        assert bits(np.ascontiguousarray(values)) == bits(np.zeros((6, 3), gradient_dtype))
        assert bits(big[untouched]) == bits(before[untouched])
        assert indices.tolist() == [4, 0, 4, 7, 9, 0]
        assert bits(dense) == bits(np.zeros(5, gradient_dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zero_grad", [False, True])
def test_layouts_of_values(layout: str, zero_grad: bool, backend: Backend, rng: np.random.Generator) -> None:
    """Values may lie in memory in any way, indices too."""
    big = normal(rng, (12, 12))
    values = LAYOUTS[layout](big)
    spread = np.asarray([4, 99, 0, 99, 4, 99, 7, 99, 9, 99, 0, 99], ">i8")
    params = {"p": normal(rng, (10, 3))}
    alone, optimizer = Alone(maker(fs.Adam), params), fs.Adam(params, backend=backend)
    alone.step({"p": fs.Rows(spread[::2], values.copy())}, clip_norm=1.0)
    optimizer.step({"p": fs.Rows(spread[::2], values)}, clip_norm=1.0, zero_grad=zero_grad)
    alone.agrees_with(optimizer, params)


def test_values_that_several_tables_share(backend: Backend) -> None:
    """As dense gradients may: all are read before any is zeroed."""
    g = ones(4, 3)
    params = {k: 2 * ones(4, 3) for k in "abcd"}
    optimizer = fs.SGD(params, lr=0.5, backend=backend)
    optimizer.step(
        {"a": fs.Rows([0, 1, 2, 3], g), "b": g, "c": fs.Rows([0, 0], g[2:]), "d": g}, zero_grad=True
    )
    for k in "abd":
        assert bits(params[k]) == bits(1.5 * ones(4, 3)), k
    assert params["c"][:, 0].tolist() == [1.0, 2.0, 2.0, 2.0]
    assert not g.any()


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.intp]
)
def test_indices_of_every_integer_type(dtype: Any, backend: Backend) -> None:
    p = np.zeros((300, 2), F32)
    largest = min(299, int(np.iinfo(dtype).max))
    given = np.asarray([largest, 0, largest, 5], dtype)
    fs.SGD({"p": p}, lr=1.0, backend=backend).step({"p": fs.Rows(given, ones(4, 2))})
    expected = np.zeros((300, 2), F32)
    expected[[largest, 0, 5]] = [[-2.0], [-1.0], [-1.0]]
    assert bits(p) == bits(expected)


def test_lists_of_indices(backend: Backend) -> None:
    for given in ([2, 0, 2], (2, 0, 2), [np.int64(2), np.uint8(0), 2], np.asarray([2, 0, 2])[::-1]):
        p = np.zeros(4, F32)
        fs.SGD(p, lr=1.0, backend=backend).step(fs.Rows(given, ones(3)))
        assert p.tolist() == [-1.0, 0.0, -2.0, 0.0]


def test_skipped_steps(backend: Backend, rng: np.random.Generator) -> None:
    """A number that is not finite, wherever it stands, stops rows and dense gradients alike."""
    params = {"a": normal(rng, (6, 3)), "b": normal(rng, (5,)), "dense": normal(rng, (4,))}
    optimizer = fs.Adam(params, ema=0.5, backend=backend)
    good: dict[str, Any] = {"a": fs.Rows([3, 1, 3], ones(3, 3)), "b": fs.Rows([4], ones(1)), "dense": ones(4)}
    optimizer.step(good)
    watched = Watched(optimizer, params)
    for bad in (math.nan, math.inf, -math.inf):
        a, b, dense = ones(3, 3), ones(1), ones(4)
        a[2, 2] = b[0] = dense[1] = bad
        for worse in ({"a": fs.Rows([3, 1, 3], a)}, {"b": fs.Rows([4], b)}, {"dense": dense}):
            for options in several({}, {"clip_norm": 1.0}, {"clip_value": 0.5, "scale": 0.1}):
                result = optimizer.step({**good, **worse}, skip_nonfinite=True, **options)
                assert result.skipped
                assert result.grad_norm is not None
                assert not math.isfinite(result.grad_norm)
                watched.unchanged()
    # infinities of both signs, and numbers whose sum is infinite
    for values in ([math.inf, -math.inf], [3e38, 3e38]):
        assert optimizer.step(
            {**good, "b": fs.Rows([2, 2], np.asarray(values, F32))}, skip_nonfinite=True
        ).skipped
        watched.unchanged()
    # but those that cancel may be large
    result = optimizer.step(
        {**good, "b": fs.Rows([2, 2], np.asarray([3e38, -3e38], F32))}, skip_nonfinite=True
    )
    assert result == fs.StepResult(grad_norm=math.sqrt(3 + 4 * 3 + 4), skipped=False)


def test_nan_and_infinity_without_skipping(backend: Backend, rng: np.random.Generator) -> None:
    """They go where they go in a dense step of the rows alone: with clip_norm to all that is stepped."""
    for options in several({}, {"clip_norm": 1.0}, {"clip_value": 1.0}):
        for bad in (math.nan, math.inf):
            params = {"a": normal(rng, (6, 3)), "dense": normal(rng, (4,))}
            alone, optimizer = Alone(maker(fs.SGD), params), fs.SGD(params, backend=backend)
            values = ones(2, 3)
            values[1, 1] = bad
            grads = {"a": fs.Rows([4, 2], values), "dense": ones(4)}
            with np.errstate(all="ignore"):
                expected, found = alone.step(grads, **options), optimizer.step(grads, **options)
            assert repr(found) == repr(expected)
            for k, p in params.items():
                np.testing.assert_array_equal(p, alone.params[k])


def test_structures(backend: Backend) -> None:
    """One parameter, sequences, mappings and groups, with a None elsewhere."""
    g, step = ones(2, 3), [1.5, 2.0, 1.5, 2.0]
    rows = fs.Rows([2, 0], g)

    def table() -> Array:
        return 2 * ones(4, 3)

    def column(p: Array) -> Any:
        assert (p == p[:, :1]).all()
        return p[:, 0].tolist()

    p, q, r = table(), table(), table()
    fs.SGD(p, lr=0.5, backend=backend).step(rows)
    assert column(p) == step

    p, q, r = table(), table(), table()
    for sequence in ([p, q, r], (p, q, r)):
        optimizer = fs.SGD(sequence, lr=0.25, backend=backend)
        optimizer.step([rows, None, g[:1].repeat(4, axis=0)])
        assert optimizer.t == 1
    assert [column(x) for x in (p, q, r)] == [step, [2.0] * 4, [1.5] * 4]

    p, q, r = table(), table(), table()
    optimizer = fs.SGD({1: p, ("a", 2): q, None: r}, lr=0.5, backend=backend)
    optimizer.step({None: None, 1: None, ("a", 2): rows})
    assert [column(x) for x in (p, q, r)] == [[2.0] * 4, step, [2.0] * 4]

    p, q, r = table(), table(), table()
    groups = [{"params": {"p": p, "q": q}}, {"params": {"r": r}, "lr": 1.0}]
    optimizer = fs.SGD(groups, lr=0.5, backend=backend)
    optimizer.step([{"p": rows, "q": None}, {"r": rows}])
    assert [column(x) for x in (p, q, r)] == [step, [2.0] * 4, [1.0, 2.0, 1.0, 2.0]]
    optimizer.step({"p": None, "q": rows, "r": None})
    assert [column(x) for x in (p, q, r)] == [step, step, [1.0, 2.0, 1.0, 2.0]]

    p, q, r = table(), table(), table()
    optimizer = fs.SGD([{"params": p}, {"params": [q, r], "lr": 1.0}], lr=0.5, backend=backend)
    result = optimizer.step([rows, [None, rows]], clip_norm=1e9)
    assert [column(x) for x in (p, q, r)] == [step, [2.0] * 4, [1.0, 2.0, 1.0, 2.0]]
    assert result.grad_norm == math.sqrt(12.0)
    for bad in (rows, [rows, rows], [[rows], [None, rows]], {"p": rows}):
        with pytest.raises((TypeError, ValueError)):
            optimizer.step(bad)
    assert optimizer.t == 1


@pytest.mark.parametrize("of", [0, 1, "bad"])
def test_errors_name_the_parameter(of: Any, backend: Backend) -> None:
    bad = fs.Rows([4], ones(1, 3))
    if of == 0:
        with pytest.raises(ValueError, match="parameter 0"):
            fs.Adam(ones(4, 3), backend=backend).step(bad)
    elif of == 1:
        with pytest.raises(ValueError, match="parameter 1"):
            fs.Adam([ones(4, 3), ones(4, 3)], backend=backend).step([fs.Rows([3], ones(1, 3)), bad])
    else:
        groups = [{"params": {"good": ones(4, 3)}}, {"params": {"bad": ones(4, 3)}}]
        with pytest.raises(ValueError, match="parameter 'bad'"):
            fs.Adam(groups, backend=backend).step([{"good": fs.Rows([3], ones(1, 3))}, {"bad": bad}])


def test_groups_have_hyperparameters_of_their_own(backend: Backend, rng: np.random.Generator) -> None:
    """One norm clips all groups; momentum, decay and schedules are the group's."""
    start = {k: normal(rng, (6, 3), F64) for k in "abc"}
    own: dict[str, dict[str, Any]] = {
        "a": {"lr": 0.5, "momentum": 0.5},
        "b": {"weight_decay": 0.25},
        "c": {"lr": falling},
    }
    params = {k: p.copy() for k, p in start.items()}
    optimizer = fs.Momentum([{"params": {k: params[k]}, **own[k]} for k in "abc"], lr=0.125, backend=backend)
    v = {k: np.zeros((6, 3)) for k in "abc"}
    for t in (1, 2, 3):
        grads: dict[str, Any] = {k: fs.Rows(rng.integers(0, 6, 4), normal(rng, (4, 3), F64)) for k in "ab"}
        grads["c"] = normal(rng, (6, 3), F64)
        summed = {
            k: sums_of_rows(g) if isinstance(g, fs.Rows) else (list(range(6)), g) for k, g in grads.items()
        }
        norm = math.sqrt(math.fsum(x * x for _, g in summed.values() for x in g.flat))
        assert optimizer.step(grads, clip_norm=0.5).grad_norm == pytest.approx(norm, rel=1e-14)
        for k, (named, g) in summed.items():
            h = {"lr": 0.125, "momentum": 0.9, "weight_decay": 0.0, **own[k]}
            lr = falling(t) if callable(h["lr"]) else h["lr"]
            v[k][named] = h["momentum"] * v[k][named] - lr * min(1.0, 0.5 / (norm + 1e-6)) * g
            start[k][named] = start[k][named] * (1 - lr * h["weight_decay"]) + v[k][named]
            np.testing.assert_allclose(params[k], start[k], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", sorted(STEPS_ROWS))
def test_empty_rows_and_tables(rule: str, backend: Backend, rng: np.random.Generator) -> None:
    """A step of no rows counts, and moves nothing."""
    params = {
        "p": normal(rng, (5, 3)),
        "none": ones(0, 3),
        "elements": normal(rng, (5,)),
        "cube": normal(rng, (2, 3, 2)),
    }
    optimizer = fs.rules[rule](params, l1=0.1, weight_decay=0.1, ema=0.5, backend=backend)
    before, state = tree_bits(params), tree_bits(optimizer.state_dict()["state"])
    grads: dict[str, Any] = {
        "p": fs.Rows([], ones(0, 3)),
        "none": fs.Rows(np.empty(0, np.int32), ones(0, 3)),
        "elements": fs.Rows((), ones(0)),
        "cube": fs.Rows(np.empty(0, np.uint8), ones(0, 3, 2)),
    }
    for n in (1, 2):
        assert optimizer.step(grads, clip_norm=1.0) == fs.StepResult(grad_norm=0.0, skipped=False)
        assert optimizer.t == n
        assert tree_bits(params) == before
        assert tree_bits(optimizer.state_dict()["state"]) == state


def test_rows_without_columns(backend: Backend) -> None:
    """Rows of no elements can be named, beside others that move."""
    p = 2 * ones(3)
    optimizer = fs.Adam({"no columns": ones(4, 0), "p": p}, lr=0.5, eps=0.0, backend=backend)
    result = optimizer.step(
        {"no columns": fs.Rows([3, 0, 3], ones(3, 0)), "p": fs.Rows([1], ones(1))}, clip_norm=2.0
    )
    assert result.grad_norm == 1.0
    np.testing.assert_allclose(p, [2.0, 1.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize("zero_grad", [False, True])
@pytest.mark.parametrize("offset", [0, 2])
def test_dense_gradients_that_share_memory_beside_rows(
    offset: int, zero_grad: bool, backend: Backend
) -> None:
    """They may, with or without rows beside them."""
    g = ones(3 + offset)
    params = [2 * ones(3) for _ in range(3)]
    optimizer = fs.SGD(params, lr=0.5, backend=backend)
    optimizer.step([g[:3], g[offset:], fs.Rows([1], ones(1))], zero_grad=zero_grad)
    assert [p.tolist() for p in params] == [[1.5] * 3, [1.5] * 3, [2.0, 1.5, 2.0]]
    assert g.any() != zero_grad


@pytest.mark.parametrize(
    "choice",
    ["Momentum", "Adagrad, all options", "RowwiseAdagrad", "RMSProp, all options", "Adam, all options"],
)
@pytest.mark.parametrize("form", ["float32", "float64", "bfloat16", "float16 stepped by bfloat16"])
def test_checkpoints(choice: str, form: str, backend: Backend, rng: np.random.Generator) -> None:
    """What is loaded goes on to the same bits, in the other backend too."""
    rule, hyperparameters = CHOICES[choice]
    dtype, gradient_dtype, state_dtype = FORMATS[form]
    params = {k: p for k, p in tables(rng, dtype).items() if k in ("matrix", "elements", "gaps", "dense")}
    optimizer = rule(params, **hyperparameters, state_dtype=state_dtype, backend=backend)

    def steps(optimizers: list[fs.Optimizer]) -> None:
        for options in OPTIONS[:4]:
            grads: dict[str, Any] = {k: some_rows(rng, p, gradient_dtype) for k, p in params.items()}
            grads["dense"] = normal(rng, (4, 3), gradient_dtype)
            more = some_rows(rng, params["matrix"], gradient_dtype)
            for o in optimizers:
                o.step(grads, **options)
                o.step_rows("matrix", more.indices, more.values)

    steps([optimizer])
    saved = pickle.loads(pickle.dumps(optimizer.state_dict()))
    copies = [{k: p.copy() for k, p in params.items()} for _ in BACKENDS]
    others = [
        rule(c, **hyperparameters, state_dtype=state_dtype, backend=b)
        for c, b in zip(copies, BACKENDS, strict=True)
    ]
    for other in others:
        other.load_state_dict(saved)
    assert optimizer.row_steps == {"matrix": 4}
    steps([optimizer, *others])
    for c, other in zip(copies, others, strict=True):
        assert tree_bits([c, other.state_dict()]) == tree_bits([dict(params), optimizer.state_dict()])


@pytest.mark.parametrize("rule", sorted(STEPS_ROWS))
def test_the_gaps_of_a_table_stay(rule: str, backend: Backend, rng: np.random.Generator) -> None:
    """Rows, elements and blocks with gaps between them: the gaps keep their bits."""
    for big, of in (
        (normal(rng, (12, 5)), np.s_[::2]),
        (normal(rng, (12, 5)), np.s_[1::3, 1:4]),
        (normal(rng, (13,)), np.s_[1::4]),
        (normal(rng, (9, 2, 3)), np.s_[::-2]),
        (normal(rng, (6, 4)), np.s_[1:3]),
    ):
        table = big[of]
        gaps = np.ones(big.shape, bool)
        gaps[of] = False
        before, twin = big.copy(), table.copy()
        optimizer = fs.rules[rule](table, ema=0.5, backend=backend)
        compact = fs.rules[rule](twin, ema=0.5, backend=backend)
        for _ in range(3):
            rows = some_rows(rng, table, F32)
            optimizer.step(rows, clip_norm=0.5)
            compact.step(rows, clip_norm=0.5)
        assert bits(big[gaps]) == bits(before[gaps])
        assert tree_bits([table, optimizer.state_dict()]) == tree_bits([twin, compact.state_dict()])
        assert bits(table) != bits(before[of])


@pytest.mark.parametrize("rule", sorted(STEPS_ROWS))
def test_all_rows_are_a_dense_gradient(rule: str, backend: Backend, rng: np.random.Generator) -> None:
    """Where every row is named once, in any order, it is the dense step; and numbers of rows come and go."""
    p = normal(rng, (300, 4))
    q = p.copy()
    optimizer, dense = fs.rules[rule](p, **COMMON, backend=backend), fs.rules[rule](q, **COMMON)
    for n in (300, 1, 300, 0, 7, 300):
        g = normal(rng, (300, 4))
        order = rng.permutation(300)
        assert optimizer.step(fs.Rows(order, g[order]), clip_norm=9.0) == dense.step(g, clip_norm=9.0)
        assert tree_bits([p, optimizer.state_dict()]) == tree_bits([q, dense.state_dict()])
        rows = some_rows(rng, p, F32, n)
        optimizer.step(rows)
        alone = Alone(maker(fs.rules[rule], **COMMON), {"q": q})
        alone.state = {"q": dense.state_dict()["state"][0]}
        alone.t = dense.t
        alone.step({"q": rows})
        q[...] = alone.params["q"]
        saved = dense.state_dict()
        saved["t"], saved["state"] = alone.t, {0: alone.state["q"]}
        dense.load_state_dict(saved)


def test_rows_as_objects() -> None:
    """They cannot be changed, can be pickled, and hold what they were given."""
    indices, values = np.asarray([1, 0]), ones(2, 3)
    rows = fs.Rows(indices=indices, values=values)
    assert rows.indices is indices
    assert rows.values is values
    with pytest.raises((AttributeError, TypeError)):
        rows.values = values  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(rows))
    assert tree_bits(copy) == tree_bits(rows)
    with pytest.raises(TypeError):
        fs.Rows(indices)  # type: ignore[call-arg]
    p = ones(2, 3)
    with pytest.raises(TypeError):
        fs.SGD({"p": rows})
    with pytest.raises((TypeError, ValueError)):
        fs.SGD({"p": p}).step_rows("p", rows, values)
    assert bits(p) == bits(ones(2, 3))

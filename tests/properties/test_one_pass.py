"""What a step does beside the rule, in the same pass: clipping, skipping, zeroing, averaging; the norm alone.

Each is compared with doing it by hand, before or after a plain step, for rules of every kind; all together
for every rule.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import fusedstep as fs
from tests.helpers.choices import FEW, is_elementwise, kernel_of, takes_16_bits
from tests.helpers.exactly import same_bits
from tests.helpers.internals import _core

ml_dtypes = pytest.importorskip("ml_dtypes")

Array = np.ndarray[Any, Any]

BACKENDS = ["native", "numpy"]
DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
LOSSES = [2.0, 1.5, 1.7, 0.2, 0.3]
STEPS = 3
EPS = 1e-6  # of clip_norm
SHAPES = {"large": (2 * _core.tile + 77,), "square": (6, 6), "small": (3,), "twin": (6, 6)}
OPTIONS: dict[str, Any] = {"l1": 0.01, "l2": 0.02, "weight_decay": 0.1}
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-2, "bfloat16": 1e-1}
NONFINITE = [math.nan, math.inf, -math.inf]


def tensors(seed: int, kind: str = "float32") -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(DTYPES[kind]) for name, shape in SHAPES.items()}


def wide(a: Array) -> Array:
    """As the arithmetic sees it."""
    return a if a.dtype == np.float64 else a.astype(np.float32)


def scaled(grads: dict[str, Array], factor: float) -> dict[str, Array]:
    return {name: wide(g) * wide(g).dtype.type(factor) for name, g in grads.items()}


def copied(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: a.copy() for name, a in arrays.items()}


def zero_bits(a: Array) -> bool:
    return not np.ascontiguousarray(a).view(np.uint8).any()


class Run:
    """Four parameters in two groups that differ."""

    def __init__(self, rule: str, backend: Any, kind: str = "float32", **options: Any) -> None:
        self.params = tensors(0, kind)
        first, second = (
            {name: p for name, p in self.params.items() if (name == "small") == last}
            for last in (False, True)
        )
        groups = [{"params": first}, {"params": second, "lr": 0.05}]
        own = {"trust_coefficient": 1.0} if rule == "LARS" else {}
        self.opt = fs.rules[rule](groups, backend=backend, **{**OPTIONS, **own, **options})

    def step(self, grads: Any, **options: Any) -> fs.StepResult:
        return self.opt.step(grads, loss=LOSSES[self.opt.t], **options)

    def arrays(self) -> dict[str, Array]:
        result = dict(self.params)
        for name, slots in self.opt.state.items():
            result |= {f"{slot} of {name}": array for slot, array in slots.items()}
        return result

    def rest(self) -> Any:
        """What a step changes beside arrays."""
        return self.opt.t, repr([group["scalars"] for group in self.opt.state_dict()["groups"]])

    def snapshot(self) -> Any:
        return copied(self.arrays()), self.rest()


def assert_same(run: Any, other: Any) -> None:
    """Two runs or snapshots have the same bits."""
    (arrays, rest), (others, other_rest) = (x.snapshot() if isinstance(x, Run) else x for x in (run, other))
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert same_bits(array, others[name]), name
    assert rest == other_rest


def assert_close(run: Run, other: Run, kind: str) -> None:
    for name, array in run.arrays().items():
        expected = wide(other.arrays()[name])
        assert np.allclose(wide(array), expected, rtol=TOLERANCE[kind], atol=TOLERANCE[kind]), name


def norm_of(arrays: Any) -> float:
    """The 2-norm from sums without rounding, of numbers brought near 1."""
    flat = np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays])
    exponent = math.frexp(float(np.max(np.abs(flat), initial=0.0)))[1]
    return math.ldexp(math.sqrt(math.fsum(np.ldexp(flat, -exponent) ** 2)), exponent)


# clip_norm


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("rule", FEW)
def test_clip_norm_multiplies_gradients(backend: Any, rule: str, kind: str, maximize: bool) -> None:
    """Where the factor is a power of two, to the bit."""
    run, control = (Run(rule, backend, kind, maximize=maximize) for _ in range(2))
    for t, scale in enumerate([0.5, -2.0, 1.0], 1):
        grads = tensors(t, kind)
        given = copied(grads)
        norm = abs(scale) * fs.global_norm(grads)
        result = run.step(grads, scale=scale, clip_norm=0.125 * (norm + EPS))
        assert result == fs.StepResult(norm, skipped=False)
        assert all(same_bits(g, given[name]) for name, g in grads.items())
        assert control.step(scaled(grads, 0.125 * scale)) == fs.StepResult(None, skipped=False)
        assert_same(run, control)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("rule", FEW)
def test_clip_norm_by_hand(backend: Any, rule: str, kind: str) -> None:
    run, control = (Run(rule, backend, kind) for _ in range(2))
    for t, (scale, c) in enumerate([(0.3, 0.7), (-0.3, 1.1), (0.3, 1e9)], 1):
        grads = tensors(t, kind)
        norm = 0.3 * norm_of(grads.values())
        result = run.step(grads, scale=scale, clip_norm=c)
        assert result.grad_norm == pytest.approx(norm, rel=1e-13)
        control.step(scaled(grads, scale * min(1.0, c / (norm + EPS))))
    assert_close(run, control, kind)


@pytest.mark.parametrize("kind", DTYPES)
def test_clip_norm_by_formula(backend: Any, kind: str) -> None:
    """SGD, whose steps show the gradients as they are."""
    grads = tensors(1, kind)
    params = {name: np.zeros(shape, wide(grads[name]).dtype) for name, shape in SHAPES.items()}
    result = fs.SGD(params, lr=1.0, backend=backend).step(grads, clip_norm=2.0)
    norm = norm_of(grads.values())
    assert result.grad_norm == pytest.approx(norm, rel=1e-13)
    for name, p in params.items():
        assert np.allclose(p, -wide(grads[name]) * (2.0 / (norm + EPS)), rtol=3e-7, atol=0)
    assert norm_of(params.values()) == pytest.approx(2.0, rel=1e-6)


@pytest.mark.parametrize("rule", FEW)
def test_clip_norm_that_is_not_reached(backend: Any, rule: str) -> None:
    """And where the factor is just 1."""
    run, control = (Run(rule, backend) for _ in range(2))
    for t in range(1, STEPS + 1):
        grads = tensors(t)
        norm = fs.global_norm(grads)
        c: Any = [norm + EPS, 2 * norm, math.inf][t - 1]
        assert run.step(grads, clip_norm=c).grad_norm == norm
        control.step(grads)
        assert_same(run, control)


@pytest.mark.parametrize("rule", FEW)
def test_clip_norm_of_zero(backend: Any, rule: str) -> None:
    run, control = (Run(rule, backend, l1=0.0, l2=0.0) for _ in range(2))
    for t in range(1, STEPS + 1):
        grads = tensors(t)
        assert run.step(grads, clip_norm=0).grad_norm == fs.global_norm(grads)
        control.step({name: np.zeros_like(g) for name, g in grads.items()})
    for name, array in run.arrays().items():
        assert np.array_equal(array, control.arrays()[name]), name
    assert run.rest() == control.rest()


@pytest.mark.parametrize("rule", FEW)
def test_norm_leaves_none_out(backend: Any, rule: str) -> None:
    run, control = (Run(rule, backend) for _ in range(2))
    for t, absent in enumerate([["square"], ["large", "small"], list(SHAPES)], 1):
        grads: dict[str, Any] = tensors(t)
        for name in absent:
            grads[name] = None
        present = {name: g for name, g in grads.items() if g is not None}
        norm = fs.global_norm(present)
        result = run.step(grads, clip_norm=0.25 * (norm + EPS), skip_nonfinite=True)
        assert result == fs.StepResult(norm, skipped=False)
        assert norm == 0.0 or absent != list(SHAPES)
        control.step(grads | scaled(present, 0.25))
        assert_same(run, control)


def test_grad_norm_is_none_unless_needed(backend: Any) -> None:
    grads = tensors(1)
    run = Run("Adam", backend)
    assert run.step(grads) == fs.StepResult(None, skipped=False)
    assert run.step(grads, clip_value=0.1, zero_grad=False) == fs.StepResult(None, skipped=False)
    assert run.step(grads, skip_nonfinite=True) == fs.StepResult(fs.global_norm(grads), skipped=False)
    assert run.step(grads, clip_norm=1.0) == fs.StepResult(fs.global_norm(grads), skipped=False)
    result = run.step(grads, scale=-3.0, skip_nonfinite=True)
    assert isinstance(result, fs.StepResult)
    assert type(result.grad_norm) is float
    assert result.grad_norm == 3 * fs.global_norm(grads)


BAD_LIMITS: list[tuple[Any, type[Exception]]] = [
    *((value, ValueError) for value in (-1, -5e-324, -math.inf, math.nan, np.float32("nan"))),
    *((value, TypeError) for value in (True, False, np.True_, "1", "", 1j, [1.0], (), np.ones(1))),
]
NOT_BOOLS: list[Any] = [0, 1, None, "yes", []]
BAD_STEPS: list[dict[str, Any]] = [
    *({name: value, "error": error} for name in ("clip_norm", "clip_value") for value, error in BAD_LIMITS),
    *({n: v, "error": TypeError} for n in ("skip_nonfinite", "zero_grad") for v in NOT_BOOLS),
]


@pytest.mark.parametrize("bad", BAD_STEPS, ids=repr)
@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "Eve"])
def test_bad_option_of_a_step(backend: Any, rule: str, bad: dict[str, Any]) -> None:
    run = Run(rule, backend, ema=0.9)
    run.step(tensors(1))
    before, grads = run.snapshot(), tensors(2)
    (name, value), (_, error) = bad.items()
    options = {"clip_norm": 1.0, "skip_nonfinite": True, "zero_grad": True, name: value}
    with pytest.raises(error, match=rf"\b{name} must be"):
        run.step(grads, **options)
    assert_same(run, before)
    assert all(same_bits(g, tensors(2)[name]) for name, g in grads.items())


TORCH: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.1}, {"lr": 0.1}),
    "Momentum": ("SGD", {"lr": 0.1, "momentum": 0.9}, {"lr": 0.1, "momentum": 0.9}),
    "Adam": ("Adam", {"lr": 0.1, "l2": 0.1}, {"lr": 0.1, "weight_decay": 0.1}),
    "AdamW": ("AdamW", {"lr": 0.1, "maximize": True}, {"lr": 0.1, "maximize": True}),
    "Adagrad": ("Adagrad", {"eps": 1e-10}, {}),
}


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("rule", TORCH)
def test_clip_norm_as_torch(backend: Any, rule: str, scale: float) -> None:
    torch = pytest.importorskip("torch")
    other, options, torch_options = TORCH[rule]
    params = tensors(0, "float64")
    theirs = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    opt = fs.rules[rule](params, backend=backend, **options)
    reference = getattr(torch.optim, other)(theirs.values(), **torch_options)
    for t, c in enumerate([1.0, 0.1, 1e9, 3.0, 0.5], 1):
        grads = tensors(t, "float64")
        for name, p in theirs.items():
            p.grad = torch.tensor(grads[name]) * scale
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), c)
        reference.step()
        result = opt.step(grads, scale=scale, clip_norm=c)
        assert result.grad_norm == pytest.approx(float(norm), rel=1e-12)
        for name, p in params.items():
            assert np.allclose(p, theirs[name].detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("c", [0.0, 1.0])
@pytest.mark.parametrize("value", NONFINITE)
def test_clip_norm_that_is_not_finite_as_torch(backend: Any, value: float, c: float) -> None:
    torch = pytest.importorskip("torch")
    grads = tensors(1, "float64")
    grads["small"][1] = value
    theirs = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    for name, p in theirs.items():
        p.grad = torch.tensor(grads[name])
    torch.nn.utils.clip_grad_norm_(theirs.values(), c)
    params = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    result = fs.SGD(params, lr=1.0, backend=backend).step(grads, clip_norm=c)
    assert result.grad_norm is not None
    assert not math.isfinite(result.grad_norm)
    assert not result.skipped
    for name, p in params.items():
        assert np.array_equal(p, -theirs[name].grad.numpy(), equal_nan=True), name


# clip_value


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("rule", FEW)
def test_clip_value_clips_scaled_gradients(backend: Any, rule: str, kind: str) -> None:
    """After the norm, before the penalties; NaN stays NaN (all of a tensor of which sums are taken)."""
    odd = 1.0 if kernel_of(rule, {}).measures else math.nan
    run, control = (Run(rule, backend, kind) for _ in range(2))
    for t in range(1, STEPS + 1):
        grads = tensors(t, kind)
        options: dict[str, Any] = {"scale": -0.5}
        if t == 2:
            options["clip_norm"] = 0.25 * (0.5 * fs.global_norm(grads) + EPS)
        else:
            grads["large"][[0, 7, _core.tile + 1, -1]] = [math.inf, -math.inf, odd, 0.0]
        limit = [0.3, 0.05, 0.3][t - 1]
        run.step(grads, clip_value=limit, **options)
        by_hand = scaled(grads, -0.125 if t == 2 else -0.5)
        limits = {name: by_hand[name].dtype.type(limit) for name in grads}
        clipped = {name: np.clip(g, -limits[name], limits[name]) for name, g in by_hand.items()}
        assert all(
            0.2 < (np.abs(g) == limits[name]).mean() < 0.9 for name, g in clipped.items() if g.size > 9
        )
        control.step(clipped)
    assert np.isnan(run.params["large"][_core.tile + 1]) == math.isnan(odd)
    assert np.isnan(run.params["large"]).sum() == math.isnan(odd)
    assert_same(run, control)


@pytest.mark.parametrize("kind", DTYPES)
def test_clip_value_by_formula(backend: Any, kind: str) -> None:
    """Any limit, also 0 and infinity."""
    g = tensors(1, kind)["large"]
    limits: list[Any] = [0, 0.3, np.float32(1.5), math.inf]
    for limit in limits:
        p = np.zeros(g.shape, wide(g).dtype)
        fs.SGD(p, lr=1.0, backend=backend).step(g, clip_value=limit)
        bound = p.dtype.type(limit)
        assert np.array_equal(-p, np.clip(wide(g), -bound, bound)), limit


# skip_nonfinite

# where the number is put: the first and the last of one tile, of several, and of few elements
PLACES: list[tuple[str, Any]] = [
    ("large", 0),
    ("large", _core.tile - 1),
    ("large", _core.tile),
    ("large", 2 * _core.tile + 5),
    ("large", -1),
    ("square", (3, 2)),
    ("small", -1),
]


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("rule", FEW)
def test_skip_nonfinite(backend: Any, rule: str, kind: str) -> None:
    run, control = (Run(rule, backend, kind, ema=0.9) for _ in range(2))
    for each in (run, control):
        assert not each.step(tensors(1, kind), skip_nonfinite=True).skipped
    for i, (name, index) in enumerate(PLACES):
        grads = tensors(2, kind)
        grads[name][index] = NONFINITE[i % 3]
        before = run.snapshot()
        options: dict[str, Any] = [{}, {"clip_norm": 1.0}, {"clip_value": 1.0}, {"scale": 0.0}][i % 4]
        result = run.step(grads, skip_nonfinite=True, **options)
        assert result.skipped is True
        assert result.grad_norm is not None
        assert not math.isfinite(result.grad_norm)
        assert_same(run, before)
    for t in (2, 3):
        result = run.step(tensors(t, kind), skip_nonfinite=True)
        assert result.skipped is False
        assert result == fs.StepResult(fs.global_norm(tensors(t, kind)), skipped=False)
        control.step(tensors(t, kind))
        assert run.opt.t == t
        assert_same(run, control)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("isa", fs.info()["isas"])
def test_skip_nonfinite_anywhere(isa: str, threads: int) -> None:
    """One element of any in a gradient of every length."""
    fs.use_isa(isa)
    fs.set_num_threads(threads)
    for kind, dtype in DTYPES.items():
        for n in (1, 2, 31, 33, 70):
            p, g = np.ones(n, dtype), np.ones(n, dtype)
            opt = fs.SGD(p, lr=1.0)
            for i, value in itertools.product(range(n), NONFINITE):
                g[i] = value
                assert opt.step(g, skip_nonfinite=True).skipped, (kind, n, i, value)
                g[i] = 1
            assert (p == 1).all()
            assert not opt.step(g, skip_nonfinite=True).skipped
            assert (p == 0).all()


@pytest.mark.parametrize("given", ["float16", "bfloat16"])
def test_skip_nonfinite_in_a_half_gradient(backend: Any, given: str) -> None:
    """Of a float32 parameter, among others of float32."""
    for value in NONFINITE:
        run = Run("Adam", backend)
        before = run.snapshot()
        grads = tensors(1) | {"small": np.array([1, 2, value]).astype(DTYPES[given])}
        assert run.step(grads, skip_nonfinite=True).skipped
        assert_same(run, before)
        grads["small"][2] = 3
        assert not run.step(grads, skip_nonfinite=True).skipped


@pytest.mark.parametrize("value", NONFINITE)
@pytest.mark.parametrize("rule", [rule for rule in fs.rules if not kernel_of(rule, {}).measures])
def test_without_skipping_it_spreads(rule: str, value: float) -> None:
    """To its own element, and no other."""
    run = Run(rule, "native")
    run.step(tensors(2))
    grads = tensors(1)
    grads["large"][_core.tile] = value
    start = copied(run.params)
    assert run.step(grads) == fs.StepResult(None, skipped=False)
    assert run.opt.t == 2
    spreads = rule not in BOUNDED or math.isnan(value)
    assert np.isfinite(run.params["large"][_core.tile]) != spreads
    for name, p in run.params.items():
        finite = np.isfinite(p)
        assert (~finite).sum() == (name == "large" and spreads)
        assert (p[finite] != start[name][finite]).mean() > 0.95


BOUNDED = ["ADOPT", "Rprop", "SignSGD", "Signum", "Tiger", "Lion", "Ftrl"]
"""Of an infinity they take the sign, or what they clip it to; Ftrl stands still."""

LARGE = {
    "float32": [np.finfo(np.float32).max, 1e30, -1e19, 2.0],
    "float64": [1e200, -1e160, 3e154, 1e300, -2e300],
    "float16": [65504, -65504, 2.0],
    "bfloat16": [float(ml_dtypes.finfo(ml_dtypes.bfloat16).max), -1e30, 1.0],
}


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("rule", FEW)
def test_large_gradients_are_not_skipped(backend: Any, rule: str, kind: str) -> None:
    """Their squares overflow; their norm does not."""
    values = np.array(LARGE[kind]).astype(DTYPES[kind])
    for count in (1, len(values)):
        params = {"a": np.ones(count, DTYPES[kind]), "b": np.zeros(9, DTYPES[kind])}
        opt = fs.rules[rule](params, lr=0.1, backend=backend)
        grads = {"a": values[:count], "b": np.ones(9, DTYPES[kind])}
        result = opt.step(grads, skip_nonfinite=True, loss=1.0)
        assert not result.skipped
        assert opt.t == 1
        assert (params["b"] != 0).all()
        assert result.grad_norm == pytest.approx(norm_of(grads.values()), rel=1e-14)
        flat = [float(x) for g in grads.values() for x in g]
        assert result.grad_norm == pytest.approx(math.hypot(*flat), rel=1e-14)
        assert fs.global_norm(grads) == result.grad_norm


def test_gradients_whose_norm_is_no_float64_are_not_skipped(backend: Any) -> None:
    """No gradient holds a NaN or an infinity."""
    p = np.zeros(2)
    opt = fs.SGD(p, lr=1e-300, backend=backend)
    result = opt.step(np.array([1.5e308, -1.5e308]), skip_nonfinite=True)
    assert result == fs.StepResult(math.inf, skipped=False)
    assert opt.t == 1
    assert np.array_equal(p, [-1.5e308 * 1e-300, 1.5e308 * 1e-300])


# zero_grad


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("rule", FEW)
def test_zero_grad(backend: Any, rule: str, kind: str) -> None:
    run, control = (Run(rule, backend, kind) for _ in range(2))
    for t in range(1, STEPS + 1):
        grads = tensors(t, kind)
        grads["small"][0] = -0.0
        control.step(grads)
        assert run.step(grads, zero_grad=True) == fs.StepResult(None, skipped=False)
        assert all(zero_bits(g) for g in grads.values())
        assert_same(run, control)


def with_gaps(g: Array) -> Array:
    return np.full((12, 6), 7, g.dtype)[::2]


def columns(g: Array) -> Array:
    return np.full((6, 20), 7, g.dtype)[:, 3:15:2]


def rows_of_another(g: Array) -> Array:
    """One row six times, which can be written."""
    return as_strided(np.full(9, 7, g.dtype)[1:7], (6, 6), (0, g.itemsize))


def at_an_odd_address(g: Array) -> Array:
    return np.frombuffer(bytearray(g.nbytes + 1), g.dtype, offset=1).reshape(6, 6)


GAPS = {"gaps", "columns", "transposed gaps", "even gaps"}
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "Fortran": lambda g: np.empty_like(g, order="F"),
    "gaps": with_gaps,
    "columns": columns,
    "reversed": lambda g: np.full((6, 6), 7, g.dtype)[::-1, ::-1],
    "transposed gaps": lambda g: columns(g).T,
    "even gaps": lambda g: np.full((6, 18), 7, g.dtype)[:, ::3],
    "broadcast": rows_of_another,
    "odd address": at_an_odd_address,
}


def untouched(g: Array) -> int:
    """How many elements of the memory around the array are still 7."""
    base = g
    while isinstance(base.base, np.ndarray):
        base = base.base
    return int((base == 7).sum()) if base.dtype == g.dtype else 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", DTYPES)
def test_zero_grad_of_other_layouts(backend: Any, kind: str, order: Any, layout: str) -> None:
    values = np.random.default_rng(1).standard_normal((6, 6)).astype(DTYPES[kind])
    g = LAYOUTS[layout](values)
    around = untouched(g) - (g.size if layout in GAPS else 0)
    g[...] = values
    values = g.copy()  # broadcast memory keeps the last row
    p = np.ones((6, 6), DTYPES[kind], order=order)
    q = p.copy(order="K")
    fs.Adam(q, lr=0.1, backend=backend).step(values)
    fs.Adam(p, lr=0.1, backend=backend).step(g, zero_grad=True)
    assert zero_bits(g)
    assert same_bits(p.copy(), q.copy())
    assert (p != 1).all()
    if layout in GAPS:
        assert untouched(g) == around > 0


class Untrue(np.ndarray[Any, Any]):
    """An array with a shape of its own making."""

    shape = property(lambda _: (1, 2, 3))


@pytest.mark.parametrize("skipped", [False, True])
def test_zero_grad_of_a_subclass(backend: Any, skipped: bool) -> None:
    p, g = np.ones(3), np.array([1.0, 2.0, math.nan if skipped else 3.0])
    fs.SGD(p, lr=0.5, backend=backend).step(g.view(Untrue), zero_grad=True, skip_nonfinite=True)
    assert p.tolist() == ([1, 1, 1] if skipped else [0.5, 0, -0.5])
    assert zero_bits(g)


SHARED: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "the same": lambda a: (a.reshape(-1)[: a.size // 2], a.reshape(-1)[: a.size // 2]),
    "the same array": lambda a: (a, a),
    "transposed": lambda a: (a, a.T),
    "both transposed": lambda a: (a.T, a.T),
    "overlapping": lambda a: (a[:-3], a[3:]),
    "overlapping, the later first": lambda a: (a[3:], a[:-3]),
    "with gaps": lambda a: (a[::2], a[: (len(a) + 1) // 2]),
    "reversed": lambda a: (a[::-1], a),
    "inside": lambda a: (a, a[2:5]),
}


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(("backend", "side"), [("native", 10), ("numpy", 10), ("native", 700)])
@pytest.mark.parametrize("shared", SHARED)
def test_zero_grad_of_shared_gradients(backend: Any, side: int, shared: str, kind: str) -> None:
    """Both parameters get the gradient as it was; large ones in several threads."""
    fs.set_num_threads(3)
    memory = np.random.default_rng(1).standard_normal((side, side)).astype(DTYPES[kind])
    grads = SHARED[shared](memory)
    p, q = ([np.ones(g.shape, DTYPES[kind]) for g in grads] for _ in range(2))
    fs.SGD(q, backend=backend).step([g.copy() for g in grads])
    fs.SGD(p, backend=backend).step(list(grads), zero_grad=True)
    assert all(map(same_bits, p, q))
    assert all((a != 1).mean() > 0.5 for a in p)
    assert all(zero_bits(g) for g in grads)


@pytest.mark.parametrize("kind", DTYPES)
def test_zero_grad_of_a_skipped_step(backend: Any, kind: str) -> None:
    run = Run("Adam", backend, kind)
    before = run.snapshot()
    grads = tensors(1, kind) | {"square": tensors(1, kind)["square"].T}
    grads["small"][1] = math.nan
    assert run.step(grads, skip_nonfinite=True, zero_grad=True).skipped
    assert_same(run, before)
    assert all(zero_bits(g) for g in grads.values())


def frozen(a: Array) -> Array:
    view = a.view()
    view.flags.writeable = False
    return view


BAD_GRADIENTS: dict[str, tuple[Callable[[Array], Any], type[Exception]]] = {
    "read-only": (frozen, ValueError),
    "read-only with gaps": (lambda g: frozen(np.repeat(g, 2, axis=0)[::2]), ValueError),
    "broadcast": (lambda g: np.broadcast_to(g[:1], g.shape), ValueError),
    "shape": (lambda g: g[:-1], ValueError),
    "dtype": (lambda g: g.astype(np.int32), TypeError),
    "list": (lambda g: g.tolist(), TypeError),
}


@pytest.mark.parametrize("bad", BAD_GRADIENTS)
@pytest.mark.parametrize("name", ["large", "small"])
@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "Eve"])
def test_zero_grad_after_an_error(backend: Any, rule: str, name: str, bad: str) -> None:
    """All gradients, and all else, stay."""
    spoil, error = BAD_GRADIENTS[bad]
    run = Run(rule, backend, ema=0.5)
    run.step(tensors(1))
    before = run.snapshot()
    grads: dict[str, Any] = tensors(2)
    grads[name] = spoil(grads[name])
    kept = {k: np.array(g) for k, g in grads.items()}
    for options in ({}, {"clip_norm": 1.0, "skip_nonfinite": True}):
        with pytest.raises(error, match=rf"gradient '{name}' "):
            run.step(grads, zero_grad=True, **options)
        assert_same(run, before)
        assert all(np.array_equal(g, kept[k]) for k, g in grads.items())


def test_zero_grad_after_other_errors(backend: Any) -> None:
    run = Run("Eve", backend)
    before, grads = run.snapshot(), tensors(1)
    bad: list[dict[str, Any]] = [
        {"loss": None},
        {"loss": math.nan},
        {"loss": -1.0},
        {"loss": 1.0, "scale": math.inf},
    ]
    for options in bad:
        with pytest.raises(ValueError, match=r"loss|scale"):
            run.opt.step(grads, zero_grad=True, **options)
    run.opt.lr = lambda t: 1 / (t - 1)
    with pytest.raises(ZeroDivisionError):
        run.opt.step(grads, zero_grad=True, loss=1.0)
    assert_same(run, before)
    assert all(same_bits(g, tensors(1)[name]) for name, g in grads.items())


@pytest.mark.parametrize("kind", DTYPES)
def test_zero_grad_of_0d_parameters(backend: Any, kind: str) -> None:
    """Arithmetic on 0-d arrays gives scalars, which cannot be set to 0."""
    p = np.array(2.0, DTYPES[kind])
    opt = fs.SGD(p, lr=0.25, backend=backend)
    with pytest.raises(TypeError, match=r"gradient 0 "):
        opt.step(p + p, zero_grad=True)
    assert p == 2
    assert opt.t == 0
    g = np.array(4.0, DTYPES[kind])
    opt.step(g, zero_grad=True)
    assert p == 1
    assert zero_bits(g)


@pytest.mark.parametrize("kind", DTYPES)
def test_zero_grad_with_none(backend: Any, kind: str) -> None:
    run, control = (Run("Adam", backend, kind) for _ in range(2))
    grads: dict[str, Any] = tensors(1, kind) | {"large": None}
    control.step(grads)
    run.step(grads, zero_grad=True)
    assert_same(run, control)
    assert all(g is None or zero_bits(g) for g in grads.values())


# ema


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("rule", FEW)
def test_ema(backend: Any, rule: str, kind: str) -> None:
    """It follows the parameters, which do not feel it; a schedule, and groups that differ."""
    decays: dict[str, Any] = {"large": lambda t: 1 - 1 / (t + 1), "small": 0.75}
    options: dict[str, Any] = {"lr": 0.3, "state_dtype": None if kind == "float64" else "float32"}
    run, plain = Run(rule, backend, kind, ema=decays["large"], **options), Run(rule, backend, kind, **options)
    run.opt.groups[1]["ema"] = decays["small"]
    average = {name: wide(p).astype(np.float64) for name, p in run.params.items()}
    for name, value in average.items():
        ema = run.opt.state[name]["ema"]
        assert np.array_equal(ema, value)
        assert not np.shares_memory(ema, run.params[name])
    for t in range(1, STEPS + 1):
        grads: dict[str, Any] = tensors(t, kind)
        if t == 2:
            grads["square"] = None
        for each in (run, plain):
            each.step(grads)
        for name, p in run.params.items():
            decay = decays["small"] if name == "small" else decays["large"](t)
            if grads[name] is not None:
                average[name] = decay * average[name] + (1 - decay) * p.astype(np.float64)
            tolerance = 1e-15 if kind == "float64" else 3e-7
            ema = run.opt.state[name]["ema"]
            assert np.allclose(ema, average[name], rtol=tolerance, atol=tolerance), (name, t)
            assert (ema != p).mean() > 0.5
    for name, array in plain.arrays().items():
        assert same_bits(array, run.arrays()[name]), name
    assert run.rest() == plain.rest()


@pytest.mark.parametrize("kind", DTYPES)
def test_ema_exactly(backend: Any, kind: str) -> None:
    """Where halves and quarters do not round."""
    p = np.array([1.0, -2.0, 4.0, 0.0], DTYPES[kind])
    opt = fs.SGD(p, lr=1.0, ema=0.5, backend=backend)
    expected = [1.0, -2.0, 4.0, 0.0]
    for g in ([1.0, 2.0, -4.0, 1.0], [1.0, 0.0, 2.0, -8.0]):
        opt.step(np.array(g, DTYPES[kind]))
        expected = [(e + float(x)) / 2 for e, x in zip(expected, p, strict=True)]
        assert opt.state["ema"].tolist() == expected


@pytest.mark.parametrize("place", ["gaps", "Fortran", "reversed", "0-d", "empty"])
@pytest.mark.parametrize("kind", DTYPES)
def test_ema_of_other_layouts(backend: Any, kind: str, place: str) -> None:
    square = tensors(1, kind)["square"]
    p = {
        "gaps": np.repeat(square, 2, axis=1)[:, ::2],
        "Fortran": np.asfortranarray(square),
        "reversed": square[::-1, ::-1].copy()[::-1, ::-1],
        "0-d": np.array(1.5, DTYPES[kind]),
        "empty": np.zeros((0, 3), DTYPES[kind]),
    }[place]
    start, g = p.copy(), np.ones(p.shape, DTYPES[kind])
    opt = fs.Momentum(
        p, lr=0.5, ema=0.5, state_dtype=None if kind == "float64" else "float32", backend=backend
    )
    assert np.array_equal(opt.state["ema"], start)
    opt.step(g)
    expected = (wide(start) + wide(p)) / 2
    assert np.array_equal(opt.state["ema"], expected)
    assert place == "empty" or (expected != wide(start)).all()


@pytest.mark.parametrize("rule", FEW)
def test_ema_of_parameters_without_gradient(backend: Any, rule: str) -> None:
    run = Run(rule, backend, ema=0.9)
    run.step(tensors(1))
    before = copied(run.arrays())
    run.step(tensors(2) | {"large": None})
    for name, array in run.arrays().items():
        if name.endswith("large"):
            assert same_bits(array, before[name]), name
        elif name.startswith("ema"):
            assert not np.array_equal(array, before[name])


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("rule", FEW)
def test_ema_in_a_checkpoint(backend: Any, rule: str, kind: str) -> None:
    run = Run(rule, backend, kind, ema=0.5)
    run.step(tensors(1, kind))
    saved = pickle.loads(pickle.dumps(run.opt.state_dict()))
    resumed = Run(rule, BACKENDS[backend == "native"], kind, ema=0.9)
    for name, p in resumed.params.items():
        p[...] = run.params[name]
    resumed.opt.load_state_dict(saved)
    assert resumed.opt.ema == 0.5
    for t in (2, 3):
        for each in (run, resumed):
            each.step(tensors(t, kind))
    assert_same(run, resumed)

    plain = Run(rule, backend, kind)
    for one, other in ((plain, run), (run, plain)):
        before = one.snapshot()
        with pytest.raises(ValueError, match=r"ema"):
            one.opt.load_state_dict(other.opt.state_dict())
        assert_same(one, before)


@pytest.mark.parametrize(("was", "becomes"), [(0.0, 0.9), (0.9, 0.0), (0.0, lambda t: 0.5 / t), (0.9, 0)])
@pytest.mark.parametrize("rule", FEW)
def test_ema_needs_its_state(backend: Any, rule: str, was: float, becomes: Any) -> None:
    run, control = (Run(rule, backend, ema=was) for _ in range(2))
    run.step(tensors(1))
    control.step(tensors(1))
    with pytest.raises(ValueError, match=r"\bema\b.*state"):
        run.opt.ema = becomes
    with pytest.raises(ValueError, match=r"\bema\b.*state"):
        run.opt.groups[0]["ema"] = becomes
    assert run.opt.ema == was
    run.step(tensors(2))
    control.step(tensors(2))
    assert_same(run, control)


def test_ema_of_some_groups(backend: Any) -> None:
    """And another number later."""
    p, q = np.ones(3), np.ones(3)
    opt = fs.SGD([{"params": p}, {"params": q, "ema": 0.5}], lr=1.0, backend=backend)
    assert list(opt.state[0]) == []
    opt.step([np.ones(3), np.ones(3)])
    assert opt.state[1]["ema"].tolist() == [0.5] * 3
    opt.groups[1]["ema"] = 0.75
    opt.step([np.ones(3), np.ones(3)])
    assert opt.state[1]["ema"].tolist() == [0.5 * 0.75 - 0.25] * 3
    assert p.tolist() == q.tolist() == [-1.0] * 3


# All at once.


@pytest.mark.parametrize(
    ("rule", "kind", "maximize"),
    [
        (rule, kind, maximize)
        for rule in fs.rules
        for kind, maximize in (
            ("float32", False),
            ("float64", True),
            *([("float16", True), ("bfloat16", False)] if takes_16_bits(rule) else []),
        )
    ],
)
def test_all_together(rule: str, kind: str, maximize: bool) -> None:
    """On every instruction set, and by hand in NumPy with plain steps."""
    control = Run(rule, "numpy", kind, maximize=maximize)
    average = copied(control.params)
    runs = [(isa, Run(rule, "native", kind, maximize=maximize, ema=0.5)) for isa in fs.info()["isas"]]
    runs.append((fs.info()["isa"], Run(rule, "numpy", kind, maximize=maximize, ema=0.5)))
    for t, broken in enumerate([False, True, False, False], 1):
        grads = tensors(t, kind)
        if broken:
            grads["square"][5, 5] = -math.inf
        norm = 0.25 * fs.global_norm(grads)
        c = 0.5 * (norm + EPS)
        for isa, run in runs:
            fs.use_isa(isa)
            given = copied(grads)
            result = run.step(
                given,
                scale=0.25,
                clip_norm=1.0 if broken else c,
                clip_value=0.0625,
                skip_nonfinite=True,
                zero_grad=True,
            )
            assert result == fs.StepResult(norm, skipped=broken)
            assert all(zero_bits(g) for g in given.values())
        if broken:
            continue
        control.step({name: np.clip(g, -0.0625, 0.0625) for name, g in scaled(grads, 0.125).items()})
        for name, p in control.params.items():
            average[name] = (
                wide(average[name]) * wide(p).dtype.type(0.5) + wide(p) * wide(p).dtype.type(0.5)
            ).astype(p.dtype)
    for _, run in runs:
        assert run.rest() == control.rest()
        for name, array in control.arrays().items():
            assert same_bits(run.arrays()[name], array), name
        for name, expected in average.items():
            assert same_bits(run.opt.state[name]["ema"], expected), name


# global_norm


def cuts(n: int, seed: int) -> Iterator[list[int]]:
    """Places to divide n elements at: none, all kinds of block, and random ones, some of them twice."""
    rng = np.random.default_rng(seed)
    yield []
    yield [0, 0, n, n]
    for block in (_core.tile, 32, 33, _core.tile - 1, _core.tile + 1):
        yield list(range(block, n, block))[:300]
    yield [1, 2, 3, n - 2, n - 1]
    for count in (1, 5, 100):
        places = rng.integers(0, n + 1, count)
        yield sorted(
            [*places, *places[::2], *(places[::3] // 32 * 32), *(places[::3] // _core.tile * _core.tile)]
        )


def spread(seed: int, n: int, kind: str) -> Array:
    """Numbers of very different sizes, so that the order of a sum shows."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(n) * 10 ** rng.uniform(-3, 2, n)).astype(DTYPES[kind])


LENGTHS = [
    1,
    2,
    31,
    32,
    33,
    1000,
    *(k * _core.tile + i for k in (1, 2, 16) for i in (-32, -1, 0, 1, 32)),
    100_003,
]


@pytest.mark.parametrize("kind", DTYPES)
def test_norm_is_accurate(kind: str) -> None:
    for n in LENGTHS:
        a = spread(n, n, kind)
        expected = math.sqrt(math.fsum(a.astype(np.float64) ** 2))
        assert fs.global_norm(a) == pytest.approx(expected, rel=1e-14), n
        assert type(fs.global_norm(a)) is float


@pytest.mark.parametrize("kind", DTYPES)
def test_norm_has_the_same_bits(kind: str) -> None:
    """Whatever the division into arrays, the threads and the instruction set."""
    naive = 0
    for n in (70, 2 * _core.tile, 50_001, 300_000):
        a = spread(n, n, kind)
        expected = fs.global_norm(a)
        naive += expected != math.sqrt(float(np.sum(a.astype(np.float64)[::-1] ** 2)))
        for isa, threads in itertools.product(fs.info()["isas"], (1, 2, 3)):
            fs.use_isa(isa)
            fs.set_num_threads(threads)
            for places in cuts(n, n):
                assert fs.global_norm(np.split(a, places)) == expected, (isa, threads, n, places[:9])
    assert naive or kind == "float16"  # another order gives other bits, or such squares add exactly


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_norm_does_not_depend_on_the_dtype(kind: str) -> None:
    """Squares of all but float64 are exact in it."""
    for n in (5, 50_001):
        a = spread(n, n, kind)
        assert fs.global_norm(a) == fs.global_norm(a.astype(np.float64))


def test_norm_of_structures() -> None:
    a, b = spread(1, 100, "float32"), spread(2, 60, "bfloat16").reshape(3, 4, 5)
    c = np.array(0.5)
    expected = fs.global_norm([a, b, c])
    assert expected == pytest.approx(norm_of([a, b, c]), rel=1e-14)
    empty = np.zeros((3, 0), np.float16)
    trees: list[Any] = [
        (a, b, c),
        {"x": a, "y": b, "z": c},
        [{"x": [a, None]}, (b, {"deep": [[c]], "none": None})],
        [None, a, [], empty, {}, b, (c,)],
        iter([a, b, c]),
    ]
    for same in trees:
        assert fs.global_norm(same) == expected
    nothings: list[Any] = [None, [], {}, (), [None, {"x": None}], empty, [empty, [empty]]]
    for nothing in nothings:
        assert fs.global_norm(nothing) == 0.0
    for layout in (np.repeat(b, 2, axis=1)[:, ::2], np.asfortranarray(b), b[::-1], b.transpose(2, 0, 1)):
        assert fs.global_norm([a, layout, c]) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("kind", DTYPES)
def test_norm_of_a_step(backend: Any, kind: str) -> None:
    """To the bit, for all gradients in order, whatever their sizes."""
    lengths = [5, 0, 4096, 31, 10_001, 1]
    grads = [spread(i, n, kind) for i, n in enumerate(lengths)]
    params = [np.ones(n, DTYPES[kind]) for n in lengths]
    opt = fs.SGD([{"params": params[:3]}, {"params": params[3:]}], lr=1e-6, backend=backend)
    for isa, threads in itertools.product(fs.info()["isas"], (1, 2)):
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        assert opt.step(grads, skip_nonfinite=True).grad_norm == fs.global_norm(np.concatenate(grads))
    some = [*grads[:2], None, *grads[3:]]
    assert opt.step(some, clip_norm=1.0).grad_norm == fs.global_norm(some)


@pytest.mark.parametrize("kind", DTYPES)
def test_norm_that_is_not_finite(kind: str) -> None:
    for n, value in itertools.product((1, 33, 5000), NONFINITE):
        for i in {0, n // 2, n - 1}:
            a = spread(n, n, kind)
            a[i] = value
            norm = fs.global_norm([a, a[:0]])
            assert math.isnan(norm) if math.isnan(value) else norm == math.inf
    both = np.array([math.inf, math.nan]).astype(DTYPES[kind])
    assert not math.isfinite(fs.global_norm(both))


NOT_ARRAYS: dict[str, Any] = {
    "int": np.ones(3, np.int64),
    "bool": np.ones(3, bool),
    "complex": np.ones(3, complex),
    "object": np.ones(3, object),
    "byte-swapped": np.ones(3, np.dtype(np.float32).newbyteorder()),
    "float8": np.ones(3, ml_dtypes.float8_e4m3fn),
    "masked": np.ma.masked_array(np.ones(3)),
    "number": 3.0,
    "set": {1.0},
    "text": "abc",
    "letter": "a",
    "bytes": b"abc",
}


@pytest.mark.parametrize("bad", NOT_ARRAYS)
@pytest.mark.parametrize("function", [fs.global_norm, lambda tree: fs.clip_grad_norm(tree, 0.1)])
def test_norm_of_what_is_no_array(function: Any, bad: str) -> None:
    with pytest.raises(TypeError):
        function(NOT_ARRAYS[bad])
    good = np.ones(3)
    with pytest.raises(TypeError, match=r"'?layers.*1.*bias"):
        function({"norm": good, "layers": [{"bias": good}, {"bias": NOT_ARRAYS[bad]}]})
    assert (good == 1).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", DTYPES)
def test_norm_of_other_layouts(backend: Any, kind: str, layout: str) -> None:
    """Of their elements, and not of what lies around them. With several axes, and with one."""
    a = tensors(1, kind)["square"]
    g = LAYOUTS[layout](a)
    g[...] = a
    one = tensors(2, kind)["large"][:12]
    flat = {
        "reversed": one[7:2:-1],
        "broadcast": np.broadcast_to(one[3], 5),
        "even gaps": one[1:8:3],
        "columns": one.reshape(3, 4)[:, 2],
    }.get(layout, one[3:])
    for arrays in ([g], [flat], [flat, one, g]):
        expected = norm_of(arrays)
        assert fs.global_norm(arrays) == pytest.approx(expected, rel=1e-14)
        opt = fs.SGD([np.ones(x.shape, DTYPES[kind]) for x in arrays], backend=backend)
        assert opt.step(arrays, clip_norm=1.0).grad_norm == pytest.approx(expected, rel=1e-14)
        whole = np.concatenate([x.ravel() for x in arrays])
        assert fs.global_norm(whole) == pytest.approx(expected, rel=1e-14)


# clip_grad_norm


@pytest.mark.parametrize("kind", DTYPES)
def test_clip_grad_norm(kind: str) -> None:
    for isa, threads in itertools.product(fs.info()["isas"], (1, 3)):
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        for c in (0, 0.1, 5.0):
            grads = tensors(1, kind)
            norm = fs.clip_grad_norm(grads, c)
            assert norm == fs.global_norm(tensors(1, kind))
            factor = c / (norm + EPS)
            for name, g in grads.items():
                rounding = max(3e-7, float(ml_dtypes.finfo(g.dtype).eps) / 2 * 1.01)
                tiny = float(ml_dtypes.finfo(g.dtype).smallest_subnormal)
                assert np.allclose(wide(g), wide(tensors(1, kind)[name]) * factor, rtol=rounding, atol=tiny)


def test_clip_grad_norm_is_what_a_step_does(backend: Any) -> None:
    run, control = (Run("Adam", backend, "float64") for _ in range(2))
    grads = tensors(1, "float64")
    run.step(grads, clip_norm=0.5)
    fs.clip_grad_norm(grads, 0.5)
    control.step(grads)
    assert_close(run, control, "float64")


@pytest.mark.parametrize("kind", DTYPES)
def test_clip_grad_norm_that_is_not_reached(kind: str) -> None:
    grads = tensors(1, kind)
    norm = fs.global_norm(grads)
    for c in (norm + EPS, 1e9, math.inf):
        assert fs.clip_grad_norm(grads, c) == norm
        assert all(same_bits(g, tensors(1, kind)[name]) for name, g in grads.items())
    fs.clip_grad_norm(grads, norm / 2)
    assert fs.global_norm(grads) == pytest.approx(norm / 2 * norm / (norm + EPS), rel=TOLERANCE[kind])


@pytest.mark.parametrize("c", [0.5, 3.0, 1e9])
@pytest.mark.parametrize("value", [1.0, *NONFINITE])
def test_clip_grad_norm_as_torch(c: float, value: float) -> None:
    torch = pytest.importorskip("torch")
    grads = tensors(1) | {"small": np.array([1.0, value, -2.0], np.float32)}
    theirs = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    for name, p in theirs.items():
        p.grad = torch.tensor(grads[name])
    expected = float(torch.nn.utils.clip_grad_norm_(theirs.values(), c))
    assert fs.clip_grad_norm(grads, c) == pytest.approx(expected, rel=1e-6, nan_ok=True)
    for name, g in grads.items():
        assert np.allclose(g, theirs[name].grad.numpy(), rtol=1e-6, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "broadcast"])
def test_clip_grad_norm_of_other_layouts(layout: str, kind: str) -> None:
    values = tensors(1, kind)["square"]
    g, dense = LAYOUTS[layout](values), values.copy()
    gaps = layout in GAPS
    around = untouched(g) - g.size * gaps
    g[...] = values
    norm = fs.clip_grad_norm([g], 1.0)
    assert norm == pytest.approx(norm_of([values]), rel=1e-14)
    fs.clip_grad_norm([dense], 1.0)
    assert np.allclose(wide(g), wide(dense), rtol=TOLERANCE[kind], atol=TOLERANCE[kind] / 100)
    assert norm_of([g]) == pytest.approx(norm / (norm + EPS), rel=TOLERANCE[kind])
    assert not gaps or untouched(g) == around > 0


@pytest.mark.parametrize("kind", DTYPES)
def test_clip_grad_norm_of_the_same_array_twice(kind: str) -> None:
    """It counts twice, and is multiplied once."""
    a, b = np.full(10_000, 2, DTYPES[kind]), np.full(3, 2, DTYPES[kind])
    norm = fs.clip_grad_norm({"a": a, "b": [b, a], "c": a}, 0.25 * (math.sqrt(4 * 30_003) + EPS))
    assert norm == pytest.approx(math.sqrt(4 * 30_003), rel=1e-14)
    assert np.allclose(wide(a), 0.5, rtol=1e-6)
    assert np.allclose(wide(b), 0.5, rtol=1e-6)


UNSCALABLE: dict[str, Callable[[], Any]] = {
    "read-only": lambda: frozen(np.ones(3)),
    "read-only with gaps": lambda: frozen(np.ones(6))[::2],
    "broadcast": lambda: np.broadcast_to(np.ones(1), (3,)),
    "NumPy scalar": lambda: np.float64(3.0),
    "float32 scalar": lambda: np.float32(3.0),
}


@pytest.mark.parametrize("bad", UNSCALABLE)
@pytest.mark.parametrize("last", [False, True])
def test_clip_grad_norm_of_what_cannot_be_scaled(bad: str, last: bool) -> None:
    good, value = np.ones(5000), UNSCALABLE[bad]()
    with pytest.raises((TypeError, ValueError), match=r"x"):
        fs.clip_grad_norm({"y": good, "x": value} if last else {"x": value, "y": good}, 0.5)
    assert (good == 1).all()
    assert (np.asarray(value) == np.asarray(UNSCALABLE[bad]())).all()


@pytest.mark.parametrize(("bad", "error"), [*BAD_LIMITS, (None, TypeError)], ids=repr)
def test_bad_limit_of_clip_grad_norm(bad: Any, error: type[Exception]) -> None:
    good = np.ones(3)
    with pytest.raises(error, match=r"\bc must be"):
        fs.clip_grad_norm([good], bad)
    assert (good == 1).all()


# flatten


@pytest.mark.parametrize("kind", DTYPES)
def test_flatten(kind: str) -> None:
    arrays = tensors(1, kind) | {"0-d": np.array(2.5, DTYPES[kind]), "empty": np.zeros((2, 0), DTYPES[kind])}
    arrays["square"] = arrays["square"].T
    arrays["large"] = arrays["large"][::-2]
    forms: list[tuple[Any, type]] = [(arrays, dict), ([*arrays.values()], list), ((*arrays.values(),), list)]
    for params, container in forms:
        before = copied(arrays)
        views: Any
        buffer, views = fs.flatten(params)
        assert (type(views) is container) is True
        assert buffer.ndim == 1
        assert buffer.flags.c_contiguous
        assert buffer.flags.writeable
        assert buffer.dtype == DTYPES[kind]
        expected = np.concatenate([a.ravel() for a in arrays.values()])
        assert same_bits(buffer, expected)
        items = list(views.values() if container is dict else views)
        if container is dict:
            assert list(views) == list(arrays)
        assert len(items) == len(arrays)
        for view, a in zip(items, arrays.values(), strict=True):
            assert view.shape == a.shape
            assert np.array_equal(view, a)
            assert view.flags.c_contiguous
            assert not np.shares_memory(view, a)
        buffer[:] = np.arange(buffer.size) % 100
        assert np.array_equal(np.concatenate([view.ravel() for view in items]), buffer)
        for view in items:
            view[...] = 3
        assert (buffer == 3).all()
        assert all(np.array_equal(a, before[name]) for name, a in arrays.items())


@pytest.mark.parametrize("kind", DTYPES)
def test_flatten_an_array(kind: str) -> None:
    a = tensors(1, kind)["square"].T
    buffer, view = fs.flatten(a)
    assert isinstance(view, np.ndarray)
    assert view.shape == a.shape
    assert np.array_equal(buffer, a.ravel())
    buffer[1] = 5
    assert view[0, 1] == 5
    assert not np.shares_memory(buffer, a)


@pytest.mark.parametrize("kind", [kind for kind in DTYPES if kind != "float64"])
def test_flatten_needs_one_dtype(kind: str) -> None:
    a, b = np.ones(3), np.ones(3, DTYPES[kind])
    with pytest.raises(TypeError, match=r"parameter 'b' .*dtype"):
        fs.flatten({"a": a, "b": b})
    with pytest.raises(TypeError, match=r"parameter 2 .*dtype"):
        fs.flatten([b, b, a])


@pytest.mark.parametrize("bad", [name for name in NOT_ARRAYS if name not in {"text", "letter", "bytes"}])
def test_flatten_what_is_no_array(bad: str) -> None:
    for good in ([], [np.ones(3)]):
        with pytest.raises(TypeError, match=rf"parameter {len(good)} "):
            fs.flatten([*good, NOT_ARRAYS[bad]])


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("rule", [rule for rule in FEW if is_elementwise(rule, {})])
def test_optimizer_over_a_buffer(backend: Any, rule: str, kind: str) -> None:
    """The bits of the optimizer over the arrays; gradients are computed into views of another buffer."""
    options: dict[str, Any] = {**OPTIONS, "ema": 0.9}
    params = tensors(0, kind)
    opt = fs.rules[rule](params, backend=backend, **options)
    buffer, views = fs.flatten(tensors(0, kind))
    whole = fs.rules[rule](buffer, backend=backend, **options)
    flat_grads, grad_views = fs.flatten(tensors(0, kind))
    for t in range(1, STEPS + 1):
        grads = tensors(t, kind)
        for name, g in grads.items():
            grad_views[name][...] = g
        how: dict[str, Any] = [{}, {"clip_norm": 1.3}, {"clip_norm": 0.7, "scale": 0.3, "clip_value": 0.01}][
            t - 1
        ]
        assert whole.step(flat_grads, loss=LOSSES[t], **how) == opt.step(grads, loss=LOSSES[t], **how)
        assert whole.state.keys() == opt.state["large"].keys()
        for slot, array in whole.state.items():
            parts = np.concatenate([opt.state[name][slot].ravel() for name in params])
            assert same_bits(array, parts), (slot, t)
        for name, p in params.items():
            assert same_bits(views[name], p), (name, t)
            assert not np.array_equal(p, tensors(0, kind)[name])

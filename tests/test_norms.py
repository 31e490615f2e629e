"""Rules whose step depends on sums over each tensor, and those whose state begins as the parameter.

The sums have one order, whatever runs; what a tensor does is its own affair; and what a step takes beside
gradients, a checkpoint keeps, and an error leaves alone holds for numbers of a tensor or group too.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import pytest

import fusedstep as fs
from engines import BACKENDS, DTYPES, ENGINES, ml_dtypes, normal, with_gaps
from exactly import same_bits
from fusedstep import _core
from fusedstep.kernel import Coefficients

Array = np.ndarray[Any, Any]
Options: TypeAlias = dict[str, Any]
Gradients: TypeAlias = list[Array | None]

LANES = 32
SIZES = [33, 0, 3 * _core.tile + 7, 1, _core.tile - 1, 31, _core.tile, _core.tile + 1]
STEPS = 5
NOTHING: dict[int, None] = dict.fromkeys(range(len(SIZES)))

# Of three groups that differ. That of Adam and its kin shows which are measured: the cautious ones alone.
GROUPS: dict[str, list[Options]] = {
    "LARS": [
        {"trust_coefficient": 0.1},
        {"lr": 0.5, "weight_decay": 0.1, "eps": 0.01},
        {"lr": 0.01, "momentum": 0.5, "trust_coefficient": 1.0},
    ],
    "LAMB": [{}, {"lr": 0.05, "weight_decay": 0.0, "eps": 0.01}, {"beta1": 0.5, "beta2": 0.75}],
    "StableAdamW": [{}, {"lr": 0.05, "weight_decay": 0.3, "eps": 0.01}, {"beta1": 0.5, "beta2": 0.75}],
    "NovoGrad": [{}, {"lr": 0.05, "weight_decay": 0.3, "eps": 0.01}, {"beta1": 0.5, "beta2": 0.25}],
    "Prodigy": [
        {"d_coef": 8.0},
        {"lr": 0.5, "d0": 1e-3, "weight_decay": 0.1, "safeguard_warmup": True, "d_coef": 20.0},
        {"d0": 0.01, "growth_rate": 1.5, "bias_correction": True, "d_coef": 40.0},
    ],
    "Adam": [{}, {"lr": 0.05, "cautious": True}, {"beta1": 0.5, "cautious": True, "amsgrad": True}],
    "AdamW": [{"cautious": True, "weight_decay": 0.2}, {"amsgrad": True}, {"lr": 0.05}],
    "Lion": [{}, {"lr": 0.01, "beta1": 0.5}, {"lr": 0.01, "cautious": True}],
}
COPYING: dict[str, list[Options]] = {
    "MADGRAD": [{}, {"lr": 0.05, "momentum": 0.5}, {"eps": 0.1}],
    "ScheduleFreeSGD": [{"lr": 0.1}, {"lr": 0.2, "momentum": 0.3, "weight_decay": 0.1}, {"warmup_steps": 3}],
    "ScheduleFreeAdamW": [{}, {"lr": 0.1, "beta1": 0.3, "weight_decay": 0.1}, {"warmup_steps": 3, "r": 1.0}],
}
EVERY = {**GROUPS, **COPYING}
# One set of options with which the rule measures.
MEASURED: list[tuple[str, Options]] = [
    ("LARS", {"trust_coefficient": 0.1, "weight_decay": 0.1}),
    ("LAMB", {"lr": 0.01}),
    ("StableAdamW", {"lr": 0.01}),
    ("NovoGrad", {"lr": 0.01, "weight_decay": 0.1}),
    ("Prodigy", {"d0": 0.01, "d_coef": 8.0}),
    ("Adam", {"lr": 0.01, "cautious": True}),
    ("Adam", {"lr": 0.01, "cautious": True, "amsgrad": True}),
    ("AdamW", {"lr": 0.01, "cautious": True}),
    ("Lion", {"lr": 0.01, "cautious": True}),
]
BY_TENSOR = [(rule, options) for rule, options in MEASURED if rule != "Prodigy"]
FREE = ["ScheduleFreeSGD", "ScheduleFreeAdamW"]

# What parameters are kept in by turns; gradients, or None for the same; state_dtype.
MIXES: dict[str, tuple[list[str], str | None, str | None]] = {
    "float32": (["float32"], None, None),
    "float64": (["float64"], None, None),
    "gradients in float16": (["float32"], "float16", None),
    "state in float32": (["bfloat16", "float16"], "bfloat16", "float32"),
    "state in bfloat16": (["float32", "float16"], "float32", "bfloat16"),
    "of all types": (["float32", "float64", "float16", "bfloat16"], None, None),
}


def id_of(value: Any) -> str:
    return ",".join(value) if isinstance(value, dict) else str(value)


each_measured = pytest.mark.parametrize(("rule", "options"), MEASURED, ids=id_of)
each_by_tensor = pytest.mark.parametrize(("rule", "options"), BY_TENSOR, ids=id_of)
each_free = pytest.mark.parametrize("rule", FREE)


def leaning(seed: int, shape: Any, dtype: Any = np.float64) -> Array:
    """A gradient that mostly says the same as the others, without which Prodigy's d stays where it is."""
    return (normal(seed, shape) + 1.5).astype(dtype)


def parameters(mix: str = "float64", sizes: Iterable[int] = SIZES) -> list[Array]:
    kinds, _, _ = MIXES.get(mix, ([mix], None, None))
    return [normal(i, n, DTYPES[kinds[i % len(kinds)]]) for i, n in enumerate(sizes)]


def gradients(t: int, like: list[Array], mix: str = "float64") -> Gradients:
    """Those of step t: for most parameters, and for none at one step."""
    _, kind, _ = MIXES[mix]
    return [
        None
        if (i + t) % 4 == 0 or t == 3
        else leaning(100 * t + i, p.shape, DTYPES[kind] if kind else p.dtype)
        for i, p in enumerate(like)
    ]


def grouped(rule: str, p: list[Array], **options: Any) -> Any:
    """An optimizer that has the parameters in three groups by turns, and names them by their number."""
    groups = [{"params": {i: p[i] for i in range(k, len(p), 3)}, **own} for k, own in enumerate(EVERY[rule])]
    return fs.rules[rule](groups, **options)


def by_number(grads: Sequence[Array | None]) -> dict[int, Array | None]:
    return dict(enumerate(grads))


def snapshot(opt: Any, p: list[Array]) -> dict[str, Array]:
    """Copies of all that a step may change."""
    found = {f"p {i}": array.copy() for i, array in enumerate(p)}
    for name, slots in opt.state.items():
        found |= {f"{slot} {name}": array.copy() for slot, array in slots.items()}
    for k, group in enumerate(opt.groups):
        found |= {f"{name} of group {k}": np.array(value) for name, value in group.scalars.items()}
    return found | {"t": np.array(float(opt.t))}


def assert_same(found: dict[str, Array], expected: dict[str, Array], context: Any = None) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        assert array.shape == expected[name].shape
        assert same_bits(np.atleast_1d(array), np.atleast_1d(expected[name])), (name, context)


def of_tensor(found: dict[str, Array], i: int, name: Any = None) -> dict[str, Array]:
    """What of a snapshot is of the tensor i, as if its name was another."""
    ending = f" {i}"
    return {
        key.removesuffix(ending) + f" {i if name is None else name}": array
        for key, array in found.items()
        if key.endswith(ending) and " of group " not in key
    }


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


# One result, whatever runs.


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("rule", EVERY)
def test_native_equals_numpy(rule: str, mix: str) -> None:
    """In three groups, with gradients missing; what has none is left alone."""
    given = [gradients(t, parameters(mix), mix) for t in range(STEPS)]

    def run(backend: str, seen: list[dict[str, Array]] | None = None) -> dict[str, Array]:
        p = parameters(mix)
        opt = grouped(rule, p, state_dtype=MIXES[mix][2], backend=backend)
        for grads in given:
            if seen is not None:
                seen.append(snapshot(opt, p))
            opt.step(by_number(grads))
        return snapshot(opt, p)

    seen: list[dict[str, Array]] = []
    expected = run("numpy", seen)
    for grads, before, after in zip(given, seen, [*seen[1:], expected], strict=True):
        for i, g in enumerate(grads):
            own, old = of_tensor(after, i), of_tensor(before, i)
            if g is None:
                assert_same(own, old)
            else:
                moved = not same_bits(own[f"p {i}"], old[f"p {i}"])
                assert moved or g.size == 0 or own[f"p {i}"].itemsize == 2
    if rule == "Prodigy":
        assert all(
            expected[f"d of group {k}"] > 1.2 * opts.get("d0", 1e-6) for k, opts in enumerate(GROUPS[rule])
        )
    for isa, threads in itertools.product(fs.info()["isas"], [1, 2, 3]):
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        assert_same(run("native"), expected, (isa, threads))


LAYOUTS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "Fortran": (np.asfortranarray, np.asfortranarray),
    "Fortran, the gradient not": (np.asfortranarray, np.copy),
    "the gradient Fortran": (np.copy, np.asfortranarray),
    "gaps": (with_gaps, np.copy),
    "gaps in the gradient": (np.copy, with_gaps),
    "backwards": (lambda a: a[::-1].copy()[::-1], np.copy),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@each_measured
def test_layouts(rule: str, options: Options, layout: str) -> None:
    """Sums are in the order of memory: a Fortran array is its transpose; one with gaps is its copy."""
    of_p, of_g = LAYOUTS[layout]
    shape = (70, 67)
    start, given = normal(0, shape, np.float32), [leaning(t, shape, np.float32) for t in range(1, 4)]
    turned = layout in {"Fortran", "Fortran, the gradient not"}

    def run(p: Array, grads: list[Array], backend: Any) -> dict[str, Array]:
        opt = fs.rules[rule]([p], **options, backend=backend)
        for g in grads:
            opt.step([g])
        return snapshot(opt, [p])

    plain = run(
        start.T.copy() if turned else start.copy(), [g.T.copy() if turned else g for g in given], "numpy"
    )
    expected = {name: array.T if turned else array for name, array in plain.items()}
    for engine, isa, threads in ENGINES:
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        assert_same(run(of_p(start), [of_g(g) for g in given], engine), expected, (engine, isa, threads))


def transcribed(terms: list[float]) -> float:
    """The sum in its order, one number after the other."""
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


def rough(seed: int, n: int, dtype: Any) -> Array:
    """Of all magnitudes, so that the order of a sum shows in its last bits."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.standard_normal(n) * 2 ** rng.uniform(-12, 12, n)).astype(dtype)


def in_other_orders(terms: list[float]) -> list[float]:
    eights = [transcribed(terms[k::8]) for k in range(8)]
    return [sum(terms), sum(terms[::-1]), float(np.sum(terms)), transcribed(terms[::-1]), sum(eights)]


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_order_of_the_sums(n: int, kind: str) -> None:
    """As NovoGrad shows it, whose v is the sum of squares at first."""
    for seed in range(100):
        g = rough(seed, n, DTYPES[kind])
        squares = [float(x) * float(x) for x in g]
        expected = transcribed(squares)
        if n < _core.tile or expected not in in_other_orders(squares):
            break
    else:
        pytest.fail("no gradient of which the sum depends on the order")
    assert expected == pytest.approx(math.fsum(squares), rel=1e-12)
    for engine, isa, threads in ENGINES:
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        name: Any = engine
        opt = fs.NovoGrad([np.ones(7), np.ones(n, DTYPES[kind])], backend=name)
        opt.step([np.ones(7), g])
        v = opt.state[1]["v"]
        assert (v.dtype, v.shape) == (np.float64, ())
        assert v == expected, (engine, isa, threads)
        assert opt.state[0]["v"] == 7
        opt.step([None, np.zeros_like(g)])
        assert v == 0.98 * expected, (engine, isa, threads)
        assert opt.state[0]["v"] == 7


def test_the_sums_are_of_the_gradient_that_the_rule_sees(backend: Any) -> None:
    n = 2 * _core.tile + 9
    p, g = rough(1, n, np.float64), rough(2, n, np.float64)
    seen = np.clip(-0.375 * g, -2.0, 2.0) + 0.01 * p + 0.02 * np.sign(p)
    opt = fs.NovoGrad(p, l1=0.02, l2=0.01, maximize=True, backend=backend)
    opt.step(g, scale=0.375, clip_value=2.0)
    assert opt.state["v"] == transcribed([x * x for x in seen.tolist()])


@each_measured
def test_sums_of_every_rule(rule: str, options: Options) -> None:
    """All of them in this order, in double, of terms that are the formula's; with the size beside them."""
    cls: Any = fs.rules[rule]
    seen: list[Any] = []

    class Watched(cls):  # type: ignore[misc]
        @classmethod
        def adapt(cls, h: Any, t: int, measured: Any) -> Any:
            seen.append(measured)
            return super().adapt(h, t, measured)

    sizes = [2 * _core.tile + 33, 0, 40]
    start, given = [rough(n, n, np.float32) for n in sizes], [rough(n + 1, n, np.float32) for n in sizes]
    for engine, isa, threads in ENGINES:
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        p = [a.copy() for a in start]
        opt = Watched(p, **options, backend=engine)
        kernel, group = opt.groups[0].kernel, opt.groups[0]
        assert kernel.measure is not None
        for t in (1, 2):
            h = group.at(t)
            vars(h).update(cls.advance(h, t, None))
            c: Any = Coefficients(cls.coefficients(h, t), np.dtype(np.float32))
            keep = 1.0 if "weight_decay" in cls.takes else np.float32(1 - h.lr * h.weight_decay)
            terms = [
                kernel.measure(c, keep * q, g, *(opt.state[i][slot].copy() for slot in kernel.slots))
                for i, (q, g) in enumerate(zip(p, given, strict=True))
            ]
            opt.step(given)
            measured = seen.pop()
            assert measured.sizes.tolist() == sizes
            assert len(measured.sums) == len(terms[0])
            for k, sums in enumerate(measured.sums):
                expected = [transcribed(of_tensor[k].astype(np.float64).tolist()) for of_tensor in terms]
                assert sums.dtype == np.float64
                assert sums.tolist() == expected, (k, t, engine, isa, threads)


# To each tensor its own.


@each_by_tensor
def test_other_tensors_do_not_matter(rule: str, options: Options, backend: Any) -> None:
    """Alone, in another order, and in other groups: the same bits."""
    start = parameters()
    given: list[Gradients] = [gradients(t, start) for t in range(STEPS)]

    def run(order: list[int], cut: int) -> dict[str, Array]:
        p = {i: start[i].copy() for i in order}
        parts = [part for part in (order[:cut], order[cut:]) if part]
        opt = fs.rules[rule](
            [{"params": {i: p[i] for i in part}} for part in parts], **options, backend=backend
        )
        for grads in given:
            opt.step({i: grads[i] for i in order})
        found = {f"p {i}": array for i, array in p.items()}
        return found | {f"{slot} {i}": a for i, slots in opt.state.items() for slot, a in slots.items()}

    everything = list(range(len(start)))
    expected = run(everything, len(everything))
    assert_same(run(everything[::-1], 3), expected)
    assert_same(run([2, 7, 0, 5, 1, 4, 6, 3], 5), expected)
    for i in everything:
        assert_same(run([i], 1), of_tensor(expected, i), i)


def test_prodigys_groups_are_each_their_own(backend: Any) -> None:
    """Its sums are over a group, of which the others have no share, nor their place."""
    start = parameters(sizes=[40, 5000, 3, 9])
    options: Options = {"d0": 0.01, "d_coef": 8.0}
    given = [[leaning(10 * t + i, p.shape) for i, p in enumerate(start)] for t in range(STEPS)]

    def run(*groups: list[int]) -> dict[str, Array]:
        p = {i: start[i].copy() for group in groups for i in group}
        opt = fs.Prodigy([{"params": {i: p[i] for i in g}} for g in groups], **options, backend=backend)
        for grads in given:
            opt.step({i: grads[i] for i in p})
        found = {f"p {i}": array for i, array in p.items()}
        for group, has in zip(groups, opt.groups, strict=True):
            found |= {f"{name} of {group[0]}": np.array(value) for name, value in has.scalars.items()}
        return found

    together = run([0, 1], [2, 3])
    assert_same(run([2, 3], [0, 1]), together)
    assert_same(run([0, 1]) | run([2, 3]), together)
    assert together["d of 0"] != together["d of 2"]
    assert run([0, 1, 2, 3])["d of 0"] not in (together["d of 0"], together["d of 2"])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@each_measured
def test_what_is_not_finite_stays_in_its_tensor(
    rule: str, options: Options, bad: float, backend: Any
) -> None:
    """Or in its group, as Prodigy's sums are over all of it."""
    start = parameters(sizes=[50, 5000, 7])
    given: list[Any] = [[leaning(10 * t + i, p.shape) for i, p in enumerate(start)] for t in range(STEPS)]

    def run(spoilt: bool) -> dict[str, Array]:
        p = [a.copy() for a in start]
        groups = [{"params": {1: p[1]}}, {"params": {0: p[0], 2: p[2]}}]
        opt = fs.rules[rule](groups, **options, backend=backend)
        for t, grads in enumerate(given):
            seen = [g.copy() for g in grads]
            if spoilt and t == 2:
                seen[1][4321] = bad
            opt.step(by_number(seen))
        return snapshot(opt, p)

    clean, spoilt = run(False), run(True)
    for i in (0, 2):
        assert_same(of_tensor(spoilt, i), of_tensor(clean, i))
    assert not all(same_bits(array, clean[name]) for name, array in of_tensor(spoilt, 1).items())


def test_nothing_is_made_of_a_tensor_without_gradient(backend: Any) -> None:
    """Of an empty one neither."""
    p = [np.ones(3), np.zeros((0, 4))]
    opt = fs.NovoGrad(p, backend=backend)
    for i in (0, 1):
        opt.state[i]["v"][...] = 5.0
    opt.step([None, None])
    assert [float(opt.state[i]["v"]) for i in (0, 1)] == [5.0, 5.0]


@pytest.mark.parametrize("rule", EVERY)
def test_steps_without_any_gradient(rule: str, backend: Any) -> None:
    p = parameters()
    opt = grouped(rule, p, backend=backend)
    before = snapshot(opt, p)
    for _ in range(2):
        assert opt.step(NOTHING, clip_norm=1.0) == (0.0, False)
    after = snapshot(opt, p)
    assert opt.t == 2
    for i in range(len(p)):
        assert_same(of_tensor(after, i), of_tensor(before, i))


def test_prodigy_counts_the_steps_that_it_takes(backend: Any) -> None:
    """Those before any gradient, or with lr = 0, change nothing of what follows."""
    start, given = normal(0, 50), [leaning(t, 50) for t in range(1, 5)]

    def run(idle: bool) -> dict[str, Array]:
        p = start.copy()
        opt = fs.Prodigy([p], bias_correction=True, d0=0.01, backend=backend)
        if idle:
            opt.step([None])
            opt.step([np.zeros(50)])
        for t, g in enumerate(given):
            opt.step([g])
            if idle and t == 1:
                opt.lr = 0.0
                opt.step([normal(9, 50)])
                opt.lr = 1.0
        return snapshot(opt, [p]) | {"t": np.array(0.0)}

    assert_same(run(True), run(False))


# With what else a step does.


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("rule", EVERY)
def test_options_by_hand(rule: str, kind: str, backend: Any) -> None:
    """What comes before the rule, done to the arrays before a plain step; and the average after it."""
    number = DTYPES[kind].type
    l1, l2, ema = 0.01, 0.02, 0.75

    def decay(t: int) -> float:
        return 0.3 / t

    own = "weight_decay" in fs.rules[rule].takes
    p, q = parameters(kind), parameters(kind)
    groups = [{k: v for k, v in group.items() if k != "weight_decay"} for group in EVERY[rule]]
    names = [range(k, len(p), 3) for k in range(3)]
    opt: Any = fs.rules[rule](
        [{"params": {i: p[i] for i in part}, **g} for part, g in zip(names, groups, strict=True)],
        l1=l1,
        l2=l2,
        ema=ema,
        weight_decay=decay,
        maximize=True,
        backend=backend,
    )
    plain: Any = fs.rules[rule](
        [{"params": {i: q[i] for i in part}, **g} for part, g in zip(names, groups, strict=True)],
        weight_decay=0.0,
        backend=backend,
    )
    means = [array.copy() for array in q]
    lr = [group["lr"] for group in plain.groups]
    step_options: list[Options] = [
        {"scale": 0.5},
        {"scale": -1.5, "clip_norm": 3.0},
        {"clip_value": 0.3, "zero_grad": True},
        {"scale": 3.0, "clip_norm": 2.0, "clip_value": 0.01, "skip_nonfinite": True},
    ]
    for t, options in enumerate(step_options, 1):
        grads = [leaning(50 * t + i, a.shape, number) if (i + t) % 4 else None for i, a in enumerate(p)]
        limit, scale = options.get("clip_value", math.inf), options.get("scale", 1.0)
        if "clip_norm" in options:
            norm = fs.global_norm([g for i in range(8) if (g := grads[3 * i % 8]) is not None]) * abs(scale)
            assert options["clip_norm"] < norm
            scale *= options["clip_norm"] / (norm + 1e-6)
        seen: Gradients = []
        for i, (g, a) in enumerate(zip(grads, q, strict=True)):
            if g is None:
                seen.append(None)
                continue
            clipped = np.clip(number(-scale) * g, number(-limit), number(limit))
            seen.append(clipped + number(l2) * a + number(l1) * np.sign(a))
            if not own:
                a[...] = number(1 - lr[i % 3] * decay(t)) * a
        if own:
            plain.weight_decay = decay(t)
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


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rule", EVERY)
def test_a_skipped_step_changes_nothing(rule: str, bad: float, backend: Any) -> None:
    p = parameters()
    opt = grouped(rule, p, backend=backend)
    opt.step(by_number(gradients(1, p)))
    before = snapshot(opt, p)
    grads = by_number(gradients(2, p))
    last = grads[7]
    assert last is not None
    last[-1] = bad
    assert opt.step(grads, skip_nonfinite=True, zero_grad=True).skipped
    assert not any(g.any() for g in grads.values() if g is not None)
    assert_same(snapshot(opt, p), before)


# Checkpoints.


@pytest.mark.parametrize(("saving", "loading"), [("native", "numpy"), ("numpy", "native")])
@pytest.mark.parametrize("mix", ["float32", "of all types"])
@pytest.mark.parametrize("rule", EVERY)
def test_a_run_goes_on_from_a_checkpoint(rule: str, mix: str, saving: Any, loading: Any) -> None:
    """Numbers of tensors and groups and all, into an optimizer that had gone another way."""
    p = parameters(mix)
    opt = grouped(rule, p, backend=saving)
    for t in range(4):
        opt.step(by_number(gradients(t, p, mix)))
    saved = pickle.dumps(opt.state_dict())
    q = [a.copy() for a in p]
    other = grouped(rule, q, backend=loading)
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


def test_numbers_of_a_tensor_are_checked() -> None:
    p = [np.ones(3, np.float32), np.ones(2, np.float32)]
    opt = fs.NovoGrad(p)
    opt.step([np.ones_like(a) for a in p])
    before = snapshot(opt, p)
    for wrong, error, message in (
        (np.zeros(1), ValueError, "shape"),
        (np.zeros((), np.float32), TypeError, "dtype"),
        (2.0, TypeError, "NumPy array"),
    ):
        saved = opt.state_dict()
        assert saved["state"][1]["v"].shape == ()
        saved["state"][0]["m"][...] = 5
        saved["state"][1]["v"] = wrong
        with pytest.raises(error, match=message):
            opt.load_state_dict(saved)
        assert_same(snapshot(opt, p), before)
    saved = opt.state_dict()
    del saved["state"][1]["v"]
    with pytest.raises(ValueError, match="'v' is missing"):
        opt.load_state_dict(saved)


def test_a_gradient_in_the_number_of_a_tensor(backend: Any) -> None:
    """It would change before it is read."""
    p = np.ones(())
    opt = fs.NovoGrad(p, backend=backend)
    opt.step(np.ones(()))
    with pytest.raises(ValueError, match="shares memory with state 'v'"):
        opt.step(opt.state["v"])


# Errors.


def broken(t: int) -> float:
    if t == 2:
        raise ArithmeticError("no weight decay")
    return 0.1


@pytest.mark.parametrize("rule", EVERY)
def test_errors_leave_everything(rule: str, backend: Any) -> None:
    p = parameters()
    opt = grouped(rule, p, backend=backend, l2=broken)
    opt.step(by_number(gradients(1, p)))
    before = snapshot(opt, p)
    good: dict[int, Any] = {i: normal(i, a.shape) for i, a in enumerate(p)}

    def check(grads: dict[int, Any], error: Any, message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            opt.step(grads, zero_grad=True, clip_norm=1.0, **options)
        assert_same(snapshot(opt, p), before)
        for i, g in good.items():
            assert same_bits(g, normal(i, p[i].shape))

    check(good, ArithmeticError, "no weight decay")
    opt.l2 = 0.1
    check({**good, 7: np.ones(3)}, ValueError, "gradient 7 has shape")
    check({**good, 2: good[2].astype(np.float32)}, TypeError, "gradient 2 has dtype")
    check({**good, 6: p[6]}, ValueError, "shares memory")
    check(good, ValueError, "scale", scale=math.nan)
    p[7].flags.writeable = False
    check(good, ValueError, "parameter 7 is read-only")
    p[7].flags.writeable = True
    opt.step(good)
    assert opt.t == 2


# Schedule-free: train and eval.


def trained(rule: str, p: list[Array], backend: Any, steps: int = 4, **options: Any) -> Any:
    opt: Any = grouped(rule, p, backend=backend, **options)
    for t in range(steps):
        opt.step(by_number([normal(70 * t + i, a.shape, a.dtype) for i, a in enumerate(p)]))
    return opt


@each_free
def test_no_step_while_evaluating(rule: str, backend: Any) -> None:
    p = parameters()
    opt = trained(rule, p, backend)
    opt.eval()
    before = snapshot(opt, p)
    grads = [normal(i, a.shape) for i, a in enumerate(p)]
    for options in ({}, {"clip_norm": 1.0, "zero_grad": True, "skip_nonfinite": True}):
        with pytest.raises(RuntimeError, match="train"):
            opt.step(by_number(grads), **options)
        assert_same(snapshot(opt, p), before)
        assert all(same_bits(g, normal(i, g.shape)) for i, g in enumerate(grads))
    with pytest.raises(RuntimeError, match="train"):
        opt.step(NOTHING)
    assert opt.t == 4
    opt.train()
    opt.groups[2].scalars["evaluating"] = 1.0  # and no other
    before = snapshot(opt, p)
    with pytest.raises(RuntimeError, match="train"):
        opt.step(by_number(grads))
    assert_same(snapshot(opt, p), before)
    opt.train()
    opt.step(by_number(grads))
    assert opt.t == 5


@pytest.mark.parametrize("kind", DTYPES)
@each_free
def test_modes_are_idempotent_and_inverse(rule: str, kind: str, backend: Any) -> None:
    p = parameters(kind)
    opt = trained(rule, p, backend)
    training = snapshot(opt, p)
    opt.train()
    assert_same(snapshot(opt, p), training)
    opt.eval()
    evaluating = snapshot(opt, p)
    assert [group.scalars["evaluating"] for group in opt.groups] == [1.0] * 3
    opt.eval()
    assert_same(snapshot(opt, p), evaluating)
    opt.train()
    back = snapshot(opt, p)
    eps = float(ml_dtypes.finfo(DTYPES[kind]).eps)
    for name, array in back.items():
        wide, before, away = (a.astype(np.float64) for a in (array, training[name], evaluating[name]))
        if name.startswith("p "):
            assert np.allclose(wide, before, rtol=4 * eps, atol=40 * eps)
            assert array.size == 0 or np.abs(away - before).max() > 100 * eps or array.itemsize == 2
        else:
            assert same_bits(np.atleast_1d(array), np.atleast_1d(training[name]))


@pytest.mark.parametrize("mix", MIXES)
@each_free
def test_eval_by_hand(rule: str, mix: str, backend: Any) -> None:
    """x = y + (1 - 1/β)·(z - y), in the type that is computed in, rounded once."""
    p = [
        a.reshape(-1, 1)[::-1] if i == 2 else with_gaps(a) if i == 0 else a
        for i, a in enumerate(parameters(mix))
    ]
    opt = trained(rule, p, backend, state_dtype=MIXES[mix][2])
    beta = "momentum" if rule == "ScheduleFreeSGD" else "beta1"
    for switch in (opt.eval, opt.train):
        expected = []
        for i, a in enumerate(p):
            number = np.float64 if a.dtype == np.float64 else np.float32
            weight = opt.groups[i % 3][beta]
            weight = 1 - 1 / weight if switch == opt.eval else 1 - weight
            y, z = a.astype(number), opt.state[i]["z"].astype(number)
            expected.append((y + number(weight) * (z - y)).astype(a.dtype))
        switch()
        assert all(same_bits(a, b) for a, b in zip(p, expected, strict=True))


@each_free
def test_eval_of_a_read_only_parameter(rule: str, backend: Any) -> None:
    """An error before anything has changed, in either direction."""
    p = parameters()
    opt = trained(rule, p, backend)
    for switch in (opt.eval, opt.train):
        before = snapshot(opt, p)
        p[-1].flags.writeable = False
        with pytest.raises(ValueError, match="parameter 7 is read-only"):
            switch()
        assert_same(snapshot(opt, p), before)
        p[-1].flags.writeable = True
        switch()
        assert not same_bits(p[0], before["p 0"])


@each_free
def test_modes_do_not_warn(rule: str, backend: Any) -> None:
    """As a step does not; a warning that is made an error would leave half of the parameters switched."""
    p: list[Array] = [
        np.ones(2, np.float32),
        np.full(2, 6e4, np.float16),
        np.full(1, np.inf),
        np.full(1, np.nan),
    ]
    opt: Any = fs.rules[rule](p, backend=backend)
    opt.state[1]["z"][...] = -6e4
    opt.eval()
    assert np.isposinf(p[1]).all()
    assert np.isnan([p[2], p[3]]).all()
    opt.train()
    assert (p[0] == 1).all()


@pytest.mark.parametrize("saving", BACKENDS)
@each_free
def test_the_mode_is_saved(rule: str, saving: Any, backend: Any) -> None:
    p = parameters("float32")
    opt = trained(rule, p, saving)
    opt.eval()
    saved = pickle.loads(pickle.dumps(opt.state_dict()))
    q = [a.copy() for a in p]
    other = grouped(rule, q, backend=backend)
    other.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="train"):
        other.step(NOTHING)
    other.eval()
    assert_same(snapshot(other, q), snapshot(opt, p))
    for each, arrays in ((opt, p), (other, q)):
        each.train()
        each.step(by_number(gradients(1, arrays, "float32")))
    assert_same(snapshot(other, q), snapshot(opt, p))


@pytest.mark.parametrize(("rule", "slot"), [("MADGRAD", "x0"), ("Prodigy", "p0"), *((r, "z") for r in FREE)])
def test_state_that_begins_as_the_parameter(rule: str, slot: str, backend: Any) -> None:
    """In its own memory, in the type of the state, of an array in any layout."""
    for state_dtype in (None, "float32", "bfloat16"):
        p = [
            normal(1, (4, 6), np.float32).T,
            with_gaps(normal(2, (3, 5), np.float32)),
            normal(3, 9, np.float16),
        ]
        opt = fs.rules[rule](p, backend=backend, state_dtype=state_dtype)
        for i, array in enumerate(p):
            state: Array = opt.state[i][slot]
            assert not np.shares_memory(state, array)
            assert state.dtype == (array.dtype if state_dtype is None else DTYPES[state_dtype])
            assert same_bits(np.ascontiguousarray(state), np.ascontiguousarray(array.astype(state.dtype)))


def test_every_rule_of_these_kinds_is_here() -> None:
    measured, copying = set(), set()
    for name, rule in fs.rules.items():
        flags = [f for f, field in rule._fields.items() if field.interval is None and f != "maximize"]
        for values in itertools.product([False, True], repeat=len(flags)):
            options: Options = dict(zip(flags, values, strict=True))
            kernel = rule(np.ones(1), **options).groups[0].kernel
            if kernel.measure is not None:
                measured.add(kernel.name)
        if rule.copies:
            copying.add(name)
    chosen = {fs.rules[name](np.ones(1), **options).groups[0].kernel.name for name, options in MEASURED}
    assert chosen | {"AdafactorVector"} == measured  # which is in test_factors.py
    assert copying == {*COPYING, "Prodigy"}
    assert isinstance(fs.NovoGrad(np.ones(1)).state, MappingProxyType)

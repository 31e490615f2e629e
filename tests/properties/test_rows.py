"""Steps of rows: what a dense step makes of a table that has those rows alone, and nothing else moves."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import Options, alternatives, choosing, id_of, kernel_of
from tests.helpers.engines import BACKENDS, DTYPES, ENGINES, MIXES, normal
from tests.helpers.exactly import assert_same, same_bits, unsigned
from tests.helpers.internals import _core
from tests.helpers.tables import (
    FEW_ENGINES,
    Alone,
    Call,
    bits,
    calls,
    is_exact,
    made,
    snapshot,
    snapshot_of,
    tables,
    use,
)

Array = np.ndarray[Any, Any]


def of_rows(rule: str, options: Options) -> bool:
    """Whether what steps the parameter, or a row of it, takes no sums over all of it."""
    return fs.rules[rule].steps_rows and not kernel_of(rule, options).measures


KERNELS = [(rule, options) for rule in fs.rules for options in choosing(rule) if of_rows(rule, options)]
RULES = list(dict.fromkeys(rule for rule, _ in KERNELS))
FEW = ["SGD", "RowwiseAdagrad", "Adam"]  # no state; a number a row; state and bias correction
STEP_OPTIONS: list[Options] = [
    {},
    {"scale": 0.5},
    {"scale": -1.5, "clip_norm": 0.5},
    {"clip_value": 0.3, "skip_nonfinite": True},
    {"scale": 3.0, "clip_norm": 2.0, "clip_value": 0.2},
]

each_kernel = pytest.mark.parametrize(("rule", "options"), KERNELS, ids=id_of)


def check_everywhere(
    rule: str,
    start: Mapping[Any, Array],
    given: Sequence[Call],
    step_options: Sequence[Options] = ({},),
    engines: Sequence[tuple[str, str, int]] = FEW_ENGINES,
    **options: Any,
) -> None:
    """The same calls with whatever runs: bits and results are those of tables that are stepped alone."""
    expected = {name: Alone(rule, p, **options) for name, p in start.items()}
    pairs = list(zip(given, itertools.cycle(step_options), strict=False))
    results = [expected[name].step(rows, grads, **more) for (name, rows, grads), more in pairs]
    for backend, isa, threads in engines:
        use(isa, threads)
        params = {name: p.copy() for name, p in start.items()}
        opt = made(rule, params, backend=backend, **options)
        assert [opt.step_rows(*call, **more) for call, more in pairs] == results
        assert_same(snapshot(opt, params), snapshot_of(expected), (backend, isa, threads, options))
        assert opt.row_steps == {name: alone.t for name, alone in expected.items()}
        assert opt.t == 0


# One result, whatever runs: that of a dense step of the rows alone.


@each_kernel
def test_a_dense_step_of_the_rows_alone(rule: str, options: Options) -> None:
    for mix, (_, kind, state_dtype) in MIXES.items():
        start = tables(mix)
        if not is_exact(rule, mix):
            start = {name: p for name, p in start.items() if p.ndim != 2}
        check_everywhere(rule, start, calls(start, kind=kind), state_dtype=state_dtype, **options)


@pytest.mark.parametrize("width", [1, 64, 100, _core.tile + 904])
def test_widths(width: int) -> None:
    for rule, mix in itertools.product(FEW, ["float32", "float64", "bfloat16", "state in float32"]):
        start = tables(mix, {"table": (6, width)})
        if not is_exact(rule, mix):
            continue
        check_everywhere(rule, start, calls(start, 2, MIXES[mix][1]), state_dtype=MIXES[mix][2])


@pytest.mark.parametrize("rule", FEW)
def test_many_rows(rule: str) -> None:
    """So many that they are worth several threads; of some there are hundreds."""
    start = tables(shapes={"table": (2000, 48), "numbers": (3000,)})
    rng = np.random.default_rng(0)
    given: list[Call] = [
        (name, rng.zipf(1.3, 6000) % len(p), rng.standard_normal((6000, *p.shape[1:]), np.float32))
        for name, p in start.items()
    ]
    check_everywhere(rule, start, given, engines=ENGINES)


@pytest.mark.parametrize("rule", RULES)
def test_every_option(rule: str) -> None:
    """All hyperparameters at other values than their defaults, and all options of a step."""
    options = {name: value for name, value in alternatives(fs.rules[rule]).items() if name != "cautious"}
    for mix in ("float32", "float64", "state in bfloat16"):
        start, (_, kind, state_dtype) = tables(mix), MIXES[mix]
        if not is_exact(rule, mix):
            continue
        given = calls(start, 5, kind)
        check_everywhere(rule, start, given, STEP_OPTIONS, state_dtype=state_dtype, **options)


@each_kernel
def test_schedules(rule: str, options: Options) -> None:
    """They are told the table's own count."""
    start = tables()
    given = calls(start)[2:]  # one table is a step ahead
    check_everywhere(rule, start, given, lr=lambda t: 0.1 / t, l2=lambda t: 0.01 * t, **options)


@each_kernel
def test_a_dense_step_of_all_rows(rule: str, options: Options) -> None:
    """With every row once, in any order."""
    kinds = itertools.product(BACKENDS, ["float32", "bfloat16", "state in float16"], [0.0, 0.5])
    for backend, mix, ema in kinds:
        p, q = tables(mix), tables(mix)
        if not is_exact(rule, mix):
            continue
        same: Options = {"backend": backend, "ema": ema, "state_dtype": MIXES[mix][2], **options}
        by_rows, dense = made(rule, p, **same), made(rule, q, **same)
        for t in range(2):
            grads = {name: normal(50 + t, a.shape, a.dtype) for name, a in q.items()}
            dense.step(grads)
            for name, g in grads.items():
                order = np.random.default_rng(t).permutation(len(g))
                by_rows.step_rows(name, order, g[order])
            assert_same(snapshot(by_rows, p), snapshot(dense, q), (backend, mix, ema, t))


@pytest.mark.parametrize("rule", FEW)
def test_the_order_of_different_rows(rule: str, backend: Any) -> None:
    """It changes nothing, the norm included, by which the gradients are clipped."""
    results = []
    rows, grads = np.arange(0, 600, 3), normal(1, (200, 5))
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(200) if seed else np.arange(200)
        table = normal(0, (600, 5))
        opt = made(rule, [table], backend=backend)
        norm = opt.step_rows(0, rows[order], grads[order], clip_norm=1.0).grad_norm
        results.append((norm, table.tobytes(), [a.tobytes() for a in opt.state[0].values()]))
    assert results == results[:1] * 4
    assert results[0][0] == fs.global_norm(grads)


@pytest.mark.parametrize("seed", range(20))
def test_anything(seed: int) -> None:
    """Rule, options, types, shapes, layouts and calls at random."""
    rng = np.random.default_rng([9, seed])
    rule, options = KERNELS[rng.integers(len(KERNELS))]
    mixes = [mix for mix in MIXES if is_exact(rule, mix)]
    kinds, kind, state_dtype = MIXES[mixes[rng.integers(len(mixes))]]
    own = {name: v for name, v in alternatives(fs.Optimizer).items() if rng.random() < 0.5}
    expected, params = {}, {}
    for name in range(3):
        shape = rng.integers(1, 20, rng.integers(1, 4))
        big = rng.standard_normal(shape * 2).astype(DTYPES[kinds[name % len(kinds)]])
        columns = (slice(rng.integers(1, shape[1] + 1)),) if len(shape) > 1 else ()
        params[name] = big[(slice(None, None, rng.integers(1, 3)), *columns)]
        expected[name] = Alone(rule, params[name], state_dtype=state_dtype, **options, **own)
    backend, isa, threads = ENGINES[rng.integers(len(ENGINES))]
    use(isa, threads)
    opt = made(rule, params, state_dtype=state_dtype, backend=backend, **options, **own)
    for t in range(12):
        name = int(rng.integers(3))
        table = params[name]
        rows = rng.integers(0, len(table), rng.integers(0, 2 * len(table)))
        grads = rng.standard_normal((len(rows), *table.shape[1:])).astype(
            DTYPES[kind] if kind else table.dtype
        )
        if grads.size and rng.random() < 0.2:
            grads.flat[rng.integers(grads.size)] = rng.choice([np.nan, np.inf, -np.inf])
        more = STEP_OPTIONS[t % len(STEP_OPTIONS)] | {"skip_nonfinite": bool(rng.random() < 0.7)}
        found, wanted = opt.step_rows(name, rows, grads, **more), expected[name].step(rows, grads, **more)
        assert found.skipped == wanted.skipped
        np.testing.assert_equal(found.grad_norm, wanted.grad_norm)
        assert_same(snapshot(opt, params), snapshot_of(expected), t)


# The sums of equal rows.


@pytest.mark.parametrize(("kind", "large"), [("float32", 1e8), ("float64", 1e17)])
def test_equal_rows_are_summed_as_they_appear(kind: str, large: float, backend: Any) -> None:
    for order, total in (((0, 1, 2), 0.0), ((0, 2, 1), 1.0), ((1, 0, 2), 0.0), ((2, 0, 1), 1.0)):
        table = np.zeros((3, 2), kind)
        grads = np.array([large, 1, -large])[[*order]]
        rows = [1, 0, 1, 1, 0]  # another row between them
        values = np.array([grads[0], 5, grads[1], grads[2], 6], kind)
        made("SGD", table, lr=1.0, backend=backend).step_rows(0, rows, np.stack([values, values], axis=1))
        assert table.tolist() == [[-11, -11], [-total, -total], [0, 0]]


@pytest.mark.parametrize(("kind", "large"), [("bfloat16", 256), ("float16", 2048)])
def test_16_bits_are_summed_in_float32(kind: str, large: float, backend: Any) -> None:
    """In which the sum is exact."""
    table, grads = np.zeros(2, np.float32), np.array([large, 1], DTYPES[kind])
    result = made("SGD", table, lr=1.0, backend=backend).step_rows(0, [1, 1], grads, clip_norm=1e9)
    assert table.tolist() == [0, -(large + 1)]
    assert result.grad_norm == large + 1


def test_a_sum_too_large_for_float16(backend: Any) -> None:
    table = np.zeros(2, np.float16)
    opt = made("SGD", table, lr=0.5, backend=backend)
    assert not opt.step_rows(0, [0, 0], np.full(2, 6e4, np.float16), skip_nonfinite=True).skipped
    assert table.tolist() == [-6e4, 0]


@pytest.mark.parametrize("rows", [[0], [0, 0]])
def test_a_sum_starts_with_the_first_of_equal_rows(rows: list[int], backend: Any) -> None:
    """Not with 0, which would make 0 of a sum of negative zeros: -0 - (-0) is 0, -0 - 0 is -0."""
    table = np.full(1, -0.0, np.float32)
    made("SGD", table, backend=backend).step_rows(0, rows, np.full(len(rows), -0.0, np.float32))
    assert not np.signbit(table[0])


# What does not move.


@each_kernel
def test_other_rows_keep_their_bytes(rule: str, options: Options) -> None:
    """NaN of any payload, denormals and negative zeros; in the table, its state and its average."""
    rng = np.random.default_rng(5)
    rows, others = [7, 2, 7], [0, 1, 3, 4, 5, 6, 8]
    for backend, dtype in itertools.product(BACKENDS, DTYPES.values()):
        table = normal(0, (9, 4), dtype)
        opt = made(rule, {"table": table}, ema=0.5, l1=0.1, weight_decay=0.1, backend=backend, **options)
        opt.step_rows("table", np.arange(9), np.ones_like(table))
        arrays = [unsigned(a) for a in (table, *opt.state["table"].values())]
        for a in arrays:
            a[others] = np.frombuffer(rng.bytes(a.nbytes), a.dtype).reshape(a.shape)[others]
        before = [a.copy() for a in arrays]
        opt.step_rows("table", rows, np.ones((3, 4), dtype), clip_norm=10.0)
        for a, old in zip(arrays, before, strict=True):
            assert np.array_equal(a[others], old[others])
            assert all((a[row] != old[row]).any() for row in rows)


def test_other_tables_do_not_move(backend: Any) -> None:
    params = tables()
    opt = made("Adam", params, ema=0.5, backend=backend)
    opt.step({name: np.ones_like(p) for name, p in params.items()})
    before = snapshot(opt, params)
    opt.step_rows("vector", [3], np.ones(1, np.float32))
    after = snapshot(opt, params)
    changed = {name for name in after if after[name].tobytes() != before[name].tobytes()}
    assert changed == {name for name in after if name.endswith("vector")}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_skipped_call_changes_nothing(bad: float, backend: Any) -> None:
    p = tables()
    opt = made("Adam", p, ema=0.5, backend=backend)
    opt.step_rows("matrix", [1], np.ones((1, 3), np.float32))
    before = bits(opt, p)
    grads = np.ones((4, 3), np.float32)
    grads[3, 1] = bad
    result = opt.step_rows("matrix", [1, 2, 1, 5], grads, skip_nonfinite=True, clip_norm=1.0)
    assert result.skipped
    np.testing.assert_equal(result.grad_norm, bad)
    assert bits(opt, p) == before


@pytest.mark.parametrize("pair", [[np.inf, -np.inf], [3e38, 3e38]])
def test_what_is_skipped_is_decided_by_the_sum(pair: list[float], backend: Any) -> None:
    table = np.zeros(2, np.float32)
    opt = made("SGD", table, backend=backend)
    assert opt.step_rows(0, [1, 1], np.array(pair, np.float32), skip_nonfinite=True).skipped
    assert opt.row_steps.get(0, 0) == 0
    assert not table.any()


def test_not_finite_and_not_skipped(backend: Any) -> None:
    table = np.zeros((3, 2), np.float32)
    made("Adam", table, backend=backend).step_rows(0, [1, 1], np.full((2, 2), np.nan, np.float32))
    assert np.isnan(table).tolist() == [[False] * 2, [True] * 2, [False] * 2]


@pytest.mark.parametrize("shape", [(4, 3), (4,), (0, 3)])
def test_no_rows(shape: tuple[int, ...], backend: Any) -> None:
    """They count: schedules and bias corrections go on."""
    p = {"table": normal(0, shape, np.float32)}
    opt = made("Adam", p, backend=backend)
    before = snapshot(opt, p)
    none = np.zeros((0, *shape[1:]), np.float32)
    assert opt.step_rows("table", [], none) == fs.StepResult(None, skipped=False)
    empty = np.zeros(0, np.int64)
    assert opt.step_rows("table", empty, none, clip_norm=1.0) == fs.StepResult(0.0, skipped=False)
    assert_same(snapshot(opt, p), before, "none")
    assert opt.row_steps == {"table": 2}


# Counts.


def test_counts(backend: Any) -> None:
    """Each table counts its own calls, `t` the dense steps."""
    p = tables()
    seen: list[int] = []

    def lr(t: int) -> float:
        seen.append(t)
        return 0.1

    opt = made("SGD", p, lr=lr, backend=backend)
    assert opt.row_steps == {}
    dense = {name: np.ones_like(a) for name, a in p.items()}
    steps = []
    for t, name in enumerate(["vector", "matrix", "vector", None, "vector"]):
        if name is None:
            opt.step(dense)
        else:
            opt.step_rows(name, [t], np.ones((1, *p[name].shape[1:]), np.float32))
        steps.append((opt.t, dict(opt.row_steps)))
    assert seen == [1, 1, 2, 1, 3]
    assert steps[0] == (0, {"vector": 1})
    assert steps[3] == (1, {"vector": 2, "matrix": 1})
    assert steps[4] == (1, {"vector": 3, "matrix": 1})


def test_counts_are_not_for_writing(backend: Any) -> None:
    opt = made("SGD", np.zeros(3), backend=backend)
    opt.step_rows(0, [1], np.ones(1))
    with suppress(TypeError):  # a view; or else a copy
        opt.row_steps[0] = 7
    assert opt.row_steps == {0: 1}


# How parameters, rows and gradients may be given.


def test_names(backend: Any) -> None:
    """Keys of mappings, positions over all groups of sequences, 0 of an only array."""
    p = [normal(i, (4, 3)) for i in range(3)]
    forms: list[tuple[Any, list[Any]]] = [
        ({"a": p[0], 7: p[1], ("b", 1): p[2]}, ["a", 7, ("b", 1)]),
        (p, [0, 1, 2]),
        ([{"params": p[:2]}, {"params": p[2]}], [0, 1, 2]),
        ([{"params": {"a": p[0]}}, {"params": {"b": p[1], "c": p[2]}}], ["a", "b", "c"]),
    ]
    for params, names in forms:
        opt = made("SGD", params, backend=backend)
        for i, name in enumerate(names):
            before = [a.copy() for a in p]
            opt.step_rows(name, [2], np.ones((1, 3)))
            assert [not same_bits(a, b) for a, b in zip(p, before, strict=True)] == [i == k for k in range(3)]
        assert opt.row_steps == dict.fromkeys(names, 1)
        with pytest.raises(KeyError, match="nope"):
            opt.step_rows("nope", [2], np.ones((1, 3)))
    opt = made("SGD", p[0], backend=backend)
    opt.step_rows(0, [1], np.ones((1, 3)))
    assert opt.row_steps == {0: 1}


def test_groups(backend: Any) -> None:
    """A table has the hyperparameters of its group."""
    p = tables()
    own: dict[Any, Options] = {"matrix": {"lr": 0.1}, "vector": {"l2": 0.3}, "cube": {"amsgrad": True}}
    opt = made("Adam", [{"params": {name: p[name]}, **own[name]} for name in p], backend=backend)
    expected = {name: Alone("Adam", a, **own[name]) for name, a in p.items()}
    for name, rows, grads in calls(p):
        opt.step_rows(name, rows, grads)
        expected[name].step(rows, grads)
    assert_same(snapshot(opt, p), snapshot_of(expected), "groups")


def test_hyperparameters_that_change(backend: Any) -> None:
    table, first, then = normal(0, (4, 3)), np.ones((1, 3)), np.full((1, 3), 2.0)
    expected = table[1] - 0.5 * first[0] - 0.25 * then[0]
    opt = made("SGD", table, lr=0.5, backend=backend)
    opt.step_rows(0, [1], first)
    opt.lr = 0.25
    opt.step_rows(0, [1], then)
    assert same_bits(table[1], expected)


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "intp", "longlong"]
ROWS: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "list of NumPy's": lambda rows: [np.int32(row) for row in rows],
    **{kind: partial(np.array, dtype=kind) for kind in INTEGERS},
    "other byte order": lambda rows: np.array(rows, np.dtype(np.int64).newbyteorder()),
    "gaps": lambda rows: np.repeat(rows, 2)[::2],
    "reversed": lambda rows: np.array(rows[::-1])[::-1],
    "read-only": lambda rows: np.frombuffer(np.array(rows, np.int64).tobytes(), np.int64),
}


@pytest.mark.parametrize("form", ROWS)
def test_forms_of_rows(form: str) -> None:
    table, grads = normal(0, (9, 4), np.float32), normal(1, (5, 4), np.float32)
    numbers = [8, 0, 3, 8, 1]
    alone = Alone("Adam", table)
    alone.step(numbers, grads)
    for backend in BACKENDS:
        p, rows = table.copy(), ROWS[form](numbers)
        made("Adam", p, backend=backend).step_rows(0, rows, grads)
        assert same_bits(p, alone.table)
        assert list(rows) == numbers


def misaligned(a: Array) -> Array:
    memory = np.zeros(a.nbytes + 1, np.uint8)
    found = memory[1:].view(a.dtype).reshape(a.shape)
    found[...] = a
    return found


GRADIENTS: dict[str, Callable[[Array], Array]] = {
    "Fortran": np.asfortranarray,
    "gaps between rows": lambda g: np.repeat(g, 2, axis=0)[::2],
    "gaps in rows": lambda g: np.repeat(g, 2, axis=-1)[..., ::2],
    "reversed": lambda g: g[::-1, ::-1].copy()[::-1, ::-1],
    "broadcast": lambda g: np.broadcast_to(g[:1], g.shape),
    "read-only": lambda g: np.frombuffer(g.tobytes(), g.dtype).reshape(g.shape),
    "misaligned": misaligned,
    "subclass": lambda g: g.view(np.matrix),
}


@pytest.mark.parametrize("layout", GRADIENTS)
def test_gradients_in_any_layout(layout: str) -> None:
    """They are only read."""
    table, rows = normal(0, (9, 4), np.float32), [8, 0, 3, 8, 1]
    grads = GRADIENTS[layout](normal(1, (5, 4), np.float32))
    before = np.array(grads)
    alone = Alone("Adam", table)
    alone.step(rows, before)
    for backend in BACKENDS:
        p = table.copy()
        made("Adam", p, backend=backend).step_rows(0, rows, grads)
        assert same_bits(p, alone.table)
        assert same_bits(np.array(grads), before)


# Tables of which each row is one run of memory; all but the first lie in a larger block.
LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Array], Array]]] = {
    "whole": ((9, 5), lambda big: big),
    "some columns": ((9, 40), lambda big: big[:, :32]),
    "every other row": ((18, 5), lambda big: big[::2]),
    "both": ((18, 9), lambda big: big[1::2, 2:6]),
    "reversed": ((9, 5), lambda big: big[::-1]),
    "one column": ((9, 3), lambda big: big[:, 1]),
    "one column, two axes": ((9, 3), lambda big: big[:, 1:2]),
    "one column of a Fortran array": ((3, 9), lambda big: big.T[:, 1:2]),
    "slabs": ((9, 4, 5), lambda big: big[:, 1:3]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tables_in_any_layout(layout: str) -> None:
    """Nothing is written beside them. Dense steps come between: they share the state, each has its count."""
    shape, view = LAYOUTS[layout]
    for backend, rule, dtype in itertools.product(BACKENDS, FEW, DTYPES.values()):
        if not is_exact(rule, dtype.name):
            continue
        big = normal(0, shape, dtype)
        table, untouched = view(big), big.copy()
        alone = Alone(rule, table, lr=lambda t: 0.1 / t)
        opt = made(rule, {"table": table}, lr=lambda t: 0.1 / t, backend=backend)
        for t in range(4):
            alone.t = t // 2
            rows = np.array([7, 0, 7, 3]) if t % 2 else np.arange(9)
            grads = normal(t, (len(rows), *table.shape[1:]), dtype)
            if t % 2:
                opt.step_rows("table", rows, grads)
            else:
                opt.step({"table": grads})
            alone.step(rows, grads)
        assert_same(snapshot(opt, {"table": table}), snapshot_of({"table": alone}), (backend, rule))
        assert (opt.t, opt.row_steps) == (2, {"table": 2})
        view(untouched)[...] = table
        assert big.tobytes() == untouched.tobytes()


# Checkpoints.


def trained(rule: str, backend: Any, given: Sequence[Call]) -> tuple[Any, dict[Any, Array]]:
    p = tables()
    opt = made(rule, p, lr=lambda t: 0.1 / t, ema=0.5, backend=backend)
    for call in given:
        opt.step_rows(*call)
    return opt, p


@pytest.mark.parametrize("fresh", [True, False])
def test_a_run_goes_on_from_a_checkpoint(fresh: bool, backend: Any) -> None:
    """Into an optimizer of the other backend, that has done nothing or went another way."""
    given = calls(tables())
    earlier, later = given[:4], given[4:]  # of the tables one call less than of another
    opt, p = trained("RowwiseAdagrad", backend, earlier)
    saved = pickle.dumps(opt.state_dict())
    other, q = trained("RowwiseAdagrad", BACKENDS[backend == "native"], [] if fresh else given[::-1])
    for name, a in p.items():
        q[name][...] = a
    other.load_state_dict(pickle.loads(saved))
    assert bits(other, q) == bits(opt, p)
    for each in (opt, other):
        for call in later:
            each.step_rows(*call)
    assert bits(other, q) == bits(opt, p)


def test_a_state_dict_has_the_counts(backend: Any) -> None:
    opt, _ = trained("SGD", backend, calls(tables(), 1))
    saved = opt.state_dict()
    assert saved["row_steps"] == {"matrix": 1, "vector": 1, "cube": 1}
    saved["row_steps"]["matrix"] = 5
    assert opt.row_steps["matrix"] == 1
    opt.step_rows("vector", [1], np.ones(1, np.float32))
    assert saved["row_steps"]["vector"] == 1


def test_a_checkpoint_without_counts(backend: Any) -> None:
    """Those of earlier versions."""
    opt, p = trained("Adam", backend, calls(tables(), 1))
    opt.step({name: np.ones_like(a) for name, a in p.items()})
    saved = opt.state_dict()
    del saved["row_steps"]
    opt.load_state_dict(saved)
    assert opt.t == 1
    assert opt.row_steps == {}


@pytest.mark.parametrize("bad", [None, [1], {"nope": 1}, {"matrix": -1}, {"matrix": 1.5}, {"matrix": "1"}])
def test_a_checkpoint_with_bad_counts(bad: Any) -> None:
    opt, p = trained("Adam", "native", calls(tables(), 1))
    before = bits(opt, p)
    saved = trained("Adam", "native", calls(tables(), 2))[0].state_dict()
    with pytest.raises((TypeError, ValueError)):
        opt.load_state_dict(saved | {"row_steps": bad})
    assert bits(opt, p) == before


def test_counts_in_a_file(tmp_path: Path, backend: Any) -> None:
    """By names of any kind."""
    pytest.importorskip("safetensors")
    shapes: dict[Any, tuple[int, ...]] = {"users": (4, 3), 7: (5,), ("cell", 1): (3, 2)}

    def optimizer() -> tuple[Any, fs.control.Checkpoint]:
        opt = made("Adam", tables(shapes=shapes), backend=backend)
        return opt, fs.control.Checkpoint(tmp_path / "file", opt=opt)

    opt, checkpoint = optimizer()
    for call in calls(tables(shapes=shapes))[:5]:
        opt.step_rows(*call)
    checkpoint.save()
    other, checkpoint = optimizer()
    checkpoint.start()
    assert other.row_steps == opt.row_steps == {"users": 2, 7: 2, ("cell", 1): 1}


# Errors.


@contextmanager
def refused(opt: Any, params: Mapping[Any, Array], error: Any, match: str | None = None) -> Iterator[None]:
    """An error that says what is wrong, after which nothing has changed."""
    before = bits(opt, params)
    with pytest.raises(error, match=match):
        yield
    assert bits(opt, params) == before


def subject(backend: Any) -> tuple[Any, dict[Any, Array]]:
    """An optimizer that has done a step of each kind; its memory has zeros, which are rows too, to share."""
    p: dict[Any, Array] = {
        "users": normal(0, (6, 4), np.float32),
        "zeros": np.zeros((6, 4), np.float32),
        "wide": normal(1, (6, 4)),
        "gaps": normal(2, (6, 8), np.float32)[:, ::2],
        "columns": normal(3, (6, 8), np.float32)[:, :4],
        "Fortran": np.asfortranarray(normal(4, (6, 4), np.float32)),
        "cube": normal(5, (6, 4, 4), np.float32)[:, :, :2],
        "number": np.ones((), np.float32),
    }
    opt = made("Adam", p, ema=0.5, backend=backend)
    opt.step({name: np.zeros_like(a) for name, a in p.items()})
    opt.step_rows("users", [2], np.ones((1, 4), np.float32))
    return opt, p


EITHER = (TypeError, ValueError)
BAD: dict[str, tuple[Callable[[Any, dict[Any, Array]], Options], Any, str]] = {
    "unknown name": (lambda *_: {"name": "nope"}, KeyError, "nope"),
    "position in a mapping": (lambda *_: {"name": 0}, KeyError, "0"),
    "rows of floats": (lambda *_: {"rows": np.array([1.0, 3.0, 1.0])}, EITHER, "users"),
    "list of floats": (lambda *_: {"rows": [1.0, 3.0, 1.0]}, EITHER, "users"),
    "rows of bools": (lambda *_: {"rows": np.array([True, False, True])}, EITHER, "users"),
    "list of bools": (lambda *_: {"rows": [True, False, True]}, EITHER, "users"),
    "rows of objects": (lambda *_: {"rows": np.array([1, 3, 1], object)}, EITHER, "users"),
    "rows in words": (lambda *_: {"rows": ["1", "3", "1"]}, EITHER, "users"),
    "huge rows": (lambda *_: {"rows": [1, 3, 10**400]}, EITHER, "users"),
    "no rows": (lambda *_: {"rows": None}, EITHER, "users"),
    "one number": (lambda *_: {"rows": 1, "grads": np.ones(4, np.float32)}, EITHER, "users"),
    "0-dimensional rows": (
        lambda *_: {"rows": np.array(1), "grads": np.ones(4, np.float32)},
        EITHER,
        "users",
    ),
    "rows of two axes": (lambda *_: {"rows": np.array([[1], [3], [1]])}, EITHER, "users"),
    "ragged rows": (lambda *_: {"rows": [[1], [3, 1]]}, EITHER, "users"),
    "too large a row": (lambda *_: {"rows": [1, 6, 1]}, EITHER, "users"),
    "a negative row": (lambda *_: {"rows": [1, -1, 1]}, EITHER, "users"),
    "a row past int64": (lambda *_: {"rows": np.array([1, 2**64 - 1, 1], np.uint64)}, EITHER, "users"),
    "a row past int32": (lambda *_: {"rows": [1, 2**32 + 1, 1]}, EITHER, "users"),
    "too few gradients": (lambda *_: {"grads": np.ones((2, 4), np.float32)}, EITHER, "users"),
    "too many gradients": (lambda *_: {"grads": np.ones((4, 4), np.float32)}, EITHER, "users"),
    "too narrow gradients": (lambda *_: {"grads": np.ones((3, 3), np.float32)}, EITHER, "users"),
    "gradients of one axis": (lambda *_: {"grads": np.ones(3, np.float32)}, EITHER, "users"),
    "gradients to broadcast": (lambda *_: {"grads": np.ones((3, 1), np.float32)}, EITHER, "users"),
    "a dense gradient": (lambda *_: {"grads": np.ones((6, 4), np.float32)}, EITHER, "users"),
    "a list of gradients": (lambda *_: {"grads": [[1.0] * 4] * 3}, EITHER, "users"),
    "no gradients": (lambda *_: {"grads": None}, EITHER, "users"),
    "masked gradients": (lambda *_: {"grads": np.ma.ones((3, 4), np.float32)}, EITHER, "users"),
    "float64": (lambda *_: {"grads": np.ones((3, 4))}, EITHER, "users"),
    "float32 for float64": (lambda *_: {"name": "wide"}, EITHER, "wide"),
    "gradients of integers": (lambda *_: {"grads": np.ones((3, 4), np.int32)}, EITHER, "users"),
    "complex gradients": (lambda *_: {"grads": np.ones((3, 4), np.complex64)}, EITHER, "users"),
    "other byte order": (
        lambda *_: {"grads": np.ones((3, 4), np.dtype(np.float32).newbyteorder())},
        EITHER,
        "users",
    ),
    "gradients in the table": (lambda _, p: {"grads": p["users"][1:4]}, ValueError, "users"),
    "gradients in state": (lambda o, _: {"grads": o.state["users"]["v"][:3]}, ValueError, "users"),
    "gradients in an average": (lambda o, _: {"grads": o.state["wide"]["ema"][:3]}, EITHER, "users"),
    "a number as a table": (lambda *_: {"name": "number", "grads": np.ones(3, np.float32)}, EITHER, "number"),
    "a Fortran table": (lambda *_: {"name": "Fortran"}, EITHER, "Fortran"),
    "rows with gaps": (lambda *_: {"name": "gaps"}, EITHER, "gaps"),
    "matrices with gaps": (
        lambda *_: {"name": "cube", "grads": np.ones((3, 4, 2), np.float32)},
        EITHER,
        "cube",
    ),
    "scale": (lambda *_: {"scale": np.nan}, ValueError, "scale"),
    "clip_norm": (lambda *_: {"clip_norm": -1.0}, ValueError, "clip_norm"),
    "clip_value": (lambda *_: {"clip_value": "1"}, TypeError, "clip_value"),
    "skip_nonfinite": (lambda *_: {"skip_nonfinite": 1}, TypeError, "skip_nonfinite"),
}


@pytest.mark.parametrize("kind", BAD)
def test_errors(kind: str) -> None:
    for backend in BACKENDS:
        opt, p = subject(backend)
        change, error, match = BAD[kind]
        changed = change(opt, p)
        name = changed.pop("name", "users")
        rows = changed.pop("rows", np.array([1, 3, 1]))
        grads = changed.pop("grads", np.ones((3, 4), np.float32))
        with refused(opt, p, error, match):
            opt.step_rows(name, rows, grads, **changed)


def test_gradients_beside_a_table(backend: Any) -> None:
    """In the columns of its block that are not its own."""
    big = normal(0, (6, 8), np.float32)
    alone = Alone("Adam", big[:, :4])
    opt = made("Adam", big[:, :4], backend=backend)
    opt.step_rows(0, [1, 3, 1], big[:3, 4:])
    alone.step([1, 3, 1], big[:3, 4:])
    assert same_bits(big[:, :4].copy(), alone.table)


@pytest.mark.parametrize("name", ["users", "columns"])
def test_a_read_only_table(name: str, backend: Any) -> None:
    opt, p = subject(backend)
    p[name].flags.writeable = False
    with refused(opt, p, EITHER, name):
        opt.step_rows(name, [1], np.ones((1, 4), np.float32))


def test_rules_that_can() -> None:
    """Those that `Optimizer.step_rows` names."""
    adagrads = ["Adagrad", "RowwiseAdagrad"]
    named = ["SGD", "Momentum", "EMAMomentum", *adagrads, "RMSProp", "Adam", "AdamW"]
    assert named == RULES


def test_rules_that_cannot() -> None:
    p: dict[Any, Array] = {"users": normal(0, (6, 4)), "bias": normal(1, 6)}
    everything = [(rule, options) for rule in fs.rules for options in choosing(rule)]
    others = [example for example in everything if example not in KERNELS]
    assert all((rule, {"cautious": True}) in others for rule in ("Adam", "AdamW"))
    for backend, (rule, options), (name, a) in itertools.product(BACKENDS, others, p.items()):
        opt = made(rule, p, backend=backend, **options)
        with refused(opt, p, TypeError, "rows"):
            opt.step_rows(name, [1], np.ones((1, *a.shape[1:])))


@pytest.mark.parametrize("value", [ArithmeticError("no lr"), -1.0, "fast"])
def test_a_schedule_that_fails(value: Any, backend: Any) -> None:
    """At the second call."""

    def lr(t: int) -> Any:
        if t == 2 and isinstance(value, Exception):
            raise value
        return value if t == 2 else 0.1

    p = tables()
    opt = made("Adam", p, lr=lr, backend=backend)
    given = calls(p)
    opt.step_rows(*given[0])
    with refused(opt, p, (ArithmeticError, TypeError, ValueError), "lr"):
        opt.step_rows(*given[3])
    opt.lr = 0.1
    opt.step_rows(*given[3])
    assert opt.row_steps == {"matrix": 2}


def test_not_within_another_step(backend: Any) -> None:
    """A schedule is called within a step, of either kind."""
    within: list[Callable[[], Any]] = []

    def lr(_: int) -> float:
        while within:
            within.pop()()
        return 0.1

    p = tables()
    opt = made("Adam", p, lr=lr, backend=backend)
    name, rows, grads = calls(p)[0]
    dense = {key: np.ones_like(a) for key, a in p.items()}
    kinds: list[Callable[[], Any]] = [lambda: opt.step_rows(name, rows, grads), lambda: opt.step(dense)]
    for outer, inner in itertools.product(kinds, kinds):
        within.append(inner)
        with refused(opt, p, RuntimeError):
            outer()
        outer()


# What a review found.


@pytest.mark.parametrize("form", ["int32 rows", "a list", "Fortran gradients", "gaps", "big endian rows"])
def test_what_is_converted_lives_until_the_step(form: str) -> None:
    """Schedules allocate between taking the gradients and the step."""
    rows = np.random.default_rng(0).permutation(20_000)
    grads = normal(1, (20_000, 64), np.float32)
    forms: dict[str, tuple[Any, Array]] = {
        "int32 rows": (rows.astype(np.int32), np.asfortranarray(grads)),
        "a list": (rows.tolist(), np.asfortranarray(grads)),
        "Fortran gradients": (rows, np.asfortranarray(grads)),
        "gaps": (rows, np.repeat(grads, 2, axis=0)[::2]),
        "big endian rows": (rows.astype(">i8"), np.asfortranarray(grads)),
    }
    kept: list[Array] = []

    def lr(_: int) -> float:
        kept.extend(np.full((20_000, 64), 7e5, np.float32) for _ in range(3))
        return 1.0

    tables = []
    for backend in BACKENDS:
        table = np.zeros((20_000, 64), np.float32)
        made("SGD", table, lr=lr, backend=backend).step_rows(0, *forms[form], clip_norm=1e9)
        tables.append(table)
    expected = np.empty_like(grads)
    expected[rows] = -grads
    assert same_bits(tables[0], expected)
    assert same_bits(tables[1], expected)


def test_a_plan_without_gradients() -> None:
    table = np.ones((3, 2), np.float32)
    plan, rows = _core.NumpyPlan([], "Average", []), _core.NumpyTable(table, [], None, [])
    coefficients = ({"scale": 1.0, "clip": 1.0, "keep": 1.0, "l2": 0.0, "l1": 0.0}, {"lr": 1.0}, None, None)
    assert rows.take(np.array([1]), np.ones((1, 2), np.float32)) is not None
    assert plan.pin([], False, [(0, "SGD", rows)]) == []
    plan.run(0, [coefficients], False)
    assert rows.take(np.array([3]), np.ones((1, 2), np.float32)) is None
    with pytest.raises(RuntimeError, match="without gradients"):
        plan.pin([], False, [(0, "SGD", rows)])
    of_step: list[Callable[[], object]] = [
        plan.norm,
        lambda: plan.measure(0, [coefficients]),
        lambda: plan.run(0, [coefficients], False),
    ]
    for use_it in of_step:
        with pytest.raises(RuntimeError, match="no gradients"):
            use_it()
    assert table.tolist() == [[1, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize("shape", [(0, 100_000), (4, 0), (0, 0)])
def test_tables_without_elements(shape: tuple[int, ...], backend: Any) -> None:
    kept = []
    for _ in range(100):
        table, grads = np.empty(shape, np.float32), np.empty((0, *shape[1:]), np.float32)
        kept += [table, grads]
        made("RowwiseAdagrad", table, backend=backend).step_rows(0, np.arange(0), grads)


@pytest.mark.parametrize("rows", [range(10**12), range(5, 10**9), range(4)], ids=str)
def test_a_range_of_more_rows_than_gradients(rows: range, backend: Any) -> None:
    """It is refused at once, without a list of all of them."""
    opt = made("SGD", np.ones((9, 2), np.float32), backend=backend)
    with pytest.raises(ValueError, match="more than the 3 gradients"):
        opt.step_rows(0, rows, np.ones((3, 2), np.float32))


def test_a_table_of_another_shape_by_now(backend: Any) -> None:
    """It is refused until it has the shape that it had."""
    table = np.zeros((4, 3), np.float32)
    opt = made("SGD", table, lr=1.0, backend=backend)
    opt.step_rows(0, [3], np.ones((1, 3), np.float32))
    table.resize((3, 4), refcheck=False)
    for width in (3, 4):
        with pytest.raises(ValueError, match="shape"):
            opt.step_rows(0, [0], np.ones((1, width), np.float32))
    table.resize((4, 3), refcheck=False)
    opt.step_rows(0, [0], np.ones((1, 3), np.float32))
    assert table.ravel().tolist() == [-1] * 3 + [0] * 6 + [-1] * 3


@pytest.mark.parametrize(
    "rows",
    [np.ma.MaskedArray([0, 1], [True, False]), [True, 1], (np.True_, 0)],
    ids=["masked", "bool", "numpy"],
)
def test_rows_that_only_look_like_integers(rows: Any, backend: Any) -> None:
    table = np.zeros((3, 2), np.float32)
    opt = made("SGD", table, backend=backend)
    with refused(opt, {}, TypeError, "parameter 0"):
        opt.step_rows(0, rows, np.ones((2, 2), np.float32))
    assert not table.any()


def test_counts_have_the_names_of_parameters(backend: Any) -> None:
    opt = made("SGD", [np.zeros((2, 2)), np.zeros((2, 2))], backend=backend)
    opt.step_rows(True, [0], np.ones((1, 2)))
    assert [type(name) for name in opt.row_steps] == [int]
    saved = opt.state_dict()
    saved["row_steps"] = {False: 2.0, 1: 0}
    opt.load_state_dict(saved)
    assert str(opt.row_steps) == "{0: 2}"

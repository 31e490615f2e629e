"""Averages of weights against formulas, torch's and the optimizer's own; means of predictions."""

from __future__ import annotations

import copy
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep.averaging import EMA, CheckpointMean, Ensemble, FusedEMA, Mean
from tests.helpers.bad_states import bad_states
from tests.helpers.internals import swap

Array = np.ndarray[Any, Any]

NAMES = ["float32", "float64", "float16", "bfloat16"]
BESIDE = ["EMA", "Mean", "CheckpointMean"]
KINDS = [*BESIDE, "FusedEMA"]


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def weights(dtype: Any = np.float32, seed: int = 0) -> dict[str, Array]:
    """Arrays of all layouts: 0-d, empty, single, long, every other, transposed, backwards, by columns."""
    draw = np.random.default_rng(seed).standard_normal
    made = {
        "number": draw(()),
        "empty": draw((0, 3)),
        "one": draw(1),
        "long": draw(1037),
        "matrix": draw((9, 15)),
        "columns": np.asfortranarray(draw((4, 6))),
    }
    arrays: dict[str, Array] = {name: np.asarray(x).astype(dtype, order="K") for name, x in made.items()}
    arrays["second"] = draw(70).astype(dtype)[::2]
    arrays["transposed"] = draw((6, 11)).astype(dtype).T
    arrays["backwards"] = draw((3, 5, 2)).astype(dtype)[::-1, :, ::-1]
    return arrays


def draw_like(x: Array, rng: np.random.Generator) -> Array:
    return np.asarray(rng.standard_normal(x.shape)).astype(x.dtype)


def move(params: Mapping[str, Array], rng: np.random.Generator) -> None:
    for p in params.values():
        p[...] = draw_like(p, rng)


def copies(arrays: Mapping[Any, Array]) -> dict[Any, Array]:
    return {name: x.copy() for name, x in arrays.items()}


def bits(arrays: Mapping[Any, Array]) -> dict[Any, bytes]:
    return {name: x.tobytes() for name, x in arrays.items()}


def fail_after(body: Callable[[], None], average: Any) -> None:
    with average.swapped():
        body()
        raise KeyError("body")


def short(x: Any) -> str:
    return repr(x)[:9]


def train(kind: str, params: dict[str, Array], updates: int = 3, dtype: Any = None) -> Any:
    """The averaging object of this kind after some updates; the last one is not of the present weights."""
    rng = np.random.default_rng(1)
    average: Any
    if kind == "FusedEMA":
        optimizer = fs.SGD(params, lr=0.5, ema=0.75, state_dtype=dtype)
        average = FusedEMA(optimizer)
        for _ in range(updates):
            optimizer.step({name: draw_like(p, rng) for name, p in params.items()})
        return average
    dtype = dtype or params["one"].dtype
    if kind == "EMA":
        average = EMA(params, 0.75, dtype=dtype)
    else:
        average = {"Mean": Mean, "CheckpointMean": CheckpointMean}[kind](params, dtype=dtype)
    for t in range(updates):
        move(params, rng)
        _ = average.observe(-t) if kind == "CheckpointMean" else average.update()
    move(params, rng)
    return average


@pytest.mark.parametrize(
    ("name", "state_dtype"),
    [*((name, None) for name in NAMES), ("float16", "float32"), ("bfloat16", "float32")],
)
@pytest.mark.parametrize(
    "decay", [0.999, 0.3, lambda t: min(0.99, (1 + t) / (10 + t))], ids=["0.999", "0.3", "callable"]
)
@pytest.mark.parametrize("rule", ["AdamW", "Nesterov"])
def test_ema_has_the_bits_of_the_optimizers_own(
    name: str, state_dtype: str | None, decay: Any, rule: str
) -> None:
    params = weights(dtype_of(name))
    optimizer = getattr(fs, rule)(params, lr=0.05, ema=decay, state_dtype=state_dtype)
    average = EMA(params, decay, dtype=state_dtype or dtype_of(name))
    rng = np.random.default_rng(2)
    for _ in range(8):
        optimizer.step({k: draw_like(p, rng) for k, p in params.items()})
        average.update()
        own = {k: optimizer.state[k]["ema"] for k in params}
        assert bits(average.averages) == bits(own)
        assert {k: (x.dtype, x.shape) for k, x in average.averages.items()} == {
            k: (x.dtype, x.shape) for k, x in own.items()
        }
    assert average.updates == optimizer.t == 8


def test_ema_by_its_formula() -> None:
    params = weights(np.float64)
    expected = copies(params)
    average = EMA(params, lambda t: 1 - 1 / (t + 3))
    rng = np.random.default_rng(3)
    for t in range(1, 30):
        move(params, rng)
        average.update()
        decay = 1 - 1 / (t + 3)
        for name, p in params.items():
            expected[name] = decay * expected[name] + (1 - decay) * p
            np.testing.assert_allclose(average.averages[name], expected[name], rtol=0, atol=1e-14)


def test_ema_in_16_bits_is_rounded_once() -> None:
    p = np.random.default_rng(4).standard_normal(500).astype(np.float16)
    average = EMA({"p": p}, 0.8125, dtype="float16")  # exact in any format
    rng = np.random.default_rng(5)
    for _ in range(10):
        before = average.averages["p"].astype(np.float64)
        p[:] = rng.standard_normal(500)
        average.update()
        exact = 0.8125 * before + 0.1875 * p.astype(np.float64)
        rounded = exact.astype(np.float32).astype(np.float16)
        assert bits(average.averages) == bits({"p": rounded})


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_an_average_of_16_bits_does_not_stand_still(name: str) -> None:
    """In 16 bits a thousandth of the way is soon less than half of the last bit."""
    p = np.zeros(3, dtype_of(name))
    average = EMA(p)
    p[:] = 1
    for _ in range(10000):
        average.update()
    assert average.averages.dtype == np.float32
    assert np.allclose(average.averages, 1 - 0.999**10000, rtol=1e-4)


@pytest.mark.parametrize("kind", ["EMA", "Mean"])
def test_an_optimizers_averages(kind: str) -> None:
    """Given the optimizer, its steps are errors while the averages are swapped in."""
    params = {"a": np.ones(3), "b": np.ones((2, 2))}
    optimizer = fs.SGD([{"params": {"a": params["a"]}}, {"params": {"b": params["b"]}, "lr": 0.5}], lr=1.0)
    average = EMA(optimizer, 0.5) if kind == "EMA" else Mean(optimizer)
    grads = {name: np.ones_like(p) for name, p in params.items()}
    for _ in range(2):
        optimizer.step(grads)
        average.update()
    before, state = bits(params), optimizer.state_dict()
    with average.swapped():
        assert bits(params) == bits(average.averages) != before
        for forbidden in (lambda: optimizer.step(grads), lambda: optimizer.load_state_dict(state)):
            with pytest.raises(RuntimeError, match="swapped in"):
                forbidden()
    assert bits(params) == before
    optimizer.step(grads)
    assert optimizer.t == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 1.0])
def test_ema_is_torchs(dtype: Any, decay: float) -> None:
    torch = pytest.importorskip("torch")
    swa_utils = pytest.importorskip("torch.optim.swa_utils")
    w = np.random.default_rng(6).standard_normal((7, 5)).astype(dtype)
    model = torch.nn.ParameterList([torch.from_numpy(w)])  # the same memory
    average = EMA([w], decay)
    averaged = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(decay))
    averaged.update_parameters(model)  # the first one copies
    rng = np.random.default_rng(7)
    for _ in range(25):
        w += rng.standard_normal(w.shape).astype(dtype)
        average.update()
        averaged.update_parameters(model)
    (theirs,) = averaged.module
    np.testing.assert_allclose(
        average.averages[0], theirs.detach().numpy(), rtol=0, atol=40 * float(np.finfo(dtype).eps)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_is_torchs_and_that_of_kept_copies(dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    swa_utils = pytest.importorskip("torch.optim.swa_utils")
    w = np.random.default_rng(8).standard_normal((7, 5)).astype(dtype)
    model = torch.nn.ParameterList([torch.from_numpy(w)])
    average, averaged = Mean([w]), swa_utils.AveragedModel(model)
    rng = np.random.default_rng(9)
    kept = []
    for _ in range(25):
        w[:] = 1 + rng.standard_normal(w.shape)
        average.update()
        averaged.update_parameters(model)
        kept.append(w.astype(np.float64))
        tolerance = 40 * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(average.averages[0], np.mean(kept, 0), rtol=0, atol=tolerance)
    (theirs,) = averaged.module
    np.testing.assert_allclose(average.averages[0], theirs.detach().numpy(), rtol=0, atol=tolerance)
    assert average.updates == 25


@pytest.mark.parametrize("name", NAMES)
def test_mean_of_all_layouts(name: str) -> None:
    params = weights(dtype_of(name))
    average = Mean(params, dtype=None if name == "float64" else "float32")
    rng = np.random.default_rng(10)
    kept = []
    for _ in range(9):
        move(params, rng)
        average.update()
        kept.append({k: p.astype(np.float64) for k, p in params.items()})
    for k in params:
        expected = np.mean([x[k] for x in kept], 0)
        np.testing.assert_allclose(average.averages[k].astype(np.float64), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["Mean", "CheckpointMean"])
@pytest.mark.parametrize("start", [0.0, 3e4, -math.inf, math.nan])
def test_the_first_update_of_a_mean_makes_it_the_weights(name: str, kind: str, start: float) -> None:
    p = np.full(300, start).astype(dtype_of(name))
    average: Any = {"Mean": Mean, "CheckpointMean": CheckpointMean}[kind]({"p": p}, dtype=p.dtype)
    p[:] = np.random.default_rng(11).standard_normal(300)
    _ = average.update() if kind == "Mean" else average.observe(1.0)
    assert bits(average.averages) == bits({"p": p})


def test_a_mean_of_infinite_weights_is_infinite() -> None:
    p = np.array([math.inf, -math.inf, 1.0])
    average = Mean([p])
    average.update()
    assert average.averages[0].tolist() == [math.inf, -math.inf, 1.0]


def test_a_mean_of_equal_weights_is_these() -> None:
    p = np.random.default_rng(12).standard_normal(400).astype(np.float32)
    average = Mean([p])
    for _ in range(50):
        average.update()
        assert bits(average.averages) == bits({0: p})


@pytest.mark.parametrize("mode", ["min", "max"])
def test_checkpoint_mean_against_kept_copies(mode: Any) -> None:
    rng = np.random.default_rng(13)
    for _ in range(20):
        p = rng.standard_normal(11)
        average = CheckpointMean({"p": p}, mode=mode)
        start = p.copy()
        best, kept = None, []
        for _ in range(30):
            p += rng.standard_normal(11)
            figure = float(rng.choice([*rng.integers(-20, 20, 6), math.nan, math.inf, -math.inf]))
            sign = 1 if mode == "min" else -1
            better = math.isfinite(figure) and (best is None or sign * figure < sign * best)
            if better:
                best = figure
                kept.append(p.copy())
            assert average.observe(figure) is better
            assert average.updates == len(kept)
            expected = np.mean(kept, 0) if kept else start
            np.testing.assert_allclose(average.averages["p"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["MIN", "", None, 0])
def test_an_unknown_mode_is_refused(mode: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="mode"):
        CheckpointMean(np.zeros(2), mode=mode)


@pytest.mark.parametrize("figure", ["a", "1", None, [1.0], 1j, np.zeros(2)], ids=short)
def test_a_figure_that_is_none_changes_nothing(figure: Any) -> None:
    average = CheckpointMean({"p": np.zeros(2)})
    average.observe(3.0)
    before = copy.deepcopy(average.state_dict())
    with pytest.raises((TypeError, ValueError)):
        average.observe(figure)
    np.testing.assert_equal(average.state_dict(), before)


def test_the_forms_of_parameters() -> None:
    a, b = np.ones(3, np.float32), np.ones((2, 2))
    forms: list[tuple[Any, set[Any]]] = [
        ([a, b], {0, 1}),
        ((a, b), {0, 1}),
        ({"a": a, "b": b}, {"a", "b"}),
        ([{"params": a}, {"params": [b], "lr": 1}], {0, 1}),
        ([{"params": {"a": a}}, {"params": {"b": b}}], {"a", "b"}),
    ]
    for params, names in forms:
        a[:], b[:] = 1, 1
        made = [EMA(params, 0.5), Mean(params), CheckpointMean(params)]
        a[:], b[:] = 3, 5
        for average, expected in zip(made, [[2, 3], [3, 5], [3, 5]], strict=True):
            if isinstance(average, CheckpointMean):
                average.observe(1.0)
            else:
                average.update()
            assert set(average.averages) == names
            assert [float(x.max()) for x in average.averages.values()] == expected
            with average.swapped():
                assert [a.max(), b.max()] == expected
            assert [a.max(), b.max()] == [3, 5]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bare_array_has_the_same_average_in_all_forms(kind: str) -> None:
    p = np.ones(3)
    optimizer = fs.SGD(p, lr=1.0, ema=0.5)
    average: Any = {"EMA": EMA, "Mean": Mean, "CheckpointMean": CheckpointMean}.get(kind, EMA)(p)
    if kind == "FusedEMA":
        average = FusedEMA(optimizer)
    assert isinstance(average.averages, np.ndarray)  # not keyed, as the parameters and the state are not
    assert average.averages.tolist() == [1, 1, 1]


def test_later_changes_to_the_container_do_not_matter() -> None:
    a, b = np.zeros(2), np.full(2, 8.0)
    params = [a]
    average = EMA(params, 0.5)
    params[0] = b
    params.append(b)
    a[:] = 2
    average.update()
    assert list(average.averages) == [0]
    assert average.averages[0].tolist() == [1, 1]


@pytest.mark.parametrize("make", [EMA, Mean, CheckpointMean])
@pytest.mark.parametrize(
    ("params", "names"),
    [
        ([], "param"),
        ({}, "param"),
        (None, "params"),
        ("ab", "params"),
        ([1.0], "0"),
        ({"x": [1.0, 2.0]}, "'x'"),
        ({"x": np.zeros(2, np.int64)}, "'x'"),
        ({"x": np.zeros(2, np.complex64)}, "'x'"),
        ({"x": np.zeros(2, np.longdouble)}, "'x'"),
        ({"x": np.zeros(2, np.dtype(np.float32).newbyteorder())}, "'x'"),
        ([{"params": {"x": np.zeros(2)}}, {"params": {"x": np.zeros(2)}}], "'x'"),
    ],
)
def test_what_cannot_be_averaged_is_named(make: Callable[..., Any], params: Any, names: str) -> None:
    with pytest.raises((TypeError, ValueError), match=names):
        make(params)


@pytest.mark.parametrize("decay", [-0.1, 1.5, math.nan, math.inf, None, "0.5", [0.5], True, 1j, 10**400])
def test_a_decay_that_is_none_is_refused(decay: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="decay"):
        EMA(np.zeros(2), decay)


@pytest.mark.parametrize("bad", [2.0, math.nan, None, "x", RuntimeError("from the schedule")])
def test_a_bad_scheduled_decay_changes_nothing(bad: Any) -> None:
    calls: list[int] = []

    def decay(t: int) -> Any:
        calls.append(t)
        if t == 3 and calls.count(3) == 1:
            if isinstance(bad, Exception):
                raise bad
            return bad
        return 0.5

    p = np.zeros(3)
    average = EMA({"p": p}, decay)
    for _ in range(2):
        p += 1
        average.update()
    before = copy.deepcopy(average.state_dict())
    with pytest.raises((TypeError, ValueError, RuntimeError), match=r"decay|from the schedule"):
        average.update()
    np.testing.assert_equal(average.state_dict(), before)
    average.update()
    assert calls == [1, 2, 3, 3]
    assert average.averages["p"].tolist() == [(0.5 * (0.5 * 1 + 0.5 * 2)) + 0.5 * 2 - 0.125] * 3


@pytest.mark.parametrize("make", [EMA, Mean, CheckpointMean])
@pytest.mark.parametrize(
    ("own", "dtype"),
    [
        ("float32", "int32"),
        ("float32", "nonsense"),
        ("float32", np.complex64),
        ("float32", np.longdouble),
        ("float32", "float64"),  # float64 goes with nothing else
        ("float64", "float32"),
        ("float64", "float16"),
        ("float16", "float64"),
    ],
)
def test_a_dtype_that_averages_cannot_have_is_refused_at_once(
    make: Callable[..., Any], own: str, dtype: Any
) -> None:
    with pytest.raises((TypeError, ValueError)):
        make({"p": np.zeros(3, own)}, dtype=dtype)


def test_a_narrow_dtype_does_not_warn_where_the_optimizer_does_not() -> None:
    p = np.array([1e6, -1e38, 1.0], np.float32)
    optimizer = fs.SGD({"p": p}, ema=0.5, state_dtype="float16")
    average = EMA({"p": p}, 0.5, dtype="float16")
    assert bits(average.averages) == bits({"p": optimizer.state["p"]["ema"]})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", ["calls", "with", "exception"])
def test_swapping_puts_the_averages_in_and_the_weights_back(kind: str, name: str, way: str) -> None:
    params = weights(dtype_of(name))
    average = train(kind, params)
    averages, before = bits(average.averages), bits(params)
    addresses = [p.ctypes.data for p in params.values()]
    assert averages != before

    def inside() -> None:
        assert bits(params) == averages
        assert [p.ctypes.data for p in params.values()] == addresses
        for p in params.values():
            p[...] = 7
        assert bits(average.averages) == averages

    for _ in range(2):
        if way == "calls":
            average.swap_in()
            inside()
            average.swap_out()
        elif way == "with":
            with average.swapped():
                inside()
        else:
            with pytest.raises(KeyError, match="body"):
                fail_after(inside, average)
        assert bits(params) == before
        assert bits(average.averages) == averages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_wide_averages_are_rounded_to_the_weights_dtype(kind: str, name: str) -> None:
    params = weights(dtype_of(name))
    average = train(kind, params, dtype="float32")
    assert {x.dtype for x in average.averages.values()} == {np.dtype(np.float32)}
    before = bits(params)
    expected = {k: x.astype(params[k].dtype) for k, x in average.averages.items()}
    with average.swapped():
        assert bits(params) == bits(expected)
    assert bits(params) == before


@pytest.mark.parametrize("make", [EMA, Mean])
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_odd_weights_come_back_bit_for_bit(make: Callable[..., Any], dtype: Any) -> None:
    odd = [0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 0x80000000, 1, 0x807FFFFF, 0x3F800000]
    p = np.array(odd, np.uint32).view(np.float32)
    average = make({"p": p}, dtype=dtype)
    average.update()
    with average.swapped():
        p[:] = 0
    assert p.view(np.uint32).tolist() == odd


@pytest.mark.parametrize("kind", KINDS)
def test_swapping_twice_or_out_of_turn_changes_nothing(kind: str) -> None:
    params = weights()
    average = train(kind, params)
    before, averages = bits(params), bits(average.averages)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            average.swap_out()
        assert bits(params) == before
    average.swap_in()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            average.swap_in()
        with pytest.raises(RuntimeError), average.swapped():
            pass
        assert bits(params) == bits(average.averages) == averages
    average.swap_out()
    assert bits(params) == before


@pytest.mark.parametrize("kind", BESIDE)
def test_nothing_is_averaged_while_swapped_in(kind: str) -> None:
    params = weights()
    average = train(kind, params)
    state = copy.deepcopy(average.state_dict())
    before = bits(params)
    with average.swapped():
        inside = bits(params)
        with pytest.raises(RuntimeError, match="swapped"):
            average.update()
        with pytest.raises(RuntimeError, match="swapped"):
            average.state_dict()
        if kind == "CheckpointMean":
            with pytest.raises(RuntimeError, match="swapped"):
                average.observe(-1e9)
        assert bits(params) == inside
    assert bits(params) == before
    np.testing.assert_equal(average.state_dict(), state)


def test_no_figure_is_taken_while_swapped_in() -> None:
    average = CheckpointMean({"p": np.ones(2)})
    average.observe(1.0)
    with average.swapped():
        for figure in [0.0, 1.0, 2.0, math.nan]:  # better or not, it is that of other weights
            with pytest.raises(RuntimeError, match="swapped"):
                average.observe(figure)
    assert average.state_dict()["best"] == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_read_only_weights_are_refused_before_anything_is_written(kind: str) -> None:
    params = weights()
    average = train(kind, params)
    before = bits(params)
    params["matrix"].flags.writeable = False
    for _ in range(2):
        with pytest.raises(ValueError, match="matrix"):
            average.swap_in()
        with pytest.raises(RuntimeError):
            average.swap_out()
        assert bits(params) == before
    params["matrix"].flags.writeable = True
    with average.swapped():
        assert bits(params) != before
    assert bits(params) == before


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_became_read_only_while_swapped_in(kind: str) -> None:
    params = weights()
    average = train(kind, params)
    before = bits(params)
    average.swap_in()
    inside = bits(params)
    params["matrix"].flags.writeable = False
    with pytest.raises(ValueError, match="matrix"):
        average.swap_out()
    assert bits(params) == inside  # nothing has changed
    params["matrix"].flags.writeable = True
    average.swap_out()
    assert bits(params) == before


def test_read_only_weights_can_be_averaged() -> None:
    memory = np.zeros(4)
    view = memory.view()
    view.flags.writeable = False
    average = EMA({"p": view}, 0.5)
    memory[:] = 4
    average.update()
    assert average.averages["p"].tolist() == [2, 2, 2, 2]
    assert average.averages["p"].flags.writeable


def test_averages_of_one_swapped_within_anothers() -> None:
    p = np.ones(2)
    ema, mean = EMA([p], 0.5), Mean([p])
    p[:] = 3
    ema.update()
    mean.update()
    p[:] = 9
    with ema.swapped():
        assert p.tolist() == [2, 2]
        with mean.swapped():
            assert p.tolist() == [3, 3]
        assert p.tolist() == [2, 2]
    assert p.tolist() == [9, 9]


@pytest.mark.parametrize("options", [{}, {"ema": 0.0}, {"ema": 0}])
def test_fused_averages_must_exist(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ema"):
        FusedEMA(fs.AdamW(weights(), **options))


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_fused_averages_of_groups(backend: Any) -> None:
    a, b, c = np.ones(3), np.ones(2), np.ones((2, 2))
    groups = [{"params": {"a": a}, "ema": 0.5}, {"params": {"b": b}}, {"params": {"c": c}, "ema": 0.75}]
    optimizer = fs.SGD(groups, lr=1.0, backend=backend)
    average = FusedEMA(optimizer)
    optimizer.step({"a": -4 * np.ones(3), "b": -4 * np.ones(2), "c": -4 * np.ones((2, 2))})
    assert set(average.averages) == {"a", "c"}
    assert np.shares_memory(average.averages["a"], optimizer.state["a"]["ema"])
    with average.swapped():
        assert [x.max() for x in (a, b, c)] == [3, 5, 2]
    assert [x.max() for x in (a, b, c)] == [5, 5, 5]


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("leave", ["swap_out", "with", "exception"])
def test_a_step_while_swapped_in_is_refused_and_changes_nothing(backend: Any, leave: str) -> None:
    made = []
    for _ in range(2):
        params = weights()
        optimizer = fs.AdamW(params, lr=0.1, ema=0.9, backend=backend)
        rng = np.random.default_rng(14)
        optimizer.step({k: draw_like(p, rng) for k, p in params.items()})
        made.append((params, optimizer, {k: draw_like(p, rng) for k, p in params.items()}))
    (params, optimizer, grads), (others, undisturbed, _) = made
    average = FusedEMA(optimizer)

    def refused() -> None:
        inside, state, given = bits(params), copy.deepcopy(optimizer.state_dict()), bits(grads)
        for options in ({}, {"zero_grad": True}, {"skip_nonfinite": True}):
            with pytest.raises(RuntimeError):
                optimizer.step(grads, **options)
        assert (bits(params), bits(grads), optimizer.t) == (inside, given, 1)
        np.testing.assert_equal(optimizer.state_dict(), state)

    if leave == "swap_out":
        average.swap_in()
        refused()
        average.swap_out()
    elif leave == "with":
        with average.swapped():
            refused()
    else:
        with pytest.raises(KeyError, match="body"):
            fail_after(refused, average)
    optimizer.step(grads)
    undisturbed.step(grads)
    assert optimizer.t == 2
    assert bits(params) == bits(others)
    np.testing.assert_equal(optimizer.state_dict()["state"], undisturbed.state_dict()["state"])


def test_two_fused_averages_of_one_optimizer_are_not_in_at_once() -> None:
    params = weights()
    optimizer = fs.SGD(params, lr=0.5, ema=0.5)
    optimizer.step({k: np.ones_like(p) for k, p in params.items()})
    first, second = FusedEMA(optimizer), FusedEMA(optimizer)
    before = bits(params)
    with first.swapped():
        inside = bits(params)
        with pytest.raises(RuntimeError):
            second.swap_in()
        with pytest.raises(RuntimeError):
            second.swap_out()
        assert bits(params) == inside
    assert bits(params) == before
    with second.swapped():
        assert bits(params) == inside
    assert bits(params) == before


def test_a_paused_optimizer_is_not_swapped() -> None:
    p = np.ones(2)
    optimizer = fs.SGD([p], lr=0.5, ema=0.5)
    optimizer.step([np.ones(2)])
    average = FusedEMA(optimizer)

    def busy() -> None:
        with pytest.raises(RuntimeError):
            average.swap_in()
        assert p.tolist() == [0.5, 0.5]
        with pytest.raises(RuntimeError):  # still paused
            optimizer.step([np.ones(2)])

    optimizer.busy.run(busy)
    with average.swapped():
        assert p.tolist() == [0.75, 0.75]


def test_fused_averages_follow_a_loaded_checkpoint() -> None:
    p = np.ones(2)
    optimizer = fs.SGD({"p": p}, lr=1.0, ema=0.5)
    average = FusedEMA(optimizer)
    checkpoint = optimizer.state_dict()
    optimizer.step({"p": np.ones(2)})
    assert average.averages["p"].tolist() == [0.5, 0.5]
    optimizer.load_state_dict(checkpoint)
    assert average.averages["p"].tolist() == [1, 1]
    with average.swapped():
        assert p.tolist() == [1, 1]
    assert p.tolist() == [0, 0]


def make(kind: str, params: Any) -> Any:
    if kind == "EMA":
        return EMA(params, lambda t: t / (t + 5))
    return Mean(params) if kind == "Mean" else CheckpointMean(params)


def advance(average: Any, params: dict[str, Array], first: int, last: int) -> None:
    for t in range(first, last):
        rng = np.random.default_rng(t)
        move(params, rng)
        if isinstance(average, CheckpointMean):
            average.observe(float(rng.integers(-t, 5)))
        else:
            average.update()


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [0, 1, 6])
def test_going_on_from_a_state_gives_the_same_bits(kind: str, name: str, stop: int) -> None:
    dtype = dtype_of(name)
    through, stopped, resumed = weights(dtype), weights(dtype), weights(dtype, seed=99)
    whole = make(kind, through)
    advance(whole, through, 0, 14)
    first = make(kind, stopped)
    advance(first, stopped, 0, stop)
    state = copy.deepcopy(first.state_dict())
    second = make(kind, resumed)
    advance(second, resumed, 3, 5)
    second.load_state_dict(state)
    assert second.updates == first.updates
    advance(second, resumed, stop, 14)
    assert bits(second.averages) == bits(whole.averages)
    np.testing.assert_equal(second.state_dict(), whole.state_dict())


@pytest.mark.parametrize("kind", BESIDE)
def test_a_state_is_a_copy(kind: str) -> None:
    params = weights()
    average = train(kind, params)
    before = bits(average.averages)
    state = average.state_dict()
    other = make(kind, params)
    other.load_state_dict(state)
    for x in state["averages"].values():
        x[...] = 99
    assert bits(average.averages) == bits(other.averages) == before
    kept = copy.deepcopy(average.state_dict())
    taken = average.state_dict()
    average.observe(-1e9) if kind == "CheckpointMean" else average.update()
    np.testing.assert_equal(taken, kept)


BAD_STATES = bad_states("averages", "updates")
BAD_BESTS: list[Any] = [math.nan, math.inf, -math.inf, "a", "1", [1.0], 1j, 10**400]


@pytest.mark.parametrize("kind", BESIDE)
@pytest.mark.parametrize("change", BAD_STATES.values(), ids=BAD_STATES)
def test_a_bad_state_changes_nothing(kind: str, change: Callable[[dict[str, Any]], None]) -> None:
    params = {"a": np.ones(2), "b": np.ones((1, 3))}
    average = make(kind, params)
    advance(average, params, 0, 3)
    state = copy.deepcopy(average.state_dict())
    for x in state["averages"].values():
        x[...] += 50
    change(state)
    before, weights_before = copy.deepcopy(average.state_dict()), bits(params)
    with pytest.raises((TypeError, ValueError)):
        average.load_state_dict(state)
    np.testing.assert_equal(average.state_dict(), before)
    assert bits(params) == weights_before


@pytest.mark.parametrize("best", BAD_BESTS, ids=short)
def test_a_best_figure_that_cannot_be_is_refused(best: Any) -> None:
    average = CheckpointMean([np.ones(2)])
    average.observe(3.0)
    before = copy.deepcopy(average.state_dict())
    with pytest.raises((TypeError, ValueError)):
        average.load_state_dict({**before, "best": best})
    np.testing.assert_equal(average.state_dict(), before)


@pytest.mark.parametrize("state", [None, 3, "state", [("updates", 1)]])
def test_a_state_is_a_mapping(state: Any) -> None:
    with pytest.raises(TypeError):
        EMA(np.ones(2)).load_state_dict(state)


def predict(probabilities: Array, inputs: Array) -> Array:
    return np.asarray(probabilities[inputs])


def test_each_member_errs_and_the_ensemble_does_not() -> None:
    table = np.array([[0.4, 0.9, 0.8], [0.9, 0.3, 0.7], [0.7, 0.8, 0.45]])  # of the right one of two classes
    members = [functools.partial(predict, np.stack([row, 1 - row], 1)) for row in table]
    inputs = np.arange(3)
    for member in members:
        assert (member(inputs).argmax(1) == 0).mean() == pytest.approx(2 / 3)
    mean = Ensemble(members)(inputs)
    assert (mean.argmax(1) == 0).all()
    np.testing.assert_allclose(mean[:, 0], [2 / 3, 2 / 3, 1.95 / 3], rtol=1e-15)
    np.testing.assert_allclose(mean.sum(1), 1, rtol=1e-15)


def constant(value: Any, dtype: Any = np.float64) -> Callable[..., Array]:
    return lambda *_: np.asarray(value, dtype)


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-3, 1e-310, 1e308])
def test_weights_count_by_their_ratios(scale: float) -> None:
    rng = np.random.default_rng(15)
    predictions = rng.random((3, 4, 5))
    ratios = [0.5, 1.25, 0.0]
    mean = Ensemble([constant(x) for x in predictions], [scale * r for r in ratios])()
    np.testing.assert_allclose(mean, np.average(predictions, 0, ratios), rtol=1e-12)
    assert mean.shape == (4, 5)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float32", "float32"], "float32"),
        (["float64", "float64"], "float64"),
        (["int64", "int64"], "float64"),
        (["int32", "int32"], "float64"),
        (["float64", "float32"], "float64"),
        (["float32", "float64"], "float64"),
        (["float32", "int64"], "float64"),
        (["int64", "float32"], "float64"),
    ],
)
def test_the_mean_of_predictions_has_a_dtype_that_holds_them(dtypes: list[str], expected: str) -> None:
    values = [[1, 0, 3], [0, 0, 4]]
    mean = Ensemble([constant(v, dtype) for v, dtype in zip(values, dtypes, strict=True)])()
    assert mean.dtype == expected
    assert mean.tolist() == [0.5, 0, 3.5]


def test_the_order_of_the_models_does_not_matter() -> None:
    single, double = constant([0.1], np.float32), constant([1e300])
    assert Ensemble([double, single])().tolist() == [5e299]
    assert Ensemble([single, double])().tolist() == [5e299]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "bool", "float16"])
def test_small_dtypes_do_not_overflow(dtype: str) -> None:
    largest = {"uint8": 255, "int8": 127, "bool": 1, "float16": 65504}[dtype]
    mean = Ensemble([constant([largest], dtype)] * 3)()
    np.testing.assert_allclose(mean.astype(np.float64), [largest], rtol=1e-6)


def test_inputs_are_passed_on_and_predictions_left_alone() -> None:
    seen: list[tuple[Any, ...]] = []
    kept = np.ones(3)

    def model(*inputs: Any) -> Array:
        seen.append(inputs)
        return kept

    mean = Ensemble([model, model, lambda a, b: a + b])(np.full(3, 4.0), 3.0)
    np.testing.assert_allclose(mean, [3, 3, 3], rtol=1e-15)
    assert len(seen) == 2
    assert [inputs[1] for inputs in seen] == [3.0, 3.0]
    assert kept.tolist() == [1, 1, 1]
    alone = Ensemble([model])()
    alone += 1
    assert kept.tolist() == [1, 1, 1]


def test_an_ensemble_keeps_its_models_and_weights() -> None:
    models, counts = [constant(1.0), constant(3.0)], [1.0, 1.0]
    ensemble = Ensemble(models, counts)
    models.append(constant(100.0))
    counts[0] = 100
    assert float(ensemble()) == 2.0


def test_an_ensemble_of_one_model_at_several_points_of_a_run() -> None:
    p = np.zeros(2)
    average = Mean([p])
    models = []
    for t in range(1, 5):
        p[:] = t, -t
        average.update()
        models.append(functools.partial(np.dot, p.copy()))
    inputs = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.5]])
    with average.swapped():  # of a linear model they are the same
        np.testing.assert_allclose(Ensemble(models)(inputs), p @ inputs, rtol=1e-15)


@pytest.mark.parametrize(
    ("models", "counts"),
    [
        ([], None),
        ([], []),
        (None, None),
        (constant(1), None),
        ([constant(1)], []),
        ([constant(1)], [1, 1]),
        ([constant(1)], [0]),
        ([constant(1), constant(1)], [1, -1]),
        ([constant(1), constant(1)], [1, math.nan]),
        ([constant(1), constant(1)], [1, math.inf]),
        ([constant(1), constant(1)], [1, None]),
        ([constant(1), constant(1)], ["1", "1"]),
        ([constant(1), constant(1)], 2),
        ([constant(1), constant(1)], [10**400, 1]),
    ],
)
def test_no_models_or_bad_weights(models: Any, counts: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        Ensemble(models, counts)


def test_what_is_no_model_is_named() -> None:
    with pytest.raises(TypeError, match=r"\b1\b"):
        Ensemble([constant(1), np.ones(3)])  # type: ignore[list-item]


@pytest.mark.parametrize("shape", [(1,), (1, 2), (), (3,), (0,)])
def test_a_model_of_another_shape_is_named(shape: tuple[int, ...]) -> None:
    first, other = constant(np.zeros(2)), constant(np.zeros(shape))
    with pytest.raises(ValueError, match=r"\b2\b.*" + re.escape(str(shape))):
        Ensemble([first, first, other, first])()


@pytest.mark.parametrize("prediction", [None, ["a", "b"], [[1.0], [1.0, 2.0]]])
@pytest.mark.parametrize("place", [0, 1])
def test_a_model_that_predicts_no_numbers_is_named(prediction: Any, place: int) -> None:
    models: list[Any] = [constant([0.5, 0.5]), constant([0.5, 0.5])]
    models[place] = lambda: prediction
    with pytest.raises((TypeError, ValueError), match=f"model {place}"):
        Ensemble(models)()


@pytest.mark.parametrize("seed", range(3))
def test_polyaks_mean_beats_the_last_iterate_of_noisy_sgd(seed: int) -> None:
    """x ← x - lr·(A·x + noise): the mean of n iterates comes near the bound tr(A⁻¹)/(2n) of its loss."""
    curvature = np.linspace(0.5, 2, 10)
    rng = np.random.default_rng(seed)
    x = np.full(10, 3.0)
    optimizer = fs.SGD([x], lr=0.1)
    mean = Mean([x])
    steps, later = 3000, 2700

    def loss() -> float:
        return float(0.5 * (curvature * x**2).sum())

    for t in range(steps):
        optimizer.step([curvature * x + rng.standard_normal(10)])
        if t >= steps - later:
            mean.update()
    last = loss()
    with mean.swapped():
        averaged = loss()
    assert loss() == last
    assert averaged < last / 10
    assert averaged < 4 * (1 / curvature).sum() / (2 * later)


MEANS = [
    ("float32", None),
    ("float64", None),
    ("float16", "float32"),
    ("bfloat16", "float32"),
    ("float32", "bfloat16"),
]


@pytest.mark.parametrize(("kept", "averaged"), MEANS)
@pytest.mark.parametrize("isa", fs.info()["isas"])
def test_a_mean_has_the_bits_of_its_formula(kept: str, averaged: str | None, isa: str) -> None:
    """On every instruction set and number of threads, for sizes around those of vectors and tiles."""
    rng = np.random.default_rng(0)
    params = {n: rng.standard_normal(n).astype(dtype_of(kept)) for n in (*range(1, 20), 3 * 4096 + 7)}
    dtype = dtype_of(averaged or kept)
    wide = np.float64 if kept == "float64" else np.float32
    fs.use_isa(isa)
    average = Mean(params, dtype=dtype)
    expected: dict[int, Array] = {}
    for t in range(1, 6):
        move(params, rng)
        fs.set_num_threads(t % 3 + 1)
        average.update()
        for n, p in params.items():
            w = p.astype(wide)
            m = expected[n].astype(wide) if t > 1 else w
            expected[n] = (m + wide(1 / t) * (w - m)).astype(dtype) if t > 1 else w.astype(dtype)
    assert bits(average.averages) == bits(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_while_swapping_in_leaves_all_as_it_was(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = weights()
    average = train(kind, params)
    before = bits(params)
    real = vars(swap)["assign"]

    def interrupted(changes: Any, targets: Mapping[Any, Array], values: Mapping[Any, Array]) -> None:
        monkeypatch.setattr(swap, "assign", real)
        real(changes, {"matrix": targets["matrix"]}, values)
        raise KeyboardInterrupt

    monkeypatch.setattr(swap, "assign", interrupted)
    with pytest.raises(KeyboardInterrupt), average.swapped():
        pass
    assert bits(params) == before
    with average.swapped():
        assert bits(params) != before
    assert bits(params) == before


def test_averages_lie_in_memory_as_their_weights_do() -> None:
    """So that an update walks both from end to end."""
    p = np.asfortranarray(np.ones((3, 5)))
    for average in (EMA(p), Mean(p), EMA(p.astype(np.float16, order="K"))):
        assert average.averages.flags.f_contiguous

"""Early stopping against a plain model of it, and the best weights put back bit for bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep.control import EarlyStopping
from tests.helpers.bad_states import bad_states

Array = np.ndarray[Any, Any]

NAMES = ["float32", "float64", "float16", "bfloat16"]
NONE_FINITE = [math.nan, math.inf, -math.inf]


def dtype_of(name: str) -> np.dtype[Any]:
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def weights(dtype: Any = np.float32) -> dict[str, Array]:
    draw = np.random.default_rng(0).standard_normal
    return {
        "number": np.asarray(draw()).astype(dtype),
        "empty": draw((0, 3)).astype(dtype),
        "matrix": draw((9, 15)).astype(dtype),
        "columns": np.asfortranarray(draw((4, 6))).astype(dtype, order="K"),
        "second": draw(70).astype(dtype)[::2],
        "transposed": draw((6, 11)).astype(dtype).T,
    }


def bits(arrays: Mapping[Any, Array]) -> dict[Any, bytes]:
    return {name: x.tobytes() for name, x in arrays.items()}


def move(params: Mapping[str, Array], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for p in params.values():
        p[...] = np.asarray(rng.standard_normal(p.shape)).astype(p.dtype)


def short(x: Any) -> str:
    return repr(x)[:9]


class Model:
    """What the specification says, one figure after another."""

    def __init__(self, patience: int, threshold: float, *, lower: bool, kept: dict[str, bytes]) -> None:
        self.patience, self.threshold, self.lower, self.kept = patience, threshold, lower, kept
        self.best: float | None = None
        self.stalled = 0

    def observe(self, figure: float, present: dict[str, bytes]) -> bool:
        if self.best is None:
            better = math.isfinite(figure)
        else:
            gain = self.best - figure if self.lower else figure - self.best
            better = math.isfinite(figure) and gain > self.threshold * abs(self.best)
        if better:
            self.best, self.stalled, self.kept = figure, 0, present
        else:
            self.stalled += 1
        return self.stalled >= self.patience


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("patience", [1, 2, 3, 7])
@pytest.mark.parametrize("threshold", [0, 0.0625, 0.5, 1, 3])
def test_against_the_model(mode: Any, patience: int, threshold: float) -> None:
    rng = np.random.default_rng([patience, int(16 * threshold), len(mode), ord(mode[1])])
    for _ in range(12):
        params: dict[str, Array] = {"a": np.zeros(3), "b": np.zeros((2, 2), np.float32)}
        stopping = EarlyStopping(params, patience=patience, threshold=threshold, mode=mode)
        model = Model(patience, threshold, lower=mode == "min", kept=bits(params))
        offset = int(rng.integers(-40, 41))
        for t in range(30):
            move(params, t)
            figure = float(rng.integers(-20, 21) + offset) / 4  # thresholds of these are exact
            if rng.random() < 0.15:
                figure = float(rng.choice(NONE_FINITE))
            assert stopping.observe(figure) is model.observe(figure, bits(params))
            assert (stopping.best, stopping.stalled) == (model.best, model.stalled)
        stopping.restore()
        assert bits(params) == model.kept


def test_it_stops_at_the_tenth_by_default() -> None:
    stopping = EarlyStopping(np.zeros(2))
    assert [stopping.observe(1.0) for _ in range(11)] == [False] * 10 + [True]
    assert (stopping.best, stopping.stalled) == (1.0, 10)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_an_equal_figure_is_not_better(mode: Any) -> None:
    p = np.array([1.0])
    stopping = EarlyStopping(p, patience=2, mode=mode)
    assert not stopping.observe(0.0)
    p[:] = 2
    assert not stopping.observe(-0.0)
    p[:] = 3
    assert stopping.observe(0)
    stopping.restore()
    assert p.tolist() == [1]


@pytest.mark.parametrize(("mode", "best"), [("min", 8.0), ("min", -8.0), ("max", 8.0), ("max", -8.0)])
def test_the_threshold_is_relative_to_the_size_of_the_best(mode: Any, best: float) -> None:
    toward = -math.inf if mode == "min" else math.inf
    edge = best + math.copysign(0.25 * 8, toward)
    stopping = EarlyStopping(np.zeros(2), threshold=0.25, mode=mode)
    stopping.observe(best)
    stopping.observe(edge)
    assert (stopping.best, stopping.stalled) == (best, 1)
    stopping.observe(math.nextafter(edge, toward))
    assert (stopping.best, stopping.stalled) == (math.nextafter(edge, toward), 0)


def test_any_gain_over_zero_is_above_the_threshold() -> None:
    stopping = EarlyStopping(np.zeros(2), threshold=0.5)
    stopping.observe(0.0)
    stopping.observe(-5e-324)
    assert stopping.best == -5e-324


def test_huge_figures_and_thresholds_do_not_overflow_into_better() -> None:
    stopping = EarlyStopping(np.zeros(2), threshold=1e300, mode="max")
    stopping.observe(1e300)
    stopping.observe(1.7e308)
    assert (stopping.best, stopping.stalled) == (1e300, 1)
    free = EarlyStopping(np.zeros(2))
    free.observe(1.7e308)
    free.observe(-1.7e308)
    assert (free.best, free.stalled) == (-1.7e308, 0)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("figure", NONE_FINITE)
def test_figures_that_are_not_finite_are_never_better(mode: Any, figure: float) -> None:
    p = np.array([1.0, 2.0])
    stopping = EarlyStopping([p], patience=3, mode=mode)
    p[:] = math.nan
    assert [stopping.observe(figure) for _ in range(3)] == [False, False, True]
    assert (stopping.best, stopping.stalled) == (None, 3)
    stopping.restore()
    assert p.tolist() == [1, 2]  # the first ones, as none were any good
    p[:] = 5
    assert not stopping.observe(4.0)
    assert (stopping.best, stopping.stalled) == (4.0, 0)


@pytest.mark.parametrize(
    "figure", [2, np.float32(2), np.float64(2), np.float16(2), np.int8(2), np.array(2.0)]
)
def test_figures_of_all_kinds_of_numbers(figure: Any) -> None:
    stopping = EarlyStopping(np.zeros(2))
    assert stopping.observe(figure) is False
    assert type(stopping.best) is float
    assert stopping.best == 2.0


@pytest.mark.parametrize("figure", ["a", "1", None, [1.0], 1j, np.zeros(2)], ids=short)
def test_a_figure_that_is_none_changes_nothing(figure: Any) -> None:
    p = np.zeros(2)
    stopping = EarlyStopping([p], patience=4)
    stopping.observe(3.0)
    stopping.observe(3.0)
    p[:] = 1
    before = copy.deepcopy(stopping.state_dict())
    with pytest.raises((TypeError, ValueError)):
        stopping.observe(figure)
    np.testing.assert_equal(stopping.state_dict(), before)
    assert (stopping.best, stopping.stalled) == (3.0, 1)


@pytest.mark.parametrize("name", NAMES)
def test_the_best_weights_come_back_bit_for_bit(name: str) -> None:
    params = weights(dtype_of(name))
    addresses = [p.ctypes.data for p in params.values()]
    stopping = EarlyStopping(params)
    move(params, 1)
    stopping.observe(2.0)
    move(params, 2)
    stopping.observe(1.0)
    best = bits(params)
    for t in range(3, 6):
        move(params, t)
        stopping.observe(1.5)
    for _ in range(2):
        stopping.restore()
        assert bits(params) == best
        for p in params.values():
            p[...] = 0  # what was kept is a copy
    assert [p.ctypes.data for p in params.values()] == addresses
    assert (stopping.best, stopping.stalled) == (1.0, 3)


@pytest.mark.parametrize("odd", ["<u4", "<u2"])
def test_odd_weights_come_back_bit_for_bit(odd: str) -> None:
    patterns = {
        "<u4": [0x7F800001, 0xFFC12345, 0x7F800000, 0x80000000, 1, 0x807FFFFF],
        "<u2": [0x7C01, 0xFE12, 0xFC00, 0x8000, 1, 0x83FF],
    }[odd]
    p = np.array(patterns, odd).view(f"<f{odd[2]}")
    stopping = EarlyStopping([p])
    stopping.observe(1.0)
    p[:] = 0
    stopping.restore()
    assert p.view(odd).tolist() == patterns


def test_an_optimizer_goes_on_from_the_best_weights() -> None:
    """A loss that falls and then diverges: the weights are those of its minimum."""
    p = np.array([4.0])
    optimizer = fs.SGD({"p": p}, lr=lambda t: 0.2 if t <= 20 else 2.0)
    stopping = EarlyStopping({"p": p}, patience=5)
    seen = []
    for _ in range(100):
        optimizer.step({"p": 2 * p})
        seen.append((float(p[0] ** 2), float(p[0])))
        if stopping.observe(seen[-1][0]):
            break
    assert len(seen) == 20 + 5
    stopping.restore()
    assert (stopping.best, p[0]) == min(seen)
    optimizer.step({"p": np.array([0.5])})
    assert p[0] == min(seen)[1] - 2.0 * 0.5


def test_the_forms_of_parameters() -> None:
    a, b = np.ones(3, np.float32), np.ones((2, 2))
    forms: list[Any] = [
        [a, b],
        (a, b),
        {"a": a, "b": b},
        [{"params": a}, {"params": [b], "lr": 1}],
        [{"params": {"a": a}}, {"params": {"b": b}}],
    ]
    for params in forms:
        a[:], b[:] = 2, 3
        stopping = EarlyStopping(params)
        a[:], b[:] = 4, 5
        stopping.restore()
        assert (a.tolist(), b.tolist()) == ([2] * 3, [[3, 3], [3, 3]])
    stopping = EarlyStopping(a)
    a[:] = 9
    stopping.restore()
    assert a.tolist() == [2, 2, 2]


def test_read_only_weights_are_refused_before_anything_is_written() -> None:
    params = weights()
    stopping = EarlyStopping(params)
    move(params, 1)
    moved = bits(params)
    params["columns"].flags.writeable = False
    with pytest.raises(ValueError, match="columns"):
        stopping.restore()
    assert bits(params) == moved


@pytest.mark.parametrize(
    ("params", "name"),
    [([], "param"), ({}, "param"), (None, "params"), ("ab", "params"), ([1.0], "0"), ({"x": [1.0]}, "'x'")],
)
def test_what_are_no_parameters_is_named(params: Any, name: str) -> None:
    with pytest.raises((TypeError, ValueError), match=name):
        EarlyStopping(params)


@pytest.mark.parametrize(
    "options",
    [
        *({"patience": x} for x in [0, -1, 1.5, math.nan, math.inf, None, "3", True, [1], 10**400]),
        *({"threshold": x} for x in [-0.1, math.nan, math.inf, -math.inf, None, "0", True, [0.0], 10**400]),
        *({"mode": x} for x in ["MIN", "", None, 0, ["min"]]),
    ],
    ids=lambda options: str(options)[:24],
)
def test_bad_arguments_are_named(options: Any) -> None:
    (name,) = options
    with pytest.raises((TypeError, ValueError), match=name):
        EarlyStopping(np.zeros(2), **options)


def test_the_arguments_are_keywords() -> None:
    with pytest.raises(TypeError):
        EarlyStopping(np.zeros(2), 3)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stop", [0, 1, 9])
def test_going_on_from_a_state_is_as_not_stopping(name: str, stop: int) -> None:
    figures = [math.nan, 5.0, 3.0, 4.0, 4.0, 2.0, math.inf, 2.5, 2.5, 1.0, 7.0, 7.0, 1.0, 1.0]
    made: list[tuple[dict[str, Array], EarlyStopping]] = []
    for _ in range(3):
        params = weights(dtype_of(name))
        made.append((params, EarlyStopping(params, patience=4)))

    def go(of: tuple[dict[str, Array], EarlyStopping], first: int, last: int) -> list[bool]:
        said = []
        for t in range(first, last):
            move(of[0], t)
            said.append(of[1].observe(figures[t]))
        return said

    whole, stopped, resumed = made
    expected = go(whole, 0, 14)
    assert expected.index(True) == 13
    assert go(stopped, 0, stop) == expected[:stop]
    go(resumed, 4, 6)
    resumed[1].load_state_dict(stopped[1].state_dict())
    assert go(resumed, stop, 14) == expected[stop:]
    np.testing.assert_equal(resumed[1].state_dict(), whole[1].state_dict())
    whole[1].restore()
    resumed[1].restore()
    assert bits(resumed[0]) == bits(whole[0])


def test_a_state_is_a_copy() -> None:
    p = np.ones(3)
    stopping = EarlyStopping({"p": p})
    stopping.observe(2.0)
    state = stopping.state_dict()
    other = EarlyStopping({"p": np.zeros(3)})
    other.load_state_dict(state)
    for x in state["weights"].values():
        x[...] = 99
    kept = copy.deepcopy(other.state_dict())
    for one in (stopping, other):
        (array,) = one.state_dict()["weights"].values()
        assert array.tolist() == [1, 1, 1]
    taken = other.state_dict()
    other.observe(1.0)
    np.testing.assert_equal(taken, kept)


def test_loading_leaves_the_weights_alone_until_restore() -> None:
    p = np.ones(3)
    stopping = EarlyStopping({"p": p})
    state = stopping.state_dict()
    p[:] = 2
    other = EarlyStopping({"p": p})
    other.load_state_dict(state)
    assert p.tolist() == [2, 2, 2]
    other.restore()
    assert p.tolist() == [1, 1, 1]


BAD_STATES: dict[str, Callable[[dict[str, Any]], None]] = bad_states("weights", "stalled") | {
    "no best": lambda s: s.pop("best"),
    "best NaN": lambda s: s.update(best=math.nan),
    "best inf": lambda s: s.update(best=math.inf),
    "best -inf": lambda s: s.update(best=-math.inf),
    "best in words": lambda s: s.update(best="1"),
    "best no word": lambda s: s.update(best="a"),
    "best in a list": lambda s: s.update(best=[1.0]),
    "best no float": lambda s: s.update(best=10**400),
}


@pytest.mark.parametrize("change", BAD_STATES.values(), ids=BAD_STATES)
def test_a_bad_state_changes_nothing(change: Callable[[dict[str, Any]], None]) -> None:
    params = {"a": np.ones(2), "b": np.ones((1, 3))}
    stopping = EarlyStopping(params)
    stopping.observe(2.0)
    stopping.observe(3.0)
    before = copy.deepcopy(stopping.state_dict())
    state = copy.deepcopy(before)
    state.update(best=1.0, stalled=5)
    for x in state["weights"].values():
        x[...] += 50
    change(state)
    with pytest.raises((TypeError, ValueError)):
        stopping.load_state_dict(state)
    np.testing.assert_equal(stopping.state_dict(), before)
    assert (stopping.best, stopping.stalled) == (2.0, 1)
    stopping.restore()
    assert bits(params) == bits({"a": np.ones(2), "b": np.ones((1, 3))})


@pytest.mark.parametrize("state", [None, 3, "state", [("best", 1)]])
def test_a_state_is_a_mapping(state: Any) -> None:
    with pytest.raises(TypeError):
        EarlyStopping(np.ones(2)).load_state_dict(state)

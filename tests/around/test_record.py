"""Records: lines of JSON, whose figures are those of NumPy in float64, of steps that stay the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep.control import Checkpoint, Record

Array = np.ndarray[Any, Any]
Opened = Callable[..., Record]

KEYS = {"t", "loss", "norm", "lr", "ratio"}
WIDTHS = ["float32", "float64", "float16", "bfloat16"]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Make records of a file of the test's folder."""
    return lambda name="r.jsonl", **options: Record(tmp_path / name, **options)


def refuse_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")


def lines(path: Path) -> list[dict[str, Any]]:
    """What is in the file, read as JSON of RFC 8259, which has no NaN and no Infinity."""
    text = path.read_bytes().decode("utf-8")
    assert not text or text.endswith("\n")
    rows = [json.loads(line, parse_constant=refuse_constant) for line in text.split("\n")[:-1]]
    assert all(isinstance(row, dict) for row in rows)
    return rows


def dtype_of(name: str) -> Any:
    return pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.dtype(name)


def some(seed: int, dtype: Any = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"w": (6, 5), "b": (9,), "c": (), "none": (0, 2)}
    return {name: np.asarray(rng.standard_normal(s), dtype) for name, s in shapes.items()}


def norm(tensors: Any) -> float:
    """The 2-norm of all, in float64."""
    return math.sqrt(math.fsum(float(x) ** 2 for a in tensors for x in np.asarray(a, np.float64).ravel()))


def close(x: float) -> Any:
    return pytest.approx(x, rel=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_each_figure_is_that_of_numpy(width: str, opened: Opened, tmp_path: Path) -> None:
    dtype = dtype_of(width)
    w = some(1, dtype)
    optimizer = fs.AdamW(w, lr=lambda t: 0.1 / t)
    record = opened()
    for t in range(1, 6):
        g = some(10 + t, dtype)
        before = {name: a.astype(np.float64) for name, a in w.items()}
        record.step(optimizer, g, loss=2.0 / t, scale=0.5)
        change = [w[name].astype(np.float64) - before[name] for name in w]
        row = lines(tmp_path / "r.jsonl")[-1]
        assert set(row) == KEYS
        assert (row["t"], row["loss"], row["lr"]) == (t, 2.0 / t, 0.1 / t)
        assert row["norm"] == close(0.5 * norm(g.values()))
        assert row["ratio"] == close(norm(change) / norm(before.values()))
        assert row["ratio"] > 0
    assert record.rows() == lines(tmp_path / "r.jsonl")
    assert [row["t"] for row in record.rows()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("rule", fs.rules)
def test_a_step_of_a_record_has_the_bits_of_a_plain_step(rule: str, opened: Opened) -> None:
    ours, theirs = some(1), some(1)
    one, two = fs.rules[rule](ours, ema=0.5), fs.rules[rule](theirs, ema=0.5)
    record = opened()
    for t in range(1, 5):
        options: dict[str, Any] = {"loss": 1.0 / t, "scale": 0.5, "clip_norm": 1.0, "clip_value": 0.3}
        for name in ("skip_nonfinite", "zero_grad"):
            options[name] = t % 2 == 0
        g, h = some(20 + t), some(20 + t)
        if t == 4:
            g["b"][2] = h["b"][2] = np.inf
        result, expected = record.step(one, g, **options), two.step(h, **options)
        assert type(result) is type(expected)
        assert (result.norms is None) == result.skipped
        assert repr(result._replace(norms=None)) == repr(expected)
        assert result.skipped == (t == 4)
        assert [a.tobytes() for a in g.values()] == [a.tobytes() for a in h.values()]
        for name in ours:
            assert ours[name].tobytes() == theirs[name].tobytes()
            for slot, a in one.state[name].items():
                assert a.tobytes() == two.state[name][slot].tobytes()
    assert one.t == two.t == 3


def test_norm_is_that_before_clipping(opened: Opened) -> None:
    w, g = some(1), some(2)
    record = opened()
    result = record.step(fs.SGD(w), g, scale=-3.0, clip_norm=0.1, clip_value=0.01, zero_grad=True)
    (row,) = record.rows()
    assert row["norm"] == close(3 * norm(some(2).values()))
    assert result.grad_norm == close(row["norm"])
    assert not any(np.any(a) for a in g.values())


def test_ratio_is_that_of_the_whole_step(opened: Opened) -> None:
    """With the clipped gradient, the decay of the weights, and what rounding makes of it."""
    w = {"a": np.array([3.0, 4.0]), "b": np.array([12.0])}  # the norm is 13
    record = opened()
    g = {"a": np.array([30.0, 0.0]), "b": np.array([40.0])}
    record.step(fs.SGD(w, lr=0.5, weight_decay=0.25), g, clip_norm=5.0)
    clipped = np.array([30.0, 0.0, 40.0]) * 5 / (50 + 1e-6)
    change = 0.125 * np.array([3.0, 4.0, 12.0]) + 0.5 * clipped
    (row,) = record.rows()
    assert row["norm"] == 50
    assert row["ratio"] == close(float(np.linalg.norm(change)) / 13)
    w16 = {"a": np.full(4, 256.0, np.float16)}  # whose next number below is 255.875
    record.step(fs.SGD(w16, lr=0.1), {"a": np.array([0.1, 0, 0, 1.25], np.float16)})
    assert record.rows()[-1]["ratio"] == close(0.125 / 512)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("magnitude", ["large", "small"])
def test_figures_neither_overflow_nor_vanish_where_squares_do(
    width: str, magnitude: str, opened: Opened
) -> None:
    dtype = dtype_of(width)
    limits: Any = (pytest.importorskip("ml_dtypes") if width == "bfloat16" else np).finfo(dtype)
    value = float(limits.max) / 16 if magnitude == "large" else float(limits.tiny) * 16
    w = np.full(4, value).astype(dtype)
    value = float(w[0])
    record = opened()
    record.step(fs.SGD(w, lr=0.5), np.full(4, value / 2).astype(dtype))
    (row,) = record.rows()
    assert row["norm"] == pytest.approx(value, rel=2e-2)
    assert row["ratio"] == pytest.approx(0.25, rel=2e-2)


def test_a_ratio_to_a_norm_that_overflows_is_not_zero(opened: Opened) -> None:
    w = np.full(4, 1.5e308)
    record = opened()
    record.step(fs.SGD(w, lr=0.5), w / 2)
    assert record.rows()[0]["ratio"] in [None, close(0.25)]


def test_lr_is_that_of_the_step(opened: Opened) -> None:
    plateau = fs.schedules.Plateau(0.25, factor=0.5, patience=0)
    w = some(1)
    optimizer = fs.AdamW(w, lr=fs.schedules.Warmup(plateau, 2))
    record = opened()
    for figure in (1.0, 1.0, 1.0, 1.0):
        record.step(optimizer, some(3))
        plateau.observe(figure)
    assert [row["lr"] for row in record.rows()] == [0.0, 0.125, 0.125, 0.0625]
    optimizer.groups[0]["lr"] = 0.75
    record.step(optimizer, some(3))
    assert record.rows()[-1]["lr"] == 0.75


def test_lr_is_a_list_where_groups_differ(opened: Opened) -> None:
    w = [np.ones(3, np.float32) for _ in range(3)]
    rates: list[Any] = [lambda t: 1.0 / t, 0.5, 0.5]
    optimizer = fs.SGD([{"params": [p], "lr": lr} for p, lr in zip(w, rates, strict=True)])
    record = opened()
    for _ in range(3):
        record.step(optimizer, [[np.ones(3, np.float32)]] * 3)
    assert [row["lr"] for row in record.rows()] == [[1.0, 0.5, 0.5], 0.5, [1 / 3, 0.5, 0.5]]


GROUPS = [{"params": {"a": 3, "b": 2}}, {"params": {"c": 4}, "lr": 0.5}]


def test_gradients_of_every_structure(opened: Opened, tmp_path: Path) -> None:
    one, two, four = (np.full(n, float(n), np.float32) for n in (1, 2, 4))

    def p(n: int) -> Array:
        return np.ones(n, np.float32)

    cases: list[tuple[Any, Any, float]] = [
        (p(4), four, 8.0),
        ([p(1), p(2)], [one, two], 3.0),
        ((p(1), p(2)), (one, two), 3.0),
        ([p(1), p(2)], [one, None], 1.0),
        ([p(1), p(2)], [None, None], 0.0),
        ({"a": p(1), "b": p(4)}, {"b": four, "a": one}, math.sqrt(65)),
        ({"a": p(1), "b": p(4)}, {"b": four, "a": None}, 8.0),
        ([{"params": [p(1), p(2)]}, {"params": [p(4)]}], [[one, two], [four]], math.sqrt(73)),
        ([{"params": [p(1), p(2)]}, {"params": [p(4)]}], [one, two, four], math.sqrt(73)),
        ([{"params": [p(1), p(2)]}, {"params": [p(4)]}], [[None, two], [None]], math.sqrt(8)),
        ([{"params": {"a": p(1)}}, {"params": {"b": p(4)}}], [{"a": one}, {"b": None}], 1.0),
        ([{"params": {"a": p(1)}}, {"params": {"b": p(4)}}], {"a": one, "b": four}, math.sqrt(65)),
        ([p(0)], [p(0)], 0.0),
        (np.ones(()), np.array(-3.0), 3.0),
    ]
    for i, (params, grads, expected) in enumerate(cases):
        record = opened(f"{i}")
        record.step(fs.SGD(params, lr=0.5), grads)
        (row,) = lines(tmp_path / f"{i}")
        assert row["norm"] == close(expected), i


def test_parameters_and_gradients_that_are_not_contiguous(opened: Opened) -> None:
    base, gradient = np.arange(24.0).reshape(4, 6), np.full((4, 6), 100.0)
    w, g = base[::2, ::-3], gradient[1::2, ::3]
    g[...] = [[1.0, 2.0], [4.0, 2.0]]
    expected = norm([w])
    record = opened()
    record.step(fs.SGD(w, lr=0.5), g)
    (row,) = record.rows()
    assert (row["norm"], row["ratio"]) == (5.0, close(2.5 / expected))


def test_what_is_not_finite_is_null(opened: Opened, tmp_path: Path) -> None:
    record = opened()
    for bad in (np.nan, np.inf, -np.inf):
        record.step(fs.SGD([np.ones(3, np.float32)]), [np.array([1, bad, 1], np.float32)])
    record.step(fs.SGD([np.zeros(3)]), [np.ones(3)])
    record.step(fs.SGD([np.array([np.nan, 1.0])]), [np.ones(2)])
    record.step(fs.SGD([np.array([60000.0], np.float16)], lr=1.0), [np.array([-60000.0], np.float16)])
    rows = lines(tmp_path / "r.jsonl")
    assert all(row["loss"] is None and row["lr"] > 0 for row in rows)
    assert [row["norm"] is None for row in rows] == [True] * 3 + [False] * 3
    assert [row["ratio"] for row in rows] == [None] * 6
    assert rows == record.rows()


def test_losses_are_what_a_step_takes(opened: Opened) -> None:
    """An error of the step writes no line; what the step takes gives a line."""
    record = opened()
    w = np.ones(2)
    optimizer = fs.SGD(w)
    taken: list[Any] = [0.5, 3, np.float32(0.25), np.float64(1.5), np.int64(2), np.longdouble(0.75), -1e308]
    taken += [np.float16(0.5), None, np.nan, np.inf, np.array(0.5), "x", True, 1j]
    done = []
    for loss in taken:
        t, before, count = optimizer.t, w.copy(), len(record.rows())
        try:
            record.step(optimizer, np.ones(2), loss=loss)
        except (ValueError, TypeError):
            assert (optimizer.t, len(record.rows()), w.tolist()) == (t, count, before.tolist()), loss
        else:
            done.append(loss)
            assert optimizer.t == t + 1
            assert record.rows()[-1]["loss"] == (
                None if loss is None or not math.isfinite(loss) else float(loss)
            )
    assert done[:2] == [0.5, 3]
    assert None in done


def test_an_error_of_a_step_writes_nothing_and_changes_nothing(opened: Opened, tmp_path: Path) -> None:
    record = opened()
    w = {"a": np.ones(2), "b": np.ones((2, 2))}
    optimizer = fs.Eve(w)
    ok = {"a": np.ones(2), "b": np.ones((2, 2))}
    record.step(optimizer, ok, loss=1.0)
    whole, weights = (tmp_path / "r.jsonl").read_bytes(), [a.tobytes() for a in w.values()]
    wrong: list[tuple[Any, dict[str, Any]]] = [
        ({"a": np.ones(3), "b": np.ones((2, 2))}, {"loss": 1.0}),
        ({"a": np.ones(2)}, {"loss": 1.0}),
        ({**ok, "c": np.ones(1)}, {"loss": 1.0}),
        ({**ok, "a": [1.0, 2.0]}, {"loss": 1.0}),
        ({**ok, "a": np.ones(2, np.int64)}, {"loss": 1.0}),
        ([np.ones(2), np.ones((2, 2))], {"loss": 1.0}),
        (None, {"loss": 1.0}),
        (ok, {}),
        (ok, {"loss": 1.0, "clip_norm": -1.0}),
        (ok, {"loss": 1.0, "no_such_option": 1}),
    ]
    for grads, options in wrong:
        with pytest.raises((ValueError, TypeError)):
            record.step(optimizer, grads, **options)
        assert (tmp_path / "r.jsonl").read_bytes() == whole
        assert [a.tobytes() for a in w.values()] == weights
        assert optimizer.t == 1
    record.step(optimizer, ok, loss=1.0)
    assert [row["t"] for row in record.rows()] == [1, 2]


def test_skipped_steps_are_told(opened: Opened, tmp_path: Path) -> None:
    record = opened()
    w = np.ones(2)
    optimizer = fs.SGD(w)
    for x in (1.0, np.nan, 2.0, np.inf):
        result = record.step(optimizer, np.array([0.0, x]), loss=0.5, skip_nonfinite=True)
        assert result.skipped == (not np.isfinite(x))
    rows = lines(tmp_path / "r.jsonl")
    assert [row["norm"] for row in rows] == [1.0, None, 2.0, None]
    assert [row["loss"] for row in rows] == [0.5] * 4
    assert [rows[i]["t"] for i in (0, 2)] == [1, 2]
    assert all(rows[i].get("ratio") in {None, 0} for i in (1, 3))
    assert optimizer.t == 2


@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
def test_every(every: int, opened: Opened, tmp_path: Path) -> None:
    record = opened(every=every)
    ours, theirs = some(1), some(1)
    one, two = fs.AdamW(ours), fs.AdamW(theirs)
    for t in range(1, 15):
        record.step(one, some(t), loss=float(t))
        two.step(some(t), loss=float(t))
    rows = lines(tmp_path / "r.jsonl")
    assert [row["t"] for row in rows] == [t for t in range(1, 15) if t % every == 0]
    assert all(
        row["loss"] == row["t"] and row["norm"] == close(norm(some(row["t"]).values())) for row in rows
    )
    assert [a.tobytes() for a in ours.values()] == [a.tobytes() for a in theirs.values()]


@pytest.mark.parametrize("every", [0, -1, 1.5, np.nan, np.inf, "1", None, [1]])
def test_a_wrong_every_is_an_error(every: Any, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match="every"):
        Record(tmp_path / "r.jsonl", every=every)
    assert not (tmp_path / "r.jsonl").exists()


def test_several_optimizers_in_one_record(opened: Opened) -> None:
    record = opened()
    first, second = fs.SGD(np.ones(2)), fs.Adam({"a": np.ones(3, np.float32)}, lr=0.5)
    record.step(first, np.array([3.0, 4.0]))
    record.step(second, {"a": np.zeros(3, np.float32)})
    record.step(first, np.array([3.0, 4.0]))
    assert [(row["t"], row["norm"]) for row in record.rows()] == [(1, 5.0), (1, 0.0), (2, 5.0)]


def test_lines_are_appended(opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = opened()
    first.step(fs.SGD(np.ones(2)), np.ones(2))
    kept = path.read_bytes()
    second = opened()
    assert path.read_bytes() == kept
    assert len(second.rows()) == 1
    second.write(t=2, note="two")
    assert path.read_bytes().startswith(kept)
    assert second.rows()[1:] == lines(path)[1:] == [{"t": 2, "note": "two"}]


WHOLE = b'{"t": 1, "loss": 0.5}\n{"t": 2, "loss": null}\n'


@pytest.mark.parametrize(
    "torn", [b"{", b'{"t": 3', b'{"t": 3, "loss": 0.5}', b"\0" * 100, b"x" * 100_000, b"\xc3"]
)
@pytest.mark.parametrize("whole", [b"", WHOLE, WHOLE * 3000])
def test_a_torn_last_line_is_cut(whole: bytes, torn: bytes, opened: Opened, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(whole + torn)
    record = opened()
    assert path.read_bytes() == whole + torn  # it may be here to be looked at
    assert len(record.rows()) == whole.count(b"\n")
    record.write(t=4)
    assert path.read_bytes().startswith(whole)
    assert lines(path)[-1] == {"t": 4}
    assert len(lines(path)) == whole.count(b"\n") + 1


def test_each_cut_of_a_record_can_be_gone_on_with(opened: Opened, tmp_path: Path) -> None:
    record = opened("whole")
    for t in range(3):
        record.write(t=t, text="é\n")
    whole = (tmp_path / "whole").read_bytes()
    for size in range(len(whole) + 1):
        path = tmp_path / f"{size}"
        path.write_bytes(whole[:size])
        opened(f"{size}").write(more=1)
        assert lines(path) == [*lines(tmp_path / "whole")[: whole[:size].count(b"\n")], {"more": 1}]


def test_write(opened: Opened, tmp_path: Path) -> None:
    record = opened()
    record.write(t=1, accuracy=0.9, of_numpy=np.float32(0.5), count=np.int64(3), yes=np.True_, none=None)
    record.write(text='é "\n\\\u2028 \0', nested={"a": [1, (2, {})]})
    record.write(bad=np.nan, worse=[1.0, np.inf, {"deep": -np.inf}], of_numpy=np.float32("nan"))
    record.write()
    rows = lines(tmp_path / "r.jsonl")
    assert rows == record.rows()
    assert rows == [
        {"t": 1, "accuracy": 0.9, "of_numpy": 0.5, "count": 3, "yes": True, "none": None},
        {"text": 'é "\n\\\u2028 \0', "nested": {"a": [1, [2, {}]]}},
        {"bad": None, "worse": [1.0, None, {"deep": None}], "of_numpy": None},
        {},
    ]


@pytest.mark.parametrize("bad", [object(), 1j, b"x", {1}, len, {(1, 2): 3}])
def test_what_is_no_json_is_an_error_and_writes_nothing(bad: Any, opened: Opened, tmp_path: Path) -> None:
    record = opened()
    record.write(t=1)
    for figures in ({"bad": bad}, {"t": 2, "deep": [1, {"a": bad}]}):
        with pytest.raises(TypeError):
            record.write(**figures)
    record.write(t=3)
    assert lines(tmp_path / "r.jsonl") == [{"t": 1}, {"t": 3}]


def test_lines_are_in_the_file_at_once(opened: Opened, tmp_path: Path) -> None:
    """Another program can follow it."""
    record = opened()
    optimizer = fs.SGD(np.ones(1))
    for t in range(1, 4):
        record.step(optimizer, np.ones(1))
        assert [row["t"] for row in lines(tmp_path / "r.jsonl")] == list(range(1, t + 1))


def test_rows_are_copies(opened: Opened) -> None:
    record = opened()
    record.write(a=[1])
    record.rows()[0]["a"].append(2)
    record.rows().clear()
    assert record.rows() == [{"a": [1]}]


def test_it_is_cut_back_to_a_state(opened: Opened, tmp_path: Path) -> None:
    record = opened()
    states = [record.state_dict()]
    for t in range(4):
        record.write(t=t, text="é")
        states.append(record.state_dict())
    for count in (4, 2, 2, 1, 0):
        record.load_state_dict(states[count])
        assert [row["t"] for row in record.rows()] == list(range(count))
        assert len(lines(tmp_path / "r.jsonl")) == 4  # until it is known that this stays so
    record.write(t=9)
    assert record.rows() == lines(tmp_path / "r.jsonl") == [{"t": 9}]
    with pytest.raises(ValueError, match=r"r\.jsonl"):
        record.load_state_dict(states[4])
    assert lines(tmp_path / "r.jsonl") == [{"t": 9}]


@pytest.mark.parametrize(
    "state",
    [{}, {"length": -1}, {"length": 10**9}, {"length": "1"}, {"length": None}, {"length": 2.5}, 3, None],
)
def test_a_wrong_state_is_an_error_and_changes_nothing(state: Any, opened: Opened, tmp_path: Path) -> None:
    record = opened()
    record.write(t=1)
    record.write(t=2)
    with pytest.raises((ValueError, TypeError)):
        record.load_state_dict(state)
    assert lines(tmp_path / "r.jsonl") == [{"t": 1}, {"t": 2}]


def test_a_checkpoint_cuts_it_back(opened: Opened, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    path = tmp_path / "r.jsonl"

    def made() -> tuple[Record, fs.Optimizer, Checkpoint]:
        record, optimizer = opened(every=2), fs.AdamW(some(1))
        return record, optimizer, Checkpoint(tmp_path / "c", record=record, optimizer=optimizer)

    def steps(record: Record, optimizer: fs.Optimizer, which: range) -> None:
        for t in which:
            record.step(optimizer, some(t), loss=1.0 / t)

    first, one, checkpoint = made()
    steps(first, one, range(1, 6))
    first.write(epoch=1)
    checkpoint.save()
    steps(first, one, range(6, 20))
    expected = lines(path)
    with path.open("ab") as file:
        file.write(b'{"t": 20, "lo')
    second, two, checkpoint = made()
    assert second.rows() == expected
    checkpoint.load()
    assert second.rows() == expected[:3]
    steps(second, two, range(6, 20))
    assert lines(path) == expected

    path.write_bytes(path.read_bytes()[:20])
    third, three, checkpoint = made()
    now = path.read_bytes()
    with pytest.raises(ValueError, match=r"r\.jsonl"):
        checkpoint.load()
    assert (three.t, path.read_bytes(), third.rows()) == (0, now, [])


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no"):
        Record(tmp_path / "no" / "r.jsonl")


ROWS: list[list[dict[str, Any]]] = [
    [],
    [{}],
    [{"t": 1, "loss": None, "norm": None, "lr": 0.1, "ratio": None}],
    [{"t": 1, "loss": 1.0, "norm": 2.0, "lr": 0.1, "ratio": 1e-3}],
    [
        {"t": t, "loss": 1 / t, "norm": None if t % 3 else 1.0, "lr": [0.1, 0.2], "ratio": 0.0}
        for t in range(1, 30)
    ],
    [{"t": 1, "lr": 0.1, "loss": 1.0}, {"t": 2, "lr": [0.1, 0.2], "norm": 1.0}, {"t": 2, "accuracy": 0.5}],
    [
        {"t": 1, "loss": -1.0, "norm": 0.0, "lr": 0.0, "ratio": 0.0},
        {"t": 2, "loss": 0.0, "norm": 1e300, "lr": 0.0},
    ],
    [{"accuracy": 0.5}, {"epoch": 1, "text": "words", "nested": {"t": [1]}}],
]


@pytest.mark.parametrize("rows", ROWS, ids=range(len(ROWS)))
def test_plot(rows: list[dict[str, Any]], opened: Opened, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    figures, backend = plt.get_fignums(), matplotlib.get_backend()
    record = opened()
    for row in rows:
        record.write(**row)
    figure = record.plot()
    assert isinstance(figure, matplotlib.figure.Figure)
    figure.savefig(tmp_path / "plot.png", dpi=30)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == figures
    assert matplotlib.get_backend() == backend
    assert record.rows() == rows


def test_the_plot_has_the_figures(opened: Opened) -> None:
    pytest.importorskip("matplotlib")
    record = opened()
    optimizer = fs.SGD(np.full(3, 2.0), lr=lambda t: 0.1 / t)
    for t in range(1, 6):
        record.step(optimizer, np.full(3, 0.5 * t), loss=1.0 / t)
    rows = record.rows()
    drawn = [
        (np.asarray(line.get_xdata(), float).tolist(), np.asarray(line.get_ydata(), float).tolist())
        for axes in record.plot().axes
        for line in axes.get_lines()
    ]
    for name in ("loss", "norm", "lr", "ratio"):
        assert ([1, 2, 3, 4, 5], [row[name] for row in rows]) in drawn, name


def test_a_run_whose_groups_differ_at_some_steps_can_be_plotted(opened: Opened, tmp_path: Path) -> None:
    """Its lr is a list in some lines, and a number in others."""
    pytest.importorskip("matplotlib")
    record = opened()
    w = [np.ones(2), np.ones(2)]
    optimizer = fs.SGD([{"params": w[:1], "lr": lambda t: 1 / t}, {"params": w[1:], "lr": 0.5}])
    for _ in range(4):
        record.step(optimizer, [np.ones(2), np.ones(2)])
    assert [isinstance(row["lr"], list) for row in record.rows()] == [True, False, True, True]
    figure = record.plot()
    figure.savefig(tmp_path / "plot.png", dpi=30)
    drawn = [
        np.asarray(line.get_ydata(), float).tolist() for axes in figure.axes for line in axes.get_lines()
    ]
    for rates in ([1, 1 / 2, 1 / 3, 1 / 4], [0.5] * 4):
        assert rates in drawn


def test_what_a_plain_step_takes(opened: Opened) -> None:
    """A loss that is NaN on a step that is skipped; gradients that can be asked for once."""
    w, record = np.ones(2), opened()
    optimizer = fs.SGD([w], lr=0.5)
    assert record.step(optimizer, [np.array([1, math.nan])], loss=math.nan, skip_nonfinite=True).skipped
    record.step(optimizer, iter([np.array([3.0, 4.0])]), loss=0.0)
    first, second = record.rows()
    assert first == {"t": 0, "loss": None, "norm": None, "lr": 0.5, "skipped": True}
    assert (second["t"], second["norm"]) == (1, 5.0)
    assert w.tolist() == [-0.5, -1.0]
    record.write(array=np.array([0.5, math.inf]), number=np.array(2))
    assert record.rows()[-1] == {"array": [0.5, None], "number": 2}


def test_a_file_that_has_gone_or_shrunk(opened: Opened, tmp_path: Path) -> None:
    record = opened()
    for t in range(3):
        record.write(t=t)
    (tmp_path / "r.jsonl").unlink()
    record.write(t=3)
    assert record.rows() == lines(tmp_path / "r.jsonl") == [{"t": 3}]
    (tmp_path / "r.jsonl").write_bytes(b"")
    record.write(t=4)
    assert record.rows() == lines(tmp_path / "r.jsonl") == [{"t": 4}]

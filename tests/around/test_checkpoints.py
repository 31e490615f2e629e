"""Checkpoints: a run that goes on from one has the same bits as one that never stopped, killed or not."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep.control import Checkpoint
from tests.helpers import killed_run
from tests.helpers.holder import Holder

st = pytest.importorskip("safetensors.numpy")

Array = np.ndarray[Any, Any]
Made = tuple[fs.Optimizer, dict[Any, Array]]
Make = Callable[[int], Made]

BIT_GENERATORS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]
SHAPES: dict[Any, tuple[int, ...]] = {"w": (5, 4), "b": (7,), ("cell", 1): (), 2: (3, 2), "none": (0, 3)}


def arrays(
    seed: int, dtype: Any = np.float32, shapes: Mapping[Any, tuple[int, ...]] = SHAPES
) -> dict[Any, Array]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


def maker(rule: str, dtype: Any = np.float32, **options: Any) -> Make:
    """What makes an optimizer with weights that depend on a seed."""

    def make(seed: int) -> Made:
        w = arrays(seed, dtype)
        return fs.rules[rule](w, **options), w

    return make


def do(optimizer: fs.Optimizer, w: Mapping[Any, Array], steps: range) -> None:
    """Steps with gradients and losses that depend on the step alone."""
    for t in steps:
        rng = np.random.default_rng([7, t])
        grads = {name: np.asarray(rng.standard_normal(p.shape)).astype(p.dtype) for name, p in w.items()}
        optimizer.step(grads, loss=1.0 + 1.0 / t)


def bits(optimizer: fs.Optimizer, w: Mapping[Any, Array]) -> dict[Any, Any]:
    """Weights and state, as bytes, and the number of steps."""
    found: dict[Any, Any] = {("weight", name): (a.shape, a.dtype, a.tobytes()) for name, a in w.items()}
    for name in w:
        for slot, a in optimizer.state[name].items():
            found[slot, name] = (a.shape, a.dtype, a.tobytes())
    return found | {"t": optimizer.t}


def plain(state: Any) -> Any:
    """A state in which arrays are their bytes, so that == compares bits."""
    if isinstance(state, np.ndarray):
        return state.shape, state.dtype.str, state.tobytes()
    if isinstance(state, Mapping):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [plain(value) for value in state]
    return state


def assert_resumes(make: Make, path: Path, before: int = 3, after: int = 4) -> None:
    """That steps, a checkpoint loaded by another optimizer, and steps, are as steps without that."""
    whole, whole_w = make(1)
    do(whole, whole_w, range(1, before + after + 1))

    first, first_w = make(1)
    do(first, first_w, range(1, before + 1))
    Checkpoint(path, optimizer=first).save(before=before)

    second, second_w = make(2)  # from other weights, so that nothing is right by itself
    assert Checkpoint(path, optimizer=second).load() == {"before": before}
    assert bits(second, second_w) == bits(first, first_w)
    do(second, second_w, range(before + 1, before + after + 1))
    assert bits(second, second_w) == bits(whole, whole_w)

    do(first, first_w, range(before + 1, before + after + 1))  # saving left the first one as it was
    assert bits(first, first_w) == bits(whole, whole_w)


@pytest.mark.parametrize("ema", [0.0, 0.9], ids=["", "ema"])
@pytest.mark.parametrize("rule", fs.rules)
def test_every_rule_resumes_with_the_same_bits(rule: str, ema: float, tmp_path: Path) -> None:
    assert_resumes(maker(rule, ema=ema), tmp_path / "c")


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        ("Prodigy", "float64"),
        *itertools.product(
            ["SGD", "AdamW", "Lion", "ScheduleFreeAdamW", "Muon", "Adafactor"],
            ["float64", "float16", "bfloat16"],
        ),
    ],
)
def test_other_dtypes_resume(rule: str, dtype: str, tmp_path: Path) -> None:
    of: Any = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    assert_resumes(maker(rule, of, ema=0.5), tmp_path / "c")


@pytest.mark.parametrize("state_dtype", ["float16", "bfloat16"])
def test_state_of_16_bits_resumes(state_dtype: str, tmp_path: Path) -> None:
    pytest.importorskip("ml_dtypes")
    assert_resumes(maker("AdamW", state_dtype=state_dtype, amsgrad=True, ema=0.9), tmp_path / "c")


def test_a_checkpoint_of_one_backend_goes_on_in_the_other(tmp_path: Path) -> None:
    native = maker("NAdam")
    other = maker("NAdam", backend="numpy")
    assert_resumes(lambda seed: (native if seed == 1 else other)(seed), tmp_path / "c")


def test_schedules_resume(tmp_path: Path) -> None:
    def make(seed: int) -> Made:
        return maker(
            "AdamW",
            lr=fs.schedules.Warmup(fs.schedules.Cosine(0.1, 8), 2),
            beta1=lambda t: 0.5 + 0.4 / t,
            weight_decay=lambda t: 0.1 * t,
            ema=lambda t: 1 - 1 / (t + 1),
        )(seed)

    assert_resumes(make, tmp_path / "c")


def test_hyperparameters_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    first, w = maker("AdamW", lr=0.25, weight_decay=0.125)(1)
    first.groups[0]["lr"] = 0.5
    checkpoint = Checkpoint(tmp_path / "c", optimizer=first)
    checkpoint.save()
    second, w2 = maker("AdamW", lr=lambda t: 1.0 / t)(2)
    Checkpoint(tmp_path / "c", optimizer=second).load()
    assert (second.groups[0]["lr"], second.groups[0]["weight_decay"]) == (0.5, 0.125)
    do(first, w, range(1, 4))
    do(second, w2, range(1, 4))
    assert bits(first, w) == bits(second, w2)


def test_feedback_schedules_are_told_again_what_they_were_told(tmp_path: Path) -> None:
    figures = [3.0, 2.0, 2.0, 2.5, 1.0, 1.5, 1.5, 1.5, 1.5]

    def make(seed: int) -> tuple[fs.schedules.Plateau, fs.Optimizer, dict[Any, Array]]:
        plateau = fs.schedules.Plateau(0.1, factor=0.5, patience=1, cooldown=1)
        return plateau, *maker("AdamW", lr=fs.schedules.Warmup(plateau, 3))(seed)

    def epochs(
        plateau: fs.schedules.Plateau, optimizer: fs.Optimizer, w: dict[Any, Array], which: range
    ) -> None:
        for i in which:
            do(optimizer, w, range(i + 1, i + 2))
            plateau.observe(figures[i])

    whole = make(1)
    epochs(*whole, range(len(figures)))
    assert 0 < whole[0](1) < 0.1  # it did become lower
    for cut in range(1, len(figures)):
        first, second = make(1), make(2)
        epochs(*first, range(cut))
        Checkpoint(tmp_path / "c", o=first[1]).save()
        Checkpoint(tmp_path / "c", o=second[1]).load()
        epochs(*second, range(cut, len(figures)))
        assert second[0].state_dict() == whole[0].state_dict()
        assert bits(*second[1:]) == bits(*whole[1:])


def test_groups_resume(tmp_path: Path) -> None:
    def make(seed: int) -> Made:
        w = arrays(seed)
        names = list(w)
        groups = [
            {"params": {name: w[name] for name in names[:2]}, "lr": 0.1, "ema": 0.9},
            {"params": {name: w[name] for name in names[2:]}, "weight_decay": 0.0, "amsgrad": True},
        ]
        return fs.AdamW(groups, lr=lambda t: 0.01 / t), w

    assert_resumes(make, tmp_path / "c")


def test_lists_resume(tmp_path: Path) -> None:
    def make(seed: int) -> tuple[fs.Optimizer, dict[Any, Array]]:
        w = dict(enumerate(arrays(seed).values()))
        return fs.RAdam([{"params": [w[0], w[1]]}, {"params": [w[2], w[3], w[4]], "lr": 0.5}]), w

    def step(optimizer: fs.Optimizer, t: int) -> None:
        optimizer.step(list(arrays(50 + t).values()), loss=1.0)

    whole, first, second = make(1), make(1), make(2)
    for t in range(1, 10):
        step(whole[0], t)
    for t in range(1, 5):
        step(first[0], t)
    Checkpoint(tmp_path / "c", o=first[0]).save()
    Checkpoint(tmp_path / "c", o=second[0]).load()
    for t in range(5, 10):
        step(second[0], t)
    assert bits(*second) == bits(*whole)


def test_a_single_array_resumes(tmp_path: Path) -> None:
    def run(w: Array, optimizer: fs.Optimizer, steps: range) -> None:
        for t in steps:
            optimizer.step(np.cos(w * t))

    whole, first, second = (np.full(5, start, np.float32) for start in (1.0, 1.0, 2.0))
    run(whole, fs.Adam(whole), range(9))
    optimizer = fs.Adam(first)
    run(first, optimizer, range(4))
    Checkpoint(tmp_path / "c", o=optimizer).save()
    other = fs.Adam(second)
    Checkpoint(tmp_path / "c", o=other).load()
    run(second, other, range(4, 9))
    assert second.tobytes() == whole.tobytes()


def test_parameters_that_are_not_contiguous_resume(tmp_path: Path) -> None:
    kept: list[tuple[Array, Array]] = []

    def make(seed: int) -> Made:
        base = np.full((8, 10), 5.0, np.float32)
        w: dict[Any, Array] = {
            "t": base[:4, :6].T,
            "s": base[5, ::-2],
            "x": base[6:, 1::3],
            "y": base[6:, 2::3],
        }
        for name, a in arrays(seed, shapes={name: a.shape for name, a in w.items()}).items():
            w[name][...] = a
        untouched = np.ones(base.shape, bool)
        untouched[:4, :6] = untouched[5, ::-2] = untouched[6:, 1::3] = untouched[6:, 2::3] = False
        kept.append((base, untouched))
        return fs.AdamW(w, ema=0.9), w

    assert_resumes(make, tmp_path / "c")
    for base, untouched in kept:
        assert np.all(base[untouched] == 5)


@pytest.mark.parametrize("rule", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
@pytest.mark.parametrize("modes", list(itertools.product([False, True], repeat=2)))
def test_schedule_free_resumes_from_either_mode(rule: str, modes: tuple[bool, bool], tmp_path: Path) -> None:
    saved_in_eval, loaded_in_eval = modes
    whole, whole_w = maker(rule)(1)
    do(whole, whole_w, range(1, 4))
    if saved_in_eval:
        whole.eval()  # type: ignore[attr-defined]
    at_save = bits(whole, whole_w)

    first, first_w = maker(rule)(1)
    do(first, first_w, range(1, 4))
    if saved_in_eval:
        first.eval()  # type: ignore[attr-defined]
    Checkpoint(tmp_path / "c", o=first).save()
    second, second_w = maker(rule)(2)
    do(second, second_w, range(1, 3))
    if loaded_in_eval:
        second.eval()  # type: ignore[attr-defined]
    Checkpoint(tmp_path / "c", o=second).load()
    assert bits(second, second_w) == at_save
    for each in (whole, second):
        each.train()  # type: ignore[attr-defined]
    do(whole, whole_w, range(4, 8))
    do(second, second_w, range(4, 8))
    assert bits(second, second_w) == bits(whole, whole_w)


def drawn(rng: np.random.Generator) -> list[Any]:
    """What also depends on a generator's half-used words."""
    return [
        rng.random(3).tolist(),
        rng.integers(0, 1000, 3, dtype=np.uint32).tolist(),
        rng.standard_normal(3, dtype=np.float32).tolist(),
        rng.permutation(9).tolist(),
    ]


@pytest.mark.parametrize("name", BIT_GENERATORS)
def test_generators_go_on(name: str, tmp_path: Path) -> None:
    first, second = (np.random.Generator(getattr(np.random, name)(seed)) for seed in (1, 2))
    drawn(first)
    Checkpoint(tmp_path / "c", rng=first).save()
    expected = [drawn(first) for _ in range(300)]  # beyond a block of each
    Checkpoint(tmp_path / "c", rng=second).load()
    assert [drawn(second) for _ in range(300)] == expected


@pytest.mark.parametrize(
    "name", ["float32", "float64", "float16", "bfloat16", "bool", "int8", "uint8", "int16", "int64", "uint64"]
)
@pytest.mark.parametrize("shape", [(), (0, 2), (5,), (3, 4)])
def test_arrays_are_restored_in_place(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    dtype: Any = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)
    size = dtype.itemsize * int(np.prod(shape))
    raw = np.random.default_rng(3).integers(
        0, 2 if name == "bool" else 256, size, np.uint8
    )  # NaN payloads too
    array = raw.view(dtype).reshape(shape).copy()
    expected = array.tobytes()
    checkpoint = Checkpoint(tmp_path / "c", counts=array)
    checkpoint.save()
    array[...] = 0
    alias = array
    assert checkpoint.load() == {}
    assert array is alias
    assert (array.tobytes(), array.shape, array.dtype) == (expected, shape, dtype)
    (stored,) = st.load_file(tmp_path / "c").values()
    assert (stored.tobytes(), stored.shape) == (expected, shape)


def test_arrays_that_are_views_are_restored_in_place(tmp_path: Path) -> None:
    base = np.arange(24.0).reshape(4, 6)
    parts = {"turned": base[:2, :3].T, "reversed": base[2, ::-1], "spread": base[3, ::2]}
    expected = base.copy()
    checkpoint = Checkpoint(tmp_path / "c", **parts)
    checkpoint.save()
    for a in parts.values():
        a[...] = -1
    checkpoint.load()
    assert np.array_equal(base, expected)


@pytest.mark.parametrize("dtype", [">f4", ">i8"])
def test_arrays_of_the_other_byte_order_are_restored_or_refused_at_once(dtype: str, tmp_path: Path) -> None:
    array = np.arange(4, dtype=dtype)
    try:
        checkpoint = Checkpoint(tmp_path / "c", a=array)
        checkpoint.save()
    except TypeError:
        assert not (tmp_path / "c").exists()
        return
    array[...] = 0
    checkpoint.load()
    assert array.tolist() == [0, 1, 2, 3]


def test_everything_with_a_state_is_restored(tmp_path: Path) -> None:
    def make(seed: int) -> dict[str, Any]:
        w = arrays(seed)
        return {
            "w": w,
            "ema": fs.averaging.EMA(w, decay=lambda t: 1 - 1 / (t + 1)),
            "narrow": fs.averaging.EMA(w, dtype=np.float16),
            "mean": fs.averaging.Mean(w),
            "best": fs.averaging.CheckpointMean(w, mode="max"),
            "stopping": fs.control.EarlyStopping(w, patience=3),
            "plateau": fs.schedules.Plateau(1.0, patience=0),
        }

    figures = [1.0, 3.0, 2.0, 0.5, 4.0, 0.7, 5.0, 0.6]

    def epochs(run: dict[str, Any], which: range) -> list[Any]:
        told = []
        for i in which:
            for name, a in arrays(100 + i).items():
                run["w"][name][...] = a
            for name in ("ema", "narrow", "mean"):
                run[name].update()
            told += [run[name].observe(figures[i]) for name in ("best", "stopping", "plateau")]
        return told

    def state(run: dict[str, Any]) -> Any:
        return plain({name: part.state_dict() for name, part in run.items() if name != "w"})

    whole = make(1)
    said = epochs(whole, range(8))
    for cut in range(8):
        first, second = make(1), make(2)
        before = epochs(first, range(cut))
        for run, method in ((first, "save"), (second, "load")):
            parts = {name: part for name, part in run.items() if name != "w"}
            getattr(Checkpoint(tmp_path / "c", **parts), method)()
        assert before + epochs(second, range(cut, 8)) == said
        assert state(second) == state(whole)


class Own:
    """A part of a user's own."""

    def __init__(self) -> None:
        self.x = np.zeros(3)
        self.fail: type[BaseException] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.x[...] = state["x"]
        if self.fail:
            fail, self.fail = self.fail, None
            raise fail("that part")


STATES: list[Any] = [
    {},
    {"n": 1, "x": 0.1, "s": "text\n\0é", "none": None, "yes": True},
    {"nested": [{"a": [1, 2]}, [], {}], "tuple": (1, (2, "3"))},
    {1: "int", "1": "text", (1, "1"): "tuple", None: 0},
    {"$array": "x", "$tuple": [1], "$pairs": [[1, 2]]},
    {"big": 2**200, "small": -(2**63), "tiny": 5e-324, "large": 1.7e308},
    {"arrays": [np.arange(3.0), {"deep": np.ones((2, 0), np.int8)}, (np.array(7),)]},
    {1: np.zeros(2), "1": np.ones(2), "a/b": np.full(1, 2.0), "a": {"b": np.full(1, 3.0)}},
    {"view": np.arange(12.0).reshape(3, 4).T, "back": np.arange(5)[::-2]},
]


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_the_state_of_a_users_own_class_comes_back(state: Any, tmp_path: Path) -> None:
    Checkpoint(tmp_path / "c", own=Holder(state)).save()
    own = Holder({})
    Checkpoint(tmp_path / "c", own=own).load()
    assert plain(own.state) == plain(state)

    def types(value: Any) -> Any:
        if isinstance(value, dict):
            return [(type(key), types(each)) for key, each in value.items()]
        if isinstance(value, list | tuple):
            return type(value), [types(each) for each in value]
        return type(value)

    assert types(own.state) == types(state)


@pytest.mark.parametrize("state", [s for s in STATES if "array" not in str(s)])
def test_progress_comes_back(state: Any, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c")
    assert checkpoint.load() is None
    checkpoint.save(given=state, epoch=3)
    assert checkpoint.load() == {"given": state, "epoch": 3}


def test_progress_that_is_not_finite_comes_back(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c")
    checkpoint.save(best=np.inf, worst=-np.inf, zero=-0.0, last=float("nan"), of_numpy=np.float32(0.5))
    progress = checkpoint.load()
    assert progress is not None
    assert [repr(x) for x in progress.values()] == ["inf", "-inf", "-0.0", "nan", "0.5"]


def test_arrays_that_a_part_is_given_are_its_own(tmp_path: Path) -> None:
    """Writable, and not of the file or of another load."""
    own = Holder({"x": np.zeros(3)})
    checkpoint = Checkpoint(tmp_path / "c", own=own)
    checkpoint.save()
    checkpoint.load()
    first = own.state["x"]
    first += 1
    checkpoint.load()
    assert np.all(own.state["x"] == 0)
    own.state["x"] += 5
    checkpoint.save()
    assert np.all(first == 1)
    (stored,) = st.load_file(tmp_path / "c").values()
    assert np.all(stored == 5)


def test_other_programs_read_the_weights(tmp_path: Path) -> None:
    w = {"layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3), ("b", 1): np.array(2.0, np.float32)}
    optimizer = fs.AdamW(w, ema=0.5)
    optimizer.step({name: np.ones_like(a) for name, a in w.items()})
    Checkpoint(tmp_path / "c", model=optimizer, counts=np.arange(3)).save(epoch=1)
    stored = st.load_file(tmp_path / "c")
    expected = (
        list(w.values()) + [optimizer.state[n][s] for n in w for s in ("m", "v", "ema")] + [np.arange(3)]
    )
    assert sorted(plain(list(stored.values()))) == sorted(plain(expected))
    (weight,) = [a for name, a in stored.items() if "weight" in name and name.endswith("layer.weight")]
    assert plain(weight) == plain(w["layer.weight"])
    assert all(name.startswith(("model", "counts")) for name in stored)
    with pytest.importorskip("safetensors").safe_open(tmp_path / "c", "np") as file:
        assert isinstance(json.loads(file.metadata()["state"]), dict)


def test_names_that_print_alike_stay_apart(tmp_path: Path) -> None:
    names: list[Any] = [
        1,
        "1",
        (1,),
        "(1,)",
        "a/m",
        "a",
        "a/m/m",
        "",
        "$array",
        "é\n",
        ("x", ("y", 2)),
        "a#2",
    ]
    w = {name: np.full(2, i, np.float32) for i, name in enumerate(names)}
    parts: dict[str, Any] = {"o": fs.AdamW(w), "o/weights": np.full(2, -1.0)}
    checkpoint = Checkpoint(tmp_path / "c", **parts)
    checkpoint.save()
    for a in w.values():
        a[...] = 99
    checkpoint.load()
    assert [a.tolist() for a in w.values()] == [[i, i] for i in range(len(names))]


class Run:
    """Parts of every kind, with a file of an earlier state; to see what errors leave of them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "c"
        self.w = arrays(1)
        self.plateau = fs.schedules.Plateau(0.1, patience=0)
        self.optimizer = fs.AdamW(self.w, lr=self.plateau, ema=0.9)
        self.free_w = arrays(2)
        self.rng = np.random.default_rng(0)
        self.record = fs.control.Record(folder / "record.jsonl")
        self.own = Own()
        self.parts: dict[str, Any] = {
            "optimizer": self.optimizer,
            "free": fs.ScheduleFreeAdamW(self.free_w),
            "rng": self.rng,
            "array": np.zeros(3),
            "stopping": fs.control.EarlyStopping(self.w),
            "mean": fs.averaging.Mean(self.w),
            "plateau": fs.schedules.Plateau(1.0, patience=0),
            "record": self.record,
        }
        self.advance()
        self.saved = self.path
        Checkpoint(self.path, **self.parts, own=self.own).save(step=1)
        self.whole = self.path.read_bytes()
        self.advance()
        self.advance()
        self.now = self.state()
        self.files = sorted(each.name for each in folder.iterdir())
        self.folder = folder

    def advance(self) -> None:
        grads = {name: np.ones_like(a) for name, a in self.w.items()}
        self.record.step(self.optimizer, grads, loss=1.0)
        self.parts["free"].step({name: np.ones_like(a) for name, a in self.free_w.items()})
        self.rng.random(3)
        self.parts["array"] += 1
        self.own.x += 1
        for name in ("stopping", "plateau"):
            self.parts[name].observe(1.0)
        self.plateau.observe(1.0)
        self.parts["mean"].update()

    def state(self) -> Any:
        states = {n: p.state_dict() for n, p in self.parts.items() if hasattr(p, "state_dict")}
        others = [self.rng.bit_generator.state, self.parts["array"], self.own.x, self.plateau.state_dict()]
        return plain([self.w, self.free_w, states, *others, self.record.rows()])

    def assert_unchanged(self, written: bytes | None = None) -> None:
        assert self.state() == self.now
        assert self.path.read_bytes() == (self.whole if written is None else written)
        assert sorted(each.name for each in self.folder.iterdir()) == self.files


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    getattr(made.record, "close", lambda: None)()


def test_all_parts_go_back_to_the_checkpoint(run: Run) -> None:
    """That the parts of these tests do change, or that errors change nothing would say nothing."""
    assert Checkpoint(run.path, **run.parts, own=run.own).load() == {"step": 1}
    now = run.state()
    assert [a == b for a, b in zip(now, run.now, strict=True)] == [False] * len(now)
    assert run.optimizer.t == 1
    assert run.own.x.tolist() == [1, 1, 1]
    assert len(run.record.rows()) == 1


def other(**changed: tuple[int, ...]) -> dict[Any, Array]:
    return arrays(5, shapes={**SHAPES, **changed})


MISFITS: dict[str, Callable[[], dict[str, Any]]] = {
    "rule": lambda: {"optimizer": fs.Adam(arrays(5), ema=0.9)},
    "shape": lambda: {"optimizer": fs.AdamW(other(b=(8,)), ema=0.9)},
    "shape of the same size": lambda: {"optimizer": fs.AdamW(other(b=(7, 1)), ema=0.9)},
    "shape that broadcasts": lambda: {"optimizer": fs.AdamW(other(b=(2, 7)), ema=0.9)},
    "dtype": lambda: {"optimizer": fs.AdamW(arrays(5, np.float64), ema=0.9)},
    "16 bits": lambda: {"optimizer": fs.AdamW(arrays(5, np.float16), ema=0.9)},
    "state dtype": lambda: {"optimizer": fs.AdamW(arrays(5), ema=0.9, state_dtype="float16")},
    "fewer names": lambda: {"optimizer": fs.AdamW({"w": arrays(5)["w"]}, ema=0.9)},
    "more names": lambda: {"optimizer": fs.AdamW(other(more=(1,)), ema=0.9)},
    "list": lambda: {"optimizer": fs.AdamW(list(arrays(5).values()), ema=0.9)},
    "groups": lambda: {
        "optimizer": fs.AdamW([{"params": arrays(5)}, {"params": {"z": np.ones(1)}}], ema=0.9)
    },
    "no ema": lambda: {"optimizer": fs.AdamW(arrays(5))},
    "amsgrad": lambda: {"optimizer": fs.AdamW(arrays(5), ema=0.9, amsgrad=True)},
    "no optimizer": lambda: {"optimizer": np.zeros(3)},
    "array's shape": lambda: {"array": np.zeros(4)},
    "array's shape that broadcasts": lambda: {"array": np.zeros((2, 3))},
    "array's dtype": lambda: {"array": np.zeros(3, np.float32)},
    "array's sign": lambda: {"array": np.zeros(3, np.int64)},
    "no array": lambda: {"array": np.random.default_rng(1)},
    "bit generator": lambda: {"rng": np.random.Generator(np.random.MT19937(1))},
    "bit generator alike": lambda: {"rng": np.random.Generator(np.random.PCG64DXSM(1))},
    "average's names": lambda: {"mean": fs.averaging.Mean(other(more=(1,)))},
    "average's dtype": lambda: {"mean": fs.averaging.Mean(arrays(5), dtype=np.float16)},
    "other average": lambda: {"mean": fs.averaging.CheckpointMean(arrays(5))},
    "stopping's shape": lambda: {"stopping": fs.control.EarlyStopping(other(b=(8,)))},
    "other schedule": lambda: {"plateau": fs.averaging.Mean(arrays(5))},
    "additional part": lambda: {"more": np.zeros(3)},
}


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
@pytest.mark.parametrize("misfit", [*MISFITS, "missing part", "part by another name"])
def test_what_does_not_fit_is_an_error_and_changes_nothing(misfit: str, first: bool, run: Run) -> None:
    parts = {**run.parts, "own": run.own}
    if misfit in MISFITS:
        changed = MISFITS[misfit]()
        rest = {name: part for name, part in parts.items() if name not in changed}
        parts = {**changed, **rest} if first else {**rest, **changed}
        if misfit in {"additional part", "array's sign"}:
            assert changed
    else:
        array = parts.pop("array")
        if misfit != "missing part":
            parts["renamed"] = array
    states = [plain(p.state_dict()) if hasattr(p, "state_dict") else repr(p) for p in parts.values()]
    with pytest.raises((ValueError, TypeError), match=r"."):
        Checkpoint(run.path, **parts).load()
    after = [plain(p.state_dict()) if hasattr(p, "state_dict") else repr(p) for p in parts.values()]
    assert after == states
    run.assert_unchanged()


@pytest.mark.parametrize("fail", [ValueError, TypeError, KeyError, RuntimeError, KeyboardInterrupt])
def test_a_part_that_fails_to_load_leaves_those_before_it(fail: type[BaseException], run: Run) -> None:
    """Also itself, as far as giving it back its own state can do."""
    run.own.fail = fail
    with pytest.raises(fail, match="that part"):
        Checkpoint(run.path, **run.parts, own=run.own).load()
    run.assert_unchanged()


def refuse(_: Any) -> None:
    raise ValueError("that part")


def test_a_failure_without_a_record_leaves_the_parts_before_it(run: Run) -> None:
    parts = {name: part for name, part in run.parts.items() if name != "record"}
    failing = Holder({"n": 1})
    path = run.folder / "without"
    Checkpoint(path, **parts, own=run.own, failing=failing).save()
    failing.load_state_dict = refuse  # type: ignore[assignment,method-assign]
    run.advance()
    now = run.state()
    with pytest.raises(ValueError, match="that part"):
        Checkpoint(path, **parts, own=run.own, failing=failing).load()
    assert run.state() == now


def test_a_failure_leaves_a_part_that_gives_its_very_arrays(tmp_path: Path) -> None:
    """As many classes do; what they were must be copied to give it back."""

    class Live(Own):
        def state_dict(self) -> dict[str, Any]:
            return {"x": self.x}

    live, failing = Live(), Holder({"n": 1})
    checkpoint = Checkpoint(tmp_path / "c", live=live, failing=failing)
    checkpoint.save()
    failing.load_state_dict = refuse  # type: ignore[assignment,method-assign]
    live.x += 4
    with pytest.raises(ValueError, match="that part"):
        checkpoint.load()
    assert live.x.tolist() == [4, 4, 4]


def test_a_record_that_is_shorter_than_the_checkpoint_says_is_an_error(run: Run) -> None:
    with (run.folder / "record.jsonl").open("r+b") as file:
        file.truncate(10)
    states = plain([run.w, run.optimizer.state_dict(), run.rng.bit_generator.state])
    with pytest.raises(ValueError, match=r"record\.jsonl"):
        Checkpoint(run.path, **run.parts, own=run.own).load()
    assert plain([run.w, run.optimizer.state_dict(), run.rng.bit_generator.state]) == states
    assert (run.folder / "record.jsonl").stat().st_size == 10


def damaged(whole: bytes, how: str) -> bytes:
    if how.startswith("cut at"):
        return whole[: int(len(whole) * float(how.removeprefix("cut at ")))]
    header = int.from_bytes(whole[:8], "little")
    return {
        "8 bytes": whole[:8],
        "only the header": whole[: 8 + header],
        "one byte missing": whole[:-1],
        "one byte more": whole + b"\0",
        "zeros": bytes(len(whole)),
        "text": b"no checkpoint at all\n" * 20,
        "header too large": b"\xff" * 8 + whole[8:],
    }[how]


DAMAGES = [
    *(f"cut at {share}" for share in (0, 0.001, 0.1, 0.5, 0.9)),
    *("8 bytes", "only the header", "one byte missing", "one byte more", "zeros", "text", "header too large"),
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_is_an_error_and_changes_nothing(how: str, run: Run) -> None:
    written = damaged(run.whole, how)
    run.path.write_bytes(written)
    with pytest.raises((ValueError, TypeError), match=r"."):
        Checkpoint(run.path, **run.parts, own=run.own).load()
    run.assert_unchanged(written)


def foreign(path: Path, how: str) -> None:
    """Another program's file, or one of this package from which something is gone."""
    with pytest.importorskip("safetensors").safe_open(path, "np") as file:
        metadata: dict[str, str] | None = dict(file.metadata())
    assert metadata is not None
    tensors = st.load_file(path)
    if how == "weights":
        tensors, metadata = {"w": np.ones(3, np.float32)}, None
    elif how == "torch's":
        tensors, metadata = {"w": np.ones(3, np.float32)}, {"format": "pt"}
    elif how == "nothing":
        tensors, metadata = {}, None
    elif how == "tensors gone":
        tensors = {}
    elif how == "a tensor gone":
        del tensors[max(tensors)]
    elif how == "state gone":
        del metadata["state"]
    else:
        metadata["state"] = {"state no JSON": "{", "state a list": "[]", "state empty": "{}"}[how]
    st.save_file(tensors, path, metadata)


FOREIGN = ["weights", "torch's", "nothing", "tensors gone", "a tensor gone", "state gone"]
FOREIGN += ["state no JSON", "state a list", "state empty"]


@pytest.mark.parametrize("how", FOREIGN)
def test_a_foreign_file_is_an_error_and_changes_nothing(how: str, run: Run) -> None:
    foreign(run.path, how)
    written = run.path.read_bytes()
    with pytest.raises((ValueError, TypeError), match=r"."):
        Checkpoint(run.path, **run.parts, own=run.own).load()
    run.assert_unchanged(written)


UNSAVABLE: dict[str, Any] = {
    "object": object(),
    "function": len,
    "complex": 1j,
    "bytes": b"x",
    "set": {1},
    "key": {frozenset([1]): 1},
    "deep": [{"a": [1, (2, object())]}],
    "objects": np.array([None, 1], object),
    "times": np.array(["2020-01-01"], "M8[D]"),
    "text": np.array(["a"]),
    "record": np.zeros(2, "f4,i4"),
    "complex128": np.zeros(2, np.complex128),
}


@pytest.mark.parametrize("what", UNSAVABLE)
def test_progress_that_cannot_be_saved_is_an_error_before_anything_is_written(what: str, run: Run) -> None:
    with pytest.raises(TypeError):
        Checkpoint(run.path, **run.parts, own=run.own).save(step=2, bad=UNSAVABLE[what])
    run.assert_unchanged()


@pytest.mark.parametrize("what", UNSAVABLE)
def test_a_part_whose_state_cannot_be_saved_is_an_error_before_anything_is_written(
    what: str, run: Run
) -> None:
    with pytest.raises(TypeError):
        Checkpoint(run.path, **run.parts, own=Holder({"bad": UNSAVABLE[what]})).save(step=2)
    run.assert_unchanged()


@pytest.mark.parametrize("what", ["objects", "times", "text", "record"])
def test_an_array_that_cannot_be_saved_is_an_error_before_anything_is_written(what: str, run: Run) -> None:
    with pytest.raises(TypeError):
        Checkpoint(run.path, **run.parts, own=UNSAVABLE[what]).save(step=2)
    run.assert_unchanged()


@pytest.mark.parametrize(
    "part", [3, None, "x", [np.ones(2)], {"a": np.ones(2)}, object(), np.random.PCG64(1)]
)
def test_what_has_no_state_is_no_part(part: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="culprit"):
        Checkpoint(tmp_path / "c", culprit=part)
    assert not list(tmp_path.iterdir())


def test_nothing_is_saved_or_loaded_while_averages_are_swapped_in(run: Run) -> None:
    checkpoint = Checkpoint(run.path, **run.parts, own=run.own)
    for average in (fs.averaging.FusedEMA(run.optimizer), run.parts["mean"]):
        with average.swapped():
            with pytest.raises(RuntimeError):
                checkpoint.save()
            with pytest.raises(RuntimeError):
                checkpoint.load()
        run.assert_unchanged()
    with pytest.raises(RuntimeError):
        run.optimizer.busy.run(checkpoint.save)
    run.assert_unchanged()


def test_a_state_that_raises_leaves_the_file(run: Run) -> None:
    class Raises(Own):
        def state_dict(self) -> dict[str, Any]:
            raise ArithmeticError("that part")

    with pytest.raises(ArithmeticError, match="that part"):
        Checkpoint(run.path, **run.parts, own=Raises()).save()
    run.assert_unchanged()


@pytest.mark.parametrize("name", ["rename", "replace", "fsync"])
def test_a_failure_to_write_leaves_the_file(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, say."""
    used: list[str] = []

    def fail(*_: Any, **__: Any) -> None:
        used.append(name)
        raise OSError("no space left")

    run.record.state_dict()
    checkpoint = Checkpoint(run.path, array=run.parts["array"], rng=run.rng)
    monkeypatch.setattr(os, name, fail)
    monkeypatch.setattr(Path, name, fail, raising=False)
    try:
        checkpoint.save()
    except OSError:
        assert used
        monkeypatch.undo()
        assert run.path.read_bytes() == run.whole
        assert len(list(run.folder.iterdir())) <= len(run.files) + 1
    else:
        assert not used


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "no" / "c", a=np.zeros(2))
    assert checkpoint.load() is None
    with pytest.raises(OSError, match=r"."):
        checkpoint.save()


def test_what_another_process_left_is_no_checkpoint(tmp_path: Path) -> None:
    """Whatever the name of the partial file, it must not be in the way, nor taken for the checkpoint."""
    array = np.arange(3.0)
    checkpoint = Checkpoint(tmp_path / "c", a=array)
    names: set[str] = set()
    real = os.replace

    def watched(source: Any, *rest: Any, **options: Any) -> None:
        names.add(Path(source).name)
        real(source, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", watched)
        checkpoint.save()
    for name in names | {"c.partial"}:
        (tmp_path / name).write_bytes(b"torn")
        assert name == "c" or checkpoint.load() == {}
        checkpoint.save()
        assert checkpoint.load() == {}


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """So that those who may read what a process writes may read this too."""
    (tmp_path / "plain").touch()
    Checkpoint(tmp_path / "c", a=np.zeros(2)).save()
    assert (tmp_path / "c").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_text_paths_and_one_file_for_each_name(tmp_path: Path) -> None:
    a, b = np.zeros(2), np.ones(2)
    Checkpoint(str(tmp_path / "a"), x=a).save()
    Checkpoint(tmp_path / "b.with.dots", x=b).save()
    Checkpoint(tmp_path / "a", x=b).load()
    assert b.tolist() == [0, 0]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b.with.dots"]


KILLS = 50
STEPS = 2000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What starts processes that have imported everything, each with one thread of BLAS."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["fusedstep.control", "safetensors.numpy"])
    return found


def start(server: Any, folder: Path, *, save: bool) -> tuple[Any, Any]:
    """A process that trains, and the end of a pipe on which it tells how far it is."""
    heard, told = server.Pipe(duplex=False)
    process = server.Process(
        target=killed_run.train, args=(folder, STEPS, told), kwargs={"save": save}, daemon=True
    )
    process.start()
    told.close()
    return process, heard


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_run_that_is_killed_fifty_times_ends_with_the_same_bits(server: Any, tmp_path: Path) -> None:
    """Each time it is killed after as many saves as are drawn, while it trains or saves again."""
    killed, unbroken = tmp_path / "killed", tmp_path / "unbroken"
    killed.mkdir()
    unbroken.mkdir()
    path = killed / "run.safetensors"
    rng = np.random.default_rng(20)
    starts = []
    for _ in range(KILLS):
        process, heard = start(server, killed, save=True)
        try:
            starts.append(heard.recv())
            for _ in range(rng.integers(0, 4)):
                heard.recv()
            time.sleep(rng.uniform(0, 0.01))
            assert process.is_alive()
        finally:
            process.kill()
            process.join()
            heard.close()
        assert process.exitcode == -signal.SIGKILL
        if path.exists():
            stored = st.load_file(path)
            assert len(stored) == 3 * 4 + 3 + 3 + 2  # weights and three slots, best, mean, total and ballast
            assert all(np.all(np.isfinite(a)) for a in stored.values())
    assert starts == sorted(starts)

    for folder in (killed, unbroken):
        process, heard = start(server, folder, save=False)
        starts.append(heard.recv())
        process.join(60)
        heard.close()
        assert process.exitcode == 0
    assert starts.pop() == 0
    assert 0 < starts[-1] < STEPS
    assert len(set(starts)) > 5, starts  # several legs went on from where others were killed

    with np.load(killed / "final.npz") as ours, np.load(unbroken / "final.npz") as theirs:
        assert plain(dict(ours)) == plain(dict(theirs))
        assert len(ours.files) == 12
    for name in ("final.json", "record.jsonl"):
        assert (killed / name).read_bytes() == (unbroken / name).read_bytes()
    rows = [json.loads(line) for line in (killed / "record.jsonl").read_text().splitlines()]
    assert [row["t"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    left = {each.name for each in killed.iterdir()} - {
        "run.safetensors",
        "record.jsonl",
        "final.npz",
        "final.json",
    }
    assert len(left) <= 1, left


def test_two_writers_leave_a_whole_file(tmp_path: Path) -> None:
    """Who reads finds what one of them has written. (Windows replaces no file while another one reads it.)"""
    path, done = tmp_path / "c", threading.Event()

    def write(number: int) -> None:
        checkpoint = Checkpoint(path, a=np.full(1 << 15, number))
        while not done.is_set():
            with contextlib.suppress(PermissionError):
                checkpoint.save(number=number)

    writers = [threading.Thread(target=write, args=(number,)) for number in (1, 2)]
    Checkpoint(path, a=np.full(1 << 15, 0)).save(number=0)
    for writer in writers:
        writer.start()
    try:
        found = np.empty(1 << 15, int)
        for _ in range(100):
            progress = Checkpoint(path, a=found).load()
            assert progress
            assert np.all(found == progress["number"])
    finally:
        done.set()
        for writer in writers:
            writer.join()


@pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
def test_the_file_keeps_its_permissions(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", a=np.zeros(2))
    checkpoint.save()
    (tmp_path / "c").chmod(0o600)
    checkpoint.save()
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o600


def test_a_path_does_not_follow_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint, record = Checkpoint("c", a=np.zeros(2)), fs.control.Record("r")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    record.write(t=1)
    checkpoint.save(t=1)
    assert checkpoint.load() == {"t": 1}
    assert not list(Path.cwd().iterdir())

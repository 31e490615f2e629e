"""Arrays as they lie in memory: the same bits as on contiguous copies, and not a byte written beside them."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import fusedstep as fs
from tests.helpers.choices import FEW, is_elementwise
from tests.helpers.internals import _core

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

DTYPES = [np.float32, np.float64]
SHAPES: list[Shape] = [(), (1,), (9,), (0,), (3, 0), (0, 3), (5, 7), (1, 6, 1), (2, 3, 4), (2, 1, 3, 2)]
LARGE = (3, _core.tile // 2 + 5)  # more than a tile
MARK = 0xA5  # every byte that no array owns
MARGIN = 3
STEPS = 3


class Room:
    """Marked memory with an array in it."""

    def __init__(self, size: int, place: Callable[[Array], Array]) -> None:
        self.bytes = np.full(size, MARK, np.uint8)
        self.array = place(self.bytes)
        self.mark = np.full(self.array.itemsize, MARK, np.uint8).view(self.array.dtype)[0]

    def untouched(self) -> bool:
        """Whether every byte outside the array is still marked."""
        kept = self.array.copy()
        self.array[...] = self.mark
        marked = bool((self.bytes == MARK).all())
        self.array[...] = kept
        return marked


Layout = Callable[[Shape, Any], Room]


def sliced(*cuts: tuple[int, int], order: str = "C") -> Layout:
    """A block of which each axis keeps every step-th element, after `skip`; the last cut is for all others.

    `order` is that of the block: "C", "F", or "R" with the axes rolled by one.
    """

    def place(shape: Shape, dtype: Any) -> Room:
        every = [cuts[min(axis, len(cuts) - 1)] for axis in range(len(shape))]
        block = [length * abs(step) + skip for length, (skip, step) in zip(shape, every, strict=True)]
        axes = list(range(len(shape)))
        axes = {"C": axes, "F": axes[::-1], "R": axes[1:] + axes[:1]}[order]
        size = math.prod(block)
        room = Room((size + 2 * MARGIN) * np.dtype(dtype).itemsize, lambda memory: memory.view(dtype))
        dense = room.array[MARGIN : MARGIN + size].reshape([block[axis] for axis in axes])
        whole = dense.transpose(np.argsort(axes)) if axes else dense
        index = [
            slice(skip, None, step) if step > 0 else slice(None, skip - 1 if skip else None, step)
            for skip, step in every
        ]
        room.array = whole[(..., *index)]
        return room

    return place


def field(shape: Shape, dtype: Any) -> Room:
    """One field of records."""
    record = np.dtype([("before", np.float64), ("x", dtype), ("after", dtype)], align=True)
    size = math.prod(shape) * record.itemsize
    return Room(size, lambda memory: memory.view(record).reshape(shape)["x"])


def real_part(shape: Shape, dtype: Any) -> Room:
    pair = np.result_type(dtype, np.complex64)
    return Room(math.prod(shape) * pair.itemsize, lambda memory: memory.view(pair).reshape(shape).real)


def odd_strides(shape: Shape, dtype: Any) -> Room:
    """Contiguous, with strides that mean nothing on the axes of length 1."""
    room = sliced((0, 1))(shape, dtype)
    strides = [
        40 * (axis % 3 - 1) if length == 1 else stride
        for axis, (length, stride) in enumerate(zip(shape, room.array.strides, strict=True))
    ]
    room.array = as_strided(room.array, shape, strides)
    return room


class Tagged(np.ndarray[Any, Any]):
    """A subclass that refuses all arithmetic."""

    __array_ufunc__ = None  # type: ignore[assignment]


def subclass(shape: Shape, dtype: Any) -> Room:
    room = sliced((0, 1))(shape, dtype)
    room.array = room.array.view(Tagged)
    return room


def subclass_with_gaps(shape: Shape, dtype: Any) -> Room:
    room = sliced((1, 2))(shape, dtype)
    room.array = room.array.view(Tagged)
    return room


def named_byte_order(shape: Shape, dtype: Any) -> Room:
    """The machine's own byte order by its name, as reading a file of the other order leaves it."""
    room = sliced((0, 1))(shape, dtype)
    room.array = room.array.view(np.dtype(dtype).newbyteorder(sys.byteorder))
    assert room.array.dtype.byteorder in "<>"
    assert room.array.dtype.isnative
    return room


PARAMETERS: dict[str, Layout] = {
    "contiguous": sliced((0, 1)),
    "Fortran": sliced((0, 1), order="F"),
    "rolled axes": sliced((0, 1), order="R"),
    "a[::2]": sliced((0, 2)),
    "a[1::3] in Fortran order": sliced((1, 3), order="F"),
    "rows": sliced((1, 2), (0, 1)),
    "columns": sliced((0, 1), (2, 1)),
    "columns of rolled axes": sliced((0, 1), (2, 1), order="R"),
    "reversed": sliced((0, -1)),
    "rows reversed": sliced((0, -1), (0, 1)),
    "reversed with gaps": sliced((0, -2), order="F"),
    "field": field,
    "real part": real_part,
    "odd strides": odd_strides,
    "named byte order": named_byte_order,
    "subclass": subclass,
    "subclass with gaps": subclass_with_gaps,
}


def misaligned(shape: Shape, dtype: Any) -> Room:
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return Room(size + 9, lambda memory: memory[1 : 1 + size].view(dtype).reshape(shape))


def misaligned_with_gaps(shape: Shape, dtype: Any) -> Room:
    record = np.dtype([("before", np.uint8), ("x", dtype)])
    size = math.prod(shape) * record.itemsize
    return Room(size, lambda memory: memory.view(record).reshape(shape)["x"])


GRADIENTS = PARAMETERS | {"misaligned": misaligned, "misaligned with gaps": misaligned_with_gaps}


def numbers(shape: Shape, dtype: Any, seed: int) -> Array:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def same_state(a: fs.Optimizer, b: fs.Optimizer) -> bool:
    """Two optimizers of one array have the same state, of the array's shape."""
    return a.state.keys() == b.state.keys() and all(same(a.state[slot], b.state[slot]) for slot in a.state)


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


def check(
    rule: str, backend: Any, dtype: Any, shape: Shape, of_p: Layout, of_g: Layout, **options: Any
) -> None:
    room = of_p(shape, dtype)
    assert room.array.shape == shape
    room.array[...] = numbers(shape, dtype, 0)
    # What is summed over a tensor is summed in the order in which it lies in memory.
    control = room.array.copy("C" if is_elementwise(rule, options) else "K")
    opt = fs.rules[rule](room.array, backend=backend, **options)
    other = fs.rules[rule](control, backend=backend, **options)
    for t in range(1, STEPS + 1):
        given, g = of_g(shape, dtype), numbers(shape, dtype, t)
        given.array[...] = g
        before = given.bytes.copy()
        given.array.flags.writeable = False
        opt.step(given.array, loss=1 / t)
        other.step(g, loss=1 / t)
        assert np.array_equal(given.bytes, before)
        assert same(room.array, control)
        assert same_state(opt, other)
    assert room.untouched()
    assert not control.size or not same(control, numbers(shape, dtype, 0))


@pytest.mark.parametrize("of_p", PARAMETERS)
@pytest.mark.parametrize("of_g", GRADIENTS)
def test_layouts(backend: Any, of_p: str, of_g: str) -> None:
    """All pairs, in one of the dtypes; each layout with both."""
    dtype = DTYPES[([*PARAMETERS].index(of_p) + [*GRADIENTS].index(of_g)) % 2]
    for shape in SHAPES:
        check("Adam", backend, dtype, shape, PARAMETERS[of_p], GRADIENTS[of_g], l2=0.1, weight_decay=0.1)


@pytest.mark.parametrize("of_p", PARAMETERS)
@pytest.mark.parametrize("of_g", ["Fortran", "a[::2]", "reversed", "misaligned"])
def test_layouts_of_large_arrays(backend: Any, of_p: str, of_g: str) -> None:
    fs.set_num_threads(2)
    check("Adam", backend, np.float32, LARGE, PARAMETERS[of_p], GRADIENTS[of_g])


@pytest.mark.parametrize("rule", fs.rules)
def test_layouts_for_every_rule(backend: Any, dtype: Any, rule: str) -> None:
    pairs = [("Fortran", "rolled axes"), ("a[::2]", "contiguous"), ("reversed", "misaligned")]
    for shape, (of_p, of_g) in itertools.product(((9,), (6, 11), (4, 5, 6)), pairs):
        check(rule, backend, dtype, shape, PARAMETERS[of_p], GRADIENTS[of_g], l1=0.1)


@pytest.mark.parametrize("of_p", PARAMETERS)
@pytest.mark.parametrize("ones", [(2, 3, 1), (2, 1, 4), (1, 3, 4), (1, 1, 4), (1, 1, 1)])
def test_broadcast_gradient(backend: Any, dtype: Any, of_p: str, ones: Shape) -> None:
    shape = (2, 3, 4)
    room, control = PARAMETERS[of_p](shape, dtype), numbers(shape, dtype, 0)
    room.array[...] = control
    opt, other = (fs.Adam(p, backend=backend) for p in (room.array, control))
    for t in range(1, STEPS + 1):
        few = numbers(ones, dtype, t)
        g = np.broadcast_to(few, shape)
        assert 0 in g.strides
        opt.step(g)
        other.step(g.copy())
        assert same(few, numbers(ones, dtype, t))
        assert same(room.array, control)
        assert same_state(opt, other)
    assert room.untouched()


def test_memmap(backend: Any, dtype: Any, tmp_path: Path) -> None:
    shape = (5, 7)

    def mapped(name: str, values: Array, mode: Any) -> Array:
        path = tmp_path / name
        path.write_bytes(values.tobytes())
        return np.memmap(path, dtype, mode, shape=shape)

    control = numbers(shape, dtype, 0)
    p = mapped("p", control, "r+")
    opt, other = (fs.Adam(a, backend=backend) for a in (p, control))
    assert type(opt.state["m"]) is np.ndarray
    for t in range(1, STEPS + 1):
        g = numbers(shape, dtype, t)
        opt.step(mapped(f"g{t}", g, "r"))
        other.step(g)
    p.flush()  # type: ignore[attr-defined]
    assert same(np.frombuffer((tmp_path / "p").read_bytes(), dtype).reshape(shape), control)
    assert same_state(opt, other)
    with pytest.raises(ValueError, match=r"parameter 0 is read-only"):
        fs.Adam(mapped("r", control, "r"), backend=backend)


# Parameters and gradients that interleave without sharing an element.

INTERLEAVED: dict[str, Callable[[Array], list[Array]]] = {
    "even and odd": lambda a: [a[::2], a[1::2]],
    "odd, reversed": lambda a: [a[::2], a[::-2]],
    "three ways": lambda a: [a[::3], a[1::3], a[2::3]],
    "other strides": lambda a: [a[::4], a[1::2], a[2::4]],
    "adjacent": lambda a: [a[:20], a[20:21], a[21:]],
    "columns": lambda a: [a.reshape(6, 10)[:, :3], a.reshape(6, 10)[:, 3:]],
    "columns and rows": lambda a: [
        a.reshape(6, 10)[1:, :3],
        a.reshape(6, 10)[0],
        a.reshape(6, 10)[1:, 3:],
    ],
    "chessboard": lambda a: [a.reshape(6, 10)[i::2, j::2] for i in (0, 1) for j in (0, 1)],
    "triangle by rows": lambda a: [a.reshape(6, 10)[i, i:] for i in range(6)],
    "blocks of three axes": lambda a: [
        a.reshape(3, 4, 5)[i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)
    ],
    "last axis": lambda a: [a.reshape(3, 4, 5)[..., k] for k in range(5)],
    "middle axis": lambda a: [a.reshape(3, 4, 5)[:, k].T for k in range(4)],
    "empty": lambda a: [a, a[3:3], a.reshape(6, 10)[:0]],
}


@pytest.mark.parametrize("kind", INTERLEAVED)
def test_interleaved_parameters(backend: Any, dtype: Any, kind: str) -> None:
    memory = numbers((60,), dtype, 0)
    views = INTERLEAVED[kind](memory)
    copies = [p.copy() for p in views]
    covered = sum(p.size for p in views)
    opt, other = fs.Adam(views, backend=backend), fs.Adam(copies, backend=backend)
    for t in range(1, STEPS + 1):
        grads = [numbers(p.shape, dtype, t + 10 * i) for i, p in enumerate(views)]
        opt.step(grads)
        other.step(grads)
    assert all(map(same, views, copies))
    assert np.count_nonzero(memory != numbers((60,), dtype, 0)) == covered


@pytest.mark.parametrize("kind", [kind for kind in INTERLEAVED if kind not in {"empty", "triangle by rows"}])
def test_gradient_in_the_gaps_of_parameters(backend: Any, dtype: Any, kind: str) -> None:
    """The first view is the parameter; gradients lie in the others that have its shape, and elsewhere."""
    memory = numbers((60,), dtype, 0)
    p, *others = INTERLEAVED[kind](memory)
    fitting = [np.resize(numbers((60,), dtype, 1), p.shape), *(g for g in others if g.shape == p.shape)]
    outside = [g.tobytes() for g in others]
    copy = p.copy()
    opt, other = fs.Adam(p, backend=backend), fs.Adam(copy, backend=backend)
    for g in fitting:
        opt.step(g)
        other.step(g.copy())
    assert same(p, copy)
    assert [g.tobytes() for g in others] == outside


def test_many_axes_that_interleave(backend: Any) -> None:
    """Too many for a brute-force search, and yet no element is shared."""
    memory = numbers((12, 11, 10, 9, 2), np.float32, 0)
    views = [memory[1::2, ::3, :-1, 1::2, k] for k in (0, 1)]
    copies = [p.copy() for p in views]
    opt, other = fs.Adam(views, backend=backend), fs.Adam(copies, backend=backend)
    grads = [numbers(p.shape, np.float32, 1) for p in views]
    opt.step(grads)
    other.step(grads)
    assert all(map(same, views, copies))


def test_gradient_next_to_parameters(backend: Any, dtype: Any) -> None:
    """One flat buffer for parameters and gradients."""
    memory = numbers((40,), dtype, 0)
    p, q, g, h = memory[:10], memory[10:20], memory[20:30], memory[30:]
    copies, grads = [p.copy(), q.copy()], [g.copy(), h.copy()]
    fs.Adam([p, q], backend=backend).step([g, h])
    fs.Adam(copies, backend=backend).step(grads)
    assert same(memory, np.concatenate([*copies, *grads]))


# Gradients from step to step.


@pytest.mark.parametrize("of_p", ["contiguous", "a[::2]"])
def test_one_gradient_for_two_parameters(backend: Any, dtype: Any, of_p: str) -> None:
    g = numbers((5, 7), dtype, 1)
    rooms = [PARAMETERS[of_p](g.shape, dtype) for _ in range(2)]
    controls = [numbers(g.shape, dtype, seed) for seed in (2, 3)]
    for room, control in zip(rooms, controls, strict=True):
        room.array[...] = control
    opt = fs.Adam([room.array for room in rooms], backend=backend)
    other = fs.Adam(controls, backend=backend)
    for _ in range(STEPS):
        opt.step([g, g])
        other.step([g.copy(), g.copy()])
    assert all(same(room.array, control) for room, control in zip(rooms, controls, strict=True))
    assert all(room.untouched() for room in rooms)
    assert same(g, numbers((5, 7), dtype, 1))


@pytest.mark.parametrize("rule", FEW)
@pytest.mark.parametrize("of_p", ["contiguous", "Fortran", "a[::2]", "reversed"])
def test_none_leaves_all_as_it_is(backend: Any, dtype: Any, rule: str, of_p: str) -> None:
    """To the bit, NaN payloads and signs of zero included, whatever decay there is."""
    shape = (2, 3)
    room = PARAMETERS[of_p](shape, dtype)
    room.array[...] = numbers(shape, dtype, 0)
    moved = np.ones(4, dtype)
    options: dict[str, Any] = {"l1": 0.1, "l2": 0.1, "weight_decay": 0.1}
    opt = fs.rules[rule]({"still": room.array, "moved": moved}, backend=backend, **options)
    opt.step({"still": numbers(shape, dtype, 1), "moved": np.ones(4, dtype)}, loss=1.0)
    room.array[0, 0] = -0.0
    room.array[1, 2] = -np.nan
    state = opt.state["still"]
    for array in state.values():
        if array.shape == shape:
            array[1, 1] = -0.0
            array[0, 2] = np.nan
    before = room.bytes.copy(), {slot: array.copy() for slot, array in state.items()}
    for _ in range(STEPS):
        last = moved.copy()
        opt.step({"still": None, "moved": np.ones(4, dtype)}, loss=0.5)
        assert not same(moved, last)
        assert np.array_equal(room.bytes, before[0])
        assert all(same(state[slot], before[1][slot]) for slot in state)
    assert opt.t == 1 + STEPS


@pytest.mark.parametrize("of_p", PARAMETERS)
def test_none_skips_a_parameter_made_read_only(backend: Any, of_p: str) -> None:
    frozen, moved = PARAMETERS[of_p]((2, 3), np.float64).array, np.ones(4)
    opt = fs.SGD([frozen, moved], lr=0.5, backend=backend)
    frozen.flags.writeable = False
    opt.step([None, np.ones(4)])
    assert (moved == 0.5).all()


@pytest.mark.parametrize("of_p", ["contiguous", "Fortran", "a[::2]"])
def test_gradient_buffers_reused_and_replaced(backend: Any, dtype: Any, of_p: str) -> None:
    """The same buffer with new numbers, a new one, None, the old one again, and one swapped between two."""
    shape = (50, 60)
    room, control = PARAMETERS[of_p](shape, dtype), numbers(shape, dtype, 0)
    room.array[...] = control
    opt = fs.Adam([room.array, np.ones(shape, dtype)], backend=backend)
    other = fs.Adam([control, np.ones(shape, dtype)], backend=backend)
    buffers = [np.empty(shape, dtype), np.empty(shape, dtype)]
    for t, action in enumerate(
        ["new", "reuse", "reuse", "new", "none", "reuse", "swap", "Fortran", "swap", "new"]
    ):
        if action == "new":
            buffers = [np.empty(shape, dtype) for _ in buffers]
        elif action == "swap":
            buffers.reverse()
        elif action == "Fortran":
            buffers = [np.empty(shape[::-1], dtype).T for _ in buffers]
        for i, buffer in enumerate(buffers):
            buffer[...] = numbers(shape, dtype, 10 * t + i)
        given: list[Any] = [None, buffers[1]] if action == "none" else list(buffers)
        before = [buffer.copy() for buffer in buffers]
        opt.step(given)
        other.step([None if g is None else g.copy() for g in given])
        assert all(map(same, buffers, before))
        assert same(room.array, control)
    assert room.untouched()


def test_parameter_rebound_by_its_owner(backend: Any) -> None:
    """The optimizer holds the array, whatever becomes of the container."""
    params: dict[str, Array] = {"w": np.zeros(3)}
    w = params["w"]
    opt = fs.SGD(params, lr=1.0, backend=backend)
    params["w"] = np.full(3, 9.0)
    params["more"] = np.ones(2)
    opt.step({"w": np.ones(3)})
    assert (w == -1).all()
    assert (params["w"] == 9).all()


EMPTY_IN_A_PARAMETER = """
import numpy as np
import fusedstep as fs
w, e = np.zeros(8), np.zeros(0)
opt = fs.SGD([w, e], lr=1.0, backend={backend!r})
for g in (w[:0], w[3:][:0], w[8:], w[::2][:0], w[3:][::-1][:0], np.ones(0)):
    opt.step([np.ones(8), g])
assert (w == -6).all()
"""


def test_empty_gradient_inside_a_parameter(backend: Any) -> None:
    """It shares no element, wherever it points to."""
    code = EMPTY_IN_A_PARAMETER.format(backend=backend)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_array_without_elements(backend: Any, dtype: Any) -> None:
    for shape in ((0,), (3, 0), (0, 3), (2, 0, 5)):
        p = np.zeros(shape, dtype)
        opt = fs.Adam([p, np.ones(2, dtype)], backend=backend)
        opt.step([np.zeros(shape, dtype), np.ones(2, dtype)])
        opt.step([np.zeros(shape[::-1], dtype).T, None])
        assert opt.state[0]["m"].shape == shape
        assert opt.t == 2
        with pytest.raises(ValueError, match=r"gradient 0 has shape"):
            opt.step([np.zeros((*shape, 1), dtype), None])

"""The state of every rule: how it begins and how it is saved, what is refused, and that a run goes on."""

from __future__ import annotations

import itertools
import math
import pickle
import re
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import matrix_kernel_of, takes_16_bits
from tests.helpers.engines import DTYPES, MIXES, normal, with_gaps
from tests.helpers.exactly import assert_same, same_bits
from tests.helpers.examples import (
    FEW_MATRICES,
    Array,
    Shape,
    all_gradients,
    by_number,
    gradients,
    grouped,
    kept_in,
    mixes_of,
    parameters,
    shapes_of,
    snapshot,
    step,
)

each_rule = pytest.mark.parametrize("rule", fs.rules)


# How it begins.


@pytest.mark.parametrize(
    ("rule", "state_dtype"),
    [
        (rule, state_dtype)
        for rule in fs.rules
        for state_dtype in (None, "float32", "bfloat16")
        if state_dtype != "bfloat16" or takes_16_bits(rule)
    ],
)
def test_first_state(rule: str, state_dtype: str | None, backend: Any) -> None:
    """As the parameter, as a number, or as zero; in its own memory, of an array in any layout."""
    cls = fs.rules[rule]
    p = [
        normal(1, (4, 6), np.float32).T,
        with_gaps(normal(2, (3, 5), np.float32)),
        normal(3, 9, np.float16 if takes_16_bits(rule) else np.float32),
        normal(4, (2, 3, 4), np.float32),
    ]
    opt = cls(p, backend=backend, state_dtype=state_dtype, ema=0.5)
    assert isinstance(opt.state[0], MappingProxyType)
    assert isinstance(cls(p[0]).state, MappingProxyType)
    for i, array in enumerate(p):
        for slot, state in opt.state[i].items():
            assert not np.shares_memory(state, array)
            assert state.dtype == kept_in(rule, slot, opt.state[i], array, state_dtype)
            if slot in cls.numbers:
                assert (state.shape, state) == ((), cls.numbers[slot])
                continue
            start = cls.slots[slot].start if slot in cls.slots else "p" if slot == "ema" else 0.0
            if start == "p":
                assert same_bits(state, array.astype(state.dtype))
            else:
                first = opt.groups[0][start] if isinstance(start, str) else start
                assert (state == np.array(first).astype(state.dtype)).all()


# A run goes on from what is saved.


@pytest.mark.parametrize(("saving", "loading"), [("native", "numpy"), ("numpy", "native")])
@pytest.mark.parametrize(
    ("rule", "mix"),
    [
        (rule, mix)
        for rule in fs.rules
        for mix in ["float32", "bfloat16", "state in float32", "of all types"]
        if mix in mixes_of(rule)
    ],
)
def test_a_run_goes_on_from_a_checkpoint(rule: str, mix: str, saving: Any, loading: Any) -> None:
    """Numbers of tensors and groups and all, into an optimizer that had gone another way."""
    state_dtype = MIXES[mix][2]
    p = parameters(shapes_of(rule), mix)
    opt = grouped(rule, p, backend=saving, state_dtype=state_dtype)
    for t in range(4):
        step(opt, by_number(gradients(rule, t, p, mix)))
    saved = pickle.dumps(opt.state_dict())
    q = [a.copy() for a in p]
    other = grouped(rule, q, backend=loading, state_dtype=state_dtype)
    for t in range(7, 9):
        step(other, by_number(gradients(rule, t, q, mix)), scale=3.0)
    for a, b in zip(p, q, strict=True):
        b[...] = a
    other.load_state_dict(pickle.loads(saved))
    assert_same(snapshot(other, q), snapshot(opt, p))
    for t in range(4, 8):
        for each, arrays in ((opt, p), (other, q)):
            step(each, by_number(gradients(rule, t, arrays, mix)))
        assert_same(snapshot(other, q), snapshot(opt, p), t)


@each_rule
def test_what_is_saved_is_a_copy(rule: str, backend: Any) -> None:
    """Steps do not change it, and loading does not lend it."""
    p = parameters([(3, 4), (5,)])
    opt = fs.rules[rule](p, ema=0.5, backend=backend)
    step(opt, all_gradients(rule, 1, p))
    saved = opt.state_dict()
    kept = pickle.loads(pickle.dumps(saved))

    def assert_kept() -> None:
        for i, slots in kept["state"].items():
            assert saved["state"][i].keys() == slots.keys() == opt.state[i].keys()
            assert all(same_bits(saved["state"][i][slot], array) for slot, array in slots.items())

    assert_kept()
    step(opt, all_gradients(rule, 2, p))
    assert_kept()
    assert not all(map(same_bits, saved["state"][0].values(), opt.state[0].values()))
    opt.load_state_dict(saved)
    step(opt, all_gradients(rule, 2, p))
    assert_kept()


# What is refused.


def other_shapes(shape: Shape, of_parameter: Shape) -> Iterator[Shape]:
    """Shapes that could be taken for this one."""
    found: set[Shape] = {of_parameter, of_parameter[::-1], (), (math.prod(shape),), (*shape, 1), (1, *shape)}
    found |= set(itertools.permutations(shape)) | {shape[1:], shape[:-1]}
    for axis, length in enumerate(shape):
        found |= {(*shape[:axis], other, *shape[axis + 1 :]) for other in (1, length + 1, length - 1)}
    yield from found - {shape}


Wrong = tuple[Any, type[Exception], str]


def wrong_arrays(array: Array, of_parameter: Shape) -> Iterator[Wrong]:
    """What may not be in the place of an array of state; the errors."""
    for shape in other_shapes(array.shape, of_parameter):
        told = re.escape(f"has shape {shape}, here {array.shape}")  # and not that of the parameter
        yield np.zeros(shape, array.dtype), ValueError, told
    for dtype in (np.float32 if array.dtype == np.float64 else np.float64, DTYPES["bfloat16"], np.int32):
        yield array.astype(dtype), TypeError, "has dtype"
    for value in (array.tolist(), float(array.sum()), None):
        yield value, TypeError, "must be a NumPy array"


@each_rule
def test_wrong_state_is_refused(rule: str) -> None:
    """Of every slot, those of numbers and factors included; nothing of such a checkpoint is loaded."""
    p = [np.ones(shape, np.float32) for shape in [(3, 4), (2, 3, 3), (5,), ()]]
    opt: Any = fs.rules[rule](p, ema=0.5)
    step(opt, [np.ones_like(a) for a in p])
    before = snapshot(opt, p)
    names = {slot for slots in opt.state.values() for slot in slots}

    def check(error: type[Exception], message: str, i: int, slot: str, *value: Any) -> None:
        """With another value, or without one, where all else in it differs from what the optimizer has."""
        saved = opt.state_dict()
        saved["t"] = 7
        for array in (array for slots in saved["state"].values() for array in slots.values()):
            array[...] = 5
        if value:
            (saved["state"][i][slot],) = value
        else:
            del saved["state"][i][slot]
        with pytest.raises(error, match=message):
            opt.load_state_dict(saved)
        assert_same(snapshot(opt, p), before)

    for i, a in enumerate(p):
        for slot, array in opt.state[i].items():
            for value, error, told in wrong_arrays(array, a.shape):
                check(error, f"state '{slot}' of parameter {i} {told}", i, slot, value)
            check(ValueError, f"'{slot}' is missing", i, slot)
        for slot in (names | {"o", "v", "other"}) - opt.state[i].keys():
            check(ValueError, f"'{slot}' does not belong here", i, slot, np.zeros_like(a))


@pytest.mark.parametrize("rule", [rule for rule in fs.rules if matrix_kernel_of(rule, {})])
def test_state_of_matrices_has_nothing_beside(rule: str, backend: Any) -> None:
    """What is made of a matrix at a step is no state: no slot of the kernel, and not in what is saved."""
    p = parameters(FEW_MATRICES, "float32")
    opt: Any = fs.rules[rule](p, backend=backend)
    for t in range(2):
        for i, a in enumerate(p):
            kernel = opt.groups[0].kernel_of(a)
            slots = opt.slots_of(kernel, averaged=False)
            wanted = {name: slot.shape(a.shape) for name, slot in slots.items() if slot.lives}
            assert {name: array.shape for name, array in opt.state[i].items()} == wanted
            assert opt.state_dict()["state"][i].keys() == wanted.keys()
            assert all(array.dtype == a.dtype for array in opt.state[i].values())
        step(opt, all_gradients(rule, t, p))

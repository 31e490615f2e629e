"""Bad input is refused with an error that names what is wrong, before anything is written."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided, sliding_window_view

import fusedstep as fs

Array = np.ndarray[Any, Any]
Error = type[Exception] | tuple[type[Exception], ...]

DTYPES = [np.float32, np.float64]
RULES = ["SGD", "Nesterov", "Eve"]  # no state; state and numbers; that and a loss
HUGE = [10**400, -(10**400)]  # no floats


def as_groups(container: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda x: [{"params": container({name: x[name] for name in part})} for part in PARTS]


def values(x: dict[str, Any]) -> list[Any]:
    return list(x.values())


PARTS = [("first", "twin"), ("gaps", "last")]
FORMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "mapping": dict,
    "sequence": values,
    "groups": as_groups(dict),
    "groups of sequences": as_groups(values),
}


class Run:
    """An optimizer of four parameters, after two steps; the parameters are carved from one memory."""

    def __init__(
        self, rule: str, backend: Any, form: str = "mapping", dtype: Any = np.float64, **options: Any
    ) -> None:
        self.memory = np.random.default_rng(0).standard_normal(120).astype(dtype)
        self.params = {
            "first": self.memory[10:45].reshape(5, 7),
            "twin": self.memory[50:85].reshape(5, 7),
            "gaps": self.memory[90:102:2],
            "last": self.memory[110:116].reshape(2, 3),
        }
        self.form = FORMS[form]
        self.opt = fs.rules[rule](self.form(self.params), backend=backend, **options)
        self.step()
        self.step()

    def gradients(self) -> dict[str, Any]:
        """Good ones for the next step."""
        rng = np.random.default_rng(self.opt.t + 1)
        return {name: rng.standard_normal(p.shape).astype(p.dtype) for name, p in self.params.items()}

    def step(self, **changed: Any) -> None:
        """The next step, with some gradients changed."""
        self.offer(self.form(self.gradients() | changed))

    def offer(self, grads: Any, **keywords: Any) -> None:
        """A step that must not write to what it is given."""
        given = list(arrays_in(grads))
        before = [g.tobytes() for g in given]
        try:
            self.opt.step(grads, **{"loss": 2.0 / (self.opt.t + 1), **keywords})
        finally:
            assert [g.tobytes() for g in given] == before

    def bits(self) -> tuple[Any, ...]:
        """All that a step could change."""
        saved = self.opt.state_dict()
        return (
            self.memory.tobytes(),
            [
                (name, slot, array.tobytes())
                for name, slots in saved["state"].items()
                for slot, array in slots.items()
            ],
            self.opt.t,
            [[(name, repr(group[name])) for name in group if name != "params"] for group in self.opt.groups],
            [repr(group["scalars"]) for group in saved["groups"]],
        )


def arrays_in(tree: Any) -> Iterator[Array]:
    if isinstance(tree, np.ndarray):
        yield tree
    elif isinstance(tree, Mapping):
        yield from arrays_in(list(tree.values()))
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from arrays_in(item)


def pair(*args: Any, **keywords: Any) -> tuple[Run, Run]:
    """A run to try things on, and one that never sees an error."""
    return Run(*args, **keywords), Run(*args, **keywords)


@contextmanager
def refused(runs: tuple[Run, Run], error: Error, match: str) -> Iterator[Run]:
    """What is done to the first run raises the error, changes nothing, and the next step does not feel it."""
    run, control = runs
    before = run.bits()
    assert control.bits() == before
    with pytest.raises(error, match=match):
        yield run
    assert run.bits() == before
    run.step()
    control.step()
    assert run.bits() == control.bits() != before


@contextmanager
def not_made(params: Any, error: Error, match: str) -> Iterator[None]:
    """Making the optimizer raises the error and leaves the arrays as they are."""
    before = [p.tobytes() for p in arrays_in(params)]
    with pytest.raises(error, match=match):
        yield
    assert [p.tobytes() for p in arrays_in(params)] == before


class Schedule:
    """A constant that a test can change."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, t: int) -> Any:
        return self.value

    def __repr__(self) -> str:
        return "Schedule"


# What arrays are.

NOT_ARRAYS: dict[str, tuple[Callable[[Array], Any], Error, str]] = {
    "int": (lambda a: a.astype(np.int64), TypeError, "dtype"),
    "bool": (lambda a: a > 0, TypeError, "dtype"),
    "raw bits": (lambda a: a.view(f"u{a.itemsize}"), TypeError, "dtype"),
    "complex": (lambda a: a.astype(np.complex128), TypeError, "dtype"),
    "object": (lambda a: a.astype(object), TypeError, "dtype"),
    "text": (lambda a: a.astype(str), TypeError, "dtype"),
    "record": (lambda a: a.view([("x", a.dtype)]), TypeError, "dtype"),
    "byte-swapped": (lambda a: a.astype(a.dtype.newbyteorder()), TypeError, "dtype"),
    "list": (lambda a: a.tolist(), TypeError, "NumPy array, not list"),
    "float": (lambda _: 1.0, TypeError, "NumPy array, not float"),
    "scalar": (lambda _: np.float32(1), TypeError, "NumPy array, not float32"),
    "memoryview": (lambda a: a.data, TypeError, "NumPy array, not memoryview"),
    "nested": (lambda a: {"x": a}, TypeError, "NumPy array, not dict"),
    "masked": (np.ma.masked_array, TypeError, "MaskedArray"),
    "masked elements": (lambda a: np.ma.masked_greater(a, 0), TypeError, "MaskedArray"),
}

NOT_GRADIENTS = NOT_ARRAYS | {
    "other precision": (
        lambda g: g.astype(np.float32 if g.dtype == np.float64 else np.float64),
        TypeError,
        "dtype",
    ),
    "short": (lambda g: g[:-1], ValueError, "shape"),
    "long": (lambda g: np.concatenate([g, g]), ValueError, "shape"),
    "transposed": (lambda g: g.T.copy(), ValueError, "shape"),
    "flat": (lambda g: g.reshape(-1), ValueError, "shape"),
    "one axis more": (lambda g: g[None], ValueError, "shape"),
    "0-d": (lambda g: np.zeros((), g.dtype), ValueError, "shape"),
    "one element": (lambda g: g[:1, :1], ValueError, "shape"),
    "one row": (lambda g: g[:1], ValueError, "shape"),
    "empty": (lambda g: g[:0], ValueError, "shape"),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["first", "last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", NOT_GRADIENTS)
def test_bad_gradient(backend: Any, rule: str, name: str, dtype: Any, kind: str) -> None:
    spoil, error, what = NOT_GRADIENTS[kind]
    with refused(pair(rule, backend, dtype=dtype), error, f"gradient '{name}' .*{what}") as run:
        run.step(**{name: spoil(run.gradients()[name])})


@pytest.mark.parametrize("form", FORMS)
def test_bad_gradient_in_every_structure(backend: Any, form: str) -> None:
    name = "3" if "sequence" in form else "'last'"
    with refused(pair("Adam", backend, form), TypeError, f"gradient {name} has dtype") as run:
        run.step(last=run.gradients()["last"].astype(np.float32))


@pytest.mark.parametrize("bad", [np.zeros(12), np.zeros((6, 1)), np.zeros(6, np.float32)])
def test_bad_gradient_of_a_parameter_with_gaps(backend: Any, bad: Array) -> None:
    with refused(pair("Adam", backend), (TypeError, ValueError), "gradient 'gaps' has") as run:
        run.step(gaps=bad)


def test_bad_gradient_beside_none(backend: Any) -> None:
    with refused(pair("Adam", backend), ValueError, "gradient 'last' has shape") as run:
        run.step(first=None, twin=None, last=np.zeros(6))


def misaligned(a: Array) -> Array:
    copy = np.frombuffer(bytearray(a.nbytes + 1), a.dtype, offset=1, count=a.size).reshape(a.shape)
    copy[...] = a
    return copy


def frozen(a: Array) -> Array:
    view = a.view()
    view.flags.writeable = False
    return view


NOT_PARAMETERS = NOT_ARRAYS | {
    "None": (lambda _: None, TypeError, "NumPy array, not NoneType"),
    "read-only": (frozen, ValueError, "read-only"),
    "read-only broadcast": (lambda p: np.broadcast_to(p[0], p.shape), ValueError, ""),
    "broadcast rows": (lambda p: as_strided(p, p.shape, (0, p.itemsize)), ValueError, "share memory"),
    "broadcast element": (lambda p: as_strided(p, p.shape, (0, 0)), ValueError, "share memory"),
    "sliding window": (
        lambda p: sliding_window_view(p.reshape(-1), 2, writeable=True),
        ValueError,
        "share memory",
    ),
    "window of rows": (
        lambda p: sliding_window_view(np.tile(p, (3, 1)), 2, axis=0, writeable=True),
        ValueError,
        "share memory",
    ),
    "misaligned": (misaligned, ValueError, "aligned"),
    "misaligned, one element": (lambda p: misaligned(p[:1, :1]), ValueError, "aligned"),
    "misaligned, gaps": (lambda p: misaligned(p)[:, ::2], ValueError, "aligned"),
}


@pytest.mark.parametrize("position", ["first", "last"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", NOT_PARAMETERS)
def test_bad_parameter(backend: Any, position: str, dtype: Any, kind: str) -> None:
    spoil, error, what = NOT_PARAMETERS[kind]
    params: dict[str, Any] = {name: np.ones((2, 3), dtype) for name in ("first", "middle", "last")}
    params[position] = spoil(params[position])
    with not_made(params, error, f"parameter '{position}' .*{what}"):
        fs.Adam(params, backend=backend)
    with not_made(params, error, f"parameter {list(params).index(position)} .*{what}"):
        fs.Adam(list(params.values()), backend=backend)


@pytest.mark.parametrize("name", ["last", "gaps"])
def test_parameter_made_read_only_later(backend: Any, name: str) -> None:
    with refused(pair("Adam", backend), ValueError, f"parameter '{name}' is read-only") as run:
        run.params[name].flags.writeable = False
        try:
            run.step()
        finally:
            run.params[name].flags.writeable = True


# What memory arrays share.

SHARED_PARAMETERS: dict[str, Callable[[Array], tuple[Array, Array]]] = {
    "the same": lambda a: (a, a),
    "views": lambda a: (a[:], a[:]),
    "overlapping slices": lambda a: (a[:31], a[30:]),
    "inside": lambda a: (a, a[20:22]),
    "another shape": lambda a: (a, a.reshape(6, 10)),
    "reversed": lambda a: (a, a[::-1]),
    "transposed": lambda a: (a.reshape(6, 10), a.reshape(6, 10).T),
    "one with gaps": lambda a: (a, a[::2]),
    "both with gaps": lambda a: (a[::2], a[::3]),
    "gaps meeting once": lambda a: (a[0:8:7], a[1:8:6]),
    "columns": lambda a: (a.reshape(6, 10)[:, :4], a.reshape(6, 10)[:, 3:]),
    "row and column": lambda a: (a.reshape(6, 10)[2], a.reshape(6, 10)[:, 5]),
    "another dtype": lambda a: (a, a.view(np.float32 if a.dtype == np.float64 else np.float64)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", SHARED_PARAMETERS)
@pytest.mark.parametrize("grouped", [False, True])
def test_parameters_that_share_memory(backend: Any, dtype: Any, kind: str, grouped: bool) -> None:
    a, b = SHARED_PARAMETERS[kind](np.ones(60, dtype))
    params: Any = {"other": np.ones(3), "a": a, "b": b}
    if grouped:
        params = [{"params": {name: p}} for name, p in params.items()]
    label = "parameter '[ab]'"
    with not_made(params, ValueError, f"{label} shares memory with {label}"):
        fs.Adam(params, backend=backend)


def half_an_element_off(run: Run) -> Array:
    size = run.memory.itemsize
    return run.memory.view(np.uint8)[104 * size + 4 : 110 * size + 4].view(run.memory.dtype).reshape(2, 3)


# For a run of Adam: the parameter, a gradient for it, and what that shares memory with.
SHARED_GRADIENTS: dict[str, tuple[str, Callable[[Run], Array], str]] = {
    "its parameter": ("first", lambda r: r.params["first"], "parameter 'first'"),
    "a view of it": ("first", lambda r: r.params["first"].view(), "parameter 'first'"),
    "read-only": ("first", lambda r: frozen(r.params["first"]), "parameter 'first'"),
    "reversed": ("first", lambda r: r.params["first"][::-1, ::-1], "parameter 'first'"),
    "in another order": ("first", lambda r: r.memory[10:45].reshape(7, 5).T, "parameter 'first'"),
    "another parameter": ("first", lambda r: r.params["twin"], "parameter 'twin'"),
    "the last parameter": ("last", lambda r: r.params["last"], "parameter 'last'"),
    "its first element": ("last", lambda r: r.memory[105:111].reshape(2, 3), "parameter 'last'"),
    "its last element": ("first", lambda r: r.memory[44:79].reshape(5, 7), "parameter '(first|twin)'"),
    "half its first element": ("last", half_an_element_off, "parameter 'last'"),
    "an element, broadcast": (
        "first",
        lambda r: np.broadcast_to(r.params["twin"][:1, :1], (5, 7)),
        "parameter 'twin'",
    ),
    "state": ("first", lambda r: r.opt.state["first"]["m"], "state 'm' of parameter 'first'"),
    "other state": ("first", lambda r: r.opt.state["twin"]["v"], "state 'v' of parameter 'twin'"),
    "state, reversed": ("first", lambda r: r.opt.state["first"]["v"][::-1], "state 'v' of parameter 'first'"),
    "state, flat": (
        "last",
        lambda r: r.opt.state["twin"]["m"].reshape(-1)[7:13].reshape(2, 3),
        "state 'm' of parameter 'twin'",
    ),
    "state of gaps": ("gaps", lambda r: r.opt.state["gaps"]["m"], "state 'm' of parameter 'gaps'"),
    "gaps": ("gaps", lambda r: r.params["gaps"], "parameter 'gaps'"),
    "gaps, reversed": ("gaps", lambda r: r.params["gaps"][::-1], "parameter 'gaps'"),
    "a run over gaps": ("gaps", lambda r: r.memory[91:97], "parameter 'gaps'"),
    "the first of gaps": ("gaps", lambda r: r.memory[85:91], "parameter 'gaps'"),
    "the last of gaps": ("gaps", lambda r: r.memory[100:106], "parameter 'gaps'"),
    "gaps, for another": ("last", lambda r: r.memory[95:101].reshape(2, 3), "parameter 'gaps'"),
    "gaps, broadcast": ("last", lambda r: np.broadcast_to(r.memory[92:93], (2, 3)), "parameter 'gaps'"),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", SHARED_GRADIENTS)
@pytest.mark.parametrize("skipped", [(), ("first", "twin", "gaps", "last")])
def test_gradient_that_shares_memory(backend: Any, dtype: Any, kind: str, skipped: tuple[str, ...]) -> None:
    """It is refused too where only that one parameter has a gradient."""
    name, gradient, what = SHARED_GRADIENTS[kind]
    match = f"gradient '{name}' shares memory with {what}"
    with refused(pair("Adam", backend, dtype=dtype), ValueError, match) as run:
        g = gradient(run)
        assert g.shape == run.params[name].shape
        run.step(**{**dict.fromkeys(skipped), name: g})


# How arrays are given.


def endless() -> Iterator[None]:
    """More gradients than there is memory for, as far as anybody needs to look."""
    yield from [None] * 100
    raise AssertionError("it was read on")


BAD_STRUCTURES: dict[str, tuple[str, Callable[[dict[str, Any]], Any], Error, str]] = {
    "missing name": (
        "mapping",
        lambda g: {name: g[name] for name in ("first", "twin", "gaps")},
        ValueError,
        "no gradient for parameter 'last'",
    ),
    "extra name": ("mapping", lambda g: g | {"more": g["last"]}, ValueError, "gradient 'more' belongs to no"),
    "extra None": ("mapping", lambda g: g | {"more": None}, ValueError, "gradient 'more' belongs to no"),
    "other name": (
        "mapping",
        lambda g: {("Last" if name == "last" else name): x for name, x in g.items()},
        ValueError,
        "'[Ll]ast'",
    ),
    "no names": ("mapping", lambda _: {}, ValueError, "no gradient for parameter 'first'"),
    "sequence for mapping": ("mapping", values, TypeError, "gradients must be a mapping"),
    "array for mapping": ("mapping", lambda g: g["first"], TypeError, "gradients must be a mapping"),
    "None for mapping": ("mapping", lambda _: None, TypeError, "gradients must be a mapping"),
    "too few": ("sequence", lambda g: values(g)[:-1], ValueError, "no gradient for parameter 3"),
    "none at all": ("sequence", lambda _: [], ValueError, "no gradient for parameter 0"),
    "too many": ("sequence", lambda g: [*g.values(), None], ValueError, "gradient 4 belongs to no parameter"),
    "mapping for sequence": ("sequence", dict, TypeError, "gradients must be a sequence"),
    "2-D array for sequence": (
        "sequence",
        lambda _: np.zeros((4, 35)),
        TypeError,
        "gradients must be a sequence",
    ),
    "object array for sequence": (
        "sequence",
        lambda _: np.full(4, None, object),
        TypeError,
        "gradients must be a sequence",
    ),
    "None for sequence": ("sequence", lambda _: None, TypeError, "gradients must be a sequence"),
    "number for sequence": ("sequence", lambda _: 1.0, TypeError, "gradients must be a sequence"),
    "set for sequence": ("sequence", lambda _: set(), TypeError, "gradients must be a sequence"),
    "endless for sequence": ("sequence", lambda _: endless(), ValueError, "gradient 4 belongs to no param"),
    "endless for groups of sequences": (
        "groups of sequences",
        lambda _: endless(),
        ValueError,
        "gradient 4 belongs to no parameter",
    ),
    "text for sequence": ("sequence", lambda _: "abcd", TypeError, "gradient"),
    "missing in a group": (
        "groups",
        lambda g: [FORMS["groups"](g)[0], {"params": {"gaps": g["gaps"]}}],
        ValueError,
        "no gradient for parameter 'last'",
    ),
    "in the wrong group": (
        "groups",
        lambda g: [{"params": g}, {"params": {}}],
        ValueError,
        "parameter",
    ),
    "missing group": ("groups", lambda g: FORMS["groups"](g)[:1], (TypeError, ValueError), "gradient"),
    "extra group": ("groups", lambda g: [*FORMS["groups"](g), {}], (TypeError, ValueError), "gradient"),
    "sequence for groups of mappings": ("groups", values, TypeError, "a mapping over all"),
    "missing name over groups": (
        "groups",
        lambda g: {name: g[name] for name in ("first", "gaps", "last")},
        ValueError,
        "no gradient for parameter 'twin'",
    ),
    "too few in a group": (
        "groups of sequences",
        lambda g: [[g["first"], g["twin"]], [g["gaps"]]],
        ValueError,
        "no gradient for parameter 3",
    ),
    "too many in a group": (
        "groups of sequences",
        lambda g: [[g["first"], g["twin"]], [g["gaps"], g["last"], None]],
        ValueError,
        "gradient 4 belongs to no parameter",
    ),
    "too few over groups": (
        "groups of sequences",
        lambda g: values(g)[:3],
        ValueError,
        "no gradient for parameter 3",
    ),
    "2-D array for groups": (
        "groups of sequences",
        lambda _: np.zeros((2, 2)),
        TypeError,
        "gradients must be a list of 2 items, .* or a sequence over all parameters, not ndarray",
    ),
    "mapping for groups of sequences": (
        "groups of sequences",
        dict,
        TypeError,
        "gradients must be a list of 2 items, .* or a sequence over all parameters, not dict",
    ),
    "one group of mappings too few": (
        "groups",
        lambda g: as_groups(dict)(g)[:1],
        TypeError,
        "gradients must be a list of 2 items, .* or a mapping over all parameters, not list",
    ),
    "mapping with a default": (
        "mapping",
        lambda g: defaultdict(lambda: None, {"first": g["first"]}),
        ValueError,
        "no gradient for parameter 'twin'",
    ),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", BAD_STRUCTURES)
def test_bad_structure_of_gradients(backend: Any, rule: str, kind: str) -> None:
    form, spoil, error, match = BAD_STRUCTURES[kind]
    with refused(pair(rule, backend, form), error, match) as run:
        run.offer(spoil(run.gradients()))


@pytest.mark.parametrize("bad", [[np.ones(3)], {0: np.ones(3)}, (None,), 1.0])
def test_gradients_of_a_single_array(backend: Any, bad: Any) -> None:
    p = np.ones(3)
    opt = fs.SGD(p, backend=backend)
    with pytest.raises(TypeError, match=r"gradients must be an array"):
        opt.step(bad)
    assert (p == 1).all()
    assert opt.t == 0


NOT_PARAMS: dict[str, tuple[Callable[[Array], Any], Error, str]] = {
    "empty list": (lambda _: [], ValueError, "no parameters"),
    "empty mapping": (lambda _: {}, ValueError, "no parameters"),
    "empty iterator": (lambda _: iter(()), ValueError, "no parameters"),
    "empty groups": (lambda _: [{"params": []}, {"params": {}}], ValueError, "no parameters"),
    "None": (lambda _: None, TypeError, "params"),
    "number": (lambda _: 1.0, TypeError, "params"),
    "None in a group": (lambda p: [{"params": p}, {"params": None}], TypeError, "params"),
    "group without params": (lambda p: [{"params": p}, {"lr": 0.1}], (TypeError, ValueError), "params"),
    "nested list": (lambda p: [[p]], TypeError, "parameter 0 must be a NumPy array, not list"),
    "name in two groups": (
        lambda p: [{"params": {"v": p, "w": p + 1}}, {"params": {"w": p + 2}}],
        ValueError,
        "parameter 'w' is in two groups",
    ),
    "position in two groups": (
        lambda p: [{"params": [p]}, {"params": {0: p + 1}}],
        ValueError,
        "parameter 0 is in two groups",
    ),
    "masked": (np.ma.masked_array, TypeError, "parameter 0 .*MaskedArray"),
}


@pytest.mark.parametrize("kind", NOT_PARAMS)
def test_bad_structure_of_parameters(backend: Any, kind: str) -> None:
    make, error, match = NOT_PARAMS[kind]
    params = make(np.ones(3))
    with not_made(params, error, match):
        fs.Adam(params, backend=backend)


@pytest.mark.parametrize("backend", ["Native", "", None, 1])
def test_unknown_backend(backend: Any) -> None:
    params = [np.ones(3)]
    with not_made(params, ValueError, r"backend must be 'native' or 'numpy'"):
        fs.SGD(params, backend=backend)


# Hyperparameters.

WRONG_TYPES: list[Any] = [None, "0.1", "", True, np.True_, 0.1j, [0.1], (), {}, np.full(1, 0.1)]
OUTSIDE: dict[str, list[Any]] = {
    "[0, inf)": [-1, -5e-324, np.float32(-0.5)],
    "[0, 1)": [-1, -5e-324, 1, 1.5, np.float64(1)],
    "[0, 1]": [-1, -5e-324, 1.5, np.nextafter(1, 2)],
    "(-inf, 0]": [1, 5e-324],
    "(0, 1)": [-1, 0, 1, 1.5],
    "(0, inf)": [-1, 0],
    "[1, inf)": [0, -1, 1 - 2**-53],
    "[1, inf]": [0, -1, 1 - 2**-53],
    "{-1, -0.75, -0.5, -0.25, 0}": [-2, -0.3, 0.5],
    "(-inf, inf)": [],
}


def schedule_of_one(t: int) -> float:
    return t / t


def bad_values(rule: str, name: str) -> list[tuple[Any, Error]]:
    """Values that this hyperparameter does not take, a schedule aside."""
    field = fs.rules[rule]._fields[name]
    if field.interval is None:
        return [(value, TypeError) for value in (None, 0, 1, 1.0, "True", [True], np.ones(1, bool))]
    numbers: list[Any] = [math.nan, -math.inf, np.float32("nan"), *OUTSIDE[field.interval.text]]
    if field.interval.text != "[1, inf]":
        numbers.append(math.inf)
    return [(value, TypeError) for value in WRONG_TYPES] + [(value, ValueError) for value in numbers]


def bad_settings(rule: str, name: str) -> list[tuple[Any, Error]]:
    field = fs.rules[rule]._fields[name]
    schedulable = field.interval is not None and not field.interval.fixed
    return bad_values(rule, name) + ([] if schedulable else [(schedule_of_one, TypeError)])


@pytest.mark.parametrize("rule", fs.rules)
def test_bad_hyperparameter_of_a_new_optimizer(backend: Any, rule: str) -> None:
    p, q = np.ones(3), np.ones(4)
    for name in fs.rules[rule]._fields:
        for value, error in bad_settings(rule, name):
            with not_made([p, q], error, rf"\b{name} must be"):
                fs.rules[rule]([p, q], backend=backend, **{name: value})
            with not_made([p, q], error, rf"\b{name} must be"):
                fs.rules[rule]([{"params": p}, {"params": q, name: value}], backend=backend)


def by_attribute(opt: Any, name: str, value: Any) -> None:
    setattr(opt, name, value)


def by_group(opt: Any, name: str, value: Any) -> None:
    opt.groups[-1][name] = value


def by_checkpoint(opt: Any, name: str, value: Any) -> None:
    """All of the checkpoint differs from what the optimizer has, so a part that was loaded shows."""
    saved = opt.state_dict()
    saved["t"] += 1
    for slots in saved["state"].values():
        for array in slots.values():
            np.add(array, 1, out=array)
    for group in saved["groups"]:
        group["hyperparameters"]["lr"] /= 2
        group["scalars"] = {key: number + 1 for key, number in group["scalars"].items()}
    saved["groups"][-1]["hyperparameters"][name] = value
    opt.load_state_dict(saved)


WAYS = [by_attribute, by_group, by_checkpoint]


def of_each_range() -> Iterator[tuple[str, str]]:
    """A hyperparameter of each range in some rules, and of those ranges that only others have."""
    seen: set[Any] = set()
    for rules in (RULES, fs.rules):
        found: dict[Any, tuple[str, str]] = {}
        for rule in rules:
            for name, field in fs.rules[rule]._fields.items():
                values = field.interval and (field.interval.text, field.interval.fixed)
                if values not in seen:
                    found.setdefault((rule if rules is RULES else "", values), (rule, name))
        yield from found.values()
        seen = {values for _, values in found}


OF_EACH_RANGE = list(of_each_range())


@pytest.mark.parametrize(("rule", "name"), OF_EACH_RANGE)
@pytest.mark.parametrize("way", WAYS)
def test_bad_hyperparameter_set(backend: Any, rule: str, name: str, way: Callable[..., None]) -> None:
    runs = pair(rule, backend, "groups")
    for value, error in bad_settings(rule, name):
        with refused(runs, error, rf"\b{name} must be") as run:
            way(run.opt, name, value)


@pytest.mark.parametrize("rule", fs.rules)
def test_every_hyperparameter_is_checked_when_set(rule: str) -> None:
    """By what checks that of a new optimizer, so that one value shows it."""
    runs = pair(rule, "native", "groups")
    for name, way in itertools.product(fs.rules[rule]._fields, WAYS):
        value, error = bad_settings(rule, name)[-1]
        with refused(runs, error, rf"\b{name} must be") as run:
            way(run.opt, name, value)


def schedulable(rule: str) -> list[str]:
    fields = fs.rules[rule]._fields.items()
    return [name for name, field in fields if field.interval and not field.interval.fixed]


def tried(backend: Any, rule: str, name: str) -> Callable[[Any, Error], None]:
    """Checks that a value of a schedule is refused: every group has one; in the last one it goes wrong."""
    good = fs.rules[rule]._fields[name].default
    runs = pair(rule, backend, "groups", **{name: Schedule(good)})
    for run in runs:
        run.opt.groups[-1][name] = Schedule(good)
    schedule = runs[0].opt.groups[-1][name]

    def is_refused(value: Any, error: Error) -> None:
        t = runs[0].opt.t + 1
        with refused(runs, error, rf"\b{name}\({t}\) must be") as run:
            schedule.value = value
            try:
                run.step()
            finally:
                schedule.value = good

    return is_refused


@pytest.mark.parametrize(("rule", "name"), [(r, name) for r, name in OF_EACH_RANGE if name in schedulable(r)])
def test_bad_value_of_a_schedule(backend: Any, rule: str, name: str) -> None:
    is_refused = tried(backend, rule, name)
    for value, error in [*bad_values(rule, name), (schedule_of_one, TypeError)]:
        is_refused(value, error)


@pytest.mark.parametrize("rule", fs.rules)
def test_every_schedule_is_checked(rule: str) -> None:
    for name in schedulable(rule):
        tried("native", rule, name)(math.nan, ValueError)


@pytest.mark.parametrize("rule", RULES)
def test_schedule_that_raises(backend: Any, rule: str) -> None:
    runs = pair(rule, backend, "groups", lr=Schedule(0.5))
    with refused(runs, ZeroDivisionError, "zero") as run:
        run.opt.groups[-1]["lr"] = lambda t: 1 / (t - 3)
        try:
            run.step()
        finally:
            run.opt.groups[-1]["lr"] = Schedule(0.5)


@pytest.mark.parametrize("value", HUGE, ids=["huge", "-huge"])
def test_number_that_no_float_can_hold(backend: Any, value: int) -> None:
    with pytest.raises(ValueError, match=r"\blr must be"):
        fs.SGD(np.ones(3), lr=value, backend=backend)
    runs = pair("Eve", backend, "groups")
    for way in WAYS:
        with refused(runs, ValueError, r"\blr must be") as run:
            way(run.opt, "lr", value)
    for name in ("scale", "loss"):
        with refused(runs, ValueError, rf"\b{name} must be") as run:
            run.offer(run.form(run.gradients()), **{name: value})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["nope", "params", "LR", "t", "kernel", "self"])
def test_unknown_hyperparameter(backend: Any, rule: str, name: str) -> None:
    p, q = np.ones(3), np.ones(4)
    option: dict[str, Any] = {name: 0.1}
    if name not in {"params", "self"}:
        with not_made([p, q], TypeError, f"no hyperparameter '{name}'; there are .*lr"):
            fs.rules[rule]([p, q], backend=backend, **option)
    if name != "params":
        with not_made([p, q], TypeError, f"no hyperparameter '{name}'; there are .*lr"):
            fs.rules[rule]([{"params": p}, {"params": q, **option}], backend=backend)
    with refused(pair(rule, backend, "groups"), KeyError, f"no hyperparameter '{name}'") as run:
        run.opt.groups[-1][name] = 0.1


# Options that decide which state there is: given at construction, and what they cannot become.
STRUCTURAL: list[tuple[str, dict[str, Any], str, Any]] = [
    *((rule, {}, "amsgrad", True) for rule in ("Adam", "AdamW", "Eve")),
    *((rule, {"amsgrad": True}, "amsgrad", False) for rule in ("Adam", "AdamW", "Eve")),
    ("RMSProp", {}, "momentum", 0.5),
    ("RMSProp", {}, "momentum", schedule_of_one),
    ("RMSProp", {"momentum": 0.5}, "momentum", 0.0),
    ("RMSProp", {"momentum": 0.5, "centered": True}, "momentum", 0),
    ("RMSProp", {}, "centered", True),
    ("RMSProp", {"centered": True}, "centered", False),
    ("RMSProp", {"centered": True}, "momentum", 0.5),
    ("RMSProp", {"momentum": 0.5}, "centered", True),
    ("Adagrad", {}, "initial_accumulator", 0.1),
    ("Adagrad", {"initial_accumulator": 0.1}, "initial_accumulator", 0.0),
]


@pytest.mark.parametrize(("rule", "options", "name", "value"), STRUCTURAL)
@pytest.mark.parametrize("way", WAYS)
def test_structural_option(
    backend: Any, rule: str, options: dict[str, Any], name: str, value: Any, way: Callable[..., None]
) -> None:
    runs = pair(rule, backend, "groups", **options)
    with refused(runs, ValueError, rf"\b{name}\b.*(state|fixed at construction)") as run:
        way(run.opt, name, value)


def test_structural_option_of_some_groups(backend: Any) -> None:
    """The group that could take the value does not take it alone, whichever comes first."""
    for momentums in ([0.9, 0.0], [0.0, 0.9]):
        for value in (0.5, 0.0):
            p, q = [np.ones(3), np.ones(4)], [np.ones(3), np.ones(4)]
            opt, control = (
                fs.RMSProp(
                    [{"params": a, "momentum": m} for a, m in zip(arrays, momentums, strict=True)],
                    backend=backend,
                )
                for arrays in (p, q)
            )
            with pytest.raises(ValueError, match=r"momentum=.* needs other state"):
                opt.momentum = value
            assert [group["momentum"] for group in opt.groups] == momentums
            for each in (opt, control):
                each.step([np.ones(3), np.ones(4)])
            assert all(map(np.array_equal, p, q))


# What a step is told.

NOT_NUMBERS: list[tuple[Any, Error]] = [
    *((value, TypeError) for value in WRONG_TYPES if value is not None),
    *((value, ValueError) for value in (math.nan, math.inf, -math.inf, np.float32("inf"))),
]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["scale", "loss"])
def test_bad_scale_and_loss(backend: Any, rule: str, name: str) -> None:
    runs = pair(rule, backend)
    ignored = name == "loss" and not fs.rules[rule].needs_loss  # then it need not be finite
    for value, error in [*NOT_NUMBERS, *([(None, TypeError)] if name == "scale" else [])]:
        if ignored and error is ValueError:
            continue
        with refused(runs, error, rf"\b{name} must be") as run:
            run.offer(run.gradients(), **{name: value})


@pytest.mark.parametrize(
    ("loss", "match"),
    [(None, "needs the loss"), (0.49, "loss 0.49 is below f_star"), (-1e300, "below f_star")],
)
@pytest.mark.parametrize("scheduled", [False, True])
def test_loss_that_eve_cannot_use(backend: Any, loss: float | None, match: str, scheduled: bool) -> None:
    """Only the last group refuses a loss that is too low."""
    runs = pair("Eve", backend, "groups", f_star=-1e308)
    for run in runs:
        run.opt.groups[-1]["f_star"] = Schedule(0.5) if scheduled else 0.5
    with refused(runs, ValueError, match) as run:
        run.offer(run.form(run.gradients()), loss=loss)


def test_first_step_of_eve_without_loss(backend: Any) -> None:
    p = np.ones(3)
    opt = fs.Eve(p, backend=backend)
    with pytest.raises(ValueError, match=r"Eve needs the loss"):
        opt.step(np.ones(3))
    assert (p == 1).all()
    assert opt.t == 0
    assert not opt.state["m"].any()
    assert opt.state_dict()["groups"] == fs.Eve(np.ones(3)).state_dict()["groups"]


@pytest.mark.parametrize("rule", RULES)
def test_step_within_a_step(backend: Any, rule: str) -> None:
    """A schedule that steps its own optimizer."""
    run, control = pair(rule, backend)
    lr = run.opt.lr

    def step_again(t: int) -> float:
        run.step()
        return 0.1 * t

    run.opt.lr = step_again
    with pytest.raises(RuntimeError, match=r"this optimizer is in use: a step"):
        run.step()
    run.opt.lr = lr
    assert run.bits() == control.bits()
    run.step()
    control.step()
    assert run.bits() == control.bits()


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copy(backend: Any, copying: Callable[[Any], Any]) -> None:
    """A copy would share parameters, or have some that nobody else knows."""
    with refused(pair("Adam", backend), TypeError, r"cannot copy or pickle Adam; use state_dict") as run:
        copying(run.opt)


def test_groups_are_as_they_were_made(backend: Any) -> None:
    with refused(pair("Adam", backend, "groups"), (AttributeError, TypeError), "tuple") as run:
        run.opt.groups.append({"params": np.ones(3)})  # type: ignore[attr-defined]
    with refused(pair("Adam", backend, "groups"), TypeError, "tuple") as run:
        run.opt.groups[0] = {"params": np.ones(3)}  # type: ignore[index]


# Checkpoints.


def put(*path: Any) -> Callable[[Any], None]:
    """Replace what is at the path by its last item."""
    *where, key, value = path

    def spoil(saved: Any) -> None:
        for step in where:
            saved = saved[step]
        saved[key] = value

    return spoil


def without(*path: Any) -> Callable[[Any], None]:
    *where, key = path

    def spoil(saved: Any) -> None:
        for step in where:
            saved = saved[step]
        del saved[key]

    return spoil


LAST = ("state", "last")
SHAPE = (2, 3)
BAD_CHECKPOINTS: dict[str, tuple[Callable[[Any], Any], Error, str]] = {
    "other rule": (put("rule", "Adam"), ValueError, "checkpoint is of Adam, the optimizer is Eve"),
    "no rule": (put("rule", None), ValueError, "checkpoint is of None"),
    **{
        f"t={t!r}": (put("t", t), (TypeError, ValueError), r"\bt must be")
        for t in (-1, 2.5, "3", None, True, math.nan, [1])
    },
    "t: no float": (put("t", HUGE[0]), (TypeError, ValueError), r"\bt must be"),
    **{f"without {key}": (without(key), ValueError, f"'{key}'") for key in ("rule", "t", "groups", "state")},
    "more": (put("more", 1), ValueError, "'more'"),
    "groups: fewer": (without("groups", 1), ValueError, "1 groups, not 2"),
    "groups: more": (lambda s: s["groups"].append(s["groups"][0]), ValueError, "3 groups, not 2"),
    "groups: None": (put("groups", None), (TypeError, ValueError), "groups"),
    "group: None": (put("groups", 1, None), (TypeError, ValueError), "group"),
    "group: more": (put("groups", 1, "lr", 0.1), ValueError, "'lr'"),
    **{
        f"group: without {key}": (without("groups", 1, key), ValueError, f"'{key}'")
        for key in ("params", "hyperparameters", "scalars")
    },
    "params: fewer": (without("groups", 1, "params", 0), ValueError, "'gaps' is missing"),
    "params: of the other group": (
        lambda s: [put("groups", i, "params", list(PARTS[1 - i]))(s) for i in (0, 1)],
        ValueError,
        "'first' is missing",
    ),
    "params: None": (put("groups", 1, "params", None), TypeError, "params"),
    "params: a name": (put("groups", 1, "params", "gaps"), TypeError, "params"),
    "hyperparameters: unknown": (put("groups", 1, "hyperparameters", "nope", 0.1), ValueError, "'nope'"),
    "hyperparameters: None": (
        put("groups", 1, "hyperparameters", None),
        (TypeError, ValueError),
        "hyperparameters",
    ),
    "hyperparameters: names": (
        put("groups", 1, "hyperparameters", ["lr"]),
        (TypeError, ValueError),
        "hyperparameters",
    ),
    "scalars: missing": (without("groups", 1, "scalars", "d"), ValueError, "'d'"),
    "scalars: more": (put("groups", 1, "scalars", "e", 1.0), ValueError, "'e'"),
    "scalars: names": (put("groups", 1, "scalars", ["d", "f"]), (TypeError, ValueError), "scalars"),
    "scalars: None": (put("groups", 1, "scalars", None), (TypeError, ValueError), "scalars"),
    **{
        f"scalar: {value!r}": (put("groups", 1, "scalars", "d", value), (TypeError, ValueError), "'?d'?")
        for value in ("1", None, [1.0], np.ones(2), True)
    },
    "state: missing": (without(*LAST), ValueError, "'last'"),
    "state: other names": (lambda s: s["state"].update(Last=s["state"].pop("last")), ValueError, "'[lL]ast'"),
    "state: more": (lambda s: s["state"].update(more=s["state"]["last"]), ValueError, "'more'"),
    "state: None": (put("state", None), (TypeError, ValueError), "state"),
    "slots: missing": (without(*LAST, "v"), ValueError, "'last'.*'v'"),
    "slots: more": (put(*LAST, "vmax", np.ones(SHAPE)), ValueError, "'last'.*'vmax'"),
    "slots: none": (put(*LAST, {}), ValueError, "'last'.*'m'"),
    "slots: None": (put(*LAST, None), (TypeError, ValueError), "'last'"),
    "slots: names": (put(*LAST, ["m", "v"]), (TypeError, ValueError), "'last'"),
    **{
        f"array: {kind}": (put(*LAST, "v", value), error, "state 'v' of parameter 'last'")
        for kind, value, error in (
            ("shape", np.ones((3, 2)), ValueError),
            ("flat", np.ones(6), ValueError),
            ("0-d", np.ones(()), ValueError),
            ("row", np.ones(3), ValueError),
            ("float32", np.ones(SHAPE, np.float32), TypeError),
            ("int", np.ones(SHAPE, int), TypeError),
            ("object", np.ones(SHAPE, object), TypeError),
            ("byte-swapped", np.ones(SHAPE).astype(np.dtype(np.float64).newbyteorder()), TypeError),
            ("masked", np.ma.masked_array(np.ones(SHAPE)), TypeError),
            ("list", np.ones(SHAPE).tolist(), TypeError),
            ("number", 0.0, TypeError),
            ("None", None, TypeError),
        )
    },
}


@pytest.mark.parametrize("kind", BAD_CHECKPOINTS)
def test_bad_checkpoint(backend: Any, kind: str) -> None:
    """All else in it differs from what the optimizer has, so a part that was loaded shows."""
    spoil, error, match = BAD_CHECKPOINTS[kind]
    source = Run("Eve", backend, "groups", lr=0.5, beta3=0.25)
    source.step()
    saved = source.opt.state_dict()
    spoil(saved)
    with refused(pair("Eve", backend, "groups"), error, match) as run:
        run.opt.load_state_dict(saved)


@pytest.mark.parametrize("bad", [None, [], "state", 1, np.ones(3), {}])
def test_no_checkpoint(backend: Any, bad: Any) -> None:
    with refused(pair("Adam", backend), (TypeError, ValueError), "checkpoint|state_dict") as run:
        run.opt.load_state_dict(bad)


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, dict[str, Any]]:
    """One of every rule."""
    return {rule: Run(rule, "native").opt.state_dict() for rule in fs.rules}


@pytest.mark.parametrize("rule", fs.rules)
def test_checkpoint_of_another_rule(rule: str, checkpoints: dict[str, dict[str, Any]]) -> None:
    run = Run(rule, "native")
    before = run.bits()
    for other, saved in checkpoints.items():
        if other != rule:
            match = re.escape(f"checkpoint is of {other}, the optimizer is {rule}")
            with pytest.raises(ValueError, match=match):
                run.opt.load_state_dict(saved)
    assert run.bits() == before


@pytest.mark.parametrize("form", ["sequence", "groups", "groups of sequences"])
def test_checkpoint_of_other_names_or_groups(backend: Any, form: str) -> None:
    saved = Run("Adam", backend, form).opt.state_dict()
    match = "groups" if "groups" in form else "group of the checkpoint: 'first' is missing"
    with refused(pair("Adam", backend), ValueError, match) as run:
        run.opt.load_state_dict(saved)


def test_checkpoint_of_another_precision(backend: Any) -> None:
    saved = Run("Adam", backend, dtype=np.float32).opt.state_dict()
    with refused(pair("Adam", backend), TypeError, "state 'm' of parameter 'first'") as run:
        run.opt.load_state_dict(saved)


def test_checkpoint_of_other_state(backend: Any) -> None:
    for amsgrad in (False, True):
        checkpoint = Run("Adam", backend, amsgrad=not amsgrad).opt.state_dict()
        with refused(pair("Adam", backend, amsgrad=amsgrad), ValueError, "amsgrad|vmax") as run:
            run.opt.load_state_dict(checkpoint)

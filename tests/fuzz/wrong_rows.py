"""Rows that cannot be used, in both kinds of steps: their indices, their values, the parameter's name."""

from __future__ import annotations

import random
from collections.abc import Hashable
from typing import Any

import numpy as np

import fusedstep as fs
from tests.fuzz.arrays import Array
from tests.fuzz.hostile import Endless, Failing, failing, lying
from tests.fuzz.mistakes import Mistake
from tests.fuzz.subject import Subject
from tests.fuzz.wrong_gradients import given_with, spoiled


def table(rng: random.Random, subject: Subject) -> Hashable | None:
    """The name of a parameter whose rows can be stepped."""
    tables = [name for name in subject.params if subject.takes_rows(name)]
    return rng.choice(tables) if tables else None


def refused(
    rng: random.Random, subject: Subject, name: Hashable, kind: str, rows: Any, values: Any
) -> Mistake:
    """Rows in a step, or a step of rows."""
    named = (f"parameter {name!r}", f"gradient {name!r}", f"rows {name!r}", repr(name))
    if rng.random() < 0.5:
        attempt, given = given_with(rng, subject, name, fs.Rows(rows, values))
        return Mistake(f"rows with {kind}", attempt, named, given=given)
    return Mistake(
        f"step_rows with {kind}", lambda: subject.opt.step_rows(name, rows, values), named, given=[values]
    )


def wrong_indices(rng: random.Random, subject: Subject) -> Mistake | None:
    name = table(rng, subject)
    if name is None:
        return None
    p = subject.params[name].array
    n = len(p)
    bad: dict[str, Any] = {
        "too large": [0, n],
        "negative": [-1, 0],
        "huge": [0, 10**30],
        "huge int64": [0, 2**63 - 1],
        "huge uint64": np.array([0, 2**64 - 1], np.uint64),
        "least int64": np.array([0, -(2**63)], np.int64),
        "floats": [0.0, 0.0],
        "float array": np.zeros(2),
        "NaN": np.full(2, np.nan),
        "bools": [True, False],
        "bool array": np.zeros(2, bool),
        "mixed": [0, True],
        "mask": np.zeros(n + 1, bool),
        "two axes": np.zeros((2, 1), np.int64),
        "no axes": np.array(0),
        "number": 0,
        "None": None,
        "text": "00",
        "texts": ["0", "0"],
        "bytes": b"\0\0",
        "objects": np.array([0, None]),
        "ragged": [[0], [0, 0]],
        "nested": [[0, 0]],
        "set": {0, 1},
        "mapping": {0: 0, 1: 1},
        "generator": (0 for _ in range(2)),
        "dates": np.zeros(2, "M8[s]"),
        "times": np.zeros(2, "m8[s]"),
        "record": np.zeros(2, [("x", np.int64)]),
        "masked": np.ma.masked_array([0, 0], [True, False]),
        "huge range": range(10**12),
        "endless": Endless(10**12),
        "failing": Failing(),
        "too few": [0],
        "too many": [0, 0, 0],
    }
    kind = rng.choice(list(bad))
    return refused(rng, subject, name, kind, bad[kind], np.zeros((2, *p.shape[1:]), p.dtype))


def wrong_values(rng: random.Random, subject: Subject) -> Mistake | None:
    name = table(rng, subject)
    if name is None:
        return None
    p = subject.params[name].array
    kind, bad = spoiled(rng, np.zeros((2, *p.shape[1:]), p.dtype))
    return refused(rng, subject, name, f"values: {kind}", [0, 0], bad)


def shared_values(rng: random.Random, subject: Subject) -> Mistake | None:
    """They lie in the parameter, or in its state."""
    name = table(rng, subject)
    if name is None or not subject.params[name].array.size:
        return None
    p = subject.params[name].array
    state = subject.opt.state if subject.form == "array" else subject.opt.state[name]
    places: list[Array] = [p, *(a for a in state.values() if a.shape == p.shape and a.dtype == p.dtype)]
    values = rng.choice(places)[:1]
    return refused(rng, subject, name, "values that share memory", [0], values)


def indices_in_parameter(rng: random.Random, subject: Subject) -> Mistake | None:
    """The memory of a parameter holds the indices; they may count as they were before the step."""
    name = table(rng, subject)
    if name is None:
        return None
    p = subject.params[name].array
    kind = np.dtype(f"u{p.itemsize}")
    if not (p.flags.c_contiguous and p.size and p.itemsize > 2):
        return None
    count = rng.randint(1, p.size)
    values = np.ones((count, *p.shape[1:]), p.dtype)

    def attempt(of: Subject, *, copied: bool) -> None:
        array = of.params[name].array
        array.view(kind).reshape(-1)[:count] %= len(array)  # now they are rows of it
        indices = array.view(kind).reshape(-1)[:count]
        of.opt.step_rows(name, indices.copy() if copied else indices, values)

    return Mistake(
        f"indices in {p.dtype}{p.shape}",
        lambda: attempt(subject, copied=False),
        (repr(name),),
        honest=lambda twin: attempt(twin, copied=True),
    )


def hostile_rows(rng: random.Random, subject: Subject) -> Mistake | None:
    """The gradients of rows, or their indices, are hostile subclasses; they may be seen through."""
    name = table(rng, subject)
    if name is None or not len(subject.params[name].array):
        return None
    p = subject.params[name].array
    indices, values = np.zeros(2, np.int64), np.ones((2, *p.shape[1:]), p.dtype)
    which = rng.randrange(2)
    what, liar = rng.choice([lying, failing])(rng, [indices, values][which])
    given: list[Any] = [indices, values]
    given[which] = liar
    return Mistake(
        f"{['indices', 'values'][which]} of rows are hostile: {what}",
        lambda: subject.opt.step_rows(name, *given),
        (repr(name), "rows"),
        honest=lambda twin: twin.opt.step_rows(name, indices, values),
    )


def wrong_name(rng: random.Random, subject: Subject) -> Mistake:
    name: Any = rng.choice(["nope", -1, 99, None, 0.5, (), [], {}, np.zeros(2)])
    return Mistake(
        f"step_rows of {name!r}",
        lambda: subject.opt.step_rows(name, [0], np.zeros((1, 2))),
        ("parameter", "name", repr(name)),
        errors=(KeyError, TypeError, ValueError),
    )


def wrong_rule(rng: random.Random, subject: Subject) -> Mistake | None:
    """Rows of a parameter that has none, or for a rule that steps none."""
    name = rng.choice(list(subject.params))
    if subject.takes_rows(name):
        return None
    p = subject.params[name].array
    return Mistake(
        f"step_rows of {p.shape} of {subject.rule}",
        lambda: subject.opt.step_rows(name, [0], np.zeros((1, *p.shape[1:]), p.dtype)),
        (repr(name), subject.rule, "cautious"),
    )

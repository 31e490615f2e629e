"""Gradients that cannot be used: their kind, dtype, shape, memory, or the structure that they come in."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

import fusedstep as fs
from tests.fuzz.arrays import FLOAT64, Array
from tests.fuzz.hostile import FailingDict, Pretender, a_liar, failing, lying, not_arrays
from tests.fuzz.mistakes import Mistake, apart
from tests.fuzz.subject import Subject


def good(rng: random.Random, subject: Subject) -> dict[Hashable, Any]:
    """Arrays for all parameters, that are nothing special."""
    with apart(rng, subject):
        return {
            name: np.array(subject.array(name, p.array.shape), order="C")
            for name, p in subject.params.items()
        }


def given_with(
    rng: random.Random, subject: Subject, name: Hashable, bad: Any, **options: Any
) -> tuple[Callable[[], Any], Any]:
    """A step in which one gradient is `bad`, and its gradients; other parameters may have none."""
    grads: dict[Hashable, Any] = good(rng, subject)
    if rng.random() < 0.3:
        grads = dict.fromkeys(grads)
    grads[name] = bad
    with apart(rng, subject):
        options = subject.step_options({}) | options
    return (lambda: subject.opt.step(subject.formed(grads), **options)), list(grads.values())


def spoiled(rng: random.Random, g: Array) -> tuple[str, Any]:
    """A gradient of a wrong kind, dtype or shape."""
    other = np.float32 if g.dtype == FLOAT64 else np.float64
    bad: dict[str, Any] = {
        "int": lambda: g.astype(np.int64),
        "bool": lambda: g.astype(bool),
        "raw bits": lambda: g.view(f"u{g.itemsize}"),
        "complex": lambda: g.astype(np.complex128),
        "long double": lambda: g.astype(np.longdouble),
        "object": lambda: g.astype(object),
        "None objects": lambda: np.full(g.shape, None),
        "text": lambda: g.astype(float).astype("U9"),
        "dates": lambda: np.zeros(g.shape, "M8[s]"),
        "record": lambda: np.zeros(g.shape, [("x", g.dtype)]),
        "byte order": lambda: np.zeros(g.shape, np.dtype(f"f{g.itemsize}").newbyteorder()),
        "precision": lambda: g.astype(other),
        "axis before": lambda: g[None],
        "axis after": lambda: g[..., None],
        "an axis within": lambda: np.zeros((*g.shape[:1], 7, *g.shape[1:]), g.dtype),
        "twice as long": lambda: np.concatenate([g.reshape(-1), g.reshape(-1), np.zeros(2, g.dtype)]),
        "pretender": lambda: Pretender(g[None]),
    }
    if g.ndim > 1:
        bad["flat"] = lambda: g.reshape(-1)
    if g.shape != g.shape[::-1]:
        bad["transposed"] = lambda: g.T
    if g.ndim and len(g):
        bad["a row less"] = lambda: g[:-1]
    kind = rng.choice([*bad, *not_arrays(g)])
    with np.errstate(all="ignore"):
        return kind, bad[kind]() if kind in bad else not_arrays(g)[kind]


def wrong_array(rng: random.Random, subject: Subject) -> Mistake:
    name, g = rng.choice(list(good(rng, subject).items()))
    kind, bad = spoiled(rng, g)
    attempt, given = given_with(rng, subject, name, bad)
    named = [f"gradient {name!r}"]
    if subject.form == "array" and not isinstance(bad, np.ndarray):
        named.append("gradients must be")
    return Mistake(f"gradient {name!r} in {subject.form} is {kind}", attempt, tuple(named), given=given)


def read_only(rng: random.Random, subject: Subject) -> Mistake | None:
    """It is to be set to zero."""
    name, g = rng.choice(list(good(rng, subject).items()))
    if not g.size:
        return None
    g = np.broadcast_to(g.reshape(-1)[:1].reshape(()), g.shape) if rng.random() < 0.5 else g
    g.flags.writeable = False
    attempt, given = given_with(rng, subject, name, g, zero_grad=True)
    return Mistake("gradient is read-only", attempt, (f"gradient {name!r}",), given=given)


def all_state(subject: Subject) -> dict[tuple[Hashable, str], Array]:
    """The arrays of the state, live, by parameter and slot."""
    of = {0: subject.opt.state} if subject.form == "array" else subject.opt.state
    return {(name, slot): a for name, slots in of.items() for slot, a in slots.items()}


def shared(rng: random.Random, subject: Subject) -> Mistake | None:
    """It lies in the memory of a parameter or of state."""
    name = rng.choice(list(subject.params))
    shape, dtype = subject.params[name].array.shape, subject.params[name].array.dtype
    places = [p.array for p in subject.params.values()] + list(all_state(subject).values())
    place = rng.choice([a for a in places if a.size] or [np.zeros(1)])
    memory = place.T if place.T.flags.c_contiguous else place
    count = int(np.prod(shape))
    if not count or (memory.dtype == FLOAT64) != (dtype == FLOAT64):
        return None
    if memory.flags.c_contiguous and memory.size >= count and rng.random() < 0.7:
        start = rng.randint(0, memory.size - count)
        bad = memory.reshape(-1)[start : start + count].reshape(shape)
    else:
        spot: Any = tuple(rng.randrange(n) for n in memory.shape)
        bad = np.broadcast_to(memory[(*spot, ...)], shape)
    if not any(np.shares_memory(bad, a) for a in places):
        return None
    attempt, _ = given_with(rng, subject, name, bad)
    return Mistake(f"gradient shares memory {bad.shape} of {place.shape}", attempt, ("shares memory",))


def hostile(rng: random.Random, subject: Subject) -> Mistake:
    """It is a hostile subclass; it may be seen through."""
    grads = good(rng, subject)
    name = rng.choice(list(grads))
    copies = {key: g.copy() for key, g in grads.items()}
    what, bad = rng.choice([lying, failing])(rng, grads[name])
    options = {"loss": 20.0, "zero_grad": rng.random() < 0.3}
    return Mistake(
        f"gradient {name!r} is hostile: {what}",
        lambda: subject.opt.step(subject.formed({**grads, name: bad}), **options),
        (f"gradient {name!r}", "gradient"),
        honest=lambda twin: twin.opt.step(twin.formed(copies), **options),
        given=list(grads.values()),
    )


def falsely_writeable(rng: random.Random, subject: Subject) -> Mistake | None:
    """It says that it can be set to zero, and is read-only."""
    name, g = rng.choice(list(good(rng, subject).items()))
    if not g.size:
        return None
    g.flags.writeable = False
    bad = a_liar(g, {"flags": np.zeros(1).flags})
    attempt, given = given_with(rng, subject, name, bad, zero_grad=True)
    return Mistake("gradient is read-only, but denies it", attempt, (f"gradient {name!r}",), given=given)


def wrong_structure(rng: random.Random, subject: Subject) -> Mistake | None:
    grads = good(rng, subject)
    formed, values = subject.formed(grads), list(grads.values())
    first, last = next(iter(grads)), next(reversed(grads))
    bad: dict[str, Any] = {
        "None": None,
        "number": 1.0,
        "set": set(),
        "text": "x" * len(values),
        "objects": np.full(len(values), None),
        "endless": itertools.repeat(None),
        "failing": FailingDict(grads),
        "one more": subject.formed({**grads, "more": None}) if len(values) > 1 else [*values, None],
        "nested": [[[formed]]],
        "type": dict,
    }
    if len(values) > 1:
        bad["one less"] = subject.formed({name: g for name, g in grads.items() if name != last}, flat=True)
        bad["first"] = grads[first]
    if subject.form in {"mapping", "groups"}:
        bad["values"] = [values]
        bad["other name"] = {("other" if name == first else name): g for name, g in grads.items()}
    if subject.form == "array":
        bad = {kind: item for kind, item in bad.items() if kind not in {"None", "one more"}}
    if subject.form == "groups" and len(values) == 1:
        bad.pop("one more")
    kind = rng.choice(list(bad))
    return Mistake(
        f"gradients of {subject.form} in a wrong structure: {kind}",
        lambda: subject.opt.step(bad[kind], loss=20.0),
        ("gradient",),
        given=values,
    )


def wrong_rows(rng: random.Random, subject: Subject) -> Mistake | None:
    """Rows for a rule that takes none, or for a parameter without rows."""
    name = rng.choice(list(subject.params))
    if subject.takes_rows(name):
        return None
    p = subject.params[name].array
    rows = fs.Rows([0], np.zeros((1, *p.shape[1:]), p.dtype))
    attempt, given = given_with(rng, subject, name, rows)
    named = (f"{name!r}", subject.rule, "cautious")
    return Mistake(f"rows for {p.shape} of {subject.rule}", attempt, named, given=given)

"""A state_dict in which one thing is wrong."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.fuzz.mistakes import Mistake
from tests.fuzz.subject import Subject

Change = Callable[[], Any]


def wrong_state(rng: random.Random, subject: Subject) -> Mistake:
    saved = subject.opt.state_dict()
    saved["t"] += 3  # so that loading anything of it shows
    part = rng.choice([of_all, of_groups, of_state])
    what, named, change = rng.choice(part(rng, saved))
    change()
    return Mistake(f"state_dict: {what}", lambda: subject.opt.load_state_dict(saved), named)


def no_state(rng: random.Random, subject: Subject) -> Mistake:
    saved = subject.opt.state_dict()
    given: Any = rng.choice([None, list(saved.items()), [saved], "rule", 1.0, np.zeros(3)])
    named = ("state_dict", "state", "checkpoint")
    return Mistake(f"no state_dict but {type(given)}", lambda: subject.opt.load_state_dict(given), named)


Changes = list[tuple[str, tuple[str, ...], Change]]


def of_all(rng: random.Random, saved: dict[str, Any]) -> Changes:
    bad_t = rng.choice([-1, 1.5, math.nan, math.inf, "3", None, 10**400, True, [1], np.zeros(1)])
    bad_steps = rng.choice([-1, 1.5, math.nan, "3", None, 10**400])
    known = rng.choice(list(saved["state"]))
    key = rng.choice(["rule", "t", "groups", "state"])
    return [
        ("nothing", ("state", "checkpoint", "rule"), saved.clear),
        (f"no {key}", (key,), lambda: saved.pop(key)),
        ("extra", ("extra",), lambda: saved.update(extra=1)),
        ("rule", ("rule", "nope"), lambda: saved.update(rule="nope")),
        ("rule None", ("rule", "checkpoint is of"), lambda: saved.update(rule=None)),
        (f"t {bad_t!r:.20}", ("t must", "'t'", "t ", "step"), lambda: saved.update(t=bad_t)),
        ("row_steps None", ("row_steps",), lambda: saved.update(row_steps=None)),
        ("row_steps of another", ("row_steps", "nope"), lambda: saved.update(row_steps={"nope": 1})),
        (
            f"row_steps {bad_steps!r:.20}",
            ("row_steps", "step"),
            lambda: saved.update(row_steps={known: bad_steps}),
        ),
    ]


def of_groups(rng: random.Random, saved: dict[str, Any]) -> Changes:
    groups = saved["groups"]
    group = rng.choice(groups)
    bad = rng.choice([None, "x", math.inf, -math.inf, [1.0], 10**400, True])
    changes: Changes = [
        ("groups None", ("group",), lambda: saved.update(groups=None)),
        ("groups empty", ("group",), groups.clear),
        ("a group more", ("group",), lambda: groups.append(group)),
        ("a group None", ("group",), lambda: groups.__setitem__(0, None)),
        ("group without params", ("params", "group"), lambda: group.pop("params")),
        ("params None", ("param",), lambda: group.update(params=None)),
        ("other params", ("param", "group"), lambda: group["params"].append("nope")),
        ("no hyperparameters", ("hyperparameters",), lambda: group.pop("hyperparameters")),
        ("unknown hyperparameter", ("nope",), lambda: group["hyperparameters"].update(nope=1.0)),
        ("scalars None", ("scalars",), lambda: group.update(scalars=None)),
        ("unknown scalar", ("nope", "scalar"), lambda: group["scalars"].update(nope=1.0)),
        ("schedules None", ("schedules",), lambda: group.update(schedules=None)),
        ("unknown schedule", ("nope", "schedule"), lambda: group["schedules"].update(nope={})),
    ]
    no_number = rng.choice([None, "x", [1.0], True])  # any number may come of gradients that are not finite
    for scalar in group["scalars"]:
        changes += [
            (f"no {scalar}", (scalar,), partial(group["scalars"].pop, scalar)),
            (f"{scalar} {no_number!r}", (scalar,), partial(group["scalars"].__setitem__, scalar, no_number)),
        ]
    for name, told in group["schedules"].items():
        worse: Any = rng.choice([None, {}, [], {**told, "nope": 1.0}, {**told, "value": bad}])
        changes.append(
            (f"{name} was told {worse!r:.60}", (name,), partial(group["schedules"].__setitem__, name, worse))
        )
    return changes


def of_state(rng: random.Random, saved: dict[str, Any]) -> Changes:
    state = saved["state"]
    name = rng.choice(list(saved["state"]))
    changes: Changes = [
        ("state None", ("state",), lambda: saved.update(state=None)),
        ("state as list", ("state",), lambda: saved.update(state=list(state.values()))),
        ("no state of a parameter", (repr(name),), lambda: state.pop(name)),
        ("state of another", ("nope",), lambda: state.update(nope={})),
        ("state of a parameter None", (repr(name),), lambda: state.update({name: None})),
        ("another slot", ("nope",), lambda: state[name].update(nope=np.zeros(1))),
    ]
    for slot, a in state[name].items():
        kinds: list[Any] = [np.int64, complex, object, np.float32 if a.dtype == np.float64 else np.float64]
        kinds.append(np.dtype(f"f{a.itemsize}").newbyteorder())
        bad = rng.choice(
            [
                *(None, "x", 1.0, a.tolist(), a[None], np.ma.masked_array(a)),
                np.zeros(a.shape, rng.choice(kinds)),
                np.zeros((*a.shape, 0), a.dtype),
            ]
        )
        changes += [
            (f"no {slot}", (slot, repr(name)), partial(state[name].pop, slot)),
            (f"{slot} {bad!r:.60}", (slot, repr(name)), partial(state[name].__setitem__, slot, bad)),
        ]
    return changes

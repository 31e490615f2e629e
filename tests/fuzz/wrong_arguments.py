"""Options and hyperparameters that cannot be used, schedules that go wrong, optimizers not to be made."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np

import fusedstep as fs
from tests.fuzz.hostile import ByMethod, failing, lying, not_arrays
from tests.fuzz.mistakes import Mistake, OwnError
from tests.fuzz.subject import Subject
from tests.fuzz.wrong_gradients import good
from tests.helpers.exactly import same_bits

NO_NUMBERS: list[Any] = ["0.1", "", True, np.True_, 0.1j, [0.1], (), {}, np.full(1, 0.1), b"1", ByMethod(0.1)]
NO_BOOLS: list[Any] = [None, 0, 1, 1.0, "True", [True], np.ones(1, bool), math.nan]
HUGE = 10**400

OUTSIDE: dict[str, list[float]] = {
    "[0, inf)": [-1, -5e-324, math.inf],
    "[0, 1)": [-1, -5e-324, 1, 1.5, math.inf],
    "(-inf, 0]": [1, 5e-324],
    "(0, 1)": [-1, 0, 1, 1.5],
    "[0, 1]": [-1, -5e-324, 1 + 2**-52, 1.5, math.inf],
    "(0, inf)": [-1, 0, math.inf],
    "[1, inf)": [0, -1, 1 - 2**-53, math.inf],
    "[1, inf]": [0, -1, 1 - 2**-53],
    "{-1, -0.75, -0.5, -0.25, 0}": [-2, -0.3, 0.5],
    "(-inf, inf)": [math.inf],
}


def bad_value(rng: random.Random, field: Any) -> Any:
    """A value that the hyperparameter does not take; not a schedule."""
    if field.interval is None:
        return rng.choice(NO_BOOLS)
    numbers = [math.nan, -math.inf, -HUGE, *OUTSIDE[field.interval.text]]
    return rng.choice(rng.choice([[*NO_NUMBERS, None], numbers]))


def wrong_option(rng: random.Random, subject: Subject) -> Mistake:
    grads = good(rng, subject)
    numbers = [math.nan, -math.inf, -HUGE]
    of_loss = [*numbers, math.inf, HUGE] if subject.opt.needs_loss else []  # others only look at its type
    name, bad = rng.choice(
        [
            ("scale", rng.choice([*NO_NUMBERS, None, *numbers, math.inf, HUGE])),
            ("loss", rng.choice([*NO_NUMBERS, *of_loss])),
            ("clip_norm", rng.choice([*NO_NUMBERS, *numbers, -1.0, -5e-324])),
            ("clip_value", rng.choice([*NO_NUMBERS, *numbers, -1.0, -5e-324])),
            ("skip_nonfinite", rng.choice(NO_BOOLS)),
            ("zero_grad", rng.choice(NO_BOOLS)),
            ("nope", 1.0),
        ]
    )
    return Mistake(
        f"{name}={bad!r:.50}",
        lambda: subject.opt.step(subject.formed(grads), **{"loss": 20.0, name: bad}),
        (name,),
        given=list(grads.values()),
    )


def wrong_loss(rng: random.Random, subject: Subject) -> Mistake | None:
    """None, or too small, for the rule that needs it."""
    if subject.rule != "Eve":
        return None
    grads, group = good(rng, subject), subject.groups()[0]
    loss = {"loss": -1.7e308} if rng.random() < 0.5 and subject.opt.groups[group]["f_star"] == 0 else {}
    return Mistake(f"{loss} for Eve", lambda: subject.opt.step(subject.formed(grads), **loss), ("loss",))


def wrong_hyperparameter(rng: random.Random, subject: Subject) -> Mistake:
    """Set on the optimizer, on a group, or by a state_dict."""
    opt = subject.opt
    group = rng.randrange(len(opt.groups))
    if rng.random() < 0.1:
        name: str = rng.choice(["nope", "params", "LR", ""])

        def unknown() -> None:
            opt.groups[group][name] = 0.1

        return Mistake(f"unknown {name!r}", unknown, (repr(name),), errors=(KeyError, TypeError, ValueError))
    name, field = rng.choice(list(fs.rules[subject.rule]._fields.items()))
    value = bad_value(rng, field)

    def by_checkpoint() -> None:
        saved = opt.state_dict()
        saved["groups"][group]["hyperparameters"][name] = value
        saved["t"] += 1
        opt.load_state_dict(saved)

    ways: list[Callable[[], Any]] = [
        lambda: setattr(opt, name, value),
        lambda: opt.groups[group].__setitem__(name, value),
        by_checkpoint,
    ]
    way = rng.randrange(3)
    return Mistake(f"{name}={value!r:.50} by way {way}", ways[way], (name,))


def wrong_schedule(rng: random.Random, subject: Subject) -> Mistake:
    """It raises, or returns what the hyperparameter does not take, or steps the optimizer itself."""
    opt, grads = subject.opt, good(rng, subject)
    fields = fs.rules[subject.rule]._fields.items()
    names = [name for name, field in fields if field.interval and not field.interval.fixed]
    name = rng.choice(names)
    group = opt.groups[rng.choice(subject.groups())]
    kept, value = group[name], bad_value(rng, fs.rules[subject.rule]._fields[name])
    step = subject.formed(grads)

    def raising(_: int) -> float:
        raise OwnError

    def starting(_: int) -> float:
        opt.step(step, loss=20.0)
        return 0.1

    def loading(_: int) -> float:
        opt.load_state_dict(opt.state_dict())
        return 0.1

    kinds: list[tuple[Callable[[int], Any], str]] = [
        (lambda _: value, name),
        (raising, ""),
        (starting, "step"),
        (loading, "step"),
    ]
    schedule, named = rng.choice(kinds)

    def attempt() -> None:
        group[name] = schedule
        try:
            opt.step(step, loss=20.0)
        finally:
            group[name] = kept

    return Mistake(
        f"{name} scheduled as {schedule.__name__}, value {value!r:.50}",
        attempt,
        (named, f"{name}="),  # some need other state
        errors=(TypeError, ValueError, RuntimeError),
        given=list(grads.values()),
    )


def wrong_optimizer(rng: random.Random, subject: Subject) -> Mistake:
    """Made of the same parameters, with something wrong."""
    arrays = {name: p.array for name, p in subject.params.items()}
    name = rng.choice(list(arrays))
    p = arrays[name]
    rule: Any = fs.rules[subject.rule]
    field = rng.choice(list(rule._fields))
    value = bad_value(rng, rule._fields[field])
    frozen = p.view()
    frozen.flags.writeable = False
    label = f"parameter {name!r}"
    cases: list[tuple[str, Callable[[], Any], tuple[str, ...]]] = [
        (f"{field}={value!r:.50}", lambda: rule(subject.formed(arrays), **{field: value}), (field,)),
        ("backend", lambda: rule(arrays, backend="nope"), ("backend",)),
        ("state_dtype", lambda: rule(arrays, state_dtype="int32"), ("state_dtype",)),
        ("state_dtype", lambda: rule(arrays, state_dtype=">f4"), ("state_dtype",)),
        ("unknown", lambda: rule(arrays, nope=1.0), ("nope",)),
        ("read-only", lambda: rule({**arrays, name: frozen}), (label,)),
        ("integers", lambda: rule({**arrays, name: np.zeros(3, int)}), (label,)),
        ("byte order", lambda: rule({**arrays, name: np.zeros(3, ">f4")}), (label,)),
        ("no parameters", lambda: rule([]), ("param",)),
        ("None", lambda: rule(None), ("param",)),
        ("groups of None", lambda: rule([{"params": arrays}, {"params": None}]), ("param",)),
    ]
    cases += [
        (kind, lambda bad=bad: rule({**arrays, name: bad}), (label,))  # type: ignore[misc]
        for kind, bad in not_arrays(np.zeros(3)).items()
    ]
    if p.size:
        cases += [
            ("the same twice", lambda: rule({"a": p, "b": p}), ("parameter 'a'", "parameter 'b'")),
            ("overlap", lambda: rule({"a": p, "b": p[..., None][..., ::-1]}), ("share",)),
        ]
    if p.size > 1:
        cases.append(("broadcast", lambda: rule(np.broadcast_to(np.zeros(1), p.shape)), ("parameter 0",)))
    what, attempt, named = rng.choice(cases)
    return Mistake(f"new optimizer: {what}", attempt, named)


def hostile_parameter(rng: random.Random, subject: Subject) -> Mistake:
    """A parameter of a new optimizer is a hostile subclass; it may be seen through."""
    rule: Any = fs.rules[subject.rule]
    p = np.ones(rng.choice([(3,), (2, 3), ()]), rng.choice([np.float32, np.float64]))
    honest, g = p.copy(), np.ones_like(p)
    what, liar = rng.choice([lying, failing])(rng, p)

    def attempt() -> None:
        rule(liar, backend=subject.backend).step(g, loss=20.0)

    def compared(_: Subject) -> None:
        rule(honest, backend=subject.backend).step(g, loss=20.0)
        assert same_bits(p, honest), "the step was another one"

    return Mistake(
        f"parameter is hostile: {what}", attempt, ("parameter 0", "gradient 0"), honest=compared, given=[p]
    )


def wrong_mode(rng: random.Random, subject: Subject) -> Mistake | None:
    """A step of a schedule-free rule that is not training."""
    if not subject.rule.startswith("ScheduleFree"):
        return None
    opt, grads = subject.opt, good(rng, subject)
    return Mistake(
        "step while evaluating",
        lambda: evaluated(opt, subject, grads),
        ("eval", "train"),
        errors=(RuntimeError,),
    )


def evaluated(opt: Any, subject: Subject, grads: Any) -> None:
    """Try the step; switching there and back would round the parameters, so they are put back."""
    params = {name: p.memory.copy() for name, p in subject.params.items()}
    opt.eval()
    try:
        opt.step(subject.formed(grads))
    finally:
        opt.train()
        for name, memory in params.items():
            subject.params[name].memory[...] = memory

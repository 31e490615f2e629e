"""A step is a transaction: an exception at any moment leaves all as it was, or all as it is after the step.

What comes next has the bits that it has from there. Every rule, on both backends, with all that a step can
do; of each kind of rule one is interrupted at every event in the package's code, others at some.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import schedules
from fusedstep.engine.step import AHEAD
from tests.helpers.choices import Options, takes_16_bits
from tests.helpers.engines import DTYPES, normal, with_gaps
from tests.helpers.examples import Array, drawn, groups_of, in_groups, step
from tests.helpers.interrupts import (
    FEWER,
    Expected,
    Seen,
    Trial,
    at_every_event,
    differences,
    flat,
    of_optimizer,
    report,
)

KINDS = ["AdamW", "Eve", "Prodigy", "NovoGrad", "LAMB", "RowwiseAdagrad", "Adafactor", "Muon"]
"""Of numbers an element, a group, a tensor, a row; with the loss, sums, and directions of matrices."""

OF_ROWS = [rule for rule in fs.rules if fs.rules[rule].steps_rows]
NUMBER = {rule: i for i, rule in enumerate(fs.rules)}
ALL: Options = {"clip_norm": 1.0, "clip_value": 0.8, "zero_grad": True, "skip_nonfinite": True, "scale": 0.5}
TABLES = [(4, 3), (5,)]  # which of the parameters' shapes are stepped by rows

each_rule = pytest.mark.parametrize("rule", fs.rules)
each_kind = pytest.mark.parametrize("rule", KINDS)
each_of_rows = pytest.mark.parametrize("rule", OF_ROWS)
groups_once = cache(groups_of)


class Failure(Exception):  # noqa: N818
    """What no one but these tests raises, and an `except Exception` would catch."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Others wait for work by spinning."""
    fs.set_num_threads(1)


def tensors(rule: str) -> list[Array]:
    """Matrices and a vector, which has gaps; of some formats."""
    kinds = ["float32", "float16", "bfloat16"] if takes_16_bits(rule) else ["float32"] * 3
    one, two, three = (DTYPES[kind] for kind in kinds)
    return [normal(0, (4, 3), one), with_gaps(normal(1, (5,), two)), normal(2, (2, 3), three)]


def gradients(rule: str, t: int, *, count: int = 3, rows: bool = False) -> dict[int, Any]:
    """At even steps None for one; otherwise in memory than their parameters; of rows that are named twice."""
    found: dict[int, Any] = {}
    for i, p in enumerate(tensors(rule)[:count]):
        shape = (3, *p.shape[1:]) if rows and p.shape in TABLES else p.shape
        g = np.asfortranarray(drawn(rule, t, 10 * t + i, shape, p.dtype))
        found[i] = fs.Rows(np.array([2, 0, 2]), np.ascontiguousarray(g)) if shape != p.shape else g
    return found | ({2: None} if t % 2 == 0 and count > 2 else {})


def shown(grads: dict[int, Any]) -> Any:
    """What there is to see of gradients, those of rows too."""
    return {i: [g.indices, g.values] if isinstance(g, fs.Rows) else g for i, g in grads.items()}


class Run:
    """An optimizer that has made some steps: two groups that differ, an average, a schedule."""

    def __init__(
        self, rule: str, backend: Any, *, lr: Any = 0.1, plain: bool = False, steps: int = 1, count: int = 3
    ) -> None:
        self.p = tensors(rule)[:count]
        options: list[Options] = [{}, {}] if plain else groups_once(rule)[:2]
        self.opt: Any = fs.rules[rule](in_groups(self.p, options), backend=backend, ema=0.5, lr=lr)
        for t in range(steps):
            step(self.opt, gradients(rule, t, count=count))
        self.start, self.saved = [p.copy() for p in self.p], self.opt.state_dict()

    def see(self) -> Seen:
        return flat("p", self.p) | of_optimizer(self.opt)

    def put_back(self) -> None:
        for p, start in zip(self.p, self.start, strict=True):
            p[...] = start
        self.opt.load_state_dict(self.saved)


def same_run(*options: Any, **more: Any) -> Callable[[], Run]:
    """One run for all trials, so that it lives through them all; a new one once it cannot be put back."""
    new = partial(Run, *options, **{"lr": schedules.Step(0.05, every=2), **more})
    run, start = new(), new().see()

    def again() -> Run:
        nonlocal run
        with suppress(Exception):
            run.put_back()
            if not differences(run.see(), start):
                return run
        run = new()
        return run

    return again


def stepping(
    rule: str,
    backend: Any,
    *,
    spoilt: Any = None,
    rows: bool = False,
    steps: int = 1,
    count: int = 3,
    **options: Any,
) -> Callable[[], Trial]:
    """Steps with these options; `spoilt` takes the place of the first element of the first gradient."""
    again = same_run(rule, backend, plain=rows, steps=steps, count=count)

    def make() -> Trial:
        run = again()
        grads, then = (gradients(rule, t, count=count, rows=rows) for t in (2, 3))
        if spoilt is not None:
            grads[0][0, 0] = spoilt
        return Trial(
            act=lambda: step(run.opt, grads, **options),
            see=lambda: run.see() | flat("gradients", shown(grads)),
            go_on=lambda: step(run.opt, then, **options),
        )

    return make


def pace(rule: str, backend: str, native: int, numpy: int) -> Options:
    """Some of the events: from one that differs from rule to rule, every so many."""
    stride = FEWER * (native if backend == "native" else numpy)
    return {"first": 1 + NUMBER[rule] % stride, "stride": stride}


# Steps


@each_kind
def test_a_step_at_every_event(rule: str, backend: Any) -> None:
    """Of two parameters on the backend whose step is as long as its formulas."""
    count = 3 if backend == "native" else 2
    assert at_every_event(stepping(rule, backend, count=count, **ALL), **pace(rule, backend, 1, 1)) > 100


@each_rule
def test_a_step(rule: str, backend: Any) -> None:
    """Without options too, and with an exception that `except Exception` catches."""
    at_every_event(stepping(rule, backend), error=Failure, **pace(rule, backend, 3, 29))
    if rule not in KINDS:
        at_every_event(stepping(rule, backend, **ALL), **pace(rule, backend, 1, 13))


@each_kind
def test_a_first_step(rule: str, backend: Any) -> None:
    at_every_event(stepping(rule, backend, steps=0, **ALL), **pace(rule, backend, 2, 17))


@pytest.mark.parametrize(("steps", "computes"), [(1, AHEAD), (2, 0)], ids=["looks", "is seen"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0, "zero_grad": True}], ids=["plain", "clipped"])
@pytest.mark.parametrize("rule", ["AdamW", "Momentum"])
def test_steps_whose_coefficients_are_computed_ahead(
    rule: str, options: Options, steps: int, computes: int
) -> None:
    cls: Any = fs.rules[rule]
    computed: list[int] = []

    class Watched(cls):  # type: ignore[misc]
        @classmethod
        def coefficients(cls, h: Any, t: int) -> Any:
            computed.append(t)
            return super().coefficients(h, t)

    def make() -> Trial:
        p = [np.ones((4, 3), np.float32), np.ones(5, np.float32)]
        opt = Watched(p)
        for _ in range(steps):
            opt.step([0.5 * a for a in p])
        grads, then = [0.25 * a for a in p], [2 * a for a in p]
        computed.clear()
        return Trial(
            act=lambda: opt.step(grads, **options),
            see=lambda: flat("p", p) | of_optimizer(opt) | flat("gradients", grads),
            go_on=lambda: opt.step(then, **options),
        )

    at_every_event(make)
    make().act()
    assert len(computed) == computes


@each_kind
def test_a_step_at_instructions(rule: str, backend: Any) -> None:
    at_every_event(stepping(rule, backend, **ALL), opcodes=True, **pace(rule, backend, 17, 97))


@each_kind
@pytest.mark.parametrize("zero_grad", [False, True])
def test_a_step_that_is_skipped(rule: str, zero_grad: bool, backend: Any) -> None:
    make = stepping(rule, backend, spoilt=np.nan, skip_nonfinite=True, zero_grad=zero_grad)
    at_every_event(make, **pace(rule, backend, 3, 17))


@each_of_rows
def test_a_step_of_rows_beside_others(rule: str, backend: Any) -> None:
    make = stepping(rule, backend, rows=True, clip_norm=1.0, zero_grad=True)
    at_every_event(make, **pace(rule, backend, 1, 13))


@each_of_rows
def test_step_rows(rule: str, backend: Any) -> None:
    again = same_run(rule, backend, plain=True)

    def make() -> Trial:
        run = again()
        run.opt.step_rows(1, [4], normal(7, (1,), DTYPES["float16"]))
        g = normal(8, (3, 3), DTYPES["float32"])
        act = lambda: run.opt.step_rows(0, [3, 1, 3], g, clip_norm=1.0, skip_nonfinite=True)  # noqa: E731
        return Trial(act, see=run.see, go_on=act)

    at_every_event(make, **pace(rule, backend, 1, 5))


@each_kind
def test_a_step_that_is_refused(rule: str, backend: Any) -> None:
    """What an error leaves as it was, an interrupt on its way does too."""

    again = same_run(rule, backend)

    def make() -> Trial:
        run, grads = again(), gradients(rule, 2)

        def act() -> None:
            with pytest.raises(ValueError, match="shape"):
                step(run.opt, {**grads, 1: np.ones((7, 7), np.float16)}, zero_grad=True)

        def see() -> Seen:
            return run.see() | flat("gradients", grads)

        return Trial(act, see, go_on=lambda: step(run.opt, grads))

    at_every_event(make, **pace(rule, backend, 3, 3))


# What else changes an optimizer


@each_kind
def test_loading(rule: str, backend: Any) -> None:
    """What a schedule was told is part of it."""
    told = schedules.Plateau(0.05, patience=0)
    other = Run(rule, "native", lr=told, steps=2)
    for figure in (1.0, 2.0):
        told.observe(figure)
    other.opt.groups[1]["weight_decay"] = 0.3
    saved, grads = other.opt.state_dict(), gradients(rule, 3)
    again = same_run(rule, backend, lr=schedules.Plateau(0.05, patience=0))

    def make() -> Trial:
        run = again()
        return Trial(lambda: run.opt.load_state_dict(saved), run.see, lambda: step(run.opt, grads))

    at_every_event(make, **pace(rule, backend, 11, 23))


@pytest.mark.parametrize("value", [0.25, schedules.Step(0.25, every=2)], ids=str)
@pytest.mark.parametrize("name", ["lr", "weight_decay", "maximize", "ema"])
def test_a_hyperparameter_of_all_groups(name: str, value: Any, backend: Any) -> None:
    value = True if name == "maximize" else value

    def make() -> Trial:
        run = Run("AdamW", backend, lr=0.1)
        grads = gradients("AdamW", 2)
        return Trial(lambda: setattr(run.opt, name, value), run.see, lambda: step(run.opt, grads))

    at_every_event(make)


@pytest.mark.parametrize("rule", [rule for rule in fs.rules if hasattr(fs.rules[rule], "eval")])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_modes_of_schedule_free_rules(rule: str, mode: str, backend: Any) -> None:
    def make() -> Trial:
        run = Run(rule, backend, lr=0.1)
        if mode == "train":
            run.opt.eval()

        def go_on() -> None:
            run.opt.train()
            step(run.opt, gradients(rule, 2))

        return Trial(getattr(run.opt, mode), run.see, go_on)

    at_every_event(make)


# What raises in earnest


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no such timers")
@each_kind
def test_signals(rule: str, backend: Any) -> None:
    """A timer's handler raises, wherever the step is then."""
    make = stepping(rule, backend, **ALL)
    expected = Expected(make)
    whole = min(timed(make().act) for _ in range(3))
    rng, torn, tried = random.Random(NUMBER[rule]), [], 0
    end = time.perf_counter() + 0.1
    previous = signal.signal(signal.SIGALRM, fail)
    try:
        while time.perf_counter() < end:
            trial, wait = make(), rng.uniform(1e-6, whole)
            if alarmed(trial.act, wait):
                tried += 1
                if complaint := expected.complaint(trial):
                    torn.append(f"after {1e6 * wait:.0f} µs: {complaint}")
    finally:
        signal.signal(signal.SIGALRM, previous)
    report(torn, tried)


def timed(act: Callable[[], object]) -> float:
    begin = time.perf_counter()
    act()
    return time.perf_counter() - begin


def fail(*_: object) -> None:
    raise Failure


def alarmed(act: Callable[[], object], wait: float) -> bool:
    """Act; whether it was interrupted, once and after so many seconds."""
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, wait)
            act()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Failure:
        return True
    return False
